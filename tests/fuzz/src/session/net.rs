//! A network in memory whose every whim is the fuzzer's: how much a read brings, how much the peer takes.
//!
//! Bytes between a peer and the target run through a *pipe*; the slots of connections are used again, as a real network
//! does, so that stale names are met. What the transport may not do is asserted here.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

use spindle_mem::{Sgv, SgvPool};
use spindle_net::{Body, Close, CloseReason, ConnId, ListenerId, Net, NetError, NetEvent};
use spindle_reactor::{Tick, WakeSet};

/// Connections at once.
const CONNECTIONS_MAX: u32 = 8;
/// Bytes read ahead until the owner says otherwise.
const READ_AHEAD: usize = 48;
/// How long an orderly close may take.
const LINGER_MS: u64 = 1_000;

/// What lies between a peer and the target.
#[derive(Debug, Default)]
pub struct Pipe {
    /// From the peer, not yet read.
    pub up: VecDeque<u8>,
    /// To the peer.
    pub down: Vec<u8>,
    /// The peer has ended it: in order, or not.
    pub ended: Option<Close>,
    /// The target has ended it.
    pub dropped: bool,
    /// The peer takes this many bytes more; `None`: all.
    pub room: Option<usize>,
}

/// Memory instead of wires.
#[derive(Default)]
pub struct FuzzNet {
    /// By number of the peer.
    pub pipes: Vec<Pipe>,
    /// Most bytes of one read; nought: all there are.
    pub split: usize,
    /// Bytes read and sent so far.
    pub moved: u64,
    slots: Vec<Slot>,
    pending: Vec<NetEvent<usize>>,
    now: Tick,
    copied: u64,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    wire: Option<Wire>,
}

struct Wire {
    pipe: usize,
    staged: Vec<u8>,
    ahead: usize,
    landing: Option<(Sgv, Range<u32>)>,
    queue: VecDeque<Item>,
    /// Bytes of the front item that are out.
    sent: usize,
    queued: usize,
    paused: bool,
    closing: Option<Tick>,
}

struct Item {
    head: Vec<u8>,
    body: Option<Body>,
    tail: Vec<u8>,
}

impl Item {
    fn len(&self) -> usize {
        self.head.len() + self.tail.len() + self.body.as_ref().map_or(0, |(_, range)| range.len())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut all = self.head.clone();
        if let Some((sgv, range)) = &self.body {
            sgv.slices(range.clone()).for_each(|s| all.extend_from_slice(s));
        }
        all.extend_from_slice(&self.tail);
        all
    }
}

impl FuzzNet {
    /// A new pipe; its number is the socket.
    pub fn dial(&mut self) -> usize {
        self.pipes.push(Pipe::default());
        self.pipes.len() - 1
    }

    fn wire(&self, conn: ConnId) -> Option<&Wire> {
        self.slots.get(conn.slot()).filter(|s| s.generation == conn.0 >> 20)?.wire.as_ref()
    }

    fn wire_mut(&mut self, conn: ConnId) -> Option<&mut Wire> {
        self.slots.get_mut(conn.slot()).filter(|s| s.generation == conn.0 >> 20)?.wire.as_mut()
    }

    fn id_at(&self, slot: usize) -> ConnId {
        ConnId(self.slots[slot].generation << 20 | slot as u32)
    }

    fn end(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(slot) = self.slots.get_mut(conn.slot()).filter(|s| s.generation == conn.0 >> 20) else {
            return;
        };
        let Some(wire) = slot.wire.take() else { return };
        slot.generation = (slot.generation + 1) & 0xFFF;
        for item in wire.queue {
            if let Some((body, _)) = item.body {
                self.pending.push(NetEvent::Released { conn, body });
            }
        }
        if let Some((buf, _)) = wire.landing {
            self.pending.push(NetEvent::Landed { conn, buf });
        }
        self.pending.push(NetEvent::Closed { conn, reason });
        self.pipes[wire.pipe].dropped = true;
    }

    /// One read, as `readv` would do it. Whether anything came.
    fn read(&mut self, conn: ConnId) -> bool {
        let split = if self.split == 0 { usize::MAX } else { self.split };
        let Some(wire) = self.slots.get_mut(conn.slot()).and_then(|s| s.wire.as_mut()) else { return false };
        if wire.paused || wire.closing.is_some() {
            return false;
        }
        let up = &mut self.pipes[wire.pipe].up;
        let mut left = up.len().min(split);
        let mut came = false;
        let mut landed = false;
        if let Some((buf, range)) = &mut wire.landing {
            let n = left.min(range.len());
            let part: Vec<u8> = up.drain(..n).collect();
            buf.copy_from(range.start, &part);
            range.start += n as u32;
            left -= n;
            self.moved += n as u64;
            came |= n > 0;
            landed = range.start == range.end;
        }
        if landed && let Some((buf, _)) = wire.landing.take() {
            self.pending.push(NetEvent::Landed { conn, buf });
        }
        if wire.landing.is_none() {
            let n = left.min(wire.ahead);
            wire.staged.extend(up.drain(..n));
            self.moved += n as u64;
            if n > 0 {
                came = true;
                self.pending.push(NetEvent::Readable(conn));
            }
        }
        came
    }

    fn send_queued(&mut self, conn: ConnId) {
        let Some(wire) = self.slots.get_mut(conn.slot()).and_then(|s| s.wire.as_mut()) else { return };
        let pipe = &mut self.pipes[wire.pipe];
        while let Some(item) = wire.queue.front() {
            if pipe.room == Some(0) {
                return;
            }
            let bytes = item.bytes();
            let n = (bytes.len() - wire.sent).min(pipe.room.unwrap_or(usize::MAX));
            pipe.down.extend_from_slice(&bytes[wire.sent..wire.sent + n]);
            if let Some(room) = &mut pipe.room {
                *room -= n;
            }
            wire.sent += n;
            self.moved += n as u64;
            wire.queued -= n;
            if wire.sent < bytes.len() {
                return;
            }
            wire.sent = 0;
            if let Some(Item { body: Some((body, _)), .. }) = wire.queue.pop_front() {
                self.pending.push(NetEvent::Released { conn, body });
            }
        }
        if wire.closing.is_some() {
            self.end(conn, CloseReason::Local);
        }
    }
}

impl Net for FuzzNet {
    type Socket = usize;

    fn listen(&mut self, at: SocketAddr) -> Result<(ListenerId, SocketAddr), NetError> {
        Ok((ListenerId(1), at))
    }

    fn unlisten(&mut self, _: ListenerId) {}

    fn attach(&mut self, pipe: usize, _now: Tick) -> Result<ConnId, NetError> {
        let slot = match self.slots.iter().position(|s| s.wire.is_none()) {
            Some(free) => free,
            None if self.slots.len() < CONNECTIONS_MAX as usize => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
            None => {
                self.pipes[pipe].dropped = true;
                return Err(NetError::Full(CONNECTIONS_MAX));
            }
        };
        self.slots[slot].wire = Some(Wire {
            pipe,
            staged: Vec::new(),
            ahead: READ_AHEAD,
            landing: None,
            queue: VecDeque::new(),
            sent: 0,
            queued: 0,
            paused: false,
            closing: None,
        });
        Ok(self.id_at(slot))
    }

    fn poll(&mut self, now: Tick, _budget: u32, out: &mut Vec<NetEvent<usize>>) -> u32 {
        self.now = now;
        let before = out.len();
        out.append(&mut self.pending);
        for slot in 0..self.slots.len() {
            let conn = self.id_at(slot);
            let Some(wire) = &self.slots[slot].wire else { continue };
            let (pipe, late) = (wire.pipe, wire.closing.is_some_and(|until| now >= until));
            if late {
                self.end(conn, CloseReason::Local);
                continue;
            }
            if self.pipes[pipe].ended == Some(Close::Abort) {
                self.end(conn, CloseReason::Failed(104));
                continue;
            }
            self.send_queued(conn);
            self.read(conn);
            let Some(wire) = self.wire(conn) else { continue };
            let over = self.pipes[pipe].ended.is_some() && self.pipes[pipe].up.is_empty();
            if over && !wire.paused {
                self.end(conn, CloseReason::PeerClosed);
            }
        }
        out.append(&mut self.pending);
        (out.len() - before) as u32
    }

    fn bytes(&self, conn: ConnId) -> &[u8] {
        match self.wire(conn) {
            Some(wire) if wire.landing.is_none() => &wire.staged,
            _ => &[],
        }
    }

    fn glance(&self, conn: ConnId, at: usize) -> &[u8] {
        self.bytes(conn).get(at..).unwrap_or_default()
    }

    fn consume(&mut self, conn: ConnId, n: u32) {
        let Some(wire) = self.wire_mut(conn) else { return };
        assert!(n as usize <= wire.staged.len(), "consumed {n} of {} staged bytes", wire.staged.len());
        wire.staged.drain(..n as usize);
    }

    fn read_more(&mut self, conn: ConnId) -> bool {
        self.wire(conn).is_some() && self.read(conn)
    }

    fn read_ahead(&mut self, conn: ConnId, bytes_max: u32) {
        if let Some(wire) = self.wire_mut(conn) {
            wire.ahead = bytes_max as usize;
        }
    }

    fn land(&mut self, conn: ConnId, mut buf: Sgv, mut range: Range<u32>) -> Option<Sgv> {
        let Some(wire) = self.wire_mut(conn) else { return Some(buf) };
        assert!(wire.landing.is_none(), "a connection lands in one vector at a time");
        assert!(range.end <= buf.len(), "a landing beyond its vector");
        let n = wire.staged.len().min(range.len());
        buf.copy_from(range.start, &wire.staged[..n]);
        wire.staged.drain(..n);
        range.start += n as u32;
        if range.start == range.end {
            return Some(buf);
        }
        wire.landing = Some((buf, range));
        self.copied += n as u64;
        None
    }

    fn unland(&mut self, conn: ConnId) -> Option<(Sgv, u32)> {
        self.wire_mut(conn)?.landing.take().map(|(buf, range)| (buf, range.start))
    }

    fn send(&mut self, conn: ConnId, head: &[u8], body: Option<Body>, tail: &[u8]) {
        let Some(wire) = self.wire_mut(conn) else {
            if let Some((body, _)) = body {
                self.pending.push(NetEvent::Released { conn, body });
            }
            return;
        };
        let item = Item { head: head.to_vec(), body, tail: tail.to_vec() };
        wire.queued += item.len();
        wire.queue.push_back(item);
    }

    fn queued_bytes(&self, conn: ConnId) -> u32 {
        self.wire(conn).map_or(0, |wire| wire.queued as u32)
    }

    fn send_now(&mut self, conn: ConnId) {
        if self.wire(conn).is_some() {
            self.send_queued(conn);
        }
    }

    fn flush(&mut self, now: Tick) {
        self.now = now;
        for slot in 0..self.slots.len() {
            self.send_queued(self.id_at(slot));
        }
    }

    fn pause(&mut self, conn: ConnId, paused: bool) {
        if let Some(wire) = self.wire_mut(conn) {
            wire.paused = paused;
        }
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        let until = self.now.plus_ms(LINGER_MS);
        match (how, self.wire_mut(conn)) {
            (_, None) => {}
            (Close::Abort, _) => self.end(conn, CloseReason::Local),
            (Close::Graceful, Some(wire)) => {
                wire.closing.get_or_insert(until);
                if let Some((buf, _)) = wire.landing.take() {
                    self.pending.push(NetEvent::Landed { conn, buf });
                }
            }
        }
    }

    fn arm(&mut self, _wake: &mut WakeSet) -> bool {
        self.pending.is_empty()
    }

    fn copied_bytes(&self) -> u64 {
        self.copied
    }

    fn drain(&mut self, pool: &mut SgvPool) {
        for slot in 0..self.slots.len() {
            self.end(self.id_at(slot), CloseReason::Local);
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
