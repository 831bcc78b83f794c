//! A session moves to another core (`docs/design/0005-moving-sessions.md`).
//!
//! ```text
//!   old core                                  new core                           core 0
//!     reads on until no Data-Out is owed
//!     stops reading, waits until idle
//!     Offer { who, how much room } ─────────►   expects the nexus, asks homes
//!     ◄───────────────────────────── Welcome   all homes know
//!     packs nexus, session, connection
//!     Handed ────────────────────────────────►  reads on
//!       what core 0 says of the session                Moved ───────────────────►  writes it down
//!       is passed on until it knows                                                ◄───
//!     ◄──────────────────────────────────────────────────────────────────── Known  to both
//! ```
//!
//! The old core gives up after 200 ms, or when anything happens to the session, and reads on (`Withdrawn`). Until it
//! hands over, the session is its own in every respect; from then on, in the same turn, it is the new one's. A session
//! moves on only when core 0 knows where it is, so that what core 0 hears of it comes in order.

use std::net::SocketAddr;

use spindle_iscsi_wire::bhs::Digests;
use spindle_iscsi_wire::{SerialNumber, Ttt};
use spindle_mem::Key;
use spindle_net::{ConnId, Net};
use spindle_reactor::{CoreId, Tick};
use spindle_scsi_port::{Mid, NexusId, NexusInfo, PackedNexus};

use crate::conn::{Conn, ConnState, Rx};
use crate::directory::ConnMsg;
use crate::session::{Session, SessionState};
use crate::task::Phase;
use crate::timers::Later;
use crate::transport::{IscsiOut, IscsiTransport};

/// So long a session may take to become idle and leave; then it stays. A busy one that is never without Data-Out on the
/// way is not held up, and what is held up waits no longer than behind a slow device.
const TIME_MS: u64 = 200;
/// So long a session is not moved again because of load.
const REST_MS: u64 = 10_000;
/// A move is worth while if the busier of the two cores has less to do by this part of what the one had.
const WORTH: u64 = 8;
/// What waits for a message, or for a socket to take the last bytes, is looked at this often at least.
const LOOK_MS: u64 = 1;

/// Sessions of one core that leave, come, or have just left.
#[derive(Default)]
pub(crate) struct Moves {
    leaving: Vec<Leaving>,
    coming: Vec<Coming>,
    /// Gone to another core, which core 0 may not know yet.
    left: Vec<(u16, CoreId)>,
    last: u32,
}

struct Leaving {
    session: Key<Session>,
    to: CoreId,
    until: Tick,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Reading goes on: Data-Out is on its way, or a PDU is half read.
    Reading,
    /// Nothing more is read.
    Held,
    /// The new core was asked.
    Offered(u32),
    /// And is ready.
    Welcome(u32),
}

struct Coming {
    from: CoreId,
    id: u32,
    nexus: NexusId,
}

/// A session on its way, with all that belongs to it.
#[derive(Debug)]
pub struct Handed<S> {
    id: u32,
    socket: S,
    conn: PackedConn,
    session: Session,
    nexus: PackedNexus,
}

/// What a connection between two PDUs, with nothing to be sent, knows.
#[derive(Debug)]
struct PackedConn {
    peer: SocketAddr,
    local: SocketAddr,
    cid: u16,
    digests: Digests,
    max_send: u32,
    max_recv: u32,
    stat_sn: SerialNumber,
    exp_stat_sn: SerialNumber,
    ping: Option<(Ttt, Tick)>,
}

/// A core is busy far beyond another one, and should give it a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shed {
    /// To this core.
    pub to: CoreId,
    /// How busy the core is that sheds, in thousandths of its time.
    pub hot: u64,
    /// And the other one.
    pub cold: u64,
}

/// Why a session does not begin to move.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Stays {
    /// It is not on this core.
    #[error("no such session here")]
    NotHere,
    /// There is no such core, or it is this one.
    #[error("no other core has this number")]
    NoSuchCore,
    /// It is ending, moving already, or has just come; or it is a discovery session.
    #[error("the session is ending, is a discovery session, or has just moved")]
    NotNow,
}

impl Moves {
    /// Nobody leaves, so nothing has to be looked at.
    #[inline]
    pub fn nobody_leaves(&self) -> bool {
        self.leaving.is_empty()
    }

    /// When those who leave are looked at again.
    pub fn due(&self, now: Tick) -> Option<Tick> {
        (!self.leaving.is_empty()).then(|| now.plus_ms(LOOK_MS))
    }

    /// Sessions that may still come need a row each.
    pub fn coming(&self) -> usize {
        self.coming.len()
    }

    /// Where a session has gone that core 0 still takes for this core's.
    pub fn gone_to(&self, tsih: u16) -> Option<CoreId> {
        self.left.iter().find(|(left, _)| *left == tsih).map(|(_, to)| *to)
    }
}

/// Of sessions that have done so much work on a core that is `hot`, the one after whose move the busier of the two cores is
/// least busy. None if that would hardly be less than now: the only one that works is as much work elsewhere.
fn choose(work: &[u64], may_go: &[bool], hot: u64, cold: u64) -> Option<usize> {
    let all: u128 = work.iter().map(|&w| u128::from(w)).sum();
    let after = |work: u64| {
        let part = (u128::from(hot) * u128::from(work)).checked_div(all).unwrap_or(0) as u64;
        (hot - part).max(cold + part)
    };
    let best = (0..work.len()).filter(|&n| may_go[n]).min_by_key(|&n| after(work[n]))?;
    (after(work[best]) + hot / WORTH <= hot).then_some(best)
}

impl<N: Net> IscsiTransport<N> {
    /// The session is to move to another core at its next idle moment, if that comes soon.
    pub fn move_session(&mut self, tsih: u16, to: CoreId) -> Result<(), Stays> {
        let found = self.sessions.iter().find(|(_, s)| s.tsih == tsih);
        let Some((key, session)) = found else { return Err(Stays::NotHere) };
        if to == self.core || to.0 >= self.cores {
            return Err(Stays::NoSuchCore);
        }
        let leaves = self.moves.leaving.iter().any(|l| l.session == key);
        if session.nexus.is_none() || session.state != SessionState::Open || session.unplaced || leaves {
            return Err(Stays::NotNow);
        }
        let until = self.now.plus_ms(TIME_MS);
        self.moves.leaving.push(Leaving { session: key, to, until, step: Step::Reading });
        Ok(())
    }

    /// Notes what each session has done so far: [`IscsiTransport::shed`] goes by what it does from now on.
    pub fn note_work(&mut self) {
        for (_, session) in self.sessions.iter_mut() {
            session.noted = session.counters.work();
        }
    }

    /// The session whose move helps most, if one does, is to move. Which one that was.
    pub fn shed(&mut self, shed: Shed) -> Option<u16> {
        let (mut work, mut tsihs) = (Vec::new(), Vec::new());
        for (_, session) in self.sessions.iter_mut() {
            let done = session.counters.work();
            work.push(done.saturating_sub(std::mem::replace(&mut session.noted, done)));
            // One that has just moved stays for a while, and so does one that was to move and could not.
            let rested = session.moved_at.is_none_or(|at| self.now >= at.plus_ms(REST_MS));
            tsihs.push(rested.then_some(session.tsih));
        }
        let may_go: Vec<bool> = tsihs.iter().map(Option::is_some).collect();
        let tsih = tsihs[choose(&work, &may_go, shed.hot, shed.cold)?]?;
        self.move_session(tsih, shed.to).ok()?;
        let now = self.now;
        let chosen = self.sessions.iter_mut().find(|(_, s)| s.tsih == tsih);
        if let Some((_, session)) = chosen {
            session.moved_at = Some(now);
        }
        Some(tsih)
    }

    /// Each session that leaves goes a step further, or stays after all.
    #[cold]
    pub(crate) fn look_at_moves<M: Mid>(&mut self, mid: &mut M) {
        for mut leaving in std::mem::take(&mut self.moves.leaving) {
            let id = self.sessions.get(leaving.session).and_then(|s| s.connections.first().copied());
            let Some(mut conn) = id.and_then(|id| self.take_conn(id)) else {
                self.withdraw(&leaving);
                continue;
            };
            if self.steps_on(&mut conn, &mut leaving, mid) {
                let step = leaving.step;
                self.moves.leaving.push(leaving);
                if let Step::Welcome(id) = step {
                    self.hand_over(conn, id, mid);
                    continue;
                }
            } else {
                self.stay(&mut conn, &leaving);
            }
            self.put_conn(conn);
        }
    }

    /// `false`: it stays.
    fn steps_on<M: Mid>(&mut self, conn: &mut Conn, leaving: &mut Leaving, mid: &mut M) -> bool {
        let Some(session) = self.sessions.get(leaving.session) else { return false };
        let open = session.state == SessionState::Open && matches!(conn.state, ConnState::Full);
        if !open || conn.gone || conn.logout.is_some() || self.now >= leaving.until {
            return false;
        }
        if leaving.step == Step::Reading && self.may_stop_reading(conn, session) {
            conn.held = true;
            self.net.pause(conn.id, true);
            // What was received ahead of its turn is put in line, and vectors lent for more come home.
            self.expect_nothing(conn, mid);
            if conn.like.lent > 0 && self.net.read_more(conn.id) {
                self.take_lent(conn, mid);
            }
            leaving.step = Step::Held;
        }
        if leaving.step == Step::Held
            && let Some((info, granted)) = self.idle(conn, leaving.session, mid)
        {
            self.moves.last = self.moves.last.wrapping_add(1);
            let id = self.moves.last;
            self.tell(leaving.to, ConnMsg::Offer { id, granted, info });
            leaving.step = Step::Offered(id);
        }
        true
    }

    /// Between two PDUs, with no Data-Out owed and no command missing before one that came early: the session becomes
    /// idle without another byte from its initiator.
    fn may_stop_reading(&self, conn: &Conn, session: &Session) -> bool {
        matches!(conn.rx, Rx::Header)
            && conn.stalled.is_none()
            && conn.text.is_none()
            && session.nothing_early()
            && session.sinks == 0
            && session.tasks(&self.tasks).all(|task| task.phase == Phase::WithMid && !task.expects_data())
    }

    /// Nothing of the session is in flight, here or in the mid-level. Then: what the new core must know to expect it.
    fn idle<M: Mid>(&self, conn: &Conn, key: Key<Session>, mid: &M) -> Option<(Box<NexusInfo>, u32)> {
        let session = self.sessions.get(key)?;
        let idle = session.tasks(&self.tasks).next().is_none()
            && session.in_flight == 0
            && session.tmfs == 0
            && self.held.iter().all(|held| held.session != key)
            && conn.like.lent == 0
            && self.net.queued_bytes(conn.id) == 0;
        if idle { mid.may_leave(session.nexus?) } else { None }
    }

    /// The last step: everything goes at once, or nothing yet.
    fn hand_over<M: Mid>(&mut self, mut conn: Box<Conn>, id: u32, mid: &mut M) {
        let at = self.moves.leaving.iter().position(|l| l.step == Step::Welcome(id));
        let at = at.expect("it was put back just above");
        let (key, to) = (self.moves.leaving[at].session, self.moves.leaving[at].to);
        let nexus = self.sessions.get(key).and_then(|s| s.nexus);
        let idle = self.idle(&conn, key, mid).is_some();
        let (true, Some(nexus), Some(socket)) =
            (idle, nexus, idle.then(|| self.net.detach(conn.id)).flatten())
        else {
            return self.put_conn(conn);
        };
        self.moves.leaving.swap_remove(at);
        self.reminders.forget(&conn);
        conn.timer = None;
        let packed = mid.pack_nexus(nexus).expect("it was idle a moment ago, and nothing has come since");
        let mut session = self.sessions.remove(key).expect("looked at just above");
        session.connections.clear();
        session.nexus = None;
        if let Some(place) = self.nexuses.get_mut(usize::from(nexus.slot())) {
            *place = None;
        }
        self.moves.left.push((session.tsih, to));
        let conn = PackedConn {
            peer: conn.peer,
            local: conn.local,
            cid: conn.cid,
            digests: conn.digests,
            max_send: conn.max_send,
            max_recv: conn.max_recv,
            stat_sn: conn.stat_sn,
            exp_stat_sn: conn.exp_stat_sn,
            ping: conn.ping,
        };
        let handed = Box::new(Handed { id, socket, conn, session, nexus: packed });
        self.out.push(IscsiOut::Handed { to, handed });
    }

    /// It does not leave, and is read again.
    fn stay(&mut self, conn: &mut Conn, leaving: &Leaving) {
        self.withdraw(leaving);
        if conn.held {
            conn.held = false;
            self.net.pause(conn.id, false);
            self.again(conn);
        }
    }

    fn withdraw(&mut self, leaving: &Leaving) {
        if let Step::Offered(id) | Step::Welcome(id) = leaving.step {
            self.tell(leaving.to, ConnMsg::Withdrawn { id });
        }
    }

    /// Another core would like to give a session of its to this one.
    pub(crate) fn on_offer<M: Mid>(
        &mut self,
        from: CoreId,
        id: u32,
        granted: u32,
        info: Box<NexusInfo>,
        mid: &mut M,
    ) {
        let room = self.sessions.len() + self.moves.coming() < self.sessions.capacity()
            && !self.shutting_down
            && self.config.target_by_id(info.target).is_some();
        match room.then(|| mid.expect_nexus(info, granted)) {
            Some(Ok(nexus)) => self.moves.coming.push(Coming { from, id, nexus }),
            _ => self.tell(from, ConnMsg::Welcome { id, ready: false }),
        }
    }

    /// All homes know of a nexus that is expected here.
    pub(crate) fn nexus_is_ready(&mut self, nexus: NexusId) {
        if let Some(coming) = self.moves.coming.iter().find(|c| c.nexus == nexus) {
            let (from, id) = (coming.from, coming.id);
            self.tell(from, ConnMsg::Welcome { id, ready: true });
        }
    }

    /// It does not come after all.
    pub(crate) fn on_withdrawn<M: Mid>(&mut self, from: CoreId, id: u32, mid: &mut M) {
        if let Some(at) = self.moves.coming.iter().position(|c| (c.from, c.id) == (from, id)) {
            let coming = self.moves.coming.swap_remove(at);
            mid.expect_no_more(coming.nexus);
        }
    }

    /// The core that was asked has answered.
    pub(crate) fn on_welcome(&mut self, id: u32, ready: bool) {
        if let Some(leaving) = self.moves.leaving.iter_mut().find(|l| l.step == Step::Offered(id)) {
            if ready {
                leaving.step = Step::Welcome(id);
            } else {
                (leaving.step, leaving.until) = (Step::Held, self.now);
            }
        }
    }

    /// A session has come from another core.
    pub fn take_over<M: Mid>(&mut self, from: CoreId, handed: Handed<N::Socket>, now: Tick, mid: &mut M) {
        self.now = self.now.max(now);
        let Handed { id, socket, conn: packed, mut session, nexus } = handed;
        let at = self.moves.coming.iter().position(|c| (c.from, c.id) == (from, id));
        let coming = self.moves.coming.swap_remove(at.expect("only what was welcome is handed over"));
        mid.unpack_nexus(coming.nexus, nexus);
        let (tsih, target) = (session.tsih, session.target);
        session.nexus = Some(coming.nexus);
        session.unplaced = true;
        session.moved_at = Some(self.now);
        let Ok(key) = self.sessions.insert(session) else { unreachable!("a row was kept for it") };
        let slot = usize::from(coming.nexus.slot());
        if self.nexuses.len() <= slot {
            self.nexuses.resize(slot + 1, None);
        }
        self.nexuses[slot] = Some((coming.nexus, key));
        self.counters.moved += 1;
        self.tell(CoreId(0), ConnMsg::Moved { tsih });
        match self.net.attach(socket, self.now) {
            Ok(id) => {
                self.read_on(id, packed, key);
                if self.shutting_down || target.is_none_or(|t| self.config.target_by_id(t).is_none()) {
                    // This core was told so before the session came.
                    self.ask_logout(key);
                }
            }
            // No room among the connections: to its initiator the connection has broken.
            Err(_) => self.end_session(key, mid),
        }
    }

    fn read_on(&mut self, id: ConnId, packed: PackedConn, key: Key<Session>) {
        let PackedConn { peer, local, cid, digests, max_send, max_recv, stat_sn, exp_stat_sn, ping } = packed;
        let mut conn = Conn {
            state: ConnState::Full,
            session: Some(key),
            cid,
            digests,
            max_send,
            max_recv,
            stat_sn,
            exp_stat_sn,
            ping,
            ..Conn::between_pdus(id, peer, local, self.now)
        };
        if let Some(session) = self.sessions.get_mut(key) {
            session.connections.push(id);
        }
        let limits = &self.config.limits;
        let wait = if ping.is_some() { limits.nop_in_timeout_ms } else { limits.nop_in_interval_ms };
        self.reminders.remind(&mut conn, Later { since: self.now, ms: wait.max(1) });
        self.again(&mut conn);
        if self.conns.len() <= id.slot() {
            self.conns.resize_with(id.slot() + 1, || None);
        }
        self.put_conn(Box::new(conn));
    }

    /// Core 0 knows where a session is.
    pub(crate) fn on_known(&mut self, tsih: u16) {
        if let Some(at) = self.moves.left.iter().position(|(left, _)| *left == tsih) {
            self.moves.left.remove(at);
        } else if let Some((_, session)) = self.sessions.iter_mut().find(|(_, s)| s.tsih == tsih) {
            session.unplaced = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(work: &[u64], cold: u64) -> Option<usize> {
        choose(work, &vec![true; work.len()], 1000, cold)
    }

    #[test]
    fn the_session_that_evens_out_most_goes() {
        assert_eq!(of(&[50, 50], 0), Some(0));
        assert_eq!(of(&[0, 60, 40, 0], 0), Some(1));
        assert_eq!(of(&[70, 20, 10], 0), Some(0));
        assert_eq!(of(&[70, 20, 10], 240), Some(1));
        assert_eq!(of(&[20; 5], 240), Some(0));
    }

    #[test]
    fn nobody_goes_who_would_be_the_same_elsewhere() {
        for work in [&[][..], &[100], &[0, 100, 0], &[0, 0], &[95, 5], &[1000, 1, 2, 3]] {
            assert_eq!(of(work, 0), None, "{work:?}");
        }
    }

    #[test]
    fn who_has_just_moved_stays_and_its_work_counts() {
        assert_eq!(choose(&[50, 30, 20], &[false, true, true], 1000, 0), Some(1));
        assert_eq!(choose(&[95, 5], &[false, true], 1000, 0), None);
        assert_eq!(choose(&[50, 50], &[false, false], 1000, 0), None);
    }
}
