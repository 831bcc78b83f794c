//! WRITE SAME (SBC-4 §5.43): one block all over a range, by zeroing, by deallocating, or by writing it.

use spindle_bdev::{BlockError, IoFlags, IoResult, Op};
use spindle_mem::Sgv;
use spindle_scsi_spec::cdb::{Family, WriteSame};
use spindle_scsi_spec::{Asc, FieldError, Sense};

use super::{Data, Fit, Plan, Step, Steps, TaskCx, Verdict, bytes, fail, in_range, writable};
use crate::device_server::limits::WRITE_SAME_BLOCKS_MAX;
use crate::lu::LuShard;

const UNMAPS: u8 = 1;

/// Zeroing operations under way at once.
const PIECES_MAX: u8 = 4;
/// Blocks of one zeroing operation.
const PIECE_BLOCKS: u32 = 1 << 16;
/// Bytes of the repeated pattern that are written at once.
const PATTERN_BYTES: u32 = 64 << 10;

/// How far a range has come.
#[derive(Clone, Copy, Debug)]
pub struct Pieces {
    next: u64,
    end: u64,
    /// The pattern is written; otherwise the range is zeroed.
    writes: bool,
    failed: Option<BlockError>,
}

pub(super) fn plan(cdb: &[u8], lu: &LuShard, read_only: bool) -> Result<Plan, Sense> {
    let WriteSame { family, lba, blocks, anchor, unmap, ndob, .. } = WriteSame::parse(cdb)?;
    writable(lu, read_only)?;
    // VPD B2h promises neither anchors nor, unless the device deallocates, UNMAP.
    if anchor {
        return Err(Sense::invalid_field_in_cdb(FieldError::bit(1, 4)));
    }
    if unmap && !lu.info.unmap {
        return Err(Sense::invalid_field_in_cdb(FieldError::bit(1, 3)));
    }
    in_range(lba, blocks.into(), lu)?;
    // WSNZ is one (VPD B0h): nought does not mean "to the end".
    if blocks == 0 || u64::from(blocks) > WRITE_SAME_BLOCKS_MAX {
        let at = if family == Family::Ten { 7 } else { 10 };
        return Err(Sense::invalid_field_in_cdb(FieldError::byte(at)));
    }
    let plan = Plan { lba, blocks, option: if unmap { UNMAPS } else { 0 }, ..Plan::NOTHING };
    if ndob {
        return Ok(plan);
    }
    let block = bytes(1, lu);
    let range = u32::try_from(u64::from(blocks) << lu.shift).unwrap_or(u32::MAX);
    let pattern = PATTERN_BYTES.min(lu.buffer_bytes_max).min(range) & !(block - 1);
    if pattern < block {
        return Err(Sense::illegal_request(Asc::INSUFFICIENT_RESOURCES));
    }
    Ok(Plan { data: Data::Out, length: block, extra: pattern - block, fit: Fit::Exact, ..plan })
}

pub(super) fn start(cx: &mut TaskCx<'_>) -> Step {
    let (lba, land, wanted) = (cx.task.lba, cx.task.land, cx.task.wanted);
    let end = lba + u64::from(cx.task.blocks);
    let mut writes = false;
    if let Some(buf) = &mut cx.task.buf {
        let mut block = vec![0; land as usize];
        buf.copy_to(0, &mut block);
        writes = block.iter().any(|byte| *byte != 0);
        if writes {
            // The block is repeated through the rest of the buffer once, and written from there.
            buf.set_len(wanted);
            buf.fill_pattern(land..wanted, &block);
        }
    }
    cx.cold.steps = Steps::Pieces(Pieces { next: lba, end, writes, failed: None });
    go_on(cx)
}

pub(super) fn resume(cx: &mut TaskCx<'_>, result: IoResult, data: Option<Sgv>) -> Step {
    if data.is_some() {
        cx.task.buf = data;
    }
    if let (IoResult::Err(error), Steps::Pieces(pieces)) = (result, &mut cx.cold.steps) {
        pieces.failed.get_or_insert(error);
    }
    go_on(cx)
}

fn go_on(cx: &mut TaskCx<'_>) -> Step {
    let Steps::Pieces(mut pieces) = cx.cold.steps else { unreachable!("a range is under way") };
    let flags = cx.write_flags();
    while pieces.failed.is_none() && pieces.next < pieces.end {
        let left = u32::try_from(pieces.end - pieces.next).unwrap_or(u32::MAX);
        let sub = cx.task.in_flight.trailing_ones() as u8;
        let blocks = if pieces.writes {
            let Some(buf) = cx.task.buf.take() else { break };
            let blocks = left.min(cx.task.wanted >> cx.lu.shift);
            cx.submit_with(sub, Op::Write, flags.with(IoFlags::KEEP), pieces.next, blocks, 0, Some(buf));
            blocks
        } else {
            if sub >= PIECES_MAX {
                break;
            }
            let device_max = if cx.lu.info.transfer_max == 0 { u32::MAX } else { cx.lu.info.transfer_max };
            let blocks = left.min(PIECE_BLOCKS).min(device_max);
            let unmaps = cx.task.option & UNMAPS != 0;
            let flags = if unmaps { flags.with(IoFlags::MAY_UNMAP) } else { flags };
            cx.submit(sub, Op::WriteZeroes, flags, pieces.next, blocks);
            blocks
        };
        pieces.next += u64::from(blocks);
    }
    cx.cold.steps = Steps::Pieces(pieces);
    match pieces.failed {
        _ if cx.task.in_flight != 0 => Step::Wait,
        Some(error) => fail(cx, error),
        None => Step::Done(Verdict::Good),
    }
}
