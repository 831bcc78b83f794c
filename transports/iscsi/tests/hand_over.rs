//! When answers leave before the turn ends: half of what a deep initiator has out, all of what a shallow one has.

mod support;

use std::collections::VecDeque;

use spindle_iscsi_wire::TargetPdu;
use support::{Host, World, config};

/// Rounds of `depth` writes of 4 KiB that are all there when the turn begins. Returns, of the last round, how many answers
/// were handed over each time before it ended.
fn handed_over(hosts: usize, depth: usize) -> Vec<usize> {
    let mut config = config();
    config.targets[0].queue_depth = 1_024;
    let mut w = World::new(config, None, [256, 64, 32, 8, 4, 0]);
    w.mid.window_limit = u32::MAX;
    // As many whole commands as kernel TCP takes in by one read.
    w.t.net_mut().read_max = 15 * (48 + 4096);
    let mut hosts: Vec<Host> =
        (0..hosts).map(|n| Host::login(&mut w, n as u8 + 1, &["ImmediateData=Yes"])).collect();
    for _ in 0..200 {
        w.t.net_mut().early.clear();
        for h in &mut hosts {
            for _ in 0..depth {
                let mut c = h.write10(8, 8);
                c.data_len = 4096;
                h.send(&mut w, &c.to_bhs(), &[0x5A; 4096]);
            }
        }
        w.run();
        for h in &mut hosts {
            let sent = h.sent(&mut w);
            let answers: VecDeque<u32> = sent
                .iter()
                .map(|pdu| match pdu.parse() {
                    TargetPdu::ScsiResponse(r) => r.stat_sn.0,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(answers.len(), depth);
            assert!(
                answers.iter().zip(h.exp_stat_sn..).all(|(&sn, expected)| sn == expected),
                "in order: {answers:?}"
            );
            h.exp_stat_sn += depth as u32;
        }
    }
    w.check_quiet();
    w.t.net().early.clone()
}

#[test]
fn an_initiator_goes_on_with_the_first_half_while_the_second_is_worked_on() {
    for depth in [20, 32, 64] {
        let early = handed_over(1, depth);
        let first = early[0];
        assert!((depth * 7 / 16..=depth * 13 / 16).contains(&first), "depth {depth}: {early:?}");
        assert!(early.len() <= 2, "depth {depth}: in small parts, {early:?}");
    }
}

#[test]
fn a_lone_answer_does_not_wait_for_the_end_of_the_turn() {
    assert_eq!(handed_over(1, 1), [1]);
    assert_eq!(handed_over(1, 5), [5]);
}

#[test]
fn very_deep_queues_and_several_initiators_are_answered_by_whole_turns() {
    // Of these there is always enough on the way: to send more often would cost more than it gains.
    assert_eq!(handed_over(1, 128), []);
    assert_eq!(handed_over(2, 32), []);
}
