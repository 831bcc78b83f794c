//! The SCSI mid-level: tasks, task sets, task management, unit attentions, reservations, and the device server
//! of a disk. One [`Engine`] for each core; pure: events in, effects out.
//!
//! ```text
//!  transport ── Mid::command(&Command) ──► Engine ──► Effects::io    ──► channels ──► devices
//!            ◄─ Admit::{NoData, Land, …} ─┘  ▲  │
//!            ◄─ Effects::port ◄──────────────┼──┘◄── Engine::on_io ◄── IoDone
//!                                            └─ Engine::on_core ◄─► Effects::core: engines of other cores
//! ```
//!
//! **The way of a READ**: [`Engine`] finds the I_T_L nexus by LUN (`router`), takes a task slot ([`task`]), looks
//! up the opcode's row ([`device_server::table`]), checks unit attention, usage map and reservation, plans range
//! and length (`device_server::disk`), asks the task set ([`task_set`]) and the gate ([`gate`]), takes memory, and
//! submits. The completion becomes a `Respond`; when the status stands in the send order the slot is free. One
//! core, no lock, no allocation. Transports do not call the engine itself but [`Direct`], the engine with the channels at
//! hand: what a device can do at once is over before the call returns, without a task.
//!
//! **States.** A task is always in exactly one of [`task::TaskState`]; the state says who holds its buffer and
//! what an abort must do. Lines (dormant tasks, tasks that want memory, tasks at a closed gate) run through the
//! task table itself, so they are as long as it at most, and anyone can be taken out.
//!
//! **Policy** of a logical unit (reservations, mode pages, resets) belongs to its home core ([`home`]); the others
//! ask by message ([`message`]) and hold snapshots.
//!
//! Those who drive an engine: call it for what happens, then carry out [`Effects`] once a turn, in the order its
//! documentation says.
#![forbid(unsafe_code)]

mod arrival;
mod completion;
pub mod config;
mod describe;
pub mod device_server;
mod direct;
pub mod effects;
mod engine;
pub mod flush;
pub mod gate;
pub mod home;
pub mod lu;
pub mod message;
mod moving;
pub mod nexus;
pub mod outcome;
mod performance;
pub mod planted;
mod quick;
pub mod reserve;
mod router;
pub mod stats;
pub mod task;
mod task_manager;
pub mod task_set;
pub mod unit_attention;

pub use config::{EngineConfig, LuId, LuIdentity, LuSpec, LunEntry};
pub use direct::{Direct, Witness};
pub use effects::{ControlEvent, Effects, Stored};
pub use engine::Engine;
pub use message::ScsiMsg;
pub use stats::{EngineStats, TaskInfo};

#[cfg(test)]
mod tests;
