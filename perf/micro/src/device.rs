//! The device behind what is counted, and the unit it is served as.

use std::sync::Arc;

use anyhow::Result;
use clap::ValueEnum;
use spindle_bdev::null::{NullBdev, NullConfig};
use spindle_bdev::ram::{RamBdev, RamConfig};
use spindle_bdev::{Bdev, BdevInfo, BlockIo, ChannelId, CoreEnv, IoChannel, IoCx};
use spindle_mem::{Arena, ArenaConfig, HugePolicy};
use spindle_reactor::{CoreId, WakeSet};
use spindle_scsi::{LuId, LuIdentity, LuSpec};

/// Logical blocks of all devices here.
pub const BLOCK: u32 = 512;
/// How many a device has.
pub const BLOCKS: u64 = (16 << 20) / BLOCK as u64;
/// Data of a measured command.
pub const BYTES: u32 = 4096;

/// Which device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Disk {
    /// Forgets everything.
    Null,
    /// Memory.
    Ram,
    /// Forgets everything, and does nothing without an operation: what any device costs that needs time.
    Slow,
}

/// A channel that does nothing without an operation.
struct OneByOne(Box<dyn IoChannel>);

impl IoChannel for OneByOne {
    fn submit(&mut self, io: BlockIo, cx: &mut IoCx<'_>) -> Result<(), BlockIo> {
        self.0.submit(io, cx)
    }

    fn poll(&mut self, cx: &mut IoCx<'_>) -> u32 {
        self.0.poll(cx)
    }

    fn in_flight(&self) -> u32 {
        self.0.in_flight()
    }

    fn arm(&mut self, wake: &mut WakeSet) -> bool {
        self.0.arm(wake)
    }

    fn close(&mut self, env: &mut CoreEnv<'_>) {
        self.0.close(env);
    }
}

/// Memory for a core and its device. What the machine grants must not change what is counted.
pub fn arena(bytes_max: u64) -> Result<Arc<Arena>> {
    Ok(Arena::new(ArenaConfig { bytes_max, policy: HugePolicy::Small, ..ArenaConfig::default() })?)
}

impl Disk {
    /// Makes the device.
    pub fn open(self, arena: &Arc<Arena>) -> Result<Arc<dyn Bdev>> {
        let (name, uuid) = ("d".to_owned(), [7; 16]);
        let (block_bytes, blocks) = (BLOCK, BLOCKS);
        Ok(match self {
            Disk::Null | Disk::Slow => Arc::new(NullBdev::new(
                arena,
                NullConfig { name, uuid, block_bytes, blocks, physical_exponent: 0 },
            )?),
            Disk::Ram => Arc::new(RamBdev::new(
                arena,
                RamConfig { name, uuid, block_bytes, blocks, physical_exponent: 3, spares: None },
            )?),
        })
    }
}

impl Disk {
    /// A core's path to the device.
    pub fn bind(self, bdev: &dyn Bdev, core: CoreId, env: &mut CoreEnv<'_>) -> Result<Box<dyn IoChannel>> {
        let channel = bdev.prepare(core)?.bind(env)?;
        Ok(if self == Disk::Slow { Box::new(OneByOne(channel)) } else { channel })
    }
}

/// The unit that stands at LUN 0.
pub fn unit(info: BdevInfo) -> LuSpec {
    LuSpec {
        lu: LuId(0),
        channel: ChannelId(0),
        identity: LuIdentity::of_uuid(info.uuid),
        home: CoreId(0),
        tst_shared: false,
        write_protect: false,
        can_store: false,
        saved_modes: None,
        saved_reservations: None,
        info,
    }
}

/// First blocks of commands, not in order, as random access is not.
pub struct Places {
    first: u64,
    blocks: u64,
    at: u64,
}

impl Default for Places {
    fn default() -> Self {
        Self::part(0, 1)
    }
}

impl Places {
    /// Those in one of several equal parts of the device.
    pub fn part(n: u64, of: u64) -> Self {
        let blocks = (BLOCKS / of) & !7;
        Self { first: n * blocks, blocks, at: 0 }
    }

    /// The next.
    pub fn next(&mut self) -> u32 {
        self.at = ((self.at + 7919 * u64::from(BYTES / BLOCK)) % (self.blocks - 8)) & !7;
        (self.first + self.at) as u32
    }
}
