//! What cores say to each other, and what the control plane says to them.

use std::net::SocketAddr;

use spindle_iscsi::ConnMsg;
use spindle_iscsi::moving::Handed;
use spindle_net::Net;
use spindle_scsi::ScsiMsg;

use crate::shard::Core;

/// A message to a shard.
pub enum ShardMsg<N: Net> {
    /// From the engine of another core.
    Scsi(ScsiMsg),
    /// From the transport of another core.
    Conn(ConnMsg),
    /// A connection that was accepted elsewhere and shall live here.
    Adopt(Box<Adopted<N::Socket>>),
    /// A session that moves here.
    Handed(Box<Handed<N::Socket>>),
    /// From the control plane: run this between two turns.
    Control(Errand<N>),
    /// Stop when this turn is over.
    Stop,
}

/// A piece of control work, carried to a core. It runs there alone, so it may use everything the core owns; it must
/// not block.
pub type Errand<N> = Box<dyn FnOnce(&mut Core<N>) + Send>;

/// A connection on its way to its core.
pub struct Adopted<S> {
    /// The connection.
    pub socket: S,
    /// Through which portal group it came.
    pub portal_group: u16,
    /// The initiator's address.
    pub peer: SocketAddr,
    /// The address it used.
    pub local: SocketAddr,
}

// Posted by value into rings: two cache lines at most.
const _: () = assert!(size_of::<ShardMsg<spindle_net::EpollNet>>() <= 128);
