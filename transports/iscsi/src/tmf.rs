//! Task management at the level of iSCSI (RFC 7143 §11.5, §11.6, §4.2.3).
//!
//! The mid-level ends tasks and says when they have ended. What is decided here is what needs the
//! transport's own knowledge: which command a tag means, whether one that was named has not even arrived,
//! and how long an answer waits for Data-Out that is still on its way.

use spindle_iscsi_wire::{
    Itt, RejectReason, TmfFunction as WireFunction, TmfRequest, TmfResponse as TmfResponsePdu, TmfResult,
};
use spindle_mem::Key;
use spindle_net::{Close, ConnId, Net};
use spindle_reactor::{CoreId, Tick};
use spindle_scsi_port::{Mid, TaskTag, Tmf, TmfFunction, TmfId, TmfResponse};
use spindle_scsi_spec::Lun;

use crate::conn::Conn;
use crate::directory::ConnMsg;
use crate::planted::{self, Bug};
use crate::session::Session;
use crate::transport::{IscsiTransport, is_sink};

/// A task management request the mid-level has not answered yet.
#[derive(Clone, Copy, Debug)]
pub struct TmfSlot {
    /// Whose.
    pub session: Key<Session>,
    /// Where the answer goes.
    pub conn: ConnId,
    /// Its tag.
    pub itt: Itt,
    /// What it asks for.
    pub function: TmfFunction,
}

/// An answer that waits for Data-Out.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Whose.
    pub session: Key<Session>,
    slot: TmfSlot,
    result: TmfResult,
    until: Tick,
}

impl<N: Net> IscsiTransport<N> {
    /// A task management request, in its turn.
    pub(crate) fn tmf_request<M: Mid>(&mut self, conn: &mut Conn, r: &TmfRequest, mid: &mut M) {
        let Some(key) = conn.session else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(nexus) = session.nexus else { return };
        session.counters.tmfs += 1;
        let tag = TaskTag(u64::from(r.referenced_itt.0));
        let new = session.params.protocol_level >= 2;
        let function = match r.function {
            WireFunction::AbortTask => TmfFunction::AbortTask(tag),
            WireFunction::AbortTaskSet => TmfFunction::AbortTaskSet,
            WireFunction::ClearTaskSet => TmfFunction::ClearTaskSet,
            WireFunction::LogicalUnitReset => TmfFunction::LogicalUnitReset,
            WireFunction::TargetWarmReset => TmfFunction::TargetWarmReset,
            WireFunction::TargetColdReset => TmfFunction::TargetColdReset,
            WireFunction::QueryTask if new => TmfFunction::QueryTask(tag),
            WireFunction::QueryTaskSet if new => TmfFunction::QueryTaskSet,
            WireFunction::ItNexusReset if new => TmfFunction::ITNexusReset,
            WireFunction::QueryAsyncEvent if new => TmfFunction::QueryAsyncEvent,
            // ErrorRecoveryLevel 2 would move tasks to another connection.
            WireFunction::TaskReassign => {
                return self.send_tmf(conn, r.itt, TmfResult::ReassignmentNotSupported);
            }
            // NormACA is 0, so there is no ACA condition to clear.
            _ => return self.send_tmf(conn, r.itt, TmfResult::NotSupported),
        };
        if let TmfFunction::AbortTask(_) = function {
            let found = session.find(&self.tasks, r.referenced_itt);
            if found.and_then(|k| self.tasks.get(k)).is_none_or(is_sink) {
                // RFC 7143 §11.6.1: a command that has not arrived but lies inside the window, before this
                // request, counts as arrived and aborted; when it comes it is ignored.
                let ahead = r.ref_cmd_sn.lt(r.cmd_sn);
                let parked = session.parked.iter().position(|p| p.cmd_sn == r.ref_cmd_sn);
                let result = if let Some(at) = parked.filter(|_| ahead) {
                    session.parked.swap_remove(at);
                    TmfResult::Complete
                } else if ahead && session.mark(r.ref_cmd_sn) {
                    TmfResult::Complete
                } else {
                    TmfResult::TaskDoesNotExist
                };
                return self.send_tmf(conn, r.itt, result);
            }
        }
        let slot = TmfSlot { session: key, conn: conn.id, itt: r.itt, function };
        if planted::on(Bug::TmfOvertakes) {
            self.send_tmf(conn, r.itt, TmfResult::Complete);
        }
        let room = session_room(self.sessions.get(key), self.config.limits.tmfs_per_session_max);
        let Some(tmf) = room.then(|| self.tmfs.insert(slot).ok()).flatten() else {
            let reason =
                if r.immediate { RejectReason::TooManyImmediate } else { RejectReason::OutOfResources };
            return self.reject(conn, reason);
        };
        if let Some(session) = self.sessions.get_mut(key) {
            session.tmfs += 1;
        }
        mid.task_management(&Tmf { id: TmfId(tmf.bits()), nexus, lun: Lun::from_bytes(r.lun), function });
    }

    /// The mid-level's answer: every task concerned has ended.
    pub(crate) fn tmf_done(&mut self, id: TmfId, response: TmfResponse) {
        let Some(slot) = Key::from_bits(id.0).and_then(|key| self.tmfs.remove(key)) else { return };
        let Some(session) = self.sessions.get_mut(slot.session) else { return };
        session.tmfs = session.tmfs.saturating_sub(1);
        let result = match response {
            TmfResponse::Complete => TmfResult::Complete,
            TmfResponse::TaskDoesNotExist => TmfResult::TaskDoesNotExist,
            TmfResponse::LunDoesNotExist => TmfResult::LunDoesNotExist,
            TmfResponse::NotSupported => TmfResult::NotSupported,
            TmfResponse::Rejected => TmfResult::Rejected,
            TmfResponse::Succeeded => TmfResult::Succeeded,
        };
        // RFC 7143 §4.2.3.3: for functions that end several tasks the answer waits until the initiator has
        // sent what the transfer tags of those tasks asked for.
        let many = matches!(
            slot.function,
            TmfFunction::AbortTaskSet
                | TmfFunction::ClearTaskSet
                | TmfFunction::LogicalUnitReset
                | TmfFunction::TargetWarmReset
                | TmfFunction::TargetColdReset
                | TmfFunction::ITNexusReset
        );
        if many && session.sinks > 0 {
            let until = self.now.plus_ms(self.config.limits.abort_data_wait_ms);
            self.held.push(Held { session: slot.session, slot, result, until });
            self.wake_by(until);
            return;
        }
        self.answer_tmf(&slot, result);
    }

    /// Sends answers whose wait is over; tells when the next one is due.
    pub(crate) fn release_held(&mut self) -> Option<Tick> {
        let mut next: Option<Tick> = None;
        let mut at = 0;
        while let Some(held) = self.held.get(at).copied() {
            let open = self.sessions.get(held.session).is_some_and(|s| s.sinks > 0);
            // The connection may be in use above; then the sweep sends it.
            let here = self.conn(held.slot.conn).is_some();
            if here && (!open || self.now >= held.until) {
                self.held.swap_remove(at);
                self.answer_tmf(&held.slot, held.result);
            } else {
                let due = if open { held.until } else { self.now };
                next = Some(next.map_or(due, |n| n.min(due)));
                at += 1;
            }
        }
        if let Some(due) = next {
            self.wake_by(due);
        }
        next
    }

    fn answer_tmf(&mut self, slot: &TmfSlot, result: TmfResult) {
        if let Some(mut conn) = self.take_conn(slot.conn) {
            if conn.session == Some(slot.session) && !planted::on(Bug::TmfOvertakes) {
                self.send_tmf(&mut conn, slot.itt, result);
            }
            self.put_conn(conn);
        }
        if slot.function == TmfFunction::TargetColdReset
            && result == TmfResult::Complete
            && let Some(target) = self.sessions.get(slot.session).and_then(|s| s.target)
        {
            // RFC 7143 §11.5.1: a cold reset ends all sessions of the target.
            self.tell(CoreId(0), ConnMsg::DropTarget { target });
        }
    }

    /// Ends a session in order: what is queued goes out first.
    pub(crate) fn drop_in_order<M: Mid>(&mut self, key: Key<Session>, mid: &mut M) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        for id in std::mem::take(&mut session.connections) {
            let Some(mut conn) = self.take_conn(id) else { continue };
            self.close_conn(&mut conn, Close::Graceful);
            conn.session = None;
            self.put_conn(conn);
        }
        self.end_session(key, mid);
    }

    fn send_tmf(&mut self, conn: &mut Conn, itt: Itt, result: TmfResult) {
        let (exp_cmd_sn, max_cmd_sn) = self.window(conn);
        let pdu = TmfResponsePdu {
            result,
            additional: [0; 3],
            itt,
            stat_sn: conn.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        self.send_header(conn.id, conn.digests, &pdu.to_bhs());
    }
}

fn session_room(session: Option<&Session>, max: u32) -> bool {
    session.is_some_and(|s| s.tmfs < max)
}
