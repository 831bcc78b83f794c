//! A connection: what it is doing, what to read next.

use std::net::SocketAddr;

use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::{Bhs, Itt, SerialNumber, Ttt};
use spindle_mem::Key;
use spindle_net::ConnId;
use spindle_reactor::Tick;

use crate::digest::Crc32c;
use crate::like::Like;
use crate::login::{Login, LoginDone};
use crate::rx::{LARGE_BYTES, LARGE_READ_BYTES, WARY_PDUS};
use crate::session::Session;
use crate::task::Task;
use crate::timers::ConnTimer;

/// Fewer answers than these are not worth a send of their own.
const HALF_LEAST: u32 = 8;
/// Of what a PDU moves, so much counts as one PDU more in a turn's budget: 64 reads of 128 KiB make a millisecond, for which all
/// other connections of the core would wait.
const BYTES_A_PDU: u32 = 16 * 1024;
/// Beyond, there is always enough on the way.
const HALVED_MOST: u32 = 96;

/// One connection.
#[derive(Debug)]
pub struct Conn {
    /// Its name in the Net.
    pub id: ConnId,
    /// Where it stands.
    pub state: ConnState,
    /// Its session, once there is one.
    pub session: Option<Key<Session>>,
    /// The initiator's address.
    pub peer: SocketAddr,
    /// The address it used.
    pub local: SocketAddr,
    /// Connection identifier.
    pub cid: u16,
    /// Digests in force.
    pub digests: Digests,
    /// Most bytes of data in a PDU we send.
    pub max_send: u32,
    /// Most bytes of data in a PDU we take.
    pub max_recv: u32,
    /// Next StatSN.
    pub stat_sn: SerialNumber,
    /// What the initiator has acknowledged.
    pub exp_stat_sn: SerialNumber,
    /// How many commands the initiator has had out lately, as far as its acknowledgements tell.
    pub depth: u32,
    /// StatSN when answers were handed over last.
    pub handed: SerialNumber,
    /// What is being read.
    pub rx: Rx,
    /// Header of the PDU being read.
    pub bhs: Bhs,
    /// Its additional header segments.
    pub ahs: Vec<u8>,
    /// Data segment of a PDU that is not payload.
    pub collected: Vec<u8>,
    /// A text exchange in full feature phase.
    pub text: Option<TextExchange>,
    /// A logout that is answered when the session's tasks have ended.
    pub logout: Option<Itt>,
    /// Bytes that must be there before anything can be done.
    pub needed: u32,
    /// What the Net was told to read ahead.
    pub ahead: u32,
    /// What this turn may still take in of it, in PDUs.
    pub budget: u32,
    /// For how many PDUs no more than a header is read ahead: large payload may follow it.
    pub wary: u8,
    /// Whether it is a stream of like writes.
    pub like: Like,
    /// Reading is stopped: its session is about to move. (Planted mistake: because a command found no memory.)
    pub held: bool,
    /// Reading is stopped until the peer takes what is queued for it.
    pub stalled: Option<Stall>,
    /// In the line of connections with bytes left over by a budget.
    pub in_line: bool,
    /// The last PDU came at this moment.
    pub heard: Tick,
    /// A NOP-In of ours that is not answered yet, and since when.
    pub ping: Option<(Ttt, Tick)>,
    /// It ends at this moment, whatever happens: login limit, logout limit.
    pub deadline: Option<Tick>,
    /// When it is looked at again for any of these.
    pub(crate) timer: ConnTimer,
    /// The Net has said that it ended; an unfinished landing may come back before that is handled.
    pub gone: bool,
}

/// Where a connection stands.
#[derive(Debug)]
pub enum ConnState {
    /// Logging in.
    Login(Box<Login>),
    /// Waiting for the session directory.
    Claiming(Box<Claim>),
    /// Full feature phase.
    Full,
    /// Logged out or failed; nothing more is read.
    Closing,
}

/// A login that is over but for the directory's word.
#[derive(Debug)]
pub struct Claim {
    /// What was agreed.
    pub done: LoginDone,
    /// The text of the last response.
    pub text: Vec<u8>,
    /// Its flags.
    pub flags: spindle_iscsi_wire::login::LoginFlags,
}

/// A peer that does not take what is queued for it.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// Since when nothing moved.
    pub since: Tick,
    /// How much was queued then.
    pub queued: u32,
}

/// What is being read.
#[expect(
    clippy::large_enum_variant,
    reason = "one for each connection; a box would cost an allocation a PDU"
)]
#[derive(Debug)]
pub enum Rx {
    /// A header with what belongs to it.
    Header,
    /// A data segment.
    Segment(Segment),
}

/// A data segment on its way in.
#[derive(Debug)]
pub struct Segment {
    /// Where it goes.
    pub sink: Sink,
    /// The task it belongs to, if any.
    pub task: Option<Key<Task>>,
    /// Bytes of data not yet taken.
    pub left: u32,
    /// Padding behind it.
    pub pad: u8,
    /// A digest stands behind it.
    pub digest: bool,
    /// The digest so far; none if it will not be looked at.
    pub crc: Option<Crc32c>,
}

/// Where a data segment goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sink {
    /// Into `Conn::collected`.
    Collect,
    /// Into the task's vector, at these offsets.
    Land(u32, u32),
    /// Into the task's reserve.
    Keep,
    /// Nowhere.
    Drop,
}

/// A text exchange that takes several PDUs.
#[derive(Debug)]
pub struct TextExchange {
    /// Its tag.
    pub itt: Itt,
    /// The tag we gave it.
    pub ttt: Ttt,
    /// What the initiator has said so far.
    pub input: Vec<u8>,
    /// What we have still to say.
    pub output: Vec<u8>,
}

impl Conn {
    /// A connection that has just been accepted.
    pub fn new(id: ConnId, login: Login, now: Tick, login_ms_max: u64) -> Self {
        let (peer, local) = (login.peer(), login.local());
        Conn {
            state: ConnState::Login(Box::new(login)),
            deadline: Some(now.plus_ms(login_ms_max)),
            ..Conn::between_pdus(id, peer, local, now)
        }
    }

    /// A connection on which nothing is being read, and of which nothing else is known yet.
    pub(crate) fn between_pdus(id: ConnId, peer: SocketAddr, local: SocketAddr, now: Tick) -> Self {
        Conn {
            id,
            peer,
            local,
            state: ConnState::Closing,
            session: None,
            cid: 0,
            digests: Digests::default(),
            max_send: crate::login::LOGIN_TEXT_MAX,
            max_recv: crate::login::LOGIN_TEXT_MAX,
            stat_sn: SerialNumber(1),
            exp_stat_sn: SerialNumber(1),
            depth: 0,
            handed: SerialNumber(1),
            rx: Rx::Header,
            bhs: [0; 48],
            ahs: Vec::new(),
            collected: Vec::new(),
            text: None,
            logout: None,
            needed: 0,
            ahead: 0,
            wary: WARY_PDUS,
            budget: 0,
            like: Like::new(),
            held: false,
            stalled: None,
            in_line: false,
            heard: now,
            ping: None,
            deadline: None,
            timer: None,
            gone: false,
        }
    }

    /// Whether bytes are to be read.
    pub fn is_reading(&self) -> bool {
        !self.gone
            && self.stalled.is_none()
            && !self.held
            && matches!(self.state, ConnState::Login(_) | ConnState::Full)
    }

    /// Bytes of a header with its digest.
    #[inline]
    pub fn header_bytes(&self) -> u32 {
        if self.digests.header { 52 } else { 48 }
    }

    /// Bytes behind a data segment of `len` bytes: padding and digest.
    #[inline]
    pub fn tail_bytes(&self, len: u32) -> u32 {
        bhs::pad(len) + if self.digests.data { 4 } else { 0 }
    }

    /// The initiator has seen all statuses before this one (RFC 7143 §4.2.2.2): only forward, and never beyond what was
    /// sent.
    #[inline]
    pub fn acknowledged(&mut self, exp_stat_sn: SerialNumber) {
        if exp_stat_sn.in_window(self.exp_stat_sn, self.stat_sn) {
            self.exp_stat_sn = exp_stat_sn;
        }
    }

    /// Answers that the initiator had not seen when it sent its last command: so many of those it had out are answered by
    /// now. Of one that never acknowledges they are more and more.
    #[inline]
    pub fn unseen(&self) -> u32 {
        u32::try_from(self.stat_sn.diff(self.exp_stat_sn)).unwrap_or(i32::MAX as u32)
    }

    /// All that was received is answered, and more may be there: is it time to hand the answers over? An initiator that
    /// gets half of what it has out goes on with that while we go on with the other half; with all of it at once, one of
    /// the two would always wait for the other. In smaller parts, though, sends would cost more than that. What
    /// answers everything need not wait for the rest of the turn.
    pub fn is_time_to_answer(&mut self) -> bool {
        self.depth = self.unseen().max(self.depth - self.depth.div_ceil(64));
        let answered = self.stat_sn.diff(self.handed) as u32;
        if answered == 0 || self.depth > HALVED_MOST {
            return false;
        }
        let half = answered >= HALF_LEAST && answered * 16 >= self.depth * 7;
        let time = half || answered >= self.depth;
        if time {
            self.handed = self.stat_sn;
        }
        time
    }

    /// A PDU moves so many bytes, which the turn's budget is charged with.
    #[inline]
    pub fn charge(&mut self, bytes: u32) {
        if bytes >= BYTES_A_PDU {
            self.budget = self.budget.saturating_sub(bytes / BYTES_A_PDU);
        }
    }

    /// A header was read: `len` bytes of payload follow it, and `edtl` is what a command expects to move. Is large
    /// payload likely to follow? Beside a large read a receive more costs nothing.
    #[inline]
    pub fn passed(&mut self, len: u32, edtl: u32) {
        if len >= LARGE_BYTES {
            self.wary = WARY_PDUS;
        } else if edtl < LARGE_READ_BYTES {
            self.wary = self.wary.saturating_sub(1);
        }
    }

    /// The segment being read, if it belongs to this task.
    pub fn segment_of(&mut self, key: Key<Task>) -> Option<&mut Segment> {
        match &mut self.rx {
            Rx::Segment(s) if s.task == Some(key) => Some(s),
            _ => None,
        }
    }

    /// Takes the next StatSN.
    pub fn next_stat_sn(&mut self) -> SerialNumber {
        let sn = self.stat_sn;
        self.stat_sn = sn.next();
        sn
    }
}

impl std::fmt::Debug for Crc32c {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Crc32c(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_is_charged_and_no_length_is_too_much() {
        let at = "127.0.0.1:3260".parse().unwrap();
        let mut conn = Conn::between_pdus(ConnId(0), at, at, Tick::ZERO);
        conn.budget = 64;
        conn.charge(BYTES_A_PDU - 1);
        assert_eq!(conn.budget, 64);
        conn.charge(128 << 10);
        assert_eq!(conn.budget, 56);
        conn.charge(u32::MAX);
        assert_eq!(conn.budget, 0);
    }

    #[test]
    fn an_initiator_that_never_acknowledges_is_answered_when_the_turn_ends() {
        let at = "127.0.0.1:3260".parse().unwrap();
        let mut conn = Conn::between_pdus(ConnId(0), at, at, Tick::ZERO);
        // Each is as many answers as one turn gives; what it has seen stays at the first StatSN.
        for answered in [1, 97, 700_000_000, 1 << 31, u32::MAX - 40] {
            conn.handed = SerialNumber(answered);
            conn.stat_sn = SerialNumber(answered.wrapping_add(32));
            assert_eq!(conn.is_time_to_answer(), answered == 1, "after {answered}");
        }
    }
}
