//! The simulated disk: late, out of order, failing, silent, and forgetful when the power goes.
//!
//! A write takes effect block by block at moments between its submission and its completion; a read sees each
//! block as it is at such a moment. What a power cut leaves of a block is one of the values it had since it was
//! last made durable, as the seed decides.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use spindle_bdev::{
    Bdev, BdevInfo, BlockError, BlockIo, ChannelSeed, CoreEnv, IoChannel, IoCx, IoDone, IoFlags, IoKey,
    IoResult, Op, OpenError, Provisioning, ResizeError,
};
use spindle_mem::{Sgv, SgvPool, ShareId};
use spindle_reactor::{CoreId, Tick, WakeSet};

use crate::trace;

/// How a disk behaves.
#[derive(Clone, Debug)]
pub struct DiskProfile {
    /// Logical block, in bytes.
    pub block_bytes: u32,
    /// Capacity.
    pub blocks: u64,
    /// Completed writes are lost by a power cut until they are flushed.
    pub write_cache: bool,
    /// Operations one channel takes at once.
    pub depth: u32,
    /// Least and greatest time of an operation, in microseconds.
    pub latency_us: (u64, u64),
    /// One operation in so many fails; 0: none.
    pub error_one_in: u32,
    /// One operation in so many takes seconds; 0: none.
    pub silence_one_in: u32,
    /// An operation that has not begun can be taken back by an abort.
    pub cancels: bool,
    /// Deallocated blocks read as zeros.
    pub unmap_zeroes: bool,
    /// One READ or WRITE in so many that may be over at once is; 0: none.
    pub at_once_one_in: u32,
}

/// Told of every block as a write reaches it: the oracle's eye on the disk. An error is the oracle's complaint.
pub type Watcher = Box<dyn FnMut(Tick, u64, &[u8]) -> Result<(), String> + Send>;

/// Told of every flush as it is submitted.
pub type FlushWatcher = Box<dyn FnMut() + Send>;

/// A value a block had, and whose.
struct Version {
    bytes: Arc<[u8]>,
    op: u64,
}

struct Block {
    /// What is surely there after a power cut, unless a later version is.
    durable: Arc<[u8]>,
    /// Newer ones, oldest first.
    since: Vec<Version>,
}

impl Block {
    fn now(&self) -> &Arc<[u8]> {
        self.since.last().map_or(&self.durable, |v| &v.bytes)
    }
}

struct Running {
    id: u64,
    channel: usize,
    io: BlockIoBox,
    /// Blocks still to be moved, and when the next of them are.
    left: Vec<u32>,
    effect_at: Tick,
    done_at: Tick,
    result: IoResult,
    /// For a flush: so many writes had completed when it was submitted.
    covers: u64,
    begun: bool,
}

// The disk is shared by reference between cores of one thread; a `BlockIo` is `Send`.
type BlockIoBox = Box<BlockIo>;

/// What is on the disk and what is on its way.
pub struct DiskState {
    name: String,
    profile: DiskProfile,
    rng: Rng,
    now: Tick,
    blocks: Vec<Block>,
    zero: Arc<[u8]>,
    running: Vec<Running>,
    ended: Vec<VecDeque<IoDone>>,
    in_flight: Vec<u32>,
    next_op: u64,
    /// Writes that have completed, numbered in the order of their ends.
    completed: HashMap<u64, u64>,
    calm: bool,
    watcher: Option<Watcher>,
    flush_watcher: Option<FlushWatcher>,
    complaint: Option<String>,
    /// Operations so far: all, failed, silent, cancelled.
    pub counts: DiskCounts,
}

/// What a disk has been through.
#[derive(Clone, Copy, Default, Debug)]
pub struct DiskCounts {
    /// Operations accepted.
    pub ops: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that took seconds.
    pub silences: u64,
    /// Those taken back.
    pub cancelled: u64,
    /// Those handed back because the queue was full.
    pub refused: u64,
    /// Reads and writes done at once.
    pub at_once: u64,
}

/// A disk as the control plane holds it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<DiskState>>);

impl SimDisk {
    /// A disk full of zeros.
    pub fn new(name: &str, profile: DiskProfile, rng: Rng) -> SimDisk {
        let zero: Arc<[u8]> = vec![0; profile.block_bytes as usize].into();
        let blank = || Block { durable: zero.clone(), since: Vec::new() };
        SimDisk(Arc::new(Mutex::new(DiskState {
            name: name.to_owned(),
            blocks: (0..profile.blocks).map(|_| blank()).collect(),
            profile,
            rng,
            now: Tick::ZERO,
            zero: zero.clone(),
            running: Vec::new(),
            ended: Vec::new(),
            in_flight: Vec::new(),
            next_op: 1,
            completed: HashMap::new(),
            calm: false,
            watcher: None,
            flush_watcher: None,
            complaint: None,
            counts: DiskCounts::default(),
        })))
    }

    /// The state; there is one thread, so nobody ever waits.
    pub fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The descriptor by which a channel of a core is woken. Not a real one.
pub const fn wake_fd(core: usize) -> RawFd {
    2_000_000 + core as RawFd
}

impl DiskState {
    /// Shows every block that is written to `watcher`, and tells `flush_watcher` of every flush that begins.
    pub fn watch(&mut self, watcher: Watcher, flush_watcher: FlushWatcher) {
        self.watcher = Some(watcher);
        self.flush_watcher = Some(flush_watcher);
    }

    /// What the watcher found, once.
    pub fn complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// From now on no errors and no silences; operations that are silent end soon.
    pub fn calm(&mut self) {
        self.calm = true;
        let soon = self.now + Duration::from_millis(1);
        for op in &mut self.running {
            op.effect_at = op.effect_at.min(soon);
            op.done_at = op.done_at.min(soon + Duration::from_millis(1));
        }
    }

    /// The end of calm.
    pub fn unrest(&mut self) {
        self.calm = false;
    }

    /// The content of a block, as a read would find it now.
    pub fn block(&self, lba: u64) -> &[u8] {
        self.blocks[lba as usize].now()
    }

    /// Capacity in blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Operations under way, over all channels.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Whether a core has completions to take.
    pub fn has_news(&self, core: usize) -> bool {
        self.ended.get(core).is_some_and(|line| !line.is_empty())
    }

    /// When something happens next.
    pub fn next(&self) -> Option<Tick> {
        self.running.iter().map(|op| if op.left.is_empty() { op.done_at } else { op.effect_at }).min()
    }

    /// The power goes: what runs is gone, and of every block one of its values since it was durable stays.
    /// Buffers of running operations are forgotten with the memory of the machine.
    pub fn power_cut(&mut self) {
        for op in self.running.drain(..) {
            std::mem::forget(op.io);
        }
        for line in &mut self.ended {
            line.drain(..).for_each(std::mem::forget);
        }
        self.in_flight.fill(0);
        for block in &mut self.blocks {
            let choice = self.rng.usize(0..=block.since.len());
            if choice > 0 {
                block.durable = block.since[choice - 1].bytes.clone();
            }
            block.since.clear();
        }
        self.completed.clear();
    }

    /// Lets everything happen that is due at `now`.
    pub fn advance(&mut self, now: Tick) {
        self.now = now;
        loop {
            let due = |op: &Running| if op.left.is_empty() { op.done_at } else { op.effect_at };
            let next = (0..self.running.len()).min_by_key(|&n| (due(&self.running[n]), self.running[n].id));
            let Some(n) = next.filter(|&n| due(&self.running[n]) <= now) else { return };
            if self.running[n].left.is_empty() {
                self.complete(n);
            } else {
                self.effect(n);
            }
        }
    }

    fn submit(&mut self, core: usize, io: BlockIo) -> Result<(), BlockIo> {
        if self.in_flight[core] >= self.profile.depth {
            self.counts.refused += 1;
            return Err(io);
        }
        self.in_flight[core] += 1;
        self.counts.ops += 1;
        if let (Op::Flush, Some(watcher)) = (io.op, &mut self.flush_watcher) {
            watcher();
        }
        let id = self.next_op;
        self.next_op += 1;
        let end = io.lba.checked_add(u64::from(io.blocks));
        let fits = end.is_some_and(|end| end <= self.blocks.len() as u64) || matches!(io.op, Op::Flush);
        let (least, most) = self.profile.latency_us;
        let took = Duration::from_micros(self.rng.u64(least..=most));
        let (mut result, mut wait) = (IoResult::Ok, Duration::ZERO);
        let one_in = |rng: &mut Rng, n: u32| n > 0 && rng.u32(0..n) == 0;
        if !self.calm && one_in(&mut self.rng, self.profile.silence_one_in) {
            wait = Duration::from_millis(self.rng.u64(500..20_000));
            self.counts.silences += 1;
            trace!("{}: op {id} {:?} is silent for {wait:?}", self.name, io.op);
        }
        if !fits {
            result = IoResult::Err(BlockError::OutOfRange);
        } else if !self.calm && one_in(&mut self.rng, self.profile.error_one_in) {
            self.counts.errors += 1;
            result = IoResult::Err(match io.op {
                Op::Read | Op::Verify | Op::Extent => BlockError::MediumRead,
                Op::Flush => BlockError::Os(5),
                _ => *self
                    .rng
                    .choice([BlockError::MediumWrite, BlockError::NoSpace, BlockError::Os(5)].iter())
                    .expect("not empty"),
            });
        }
        let mut left: Vec<u32> = match io.op {
            Op::Flush | Op::Extent | Op::Verify => Vec::new(),
            _ if !fits => Vec::new(),
            _ => (0..io.blocks).collect(),
        };
        if result != IoResult::Ok && !left.is_empty() {
            // A failed operation has moved some of its blocks.
            let keep = self.rng.usize(0..=left.len());
            self.rng.shuffle(&mut left);
            left.truncate(keep);
        }
        if self.rng.bool() {
            self.rng.shuffle(&mut left);
        }
        let effect_at = self.now + wait + took.mul_f64(self.rng.f64() * 0.9);
        let done_at = self.now + wait + took;
        // What completes from now on is not covered by a flush that is submitted now.
        let covers = self.completed.len() as u64;
        trace!(
            "{}: op {id} core {core} key {:x} {:?} lba {} +{} {:?}",
            self.name, io.key.0, io.op, io.lba, io.blocks, io.flags
        );
        let io = Box::new(io);
        self.running.push(Running {
            id,
            channel: core,
            io,
            left,
            effect_at,
            done_at,
            result,
            covers,
            begun: false,
        });
        Ok(())
    }

    /// Whether something is done at once, if it lies on the disk and is no longer than its vector.
    fn at_once(&mut self, lba: u64, blocks: u32, bytes: u32) -> bool {
        let inside = lba.checked_add(u64::from(blocks)).is_some_and(|end| end <= self.blocks.len() as u64);
        let one_in = self.profile.at_once_one_in;
        let now = inside
            && u64::from(bytes) == u64::from(blocks) * u64::from(self.profile.block_bytes)
            && one_in > 0
            && self.rng.u32(0..one_in) == 0;
        self.counts.at_once += u64::from(now);
        now
    }

    fn read_at_once(&mut self, lba: u64, data: &mut Sgv) {
        for (n, block) in self.blocks[lba as usize..].iter().enumerate() {
            let at = n as u32 * self.profile.block_bytes;
            if at >= data.len() {
                return;
            }
            data.copy_from(at, block.now());
        }
    }

    fn write_at_once(&mut self, lba: u64, blocks: u32, data: &Sgv, flags: IoFlags) {
        let id = self.next_op;
        self.next_op += 1;
        trace!("{}: op {id} Write lba {lba} +{blocks} {flags:?} at once", self.name);
        for n in 0..blocks {
            let mut bytes = vec![0; self.profile.block_bytes as usize];
            data.copy_to(n * self.profile.block_bytes, &mut bytes);
            self.store(lba + u64::from(n), bytes.into(), id);
        }
        let flags = if self.profile.write_cache { flags } else { IoFlags::FUA };
        self.written(id, lba..lba + u64::from(blocks), flags.has(IoFlags::FUA));
    }

    /// A write has completed; its blocks are durable, too, if it says so.
    fn written(&mut self, id: u64, range: Range<u64>, durable: bool) {
        let nth = self.completed.len() as u64;
        self.completed.insert(id, nth);
        for lba in range.filter(|_| durable) {
            if let Some(block) = self.blocks.get_mut(lba as usize) {
                settle(block, |v| v.op == id);
            }
        }
    }

    /// A block gets a new value.
    fn store(&mut self, lba: u64, bytes: Arc<[u8]>, op: u64) {
        // A shrunk unit: who reaches beyond its end has been told of.
        let Some(block) = self.blocks.get_mut(lba as usize) else { return };
        if let Some(watcher) = &mut self.watcher
            && let Err(complaint) = watcher(self.now, lba, &bytes)
        {
            self.complaint.get_or_insert(complaint);
        }
        block.since.push(Version { bytes, op });
        if block.since.len() > 24 {
            // The cache wrote this one back by itself.
            block.durable = block.since.remove(0).bytes;
        }
    }

    fn effect(&mut self, n: usize) {
        let block_bytes = self.profile.block_bytes;
        let op = &mut self.running[n];
        op.begun = true;
        // A part of it now, the rest later: large transfers tear between blocks.
        let take = if op.left.len() > 1 && self.rng.bool() {
            self.rng.usize(1..=op.left.len())
        } else {
            op.left.len()
        };
        let part: Vec<u32> = op.left.drain(..take).collect();
        if !op.left.is_empty() {
            let span = op.done_at.since(op.effect_at).mul_f64(self.rng.f64());
            op.effect_at = op.effect_at + span;
        }
        let id = op.id;
        let mut stored = Vec::new();
        for n in part {
            let lba = op.io.lba + u64::from(n);
            let at = op.io.at + n * block_bytes;
            let Some(block) = self.blocks.get(lba as usize) else {
                // The unit has shrunk, and promised before that nothing of the kind is under way.
                let why = format!("op {} {:?} reaches block {lba}, which is gone", op.id, op.io.op);
                self.complaint.get_or_insert(why);
                continue;
            };
            let bytes = match op.io.op {
                Op::Read => {
                    if let Some(data) = op.io.data.as_mut() {
                        data.copy_from(at, block.now());
                    }
                    continue;
                }
                Op::Write => {
                    let mut bytes = vec![0; block_bytes as usize];
                    if let Some(data) = &op.io.data {
                        data.copy_to(at, &mut bytes);
                    }
                    bytes.into()
                }
                Op::Unmap if !self.profile.unmap_zeroes => continue,
                _ => self.zero.clone(),
            };
            stored.push((lba, bytes));
        }
        for (lba, bytes) in stored {
            self.store(lba, bytes, id);
        }
    }

    fn complete(&mut self, n: usize) {
        let op = self.running.swap_remove(n);
        trace!("{}: op {} ends {:?}", self.name, op.id, op.result);
        let ok = op.result == IoResult::Ok;
        let durable = op.io.flags.has(IoFlags::FUA) || !self.profile.write_cache;
        match op.io.op {
            Op::Flush if ok => {
                for block in &mut self.blocks {
                    settle(block, |v| self.completed.get(&v.op).is_some_and(|nth| *nth < op.covers));
                }
            }
            Op::Write | Op::Unmap | Op::WriteZeroes => {
                let range = op.io.lba..op.io.lba + u64::from(op.io.blocks);
                self.written(op.id, range, durable && ok);
            }
            _ => {}
        }
        let result = match (op.io.op, op.result) {
            (Op::Extent, IoResult::Ok) => {
                IoResult::Extent { state: Provisioning::Mapped, blocks: op.io.blocks.max(1) }
            }
            (_, result) => result,
        };
        self.ended[op.channel].push_back(IoDone::of(*op.io, result));
    }

    fn abort(&mut self, core: usize, key: IoKey) {
        let cancels = self.profile.cancels;
        let Some(op) = self.running.iter_mut().find(|op| op.channel == core && op.io.key == key) else {
            return;
        };
        if cancels && !op.begun && !op.left.is_empty() {
            op.left.clear();
            op.result = IoResult::Err(BlockError::Aborted);
            op.done_at = self.now + Duration::from_micros(self.rng.u64(1..200));
            self.counts.cancelled += 1;
        }
    }
}

/// Everything up to the newest version that `covered` names becomes durable.
fn settle(block: &mut Block, covered: impl Fn(&Version) -> bool) {
    if let Some(last) = block.since.iter().rposition(covered) {
        let version = block.since.drain(..=last).next_back().expect("at least the one that was found");
        block.durable = version.bytes;
    }
}

impl Bdev for SimDisk {
    fn info(&self) -> BdevInfo {
        let state = self.lock();
        let profile = &state.profile;
        let mut uuid = [7; 16];
        uuid[..state.name.len().min(16)].copy_from_slice(&state.name.as_bytes()[..state.name.len().min(16)]);
        BdevInfo {
            name: state.name.clone(),
            uuid,
            block_bytes: profile.block_bytes,
            physical_exponent: 0,
            lowest_aligned: 0,
            blocks: state.blocks.len() as u64,
            write_cache: profile.write_cache,
            read_only: false,
            rotation_rate: 1,
            unmap: true,
            unmap_zeroes: profile.unmap_zeroes,
            unmap_granularity: 1,
            unmap_alignment: 0,
            optimal_granularity: 0,
            optimal_transfer: 0,
            transfer_max: 0,
            lends: false,
        }
    }

    fn driver(&self) -> &'static str {
        "sim"
    }

    fn prepare(&self, core: CoreId) -> Result<Box<dyn ChannelSeed>, OpenError> {
        Ok(Box::new(SimSeed { disk: self.clone(), core: core.index() }))
    }

    fn resize(&self, blocks: Option<u64>) -> Result<u64, ResizeError> {
        let mut state = self.lock();
        let Some(blocks) = blocks else { return Ok(state.blocks.len() as u64) };
        let zero = state.zero.clone();
        state.blocks.resize_with(blocks as usize, || Block { durable: zero.clone(), since: Vec::new() });
        Ok(blocks)
    }
}

struct SimSeed {
    disk: SimDisk,
    core: usize,
}

impl ChannelSeed for SimSeed {
    fn bind(self: Box<Self>, _env: &mut CoreEnv<'_>) -> Result<Box<dyn IoChannel>, OpenError> {
        let mut state = self.disk.lock();
        while state.in_flight.len() <= self.core {
            state.in_flight.push(0);
            state.ended.push(VecDeque::new());
        }
        drop(state);
        Ok(Box::new(SimChannel { disk: self.disk.clone(), core: self.core }))
    }
}

struct SimChannel {
    disk: SimDisk,
    core: usize,
}

impl IoChannel for SimChannel {
    fn submit(&mut self, io: BlockIo, cx: &mut IoCx<'_>) -> Result<(), BlockIo> {
        let mut state = self.disk.lock();
        state.now = cx.now;
        state.submit(self.core, io)
    }

    fn serves_at_once(&self) -> bool {
        true
    }

    fn read_at_once(&mut self, lba: u64, blocks: u32, pool: &mut SgvPool) -> Option<Sgv> {
        let mut state = self.disk.lock();
        let bytes = blocks.checked_mul(state.profile.block_bytes)?;
        state.at_once(lba, blocks, bytes).then_some(())?;
        let mut data = pool.take(bytes, ShareId::default())?;
        state.read_at_once(lba, &mut data);
        Some(data)
    }

    fn write_at_once(
        &mut self,
        lba: u64,
        blocks: u32,
        data: &mut Sgv,
        flags: IoFlags,
        _: &mut SgvPool,
    ) -> bool {
        let mut state = self.disk.lock();
        let now = state.at_once(lba, blocks, data.len());
        if now {
            state.write_at_once(lba, blocks, data, flags);
        }
        now
    }

    fn poll(&mut self, cx: &mut IoCx<'_>) -> u32 {
        let mut state = self.disk.lock();
        let before = cx.done.len();
        while let Some(done) = state.ended[self.core].pop_front() {
            state.in_flight[self.core] -= 1;
            cx.done.push(done);
        }
        (cx.done.len() - before) as u32
    }

    fn abort(&mut self, key: IoKey) {
        self.disk.lock().abort(self.core, key);
    }

    fn in_flight(&self) -> u32 {
        self.disk.lock().in_flight[self.core]
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        if !wake.fds().contains(&wake_fd(self.core)) {
            wake.fd(wake_fd(self.core));
        }
        !self.disk.lock().has_news(self.core)
    }
}

#[cfg(test)]
mod tests;
