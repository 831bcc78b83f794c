//! Designation descriptors of the device identification page, 83h (SPC-5 §7.7.6).

use super::{DEVICE_IDENTIFICATION, emit_page};
use crate::{Emit, be, emit::flag, inquiry::Peripheral};

/// PROTOCOL IDENTIFIER: Fibre Channel.
pub const PROTOCOL_FCP: u8 = 0x0;
/// PROTOCOL IDENTIFIER: SCSI RDMA protocol.
pub const PROTOCOL_SRP: u8 = 0x4;
/// PROTOCOL IDENTIFIER: iSCSI, over RDMA too.
pub const PROTOCOL_ISCSI: u8 = 0x5;
/// PROTOCOL IDENTIFIER: serial attached SCSI.
pub const PROTOCOL_SAS: u8 = 0x6;

/// What a designator names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Association {
    /// The logical unit.
    LogicalUnit = 0,
    /// The target port the command came through.
    TargetPort = 1,
    /// The target device.
    TargetDevice = 2,
    /// Reserved; only seen in what others send.
    Reserved = 3,
}

/// A network address authority designator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Naa {
    /// 8 bytes: NAA 2, 3 and 5.
    Short(u64),
    /// 16 bytes: NAA 6.
    Long(u128),
}

impl Naa {
    /// NAA 3, locally assigned: 60 bits of our own choice.
    pub const fn locally_assigned(value: u64) -> Naa {
        Naa::Short(3 << 60 | value & ((1 << 60) - 1))
    }

    /// NAA 5, IEEE registered: 24 bits of company, 36 of its choice.
    pub const fn registered(company: u32, value: u64) -> Naa {
        Naa::Short(5 << 60 | (company as u64 & 0xFF_FFFF) << 36 | value & ((1 << 36) - 1))
    }

    /// NAA 6, IEEE registered extended: 24 bits of company, 36 and 64 of its choice.
    pub const fn registered_extended(company: u32, value: u64, extension: u64) -> Naa {
        let Naa::Short(first) = Naa::registered(company, value) else { unreachable!() };
        let first = 6 << 60 | first & ((1 << 60) - 1);
        Naa::Long((first as u128) << 64 | extension as u128)
    }
}

/// The designator itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Identifier<'a> {
    /// Type 0h: vendor specific.
    VendorSpecific(&'a [u8]),
    /// Type 1h: T10 vendor identification and a vendor specific rest.
    T10VendorId {
        /// T10 VENDOR IDENTIFICATION.
        vendor: [u8; 8],
        /// VENDOR SPECIFIC IDENTIFIER, up to 247 bytes.
        id: &'a [u8],
    },
    /// Type 2h: EUI-64 based, 8, 12 or 16 bytes.
    Eui64(&'a [u8]),
    /// Type 3h.
    Naa(Naa),
    /// Type 4h.
    RelativeTargetPort(u16),
    /// Type 5h.
    TargetPortGroup(u16),
    /// Type 6h.
    LogicalUnitGroup(u16),
    /// Type 8h: SCSI name string, up to 251 bytes: `iqn...`, `eui...`, `naa...`, maybe with `,t,0x0001`.
    ScsiName(&'a str),
    /// Any other type, or one whose length is not what its type asks for.
    Other {
        /// DESIGNATOR TYPE.
        kind: u8,
        /// CODE SET.
        code_set: u8,
        /// DESIGNATOR.
        bytes: &'a [u8],
    },
}

/// A designation descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Designator<'a> {
    /// What it names.
    pub association: Association,
    /// PROTOCOL IDENTIFIER, valid for ports and devices (PIV).
    pub protocol: Option<u8>,
    /// By which name.
    pub id: Identifier<'a>,
}

const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF_8: u8 = 3;

impl<'a> Designator<'a> {
    /// A name of the logical unit.
    pub fn logical_unit(id: Identifier<'a>) -> Designator<'a> {
        Designator { association: Association::LogicalUnit, protocol: None, id }
    }

    /// A name of the target port.
    pub fn target_port(protocol: u8, id: Identifier<'a>) -> Designator<'a> {
        Designator { association: Association::TargetPort, protocol: Some(protocol), id }
    }

    /// A name of the target device.
    pub fn target_device(protocol: u8, id: Identifier<'a>) -> Designator<'a> {
        Designator { association: Association::TargetDevice, protocol: Some(protocol), id }
    }

    /// Writes the descriptor. DESIGNATOR LENGTH is one byte; what is longer than its identifier's limit is
    /// cut there (the limits are above any name a transport allows).
    pub fn emit(&self, w: &mut Emit<'_>) {
        let (kind, code_set) = match self.id {
            Identifier::VendorSpecific(_) => (0, BINARY),
            Identifier::T10VendorId { .. } => (1, ASCII),
            Identifier::Eui64(_) => (2, BINARY),
            Identifier::Naa(_) => (3, BINARY),
            Identifier::RelativeTargetPort(_) => (4, BINARY),
            Identifier::TargetPortGroup(_) => (5, BINARY),
            Identifier::LogicalUnitGroup(_) => (6, BINARY),
            Identifier::ScsiName(_) => (8, UTF_8),
            Identifier::Other { kind, code_set, .. } => (kind & 0x0F, code_set & 0x0F),
        };
        w.u8(self.protocol.unwrap_or(0) << 4 | code_set);
        w.u8(flag(self.protocol.is_some(), 7) | (self.association as u8) << 4 | kind).u16(0);
        let start = w.full_len();
        match self.id {
            Identifier::VendorSpecific(id) | Identifier::Eui64(id) => w.bytes(cut(id, 255)),
            Identifier::T10VendorId { vendor, id } => w.bytes(&vendor).bytes(cut(id, 247)),
            Identifier::Naa(Naa::Short(v)) => w.u64(v),
            Identifier::Naa(Naa::Long(v)) => w.bytes(&v.to_be_bytes()),
            Identifier::RelativeTargetPort(v)
            | Identifier::TargetPortGroup(v)
            | Identifier::LogicalUnitGroup(v) => w.u16(0).u16(v),
            // SPC-5 §7.7.6, SCSI name string: ends with a null, padded with nulls to a multiple of four.
            Identifier::ScsiName(name) => {
                let name = cut(name.as_bytes(), 251);
                w.bytes(name).zeros(4 - name.len() % 4)
            }
            Identifier::Other { bytes, .. } => w.bytes(cut(bytes, 255)),
        };
        let length = w.full_len() - start;
        w.patch_u8(start - 1, length as u8); // at most 255 by the limits above
    }

    fn parse(header: &[u8; 4], body: &'a [u8]) -> Designator<'a> {
        let association = match header[1] >> 4 & 3 {
            0 => Association::LogicalUnit,
            1 => Association::TargetPort,
            2 => Association::TargetDevice,
            _ => Association::Reserved,
        };
        let protocol = (header[1] & 0x80 != 0).then_some(header[0] >> 4);
        let (kind, code_set) = (header[1] & 0x0F, header[0] & 0x0F);
        let other = Identifier::Other { kind, code_set, bytes: body };
        let id = match (kind, code_set, body.len()) {
            (0, BINARY, _) => Identifier::VendorSpecific(body),
            (1, ASCII, 8..) => Identifier::T10VendorId { vendor: be::array(body, 0), id: &body[8..] },
            (2, BINARY, 8 | 12 | 16) => Identifier::Eui64(body),
            (3, BINARY, 8) => Identifier::Naa(Naa::Short(be::u64(body, 0))),
            (3, BINARY, 16) => Identifier::Naa(Naa::Long(u128::from_be_bytes(be::array(body, 0)))),
            (4, BINARY, 4) => Identifier::RelativeTargetPort(be::u16(body, 2)),
            (5, BINARY, 4) => Identifier::TargetPortGroup(be::u16(body, 2)),
            (6, BINARY, 4) => Identifier::LogicalUnitGroup(be::u16(body, 2)),
            (8, UTF_8, _) => {
                let end = body.iter().position(|b| *b == 0).unwrap_or(body.len());
                str::from_utf8(&body[..end]).map_or(other, Identifier::ScsiName)
            }
            _ => other,
        };
        Designator { association, protocol, id }
    }
}

fn cut(bytes: &[u8], max: usize) -> &[u8] {
    debug_assert!(bytes.len() <= max, "a designator of {} bytes", bytes.len());
    &bytes[..bytes.len().min(max)]
}

/// Page 83h with these designators.
pub fn emit_device_identification<'a>(
    at: Peripheral,
    designators: impl IntoIterator<Item = Designator<'a>>,
    w: &mut Emit<'_>,
) {
    emit_page(at, DEVICE_IDENTIFICATION, w, |w| {
        for d in designators {
            d.emit(w);
        }
    });
}

/// The designators in the body of page 83h ([`super::Page::expect`]); stops at one that was cut.
#[derive(Clone, Debug)]
pub struct Designators<'a> {
    rest: &'a [u8],
}

impl<'a> Designators<'a> {
    /// Over the body of a page.
    pub fn new(body: &'a [u8]) -> Designators<'a> {
        Designators { rest: body }
    }
}

impl<'a> Iterator for Designators<'a> {
    type Item = Designator<'a>;

    fn next(&mut self) -> Option<Designator<'a>> {
        let (header, tail) = self.rest.split_first_chunk::<4>()?;
        let (body, rest) = tail.split_at_checked(usize::from(header[3]))?;
        self.rest = rest;
        Some(Designator::parse(header, body))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vpd::Page;

    #[test]
    fn golden_descriptors() {
        let emit = |d: Designator<'_>| {
            let mut room = [0xEE; 64];
            let mut w = Emit::new(&mut room);
            d.emit(&mut w);
            w.as_bytes().to_vec()
        };
        let naa = Naa::registered_extended(0x00_1405, 0x1_2345_6789, 0xAABB);
        assert_eq!(
            emit(Designator::logical_unit(Identifier::Naa(naa))),
            [1, 3, 0, 16, 0x60, 0x01, 0x40, 0x51, 0x23, 0x45, 0x67, 0x89, 0, 0, 0, 0, 0, 0, 0xAA, 0xBB]
        );
        let local = Identifier::Naa(Naa::locally_assigned(0xF123_4567_89AB_CDEF));
        assert_eq!(
            emit(Designator::logical_unit(local)),
            [1, 3, 0, 8, 0x31, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]
        );
        let port = Designator::target_port(PROTOCOL_ISCSI, Identifier::RelativeTargetPort(1));
        assert_eq!(emit(port), [0x51, 0x94, 0, 4, 0, 0, 0, 1]);
        let name = Designator::target_device(PROTOCOL_ISCSI, Identifier::ScsiName("iqn.a"));
        assert_eq!(emit(name), [0x53, 0xA8, 0, 8, b'i', b'q', b'n', b'.', b'a', 0, 0, 0]);
        // A name that fills four bytes still gets its null.
        let name = Designator::target_device(PROTOCOL_ISCSI, Identifier::ScsiName("iqna"));
        assert_eq!(emit(name), [0x53, 0xA8, 0, 8, b'i', b'q', b'n', b'a', 0, 0, 0, 0]);
        let t10 = Identifier::T10VendorId { vendor: *b"SPINDLE ", id: b"x" };
        assert_eq!(emit(Designator::logical_unit(t10))[..5], [2, 1, 0, 9, b'S']);
    }

    #[test]
    fn a_page_of_designators_reads_back() {
        let list = [
            Designator::logical_unit(Identifier::T10VendorId { vendor: *b"SPINDLE ", id: b"disk0" }),
            Designator::logical_unit(Identifier::Eui64(&[1, 2, 3, 4, 5, 6, 7, 8])),
            Designator::target_port(PROTOCOL_ISCSI, Identifier::TargetPortGroup(7)),
            Designator::target_port(PROTOCOL_ISCSI, Identifier::ScsiName("iqn.2026-01.x:y,t,0x0001")),
            Designator::logical_unit(Identifier::Other { kind: 0xA, code_set: 1, bytes: &[0x10; 18] }),
        ];
        let mut room = [0; 256];
        let mut w = Emit::new(&mut room);
        emit_device_identification(Peripheral::DISK, list, &mut w);
        let body = Page::expect(w.as_bytes(), DEVICE_IDENTIFICATION).unwrap();
        assert!(Designators::new(body).eq(list));
        // Cut inside the last one: it is left out.
        assert_eq!(Designators::new(&body[..body.len() - 1]).count(), list.len() - 1);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_what_parsed_survives(b in proptest::collection::vec(any::<u8>(), 0..300)) {
            for d in Designators::new(&b) {
                if matches!(d.id, Identifier::ScsiName(name) if name.len() > 251) {
                    continue;
                }
                let mut room = [0; 260];
                let mut w = Emit::new(&mut room);
                d.emit(&mut w);
                prop_assert_eq!(Designators::new(w.as_bytes()).next(), Some(d));
            }
        }
    }
}
