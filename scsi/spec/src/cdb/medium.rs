//! Commands about the medium that move no user data block by block: provisioning, cache, capacity, power
//! (SBC-4 §5).

use super::{CdbBytes, expect, expect_action, whole};
use crate::{FieldError, be, cdb::Family, cdb::ProtectionTags, emit::flag, opcode};

/// SYNCHRONIZE CACHE(10), (16).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SynchronizeCache {
    /// `Ten` or `Sixteen`.
    pub family: Family,
    /// First block.
    pub lba: u64,
    /// NUMBER OF LOGICAL BLOCKS; zero means up to the end.
    pub blocks: u32,
    /// Answer before it is done.
    pub immed: bool,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
}

impl SynchronizeCache {
    /// From a CDB of either length.
    pub fn parse(cdb: &[u8]) -> Result<SynchronizeCache, FieldError> {
        let (family, lba, blocks, group) =
            parse_range(cdb, opcode::SYNCHRONIZE_CACHE_10, opcode::SYNCHRONIZE_CACHE_16)?;
        Ok(SynchronizeCache { family, lba, blocks, immed: be::bit(cdb, 1, 1), group })
    }

    /// As a CDB; any family but `Ten` is written in 16 bytes.
    pub fn emit(&self) -> CdbBytes {
        let ops = (opcode::SYNCHRONIZE_CACHE_10, opcode::SYNCHRONIZE_CACHE_16);
        let mut cdb = emit_range(ops, self.family, self.lba, self.blocks, self.group);
        cdb.or(1, flag(self.immed, 1));
        cdb
    }
}

/// PRE-FETCH(10), (16).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PreFetch {
    /// `Ten` or `Sixteen`.
    pub family: Family,
    /// First block.
    pub lba: u64,
    /// PREFETCH LENGTH; zero means up to the end.
    pub blocks: u32,
    /// Answer before it is done.
    pub immed: bool,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
}

impl PreFetch {
    /// From a CDB of either length.
    pub fn parse(cdb: &[u8]) -> Result<PreFetch, FieldError> {
        let (family, lba, blocks, group) = parse_range(cdb, opcode::PRE_FETCH_10, opcode::PRE_FETCH_16)?;
        Ok(PreFetch { family, lba, blocks, immed: be::bit(cdb, 1, 1), group })
    }

    /// As a CDB; any family but `Ten` is written in 16 bytes.
    pub fn emit(&self) -> CdbBytes {
        let ops = (opcode::PRE_FETCH_10, opcode::PRE_FETCH_16);
        let mut cdb = emit_range(ops, self.family, self.lba, self.blocks, self.group);
        cdb.or(1, flag(self.immed, 1));
        cdb
    }
}

/// WRITE SAME(10), (16), (32): one block of Data-Out (none with NDOB), many blocks on the medium.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WriteSame {
    /// `Ten`, `Sixteen` or `ThirtyTwo`.
    pub family: Family,
    /// First block.
    pub lba: u64,
    /// NUMBER OF LOGICAL BLOCKS; zero means up to the end, unless WSNZ forbids it.
    pub blocks: u32,
    /// WRPROTECT, 3 bits.
    pub wrprotect: u8,
    /// Unmap to anchored rather than deallocated.
    pub anchor: bool,
    /// Unmapping will do, if blocks read as the data afterwards.
    pub unmap: bool,
    /// No data-out buffer: the data is zeros. Not of WRITE SAME(10).
    pub ndob: bool,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
    /// Of WRITE SAME(32) only.
    pub tags: Option<ProtectionTags>,
}

impl WriteSame {
    /// From a CDB of any of the lengths. The obsolete PBDATA and LBDATA would change every block written, so
    /// they are refused.
    pub fn parse(cdb: &[u8]) -> Result<WriteSame, FieldError> {
        let (family, lba, blocks, group, tags, at) = if cdb.first() == Some(&opcode::VARIABLE_LENGTH) {
            whole(cdb, 10)?;
            if be::u16(cdb, 8) != opcode::variable_length::WRITE_SAME_32 {
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
            (Family::ThirtyTwo, be::u64(cdb, 12), be::u32(cdb, 28), cdb[6] & 0x3F, Some(tags), 10)
        } else {
            let (family, lba, blocks, group) =
                parse_range(cdb, opcode::WRITE_SAME_10, opcode::WRITE_SAME_16)?;
            (family, lba, blocks, group, None, 1)
        };
        let flags = cdb[at];
        if let Some(bit) = [2, 1].into_iter().find(|bit| flags >> bit & 1 == 1) {
            return Err(FieldError::at(at, Some(bit)));
        }
        Ok(WriteSame {
            family,
            lba,
            blocks,
            wrprotect: flags >> 5,
            anchor: flags & 0x10 != 0,
            unmap: flags & 0x08 != 0,
            ndob: flags & 0x01 != 0 && family != Family::Ten,
            group,
            tags,
        })
    }

    /// As a CDB; families that do not exist are written in 16 bytes.
    pub fn emit(&self) -> CdbBytes {
        let ndob = self.ndob && self.family != Family::Ten;
        let flags = self.wrprotect << 5 | flag(self.anchor, 4) | flag(self.unmap, 3) | flag(ndob, 0);
        if self.family == Family::ThirtyTwo {
            let tags = self.tags.unwrap_or_default();
            let mut cdb = CdbBytes::new(opcode::VARIABLE_LENGTH);
            cdb.put(6, [self.group & 0x3F, 32 - 8]);
            cdb.put(8, opcode::variable_length::WRITE_SAME_32.to_be_bytes());
            cdb.put(10, [flags]);
            cdb.put(12, self.lba.to_be_bytes());
            cdb.put(20, tags.reference.to_be_bytes());
            cdb.put(24, tags.application.to_be_bytes());
            cdb.put(26, tags.application_mask.to_be_bytes());
            cdb.put(28, self.blocks.to_be_bytes());
            return cdb;
        }
        let ops = (opcode::WRITE_SAME_10, opcode::WRITE_SAME_16);
        let mut cdb = emit_range(ops, self.family, self.lba, self.blocks, self.group);
        cdb.or(1, flags);
        cdb
    }
}

/// UNMAP; the extents are in the parameter list ([`UnmapList`](crate::unmap::UnmapList)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Unmap {
    /// To anchored rather than deallocated.
    pub anchor: bool,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
    /// PARAMETER LIST LENGTH; zero unmaps nothing and is no error.
    pub list_bytes: u16,
}

impl Unmap {
    /// From an UNMAP CDB.
    pub fn parse(cdb: &[u8]) -> Result<Unmap, FieldError> {
        expect(cdb, opcode::UNMAP)?;
        Ok(Unmap { anchor: be::bit(cdb, 1, 0), group: cdb[6] & 0x3F, list_bytes: be::u16(cdb, 7) })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(opcode::UNMAP);
        cdb.or(1, flag(self.anchor, 0));
        cdb.put(6, [self.group & 0x3F]);
        cdb.put(7, self.list_bytes.to_be_bytes());
        cdb
    }
}

/// GET LBA STATUS(16).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GetLbaStatus {
    /// STARTING LOGICAL BLOCK ADDRESS.
    pub lba: u64,
    /// ALLOCATION LENGTH.
    pub alloc_bytes: u32,
    /// REPORT TYPE (SBC-4); zero is all.
    pub report_type: u8,
}

impl GetLbaStatus {
    /// From a GET LBA STATUS(16) CDB.
    pub fn parse(cdb: &[u8]) -> Result<GetLbaStatus, FieldError> {
        expect_action(cdb, opcode::SERVICE_ACTION_IN_16, opcode::service_action_in_16::GET_LBA_STATUS_16)?;
        Ok(GetLbaStatus { lba: be::u64(cdb, 2), alloc_bytes: be::u32(cdb, 10), report_type: cdb[14] })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let action = opcode::service_action_in_16::GET_LBA_STATUS_16;
        let mut cdb = CdbBytes::with_action(opcode::SERVICE_ACTION_IN_16, action);
        cdb.put(2, self.lba.to_be_bytes());
        cdb.put(10, self.alloc_bytes.to_be_bytes());
        cdb.put(14, [self.report_type]);
        cdb
    }
}

/// READ CAPACITY(10). The LBA and PMI are obsolete since SBC-3, but SBC-2 wants an error for an LBA
/// without PMI; judge as you like.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ReadCapacity10 {
    /// LOGICAL BLOCK ADDRESS, obsolete.
    pub lba: u32,
    /// Partial medium indicator, obsolete.
    pub pmi: bool,
}

impl ReadCapacity10 {
    /// From a READ CAPACITY(10) CDB.
    pub fn parse(cdb: &[u8]) -> Result<ReadCapacity10, FieldError> {
        expect(cdb, opcode::READ_CAPACITY_10)?;
        Ok(ReadCapacity10 { lba: be::u32(cdb, 2), pmi: be::bit(cdb, 8, 0) })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(opcode::READ_CAPACITY_10);
        cdb.put(2, self.lba.to_be_bytes());
        cdb.put(8, [flag(self.pmi, 0)]);
        cdb
    }
}

/// READ CAPACITY(16).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReadCapacity16 {
    /// LOGICAL BLOCK ADDRESS, obsolete.
    pub lba: u64,
    /// ALLOCATION LENGTH.
    pub alloc_bytes: u32,
    /// Partial medium indicator, obsolete.
    pub pmi: bool,
}

impl ReadCapacity16 {
    /// From a READ CAPACITY(16) CDB.
    pub fn parse(cdb: &[u8]) -> Result<ReadCapacity16, FieldError> {
        expect_action(cdb, opcode::SERVICE_ACTION_IN_16, opcode::service_action_in_16::READ_CAPACITY_16)?;
        Ok(ReadCapacity16 { lba: be::u64(cdb, 2), alloc_bytes: be::u32(cdb, 10), pmi: be::bit(cdb, 14, 0) })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let action = opcode::service_action_in_16::READ_CAPACITY_16;
        let mut cdb = CdbBytes::with_action(opcode::SERVICE_ACTION_IN_16, action);
        cdb.put(2, self.lba.to_be_bytes());
        cdb.put(10, self.alloc_bytes.to_be_bytes());
        cdb.put(14, [flag(self.pmi, 0)]);
        cdb
    }
}

/// START STOP UNIT.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct StartStopUnit {
    /// Answer before it is done.
    pub immed: bool,
    /// POWER CONDITION MODIFIER, 4 bits.
    pub power_condition_modifier: u8,
    /// POWER CONDITION, 4 bits; zero lets START and LOEJ speak.
    pub power_condition: u8,
    /// Do not write the cache out before stopping.
    pub no_flush: bool,
    /// Load (with START) or eject (without).
    pub loej: bool,
    /// Start, else stop.
    pub start: bool,
}

impl StartStopUnit {
    /// From a START STOP UNIT CDB.
    pub fn parse(cdb: &[u8]) -> Result<StartStopUnit, FieldError> {
        expect(cdb, opcode::START_STOP_UNIT)?;
        Ok(StartStopUnit {
            immed: be::bit(cdb, 1, 0),
            power_condition_modifier: cdb[3] & 0x0F,
            power_condition: cdb[4] >> 4,
            no_flush: be::bit(cdb, 4, 2),
            loej: be::bit(cdb, 4, 1),
            start: be::bit(cdb, 4, 0),
        })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(opcode::START_STOP_UNIT);
        let last =
            self.power_condition << 4 | flag(self.no_flush, 2) | flag(self.loej, 1) | flag(self.start, 0);
        cdb.put(1, [flag(self.immed, 0), 0, self.power_condition_modifier & 0x0F, last]);
        cdb
    }
}

/// PREVENT ALLOW MEDIUM REMOVAL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PreventAllowMediumRemoval {
    /// PREVENT: 0 allows; 1 prevents; 2 and 3 are obsolete.
    pub prevent: u8,
}

impl PreventAllowMediumRemoval {
    /// From its CDB.
    pub fn parse(cdb: &[u8]) -> Result<PreventAllowMediumRemoval, FieldError> {
        expect(cdb, opcode::PREVENT_ALLOW_MEDIUM_REMOVAL)?;
        Ok(PreventAllowMediumRemoval { prevent: cdb[4] & 3 })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(opcode::PREVENT_ALLOW_MEDIUM_REMOVAL);
        cdb.put(4, [self.prevent & 3]);
        cdb
    }
}

/// LBA, count and group of the commands that come in 10 and 16 bytes.
fn parse_range(cdb: &[u8], ten: u8, sixteen: u8) -> Result<(Family, u64, u32, u8), FieldError> {
    match cdb.first() {
        Some(op) if *op == ten => {
            whole(cdb, 10)?;
            Ok((Family::Ten, be::u32(cdb, 2).into(), be::u16(cdb, 7).into(), cdb[6] & 0x3F))
        }
        Some(op) if *op == sixteen => {
            whole(cdb, 16)?;
            Ok((Family::Sixteen, be::u64(cdb, 2), be::u32(cdb, 10), cdb[14] & 0x3F))
        }
        _ => Err(FieldError::byte(0)),
    }
}

fn emit_range((ten, sixteen): (u8, u8), family: Family, lba: u64, blocks: u32, group: u8) -> CdbBytes {
    if family == Family::Ten {
        let mut cdb = CdbBytes::new(ten);
        cdb.put(2, (lba as u32).to_be_bytes());
        cdb.put(6, [group & 0x3F]);
        cdb.put(7, (blocks as u16).to_be_bytes());
        return cdb;
    }
    let mut cdb = CdbBytes::new(sixteen);
    cdb.put(2, lba.to_be_bytes());
    cdb.put(10, blocks.to_be_bytes());
    cdb.put(14, [group & 0x3F]);
    cdb
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn write_same_16_with_unmap_and_ndob() {
        let cdb = [0x93, 0x09, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x10, 0, 0, 0];
        let ws = WriteSame::parse(&cdb).unwrap();
        assert_eq!((ws.lba, ws.blocks, ws.unmap, ws.ndob, ws.anchor), (256, 4096, true, true, false));
        assert_eq!(*ws.emit(), cdb);
    }

    #[test]
    fn write_same_refuses_pbdata_and_lbdata() {
        assert_eq!(WriteSame::parse(&[0x41, 0x04, 0, 0, 0, 0, 0, 0, 1, 0]), Err(FieldError::bit(1, 2)));
        assert_eq!(WriteSame::parse(&[0x41, 0x02, 0, 0, 0, 0, 0, 0, 1, 0]), Err(FieldError::bit(1, 1)));
        let mut long = [0; 32];
        (long[0], long[7], long[9], long[10]) = (0x7F, 0x18, 0x0D, 0x02);
        assert_eq!(WriteSame::parse(&long), Err(FieldError::bit(10, 1)));
    }

    #[test]
    fn golden_cdbs() {
        let sync = SynchronizeCache { family: Family::Ten, lba: 0, blocks: 0, immed: true, group: 0 };
        assert_eq!(*sync.emit(), [0x35, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            *Unmap { anchor: false, group: 0, list_bytes: 24 }.emit(),
            [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]
        );
        let capacity = ReadCapacity16 { lba: 0, alloc_bytes: 32, pmi: false };
        assert_eq!(*capacity.emit(), [0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
        let eject = StartStopUnit { loej: true, ..StartStopUnit::default() };
        assert_eq!(*eject.emit(), [0x1B, 0, 0, 0, 2, 0]);
        assert_eq!(*ReadCapacity10::default().emit(), [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(*PreventAllowMediumRemoval { prevent: 1 }.emit(), [0x1E, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_foreign_service_action_is_named() {
        let capacity = ReadCapacity16 { lba: 0, alloc_bytes: 32, pmi: false }.emit();
        assert_eq!(GetLbaStatus::parse(&capacity), Err(FieldError::bit(1, 4)));
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_back(
            lba: u64, blocks: u32, group in 0u8..64, f: [bool; 4], p in 0u8..8, length: u16, form in 0u8..3, n in 0u8..16
        ) {
            let family = [Family::Ten, Family::Sixteen, Family::ThirtyTwo][usize::from(form)];
            let (lba, blocks) =
                if family == Family::Ten { (lba & 0xFFFF_FFFF, blocks & 0xFFFF) } else { (lba, blocks) };
            let tags = (form == 2)
                .then_some(ProtectionTags { reference: blocks, application: length, application_mask: !length });
            let same = WriteSame {
                family, lba, blocks, wrprotect: p, anchor: f[0], unmap: f[1], ndob: f[2] && form != 0, group, tags
            };
            prop_assert_eq!(WriteSame::parse(&same.emit()), Ok(same));
            if form < 2 {
                let sync = SynchronizeCache { family, lba, blocks, immed: f[0], group };
                prop_assert_eq!(SynchronizeCache::parse(&sync.emit()), Ok(sync));
                let fetch = PreFetch { family, lba, blocks, immed: f[0], group };
                prop_assert_eq!(PreFetch::parse(&fetch.emit()), Ok(fetch));
            }
            let unmap = Unmap { anchor: f[0], group, list_bytes: length };
            prop_assert_eq!(Unmap::parse(&unmap.emit()), Ok(unmap));
            let status = GetLbaStatus { lba, alloc_bytes: blocks, report_type: n };
            prop_assert_eq!(GetLbaStatus::parse(&status.emit()), Ok(status));
            let ten = ReadCapacity10 { lba: blocks, pmi: f[0] };
            prop_assert_eq!(ReadCapacity10::parse(&ten.emit()), Ok(ten));
            let sixteen = ReadCapacity16 { lba, alloc_bytes: blocks, pmi: f[0] };
            prop_assert_eq!(ReadCapacity16::parse(&sixteen.emit()), Ok(sixteen));
            let start = StartStopUnit {
                immed: f[0], power_condition_modifier: n, power_condition: 15 - n,
                no_flush: f[1], loej: f[2], start: f[3]
            };
            prop_assert_eq!(StartStopUnit::parse(&start.emit()), Ok(start));
            let prevent = PreventAllowMediumRemoval { prevent: n & 3 };
            prop_assert_eq!(PreventAllowMediumRemoval::parse(&prevent.emit()), Ok(prevent));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            op in prop_oneof![
                Just(0x35u8), Just(0x91), Just(0x41), Just(0x93), Just(0x7F), Just(0x42), Just(0x9E), Just(0x25), any::<u8>()
            ],
            mut cdb in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Some(first) = cdb.first_mut() {
                *first = op;
            }
            let _ = (SynchronizeCache::parse(&cdb), PreFetch::parse(&cdb), WriteSame::parse(&cdb), Unmap::parse(&cdb));
            let _ = (GetLbaStatus::parse(&cdb), ReadCapacity10::parse(&cdb), ReadCapacity16::parse(&cdb));
            let _ = (StartStopUnit::parse(&cdb), PreventAllowMediumRemoval::parse(&cdb));
        }
    }
}
