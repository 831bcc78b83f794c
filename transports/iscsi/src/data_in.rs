//! Data-In and status: cut by what the initiator takes in one PDU and in one sequence, GOOD with the last.

use spindle_iscsi_wire::{
    DataIn, DataInStatus, Itt, Residual as WireResidual, ScsiResponse, SerialNumber, ServiceResponse, Ttt,
};
use spindle_mem::{Key, Sgv, SgvRef};
use spindle_net::Net;
use spindle_scsi_port::{Mid, Outcome, Residual, TaskId};
use spindle_scsi_spec::{Sense, SenseFormat, Status};

use crate::conn::Conn;
use crate::task::Task;
use crate::transport::{IscsiTransport, is_sink};

impl<N: Net> IscsiTransport<N> {
    /// A command has ended: its data and status go into the send order, and it is no more.
    pub(crate) fn respond<M: Mid>(
        &mut self,
        id: TaskId,
        cookie: u32,
        outcome: Outcome,
        data: Option<(Sgv, u32)>,
        mid: &mut M,
    ) {
        let key = Key::<Task>::from_bits(cookie);
        let known = key.and_then(|k| self.tasks.get(k)).filter(|t| !is_sink(t) && t.mid == id);
        let (Some(key), Some(task)) = (key, known) else {
            // Its session is gone; nothing is lost but the answer.
            give_back(data, mid);
            mid.responded(id);
            return;
        };
        let (conn_id, itt, read_max, bidirectional, r2ts) =
            (task.conn, task.itt, task.read_max, task.bidirectional, task.r2t_sn);
        let mut conn = self.take_conn(conn_id);
        if conn.as_ref().is_some_and(|c| c.gone || c.session.is_none()) {
            conn.take().into_iter().for_each(|c| self.put_conn(c));
        }
        let Some(mut conn) = conn else {
            give_back(data, mid);
            self.task_ended(key);
            mid.responded(id);
            return;
        };
        // Counted out first, so that the window it opens is told with its own status.
        self.task_ended(key);
        let mut sent = 0;
        let mut with_status = false;
        match data {
            Some((buf, bytes)) if bytes.min(read_max) > 0 => {
                let bytes = bytes.min(read_max).min(buf.len());
                // RFC 7143 §11.7.3: status may travel with the last data unless there is sense, or a second
                // residual.
                with_status = !bidirectional && outcome.sense.is_none() && outcome.status == Status::Good;
                let last = with_status.then_some(&outcome);
                sent = self.send_data_in(&mut conn, itt, (buf, bytes), last);
            }
            Some((buf, _)) => mid.returned(buf),
            None => {}
        }
        if !with_status {
            self.send_status(&mut conn, itt, &outcome, sent + r2ts);
        }
        self.stall(&mut conn);
        self.put_conn(conn);
        mid.responded(id);
    }

    /// Queues all Data-In of a command; returns how many PDUs that were.
    pub(crate) fn send_data_in(
        &mut self,
        conn: &mut Conn,
        itt: Itt,
        (buf, bytes): (Sgv, u32),
        last: Option<&Outcome>,
    ) -> u32 {
        let (burst_max, exp_cmd_sn, max_cmd_sn) =
            match conn.session.and_then(|key| self.sessions.get_mut(key)) {
                Some(s) => {
                    s.counters.read_bytes += u64::from(bytes);
                    (s.params.max_burst_length, s.exp_cmd_sn, s.max_cmd_sn())
                }
                None => (bytes, SerialNumber::ZERO, SerialNumber::ZERO),
            };
        let mut share = Some(SgvRef::new(buf));
        let mut data_sn = SerialNumber::ZERO;
        let (mut at, mut in_burst) = (0, 0);
        while at < bytes {
            let len = (bytes - at).min(conn.max_send).min(burst_max - in_burst);
            let end = at + len == bytes;
            in_burst += len;
            let status = last.filter(|_| end).map(|o| DataInStatus {
                status: o.status.code(),
                stat_sn: conn.next_stat_sn(),
                residual: wire(o.residual),
            });
            let pdu = DataIn {
                is_final: end || in_burst == burst_max,
                ack: false,
                status,
                data_len: len,
                lun: [0; 8],
                itt,
                ttt: Ttt::RESERVED,
                exp_cmd_sn,
                max_cmd_sn,
                data_sn,
                buffer_offset: at,
            };
            if pdu.is_final {
                in_burst = 0;
            }
            // Each PDU holds a share of the vector; the last one takes ours.
            if let Some(body) = if end { share.take() } else { share.clone() } {
                self.send_payload(conn.id, conn.digests, &pdu.to_bhs(), body, at..at + len);
            }
            data_sn = data_sn.next();
            at += len;
        }
        data_sn.0
    }

    /// Queues a SCSI Response.
    pub(crate) fn send_status(&mut self, conn: &mut Conn, itt: Itt, outcome: &Outcome, exp_data_sn: u32) {
        let mut data = [0u8; 2 + Sense::MAX_BYTES];
        let mut len = 0;
        if let Some(sense) = &outcome.sense {
            let format = if outcome.descriptor_sense { SenseFormat::Descriptor } else { SenseFormat::Fixed };
            let n = sense.emit_into(format, &mut data[2..]);
            data[..2].copy_from_slice(&(n as u16).to_be_bytes());
            len = 2 + n;
        }
        let (exp_cmd_sn, max_cmd_sn) = self.window(conn);
        let pdu = ScsiResponse {
            response: ServiceResponse::CommandCompleted,
            status: outcome.status.code(),
            status_qualifier: 0,
            residual: wire(outcome.residual),
            bidi_residual: wire(outcome.residual_in),
            data_len: len as u32,
            itt,
            snack_tag: 0,
            stat_sn: conn.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            exp_data_sn: SerialNumber(exp_data_sn),
        };
        self.send_bytes(conn.id, conn.digests, &pdu.to_bhs(), &data[..len]);
    }
}

fn give_back<M: Mid>(data: Option<(Sgv, u32)>, mid: &mut M) {
    if let Some((buf, _)) = data {
        mid.returned(buf);
    }
}

fn wire(r: Residual) -> WireResidual {
    match r {
        Residual::None => WireResidual::None,
        Residual::Underflow(n) => WireResidual::Underflow(n),
        Residual::Overflow(n) => WireResidual::Overflow(n),
    }
}
