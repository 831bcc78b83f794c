//! Files and block devices, asynchronously: io_uring where the kernel lets us, a few threads where it does not.
//!
//! | Module | Holds |
//! |---|---|
//! | [`mod@file`] | the device as the control plane sees it: opening with all its refusals, size, identity |
//! | [`channel`] | one core's path: operations in flight, their stages, their errors |
//! | `ring` | the core's io_uring, shared by all channels of the core |
//! | `workers` | threads for what has no asynchronous form, and for everything where io_uring is forbidden |
//! | `errors` | what the system says → [`spindle_bdev::BlockError`] |
//!
//! **Who works.** A disk asked past the page cache works by itself, and is polled for; the page cache, loop and network block
//! devices and our own threads need a processor, and a core that waits for them only leaves them its own.
//!
//! **When a write is durable.** With [`CacheMode::WriteBack`] after a flush, or at once with FUA; with
//! [`CacheMode::WriteThrough`] always before it is answered; with [`CacheMode::NvCache`] the operator vouches for
//! the host's memory and flushes are answered at once. A direct write carries its own durability (RWF_DSYNC); a
//! write through the page cache is followed by fdatasync, because only then the system tells an allocation that
//! failed from data that was lost.
//!
//! **A flush that failed** means that the system has dropped dirty pages: later flushes would succeed and mean
//! nothing. So the first failure is remembered, and no flush succeeds on this device until it is opened anew.
#![forbid(unsafe_code)]

pub mod channel;
mod errors;
pub mod file;
mod ring;
mod workers;

pub use file::{CacheMode, Engine, FileBdev, FileConfig};
