//! What carries ordered bytes between the iSCSI engine and the world.
//!
//! The engine above asks a [`Net`] for bytes and gives it bytes; it never learns whether kernel TCP, a TCP of
//! our own over DPDK, or the simulation is underneath. The seam is made so that payload is never copied where
//! it need not be:
//!
//! * headers are read **in place** from a staging buffer ([`Net::bytes`], [`Net::consume`]);
//! * payload is received **straight into the vector** it belongs to ([`Net::land`]), which the Net owns until
//!   it is filled or taken back;
//! * payload is sent **out of the vector** that the device filled ([`Net::send`]); a share of it is held until
//!   the bytes are no longer needed: copied by the kernel, or acknowledged by the peer where the stack is ours.
#![forbid(unsafe_code)]

pub mod epoll;
pub mod inbox;
pub mod net;

pub use epoll::{EpollNet, TcpConfig, TcpSocket};
pub use net::{Body, Close, CloseReason, ConnId, ListenerId, Net, NetError, NetEvent};
