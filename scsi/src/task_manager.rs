//! Task management: find the tasks concerned, mark them, count down, answer.
//!
//! A *watch* stands for something that waits until a set of tasks has ended: a task management function, or a gate
//! that closes. Which tasks those are is decided once (those that had arrived by then); each tells the watches as
//! it ends, and a watch whose count reaches nought acts. Nothing is answered earlier, and nothing is looked at
//! again on a timer. A function that reaches beyond one nexus goes to the home of each unit, whose closings are
//! watches on every core.

use spindle_scsi_port::{NexusId, PortEffect, TaskId, Tmf, TmfFunction, TmfId, TmfResponse};
use spindle_scsi_spec::{Asc, Status};

use crate::config::LuId;
use crate::effects::ControlEvent;
use crate::engine::Engine;
use crate::message::{Request, RequestKind, ScsiMsg, Ticket};
use crate::nexus::Itl;
use crate::outcome::{plain, residual};
use crate::planted::{self, Bug};
use crate::task::{AbortCause, NO_ITL, Slot, Task, TaskState, flag, io_key};

/// Everything that waits for tasks to end.
#[derive(Default)]
pub struct Watches {
    watches: Vec<Watch>,
    tmfs: Vec<Option<PendingTmf>>,
    tmfs_used: u32,
}

impl Watches {
    /// Task management functions under way.
    pub fn tmfs(&self) -> u32 {
        self.tmfs_used
    }

    /// Whether some of them are this nexus's.
    pub(crate) fn has_tmfs_of(&self, nexus: NexusId) -> bool {
        self.tmfs_used > 0 && self.tmfs.iter().flatten().any(|tmf| tmf.nexus == nexus)
    }
}

pub(crate) struct Watch {
    /// Tasks that arrived later are no concern of it.
    pub until: u64,
    /// Whose tasks.
    pub whose: Whose,
    /// This one is left out.
    pub except: Option<TaskId>,
    /// On whose behalf.
    pub asker: Option<Asker>,
    /// How many have not ended.
    pub left: u32,
    /// What then.
    pub then: Then,
}

/// The nexus that asked for tasks to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asker {
    pub nexus: u16,
    /// Its own tasks that arrived later than this are no concern of the function (see `AbortSet::since`).
    pub since: u64,
}

impl Asker {
    /// One whose request is dealt with as it arrives.
    pub fn now(nexus: u16) -> Asker {
        Asker { nexus, since: u64::MAX }
    }
}

pub(crate) enum Whose {
    One(TaskId),
    Nexus(u16),
    /// Those of a nexus whose LUN (this one, or any) stood for no unit as they came.
    WithoutUnit {
        nexus: u16,
        lun: Option<u16>,
    },
    /// Those that one LUN of one nexus stands for: its I_T_L nexuses (see `Engine::itls_named`), and those that came
    /// while it stood for no unit.
    Lun {
        nexus: u16,
        lun: u16,
        itls: Vec<u16>,
    },
    Unit(u16),
    UnitOf {
        lu: u16,
        nexuses: Vec<u16>,
    },
    /// These, found at the beginning.
    These(Vec<TaskId>),
    /// Only drained tasks count.
    Nobody,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    Tmf(u32),
    GateClosed {
        lu: u16,
        epoch: u32,
    },
    /// A unit may shrink.
    Shrunk(LuId),
    /// Nobody waits.
    Nothing,
}

struct PendingTmf {
    id: TmfId,
    nexus: NexusId,
    /// Watches and homes it waits for.
    parts: u32,
    response: TmfResponse,
}

impl Whose {
    fn includes(&self, id: TaskId, task: &Task) -> bool {
        match self {
            Whose::One(one) => *one == id,
            Whose::Nexus(nexus) => task.nexus == *nexus,
            Whose::WithoutUnit { nexus, lun } => without_unit(task, *nexus, *lun),
            Whose::Lun { nexus, lun, itls } => {
                itls.contains(&task.itl) || without_unit(task, *nexus, Some(*lun))
            }
            Whose::Unit(lu) => task.itl != NO_ITL && task.lu == *lu,
            Whose::UnitOf { lu, nexuses } => {
                task.itl != NO_ITL && task.lu == *lu && nexuses.contains(&task.nexus)
            }
            Whose::These(tasks) => tasks.contains(&id),
            Whose::Nobody => false,
        }
    }
}

impl Watch {
    pub fn concerns(&self, id: TaskId, task: &Task) -> bool {
        let behind = self.asker.is_some_and(|asker| asker.nexus == task.nexus && task.seq > asker.since);
        self.whose.includes(id, task) && task.seq <= self.until && self.except != Some(id) && !behind
    }
}

impl Engine {
    /// A task management request.
    pub(crate) fn manage(&mut self, tmf: &Tmf) {
        let Some(nexus) = self.nexus_slot(tmf.nexus) else { return };
        self.nexuses[usize::from(nexus)].stats.tmfs += 1;
        if self.watches.tmfs_used >= self.cfg.tmfs_max {
            return self.answer(tmf.id, tmf.nexus, TmfResponse::Rejected);
        }
        let itl = tmf
            .lun
            .decode()
            .and_then(|lun| self.nexuses[usize::from(nexus)].luns.get(lun as usize).copied())
            .filter(|itl| *itl != NO_ITL);
        use TmfFunction as F;
        let itl = match (tmf.function, itl) {
            (F::ClearAca, _) => return self.answer(tmf.id, tmf.nexus, TmfResponse::NotSupported),
            (F::TargetWarmReset | F::TargetColdReset | F::ITNexusReset, _) => NO_ITL,
            (_, Some(itl)) => itl,
            (_, None) => return self.answer(tmf.id, tmf.nexus, TmfResponse::LunDoesNotExist),
        };
        match tmf.function {
            F::AbortTask(tag) => match self.find_tag(nexus, itl, tag) {
                None => self.answer(tmf.id, tmf.nexus, TmfResponse::TaskDoesNotExist),
                Some(slot) => {
                    // Its status is on the way: as far as the initiator can tell it ended before (RFC 7143 §11.6.1),
                    // and the answer stands behind that status.
                    let over = self.tasks.peek(slot).state() == TaskState::Responding;
                    let response = if over { TmfResponse::TaskDoesNotExist } else { TmfResponse::Complete };
                    let id = self.begin_tmf(tmf, response);
                    let whose = Whose::One(self.tasks.id(slot));
                    self.abort_all(
                        whose,
                        None,
                        AbortCause::AbortTask,
                        Some(Asker::now(nexus)),
                        Then::Tmf(id),
                    );
                    self.tmf_part_done(id);
                }
            },
            F::AbortTaskSet => {
                let id = self.begin_tmf(tmf, TmfResponse::Complete);
                let cause = AbortCause::AbortTaskSet;
                let whose = self.tasks_under(nexus, itl);
                self.abort_all(whose, None, cause, Some(Asker::now(nexus)), Then::Tmf(id));
                self.tmf_part_done(id);
            }
            F::ClearTaskSet => {
                let id = self.begin_tmf(tmf, TmfResponse::Complete);
                let lu = self.itls[usize::from(itl)].lu;
                if self.lu(lu).tst_shared {
                    let (lun, cause) = (Some(self.itls[usize::from(itl)].lun), AbortCause::ClearTaskSet);
                    let whose = Whose::WithoutUnit { nexus, lun };
                    self.abort_all(whose, None, cause, Some(Asker::now(nexus)), Then::Tmf(id));
                    self.ask_for_tmf(lu, id, nexus, RequestKind::ClearTaskSet);
                } else {
                    let cause = AbortCause::ClearTaskSet;
                    let whose = self.tasks_under(nexus, itl);
                    self.abort_all(whose, None, cause, Some(Asker::now(nexus)), Then::Tmf(id));
                }
                self.tmf_part_done(id);
            }
            F::LogicalUnitReset => {
                let id = self.begin_tmf(tmf, TmfResponse::Complete);
                let Itl { lu, lun, .. } = self.itls[usize::from(itl)];
                let (whose, cause) =
                    (Whose::WithoutUnit { nexus, lun: Some(lun) }, AbortCause::LogicalUnitReset);
                self.abort_all(whose, None, cause, Some(Asker::now(nexus)), Then::Tmf(id));
                self.ask_for_tmf(lu, id, nexus, RequestKind::Reset(cause));
                self.tmf_part_done(id);
            }
            F::TargetWarmReset | F::TargetColdReset => {
                let id = self.begin_tmf(tmf, TmfResponse::Complete);
                // Commands to a LUN without unit are tasks of the target, too, and no home knows of them.
                let (cause, asker) = (AbortCause::TargetReset, Some(Asker::now(nexus)));
                self.abort_all(Whose::WithoutUnit { nexus, lun: None }, None, cause, asker, Then::Tmf(id));
                for lu in self.units_of(nexus) {
                    self.ask_for_tmf(lu, id, nexus, RequestKind::Reset(AbortCause::TargetReset));
                }
                self.tmf_part_done(id);
            }
            F::ITNexusReset => {
                let id = self.begin_tmf(tmf, TmfResponse::Complete);
                let cause = AbortCause::NexusReset;
                self.abort_all(Whose::Nexus(nexus), None, cause, Some(Asker::now(nexus)), Then::Tmf(id));
                // SAM-5 §6.3.4: as if the nexus had been lost and found again.
                for itl in self.itls_of(nexus) {
                    self.itls[itl].attentions.post(Asc::I_T_NEXUS_LOSS_OCCURRED);
                    let lu = self.itls[itl].lu;
                    if self.lu(lu).policy.reserve.legacy_holder()
                        == Some(&self.nexuses[usize::from(nexus)].name)
                    {
                        self.ask_for_tmf(lu, id, nexus, RequestKind::NexusLost);
                    }
                }
                self.tmf_part_done(id);
            }
            F::QueryTask(tag) => {
                let alive = self
                    .find_tag(nexus, itl, tag)
                    .is_some_and(|slot| self.tasks.peek(slot).state() != TaskState::Responding);
                self.answer(tmf.id, tmf.nexus, found(alive));
            }
            F::QueryTaskSet => {
                let alive = self.itls[usize::from(itl)].tasks > 0;
                self.answer(tmf.id, tmf.nexus, found(alive));
            }
            F::QueryAsyncEvent => {
                let waits = !self.itls[usize::from(itl)].attentions.is_empty();
                self.answer(tmf.id, tmf.nexus, found(waits));
            }
            F::ClearAca => {}
        }
    }

    /// The units that a nexus sees, and those mapped no longer where tasks of it still run.
    fn units_of(&self, nexus: u16) -> Vec<u16> {
        let here = self.itls.iter().filter(|itl| itl.up && itl.nexus == nexus);
        let mut units: Vec<u16> = here.map(|itl| itl.lu).collect();
        units.sort_unstable();
        units.dedup();
        units
    }

    /// SAM-5 §6.3.4: functions end with the nexus they came by. What a home has begun is finished, as others may have
    /// felt it; what stands in line there is forgotten.
    pub(crate) fn forget_tmfs(&mut self, slot: u16) {
        let nexus = self.nexus_id(slot);
        let theirs = |tmf: &Option<PendingTmf>| tmf.as_ref().is_some_and(|tmf| tmf.nexus == nexus);
        let tmfs: Vec<_> =
            (0..).zip(&self.watches.tmfs).filter(|(_, t)| theirs(t)).map(|(at, _)| at).collect();
        if tmfs.is_empty() {
            return;
        }
        for lu in self.units_of(slot) {
            let (lu, home) = (self.lu(lu).lu, self.lu(lu).home);
            for &tmf in &tmfs {
                self.post(home, ScsiMsg::Cancel { lu, ticket: Ticket::Tmf(tmf) });
            }
        }
    }

    /// All I_T_L nexuses that have tasks under the LUN of this one. If the LUN was taken out of the map and came
    /// back, the tasks of before run under an older one; to the initiator they are tasks of this LUN.
    fn itls_named(&self, nexus: u16, itl: u16) -> Vec<u16> {
        let lun = self.itls[usize::from(itl)].lun;
        let named = |other: &Itl| other.up && other.nexus == nexus && other.lun == lun;
        (0..self.itls.len()).filter(|at| named(&self.itls[*at])).map(|at| at as u16).collect()
    }

    /// What a function that is addressed to a LUN is about, as far as its own nexus goes.
    fn tasks_under(&self, nexus: u16, itl: u16) -> Whose {
        Whose::Lun { nexus, lun: self.itls[usize::from(itl)].lun, itls: self.itls_named(nexus, itl) }
    }

    fn find_tag(&self, nexus: u16, itl: u16, tag: spindle_scsi_port::TaskTag) -> Option<Slot> {
        let tasks = self.tasks_of(nexus);
        let under = self.tasks_under(nexus, itl);
        tasks.into_iter().find(|slot| {
            let task = self.tasks.peek(*slot);
            task.tag == tag && under.includes(self.tasks.id(*slot), task)
        })
    }

    /// A function that waits for at least one part: the one that `tmf_part_done` ends after all are begun.
    fn begin_tmf(&mut self, tmf: &Tmf, response: TmfResponse) -> u32 {
        let pending = PendingTmf { id: tmf.id, nexus: tmf.nexus, parts: 1, response };
        let w = &mut self.watches;
        w.tmfs_used += 1;
        match w.tmfs.iter().position(Option::is_none) {
            Some(at) => {
                w.tmfs[at] = Some(pending);
                at as u32
            }
            None => {
                w.tmfs.push(Some(pending));
                (w.tmfs.len() - 1) as u32
            }
        }
    }

    fn ask_for_tmf(&mut self, lu: u16, tmf: u32, nexus: u16, kind: RequestKind) {
        self.tmf_part_begun(tmf);
        let who = self.nexuses[usize::from(nexus)].name.clone();
        let (lu, home) = (self.lu(lu).lu, self.lu(lu).home);
        let what = Box::new(Request { who, since: self.tasks.seq(), kind });
        self.post(home, ScsiMsg::Request { lu, ticket: Ticket::Tmf(tmf), what });
    }

    fn tmf_part_begun(&mut self, tmf: u32) {
        let pending = self.watches.tmfs[tmf as usize].as_mut();
        pending.expect("a function is pending until its last part is done").parts += 1;
    }

    /// One thing less that a function waits for.
    pub(crate) fn tmf_part_done(&mut self, tmf: u32) {
        let Some(pending) = self.watches.tmfs.get_mut(tmf as usize).and_then(Option::as_mut) else { return };
        pending.parts -= 1;
        if pending.parts == 0 || planted::on(Bug::EarlyTmfAnswer) {
            let PendingTmf { id, nexus, response, .. } =
                self.watches.tmfs[tmf as usize].take().expect("looked at just above");
            self.watches.tmfs_used -= 1;
            self.answer(id, nexus, response);
        }
    }

    fn answer(&mut self, id: TmfId, nexus: NexusId, response: TmfResponse) {
        // Nobody listens at a nexus that is gone.
        if self.nexus_slot(nexus).is_some() {
            self.fx.port.push(PortEffect::TmfDone { id, nexus, response });
        }
    }

    /// Ends all tasks of a set and begins a watch for them. `asker`: this nexus's tasks end without a word even if
    /// TAS is set.
    pub(crate) fn abort_all(
        &mut self,
        whose: Whose,
        except: Option<TaskId>,
        cause: AbortCause,
        asker: Option<Asker>,
        then: Then,
    ) {
        self.abort_all_and_drain(whose, except, cause, asker, then, 0);
    }

    /// The same for a closing gate, which also waits for `drained` tasks to leave by themselves.
    pub(crate) fn abort_all_and_drain(
        &mut self,
        whose: Whose,
        except: Option<TaskId>,
        cause: AbortCause,
        asker: Option<Asker>,
        then: Then,
        drained: u32,
    ) {
        let mut watch = Watch { until: self.tasks.seq(), whose, except, asker, left: 0, then };
        let mut concerned: Vec<_> = self
            .tasks
            .iter()
            .filter(|(slot, task)| watch.concerns(self.tasks.id(*slot), task))
            .map(|(slot, task)| (task.seq, slot))
            .collect();
        concerned.sort_unstable();
        watch.left = concerned.len() as u32 + drained;
        for (_, slot) in &concerned {
            self.tasks.hot(*slot).flags |= flag::WATCHED;
        }
        if let Then::Tmf(tmf) = then
            && watch.left > 0
        {
            self.tmf_part_begun(tmf);
        }
        // The watch stands before the first task ends.
        if then != Then::Nothing && (watch.left > 0 || matches!(then, Then::GateClosed { .. })) {
            self.watches.watches.push(watch);
        }
        if concerned.is_empty() {
            return self.fire_watches();
        }
        for (_, slot) in concerned {
            let task = self.tasks.peek(slot);
            let other = asker.is_none_or(|asker| asker.nexus != task.nexus);
            let tells = other && task.itl != NO_ITL && self.lu(task.lu).tells_aborted;
            if other
                && !tells
                && cause == AbortCause::ClearTaskSet
                && task.state() != TaskState::Responding
                && !task.has(flag::ABORTED)
            {
                // SAM-5 §5.14: who is not told by a status is told by a unit attention.
                let itl = usize::from(task.itl);
                self.itls[itl].attentions.post(Asc::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR);
            }
            self.abort(slot, cause, tells);
        }
    }

    /// Ends a task, now or as soon as what is under way for it has come back.
    pub(crate) fn abort(&mut self, slot: Slot, cause: AbortCause, tells: bool) {
        let id = self.tasks.id(slot);
        let task = self.tasks.hot(slot);
        let state = task.state();
        self.stats.aborts[state as usize][cause as usize] += 1;
        if task.has(flag::ABORTED) {
            if cause == AbortCause::NexusLoss && task.has(flag::TELL) {
                // It waited to tell somebody who is gone now.
                task.flags &= !flag::TELL;
                if state == TaskState::Receiving {
                    self.revoke(slot);
                }
            }
            return;
        }
        if state == TaskState::Responding {
            return;
        }
        task.flags |= flag::ABORTED | if tells { flag::TELL } else { 0 };
        task.cause = cause;
        match state {
            TaskState::Dormant | TaskState::WantsBuffer => {
                self.unlink(slot);
                self.end_aborted(slot);
            }
            TaskState::Blocked => {
                if planted::on(Bug::LateWrite) {
                    self.write_late(slot);
                }
                self.unlink(slot);
                self.end_aborted(slot);
            }
            // With TAS the status must follow its Data-Out; otherwise the transport lets go at once.
            TaskState::Receiving if tells => {}
            TaskState::Receiving => self.revoke(slot),
            TaskState::Executing => {
                let (in_flight, lu) = (self.tasks.peek(slot).in_flight, self.tasks.peek(slot).lu);
                let channel = self.lu(lu).channel;
                for sub in (0..16u8).filter(|sub| in_flight >> sub & 1 == 1) {
                    self.fx.aborts.push((channel, io_key(id, sub)));
                }
                debug_assert!(in_flight != 0, "a task that executes waits for its operations");
            }
            TaskState::AtHome => {
                let lu = self.tasks.peek(slot).lu;
                let (lu, home) = (self.lu(lu).lu, self.lu(lu).home);
                self.post(home, ScsiMsg::Cancel { lu, ticket: Ticket::Task(id) });
            }
            TaskState::Free | TaskState::Responding => {}
        }
    }

    /// Takes a task out of the line it stands in.
    pub(crate) fn unlink(&mut self, slot: Slot) {
        let task = self.tasks.peek(slot);
        let (state, lu, itl) = (task.state(), task.lu, task.itl);
        match state {
            TaskState::WantsBuffer => self.hungry.remove(&mut self.tasks, slot),
            TaskState::Dormant => {
                let lu = self.lus[usize::from(lu)].as_deref_mut().expect("a task keeps its unit");
                let set = if lu.tst_shared { &mut lu.set } else { &mut self.itls[usize::from(itl)].set };
                set.forget(&mut self.tasks, slot);
                // Those behind it may be free to go.
                self.wakes.push(itl);
                self.unsettled = true;
            }
            TaskState::Blocked => {
                let lu = self.lus[usize::from(lu)].as_deref_mut().expect("a task keeps its unit");
                lu.blocked.remove(&mut self.tasks, slot);
            }
            _ => {}
        }
    }

    fn revoke(&mut self, slot: Slot) {
        let id = self.tasks.id(slot);
        let task = self.tasks.hot(slot);
        task.flags |= flag::REVOKING;
        let (cookie, nexus) = (task.cookie, task.nexus);
        let nexus = self.nexus_id(nexus);
        self.fx.port.push(PortEffect::Revoke { task: id, cookie, nexus });
    }

    /// An aborted task for which nothing is under way any more.
    pub(crate) fn end_aborted(&mut self, slot: Slot) {
        let (task, cold) = self.tasks.both(slot);
        cold.outcome = None;
        cold.steps = Default::default();
        if let Some(buf) = task.buf.take() {
            self.pool.put(buf);
        }
        let task = self.tasks.peek(slot);
        if task.has(flag::TELL) {
            let unused = residual(task.expected(), 0);
            return self.respond(slot, plain(Status::TaskAborted, unused), None);
        }
        // The transport forgets it before the function that ended it is answered.
        let id = self.tasks.id(slot);
        let (cookie, nexus) = (task.cookie, task.nexus);
        let nexus = self.nexus_id(nexus);
        self.fx.port.push(PortEffect::Revoke { task: id, cookie, nexus });
        if planted::on(Bug::StatusAfterAbort) {
            let outcome = plain(Status::Good, residual(0, 0));
            self.fx.port.push(PortEffect::Respond { task: id, cookie, nexus, outcome, data: None });
        }
        self.leave(slot);
        self.end(slot);
    }

    /// A task that something waits for has ended.
    #[cold]
    pub(crate) fn watched_task_ended(&mut self, slot: Slot) {
        let id = self.tasks.id(slot);
        let task = self.tasks.peek(slot);
        for watch in &mut self.watches.watches {
            if watch.concerns(id, task) {
                watch.left -= 1;
            }
        }
        self.fire_watches();
    }

    /// A task that a closing gate waits for has left `Executing`.
    pub(crate) fn gate_drained(&mut self, unit: u16) {
        for watch in &mut self.watches.watches {
            if let Then::GateClosed { lu, .. } = watch.then
                && lu == unit
            {
                watch.left -= 1;
            }
        }
        self.fire_watches();
    }

    /// Acts for watches that have nothing left to wait for.
    pub(crate) fn fire_watches(&mut self) {
        while let Some(at) = self.watches.watches.iter().position(|w| w.left == 0) {
            let watch = self.watches.watches.remove(at);
            match watch.then {
                Then::Tmf(tmf) => self.tmf_part_done(tmf),
                Then::GateClosed { lu, epoch } => self.gate_is_closed(lu, epoch),
                Then::Shrunk(lu) => self.fx.control.push(ControlEvent::LuShrunk { lu }),
                Then::Nothing => {}
            }
        }
    }

    /// Waits for tasks to end by themselves.
    pub(crate) fn watch(&mut self, tasks: Vec<Slot>, then: Then) {
        for slot in &tasks {
            self.tasks.hot(*slot).flags |= flag::WATCHED;
        }
        let left = tasks.len() as u32;
        let whose = Whose::These(tasks.into_iter().map(|slot| self.tasks.id(slot)).collect());
        let until = self.tasks.seq();
        self.watches.watches.push(Watch { until, whose, except: None, asker: None, left, then });
        self.fire_watches();
    }
}

fn without_unit(task: &Task, nexus: u16, lun: Option<u16>) -> bool {
    // Such a task keeps its LUN where others have their first block.
    task.nexus == nexus && task.itl == NO_ITL && lun.is_none_or(|lun| task.lba == u64::from(lun))
}

fn found(it_is: bool) -> TmfResponse {
    if it_is { TmfResponse::Succeeded } else { TmfResponse::Complete }
}
