//! How a reactor behaves when there is nothing to do.

use std::time::Duration;

use crate::tick::Tick;

/// Whether an idle core keeps its processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PollMode {
    /// Never sleeps: lowest latency, for processors that do nothing else.
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
    /// How long it then polls but lets other threads of its processor run between turns.
    pub yielding: Duration,
    /// Messages taken per turn.
    pub mail_budget: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            mode: PollMode::Adaptive,
            spin: Duration::from_micros(60),
            yielding: Duration::from_micros(40),
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
    #[inline]
    pub(crate) fn rest(&self, last_work: Tick, now: Tick) -> Rest {
        let quiet = now.since(last_work);
        match self.mode {
            PollMode::Always => Rest::Spin,
            PollMode::Adaptive if quiet < self.spin => Rest::Spin,
            PollMode::Adaptive if quiet < self.spin + self.yielding => Rest::Yield,
            PollMode::Adaptive => Rest::Sleep,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_idle_core_spins_then_yields_then_sleeps_unless_told_to_poll_always() {
        let pace =
            Pace { spin: Duration::from_nanos(10), yielding: Duration::from_nanos(5), ..Pace::default() };
        let rests = [100, 109, 110, 114, 115].map(|now| pace.rest(Tick(100), Tick(now)));
        assert_eq!(rests, [Rest::Spin, Rest::Spin, Rest::Yield, Rest::Yield, Rest::Sleep]);
        let always = Pace { mode: PollMode::Always, ..pace };
        assert_eq!(always.rest(Tick(0), Tick(u64::MAX)), Rest::Spin);
    }
}
