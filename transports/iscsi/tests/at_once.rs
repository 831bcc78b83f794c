//! Commands that the mid-level serves at once, and the same commands served later: an initiator cannot tell.

mod support;

use spindle_iscsi_wire::{Itt, TargetPdu, TaskAttribute};
use support::{Host, Pdu, World, config, emit};

/// What an initiator learns of a command.
#[derive(PartialEq, Debug)]
struct Learned {
    itt: Itt,
    status: u8,
    data: Vec<u8>,
}

fn learned(sent: &[Pdu]) -> Vec<Learned> {
    let mut data = Vec::new();
    let mut all = Vec::new();
    for pdu in sent {
        match pdu.parse() {
            TargetPdu::DataIn(d) => {
                data.extend_from_slice(&pdu.data);
                if let Some(end) = d.status {
                    all.push(Learned { itt: d.itt, status: end.status, data: std::mem::take(&mut data) });
                }
            }
            TargetPdu::ScsiResponse(r) => {
                assert!(data.is_empty(), "no command is both here");
                all.push(Learned { itt: r.itt, status: r.status, data: pdu.data.clone() });
            }
            TargetPdu::R2t(_) => {}
            other => panic!("{other:?}"),
        }
    }
    all
}

/// A conversation of reads, writes and others out of a seed; what was learned, how many were served at once, and what
/// is on the disk in the end.
fn converse(seed: u64, at_once: bool, keys: &[&str]) -> (Vec<Learned>, usize, Vec<u8>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut w = World::new(config(), (!seed.is_multiple_of(3)).then_some(seed), [64, 16, 8, 4, 2, 0]);
    w.mid.at_once = at_once;
    let mut h = Host::login(&mut w, 1, keys);
    let mut all = Vec::new();
    for _ in 0..60 {
        for _ in 0..rng.u32(1..6) {
            let (lba, blocks) = (rng.u32(0..64), [1, 7, 8, 8, 8, 16, 64][rng.usize(0..7)]);
            let data = vec![rng.u8(1..255); blocks as usize * 512];
            let what = rng.u32(0..12);
            let mut c = if what < 6 { h.read10(lba, blocks) } else { h.write10(lba, blocks) };
            match what {
                // More or less room than it takes, another attribute, another command.
                0 => c.edtl = rng.u32(0..70_000),
                1 => c.attr = TaskAttribute::Ordered,
                2 => c.cdb = [0; 16],
                // All of its data comes with it, or none.
                6..9 if data.len() <= 8192 => c.data_len = data.len() as u32,
                _ => {}
            }
            let with = &data[..c.data_len as usize];
            h.send(&mut w, &c.to_bhs(), with);
            if c.write && with.is_empty() {
                // The answer to its R2Ts comes before the next command.
                w.run();
                let out = h.sent(&mut w);
                h.answer_r2ts(&mut w, &out, &data, 8192);
                all.extend(learned(&out));
            }
        }
        w.run();
        let out = h.sent(&mut w);
        all.extend(learned(&out));
    }
    let served = w.mid.log.iter().filter(|line| line.starts_with("served")).count();
    w.check_quiet();
    assert_eq!(w.t.tasks_in_flight(), 0);
    (all, served, std::mem::take(&mut w.mid.disk))
}

#[test]
fn what_is_served_at_once_looks_like_what_is_served_later() {
    let mut served = 0;
    for seed in 0..60 {
        let keys: &[&str] = match seed % 4 {
            0 => &["MaxRecvDataSegmentLength=1024"],
            1 => &["HeaderDigest=CRC32C", "DataDigest=CRC32C"],
            _ => &[],
        };
        let (now, count, disk) = converse(seed, true, keys);
        let (later, none, same) = converse(seed, false, keys);
        assert_eq!(now, later, "seed {seed}");
        assert!(disk == same, "seed {seed}: the disks differ");
        assert_eq!(none, 0);
        served += count;
    }
    assert!(served > 800, "only {served} were served at once: this proves nothing");
}

/// A tag in use is refused, whichever way its command would go.
#[test]
fn a_read_with_the_tag_of_a_command_under_way_is_refused() {
    let mut w = World::plain();
    let mut h = Host::login(&mut w, 1, &[]);
    let mut held = h.read10(0, 8);
    held.cdb[0] = 0xC0;
    h.send(&mut w, &held.to_bhs(), &[]);
    let mut twin = h.read10(0, 8);
    twin.itt = held.itt;
    h.send(&mut w, &twin.to_bhs(), &[]);
    w.run();
    let refused = |p: &Pdu| matches!(p.parse(), TargetPdu::Reject(_));
    assert!(h.sent(&mut w).iter().any(refused), "task in progress");
    w.mid.release();
    w.run();
    w.check_quiet();
}

/// Half a header, half a page: nothing of a command is taken before all that decides is there.
#[test]
fn a_write_that_comes_byte_by_byte_is_served_when_its_last_byte_is_there() {
    for keys in [&[][..], &["HeaderDigest=CRC32C"], &["DataDigest=CRC32C"]] {
        let mut w = World::plain();
        let mut h = Host::login(&mut w, 1, keys);
        let mut c = h.write10(8, 8);
        c.data_len = 4096;
        let bytes = emit(&c.to_bhs(), &[0xA5; 4096], h.digests);
        for (n, byte) in bytes.iter().enumerate() {
            assert!(h.sent(&mut w).is_empty(), "an answer after {n} bytes");
            w.write(h.conn, &[*byte]);
            w.turns(1);
        }
        w.run();
        let all = learned(&h.sent(&mut w));
        assert_eq!((all.len(), all[0].itt, all[0].status), (1, c.itt, 0));
        assert_eq!(w.mid.disk[4096..8192], [0xA5; 4096]);
        w.check_quiet();
    }
}

/// Whole, at once, and wrong: nothing of it is stored, and the next write is served as if nothing had been.
#[test]
fn a_write_with_a_wrong_data_digest_is_not_served_at_once() {
    let mut w = World::plain();
    let mut h = Host::login(&mut w, 1, &["HeaderDigest=CRC32C", "DataDigest=CRC32C"]);
    let mut all = Vec::new();
    for (n, wrong) in [false, true, false].into_iter().enumerate() {
        let mut c = h.write10(8 * n as u32, 8);
        c.data_len = 4096;
        let mut bytes = emit(&c.to_bhs(), &[0xA5; 4096], h.digests);
        let last = bytes.len() - 1;
        bytes[last] ^= u8::from(wrong);
        w.write(h.conn, &bytes);
        w.run();
        all.extend(h.sent(&mut w));
    }
    let rejects = all.extract_if(.., |p| matches!(p.parse(), TargetPdu::Reject(_))).count();
    let statuses: Vec<u8> = learned(&all).iter().map(|l| l.status).collect();
    assert_eq!((rejects, statuses), (1, vec![0, 2, 0]));
    assert!(w.mid.disk[4096..8192].iter().all(|b| *b == 0), "what was damaged was stored");
    assert_eq!((w.mid.disk[0], w.mid.disk[8192]), (0xA5, 0xA5));
    w.check_quiet();
}

/// The connection ends when all data is there and its digest is not, or half of it: nothing is stored, nothing is kept.
#[test]
fn a_write_whose_digest_never_comes_leaves_nothing() {
    for missing in 1..=4 {
        let mut w = World::plain();
        let mut h = Host::login(&mut w, 1, &["DataDigest=CRC32C"]);
        let mut c = h.write10(8, 8);
        c.data_len = 4096;
        let bytes = emit(&c.to_bhs(), &[0xA5; 4096], h.digests);
        w.write(h.conn, &bytes[..bytes.len() - missing]);
        w.run();
        assert!(h.sent(&mut w).is_empty());
        w.t.net_mut().wires[h.conn.slot()].peer_closed = true;
        w.run();
        assert!(w.mid.disk.iter().all(|b| *b == 0), "{missing} bytes missing: stored all the same");
        assert_eq!(w.t.tasks_in_flight(), 0);
        w.check_quiet();
    }
}
