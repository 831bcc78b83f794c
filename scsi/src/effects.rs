//! What the engine wants done. Filled by every call, drained by the shard once a turn; capacity is kept.

use spindle_bdev::{BlockIo, ChannelId, IoKey};
use spindle_reactor::CoreId;
use spindle_scsi_port::PortEffect;

use crate::config::LuId;
use crate::message::ScsiMsg;

/// To be carried out in this order: `io` before `aborts` (an abort may concern an operation of the same turn),
/// `port` in the order it stands (a task management answer stands behind the statuses it promises).
#[derive(Debug, Default)]
pub struct Effects {
    /// For the transport.
    pub port: Vec<PortEffect>,
    /// To submit.
    pub io: Vec<(ChannelId, BlockIo)>,
    /// Operations that nobody wants any more.
    pub aborts: Vec<(ChannelId, IoKey)>,
    /// To engines on other cores. Messages from one core to another arrive in the order they were posted.
    pub core: Vec<(CoreId, ScsiMsg)>,
    /// For the control plane.
    pub control: Vec<ControlEvent>,
}

impl Effects {
    /// No operation that was admitted before waits to be submitted, and no answer that was decided before to be queued:
    /// whatever is done at once then overtakes nothing.
    #[inline]
    pub(crate) fn owes_nothing(&self) -> bool {
        self.port.is_empty() && self.io.is_empty()
    }

    /// Nothing to do?
    pub fn is_empty(&self) -> bool {
        self.port.is_empty()
            && self.io.is_empty()
            && self.aborts.is_empty()
            && self.core.is_empty()
            && self.control.is_empty()
    }
}

/// News for the control plane.
#[derive(Debug)]
pub enum ControlEvent {
    /// The last task of a unit has left this core, and other cores do not need this one for it: the channel may
    /// be dropped.
    LuClosed {
        /// Which unit.
        lu: LuId,
    },
    /// Nothing of this core reaches beyond the new end of a unit any more (`Engine::lu_shrink`).
    LuShrunk {
        /// Which unit.
        lu: LuId,
    },
    /// Store this, durably, then call [`crate::Engine::stored`] with the ticket. A command waits for it.
    Store {
        /// Whose.
        lu: LuId,
        /// Comes back in `stored`.
        ticket: u32,
        /// What it is; each replaces the one before.
        what: Stored,
        /// The bytes.
        bytes: Box<[u8]>,
    },
}

/// What is stored for a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// Registrations and reservation (APTPL).
    Reservations,
    /// Saved mode pages (MODE SELECT with SP).
    Modes,
}
