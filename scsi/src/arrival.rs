//! A command arrives: what is said against it, whether its task set lets it run, where its data goes.

use spindle_mem::Sgv;
use spindle_scsi_port::{Admit, Command, TaskAttr};
use spindle_scsi_spec::{Asc, FieldError, Sense, Status};

use crate::device_server::disk::{self, Data, Fit, Plan};
use crate::device_server::{Attention, Exec, Needs, check_usage, table};
use crate::engine::Engine;
use crate::gate::touches;
use crate::message::Scope;
use crate::outcome::{self, residual};
use crate::planted::{self, Bug};
use crate::task::{NO_ITL, NONE, NOTHING, Slot, TaskState, flag};

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
    #[inline]
    pub(crate) fn admit(&mut self, c: &Command<'_>) -> Admit {
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
        task.row = &NOTHING;
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
        let task = self.tasks.hot(slot);
        let itl = &self.itls[usize::from(task.itl)];
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
    pub(crate) fn enlist(&mut self, slot: Slot) -> bool {
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
}
