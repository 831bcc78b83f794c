//! Reservations through the whole engine.

use super::*;

fn register(w: &mut World, n: NexusId, key: u64) {
    let a = w.ask(n, &persistent_out(0x06, 0), 0, &pr_list(0, key));
    assert_eq!(a.status, Status::Good, "{a:?}");
}

fn two_cores() -> (World, NexusId, NexusId) {
    let mut w = World::new(2);
    let (a, b) = (w.nexus(0, 1), w.nexus(1, 2));
    w.run();
    w.clear_attentions(a);
    w.clear_attentions(b);
    (w, a, b)
}

#[test]
fn a_reservation_is_answered_only_when_every_core_knows() {
    let (mut w, a, b) = two_cores();
    register(&mut w, a, 1);
    // RESERVE, Write Exclusive.
    let c = w.send(a, &persistent_out(0x01, 1), 0, &pr_list(1, 0));
    w.run_but(|e| matches!(e, Event::Mail(0, 1)));
    assert!(w.cmds[c].answer.is_none(), "core 1 does not know yet");
    w.run();
    assert_eq!(w.cmds[c].answer.as_ref().unwrap().status, Status::Good);
    assert_eq!(w.ask(b, &write(0, 1), 0, &blocks(1, 1)).status, Status::ReservationConflict);
    assert_eq!(w.ask(b, &read(0, 1), 512, &[]).status, Status::Good);
    assert_eq!(w.ask(a, &write(0, 1), 0, &blocks(1, 1)).status, Status::Good);
    w.assert_quiet();
}

#[test]
fn a_write_that_was_still_receiving_meets_the_new_reservation() {
    let (mut w, a, b) = two_cores();
    register(&mut w, a, 1);
    let c = w.send(b, &write(0, 1), 0, &blocks(9, 1));
    let held = |e: &Event| *e == Event::Fill(c);
    let r = w.send(a, &persistent_out(0x01, 1), 0, &pr_list(1, 0));
    w.run_but(held);
    assert_eq!(w.cmds[r].answer.as_ref().unwrap().status, Status::Good);
    w.run();
    assert_eq!(w.cmds[c].answer.as_ref().unwrap().status, Status::ReservationConflict);
    assert_eq!(w.disk[0], 0);
    w.assert_quiet();
}

#[test]
fn preempt_and_abort_ends_the_tasks_of_the_preempted_and_no_others() {
    let mut w = World::new(3);
    let n: Vec<_> = (0..3).map(|core| w.nexus(core, core + 1)).collect();
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    register(&mut w, n[0], 1);
    register(&mut w, n[1], 2);
    let victim = w.send(n[1], &write(0, 1), 0, &blocks(2, 1));
    let bystander = w.send(n[2], &read(0, 1), 512, &[]);
    let c = w.send(n[0], &persistent_out(0x05, 1), 0, &pr_list(1, 2));
    w.run_but(|e| matches!(e, Event::Io(..) | Event::Revoke(_)) || *e == Event::Fill(victim));
    assert!(w.cmds[c].answer.is_none(), "tasks of the preempted nexus have not ended");
    w.run();
    assert_eq!(w.cmds[c].answer.as_ref().unwrap().status, Status::Good);
    assert!(w.cmds[victim].revoked && w.disk[0] == 0);
    assert_eq!(w.cmds[bystander].answer.as_ref().unwrap().status, Status::Good);
    let told = Some((SenseKey::UnitAttention, Asc::REGISTRATIONS_PREEMPTED));
    assert_eq!(w.ask(n[1], &TUR, 0, &[]).asc(), told);
    assert_eq!(w.ask(n[2], &TUR, 0, &[]).asc(), None);
    w.assert_quiet();
}

#[test]
fn reserve_ends_with_its_nexus_before_the_nexus_is_gone() {
    let (mut w, a, b) = two_cores();
    let reserve = [0x16, 0, 0, 0, 0, 0];
    assert_eq!(w.ask(b, &reserve, 0, &[]).status, Status::Good);
    assert_eq!(w.ask(a, &read(0, 1), 512, &[]).status, Status::ReservationConflict);
    w.lose(b);
    w.run_but(|e| matches!(e, Event::Mail(0, 1)));
    assert!(w.gone.is_empty(), "the home has not forgotten it yet");
    w.run();
    assert_eq!(w.gone, [b]);
    assert_eq!(w.ask(a, &read(0, 1), 512, &[]).status, Status::Good);
    w.assert_quiet();
}

#[test]
fn a_unit_reset_ends_reserve_and_keeps_registrations() {
    let (mut w, a, b) = two_cores();
    assert_eq!(w.ask(a, &[0x16, 0, 0, 0, 0, 0], 0, &[]).status, Status::Good);
    w.tmf(b, TmfFunction::LogicalUnitReset);
    w.run();
    w.clear_attentions(a);
    w.clear_attentions(b);
    assert_eq!(w.ask(b, &read(0, 1), 512, &[]).status, Status::Good);
    register(&mut w, a, 5);
    w.tmf(b, TmfFunction::LogicalUnitReset);
    w.run();
    w.clear_attentions(a);
    let keys = w.ask(a, &[0x5E, 0, 0, 0, 0, 0, 0, 0, 64, 0], 64, &[]).data;
    assert_eq!(keys[4..16], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5]);
}

#[test]
fn a_registration_that_is_to_survive_power_loss_is_stored_before_it_is_answered() {
    let (mut w, a, _) = two_cores();
    let mut list = pr_list(0, 3);
    list[20] = 1; // APTPL
    assert_eq!(w.ask(a, &persistent_out(0x06, 0), 0, &list).status, Status::Good);
    assert_eq!(w.stored, 1);
    w.refuses_to_store = true;
    let mut list = pr_list(3, 4);
    list[20] = 1;
    assert_eq!(w.ask(a, &persistent_out(0x00, 0), 0, &list).status, Status::CheckCondition);
    let keys = w.ask(a, &[0x5E, 0, 0, 0, 0, 0, 0, 0, 64, 0], 64, &[]).data;
    assert_eq!(keys[15], 3, "what could not be stored has not happened");
    w.assert_quiet();
}

#[test]
fn reserve_ends_when_its_lun_is_mapped_no_longer() {
    let (mut w, a, b) = two_cores();
    assert_eq!(w.ask(a, &[0x16, 0, 0, 0, 0, 0], 0, &[]).status, Status::Good);
    w.engine(0).set_lun_map(1, &[]);
    w.drain(0);
    w.run();
    assert_eq!(w.ask(b, &read(0, 1), 512, &[]).status, Status::Good);
    w.assert_quiet();
}

/// The last task of before takes the old I_T_L nexus along, and must not take what the new one has.
#[test]
fn reserve_by_a_lun_that_is_mapped_again_outlives_the_tasks_of_before() {
    for reserves_first in [false, true] {
        let (mut w, a, b) = two_cores();
        let reserve = [0x16, 0, 0, 0, 0, 0];
        if reserves_first {
            assert_eq!(w.ask(a, &reserve, 0, &[]).status, Status::Good);
        }
        w.send(a, &write(0, 1), 0, &blocks(1, 1));
        w.run_but(|e| matches!(e, Event::Io(..)));
        w.engine(0).set_lun_map(1, &[]);
        w.engine(0).set_lun_map(1, &[(0, LU, false)]);
        w.drain(0);
        let tell = w.send(a, &TUR, 0, &[]);
        w.run_but(|e| matches!(e, Event::Io(..)));
        assert!(w.cmds[tell].answer.is_some(), "what changed is told");
        let taken = w.send(a, &reserve, 0, &[]);
        w.run_but(|e| matches!(e, Event::Io(..)));
        assert_eq!(w.cmds[taken].answer.as_ref().unwrap().status, Status::Good);
        // The write of before ends.
        w.run();
        assert_eq!(w.ask(b, &write(0, 1), 0, &blocks(7, 1)).status, Status::ReservationConflict);
        assert_eq!(w.ask(a, &[0x17, 0, 0, 0, 0, 0], 0, &[]).status, Status::Good);
        assert_eq!(w.ask(b, &write(0, 1), 0, &blocks(7, 1)).status, Status::Good);
        w.assert_quiet();
    }
}

/// A nexus on core 1, which left the unit and asks to come back; `Joined` is on its way. Its unit attention is taken.
fn comes_back(w: &mut World, gone: NexusId) -> NexusId {
    w.lose(gone);
    w.run();
    comes(w)
}

fn comes(w: &mut World) -> NexusId {
    let c = w.nexus(1, 3);
    let told = w.send(c, &TUR, 0, &[]);
    w.run_but(|e| matches!(e, Event::Mail(0, 1)));
    assert!(w.cmds[told].answer.is_some(), "a unit attention needs no policy");
    c
}

#[test]
fn a_core_that_comes_back_forgets_what_it_knew_of_reservations() {
    let (mut w, a, b) = two_cores();
    assert_eq!(w.ask(a, &[0x16, 0, 0, 0, 0, 0], 0, &[]).status, Status::Good);
    w.lose(b);
    w.run();
    assert_eq!(w.ask(a, &[0x17, 0, 0, 0, 0, 0], 0, &[]).status, Status::Good);
    let c = comes(&mut w);
    let writes = w.send(c, &write(0, 1), 0, &blocks(7, 1));
    w.run_but(|e| matches!(e, Event::Mail(0, 1)));
    assert!(w.cmds[writes].answer.is_none(), "nobody here knows who reserved the unit");
    w.run();
    assert_eq!(w.cmds[writes].answer.as_ref().unwrap().status, Status::Good);
    w.assert_quiet();
}

#[test]
fn a_core_that_comes_back_hears_of_a_reservation_before_it_writes() {
    let (mut w, a, b) = two_cores();
    w.lose(b);
    w.run();
    assert_eq!(w.ask(a, &[0x16, 0, 0, 0, 0, 0], 0, &[]).status, Status::Good);
    let c = comes(&mut w);
    let writes = w.send(c, &write(0, 1), 0, &blocks(7, 1));
    w.run();
    assert_eq!(w.cmds[writes].answer.as_ref().unwrap().status, Status::ReservationConflict);
    assert_eq!(w.disk[0], 0);
    w.assert_quiet();
}

#[test]
fn a_closing_meant_for_the_member_of_before_opens_no_gate() {
    let (mut w, a, b) = two_cores();
    assert_eq!(w.ask(a, &[0x16, 0, 0, 0, 0, 0], 0, &[]).status, Status::Good);
    let mut both = blocks(0, 1);
    both.extend(blocks(1, 1));
    let swap = w.send(a, &compare_and_write(5), 0, &both);
    w.run_but(|e| matches!(e, Event::Mail(0, 1)));
    w.lose(b);
    let c = comes(&mut w);
    // `Close` arrives; `Joined` stands behind the end of the command that holds the lock.
    w.run_but(|e| matches!(e, Event::Io(0, _)));
    let beside = w.send(c, &write(9, 1), 0, &blocks(7, 1));
    w.run_but(|e| matches!(e, Event::Io(0, _)));
    assert_eq!(w.io[1].len(), 0, "the unit is reserved, and this core cannot know it");
    w.run();
    assert_eq!(w.cmds[swap].answer.as_ref().unwrap().status, Status::Good);
    assert_eq!(w.cmds[beside].answer.as_ref().unwrap().status, Status::ReservationConflict);
    w.assert_quiet();
}

#[test]
fn a_core_that_comes_back_asks_its_home_whether_software_protects_the_unit() {
    let (mut w, a, b) = two_cores();
    // MODE SELECT(6), control mode page: `swp` is bit 3 of byte 4.
    let select = |w: &mut World, swp: u8| {
        let mut list = w.ask(a, &[0x1A, 8, 0x0A, 0, 64, 0], 64, &[]).data;
        list[0] = 0;
        list[2] = 0;
        list[4] &= 0x7F;
        list[8] = list[8] & !8 | swp << 3;
        let cdb = [0x15, 0x10, 0, 0, list.len() as u8, 0];
        assert_eq!(w.ask(a, &cdb, 0, &list).status, Status::Good);
    };
    select(&mut w, 1);
    let c = comes_back(&mut w, b);
    let refused = w.send(c, &write(0, 1), 0, &blocks(7, 1));
    w.run();
    let told = Some((SenseKey::DataProtect, Asc::SOFTWARE_WRITE_PROTECTED));
    assert_eq!(w.cmds[refused].answer.as_ref().unwrap().asc(), told);
    w.lose(c);
    w.run();
    select(&mut w, 0);
    let c = comes(&mut w);
    let passes = w.send(c, &write(0, 1), 0, &blocks(7, 1));
    w.run();
    assert_eq!(w.cmds[passes].answer.as_ref().unwrap().status, Status::Good);
    w.assert_quiet();
}
