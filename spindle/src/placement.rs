//! Which core a new connection goes to: the one that has been least busy lately.
//!
//! Connections come in bursts, and what they will ask for is not known when they come. So the cores' load is looked at now
//! and then, and in between each connection placed counts as a little load of its own: a core at work to the full gets its
//! next one when an idle one has got sixteen. Where cores are alike, each gets one in its turn.

use spindle_reactor::{CoreId, Tick};

/// Load is the share of this time, at least, that a core was busy.
const WINDOW_MS: u64 = 100;
/// What a core that does nothing but work counts; a connection placed since the last look counts one.
const FULL: u64 = 16;

/// Nanoseconds a core has been busy in all, at a moment.
pub type Busy = Box<dyn Fn(Tick) -> u64 + Send>;

/// The choice of the core that accepts.
pub struct Placement {
    cores: Vec<Row>,
    looked: Tick,
    placed: u64,
}

#[derive(Default)]
struct Row {
    /// `None`: nobody says.
    busy: Option<Busy>,
    busy_ns: u64,
    load: u64,
    placed_since: u64,
    /// When it got one last, counted in connections.
    last: u64,
}

impl Placement {
    /// Over cores whose load is not known: each in its turn.
    pub fn new(cores: u8) -> Placement {
        Placement {
            cores: (0..cores.max(1)).map(|_| Row::default()).collect(),
            looked: Tick::ZERO,
            placed: 0,
        }
    }

    /// From now on the load of each core counts.
    pub fn watch(&mut self, cores: Vec<Busy>, now: Tick) {
        assert_eq!(cores.len(), self.cores.len(), "all cores are watched");
        for (row, busy) in self.cores.iter_mut().zip(cores) {
            (row.busy_ns, row.busy) = (busy(now), Some(busy));
        }
        self.looked = now;
    }

    /// The core of the next connection.
    pub fn next(&mut self, now: Tick) -> CoreId {
        self.look(now);
        let least =
            self.cores.iter().enumerate().min_by_key(|(_, row)| (row.load + row.placed_since, row.last));
        let at = least.map_or(0, |(at, _)| at);
        self.placed += 1;
        let row = &mut self.cores[at];
        row.placed_since += 1;
        row.last = self.placed;
        CoreId(at as u8)
    }

    fn look(&mut self, now: Tick) {
        let passed = now.since(self.looked).as_nanos() as u64;
        if passed < WINDOW_MS * 1_000_000 {
            return;
        }
        self.looked = now;
        for row in &mut self.cores {
            row.placed_since = 0;
            let Some(busy) = &row.busy else { continue };
            let (before, after) = (row.busy_ns, busy(now));
            row.busy_ns = after;
            row.load =
                (u128::from(after.saturating_sub(before)) * u128::from(FULL) / u128::from(passed)) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const LATER: u64 = WINDOW_MS * 1_000_000;

    fn watched(cores: u8) -> (Placement, Vec<Arc<AtomicU64>>) {
        let clocks: Vec<Arc<AtomicU64>> = (0..cores).map(|_| Arc::default()).collect();
        let busy = |clock: &Arc<AtomicU64>| -> Busy {
            let clock = clock.clone();
            Box::new(move |_| clock.load(Ordering::Relaxed))
        };
        let mut placement = Placement::new(cores);
        placement.watch(clocks.iter().map(busy).collect(), Tick(1));
        (placement, clocks)
    }

    fn next(placement: &mut Placement, n: usize, at: u64) -> Vec<u8> {
        (0..n).map(|_| placement.next(Tick(at)).0).collect()
    }

    #[test]
    fn cores_that_are_alike_get_one_each_in_turn() {
        assert_eq!(next(&mut Placement::new(3), 7, 5), [0, 1, 2, 0, 1, 2, 0]);
        let (mut placement, _) = watched(3);
        assert_eq!(next(&mut placement, 4, 5), [0, 1, 2, 0]);
        // The turn goes on where it was, however long nobody came.
        assert_eq!(next(&mut placement, 4, 1 + 50 * LATER), [1, 2, 0, 1]);
    }

    #[test]
    fn a_busy_core_is_spared_until_the_others_have_got_their_share() {
        let (mut placement, clocks) = watched(2);
        clocks[0].store(LATER, Ordering::Relaxed);
        let mut got = next(&mut placement, 2 * FULL as usize, 1 + LATER);
        assert_eq!(got.iter().filter(|&&core| core == 0).count(), FULL as usize / 2, "{got:?}");
        assert!(got.drain(..FULL as usize).all(|core| core == 1));
    }

    #[test]
    fn a_core_that_was_spared_for_long_is_not_given_all_of_it_later() {
        let (mut placement, clocks) = watched(2);
        clocks[0].store(LATER, Ordering::Relaxed);
        assert_eq!(next(&mut placement, 8, 1 + LATER), [1; 8]);
        // Both rest now; connections come one by one, each after a look of its own.
        let got: Vec<u8> = (2..8).flat_map(|n| next(&mut placement, 1, 1 + n * LATER)).collect();
        assert_eq!(got, [0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn load_is_what_it_was_lately_and_a_clock_that_went_back_is_none() {
        let (mut placement, clocks) = watched(2);
        clocks[0].store(LATER, Ordering::Relaxed);
        assert_eq!(next(&mut placement, 1, 1 + LATER), [1]);
        // Core 0 has rested since, core 1 has worked.
        clocks[1].store(LATER / 2, Ordering::Relaxed);
        assert_eq!(next(&mut placement, 3, 1 + 2 * LATER), [0, 0, 0]);
        clocks.iter().for_each(|clock| clock.store(0, Ordering::Relaxed));
        assert_eq!(next(&mut placement, 1, 1 + 3 * LATER), [1]);
    }
}
