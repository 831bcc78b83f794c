//! Logging in, and the few questions asked before the load begins.
//!
//! The test initiator's engine does the login: it negotiates and checks every answer. Then the socket, the
//! sequence numbers and the agreed parameters are taken over by [`crate::conn`]. Bytes are read PDU by PDU here, so
//! that none belonging to the full feature phase is lost on the way.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use spindle_initiator::{
    Command, Completion, Config, Direction, Event, InitiatorConn, Params, State, Window, tcp,
};
use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::keys::name;
use spindle_iscsi_wire::{BHS_LEN, Bhs, Isid, SerialNumber};

use crate::url::Url;
use crate::workload::Workload;

/// A connection in full feature phase with nothing outstanding.
pub struct LoggedIn {
    /// Its socket, blocking.
    pub stream: TcpStream,
    /// What was agreed.
    pub params: Params,
    /// Handle of the session.
    pub tsih: u16,
    /// Command window.
    pub window: Window,
    /// StatSN of the next response.
    pub exp_stat_sn: SerialNumber,
}

impl LoggedIn {
    /// Digests in force.
    pub fn digests(&self) -> Digests {
        Digests { header: self.params.header_digest, data: self.params.data_digest }
    }
}

/// Size of a logical unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes of one.
    pub block_len: u32,
}

/// Which connection of which session.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Number of the session: becomes its ISID.
    pub session: u32,
    /// Handle of the session to join; 0 for a new one.
    pub tsih: u16,
    /// CID.
    pub cid: u16,
    /// CmdSN to go on with.
    pub cmd_sn: SerialNumber,
}

impl Place {
    /// The first connection of a session.
    pub fn first_of(session: u32) -> Self {
        Self { session, tsih: 0, cid: 1, cmd_sn: SerialNumber(1) }
    }
}

/// An answer must come within this time.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A well-behaved target has told all its unit attentions after so many tries.
const ATTENTIONS_MAX: u32 = 16;

/// The engine with a blocking socket that is read PDU by PDU.
struct Dialogue {
    stream: TcpStream,
    conn: InitiatorConn,
    start: Instant,
    buffer: Vec<u8>,
}

impl Dialogue {
    fn wait(&mut self, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        loop {
            while let Some(event) = self.conn.next_event() {
                match event {
                    event if wanted(&event) => return Ok(event),
                    Event::Violation(violation) => bail!("the target broke a rule: {violation}"),
                    Event::LoginFailed { status, address } => bail!(
                        "login refused with status {:02x}{:02x}{}",
                        status.class,
                        status.detail,
                        address.map_or(String::new(), |a| format!(", moved to {a}"))
                    ),
                    Event::Rejected { reason, .. } => bail!("the target rejected a PDU: {reason:?}"),
                    Event::Broken => bail!("the stream cannot be followed any further"),
                    _ => {}
                }
            }
            ensure!(self.start.elapsed() < 4 * ANSWER_MAX, "the target does not come to an end");
            self.stream.write_all(self.conn.output())?;
            let sent = self.conn.output().len();
            self.conn.consume(sent);
            self.read_pdu()?;
        }
    }

    fn read_pdu(&mut self) -> Result<()> {
        let digests = if self.conn.state() == State::FullFeature {
            let params = self.conn.params();
            Digests { header: params.header_digest, data: params.data_digest }
        } else {
            Digests::default()
        };
        let mut header: Bhs = [0; BHS_LEN];
        self.stream.read_exact(&mut header).context("no answer from the target")?;
        let rest = bhs::pdu_bytes(&header, digests) as usize - BHS_LEN;
        self.buffer.clear();
        self.buffer.extend_from_slice(&header);
        self.buffer.resize(BHS_LEN + rest, 0);
        self.stream
            .read_exact(&mut self.buffer[BHS_LEN..])
            .context("the target stopped in the middle of a PDU")?;
        self.conn.on_bytes(self.start.elapsed(), &self.buffer);
        Ok(())
    }

    fn command(&mut self, lun: u16, cdb: &[u8], direction: Direction) -> Result<Completion> {
        let command = Command::new(tcp::lun_bytes(lun), cdb, direction);
        let itt = match self.conn.command(self.start.elapsed(), command) {
            Ok(itt) => itt,
            Err(refused) => bail!("a command could not be sent: {refused:?}"),
        };
        match self.wait(|event| matches!(event, Event::Done(done) if done.itt == itt))? {
            Event::Done(done) => Ok(done),
            _ => unreachable!("only this event was waited for"),
        }
    }

    fn done(self) -> Result<LoggedIn> {
        ensure!(self.conn.outstanding() == 0, "commands are still outstanding");
        Ok(LoggedIn {
            params: self.conn.params().clone(),
            tsih: self.conn.tsih(),
            window: self.conn.window(),
            exp_stat_sn: self.conn.exp_stat_sn(),
            stream: self.stream,
        })
    }
}

fn open(url: &Url, work: &Workload, place: Place) -> Result<Dialogue> {
    let address = url.portal.to_socket_addrs().with_context(|| format!("{} is no address", url.portal))?;
    let address = address.into_iter().next().with_context(|| format!("{} has no address", url.portal))?;
    let stream = TcpStream::connect_timeout(&address, ANSWER_MAX)
        .with_context(|| format!("no connection to {}", url.portal))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let config = config(url, work, place);
    let conn = InitiatorConn::new(config, Duration::ZERO);
    let mut dialogue = Dialogue { stream, conn, start: Instant::now(), buffer: Vec::new() };
    dialogue.wait(|event| matches!(event, Event::LoggedIn { .. }))?;
    Ok(dialogue)
}

fn config(url: &Url, work: &Workload, place: Place) -> Config {
    let yes_no = |yes: bool| if yes { "Yes" } else { "No" };
    let digest = |on: bool| if on { "CRC32C" } else { "None" };
    let mut config = Config::normal("iqn.2026-01.org.example:spindle-perf", &url.target);
    let [a, b, c, d] = place.session.to_be_bytes();
    // Concurrent runs on one target must not reinstate each other's sessions: the process is part of the ISID.
    let [p, q] = (std::process::id() as u16).to_be_bytes();
    // RFC 7143 §11.12.5: type 10b leaves five bytes to chance and qualifier.
    config.isid = Isid([0x80 | (a & 0x3F), p, q, b, c, d]);
    config.tsih = place.tsih;
    config.cid = place.cid;
    config.cmd_sn = place.cmd_sn;
    config.offers = config
        .offers
        .with(name::HEADER_DIGEST, digest(work.header_digest))
        .with(name::DATA_DIGEST, digest(work.data_digest))
        .with(name::MAX_CONNECTIONS, &work.connections.to_string())
        .with(name::INITIAL_R2T, yes_no(work.offers.initial_r2t))
        .with(name::IMMEDIATE_DATA, yes_no(work.offers.immediate))
        .with(name::MAX_OUTSTANDING_R2T, "1");
    config
}

/// Logs in a connection, and asks nothing.
pub fn login(url: &Url, work: &Workload, place: Place) -> Result<LoggedIn> {
    open(url, work, place).and_then(Dialogue::done).with_context(|| format!("login to {url}"))
}

/// Logs in, lets the logical unit tell its unit attentions, and asks its size.
pub fn login_and_measure(url: &Url, work: &Workload, place: Place) -> Result<(LoggedIn, Geometry)> {
    let measured = || -> Result<(LoggedIn, Geometry)> {
        let mut dialogue = open(url, work, place)?;
        // SAM-5 §5.14: unit attentions are told one command at a time.
        let mut tries = 0;
        loop {
            let done = dialogue.command(url.lun, &[0; 6], Direction::None)?;
            tries += 1;
            match done.status {
                0 => break,
                _ if tries < ATTENTIONS_MAX => {}
                status => {
                    bail!("LUN {} is not ready: status {status:02x}, sense {:02x?}", url.lun, done.sense)
                }
            }
        }
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x9E, 0x10, 32); // READ CAPACITY(16)
        let done = dialogue.command(url.lun, &cdb, Direction::Read(32))?;
        ensure!(done.status == 0, "READ CAPACITY(16): status {:02x}, sense {:02x?}", done.status, done.sense);
        let (Some(last), Some(len)) = (done.data.first_chunk::<8>(), done.data.get(8..12)) else {
            bail!("READ CAPACITY(16) returned {} bytes", done.data.len());
        };
        let block_len = u32::from_be_bytes(len.try_into().expect("four bytes were taken"));
        let blocks = u64::from_be_bytes(*last).checked_add(1).context("the capacity is not known")?;
        ensure!(block_len.is_power_of_two() && block_len >= 512, "logical blocks of {block_len} bytes");
        Ok((dialogue.done()?, Geometry { blocks, block_len }))
    };
    measured().with_context(|| format!("login to {url}"))
}
