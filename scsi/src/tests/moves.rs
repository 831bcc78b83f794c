//! A nexus moves from one core to another: what waits for it and what is kept for it.

use super::*;

/// Three cores, with the unit's home on the first: somebody there, and one on core 1 who is going to move to core 2,
/// where somebody else makes the core a member already, or nobody.
fn three_cores(joined: bool) -> (World, NexusId, NexusId) {
    let mut w = World::new(3);
    let (other, mover) = (w.nexus_with(0, 1, 32), w.nexus_with(1, 2, 32));
    if joined {
        w.nexus_with(2, 3, 32);
    }
    w.run();
    w.clear_attentions(other);
    w.clear_attentions(mover);
    (w, other, mover)
}

fn expect(w: &mut World, from: NexusId, to: u8) -> NexusId {
    let (info, granted) = w.engine(from.core()).may_leave(from).expect("it is idle");
    let id = w.engine(to).expect_nexus(info, granted).expect("there is room");
    w.drain(to);
    id
}

/// The last step, once the new core is ready.
fn hand_over(w: &mut World, from: NexusId, to: NexusId) {
    assert!(w.ready.contains(&to));
    let packed = w.engine(from.core()).pack_nexus(from).expect("it is idle");
    w.drain(from.core());
    w.engine(to.core()).unpack_nexus(to, packed);
    w.drain(to.core());
}

fn go(w: &mut World, from: NexusId, to: u8) -> NexusId {
    let new = expect(w, from, to);
    w.run();
    hand_over(w, from, new);
    new
}

/// What TEST UNIT READY is told until it is GOOD.
fn told(w: &mut World, n: NexusId) -> Vec<Asc> {
    let mut told = Vec::new();
    loop {
        match w.ask(n, &TUR, 0, &[]).asc() {
            Some((SenseKey::UnitAttention, asc)) => told.push(asc),
            None => return told,
            Some(other) => panic!("{other:?}"),
        }
    }
}

fn register(w: &mut World, n: NexusId, key: u64) {
    let a = w.ask(n, &persistent_out(0x06, 0), 0, &pr_list(0, key));
    assert_eq!(a.status, Status::Good, "{a:?}");
}

#[test]
fn a_nexus_takes_its_attentions_its_counters_and_its_room_along() {
    let (mut w, other, mover) = three_cores(false);
    w.ask(mover, &write(3, 1), 0, &blocks(5, 1));
    w.ask(mover, &read(3, 1), 512, &[]);
    w.tmf(other, TmfFunction::LogicalUnitReset);
    w.run();
    let granted = w.engine(1).may_leave(mover).unwrap().1;
    let moved = go(&mut w, mover, 2);
    assert_eq!(moved.core(), 2);
    assert!(w.gone.is_empty(), "nobody is lost");
    assert!(w.engine(1).may_leave(mover).is_none(), "it is on one core only");
    assert_eq!(w.engine(2).may_leave(moved).unwrap().1, granted);
    let stats = w.engine(2).nexuses[usize::from(moved.slot())].stats;
    assert_eq!((stats.read_bytes, stats.write_bytes), (512, 512));
    assert_eq!(told(&mut w, moved), [Asc::POWER_ON_OR_RESET_OCCURRED]);
    assert_eq!(w.ask(moved, &read(3, 1), 512, &[]).data, blocks(5, 1));
    w.lose(moved);
    w.run();
    assert_eq!(w.gone, [moved]);
    w.assert_quiet();
}

#[test]
fn a_new_core_does_not_say_that_it_was_powered_on() {
    let (mut w, _, mover) = three_cores(false);
    let moved = go(&mut w, mover, 2);
    assert_eq!(told(&mut w, moved), []);
    let back = go(&mut w, moved, 1);
    assert_eq!(told(&mut w, back), []);
    w.assert_quiet();
}

#[test]
fn registrations_and_reservations_stay_with_the_nexus() {
    let (mut w, other, mover) = three_cores(false);
    register(&mut w, mover, 2);
    // RESERVE, Exclusive Access.
    assert_eq!(w.ask(mover, &persistent_out(0x01, 3), 0, &pr_list(2, 0)).status, Status::Good);
    let moved = go(&mut w, mover, 2);
    assert_eq!(w.ask(moved, &write(0, 1), 0, &blocks(1, 1)).status, Status::Good);
    assert_eq!(w.ask(other, &read(0, 1), 512, &[]).status, Status::ReservationConflict);
    // Taken away, and its command with it, where it is now.
    register(&mut w, other, 1);
    let victim = w.send(moved, &write(0, 1), 0, &blocks(2, 1));
    let c = w.send(other, &persistent_out(0x05, 3), 0, &pr_list(1, 2));
    w.run_but(|e| *e == Event::Fill(victim));
    w.run();
    assert_eq!(w.cmds[c].answer.as_ref().unwrap().status, Status::Good);
    assert!(w.cmds[victim].revoked);
    assert_eq!(told(&mut w, moved), [Asc::REGISTRATIONS_PREEMPTED]);
    w.assert_quiet();
}

#[test]
fn an_old_reservation_stays_with_the_nexus_and_ends_with_it() {
    let (mut w, other, mover) = three_cores(true);
    assert_eq!(w.ask(mover, &[0x16, 0, 0, 0, 0, 0], 0, &[]).status, Status::Good);
    // One that does not come after all takes nothing with it.
    let never = expect(&mut w, mover, 2);
    w.engine(2).expect_no_more(never);
    w.drain(2);
    w.run();
    assert!(w.ready.is_empty() && w.gone.is_empty());
    assert_eq!(w.ask(other, &read(0, 1), 512, &[]).status, Status::ReservationConflict);
    let moved = go(&mut w, mover, 2);
    w.run();
    assert_eq!(w.ask(other, &read(0, 1), 512, &[]).status, Status::ReservationConflict);
    assert_eq!(w.ask(moved, &write(0, 1), 0, &blocks(1, 1)).status, Status::Good);
    w.lose(moved);
    w.run();
    assert_eq!(w.ask(other, &read(0, 1), 512, &[]).status, Status::Good);
    w.assert_quiet();
}

#[test]
fn a_nexus_with_something_in_flight_does_not_leave() {
    let (mut w, other, mover) = three_cores(true);
    let c = w.send(mover, &read(0, 1), 512, &[]);
    assert!(w.engine(1).may_leave(mover).is_none() && w.engine(1).pack_nexus(mover).is_none());
    w.run();
    assert_eq!(w.cmds[c].answer.as_ref().unwrap().status, Status::Good);
    // A function that waits for its home.
    w.tmf(mover, TmfFunction::LogicalUnitReset);
    assert!(w.engine(1).may_leave(mover).is_none());
    w.run();
    // A flush that nobody waits for: SYNCHRONIZE CACHE with IMMED.
    w.clear_attentions(mover);
    let c = w.send(mover, &[0x35, 2, 0, 0, 0, 0, 0, 0, 0, 0], 0, &[]);
    w.run_but(|e| matches!(e, Event::Io(..)));
    assert_eq!(w.cmds[c].answer.as_ref().unwrap().status, Status::Good);
    assert!(w.engine(1).may_leave(mover).is_none());
    w.fail = Some((Op::Flush, BlockError::Os(5)));
    w.run();
    w.fail = None;
    let moved = go(&mut w, mover, 2);
    let a = w.ask(moved, &read(0, 1), 512, &[]);
    assert!(a.sense.is_some_and(|s| s.is_deferred()), "{a:?}");
    assert_eq!(told(&mut w, moved), []);
    w.clear_attentions(other);
    w.assert_quiet();
}

#[test]
fn a_core_without_room_does_not_expect_anybody() {
    let (mut w, _, mover) = three_cores(false);
    let (info, _) = w.engine(1).may_leave(mover).unwrap();
    assert_eq!(w.engine(2).expect_nexus(info, 250), Err(Refusal::NoRoom));
    w.run();
    w.assert_quiet();
}

#[test]
fn what_the_control_plane_changed_on_one_core_only_is_told() {
    // The new core heard of it before it knew the nexus, the old one has not heard of it by the time it packs.
    let (mut w, _, mover) = three_cores(false);
    w.engine(2).lu_changed(LU, BdevInfo { blocks: DISK_BLOCKS / 2, ..info() }, None);
    let moved = go(&mut w, mover, 2);
    assert_eq!(told(&mut w, moved), [Asc::CAPACITY_DATA_HAS_CHANGED]);
    // The other way round: it waits with the old nexus.
    let (mut w, _, mover) = three_cores(false);
    w.engine(1).lu_changed(LU, BdevInfo { blocks: DISK_BLOCKS / 2, ..info() }, None);
    w.engine(2).lu_changed(LU, BdevInfo { blocks: DISK_BLOCKS / 2, ..info() }, None);
    let moved = go(&mut w, mover, 2);
    assert_eq!(told(&mut w, moved), [Asc::CAPACITY_DATA_HAS_CHANGED]);
    w.assert_quiet();
}

#[test]
fn a_lun_that_is_mapped_on_one_core_only_is_told_and_keeps_no_reservation() {
    let (mut w, other, mover) = three_cores(true);
    assert_eq!(w.ask(mover, &[0x16, 0, 0, 0, 0, 0], 0, &[]).status, Status::Good);
    w.engine(2).set_lun_map(1, &[(1, LU, false)]);
    w.drain(2);
    let moved = go(&mut w, mover, 2);
    w.run();
    // As if its LUN had been taken away while it was there.
    assert_eq!(w.ask(other, &read(0, 1), 512, &[]).status, Status::Good);
    w.engine(2).set_lun_map(1, &[(0, LU, false), (1, LU, false)]);
    w.drain(2);
    assert_eq!(told(&mut w, moved), [Asc::POWER_ON_OR_RESET_OCCURRED]);
    w.assert_quiet();
}

/// Whatever is on the way between the cores meanwhile, and in whatever order it arrives: each condition is told, once.
#[test]
fn nothing_that_happens_on_the_way_is_lost_or_told_twice() {
    let mut packed_first = 0;
    for seed in 0..1_500u64 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut w, other, mover) = three_cores(rng.bool());
        register(&mut w, mover, 2);
        register(&mut w, other, 1);
        w.clear_attentions(mover);
        // Begun before the move, in the middle of it, or after it.
        let mut begins = rng.u32(0..30);
        let (mut new, mut there) = (None, false);
        let starts = rng.u32(0..10);
        let (mut sent, mut first) = (None, None);
        for step in 0.. {
            if step == begins {
                sent = Some(w.send(other, &persistent_out(0x04, 1), 0, &pr_list(1, 2)));
            }
            if step == starts {
                new = Some(expect(&mut w, mover, 2));
            }
            if let Some(new) = new
                && !there
                && w.ready.contains(&new)
                && rng.u32(0..3) == 0
            {
                packed_first += u32::from(sent.is_some_and(|c| w.cmds[c].answer.is_none()));
                hand_over(&mut w, mover, new);
                there = true;
                // Takes what waits already: what comes later must not be the same once more.
                first = Some(w.send(new, &TUR, 0, &[]));
            }
            let events = w.events();
            match events.is_empty() {
                false => w.happen(events[rng.usize(0..events.len())]),
                true if there && sent.is_some() => break,
                true if sent.is_none() && there => begins = begins.min(step + 1),
                true => {}
            }
        }
        let new = new.unwrap();
        assert_eq!(w.cmds[sent.unwrap()].answer.as_ref().unwrap().status, Status::Good, "seed {seed}");
        let mut all: Vec<_> = w.cmds[first.unwrap()].answer.as_ref().unwrap().asc().into_iter().collect();
        all.extend(told(&mut w, new).into_iter().map(|asc| (SenseKey::UnitAttention, asc)));
        assert_eq!(all, [(SenseKey::UnitAttention, Asc::REGISTRATIONS_PREEMPTED)], "seed {seed}");
        w.assert_quiet();
    }
    assert!(packed_first > 100, "{packed_first}: hardly ever was anything under way");
}
