//! Streams of like writes over kernel TCP: many commands are received by one read, each one's data in its own vector.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spindle_iscsi::transport::IscsiTransport;
use spindle_iscsi_wire::bhs::{Digests, pdu_bytes};
use spindle_iscsi_wire::{Bhs, Itt, ScsiCommand, SerialNumber, TargetPdu, TaskAttribute};
use spindle_net::{EpollNet, Net, TcpConfig};
use spindle_reactor::{CoreId, Tick};
use spindle_scsi_port::Transport;
use support::ram_mid::RamMid;
use support::{Pdu, config, cut, emit, login_bytes, rw10};

const PAGE: usize = 4096;

/// A target on one end of a TCP connection, an initiator on the other.
struct Pair {
    t: IscsiTransport<EpollNet>,
    mid: RamMid,
    now: Tick,
    client: TcpStream,
    digests: Digests,
    got: Vec<u8>,
    cmd_sn: u32,
    exp_stat_sn: u32,
}

impl Pair {
    fn new(keys: &[&str]) -> Pair {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let (socket, peer) = listener.accept().unwrap();
        for end in [&socket, &client] {
            end.set_nonblocking(true).unwrap();
        }
        let net = EpollNet::new(TcpConfig::default()).unwrap();
        let now = Tick(1_000_000_000);
        let mut t = IscsiTransport::new(net, CoreId(0), 1, Arc::new(config()));
        let portal = "127.0.0.1:3260".parse().unwrap();
        t.adopt(OwnedFd::from(socket).into(), 1, peer, portal, now).unwrap();
        let mid = RamMid::new([64, 16, 8, 4, 2, 0]);
        let mut pair = Pair {
            t,
            mid,
            now,
            client,
            digests: Digests::default(),
            got: Vec::new(),
            cmd_sn: 1,
            exp_stat_sn: 0,
        };
        pair.say(&login_bytes(1, keys));
        let sent = pair.hear(1);
        let TargetPdu::LoginResponse(r) = sent[0].parse() else { panic!("{sent:?}") };
        assert!(r.status.is_success(), "{r:?}");
        pair.exp_stat_sn = r.stat_sn.0 + 1;
        let text = String::from_utf8_lossy(&sent[0].data).into_owned();
        pair.digests = Digests {
            header: text.contains("HeaderDigest=CRC32C"),
            data: text.contains("DataDigest=CRC32C"),
        };
        pair
    }

    fn turn(&mut self) {
        self.now = Tick(self.now.0 + 1000);
        self.t.poll(self.now, 64, &mut self.mid);
        while !self.mid.fx.is_empty() {
            for effect in std::mem::take(&mut self.mid.fx) {
                self.t.perform(effect, &mut self.mid);
            }
        }
        self.t.flush(self.now, &mut self.mid);
    }

    fn say(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.client.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.turn(),
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Turns until so many statuses (or other answers) are here.
    fn hear(&mut self, count: usize) -> Vec<Pdu> {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            self.turn();
            let mut part = [0; 65536];
            match self.client.read(&mut part) {
                Ok(0) => panic!("the target closed the connection"),
                Ok(n) => self.got.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => panic!("{e}"),
            }
            let (mut at, mut pdus) = (0, 0);
            while let Some(bhs) = self.got[at..].first_chunk::<48>() {
                let bhs: Bhs = *bhs;
                let total = pdu_bytes(&bhs, self.digests) as usize;
                if self.got.len() < at + total {
                    break;
                }
                (at, pdus) = (at + total, pdus + 1);
            }
            if pdus >= count {
                let rest = self.got.split_off(at);
                return cut(&std::mem::replace(&mut self.got, rest), self.digests);
            }
            assert!(Instant::now() < limit, "{pdus} of {count} answers came");
        }
    }

    fn command(&mut self, lba: u32, data: Option<&[u8]>, bytes: usize) -> Vec<u8> {
        let mut cdb = [0; 16];
        let opcode = if data.is_some() { 0x2A } else { 0x28 };
        cdb[..10].copy_from_slice(&rw10(opcode, lba, (bytes / 512) as u16));
        self.cmd_sn += 1;
        let c = ScsiCommand {
            immediate: false,
            is_final: true,
            read: data.is_none(),
            write: data.is_some(),
            attr: TaskAttribute::Simple,
            priority: 0,
            ahs_words: 0,
            data_len: data.map_or(0, <[u8]>::len) as u32,
            lun: [0; 8],
            itt: Itt(self.cmd_sn),
            edtl: bytes as u32,
            cmd_sn: SerialNumber(self.cmd_sn - 1),
            exp_stat_sn: SerialNumber(self.exp_stat_sn),
            cdb,
        };
        emit(&c.to_bhs(), data.unwrap_or(&[]), self.digests)
    }

    /// Sends these commands at once, and hears what comes.
    fn batch(&mut self, commands: &[u8], count: usize) -> Vec<Pdu> {
        self.say(commands);
        let sent = self.hear(count);
        assert_eq!(sent.len(), count);
        self.exp_stat_sn += count as u32;
        for pdu in &sent {
            match pdu.parse() {
                TargetPdu::ScsiResponse(r) => assert_eq!(r.status, 0, "{r:?}"),
                TargetPdu::DataIn(d) => assert!(d.status.is_some_and(|s| s.status == 0), "{d:?}"),
                other => panic!("{other:?}"),
            }
        }
        sent
    }

    fn write_pages(&mut self, rounds: u32, salt: u8) {
        for round in 0..rounds {
            let mut line = Vec::new();
            for n in 0..8 {
                let page = (round * 8 + n) % 64;
                line.extend(self.command(page * 8, Some(&[page as u8 ^ salt; PAGE]), PAGE));
            }
            self.batch(&line, 8);
        }
        for page in 0..64.min(rounds as usize * 8) {
            assert_eq!(self.mid.disk[page * PAGE..][..PAGE], [page as u8 ^ salt; PAGE]);
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.t.net_mut().drain(&mut self.mid.pool);
    }
}

#[test]
fn a_stream_of_like_writes_is_not_copied_once_it_is_known() {
    for keys in [&[][..], &["HeaderDigest=CRC32C", "DataDigest=CRC32C"]] {
        let mut p = Pair::new(keys);
        p.write_pages(4, 1);
        let before = p.t.net().copied_bytes();
        p.write_pages(50, 2);
        assert_eq!(p.t.net().copied_bytes() - before, 0);
        assert!(!p.mid.pool.is_full(), "vectors are kept ready while the stream lasts");
        p.now = p.now.plus_ms(200);
        p.turn();
        assert!(p.mid.pool.is_full(), "and go back when nothing comes");
        p.write_pages(4, 3);
    }
}

#[test]
fn a_wrong_guess_costs_a_copy_and_no_data() {
    let mut p = Pair::new(&[]);
    p.write_pages(4, 1);
    let mut line = Vec::new();
    for n in 0..8u32 {
        // Shorter, longer, a read, and the expected: the reader has to find each header.
        match n % 4 {
            0 => line.extend(p.command(n * 8, Some(&[0xA0 + n as u8; 512]), 512)),
            1 => line.extend(p.command(n * 8, None, PAGE)),
            2 => line.extend(p.command(n * 8, Some(&[0xA0 + n as u8; 2 * PAGE]), 2 * PAGE)),
            _ => line.extend(p.command(n * 8, Some(&[0xA0 + n as u8; PAGE]), PAGE)),
        }
    }
    let sent = p.batch(&line, 8);
    assert_eq!(sent.iter().filter(|pdu| !pdu.data.is_empty()).count(), 2);
    assert!(sent.iter().any(|pdu| pdu.data == [1 ^ 1; PAGE]), "what page 1 held before");
    for (n, len) in [(0usize, 512), (2, PAGE), (3, PAGE), (4, 512), (6, PAGE), (7, PAGE)] {
        assert_eq!(p.mid.disk[n * PAGE..][..len], vec![0xA0 + n as u8; len], "page {n}");
    }
    p.now = p.now.plus_ms(200);
    p.turn();
    assert!(p.mid.pool.is_full());
}

#[test]
fn vectors_of_a_connection_that_ends_come_back() {
    let mut p = Pair::new(&[]);
    p.write_pages(4, 1);
    // The last command is cut off within its data.
    let line = p.command(0, Some(&[9; PAGE]), PAGE);
    p.say(&line[..1000]);
    p.turn();
    assert!(!p.mid.pool.is_full());
    p.client.shutdown(std::net::Shutdown::Both).unwrap();
    let limit = Instant::now() + Duration::from_secs(10);
    while !p.mid.pool.is_full() {
        p.turn();
        assert!(Instant::now() < limit, "vectors are lost");
    }
    assert_eq!(p.mid.disk[..PAGE], [1; PAGE]);
}

/// Runs of like writes with others between, sent in pieces of any size: the disk holds what was written.
#[test]
fn whatever_comes_between_the_disk_holds_what_was_written() {
    for seed in 0..12 {
        let keys: &[&str] = if seed % 3 == 0 { &["HeaderDigest=CRC32C", "DataDigest=CRC32C"] } else { &[] };
        let mut p = Pair::new(keys);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut disk = p.mid.disk.clone();
        for step in 0..60u32 {
            let like = [PAGE, PAGE, 2 * PAGE, 512, 4 * PAGE, 8 * PAGE, 10 * PAGE][rng.usize(0..7)];
            let (mut line, mut want, count) = (Vec::new(), Vec::new(), rng.usize(1..=8));
            for n in 0..count {
                let other = rng.u8(0..if step % 20 < 12 { 40 } else { 3 }) == 0;
                let bytes = if other { 512 * rng.usize(1..120) } else { like };
                let lba = rng.usize(0..1000);
                if other && bytes <= 8192 && rng.bool() {
                    line.extend(p.command(lba as u32, None, bytes));
                    want.push((p.cmd_sn, disk[lba * 512..][..bytes].to_vec()));
                } else {
                    let data = vec![(step as u8).wrapping_mul(8).wrapping_add(n as u8) | 1; bytes];
                    line.extend(p.command(lba as u32, Some(&data), bytes));
                    disk[lba * 512..][..bytes].copy_from_slice(&data);
                }
            }
            let mut rest = &line[..];
            while rest.len() > 1 && rng.u8(0..4) > 0 {
                let (now, later) = rest.split_at(rng.usize(1..rest.len()));
                p.say(now);
                p.turn();
                rest = later;
            }
            let sent = p.batch(rest, count);
            for (itt, data) in want {
                let answer = sent.iter().find(|pdu| pdu.bhs[16..20] == itt.to_be_bytes());
                assert!(answer.is_some_and(|pdu| pdu.data == data), "seed {seed}, step {step}: a read");
            }
        }
        assert!(p.mid.disk == disk, "seed {seed}");
        p.now = p.now.plus_ms(200);
        p.turn();
        assert!(p.mid.pool.is_full(), "seed {seed}");
    }
}

/// What was received ahead may belong to commands whose data nobody wants, as when their unit has just gone.
#[test]
fn data_that_lands_nowhere_is_found_where_it_was_received_ahead() {
    for keys in [&[][..], &["DataDigest=CRC32C"]] {
        let mut p = Pair::new(keys);
        p.write_pages(4, 1);
        let mut line = Vec::new();
        for n in 0..8u32 {
            let mut pdu = p.command(n * 8, Some(&[0xB0 + n as u8; PAGE]), PAGE);
            if n % 4 == 3 {
                // A CDB that nobody knows.
                pdu[32] = 0xAA;
            }
            line.extend(pdu);
        }
        p.say(&line);
        let sent = p.hear(8);
        p.exp_stat_sn += 8;
        let bad = |pdu: &&Pdu| matches!(pdu.parse(), TargetPdu::ScsiResponse(r) if r.status == 2);
        assert_eq!((sent.len(), sent.iter().filter(bad).count()), (8, 2));
        for n in [0usize, 1, 2, 4, 5, 6] {
            assert_eq!(p.mid.disk[n * PAGE..][..PAGE], [0xB0 + n as u8; PAGE], "page {n}");
        }
        p.write_pages(4, 5);
    }
}
