//! Vital product data: the frame of every page, the list of pages (00h), serial number (80h), extended
//! INQUIRY data (86h). Designators (83h) and the pages of block devices (B0h to B2h) have files of their
//! own (SPC-5 §7.7, SBC-4 §6.6).

mod block;
mod designator;

pub use block::{BlockDeviceCharacteristics, BlockLimits, LogicalBlockProvisioning, ProvisioningType};
pub use designator::{
    Association, Designator, Designators, Identifier, Naa, PROTOCOL_FCP, PROTOCOL_ISCSI, PROTOCOL_SAS,
    PROTOCOL_SRP, emit_device_identification,
};

use crate::{
    Emit, be,
    emit::{flag, len16},
    inquiry::Peripheral,
};

/// Supported VPD pages.
pub const SUPPORTED_PAGES: u8 = 0x00;
/// Unit serial number.
pub const UNIT_SERIAL_NUMBER: u8 = 0x80;
/// Device identification.
pub const DEVICE_IDENTIFICATION: u8 = 0x83;
/// Management network addresses.
pub const MANAGEMENT_NETWORK_ADDRESSES: u8 = 0x85;
/// Extended INQUIRY data.
pub const EXTENDED_INQUIRY_DATA: u8 = 0x86;
/// Mode page policy.
pub const MODE_PAGE_POLICY: u8 = 0x87;
/// SCSI ports.
pub const SCSI_PORTS: u8 = 0x88;
/// Third-party copy.
pub const THIRD_PARTY_COPY: u8 = 0x8F;
/// Block limits.
pub const BLOCK_LIMITS: u8 = 0xB0;
/// Block device characteristics.
pub const BLOCK_DEVICE_CHARACTERISTICS: u8 = 0xB1;
/// Logical block provisioning.
pub const LOGICAL_BLOCK_PROVISIONING: u8 = 0xB2;

/// Writes a page: its four-byte header, and whatever `body` writes.
pub fn emit_page(at: Peripheral, page: u8, w: &mut Emit<'_>, body: impl FnOnce(&mut Emit<'_>)) {
    let start = w.full_len();
    w.u8(at.byte()).u8(page).u16(0);
    body(w);
    let length = w.full_len() - start - 4;
    w.patch_u16(start + 2, len16(length));
}

/// Page 00h. `pages` have to be in ascending order, 00h among them (SPC-5 §7.7).
pub fn emit_supported_pages(at: Peripheral, pages: &[u8], w: &mut Emit<'_>) {
    debug_assert!(pages.is_sorted() && pages.first() == Some(&SUPPORTED_PAGES));
    emit_page(at, SUPPORTED_PAGES, w, |w| {
        w.bytes(pages);
    });
}

/// Page 80h; the serial number is ASCII.
pub fn emit_unit_serial_number(at: Peripheral, serial: &str, w: &mut Emit<'_>) {
    emit_page(at, UNIT_SERIAL_NUMBER, w, |w| {
        w.bytes(serial.as_bytes());
    });
}

/// Any page as an initiator got it, maybe cut short by its allocation length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page<'a> {
    /// What answered.
    pub peripheral: Peripheral,
    /// PAGE CODE.
    pub code: u8,
    /// PAGE LENGTH as the device server gave it; more than the body has, if it was cut.
    pub page_length: u16,
    /// The bytes behind the header, not more than PAGE LENGTH.
    pub body: &'a [u8],
}

impl<'a> Page<'a> {
    /// `None` without a whole header.
    pub fn parse(bytes: &'a [u8]) -> Option<Page<'a>> {
        let (header, rest) = bytes.split_first_chunk::<4>()?;
        let page_length = u16::from_be_bytes([header[2], header[3]]);
        let body = &rest[..rest.len().min(page_length.into())];
        Some(Page { peripheral: Peripheral::from_byte(header[0]), code: header[1], page_length, body })
    }

    /// The body, if the page is `code`.
    pub fn expect(bytes: &'a [u8], code: u8) -> Option<&'a [u8]> {
        Page::parse(bytes).filter(|p| p.code == code).map(|p| p.body)
    }
}

/// Page 86h, extended INQUIRY data (SPC-5 §7.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExtendedInquiry {
    /// SPT: which protection types can be formatted; 0 type 1, 1 types 1 and 2, ... 7 all.
    pub spt: u8,
    /// GRD_CHK: the guard is checked.
    pub grd_chk: bool,
    /// APP_CHK.
    pub app_chk: bool,
    /// REF_CHK.
    pub ref_chk: bool,
    /// UASK_SUP: sense key specific data of unit attentions.
    pub uask_sup: bool,
    /// GROUP_SUP: grouping function.
    pub group_sup: bool,
    /// PRIOR_SUP: command priority.
    pub prior_sup: bool,
    /// HEADSUP: HEAD OF QUEUE tasks.
    pub headsup: bool,
    /// ORDSUP: ORDERED tasks.
    pub ordsup: bool,
    /// SIMPSUP: SIMPLE tasks.
    pub simpsup: bool,
    /// WU_SUP: WRITE UNCORRECTABLE.
    pub wu_sup: bool,
    /// NV_SUP: a non-volatile cache.
    pub nv_sup: bool,
    /// V_SUP: a volatile cache.
    pub v_sup: bool,
    /// P_I_I_SUP: protection information intervals.
    pub p_i_i_sup: bool,
    /// LUICLR: unit attentions are cleared by REPORT LUNS per SPC-4.
    pub luiclr: bool,
    /// RTD_SUP: MODE SELECT knows RTD (SPC-5).
    pub rtd_sup: bool,
    /// EXTENDED SELF-TEST COMPLETION MINUTES.
    pub self_test_minutes: u16,
    /// MAXIMUM SUPPORTED SENSE DATA LENGTH; zero is 252.
    pub sense_bytes_max: u8,
}

impl ExtendedInquiry {
    /// Writes the page, 64 bytes.
    pub fn emit(&self, at: Peripheral, w: &mut Emit<'_>) {
        let start = w.full_len();
        emit_page(at, EXTENDED_INQUIRY_DATA, w, |w| {
            let checks = flag(self.grd_chk, 2) | flag(self.app_chk, 1) | flag(self.ref_chk, 0);
            w.u8((self.spt & 7) << 3 | checks);
            let attributes = flag(self.headsup, 2) | flag(self.ordsup, 1) | flag(self.simpsup, 0);
            let above = flag(self.uask_sup, 5) | flag(self.group_sup, 4) | flag(self.prior_sup, 3);
            w.u8(above | attributes);
            w.u8(flag(self.wu_sup, 3) | flag(self.nv_sup, 1) | flag(self.v_sup, 0));
            w.u8(flag(self.p_i_i_sup, 4) | flag(self.luiclr, 0)).u8(flag(self.rtd_sup, 3)).u8(0);
            w.u16(self.self_test_minutes).u8(0).u8(self.sense_bytes_max);
            w.zeros_to(start + 64);
        });
    }

    /// From the page an initiator got.
    pub fn parse(bytes: &[u8]) -> Option<ExtendedInquiry> {
        let b = Page::expect(bytes, EXTENDED_INQUIRY_DATA)?;
        Some(ExtendedInquiry {
            spt: be::u8(b, 0) >> 3 & 7,
            grd_chk: be::bit(b, 0, 2),
            app_chk: be::bit(b, 0, 1),
            ref_chk: be::bit(b, 0, 0),
            uask_sup: be::bit(b, 1, 5),
            group_sup: be::bit(b, 1, 4),
            prior_sup: be::bit(b, 1, 3),
            headsup: be::bit(b, 1, 2),
            ordsup: be::bit(b, 1, 1),
            simpsup: be::bit(b, 1, 0),
            wu_sup: be::bit(b, 2, 3),
            nv_sup: be::bit(b, 2, 1),
            v_sup: be::bit(b, 2, 0),
            p_i_i_sup: be::bit(b, 3, 4),
            luiclr: be::bit(b, 3, 0),
            rtd_sup: be::bit(b, 4, 3),
            self_test_minutes: be::u16(b, 6),
            sense_bytes_max: be::u8(b, 9),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_and_serial_numbers_are_framed() {
        let mut room = [0; 32];
        let mut w = Emit::new(&mut room);
        emit_supported_pages(Peripheral::DISK, &[0x00, 0x80, 0x83, 0xB0], &mut w);
        assert_eq!(w.as_bytes(), [0, 0, 0, 4, 0x00, 0x80, 0x83, 0xB0]);
        let mut w = Emit::new(&mut room);
        emit_unit_serial_number(Peripheral::DISK, "a1b2", &mut w);
        assert_eq!(w.as_bytes(), [0, 0x80, 0, 4, b'a', b'1', b'b', b'2']);
        assert_eq!(Page::expect(&room, UNIT_SERIAL_NUMBER), Some(b"a1b2".as_slice()));
        assert_eq!(Page::expect(&room, DEVICE_IDENTIFICATION), None);
    }

    #[test]
    fn a_cut_page_still_says_its_length() {
        let mut room = [0; 6];
        let mut w = Emit::new(&mut room);
        emit_unit_serial_number(Peripheral::DISK, "a1b2", &mut w);
        assert_eq!(w.as_bytes(), [0, 0x80, 0, 4, b'a', b'1']);
        let page = Page::parse(&room).unwrap();
        assert_eq!((page.page_length, page.body), (4, b"a1".as_slice()));
    }

    #[test]
    fn extended_inquiry_data_is_64_bytes() {
        let data =
            ExtendedInquiry { simpsup: true, ordsup: true, headsup: true, v_sup: true, ..Default::default() };
        let mut room = [0xEE; 64];
        let mut w = Emit::new(&mut room);
        data.emit(Peripheral::DISK, &mut w);
        assert_eq!(w.full_len(), 64);
        assert_eq!(room[..8], [0, 0x86, 0, 60, 0, 7, 1, 0]);
        assert_eq!(ExtendedInquiry::parse(&room), Some(data));
    }

    proptest! {
        #[test]
        fn extended_inquiry_data_survives_the_wire(b: [u8; 64]) {
            let mut page = b;
            page[..4].copy_from_slice(&[0, 0x86, 0, 60]);
            let data = ExtendedInquiry::parse(&page).unwrap();
            let mut room = [0; 64];
            data.emit(Peripheral::DISK, &mut Emit::new(&mut room));
            prop_assert_eq!(ExtendedInquiry::parse(&room), Some(data));
        }

        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Page::parse(&b), ExtendedInquiry::parse(&b));
        }
    }
}
