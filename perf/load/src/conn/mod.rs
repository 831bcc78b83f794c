//! One connection under load: preallocated tasks, one receive and one send a turn.
//!
//! A turn takes what the socket has, ends the tasks it completes, starts new ones as far as depth, pace and the
//! target's command window allow, and sends all of it in one call. The clock is read once a batch: a task that ends
//! in a batch ends when the batch came in. What the target answers is checked as far as that is free: tag,
//! direction, length, offsets, StatSN, status.

mod feed;
pub mod rx;
mod task;
mod template;
pub mod tx;

use std::collections::VecDeque;
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};
use spindle_ffi_os::cpu::monotonic_ns;
use spindle_initiator::{Window, tcp::lun_bytes};
use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::{
    BHS_LEN, Bhs, DataIn, DataOut, Itt, NopIn, NopOut, R2t, Reject, Residual, ScsiResponse, SerialNumber,
    TargetOpcode, Ttt,
};

pub use self::feed::Feed;
use self::rx::{Rx, Sink, crc32c};
use self::task::{Burst, Target, Task};
use self::template::{Shape, Template};
use self::tx::{Sizes, Tx};
use crate::pattern::{self, Book};
use crate::report::Stats;
use crate::session::{Geometry, LoggedIn};
use crate::workload::{Order, Workload};

/// Status BUSY and TASK SET FULL (SAM-5 §5.3): try again.
const TRY_AGAIN: [u8; 2] = [0x08, 0x28];
/// Where the data of a write is at most this long, header and data are laid out together beforehand.
const WIDE_DATA_MAX: u32 = 16 * 1024;
/// Data queued for one send, beyond which no more is added.
const QUEUED_MAX: usize = 512 * 1024;

/// The part of the logical unit a connection works on.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// First logical block.
    pub first_block: u64,
    /// Units of one command.
    pub chunks: u64,
}

/// A connection and everything it has in flight.
pub struct Conn {
    stream: TcpStream,
    rx: Rx,
    state: Protocol,
    /// Statistics that take the place of the state's when counting begins, if it ever does.
    spare: Option<Stats>,
}

/// Everything but the socket and its buffer.
struct Protocol {
    tx: Tx,
    tasks: Vec<Task>,
    free: Vec<u16>,
    /// Tasks the target was too busy for.
    again: VecDeque<u16>,
    bursts: VecDeque<Burst>,
    pings: VecDeque<Bhs>,
    book: Option<Book>,
    exp_stat_sn: SerialNumber,
    max_cmd_sn: SerialNumber,
    digests: Digests,
    reads: Template,
    writes: Template,
    target: Target,
    rng: fastrand::Rng,
    next_chunk: u64,
    /// End of the batch that is being read.
    now: u64,
    stats: Stats,
    /// Of an open loop: commands that ended in this pass, WRITEs or not, with their latency. They count when it is known
    /// that the generator ran all the time.
    ended: Option<Vec<(bool, u64)>>,
    /// Commands that began or ended in this pass.
    handled: u32,
    /// Sense data or the like of the PDU being read.
    extra: Vec<u8>,
}

impl Conn {
    /// Takes a connection over. `active` ones get commands, others only answer pings.
    pub fn new(
        from: LoggedIn,
        work: &Workload,
        part: Part,
        at: Geometry,
        lun: u16,
        active: bool,
        number: u64,
    ) -> Result<Self> {
        from.stream.set_nonblocking(true)?;
        let digests = from.digests();
        let params = &from.params;
        let lun = lun_bytes(lun);
        let immediate =
            if params.immediate_data { work.bs.min(params.first_burst).min(params.max_send) } else { 0 };
        let unsolicited = if work.offers.unsolicited && !params.initial_r2t {
            work.bs.min(params.first_burst) - immediate
        } else {
            0
        };
        let header_digest = if digests.header { 4 } else { 0 };
        let wide = active
            && !work.verify
            && immediate == work.bs
            && work.bs <= WIDE_DATA_MAX
            && work.mix.write_percent > 0;
        let data_digest = if digests.data { 4 } else { 0 };
        let depth = if active { work.depth } else { 0 };
        let mut tx = Tx::new(Sizes {
            header_digest,
            wide_data: if wide { work.bs as usize } else { 0 },
            wide_tail: data_digest,
            data: match (active, work.verify) {
                (false, _) => 0,
                (true, false) => work.bs as usize,
                (true, true) => work.bs as usize * usize::from(work.depth),
            },
            busy: active,
        });
        if active && !work.verify {
            pattern::fill(tx.data(0, work.bs as usize), 0, 1, work.seed);
            if wide {
                let data = tx.data(0, work.bs as usize).to_vec();
                let digest = crc32c(&data);
                tx.fill_wide(BHS_LEN + header_digest, &data, &digest[..data_digest]);
            }
        }
        let shape = |write: bool| Shape {
            lun,
            write,
            bytes: work.bs,
            immediate: if write { immediate } else { 0 },
            unsolicited_follows: write && unsolicited > 0,
        };
        if work.verify {
            ensure!(
                part.chunks >= u64::from(work.depth),
                "too small a part of the logical unit for verification"
            );
            ensure!(
                part.chunks <= 1 << 28,
                "verification keeps a book of at most 2^28 commands: give a --span"
            );
        }
        let mut rng = fastrand::Rng::with_seed(work.seed.wrapping_mul(0x9E37_79B9).wrapping_add(number));
        let state = Protocol {
            tx,
            tasks: vec![Task::default(); depth.into()],
            free: (0..depth).rev().collect(),
            again: VecDeque::new(),
            bursts: VecDeque::new(),
            pings: VecDeque::new(),
            book: (active && work.verify).then(|| Book::new(part.chunks as usize)),
            exp_stat_sn: from.exp_stat_sn,
            max_cmd_sn: from.window.max_cmd_sn,
            digests,
            reads: Template::new(&shape(false), at),
            writes: Template::new(&shape(true), at),
            target: Target {
                bs: work.bs,
                immediate,
                unsolicited,
                wide,
                max_send: params.max_send,
                blocks_per_chunk: u64::from(work.bs / at.block_len),
                block_len: at.block_len,
                first_block: part.first_block,
                chunks: part.chunks,
                write_percent: work.mix.write_percent,
                random: work.order == Order::Random,
                seed: work.seed,
            },
            next_chunk: if work.order == Order::Random { 0 } else { rng.u64(0..part.chunks.max(1)) },
            rng,
            now: 0,
            stats: Stats::default(),
            ended: work.rate.is_some().then(|| Vec::with_capacity(depth.into())),
            handled: 0,
            extra: Vec::new(),
        };
        let receive_bytes = if active { work.receive_bytes as usize } else { 2048 };
        let spare = active.then(Stats::touched);
        Ok(Self { stream: from.stream, rx: Rx::new(receive_bytes, digests), state, spare })
    }

    /// One pass. `now` is the time at its beginning; returns whether anything came in.
    #[inline]
    pub fn turn(&mut self, window: &mut Window, feed: &mut Feed, mut now: u64) -> Result<bool> {
        let got = self.rx.fill(&mut self.stream)?;
        if got > 0 {
            now = monotonic_ns();
            self.state.now = now;
            self.state.stats.receives += 1;
            self.rx.parse(&mut self.state)?;
            if self.state.max_cmd_sn.gt(window.max_cmd_sn) {
                window.max_cmd_sn = self.state.max_cmd_sn;
            }
            // What it took to look at the answers is no part of the next commands' latency.
            now = monotonic_ns();
        }
        loop {
            if !self.state.tx.is_empty()
                && !self.state.tx.flush(&mut self.stream, &mut self.state.stats.sends)?
            {
                break;
            }
            if !self.state.build(window, feed, now) {
                break;
            }
        }
        Ok(got > 0)
    }

    /// Commands without an answer.
    pub fn outstanding(&self) -> usize {
        self.state.tasks.len() - self.state.free.len()
    }

    /// The pass is over: whether the generator ran all the time. If not, it is not known when the answers came that it
    /// found, nor when those would have come that are still out.
    pub fn settle(&mut self, ran: bool) {
        self.state.settle(ran);
    }

    /// Commands that began or ended since this was asked last.
    pub fn take_handled(&mut self) -> u32 {
        std::mem::take(&mut self.state.handled)
    }

    /// Begins to count, once.
    pub fn count(&mut self) {
        if let Some(spare) = &mut self.spare {
            std::mem::swap(&mut self.state.stats, spare);
        }
    }

    /// Stops counting.
    pub fn stop_counting(&mut self) {
        self.state.stats.counting = false;
    }

    /// What was counted.
    pub fn stats(&self) -> &Stats {
        &self.state.stats
    }
}

impl Protocol {
    /// Queues what may be sent now; `false` if there is nothing.
    fn build(&mut self, window: &mut Window, feed: &mut Feed, now: u64) -> bool {
        while let Some(ping) = self.pings.pop_front() {
            if !self.tx.has_head() {
                self.pings.push_front(ping);
                break;
            }
            self.answer_ping(&ping, window);
        }
        self.build_bursts();
        while self.bursts.is_empty() && self.tx.has_room() && self.tx.queued_bytes() < QUEUED_MAX {
            if self.free.is_empty() && self.again.is_empty() {
                break;
            }
            if !window.is_open() {
                self.stats.window_closed += 1;
                break;
            }
            if let Some(slot) = self.again.pop_front() {
                self.send_command(slot, window);
                continue;
            }
            let Some(start) = feed.due(now) else { break };
            let slot = self.free.pop().expect("one is free");
            self.choose(slot, start);
            self.send_command(slot, window);
            self.handled += 1;
            let outstanding = (self.tasks.len() - self.free.len()) as u32;
            self.stats.outstanding_max = self.stats.outstanding_max.max(outstanding);
        }
        self.build_bursts();
        !self.tx.is_empty()
    }

    /// Decides what a task does.
    #[inline]
    fn choose(&mut self, slot: u16, start: u64) {
        let target = &self.target;
        let mut write = match target.write_percent {
            0 => false,
            100 => true,
            percent => self.rng.u8(0..100) < percent,
        };
        let mut chunk = if target.random {
            self.rng.u64(0..target.chunks)
        } else {
            self.next_chunk = if self.next_chunk + 1 >= target.chunks { 0 } else { self.next_chunk + 1 };
            self.next_chunk
        };
        let mut generation = 0;
        if let Some(book) = &mut self.book {
            chunk = book.take(chunk as usize).expect("there are more chunks than tasks") as u64;
            // What was never written cannot be checked: it is written first.
            write |= book.generation(chunk as usize) == 0;
            generation =
                if write { book.next_generation(chunk as usize) } else { book.generation(chunk as usize) };
        }
        let task = &mut self.tasks[usize::from(slot)];
        *task = Task {
            start,
            chunk,
            generation,
            turn: task.turn.wrapping_add(1),
            received: 0,
            write,
            live: true,
            blurred: false,
        };
    }

    #[inline]
    fn send_command(&mut self, slot: u16, window: &mut Window) {
        let task = self.tasks[usize::from(slot)];
        let target = &self.target;
        let lba = target.first_block + task.chunk * target.blocks_per_chunk;
        let (itt, cmd_sn, exp_stat_sn) = (task.itt(slot), window.cmd_sn, self.exp_stat_sn);
        window.cmd_sn = cmd_sn.next();
        if !task.write {
            let head = self.tx.push_head();
            self.reads.emit(head, itt, cmd_sn, exp_stat_sn, lba);
            seal(head, self.digests);
            return;
        }
        if target.wide {
            let head = self.tx.push_wide();
            self.writes.emit(head, itt, cmd_sn, exp_stat_sn, lba);
            seal(head, self.digests);
            return;
        }
        let (immediate, unsolicited) = (target.immediate, target.unsolicited);
        let at = self.data_at(slot);
        if self.book.is_some() {
            let (bs, seed) = (target.bs as usize, target.seed);
            let address = lba * u64::from(target.block_len);
            pattern::fill(self.tx.data(at, bs), address, task.generation, seed);
        }
        let head = self.tx.push_head();
        self.writes.emit(head, itt, cmd_sn, exp_stat_sn, lba);
        seal(head, self.digests);
        self.push_segment(at, immediate);
        if unsolicited > 0 {
            self.bursts.push_back(Burst {
                slot,
                ttt: Ttt::RESERVED,
                // RFC 7143 §11.7.4: the LUN belongs to the Target Transfer Tag.
                lun: [0; 8],
                offset: immediate,
                left: unsolicited,
                data_sn: SerialNumber(0),
            });
        }
    }

    /// Where the data of a task lies: its own when it must be recognized, else the same for all.
    fn data_at(&self, slot: u16) -> usize {
        if self.book.is_some() { usize::from(slot) * self.target.bs as usize } else { 0 }
    }

    /// Queues a data segment with padding and digest.
    fn push_segment(&mut self, at: usize, len: u32) {
        if len == 0 {
            return;
        }
        self.tx.push_data(at, len as usize);
        let pad = bhs::pad(len) as usize;
        if self.digests.data {
            let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
            crc.update(self.tx.data(at, len as usize));
            crc.update(&[0; 3][..pad]);
            self.tx.push_tail(pad, &(crc.finalize() as u32).to_le_bytes());
        } else if pad > 0 {
            self.tx.push_tail(pad, &[]);
        }
    }

    /// Queues Data-Out PDUs.
    fn build_bursts(&mut self) {
        while let Some(mut burst) = self.bursts.pop_front() {
            while burst.left > 0 {
                if !self.tx.has_head() || self.tx.queued_bytes() >= QUEUED_MAX {
                    self.bursts.push_front(burst);
                    return;
                }
                let len = burst.left.min(self.target.max_send);
                let pdu = DataOut {
                    is_final: len == burst.left,
                    data_len: len,
                    lun: burst.lun,
                    itt: Itt(self.tasks[usize::from(burst.slot)].itt(burst.slot)),
                    ttt: burst.ttt,
                    exp_stat_sn: self.exp_stat_sn,
                    data_sn: burst.data_sn,
                    buffer_offset: burst.offset,
                };
                let head = self.tx.push_head();
                pdu.emit(head.first_chunk_mut().expect("a header slot holds a header"));
                seal(head, self.digests);
                self.push_segment(self.data_at(burst.slot) + burst.offset as usize, len);
                burst.left -= len;
                burst.offset += len;
                burst.data_sn = burst.data_sn.next();
            }
        }
    }

    fn answer_ping(&mut self, ping: &Bhs, window: &Window) {
        let ping = NopIn::parse(ping);
        let pdu = NopOut {
            immediate: true,
            data_len: 0,
            lun: ping.lun,
            itt: Itt::RESERVED,
            ttt: ping.ttt,
            cmd_sn: window.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        let head = self.tx.push_head();
        pdu.emit(head.first_chunk_mut().expect("a header slot holds a header"));
        seal(head, self.digests);
    }

    #[inline]
    fn slot_of(&self, itt: u32) -> Result<u16> {
        let slot = itt as u16;
        match self.tasks.get(usize::from(slot)) {
            Some(task) if task.live && task.itt(slot) == itt => Ok(slot),
            _ => bail!("an answer for task {itt:08x}, which does not exist"),
        }
    }

    #[inline]
    fn took_status(&mut self, stat_sn: SerialNumber) -> Result<()> {
        ensure!(stat_sn == self.exp_stat_sn, "StatSN {stat_sn} where {} is next", self.exp_stat_sn);
        self.exp_stat_sn = stat_sn.next();
        Ok(())
    }

    #[inline]
    fn end(&mut self, slot: u16, status: u8, residual: Residual) -> Result<()> {
        let task = self.tasks[usize::from(slot)];
        if status != 0 {
            if TRY_AGAIN.contains(&status) {
                self.stats.busy += 1;
                self.tasks[usize::from(slot)].turn = task.turn.wrapping_add(1);
                self.tasks[usize::from(slot)].received = 0;
                self.again.push_back(slot);
                return Ok(());
            }
            bail!(
                "{} ended with status {status:02x}, data of the response {:02x?}",
                self.describe(slot),
                self.extra
            );
        }
        ensure!(residual == Residual::None, "{} left {residual:?}", self.describe(slot));
        if !task.write {
            ensure!(
                task.received == self.target.bs,
                "{} brought {} bytes",
                self.describe(slot),
                task.received
            );
        }
        if self.book.is_some() {
            self.compare(slot, task)?;
        }
        self.tasks[usize::from(slot)].live = false;
        self.free.push(slot);
        self.handled += 1;
        if task.blurred {
            self.stats.blurred += u64::from(self.stats.counting);
        } else if self.stats.counting {
            let latency = self.now.saturating_sub(task.start);
            match &mut self.ended {
                Some(ended) => ended.push((task.write, latency)),
                None => self.record(task.write, latency),
            }
        }
        Ok(())
    }

    #[inline]
    fn record(&mut self, write: bool, latency: u64) {
        let histogram = if write { &mut self.stats.write } else { &mut self.stats.read };
        histogram.saturating_record(latency);
        self.stats.bytes += u64::from(self.target.bs);
    }

    fn settle(&mut self, ran: bool) {
        let Some(mut ended) = self.ended.take() else { return };
        if ran {
            ended.iter().for_each(|&(write, latency)| self.record(write, latency));
        } else {
            self.stats.blurred += ended.len() as u64;
            self.tasks.iter_mut().for_each(|task| task.blurred = true);
        }
        ended.clear();
        self.ended = Some(ended);
    }

    fn compare(&mut self, slot: u16, task: Task) -> Result<()> {
        if !task.write {
            let (at, len) = (self.data_at(slot), self.target.bs as usize);
            let lba = self.target.first_block + task.chunk * self.target.blocks_per_chunk;
            let address = lba * u64::from(self.target.block_len);
            let seed = self.target.seed;
            if let Err(mismatch) = pattern::check(self.tx.data(at, len), address, task.generation, seed) {
                bail!("{} returned wrong data: {mismatch}", self.describe(slot));
            }
            self.stats.verified += 1;
        }
        if let Some(book) = &mut self.book {
            book.release(task.chunk as usize);
        }
        Ok(())
    }

    fn describe(&self, slot: u16) -> String {
        let task = &self.tasks[usize::from(slot)];
        let lba = self.target.first_block + task.chunk * self.target.blocks_per_chunk;
        let name = if task.write { "WRITE" } else { "READ" };
        format!("{name} of {} bytes at LBA {lba}", self.target.bs)
    }

    #[inline]
    fn saw_window(&mut self, max: SerialNumber) {
        if max.gt(self.max_cmd_sn) {
            self.max_cmd_sn = max;
        }
    }

    #[inline]
    fn on_data_in(&mut self, header: &Bhs) -> Result<()> {
        let pdu = DataIn::parse(header)?;
        let slot = self.slot_of(pdu.itt.0)?;
        self.saw_window(pdu.max_cmd_sn);
        let bs = self.target.bs;
        let task = &mut self.tasks[usize::from(slot)];
        // DataPDUInOrder and DataSequenceInOrder are Yes.
        ensure!(
            !task.write && pdu.buffer_offset == task.received,
            "Data-In at a wrong offset, or for a write"
        );
        task.received = pdu.buffer_offset.saturating_add(pdu.data_len);
        ensure!(task.received <= bs, "more Data-In than was asked for");
        if let Some(end) = pdu.status {
            self.took_status(end.stat_sn)?;
            self.end(slot, end.status, end.residual)?;
        }
        Ok(())
    }

    #[inline]
    fn on_response(&mut self, header: &Bhs) -> Result<()> {
        let pdu = ScsiResponse::parse(header)?;
        let slot = self.slot_of(pdu.itt.0)?;
        self.saw_window(pdu.max_cmd_sn);
        self.took_status(pdu.stat_sn)?;
        ensure!(header[2] == 0, "{} was not carried out: response {:02x}", self.describe(slot), header[2]);
        self.end(slot, pdu.status, pdu.residual)?;
        self.extra.clear();
        Ok(())
    }

    fn on_r2t(&mut self, header: &Bhs) -> Result<()> {
        let pdu = R2t::parse(header);
        let slot = self.slot_of(pdu.itt.0)?;
        self.saw_window(pdu.max_cmd_sn);
        let task = &self.tasks[usize::from(slot)];
        let end = pdu.buffer_offset.checked_add(pdu.desired_len);
        ensure!(
            task.write && pdu.desired_len > 0 && end.is_some_and(|end| end <= self.target.bs),
            "an R2T for {} bytes at {} of {}",
            pdu.desired_len,
            pdu.buffer_offset,
            self.describe(slot)
        );
        ensure!(self.bursts.len() <= 4 * self.tasks.len(), "more R2Ts than MaxOutstandingR2T allows");
        self.stats.r2ts += 1;
        self.bursts.push_back(Burst {
            slot,
            ttt: pdu.ttt,
            lun: pdu.lun,
            offset: pdu.buffer_offset,
            left: pdu.desired_len,
            data_sn: SerialNumber(0),
        });
        Ok(())
    }

    #[cold]
    fn on_other(&mut self, header: &Bhs) -> Result<()> {
        match TargetOpcode::of(header) {
            Some(TargetOpcode::NopIn) => {
                let ping = NopIn::parse(header);
                self.saw_window(ping.max_cmd_sn);
                if ping.ttt != Ttt::RESERVED {
                    ensure!(self.pings.len() < 64, "the target pings without end");
                    self.pings.push_back(*header);
                }
                Ok(())
            }
            Some(TargetOpcode::Reject) => bail!("a PDU was rejected: {:?}", Reject::parse(header).reason),
            Some(opcode) => bail!("{opcode:?} in the middle of a run"),
            None => bail!("a PDU with the unknown opcode {:02x}", bhs::opcode(header)),
        }
    }
}

impl Sink for Protocol {
    #[inline]
    fn wants_data(&self, header: &Bhs) -> bool {
        self.book.is_some() || bhs::opcode(header) != TargetOpcode::DataIn as u8
    }

    fn data(&mut self, header: &Bhs, at: u32, part: &[u8]) -> Result<()> {
        if bhs::opcode(header) != TargetOpcode::DataIn as u8 {
            let room = 512usize.saturating_sub(self.extra.len());
            self.extra.extend_from_slice(&part[..part.len().min(room)]);
            return Ok(());
        }
        let pdu = DataIn::parse(header)?;
        let slot = self.slot_of(pdu.itt.0)?;
        let start = u64::from(pdu.buffer_offset) + u64::from(at);
        let end = start + part.len() as u64;
        ensure!(end <= u64::from(self.target.bs), "more Data-In than was asked for");
        ensure!(!self.tasks[usize::from(slot)].write, "Data-In for a write");
        let base = self.data_at(slot);
        self.tx.data(base + start as usize, part.len()).copy_from_slice(part);
        Ok(())
    }

    #[inline]
    fn pdu(&mut self, header: &Bhs) -> Result<()> {
        match bhs::opcode(header) {
            0x25 => self.on_data_in(header),
            0x21 => self.on_response(header),
            0x31 => self.on_r2t(header),
            _ => self.on_other(header),
        }
        .with_context(|| format!("PDU {header:02x?}"))
    }
}

/// Writes the header digest behind a header, if there is one.
#[inline]
fn seal(slot: &mut [u8], digests: Digests) {
    if digests.header {
        let (header, digest) = slot.split_at_mut(BHS_LEN);
        digest.copy_from_slice(&crc32c(header));
    }
}
