//! The seam between the SCSI mid-level and anything that stores blocks, and the devices that need no
//! driver.
//!
//! A [`Bdev`] is the device as the control plane sees it: a name, a size, what it can do. Each core that
//! serves it opens an [`IoChannel`] of its own, by way of a [`ChannelSeed`] that is prepared on the control
//! thread (slow, may block) and bound on the core (quick). An operation, [`BlockIo`], *owns* its buffer while
//! the channel has it, and every accepted operation comes back exactly once as an [`IoDone`] with that
//! buffer, from `submit` itself (null, RAM) or from `poll`.
//!
//! ```text
//!   engine ── BlockIo { key, op, lba, blocks, data: Sgv } ──► channel ──► device
//!   engine ◄── IoDone { key, result, data: Sgv } ──────────── channel ◄──
//! ```
//!
//! Devices without a driver: [`RamBdev`], [`NullBdev`]. Decorators put in front of any other: [`FaultBdev`] makes
//! operations fail, [`DelayBdev`] makes them slow.
//!
//! Refusal is not failure: a channel whose queue is full hands the very same `BlockIo` back and the caller
//! keeps it in line. [`BlockError`] is free of any protocol; one function of the mid-level turns it into
//! sense data.
#![deny(unsafe_code)]

#[cfg(test)]
mod bench;
pub mod channel;
pub mod channels;
pub mod delay;
pub mod device;
pub mod fault;
pub mod io;
pub mod null;
pub mod ram;

pub use channel::{ChannelSeed, CoreEnv, CoreShared, Hint, IoChannel, IoCx, ResetScope};
pub use channels::{ChannelId, ChannelLoad, Channels};
pub use delay::{DelayBdev, DelayForm, Delays};
pub use device::{Bdev, BdevInfo, OpenError, ResizeError};
pub use fault::{Fault, FaultBdev, FaultRule, Faults, OpSet, RuleId};
pub use io::{BlockError, BlockIo, IoDone, IoFlags, IoKey, IoResult, Op, Origin, Provisioning};
pub use null::{NullBdev, NullConfig};
pub use ram::{RamBdev, RamConfig};
