//! A SCSI command as a transport delivers it.

use spindle_scsi_spec::lun::Lun;

use crate::nexus::NexusId;

/// The task tag of SAM: iSCSI's Initiator Task Tag, SRP's tag, FC's exchange. Unique per nexus among the
/// tasks that are alive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct TaskTag(pub u64);

/// Task attribute (SAM-5 §8.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TaskAttr {
    /// No attribute given: treated as SIMPLE.
    #[default]
    Untagged,
    /// SIMPLE.
    Simple,
    /// ORDERED.
    Ordered,
    /// HEAD OF QUEUE.
    HeadOfQueue,
    /// ACA.
    Aca,
}

/// How much data the initiator expects to move, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Expected {
    /// Data-In it has room for.
    pub read: u32,
    /// Data-Out it offers.
    pub write: u32,
    /// Of `write`: what comes without being asked for (immediate and unsolicited data). At most `write`.
    pub unsolicited: u32,
}

/// A command on arrival: passed by reference, never queued.
#[derive(Debug)]
pub struct Command<'a> {
    /// From whom, to which target port.
    pub nexus: NexusId,
    /// Logical unit number as it came.
    pub lun: Lun,
    /// The initiator's name for this task.
    pub tag: TaskTag,
    /// The transport's own name for this task; comes back in every effect that concerns it.
    pub cookie: u32,
    /// Task attribute.
    pub attr: TaskAttr,
    /// The whole CDB, of any length that the transport can carry (16 bytes and more).
    pub cdb: &'a [u8],
    /// What the initiator expects to move.
    pub expected: Expected,
}
