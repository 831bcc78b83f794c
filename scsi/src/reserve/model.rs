//! Reservations against a model: the same rules written down in another way, over a handful of nexuses, and
//! long random histories of both.
//!
//! The model keeps a key per nexus in an array and works each service action out from the tables of SPC-4
//! §5.13 row by row. It shares nothing with the table but the names of things.

use proptest::prelude::*;
use spindle_scsi_spec::{Asc, SenseKey};

use super::name::nexus;
use super::out::{self, OutContext};
use super::persist;
use super::{Access, Change, NexusName, Refused, ReserveTable};

/// Nexuses 0 and 1 are one initiator port at ports 1 and 2, nexuses 2 and 3 another one.
const NEXUSES: usize = 4;

fn name(n: usize) -> NexusName {
    nexus(n as u8 / 2).at_port(n as u16 % 2 + 1)
}

fn other_port(n: usize) -> usize {
    n ^ 1
}

#[derive(Clone, Debug)]
enum Op {
    Out { action: u8, kind: u8, key: u64, service_key: u64, all_ports: bool, aptpl: bool },
    ReserveUnit,
    ReleaseUnit,
    Lost,
    Reset,
    PowerCycle,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    keys: [u64; NEXUSES],
    kind: u8,
    holder: usize,
    unit_holder: Option<usize>,
    generation: u32,
    aptpl: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Good,
    Conflict,
    Field,
    WrongRelease,
}

/// What the model says of one operation.
#[derive(Debug, PartialEq)]
struct Said {
    verdict: Verdict,
    attention: [Option<Asc>; NEXUSES],
    abort: [bool; NEXUSES],
}

impl Model {
    fn registered(&self, n: usize) -> bool {
        self.keys[n] != 0
    }

    fn holds(&self, n: usize) -> bool {
        match self.kind {
            0 => false,
            7 | 8 => self.registered(n),
            _ => self.holder == n,
        }
    }

    fn step(&mut self, me: usize, op: &Op) -> Said {
        let mut said = Said { verdict: Verdict::Good, attention: [None; NEXUSES], abort: [false; NEXUSES] };
        let before = self.clone();
        match *op {
            Op::ReserveUnit => {
                let taken = self.unit_holder.is_some_and(|h| h != me);
                if taken || (0..NEXUSES).any(|n| self.registered(n)) {
                    said.verdict = Verdict::Conflict;
                } else {
                    self.unit_holder = Some(me);
                }
            }
            Op::ReleaseUnit | Op::Lost => {
                if matches!(op, Op::ReleaseUnit) && (0..NEXUSES).any(|n| self.registered(n)) {
                    said.verdict = Verdict::Conflict;
                } else if self.unit_holder == Some(me) {
                    self.unit_holder = None;
                }
            }
            Op::Reset => self.unit_holder = None,
            Op::PowerCycle => {
                let kept = self.aptpl && (0..NEXUSES).any(|n| self.registered(n));
                *self = if kept { Model { generation: 0, ..self.clone() } } else { Model::default() };
            }
            Op::Out { .. } if self.unit_holder.is_some() => said.verdict = Verdict::Conflict,
            Op::Out { action, kind, key, service_key, all_ports, aptpl } => {
                said.verdict = match action {
                    0 | 6 => self.register(
                        me,
                        action == 6,
                        key,
                        service_key,
                        all_ports,
                        aptpl,
                        &mut said.attention,
                    ),
                    _ if !self.registered(me) || self.keys[me] != key => Verdict::Conflict,
                    1 => self.reserve(me, kind),
                    2 => self.release(me, kind, &mut said.attention),
                    3 => {
                        for n in (0..NEXUSES).filter(|n| *n != me && before.registered(*n)) {
                            said.attention[n] = Some(Asc::RESERVATIONS_PREEMPTED);
                        }
                        self.keys = [0; NEXUSES];
                        self.kind = 0;
                        self.generation += 1;
                        Verdict::Good
                    }
                    _ => self.preempt(me, kind, service_key, action == 5, &mut said),
                };
                if said.verdict != Verdict::Good {
                    assert_eq!(*self, before, "the model changes nothing when it refuses");
                }
            }
        }
        said
    }

    #[allow(clippy::too_many_arguments)]
    fn register(
        &mut self,
        me: usize,
        ignore: bool,
        key: u64,
        new: u64,
        both: bool,
        aptpl: bool,
        told: &mut [Option<Asc>; NEXUSES],
    ) -> Verdict {
        let mut mine = vec![me];
        if both {
            mine.push(other_port(me));
        }
        if !ignore && mine.iter().any(|n| self.keys[*n] != key) {
            return Verdict::Conflict;
        }
        if new == 0 && mine.iter().all(|n| !self.registered(*n)) {
            return Verdict::Good; // nothing to do, nothing counted
        }
        self.generation += 1;
        self.aptpl = aptpl;
        let released = new == 0 && matches!(self.kind, 1 | 3 | 5 | 6) && mine.contains(&self.holder);
        for n in mine {
            self.keys[n] = new;
        }
        if released {
            if self.kind >= 5 {
                for n in (0..NEXUSES).filter(|n| *n != me && self.keys[*n] != 0) {
                    told[n] = Some(Asc::RESERVATIONS_RELEASED);
                }
            }
            self.kind = 0;
        }
        if self.keys == [0; NEXUSES] {
            self.kind = 0;
        }
        Verdict::Good
    }

    fn reserve(&mut self, me: usize, kind: u8) -> Verdict {
        if !matches!(kind, 1 | 3 | 5..=8) {
            return Verdict::Field;
        }
        if self.kind != 0 {
            return if self.kind == kind && self.holds(me) { Verdict::Good } else { Verdict::Conflict };
        }
        (self.kind, self.holder) = (kind, me);
        Verdict::Good
    }

    fn release(&mut self, me: usize, kind: u8, told: &mut [Option<Asc>; NEXUSES]) -> Verdict {
        if !self.holds(me) {
            return Verdict::Good;
        }
        if kind != self.kind {
            return Verdict::WrongRelease;
        }
        if self.kind >= 5 {
            for n in (0..NEXUSES).filter(|n| *n != me && self.keys[*n] != 0) {
                told[n] = Some(Asc::RESERVATIONS_RELEASED);
            }
        }
        self.kind = 0;
        Verdict::Good
    }

    fn preempt(&mut self, me: usize, kind: u8, victim: u64, abort: bool, said: &mut Said) -> Verdict {
        let all = matches!(self.kind, 7 | 8);
        let takes = match (self.kind, victim) {
            (7 | 8, 0) => true,
            (_, 0) => return Verdict::Field,
            (1 | 3 | 5 | 6, _) => self.keys[self.holder] == victim,
            _ => false,
        };
        if takes && !matches!(kind, 1 | 3 | 5..=8) {
            return Verdict::Field;
        }
        let mut removed = 0;
        for n in 0..NEXUSES {
            let hit = self.keys[n] != 0 && (self.keys[n] == victim || (takes && all)) && !(takes && n == me);
            if hit {
                self.keys[n] = 0;
                removed += 1;
                said.abort[n] = abort;
                if n != me {
                    said.attention[n] = Some(Asc::REGISTRATIONS_PREEMPTED);
                }
            }
        }
        if takes {
            if self.kind != kind {
                for n in (0..NEXUSES).filter(|n| *n != me && self.keys[*n] != 0) {
                    said.attention[n] = Some(Asc::RESERVATIONS_RELEASED);
                }
            }
            (self.kind, self.holder) = (kind, me);
        } else if removed == 0 {
            return Verdict::Conflict;
        } else if self.keys == [0; NEXUSES] {
            self.kind = 0;
        }
        self.generation += 1;
        Verdict::Good
    }

    /// Reads and writes, as the tables of SPC-4 §5.13.1 say it.
    fn rights(&self, n: usize) -> (bool, bool) {
        if let Some(h) = self.unit_holder {
            return (h == n, h == n);
        }
        let member = match self.kind {
            0 => true,
            1 | 3 => self.holder == n,
            _ => self.registered(n),
        };
        (member || matches!(self.kind, 1 | 5 | 7), member)
    }
}

fn perform(
    table: &ReserveTable,
    me: usize,
    op: &Op,
) -> (Result<Option<Change>, Refused>, Option<ReserveTable>) {
    let plain = |r: Result<Option<ReserveTable>, Refused>| match r {
        Ok(t) => (Ok(None), t),
        Err(e) => (Err(e), None),
    };
    match *op {
        Op::ReserveUnit => plain(out::reserve_legacy(table, &name(me))),
        Op::ReleaseUnit => plain(out::release_legacy(table, &name(me))),
        Op::Lost => plain(Ok(out::after_nexus_loss(table, &name(me)))),
        Op::Reset => plain(Ok(out::after_reset(table))),
        Op::PowerCycle => {
            let kept = persist::decode(&persist::encode(table, &[1; 16]), &[1; 16]);
            plain(Ok(Some(kept.expect("what was encoded"))))
        }
        Op::Out { action, kind, key, service_key, all_ports, aptpl } => {
            let cdb = [0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0];
            let mut list = [0; 24];
            list[..8].copy_from_slice(&key.to_be_bytes());
            list[8..16].copy_from_slice(&service_key.to_be_bytes());
            list[20] = u8::from(all_ports) << 2 | u8::from(aptpl);
            let cx = OutContext { ports: &[1, 2], can_store: true };
            let result = out::persistent_out(table, &name(me), &cdb, &list, &cx);
            let next = result.as_ref().ok().and_then(|c| c.as_ref().map(|c| c.table.clone()));
            (result, next)
        }
    }
}

fn verdict(result: &Result<Option<Change>, Refused>) -> Verdict {
    match result {
        Ok(_) => Verdict::Good,
        Err(Refused::Conflict) => Verdict::Conflict,
        Err(Refused::Check(s)) => {
            assert_eq!(s.key, SenseKey::IllegalRequest);
            match s.asc {
                Asc::INVALID_RELEASE_OF_PERSISTENT_RESERVATION => Verdict::WrongRelease,
                Asc::INVALID_FIELD_IN_CDB | Asc::INVALID_FIELD_IN_PARAMETER_LIST => {
                    assert!(s.field().is_some());
                    Verdict::Field
                }
                other => panic!("{other}"),
            }
        }
    }
}

/// Keys are few, so that they meet; reserved types come, too.
fn any_op() -> impl Strategy<Value = Op> {
    let keys = || prop_oneof![1 => Just(0u64), 4 => 1u64..4];
    let out = (0u8..7, 0u8..10, keys(), keys(), prop::bool::weighted(0.15), any::<bool>()).prop_map(
        |(action, kind, key, service_key, all_ports, aptpl)| Op::Out {
            action,
            kind,
            key,
            service_key,
            all_ports,
            aptpl,
        },
    );
    prop_oneof![
        30 => out,
        1 => Just(Op::ReserveUnit),
        2 => Just(Op::ReleaseUnit),
        1 => Just(Op::Lost),
        1 => Just(Op::Reset),
        1 => Just(Op::PowerCycle),
    ]
}

/// Mostly what a well-behaved host sends: its own key, a valid type. Histories get deep that way.
fn settle(model: &Model, me: usize, op: Op, honest: bool) -> Op {
    match op {
        Op::Out { action, kind, service_key, all_ports, aptpl, .. } if honest => {
            let kind = if model.holds(me) && action == 2 { model.kind } else { kind };
            Op::Out { action, kind, key: model.keys[me], service_key, all_ports, aptpl }
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn every_history_goes_as_the_model_says(
        history in proptest::collection::vec((0..NEXUSES, any_op(), prop::bool::weighted(0.8)), 1..60)
    ) {
        let mut model = Model::default();
        let mut table = ReserveTable::new();
        for (me, op, honest) in history {
            let op = settle(&model, me, op, honest);
            let old = table.clone();
            let said = model.step(me, &op);
            let (result, next) = perform(&table, me, &op);
            prop_assert_eq!(verdict(&result), said.verdict, "{} does {:?}", me, op);
            table = next.unwrap_or(table);
            prop_assert!(table.is_sound(), "{:?}", table);

            let change = result.ok().flatten();
            let mut told = [None; NEXUSES];
            let mut abort = [false; NEXUSES];
            for n in 0..NEXUSES {
                let mut to_n = change.iter().flat_map(|c| &c.attentions).filter(|(to, _)| *to == name(n));
                told[n] = to_n.next().map(|(_, asc)| *asc);
                prop_assert!(to_n.next().is_none(), "told twice");
                abort[n] = change.iter().flat_map(|c| &c.abort).any(|a| *a == name(n));
            }
            prop_assert_eq!(told, said.attention, "{} does {:?}", me, op);
            prop_assert_eq!(abort, said.abort, "{} does {:?}", me, op);
            if let Some(c) = &change {
                prop_assert_eq!(c.store, old.aptpl() || c.table.aptpl());
            }

            prop_assert_eq!(table.generation(), model.generation, "{} does {:?}", me, op);
            let kind = table.reservation().map_or(0, |r| r.kind.code());
            prop_assert_eq!(kind, model.kind, "{} does {:?}", me, op);
            for n in 0..NEXUSES {
                prop_assert_eq!(table.key_of(&name(n)).unwrap_or(0), model.keys[n]);
                prop_assert_eq!(table.is_holder(&name(n)), model.holds(n));
                let mask = table.access_of(&name(n));
                prop_assert_eq!((mask.allows(Access::Read), mask.allows(Access::Write)), model.rights(n));
                prop_assert!(mask.allows(Access::Free));
            }
        }
    }
}
