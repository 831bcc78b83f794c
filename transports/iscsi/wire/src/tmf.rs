//! Task Management Function Request and Response (RFC 7143 §11.5, §11.6; RFC 7144 §4).

use crate::bhs::{self, Bhs, FINAL, IMMEDIATE, InitiatorOpcode, Itt, TargetOpcode};
use crate::code::{codes, to_bhs};
use crate::scsi::flag;
use crate::serial::SerialNumber;

codes! {
    /// Task management functions. The last four need iSCSIProtocolLevel 2 (RFC 7144).
    pub enum TmfFunction {
        /// ABORT TASK.
        AbortTask = 1,
        /// ABORT TASK SET.
        AbortTaskSet = 2,
        /// CLEAR ACA.
        ClearAca = 3,
        /// CLEAR TASK SET.
        ClearTaskSet = 4,
        /// LOGICAL UNIT RESET.
        LogicalUnitReset = 5,
        /// TARGET WARM RESET.
        TargetWarmReset = 6,
        /// TARGET COLD RESET.
        TargetColdReset = 7,
        /// TASK REASSIGN.
        TaskReassign = 8,
        /// QUERY TASK.
        QueryTask = 9,
        /// QUERY TASK SET.
        QueryTaskSet = 10,
        /// I_T NEXUS RESET.
        ItNexusReset = 11,
        /// QUERY ASYNCHRONOUS EVENT.
        QueryAsyncEvent = 12,
    }
}

codes! {
    /// Answers to a task management function.
    pub enum TmfResult {
        /// Function complete.
        Complete = 0,
        /// Task does not exist.
        TaskDoesNotExist = 1,
        /// LUN does not exist.
        LunDoesNotExist = 2,
        /// Task still allegiant.
        TaskStillAllegiant = 3,
        /// Task allegiance reassignment not supported.
        ReassignmentNotSupported = 4,
        /// Task management function not supported.
        NotSupported = 5,
        /// Function authorization failed.
        AuthorizationFailed = 6,
        /// Function succeeded (RFC 7144: the queried thing is there).
        Succeeded = 7,
        /// Function rejected.
        Rejected = 255,
    }
}

/// A Task Management Function Request PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TmfRequest {
    /// I.
    pub immediate: bool,
    /// What to do. A code above 127 does not fit its field.
    pub function: TmfFunction,
    /// Logical unit, for the functions that have one.
    pub lun: [u8; 8],
    /// Initiator Task Tag of the request itself.
    pub itt: Itt,
    /// The task meant by ABORT TASK, QUERY TASK and TASK REASSIGN; else reserved.
    pub referenced_itt: Itt,
    /// CmdSN.
    pub cmd_sn: SerialNumber,
    /// ExpStatSN.
    pub exp_stat_sn: SerialNumber,
    /// CmdSN of the task meant by ABORT TASK.
    pub ref_cmd_sn: SerialNumber,
    /// TASK REASSIGN: the first Data-In or R2T wanted again.
    pub exp_data_sn: SerialNumber,
}

impl TmfRequest {
    /// Reads a header whose opcode is Task Management Function Request. An unknown function is for the task
    /// manager to answer ([`TmfResult::NotSupported`]), not for a Reject.
    pub fn parse(b: &Bhs) -> Self {
        Self {
            immediate: bhs::is_immediate(b),
            function: TmfFunction::of(b[1] & 0x7F),
            lun: bhs::lun(b),
            itt: bhs::itt(b),
            referenced_itt: Itt(bhs::be32(b, 20)),
            cmd_sn: SerialNumber(bhs::be32(b, 24)),
            exp_stat_sn: SerialNumber(bhs::be32(b, 28)),
            ref_cmd_sn: SerialNumber(bhs::be32(b, 32)),
            exp_data_sn: SerialNumber(bhs::be32(b, 36)),
        }
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        let opcode = InitiatorOpcode::TmfRequest as u8 | flag(self.immediate, IMMEDIATE);
        *out = [0; 48];
        bhs::put_start(out, opcode, FINAL | self.function.code(), [0, 0], 0, 0);
        out[8..16].copy_from_slice(&self.lun);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 20, self.referenced_itt.0);
        bhs::put32(out, 24, self.cmd_sn.0);
        bhs::put32(out, 28, self.exp_stat_sn.0);
        bhs::put32(out, 32, self.ref_cmd_sn.0);
        bhs::put32(out, 36, self.exp_data_sn.0);
    }
}
to_bhs!(TmfRequest);

/// A Task Management Function Response PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TmfResponse {
    /// How it went.
    pub result: TmfResult,
    /// Additional response information of the QUERY functions (RFC 7144).
    pub additional: [u8; 3],
    /// Initiator Task Tag of the request.
    pub itt: Itt,
    /// StatSN.
    pub stat_sn: SerialNumber,
    /// ExpCmdSN.
    pub exp_cmd_sn: SerialNumber,
    /// MaxCmdSN.
    pub max_cmd_sn: SerialNumber,
}

impl TmfResponse {
    /// Reads a header whose opcode is Task Management Function Response.
    pub fn parse(b: &Bhs) -> Self {
        Self {
            result: TmfResult::of(b[2]),
            additional: [b[8], b[9], b[10]],
            itt: bhs::itt(b),
            stat_sn: SerialNumber(bhs::be32(b, 24)),
            exp_cmd_sn: SerialNumber(bhs::be32(b, 28)),
            max_cmd_sn: SerialNumber(bhs::be32(b, 32)),
        }
    }

    /// Writes all 48 bytes.
    pub fn emit(&self, out: &mut Bhs) {
        *out = [0; 48];
        bhs::put_start(out, TargetOpcode::TmfResponse as u8, FINAL, [self.result.code(), 0], 0, 0);
        out[8..11].copy_from_slice(&self.additional);
        bhs::put32(out, 16, self.itt.0);
        bhs::put32(out, 24, self.stat_sn.0);
        bhs::put32(out, 28, self.exp_cmd_sn.0);
        bhs::put32(out, 32, self.max_cmd_sn.0);
    }
}
to_bhs!(TmfResponse);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abort_task_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x42, 0x81, 0, 0,  0, 0, 0, 0,
            0, 1, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0x20,  0, 0, 0, 0x11,
            0, 0, 0, 6,  0, 0, 0, 9,
            0, 0, 0, 5,  0, 0, 0, 2,
            0, 0, 0, 0,  0, 0, 0, 0,
        ];
        let pdu = TmfRequest::parse(&golden);
        assert_eq!(pdu.function, TmfFunction::AbortTask);
        assert!(pdu.immediate);
        assert_eq!((pdu.itt, pdu.referenced_itt), (Itt(0x20), Itt(0x11)));
        assert_eq!((pdu.ref_cmd_sn.0, pdu.exp_data_sn.0), (5, 2));
        assert_eq!(pdu.to_bhs(), golden);
    }

    #[test]
    fn a_response_is_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden: Bhs = [
            0x22, 0x80, 7, 0,  0, 0, 0, 0,
            0x26, 0x29, 0x01, 0, 0, 0, 0, 0,
            0, 0, 0, 0x20,  0, 0, 0, 0,
            0, 0, 0, 9,  0, 0, 0, 6,
            0, 0, 0, 0x45,  0, 0, 0, 0,
            0, 0, 0, 0,  0, 0, 0, 0,
        ];
        let pdu = TmfResponse::parse(&golden);
        assert_eq!((pdu.result, pdu.additional), (TmfResult::Succeeded, [0x26, 0x29, 1]));
        assert_eq!(pdu.to_bhs(), golden);
    }

    #[test]
    fn every_code_survives_its_name() {
        for code in 0..=255 {
            assert_eq!(TmfFunction::of(code).code(), code);
            assert_eq!(TmfResult::of(code).code(), code);
        }
        assert_eq!(TmfFunction::of(11), TmfFunction::ItNexusReset);
        assert_eq!(TmfFunction::of(13), TmfFunction::Other(13));
    }
}
