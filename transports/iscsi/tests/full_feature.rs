//! Commands and their data, end to end over a network in memory, with splits at any byte.

mod support;

use proptest::prelude::*;
use spindle_iscsi_wire::{TargetPdu, Ttt};
use support::{Host, Pdu, World, config};

fn statuses(pdus: &[Pdu]) -> Vec<(u32, u8)> {
    pdus.iter()
        .filter_map(|p| match p.parse() {
            TargetPdu::ScsiResponse(r) => Some((r.itt.0, r.status)),
            TargetPdu::DataIn(d) => d.status.map(|s| (d.itt.0, s.status)),
            _ => None,
        })
        .collect()
}

fn bytes_of(pdus: &[Pdu]) -> Vec<u8> {
    let mut data = Vec::new();
    for p in pdus {
        if let TargetPdu::DataIn(d) = p.parse() {
            assert_eq!(d.buffer_offset as usize, data.len(), "Data-In comes in order");
            data.extend_from_slice(&p.data);
        }
    }
    data
}

fn pattern(len: usize, salt: u32) -> Vec<u8> {
    (0..len).map(|n| (n as u32).wrapping_mul(2_654_435_761).wrapping_add(salt).to_be_bytes()[0]).collect()
}

#[test]
fn a_read_brings_its_data_and_good_in_one_pdu() {
    let mut w = World::plain();
    w.mid.disk[..4096].copy_from_slice(&pattern(4096, 1));
    let mut h = Host::login(&mut w, 1, &["InitialR2T=No"]);
    let c = h.read10(0, 8);
    h.send(&mut w, &c.to_bhs(), &[]);
    w.run();
    let sent = h.sent(&mut w);
    assert_eq!(sent.len(), 1);
    assert_eq!(statuses(&sent), [(c.itt.0, 0)]);
    assert_eq!(bytes_of(&sent), pattern(4096, 1));
    w.check_quiet();
}

#[test]
fn a_write_with_immediate_data_lands_and_is_answered() {
    let mut w = World::plain();
    let mut h = Host::login(&mut w, 1, &["InitialR2T=Yes", "ImmediateData=Yes"]);
    let data = pattern(4096, 2);
    let mut c = h.write10(3, 8);
    c.data_len = 4096;
    h.send(&mut w, &c.to_bhs(), &data);
    w.run();
    assert_eq!(statuses(&h.sent(&mut w)), [(c.itt.0, 0)]);
    assert_eq!(w.mid.disk[3 * 512..3 * 512 + 4096], data);
    w.check_quiet();
}

#[test]
fn a_large_write_is_asked_for_in_bursts() {
    let mut w = World::plain();
    let keys = ["MaxBurstLength=65536", "MaxOutstandingR2T=2", "InitialR2T=Yes", "ImmediateData=No"];
    let mut h = Host::login(&mut w, 1, &keys);
    let data = pattern(200 * 1024, 3);
    let c = h.write10(0, 400);
    h.send(&mut w, &c.to_bhs(), &[]);
    w.run();
    let mut asked = Vec::new();
    loop {
        let sent = h.sent(&mut w);
        if !statuses(&sent).is_empty() {
            assert_eq!(statuses(&sent), [(c.itt.0, 0)]);
            break;
        }
        for p in &sent {
            let TargetPdu::R2t(r) = p.parse() else { panic!("{p:?}") };
            assert_ne!(r.ttt, Ttt::RESERVED);
            asked.push((r.r2t_sn.0, r.buffer_offset, r.desired_len));
        }
        assert!(!sent.is_empty(), "asked: {asked:?}");
        h.answer_r2ts(&mut w, &sent, &data, 8192);
        w.run();
    }
    assert_eq!(asked, [(0, 0, 65536), (1, 65536, 65536), (2, 131_072, 65536), (3, 196_608, 8192)]);
    assert_eq!(w.mid.disk[..data.len()], data);
    w.check_quiet();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Writes and reads of any size, with any negotiated lengths, digests, unsolicited data, and splits at
    /// any byte of the stream: every block reads as it was written.
    #[test]
    fn splits_at_any_byte_change_nothing(
        seed in any::<u64>(),
        header_digest in any::<bool>(), data_digest in any::<bool>(),
        initial_r2t in any::<bool>(), immediate in any::<bool>(),
        burst in 1u32..40, first in 1u32..33, segment in 1u32..40,
        writes in prop::collection::vec((0u32..64, 1u16..200), 1..8),
    ) {
        let mut w = World::new(config(), Some(seed), [64, 16, 8, 8, 2, 0]);
        let yes = |b: bool| if b { "Yes" } else { "No" };
        let crc = |b: bool| if b { "CRC32C,None" } else { "None" };
        let (burst, first, segment) = (burst * 4096, (first * 2048).min(burst * 4096), segment * 1000 + 512);
        let keys = [
            format!("HeaderDigest={}", crc(header_digest)), format!("DataDigest={}", crc(data_digest)),
            format!("InitialR2T={}", yes(initial_r2t)), format!("ImmediateData={}", yes(immediate)),
            format!("MaxBurstLength={burst}"), format!("FirstBurstLength={first}"),
            format!("MaxRecvDataSegmentLength={segment}"), "MaxOutstandingR2T=3".to_string(),
        ];
        let mut h = Host::login(&mut w, 1, &keys.iter().map(String::as_str).collect::<Vec<_>>());
        let mut disk = vec![0u8; 300 * 512];
        let mut rng = fastrand::Rng::with_seed(seed);
        for (n, (lba, blocks)) in writes.into_iter().enumerate() {
            let data = pattern(usize::from(blocks) * 512, n as u32 + 7);
            let mut c = h.write10(lba, blocks);
            let now = if immediate { rng.usize(0..=data.len().min(first as usize)) } else { 0 };
            c.data_len = now as u32;
            let unsolicited = if initial_r2t { now } else { data.len().min(first as usize) };
            c.is_final = initial_r2t || rng.bool() || unsolicited == now;
            h.send(&mut w, &c.to_bhs(), &data[..now]);
            if !c.is_final {
                let rest = &data[now..unsolicited];
                let pieces = rest.chunks(3000).count();
                for (k, piece) in rest.chunks(3000).enumerate() {
                    let at = (now + k * 3000) as u32;
                    let bhs = h.data_out(c.itt, Ttt::RESERVED, k as u32, at, piece.len() as u32, k + 1 == pieces);
                    h.send(&mut w, &bhs, piece);
                }
            }
            let mut done = Vec::new();
            for _ in 0..100 {
                w.run();
                let sent = h.sent(&mut w);
                done = statuses(&sent);
                if !done.is_empty() {
                    break;
                }
                h.answer_r2ts(&mut w, &sent, &data, 5000);
            }
            prop_assert_eq!(&done, &[(c.itt.0, 0)]);
            disk[lba as usize * 512..][..data.len()].copy_from_slice(&data);
        }
        let c = h.read10(0, 300);
        h.send(&mut w, &c.to_bhs(), &[]);
        w.run();
        let sent = h.sent(&mut w);
        let longest = sent.iter().map(|p| p.data.len()).max().unwrap();
        prop_assert!(longest <= segment as usize);
        prop_assert!(bytes_of(&sent) == disk);
        prop_assert_eq!(statuses(&sent), [(c.itt.0, 0)]);
        w.check_quiet();
    }
}
