//! VPD pages of block devices: block limits, characteristics, provisioning (SBC-4 §6.6).

use super::{BLOCK_DEVICE_CHARACTERISTICS, BLOCK_LIMITS, LOGICAL_BLOCK_PROVISIONING, Page, emit_page};
use crate::{Emit, be, emit::flag, inquiry::Peripheral};

/// Page B0h. Lengths are in blocks; zero means no limit reported, unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockLimits {
    /// WSNZ: WRITE SAME with zero blocks is refused.
    pub wsnz: bool,
    /// MAXIMUM COMPARE AND WRITE LENGTH; zero: not supported.
    pub compare_and_write_max: u8,
    /// OPTIMAL TRANSFER LENGTH GRANULARITY.
    pub transfer_granularity: u16,
    /// MAXIMUM TRANSFER LENGTH.
    pub transfer_max: u32,
    /// OPTIMAL TRANSFER LENGTH.
    pub transfer_optimal: u32,
    /// MAXIMUM PREFETCH LENGTH.
    pub prefetch_max: u32,
    /// MAXIMUM UNMAP LBA COUNT; zero: not supported, FFFFFFFFh: no limit.
    pub unmap_blocks_max: u32,
    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT; likewise.
    pub unmap_descriptors_max: u32,
    /// OPTIMAL UNMAP GRANULARITY.
    pub unmap_granularity: u32,
    /// UNMAP GRANULARITY ALIGNMENT, 31 bits; `None` leaves UGAVALID zero.
    pub unmap_alignment: Option<u32>,
    /// MAXIMUM WRITE SAME LENGTH.
    pub write_same_max: u64,
    /// MAXIMUM ATOMIC TRANSFER LENGTH; zero: not supported.
    pub atomic_max: u32,
    /// ATOMIC ALIGNMENT.
    pub atomic_alignment: u32,
    /// ATOMIC TRANSFER LENGTH GRANULARITY.
    pub atomic_granularity: u32,
    /// MAXIMUM ATOMIC TRANSFER LENGTH WITH ATOMIC BOUNDARY.
    pub atomic_with_boundary_max: u32,
    /// MAXIMUM ATOMIC BOUNDARY SIZE.
    pub atomic_boundary_max: u32,
}

impl BlockLimits {
    /// Writes the page, 64 bytes.
    pub fn emit(&self, at: Peripheral, w: &mut Emit<'_>) {
        emit_page(at, BLOCK_LIMITS, w, |w| {
            w.u8(flag(self.wsnz, 0)).u8(self.compare_and_write_max).u16(self.transfer_granularity);
            w.u32(self.transfer_max).u32(self.transfer_optimal).u32(self.prefetch_max);
            w.u32(self.unmap_blocks_max).u32(self.unmap_descriptors_max).u32(self.unmap_granularity);
            w.u32(self.unmap_alignment.map_or(0, |a| 1 << 31 | a & 0x7FFF_FFFF));
            w.u64(self.write_same_max).u32(self.atomic_max).u32(self.atomic_alignment);
            w.u32(self.atomic_granularity).u32(self.atomic_with_boundary_max).u32(self.atomic_boundary_max);
        });
    }

    /// From the page an initiator got.
    pub fn parse(bytes: &[u8]) -> Option<BlockLimits> {
        let b = Page::expect(bytes, BLOCK_LIMITS)?;
        let alignment = be::u32(b, 28);
        Some(BlockLimits {
            wsnz: be::bit(b, 0, 0),
            compare_and_write_max: be::u8(b, 1),
            transfer_granularity: be::u16(b, 2),
            transfer_max: be::u32(b, 4),
            transfer_optimal: be::u32(b, 8),
            prefetch_max: be::u32(b, 12),
            unmap_blocks_max: be::u32(b, 16),
            unmap_descriptors_max: be::u32(b, 20),
            unmap_granularity: be::u32(b, 24),
            unmap_alignment: (alignment >> 31 == 1).then_some(alignment & 0x7FFF_FFFF),
            write_same_max: be::u64(b, 32),
            atomic_max: be::u32(b, 40),
            atomic_alignment: be::u32(b, 44),
            atomic_granularity: be::u32(b, 48),
            atomic_with_boundary_max: be::u32(b, 52),
            atomic_boundary_max: be::u32(b, 56),
        })
    }
}

/// Page B1h.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockDeviceCharacteristics {
    /// MEDIUM ROTATION RATE: 0 not reported, 1 does not rotate, else per minute.
    pub rotation_rate: u16,
    /// PRODUCT TYPE.
    pub product_type: u8,
    /// WABEREQ: what a read of unmapped blocks does after a block erase, 2 bits.
    pub wabereq: u8,
    /// WACEREQ: after a cryptographic erase, 2 bits.
    pub wacereq: u8,
    /// NOMINAL FORM FACTOR, 4 bits.
    pub form_factor: u8,
    /// ZONED, 2 bits.
    pub zoned: u8,
    /// FUAB: FUA reaches the medium even behind a non-volatile cache.
    pub fuab: bool,
    /// VBULS: VERIFY works on unmapped blocks.
    pub vbuls: bool,
}

impl BlockDeviceCharacteristics {
    /// Writes the page, 64 bytes.
    pub fn emit(&self, at: Peripheral, w: &mut Emit<'_>) {
        let start = w.full_len();
        emit_page(at, BLOCK_DEVICE_CHARACTERISTICS, w, |w| {
            w.u16(self.rotation_rate).u8(self.product_type);
            w.u8((self.wabereq & 3) << 6 | (self.wacereq & 3) << 4 | self.form_factor & 0x0F);
            w.u8((self.zoned & 3) << 4 | flag(self.fuab, 1) | flag(self.vbuls, 0));
            w.zeros_to(start + 64);
        });
    }

    /// From the page an initiator got.
    pub fn parse(bytes: &[u8]) -> Option<BlockDeviceCharacteristics> {
        let b = Page::expect(bytes, BLOCK_DEVICE_CHARACTERISTICS)?;
        Some(BlockDeviceCharacteristics {
            rotation_rate: be::u16(b, 0),
            product_type: be::u8(b, 2),
            wabereq: be::u8(b, 3) >> 6,
            wacereq: be::u8(b, 3) >> 4 & 3,
            form_factor: be::u8(b, 3) & 0x0F,
            zoned: be::u8(b, 4) >> 4 & 3,
            fuab: be::bit(b, 4, 1),
            vbuls: be::bit(b, 4, 0),
        })
    }
}

/// PROVISIONING TYPE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ProvisioningType {
    /// 0: fully provisioned, or not reported.
    #[default]
    Full = 0,
    /// 1: resource provisioned.
    Resource = 1,
    /// 2: thin provisioned.
    Thin = 2,
}

/// Page B2h, without a provisioning group descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogicalBlockProvisioning {
    /// THRESHOLD EXPONENT; zero: no thresholds.
    pub threshold_exponent: u8,
    /// LBPU: UNMAP.
    pub lbpu: bool,
    /// LBPWS: WRITE SAME(16) with UNMAP.
    pub lbpws: bool,
    /// LBPWS10: WRITE SAME(10) with UNMAP.
    pub lbpws10: bool,
    /// LBPRZ, 3 bits: 1 unmapped blocks read as zeros.
    pub lbprz: u8,
    /// ANC_SUP: anchored blocks.
    pub anc_sup: bool,
    /// MINIMUM PERCENTAGE, 5 bits.
    pub minimum_percentage: u8,
    /// PROVISIONING TYPE.
    pub provisioning: ProvisioningType,
    /// THRESHOLD PERCENTAGE.
    pub threshold_percentage: u8,
}

impl LogicalBlockProvisioning {
    /// Writes the page, 8 bytes.
    pub fn emit(&self, at: Peripheral, w: &mut Emit<'_>) {
        emit_page(at, LOGICAL_BLOCK_PROVISIONING, w, |w| {
            let commands = flag(self.lbpu, 7) | flag(self.lbpws, 6) | flag(self.lbpws10, 5);
            w.u8(self.threshold_exponent).u8(commands | (self.lbprz & 7) << 2 | flag(self.anc_sup, 1));
            w.u8(self.minimum_percentage << 3 | self.provisioning as u8).u8(self.threshold_percentage);
        });
    }

    /// From the page an initiator got.
    pub fn parse(bytes: &[u8]) -> Option<LogicalBlockProvisioning> {
        let b = Page::expect(bytes, LOGICAL_BLOCK_PROVISIONING)?;
        Some(LogicalBlockProvisioning {
            threshold_exponent: be::u8(b, 0),
            lbpu: be::bit(b, 1, 7),
            lbpws: be::bit(b, 1, 6),
            lbpws10: be::bit(b, 1, 5),
            lbprz: be::u8(b, 1) >> 2 & 7,
            anc_sup: be::bit(b, 1, 1),
            minimum_percentage: be::u8(b, 2) >> 3,
            provisioning: match be::u8(b, 2) & 7 {
                1 => ProvisioningType::Resource,
                2 => ProvisioningType::Thin,
                _ => ProvisioningType::Full,
            },
            threshold_percentage: be::u8(b, 3),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn block_limits_stand_where_the_standard_puts_them() {
        let limits = BlockLimits {
            wsnz: true,
            compare_and_write_max: 1,
            transfer_granularity: 8,
            transfer_max: 0x2000,
            transfer_optimal: 0x800,
            unmap_blocks_max: 0x8_0000,
            unmap_descriptors_max: 256,
            unmap_granularity: 8,
            unmap_alignment: Some(3),
            write_same_max: 0x1_0000,
            ..Default::default()
        };
        let mut room = [0xEE; 64];
        let mut w = Emit::new(&mut room);
        limits.emit(Peripheral::DISK, &mut w);
        assert_eq!(w.full_len(), 64);
        assert_eq!(room[..16], [0, 0xB0, 0, 0x3C, 1, 1, 0, 8, 0, 0, 0x20, 0, 0, 0, 8, 0]);
        assert_eq!(room[20..36], [0, 8, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0x80, 0, 0, 3]);
        assert_eq!(room[36..44], [0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(BlockLimits::parse(&room), Some(limits));
    }

    #[test]
    fn a_thin_solid_state_disk() {
        let mut room = [0xEE; 64];
        let ssd = BlockDeviceCharacteristics { rotation_rate: 1, ..Default::default() };
        ssd.emit(Peripheral::DISK, &mut Emit::new(&mut room));
        assert_eq!(room[..9], [0, 0xB1, 0, 0x3C, 0, 1, 0, 0, 0]);
        let thin = LogicalBlockProvisioning {
            lbpu: true,
            lbpws: true,
            lbpws10: true,
            lbprz: 1,
            provisioning: ProvisioningType::Thin,
            ..Default::default()
        };
        let mut w = Emit::new(&mut room);
        thin.emit(Peripheral::DISK, &mut w);
        assert_eq!(w.as_bytes(), [0, 0xB2, 0, 4, 0, 0xE4, 2, 0]);
    }

    proptest! {
        #[test]
        fn pages_survive_the_wire(b: [u8; 64]) {
            let mut page = b;
            let mut room = [0; 64];
            page[..4].copy_from_slice(&[0, 0xB0, 0, 60]);
            let limits = BlockLimits::parse(&page).unwrap();
            limits.emit(Peripheral::DISK, &mut Emit::new(&mut room));
            prop_assert_eq!(BlockLimits::parse(&room), Some(limits));
            page[1] = 0xB1;
            let chars = BlockDeviceCharacteristics::parse(&page).unwrap();
            chars.emit(Peripheral::DISK, &mut Emit::new(&mut room));
            prop_assert_eq!(BlockDeviceCharacteristics::parse(&room), Some(chars));
            page[1] = 0xB2;
            let thin = LogicalBlockProvisioning::parse(&page).unwrap();
            thin.emit(Peripheral::DISK, &mut Emit::new(&mut room));
            prop_assert_eq!(LogicalBlockProvisioning::parse(&room), Some(thin));
        }

        #[test]
        fn arbitrary_bytes_never_panic(page in 0xB0u8..0xB3, mut b in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(code) = b.get_mut(1) {
                *code = page;
            }
            let _ = (BlockLimits::parse(&b), BlockDeviceCharacteristics::parse(&b), LogicalBlockProvisioning::parse(&b));
        }
    }
}
