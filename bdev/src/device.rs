//! A device as the control plane sees it.

use spindle_reactor::CoreId;

use crate::channel::ChannelSeed;

/// A block device: what it is, and how a core gets a path to it. Shared by the control plane; the data path
/// only ever sees channels.
pub trait Bdev: Send + Sync {
    /// Its size and abilities, as they are now (a resize changes them).
    fn info(&self) -> BdevInfo;

    /// The driver's name as RPC shows it: `malloc`, `null`, `aio`, `uring`, …
    fn driver(&self) -> &'static str;

    /// What the driver wants to show besides (`filename`, `cache`, …), as name and value.
    fn details(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Slow half of opening a channel; runs on the control thread and may block.
    fn prepare(&self, core: CoreId) -> Result<Box<dyn ChannelSeed>, OpenError>;

    /// Makes everything durable, blocking: the last call before the process ends.
    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }

    /// Changes the size to `blocks`, or, with `None`, takes over the size that the file or device has now.
    /// The mid-level closes the unit's gate around it when it shrinks.
    fn resize(&self, blocks: Option<u64>) -> Result<u64, ResizeError>;
}

/// Size and abilities of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BdevInfo {
    /// Name in the registry.
    pub name: String,
    /// 128 bits that stay the same over restart and rename; NAA, serial number and T10 id derive from them.
    pub uuid: [u8; 16],
    /// Logical block, in bytes: 512 or 4,096.
    pub block_bytes: u32,
    /// Logical blocks per physical block, as a power of two (READ CAPACITY 16, LBPPBE).
    pub physical_exponent: u8,
    /// Lowest aligned logical block address (READ CAPACITY 16).
    pub lowest_aligned: u16,
    /// Capacity in logical blocks.
    pub blocks: u64,
    /// Completed writes may be lost by a power cut until flushed (WCE).
    pub write_cache: bool,
    /// No writes.
    pub read_only: bool,
    /// Rotation rate for VPD B1h: 0 unknown, 1 not rotating, else revolutions a minute.
    pub rotation_rate: u16,
    /// `Op::Unmap` does something.
    pub unmap: bool,
    /// Deallocated blocks read as zeros (LBPRZ).
    pub unmap_zeroes: bool,
    /// Optimal unmap granularity in blocks (VPD B0h); 0: unknown.
    pub unmap_granularity: u32,
    /// First block of the unmap grid.
    pub unmap_alignment: u32,
    /// Optimal transfer length granularity in blocks; 0: unknown.
    pub optimal_granularity: u16,
    /// Optimal transfer length in blocks; 0: unknown.
    pub optimal_transfer: u32,
    /// Largest single operation in blocks; the mid-level offers no more (VPD B0h).
    pub transfer_max: u32,
    /// Reads are submitted without a buffer and answered with the device's own memory.
    pub lends: bool,
}

/// Why a device could not be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another owner has it.
    #[error("{what} is in use: {by}")]
    InUse {
        /// The device or file.
        what: String,
        /// By whom, as far as known.
        by: String,
    },
    /// A parameter makes no sense.
    #[error("{field}: {why}")]
    Invalid {
        /// The parameter.
        field: &'static str,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// Memory or another limit ran out.
    #[error("not enough {what}: {why}")]
    NoRoom {
        /// What ran out.
        what: &'static str,
        /// The figures.
        why: String,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    Os {
        /// Doing what, to which path.
        what: String,
        /// What it said.
        source: std::io::Error,
    },
}

/// Why a device could not be resized.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// Devices of this driver, or this one, have a fixed size.
    #[error("{0} cannot be resized")]
    Fixed(String),
    /// The new size makes no sense or is not available.
    #[error("{0}")]
    Invalid(String),
    /// The operating system refused.
    #[error("resizing {what}: {source}")]
    Os {
        /// Which file or device.
        what: String,
        /// What it said.
        source: std::io::Error,
    },
}
