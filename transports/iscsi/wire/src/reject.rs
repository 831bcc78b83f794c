//! Reject (RFC 7143 §11.17). Its data segment is the header (BHS, AHS, header digest) of the PDU refused.

use crate::bhs::{self, Bhs, FINAL, Itt, TargetOpcode};
use crate::code::{codes, to_bhs};
use crate::serial::SerialNumber;

codes! {
    /// Why a PDU was refused.
    pub enum RejectReason {
        /// Data (payload) digest error; the PDU may be sent again.
        DataDigestError = 0x02,
        /// SNACK reject; the PDU may be sent again.
        SnackReject = 0x03,
        /// Protocol error, such as a SNACK for a status already acknowledged.
        ProtocolError = 0x04,
        /// Command not supported.
        CommandNotSupported = 0x05,
        /// Too many immediate commands.
        TooManyImmediate = 0x06,
        /// Task in progress.
        TaskInProgress = 0x07,
        /// Invalid DataACK.
        InvalidDataAck = 0x08,
        /// Invalid PDU field: a PDU that breaks the format as such.
        InvalidPduField = 0x09,
        /// Long operation reject: no Target Transfer Tag to be had, out of resources.
        OutOfResources = 0x0A,
        /// Waiting for logout.
        WaitingForLogout = 0x0C,
    }
}

/// A Reject PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// Bytes of the refused header that follow.
    pub data_len: u32,
    /// StatSN; used up.
    pub stat_sn: SerialNumber,
    /// ExpCmdSN.
    pub exp_cmd_sn: SerialNumber,
    /// MaxCmdSN.
    pub max_cmd_sn: SerialNumber,
    /// DataSN or R2TSN: for a refused Data/R2T SNACK, the next one expected to be sent.
    pub data_sn: SerialNumber,
}

impl Reject {
    /// Reads a header whose opcode is Reject.
    pub fn parse(b: &Bhs) -> Self {
        Self {
            reason: RejectReason::of(b[2]),
            data_len: bhs::data_bytes(b),
            stat_sn: SerialNumber(bhs::be32(b, 24)),
            exp_cmd_sn: SerialNumber(bhs::be32(b, 28)),
            max_cmd_sn: SerialNumber(bhs::be32(b, 32)),
            data_sn: SerialNumber(bhs::be32(b, 36)),
        }
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        *out = [0; 48];
        bhs::put_start(out, TargetOpcode::Reject as u8, FINAL, [self.reason.code(), 0], 0, self.data_len);
        bhs::put32(out, 16, Itt::RESERVED.0);
        bhs::put32(out, 24, self.stat_sn.0);
        bhs::put32(out, 28, self.exp_cmd_sn.0);
        bhs::put32(out, 32, self.max_cmd_sn.0);
        bhs::put32(out, 36, self.data_sn.0);
    }
}
to_bhs!(Reject);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reject_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x3F, 0x80, 9, 0,  0, 0, 0, 48,
            0, 0, 0, 0, 0, 0, 0, 0,
            0xFF, 0xFF, 0xFF, 0xFF,  0, 0, 0, 0,
            0, 0, 0, 9,  0, 0, 0, 6,
            0, 0, 0, 0x45,  0, 0, 0, 4,
            0, 0, 0, 0,  0, 0, 0, 0,
        ];
        let pdu = Reject::parse(&golden);
        assert_eq!((pdu.reason, pdu.data_len), (RejectReason::InvalidPduField, 48));
        assert_eq!(pdu.data_sn, SerialNumber(4));
        assert_eq!(pdu.to_bhs(), golden);
    }
}
