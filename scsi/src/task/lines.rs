//! What runs through the task table: the tags of a nexus, and lines of tasks that wait.

use spindle_scsi_port::TaskTag;

use super::{NONE, Slot, Task, TaskTable};

/// The tags of a nexus's tasks: buckets, each a chain through the task rows. With initiators that count their tags a
/// chain has one link, and to come and to go costs a look at the bucket.
pub struct Tags {
    /// As many as an octet can name, so that no index needs a check.
    buckets: Box<[Slot; 256]>,
}

impl Default for Tags {
    fn default() -> Self {
        Tags { buckets: Box::new([NONE; 256]) }
    }
}

impl Tags {
    /// No tasks.
    pub fn clear(&mut self) {
        self.buckets.fill(NONE);
    }

    #[inline]
    fn bucket(&mut self, tag: TaskTag) -> &mut Slot {
        // Fibonacci hashing: neighbours are spread, and all bits count.
        let [.., at] = (tag.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56).to_be_bytes();
        &mut self.buckets[usize::from(at)]
    }

    /// Whether a task of this tag is alive that has neither been aborted nor answered.
    #[inline]
    pub fn overlaps(&mut self, tasks: &TaskTable, tag: TaskTag) -> bool {
        let first = *self.bucket(tag);
        first != NONE && tasks.find_in_bucket(first, tag)
    }

    /// A task has come.
    #[inline]
    pub fn add(&mut self, slot: Slot, task: &mut Task) {
        let first = self.bucket(task.tag);
        task.same_bucket = *first;
        *first = slot;
    }

    /// Whether a task is the first of its bucket.
    #[inline]
    pub fn is_first(&mut self, slot: Slot, task: &Task) -> bool {
        *self.bucket(task.tag) == slot
    }

    /// A task goes, if it is the first of its bucket. `false`: it is not, and stays.
    #[inline]
    pub fn remove_first(&mut self, slot: Slot, task: &Task) -> bool {
        let first = self.bucket(task.tag);
        let is = *first == slot;
        if is {
            *first = task.same_bucket;
        }
        is
    }

    /// A task goes.
    #[inline]
    pub fn remove(&mut self, tasks: &mut TaskTable, slot: Slot) {
        let task = tasks.peek(slot);
        let (tag, next) = (task.tag, task.same_bucket);
        let first = self.bucket(tag);
        if *first == slot { *first = next } else { tasks.unchain(*first, slot, next) }
    }
}

/// A line of tasks (dormant, for memory, at a gate): first come, first served; anyone can be taken out.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    first: Slot,
    last: Slot,
    len: u32,
}

impl Default for Line {
    fn default() -> Self {
        Line { first: NONE, last: NONE, len: 0 }
    }
}

impl Line {
    /// Nobody waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many wait.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Who is next; [`NONE`] if nobody.
    pub fn first(&self) -> Slot {
        self.first
    }

    /// Who stands behind `slot`; [`NONE`] if nobody.
    pub fn behind(&self, tasks: &TaskTable, slot: Slot) -> Slot {
        tasks.peek(slot).line_next
    }

    /// To the end.
    pub fn push(&mut self, tasks: &mut TaskTable, slot: Slot) {
        let last = self.last;
        let task = tasks.hot(slot);
        debug_assert!(task.line_prev == NONE && task.line_next == NONE && self.first != slot);
        task.line_prev = last;
        task.line_next = NONE;
        if last == NONE {
            self.first = slot;
        } else {
            tasks.hot(last).line_next = slot;
        }
        self.last = slot;
        self.len += 1;
    }

    /// Out of the line, from wherever it stands.
    pub fn remove(&mut self, tasks: &mut TaskTable, slot: Slot) {
        let task = tasks.hot(slot);
        let (prev, next) = (task.line_prev, task.line_next);
        task.line_prev = NONE;
        task.line_next = NONE;
        if prev == NONE {
            assert!(self.first == slot, "a task leaves only the line it stands in");
            self.first = next;
        } else {
            tasks.hot(prev).line_next = next;
        }
        if next == NONE {
            self.last = prev;
        } else {
            tasks.hot(next).line_prev = prev;
        }
        self.len -= 1;
    }
}
