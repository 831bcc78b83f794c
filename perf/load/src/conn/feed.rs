//! When the next command is due.

use std::ops::Range;

/// Source of commands for the connections of a thread.
pub struct Feed {
    /// Commands left to be given out.
    left: u64,
    pace: Pace,
}

enum Pace {
    /// Whenever there is room.
    Closed,
    /// At moments fixed beforehand, whatever the target does.
    Open { next_ns: f64, gap_ns: f64, rng: Option<fastrand::Rng> },
}

impl Feed {
    /// Commands whenever a connection has room.
    pub fn closed(ops: Option<u64>) -> Self {
        Self { left: ops.unwrap_or(u64::MAX), pace: Pace::Closed }
    }

    /// Commands at a rate from `start_ns` on; with a generator of chance the gaps are exponential.
    pub fn open(ops: Option<u64>, start_ns: u64, per_second: f64, rng: Option<fastrand::Rng>) -> Self {
        let gap_ns = 1e9 / per_second;
        Self { left: ops.unwrap_or(u64::MAX), pace: Pace::Open { next_ns: start_ns as f64, gap_ns, rng } }
    }

    /// Whether commands come at a fixed rate.
    pub fn is_open(&self) -> bool {
        matches!(self.pace, Pace::Open { .. })
    }

    /// The moment a command that may go out now was meant to go out; `None` if none is due.
    #[inline]
    pub fn due(&mut self, now_ns: u64) -> Option<u64> {
        if self.left == 0 {
            return None;
        }
        let start = match &mut self.pace {
            Pace::Closed => now_ns,
            Pace::Open { next_ns, gap_ns, rng } => {
                if *next_ns > now_ns as f64 {
                    return None;
                }
                let start = *next_ns as u64;
                *next_ns += match rng {
                    // 1 - x lies in (0, 1], where the logarithm is finite.
                    Some(rng) => *gap_ns * -(1.0 - rng.f64()).ln(),
                    None => *gap_ns,
                };
                start
            }
        };
        self.left -= 1;
        Some(start)
    }

    /// Whether none will ever be due again.
    pub fn is_exhausted(&self) -> bool {
        self.left == 0
    }

    /// The generator did not run for a while: what fell due meanwhile is not sent, so that its absence becomes no burst for
    /// the target. How many there were. Where some were overdue before, the target does not keep up, and has all of them to
    /// answer for.
    pub fn skip(&mut self, absent_ns: Range<u64>) -> u64 {
        match self.pace {
            Pace::Open { next_ns, .. } if next_ns >= absent_ns.start as f64 => self.drop_due(absent_ns.end),
            _ => 0,
        }
    }

    fn drop_due(&mut self, now_ns: u64) -> u64 {
        let mut dropped = 0;
        while self.due(now_ns).is_some() {
            dropped += 1;
        }
        dropped
    }

    /// No more commands. Those of an open loop that were due before `end_ns` and never sent are counted.
    pub fn stop(&mut self, end_ns: u64) -> u64 {
        let missed = if self.is_open() { self.drop_due(end_ns) } else { 0 };
        self.left = 0;
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_keeps_its_moments_when_the_target_stalls() {
        let mut feed = Feed::open(None, 1000, 1e9 / 100.0, None);
        assert_eq!(feed.due(999), None);
        assert_eq!(feed.due(1000), Some(1000));
        assert_eq!(feed.due(1050), None);
        // A long silence: the commands missed keep the times at which they should have gone out.
        assert_eq!(feed.due(1350), Some(1100));
        assert_eq!(feed.due(1350), Some(1200));
        assert_eq!(feed.due(1350), Some(1300));
        assert_eq!(feed.due(1350), None);
        assert_eq!(feed.stop(1650), 3);
        assert!(feed.is_exhausted());
    }

    #[test]
    fn what_fell_due_in_an_absence_is_not_made_up_for() {
        let mut feed = Feed::open(Some(10), 1000, 1e9 / 100.0, None);
        assert_eq!(feed.skip(900..999), 0);
        assert_eq!(feed.skip(999..1250), 3);
        assert_eq!((feed.due(1290), feed.due(1300)), (None, Some(1300)));
        // One was due before and could not be sent: the target's doing.
        assert_eq!(feed.skip(1450..5000), 0);
        assert_eq!((feed.due(1450), feed.skip(1450..5000), feed.is_exhausted()), (Some(1400), 5, true));
    }

    #[test]
    fn random_gaps_have_the_mean_that_was_asked_for() {
        let mut feed = Feed::open(None, 0, 1e6, Some(fastrand::Rng::with_seed(3)));
        let n = (0..).take_while(|_| feed.due(100_000_000).is_some()).count();
        assert!((98_000..102_000).contains(&n), "{n} commands in 100 ms at a million a second");
    }

    #[test]
    fn a_closed_loop_ends_with_its_count() {
        let mut feed = Feed::closed(Some(2));
        assert_eq!((feed.due(5), feed.due(6), feed.due(7)), (Some(5), Some(6), None));
    }
}
