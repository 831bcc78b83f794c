//! When connections and what waits with them are looked at again.
//!
//! Each connection stands in a timer wheel once, for the earliest moment at which something of it may be due: login
//! limit, logout limit, ping, ping's answer, stalled peer, end of a stream of like writes. What puts a moment off (every
//! PDU that comes) does not touch the wheel: a timer that fires too early is set anew. So an idle connection costs
//! nothing until its turn comes, whatever their number, and a busy one pays nothing for those that idle.
//!
//! Moments are rounded up to a grid that is a little finer than the time to wait: a thousand idle connections wake a
//! sleeping core once a second, not each by itself. Of many that are due together some go first ([`FIRED_A_TURN`]), so
//! that a turn stays short.

use std::collections::VecDeque;

use spindle_mem::Key;
use spindle_net::{ConnId, Net};
use spindle_reactor::{Tick, TimerId, TimerToken, Timers};
use spindle_scsi_port::Mid;

use crate::conn::{Conn, ConnState};
use crate::session::{Session, SessionState};
use crate::transport::IscsiTransport;

/// Connections looked at in one turn because of their timers.
const FIRED_A_TURN: usize = 32;
/// What waits in the short lists is looked at no more often than this.
const SWEEP_MS: u64 = 20;
/// The end of time: nothing is due.
const NEVER: Tick = Tick(u64::MAX);

/// The timers of one core's transport.
pub(crate) struct Reminders {
    wheel: Timers,
    /// Whose timers have fired and who wait for their turn.
    fired: VecDeque<ConnId>,
    tokens: Vec<TimerToken>,
    /// Sessions that were asked to log out, in the order of their end.
    asked: VecDeque<(Key<Session>, Tick)>,
    /// When the short lists (sessions asked to log out, sinks, answers held back) want to be looked at.
    lists_at: Tick,
    /// The earliest of all.
    due: Tick,
}

/// A moment to be looked at again: so many milliseconds after another.
#[derive(Clone, Copy)]
pub(crate) struct Later {
    pub since: Tick,
    pub ms: u64,
}

impl Later {
    /// The exact moment.
    fn at(self) -> Tick {
        self.since.plus_ms(self.ms)
    }

    /// The moment on a grid of at most an eighth of the wait, and at most a second. Steps are powers of two, as those of
    /// the wheel are, so that most timers fire without being sorted more finely first.
    fn on_grid(self) -> Tick {
        let step = 1u64 << (self.ms / 8).clamp(1, 1024).ilog2();
        Tick(self.at().0.saturating_add(step * NS_PER_MS - 1) / (step * NS_PER_MS) * (step * NS_PER_MS))
    }
}

const NS_PER_MS: u64 = 1_000_000;

impl Reminders {
    /// For at most `connections` connections.
    pub(crate) fn new(connections: usize) -> Reminders {
        Reminders {
            wheel: Timers::new(0, connections),
            fired: VecDeque::new(),
            tokens: Vec::new(),
            asked: VecDeque::new(),
            lists_at: NEVER,
            due: NEVER,
        }
    }

    /// When something is due; nothing before.
    #[inline]
    pub(crate) fn due(&self) -> Option<Tick> {
        (self.due != NEVER).then_some(self.due)
    }

    #[inline]
    pub(crate) fn is_due(&self, now: Tick) -> bool {
        now >= self.due
    }

    /// The short lists are looked at then, at the latest.
    pub(crate) fn look_by(&mut self, at: Tick) {
        self.lists_at = self.lists_at.min(at);
        self.due = self.due.min(at);
    }

    /// The connection is looked at then, at the latest (but for the grid).
    pub(crate) fn remind(&mut self, conn: &mut Conn, later: Later) {
        let at = later.on_grid();
        if let Some((timer, earlier)) = conn.timer {
            if earlier <= at {
                return;
            }
            self.wheel.cancel(timer);
        }
        let timer = self.wheel.arm(at, TimerToken(u64::from(conn.id.0)));
        conn.timer = Some((timer, at));
        self.due = self.due.min(at);
    }

    /// The connection is no more.
    pub(crate) fn forget(&mut self, conn: &Conn) {
        if let Some((timer, _)) = conn.timer {
            self.wheel.cancel(timer);
        }
    }

    /// Until when a session that was asked has time to log out.
    pub(crate) fn ask(&mut self, session: Key<Session>, until: Tick) {
        self.asked.push_back((session, until));
        self.look_by(until);
    }

    fn settle(&mut self, now: Tick) {
        let wheel = if self.fired.is_empty() { self.wheel.next() } else { Some(now) };
        self.due = wheel.map_or(self.lists_at, |at| at.min(self.lists_at));
    }
}

/// The timer of a connection, and when it fires.
pub(crate) type ConnTimer = Option<(TimerId, Tick)>;

impl<N: Net> IscsiTransport<N> {
    /// Looks at what is due. Returns how many connections were pinged: their answers may come soon.
    pub(crate) fn look_at_timers<M: Mid>(&mut self, mid: &mut M) -> u32 {
        let now = self.now;
        let mut tokens = std::mem::take(&mut self.reminders.tokens);
        self.reminders.wheel.expire(now, &mut tokens);
        self.reminders.fired.extend(tokens.drain(..).map(|token| ConnId(token.0 as u32)));
        self.reminders.tokens = tokens;
        let pings = self.counters.pings;
        for _ in 0..FIRED_A_TURN {
            let Some(id) = self.reminders.fired.pop_front() else { break };
            let Some(mut conn) = self.take_conn(id) else { continue };
            conn.timer = None;
            let idle = self.like_idle(&mut conn, mid);
            let due = self.look_at_conn(&mut conn, mid);
            for later in [idle, due].into_iter().flatten() {
                self.reminders.remind(&mut conn, later);
            }
            self.put_conn(conn);
        }
        if now >= self.reminders.lists_at {
            self.look_at_lists(mid);
        }
        self.reminders.settle(now);
        (self.counters.pings - pings) as u32
    }

    /// Sessions that did not log out, sinks, answers held back.
    fn look_at_lists<M: Mid>(&mut self, mid: &mut M) {
        let now = self.now;
        let mut next = NEVER;
        while let Some(&(key, until)) = self.reminders.asked.front() {
            if until > now {
                next = next.min(until);
                break;
            }
            self.reminders.asked.pop_front();
            if self.sessions.get(key).is_some_and(|s| matches!(s.state, SessionState::LogoutAsked(_))) {
                self.drop_session(key, mid);
            }
        }
        while let Some(&(key, until)) = self.sinks.front() {
            if until > now {
                next = next.min(until);
                break;
            }
            self.sinks.pop_front();
            self.free_sink(key);
        }
        if let Some(at) = self.release_held() {
            next = next.min(at);
        }
        self.reminders.lists_at = if next == NEVER { NEVER } else { next.max(now.plus_ms(SWEEP_MS)) };
    }

    /// Logins and logouts that take too long, silent peers, peers that take nothing. Tells when to look again.
    fn look_at_conn<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) -> Option<Later> {
        let now = self.now;
        let limits = &self.config.limits;
        let (interval, timeout, stall_ms) =
            (limits.nop_in_interval_ms, limits.nop_in_timeout_ms, limits.send_stall_ms_max);
        if let Some(until) = conn.deadline {
            if now < until {
                return Some(Later { since: until, ms: 0 });
            }
            self.counters.timeouts += 1;
            if conn.logout.is_some() {
                self.logout_failed(conn);
            } else {
                self.drop_conn(conn, mid);
            }
            return None;
        }
        if !matches!(conn.state, ConnState::Full) {
            return None;
        }
        if let Some(stall) = &mut conn.stalled {
            let queued = self.net.queued_bytes(conn.id);
            if queued < stall.queued {
                (stall.queued, stall.since) = (queued, now);
            }
            return self.unless_over(conn, Later { since: conn.stalled?.since, ms: stall_ms }, mid);
        }
        if let Some((_, since)) = conn.ping {
            return self.unless_over(conn, Later { since: since.max(conn.heard), ms: timeout }, mid);
        }
        if interval == 0 {
            return None;
        }
        let due = Later { since: conn.heard, ms: interval };
        if now < due.at() {
            return Some(due);
        }
        self.ping(conn);
        self.counters.pings += 1;
        Some(Later { since: now, ms: timeout })
    }

    /// The peer has time until then; after that its connection is dropped.
    fn unless_over<M: Mid>(&mut self, conn: &mut Conn, until: Later, mid: &mut M) -> Option<Later> {
        if self.now < until.at() {
            return Some(until);
        }
        self.counters.timeouts += 1;
        self.drop_conn(conn, mid);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_put_off_by_an_eighth_at_most_and_never_forward() {
        for ms in [0, 1, 7, 8, 15, 16, 100, 1000, 5000, 15_000, 3_600_000] {
            for since in [0, 1, 999_999, 1_000_000, 123_456_789_012] {
                let later = Later { since: Tick(since), ms };
                let put_off = later.on_grid().0 - later.at().0;
                let most = (ms / 8).clamp(1, 1024) * NS_PER_MS;
                assert!(put_off < most.max(1), "{ms} ms after {since} ns: {put_off} ns later");
            }
        }
    }

    #[test]
    fn long_waits_that_began_at_any_time_end_together() {
        let ends: std::collections::BTreeSet<Tick> =
            (0..1000).map(|n| Later { since: Tick(n * NS_PER_MS), ms: 15_000 }.on_grid()).collect();
        assert!(ends.len() <= 2, "{ends:?}");
    }
}
