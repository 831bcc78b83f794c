//! READ and WRITE: what everything else is measured by (SBC-4 §5.12 and §5.36 and those that follow them).

use spindle_bdev::IoFlags;
use spindle_scsi_spec::Sense;
use spindle_scsi_spec::cdb::{Read, Write};

use super::{Data, Fit, Plan, bytes, in_range, within_transfer_max, writable};
use crate::lu::LuShard;

#[inline]
pub(super) fn plan_read(cdb: &[u8], lu: &LuShard) -> Result<Plan, Sense> {
    let Read { family, lba, blocks, dpo, fua, .. } = Read::parse(cdb)?;
    in_range(lba, blocks.into(), lu)?;
    within_transfer_max(blocks, family, lu)?;
    let length = bytes(blocks, lu);
    Ok(Plan { data: Data::In, lba, blocks, length, io_flags: flags(dpo, fua), ..Plan::NOTHING })
}

#[inline]
pub(super) fn plan_write(cdb: &[u8], lu: &LuShard, read_only: bool) -> Result<Plan, Sense> {
    let Write { family, lba, blocks, dpo, fua, .. } = Write::parse(cdb)?;
    writable(lu, read_only)?;
    in_range(lba, blocks.into(), lu)?;
    within_transfer_max(blocks, family, lu)?;
    let (length, io_flags) = (bytes(blocks, lu), flags(dpo, fua));
    Ok(Plan { data: Data::Out, lba, blocks, length, io_flags, fit: Fit::Blocks, ..Plan::NOTHING })
}

#[inline]
pub(super) fn flags(dpo: bool, fua: bool) -> IoFlags {
    let dpo = if dpo { IoFlags::DPO } else { IoFlags::NONE };
    if fua { dpo.with(IoFlags::FUA) } else { dpo }
}
