//! Any PDU of one side, sorted by opcode.

use crate::async_msg::AsyncMessage;
use crate::bhs::{Bhs, InitiatorOpcode, TargetOpcode};
use crate::data::{DataIn, DataOut};
use crate::error::{Fault, WireError};
use crate::login::{LoginRequest, LoginResponse};
use crate::logout::{LogoutRequest, LogoutResponse};
use crate::nop::{NopIn, NopOut};
use crate::r2t::R2t;
use crate::reject::Reject;
use crate::scsi::{ScsiCommand, ScsiResponse};
use crate::snack::SnackRequest;
use crate::text::{TextRequest, TextResponse};
use crate::tmf::{TmfRequest, TmfResponse};

const NO_SUCH_OPCODE: WireError = WireError::new(Fault::UnknownOpcode, "Opcode", 0);

/// What an initiator sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitiatorPdu {
    /// NOP-Out.
    NopOut(NopOut),
    /// SCSI Command.
    ScsiCommand(ScsiCommand),
    /// Task Management Function Request.
    TmfRequest(TmfRequest),
    /// Login Request.
    LoginRequest(LoginRequest),
    /// Text Request.
    TextRequest(TextRequest),
    /// SCSI Data-Out.
    DataOut(DataOut),
    /// Logout Request.
    LogoutRequest(LogoutRequest),
    /// SNACK Request.
    SnackRequest(SnackRequest),
}

impl InitiatorPdu {
    /// Reads a header an initiator sent. The two that come by the million are read in line,
    /// so that a caller pays for the fields it uses and no copy is made.
    #[inline(always)]
    pub fn parse(b: &Bhs) -> Result<Self, WireError> {
        match InitiatorOpcode::of(b) {
            Some(InitiatorOpcode::ScsiCommand) => Ok(Self::ScsiCommand(ScsiCommand::parse(b)?)),
            Some(InitiatorOpcode::DataOut) => Ok(Self::DataOut(DataOut::parse(b))),
            Some(opcode) => Self::parse_other(opcode, b),
            None => Err(NO_SUCH_OPCODE),
        }
    }

    #[cold]
    fn parse_other(opcode: InitiatorOpcode, b: &Bhs) -> Result<Self, WireError> {
        Ok(match opcode {
            InitiatorOpcode::NopOut => Self::NopOut(NopOut::parse(b)),
            InitiatorOpcode::ScsiCommand => Self::ScsiCommand(ScsiCommand::parse(b)?),
            InitiatorOpcode::TmfRequest => Self::TmfRequest(TmfRequest::parse(b)),
            InitiatorOpcode::LoginRequest => Self::LoginRequest(LoginRequest::parse(b)?),
            InitiatorOpcode::TextRequest => Self::TextRequest(TextRequest::parse(b)?),
            InitiatorOpcode::DataOut => Self::DataOut(DataOut::parse(b)),
            InitiatorOpcode::LogoutRequest => Self::LogoutRequest(LogoutRequest::parse(b)?),
            InitiatorOpcode::SnackRequest => Self::SnackRequest(SnackRequest::parse(b)?),
        })
    }

    /// Writes all 48 bytes.
    #[inline]
    pub fn emit(&self, out: &mut Bhs) {
        match self {
            Self::NopOut(pdu) => pdu.emit(out),
            Self::ScsiCommand(pdu) => pdu.emit(out),
            Self::TmfRequest(pdu) => pdu.emit(out),
            Self::LoginRequest(pdu) => pdu.emit(out),
            Self::TextRequest(pdu) => pdu.emit(out),
            Self::DataOut(pdu) => pdu.emit(out),
            Self::LogoutRequest(pdu) => pdu.emit(out),
            Self::SnackRequest(pdu) => pdu.emit(out),
        }
    }
}

/// What a target sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetPdu {
    /// NOP-In.
    NopIn(NopIn),
    /// SCSI Response.
    ScsiResponse(ScsiResponse),
    /// Task Management Function Response.
    TmfResponse(TmfResponse),
    /// Login Response.
    LoginResponse(LoginResponse),
    /// Text Response.
    TextResponse(TextResponse),
    /// SCSI Data-In.
    DataIn(DataIn),
    /// Logout Response.
    LogoutResponse(LogoutResponse),
    /// Ready To Transfer.
    R2t(R2t),
    /// Asynchronous Message.
    AsyncMessage(AsyncMessage),
    /// Reject.
    Reject(Reject),
}

impl TargetPdu {
    /// Reads a header a target sent.
    #[inline]
    pub fn parse(b: &Bhs) -> Result<Self, WireError> {
        Ok(match TargetOpcode::of(b).ok_or(NO_SUCH_OPCODE)? {
            TargetOpcode::NopIn => Self::NopIn(NopIn::parse(b)),
            TargetOpcode::ScsiResponse => Self::ScsiResponse(ScsiResponse::parse(b)?),
            TargetOpcode::TmfResponse => Self::TmfResponse(TmfResponse::parse(b)),
            TargetOpcode::LoginResponse => Self::LoginResponse(LoginResponse::parse(b)?),
            TargetOpcode::TextResponse => Self::TextResponse(TextResponse::parse(b)?),
            TargetOpcode::DataIn => Self::DataIn(DataIn::parse(b)?),
            TargetOpcode::LogoutResponse => Self::LogoutResponse(LogoutResponse::parse(b)),
            TargetOpcode::R2t => Self::R2t(R2t::parse(b)),
            TargetOpcode::AsyncMessage => Self::AsyncMessage(AsyncMessage::parse(b)),
            TargetOpcode::Reject => Self::Reject(Reject::parse(b)),
        })
    }

    /// Writes all 48 bytes.
    #[inline]
    pub fn emit(&self, out: &mut Bhs) {
        match self {
            Self::NopIn(pdu) => pdu.emit(out),
            Self::ScsiResponse(pdu) => pdu.emit(out),
            Self::TmfResponse(pdu) => pdu.emit(out),
            Self::LoginResponse(pdu) => pdu.emit(out),
            Self::TextResponse(pdu) => pdu.emit(out),
            Self::DataIn(pdu) => pdu.emit(out),
            Self::LogoutResponse(pdu) => pdu.emit(out),
            Self::R2t(pdu) => pdu.emit(out),
            Self::AsyncMessage(pdu) => pdu.emit(out),
            Self::Reject(pdu) => pdu.emit(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::array::uniform32;
    use proptest::prelude::*;

    use super::*;
    use crate::bhs::{Itt, Ttt};
    use crate::scsi::{Residual, TaskAttribute};
    use crate::serial::SerialNumber;

    const INITIATOR: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 0x10];
    const TARGET: [u8; 10] = [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3F];

    fn any_bhs() -> impl Strategy<Value = Bhs> {
        (uniform32(any::<u8>()), any::<[u8; 16]>()).prop_map(|(head, tail)| {
            let mut bhs = [0; 48];
            bhs[..32].copy_from_slice(&head);
            bhs[32..].copy_from_slice(&tail);
            bhs
        })
    }

    fn any_residual() -> impl Strategy<Value = Residual> {
        prop_oneof![
            Just(Residual::None),
            any::<u32>().prop_map(Residual::Underflow),
            any::<u32>().prop_map(Residual::Overflow),
        ]
    }

    #[test]
    fn an_unknown_opcode_is_a_command_not_supported() {
        let mut bhs = [0; 48];
        bhs[0] = 0x07;
        let error = InitiatorPdu::parse(&bhs).unwrap_err();
        assert_eq!((error.field, error.offset, error.reject_reason().code()), ("Opcode", 0, 0x05));
        assert!(TargetPdu::parse(&bhs).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// Whatever is understood says the same after having been written and read again, and arbitrary bytes
        /// do not panic.
        #[test]
        fn what_an_initiator_says_is_said_again(mut bhs in any_bhs(), which in 0usize..9) {
            if let Some(&opcode) = INITIATOR.get(which) {
                bhs[0] = bhs[0] & 0x40 | opcode;
            }
            if let Ok(pdu) = InitiatorPdu::parse(&bhs) {
                let mut again = [0xEE; 48];
                pdu.emit(&mut again);
                prop_assert_eq!(InitiatorPdu::parse(&again), Ok(pdu));
                prop_assert_eq!(again[0] & 0x3F, bhs[0] & 0x3F);
            }
        }

        #[test]
        fn what_a_target_says_is_said_again(mut bhs in any_bhs(), which in 0usize..11) {
            if let Some(&opcode) = TARGET.get(which) {
                bhs[0] = opcode;
            }
            if let Ok(pdu) = TargetPdu::parse(&bhs) {
                let mut again = [0xEE; 48];
                pdu.emit(&mut again);
                prop_assert_eq!(TargetPdu::parse(&again), Ok(pdu));
                prop_assert_eq!(again[0] & 0x3F, bhs[0] & 0x3F);
            }
        }

        #[test]
        fn commands_come_out_as_they_went_in(
            bits in any::<[bool; 4]>(), attr in 0u8..5, priority in 0u8..16, ahs_words: u8,
            data_len in 0u32..1 << 24, numbers in any::<[u32; 4]>(), lun: [u8; 8], cdb: [u8; 16],
        ) {
            let attr = [TaskAttribute::Untagged, TaskAttribute::Simple, TaskAttribute::Ordered,
                        TaskAttribute::HeadOfQueue, TaskAttribute::Aca][usize::from(attr)];
            let command = ScsiCommand {
                immediate: bits[0], is_final: bits[1] || !bits[3], read: bits[2], write: bits[3],
                attr, priority, ahs_words, data_len, lun,
                itt: Itt(numbers[0]), edtl: numbers[1], cmd_sn: SerialNumber(numbers[2]),
                exp_stat_sn: SerialNumber(numbers[3]), cdb,
            };
            prop_assert_eq!(InitiatorPdu::parse(&command.to_bhs()), Ok(InitiatorPdu::ScsiCommand(command)));
        }

        #[test]
        fn data_comes_out_as_it_went_in(
            bits in any::<[bool; 3]>(), status: u8, residual in any_residual(),
            data_len in 0u32..1 << 24, numbers in any::<[u32; 7]>(), lun: [u8; 8],
        ) {
            let end = crate::data::DataInStatus { status, stat_sn: SerialNumber(numbers[6]), residual };
            let data_in = DataIn {
                is_final: bits[0] || bits[2], ack: bits[1], status: bits[2].then_some(end), data_len, lun,
                itt: Itt(numbers[0]), ttt: Ttt(numbers[1]), exp_cmd_sn: SerialNumber(numbers[2]),
                max_cmd_sn: SerialNumber(numbers[3]), data_sn: SerialNumber(numbers[4]),
                buffer_offset: numbers[5],
            };
            prop_assert_eq!(TargetPdu::parse(&data_in.to_bhs()), Ok(TargetPdu::DataIn(data_in)));
            let data_out = DataOut {
                is_final: bits[0], data_len, lun, itt: Itt(numbers[0]), ttt: Ttt(numbers[1]),
                exp_stat_sn: SerialNumber(numbers[2]), data_sn: SerialNumber(numbers[4]),
                buffer_offset: numbers[5],
            };
            prop_assert_eq!(InitiatorPdu::parse(&data_out.to_bhs()), Ok(InitiatorPdu::DataOut(data_out)));
        }

        #[test]
        fn responses_come_out_as_they_went_in(
            response: u8, status: u8, status_qualifier: u16, residual in any_residual(),
            bidi_residual in any_residual(), data_len in 0u32..1 << 24, numbers in any::<[u32; 6]>(),
        ) {
            let pdu = ScsiResponse {
                response: crate::scsi::ServiceResponse::of(response), status, status_qualifier,
                residual, bidi_residual, data_len, itt: Itt(numbers[0]), snack_tag: numbers[1],
                stat_sn: SerialNumber(numbers[2]), exp_cmd_sn: SerialNumber(numbers[3]),
                max_cmd_sn: SerialNumber(numbers[4]), exp_data_sn: SerialNumber(numbers[5]),
            };
            prop_assert_eq!(TargetPdu::parse(&pdu.to_bhs()), Ok(TargetPdu::ScsiResponse(pdu)));
        }
    }
}
