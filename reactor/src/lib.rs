//! Turns, timers and messages: one thread per core, nothing of SCSI.
//!
//! A program built on this crate is a set of [`Shard`]s, one per core, that share nothing and send each other
//! typed messages. A [`Reactor`] drives each of them in *turns*: it takes the messages that came, gives the
//! shard one pass over everything it owns, and publishes what the shard has posted, once. Within a turn time
//! stands still ([`Turn::now`]) and nothing blocks.
//!
//! ```text
//!        ┌──────────────── turn ────────────────┐
//!  clock │ replies, requests ─► shard.turn ─► flush │ account ─► nothing to do? spin, yield, sleep
//!        └──────────────────────────────────────┘
//! ```
//!
//! * [`Mailbox`]: messages between cores. Requests need a credit, which the reply brings back; so replies always
//!   find room, and no handler ever waits. [`Mesh`] makes the mailboxes of all cores, [`Poster`] is the way in
//!   for threads that run no reactor.
//! * [`Timers`]: a wheel per core; arming and cancelling are O(1).
//! * [`Pace`]: an idle core polls for a moment, then yields, then sleeps on the descriptors its shard names in
//!   [`Shard::arm`], at once where only threads of this machine owe it something; or it polls always. [`CoreStats`] tells busy time from idle, and an empty poll is idle.
//! * [`Clock`]: the machine's, or one that a simulation moves. A simulation needs no thread: it calls
//!   [`Reactor::turn`], or works with [`Mailbox::drain`] and [`Turn`] itself.
//! * [`Topology`] and [`CoreSet`]: which processors to use, and what would hurt there.
//! * [`trace`]: the flight recorder, 32 bytes per event, always on.
//!
//! The only unsafe code is in [`ring`]. Its orderings and the way to sleep are explored by loom
//! (`ci/loom.sh`), which also proves that it would notice a missing fence.

mod core_bits;
mod doorbell;
mod sync;

pub mod clock;
pub mod core_id;
pub mod core_set;
pub mod mailbox;
pub mod pace;
pub mod planted;
pub mod poster;
pub mod reactor;
pub mod ring;
pub mod shard;
pub mod stats;
pub mod tick;
pub mod timer;
pub mod topology;
pub mod trace;
pub mod wake;

pub use clock::{Clock, HardwareClock, SimClock};
pub use core_id::CoreId;
pub use core_set::{CoreSet, CoreSetError};
pub use mailbox::{Mailbox, Mesh};
pub use pace::{Pace, PollMode};
pub use poster::Poster;
pub use reactor::Reactor;
pub use shard::{Debtor, Shard, Turn, Work};
pub use stats::{CoreLoad, CoreStats};
pub use tick::Tick;
pub use timer::{TimerId, TimerToken, Timers};
pub use topology::Topology;
pub use wake::WakeSet;
