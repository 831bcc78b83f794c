//! One core of the target with one logical unit, and a logged-in initiator beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use spindle::limits::Limits;
use spindle::message::ShardMsg;
use spindle::shard::Core;
use spindle_bdev::{Bdev, ChannelId};
use spindle_initiator::{Config, Event, InitiatorConn};
use spindle_iscsi::IscsiTransport;
use spindle_iscsi::config::IscsiConfig;
use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::{
    Bhs, DataIn, DataOut, Itt, R2t, ScsiCommand, ScsiResponse, SerialNumber, TargetOpcode, TaskAttribute,
};
use spindle_mem::{Arena, SgvPool};
use spindle_reactor::{Mailbox, Mesh, Tick};
use spindle_scsi::{Engine, LuId, LuSpec};

use crate::device::{BLOCK, BYTES, Disk, Places, arena, unit};
use crate::quiet_net::QuietNet;

const TARGET: &str = "iqn.2026-01.org.example:micro";

const PORTAL: &str = "127.0.0.1:3260";
/// What another core is waited for.
const LOGIN_MAX: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// What a core of it hears others by.
pub type Mail = Mailbox<ShardMsg<QuietNet>>;

/// What is asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// READ(10) of 4 KiB.
    Read,
    /// WRITE(10) of 4 KiB as immediate data.
    Write,
    /// WRITE(10) of 4 KiB after an R2T.
    WriteSolicited,
    /// TEST UNIT READY.
    Nothing,
}

/// The pair.
pub struct World {
    core: Core<QuietNet>,
    mail: Mail,
    now: Tick,
    digests: Digests,
    cmd_sn: SerialNumber,
    exp_stat_sn: SerialNumber,
    max_cmd_sn: SerialNumber,
    places: Places,
    line: Vec<u8>,
}

/// Where instructions are counted, and nowhere else.
#[inline(never)]
fn measured_turn(core: &mut Core<QuietNet>, now: Tick, mail: &mut Mail) -> u32 {
    core.turn(now, mail)
}

/// What the cores of one target have in common: memory, a unit, what is served how.
pub struct Target {
    disk: Disk,
    limits: Limits,
    arena: Arc<Arena>,
    bdev: Arc<dyn Bdev>,
    config: Arc<IscsiConfig>,
}

impl Target {
    /// A target of so many cores, and the mailbox of each.
    pub fn new(disk: Disk, cores: u8) -> Result<(Self, Vec<Mail>)> {
        let pools = 16 << 20;
        let memory = (48 << 20) + u64::from(cores) * pools;
        let limits = Limits::new(cores, pools, Some(memory), 1 << 30).map_err(anyhow::Error::msg)?;
        let arena = arena(limits.arena_bytes_max)?;
        let bdev = disk.open(&arena)?;
        let config =
            IscsiConfig { limits: limits.iscsi(), ..IscsiConfig::open_target(TARGET, PORTAL.parse()?) };
        Ok((Self { disk, limits, arena, bdev, config: Arc::new(config) }, Mesh::new(cores.into(), 64)))
    }
}

impl World {
    /// A core as the product makes it, with a unit at LUN 0 and a session; beside them `idle` other sessions and units
    /// that nobody uses.
    pub fn new(disk: Disk, digests: bool, idle: u16) -> Result<Self> {
        let (target, mut mails) = Target::new(disk, 1)?;
        let mut world = Self::bring_up(&target, mails.pop().context("a mesh of one core")?, idle)?;
        // The one that is measured comes last: it speaks.
        for n in 0..=idle {
            world.log_in(&format!("iqn.2026-01.org.example:me-{n}"), digests)?;
        }
        ensure!(world.core.iscsi.session_count() == usize::from(idle) + 1, "a session is missing");
        Ok(world)
    }

    /// One core of a target, in the thread that it will stay in, with a unit that is used, `idle` others that are not, and
    /// no session yet.
    pub fn bring_up(target: &Target, mail: Mail, idle: u16) -> Result<Self> {
        let (id, cores) = (mail.core(), mail.cores() as u8);
        let pool = SgvPool::new(id, target.arena.clone(), &target.limits.pool())?;
        let engine = Engine::new(target.limits.engine(id), pool);
        let iscsi = IscsiTransport::new(QuietNet::new(), id, cores, target.config.clone());
        let mut core = Core::new(id, cores, engine, iscsi);
        for n in 0..=idle {
            let (disk, bdev) = match n {
                0 => (target.disk, &target.bdev),
                _ => (Disk::Null, &Disk::Null.open(&target.arena)?),
            };
            let bound = disk.bind(&**bdev, id, &mut core.env())?;
            core.channels.open(ChannelId(n), bound);
            let (lu, channel) = (LuId(n.into()), ChannelId(n));
            core.engine.open_lu(LuSpec { lu, channel, ..unit(bdev.info()) });
        }
        core.engine.set_lun_map(1, &[(0, LuId(0), false)]);
        let now = Tick(1_000_000_000);
        Ok(Self {
            core,
            mail,
            now,
            digests: Digests::default(),
            cmd_sn: SerialNumber(0),
            exp_stat_sn: SerialNumber(0),
            max_cmd_sn: SerialNumber(0),
            places: Places::part(id.index() as u64, cores.into()),
            line: Vec::new(),
        })
    }

    fn net(&mut self) -> &mut QuietNet {
        self.core.iscsi.net_mut()
    }

    /// One turn as a reactor takes it: messages of other cores, all else, and what is posted to them made visible.
    pub fn turn(&mut self) {
        self.now = Tick(self.now.0 + 1000);
        if self.mail.begin() {
            while let Some((from, message)) = self.mail.take() {
                self.core.on_message(from, message, self.now);
            }
            self.mail.finish();
        }
        self.core.turn(self.now, &mut self.mail);
        self.mail.flush();
    }

    /// Connects and logs in; the other cores of the target must take turns meanwhile.
    pub fn log_in(&mut self, name: &str, digests: bool) -> Result<()> {
        let peer = "127.0.0.1:50000".parse()?;
        if self.core.iscsi.adopt((), 1, peer, PORTAL.parse()?, self.now).is_err() {
            bail!("the connection was not taken");
        }
        let mut config = Config::normal(name, TARGET);
        if digests {
            config.offers = config.offers.with("HeaderDigest", "CRC32C").with("DataDigest", "CRC32C");
        }
        let mut initiator = InitiatorConn::new(config, Duration::ZERO);
        // The home of the unit is asked, and may be another core.
        let begin = Instant::now();
        while begin.elapsed() < LOGIN_MAX {
            let output = initiator.output().to_vec();
            initiator.consume(output.len());
            self.net().say(&output);
            self.turn();
            let answer = std::mem::take(&mut self.net().outbound);
            if answer.is_empty() {
                std::thread::sleep(LOOK_AGAIN);
            }
            initiator.on_bytes(Duration::ZERO, &answer);
            while let Some(event) = initiator.next_event() {
                match event {
                    Event::LoggedIn { .. } => {
                        let (window, params) = (initiator.window(), initiator.params());
                        self.digests = Digests { header: params.header_digest, data: params.data_digest };
                        ensure!(self.digests.header == digests, "the digests asked for were not agreed on");
                        (self.cmd_sn, self.max_cmd_sn) = (window.cmd_sn, window.max_cmd_sn);
                        self.exp_stat_sn = initiator.exp_stat_sn();
                        return Ok(());
                    }
                    Event::LoginFailed { status, .. } => bail!("login refused: {status:?}"),
                    Event::Violation(violation) => bail!("{violation}"),
                    _ => {}
                }
            }
        }
        bail!("the login does not end")
    }

    /// Takes `turns` turns, in none of which anything is to be done.
    pub fn idle(&mut self, turns: u32) -> Result<()> {
        // What the logins left behind goes home first.
        self.turn();
        self.turn();
        let work = (0..turns).map(|_| self.turn_counted()).max();
        ensure!(work.unwrap_or(0) == 0, "{work:?} things were to be done in a turn");
        Ok(())
    }

    fn turn_counted(&mut self) -> u32 {
        self.now = Tick(self.now.0 + 1000);
        measured_turn(&mut self.core, self.now, &mut self.mail)
    }

    /// Runs `count` commands, `batch` in each turn, uncounted first and then counted.
    pub fn run(&mut self, ask: Ask, count: u32, batch: u32) -> Result<()> {
        self.warm_up(ask, batch, 64)?;
        let mut left = count;
        while left > 0 {
            let n = batch.min(left);
            self.batch(ask, n, true, false)?;
            left -= n;
        }
        Ok(())
    }

    /// Unit attentions, the growth of the window and of tables: what happens once, within so many turns.
    pub fn warm_up(&mut self, ask: Ask, batch: u32, turns: u32) -> Result<()> {
        for _ in 0..8 {
            self.batch(Ask::Nothing, 1, false, true)?;
        }
        self.net().keep_payload = false;
        self.net().move_payload = self.digests.data;
        for _ in 0..turns {
            let open = self.room();
            self.batch(ask, batch.min(open), false, false)?;
        }
        ensure!(self.room() >= batch, "the command window grew to {} and no further", self.room());
        Ok(())
    }

    /// So many commands in one turn, by nobody counted.
    pub fn commands(&mut self, ask: Ask, n: u32) -> Result<()> {
        self.batch(ask, n, false, false)
    }

    fn room(&self) -> u32 {
        u32::try_from(self.max_cmd_sn.next().diff(self.cmd_sn)).unwrap_or(0)
    }

    fn batch(&mut self, ask: Ask, n: u32, counted: bool, any_status: bool) -> Result<()> {
        ensure!(n > 0, "the command window is closed");
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        for tag in 0..n {
            self.command(ask, tag, &mut line);
        }
        self.net().outbound.clear();
        self.net().say(&line);
        let (mut answered, mut turns, mut begin) = (0, 0, None);
        while answered < n {
            turns += 1;
            if turns > 64 {
                // What another core has to say first takes as long as that core is away.
                let asked = *begin.get_or_insert_with(Instant::now);
                ensure!(!counted && asked.elapsed() < LOGIN_MAX, "{answered} of {n} commands were answered");
                std::thread::sleep(LOOK_AGAIN);
            }
            if counted {
                self.now = Tick(self.now.0 + 1000);
                measured_turn(&mut self.core, self.now, &mut self.mail);
            } else {
                self.turn();
            }
            let answers = std::mem::take(&mut self.net().outbound);
            line.clear();
            answered += self.take_in(&answers, any_status, &mut line)?;
            self.net().outbound = answers;
            self.net().outbound.clear();
            self.net().say(&line);
        }
        // Vectors that were lent for sending go home, as they would in the next turn.
        if !counted {
            self.turn();
        }
        self.line = line;
        Ok(())
    }

    fn command(&mut self, ask: Ask, tag: u32, line: &mut Vec<u8>) {
        let write = matches!(ask, Ask::Write | Ask::WriteSolicited);
        let mut cdb = [0; 16];
        let edtl = if ask == Ask::Nothing {
            0
        } else {
            cdb[0] = if write { 0x2A } else { 0x28 };
            cdb[2..6].copy_from_slice(&self.places.next().to_be_bytes());
            cdb[7..9].copy_from_slice(&((BYTES / BLOCK) as u16).to_be_bytes());
            BYTES
        };
        let data_len = if ask == Ask::Write { BYTES } else { 0 };
        let pdu = ScsiCommand {
            immediate: false,
            is_final: true,
            read: ask == Ask::Read,
            write,
            attr: TaskAttribute::Simple,
            priority: 0,
            ahs_words: 0,
            data_len,
            lun: [0; 8],
            itt: Itt(tag),
            edtl,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb,
        };
        self.cmd_sn = self.cmd_sn.next();
        self.push(line, &pdu.to_bhs(), data_len);
    }

    fn push(&self, line: &mut Vec<u8>, header: &Bhs, data_len: u32) {
        line.extend_from_slice(header);
        if self.digests.header {
            line.extend_from_slice(&spindle_initiator::crc32c(header));
        }
        if data_len > 0 {
            let start = line.len();
            line.resize(start + data_len as usize, 0x5A);
            if self.digests.data {
                let digest = spindle_initiator::crc32c(&line[start..]);
                line.extend_from_slice(&digest);
            }
        }
    }

    /// Reads the answers; R2Ts are answered into `line`. Returns how many commands ended.
    fn take_in(&mut self, mut answers: &[u8], any_status: bool, line: &mut Vec<u8>) -> Result<u32> {
        let mut ended = 0;
        while let Some(header) = answers.first_chunk::<48>() {
            let keeps = self.core.iscsi.net().keep_payload;
            // The payload of Data-In was not written out; other segments (sense) were.
            let is_data_in = TargetOpcode::of(header) == Some(TargetOpcode::DataIn);
            let mut total = bhs::pdu_bytes(header, self.digests) as usize;
            if is_data_in && !keeps {
                total -= bhs::data_bytes(header) as usize;
            }
            let status = match TargetOpcode::of(header) {
                Some(TargetOpcode::DataIn) => {
                    let pdu = DataIn::parse(header)?;
                    let end = pdu.status.context("status comes with the data of a short read")?;
                    self.saw(end.stat_sn, pdu.max_cmd_sn);
                    Some(end.status)
                }
                Some(TargetOpcode::ScsiResponse) => {
                    let pdu = ScsiResponse::parse(header)?;
                    self.saw(pdu.stat_sn, pdu.max_cmd_sn);
                    Some(pdu.status)
                }
                Some(TargetOpcode::R2t) => {
                    let r2t = R2t::parse(header);
                    let pdu = DataOut {
                        is_final: true,
                        data_len: r2t.desired_len,
                        lun: r2t.lun,
                        itt: r2t.itt,
                        ttt: r2t.ttt,
                        exp_stat_sn: self.exp_stat_sn,
                        data_sn: SerialNumber(0),
                        buffer_offset: r2t.buffer_offset,
                    };
                    self.push(line, &pdu.to_bhs(), r2t.desired_len);
                    None
                }
                other => bail!("{other:?} was not expected"),
            };
            if let Some(status) = status {
                ensure!(any_status || status == 0, "a command ended with status {status:02x}");
                ended += 1;
            }
            answers = answers.get(total..).context("an answer was cut off")?;
        }
        Ok(ended)
    }

    fn saw(&mut self, stat_sn: SerialNumber, max_cmd_sn: SerialNumber) {
        self.exp_stat_sn = stat_sn.next();
        if max_cmd_sn.gt(self.max_cmd_sn) {
            self.max_cmd_sn = max_cmd_sn;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_command_is_answered_on_every_disk() {
        for disk in [Disk::Null, Disk::Ram, Disk::Slow] {
            for digests in [false, true] {
                for ask in [Ask::Read, Ask::Write, Ask::WriteSolicited, Ask::Nothing] {
                    let mut world = World::new(disk, digests, 0).unwrap();
                    world.run(ask, 100, 8).unwrap_or_else(|e| panic!("{disk:?} {digests} {ask:?}: {e:#}"));
                    world.run(ask, 70, 32).unwrap();
                }
            }
        }
    }
}
