//! RESERVE and RELEASE (SPC-2 §7), PERSISTENT RESERVE IN and OUT (SPC-5 §6.15, §6.16).

use super::{CdbBytes, expect};
use crate::{FieldError, be, emit::flag, opcode, opcode::persistent_reserve_in as sa_in};

/// RESERVE(6), (10). What nobody implements is handed up, to be refused by whoever knows the position.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ReserveUnit {
    /// RESERVE(10), else (6).
    pub ten: bool,
    /// 3RDPTY: for another initiator. Bit 4 of byte 1.
    pub third_party: bool,
    /// LONGID: the third party's identifier is in the parameter list. Bit 1 of byte 1, RESERVE(10).
    pub long_id: bool,
    /// EXTENT: part of the unit (obsolete). Bit 0 of byte 1.
    pub extent: bool,
    /// RESERVATION IDENTIFICATION (obsolete).
    pub reservation_id: u8,
    /// PARAMETER LIST LENGTH.
    pub list_bytes: u16,
}

/// RELEASE(6), (10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ReleaseUnit {
    /// RELEASE(10), else (6).
    pub ten: bool,
    /// 3RDPTY. Bit 4 of byte 1.
    pub third_party: bool,
    /// LONGID. Bit 1 of byte 1, RELEASE(10).
    pub long_id: bool,
    /// EXTENT (obsolete). Bit 0 of byte 1.
    pub extent: bool,
    /// RESERVATION IDENTIFICATION (obsolete).
    pub reservation_id: u8,
    /// PARAMETER LIST LENGTH, RELEASE(10).
    pub list_bytes: u16,
}

impl ReserveUnit {
    /// From a CDB of either length.
    pub fn parse(cdb: &[u8]) -> Result<ReserveUnit, FieldError> {
        let ten = cdb.first() == Some(&opcode::RESERVE_10);
        expect(cdb, if ten { opcode::RESERVE_10 } else { opcode::RESERVE_6 })?;
        Ok(ReserveUnit {
            ten,
            third_party: be::bit(cdb, 1, 4),
            long_id: ten && be::bit(cdb, 1, 1),
            extent: be::bit(cdb, 1, 0),
            reservation_id: cdb[2],
            list_bytes: be::u16(cdb, if ten { 7 } else { 3 }),
        })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(if self.ten { opcode::RESERVE_10 } else { opcode::RESERVE_6 });
        let long_id = flag(self.long_id && self.ten, 1);
        cdb.put(1, [flag(self.third_party, 4) | long_id | flag(self.extent, 0), self.reservation_id]);
        cdb.put(if self.ten { 7 } else { 3 }, self.list_bytes.to_be_bytes());
        cdb
    }
}

impl ReleaseUnit {
    /// From a CDB of either length.
    pub fn parse(cdb: &[u8]) -> Result<ReleaseUnit, FieldError> {
        let ten = cdb.first() == Some(&opcode::RELEASE_10);
        expect(cdb, if ten { opcode::RELEASE_10 } else { opcode::RELEASE_6 })?;
        Ok(ReleaseUnit {
            ten,
            third_party: be::bit(cdb, 1, 4),
            long_id: ten && be::bit(cdb, 1, 1),
            extent: be::bit(cdb, 1, 0),
            reservation_id: cdb[2],
            list_bytes: if ten { be::u16(cdb, 7) } else { 0 },
        })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::new(if self.ten { opcode::RELEASE_10 } else { opcode::RELEASE_6 });
        let long_id = flag(self.long_id && self.ten, 1);
        cdb.put(1, [flag(self.third_party, 4) | long_id | flag(self.extent, 0), self.reservation_id]);
        if self.ten {
            cdb.put(7, self.list_bytes.to_be_bytes());
        }
        cdb
    }
}

/// Service actions of PERSISTENT RESERVE IN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PrInAction {
    /// All registered keys.
    ReadKeys = 0,
    /// The reservation, if there is one.
    ReadReservation = 1,
    /// What the device server can do.
    ReportCapabilities = 2,
    /// Each registration with its TransportID.
    ReadFullStatus = 3,
}

/// PERSISTENT RESERVE IN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PersistentReserveIn {
    /// What is asked.
    pub action: PrInAction,
    /// ALLOCATION LENGTH.
    pub alloc_bytes: u16,
}

impl PersistentReserveIn {
    /// From its CDB; a reserved service action is refused.
    pub fn parse(cdb: &[u8]) -> Result<PersistentReserveIn, FieldError> {
        expect(cdb, opcode::PERSISTENT_RESERVE_IN)?;
        let action = match cdb[1] & 0x1F {
            sa_in::READ_KEYS => PrInAction::ReadKeys,
            sa_in::READ_RESERVATION => PrInAction::ReadReservation,
            sa_in::REPORT_CAPABILITIES => PrInAction::ReportCapabilities,
            sa_in::READ_FULL_STATUS => PrInAction::ReadFullStatus,
            _ => return Err(FieldError::bit(1, 4)),
        };
        Ok(PersistentReserveIn { action, alloc_bytes: be::u16(cdb, 7) })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::with_action(opcode::PERSISTENT_RESERVE_IN, self.action as u8);
        cdb.put(7, self.alloc_bytes.to_be_bytes());
        cdb
    }
}

/// Service actions of PERSISTENT RESERVE OUT.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PrOutAction {
    /// Register, change or drop this nexus' key.
    Register = 0,
    /// Make a reservation.
    Reserve = 1,
    /// Give it up.
    Release = 2,
    /// Drop reservation and registrations.
    Clear = 3,
    /// Take over from other registrants.
    Preempt = 4,
    /// The same, and abort their tasks.
    PreemptAndAbort = 5,
    /// Register whatever key was there.
    RegisterAndIgnoreExistingKey = 6,
    /// Register another nexus and hand it the reservation.
    RegisterAndMove = 7,
    /// Make good for a lost reservation.
    ReplaceLostReservation = 8,
}

/// PERSISTENT RESERVE OUT; the keys are in the parameter list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PersistentReserveOut {
    /// What to do.
    pub action: PrOutAction,
    /// SCOPE, 4 bits; zero is the logical unit, nothing else is left. Field pointer: byte 2, bit 7.
    pub scope: u8,
    /// TYPE, 4 bits. Means nothing to some actions, so it is judged above. Field pointer: byte 2, bit 3.
    pub reservation_type: u8,
    /// PARAMETER LIST LENGTH.
    pub list_bytes: u32,
}

impl PersistentReserveOut {
    /// From its CDB; a reserved service action is refused.
    pub fn parse(cdb: &[u8]) -> Result<PersistentReserveOut, FieldError> {
        expect(cdb, opcode::PERSISTENT_RESERVE_OUT)?;
        let action = match cdb[1] & 0x1F {
            0 => PrOutAction::Register,
            1 => PrOutAction::Reserve,
            2 => PrOutAction::Release,
            3 => PrOutAction::Clear,
            4 => PrOutAction::Preempt,
            5 => PrOutAction::PreemptAndAbort,
            6 => PrOutAction::RegisterAndIgnoreExistingKey,
            7 => PrOutAction::RegisterAndMove,
            8 => PrOutAction::ReplaceLostReservation,
            _ => return Err(FieldError::bit(1, 4)),
        };
        let list_bytes = be::u32(cdb, 5);
        Ok(PersistentReserveOut { action, scope: cdb[2] >> 4, reservation_type: cdb[2] & 0x0F, list_bytes })
    }

    /// As a CDB.
    pub fn emit(&self) -> CdbBytes {
        let mut cdb = CdbBytes::with_action(opcode::PERSISTENT_RESERVE_OUT, self.action as u8);
        cdb.put(2, [self.scope << 4 | self.reservation_type & 0x0F]);
        cdb.put(5, self.list_bytes.to_be_bytes());
        cdb
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_cdbs() {
        let keys = PersistentReserveIn { action: PrInAction::ReadKeys, alloc_bytes: 8 };
        assert_eq!(*keys.emit(), [0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
        let out = PersistentReserveOut {
            action: PrOutAction::Reserve,
            scope: 0,
            reservation_type: 5,
            list_bytes: 24,
        };
        assert_eq!(*out.emit(), [0x5F, 1, 5, 0, 0, 0, 0, 0, 24, 0]);
        assert_eq!(*ReserveUnit::default().emit(), [0x16, 0, 0, 0, 0, 0]);
        assert_eq!(
            *ReleaseUnit { ten: true, ..Default::default() }.emit(),
            [0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn reserved_service_actions_are_named() {
        let refused = FieldError::bit(1, 4);
        assert_eq!(PersistentReserveIn::parse(&[0x5E, 4, 0, 0, 0, 0, 0, 0, 8, 0]), Err(refused));
        assert_eq!(PersistentReserveOut::parse(&[0x5F, 9, 0, 0, 0, 0, 0, 0, 24, 0]), Err(refused));
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_back(f: [bool; 4], id: u8, length: u16, long: u32, n in 0u8..16, action in 0u8..9) {
            let [ten, third_party, long_id, extent] = f;
            let long_id = long_id && ten;
            let reserve = ReserveUnit { ten, third_party, long_id, extent, reservation_id: id, list_bytes: length };
            prop_assert_eq!(ReserveUnit::parse(&reserve.emit()), Ok(reserve));
            let list_bytes = if ten { length } else { 0 };
            let release = ReleaseUnit { ten, third_party, long_id, extent, reservation_id: id, list_bytes };
            prop_assert_eq!(ReleaseUnit::parse(&release.emit()), Ok(release));
            let mut cdb = [0x5F, action, n << 4 | (15 - n), 0, 0, 0, 0, 0, 0, 0];
            cdb[5..9].copy_from_slice(&long.to_be_bytes());
            prop_assert_eq!(&*PersistentReserveOut::parse(&cdb).unwrap().emit(), &cdb);
            let cdb = [0x5E, action & 3, 0, 0, 0, 0, 0, id, n, 0];
            prop_assert_eq!(&*PersistentReserveIn::parse(&cdb).unwrap().emit(), &cdb);
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            op in prop_oneof![Just(0x16u8), Just(0x17), Just(0x56), Just(0x57), Just(0x5E), Just(0x5F), any::<u8>()],
            mut cdb in proptest::collection::vec(any::<u8>(), 0..14),
        ) {
            if let Some(first) = cdb.first_mut() {
                *first = op;
            }
            let _ = (ReserveUnit::parse(&cdb), ReleaseUnit::parse(&cdb));
            let _ = (PersistentReserveIn::parse(&cdb), PersistentReserveOut::parse(&cdb));
        }
    }
}
