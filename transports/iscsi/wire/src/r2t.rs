//! Ready To Transfer (RFC 7143 §11.8).

use crate::bhs::{self, Bhs, FINAL, Itt, TargetOpcode, Ttt};
use crate::code::to_bhs;
use crate::serial::SerialNumber;

/// An R2T PDU: the target asks for a part of the Data-Out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct R2t {
    /// Logical unit, repeated in the Data-Out that answers.
    pub lun: [u8; 8],
    /// Initiator Task Tag of the command.
    pub itt: Itt,
    /// The target's name for this transfer; never reserved.
    pub ttt: Ttt,
    /// The StatSN that comes next; an R2T does not use it up.
    pub stat_sn: SerialNumber,
    /// ExpCmdSN.
    pub exp_cmd_sn: SerialNumber,
    /// MaxCmdSN.
    pub max_cmd_sn: SerialNumber,
    /// Number within the command, from 0.
    pub r2t_sn: SerialNumber,
    /// Where in the command's data the part begins.
    pub buffer_offset: u32,
    /// Its length: not 0, at most MaxBurstLength.
    pub desired_len: u32,
}

impl R2t {
    /// Reads a header whose opcode is R2T. Every header is one.
    #[inline]
    pub fn parse(b: &Bhs) -> Self {
        Self {
            lun: bhs::lun(b),
            itt: bhs::itt(b),
            ttt: Ttt(bhs::be32(b, 20)),
            stat_sn: SerialNumber(bhs::be32(b, 24)),
            exp_cmd_sn: SerialNumber(bhs::be32(b, 28)),
            max_cmd_sn: SerialNumber(bhs::be32(b, 32)),
            r2t_sn: SerialNumber(bhs::be32(b, 36)),
            buffer_offset: bhs::be32(b, 40),
            desired_len: bhs::be32(b, 44),
        }
    }

    /// Writes all 48 bytes.
    #[inline]
    pub fn emit(&self, out: &mut Bhs) {
        bhs::put_start(out, TargetOpcode::R2t as u8, FINAL, [0, 0], 0, 0);
        out[8..16].copy_from_slice(&self.lun);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 20, self.ttt.0);
        bhs::put32(out, 24, self.stat_sn.0);
        bhs::put32(out, 28, self.exp_cmd_sn.0);
        bhs::put32(out, 32, self.max_cmd_sn.0);
        bhs::put32(out, 36, self.r2t_sn.0);
        bhs::put32(out, 40, self.buffer_offset);
        bhs::put32(out, 44, self.desired_len);
    }
}
to_bhs!(R2t);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_r2t_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x31, 0x80, 0, 0,  0, 0, 0, 0,
            0, 2, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0x12,  0, 1, 0, 7,
            0, 0, 0, 10,  0, 0, 0, 6,
            0, 0, 0, 0x45,  0, 0, 0, 2,
            0, 0x10, 0, 0,  0, 4, 0, 0,
        ];
        let pdu = R2t::parse(&golden);
        let expected = R2t {
            lun: [0, 2, 0, 0, 0, 0, 0, 0],
            itt: Itt(0x12),
            ttt: Ttt(0x0001_0007),
            stat_sn: SerialNumber(10),
            exp_cmd_sn: SerialNumber(6),
            max_cmd_sn: SerialNumber(0x45),
            r2t_sn: SerialNumber(2),
            buffer_offset: 0x0010_0000,
            desired_len: 0x0004_0000,
        };
        assert_eq!(pdu, expected);
        assert_eq!(pdu.to_bhs(), golden);
    }
}
