//! READ and WRITE as nearly all are, from PDU to PDU in a straight line.
//!
//! On a connection in full feature phase, a command that is next in order, complete in its header and its immediate data,
//! is read where it lies among the staged bytes. If the mid-level can serve it at once
//! ([`Mid::read_at_once`], [`Mid::received_at_once`]), its answer is queued before the next header is looked at, and no
//! row of the task table was ever taken; a row is made only for what goes on later. Each function here recognises its
//! case before it changes anything and otherwise leaves all as it was to the general way ([`crate::rx`],
//! [`crate::command`]), where whatever is rare is written, once.

use spindle_iscsi_wire::bhs;
use spindle_iscsi_wire::{
    BHS_LEN, Bhs, DataIn, DataInStatus, Itt, Residual, ScsiCommand, ScsiResponse, SerialNumber,
    ServiceResponse, Ttt,
};
use spindle_mem::{Key, Sgv, SgvRef};
use spindle_net::Net;
use spindle_scsi_port::{Admit, Command, Expected, Mid, NexusId, Outcome, TaskAttr, TaskId, TaskTag};
use spindle_scsi_spec::{Lun, Status};

use crate::conn::{Conn, ConnState, Rx, Segment, Sink};
use crate::digest::{self, Crc32c};
use crate::session::Session;
use crate::task::{Phase, Task};
use crate::transport::IscsiTransport;

/// The command after so many others is looked at.
const FAR: u32 = 5;
/// And the one that is nearly there: between the two lies time for a line to come from far memory.
const NEAR: u32 = 2;

impl<N: Net> IscsiTransport<N> {
    /// Takes the PDU that begins with the staged bytes. `None`: it is not as usual, or not there yet, and nothing has
    /// changed. `Some(false)`: what is left of it is on its way.
    #[inline]
    pub(crate) fn quick<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) -> Option<bool> {
        let header = self.net.bytes(conn.id).first_chunk::<48>()?;
        // RFC 7143 §11.3.1: not immediate; F, and one of R and W; untagged or SIMPLE.
        let writes = match header[..2] {
            [0x01, 0xC0 | 0xC1] => false,
            [0x01, 0xA0 | 0xA1] => true,
            _ => return None,
        };
        if !matches!(conn.state, ConnState::Full) || conn.logout.is_some() {
            return None;
        }
        let session_key = conn.session?;
        let session = self.sessions.get(session_key)?;
        let (itt, edtl) = (bhs::itt(header), bhs::be32(header, 20));
        // TotalAHSLength is nought, and DataSegmentLength all or nothing.
        let usual = bhs::be32(header, 4) == if writes { edtl } else { 0 }
            && session.is_next(SerialNumber(bhs::be32(header, 24)))
            && itt != Itt::RESERVED
            && session.find(&self.tasks, itt).is_none();
        if !usual || conn.digests.header && !self.header_is_sound(conn, header) {
            return None;
        }
        let mut command = Command {
            nexus: session.nexus?,
            lun: Lun::from_bytes(bhs::lun(header)),
            tag: TaskTag(u64::from(itt.0)),
            cookie: 0,
            attr: TaskAttr::Simple,
            cdb: &header[32..],
            expected: Expected { read: edtl, write: 0, unsolicited: 0 },
        };
        if mid.looks_ahead() {
            self.look_ahead(conn, command.nexus, if writes { edtl } else { 0 }, mid);
        }
        if !writes && let Some(buf) = mid.read_at_once(&command) {
            self.begun(conn, session_key, 0, mid);
            self.serve(conn, session_key, itt, buf, mid);
            return Some(true);
        }
        let params = &session.params;
        let fits = params.immediate_data && edtl <= params.unsolicited_max() && edtl <= conn.max_recv;
        if writes && (!fits || edtl == 0 || !edtl.is_multiple_of(4)) {
            return None;
        }
        let key = self.tasks.next_key()?;
        command.cookie = key.bits();
        if writes {
            command.expected = Expected { read: 0, write: edtl, unsolicited: edtl };
        }
        let admit = mid.command(&command);
        conn.bhs = *header;
        Some(match admit {
            Admit::Land(id, buf) if buf.len() == edtl => {
                self.begun(conn, session_key, edtl, mid);
                self.land_write(conn, session_key, key, (id, buf), mid)
            }
            Admit::NoData(id) if !writes => {
                self.begun(conn, session_key, 0, mid);
                self.late(conn, session_key, key, id).read_max = edtl;
                self.look_at_window(conn, session_key, mid);
                true
            }
            admit => self.unusual(conn, session_key, admit, mid),
        })
    }

    /// READs and like WRITEs come in batches: what lies behind this command is told to the mid-level before its turn. A guess
    /// at where headers are, which costs nothing but time where it is wrong.
    #[inline]
    fn look_ahead<M: Mid>(&self, conn: &Conn, nexus: NexusId, written: u32, mid: &M) {
        // Data that was received ahead does not lie among the headers.
        let step = conn.header_bytes() + if written > 0 { conn.tail_bytes(written) } else { 0 };
        for (n, near) in [(FAR, false), (NEAR, true)] {
            let glance = self.net.glance(conn.id, (n * step) as usize);
            let Some(header) = glance.first_chunk::<48>() else { continue };
            if let ([0x01, 0xC0 | 0xC1 | 0xA0 | 0xA1], Some(cdb)) = (&header[..2], header[32..].first_chunk())
            {
                mid.soon(nexus, Lun::from_bytes(bhs::lun(header)), cdb, near);
            }
        }
    }

    /// Is the digest of the header at the head of the staged bytes there, and right?
    fn header_is_sound(&self, conn: &Conn, header: &Bhs) -> bool {
        self.net.bytes(conn.id)[BHS_LEN..].starts_with(&digest::of_header(header))
    }

    /// The command at the head of the staged bytes is taken; `len` bytes of data follow its header.
    #[inline]
    fn begun<M: Mid>(&mut self, conn: &mut Conn, session: Key<Session>, len: u32, mid: &mut M) {
        let staged = self.net.bytes(conn.id);
        if let Some(header) = staged.first_chunk::<48>() {
            conn.acknowledged(SerialNumber(bhs::be32(header, 28)));
            let edtl = bhs::be32(header, 20);
            conn.passed(len, edtl);
            // All of it is moved now: a WRITE's data is there, or on its way.
            conn.charge(edtl);
        }
        self.net.consume(conn.id, conn.header_bytes());
        conn.needed = 0;
        conn.heard = self.now;
        if let Some(session) = self.sessions.get_mut(session) {
            session.take_next();
            session.counters.commands += 1;
        }
        self.like(conn, len, mid);
    }

    /// A READ was served: its data and status are queued.
    #[inline]
    pub(crate) fn serve<M: Mid>(
        &mut self,
        conn: &mut Conn,
        session: Key<Session>,
        itt: Itt,
        buf: Sgv,
        mid: &mut M,
    ) {
        self.answer_read(conn, session, itt, buf);
        self.answered(conn, session, mid);
    }

    /// All data of a READ, with its status.
    #[inline]
    fn answer_read(&mut self, conn: &mut Conn, session: Key<Session>, itt: Itt, buf: Sgv) {
        let Some(session) = self.sessions.get_mut(session) else { return };
        let len = buf.len();
        if len > conn.max_send.min(session.params.max_burst_length) {
            self.send_data_in(conn, itt, (buf, len), Some(&Outcome::GOOD));
            return;
        }
        session.counters.read_bytes += u64::from(len);
        let pdu = DataIn {
            is_final: true,
            ack: false,
            status: Some(DataInStatus {
                status: Status::Good.code(),
                stat_sn: conn.next_stat_sn(),
                residual: Residual::None,
            }),
            data_len: len,
            lun: [0; 8],
            itt,
            ttt: Ttt::RESERVED,
            exp_cmd_sn: session.exp_cmd_sn,
            max_cmd_sn: session.max_cmd_sn(),
            data_sn: SerialNumber::ZERO,
            buffer_offset: 0,
        };
        self.send_payload(conn.id, conn.digests, &pdu.to_bhs(), SgvRef::new(buf), 0..len);
    }

    /// The data of a WRITE goes where the mid-level said. `false`: it is on its way.
    #[inline]
    fn land_write<M: Mid>(
        &mut self,
        conn: &mut Conn,
        session: Key<Session>,
        key: Key<Task>,
        (id, buf): (TaskId, Sgv),
        mid: &mut M,
    ) -> bool {
        let len = buf.len();
        self.lend_like(conn, &buf, mid);
        let crc = conn.digests.data.then(Crc32c::new);
        let Some(buf) = self.net.land(conn.id, buf, 0..len) else {
            self.unfinished(conn, (session, key), (id, len), None, crc, mid);
            return false;
        };
        if let Some(mut crc) = crc {
            for slice in buf.slices(0..len) {
                crc.update(slice);
            }
            let sound = crc.clone().finish();
            if !self.net.bytes(conn.id).starts_with(&sound) {
                self.unfinished(conn, (session, key), (id, len), Some(buf), Some(crc), mid);
                return true;
            }
            self.net.consume(conn.id, sound.len() as u32);
        }
        if let Some(session) = self.sessions.get_mut(session) {
            session.counters.write_bytes += u64::from(len);
        }
        if mid.received_at_once(id, buf) {
            self.answer_write(conn, session);
        } else {
            self.late(conn, session, key, id);
        }
        self.answered(conn, session, mid);
        true
    }

    /// The rest of a WRITE's PDU is read in the general way: its data is on its way (no vector), or all there and its digest
    /// late or wrong.
    fn unfinished<M: Mid>(
        &mut self,
        conn: &mut Conn,
        (session, key): (Key<Session>, Key<Task>),
        (id, len): (TaskId, u32),
        landed: Option<Sgv>,
        crc: Option<Crc32c>,
        mid: &mut M,
    ) {
        let (sink, left) = if landed.is_none() { (Sink::Land(0, len), len) } else { (Sink::Drop, 0) };
        let task = self.late(conn, session, key, id);
        (task.phase, task.landing, task.buf) = (Phase::Receiving, landed.is_none(), landed);
        (task.wanted, task.unsolicited_max) = (len, len);
        let digest = conn.digests.data;
        conn.rx = Rx::Segment(Segment { sink, task: Some(key), left, pad: 0, digest, crc });
        self.look_at_window(conn, session, mid);
    }

    /// GOOD for the WRITE whose header was read last.
    #[inline]
    fn answer_write(&mut self, conn: &mut Conn, session: Key<Session>) {
        let Some(session) = self.sessions.get(session) else { return };
        let pdu = ScsiResponse {
            response: ServiceResponse::CommandCompleted,
            status: Status::Good.code(),
            status_qualifier: 0,
            residual: Residual::None,
            bidi_residual: Residual::None,
            data_len: 0,
            itt: bhs::itt(&conn.bhs),
            snack_tag: 0,
            stat_sn: conn.next_stat_sn(),
            exp_cmd_sn: session.exp_cmd_sn,
            max_cmd_sn: session.max_cmd_sn(),
            exp_data_sn: SerialNumber::ZERO,
        };
        self.send_header(conn.id, conn.digests, &pdu.to_bhs());
    }

    /// A row for a command that goes on later: its header was read last, `key` is the row's name.
    fn late(&mut self, conn: &Conn, session: Key<Session>, key: Key<Task>, id: TaskId) -> &mut Task {
        let header: &Bhs = &conn.bhs;
        let mut task = Task::new(session, conn.id, bhs::itt(header), bhs::lun(header));
        task.mid = id;
        task.numbered = true;
        if let Some(session) = self.sessions.get_mut(session) {
            session.enlist(&mut task, key);
            session.in_flight += 1;
        }
        let made = self.tasks.insert_with(|_| task);
        assert_eq!(made, Some(key), "nothing was put into the table since its next name was asked for");
        self.tasks.get_mut(key).expect("just put there")
    }

    /// Is it time for a larger window, or to stop reading from who does not take what was queued?
    #[inline]
    fn answered<M: Mid>(&mut self, conn: &mut Conn, session: Key<Session>, mid: &mut M) {
        self.look_at_window(conn, session, mid);
        self.stall(conn);
    }

    /// The mid-level knows more of this command than its header tells: it goes on in the general way, from where a row is
    /// made for it.
    #[cold]
    fn unusual<M: Mid>(
        &mut self,
        conn: &mut Conn,
        session_key: Key<Session>,
        admit: Admit,
        mid: &mut M,
    ) -> bool {
        let Ok(c) = ScsiCommand::parse(&conn.bhs) else { return false };
        conn.acknowledged(c.exp_stat_sn);
        conn.ahs.clear();
        self.net.consume(conn.id, conn.header_bytes());
        conn.needed = 0;
        conn.heard = self.now;
        if let Some(session) = self.sessions.get_mut(session_key) {
            session.take_next();
        }
        let plan = match self.tasks.insert_with(|_| Task::of(session_key, conn.id, &c, c.data_len)) {
            Some(key) => self.admitted(conn, session_key, key, admit, &c, mid),
            None => self.no_room(conn, &c),
        };
        self.segment_follows(conn, plan, mid)
    }
}
