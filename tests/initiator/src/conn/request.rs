//! What the initiator asks for: commands, task management, pings, text, logout, and the raw door.

use std::time::Duration;

use spindle_iscsi_wire::ahs::CommandAhs;
use spindle_iscsi_wire::keys::{TextBuf, name};
use spindle_iscsi_wire::{
    Bhs, DataOut, Itt, LogoutReason, LogoutRequest, NopOut, R2t, ScsiCommand, SerialNumber, TextRequest,
    TmfFunction, TmfRequest, Ttt,
};

use super::{Entry, InitiatorConn, Refused, State, Task};
use crate::data::{Command, Direction, ScsiTask};
use crate::text::TextTask;

/// Longest CDB: 16 bytes in the header, the rest in one AHS (SPC-4 §4.2.5.4 ends at 260).
const CDB_LEN_MAX: usize = 260;

impl InitiatorConn {
    /// Sends a SCSI command with the data it may bring at once.
    pub fn command(&mut self, now: Duration, command: Command) -> Result<Itt, Refused> {
        self.now = now;
        let data = match &command.direction {
            Direction::Write(data) => Some(data.clone()),
            Direction::None | Direction::Read(_) => None,
        };
        let len = data.as_ref().map_or(0, |data| data.len());
        let Ok(total) = u32::try_from(len) else { return Err(Refused::TooLong) };
        if command.cdb.len() > CDB_LEN_MAX {
            return Err(Refused::TooLong);
        }
        let cmd_sn = self.take_cmd_sn(command.immediate)?;
        let itt = self.take_itt();
        // RFC 7143 §13.14: immediate and unsolicited data together are at most FirstBurstLength.
        let first = total.min(self.params.first_burst);
        let immediate = if self.params.immediate_data {
            first.min(self.params.max_send).min(command.immediate_data_max.unwrap_or(u32::MAX))
        } else {
            0
        };
        let unsolicited = if self.params.initial_r2t || !command.unsolicited { immediate } else { first };
        let (cdb, cdb_rest) = command.cdb.split_at(command.cdb.len().min(16));
        let mut ahs = [0; 256];
        let ahs_len = CommandAhs { cdb_rest, bidi_read_len: None }.emit(&mut ahs).unwrap_or(0);
        let mut pdu = ScsiCommand {
            immediate: command.immediate,
            is_final: unsolicited == immediate,
            read: matches!(command.direction, Direction::Read(_)),
            write: data.is_some(),
            attr: command.attr,
            priority: 0,
            ahs_words: (ahs_len / 4) as u8,
            data_len: immediate,
            lun: command.lun,
            itt,
            edtl: command.edtl(),
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
            cdb: [0; 16],
        };
        pdu.cdb[..cdb.len()].copy_from_slice(cdb);
        let now_data = data.as_ref().map_or(&[][..], |data| &data[..immediate as usize]);
        self.out.pdu(&pdu.to_bhs(), &ahs[..ahs_len], now_data, self.digests);
        if let Some(data) = data.filter(|_| unsolicited > immediate) {
            self.data_out(itt, Ttt::RESERVED, [0; 8], &data[..unsolicited as usize], immediate);
        }
        self.expect_scsi(itt, command, unsolicited, cmd_sn);
        Ok(itt)
    }

    /// Registers a SCSI command that went through the raw door, so that its answers are checked.
    /// `unsolicited` is how many bytes of a write went without an R2T.
    pub fn expect(&mut self, itt: Itt, command: Command, unsolicited: u32) {
        self.expect_scsi(itt, command, unsolicited, self.window.cmd_sn);
    }

    /// Sends a task management function. `referenced` is the task of ABORT TASK and QUERY TASK.
    pub fn tmf(
        &mut self,
        now: Duration,
        function: TmfFunction,
        lun: [u8; 8],
        referenced: Option<Itt>,
        immediate: bool,
    ) -> Result<Itt, Refused> {
        self.now = now;
        let cmd_sn = self.take_cmd_sn(immediate)?;
        let itt = self.take_itt();
        let known = referenced.and_then(|itt| self.tasks.get(&itt.0));
        let pdu = TmfRequest {
            immediate,
            function,
            lun,
            itt,
            referenced_itt: referenced.unwrap_or(Itt::RESERVED),
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
            ref_cmd_sn: known.map_or(SerialNumber::ZERO, |entry| entry.cmd_sn),
            exp_data_sn: SerialNumber::ZERO,
        };
        let ends = self.tasks_ended_by(function, lun, referenced);
        self.out.pdu(&pdu.to_bhs(), &[], &[], self.digests);
        self.enter(itt, cmd_sn, Task::Tmf { ends });
        Ok(itt)
    }

    /// Pings the target.
    pub fn ping(&mut self, now: Duration, data: &[u8]) -> Result<Itt, Refused> {
        self.now = now;
        let Ok(len) = u32::try_from(data.len()) else { return Err(Refused::TooLong) };
        if len > self.params.max_send {
            return Err(Refused::TooLong);
        }
        let cmd_sn = self.take_cmd_sn(true)?;
        let itt = self.take_itt();
        let pdu = NopOut {
            immediate: true,
            data_len: len,
            lun: [0; 8],
            itt,
            ttt: Ttt::RESERVED,
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
        };
        self.out.pdu(&pdu.to_bhs(), &[], data, self.digests);
        self.enter(itt, cmd_sn, Task::Ping(data.to_vec()));
        Ok(itt)
    }

    /// Sends a text of keys and values.
    pub fn text(&mut self, now: Duration, pairs: &[(&str, &str)]) -> Result<Itt, Refused> {
        self.now = now;
        let mut text = TextBuf::new();
        for (key, value) in pairs {
            text.pair(key, value);
        }
        if text.as_bytes().len() > self.params.max_send as usize {
            return Err(Refused::TooLong);
        }
        let cmd_sn = self.take_cmd_sn(false)?;
        let itt = self.take_itt();
        self.text_request(itt, cmd_sn, [0; 8], Ttt::RESERVED, text.as_bytes());
        self.enter(itt, cmd_sn, Task::Text(TextTask::default()));
        Ok(itt)
    }

    /// SendTargets: `All`, a name, or nothing for the target of this session.
    pub fn send_targets(&mut self, now: Duration, which: &str) -> Result<Itt, Refused> {
        self.text(now, &[(name::SEND_TARGETS, which)])
    }

    /// Asks for the end of the session or of a connection.
    pub fn logout(&mut self, now: Duration, reason: LogoutReason, cid: u16) -> Result<Itt, Refused> {
        self.now = now;
        let cmd_sn = self.take_cmd_sn(true)?;
        let itt = self.take_itt();
        let exp_stat_sn = self.exp_stat_sn();
        let pdu = LogoutRequest { immediate: true, reason, itt, cid, cmd_sn, exp_stat_sn };
        let ends = reason == LogoutReason::CloseSession || cid == self.config.cid;
        self.out.pdu(&pdu.to_bhs(), &[], &[], self.digests);
        self.enter(itt, cmd_sn, Task::Logout { ends });
        Ok(itt)
    }

    /// Answers an R2T given out under `R2tPolicy::Hold`.
    pub fn answer_r2t(&mut self, r2t: &R2t) {
        let Some(Entry { task: Task::Scsi(task), .. }) = self.tasks.get_mut(&r2t.itt.0) else { return };
        task.open_r2ts.retain(|open| open.ttt != r2t.ttt);
        let Direction::Write(data) = &task.command.direction else { return };
        let data = data.clone();
        let end = (r2t.buffer_offset as usize).saturating_add(r2t.desired_len as usize);
        if let Some(data) = data.get(..end) {
            self.data_out(r2t.itt, r2t.ttt, r2t.lun, data, r2t.buffer_offset);
        }
    }

    /// Sends any PDU with correct padding and digests. The header is taken as it is, lengths included.
    pub fn raw_pdu(&mut self, header: &Bhs, ahs: &[u8], data: &[u8]) {
        self.out.pdu(header, ahs, data, self.digests);
    }

    /// Sends any bytes.
    pub fn raw_bytes(&mut self, bytes: &[u8]) {
        self.out.raw(bytes);
    }

    /// A tag not in use, for PDUs through the raw door.
    pub fn take_itt(&mut self) -> Itt {
        loop {
            let itt = Itt(self.next_itt);
            self.next_itt = self.next_itt.wrapping_add(1);
            if itt != Itt::RESERVED && !self.tasks.contains_key(&itt.0) {
                return itt;
            }
        }
    }

    pub(super) fn take_cmd_sn(&mut self, immediate: bool) -> Result<SerialNumber, Refused> {
        if self.state != State::FullFeature {
            return Err(Refused::NotLoggedIn);
        }
        let cmd_sn = self.window.cmd_sn;
        if !immediate {
            if !self.window.is_open() {
                return Err(Refused::WindowClosed);
            }
            self.window.cmd_sn = cmd_sn.next();
        }
        Ok(cmd_sn)
    }

    fn enter(&mut self, itt: Itt, cmd_sn: SerialNumber, task: Task) {
        self.tasks.insert(itt.0, Entry { sent_at: self.now, silent: false, cmd_sn, task });
    }

    fn expect_scsi(&mut self, itt: Itt, command: Command, unsolicited: u32, cmd_sn: SerialNumber) {
        let task = ScsiTask::new(command, unsolicited, self.now);
        self.enter(itt, cmd_sn, Task::Scsi(Box::new(task)));
    }

    /// Sends `data[from..]` as one sequence.
    fn data_out(&mut self, itt: Itt, ttt: Ttt, lun: [u8; 8], data: &[u8], from: u32) {
        let max = self.config.data_out_max.unwrap_or(u32::MAX).min(self.params.max_send).max(1) as usize;
        let mut offset = from;
        let mut data_sn = SerialNumber::ZERO;
        let mut pieces = data[from as usize..].chunks(max).peekable();
        while let Some(piece) = pieces.next() {
            let pdu = DataOut {
                is_final: pieces.peek().is_none(),
                data_len: piece.len() as u32,
                lun,
                itt,
                ttt,
                exp_stat_sn: self.exp_stat_sn.unwrap_or_default(),
                data_sn,
                buffer_offset: offset,
            };
            self.out.pdu(&pdu.to_bhs(), &[], piece, self.digests);
            offset += piece.len() as u32;
            data_sn = data_sn.next();
        }
    }

    pub(super) fn text_request(
        &mut self,
        itt: Itt,
        cmd_sn: SerialNumber,
        lun: [u8; 8],
        ttt: Ttt,
        text: &[u8],
    ) {
        let pdu = TextRequest {
            immediate: false,
            is_final: true,
            more: false,
            data_len: text.len() as u32,
            lun,
            itt,
            ttt,
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
        };
        self.out.pdu(&pdu.to_bhs(), &[], text, self.digests);
    }

    fn tasks_ended_by(&self, function: TmfFunction, lun: [u8; 8], referenced: Option<Itt>) -> Vec<Itt> {
        let scsi = |entry: &Entry| match &entry.task {
            Task::Scsi(task) => Some(task.command.lun),
            _ => None,
        };
        let matches = |itt: Itt, entry: &Entry| match function {
            TmfFunction::AbortTask => Some(itt) == referenced && scsi(entry).is_some(),
            TmfFunction::AbortTaskSet | TmfFunction::ClearTaskSet | TmfFunction::LogicalUnitReset => {
                scsi(entry) == Some(lun)
            }
            TmfFunction::TargetWarmReset | TmfFunction::TargetColdReset | TmfFunction::ItNexusReset => {
                scsi(entry).is_some()
            }
            _ => false,
        };
        self.tasks
            .iter()
            .map(|(&itt, entry)| (Itt(itt), entry))
            .filter(|(itt, entry)| matches(*itt, entry))
            .map(|(itt, _)| itt)
            .collect()
    }
}
