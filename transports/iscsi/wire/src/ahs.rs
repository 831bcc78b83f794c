//! Additional Header Segments (RFC 7143 §11.2.2): the rest of a CDB longer than 16 bytes, and the read length of
//! a bidirectional command.
//!
//! ```text
//!  byte 0-1  AHSLength: bytes after byte 2, without padding
//!         2  AHSType
//!         3  first byte of the content (reserved in both known types)
//!      then  content, padded to a word
//! ```

use crate::bhs::{AHS_LEN_MAX, padded};
use crate::error::{Fault, WireError};

/// One Additional Header Segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ahs<'a> {
    /// What follows the first 16 bytes of the CDB.
    ExtendedCdb(&'a [u8]),
    /// Bidirectional Read Expected Data Transfer Length.
    BidiReadLength(u32),
    /// A type not known here.
    Other {
        /// AHSType.
        kind: u8,
        /// The content from byte 3 on.
        content: &'a [u8],
    },
}

/// Bytes of header before the content in both known types.
pub const AHS_HEADER_LEN: usize = 4;
const EXTENDED_CDB: u8 = 1;
const BIDI_READ_LENGTH: u8 = 2;

/// Walks the segments after a BHS. Ends after the first malformed one; each step takes at least four bytes.
#[derive(Clone, Debug)]
pub struct AhsIter<'a> {
    rest: &'a [u8],
    offset: u16,
}

impl<'a> AhsIter<'a> {
    /// `segments` are the TotalAHSLength words after the BHS.
    pub fn new(segments: &'a [u8]) -> Self {
        Self { rest: segments, offset: 0 }
    }
}

impl<'a> Iterator for AhsIter<'a> {
    type Item = Result<Ahs<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let at = self.offset;
        let Some((ahs, used)) = first(self.rest) else {
            self.rest = &[];
            return Some(Err(WireError::new(Fault::Length, "AHSLength", at)));
        };
        self.rest = &self.rest[used..];
        self.offset = self.offset.saturating_add(used as u16);
        Some(Ok(ahs))
    }
}

/// The first segment and the bytes it takes with its padding.
fn first(bytes: &[u8]) -> Option<(Ahs<'_>, usize)> {
    let [hi, lo, kind, ..] = *bytes else { return None };
    let len = u16::from_be_bytes([hi, lo]);
    let content = bytes.get(3..3 + usize::from(len))?;
    let used = padded(3 + u32::from(len)) as usize;
    if used > bytes.len() {
        return None;
    }
    // RFC 7143 §11.2.2.1: the two high bits of the type are reserved.
    let ahs = match kind & 0x3F {
        EXTENDED_CDB => Ahs::ExtendedCdb(content.get(1..)?),
        BIDI_READ_LENGTH => Ahs::BidiReadLength(u32::from_be_bytes(content.get(1..)?.try_into().ok()?)),
        kind => Ahs::Other { kind, content },
    };
    Some((ahs, used))
}

/// What the Additional Header Segments of a SCSI Command say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommandAhs<'a> {
    /// The CDB from byte 16 on; empty if it ends before.
    pub cdb_rest: &'a [u8],
    /// Read length of a bidirectional command.
    pub bidi_read_len: Option<u32>,
}

impl<'a> CommandAhs<'a> {
    /// Reads the segments of a SCSI Command. Each kind may come once; unknown kinds are refused, since they
    /// could change what the command means.
    pub fn parse(segments: &'a [u8]) -> Result<Self, WireError> {
        let mut found = Self::default();
        let mut iter = AhsIter::new(segments);
        loop {
            let at = iter.offset;
            let Some(ahs) = iter.next() else { return Ok(found) };
            let twice = Err(WireError::new(Fault::Contradiction, "AHSType", at + 2));
            match ahs? {
                Ahs::ExtendedCdb(_) if !found.cdb_rest.is_empty() => return twice,
                Ahs::ExtendedCdb([]) => return Err(WireError::new(Fault::Length, "AHSLength", at)),
                Ahs::ExtendedCdb(rest) => found.cdb_rest = rest,
                Ahs::BidiReadLength(_) if found.bidi_read_len.is_some() => return twice,
                Ahs::BidiReadLength(len) => found.bidi_read_len = Some(len),
                Ahs::Other { .. } => return Err(WireError::new(Fault::ReservedValue, "AHSType", at + 2)),
            }
        }
    }

    /// Bytes `emit` writes: what to put, divided by four, into TotalAHSLength.
    pub fn emitted_len(&self) -> usize {
        let cdb = if self.cdb_rest.is_empty() { 0 } else { AHS_HEADER_LEN + self.cdb_rest.len() };
        cdb.next_multiple_of(4) + if self.bidi_read_len.is_some() { 8 } else { 0 }
    }

    /// Writes the segments into the front of `out`; `None` if they do not fit there or into a PDU.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let total = self.emitted_len();
        if total > AHS_LEN_MAX as usize {
            return None;
        }
        let out = out.get_mut(..total)?;
        out.fill(0);
        let mut at = 0;
        if !self.cdb_rest.is_empty() {
            let len = self.cdb_rest.len();
            out[..2].copy_from_slice(&((len + 1) as u16).to_be_bytes());
            out[2] = EXTENDED_CDB;
            out[AHS_HEADER_LEN..AHS_HEADER_LEN + len].copy_from_slice(self.cdb_rest);
            at = (AHS_HEADER_LEN + len).next_multiple_of(4);
        }
        if let Some(len) = self.bidi_read_len {
            out[at..at + 4].copy_from_slice(&[0, 5, BIDI_READ_LENGTH, 0]);
            out[at + 4..at + 8].copy_from_slice(&len.to_be_bytes());
        }
        Some(total)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_extended_cdb_and_a_read_length_are_read_and_written_byte_by_byte() {
        #[rustfmt::skip]
        let golden = [
            0, 7, 1, 0,  1, 2, 3, 4, 5, 6, 0, 0,
            0, 5, 2, 0,  0, 1, 0, 0,
        ];
        let ahs = CommandAhs::parse(&golden).unwrap();
        assert_eq!(ahs, CommandAhs { cdb_rest: &[1, 2, 3, 4, 5, 6], bidi_read_len: Some(0x10000) });
        let mut out = [0xEE; 20];
        assert_eq!(ahs.emit(&mut out), Some(20));
        assert_eq!(out, golden);
        assert_eq!(ahs.emit(&mut [0; 19]), None);
    }

    #[test]
    fn lengths_that_lead_outside_are_found() {
        for bad in
            [&[0, 9, 1, 0, 1, 2, 3, 4][..], &[0, 0, 1, 0], &[0, 5, 2, 0], &[0], &[0, 4, 2, 0, 1, 2, 3, 0]]
        {
            let error = CommandAhs::parse(bad).unwrap_err();
            assert_eq!((error.fault, error.field, error.offset), (Fault::Length, "AHSLength", 0), "{bad:?}");
        }
    }

    #[test]
    fn an_error_in_the_second_segment_gives_its_offset() {
        let error = CommandAhs::parse(&[0, 5, 2, 0, 0, 0, 2, 0, 0, 5, 2, 0, 0, 0, 2, 0]).unwrap_err();
        assert_eq!((error.fault, error.offset), (Fault::Contradiction, 10));
        let error = CommandAhs::parse(&[0, 5, 2, 0, 0, 0, 2, 0, 0, 1, 9, 0]).unwrap_err();
        assert_eq!((error.fault, error.offset), (Fault::ReservedValue, 10));
    }

    #[test]
    fn unknown_types_can_be_walked_over() {
        let mut iter = AhsIter::new(&[0, 1, 9, 7, 0, 5, 2, 0, 0, 0, 2, 0]);
        assert_eq!(iter.next(), Some(Ok(Ahs::Other { kind: 9, content: &[7] })));
        assert_eq!(iter.next(), Some(Ok(Ahs::BidiReadLength(512))));
        assert_eq!(iter.next(), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_end_the_walk(bytes in proptest::collection::vec(any::<u8>(), 0..1021)) {
            let steps = AhsIter::new(&bytes).count();
            prop_assert!(steps <= bytes.len() / 4 + 1);
            let _ = CommandAhs::parse(&bytes);
        }

        #[test]
        fn segments_come_out_as_they_went_in(
            cdb_rest in proptest::collection::vec(any::<u8>(), 0..1000),
            bidi_read_len in proptest::option::of(any::<u32>()),
        ) {
            let ahs = CommandAhs { cdb_rest: &cdb_rest, bidi_read_len };
            let mut out = [0xEE; 1020];
            let len = ahs.emit(&mut out).unwrap();
            prop_assert_eq!(len % 4, 0);
            prop_assert_eq!(CommandAhs::parse(&out[..len]), Ok(ahs));
        }
    }
}
