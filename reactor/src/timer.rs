//! Timers of one core: a hierarchical wheel with a resolution of one millisecond.
//!
//! Eight levels of 64 slots cover every moment a [`Tick`] can name. A timer stands on the level of the highest
//! six-bit digit in which its due millisecond differs from the current one, so arming and cancelling are O(1),
//! a timer is moved down at most seven times, and the next slot is found with one bit scan per level. A timer
//! never fires early and fires at the first [`Timers::expire`] at or after its moment, rounded up to a
//! millisecond. Timers of one millisecond fire in the order they were armed.

use crate::tick::Tick;

const NS_PER_MS: u64 = 1_000_000;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
/// 2⁶⁴ ns are fewer than 2⁴⁵ ms: eight digits of six bits hold them.
const LEVELS: usize = 8;
/// The list of timers that were already due when they were armed.
const RIPE: u16 = (LEVELS * SLOTS) as u16;
/// A free entry is in no list.
const NOWHERE: u16 = u16::MAX;
const NIL: u32 = u32::MAX;

/// What the owner of a timer wants to be reminded of; opaque here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimerToken(pub u64);

/// Names an armed timer; a name of one that has fired or was cancelled is harmless.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId {
    slot: u32,
    generation: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    token: TimerToken,
    due_ms: u64,
    generation: u32,
    next: u32,
    prev: u32,
    list: u16,
}

#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

/// All timers of one core.
pub struct Timers {
    entries: Vec<Entry>,
    free: u32,
    armed: usize,
    limit: usize,
    /// The millisecond up to which everything due has fired.
    now_ms: u64,
    occupied: [u64; LEVELS],
    lists: Box<[List]>,
}

impl Timers {
    /// Room for `capacity` timers from the start, doubling when full up to `limit`.
    pub fn new(capacity: usize, limit: usize) -> Timers {
        assert!(limit < NIL as usize && capacity <= limit, "{capacity} timers of at most {limit}");
        let mut timers = Timers {
            entries: Vec::new(),
            free: NIL,
            armed: 0,
            limit,
            now_ms: 0,
            occupied: [0; LEVELS],
            lists: vec![List { first: NIL, last: NIL }; LEVELS * SLOTS + 1].into_boxed_slice(),
        };
        timers.add_entries(capacity);
        timers
    }

    /// How many are armed.
    pub fn len(&self) -> usize {
        self.armed
    }

    /// None is armed.
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Sets a timer for `at`; one for a moment that has passed fires at the next [`Timers::expire`].
    ///
    /// # Panics
    /// If the limit is reached: whoever states limits has counted wrong.
    pub fn arm(&mut self, at: Tick, token: TimerToken) -> TimerId {
        self.try_arm(at, token).unwrap_or_else(|| panic!("more than {} timers on one core", self.limit))
    }

    /// As [`Timers::arm`]; `None` if the limit is reached.
    pub fn try_arm(&mut self, at: Tick, token: TimerToken) -> Option<TimerId> {
        if self.free == NIL {
            let more = self.entries.len().max(16).min(self.limit - self.entries.len());
            if more == 0 {
                return None;
            }
            self.add_entries(more);
        }
        let slot = self.free;
        let entry = &mut self.entries[slot as usize];
        self.free = entry.next;
        entry.token = token;
        // Rounded up: early is wrong, late by less than a millisecond is not.
        entry.due_ms = at.0.div_ceil(NS_PER_MS);
        let generation = entry.generation;
        self.armed += 1;
        self.place(slot);
        Some(TimerId { slot, generation })
    }

    /// Takes a timer back; `false` if it has fired or was cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        match self.entries.get(id.slot as usize) {
            Some(e) if e.generation == id.generation && e.list != NOWHERE => {
                self.unlink(id.slot);
                self.give_back(id.slot);
                true
            }
            _ => false,
        }
    }

    /// When [`Timers::expire`] should be called next: never after the earliest timer is due. It may be before,
    /// when timers far off are to be sorted more finely; each such call brings the answer nearer.
    pub fn next(&self) -> Option<Tick> {
        if self.armed == 0 {
            None
        } else if self.lists[RIPE as usize].first != NIL {
            Some(Tick(self.now_ms.saturating_mul(NS_PER_MS)))
        } else {
            // The last millisecond a `Tick` cannot quite name is due at the end of time.
            self.next_slot().map(|(ms, _)| Tick(ms.saturating_mul(NS_PER_MS)))
        }
    }

    /// Appends the tokens of all timers due at `now` to `fired`, earliest first.
    pub fn expire(&mut self, now: Tick, fired: &mut Vec<TimerToken>) {
        // The end of time is every millisecond's end.
        let target = if now.0 == u64::MAX { u64::MAX.div_ceil(NS_PER_MS) } else { now.0 / NS_PER_MS };
        self.fire_list(RIPE, fired);
        if target <= self.now_ms {
            return;
        }
        while let Some((ms, list)) = self.next_slot() {
            if ms > target {
                break;
            }
            self.now_ms = ms;
            if (list as usize) < SLOTS {
                self.fire_list(list, fired);
            } else {
                self.spread_list(list);
                // What is due in the very first millisecond of the slot has no digit left to differ in.
                self.fire_list(RIPE, fired);
            }
        }
        self.now_ms = target;
    }

    /// The first occupied slot and the millisecond at which it begins. Lower levels come first: all timers of
    /// a level are due before the next slot of the level above begins.
    fn next_slot(&self) -> Option<(u64, u16)> {
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = DIGIT_BITS * level as u32;
        let above = self.now_ms >> (shift + DIGIT_BITS) << DIGIT_BITS;
        Some(((above | u64::from(slot)) << shift, (level * SLOTS) as u16 + slot as u16))
    }

    fn place(&mut self, slot: u32) {
        let due_ms = self.entries[slot as usize].due_ms;
        let list = if due_ms <= self.now_ms {
            RIPE
        } else {
            let highest = 63 - (due_ms ^ self.now_ms).leading_zeros();
            let level = highest / DIGIT_BITS;
            let digit = (due_ms >> (level * DIGIT_BITS)) & (SLOTS as u64 - 1);
            self.occupied[level as usize] |= 1 << digit;
            (level as usize * SLOTS) as u16 + digit as u16
        };
        let last = std::mem::replace(&mut self.lists[list as usize].last, slot);
        match last {
            NIL => self.lists[list as usize].first = slot,
            last => self.entries[last as usize].next = slot,
        }
        let entry = &mut self.entries[slot as usize];
        (entry.list, entry.prev, entry.next) = (list, last, NIL);
    }

    fn unlink(&mut self, slot: u32) {
        let Entry { next, prev, list, .. } = self.entries[slot as usize];
        match prev {
            NIL => self.lists[list as usize].first = next,
            prev => self.entries[prev as usize].next = next,
        }
        match next {
            NIL => self.lists[list as usize].last = prev,
            next => self.entries[next as usize].prev = prev,
        }
        if self.lists[list as usize].first == NIL {
            self.mark_empty(list);
        }
    }

    fn take_list(&mut self, list: u16) -> u32 {
        self.mark_empty(list);
        std::mem::replace(&mut self.lists[list as usize], List { first: NIL, last: NIL }).first
    }

    fn mark_empty(&mut self, list: u16) {
        if list != RIPE {
            self.occupied[list as usize / SLOTS] &= !(1 << (list as usize % SLOTS));
        }
    }

    fn fire_list(&mut self, list: u16, fired: &mut Vec<TimerToken>) {
        let mut at = self.take_list(list);
        while at != NIL {
            let Entry { token, next, .. } = self.entries[at as usize];
            fired.push(token);
            self.give_back(at);
            at = next;
        }
    }

    /// Sorts the timers of a slot that has begun onto the levels below.
    fn spread_list(&mut self, list: u16) {
        let mut at = self.take_list(list);
        while at != NIL {
            let next = self.entries[at as usize].next;
            self.place(at);
            at = next;
        }
    }

    fn give_back(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.list = NOWHERE;
        entry.next = self.free;
        self.free = slot;
        self.armed -= 1;
    }

    fn add_entries(&mut self, more: usize) {
        let (first, end) = (self.entries.len() as u32, (self.entries.len() + more) as u32);
        self.entries.reserve_exact(more);
        for slot in first..end {
            let next = if slot + 1 < end { slot + 1 } else { self.free };
            let (token, due_ms, generation) = (TimerToken(0), 0, 0);
            self.entries.push(Entry { token, due_ms, generation, next, prev: NIL, list: NOWHERE });
        }
        if more > 0 {
            self.free = first;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn expired(timers: &mut Timers, now: Tick) -> Vec<u64> {
        let mut fired = Vec::new();
        timers.expire(now, &mut fired);
        fired.into_iter().map(|t| t.0).collect()
    }

    #[test]
    fn a_timer_fires_once_not_early_and_at_most_a_millisecond_late() {
        let mut timers = Timers::new(4, 4);
        timers.arm(Tick(5_200_000), TimerToken(7));
        assert_eq!(expired(&mut timers, Tick(5_999_999)), []);
        assert_eq!(timers.next(), Some(Tick(6_000_000)));
        assert_eq!(expired(&mut timers, Tick(6_000_000)), [7]);
        assert_eq!(expired(&mut timers, Tick(u64::MAX)), []);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_timer_for_the_past_fires_at_the_next_look_even_if_time_stands_still() {
        let mut timers = Timers::new(4, 4);
        expired(&mut timers, Tick(9_000_000));
        timers.arm(Tick(3_000_000), TimerToken(1));
        assert!(timers.next().unwrap() <= Tick(9_000_000));
        assert_eq!(expired(&mut timers, Tick(9_000_000)), [1]);
    }

    #[test]
    fn a_cancelled_timer_stays_silent_and_its_old_name_hits_no_successor() {
        let mut timers = Timers::new(1, 1);
        let first = timers.arm(Tick(1_000_000), TimerToken(1));
        assert!(timers.cancel(first));
        assert!(!timers.cancel(first));
        let second = timers.arm(Tick(1_000_000), TimerToken(2));
        assert!(!timers.cancel(first));
        assert_eq!(expired(&mut timers, Tick(1_000_000)), [2]);
        assert!(!timers.cancel(second));
    }

    #[test]
    fn storage_doubles_up_to_the_limit_and_no_further() {
        let mut timers = Timers::new(2, 5);
        for n in 0..5 {
            assert!(timers.try_arm(Tick(1), TimerToken(n)).is_some());
        }
        assert_eq!(timers.try_arm(Tick(1), TimerToken(5)), None);
        assert_eq!(timers.len(), 5);
        assert_eq!(expired(&mut timers, Tick(NS_PER_MS)), [0, 1, 2, 3, 4]);
        assert!(timers.try_arm(Tick(1), TimerToken(6)).is_some());
    }

    #[test]
    fn the_end_of_time_can_be_named_and_reached() {
        let mut timers = Timers::new(2, 2);
        timers.arm(Tick(u64::MAX), TimerToken(1));
        assert_eq!(expired(&mut timers, Tick(u64::MAX - 1)), []);
        assert!(timers.next().is_some());
        assert_eq!(expired(&mut timers, Tick(u64::MAX)), [1]);
    }

    #[test]
    fn following_next_reaches_a_far_timer_in_a_few_steps() {
        let mut timers = Timers::new(1, 1);
        let at = Tick(40 * 24 * 3600 * 1_000_000_000 + 123_456_789);
        timers.arm(at, TimerToken(1));
        let mut steps = 0;
        loop {
            let next = timers.next().unwrap();
            steps += 1;
            assert!(steps <= LEVELS && next.0 <= at.0.next_multiple_of(NS_PER_MS));
            if expired(&mut timers, next) == [1] {
                break;
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u64),
        Cancel(usize),
        Advance(u64),
        FollowNext,
    }

    fn span() -> impl Strategy<Value = u64> {
        // All magnitudes from nanoseconds to years.
        (0u32..58, any::<u64>()).prop_map(|(bits, n)| n & ((1 << bits) - 1))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => span().prop_map(Step::Arm),
            1 => any::<usize>().prop_map(Step::Cancel),
            2 => span().prop_map(Step::Advance),
            2 => Just(Step::FollowNext),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_wheel_agrees_with_a_sorted_map(steps in proptest::collection::vec(step(), 1..200)) {
            let mut timers = Timers::new(1, 1024);
            // Due millisecond and order of arming → token: what fires, and in which order.
            let mut model: BTreeMap<(u64, u64), TimerId> = BTreeMap::new();
            let mut names = Vec::new();
            let mut now = 0u64;
            for (serial, step) in steps.into_iter().enumerate() {
                let serial = serial as u64;
                let target = match step {
                    Step::Arm(ahead) => {
                        let at = Tick(now.saturating_add(ahead));
                        let id = timers.arm(at, TimerToken(serial));
                        model.insert((at.0.div_ceil(NS_PER_MS), serial), id);
                        names.push(id);
                        continue;
                    }
                    Step::Cancel(_) if names.is_empty() => continue,
                    Step::Cancel(n) => {
                        let id = names[n % names.len()];
                        let key = model.iter().find(|(_, v)| **v == id).map(|(k, _)| *k);
                        prop_assert_eq!(timers.cancel(id), key.is_some());
                        key.map(|k| model.remove(&k));
                        continue;
                    }
                    Step::Advance(by) => now.saturating_add(by),
                    Step::FollowNext => timers.next().map_or(now, |t| t.0.max(now)),
                };
                now = target;
                let left = model.split_off(&(now / NS_PER_MS + 1, 0));
                let due: Vec<u64> = model.keys().map(|&(_, serial)| serial).collect();
                model = left;
                let mut got = expired(&mut timers, Tick(now));
                // Those armed for the past all count as due now: they come first, in the order of arming.
                let mut due = due;
                if got != due { got.sort_unstable(); due.sort_unstable(); }
                prop_assert_eq!(got, due);
                prop_assert_eq!(timers.len(), model.len());
                match (timers.next(), model.first_key_value()) {
                    (None, None) => {}
                    (Some(next), Some(((due_ms, _), _))) => {
                        prop_assert!(next.0 <= due_ms.saturating_mul(NS_PER_MS));
                        prop_assert!(next.0 > now, "each call makes progress");
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }

        #[test]
        fn timers_of_one_millisecond_fire_in_the_order_they_were_armed(
            start in span(), ahead in span(), pauses in proptest::collection::vec(span(), 1..20),
        ) {
            let mut timers = Timers::new(1, 64);
            expired(&mut timers, Tick(start));
            let at = start.saturating_add(ahead).saturating_add(NS_PER_MS);
            let mut now = start;
            let mut count = 0;
            for (n, pause) in pauses.into_iter().enumerate() {
                if now >= at { break; }
                timers.arm(Tick(at), TimerToken(n as u64));
                count += 1;
                // Time passes between armings, so that they start from different levels.
                now = now.saturating_add(pause).min(at - 1);
                prop_assert_eq!(expired(&mut timers, Tick(now)), Vec::<u64>::new());
            }
            let due = Tick(at.saturating_add(NS_PER_MS));
            prop_assert_eq!(expired(&mut timers, due), (0..count).collect::<Vec<u64>>());
        }
    }
}
