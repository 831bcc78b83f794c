//! What the product wants from Linux and `rustix` does not give as a safe call.
//!
//! `rustix` is used directly elsewhere; this crate holds only the calls that need `unsafe` or that want a
//! stronger promise than the bare system call makes:
//!
//! * [`map`]: memory for I/O, from huge pages where the system grants them, as an owned [`MappedRegion`];
//! * [`poll`]: sleeping on a handful of descriptors, named by number;
//! * [`event`]: the doorbell of a sleeping core;
//! * [`cpu`]: which processors this process may use, and tying a thread to one of them;
//! * [`limit`]: resource limits that stand in a target's way;
//! * [`socket`]: options and queries of TCP sockets.
//!
//! Raw pointers leave this crate in one place only: [`MappedRegion::base`], whose owner (the arena) builds its
//! own proof on it.

pub mod cpu;
pub mod event;
pub mod limit;
pub mod map;
pub mod poll;
pub mod socket;

pub use event::EventFd;
pub use map::{HugePolicy, MappedRegion, MemoryKind, map_region};
pub use poll::PollFd;
