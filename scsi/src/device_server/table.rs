//! The opcode table: one row for each command a disk serves.
//!
//! A row says all that must be known of a command before it is performed: its length and which of its bits
//! mean something ([`OpRow::usage`], which REPORT SUPPORTED OPERATION CODES hands out as it is), what
//! reservations and unit attentions do to it, and who performs it. Finding a row is one index by opcode; where
//! an opcode has service actions, a short walk follows.
//!
//! Usage maps: CONTROL is nought throughout (no NACA), RDPROTECT, WRPROTECT and VRPROTECT are nought (no
//! protection information), so are ANCHOR, RARC, FUA_NV, RELADR and all reserved bits. GROUP NUMBER is let
//! through and means nothing.

use spindle_bdev::BdevInfo;
use spindle_scsi_spec::cdb::{PreventAllowMediumRemoval, StartStopUnit};
use spindle_scsi_spec::opcode::service_action_in_16;
use spindle_scsi_spec::opcode::{self, maintenance_in, persistent_reserve_in, persistent_reserve_out};
use spindle_scsi_spec::{Asc, FieldError, Sense};

use super::{Attention, Exec, Needs, OpRow, capacity, forbidden, inquiry, mode, report};
use crate::reserve::{Access, read};

/// Commands whose row stands below and which nobody performs yet: to an initiator they do not exist. A command
/// leaves this list with the code that serves it.
const NOT_SERVED: &[u8] = &[];

/// The row of a CDB: INVALID COMMAND OPERATION CODE, or INVALID FIELD IN CDB for a service action that is not
/// there. Whether the unit can do it ([`available`]) and whether the CDB is right (`check_usage`) is not asked.
#[inline]
pub fn lookup(cdb: &[u8]) -> Result<&'static OpRow, Sense> {
    let Some(opcode) = cdb.first() else { return Err(unknown_opcode()) };
    let rows = rows_of(*opcode);
    match rows {
        [] => Err(unknown_opcode()),
        [row] if row.service_action.is_none() => Ok(row),
        rows => {
            let wanted = cdb.get(1).map(|b| u16::from(b & 0x1F));
            rows.iter()
                .find(|row| row.service_action == wanted)
                .ok_or_else(|| Sense::invalid_field_in_cdb(SERVICE_ACTION))
        }
    }
}

/// The row of a READ or WRITE of ten or sixteen bytes; `None` for all else.
#[inline]
pub fn quick(opcode: u8) -> Option<&'static OpRow> {
    QUICK[usize::from(opcode)]
}

/// All rows of an opcode: one without service action, or as many as it has of those; none if it is not served.
#[inline]
pub fn rows_of(opcode: u8) -> &'static [OpRow] {
    let (first, end) = INDEX[usize::from(opcode)];
    &ROWS[usize::from(first)..usize::from(end)]
}

/// Every row, in ascending order of opcode and service action.
pub fn rows() -> impl Iterator<Item = &'static OpRow> {
    (0..=u8::MAX).flat_map(rows_of)
}

/// Whether this unit can do it; a command it cannot do does not exist for it.
#[inline]
pub fn available(row: &OpRow, info: &BdevInfo) -> bool {
    match row.needs {
        Needs::Nothing => true,
        Needs::Unmap => info.unmap,
    }
}

/// The class of a command under reservations. It is the row's, but for two commands that are harmless in one
/// of their forms (SPC-4 §5.13.1: PREVENT ALLOW with PREVENT nought; SBC-3 §4.17: START STOP UNIT with START
/// one and POWER CONDITION nought).
pub fn access_of(row: &OpRow, cdb: &[u8]) -> Access {
    let harmless = match row.exec {
        Exec::StartStop => StartStopUnit::parse(cdb).is_ok_and(|c| c.start && c.power_condition == 0),
        Exec::PreventAllow => PreventAllowMediumRemoval::parse(cdb).is_ok_and(|c| c.prevent == 0),
        _ => false,
    };
    if harmless { Access::Free } else { row.access }
}

const SERVICE_ACTION: FieldError = FieldError::bit(1, 4);

#[cold]
fn unknown_opcode() -> Sense {
    Sense::illegal_request(Asc::INVALID_COMMAND_OPERATION_CODE)
}

/// Where the rows of each opcode begin and end in [`ROWS`].
static INDEX: [(u8, u8); 256] = index();

const fn index() -> [(u8, u8); 256] {
    let mut index = [(0, 0); 256];
    let mut at = 0;
    while at < ROWS.len() {
        let row = &ROWS[at];
        let slot = &mut index[row.opcode as usize];
        let mut served = true;
        let mut n = 0;
        while n < NOT_SERVED.len() {
            served = served && NOT_SERVED[n] != row.opcode;
            n += 1;
        }
        if served {
            if slot.1 == 0 {
                slot.0 = at as u8;
            }
            assert!(slot.1 == 0 || slot.1 as usize == at, "the rows of an opcode stand together");
            slot.1 = at as u8 + 1;
        }
        at += 1;
    }
    index
}

const _: () = assert!(ROWS.len() < 256);

/// What [`quick`] finds.
static QUICK: [Option<&'static OpRow>; 256] = {
    let mut quick = [None; 256];
    let opcodes = [opcode::READ_10, opcode::WRITE_10, opcode::READ_16, opcode::WRITE_16];
    let mut n = 0;
    while n < opcodes.len() {
        let (first, end) = index()[opcodes[n] as usize];
        assert!(end == first + 1, "READ and WRITE have a row each");
        let row = &ROWS[first as usize];
        assert!(matches!((&row.exec, row.access), (Exec::Read, Access::Read) | (Exec::Write, Access::Write)));
        assert!(matches!(row.needs, Needs::Nothing));
        quick[opcodes[n] as usize] = Some(row);
        n += 1;
    }
    quick
};

/// A command that tells a pending unit attention, stands in line by its attribute and needs nothing special.
const fn row(opcode: u8, usage: &'static [u8], access: Access, exec: Exec) -> OpRow {
    let Some(name) = opcode::name(opcode) else { panic!("an opcode without a name") };
    assert!(usage[0] == opcode);
    assert!(matches!(spindle_scsi_spec::cdb_len(opcode), Some(n) if n == usage.len()));
    OpRow {
        name,
        opcode,
        service_action: None,
        usage,
        forbidden: forbidden(usage),
        access,
        attention: Attention::Reports,
        head_of_queue: false,
        needs: Needs::Nothing,
        exec,
    }
}

/// The same with a service action.
const fn action(name: Option<&'static str>, usage: &'static [u8], access: Access, exec: Exec) -> OpRow {
    let Some(name) = name else { panic!("a service action without a name") };
    let service_action = Some((usage[1] & 0x1F) as u16);
    OpRow { name, service_action, ..row(usage[0], usage, access, exec) }
}

/// It may go before all others (SAM-5 §8.6.3).
const fn first(row: OpRow) -> OpRow {
    OpRow { head_of_queue: true, ..row }
}

const fn attention(attention: Attention, row: OpRow) -> OpRow {
    OpRow { attention, ..row }
}

use Access::{Free, Ready};

/// DPO and FUA.
const DF: u8 = 0x18;
/// DPO and BYTCHK.
const DB: u8 = 0x16;
/// GROUP NUMBER.
const GN: u8 = 0x1F;

static ROWS: [OpRow; 52] = [
    first(row(0x00, &[0x00, 0, 0, 0, 0, 0], Ready, Exec::TestUnitReady)),
    first(attention(Attention::Returns, row(0x03, &[0x03, 1, 0, 0, 0xFF, 0], Free, Exec::RequestSense))),
    row(0x08, &[0x08, 0x1F, 0xFF, 0xFF, 0xFF, 0], Access::Read, Exec::Read),
    row(0x0A, &[0x0A, 0x1F, 0xFF, 0xFF, 0xFF, 0], Access::Write, Exec::Write),
    first(attention(
        Attention::Passes,
        row(0x12, &[0x12, 1, 0xFF, 0xFF, 0xFF, 0], Free, Exec::Describe(inquiry::inquiry)),
    )),
    row(0x15, &[0x15, 0x11, 0, 0, 0xFF, 0], Access::Write, Exec::ModeSelect),
    row(0x16, &[0x16, 0, 0, 0, 0, 0], Access::Reserve, Exec::Reserve),
    row(0x17, &[0x17, 0, 0, 0, 0, 0], Access::Release, Exec::Release),
    row(0x1A, &[0x1A, 0x08, 0xFF, 0xFF, 0xFF, 0], Access::Read, Exec::Describe(mode::mode_sense)),
    row(0x1B, &[0x1B, 0x01, 0, 0x0F, 0xF7, 0], Access::Write, Exec::StartStop),
    row(0x1E, &[0x1E, 0, 0, 0, 0x01, 0], Access::Write, Exec::PreventAllow),
    first(row(
        0x25,
        &[0x25, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 1, 0],
        Free,
        Exec::Describe(capacity::read_capacity_10),
    )),
    row(0x28, &[0x28, DF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0xFF, 0xFF, 0], Access::Read, Exec::Read),
    row(0x2A, &[0x2A, DF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0xFF, 0xFF, 0], Access::Write, Exec::Write),
    row(0x2E, &[0x2E, DB, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0xFF, 0xFF, 0], Access::Write, Exec::WriteAndVerify),
    row(0x2F, &[0x2F, DB, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0xFF, 0xFF, 0], Access::Read, Exec::Verify),
    row(0x34, &[0x34, 2, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0xFF, 0xFF, 0], Access::Read, Exec::PreFetch),
    row(0x35, &[0x35, 2, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0xFF, 0xFF, 0], Access::Write, Exec::SynchronizeCache),
    row(0x41, &[0x41, 8, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0xFF, 0xFF, 0], Access::Write, Exec::WriteSame),
    OpRow {
        needs: Needs::Unmap,
        ..row(0x42, &[0x42, 0, 0, 0, 0, 0, GN, 0xFF, 0xFF, 0], Access::Write, Exec::Unmap)
    },
    row(0x55, &[0x55, 0x11, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0], Access::Write, Exec::ModeSelect),
    row(0x56, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], Access::Reserve, Exec::Reserve),
    row(0x57, &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0], Access::Release, Exec::Release),
    row(
        0x5A,
        &[0x5A, 0x18, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0],
        Access::Read,
        Exec::Describe(mode::mode_sense),
    ),
    pr_in(0, &[0x5E, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0]),
    pr_in(1, &[0x5E, 1, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0]),
    pr_in(2, &[0x5E, 2, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0]),
    pr_in(3, &[0x5E, 3, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0]),
    pr_out(0, &[0x5F, 0, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
    pr_out(1, &[0x5F, 1, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
    pr_out(2, &[0x5F, 2, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
    pr_out(3, &[0x5F, 3, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
    pr_out(4, &[0x5F, 4, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
    pr_out(5, &[0x5F, 5, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
    pr_out(6, &[0x5F, 6, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
    row(
        0x88,
        &[0x88, DF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0],
        Access::Read,
        Exec::Read,
    ),
    row(
        0x89,
        &[0x89, DF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0xFF, GN, 0],
        Access::Write,
        Exec::CompareAndWrite,
    ),
    row(
        0x8A,
        &[0x8A, DF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0],
        Access::Write,
        Exec::Write,
    ),
    row(
        0x8E,
        &[0x8E, DB, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0],
        Access::Write,
        Exec::WriteAndVerify,
    ),
    row(
        0x8F,
        &[0x8F, DB, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0],
        Access::Read,
        Exec::Verify,
    ),
    row(
        0x90,
        &[0x90, 2, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0],
        Access::Read,
        Exec::PreFetch,
    ),
    row(
        0x91,
        &[0x91, 2, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0],
        Access::Write,
        Exec::SynchronizeCache,
    ),
    row(
        0x93,
        &[0x93, 9, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0],
        Access::Write,
        Exec::WriteSame,
    ),
    first(action(
        service_action_in_16::name(0x10),
        &[0x9E, 0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0],
        Free,
        Exec::Describe(capacity::read_capacity_16),
    )),
    action(
        service_action_in_16::name(0x12),
        &[0x9E, 0x12, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Access::Read,
        Exec::LbaStatus,
    ),
    first(attention(
        Attention::Passes,
        row(0xA0, &[0xA0, 0, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0], Free, Exec::ReportLuns),
    )),
    action(
        maintenance_in::name(0x0C),
        &[0xA3, 0x0C, 0x87, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Access::Read,
        Exec::Describe(report::supported_operation_codes),
    ),
    action(
        maintenance_in::name(0x0D),
        &[0xA3, 0x0D, 0x80, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Access::Read,
        Exec::Describe(report::supported_task_management_functions),
    ),
    row(0xA8, &[0xA8, DF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0], Access::Read, Exec::Read),
    row(0xAA, &[0xAA, DF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0], Access::Write, Exec::Write),
    row(
        0xAE,
        &[0xAE, DB, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0],
        Access::Write,
        Exec::WriteAndVerify,
    ),
    row(0xAF, &[0xAF, DB, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, GN, 0], Access::Read, Exec::Verify),
];

const fn pr_in(service_action: u8, usage: &'static [u8]) -> OpRow {
    let name = persistent_reserve_in::name(service_action);
    action(name, usage, Access::PersistentIn, Exec::Describe(read::persistent_in))
}

const fn pr_out(service_action: u8, usage: &'static [u8]) -> OpRow {
    let name = persistent_reserve_out::name(service_action);
    action(name, usage, Access::PersistentOut, Exec::PersistentOut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_server::check_usage;

    #[test]
    fn every_row_is_found_by_its_own_usage_map() {
        assert_eq!(rows().count() + NOT_SERVED.len(), ROWS.len());
        for row in rows() {
            let found = lookup(row.usage).unwrap();
            assert!(std::ptr::eq(found, row), "{}", row.name);
            assert!(check_usage(row, row.usage).is_ok(), "{}", row.name);
            assert_eq!(row.usage[row.usage.len() - 1], 0, "{}: NACA is not supported", row.name);
        }
    }

    #[test]
    fn rows_ascend_by_opcode_and_service_action() {
        let order: Vec<_> = rows().map(|r| (r.opcode, r.service_action)).collect();
        assert!(order.is_sorted_by(|a, b| a < b));
        for row in rows() {
            assert_eq!(
                row.service_action,
                spindle_scsi_spec::opcode::service_action(row.usage),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn the_list_of_the_foundation_is_complete() {
        let wanted: &[u8] = &[
            0x00, 0x03, 0x08, 0x0A, 0x12, 0x15, 0x16, 0x17, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x2A, 0x2E, 0x2F,
            0x35, 0x41, 0x42, 0x55, 0x56, 0x57, 0x5A, 0x5E, 0x5F, 0x88, 0x89, 0x8A, 0x8E, 0x8F, 0x91, 0x93,
            0x9E, 0xA0, 0xA3, 0xA8, 0xAA, 0xAE, 0xAF,
        ];
        for opcode in wanted {
            assert!(!rows_of(*opcode).is_empty() || NOT_SERVED.contains(opcode), "{opcode:02X}h");
        }
    }

    #[test]
    fn an_unknown_opcode_and_an_unknown_service_action_are_told_apart() {
        let opcode = Err(Sense::illegal_request(Asc::INVALID_COMMAND_OPERATION_CODE));
        assert_eq!(lookup(&[0xFF, 0]).map(|_| ()), opcode);
        assert_eq!(lookup(&[]).map(|_| ()), opcode);
        let action = Err(Sense::invalid_field_in_cdb(FieldError::bit(1, 4)));
        for sa in 4..0x20 {
            assert_eq!(
                lookup(&[0x5E, sa, 0, 0, 0, 0, 0, 0, 0, 0]).map(|_| ()),
                action,
                "PERSISTENT RESERVE IN {sa}"
            );
        }
        assert_eq!(lookup(&[0x9E]).map(|_| ()), action);
        assert_eq!(
            lookup(&[0x5E, 0xE0]).unwrap().service_action,
            Some(0),
            "the upper bits are no service action"
        );
    }

    #[test]
    fn a_reserved_bit_is_pointed_at() {
        let mut cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert!(check_usage(lookup(&cdb).unwrap(), &cdb).is_ok());
        cdb[1] = 0x20; // RDPROTECT 001b
        let s = check_usage(lookup(&cdb).unwrap(), &cdb).unwrap_err();
        assert_eq!(s, Sense::invalid_field_in_cdb(FieldError::bit(1, 5)));
        (cdb[1], cdb[9]) = (DF, 0x04); // NACA
        let s = check_usage(lookup(&cdb).unwrap(), &cdb).unwrap_err();
        assert_eq!(s, Sense::invalid_field_in_cdb(FieldError::bit(9, 2)));
    }

    #[test]
    fn starting_and_allowing_are_free() {
        let class = |cdb: &[u8]| access_of(lookup(cdb).unwrap(), cdb);
        assert_eq!(class(&[0x1B, 0, 0, 0, 1, 0]), Access::Free);
        assert_eq!(class(&[0x1B, 0, 0, 0, 0, 0]), Access::Write);
        assert_eq!(class(&[0x1B, 0, 0, 0, 0x21, 0]), Access::Write);
        assert_eq!(class(&[0x1E, 0, 0, 0, 0, 0]), Access::Free);
        assert_eq!(class(&[0x1E, 0, 0, 0, 1, 0]), Access::Write);
        assert_eq!(class(&[0x2A, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Access::Write);
        assert_eq!(class(&[0x00, 0, 0, 0, 0, 0]), Access::Ready);
    }
}
