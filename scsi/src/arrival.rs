//! A command arrives: what is said against it, whether its task set lets it run, where its data goes.

use spindle_mem::Sgv;
use spindle_scsi_port::{Admit, Command, TaskAttr};
use spindle_scsi_spec::{Asc, FieldError, Lun, Sense, SenseKey, Status};

use crate::device_server::disk::{self, Data, Fit, Plan};
use crate::device_server::{Attention, Exec, Needs, check_usage, table};
use crate::engine::Engine;
use crate::gate::touches;
use crate::lu::LuShard;
use crate::message::Scope;
use crate::nexus::Itl;
use crate::outcome::{self, residual};
use crate::planted::{self, Bug};
use crate::task::{AbortCause, NO_ITL, NOTHING, Slot, Task, TaskState, flag};
use crate::task_manager::{Asker, Then, Whose};

/// What keeps an arriving command from being performed.
enum Refused {
    Check(Sense),
    Status(Status),
    /// CHECK CONDITION, and the residual says by how much the initiator offered too little or too much of this.
    Misfit(Sense, u32),
    /// The unit attention that waits; without one, this.
    Attention(Sense),
}

impl From<Sense> for Refused {
    fn from(sense: Sense) -> Refused {
        Refused::Check(sense)
    }
}

impl Engine {
    /// What [`Engine::admit_quick`] did not know what to do with.
    #[inline(never)]
    pub(crate) fn admit(&mut self, c: &Command<'_>) -> Admit {
        let nexus_slot = c.nexus.slot();
        let Some(nexus) = self.nexuses.get_mut(usize::from(nexus_slot)) else { return Admit::Refused };
        if nexus.live != c.nexus.0 {
            return Admit::Refused;
        }
        // A nexus within its grant finds a slot for certain; beyond it, what is promised to others is not taken.
        let within = nexus.tasks < nexus.granted;
        if !within && self.tasks.free() <= self.promised {
            return Admit::Refused;
        }
        let overlaps = nexus.tags.overlaps(&self.tasks, c.tag);
        let itl_slot = match lun_number(c.lun) {
            Some(lun) => nexus.luns.get(lun as usize).copied().unwrap_or(NO_ITL),
            None => NO_ITL,
        };
        let Some((slot, task)) = self.tasks.take() else { return Admit::Refused };
        self.promised -= u32::from(within);
        nexus.tasks += 1;
        nexus.stats.commands += 1;
        task.nexus = nexus_slot;
        task.itl = itl_slot;
        task.cookie = c.cookie;
        task.tag = c.tag;
        task.attr = c.attr;
        task.expected_read = c.expected.read;
        task.expected_write = c.expected.write;
        task.started = self.now;
        task.land = 0;
        nexus.tags.add(slot, task);
        if overlaps {
            return self.overlapped(slot, c);
        }
        if itl_slot == NO_ITL {
            return self.admit_without_unit(slot, c);
        }
        let itl = &mut self.itls[usize::from(itl_slot)];
        let lu = self.lus[usize::from(itl.lu)].as_deref().expect("an I_T_L nexus keeps its unit");
        task.lu = itl.lu;
        itl.tasks += 1;
        let plan = match judge(task, itl, lu, c) {
            Ok(plan) => plan,
            Err(refused) => return self.refuse(slot, refused),
        };
        task.lba = plan.lba;
        task.blocks = plan.blocks;
        task.length = plan.length;
        task.io_flags = plan.io_flags.0;
        task.option = plan.option;
        if plan.data == Data::Out {
            task.land = plan.length.min(c.expected.write);
        }
        task.wanted = task.land + plan.extra;
        self.accept(slot, c)
    }

    /// SAM-5 §5.10: a tag that is in use is used again. Nobody knows which command the initiator will mean by it, so
    /// all that it has here end, and the new one says so.
    #[cold]
    fn overlapped(&mut self, slot: Slot, c: &Command<'_>) -> Admit {
        let task = self.tasks.hot(slot);
        let (id, nexus, itl) = (task.id(slot), task.nexus, task.itl);
        task.row = &NOTHING;
        task.blocks = 0;
        match self.itls.get_mut(usize::from(itl)) {
            Some(itl) => {
                task.lu = itl.lu;
                itl.tasks += 1;
            }
            None => task.lba = c.lun.decode().map_or(u64::MAX, u64::from),
        }
        self.stats.overlapped += 1;
        let (cause, asker) = (AbortCause::AbortTaskSet, Some(Asker::now(nexus)));
        self.abort_all(Whose::Nexus(nexus), Some(id), cause, asker, Then::Nothing);
        let sense = Sense::new(SenseKey::AbortedCommand, Asc::OVERLAPPED_COMMANDS_ATTEMPTED);
        self.refuse(slot, Refused::Check(sense))
    }

    /// Nothing was said against it: it goes where its task set and its Data-Out let it.
    fn accept(&mut self, slot: Slot, c: &Command<'_>) -> Admit {
        let (task, cold) = self.tasks.both(slot);
        let id = task.id(slot);
        if !matches!(task.row.exec, Exec::Read | Exec::Write) {
            let n = c.cdb.len().min(cold.cdb.len());
            cold.cdb = [0; 32];
            cold.cdb[..n].copy_from_slice(&c.cdb[..n]);
        }
        if c.expected.write > 0 && task.land == 0 {
            // It passes by first.
            task.flags |= flag::SWALLOW;
            task.step(TaskState::Receiving);
            return Admit::Swallow(id);
        }
        let land = task.land;
        match (self.enlist(slot), land) {
            (true, 0) => {
                self.ready(slot);
                Admit::NoData(id)
            }
            (true, _) => self.receive(slot),
            (false, 0) => Admit::NoData(id),
            (false, wanted) => Admit::Wait { task: id, wanted },
        }
    }

    /// Memory for Data-Out of a command that has just arrived.
    fn receive(&mut self, slot: Slot) -> Admit {
        let task = self.tasks.peek(slot);
        let (id, wanted, land) = (task.id(slot), task.wanted, task.land);
        match self.take(slot, wanted) {
            Some(mut buf) => {
                buf.set_len(land);
                self.tasks.hot(slot).step(TaskState::Receiving);
                Admit::Land(id, buf)
            }
            None => Admit::Wait { task: id, wanted: land },
        }
    }

    /// The next unit attention or deferred error of a task's nexus, taken.
    #[cold]
    fn attention(&mut self, slot: Slot) -> Option<Sense> {
        let itl = self.tasks.peek(slot).itl;
        let sense = self.itls[usize::from(itl)].attentions.take()?;
        if sense.asc == Asc::REPORTED_LUNS_DATA_HAS_CHANGED {
            self.luns_are_known(self.itls[usize::from(itl)].nexus);
        }
        Some(sense)
    }

    /// Lets the task set decide. `false`: the task is dormant.
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
    pub(crate) fn take(&mut self, slot: Slot, bytes: u32) -> Option<Sgv> {
        if self.hungry.is_empty()
            && let Some(buf) = self.pool.take(bytes, self.share_of_task(slot))
        {
            return Some(buf);
        }
        self.tasks.hot(slot).wanted = bytes;
        self.tasks.hot(slot).step(TaskState::WantsBuffer);
        self.hungry.push(&mut self.tasks, slot);
        self.unsettled = true;
        self.stats.waited_for_memory += 1;
        None
    }

    #[cold]
    fn refuse(&mut self, slot: Slot, refused: Refused) -> Admit {
        let refused = match refused {
            Refused::Attention(otherwise) => {
                self.attention(slot).map_or_else(|| Refused::Check(otherwise), Refused::Check)
            }
            refused => refused,
        };
        let task = self.tasks.peek(slot);
        let offered = task.expected_write;
        let unused = residual(task.expected(), 0);
        let itl = task.itl;
        let descriptor = itl != NO_ITL && self.lu(task.lu).descriptor_sense;
        let outcome = match refused {
            Refused::Check(sense) => outcome::check(sense, descriptor, unused),
            Refused::Status(status) => outcome::plain(status, unused),
            Refused::Misfit(sense, length) => outcome::check(sense, descriptor, residual(offered, length)),
            Refused::Attention(sense) => outcome::check(sense, descriptor, unused),
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

/// Everything that can be said against a command on arrival, in the order in which it is to be said.
fn judge(task: &mut Task, itl: &Itl, lu: &LuShard, c: &Command<'_>) -> Result<Plan, Refused> {
    let row = match table::lookup(c.cdb) {
        Ok(row) => row,
        Err(sense) => {
            task.row = &NOTHING;
            return Err(Refused::Attention(sense));
        }
    };
    task.row = row;
    if !itl.attentions.is_empty() && row.attention == Attention::Reports {
        return Err(Refused::Attention(Sense::NONE));
    }
    check_usage(row, c.cdb)?;
    let access = match row.exec {
        Exec::StartStop | Exec::PreventAllow => table::access_of(row, c.cdb),
        _ => row.access,
    };
    task.access = access;
    if !itl.access.allows(access) {
        return Err(Refused::Status(Status::ReservationConflict));
    }
    if lu.is_closing() {
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
    if plan.data == Data::Out && plan.length != c.expected.write {
        fits(&plan, lu, c)?;
    }
    Ok(plan)
}

/// Whether a command goes with the amount of Data-Out that is offered, which is not what its CDB says.
#[cold]
fn fits(plan: &Plan, lu: &LuShard, c: &Command<'_>) -> Result<(), Refused> {
    let offered = c.expected.write;
    let part_of_a_block = offered & ((1 << lu.shift) - 1) != 0;
    let sense = match plan.fit {
        // Room for Data-In only: whatever residual GOOD brought, it would not say that nothing was written.
        _ if offered == 0 && c.expected.read > 0 => {
            Sense::illegal_request(Asc::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
        }
        Fit::Any => return Ok(()),
        // Whole blocks that were offered are taken, be it none; parts of one are not (FCP-4 §9.4.2 allows either).
        Fit::Blocks if offered > plan.length || !part_of_a_block => return Ok(()),
        Fit::Count(byte) => Sense::invalid_field_in_cdb(FieldError::byte(byte)),
        _ => Sense::illegal_request(Asc::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT),
    };
    Err(Refused::Misfit(sense, plan.length))
}

/// The number of a LUN; peripheral device addressing, which nearly all initiators use, in line.
#[inline]
fn lun_number(lun: Lun) -> Option<u32> {
    if lun.0 & !(0xFF << 48) == 0 { Some((lun.0 >> 48) as u32) } else { lun.decode() }
}
