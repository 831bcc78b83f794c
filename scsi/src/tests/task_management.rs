//! Ending tasks before their time.

use super::*;

const NOBODY: fn(&Event) -> bool = |e| matches!(e, Event::Io(..));

#[test]
fn abort_task_is_answered_only_when_the_device_has_let_go() {
    let (mut w, n) = World::ready();
    let c = w.send(n, &read(0, 1), 512, &[]);
    let tmf = w.tmf(n, TmfFunction::AbortTask(TaskTag(c as u64)));
    w.run_but(NOBODY);
    assert_eq!((w.tmf_answer(tmf), w.hinted.len()), (None, 1));
    w.run();
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
    assert!(w.cmds[c].revoked && w.cmds[c].answer.is_none());
    w.assert_quiet();
}

#[test]
fn abort_while_receiving_answers_only_after_the_buffer_is_back() {
    let (mut w, n) = World::ready();
    let c = w.send(n, &write(0, 1), 0, &blocks(1, 1));
    let tmf = w.tmf(n, TmfFunction::AbortTask(TaskTag(c as u64)));
    assert_eq!(w.revokes.len(), 1);
    assert_eq!(w.tmf_answer(tmf), None);
    w.run();
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
    assert!(w.log.is_empty(), "nothing was written");
    w.assert_quiet();
}

#[test]
fn a_task_whose_status_is_on_its_way_does_not_exist_and_the_answer_stands_behind_it() {
    let (mut w, n) = World::ready();
    let c = w.send(n, &read(0, 1), 512, &[]);
    w.run_but(|e| matches!(e, Event::Responded(_)));
    assert!(w.cmds[c].answer.is_some());
    let tmf = w.tmf(n, TmfFunction::AbortTask(TaskTag(c as u64)));
    assert_eq!(w.tmf_answer(tmf), None);
    w.run();
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::TaskDoesNotExist));
    let tmf = w.tmf(n, TmfFunction::AbortTask(TaskTag(c as u64)));
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::TaskDoesNotExist));
    w.assert_quiet();
}

#[test]
fn abort_task_set_ends_those_of_the_nexus_in_every_state_and_no_others() {
    let mut w = World::with(1, [0, 0, 2, 0, 0, 0], info(), false);
    let (a, b) = (w.nexus(0, 1), w.nexus(0, 2));
    w.run();
    w.clear_attentions(a);
    w.clear_attentions(b);
    let executing = w.send(a, &read(0, 1), 512, &[]);
    let receiving = w.send(a, &write(0, 1), 0, &blocks(1, 1));
    let hungry = w.send(a, &write(1, 1), 0, &blocks(2, 1));
    let dormant = w.send_as(a, 0, TaskAttr::Ordered, &write(2, 1), 0, &blocks(3, 1));
    let swallowing = w.send(a, &[0xFF], 0, &blocks(4, 1));
    let other = w.send(b, &read(0, 1), 512, &[]);
    let tmf = w.tmf(a, TmfFunction::AbortTaskSet);
    let late = w.send(a, &write(3, 1), 0, &blocks(5, 1));
    w.run_but(NOBODY);
    assert_eq!(w.tmf_answer(tmf), None);
    w.run();
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
    for c in [executing, receiving, hungry, dormant, swallowing] {
        assert!(w.cmds[c].revoked && w.cmds[c].answer.is_none(), "command {c}");
    }
    for c in [other, late] {
        assert_eq!(w.cmds[c].answer.as_ref().unwrap().status, Status::Good);
    }
    assert!(w.disk[..3 * BLOCK].iter().all(|b| *b == 0));
    w.assert_quiet();
}

#[test]
fn unit_reset_ends_the_tasks_of_all_nexuses_on_all_cores_and_tells_everybody() {
    let mut w = World::new(3);
    let nexuses: Vec<_> = (0..3).map(|core| w.nexus(core, core + 1)).collect();
    w.run();
    nexuses.iter().for_each(|n| w.clear_attentions(*n));
    let cmds: Vec<_> = nexuses.iter().map(|n| w.send(*n, &read(0, 1), 512, &[])).collect();
    let tmf = w.tmf(nexuses[2], TmfFunction::LogicalUnitReset);
    w.run_but(|e| matches!(e, Event::Io(1, _)));
    assert_eq!(w.tmf_answer(tmf), None, "core 1 still executes");
    w.run();
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
    assert!(cmds.iter().all(|c| w.cmds[*c].revoked));
    for n in nexuses {
        let asc = w.ask(n, &TUR, 0, &[]).asc();
        assert_eq!(asc, Some((SenseKey::UnitAttention, Asc::POWER_ON_OR_RESET_OCCURRED)));
        assert_eq!(w.ask(n, &TUR, 0, &[]).status, Status::Good);
    }
    w.assert_quiet();
}

#[test]
fn what_a_nexus_sends_behind_its_reset_is_not_ended_by_it() {
    for shared in [false, true] {
        for function in [TmfFunction::LogicalUnitReset, TmfFunction::ClearTaskSet] {
            let mut w = World::with(2, [8, 8, 8, 0, 0, 0], info(), shared);
            // The unit's home is core 0: the request travels while the commands arrive.
            let (other, n) = (w.nexus(0, 1), w.nexus(1, 2));
            w.run();
            [other, n].iter().for_each(|n| w.clear_attentions(*n));
            let before = w.send(n, &read(0, 1), 512, &[]);
            let tmf = w.tmf(n, function);
            let behind = w.send(n, &read(1, 1), 512, &[]);
            let writes = w.send(n, &write(2, 1), 0, &blocks(1, 1));
            w.run();
            assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
            assert!(w.cmds[before].revoked, "{function:?}, shared {shared}");
            for c in [behind, writes] {
                assert!(!w.cmds[c].revoked, "{function:?}, shared {shared}");
                assert_eq!(w.cmds[c].answer.as_ref().unwrap().status, Status::Good);
            }
            w.assert_quiet();
        }
    }
}

#[test]
fn with_one_member_core_a_reset_sends_no_message() {
    let (mut w, n) = World::ready();
    let tmf = w.tmf(n, TmfFunction::LogicalUnitReset);
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
    assert!(w.mail.is_empty());
}

#[test]
fn target_reset_is_answered_when_every_unit_is_reset() {
    let (mut w, n) = World::ready();
    let c = w.send(n, &read(0, 1), 512, &[]);
    let tmf = w.tmf(n, TmfFunction::TargetWarmReset);
    w.run_but(NOBODY);
    assert_eq!(w.tmf_answer(tmf), None);
    w.run();
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
    assert!(w.cmds[c].revoked);
    w.assert_quiet();
}

#[test]
fn queries_and_the_unsupported_answer_at_once() {
    let (mut w, n) = World::ready();
    let c = w.send(n, &read(0, 1), 512, &[]);
    let tag = TaskTag(c as u64);
    let cases = [
        (TmfFunction::QueryTask(tag), TmfResponse::Succeeded),
        (TmfFunction::QueryTask(TaskTag(99)), TmfResponse::Complete),
        (TmfFunction::QueryTaskSet, TmfResponse::Succeeded),
        (TmfFunction::QueryAsyncEvent, TmfResponse::Complete),
        (TmfFunction::ClearAca, TmfResponse::NotSupported),
    ];
    for (function, response) in cases {
        let tmf = w.tmf(n, function);
        assert_eq!(w.tmf_answer(tmf), Some(response), "{function:?}");
    }
    w.run();
    w.engine(0).set_lun_map(1, &[]);
    let tmf = w.tmf(n, TmfFunction::AbortTaskSet);
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::LunDoesNotExist));
}

#[test]
fn nexus_reset_ends_its_tasks_and_leaves_an_attention() {
    let (mut w, n) = World::ready();
    let c = w.send(n, &write(0, 1), 0, &blocks(1, 1));
    let tmf = w.tmf(n, TmfFunction::ITNexusReset);
    w.run();
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
    assert!(w.cmds[c].revoked);
    let asc = w.ask(n, &TUR, 0, &[]).asc();
    assert_eq!(asc, Some((SenseKey::UnitAttention, Asc::I_T_NEXUS_LOSS_OCCURRED)));
    w.assert_quiet();
}

#[test]
fn a_lost_nexus_is_gone_when_its_last_task_is() {
    let (mut w, n) = World::ready();
    w.send(n, &read(0, 1), 512, &[]);
    w.send(n, &write(0, 1), 0, &blocks(1, 1));
    w.lose(n);
    w.run_but(NOBODY);
    assert!(w.gone.is_empty());
    w.run();
    assert_eq!(w.gone, [n]);
    w.assert_quiet();
    let again = w.nexus(0, 1);
    assert_ne!(again, n, "the name of the old nexus is stale");
    w.run();
    w.clear_attentions(again);
}

#[test]
fn clear_task_set_of_a_shared_set_tells_the_others_by_attention_or_status() {
    for tas in [false, true] {
        let mut w = World::with(2, SMALL, info(), true);
        let (a, b) = (w.nexus(0, 1), w.nexus(1, 2));
        w.run();
        w.clear_attentions(a);
        w.clear_attentions(b);
        if tas {
            // MODE SELECT(6), page 0Ah with TAS one and TST as it is.
            let mut list = vec![0, 0, 0, 0, 0x0A, 0x0A, 0x02, 0x10, 0, 0x40];
            list.resize(16, 0);
            let a = w.ask(a, &[0x15, 0x10, 0, 0, 16, 0], 0, &list);
            assert_eq!(a.status, Status::Good, "{a:?}");
            w.clear_attentions(b);
        }
        let theirs = w.send(b, &read(0, 1), 512, &[]);
        let receiving = w.send(b, &write(0, 1), 0, &blocks(1, 1));
        let own = w.send(a, &read(0, 1), 512, &[]);
        let tmf = w.tmf(a, TmfFunction::ClearTaskSet);
        w.run();
        assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
        assert!(w.cmds[own].revoked, "the nexus that asks is told by the answer alone");
        for c in [theirs, receiving] {
            let status = w.cmds[c].answer.as_ref().map(|a| a.status);
            assert_eq!(status, tas.then_some(Status::TaskAborted));
        }
        let cleared = Some((SenseKey::UnitAttention, Asc::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR));
        assert_eq!(w.ask(b, &TUR, 0, &[]).asc(), if tas { None } else { cleared });
        assert_eq!(w.disk[0], 0);
        w.assert_quiet();
    }
}

#[test]
fn tasks_of_before_a_remapping_are_found_under_their_lun() {
    for function in [TmfFunction::AbortTaskSet, TmfFunction::ClearTaskSet] {
        let (mut w, n) = World::ready();
        let c = w.send(n, &write(0, 1), 0, &blocks(1, 1));
        w.run_but(|e| matches!(e, Event::Io(..)));
        w.engine(0).set_lun_map(1, &[]);
        w.engine(0).set_lun_map(1, &[(0, LU, false)]);
        let tmf = w.tmf(n, function);
        w.run_but(|e| matches!(e, Event::Io(..)));
        assert_eq!(w.tmf_answer(tmf), None, "the write of before is still at the device");
        w.run();
        assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
        assert!(w.cmds[c].revoked);
        w.assert_quiet();
    }
}

#[test]
fn target_reset_waits_for_tasks_of_a_unit_that_was_taken_out_of_the_map() {
    let (mut w, n) = World::ready();
    let c = w.send(n, &write(0, 1), 0, &blocks(1, 1));
    w.run_but(|e| matches!(e, Event::Io(..)));
    w.engine(0).set_lun_map(1, &[]);
    let tmf = w.tmf(n, TmfFunction::TargetWarmReset);
    w.run_but(|e| matches!(e, Event::Io(..)));
    assert_eq!(w.tmf_answer(tmf), None, "the write is still at the device");
    w.run();
    assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
    assert!(w.cmds[c].revoked);
    w.assert_quiet();
}

#[test]
fn a_target_reset_ends_commands_for_units_that_are_not_there() {
    let mut w = World::with(1, [1, 0, 0, 0, 0, 0], info(), false);
    let n = w.nexus(0, 1);
    w.run();
    w.clear_attentions(n);
    let holds = w.send(n, &write(0, 1), 0, &blocks(1, 1));
    let waits = w.send_as(n, 5, TaskAttr::Simple, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0], 64, &[]);
    assert!(w.cmds[holds].answer.is_none() && w.cmds[waits].answer.is_none());
    let reset = w.tmf(n, TmfFunction::TargetWarmReset);
    w.run_but(|e| matches!(e, Event::Revoke(_) | Event::Fill(_)));
    assert!(w.cmds[waits].revoked, "it goes with the others");
    w.run();
    assert_eq!(w.tmf_answer(reset), Some(TmfResponse::Complete));
    assert!(w.cmds[waits].answer.is_none());
    w.assert_quiet();
}

#[test]
fn a_reset_that_has_not_begun_ends_with_its_session() {
    let mut w = World::new(2);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    w.send(n[0], &write(0, 1), 0, &blocks(1, 1));
    w.run_but(|e| matches!(e, Event::Io(..)));
    let first = w.tmf(n[0], TmfFunction::LogicalUnitReset);
    let second = w.tmf(n[1], TmfFunction::LogicalUnitReset);
    w.run_but(|e| matches!(e, Event::Io(..)));
    let in_line = |w: &mut World| w.engine(0).lu(0).at_home.as_ref().unwrap().load();
    assert_eq!((w.io[0].len(), in_line(&mut w)), (1, 2), "the disk keeps both waiting");
    w.lose(n[1]);
    w.run_but(|e| matches!(e, Event::Io(..)));
    assert_eq!(
        in_line(&mut w),
        2,
        "nobody wants the second any more; its core leaves when the first is done"
    );
    w.run();
    assert_eq!((w.tmf_answer(first), w.tmf_answer(second)), (Some(TmfResponse::Complete), None));
    w.assert_quiet();
}

#[test]
fn a_reset_that_has_ended_tasks_of_others_is_finished_without_its_session() {
    let mut w = World::new(2);
    let n = [w.nexus(0, 1), w.nexus(1, 2)];
    w.run();
    n.iter().for_each(|n| w.clear_attentions(*n));
    let mut both = blocks(0, 1);
    both.extend(blocks(1, 1));
    w.send(n[0], &compare_and_write(5), 0, &both);
    w.run_but(|e| matches!(e, Event::Io(..)));
    let waits = w.send(n[0], &write(5, 1), 0, &blocks(8, 1));
    w.run_but(|e| matches!(e, Event::Io(..)));
    w.tmf(n[1], TmfFunction::LogicalUnitReset);
    w.run_but(|e| matches!(e, Event::Io(..)));
    assert!(w.cmds[waits].revoked, "it has been ended by the reset, which stands in line behind the lock");
    w.lose(n[1]);
    w.run();
    let told = Some((SenseKey::UnitAttention, Asc::POWER_ON_OR_RESET_OCCURRED));
    assert_eq!(w.ask(n[0], &TUR, 0, &[]).asc(), told, "who lost a command learns why");
    w.assert_quiet();
}

#[test]
fn functions_reach_commands_that_came_while_their_lun_stood_for_no_unit() {
    use TmfFunction::{AbortTask, AbortTaskSet, ClearTaskSet, LogicalUnitReset};
    for shared in [false, true] {
        for function in [AbortTaskSet, ClearTaskSet, LogicalUnitReset, AbortTask(TaskTag(0))] {
            let mut w = World::with(1, [1, 0, 0, 0, 0, 0], info(), shared);
            w.engine(0).set_lun_map(1, &[]);
            let (n, other) = (w.nexus(0, 1), w.nexus(0, 2));
            let inquiry = [0x12, 0, 0, 0, 64, 0];
            // The only vector there is goes out with an answer, and stays there.
            let holds = w.send(other, &inquiry, 64, &[]);
            let waits = w.send(n, &inquiry, 64, &[]);
            assert!(w.cmds[holds].answer.is_some() && w.cmds[waits].answer.is_none());
            w.engine(0).set_lun_map(1, &[(0, LU, false)]);
            let function = match function {
                AbortTask(_) => AbortTask(TaskTag(waits as u64)),
                other => other,
            };
            let tmf = w.tmf(n, function);
            w.run_but(|e| matches!(e, Event::Returned(_)));
            assert!(w.cmds[waits].revoked, "{function:?}, shared {shared}");
            assert_eq!(w.tmf_answer(tmf), Some(TmfResponse::Complete));
            w.run();
            w.assert_quiet();
        }
    }
}
