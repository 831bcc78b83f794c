//! One connection: what may be sent when, and who is told what came.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use spindle_iscsi_wire::ahs::CommandAhs;
use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::keys::{TextBuf, name};
use spindle_iscsi_wire::login::LoginFlags;
use spindle_iscsi_wire::{
    Bhs, DataIn, DataOut, InitiatorOpcode, Itt, LoginRequest, LoginResponse, LogoutReason, LogoutRequest,
    LogoutResult, NopIn, NopOut, R2t, Reject, ScsiCommand, ScsiResponse, SerialNumber, TargetPdu,
    TextRequest, TextResponse, TmfFunction, TmfRequest, TmfResponse, TmfResult, Ttt, scsi,
};

use crate::config::{Config, R2tPolicy};
use crate::data::{Command, Direction, ScsiTask};
use crate::event::Event;
use crate::login::{Login, Step};
use crate::negotiate::Params;
use crate::rx::Partial;
use crate::session::Window;
use crate::text::{TextStep, TextTask};
use crate::tx::Out;
use crate::violation::{Violation, What};

/// Where the connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Logging in.
    Login,
    /// Full feature phase.
    FullFeature,
    /// The target refused the login.
    Refused,
    /// A logout was answered with success.
    LoggedOut,
    /// The stream cannot be followed any further.
    Broken,
}

/// Why a request was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Not in full feature phase.
    NotLoggedIn,
    /// CmdSN has reached MaxCmdSN.
    WindowClosed,
    /// A CDB of more than 260 bytes, or more data than a length field can say.
    TooLong,
}

struct Entry {
    sent_at: Duration,
    silent: bool,
    cmd_sn: SerialNumber,
    task: Task,
}

enum Task {
    Scsi(Box<ScsiTask>),
    Tmf { ends: Vec<Itt> },
    Text(TextTask),
    Ping(Vec<u8>),
    Logout { ends: bool },
}

/// One connection of an initiator, as a pure state machine. See the crate's page for how to drive it.
pub struct InitiatorConn {
    config: Config,
    state: State,
    login: Option<Box<Login>>,
    params: Params,
    digests: Digests,
    tsih: u16,
    window: Window,
    /// StatSN of the next response; unknown before the first.
    exp_stat_sn: Option<SerialNumber>,
    login_itt: Itt,
    next_itt: u32,
    tasks: BTreeMap<u32, Entry>,
    out: Out,
    partial: Partial,
    whole: Vec<u8>,
    events: VecDeque<Event>,
    wrong: Vec<What>,
    now: Duration,
}

const CDB_LEN_MAX: usize = 260;
/// Data of a login response: the default before anything is negotiated (RFC 7143 §13.12).
const LOGIN_DATA_MAX: u32 = 8192;

impl InitiatorConn {
    /// A connection just made; its first login request is ready to be sent.
    pub fn new(config: Config, now: Duration) -> Self {
        let (login, step) = Login::start(&config);
        let mut conn = Self {
            state: State::Login,
            login: Some(Box::new(login)),
            params: Params::default(),
            digests: Digests::default(),
            tsih: config.tsih,
            window: Window::new(config.cmd_sn),
            exp_stat_sn: None,
            login_itt: Itt::RESERVED,
            next_itt: config.itt,
            tasks: BTreeMap::new(),
            out: Out::default(),
            partial: Partial::default(),
            whole: Vec::new(),
            events: VecDeque::new(),
            wrong: Vec::new(),
            now,
            config,
        };
        conn.login_itt = conn.take_itt();
        conn.login_step(step);
        conn
    }

    /// Where the connection is.
    pub fn state(&self) -> State {
        self.state
    }

    /// What the login came to; defaults before.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// TSIH of the session.
    pub fn tsih(&self) -> u16 {
        self.tsih
    }

    /// The command window.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Sets the command window: of a session with several connections, or a false one on purpose.
    pub fn set_window(&mut self, window: Window) {
        self.window = window;
    }

    /// The ExpStatSN that goes into the next PDU.
    pub fn exp_stat_sn(&self) -> SerialNumber {
        self.exp_stat_sn.unwrap_or_default()
    }

    /// Requests not yet answered.
    pub fn outstanding(&self) -> usize {
        self.tasks.len()
    }

    /// Bytes for the target.
    pub fn output(&self) -> &[u8] {
        self.out.waiting()
    }

    /// `n` bytes of the output were sent.
    pub fn consume(&mut self, n: usize) {
        self.out.consume(n);
    }

    /// What happened next.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Bytes from the target, cut anywhere.
    pub fn on_bytes(&mut self, now: Duration, mut input: &[u8]) {
        self.now = now;
        while matches!(self.state, State::Login | State::FullFeature) {
            let mut whole = std::mem::take(&mut self.whole);
            let max = if self.state == State::Login { LOGIN_DATA_MAX } else { self.params.max_recv };
            match self.partial.next(&mut input, self.digests, max, &mut whole) {
                Ok(None) => return,
                Ok(Some(frame)) => self.on_pdu(frame.bhs, frame.data),
                Err(what) => {
                    self.wrong.push(what);
                    self.report(None);
                    self.break_off();
                }
            }
            self.whole = whole;
        }
    }

    /// Time has passed: requests without an answer are reported.
    pub fn on_tick(&mut self, now: Duration) {
        self.now = now;
        let Some(max) = self.config.silence_max else { return };
        for (&itt, entry) in &mut self.tasks {
            if !entry.silent && now.saturating_sub(entry.sent_at) >= max {
                entry.silent = true;
                self.events.push_back(Event::Silent { itt: Itt(itt) });
            }
        }
    }

    /// When the next request becomes silent.
    pub fn next_deadline(&self) -> Option<Duration> {
        let max = self.config.silence_max?;
        self.tasks.values().filter(|entry| !entry.silent).map(|entry| entry.sent_at + max).min()
    }

    // -- Requests -------------------------------------------------------------------------------------

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

    /// Answers an R2T given out under [`R2tPolicy::Hold`].
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

    // -- Sending --------------------------------------------------------------------------------------

    fn take_cmd_sn(&mut self, immediate: bool) -> Result<SerialNumber, Refused> {
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

    fn text_request(&mut self, itt: Itt, cmd_sn: SerialNumber, lun: [u8; 8], ttt: Ttt, text: &[u8]) {
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

    fn login_step(&mut self, step: Step) {
        match step {
            Step::Send(flags, text) => self.login_request(flags, &text),
            Step::Done { tsih } => {
                let login = self.login.take().expect("a login is only ever done once");
                self.params = login.negotiation.params();
                // RFC 7143 §13.1: digests begin with the first PDU of full feature phase.
                self.digests = Digests { header: self.params.header_digest, data: self.params.data_digest };
                self.tsih = tsih;
                self.state = State::FullFeature;
                self.report(None);
                self.events.push_back(Event::LoggedIn { tsih });
            }
            Step::Refused { status, address } => {
                self.state = State::Refused;
                self.report(None);
                self.events.push_back(Event::LoginFailed { status, address });
            }
            Step::Broken => {
                self.report(None);
                self.break_off();
            }
        }
    }

    fn login_request(&mut self, flags: LoginFlags, text: &[u8]) {
        let pdu = LoginRequest {
            flags,
            version_max: 0,
            version_min: 0,
            data_len: text.len() as u32,
            isid: self.config.isid,
            tsih: self.config.tsih,
            itt: self.login_itt,
            cid: self.config.cid,
            cmd_sn: self.window.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
        };
        self.out.pdu(&pdu.to_bhs(), &[], text, self.digests);
    }

    // -- Receiving ------------------------------------------------------------------------------------

    fn on_pdu(&mut self, header: &Bhs, data: &[u8]) {
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

    // -- Sequence numbers and rules -------------------------------------------------------------------

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
    fn report(&mut self, itt: Option<Itt>) {
        self.events.extend(self.wrong.drain(..).map(|what| Event::Violation(Violation { itt, what })));
    }

    fn break_off(&mut self) {
        self.state = State::Broken;
        self.events.push_back(Event::Broken);
    }
}
