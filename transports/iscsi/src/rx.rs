//! Receiving: header → AHS → digest → data segment, straight into the vector it belongs to.
//!
//! **What is read ahead.** Small PDUs come in batches, so staging takes many bytes at once, and what it took of a data
//! segment is copied: a system call for each would cost more. Behind a large data segment, and while large R2Ts are out,
//! the next PDU is likely to be a large one, too: then only a header is read ahead, and its data lands without a copy. So
//! it begins, and a connection returns to batches when small commands have come for a while.

use spindle_iscsi_wire::bhs::{self, ahs_bytes, data_bytes};
use spindle_iscsi_wire::{Bhs, InitiatorOpcode, LoginStatus, RejectReason};
use spindle_mem::{Key, Sgv};
use spindle_net::{ConnId, Net};
use spindle_scsi_port::Mid;

use crate::conn::{Conn, ConnState, Rx, Segment, Sink};
use crate::digest::{self, Crc32c};
use crate::planted::{self, Bug};
use crate::task::{Phase, Task};
use crate::transport::{IscsiTransport, PDUS_A_TURN};

/// Staged at once when small PDUs are expected: fifteen writes of 4 KiB, or a thousand reads.
const BATCH_BYTES: u32 = 64 * 1024;
/// For so many small PDUs after a large data segment, headers are read one by one, so that the next such segment lands
/// without a copy although reads come between: a receive more is cheap beside a copy.
pub(crate) const WARY_PDUS: u8 = 32;
/// A data segment from here on is large: to copy a smaller one costs less than the two receives, or three, that are made of one
/// where headers are read one by one.
pub(crate) const LARGE_BYTES: u32 = 48 * 1024;
/// Beside a read of so much a receive more costs nothing.
pub(crate) const LARGE_READ_BYTES: u32 = 64 * 1024;

/// What to do with the data segment of a PDU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub sink: Sink,
    pub task: Option<Key<Task>>,
}

impl Plan {
    pub(crate) const DROP: Plan = Plan { sink: Sink::Drop, task: None };
    pub(crate) const COLLECT: Plan = Plan { sink: Sink::Collect, task: None };
}

impl<N: Net> IscsiTransport<N> {
    /// Reads what is staged on a connection, as far as its budget for a turn goes.
    pub(crate) fn receive<M: Mid>(&mut self, id: ConnId, mid: &mut M) {
        let Some(mut conn) = self.take_conn(id) else { return };
        self.receive_from(&mut conn, mid);
        self.put_conn(conn);
    }

    /// The same, for a connection that is out of its table.
    pub(crate) fn receive_from<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) {
        conn.handed = conn.stat_sn;
        conn.budget = PDUS_A_TURN;
        while conn.is_reading() {
            let went_on = match conn.rx {
                Rx::Header if conn.budget == 0 => {
                    self.again(conn);
                    break;
                }
                Rx::Header => {
                    conn.budget -= 1;
                    match self.quick(conn, mid) {
                        Some(went_on) => went_on,
                        None => self.header(conn, mid),
                    }
                }
                Rx::Segment(_) => self.segment(conn, mid),
            };
            if !went_on && !self.fetch(conn) {
                break;
            }
        }
        if !conn.like.on && conn.like.lent > 0 {
            self.take_lent(conn, mid);
        }
        self.serve_line(conn);
        if conn.is_reading() {
            // Whatever it was that was answered: a peer that does not take its answers is not read.
            self.stall(conn);
            self.tune(conn);
        }
    }

    /// Nothing is left of what was read, or not enough: more may have come than one read took, and what was received
    /// ahead is only shown to who asks, be it a header or data that lands nowhere. `true`: there is more.
    fn fetch(&mut self, conn: &mut Conn) -> bool {
        let landing = matches!(&conn.rx, Rx::Segment(Segment { sink: Sink::Land(..), .. }));
        let header = matches!(conn.rx, Rx::Header);
        if landing || !conn.is_reading() || planted::on(Bug::AheadUnseen) && !header {
            return false;
        }
        if self.alone && conn.is_time_to_answer() {
            self.net.send_now(conn.id);
        }
        self.tune(conn);
        let before = self.net.bytes(conn.id).len();
        self.net.read_more(conn.id) && self.net.bytes(conn.id).len() > before
    }

    /// Tells the Net how far to read.
    fn tune(&mut self, conn: &mut Conn) {
        let wary = conn.wary > 0 || conn.like.lent > 0 || {
            let session = conn.session.and_then(|key| self.sessions.get(key));
            session.is_some_and(|s| s.large_r2ts > 0)
        };
        let want = match &conn.rx {
            Rx::Header if !wary => BATCH_BYTES,
            Rx::Header => conn.header_bytes().saturating_sub(self.staged(conn)),
            Rx::Segment(s) => {
                let landing = matches!(s.sink, Sink::Land(..));
                let tail = u32::from(s.pad) + if s.digest { 4 } else { 0 };
                let next = conn.header_bytes() + tail;
                let want = match (wary, landing) {
                    (false, _) => BATCH_BYTES,
                    (true, true) => next,
                    (true, false) => next.saturating_sub(self.staged(conn)),
                };
                // Collected, kept or dropped: the data itself goes through staging.
                if landing { want } else { want.max((s.left + tail).min(BATCH_BYTES)) }
            }
        };
        let want = want.max(conn.needed).max(1);
        if want != conn.ahead {
            conn.ahead = want;
            self.net.read_ahead(conn.id, want);
        }
    }

    /// Bytes that were received and are not read.
    fn staged(&self, conn: &Conn) -> u32 {
        self.net.bytes(conn.id).len() as u32
    }

    /// Takes a header, if all that belongs to it is there.
    fn header<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) -> bool {
        let staged = self.net.bytes(conn.id);
        conn.needed = 0;
        let Some(bhs) = staged.first_chunk::<48>() else {
            conn.needed = 48 - staged.len() as u32;
            return false;
        };
        let bhs: Bhs = *bhs;
        let ahs = ahs_bytes(&bhs) as usize;
        let digest = if conn.digests.header { 4 } else { 0 };
        let total = 48 + ahs + digest;
        if staged.len() < total {
            conn.needed = (total - staged.len()) as u32;
            return false;
        }
        let sound = digest == 0 || digest::of_header(&staged[..48 + ahs]) == staged[48 + ahs..total];
        conn.bhs = bhs;
        conn.ahs.clear();
        if ahs > 0 {
            conn.ahs.extend_from_slice(&staged[48..48 + ahs]);
        }
        self.net.consume(conn.id, total as u32);
        if !sound {
            // RFC 7143 §7.7: without a header there is no telling where the next PDU begins.
            self.counters.header_digest_errors += 1;
            self.drop_conn(conn, mid);
            return false;
        }
        conn.heard = self.now;
        let len = data_bytes(&bhs);
        let plan = match &conn.state {
            ConnState::Login(_) => self.during_login(conn, mid, len),
            ConnState::Full if len > conn.max_recv => {
                // RFC 7143 §13.12: longer than we declared.
                if self.counts_though_refused(conn) {
                    self.reject(conn, RejectReason::InvalidPduField);
                }
                Plan::DROP
            }
            ConnState::Full => self.dispatch(conn, mid),
            ConnState::Claiming(_) | ConnState::Closing => return false,
        };
        if matches!(conn.state, ConnState::Closing) {
            return false;
        }
        self.segment_follows(conn, plan, mid)
    }

    /// A header was read, and this is the plan for what follows it.
    pub(crate) fn segment_follows<M: Mid>(&mut self, conn: &mut Conn, plan: Plan, mid: &mut M) -> bool {
        let len = data_bytes(&conn.bhs);
        // RFC 7143 §11.3.4: Expected Data Transfer Length, in a command.
        let is_command = InitiatorOpcode::of(&conn.bhs) == Some(InitiatorOpcode::ScsiCommand);
        let edtl = if is_command { bhs::be32(&conn.bhs, 20) } else { 0 };
        conn.passed(if plan.task.is_some() { len } else { 0 }, edtl);
        // What a WRITE was not sent with comes later, and counts then. RFC 7143 §11.3.1: bit R.
        conn.charge(if conn.bhs[1] & 0x40 != 0 { edtl } else { len });
        // All of it comes with the command.
        let whole = is_command && matches!(plan.sink, Sink::Land(0, to) if to == edtl);
        self.like(conn, if whole { len } else { 0 }, mid);
        if len == 0 {
            self.data_complete(conn, plan, true, mid);
            return true;
        }
        let checked = conn.digests.data && (plan.task.is_some() || plan.sink == Sink::Collect);
        conn.rx = Rx::Segment(Segment {
            sink: plan.sink,
            task: plan.task,
            left: len,
            pad: bhs::pad(len) as u8,
            digest: conn.digests.data,
            crc: checked.then(Crc32c::new),
        });
        true
    }

    /// A PDU before full feature phase: a Login Request, or the end.
    fn during_login<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M, len: u32) -> Plan {
        let is_login = InitiatorOpcode::of(&conn.bhs) == Some(InitiatorOpcode::LoginRequest);
        if !is_login || len > crate::login::LOGIN_TEXT_MAX {
            if is_login {
                self.refuse(conn, LoginStatus::INITIATOR_ERROR);
            } else if conn.stat_sn.0 > 1 {
                // RFC 7143 §6.3.1: within a login, nothing but login.
                self.refuse(conn, LoginStatus::INVALID_DURING_LOGIN);
            } else {
                self.drop_conn(conn, mid);
            }
            return Plan::DROP;
        }
        conn.collected.clear();
        Plan::COLLECT
    }

    /// Takes the data segment as far as it is there.
    fn segment<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) -> bool {
        loop {
            let Rx::Segment(segment) = &mut conn.rx else { return true };
            if segment.left > 0 {
                if let Sink::Land(from, to) = segment.sink {
                    let key = segment.task;
                    if !self.land(conn, key, from, to, mid) {
                        return false;
                    }
                    continue;
                }
                let staged = self.net.bytes(conn.id);
                let take = staged.len().min(segment.left as usize);
                if take == 0 {
                    return false;
                }
                let part = &staged[..take];
                if let Some(crc) = &mut segment.crc {
                    crc.update(part);
                }
                match segment.sink {
                    Sink::Collect => conn.collected.extend_from_slice(part),
                    Sink::Keep => {
                        let kept = segment.task.and_then(|key| self.tasks.get_mut(key));
                        if let Some(kept) = kept.and_then(|t| t.kept.as_mut()) {
                            kept.extend_from_slice(part);
                            self.counters.reserved_bytes += take as u64;
                        }
                    }
                    Sink::Drop | Sink::Land(..) => self.counters.sunk_bytes += take as u64,
                }
                segment.left -= take as u32;
                self.net.consume(conn.id, take as u32);
                continue;
            }
            let (pad, digest) = (usize::from(segment.pad), segment.digest);
            let tail = pad + if digest { 4 } else { 0 };
            let staged = self.net.bytes(conn.id);
            if staged.len() < tail {
                conn.needed = (tail - staged.len()) as u32;
                return false;
            }
            conn.needed = 0;
            let sound = match segment.crc.take() {
                Some(mut crc) => {
                    crc.update(&staged[..pad]);
                    crc.finish() == staged[pad..tail]
                }
                None => true,
            };
            let plan = Plan { sink: segment.sink, task: segment.task };
            if tail > 0 {
                self.net.consume(conn.id, tail as u32);
            }
            conn.rx = Rx::Header;
            self.data_complete(conn, plan, sound, mid);
            return true;
        }
    }

    /// Has the next bytes land in the task's vector. `false`: they are on their way.
    fn land<M: Mid>(
        &mut self,
        conn: &mut Conn,
        key: Option<Key<Task>>,
        from: u32,
        to: u32,
        mid: &mut M,
    ) -> bool {
        let Some(task) = key.and_then(|key| self.tasks.get_mut(key)) else {
            // The task is gone (its session ended): the rest is dropped.
            if let Rx::Segment(s) = &mut conn.rx {
                s.sink = Sink::Drop;
            }
            return true;
        };
        let Some(buf) = task.buf.take() else {
            // With the Net since an earlier turn.
            return false;
        };
        task.landing = true;
        self.lend_like(conn, &buf, mid);
        match self.net.land(conn.id, buf, from..to) {
            Some(buf) => {
                self.landed(conn, buf);
                true
            }
            None => false,
        }
    }

    /// What had to land has landed, all of it.
    fn landed(&mut self, conn: &mut Conn, buf: Sgv) {
        let Rx::Segment(segment) = &mut conn.rx else { return };
        let Sink::Land(from, to) = segment.sink else { return };
        if let Some(crc) = &mut segment.crc {
            for slice in buf.slices(from..to) {
                crc.update(slice);
            }
        }
        segment.left -= to - from;
        // What is offered beyond what is wanted is read and dropped.
        segment.sink = Sink::Drop;
        if let Some(task) = segment.task.and_then(|key| self.tasks.get_mut(key)) {
            task.landing = false;
            task.buf = Some(buf);
        }
    }

    /// The Net gives a vector back in a later turn: full, or because the connection has ended.
    pub(crate) fn landed_late<M: Mid>(&mut self, conn: &mut Conn, buf: Sgv, mid: &mut M) {
        let Rx::Segment(segment) = &mut conn.rx else {
            mid.returned(buf);
            return;
        };
        let key = segment.task;
        let Some(task) = key.and_then(|key| self.tasks.get_mut(key)) else {
            segment.sink = Sink::Drop;
            mid.returned(buf);
            return;
        };
        if task.revoke_on_return {
            task.revoke_on_return = false;
            task.landing = false;
            let (id, key) = (task.mid, segment.task);
            if let Sink::Land(from, to) = segment.sink {
                segment.left -= to - from;
                segment.sink = Sink::Drop;
            }
            if let Some(key) = key {
                self.task_ended(key);
            }
            mid.revoked(id, Some(buf));
            return;
        }
        if conn.gone {
            // Not whole. The task keeps its vector until the mid-level asks for it back.
            task.landing = false;
            task.buf = Some(buf);
            segment.sink = Sink::Drop;
            return;
        }
        self.landed(conn, buf);
    }

    /// Where the data of a PDU of a task goes: `len` bytes at `at`.
    pub(crate) fn plan_data(&mut self, key: Key<Task>, at: u32, len: u32) -> Plan {
        let limits = &self.config.limits;
        let Some(task) = self.tasks.get_mut(key) else { return Plan::DROP };
        let sink = match task.phase {
            Phase::Receiving if at < task.wanted && task.failed.is_none() && task.kept.is_none() => {
                Sink::Land(at, at.saturating_add(len).min(task.wanted))
            }
            Phase::Waiting if task.failed.is_none() => {
                let own = self.sessions.get_mut(task.session).map(|session| &mut session.reserve_used);
                let own = own.filter(|used| used.saturating_add(len) <= limits.unsolicited_reserve_bytes);
                let common = self.reserve_common_used.saturating_add(len);
                if let Some(used) = own {
                    *used += len;
                    task.reserved += len;
                    task.kept.get_or_insert_with(Vec::new);
                    Sink::Keep
                } else if common <= limits.unsolicited_common_bytes {
                    self.reserve_common_used = common;
                    task.reserved_common += len;
                    task.kept.get_or_insert_with(Vec::new);
                    Sink::Keep
                } else {
                    // No room even for that: what comes is dropped, and the command ends when all of it has come.
                    task.failed = Some(spindle_scsi_port::ReceiveError::NoRoom);
                    Sink::Drop
                }
            }
            _ => Sink::Drop,
        };
        Plan { sink, task: Some(key) }
    }

    /// The whole PDU is here.
    fn data_complete<M: Mid>(&mut self, conn: &mut Conn, plan: Plan, sound: bool, mid: &mut M) {
        if !sound {
            self.counters.data_digest_errors += 1;
            if let Some(session) = conn.session.and_then(|key| self.sessions.get_mut(key)) {
                session.counters.digest_errors += 1;
            }
            // RFC 7143 §7.8: said with a Reject whatever becomes of the task.
            self.reject(conn, RejectReason::DataDigestError);
        }
        self.finish(conn, plan, sound, mid);
        // A PDU that came early may have its turn now.
        while matches!(conn.state, ConnState::Full) && matches!(conn.rx, Rx::Header) {
            let next = conn.session.and_then(|key| self.sessions.get_mut(key)).and_then(|s| s.next_parked());
            let Some(parked) = next else { break };
            conn.bhs = parked.bhs;
            conn.ahs = parked.ahs;
            let Some(kind) = InitiatorOpcode::of(&conn.bhs) else { continue };
            let plan = self.deliver(conn, kind, mid);
            self.finish(conn, plan, true, mid);
        }
    }

    fn finish<M: Mid>(&mut self, conn: &mut Conn, plan: Plan, sound: bool, mid: &mut M) {
        match plan {
            Plan { task: Some(key), .. } => self.task_data(conn, key, sound, mid),
            Plan { sink: Sink::Collect, .. } if sound => self.collected(conn),
            _ => {}
        }
    }
}
