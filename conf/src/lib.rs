//! Configuration and its protocol: JSON-RPC 2.0 over a Unix socket, and the configuration file, which is a list
//! of the same calls.
//!
//! ```text
//!   bytes ─► jsonrpc::codec ─► Request ─► jsonrpc::method::Methods::call ─► handler(&context, params)
//!                                                                              │ Ok(value) / RpcError
//!   bytes ◄─ jsonrpc::codec ◄─ Response ◄──────────────────────────────────────┘
//! ```
//!
//! A handler is a plain function from a typed parameter struct to a serialisable answer; [`params`] turns what
//! the peer sent into that struct or into an error that names the field. Framing and method names follow SPDK's
//! `rpc.py`: objects follow each other without a separator, and every method that exists there and here has the
//! same name and parameters. [`load`] reads and writes SPDK's configuration file form.
//!
//! This crate knows nothing of SCSI and nothing of Spindle's objects.
#![forbid(unsafe_code)]

pub mod jsonrpc;
pub mod load;
pub mod params;

pub use jsonrpc::{Methods, RpcError};
