//! A [`Net`] in memory: what a peer wrote arrives in pieces of any size; what we send gathers for it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

use spindle_mem::{Sgv, SgvPool};
use spindle_net::{Body, Close, CloseReason, ConnId, ListenerId, Net, NetError, NetEvent};
use spindle_reactor::{Tick, WakeSet};

/// One connection.
#[derive(Default)]
pub struct Wire {
    /// What the peer wrote and we have not read.
    pub inbound: VecDeque<u8>,
    /// What we sent.
    pub outbound: Vec<u8>,
    staged: Vec<u8>,
    ahead: usize,
    landing: Option<(Sgv, Range<u32>)>,
    queue: Vec<(Vec<u8>, Option<Body>, Vec<u8>)>,
    paused: bool,
    closing: bool,
    /// We closed it.
    pub closed: bool,
    /// The peer closed it.
    pub peer_closed: bool,
    /// The peer takes nothing.
    pub blocked: bool,
}

/// Memory instead of wires.
pub struct MemNet {
    /// Connections by slot; slots are not used twice.
    pub wires: Vec<Wire>,
    /// The most bytes one read takes: seeded, so that splits are anywhere.
    pub split: Option<fastrand::Rng>,
    /// The most bytes one read takes, always.
    pub read_max: usize,
    pending: Vec<NetEvent<()>>,
    /// Payload bytes copied.
    pub copied: u64,
    /// How many PDUs went out each time before the turn ended.
    pub early: Vec<usize>,
}

impl MemNet {
    pub fn new(split: Option<u64>) -> Self {
        MemNet {
            wires: Vec::new(),
            split: split.map(fastrand::Rng::with_seed),
            read_max: usize::MAX,
            pending: Vec::new(),
            copied: 0,
            early: Vec::new(),
        }
    }

    fn read(&mut self, slot: usize) -> bool {
        let wire = &mut self.wires[slot];
        if wire.paused || wire.closed || wire.closing {
            return false;
        }
        let mut left = wire.inbound.len().min(self.read_max);
        if left > 1
            && let Some(rng) = &mut self.split
        {
            let most = [2, 7, 60, 5000, left][rng.usize(0..5)].min(left);
            left = rng.usize(1..=most);
        }
        let mut came = false;
        if let Some((buf, range)) = &mut wire.landing {
            let n = left.min((range.end - range.start) as usize);
            let part: Vec<u8> = wire.inbound.drain(..n).collect();
            buf.copy_from(range.start, &part);
            range.start += n as u32;
            left -= n;
            came |= n > 0;
            if range.start == range.end {
                let (buf, _) = wire.landing.take().unwrap();
                self.pending.push(NetEvent::Landed { conn: ConnId(slot as u32), buf });
            }
        }
        if wire.landing.is_none() {
            let n = left.min(wire.ahead);
            wire.staged.extend(wire.inbound.drain(..n));
            if n > 0 {
                came = true;
                self.pending.push(NetEvent::Readable(ConnId(slot as u32)));
            }
        }
        came
    }

    fn end(&mut self, slot: usize, reason: CloseReason) {
        let wire = &mut self.wires[slot];
        if wire.closed {
            return;
        }
        wire.closed = true;
        let conn = ConnId(slot as u32);
        for (_, body, _) in wire.queue.drain(..) {
            if let Some((body, _)) = body {
                self.pending.push(NetEvent::Released { conn, body });
            }
        }
        if let Some((buf, _)) = wire.landing.take() {
            self.pending.push(NetEvent::Landed { conn, buf });
        }
        self.pending.push(NetEvent::Closed { conn, reason });
    }

    fn send_queued(&mut self, slot: usize) {
        let wire = &mut self.wires[slot];
        if wire.blocked {
            return;
        }
        for (head, body, tail) in wire.queue.drain(..) {
            wire.outbound.extend_from_slice(&head);
            if let Some((sgv, range)) = body {
                for slice in sgv.slices(range) {
                    wire.outbound.extend_from_slice(slice);
                }
                self.pending.push(NetEvent::Released { conn: ConnId(slot as u32), body: sgv });
            }
            wire.outbound.extend_from_slice(&tail);
        }
        if wire.closing {
            self.end(slot, CloseReason::Local);
        }
    }
}

impl Net for MemNet {
    type Socket = ();

    fn listen(&mut self, at: SocketAddr) -> Result<(ListenerId, SocketAddr), NetError> {
        Ok((ListenerId(1), at))
    }

    fn unlisten(&mut self, _: ListenerId) {}

    fn attach(&mut self, (): (), _now: Tick) -> Result<ConnId, NetError> {
        self.wires.push(Wire { ahead: 48, ..Wire::default() });
        Ok(ConnId(self.wires.len() as u32 - 1))
    }

    fn poll(&mut self, _now: Tick, _budget: u32, out: &mut Vec<NetEvent<()>>) -> u32 {
        let before = out.len();
        out.append(&mut self.pending);
        for slot in 0..self.wires.len() {
            self.read(slot);
            if self.wires[slot].peer_closed && (self.wires[slot].inbound.is_empty()) {
                self.end(slot, CloseReason::PeerClosed);
            }
        }
        out.append(&mut self.pending);
        (out.len() - before) as u32
    }

    fn bytes(&self, conn: ConnId) -> &[u8] {
        let wire = &self.wires[conn.slot()];
        if wire.landing.is_some() || wire.closed { &[] } else { &wire.staged }
    }

    fn consume(&mut self, conn: ConnId, n: u32) {
        self.wires[conn.slot()].staged.drain(..n as usize);
    }

    fn read_more(&mut self, conn: ConnId) -> bool {
        self.read(conn.slot())
    }

    fn read_ahead(&mut self, conn: ConnId, bytes_max: u32) {
        self.wires[conn.slot()].ahead = bytes_max as usize;
    }

    fn land(&mut self, conn: ConnId, mut buf: Sgv, mut range: Range<u32>) -> Option<Sgv> {
        let wire = &mut self.wires[conn.slot()];
        assert!(wire.landing.is_none() && !wire.closed);
        let n = wire.staged.len().min(range.len());
        buf.copy_from(range.start, &wire.staged[..n]);
        self.copied += n as u64;
        wire.staged.drain(..n);
        range.start += n as u32;
        if range.start == range.end {
            return Some(buf);
        }
        wire.landing = Some((buf, range));
        None
    }

    fn unland(&mut self, conn: ConnId) -> Option<(Sgv, u32)> {
        self.wires[conn.slot()].landing.take().map(|(buf, range)| (buf, range.start))
    }

    fn send(&mut self, conn: ConnId, head: &[u8], body: Option<Body>, tail: &[u8]) {
        let wire = &mut self.wires[conn.slot()];
        if wire.closed {
            if let Some((body, _)) = body {
                self.pending.push(NetEvent::Released { conn, body });
            }
            return;
        }
        wire.queue.push((head.to_vec(), body, tail.to_vec()));
    }

    fn queued_bytes(&self, conn: ConnId) -> u32 {
        let queue = &self.wires[conn.slot()].queue;
        queue.iter().map(|(h, b, t)| h.len() + b.as_ref().map_or(0, |b| b.1.len()) + t.len()).sum::<usize>()
            as u32
    }

    fn send_now(&mut self, conn: ConnId) {
        let wire = &self.wires[conn.slot()];
        if !wire.closed && !wire.queue.is_empty() {
            self.early.push(wire.queue.len());
            self.send_queued(conn.slot());
        }
    }

    fn flush(&mut self, _now: Tick) {
        for slot in 0..self.wires.len() {
            if !self.wires[slot].closed {
                self.send_queued(slot);
            }
        }
    }

    fn pause(&mut self, conn: ConnId, paused: bool) {
        self.wires[conn.slot()].paused = paused;
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        match how {
            Close::Abort => self.end(conn.slot(), CloseReason::Local),
            Close::Graceful => self.wires[conn.slot()].closing = true,
        }
    }

    fn arm(&mut self, _wake: &mut WakeSet) -> bool {
        self.pending.is_empty()
    }

    fn copied_bytes(&self) -> u64 {
        self.copied
    }

    fn drain(&mut self, pool: &mut SgvPool) {
        for slot in 0..self.wires.len() {
            self.end(slot, CloseReason::Local);
        }
        for event in self.pending.drain(..) {
            match event {
                NetEvent::Landed { buf, .. } => pool.put(buf),
                NetEvent::Released { body, .. } => body.release().into_iter().for_each(|b| pool.put(b)),
                _ => {}
            }
        }
    }
}
