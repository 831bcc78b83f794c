//! The simulated network: [`SimNet`] behind the seam `Net`, and the wires it hangs on.
//!
//! `SimNet` keeps the contract that kernel TCP keeps (`spindle_net::epoll`): level-triggered reports, landing
//! before staging, bodies given back when their bytes are out, and everything given back before `Closed`. What
//! the seed adds: where streams are split, how little fits into a buffer, when a connection dies.

mod fabric;
mod framer;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::RawFd;

use spindle_mem::{Sgv, SgvPool, SgvRef};
use spindle_net::{Body, Close, CloseReason, ConnId, ListenerId, Net, NetError, NetEvent};
use spindle_reactor::{Tick, WakeSet};

pub use fabric::{Fabric, Got, PipeId, Profile, SharedFabric, Way, lock};

/// Staged bytes of one connection.
const STAGING_BYTES: usize = 64 * 1024;
/// Queued bytes at which a connection is sent from before the turn ends.
const EARLY_FLUSH_BYTES: usize = 64 * 1024;
/// How long an orderly close may take.
const LINGER_MS: u64 = 1_000;
/// Bytes read ahead until the owner says otherwise.
const READ_AHEAD: usize = 16 * 1024;

/// The descriptor a core names to be woken by its network. Not a real one: the simulation compares numbers.
pub const fn wake_fd(core: usize) -> RawFd {
    1_000_000 + core as RawFd
}

/// An accepted connection on its way to a core.
#[derive(Debug)]
pub struct SimSocket(PipeId);

/// The network of one core.
pub struct SimNet {
    core: usize,
    fabric: SharedFabric,
    conns: Vec<Slot>,
    free: Vec<usize>,
    pending: Vec<NetEvent<SimSocket>>,
    connections_max: u32,
    copied: u64,
    now: Tick,
}

struct Slot {
    generation: u32,
    conn: Option<Conn>,
}

struct Conn {
    pipe: PipeId,
    staged: Vec<u8>,
    landing: Option<Landing>,
    spares: Vec<Sgv>,
    tx: VecDeque<Item>,
    sent: usize,
    queued: usize,
    read_ahead: usize,
    paused: bool,
    closing: Option<Tick>,
    fin_sent: bool,
}

struct Landing {
    buf: Sgv,
    next: u32,
    end: u32,
}

struct Item {
    head: Vec<u8>,
    body: Option<Body>,
    tail: Vec<u8>,
}

impl Item {
    fn len(&self) -> usize {
        self.head.len() + self.tail.len() + self.body.as_ref().map_or(0, |(_, r)| (r.end - r.start) as usize)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.head.clone();
        if let Some((sgv, range)) = &self.body {
            for slice in sgv.slices(range.clone()) {
                out.extend_from_slice(slice);
            }
        }
        out.extend_from_slice(&self.tail);
        out
    }
}

impl SimNet {
    /// The network of a core.
    pub fn new(core: usize, fabric: SharedFabric, connections_max: u32) -> SimNet {
        SimNet {
            core,
            fabric,
            conns: Vec::new(),
            free: Vec::new(),
            pending: Vec::new(),
            connections_max,
            copied: 0,
            now: Tick::ZERO,
        }
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.conns.iter().filter(|slot| slot.conn.is_some()).count()
    }

    fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(id.slot()).filter(|s| s.generation == id.0 >> 20)?.conn.as_ref()
    }

    fn conn_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.slot()).filter(|s| s.generation == id.0 >> 20)?.conn.as_mut()
    }

    fn id_at(&self, slot: usize) -> ConnId {
        ConnId(self.conns[slot].generation << 20 | slot as u32)
    }

    fn end(&mut self, id: ConnId, reason: CloseReason) {
        let Some(slot) = self.conns.get_mut(id.slot()).filter(|s| s.generation == id.0 >> 20) else { return };
        let Some(mut conn) = slot.conn.take() else { return };
        slot.generation = (slot.generation + 1) & 0xFFF;
        self.free.push(id.slot());
        for item in conn.tx.drain(..) {
            if let Some((body, _)) = item.body {
                self.pending.push(NetEvent::Released { conn: id, body });
            }
        }
        for buf in conn.spares.drain(..) {
            self.pending.push(NetEvent::Spare { conn: id, buf });
        }
        if let Some(landing) = conn.landing.take() {
            self.pending.push(NetEvent::Landed { conn: id, buf: landing.buf });
        }
        self.pending.push(NetEvent::Closed { conn: id, reason });
        let mut fabric = lock(&self.fabric);
        if !conn.fin_sent {
            fabric.reset(conn.pipe);
        }
        fabric.mark(self.core);
    }

    /// One read of a connection, as `readv` would do it.
    fn receive(&mut self, id: ConnId, out: &mut Vec<NetEvent<SimSocket>>) {
        let Some(conn) = self.conn(id) else { return };
        let (pipe, paused) = (conn.pipe, conn.paused);
        if paused {
            return;
        }
        let fabric = self.fabric.clone();
        let got = lock(&fabric).readable(pipe, Way::Up);
        let Some(conn) = self.conn_mut(id) else { return };
        match got {
            Got::Nothing => {}
            Got::End if conn.closing.is_some() => self.end(id, CloseReason::Local),
            Got::End => self.end(id, CloseReason::PeerClosed),
            Got::Reset => self.end(id, CloseReason::Failed(104)),
            Got::Bytes(n) if conn.closing.is_some() => {
                let mut sink = vec![0; n];
                lock(&fabric).take(pipe, Way::Up, &mut sink);
            }
            Got::Bytes(mut n) => {
                let mut landed = None;
                if let Some(landing) = conn.landing.as_mut() {
                    let part = n.min((landing.end - landing.next) as usize);
                    let mut bytes = vec![0; part];
                    lock(&fabric).take(pipe, Way::Up, &mut bytes);
                    landing.buf.copy_from(landing.next, &bytes);
                    landing.next += part as u32;
                    n -= part;
                    if landing.next == landing.end {
                        landed = conn.landing.take();
                    }
                }
                let len = conn.staged.len();
                let room = conn.read_ahead.min(STAGING_BYTES - len);
                let n = n.min(room);
                conn.staged.resize(len + n, 0);
                lock(&fabric).take(pipe, Way::Up, &mut conn.staged[len..]);
                let readable = !conn.staged.is_empty() && conn.landing.is_none() && n > 0;
                if let Some(landing) = landed {
                    out.push(NetEvent::Landed { conn: id, buf: landing.buf });
                    if !self.conn(id).is_some_and(|c| c.staged.is_empty()) {
                        out.push(NetEvent::Readable(id));
                    }
                } else if readable {
                    out.push(NetEvent::Readable(id));
                }
            }
        }
    }

    /// Sends as much as fits.
    fn send_some(&mut self, id: ConnId) {
        let fabric = self.fabric.clone();
        let Some(slot) = self.conns.get_mut(id.slot()).filter(|s| s.generation == id.0 >> 20) else { return };
        let Some(conn) = slot.conn.as_mut() else { return };
        while let Some(item) = conn.tx.front() {
            let bytes = item.bytes();
            let took = lock(&fabric).write(conn.pipe, Way::Down, &bytes[conn.sent..]);
            conn.sent += took;
            conn.queued -= took;
            if conn.sent < bytes.len() {
                return;
            }
            conn.sent = 0;
            let item = conn.tx.pop_front().expect("looked at just above");
            if let Some((body, _)) = item.body {
                self.pending.push(NetEvent::Released { conn: id, body });
                lock(&fabric).mark(self.core);
            }
        }
        if conn.closing.is_some() && !conn.fin_sent {
            conn.fin_sent = true;
            lock(&fabric).fin(conn.pipe, Way::Down);
        }
    }

    fn has_news(&self, slot: usize) -> bool {
        let Some(conn) = &self.conns[slot].conn else { return false };
        let fabric = lock(&self.fabric);
        if !conn.tx.is_empty() && fabric.room(conn.pipe, Way::Down) > 0 {
            return true;
        }
        let full = conn.landing.is_none() && conn.staged.len() >= STAGING_BYTES;
        !conn.paused && !full && fabric.has_input(conn.pipe, Way::Up)
    }
}

impl Net for SimNet {
    type Socket = SimSocket;

    fn listen(&mut self, at: SocketAddr) -> Result<(ListenerId, SocketAddr), NetError> {
        Ok((lock(&self.fabric).listen(self.core, at), at))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        lock(&self.fabric).unlisten(listener);
    }

    fn attach(&mut self, socket: SimSocket, _now: Tick) -> Result<ConnId, NetError> {
        if self.free.is_empty() {
            if self.conns.len() as u32 == self.connections_max {
                lock(&self.fabric).reset(socket.0);
                return Err(NetError::Full(self.connections_max));
            }
            self.free.push(self.conns.len());
            self.conns.push(Slot { generation: 0, conn: None });
        }
        let slot = self.free.pop().expect("pushed just above if there was none");
        lock(&self.fabric).attach(socket.0, self.core);
        self.conns[slot].conn = Some(Conn {
            pipe: socket.0,
            staged: Vec::new(),
            landing: None,
            spares: Vec::new(),
            tx: VecDeque::new(),
            sent: 0,
            queued: 0,
            read_ahead: READ_AHEAD,
            paused: false,
            closing: None,
            fin_sent: false,
        });
        Ok(self.id_at(slot))
    }

    fn poll(&mut self, now: Tick, budget: u32, out: &mut Vec<NetEvent<SimSocket>>) -> u32 {
        self.now = now;
        let before = out.len();
        out.append(&mut self.pending);
        lock(&self.fabric).unmark(self.core);
        for slot in 0..self.conns.len() {
            if self.conns[slot].conn.as_ref().is_some_and(|c| c.closing.is_some_and(|until| now >= until)) {
                self.end(self.id_at(slot), CloseReason::Local);
            }
        }
        loop {
            let accepted = lock(&self.fabric).accept(self.core);
            let Some((listener, pipe, peer, local)) = accepted else { break };
            out.push(NetEvent::Accepted { listener, socket: SimSocket(pipe), peer, local });
        }
        let mut left = budget.max(1);
        // The seed decides who is served first.
        let start = if self.conns.is_empty() { 0 } else { now.0 as usize % self.conns.len() };
        for n in 0..self.conns.len() {
            let slot = (start + n) % self.conns.len();
            if !self.has_news(slot) {
                continue;
            }
            if left == 0 {
                lock(&self.fabric).mark(self.core);
                break;
            }
            left -= 1;
            let id = self.id_at(slot);
            self.send_some(id);
            self.receive(id, out);
            if self.conns[slot].generation == id.0 >> 20 && self.has_news(slot) {
                lock(&self.fabric).mark(self.core);
            }
        }
        out.append(&mut self.pending);
        (out.len() - before) as u32
    }

    fn bytes(&self, conn: ConnId) -> &[u8] {
        match self.conn(conn) {
            Some(c) if c.landing.is_none() => &c.staged,
            _ => &[],
        }
    }

    fn consume(&mut self, conn: ConnId, n: u32) {
        let core = self.core;
        let Some(c) = self.conn_mut(conn) else { return };
        assert!(n as usize <= c.staged.len(), "consumed {n} of {} staged bytes", c.staged.len());
        c.staged.drain(..n as usize);
        lock(&self.fabric).mark(core);
    }

    fn read_more(&mut self, conn: ConnId) -> bool {
        let mut out = Vec::new();
        self.receive(conn, &mut out);
        out.append(&mut self.pending);
        let came = !out.is_empty();
        self.pending = out;
        if came {
            lock(&self.fabric).mark(self.core);
        }
        came
    }

    fn read_ahead(&mut self, conn: ConnId, bytes_max: u32) {
        if let Some(c) = self.conn_mut(conn) {
            c.read_ahead = bytes_max as usize;
        }
    }

    fn lend(&mut self, conn: ConnId, buf: Sgv) -> Option<Sgv> {
        let Some(c) = self.conn_mut(conn) else { return Some(buf) };
        c.spares.push(buf);
        None
    }

    fn take_spare(&mut self, conn: ConnId) -> Option<Sgv> {
        self.conn_mut(conn)?.spares.pop()
    }

    fn land(&mut self, conn: ConnId, mut buf: Sgv, range: Range<u32>) -> Option<Sgv> {
        let Some(c) = self.conn_mut(conn) else { return Some(buf) };
        assert!(c.landing.is_none(), "a connection lands in one vector at a time");
        // A net that received ahead would bring another vector than the one it is given.
        if range == (0..buf.len())
            && let Some(at) = c.spares.iter().position(|spare| {
                (spare.len(), spare.capacity(), spare.share(), spare.home())
                    == (buf.len(), buf.capacity(), buf.share(), buf.home())
            })
        {
            std::mem::swap(&mut buf, &mut c.spares[at]);
        }
        let take = c.staged.len().min((range.end - range.start) as usize);
        if take > 0 {
            buf.copy_payload_from(range.start, &c.staged[..take]);
            c.staged.drain(..take);
        }
        let next = range.start + take as u32;
        if next < range.end {
            c.landing = Some(Landing { buf, next, end: range.end });
            self.copied += take as u64;
            lock(&self.fabric).mark(self.core);
            return None;
        }
        self.copied += take as u64;
        Some(buf)
    }

    fn unland(&mut self, conn: ConnId) -> Option<(Sgv, u32)> {
        let landing = self.conn_mut(conn)?.landing.take()?;
        Some((landing.buf, landing.next))
    }

    fn send(&mut self, conn: ConnId, head: &[u8], body: Option<Body>, tail: &[u8]) {
        let Some(c) = self.conn_mut(conn) else {
            if let Some((body, _)) = body {
                self.pending.push(NetEvent::Released { conn, body });
                lock(&self.fabric).mark(self.core);
            }
            return;
        };
        let item = Item { head: head.to_vec(), body, tail: tail.to_vec() };
        c.queued += item.len();
        c.tx.push_back(item);
        if c.queued >= EARLY_FLUSH_BYTES {
            self.send_some(conn);
        }
    }

    fn queued_bytes(&self, conn: ConnId) -> u32 {
        self.conn(conn).map_or(0, |c| c.queued as u32)
    }

    fn flush(&mut self, now: Tick) {
        self.now = now;
        for slot in 0..self.conns.len() {
            self.send_some(self.id_at(slot));
        }
    }

    fn pause(&mut self, conn: ConnId, paused: bool) {
        let core = self.core;
        if let Some(c) = self.conn_mut(conn) {
            c.paused = paused;
            lock(&self.fabric).mark(core);
        }
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        let until = self.now.plus_ms(LINGER_MS);
        let Some(c) = self.conn_mut(conn) else { return };
        match how {
            Close::Abort => self.end(conn, CloseReason::Local),
            Close::Graceful => {
                c.closing.get_or_insert(until);
                if let Some(landing) = c.landing.take() {
                    self.pending.push(NetEvent::Landed { conn, buf: landing.buf });
                }
                lock(&self.fabric).mark(self.core);
            }
        }
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        wake.fd(wake_fd(self.core));
        for slot in &self.conns {
            if let Some(until) = slot.conn.as_ref().and_then(|c| c.closing) {
                wake.at(until);
            }
        }
        let news = (0..self.conns.len()).any(|slot| self.has_news(slot));
        let quiet = self.pending.is_empty() && !news;
        if quiet {
            lock(&self.fabric).unmark(self.core);
        }
        quiet
    }

    fn copied_bytes(&self) -> u64 {
        self.copied
    }

    fn drain(&mut self, pool: &mut SgvPool) {
        for slot in 0..self.conns.len() {
            self.end(self.id_at(slot), CloseReason::Local);
        }
        let give_up = |body: SgvRef| body.release();
        for event in self.pending.drain(..) {
            let sgv = match event {
                NetEvent::Landed { buf, .. } | NetEvent::Spare { buf, .. } => Some(buf),
                NetEvent::Released { body, .. } => give_up(body),
                _ => None,
            };
            if let Some(sgv) = sgv {
                pool.put(sgv);
            }
        }
    }
}

#[cfg(test)]
mod tests;
