//! REPORT LUNS, REPORT SUPPORTED OPERATION CODES, REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 §6.33,
//! §6.34, §6.35).

use spindle_scsi_spec::cdb::{
    ReportLuns, ReportSupportedOperationCodes, ReportSupportedTaskManagementFunctions, ReportingOptions,
    SelectReport,
};
use spindle_scsi_spec::report::{
    self, CommandDescriptor, CommandTimeouts, OneCommand, Support, SupportedTaskManagement,
    TaskManagementFunctions, TmfTimeouts,
};
use spindle_scsi_spec::{Emit, FieldError, Lun, LunMethod, Sense};

use super::{LuView, LunsView, OpRow, table};

/// REPORT LUNS. LUNs up to 255 are written in peripheral device addressing, those above in flat space.
///
/// The target has no well known logical units, so 01h gives an empty list; and no conglomerates, so 10h and
/// 12h, which ask for administrative and subsidiary units only, do as well, and 11h is all there are.
pub fn report_luns(cdb: &[u8], view: &LunsView<'_>, out: &mut Emit<'_>) -> Result<u32, Sense> {
    let cdb = ReportLuns::parse(cdb)?;
    // SPC-4 §6.33: ALLOCATION LENGTH is at least 16.
    if cdb.alloc_bytes < 16 {
        return Err(Sense::invalid_field_in_cdb(FieldError::byte(6)));
    }
    let luns = match cdb.select {
        SelectReport::NotWellKnown | SelectReport::All | SelectReport::AdministrativeAndOther => view.luns,
        SelectReport::WellKnown | SelectReport::Administrative | SelectReport::Subsidiary => &[],
    };
    let luns = luns.iter().filter_map(|l| Lun::single_level(l.lun.into(), LunMethod::Peripheral));
    report::emit_luns(luns, out);
    Ok(cdb.alloc_bytes)
}

/// No command has a bound that could be promised.
const TIMEOUTS: CommandTimeouts = CommandTimeouts { command_specific: 0, nominal_s: 0, recommended_s: 0 };

/// REPORT SUPPORTED OPERATION CODES.
pub fn supported_operation_codes(cdb: &[u8], view: &LuView<'_>, out: &mut Emit<'_>) -> Result<u32, Sense> {
    let cdb = ReportSupportedOperationCodes::parse(cdb)?;
    let served = |row: &&OpRow| table::available(row, view.info);
    let one = |opcode: u8, action: Option<u16>| {
        table::rows_of(opcode).iter().filter(served).find(|r| r.service_action == action)
    };
    let has_actions = |opcode: u8| table::rows_of(opcode).iter().any(|r| r.service_action.is_some());
    let found = match cdb.options {
        ReportingOptions::All => {
            let lines = table::rows().filter(served).map(|row| CommandDescriptor {
                opcode: row.opcode,
                service_action: row.service_action,
                cdb_bytes: row.usage.len() as u16, // at most 16
                timeouts: TIMEOUTS,
            });
            report::emit_all_commands(lines, cdb.rctd, out);
            return Ok(cdb.alloc_bytes);
        }
        // SPC-4 §6.34.2: 001b is for opcodes without service actions, 010b for those with; what is not
        // served at all is no error.
        ReportingOptions::Opcode(opcode) if has_actions(opcode) => return Err(wrong_option()),
        ReportingOptions::Opcode(opcode) => one(opcode, None),
        ReportingOptions::ServiceAction(opcode, _) if one(opcode, None).is_some() => {
            return Err(wrong_option());
        }
        ReportingOptions::ServiceAction(opcode, action) => one(opcode, Some(action)),
        ReportingOptions::Either(opcode, action) if has_actions(opcode) => one(opcode, Some(action)),
        // 011b with an opcode that has none: the service action has to be nought.
        ReportingOptions::Either(opcode, 0) => one(opcode, None),
        ReportingOptions::Either(..) => None,
    };
    let answer = match found {
        None => OneCommand::NOT_SUPPORTED,
        Some(row) => OneCommand {
            support: Support::Standard,
            usage: row.usage,
            timeouts: cdb.rctd.then_some(TIMEOUTS),
        },
    };
    answer.emit(out);
    Ok(cdb.alloc_bytes)
}

/// The REPORTING OPTIONS field is what does not fit the opcode.
#[cold]
fn wrong_option() -> Sense {
    Sense::invalid_field_in_cdb(FieldError::bit(2, 2))
}

/// Functions the task manager performs (design: 1, 2 and 4 to 7 of RFC 7143 §11.5.1).
pub const TASK_MANAGEMENT: TaskManagementFunctions = TaskManagementFunctions {
    abort_task: true,
    abort_task_set: true,
    clear_aca: false,
    clear_task_set: true,
    logical_unit_reset: true,
    query_task: false,
    target_reset: true,
    query_asynchronous_event: false,
    query_task_set: false,
    i_t_nexus_reset: false,
};

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS. No timeout is promised: a function is answered when the
/// commands concerned have ended.
pub fn supported_task_management_functions(
    cdb: &[u8],
    _: &LuView<'_>,
    out: &mut Emit<'_>,
) -> Result<u32, Sense> {
    let cdb = ReportSupportedTaskManagementFunctions::parse(cdb)?;
    let timeouts = cdb.repd.then(TmfTimeouts::default);
    SupportedTaskManagement { functions: TASK_MANAGEMENT, timeouts }.emit(out);
    Ok(cdb.alloc_bytes)
}

#[cfg(test)]
mod tests {
    use spindle_bdev::BdevInfo;

    use super::super::fixture::{Owner, describing, disk};
    use super::*;
    use crate::config::{LuId, LunEntry};

    fn luns(select: u8, alloc: u8, numbers: &[u16]) -> Result<Vec<u8>, Sense> {
        let entries: Vec<_> =
            numbers.iter().map(|n| LunEntry { lun: *n, lu: LuId(0), read_only: false }).collect();
        let mut room = [0; 64];
        let mut out = Emit::new(&mut room);
        let cdb = [0xA0, 0, select, 0, 0, 0, 0, 0, 0, alloc, 0, 0];
        let allocated = report_luns(&cdb, &LunsView { luns: &entries }, &mut out)? as usize;
        assert_eq!(allocated, usize::from(alloc));
        Ok(out.as_bytes().to_vec())
    }

    #[test]
    fn luns_are_peripheral_up_to_255_and_flat_above() {
        let bytes = luns(0, 64, &[0, 255, 256, 16383]).unwrap();
        assert_eq!(bytes[..8], [0, 0, 0, 32, 0, 0, 0, 0]);
        assert_eq!(bytes[8..16], [0; 8]);
        assert_eq!(bytes[16..18], [0x00, 0xFF]);
        assert_eq!(bytes[24..26], [0x41, 0x00]);
        assert_eq!(bytes[32..34], [0x7F, 0xFF]);
    }

    #[test]
    fn select_report_decides_what_is_listed() {
        for (select, listed) in [(0, 1), (1, 0), (2, 1), (0x10, 0), (0x11, 1), (0x12, 0)] {
            assert_eq!(luns(select, 16, &[5]).unwrap()[3], listed * 8, "{select:02X}h");
        }
        let wrong = Sense::invalid_field_in_cdb(FieldError::byte(2));
        for select in [3, 0x0F, 0x13, 0xFF] {
            assert_eq!(luns(select, 16, &[5]), Err(wrong), "{select:02X}h");
        }
    }

    #[test]
    fn fewer_than_16_bytes_are_refused() {
        for alloc in 0..16 {
            assert_eq!(luns(0, alloc, &[0]), Err(Sense::invalid_field_in_cdb(FieldError::byte(6))));
        }
        assert!(luns(0, 16, &[0, 1, 2]).is_ok());
    }

    fn rsoc(options: u8, opcode: u8, action: u8) -> [u8; 12] {
        [0xA3, 0x0C, options, opcode, 0, action, 0, 0, 0xFF, 0xFF, 0, 0]
    }

    fn ask(owner: &Owner, cdb: &[u8]) -> Result<Vec<u8>, Sense> {
        owner.ask(supported_operation_codes, cdb).map(|(bytes, _)| bytes)
    }

    #[test]
    fn every_command_listed_can_be_asked_for_alone() {
        // libiscsi's ReportSupportedOpcodes.OneCommand and SERVACTV
        let owner = describing();
        let all = ask(&owner, &rsoc(0, 0, 0)).unwrap();
        let lines: Vec<_> = report::parse_all_commands(&all).collect();
        assert_eq!(lines.len(), table::rows().count());
        let wrong = Err(Sense::invalid_field_in_cdb(FieldError::bit(2, 2)));
        for line in &lines {
            let action = line.service_action.unwrap_or(0) as u8;
            let by_opcode = ask(&owner, &rsoc(1, line.opcode, action));
            let by_action = ask(&owner, &rsoc(2, line.opcode, action));
            let either = ask(&owner, &rsoc(3, line.opcode, action)).unwrap();
            let good = if line.service_action.is_some() {
                assert_eq!(by_opcode, wrong);
                by_action.unwrap()
            } else {
                assert_eq!(by_action, wrong);
                by_opcode.unwrap()
            };
            assert_eq!(good, either);
            assert_eq!(good[..2], [0, 3], "as a standard says");
            assert_eq!(u16::from_be_bytes([good[2], good[3]]), line.cdb_bytes);
            assert_eq!(good[4], line.opcode);
            if line.service_action.is_some() {
                assert_eq!(good[5] & 0x1F, action);
            }
        }
    }

    #[test]
    fn rctd_brings_a_timeouts_descriptor_to_each() {
        // libiscsi's ReportSupportedOpcodes.RCTD
        let owner = describing();
        let plain = ask(&owner, &rsoc(0, 0, 0)).unwrap();
        let timed = ask(&owner, &rsoc(0x80, 0, 0)).unwrap();
        let n = table::rows().count();
        assert_eq!((plain.len(), timed.len()), (4 + 8 * n, 4 + 20 * n));
        assert!(plain[4..].chunks(8).all(|line| line[5] & 2 == 0));
        assert!(timed[4..].chunks(20).all(|line| line[5] & 2 == 2 && line[8..10] == [0, 10]));
        let one = ask(&owner, &rsoc(0x81, 0x28, 0)).unwrap();
        assert_eq!((one[1], one.len(), &one[14..16]), (0x83, 4 + 10 + 12, &[0, 10][..]));
    }

    #[test]
    fn what_is_not_served_is_said_to_be_not_supported() {
        let owner = describing();
        let none = Ok(vec![0, 1, 0, 0]);
        assert_eq!(ask(&owner, &rsoc(1, 0xFF, 0)), none);
        assert_eq!(ask(&owner, &rsoc(2, 0xFF, 0)), none);
        assert_eq!(ask(&owner, &rsoc(2, 0x5F, 7)), none, "REGISTER AND MOVE");
        assert_eq!(ask(&owner, &rsoc(3, 0x28, 1)), none, "READ(10) has no service action");
        assert_eq!(ask(&owner, &rsoc(0x83, 0xFF, 0)), none, "no timeouts of nothing");
        assert_eq!(ask(&owner, &rsoc(4, 0, 0)), Err(Sense::invalid_field_in_cdb(FieldError::bit(2, 2))));
        let thick = Owner::of(BdevInfo { unmap: false, ..disk() });
        assert_eq!(ask(&thick, &rsoc(1, 0x42, 0)), none);
        assert_ne!(ask(&owner, &rsoc(1, 0x42, 0)), none);
        let all = ask(&thick, &rsoc(0, 0, 0)).unwrap();
        assert!(report::parse_all_commands(&all).all(|line| line.opcode != 0x42));
    }

    #[test]
    fn dpo_and_fua_stand_in_the_usage_data() {
        // libiscsi's Read10.DpoFua and the like
        for opcode in [0x28, 0x2A, 0x88, 0x8A, 0xA8, 0xAA] {
            assert_eq!(ask(&describing(), &rsoc(1, opcode, 0)).unwrap()[5], 0x18);
        }
    }

    #[test]
    fn task_management_functions_come_short_and_long() {
        let owner = describing();
        let cdb = |repd: u8, alloc: u8| [0xA3, 0x0D, repd, 0, 0, 0, 0, 0, 0, alloc, 0, 0];
        let ask = |repd, alloc| owner.ask(supported_task_management_functions, &cdb(repd, alloc));
        assert_eq!(ask(0, 4).unwrap().0, [0xDA, 0, 0, 0]);
        let long = ask(0x80, 16).unwrap().0;
        assert_eq!(long[..8], [0xDA, 0, 0, 12, 1, 0, 0, 0]);
        assert_eq!(long.len(), 16);
        assert_eq!(ask(0, 3), Err(Sense::invalid_field_in_cdb(FieldError::byte(6))));
    }
}
