//! The seam between transports (iSCSI, iSER, SRP, FC) and the SCSI mid-level.
//!
//! A transport calls [`Mid`] while it reads, and learns at once where the command's data goes ([`Admit`]).
//! The mid-level answers later with [`PortEffect`]s, which the shard hands to the transport once a turn. Both
//! sides are on the same core, so these are plain calls and a plain vector: nothing is shared, nothing locks.
//!
//! ```text
//!   transport                                mid-level
//!     nexus_up(info)              ─────────►   NexusId
//!     command(&Command)           ─────────►   Admit::{NoData, Land(buf), Wait, Swallow, Refused}
//!     read_at_once(&Command)      ─────────►   the data, if the device has it at hand: no task, no Respond
//!     received(task, buf)         ─────────►                         all Data-Out is in
//!     received_at_once(task, buf) ─────────►   true: stored and GOOD; no Respond
//!                                 ◄─────────   PortEffect::Land      a buffer came free for a `Wait`
//!                                 ◄─────────   PortEffect::Respond   status, residuals, sense, Data-In
//!     responded(task)             ─────────►                         the status stands in the send order
//!     returned(buf)               ─────────►                         the memory is free again
//!     task_management(&Tmf)       ─────────►
//!                                 ◄─────────   PortEffect::Revoke    stop receiving for this task
//!     revoked(task, buf)          ─────────►                         its buffer is back
//!                                 ◄─────────   PortEffect::TmfDone   every task concerned has ended
//!     nexus_lost(nexus)           ─────────►
//!                                 ◄─────────   PortEffect::NexusGone its last task has ended
//! ```
//!
//! **A nexus moves** between the mid-levels of two cores, as their transports agree (see [`mod@moving`]):
//!
//! ```text
//!   transport of the old core                   transport of the new core
//!     may_leave(nexus)   ► who, how much room
//!                                                 expect_nexus(info, granted)  ► NexusId
//!                                                 ◄ PortEffect::NexusReady     homes tell this core, too
//!     pack_nexus(nexus)  ► PackedNexus
//!                                                 unpack_nexus(nexus, packed)  its first command may come
//! ```
//!
//! **Who holds a buffer.** From `Admit::Land`/`PortEffect::Land` until `received`/`revoked`, and from
//! `PortEffect::Respond` until `returned`, the transport; otherwise the mid-level (or the channel it gave it
//! to). A task ends with `responded`, its buffer with `returned`: a peer that never acknowledges holds memory
//! of its own connection, never a task slot.
//!
//! **What the transport keeps of a task** is found by [`Command::cookie`], which comes back in every effect:
//! the mid-level never looks into it.
#![forbid(unsafe_code)]

pub mod command;
pub mod effect;
pub mod mid;
pub mod moving;
pub mod nexus;
pub mod outcome;
pub mod tmf;

pub use command::{Command, Expected, TaskAttr, TaskTag};
pub use effect::{AsyncEvent, PortEffect};
pub use mid::{Admit, Mid, ReceiveError, Refusal, Transport};
pub use moving::{PackedLun, PackedNexus};
pub use nexus::{NexusId, NexusInfo, TaskId, TransportKind};
pub use outcome::{Outcome, Residual};
pub use tmf::{Tmf, TmfFunction, TmfId, TmfResponse};
