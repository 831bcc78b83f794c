//! One command at a time through the engine: any CDB with any parameter list, and a disk that may fail.
//!
//! This module stands where the transport and the device stand, and holds the engine against both seams: status,
//! residuals and sense fit each other; nothing is asked of the device beyond its end or beyond the buffer; every byte
//! of Data-In was written by somebody; and after each command its task and its memory are back.

use spindle_bdev::{BdevInfo, BlockError, BlockIo, ChannelId, IoDone, IoResult, Op, Provisioning};
use spindle_mem::{PoolConfig, Sgv, SgvPool};
use spindle_reactor::{CoreId, Tick};
use spindle_scsi::{ControlEvent, Engine, EngineConfig, LuId, LuIdentity, LuSpec};
use spindle_scsi_port::{
    Admit, Command, Expected, Mid, NexusId, NexusInfo, Outcome, PortEffect, ReceiveError, Residual, TaskAttr,
    TaskId, TaskTag, TransportKind,
};
use spindle_scsi_spec::{Lun, Sense, SenseFormat, Status};

use crate::input::{Input, long, short};
use crate::session::peer::{clean, is_poisoned};
use crate::spec::cdbs;

const LU: LuId = LuId(7);
const CHANNEL: ChannelId = ChannelId(3);
/// Bytes of the disk.
const DISK_BYTES: usize = 256 << 10;
/// Commands of one input.
const COMMANDS_MAX: u32 = 32;
/// What happens between a command and its answer.
const STEPS_MAX: u32 = 10_000;

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(choice) = input.byte() else { return };
    let mut bench = Bench::new(choice);
    for _ in 0..COMMANDS_MAX {
        if bench.command(&mut input).is_none() {
            break;
        }
    }
    bench.end();
}

struct Bench {
    engine: Engine,
    nexuses: [NexusId; 2],
    disk: Vec<u8>,
    block: usize,
    can_store: bool,
    /// What the disk answers, if it fails.
    fail: Option<BlockError>,
    answer: Option<(Outcome, Vec<u8>)>,
    landed: Option<(TaskId, Sgv)>,
    gone: u32,
    next: u32,
}

impl Bench {
    fn new(choice: u8) -> Bench {
        let vectors = if choice & 4 != 0 { [2, 1, 1, 0, 0, 0] } else { [4, 2, 2, 1, 0, 0] };
        let pool = PoolConfig { vectors, lent: [0; 3], shares: 4, poison: true };
        let pool = SgvPool::new(CoreId(0), crate::session::world::arena(), &pool).expect("it fits the arena");
        let config = EngineConfig {
            tasks_max: 32,
            nexuses_max: 2,
            transfer_bytes_max: 128 << 10,
            window_min: 4,
            window_max: 8,
            immediate_share: 4,
            shares: 4,
            tmfs_max: 4,
            ..EngineConfig::new(CoreId(0), 1)
        };
        let mut engine = Engine::new(config, pool);
        let block = if choice & 1 == 0 { 512 } else { 4096 };
        let info = BdevInfo {
            name: "d".into(),
            uuid: *b"0123456789abcdef",
            block_bytes: block,
            physical_exponent: 3,
            lowest_aligned: 0,
            blocks: DISK_BYTES as u64 / u64::from(block),
            write_cache: choice & 2 != 0,
            read_only: choice & 8 != 0,
            rotation_rate: 1,
            unmap: choice & 16 == 0,
            unmap_zeroes: true,
            unmap_granularity: 1,
            unmap_alignment: 0,
            optimal_granularity: 8,
            optimal_transfer: 64,
            transfer_max: 256,
            lends: false,
        };
        let can_store = choice & 32 != 0;
        engine.open_lu(LuSpec {
            lu: LU,
            channel: CHANNEL,
            identity: LuIdentity::of_uuid(info.uuid),
            info,
            home: CoreId(0),
            tst_shared: choice & 64 != 0,
            write_protect: false,
            can_store,
            saved_modes: None,
            saved_reservations: None,
        });
        engine.set_lun_map(1, &[(0, LU, false), (2, LU, choice & 128 != 0)]);
        let mut up = |name: u8| {
            let id = engine.nexus_up(Box::new(nexus(name))).expect("there is room for two");
            assert!(engine.grant(id, 8) >= 4);
            id
        };
        let nexuses = [up(1), up(2)];
        let mut bench = Bench {
            engine,
            nexuses,
            disk: vec![0; DISK_BYTES],
            block: block as usize,
            can_store,
            fail: None,
            answer: None,
            landed: None,
            gone: 0,
            next: 0,
        };
        bench.settle();
        bench
    }

    /// One command from its arrival to its end. `None`: the program is over.
    fn command(&mut self, input: &mut Input<'_>) -> Option<()> {
        let [how, fail] = input.array()?;
        let read = u32::from(input.u16()?) << (how & 3);
        let given = input.short()?;
        let data = clean(input.long()?);
        // A large Data-Out out of few bytes.
        let repeat = if how & 4 != 0 { 64 } else { 1 };
        let data = data.repeat(repeat);
        let mut cdb = given.to_vec();
        cdb.resize(cdb.len().max(16), 0);
        self.fail = error(fail);
        let unsolicited = if how & 8 != 0 { data.len() as u32 / 2 } else { 0 };
        let command = Command {
            nexus: self.nexuses[usize::from(how >> 4 & 1)],
            lun: Lun([0, 0, 2, 9][usize::from(how >> 5 & 3)] << 48),
            tag: TaskTag(self.next.into()),
            cookie: self.next,
            attr: [TaskAttr::Simple, TaskAttr::Ordered][usize::from(how >> 7)],
            cdb: &cdb,
            expected: Expected { read, write: data.len() as u32, unsolicited },
        };
        self.next += 1;
        let broken = fail & 0x80 != 0;
        match self.engine.command(&command) {
            Admit::NoData(_) => {}
            Admit::Land(task, buf) => self.land(task, buf, &data, broken),
            Admit::Wait { task, wanted } => {
                assert!(wanted > 0 && wanted as usize <= data.len(), "{wanted} of {} bytes", data.len());
                self.settle();
                let (landed, buf) = self.landed.take().expect("memory is free: nobody else has any");
                assert_eq!((landed, buf.len()), (task, wanted));
                self.land(task, buf, &data, broken);
            }
            Admit::Swallow(task) => self.engine.swallowed(task),
            Admit::Refused => panic!("a command within the grant finds a slot"),
        }
        self.settle();
        let (outcome, bytes) = self.answer.take().expect("a command is answered");
        check(&command, &outcome, &bytes, data.len());
        assert_eq!(self.engine.tasks_alive(), 0, "a task that was answered is over");
        Some(())
    }

    fn land(&mut self, task: TaskId, mut buf: Sgv, data: &[u8], broken: bool) {
        assert!(!buf.is_empty() && buf.len() as usize <= data.len(), "{} of {} bytes", buf.len(), data.len());
        if broken {
            self.engine.receive_failed(task, Some(buf), ReceiveError::Digest);
            return;
        }
        buf.copy_from(0, &data[..buf.len() as usize]);
        self.engine.received(task, buf);
    }

    /// Lets everything happen.
    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            if self.engine.effects().is_empty() {
                return;
            }
            let fx = std::mem::take(self.engine.effects());
            for (channel, io) in fx.io {
                assert_eq!(channel, CHANNEL);
                let done = self.device(io);
                self.engine.on_io(done);
            }
            for effect in fx.port {
                self.perform(effect);
            }
            assert!(fx.core.is_empty(), "there is one core");
            for event in fx.control {
                let ControlEvent::Store { lu, ticket, .. } = event else { panic!("nobody closed the unit") };
                assert!(self.can_store, "stored without a place to store");
                // A store may fail as well as a disk.
                self.engine.stored(lu, ticket, self.fail.is_none());
            }
        }
        panic!("it never ends");
    }

    fn perform(&mut self, effect: PortEffect) {
        match effect {
            PortEffect::Land { task, buf, .. } => self.landed = Some((task, buf)),
            PortEffect::Respond { task, cookie, outcome, data, .. } => {
                assert_eq!(cookie + 1, self.next, "an answer to another command");
                assert!(self.answer.is_none(), "a command is answered once");
                let bytes = data.map_or(Vec::new(), |(buf, len)| {
                    assert!(len > 0 && len <= buf.len());
                    let mut bytes = vec![0; len as usize];
                    buf.copy_to(0, &mut bytes);
                    self.engine.returned(buf);
                    bytes
                });
                self.answer = Some((outcome, bytes));
                self.engine.responded(task);
            }
            PortEffect::NexusGone { .. } => self.gone += 1,
            // PREEMPT AND ABORT finds nobody else's tasks here.
            PortEffect::Revoke { task, .. } => panic!("nobody aborts {task:?}"),
            PortEffect::TmfDone { .. } => panic!("nobody asked"),
            PortEffect::NexusReady { .. } => panic!("nobody is expected"),
            PortEffect::Notify { .. } => {}
        }
    }

    /// The disk does what it is told, or says that it cannot.
    fn device(&mut self, mut io: BlockIo) -> IoDone {
        let blocks = (self.disk.len() / self.block) as u64;
        if io.op != Op::Flush {
            let end = io.lba.checked_add(io.blocks.into()).expect("an extent that can be counted");
            assert!(end <= blocks, "{:?} of blocks {} to {end} of {blocks}", io.op, io.lba);
        }
        let bytes = io.blocks as usize * self.block;
        if let Some(buf) = &io.data
            && matches!(io.op, Op::Read | Op::Write)
        {
            assert!(io.at as usize + bytes <= buf.len() as usize, "{:?} beyond its buffer", io.op);
        }
        if let Some(error) = self.fail {
            return IoDone::of(io, IoResult::Err(error));
        }
        let from = io.lba as usize * self.block;
        let result = match io.op {
            Op::Read => {
                let buf = io.data.as_mut().expect("this disk lends nothing");
                buf.copy_from(io.at, &self.disk[from..from + bytes]);
                IoResult::Ok
            }
            Op::Write => {
                let buf = io.data.as_ref().expect("a write has data");
                buf.copy_to(io.at, &mut self.disk[from..from + bytes]);
                IoResult::Ok
            }
            Op::Unmap | Op::WriteZeroes => {
                self.disk[from..from + bytes].fill(0);
                IoResult::Ok
            }
            Op::Flush | Op::Verify => IoResult::Ok,
            Op::Extent => {
                assert!(io.blocks > 0, "an extent of nothing has no state");
                let state = if io.lba & 8 == 0 { Provisioning::Mapped } else { Provisioning::Deallocated };
                IoResult::Extent { state, blocks: io.blocks.min(8 - (io.lba & 7) as u32) }
            }
        };
        IoDone::of(io, result)
    }

    fn end(mut self) {
        for nexus in self.nexuses {
            self.engine.nexus_lost(nexus);
        }
        self.settle();
        self.engine.on_tick(Tick(1));
        self.settle();
        assert_eq!(self.gone, 2, "a nexus without tasks goes at once");
        assert_eq!(self.engine.list_tasks(), []);
        assert_eq!(self.engine.stats().stray_completions, 0);
        assert!(self.engine.pool_mut().is_full(), "memory is missing");
    }
}

/// Status, residuals, sense and data fit each other and the command.
fn check(c: &Command<'_>, outcome: &Outcome, data: &[u8], offered: usize) {
    let shown = || format!("{:02x?} {:?} {outcome:?} {} bytes", c.cdb, c.expected, data.len());
    let (read, write) = (u64::from(c.expected.read), u64::from(c.expected.write));
    assert!(data.len() as u64 <= read, "more Data-In than expected: {}", shown());
    assert!(!is_poisoned(data), "memory that nobody wrote: {}", shown());
    let (in_residual, out_residual) = match (read, write) {
        (0, 0) => {
            let nothing_left = !matches!(outcome.residual, Residual::Underflow(_));
            assert!(nothing_left, "an underflow of nothing: {}", shown());
            (Residual::None, Residual::None)
        }
        (_, 0) => (outcome.residual, Residual::None),
        (0, _) => (Residual::None, outcome.residual),
        // RFC 7143 §11.4.5: the second residual is that of the Data-In.
        _ => (outcome.residual_in, outcome.residual),
    };
    for (residual, expected) in [(in_residual, read), (out_residual, write)] {
        match residual {
            Residual::None => {}
            Residual::Underflow(n) => assert!(n > 0 && u64::from(n) <= expected, "{}", shown()),
            Residual::Overflow(n) => assert!(n > 0, "{}", shown()),
        }
    }
    let good = outcome.status == Status::Good;
    if read > 0 && good {
        let moved = match in_residual {
            Residual::Underflow(n) => read - u64::from(n),
            _ => read,
        };
        assert_eq!(data.len() as u64, moved, "{}", shown());
    }
    let checked = outcome.status == Status::CheckCondition;
    assert_eq!(outcome.sense.is_some(), checked, "sense data and CHECK CONDITION go together: {}", shown());
    if let Some(sense) = &outcome.sense {
        check_sense(sense, c, offered);
    }
}

fn check_sense(sense: &Sense, c: &Command<'_>, offered: usize) {
    for format in [SenseFormat::Fixed, SenseFormat::Descriptor] {
        let mut room = [0; Sense::MAX_BYTES];
        let n = sense.emit_into(format, &mut room);
        let again = Sense::parse(&room[..n]).expect("sense data can be read");
        assert_eq!((again.key, again.asc), (sense.key, sense.asc));
    }
    if let Some(at) = sense.field() {
        assert!(at.bit.is_none_or(|bit| bit < 8), "{sense:?}");
        let length = if at.in_cdb { c.cdb.len() } else { offered };
        assert!(usize::from(at.byte) < length, "{sense:?} points beyond {length} bytes: {:02x?}", c.cdb);
    }
}

fn error(code: u8) -> Option<BlockError> {
    Some(match code & 15 {
        1 => BlockError::OutOfRange,
        2 => BlockError::MediumRead,
        3 => BlockError::MediumWrite,
        4 => BlockError::ReadOnly,
        5 => BlockError::NoSpace,
        6 => BlockError::FlushLost,
        7 => BlockError::Unsupported,
        8 => BlockError::Gone,
        9 => BlockError::Aborted,
        10 => BlockError::TimedOut,
        11 => BlockError::Os(5),
        _ => return None,
    })
}

fn nexus(name: u8) -> NexusInfo {
    NexusInfo {
        transport: TransportKind::Iscsi,
        initiator_name: format!("iqn.2026-01.org.example:i{name}"),
        initiator_session: [0x80, 0, 0, 0, 0, name],
        target_name: "iqn.2026-01.org.example:t".into(),
        target: 1,
        target_port: 1,
        lun_map: 1,
        peer_address: String::new(),
    }
}

/// Every CDB that is served, with data that fits and with none; reservations of two nexuses.
pub fn seeds() -> Vec<Vec<u8>> {
    let command = |how: u8, fail: u8, read: u16, cdb: &[u8], data: &[u8]| {
        [&[how, fail][..], &read.to_be_bytes(), &short(cdb), &long(data)].concat()
    };
    let ready = [command(0, 0, 0, &[0; 6], &[]), command(16, 0, 0, &[0; 6], &[])].concat();
    let mut seeds = Vec::new();
    for (n, cdb) in cdbs().iter().enumerate() {
        let choice = n as u8 & 3;
        let mut seed = [&[choice][..], &ready].concat();
        seed.extend(command(0, 0, 4096, cdb, &[]));
        seed.extend(command(4, 0, 0, cdb, &[0x11; 64]));
        seed.extend(command(0, 2, 512, cdb, &[]));
        seed.extend(command(8, 3, 0, cdb, &[0x22; 24]));
        seeds.push(seed);
    }
    let key = |old: u8, new: u8, flags: u8| {
        let mut list = [0; 24];
        (list[7], list[15], list[20]) = (old, new, flags);
        list
    };
    let out = |action: u8, kind: u8| [0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0];
    for choice in [0, 32, 64] {
        let mut seed = [&[choice][..], &ready].concat();
        seed.extend(command(0, 0, 0, &out(0, 0), &key(0, 1, 1)));
        seed.extend(command(16, 0, 0, &out(6, 0), &key(0, 2, 0)));
        seed.extend(command(0, 0, 0, &out(1, 1), &key(1, 0, 0)));
        seed.extend(command(16, 0, 0, &[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[7; 512]));
        seed.extend(command(16, 0, 0, &out(5, 1), &key(2, 1, 0)));
        seed.extend(command(0, 0, 255, &[0x5E, 3, 0, 0, 0, 0, 0, 1, 0, 0], &[]));
        seed.extend(command(0, 0, 0, &out(3, 0), &key(1, 0, 0)));
        seeds.push(seed);
    }
    seeds
}
