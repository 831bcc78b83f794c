//! Turns, timers and messages: one thread per core, nothing of SCSI.

mod core_bits;
mod doorbell;
mod sync;

pub mod clock;
pub mod core_id;
pub mod mailbox;
pub mod pace;
pub mod poster;
pub mod reactor;
pub mod ring;
pub mod shard;
pub mod stats;
pub mod tick;
pub mod timer;
pub mod trace;
pub mod wake;

pub use clock::{Clock, HardwareClock, SimClock};
pub use core_id::CoreId;
pub use mailbox::{Mailbox, Mesh};
pub use pace::{Pace, PollMode};
pub use poster::Poster;
pub use reactor::Reactor;
pub use shard::{Shard, Turn, Work};
pub use stats::{CoreLoad, CoreStats};
pub use tick::Tick;
pub use timer::{TimerId, TimerToken, Timers};
pub use wake::WakeSet;
