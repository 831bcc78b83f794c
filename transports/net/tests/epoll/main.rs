//! Kernel TCP behind the `Net` seam, against plain sockets on loopback.

mod bench;
mod lone;
mod rest;

use std::io::{Read, Write};
use std::net::TcpStream;

use bench::{Bench, pattern};
use spindle_mem::{SgvRef, ShareId};
use spindle_net::{Close, CloseReason, Net, NetEvent, TcpConfig};
use spindle_reactor::WakeSet;

#[test]
fn a_connection_moves_with_what_was_received_and_not_read() {
    let (mut a, mut b) = (Bench::new(TcpConfig::default()), Bench::new(TcpConfig::default()));
    for unread in [0, 40, 64, 3_000] {
        let (mut client, old) = a.connect("127.0.0.1:0");
        let sent = pattern(10 + unread + 30);
        client.write_all(&sent[..10 + unread]).unwrap();
        a.readable(old, 10 + unread);
        a.net.consume(old, 10);
        let socket = a.net.detach(old).expect("nothing is under way");
        assert_eq!(a.net.bytes(old), []);
        assert!(a.net.detach(old).is_none(), "it is gone");
        // What comes while it is on no core waits in the socket.
        client.write_all(&sent[10 + unread..]).unwrap();
        let new = b.net.attach(socket, b.now()).unwrap();
        assert_eq!(b.net.bytes(new), &sent[10..10 + unread]);
        if unread > 0 {
            b.readable(new, unread);
        }
        b.readable(new, unread + 30);
        assert_eq!(b.net.bytes(new), &sent[10..]);
        b.net.consume(new, unread as u32 + 30);
        b.net.send(new, &[7; 48], None, &[]);
        assert!(b.net.detach(new).is_none(), "something is to be sent");
        let now = b.now();
        b.net.flush(now);
        let mut answer = [0; 48];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [7; 48]);
        drop(client);
        assert_eq!(b.closed(new), CloseReason::PeerClosed);
    }
    assert_eq!((a.net.connections(), b.net.connections()), (0, 0));
}

#[test]
fn a_connection_that_lands_or_was_lent_to_stays() {
    let mut b = Bench::new(TcpConfig::default());
    let (mut client, conn) = b.connect("127.0.0.1:0");
    let take = |b: &mut Bench| b.pool.take(4096, ShareId(0)).unwrap();
    let (lent, landing) = (take(&mut b), take(&mut b));
    assert!(b.net.lend(conn, lent).is_none() && b.net.detach(conn).is_none());
    let lent = b.net.take_spare(conn).unwrap();
    b.pool.put(lent);
    assert!(b.net.land(conn, landing, 0..4096).is_none() && b.net.detach(conn).is_none());
    client.write_all(&pattern(4096)).unwrap();
    let landed = b.until("Landed", |_, e| match e {
        NetEvent::Landed { buf, .. } => Ok(buf),
        e => Err(e),
    });
    b.pool.put(landed);
    assert!(b.net.detach(conn).is_some());
}

#[test]
fn connections_that_fell_silent_give_their_staging_buffers_to_others() {
    let mut b = Bench::new(TcpConfig { staging_max: 2, ..TcpConfig::default() });
    let mut peers: Vec<_> = (0..8).map(|_| b.connect("127.0.0.1:0")).collect();
    for round in 1..=3u8 {
        for (client, conn) in &mut peers {
            client.write_all(&[round; 48]).unwrap();
            b.readable(*conn, 48);
            assert_eq!(b.net.bytes(*conn), [round; 48]);
            b.net.consume(*conn, 48);
        }
    }
    // What is not taken stays, and is whole when it is.
    for (client, conn) in &mut peers[..2] {
        client.write_all(&[9; 100]).unwrap();
        b.readable(*conn, 100);
    }
    let mut wake = WakeSet::new();
    b.net.arm(&mut wake);
    for (client, conn) in &mut peers[..2] {
        b.net.consume(*conn, 90);
        client.write_all(&[7; 10]).unwrap();
    }
    b.net.arm(&mut wake);
    let (client, conn) = &mut peers[7];
    client.write_all(&[5; 48]).unwrap();
    b.readable(*conn, 48);
    b.net.consume(*conn, 48);
    for (_, conn) in &peers[..2] {
        b.readable(*conn, 20);
        assert_eq!(b.net.bytes(*conn), [[9; 10], [7; 10]].concat());
        b.net.consume(*conn, 20);
    }
}

/// More peers than there are buffers say half a PDU of the longest kind and fall silent.
#[test]
fn peers_that_stop_half_way_keep_no_buffer_from_others() {
    let mut b = Bench::new(TcpConfig { staging_max: 2, ..TcpConfig::default() });
    let mut peers: Vec<_> = (0..8u8).map(|n| (n, b.connect("127.0.0.1:0"))).collect();
    for (n, (client, conn)) in &mut peers {
        client.write_all(&[*n; 1000]).unwrap();
        b.readable(*conn, 1000);
    }
    for (n, (client, conn)) in &mut peers {
        client.write_all(&[*n + 100; 72]).unwrap();
        b.readable(*conn, 1072);
        assert_eq!(b.net.bytes(*conn), [vec![*n; 1000], vec![*n + 100; 72]].concat());
        b.net.consume(*conn, 1060);
    }
    let mut wake = WakeSet::new();
    b.net.arm(&mut wake);
    for (n, (_, conn)) in &peers {
        assert_eq!(b.net.bytes(*conn), [*n + 100; 12]);
        b.net.consume(*conn, 12);
    }
}

#[test]
fn headers_are_staged_and_payload_lands_without_a_copy() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let mut b = Bench::new(TcpConfig::default());
        let (mut client, conn) = b.connect(at);
        b.net.read_ahead(conn, 48);
        client.write_all(&[0xAA; 48]).unwrap();
        b.readable(conn, 48);
        assert_eq!(b.net.bytes(conn), [0xAA; 48]);
        b.net.consume(conn, 48);
        let payload = pattern(1 << 20);
        let sgv = b.pool.take(1 << 20, ShareId(0)).unwrap();
        assert!(b.net.land(conn, sgv, 0..1 << 20).is_none());
        let writer = std::thread::spawn({
            let payload = payload.clone();
            move || {
                client.write_all(&payload).unwrap();
                client.write_all(b"next header").unwrap();
                client
            }
        });
        let sgv = b.until("Landed", |_, e| match e {
            NetEvent::Landed { buf, .. } => Ok(buf),
            e => Err(e),
        });
        assert!(sgv.to_vec() == payload, "the payload is what was sent");
        b.pool.put(sgv);
        b.readable(conn, 11);
        assert_eq!(b.net.bytes(conn), b"next header");
        assert_eq!(b.net.copied_bytes(), 0);
        drop(writer.join().unwrap());
        assert_eq!(b.closed(conn), CloseReason::PeerClosed);
    }
}

#[test]
fn what_one_read_left_behind_is_there_for_the_asking() {
    let mut b = Bench::new(TcpConfig::default());
    let (mut client, conn) = b.connect("127.0.0.1:0");
    b.net.read_ahead(conn, 100);
    client.write_all(&[7; 250]).unwrap();
    b.readable(conn, 100);
    let mut got = Vec::new();
    loop {
        let n = b.net.bytes(conn).len();
        got.push(n);
        b.net.consume(conn, n as u32);
        if !b.net.read_more(conn) {
            break;
        }
    }
    // The last read had room left, so nobody asks the kernel again.
    assert_eq!(got, [100, 100, 50]);
    client.write_all(&[8; 10]).unwrap();
    assert!(!b.net.read_more(conn) && b.net.bytes(conn).is_empty());
    b.readable(conn, 10);
}

#[test]
fn headers_to_come_can_be_glanced_at_between_payload_received_ahead() {
    let mut b = Bench::new(TcpConfig::default());
    let (mut client, conn) = b.connect("127.0.0.1:0");
    b.net.read_ahead(conn, 48);
    b.net.expect(conn, 48);
    for _ in 0..3 {
        let spare = b.pool.take(4096, ShareId(0)).unwrap();
        assert!(b.net.lend(conn, spare).is_none());
    }
    let pdu = |n: u8| [vec![n; 48], vec![0xEE; 4096]].concat();
    client.write_all(&[pdu(1), pdu(2), pdu(3)].concat()).unwrap();
    // Until all of it has come it may lie anywhere.
    std::thread::sleep(std::time::Duration::from_millis(20));
    b.readable(conn, 48);
    assert_eq!(b.net.bytes(conn), [1; 48], "what may be read now ends where payload begins");
    assert_eq!(b.net.glance(conn, 48)[..48], [2; 48]);
    assert_eq!(b.net.glance(conn, 96), [3; 48]);
    assert!(b.net.glance(conn, 144).is_empty() && b.net.glance(conn, usize::MAX / 2).is_empty());
    drop(client);
    b.net.close(conn, Close::Abort);
    let mut spares = 0;
    b.until("Closed", |b, e| match e {
        NetEvent::Spare { buf, .. } => {
            spares += 1;
            b.pool.put(buf);
            Err(NetEvent::Readable(conn))
        }
        NetEvent::Closed { .. } => Ok(()),
        e => Err(e),
    });
    assert_eq!(spares, 3);
}

#[test]
fn what_was_staged_of_a_payload_is_copied_and_counted() {
    let mut b = Bench::new(TcpConfig::default());
    let (mut client, conn) = b.connect("127.0.0.1:0");
    client.write_all(&pattern(1000)).unwrap();
    b.readable(conn, 1000);
    b.net.consume(conn, 100);
    let sgv = b.pool.take(4096, ShareId(0)).unwrap();
    assert!(b.net.land(conn, sgv, 512..2512).is_none());
    assert!(b.net.bytes(conn).is_empty(), "nothing is staged while landing");
    assert_eq!(b.net.copied_bytes(), 900);
    let (sgv, filled) = b.net.unland(conn).unwrap();
    assert_eq!(filled, 512 + 900);
    assert_eq!(sgv.to_vec()[512..1412], pattern(1000)[100..]);
    let sgv = b.net.land(conn, sgv, 0..0).expect("an empty landing is complete at once");
    b.pool.put(sgv);
}

#[test]
fn a_slow_reader_gets_every_byte_in_order_and_bodies_come_back() {
    let mut b = Bench::new(TcpConfig::default());
    let (mut client, conn) = b.connect("127.0.0.1:0");
    const PDUS: usize = 300;
    let mut expected = Vec::new();
    for i in 0..PDUS {
        let head = [i as u8; 48];
        let len = 1 + (i * 977) % 65_536;
        let mut sgv = b.pool.take(65_536, ShareId(0)).unwrap_or_else(|| {
            b.until("a body back", |_, e| match e {
                NetEvent::Released { body, .. } => Ok(body.release().expect("shared once")),
                e => Err(e),
            })
        });
        let data = pattern(len);
        sgv.set_len(65_536);
        sgv.copy_from(0, &data);
        expected.extend_from_slice(&head);
        expected.extend_from_slice(&data);
        expected.extend_from_slice(&[0; 3]);
        b.net.send(conn, &head, Some((SgvRef::new(sgv), 0..len as u32)), &[0; 3]);
        if i == 20 {
            // From here on somebody reads; before, the kernel's buffers were full.
            let mut client = client.try_clone().unwrap();
            let total: usize = (0..PDUS).map(|i| 51 + 1 + (i * 977) % 65_536).sum();
            std::thread::spawn(move || {
                let mut got = vec![0; total];
                client.read_exact(&mut got).unwrap();
                client.write_all(&[1]).unwrap();
                got
            })
            .join_later();
        }
    }
    b.readable(conn, 1);
    assert_eq!(b.net.queued_bytes(conn), 0);
    JOINED.with(|j| assert!(j.borrow_mut().take().unwrap().join().unwrap() == expected));
    client.write_all(b"x").unwrap();
    b.net.close(conn, Close::Abort);
    assert_eq!(b.closed(conn), CloseReason::Local);
    for event in std::mem::take(&mut b.events) {
        if let NetEvent::Released { body, .. } = event {
            b.pool.put(body.release().expect("shared once"));
        }
    }
    assert!(b.pool.is_full(), "every vector is back");
}

thread_local! {
    static JOINED: std::cell::RefCell<Option<std::thread::JoinHandle<Vec<u8>>>> = const { std::cell::RefCell::new(None) };
}

trait JoinLater {
    fn join_later(self);
}

impl JoinLater for std::thread::JoinHandle<Vec<u8>> {
    fn join_later(self) {
        JOINED.with(|j| *j.borrow_mut() = Some(self));
    }
}

#[test]
fn an_orderly_close_gets_the_last_bytes_out_although_the_peer_still_sends() {
    let mut b = Bench::new(TcpConfig::default());
    let (mut client, conn) = b.connect("127.0.0.1:0");
    client.write_all(&pattern(100_000)).unwrap();
    b.net.send(conn, b"goodbye", None, &[]);
    b.net.close(conn, Close::Graceful);
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        got
    });
    assert_eq!(b.closed(conn), CloseReason::Local);
    assert_eq!(reader.join().unwrap(), b"goodbye");
}

#[test]
fn a_stale_identifier_reaches_nobody() {
    let mut b = Bench::new(TcpConfig::default());
    let (_client, first) = b.connect("127.0.0.1:0");
    b.net.close(first, Close::Abort);
    b.closed(first);
    let (mut client, second) = b.connect("127.0.0.1:0");
    assert_eq!(first.slot(), second.slot());
    assert_ne!(first, second);
    b.net.send(first, b"lost", None, &[]);
    b.net.send(second, b"found", None, &[]);
    b.net.flush(b.now());
    let mut got = [0; 5];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"found");
}

#[test]
fn the_table_of_connections_has_an_end() {
    let mut b = Bench::new(TcpConfig { connections_max: 1, ..TcpConfig::default() });
    let (_client, _conn) = b.connect("127.0.0.1:0");
    let (_, at) = b.net.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let _second = TcpStream::connect(at).unwrap();
    let socket = b.until("Accepted", |_, e| match e {
        NetEvent::Accepted { socket, .. } => Ok(socket),
        e => Err(e),
    });
    assert!(b.net.attach(socket, b.now()).is_err());
}
