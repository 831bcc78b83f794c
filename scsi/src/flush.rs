//! Flushes that no command waits for: SYNCHRONIZE CACHE and START STOP UNIT with IMMED.
//!
//! SBC-4 §5.28: with IMMED the status comes as soon as the CDB is found good. GOOD then promises nothing; the flush
//! belongs to the unit, and no task management function waits for it or ends it (it only makes durable what was
//! answered before). A unit that is to go waits for it.
//!
//! However many commands ask, a core has one such flush of a unit at its device and at most one to follow: those who
//! ask while one is under way share the next, which covers what was written until it begins. So the whole device is
//! flushed, whatever their ranges.
//!
//! SPC-4 §4.5.7: if it fails, every I_T nexus that asked for it is told by a deferred error (71h, 73h), which ends its
//! next command in CHECK CONDITION or is the answer to REQUEST SENSE. What a device says after a failed flush is its
//! own matter: files and disks let no later SYNCHRONIZE CACHE be GOOD, deferred error or not.

use spindle_bdev::{BlockIo, IoFlags, IoKey, IoResult, Op, Origin};

use crate::engine::Engine;
use crate::outcome::sense_of;
use crate::planted::{self, Bug};
use crate::task::Slot;

/// Where a unit's own flushes stand on one core.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flushes {
    /// One is at the device.
    under_way: bool,
    /// Another one follows.
    again: bool,
}

impl Flushes {
    /// Nothing is at the device, and nothing will be.
    pub fn are_over(&self) -> bool {
        !self.under_way
    }
}

/// An I_T_L nexus is told if the flush under way fails.
const THIS: u8 = 1;
/// It is told if the one that follows does.
const NEXT: u8 = 2;

/// No key of a task has this bit. The lower half, which would name the task, has generation nought, which no task has:
/// so whoever looks for one finds none.
const OF_A_UNIT: u64 = 1 << 63;

/// Whose flush has ended, if it was one that no command waited for.
pub fn unit_of(key: IoKey) -> Option<u16> {
    (key.0 & OF_A_UNIT != 0).then_some(key.0 as u16)
}

impl Engine {
    /// A command wants what is cached to be written back, and does not wait for it.
    pub(crate) fn flush_behind(&mut self, slot: Slot) {
        if planted::on(Bug::FlushBehindSkipped) {
            return;
        }
        let task = self.tasks.peek(slot);
        let (unit, itl, nexus) = (task.lu, usize::from(task.itl), task.nexus);
        let flushes = &mut self.lu_mut(unit).flushes;
        if flushes.under_way {
            flushes.again = true;
            self.itls[itl].flushes |= NEXT;
        } else {
            self.itls[itl].flushes |= THIS;
            self.flush(unit, Origin(u32::from(nexus)));
        }
    }

    fn flush(&mut self, unit: u16, origin: Origin) {
        let lu = self.lu_mut(unit);
        lu.flushes.under_way = true;
        let (channel, blocks) = (lu.channel, u32::try_from(lu.info.blocks).unwrap_or(u32::MAX));
        let (key, flags) = (IoKey(OF_A_UNIT | u64::from(unit)), IoFlags::NONE);
        let io = BlockIo { key, lba: 0, data: None, blocks, at: 0, origin, op: Op::Flush, flags };
        self.fx.io.push((channel, io));
    }

    /// A flush that no command waited for has ended.
    pub(crate) fn flush_ended(&mut self, unit: u16, result: IoResult) {
        let lu = self.lus[usize::from(unit)].as_deref_mut().expect("a unit stays while it flushes");
        let error = match result {
            IoResult::Err(error) => Some(sense_of(error, 0)),
            _ => None,
        };
        lu.stats.errors += u64::from(error.is_some());
        let mut next = None;
        for itl in &lu.itls {
            let itl = &mut self.itls[usize::from(*itl)];
            if itl.flushes & THIS != 0
                && let Some(sense) = error
            {
                itl.attentions.defer(sense);
            }
            itl.flushes = if itl.flushes & NEXT != 0 { THIS } else { 0 };
            if itl.flushes != 0 {
                next = Some(Origin(u32::from(itl.nexus)));
            }
        }
        lu.flushes.under_way = false;
        if std::mem::take(&mut lu.flushes.again) {
            // Those who asked may be gone; what they had written is to become durable all the same.
            self.flush(unit, next.unwrap_or(Origin(0)));
        } else {
            self.lu_try_close(unit);
        }
    }
}
