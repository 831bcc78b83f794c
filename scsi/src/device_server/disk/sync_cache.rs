//! SYNCHRONIZE CACHE, PRE-FETCH and START STOP UNIT (SBC-4 §5.28, §5.9, §5.27).
//!
//! With IMMED the status does not wait for the flush, which then is no longer the command's but the unit's: see
//! [`crate::flush`].

use spindle_bdev::{IoFlags, Op};
use spindle_scsi_spec::cdb::{PreFetch, StartStopUnit, SynchronizeCache};
use spindle_scsi_spec::{FieldError, Sense};

use super::{Plan, Step, TaskCx, Verdict, in_range};
use crate::lu::LuShard;
use crate::planted::{self, Bug};
use crate::task::Task;

/// What is cached is written back.
const FLUSHES: u8 = 1;
/// IMMED: the status comes before that.
const IMMED: u8 = 2;

/// Whether a command (of this file) asks for a flush that it does not wait for.
pub fn flushes_behind(task: &Task) -> bool {
    task.option == FLUSHES | IMMED
}

fn option(flushes: bool, immed: bool) -> u8 {
    (if flushes { FLUSHES } else { 0 }) | if immed { IMMED } else { 0 }
}

pub(super) fn plan_synchronize(cdb: &[u8], lu: &LuShard) -> Result<Plan, Sense> {
    let SynchronizeCache { lba, blocks, immed, .. } = SynchronizeCache::parse(cdb)?;
    in_range(lba, blocks.into(), lu)?;
    Ok(Plan { lba, blocks, option: option(true, immed), ..Plan::NOTHING })
}

pub(super) fn start(cx: &mut TaskCx<'_>) -> Step {
    if cx.task.option & FLUSHES == 0 || planted::on(Bug::FlushSkipped) {
        return Step::Done(Verdict::Good);
    }
    let (lba, mut blocks) = (cx.task.lba, cx.task.blocks);
    if blocks == 0 {
        // SBC-4 §5.28: nought is all that follows.
        blocks = u32::try_from(cx.lu.info.blocks.saturating_sub(lba)).unwrap_or(u32::MAX);
    }
    cx.submit(0, Op::Flush, IoFlags::NONE, lba, blocks);
    Step::Wait
}

/// The cache is the host's: the range is checked, and the host left to its own wisdom.
pub(super) fn plan_pre_fetch(cdb: &[u8], lu: &LuShard) -> Result<Plan, Sense> {
    let PreFetch { lba, blocks, .. } = PreFetch::parse(cdb)?;
    in_range(lba, blocks.into(), lu)?;
    Ok(Plan { lba, blocks, ..Plan::NOTHING })
}

/// There is nothing to spin down: power conditions are accepted, stopping writes back what is cached, and a
/// fixed medium cannot be ejected.
pub(super) fn plan_start_stop(cdb: &[u8]) -> Result<Plan, Sense> {
    let c = StartStopUnit::parse(cdb)?;
    // SBC-4 §5.27: LOEJ counts only while POWER CONDITION is nought.
    if c.loej && c.power_condition == 0 {
        return Err(Sense::invalid_field_in_cdb(FieldError::bit(4, 1)));
    }
    let flushes = !c.start && !c.no_flush && c.power_condition == 0;
    Ok(Plan { option: option(flushes, c.immed), ..Plan::NOTHING })
}
