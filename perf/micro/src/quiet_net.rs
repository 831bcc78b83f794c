//! A network that costs next to nothing: what the peer says is there at once, payload never moves.
//!
//! Where TCP would copy payload into a vector, and out of one, nothing is done: the kernel does that, and not in
//! instructions of ours. Only under data digests payload is copied, since it must be right. Headers are copied once, as
//! any network must. None of that is counted (`callgrind::STAND_IN`): what is not in line, a call takes out.

use std::net::SocketAddr;
use std::ops::Range;

use spindle_mem::{Sgv, SgvPool};
use spindle_net::{Body, Close, CloseReason, ConnId, ListenerId, Net, NetError, NetEvent};
use spindle_reactor::{Tick, WakeSet};

/// A network whose last connection speaks; those before it have fallen silent.
pub struct QuietNet {
    conn: ConnId,
    /// What the peer said and the target has not read.
    pub inbound: Vec<u8>,
    at: usize,
    /// What the target said: headers, and payload while `keep_payload`.
    pub outbound: Vec<u8>,
    /// Payload is written out, too: during login, when it matters.
    pub keep_payload: bool,
    /// Payload that comes in is really moved: the target looks at it.
    pub move_payload: bool,
    bodies: Vec<NetEvent<()>>,
    landing: Option<(Sgv, Range<u32>)>,
    attached: u32,
}

impl QuietNet {
    /// Nothing connected yet.
    pub fn new() -> Self {
        Self {
            conn: ConnId(0),
            inbound: Vec::with_capacity(1 << 20),
            at: 0,
            outbound: Vec::with_capacity(1 << 20),
            keep_payload: true,
            move_payload: false,
            bodies: Vec::with_capacity(1024),
            landing: None,
            attached: 0,
        }
    }

    /// The peer says something more; what was read is forgotten first.
    pub fn say(&mut self, bytes: &[u8]) {
        self.inbound.drain(..self.at);
        self.at = 0;
        self.inbound.extend_from_slice(bytes);
    }

    /// Moves what is there into a landing; `true` if it is full.
    fn fill(&mut self) -> bool {
        let Some((buf, range)) = &mut self.landing else { return false };
        let n = (range.end - range.start).min((self.inbound.len() - self.at) as u32);
        if self.move_payload {
            buf.copy_from(range.start, &self.inbound[self.at..self.at + n as usize]);
        }
        range.start += n;
        self.at += n as usize;
        range.start == range.end
    }
}

impl Net for QuietNet {
    type Socket = ();

    fn listen(&mut self, at: SocketAddr) -> Result<(ListenerId, SocketAddr), NetError> {
        Ok((ListenerId(0), at))
    }

    fn unlisten(&mut self, _: ListenerId) {}

    fn attach(&mut self, (): (), _: Tick) -> Result<ConnId, NetError> {
        self.conn = ConnId(self.attached);
        self.attached += 1;
        Ok(self.conn)
    }

    #[inline(never)]
    fn poll(&mut self, _: Tick, _: u32, out: &mut Vec<NetEvent<()>>) -> u32 {
        let before = out.len();
        out.append(&mut self.bodies);
        if self.landing.is_some() {
            if self.fill()
                && let Some((buf, _)) = self.landing.take()
            {
                out.push(NetEvent::Landed { conn: self.conn, buf });
            }
        } else if self.at < self.inbound.len() {
            out.push(NetEvent::Readable(self.conn));
        }
        (out.len() - before) as u32
    }

    #[inline]
    fn bytes(&self, _: ConnId) -> &[u8] {
        if self.landing.is_some() { &[] } else { &self.inbound[self.at..] }
    }

    #[inline]
    fn glance(&self, conn: ConnId, at: usize) -> &[u8] {
        self.bytes(conn).get(at..).unwrap_or_default()
    }

    #[inline]
    fn consume(&mut self, _: ConnId, n: u32) {
        self.at += n as usize;
    }

    fn read_more(&mut self, _: ConnId) -> bool {
        false
    }

    fn read_ahead(&mut self, _: ConnId, _: u32) {}

    #[inline(never)]
    fn land(&mut self, _: ConnId, buf: Sgv, range: Range<u32>) -> Option<Sgv> {
        assert!(self.landing.is_none());
        self.landing = Some((buf, range));
        if self.fill() { self.landing.take().map(|(buf, _)| buf) } else { None }
    }

    fn unland(&mut self, _: ConnId) -> Option<(Sgv, u32)> {
        self.landing.take().map(|(buf, range)| (buf, range.start))
    }

    #[inline(never)]
    fn send(&mut self, conn: ConnId, head: &[u8], body: Option<Body>, tail: &[u8]) {
        self.outbound.extend_from_slice(head);
        if let Some((body, range)) = body {
            if self.keep_payload {
                for slice in body.slices(range) {
                    self.outbound.extend_from_slice(slice);
                }
            }
            self.bodies.push(NetEvent::Released { conn, body });
        }
        self.outbound.extend_from_slice(tail);
    }

    #[inline]
    fn queued_bytes(&self, _: ConnId) -> u32 {
        0
    }

    #[inline(never)]
    fn flush(&mut self, _: Tick) {}

    fn pause(&mut self, _: ConnId, _: bool) {}

    fn close(&mut self, conn: ConnId, _: Close) {
        self.bodies.push(NetEvent::Closed { conn, reason: CloseReason::Local });
    }

    fn arm(&mut self, _: &mut WakeSet) -> bool {
        self.bodies.is_empty()
    }

    fn copied_bytes(&self) -> u64 {
        0
    }

    fn drain(&mut self, pool: &mut SgvPool) {
        for event in self.bodies.drain(..) {
            match event {
                NetEvent::Landed { buf, .. } => pool.put(buf),
                NetEvent::Released { body, .. } => body.release().into_iter().for_each(|buf| pool.put(buf)),
                _ => {}
            }
        }
        self.landing.take().into_iter().for_each(|(buf, _)| pool.put(buf));
    }
}
