//! SCSI Data-Out and SCSI Data-In (RFC 7143 §11.7).

use crate::bhs::{self, Bhs, FINAL, InitiatorOpcode, Itt, TargetOpcode, Ttt};
use crate::code::to_bhs;
use crate::error::{Fault, WireError};
use crate::scsi::{Residual, flag};
use crate::serial::SerialNumber;

/// A SCSI Data-Out PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataOut {
    /// F: last of this sequence (the unsolicited data, or the answer to one R2T).
    pub is_final: bool,
    /// Bytes of data.
    pub data_len: u32,
    /// Logical unit as the R2T gave it; zero for unsolicited data.
    pub lun: [u8; 8],
    /// Initiator Task Tag of the command.
    pub itt: Itt,
    /// The R2T that asked; reserved for unsolicited data.
    pub ttt: Ttt,
    /// ExpStatSN.
    pub exp_stat_sn: SerialNumber,
    /// Number within the sequence, from 0.
    pub data_sn: SerialNumber,
    /// Where in the command's data this segment belongs.
    pub buffer_offset: u32,
}

impl DataOut {
    /// Reads a header whose opcode is SCSI Data-Out. Every header is one.
    #[inline]
    pub fn parse(b: &Bhs) -> Self {
        Self {
            is_final: bhs::is_final(b),
            data_len: bhs::data_bytes(b),
            lun: bhs::lun(b),
            itt: bhs::itt(b),
            ttt: Ttt(bhs::be32(b, 20)),
            exp_stat_sn: SerialNumber(bhs::be32(b, 28)),
            data_sn: SerialNumber(bhs::be32(b, 36)),
            buffer_offset: bhs::be32(b, 40),
        }
    }

    /// Writes all 48 bytes.
    #[inline]
    pub fn emit(&self, out: &mut Bhs) {
        let flags = flag(self.is_final, FINAL);
        bhs::put_start(out, InitiatorOpcode::DataOut as u8, flags, [0, 0], 0, self.data_len);
        out[8..16].copy_from_slice(&self.lun);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 20, self.ttt.0);
        bhs::put32(out, 24, 0);
        bhs::put32(out, 28, self.exp_stat_sn.0);
        bhs::put32(out, 32, 0);
        bhs::put32(out, 36, self.data_sn.0);
        bhs::put32(out, 40, self.buffer_offset);
        bhs::put32(out, 44, 0);
    }
}
to_bhs!(DataOut);

/// A SCSI Data-In PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataIn {
    /// F: last of this sequence (at most MaxBurstLength).
    pub is_final: bool,
    /// A: please acknowledge with a DataACK (ErrorRecoveryLevel 1 and 2).
    pub ack: bool,
    /// S: the command's status travels with its last data ("phase collapse").
    pub status: Option<DataInStatus>,
    /// Bytes of data.
    pub data_len: u32,
    /// Logical unit, given together with a TTT when A is set; else zero.
    pub lun: [u8; 8],
    /// Initiator Task Tag of the command.
    pub itt: Itt,
    /// To be repeated in the DataACK; reserved unless A is set.
    pub ttt: Ttt,
    /// ExpCmdSN.
    pub exp_cmd_sn: SerialNumber,
    /// MaxCmdSN.
    pub max_cmd_sn: SerialNumber,
    /// Number within the command, from 0.
    pub data_sn: SerialNumber,
    /// Where in the command's data this segment belongs.
    pub buffer_offset: u32,
}

/// What a Data-In PDU with the S bit says about the end of the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataInStatus {
    /// SCSI status. Sense data cannot come this way.
    pub status: u8,
    /// StatSN; the field means nothing without S.
    pub stat_sn: SerialNumber,
    /// Residual.
    pub residual: Residual,
}

const ACK: u8 = 0x40;
const OVER: u8 = 0x04;
const UNDER: u8 = 0x02;
const STATUS: u8 = 0x01;

impl DataIn {
    /// Reads a header whose opcode is SCSI Data-In.
    #[inline]
    pub fn parse(b: &Bhs) -> Result<Self, WireError> {
        let status = if b[1] & STATUS == 0 {
            None
        } else {
            // RFC 7143 §11.7.3: a status closes the sequence, so S implies F.
            if b[1] & FINAL == 0 {
                return Err(WireError::new(Fault::Contradiction, "S and F", 1));
            }
            let residual = Residual::parse(b[1], OVER, UNDER, bhs::be32(b, 44), "O and U")?;
            Some(DataInStatus { status: b[3], stat_sn: SerialNumber(bhs::be32(b, 24)), residual })
        };
        Ok(Self {
            is_final: bhs::is_final(b),
            ack: b[1] & ACK != 0,
            status,
            data_len: bhs::data_bytes(b),
            lun: bhs::lun(b),
            itt: bhs::itt(b),
            ttt: Ttt(bhs::be32(b, 20)),
            exp_cmd_sn: SerialNumber(bhs::be32(b, 28)),
            max_cmd_sn: SerialNumber(bhs::be32(b, 32)),
            data_sn: SerialNumber(bhs::be32(b, 36)),
            buffer_offset: bhs::be32(b, 40),
        })
    }

    /// Writes all 48 bytes. A status sets S and F.
    #[inline]
    pub fn emit(&self, out: &mut Bhs) {
        let mut flags = flag(self.is_final, FINAL) | flag(self.ack, ACK);
        let (mut status, mut stat_sn, mut residual) = (0, 0, 0);
        if let Some(end) = self.status {
            flags |= FINAL | STATUS | end.residual.flags(OVER, UNDER);
            (status, stat_sn, residual) = (end.status, end.stat_sn.0, end.residual.count());
        }
        bhs::put_start(out, TargetOpcode::DataIn as u8, flags, [0, status], 0, self.data_len);
        out[8..16].copy_from_slice(&self.lun);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 20, self.ttt.0);
        bhs::put32(out, 24, stat_sn);
        bhs::put32(out, 28, self.exp_cmd_sn.0);
        bhs::put32(out, 32, self.max_cmd_sn.0);
        bhs::put32(out, 36, self.data_sn.0);
        bhs::put32(out, 40, self.buffer_offset);
        bhs::put32(out, 44, residual);
    }
}
to_bhs!(DataIn);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_out_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x05, 0x80, 0, 0,  0, 0, 0x10, 0,
            0, 2, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0x12,  0, 1, 0, 7,
            0, 0, 0, 0,  0, 0, 0, 10,
            0, 0, 0, 0,  0, 0, 0, 3,
            0, 1, 0, 0,  0, 0, 0, 0,
        ];
        let pdu = DataOut::parse(&golden);
        let expected = DataOut {
            is_final: true,
            data_len: 4096,
            lun: [0, 2, 0, 0, 0, 0, 0, 0],
            itt: Itt(0x12),
            ttt: Ttt(0x0001_0007),
            exp_stat_sn: SerialNumber(10),
            data_sn: SerialNumber(3),
            buffer_offset: 0x10000,
        };
        assert_eq!(pdu, expected);
        assert_eq!(pdu.to_bhs(), golden);
    }

    #[test]
    fn data_in_with_status_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x25, 0x83, 0, 0,  0, 0, 0x02, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0x11,  0xFF, 0xFF, 0xFF, 0xFF,
            0, 0, 0, 9,  0, 0, 0, 6,
            0, 0, 0, 0x45,  0, 0, 0, 1,
            0, 0, 0x10, 0,  0, 0, 0x02, 0,
        ];
        let pdu = DataIn::parse(&golden).unwrap();
        let end = pdu.status.unwrap();
        assert_eq!((end.status, end.stat_sn.0, end.residual), (0, 9, Residual::Underflow(512)));
        assert!(pdu.is_final && !pdu.ack);
        assert_eq!((pdu.data_sn.0, pdu.buffer_offset, pdu.ttt), (1, 4096, Ttt::RESERVED));
        assert_eq!(pdu.to_bhs(), golden);
    }

    #[test]
    fn data_in_without_status_does_not_read_status_fields() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x25, 0xC0, 0, 0,  0, 0, 0x20, 0,
            0, 2, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0x11,  0, 0, 0, 5,
            0, 0, 0, 0,  0, 0, 0, 6,
            0, 0, 0, 0x45,  0, 0, 0, 0,
            0, 0, 0, 0,  0, 0, 0, 0,
        ];
        let pdu = DataIn::parse(&golden).unwrap();
        assert_eq!(pdu.status, None);
        assert!(pdu.ack && pdu.is_final);
        assert_eq!(pdu.to_bhs(), golden);
    }

    #[test]
    fn a_status_without_the_final_bit_is_refused() {
        let mut bhs = [0; 48];
        bhs[0] = 0x25;
        bhs[1] = 0x01;
        let error = DataIn::parse(&bhs).unwrap_err();
        assert_eq!((error.fault, error.offset), (Fault::Contradiction, 1));
    }
}
