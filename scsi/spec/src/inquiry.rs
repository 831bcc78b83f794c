//! Standard INQUIRY data (SPC-5 §6.6.2) and the first byte it shares with all VPD pages.

use crate::{Emit, be, emit::flag};

/// PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Peripheral {
    /// 0: a logical unit is there; 1: could be, is not; 3: cannot be.
    pub qualifier: u8,
    /// 5 bits.
    pub device_type: u8,
}

impl Peripheral {
    /// A disk.
    pub const DISK: Peripheral = Peripheral { qualifier: 0, device_type: DEVICE_TYPE_DISK };
    /// A LUN that has no logical unit and cannot have one: 7Fh.
    pub const NO_LOGICAL_UNIT: Peripheral = Peripheral { qualifier: 3, device_type: DEVICE_TYPE_UNKNOWN };
    /// No logical unit now, though the target could have one: 3Fh. The answer of an empty LUN 0.
    pub const NOT_CONNECTED: Peripheral = Peripheral { qualifier: 1, device_type: DEVICE_TYPE_UNKNOWN };
    /// A well known logical unit.
    pub const WELL_KNOWN: Peripheral = Peripheral { qualifier: 0, device_type: DEVICE_TYPE_WELL_KNOWN };

    /// Byte 0 of INQUIRY data.
    pub const fn byte(self) -> u8 {
        self.qualifier << 5 | self.device_type & 0x1F
    }

    /// From byte 0 of INQUIRY data.
    pub const fn from_byte(byte: u8) -> Peripheral {
        Peripheral { qualifier: byte >> 5, device_type: byte & 0x1F }
    }
}

/// Direct access block device.
pub const DEVICE_TYPE_DISK: u8 = 0x00;
/// Sequential access device.
pub const DEVICE_TYPE_TAPE: u8 = 0x01;
/// Processor.
pub const DEVICE_TYPE_PROCESSOR: u8 = 0x03;
/// CD or DVD.
pub const DEVICE_TYPE_CD: u8 = 0x05;
/// Media changer.
pub const DEVICE_TYPE_CHANGER: u8 = 0x08;
/// Storage array controller.
pub const DEVICE_TYPE_ARRAY_CONTROLLER: u8 = 0x0C;
/// Enclosure services.
pub const DEVICE_TYPE_ENCLOSURE: u8 = 0x0D;
/// Well known logical unit.
pub const DEVICE_TYPE_WELL_KNOWN: u8 = 0x1E;
/// Unknown, or none.
pub const DEVICE_TYPE_UNKNOWN: u8 = 0x1F;

/// Version descriptors, each "no version claimed" (SPC-5, table of version descriptor values).
pub mod version {
    /// SAM-4.
    pub const SAM_4: u16 = 0x0080;
    /// SAM-5.
    pub const SAM_5: u16 = 0x00A0;
    /// SPC-3.
    pub const SPC_3: u16 = 0x0300;
    /// SPC-4.
    pub const SPC_4: u16 = 0x0460;
    /// SPC-5.
    pub const SPC_5: u16 = 0x05C0;
    /// SBC-2.
    pub const SBC_2: u16 = 0x0320;
    /// SBC-3.
    pub const SBC_3: u16 = 0x04C0;
    /// SBC-4.
    pub const SBC_4: u16 = 0x0600;
    /// SRP.
    pub const SRP: u16 = 0x0940;
    /// iSCSI.
    pub const ISCSI: u16 = 0x0960;
    /// FCP-4.
    pub const FCP_4: u16 = 0x0A40;
}

/// Standard INQUIRY data, 96 bytes with its version descriptors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandardInquiry {
    /// What answers.
    pub peripheral: Peripheral,
    /// RMB.
    pub removable: bool,
    /// VERSION: 05h is SPC-3, 06h SPC-4, 07h SPC-5.
    pub version: u8,
    /// NORMACA: the NACA bit of CONTROL is understood.
    pub normaca: bool,
    /// HISUP: LUNs are hierarchical.
    pub hisup: bool,
    /// SCCS.
    pub sccs: bool,
    /// TPGS: 0 none, 1 implicit, 2 explicit, 3 both.
    pub tpgs: u8,
    /// 3PC: third-party copy.
    pub third_party_copy: bool,
    /// PROTECT: protection information is supported.
    pub protect: bool,
    /// ENCSERV.
    pub encserv: bool,
    /// MULTIP: more than one port.
    pub multip: bool,
    /// CMDQUE: the command management model of SAM.
    pub cmdque: bool,
    /// T10 VENDOR IDENTIFICATION; see [`ascii`].
    pub vendor: [u8; 8],
    /// PRODUCT IDENTIFICATION.
    pub product: [u8; 16],
    /// PRODUCT REVISION LEVEL.
    pub revision: [u8; 4],
    /// Bytes 36 to 55.
    pub vendor_specific: [u8; 20],
    /// Version descriptors; zero is none.
    pub version_descriptors: [u16; 8],
}

impl StandardInquiry {
    /// Length of the data.
    pub const BYTES: usize = 96;

    /// A disk that claims SPC-4, has the command management model and nothing else, names left blank.
    pub const DISK: StandardInquiry = StandardInquiry {
        peripheral: Peripheral::DISK,
        removable: false,
        version: 0x06,
        normaca: false,
        hisup: true,
        sccs: false,
        tpgs: 0,
        third_party_copy: false,
        protect: false,
        encserv: false,
        multip: false,
        cmdque: true,
        vendor: [b' '; 8],
        product: [b' '; 16],
        revision: [b' '; 4],
        vendor_specific: [0; 20],
        version_descriptors: [0; 8],
    };

    /// Writes the data.
    pub fn emit(&self, w: &mut Emit<'_>) {
        let start = w.full_len();
        w.u8(self.peripheral.byte()).u8(flag(self.removable, 7)).u8(self.version);
        w.u8(flag(self.normaca, 5) | flag(self.hisup, 4) | 2).u8((Self::BYTES - 5) as u8);
        let (copy, tpgs) = (flag(self.third_party_copy, 3), (self.tpgs & 3) << 4);
        w.u8(flag(self.sccs, 7) | tpgs | copy | flag(self.protect, 0));
        w.u8(flag(self.encserv, 6) | flag(self.multip, 4)).u8(flag(self.cmdque, 1));
        w.bytes(&self.vendor).bytes(&self.product).bytes(&self.revision);
        w.bytes(&self.vendor_specific).zeros(2);
        for descriptor in self.version_descriptors {
            w.u16(descriptor);
        }
        w.zeros_to(start + Self::BYTES);
    }

    /// From the data an initiator got; what is cut off reads as zero. `None` below the five bytes that say
    /// how much there is.
    pub fn parse(bytes: &[u8]) -> Option<StandardInquiry> {
        if bytes.len() < 5 {
            return None;
        }
        let bytes = &bytes[..bytes.len().min(5 + usize::from(bytes[4]))];
        let mut version_descriptors = [0; 8];
        for (i, v) in version_descriptors.iter_mut().enumerate() {
            *v = be::u16(bytes, 58 + 2 * i);
        }
        Some(StandardInquiry {
            peripheral: Peripheral::from_byte(bytes[0]),
            removable: be::bit(bytes, 1, 7),
            version: bytes[2],
            normaca: be::bit(bytes, 3, 5),
            hisup: be::bit(bytes, 3, 4),
            sccs: be::bit(bytes, 5, 7),
            tpgs: be::u8(bytes, 5) >> 4 & 3,
            third_party_copy: be::bit(bytes, 5, 3),
            protect: be::bit(bytes, 5, 0),
            encserv: be::bit(bytes, 6, 6),
            multip: be::bit(bytes, 6, 4),
            cmdque: be::bit(bytes, 7, 1),
            vendor: be::array(bytes, 8),
            product: be::array(bytes, 16),
            revision: be::array(bytes, 32),
            vendor_specific: be::array(bytes, 36),
            version_descriptors,
        })
    }
}

/// `text` as an ASCII data field (SPC-5 §4.3.1): left-aligned, padded with spaces, cut at the field's end;
/// what is not printable ASCII becomes a question mark.
pub fn ascii<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, c) in field.iter_mut().zip(text.chars()) {
        *to = if (' '..='~').contains(&c) { c as u8 } else { b'?' };
    }
    field
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_disk_introduces_itself_in_96_bytes() {
        let data = StandardInquiry {
            vendor: ascii("SPINDLE"),
            product: ascii("VIRTUAL DISK"),
            revision: ascii("0001"),
            version_descriptors: [version::SAM_5, version::ISCSI, version::SPC_4, version::SBC_3, 0, 0, 0, 0],
            tpgs: 1,
            third_party_copy: true,
            ..StandardInquiry::DISK
        };
        let mut room = [0xEE; 100];
        let mut w = Emit::new(&mut room);
        data.emit(&mut w);
        assert_eq!(w.written(), 96);
        assert_eq!(room[..8], [0, 0, 6, 0x12, 91, 0x18, 0, 2]);
        assert_eq!(&room[8..36], b"SPINDLE VIRTUAL DISK    0001");
        assert_eq!(room[58..66], [0, 0xA0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xC0]);
        assert!(room[66..96].iter().all(|b| *b == 0));
        assert_eq!(StandardInquiry::parse(&room), Some(data));
    }

    #[test]
    fn an_absent_logical_unit_is_7fh() {
        assert_eq!(Peripheral::NO_LOGICAL_UNIT.byte(), 0x7F);
        assert_eq!(Peripheral::NOT_CONNECTED.byte(), 0x3F);
        assert_eq!(Peripheral::from_byte(0x7F), Peripheral::NO_LOGICAL_UNIT);
    }

    #[test]
    fn text_is_cut_padded_and_made_printable() {
        assert_eq!(&ascii::<4>("ab"), b"ab  ");
        assert_eq!(&ascii::<4>("abcdef"), b"abcd");
        assert_eq!(&ascii::<4>("a\u{e9}\n"), b"a?? ");
    }

    proptest! {
        #[test]
        fn the_allocation_length_cuts_but_does_not_change(n in 0usize..120) {
            let mut whole = [0; 96];
            StandardInquiry::DISK.emit(&mut Emit::new(&mut whole));
            let mut room = [0; 120];
            let mut w = Emit::new(&mut room[..n]);
            StandardInquiry::DISK.emit(&mut w);
            prop_assert_eq!(w.as_bytes(), &whole[..n.min(96)]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = StandardInquiry::parse(&b);
        }
    }
}
