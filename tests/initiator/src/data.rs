//! A SCSI command in the engine: what it wants, what has come, what has gone, and whether it adds up at the end.

use std::sync::Arc;
use std::time::Duration;

use spindle_iscsi_wire::{
    DataIn, Itt, R2t, Residual, ScsiResponse, SerialNumber, ServiceResponse, TaskAttribute, Ttt,
};

use crate::coverage::Coverage;
use crate::negotiate::Params;
use crate::violation::What;

/// Which way data goes, and how much is expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Direction {
    /// No data.
    None,
    /// So many bytes from the target.
    Read(u32),
    /// These bytes to the target.
    Write(Arc<[u8]>),
}

/// A SCSI command to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Logical unit.
    pub lun: [u8; 8],
    /// CDB, at most 260 bytes; above 16 the rest goes into an AHS.
    pub cdb: Vec<u8>,
    /// Data.
    pub direction: Direction,
    /// Task attribute.
    pub attr: TaskAttribute,
    /// I bit.
    pub immediate: bool,
    /// Most bytes to send with the command, if less than the session allows.
    pub immediate_data_max: Option<u32>,
    /// Whether to send the unsolicited Data-Out the session allows.
    pub unsolicited: bool,
    /// Whether Data-In is kept; a load generator only counts it.
    pub keep_data: bool,
}

impl Command {
    /// A SIMPLE command as most are.
    pub fn new(lun: [u8; 8], cdb: &[u8], direction: Direction) -> Self {
        Self {
            lun,
            cdb: cdb.to_vec(),
            direction,
            attr: TaskAttribute::Simple,
            immediate: false,
            immediate_data_max: None,
            unsolicited: true,
            keep_data: true,
        }
    }

    pub(crate) fn edtl(&self) -> u32 {
        match &self.direction {
            Direction::None => 0,
            Direction::Read(len) => *len,
            Direction::Write(data) => u32::try_from(data.len()).expect("checked when the command was taken"),
        }
    }
}

/// How a command ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Completion {
    /// Its tag.
    pub itt: Itt,
    /// iSCSI service response; the status is valid after `CommandCompleted` only.
    pub response: ServiceResponse,
    /// SCSI status.
    pub status: u8,
    /// Residual.
    pub residual: Residual,
    /// Sense data.
    pub sense: Vec<u8>,
    /// Data-In, zero-filled where nothing came; cut at the end of what came.
    pub data: Vec<u8>,
    /// Bytes of Data-In that came, kept or not.
    pub received: u64,
    /// R2Ts that came.
    pub r2ts: u32,
    /// Whether the status came in the last Data-In.
    pub collapsed: bool,
    /// When the command was given to the engine.
    pub sent_at: Duration,
}

#[derive(Debug)]
pub(crate) struct ScsiTask {
    pub(crate) command: Command,
    pub(crate) sent_at: Duration,
    edtl: u32,
    // Data-In.
    data: Vec<u8>,
    seen: Coverage,
    next_data_sn: SerialNumber,
    next_offset: u64,
    burst: u64,
    closed: bool,
    // Data-Out.
    asked: Coverage,
    next_r2t_sn: SerialNumber,
    next_r2t_offset: u32,
    /// R2Ts not yet answered in full.
    pub(crate) open_r2ts: Vec<R2t>,
}

impl ScsiTask {
    /// `unsolicited`: bytes of the write that go without an R2T.
    pub(crate) fn new(command: Command, unsolicited: u32, sent_at: Duration) -> Self {
        let edtl = command.edtl();
        let mut asked = Coverage::default();
        asked.add(0, unsolicited);
        Self {
            command,
            sent_at,
            edtl,
            data: Vec::new(),
            seen: Coverage::default(),
            next_data_sn: SerialNumber::ZERO,
            next_offset: 0,
            burst: 0,
            closed: true,
            asked,
            next_r2t_sn: SerialNumber::ZERO,
            next_r2t_offset: unsolicited,
            open_r2ts: Vec::new(),
        }
    }

    pub(crate) fn on_data_in(&mut self, pdu: &DataIn, data: &[u8], params: &Params, wrong: &mut Vec<What>) {
        if !matches!(self.command.direction, Direction::Read(_)) {
            wrong.push(What::NotARead);
            return;
        }
        if pdu.data_sn != self.next_data_sn {
            wrong.push(What::DataSn { expected: self.next_data_sn, got: pdu.data_sn });
        }
        self.next_data_sn = pdu.data_sn.next();
        if pdu.ack && params.error_recovery_level == 0 {
            wrong.push(What::AckWithoutRecovery);
        }
        let offset = u64::from(pdu.buffer_offset);
        let end = offset + data.len() as u64;
        if end > u64::from(self.edtl) {
            wrong.push(What::BeyondExpected { end, edtl: self.edtl });
            return;
        }
        // RFC 7143 §13.18, §13.19: order within a sequence, and order of the sequences.
        let starts_sequence = self.burst == 0;
        let ordered = if starts_sequence { params.data_sequence_in_order } else { params.data_pdu_in_order };
        if ordered && offset != self.next_offset {
            wrong.push(What::DataOrder { expected: self.next_offset as u32, got: pdu.buffer_offset });
        }
        self.next_offset = end;
        if !self.seen.add(pdu.buffer_offset, data.len() as u32) {
            wrong.push(What::DataRepeated { offset: pdu.buffer_offset, len: data.len() as u32 });
        }
        // Said once for each sequence, when it crosses the limit.
        let max = u64::from(params.max_burst);
        let within = self.burst <= max;
        self.burst += data.len() as u64;
        if within && self.burst > max {
            wrong.push(What::BurstTooLong { len: self.burst, max: params.max_burst });
        }
        self.closed = pdu.is_final;
        if pdu.is_final {
            self.burst = 0;
        }
        if self.command.keep_data {
            if self.data.len() < end as usize {
                if self.data.capacity() == 0 {
                    self.data.reserve_exact(self.edtl.min(16 << 20) as usize);
                }
                self.data.resize(end as usize, 0);
            }
            self.data[offset as usize..end as usize].copy_from_slice(data);
        }
    }

    /// Checks an R2T. False: it cannot be answered.
    pub(crate) fn on_r2t(&mut self, pdu: &R2t, params: &Params, wrong: &mut Vec<What>) -> bool {
        let Direction::Write(data) = &self.command.direction else {
            wrong.push(What::NotAWrite);
            return false;
        };
        if pdu.r2t_sn != self.next_r2t_sn {
            wrong.push(What::R2tSn { expected: self.next_r2t_sn, got: pdu.r2t_sn });
        }
        self.next_r2t_sn = pdu.r2t_sn.next();
        if pdu.ttt == Ttt::RESERVED {
            wrong.push(What::R2tTag);
            return false;
        }
        if pdu.desired_len == 0 || pdu.desired_len > params.max_burst {
            wrong.push(What::R2tLength { len: pdu.desired_len, max: params.max_burst });
        }
        let end = u64::from(pdu.buffer_offset) + u64::from(pdu.desired_len);
        if end > data.len() as u64 {
            wrong.push(What::BeyondExpected { end, edtl: self.edtl });
            return false;
        }
        if params.data_sequence_in_order && pdu.buffer_offset != self.next_r2t_offset {
            wrong.push(What::R2tOrder { expected: self.next_r2t_offset, got: pdu.buffer_offset });
        }
        self.next_r2t_offset = end as u32;
        if !self.asked.add(pdu.buffer_offset, pdu.desired_len) {
            wrong.push(What::DataRepeated { offset: pdu.buffer_offset, len: pdu.desired_len });
        }
        self.open_r2ts.push(*pdu);
        if self.open_r2ts.len() > params.max_outstanding_r2t as usize {
            wrong.push(What::TooManyR2t { max: params.max_outstanding_r2t });
        }
        true
    }

    /// The status came with the last Data-In.
    pub(crate) fn end_in_data(self, itt: Itt, pdu: &DataIn, wrong: &mut Vec<What>) -> Option<Completion> {
        let end = pdu.status?;
        // RFC 7143 §11.7.3: only a status without sense data may come this way.
        if end.status == 0x02 {
            wrong.push(What::StatusInData { status: end.status });
        }
        self.check_read(end.status, end.residual, wrong);
        Some(self.completion(
            itt,
            ServiceResponse::CommandCompleted,
            end.status,
            end.residual,
            Vec::new(),
            true,
        ))
    }

    /// The status came in a SCSI Response.
    pub(crate) fn end(self, pdu: &ScsiResponse, sense: &[u8], wrong: &mut Vec<What>) -> Completion {
        if pdu.response == ServiceResponse::CommandCompleted {
            match self.command.direction {
                Direction::Read(_) => {
                    if pdu.exp_data_sn != self.next_data_sn {
                        wrong.push(What::ExpDataSn { expected: self.next_data_sn, got: pdu.exp_data_sn });
                    }
                    if !self.closed {
                        wrong.push(What::SequenceNotClosed);
                    }
                    self.check_read(pdu.status, pdu.residual, wrong);
                }
                Direction::Write(_) => {
                    // §11.4.8 speaks of R2Ts and of Data-In in one breath; both readings are met: 0 or their count.
                    if pdu.exp_data_sn != SerialNumber::ZERO && pdu.exp_data_sn != self.next_r2t_sn {
                        wrong.push(What::ExpDataSn { expected: self.next_r2t_sn, got: pdu.exp_data_sn });
                    }
                    self.check_write(pdu.status, pdu.residual, wrong);
                }
                Direction::None => {}
            }
        }
        self.completion(pdu.itt, pdu.response, pdu.status, pdu.residual, sense.to_vec(), false)
    }

    /// RFC 7143 §11.4.5: what came and what is missing make up what was expected.
    fn check_read(&self, status: u8, residual: Residual, wrong: &mut Vec<What>) {
        let (edtl, transferred) = (u64::from(self.edtl), self.seen.total());
        let expected = match residual {
            Residual::Underflow(n) => edtl.checked_sub(u64::from(n)),
            // A command that failed may have broken off anywhere.
            _ if status != 0 => Some(transferred),
            Residual::None | Residual::Overflow(_) => Some(edtl),
        };
        // With a failure, data already sent may be more than what the target vouches for.
        let fits = expected.is_some_and(|n| n == transferred || status != 0 && n <= transferred);
        if !fits {
            wrong.push(What::Residual { edtl: self.edtl, transferred, claimed: residual });
        } else if status == 0 && !self.seen.is_prefix() {
            wrong.push(What::DataHoles);
        }
    }

    /// GOOD means that the data was taken; so it must have been asked for.
    fn check_write(&self, status: u8, residual: Residual, wrong: &mut Vec<What>) {
        let sent = self.asked.total();
        let short = match residual {
            Residual::Underflow(n) if n > self.edtl => true,
            Residual::Underflow(n) => sent < u64::from(self.edtl - n),
            Residual::None | Residual::Overflow(_) => sent < u64::from(self.edtl),
        };
        if status == 0 && short {
            wrong.push(What::WriteUnderfed { edtl: self.edtl, sent, claimed: residual });
        }
    }

    fn completion(
        self,
        itt: Itt,
        response: ServiceResponse,
        status: u8,
        residual: Residual,
        sense: Vec<u8>,
        collapsed: bool,
    ) -> Completion {
        Completion {
            itt,
            response,
            status,
            residual,
            sense,
            received: self.seen.total(),
            data: self.data,
            r2ts: self.next_r2t_sn.0,
            collapsed,
            sent_at: self.sent_at,
        }
    }
}
