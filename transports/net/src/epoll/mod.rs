//! Kernel TCP: readiness by epoll, data by readv and sendmsg.
//!
//! One epoll set per core; its descriptor is what the core sleeps on. A turn costs one `epoll_wait` (none in most
//! turns of a lone connection that waits for each answer), one `readv` per connection with something to read (headers
//! into staging and payload into its vector by the same call), and one `sendmsg` per connection with something to say
//! (more where whole segments of the kernel wait before the turn ends; what is behind them then waits for one turn). A connection that holds a partial PDU only
//! keeps its few bytes; staging buffers belong to the core and go round.

mod conn;
mod listen;
mod lone;
mod recv;
mod send;

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::epoll;
use spindle_ffi_os::socket::tcp_path;
use spindle_mem::{Sgv, SgvPool};
use spindle_reactor::{Tick, WakeSet};

use crate::inbox::StagingPool;
use crate::net::{Body, Close, CloseReason, ConnId, ListenerId, Net, NetError, NetEvent};
use conn::{Conn, Phase};
use listen::Listener;
use lone::Lone;
use send::Runs;

/// Knobs of kernel TCP. The defaults serve a storage network.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Connections of one core.
    pub connections_max: u32,
    /// Staging buffers of one core; a connection waits to be read when all are taken.
    pub staging_max: u32,
    /// About how many queued bytes are sent before the turn ends, so that the peer does not wait: the whole
    /// segments among them.
    pub early_flush_bytes: u32,
    /// The same where the last PDU is large: a call for several segments costs less than one for each, and as the peer has
    /// long to do with a segment of few PDUs, it does not wait for the next.
    pub early_flush_large_bytes: u32,
    /// Idle seconds before the first keep-alive probe; then one every `keepalive_interval_s`, three times.
    pub keepalive_idle_s: u32,
    /// Seconds between keep-alive probes.
    pub keepalive_interval_s: u32,
    /// Milliseconds that sent data may stay unacknowledged before the connection counts as dead.
    pub user_timeout_ms: u32,
    /// How long an orderly close may take to get its last bytes out.
    pub linger_ms: u64,
    /// Length of the queue of connections not yet accepted.
    pub backlog: i32,
    /// What an initiator may send at first before any of it is read, in bytes; the kernel adapts it from there on. With
    /// the system's 64 KiB a stream of large writes begins by waiting for the window, which some congestion control (BBR)
    /// takes for the path's rate and never gets over.
    pub receive_bytes: u32,
}

impl Default for TcpConfig {
    fn default() -> Self {
        TcpConfig {
            connections_max: 16_384,
            staging_max: 1_024,
            early_flush_bytes: 64 * 1024,
            early_flush_large_bytes: 256 * 1024,
            keepalive_idle_s: 10,
            keepalive_interval_s: 5,
            user_timeout_ms: 30_000,
            linger_ms: 1_000,
            backlog: 4_096,
            receive_bytes: 2 << 20,
        }
    }
}

/// A connection on its way to a core.
#[derive(Debug)]
pub struct TcpSocket {
    fd: OwnedFd,
    /// Received where it comes from.
    unread: Box<[u8]>,
}

impl From<OwnedFd> for TcpSocket {
    fn from(fd: OwnedFd) -> Self {
        TcpSocket { fd, unread: Box::default() }
    }
}

/// Kernel TCP of one core.
pub struct EpollNet {
    epoll: OwnedFd,
    config: TcpConfig,
    conns: Vec<Slot>,
    free: Vec<u32>,
    /// Connections that something was queued for since the last flush.
    dirty: Vec<u32>,
    /// Connections in an orderly close, watched for their deadline.
    closing: Vec<u32>,
    listeners: Vec<Option<Listener>>,
    staging: StagingPool,
    runs: Runs,
    ready: Vec<epoll::Event>,
    lone: Lone,
    /// What happened outside `poll` and waits to be reported.
    pending: Vec<NetEvent<TcpSocket>>,
    copied: u64,
    now: Tick,
}

struct Slot {
    generation: u32,
    conn: Option<Conn>,
}

/// In the epoll data word: connections are their identifier, listeners have this bit.
const LISTENER: u64 = 1 << 63;

fn is_listener(data: u64) -> bool {
    data & LISTENER != 0
}

/// Readiness reports taken in by one call.
const READY_MAX: usize = 256;

impl EpollNet {
    /// Makes the epoll set.
    pub fn new(config: TcpConfig) -> Result<EpollNet, NetError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(os("creating an epoll set"))?;
        Ok(EpollNet {
            epoll,
            staging: StagingPool::new(config.staging_max),
            config,
            conns: Vec::new(),
            free: Vec::new(),
            runs: Runs::default(),
            dirty: Vec::new(),
            closing: Vec::new(),
            listeners: Vec::new(),
            ready: Vec::with_capacity(READY_MAX),
            lone: Lone::default(),
            pending: Vec::new(),
            copied: 0,
            now: Tick::ZERO,
        })
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.conns.len() - self.free.len()
    }

    #[inline]
    fn conn_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let slot = self.conns.get_mut(id.slot())?;
        if slot.generation == id.0 >> 20 { slot.conn.as_mut() } else { None }
    }

    #[inline]
    fn conn(&self, id: ConnId) -> Option<&Conn> {
        let slot = self.conns.get(id.slot())?;
        if slot.generation == id.0 >> 20 { slot.conn.as_ref() } else { None }
    }

    /// Changes what the kernel reports for a connection, if that differs from what it does now.
    fn interest(epoll: &OwnedFd, id: ConnId, conn: &mut Conn) {
        // A paused connection is not even asked whether its peer hung up: it would be reported every turn.
        let mut want = epoll::EventFlags::empty();
        if !conn.paused {
            want |= epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        }
        if conn.blocked {
            want |= epoll::EventFlags::OUT;
        }
        if want != conn.interest {
            conn.interest = want;
            // The descriptor is in the set for as long as the connection exists; this cannot fail otherwise.
            let _ = epoll::modify(epoll, &conn.fd, epoll::EventData::new_u64(u64::from(id.0)), want);
        }
    }

    /// Removes a connection: its shares and its landing come back first, then `Closed`.
    fn end(&mut self, id: ConnId, reason: CloseReason) {
        let Some(slot) = self.conns.get_mut(id.slot()) else { return };
        if slot.generation != id.0 >> 20 {
            return;
        }
        let Some(mut conn) = slot.conn.take() else { return };
        // Generations use 12 bits of the identifier.
        slot.generation = (slot.generation + 1) & 0xFFF;
        self.free.push(id.slot() as u32);
        let _ = epoll::delete(&self.epoll, &conn.fd);
        for body in conn.tx.take_bodies() {
            self.pending.push(NetEvent::Released { conn: id, body });
        }
        if let Some((buf, _)) = conn.inbox.unland() {
            self.pending.push(NetEvent::Landed { conn: id, buf });
        }
        for buf in conn.inbox.give_up(&mut self.staging) {
            self.pending.push(NetEvent::Spare { conn: id, buf });
        }
        self.pending.push(NetEvent::Closed { conn: id, reason });
    }

    /// Orderly closes: those whose last byte is out are shut down, those that take too long are ended.
    fn watch_closing(&mut self, now: Tick) {
        let mut at = 0;
        while at < self.closing.len() {
            let slot = self.closing[at] as usize;
            let id = ConnId((self.conns[slot].generation << 20) | slot as u32);
            let verdict = match self.conns[slot].conn.as_mut() {
                None => Some(None),
                Some(conn) => match conn.phase {
                    Phase::Closing { until } if conn.tx.is_empty() || now >= until => {
                        if now >= until {
                            Some(Some(CloseReason::Local))
                        } else {
                            // Our side is done; what the peer still sends is read and dropped until it closes
                            // too, so that the kernel does not answer with a reset that overtakes our last PDU.
                            let _ = rustix::net::shutdown(&conn.fd, rustix::net::Shutdown::Write);
                            conn.phase = Phase::Draining { until };
                            None
                        }
                    }
                    Phase::Draining { until } if now >= until => Some(Some(CloseReason::Local)),
                    Phase::Closing { .. } | Phase::Draining { .. } => None,
                    Phase::Open => Some(None),
                },
            };
            match verdict {
                None => at += 1,
                Some(end) => {
                    self.closing.swap_remove(at);
                    if let Some(reason) = end {
                        self.end(id, reason);
                    }
                }
            }
        }
    }
}

impl Net for EpollNet {
    type Socket = TcpSocket;

    fn listen(&mut self, at: SocketAddr) -> Result<(ListenerId, SocketAddr), NetError> {
        self.open_listener(at)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        if let Some(l) = self.listeners.get_mut(listener.0 as usize).and_then(Option::take) {
            let _ = epoll::delete(&self.epoll, l.fd());
        }
    }

    fn attach(&mut self, socket: TcpSocket, _now: Tick) -> Result<ConnId, NetError> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.conns.len() < self.config.connections_max as usize => {
                self.conns.push(Slot { generation: 0, conn: None });
                self.conns.len() as u32 - 1
            }
            None => return Err(NetError::Full(self.config.connections_max)),
        };
        let id = ConnId((self.conns[slot as usize].generation << 20) | slot);
        let TcpSocket { fd, unread } = socket;
        listen::prepare(&fd, &self.config);
        let interest = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        if let Err(e) = epoll::add(&self.epoll, &fd, epoll::EventData::new_u64(u64::from(id.0)), interest) {
            self.free.push(slot);
            return Err(os("watching a connection")(e));
        }
        if !unread.is_empty() {
            self.pending.push(NetEvent::Readable(id));
        }
        self.conns[slot as usize].conn = Some(Conn::new(fd, interest, unread));
        Ok(id)
    }

    fn detach(&mut self, conn: ConnId) -> Option<TcpSocket> {
        let c = self.conn(conn).filter(|c| c.phase == Phase::Open && c.tx.is_empty())?;
        let unread = c.inbox.unread()?;
        let slot = &mut self.conns[conn.slot()];
        let gone = slot.conn.take()?;
        slot.generation = (slot.generation + 1) & 0xFFF;
        self.free.push(conn.slot() as u32);
        let _ = epoll::delete(&self.epoll, &gone.fd);
        for buf in gone.inbox.give_up(&mut self.staging) {
            self.pending.push(NetEvent::Spare { conn, buf });
        }
        Some(TcpSocket { fd: gone.fd, unread })
    }

    fn poll(&mut self, now: Tick, budget: u32, out: &mut Vec<NetEvent<TcpSocket>>) -> u32 {
        self.now = now;
        if !self.closing.is_empty() {
            self.watch_closing(now);
        }
        let before = out.len();
        out.append(&mut self.pending);
        if let Some(conn) = self.lone_to_read() {
            self.receive(conn, out);
            out.append(&mut self.pending);
            if out.len() > before {
                self.lone_heard();
            }
            return (out.len() - before) as u32;
        }
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        let room = (budget as usize).clamp(1, READY_MAX);
        ready.reserve(room);
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), Some(&NO_WAIT));
        self.lone_among(&ready);
        for event in ready.iter().take(room) {
            let (flags, data) = (event.flags, event.data.u64());
            if is_listener(data) {
                self.accept((data & !LISTENER) as u32, out);
            } else {
                self.on_ready(ConnId(data as u32), flags, out);
            }
        }
        self.ready = ready;
        self.read_apart(out);
        out.append(&mut self.pending);
        (out.len() - before) as u32
    }

    #[inline]
    fn bytes(&self, conn: ConnId) -> &[u8] {
        self.conn(conn).map_or(&[], |c| c.inbox.bytes())
    }

    #[inline]
    fn glance(&self, conn: ConnId, at: usize) -> &[u8] {
        self.conn(conn).map_or(&[], |c| c.inbox.glance(at))
    }

    #[inline]
    fn consume(&mut self, conn: ConnId, n: u32) {
        if let Some(c) = self.conn_mut(conn) {
            c.inbox.consume(n as usize);
        }
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
        let Some(slot) = self.conns.get_mut(conn.slot()).filter(|slot| slot.generation == conn.0 >> 20)
        else {
            return Some(buf); // the connection has just ended; its `Closed` is on the way
        };
        let Some(c) = slot.conn.as_mut() else { return Some(buf) };
        c.inbox.land(buf, range, &mut self.staging, &mut self.copied)
    }

    fn unland(&mut self, conn: ConnId) -> Option<(Sgv, u32)> {
        self.conn_mut(conn)?.inbox.unland()
    }

    #[inline]
    fn send(&mut self, conn: ConnId, head: &[u8], body: Option<Body>, tail: &[u8]) {
        self.queue(conn, head, body, tail);
    }

    fn queued_bytes(&self, conn: ConnId) -> u32 {
        self.conn(conn).map_or(0, |c| c.tx.queued_bytes())
    }

    fn round_trip_us(&self, conn: ConnId) -> Option<u32> {
        let path = tcp_path(&self.conn(conn)?.fd).ok()?;
        // Before the first acknowledgement there is none, which the kernel tells by all ones.
        Some(path.rtt_min_us).filter(|us| *us != u32::MAX)
    }

    fn send_now(&mut self, conn: ConnId) {
        // Behind whole segments the initiator has something to work on.
        if self.conn(conn).is_some_and(|c| !c.tx.is_rest()) {
            // It stays among the dirty: more may follow in this turn.
            self.send_some(conn.slot(), usize::MAX);
        }
    }

    fn flush(&mut self, now: Tick) {
        self.now = now;
        let mut at = 0;
        while at < self.dirty.len() {
            let slot = self.dirty[at] as usize;
            if self.conns[slot].conn.as_mut().is_some_and(|conn| conn.tx.waits_once_more()) {
                at += 1;
            } else {
                self.dirty.swap_remove(at);
                self.flush_slot(slot);
            }
        }
    }

    fn pause(&mut self, conn: ConnId, paused: bool) {
        let slot = conn.slot();
        if let Some(c) = self.conn_mut(conn)
            && c.paused != paused
        {
            c.paused = paused;
            let c = self.conns[slot].conn.as_mut().expect("found just above");
            Self::interest(&self.epoll, conn, c);
        }
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        let until = self.now.plus_ms(self.config.linger_ms);
        let Some(c) = self.conn_mut(conn) else { return };
        match how {
            Close::Abort => self.end(conn, CloseReason::Local),
            Close::Graceful => {
                let landing = c.inbox.unland();
                if !matches!(c.phase, Phase::Closing { .. } | Phase::Draining { .. }) {
                    c.phase = Phase::Closing { until };
                    self.closing.push(conn.slot() as u32);
                }
                if let Some((buf, _)) = landing {
                    self.pending.push(NetEvent::Landed { conn, buf });
                }
            }
        }
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        wake.fd(self.epoll.as_fd().as_raw_fd());
        if !self.closing.is_empty() {
            wake.at(self.now.plus_ms(10));
        }
        self.take_back_staging();
        self.rejoin() && self.pending.is_empty() && self.dirty.is_empty()
    }

    fn copied_bytes(&self) -> u64 {
        self.copied
    }

    fn drain(&mut self, pool: &mut SgvPool) {
        for slot in 0..self.conns.len() {
            let id = ConnId((self.conns[slot].generation << 20) | slot as u32);
            self.end(id, CloseReason::Local);
        }
        for event in self.pending.drain(..) {
            match event {
                NetEvent::Landed { buf, .. } | NetEvent::Spare { buf, .. } => pool.put(buf),
                NetEvent::Released { body, .. } => {
                    if let Some(sgv) = body.release() {
                        pool.put(sgv);
                    }
                }
                _ => {}
            }
        }
    }
}

const NO_WAIT: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };

fn os(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> NetError {
    let what = what.into();
    move |e| NetError::Os { what, source: e.into() }
}
