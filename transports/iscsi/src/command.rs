//! Full feature phase: requests by opcode, and the way of a SCSI Command to the mid-level.

use spindle_iscsi_wire::ahs::CommandAhs;
use spindle_iscsi_wire::bhs::{self, data_bytes, is_immediate};
use spindle_iscsi_wire::{
    InitiatorOpcode, Itt, NopOut, RejectReason, ScsiCommand, SerialNumber, TaskAttribute, TextRequest,
    TmfRequest,
};
use spindle_mem::Key;
use spindle_net::Net;
use spindle_scsi_port::{Admit, Command, Expected, Mid, Outcome, TaskAttr, TaskTag};
use spindle_scsi_spec::{Lun, Status};

use crate::conn::Conn;
use crate::planted::{self, Bug};
use crate::rx::Plan;
use crate::session::{Admission, PARKED_MAX, Parked, Session, SessionState, WINDOW_MAX};
use crate::task::{Phase, Task};
use crate::transport::IscsiTransport;

/// Commands to wait before a larger window is asked for again after a refusal.
const GROW_PAUSE: u32 = 256;

impl<N: Net> IscsiTransport<N> {
    /// A PDU in full feature phase: checks its number, then delivers it.
    pub(crate) fn dispatch<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) -> Plan {
        let Some(kind) = InitiatorOpcode::of(&conn.bhs) else {
            // RFC 7143 §11.17.1: command not supported. Whether it was numbered nobody knows.
            self.reject(conn, RejectReason::CommandNotSupported);
            return Plan::DROP;
        };
        conn.acknowledged(SerialNumber(bhs::be32(&conn.bhs, 28)));
        let numbered = !is_immediate(&conn.bhs)
            && !matches!(
                kind,
                InitiatorOpcode::DataOut | InitiatorOpcode::SnackRequest | InitiatorOpcode::LoginRequest
            );
        if numbered {
            let Some(session) = conn.session.and_then(|key| self.sessions.get_mut(key)) else {
                return Plan::DROP;
            };
            let admission = session.admit(cmd_sn(conn));
            if admission != Admission::Now {
                self.not_now(conn, admission, mid);
                return Plan::DROP;
            }
        }
        self.deliver(conn, kind, mid)
    }

    /// A PDU that is not next in the order of commands.
    #[cold]
    fn not_now<M: Mid>(&mut self, conn: &mut Conn, admission: Admission, mid: &mut M) {
        if admission == Admission::Ignore {
            self.counters.ignored_commands += 1;
            return;
        }
        let Some(session) = conn.session.and_then(|key| self.sessions.get_mut(key)) else { return };
        // On one connection a gap can only be made by the initiator itself. A request without data waits for its turn;
        // one with data would have to be kept whole.
        if data_bytes(&conn.bhs) > 0 || session.parked.len() >= PARKED_MAX {
            return self.drop_conn(conn, mid);
        }
        let parked = Parked { cmd_sn: cmd_sn(conn), bhs: conn.bhs, ahs: conn.ahs.clone() };
        session.parked.push(parked);
    }

    /// A PDU whose turn it is.
    pub(crate) fn deliver<M: Mid>(&mut self, conn: &mut Conn, kind: InitiatorOpcode, mid: &mut M) -> Plan {
        if kind == InitiatorOpcode::ScsiCommand && conn.logout.is_none() {
            return self.scsi_command(conn, mid);
        }
        self.deliver_other(conn, kind, mid)
    }

    fn deliver_other<M: Mid>(&mut self, conn: &mut Conn, kind: InitiatorOpcode, mid: &mut M) -> Plan {
        let discovery = conn.session.and_then(|key| self.sessions.get(key)).is_none_or(|s| s.nexus.is_none());
        if conn.logout.is_some() {
            // RFC 7143 §11.14: after a logout request nothing more is sent on the connection.
            self.reject(conn, RejectReason::WaitingForLogout);
            return Plan::DROP;
        }
        match kind {
            InitiatorOpcode::DataOut if !discovery => self.data_out(conn),
            InitiatorOpcode::NopOut => {
                conn.collected.clear();
                self.nop_begins(conn, &NopOut::parse(&conn.bhs))
            }
            InitiatorOpcode::TmfRequest if !discovery => {
                let request = TmfRequest::parse(&conn.bhs);
                self.tmf_request(conn, &request, mid);
                Plan::DROP
            }
            InitiatorOpcode::TextRequest => match TextRequest::parse(&conn.bhs) {
                Ok(_) => {
                    conn.collected.clear();
                    Plan::COLLECT
                }
                Err(e) => {
                    self.reject(conn, e.reject_reason());
                    Plan::DROP
                }
            },
            InitiatorOpcode::LogoutRequest => {
                self.logout_request(conn, mid);
                Plan::DROP
            }
            // SNACK needs ErrorRecoveryLevel 1.
            InitiatorOpcode::SnackRequest => {
                self.reject(conn, RejectReason::SnackReject);
                Plan::DROP
            }
            // A login in full feature phase, or anything but text in a discovery session (RFC 7143 §4.3).
            _ => {
                self.reject(conn, RejectReason::ProtocolError);
                Plan::DROP
            }
        }
    }

    /// A PDU that is refused as a whole uses up its number all the same. `false`: outside the window, not even
    /// worth a Reject.
    pub(crate) fn counts_though_refused(&mut self, conn: &mut Conn) -> bool {
        let numbered = !is_immediate(&conn.bhs)
            && !matches!(
                InitiatorOpcode::of(&conn.bhs),
                None | Some(InitiatorOpcode::DataOut | InitiatorOpcode::SnackRequest)
            );
        let session = conn.session.and_then(|key| self.sessions.get_mut(key));
        session.filter(|_| numbered).is_none_or(|s| s.admit(cmd_sn(conn)) != Admission::Ignore)
    }

    fn scsi_command<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) -> Plan {
        let refuse = |t: &mut Self, conn: &mut Conn, reason| {
            t.reject(conn, reason);
            Plan::DROP
        };
        let c = match ScsiCommand::parse(&conn.bhs) {
            Ok(c) => c,
            Err(e) => return refuse(self, conn, e.reject_reason()),
        };
        if let Err(e) = c.check_direction() {
            return refuse(self, conn, e.reject_reason());
        }
        let Some(session_key) = conn.session else { return Plan::DROP };
        let Some(session) = self.sessions.get(session_key) else { return Plan::DROP };
        let params = &session.params;
        // RFC 7143 §11.3.4, §13.10, §13.11, §13.14: what may come without being asked for.
        let more_follows = c.write && !c.is_final;
        let unsolicited_max = params.unsolicited_max().min(c.edtl);
        if (c.data_len > 0 && !params.immediate_data)
            || (more_follows && params.initial_r2t)
            || (c.write && c.data_len > params.unsolicited_max())
            || c.itt == Itt::RESERVED
        {
            return refuse(self, conn, RejectReason::ProtocolError);
        }
        let Some(nexus) = session.nexus else {
            // RFC 7143 §4.3: in a discovery session there are no commands.
            return refuse(self, conn, RejectReason::ProtocolError);
        };
        if session.find(&self.tasks, c.itt).is_some() {
            return refuse(self, conn, RejectReason::TaskInProgress);
        }
        let mut bidi_read = 0;
        let mut long = Vec::new();
        let mut cdb = &c.cdb[..];
        if !conn.ahs.is_empty() {
            match CommandAhs::parse(&conn.ahs) {
                Ok(ahs) => {
                    // A read length beside a command that is not bidirectional says nothing.
                    bidi_read = ahs.bidi_read_len.filter(|_| c.read && c.write).unwrap_or(0);
                    if !ahs.cdb_rest.is_empty() {
                        long.extend_from_slice(&c.cdb);
                        long.extend_from_slice(ahs.cdb_rest);
                        cdb = &long;
                    }
                }
                Err(e) => return refuse(self, conn, e.reject_reason()),
            }
        }
        let expected = Expected {
            read: if c.write {
                bidi_read
            } else if c.read {
                c.edtl
            } else {
                0
            },
            write: if c.write { c.edtl } else { 0 },
            unsolicited: if more_follows { unsolicited_max } else { c.data_len },
        };
        let mut command = Command {
            nexus,
            lun: Lun::from_bytes(c.lun),
            tag: TaskTag(u64::from(c.itt.0)),
            cookie: 0,
            attr: match c.attr {
                TaskAttribute::Untagged => TaskAttr::Untagged,
                TaskAttribute::Simple => TaskAttr::Simple,
                TaskAttribute::Ordered => TaskAttr::Ordered,
                TaskAttribute::HeadOfQueue => TaskAttr::HeadOfQueue,
                TaskAttribute::Aca => TaskAttr::Aca,
            },
            cdb,
            expected,
        };
        if self.tasks.is_full() {
            self.make_room();
        }
        let row = |_| Task { read_max: expected.read, ..Task::of(session_key, conn.id, &c, unsolicited_max) };
        let Some(key) = self.tasks.insert_with(row) else {
            return self.no_room(conn, &c);
        };
        command.cookie = key.bits();
        let admit = mid.command(&command);
        self.admitted(conn, session_key, key, admit, &c, mid)
    }

    /// What the mid-level said of a command, which has a row of the table.
    pub(crate) fn admitted<M: Mid>(
        &mut self,
        conn: &mut Conn,
        session_key: Key<Session>,
        key: Key<Task>,
        admit: Admit,
        c: &ScsiCommand,
        mid: &mut M,
    ) -> Plan {
        let Some(task) = self.tasks.get_mut(key) else { return Plan::DROP };
        let mut over = false;
        match admit {
            Admit::NoData(id) => {
                task.mid = id;
                over = c.data_len == 0 && !task.unsolicited_open;
            }
            Admit::Swallow(id) => (task.mid, task.phase) = (id, Phase::Swallowing),
            Admit::Wait { task: id, wanted } => {
                (task.mid, task.phase, task.wanted) = (id, Phase::Waiting, wanted.min(c.edtl));
                // One of the planted mistakes: what would free memory may stand behind this command.
                conn.held = planted::on(Bug::ReaderStops);
            }
            Admit::Land(id, buf) => {
                (task.mid, task.phase) = (id, Phase::Receiving);
                task.wanted = buf.len().min(c.edtl);
                task.buf = Some(buf);
            }
            Admit::Refused => {
                self.tasks.remove(key);
                return self.no_room(conn, c);
            }
        }
        if let Some(session) = self.sessions.get_mut(session_key) {
            session.enlist(task, key);
            session.counters.commands += 1;
            session.in_flight += u32::from(!c.immediate);
        }
        self.look_at_window(conn, session_key, mid);
        if over {
            // Nothing comes with it, and nothing will.
            return Plan::DROP;
        }
        self.plan_data(key, 0, c.data_len)
    }

    /// Does the initiator nearly fill the window it has?
    #[inline]
    pub(crate) fn look_at_window<M: Mid>(&mut self, conn: &Conn, key: Key<Session>, mid: &mut M) {
        let Some(session) = self.sessions.get(key) else { return };
        // What the initiator has out is judged as it saw things when it sent its last command: what was answered since,
        // and is not acknowledged by that command's ExpStatSN, was still out for it. So a target that answers each
        // command at once is asked for a larger window just as a slow one.
        let unseen = conn.unseen();
        if session.granted < session.window_max && session.in_flight + unseen >= session.granted * 3 / 4 {
            self.grow_window(key, mid);
        }
    }

    /// No row is left for a task: the oldest sink makes room.
    #[cold]
    fn make_room(&mut self) {
        if let Some((oldest, _)) = self.sinks.pop_front() {
            self.free_sink(oldest);
        }
    }

    /// No slot: only immediate commands come beyond the grant (RFC 7143 §11.17.1: too many immediate
    /// commands). A numbered one is told TASK SET FULL.
    pub(crate) fn no_room(&mut self, conn: &mut Conn, c: &ScsiCommand) -> Plan {
        if c.immediate {
            self.reject(conn, RejectReason::TooManyImmediate);
            return Plan::DROP;
        }
        let outcome = Outcome { status: Status::TaskSetFull, ..Outcome::GOOD };
        self.send_status(conn, c.itt, &outcome, 0);
        Plan::DROP
    }

    /// Asks for a larger window for an initiator that nearly fills the one it has.
    #[cold]
    fn grow_window<M: Mid>(&mut self, key: Key<Session>, mid: &mut M) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.grow_after > 0 {
            session.grow_after -= 1;
            return;
        }
        let Some(nexus) = session.nexus.filter(|_| session.state == SessionState::Open) else { return };
        let wanted = (session.granted * 2).min(session.window_max);
        let granted = mid.grant(nexus, wanted).min(WINDOW_MAX);
        if granted > session.granted {
            session.granted = granted;
        } else {
            session.grow_after = GROW_PAUSE;
        }
    }
}

fn cmd_sn(conn: &Conn) -> SerialNumber {
    let b = &conn.bhs;
    SerialNumber(u32::from_be_bytes([b[24], b[25], b[26], b[27]]))
}
