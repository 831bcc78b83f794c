//! Command descriptor blocks, parsed into plain values and written from them.
//!
//! Every type has `parse(&[u8]) -> Result<Self, FieldError>` and `emit(&self) -> CdbBytes`. `parse` wants the
//! whole CDB ([`cdb_len_of`]; more bytes do no harm), with the opcode of the type. Reserved bits are not
//! looked at: a device server that minds them compares the CDB with its usage map ([`check_usage`]), the
//! same one REPORT SUPPORTED OPERATION CODES hands out. `emit` cuts a value to the width of its field and
//! leaves the CONTROL byte zero.

mod medium;
mod primary;
mod reserve;
mod transfer;

use core::ops::Deref;

pub use medium::{
    GetLbaStatus, PreFetch, PreventAllowMediumRemoval, ReadCapacity10, ReadCapacity16, StartStopUnit,
    SynchronizeCache, Unmap, WriteSame,
};
pub use primary::{
    Inquiry, ModeSelect, ModeSense, PageControl, ReportLuns, ReportSupportedOperationCodes,
    ReportSupportedTaskManagementFunctions, ReportingOptions, RequestSense, SelectReport, TestUnitReady,
};
pub use reserve::{
    PersistentReserveIn, PersistentReserveOut, PrInAction, PrOutAction, ReleaseUnit, ReserveUnit,
};
pub use transfer::{
    Bytchk, CompareAndWrite, Family, OrWrite, ProtectionTags, Read, Verify, Write, WriteAndVerify,
    WriteAtomic,
};

use crate::{FieldError, opcode};

/// The length of a CDB by its opcode's group code (SPC-5 §4.2.5.1). `None` where the opcode alone does not
/// tell: 7Eh and 7Fh (see [`cdb_len_of`]), reserved and vendor specific groups.
pub const fn cdb_len(opcode: u8) -> Option<usize> {
    match opcode >> 5 {
        0 => Some(6),
        1 | 2 => Some(10),
        4 => Some(16),
        5 => Some(12),
        _ => None,
    }
}

/// The length of the CDB that starts with these bytes, the variable length CDB (7Fh) included: 8 bytes and
/// what ADDITIONAL CDB LENGTH says. `None` if unknown or too short to say.
pub fn cdb_len_of(cdb: &[u8]) -> Option<usize> {
    match *cdb.first()? {
        opcode::VARIABLE_LENGTH => Some(8 + usize::from(*cdb.get(7)?)),
        other => cdb_len(other),
    }
}

/// The CONTROL byte: the last byte of a CDB, the second one of a variable length CDB.
pub fn control(cdb: &[u8]) -> Option<u8> {
    match *cdb.first()? {
        opcode::VARIABLE_LENGTH | opcode::EXTENDED_CDB => cdb.get(1).copied(),
        other => cdb.get(cdb_len(other)?.checked_sub(1)?).copied(),
    }
}

/// Bit 2 of CONTROL (SAM-5 §5.2): the initiator wants an auto contingent allegiance after CHECK CONDITION.
pub fn naca(cdb: &[u8]) -> bool {
    control(cdb).is_some_and(|c| c & 0x04 != 0)
}

/// Refuses a CDB that sets a bit its usage map (SPC-5 §6.35.3, CDB USAGE DATA) has not. The service action in
/// the map stands for itself. Bytes past the map's end are not looked at.
pub fn check_usage(cdb: &[u8], usage: &[u8]) -> Result<(), FieldError> {
    for (at, (byte, map)) in cdb.iter().zip(usage).enumerate().skip(1) {
        let extra = byte & !map;
        if extra != 0 {
            return Err(FieldError::at(at, Some(extra.ilog2() as u8)));
        }
    }
    Ok(())
}

/// A CDB of at most 32 bytes, as `emit` makes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CdbBytes {
    bytes: [u8; 32],
    len: u8,
}

impl CdbBytes {
    fn new(opcode: u8) -> CdbBytes {
        let len = if opcode == opcode::VARIABLE_LENGTH { 32 } else { cdb_len(opcode).unwrap_or(6) };
        let mut cdb = CdbBytes { bytes: [0; 32], len: len as u8 };
        cdb.bytes[0] = opcode;
        cdb
    }

    fn with_action(opcode: u8, service_action: u8) -> CdbBytes {
        let mut cdb = CdbBytes::new(opcode);
        cdb.bytes[1] = service_action & 0x1F;
        cdb
    }

    /// Every `at` below is a constant of the format in question.
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.bytes[at..at + N].copy_from_slice(&bytes);
    }

    fn or(&mut self, at: usize, bits: u8) {
        self.bytes[at] |= bits;
    }

    /// Sets the CONTROL byte.
    #[must_use]
    pub fn with_control(mut self, control: u8) -> CdbBytes {
        let at = if self.bytes[0] == opcode::VARIABLE_LENGTH { 1 } else { usize::from(self.len) - 1 };
        self.bytes[at] = control;
        self
    }

    /// The bytes of the CDB.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The CDB as the 16 bytes an iSCSI or SRP command has place for; `None` if it is longer.
    pub fn first_16(&self) -> Option<[u8; 16]> {
        if self.len > 16 {
            return None;
        }
        self.bytes.first_chunk().copied()
    }
}

impl Deref for CdbBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Is this a CDB of `opcode`, all of it there?
#[inline]
fn expect(cdb: &[u8], opcode: u8) -> Result<(), FieldError> {
    if cdb.first() != Some(&opcode) {
        return Err(FieldError::byte(0));
    }
    whole(cdb, cdb_len(opcode).unwrap_or(1))
}

/// The same, with the service action in byte 1.
#[inline]
fn expect_action(cdb: &[u8], opcode: u8, service_action: u8) -> Result<(), FieldError> {
    expect(cdb, opcode)?;
    if cdb[1] & 0x1F == service_action { Ok(()) } else { Err(FieldError::bit(1, 4)) }
}

/// A CDB that ends early is wrong at its first missing byte.
#[inline]
fn whole(cdb: &[u8], len: usize) -> Result<(), FieldError> {
    if cdb.len() < len { Err(FieldError::at(cdb.len(), None)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_code_tells_the_length() {
        assert_eq!(cdb_len(opcode::INQUIRY), Some(6));
        assert_eq!(cdb_len(opcode::READ_10), Some(10));
        assert_eq!(cdb_len(opcode::PERSISTENT_RESERVE_OUT), Some(10));
        assert_eq!(cdb_len(opcode::READ_16), Some(16));
        assert_eq!(cdb_len(opcode::READ_12), Some(12));
        assert_eq!(cdb_len(opcode::VARIABLE_LENGTH), None);
        assert_eq!(cdb_len(0xC0), None);
        assert_eq!(cdb_len_of(&[0x7F, 0, 0, 0, 0, 0, 0, 0x18]), Some(32));
        assert_eq!(cdb_len_of(&[0x7F, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(cdb_len_of(&[]), None);
    }

    #[test]
    fn control_is_the_last_byte_but_the_second_of_a_variable_length_cdb() {
        assert_eq!(control(&[0x12, 0, 0, 0, 36, 0x04]), Some(4));
        assert!(naca(&[0x12, 0, 0, 0, 36, 0x04]));
        assert!(naca(&[0x7F, 0x04]));
        assert!(!naca(&[0x12, 0, 0, 0, 36]));
        let cdb = TestUnitReady.emit().with_control(0xC4);
        assert_eq!(*cdb, [0, 0, 0, 0, 0, 0xC4]);
    }

    #[test]
    fn a_bit_outside_the_usage_map_is_named() {
        let usage = [0x12, 0x01, 0xFF, 0xFF, 0xFF, 0x04];
        assert_eq!(check_usage(&[0x12, 1, 0x83, 0, 0xFF, 0], &usage), Ok(()));
        assert_eq!(check_usage(&[0x12, 0x62, 0, 0, 0, 0], &usage), Err(FieldError::bit(1, 6)));
        assert_eq!(check_usage(&[0x12, 0, 0, 0, 0, 1], &usage), Err(FieldError::bit(5, 0)));
    }
}
