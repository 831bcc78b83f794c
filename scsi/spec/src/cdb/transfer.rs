//! Commands that move blocks: READ, WRITE, VERIFY, WRITE AND VERIFY in all their lengths, and the 16-byte
//! relatives (SBC-4 §5).

use super::{CdbBytes, expect, whole};
use crate::{FieldError, be, emit::flag, opcode, opcode::variable_length as sa};

/// Which member of a command family: READ(6), READ(10), ...
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// 21-bit LBA, 1 to 256 blocks.
    Six,
    /// 32-bit LBA, 16-bit count.
    Ten,
    /// 32-bit LBA, 32-bit count.
    Twelve,
    /// 64-bit LBA, 32-bit count.
    Sixteen,
    /// Variable length CDB: the same with the tags of type 2 protection.
    ThirtyTwo,
}

impl Family {
    /// The shortest of 10 and 16 bytes that can hold this extent: what common initiators send.
    pub fn for_extent(lba: u64, blocks: u32) -> Family {
        if u32::try_from(lba).is_ok() && blocks <= 0xFFFF { Family::Ten } else { Family::Sixteen }
    }
}

/// What a 32-byte CDB says of protection information (SBC-4 §5.19).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ProtectionTags {
    /// EXPECTED INITIAL LOGICAL BLOCK REFERENCE TAG.
    pub reference: u32,
    /// EXPECTED LOGICAL BLOCK APPLICATION TAG.
    pub application: u16,
    /// LOGICAL BLOCK APPLICATION TAG MASK.
    pub application_mask: u16,
}

/// BYTCHK: what VERIFY compares the medium with (SBC-4 §5.36).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Bytchk {
    /// 00b: nothing; no Data-Out.
    #[default]
    MediumOnly = 0,
    /// 01b: as many blocks of Data-Out as are verified.
    Compare = 1,
    /// 11b: one block of Data-Out, against each block.
    CompareOneBlock = 3,
}

impl Bytchk {
    fn from_bits(byte: u8, at: u16) -> Result<Bytchk, FieldError> {
        match byte >> 1 & 3 {
            0 => Ok(Bytchk::MediumOnly),
            1 => Ok(Bytchk::Compare),
            3 => Ok(Bytchk::CompareOneBlock),
            _ => Err(FieldError::bit(at, 2)), // 10b is reserved
        }
    }
}

/// READ(6), (10), (12), (16), (32).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Read {
    /// Which of them.
    pub family: Family,
    /// First block.
    pub lba: u64,
    /// TRANSFER LENGTH; the zero of READ(6) is 256 here.
    pub blocks: u32,
    /// RDPROTECT, 3 bits.
    pub rdprotect: u8,
    /// Disable page out.
    pub dpo: bool,
    /// Force unit access.
    pub fua: bool,
    /// Rebuild assist recovery control.
    pub rarc: bool,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
    /// Of READ(32) only.
    pub tags: Option<ProtectionTags>,
}

/// WRITE(6), (10), (12), (16), (32).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Write {
    /// Which of them.
    pub family: Family,
    /// First block.
    pub lba: u64,
    /// TRANSFER LENGTH; the zero of WRITE(6) is 256 here.
    pub blocks: u32,
    /// WRPROTECT, 3 bits.
    pub wrprotect: u8,
    /// Disable page out.
    pub dpo: bool,
    /// Force unit access.
    pub fua: bool,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
    /// Of WRITE(32) only.
    pub tags: Option<ProtectionTags>,
}

/// VERIFY(10), (12), (16), (32).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Verify {
    /// Which of them.
    pub family: Family,
    /// First block.
    pub lba: u64,
    /// VERIFICATION LENGTH.
    pub blocks: u32,
    /// VRPROTECT, 3 bits.
    pub vrprotect: u8,
    /// Disable page out.
    pub dpo: bool,
    /// What to compare with.
    pub bytchk: Bytchk,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
    /// Of VERIFY(32) only.
    pub tags: Option<ProtectionTags>,
}

/// WRITE AND VERIFY(10), (12), (16), (32).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WriteAndVerify {
    /// Which of them.
    pub family: Family,
    /// First block.
    pub lba: u64,
    /// TRANSFER LENGTH.
    pub blocks: u32,
    /// WRPROTECT, 3 bits.
    pub wrprotect: u8,
    /// Disable page out.
    pub dpo: bool,
    /// Whether the written blocks are compared with the Data-Out; `CompareOneBlock` is VERIFY's alone.
    pub bytchk: Bytchk,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
    /// Of WRITE AND VERIFY(32) only.
    pub tags: Option<ProtectionTags>,
}

/// COMPARE AND WRITE: twice `blocks` of Data-Out, to compare and to write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CompareAndWrite {
    /// First block.
    pub lba: u64,
    /// NUMBER OF LOGICAL BLOCKS.
    pub blocks: u8,
    /// WRPROTECT, 3 bits.
    pub wrprotect: u8,
    /// Disable page out.
    pub dpo: bool,
    /// Force unit access.
    pub fua: bool,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
}

/// ORWRITE(16).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OrWrite {
    /// First block.
    pub lba: u64,
    /// TRANSFER LENGTH.
    pub blocks: u32,
    /// ORPROTECT, 3 bits.
    pub orprotect: u8,
    /// Disable page out.
    pub dpo: bool,
    /// Force unit access.
    pub fua: bool,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
}

/// WRITE ATOMIC(16).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WriteAtomic {
    /// First block.
    pub lba: u64,
    /// TRANSFER LENGTH.
    pub blocks: u16,
    /// ATOMIC BOUNDARY: zero, or the size of each atomic piece.
    pub boundary: u16,
    /// WRPROTECT, 3 bits.
    pub wrprotect: u8,
    /// Disable page out.
    pub dpo: bool,
    /// Force unit access.
    pub fua: bool,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
}

/// The opcodes of a family, 7Fh by its service action.
struct Opcodes {
    six: Option<u8>,
    ten: u8,
    twelve: u8,
    sixteen: u8,
    action: u16,
}

const READ: Opcodes = Opcodes {
    six: Some(opcode::READ_6),
    ten: opcode::READ_10,
    twelve: opcode::READ_12,
    sixteen: opcode::READ_16,
    action: sa::READ_32,
};
const WRITE: Opcodes = Opcodes {
    six: Some(opcode::WRITE_6),
    ten: opcode::WRITE_10,
    twelve: opcode::WRITE_12,
    sixteen: opcode::WRITE_16,
    action: sa::WRITE_32,
};
const VERIFY: Opcodes = Opcodes {
    six: None,
    ten: opcode::VERIFY_10,
    twelve: opcode::VERIFY_12,
    sixteen: opcode::VERIFY_16,
    action: sa::VERIFY_32,
};
const WRITE_AND_VERIFY: Opcodes = Opcodes {
    six: None,
    ten: opcode::WRITE_AND_VERIFY_10,
    twelve: opcode::WRITE_AND_VERIFY_12,
    sixteen: opcode::WRITE_AND_VERIFY_16,
    action: sa::WRITE_AND_VERIFY_32,
};

/// What the members of a family share; only the places differ.
struct Parts {
    family: Family,
    lba: u64,
    blocks: u32,
    group: u8,
    /// The byte with PROTECT, DPO, FUA and BYTCHK, and where it stands.
    flags: u8,
    flags_at: u16,
    tags: Option<ProtectionTags>,
}

impl Parts {
    #[inline]
    fn parse(cdb: &[u8], ops: &Opcodes) -> Result<Parts, FieldError> {
        let op = cdb.first().copied().ok_or(FieldError::byte(0))?;
        let mut parts = if op == ops.ten {
            whole(cdb, 10)?;
            let (lba, blocks) = (be::u32(cdb, 2).into(), be::u16(cdb, 7).into());
            Parts { lba, blocks, group: cdb[6], ..Parts::new(Family::Ten, cdb[1]) }
        } else if op == ops.sixteen {
            whole(cdb, 16)?;
            let (lba, blocks) = (be::u64(cdb, 2), be::u32(cdb, 10));
            Parts { lba, blocks, group: cdb[14], ..Parts::new(Family::Sixteen, cdb[1]) }
        } else if op == ops.twelve {
            whole(cdb, 12)?;
            let (lba, blocks) = (be::u32(cdb, 2).into(), be::u32(cdb, 6));
            Parts { lba, blocks, group: cdb[10], ..Parts::new(Family::Twelve, cdb[1]) }
        } else if Some(op) == ops.six {
            whole(cdb, 6)?;
            let lba = u64::from(be::u24(cdb, 1) & 0x1F_FFFF);
            // SBC-3, READ(6): a TRANSFER LENGTH of zero is 256 blocks, in the 6-byte forms only.
            let blocks = if cdb[4] == 0 { 256 } else { cdb[4].into() };
            Parts { lba, blocks, ..Parts::new(Family::Six, 0) }
        } else if op == opcode::VARIABLE_LENGTH {
            Parts::parse_32(cdb, ops.action)?
        } else {
            return Err(FieldError::byte(0));
        };
        parts.group &= 0x3F;
        Ok(parts)
    }

    fn parse_32(cdb: &[u8], action: u16) -> Result<Parts, FieldError> {
        whole(cdb, 10)?;
        if be::u16(cdb, 8) != action {
            return Err(FieldError::byte(8));
        }
        if cdb[7] != 32 - 8 {
            return Err(FieldError::byte(7));
        }
        whole(cdb, 32)?;
        let tags = ProtectionTags {
            reference: be::u32(cdb, 20),
            application: be::u16(cdb, 24),
            application_mask: be::u16(cdb, 26),
        };
        Ok(Parts {
            lba: be::u64(cdb, 12),
            blocks: be::u32(cdb, 28),
            group: cdb[6],
            flags_at: 10,
            tags: Some(tags),
            ..Parts::new(Family::ThirtyTwo, cdb[10])
        })
    }

    fn new(family: Family, flags: u8) -> Parts {
        Parts { family, lba: 0, blocks: 0, group: 0, flags, flags_at: 1, tags: None }
    }

    fn emit(&self, ops: &Opcodes) -> CdbBytes {
        match self.family {
            Family::Six => {
                // A family without a 6-byte form is written in ten.
                let Some(op) = ops.six else { return Parts { family: Family::Ten, ..*self }.emit(ops) };
                let mut cdb = CdbBytes::new(op);
                let [_, a, b, c] = (self.lba as u32 & 0x1F_FFFF).to_be_bytes();
                cdb.put(1, [a, b, c, self.blocks as u8]);
                cdb
            }
            Family::Ten => {
                let mut cdb = CdbBytes::new(ops.ten);
                cdb.put(1, [self.flags]);
                cdb.put(2, (self.lba as u32).to_be_bytes());
                cdb.put(6, [self.group & 0x3F]);
                cdb.put(7, (self.blocks as u16).to_be_bytes());
                cdb
            }
            Family::Twelve => {
                let mut cdb = CdbBytes::new(ops.twelve);
                cdb.put(1, [self.flags]);
                cdb.put(2, (self.lba as u32).to_be_bytes());
                cdb.put(6, self.blocks.to_be_bytes());
                cdb.put(10, [self.group & 0x3F]);
                cdb
            }
            Family::Sixteen => {
                let mut cdb = CdbBytes::new(ops.sixteen);
                cdb.put(1, [self.flags]);
                cdb.put(2, self.lba.to_be_bytes());
                cdb.put(10, self.blocks.to_be_bytes());
                cdb.put(14, [self.group & 0x3F]);
                cdb
            }
            Family::ThirtyTwo => {
                let tags = self.tags.unwrap_or_default();
                let mut cdb = CdbBytes::new(opcode::VARIABLE_LENGTH);
                cdb.put(6, [self.group & 0x3F, 32 - 8]);
                cdb.put(8, ops.action.to_be_bytes());
                cdb.put(10, [self.flags]);
                cdb.put(12, self.lba.to_be_bytes());
                cdb.put(20, tags.reference.to_be_bytes());
                cdb.put(24, tags.application.to_be_bytes());
                cdb.put(26, tags.application_mask.to_be_bytes());
                cdb.put(28, self.blocks.to_be_bytes());
                cdb
            }
        }
    }
}

impl Read {
    /// From a CDB of the family.
    #[inline]
    pub fn parse(cdb: &[u8]) -> Result<Read, FieldError> {
        let Parts { family, lba, blocks, group, flags, tags, .. } = Parts::parse(cdb, &READ)?;
        let (dpo, fua, rarc) = (flags & 0x10 != 0, flags & 0x08 != 0, flags & 0x04 != 0);
        Ok(Read { family, lba, blocks, rdprotect: flags >> 5, dpo, fua, rarc, group, tags })
    }

    /// As a CDB of the family.
    pub fn emit(&self) -> CdbBytes {
        let Read { family, lba, blocks, rdprotect, dpo, fua, rarc, group, tags } = *self;
        let flags = rdprotect << 5 | flag(dpo, 4) | flag(fua, 3) | flag(rarc, 2);
        Parts { family, lba, blocks, group, flags, flags_at: 0, tags }.emit(&READ)
    }

    /// A plain READ of `blocks` from `lba`.
    pub fn new(family: Family, lba: u64, blocks: u32) -> Read {
        let (rdprotect, group, tags) = (0, 0, None);
        Read { family, lba, blocks, rdprotect, dpo: false, fua: false, rarc: false, group, tags }
    }
}

impl Write {
    /// From a CDB of the family.
    #[inline]
    pub fn parse(cdb: &[u8]) -> Result<Write, FieldError> {
        let Parts { family, lba, blocks, group, flags, tags, .. } = Parts::parse(cdb, &WRITE)?;
        let (dpo, fua) = (flags & 0x10 != 0, flags & 0x08 != 0);
        Ok(Write { family, lba, blocks, wrprotect: flags >> 5, dpo, fua, group, tags })
    }

    /// As a CDB of the family.
    pub fn emit(&self) -> CdbBytes {
        let Write { family, lba, blocks, wrprotect, dpo, fua, group, tags } = *self;
        let flags = wrprotect << 5 | flag(dpo, 4) | flag(fua, 3);
        Parts { family, lba, blocks, group, flags, flags_at: 0, tags }.emit(&WRITE)
    }

    /// A plain WRITE of `blocks` from `lba`.
    pub fn new(family: Family, lba: u64, blocks: u32) -> Write {
        Write { family, lba, blocks, wrprotect: 0, dpo: false, fua: false, group: 0, tags: None }
    }
}

impl Verify {
    /// From a CDB of the family.
    pub fn parse(cdb: &[u8]) -> Result<Verify, FieldError> {
        let Parts { family, lba, blocks, group, flags, flags_at, tags } = Parts::parse(cdb, &VERIFY)?;
        let (dpo, bytchk) = (flags & 0x10 != 0, Bytchk::from_bits(flags, flags_at)?);
        Ok(Verify { family, lba, blocks, vrprotect: flags >> 5, dpo, bytchk, group, tags })
    }

    /// As a CDB of the family; there is no VERIFY(6).
    pub fn emit(&self) -> CdbBytes {
        let Verify { family, lba, blocks, vrprotect, dpo, bytchk, group, tags } = *self;
        let flags = vrprotect << 5 | flag(dpo, 4) | (bytchk as u8) << 1;
        Parts { family, lba, blocks, group, flags, flags_at: 0, tags }.emit(&VERIFY)
    }
}

impl WriteAndVerify {
    /// From a CDB of the family.
    pub fn parse(cdb: &[u8]) -> Result<WriteAndVerify, FieldError> {
        let Parts { family, lba, blocks, group, flags, flags_at, tags } =
            Parts::parse(cdb, &WRITE_AND_VERIFY)?;
        let (dpo, bytchk) = (flags & 0x10 != 0, Bytchk::from_bits(flags, flags_at)?);
        if bytchk == Bytchk::CompareOneBlock {
            return Err(FieldError::bit(flags_at, 2)); // SBC-4 §5.44: 11b is reserved here
        }
        Ok(WriteAndVerify { family, lba, blocks, wrprotect: flags >> 5, dpo, bytchk, group, tags })
    }

    /// As a CDB of the family; there is no WRITE AND VERIFY(6).
    pub fn emit(&self) -> CdbBytes {
        let WriteAndVerify { family, lba, blocks, wrprotect, dpo, bytchk, group, tags } = *self;
        let flags = wrprotect << 5 | flag(dpo, 4) | (bytchk as u8) << 1;
        Parts { family, lba, blocks, group, flags, flags_at: 0, tags }.emit(&WRITE_AND_VERIFY)
    }
}

impl CompareAndWrite {
    /// From a COMPARE AND WRITE CDB.
    pub fn parse(cdb: &[u8]) -> Result<CompareAndWrite, FieldError> {
        expect(cdb, opcode::COMPARE_AND_WRITE)?;
        Ok(CompareAndWrite {
            lba: be::u64(cdb, 2),
            blocks: cdb[13],
            wrprotect: cdb[1] >> 5,
            dpo: be::bit(cdb, 1, 4),
            fua: be::bit(cdb, 1, 3),
            group: cdb[14] & 0x3F,
        })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(opcode::COMPARE_AND_WRITE);
        cdb.put(1, [self.wrprotect << 5 | flag(self.dpo, 4) | flag(self.fua, 3)]);
        cdb.put(2, self.lba.to_be_bytes());
        cdb.put(13, [self.blocks, self.group & 0x3F]);
        cdb
    }
}

impl OrWrite {
    /// From an ORWRITE(16) CDB.
    pub fn parse(cdb: &[u8]) -> Result<OrWrite, FieldError> {
        expect(cdb, opcode::ORWRITE_16)?;
        Ok(OrWrite {
            lba: be::u64(cdb, 2),
            blocks: be::u32(cdb, 10),
            orprotect: cdb[1] >> 5,
            dpo: be::bit(cdb, 1, 4),
            fua: be::bit(cdb, 1, 3),
            group: cdb[14] & 0x3F,
        })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(opcode::ORWRITE_16);
        cdb.put(1, [self.orprotect << 5 | flag(self.dpo, 4) | flag(self.fua, 3)]);
        cdb.put(2, self.lba.to_be_bytes());
        cdb.put(10, self.blocks.to_be_bytes());
        cdb.put(14, [self.group & 0x3F]);
        cdb
    }
}

impl WriteAtomic {
    /// From a WRITE ATOMIC(16) CDB.
    pub fn parse(cdb: &[u8]) -> Result<WriteAtomic, FieldError> {
        expect(cdb, opcode::WRITE_ATOMIC_16)?;
        Ok(WriteAtomic {
            lba: be::u64(cdb, 2),
            boundary: be::u16(cdb, 10),
            blocks: be::u16(cdb, 12),
            wrprotect: cdb[1] >> 5,
            dpo: be::bit(cdb, 1, 4),
            fua: be::bit(cdb, 1, 3),
            group: cdb[14] & 0x3F,
        })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(opcode::WRITE_ATOMIC_16);
        cdb.put(1, [self.wrprotect << 5 | flag(self.dpo, 4) | flag(self.fua, 3)]);
        cdb.put(2, self.lba.to_be_bytes());
        cdb.put(10, self.boundary.to_be_bytes());
        cdb.put(12, self.blocks.to_be_bytes());
        cdb.put(14, [self.group & 0x3F]);
        cdb
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn read_10_as_linux_sends_it() {
        let cdb = [0x28, 0x08, 0x00, 0x12, 0x34, 0x56, 0x00, 0x01, 0x00, 0x00];
        let read = Read { fua: true, ..Read::new(Family::Ten, 0x12_3456, 256) };
        assert_eq!(Read::parse(&cdb), Ok(read));
        assert_eq!(*read.emit(), cdb);
    }

    #[test]
    fn length_zero_is_256_blocks_in_six_bytes_and_none_in_ten() {
        assert_eq!(Read::parse(&[0x08, 0xFF, 2, 3, 0, 0]), Ok(Read::new(Family::Six, 0x1F_0203, 256)));
        assert_eq!(Write::parse(&[0x0A, 0, 0, 1, 0, 0]), Ok(Write::new(Family::Six, 1, 256)));
        assert_eq!(*Write::new(Family::Six, 1, 256).emit(), [0x0A, 0, 0, 1, 0, 0]);
        assert_eq!(Write::parse(&[0x2A, 0, 0, 0, 0, 1, 0, 0, 0, 0]).unwrap().blocks, 0);
    }

    #[test]
    fn the_reserved_bytchk_is_named_by_its_left_most_bit() {
        assert_eq!(Verify::parse(&[0x2F, 0x04, 0, 0, 0, 0, 0, 0, 1, 0]), Err(FieldError::bit(1, 2)));
        assert_eq!(WriteAndVerify::parse(&[0x2E, 0x04, 0, 0, 0, 0, 0, 0, 1, 0]), Err(FieldError::bit(1, 2)));
        assert_eq!(WriteAndVerify::parse(&[0x2E, 0x06, 0, 0, 0, 0, 0, 0, 1, 0]), Err(FieldError::bit(1, 2)));
        let one = Verify::parse(&[0x2F, 0x26, 0, 0, 0, 0, 0, 0, 1, 0]).unwrap();
        assert_eq!((one.bytchk, one.vrprotect), (Bytchk::CompareOneBlock, 1));
    }

    #[test]
    fn a_32_byte_cdb_carries_the_tags() {
        let mut cdb = [0; 32];
        cdb[..12].copy_from_slice(&[0x7F, 0, 0, 0, 0, 0, 0, 0x18, 0, 0x0B, 0x28, 0]);
        cdb[12..].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 4, 0xFF, 0xFF, 0, 0, 0, 8]);
        let w = Write::parse(&cdb).unwrap();
        assert_eq!((w.lba, w.blocks, w.wrprotect, w.fua), (0x1_0000_0002, 8, 1, true));
        assert_eq!(
            w.tags.unwrap(),
            ProtectionTags { reference: 3, application: 4, application_mask: 0xFFFF }
        );
        assert_eq!(*w.emit(), cdb);
        assert_eq!(Read::parse(&cdb), Err(FieldError::byte(8)));
        cdb[7] = 0x10;
        assert_eq!(Write::parse(&cdb), Err(FieldError::byte(7)));
    }

    #[test]
    fn compare_and_write_counts_blocks_in_byte_13() {
        let cdb = [0x89, 0x08, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0];
        let caw = CompareAndWrite { lba: 9, blocks: 1, wrprotect: 0, dpo: false, fua: true, group: 0 };
        assert_eq!(CompareAndWrite::parse(&cdb), Ok(caw));
        assert_eq!(*caw.emit(), cdb);
    }

    #[test]
    fn a_short_or_foreign_cdb_is_refused() {
        assert_eq!(Read::parse(&[0x28, 0, 0]), Err(FieldError::byte(3)));
        assert_eq!(Read::parse(&[]), Err(FieldError::byte(0)));
        assert_eq!(Read::parse(&[0x2A; 10]), Err(FieldError::byte(0)));
        assert_eq!(Verify::parse(&[0x08; 16]), Err(FieldError::byte(0)));
    }

    fn extent() -> impl Strategy<Value = (Family, u64, u32, Option<ProtectionTags>)> {
        let tags = any::<(u32, u16, u16)>().prop_map(|(reference, application, application_mask)| {
            Some(ProtectionTags { reference, application, application_mask })
        });
        prop_oneof![
            (0..1u64 << 21, 1..=256u32).prop_map(|(l, b)| (Family::Six, l, b, None)),
            any::<(u32, u16)>().prop_map(|(l, b)| (Family::Ten, l.into(), b.into(), None)),
            any::<(u32, u32)>().prop_map(|(l, b)| (Family::Twelve, l.into(), b, None)),
            any::<(u64, u32)>().prop_map(|(l, b)| (Family::Sixteen, l, b, None)),
            (any::<(u64, u32)>(), tags).prop_map(|((l, b), t)| (Family::ThirtyTwo, l, b, t)),
        ]
    }

    proptest! {
        #[test]
        fn reads_and_writes_survive_the_wire(
            (family, lba, blocks, tags) in extent(), p in 0u8..8, g in 0u8..64, f: [bool; 3]
        ) {
            let [dpo, fua, rarc] = f;
            // Six bytes have no place for flags.
            let (p, g, dpo, fua, rarc) =
                if family == Family::Six { (0, 0, false, false, false) } else { (p, g, dpo, fua, rarc) };
            let r = Read { family, lba, blocks, rdprotect: p, dpo, fua, rarc, group: g, tags };
            prop_assert_eq!(Read::parse(&r.emit()), Ok(r));
            let w = Write { family, lba, blocks, wrprotect: p, dpo, fua, group: g, tags };
            prop_assert_eq!(Write::parse(&w.emit()), Ok(w));
        }

        #[test]
        fn verifies_survive_the_wire(
            (family, lba, blocks, tags) in extent(), p in 0u8..8, group in 0u8..64, dpo: bool, b in 0usize..3
        ) {
            let family = if family == Family::Six { Family::Ten } else { family }; // there is no VERIFY(6)
            let bytchk = [Bytchk::MediumOnly, Bytchk::Compare, Bytchk::CompareOneBlock][b];
            let v = Verify { family, lba, blocks, vrprotect: p, dpo, bytchk, group, tags };
            prop_assert_eq!(Verify::parse(&v.emit()), Ok(v));
            let bytchk = if b == 2 { Bytchk::Compare } else { bytchk };
            let w = WriteAndVerify { family, lba, blocks, wrprotect: p, dpo, bytchk, group, tags };
            prop_assert_eq!(WriteAndVerify::parse(&w.emit()), Ok(w));
        }

        #[test]
        fn the_16_byte_relatives_survive_the_wire(
            lba: u64, blocks: u32, boundary: u16, p in 0u8..8, group in 0u8..64, dpo: bool, fua: bool
        ) {
            let c = CompareAndWrite { lba, blocks: blocks as u8, wrprotect: p, dpo, fua, group };
            prop_assert_eq!(CompareAndWrite::parse(&c.emit()), Ok(c));
            let o = OrWrite { lba, blocks, orprotect: p, dpo, fua, group };
            prop_assert_eq!(OrWrite::parse(&o.emit()), Ok(o));
            let a = WriteAtomic { lba, blocks: blocks as u16, boundary, wrprotect: p, dpo, fua, group };
            prop_assert_eq!(WriteAtomic::parse(&a.emit()), Ok(a));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            op in prop_oneof![Just(0x08u8), Just(0x28), Just(0xA8), Just(0x88), Just(0x7F), Just(0x89), any::<u8>()],
            mut cdb in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Some(first) = cdb.first_mut() {
                *first = op;
            }
            let _ = (Read::parse(&cdb), Write::parse(&cdb), Verify::parse(&cdb), WriteAndVerify::parse(&cdb));
            let _ = (CompareAndWrite::parse(&cdb), OrWrite::parse(&cdb), WriteAtomic::parse(&cdb));
        }
    }
}
