//! Tasks: commands we hold, as rows of a table, each in exactly one named state.
//!
//! The table has two halves side by side: [`Task`], two cache lines that the way of a READ touches, and
//! [`Cold`], what only longer commands need. Room for all rows is there from the start, and comes into being as rows are
//! first needed; a free row is found at the top of a stack, so that a lightly loaded core keeps using the same few lines.
//! A [`TaskId`] is slot and generation: a stale one finds nothing.

mod lines;

use spindle_bdev::IoKey;
use spindle_mem::Sgv;
use spindle_reactor::Tick;
use spindle_scsi_port::{Outcome, Residual, TaskAttr, TaskId, TaskTag};
use spindle_scsi_spec::{Asc, SenseKey};

use crate::device_server::disk::Steps;
use crate::device_server::{Attention, Exec, Needs, OpRow};
use crate::reserve::Access;

pub use lines::{Line, Tags};

/// A slot of the task table; `NONE` where there is none.
pub type Slot = u32;

/// No slot.
pub const NONE: Slot = u32::MAX;

/// Where a command stands. The state says who holds its buffer and what an abort has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TaskState {
    /// The row is not in use (or just being filled).
    Free,
    /// Held back by the task set; nobody has a buffer.
    Dormant,
    /// In line for memory.
    WantsBuffer,
    /// The transport has the buffer, or swallows Data-Out that nobody wants.
    Receiving,
    /// At a closed gate; the engine has the buffer, if there is one.
    Blocked,
    /// The channel has the buffer.
    Executing,
    /// The home core decides.
    AtHome,
    /// The transport has outcome and Data-In.
    Responding,
}

/// Number of [`TaskState`]s.
pub const STATES: usize = 8;

impl TaskState {
    /// All of them, in order.
    pub const ALL: [TaskState; STATES] = [
        TaskState::Free,
        TaskState::Dormant,
        TaskState::WantsBuffer,
        TaskState::Receiving,
        TaskState::Blocked,
        TaskState::Executing,
        TaskState::AtHome,
        TaskState::Responding,
    ];

    /// Whether a task may go from here to `next`. Everything else is a mistake of ours.
    #[inline]
    pub const fn may_become(self, next: TaskState) -> bool {
        ORIGINS[next as usize] >> (self as u8) & 1 == 1
    }
}

const fn states(list: &[TaskState]) -> u8 {
    let mut bits = 0;
    let mut n = 0;
    while n < list.len() {
        bits |= 1 << (list[n] as u8);
        n += 1;
    }
    bits
}

/// Row: from; bit: to.
const LEGAL: [u8; STATES] = {
    use TaskState::*;
    [
        states(&[Dormant, WantsBuffer, Receiving, Blocked, Executing, AtHome, Responding]),
        states(&[WantsBuffer, Receiving, Blocked, Executing, AtHome, Responding, Free]),
        // To itself: an answer that grew while it waited for memory wants more of it.
        states(&[WantsBuffer, Receiving, Blocked, Executing, AtHome, Responding, Free]),
        states(&[WantsBuffer, Dormant, Blocked, Executing, AtHome, Responding, Free]),
        states(&[WantsBuffer, Executing, AtHome, Responding, Free]),
        states(&[Responding, Free]),
        states(&[WantsBuffer, Blocked, Executing, Responding, Free]),
        states(&[Free]),
    ]
};

/// The same by where a step leads: most callers name that in their code, so that this is one constant to them.
const ORIGINS: [u8; STATES] = {
    let mut origins = [0; STATES];
    let mut from = 0;
    while from < STATES {
        let mut to = 0;
        while to < STATES {
            origins[to] |= (LEGAL[from] >> to & 1) << from;
            to += 1;
        }
        from += 1;
    }
    origins
};

/// Why a task is ended before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AbortCause {
    /// ABORT TASK.
    AbortTask,
    /// ABORT TASK SET.
    AbortTaskSet,
    /// CLEAR TASK SET.
    ClearTaskSet,
    /// LOGICAL UNIT RESET.
    LogicalUnitReset,
    /// TARGET WARM RESET, TARGET COLD RESET.
    TargetReset,
    /// I_T NEXUS RESET.
    NexusReset,
    /// The session ended.
    NexusLoss,
    /// PERSISTENT RESERVE OUT, PREEMPT AND ABORT.
    Preempt,
}

/// Number of [`AbortCause`]s.
pub const CAUSES: usize = 8;

impl AbortCause {
    /// All of them, in order.
    pub const ALL: [AbortCause; CAUSES] = [
        AbortCause::AbortTask,
        AbortCause::AbortTaskSet,
        AbortCause::ClearTaskSet,
        AbortCause::LogicalUnitReset,
        AbortCause::TargetReset,
        AbortCause::NexusReset,
        AbortCause::NexusLoss,
        AbortCause::Preempt,
    ];
}

/// Flags of a task.
pub mod flag {
    /// Somebody ended it; what is still under way comes back first.
    pub const ABORTED: u16 = 1;
    /// It ends with TASK ABORTED (TAS) instead of silence.
    pub const TELL: u16 = 1 << 1;
    /// A watch (task management, closing gate) waits for it.
    pub const WATCHED: u16 = 1 << 2;
    /// Its Data-Out is read and dropped.
    pub const SWALLOW: u16 = 1 << 3;
    /// Data-Out is complete.
    pub const RECEIVED: u16 = 1 << 4;
    /// It is counted in its task set.
    pub const IN_SET: u16 = 1 << 5;
    /// It is a barrier of its task set (ORDERED, HEAD OF QUEUE).
    pub const BARRIER: u16 = 1 << 6;
    /// It holds its unit's gate closed for others.
    pub const HOLDS_GATE: u16 = 1 << 7;
    /// ORDERED, and in the dormant line.
    pub const ORDERED: u16 = 1 << 8;
    /// A gate waits for it to leave `Executing`.
    pub const DRAINED: u16 = 1 << 10;
    /// `Revoke` is on its way.
    pub const REVOKING: u16 = 1 << 11;
    /// ORDERED in a shared task set of several cores: takes the gate first.
    pub const GATED: u16 = 1 << 12;
    /// A READ or WRITE whose CDB says what the initiator expects, and whose row is still its own (see `quick`).
    pub const PLAIN: u16 = 1 << 13;
}

/// The hot half of a row.
pub struct Task {
    /// Tells it from earlier holders of the slot.
    pub generation: u16,
    /// Where it stands; changed by [`Task::step`] only.
    state: TaskState,
    /// For multi-step commands: where they are.
    pub stage: u8,
    /// See [`flag`].
    pub flags: u16,
    /// Slot of its I_T nexus.
    pub nexus: u16,
    /// Its I_T_L nexus, or [`NO_ITL`] for commands to units that are not there.
    pub itl: u16,
    /// Its unit on this core.
    pub lu: u16,
    /// The transport's name for it.
    pub cookie: u32,
    /// The initiator's name for it.
    pub tag: TaskTag,
    /// Its opcode's row.
    pub row: &'static OpRow,
    /// First block.
    pub lba: u64,
    /// Blocks.
    pub blocks: u32,
    /// Bytes that the CDB moves.
    pub length: u32,
    /// Data-In the initiator has room for.
    pub expected_read: u32,
    /// Data-Out the initiator offers.
    pub expected_write: u32,
    /// Bytes of buffer to take.
    pub wanted: u32,
    /// Data-Out bytes to land, later those that did.
    pub land: u32,
    /// Its buffer, while the engine has it.
    pub buf: Option<Sgv>,
    /// Neighbours in the one line it may stand in (dormant, for memory, at a gate).
    pub line_prev: Slot,
    /// The same.
    pub line_next: Slot,
    /// The next of its nexus whose tag falls into the same bucket ([`Tags`]).
    pub same_bucket: Slot,
    /// Position in the order of arrival on this core.
    pub seq: u64,
    /// When it came.
    pub started: Tick,
    /// Operations at the channel, one bit for each.
    pub in_flight: u16,
    /// Why it is aborted.
    pub cause: AbortCause,
    /// `IoFlags` of its reads and writes.
    pub io_flags: u8,
    /// Bits of the CDB a step needs (BYTCHK, UNMAP, …).
    pub option: u8,
    /// How it wants to be ordered among others.
    pub attr: TaskAttr,
    /// Which reservations stand in its way.
    pub access: Access,
    /// Of the lock it holds.
    pub epoch: u32,
}

const _: () = assert!(size_of::<Task>() <= 128);

/// No I_T_L nexus.
pub const NO_ITL: u16 = u16::MAX;

/// The cold half of a row.
#[derive(Default)]
pub struct Cold {
    /// The CDB, for commands that look at it again.
    pub cdb: [u8; 32],
    /// An outcome that waits for Data-Out to be swallowed.
    pub outcome: Option<Outcome>,
    /// What a command of several steps must remember.
    pub steps: Steps,
}

/// The row of commands that have none: unknown ones, and those for a unit that is not there.
pub static NOTHING: OpRow = OpRow {
    name: "unknown command",
    opcode: 0,
    service_action: None,
    usage: &[],
    forbidden: 0,
    access: Access::Free,
    attention: Attention::Passes,
    head_of_queue: true,
    needs: Needs::Nothing,
    exec: Exec::TestUnitReady,
};

/// The row of writes that were let in before this core could know that software protects the unit.
pub static PROTECTED_AFTER_ALL: OpRow = OpRow {
    name: "write to a protected unit",
    exec: Exec::Refused(SenseKey::DataProtect, Asc::SOFTWARE_WRITE_PROTECTED),
    ..NOTHING
};

/// The row of commands that were let in before their unit shrank.
pub static BEYOND_THE_END: OpRow = OpRow {
    name: "command beyond the new end",
    exec: Exec::Refused(SenseKey::IllegalRequest, Asc::LBA_OUT_OF_RANGE),
    ..NOTHING
};

/// The row of commands that were let in before this core could know that their unit has gone.
pub static GONE_AFTER_ALL: OpRow = OpRow {
    name: "command to a unit that has gone",
    exec: Exec::Refused(SenseKey::IllegalRequest, Asc::LOGICAL_UNIT_NOT_SUPPORTED),
    ..NOTHING
};

impl Task {
    fn free() -> Task {
        Task {
            generation: 1,
            state: TaskState::Free,
            stage: 0,
            flags: 0,
            nexus: 0,
            itl: NO_ITL,
            lu: 0,
            cookie: 0,
            tag: TaskTag(0),
            row: &NOTHING,
            lba: 0,
            blocks: 0,
            length: 0,
            expected_read: 0,
            expected_write: 0,
            wanted: 0,
            land: 0,
            buf: None,
            line_prev: NONE,
            line_next: NONE,
            same_bucket: NONE,
            seq: 0,
            started: Tick::ZERO,
            in_flight: 0,
            cause: AbortCause::AbortTask,
            io_flags: 0,
            option: 0,
            attr: TaskAttr::Simple,
            access: Access::Free,
            epoch: 0,
        }
    }

    /// Where it stands.
    #[inline]
    pub fn state(&self) -> TaskState {
        self.state
    }

    /// Its name, as the holder of `slot`.
    #[inline]
    pub fn id(&self, slot: Slot) -> TaskId {
        TaskId(u32::from(self.generation) << 16 | slot)
    }

    /// The only way from state to state.
    #[inline(always)]
    #[track_caller]
    pub fn step(&mut self, next: TaskState) {
        assert!(self.state.may_become(next), "a task cannot go from {:?} to {next:?}", self.state);
        self.state = next;
    }

    /// What the outcome's residual speaks of: the Data-Out offered or, without any, the room for Data-In.
    #[inline]
    pub fn expected(&self) -> u32 {
        if self.expected_write > 0 { self.expected_write } else { self.expected_read }
    }

    /// The second residual of a command with room in both directions (RFC 7143 §11.4.5): nothing here moves data
    /// both ways, so none came in.
    #[inline]
    pub fn residual_in(&self) -> Residual {
        if self.expected_write > 0 && self.expected_read > 0 {
            Residual::Underflow(self.expected_read)
        } else {
            Residual::None
        }
    }

    /// Whether all bits of `flags` are set.
    #[inline]
    pub fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

/// Rows made when none is free: one for each of the commands of two busy sessions.
const ROWS_AT_ONCE: Slot = 256;

/// All tasks of a core.
pub struct TaskTable {
    hot: Vec<Task>,
    cold: Vec<Cold>,
    /// So many rows there may be.
    rows_max: u32,
    /// The free ones of those that were made, a stack of so many.
    free: Box<[Slot]>,
    free_len: usize,
    /// Arrivals so far.
    seq: u64,
}

impl TaskTable {
    /// `rows` free rows (at most 65,536: a slot has 16 bits in a [`TaskId`]).
    pub fn new(rows: u32) -> TaskTable {
        assert!(rows <= 1 << 16, "{rows} task slots are more than an identifier can name");
        TaskTable {
            hot: Vec::with_capacity(rows as usize),
            cold: Vec::with_capacity(rows as usize),
            rows_max: rows,
            free: vec![0; rows as usize].into_boxed_slice(),
            free_len: 0,
            seq: 0,
        }
    }

    /// Rows in use.
    pub fn alive(&self) -> u32 {
        (self.hot.len() - self.free_len) as u32
    }

    /// Rows not in use.
    pub fn free(&self) -> u32 {
        self.rows_max - self.alive()
    }

    /// All rows there may be.
    pub fn capacity(&self) -> u32 {
        self.rows_max
    }

    /// Takes a free row; its generation is set, everything else is as the last holder left it but for flags,
    /// lines and operations, which are none.
    #[inline(always)]
    pub fn take(&mut self) -> Option<(Slot, &mut Task)> {
        if self.free_len == 0 {
            self.make_rows();
        }
        let slot = *self.free.get(self.free_len.wrapping_sub(1))?;
        self.free_len -= 1;
        self.seq += 1;
        let task = &mut self.hot[slot as usize];
        task.seq = self.seq;
        Some((slot, task))
    }

    /// Some rows more, the lowest on top of the stack, as far as there may be more. They do not move those that are there.
    #[cold]
    fn make_rows(&mut self) {
        let made = self.hot.len() as Slot;
        for slot in (made..self.rows_max.min(made + ROWS_AT_ONCE)).rev() {
            self.free[self.free_len] = slot;
            self.free_len += 1;
            self.hot.push(Task::free());
            self.cold.push(Cold::default());
        }
    }

    /// The sequence number that the next arrival will exceed.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Gives a row back. It must be in state `Free`, without buffer and without operations.
    #[inline]
    pub fn put(&mut self, slot: Slot) {
        let id = self.hot[slot as usize].id(slot);
        assert!(self.put_if(id, |_| true), "its own name is not stale");
    }

    /// As [`TaskTable::put`], if the name is not stale and `ready` says yes, which has then ended the task.
    #[inline(always)]
    pub fn put_if(&mut self, id: TaskId, ready: impl FnOnce(&mut Task) -> bool) -> bool {
        let slot = id.0 & 0xFFFF;
        let Some(task) = self.hot.get_mut(slot as usize) else { return false };
        if u32::from(task.generation) != id.0 >> 16 || !ready(task) {
            return false;
        }
        assert!(
            task.state == TaskState::Free && task.buf.is_none() && task.in_flight == 0,
            "a task row goes back empty"
        );
        debug_assert!(task.line_prev == NONE && task.line_next == NONE, "a free task stands in no line");
        task.generation = if task.generation == u16::MAX { 1 } else { task.generation + 1 };
        task.flags = 0;
        task.stage = 0;
        self.free[self.free_len] = slot;
        self.free_len += 1;
        true
    }

    /// The name of the task in `slot`.
    #[inline]
    pub fn id(&self, slot: Slot) -> TaskId {
        self.hot[slot as usize].id(slot)
    }

    /// The slot of a task, unless the name is stale.
    #[inline]
    pub fn find(&self, id: TaskId) -> Option<Slot> {
        let slot = id.0 & 0xFFFF;
        let task = self.hot.get(slot as usize)?;
        (u32::from(task.generation) == id.0 >> 16 && task.state != TaskState::Free).then_some(slot)
    }

    /// The row of a task that is known to be alive unless the name is stale: a row that is put back changes its name.
    #[inline(always)]
    pub fn row_of(&mut self, id: TaskId) -> Option<&mut Task> {
        self.hot.get_mut((id.0 & 0xFFFF) as usize).filter(|task| u32::from(task.generation) == id.0 >> 16)
    }

    /// The task itself, unless the name is stale.
    #[inline]
    pub fn find_mut(&mut self, id: TaskId) -> Option<(Slot, &mut Task)> {
        let slot = id.0 & 0xFFFF;
        let task = self.hot.get_mut(slot as usize)?;
        (u32::from(task.generation) == id.0 >> 16 && task.state != TaskState::Free).then_some((slot, task))
    }

    /// The hot half.
    #[inline]
    pub fn hot(&mut self, slot: Slot) -> &mut Task {
        &mut self.hot[slot as usize]
    }

    /// The hot half, to look at.
    #[inline]
    pub fn peek(&self, slot: Slot) -> &Task {
        &self.hot[slot as usize]
    }

    /// The cold half.
    #[inline]
    pub fn cold(&mut self, slot: Slot) -> &mut Cold {
        &mut self.cold[slot as usize]
    }

    /// Both halves.
    #[inline]
    pub fn both(&mut self, slot: Slot) -> (&mut Task, &mut Cold) {
        (&mut self.hot[slot as usize], &mut self.cold[slot as usize])
    }

    #[cold]
    fn find_in_bucket(&self, first: Slot, tag: TaskTag) -> bool {
        let mut at = first;
        while at != NONE {
            let task = self.peek(at);
            if task.tag == tag && !task.has(flag::ABORTED) && task.state != TaskState::Responding {
                return true;
            }
            at = task.same_bucket;
        }
        false
    }

    #[cold]
    fn unchain(&mut self, first: Slot, slot: Slot, next: Slot) {
        let mut at = first;
        while self.peek(at).same_bucket != slot {
            at = self.peek(at).same_bucket;
        }
        self.hot(at).same_bucket = next;
    }

    /// All tasks alive, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Task)> {
        (0..).zip(&self.hot).filter(|(_, task)| task.state != TaskState::Free)
    }
}

/// The key of operation `sub` of a task: what comes back in an `IoDone`.
#[inline]
pub fn io_key(id: TaskId, sub: u8) -> IoKey {
    IoKey(u64::from(sub) << 32 | u64::from(id.0))
}

/// Task and operation of a key.
#[inline]
pub fn of_io_key(key: IoKey) -> (TaskId, u8) {
    (TaskId(key.0 as u32), (key.0 >> 32) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_task_id_finds_nothing() {
        let mut tasks = TaskTable::new(2);
        let slot = tasks.take().unwrap().0;
        tasks.hot(slot).step(TaskState::Executing);
        let id = tasks.id(slot);
        assert_eq!(tasks.find(id), Some(slot));
        tasks.hot(slot).step(TaskState::Free);
        tasks.put(slot);
        assert_eq!(tasks.find(id), None);
        let again = tasks.take().unwrap().0;
        tasks.hot(again).step(TaskState::Executing);
        assert_eq!((again, tasks.find(id)), (slot, None));
        assert_ne!(tasks.id(again), id);
    }

    #[test]
    #[should_panic(expected = "cannot go from Executing to Receiving")]
    fn an_illegal_step_is_a_mistake_of_ours() {
        let mut tasks = TaskTable::new(1);
        let slot = tasks.take().unwrap().0;
        tasks.hot(slot).step(TaskState::Executing);
        tasks.hot(slot).step(TaskState::Receiving);
    }

    #[test]
    fn anyone_can_leave_a_line_and_the_rest_keep_their_order() {
        let mut tasks = TaskTable::new(4);
        let slots: Vec<_> = (0..4).map(|_| tasks.take().unwrap().0).collect();
        for leaver in 0..4 {
            let mut line = Line::default();
            slots.iter().for_each(|&s| line.push(&mut tasks, s));
            line.remove(&mut tasks, slots[leaver]);
            let mut left = Vec::new();
            while line.first() != NONE {
                left.push(line.first());
                line.remove(&mut tasks, line.first());
            }
            let expected: Vec<_> = slots.iter().copied().filter(|&s| s != slots[leaver]).collect();
            assert_eq!((left, line.len()), (expected, 0));
        }
    }

    #[test]
    fn a_key_names_task_and_operation() {
        let key = io_key(TaskId(0xFFFF_0001), 15);
        assert_eq!(of_io_key(key), (TaskId(0xFFFF_0001), 15));
    }
}
