//! The command window is earned by an initiator that uses it, however fast the target answers.

mod support;

use std::collections::VecDeque;

use spindle_iscsi_wire::{SerialNumber, TargetPdu};
use support::{Host, World, config, emit};

/// What comes, and how.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Stream {
    Reads,
    Writes,
    /// The target has the header before the data.
    WritesInPieces,
    /// It has all but the data digest.
    DigestsBehind,
}

/// Keeps `depth` commands of 4 KiB out while the target takes in and answers one at a time, as a fast target does
/// that gets them one by one. Returns how many were out at most.
fn most_out(w: &mut World, stream: Stream, depth: usize) -> usize {
    let digest = if stream == Stream::DigestsBehind { "DataDigest=CRC32C" } else { "DataDigest=None" };
    let mut h = Host::login(w, 1, &["InitialR2T=Yes", "ImmediateData=Yes", digest]);
    // Commands on their way: what they say of ExpStatSN is what the host knew when it sent them.
    let mut wire = VecDeque::new();
    let (mut max_cmd_sn, mut most) = (SerialNumber(h.cmd_sn), 0);
    for _ in 0..2_000 {
        while wire.len() < depth && SerialNumber(h.cmd_sn).le(max_cmd_sn) {
            let reads = stream == Stream::Reads;
            let mut c = if reads { h.read10(8, 8) } else { h.write10(8, 8) };
            c.data_len = if reads { 0 } else { 4096 };
            wire.push_back(c);
        }
        most = most.max(wire.len());
        let c = wire.pop_front().expect("the window is never closed with nothing out");
        let bytes = emit(&c.to_bhs(), &vec![0x5A; c.data_len as usize], h.digests);
        let first = match stream {
            Stream::WritesInPieces => 1_000,
            Stream::DigestsBehind => bytes.len() - 4,
            _ => bytes.len(),
        };
        w.write(h.conn, &bytes[..first]);
        w.run();
        w.write(h.conn, &bytes[first..]);
        w.run();
        let sent = h.sent(w);
        assert_eq!(sent.len(), 1, "one answer: {sent:?}");
        let (stat_sn, max) = match sent[0].parse() {
            TargetPdu::ScsiResponse(r) => (Some(r.stat_sn), r.max_cmd_sn),
            TargetPdu::DataIn(d) => (d.status.map(|s| s.stat_sn), d.max_cmd_sn),
            other => panic!("{other:?}"),
        };
        h.exp_stat_sn = stat_sn.expect("status comes with the data").next().0;
        assert!(max.ge(max_cmd_sn), "a window told is not taken back");
        max_cmd_sn = max;
    }
    w.check_quiet();
    most
}

#[test]
fn an_initiator_that_fills_its_window_earns_as_much_as_it_fills() {
    for stream in [Stream::Reads, Stream::Writes, Stream::WritesInPieces, Stream::DigestsBehind] {
        for depth in [9, 32, 128] {
            assert_eq!(most_out(&mut World::plain(), stream, depth), depth, "{stream:?}");
        }
    }
}

#[test]
fn a_window_grows_to_the_depth_of_its_target() {
    for (allowed, filled) in [(1_024, 1_024), (300, 1_024), (1_024, 500), (128, 1_024)] {
        let mut config = config();
        config.targets[0].queue_depth = allowed;
        let mut w = World::new(config, None, [64, 16, 8, 4, 2, 0]);
        w.mid.window_limit = u32::MAX;
        assert_eq!(most_out(&mut w, Stream::Writes, filled), filled.min(allowed as usize), "of {allowed}");
    }
}

#[test]
fn one_that_does_not_fill_it_earns_nothing() {
    let mut w = World::plain();
    assert_eq!(most_out(&mut w, Stream::Writes, 4), 4);
    assert_eq!(w.t.sessions()[0].window, 8);
}

#[test]
fn a_window_grows_to_what_there_is_room_for() {
    let mut w = World::plain();
    w.mid.window_limit = 20;
    assert_eq!(most_out(&mut w, Stream::Writes, 128), 20);
}
