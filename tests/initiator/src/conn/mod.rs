//! One connection. Here: its state, its life, and the way through login; in `request` what it sends, in `receive`
//! what it makes of the target's PDUs.

mod receive;
mod request;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use spindle_iscsi_wire::bhs::Digests;
use spindle_iscsi_wire::login::LoginFlags;
use spindle_iscsi_wire::{Itt, LoginRequest, SerialNumber};

use crate::config::Config;
use crate::data::ScsiTask;
use crate::event::Event;
use crate::login::{Login, Step};
use crate::negotiate::Params;
use crate::rx::Partial;
use crate::session::Window;
use crate::text::TextTask;
use crate::tx::Out;
use crate::violation::What;

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
}
