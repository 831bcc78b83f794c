//! A command is performed: past the gate, to the device or to the unit's home.

use spindle_bdev::{BlockIo, IoFlags, Op, Origin};
use spindle_mem::Sgv;
use spindle_scsi_port::PortEffect;
use spindle_scsi_spec::{Sense, Status};

use crate::device_server::Exec;
use crate::device_server::disk::sync_cache::flushes_behind;
use crate::device_server::disk::{self, Step, TaskCx, Verdict};
use crate::engine::Engine;
use crate::message::{Reply, Request, RequestKind, Scope, ScsiMsg, Ticket};
use crate::task::{Slot, TaskState, flag, io_key};

impl Engine {
    /// The task set lets a task run that was dormant, or whose unwanted Data-Out has passed.
    pub(crate) fn enter(&mut self, slot: Slot) {
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
    pub(crate) fn land(&mut self, slot: Slot, mut buf: Sgv) {
        let id = self.tasks.id(slot);
        let task = self.tasks.hot(slot);
        buf.set_len(task.land);
        task.step(TaskState::Receiving);
        let (cookie, nexus) = (task.cookie, task.nexus);
        let nexus = self.nexus_id(nexus);
        self.fx.port.push(PortEffect::Land { task: id, cookie, nexus, buf });
    }

    /// Its Data-Out is in (or there is none) and its task set lets it run: it starts, or stands at the gate.
    pub(crate) fn ready(&mut self, slot: Slot) {
        let task = self.tasks.hot(slot);
        let lu = self.lus[usize::from(task.lu)].as_deref_mut().expect("a task keeps its unit");
        if !lu.gate().is_open() && lu.gate().stops(task) {
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
    pub(crate) fn read(&mut self, slot: Slot) {
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
    pub(crate) fn write(&mut self, slot: Slot) {
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

    /// [`Bug::LateWrite`]: what an aborted task holds goes to the device all the same.
    #[cold]
    pub(crate) fn write_late(&mut self, slot: Slot) {
        let key = io_key(self.tasks.id(slot), 0);
        let task = self.tasks.hot(slot);
        let lu = self.lus[usize::from(task.lu)].as_deref().expect("a task keeps its unit");
        if let Some(buf) = task.buf.take() {
            let (lba, blocks) = (task.lba, buf.len() >> lu.shift);
            let (origin, flags) = (Origin(0), IoFlags::NONE);
            let io = BlockIo { key, lba, data: Some(buf), blocks, at: 0, origin, op: Op::Write, flags };
            self.fx.io.push((lu.channel, io));
        }
    }

    /// All but READ and WRITE.
    #[cold]
    pub(crate) fn start(&mut self, slot: Slot) {
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
                let ports = self.nexuses[usize::from(nexus)].ports.iter().map(|p| p.relative).collect();
                self.ask(slot, RequestKind::PersistentOut { cdb, list, ports });
            }
            Exec::Refused(key, asc) => self.finish(slot, Verdict::Check(Sense::new(key, asc))),
            Exec::SynchronizeCache | Exec::StartStop if flushes_behind(task) => {
                self.flush_behind(slot);
                self.finish(slot, Verdict::Good);
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
    pub(crate) fn provide(&mut self, slot: Slot) -> bool {
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

    pub(crate) fn execute(&mut self, slot: Slot) {
        self.tasks.hot(slot).step(TaskState::Executing);
        let step = disk::start(&mut self.cx(slot));
        if let Step::Done(verdict) = step {
            self.finish(slot, verdict);
        }
    }

    pub(crate) fn cx(&mut self, slot: Slot) -> TaskCx<'_> {
        let id = self.tasks.id(slot);
        let (task, cold) = self.tasks.both(slot);
        let lu = self.lus[usize::from(task.lu)].as_deref().expect("a task keeps its unit");
        let origin = Origin(u32::from(task.nexus));
        TaskCx { id, origin, task, cold, lu, fx: &mut self.fx, pool: &mut self.pool }
    }

    /// The parameter list of a command that is decided at home; its buffer is not needed any longer.
    pub(crate) fn parameter_list(&mut self, slot: Slot) -> ([u8; 32], Box<[u8]>) {
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
    pub(crate) fn ask(&mut self, slot: Slot, kind: RequestKind) {
        let id = self.tasks.id(slot);
        let task = self.tasks.hot(slot);
        task.step(TaskState::AtHome);
        let (nexus, lu) = (task.nexus, task.lu);
        let who = self.nexuses[usize::from(nexus)].name.clone();
        let (lu, home) = (self.lu(lu).lu, self.lu(lu).home);
        let what = Box::new(Request { who, since: u64::MAX, kind });
        self.post(home, ScsiMsg::Request { lu, ticket: Ticket::Task(id), what });
    }

    pub(crate) fn reply_to_task(&mut self, slot: Slot, reply: Reply) {
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
}
