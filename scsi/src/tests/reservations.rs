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
pub fn a_reservation_is_answered_only_when_every_core_knows() {
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
