//! How a reactor behaves when there is nothing to do.

use std::time::Duration;

use crate::shard::Debtor;
use crate::tick::Tick;

/// Whether an idle core keeps its processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PollMode {
    /// Never sleeps: lowest latency, for processors that do nothing else. Where threads are at work for it, it lets them
    /// run between turns.
    Always,
    /// Polls while there is work, sleeps when there is none for a while.
    #[default]
    Adaptive,
}

/// The pace of a reactor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Whether to sleep at all.
    pub mode: PollMode,
    /// How long after the last work a core goes on polling as fast as it can. A little more than the round trip
    /// of an initiator that keeps one command under way, so that such a stream is served without a sleep.
    pub spin: Duration,
    /// A core that has been busy goes on for longer, as more is likely to come and waking costs the more the less it is
    /// used to: an eighth of the time it was busy since it slept last, but no longer than this.
    pub spin_max: Duration,
    /// How long it then polls but lets other threads of its processor run between turns.
    pub yielding: Duration,
    /// The same where a device owes completions: longer than a quick one takes, as waking up would add to each of its
    /// operations. One that takes longer still is slept for.
    pub yielding_owed: Duration,
    /// Messages taken per turn.
    pub mail_budget: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            mode: PollMode::Adaptive,
            spin: Duration::from_micros(60),
            spin_max: Duration::from_millis(5),
            yielding: Duration::from_micros(40),
            yielding_owed: Duration::from_millis(1),
            mail_budget: 256,
        }
    }
}

/// What to do after a turn that found nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rest {
    Spin,
    Yield,
    Sleep,
}

impl Pace {
    /// `worked_until`: the end of the last turn that found something. `busy_ns`: in such turns since the last sleep.
    /// `owed`: by whom, see [`crate::Work::Owed`]. To threads that need a processor this one is left at once.
    #[inline]
    pub(crate) fn rest(&self, worked_until: Tick, busy_ns: u64, owed: Option<Debtor>, now: Tick) -> Rest {
        let quiet = now.since(worked_until);
        let yielding = owed.map_or(self.yielding, |_| self.yielding_owed.max(self.yielding));
        let spin = self.spin.max(self.spin_max.min(Duration::from_nanos(busy_ns / 8)));
        match self.mode {
            PollMode::Always if owed == Some(Debtor::Threads) => Rest::Yield,
            PollMode::Always => Rest::Spin,
            PollMode::Adaptive if owed == Some(Debtor::Threads) => Rest::Sleep,
            PollMode::Adaptive if quiet < spin => Rest::Spin,
            PollMode::Adaptive if quiet < spin + yielding => Rest::Yield,
            PollMode::Adaptive => Rest::Sleep,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_idle_core_spins_then_yields_then_sleeps_unless_told_to_poll_always() {
        let [spin, spin_max, yielding, yielding_owed] = [10, 20, 5, 50].map(Duration::from_nanos);
        let pace = Pace { spin, spin_max, yielding, yielding_owed, ..Pace::default() };
        let rests = |busy_ns, at: [u64; 5]| at.map(|now| pace.rest(Tick(100), busy_ns, None, Tick(now)));
        let expected = [Rest::Spin, Rest::Spin, Rest::Yield, Rest::Yield, Rest::Sleep];
        assert_eq!(rests(0, [100, 109, 110, 114, 115]), expected);
        assert_eq!(rests(80, [100, 109, 110, 114, 115]), expected);
        // Twelve of ninety-six, and twenty at most.
        assert_eq!(rests(96, [100, 111, 112, 116, 117]), expected);
        assert_eq!(rests(u64::MAX, [100, 119, 120, 124, 125]), expected);
        // A device that owes is waited for.
        let owed =
            [100, 109, 110, 159, 160].map(|now| pace.rest(Tick(100), 0, Some(Debtor::Device), Tick(now)));
        assert_eq!(owed, expected);
        let always = Pace { mode: PollMode::Always, ..pace };
        assert_eq!(always.rest(Tick(0), 0, None, Tick(u64::MAX)), Rest::Spin);
        // Threads that owe get the processor.
        let threads = Some(Debtor::Threads);
        assert_eq!(pace.rest(Tick(100), u64::MAX, threads, Tick(100)), Rest::Sleep);
        assert_eq!(always.rest(Tick(100), 0, threads, Tick(100)), Rest::Yield);
    }
}
