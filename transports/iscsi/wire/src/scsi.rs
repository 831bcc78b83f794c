//! SCSI Command (RFC 7143 §11.3) and SCSI Response (§11.4).

use crate::bhs::{self, Bhs, FINAL, IMMEDIATE, InitiatorOpcode, Itt, TargetOpcode};
use crate::code::{codes, to_bhs};
use crate::error::{Fault, WireError};
use crate::serial::SerialNumber;

/// A SCSI Command PDU. The first 16 bytes of the CDB are here; the rest of a longer one comes in an AHS
/// ([`crate::ahs::CommandAhs`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScsiCommand {
    /// I: deliver at once, CmdSN does not advance.
    pub immediate: bool,
    /// F: no unsolicited Data-Out follows.
    pub is_final: bool,
    /// R: the command is expected to bring Data-In.
    pub read: bool,
    /// W: the command is expected to take Data-Out.
    pub write: bool,
    /// Task attribute.
    pub attr: TaskAttribute,
    /// Command priority, four bits; 0 is none (RFC 7144, iSCSIProtocolLevel 2).
    pub priority: u8,
    /// TotalAHSLength in words of four bytes.
    pub ahs_words: u8,
    /// Bytes of immediate data.
    pub data_len: u32,
    /// Logical unit.
    pub lun: [u8; 8],
    /// Initiator Task Tag.
    pub itt: Itt,
    /// Expected Data Transfer Length: of the write, if there is one, else of the read.
    pub edtl: u32,
    /// CmdSN.
    pub cmd_sn: SerialNumber,
    /// ExpStatSN: acknowledges every status before it.
    pub exp_stat_sn: SerialNumber,
    /// First 16 bytes of the CDB; a shorter one is filled up with zeros.
    pub cdb: [u8; 16],
}

/// Task attributes (RFC 7143 §11.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum TaskAttribute {
    /// Untagged: treated as SIMPLE.
    Untagged = 0,
    /// SIMPLE.
    #[default]
    Simple = 1,
    /// ORDERED.
    Ordered = 2,
    /// HEAD OF QUEUE.
    HeadOfQueue = 3,
    /// ACA.
    Aca = 4,
}

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;

impl ScsiCommand {
    /// Reads a header whose opcode is SCSI Command.
    #[inline]
    pub fn parse(b: &Bhs) -> Result<Self, WireError> {
        let attr = match b[1] & 7 {
            0 => TaskAttribute::Untagged,
            1 => TaskAttribute::Simple,
            2 => TaskAttribute::Ordered,
            3 => TaskAttribute::HeadOfQueue,
            4 => TaskAttribute::Aca,
            _ => return Err(WireError::new(Fault::ReservedValue, "ATTR", 1)),
        };
        // RFC 7143 §11.3.1: F and W both 0 is an error; without a write nothing can follow the command.
        if b[1] & (FINAL | WRITE) == 0 {
            return Err(WireError::new(Fault::Contradiction, "F and W", 1));
        }
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&b[32..48]);
        Ok(Self {
            immediate: bhs::is_immediate(b),
            is_final: bhs::is_final(b),
            read: b[1] & READ != 0,
            write: b[1] & WRITE != 0,
            attr,
            priority: b[2] >> 4,
            ahs_words: b[4],
            data_len: bhs::data_bytes(b),
            lun: bhs::lun(b),
            itt: bhs::itt(b),
            edtl: bhs::be32(b, 20),
            cmd_sn: SerialNumber(bhs::be32(b, 24)),
            exp_stat_sn: SerialNumber(bhs::be32(b, 28)),
            cdb,
        })
    }

    /// Writes all 48 bytes.
    #[inline]
    pub fn emit(&self, out: &mut Bhs) {
        let opcode = InitiatorOpcode::ScsiCommand as u8 | flag(self.immediate, IMMEDIATE);
        let flags =
            flag(self.is_final, FINAL) | flag(self.read, READ) | flag(self.write, WRITE) | self.attr as u8;
        bhs::put_start(out, opcode, flags, [self.priority << 4, 0], self.ahs_words, self.data_len);
        out[8..16].copy_from_slice(&self.lun);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 20, self.edtl);
        bhs::put32(out, 24, self.cmd_sn.0);
        bhs::put32(out, 28, self.exp_stat_sn.0);
        out[32..48].copy_from_slice(&self.cdb);
    }

    /// Whether direction and length agree. Kept apart from `parse` because the answer may also need the
    /// bidirectional length of an AHS, and because a target may prefer a SCSI answer to a Reject.
    #[inline]
    pub fn check_direction(&self) -> Result<(), WireError> {
        // RFC 7143 §11.3.4: R and W must not both be 0 when a length is expected.
        if self.edtl != 0 && !self.read && !self.write {
            return Err(WireError::new(Fault::Contradiction, "Expected Data Transfer Length", 20));
        }
        // §11.3.4, §11.7: immediate data belongs to a write and does not exceed it.
        if self.data_len != 0 && !self.write {
            return Err(WireError::new(Fault::Contradiction, "DataSegmentLength", 5));
        }
        if self.write && self.data_len > self.edtl {
            return Err(WireError::new(Fault::Length, "DataSegmentLength", 5));
        }
        Ok(())
    }
}
to_bhs!(ScsiCommand);

/// The difference between what was expected and what was there to transfer (RFC 7143 §11.4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Residual {
    /// As expected.
    #[default]
    None,
    /// U: so many bytes of the expected length were not transferred.
    Underflow(u32),
    /// O: so many bytes did not fit into the expected length.
    Overflow(u32),
}

impl Residual {
    /// What is left when `actual` bytes meet an expectation of `expected`.
    #[inline]
    pub const fn of(expected: u64, actual: u64) -> Self {
        if actual < expected {
            Self::Underflow(clamp(expected - actual))
        } else if actual > expected {
            Self::Overflow(clamp(actual - expected))
        } else {
            Self::None
        }
    }

    /// The count field.
    #[inline]
    pub const fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Underflow(n) | Self::Overflow(n) => n,
        }
    }

    #[inline]
    pub(crate) const fn parse(
        flags: u8,
        over: u8,
        under: u8,
        count: u32,
        field: &'static str,
    ) -> Result<Self, WireError> {
        match (flags & over != 0, flags & under != 0) {
            (false, false) => Ok(Self::None),
            (false, true) => Ok(Self::Underflow(count)),
            (true, false) => Ok(Self::Overflow(count)),
            // RFC 7143 §11.4.1: O and U exclude each other.
            (true, true) => Err(WireError::new(Fault::Contradiction, field, 1)),
        }
    }

    #[inline]
    pub(crate) const fn flags(self, over: u8, under: u8) -> u8 {
        match self {
            Self::None => 0,
            Self::Underflow(_) => under,
            Self::Overflow(_) => over,
        }
    }
}

const fn clamp(n: u64) -> u32 {
    if n > u32::MAX as u64 { u32::MAX } else { n as u32 }
}

codes! {
    /// The iSCSI service response (RFC 7143 §11.4.3).
    pub enum ServiceResponse {
        /// Command Completed at Target: the status is valid.
        CommandCompleted = 0x00,
        /// Target Failure: the command ended without a status.
        TargetFailure = 0x01,
    }
}

/// A SCSI Response PDU. Its data segment is [`sense_and_data`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScsiResponse {
    /// iSCSI service response.
    pub response: ServiceResponse,
    /// SCSI status.
    pub status: u8,
    /// Status qualifier (RFC 7144, iSCSIProtocolLevel 2).
    pub status_qualifier: u16,
    /// Residual of the write, or of a read that is not bidirectional.
    pub residual: Residual,
    /// Residual of the read part of a bidirectional command.
    pub bidi_residual: Residual,
    /// Bytes of sense and response data.
    pub data_len: u32,
    /// Initiator Task Tag.
    pub itt: Itt,
    /// SNACK Tag; 0 unless an R-Data SNACK was answered.
    pub snack_tag: u32,
    /// StatSN.
    pub stat_sn: SerialNumber,
    /// ExpCmdSN.
    pub exp_cmd_sn: SerialNumber,
    /// MaxCmdSN.
    pub max_cmd_sn: SerialNumber,
    /// Number of Data-In (or, for a write, R2T) PDUs the target sent for the command.
    pub exp_data_sn: SerialNumber,
}

const BIDI_OVER: u8 = 0x10;
const BIDI_UNDER: u8 = 0x08;
const OVER: u8 = 0x04;
const UNDER: u8 = 0x02;

impl ScsiResponse {
    /// Reads a header whose opcode is SCSI Response.
    #[inline]
    pub fn parse(b: &Bhs) -> Result<Self, WireError> {
        Ok(Self {
            response: ServiceResponse::of(b[2]),
            status: b[3],
            status_qualifier: bhs::be16(b, 8),
            residual: Residual::parse(b[1], OVER, UNDER, bhs::be32(b, 44), "O and U")?,
            bidi_residual: Residual::parse(b[1], BIDI_OVER, BIDI_UNDER, bhs::be32(b, 40), "o and u")?,
            data_len: bhs::data_bytes(b),
            itt: bhs::itt(b),
            snack_tag: bhs::be32(b, 20),
            stat_sn: SerialNumber(bhs::be32(b, 24)),
            exp_cmd_sn: SerialNumber(bhs::be32(b, 28)),
            max_cmd_sn: SerialNumber(bhs::be32(b, 32)),
            exp_data_sn: SerialNumber(bhs::be32(b, 36)),
        })
    }

    /// Writes all 48 bytes.
    #[inline]
    pub fn emit(&self, out: &mut Bhs) {
        let flags =
            FINAL | self.residual.flags(OVER, UNDER) | self.bidi_residual.flags(BIDI_OVER, BIDI_UNDER);
        let two = [self.response.code(), self.status];
        bhs::put_start(out, TargetOpcode::ScsiResponse as u8, flags, two, 0, self.data_len);
        bhs::put32(out, 8, u32::from(self.status_qualifier) << 16);
        bhs::put32(out, 12, 0);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 20, self.snack_tag);
        bhs::put32(out, 24, self.stat_sn.0);
        bhs::put32(out, 28, self.exp_cmd_sn.0);
        bhs::put32(out, 32, self.max_cmd_sn.0);
        bhs::put32(out, 36, self.exp_data_sn.0);
        bhs::put32(out, 40, self.bidi_residual.count());
        bhs::put32(out, 44, self.residual.count());
    }
}
to_bhs!(ScsiResponse);

/// Bytes before the sense data in the data segment of a SCSI Response or an Asynchronous Message.
pub const SENSE_LENGTH_LEN: usize = 2;

/// Splits a data segment into sense data and what follows (RFC 7143 §11.4.7). An empty segment has neither.
pub fn sense_and_data(segment: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    const SHORT: WireError = WireError::new(Fault::Length, "SenseLength", 0);
    if segment.is_empty() {
        return Ok((&[], &[]));
    }
    let (len, rest) = segment.split_first_chunk::<SENSE_LENGTH_LEN>().ok_or(SHORT)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or(SHORT)
}

#[inline(always)]
pub(crate) const fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// READ(10) of 8 blocks at LBA 0x1000, ITT 0x11, CmdSN 5, ExpStatSN 9.
    #[rustfmt::skip]
    const READ_10: Bhs = [
        0x01, 0xC1, 0, 0,  0, 0, 0, 0,
        0, 1, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0x11,  0, 0, 0x10, 0,
        0, 0, 0, 5,  0, 0, 0, 9,
        0x28, 0, 0, 0, 0x10, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0,
    ];

    #[test]
    fn a_read_command_is_read_and_written_byte_by_byte() {
        let command = ScsiCommand::parse(&READ_10).unwrap();
        assert!(command.read && !command.write && command.is_final && !command.immediate);
        assert_eq!(command.attr, TaskAttribute::Simple);
        assert_eq!(command.lun, [0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!((command.itt, command.edtl), (Itt(0x11), 4096));
        assert_eq!((command.cmd_sn, command.exp_stat_sn), (SerialNumber(5), SerialNumber(9)));
        assert_eq!(command.cdb[0], 0x28);
        assert_eq!(command.to_bhs(), READ_10);
        assert_eq!(command.check_direction(), Ok(()));
    }

    #[test]
    fn a_write_with_immediate_data_keeps_every_field() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x41, 0x22, 0x50, 0,  2, 0, 0x20, 0,
            0x40, 3, 0, 0, 0, 0, 0, 0,
            0xAA, 0xBB, 0xCC, 0xDD,  0, 4, 0, 0,
            0xFF, 0xFF, 0xFF, 0xFF,  0x80, 0, 0, 0,
            0x8A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0,
        ];
        let command = ScsiCommand::parse(&golden).unwrap();
        assert!(command.immediate && command.write && !command.is_final && !command.read);
        assert_eq!(command.attr, TaskAttribute::Ordered);
        assert_eq!((command.priority, command.ahs_words, command.data_len), (5, 2, 8192));
        assert_eq!(command.to_bhs(), golden);
    }

    #[test]
    fn reserved_attributes_and_impossible_flags_are_named() {
        let mut bhs = READ_10;
        bhs[1] = 0xC5;
        let error = ScsiCommand::parse(&bhs).unwrap_err();
        assert_eq!((error.field, error.offset), ("ATTR", 1));
        assert_eq!(error.reject_reason().code(), 0x09);
        bhs[1] = 0x41;
        let error = ScsiCommand::parse(&bhs).unwrap_err();
        assert_eq!((error.field, error.reject_reason().code()), ("F and W", 0x04));
    }

    #[test]
    fn length_without_direction_is_found() {
        let mut command = ScsiCommand::parse(&READ_10).unwrap();
        command.read = false;
        assert_eq!(command.check_direction().unwrap_err().offset, 20);
        command.read = true;
        command.data_len = 4;
        assert_eq!(command.check_direction().unwrap_err().offset, 5);
        command.write = true;
        assert_eq!(command.check_direction(), Ok(()));
        command.data_len = 4097;
        assert_eq!(command.check_direction().unwrap_err().fault, Fault::Length);
    }

    #[test]
    fn a_response_with_check_condition_and_underflow_is_read_and_written() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x21, 0x82, 0, 2,  0, 0, 0, 20,
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0x11,  0, 0, 0, 0,
            0, 0, 0, 9,  0, 0, 0, 6,
            0, 0, 0, 0x45,  0, 0, 0, 0,
            0, 0, 0, 0,  0, 0, 0x10, 0,
        ];
        let response = ScsiResponse::parse(&golden).unwrap();
        assert_eq!(response.response, ServiceResponse::CommandCompleted);
        assert_eq!(response.status, 2);
        assert_eq!(response.residual, Residual::Underflow(4096));
        assert_eq!(response.bidi_residual, Residual::None);
        assert_eq!((response.stat_sn.0, response.exp_cmd_sn.0, response.max_cmd_sn.0), (9, 6, 0x45));
        assert_eq!(response.to_bhs(), golden);
    }

    #[test]
    fn overflow_and_underflow_together_are_refused() {
        let mut bhs = [0; 48];
        bhs[0] = 0x21;
        bhs[1] = 0x86;
        assert_eq!(ScsiResponse::parse(&bhs).unwrap_err().field, "O and U");
        bhs[1] = 0x98;
        assert_eq!(ScsiResponse::parse(&bhs).unwrap_err().field, "o and u");
        bhs[1] = 0x94;
        let response = ScsiResponse::parse(&bhs).unwrap();
        assert_eq!(response.residual, Residual::Overflow(0));
        assert_eq!(response.bidi_residual, Residual::Overflow(0));
    }

    #[test]
    fn residuals_are_computed_from_lengths() {
        assert_eq!(Residual::of(512, 512), Residual::None);
        assert_eq!(Residual::of(512, 0), Residual::Underflow(512));
        assert_eq!(Residual::of(0, 512), Residual::Overflow(512));
        assert_eq!(Residual::of(0, 1 << 40), Residual::Overflow(u32::MAX));
    }

    #[test]
    fn sense_is_cut_out_within_its_segment() {
        assert_eq!(sense_and_data(&[]), Ok((&[][..], &[][..])));
        assert_eq!(sense_and_data(&[0, 2, 0x70, 0, 9]), Ok((&[0x70, 0][..], &[9][..])));
        assert!(sense_and_data(&[0]).is_err());
        assert!(sense_and_data(&[0, 2, 0x70]).is_err());
    }
}
