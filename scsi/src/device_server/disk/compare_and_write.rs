//! COMPARE AND WRITE (SBC-4 §5.3): the first half of the data is compared with the medium, and only if it is
//! equal is the second half written. Nobody else writes these blocks meanwhile: before it starts, the task has
//! the unit's gate closed for them, on all cores.

use spindle_bdev::{IoResult, Op};
use spindle_mem::Sgv;
use spindle_scsi_spec::cdb::CompareAndWrite;
use spindle_scsi_spec::{FieldError, Sense};

use super::compare::{Compared, Comparison};
use super::read_write::flags;
use super::{Data, Fit, Plan, Step, TaskCx, Verdict, bytes, good_or, in_range, room_to_compare, writable};
use crate::lu::LuShard;

const COMPARING: u8 = 0;
const WRITING: u8 = 1;

pub(super) fn plan(cdb: &[u8], lu: &LuShard, read_only: bool) -> Result<Plan, Sense> {
    let CompareAndWrite { lba, blocks, dpo, fua, .. } = CompareAndWrite::parse(cdb)?;
    writable(lu, read_only)?;
    in_range(lba, blocks.into(), lu)?;
    // MAXIMUM COMPARE AND WRITE LENGTH (VPD B0h): both halves are received, and count.
    if u32::from(blocks) * 2 > lu.transfer_blocks_max {
        return Err(Sense::invalid_field_in_cdb(FieldError::byte(13)));
    }
    let blocks = u32::from(blocks);
    let half = bytes(blocks, lu);
    let extra = room_to_compare(half * 2, half, lu)?;
    let io_flags = flags(dpo, fua);
    Ok(Plan {
        data: Data::Out,
        lba,
        blocks,
        length: half * 2,
        extra,
        io_flags,
        option: 0,
        fit: Fit::Count(13),
    })
}

fn comparison(cx: &TaskCx<'_>) -> Comparison {
    let half = bytes(cx.task.blocks, cx.lu);
    Comparison { length: half, pattern: half, land: cx.task.land, room: cx.task.wanted - cx.task.land }
}

pub(super) fn start(cx: &mut TaskCx<'_>) -> Step {
    cx.task.stage = COMPARING;
    comparison(cx).start(cx).step()
}

pub(super) fn resume(cx: &mut TaskCx<'_>, result: IoResult, data: Option<Sgv>) -> Step {
    if cx.task.stage == WRITING {
        cx.task.buf = data;
        return good_or(cx, result);
    }
    match comparison(cx).resume(cx, result, data) {
        Compared::Reading => Step::Wait,
        Compared::Ends(verdict) => Step::Done(verdict),
        Compared::Equal if cx.task.blocks == 0 => Step::Done(Verdict::Good),
        Compared::Equal => {
            cx.task.stage = WRITING;
            let (lba, blocks, flags) = (cx.task.lba, cx.task.blocks, cx.write_flags());
            let (half, buf) = (bytes(blocks, cx.lu), cx.task.buf.take());
            cx.submit_with(0, Op::Write, flags, lba, blocks, half, buf);
            Step::Wait
        }
    }
}
