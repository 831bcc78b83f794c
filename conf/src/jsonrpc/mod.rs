//! JSON-RPC 2.0: codec, methods, server, client.

pub mod client;
pub mod codec;
pub mod error;
pub mod method;
pub mod server;

pub use error::RpcError;
pub use method::{MethodInfo, Methods, Param};
