//! Text Request and Text Response (RFC 7143 §11.10, §11.11). What the text says: [`crate::keys`].

use crate::bhs::{self, Bhs, CONTINUE, FINAL, IMMEDIATE, InitiatorOpcode, Itt, TargetOpcode, Ttt};
use crate::code::to_bhs;
use crate::error::{Fault, WireError};
use crate::scsi::flag;
use crate::serial::SerialNumber;

/// A Text Request PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextRequest {
    /// I.
    pub immediate: bool,
    /// F: the initiator has said all it has to say.
    pub is_final: bool,
    /// C: the text goes on in the next PDU.
    pub more: bool,
    /// Bytes of text.
    pub data_len: u32,
    /// Logical unit as the last response gave it, with its TTT.
    pub lun: [u8; 8],
    /// Initiator Task Tag, the same for the whole exchange.
    pub itt: Itt,
    /// The TTT of the last response; reserved at the start.
    pub ttt: Ttt,
    /// CmdSN.
    pub cmd_sn: SerialNumber,
    /// ExpStatSN.
    pub exp_stat_sn: SerialNumber,
}

/// RFC 7143 §11.10.2: with C set, F must not be.
fn final_and_more(b: &Bhs) -> Result<(bool, bool), WireError> {
    let (is_final, more) = (b[1] & FINAL != 0, b[1] & CONTINUE != 0);
    if is_final && more {
        return Err(WireError::new(Fault::Contradiction, "F and C", 1));
    }
    Ok((is_final, more))
}

impl TextRequest {
    /// Reads a header whose opcode is Text Request.
    pub fn parse(b: &Bhs) -> Result<Self, WireError> {
        let (is_final, more) = final_and_more(b)?;
        Ok(Self {
            immediate: bhs::is_immediate(b),
            is_final,
            more,
            data_len: bhs::data_bytes(b),
            lun: bhs::lun(b),
            itt: bhs::itt(b),
            ttt: Ttt(bhs::be32(b, 20)),
            cmd_sn: SerialNumber(bhs::be32(b, 24)),
            exp_stat_sn: SerialNumber(bhs::be32(b, 28)),
        })
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        *out = [0; 48];
        let opcode = InitiatorOpcode::TextRequest as u8 | flag(self.immediate, IMMEDIATE);
        let flags = flag(self.is_final, FINAL) | flag(self.more, CONTINUE);
        bhs::put_start(out, opcode, flags, [0, 0], 0, self.data_len);
        out[8..16].copy_from_slice(&self.lun);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 20, self.ttt.0);
        bhs::put32(out, 24, self.cmd_sn.0);
        bhs::put32(out, 28, self.exp_stat_sn.0);
    }
}
to_bhs!(TextRequest);

/// A Text Response PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextResponse {
    /// F: the exchange is over; then the TTT is reserved.
    pub is_final: bool,
    /// C: the text goes on in the next PDU, to be asked for with an empty request.
    pub more: bool,
    /// Bytes of text.
    pub data_len: u32,
    /// Logical unit to be repeated with the TTT.
    pub lun: [u8; 8],
    /// Initiator Task Tag of the request.
    pub itt: Itt,
    /// To be repeated by the next request; reserved when over.
    pub ttt: Ttt,
    /// StatSN.
    pub stat_sn: SerialNumber,
    /// ExpCmdSN.
    pub exp_cmd_sn: SerialNumber,
    /// MaxCmdSN.
    pub max_cmd_sn: SerialNumber,
}

impl TextResponse {
    /// Reads a header whose opcode is Text Response.
    pub fn parse(b: &Bhs) -> Result<Self, WireError> {
        let (is_final, more) = final_and_more(b)?;
        Ok(Self {
            is_final,
            more,
            data_len: bhs::data_bytes(b),
            lun: bhs::lun(b),
            itt: bhs::itt(b),
            ttt: Ttt(bhs::be32(b, 20)),
            stat_sn: SerialNumber(bhs::be32(b, 24)),
            exp_cmd_sn: SerialNumber(bhs::be32(b, 28)),
            max_cmd_sn: SerialNumber(bhs::be32(b, 32)),
        })
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        *out = [0; 48];
        let flags = flag(self.is_final, FINAL) | flag(self.more, CONTINUE);
        bhs::put_start(out, TargetOpcode::TextResponse as u8, flags, [0, 0], 0, self.data_len);
        out[8..16].copy_from_slice(&self.lun);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 20, self.ttt.0);
        bhs::put32(out, 24, self.stat_sn.0);
        bhs::put32(out, 28, self.exp_cmd_sn.0);
        bhs::put32(out, 32, self.max_cmd_sn.0);
    }
}
to_bhs!(TextResponse);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x04, 0x80, 0, 0,  0, 0, 0, 16,
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 2,  0xFF, 0xFF, 0xFF, 0xFF,
            0, 0, 0, 1,  0, 0, 0, 8,
            0, 0, 0, 0,  0, 0, 0, 0,
            0, 0, 0, 0,  0, 0, 0, 0,
        ];
        let pdu = TextRequest::parse(&golden).unwrap();
        assert!(pdu.is_final && !pdu.more && !pdu.immediate);
        assert_eq!((pdu.data_len, pdu.ttt), (16, Ttt::RESERVED));
        assert_eq!(pdu.to_bhs(), golden);
    }

    #[test]
    fn a_response_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x24, 0x40, 0, 0,  0, 0, 0x20, 0,
            0, 9, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 2,  0, 0, 0, 3,
            0, 0, 0, 8,  0, 0, 0, 2,
            0, 0, 0, 0x41,  0, 0, 0, 0,
            0, 0, 0, 0,  0, 0, 0, 0,
        ];
        let pdu = TextResponse::parse(&golden).unwrap();
        assert!(!pdu.is_final && pdu.more);
        assert_eq!((pdu.data_len, pdu.ttt, pdu.lun[1]), (8192, Ttt(3), 9));
        assert_eq!(pdu.to_bhs(), golden);
    }

    #[test]
    fn final_text_cannot_go_on() {
        let mut bhs = [0; 48];
        bhs[1] = 0xC0;
        assert_eq!(TextRequest::parse(&bhs).unwrap_err().field, "F and C");
        assert_eq!(TextResponse::parse(&bhs).unwrap_err().field, "F and C");
    }
}
