//! What goes wrong: memory that is short, connections that break, peers that stop, digests that do not fit.

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use spindle_iscsi::directory::ConnMsg;
use spindle_iscsi::transport::{IscsiOut, IscsiTransport};
use spindle_iscsi_wire::{
    AsyncEvent, InitiatorPdu, RejectReason, SerialNumber, TargetPdu, TmfFunction, TmfRequest, TmfResult, Ttt,
};
use spindle_reactor::{CoreId, Tick};
use spindle_scsi_port::{ReceiveError, Transport};
use support::mem_net::MemNet;
use support::ram_mid::RamMid;
use support::{Host, Pdu, World, config, emit};

const CRC: [&str; 2] = ["HeaderDigest=CRC32C", "DataDigest=CRC32C"];

fn r2ts(pdus: &[Pdu]) -> Vec<Ttt> {
    pdus.iter().filter_map(|p| if let TargetPdu::R2t(r) = p.parse() { Some(r.ttt) } else { None }).collect()
}

fn ends(pdus: &[Pdu]) -> Vec<(u32, u8)> {
    pdus.iter()
        .filter_map(
            |p| if let TargetPdu::ScsiResponse(r) = p.parse() { Some((r.itt.0, r.status)) } else { None },
        )
        .collect()
}

fn rejects(pdus: &[Pdu]) -> Vec<RejectReason> {
    pdus.iter()
        .filter_map(|p| if let TargetPdu::Reject(r) = p.parse() { Some(r.reason) } else { None })
        .collect()
}

/// One vector for all: the Data-Out that would free it stands behind the header of a command that wants one.
#[test]
fn a_reader_goes_on_while_a_command_waits_for_memory() {
    let mut w = World::new(config(), None, [1, 0, 0, 0, 0, 0]);
    let mut h = Host::login(&mut w, 1, &["ImmediateData=No", "InitialR2T=Yes"]);
    let (a, b) = (h.write10(0, 8), h.write10(8, 8));
    h.send(&mut w, &a.to_bhs(), &[]);
    w.run();
    let tags = r2ts(&h.sent(&mut w));
    assert_eq!(tags.len(), 1);
    h.send(&mut w, &b.to_bhs(), &[]);
    let bhs = h.data_out(a.itt, tags[0], 0, 0, 4096, true);
    h.send(&mut w, &bhs, &[7; 4096]);
    w.run();
    let sent = h.sent(&mut w);
    assert_eq!(ends(&sent), [(a.itt.0, 0)], "the first write ends and makes room");
    h.answer_r2ts(&mut w, &sent, &[9; 4096], 1000);
    w.run();
    assert_eq!(ends(&h.sent(&mut w)), [(b.itt.0, 0)]);
    assert_eq!((w.mid.disk[0], w.mid.disk[4096]), (7, 9));
    w.check_quiet();
}

#[test]
fn unsolicited_data_waits_in_a_reserve_that_has_an_end() {
    for (own, common, good) in
        [(65_536, 0, true), (4096, 0, false), (4096, 4096, true), (4096, 2048, false), (0, 8192, true)]
    {
        let mut c = config();
        c.limits.unsolicited_reserve_bytes = own;
        c.limits.unsolicited_common_bytes = common;
        let mut w = World::new(c, Some(3), [1, 0, 0, 0, 0, 0]);
        let mut h = Host::login(&mut w, 1, &["ImmediateData=Yes", "InitialR2T=No", "FirstBurstLength=4096"]);
        // Holds the only vector.
        let a = h.write10(0, 8);
        h.send(&mut w, &a.to_bhs(), &[]);
        w.run();
        let first = h.sent(&mut w);
        assert_eq!(r2ts(&first).len(), 1);
        // Two with data that nobody asked for.
        let later: Vec<_> = (1..3u8)
            .map(|n| {
                let mut b = h.write10(u32::from(n) * 8, 8);
                b.data_len = 2048;
                b.is_final = false;
                h.send(&mut w, &b.to_bhs(), &[n; 2048]);
                let bhs = h.data_out(b.itt, Ttt::RESERVED, 0, 2048, 2048, true);
                h.send(&mut w, &bhs, &[n; 2048]);
                b.itt.0
            })
            .collect();
        w.run();
        let sent = h.sent(&mut w);
        h.answer_r2ts(&mut w, &first, &[5; 4096], 4096);
        w.run();
        let mut all = ends(&sent);
        all.extend(ends(&h.sent(&mut w)));
        all.sort_unstable();
        let last = if good { 0 } else { 2 };
        assert_eq!(all, [(a.itt.0, 0), (later[0], 0), (later[1], last)]);
        assert_eq!(w.mid.disk[4096], 1);
        assert_eq!(w.mid.disk[2 * 4096], if good { 2 } else { 0 });
        let failures = if good { vec![] } else { vec![ReceiveError::NoRoom] };
        assert_eq!(w.mid.failures, failures);
        w.check_quiet();
    }
}

#[test]
fn a_large_write_and_a_large_read_are_not_copied() {
    let mut w = World::plain();
    let mut h = Host::login(&mut w, 1, &["ImmediateData=No", "InitialR2T=Yes", "MaxBurstLength=131072"]);
    let data: Vec<u8> = (0..131_072u32).map(|n| (n / 7) as u8).collect();
    for round in 0..3 {
        let c = h.write10(0, 256);
        h.send(&mut w, &c.to_bhs(), &[]);
        w.run();
        let sent = h.sent(&mut w);
        h.answer_r2ts(&mut w, &sent, &data, 65_536);
        w.run();
        assert_eq!(ends(&h.sent(&mut w)), [(c.itt.0, 0)]);
        assert_eq!(w.t.net().copied, 0, "round {round}");
    }
    let c = h.read10(0, 256);
    h.send(&mut w, &c.to_bhs(), &[]);
    w.run();
    assert_eq!(h.sent(&mut w).iter().map(|p| p.data.len()).sum::<usize>(), 131_072);
    w.check_quiet();
}

#[test]
fn a_wrong_header_digest_ends_the_connection() {
    let mut w = World::plain();
    let mut h = Host::login(&mut w, 1, &CRC);
    let c = h.read10(0, 1);
    let mut bytes = emit(&c.to_bhs(), &[], h.digests);
    bytes[20] ^= 1;
    w.write(h.conn, &bytes);
    w.run();
    assert!(w.is_closed(h.conn));
    assert_eq!(w.t.counters().header_digest_errors, 1);
    assert_eq!(w.t.session_count(), 0);
    w.check_quiet();
}

#[test]
fn a_wrong_data_digest_is_rejected_and_fails_the_command() {
    let mut w = World::plain();
    let mut h = Host::login(&mut w, 1, &[&CRC[..], &["ImmediateData=Yes", "InitialR2T=Yes"]].concat());
    // In immediate data.
    let mut c = h.write10(0, 8);
    c.data_len = 512;
    let mut bytes = emit(&c.to_bhs(), &[1; 512], h.digests);
    *bytes.last_mut().unwrap() ^= 1;
    w.write(h.conn, &bytes);
    w.run();
    let sent = h.sent(&mut w);
    assert_eq!(rejects(&sent), [RejectReason::DataDigestError]);
    assert_eq!(ends(&sent), [(c.itt.0, 2)]);
    // In the first PDU of an answer to an R2T: told at once, failed when the burst is in.
    let c = h.write10(0, 8);
    h.send(&mut w, &c.to_bhs(), &[]);
    w.run();
    let tag = r2ts(&h.sent(&mut w))[0];
    let one = h.data_out(c.itt, tag, 0, 0, 2048, false);
    let mut bytes = emit(&one, &[2; 2048], h.digests);
    bytes[100] ^= 1;
    w.write(h.conn, &bytes);
    w.run();
    let sent = h.sent(&mut w);
    assert_eq!((rejects(&sent).len(), ends(&sent).len()), (1, 0));
    let two = h.data_out(c.itt, tag, 1, 2048, 2048, true);
    h.send(&mut w, &two, &[2; 2048]);
    w.run();
    assert_eq!(ends(&h.sent(&mut w)), [(c.itt.0, 2)]);
    assert_eq!(w.mid.failures, [ReceiveError::Digest; 2]);
    assert!(w.mid.disk.iter().all(|b| *b == 0));
    w.check_quiet();
}

/// Somebody else resets the unit while data is landing.
#[test]
fn a_task_revoked_while_its_data_lands_gives_its_memory_back_at_once() {
    for cut_at in [48, 49, 1000, 4095, 48 + 4096] {
        let mut w = World::plain();
        let mut h = Host::login(&mut w, 1, &[&CRC[..], &["ImmediateData=No"]].concat());
        let c = h.write10(0, 8);
        h.send(&mut w, &c.to_bhs(), &[]);
        w.run();
        let tag = r2ts(&h.sent(&mut w))[0];
        let bytes = emit(&h.data_out(c.itt, tag, 0, 0, 4096, true), &[3; 4096], h.digests);
        w.write(h.conn, &bytes[..cut_at]);
        w.turns(5);
        w.mid.reset();
        w.turns(5);
        assert_eq!(w.mid.tasks(), 0, "revoked at once");
        assert!(w.mid.pool.is_full());
        w.write(h.conn, &bytes[cut_at..]);
        let d = h.read10(0, 1);
        h.send(&mut w, &d.to_bhs(), &[]);
        w.run();
        let sent = h.sent(&mut w);
        assert!(rejects(&sent).is_empty(), "the stream goes on: {sent:?}");
        assert!(sent.iter().any(|p| p.data == [0; 512]), "and nothing was written");
        assert_eq!(w.t.tasks_in_flight(), 0);
        w.check_quiet();
    }
}

#[test]
fn a_peer_that_takes_nothing_is_not_read_and_then_ended() {
    let mut c = config();
    c.limits.send_queue_bytes_max = 64 * 1024;
    let mut w = World::new(c, None, [64, 64, 32, 32, 2, 0]);
    let mut h = Host::login(&mut w, 1, &[]);
    w.t.net_mut().wires[h.conn.slot()].blocked = true;
    for _ in 0..20 {
        let c = h.read10(0, 64);
        h.send(&mut w, &c.to_bhs(), &[]);
        w.turns(4);
    }
    let commands =
        |w: &World| w.mid.log.iter().filter(|l| l.starts_with("command") || l.starts_with("served")).count();
    assert!(commands(&w) <= 4, "not read any further: {}", commands(&w));
    w.pass_ms(20_000);
    assert!(!w.is_closed(h.conn));
    // It wakes up: all goes on.
    w.t.net_mut().wires[h.conn.slot()].blocked = false;
    w.run();
    assert_eq!(commands(&w), 20);
    let good = |p: &Pdu| matches!(p.parse(), TargetPdu::DataIn(d) if d.status.is_some());
    assert_eq!(h.sent(&mut w).iter().filter(|p| good(p)).count(), 20);
    // And falls asleep for good.
    w.t.net_mut().wires[h.conn.slot()].blocked = true;
    for _ in 0..8 {
        let c = h.read10(0, 64);
        h.send(&mut w, &c.to_bhs(), &[]);
        w.turns(4);
    }
    w.pass_ms(31_000);
    w.pass_ms(100);
    assert!(w.is_closed(h.conn));
    assert_eq!(w.t.session_count(), 0);
    w.check_quiet();
}

/// Rejects are answers, too: what is queued for a peer that takes nothing has an end, whatever it sends.
#[test]
fn a_peer_that_takes_no_rejects_cannot_pile_them_up() {
    let mut c = config();
    c.limits.send_queue_bytes_max = 16 * 1024;
    let mut w = World::new(c, None, [4, 0, 0, 0, 0, 0]);
    let h = Host::login(&mut w, 1, &[]);
    w.t.net_mut().wires[h.conn.slot()].blocked = true;
    let mut bhs = [0u8; 48];
    bhs[0] = 0x1E;
    w.write(h.conn, &bhs.repeat(10_000));
    w.turns(2_000);
    let queued = spindle_net::Net::queued_bytes(w.t.net(), h.conn);
    assert!(queued < 64 * 1024, "{queued} bytes are queued");
    w.t.net_mut().wires[h.conn.slot()].blocked = false;
    w.run();
    assert_eq!(rejects(&h.sent(&mut w)).len(), 10_000);
    w.check_quiet();
}

#[test]
fn sessions_of_a_target_that_is_removed_are_asked_to_log_out_and_then_dropped() {
    let mut w = World::plain();
    let mut h = Host::login(&mut w, 1, &[]);
    let mut bare = config();
    bare.targets.clear();
    w.t.apply(Arc::new(bare));
    w.run();
    let sent = h.sent(&mut w);
    let TargetPdu::AsyncMessage(m) = sent[0].parse() else { panic!("{sent:?}") };
    assert_eq!((m.event, m.parameters), (AsyncEvent::LogoutRequest, [0, 0, 5]));
    let c = h.read10(0, 1);
    h.send(&mut w, &c.to_bhs(), &[]);
    w.run();
    assert_eq!(h.sent(&mut w).len(), 1, "it serves as long as it is there");
    w.pass_ms(5_100);
    assert!(w.is_closed(h.conn));
    assert_eq!(w.t.session_count(), 0);
    w.check_quiet();
}

/// RFC 7143 §11.6.1: a status that was decided before the answer is sent before it.
#[test]
fn a_task_management_response_never_overtakes_a_status() {
    let mut w = World::plain();
    let mut h = Host::login(&mut w, 1, &[]);
    let c = h.read10(0, 1);
    h.send(&mut w, &c.to_bhs(), &[]);
    let held = h.command(&[0xC0], false, false, 0);
    h.send(&mut w, &held.to_bhs(), &[]);
    let tmf = TmfRequest {
        immediate: true,
        function: TmfFunction::AbortTaskSet,
        lun: [0; 8],
        itt: spindle_iscsi_wire::Itt(99),
        referenced_itt: spindle_iscsi_wire::Itt::RESERVED,
        cmd_sn: SerialNumber(h.cmd_sn),
        exp_stat_sn: SerialNumber(h.exp_stat_sn),
        ref_cmd_sn: SerialNumber(0),
        exp_data_sn: SerialNumber(0),
    };
    h.send(&mut w, &tmf.to_bhs(), &[]);
    w.run();
    let sent = h.sent(&mut w);
    assert_eq!(sent.len(), 2, "the held command says nothing: {sent:?}");
    let TargetPdu::DataIn(d) = sent[0].parse() else { panic!("{sent:?}") };
    let TargetPdu::TmfResponse(r) = sent[1].parse() else { panic!("{sent:?}") };
    assert_eq!((d.itt, r.result), (c.itt, TmfResult::Complete));
    assert_eq!(d.status.unwrap().stat_sn.next(), r.stat_sn);
    w.check_quiet();
}

/// The tag of a task that was revoked, used again while another task has its row.
#[test]
fn a_stale_transfer_tag_never_hits_the_next_holder_of_its_row() {
    let mut c = config();
    c.limits.tasks_max = 1;
    let mut w = World::new(c, None, [8, 0, 0, 0, 0, 0]);
    let mut h = Host::login(&mut w, 1, &["ImmediateData=No"]);
    let a = h.write10(0, 8);
    h.send(&mut w, &a.to_bhs(), &[]);
    w.run();
    let old = r2ts(&h.sent(&mut w))[0];
    w.mid.reset();
    w.turns(3);
    // The only row: its sink has to make room.
    let b = h.write10(0, 8);
    h.send(&mut w, &b.to_bhs(), &[]);
    w.run();
    let new = r2ts(&h.sent(&mut w))[0];
    assert_eq!(old.0 >> 16, new.0 >> 16, "the same row");
    assert_ne!(old, new);
    let late = h.data_out(a.itt, old, 0, 0, 4096, true);
    h.send(&mut w, &late, &[0xEE; 4096]);
    w.run();
    assert_eq!(rejects(&h.sent(&mut w)), [RejectReason::ProtocolError]);
    let right = h.data_out(b.itt, new, 0, 0, 4096, true);
    h.send(&mut w, &right, &[0x11; 4096]);
    w.run();
    assert_eq!(ends(&h.sent(&mut w)), [(b.itt.0, 0)]);
    assert_eq!(w.mid.disk[0], 0x11);
    w.check_quiet();
}

/// Two cores: a login on one ends a session on the other first.
#[test]
fn a_session_is_reinstated_across_cores() {
    let mut a = World::plain();
    let mut b = World::plain();
    let cfg = Arc::new(config());
    a.t = IscsiTransport::new(MemNet::new(None), CoreId(0), 2, cfg.clone());
    b.t = IscsiTransport::new(MemNet::new(None), CoreId(1), 2, cfg);
    let carry = |a: &mut World, b: &mut World| {
        for _ in 0..6 {
            a.turns(2);
            b.turns(2);
            for out in a.out.drain(..).collect::<Vec<_>>() {
                let IscsiOut::Message { to: CoreId(1), message } = out else { panic!("{out:?}") };
                b.t.on_message(CoreId(0), message, b.now, &mut b.mid);
            }
            for out in b.out.drain(..).collect::<Vec<_>>() {
                let IscsiOut::Message { to: CoreId(0), message } = out else { panic!("{out:?}") };
                a.t.on_message(CoreId(1), message, a.now, &mut a.mid);
            }
        }
    };
    let h = Host::login(&mut a, 1, &[]);
    // The same names on core 1.
    let conn = b.connect();
    let bytes = support::login_bytes(1, &[]);
    b.write(conn, &bytes);
    carry(&mut a, &mut b);
    assert!(a.is_closed(h.conn));
    assert_eq!((a.t.session_count(), b.t.session_count()), (0, 1));
    assert_eq!(b.sent(conn, Default::default()).len(), 1);
    assert_eq!(b.t.sessions()[0].tsih, 2);
    // And its end is known on core 0: the next one needs nobody's word.
    b.t.net_mut().wires[conn.slot()].peer_closed = true;
    carry(&mut a, &mut b);
    let _ = Host::login(&mut a, 1, &[]);
    // A grant for a connection that is gone goes back.
    b.t.on_message(CoreId(0), ConnMsg::Granted { claim: 77, tsih: 9 }, b.now, &mut b.mid);
    b.turns(1);
    assert!(matches!(b.out[..], [IscsiOut::Message { message: ConnMsg::Released { tsih: 9 }, .. }]));
}

#[test]
fn an_idle_transport_names_the_moment_it_wants_to_be_woken() {
    let mut w = World::plain();
    assert_eq!(w.t.next_deadline(), None);
    let _ = Host::login(&mut w, 1, &[]);
    w.turns(3);
    let due = w.t.next_deadline().unwrap();
    assert!(due.since(w.now).as_secs() >= 14, "nothing before the next ping: {:?}", due.since(w.now));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The peer vanishes at any byte of a conversation: nothing is left over, and a write that was not whole
    /// has not happened.
    #[test]
    fn a_connection_may_be_cut_at_any_byte(seed in any::<u64>(), at in 0usize..14_000, fin in any::<bool>()) {
        let mut w = World::new(config(), Some(seed), [2, 1, 0, 0, 0, 0]);
        let keys = ["InitialR2T=No", "FirstBurstLength=4096", "DataDigest=CRC32C"];
        let mut h = Host::login(&mut w, 1, &keys);
        let mut stream = Vec::new();
        for n in 0..3u8 {
            let mut c = h.write10(u32::from(n) * 8, 8);
            (c.data_len, c.is_final) = (1000, false);
            stream.extend(emit(&c.to_bhs(), &[n + 1; 1000], h.digests));
            let bhs = h.data_out(c.itt, Ttt::RESERVED, 0, 1000, 3096, true);
            stream.extend(emit(&bhs, &[n + 1; 3096], h.digests));
        }
        let held = h.command(&[0xC0], false, false, 0);
        stream.extend(emit(&held.to_bhs(), &[], h.digests));
        let at = at.min(stream.len());
        w.write(h.conn, &stream[..at]);
        if fin {
            w.t.net_mut().wires[h.conn.slot()].peer_closed = true;
        }
        w.run();
        w.t.net_mut().wires[h.conn.slot()].peer_closed = true;
        w.run();
        w.turns(8);
        prop_assert_eq!(w.t.session_count(), 0);
        prop_assert_eq!(w.t.tasks_in_flight(), 0);
        for n in 0..3usize {
            let block = &w.mid.disk[n * 4096..(n + 1) * 4096];
            let old = block.iter().all(|b| *b == 0);
            let new = block.iter().all(|b| usize::from(*b) == n + 1);
            prop_assert!(old || new, "half a write");
        }
        w.check_quiet();
    }

    /// Headers that are nearly right, in any order, with any data: answered, refused or ended, never a panic,
    /// and nothing is left over.
    #[test]
    fn nonsense_leaves_nothing_behind(
        seed in any::<u64>(), count in 1usize..60, crc in any::<bool>(),
    ) {
        nonsense(seed, count, crc);
    }
}

fn nonsense(seed: u64, count: usize, crc: bool) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut c = config();
    c.limits.tasks_max = 12;
    let mut w = World::new(c, Some(seed), [3, 2, 1, 0, 0, 0]);
    let keys = if crc { &CRC[..] } else { &["InitialR2T=No"][..] };
    let mut h = Host::login(&mut w, 1, keys);
    let mut tags: Vec<Ttt> = Vec::new();
    for _ in 0..count {
        if w.is_closed(h.conn) {
            break;
        }
        let mut bhs = [0u8; 48];
        rng.fill(&mut bhs);
        bhs[0] =
            [0x00, 0x01, 0x01, 0x01, 0x02, 0x04, 0x05, 0x05, 0x05, 0x06, 0x10, 0x03, 0x3F][rng.usize(0..13)];
        if rng.bool() {
            bhs[0] |= 0x40;
        }
        if rng.u8(0..20) > 0 {
            bhs[4] = 0;
        } else {
            bhs[4] = rng.u8(0..8);
        }
        bhs[16..20].copy_from_slice(&(10 + rng.u32(0..6)).to_be_bytes());
        if rng.u8(0..8) > 0 {
            bhs[24..28].copy_from_slice(&h.cmd_sn.to_be_bytes());
        }
        let mut len = rng.usize(0..3000) * usize::from(rng.bool());
        match bhs[0] & 0x3F {
            0x01 => {
                bhs[20..24].copy_from_slice(&rng.u32(0..10_000).to_be_bytes());
                let cdb = support::rw10([0x28, 0x2A, 0x00, 0xC0, 0x99][rng.usize(0..5)], 0, rng.u16(0..20));
                bhs[32..42].copy_from_slice(&cdb);
            }
            0x05 => {
                if rng.u8(0..3) > 0 && !tags.is_empty() {
                    let tag = tags[rng.usize(0..tags.len())];
                    bhs[20..24].copy_from_slice(&tag.0.to_be_bytes());
                } else {
                    bhs[20..24].copy_from_slice(&[0xFF; 4]);
                }
                bhs[36..44].copy_from_slice(&[0; 8]);
            }
            0x06 if rng.u8(0..6) > 0 => bhs[1] = 0x82,
            0x02 => bhs[20..24].copy_from_slice(&(10 + rng.u32(0..6)).to_be_bytes()),
            _ => len = len.min(200),
        }
        bhs[5..8].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
        let ahs = vec![rng.u8(..); usize::from(bhs[4]) * 4];
        let mut bytes = bhs.to_vec();
        bytes.extend(&ahs);
        if h.digests.header {
            bytes.extend(spindle_iscsi::digest::of_header(&bytes.clone()));
        }
        let body = emit(
            &[0; 48],
            &vec![rng.u8(..); len],
            spindle_iscsi_wire::bhs::Digests { header: false, data: h.digests.data },
        );
        bytes.extend(&body[48..]);
        w.write(h.conn, &bytes);
        w.turns(rng.u32(1..40));
        if rng.u8(0..10) == 0 {
            w.mid.reset();
        }
        for p in h.sent(&mut w) {
            let (exp, _) = window(&p);
            if exp != 0 {
                h.cmd_sn = exp;
            }
            tags.extend(r2ts(&[p]));
        }
    }
    w.run();
    w.t.net_mut().wires[h.conn.slot()].peer_closed = true;
    w.run();
    w.turns(8);
    w.mid.release();
    w.run();
    assert_eq!(w.t.session_count(), 0);
    assert_eq!(w.t.tasks_in_flight(), 0);
    w.check_quiet();
}

/// The unit is reset when the last data of a write has come and is not yet looked at.
#[test]
fn data_that_crosses_with_its_revocation_is_given_back() {
    nonsense(7_888_596_713_536_145_392, 2, false);
}

fn window(p: &Pdu) -> (u32, u32) {
    let at = |n: usize| u32::from_be_bytes(p.bhs[n..n + 4].try_into().unwrap());
    (at(28), at(32))
}

#[test]
fn what_the_host_sends_can_be_read_by_the_target() {
    // The helper above writes headers by hand; this keeps it honest.
    let mut w = World::plain();
    let mut h = Host::login(&mut w, 1, &[]);
    let c = h.write10(1, 2);
    assert_eq!(InitiatorPdu::parse(&c.to_bhs()), Ok(InitiatorPdu::ScsiCommand(c)));
    let _ =
        (Tick::ZERO, w.t.arm(&mut spindle_reactor::WakeSet::new()), RamMid::new([1, 0, 0, 0, 0, 0]).tasks());
}
