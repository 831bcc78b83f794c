//! What the engine is told from outside: its own limits, and each logical unit.

use spindle_bdev::{BdevInfo, ChannelId};
use spindle_reactor::CoreId;

/// A logical unit, numbered by the control plane alike on every core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LuId(pub u32);

/// The limits of one core's engine. `spindle/src/limits.rs` sums up what they cost.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The core this engine runs on.
    pub core: CoreId,
    /// How many cores run engines.
    pub cores: u8,
    /// Task slots, at most 65,536. Each nexus is promised [`EngineConfig::window_min`] of them: fewer than
    /// `nexuses_max * window_min + immediate_share` keep some nexuses out.
    pub tasks_max: u32,
    /// I_T nexuses.
    pub nexuses_max: u16,
    /// Largest transfer of one command; offered as MAXIMUM TRANSFER LENGTH (VPD B0h).
    pub transfer_bytes_max: u32,
    /// Tasks that a nexus may hold from the start.
    pub window_min: u32,
    /// What transports ask for when a nexus begins; less is given when slots are scarce.
    pub window_first: u32,
    /// Tasks that a nexus may earn.
    pub window_max: u32,
    /// Slots kept back for immediate commands, beyond what is promised to the nexuses.
    pub immediate_share: u32,
    /// Shares of the memory pool; each unit gets one as long as they last.
    pub shares: u16,
    /// What one unit may hold of this core's pool, so that a stuck device leaves its neighbours the rest.
    pub share_bytes_max: u64,
    /// Task management functions under way at once; more are rejected.
    pub tmfs_max: u32,
}

impl EngineConfig {
    /// Usual limits for one of `cores` cores.
    pub fn new(core: CoreId, cores: u8) -> EngineConfig {
        EngineConfig {
            core,
            cores,
            tasks_max: 4096,
            nexuses_max: 256,
            transfer_bytes_max: 1 << 20,
            window_min: 8,
            window_first: 8,
            window_max: 128,
            immediate_share: 64,
            shares: 256,
            share_bytes_max: u64::MAX,
            tmfs_max: 1024,
        }
    }
}

/// How a logical unit names itself (INQUIRY, VPD 80h and 83h).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LuIdentity {
    /// T10 VENDOR IDENTIFICATION, padded with spaces.
    pub vendor: [u8; 8],
    /// PRODUCT IDENTIFICATION, padded with spaces.
    pub product: [u8; 16],
    /// PRODUCT REVISION LEVEL, padded with spaces.
    pub revision: [u8; 4],
    /// Unit serial number (VPD 80h), printable ASCII.
    pub serial: String,
    /// 128 bits that survive restart and rename: NAA and EUI-64 designators derive from them.
    pub uuid: [u8; 16],
}

impl LuIdentity {
    /// The usual identity of a disk with this uuid.
    pub fn of_uuid(uuid: [u8; 16]) -> LuIdentity {
        let mut serial = String::with_capacity(32);
        for byte in uuid {
            for nibble in [byte >> 4, byte & 15] {
                serial.push(char::from(b"0123456789abcdef"[nibble as usize]));
            }
        }
        LuIdentity { vendor: *b"SPINDLE ", product: *b"DISK            ", revision: *b"0001", serial, uuid }
    }
}

/// Everything the engine must know to serve a logical unit; the same on every core.
#[derive(Clone, Debug)]
pub struct LuSpec {
    /// Its number.
    pub lu: LuId,
    /// This core's channel to its device (the same number on every core).
    pub channel: ChannelId,
    /// Size and abilities of the device.
    pub info: BdevInfo,
    /// Names.
    pub identity: LuIdentity,
    /// The core that owns its policy.
    pub home: CoreId,
    /// One task set for all nexuses (TST 000b) in place of one for each (TST 001b).
    pub tst_shared: bool,
    /// Writes are refused whoever asks.
    pub write_protect: bool,
    /// There is a place to store reservations and mode pages (`ControlEvent::Store`).
    pub can_store: bool,
    /// Saved mode pages from an earlier life, as `ControlEvent::Store` gave them.
    pub saved_modes: Option<Box<[u8]>>,
    /// Persistent reservations from an earlier life, likewise (APTPL).
    pub saved_reservations: Option<Box<[u8]>>,
}

/// One line of a LUN map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LunEntry {
    /// Logical unit number as the initiator sees it (flat, at most 16,383).
    pub lun: u16,
    /// Which unit stands there.
    pub lu: LuId,
    /// Writes through this map are refused.
    pub read_only: bool,
}
