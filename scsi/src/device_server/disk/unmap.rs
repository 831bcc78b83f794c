//! UNMAP (SBC-4 §5.30): a list of ranges to deallocate.

use spindle_bdev::{BlockError, IoFlags, IoResult, Op};
use spindle_scsi_spec::cdb::Unmap;
use spindle_scsi_spec::unmap::UnmapList;
use spindle_scsi_spec::{Asc, FieldError, Sense};

use super::{Data, Fit, Plan, Step, Steps, TaskCx, Verdict, fail, in_range, writable};
use crate::device_server::limits::{UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX};
use crate::lu::LuShard;

/// Operations under way at once.
const PIECES_MAX: u8 = 4;

/// What is left to do.
#[derive(Debug)]
pub struct Ranges {
    /// First block and number of blocks; taken from the end.
    left: Vec<(u64, u32)>,
    failed: Option<BlockError>,
}

pub(super) fn plan(cdb: &[u8], lu: &LuShard, read_only: bool) -> Result<Plan, Sense> {
    let Unmap { anchor, list_bytes, .. } = Unmap::parse(cdb)?;
    writable(lu, read_only)?;
    if anchor {
        return Err(Sense::invalid_field_in_cdb(FieldError::bit(1, 0)));
    }
    let length = u32::from(list_bytes);
    if length > lu.buffer_bytes_max {
        return Err(Sense::illegal_request(Asc::PARAMETER_LIST_LENGTH_ERROR));
    }
    Ok(Plan { data: Data::Out, length, fit: Fit::Any, ..Plan::NOTHING })
}

pub(super) fn start(cx: &mut TaskCx<'_>) -> Step {
    if cx.task.length == 0 {
        // SBC-4 §5.30.2: no list is no error.
        return Step::Done(Verdict::Good);
    }
    let mut list = vec![0; cx.task.land as usize];
    if let Some(buf) = &cx.task.buf {
        buf.copy_to(0, &mut list);
    }
    match ranges(&list, cx.lu) {
        Ok(left) => {
            cx.cold.steps = Steps::Unmap(Ranges { left, failed: None });
            go_on(cx)
        }
        Err(sense) => Step::Done(Verdict::Check(sense)),
    }
}

/// The ranges of a parameter list, the first one last. All are checked before any is touched.
fn ranges(list: &[u8], lu: &LuShard) -> Result<Vec<(u64, u32)>, Sense> {
    let list = UnmapList::parse(list)?;
    if list.len() > UNMAP_DESCRIPTORS_MAX as usize {
        return Err(Sense::invalid_field_in_parameter_list(FieldError::byte(2)));
    }
    let mut total = 0u64;
    let mut ranges = Vec::with_capacity(list.len());
    for (n, extent) in list.iter().enumerate() {
        in_range(extent.lba, extent.blocks.into(), lu)?;
        total += u64::from(extent.blocks);
        if total > u64::from(UNMAP_BLOCKS_MAX) {
            let at = UnmapList::offset_of(n) + 8;
            return Err(Sense::invalid_field_in_parameter_list(FieldError::byte(at as u16)));
        }
        if extent.blocks > 0 {
            ranges.push((extent.lba, extent.blocks));
        }
    }
    ranges.reverse();
    Ok(ranges)
}

pub(super) fn resume(cx: &mut TaskCx<'_>, result: IoResult) -> Step {
    if let (IoResult::Err(error), Steps::Unmap(ranges)) = (result, &mut cx.cold.steps) {
        ranges.failed.get_or_insert(error);
        ranges.left.clear();
    }
    go_on(cx)
}

fn go_on(cx: &mut TaskCx<'_>) -> Step {
    loop {
        let sub = cx.task.in_flight.trailing_ones() as u8;
        let Steps::Unmap(ranges) = &mut cx.cold.steps else { unreachable!("ranges are under way") };
        let next = if sub < PIECES_MAX { ranges.left.pop() } else { None };
        match (next, ranges.failed) {
            (Some((lba, blocks)), _) => cx.submit(sub, Op::Unmap, IoFlags::NONE, lba, blocks),
            (None, _) if cx.task.in_flight != 0 => return Step::Wait,
            (None, Some(error)) => return fail(cx, error),
            (None, None) => return Step::Done(Verdict::Good),
        }
    }
}
