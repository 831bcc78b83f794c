//! Sending: one PDU at a time into the Net's queue, with digests and padding.
//!
//! Responses of a connection leave in the order in which they are queued here. That order is what makes a
//! task management response follow the statuses that were decided before it.

use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::{
    AsyncEvent, AsyncMessage, Bhs, Isid, Itt, LoginResponse, LoginStatus, Reject, RejectReason, SerialNumber,
    Stage,
};
use spindle_mem::{SgvRef, fetch_page};
use spindle_net::{ConnId, Net};

use crate::conn::{Conn, ConnState};
use crate::digest::{self, Crc32c};
use crate::transport::IscsiTransport;

/// Header bytes of a refused PDU that its Reject shows: BHS and AHS.
const REJECTED_BYTES_MAX: usize = 48 + 1020;

impl<N: Net> IscsiTransport<N> {
    /// ExpCmdSN and MaxCmdSN of the connection's session.
    #[inline]
    pub(crate) fn window(&self, conn: &Conn) -> (SerialNumber, SerialNumber) {
        match conn.session.and_then(|key| self.sessions.get(key)) {
            Some(s) => (s.exp_cmd_sn, s.max_cmd_sn()),
            None => (SerialNumber::ZERO, SerialNumber::ZERO),
        }
    }

    /// A PDU without data.
    #[inline]
    pub(crate) fn send_header(&mut self, id: ConnId, digests: Digests, bhs: &Bhs) {
        if !digests.header {
            return self.net.send(id, bhs, None, &[]);
        }
        let (head, len) = head(digests, bhs);
        self.net.send(id, &head[..len], None, &[]);
    }

    /// A PDU with a few bytes of data of our own: text, sense, a refused header, a ping.
    pub(crate) fn send_bytes(&mut self, id: ConnId, digests: Digests, bhs: &Bhs, data: &[u8]) {
        if data.is_empty() {
            return self.send_header(id, digests, bhs);
        }
        let (head, len) = head(digests, bhs);
        let mut whole = Vec::with_capacity(len + data.len() + 7);
        whole.extend_from_slice(&head[..len]);
        whole.extend_from_slice(data);
        let pad = [0u8; 3];
        let pad = &pad[..bhs::pad(data.len() as u32) as usize];
        whole.extend_from_slice(pad);
        if digests.data {
            let mut crc = Crc32c::new();
            crc.update(data);
            crc.update(pad);
            whole.extend_from_slice(&crc.finish());
        }
        self.net.send(id, &whole, None, &[]);
    }

    /// A PDU whose data lies in a vector.
    #[inline]
    pub(crate) fn send_payload(
        &mut self,
        id: ConnId,
        digests: Digests,
        bhs: &Bhs,
        body: SgvRef,
        range: std::ops::Range<u32>,
    ) {
        if digests == Digests::default() && range.len().is_multiple_of(4) {
            return self.net.send(id, bhs, Some((body, range)), &[]);
        }
        self.send_dressed(id, digests, bhs, body, range);
    }

    /// A PDU whose data lies in a vector, with padding and digests.
    fn send_dressed(
        &mut self,
        id: ConnId,
        digests: Digests,
        bhs: &Bhs,
        body: SgvRef,
        range: std::ops::Range<u32>,
    ) {
        let (head, len) = head(digests, bhs);
        let pad = bhs::pad(range.end - range.start) as usize;
        let mut tail = [0u8; 7];
        let mut tail_len = pad;
        if digests.data {
            let mut crc = Crc32c::new();
            let mut next = body.slices(range.clone()).skip(1);
            for slice in body.slices(range.clone()) {
                // Holes are one page, time and again.
                if let Some(next) = next.next().filter(|next| next.as_ptr() != slice.as_ptr()) {
                    fetch_page(next);
                }
                crc.update(slice);
            }
            crc.update(&tail[..pad]);
            tail[pad..pad + 4].copy_from_slice(&crc.finish());
            tail_len += 4;
        }
        self.net.send(id, &head[..len], Some((body, range)), &tail[..tail_len]);
    }

    /// Refuses the PDU that is being read (RFC 7143 §11.17): its header goes back with the reason.
    pub(crate) fn reject(&mut self, conn: &mut Conn, reason: RejectReason) {
        self.counters.rejects += 1;
        if let Some(session) = conn.session.and_then(|key| self.sessions.get_mut(key)) {
            session.counters.rejects += 1;
        }
        let mut data = Vec::with_capacity(48 + conn.ahs.len());
        data.extend_from_slice(&conn.bhs);
        data.extend_from_slice(&conn.ahs);
        data.truncate(REJECTED_BYTES_MAX.min(conn.max_send as usize));
        let (exp_cmd_sn, max_cmd_sn) = self.window(conn);
        let pdu = Reject {
            reason,
            data_len: data.len() as u32,
            stat_sn: conn.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            data_sn: SerialNumber::ZERO,
        };
        self.send_bytes(conn.id, conn.digests, &pdu.to_bhs(), &data);
    }

    /// Asynchronous event 1: please log out within `wait_ms`.
    pub(crate) fn send_logout_request(&mut self, conn: &mut Conn, wait_ms: u64) {
        if !matches!(conn.state, ConnState::Full) || conn.logout.is_some() {
            return;
        }
        let seconds = u16::try_from(wait_ms.div_ceil(1000)).unwrap_or(u16::MAX);
        let (exp_cmd_sn, max_cmd_sn) = self.window(conn);
        let pdu = AsyncMessage {
            event: AsyncEvent::LogoutRequest,
            vendor_code: 0,
            data_len: 0,
            lun: [0; 8],
            stat_sn: conn.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            // RFC 7143 §11.9.1: Parameter3 is the time within which we want it.
            parameters: [0, 0, seconds],
        };
        self.send_header(conn.id, conn.digests, &pdu.to_bhs());
    }

    /// A Login Response that ends the connection.
    pub(crate) fn send_refusal(&mut self, conn: &mut Conn, status: LoginStatus) {
        // Whatever can be read of a header that may be nonsense.
        let b = &conn.bhs;
        let isid = Isid([b[8], b[9], b[10], b[11], b[12], b[13]]);
        let stage =
            if b[1] & 0x0C == 4 { Stage::LoginOperationalNegotiation } else { Stage::SecurityNegotiation };
        let cmd_sn = SerialNumber(u32::from_be_bytes([b[24], b[25], b[26], b[27]]));
        let pdu = LoginResponse {
            flags: spindle_iscsi_wire::login::LoginFlags { stage, transit: None, more: false },
            version_max: spindle_iscsi_wire::login::VERSION,
            version_active: spindle_iscsi_wire::login::VERSION,
            data_len: 0,
            isid,
            tsih: u16::from_be_bytes([b[14], b[15]]),
            itt: Itt(u32::from_be_bytes([b[16], b[17], b[18], b[19]])),
            stat_sn: conn.next_stat_sn(),
            exp_cmd_sn: cmd_sn,
            max_cmd_sn: cmd_sn,
            status,
        };
        self.send_header(conn.id, Digests::default(), &pdu.to_bhs());
    }
}

#[inline]
fn head(digests: Digests, bhs: &Bhs) -> ([u8; 52], usize) {
    let mut head = [0u8; 52];
    head[..48].copy_from_slice(bhs);
    if digests.header {
        head[48..].copy_from_slice(&digest::of_header(bhs));
        return (head, 52);
    }
    (head, 48)
}
