//! A nexus on its way from the mid-level of one core to that of another, as plain data.

use spindle_scsi_spec::Sense;

/// What one core knew of a nexus and another core needs to go on with it. Nothing is in flight in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PackedNexus {
    /// Commands received.
    pub commands: u64,
    /// Commands that ended in CHECK CONDITION.
    pub checks: u64,
    /// Bytes sent to the initiator.
    pub read_bytes: u64,
    /// Bytes received from it.
    pub write_bytes: u64,
    /// Task management functions.
    pub tmfs: u64,
    /// What it saw.
    pub luns: Vec<PackedLun>,
}

/// A logical unit as a nexus saw it, and what waits to be told about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackedLun {
    /// The LUN.
    pub lun: u16,
    /// The unit behind it.
    pub lu: u32,
    /// Writes were refused by the map.
    pub read_only: bool,
    /// Size in blocks.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// A digest of how the unit named itself.
    pub identity: u64,
    /// The last news of the unit's home that `attentions` tell of.
    pub news: u32,
    /// Unit attentions and the deferred error that wait, the next one first.
    pub attentions: Vec<Sense>,
}
