//! What the engine tells about itself.

use spindle_mem::ShareId;
use spindle_scsi_port::{NexusId, TaskTag};

use crate::config::LuId;
use crate::engine::Engine;
use crate::lu::LuStats;
use crate::nexus::NexusStats;
use crate::task::{CAUSES, NO_ITL, STATES, TaskState, flag};

/// Counters of one core's engine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EngineStats {
    /// How often a task in a state (row) met a cause to end it (column); see [`crate::task::TaskState::ALL`] and
    /// [`crate::task::AbortCause::ALL`].
    pub aborts: [[u64; CAUSES]; STATES],
    /// Tasks that had to wait for memory.
    pub waited_for_memory: u64,
    /// Completions that no task waited for.
    pub stray_completions: u64,
    /// Commands whose tag was that of another that was still alive.
    pub overlapped: u64,
}

/// A task as people see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskInfo {
    /// Its nexus.
    pub nexus: NexusId,
    /// The initiator's name for it.
    pub tag: TaskTag,
    /// Its unit, if there is one.
    pub lu: Option<LuId>,
    /// Where it stands.
    pub state: TaskState,
    /// Somebody wants it to end.
    pub aborted: bool,
    /// The command.
    pub name: &'static str,
    /// First block.
    pub lba: u64,
    /// Blocks.
    pub blocks: u32,
    /// How long it has been here.
    pub age_ms: u64,
}

impl Engine {
    /// Counters of the core.
    pub fn stats(&self) -> &EngineStats {
        &self.stats
    }

    /// Tasks alive.
    pub fn tasks_alive(&self) -> u32 {
        self.tasks.alive()
    }

    /// Task management functions that wait for tasks.
    pub fn tmfs_pending(&self) -> u32 {
        self.watches.tmfs()
    }

    /// Counters of a nexus.
    pub fn nexus_stats(&self, nexus: NexusId) -> Option<NexusStats> {
        let slot = self.nexus_slot(nexus)?;
        let mut stats = self.nexuses[usize::from(slot)].stats;
        let own = self.itls.iter().filter(|itl| itl.up && itl.nexus == slot);
        own.for_each(|itl| stats.add_moved(&itl.moved));
        Some(stats)
    }

    /// Counters of a unit on this core.
    pub fn lu_stats(&self, lu: LuId) -> Option<LuStats> {
        let lu = self.lu(*self.lu_slots.get(&lu)?);
        let mut stats = lu.stats;
        lu.itls.iter().for_each(|itl| stats.add_moved(&self.itls[usize::from(*itl)].moved));
        Some(stats)
    }

    /// Payload that this core's processor copied for a unit. `None`: there are more units than shares of memory, and this
    /// one is counted together with others.
    pub fn lu_copied_bytes(&self, lu: LuId) -> Option<u64> {
        let share = self.lu_slots.get(&lu).map(|slot| self.lu(*slot).share)?;
        (share != ShareId::default()).then(|| self.pool.share_copied_bytes(share))
    }

    /// All tasks of this core, oldest first.
    pub fn list_tasks(&self) -> Vec<TaskInfo> {
        let mut tasks: Vec<_> = self.tasks.iter().collect();
        tasks.sort_unstable_by_key(|(_, task)| task.seq);
        let info = |(_, task): &(u32, &crate::task::Task)| TaskInfo {
            nexus: self.nexus_id(task.nexus),
            tag: task.tag,
            lu: (task.itl != NO_ITL).then(|| self.lu(task.lu).lu),
            state: task.state(),
            aborted: task.has(flag::ABORTED),
            name: task.row.name,
            lba: task.lba,
            blocks: task.blocks,
            age_ms: self.now.since(task.started).as_millis() as u64,
        };
        tasks.iter().map(info).collect()
    }
}
