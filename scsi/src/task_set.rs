//! A task set: which of its tasks may run now (SAM-5 §8).
//!
//! Under TST 001b there is one for each I_T nexus, under 000b one for all. SIMPLE tasks run together; an
//! ORDERED one waits until everything older has ended and holds back everything younger; HEAD OF QUEUE runs at
//! once and holds back what comes after it. As long as nobody says ORDERED or HEAD OF QUEUE, admission is one
//! comparison and one addition.

use spindle_scsi_port::TaskAttr;

use crate::task::{Line, NONE, Slot, Task, TaskTable, flag};

/// The state of one task set.
#[derive(Debug, Default)]
pub struct TaskSet {
    /// Tasks that may run and have not ended.
    active: u32,
    /// Of these, ORDERED and HEAD OF QUEUE ones.
    barriers: u32,
    /// Those held back, in order of arrival.
    dormant: Line,
}

impl TaskSet {
    /// Nobody holds a SIMPLE task back that arrives now.
    #[inline]
    pub fn is_simple(&self) -> bool {
        self.barriers == 0 && self.dormant.is_empty()
    }

    /// A SIMPLE task arrives that nobody holds back ([`TaskSet::is_simple`]); the caller notes it in the task's
    /// flags.
    #[inline]
    pub fn enter_simple(&mut self) {
        debug_assert!(self.is_simple());
        self.active += 1;
    }

    /// A SIMPLE task has ended; the caller takes it out of the task's flags.
    #[inline]
    pub fn leave_simple(&mut self) {
        self.active -= 1;
    }

    /// A task arrives. `true`: it may run now; otherwise it stands in line, and [`TaskSet::wake`] will name it.
    pub fn admit(&mut self, tasks: &mut TaskTable, slot: Slot, attr: TaskAttr) -> bool {
        tasks.hot(slot).attr = attr;
        let task = tasks.hot(slot);
        if self.is_simple() && matches!(attr, TaskAttr::Simple | TaskAttr::Untagged) {
            self.active += 1;
            task.flags |= flag::IN_SET;
            return true;
        }
        match attr {
            // SAM-5 §8.6.4: HEAD OF QUEUE enters the enabled state at once.
            TaskAttr::HeadOfQueue => {
                task.flags |= flag::BARRIER;
                self.enter(tasks, slot);
                return true;
            }
            TaskAttr::Ordered => task.flags |= flag::ORDERED | flag::BARRIER,
            TaskAttr::Simple | TaskAttr::Untagged | TaskAttr::Aca => {}
        }
        self.dormant.push(tasks, slot);
        if self.next(tasks) == slot {
            self.dormant.remove(tasks, slot);
            self.enter(tasks, slot);
            return true;
        }
        false
    }

    fn enter(&mut self, tasks: &mut TaskTable, slot: Slot) {
        let task = tasks.hot(slot);
        task.flags |= flag::IN_SET;
        self.active += 1;
        self.barriers += u32::from(task.has(flag::BARRIER));
    }

    /// The first of the line if it may run now, else [`NONE`].
    fn next(&self, tasks: &TaskTable) -> Slot {
        let slot = self.dormant.first();
        if slot == NONE {
            return NONE;
        }
        // SAM-5 §8.6.2, §8.6.3: SIMPLE waits for older ORDERED and for HEAD OF QUEUE tasks, ORDERED for all. All
        // that is active is older than what stands in line, or is HEAD OF QUEUE.
        let waits = if tasks.peek(slot).has(flag::ORDERED) { self.active } else { self.barriers };
        if waits == 0 { slot } else { NONE }
    }

    /// Takes the first of the line out if it may run now.
    #[inline]
    pub fn wake(&mut self, tasks: &mut TaskTable) -> Slot {
        if self.dormant.is_empty() {
            return NONE;
        }
        let slot = self.next(tasks);
        if slot != NONE {
            self.dormant.remove(tasks, slot);
            self.enter(tasks, slot);
        }
        slot
    }

    /// An active task has ended.
    #[inline]
    pub fn leave(&mut self, task: &mut Task) {
        if task.has(flag::IN_SET) {
            task.flags &= !flag::IN_SET;
            self.active -= 1;
            self.barriers -= u32::from(task.has(flag::BARRIER));
        }
    }

    /// A task in line is aborted.
    pub fn forget(&mut self, tasks: &mut TaskTable, slot: Slot) {
        self.dormant.remove(tasks, slot);
    }

    /// Somebody waits in line.
    #[inline]
    pub fn has_dormant(&self) -> bool {
        !self.dormant.is_empty()
    }

    /// No task at all.
    pub fn is_empty(&self) -> bool {
        self.active == 0 && self.dormant.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use TaskAttr::{HeadOfQueue, Ordered, Simple};

    use super::*;

    struct World {
        set: TaskSet,
        tasks: TaskTable,
        slots: Vec<Slot>,
    }

    impl World {
        fn new(attrs: &[TaskAttr]) -> (World, Vec<bool>) {
            let mut w = World { set: TaskSet::default(), tasks: TaskTable::new(16), slots: Vec::new() };
            let ran = attrs.iter().map(|&attr| w.arrive(attr)).collect();
            (w, ran)
        }

        fn arrive(&mut self, attr: TaskAttr) -> bool {
            let slot = self.tasks.take().unwrap().0;
            self.slots.push(slot);
            self.set.admit(&mut self.tasks, slot, attr)
        }

        /// Ends task `n`; tells which ones wake.
        fn end(&mut self, n: usize) -> Vec<usize> {
            self.set.leave(self.tasks.hot(self.slots[n]));
            let mut woken = Vec::new();
            loop {
                let slot = self.set.wake(&mut self.tasks);
                if slot == NONE {
                    return woken;
                }
                woken.push(self.slots.iter().position(|&s| s == slot).unwrap());
            }
        }
    }

    #[test]
    fn an_ordered_task_waits_for_all_older_and_holds_back_all_younger() {
        let (mut w, ran) = World::new(&[Simple, Simple, Ordered, Simple, Ordered, Simple]);
        assert_eq!(ran, [true, true, false, false, false, false]);
        assert_eq!(w.end(0), []);
        assert_eq!(w.end(1), [2]);
        assert_eq!(w.end(2), [3]);
        assert_eq!(w.end(3), [4]);
        assert_eq!(w.end(4), [5]);
        assert_eq!(w.end(5), []);
        assert!(w.set.is_empty());
    }

    #[test]
    fn head_of_queue_runs_at_once_and_holds_back_what_comes_later() {
        let (mut w, ran) = World::new(&[Simple, HeadOfQueue, Simple]);
        assert_eq!(ran, [true, true, false]);
        assert_eq!(w.end(0), []);
        assert_eq!(w.end(1), [2]);
    }

    #[test]
    fn an_ordered_task_waits_for_a_younger_head_of_queue() {
        let (mut w, ran) = World::new(&[Simple, Ordered, HeadOfQueue]);
        assert_eq!(ran, [true, false, true]);
        assert_eq!(w.end(0), []);
        assert_eq!(w.end(2), [1]);
    }

    #[test]
    fn simple_tasks_wake_together_behind_an_ordered_one() {
        let (mut w, ran) = World::new(&[Ordered, Simple, Simple, Simple]);
        assert_eq!(ran, [true, false, false, false]);
        assert_eq!(w.end(0), [1, 2, 3]);
    }

    #[test]
    fn a_dormant_task_that_is_aborted_lets_those_behind_it_pass() {
        let (mut w, _) = World::new(&[Simple, Ordered, Simple]);
        w.set.forget(&mut w.tasks, w.slots[1]);
        assert_eq!(w.set.wake(&mut w.tasks), w.slots[2]);
    }
}
