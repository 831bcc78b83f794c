//! Turns, timers and messages: one thread per core, nothing of SCSI.

mod core_bits;
mod doorbell;
mod sync;

pub mod clock;
pub mod core_id;
pub mod mailbox;
pub mod poster;
pub mod ring;
pub mod shard;
pub mod tick;
pub mod timer;
pub mod wake;

pub use clock::{Clock, HardwareClock, SimClock};
pub use core_id::CoreId;
pub use mailbox::{Mailbox, Mesh};
pub use poster::Poster;
pub use shard::{Shard, Turn, Work};
pub use tick::Tick;
pub use timer::{TimerId, TimerToken, Timers};
pub use wake::WakeSet;
