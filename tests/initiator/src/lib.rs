//! An iSCSI initiator for testing targets: an engine without I/O, and a thin TCP wrapper around it.
//!
//! [`InitiatorConn`] is one connection as a pure state machine. Bytes from the target go in, cut wherever the
//! network cut them ([`InitiatorConn::on_bytes`]); bytes for the target come out of a buffer
//! ([`InitiatorConn::output`], [`InitiatorConn::consume`]); what happened comes out as [`Event`]s. Time is an
//! argument. The deterministic simulation, the fuzzers and the load generator drive it this way;
//! [`tcp::TcpInitiator`] drives it over a socket for tests against a running target:
//!
//! ```no_run
//! use spindle_initiator::{Config, Direction, tcp::TcpInitiator};
//!
//! let config = Config::normal("iqn.2026-01.org.example:me", "iqn.2026-01.org.example:disk");
//! let mut disk = TcpInitiator::login("127.0.0.1:3260", config)?;
//! let block = disk.read(0, 0, 1, 512)?;
//! let done = disk.command(0, &[0x00; 6], Direction::None)?; // TEST UNIT READY
//! assert_eq!((block.len(), done.status), (512, 0));
//! # Ok::<(), spindle_initiator::tcp::Error>(())
//! ```
//!
//! It is an *oracle*: everything the target sends is held against RFC 7143 (StatSN, the command window, DataSN,
//! offsets, burst lengths, F and S bits, residuals, R2T numbering, digests, negotiation results), and whatever does
//! not fit becomes an [`Event::Violation`] with a typed reason. A well-behaved run has none.
//!
//! It can also *misbehave*: [`InitiatorConn::raw_pdu`] sends any header with correct framing and digests,
//! [`InitiatorConn::raw_bytes`] sends anything at all, [`R2tPolicy::Hold`] leaves R2Ts to the caller, and
//! [`InitiatorConn::set_window`] lies about CmdSN (or shares one window among the connections of a session).
//!
//! What is left out: recovery (SNACK, task reassignment) is not done by the engine itself; a test that wants it
//! sends the PDUs through the raw door. Bidirectional commands are not issued.

#![forbid(unsafe_code)]

mod chap;
mod config;
mod conn;
mod coverage;
mod data;
mod digest;
mod event;
mod login;
mod negotiate;
mod rx;
mod session;
pub mod tcp;
mod text;
mod tx;
mod violation;

pub use crate::chap::{Algorithm, BinaryForm, chap_response};
pub use crate::config::{ChapConfig, Config, LoginPath, MutualChap, Offers, R2tPolicy, SessionType};
pub use crate::conn::{InitiatorConn, Refused, State};
pub use crate::data::{Command, Completion, Direction};
pub use crate::digest::crc32c;
pub use crate::event::{DiscoveredTarget, Event};
pub use crate::negotiate::{KEYS, KeyRule, Params, Rule};
pub use crate::session::Window;
pub use crate::violation::{Violation, What};
