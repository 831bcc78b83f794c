//! SNACK Request (RFC 7143 §11.16): selective acknowledgement, negative or (DataACK) positive.

use crate::bhs::{self, Bhs, FINAL, InitiatorOpcode, Itt};
use crate::code::to_bhs;
use crate::error::{Fault, WireError};
use crate::serial::SerialNumber;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum SnackType {
    /// Data-In or R2T PDUs once more.
    DataR2t = 0,
    /// Responses once more.
    Status = 1,
    /// DataACK: everything before BegRun has arrived.
    DataAck = 2,
    /// R-Data: Data-In once more, cut anew.
    RData = 3,
}

/// A SNACK Request PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnackRequest {
    /// What is asked for.
    pub kind: SnackType,
    /// Logical unit, as given with the TTT; DataACK only.
    pub lun: [u8; 8],
    /// The task; reserved for Status and DataACK.
    pub itt: Itt,
    /// Target Transfer Tag (DataACK) or SNACK Tag (R-Data); else reserved.
    pub ttt_or_tag: u32,
    /// ExpStatSN.
    pub exp_stat_sn: SerialNumber,
    /// First one missing (for DataACK: first one not yet received).
    pub beg_run: SerialNumber,
    /// How many; 0 means all from BegRun on.
    pub run_length: u32,
}

impl SnackRequest {
    /// Reads a header whose opcode is SNACK Request.
    pub fn parse(b: &Bhs) -> Result<Self, WireError> {
        let kind = match b[1] & 0x0F {
            0 => SnackType::DataR2t,
            1 => SnackType::Status,
            2 => SnackType::DataAck,
            3 => SnackType::RData,
            _ => return Err(WireError::new(Fault::ReservedValue, "Type", 1)),
        };
        Ok(Self {
            kind,
            lun: bhs::lun(b),
            itt: bhs::itt(b),
            ttt_or_tag: bhs::be32(b, 20),
            exp_stat_sn: SerialNumber(bhs::be32(b, 28)),
            beg_run: SerialNumber(bhs::be32(b, 40)),
            run_length: bhs::be32(b, 44),
        })
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        *out = [0; 48];
        bhs::put_start(out, InitiatorOpcode::SnackRequest as u8, FINAL | self.kind as u8, [0, 0], 0, 0);
        out[8..16].copy_from_slice(&self.lun);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 20, self.ttt_or_tag);
        bhs::put32(out, 28, self.exp_stat_sn.0);
        bhs::put32(out, 40, self.beg_run.0);
        bhs::put32(out, 44, self.run_length);
    }
}
to_bhs!(SnackRequest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_ack_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let mut golden: Bhs = [
            0x10, 0x82, 0, 0,  0, 0, 0, 0,
            0, 1, 0, 0, 0, 0, 0, 0,
            0xFF, 0xFF, 0xFF, 0xFF,  0, 0, 0, 7,
            0, 0, 0, 0,  0, 0, 0, 9,
            0, 0, 0, 0,  0, 0, 0, 0,
            0, 0, 0, 4,  0, 0, 0, 0,
        ];
        let pdu = SnackRequest::parse(&golden).unwrap();
        assert_eq!((pdu.kind, pdu.ttt_or_tag, pdu.beg_run), (SnackType::DataAck, 7, SerialNumber(4)));
        assert_eq!(pdu.to_bhs(), golden);
        golden[1] = 0x84;
        assert_eq!(SnackRequest::parse(&golden).unwrap_err().field, "Type");
    }
}
