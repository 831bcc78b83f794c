//! Gates, locks and the life of units across cores.

use super::*;

#[test]
fn compare_and_write_writes_if_equal_and_tells_where_it_differs() {
    let (mut w, n) = World::ready();
    w.disk[..BLOCK].fill(3);
    let mut both = blocks(3, 1);
    both.extend(blocks(4, 1));
    assert_eq!(w.ask(n, &compare_and_write(0), 0, &both).status, Status::Good);
    assert!(w.disk[..BLOCK].iter().all(|b| *b == 4));
    both[..BLOCK].fill(4);
    both[77] = 0;
    let a = w.ask(n, &compare_and_write(0), 0, &both);
    assert_eq!(a.asc(), Some((SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY)));
    assert_eq!(a.sense.unwrap().information(), Some(77));
    let a = w.ask(n, &compare_and_write(0), 0, &blocks(4, 1));
    assert_eq!(a.asc(), Some((SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_CDB)));
    assert_eq!(w.engine(0).gate_of(LU), Some(crate::gate::Gate::Open));
    w.assert_quiet();
}

#[test]
fn compare_and_write_waits_for_writes_that_have_begun() {
    let mut w = World::new(2);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    w.send(n[1], &write(5, 1), 0, &blocks(8, 1));
    w.run_but(|e| matches!(e, Event::Io(..)));
    let mut both = blocks(8, 1);
    both.extend(blocks(9, 1));
    let swap = w.send(n[0], &compare_and_write(5), 0, &both);
    w.run_but(|e| matches!(e, Event::Io(..)));
    assert_eq!((w.io[0].len(), w.io[1].len()), (0, 1), "the write comes first");
    w.run();
    assert_eq!(w.cmds[swap].answer.as_ref().unwrap().status, Status::Good);
    assert_eq!(w.disk[5 * BLOCK], 9);
    w.assert_quiet();
}

#[test]
fn only_one_of_many_compare_and_writes_on_two_cores_wins() {
    let mut w = World::new(2);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    let mut cmds = Vec::new();
    for i in 0..8u8 {
        let mut both = blocks(0, 1);
        both.extend(blocks(i + 1, 1));
        cmds.push(w.send(n[usize::from(i % 2)], &compare_and_write(5), 0, &both));
    }
    w.run();
    let good = cmds.iter().filter(|c| w.cmds[**c].answer.as_ref().unwrap().status == Status::Good);
    assert_eq!(good.count(), 1);
    w.assert_quiet();
}

#[test]
fn a_write_into_the_blocks_waits_and_one_beside_them_does_not() {
    let mut w = World::new(2);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    let mut both = blocks(0, 1);
    both.extend(blocks(1, 1));
    let swap = w.send(n[0], &compare_and_write(5), 0, &both);
    w.run_but(|e| matches!(e, Event::Io(..)));
    let inside = w.send(n[1], &write(4, 2), 0, &blocks(8, 2));
    let beside = w.send(n[1], &write(6, 1), 0, &blocks(9, 1));
    let reads = w.send(n[1], &read(5, 1), 512, &[]);
    w.run_but(|e| matches!(e, Event::Io(0, _)));
    assert!(w.cmds[inside].answer.is_none());
    assert!(w.cmds[beside].answer.is_some() && w.cmds[reads].answer.is_some());
    w.run();
    assert_eq!(w.cmds[swap].answer.as_ref().unwrap().status, Status::Good);
    assert_eq!((w.disk[4 * BLOCK], w.disk[5 * BLOCK]), (8, 8));
    w.assert_quiet();
}

#[test]
fn a_reset_does_not_wait_for_those_a_lock_keeps_out() {
    let mut w = World::new(2);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    let mut both = blocks(0, 1);
    both.extend(blocks(1, 1));
    let swap = w.send(n[0], &compare_and_write(5), 0, &both);
    w.run_but(|e| matches!(e, Event::Io(..)));
    let waits = w.send(n[1], &write(5, 1), 0, &blocks(8, 1));
    w.run_but(|e| matches!(e, Event::Io(..)));
    let tmf = w.tmf(n[1], TmfFunction::LogicalUnitReset);
    w.run_but(|e| matches!(e, Event::Io(..)));
    assert!(w.cmds[waits].revoked, "who waits at the gate ends at once");
    assert_eq!(w.hinted.len(), 1, "the holder's operation is given up");
    assert_eq!(w.tmf_answer(tmf), None);
    w.run();
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
    assert!(w.cmds[swap].revoked && w.disk[5 * BLOCK] == 0);
    w.assert_quiet();
}

#[test]
fn an_ordered_task_of_a_shared_set_keeps_out_the_other_core() {
    let mut w = World::with(2, SMALL, info(), true);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    let ordered = w.send_as(n[0], 0, TaskAttr::Ordered, &write(0, 1), 0, &blocks(5, 1));
    w.run_but(|e| matches!(e, Event::Io(..)));
    let other = w.send(n[1], &read(0, 1), 512, &[]);
    assert!(w.io[1].is_empty(), "it waits at the gate");
    w.run();
    assert_eq!(w.cmds[ordered].answer.as_ref().unwrap().status, Status::Good);
    assert_eq!(w.cmds[other].answer.as_ref().unwrap().data, blocks(5, 1));
    w.assert_quiet();
}

#[test]
fn an_ordered_read_that_waited_for_memory_takes_the_gate_afterwards() {
    let mut w = World::with(2, [1, 0, 0, 0, 0, 0], info(), true);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    let first = w.send(n[0], &[0x12, 0, 0, 0, 36, 0], 36, &[]);
    w.run_but(|e| matches!(e, Event::Returned(_)));
    let ordered = w.send_as(n[0], 0, TaskAttr::Ordered, &read(0, 1), 512, &[]);
    assert_eq!(w.engine(0).list_tasks()[0].state, crate::task::TaskState::WantsBuffer);
    w.run();
    for c in [first, ordered] {
        assert_eq!(w.cmds[c].answer.as_ref().unwrap().status, Status::Good);
    }
    w.assert_quiet();
}

#[test]
fn a_unit_closes_when_its_last_task_and_last_member_are_gone() {
    let mut w = World::new(2);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    let c = w.send(n[1], &read(0, 1), 512, &[]);
    for core in 0..2 {
        w.engine(core).set_lun_map(1, &[]);
        w.engine(core).close_lu(LU);
        w.drain(core);
    }
    w.run_but(|e| matches!(e, Event::Io(..)));
    assert!(w.closed.is_empty(), "core 1 still reads");
    let a = w.ask(n[0], &TUR, 0, &[]);
    assert_eq!(a.asc(), Some((SenseKey::IllegalRequest, Asc::LOGICAL_UNIT_NOT_SUPPORTED)));
    w.run();
    assert_eq!(w.cmds[c].answer.as_ref().unwrap().status, Status::Good, "what had begun is finished");
    w.closed.sort_unstable();
    assert_eq!(w.closed, [(0, LU), (1, LU)]);
    w.assert_quiet();
    // It may come again.
    for core in 0..2 {
        w.engine(core).open_lu(spec(&info(), false));
        w.engine(core).set_lun_map(1, &[(0, LU, false)]);
        w.drain(core);
    }
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    assert_eq!(w.ask(n[1], &read(0, 1), 512, &[]).status, Status::Good);
    w.assert_quiet();
}

/// Core 1 sees the unit for the first time just as it is closed; the home has gone before it hears of that.
fn comes_too_late() -> (World, NexusId, [usize; 2]) {
    let mut w = World::new(2);
    let n = w.nexus(1, 1);
    let told = w.send(n, &TUR, 0, &[]);
    w.run_but(|e| matches!(e, Event::Mail(..) | Event::Fill(_)));
    assert!(w.cmds[told].answer.is_some());
    let waits = [w.send(n, &read(0, 1), 512, &[]), w.send(n, &write(0, 1), 0, &blocks(7, 1))];
    w.engine(0).set_lun_map(1, &[]);
    w.engine(0).close_lu(LU);
    w.drain(0);
    assert_eq!(w.closed, [(0, LU)], "nobody has joined yet");
    (w, n, waits)
}

fn closes_on_core_1(w: &mut World) {
    w.engine(1).set_lun_map(1, &[]);
    w.engine(1).close_lu(LU);
    w.drain(1);
}

fn all_is_over(mut w: World, waits: [usize; 2]) {
    w.run();
    assert_eq!(w.closed, [(0, LU), (1, LU)], "it ends on every core");
    let told = Some((SenseKey::IllegalRequest, Asc::LOGICAL_UNIT_NOT_SUPPORTED));
    for at in waits {
        assert_eq!(w.cmds[at].answer.as_ref().unwrap().asc(), told);
    }
    assert_eq!(w.disk[0], 0);
    w.assert_quiet();
}

#[test]
fn a_unit_ends_although_a_core_joins_as_its_home_has_gone() {
    let (mut w, _, waits) = comes_too_late();
    closes_on_core_1(&mut w);
    all_is_over(w, waits);
}

#[test]
fn a_unit_whose_home_has_gone_waits_for_its_own_closing() {
    let (mut w, n, waits) = comes_too_late();
    w.run_but(|e| matches!(e, Event::Fill(_)));
    assert!(w.cmds[waits[0]].answer.is_none());
    // Another nexus asks again, and again nobody is there.
    let other = w.nexus(1, 2);
    w.run_but(|e| matches!(e, Event::Fill(_)));
    closes_on_core_1(&mut w);
    all_is_over_for(&mut w, &[n, other]);
    all_is_over(w, waits);
}

fn all_is_over_for(w: &mut World, nexuses: &[NexusId]) {
    for n in nexuses {
        let told = Some((SenseKey::IllegalRequest, Asc::LOGICAL_UNIT_NOT_SUPPORTED));
        assert_eq!(w.ask(*n, &TUR, 0, &[]).asc(), told);
    }
}

#[test]
fn a_unit_has_shrunk_when_nothing_beyond_its_new_end_is_under_way() {
    let mut w = World::new(2);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    let inside = w.send(n[0], &write(98, 2), 0, &blocks(1, 2));
    let across = w.send(n[0], &write(99, 2), 0, &blocks(2, 2));
    let mut both = blocks(0, 1);
    both.extend(blocks(1, 1));
    w.run_but(|e| matches!(e, Event::Io(..)));
    let swaps = w.send(n[0], &compare_and_write(200), 0, &both);
    let fills = |e: &Event| matches!(e, Event::Fill(_) | Event::Io(..));
    let late = w.send(n[0], &write(300, 1), 0, &blocks(3, 1));
    w.run_but(|e| matches!(e, Event::Mail(..)) || fills(e));
    w.happen(Event::Fill(swaps));
    for core in 0..2 {
        w.engine(core).lu_shrink(LU, 100);
        w.drain(core);
    }
    assert_eq!(w.shrunk, [1], "core 0 has a write across the new end at its device");
    w.run_but(fills);
    // The first operation ends, which does not matter; then the one that does.
    w.happen(Event::Io(0, 0));
    w.run_but(fills);
    assert_eq!(w.shrunk, [1]);
    w.happen(Event::Io(0, 0));
    w.run_but(fills);
    assert_eq!(w.shrunk, [1, 0]);
    w.run();
    for at in [inside, across] {
        assert_eq!(w.cmds[at].answer.as_ref().unwrap().status, Status::Good);
    }
    let refused = Some((SenseKey::IllegalRequest, Asc::LBA_OUT_OF_RANGE));
    for at in [swaps, late] {
        assert_eq!(w.cmds[at].answer.as_ref().unwrap().asc(), refused);
    }
    assert!(w.log.iter().all(|(_, lba, ..)| *lba < 100), "{:?}", w.log);
    let told = Some((SenseKey::UnitAttention, Asc::CAPACITY_DATA_HAS_CHANGED));
    assert_eq!(w.ask(n[1], &TUR, 0, &[]).asc(), told);
    assert_eq!(w.ask(n[1], &write(99, 2), 0, &blocks(2, 2)).asc(), refused);
    assert_eq!(w.ask(n[1], &write(99, 1), 0, &blocks(2, 1)).status, Status::Good);
    w.assert_quiet();
}
