//! INQUIRY: standard data and vital product data (SPC-4 §6.6 and §7.8, SBC-3 §6.5).

use spindle_bdev::BdevInfo;
use spindle_scsi_port::TransportKind;
use spindle_scsi_spec::cdb::Inquiry;
use spindle_scsi_spec::inquiry::{Peripheral, StandardInquiry, version};
use spindle_scsi_spec::vpd::{
    self, BlockDeviceCharacteristics, Designator, ExtendedInquiry, Identifier, LogicalBlockProvisioning, Naa,
    PROTOCOL_ISCSI, ProvisioningType,
};
use spindle_scsi_spec::{Emit, FieldError, Sense};

use super::{LuView, limits::block_limits};

/// Every page of a disk, in ascending order.
const PAGES: [u8; 7] = [
    vpd::SUPPORTED_PAGES,
    vpd::UNIT_SERIAL_NUMBER,
    vpd::DEVICE_IDENTIFICATION,
    vpd::EXTENDED_INQUIRY_DATA,
    vpd::BLOCK_LIMITS,
    vpd::BLOCK_DEVICE_CHARACTERISTICS,
    vpd::LOGICAL_BLOCK_PROVISIONING,
];

const PAGE_CODE: FieldError = FieldError::byte(2);

/// INQUIRY of a disk.
pub fn inquiry(cdb: &[u8], view: &LuView<'_>, out: &mut Emit<'_>) -> Result<u32, Sense> {
    let cdb = Inquiry::parse(cdb)?;
    let disk = Peripheral::DISK;
    match cdb.page {
        None => standard(view).emit(out),
        Some(vpd::SUPPORTED_PAGES) => vpd::emit_supported_pages(disk, &PAGES, out),
        Some(vpd::UNIT_SERIAL_NUMBER) => vpd::emit_unit_serial_number(disk, &view.identity.serial, out),
        Some(vpd::DEVICE_IDENTIFICATION) => identification(view, out),
        Some(vpd::EXTENDED_INQUIRY_DATA) => extended(view.info).emit(disk, out),
        Some(vpd::BLOCK_LIMITS) => block_limits(view.info, view.transfer_bytes_max).emit(disk, out),
        Some(vpd::BLOCK_DEVICE_CHARACTERISTICS) => characteristics(view.info).emit(disk, out),
        Some(vpd::LOGICAL_BLOCK_PROVISIONING) => provisioning(view.info).emit(disk, out),
        Some(_) => return Err(Sense::invalid_field_in_cdb(PAGE_CODE)),
    }
    Ok(cdb.alloc_bytes.into())
}

/// INQUIRY of a LUN behind which there is no logical unit: [`Peripheral::NO_LOGICAL_UNIT`], and for LUN 0,
/// which must be there to be asked for the others, [`Peripheral::NOT_CONNECTED`]. Never a CHECK CONDITION for
/// standard data (SPC-4 §6.6.1); of vital product data it has only the list of pages.
pub fn inquiry_without_unit(cdb: &[u8], at: Peripheral, out: &mut Emit<'_>) -> Result<u32, Sense> {
    let cdb = Inquiry::parse(cdb)?;
    match cdb.page {
        None => StandardInquiry { peripheral: at, version_descriptors: VERSIONS, ..StandardInquiry::DISK }
            .emit(out),
        Some(vpd::SUPPORTED_PAGES) => vpd::emit_supported_pages(at, &PAGES[..1], out),
        Some(_) => return Err(Sense::invalid_field_in_cdb(PAGE_CODE)),
    }
    Ok(cdb.alloc_bytes.into())
}

const VERSIONS: [u16; 8] = [version::SAM_5, version::ISCSI, version::SPC_4, version::SBC_3, 0, 0, 0, 0];

fn standard(view: &LuView<'_>) -> StandardInquiry {
    let transport = match view.nexus.transport {
        TransportKind::Iscsi => version::ISCSI,
    };
    let mut version_descriptors = VERSIONS;
    version_descriptors[1] = transport;
    StandardInquiry {
        multip: view.ports.len() > 1,
        vendor: view.identity.vendor,
        product: view.identity.product,
        revision: view.identity.revision,
        version_descriptors,
        ..StandardInquiry::DISK
    }
}

/// Names of the unit first, then of the port asked, then of the target: initiators take the first they like.
fn identification(view: &LuView<'_>, out: &mut Emit<'_>) {
    let protocol = match view.nexus.transport {
        TransportKind::Iscsi => PROTOCOL_ISCSI,
    };
    let identity = view.identity;
    let serial = identity.serial.as_bytes();
    let t10 = Identifier::T10VendorId { vendor: identity.vendor, id: &serial[..serial.len().min(247)] };
    let unit = [Identifier::Naa(naa(&identity.uuid)), t10].map(Designator::logical_unit);
    let port = view.ports.iter().find(|p| p.relative == view.nexus.target_port);
    let port = port.into_iter().flat_map(|p| {
        let name = Identifier::ScsiName(&p.name);
        [Identifier::RelativeTargetPort(p.relative), Identifier::TargetPortGroup(p.group), name]
            .map(|id| Designator::target_port(protocol, id))
    });
    let target = Designator::target_device(protocol, Identifier::ScsiName(&view.nexus.target_name));
    vpd::emit_device_identification(Peripheral::DISK, unit.into_iter().chain(port).chain([target]), out);
}

/// NAA 3, locally assigned: the other forms want an IEEE company identifier. The uuid's halves are laid over
/// each other, since neither half alone tells all kinds of uuid apart in the 60 bits there are.
fn naa(uuid: &[u8; 16]) -> Naa {
    let wide = u128::from_be_bytes(*uuid);
    Naa::locally_assigned((wide >> 64) as u64 ^ (wide as u64).rotate_left(4))
}

fn extended(info: &BdevInfo) -> ExtendedInquiry {
    ExtendedInquiry {
        headsup: true,
        ordsup: true,
        simpsup: true,
        v_sup: info.write_cache,
        sense_bytes_max: Sense::MAX_BYTES as u8,
        ..ExtendedInquiry::default()
    }
}

fn characteristics(info: &BdevInfo) -> BlockDeviceCharacteristics {
    // VBULS: VERIFY of deallocated blocks just reads them.
    BlockDeviceCharacteristics {
        rotation_rate: info.rotation_rate,
        vbuls: info.unmap,
        fuab: true,
        ..BlockDeviceCharacteristics::default()
    }
}

fn provisioning(info: &BdevInfo) -> LogicalBlockProvisioning {
    if !info.unmap {
        return LogicalBlockProvisioning::default();
    }
    LogicalBlockProvisioning {
        lbpu: true,
        lbpws: true,
        lbpws10: true,
        lbprz: info.unmap_zeroes.into(),
        provisioning: ProvisioningType::Thin,
        ..LogicalBlockProvisioning::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::TargetPort;
    use super::super::fixture::{Owner, describing, disk};
    use super::*;

    const STANDARD: [u8; 6] = [0x12, 0, 0, 0x01, 0x04, 0];

    fn page(code: u8) -> [u8; 6] {
        [0x12, 1, code, 0x01, 0x04, 0]
    }

    #[test]
    fn standard_data_claims_spc_4_and_names_its_standards() {
        let bytes = describing().all(inquiry, &STANDARD);
        assert_eq!(bytes[..8], [0x00, 0x00, 0x06, 0x12, 91, 0x00, 0x00, 0x02]);
        assert_eq!(&bytes[8..36], b"SPINDLE DISK            0001");
        assert_eq!(bytes[58..66], [0x00, 0xA0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xC0]);
        assert_eq!(bytes.len(), 96);
        let mut two = describing();
        two.ports.push(TargetPort { relative: 2, group: 0, name: "x,t,0x0002".into() });
        assert_eq!(two.all(inquiry, &STANDARD)[6], 0x10, "MULTIP");
    }

    #[test]
    fn allocation_cuts_and_changes_nothing_else() {
        // libiscsi's Inquiry.AllocLength
        let owner = describing();
        let whole = owner.all(inquiry, &STANDARD);
        for alloc in 0..=255u8 {
            let (bytes, full) = owner.ask(inquiry, &[0x12, 0, 0, 0, alloc, 0]).unwrap();
            assert_eq!((&bytes[..], full), (&whole[..usize::from(alloc).min(96)], 96));
        }
        let (wide, _) = owner.ask(inquiry, &[0x12, 0, 0, 0x02, 0x00, 0]).unwrap();
        assert_eq!(wide, whole);
    }

    #[test]
    fn a_page_code_without_evpd_and_an_unknown_page_are_pointed_at() {
        // libiscsi's Inquiry.EVPD
        let wrong = Sense::invalid_field_in_cdb(FieldError::byte(2));
        let owner = describing();
        assert_eq!(owner.ask(inquiry, &[0x12, 0, 1, 0, 255, 0]), Err(wrong));
        for code in (0..=255u8).filter(|c| !PAGES.contains(c)) {
            assert_eq!(owner.ask(inquiry, &page(code)), Err(wrong));
        }
    }

    #[test]
    fn every_page_of_the_list_is_there_and_says_its_length() {
        // libiscsi's Inquiry.SupportedVPD, VPDPageCodesSorted, MandatoryVPDSBC
        let owner = describing();
        let list = owner.all(inquiry, &page(0));
        assert_eq!(list, [0, 0, 0, 7, 0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2]);
        for code in &list[4..] {
            let bytes = owner.all(inquiry, &page(*code));
            assert_eq!(bytes[..2], [0, *code]);
            assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) + 4, bytes.len());
        }
    }

    #[test]
    fn the_serial_number_is_the_uuid() {
        let bytes = describing().all(inquiry, &page(0x80));
        assert_eq!(&bytes[4..], b"123456789abc4def8001020304050607");
    }

    #[test]
    fn identification_names_unit_port_and_target() {
        let bytes = describing().all(inquiry, &page(0x83));
        let mut expected = vec![0x00, 0x83, 0x00, 0x00];
        // 123456789abc4def ^ rotate_left(8001020304050607, 4), under NAA 3
        expected.extend([0x01, 0x03, 0, 8, 0x32, 0x24, 0x76, 0x48, 0xDA, 0xEC, 0x2D, 0x97]);
        expected.extend([0x02, 0x01, 0, 40]);
        expected.extend(b"SPINDLE 123456789abc4def8001020304050607");
        expected.extend([0x51, 0x94, 0, 4, 0, 0, 0, 1]);
        expected.extend([0x51, 0x95, 0, 4, 0, 0, 0, 0]);
        expected.extend([0x53, 0x98, 0, 32]);
        expected.extend(b"iqn.2026-01.example:t,t,0x0001\0\0");
        expected.extend([0x53, 0xA8, 0, 24]);
        expected.extend(b"iqn.2026-01.example:t\0\0\0");
        expected[3] = (expected.len() - 4) as u8;
        assert_eq!(bytes, expected);
    }

    #[test]
    fn neighbouring_uuids_have_different_names() {
        let mut names: Vec<_> = (0..=255u8)
            .flat_map(|n| {
                let (mut first, mut last) = ([7; 16], [7; 16]);
                (first[0], last[15]) = (n, n);
                [first, last]
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut naas: Vec<_> =
            names.iter().map(naa).map(|n| if let Naa::Short(v) = n { v } else { 0 }).collect();
        naas.sort_unstable();
        naas.dedup();
        // Only the four bits that NAA 3 has no place for may fall together.
        assert!(naas.len() > names.len() / 2, "{} of {}", naas.len(), names.len());
    }

    #[test]
    fn extended_data_tells_task_attributes_and_cache() {
        let bytes = describing().all(inquiry, &page(0x86));
        assert_eq!(bytes[4..8], [0x00, 0x07, 0x01, 0x00]);
        assert_eq!(bytes.len(), 64);
        let through = Owner::of(BdevInfo { write_cache: false, ..disk() });
        assert_eq!(through.all(inquiry, &page(0x86))[6], 0);
    }

    #[test]
    fn block_limits_have_the_length_sbc_3_wants() {
        // libiscsi's Inquiry.BlockLimits
        let bytes = describing().all(inquiry, &page(0xB0));
        assert_eq!(bytes[..4], [0x00, 0xB0, 0x00, 0x3C]);
        assert_eq!(bytes[4..8], [1, 255, 0, 8]);
        assert_eq!(bytes[8..20], [0, 0, 8, 0, 0, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[20..36], [0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0x80, 0, 0, 0]);
        assert_eq!(bytes[36..44], [0, 0, 0, 0, 0, 0, 0x80, 0]);
    }

    #[test]
    fn provisioning_follows_the_device() {
        let thin = describing().all(inquiry, &page(0xB2));
        assert_eq!(thin, [0x00, 0xB2, 0, 4, 0, 0xE4, 2, 0]);
        let thick = Owner::of(BdevInfo { unmap: false, unmap_zeroes: false, ..disk() });
        assert_eq!(thick.all(inquiry, &page(0xB2)), [0x00, 0xB2, 0, 4, 0, 0, 0, 0]);
        assert_eq!(describing().all(inquiry, &page(0xB1))[4..6], [0, 1], "does not rotate");
    }

    #[test]
    fn a_lun_without_a_unit_answers_with_its_qualifier() {
        let mut room = [0; 128];
        let mut out = Emit::new(&mut room);
        assert_eq!(inquiry_without_unit(&STANDARD, Peripheral::NO_LOGICAL_UNIT, &mut out), Ok(260));
        assert_eq!(out.as_bytes()[..5], [0x7F, 0, 6, 0x12, 91]);
        let mut out = Emit::new(&mut room);
        assert_eq!(inquiry_without_unit(&page(0), Peripheral::NOT_CONNECTED, &mut out), Ok(260));
        assert_eq!(out.as_bytes(), [0x3F, 0, 0, 1, 0]);
        let mut out = Emit::new(&mut room);
        let wrong = Sense::invalid_field_in_cdb(FieldError::byte(2));
        assert_eq!(inquiry_without_unit(&page(0x83), Peripheral::NO_LOGICAL_UNIT, &mut out), Err(wrong));
    }
}
