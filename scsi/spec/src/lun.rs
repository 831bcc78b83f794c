//! Logical unit numbers: eight bytes that can be read in several ways (SAM-5 §4.7).

use core::fmt;

/// A LUN exactly as it travels, most significant byte first. Equality is equality of the eight bytes; two
/// LUNs that differ in addressing method may still mean one logical unit: compare [`Lun::decode`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Lun(pub u64);

/// How a single-level LUN is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum LunMethod {
    /// Peripheral device addressing up to 255, flat space above: what initiators handle best.
    #[default]
    Peripheral,
    /// Flat space addressing for all.
    Flat,
    /// Logical unit addressing, bus 0, target 0; up to 31, flat space above.
    LogicalUnit,
}

/// What a LUN addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LunAddress {
    /// Peripheral device addressing, SAM-5 §4.7; bus 0 is this level.
    Peripheral {
        /// BUS IDENTIFIER, 6 bits.
        bus: u8,
        /// TARGET OR LUN.
        target_or_lun: u8,
    },
    /// Flat space addressing, 14 bits.
    Flat(u16),
    /// Logical unit addressing.
    LogicalUnit {
        /// TARGET, 6 bits.
        target: u8,
        /// BUS NUMBER, 3 bits.
        bus: u8,
        /// LUN, 5 bits.
        lun: u8,
    },
    /// A well known logical unit.
    WellKnown(u8),
    /// Extended flat space addressing, 24 bits.
    ExtendedFlat(u32),
    /// Long extended flat space addressing, 40 bits.
    LongExtendedFlat(u64),
    /// Logical unit not specified (all bytes FFh).
    NotSpecified,
    /// Any other extended form.
    Other,
}

impl Lun {
    /// LUN 0.
    pub const ZERO: Lun = Lun(0);
    /// Well known logical unit REPORT LUNS.
    pub const REPORT_LUNS: Lun = Lun(0xC101_0000_0000_0000);
    /// Well known logical unit ACCESS CONTROLS.
    pub const ACCESS_CONTROLS: Lun = Lun(0xC102_0000_0000_0000);
    /// Well known logical unit TARGET LOG PAGES.
    pub const TARGET_LOG_PAGES: Lun = Lun(0xC103_0000_0000_0000);
    /// The highest number flat space addressing can write.
    pub const MAX_SINGLE_LEVEL: u32 = 0x3FFF;

    /// The LUN in these eight bytes.
    pub const fn from_bytes(bytes: [u8; 8]) -> Lun {
        Lun(u64::from_be_bytes(bytes))
    }

    /// The eight bytes.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// Logical unit `number` in `method`, or in flat space where `method` does not reach. `None` above
    /// [`Lun::MAX_SINGLE_LEVEL`].
    pub const fn single_level(number: u32, method: LunMethod) -> Option<Lun> {
        let word = match method {
            LunMethod::Peripheral if number <= 0xFF => number,
            LunMethod::LogicalUnit if number <= 0x1F => 0x8000 | number,
            _ if number <= Lun::MAX_SINGLE_LEVEL => 0x4000 | number,
            _ => return None,
        };
        Some(Lun((word as u64) << 48))
    }

    /// The number of a single-level LUN in peripheral (bus 0) or flat space addressing. `None` for anything
    /// else, which on this target means that no logical unit is there.
    pub const fn decode(self) -> Option<u32> {
        if self.0 << 16 != 0 {
            return None; // a second level is addressed
        }
        match self.address() {
            LunAddress::Peripheral { bus: 0, target_or_lun } => Some(target_or_lun as u32),
            LunAddress::Flat(number) => Some(number as u32),
            _ => None,
        }
    }

    /// The first level of the LUN.
    pub const fn address(self) -> LunAddress {
        let [first, second, ..] = self.to_bytes();
        match first >> 6 {
            0 => LunAddress::Peripheral { bus: first & 0x3F, target_or_lun: second },
            1 => LunAddress::Flat(u16::from_be_bytes([first & 0x3F, second])),
            2 => LunAddress::LogicalUnit { target: first & 0x3F, bus: second >> 5, lun: second & 0x1F },
            // SAM-5 §4.7, extended addressing: bits 5:4 are the length, 3:0 the extended address method.
            _ => match first {
                0xC1 => LunAddress::WellKnown(second),
                0xD2 => LunAddress::ExtendedFlat((self.0 >> 32) as u32 & 0x00FF_FFFF),
                0xE2 => LunAddress::LongExtendedFlat(self.0 >> 16 & 0xFF_FFFF_FFFF),
                0xFF if self.0 == u64::MAX => LunAddress::NotSpecified,
                _ => LunAddress::Other,
            },
        }
    }

    /// Is this a well known logical unit?
    pub const fn is_well_known(self) -> bool {
        matches!(self.address(), LunAddress::WellKnown(_))
    }
}

impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decode() {
            Some(number) => write!(f, "{number}"),
            None => write!(f, "{:016X}h", self.0),
        }
    }
}

impl fmt::Debug for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lun({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn methods_write_what_the_architecture_shows() {
        let written = |n, m| Lun::single_level(n, m).map(|l| l.to_bytes()[..2].to_vec());
        assert_eq!(written(5, LunMethod::Peripheral), Some([0x00, 0x05].to_vec()));
        assert_eq!(written(255, LunMethod::Peripheral), Some([0x00, 0xFF].to_vec()));
        assert_eq!(written(256, LunMethod::Peripheral), Some([0x41, 0x00].to_vec()));
        assert_eq!(written(5, LunMethod::Flat), Some([0x40, 0x05].to_vec()));
        assert_eq!(written(5, LunMethod::LogicalUnit), Some([0x80, 0x05].to_vec()));
        assert_eq!(written(0x3FFF, LunMethod::Flat), Some([0x7F, 0xFF].to_vec()));
        assert_eq!(written(0x4000, LunMethod::Flat), None);
    }

    #[test]
    fn only_single_level_peripheral_and_flat_luns_decode() {
        let decode = |hex| Lun(hex).decode();
        assert_eq!(decode(0), Some(0));
        assert_eq!(decode(0x4005_0000_0000_0000), Some(5));
        assert_eq!(decode(0x0105_0000_0000_0000), None); // bus 1: one level down
        assert_eq!(decode(0x0005_0001_0000_0000), None); // second level
        assert_eq!(decode(0x8005_0000_0000_0000), None);
        assert_eq!(decode(0x0000_0000_0000_0001), None);
        assert_eq!(Lun::REPORT_LUNS.decode(), None);
    }

    #[test]
    fn extended_methods_are_recognised() {
        assert_eq!(Lun::REPORT_LUNS.address(), LunAddress::WellKnown(1));
        assert!(Lun::REPORT_LUNS.is_well_known());
        assert_eq!(Lun(0xD212_3456_0000_0000).address(), LunAddress::ExtendedFlat(0x12_3456));
        assert_eq!(Lun(0xE201_2345_6789_0000).address(), LunAddress::LongExtendedFlat(0x01_2345_6789));
        assert_eq!(Lun(u64::MAX).address(), LunAddress::NotSpecified);
        assert_eq!(Lun(0xFF00 << 48).address(), LunAddress::Other);
        let unit = LunAddress::LogicalUnit { target: 2, bus: 1, lun: 3 };
        assert_eq!(Lun(0x8223 << 48).address(), unit);
    }

    proptest! {
        #[test]
        fn what_is_written_decodes(n in 0u32..=Lun::MAX_SINGLE_LEVEL, flat: bool) {
            let method = if flat { LunMethod::Flat } else { LunMethod::Peripheral };
            prop_assert_eq!(Lun::single_level(n, method).unwrap().decode(), Some(n));
        }

        #[test]
        fn any_eight_bytes_have_an_address(b: [u8; 8]) {
            let lun = Lun::from_bytes(b);
            prop_assert_eq!(lun.to_bytes(), b);
            let _ = (lun.address(), std::format!("{lun}"));
        }
    }
}
