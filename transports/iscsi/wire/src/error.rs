//! What is wrong with a PDU: field and offset, and the Reject it deserves.

use core::fmt;

use crate::reject::RejectReason;

/// A PDU that cannot be taken as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WireError {
    /// In which way it is wrong.
    pub fault: Fault,
    /// The field, spelled as in the RFC.
    pub field: &'static str,
    /// First byte of the field, counted from the start of the segment it stands in (BHS, AHS or data).
    pub offset: u16,
}

/// Ways to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// No such opcode, or one that only the other side may send.
    UnknownOpcode,
    /// A code the RFC reserves.
    ReservedValue,
    /// Fields that exclude each other.
    Contradiction,
    /// A length that leads outside of what carries it.
    Length,
}

impl WireError {
    /// An error at a field.
    #[inline]
    pub const fn new(fault: Fault, field: &'static str, offset: u16) -> Self {
        Self { fault, field, offset }
    }

    /// The reason a Reject PDU gives for it (RFC 7143 §11.17.1).
    pub const fn reject_reason(&self) -> RejectReason {
        match self.fault {
            Fault::UnknownOpcode => RejectReason::CommandNotSupported,
            Fault::ReservedValue | Fault::Length => RejectReason::InvalidPduField,
            Fault::Contradiction => RejectReason::ProtocolError,
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            Fault::UnknownOpcode => "unknown opcode in",
            Fault::ReservedValue => "reserved value in",
            Fault::Contradiction => "contradiction in",
            Fault::Length => "wrong length in",
        };
        write!(f, "{what} {} at byte {}", self.field, self.offset)
    }
}

impl core::error::Error for WireError {}
