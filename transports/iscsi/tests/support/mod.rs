//! What the tests share: a network in memory, a mid-level of one RAM disk, and a world of both.
#![allow(dead_code, reason = "each test uses its part")]

pub mod mem_net;
pub mod ram_mid;

use std::sync::Arc;

use spindle_iscsi::config::IscsiConfig;
use spindle_iscsi::transport::{IscsiOut, IscsiTransport};
use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::login::LoginFlags;
use spindle_iscsi_wire::{
    Bhs, DataOut, Isid, Itt, LoginRequest, LogoutReason, LogoutRequest, ScsiCommand, SerialNumber, Stage,
    TargetPdu, TaskAttribute, Ttt,
};
use spindle_net::ConnId;
use spindle_reactor::{CoreId, Tick};
use spindle_scsi_port::Transport;

use mem_net::MemNet;
use ram_mid::RamMid;

pub const INITIATOR: &str = "iqn.2000-01.com.example:host";
pub const TARGET: &str = "iqn.2000-01.com.example:disk";

/// One core, its network, its disk.
pub struct World {
    pub t: IscsiTransport<MemNet>,
    pub mid: RamMid,
    pub now: Tick,
    pub out: Vec<IscsiOut<()>>,
    /// Effects are kept back.
    pub hold_effects: bool,
}

/// A PDU with its data.
#[derive(Clone, Debug)]
pub struct Pdu {
    pub bhs: Bhs,
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn parse(&self) -> TargetPdu {
        TargetPdu::parse(&self.bhs).expect("what the target sends can be read")
    }
}

pub fn config() -> IscsiConfig {
    IscsiConfig::open_target(TARGET, "127.0.0.1:3260".parse().unwrap())
}

impl World {
    pub fn new(config: IscsiConfig, split: Option<u64>, vectors: [u32; 6]) -> Self {
        let net = MemNet::new(split);
        World {
            t: IscsiTransport::new(net, CoreId(0), 1, Arc::new(config)),
            mid: RamMid::new(vectors),
            now: Tick(1_000_000_000),
            out: Vec::new(),
            hold_effects: false,
        }
    }

    pub fn plain() -> Self {
        World::new(config(), None, [64, 16, 8, 4, 2, 0])
    }

    pub fn connect(&mut self) -> ConnId {
        let at = |s: &str| s.parse().unwrap();
        self.t.adopt((), 1, at("127.0.0.1:50000"), at("127.0.0.1:3260"), self.now).unwrap()
    }

    /// One turn of a shard.
    pub fn turn(&mut self) -> bool {
        let mut busy = self.t.poll(self.now, 64, &mut self.mid) > 0;
        for _ in 0..16 {
            if self.hold_effects || self.mid.fx.is_empty() {
                break;
            }
            busy = true;
            for effect in std::mem::take(&mut self.mid.fx) {
                self.t.perform(effect, &mut self.mid);
            }
        }
        self.t.flush(self.now, &mut self.mid);
        self.t.take_out(&mut self.out);
        busy
    }

    /// Turns until nothing happens any more.
    pub fn run(&mut self) {
        for _ in 0..200_000 {
            let paused = |w: &mem_net::Wire| w.closed || w.inbound.is_empty();
            if !self.turn() && self.t.net().wires.iter().all(paused) {
                return;
            }
            if !self.t.net().wires.iter().all(paused) {
                continue;
            }
        }
    }

    /// Turns, whether anything happens or not.
    pub fn turns(&mut self, n: u32) {
        for _ in 0..n {
            self.turn();
        }
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.turns(3);
    }

    pub fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        self.t.net_mut().wires[conn.slot()].inbound.extend(bytes);
    }

    pub fn is_closed(&self, conn: ConnId) -> bool {
        self.t.net().wires[conn.slot()].closed
    }

    /// What the target has sent since the last call, PDU by PDU.
    pub fn sent(&mut self, conn: ConnId, digests: Digests) -> Vec<Pdu> {
        let bytes = std::mem::take(&mut self.t.net_mut().wires[conn.slot()].outbound);
        cut(&bytes, digests)
    }

    /// When all is quiet, every vector is home and no task is left.
    pub fn check_quiet(&mut self) {
        self.turns(4);
        assert_eq!(self.mid.tasks(), 0, "no task is left");
        assert!(self.mid.pool.is_full(), "every vector is home");
    }
}

/// Cuts a stream into PDUs, checking digests and padding.
pub fn cut(mut bytes: &[u8], digests: Digests) -> Vec<Pdu> {
    let mut pdus = Vec::new();
    while !bytes.is_empty() {
        let bhs: Bhs = *bytes.first_chunk().expect("a whole header");
        let total = bhs::pdu_bytes(&bhs, digests) as usize;
        let mut at = 48;
        if digests.header {
            assert_eq!(bytes[48..52], spindle_iscsi::digest::of_header(&bhs), "header digest");
            at = 52;
        }
        let len = bhs::data_bytes(&bhs) as usize;
        let padded = bhs::padded(len as u32) as usize;
        let data = bytes[at..at + len].to_vec();
        assert!(bytes[at + len..at + padded].iter().all(|b| *b == 0), "padding is nought");
        if digests.data && len > 0 {
            let crc = spindle_iscsi::digest::of_header(&bytes[at..at + padded]);
            assert_eq!(bytes[at + padded..at + padded + 4], crc, "data digest");
        }
        pdus.push(Pdu { bhs, data });
        bytes = &bytes[total..];
    }
    pdus
}

/// Puts a PDU on the wire.
pub fn emit(bhs: &Bhs, data: &[u8], digests: Digests) -> Vec<u8> {
    let mut out = bhs.to_vec();
    if digests.header {
        out.extend(spindle_iscsi::digest::of_header(bhs));
    }
    let start = out.len();
    out.extend_from_slice(data);
    out.resize(start + bhs::padded(data.len() as u32) as usize, 0);
    if digests.data && !data.is_empty() {
        let crc = spindle_iscsi::digest::of_header(&out[start..]);
        out.extend(crc);
    }
    out
}

/// An initiator that does as it is told.
pub struct Host {
    pub conn: ConnId,
    pub digests: Digests,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
    pub itt: u32,
    pub keys: Vec<(String, String)>,
}

impl Host {
    /// Connects and logs in with these operational keys.
    pub fn login(w: &mut World, isid: u8, keys: &[&str]) -> Host {
        let conn = w.connect();
        w.write(conn, &login_bytes(isid, keys));
        w.run();
        let sent = w.sent(conn, Digests::default());
        assert_eq!(sent.len(), 1, "one answer: {sent:?}");
        let TargetPdu::LoginResponse(r) = sent[0].parse() else { panic!("{sent:?}") };
        assert!(r.status.is_success() && r.tsih != 0, "{r:?}");
        let text = String::from_utf8(sent[0].data.clone()).unwrap();
        let keys: Vec<(String, String)> = text
            .split_terminator('\0')
            .map(|p| p.split_once('=').unwrap())
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        let on = |key: &str| keys.iter().any(|(k, v)| k == key && v == "CRC32C");
        let digests = Digests { header: on("HeaderDigest"), data: on("DataDigest") };
        Host { conn, digests, cmd_sn: 1, exp_stat_sn: r.stat_sn.0 + 1, itt: 10, keys }
    }

    pub fn send(&self, w: &mut World, bhs: &Bhs, data: &[u8]) {
        let bytes = emit(bhs, data, self.digests);
        w.write(self.conn, &bytes);
    }

    pub fn command(&mut self, cdb: &[u8], read: bool, write: bool, edtl: u32) -> ScsiCommand {
        let mut whole = [0; 16];
        whole[..cdb.len()].copy_from_slice(cdb);
        self.itt += 1;
        self.cmd_sn += 1;
        ScsiCommand {
            immediate: false,
            is_final: true,
            read,
            write,
            attr: TaskAttribute::Simple,
            priority: 0,
            ahs_words: 0,
            data_len: 0,
            lun: [0; 8],
            itt: Itt(self.itt),
            edtl,
            cmd_sn: SerialNumber(self.cmd_sn - 1),
            exp_stat_sn: SerialNumber(self.exp_stat_sn),
            cdb: whole,
        }
    }

    pub fn read10(&mut self, lba: u32, blocks: u16) -> ScsiCommand {
        self.command(&rw10(0x28, lba, blocks), true, false, u32::from(blocks) * 512)
    }

    pub fn write10(&mut self, lba: u32, blocks: u16) -> ScsiCommand {
        self.command(&rw10(0x2A, lba, blocks), false, true, u32::from(blocks) * 512)
    }

    pub fn data_out(&self, itt: Itt, ttt: Ttt, sn: u32, at: u32, len: u32, last: bool) -> Bhs {
        DataOut {
            is_final: last,
            data_len: len,
            lun: [0; 8],
            itt,
            ttt,
            exp_stat_sn: SerialNumber(self.exp_stat_sn),
            data_sn: SerialNumber(sn),
            buffer_offset: at,
        }
        .to_bhs()
    }

    pub fn logout(&mut self) -> Bhs {
        self.itt += 1;
        LogoutRequest {
            immediate: true,
            reason: LogoutReason::CloseSession,
            itt: Itt(self.itt),
            cid: 1,
            cmd_sn: SerialNumber(self.cmd_sn),
            exp_stat_sn: SerialNumber(self.exp_stat_sn),
        }
        .to_bhs()
    }

    /// What came for this host.
    pub fn sent(&self, w: &mut World) -> Vec<Pdu> {
        w.sent(self.conn, self.digests)
    }

    /// Answers R2Ts in `out` with the bytes of `data`, cut into segments.
    pub fn answer_r2ts(&self, w: &mut World, out: &[Pdu], data: &[u8], segment: usize) {
        for pdu in out {
            let TargetPdu::R2t(r) = pdu.parse() else { continue };
            let part = &data[r.buffer_offset as usize..(r.buffer_offset + r.desired_len) as usize];
            let count = part.chunks(segment).count();
            for (n, piece) in part.chunks(segment).enumerate() {
                let at = r.buffer_offset + (n * segment) as u32;
                let bhs = self.data_out(r.itt, r.ttt, n as u32, at, piece.len() as u32, n + 1 == count);
                self.send(w, &bhs, piece);
            }
        }
    }
}

pub fn rw10(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// A Login Request that goes straight to full feature phase.
pub fn login_bytes(isid: u8, keys: &[&str]) -> Vec<u8> {
    let names = [format!("InitiatorName={INITIATOR}"), format!("TargetName={TARGET}")];
    let text: Vec<u8> = names
        .iter()
        .map(String::as_str)
        .chain(keys.iter().copied())
        .flat_map(|k| [k.as_bytes(), b"\0"].concat())
        .collect();
    let request = LoginRequest {
        flags: LoginFlags {
            stage: Stage::LoginOperationalNegotiation,
            transit: Some(Stage::FullFeaturePhase),
            more: false,
        },
        version_max: 0,
        version_min: 0,
        data_len: text.len() as u32,
        isid: Isid([0x80, 0, 0, 0, 0, isid]),
        tsih: 0,
        itt: Itt(0),
        cid: 1,
        cmd_sn: SerialNumber(1),
        exp_stat_sn: SerialNumber(0),
    };
    emit(&request.to_bhs(), &text, Digests::default())
}
