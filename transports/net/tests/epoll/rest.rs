//! Whole segments leave at once; the rest behind them waits for one turn more.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use spindle_mem::{SgvRef, ShareId};
use spindle_net::{Close, CloseReason, ConnId, Net, TcpConfig};
use spindle_reactor::WakeSet;

use crate::bench::{Bench, pattern};

const PDU: usize = 1_000;

fn connected() -> (Bench, TcpStream, ConnId) {
    let mut b = Bench::new(TcpConfig::default());
    let (client, conn) = b.connect("127.0.0.1:0");
    client.set_nonblocking(true).unwrap();
    (b, client, conn)
}

/// Queues PDUs until some of them leave early. How many bytes have left, and how many wait.
fn queue_until_some_leave(b: &mut Bench, conn: ConnId) -> (usize, usize) {
    let before = b.net.queued_bytes(conn) as usize;
    for n in 1..1_000 {
        b.net.send(conn, &pattern(PDU), None, &[]);
        let waiting = b.net.queued_bytes(conn) as usize;
        if waiting < before + n * PDU {
            return (before + n * PDU - waiting, waiting);
        }
    }
    panic!("a megabyte waits, and nothing leaves");
}

/// What has come since it was asked last: over loopback all that was sent.
fn came(client: &mut TcpStream) -> usize {
    let (mut all, mut part) = (0, vec![0; 1 << 20]);
    loop {
        match client.read(&mut part) {
            Ok(n) => all += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return all,
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn the_rest_behind_whole_segments_waits_for_one_turn_and_no_longer() {
    let (mut b, mut client, conn) = connected();
    let (left, rest) = queue_until_some_leave(&mut b, conn);
    assert!(rest > 0, "the segments end where a PDU does: nothing is shown");
    assert_eq!(came(&mut client), left);
    b.net.send_now(conn);
    b.net.flush(b.now());
    assert_eq!(came(&mut client), 0, "the peer has whole PDUs to work on");
    assert!(!b.net.arm(&mut WakeSet::new()), "the core sleeps on what it owes");
    b.net.flush(b.now());
    assert_eq!(came(&mut client), rest);
    assert!(b.net.arm(&mut WakeSet::new()));
    // What comes afterwards is not behind anything.
    b.net.send(conn, &[7; 48], None, &[]);
    b.net.flush(b.now());
    assert_eq!(came(&mut client), 48);
}

#[test]
fn the_rest_is_joined_by_the_answers_of_the_next_turn() {
    let (mut b, mut client, conn) = connected();
    let (mut left, mut rest) = (0, 0);
    for _ in 0..10 {
        let (more, waiting) = queue_until_some_leave(&mut b, conn);
        left += more;
        rest = waiting;
        b.net.flush(b.now());
    }
    assert_eq!(came(&mut client), left, "whole segments only");
    // A turn with less in it than a segment: all of it goes.
    b.net.send(conn, &pattern(PDU), None, &[]);
    b.net.flush(b.now());
    assert_eq!(came(&mut client), rest + PDU);
    assert_eq!(b.net.queued_bytes(conn), 0);
}

#[test]
fn nothing_waits_where_the_peer_has_hardly_a_whole_pdu() {
    let (mut b, mut client, conn) = connected();
    let large = pattern(150_001);
    b.net.send(conn, &large, None, &[]);
    assert!(came(&mut client) > 0, "nothing left early: nothing is shown");
    b.net.flush(b.now());
    assert_eq!(b.net.queued_bytes(conn), 0);
    came(&mut client);
    // A whole one, and the start of the next.
    (0..2).for_each(|_| b.net.send(conn, &pattern(40_000), None, &[]));
    assert!(came(&mut client) > 0, "nothing left early: nothing is shown");
    b.net.flush(b.now());
    assert_eq!(b.net.queued_bytes(conn), 0);
    came(&mut client);
    // Nor where nothing left early at all.
    b.net.send(conn, &[7; 48], None, &[]);
    b.net.send_now(conn);
    assert_eq!(came(&mut client), 48);
}

#[test]
fn a_close_takes_the_rest_along() {
    let (mut b, mut client, conn) = connected();
    let (left, rest) = queue_until_some_leave(&mut b, conn);
    b.net.close(conn, Close::Graceful);
    for _ in 0..3 {
        b.net.flush(b.now());
        b.net.poll(b.now(), 64, &mut b.events);
    }
    client.set_nonblocking(false).unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), left + rest);
}

#[test]
fn a_rest_ends_with_its_connection_and_the_next_in_its_place_knows_nothing_of_it() {
    let (mut b, client, conn) = connected();
    queue_until_some_leave(&mut b, conn);
    let sgv = b.pool.take(512, ShareId(0)).unwrap();
    b.net.send(conn, &[7; 48], Some((SgvRef::new(sgv), 0..512)), &[]);
    b.net.flush(b.now());
    // It waits; with much unread at the peer's end, closing there is a reset.
    drop(client);
    assert!(matches!(b.closed(conn), CloseReason::Failed(_) | CloseReason::PeerClosed));
    assert!(b.pool.is_full(), "its body is back");
    let (mut client, next) = b.connect("127.0.0.1:0");
    client.set_nonblocking(true).unwrap();
    assert_eq!(next.slot(), conn.slot());
    b.net.send(next, &[8; 48], None, &[]);
    b.net.flush(b.now());
    assert_eq!(came(&mut client), 48);
    assert!(b.net.arm(&mut WakeSet::new()));
}
