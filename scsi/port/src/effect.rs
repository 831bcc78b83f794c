//! What the mid-level asks of a transport.

use std::mem::size_of;

use spindle_mem::Sgv;

use crate::nexus::{NexusId, TaskId};
use crate::outcome::Outcome;
use crate::tmf::{TmfId, TmfResponse};

/// Carried out by the transport in order, once a turn. An effect for a nexus that is gone is not lost: its
/// buffer comes back by `returned`, its task by `responded` or `revoked`.
#[derive(Debug)]
pub enum PortEffect {
    /// A command that was told to wait may now send its Data-Out: here is where it goes.
    Land {
        /// Which task.
        task: TaskId,
        /// The transport's name for it.
        cookie: u32,
        /// Its nexus.
        nexus: NexusId,
        /// `buf.len()` bytes are wanted, from the offset of the first byte not yet swallowed.
        buf: Sgv,
    },
    /// The command has ended: send its data and status.
    Respond {
        /// Which task; answered by `responded` when its status stands in the send order.
        task: TaskId,
        /// The transport's name for it.
        cookie: u32,
        /// Its nexus.
        nexus: NexusId,
        /// Status, residuals, sense.
        outcome: Outcome,
        /// Data-In: this many bytes from the start of the vector; comes back by `returned`.
        data: Option<(Sgv, u32)>,
    },
    /// Send nothing for this task and ask for no more data; answer with `revoked` at once, or when its memory
    /// can no longer be written by the peer. Tasks that hold no buffer at the transport are revoked as well:
    /// the cookie is free afterwards.
    Revoke {
        /// Which task.
        task: TaskId,
        /// The transport's name for it.
        cookie: u32,
        /// Its nexus.
        nexus: NexusId,
    },
    /// A task management function is done.
    TmfDone {
        /// Which request.
        id: TmfId,
        /// Who asked.
        nexus: NexusId,
        /// The answer.
        response: TmfResponse,
    },
    /// The last task of a lost nexus has ended and its identifier is free.
    NexusGone {
        /// Which nexus.
        nexus: NexusId,
    },
    /// A nexus that is expected from another core ([`crate::Mid::expect_nexus`]): whatever its units tell from now on,
    /// they tell it here, too.
    NexusReady {
        /// Which nexus.
        nexus: NexusId,
    },
    /// Tell the initiator something it did not ask for.
    Notify {
        /// Which nexus.
        nexus: NexusId,
        /// What happened.
        event: AsyncEvent,
    },
}

/// News for an initiator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AsyncEvent {
    /// Please log out: the target is going away or the session must end (RFC 7143 §11.9, event 1).
    LogoutRequest,
}

const _: () = assert!(size_of::<PortEffect>() <= 64);
