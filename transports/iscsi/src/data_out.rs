//! Data-Out: immediate and unsolicited data, R2T, and what comes back for it.
//!
//! Data comes in order (DataPDUInOrder and DataSequenceInOrder are Yes): of a task's R2Ts the oldest is
//! answered first, so *which burst is coming now* is two numbers, and every header is checked against them
//! before its data lands.

use spindle_iscsi_wire::bhs::{data_bytes, opcode};
use spindle_iscsi_wire::{DataOut, InitiatorOpcode, R2t, RejectReason, SerialNumber, Ttt};
use spindle_mem::{Key, Sgv};
use spindle_net::Net;
use spindle_scsi_port::{Mid, Outcome, ReceiveError, TaskId};

use crate::conn::{Conn, Sink};
use crate::planted::{self, Bug};
use crate::rx::Plan;
use crate::task::{self, Phase, SEQUENCE, Task};
use crate::transport::{IscsiTransport, is_sink};

impl<N: Net> IscsiTransport<N> {
    /// A Data-Out header: whose is it, and does it fit?
    pub(crate) fn data_out(&mut self, conn: &mut Conn) -> Plan {
        let d = DataOut::parse(&conn.bhs);
        let solicited = d.ttt != Ttt::RESERVED;
        let key = if solicited { self.holder(conn, &d) } else { self.unsolicited(conn, &d) };
        let Some(key) = key else {
            // No such task, or none that expects this: RFC 7143 §11.17.1, protocol error.
            self.counters.stale_tags += 1;
            self.reject(conn, RejectReason::ProtocolError);
            return Plan::DROP;
        };
        let Some(task) = self.tasks.get_mut(key) else { return Plan::DROP };
        let end = task.arrived.checked_add(d.data_len);
        let limit = if solicited { task.burst_end } else { task.unsolicited_max };
        let in_order = d.buffer_offset == task.arrived && d.data_sn == SerialNumber(task.data_sn);
        let fits = end.is_some_and(|end| end <= limit);
        if task.failed.is_none() && !(in_order && fits) {
            // The task fails when all that was asked for has passed (RFC 7143 §7.8, §7.9).
            let too_much = in_order && !solicited;
            task.failed =
                Some(if too_much { ReceiveError::UnexpectedUnsolicited } else { ReceiveError::Protocol });
        }
        let at = task.arrived;
        let plan = self.plan_data(key, at, d.data_len);
        if let Some(session) = conn.session.and_then(|key| self.sessions.get_mut(key)) {
            session.counters.write_bytes += u64::from(d.data_len);
        }
        plan
    }

    /// The task a transfer tag stands for.
    fn holder(&self, conn: &Conn, d: &DataOut) -> Option<Key<Task>> {
        let (slot, sequence, generation) = task::parts(d.ttt);
        let key = self.tasks.key_at(slot).filter(|key| task::is_current(*key, generation))?;
        let task = self.tasks.get(key)?;
        let planted = planted::on(Bug::StaleTtt);
        let same = Some(task.session) == conn.session && (task.itt == d.itt || planted);
        (same && task.outstanding > 0 && (task.head_seq == sequence || planted)).then_some(key)
    }

    /// The task unsolicited data belongs to.
    fn unsolicited(&self, conn: &Conn, d: &DataOut) -> Option<Key<Task>> {
        let session = self.sessions.get(conn.session?)?;
        let key = session.find(&self.tasks, d.itt)?;
        self.tasks.get(key)?.unsolicited_open.then_some(key)
    }

    /// All of a PDU with data for a task (or of a command without) is in.
    pub(crate) fn task_data<M: Mid>(&mut self, conn: &mut Conn, key: Key<Task>, sound: bool, mid: &mut M) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let len = data_bytes(&conn.bhs);
        if !sound {
            task.failed.get_or_insert(ReceiveError::Digest);
        }
        task.arrived = task.arrived.saturating_add(len);
        if opcode(&conn.bhs) == InitiatorOpcode::DataOut as u8 {
            let d = DataOut::parse(&conn.bhs);
            task.data_sn = task.data_sn.wrapping_add(1);
            if d.ttt == Ttt::RESERVED {
                if d.is_final {
                    task.unsolicited_open = false;
                    task.data_sn = 0;
                }
            } else {
                self.burst_data(key, d.is_final);
                self.settle(key);
            }
        } else if len > 0
            && let Some(session) = conn.session.and_then(|key| self.sessions.get_mut(key))
        {
            session.counters.write_bytes += u64::from(len);
        }
        self.advance(conn, key, mid);
    }

    /// A PDU of a burst is in: is the burst over?
    fn burst_data(&mut self, key: Key<Task>, is_final: bool) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let full = task.arrived >= task.burst_end;
        // RFC 7143 §11.7.1: F ends the sequence, and the sequence is as long as was asked for.
        if is_final != full {
            task.failed.get_or_insert(ReceiveError::Protocol);
        }
        if !is_final && !full {
            return;
        }
        task.data_sn = 0;
        task.outstanding -= 1;
        task.head_seq = task.head_seq.wrapping_add(1) & SEQUENCE;
        task.arrived = task.burst_end;
        let (session, large) = (task.session, u32::from(task.is_large()));
        if let Some(session) = self.sessions.get_mut(session) {
            session.large_r2ts = session.large_r2ts.saturating_sub(large);
            task.burst_end = task.burst_end.saturating_add(task.piece).min(task.asked);
        }
    }

    /// What came for a task, or will come no more, makes room for other R2Ts.
    fn settle(&mut self, key: Key<Task>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let Some(session) = self.sessions.get_mut(task.session) else { return };
        let is_sink = task.phase == Phase::Sink;
        let left = if task.outstanding == 0 || is_sink { 0 } else { task.asked.saturating_sub(task.arrived) };
        let settled = task.solicited.saturating_sub(left);
        task.solicited -= settled;
        session.solicit.settled(settled);
    }

    /// Gives R2Ts to those in line, as far as there is room.
    pub(crate) fn serve_line(&mut self, conn: &mut Conn) {
        let Some(key) = conn.session else { return };
        let limits = &self.config.limits;
        let bounds = (limits.solicited_min, limits.solicited_max);
        let Some(session) = self.sessions.get_mut(key).filter(|s| s.solicit.has_line()) else { return };
        session.solicit.measure(self.now, bounds, || self.net.round_trip_us(conn.id));
        while let Some(next) = self.sessions.get_mut(key).and_then(|s| s.solicit.next()) {
            self.send_r2ts(conn, next, true);
        }
    }

    /// Goes on with a task as far as its data allows.
    pub(crate) fn advance<M: Mid>(&mut self, conn: &mut Conn, key: Key<Task>, mid: &mut M) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let id = task.mid;
        match task.phase {
            Phase::WithMid => {}
            Phase::Sink => {
                if !task.expects_data() {
                    self.free_sink(key);
                    self.release_held();
                }
            }
            Phase::Swallowing => {
                if !task.unsolicited_open {
                    task.phase = Phase::WithMid;
                    mid.swallowed(id);
                }
            }
            Phase::Waiting => {
                if let (Some(why), false) = (task.failed, task.unsolicited_open) {
                    task.phase = Phase::WithMid;
                    self.forget_kept(key);
                    mid.receive_failed(id, None, why);
                }
            }
            Phase::Receiving => self.advance_receiving(conn, key, id, mid),
        }
    }

    fn advance_receiving<M: Mid>(&mut self, conn: &mut Conn, key: Key<Task>, id: TaskId, mid: &mut M) {
        self.unpack_kept(key);
        let Some(task) = self.tasks.get_mut(key) else { return };
        if task.unsolicited_open {
            return;
        }
        if let Some(why) = task.failed {
            if task.outstanding == 0 {
                task.phase = Phase::WithMid;
                let buf = task.buf.take();
                mid.receive_failed(id, buf, why);
            }
            return;
        }
        if task.arrived >= task.wanted && task.outstanding == 0 {
            task.phase = Phase::WithMid;
            let buf = task.buf.take();
            let Some(buf) = buf else {
                debug_assert!(false, "a task that receives has its vector between PDUs");
                return;
            };
            if mid.received_at_once(id, buf) {
                let (itt, r2ts) = (task.itt, task.r2t_sn);
                self.task_ended(key);
                self.send_status(conn, itt, &Outcome::GOOD, r2ts);
                self.stall(conn);
            }
            return;
        }
        task.asked = task.asked.max(task.arrived);
        if !task.in_line {
            self.send_r2ts(conn, key, false);
        }
    }

    /// Asks for what is missing, as far as MaxOutstandingR2T and what is out already ([`crate::solicit`]) allow.
    fn send_r2ts(&mut self, conn: &mut Conn, key: Key<Task>, its_turn: bool) {
        if conn.session.is_none() {
            // Its session is ending (TARGET COLD RESET): the task is about to be revoked, and there is no window to
            // tell of any more.
            return;
        }
        let (exp_cmd_sn, max_cmd_sn) = self.window(conn);
        let Some(task) = self.tasks.get_mut(key) else { return };
        let Some(session) = self.sessions.get_mut(task.session) else { return };
        let outstanding_max = session.params.max_outstanding_r2t.clamp(1, 32) as u8;
        task.in_line = false;
        while task.outstanding < outstanding_max && task.asked < task.wanted {
            let begun = task.piece > 0;
            if !session.solicit.has_room() || !(begun || its_turn) && session.solicit.has_line() {
                // Data of its own that comes gives it another try.
                if task.outstanding == 0 {
                    task.in_line = true;
                    session.solicit.wait(key, begun);
                }
                break;
            }
            if !begun {
                task.piece = session.solicit.piece(session.params.max_burst_length);
            }
            let len = task.piece.min(task.wanted - task.asked);
            session.solicit.asked(len);
            task.solicited += len;
            let sequence = task.head_seq.wrapping_add(task.outstanding) & SEQUENCE;
            let pdu = R2t {
                lun: task.lun,
                itt: task.itt,
                ttt: task::ttt(key, sequence),
                // RFC 7143 §11.8: the next StatSN, which an R2T does not use up.
                stat_sn: conn.stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                r2t_sn: SerialNumber(task.r2t_sn),
                buffer_offset: task.asked,
                desired_len: len,
            };
            if task.outstanding == 0 {
                task.burst_end = task.asked + len;
            }
            task.asked += len;
            task.outstanding += 1;
            task.r2t_sn = task.r2t_sn.wrapping_add(1);
            session.large_r2ts += u32::from(task.is_large());
            let bhs = pdu.to_bhs();
            let mut head = [0u8; 52];
            head[..48].copy_from_slice(&bhs);
            let len = if conn.digests.header { 52 } else { 48 };
            if conn.digests.header {
                head[48..].copy_from_slice(&crate::digest::of_header(&bhs));
            }
            self.net.send(conn.id, &head[..len], None, &[]);
        }
    }

    /// Memory for a task that waited.
    pub(crate) fn on_memory<M: Mid>(&mut self, id: TaskId, cookie: u32, buf: Sgv, mid: &mut M) {
        let key = Key::<Task>::from_bits(cookie);
        let task = key.and_then(|k| self.tasks.get_mut(k));
        let (Some(key), Some(task)) = (key, task) else { return mid.returned(buf) };
        if task.mid != id || task.phase != Phase::Waiting {
            return mid.returned(buf);
        }
        task.phase = Phase::Receiving;
        task.wanted = buf.len();
        task.buf = Some(buf);
        let conn_id = task.conn;
        let Some(mut conn) = self.take_conn(conn_id) else { return };
        conn.held = false;
        // A PDU of its unsolicited data may be half in its reserve: its end goes on with the task.
        if conn.segment_of(key).is_none() {
            self.advance(&mut conn, key, mid);
        }
        if planted::on(Bug::ReaderStops) {
            self.again(&mut conn);
        }
        self.put_conn(conn);
    }

    /// The mid-level wants no more of a task: its vector goes back at once, or as soon as nobody can write it.
    pub(crate) fn revoke<M: Mid>(&mut self, id: TaskId, cookie: u32, mid: &mut M) {
        let key = Key::<Task>::from_bits(cookie);
        let known = key.and_then(|k| self.tasks.get_mut(k)).filter(|t| !is_sink(t) && t.mid == id);
        let (Some(key), Some(task)) = (key, known) else { return mid.revoked(id, None) };
        let (conn_id, mut buf, landing) = (task.conn, task.buf.take(), task.landing);
        if let Some(mut conn) = self.take_conn(conn_id) {
            let unlanded = if landing { self.net.unland(conn_id) } else { None };
            if landing && unlanded.is_none() {
                // Full already; the Net reports it with its next events.
                if let Some(task) = self.tasks.get_mut(key) {
                    task.revoke_on_return = true;
                }
                self.put_conn(conn);
                return;
            }
            if let Some(segment) = conn.segment_of(key) {
                if let (Sink::Land(from, _), Some((_, upto))) = (segment.sink, &unlanded) {
                    segment.left -= upto - from;
                }
                segment.sink = Sink::Drop;
                segment.crc = None;
            }
            if let Some((back, _)) = unlanded {
                buf = Some(back);
                self.again(&mut conn);
            }
            self.put_conn(conn);
        }
        if let Some(task) = self.tasks.get_mut(key) {
            task.landing = false;
        }
        self.task_ended(key);
        mid.revoked(id, buf);
    }

    /// The mid-level is done with a task. What the initiator may still send for it goes to a sink.
    #[inline]
    pub(crate) fn task_ended(&mut self, key: Key<Task>) {
        let Some(task) = self.tasks.get(key) else { return };
        debug_assert!(task.buf.is_none(), "a task that ends has no vector");
        if task.expects_data() || task.in_line || task.reserved > 0 || task.kept.is_some() {
            return self.receiver_ended(key);
        }
        if let Some(session) = self.sessions.get_mut(task.session) {
            session.in_flight -= u32::from(task.numbered);
            session.delist(&mut self.tasks, key);
        }
        self.tasks.discard(key);
    }

    /// As [`Self::task_ended`], for a task that held unsolicited data or was still to get some.
    #[cold]
    fn receiver_ended(&mut self, key: Key<Task>) {
        self.forget_kept(key);
        let until = self.now.plus_ms(self.config.limits.sink_ms);
        let Some(task) = self.tasks.get_mut(key) else { return };
        if std::mem::take(&mut task.in_line)
            && let Some(session) = self.sessions.get_mut(task.session)
        {
            session.solicit.leave(key);
        }
        if !task.expects_data() {
            return self.task_ended(key);
        }
        task.phase = Phase::Sink;
        // The initiator may send what it was asked for, or not (RFC 7143 §11.5.1): nobody waits for it.
        let conn = task.conn;
        self.settle(key);
        self.unblocked.push(conn);
        let Some(task) = self.tasks.get_mut(key) else { return };
        if let Some(session) = self.sessions.get_mut(task.session) {
            session.in_flight -= u32::from(task.numbered);
            session.sinks += 1;
        }
        self.sinks.push_back((key, until));
    }

    /// Nothing more is expected for a task that had ended, or nobody waits any longer.
    pub(crate) fn free_sink(&mut self, key: Key<Task>) {
        let Some(task) = self.tasks.get(key).filter(|t| is_sink(t)) else { return };
        let large_r2ts = if task.is_large() { u32::from(task.outstanding) } else { 0 };
        let session = task.session;
        if let Some(session) = self.sessions.get_mut(session) {
            session.delist(&mut self.tasks, key);
            session.sinks = session.sinks.saturating_sub(1);
            session.large_r2ts = session.large_r2ts.saturating_sub(large_r2ts);
        }
        self.tasks.remove(key);
        while self.sinks.front().is_some_and(|(k, _)| !self.tasks.contains(*k)) {
            self.sinks.pop_front();
        }
    }

    /// Puts what was kept for a task into its vector.
    fn unpack_kept(&mut self, key: Key<Task>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if let (Some(kept), Some(buf)) = (&task.kept, &mut task.buf) {
            let take = kept.len().min(buf.len() as usize);
            buf.copy_payload_from(0, &kept[..take]);
            self.forget_kept(key);
        }
    }

    fn forget_kept(&mut self, key: Key<Task>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.kept = None;
        let bytes = std::mem::take(&mut task.reserved);
        self.reserve_common_used -= std::mem::take(&mut task.reserved_common);
        if let Some(session) = self.sessions.get_mut(task.session) {
            session.reserve_used = session.reserve_used.saturating_sub(bytes);
        }
    }
}
