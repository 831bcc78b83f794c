//! A stream of like writes: each command brings all its data with it, and as much as the one before.
//!
//! Once so many have come that the next is likely to be another, the Net is told what to expect and lent vectors, so
//! that one read takes in many commands and each one's data lies in a vector of its own, uncopied. The vectors come from
//! the mid-level, like the one they are spares of, and go back when something else comes or nothing does. Each wrong
//! guess costs a copy, so after one a longer stream is asked for before the next.

use spindle_mem::Sgv;
use spindle_net::Net;
use spindle_scsi_port::Mid;

use crate::conn::Conn;
use crate::timers::Later;
use crate::transport::IscsiTransport;

/// Smaller segments are copied: that costs less than a slice of their own.
const LEAST_BYTES: u32 = 4096;
/// Beside larger ones a read for each costs nothing.
const MOST_BYTES: u32 = 32 * 1024;
/// What the vectors lent to a connection hold together: with the headers, as much as the Net could stage.
const LENT_BYTES: u32 = 60 * 1024;
/// Like commands before a guess is made, at first and at most.
const STREAK_FIRST: u16 = 8;
const STREAK_MOST: u16 = 1024;
/// As good as never: the Net wants no vectors.
const STREAK_NEVER: u16 = u16::MAX;
/// So many guesses that came true make up for a wrong one.
const FORGIVEN: u16 = 1024;
/// Vectors of a connection on which nothing came for so long go back.
const IDLE_MS: u64 = 100;

/// What a connection knows of its stream.
#[derive(Debug)]
pub struct Like {
    /// The Net expects more of the same.
    pub on: bool,
    /// Bytes of a command's data.
    bytes: u32,
    /// Commands like it, one after the other.
    streak: u16,
    /// How many it takes.
    enough: u16,
    /// Vectors lent.
    pub lent: u32,
}

impl Like {
    /// Of a connection on which nothing has come.
    pub fn new() -> Self {
        Like { on: false, bytes: 0, streak: 0, enough: STREAK_FIRST, lent: 0 }
    }
}

impl<N: Net> IscsiTransport<N> {
    /// A command with all its data, `bytes` of it, has come, or (nought) something else.
    #[inline]
    pub(crate) fn like<M: Mid>(&mut self, conn: &mut Conn, bytes: u32, mid: &mut M) {
        let like = &mut conn.like;
        if bytes == like.bytes {
            if bytes > 0 {
                self.like_again(conn);
            }
            return;
        }
        like.bytes = if (LEAST_BYTES..=MOST_BYTES).contains(&bytes) { bytes } else { 0 };
        like.streak = 0;
        if like.on {
            like.enough = like.enough.saturating_mul(2).min(STREAK_MOST.max(like.enough));
            self.expect_nothing(conn, mid);
        }
    }

    fn like_again(&mut self, conn: &mut Conn) {
        let like = &mut conn.like;
        like.streak += 1;
        if like.on {
            if like.streak >= FORGIVEN {
                (like.streak, like.enough) = (0, STREAK_FIRST);
            }
        } else if like.streak >= like.enough {
            (like.streak, like.on) = (0, true);
            let gap = conn.header_bytes() + conn.tail_bytes(conn.like.bytes);
            self.net.expect(conn.id, gap);
            self.reminders.remind(conn, Later { since: self.now, ms: IDLE_MS });
        }
    }

    /// `buf` is about to be landed in. While a stream lasts, the Net gets spares of it.
    #[inline]
    pub(crate) fn lend_like<M: Mid>(&mut self, conn: &mut Conn, buf: &Sgv, mid: &mut M) {
        if conn.like.on && buf.len() == conn.like.bytes {
            self.lend(conn, buf, mid);
        }
    }

    fn lend<M: Mid>(&mut self, conn: &mut Conn, buf: &Sgv, mid: &mut M) {
        while conn.like.lent < LENT_BYTES / conn.like.bytes && self.lent < self.config.limits.lent_max {
            let Some(spare) = mid.spare(buf) else { return };
            if let Some(spare) = self.net.lend(conn.id, spare) {
                conn.like.enough = STREAK_NEVER;
                conn.like.on = false;
                return mid.returned(spare);
            }
            conn.like.lent += 1;
            self.lent += 1;
        }
    }

    /// Something else came, or nothing: the Net gives back what it was lent. (What it holds data in comes back when
    /// that was taken out.)
    pub(crate) fn expect_nothing<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) {
        conn.like.on = false;
        self.net.expect(conn.id, 0);
        self.take_lent(conn, mid);
    }

    /// Vectors that the Net does not need any more.
    pub(crate) fn take_lent<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) {
        while conn.like.lent > 0 {
            let Some(spare) = self.net.take_spare(conn.id) else { return };
            conn.like.lent -= 1;
            self.lent -= 1;
            mid.returned(spare);
        }
    }

    /// Is it long ago that something came? Otherwise, when it will be.
    pub(crate) fn like_idle<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) -> Option<Later> {
        if conn.like.lent == 0 && !conn.like.on {
            return None;
        }
        if self.now < conn.heard.plus_ms(IDLE_MS) {
            return Some(Later { since: conn.heard, ms: IDLE_MS });
        }
        conn.like.streak = 0;
        self.expect_nothing(conn, mid);
        None
    }
}
