//! Task management between transport and mid-level.

use spindle_scsi_spec::lun::Lun;

use crate::command::TaskTag;
use crate::nexus::NexusId;

/// The transport's name for a task management request; comes back with the answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct TmfId(pub u32);

/// A task management request.
///
/// The transport has already done what needs its sequence numbers: for ABORT TASK of a command that has not
/// arrived but lies inside the window (RefCmdSN, RFC 7143 §11.5.5) it remembers the number and answers itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tmf {
    /// Comes back in the answer.
    pub id: TmfId,
    /// Who asks.
    pub nexus: NexusId,
    /// Which logical unit (ignored by target resets).
    pub lun: Lun,
    /// What for.
    pub function: TmfFunction,
}

/// Functions of SAM-5 §7 and RFC 7143 §11.5.1, RFC 7144.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TmfFunction {
    /// End one task.
    AbortTask(TaskTag),
    /// End all tasks of this nexus in the unit.
    AbortTaskSet,
    /// End the auto contingent allegiance condition.
    ClearAca,
    /// End all tasks of the task set.
    ClearTaskSet,
    /// Reset one unit.
    LogicalUnitReset,
    /// Reset every unit that this initiator sees; sessions stay.
    TargetWarmReset,
    /// The same, and the transport ends all sessions of the target afterwards.
    TargetColdReset,
    /// Is this task alive?
    QueryTask(TaskTag),
    /// Is any task of this nexus alive?
    QueryTaskSet,
    /// End all tasks of this nexus and everything the unit keeps for it.
    ITNexusReset,
    /// Is a unit attention pending?
    QueryAsyncEvent,
}

/// Answers (RFC 7143 §11.6.1, RFC 7144 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TmfResponse {
    /// Done: every task concerned has ended.
    Complete,
    /// ABORT TASK: no such task.
    TaskDoesNotExist,
    /// No such logical unit.
    LunDoesNotExist,
    /// This function is not supported.
    NotSupported,
    /// Refused (not authorised, not possible now).
    Rejected,
    /// A query found what it asked for.
    Succeeded,
}
