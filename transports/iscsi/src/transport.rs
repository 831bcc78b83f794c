//! All iSCSI connections of one core: the tables, the turn, and [`Transport`] for the shard.

use std::net::SocketAddr;
use std::sync::Arc;

use spindle_iscsi_wire::{LoginStatus, SerialNumber};
use spindle_mem::{Key, Sgv, Slab};
use spindle_net::{Close, ConnId, ListenerId, Net, NetError, NetEvent};
use spindle_reactor::{CoreId, Tick, WakeSet};
use spindle_scsi_port::{AsyncEvent, Mid, NexusId, PortEffect, Transport};

use crate::config::IscsiConfig;
use crate::conn::{Conn, ConnState, Rx, Sink};
use crate::directory::{ConnMsg, Directory};
use crate::info::{ConnInfo, IscsiCounters, SessionInfo};
use crate::login::Login;
use crate::moving::{Handed, Moves};
use crate::portal::Listener;
use crate::session::{Session, SessionState};
use crate::task::{Phase, Task};
use crate::timers::{Later, Reminders};
use crate::tmf::{Held, TmfSlot};

/// The iSCSI target of one core.
pub struct IscsiTransport<N: Net> {
    pub(crate) net: N,
    pub(crate) core: CoreId,
    pub(crate) cores: u8,
    pub(crate) config: Arc<IscsiConfig>,
    pub(crate) now: Tick,
    pub(crate) conns: Vec<Option<Box<Conn>>>,
    pub(crate) sessions: Slab<Session>,
    pub(crate) tasks: Slab<Task>,
    pub(crate) tmfs: Slab<TmfSlot>,
    /// Answers to task management that wait for Data-Out of tags given before.
    pub(crate) held: Vec<Held>,
    /// Tasks that only drop data, in the order of their end.
    pub(crate) sinks: std::collections::VecDeque<(Key<Task>, Tick)>,
    /// By slot of the nexus.
    pub(crate) nexuses: Vec<Option<(NexusId, Key<Session>)>>,
    pub(crate) listeners: Vec<Listener>,
    /// On core 0 only.
    pub(crate) directory: Option<Directory>,
    /// Messages to this core itself.
    pub(crate) to_self: Vec<ConnMsg>,
    pub(crate) out: Vec<IscsiOut<N::Socket>>,
    pub(crate) counters: IscsiCounters,
    events: Vec<NetEvent<N::Socket>>,
    line: std::collections::VecDeque<ConnId>,
    /// Only one connection had something in this turn.
    pub(crate) alone: bool,
    stalled: Vec<ConnId>,
    /// Connections on which a task ended that had been asked for data: others may have their R2Ts.
    pub(crate) unblocked: Vec<ConnId>,
    pub(crate) reminders: Reminders,
    pub(crate) last_tag: u32,
    pub(crate) moves: Moves,
    /// All sessions were asked to log out; those that come from other cores are, too.
    pub(crate) shutting_down: bool,
    /// Vectors lent to the Net for writes that are expected.
    pub(crate) lent: u32,
    /// Unsolicited data kept beyond the reserves of single sessions.
    pub(crate) reserve_common_used: u32,
}

/// What the shard carries out for the transport.
#[derive(Debug)]
pub enum IscsiOut<S> {
    /// A connection was accepted: give it to [`IscsiTransport::adopt`] of the core that shall have it.
    Accepted {
        /// The connection.
        socket: S,
        /// Through which portal group it came.
        portal_group: u16,
        /// The initiator's address.
        peer: SocketAddr,
        /// The address it used.
        local: SocketAddr,
    },
    /// A session that moves: give it to [`IscsiTransport::take_over`] of its new core, in order with messages.
    Handed {
        /// Which core.
        to: CoreId,
        /// The session.
        handed: Box<Handed<S>>,
    },
    /// A message for the transport of another core: [`IscsiTransport::on_message`].
    Message {
        /// Which core.
        to: CoreId,
        /// What to tell it.
        message: ConnMsg,
    },
}

/// PDUs of one connection in one go, so that no neighbour starves.
pub(crate) const PDUS_A_TURN: u32 = 64;
/// Rows of the task table that are used in turn while there are no more tasks: they are to stay in the processor's cache,
/// and many enough that no transfer tag comes again soon (65,535 times as many commands later).
const TASKS_FIRST: usize = 1024;
/// Connections of one core: the identifiers of the Net have 20 bits for them.
const CONNS_MAX: usize = 1 << 20;

impl<N: Net> IscsiTransport<N> {
    /// The transport of `core`, one of `cores`.
    pub fn new(net: N, core: CoreId, cores: u8, config: Arc<IscsiConfig>) -> Self {
        let limits = &config.limits;
        // A slot of FFFFh could make a transfer tag that is reserved; slots for sinks come on top.
        let tasks = (limits.tasks_max as usize).clamp(1, 0xFFFF);
        let sessions = (limits.sessions_max as usize).clamp(1, 0xFFFF);
        IscsiTransport {
            net,
            core,
            cores,
            now: Tick::ZERO,
            conns: Vec::new(),
            sessions: Slab::growing(sessions.min(16), sessions),
            tasks: Slab::growing(tasks.min(TASKS_FIRST), tasks),
            tmfs: Slab::growing(16, 4096),
            held: Vec::new(),
            sinks: std::collections::VecDeque::new(),
            nexuses: Vec::new(),
            listeners: Vec::new(),
            directory: (core == CoreId(0)).then(Directory::default),
            to_self: Vec::new(),
            out: Vec::new(),
            counters: IscsiCounters::default(),
            events: Vec::new(),
            line: std::collections::VecDeque::new(),
            alone: false,
            stalled: Vec::new(),
            unblocked: Vec::new(),
            reminders: Reminders::new(CONNS_MAX),
            last_tag: 0,
            moves: Moves::default(),
            shutting_down: false,
            lent: 0,
            reserve_common_used: 0,
            config,
        }
    }

    /// What the shard has to carry out since the last call.
    pub fn take_out(&mut self, into: &mut Vec<IscsiOut<N::Socket>>) {
        into.append(&mut self.out);
    }

    /// The network below.
    pub fn net(&self) -> &N {
        &self.net
    }

    /// The network below, to change.
    pub fn net_mut(&mut self) -> &mut N {
        &mut self.net
    }

    /// Counters of this core.
    pub fn counters(&self) -> IscsiCounters {
        self.counters
    }

    /// Takes over a connection that was accepted here or on another core.
    pub fn adopt(
        &mut self,
        socket: N::Socket,
        portal_group: u16,
        peer: SocketAddr,
        local: SocketAddr,
        now: Tick,
    ) -> Result<ConnId, NetError> {
        self.now = self.now.max(now);
        let id = self.net.attach(socket, now)?;
        let login = Login::new(&self.config, portal_group, peer, local);
        let ms = self.config.limits.login_ms_max;
        let mut conn = Conn::new(id, login, now, ms);
        self.reminders.remind(&mut conn, Later { since: now, ms });
        if self.conns.len() <= id.slot() {
            self.conns.resize_with(id.slot() + 1, || None);
        }
        self.conns[id.slot()] = Some(Box::new(conn));
        self.counters.connections += 1;
        Ok(id)
    }

    /// A new configuration: later logins see it; sessions of targets that are gone are asked to log out, and
    /// dropped after `logout_wait_ms`.
    pub fn apply(&mut self, config: Arc<IscsiConfig>) {
        self.config = config;
        let gone: Vec<Key<Session>> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.target.is_some_and(|id| self.config.target_by_id(id).is_none()))
            .map(|(key, _)| key)
            .collect();
        for key in gone {
            self.ask_logout(key);
        }
    }

    /// Asks the initiators of all sessions of this core to log out: the way to an orderly end.
    pub fn shut_down(&mut self) {
        self.shutting_down = true;
        let all: Vec<Key<Session>> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in all {
            self.ask_logout(key);
        }
    }

    /// Sessions of this core.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.sessions.iter().map(|(_, s)| self.session_info(s)).collect()
    }

    /// Whether a session is on this core.
    pub fn has_session(&self, tsih: u16) -> bool {
        self.sessions.iter().any(|(_, s)| s.tsih == tsih)
    }

    /// How many sessions there are, discovery sessions included.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Commands in flight, for limits and tests.
    pub fn tasks_in_flight(&self) -> usize {
        self.tasks.len()
    }

    /// When timers want to be looked at next.
    pub fn next_deadline(&self) -> Option<Tick> {
        match (self.reminders.due(), self.moves.due(self.now)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn session_info(&self, s: &Session) -> SessionInfo {
        let conns = s.connections.iter().filter_map(|id| self.conn(*id));
        SessionInfo {
            tsih: s.tsih,
            isid: s.isid.0,
            initiator_name: s.initiator_name.clone(),
            initiator_alias: s.initiator_alias.clone(),
            target: s.target,
            target_name: s.target_name.clone(),
            portal_group: s.portal_group,
            core: self.core,
            nexus: s.nexus,
            authenticated: s.authenticated,
            window: s.granted,
            in_flight: s.in_flight,
            params: s.params.clone(),
            counters: s.counters,
            connections: conns
                .map(|c| ConnInfo {
                    cid: c.cid,
                    peer: c.peer,
                    local: c.local,
                    state: match c.state {
                        ConnState::Login(_) | ConnState::Claiming(_) => "login",
                        ConnState::Full => "full",
                        ConnState::Closing => "closing",
                    },
                    digests: (c.digests.header, c.digests.data),
                    stat_sn: c.stat_sn.0,
                    exp_stat_sn: c.exp_stat_sn.0,
                    queued_bytes: self.net.queued_bytes(c.id),
                })
                .collect(),
        }
    }

    pub(crate) fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(id.slot())?.as_deref().filter(|c| c.id == id)
    }

    /// Takes a connection out of its table for as long as it is worked on.
    pub(crate) fn take_conn(&mut self, id: ConnId) -> Option<Box<Conn>> {
        let place = self.conns.get_mut(id.slot())?;
        if place.as_ref().is_some_and(|c| c.id == id) { place.take() } else { None }
    }

    /// Puts it back.
    pub(crate) fn put_conn(&mut self, conn: Box<Conn>) {
        let slot = conn.id.slot();
        self.conns[slot] = Some(conn);
    }

    /// The session of a nexus.
    pub(crate) fn session_of(&self, nexus: NexusId) -> Option<Key<Session>> {
        let (id, key) = (*self.nexuses.get(usize::from(nexus.slot()))?)?;
        (id == nexus).then_some(key)
    }

    /// In line for another go: bytes are left over.
    pub(crate) fn again(&mut self, conn: &mut Conn) {
        if !std::mem::replace(&mut conn.in_line, true) {
            self.line.push_back(conn.id);
        }
    }

    fn take_event<M: Mid>(&mut self, event: NetEvent<N::Socket>, mid: &mut M) {
        match event {
            NetEvent::Accepted { listener, socket, peer, local } => {
                self.accepted(listener, socket, peer, local);
            }
            NetEvent::Readable(id) => self.receive(id, mid),
            NetEvent::Landed { conn, buf } => self.on_landed(conn, buf, mid),
            NetEvent::Spare { buf, .. } => {
                self.lent -= 1;
                mid.returned(buf);
            }
            NetEvent::Released { body, .. } => {
                if let Some(buf) = body.release() {
                    mid.returned(buf);
                }
            }
            NetEvent::Closed { conn, .. } => self.on_closed(conn, mid),
        }
    }

    fn accepted(&mut self, listener: ListenerId, socket: N::Socket, peer: SocketAddr, local: SocketAddr) {
        // A listener that was closed meanwhile: the connection is dropped with its socket.
        if let Some(l) = self.listeners.iter().find(|l| l.id == listener) {
            let portal_group = l.portal_group;
            self.out.push(IscsiOut::Accepted { socket, portal_group, peer, local });
        }
    }

    fn on_landed<M: Mid>(&mut self, id: ConnId, buf: Sgv, mid: &mut M) {
        let Some(mut conn) = self.take_conn(id) else {
            // Not a connection of ours any more; the memory still is.
            mid.returned(buf);
            return;
        };
        self.landed_late(&mut conn, buf, mid);
        self.receive_from(&mut conn, mid);
        self.put_conn(conn);
    }

    fn on_closed<M: Mid>(&mut self, id: ConnId, mid: &mut M) {
        let Some(mut conn) = self.take_conn(id) else { return };
        conn.gone = true;
        self.reminders.forget(&conn);
        self.conn_lost(&mut conn, mid);
    }

    /// The end of a connection for its session, its text, its logout. The connection is out of its table.
    fn conn_lost<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) {
        conn.state = ConnState::Closing;
        if let Some(key) = conn.session.take() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.connections.retain(|c| *c != conn.id);
            }
            self.end_session(key, mid);
        }
    }

    /// Ends a session: its tasks are ended by the mid-level, `NexusGone` follows.
    pub(crate) fn end_session<M: Mid>(&mut self, key: Key<Session>, mid: &mut M) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.state == SessionState::Ending {
            return;
        }
        session.state = SessionState::Ending;
        session.parked.clear();
        match session.nexus {
            Some(nexus) => mid.nexus_lost(nexus),
            None => self.session_gone(key),
        }
    }

    /// The last task of a session has ended.
    pub(crate) fn session_gone(&mut self, key: Key<Session>) {
        self.held.retain(|h| h.session != key);
        let Some(session) = self.sessions.remove(key) else { return };
        // Most sessions end with neither, and to find them all rows are looked at.
        if session.tmfs > 0 {
            let lost: Vec<_> = self.tmfs.iter().filter(|(_, t)| t.session == key).map(|(k, _)| k).collect();
            for tmf in lost {
                self.tmfs.remove(tmf);
            }
        }
        // Sinks, and nothing else: what the mid-level knew has ended.
        if session.sinks > 0 {
            let sinks: Vec<_> = self.tasks.iter().filter(|(_, t)| t.session == key).map(|(k, _)| k).collect();
            for task in sinks {
                self.tasks.remove(task);
            }
        }
        if let Some(nexus) = session.nexus
            && let Some(place) = self.nexuses.get_mut(usize::from(nexus.slot()))
            && place.is_some_and(|(id, _)| id == nexus)
        {
            *place = None;
        }
        for id in session.connections {
            let Some(mut conn) = self.take_conn(id) else { continue };
            conn.session = None;
            self.answer_logout(&mut conn, &session_window(&session.exp_cmd_sn, session.granted));
            self.close_conn(&mut conn, Close::Graceful);
            self.put_conn(conn);
        }
        self.tell(CoreId(0), ConnMsg::Released { tsih: session.tsih });
    }

    /// Ends the connection below. A landing comes back first, so that its task has its vector.
    pub(crate) fn close_conn(&mut self, conn: &mut Conn, how: Close) {
        if !self.take_landing_back(conn) {
            conn.rx = Rx::Header;
        }
        conn.state = ConnState::Closing;
        conn.deadline = None;
        conn.stalled = None;
        self.net.close(conn.id, how);
    }

    /// The connection cannot go on: protocol error, digest error, silence. Session recovery is all there is at
    /// ErrorRecoveryLevel 0 (RFC 7143 §7.1.4).
    pub(crate) fn drop_conn<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) {
        if matches!(conn.state, ConnState::Closing) {
            return;
        }
        self.close_conn(conn, Close::Abort);
        self.conn_lost(conn, mid);
    }

    /// Takes an unfinished landing back into its task. `true`: it is finished, and the Net is about to say so.
    fn take_landing_back(&mut self, conn: &mut Conn) -> bool {
        let Rx::Segment(segment) = &mut conn.rx else { return false };
        let (Sink::Land(..), Some(key)) = (segment.sink, segment.task) else { return false };
        let Some(task) = self.tasks.get_mut(key).filter(|t| t.landing) else { return false };
        match self.net.unland(conn.id) {
            Some((buf, _)) => {
                task.landing = false;
                task.buf = Some(buf);
                false
            }
            None => true,
        }
    }

    /// A message for a core.
    pub(crate) fn tell(&mut self, to: CoreId, message: ConnMsg) {
        if to == self.core {
            self.to_self.push(message);
        } else {
            self.out.push(IscsiOut::Message { to, message });
        }
    }

    fn hear_self<M: Mid>(&mut self, mid: &mut M) {
        // Each message may cause another; a claim goes round three times at most.
        while !self.to_self.is_empty() {
            for message in std::mem::take(&mut self.to_self) {
                self.on_message(self.core, message, self.now, mid);
            }
        }
    }

    /// Peers that took what was queued for them are read again.
    fn look_at_stalled<M: Mid>(&mut self, mid: &mut M) {
        let low = self.config.limits.send_queue_bytes_max / 2;
        for id in std::mem::take(&mut self.stalled) {
            let Some(mut conn) = self.take_conn(id) else { continue };
            let queued = self.net.queued_bytes(id);
            if conn.stalled.is_none() {
                // Closed meanwhile.
            } else if queued <= low {
                conn.stalled = None;
                self.net.pause(id, false);
                self.receive_from(&mut conn, mid);
            } else {
                self.stalled.push(id);
            }
            self.put_conn(conn);
        }
    }

    /// Stops reading from a peer that does not take what it asked for.
    pub(crate) fn stall(&mut self, conn: &mut Conn) {
        let queued = self.net.queued_bytes(conn.id);
        if conn.stalled.is_some() || queued <= self.config.limits.send_queue_bytes_max {
            return;
        }
        conn.stalled = Some(crate::conn::Stall { since: self.now, queued });
        self.net.pause(conn.id, true);
        self.stalled.push(conn.id);
        let ms = self.config.limits.send_stall_ms_max;
        self.reminders.remind(conn, Later { since: self.now, ms });
    }

    /// What waits in a short list is looked at then, at the latest.
    pub(crate) fn wake_by(&mut self, at: Tick) {
        self.reminders.look_by(at);
    }

    /// Asks an initiator to log out; its session is dropped if it does not.
    pub(crate) fn ask_logout(&mut self, key: Key<Session>) {
        let wait = self.config.limits.logout_wait_ms;
        let until = self.now.plus_ms(wait);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.state != SessionState::Open {
            return;
        }
        session.state = SessionState::LogoutAsked(until);
        let connections = session.connections.clone();
        self.reminders.ask(key, until);
        for id in connections {
            let Some(mut conn) = self.take_conn(id) else { continue };
            self.send_logout_request(&mut conn, wait);
            self.put_conn(conn);
        }
    }

    /// Ends a session and its connections now.
    pub(crate) fn drop_session<M: Mid>(&mut self, key: Key<Session>, mid: &mut M) {
        let Some(session) = self.sessions.get(key) else { return };
        for id in session.connections.clone() {
            let Some(mut conn) = self.take_conn(id) else { continue };
            self.drop_conn(&mut conn, mid);
            self.put_conn(conn);
        }
        self.end_session(key, mid);
    }

    /// Refuses a login and closes, with the reason on the wire.
    pub(crate) fn refuse(&mut self, conn: &mut Conn, status: LoginStatus) {
        self.counters.logins_refused += 1;
        self.send_refusal(conn, status);
        self.close_conn(conn, Close::Graceful);
    }
}

fn session_window(exp: &SerialNumber, granted: u32) -> (SerialNumber, SerialNumber) {
    (*exp, exp.plus(granted).prev())
}

impl<N: Net> Transport for IscsiTransport<N> {
    fn poll<M: Mid>(&mut self, now: Tick, budget: u32, mid: &mut M) -> u32 {
        self.now = self.now.max(now);
        let mut events = std::mem::take(&mut self.events);
        self.net.poll(now, budget, &mut events);
        let mut done = events.len() as u32;
        // A connection that ended gives its unfinished landing back before it says so. What landed there is
        // not whole, and must not pass for it.
        let mut readable = self.line.len();
        for event in &events {
            match event {
                NetEvent::Readable(_) => readable += 1,
                NetEvent::Closed { conn, .. } => {
                    if let Some(Some(c)) = self.conns.get_mut(conn.slot())
                        && c.id == *conn
                    {
                        c.gone = true;
                    }
                }
                _ => {}
            }
        }
        self.alone = readable <= 1;
        for event in events.drain(..) {
            self.take_event(event, mid);
        }
        self.events = events;
        for _ in 0..self.line.len().min(budget.max(1) as usize) {
            let Some(id) = self.line.pop_front() else { break };
            if let Some(mut conn) = self.take_conn(id) {
                conn.in_line = false;
                self.receive_from(&mut conn, mid);
                self.put_conn(conn);
            }
            done += 1;
        }
        if !self.stalled.is_empty() {
            self.look_at_stalled(mid);
        }
        if self.reminders.is_due(now) {
            done += self.look_at_timers(mid);
        }
        if !self.moves.nobody_leaves() {
            self.look_at_moves(mid);
        }
        self.hear_self(mid);
        done
    }

    fn perform<M: Mid>(&mut self, effect: PortEffect, mid: &mut M) {
        match effect {
            PortEffect::Respond { task, cookie, outcome, data, .. } => {
                self.respond(task, cookie, outcome, data, mid);
            }
            PortEffect::Land { task, cookie, buf, .. } => self.on_memory(task, cookie, buf, mid),
            PortEffect::Revoke { task, cookie, .. } => self.revoke(task, cookie, mid),
            PortEffect::TmfDone { id, response, .. } => {
                self.tmf_done(id, response);
                self.hear_self(mid);
            }
            PortEffect::NexusGone { nexus } => {
                // Its slot may have a new holder by now: a login of the same turn. The session itself knows its nexus.
                let find = || self.sessions.iter().find(|(_, s)| s.nexus == Some(nexus)).map(|(key, _)| key);
                let key = self.session_of(nexus).or_else(find);
                if let Some(key) = key {
                    self.session_gone(key);
                }
                self.hear_self(mid);
            }
            PortEffect::NexusReady { nexus } => self.nexus_is_ready(nexus),
            PortEffect::Notify { nexus, event: AsyncEvent::LogoutRequest } => {
                if let Some(key) = self.session_of(nexus) {
                    self.ask_logout(key);
                }
            }
        }
    }

    fn flush<M: Mid>(&mut self, now: Tick, _mid: &mut M) {
        self.now = self.now.max(now);
        while let Some(id) = self.unblocked.pop() {
            if let Some(mut conn) = self.take_conn(id) {
                self.serve_line(&mut conn);
                self.put_conn(conn);
            }
        }
        self.net.flush(now);
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        if let Some(at) = self.next_deadline() {
            wake.at(at);
        }
        // Connections that took nothing are looked at in each turn; what they wait for wakes the Net.
        self.net.arm(wake) && self.line.is_empty() && self.to_self.is_empty() && self.out.is_empty()
    }
}

/// A task that is not the mid-level's any more.
pub(crate) fn is_sink(task: &Task) -> bool {
    task.phase == Phase::Sink
}
