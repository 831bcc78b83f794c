//! SYNCHRONIZE CACHE, PRE-FETCH and START STOP UNIT (SBC-4 §5.28, §5.9, §5.27).

use spindle_bdev::{IoFlags, Op};
use spindle_scsi_spec::cdb::{PreFetch, StartStopUnit, SynchronizeCache};
use spindle_scsi_spec::{FieldError, Sense};

use super::{Plan, Step, TaskCx, Verdict, in_range};
use crate::lu::LuShard;
use crate::planted::{self, Bug};

/// IMMED is taken as a permission, not as an order: the status comes when the data is durable, so that a flush
/// that fails is told to the command that asked for it.
pub(super) fn plan_synchronize(cdb: &[u8], lu: &LuShard) -> Result<Plan, Sense> {
    let SynchronizeCache { lba, blocks, .. } = SynchronizeCache::parse(cdb)?;
    in_range(lba, blocks.into(), lu)?;
    Ok(Plan { lba, blocks, ..Plan::NOTHING })
}

pub(super) fn start_synchronize(cx: &mut TaskCx<'_>) -> Step {
    if planted::on(Bug::FlushSkipped) {
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

const FLUSHES: u8 = 1;

/// There is nothing to spin down: power conditions are accepted, stopping writes back what is cached, and a
/// fixed medium cannot be ejected.
pub(super) fn plan_start_stop(cdb: &[u8]) -> Result<Plan, Sense> {
    let c = StartStopUnit::parse(cdb)?;
    // SBC-4 §5.27: LOEJ counts only while POWER CONDITION is nought.
    if c.loej && c.power_condition == 0 {
        return Err(Sense::invalid_field_in_cdb(FieldError::bit(4, 1)));
    }
    let option = if !c.start && !c.no_flush && c.power_condition == 0 { FLUSHES } else { 0 };
    Ok(Plan { option, ..Plan::NOTHING })
}

pub(super) fn start_start_stop(cx: &mut TaskCx<'_>) -> Step {
    if cx.task.option & FLUSHES == 0 { Step::Done(Verdict::Good) } else { start_synchronize(cx) }
}
