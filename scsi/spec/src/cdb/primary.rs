//! Commands every logical unit may have (SPC-5 §6), reservations apart.

use super::{CdbBytes, expect, expect_action};
use crate::{FieldError, be, emit::flag, opcode, opcode::maintenance_in};

/// TEST UNIT READY.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TestUnitReady;

impl TestUnitReady {
    /// From its CDB.
    pub fn parse(cdb: &[u8]) -> Result<TestUnitReady, FieldError> {
        expect(cdb, opcode::TEST_UNIT_READY).map(|()| TestUnitReady)
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        CdbBytes::new(opcode::TEST_UNIT_READY)
    }
}

/// REQUEST SENSE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestSense {
    /// Descriptor format is wanted.
    pub desc: bool,
    /// ALLOCATION LENGTH.
    pub alloc_bytes: u8,
}

impl RequestSense {
    /// From its CDB.
    pub fn parse(cdb: &[u8]) -> Result<RequestSense, FieldError> {
        expect(cdb, opcode::REQUEST_SENSE)?;
        Ok(RequestSense { desc: be::bit(cdb, 1, 0), alloc_bytes: cdb[4] })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(opcode::REQUEST_SENSE);
        cdb.put(1, [flag(self.desc, 0), 0, 0, self.alloc_bytes]);
        cdb
    }
}

/// INQUIRY.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Inquiry {
    /// The vital product data page asked for; `None` is standard INQUIRY data.
    pub page: Option<u8>,
    /// ALLOCATION LENGTH.
    pub alloc_bytes: u16,
}

impl Inquiry {
    /// From its CDB.
    pub fn parse(cdb: &[u8]) -> Result<Inquiry, FieldError> {
        expect(cdb, opcode::INQUIRY)?;
        if be::bit(cdb, 1, 1) {
            return Err(FieldError::bit(1, 1)); // CMDDT, obsolete since SPC-3
        }
        // SPC-5 §6.6.1: a page code without EVPD is an error.
        let page = match (be::bit(cdb, 1, 0), cdb[2]) {
            (true, page) => Some(page),
            (false, 0) => None,
            (false, _) => return Err(FieldError::byte(2)),
        };
        Ok(Inquiry { page, alloc_bytes: be::u16(cdb, 3) })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(opcode::INQUIRY);
        cdb.put(1, [flag(self.page.is_some(), 0), self.page.unwrap_or(0)]);
        cdb.put(3, self.alloc_bytes.to_be_bytes());
        cdb
    }
}

/// PC: which values of mode parameters (SPC-5, MODE SENSE).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageControl {
    /// 00b: as they are.
    Current = 0,
    /// 01b: ones where MODE SELECT may change them.
    Changeable = 1,
    /// 10b: as they were made.
    Default = 2,
    /// 11b: as they come back after power on.
    Saved = 3,
}

impl PageControl {
    fn from_bits(byte: u8) -> PageControl {
        match byte >> 6 {
            0 => PageControl::Current,
            1 => PageControl::Changeable,
            2 => PageControl::Default,
            _ => PageControl::Saved,
        }
    }
}

/// MODE SENSE(6), (10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ModeSense {
    /// MODE SENSE(10), else (6).
    pub ten: bool,
    /// Disable block descriptors.
    pub dbd: bool,
    /// Long LBA accepted: a 16-byte block descriptor may come. Of MODE SENSE(10).
    pub llbaa: bool,
    /// Which values.
    pub pc: PageControl,
    /// PAGE CODE, 6 bits; 3Fh is all pages.
    pub page: u8,
    /// SUBPAGE CODE; FFh is all subpages.
    pub subpage: u8,
    /// ALLOCATION LENGTH.
    pub alloc_bytes: u16,
}

impl ModeSense {
    /// From a CDB of either length.
    pub fn parse(cdb: &[u8]) -> Result<ModeSense, FieldError> {
        let ten = cdb.first() == Some(&opcode::MODE_SENSE_10);
        expect(cdb, if ten { opcode::MODE_SENSE_10 } else { opcode::MODE_SENSE_6 })?;
        Ok(ModeSense {
            ten,
            dbd: be::bit(cdb, 1, 3),
            llbaa: ten && be::bit(cdb, 1, 4),
            pc: PageControl::from_bits(cdb[2]),
            page: cdb[2] & 0x3F,
            subpage: cdb[3],
            alloc_bytes: if ten { be::u16(cdb, 7) } else { cdb[4].into() },
        })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(if self.ten { opcode::MODE_SENSE_10 } else { opcode::MODE_SENSE_6 });
        let flags = flag(self.dbd, 3) | flag(self.llbaa && self.ten, 4);
        cdb.put(1, [flags, (self.pc as u8) << 6 | self.page & 0x3F, self.subpage]);
        if self.ten {
            cdb.put(7, self.alloc_bytes.to_be_bytes());
        } else {
            cdb.put(4, [self.alloc_bytes as u8]);
        }
        cdb
    }
}

/// MODE SELECT(6), (10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ModeSelect {
    /// MODE SELECT(10), else (6).
    pub ten: bool,
    /// Page format: the list is made of mode pages, not of vendor's bytes.
    pub pf: bool,
    /// Revert to defaults (SPC-5).
    pub rtd: bool,
    /// Save pages.
    pub sp: bool,
    /// PARAMETER LIST LENGTH; zero is no error.
    pub list_bytes: u16,
}

impl ModeSelect {
    /// From a CDB of either length.
    pub fn parse(cdb: &[u8]) -> Result<ModeSelect, FieldError> {
        let ten = cdb.first() == Some(&opcode::MODE_SELECT_10);
        expect(cdb, if ten { opcode::MODE_SELECT_10 } else { opcode::MODE_SELECT_6 })?;
        Ok(ModeSelect {
            ten,
            pf: be::bit(cdb, 1, 4),
            rtd: be::bit(cdb, 1, 1),
            sp: be::bit(cdb, 1, 0),
            list_bytes: if ten { be::u16(cdb, 7) } else { cdb[4].into() },
        })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(if self.ten { opcode::MODE_SELECT_10 } else { opcode::MODE_SELECT_6 });
        cdb.put(1, [flag(self.pf, 4) | flag(self.rtd, 1) | flag(self.sp, 0)]);
        if self.ten {
            cdb.put(7, self.list_bytes.to_be_bytes());
        } else {
            cdb.put(4, [self.list_bytes as u8]);
        }
        cdb
    }
}

/// SELECT REPORT of REPORT LUNS (SPC-5 §6.33).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SelectReport {
    /// 00h: peripheral, flat, logical unit, extended flat; no well known ones.
    NotWellKnown,
    /// 01h: the well known ones only.
    WellKnown,
    /// 02h: all.
    All,
    /// 10h: administrative logical units only (conglomerates, SPC-5).
    Administrative,
    /// 11h: administrative ones and all others but the subsidiary.
    AdministrativeAndOther,
    /// 12h: the subsidiary ones of the conglomerate addressed.
    Subsidiary,
}

/// REPORT LUNS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReportLuns {
    /// Which logical units.
    pub select: SelectReport,
    /// ALLOCATION LENGTH; SPC-3 asks for at least 16.
    pub alloc_bytes: u32,
}

impl ReportLuns {
    /// From its CDB; a reserved SELECT REPORT is refused.
    pub fn parse(cdb: &[u8]) -> Result<ReportLuns, FieldError> {
        expect(cdb, opcode::REPORT_LUNS)?;
        let select = match cdb[2] {
            0x00 => SelectReport::NotWellKnown,
            0x01 => SelectReport::WellKnown,
            0x02 => SelectReport::All,
            0x10 => SelectReport::Administrative,
            0x11 => SelectReport::AdministrativeAndOther,
            0x12 => SelectReport::Subsidiary,
            _ => return Err(FieldError::byte(2)),
        };
        Ok(ReportLuns { select, alloc_bytes: be::u32(cdb, 6) })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(opcode::REPORT_LUNS);
        let select = match self.select {
            SelectReport::NotWellKnown => 0x00,
            SelectReport::WellKnown => 0x01,
            SelectReport::All => 0x02,
            SelectReport::Administrative => 0x10,
            SelectReport::AdministrativeAndOther => 0x11,
            SelectReport::Subsidiary => 0x12,
        };
        cdb.put(2, [select]);
        cdb.put(6, self.alloc_bytes.to_be_bytes());
        cdb
    }
}

/// REPORTING OPTIONS of REPORT SUPPORTED OPERATION CODES (SPC-5 §6.35).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReportingOptions {
    /// 000b: every command.
    All,
    /// 001b: one opcode that has no service actions.
    Opcode(u8),
    /// 010b: one opcode and service action.
    ServiceAction(u8, u16),
    /// 011b: one opcode, and the service action if that opcode has any.
    Either(u8, u16),
}

/// REPORT SUPPORTED OPERATION CODES.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReportSupportedOperationCodes {
    /// Return command timeouts descriptors.
    pub rctd: bool,
    /// What is asked.
    pub options: ReportingOptions,
    /// ALLOCATION LENGTH.
    pub alloc_bytes: u32,
}

impl ReportSupportedOperationCodes {
    /// From its CDB; reserved options are refused.
    pub fn parse(cdb: &[u8]) -> Result<ReportSupportedOperationCodes, FieldError> {
        expect_action(cdb, opcode::MAINTENANCE_IN, maintenance_in::REPORT_SUPPORTED_OPERATION_CODES)?;
        let (op, action) = (cdb[3], be::u16(cdb, 4));
        let options = match cdb[2] & 0x07 {
            0 => ReportingOptions::All,
            1 => ReportingOptions::Opcode(op),
            2 => ReportingOptions::ServiceAction(op, action),
            3 => ReportingOptions::Either(op, action),
            _ => return Err(FieldError::bit(2, 2)),
        };
        Ok(ReportSupportedOperationCodes { rctd: be::bit(cdb, 2, 7), options, alloc_bytes: be::u32(cdb, 6) })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let action = maintenance_in::REPORT_SUPPORTED_OPERATION_CODES;
        let mut cdb = CdbBytes::with_action(opcode::MAINTENANCE_IN, action);
        let (options, op, action) = match self.options {
            ReportingOptions::All => (0, 0, 0),
            ReportingOptions::Opcode(op) => (1, op, 0),
            ReportingOptions::ServiceAction(op, action) => (2, op, action),
            ReportingOptions::Either(op, action) => (3, op, action),
        };
        cdb.put(2, [flag(self.rctd, 7) | options, op]);
        cdb.put(4, action.to_be_bytes());
        cdb.put(6, self.alloc_bytes.to_be_bytes());
        cdb
    }
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReportSupportedTaskManagementFunctions {
    /// Return extended parameter data: 16 bytes with timeouts.
    pub repd: bool,
    /// ALLOCATION LENGTH.
    pub alloc_bytes: u32,
}

impl ReportSupportedTaskManagementFunctions {
    /// From its CDB; an allocation length below four is refused, as SPC-5 §6.36 has it.
    pub fn parse(cdb: &[u8]) -> Result<ReportSupportedTaskManagementFunctions, FieldError> {
        let action = maintenance_in::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS;
        expect_action(cdb, opcode::MAINTENANCE_IN, action)?;
        let alloc_bytes = be::u32(cdb, 6);
        if alloc_bytes < 4 {
            return Err(FieldError::byte(6));
        }
        Ok(ReportSupportedTaskManagementFunctions { repd: be::bit(cdb, 2, 7), alloc_bytes })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let action = maintenance_in::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS;
        let mut cdb = CdbBytes::with_action(opcode::MAINTENANCE_IN, action);
        cdb.put(2, [flag(self.repd, 7)]);
        cdb.put(6, self.alloc_bytes.to_be_bytes());
        cdb
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_cdbs() {
        assert_eq!(*Inquiry { page: Some(0x83), alloc_bytes: 0x0104 }.emit(), [0x12, 1, 0x83, 1, 4, 0]);
        assert_eq!(*Inquiry { page: None, alloc_bytes: 36 }.emit(), [0x12, 0, 0, 0, 36, 0]);
        let luns = ReportLuns { select: SelectReport::All, alloc_bytes: 8192 };
        assert_eq!(*luns.emit(), [0xA0, 0, 2, 0, 0, 0, 0, 0, 0x20, 0, 0, 0]);
        let rsoc = ReportSupportedOperationCodes {
            rctd: true,
            options: ReportingOptions::Either(0x9E, 0x10),
            alloc_bytes: 512,
        };
        assert_eq!(*rsoc.emit(), [0xA3, 0x0C, 0x83, 0x9E, 0, 0x10, 0, 0, 2, 0, 0, 0]);
        let sense = ModeSense {
            ten: false,
            dbd: true,
            llbaa: false,
            pc: PageControl::Saved,
            page: 0x3F,
            subpage: 0,
            alloc_bytes: 192,
        };
        assert_eq!(*sense.emit(), [0x1A, 8, 0xFF, 0, 192, 0]);
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(Inquiry::parse(&[0x12, 0, 0x83, 0, 36, 0]), Err(FieldError::byte(2)));
        assert_eq!(Inquiry::parse(&[0x12, 2, 0, 0, 36, 0]), Err(FieldError::bit(1, 1)));
        assert_eq!(ReportLuns::parse(&[0xA0, 0, 3, 0, 0, 0, 0, 0, 0, 16, 0, 0]), Err(FieldError::byte(2)));
        let rsoc = [0xA3, 0x0C, 4, 0, 0, 0, 0, 0, 0, 16, 0, 0];
        assert_eq!(ReportSupportedOperationCodes::parse(&rsoc), Err(FieldError::bit(2, 2)));
        let rstmf = [0xA3, 0x0D, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0];
        assert_eq!(ReportSupportedTaskManagementFunctions::parse(&rstmf), Err(FieldError::byte(6)));
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_back(n: u8, m: u8, length: u16, long in 4u32.., f: [bool; 4], which in 0usize..6) {
            prop_assert_eq!(TestUnitReady::parse(&TestUnitReady.emit()), Ok(TestUnitReady));
            let request = RequestSense { desc: f[0], alloc_bytes: n };
            prop_assert_eq!(RequestSense::parse(&request.emit()), Ok(request));
            let inquiry = Inquiry { page: f[0].then_some(n), alloc_bytes: length };
            prop_assert_eq!(Inquiry::parse(&inquiry.emit()), Ok(inquiry));
            let bytes = if f[0] { length } else { length & 0xFF };
            let sense = ModeSense {
                ten: f[0], dbd: f[1], llbaa: f[0] && f[2], pc: PageControl::from_bits(n), page: n & 0x3F, subpage: m,
                alloc_bytes: bytes
            };
            prop_assert_eq!(ModeSense::parse(&sense.emit()), Ok(sense));
            let select = ModeSelect { ten: f[0], pf: f[1], rtd: f[2], sp: f[3], list_bytes: bytes };
            prop_assert_eq!(ModeSelect::parse(&select.emit()), Ok(select));
            let report = [
                SelectReport::NotWellKnown, SelectReport::WellKnown, SelectReport::All,
                SelectReport::Administrative, SelectReport::AdministrativeAndOther, SelectReport::Subsidiary,
            ][which];
            let luns = ReportLuns { select: report, alloc_bytes: long };
            prop_assert_eq!(ReportLuns::parse(&luns.emit()), Ok(luns));
            let options = [
                ReportingOptions::All, ReportingOptions::Opcode(n),
                ReportingOptions::ServiceAction(n, length), ReportingOptions::Either(n, length),
            ][which % 4];
            let rsoc = ReportSupportedOperationCodes { rctd: f[0], options, alloc_bytes: long };
            prop_assert_eq!(ReportSupportedOperationCodes::parse(&rsoc.emit()), Ok(rsoc));
            let rstmf = ReportSupportedTaskManagementFunctions { repd: f[0], alloc_bytes: long };
            prop_assert_eq!(ReportSupportedTaskManagementFunctions::parse(&rstmf.emit()), Ok(rstmf));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            op in prop_oneof![
                Just(0x00u8), Just(0x03), Just(0x12), Just(0x1A), Just(0x5A), Just(0x15), Just(0x55), Just(0xA0),
                Just(0xA3), any::<u8>()
            ],
            mut cdb in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            if let Some(first) = cdb.first_mut() {
                *first = op;
            }
            let _ = (TestUnitReady::parse(&cdb), RequestSense::parse(&cdb), Inquiry::parse(&cdb));
            let _ = (ModeSense::parse(&cdb), ModeSelect::parse(&cdb), ReportLuns::parse(&cdb));
            let _ = (ReportSupportedOperationCodes::parse(&cdb), ReportSupportedTaskManagementFunctions::parse(&cdb));
        }
    }
}
