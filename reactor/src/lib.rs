//! Turns, timers and messages: one thread per core, nothing of SCSI.

pub mod core_id;
pub mod tick;

pub use core_id::CoreId;
pub use tick::Tick;
