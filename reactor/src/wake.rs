//! What would wake a sleeping core.

use std::os::fd::RawFd;

use arrayvec::ArrayVec;

use crate::tick::Tick;

/// How many descriptors a core can sleep on; a transport or a ring names one each, whatever it serves.
pub const WAKE_FDS_MAX: usize = 32;

/// A handful of descriptors (a transport's epoll, a ring, an event descriptor) and a deadline.
#[derive(Debug, Default)]
pub struct WakeSet {
    fds: ArrayVec<RawFd, WAKE_FDS_MAX>,
    deadline: Option<Tick>,
}

impl WakeSet {
    /// Empty: nothing would wake this core.
    pub fn new() -> WakeSet {
        WakeSet::default()
    }

    /// Wakes when `fd` becomes readable. The descriptor must stay readable until its owner has looked.
    ///
    /// # Panics
    /// If more than [`WAKE_FDS_MAX`] are named.
    pub fn fd(&mut self, fd: RawFd) {
        self.fds.push(fd);
    }

    /// Wakes at `at` at the latest.
    pub fn at(&mut self, at: Tick) {
        self.deadline = Some(self.deadline.map_or(at, |d| d.min(at)));
    }

    /// The descriptors named so far.
    pub fn fds(&self) -> &[RawFd] {
        &self.fds
    }

    /// The earliest deadline named so far.
    pub fn deadline(&self) -> Option<Tick> {
        self.deadline
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.fds.clear();
        self.deadline = None;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_counts() {
        let mut wake = WakeSet::new();
        wake.at(Tick(5));
        wake.at(Tick(3));
        wake.at(Tick(9));
        wake.fd(1);
        assert_eq!((wake.deadline(), wake.fds()), (Some(Tick(3)), &[1][..]));
        wake.clear();
        assert_eq!((wake.deadline(), wake.fds().len()), (None, 0));
    }
}
