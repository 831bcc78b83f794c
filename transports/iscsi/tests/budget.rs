//! No connection has a turn for itself, whether its commands are many or large.

mod support;

use spindle_iscsi_wire::TargetPdu;
use support::{Host, World, config};

/// Commands of `blocks` blocks that are there at once, and how many of them the turn answers that finds them.
fn answered_in_a_turn(commands: u32, blocks: u16) -> usize {
    let mut config = config();
    config.limits.window_first = 128;
    let mut w = World::new(config, None, [128, 16, 8, 128, 2, 0]);
    let mut h = Host::login(&mut w, 1, &["MaxRecvDataSegmentLength=262144"]);
    w.run();
    let mut bytes = Vec::new();
    for _ in 0..commands {
        let c = h.read10(0, blocks);
        bytes.extend(support::emit(&c.to_bhs(), &[], h.digests));
    }
    w.write(h.conn, &bytes);
    w.turn();
    let ends = |sent: &[support::Pdu]| {
        let last = |p: &&support::Pdu| matches!(p.parse(), TargetPdu::DataIn(d) if d.status.is_some());
        sent.iter().filter(last).count()
    };
    let first = ends(&h.sent(&mut w));
    w.run();
    assert_eq!(first + ends(&h.sent(&mut w)), commands as usize, "the others have their turn later");
    w.check_quiet();
    first
}

#[test]
fn a_turn_takes_in_many_small_commands_and_few_large_ones() {
    // A budget of 64, and once more for what is left over when all others had theirs.
    let small = answered_in_a_turn(100, 8);
    assert!((65..=100).contains(&small), "{small} of 4 KiB");
    // 128 KiB each count for nine.
    let large = answered_in_a_turn(40, 256);
    assert!((8..=16).contains(&large), "{large} of 128 KiB");
}
