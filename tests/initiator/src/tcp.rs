//! The engine over a blocking TCP socket: for conformance tests on a running target.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use spindle_iscsi_wire::{Itt, LoginStatus, LogoutReason, RejectReason, TmfFunction, TmfResult};

use crate::config::Config;
use crate::conn::{InitiatorConn, Refused, State};
use crate::data::{Command, Completion, Direction};
use crate::event::{DiscoveredTarget, Event};
use crate::violation::Violation;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The target closed the connection.
    #[error("the target closed the connection")]
    Closed,
    /// The target refused the login.
    #[error("login refused with status {:02x}{:02x}, address {address:?}", status.class, status.detail)]
    Login {
        /// Why.
        status: LoginStatus,
        /// Where to go instead.
        address: Option<String>,
    },
    /// The target broke a rule.
    #[error("the target broke a rule: {0}")]
    Violation(Violation),
    /// The target refused a PDU.
    #[error("PDU rejected: {0:?}")]
    Rejected(RejectReason),
    /// The engine did not send the request.
    #[error("not sent: {0:?}")]
    NotSent(Refused),
    /// A command ended with another status than GOOD.
    #[error("status {:02x}, sense {:02x?}", .0.status, .0.sense)]
    Status(Box<Completion>),
    /// The task ended by a task management function.
    #[error("aborted")]
    Aborted,
}

/// How long a target may take for one answer, unless told otherwise.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A session of one connection.
pub struct TcpInitiator {
    stream: TcpStream,
    conn: InitiatorConn,
    start: Instant,
    answer_max: Duration,
    strict: bool,
    violations: Vec<Violation>,
    /// Events nobody has asked for yet.
    events: Vec<Event>,
    buffer: Vec<u8>,
}

impl TcpInitiator {
    /// Connects, without waiting for the login.
    pub fn connect(address: impl ToSocketAddrs, config: Config) -> Result<Self, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            conn: InitiatorConn::new(config, Duration::ZERO),
            start: Instant::now(),
            answer_max: ANSWER_MAX,
            strict: true,
            violations: Vec::new(),
            events: Vec::new(),
            buffer: vec![0; 256 * 1024],
        })
    }

    /// Connects and logs in.
    pub fn login(address: impl ToSocketAddrs, config: Config) -> Result<Self, Error> {
        let mut initiator = Self::connect(address, config)?;
        initiator.wait(|event| matches!(event, Event::LoggedIn { .. }))?;
        Ok(initiator)
    }

    /// Changes how long an answer may take.
    pub fn set_answer_max(&mut self, max: Duration) {
        self.answer_max = max;
    }

    /// Whether a violation ends what is waited for. Otherwise it is only remembered.
    pub fn set_strict(&mut self, strict: bool) {
        self.strict = strict;
    }

    /// Violations so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The engine, for requests without a method here. What it has to send goes out with the next
    /// [`Self::flush`] or wait.
    pub fn engine(&mut self) -> &mut InitiatorConn {
        &mut self.conn
    }

    /// The time that the engine is told.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Sends what is waiting.
    pub fn flush(&mut self) -> Result<(), Error> {
        // Both sides may be full of data for each other: what cannot be sent at once makes us read.
        self.stream.set_nonblocking(true)?;
        let result = self.flush_nonblocking();
        self.stream.set_nonblocking(false)?;
        result
    }

    fn flush_nonblocking(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        while !self.conn.output().is_empty() {
            match self.stream.write(self.conn.output()) {
                Ok(0) => return Err(Error::Closed),
                Ok(n) => self.conn.consume(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if start.elapsed() > self.answer_max {
                        return Err(Error::Timeout(self.answer_max));
                    }
                    match self.stream.read(&mut self.buffer) {
                        Ok(0) => return Err(Error::Closed),
                        Ok(n) => self.conn.on_bytes(self.start.elapsed(), &self.buffer[..n]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            std::thread::sleep(Duration::from_micros(100));
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for an event; others are kept for later waits. A violation, a refused login and a broken stream
    /// end every wait.
    pub fn wait(&mut self, wanted: impl Fn(&Event) -> bool) -> Result<Event, Error> {
        let start = Instant::now();
        loop {
            while let Some(event) = self.conn.next_event() {
                if let Event::Violation(violation) = &event {
                    self.violations.push(violation.clone());
                    if !self.strict {
                        continue;
                    }
                }
                self.events.push(event);
            }
            if let Some(at) = self.events.iter().position(|event| wanted(event) || is_fatal(event)) {
                return match self.events.remove(at) {
                    event if wanted(&event) => Ok(event),
                    Event::Violation(violation) => Err(Error::Violation(violation)),
                    Event::LoginFailed { status, address } => Err(Error::Login { status, address }),
                    _ => Err(Error::Closed),
                };
            }
            self.flush()?;
            let left = self.answer_max.checked_sub(start.elapsed()).filter(|left| !left.is_zero());
            let Some(left) = left else { return Err(Error::Timeout(self.answer_max)) };
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(Error::Closed),
                Ok(n) => self.conn.on_bytes(self.start.elapsed(), &self.buffer[..n]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(Error::Timeout(self.answer_max));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a command without waiting.
    pub fn submit(&mut self, command: Command) -> Result<Itt, Error> {
        let now = self.now();
        let itt = self.conn.command(now, command).map_err(Error::NotSent)?;
        self.flush()?;
        Ok(itt)
    }

    /// Waits for the end of a command.
    pub fn wait_done(&mut self, itt: Itt) -> Result<Completion, Error> {
        let ended = self.wait(|event| match event {
            Event::Done(done) => done.itt == itt,
            Event::TmfDone { ended, .. } => ended.contains(&itt),
            Event::Rejected { itt: rejected, .. } => *rejected == Some(itt),
            _ => false,
        })?;
        match ended {
            Event::Done(done) => Ok(done),
            Event::Rejected { reason, .. } => Err(Error::Rejected(reason)),
            other => {
                // Whoever sent the task management function still waits for its answer.
                self.events.push(other);
                Err(Error::Aborted)
            }
        }
    }

    /// Runs a command to its end, whatever its status.
    pub fn command(&mut self, lun: u16, cdb: &[u8], direction: Direction) -> Result<Completion, Error> {
        let itt = self.submit(Command::new(lun_bytes(lun), cdb, direction))?;
        self.wait_done(itt)
    }

    /// Runs a command that is to end GOOD.
    pub fn good(&mut self, lun: u16, cdb: &[u8], direction: Direction) -> Result<Completion, Error> {
        let done = self.command(lun, cdb, direction)?;
        if done.status == 0 { Ok(done) } else { Err(Error::Status(Box::new(done))) }
    }

    /// READ(16).
    pub fn read(&mut self, lun: u16, lba: u64, blocks: u32, block_len: u32) -> Result<Vec<u8>, Error> {
        let len = blocks.checked_mul(block_len).ok_or(Error::NotSent(Refused::TooLong))?;
        Ok(self.good(lun, &cdb_16(0x88, lba, blocks), Direction::Read(len))?.data)
    }

    /// WRITE(16). The data is a whole number of blocks.
    pub fn write(&mut self, lun: u16, lba: u64, block_len: u32, data: &[u8]) -> Result<(), Error> {
        let blocks = u32::try_from(data.len() / block_len.max(1) as usize);
        let blocks = blocks.map_err(|_| Error::NotSent(Refused::TooLong))?;
        self.good(lun, &cdb_16(0x8A, lba, blocks), Direction::Write(Arc::from(data)))?;
        Ok(())
    }

    /// INQUIRY: standard data, or a page of vital product data.
    pub fn inquiry(&mut self, lun: u16, page: Option<u8>, len: u16) -> Result<Vec<u8>, Error> {
        let [high, low] = len.to_be_bytes();
        let cdb = [0x12, u8::from(page.is_some()), page.unwrap_or(0), high, low, 0];
        Ok(self.good(lun, &cdb, Direction::Read(u32::from(len)))?.data)
    }

    /// READ CAPACITY(16): number of blocks and their length.
    pub fn capacity(&mut self, lun: u16) -> Result<(u64, u32), Error> {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x9E, 0x10, 32);
        let done = self.good(lun, &cdb, Direction::Read(32))?;
        let (Some(last), Some(len)) = (done.data.first_chunk::<8>(), done.data.get(8..12)) else {
            return Err(Error::Status(Box::new(done)));
        };
        let len = u32::from_be_bytes(len.try_into().expect("four bytes were taken"));
        Ok((u64::from_be_bytes(*last).wrapping_add(1), len))
    }

    /// Runs a task management function.
    pub fn tmf(
        &mut self,
        function: TmfFunction,
        lun: u16,
        referenced: Option<Itt>,
    ) -> Result<TmfResult, Error> {
        let now = self.now();
        let itt = self.conn.tmf(now, function, lun_bytes(lun), referenced, true).map_err(Error::NotSent)?;
        match self.wait(|event| matches!(event, Event::TmfDone { itt: done, .. } if *done == itt))? {
            Event::TmfDone { result, .. } => Ok(result),
            _ => unreachable!("only this event was waited for"),
        }
    }

    /// SendTargets.
    pub fn send_targets(&mut self, which: &str) -> Result<Vec<DiscoveredTarget>, Error> {
        let now = self.now();
        let itt = self.conn.send_targets(now, which).map_err(Error::NotSent)?;
        let wanted = |event: &Event| match event {
            Event::Text { itt: done, .. } => *done == itt,
            Event::Rejected { itt: rejected, .. } => *rejected == Some(itt),
            _ => false,
        };
        match self.wait(wanted)? {
            Event::Text { pairs, .. } => Ok(DiscoveredTarget::list(&pairs)),
            Event::Rejected { reason, .. } => Err(Error::Rejected(reason)),
            _ => unreachable!("only these events were waited for"),
        }
    }

    /// Pings the target and waits for the echo.
    pub fn ping(&mut self, data: &[u8]) -> Result<Vec<u8>, Error> {
        let now = self.now();
        let itt = self.conn.ping(now, data).map_err(Error::NotSent)?;
        match self.wait(|event| matches!(event, Event::Pong { itt: done, .. } if *done == itt))? {
            Event::Pong { data, .. } => Ok(data),
            _ => unreachable!("only this event was waited for"),
        }
    }

    /// Ends the session.
    pub fn logout(mut self) -> Result<(), Error> {
        if self.conn.state() == State::FullFeature {
            let now = self.now();
            self.conn.logout(now, LogoutReason::CloseSession, 0).map_err(Error::NotSent)?;
            self.wait(|event| matches!(event, Event::LoggedOut(_)))?;
        }
        Ok(())
    }
}

fn is_fatal(event: &Event) -> bool {
    matches!(event, Event::Violation(_) | Event::LoginFailed { .. } | Event::Broken)
}

/// Single-level LUN structure (SAM-5 §4.7.5): peripheral addressing below 256, flat space above.
pub fn lun_bytes(lun: u16) -> [u8; 8] {
    let [high, low] = if lun < 256 { lun.to_be_bytes() } else { (lun & 0x3FFF | 0x4000).to_be_bytes() };
    [high, low, 0, 0, 0, 0, 0, 0]
}

fn cdb_16(opcode: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}
