//! What the target says: each PDU against the task it speaks of, and against the sequence numbers.

use spindle_iscsi_wire::bhs;
use spindle_iscsi_wire::{
    Bhs, DataIn, InitiatorOpcode, Itt, LoginResponse, LogoutResult, NopIn, NopOut, R2t, Reject, ScsiCommand,
    ScsiResponse, SerialNumber, TargetPdu, TextResponse, TmfResponse, TmfResult, Ttt, scsi,
};

use super::{Entry, InitiatorConn, State, Task};
use crate::config::R2tPolicy;
use crate::event::Event;
use crate::text::TextStep;
use crate::violation::{Violation, What};

impl InitiatorConn {
    pub(super) fn on_pdu(&mut self, header: &Bhs, data: &[u8]) {
        let pdu = match TargetPdu::parse(header) {
            Ok(pdu) => pdu,
            Err(error) => return self.wrong(None, What::Pdu(error)),
        };
        let in_login = self.state == State::Login;
        match pdu {
            TargetPdu::LoginResponse(pdu) if in_login => return self.on_login_response(&pdu, data),
            // A target may refuse even a login request as a PDU.
            TargetPdu::Reject(pdu) if in_login => return self.on_reject(&pdu, data),
            _ if in_login => return self.wrong(None, What::OutOfPlace { opcode: bhs::opcode(header) }),
            _ => {}
        }
        match pdu {
            TargetPdu::DataIn(pdu) => self.on_data_in(&pdu, data),
            TargetPdu::ScsiResponse(pdu) => self.on_scsi_response(&pdu, data),
            TargetPdu::R2t(pdu) => self.on_r2t(&pdu),
            TargetPdu::NopIn(pdu) => self.on_nop_in(&pdu, data),
            TargetPdu::TmfResponse(pdu) => self.on_tmf_response(&pdu),
            TargetPdu::TextResponse(pdu) => self.on_text_response(&pdu, data),
            TargetPdu::LogoutResponse(pdu) => {
                self.on_status(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
                match self.tasks.remove(&pdu.itt.0) {
                    Some(Entry { task: Task::Logout { ends }, .. }) => {
                        if ends && pdu.result == LogoutResult::Success {
                            self.state = State::LoggedOut;
                        }
                        self.report(Some(pdu.itt));
                        self.events.push_back(Event::LoggedOut(pdu));
                    }
                    other => self.unknown(pdu.itt, other, 0x26),
                }
            }
            TargetPdu::AsyncMessage(pdu) => {
                self.on_status(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
                self.report(None);
                self.events.push_back(Event::Async(pdu, data.to_vec()));
            }
            TargetPdu::Reject(pdu) => self.on_reject(&pdu, data),
            TargetPdu::LoginResponse(_) => self.wrong(None, What::OutOfPlace { opcode: 0x23 }),
        }
    }

    fn on_login_response(&mut self, pdu: &LoginResponse, text: &[u8]) {
        if pdu.status.is_success() {
            self.on_status(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
            if pdu.itt != self.login_itt {
                self.wrong.push(What::UnknownTask { opcode: 0x23 });
            }
        }
        let mut login = self.login.take().expect("there is a login in this state");
        let step = login.on_response(&self.config, pdu, text, &mut self.wrong);
        self.login = Some(login);
        self.login_step(step);
        self.report(None);
    }

    fn on_data_in(&mut self, pdu: &DataIn, data: &[u8]) {
        if let Some(end) = &pdu.status {
            self.on_status(end.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
        } else {
            self.on_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        }
        let Some(Entry { task: Task::Scsi(task), .. }) = self.tasks.get_mut(&pdu.itt.0) else {
            return self.wrong(Some(pdu.itt), What::UnknownTask { opcode: 0x25 });
        };
        task.on_data_in(pdu, data, &self.params, &mut self.wrong);
        let mut done = None;
        if pdu.status.is_some()
            && let Some(Entry { task: Task::Scsi(task), .. }) = self.tasks.remove(&pdu.itt.0)
        {
            done = task.end_in_data(pdu.itt, pdu, &mut self.wrong);
        }
        self.report(Some(pdu.itt));
        self.events.extend(done.map(Event::Done));
    }

    fn on_scsi_response(&mut self, pdu: &ScsiResponse, data: &[u8]) {
        self.on_status(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
        let task = match self.tasks.remove(&pdu.itt.0) {
            Some(Entry { task: Task::Scsi(task), .. }) => task,
            other => return self.unknown(pdu.itt, other, 0x21),
        };
        let sense = match scsi::sense_and_data(data) {
            Ok((sense, _)) => sense,
            Err(error) => {
                self.wrong.push(What::Pdu(error));
                &[]
            }
        };
        let done = task.end(pdu, sense, &mut self.wrong);
        self.report(Some(pdu.itt));
        self.events.push_back(Event::Done(done));
    }

    fn on_r2t(&mut self, pdu: &R2t) {
        self.on_next_status(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
        let Some(Entry { task: Task::Scsi(task), .. }) = self.tasks.get_mut(&pdu.itt.0) else {
            return self.wrong(Some(pdu.itt), What::UnknownTask { opcode: 0x31 });
        };
        let can_answer = task.on_r2t(pdu, &self.params, &mut self.wrong);
        self.report(Some(pdu.itt));
        match self.config.r2t {
            R2tPolicy::Answer if can_answer => self.answer_r2t(pdu),
            R2tPolicy::Answer => {}
            R2tPolicy::Hold => self.events.push_back(Event::R2t(*pdu)),
        }
    }

    fn on_nop_in(&mut self, pdu: &NopIn, data: &[u8]) {
        if pdu.itt != Itt::RESERVED {
            self.on_status(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
            match self.tasks.remove(&pdu.itt.0) {
                Some(Entry { task: Task::Ping(sent), .. }) => {
                    // RFC 7143 §11.19: the echo, as far as it fits into one PDU.
                    if data != &sent[..sent.len().min(self.params.max_recv as usize)] {
                        self.wrong.push(What::PingData);
                    }
                    self.report(Some(pdu.itt));
                    self.events.push_back(Event::Pong { itt: pdu.itt, data: data.to_vec() });
                }
                other => self.unknown(pdu.itt, other, 0x20),
            }
            return;
        }
        self.on_next_status(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
        if !data.is_empty() {
            self.wrong.push(What::PingData);
        }
        self.report(None);
        if pdu.ttt == Ttt::RESERVED {
            return;
        }
        self.events.push_back(Event::Ping);
        if self.config.answer_pings {
            let answer = NopOut {
                immediate: true,
                data_len: 0,
                lun: pdu.lun,
                itt: Itt::RESERVED,
                ttt: pdu.ttt,
                cmd_sn: self.window.cmd_sn,
                exp_stat_sn: self.exp_stat_sn(),
            };
            self.out.pdu(&answer.to_bhs(), &[], &[], self.digests);
        }
    }

    fn on_tmf_response(&mut self, pdu: &TmfResponse) {
        self.on_status(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
        let ends = match self.tasks.remove(&pdu.itt.0) {
            Some(Entry { task: Task::Tmf { ends }, .. }) => ends,
            other => return self.unknown(pdu.itt, other, 0x22),
        };
        self.report(Some(pdu.itt));
        let mut ended = Vec::new();
        if pdu.result == TmfResult::Complete {
            // What had its status before this answer is gone already; the rest will never have one.
            ended.extend(ends.into_iter().filter(|itt| self.tasks.remove(&itt.0).is_some()));
        }
        self.events.push_back(Event::TmfDone { itt: pdu.itt, result: pdu.result, ended });
    }

    fn on_text_response(&mut self, pdu: &TextResponse, data: &[u8]) {
        self.on_status(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
        let Some(Entry { task: Task::Text(text), .. }) = self.tasks.get_mut(&pdu.itt.0) else {
            return self.wrong(Some(pdu.itt), What::UnknownTask { opcode: 0x24 });
        };
        let step = text.on_response(pdu, data, &mut self.wrong);
        self.report(Some(pdu.itt));
        match step {
            TextStep::More => match self.take_cmd_sn(false) {
                Ok(cmd_sn) => self.text_request(pdu.itt, cmd_sn, pdu.lun, pdu.ttt, &[]),
                // The window is for the caller's commands; the exchange ends here.
                Err(_) => {
                    self.tasks.remove(&pdu.itt.0);
                }
            },
            TextStep::Done(pairs) => {
                self.tasks.remove(&pdu.itt.0);
                self.events.push_back(Event::Text { itt: pdu.itt, pairs });
            }
            TextStep::Broken => {
                self.tasks.remove(&pdu.itt.0);
            }
        }
    }

    fn on_reject(&mut self, pdu: &Reject, data: &[u8]) {
        self.on_status(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn);
        self.report(None);
        let header = data.first_chunk().copied();
        let itt = header.filter(|header| self.ends_by_reject(header)).map(|header| bhs::itt(&header));
        if let Some(itt) = itt {
            self.tasks.remove(&itt.0);
        }
        self.events.push_back(Event::Rejected { reason: pdu.reason, header, itt });
    }

    /// A refused request has no other answer; a refused Data-Out leaves its command to end by itself. A refused
    /// command with the tag of a running one does not end that.
    fn ends_by_reject(&self, header: &Bhs) -> bool {
        let Some(entry) = self.tasks.get(&bhs::itt(header).0) else { return false };
        match (InitiatorOpcode::of(header), &entry.task) {
            (Some(InitiatorOpcode::ScsiCommand), Task::Scsi(_)) => {
                let command = ScsiCommand::parse(header);
                command.map_or(true, |command| command.immediate || command.cmd_sn == entry.cmd_sn)
            }
            (Some(InitiatorOpcode::TmfRequest), Task::Tmf { .. })
            | (Some(InitiatorOpcode::TextRequest), Task::Text(_))
            | (Some(InitiatorOpcode::NopOut), Task::Ping(_))
            | (Some(InitiatorOpcode::LogoutRequest), Task::Logout { .. }) => true,
            _ => false,
        }
    }

    /// A response that uses up a StatSN.
    fn on_status(&mut self, stat_sn: SerialNumber, exp_cmd_sn: SerialNumber, max_cmd_sn: SerialNumber) {
        self.on_next_status(stat_sn, exp_cmd_sn, max_cmd_sn);
        self.exp_stat_sn = Some(stat_sn.next());
    }

    /// A PDU that only shows the StatSN that comes next.
    fn on_next_status(&mut self, stat_sn: SerialNumber, exp_cmd_sn: SerialNumber, max_cmd_sn: SerialNumber) {
        if let Some(expected) = self.exp_stat_sn
            && expected != stat_sn
        {
            self.wrong.push(What::StatSn { expected, got: stat_sn });
        }
        self.on_window(exp_cmd_sn, max_cmd_sn);
    }

    fn on_window(&mut self, exp_cmd_sn: SerialNumber, max_cmd_sn: SerialNumber) {
        if let Err(what) = self.window.update(exp_cmd_sn, max_cmd_sn) {
            self.wrong.push(what);
        }
    }

    /// A response to nothing, or to something else; what stood there stays.
    fn unknown(&mut self, itt: Itt, other: Option<Entry>, opcode: u8) {
        if let Some(entry) = other {
            self.tasks.insert(itt.0, entry);
        }
        self.wrong(Some(itt), What::UnknownTask { opcode });
    }

    fn wrong(&mut self, itt: Option<Itt>, what: What) {
        self.wrong.push(what);
        self.report(itt);
    }

    /// Turns what was found into events.
    pub(super) fn report(&mut self, itt: Option<Itt>) {
        self.events.extend(self.wrong.drain(..).map(|what| Event::Violation(Violation { itt, what })));
    }

    pub(super) fn break_off(&mut self) {
        self.state = State::Broken;
        self.events.push_back(Event::Broken);
    }
}
