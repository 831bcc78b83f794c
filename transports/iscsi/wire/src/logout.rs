//! Logout Request and Logout Response (RFC 7143 §11.14, §11.15).

use crate::bhs::{self, Bhs, FINAL, IMMEDIATE, InitiatorOpcode, Itt, TargetOpcode};
use crate::code::{codes, to_bhs};
use crate::error::{Fault, WireError};
use crate::scsi::flag;
use crate::serial::SerialNumber;

/// What to close.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum LogoutReason {
    /// The whole session.
    CloseSession = 0,
    /// The connection of the given CID.
    CloseConnection = 1,
    /// Remove the connection of the given CID; its tasks will be reassigned.
    RemoveForRecovery = 2,
}

codes! {
    /// Answers to a logout.
    pub enum LogoutResult {
        /// Closed.
        Success = 0,
        /// CID not found.
        CidNotFound = 1,
        /// Connection recovery is not supported.
        RecoveryNotSupported = 2,
        /// Cleanup failed.
        CleanupFailed = 3,
    }
}

/// A Logout Request PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogoutRequest {
    /// I.
    pub immediate: bool,
    /// What to close.
    pub reason: LogoutReason,
    /// Initiator Task Tag.
    pub itt: Itt,
    /// Connection; means nothing when the session is closed.
    pub cid: u16,
    /// CmdSN.
    pub cmd_sn: SerialNumber,
    /// ExpStatSN.
    pub exp_stat_sn: SerialNumber,
}

impl LogoutRequest {
    /// Reads a header whose opcode is Logout Request.
    pub fn parse(b: &Bhs) -> Result<Self, WireError> {
        let reason = match b[1] & 0x7F {
            0 => LogoutReason::CloseSession,
            1 => LogoutReason::CloseConnection,
            2 => LogoutReason::RemoveForRecovery,
            _ => return Err(WireError::new(Fault::ReservedValue, "Reason Code", 1)),
        };
        Ok(Self {
            immediate: bhs::is_immediate(b),
            reason,
            itt: bhs::itt(b),
            cid: bhs::be16(b, 20),
            cmd_sn: SerialNumber(bhs::be32(b, 24)),
            exp_stat_sn: SerialNumber(bhs::be32(b, 28)),
        })
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        *out = [0; 48];
        let opcode = InitiatorOpcode::LogoutRequest as u8 | flag(self.immediate, IMMEDIATE);
        bhs::put_start(out, opcode, FINAL | self.reason as u8, [0, 0], 0, 0);
        bhs::put32(out, 16, self.itt.0);
        bhs::put16(out, 20, self.cid);
        bhs::put32(out, 24, self.cmd_sn.0);
        bhs::put32(out, 28, self.exp_stat_sn.0);
    }
}
to_bhs!(LogoutRequest);

/// A Logout Response PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogoutResponse {
    /// How it went.
    pub result: LogoutResult,
    /// Initiator Task Tag of the request.
    pub itt: Itt,
    /// StatSN.
    pub stat_sn: SerialNumber,
    /// ExpCmdSN.
    pub exp_cmd_sn: SerialNumber,
    /// MaxCmdSN.
    pub max_cmd_sn: SerialNumber,
    /// Seconds to wait before a reconnect.
    pub time2wait: u16,
    /// Seconds after that during which tasks can be reassigned.
    pub time2retain: u16,
}

impl LogoutResponse {
    /// Reads a header whose opcode is Logout Response.
    pub fn parse(b: &Bhs) -> Self {
        Self {
            result: LogoutResult::of(b[2]),
            itt: bhs::itt(b),
            stat_sn: SerialNumber(bhs::be32(b, 24)),
            exp_cmd_sn: SerialNumber(bhs::be32(b, 28)),
            max_cmd_sn: SerialNumber(bhs::be32(b, 32)),
            time2wait: bhs::be16(b, 40),
            time2retain: bhs::be16(b, 42),
        }
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        *out = [0; 48];
        bhs::put_start(out, TargetOpcode::LogoutResponse as u8, FINAL, [self.result.code(), 0], 0, 0);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 24, self.stat_sn.0);
        bhs::put32(out, 28, self.exp_cmd_sn.0);
        bhs::put32(out, 32, self.max_cmd_sn.0);
        bhs::put16(out, 40, self.time2wait);
        bhs::put16(out, 42, self.time2retain);
    }
}
to_bhs!(LogoutResponse);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let mut golden: Bhs = [
            0x46, 0x81, 0, 0,  0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0x40,  0, 2, 0, 0,
            0, 0, 0, 6,  0, 0, 0, 9,
            0, 0, 0, 0,  0, 0, 0, 0,
            0, 0, 0, 0,  0, 0, 0, 0,
        ];
        let pdu = LogoutRequest::parse(&golden).unwrap();
        assert_eq!((pdu.reason, pdu.cid, pdu.immediate), (LogoutReason::CloseConnection, 2, true));
        assert_eq!(pdu.to_bhs(), golden);
        golden[1] = 0x83;
        assert_eq!(LogoutRequest::parse(&golden).unwrap_err().field, "Reason Code");
    }

    #[test]
    fn a_response_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x26, 0x80, 1, 0,  0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0x40,  0, 0, 0, 0,
            0, 0, 0, 9,  0, 0, 0, 6,
            0, 0, 0, 0x45,  0, 0, 0, 0,
            0, 2, 0, 20,  0, 0, 0, 0,
        ];
        let pdu = LogoutResponse::parse(&golden);
        assert_eq!(pdu.result, LogoutResult::CidNotFound);
        assert_eq!((pdu.time2wait, pdu.time2retain), (2, 20));
        assert_eq!(pdu.to_bhs(), golden);
    }
}
