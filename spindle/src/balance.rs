//! When a core has too much to do and another next to nothing, one of its sessions moves.
//!
//! Every core looks for itself, about once a second, and only while it is awake: one that sleeps has nothing to give
//! away, so an idle target is not woken for this. It reads how busy the others are and picks the least busy.
//!
//! **When.** A core that was busy for more than three quarters of two looks in a row, while another was busy for less
//! than a quarter of both. Below three quarters a core answers at once; from a quarter on, the other would be near
//! three quarters itself with half of the work. Twice in a row, so that a short burst moves nobody.
//!
//! **Which.** The one after whose move the busier of the two is least busy, if that is less by an eighth at
//! least. So the only busy session of a core never moves: its work would be the same elsewhere. After a move the core
//! looks twice anew, and the session stays where it is for ten seconds (`IscsiTransport::shed`): it cannot go to and fro.

use spindle_iscsi::moving::Shed;
use spindle_reactor::{CoreId, Tick};

use crate::placement::Busy;

/// Between two looks.
const LOOK_NS: u64 = 1_000_000_000;
/// A look that comes later than that says nothing of what was lately.
const LATE_NS: u64 = 2 * LOOK_NS;
/// Load in thousandths: too much, and next to nothing.
const HOT: u64 = 750;
const COLD: u64 = 250;

/// What a core knows of the load of all.
#[derive(Default)]
pub struct Balance {
    /// Of each core; none if nobody moves.
    cores: Vec<(Busy, u64)>,
    looked: Tick,
    /// This core was hot, and these were cold, when it looked last.
    before: Vec<CoreId>,
}

/// What to do after a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing.
    Well,
    /// Note what each session has done so far: one may have to go soon.
    Note,
    /// One should go.
    Shed(Shed),
}

impl Balance {
    /// From now on the load of each core counts.
    pub fn watch(&mut self, cores: Vec<Busy>, now: Tick) {
        self.cores = cores.into_iter().map(|busy| (busy, 0)).collect();
        self.note(now);
        self.before.clear();
    }

    /// Time to look.
    #[inline]
    pub fn is_due(&self, now: Tick) -> bool {
        now.0 >= self.looked.0.saturating_add(LOOK_NS) && !self.cores.is_empty()
    }

    fn note(&mut self, now: Tick) {
        self.looked = now;
        for (busy, noted) in &mut self.cores {
            *noted = busy(now);
        }
    }

    /// Looks, on behalf of this core.
    pub fn look(&mut self, me: CoreId, now: Tick) -> Verdict {
        let passed = now.since(self.looked).as_nanos() as u64;
        let load = |(busy, noted): &(Busy, u64)| {
            (u128::from(busy(now).saturating_sub(*noted)) * 1000 / u128::from(passed.max(1))) as u64
        };
        let loads: Vec<u64> = self.cores.iter().map(load).collect();
        self.note(now);
        let before = std::mem::take(&mut self.before);
        let hot = loads.get(me.index()).copied().unwrap_or(0);
        if passed > LATE_NS || hot <= HOT {
            return Verdict::Well;
        }
        let cold = (0..loads.len()).filter(|&n| loads[n] < COLD).map(|n| CoreId(n as u8));
        let cold: Vec<CoreId> = cold.collect();
        let to = cold.iter().filter(|core| before.contains(core)).min_by_key(|core| loads[core.index()]);
        match to {
            Some(&to) => Verdict::Shed(Shed { to, hot, cold: loads[to.index()] }),
            None if cold.is_empty() => Verdict::Well,
            None => {
                self.before = cold;
                Verdict::Note
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Cores whose load a test decides.
    struct Bench {
        balance: Balance,
        clocks: Vec<Arc<AtomicU64>>,
        now: u64,
    }

    impl Bench {
        fn new(cores: usize) -> Bench {
            let clocks: Vec<Arc<AtomicU64>> = (0..cores).map(|_| Arc::default()).collect();
            let busy = |clock: &Arc<AtomicU64>| -> Busy {
                let clock = clock.clone();
                Box::new(move |_| clock.load(Ordering::Relaxed))
            };
            let mut balance = Balance::default();
            balance.watch(clocks.iter().map(busy).collect(), Tick(5));
            Bench { balance, clocks, now: 5 }
        }

        /// Core 0 looks after so many milliseconds with these loads.
        fn look(&mut self, ms: u64, loads: &[u64]) -> Verdict {
            self.now += ms * 1_000_000;
            for (clock, load) in self.clocks.iter().zip(loads) {
                clock.fetch_add(load * ms * 1_000, Ordering::Relaxed);
            }
            assert!(self.balance.is_due(Tick(self.now)));
            self.balance.look(CoreId(0), Tick(self.now))
        }
    }

    fn shed(to: u8, hot: u64, cold: u64) -> Verdict {
        Verdict::Shed(Shed { to: CoreId(to), hot, cold })
    }

    #[test]
    fn a_core_that_stays_hot_beside_a_cold_one_sheds_one_session_and_looks_twice_again() {
        let mut b = Bench::new(3);
        assert_eq!(b.look(1000, &[990, 100, 400]), Verdict::Note);
        assert_eq!(b.look(1000, &[990, 200, 10]), shed(1, 990, 200));
        assert_eq!(b.look(1000, &[990, 0, 0]), Verdict::Note);
        assert_eq!(b.look(1000, &[990, 20, 10]), shed(2, 990, 10));
    }

    #[test]
    fn a_burst_and_a_busy_neighbourhood_move_nobody() {
        let mut b = Bench::new(2);
        for loads in [[990, 0], [700, 0], [990, 0], [990, 300], [990, 0]] {
            assert!(!matches!(b.look(1000, &loads), Verdict::Shed(_)), "{loads:?}");
        }
        assert_eq!(b.look(1000, &[100, 990]), Verdict::Well);
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let mut b = Bench::new(2);
        assert_eq!(b.look(1000, &[990, 0]), Verdict::Note);
        assert_eq!(b.look(5000, &[990, 0]), Verdict::Well);
        assert_eq!(b.look(1000, &[990, 0]), Verdict::Note);
    }

    #[test]
    fn nobody_looks_where_nobody_moves() {
        assert!(!Balance::default().is_due(Tick(u64::MAX)));
    }
}
