//! The iSCSI target engine (RFC 7143) over whatever carries ordered bytes.
//!
//! [`IscsiTransport`] holds all connections of one core. Below it is a
//! [`Net`](spindle_net::Net), beside it a [`Mid`](spindle_scsi_port::Mid) that executes commands; it owns no
//! thread, no socket and no clock.
//!
//! **The way of a command.** The receive cursor takes a header in place, checks its digest, and asks the opcode.
//! A SCSI Command's number is held against the window of its [`session`]; the command goes to the mid-level
//! by a call, which says where its data goes. Data-Out lands in that vector, asked for by R2Ts whose tags name
//! a row of the [`task`] table, its generation and the sequence. When all is in, the mid-level has it. Its
//! answer comes back as an effect: Data-In is cut out of the very vector the device filled, and GOOD travels
//! with the last piece.
//!
//! **What is kept where.** A [connection](conn) knows its stream: what is being read, StatSN, digests. A
//! [session] knows its window and its tasks by tag. A [task] knows what was asked for and what has come. The
//! [directory] on core 0 knows which session of which name lives on which core, so that a login that names an
//! old session has it ended first, for certain.
//!
//! | Module | Holds |
//! |---|---|
//! | [`config`] | what the control plane says: portals, access, targets, secrets, limits |
//! | [`login`], [`negotiate`], [`chap`] | the login phase: stages, one table of keys, authentication |
//! | [`discovery`] | SendTargets |
//! | [`transport`] | the tables, the turn, timers, [`Transport`](spindle_scsi_port::Transport) |
//! | [`session`], [`conn`], [`task`], [`tmf`] | the rows of the tables |
//! | `quick` | READ and WRITE as nearly all are, in a straight line |
//! | `like` | streams of like writes, received ahead |
//! | [`info`] | what the control plane is told of sessions and connections |
//! | [`directory`] | sessions of all cores; messages between them |
//! | [`moving`] | a session moves to another core |
//! | [`portal`] | listening |
//! | [`digest`] | CRC32C |
//!
//! ErrorRecoveryLevel is 0 and a session has one connection: whatever breaks a stream ends the session, and
//! the initiator logs in again. StatSN already belongs to the connection and the window to the session.
#![forbid(unsafe_code)]

pub mod chap;
mod command;
pub mod config;
pub mod conn;
mod data_in;
mod data_out;
pub mod digest;
pub mod directory;
pub mod discovery;
pub mod info;
mod like;
pub mod login;
pub mod moving;
pub mod negotiate;
pub mod planted;
pub mod portal;
mod quick;
mod requests;
mod rx;
pub mod session;
mod solicit;
pub mod task;
mod timers;
pub mod tmf;
pub mod transport;
mod tx;

pub use config::IscsiConfig;
pub use directory::ConnMsg;
pub use transport::{IscsiOut, IscsiTransport};
