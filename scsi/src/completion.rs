//! A command ends: outcome and data go to the transport, everything else back where it belongs.

use spindle_bdev::{IoDone, IoResult};
use spindle_mem::Sgv;
use spindle_scsi_port::{Outcome, PortEffect};
use spindle_scsi_spec::{Asc, Sense, SenseKey, Status};

use crate::device_server::Exec;
use crate::device_server::disk::{self, Step, Verdict};
use crate::engine::Engine;
use crate::flush;
use crate::message::ScsiMsg;
use crate::outcome::{self, residual, sense_of};
use crate::planted::{self, Bug};
use crate::task::{Slot, TaskState, flag, of_io_key};

impl Engine {
    /// An operation has ended, in whatever way.
    #[inline(never)]
    pub(crate) fn io_ended(&mut self, done: IoDone) {
        self.take_back(done);
        self.settle();
    }

    fn take_back(&mut self, done: IoDone) {
        let (id, sub) = of_io_key(done.key);
        let under_way = 1 << (sub & 15);
        let (slot, task) = match self.tasks.find_mut(id) {
            Some((slot, task)) if task.in_flight & under_way != 0 => (slot, task),
            _ => {
                if let Some(unit) = flush::unit_of(done.key) {
                    return self.flush_ended(unit, done.result);
                }
                // An operation completes once; a second time is a mistake of a channel. Its memory is still ours.
                self.stats.stray_completions += 1;
                if let Some(buf) = done.data {
                    self.put(buf);
                }
                return;
            }
        };
        task.in_flight &= !under_way;
        if task.has(flag::ABORTED) {
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
    pub(crate) fn finish(&mut self, slot: Slot, verdict: Verdict) {
        let (task, cold) = self.tasks.both(slot);
        let lu = self.lus[usize::from(task.lu)].as_deref_mut().expect("a task keeps its unit");
        let expected = task.expected();
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
            _ => {
                lu.stats.others += 1;
                cold.steps = Default::default();
            }
        }
        if sent == 0
            && let Some(buf) = data.take()
        {
            self.pool.put(buf);
        }
        self.respond(slot, outcome, data.map(|buf| (buf, sent)));
    }

    /// The answer of a command.
    pub(crate) fn respond(&mut self, slot: Slot, mut outcome: Outcome, data: Option<(Sgv, u32)>) {
        self.leave(slot);
        let id = self.tasks.id(slot);
        let task = self.tasks.hot(slot);
        outcome.residual_in = task.residual_in();
        task.step(TaskState::Responding);
        let (cookie, slot) = (task.cookie, task.nexus);
        let nexus = &mut self.nexuses[usize::from(slot)];
        nexus.stats.read_bytes += data.as_ref().map_or(0, |(_, bytes)| u64::from(*bytes));
        nexus.stats.checks += u64::from(outcome.status == Status::CheckCondition);
        let nexus = nexus.id;
        self.fx.port.push(PortEffect::Respond { task: id, cookie, nexus, outcome, data });
    }

    /// The task does nothing any more: its task set, and a gate that waits for it, hear of it.
    pub(crate) fn leave(&mut self, slot: Slot) {
        let task = self.tasks.hot(slot);
        if task.has(flag::IN_SET) {
            let itl = task.itl;
            let lu = self.lus[usize::from(task.lu)].as_deref_mut().expect("a task keeps its unit");
            let set = if lu.tst_shared { &mut lu.set } else { &mut self.itls[usize::from(itl)].set };
            set.leave(task);
            if set.has_dormant() {
                self.wakes.push(itl);
                self.unsettled = true;
            }
        }
        let task = self.tasks.hot(slot);
        if task.flags & (flag::HOLDS_GATE | flag::DRAINED) != 0 {
            self.leave_gate(slot);
        }
    }

    #[cold]
    pub(crate) fn leave_gate(&mut self, slot: Slot) {
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
    pub(crate) fn end(&mut self, slot: Slot) {
        let task = self.tasks.hot(slot);
        task.step(TaskState::Free);
        let (nexus_slot, itl_slot, watched) = (task.nexus, task.itl, task.has(flag::WATCHED));
        let nexus = &mut self.nexuses[usize::from(nexus_slot)];
        nexus.tags.remove(&mut self.tasks, slot);
        nexus.tasks -= 1;
        self.promised += u32::from(nexus.tasks < nexus.granted);
        let mut idle = nexus.lost && nexus.tasks == 0;
        if let Some(itl) = self.itls.get_mut(usize::from(itl_slot)) {
            itl.tasks -= 1;
            idle |= itl.gone && itl.tasks == 0;
        }
        if watched {
            self.watched_task_ended(slot);
        }
        self.tasks.put(slot);
        if idle {
            self.end_idle(nexus_slot, itl_slot);
        }
    }

    #[cold]
    pub(crate) fn end_idle(&mut self, nexus: u16, itl: u16) {
        if let Some(idle) = self.itls.get(usize::from(itl))
            && idle.gone
            && idle.tasks == 0
        {
            self.itl_gone(itl);
        }
        self.nexus_idle(nexus);
    }
}
