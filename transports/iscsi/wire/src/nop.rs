//! NOP-Out and NOP-In (RFC 7143 §11.18, §11.19).

use crate::bhs::{self, Bhs, FINAL, IMMEDIATE, InitiatorOpcode, Itt, TargetOpcode, Ttt};
use crate::code::to_bhs;
use crate::scsi::flag;
use crate::serial::SerialNumber;

/// A NOP-Out PDU: a ping (ITT valid), the answer to one (TTT valid), or only a carrier of ExpStatSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NopOut {
    /// I.
    pub immediate: bool,
    /// Bytes of ping data.
    pub data_len: u32,
    /// Logical unit as the NOP-In gave it, when answering.
    pub lun: [u8; 8],
    /// Valid when an answer is wanted.
    pub itt: Itt,
    /// Valid when this is an answer.
    pub ttt: Ttt,
    /// CmdSN.
    pub cmd_sn: SerialNumber,
    /// ExpStatSN.
    pub exp_stat_sn: SerialNumber,
}

impl NopOut {
    /// Reads a header whose opcode is NOP-Out.
    pub fn parse(b: &Bhs) -> Self {
        Self {
            immediate: bhs::is_immediate(b),
            data_len: bhs::data_bytes(b),
            lun: bhs::lun(b),
            itt: bhs::itt(b),
            ttt: Ttt(bhs::be32(b, 20)),
            cmd_sn: SerialNumber(bhs::be32(b, 24)),
            exp_stat_sn: SerialNumber(bhs::be32(b, 28)),
        }
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        let opcode = InitiatorOpcode::NopOut as u8 | flag(self.immediate, IMMEDIATE);
        *out = [0; 48];
        bhs::put_start(out, opcode, FINAL, [0, 0], 0, self.data_len);
        out[8..16].copy_from_slice(&self.lun);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 20, self.ttt.0);
        bhs::put32(out, 24, self.cmd_sn.0);
        bhs::put32(out, 28, self.exp_stat_sn.0);
    }
}
to_bhs!(NopOut);

/// A NOP-In PDU: a ping (TTT valid), the answer to one (ITT valid), or only a carrier of the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NopIn {
    /// Bytes of ping data.
    pub data_len: u32,
    /// Logical unit, to be repeated by the answer; only with a TTT.
    pub lun: [u8; 8],
    /// Valid when this is an answer.
    pub itt: Itt,
    /// Valid when an answer is wanted.
    pub ttt: Ttt,
    /// StatSN; used up only by an answer.
    pub stat_sn: SerialNumber,
    /// ExpCmdSN.
    pub exp_cmd_sn: SerialNumber,
    /// MaxCmdSN.
    pub max_cmd_sn: SerialNumber,
}

impl NopIn {
    /// Reads a header whose opcode is NOP-In.
    pub fn parse(b: &Bhs) -> Self {
        Self {
            data_len: bhs::data_bytes(b),
            lun: bhs::lun(b),
            itt: bhs::itt(b),
            ttt: Ttt(bhs::be32(b, 20)),
            stat_sn: SerialNumber(bhs::be32(b, 24)),
            exp_cmd_sn: SerialNumber(bhs::be32(b, 28)),
            max_cmd_sn: SerialNumber(bhs::be32(b, 32)),
        }
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        *out = [0; 48];
        bhs::put_start(out, TargetOpcode::NopIn as u8, FINAL, [0, 0], 0, self.data_len);
        out[8..16].copy_from_slice(&self.lun);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 20, self.ttt.0);
        bhs::put32(out, 24, self.stat_sn.0);
        bhs::put32(out, 28, self.exp_cmd_sn.0);
        bhs::put32(out, 32, self.max_cmd_sn.0);
    }
}
to_bhs!(NopIn);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x40, 0x80, 0, 0,  0, 0, 0, 5,
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0x30,  0xFF, 0xFF, 0xFF, 0xFF,
            0, 0, 0, 6,  0, 0, 0, 9,
            0, 0, 0, 0,  0, 0, 0, 0,
            0, 0, 0, 0,  0, 0, 0, 0,
        ];
        let pdu = NopOut::parse(&golden);
        assert!(pdu.immediate);
        assert_eq!((pdu.data_len, pdu.itt, pdu.ttt), (5, Itt(0x30), Ttt::RESERVED));
        assert_eq!(pdu.to_bhs(), golden);
    }

    #[test]
    fn a_targets_ping_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x20, 0x80, 0, 0,  0, 0, 0, 0,
            0, 1, 0, 0, 0, 0, 0, 0,
            0xFF, 0xFF, 0xFF, 0xFF,  0, 0, 0, 7,
            0, 0, 0, 9,  0, 0, 0, 6,
            0, 0, 0, 0x45,  0, 0, 0, 0,
            0, 0, 0, 0,  0, 0, 0, 0,
        ];
        let pdu = NopIn::parse(&golden);
        assert_eq!((pdu.itt, pdu.ttt, pdu.lun[1]), (Itt::RESERVED, Ttt(7), 1));
        assert_eq!(pdu.to_bhs(), golden);
    }
}
