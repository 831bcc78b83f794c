//! Memory for I/O.
//!
//! Every byte that travels between an initiator and a disk lies in one *arena*: a few large regions of
//! pinned memory, shared by all cores, that rings and devices register once. Whoever needs some of it holds
//! an [`Sgv`], an owned scatter-gather vector: an eight-byte handle, not `Clone`, that moves with the
//! operation that uses it. Nobody can free or touch memory that a device or a peer may still write, since
//! nobody but the holder can name it.
//!
//! How a command passes through:
//!
//! 1. The engine asks its core's [`SgvPool`] for as many bytes as the command moves. The pool never
//!    allocates: it hands out a ready-made vector of the smallest class that fits, or `None`, and the command
//!    waits in line. What a logical unit may hold at once is bounded by its [share](ShareId).
//! 2. Transports and channels fill the vector and send from it, page by page or as iovecs
//!    ([`Sgv::runs`], [`Sgv::io_slices`]).
//! 3. Whoever holds it last puts it into the pool of *its own* core; memory of another core's pool goes home
//!    through a lock-free return line.
//!
//! | Module | Holds |
//! |---|---|
//! | [`arena`] | regions, pages by number, what the kernel granted |
//! | [`sgv`] | the vector and its parts |
//! | [`sgv_ref`] | shares of one vector, counted within one connection |
//! | [`pool`] | ready-made vectors of one core, shares, statistics |
//! | [`page_table`], [`lend`] | pages of a RAM disk, exchanged and lent without copying |
//! | [`fetch_page`] | hints to the processor |
//! | [`slab`], [`list`] | fixed tables with keys that age, and lists through their rows |
//!
//! **Old bytes.** A vector may still hold what another tenant wrote. Send only what the backend wrote during
//! this command; zero the rest. [`PoolConfig::poison`] overwrites memory as it is put back, so that tests
//! find what was sent by mistake.

pub mod arena;
mod fetch;
#[cfg(miri)]
mod heap;
mod home;
pub mod lend;
pub mod list;
mod page_entry;
pub mod page_table;
pub mod planted;
pub mod pool;
pub mod sgv;
pub mod sgv_ref;
pub mod slab;

pub use arena::{Arena, ArenaConfig, ArenaError, ArenaFull, ArenaReport, PageSet, RegionInfo};
pub use fetch::fetch_page;
pub use lend::{LenderId, StillLent};
pub use list::{Link, Linked, List};
pub use page_table::{Busy, PageTable};
pub use pool::{
    CLASS_BYTES, ClassStats, PoolConfig, PoolMemory, PoolStats, SGV_BYTES_MAX, SgvPool, ShareId, ShareStats,
};
pub use sgv::{Kind, Run, Seg, Sgv};
pub use sgv_ref::SgvRef;
pub use slab::{Key, Slab};
pub use spindle_ffi_os::{HugePolicy, MemoryKind};

/// The unit of everything here: a page of the arena.
pub const PAGE_BYTES: usize = 4096;

/// What a vector's bytes are overwritten with on their way back, where poisoning is on.
pub const POISON: u8 = 0xDB;
