//! How a core learns that messages came, awake or asleep.
//!
//! One word per receiver says who has posted, so an empty mailbox costs one load however many cores there are.
//! A sleeping receiver is woken through an event descriptor. Posting and falling asleep are a store followed by
//! a load of the other side's word; without a full fence between the two, on *both* sides, each may miss the
//! other's store and a message would lie unseen until something else wakes its receiver:
//!
//! ```text
//! sender:   publish, mark bits │ fence │ sleeping?  → ring
//! receiver: sleeping = true    │ fence │ bits?      → stay awake
//! ```
//!
//! The loom tests of the mailbox fail when either fence is left out; `ci/loom.sh` leaves them out to prove it.

use std::io;
use std::os::fd::RawFd;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicBool, AtomicU64, Ordering, fence};

/// Bit of senders outside the mesh.
const OUTSIDE_BIT: u32 = 63;
/// Cores share the other bits; with more cores than bits, a bit stands for several.
pub(crate) const CORE_BITS: usize = OUTSIDE_BIT as usize;

/// One receiver's doorbell.
pub(crate) struct Doorbell {
    bits: CachePadded<AtomicU64>,
    /// In a line of its own: all senders read it, and it changes only when the receiver goes to sleep.
    sleeping: CachePadded<AtomicBool>,
    bell: Bell,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Doorbell> {
        Ok(Doorbell {
            bits: CachePadded::new(AtomicU64::new(0)),
            sleeping: CachePadded::new(AtomicBool::new(false)),
            bell: Bell::new()?,
        })
    }

    // The sender's side: `mark_*` for every receiver, then `posted` once, then `wake_sleeper` for every receiver.

    /// Says that `core` has published messages; orders them before the mark.
    pub(crate) fn mark_core(&self, core: usize) {
        self.bits.fetch_or(1 << (core % CORE_BITS), Ordering::Release);
    }

    /// Says that something outside the mesh has posted.
    pub(crate) fn mark_outside(&self) {
        self.bits.fetch_or(1 << OUTSIDE_BIT, Ordering::Release);
    }

    /// The sender's fence: stands between its marks and its looks at who sleeps.
    pub(crate) fn posted() {
        #[cfg(not(planted_fence_sender))]
        fence(Ordering::SeqCst);
    }

    /// Rings if the receiver sleeps. Of several senders one rings.
    pub(crate) fn wake_sleeper(&self) {
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.bell.ring();
        }
    }

    // The receiver's side.

    /// Takes the marks; messages published before them are visible afterwards.
    #[inline]
    pub(crate) fn take(&self) -> u64 {
        if self.bits.load(Ordering::Relaxed) == 0 { 0 } else { self.bits.swap(0, Ordering::Acquire) }
    }

    /// Announces sleep; `false` if something was posted meanwhile and there is to be no sleep. Whoever posted
    /// in that moment may have rung all the same; that costs the next sleep one early end and nothing else.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        #[cfg(not(planted_fence_receiver))]
        fence(Ordering::SeqCst);
        if self.bits.load(Ordering::Relaxed) == 0 {
            return true;
        }
        self.sleeping.store(false, Ordering::Relaxed);
        false
    }

    /// Ends the sleep; `rung` says that the descriptor was seen to be readable.
    pub(crate) fn wake_up(&self, rung: bool) {
        self.sleeping.store(false, Ordering::Relaxed);
        if rung {
            self.bell.silence();
        }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.bell.fd()
    }

    #[cfg(all(test, loom))]
    pub(crate) fn rings(&self) -> usize {
        self.bell.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

pub(crate) fn is_outside(bits: u64) -> bool {
    bits >> OUTSIDE_BIT != 0
}

pub(crate) fn core_marks(bits: u64) -> u64 {
    bits & !(1 << OUTSIDE_BIT)
}

/// The event descriptor; under loom a count of rings, since the kernel is not part of the model.
#[cfg(not(loom))]
struct Bell(spindle_ffi_os::EventFd);

#[cfg(not(loom))]
impl Bell {
    fn new() -> io::Result<Bell> {
        spindle_ffi_os::EventFd::new().map(Bell)
    }

    fn ring(&self) {
        self.0.ring();
    }

    fn silence(&self) {
        self.0.drain();
    }

    fn fd(&self) -> RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.0)
    }
}

#[cfg(loom)]
struct Bell(std::sync::atomic::AtomicUsize);

#[cfg(loom)]
impl Bell {
    fn new() -> io::Result<Bell> {
        Ok(Bell(std::sync::atomic::AtomicUsize::new(0)))
    }

    fn ring(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }

    fn silence(&self) {
        self.0.store(0, std::sync::atomic::Ordering::SeqCst);
    }

    fn fd(&self) -> RawFd {
        -1
    }
}
