//! What a target can do wrong.

use std::fmt;

use spindle_iscsi_wire::keys::TextError;
use spindle_iscsi_wire::{Itt, SerialNumber, WireError};

/// A rule the target broke.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The task it was about, if any.
    pub itt: Option<Itt>,
    /// The rule.
    pub what: What,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.itt {
            Some(itt) => write!(f, "{itt:?}: {:?}", self.what),
            None => write!(f, "{:?}", self.what),
        }
    }
}

/// Rules, with what was seen. `expected` is what would have been right.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are the numbers the variant speaks of")]
pub enum What {
    /// A header that cannot be read.
    Pdu(WireError),
    /// A text that cannot be read.
    Text(TextError),
    /// A PDU that has no place in this state of the connection.
    OutOfPlace { opcode: u8 },
    /// More data in one PDU than MaxRecvDataSegmentLength.
    SegmentTooLong { len: u32, max: u32 },
    /// An AHS in a PDU that has none.
    UnexpectedAhs { opcode: u8 },
    /// Header digest.
    HeaderDigest,
    /// Data digest.
    DataDigest,
    /// StatSN out of sequence.
    StatSn { expected: SerialNumber, got: SerialNumber },
    /// MaxCmdSN below ExpCmdSN - 1.
    Window { exp_cmd_sn: SerialNumber, max_cmd_sn: SerialNumber },
    /// ExpCmdSN beyond what was sent.
    AcknowledgesUnsent { exp_cmd_sn: SerialNumber, next: SerialNumber },
    /// An Initiator Task Tag that is not in use, or not for this.
    UnknownTask { opcode: u8 },
    /// DataSN out of sequence.
    DataSn { expected: SerialNumber, got: SerialNumber },
    /// Data-In for a command that reads nothing.
    NotARead,
    /// Data beyond the Expected Data Transfer Length.
    BeyondExpected { end: u64, edtl: u32 },
    /// Data out of order although DataPDUInOrder (or DataSequenceInOrder) is Yes.
    DataOrder { expected: u32, got: u32 },
    /// Data for the second time.
    DataRepeated { offset: u32, len: u32 },
    /// A sequence longer than MaxBurstLength.
    BurstTooLong { len: u64, max: u32 },
    /// The last Data-In of a command had no F bit.
    SequenceNotClosed,
    /// The A bit at ErrorRecoveryLevel 0.
    AckWithoutRecovery,
    /// Status that cannot come with data, such as CHECK CONDITION without its sense.
    StatusInData { status: u8 },
    /// The residual does not account for the data that came.
    Residual { edtl: u32, transferred: u64, claimed: spindle_iscsi_wire::Residual },
    /// Data received has holes.
    DataHoles,
    /// ExpDataSN does not count the PDUs sent.
    ExpDataSn { expected: SerialNumber, got: SerialNumber },
    /// An R2T for a command that writes nothing.
    NotAWrite,
    /// R2TSN out of sequence.
    R2tSn { expected: SerialNumber, got: SerialNumber },
    /// An R2T with the reserved Target Transfer Tag.
    R2tTag,
    /// An R2T for nothing, or for more than MaxBurstLength.
    R2tLength { len: u32, max: u32 },
    /// An R2T out of order although DataSequenceInOrder is Yes.
    R2tOrder { expected: u32, got: u32 },
    /// More R2Ts at a time than MaxOutstandingR2T.
    TooManyR2t { max: u32 },
    /// GOOD for a write of which not all data was asked for, without a residual.
    WriteUnderfed { edtl: u32, sent: u64, claimed: spindle_iscsi_wire::Residual },
    /// A ping with data, or an echo that is not what was sent.
    PingData,
    /// A login response in another stage, or that moves on without being asked to.
    LoginStage,
    /// ISID or version of the login changed.
    LoginField { field: &'static str },
    /// TSIH 0 at the end of a login, or another one than joined.
    Tsih { got: u16 },
    /// No TargetPortalGroupTag in a normal session.
    NoPortalGroupTag,
    /// An answer to an offer that is not one.
    Negotiation { key: String, offered: String, answered: String },
    /// A second value of a key.
    Renegotiated { key: String },
    /// An offer without an answer.
    Unanswered { key: String },
    /// The login goes on and on.
    LoginEndless,
    /// CHAP text that is missing or malformed.
    Chap { key: &'static str },
    /// The target did not prove itself.
    TargetNotAuthentic,
    /// An exchange of text longer than any good one.
    TextTooLong,
    /// A text exchange whose F bit and Target Transfer Tag disagree.
    TextTag,
}
