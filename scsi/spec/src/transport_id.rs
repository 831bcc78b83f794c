//! TransportIDs: how an initiator port is named in persistent reservations (SPC-5 §7.6.4).

use crate::{
    Emit, FieldError, ListError, be,
    vpd::{PROTOCOL_FCP, PROTOCOL_ISCSI, PROTOCOL_SAS, PROTOCOL_SRP},
};

/// An initiator port, or with iSCSI format 00b all ports of an initiator device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TransportId<'a> {
    /// iSCSI, format 00b: an iSCSI initiator by name, whatever its ISIDs.
    Iscsi {
        /// iSCSI name, at most 223 bytes.
        name: &'a str,
    },
    /// iSCSI, format 01b: an iSCSI initiator port.
    IscsiPort {
        /// iSCSI name, at most 223 bytes.
        name: &'a str,
        /// The session's ISID.
        isid: [u8; 6],
    },
    /// Fibre Channel: N_PORT NAME.
    Fcp(u64),
    /// SRP: initiator port identifier.
    Srp([u8; 16]),
    /// SAS ADDRESS.
    Sas(u64),
}

/// Length of all TransportIDs but iSCSI's, and the least iSCSI's can have.
const FIXED: usize = 24;
/// What an iSCSI name may have (RFC 7143 §4.2.7.1).
const ISCSI_NAME_MAX: usize = 223;
/// Stands between the name and the ISID of an iSCSI initiator port (SPC-5 §7.6.4).
const SEPARATOR: &str = ",i,0x";

impl<'a> TransportId<'a> {
    /// No TransportID of this crate is longer: an iSCSI port of the longest name.
    pub const MAX_BYTES: usize = 4 + (ISCSI_NAME_MAX + SEPARATOR.len() + 12 + 1).next_multiple_of(4);

    /// PROTOCOL IDENTIFIER.
    pub fn protocol(&self) -> u8 {
        match self {
            TransportId::Iscsi { .. } | TransportId::IscsiPort { .. } => PROTOCOL_ISCSI,
            TransportId::Fcp(_) => PROTOCOL_FCP,
            TransportId::Srp(_) => PROTOCOL_SRP,
            TransportId::Sas(_) => PROTOCOL_SAS,
        }
    }

    /// Writes it; a multiple of four bytes, at most [`TransportId::MAX_BYTES`] for a legal name.
    pub fn emit(&self, w: &mut Emit<'_>) {
        let start = w.full_len();
        match *self {
            TransportId::Iscsi { name } => {
                w.u8(PROTOCOL_ISCSI).zeros(3).bytes(name.as_bytes());
                TransportId::end_iscsi(start, w);
            }
            TransportId::IscsiPort { name, isid } => {
                w.u8(0x40 | PROTOCOL_ISCSI).zeros(3).bytes(name.as_bytes()).bytes(SEPARATOR.as_bytes());
                for byte in isid {
                    w.u8(hex_digit(byte >> 4)).u8(hex_digit(byte & 0x0F));
                }
                TransportId::end_iscsi(start, w);
            }
            TransportId::Fcp(port) => {
                w.u8(PROTOCOL_FCP).zeros(7).u64(port).zeros_to(start + FIXED);
            }
            TransportId::Srp(port) => {
                w.u8(PROTOCOL_SRP).zeros(7).bytes(&port);
            }
            TransportId::Sas(address) => {
                w.u8(PROTOCOL_SAS).zeros(3).u64(address).zeros_to(start + FIXED);
            }
        }
    }

    /// The name ends with a null, and nulls fill it up to a multiple of four, 20 at least.
    fn end_iscsi(start: usize, w: &mut Emit<'_>) {
        let name = w.full_len() - start - 4;
        let additional = (name + 1).next_multiple_of(4).max(FIXED - 4);
        w.zeros_to(start + 4 + additional);
        w.patch_u16(start + 2, u16::try_from(additional).unwrap_or(u16::MAX));
    }

    /// The TransportID at the start of `bytes`, and how many bytes it has. `offset` is where it stands in
    /// the parameter list, for the error.
    pub fn parse(bytes: &'a [u8], offset: usize) -> Result<(TransportId<'a>, usize), ListError> {
        let wrong = |at: usize, bit| ListError::Field(FieldError::at(offset.saturating_add(at), bit));
        let first = *bytes.first().ok_or(ListError::Length)?;
        let (format, protocol) = (first >> 6, first & 0x0F);
        if protocol == PROTOCOL_ISCSI {
            if format > 1 {
                return Err(wrong(0, Some(7)));
            }
            let header = bytes.first_chunk::<4>().ok_or(ListError::Length)?;
            let additional = usize::from(be::u16(header, 2));
            if additional < FIXED - 4 || additional % 4 != 0 {
                return Err(wrong(2, None));
            }
            let field = bytes.get(4..4 + additional).ok_or(ListError::Length)?;
            let id = TransportId::parse_iscsi(format, field).ok_or_else(|| wrong(4, None))?;
            return Ok((id, 4 + additional));
        }
        if !matches!(protocol, PROTOCOL_FCP | PROTOCOL_SRP | PROTOCOL_SAS) {
            return Err(wrong(0, Some(3)));
        }
        if format != 0 {
            return Err(wrong(0, Some(7)));
        }
        let fixed = bytes.get(..FIXED).ok_or(ListError::Length)?;
        let id = match protocol {
            PROTOCOL_FCP => TransportId::Fcp(be::u64(fixed, 8)),
            PROTOCOL_SRP => TransportId::Srp(be::array(fixed, 8)),
            _ => TransportId::Sas(be::u64(fixed, 4)),
        };
        Ok((id, FIXED))
    }

    fn parse_iscsi(format: u8, field: &'a [u8]) -> Option<TransportId<'a>> {
        let end = field.iter().position(|b| *b == 0)?;
        let text = str::from_utf8(&field[..end]).ok()?;
        let (name, isid) = if format == 0 {
            (text, None)
        } else {
            let (name, digits) = text.split_at_checked(text.rfind(SEPARATOR)?)?;
            (name, Some(parse_isid(&digits[SEPARATOR.len()..])?))
        };
        if name.is_empty() || name.len() > ISCSI_NAME_MAX {
            return None;
        }
        Some(match isid {
            None => TransportId::Iscsi { name },
            Some(isid) => TransportId::IscsiPort { name, isid },
        })
    }
}

/// One to twelve hexadecimal digits of either case; leading zeros may be left out.
fn parse_isid(digits: &str) -> Option<[u8; 6]> {
    if digits.is_empty() || digits.len() > 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let [_, _, isid @ ..] = u64::from_str_radix(digits, 16).ok()?.to_be_bytes();
    Some(isid)
}

fn hex_digit(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble & 0x0F)]
}

/// TransportIDs one after the other, as SPEC_I_PT brings them. An error ends the iteration.
#[derive(Clone, Debug)]
pub struct TransportIds<'a> {
    list: &'a [u8],
    offset: usize,
}

impl<'a> TransportIds<'a> {
    /// Over `list`, which stands at `offset` of the parameter list.
    pub fn new(list: &'a [u8], offset: usize) -> TransportIds<'a> {
        TransportIds { list, offset }
    }
}

impl<'a> Iterator for TransportIds<'a> {
    type Item = Result<TransportId<'a>, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.list.is_empty() {
            return None;
        }
        match TransportId::parse(self.list, self.offset) {
            Ok((id, used)) => {
                self.list = &self.list[used..];
                self.offset += used;
                Some(Ok(id))
            }
            Err(e) => {
                self.list = &[];
                Some(Err(e))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{string::String, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    fn bytes(id: TransportId<'_>) -> Vec<u8> {
        let mut room = [0xEE; TransportId::MAX_BYTES];
        let mut w = Emit::new(&mut room);
        id.emit(&mut w);
        assert_eq!(w.full_len(), w.written());
        w.as_bytes().to_vec()
    }

    #[test]
    fn an_iscsi_port_is_name_and_isid() {
        let id = TransportId::IscsiPort { name: "iqn.1993-08.org:a", isid: [0, 2, 0x3D, 0, 0, 0xAF] };
        let mut want = [0x45, 0, 0, 36].to_vec();
        want.extend_from_slice(b"iqn.1993-08.org:a,i,0x00023d0000af\0\0");
        // 17 + 5 + 12 characters and their null are 35, so one more.
        assert_eq!(bytes(id), want);
        assert_eq!(TransportId::parse(&want, 24), Ok((id, 40)));
    }

    #[test]
    fn an_iscsi_device_has_24_bytes_at_least() {
        let id = TransportId::Iscsi { name: "iqn.a" };
        let mut want = [5, 0, 0, 20].to_vec();
        want.extend_from_slice(b"iqn.a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(bytes(id), want);
        assert_eq!(TransportId::parse(&want, 0), Ok((id, 24)));
    }

    #[test]
    fn the_longest_name_fits() {
        let name: String = core::iter::repeat_n('x', 223).collect();
        let id = TransportId::IscsiPort { name: &name, isid: [0xFF; 6] };
        assert_eq!(bytes(id).len(), TransportId::MAX_BYTES);
        assert_eq!(TransportId::parse(&bytes(id), 0), Ok((id, TransportId::MAX_BYTES)));
    }

    #[test]
    fn others_have_24_bytes() {
        let fcp = bytes(TransportId::Fcp(0x2100_0024_FF12_3456));
        assert_eq!(fcp[..16], [0, 0, 0, 0, 0, 0, 0, 0, 0x21, 0, 0, 0x24, 0xFF, 0x12, 0x34, 0x56]);
        assert_eq!(
            bytes(TransportId::Sas(0x5000_0000_0000_0001))[..12],
            [6, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 1]
        );
        for id in [TransportId::Fcp(1), TransportId::Srp([7; 16]), TransportId::Sas(2)] {
            assert_eq!(TransportId::parse(&bytes(id), 0), Ok((id, 24)));
        }
    }

    #[test]
    fn what_is_wrong_is_named_in_the_parameter_list() {
        let field = |at, bit| Err(ListError::Field(FieldError { byte: at, bit }));
        let mut iscsi = bytes(TransportId::Iscsi { name: "iqn.a" });
        let parse = |b: &[u8]| TransportId::parse(b, 28).map(|(_, n)| n);
        assert_eq!(parse(&[]), Err(ListError::Length));
        assert_eq!(parse(&iscsi[..3]), Err(ListError::Length));
        assert_eq!(parse(&iscsi[..23]), Err(ListError::Length));
        assert_eq!(parse(&[0; 23]), Err(ListError::Length));
        iscsi[3] = 19;
        assert_eq!(parse(&iscsi), field(30, None));
        iscsi[3] = 20;
        iscsi[0] = 0x85;
        assert_eq!(parse(&iscsi), field(28, Some(7)));
        iscsi[0] = 0x45; // format 01b without an ISID
        assert_eq!(parse(&iscsi), field(32, None));
        assert_eq!(parse(&[0x03; 24]), field(28, Some(3)));
        assert_eq!(parse(&[0x46; 24]), field(28, Some(7)));
        let mut unended = [b'a'; 24];
        unended[..4].copy_from_slice(&[5, 0, 0, 20]);
        assert_eq!(parse(&unended), field(32, None));
    }

    #[test]
    fn short_and_capital_isids_are_understood() {
        assert_eq!(parse_isid("3D"), Some([0, 0, 0, 0, 0, 0x3D]));
        assert_eq!(parse_isid("00023D000001"), Some([0, 2, 0x3D, 0, 0, 1]));
        assert_eq!(parse_isid(""), None);
        assert_eq!(parse_isid("+1"), None);
        assert_eq!(parse_isid("0000000000001"), None);
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_back(name in "[a-z0-9:.-]{1,223}", isid: [u8; 6], n: u64, srp: [u8; 16]) {
            let all = [
                TransportId::Iscsi { name: &name }, TransportId::IscsiPort { name: &name, isid },
                TransportId::Fcp(n), TransportId::Srp(srp), TransportId::Sas(n),
            ];
            let list: Vec<u8> = all.iter().flat_map(|id| bytes(*id)).collect();
            prop_assert_eq!(list.len() % 4, 0);
            let back: Result<Vec<_>, _> = TransportIds::new(&list, 28).collect();
            prop_assert_eq!(back.as_deref(), Ok(all.as_slice()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            first in prop_oneof![Just(0x05u8), Just(0x45), any::<u8>()],
            length in 0u8..64,
            mut b in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            if let Some(header) = b.first_chunk_mut::<4>() {
                *header = [first, 0, 0, length];
            }
            prop_assert!(TransportIds::new(&b, 0).count() <= b.len());
        }
    }
}
