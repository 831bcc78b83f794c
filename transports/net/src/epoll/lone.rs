//! The connection that alone has something, and little: how it is read with the least between question and answer.
//!
//! It is read without asking epoll whether there is something, which is one system call less for who waits for each
//! answer; now and then all are asked, as others may have come. With many commands on the way it is the other way round:
//! they come in larger batches if looked for later.
//!
//! Has it been like that for long, it is *apart*: taken out of the epoll set, so that the kernel does not put each
//! segment of it on a list that nobody needs, on its way from the peer to us. It goes back before anything relies on
//! the set: when others come, when it has many commands, is held back or cannot take its answers, and before the core
//! sleeps. As long as the kernel finds no room to take it back, it is read in each poll and the core stays awake.

use rustix::event::epoll;

use super::conn::Conn;
use super::{EpollNet, TcpSocket, is_listener};
use crate::net::{ConnId, NetEvent};

/// Polls of the lone connection alone before all are asked again: others wait so many turns longer at most, once, as it is
/// not the lone one any more when they have something.
const UNASKED_MAX: u8 = 3;
/// More answers than these in one turn are those of a deep queue.
const ANSWERS_MAX: u32 = 2;
/// So many times in a row it alone had something before it is apart: going and coming back cost two system calls.
const STEADY: u32 = 64;

/// Which connection that is, if there is one.
#[derive(Default)]
pub(super) struct Lone {
    conn: Option<ConnId>,
    unasked: u8,
    /// PDUs queued since something of it was found.
    answers: u32,
    /// How many times in a row it had something, with few answers each.
    steady: u32,
    /// It is not in the epoll set.
    apart: bool,
}

impl Lone {
    /// A PDU was queued on some connection.
    #[inline]
    pub fn answered(&mut self) {
        self.answers = self.answers.saturating_add(1);
    }

    /// Whom to read this time without asking.
    fn unasked(&mut self) -> Option<ConnId> {
        if self.unasked == UNASKED_MAX || self.is_deep() {
            self.unasked = 0;
            return None;
        }
        self.unasked += 1;
        self.conn
    }

    fn is_deep(&self) -> bool {
        self.answers > ANSWERS_MAX
    }

    /// It was read and had something: the answers to that count from here.
    fn heard(&mut self) {
        self.steady = if self.is_deep() { 0 } else { self.steady.saturating_add(1) };
        self.answers = 0;
    }
}

impl EpollNet {
    /// The lone connection, if it is its turn to be read without asking epoll.
    pub(super) fn lone_to_read(&mut self) -> Option<ConnId> {
        if self.lone.apart && self.lone.is_deep() {
            self.rejoin();
        }
        let id = self.lone.unasked()?;
        let conn = self.conn(id);
        if conn.is_some_and(|conn| conn.is_read() && !(self.lone.apart && conn.blocked)) {
            return Some(id);
        }
        if self.rejoin() {
            self.lone = Lone::default();
        }
        None
    }

    /// The lone connection was read and had something.
    pub(super) fn lone_heard(&mut self) {
        self.lone.heard();
        if self.lone.steady < STEADY || self.lone.apart {
            return;
        }
        if let Some(conn) = self.lone.conn.and_then(|id| self.conn(id)).filter(|c| c.is_read() && !c.blocked)
        {
            self.lone.apart = epoll::delete(&self.epoll, &conn.fd).is_ok();
        }
    }

    /// Epoll was asked, and named these.
    pub(super) fn lone_among(&mut self, ready: &[epoll::Event]) {
        if ready.is_empty() || !self.rejoin() {
            return;
        }
        let alone = match ready {
            [one] if !is_listener(one.data.u64()) => Some(ConnId(one.data.u64() as u32)),
            _ => None,
        };
        if alone.is_none() || alone != self.lone.conn {
            self.lone = Lone { conn: alone, ..Lone::default() };
        } else {
            self.lone.heard();
        }
    }

    /// Epoll was asked, and does not tell about the one that is apart.
    pub(super) fn read_apart(&mut self, out: &mut Vec<NetEvent<TcpSocket>>) {
        let Some(id) = self.lone.conn.filter(|_| self.lone.apart) else { return };
        if self.conn(id).is_some_and(Conn::is_read) {
            let before = out.len();
            self.receive(id, out);
            if out.len() > before {
                self.lone_heard();
            }
        }
    }

    /// The lone connection is in the epoll set, from now on if it was not. `false`: the kernel did not take it.
    pub(super) fn rejoin(&mut self) -> bool {
        if !self.lone.apart {
            return true;
        }
        self.lone.steady = 0;
        self.lone.apart = self.lone.conn.is_some_and(|id| {
            self.conn(id).is_some_and(|conn| {
                let data = epoll::EventData::new_u64(u64::from(id.0));
                epoll::add(&self.epoll, &conn.fd, data, conn.interest).is_err()
            })
        });
        !self.lone.apart
    }
}
