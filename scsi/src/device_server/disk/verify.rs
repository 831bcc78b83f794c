//! VERIFY and WRITE AND VERIFY (SBC-4 §5.34, §5.40).
//!
//! BYTCHK 00b reads the medium without comparing; 01b compares all, 11b each block with the one that was sent.

use spindle_bdev::{IoFlags, IoResult, Op};
use spindle_mem::Sgv;
use spindle_scsi_spec::Sense;
use spindle_scsi_spec::cdb::{Bytchk, Verify, WriteAndVerify};

use super::compare::Comparison;
use super::read_write::flags;
use super::{
    Data, Fit, Plan, Step, TaskCx, Verdict, bytes, fail, good_or, in_range, room_to_compare,
    within_transfer_max, writable,
};
use crate::lu::LuShard;

const COMPARES: u8 = 1;
const ONE_BLOCK: u8 = 2;

const WRITING: u8 = 0;
const VERIFYING: u8 = 1;

pub(super) fn plan_verify(cdb: &[u8], lu: &LuShard) -> Result<Plan, Sense> {
    let Verify { family, lba, blocks, dpo, bytchk, .. } = Verify::parse(cdb)?;
    in_range(lba, blocks.into(), lu)?;
    let plan = Plan { lba, blocks, io_flags: flags(dpo, false), ..Plan::NOTHING };
    if bytchk == Bytchk::MediumOnly || blocks == 0 {
        return Ok(plan);
    }
    within_transfer_max(blocks, family, lu)?;
    let all = bytes(blocks, lu);
    let (length, option) = match bytchk {
        Bytchk::CompareOneBlock => (bytes(1, lu), COMPARES | ONE_BLOCK),
        _ => (all, COMPARES),
    };
    let extra = room_to_compare(length, all, lu)?;
    Ok(Plan { data: Data::Out, length, extra, option, fit: Fit::Blocks, ..plan })
}

pub(super) fn plan_write_and_verify(cdb: &[u8], lu: &LuShard, read_only: bool) -> Result<Plan, Sense> {
    let WriteAndVerify { family, lba, blocks, dpo, bytchk, .. } = WriteAndVerify::parse(cdb)?;
    writable(lu, read_only)?;
    in_range(lba, blocks.into(), lu)?;
    within_transfer_max(blocks, family, lu)?;
    let length = bytes(blocks, lu);
    let (option, extra) = match bytchk {
        Bytchk::MediumOnly => (0, 0),
        _ => (COMPARES, room_to_compare(length, length, lu)?),
    };
    // SBC-4 §5.40: it is the medium that is verified, so that is where the write goes.
    let io_flags = flags(dpo, true);
    Ok(Plan { data: Data::Out, lba, blocks, length, extra, io_flags, option, fit: Fit::Blocks })
}

fn comparison(cx: &TaskCx<'_>) -> Comparison {
    let (task, land) = (&cx.task, cx.task.land);
    // The initiator may have offered fewer blocks than the CDB names: those that came are compared.
    let length = if task.option & ONE_BLOCK != 0 { bytes(task.blocks, cx.lu) } else { land };
    Comparison { length, pattern: land, land, room: task.wanted - land }
}

fn read_medium(cx: &mut TaskCx<'_>) -> Step {
    let (lba, blocks, flags) = (cx.task.lba, cx.task.blocks, IoFlags(cx.task.io_flags));
    cx.submit(0, Op::Verify, flags, lba, blocks);
    Step::Wait
}

pub(super) fn start_verify(cx: &mut TaskCx<'_>) -> Step {
    let compares = cx.task.option & COMPARES != 0;
    if cx.task.blocks == 0 || compares && cx.task.land == 0 {
        Step::Done(Verdict::Good)
    } else if compares {
        comparison(cx).start(cx).step()
    } else {
        read_medium(cx)
    }
}

pub(super) fn resume_verify(cx: &mut TaskCx<'_>, result: IoResult, data: Option<Sgv>) -> Step {
    if cx.task.option & COMPARES != 0 {
        return comparison(cx).resume(cx, result, data).step();
    }
    good_or(cx, result)
}

pub(super) fn start_write_and_verify(cx: &mut TaskCx<'_>) -> Step {
    cx.task.stage = WRITING;
    cx.task.blocks = cx.task.land >> cx.lu.shift;
    if cx.task.blocks == 0 {
        return Step::Done(Verdict::Good);
    }
    let (lba, blocks, flags) = (cx.task.lba, cx.task.blocks, cx.write_flags());
    let flags = if cx.task.option & COMPARES != 0 { flags.with(IoFlags::KEEP) } else { flags };
    let buf = cx.task.buf.take();
    cx.submit_with(0, Op::Write, flags, lba, blocks, 0, buf);
    Step::Wait
}

pub(super) fn resume_write_and_verify(cx: &mut TaskCx<'_>, result: IoResult, data: Option<Sgv>) -> Step {
    let compares = cx.task.option & COMPARES != 0;
    if cx.task.stage == VERIFYING {
        return if compares { comparison(cx).resume(cx, result, data).step() } else { good_or(cx, result) };
    }
    cx.task.buf = data;
    if let IoResult::Err(error) = result {
        return fail(cx, error);
    }
    cx.task.stage = VERIFYING;
    if compares { comparison(cx).start(cx).step() } else { read_medium(cx) }
}
