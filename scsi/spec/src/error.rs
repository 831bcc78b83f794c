//! What a peer can get wrong: a field of the CDB, or a parameter list.

/// Which field of a CDB or parameter list is not acceptable. Becomes the field pointer of sense data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FieldError {
    /// Offset of the field's first byte.
    pub byte: u16,
    /// The field's most significant bit within that byte; `None` where the field starts on a whole byte.
    pub bit: Option<u8>,
}

impl FieldError {
    /// A field of whole bytes starting at `byte`.
    pub const fn byte(byte: u16) -> FieldError {
        FieldError { byte, bit: None }
    }

    /// A field whose most significant bit is `bit` of `byte`.
    pub const fn bit(byte: u16, bit: u8) -> FieldError {
        FieldError { byte, bit: Some(bit) }
    }

    /// The same for an offset computed in `usize`; offsets beyond the field pointer's reach are capped.
    pub(crate) fn at(byte: usize, bit: Option<u8>) -> FieldError {
        FieldError { byte: u16::try_from(byte).unwrap_or(u16::MAX), bit }
    }
}

/// Why a parameter list is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ListError {
    /// It ends inside a header, descriptor or page: PARAMETER LIST LENGTH ERROR.
    Length,
    /// A field in it is wrong: INVALID FIELD IN PARAMETER LIST.
    Field(FieldError),
}

impl From<FieldError> for ListError {
    fn from(e: FieldError) -> ListError {
        ListError::Field(e)
    }
}
