//! Registrations and reservation in the form that survives a power cut (APTPL; SPC-4 §5.13.5).
//!
//! The caller stores [`encode`]'s bytes so that either the old record or the new one is there after a power
//! cut (a new file, flushed, renamed over the old one, directory flushed), before the command that asked for
//! it is answered. [`decode`] believes nothing: length, checksum, the unit's identity and every invariant of
//! the table are verified, so a damaged or foreign record is an error and never half a table.
//!
//! The record, big-endian:
//!
//! | bytes | |
//! |---|---|
//! | 8 | `SPDLRSV` and the version, 1 |
//! | 16 | uuid of the logical unit |
//! | 4 | length of the whole record |
//! | 1 | type code of the reservation, 0 for none |
//! | 1 | nought |
//! | 2 | which registration holds it, counted from nought; FFFFh for none, or all |
//! | 2 | number of registrations |
//! | … | each: key (8), relative target port (2), length and bytes of the target's name (2, …), length and bytes of the TransportID (2, …) |
//! | 4 | CRC-32C of all before |
//!
//! PRGENERATION is not stored: it is nought after power on (SPC-4 §6.15.2).

use spindle_scsi_spec::TransportId;
use spindle_scsi_spec::reserve::ReservationType;

use super::name::NexusName;
use super::table::{REGISTRATIONS_MAX, Registration, Reservation, ReserveTable};

/// Longest name of either kind that is stored. iSCSI names have at most 223 bytes.
const NAME_BYTES_MAX: usize = 256;
const _: () = assert!(TransportId::MAX_BYTES <= NAME_BYTES_MAX);

/// Longest record: what a reader needs to read at most.
pub const RECORD_BYTES_MAX: usize =
    HEAD_BYTES + REGISTRATIONS_MAX * (14 + 2 * NAME_BYTES_MAX) + CHECKSUM_BYTES;

const MAGIC: [u8; 8] = *b"SPDLRSV\x01";
const LENGTH_AT: usize = 24;
const HEAD_BYTES: usize = 34;
const CHECKSUM_BYTES: usize = 4;
const NOBODY: u16 = 0xFFFF;

/// Why a stored record was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PersistError {
    /// Not such a record, or of a version this program does not know.
    #[error("the record is no reservation record of version 1")]
    Format,
    /// It has been cut short, or changed.
    #[error("the reservation record is damaged")]
    Damaged,
    /// It was written for another logical unit.
    #[error("the reservation record belongs to another logical unit")]
    Foreign,
    /// Its checksum is right and its contents are not.
    #[error("the reservation record contradicts itself")]
    Unsound,
}

/// The record of what must outlive a power cut: everything if APTPL is in force, else an empty record, which
/// says that nothing does.
pub fn encode(table: &ReserveTable, unit: &[u8; 16]) -> Vec<u8> {
    let registrations = if table.aptpl { table.registrations.as_slice() } else { &[] };
    let reservation = table.reservation.as_ref().filter(|_| table.aptpl);
    let holder = reservation
        .and_then(|r| r.holder.as_ref())
        .and_then(|holder| registrations.iter().position(|r| r.nexus == *holder))
        .map_or(NOBODY, |at| at as u16); // at most REGISTRATIONS_MAX

    let mut out = Vec::with_capacity(HEAD_BYTES + registrations.len() * 128 + CHECKSUM_BYTES);
    out.extend(MAGIC);
    out.extend(unit);
    out.extend([0; 4]);
    out.extend([reservation.map_or(0, |r| r.kind.code()), 0]);
    out.extend(holder.to_be_bytes());
    out.extend((registrations.len() as u16).to_be_bytes());
    for r in registrations {
        out.extend(r.key.to_be_bytes());
        out.extend(r.nexus.relative_port().to_be_bytes());
        put_name(&mut out, r.nexus.target().as_bytes());
        put_name(&mut out, r.nexus.transport_id());
    }
    let length = (out.len() + CHECKSUM_BYTES) as u32;
    out[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    let sum = crc32c(&out);
    out.extend(sum.to_be_bytes());
    out
}

/// The table of a stored record, for a unit that comes up. APTPL is in force if there was anything to keep.
pub fn decode(record: &[u8], unit: &[u8; 16]) -> Result<ReserveTable, PersistError> {
    if !record.starts_with(&MAGIC) {
        return Err(PersistError::Format);
    }
    let Some((body, sum)) = record.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(PersistError::Damaged);
    };
    if u32::from_be_bytes(*sum) != crc32c(body) {
        return Err(PersistError::Damaged);
    }
    let mut rest = Reader(body.get(MAGIC.len()..).unwrap_or(&[]));
    let found: [u8; 16] = rest.array().ok_or(PersistError::Damaged)?;
    if found != *unit {
        return Err(PersistError::Foreign);
    }
    let table = rest.table(record.len()).ok_or(PersistError::Unsound)?;
    if table.is_sound() { Ok(table) } else { Err(PersistError::Unsound) }
}

fn put_name(out: &mut Vec<u8>, name: &[u8]) {
    // `NexusName` takes any length; what the record cannot hold no transport can produce either.
    let name = &name[..name.len().min(NAME_BYTES_MAX)];
    out.extend((name.len() as u16).to_be_bytes());
    out.extend(name);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn name(&mut self) -> Option<&'a [u8]> {
        let n = usize::from(self.u16()?);
        if n > NAME_BYTES_MAX { None } else { self.take(n) }
    }

    fn table(&mut self, record_bytes: usize) -> Option<ReserveTable> {
        let length = u32::from_be_bytes(self.array()?);
        if usize::try_from(length).ok()? != record_bytes {
            return None;
        }
        let [kind, zero] = self.array()?;
        let (holder, count) = (self.u16()?, self.u16()?);
        if zero != 0 || usize::from(count) > REGISTRATIONS_MAX {
            return None;
        }
        let mut registrations = Vec::with_capacity(count.into());
        for _ in 0..count {
            let key = u64::from_be_bytes(self.array()?);
            let port = self.u16()?;
            let target = std::str::from_utf8(self.name()?).ok()?;
            let id = self.name()?;
            if !TransportId::parse(id, 0).is_ok_and(|(_, used)| used == id.len()) {
                return None;
            }
            let nexus = NexusName::new(id, target, port);
            registrations.push(Registration { nexus, key });
        }
        if !self.0.is_empty() {
            return None;
        }
        let holder = match holder {
            NOBODY => None,
            at => Some(registrations.get(usize::from(at))?.nexus.clone()),
        };
        let reservation = match (kind, holder) {
            (0, None) => None,
            (code, holder) => Some(Reservation { kind: ReservationType::from_code(code)?, holder }),
        };
        let aptpl = !registrations.is_empty();
        Some(ReserveTable { generation: 0, registrations, reservation, legacy: None, aptpl })
    }
}

/// CRC-32C (Castagnoli), bit by bit: a record is small and rarely written.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use spindle_scsi_spec::Emit;

    use super::super::name::nexus;
    use super::*;

    const UNIT: [u8; 16] = *b"0123456789abcdef";

    fn table() -> ReserveTable {
        let mut t = ReserveTable { aptpl: true, generation: 9, ..ReserveTable::new() };
        for n in 1..=3 {
            assert!(t.register(&nexus(n), 0x1000 + u64::from(n)));
        }
        let kind = ReservationType::ExclusiveAccess;
        t.reservation = Some(Reservation { kind, holder: Some(nexus(2)) });
        t
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn a_table_comes_back_with_generation_nought() {
        let t = table();
        let back = decode(&encode(&t, &UNIT), &UNIT).unwrap();
        assert_eq!(back, ReserveTable { generation: 0, ..t });
    }

    #[test]
    fn the_record_has_the_documented_layout() {
        let mut t = ReserveTable { aptpl: true, ..ReserveTable::new() };
        let name = NexusName::new(&[0x45, 1, 2, 3], "t", 0x0102);
        assert!(t.register(&name, 0x1122_3344_5566_7788));
        t.reservation = Some(Reservation { kind: ReservationType::WriteExclusive, holder: Some(name) });
        let record = encode(&t, &UNIT);
        let mut expected = b"SPDLRSV\x010123456789abcdef".to_vec();
        expected.extend([0, 0, 0, 57, 1, 0, 0, 0, 0, 1]);
        expected
            .extend([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 1, 2, 0, 1, b't', 0, 4, 0x45, 1, 2, 3]);
        assert_eq!(record[..record.len() - 4], expected);
        assert_eq!(record.len(), 57);
    }

    #[test]
    fn without_aptpl_the_record_says_that_nothing_is_kept() {
        let t = ReserveTable { aptpl: false, ..table() };
        assert_eq!(decode(&encode(&t, &UNIT), &UNIT), Ok(ReserveTable::new()));
    }

    #[test]
    fn an_all_registrants_reservation_comes_back_without_a_holder() {
        let kind = ReservationType::WriteExclusiveAllRegistrants;
        let t = ReserveTable { reservation: Some(Reservation { kind, holder: None }), ..table() };
        let back = decode(&encode(&t, &UNIT), &UNIT).unwrap();
        assert!(back.is_holder(&nexus(3)) && !back.is_holder(&nexus(4)));
    }

    #[test]
    fn a_full_table_of_long_names_fits_the_longest_record() {
        let mut room = [0; TransportId::MAX_BYTES];
        let mut id = Emit::new(&mut room);
        TransportId::IscsiPort { name: &"i".repeat(223), isid: [0x40; 6] }.emit(&mut id);
        let mut t = ReserveTable { aptpl: true, ..ReserveTable::new() };
        for port in 0..REGISTRATIONS_MAX as u16 {
            assert!(t.register(&NexusName::new(id.as_bytes(), &"t".repeat(NAME_BYTES_MAX), port), 1));
        }
        let record = encode(&t, &UNIT);
        assert!(record.len() <= RECORD_BYTES_MAX);
        assert!(decode(&record, &UNIT) == Ok(t));
    }

    #[test]
    fn a_record_of_another_unit_is_refused() {
        assert_eq!(decode(&encode(&table(), &UNIT), &[0; 16]), Err(PersistError::Foreign));
        assert_eq!(decode(b"", &UNIT), Err(PersistError::Format));
        assert_eq!(decode(&MAGIC, &UNIT), Err(PersistError::Damaged));
    }

    /// Puts a right checksum under changed bytes.
    fn resealed(mut record: Vec<u8>) -> Vec<u8> {
        record.truncate(record.len() - 4);
        let sum = crc32c(&record);
        record.extend(sum.to_be_bytes());
        record
    }

    #[test]
    fn a_well_summed_record_that_makes_no_sense_is_refused() {
        let good = encode(&table(), &UNIT);
        assert!(decode(&resealed(good.clone()), &UNIT).is_ok());
        let bad = |at: usize, value: u8| {
            let mut record = good.clone();
            record[at] = value;
            assert_eq!(decode(&resealed(record), &UNIT), Err(PersistError::Unsound), "byte {at} = {value}");
        };
        bad(27, 0); // length
        bad(28, 2); // a type that is none
        bad(28, 0); // a holder of nothing
        bad(28, 8); // a holder where all hold
        bad(29, 1); // reserved
        bad(31, 3); // a holder past the end
        bad(33, 2); // fewer registrations than there are
        bad(33, 4); // more
        let mut twice = good.clone();
        let entry = (good.len() - 4 - HEAD_BYTES) / 3;
        let first = twice[HEAD_BYTES..HEAD_BYTES + entry].to_vec();
        twice[HEAD_BYTES + entry..HEAD_BYTES + 2 * entry].copy_from_slice(&first);
        assert_eq!(decode(&resealed(twice), &UNIT), Err(PersistError::Unsound));
    }

    proptest! {
        #[test]
        fn every_changed_bit_and_every_cut_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
            let mut record = encode(&table(), &UNIT);
            let at = at.index(record.len());
            if cut { record.truncate(at) } else { record[at] ^= 1 << bit }
            prop_assert!(decode(&record, &UNIT).is_err());
        }

        #[test]
        fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut record = MAGIC.to_vec();
            record.extend(UNIT);
            record.extend(body);
            record.extend([0; 4]);
            if let Ok(t) = decode(&resealed(record), &UNIT) {
                prop_assert!(t.is_sound());
            }
        }
    }
}
