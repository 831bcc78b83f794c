//! One core of the target with its disks, on a network in memory: the very code that the daemon runs, and no thread.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use spindle::message::ShardMsg;
use spindle::shard::Core;
use spindle_bdev::null::{NullBdev, NullConfig};
use spindle_bdev::ram::{RamBdev, RamConfig};
use spindle_bdev::{Bdev, ChannelId, DelayBdev, DelayForm, Delays, FaultBdev, Faults};
use spindle_iscsi::IscsiTransport;
use spindle_iscsi::config::{DigestPolicy, IscsiConfig, IscsiLimits};
use spindle_mem::{Arena, ArenaConfig, PoolConfig, SgvPool};
use spindle_reactor::mailbox::{Mailbox, Mesh};
use spindle_reactor::{CoreId, Tick};
use spindle_scsi::{Engine, EngineConfig, LuId, LuIdentity, LuSpec};

use super::net::FuzzNet;

/// The one target.
pub const TARGET: &str = "iqn.2026-01.org.example:disk";
/// Blocks of the RAM disk.
pub const RAM_BLOCKS: u64 = 1024;
/// Its unit.
pub const RAM: LuId = LuId(7);
const NULL: LuId = LuId(8);
const LUN_MAP: u32 = 1;

thread_local! {
    static ARENA: RefCell<Option<Arc<Arena>>> = const { RefCell::new(None) };
}

/// Memory that outlives the inputs: mapping it anew each time would be most of the work.
pub fn arena() -> Arc<Arena> {
    ARENA.with(|place| {
        let mut place = place.borrow_mut();
        let make = || Arena::new(ArenaConfig::plain(8 << 20, 64 << 20)).expect("eight megabytes can be had");
        place.get_or_insert_with(make).clone()
    })
}

/// The target.
pub struct World {
    /// Its core.
    pub core: Core<FuzzNet>,
    mail: Mailbox<ShardMsg<FuzzNet>>,
    /// The time.
    pub now: Tick,
    /// What its configuration is.
    pub config: IscsiConfig,
    /// Mistakes of the RAM disk.
    pub faults: Arc<Faults>,
    /// Its slowness.
    pub delays: Arc<Delays>,
    ram: Arc<dyn Bdev>,
}

impl World {
    /// A target whose limits are small, so that all of them are met. Bits of `choice`: a pool of five vectors,
    /// digests preferred, a slow disk, everything through R2T.
    pub fn new(choice: u8) -> World {
        let arena = arena();
        let vectors = if choice & 1 != 0 { [2, 2, 1, 0, 0, 0] } else { [6, 3, 2, 0, 0, 0] };
        let pool = PoolConfig { vectors, lent: [6, 2, 1], shares: 4, poison: true };
        let pool = SgvPool::new(CoreId(0), arena.clone(), &pool).expect("the arena holds a small pool");
        let engine = EngineConfig {
            tasks_max: 64,
            nexuses_max: 6,
            transfer_bytes_max: 64 << 10,
            window_min: 4,
            window_max: 16,
            immediate_share: 4,
            shares: 4,
            tmfs_max: 8,
            ..EngineConfig::new(CoreId(0), 1)
        };
        let config = config(choice);
        let iscsi = IscsiTransport::new(FuzzNet::default(), CoreId(0), 1, Arc::new(config.clone()));
        let mut core = Core::new(CoreId(0), 1, Engine::new(engine, pool), iscsi);
        let ram = RamConfig {
            name: "ram".into(),
            uuid: *b"0123456789abcdef",
            block_bytes: 512,
            blocks: RAM_BLOCKS,
            physical_exponent: 3,
            spares: Some(16),
        };
        let ram = Arc::new(RamBdev::new(&arena, ram).expect("the arena holds a small disk"));
        let ram = Arc::new(super::tripwire::Tripwire(ram));
        let slow = DelayBdev::new("slow", *b"1123456789abcdef", ram, Duration::ZERO, DelayForm::Queued);
        let delays = slow.delays().clone();
        if choice & 4 != 0 {
            delays.set(Duration::from_millis(20), DelayForm::Queued);
        }
        let faulty = FaultBdev::new("faulty", *b"2123456789abcdef", Arc::new(slow), 1);
        let faults = faulty.faults().clone();
        let ram: Arc<dyn Bdev> = Arc::new(faulty);
        let null = NullConfig {
            name: "null".into(),
            uuid: *b"3123456789abcdef",
            block_bytes: 4096,
            blocks: 1 << 33,
            physical_exponent: 0,
        };
        let null: Arc<dyn Bdev> = Arc::new(NullBdev::new(&arena, null).expect("the arena holds a page"));
        open(&mut core, RAM, ChannelId(0), &ram);
        open(&mut core, NULL, ChannelId(1), &null);
        let mail = Mesh::new(1, 16).remove(0);
        let mut world = World { core, mail, now: Tick(1_000_000_000), config, faults, delays, ram };
        world.set_luns(0);
        world
    }

    /// A map of LUNs: 0 is RAM, 1 is null; bits take them away or change them.
    pub fn set_luns(&mut self, choice: u8) {
        let mut luns = vec![];
        if choice & 1 == 0 {
            luns.push((0, RAM, choice & 4 != 0));
        }
        if choice & 2 == 0 {
            luns.push((1, NULL, false));
        }
        if choice & 8 != 0 {
            luns.push((300, RAM, true));
        }
        self.core.engine.set_lun_map(LUN_MAP, &luns);
    }

    /// The RAM disk becomes larger or smaller.
    pub fn resize(&mut self, blocks: u64) {
        let Ok(_) = self.ram.resize(Some(blocks)) else { return };
        self.core.engine.lu_changed(RAM, self.ram.info(), None);
    }

    /// The configuration has changed: with the target, or without it.
    pub fn apply(&mut self, target: bool) {
        let mut config = self.config.clone();
        config.epoch += 1;
        if !target {
            config.targets.clear();
        }
        self.core.iscsi.apply(Arc::new(config));
    }

    /// Turns until nothing is done any more, `most` at most. Whether it became quiet.
    pub fn turns(&mut self, most: u32) -> bool {
        for _ in 0..most {
            let before = self.core.iscsi.net().moved;
            // A landing that is not complete is no event yet.
            if self.core.turn(self.now, &mut self.mail) == 0 && self.core.iscsi.net().moved == before {
                return true;
            }
        }
        false
    }

    /// Lets time pass.
    pub fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.turns(8);
    }

    /// Bytes written to the disks.
    pub fn written(&self) -> u64 {
        let of = |lu| self.core.engine.lu_stats(lu).map_or(0, |s| s.write_bytes);
        of(RAM) + of(NULL)
    }

    /// Everybody is gone: nothing may be left of them.
    pub fn end(&mut self) {
        self.faults.clear();
        self.delays.set(Duration::ZERO, DelayForm::Queued);
        self.core.iscsi.net_mut().split = 0;
        // Longer than anything waits: sinks of aborted commands live for half a minute.
        for _ in 0..24 {
            self.now = self.now.plus_ms(5_000);
            self.turns(50);
        }
        assert!(self.turns(200), "a target without initiators is still busy");
        assert_eq!(self.core.iscsi.session_count(), 0, "sessions are left");
        assert_eq!(self.core.iscsi.tasks_in_flight(), 0, "commands are left in the transport");
        assert_eq!(self.core.engine.list_tasks(), [], "tasks are left");
        assert_eq!(self.core.engine.tmfs_pending(), 0, "task management functions are left");
        assert_eq!(self.core.engine.stats().stray_completions, 0, "a completion nobody waited for");
        assert!(
            self.core.engine.pool_mut().is_full(),
            "memory is missing: {:?}",
            self.core.engine.pool_mut().stats()
        );
        for (lu, channel) in [(RAM, ChannelId(0)), (NULL, ChannelId(1))] {
            let (tell, told) = std::sync::mpsc::channel();
            self.core.close_lu(lu, channel, tell);
            self.turns(20);
            assert!(told.try_recv().is_ok(), "a unit that nobody uses does not close");
        }
    }
}

fn open(core: &mut Core<FuzzNet>, lu: LuId, channel: ChannelId, bdev: &Arc<dyn Bdev>) {
    let seed = bdev.prepare(CoreId(0)).expect("devices in memory can be opened");
    let bound = seed.bind(&mut core.env()).expect("devices in memory can be bound");
    core.channels.open(channel, bound);
    let info = bdev.info();
    core.engine.open_lu(LuSpec {
        lu,
        channel,
        identity: LuIdentity::of_uuid(info.uuid),
        info,
        home: CoreId(0),
        tst_shared: false,
        write_protect: false,
        can_store: false,
        saved_modes: None,
        saved_reservations: None,
    });
}

fn config(choice: u8) -> IscsiConfig {
    let mut config = IscsiConfig::open_target(TARGET, ([127, 0, 0, 1], 3260).into());
    if choice & 2 != 0 {
        config.targets[0].header_digest = DigestPolicy::Prefer;
        config.targets[0].data_digest = DigestPolicy::Prefer;
    }
    config.targets[0].queue_depth = 16;
    config.limits = IscsiLimits {
        sessions_max: 6,
        tasks_max: 64,
        tmfs_per_session_max: 4,
        window_first: 4,
        window_max: 16,
        max_recv_data_segment_length: 4 << 10,
        max_burst_length: 16 << 10,
        first_burst_length: 4 << 10,
        max_outstanding_r2t: 3,
        initial_r2t: choice & 8 != 0,
        immediate_data: true,
        text_bytes_max: 8 << 10,
        unsolicited_reserve_bytes: 4 << 10,
        send_queue_bytes_max: 32 << 10,
        ..IscsiLimits::default()
    };
    config
}
