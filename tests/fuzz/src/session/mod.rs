//! The whole target from the first byte of a connection: the fuzzer plays up to four initiators, the network, the disk
//! and the operator.
//!
//! Its bytes are a program. The first byte chooses a configuration, then each action is one byte (low five bits: which;
//! bit 5: the target gets no turn after it; the two high bits: which initiator) and what the action needs. Most actions
//! send PDUs that are right but for what the program changes on purpose; two send raw headers and raw bytes.
//!
//! What must hold: nothing panics; every PDU of the target can be read, follows the sequence numbers and the window,
//! answers something that was sent, and carries no byte that nobody wrote ([`peer`]); and when all initiators have gone,
//! no session, no task and no memory is left ([`world`]).

pub mod net;
pub mod peer;
mod requests;
mod seeds;
mod tripwire;
pub mod world;

use std::time::Duration;

use spindle_bdev::fault::{Fault, FaultRule, OpSet};
use spindle_bdev::{BlockError, DelayForm, Op};
use spindle_iscsi_wire::tmf::TmfFunction;
use spindle_iscsi_wire::{
    BHS_LEN, Bhs, DataOut, Itt, LogoutReason, LogoutRequest, NopOut, SerialNumber, Stage, TextRequest,
    TmfRequest, Ttt,
};
use spindle_mem::POISON;
use spindle_net::Close;

use crate::input::Input;
use crate::spec::cdbs;
use peer::{Peer, clean};
use requests::{filled, login_request, scsi_command};
pub use seeds::seeds;
use world::{TARGET, World};

/// Actions of one program.
const ACTIONS_MAX: u32 = 96;
/// Initiators at once.
const PEERS: usize = 4;
/// Blocks of one READ or WRITE: a little more than the largest buffer holds.
const BLOCKS_MAX: u8 = 130;

/// One input.
pub fn run(data: &[u8]) {
    play(data);
}

/// How far a program came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reached {
    /// Logins that led to a session.
    pub logins: u64,
    /// Commands that ended with GOOD.
    pub good: u32,
    /// Commands that ended with anything else.
    pub not_good: u32,
    /// R2Ts of the target.
    pub r2ts: u32,
    /// Task management functions that were answered.
    pub tmfs: u32,
    /// Rejects of the target.
    pub rejects: u64,
    /// Bytes written to the disks.
    pub written: u64,
}

/// One input, and how far it came.
pub fn play(data: &[u8]) -> Reached {
    let mut input = Input::new(data);
    let Some(choice) = input.byte() else { return Reached::default() };
    let mut play = Play {
        world: World::new(choice),
        peers: Default::default(),
        cdbs: cdbs(),
        reached: Reached::default(),
    };
    for _ in 0..ACTIONS_MAX {
        if play.act(&mut input).is_none() {
            break;
        }
    }
    play.end()
}

struct Play {
    world: World,
    peers: [Option<Peer>; PEERS],
    cdbs: Vec<Vec<u8>>,
    reached: Reached,
}

/// What `act` does, by the low five bits of an action.
mod action {
    pub const LOGIN: u8 = 0;
    pub const LOGIN_TEXT: u8 = 1;
    pub const WRITE: u8 = 2;
    pub const READ: u8 = 3;
    pub const COMMAND: u8 = 4;
    pub const CDB: u8 = 5;
    pub const DATA_OUT: u8 = 6;
    pub const ANSWER_R2T: u8 = 7;
    pub const TMF: u8 = 8;
    pub const NOP: u8 = 9;
    pub const TEXT: u8 = 10;
    pub const LOGOUT: u8 = 11;
    pub const RAW_PDU: u8 = 12;
    pub const RAW_BYTES: u8 = 13;
    pub const DISCONNECT: u8 = 14;
    pub const TIME: u8 = 15;
    pub const TURNS: u8 = 16;
    pub const SPLIT: u8 = 17;
    pub const ROOM: u8 = 18;
    pub const DELAY: u8 = 19;
    pub const FAULT: u8 = 20;
    pub const LUNS: u8 = 21;
    pub const RESIZE: u8 = 22;
    pub const APPLY: u8 = 23;
    pub const SHUT_DOWN: u8 = 24;
}
/// No turn after the action.
const AT_ONCE: u8 = 0x20;

impl Play {
    /// One action. `None`: the program is over.
    fn act(&mut self, input: &mut Input<'_>) -> Option<()> {
        let op = input.byte()?;
        let who = usize::from(op >> 6);
        match op & 0x1F {
            action::LOGIN => self.login(who, input)?,
            action::LOGIN_TEXT => self.login_text(who, input)?,
            action::WRITE => self.write(who, input)?,
            action::READ => self.read(who, input)?,
            action::COMMAND => self.command(who, input)?,
            action::CDB => self.cdb(who, input)?,
            action::DATA_OUT => self.data_out(who, input)?,
            action::ANSWER_R2T => self.answer_r2t(who, input)?,
            action::TMF => self.tmf(who, input)?,
            action::NOP => self.nop(who, input)?,
            action::TEXT => self.text(who, input)?,
            action::LOGOUT => self.logout(who, input)?,
            action::RAW_PDU => self.raw_pdu(who, input)?,
            action::RAW_BYTES => self.raw_bytes(who, input)?,
            action::DISCONNECT => {
                let how = if input.byte()? & 1 == 0 { Close::Graceful } else { Close::Abort };
                self.disconnect(who, how);
            }
            action::TIME => {
                let ms = u64::from(input.u16()?);
                self.world.pass_ms(ms);
            }
            action::TURNS => {
                self.world.turns(u32::from(input.byte()? & 15) + 1);
            }
            action::SPLIT => self.world.core.iscsi.net_mut().split = usize::from(input.byte()?),
            action::ROOM => self.room(who, input.u16()?),
            action::DELAY => {
                let [ms, form] = input.array()?;
                let form = if form & 1 == 0 { DelayForm::Queued } else { DelayForm::Late };
                self.world.delays.set(Duration::from_millis(ms.into()), form);
            }
            action::FAULT => self.fault(input)?,
            action::LUNS => self.world.set_luns(input.byte()?),
            action::RESIZE => self.world.resize(u64::from(input.u16()?) % 2048 + 1),
            action::APPLY => self.world.apply(input.byte()? & 1 == 0),
            action::SHUT_DOWN => self.world.core.iscsi.shut_down(),
            _ => {}
        }
        if op & AT_ONCE == 0 {
            self.world.turns(100);
            self.hear();
        }
        Some(())
    }

    /// A new connection in place of the initiator's old one, if any: the target sees the old one end, or finds itself
    /// asked to reinstate its session.
    fn connect(&mut self, who: usize) -> &mut Peer {
        let net = self.world.core.iscsi.net_mut();
        let pipe = net.dial();
        let at = |port: u16| ([127, 0, 0, 1], port).into();
        let now = self.world.now;
        // With the table of connections full the pipe is dead from the start.
        let _ = self.world.core.iscsi.adopt(pipe, 1, at(50_000), at(3260), now);
        self.disconnect(who, Close::Abort);
        self.peers[who].insert(Peer::new(pipe))
    }

    fn send(&mut self, who: usize, bytes: &[u8]) {
        if let Some(peer) = &self.peers[who] {
            self.world.core.iscsi.net_mut().pipes[peer.pipe].up.extend(bytes);
        }
    }

    fn send_pdu(&mut self, who: usize, header: &Bhs, data: &[u8]) {
        if let Some(peer) = &mut self.peers[who] {
            let bytes = peer.pdu(header, &[], data);
            self.send(who, &bytes);
        }
    }

    /// A login as it should be, with what one byte chooses.
    fn login(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let choice = input.byte()?;
        let pick = |bit: u8, yes: &'static str, no: &'static str| if choice & bit != 0 { yes } else { no };
        let mut text = format!(
            "InitiatorName=iqn.2026-01.org.example:host{}\0HeaderDigest={}\0DataDigest={}\0InitialR2T={}\0\
             ImmediateData={}\0MaxRecvDataSegmentLength={}\0MaxBurstLength={}\0MaxOutstandingR2T=4\0",
            choice >> 7,
            pick(1, "CRC32C,None", "None"),
            pick(2, "CRC32C", "None"),
            pick(4, "Yes", "No"),
            pick(8, "No", "Yes"),
            pick(16, "512", "16384"),
            pick(32, "1536", "262144"),
        );
        text.push_str(&match choice & 64 {
            0 => format!("TargetName={TARGET}\0"),
            _ => "SessionType=Discovery\0".into(),
        });
        let peer = self.connect(who);
        peer.declared = Some(if choice & 16 != 0 { 512 } else { 16384 });
        let request =
            login_request(peer, who, Stage::LoginOperationalNegotiation, Some(Stage::FullFeaturePhase));
        let bytes = peer.pdu(&request.to_bhs(), &[], text.as_bytes());
        peer.itt += 1;
        self.send(who, &bytes);
        self.world.turns(50);
        self.hear();
        Some(())
    }

    /// A login request with any text; on a new connection, or one more on the old.
    fn login_text(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let how = input.byte()?;
        let text = input.long()?;
        if how & 1 == 0 || self.peers[who].is_none() {
            self.connect(who);
        }
        let peer = self.peers[who].as_mut()?;
        let stage = |code: u8| match code & 3 {
            0 => Stage::SecurityNegotiation,
            1 => Stage::LoginOperationalNegotiation,
            _ => Stage::FullFeaturePhase,
        };
        let next = (how & 0x80 != 0).then(|| stage(how >> 3));
        let mut request = login_request(peer, who, stage(how >> 1), next);
        request.flags.more = how & 0x40 != 0;
        request.tsih = if how & 0x20 != 0 { peer.tsih } else { 0 };
        // Whatever it declares of itself is not followed here.
        (peer.segment_max, peer.declared) = (None, None);
        let bytes = peer.pdu(&request.to_bhs(), &[], text);
        self.send(who, &bytes);
        Some(())
    }

    /// WRITE(10) of blocks filled with the program's bytes, some of them with the command.
    fn write(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let [lba, blocks, now, how] = input.array()?;
        let pattern = input.short()?;
        let blocks = blocks % BLOCKS_MAX;
        let len = usize::from(blocks) * 512;
        let data = filled(pattern, len);
        let now = if how & 1 != 0 { (usize::from(now) * 64).min(len) } else { 0 };
        let cdb = [0x2A, how & 0x18, 0, 0, 0, lba, 0, 0, blocks, 0];
        let is_final = how & 2 == 0;
        self.scsi(who, how >> 5, &cdb, [false, true], len as u32, is_final, &data[..now])
    }

    /// READ(10).
    fn read(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let [lba, blocks, how] = input.array()?;
        let blocks = blocks % BLOCKS_MAX;
        let cdb = [0x28, how & 0x18, 0, 0, 0, lba, 0, 0, blocks, 0];
        let edtl = u32::from(blocks) * if how & 1 == 0 { 512 } else { 100 };
        self.scsi(who, how >> 5, &cdb, [true, false], edtl, true, &[])
    }

    /// One of the CDBs that are served, with some of its bytes changed.
    fn command(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let [which, how, at, to] = input.array()?;
        let edtl = u32::from(input.u16()?);
        let data = input.short()?;
        let mut cdb = self.cdbs[usize::from(which) % self.cdbs.len()].clone();
        if how & 1 != 0 {
            let at = usize::from(at) % cdb.len();
            cdb[at] = to;
        }
        self.scsi(who, how >> 5, &cdb, [how & 2 != 0, how & 4 != 0], edtl, how & 8 == 0, data)
    }

    /// Any CDB.
    fn cdb(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let [how, lun] = input.array()?;
        let edtl = input.u32()? % (1 << 18);
        let cdb = clean(input.short()?);
        let data = input.short()?;
        let mut header = [0; 16];
        let n = cdb.len().min(16);
        header[..n].copy_from_slice(&cdb[..n]);
        let rest = &cdb[n..];
        let peer = self.peers[who].as_mut()?;
        let mut command =
            scsi_command(peer, how >> 5, header, [how & 2 != 0, how & 4 != 0], edtl, how & 8 == 0);
        command.lun = [lun & 0xC0, lun & 0x3F, 0, 0, 0, 0, 0, 0];
        let mut ahs = Vec::new();
        if !rest.is_empty() {
            ahs.extend(((rest.len() + 1) as u16).to_be_bytes());
            ahs.extend([1, 0]);
            ahs.extend(rest);
        }
        if how & 16 != 0 {
            ahs.resize(ahs.len().next_multiple_of(4), 0);
            ahs.extend([0, 5, 2, 0]);
            ahs.extend(u32::from(lun).to_be_bytes());
        }
        ahs.resize(ahs.len().next_multiple_of(4), 0);
        command.ahs_words = (ahs.len() / 4) as u8;
        let bytes = peer.pdu(&command.to_bhs(), &ahs, data);
        self.send(who, &bytes);
        Some(())
    }

    #[expect(clippy::too_many_arguments, reason = "a command has that many parts")]
    fn scsi(
        &mut self,
        who: usize,
        how: u8,
        cdb: &[u8],
        [read, write]: [bool; 2],
        edtl: u32,
        is_final: bool,
        data: &[u8],
    ) -> Option<()> {
        // Without the initiator the action is nothing, and the program goes on.
        let Some(peer) = self.peers[who].as_mut() else { return Some(()) };
        let mut whole = [0; 16];
        let n = cdb.len().min(16);
        whole[..n].copy_from_slice(&cdb[..n]);
        let command = scsi_command(peer, how, whole, [read, write], edtl, is_final);
        self.send_pdu(who, &command.to_bhs(), data);
        Some(())
    }

    /// Unsolicited or stray Data-Out.
    fn data_out(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let [back, sn, how] = input.array()?;
        let at = u32::from(input.u16()?);
        let data = input.short()?;
        let Some(peer) = self.peers[who].as_mut() else { return Some(()) };
        let bhs = DataOut {
            is_final: how & 1 != 0,
            data_len: 0,
            lun: [0; 8],
            itt: Itt(peer.itt.wrapping_sub(1).wrapping_sub(back.into())),
            ttt: if how & 2 == 0 { Ttt::RESERVED } else { peer.last_ttt },
            exp_stat_sn: SerialNumber(peer.exp_stat_sn),
            data_sn: SerialNumber(sn.into()),
            buffer_offset: at,
        };
        let data = filled(data, data.len() << (how >> 4 & 7));
        self.send_pdu(who, &bhs.to_bhs(), &data);
        Some(())
    }

    /// Data-Out for an R2T: all of it in pieces, or with one thing wrong.
    fn answer_r2t(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let [which, how, piece] = input.array()?;
        let pattern = input.short()?;
        let Some(peer) = self.peers[who].as_mut() else { return Some(()) };
        if peer.r2ts.is_empty() {
            return Some(());
        }
        let which = usize::from(which) % peer.r2ts.len();
        let r2t = if how & 1 == 0 { peer.r2ts.remove(which) } else { peer.r2ts[which] };
        let len = r2t.desired_len as usize;
        let data = filled(pattern, len);
        let piece = ((usize::from(piece) + 1) * 64).min(4 << 10);
        let count = len.div_ceil(piece);
        // Half of it only: the connection may end, or a task management function come, in its midst.
        let sent = if how & 2 != 0 { count / 2 } else { count };
        for (n, part) in data.chunks(piece).take(sent).enumerate() {
            let peer = self.peers[who].as_mut()?;
            let bhs = DataOut {
                is_final: n + 1 == count,
                data_len: 0,
                lun: r2t.lun,
                itt: r2t.itt,
                ttt: Ttt(r2t.ttt.0 ^ if how & 4 != 0 { 1 << (how >> 3) } else { 0 }),
                exp_stat_sn: SerialNumber(peer.exp_stat_sn),
                data_sn: SerialNumber(n as u32),
                buffer_offset: r2t.buffer_offset + (n * piece) as u32,
            };
            self.send_pdu(who, &bhs.to_bhs(), part);
        }
        Some(())
    }

    fn tmf(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let [function, back, how] = input.array()?;
        let Some(peer) = self.peers[who].as_mut() else { return Some(()) };
        let referenced = peer.itt.wrapping_sub(1).wrapping_sub(back.into());
        let immediate = how & 1 == 0;
        let bhs = TmfRequest {
            immediate,
            function: TmfFunction::of(function & 0x7F),
            lun: [0, how >> 6, 0, 0, 0, 0, 0, 0],
            itt: Itt(peer.itt),
            referenced_itt: if how & 2 == 0 { Itt(referenced) } else { Itt::RESERVED },
            cmd_sn: SerialNumber(peer.cmd_sn),
            exp_stat_sn: SerialNumber(peer.exp_stat_sn),
            ref_cmd_sn: SerialNumber(peer.cmd_sn.wrapping_sub(u32::from(how >> 2 & 7))),
            exp_data_sn: SerialNumber(0),
        };
        peer.itt = peer.itt.wrapping_add(1);
        peer.cmd_sn = peer.cmd_sn.wrapping_add(u32::from(!immediate));
        self.send_pdu(who, &bhs.to_bhs(), &[]);
        Some(())
    }

    fn nop(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let how = input.byte()?;
        let data = input.short()?;
        let Some(peer) = self.peers[who].as_mut() else { return Some(()) };
        let immediate = how & 1 == 0;
        let bhs = NopOut {
            immediate,
            data_len: 0,
            lun: [0; 8],
            itt: if how & 2 == 0 { Itt(peer.itt) } else { Itt::RESERVED },
            ttt: if how & 4 == 0 { Ttt::RESERVED } else { peer.last_ttt },
            cmd_sn: SerialNumber(peer.cmd_sn),
            exp_stat_sn: SerialNumber(peer.exp_stat_sn),
        };
        peer.itt = peer.itt.wrapping_add(1);
        peer.cmd_sn = peer.cmd_sn.wrapping_add(u32::from(!immediate));
        self.send_pdu(who, &bhs.to_bhs(), data);
        Some(())
    }

    fn text(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let how = input.byte()?;
        let text = input.long()?;
        let Some(peer) = self.peers[who].as_mut() else { return Some(()) };
        let immediate = how & 1 == 0;
        if how & 8 == 0 {
            peer.itt = peer.itt.wrapping_add(1);
        }
        let bhs = TextRequest {
            immediate,
            is_final: how & 2 == 0,
            more: how & 2 != 0 && how & 16 != 0,
            data_len: 0,
            lun: [0; 8],
            itt: Itt(peer.itt.wrapping_sub(1)),
            ttt: if how & 4 == 0 { Ttt::RESERVED } else { peer.last_ttt },
            cmd_sn: SerialNumber(peer.cmd_sn),
            exp_stat_sn: SerialNumber(peer.exp_stat_sn),
        };
        peer.cmd_sn = peer.cmd_sn.wrapping_add(u32::from(!immediate));
        // It may declare another length.
        (peer.segment_max, peer.declared) = (None, None);
        self.send_pdu(who, &bhs.to_bhs(), text);
        Some(())
    }

    fn logout(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let how = input.byte()?;
        let Some(peer) = self.peers[who].as_mut() else { return Some(()) };
        let reason =
            [LogoutReason::CloseSession, LogoutReason::CloseConnection, LogoutReason::RemoveForRecovery];
        let immediate = how & 1 == 0;
        let bhs = LogoutRequest {
            immediate,
            reason: reason[usize::from(how >> 1) % 3],
            itt: Itt(peer.itt),
            cid: 1 + u16::from(how >> 7),
            cmd_sn: SerialNumber(peer.cmd_sn),
            exp_stat_sn: SerialNumber(peer.exp_stat_sn),
        };
        peer.itt = peer.itt.wrapping_add(1);
        peer.cmd_sn = peer.cmd_sn.wrapping_add(u32::from(!immediate));
        self.send_pdu(who, &bhs.to_bhs(), &[]);
        Some(())
    }

    /// Any header, with data; CmdSN and ExpStatSN are put right if the program wants it.
    fn raw_pdu(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let how = input.byte()?;
        let mut header = input.array::<BHS_LEN>()?;
        // A Reject brings a header back, which must not look like memory that nobody wrote.
        header.iter_mut().filter(|b| **b == POISON).for_each(|b| *b = !POISON);
        let data = input.short()?;
        let Some(peer) = self.peers[who].as_mut() else { return Some(()) };
        if how & 1 != 0 {
            header[24..28].copy_from_slice(&peer.cmd_sn.to_be_bytes());
            header[28..32].copy_from_slice(&peer.exp_stat_sn.to_be_bytes());
            if header[0] & 0x40 == 0 {
                peer.cmd_sn = peer.cmd_sn.wrapping_add(1);
            }
        }
        (peer.segment_max, peer.declared) = (None, None);
        if how & 2 != 0 {
            // Lengths as the header says: what follows is no PDU any more.
            peer.wild = true;
            let bytes = [&header[..], data].concat();
            self.send(who, &clean(&bytes));
        } else {
            let ahs = if how & 4 != 0 { &data[..data.len().min(64) & !3] } else { &[] };
            let bytes = peer.pdu(&header, ahs, data);
            self.send(who, &bytes);
        }
        Some(())
    }

    fn raw_bytes(&mut self, who: usize, input: &mut Input<'_>) -> Option<()> {
        let bytes = input.short()?;
        if self.peers[who].is_none() {
            self.connect(who);
        }
        let peer = self.peers[who].as_mut()?;
        peer.wild = true;
        (peer.segment_max, peer.declared) = (None, None);
        self.send(who, &clean(bytes));
        Some(())
    }

    fn disconnect(&mut self, who: usize, how: Close) {
        let Some(peer) = self.peers[who].take() else { return };
        self.world.core.iscsi.net_mut().pipes[peer.pipe].ended.get_or_insert(how);
        let r = &mut self.reached;
        r.good += peer.statuses[0];
        r.not_good += peer.statuses[1];
        r.r2ts += peer.r2ts_heard;
        r.tmfs += peer.tmfs_heard;
    }

    /// How much the initiator takes from now on; FFFFh: all.
    fn room(&mut self, who: usize, bytes: u16) {
        if let Some(peer) = &self.peers[who] {
            let room = (bytes != 0xFFFF).then_some(usize::from(bytes));
            self.world.core.iscsi.net_mut().pipes[peer.pipe].room = room;
        }
    }

    fn fault(&mut self, input: &mut Input<'_>) -> Option<()> {
        let [kind, count] = input.array()?;
        if kind == 0 {
            self.world.faults.clear();
            return Some(());
        }
        let ops = [Op::Read, Op::Write, Op::Flush, Op::Unmap, Op::WriteZeroes, Op::Verify, Op::Extent];
        let errors = [
            BlockError::MediumRead,
            BlockError::MediumWrite,
            BlockError::NoSpace,
            BlockError::Gone,
            BlockError::Aborted,
            BlockError::FlushLost,
            BlockError::Os(5),
            BlockError::TimedOut,
        ];
        let error = errors[usize::from(count >> 4) % errors.len()];
        let fault = [Fault::Fail(error), Fault::Misreport(error), Fault::Refuse][usize::from(kind >> 4) % 3];
        let mut rule = FaultRule::every(OpSet::of(&[ops[usize::from(kind & 15) % ops.len()]]), fault);
        rule.count = u64::from(count & 15);
        self.world.faults.add(rule);
        Some(())
    }

    /// Everybody hears what came for them.
    fn hear(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            let down = std::mem::take(&mut self.world.core.iscsi.net_mut().pipes[peer.pipe].down);
            peer.hear(&down);
        }
    }

    fn end(mut self) -> Reached {
        self.world.turns(20);
        self.hear();
        for who in 0..PEERS {
            self.disconnect(who, if who & 1 == 0 { Close::Graceful } else { Close::Abort });
        }
        for pipe in &mut self.world.core.iscsi.net_mut().pipes {
            pipe.ended.get_or_insert(Close::Abort);
            pipe.room = None;
        }
        let counters = self.world.core.iscsi.counters();
        self.reached.logins = counters.logins;
        self.reached.rejects = counters.rejects;
        self.reached.written = self.world.written();
        self.world.end();
        self.reached
    }
}
