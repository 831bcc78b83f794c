//! A bench for engines: several cores, a transport that keeps its part of the seam, a disk that can be told when to
//! answer. Everything that may happen next stands in a list, so that a test can choose, or a seed can.

mod at_once;
mod attentions;
mod both_ways;
mod describing;
mod flushes;
mod gates;
mod made;
mod moves;
mod reservations;
mod steps;
mod storm;
mod task_management;
mod way;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use spindle_bdev::{
    BdevInfo, BlockError, BlockIo, ChannelId, IoDone, IoFlags, IoKey, IoResult, Op, Provisioning,
};
use spindle_mem::{Arena, ArenaConfig, PoolConfig, Sgv, SgvPool, ShareId};
use spindle_reactor::{CoreId, Tick};
use spindle_scsi_port::{
    Admit, Command, Expected, Mid, NexusId, PortEffect, ReceiveError, Refusal, Residual, TaskAttr, TaskId,
    TaskTag, Tmf, TmfFunction, TmfId, TmfResponse,
};
use spindle_scsi_spec::cdb::{Family, Read, Write};
use spindle_scsi_spec::{Asc, Lun, LunMethod, Sense, SenseKey, Status};

use crate::device_server::fixture;
use crate::{ControlEvent, Engine, EngineConfig, LuId, LuSpec, ScsiMsg};
pub use made::{TUR, blocks, compare_and_write, nexus_info, persistent_out, pr_list, read, spec, write};

pub const BLOCK: usize = 512;
pub const LU: LuId = LuId(7);
pub const DISK_BLOCKS: u64 = 1024;

/// A command as the transport sees it.
pub struct Cmd {
    pub nexus: NexusId,
    pub lun: u32,
    pub attr: TaskAttr,
    pub task: Option<TaskId>,
    pub out: Vec<u8>,
    pub state: State,
    pub answer: Option<Answer>,
    /// Revoked: the transport has forgotten it.
    pub revoked: bool,
}

#[derive(Debug)]
pub enum State {
    Refused,
    /// The engine has everything.
    Sent,
    Waits(u32),
    Landed(Sgv),
    Swallows,
    Over,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    pub status: Status,
    pub sense: Option<Sense>,
    pub residual: Residual,
    pub data: Vec<u8>,
}

impl Answer {
    /// GOOD, and all that was expected has moved.
    pub fn good(data: Vec<u8>) -> Answer {
        Answer { status: Status::Good, sense: None, residual: Residual::None, data }
    }

    pub fn asc(&self) -> Option<(SenseKey, Asc)> {
        self.sense.map(|s| (s.key, s.asc))
    }
}

/// Something that may happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The oldest message between two cores arrives.
    Mail(u8, u8),
    /// A device operation ends: core, place in the list.
    Io(u8, usize),
    /// Data-Out of a command is complete.
    Fill(usize),
    /// Data-Out of a command is damaged on the way.
    FillFails(usize),
    /// Unwanted Data-Out has passed.
    Swallow(usize),
    /// A status stands in the send order.
    Responded(usize),
    /// Memory that was sent from is free.
    Returned(usize),
    /// A `Revoke` is answered.
    Revoke(usize),
}

pub struct World {
    pub cores: Vec<Engine>,
    pub mail: HashMap<(u8, u8), VecDeque<ScsiMsg>>,
    pub io: Vec<Vec<BlockIo>>,
    pub hinted: Vec<IoKey>,
    pub disk: Vec<u8>,
    pub mapped: Vec<bool>,
    pub cmds: Vec<Cmd>,
    pub responding: Vec<(u8, TaskId, usize)>,
    pub sending: Vec<(u8, Sgv)>,
    pub revokes: Vec<(u8, TaskId, usize)>,
    pub tmfs: HashMap<u32, (NexusId, Option<TmfResponse>)>,
    pub next_tmf: u32,
    pub gone: Vec<NexusId>,
    /// Expected from another core, and known to all homes.
    pub ready: Vec<NexusId>,
    pub names: HashMap<NexusId, u8>,
    pub closed: Vec<(u8, LuId)>,
    /// Logical block, in bytes.
    pub block: usize,
    /// Commands do not take the usual way of READ and WRITE (`quick`).
    pub closely: bool,
    /// The device does reads and writes at once, as often as the engine asks it to.
    pub at_once: bool,
    /// How many it did.
    pub served: usize,
    /// The tag of the next command, if it is to be one of another.
    pub reuse: Option<TaskTag>,
    pub shrunk: Vec<u8>,
    pub stored: usize,
    pub refuses_to_store: bool,
    /// LUNs come and go, and with each a task set.
    pub maps_change: bool,
    /// The next operations of this kind fail.
    pub fail: Option<(Op, BlockError)>,
    /// Tasks with an operation that failed.
    pub failed: HashSet<(u8, TaskId)>,
    /// Operations that reached the disk, in order of completion.
    pub log: Vec<(Op, u64, u32, IoFlags)>,
}

pub const SMALL: [u32; 6] = [16, 8, 4, 0, 0, 0];

pub fn info() -> BdevInfo {
    BdevInfo { blocks: DISK_BLOCKS, ..fixture::disk() }
}

impl World {
    pub fn new(cores: u8) -> World {
        World::with(cores, SMALL, info(), false)
    }

    pub fn with(cores: u8, vectors: [u32; 6], info: BdevInfo, tst_shared: bool) -> World {
        let arena = Arena::new(ArenaConfig::plain(8 << 20, 64 << 20)).unwrap();
        let engines = (0..cores)
            .map(|core| {
                let config = PoolConfig { vectors, shares: 8, poison: true, ..PoolConfig::default() };
                let pool = SgvPool::new(CoreId(core), Arc::clone(&arena), &config).unwrap();
                let cfg = EngineConfig {
                    tasks_max: 256,
                    nexuses_max: 8,
                    shares: 8,
                    immediate_share: 16,
                    ..EngineConfig::new(CoreId(core), cores)
                };
                let mut engine = Engine::new(cfg, pool);
                engine.open_lu(spec(&info, tst_shared));
                engine.set_lun_map(1, &[(0, LU, false)]);
                engine
            })
            .collect::<Vec<_>>();
        World {
            cores: engines,
            mail: HashMap::new(),
            io: (0..cores).map(|_| Vec::new()).collect(),
            hinted: Vec::new(),
            disk: vec![0; DISK_BLOCKS as usize * info.block_bytes as usize],
            mapped: vec![true; DISK_BLOCKS as usize],
            cmds: Vec::new(),
            responding: Vec::new(),
            sending: Vec::new(),
            revokes: Vec::new(),
            tmfs: HashMap::new(),
            next_tmf: 1,
            gone: Vec::new(),
            ready: Vec::new(),
            names: HashMap::new(),
            closed: Vec::new(),
            block: info.block_bytes as usize,
            closely: false,
            at_once: false,
            served: 0,
            reuse: None,
            shrunk: Vec::new(),
            stored: 0,
            refuses_to_store: false,
            maps_change: false,
            fail: None,
            failed: HashSet::new(),
            log: Vec::new(),
        }
    }

    /// One core, one nexus whose power-on attention has been taken.
    pub fn ready() -> (World, NexusId) {
        let mut w = World::new(1);
        let n = w.nexus(0, 1);
        w.run();
        w.clear_attentions(n);
        (w, n)
    }

    pub fn engine(&mut self, core: u8) -> &mut Engine {
        &mut self.cores[usize::from(core)]
    }

    pub fn nexus(&mut self, core: u8, name: u8) -> NexusId {
        self.nexus_with(core, name, 128)
    }

    pub fn nexus_with(&mut self, core: u8, name: u8, window: u32) -> NexusId {
        let id = self.engine(core).nexus_up(Box::new(nexus_info(name))).unwrap();
        self.engine(core).grant(id, window);
        self.names.insert(id, name);
        self.drain(core);
        id
    }

    /// As iSCSI does, with a CDB of sixteen bytes.
    pub fn send(&mut self, nexus: NexusId, cdb: &[u8], read: u32, out: &[u8]) -> usize {
        let mut padded = [0; 16];
        padded[..cdb.len()].copy_from_slice(cdb);
        self.send_as(nexus, 0, TaskAttr::Simple, &padded, read, out)
    }

    pub fn send_as(
        &mut self,
        nexus: NexusId,
        lun: u32,
        attr: TaskAttr,
        cdb: &[u8],
        read: u32,
        out: &[u8],
    ) -> usize {
        self.send_to(nexus, lun, LunMethod::Peripheral, attr, cdb, read, out)
    }

    #[allow(clippy::too_many_arguments)]
    pub fn send_to(
        &mut self,
        nexus: NexusId,
        lun: u32,
        method: LunMethod,
        attr: TaskAttr,
        cdb: &[u8],
        read: u32,
        out: &[u8],
    ) -> usize {
        let at = self.cmds.len();
        let cookie = at as u32;
        let command = Command {
            nexus,
            lun: Lun::single_level(lun, method).unwrap(),
            tag: self.reuse.take().unwrap_or(TaskTag(at as u64)),
            cookie,
            attr,
            cdb,
            expected: Expected { read, write: out.len() as u32, unsolicited: 0 },
        };
        let core = nexus.core();
        if let Some(data) = self.read_at_once(&command) {
            let answer = Answer::good(data.to_vec());
            self.sending.push((core, data));
            let (out, answer) = (Vec::new(), Some(answer));
            self.cmds.push(Cmd {
                nexus,
                lun,
                attr,
                task: None,
                out,
                state: State::Over,
                answer,
                revoked: false,
            });
            return at;
        }
        let closely = self.closely;
        let engine = self.engine(core);
        let admit = if closely { engine.command_closely(&command) } else { engine.command(&command) };
        let (task, state) = match admit {
            Admit::NoData(task) => (Some(task), State::Sent),
            Admit::Land(task, buf) => (Some(task), State::Landed(buf)),
            Admit::Wait { task, wanted } => {
                assert!(wanted > 0 && wanted <= out.len() as u32);
                (Some(task), State::Waits(wanted))
            }
            Admit::Swallow(task) => (Some(task), State::Swallows),
            Admit::Refused => (None, State::Refused),
        };
        self.cmds.push(Cmd {
            nexus,
            lun,
            attr,
            task,
            out: out.to_vec(),
            state,
            answer: None,
            revoked: false,
        });
        self.drain(core);
        at
    }

    /// Sends a command, lets everything happen, and gives the answer.
    pub fn ask(&mut self, nexus: NexusId, cdb: &[u8], read: u32, out: &[u8]) -> Answer {
        let at = self.send(nexus, cdb, read, out);
        self.run();
        self.cmds[at].answer.clone().unwrap_or_else(|| panic!("no answer to {cdb:02X?}"))
    }

    pub fn tmf(&mut self, nexus: NexusId, function: TmfFunction) -> u32 {
        let id = self.next_tmf;
        self.next_tmf += 1;
        self.tmfs.insert(id, (nexus, None));
        let core = nexus.core();
        self.engine(core).task_management(&Tmf { id: TmfId(id), nexus, lun: Lun::ZERO, function });
        self.drain(core);
        id
    }

    pub fn tmf_answer(&self, id: u32) -> Option<TmfResponse> {
        self.tmfs[&id].1
    }

    pub fn lose(&mut self, nexus: NexusId) {
        self.engine(nexus.core()).nexus_lost(nexus);
        self.drain(nexus.core());
    }

    pub fn clear_attentions(&mut self, nexus: NexusId) {
        for _ in 0..20 {
            if self.ask(nexus, &TUR, 0, &[]).status == Status::Good {
                return;
            }
        }
        panic!("unit attentions without end");
    }

    /// Carries out what an engine wants, as far as that is not left to chance.
    pub fn drain(&mut self, core: u8) {
        let fx = std::mem::take(self.engine(core).effects());
        for effect in fx.port {
            self.perform(core, effect);
        }
        for (channel, io) in fx.io {
            assert_eq!(channel, ChannelId(3));
            self.assert_order(core, &io);
            self.io[usize::from(core)].push(io);
        }
        self.hinted.extend(fx.aborts.into_iter().map(|(_, key)| key));
        for (to, msg) in fx.core {
            assert_ne!(to.0, core, "a core does not send itself messages");
            self.mail.entry((core, to.0)).or_default().push_back(msg);
        }
        for event in fx.control {
            match event {
                ControlEvent::LuClosed { lu } => self.closed.push((core, lu)),
                ControlEvent::LuShrunk { .. } => self.shrunk.push(core),
                ControlEvent::Store { lu, ticket, .. } => {
                    self.stored += 1;
                    let ok = !self.refuses_to_store;
                    self.engine(core).stored(lu, ticket, ok);
                    self.drain(core);
                }
            }
        }
    }

    /// An ORDERED command goes to the device only when no older one of its nexus is there.
    fn assert_order(&self, core: u8, io: &BlockIo) {
        let of = |io: &BlockIo| {
            let task = crate::task::of_io_key(io.key).0;
            let mine = |c: &Cmd| c.nexus.core() == core && c.task == Some(task) && c.answer.is_none();
            self.cmds.iter().rposition(mine)
        };
        let Some(this) = of(io) else { return };
        if self.cmds[this].attr == TaskAttr::Ordered {
            for other in self.io[usize::from(core)].iter().filter_map(of) {
                let same = self.cmds[other].nexus == self.cmds[this].nexus;
                assert!(
                    !same || self.maps_change || other >= this,
                    "command {other} is older than ORDERED {this}"
                );
            }
        }
    }

    fn perform(&mut self, core: u8, effect: PortEffect) {
        match effect {
            PortEffect::Land { task, cookie, nexus, buf } => {
                let cmd = &mut self.cmds[cookie as usize];
                assert_eq!((cmd.task, cmd.nexus), (Some(task), nexus));
                let State::Waits(wanted) = cmd.state else { panic!("Land for a command in {:?}", cmd.state) };
                assert_eq!(buf.len(), wanted);
                cmd.state = State::Landed(buf);
            }
            PortEffect::Respond { task, cookie, nexus, outcome, data } => {
                let cmd = &mut self.cmds[cookie as usize];
                assert_eq!((cmd.task.unwrap_or(task), cmd.nexus), (task, nexus));
                assert!(cmd.answer.is_none(), "a command is answered once");
                assert!(!cmd.revoked, "a revoked command is not answered");
                let failed = self.failed.contains(&(core, task));
                assert!(!failed || outcome.status != Status::Good, "what the device failed is not GOOD");
                assert!(
                    !matches!(cmd.state, State::Landed(_)),
                    "a command whose buffer the transport has is not answered"
                );
                let bytes = data.as_ref().map_or(Vec::new(), |(buf, len)| {
                    assert!(*len > 0 && *len <= buf.len());
                    let mut bytes = vec![0; *len as usize];
                    buf.copy_to(0, &mut bytes);
                    bytes
                });
                cmd.answer = Some(Answer {
                    status: outcome.status,
                    sense: outcome.sense.map(|s| *s),
                    residual: outcome.residual,
                    data: bytes,
                });
                cmd.state = State::Over;
                self.responding.push((core, task, cookie as usize));
                if let Some((buf, _)) = data {
                    self.sending.push((core, buf));
                }
            }
            PortEffect::Revoke { task, cookie, nexus } => {
                let cmd = &mut self.cmds[cookie as usize];
                assert_eq!(cmd.nexus, nexus);
                assert!(cmd.answer.is_none(), "what was answered is not revoked");
                assert!(!cmd.revoked, "a command is revoked once");
                cmd.revoked = true;
                self.revokes.push((core, task, cookie as usize));
            }
            PortEffect::TmfDone { id, nexus, response } => {
                let (asked, answer) = self.tmfs.get_mut(&id.0).unwrap();
                assert_eq!(*asked, nexus);
                assert!(answer.is_none(), "a function is answered once");
                *answer = Some(response);
            }
            PortEffect::NexusGone { nexus } => self.gone.push(nexus),
            PortEffect::NexusReady { nexus } => self.ready.push(nexus),
            PortEffect::Notify { .. } => {}
        }
    }

    /// Everything that may happen now.
    pub fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut pairs: Vec<_> = self.mail.iter().filter(|(_, q)| !q.is_empty()).map(|(p, _)| *p).collect();
        pairs.sort_unstable();
        events.extend(pairs.into_iter().map(|(from, to)| Event::Mail(from, to)));
        for (core, list) in self.io.iter().enumerate() {
            events.extend((0..list.len()).map(|n| Event::Io(core as u8, n)));
        }
        for (n, cmd) in self.cmds.iter().enumerate() {
            match cmd.state {
                State::Landed(_) if !cmd.revoked => events.push(Event::Fill(n)),
                State::Swallows if !cmd.revoked => events.push(Event::Swallow(n)),
                _ => {}
            }
        }
        events.extend((0..self.responding.len()).map(Event::Responded));
        events.extend((0..self.sending.len()).map(Event::Returned));
        events.extend((0..self.revokes.len()).map(Event::Revoke));
        events
    }

    pub fn happen(&mut self, event: Event) {
        let core = match event {
            Event::Mail(from, to) => {
                let msg = self.mail.get_mut(&(from, to)).unwrap().pop_front().unwrap();
                self.engine(to).on_core(CoreId(from), msg);
                to
            }
            Event::Io(core, n) => {
                let io = self.io[usize::from(core)].remove(n);
                let done = self.device(core, io);
                if self.closely {
                    self.engine(core).io_ended(done)
                } else {
                    self.engine(core).on_io(done)
                }
                core
            }
            Event::Fill(n) => {
                let cmd = &mut self.cmds[n];
                let State::Landed(mut buf) = std::mem::replace(&mut cmd.state, State::Sent) else { panic!() };
                let len = buf.len() as usize;
                buf.copy_from(0, &cmd.out[..len]);
                let (task, core) = (cmd.task.unwrap(), cmd.nexus.core());
                if self.closely {
                    self.engine(core).received_closely(task, buf);
                } else if self.at_once {
                    if self.received_at_once(core, task, buf) {
                        let answer = Answer::good(Vec::new());
                        let cmd = &mut self.cmds[n];
                        (cmd.state, cmd.answer) = (State::Over, Some(answer));
                    }
                } else {
                    self.engine(core).received(task, buf);
                }
                core
            }
            Event::FillFails(n) => {
                let cmd = &mut self.cmds[n];
                let State::Landed(buf) = std::mem::replace(&mut cmd.state, State::Sent) else { panic!() };
                let (task, core) = (cmd.task.unwrap(), cmd.nexus.core());
                self.engine(core).receive_failed(task, Some(buf), ReceiveError::Digest);
                core
            }
            Event::Swallow(n) => {
                let cmd = &mut self.cmds[n];
                cmd.state = State::Sent;
                let (task, core) = (cmd.task.unwrap(), cmd.nexus.core());
                self.engine(core).swallowed(task);
                core
            }
            Event::Responded(n) => {
                let (core, task, _) = self.responding.remove(n);
                if self.closely {
                    self.engine(core).responded_closely(task);
                } else {
                    self.engine(core).responded(task);
                }
                core
            }
            Event::Returned(n) => {
                let (core, buf) = self.sending.remove(n);
                self.engine(core).returned(buf);
                core
            }
            Event::Revoke(n) => {
                let (core, task, at) = self.revokes.remove(n);
                let buf = match std::mem::replace(&mut self.cmds[at].state, State::Over) {
                    State::Landed(buf) => Some(buf),
                    _ => None,
                };
                self.engine(core).revoked(task, buf);
                core
            }
        };
        self.drain(core);
    }

    /// Lets everything happen, oldest first, until nothing is left.
    pub fn run(&mut self) {
        self.run_but(|_| false);
    }

    /// The same, but what `held` names does not happen.
    pub fn run_but(&mut self, held: impl Fn(&Event) -> bool) {
        for _ in 0..100_000 {
            match self.events().into_iter().find(|e| !held(e)) {
                Some(event) => self.happen(event),
                None => return,
            }
        }
        panic!("it never ends");
    }

    /// The disk does what it is told.
    fn device(&mut self, core: u8, io: BlockIo) -> IoDone {
        if let Some((op, error)) = self.fail
            && op == io.op
        {
            self.failed.insert((core, crate::task::of_io_key(io.key).0));
            return IoDone::of(io, IoResult::Err(error));
        }
        self.log.push((io.op, io.lba, io.blocks, io.flags));
        let from = io.lba as usize * self.block;
        let bytes = if matches!(io.op, Op::Flush | Op::Extent) { 0 } else { io.blocks as usize * self.block };
        let to = from + bytes;
        let (first, end) = (io.lba as usize, io.lba as usize + bytes / self.block);
        match io.op {
            Op::Read => {
                let mut io = io;
                if io.data.is_none() {
                    // A device that lends: memory that the engine did not give.
                    io.data = self.engine(core).pool_mut().take(bytes as u32, ShareId(0));
                }
                let Some(buf) = io.data.as_mut() else {
                    self.failed.insert((core, crate::task::of_io_key(io.key).0));
                    return IoDone::of(io, IoResult::Err(BlockError::Os(12)));
                };
                buf.copy_from(io.at, &self.disk[from..to]);
                IoDone::of(io, IoResult::Ok)
            }
            Op::Write => {
                let buf = io.data.as_ref().unwrap();
                buf.copy_to(io.at, &mut self.disk[from..to]);
                self.mapped[first..end].fill(true);
                IoDone::of(io, IoResult::Ok)
            }
            Op::Unmap | Op::WriteZeroes => {
                self.disk[from..to].fill(0);
                let unmaps = io.op == Op::Unmap || io.flags.has(IoFlags::MAY_UNMAP);
                self.mapped[first..end].fill(!unmaps);
                IoDone::of(io, IoResult::Ok)
            }
            Op::Flush | Op::Verify => IoDone::of(io, IoResult::Ok),
            Op::Extent => {
                let mapped = self.mapped[first];
                let rest = self.mapped[first..].iter().take(io.blocks as usize);
                let blocks = rest.take_while(|m| **m == mapped).count() as u32;
                let state = if mapped { Provisioning::Mapped } else { Provisioning::Deallocated };
                IoDone::of(io, IoResult::Extent { state, blocks })
            }
        }
    }

    /// Nothing is left anywhere.
    pub fn assert_quiet(&mut self) {
        assert_eq!(self.events(), []);
        for core in 0..self.cores.len() {
            self.engine(core as u8).on_tick(Tick(1));
            self.drain(core as u8);
            assert_eq!(self.events(), []);
            let engine = &mut self.cores[core];
            assert_eq!(engine.list_tasks(), [], "tasks of core {core}");
            assert_eq!(engine.tmfs_pending(), 0);
            assert_eq!(engine.stats().stray_completions, 0);
            assert!(engine.pool_mut().is_full(), "memory of core {core} is missing");
        }
        assert!(self.tmfs.values().all(|(nexus, answer)| answer.is_some() || self.gone.contains(nexus)));
    }
}

impl Engine {
    /// A command on the way of those that are not usual, whatever it is.
    fn command_closely(&mut self, command: &Command<'_>) -> Admit {
        let admit = self.admit(command);
        self.settle();
        admit
    }
}
