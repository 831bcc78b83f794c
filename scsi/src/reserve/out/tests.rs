use spindle_scsi_spec::reserve::ReservationType as Kind;

use super::super::REGISTRATIONS_MAX;
use super::super::name::nexus;
use super::*;

const CX: OutContext<'_> = OutContext { ports: &[1, 2], can_store: true };
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;

fn list(key: u64, service_key: u64, flags: u8) -> [u8; 24] {
    let mut list = [0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&service_key.to_be_bytes());
    list[20] = flags;
    list
}

fn pr_out(t: &ReserveTable, n: u8, action: u8, kind: u8, list: [u8; 24]) -> Result<Option<Change>, Refused> {
    persistent_out(t, &nexus(n), &[0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0], &list, &CX)
}

/// Performs it, and wants it to change something.
fn done(t: &mut ReserveTable, n: u8, action: u8, kind: u8, key: u64, service_key: u64) -> Change {
    let change = pr_out(t, n, action, kind, list(key, service_key, 0)).unwrap().expect("a change");
    *t = change.table.clone();
    change
}

fn keys(t: &ReserveTable) -> Vec<u64> {
    t.registrations().iter().map(|r| r.key).collect()
}

fn sense(r: Result<Option<Change>, Refused>) -> Sense {
    match r {
        Err(Refused::Check(s)) => s,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_second_register_without_the_old_key_conflicts() {
    // libiscsi's ProutRegister.Simple
    let mut t = ReserveTable::new();
    done(&mut t, 1, REGISTER_AND_IGNORE, 0, 0, 0xA);
    assert_eq!(keys(&t), [0xA]);
    assert_eq!(pr_out(&t, 1, REGISTER, 0, list(0, 0xB, 0)), Err(Refused::Conflict));
    done(&mut t, 1, REGISTER, 0, 0xA, 0);
    assert_eq!((keys(&t), t.generation()), (vec![], 2));
}

#[test]
fn every_type_is_reserved_and_released_by_its_only_registrant() {
    // libiscsi's PrinReportCapabilities.Simple
    let mut t = ReserveTable::new();
    done(&mut t, 1, REGISTER_AND_IGNORE, 0, 0, 0xA);
    for kind in [1, 3, 5, 6, 7, 8] {
        done(&mut t, 1, RESERVE, kind, 0xA, 0);
        assert_eq!(t.holder_key(), if kind >= 7 { 0 } else { 0xA });
        assert_eq!(pr_out(&t, 1, RESERVE, kind, list(0xA, 0, 0)), Ok(None), "holding is no conflict");
        let change = done(&mut t, 1, RELEASE, kind, 0xA, 0);
        assert_eq!(change.attentions, []);
        assert_eq!(t.reservation(), None);
    }
    assert_eq!(t.generation(), 1, "RESERVE and RELEASE are not counted");
}

#[test]
fn clear_counts_once_and_leaves_nothing() {
    // libiscsi's ProutClear.Simple
    let mut t = ReserveTable::new();
    done(&mut t, 1, REGISTER_AND_IGNORE, 0, 0, 0xA);
    done(&mut t, 2, REGISTER_AND_IGNORE, 0, 0, 0xB);
    done(&mut t, 1, RESERVE, 3, 0xA, 0);
    let change = done(&mut t, 2, CLEAR, 0, 0xB, 0);
    assert_eq!(change.attentions, [(nexus(1), Asc::RESERVATIONS_PREEMPTED)]);
    assert_eq!((t.is_open(), t.reservation(), t.generation()), (true, None, 3));
}

#[test]
fn preempt_without_a_reservation_removes_a_registration() {
    // libiscsi's ProutPreempt.RemoveRegistration
    let mut t = ReserveTable::new();
    done(&mut t, 1, REGISTER_AND_IGNORE, 0, 0, 0xA);
    done(&mut t, 2, REGISTER_AND_IGNORE, 0, 0, 0xB);
    let change = done(&mut t, 2, PREEMPT, 3, 0xB, 0xA);
    assert_eq!(change.attentions, [(nexus(1), Asc::REGISTRATIONS_PREEMPTED)]);
    assert_eq!((keys(&t), t.generation(), change.abort), (vec![0xB], 3, vec![]));
}

#[test]
fn a_holder_that_unregisters_releases_what_is_not_shared() {
    // libiscsi's ProutReserve.Ownership*
    for (kind, survives, told) in [
        (1, false, false),
        (3, false, false),
        (5, false, true),
        (6, false, true),
        (7, true, false),
        (8, true, false),
    ] {
        let mut t = ReserveTable::new();
        done(&mut t, 1, REGISTER_AND_IGNORE, 0, 0, 0xA);
        done(&mut t, 2, REGISTER_AND_IGNORE, 0, 0, 0xB);
        done(&mut t, 1, RESERVE, kind, 0xA, 0);
        let change = done(&mut t, 1, REGISTER, 0, 0xA, 0);
        assert_eq!(t.reservation().is_some(), survives, "type {kind}");
        let expected: &[_] = if told { &[(nexus(2), Asc::RESERVATIONS_RELEASED)] } else { &[] };
        assert_eq!(change.attentions, expected, "type {kind}");
        if survives {
            done(&mut t, 2, RELEASE, kind, 0xB, 0);
        }
        done(&mut t, 2, REGISTER, 0, 0xB, 0);
        assert!(t.is_open());
    }
}

#[test]
fn preempt_and_abort_takes_over_and_names_whose_tasks_go() {
    let mut t = ReserveTable::new();
    for (n, key) in [(1, 0xA), (2, 0xB), (3, 0xA), (4, 0xC)] {
        done(&mut t, n, REGISTER_AND_IGNORE, 0, 0, key);
    }
    done(&mut t, 1, RESERVE, 5, 0xA, 0);
    let change = done(&mut t, 2, PREEMPT_AND_ABORT, 6, 0xB, 0xA);
    assert_eq!(change.abort, [nexus(1), nexus(3)]);
    let told = [
        (nexus(4), Asc::RESERVATIONS_RELEASED),
        (nexus(1), Asc::REGISTRATIONS_PREEMPTED),
        (nexus(3), Asc::REGISTRATIONS_PREEMPTED),
    ];
    assert_eq!(change.attentions, told);
    let kind = Kind::ExclusiveAccessRegistrantsOnly;
    assert_eq!(t.reservation(), Some(&Reservation { kind, holder: Some(nexus(2)) }));
    assert_eq!(keys(&t), [0xB, 0xC]);
}

#[test]
fn a_holder_may_preempt_itself_to_change_the_type() {
    let mut t = ReserveTable::new();
    done(&mut t, 1, REGISTER_AND_IGNORE, 0, 0, 0xA);
    done(&mut t, 1, RESERVE, 1, 0xA, 0);
    done(&mut t, 1, PREEMPT, 3, 0xA, 0xA);
    assert_eq!(keys(&t), [0xA]);
    assert_eq!(t.reservation().map(|r| r.kind), Some(Kind::ExclusiveAccess));
}

#[test]
fn zero_preempts_only_where_all_registrants_hold() {
    let mut t = ReserveTable::new();
    done(&mut t, 1, REGISTER_AND_IGNORE, 0, 0, 0xA);
    done(&mut t, 2, REGISTER_AND_IGNORE, 0, 0, 0xB);
    let wrong = Sense::invalid_field_in_parameter_list(FieldError::byte(8));
    assert_eq!(sense(pr_out(&t, 1, PREEMPT, 1, list(0xA, 0, 0))), wrong);
    done(&mut t, 1, RESERVE, 1, 0xA, 0);
    assert_eq!(sense(pr_out(&t, 2, PREEMPT, 1, list(0xB, 0, 0))), wrong);
    done(&mut t, 1, RELEASE, 1, 0xA, 0);
    done(&mut t, 1, RESERVE, 7, 0xA, 0);
    done(&mut t, 2, PREEMPT, 1, 0xB, 0);
    assert_eq!((keys(&t), t.is_holder(&nexus(2))), (vec![0xB], true));
}

#[test]
fn releasing_with_another_type_is_an_invalid_release() {
    let mut t = ReserveTable::new();
    done(&mut t, 1, REGISTER_AND_IGNORE, 0, 0, 0xA);
    assert_eq!(pr_out(&t, 1, RELEASE, 1, list(0xA, 0, 0)), Ok(None), "nothing to release");
    done(&mut t, 1, RESERVE, 1, 0xA, 0);
    for scope_and_type in [0x03, 0x11, 0x02] {
        let s = sense(pr_out(&t, 1, RELEASE, scope_and_type, list(0xA, 0, 0)));
        assert_eq!(s, Sense::illegal_request(Asc::INVALID_RELEASE_OF_PERSISTENT_RESERVATION));
    }
}

#[test]
fn wrong_fields_are_pointed_at() {
    let mut t = ReserveTable::new();
    done(&mut t, 1, REGISTER_AND_IGNORE, 0, 0, 0xA);
    let out = |cdb: [u8; 10], list: &[u8]| sense(persistent_out(&t, &nexus(1), &cdb, list, &CX));
    let cdb = |action, kind, bytes| [0x5F, action, kind, 0, 0, 0, 0, 0, bytes, 0];
    let good = list(0xA, 0, 0);
    assert_eq!(out(cdb(RESERVE, 0x11, 24), &good), Sense::invalid_field_in_cdb(FieldError::bit(2, 7)));
    for kind in [0, 2, 4, 9, 15] {
        assert_eq!(out(cdb(RESERVE, kind, 24), &good), Sense::invalid_field_in_cdb(FieldError::bit(2, 3)));
    }
    for action in [7, 8, 9, 31] {
        assert_eq!(out(cdb(action, 1, 24), &good), Sense::invalid_field_in_cdb(FieldError::bit(1, 4)));
    }
    let length = Sense::illegal_request(Asc::PARAMETER_LIST_LENGTH_ERROR);
    assert_eq!(out(cdb(RESERVE, 1, 23), &good[..23]), length);
    assert_eq!(out(cdb(RESERVE, 1, 24), &good[..23]), length, "fewer bytes came than were announced");
    assert_eq!(out(cdb(RESERVE, 1, 25), &[0; 25]), length);
    assert_eq!(out(cdb(RESERVE, 1, 0), &[]), length);
    let mut spec_i_pt = list(0, 0xA, 8).to_vec();
    spec_i_pt.extend([0; 4]);
    let wrong = Sense::invalid_field_in_parameter_list(FieldError::bit(20, 3));
    assert_eq!(out(cdb(REGISTER, 0, 28), &spec_i_pt), wrong);
    assert_eq!(out(cdb(REGISTER_AND_IGNORE, 0, 24), &spec_i_pt[..24]), wrong);
}

#[test]
fn a_stranger_conflicts_before_its_fields_are_looked_at() {
    let t = ReserveTable::new();
    for action in [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT] {
        assert_eq!(pr_out(&t, 1, action, 0xFF, list(0xA, 0, 0)), Err(Refused::Conflict));
    }
    assert_eq!(pr_out(&t, 1, REGISTER, 0xFF, list(0, 0, 0)), Ok(None), "there is nothing to do");
}

#[test]
fn aptpl_needs_a_place_to_store() {
    let t = ReserveTable::new();
    let cdb = [0x5F, REGISTER, 0, 0, 0, 0, 0, 0, 24, 0];
    let cx = OutContext { can_store: false, ..CX };
    let s = sense(persistent_out(&t, &nexus(1), &cdb, &list(0, 7, 1), &cx));
    assert_eq!(s, Sense::invalid_field_in_parameter_list(FieldError::bit(20, 0)));
    let change = persistent_out(&t, &nexus(1), &cdb, &list(0, 7, 1), &CX).unwrap().unwrap();
    assert!(change.store && change.table.aptpl());
    let off = pr_out(&change.table, 1, REGISTER, 0, list(7, 7, 0)).unwrap().unwrap();
    assert!(off.store && !off.table.aptpl(), "the stored record has to go");
    assert!(!pr_out(&off.table, 1, REGISTER, 0, list(7, 8, 0)).unwrap().unwrap().store);
}

#[test]
fn all_tg_pt_registers_at_every_port_or_at_none() {
    let mut t = ReserveTable::new();
    let change = pr_out(&t, 1, REGISTER, 0, list(0, 7, 4)).unwrap().unwrap();
    assert_eq!(keys(&change.table), [7, 7]);
    assert_eq!(change.table.key_of(&nexus(1).at_port(2)), Some(7));
    done(&mut t, 1, REGISTER, 0, 0, 5);
    assert_eq!(pr_out(&t, 1, REGISTER, 0, list(0, 7, 4)), Err(Refused::Conflict));
}

#[test]
fn a_full_table_refuses_and_stays_as_it_is() {
    let mut t = ReserveTable::new();
    for port in 0..REGISTRATIONS_MAX as u16 - 1 {
        assert!(t.register(&nexus(9).at_port(port), 1));
    }
    let none = Sense::illegal_request(Asc::INSUFFICIENT_REGISTRATION_RESOURCES);
    assert_eq!(sense(pr_out(&t, 1, REGISTER, 0, list(0, 7, 4))), none, "two are wanted, one is free");
    done(&mut t, 1, REGISTER, 0, 0, 7);
    assert_eq!(sense(pr_out(&t, 2, REGISTER, 0, list(0, 7, 0))), none);
    done(&mut t, 1, REGISTER, 0, 7, 8);
}

#[test]
fn reserve_and_registrations_exclude_each_other() {
    let mut t = reserve_legacy(&ReserveTable::new(), &nexus(1)).unwrap().unwrap();
    assert_eq!(reserve_legacy(&t, &nexus(1)), Ok(None), "the holder may repeat itself");
    assert_eq!(reserve_legacy(&t, &nexus(2)), Err(Refused::Conflict));
    assert_eq!(pr_out(&t, 1, REGISTER, 0, list(0, 7, 0)), Err(Refused::Conflict));
    assert_eq!(release_legacy(&t, &nexus(2)), Ok(None), "releasing nothing is no error");
    t = release_legacy(&t, &nexus(1)).unwrap().unwrap();
    done(&mut t, 1, REGISTER, 0, 0, 7);
    assert_eq!(reserve_legacy(&t, &nexus(1)), Err(Refused::Conflict));
    assert_eq!(release_legacy(&t, &nexus(1)), Err(Refused::Conflict));
}

#[test]
fn a_lost_nexus_and_a_reset_end_an_spc_2_reservation_and_keep_registrations() {
    let t = reserve_legacy(&ReserveTable::new(), &nexus(1)).unwrap().unwrap();
    assert_eq!(after_nexus_loss(&t, &nexus(2)), None);
    assert_eq!(after_nexus_loss(&t, &nexus(1)), Some(ReserveTable::new()));
    assert_eq!(after_reset(&t), Some(ReserveTable::new()));
    let mut t = ReserveTable::new();
    done(&mut t, 1, REGISTER, 0, 0, 7);
    assert_eq!((after_reset(&t), after_nexus_loss(&t, &nexus(1))), (None, None));
}
