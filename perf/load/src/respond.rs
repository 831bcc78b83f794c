//! The least that passes for an iSCSI target: it logs anybody in and answers READ and WRITE at once.
//!
//! It exists to see how fast the generator is, and to test it without a real target. It stands between [`crate::wire`]
//! and a target: the bytes are those of iSCSI, and nothing is decided. There is no task management, no session, and
//! each connection has a memory of its own, which the others do not see.

use std::collections::VecDeque;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use spindle_ffi_os::socket::set_receive_room;
use spindle_iscsi_wire::bhs::Digests;
use spindle_iscsi_wire::keys::name;
use spindle_iscsi_wire::login::LoginFlags;
use spindle_iscsi_wire::{
    BHS_LEN, Bhs, DataIn, DataInStatus, DataOut, InitiatorOpcode, Itt, LoginRequest, LoginResponse,
    LoginStatus, LogoutRequest, LogoutResponse, LogoutResult, R2t, Residual, ScsiCommand, ScsiResponse,
    SerialNumber, ServiceResponse, Stage, Ttt,
};

use crate::conn::rx::{Rx, Sink, crc32c};
use crate::conn::tx::{Sizes, Tx};
use crate::wire::RECEIVE_ROOM;

/// The name it answers to.
pub const TARGET: &str = "iqn.2026-01.org.example:respond";
const BLOCK: usize = 512;
const WINDOW: u32 = 4096;
/// Connections at once.
const CONNECTIONS_MAX: usize = 4096;
/// Answers are sent when so much has gathered, or the input is at its end.
const FLUSH_BYTES: usize = 64 * 1024;
const ANSWERS_MAX: usize = 8192;
/// FirstBurstLength, MaxBurstLength, MaxRecvDataSegmentLength at most.
const SEGMENT_MAX: u32 = 262_144;

/// What the responder is.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Bytes of memory of each connection.
    pub bytes: usize,
    /// Bytes it claims to have; addresses go round within the memory it has.
    pub claimed: u64,
}

impl Disk {
    /// Claims a gigabyte, and sends from and receives into a single megabyte.
    pub fn null() -> Self {
        Self { bytes: 1 << 20, claimed: 1 << 30 }
    }

    /// Has what it claims.
    pub fn ram(bytes: usize) -> Self {
        Self { bytes, claimed: bytes as u64 }
    }
}

/// Serves until told to stop.
pub fn serve(listener: &TcpListener, disk: Disk, stop: &AtomicBool) -> Result<()> {
    ensure!(disk.bytes >= 1 << 20 && disk.bytes.is_multiple_of(BLOCK), "the memory is at least 1 MiB");
    listener.set_nonblocking(true)?;
    let _ = set_receive_room(listener, RECEIVE_ROOM);
    let mut conns: Vec<Conn> = Vec::new();
    let mut turns = 0u32;
    while !stop.load(Ordering::Relaxed) {
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(1024) || conns.is_empty() {
            if let Ok((stream, _)) = listener.accept() {
                if conns.len() < CONNECTIONS_MAX {
                    conns.push(Conn::new(stream, disk)?);
                }
            } else if conns.is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        // A connection that ends or breaks the rules goes; the others stay.
        conns.retain_mut(|conn| conn.turn().is_ok());
    }
    Ok(())
}

struct Conn {
    stream: TcpStream,
    rx: Rx,
    state: State,
}

struct State {
    tx: Tx,
    disk: Disk,
    digests: Digests,
    /// Digests agreed on.
    agreed: Digests,
    /// The login response that ends the login is on its way.
    logged_in: bool,
    text: Vec<u8>,
    stat_sn: SerialNumber,
    exp_cmd_sn: SerialNumber,
    initial_r2t: bool,
    first_burst: u32,
    /// WRITEs whose data has not come yet.
    writes: Vec<Write>,
    answers: VecDeque<Answer>,
    sends: u64,
    leaving: bool,
}

#[derive(Clone, Copy)]
struct Write {
    itt: Itt,
    lba: u64,
    bytes: u32,
    got: u32,
    /// Asked for up to here.
    asked: u32,
}

enum Answer {
    Read { itt: Itt, lba: u64, bytes: u32 },
    Written(Itt),
    R2t { itt: Itt, offset: u32, len: u32 },
    Capacity(Itt),
    Plain(Bhs, Vec<u8>),
}

impl Conn {
    fn new(stream: TcpStream, disk: Disk) -> Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let state = State {
            // The tail of the data area holds what is not disk: parameter data.
            tx: Tx::new(Sizes {
                header_digest: 0,
                data: disk.bytes + PARAMETER_BYTES,
                busy: true,
                ..Sizes::default()
            }),
            disk,
            digests: Digests::default(),
            agreed: Digests::default(),
            logged_in: false,
            text: Vec::new(),
            stat_sn: SerialNumber(1),
            exp_cmd_sn: SerialNumber(1),
            initial_r2t: true,
            first_burst: SEGMENT_MAX,
            writes: Vec::new(),
            answers: VecDeque::new(),
            sends: 0,
            leaving: false,
        };
        Ok(Self { stream, rx: Rx::new(256 * 1024, Digests::default()), state })
    }

    fn turn(&mut self) -> Result<()> {
        let got = self.rx.fill(&mut self.stream)?;
        if got > 0 {
            self.rx.parse(&mut self.state)?;
        }
        while self.state.build()? {
            if !self.state.tx.flush(&mut self.stream, &mut self.state.sends)? {
                return Ok(());
            }
            if std::mem::take(&mut self.state.logged_in) {
                // RFC 7143 §13.1: digests begin with full feature phase.
                let agreed = self.state.agreed;
                self.state.digests = agreed;
                self.rx.set_digests(agreed);
                let header_digest = if agreed.header { 4 } else { 0 };
                let data = self.state.disk.bytes + PARAMETER_BYTES;
                self.state.tx = Tx::new(Sizes { header_digest, data, busy: true, ..Sizes::default() });
            }
        }
        if self.state.leaving {
            bail!("logged out");
        }
        Ok(())
    }
}

const PARAMETER_BYTES: usize = 16 * 1024;

impl State {
    /// Queues answers; `false` if there is nothing to send.
    fn build(&mut self) -> Result<bool> {
        while self.tx.has_head() && self.tx.queued_bytes() < FLUSH_BYTES {
            let Some(answer) = self.answers.pop_front() else { break };
            match answer {
                Answer::Read { itt, lba, bytes } => {
                    let at = self.at(lba);
                    let (len, more) = (bytes.min(SEGMENT_MAX), bytes.saturating_sub(SEGMENT_MAX));
                    self.data_in(itt, at, len, 0, more == 0);
                    let mut offset = len;
                    // Longer reads are rare: their PDUs are all queued together, as far as there are slots.
                    while offset < bytes {
                        ensure!(self.tx.has_head(), "a read of {bytes} bytes is too long for this responder");
                        let len = (bytes - offset).min(SEGMENT_MAX);
                        let at = self.at(lba + u64::from(offset) / BLOCK as u64);
                        self.data_in(itt, at, len, offset, offset + len == bytes);
                        offset += len;
                    }
                }
                Answer::Capacity(itt) => {
                    let at = self.disk.bytes;
                    let last = self.disk.claimed / BLOCK as u64 - 1;
                    let data = self.tx.data(at, 32);
                    data.fill(0);
                    data[..8].copy_from_slice(&last.to_be_bytes());
                    data[8..12].copy_from_slice(&(BLOCK as u32).to_be_bytes());
                    self.data_in(itt, at, 32, 0, true);
                }
                Answer::Written(itt) => {
                    let pdu = self.response(itt, 0);
                    self.push_head(&pdu);
                }
                Answer::R2t { itt, offset, len } => {
                    let pdu = R2t {
                        lun: [0; 8],
                        itt,
                        ttt: Ttt(itt.0 & 0x7FFF_FFFF),
                        stat_sn: self.stat_sn,
                        exp_cmd_sn: self.exp_cmd_sn,
                        max_cmd_sn: self.max_cmd_sn(),
                        r2t_sn: SerialNumber(offset / SEGMENT_MAX),
                        buffer_offset: offset,
                        desired_len: len,
                    };
                    self.push_head(&pdu.to_bhs());
                }
                Answer::Plain(header, data) => {
                    ensure!(data.len() <= PARAMETER_BYTES, "too much text");
                    // One at a time: the place for its data is shared.
                    if !self.tx.is_empty() {
                        self.answers.push_front(Answer::Plain(header, data));
                        break;
                    }
                    let at = self.disk.bytes;
                    self.tx.data(at, data.len()).copy_from_slice(&data);
                    self.push_head(&header);
                    self.push_segment(at, data.len());
                    break;
                }
            }
        }
        Ok(!self.tx.is_empty())
    }

    fn at(&self, lba: u64) -> usize {
        // The longest command fits behind the last block that is its first.
        let blocks = (self.disk.bytes / BLOCK) as u64;
        (lba % blocks) as usize * BLOCK
    }

    fn max_cmd_sn(&self) -> SerialNumber {
        self.exp_cmd_sn.plus(WINDOW - 1)
    }

    fn next_stat_sn(&mut self) -> SerialNumber {
        let now = self.stat_sn;
        self.stat_sn = now.next();
        now
    }

    fn data_in(&mut self, itt: Itt, at: usize, len: u32, offset: u32, last: bool) {
        let status =
            last.then(|| DataInStatus { status: 0, stat_sn: self.next_stat_sn(), residual: Residual::None });
        let pdu = DataIn {
            is_final: last,
            ack: false,
            status,
            data_len: len,
            lun: [0; 8],
            itt,
            ttt: Ttt::RESERVED,
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            data_sn: SerialNumber(offset / SEGMENT_MAX),
            buffer_offset: offset,
        };
        self.push_head(&pdu.to_bhs());
        self.push_segment(at, len as usize);
    }

    fn response(&mut self, itt: Itt, status: u8) -> Bhs {
        ScsiResponse {
            response: ServiceResponse::CommandCompleted,
            status,
            status_qualifier: 0,
            residual: Residual::None,
            bidi_residual: Residual::None,
            data_len: 0,
            itt,
            snack_tag: 0,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            exp_data_sn: SerialNumber(0),
        }
        .to_bhs()
    }

    fn push_head(&mut self, header: &Bhs) {
        let slot = self.tx.push_head();
        slot[..BHS_LEN].copy_from_slice(header);
        if self.digests.header {
            slot[BHS_LEN..].copy_from_slice(&crc32c(header));
        }
    }

    fn push_segment(&mut self, at: usize, len: usize) {
        if len == 0 {
            return;
        }
        self.tx.push_data(at, len);
        let pad = len.wrapping_neg() & 3;
        let mut padded = self.digests.data.then(|| self.tx.data(at, len).to_vec());
        match &mut padded {
            Some(data) => {
                data.resize(len + pad, 0);
                self.tx.push_tail(pad, &crc32c(data));
            }
            None if pad > 0 => self.tx.push_tail(pad, &[]),
            None => {}
        }
    }

    fn answer(&mut self, answer: Answer) -> Result<()> {
        ensure!(self.answers.len() < ANSWERS_MAX, "the initiator does not take its answers");
        self.answers.push_back(answer);
        Ok(())
    }

    fn on_command(&mut self, header: &Bhs) -> Result<()> {
        let command = ScsiCommand::parse(header)?;
        if !command.immediate {
            ensure!(command.cmd_sn == self.exp_cmd_sn, "CmdSN out of order on the only connection");
            self.exp_cmd_sn = self.exp_cmd_sn.next();
        }
        let cdb = &command.cdb;
        let be = |range: std::ops::Range<usize>| cdb[range].iter().fold(0u64, |n, &b| n << 8 | u64::from(b));
        let (lba, blocks) = match cdb[0] {
            0x28 | 0x2A => (be(2..6), be(7..9)),
            0x88 | 0x8A => (be(2..10), be(10..14)),
            0x9E => return self.answer(Answer::Capacity(command.itt)),
            0x00 => return self.answer(Answer::Written(command.itt)),
            _ => {
                let pdu = self.response(command.itt, 2);
                return self.answer(Answer::Plain(pdu, Vec::new()));
            }
        };
        let bytes = blocks * BLOCK as u64;
        ensure!(bytes == u64::from(command.edtl), "the lengths of a command do not agree");
        let end = self.at(lba) as u64 + bytes;
        ensure!(bytes > 0 && end <= self.disk.bytes as u64, "a command beyond the end of the memory");
        let (itt, bytes) = (command.itt, command.edtl);
        if command.read {
            return self.answer(Answer::Read { itt, lba, bytes });
        }
        ensure!(self.writes.len() < WINDOW as usize, "too many writes");
        // Without the F bit, unsolicited data follows up to FirstBurstLength.
        let comes = if command.is_final { command.data_len } else { bytes.min(self.first_burst) };
        let write = Write { itt, lba, bytes, got: command.data_len, asked: comes };
        if write.got == bytes {
            return self.answer(Answer::Written(itt));
        }
        self.writes.push(write);
        self.ask(self.writes.len() - 1)
    }

    /// Asks for the next part of a write once what was promised has come.
    fn ask(&mut self, n: usize) -> Result<()> {
        let write = &mut self.writes[n];
        if write.got < write.asked {
            return Ok(());
        }
        let (itt, offset) = (write.itt, write.got);
        if write.got == write.bytes {
            self.writes.swap_remove(n);
            return self.answer(Answer::Written(itt));
        }
        let len = (write.bytes - write.got).min(SEGMENT_MAX);
        write.asked = write.got + len;
        self.answer(Answer::R2t { itt, offset, len })
    }

    fn store(&mut self, lba: u64, offset: u32, part: &[u8]) -> Result<()> {
        let at = self.at(lba) + offset as usize;
        ensure!(at + part.len() <= self.disk.bytes, "data beyond the end of the memory");
        self.tx.data(at, part.len()).copy_from_slice(part);
        Ok(())
    }

    fn on_login(&mut self, header: &Bhs) -> Result<()> {
        let request = LoginRequest::parse(header)?;
        self.exp_cmd_sn = request.cmd_sn;
        let text = std::mem::take(&mut self.text);
        let text = String::from_utf8(text).context("login text is UTF-8")?;
        let mut reply = String::new();
        for (key, value) in text.split('\0').filter_map(|pair| pair.split_once('=')) {
            let first = value.split(',').next().unwrap_or("");
            let number = || value.parse::<u32>().unwrap_or(SEGMENT_MAX).min(SEGMENT_MAX);
            let answer = match key {
                name::INITIATOR_NAME | name::INITIATOR_ALIAS | name::SESSION_TYPE | name::TARGET_NAME => {
                    continue;
                }
                name::HEADER_DIGEST => {
                    self.agreed.header = first == "CRC32C";
                    first.to_owned()
                }
                name::DATA_DIGEST => {
                    self.agreed.data = first == "CRC32C";
                    first.to_owned()
                }
                name::MAX_RECV_DATA_SEGMENT_LENGTH | name::MAX_BURST_LENGTH => {
                    SEGMENT_MAX.min(number()).to_string()
                }
                name::FIRST_BURST_LENGTH => {
                    self.first_burst = number();
                    self.first_burst.to_string()
                }
                name::INITIAL_R2T => {
                    self.initial_r2t = value == "Yes";
                    value.to_owned()
                }
                name::MAX_CONNECTIONS => "1".to_owned(),
                name::AUTH_METHOD => "None".to_owned(),
                _ => value.to_owned(),
            };
            reply += &format!("{key}={answer}\0");
        }
        if self.stat_sn == SerialNumber(1) {
            reply += "TargetPortalGroupTag=1\0";
        }
        let response = LoginResponse {
            flags: LoginFlags { stage: request.flags.stage, transit: request.flags.transit, more: false },
            version_max: 0,
            version_active: 0,
            data_len: reply.len() as u32,
            isid: request.isid,
            tsih: if request.flags.transit == Some(Stage::FullFeaturePhase) { 1 } else { 0 },
            itt: request.itt,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            status: LoginStatus::SUCCESS,
        };
        self.logged_in = request.flags.transit == Some(Stage::FullFeaturePhase);
        self.answer(Answer::Plain(response.to_bhs(), reply.into_bytes()))
    }
}

impl Sink for State {
    fn wants_data(&self, _: &Bhs) -> bool {
        // The null disk could do without, but then a write would cost it less than it must cost a target.
        true
    }

    fn data(&mut self, header: &Bhs, at: u32, part: &[u8]) -> Result<()> {
        match InitiatorOpcode::of(header) {
            Some(InitiatorOpcode::ScsiCommand) => {
                let command = ScsiCommand::parse(header)?;
                let wide = command.cdb[0] == 0x8A;
                let lba = &command.cdb[2..if wide { 10 } else { 6 }];
                self.store(lba.iter().fold(0, |n, &b| n << 8 | u64::from(b)), at, part)
            }
            Some(InitiatorOpcode::DataOut) => {
                let pdu = DataOut::parse(header);
                let write =
                    self.writes.iter().find(|write| write.itt == pdu.itt).context("data for no write")?;
                self.store(write.lba, pdu.buffer_offset.checked_add(at).context("an offset")?, part)
            }
            Some(InitiatorOpcode::LoginRequest) => {
                ensure!(self.text.len() + part.len() <= PARAMETER_BYTES, "too much text");
                self.text.extend_from_slice(part);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn pdu(&mut self, header: &Bhs) -> Result<()> {
        match InitiatorOpcode::of(header) {
            Some(InitiatorOpcode::ScsiCommand) => self.on_command(header),
            Some(InitiatorOpcode::DataOut) => {
                let pdu = DataOut::parse(header);
                let n =
                    self.writes.iter().position(|write| write.itt == pdu.itt).context("data for no write")?;
                let write = &mut self.writes[n];
                let end = pdu.buffer_offset.checked_add(pdu.data_len).context("an offset")?;
                ensure!(pdu.buffer_offset == write.got && end <= write.asked, "data nobody asked for");
                write.got = end;
                self.ask(n)
            }
            Some(InitiatorOpcode::LoginRequest) => self.on_login(header),
            Some(InitiatorOpcode::LogoutRequest) => {
                let request = LogoutRequest::parse(header)?;
                self.leaving = true;
                let response = LogoutResponse {
                    result: LogoutResult::Success,
                    itt: request.itt,
                    stat_sn: self.next_stat_sn(),
                    exp_cmd_sn: self.exp_cmd_sn,
                    max_cmd_sn: self.max_cmd_sn(),
                    time2wait: 0,
                    time2retain: 0,
                };
                self.answer(Answer::Plain(response.to_bhs(), Vec::new()))
            }
            _ => bail!("a request this responder does not know"),
        }
    }
}
