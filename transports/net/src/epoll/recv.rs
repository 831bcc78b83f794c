//! Receiving: headers into staging, payload into its vector, both by one call.

use std::io::IoSliceMut;
use std::ops::Range;

use arrayvec::ArrayVec;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use spindle_mem::Sgv;

use super::ahead::Found;
use super::conn::{Landing, Phase};
use super::staging::STAGING_BYTES;
use super::{EpollNet, TcpSocket};
use crate::net::{CloseReason, ConnId, NetEvent};

/// Slices of one readv: a 1 MiB vector of scattered pages and the staging room behind it.
pub(super) const SLICES_MAX: usize = 257;

/// What one attempt to read came to.
enum Got {
    Bytes(usize),
    Nothing,
    End(CloseReason),
}

impl EpollNet {
    /// Readiness of a connection.
    pub(super) fn on_ready(&mut self, id: ConnId, flags: EventFlags, out: &mut Vec<NetEvent<TcpSocket>>) {
        if flags.contains(EventFlags::OUT)
            && let Some(conn) = self.conn_mut(id)
        {
            conn.blocked = false;
            self.send_now(id.slot());
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            self.receive(id, out);
        }
    }

    /// One read of a connection. Reports `Landed` before `Readable`, as the bytes lie in the stream.
    pub(super) fn receive(&mut self, id: ConnId, out: &mut Vec<NetEvent<TcpSocket>>) {
        let slot = id.slot();
        if self.conn(id).is_none() {
            return;
        }
        let conn = self.conns[slot].conn.as_mut().expect("looked up just above");
        if matches!(conn.phase, Phase::Closing { .. } | Phase::Draining { .. }) {
            let mut sink = [0u8; 4096];
            if let Got::End(_) = got(rustix::io::read(&conn.fd, &mut sink)) {
                self.end(id, CloseReason::Local);
            }
            return;
        }
        if conn.ahead.has_folds() {
            // The owner has not come to what was received ahead; nothing may be received behind it.
            out.push(NetEvent::Readable(id));
            return;
        }
        let mut slices: ArrayVec<IoSliceMut<'_>, SLICES_MAX> = ArrayVec::new();
        let mut landing_left = 0usize;
        let mut landing_covered = 0usize;
        if let Some(landing) = conn.landing.as_mut() {
            landing_left = (landing.end - landing.next) as usize;
            for part in landing.buf.slices_mut(landing.next..landing.end).take(SLICES_MAX - 1) {
                landing_covered += part.len();
                slices.push(IoSliceMut::new(part));
            }
        }
        // Staging lies behind the landing in the stream: it takes part only if the slices reach that far.
        let mut stage = landing_covered == landing_left;
        let first = (conn.read_ahead as usize).min(STAGING_BYTES - conn.staged.len());
        let guess = stage && conn.ahead.is_ready();
        if guess {
            stage = conn.ahead.lay_out(first, &mut conn.staged, &mut self.staging, &mut slices);
        } else if stage {
            match conn.staged.room(first, &mut self.staging) {
                Some(room) => slices.push(IoSliceMut::new(room)),
                None => stage = false,
            }
        }
        if slices.is_empty() {
            return; // no staging buffer to be had now: the kernel will report it again
        }
        let offered: usize = slices.iter().map(|s| s.len()).sum();
        conn.more = false;
        let result = match slices.as_mut_slice() {
            [one] => got(rustix::io::read(&conn.fd, &mut **one)),
            many => got(rustix::io::readv(&conn.fd, many)),
        };
        drop(slices);
        match result {
            Got::Nothing => {
                if stage {
                    conn.staged.settle(&mut self.staging);
                }
            }
            Got::End(reason) => self.end(id, reason),
            Got::Bytes(n) => {
                conn.more = n == offered;
                let landed = n.min(landing_left);
                let staged = n - landed;
                if let Some(landing) = conn.landing.as_mut() {
                    landing.next += landed as u32;
                    if landing.next == landing.end {
                        let done = conn.landing.take().expect("borrowed just above");
                        out.push(NetEvent::Landed { conn: id, buf: done.buf });
                    }
                }
                if guess {
                    conn.ahead.came(first, staged, &mut conn.staged);
                } else {
                    conn.staged.grew(staged);
                }
                if (conn.staged.len() > 0 || conn.ahead.has_folds()) && conn.landing.is_none() {
                    out.push(NetEvent::Readable(id));
                } else if stage {
                    conn.staged.settle(&mut self.staging);
                }
            }
        }
    }

    /// Says where the next bytes go; what is staged of them already is copied.
    pub(super) fn begin_landing(&mut self, id: ConnId, buf: Sgv, range: Range<u32>) -> Option<Sgv> {
        let slot = id.slot();
        if self.conn(id).is_none() {
            return Some(buf); // the connection has just ended; its `Closed` is on the way
        }
        let conn = self.conns[slot].conn.as_mut().expect("looked up just above");
        assert!(conn.landing.is_none(), "a connection lands in one vector at a time");
        let mut buf = match conn.ahead.find(buf, &range, &mut conn.staged) {
            Found::Exchanged(other, filled) => {
                return self.go_on_landing(id, other, range.start + filled..range.end);
            }
            Found::Copied(buf, filled) => {
                self.copied += u64::from(filled);
                return self.go_on_landing(id, buf, range.start + filled..range.end);
            }
            Found::Other(buf) => {
                self.copied += conn.ahead.unfold(&mut conn.staged) as u64;
                buf
            }
            Found::Nothing(buf) => buf,
        };
        let take = conn.staged.len().min((range.end - range.start) as usize);
        if take > 0 {
            buf.copy_payload_from(range.start, &conn.staged.bytes()[..take]);
            conn.staged.consume(take);
            self.copied += take as u64;
        }
        self.go_on_landing(id, buf, range.start + take as u32..range.end)
    }

    /// What came of the range already is in the vector; `left` is still to come.
    fn go_on_landing(&mut self, id: ConnId, buf: Sgv, left: Range<u32>) -> Option<Sgv> {
        if left.is_empty() {
            return Some(buf);
        }
        let conn = self.conns[id.slot()].conn.as_mut().expect("looked up by the caller");
        conn.staged.settle(&mut self.staging);
        conn.landing = Some(Landing { buf, next: left.start, end: left.end });
        None
    }
}

fn got(result: Result<usize, Errno>) -> Got {
    match result {
        Ok(0) => Got::End(CloseReason::PeerClosed),
        Ok(n) => Got::Bytes(n),
        Err(Errno::AGAIN | Errno::INTR) => Got::Nothing,
        Err(e) => Got::End(CloseReason::Failed(e.raw_os_error())),
    }
}
