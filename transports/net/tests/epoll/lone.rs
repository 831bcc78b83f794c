//! The connection that alone has something.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use spindle_net::{CloseReason, ConnId, Net, TcpConfig};
use spindle_reactor::WakeSet;

use crate::bench::{Bench, pattern};

#[test]
fn a_lone_busy_connection_keeps_nobody_waiting_for_more_than_a_few_polls() {
    let mut b = Bench::new(TcpConfig::default());
    let (mut busy, busy_conn) = b.connect("127.0.0.1:0");
    let (mut other, other_conn) = b.connect("127.0.0.1:0");
    let mut polls_with_other = Vec::new();
    for round in 0..20 {
        // Alone, and with one small answer each time: read without asking from the second time on.
        for _ in 0..round {
            busy.write_all(&[1]).unwrap();
            b.readable(busy_conn, 1);
            b.net.consume(busy_conn, 1);
            b.net.send(busy_conn, &[2], None, &[]);
            let now = b.now();
            b.net.flush(now);
            busy.read_exact(&mut [0]).unwrap();
        }
        other.write_all(&[3]).unwrap();
        let mut polls = 0;
        while b.net.bytes(other_conn).is_empty() {
            polls += 1;
            assert!(polls < 10, "the other one is not read");
            busy.write_all(&[1]).unwrap();
            let now = b.now();
            b.net.poll(now, 64, &mut b.events);
            let came = b.net.bytes(busy_conn).len() as u32;
            b.net.consume(busy_conn, came);
        }
        b.net.consume(other_conn, 1);
        polls_with_other.push(polls);
        b.events.clear();
    }
    assert!(
        polls_with_other.iter().any(|&polls| polls > 1),
        "nobody was ever read unasked: nothing is shown"
    );
}

/// What the epoll set of a Net watches, as the kernel tells.
fn watched(epoll: i32) -> usize {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")).unwrap();
    info.lines().filter(|line| line.starts_with("tfd:")).count()
}

/// A connection that alone was busy for long, and the descriptor of the set it is not in any more.
fn apart(b: &mut Bench) -> (TcpStream, ConnId, i32) {
    let (client, conn) = b.connect("127.0.0.1:0");
    let mut wake = WakeSet::new();
    b.net.arm(&mut wake);
    let epoll = wake.fds()[0];
    let before = watched(epoll);
    let mut busy = (client, conn, epoll);
    (0..100).for_each(|_| exchange(b, &mut busy));
    assert_eq!(watched(epoll), before - 1, "it is still in the set");
    busy
}

/// A byte comes and one goes.
fn exchange(b: &mut Bench, (client, conn, _): &mut (TcpStream, ConnId, i32)) {
    client.write_all(&[1]).unwrap();
    b.readable(*conn, 1);
    b.net.consume(*conn, 1);
    b.net.send(*conn, &[2], None, &[]);
    b.net.flush(b.now());
    client.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_lone_connection_is_told_of_again_before_the_core_sleeps() {
    let mut b = Bench::new(TcpConfig::default());
    let mut lone = apart(&mut b);
    let all = watched(lone.2) + 1;
    for _ in 0..3 {
        assert!(b.net.arm(&mut WakeSet::new()));
        assert_eq!(watched(lone.2), all);
        lone.0.write_all(&[1]).unwrap();
        let mut fds = [spindle_ffi_os::PollFd::readable(lone.2)];
        assert_eq!(
            spindle_ffi_os::poll::wait(&mut fds, Some(Duration::from_secs(10))).unwrap(),
            1,
            "it slept on"
        );
        b.readable(lone.1, 1);
        b.net.consume(lone.1, 1);
        (0..100).for_each(|_| exchange(&mut b, &mut lone));
        assert_eq!(watched(lone.2), all - 1);
    }
}

#[test]
fn a_lone_connection_that_is_held_back_or_cannot_be_written_to_goes_on_where_it_stood() {
    let mut b = Bench::new(TcpConfig::default());
    let mut lone = apart(&mut b);
    let conn = lone.1;
    // Held back: nothing is read until it may go on.
    b.net.pause(conn, true);
    lone.0.write_all(&[5]).unwrap();
    for _ in 0..20 {
        b.net.poll(b.now(), 64, &mut b.events);
        assert!(b.events.is_empty() && b.net.bytes(conn).is_empty());
    }
    b.net.pause(conn, false);
    b.readable(conn, 1);
    b.net.consume(conn, 1);
    // Its peer takes nothing for a while: the rest goes out when it does.
    (0..100).for_each(|_| exchange(&mut b, &mut lone));
    let large = pattern(16 << 20);
    b.net.send(conn, &large, None, &[]);
    b.net.flush(b.now());
    assert!(b.net.queued_bytes(conn) > 0, "the kernel took all of it: nothing is shown");
    let mut client = lone.0.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; 16 << 20];
        client.read_exact(&mut got).unwrap();
        got == large
    });
    let limit = Instant::now() + Duration::from_secs(20);
    while b.net.queued_bytes(conn) > 0 {
        assert!(Instant::now() < limit, "nobody says that there is room again");
        b.net.poll(b.now(), 64, &mut b.events);
        b.net.flush(b.now());
    }
    assert!(reader.join().unwrap());
    exchange(&mut b, &mut lone);
}

#[test]
fn a_lone_connection_makes_room_for_others_and_ends_as_others_do() {
    let mut b = Bench::new(TcpConfig::default());
    let mut lone = apart(&mut b);
    let watched_before = watched(lone.2);
    let (mut other, other_conn) = b.connect("127.0.0.1:0");
    assert_eq!(watched(lone.2), watched_before + 3, "a listener, a connection, and the lone one is back");
    for _ in 0..50 {
        other.write_all(&[3]).unwrap();
        lone.0.write_all(&[1]).unwrap();
        b.until("both", |b, event| {
            let both = !b.net.bytes(other_conn).is_empty() && !b.net.bytes(lone.1).is_empty();
            if both { Ok(()) } else { Err(event) }
        });
        b.net.consume(other_conn, 1);
        b.net.consume(lone.1, 1);
        b.events.clear();
    }
    drop(other);
    assert_eq!(b.closed(other_conn), CloseReason::PeerClosed);
    (0..100).for_each(|_| exchange(&mut b, &mut lone));
    let conn = lone.1;
    drop(lone.0);
    assert_eq!(b.closed(conn), CloseReason::PeerClosed);
    // The next one in its place is told of.
    let mut next = apart(&mut b);
    assert_eq!(next.1.slot(), conn.slot());
    exchange(&mut b, &mut next);
}
