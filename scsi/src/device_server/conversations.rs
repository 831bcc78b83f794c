//! Whole conversations: several nexuses send CDBs to one disk, which goes by table, reservations and
//! describing functions as the engine does, without the engine. The first ones replay what libiscsi's test
//! suite does and expects; the last one sends anything.

use proptest::prelude::*;
use spindle_scsi_spec::{Asc, Emit, FieldError, Sense};

use super::fixture::{Owner, describing};
use super::{Attention, Exec, LunsView, check_usage, mode, report, table};
use crate::config::{LuId, LunEntry};
use crate::reserve::out::{self, OutContext};
use crate::reserve::{Access, NexusName, Refused};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Answer {
    Good(Vec<u8>),
    Conflict,
    Check(Sense),
}

use Answer::{Check, Conflict};

const GOOD: Answer = Answer::Good(Vec::new());

struct Bench {
    disk: Owner,
    /// Unit attentions that wait, by nexus.
    waiting: Vec<Vec<Asc>>,
}

fn name(n: usize) -> NexusName {
    let id = crate::reserve::nexus(n as u8);
    NexusName::new(id.transport_id(), "iqn.2026-01.example:t", 1)
}

impl Bench {
    fn new(nexuses: usize) -> Bench {
        Bench { disk: describing(), waiting: vec![Vec::new(); nexuses] }
    }

    fn send(&mut self, n: usize, cdb: &[u8], list: &[u8]) -> Answer {
        self.perform(n, cdb, list).unwrap_or_else(|refused| refused)
    }

    fn perform(&mut self, n: usize, cdb: &[u8], list: &[u8]) -> Result<Answer, Answer> {
        let row = table::lookup(cdb).map_err(Check)?;
        check_usage(row, cdb).map_err(Check)?;
        if row.attention == Attention::Reports && !self.waiting[n].is_empty() {
            return Err(Check(Sense::unit_attention(self.waiting[n].remove(0))));
        }
        if !self.disk.reserve.access_of(&name(n)).allows(table::access_of(row, cdb)) {
            return Err(Conflict);
        }
        let refused = |r: Refused| match r {
            Refused::Conflict => Conflict,
            Refused::Check(s) => Check(s),
        };
        match row.exec {
            Exec::Describe(describe) => {
                return self.disk.ask(describe, cdb).map(|(bytes, _)| Answer::Good(bytes)).map_err(Check);
            }
            Exec::ReportLuns => {
                let luns = [LunEntry { lun: 0, lu: LuId(0), read_only: false }];
                let mut room = [0; 64];
                let mut w = Emit::new(&mut room);
                let n = report::report_luns(cdb, &LunsView { luns: &luns }, &mut w).map_err(Check)?;
                let bytes = w.as_bytes();
                return Ok(Answer::Good(bytes[..bytes.len().min(n as usize)].to_vec()));
            }
            Exec::ModeSelect => {
                let next = mode::mode_select(cdb, list, &self.disk.view()).map_err(Check)?;
                if next != self.disk.modes {
                    self.disk.modes = next;
                    for (other, waiting) in self.waiting.iter_mut().enumerate() {
                        if other != n {
                            waiting.push(Asc::MODE_PARAMETERS_CHANGED);
                        }
                    }
                }
            }
            Exec::Reserve => {
                let next = out::reserve_legacy(&self.disk.reserve, &name(n)).map_err(refused)?;
                self.disk.reserve = next.unwrap_or(self.disk.reserve.clone());
            }
            Exec::Release => {
                let next = out::release_legacy(&self.disk.reserve, &name(n)).map_err(refused)?;
                self.disk.reserve = next.unwrap_or(self.disk.reserve.clone());
            }
            Exec::PersistentOut => {
                let cx = OutContext { ports: &[1], can_store: true };
                let change =
                    out::persistent_out(&self.disk.reserve, &name(n), cdb, list, &cx).map_err(refused)?;
                if let Some(change) = change {
                    self.disk.reserve = change.table;
                    for (who, asc) in change.attentions {
                        let to =
                            (0..self.waiting.len()).find(|n| name(*n) == who).expect("a nexus of the bench");
                        self.waiting[to].push(asc);
                    }
                }
            }
            _ => {}
        }
        Ok(GOOD)
    }

    fn pr_out(&mut self, n: usize, action: u8, kind: u8, key: u64, service_key: u64) -> Answer {
        let mut list = [0; 24];
        list[..8].copy_from_slice(&key.to_be_bytes());
        list[8..16].copy_from_slice(&service_key.to_be_bytes());
        self.send(n, &[0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0], &list)
    }

    fn ready(&mut self, n: usize) -> Answer {
        self.send(n, &[0; 6], &[])
    }

    fn read(&mut self, n: usize) -> Answer {
        self.send(n, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[])
    }

    fn write(&mut self, n: usize) -> Answer {
        self.send(n, &[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[])
    }

    /// Key and type, as READ RESERVATION shows them.
    fn reservation(&mut self, n: usize) -> Option<(u64, u8)> {
        match self.send(n, &[0x5E, 1, 0, 0, 0, 0, 0, 0x40, 0, 0], &[]) {
            Answer::Good(b) if b.len() == 24 => {
                Some((u64::from_be_bytes(b[8..16].try_into().unwrap()), b[21]))
            }
            Answer::Good(b) => {
                assert_eq!(b.len(), 8);
                None
            }
            other => panic!("{other:?}"),
        }
    }
}

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const PREEMPT: u8 = 4;
const REGISTER_AND_IGNORE: u8 = 6;

#[test]
fn each_reservation_type_gives_the_access_libiscsi_expects() {
    // ProutReserve.Access*: what another nexus may do, registered and not: read, write, read, write
    let rows = [
        (1, [true, false, true, false]),
        (3, [false; 4]),
        (5, [true, true, true, false]),
        (6, [true, true, false, false]),
        (7, [true, true, true, false]),
        (8, [true, true, false, false]),
    ];
    for (kind, may) in rows {
        let mut b = Bench::new(2);
        let expect = |may| if may { GOOD } else { Conflict };
        assert_eq!(b.pr_out(0, REGISTER_AND_IGNORE, 0, 0, 0xA), GOOD);
        assert_eq!(b.pr_out(1, REGISTER_AND_IGNORE, 0, 0, 0xB), GOOD);
        assert_eq!(b.pr_out(0, RESERVE, kind, 0xA, 0), GOOD);
        assert_eq!(b.reservation(0), Some((if kind >= 7 { 0 } else { 0xA }, kind)));
        assert_eq!((b.read(0), b.write(0)), (GOOD, GOOD));
        assert_eq!((b.read(1), b.write(1)), (expect(may[0]), expect(may[1])), "registered, type {kind}");
        assert_eq!(b.pr_out(1, REGISTER, 0, 0xB, 0), GOOD);
        assert_eq!((b.read(1), b.write(1)), (expect(may[2]), expect(may[3])), "unregistered, type {kind}");
        assert_eq!(b.ready(1), GOOD, "TEST UNIT READY passes every type");
        assert_eq!(b.pr_out(0, RELEASE, kind, 0xA, 0), GOOD);
        assert_eq!(b.pr_out(0, REGISTER, 0, 0xA, 0), GOOD);
        assert_eq!((b.read(1), b.write(1)), (GOOD, GOOD));
    }
}

#[test]
fn an_unregistering_holder_leaves_only_shared_reservations() {
    // ProutReserve.Ownership*
    for kind in [1, 3, 5, 6, 7, 8] {
        let mut b = Bench::new(2);
        b.pr_out(0, REGISTER_AND_IGNORE, 0, 0, 0xA);
        b.pr_out(1, REGISTER_AND_IGNORE, 0, 0, 0xB);
        b.pr_out(0, RESERVE, kind, 0xA, 0);
        assert_eq!(b.pr_out(0, REGISTER, 0, 0xA, 0), GOOD);
        if kind >= 7 {
            assert_eq!(b.reservation(0), Some((0, kind)));
            assert_eq!(b.pr_out(1, RELEASE, kind, 0xB, 0), GOOD);
        } else {
            assert_eq!(b.reservation(0), None);
            let told = matches!(kind, 5 | 6);
            let expected = if told { Check(Sense::unit_attention(Asc::RESERVATIONS_RELEASED)) } else { GOOD };
            assert_eq!(b.ready(1), expected, "type {kind}");
        }
        assert_eq!(b.pr_out(1, REGISTER, 0, 0xB, 0), GOOD);
    }
}

#[test]
fn a_preempted_nexus_hears_of_it_once() {
    // ProutPreempt.RemoveRegistration
    let mut b = Bench::new(2);
    b.pr_out(0, REGISTER_AND_IGNORE, 0, 0, 0xA);
    b.pr_out(1, REGISTER_AND_IGNORE, 0, 0, 0xB);
    assert_eq!(b.pr_out(1, PREEMPT, 3, 0xB, 0xA), GOOD);
    assert_eq!(b.ready(0), Check(Sense::unit_attention(Asc::REGISTRATIONS_PREEMPTED)));
    assert_eq!((b.ready(0), b.ready(1)), (GOOD, GOOD));
    let keys = Answer::Good(vec![0, 0, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0xB]);
    assert_eq!(b.send(0, &[0x5E, 0, 0, 0, 0, 0, 0, 0x40, 0, 0], &[]), keys);
}

#[test]
fn two_initiators_reserve_as_spc_2_says() {
    // Reserve6.2Initiators
    let mut b = Bench::new(2);
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    let all_pages = [0x1A, 0, 0x3F, 0, 255, 0];
    assert_eq!(b.send(0, &reserve, &[]), GOOD);
    assert_eq!(b.send(0, &reserve, &[]), GOOD, "once more");
    assert_eq!(b.send(1, &reserve, &[]), Conflict);
    assert_eq!(b.send(1, &release, &[]), GOOD, "a release of nothing");
    assert!(matches!(b.send(0, &all_pages, &[]), Answer::Good(_)));
    assert_eq!(b.send(1, &all_pages, &[]), Conflict);
    assert_eq!((b.ready(0), b.ready(1)), (GOOD, Conflict));
    assert!(matches!(b.send(1, &[0x12, 0, 0, 0, 36, 0], &[]), Answer::Good(_)), "INQUIRY passes");
    assert!(matches!(b.send(1, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]), Answer::Good(_)));
    assert_eq!(b.pr_out(0, REGISTER, 0, 0, 1), Conflict, "the holder's too");
    assert_eq!(b.send(0, &release, &[]), GOOD);
    assert_eq!(b.send(1, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]), GOOD);
    // Reserve6.LUNReset and Logout
    b.disk.reserve = out::after_reset(&b.disk.reserve).unwrap();
    assert_eq!(b.send(0, &reserve, &[]), GOOD);
    b.disk.reserve = out::after_nexus_loss(&b.disk.reserve, &name(0)).unwrap();
    assert_eq!(b.send(1, &reserve, &[]), GOOD);
    // Third parties and extents are of no use to anybody.
    assert_eq!(
        b.send(1, &[0x16, 0x10, 0, 0, 0, 0], &[]),
        Check(Sense::invalid_field_in_cdb(FieldError::bit(1, 4)))
    );
}

#[test]
fn a_mode_select_is_heard_by_the_others() {
    let mut b = Bench::new(3);
    let mut list = vec![0, 0, 0, 0, 0x0A, 0x0A, 0x22, 0x10, 0x08];
    list.resize(16, 0);
    let select = [0x15, 0x10, 0, 0, 16, 0];
    assert_eq!(b.send(1, &select, &list), GOOD);
    assert_eq!(b.send(1, &select, &list), GOOD, "the same again changes nothing");
    let changed = Check(Sense::unit_attention(Asc::MODE_PARAMETERS_CHANGED));
    assert_eq!((b.ready(0), b.ready(0), b.ready(1), b.ready(2)), (changed.clone(), GOOD, GOOD, changed));
    let Answer::Good(page) = b.send(2, &[0x1A, 8, 0x0A, 0, 255, 0], &[]) else { panic!("MODE SENSE") };
    assert_eq!((page[2], page[8]), (0x90, 0x08), "WP in the header, SWP in the page");
}

#[test]
fn every_command_that_may_change_data_is_kept_from_strangers() {
    let mut b = Bench::new(2);
    b.pr_out(0, REGISTER_AND_IGNORE, 0, 0, 0xA);
    b.pr_out(0, RESERVE, 1, 0xA, 0);
    assert_eq!(b.send(1, &[0x1E, 0, 0, 0, 1, 0], &[]), Conflict, "PREVENT");
    assert_eq!(b.send(1, &[0x1E, 0, 0, 0, 0, 0], &[]), GOOD, "ALLOW");
    let writes = |e: &Exec| {
        e.writes_medium() || matches!(e, Exec::SynchronizeCache | Exec::ModeSelect | Exec::StartStop)
    };
    for row in table::rows() {
        if writes(&row.exec) {
            assert_eq!(row.access, Access::Write, "{}", row.name);
            let mut cdb = vec![0; row.usage.len()];
            (cdb[0], cdb[1]) = (row.opcode, row.service_action.unwrap_or(0) as u8);
            assert_eq!(b.send(1, &cdb, &[]), Conflict, "{}", row.name);
        } else if !matches!(row.exec, Exec::PreventAllow) {
            assert_ne!(row.access, Access::Write, "{} is let through only for the holder", row.name);
        }
    }
}

/// Bytes that are often a CDB: an opcode of ours, and few bits set outside the usage map.
fn any_cdb() -> impl Strategy<Value = Vec<u8>> {
    let rows: Vec<_> = table::rows().map(|r| r.usage).collect();
    let ours =
        (prop::sample::select(rows), any::<[u8; 16]>(), any::<bool>()).prop_map(|(usage, noise, keep)| {
            let bytes = usage.iter().zip(noise).enumerate().map(|(at, (map, noise))| match at {
                0 => *map,
                1 if matches!(usage[0], 0x5E | 0x5F | 0x9E | 0xA3) => *map,
                _ if keep => map & noise,
                _ => noise,
            });
            bytes.collect()
        });
    prop_oneof![9 => ours, 1 => proptest::collection::vec(any::<u8>(), 0..20)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn anything_is_answered_and_nothing_exceeds_its_allocation(
        commands in proptest::collection::vec((0..3usize, any_cdb(), proptest::collection::vec(any::<u8>(), 0..40)), 1..40)
    ) {
        let mut b = Bench::new(3);
        for (n, cdb, list) in commands {
            match b.send(n, &cdb, &list) {
                Answer::Good(bytes) => prop_assert!(bytes.len() <= 8192),
                Conflict => {}
                Check(s) => {
                    if let Some(at) = s.field() {
                        let within = if at.in_cdb { cdb.len().max(10) } else { list.len() };
                        prop_assert!(usize::from(at.byte) <= within, "{:?} points beyond {:02X?} {:02X?}", s, cdb, list);
                    }
                }
            }
        }
    }
}
