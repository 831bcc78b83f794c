//! One connection's state.

use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use spindle_mem::Sgv;
use spindle_reactor::Tick;

use super::ahead::Ahead;
use super::send::SendQueue;
use super::staging::Staged;

/// A TCP connection of this core.
pub(super) struct Conn {
    pub fd: OwnedFd,
    pub staged: Staged,
    pub landing: Option<Landing>,
    pub tx: SendQueue,
    /// Payload that is expected behind the headers to come.
    pub ahead: Ahead,
    /// How much may be read beyond what is needed now.
    pub read_ahead: u32,
    /// The last read filled all the room it was given: more may have come.
    pub more: bool,
    /// What the kernel reports to us now.
    pub interest: EventFlags,
    /// The send buffer of the kernel is full.
    pub blocked: bool,
    /// Back-pressure from above.
    pub paused: bool,
    /// Already in the list of those to flush.
    pub dirty: bool,
    pub phase: Phase,
}

/// The next bytes of the stream belong here.
pub(super) struct Landing {
    pub buf: Sgv,
    /// Offset into the vector of the next byte.
    pub next: u32,
    pub end: u32,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Open,
    /// We close: what is queued goes out first.
    Closing {
        until: Tick,
    },
    /// Our side is shut down; waiting for the peer's end.
    Draining {
        until: Tick,
    },
}

/// What is read ahead until the owner says otherwise: a login request's header and text.
const READ_AHEAD: u32 = 16 * 1024;

impl Conn {
    pub fn new(fd: OwnedFd, interest: EventFlags) -> Conn {
        Conn {
            fd,
            staged: Staged::empty(),
            landing: None,
            tx: SendQueue::new(),
            ahead: Ahead::default(),
            read_ahead: READ_AHEAD,
            more: false,
            interest,
            blocked: false,
            paused: false,
            dirty: false,
            phase: Phase::Open,
        }
    }
}
