//! Mistakes that can be planted, to prove that the tests would find them. Without the feature `planted`
//! every question is answered with a constant `false` and the hooks vanish.

/// A mistake one could make in this crate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bug {
    /// A task management function is answered before its tasks have ended.
    EarlyTmfAnswer = 1,
    /// The status of an aborted command is sent all the same.
    StatusAfterAbort = 2,
    /// PERSISTENT RESERVE OUT is answered before all cores know.
    ReservationPublishedLate = 3,
    /// Tasks that wait at a gate are not woken when it opens.
    LostWakeUp = 4,
    /// An aborted write that still waits at a gate is sent to the device afterwards.
    LateWrite = 5,
    /// A failed read sends what its buffer holds.
    StaleData = 6,
    /// Those who wait for memory are not told that some came free.
    PoolForgotten = 7,
    /// An ORDERED task starts while older ones still run.
    OrderIgnored = 8,
    /// A failed write is answered with GOOD.
    WriteErrorHidden = 9,
    /// COMPARE AND WRITE starts before others have left its blocks.
    GateClosedEarly = 10,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 10] = [
        Bug::EarlyTmfAnswer,
        Bug::StatusAfterAbort,
        Bug::ReservationPublishedLate,
        Bug::LostWakeUp,
        Bug::LateWrite,
        Bug::StaleData,
        Bug::PoolForgotten,
        Bug::OrderIgnored,
        Bug::WriteErrorHidden,
        Bug::GateClosedEarly,
    ];
}

#[cfg(feature = "planted")]
mod active {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a mistake in what this thread runs (one at a time; `None` takes it out).
    pub fn plant(bug: Option<Bug>) {
        ACTIVE.set(bug);
    }

    /// Whether this mistake is to be made.
    pub fn on(bug: Bug) -> bool {
        ACTIVE.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use active::{on, plant};

/// Whether this mistake is to be made: never, in this build.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn on(_: Bug) -> bool {
    false
}
