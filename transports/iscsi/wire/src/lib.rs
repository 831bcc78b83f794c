//! The wire formats of iSCSI: RFC 7143 (and the additions of RFC 7144) as plain data.
//!
//! Every iSCSI PDU begins with a Basic Header Segment of 48 bytes. Here that is simply [`Bhs`], an array of
//! 48 bytes: the receiver fills one, asks [`bhs`] for the lengths that tell what else to read, looks at the
//! opcode, and turns it into a struct by value:
//!
//! ```
//! use spindle_iscsi_wire::{Bhs, InitiatorPdu, bhs};
//!
//! fn on_header(header: &Bhs) {
//!     let more = bhs::ahs_bytes(header) + bhs::padded(bhs::data_bytes(header));
//!     match InitiatorPdu::parse(header) {
//!         Ok(InitiatorPdu::ScsiCommand(command)) => println!("{:?}, {more} bytes follow", command.itt),
//!         Ok(_other) => {}
//!         Err(error) => println!("Reject with reason {:?}: {error}", error.reject_reason()),
//!     }
//! }
//! # on_header(&[0; 48]);
//! ```
//!
//! * One struct for each PDU, named as the RFC names it ([`ScsiCommand`], [`DataIn`], [`R2t`] …), with `parse`
//!   and `emit`. Both are inlined loads and byte swaps at constant offsets; a caller that uses three fields pays
//!   for three fields. Nothing on this path allocates.
//! * What may not be written in a struct cannot be received: reserved codes, contradictory flags and wrong
//!   stages become a [`WireError`] that names field and offset, and knows the reason of the Reject it deserves.
//!   Reserved *bits* are ignored, as the RFC asks of receivers.
//! * [`SerialNumber`] holds CmdSN, StatSN and their kin; it has no `<`, only the arithmetic of RFC 1982.
//! * [`ahs`] walks Additional Header Segments; [`keys`], [`values`] and [`iscsi_name`] read and write the text
//!   of login and SendTargets. Text is the only part that uses the heap.
//!
//! CRC32C digests are not here (a digest is a property of the connection, not of a PDU), and nothing here knows
//! a session: sequence rules belong to the target and the initiator.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod code;

pub mod ahs;
pub mod async_msg;
pub mod bhs;
pub mod data;
pub mod error;
pub mod iscsi_name;
pub mod keys;
pub mod login;
pub mod logout;
pub mod nop;
pub mod pdu;
pub mod r2t;
pub mod reject;
pub mod scsi;
pub mod serial;
pub mod snack;
pub mod text;
pub mod tmf;
pub mod values;

pub use crate::async_msg::{AsyncEvent, AsyncMessage};
pub use crate::bhs::{BHS_LEN, Bhs, InitiatorOpcode, Itt, TargetOpcode, Ttt};
pub use crate::data::{DataIn, DataInStatus, DataOut};
pub use crate::error::{Fault, WireError};
pub use crate::login::{Isid, LoginRequest, LoginResponse, LoginStatus, Stage};
pub use crate::logout::{LogoutReason, LogoutRequest, LogoutResponse, LogoutResult};
pub use crate::nop::{NopIn, NopOut};
pub use crate::pdu::{InitiatorPdu, TargetPdu};
pub use crate::r2t::R2t;
pub use crate::reject::{Reject, RejectReason};
pub use crate::scsi::{Residual, ScsiCommand, ScsiResponse, ServiceResponse, TaskAttribute};
pub use crate::serial::SerialNumber;
pub use crate::snack::{SnackRequest, SnackType};
pub use crate::text::{TextRequest, TextResponse};
pub use crate::tmf::{TmfFunction, TmfRequest, TmfResponse, TmfResult};
