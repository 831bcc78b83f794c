//! The two sides of the seam.

use spindle_mem::Sgv;
use spindle_reactor::{Tick, WakeSet};
use spindle_scsi_spec::Lun;

use crate::command::Command;
use crate::effect::PortEffect;
use crate::moving::PackedNexus;
use crate::nexus::{NexusId, NexusInfo, TaskId};
use crate::tmf::Tmf;

/// The mid-level as a transport sees it: called while it reads, pure, answers at once. Later answers arrive
/// as [`PortEffect`]s.
pub trait Mid {
    /// A session enters full feature phase.
    fn nexus_up(&mut self, info: Box<NexusInfo>) -> Result<NexusId, Refusal>;

    /// Asks for room: the nexus wants to hold up to `wanted` tasks at once. The answer is how many it may (never
    /// fewer than it was told before: a command window cannot be taken back). Tasks within the answer always
    /// find a slot; what is beyond it (immediate commands) may be refused.
    fn grant(&mut self, nexus: NexusId, wanted: u32) -> u32;

    /// Another vector like one that was given, of the same length, room and share, for data that is only expected.
    /// `None` unless there is plenty. Comes back by `received` in place of the one given, or by `returned`.
    fn spare(&mut self, like: &Sgv) -> Option<Sgv>;

    /// A command has arrived.
    fn command(&mut self, command: &Command<'_>) -> Admit;

    /// Whether [`Mid::soon`] is worth a call.
    fn looks_ahead(&self) -> bool {
        false
    }

    /// This READ or WRITE has been seen coming: it will arrive after several others, or (`near`) after one or two. What it
    /// will need may be fetched into the cache. It may also turn out to be none.
    fn soon(&self, _nexus: NexusId, _lun: Lun, _cdb: &[u8; 16], _near: bool) {}

    /// A READ that can be over before this returns, because its device has the answer at hand and nobody has anything to
    /// say to the command: it has ended GOOD with the data given, as many bytes as were expected, and there never was a
    /// task. `None`: nothing has changed; [`Mid::command`] takes it.
    fn read_at_once(&mut self, _command: &Command<'_>) -> Option<Sgv> {
        None
    }

    /// As [`Mid::received`]. `true`: the command is over already and was GOOD, without a residual; its task is no more,
    /// and neither `Respond` nor [`Mid::responded`] follow.
    fn received_at_once(&mut self, task: TaskId, buf: Sgv) -> bool {
        self.received(task, buf);
        false
    }

    /// All Data-Out of a task is in. The buffer may be another than the one that was given (a stack that
    /// adopts packets), its `len()` is what arrived.
    fn received(&mut self, task: TaskId, buf: Sgv);

    /// Data-Out of a task will not come any more or was damaged beyond repair at this recovery level; the
    /// task ends with the sense that says so. `None`: the buffer was never given.
    fn receive_failed(&mut self, task: TaskId, buf: Option<Sgv>, why: ReceiveError);

    /// All Data-Out of a task that was told to [`Admit::Swallow`] has passed.
    fn swallowed(&mut self, task: TaskId);

    /// The status of a task stands in the send order: the task has ended.
    fn responded(&mut self, task: TaskId);

    /// Memory that was sent from is free.
    fn returned(&mut self, buf: Sgv);

    /// Answer to [`PortEffect::Revoke`].
    fn revoked(&mut self, task: TaskId, buf: Option<Sgv>);

    /// A task management request has arrived, in its place in the command order.
    fn task_management(&mut self, tmf: &Tmf);

    /// The session has ended; its tasks are to end without an answer. [`PortEffect::NexusGone`] follows.
    fn nexus_lost(&mut self, nexus: NexusId);

    /// Whether nothing of this nexus is in flight, so that it could move to another core. Then: who stands at its ends,
    /// and how many tasks it was promised.
    fn may_leave(&self, _nexus: NexusId) -> Option<(Box<NexusInfo>, u32)> {
        None
    }

    /// A nexus of another core is about to move here, with room for so many tasks promised to it. Until
    /// [`Mid::unpack_nexus`] no command comes from it. [`PortEffect::NexusReady`] follows.
    fn expect_nexus(&mut self, info: Box<NexusInfo>, granted: u32) -> Result<NexusId, Refusal>;

    /// A nexus that was expected does not come after all. Nothing follows.
    fn expect_no_more(&mut self, _nexus: NexusId) {}

    /// A nexus leaves for the core that expects it and has said that it is ready. `None`: something is in flight
    /// ([`Mid::may_leave`]) and nothing has changed; otherwise the nexus is gone from here, and no effect follows.
    fn pack_nexus(&mut self, _nexus: NexusId) -> Option<PackedNexus> {
        None
    }

    /// A nexus that was expected is here: commands may come.
    fn unpack_nexus(&mut self, _nexus: NexusId, _packed: PackedNexus) {}
}

/// Where a command's data goes.
#[derive(Debug)]
pub enum Admit {
    /// No Data-Out is wanted; `Respond` follows.
    NoData(TaskId),
    /// Data-Out goes here: `buf.len()` bytes are wanted (never more than were offered; what is offered
    /// beyond that is read and dropped). Call `received` when they are in.
    Land(TaskId, Sgv),
    /// Memory is short: ask for nothing yet; `PortEffect::Land` follows. `wanted` bytes will be asked for.
    /// Unsolicited data that comes meanwhile is the transport's to keep or to swallow.
    Wait {
        /// The task.
        task: TaskId,
        /// How many bytes it will want.
        wanted: u32,
    },
    /// The answer is already decided: read what comes unsolicited, drop it, then call `swallowed`; `Respond`
    /// follows. With no unsolicited data outstanding `swallowed` is called at once.
    Swallow(TaskId),
    /// No task slot (only beyond the grant): answer TASK SET FULL, or reject an immediate command.
    Refused,
}

/// Why a nexus was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Too many nexuses on this core, or no task slots left for it.
    NoRoom,
    /// The target is gone or not serving.
    NoTarget,
}

/// Why Data-Out failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceiveError {
    /// A data digest was wrong (47h/05h).
    Digest,
    /// Less unsolicited data came than was announced (0Ch/0Dh).
    NotEnoughUnsolicited,
    /// Unsolicited data came that was not allowed (0Ch/0Ch).
    UnexpectedUnsolicited,
    /// Unsolicited data came while neither a buffer nor the reserve had room for it: nobody is wrong (BUSY).
    NoRoom,
    /// Offset, length or sequence number broke the rules (47h/0Fh or transport specific).
    Protocol,
}

/// All connections of one kind on one core. The shard holds the concrete type, so these calls are direct.
pub trait Transport {
    /// Takes in what came, bounded by `budget` PDUs; hands commands to `mid`. Returns how much was done.
    fn poll<M: Mid>(&mut self, now: Tick, budget: u32, mid: &mut M) -> u32;

    /// Carries out one effect (queues; `flush` sends).
    fn perform<M: Mid>(&mut self, effect: PortEffect, mid: &mut M);

    /// Sends what has been queued: one system call per connection with something to say.
    fn flush<M: Mid>(&mut self, now: Tick, mid: &mut M);

    /// Names what would wake the core. `false`: something came meanwhile.
    fn arm(&mut self, wake: &mut WakeSet) -> bool;
}
