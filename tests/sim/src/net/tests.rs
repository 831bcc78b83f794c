use std::time::Duration;

use fastrand::Rng;
use spindle_mem::{Arena, ArenaConfig, PoolConfig, ShareId};
use spindle_reactor::CoreId;

use super::*;

fn rough() -> Profile {
    Profile { delay_us: (1, 90), mtu: 700, buffer: 3_000, stall_one_in: 10, short_read_one_in: 2 }
}

fn pool() -> SgvPool {
    let arena = Arena::new(ArenaConfig::plain(8 << 20, 8 << 20)).unwrap();
    SgvPool::new(CoreId(0), arena, &PoolConfig::spread(2 << 20)).unwrap()
}

fn address() -> SocketAddr {
    "127.0.0.1:3260".parse().unwrap()
}

/// Runs until nothing is under way; collects what is reported.
fn settle(fabric: &SharedFabric, net: &mut SimNet, now: &mut Tick) -> Vec<NetEvent<SimSocket>> {
    let mut events = Vec::new();
    loop {
        lock(fabric).advance(*now);
        net.poll(*now, 8, &mut events);
        net.flush(*now);
        let next = lock(fabric).next();
        match next {
            Some(at) => *now = at,
            None if lock(fabric).is_marked(0) => *now = *now + Duration::from_nanos(1),
            None => return events,
        }
    }
}

fn accept(fabric: &SharedFabric, net: &mut SimNet, now: &mut Tick) -> (PipeId, ConnId) {
    net.listen(address()).unwrap();
    let pipe = lock(fabric).connect(address(), "10.0.0.1:1".parse().unwrap()).unwrap();
    let mut events = settle(fabric, net, now);
    let Some(NetEvent::Accepted { socket, .. }) = events.pop() else { panic!("not accepted: {events:?}") };
    let conn = net.attach(socket, *now).unwrap();
    (pipe, conn)
}

#[test]
fn every_byte_arrives_in_order_in_staging_and_in_the_vector() {
    for seed in 0..20 {
        let (fabric, mut now) = (Fabric::shared(1, rough(), Rng::with_seed(seed)), Tick(1));
        let mut net = SimNet::new(0, fabric.clone(), 4);
        let (pipe, conn) = accept(&fabric, &mut net, &mut now);
        let (mut pool, sent): (_, Vec<u8>) =
            (pool(), (0..20_000u32).map(|n| n as u8 ^ (n >> 8) as u8).collect());
        let (mut written, mut got) = (0, Vec::new());
        net.read_ahead(conn, 48);
        let mut landing = false;
        while got.len() < sent.len() {
            written += lock(&fabric).write(pipe, Way::Up, &sent[written..]);
            for event in settle(&fabric, &mut net, &mut now) {
                if let NetEvent::Landed { buf, .. } = event {
                    got.extend_from_slice(&buf.to_vec());
                    pool.put(buf);
                    landing = false;
                }
            }
            while !landing && got.len() < sent.len() && !net.bytes(conn).is_empty() {
                let n = net.bytes(conn).len().min(48);
                got.extend_from_slice(&net.bytes(conn)[..n]);
                net.consume(conn, n as u32);
                let rest = (sent.len() - got.len()).min(3_000) as u32;
                if rest > 0 {
                    let buf = pool.take(rest, ShareId(0)).unwrap();
                    match net.land(conn, buf, 0..rest) {
                        Some(buf) => {
                            got.extend_from_slice(&buf.to_vec());
                            pool.put(buf);
                        }
                        None => landing = true,
                    }
                }
            }
        }
        assert!(got == sent, "seed {seed}");
        assert!(pool.is_full());
    }
}

#[test]
fn what_a_dead_connection_held_comes_back_before_its_end_is_told() {
    let (fabric, mut now) = (Fabric::shared(1, rough(), Rng::with_seed(7)), Tick(1));
    let mut net = SimNet::new(0, fabric.clone(), 4);
    let (pipe, conn) = accept(&fabric, &mut net, &mut now);
    let mut pool = pool();
    let body = SgvRef::new(pool.take(9_000, ShareId(0)).unwrap());
    net.send(conn, &[1; 48], Some((body, 0..9_000)), &[]);
    let landing = pool.take(4_096, ShareId(0)).unwrap();
    assert!(net.land(conn, landing, 0..4_096).is_none());
    lock(&fabric).write(pipe, Way::Up, &[2; 1_000]);
    lock(&fabric).reset(pipe);
    let mut order = Vec::new();
    for event in settle(&fabric, &mut net, &mut now) {
        match event {
            NetEvent::Released { body, .. } => {
                pool.put(body.release().unwrap());
                order.push("released");
            }
            NetEvent::Landed { buf, .. } => {
                pool.put(buf);
                order.push("landed");
            }
            NetEvent::Closed { .. } => order.push("closed"),
            _ => {}
        }
    }
    assert_eq!(order, ["released", "landed", "closed"]);
    assert!(pool.is_full());
}

#[test]
fn an_orderly_close_sends_what_is_queued_first() {
    let (fabric, mut now) = (Fabric::shared(1, rough(), Rng::with_seed(3)), Tick(1));
    let mut net = SimNet::new(0, fabric.clone(), 4);
    let (pipe, conn) = accept(&fabric, &mut net, &mut now);
    net.send(conn, &[9; 2_000], None, &[]);
    net.close(conn, Close::Graceful);
    let mut got = Vec::new();
    loop {
        settle(&fabric, &mut net, &mut now);
        if lock(&fabric).take_all(pipe, &mut got) == Got::End {
            break;
        }
    }
    assert_eq!(got, [9; 2_000]);
    lock(&fabric).fin(pipe, Way::Up);
    let events = settle(&fabric, &mut net, &mut now);
    assert!(matches!(events[..], [NetEvent::Closed { reason: CloseReason::Local, .. }]), "{events:?}");
}

#[test]
fn a_cut_happens_inside_the_pdu_it_was_meant_for() {
    for seed in 0..30 {
        let (fabric, mut now) = (Fabric::shared(1, rough(), Rng::with_seed(seed)), Tick(1));
        let mut net = SimNet::new(0, fabric.clone(), 4);
        let (pipe, _) = accept(&fabric, &mut net, &mut now);
        lock(&fabric).cut(pipe, Way::Up, Some(5));
        let mut bytes = vec![0u8; 96];
        (bytes[0], bytes[48]) = (1, 5);
        for _ in 0..20 {
            lock(&fabric).write(pipe, Way::Up, &bytes);
            settle(&fabric, &mut net, &mut now);
        }
        assert_eq!(lock(&fabric).cuts(), [5], "seed {seed}");
        assert!(lock(&fabric).is_dead(pipe));
    }
}
