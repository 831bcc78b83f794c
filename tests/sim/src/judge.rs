//! The court: one memory for all units, the first complaint, and what was counted on the way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::oracle::Moment;
use crate::oracle::blocks::Blocks;
use crate::oracle::reserve::Model;

/// Something that may have ended commands of others without a word.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Who asked.
    pub by: usize,
    /// When it was sent.
    pub sent: Moment,
    /// When it was answered.
    pub answered: Option<Moment>,
    /// It is a PREEMPT AND ABORT, not task management.
    pub preempts: bool,
}

/// What is remembered of a logical unit.
pub struct Unit {
    /// Its blocks.
    pub blocks: Blocks,
    /// Its reservations.
    pub reserve: Model,
    /// Resets and the like.
    pub sweeps: Vec<Sweep>,
    /// When the last flush with IMMED was sent of those that were answered GOOD: one must begin after it.
    pub flush_owed: Moment,
    /// When the last flush began.
    pub flush_begun: Moment,
    /// It was removed or resized meanwhile: refusals prove nothing.
    pub unsettled: bool,
    /// How often it went out of the map and came back: out of it where odd.
    pub mapped: u32,
}

/// All memories.
pub struct Judge {
    now: Moment,
    /// By number.
    pub units: Vec<Unit>,
    complaint: Option<String>,
    /// What happened how often.
    pub counts: BTreeMap<String, u64>,
}

/// Shared by initiators, disks and the world.
#[derive(Clone)]
pub struct SharedJudge(Arc<Mutex<Judge>>);

impl SharedJudge {
    /// A court for these units.
    pub fn new(units: Vec<Unit>) -> SharedJudge {
        SharedJudge(Arc::new(Mutex::new(Judge { now: 1, units, complaint: None, counts: BTreeMap::new() })))
    }

    /// Opens it; there is one thread, so nobody ever waits.
    pub fn lock(&self) -> MutexGuard<'_, Judge> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Judge {
    /// The next moment.
    pub fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// The first complaint counts.
    pub fn hear(&mut self, judged: Result<(), String>) {
        if let Err(why) = judged {
            self.complain(why);
        }
    }

    /// Something is wrong.
    pub fn complain(&mut self, why: String) {
        crate::trace!("COMPLAINT: {why}");
        self.complaint.get_or_insert(why);
    }

    /// The first complaint.
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// Counts something.
    pub fn count(&mut self, what: &str) {
        match self.counts.get_mut(what) {
            Some(n) => *n += 1,
            None => {
                self.counts.insert(what.to_owned(), 1);
            }
        }
    }

    /// Whether somebody else may have ended a command of `port` that was sent at `sent`, without a word.
    pub fn may_be_swept(&self, unit: usize, port: usize, sent: Moment) -> bool {
        let unit = &self.units[unit];
        unit.sweeps.iter().any(|s| s.by != port && s.answered.is_none_or(|at| at > sent))
    }
}
