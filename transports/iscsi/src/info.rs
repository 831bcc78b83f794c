//! What the control plane and people are told of sessions, connections and events.

use std::net::SocketAddr;

use spindle_reactor::CoreId;
use spindle_scsi_port::NexusId;

/// Events of one core since its start.
#[derive(Clone, Copy, Default, Debug)]
pub struct IscsiCounters {
    /// Connections taken over.
    pub connections: u64,
    /// Logins that led to a session.
    pub logins: u64,
    /// Sessions that came from other cores.
    pub moved: u64,
    /// Logins refused.
    pub logins_refused: u64,
    /// Commands ignored because of their number.
    pub ignored_commands: u64,
    /// Rejects sent.
    pub rejects: u64,
    /// Header digests that were wrong.
    pub header_digest_errors: u64,
    /// Data digests that were wrong.
    pub data_digest_errors: u64,
    /// Data-Out for tags of tasks that were gone.
    pub stale_tags: u64,
    /// Silent initiators asked whether they are there.
    pub pings: u64,
    /// Connections ended because the peer was silent, or took nothing.
    pub timeouts: u64,
    /// Bytes dropped for tasks that had ended.
    pub sunk_bytes: u64,
    /// Bytes of unsolicited data that waited in a reserve.
    pub reserved_bytes: u64,
}

/// A session, for people and the control plane.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// TSIH.
    pub tsih: u16,
    /// ISID.
    pub isid: [u8; 6],
    /// InitiatorName.
    pub initiator_name: String,
    /// InitiatorAlias.
    pub initiator_alias: Option<String>,
    /// The target's number; none in a discovery session.
    pub target: Option<u32>,
    /// Its name.
    pub target_name: String,
    /// Target portal group tag.
    pub portal_group: u16,
    /// The core.
    pub core: CoreId,
    /// The nexus.
    pub nexus: Option<NexusId>,
    /// Whether CHAP was done.
    pub authenticated: bool,
    /// Commands there is room for.
    pub window: u32,
    /// Commands in flight.
    pub in_flight: u32,
    /// What was negotiated.
    pub params: crate::negotiate::Params,
    /// Counters.
    pub counters: crate::session::SessionCounters,
    /// Its connections.
    pub connections: Vec<ConnInfo>,
}

/// A connection, for people and the control plane.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// Connection identifier.
    pub cid: u16,
    /// The initiator's address.
    pub peer: SocketAddr,
    /// The address it used.
    pub local: SocketAddr,
    /// `login`, `full` or `closing`.
    pub state: &'static str,
    /// Header and data digest.
    pub digests: (bool, bool),
    /// Next StatSN.
    pub stat_sn: u32,
    /// What the initiator has acknowledged.
    pub exp_stat_sn: u32,
    /// Bytes waiting to be sent.
    pub queued_bytes: u32,
}
