//! GET LBA STATUS (SBC-4 §5.6): which blocks are backed by storage, asked of the device extent by extent.

use spindle_bdev::{BlockError, IoFlags, IoResult, Op, Provisioning};
use spindle_scsi_spec::cdb::GetLbaStatus;
use spindle_scsi_spec::lba_status::{LbaStatus, ProvisioningStatus, emit_lba_status};
use spindle_scsi_spec::{Asc, Emit, FieldError, Sense};

use super::{Data, Plan, Step, Steps, TaskCx, Verdict, fail};
use crate::lu::LuShard;

/// Extents that one command returns at most; the initiator asks again for more.
const LBA_STATUS_MAX: usize = 64;

const HEADER_BYTES: usize = 8;
const DESCRIPTOR_BYTES: usize = 16;
const BYTES_MAX: usize = HEADER_BYTES + DESCRIPTOR_BYTES * LBA_STATUS_MAX;

pub(super) fn plan(cdb: &[u8], lu: &LuShard) -> Result<Plan, Sense> {
    let GetLbaStatus { lba, alloc_bytes, report_type } = GetLbaStatus::parse(cdb)?;
    if report_type != 0 {
        return Err(Sense::invalid_field_in_cdb(FieldError::byte(14)));
    }
    // SBC-4 §5.6.1: there must be a block to tell about.
    if lba >= lu.info.blocks {
        return Err(Sense::illegal_request(Asc::LBA_OUT_OF_RANGE).with_information(lba));
    }
    let length = alloc_bytes.min(BYTES_MAX as u32).min(lu.buffer_bytes_max);
    Ok(Plan { data: Data::In, lba, length, ..Plan::NOTHING })
}

pub(super) fn start(cx: &mut TaskCx<'_>) -> Step {
    cx.cold.steps = Steps::Extents(Vec::new());
    ask(cx, cx.task.lba)
}

fn ask(cx: &mut TaskCx<'_>, lba: u64) -> Step {
    let blocks = left_from(cx, lba);
    if blocks == 0 {
        return Step::Done(report(cx));
    }
    cx.submit(0, Op::Extent, IoFlags::NONE, lba, blocks);
    Step::Wait
}

fn left_from(cx: &TaskCx<'_>, lba: u64) -> u32 {
    u32::try_from(cx.lu.info.blocks.saturating_sub(lba)).unwrap_or(u32::MAX)
}

pub(super) fn resume(cx: &mut TaskCx<'_>, result: IoResult) -> Step {
    let Steps::Extents(extents) = &cx.cold.steps else { unreachable!("extents are being collected") };
    let lba = extents.last().map_or(cx.task.lba, |e| e.lba + u64::from(e.blocks));
    let left = left_from(cx, lba).max(1);
    let (provisioning, blocks) = match result {
        IoResult::Extent { state, blocks } => (status_of(state), blocks.clamp(1, left)),
        // A device that cannot tell keeps everything mapped, as far as anybody can see.
        IoResult::Ok | IoResult::Err(BlockError::Unsupported) => (ProvisioningStatus::Mapped, left),
        IoResult::Err(error) => return fail(cx, error),
    };
    let Steps::Extents(extents) = &mut cx.cold.steps else { unreachable!("looked at above") };
    match extents.last_mut() {
        Some(last) if last.provisioning == provisioning && last.blocks.checked_add(blocks).is_some() => {
            last.blocks += blocks;
        }
        _ => extents.push(LbaStatus { lba, blocks, provisioning }),
    }
    let (next, found) = (lba + u64::from(blocks), extents.len());
    let room = (cx.task.length as usize).saturating_sub(HEADER_BYTES) / DESCRIPTOR_BYTES;
    if found >= room.clamp(1, LBA_STATUS_MAX) || next >= cx.lu.info.blocks {
        return Step::Done(report(cx));
    }
    ask(cx, next)
}

fn status_of(state: Provisioning) -> ProvisioningStatus {
    match state {
        Provisioning::Mapped => ProvisioningStatus::Mapped,
        Provisioning::Deallocated => ProvisioningStatus::Deallocated,
        Provisioning::Anchored => ProvisioningStatus::Anchored,
    }
}

fn report(cx: &mut TaskCx<'_>) -> Verdict {
    let Steps::Extents(extents) = std::mem::take(&mut cx.cold.steps) else {
        unreachable!("extents were collected")
    };
    let mut room = [0; BYTES_MAX];
    let mut out = Emit::new(&mut room);
    emit_lba_status(extents, &mut out);
    let bytes = (out.written() as u32).min(cx.task.length);
    if let Some(buf) = &mut cx.task.buf {
        let n = bytes.min(buf.capacity());
        buf.set_len(n);
        buf.copy_from(0, &room[..n as usize]);
    }
    Verdict::Data(bytes)
}
