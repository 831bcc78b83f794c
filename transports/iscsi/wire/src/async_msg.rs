//! Asynchronous Message (RFC 7143 §11.9). With a SCSI event the data segment is sense data, as in
//! [`crate::scsi::sense_and_data`].

use crate::bhs::{self, Bhs, FINAL, Itt, TargetOpcode};
use crate::code::{codes, to_bhs};
use crate::serial::SerialNumber;

codes! {
    /// What happened.
    pub enum AsyncEvent {
        /// A SCSI asynchronous event; sense data follows.
        ScsiEvent = 0,
        /// The target asks for a logout within Parameter3 seconds.
        LogoutRequest = 1,
        /// The target will drop connection Parameter1 (Time2Wait in Parameter2, Time2Retain in Parameter3).
        DropConnection = 2,
        /// The target will drop all connections of the session (Parameter2, Parameter3 as above).
        DropSession = 3,
        /// The target asks for a negotiation within Parameter3 seconds.
        NegotiationRequest = 4,
        /// The tasks of this logical unit are being terminated (RFC 7143 §4.2.3.4, FastAbort).
        TaskTermination = 5,
        /// Vendor-specific; AsyncVCode says what.
        VendorSpecific = 255,
    }
}

/// An Asynchronous Message PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncMessage {
    /// What happened.
    pub event: AsyncEvent,
    /// AsyncVCode.
    pub vendor_code: u8,
    /// Bytes of sense data and event data.
    pub data_len: u32,
    /// Logical unit, for SCSI events and task termination.
    pub lun: [u8; 8],
    /// StatSN; used up.
    pub stat_sn: SerialNumber,
    /// ExpCmdSN.
    pub exp_cmd_sn: SerialNumber,
    /// MaxCmdSN.
    pub max_cmd_sn: SerialNumber,
    /// Parameter1 to Parameter3.
    pub parameters: [u16; 3],
}

impl AsyncMessage {
    /// Reads a header whose opcode is Asynchronous Message.
    pub fn parse(b: &Bhs) -> Self {
        Self {
            event: AsyncEvent::of(b[36]),
            vendor_code: b[37],
            data_len: bhs::data_bytes(b),
            lun: bhs::lun(b),
            stat_sn: SerialNumber(bhs::be32(b, 24)),
            exp_cmd_sn: SerialNumber(bhs::be32(b, 28)),
            max_cmd_sn: SerialNumber(bhs::be32(b, 32)),
            parameters: [bhs::be16(b, 38), bhs::be16(b, 40), bhs::be16(b, 42)],
        }
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        *out = [0; 48];
        bhs::put_start(out, TargetOpcode::AsyncMessage as u8, FINAL, [0, 0], 0, self.data_len);
        out[8..16].copy_from_slice(&self.lun);
        bhs::put32(out, 16, Itt::RESERVED.0);
        bhs::put32(out, 24, self.stat_sn.0);
        bhs::put32(out, 28, self.exp_cmd_sn.0);
        bhs::put32(out, 32, self.max_cmd_sn.0);
        out[36..38].copy_from_slice(&[self.event.code(), self.vendor_code]);
        bhs::put16(out, 38, self.parameters[0]);
        bhs::put16(out, 40, self.parameters[1]);
        bhs::put16(out, 42, self.parameters[2]);
    }
}
to_bhs!(AsyncMessage);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_connection_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x32, 0x80, 0, 0,  0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
            0xFF, 0xFF, 0xFF, 0xFF,  0, 0, 0, 0,
            0, 0, 0, 9,  0, 0, 0, 6,
            0, 0, 0, 0x45,  2, 0, 0, 1,
            0, 2, 0, 20,  0, 0, 0, 0,
        ];
        let pdu = AsyncMessage::parse(&golden);
        assert_eq!((pdu.event, pdu.parameters), (AsyncEvent::DropConnection, [1, 2, 20]));
        assert_eq!(pdu.to_bhs(), golden);
    }
}
