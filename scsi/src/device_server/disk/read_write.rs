//! READ and WRITE: what everything else is measured by (SBC-4 §5.12 and §5.36 and those that follow them).

use spindle_bdev::IoFlags;
use spindle_scsi_spec::Sense;
use spindle_scsi_spec::cdb::{Family, Read, Write};

use super::{Data, Fit, Plan, bytes, in_range, within_transfer_max, writable};
use crate::lu::LuShard;

#[inline]
pub(super) fn plan_read(cdb: &[u8], lu: &LuShard) -> Result<Plan, Sense> {
    let (family, lba, blocks, flags) = match usual(cdb) {
        Some(usual) => usual,
        None => {
            let Read { family, lba, blocks, dpo, fua, .. } = Read::parse(cdb)?;
            (family, lba, blocks, flags(dpo, fua))
        }
    };
    in_range(lba, blocks.into(), lu)?;
    within_transfer_max(blocks, family, lu)?;
    let length = bytes(blocks, lu);
    Ok(Plan { data: Data::In, lba, blocks, length, io_flags: flags, ..Plan::NOTHING })
}

#[inline]
pub(super) fn plan_write(cdb: &[u8], lu: &LuShard, read_only: bool) -> Result<Plan, Sense> {
    let (family, lba, blocks, io_flags) = match usual(cdb) {
        Some(usual) => usual,
        None => {
            let Write { family, lba, blocks, dpo, fua, .. } = Write::parse(cdb)?;
            (family, lba, blocks, flags(dpo, fua))
        }
    };
    writable(lu, read_only)?;
    in_range(lba, blocks.into(), lu)?;
    within_transfer_max(blocks, family, lu)?;
    let length = bytes(blocks, lu);
    Ok(Plan { data: Data::Out, lba, blocks, length, io_flags, fit: Fit::Blocks, ..Plan::NOTHING })
}

/// The two families that nearly all initiators use, read in line; the usage map has been checked.
#[inline]
fn usual(cdb: &[u8]) -> Option<(Family, u64, u32, IoFlags)> {
    let cdb = cdb.first_chunk::<16>()?;
    let flags = flags(cdb[1] & 0x10 != 0, cdb[1] & 0x08 != 0);
    let [_, _, a, b, c, d, e, f, g, h, i, j, k, l, ..] = *cdb;
    match cdb[0] >> 5 {
        1 => {
            let blocks = u16::from_be_bytes([cdb[7], cdb[8]]);
            Some((Family::Ten, u32::from_be_bytes([a, b, c, d]).into(), blocks.into(), flags))
        }
        4 => {
            let lba = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            Some((Family::Sixteen, lba, u32::from_be_bytes([i, j, k, l]), flags))
        }
        _ => None,
    }
}

#[inline]
pub(super) fn flags(dpo: bool, fua: bool) -> IoFlags {
    let dpo = if dpo { IoFlags::DPO } else { IoFlags::NONE };
    if fua { dpo.with(IoFlags::FUA) } else { dpo }
}
