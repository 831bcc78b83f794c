//! How much the R2Ts of a session ask for at a time.
//!
//! An initiator sends what it is asked for at once. What its target has not read by then waits in socket buffers, and two
//! megabytes of it have left the cache when their turn comes. So no more is asked for than keeps the way to the initiator
//! full: twice what fits on it, by the rate that is measured and the shortest round trip, and
//! [`IscsiLimits::solicited_min`](crate::config::IscsiLimits::solicited_min) at least. Writes beyond that wait in a line for
//! their R2T; one that has begun goes on before others begin.
//!
//! A write that has the way for itself is asked for in bursts of MaxBurstLength, others in pieces of half of what may be
//! out: one is on its way while the other is asked for. RFC 7143 §11.8.5 leaves the length of an R2T to the target, up to
//! MaxBurstLength.

use std::collections::VecDeque;

use spindle_mem::Key;
use spindle_reactor::Tick;

use crate::task::Task;

/// The rate is measured over this time.
const MEASURE_NS: u64 = 10_000_000;
/// A time so long was not all work: it tells nothing of the way.
const PAUSE_NS: u64 = 10 * MEASURE_NS;
/// No piece is shorter, but for a transfer's last.
const PIECE_MIN: u32 = 512;

/// What is out, what may be, and who waits.
#[derive(Debug)]
pub struct Solicit {
    out: u32,
    may: u32,
    line: VecDeque<Key<Task>>,
    since: Tick,
    came: u64,
    /// Somebody had to wait since then.
    waited: bool,
}

impl Solicit {
    /// At first so much may be out.
    pub fn new(min: u32) -> Solicit {
        Solicit { out: 0, may: min, line: VecDeque::new(), since: Tick::ZERO, came: 0, waited: false }
    }

    /// Whether more may be asked for. One R2T may always be out.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.out < self.may || self.out == 0
    }

    /// Whether tasks wait.
    #[inline]
    pub fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// How much each R2T asks for of a task that begins now.
    pub fn piece(&self, burst_max: u32) -> u32 {
        let alone = self.out == 0 && self.line.is_empty();
        if alone { burst_max } else { burst_max.min((self.may / 2).max(PIECE_MIN)) }
    }

    /// So much was asked for.
    pub fn asked(&mut self, bytes: u32) {
        self.out += bytes;
    }

    /// So much of it came, or will not come any more.
    pub fn settled(&mut self, bytes: u32) {
        debug_assert!(bytes <= self.out, "{bytes} of {} bytes came", self.out);
        self.out = self.out.saturating_sub(bytes);
        self.came += u64::from(bytes);
    }

    /// A task waits for its R2T; before the others if it has begun.
    pub fn wait(&mut self, key: Key<Task>, begun: bool) {
        self.waited = true;
        if begun { self.line.push_front(key) } else { self.line.push_back(key) }
    }

    /// A task waits no longer: it has ended.
    pub fn leave(&mut self, key: Key<Task>) {
        self.line.retain(|k| *k != key);
    }

    /// The next whose turn it is, if there is room.
    pub fn next(&mut self) -> Option<Key<Task>> {
        if self.has_room() { self.line.pop_front() } else { None }
    }

    /// Looks at the way again, if it is time: `round_trip_us` is the shortest known.
    pub fn measure(
        &mut self,
        now: Tick,
        (min, max): (u32, u32),
        round_trip_us: impl FnOnce() -> Option<u32>,
    ) {
        let passed = now.since(self.since).as_nanos() as u64;
        if passed < MEASURE_NS {
            return;
        }
        // Less was wanted than may be out: then the rate is what was wanted, and tells nothing of the way.
        if self.waited && passed < PAUSE_NS {
            let on_the_way = round_trip_us()
                .map_or(0, |us| u128::from(self.came) * u128::from(us) * 1_000 / u128::from(passed));
            self.may = (2 * on_the_way).clamp(min.into(), max.max(min).into()) as u32;
        }
        (self.since, self.came, self.waited) = (now, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use spindle_mem::Slab;

    use super::*;

    const MIN: u32 = 256 << 10;
    const MAX: u32 = 32 << 20;
    const BURST: u32 = 1 << 20;

    fn keys(n: usize) -> Vec<Key<Task>> {
        let mut sessions = Slab::new(1);
        let limits = crate::config::IscsiLimits::default();
        let params = crate::negotiate::Params::defaults(&limits);
        let isid = spindle_iscsi_wire::Isid([0; 6]);
        let sn = spindle_iscsi_wire::SerialNumber(0);
        let session = sessions.insert(crate::session::Session::new(params, isid, 1, sn)).unwrap();
        let mut tasks = Slab::new(n);
        let task = |n| Task::new(session, spindle_net::ConnId(0), spindle_iscsi_wire::Itt(n), [0; 8]);
        (0..n as u32).map(|n| tasks.insert(task(n)).unwrap()).collect()
    }

    #[test]
    fn who_is_alone_is_asked_for_whole_bursts_and_others_for_pieces() {
        let mut s = Solicit::new(MIN);
        assert!(s.has_room());
        assert_eq!(s.piece(BURST), BURST);
        s.asked(BURST);
        assert!(!s.has_room());
        s.settled(BURST - MIN);
        assert!(!s.has_room());
        s.settled(1);
        assert!(s.has_room());
        assert_eq!(s.piece(BURST), MIN / 2);
        assert_eq!(s.piece(8_192), 8_192);
    }

    #[test]
    fn the_line_goes_on_in_order_and_those_that_began_first() {
        let keys = keys(4);
        let mut s = Solicit::new(MIN);
        s.asked(MIN);
        s.wait(keys[0], false);
        s.wait(keys[1], false);
        s.wait(keys[2], true);
        s.wait(keys[3], false);
        s.leave(keys[1]);
        assert_eq!(s.next(), None);
        s.settled(1);
        assert_eq!(
            [s.next(), s.next(), s.next(), s.next()],
            [Some(keys[2]), Some(keys[0]), Some(keys[3]), None]
        );
    }

    /// Ten milliseconds in which a session took `came` bytes.
    fn ten_ms(s: &mut Solicit, now: &mut u64, came: u32, waited: bool, round_trip_us: u32) -> u32 {
        s.asked(came);
        s.settled(came);
        s.waited = waited;
        *now += MEASURE_NS;
        s.measure(Tick(*now), (MIN, MAX), || Some(round_trip_us));
        s.may
    }

    #[test]
    fn a_long_way_is_filled_and_a_short_one_not_flooded() {
        let mut s = Solicit::new(MIN);
        let mut now = MEASURE_NS;
        s.measure(Tick(now), (MIN, MAX), || None);
        // 1.25 GB/s and a round trip of 1 ms: it doubles until the way is full.
        let mut may = s.may;
        for _ in 0..8 {
            let rate = (u64::from(may) * 10).min(12_500_000) as u32;
            may = ten_ms(&mut s, &mut now, rate, true, 1_000);
        }
        assert_eq!(may, 2_500_000);
        // A rate that nobody waited for says nothing.
        assert_eq!(ten_ms(&mut s, &mut now, 1_000, false, 1_000), may);
        // 6 GB/s over 10 µs: the least there is.
        assert_eq!(ten_ms(&mut s, &mut now, 60_000_000, true, 10), MIN);
        // And never beyond the most.
        for _ in 0..8 {
            may = ten_ms(&mut s, &mut now, 60_000_000, true, 100_000);
        }
        assert_eq!(may, MAX);
    }

    #[test]
    fn a_pause_is_not_taken_for_a_slow_way() {
        let mut s = Solicit::new(MIN);
        let mut now = MEASURE_NS;
        s.measure(Tick(now), (MIN, MAX), || None);
        assert_eq!(ten_ms(&mut s, &mut now, 12_500_000, true, 1_000), 2_500_000);
        now += PAUSE_NS;
        assert_eq!(ten_ms(&mut s, &mut now, 1, true, 1_000), 2_500_000);
    }
}
