//! What a core has done with its time. Written by its reactor alone, readable by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::tick::Tick;

/// One core's counters, as numbers of a moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CoreLoad {
    /// Turns taken.
    pub turns: u64,
    /// Turns that found something to do.
    pub busy_turns: u64,
    /// Messages taken from the mailbox.
    pub messages: u64,
    /// Events and completions the shard has reported.
    pub events: u64,
    /// Nanoseconds in turns that found something to do.
    pub busy_ns: u64,
    /// Nanoseconds in turns that found nothing, spinning and yielding included.
    pub idle_ns: u64,
    /// Nanoseconds asleep.
    pub asleep_ns: u64,
    /// How often the core went to sleep.
    pub sleeps: u64,
    /// How many sleeps ended by a message or a descriptor; the others by the clock or a signal.
    pub wakes: u64,
}

impl CoreLoad {
    /// The share of time spent working, in thousandths, since `earlier` was read.
    pub fn busy_permille_since(&self, earlier: &CoreLoad) -> u64 {
        let busy = self.busy_ns.saturating_sub(earlier.busy_ns);
        let rest = (self.idle_ns.saturating_sub(earlier.idle_ns))
            .saturating_add(self.asleep_ns.saturating_sub(earlier.asleep_ns));
        let whole = u128::from(busy) + u128::from(rest);
        // At most 1000, as `busy` is part of the whole.
        (u128::from(busy) * 1000).checked_div(whole).unwrap_or(0) as u64
    }
}

/// The shared side: a copy that the owner refreshes every turn. Its numbers may be of two neighbouring turns.
#[derive(Debug, Default)]
pub struct CoreStats {
    load: CachePadded<[AtomicU64; 9]>,
    /// Nought while awake; so that a long sleep is seen before it ends.
    asleep_since: AtomicU64,
}

impl CoreStats {
    pub(crate) fn publish(&self, l: &CoreLoad) {
        let fields = [
            l.turns,
            l.busy_turns,
            l.messages,
            l.events,
            l.busy_ns,
            l.idle_ns,
            l.asleep_ns,
            l.sleeps,
            l.wakes,
        ];
        for (shared, own) in self.load.iter().zip(fields) {
            shared.store(own, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_asleep_since(&self, since: Option<Tick>) {
        self.asleep_since.store(since.map_or(0, |t| t.0.max(1)), Ordering::Relaxed);
    }

    /// The counters as they stand at `now`, a sleep that goes on included.
    pub fn load(&self, now: Tick) -> CoreLoad {
        let [turns, busy_turns, messages, events, busy_ns, idle_ns, asleep_ns, sleeps, wakes] =
            std::array::from_fn(|n| self.load[n].load(Ordering::Relaxed));
        let since = self.asleep_since.load(Ordering::Relaxed);
        let this_sleep = if since == 0 { 0 } else { now.0.saturating_sub(since) };
        let asleep_ns = asleep_ns + this_sleep;
        CoreLoad { turns, busy_turns, messages, events, busy_ns, idle_ns, asleep_ns, sleeps, wakes }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_and_a_sleep_counts_while_it_lasts() {
        let stats = CoreStats::default();
        let load = CoreLoad {
            turns: 1,
            busy_turns: 2,
            messages: 3,
            events: 4,
            busy_ns: 5,
            idle_ns: 6,
            asleep_ns: 7,
            sleeps: 8,
            wakes: 9,
        };
        stats.publish(&load);
        assert_eq!(stats.load(Tick(1000)), load);
        stats.set_asleep_since(Some(Tick(900)));
        assert_eq!(stats.load(Tick(1000)), CoreLoad { asleep_ns: 107, ..load });
        stats.set_asleep_since(None);
        assert_eq!(stats.load(Tick(1000)), load);
    }

    #[test]
    fn the_busy_share_is_of_the_time_between_two_readings() {
        let earlier = CoreLoad { busy_ns: 100, idle_ns: 1000, ..CoreLoad::default() };
        let later = CoreLoad { busy_ns: 400, idle_ns: 1300, asleep_ns: 600, ..CoreLoad::default() };
        assert_eq!(later.busy_permille_since(&earlier), 250);
        assert_eq!(later.busy_permille_since(&later), 0);
    }
}
