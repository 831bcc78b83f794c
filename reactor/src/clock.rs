//! Where the time comes from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::tick::Tick;

/// A source of time. Never goes backwards.
pub trait Clock {
    /// This moment.
    fn now(&self) -> Tick;
}

/// The machine's monotonic clock: the same on all cores, read without entering the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct HardwareClock;

impl Clock for HardwareClock {
    #[inline]
    fn now(&self) -> Tick {
        Tick(spindle_ffi_os::cpu::monotonic_ns())
    }
}

/// A clock that moves only when told; clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Arc<AtomicU64>);

impl SimClock {
    /// Starts at `start`.
    pub fn new(start: Tick) -> SimClock {
        SimClock(Arc::new(AtomicU64::new(start.0)))
    }

    /// Moves on by `by`.
    pub fn advance(&self, by: Duration) {
        self.advance_to(self.now() + by);
    }

    /// Moves on to `to`, if it lies ahead.
    pub fn advance_to(&self, to: Tick) {
        self.0.fetch_max(to.0, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Tick {
        Tick(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_hardware_clock_measures_real_time() {
        let start = HardwareClock.now();
        std::thread::sleep(Duration::from_millis(2));
        let passed = HardwareClock.now().since(start);
        assert!(passed >= Duration::from_millis(2) && passed < Duration::from_secs(60));
    }

    #[test]
    fn a_simulated_clock_moves_when_told_and_only_forward() {
        let clock = SimClock::new(Tick(10));
        let shown = clock.clone();
        clock.advance(Duration::from_nanos(5));
        clock.advance_to(Tick(3));
        assert_eq!(shown.now(), Tick(15));
    }
}
