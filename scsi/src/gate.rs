//! The gate of a logical unit on one core: the latch that keeps tasks from starting for a moment.
//!
//! It stands before execution, not before arrival: a task that is still receiving data is outside and meets
//! it later (state `Blocked`). The home core closes and opens the gates of all members; one unit has one
//! closing at a time, in order of arrival, and whoever holds a closed gate asks for no other, so nothing can
//! wait in a circle.

use spindle_reactor::CoreId;
use spindle_scsi_port::TaskId;

use crate::device_server::Exec;
use crate::engine::Engine;
use crate::lu::Membership;
use crate::message::{AbortSet, News, Scope, ScsiMsg, Whom};
use crate::nexus::Nexus;
use crate::planted::{self, Bug};
use crate::reserve::NexusName;
use crate::task::{AbortCause, NO_ITL, Slot, Task, TaskState, flag};
use crate::task_manager::{Asker, Then, Watch, Whose};

/// Whether tasks may start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// All may.
    Open,
    /// The unit's policy is not known here yet: none may.
    Joining,
    /// Those of the scope may not.
    Closed {
        /// Which closing.
        epoch: u32,
        /// Which tasks.
        scope: Scope,
    },
}

impl Gate {
    /// Nothing stands in anybody's way.
    #[inline]
    pub fn is_open(&self) -> bool {
        *self == Gate::Open
    }

    /// Whether this task has to wait.
    pub fn stops(&self, task: &Task) -> bool {
        match self {
            Gate::Open => false,
            Gate::Joining => true,
            Gate::Closed { scope, .. } => !task.has(flag::HOLDS_GATE) && touches(task, *scope),
        }
    }
}

/// Whether a task that runs would disturb what the gate was closed for.
pub fn touches(task: &Task, scope: Scope) -> bool {
    match scope {
        // Those that only describe look at one snapshot or the other, and requests to the home stand in its line.
        Scope::All => !task.row.exec.describes() && !task.row.exec.asks_home(),
        Scope::Blocks { lba, end } => {
            task.row.exec.writes_medium()
                // UNMAP has several ranges, known only when its list is in.
                && (matches!(task.row.exec, Exec::Unmap)
                    || (task.lba < end && lba < task.lba.saturating_add(u64::from(task.blocks))))
        }
    }
}

impl Engine {
    /// The home closes the gate.
    pub(crate) fn gate_close(
        &mut self,
        slot: u16,
        home: CoreId,
        epoch: u32,
        scope: Scope,
        abort: Option<Box<AbortSet>>,
    ) {
        debug_assert_eq!(home, self.lu(slot).home);
        let shard = self.lu_mut(slot);
        // We left and asked to come back while the home still counts us in: nothing starts here before `Joined`, which
        // stands behind this closing.
        if shard.member != Membership::Joining {
            shard.set_gate(Gate::Closed { epoch, scope });
        }
        let (whose, except, cause, asker) = match abort {
            None => (Whose::Nobody, None, AbortCause::ClearTaskSet, None),
            Some(abort) => self.abort_set(slot, &abort),
        };
        let then = Then::GateClosed { lu: slot, epoch };
        // Those that execute and are not ended have to leave by themselves.
        let ends = Watch { until: u64::MAX, whose, except, asker, left: 0, then };
        let drained: Vec<Slot> = self
            .tasks
            .iter()
            .filter(|(at, task)| {
                task.state() == TaskState::Executing
                    && task.itl != NO_ITL
                    && task.lu == slot
                    && touches(task, scope)
                    && !ends.concerns(self.tasks.id(*at), task)
            })
            .map(|(task, _)| task)
            .collect();
        for task in drained.iter().filter(|_| !planted::on(Bug::GateClosedEarly)) {
            self.tasks.hot(*task).flags |= flag::DRAINED;
        }
        let left = if planted::on(Bug::GateClosedEarly) { 0 } else { drained.len() as u32 };
        self.abort_all_and_drain(ends.whose, except, cause, asker, then, left);
    }

    /// An abort set in terms of this core.
    fn abort_set(&self, slot: u16, set: &AbortSet) -> (Whose, Option<TaskId>, AbortCause, Option<Asker>) {
        let named = |name: &NexusName| {
            // One that is expected has no tasks yet; another session of its name may have.
            let found = self.nexuses.iter().position(|n| n.up && !n.elsewhere && n.name == *name);
            found.map(|at| at as u16)
        };
        let whose = match &set.nexuses {
            None => Whose::Unit(slot),
            Some(names) => Whose::UnitOf { lu: slot, nexuses: names.iter().filter_map(named).collect() },
        };
        let except = set.except.and_then(|(core, task)| (core == self.cfg.core).then_some(task));
        let asker = named(&set.asker).map(|nexus| Asker { nexus, since: set.since });
        (whose, except, set.cause, asker)
    }

    /// A reset stands in line at the home behind the holder of a lock: its tasks may begin to end.
    pub(crate) fn gate_doom(&mut self, slot: u16, abort: &AbortSet) {
        let (whose, except, cause, asker) = self.abort_set(slot, abort);
        self.abort_all(whose, except, cause, asker, Then::Nothing);
    }

    /// All that had to leave has left.
    pub(crate) fn gate_is_closed(&mut self, slot: u16, epoch: u32) {
        let shard = self.lu(slot);
        let (lu, home) = (shard.lu, shard.home);
        self.post(home, ScsiMsg::Closed { lu, epoch });
    }

    /// A new policy is in force.
    pub(crate) fn gate_publish(&mut self, slot: u16, home: CoreId, epoch: u32, news: News) {
        self.take_policy(slot, news.policy);
        let shard = self.lu_mut(slot);
        shard.news = epoch;
        let lu = shard.lu;
        for (whom, asc) in news.attentions {
            for itl in self.lu(slot).itls.clone() {
                let itl = &mut self.itls[usize::from(itl)];
                let Nexus { name, told, .. } = &self.nexuses[usize::from(itl.nexus)];
                if told.contains(&(lu, epoch)) {
                    // It heard of this where it came from.
                    continue;
                }
                let told = match &whom {
                    Whom::All => true,
                    Whom::Except(other) => name != other,
                    Whom::One(one) => name == one,
                };
                if told {
                    itl.attentions.post(asc);
                }
            }
        }
        for at in 0..self.lu(slot).itls.len() {
            let nexus = self.itls[usize::from(self.lu(slot).itls[at])].nexus;
            self.nexuses[usize::from(nexus)].told.retain(|(unit, _)| *unit != lu);
        }
        self.post(home, ScsiMsg::Acked { lu, epoch });
    }

    /// The home opens the gate.
    pub(crate) fn gate_open(&mut self, slot: u16, _epoch: u32) {
        let shard = self.lu_mut(slot);
        if matches!(shard.gate(), Gate::Closed { .. }) {
            shard.set_gate(Gate::Open);
            self.release_blocked(slot);
        }
    }
}
