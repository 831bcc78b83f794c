//! One connection's state.

use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use spindle_reactor::Tick;

use super::send::SendQueue;
use crate::inbox::Inbox;

/// A TCP connection of this core.
pub(super) struct Conn {
    pub fd: OwnedFd,
    pub inbox: Inbox,
    pub tx: SendQueue,
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

impl Conn {
    /// Neither held back nor about to close.
    pub fn is_read(&self) -> bool {
        !self.paused && self.phase == Phase::Open
    }

    pub fn new(fd: OwnedFd, interest: EventFlags, unread: Box<[u8]>) -> Conn {
        Conn {
            fd,
            inbox: Inbox::with(unread),
            tx: SendQueue::new(),
            interest,
            blocked: false,
            paused: false,
            dirty: false,
            phase: Phase::Open,
        }
    }
}
