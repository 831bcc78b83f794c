//! Names of I_T nexuses and tasks.

use std::fmt;

/// An I_T nexus, given by the mid-level: core (8 bits), slot (16), generation (8). A stale one is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NexusId(pub u32);

impl NexusId {
    /// Puts the three parts together.
    pub const fn new(core: u8, slot: u16, generation: u8) -> NexusId {
        NexusId((core as u32) << 24 | (slot as u32) << 8 | generation as u32)
    }

    /// The core that owns it.
    #[inline]
    pub const fn core(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// Its place in that core's table.
    #[inline]
    pub const fn slot(self) -> u16 {
        (self.0 >> 8) as u16
    }

    /// Tells it from earlier holders of the slot.
    #[inline]
    pub const fn generation(self) -> u8 {
        self.0 as u8
    }
}

impl fmt::Display for NexusId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nexus {}:{}.{}", self.core(), self.slot(), self.generation())
    }
}

/// A task in the mid-level's table of one core (slot and generation).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct TaskId(pub u32);

/// What carries the nexus; decides TransportIDs and protocol identifiers (SPC-5 §7.6.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportKind {
    /// iSCSI over TCP (protocol identifier 5h).
    Iscsi,
}

/// Who stands at the two ends of a nexus. Given once, at `nexus_up`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NexusInfo {
    /// What carries it.
    pub transport: TransportKind,
    /// Initiator device name (iSCSI name, lower case).
    pub initiator_name: String,
    /// The part of the initiator port's name besides the device name: the ISID in iSCSI.
    pub initiator_session: [u8; 6],
    /// Target device name.
    pub target_name: String,
    /// The target as the control plane numbers it.
    pub target: u32,
    /// Relative target port identifier (for iSCSI the target portal group tag).
    pub target_port: u16,
    /// Which set of LUNs this initiator sees, as the control plane decided at login.
    pub lun_map: u32,
    /// The initiator's address, for people.
    pub peer_address: String,
}
