//! From the table to what one nexus may do.
//!
//! The rules are the tables "commands that are allowed in the presence of various reservations" of SPC-2
//! §5.5.1, SPC-4 §5.13.1 and SBC-3 §4.17; the rows of those tables are the classes of [`Access`].

use super::{Access, AccessMask, NexusName, ReserveTable};

impl ReserveTable {
    /// What this nexus may do now. Worked out when a table arrives or a nexus comes up; a command then tests
    /// one bit of it.
    pub fn access_of(&self, nexus: &NexusName) -> AccessMask {
        if self.is_open() {
            return AccessMask::ALL;
        }
        if let Some(holder) = &self.legacy {
            return legacy_access(holder == nexus);
        }
        // SPC-2 §5.5.1: while anybody is registered, RESERVE and RELEASE conflict, whoever sends them (CRH is
        // zero in REPORT CAPABILITIES).
        let registered = AccessMask::ALL.without(Access::Reserve).without(Access::Release);
        let Some(reservation) = &self.reservation else { return registered };
        let kind = reservation.kind;
        let shares = kind.admits_registrants();
        if self.is_holder(nexus) || (shares && self.key_of(nexus).is_some()) {
            return registered;
        }
        let stranger = registered.without(Access::Write);
        if kind.is_exclusive_access() { stranger.without(Access::Read) } else { stranger }
    }
}

/// SPC-2 §5.5.1: others may ask who is there and give up what they do not have; PERSISTENT RESERVE IN and OUT
/// conflict for the holder too.
fn legacy_access(holds: bool) -> AccessMask {
    let nobody = AccessMask::ALL.without(Access::PersistentIn).without(Access::PersistentOut);
    if holds {
        return nobody;
    }
    nobody.without(Access::Ready).without(Access::Read).without(Access::Write).without(Access::Reserve)
}

#[cfg(test)]
mod tests {
    use spindle_scsi_spec::reserve::ReservationType as Kind;

    use super::super::Reservation;
    use super::super::name::nexus;
    use super::*;

    fn table(kind: Kind) -> ReserveTable {
        let mut t = ReserveTable::new();
        assert!(t.register(&nexus(1), 0x11) && t.register(&nexus(2), 0x22));
        let holder = (!kind.is_all_registrants()).then(|| nexus(1));
        t.reservation = Some(Reservation { kind, holder });
        assert!(t.is_sound());
        t
    }

    /// (registered reads, writes, unregistered reads, writes), as libiscsi's PR access tests have it, too.
    #[test]
    fn each_type_keeps_out_whom_the_standard_names() {
        let expected = [
            (Kind::WriteExclusive, [true, false, true, false]),
            (Kind::ExclusiveAccess, [false, false, false, false]),
            (Kind::WriteExclusiveRegistrantsOnly, [true, true, true, false]),
            (Kind::ExclusiveAccessRegistrantsOnly, [true, true, false, false]),
            (Kind::WriteExclusiveAllRegistrants, [true, true, true, false]),
            (Kind::ExclusiveAccessAllRegistrants, [true, true, false, false]),
        ];
        for (kind, rights) in expected {
            let t = table(kind);
            let may = |n, class| t.access_of(&nexus(n)).allows(class);
            assert!(may(1, Access::Read) && may(1, Access::Write), "the holder of {kind:?}");
            let seen =
                [may(2, Access::Read), may(2, Access::Write), may(3, Access::Read), may(3, Access::Write)];
            assert_eq!(seen, rights, "{kind:?}");
            for n in 1..=3 {
                assert!(may(n, Access::Free) && may(n, Access::Ready));
                assert!(may(n, Access::PersistentIn) && may(n, Access::PersistentOut));
                assert!(!may(n, Access::Reserve) && !may(n, Access::Release));
            }
        }
    }

    #[test]
    fn a_registration_alone_keeps_out_only_reserve_and_release() {
        let mut t = ReserveTable::new();
        assert!(t.register(&nexus(1), 7));
        let expected = AccessMask::ALL.without(Access::Reserve).without(Access::Release);
        assert_eq!(t.access_of(&nexus(1)), expected);
        assert_eq!(t.access_of(&nexus(2)), expected);
        assert_eq!(ReserveTable::new().access_of(&nexus(1)), AccessMask::ALL);
    }

    #[test]
    fn an_spc_2_reservation_leaves_others_inquiry_and_release() {
        let t = ReserveTable { legacy: Some(nexus(1)), ..ReserveTable::new() };
        let other = t.access_of(&nexus(2));
        for class in [Access::Ready, Access::Read, Access::Write, Access::Reserve, Access::PersistentIn] {
            assert!(!other.allows(class), "{class:?}");
        }
        assert!(other.allows(Access::Free) && other.allows(Access::Release));
        let holder = t.access_of(&nexus(1));
        assert!(holder.allows(Access::Write) && holder.allows(Access::Reserve));
        assert!(!holder.allows(Access::PersistentOut) && !holder.allows(Access::PersistentIn));
    }
}
