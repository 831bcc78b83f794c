//! The formats of the T10 standards, as bytes and as plain values. Nothing else.
//!
//! A SCSI command arrives as a command descriptor block (CDB), may bring a parameter list, and is
//! answered with parameter data, a status, and at times with sense data. This crate knows how each of
//! these looks on the wire (SPC-4/SPC-5, SBC-3/SBC-4, SAM-5) and turns it into a Rust value and back. It
//! holds no state, makes no decision a device server would make, allocates nothing and needs no `std`. The
//! target, the test initiator and the fuzzers share it, so each format is written once, and both
//! directions are checked against each other.
//!
//! How the target uses it, for one READ(10):
//!
//! 1. [`opcode`] names the command, [`cdb_len`] says how many bytes of the CDB count;
//! 2. [`cdb::Read::parse`] makes `Read { lba, blocks, fua, .. }`, or a [`FieldError`] that names the byte
//!    and bit which is wrong;
//! 3. a `FieldError` becomes a [`Sense`] with its field pointer, and [`Sense::emit`] writes it in fixed or
//!    descriptor format.
//!
//! Three conventions run through the crate.
//!
//! * **Writing goes through [`Emit`]**, a writer over a `&mut [u8]` that counts the full length and keeps
//!   what fits: an allocation length truncates parameter data, and truncation is never an error.
//! * **Reading never panics.** What the peer got wrong is a [`FieldError`] (which byte, which bit) or, for a
//!   parameter list, a [`ListError`], which also knows "too short".
//! * **Values stay values.** A field that a logical unit may or may not support (RDPROTECT, a page code) is
//!   handed up as it is; only what no device server may accept (a reserved BYTCHK, a service action the CDB
//!   type does not have) is refused here.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod asc;
mod be;
pub mod capacity;
pub mod cdb;
mod emit;
mod error;
pub mod inquiry;
pub mod lba_status;
pub mod lun;
pub mod mode;
pub mod opcode;
pub mod report;
pub mod reserve;
pub mod sense;
pub mod status;
pub mod transport_id;
pub mod unmap;
pub mod vpd;

pub use asc::Asc;
pub use cdb::{CdbBytes, cdb_len};
pub use emit::Emit;
pub use error::{FieldError, ListError};
pub use lun::{Lun, LunMethod};
pub use sense::{FieldPointer, Sense, SenseFormat, SenseKey};
pub use status::Status;
pub use transport_id::TransportId;
