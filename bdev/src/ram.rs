//! RAM disks, shared by all cores: nothing is copied where pages can be exchanged or lent.
//!
//! A READ without a buffer is answered with the disk's own pages, counted until the vector is put back. A WRITE
//! gives its pages to the disk and gets old ones. Everything else (blocks inside pages, edges) is copied. What
//! cannot be done now, because readers hold all spare pages, waits in the channel's own short line and goes on
//! where it stopped; when that is full, operations are handed back.
//!
//! Long discards and zeroings are done in slices, one a turn, so that no neighbour waits for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spindle_mem::{Arena, ArenaFull, Busy, LenderId, PAGE_BYTES, PageTable, SGV_BYTES_MAX, Sgv, SgvPool};
use spindle_reactor::{CoreId, WakeSet};

use crate::channel::{ChannelSeed, CoreEnv, Hint, IoChannel, IoCx, ResetScope};
use crate::device::{Bdev, BdevInfo, OpenError, ResizeError};
use crate::io::{BlockError, BlockIo, IoDone, IoFlags, IoKey, IoResult, Op, Provisioning};

/// What a RAM disk is to be.
#[derive(Clone, Debug)]
pub struct RamConfig {
    /// Name in the registry.
    pub name: String,
    /// Identity.
    pub uuid: [u8; 16],
    /// 512 or 4,096.
    pub block_bytes: u32,
    /// Capacity.
    pub blocks: u64,
    /// Logical blocks per physical block, as a power of two.
    pub physical_exponent: u8,
    /// Spare pages besides the capacity; `None`: by its size.
    pub spares: Option<u32>,
}

/// A RAM disk. All of its memory is reserved when it is made.
#[derive(Debug)]
pub struct RamBdev {
    config: RamConfig,
    disk: Arc<Disk>,
}

/// What the cores share of it.
#[derive(Debug)]
struct Disk {
    table: Arc<PageTable>,
    block_bytes: u32,
    /// Capacity now. The table is as long or longer.
    blocks: AtomicU64,
}

impl RamBdev {
    /// Reserves the memory; the disk reads as zeroes.
    pub fn new(arena: &Arc<Arena>, config: RamConfig) -> Result<RamBdev, OpenError> {
        let bytes = check_geometry(config.block_bytes, config.blocks, config.physical_exponent)?;
        let spares = config.spares.unwrap_or_else(|| spares_for(bytes)).max(1);
        let room = |full: ArenaFull| OpenError::NoRoom { what: "memory", why: full.to_string() };
        let table = PageTable::new(arena, bytes, spares).map_err(room)?;
        let (block_bytes, blocks) = (config.block_bytes, AtomicU64::new(config.blocks));
        Ok(RamBdev { config, disk: Arc::new(Disk { table, block_bytes, blocks }) })
    }
}

/// Sizes that every device of ours must have; the capacity in bytes.
pub(crate) fn check_geometry(block_bytes: u32, blocks: u64, physical_exponent: u8) -> Result<u64, OpenError> {
    let invalid = |field, why: String| Err(OpenError::Invalid { field, why });
    if !matches!(block_bytes, 512 | 4096) {
        return invalid("block_size", format!("{block_bytes} bytes; 512 and 4096 are possible"));
    }
    if physical_exponent > 15 {
        return invalid("physical_block_size", "more than 2^15 logical blocks".into());
    }
    match blocks.checked_mul(u64::from(block_bytes)) {
        Some(bytes) if bytes > 0 && bytes <= i64::MAX as u64 => Ok(bytes),
        _ => invalid("num_blocks", format!("{blocks} blocks of {block_bytes} bytes are no capacity")),
    }
}

/// A spare for each core and for pages overwritten while they are sent: an eighth of a small disk, 16 MiB at most.
fn spares_for(bytes: u64) -> u32 {
    (bytes / PAGE_BYTES as u64 / 8).clamp(64, 4096) as u32
}

impl Bdev for RamBdev {
    fn info(&self) -> BdevInfo {
        let block_bytes = self.config.block_bytes;
        let page_blocks = PAGE_BYTES as u32 / block_bytes;
        BdevInfo {
            name: self.config.name.clone(),
            uuid: self.config.uuid,
            block_bytes,
            physical_exponent: self.config.physical_exponent,
            lowest_aligned: 0,
            blocks: self.disk.blocks.load(Ordering::Relaxed),
            write_cache: false,
            read_only: false,
            rotation_rate: 1,
            unmap: true,
            unmap_zeroes: true,
            unmap_granularity: page_blocks,
            unmap_alignment: 0,
            optimal_granularity: page_blocks as u16,
            optimal_transfer: 0,
            transfer_max: SGV_BYTES_MAX / block_bytes,
            lends: true,
        }
    }

    fn driver(&self) -> &'static str {
        "malloc"
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let table = &self.disk.table;
        vec![
            ("reserved_bytes", table.bytes().to_string()),
            ("spare_pages", table.spares().to_string()),
            ("spare_pages_free", table.spares_free().to_string()),
        ]
    }

    fn prepare(&self, _core: CoreId) -> Result<Box<dyn ChannelSeed>, OpenError> {
        Ok(Box::new(RamSeed { disk: self.disk.clone() }))
    }

    /// Growing reserves memory and is seen by all cores at once. A disk that becomes smaller keeps its memory,
    /// but not what was stored in the part cut off.
    fn resize(&self, blocks: Option<u64>) -> Result<u64, ResizeError> {
        let now = self.disk.blocks.load(Ordering::Relaxed);
        let Some(blocks) = blocks else { return Ok(now) };
        let bytes = check_geometry(self.config.block_bytes, blocks, 0)
            .map_err(|e| ResizeError::Invalid(e.to_string()))?;
        if blocks > now {
            self.disk.table.grow(bytes).map_err(|full| ResizeError::Invalid(full.to_string()))?;
        }
        self.disk.blocks.store(blocks, Ordering::Release);
        if blocks < now {
            self.disk.table.forget_from(bytes);
        }
        Ok(blocks)
    }
}

struct RamSeed {
    disk: Arc<Disk>,
}

impl ChannelSeed for RamSeed {
    fn bind(self: Box<Self>, env: &mut CoreEnv<'_>) -> Result<Box<dyn IoChannel>, OpenError> {
        let id = env.pool.register(self.disk.table.clone());
        let why = || OpenError::NoRoom { what: "lenders", why: "65,535 on this core".into() };
        Ok(Box::new(RamChannel { disk: self.disk, id: id.ok_or_else(why)?, line: VecDeque::new() }))
    }
}

struct RamChannel {
    disk: Arc<Disk>,
    id: LenderId,
    line: VecDeque<Waiting>,
}

/// Begun, or not begun, and waiting for spare pages or for its next slice.
struct Waiting {
    io: BlockIo,
    /// Bytes done.
    done: u64,
    aborted: bool,
}

/// How far an operation got.
enum Step {
    Ended(IoResult),
    /// The bytes done so far, from the beginning.
    Stopped(u64),
}

impl RamChannel {
    /// Offset and length in bytes.
    fn extent(&self, io: &BlockIo) -> Option<(u64, u64)> {
        self.extent_of(io.lba, io.blocks)
    }

    #[inline]
    fn extent_of(&self, lba: u64, blocks: u32) -> Option<(u64, u64)> {
        let end = lba.checked_add(u64::from(blocks))?;
        // Acquire: a size that is seen comes with the memory behind it.
        (end <= self.disk.blocks.load(Ordering::Acquire)).then_some(())?;
        let block = u64::from(self.disk.block_bytes);
        Some((lba * block, u64::from(blocks) * block))
    }

    /// Does what can be done now of an operation that changes the disk.
    fn change(&self, io: &mut BlockIo, done: u64, cx: &mut IoCx<'_>) -> Step {
        let Some((offset, len)) = self.extent(io) else {
            return Step::Ended(IoResult::Err(BlockError::OutOfRange));
        };
        let (offset, left) = (offset + done, len - done);
        let (id, pool) = (self.id, &mut *cx.pool);
        let slice = match (io.op, io.flags.has(IoFlags::MAY_UNMAP)) {
            (Op::Write, _) => left,
            (Op::WriteZeroes, false) => left.min(ZERO_SLICE_BYTES),
            _ => left.min(DISCARD_SLICE_BYTES),
        };
        let io_keeps = io.flags.has(IoFlags::KEEP);
        let now = match io.op {
            Op::Write => {
                let Some((sgv, range)) = buffer(io, done, left) else {
                    return Step::Ended(IoResult::Err(BlockError::Unsupported));
                };
                if io_keeps {
                    pool.copy_in(id, offset, sgv, range)
                } else {
                    pool.exchange(id, offset, sgv, range)
                }
            }
            Op::WriteZeroes if !io.flags.has(IoFlags::MAY_UNMAP) => pool.write_zeroes(id, offset, slice),
            _ => pool.discard(id, offset, slice),
        };
        match now {
            Ok(()) if slice == left => Step::Ended(IoResult::Ok),
            Ok(()) => Step::Stopped(done + slice),
            Err(Busy { done: more }) => Step::Stopped(done + more),
        }
    }

    fn read(&self, mut io: BlockIo, cx: &mut IoCx<'_>) -> Result<IoDone, BlockIo> {
        let Some((offset, len)) = self.extent(&io) else {
            return Ok(IoDone::of(io, IoResult::Err(BlockError::OutOfRange)));
        };
        if io.data.is_none() {
            if len > u64::from(SGV_BYTES_MAX) {
                return Ok(IoDone::of(io, IoResult::Err(BlockError::Unsupported)));
            }
            // `None`: all vectors to lend with are out. They come back when what they carry was sent.
            let Some(lent) = cx.pool.lend(self.id, offset, len as u32) else { return Err(io) };
            io.data = Some(lent);
        } else {
            let Some((sgv, range)) = buffer(&mut io, 0, len) else {
                return Ok(IoDone::of(io, IoResult::Err(BlockError::Unsupported)));
            };
            cx.pool.read_into(self.id, offset, sgv, range);
        }
        Ok(IoDone::of(io, IoResult::Ok))
    }

    /// The state of the first block's page, and how far it reaches: looked up in at most so many pages.
    fn provisioning(&self, io: &BlockIo) -> IoResult {
        let Some((offset, len)) = self.extent(io).filter(|(_, len)| *len > 0) else {
            return IoResult::Err(BlockError::OutOfRange);
        };
        let page = PAGE_BYTES as u64;
        let first = offset / page;
        let last = ((offset + len - 1) / page).min(first + EXTENT_PAGES_MAX);
        let hole = self.disk.table.is_hole(first);
        let end = (first + 1..=last).find(|&n| self.disk.table.is_hole(n) != hole).unwrap_or(last + 1);
        let bytes = (end * page).min(offset + len) - offset;
        let state = if hole { Provisioning::Deallocated } else { Provisioning::Mapped };
        // At most `io.blocks`, which has 32 bits.
        IoResult::Extent { state, blocks: (bytes / u64::from(self.disk.block_bytes)) as u32 }
    }
}

/// The part of the operation's buffer that belongs to bytes `done..done + left`; `None`: it has none so long.
fn buffer(io: &mut BlockIo, done: u64, left: u64) -> Option<(&mut spindle_mem::Sgv, std::ops::Range<u32>)> {
    let start = u64::from(io.at).checked_add(done)?;
    let end = start.checked_add(left)?;
    let sgv = io.data.as_mut()?;
    (end <= u64::from(sgv.len())).then_some((sgv, start as u32..end as u32))
}

impl IoChannel for RamChannel {
    fn submit(&mut self, mut io: BlockIo, cx: &mut IoCx<'_>) -> Result<(), BlockIo> {
        let done = match io.op {
            Op::Read => self.read(io, cx)?,
            Op::Flush | Op::Verify => {
                let inside = io.op == Op::Flush || self.extent(&io).is_some();
                IoDone::of(io, if inside { IoResult::Ok } else { IoResult::Err(BlockError::OutOfRange) })
            }
            Op::Extent => {
                let result = self.provisioning(&io);
                IoDone::of(io, result)
            }
            Op::Write | Op::Unmap | Op::WriteZeroes => {
                // Those in line come first, or they would never find a spare page.
                if self.line.len() == LINE_MAX {
                    return Err(io);
                }
                let step = match self.line.is_empty() {
                    true => self.change(&mut io, 0, cx),
                    false => Step::Stopped(0),
                };
                match step {
                    Step::Ended(result) => IoDone::of(io, result),
                    Step::Stopped(done) => {
                        self.line.push_back(Waiting { io, done, aborted: false });
                        return Ok(());
                    }
                }
            }
        };
        cx.done.push(done);
        Ok(())
    }

    fn serves_at_once(&self) -> bool {
        true
    }

    fn takes_hints(&self) -> bool {
        true
    }

    #[inline]
    fn hint(&self, lba: u64, hint: Hint) {
        let offset = lba.saturating_mul(self.disk.block_bytes.into());
        match hint {
            Hint::Find => self.disk.table.fetch_entry(offset),
            Hint::Send(len) => self.disk.table.fetch_data(offset, len),
        }
    }

    fn read_at_once(&mut self, lba: u64, blocks: u32, pool: &mut SgvPool) -> Option<Sgv> {
        let (offset, len) = self.extent_of(lba, blocks)?;
        if len > u64::from(SGV_BYTES_MAX) { None } else { pool.lend(self.id, offset, len as u32) }
    }

    /// A whole page, which is exchanged or is not: more of them might be stored in part when spare pages run out.
    fn write_at_once(
        &mut self,
        lba: u64,
        blocks: u32,
        data: &mut Sgv,
        _: IoFlags,
        pool: &mut SgvPool,
    ) -> bool {
        let page = PAGE_BYTES as u64;
        let Some((offset, len)) = self.extent_of(lba, blocks) else { return false };
        self.line.is_empty()
            && len == page
            && offset.is_multiple_of(page)
            && data.len() == PAGE_BYTES as u32
            && pool.exchange(self.id, offset, data, 0..PAGE_BYTES as u32).is_ok()
    }

    fn poll(&mut self, cx: &mut IoCx<'_>) -> u32 {
        let mut ended = 0;
        while let Some(mut first) = self.line.pop_front() {
            let step = match first.aborted {
                true => Step::Ended(IoResult::Err(BlockError::Aborted)),
                false => self.change(&mut first.io, first.done, cx),
            };
            match step {
                Step::Ended(result) => {
                    cx.done.push(IoDone::of(first.io, result));
                    ended += 1;
                }
                Step::Stopped(done) => {
                    first.done = done;
                    self.line.push_front(first);
                    break;
                }
            }
        }
        ended
    }

    fn abort(&mut self, key: IoKey) {
        for waiting in self.line.iter_mut().filter(|w| w.io.key == key) {
            waiting.aborted = true;
        }
    }

    fn reset(&mut self, _scope: ResetScope, cx: &mut IoCx<'_>) {
        for waiting in self.line.drain(..) {
            cx.done.push(IoDone::of(waiting.io, IoResult::Err(BlockError::Aborted)));
        }
    }

    fn in_flight(&self) -> u32 {
        self.line.len() as u32
    }

    /// Nothing rings when a reader on another core lets go of a page: with somebody in line the core stays awake.
    fn arm(&mut self, _wake: &mut WakeSet) -> bool {
        self.line.is_empty()
    }

    /// Lent vectors may still be on their way to initiators; the disk's memory goes when the last is back.
    fn close(&mut self, env: &mut CoreEnv<'_>) {
        env.pool.retire(self.id);
    }
}

/// Operations that a channel keeps while they wait; more are handed back.
const LINE_MAX: usize = 64;
/// 16,384 pages to mark: some 50 µs.
const DISCARD_SLICE_BYTES: u64 = 64 << 20;
/// As much as the largest write moves.
const ZERO_SLICE_BYTES: u64 = SGV_BYTES_MAX as u64;
const EXTENT_PAGES_MAX: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use spindle_mem::{ArenaConfig, Kind, PoolConfig, Sgv, SgvPool, ShareId};

    use super::*;
    use crate::bench::Bench;

    fn config(blocks: u64, spares: u32) -> RamConfig {
        RamConfig {
            name: "Malloc0".into(),
            uuid: [1; 16],
            block_bytes: 512,
            blocks,
            physical_exponent: 3,
            spares: Some(spares),
        }
    }

    fn bench(blocks: u64, spares: u32) -> (Bench, RamBdev) {
        let mut bench = Bench::new();
        let ram = RamBdev::new(&bench.arena, config(blocks, spares)).unwrap();
        bench.open(&ram);
        (bench, ram)
    }

    /// Holes, written blocks, blocks it has grown by, and none at all.
    #[test]
    fn hints_may_be_of_any_block_and_change_nothing() {
        let (mut b, ram) = bench(1024, 8);
        assert_eq!(b.write(8, &[7; 16384]), IoResult::Ok);
        ram.resize(Some(4096)).unwrap();
        assert!(b.channel().takes_hints());
        for lba in [0, 8, 13, 39, 1023, 1024, 4095, 4096, u64::MAX / 512, u64::MAX] {
            for hint in [Hint::Find, Hint::Send(512), Hint::Send(4096), Hint::Send(u32::MAX)] {
                b.channel().hint(lba, hint);
            }
        }
        assert_eq!(b.read_bytes(8, 32), [7; 16384]);
        b.end(ram);
    }

    #[test]
    fn a_write_is_read_back_out_of_the_disks_own_memory_and_nothing_is_copied() {
        let (mut b, ram) = bench(1024, 8);
        assert!(ram.info().lends);
        assert_eq!(b.write(8, &[7; 16384]), IoResult::Ok);
        let done = b.read(8, 32);
        let data = done.data.unwrap();
        assert_eq!((done.result, data.kind()), (IoResult::Ok, Kind::Lent));
        assert_eq!(data.to_vec(), [7; 16384]);
        b.pool.put(data);
        assert_eq!(b.pool.copied_bytes(), 0);
        b.end(ram);
    }

    #[test]
    fn a_buffer_that_is_to_be_kept_comes_back_as_it_was() {
        // WRITE AND VERIFY compares with it afterwards, WRITE SAME writes it again.
        let (mut b, ram) = bench(1024, 8);
        b.write(0, &[1; 8192]);
        let mut sgv = b.pool.take(8192, ShareId(0)).unwrap();
        sgv.copy_from(0, &[2; 8192]);
        let done = b.run(BlockIo { data: Some(sgv), flags: IoFlags::KEEP, ..Bench::io(Op::Write, 0, 16) });
        let sgv = done.data.unwrap();
        assert_eq!(sgv.to_vec(), [2; 8192]);
        b.pool.put(sgv);
        assert_eq!(b.read_bytes(0, 16), [2; 8192]);
        b.end(ram);
    }

    #[test]
    fn a_read_with_a_buffer_fills_it_from_where_the_caller_says() {
        let (mut b, ram) = bench(1024, 8);
        b.write(1, &[9; 1024]);
        let mut sgv = b.pool.take(2048, ShareId(0)).unwrap();
        sgv.zero(0..2048);
        let done = b.run(BlockIo { data: Some(sgv), at: 512, ..Bench::io(Op::Read, 1, 2) });
        assert_eq!(done.result, IoResult::Ok);
        let sgv = done.data.unwrap();
        assert_eq!(sgv.to_vec(), [&[0; 512][..], &[9; 1024], &[0; 512]].concat());
        b.pool.put(sgv);
        b.end(ram);
    }

    #[test]
    fn nothing_beyond_the_end_is_touched() {
        let (mut b, ram) = bench(16, 8);
        let out = IoResult::Err(BlockError::OutOfRange);
        for (lba, blocks) in [(16, 1), (15, 2), (u64::MAX, 1), (u64::MAX - 1, 5)] {
            for op in [Op::Read, Op::Verify, Op::Unmap, Op::WriteZeroes, Op::Extent] {
                assert_eq!(b.run(Bench::io(op, lba, blocks)).result, out, "{op:?} {lba}");
            }
        }
        assert_eq!(b.write(15, &[0; 1024]), out);
        assert_eq!(b.run(Bench::io(Op::Flush, u64::MAX, 9)).result, IoResult::Ok);
        b.end(ram);
    }

    #[test]
    fn a_write_that_brings_less_than_it_says_is_refused() {
        let (mut b, ram) = bench(16, 8);
        let sgv = b.pool.take(1024, ShareId(0)).unwrap();
        let done = b.run(BlockIo { data: Some(sgv), at: 512, ..Bench::io(Op::Write, 0, 2) });
        assert_eq!(done.result, IoResult::Err(BlockError::Unsupported));
        b.pool.put(done.data.unwrap());
        assert_eq!(b.run(Bench::io(Op::Write, 0, 1)).result, IoResult::Err(BlockError::Unsupported));
        b.end(ram);
    }

    #[test]
    fn unmapped_blocks_read_as_zeroes_and_show_as_deallocated() {
        let (mut b, ram) = bench(64, 8);
        b.write(0, &[3; 32768]);
        assert_eq!(b.run(Bench::io(Op::Unmap, 10, 30)).result, IoResult::Ok);
        let bytes = b.read_bytes(0, 64);
        assert_eq!(bytes, [&[3; 5120][..], &[0; 15360], &[3; 12288]].concat());
        let extents: Vec<IoResult> = [(0, 64), (10, 64 - 10), (16, 48), (17, 3), (40, 24)]
            .map(|(l, n)| b.run(Bench::io(Op::Extent, l, n)).result)
            .into();
        let extent = |state, blocks| IoResult::Extent { state, blocks };
        use Provisioning::{Deallocated, Mapped};
        assert_eq!(
            extents,
            [
                extent(Mapped, 16),
                extent(Mapped, 6),
                extent(Deallocated, 24),
                extent(Deallocated, 3),
                extent(Mapped, 24)
            ]
        );
        b.end(ram);
    }

    #[test]
    fn written_zeroes_stay_mapped_unless_unmapping_is_allowed() {
        let (mut b, ram) = bench(64, 8);
        let extent = |state| IoResult::Extent { state, blocks: 8 };
        assert_eq!(b.run(Bench::io(Op::WriteZeroes, 0, 64)).result, IoResult::Ok);
        assert_eq!(b.run(Bench::io(Op::Extent, 0, 8)).result, extent(Provisioning::Mapped));
        let allowed = BlockIo { flags: IoFlags::MAY_UNMAP, ..Bench::io(Op::WriteZeroes, 0, 8) };
        assert_eq!(b.run(allowed).result, IoResult::Ok);
        assert_eq!(b.run(Bench::io(Op::Extent, 0, 8)).result, extent(Provisioning::Deallocated));
        b.end(ram);
    }

    #[test]
    fn a_write_that_finds_all_spares_held_by_readers_waits_and_goes_on() {
        let (mut b, ram) = bench(64, 2);
        b.write(0, &[1; 16384]);
        let held = b.read(0, 32).data.unwrap();
        b.submit_write(1, 0, &[2; 16384]).unwrap();
        b.submit_write(2, 32, &[3; 4096]).unwrap();
        assert_eq!((b.poll(), b.channel().in_flight()), (0, 2));
        assert!(!b.channel().arm(&mut WakeSet::new()), "the core must not sleep");
        assert_eq!(held.to_vec(), [1; 16384]);
        b.pool.put(held);
        assert_eq!(b.poll(), 2);
        assert_eq!(b.take_done(), [(IoKey(1), IoResult::Ok), (IoKey(2), IoResult::Ok)]);
        assert_eq!(b.read_bytes(0, 40), [&[2; 16384][..], &[3; 4096]].concat());
        b.end(ram);
    }

    #[test]
    fn waiting_operations_can_be_aborted_and_reset_and_the_line_is_bounded() {
        let (mut b, ram) = bench(64, 1);
        b.write(0, &[1; 8192]);
        let held = b.read(0, 16).data.unwrap();
        b.submit_write(0, 0, &[2; 8192]).unwrap();
        b.submit_write(1, 0, &[2; 512]).unwrap();
        b.channel().abort(IoKey(0));
        assert_eq!(b.poll(), 1);
        assert_eq!(b.take_done(), [(IoKey(0), IoResult::Err(BlockError::Aborted))]);
        for n in 2..LINE_MAX as u64 + 1 {
            b.submit(BlockIo { key: IoKey(n), ..Bench::io(Op::Unmap, 0, 1) }).unwrap();
        }
        let refused = b.submit(BlockIo { key: IoKey(99), ..Bench::io(Op::Unmap, 0, 1) }).unwrap_err();
        assert_eq!(refused.key, IoKey(99));
        b.reset();
        assert_eq!(b.take_done().len(), LINE_MAX);
        b.pool.put(held);
        b.end(ram);
    }

    #[test]
    fn without_vectors_to_lend_with_a_read_is_handed_back() {
        let (mut b, ram) = bench(64, 8);
        let held: Vec<Sgv> = (0..4).map(|_| b.read(0, 1).data.unwrap()).collect();
        assert!(b.submit(Bench::io(Op::Read, 0, 1)).is_err());
        held.into_iter().for_each(|sgv| b.pool.put(sgv));
        b.end(ram);
    }

    #[test]
    fn long_discards_are_done_in_slices() {
        let arena = Arena::new(ArenaConfig::plain(1 << 20, 256 << 20)).unwrap();
        let vectors = PoolConfig { vectors: [2, 0, 0, 0, 0, 0], lent: [2, 0, 0], ..PoolConfig::default() };
        let pool = SgvPool::new(CoreId(0), arena.clone(), &vectors).unwrap();
        let mut b = Bench::with(arena, pool);
        let ram = RamBdev::new(&b.arena, config(2 * DISCARD_SLICE_BYTES / 512 + 8, 8)).unwrap();
        b.open(&ram);
        b.write(2 * DISCARD_SLICE_BYTES / 512, &[1; 4096]);
        b.submit(Bench::io(Op::Unmap, 0, ram.info().blocks as u32)).unwrap();
        assert_eq!((b.channel().in_flight(), b.poll(), b.poll()), (1, 0, 1));
        assert_eq!(b.take_done(), [(IoKey(0), IoResult::Ok)]);
        assert_eq!(b.read_bytes(2 * DISCARD_SLICE_BYTES / 512, 8), [0; 4096]);
        b.end(ram);
    }

    #[test]
    fn it_grows_and_shrinks_in_use() {
        let (mut b, ram) = bench(8, 8);
        assert_eq!(ram.resize(Some(16)).unwrap(), 16);
        assert_eq!(b.write(12, &[5; 2048]), IoResult::Ok);
        assert_eq!(ram.resize(Some(9)).unwrap(), 9);
        assert_eq!((ram.info().blocks, ram.resize(None).unwrap()), (9, 9));
        assert_eq!(b.write(12, &[5; 2048]), IoResult::Err(BlockError::OutOfRange));
        ram.resize(Some(16)).unwrap();
        assert_eq!(b.read_bytes(8, 8), [0; 4096]);
        assert!(ram.resize(Some(1 << 40)).is_err() && ram.resize(Some(0)).is_err());
        b.end(ram);
    }

    #[test]
    fn a_closed_disk_gives_its_memory_back_when_the_last_reader_is_done() {
        let (mut b, ram) = bench(64, 8);
        let held = b.read(0, 8).data.unwrap();
        b.close();
        drop(ram);
        b.pool.put(held);
        let before = b.arena.report().bytes_free;
        let all = RamBdev::new(&b.arena, config(64, 8)).unwrap();
        drop(all);
        assert_eq!(b.arena.report().bytes_free, before);
        assert!(b.pool.is_full());
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let b = Bench::new();
        for (block_bytes, blocks) in [(520, 8), (512, 0), (4096, u64::MAX), (512, 1 << 40)] {
            let config = RamConfig { block_bytes, ..config(blocks, 1) };
            assert!(RamBdev::new(&b.arena, config).is_err(), "{blocks} of {block_bytes}");
        }
    }
}
