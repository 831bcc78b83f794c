//! The simulated network: [`SimNet`] behind the seam `Net`, and the wires it hangs on.
//!
//! `SimNet` keeps the contract that kernel TCP keeps (`spindle_net::epoll`): level-triggered reports, landing
//! before staging, bodies given back when their bytes are out, and everything given back before `Closed`. What comes
//! in goes through the same [`Inbox`], so that what is received ahead is found, or not, as there. What
//! the seed adds: where streams are split, how little fits into a buffer, when a connection dies.

mod fabric;
mod framer;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::RawFd;

use spindle_mem::{Sgv, SgvPool, SgvRef};
use spindle_net::inbox::{Inbox, Read, Received, StagingPool};
use spindle_net::{Body, Close, CloseReason, ConnId, ListenerId, Net, NetError, NetEvent};
use spindle_reactor::{Tick, WakeSet};

pub use fabric::{Fabric, Got, PipeId, Profile, SharedFabric, Way, lock};

/// Queued bytes at which a connection is sent from before the turn ends.
const EARLY_FLUSH_BYTES: usize = 4 * 1024;
/// How long an orderly close may take.
const LINGER_MS: u64 = 1_000;

/// The descriptor a core names to be woken by its network. Not a real one: the simulation compares numbers.
pub const fn wake_fd(core: usize) -> RawFd {
    1_000_000 + core as RawFd
}

/// A connection on its way to a core, with what was received of it before.
#[derive(Debug)]
pub struct SimSocket(PipeId, Box<[u8]>);

/// The network of one core.
pub struct SimNet {
    core: usize,
    fabric: SharedFabric,
    conns: Vec<Slot>,
    free: Vec<usize>,
    pending: Vec<NetEvent<SimSocket>>,
    connections_max: u32,
    staging: StagingPool,
    copied: u64,
    now: Tick,
}

struct Slot {
    generation: u32,
    conn: Option<Conn>,
}

struct Conn {
    pipe: PipeId,
    inbox: Inbox,
    tx: VecDeque<Item>,
    sent: usize,
    queued: usize,
    /// What waits was queued behind an early send of this turn, and stays for one more, as kernel TCP's does.
    rest: bool,
    paused: bool,
    closing: Option<Tick>,
    fin_sent: bool,
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
            staging: StagingPool::new(connections_max),
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
        if let Some((buf, _)) = conn.inbox.unland() {
            self.pending.push(NetEvent::Landed { conn: id, buf });
        }
        for buf in conn.inbox.give_up(&mut self.staging) {
            self.pending.push(NetEvent::Spare { conn: id, buf });
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
        let Some(slot) = self.conns.get_mut(id.slot()).filter(|s| s.generation == id.0 >> 20) else { return };
        let Some(conn) = slot.conn.as_mut() else { return };
        let (pipe, closing) = (conn.pipe, conn.closing.is_some());
        if conn.paused {
            return;
        }
        let fabric = self.fabric.clone();
        if closing {
            let got = lock(&fabric).readable(pipe, Way::Up);
            return match got {
                Got::Nothing => {}
                Got::Bytes(n) => lock(&fabric).take(pipe, Way::Up, &mut vec![0; n]),
                Got::End => self.end(id, CloseReason::Local),
                Got::Reset => self.end(id, CloseReason::Failed(104)),
            };
        }
        let received = conn.inbox.receive(&mut self.staging, |slices| {
            let mut fabric = lock(&fabric);
            match fabric.readable(pipe, Way::Up) {
                Got::Nothing => Read::Nothing,
                Got::End => Read::End(CloseReason::PeerClosed),
                Got::Reset => Read::End(CloseReason::Failed(104)),
                Got::Bytes(n) => {
                    let mut left = n;
                    for slice in slices {
                        let part = left.min(slice.len());
                        fabric.take(pipe, Way::Up, &mut slice[..part]);
                        left -= part;
                    }
                    Read::Bytes(n - left)
                }
            }
        });
        match received {
            Received::Nothing => {}
            Received::End(reason) => self.end(id, reason),
            Received::Some { landed, readable } => {
                out.extend(landed.map(|buf| NetEvent::Landed { conn: id, buf }));
                if readable {
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
        !conn.paused && !conn.inbox.is_full() && fabric.has_input(conn.pipe, Way::Up)
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
        if !socket.1.is_empty() {
            self.pending.push(NetEvent::Readable(self.id_at(slot)));
        }
        self.conns[slot].conn = Some(Conn {
            pipe: socket.0,
            inbox: Inbox::with(socket.1),
            tx: VecDeque::new(),
            sent: 0,
            queued: 0,
            rest: false,
            paused: false,
            closing: None,
            fin_sent: false,
        });
        Ok(self.id_at(slot))
    }

    fn detach(&mut self, conn: ConnId) -> Option<SimSocket> {
        let c = self.conn(conn).filter(|c| c.closing.is_none() && c.tx.is_empty())?;
        let unread = c.inbox.unread()?;
        let slot = &mut self.conns[conn.slot()];
        let gone = slot.conn.take()?;
        slot.generation = (slot.generation + 1) & 0xFFF;
        self.free.push(conn.slot());
        for buf in gone.inbox.give_up(&mut self.staging) {
            self.pending.push(NetEvent::Spare { conn, buf });
        }
        Some(SimSocket(gone.pipe, unread))
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
            out.push(NetEvent::Accepted { listener, socket: SimSocket(pipe, Box::default()), peer, local });
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
        self.conn(conn).map_or(&[], |c| c.inbox.bytes())
    }

    fn glance(&self, conn: ConnId, at: usize) -> &[u8] {
        self.conn(conn).map_or(&[], |c| c.inbox.glance(at))
    }

    fn consume(&mut self, conn: ConnId, n: u32) {
        let core = self.core;
        let Some(c) = self.conn_mut(conn) else { return };
        c.inbox.consume(n as usize);
        lock(&self.fabric).mark(core);
    }

    fn read_more(&mut self, conn: ConnId) -> bool {
        let Some(c) = self.conn_mut(conn).filter(|c| !c.inbox.is_landing()) else { return false };
        if let Some(copied) = c.inbox.unfold() {
            self.copied += copied as u64;
            return true;
        }
        if !c.inbox.may_have_more() {
            return false;
        }
        let mut out = std::mem::take(&mut self.pending);
        self.receive(conn, &mut out);
        // Whoever asks knows that there is something to read.
        let came = out.pop_if(|event| matches!(event, NetEvent::Readable(id) if *id == conn)).is_some();
        out.append(&mut self.pending);
        self.pending = out;
        if !self.pending.is_empty() {
            lock(&self.fabric).mark(self.core);
        }
        came
    }

    fn read_ahead(&mut self, conn: ConnId, bytes_max: u32) {
        if let Some(c) = self.conn_mut(conn) {
            c.inbox.read_ahead(bytes_max);
        }
    }

    fn expect(&mut self, conn: ConnId, gap: u32) {
        if let Some(c) = self.conn_mut(conn) {
            c.inbox.expect(gap);
        }
    }

    fn lend(&mut self, conn: ConnId, buf: Sgv) -> Option<Sgv> {
        let Some(c) = self.conn_mut(conn) else { return Some(buf) };
        c.inbox.lend(buf);
        None
    }

    fn take_spare(&mut self, conn: ConnId) -> Option<Sgv> {
        self.conn_mut(conn)?.inbox.take_spare()
    }

    fn land(&mut self, conn: ConnId, buf: Sgv, range: Range<u32>) -> Option<Sgv> {
        let Some(slot) = self.conns.get_mut(conn.slot()).filter(|s| s.generation == conn.0 >> 20) else {
            return Some(buf);
        };
        let Some(c) = slot.conn.as_mut() else { return Some(buf) };
        let landed = c.inbox.land(buf, range, &mut self.staging, &mut self.copied);
        if landed.is_none() {
            lock(&self.fabric).mark(self.core);
        }
        landed
    }

    fn unland(&mut self, conn: ConnId) -> Option<(Sgv, u32)> {
        self.conn_mut(conn)?.inbox.unland()
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
            c.rest = true;
            self.send_some(conn);
        }
    }

    fn queued_bytes(&self, conn: ConnId) -> u32 {
        self.conn(conn).map_or(0, |c| c.queued as u32)
    }

    fn send_now(&mut self, conn: ConnId) {
        if self.conn(conn).is_some_and(|c| !c.rest) {
            self.send_some(conn);
        }
    }

    fn flush(&mut self, now: Tick) {
        self.now = now;
        for slot in 0..self.conns.len() {
            let id = self.id_at(slot);
            if !self.conn_mut(id).is_some_and(|c| std::mem::take(&mut c.rest) && !c.tx.is_empty()) {
                self.send_some(id);
            }
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
                if let Some((buf, _)) = c.inbox.unland() {
                    self.pending.push(NetEvent::Landed { conn, buf });
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
