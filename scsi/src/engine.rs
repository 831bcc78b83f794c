//! The engine: events in, effects out.
//!
//! [`Engine`] is the SCSI mid-level of one core. A transport calls it through [`Mid`]; the shard brings what
//! devices and other cores say; what is to be done collects in [`Effects`]. Nothing here waits, asks for time, or
//! calls back. Each entry point does its work and then *settles*: messages to its own core, tasks that may now
//! run, and memory that came free are dealt with in a loop, not by recursion.

use std::collections::{HashMap, VecDeque};

use spindle_bdev::{BlockIo, IoDone, IoFlags, IoResult, Op, Origin};
use spindle_mem::{Sgv, SgvPool, ShareId};
use spindle_reactor::{CoreId, Tick};
use spindle_scsi_port::{
    Admit, Command, Mid, NexusId, NexusInfo, Outcome, PortEffect, ReceiveError, Refusal, Residual, TaskAttr,
    TaskId, Tmf,
};
use spindle_scsi_spec::{Asc, FieldError, Sense, SenseKey, Status};

use crate::config::{EngineConfig, LuId, LunEntry};
use crate::device_server::disk::{self, Data, Fit, Plan, Step, TaskCx, Verdict};
use crate::device_server::{Attention, Exec, Needs, check_usage, table};
use crate::effects::Effects;
use crate::gate::{Gate, touches};
use crate::lu::{Limits, LuShard};
use crate::message::{Reply, Request, RequestKind, Scope, ScsiMsg, Ticket};
use crate::nexus::{Itl, Nexus};
use crate::outcome::{self, residual, sense_of, sense_of_receive};
use crate::planted::{self, Bug};
use crate::stats::EngineStats;
use crate::task::{Line, NO_ITL, NONE, Slot, TaskState, TaskTable, flag, io_key, of_io_key};
use crate::task_manager::Watches;

/// The SCSI mid-level of one core. See the module's page.
pub struct Engine {
    pub(crate) cfg: EngineConfig,
    pub(crate) pool: SgvPool,
    pub(crate) fx: Effects,
    pub(crate) now: Tick,
    pub(crate) tasks: TaskTable,
    pub(crate) nexuses: Vec<Nexus>,
    pub(crate) itls: Vec<Itl>,
    pub(crate) itls_free: Vec<u16>,
    pub(crate) lus: Vec<Option<Box<LuShard>>>,
    pub(crate) lu_slots: HashMap<LuId, u16>,
    pub(crate) maps: HashMap<u32, Vec<LunEntry>>,
    pub(crate) watches: Watches,
    /// What this core may move and hold at once.
    pub(crate) limits: Limits,
    /// Slots granted to nexuses, and of these the ones that are free.
    pub(crate) granted: u32,
    pub(crate) promised: u32,
    /// Tasks that wait for memory, on a core together: first come, first served.
    pub(crate) hungry: Line,
    /// Messages to this core itself.
    pub(crate) local: VecDeque<ScsiMsg>,
    /// I_T_L nexuses in whose task set somebody may have become runnable.
    pub(crate) wakes: Vec<u16>,
    /// Where describing commands write.
    pub(crate) scratch: Vec<u8>,
    pub(crate) stats: EngineStats,
}

/// Longest answer of a describing command; REPORT LUNS of 8,000 units is the longest there is.
const SCRATCH_BYTES: usize = 64 << 10;

/// What keeps an arriving command from being performed.
enum Refused {
    Check(Sense),
    Status(Status),
    /// CHECK CONDITION, and the residual says by how much the initiator offered too little or too much.
    Misfit(Sense),
}

impl From<Sense> for Refused {
    fn from(sense: Sense) -> Refused {
        Refused::Check(sense)
    }
}

impl Engine {
    /// An engine with nothing to serve yet. `pool` is the core's memory.
    pub fn new(cfg: EngineConfig, pool: SgvPool) -> Engine {
        let classes = pool.stats().classes;
        let buffer_bytes_max = classes.iter().filter(|c| c.total > 0).map(|c| c.bytes).max().unwrap_or(0);
        let limits =
            Limits { transfer_bytes_max: cfg.transfer_bytes_max.min(buffer_bytes_max), buffer_bytes_max };
        Engine {
            tasks: TaskTable::new(cfg.tasks_max),
            pool,
            fx: Effects::default(),
            now: Tick::ZERO,
            nexuses: Vec::new(),
            itls: Vec::new(),
            itls_free: Vec::new(),
            lus: Vec::new(),
            lu_slots: HashMap::new(),
            maps: HashMap::new(),
            watches: Watches::default(),
            limits,
            granted: 0,
            promised: 0,
            hungry: Line::default(),
            local: VecDeque::new(),
            wakes: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            stats: EngineStats::default(),
            cfg,
        }
    }

    /// The core's memory, which channels use as well.
    pub fn pool_mut(&mut self) -> &mut SgvPool {
        &mut self.pool
    }

    /// What is to be done. Drained by the shard once a turn.
    pub fn effects(&mut self) -> &mut Effects {
        &mut self.fx
    }

    /// Time goes on; called once a turn. Returns when to be called again at the latest, if nothing else happens
    /// before: memory of ours may be on its way home from another core while tasks wait for it.
    pub fn on_tick(&mut self, now: Tick) -> Option<Tick> {
        self.now = now;
        if self.hungry.is_empty() {
            return None;
        }
        self.settle();
        (!self.hungry.is_empty()).then(|| now.plus_ms(1))
    }

    /// A message from the engine of another core.
    pub fn on_core(&mut self, from: CoreId, msg: ScsiMsg) {
        self.handle(from, msg);
        self.settle();
    }

    /// An operation has ended.
    #[inline]
    pub fn on_io(&mut self, done: IoDone) {
        self.io_ended(done);
        self.settle();
    }

    // ---- arrival ---------------------------------------------------------------------------------------

    #[inline]
    fn admit(&mut self, c: &Command<'_>) -> Admit {
        let Some(nexus_slot) = self.nexus_slot(c.nexus) else { return Admit::Refused };
        let nexus = &mut self.nexuses[usize::from(nexus_slot)];
        // A nexus within its grant finds a slot for certain; beyond it, what is promised to others is not taken.
        let within = nexus.tasks < nexus.granted;
        if !within && self.tasks.free() <= self.promised {
            return Admit::Refused;
        }
        let Some(slot) = self.tasks.take() else { return Admit::Refused };
        self.promised -= u32::from(within);
        nexus.tasks += 1;
        nexus.stats.commands += 1;
        let itl = match c.lun.decode() {
            Some(lun) => nexus.luns.get(lun as usize).copied().unwrap_or(NO_ITL),
            None => NO_ITL,
        };
        let first = std::mem::replace(&mut nexus.first_task, slot);
        if first != NONE {
            self.tasks.hot(first).nexus_prev = slot;
        }
        let task = self.tasks.hot(slot);
        task.nexus_prev = NONE;
        task.nexus_next = first;
        task.nexus = nexus_slot;
        task.itl = itl;
        task.cookie = c.cookie;
        task.tag = c.tag;
        task.attr = c.attr;
        task.expected_read = c.expected.read;
        task.expected_write = c.expected.write;
        task.started = self.now;
        task.lba = 0;
        task.blocks = 0;
        task.length = 0;
        task.land = 0;
        task.wanted = 0;
        if itl == NO_ITL {
            return self.admit_without_unit(slot, c);
        }
        let lu = self.itls[usize::from(itl)].lu;
        self.tasks.hot(slot).lu = lu;
        self.itls[usize::from(itl)].tasks += 1;
        self.lu_mut(lu).tasks += 1;
        match self.judge(slot, c) {
            Ok(plan) => self.accept(slot, plan),
            Err(refused) => self.refuse(slot, refused),
        }
    }

    /// Everything that can be said against a command on arrival, in the order in which it is to be said.
    #[inline]
    fn judge(&mut self, slot: Slot, c: &Command<'_>) -> Result<Plan, Refused> {
        let task = self.tasks.hot(slot);
        let itl = &mut self.itls[usize::from(task.itl)];
        let row = match table::lookup(c.cdb) {
            Ok(row) => row,
            Err(sense) => return Err(self.attention(slot).map_or(Refused::Check(sense), Refused::Check)),
        };
        task.row = row;
        if !itl.attentions.is_empty()
            && row.attention == Attention::Reports
            && let Some(sense) = self.attention(slot)
        {
            return Err(Refused::Check(sense));
        }
        let (itl, task) = (&self.itls[usize::from(task_itl(&self.tasks, slot))], self.tasks.hot(slot));
        check_usage(row, c.cdb)?;
        let access = match row.exec {
            Exec::StartStop | Exec::PreventAllow => table::access_of(row, c.cdb),
            _ => row.access,
        };
        task.access = access;
        if !itl.access.allows(access) {
            return Err(Refused::Status(Status::ReservationConflict));
        }
        let lu = self.lus[usize::from(itl.lu)].as_deref().expect("an I_T_L nexus keeps its unit");
        if lu.closing {
            return Err(Refused::Check(Sense::illegal_request(Asc::LOGICAL_UNIT_NOT_SUPPORTED)));
        }
        if row.needs != Needs::Nothing && !table::available(row, &lu.info) {
            return Err(Refused::Check(Sense::illegal_request(Asc::INVALID_COMMAND_OPERATION_CODE)));
        }
        if c.attr == TaskAttr::Aca {
            // SAM-5 §8.6.5: there is no ACA condition (NORMACA is nought), so nothing may come under it.
            return Err(Refused::Check(Sense::illegal_request(Asc::INVALID_MESSAGE_ERROR)));
        }
        let plan = disk::plan(&row.exec, c.cdb, lu, itl.read_only)?;
        task.lba = plan.lba;
        task.blocks = plan.blocks;
        task.length = plan.length;
        task.io_flags = plan.io_flags.0;
        task.option = plan.option;
        if !matches!(row.exec, Exec::Read | Exec::Write) {
            let cold = self.tasks.cold(slot);
            let n = c.cdb.len().min(cold.cdb.len());
            cold.cdb = [0; 32];
            cold.cdb[..n].copy_from_slice(&c.cdb[..n]);
        }
        if plan.data == Data::Out && plan.length != c.expected.write {
            let short = c.expected.write < plan.length;
            let block = (1 << lu.shift) - 1;
            let refuse = match plan.fit {
                Fit::Any => false,
                Fit::Exact | Fit::Count(_) => true,
                // Whole blocks that were offered are taken, be it none; parts of one are not (FCP-4 §9.4.2 allows
                // either).
                Fit::Blocks => short && c.expected.write & block != 0,
            };
            if refuse {
                let sense = match plan.fit {
                    Fit::Count(byte) => Sense::invalid_field_in_cdb(FieldError::byte(byte)),
                    _ => Sense::illegal_request(Asc::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT),
                };
                return Err(Refused::Misfit(sense));
            }
        }
        Ok(plan)
    }

    /// The next unit attention of a task's nexus, taken.
    #[cold]
    fn attention(&mut self, slot: Slot) -> Option<Sense> {
        let itl = self.tasks.peek(slot).itl;
        let asc = self.itls[usize::from(itl)].attentions.take()?;
        if asc == Asc::REPORTED_LUNS_DATA_HAS_CHANGED {
            self.luns_are_known(self.itls[usize::from(itl)].nexus);
        }
        Some(Sense::unit_attention(asc))
    }

    #[inline]
    fn accept(&mut self, slot: Slot, plan: Plan) -> Admit {
        let task = self.tasks.hot(slot);
        let offered = task.expected_write;
        if plan.data == Data::Out {
            task.land = plan.length.min(offered);
        }
        task.wanted = task.land + plan.extra;
        let id = self.tasks.id(slot);
        let task = self.tasks.hot(slot);
        if offered > 0 && task.land == 0 {
            // Data-Out that the command has no use for passes by first.
            task.flags |= flag::SWALLOW;
            task.step(TaskState::Receiving);
            return Admit::Swallow(id);
        }
        if !self.enlist(slot) {
            return match self.tasks.peek(slot).land {
                0 => Admit::NoData(id),
                wanted => Admit::Wait { task: id, wanted },
            };
        }
        let task = self.tasks.hot(slot);
        if task.land == 0 {
            self.ready(slot);
            return Admit::NoData(id);
        }
        let (wanted, land) = (task.wanted, task.land);
        match self.take(slot, wanted) {
            Some(mut buf) => {
                buf.set_len(land);
                self.tasks.hot(slot).step(TaskState::Receiving);
                Admit::Land(id, buf)
            }
            None => Admit::Wait { task: id, wanted: land },
        }
    }

    /// Lets the task set decide. `false`: the task is dormant.
    #[inline]
    fn enlist(&mut self, slot: Slot) -> bool {
        let task = self.tasks.hot(slot);
        if task.row.head_of_queue {
            return true;
        }
        let attr = task.attr;
        let lu = self.lus[usize::from(task.lu)].as_deref_mut().expect("a task keeps its unit");
        let set = if lu.tst_shared { &mut lu.set } else { &mut self.itls[usize::from(task.itl)].set };
        if attr == TaskAttr::Ordered && lu.tst_shared && self.cfg.cores > 1 && touches(task, Scope::All) {
            // The task set spans cores: the gate keeps the others out.
            task.flags |= flag::GATED;
        }
        let runs = set.admit(&mut self.tasks, slot, attr);
        if !runs {
            if planted::on(Bug::OrderIgnored) && attr == TaskAttr::Ordered {
                set.forget(&mut self.tasks, slot);
                return true;
            }
            self.tasks.hot(slot).step(TaskState::Dormant);
        }
        runs
    }

    /// Memory for a task: now, or it stands in line and is served by [`Engine::settle`].
    #[inline]
    pub(crate) fn take(&mut self, slot: Slot, bytes: u32) -> Option<Sgv> {
        if self.hungry.is_empty()
            && let Some(buf) = self.pool.take(bytes, self.share_of_task(slot))
        {
            return Some(buf);
        }
        self.tasks.hot(slot).wanted = bytes;
        self.tasks.hot(slot).step(TaskState::WantsBuffer);
        self.hungry.push(&mut self.tasks, slot);
        self.stats.waited_for_memory += 1;
        None
    }

    #[cold]
    fn refuse(&mut self, slot: Slot, refused: Refused) -> Admit {
        let task = self.tasks.peek(slot);
        let offered = task.expected_write;
        let expected = offered.max(task.expected_read);
        let unused = residual(expected, 0);
        let (length, itl) = (task.length, task.itl);
        let descriptor = itl != NO_ITL && self.lu(task.lu).descriptor_sense;
        let outcome = match refused {
            Refused::Check(sense) => outcome::check(sense, descriptor, unused),
            Refused::Status(status) => outcome::plain(status, unused),
            Refused::Misfit(sense) => outcome::check(sense, descriptor, residual(offered, length)),
        };
        let id = self.tasks.id(slot);
        if offered > 0 {
            self.tasks.cold(slot).outcome = Some(outcome);
            let task = self.tasks.hot(slot);
            task.flags |= flag::SWALLOW;
            task.step(TaskState::Receiving);
            return Admit::Swallow(id);
        }
        self.respond(slot, outcome, None);
        Admit::NoData(id)
    }

    // ---- on the way ------------------------------------------------------------------------------------

    /// The task set lets a task run that was dormant, or whose unwanted Data-Out has passed.
    fn enter(&mut self, slot: Slot) {
        let task = self.tasks.hot(slot);
        if task.land == 0 {
            return self.ready(slot);
        }
        let wanted = task.wanted;
        if let Some(buf) = self.take(slot, wanted) {
            self.land(slot, buf);
        }
    }

    /// Tells the transport where Data-Out goes.
    fn land(&mut self, slot: Slot, mut buf: Sgv) {
        let id = self.tasks.id(slot);
        let task = self.tasks.hot(slot);
        buf.set_len(task.land);
        task.step(TaskState::Receiving);
        let (cookie, nexus) = (task.cookie, task.nexus);
        let nexus = self.nexus_id(nexus);
        self.fx.port.push(PortEffect::Land { task: id, cookie, nexus, buf });
    }

    /// Its Data-Out is in (or there is none) and its task set lets it run: it starts, or stands at the gate.
    #[inline]
    pub(crate) fn ready(&mut self, slot: Slot) {
        let task = self.tasks.hot(slot);
        let lu = self.lus[usize::from(task.lu)].as_deref_mut().expect("a task keeps its unit");
        if !lu.gate.is_open() && lu.gate.stops(task) {
            if task.state() != TaskState::Blocked {
                task.step(TaskState::Blocked);
            }
            lu.blocked.push(&mut self.tasks, slot);
            lu.stats.blocked += 1;
            return;
        }
        let access = task.access;
        if !self.itls[usize::from(task.itl)].access.allows(access) {
            // A reservation has come since it arrived.
            return self.finish(slot, Verdict::Status(Status::ReservationConflict));
        }
        match task.row.exec {
            Exec::Read if !task.has(flag::GATED) => self.read(slot),
            Exec::Write if !task.has(flag::GATED) => self.write(slot),
            _ => self.start(slot),
        }
    }

    #[inline]
    fn read(&mut self, slot: Slot) {
        let task = self.tasks.hot(slot);
        let lu = self.lus[usize::from(task.lu)].as_deref().expect("a task keeps its unit");
        let bytes = task.length.min(task.expected_read);
        if bytes == 0 {
            let length = task.length;
            return self.finish(slot, Verdict::Data(length));
        }
        // Blocks that the initiator has no room for are not read.
        let block = (1u32 << lu.shift) - 1;
        let whole = (bytes + block) & !block;
        let (channel, lends, blocks) = (lu.channel, lu.lends, whole >> lu.shift);
        let data = match task.buf.take() {
            None if !lends => match self.take(slot, whole) {
                None => return,
                buf => buf,
            },
            buf => buf,
        };
        let id = self.tasks.id(slot);
        let task = self.tasks.hot(slot);
        task.step(TaskState::Executing);
        task.in_flight = 1;
        let io = BlockIo {
            key: io_key(id, 0),
            lba: task.lba,
            data,
            blocks,
            at: 0,
            origin: Origin(u32::from(task.nexus)),
            op: Op::Read,
            flags: IoFlags(task.io_flags),
        };
        self.fx.io.push((channel, io));
    }

    #[inline]
    fn write(&mut self, slot: Slot) {
        let id = self.tasks.id(slot);
        let task = self.tasks.hot(slot);
        let lu = self.lus[usize::from(task.lu)].as_deref().expect("a task keeps its unit");
        if task.land == 0 {
            return self.finish(slot, Verdict::Good);
        }
        task.step(TaskState::Executing);
        task.in_flight = 1;
        let io = BlockIo {
            key: io_key(id, 0),
            lba: task.lba,
            data: task.buf.take(),
            blocks: task.land >> lu.shift,
            at: 0,
            origin: Origin(u32::from(task.nexus)),
            op: Op::Write,
            flags: disk::write_flags(task, lu),
        };
        self.fx.io.push((lu.channel, io));
    }

    /// All but READ and WRITE.
    #[cold]
    fn start(&mut self, slot: Slot) {
        let task = self.tasks.hot(slot);
        let (lba, blocks) = (task.lba, u64::from(task.blocks));
        match task.row.exec {
            // Memory first, then the gate: those it keeps out may hold all the memory there is.
            _ if task.has(flag::GATED) && !task.has(flag::HOLDS_GATE) => {
                if self.provide(slot) {
                    self.ask(slot, RequestKind::Lock(Scope::All));
                }
            }
            Exec::Read => self.read(slot),
            Exec::Write => self.write(slot),
            Exec::Describe(_) | Exec::ReportLuns | Exec::RequestSense => self.describe(slot),
            Exec::TestUnitReady | Exec::PreventAllow | Exec::PreFetch => self.finish(slot, Verdict::Good),
            Exec::CompareAndWrite if !task.has(flag::HOLDS_GATE) => {
                self.ask(slot, RequestKind::Lock(Scope::Blocks { lba, end: lba + blocks }));
            }
            Exec::Reserve => self.ask(slot, RequestKind::Reserve),
            Exec::Release => self.ask(slot, RequestKind::Release),
            Exec::ModeSelect => {
                let (cdb, list) = self.parameter_list(slot);
                let nexus = self.tasks.peek(slot).nexus;
                let info = self.nexuses[usize::from(nexus)].info.clone();
                self.ask(slot, RequestKind::ModeSelect { cdb, list, info });
            }
            Exec::PersistentOut => {
                let (cdb, list) = self.parameter_list(slot);
                let nexus = self.tasks.peek(slot).nexus;
                let port = self.nexuses[usize::from(nexus)].info.target_port;
                self.ask(slot, RequestKind::PersistentOut { cdb, list, port });
            }
            Exec::LbaStatus => {
                if self.provide(slot) {
                    self.execute(slot);
                }
            }
            Exec::WriteAndVerify
            | Exec::Verify
            | Exec::CompareAndWrite
            | Exec::WriteSame
            | Exec::Unmap
            | Exec::SynchronizeCache
            | Exec::StartStop => self.execute(slot),
        }
    }

    /// Memory for Data-In, before anything else is waited for. `false`: the task stands in line for it.
    fn provide(&mut self, slot: Slot) -> bool {
        let task = self.tasks.peek(slot);
        let lu = self.lu(task.lu);
        let mut bytes = task.length.min(task.expected_read);
        match task.row.exec {
            Exec::Read if !lu.lends => bytes = bytes.next_multiple_of(1 << lu.shift),
            Exec::LbaStatus => {}
            _ => return true,
        }
        if bytes == 0 || task.buf.is_some() {
            return true;
        }
        let buf = self.take(slot, bytes);
        let there = buf.is_some();
        self.tasks.hot(slot).buf = buf;
        there
    }

    fn execute(&mut self, slot: Slot) {
        self.tasks.hot(slot).step(TaskState::Executing);
        let step = disk::start(&mut self.cx(slot));
        if let Step::Done(verdict) = step {
            self.finish(slot, verdict);
        }
    }

    fn cx(&mut self, slot: Slot) -> TaskCx<'_> {
        let id = self.tasks.id(slot);
        let (task, cold) = self.tasks.both(slot);
        let lu = self.lus[usize::from(task.lu)].as_deref().expect("a task keeps its unit");
        let origin = Origin(u32::from(task.nexus));
        TaskCx { id, origin, task, cold, lu, fx: &mut self.fx, pool: &mut self.pool }
    }

    /// The parameter list of a command that is decided at home; its buffer is not needed any longer.
    fn parameter_list(&mut self, slot: Slot) -> ([u8; 32], Box<[u8]>) {
        let (task, cold) = self.tasks.both(slot);
        let mut list = vec![0; task.land as usize].into_boxed_slice();
        let cdb = cold.cdb;
        if let Some(buf) = task.buf.take() {
            buf.copy_to(0, &mut list);
            self.put(buf);
        }
        (cdb, list)
    }

    /// Asks the unit's home.
    fn ask(&mut self, slot: Slot, kind: RequestKind) {
        let id = self.tasks.id(slot);
        let task = self.tasks.hot(slot);
        task.step(TaskState::AtHome);
        let (nexus, lu) = (task.nexus, task.lu);
        let who = self.nexuses[usize::from(nexus)].name.clone();
        let (lu, home) = (self.lu(lu).lu, self.lu(lu).home);
        let what = Box::new(Request { who, kind });
        self.post(home, ScsiMsg::Request { lu, ticket: Ticket::Task(id), what });
    }

    fn reply_to_task(&mut self, slot: Slot, reply: Reply) {
        if self.tasks.peek(slot).state() != TaskState::AtHome {
            return;
        }
        let aborted = self.tasks.peek(slot).has(flag::ABORTED);
        if let Reply::Granted(epoch) = reply {
            self.tasks.hot(slot).flags |= flag::HOLDS_GATE;
            self.tasks.hot(slot).epoch = epoch;
        }
        if aborted {
            return self.end_aborted(slot);
        }
        match reply {
            Reply::Granted(_) => self.ready(slot),
            Reply::Done => self.finish(slot, Verdict::Good),
            Reply::Conflict => self.finish(slot, Verdict::Status(Status::ReservationConflict)),
            Reply::Check(sense) => self.finish(slot, Verdict::Check(*sense)),
            // Only what was aborted is cancelled.
            Reply::Cancelled => self.finish(slot, Verdict::Status(Status::Busy)),
        }
    }

    // ---- completion ------------------------------------------------------------------------------------

    #[inline]
    fn io_ended(&mut self, done: IoDone) {
        let (id, sub) = of_io_key(done.key);
        let slot = match self.tasks.find(id) {
            Some(slot) if self.tasks.peek(slot).in_flight >> (sub & 15) & 1 == 1 => slot,
            _ => {
                // An operation completes once; a second time is a mistake of a channel. Its memory is still ours.
                self.stats.stray_completions += 1;
                if let Some(buf) = done.data {
                    self.put(buf);
                }
                return;
            }
        };
        let task = self.tasks.hot(slot);
        task.in_flight &= !(1 << (sub & 15));
        if task.has(flag::ABORTED) && !planted::on(Bug::StatusAfterAbort) {
            let last = task.in_flight == 0;
            if let Some(buf) = done.data {
                self.put(buf);
            }
            if last {
                self.end_aborted(slot);
            }
            return;
        }
        match task.row.exec {
            Exec::Read => {
                task.buf = done.data;
                let verdict = match done.result {
                    IoResult::Err(error) if !planted::on(Bug::StaleData) => {
                        Verdict::Check(sense_of(error, task.lba))
                    }
                    _ => Verdict::Data(task.length),
                };
                self.finish(slot, verdict);
            }
            Exec::Write => {
                let verdict = match done.result {
                    IoResult::Err(error) if !planted::on(Bug::WriteErrorHidden) => {
                        Verdict::Check(sense_of(error, task.lba))
                    }
                    _ => Verdict::Good,
                };
                if let Some(buf) = done.data {
                    self.put(buf);
                }
                self.finish(slot, verdict);
            }
            _ => {
                if let IoResult::Err(_) = done.result {
                    let lu = task.lu;
                    self.lu_mut(lu).stats.errors += 1;
                }
                if let Step::Done(verdict) = disk::resume(&mut self.cx(slot), done.result, done.data) {
                    self.finish(slot, verdict);
                }
            }
        }
    }

    /// The command has ended: outcome and data go to the transport, everything else back where it belongs.
    #[inline]
    pub(crate) fn finish(&mut self, slot: Slot, verdict: Verdict) {
        let task = self.tasks.hot(slot);
        let lu = self.lus[usize::from(task.lu)].as_deref_mut().expect("a task keeps its unit");
        let expected = if task.expected_write > 0 { task.expected_write } else { task.expected_read };
        let mut data = task.buf.take();
        let mut sent = 0;
        let outcome = match verdict {
            Verdict::Data(total) => {
                // Data-In that the initiator has asked for, in the direction it said.
                let total = if task.expected_write > 0 { 0 } else { total };
                sent = total.min(task.expected_read).min(data.as_ref().map_or(0, Sgv::len));
                if sent < total.min(task.expected_read) {
                    // The device gave less than it said: nothing of it is shown.
                    sent = 0;
                    let sense = Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE);
                    outcome::check(sense, lu.descriptor_sense, residual(expected, 0))
                } else {
                    outcome::plain(Status::Good, residual(expected, total))
                }
            }
            Verdict::Good => {
                // What the command needed, whether it was offered or not.
                let moved = task.length;
                outcome::plain(Status::Good, residual(expected, moved))
            }
            Verdict::Check(sense) => {
                lu.stats.errors += u64::from(!matches!(
                    sense.key,
                    SenseKey::IllegalRequest | SenseKey::UnitAttention | SenseKey::Miscompare
                ));
                let moved = if task.has(flag::RECEIVED) { task.length } else { 0 };
                outcome::check(sense, lu.descriptor_sense, residual(expected, moved))
            }
            Verdict::Status(status) => outcome::plain(status, residual(expected, 0)),
        };
        match task.row.exec {
            Exec::Read => {
                lu.stats.reads += 1;
                lu.stats.read_bytes += u64::from(sent);
            }
            Exec::Write => {
                lu.stats.writes += 1;
                lu.stats.write_bytes += u64::from(task.land);
            }
            _ => lu.stats.others += 1,
        }
        if sent == 0
            && let Some(buf) = data.take()
        {
            self.pool.put(buf);
        }
        self.respond(slot, outcome, data.map(|buf| (buf, sent)));
    }

    #[inline]
    pub(crate) fn respond(&mut self, slot: Slot, outcome: Outcome, data: Option<(Sgv, u32)>) {
        self.leave(slot);
        let id = self.tasks.id(slot);
        let task = self.tasks.hot(slot);
        task.step(TaskState::Responding);
        let (cookie, slot) = (task.cookie, task.nexus);
        let nexus = &mut self.nexuses[usize::from(slot)];
        nexus.stats.read_bytes += data.as_ref().map_or(0, |(_, bytes)| u64::from(*bytes));
        nexus.stats.checks += u64::from(outcome.status == Status::CheckCondition);
        let nexus = NexusId::new(self.cfg.core.0, slot, nexus.generation);
        self.fx.port.push(PortEffect::Respond { task: id, cookie, nexus, outcome, data });
    }

    /// The task does nothing any more: its task set, and a gate that waits for it, hear of it.
    #[inline]
    pub(crate) fn leave(&mut self, slot: Slot) {
        let task = self.tasks.hot(slot);
        if task.has(flag::IN_SET) {
            let itl = task.itl;
            let lu = self.lus[usize::from(task.lu)].as_deref_mut().expect("a task keeps its unit");
            let set = if lu.tst_shared { &mut lu.set } else { &mut self.itls[usize::from(itl)].set };
            set.leave(&mut self.tasks, slot);
            if set.has_dormant() {
                self.wakes.push(itl);
            }
        }
        let task = self.tasks.hot(slot);
        if task.flags & (flag::HOLDS_GATE | flag::DRAINED) != 0 {
            self.leave_gate(slot);
        }
    }

    #[cold]
    fn leave_gate(&mut self, slot: Slot) {
        let task = self.tasks.hot(slot);
        let (drained, holds) = (task.has(flag::DRAINED), task.has(flag::HOLDS_GATE));
        let (lu_slot, epoch) = (task.lu, task.epoch);
        task.flags &= !(flag::DRAINED | flag::HOLDS_GATE);
        if drained {
            self.gate_drained(lu_slot);
        }
        if holds {
            let shard = self.lu(lu_slot);
            let (lu, home) = (shard.lu, shard.home);
            self.post(home, ScsiMsg::Unlock { lu, epoch });
        }
    }

    /// The task is over: its row is free.
    #[inline]
    pub(crate) fn end(&mut self, slot: Slot) {
        let task = self.tasks.hot(slot);
        task.step(TaskState::Free);
        let (prev, next, nexus_slot) = (task.nexus_prev, task.nexus_next, task.nexus);
        let (itl_slot, lu_slot, watched) = (task.itl, task.lu, task.has(flag::WATCHED));
        if next != NONE {
            self.tasks.hot(next).nexus_prev = prev;
        }
        let nexus = &mut self.nexuses[usize::from(nexus_slot)];
        if prev == NONE {
            nexus.first_task = next;
        } else {
            self.tasks.hot(prev).nexus_next = next;
        }
        nexus.tasks -= 1;
        self.promised += u32::from(nexus.tasks < nexus.granted);
        let nexus_idle = nexus.lost && nexus.tasks == 0;
        let mut unit_idle = false;
        if itl_slot != NO_ITL {
            let itl = &mut self.itls[usize::from(itl_slot)];
            itl.tasks -= 1;
            unit_idle = itl.gone && itl.tasks == 0;
            let lu = self.lus[usize::from(lu_slot)].as_deref_mut().expect("a task keeps its unit");
            lu.tasks -= 1;
            unit_idle |= lu.closing && lu.tasks == 0;
        }
        if watched {
            self.watched_task_ended(slot);
        }
        self.tasks.put(slot);
        if nexus_idle || unit_idle {
            self.end_idle(nexus_slot, itl_slot, lu_slot);
        }
    }

    #[cold]
    fn end_idle(&mut self, nexus: u16, itl: u16, lu: u16) {
        if itl != NO_ITL {
            if self.itls[usize::from(itl)].gone && self.itls[usize::from(itl)].tasks == 0 {
                self.itl_gone(itl);
            }
            if self.lus[usize::from(lu)].is_some() {
                self.lu_try_close(lu);
            }
        }
        self.nexus_idle(nexus);
    }

    // ---- between turns ---------------------------------------------------------------------------------

    /// A message to an engine; to our own it goes through a queue.
    pub(crate) fn post(&mut self, to: CoreId, msg: ScsiMsg) {
        if to == self.cfg.core { self.local.push_back(msg) } else { self.fx.core.push((to, msg)) }
    }

    /// Does what follows from what has just been done, until nothing follows.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if !self.local.is_empty() || !self.wakes.is_empty() || !self.hungry.is_empty() {
            self.settle_slow();
        }
    }

    #[cold]
    fn settle_slow(&mut self) {
        loop {
            if let Some(msg) = self.local.pop_front() {
                self.handle(self.cfg.core, msg);
            } else if let Some(itl) = self.wakes.pop() {
                self.wake(itl);
            } else if !self.feed() {
                return;
            }
        }
    }

    /// Wakes those of a task set that may run now.
    fn wake(&mut self, itl: u16) {
        loop {
            let lu = self.itls[usize::from(itl)].lu;
            let Some(lu) = self.lus[usize::from(lu)].as_deref_mut() else { return };
            let set = if lu.tst_shared { &mut lu.set } else { &mut self.itls[usize::from(itl)].set };
            let slot = set.wake(&mut self.tasks);
            if slot == NONE {
                return;
            }
            self.enter(slot);
        }
    }

    /// Gives memory to the first in line. `false`: nobody waits, or there is none.
    fn feed(&mut self) -> bool {
        let slot = self.hungry.first();
        if slot == NONE || planted::on(Bug::PoolForgotten) {
            return false;
        }
        let (wanted, share) = (self.tasks.peek(slot).wanted, self.share_of_task(slot));
        let Some(buf) = self.pool.take(wanted, share) else { return false };
        self.hungry.remove(&mut self.tasks, slot);
        let task = self.tasks.hot(slot);
        if task.land > 0 {
            self.land(slot, buf);
        } else {
            task.buf = Some(buf);
            if task.itl == NO_ITL { self.describe_without_unit(slot) } else { self.ready(slot) }
        }
        true
    }

    /// Under whose name a task's memory is counted.
    #[inline]
    fn share_of_task(&self, slot: Slot) -> ShareId {
        let task = self.tasks.peek(slot);
        if task.itl == NO_ITL { ShareId::default() } else { self.lu(task.lu).share }
    }

    fn handle(&mut self, from: CoreId, msg: ScsiMsg) {
        use ScsiMsg as M;
        let lu = match &msg {
            M::Join { lu }
            | M::Leave { lu }
            | M::Request { lu, .. }
            | M::Cancel { lu, .. }
            | M::Unlock { lu, .. }
            | M::Closed { lu, .. }
            | M::Acked { lu, .. }
            | M::Joined { lu, .. }
            | M::Left { lu }
            | M::Close { lu, .. }
            | M::Publish { lu, .. }
            | M::Open { lu, .. }
            | M::Reply { lu, .. } => *lu,
        };
        let slot = self.lu_slots.get(&lu).copied();
        let Some(slot) = slot.filter(|slot| self.lu(*slot).at_home.is_some() || !to_home(&msg)) else {
            return self.unit_is_gone(from, lu, msg);
        };
        match msg {
            M::Join { .. } => self.home_join(slot, from),
            M::Leave { .. } => self.home_leave(slot, from),
            M::Request { ticket, what, .. } => self.home_ask(slot, from, ticket, what),
            M::Cancel { ticket, .. } => self.home_cancel(slot, from, ticket),
            M::Unlock { epoch, .. } => self.home_unlocked(slot, epoch),
            M::Closed { epoch, .. } => self.home_closed(slot, epoch),
            M::Acked { epoch, .. } => self.home_acked(slot, epoch),
            M::Joined { policy, .. } => self.on_joined(slot, *policy),
            M::Left { .. } => self.on_left(slot),
            M::Close { epoch, scope, abort, .. } => self.gate_close(slot, from, epoch, scope, abort),
            M::Publish { epoch, news, .. } => self.gate_publish(slot, from, epoch, *news),
            M::Open { epoch, .. } => self.gate_open(slot, epoch),
            M::Reply { ticket, reply, .. } => self.on_reply(ticket, reply),
        }
    }

    /// A message about a unit that is no longer here. Whoever waits for an answer gets one.
    #[cold]
    fn unit_is_gone(&mut self, from: CoreId, lu: LuId, msg: ScsiMsg) {
        match msg {
            ScsiMsg::Request { ticket, .. } => {
                let sense = Box::new(Sense::illegal_request(Asc::LOGICAL_UNIT_NOT_SUPPORTED));
                self.post(from, ScsiMsg::Reply { lu, ticket, reply: Reply::Check(sense) });
            }
            ScsiMsg::Leave { .. } => self.post(from, ScsiMsg::Left { lu }),
            ScsiMsg::Close { epoch, .. } => self.post(from, ScsiMsg::Closed { lu, epoch }),
            ScsiMsg::Publish { epoch, .. } => self.post(from, ScsiMsg::Acked { lu, epoch }),
            ScsiMsg::Reply { ticket, reply, .. } => self.on_reply(ticket, reply),
            _ => {}
        }
    }

    fn on_reply(&mut self, ticket: Ticket, reply: Reply) {
        match ticket {
            Ticket::Task(id) => {
                if let Some(slot) = self.tasks.find(id) {
                    self.reply_to_task(slot, reply);
                }
            }
            Ticket::Tmf(tmf) => self.tmf_part_done(tmf),
            Ticket::Nexus(nexus) => self.nexus_part_done(nexus),
        }
    }

    /// The gate has opened: those who waited start, in order.
    pub(crate) fn release_blocked(&mut self, slot: u16) {
        // Those that a new closing stops go to the end of the line, behind the ones counted here.
        for _ in 0..self.lu(slot).blocked.len() {
            if planted::on(Bug::LostWakeUp) {
                return;
            }
            let lu = self.lus[usize::from(slot)].as_deref_mut().expect("blocked tasks keep their unit");
            let first = lu.blocked.first();
            if first == NONE {
                return;
            }
            lu.blocked.remove(&mut self.tasks, first);
            self.ready(first);
        }
    }

    /// The gate of a unit, for people and tests.
    pub fn gate_of(&self, lu: LuId) -> Option<Gate> {
        self.lu_slots.get(&lu).map(|slot| self.lu(*slot).gate)
    }
}

fn to_home(msg: &ScsiMsg) -> bool {
    use ScsiMsg::*;
    matches!(
        msg,
        Join { .. }
            | Leave { .. }
            | Request { .. }
            | Cancel { .. }
            | Unlock { .. }
            | Closed { .. }
            | Acked { .. }
    )
}

#[inline]
fn task_itl(tasks: &TaskTable, slot: Slot) -> u16 {
    tasks.peek(slot).itl
}

impl Mid for Engine {
    fn nexus_up(&mut self, info: Box<NexusInfo>) -> Result<NexusId, Refusal> {
        let id = self.nexus_begins(info);
        self.settle();
        id
    }

    fn grant(&mut self, nexus: NexusId, wanted: u32) -> u32 {
        self.nexus_grant(nexus, wanted)
    }

    #[inline]
    fn command(&mut self, command: &Command<'_>) -> Admit {
        let admit = self.admit(command);
        self.settle();
        admit
    }

    #[inline]
    fn received(&mut self, task: TaskId, buf: Sgv) {
        let Some(slot) = self.receiving(task, false) else {
            self.put(buf);
            return self.settle();
        };
        let (t, room) = (self.tasks.hot(slot), buf.capacity());
        t.flags |= flag::RECEIVED;
        let (short, cramped) = (buf.len() < t.land, room < t.wanted);
        let bytes = u64::from(t.land);
        t.buf = Some(buf);
        let (aborted, nexus) = (t.has(flag::ABORTED), t.nexus);
        self.nexuses[usize::from(nexus)].stats.write_bytes += bytes;
        if aborted {
            self.end_aborted(slot);
        } else if short {
            self.finish(slot, Verdict::Check(sense_of_receive(ReceiveError::Protocol)));
        } else if cramped {
            // Adopted memory without the room that a comparing command asked for.
            self.finish(slot, Verdict::Status(Status::Busy));
        } else {
            self.ready(slot);
        }
        self.settle();
    }

    fn receive_failed(&mut self, task: TaskId, buf: Option<Sgv>, why: ReceiveError) {
        if let Some(buf) = buf {
            self.put(buf);
        }
        if let Some(slot) = self.tasks.find(task) {
            let t = self.tasks.hot(slot);
            match t.state() {
                _ if t.has(flag::REVOKING) => {}
                TaskState::Receiving if t.has(flag::ABORTED) => self.end_aborted(slot),
                TaskState::Receiving => {
                    let outcome = self.tasks.cold(slot).outcome.take();
                    match outcome {
                        Some(outcome) => self.respond(slot, outcome, None),
                        None if self.tasks.peek(slot).itl == NO_ITL => {
                            let outcome = outcome::check(sense_of_receive(why), false, Residual::None);
                            self.respond(slot, outcome, None);
                        }
                        None => self.finish(slot, Verdict::Check(sense_of_receive(why))),
                    }
                }
                // Before it had a buffer: it leaves the line it stands in.
                TaskState::Dormant | TaskState::WantsBuffer => {
                    self.unlink(slot);
                    self.finish(slot, Verdict::Check(sense_of_receive(why)));
                }
                _ => {}
            }
        }
        self.settle();
    }

    fn swallowed(&mut self, task: TaskId) {
        if let Some(slot) = self.receiving(task, true) {
            let (t, cold) = self.tasks.both(slot);
            t.flags &= !flag::SWALLOW;
            let outcome = cold.outcome.take();
            if t.has(flag::ABORTED) {
                self.end_aborted(slot);
            } else if let Some(outcome) = outcome {
                self.respond(slot, outcome, None);
            } else if self.tasks.peek(slot).itl == NO_ITL {
                self.describe_without_unit(slot);
            } else if self.enlist(slot) {
                self.enter(slot);
            }
        }
        self.settle();
    }

    #[inline]
    fn responded(&mut self, task: TaskId) {
        if let Some(slot) = self.tasks.find(task)
            && self.tasks.peek(slot).state() == TaskState::Responding
        {
            self.end(slot);
        }
        self.settle();
    }

    #[inline]
    fn returned(&mut self, buf: Sgv) {
        self.put(buf);
        self.settle();
    }

    fn revoked(&mut self, task: TaskId, buf: Option<Sgv>) {
        if let Some(buf) = buf {
            self.put(buf);
        }
        if let Some(slot) = self.tasks.find(task)
            && self.tasks.peek(slot).has(flag::REVOKING)
        {
            self.leave(slot);
            self.end(slot);
        }
        self.settle();
    }

    fn task_management(&mut self, tmf: &Tmf) {
        self.manage(tmf);
        self.settle();
    }

    fn nexus_lost(&mut self, nexus: NexusId) {
        self.nexus_ends(nexus);
        self.settle();
    }
}

impl Engine {
    /// The slot of a task that receives (or swallows) and may still go on.
    #[inline]
    fn receiving(&self, task: TaskId, swallows: bool) -> Option<Slot> {
        let slot = self.tasks.find(task)?;
        let t = self.tasks.peek(slot);
        let right = t.state() == TaskState::Receiving && t.has(flag::SWALLOW) == swallows;
        // Crossed with a `Revoke`: the answer to that ends it.
        (right && !t.has(flag::REVOKING)).then_some(slot)
    }
}
