//! Operations and their completions: what travels between the mid-level and a channel.

use std::mem::size_of;

use spindle_mem::Sgv;

/// Names an operation to the one who submitted it; opaque to the channel and unique among its operations in
/// flight. (The mid-level packs task slot, generation and sub-operation into it.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct IoKey(pub u64);

/// On whose behalf an operation runs: the I_T nexus as the mid-level numbers it. Pass-through and user-space
/// handlers want to know; disks do not look.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Origin(pub u32);

/// What to do. Logical blocks are those of [`crate::BdevInfo::block_bytes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Fill `data[at ..]` with `blocks` blocks. A channel that lends its own memory gets `data: None` and
    /// returns a lent vector.
    Read,
    /// Store `blocks` blocks from `data[at ..]`. Done when as durable as the device's write cache makes it,
    /// or on stable storage if [`IoFlags::FUA`] is set.
    Write,
    /// Make everything that was completed before this was submitted durable. The range is a hint; the whole
    /// device is always a correct answer.
    Flush,
    /// Deallocate. Blocks read as zeros afterwards iff [`crate::BdevInfo::unmap_zeroes`]; parts that do not
    /// fill the device's granularity may be left as they are.
    Unmap,
    /// Blocks read as zeros afterwards. [`IoFlags::MAY_UNMAP`] allows deallocation to get there.
    WriteZeroes,
    /// Read the medium without moving data (VERIFY with BYTCHK 00b).
    Verify,
    /// Whether `lba` is mapped, and how many following blocks (at most `blocks`) are in the same state:
    /// answered with [`IoResult::Extent`].
    Extent,
}

/// Modifiers of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IoFlags(pub u8);

impl IoFlags {
    /// Nothing special.
    pub const NONE: IoFlags = IoFlags(0);
    /// Force unit access (SBC): a write is on stable storage, a read comes from it, before it is done.
    pub const FUA: IoFlags = IoFlags(1);
    /// Disable page out (SBC): the cache may drop these blocks first.
    pub const DPO: IoFlags = IoFlags(2);
    /// `WriteZeroes` may deallocate.
    pub const MAY_UNMAP: IoFlags = IoFlags(4);
    /// The submitter looks into the buffer of a write afterwards, or writes it again: it must come back as it was.
    /// Without this a channel may give back other memory in its place (a RAM disk exchanges pages).
    pub const KEEP: IoFlags = IoFlags(8);

    /// Whether every bit of `other` is set.
    #[inline]
    pub const fn has(self, other: IoFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[inline]
    #[must_use]
    pub const fn with(self, other: IoFlags) -> IoFlags {
        IoFlags(self.0 | other.0)
    }
}

/// One operation on its way to a device. It owns its buffer until it comes back.
///
/// Raw commands (pass-through), copies and protection information join as a boxed extension in the eight
/// bytes that the size assertion below leaves free; see `docs/design/0001-seams.md`.
#[derive(Debug)]
pub struct BlockIo {
    /// Comes back in [`IoDone::key`].
    pub key: IoKey,
    /// First block.
    pub lba: u64,
    /// The buffer; `None` for operations without data and for reads of a channel that lends.
    pub data: Option<Sgv>,
    /// Number of blocks.
    pub blocks: u32,
    /// Where in `data` the first block starts, in bytes.
    pub at: u32,
    /// Whose operation this is.
    pub origin: Origin,
    /// What to do.
    pub op: Op,
    /// How to do it.
    pub flags: IoFlags,
}

/// The end of an operation.
#[derive(Debug)]
pub struct IoDone {
    /// The key it was submitted with.
    pub key: IoKey,
    /// Its buffer, or the lent one of a read.
    pub data: Option<Sgv>,
    /// How it went.
    pub result: IoResult,
}

/// How an operation went. After an error the content of a read buffer is undefined and must not be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoResult {
    /// As promised, all of it.
    Ok,
    /// Answer to [`Op::Extent`]: the state of the first block, and for how many blocks it lasts (at least one).
    Extent {
        /// Mapped, deallocated or anchored.
        state: Provisioning,
        /// Blocks in that state from `lba` on.
        blocks: u32,
    },
    /// It failed; for writes: some blocks may have been stored.
    Err(BlockError),
}

/// Provisioning status of blocks (SBC-4 §4.7.4, GET LBA STATUS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Provisioning {
    /// Backed by storage, or unknown.
    Mapped,
    /// A hole.
    Deallocated,
    /// No data but space reserved.
    Anchored,
}

/// Why a device could not do it. Small, `Copy`, free of any protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockError {
    /// Beyond the end of the device (as it is now: it may have shrunk).
    OutOfRange,
    /// The medium could not be read.
    MediumRead,
    /// The medium could not be written.
    MediumWrite,
    /// The device, or the file behind it, is read-only.
    ReadOnly,
    /// A thin device or file system is full.
    NoSpace,
    /// An earlier flush failed: nothing after it can be called durable until the device is opened anew.
    FlushLost,
    /// The device does not know this operation.
    Unsupported,
    /// The device, or the file behind it, has vanished.
    Gone,
    /// Aborted on request, with no effect that is still to come.
    Aborted,
    /// Gave up waiting.
    TimedOut,
    /// Anything else the operating system said (errno).
    Os(i32),
}

impl IoDone {
    /// The end of `io`, its buffer given back.
    #[inline]
    pub fn of(io: BlockIo, result: IoResult) -> IoDone {
        IoDone { key: io.key, data: io.data, result }
    }
}

// What travels per I/O stays within one cache line; 8 bytes of BlockIo are free for a boxed extension.
const _: () = assert!(size_of::<BlockIo>() <= 56 && size_of::<IoDone>() <= 32);
