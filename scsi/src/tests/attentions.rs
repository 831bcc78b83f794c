//! Unit attentions: when they arise, who tells them.

use super::*;

const POWER_ON: Option<(SenseKey, Asc)> = Some((SenseKey::UnitAttention, Asc::POWER_ON_OR_RESET_OCCURRED));
const LUNS: Option<(SenseKey, Asc)> = Some((SenseKey::UnitAttention, Asc::REPORTED_LUNS_DATA_HAS_CHANGED));
const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 36, 0];
const REPORT_LUNS: [u8; 12] = [0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];

#[test]
fn a_new_nexus_is_told_of_power_on_once_and_inquiry_does_not_take_it() {
    let mut w = World::new(1);
    let n = w.nexus(0, 1);
    assert_eq!(w.ask(n, &INQUIRY, 36, &[]).data.len(), 36);
    assert_eq!(w.ask(n, &REPORT_LUNS, 256, &[]).status, Status::Good);
    let a = w.ask(n, &write(0, 1), 0, &blocks(1, 1));
    assert_eq!((a.asc(), a.residual), (POWER_ON, Residual::Underflow(512)));
    assert_eq!(w.ask(n, &write(0, 1), 0, &blocks(1, 1)).status, Status::Good);
    w.assert_quiet();
}

#[test]
fn request_sense_returns_the_condition_and_takes_it() {
    let mut w = World::new(1);
    let n = w.nexus(0, 1);
    let sense = [0x03, 0, 0, 0, 252, 0];
    let a = w.ask(n, &sense, 252, &[]);
    assert_eq!((a.status, a.data.len()), (Status::Good, 18));
    assert_eq!(Sense::parse(&a.data).map(|s| (s.key, s.asc)), POWER_ON);
    assert_eq!(w.ask(n, &TUR, 0, &[]).status, Status::Good);
    let a = w.ask(n, &sense, 252, &[]);
    assert_eq!(Sense::parse(&a.data), Some(Sense::NONE));
    let a = w.ask(n, &[0x03, 1, 0, 0, 252, 0], 252, &[]);
    assert_eq!(a.data, [0x72, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_changed_map_is_told_once_by_any_unit_or_by_report_luns() {
    let (mut w, n) = World::ready();
    let other = LuId(8);
    w.engine(0).open_lu(LuSpec { lu: other, ..spec(&info(), false) });
    w.engine(0).set_lun_map(1, &[(0, LU, false), (2, other, false), (5, LuId(99), false)]);
    w.drain(0);
    assert_eq!(w.ask(n, &TUR, 0, &[]).asc(), LUNS);
    let luns = w.ask(n, &REPORT_LUNS, 256, &[]).data;
    assert_eq!((luns[3], luns[9], luns[17]), (16, 0, 2), "a unit that is not open is left out");
    let c = w.send_as(n, 2, TaskAttr::Simple, &TUR, 0, &[]);
    w.run();
    assert_eq!(w.cmds[c].answer.as_ref().unwrap().asc(), POWER_ON);
    w.engine(0).set_lun_map(1, &[(0, LU, true), (2, other, false)]);
    w.ask(n, &REPORT_LUNS, 256, &[]);
    assert_eq!(w.ask(n, &TUR, 0, &[]).status, Status::Good, "REPORT LUNS has told it");
    let a = w.ask(n, &write(0, 1), 0, &blocks(1, 1));
    assert_eq!(a.asc(), Some((SenseKey::DataProtect, Asc::WRITE_PROTECTED)), "the map is read-only now");
    // The same map again is no change.
    w.engine(0).set_lun_map(1, &[(0, LU, true), (2, other, false)]);
    assert_eq!(w.ask(n, &TUR, 0, &[]).status, Status::Good);
    w.assert_quiet();
}

#[test]
fn a_new_size_is_told_to_every_nexus() {
    let mut w = World::new(2);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    for core in 0..2 {
        w.engine(core).lu_changed(LU, BdevInfo { blocks: 2048, ..info() }, None);
    }
    let told = Some((SenseKey::UnitAttention, Asc::CAPACITY_DATA_HAS_CHANGED));
    for n in n {
        assert_eq!(w.ask(n, &TUR, 0, &[]).asc(), told);
        let capacity = w.ask(n, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, &[]).data;
        assert_eq!(capacity[..4], [0, 0, 7, 255]);
    }
}

#[test]
fn changed_mode_pages_are_told_to_the_others_and_end_with_a_reset() {
    let mut w = World::new(2);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    // SWP of page 0Ah.
    let mut list = vec![0, 0, 0, 0, 0x0A, 0x0A, 0x22, 0x10, 0x08];
    list.resize(16, 0);
    assert_eq!(w.ask(n[1], &[0x15, 0x10, 0, 0, 16, 0], 0, &list).status, Status::Good);
    let told = Some((SenseKey::UnitAttention, Asc::MODE_PARAMETERS_CHANGED));
    assert_eq!(w.ask(n[0], &TUR, 0, &[]).asc(), told);
    assert_eq!(w.ask(n[1], &TUR, 0, &[]).status, Status::Good);
    let protected = Some((SenseKey::DataProtect, Asc::SOFTWARE_WRITE_PROTECTED));
    assert_eq!(w.ask(n[0], &write(0, 1), 0, &blocks(1, 1)).asc(), protected);
    w.tmf(n[0], TmfFunction::LogicalUnitReset);
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    assert_eq!(w.ask(n[0], &write(0, 1), 0, &blocks(1, 1)).status, Status::Good);
    w.assert_quiet();
}

#[test]
fn nexuses_and_luns_may_go_in_any_order() {
    let mut w = World::new(1);
    let mut spec = spec(&info(), false);
    for n in 100..140 {
        spec.lu = LuId(n);
        w.engine(0).open_lu(spec.clone());
    }
    let luns = |but: u32| (100..140).filter(|n| *n != but).map(|n| (n, LuId(n), false)).collect::<Vec<_>>();
    w.engine(0).set_lun_map(1, &luns(0));
    let mut nexuses: Vec<NexusId> = (0..8).map(|n| w.nexus_with(0, n, 8)).collect();
    fastrand::seed(7);
    let mut gone = 100;
    while let Some(nexus) =
        (!nexuses.is_empty()).then(|| nexuses.swap_remove(fastrand::usize(..nexuses.len())))
    {
        w.lose(nexus);
        // Another order of every unit's list, and a LUN less.
        w.engine(0).set_lun_map(1, &luns(gone));
        gone += 1;
        w.run();
        for (slot, itl) in w.cores[0].itls.iter().enumerate().filter(|(_, itl)| itl.up) {
            let list = &w.cores[0].lu(itl.lu).itls;
            assert_eq!(list[usize::from(itl.place)], slot as u16);
        }
    }
    assert_eq!(w.gone.len(), 8);
    assert!(w.engine(0).itls.iter().all(|itl| !itl.up));
    for n in 100..140 {
        w.engine(0).close_lu(LuId(n));
    }
    w.drain(0);
    assert_eq!(w.closed.len(), 40);
    w.assert_quiet();
}
