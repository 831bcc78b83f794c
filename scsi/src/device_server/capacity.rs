//! READ CAPACITY(10) and (16) (SBC-3 §5.16, §5.17).

use spindle_bdev::BdevInfo;
use spindle_scsi_spec::capacity::{Capacity10, Capacity16};
use spindle_scsi_spec::cdb::{ReadCapacity10, ReadCapacity16};
use spindle_scsi_spec::{Asc, Emit, FieldError, Sense, SenseKey};

use super::LuView;

/// READ CAPACITY(10). It has no ALLOCATION LENGTH: all 8 bytes are sent.
pub fn read_capacity_10(cdb: &[u8], view: &LuView<'_>, out: &mut Emit<'_>) -> Result<u32, Sense> {
    let cdb = ReadCapacity10::parse(cdb)?;
    no_lba_without_pmi(cdb.lba.into(), cdb.pmi)?;
    let capacity = capacity(view.info, cdb.lba.into())?.to_10();
    // SBC-3 §5.16.2: what 32 bits cannot say, READ CAPACITY(16) says. FFFFFFFFh itself counts as too large.
    Capacity10 { last_lba: capacity.last_lba, ..capacity }.emit(out);
    Ok(8)
}

/// READ CAPACITY(16).
pub fn read_capacity_16(cdb: &[u8], view: &LuView<'_>, out: &mut Emit<'_>) -> Result<u32, Sense> {
    let cdb = ReadCapacity16::parse(cdb)?;
    no_lba_without_pmi(cdb.lba, cdb.pmi)?;
    capacity(view.info, cdb.lba)?.emit(out);
    Ok(cdb.alloc_bytes)
}

/// SBC-2 §5.10: an LBA asks where delay begins after it, which goes with PMI only. With PMI the answer is the
/// last block, since no delay can be told, if the LBA is on the disk.
fn no_lba_without_pmi(lba: u64, pmi: bool) -> Result<(), Sense> {
    if lba != 0 && !pmi { Err(Sense::invalid_field_in_cdb(FieldError::byte(2))) } else { Ok(()) }
}

fn capacity(info: &BdevInfo, lba: u64) -> Result<Capacity16, Sense> {
    // A disk of no blocks (a file of no length) has no last one.
    let Some(last_lba) = info.blocks.checked_sub(1) else {
        return Err(Sense::new(SenseKey::NotReady, Asc::MEDIUM_NOT_PRESENT));
    };
    if lba > last_lba {
        return Err(Sense::illegal_request(Asc::LBA_OUT_OF_RANGE));
    }
    Ok(Capacity16 {
        last_lba,
        block_bytes: info.block_bytes,
        physical_exponent: info.physical_exponent,
        lbpme: info.unmap,
        lbprz: info.unmap && info.unmap_zeroes,
        lowest_aligned_lba: info.lowest_aligned,
        ..Capacity16::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Owner, describing, disk};
    use super::*;

    const TEN: [u8; 10] = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn sixteen(alloc: u8) -> [u8; 16] {
        [0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, alloc, 0, 0]
    }

    #[test]
    fn both_forms_tell_last_block_and_block_length() {
        let owner = describing();
        assert_eq!(owner.all(read_capacity_10, &TEN), [0x00, 0x1F, 0xFF, 0xFF, 0, 0, 2, 0]);
        let bytes = owner.all(read_capacity_16, &sixteen(32));
        assert_eq!(bytes[..16], [0, 0, 0, 0, 0x00, 0x1F, 0xFF, 0xFF, 0, 0, 2, 0, 0x00, 0x03, 0xC0, 0x00]);
        assert_eq!(bytes[16..], [0; 16]);
    }

    #[test]
    fn the_limit_of_32_bits_sends_to_the_longer_form() {
        for (blocks, said) in
            [(1 << 32, u32::MAX), ((1 << 32) - 1, u32::MAX - 1), (1 << 40, u32::MAX), (1, 0)]
        {
            let owner = Owner::of(BdevInfo { blocks, ..disk() });
            assert_eq!(owner.all(read_capacity_10, &TEN)[..4], said.to_be_bytes(), "{blocks} blocks");
            assert_eq!(owner.all(read_capacity_16, &sixteen(32))[..8], (blocks - 1).to_be_bytes());
        }
    }

    #[test]
    fn any_allocation_length_is_good() {
        // libiscsi's ReadCapacity16.Alloclen
        let owner = describing();
        for alloc in 0..=32 {
            assert_eq!(owner.ask(read_capacity_16, &sixteen(alloc)).unwrap().0.len(), usize::from(alloc));
        }
        assert_eq!(owner.ask(read_capacity_16, &sixteen(255)).unwrap().0.len(), 32);
    }

    #[test]
    fn an_lba_goes_with_pmi_and_only_on_the_disk() {
        let owner = describing();
        let mut cdb = TEN;
        cdb[5] = 1;
        assert_eq!(owner.ask(read_capacity_10, &cdb), Err(Sense::invalid_field_in_cdb(FieldError::byte(2))));
        cdb[8] = 1;
        assert_eq!(owner.all(read_capacity_10, &cdb)[..4], [0x00, 0x1F, 0xFF, 0xFF]);
        cdb[2] = 1;
        assert_eq!(owner.ask(read_capacity_10, &cdb), Err(Sense::illegal_request(Asc::LBA_OUT_OF_RANGE)));
    }

    #[test]
    fn a_disk_of_no_blocks_is_not_ready() {
        let owner = Owner::of(BdevInfo { blocks: 0, ..disk() });
        let none = Err(Sense::not_ready(Asc::MEDIUM_NOT_PRESENT));
        assert_eq!(owner.ask(read_capacity_10, &TEN), none);
        assert_eq!(owner.ask(read_capacity_16, &sixteen(32)), none);
    }

    #[test]
    fn a_thick_disk_is_not_managed() {
        let owner = Owner::of(BdevInfo { unmap: false, unmap_zeroes: true, lowest_aligned: 7, ..disk() });
        assert_eq!(owner.all(read_capacity_16, &sixteen(32))[12..16], [0, 3, 0, 7]);
    }
}
