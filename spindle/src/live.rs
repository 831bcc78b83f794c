//! The backplane that drives the cores.
//!
//! A change is carried to a core as an *errand*: a closure that runs between two turns, with its answer coming back
//! through a channel. What may block (opening a file, making a RAM disk) happens here, on the thread of the RPC
//! client; the core only binds what was prepared. A change that concerns all cores has happened on all of them, or has
//! been taken back on those where it had, when the call returns.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use spindle_bdev::null::{NullBdev, NullConfig};
use spindle_bdev::ram::{RamBdev, RamConfig};
use spindle_bdev::{Bdev, BdevInfo, ChannelId, ChannelSeed, OpenError};
use spindle_bdev_uring::{CacheMode, Engine as FileEngine, FileBdev, FileConfig};
use spindle_conf::jsonrpc::RpcError;
use spindle_iscsi::config as iscsi;
use spindle_mem::Arena;
use spindle_net::{EpollNet, Net};
use spindle_reactor::{Clock, CoreId, CoreStats, HardwareClock, Poster};
use spindle_scsi::lu::LuStats;
use spindle_scsi::{LuId, LuIdentity, LuSpec};

use crate::control::model::{LunMap, Model};
use crate::control::portals::parse_host;
use crate::control::specs::{self, Portal};
use crate::control::{Backplane, BdevSpec, Unit};
use crate::limits::Limits;
use crate::message::ShardMsg;
use crate::placement::Busy;
use crate::shard::{Core, StoreOrder};
use crate::store::Store;

/// A core as seen from outside.
pub struct CoreHandle {
    /// Which.
    pub id: CoreId,
    /// The processor it is tied to.
    pub cpu: u32,
    /// Posts to it.
    pub poster: Poster<ShardMsg<EpollNet>>,
    /// What it is busy with.
    pub stats: Arc<CoreStats>,
}

/// The cores, and what they have open.
pub struct Live {
    cores: Vec<CoreHandle>,
    arena: Arc<Arena>,
    limits: Limits,
    store: Option<Arc<Store>>,
    store_orders: Option<Sender<StoreOrder>>,
    channels: Mutex<ChannelNumbers>,
    epoch: Mutex<u64>,
    /// READs and WRITEs of units that are gone, so that copies can be told per command.
    commands_of_closed: AtomicU64,
}

/// Unit → channel number. A number is used again when its channel is gone.
#[derive(Default)]
struct ChannelNumbers {
    of_unit: HashMap<u32, ChannelId>,
    free: Vec<ChannelId>,
}

/// Units opened by one errand, so that no turn takes long because of many.
const UNITS_AN_ERRAND: usize = 64;
/// A core that has not answered in this time is stuck, and the operator should know.
const ERRAND_MAX: Duration = Duration::from_secs(30);
/// A unit whose device does not give its operations back is not closed; the call says so after this time.
const CLOSE_MAX: Duration = Duration::from_secs(30);

impl Live {
    /// Over running cores.
    pub fn new(
        cores: Vec<CoreHandle>,
        arena: Arc<Arena>,
        limits: Limits,
        store: Option<Arc<Store>>,
        store_orders: Option<Sender<StoreOrder>>,
    ) -> Live {
        let (channels, epoch, commands_of_closed) = Default::default();
        Live { cores, arena, limits, store, store_orders, channels, epoch, commands_of_closed }
    }

    /// The cores.
    pub fn cores(&self) -> &[CoreHandle] {
        &self.cores
    }

    /// Tells the core that accepts how busy all are, so that it spreads connections by load; and all cores, if sessions
    /// may move from busy ones to idle ones.
    pub fn spread_by_load(&self, moves: bool) {
        let busy = |core: &CoreHandle| -> Busy {
            let stats = core.stats.clone();
            Box::new(move |now| stats.load(now).busy_ns)
        };
        let all = || -> Vec<Busy> { self.cores.iter().map(busy).collect() };
        let cores = all();
        // Until it hears of it, each gets one in its turn.
        drop(self.send(self.accepting(), move |core| {
            let now = core.now;
            core.placement().watch(cores, now);
        }));
        for core in self.cores.iter().filter(|_| moves && self.cores.len() > 1) {
            let cores = all();
            drop(self.send(core, move |core| {
                let now = core.now;
                core.balance().watch(cores, now);
            }));
        }
    }

    /// The core whose portals accept for all.
    fn accepting(&self) -> &CoreHandle {
        &self.cores[0]
    }

    /// Runs an errand on one core; its answer comes out of the receiver.
    pub fn send<R: Send + 'static>(
        &self,
        core: &CoreHandle,
        errand: impl FnOnce(&mut Core<EpollNet>) -> R + Send + 'static,
    ) -> Receiver<R> {
        let (tell, answer) = channel();
        let mut message = ShardMsg::Control(Box::new(move |core: &mut Core<EpollNet>| {
            // Nobody may be waiting any more.
            let _ = tell.send(errand(core));
        }));
        // The line from outside into a core is short; a storm of changes waits its turn here.
        while let Err(back) = core.poster.post(message) {
            message = back;
            std::thread::sleep(Duration::from_millis(1));
        }
        answer
    }

    /// Runs an errand on one core and waits.
    pub fn on_core<R: Send + 'static>(
        &self,
        core: &CoreHandle,
        errand: impl FnOnce(&mut Core<EpollNet>) -> R + Send + 'static,
    ) -> Result<R, RpcError> {
        let stuck = || RpcError::internal(format_args!("{} has not answered for {ERRAND_MAX:?}", core.id));
        self.send(core, errand).recv_timeout(ERRAND_MAX).map_err(|_| stuck())
    }

    /// Runs the same errand on every core at once and waits for all.
    pub fn on_all<R: Send + 'static>(
        &self,
        errand: impl Fn(&mut Core<EpollNet>) -> R + Send + Sync + Clone + 'static,
    ) -> Result<Vec<R>, RpcError> {
        let answers: Vec<_> = self.cores.iter().map(|c| (c, self.send(c, errand.clone()))).collect();
        answers
            .into_iter()
            .map(|(core, answer)| {
                let stuck =
                    || RpcError::internal(format_args!("{} has not answered for {ERRAND_MAX:?}", core.id));
                answer.recv_timeout(ERRAND_MAX).map_err(|_| stuck())
            })
            .collect()
    }

    fn channels(&self) -> MutexGuard<'_, ChannelNumbers> {
        self.channels.lock().expect("nothing panics while it holds the table")
    }

    fn new_channel(&self, lu: u32) -> Result<ChannelId, RpcError> {
        let mut numbers = self.channels();
        // Those that are free have been in use: all numbers below the sum of both were given.
        let id = match numbers.free.pop() {
            Some(id) => id,
            None => match u16::try_from(numbers.of_unit.len()) {
                Ok(next) if next < u16::MAX => ChannelId(next),
                _ => return Err(RpcError::busy("65,535 units are open")),
            },
        };
        numbers.of_unit.insert(lu, id);
        Ok(id)
    }

    fn channel_of(&self, lu: u32) -> Option<ChannelId> {
        self.channels().of_unit.get(&lu).copied()
    }

    fn forget_channel(&self, lu: u32) {
        let mut numbers = self.channels();
        if let Some(id) = numbers.of_unit.remove(&lu) {
            numbers.free.push(id);
        }
    }

    /// Everything that may fail, or take long, before the cores hear of it.
    fn prepare_lu(&self, lu: u32, bdev: &Arc<dyn Bdev>) -> Result<Vec<Opening>, RpcError> {
        let info = bdev.info();
        let channel = self.new_channel(lu)?;
        let home = CoreId((lu % self.cores.len() as u32) as u8);
        let stored = |what| self.store.as_ref().and_then(|s| s.load(&info.uuid, what));
        if let Some(store) = &self.store {
            store.know(lu, info.uuid);
        }
        let spec = LuSpec {
            lu: LuId(lu),
            channel,
            identity: LuIdentity::of_uuid(info.uuid),
            home,
            tst_shared: false,
            write_protect: info.read_only,
            can_store: self.store.is_some(),
            saved_modes: stored("modes"),
            saved_reservations: stored("reservations"),
            info,
        };
        let opening = |core: &CoreHandle| Ok(Opening { seed: bdev.prepare(core.id)?, spec: spec.clone() });
        self.cores.iter().map(opening).collect::<Result<_, OpenError>>().map_err(RpcError::internal)
    }

    /// Counters of a unit over all cores.
    fn sum_stats(&self, lu: u32) -> LuStats {
        let all = self.on_all(move |core| core.engine.lu_stats(LuId(lu))).unwrap_or_default();
        let mut sum = LuStats::default();
        all.into_iter().flatten().for_each(|one| sum.add(&one));
        sum
    }
}

/// A unit on its way to a core.
struct Opening {
    seed: Box<dyn ChannelSeed>,
    spec: LuSpec,
}

impl Opening {
    fn open(self, core: &mut Core<EpollNet>) -> Result<(), RpcError> {
        let channel = self.seed.bind(&mut core.env()).map_err(RpcError::internal)?;
        core.channels.open(self.spec.channel, channel);
        core.engine.open_lu(self.spec);
        Ok(())
    }
}

impl Backplane for Live {
    fn make_bdev(&self, name: &str, uuid: [u8; 16], spec: &BdevSpec) -> Result<Arc<dyn Bdev>, RpcError> {
        match spec {
            BdevSpec::Malloc(s) => {
                let config = RamConfig {
                    name: name.into(),
                    uuid,
                    block_bytes: s.block_size,
                    blocks: s.num_blocks,
                    physical_exponent: physical_exponent(s.block_size, s.physical_block_size)?,
                    spares: None,
                };
                Ok(Arc::new(RamBdev::new(&self.arena, config).map_err(open_failed)?))
            }
            BdevSpec::Null(s) => Ok(Arc::new(null(&self.arena, name, uuid, s)?)),
            BdevSpec::File(s, uring) => {
                let config = FileConfig {
                    name: name.into(),
                    uuid,
                    path: s.filename.clone().into(),
                    driver: if *uring { "uring" } else { "aio" },
                    block_bytes: s.block_size,
                    physical_bytes: s.physical_block_size,
                    read_only: s.readonly,
                    create_bytes: s.create_bytes,
                    direct: s.direct,
                    cache: match s.cache {
                        specs::CacheMode::WriteBack => CacheMode::WriteBack,
                        specs::CacheMode::WriteThrough => CacheMode::WriteThrough,
                        specs::CacheMode::NvCache => CacheMode::NvCache,
                    },
                    unmap: s.unmap,
                    engine: FileEngine::Auto,
                };
                Ok(Arc::new(FileBdev::open(config).map_err(|e| match e {
                    e @ OpenError::Os { .. } => RpcError::field("filename", e),
                    other => open_failed(other),
                })?))
            }
        }
    }

    fn open_lus(&self, units: &[Unit]) -> Result<(), RpcError> {
        let mut for_cores: Vec<Vec<Opening>> = self.cores.iter().map(|_| Vec::new()).collect();
        for (lu, bdev) in units {
            match self.prepare_lu(*lu, bdev) {
                Ok(openings) => for_cores.iter_mut().zip(openings).for_each(|(all, one)| all.push(one)),
                Err(e) => {
                    // No core has heard of any of them.
                    units.iter().for_each(|(lu, _)| self.forget_channel(*lu));
                    return Err(e);
                }
            }
        }
        let mut waiting = Vec::new();
        for (core, openings) in self.cores.iter().zip(for_cores) {
            let mut openings = openings.into_iter().peekable();
            while openings.peek().is_some() {
                let some: Vec<Opening> = openings.by_ref().take(UNITS_AN_ERRAND).collect();
                let orders = self.store_orders.clone();
                waiting.push(self.send(core, move |core| {
                    core.store = orders;
                    some.into_iter().try_for_each(|one| one.open(core))
                }));
            }
        }
        let stuck = || RpcError::internal("a core has not answered");
        let answers =
            waiting.into_iter().map(|answer| answer.recv_timeout(ERRAND_MAX).map_err(|_| stuck()).flatten());
        let opened = answers.fold(Ok(()), Result::and);
        if opened.is_err() {
            // Where they were opened they are closed again.
            units.iter().for_each(|(lu, _)| drop(self.close_lu(*lu)));
        }
        opened
    }

    fn close_lu(&self, lu: u32) -> Result<(), RpcError> {
        let Some(channel) = self.channel_of(lu) else { return Ok(()) };
        let ended = self.sum_stats(lu);
        self.commands_of_closed.fetch_add(ended.reads + ended.writes, Ordering::Relaxed);
        let (tell, closed) = channel_pair();
        for core in &self.cores {
            let tell = tell.clone();
            // The answer comes through `tell` when the last operation is back.
            let _ = self.send(core, move |core| core.close_lu(LuId(lu), channel, tell));
        }
        drop(tell);
        for _ in &self.cores {
            if closed.recv_timeout(CLOSE_MAX).is_err() {
                return Err(RpcError::busy(
                    "the device has not given its operations back; the unit is closed to initiators and goes when it does",
                ));
            }
        }
        self.forget_channel(lu);
        Ok(())
    }

    fn lu_shrinks(&self, lu: u32, blocks: u64) -> Result<(), RpcError> {
        let (tell, shrunk) = channel_pair();
        for core in &self.cores {
            let tell = tell.clone();
            // The answer comes through `tell` when the last operation beyond the end is back.
            let _ = self.send(core, move |core| core.shrink_lu(LuId(lu), blocks, tell));
        }
        drop(tell);
        for _ in &self.cores {
            if shrunk.recv_timeout(CLOSE_MAX).is_err() {
                return Err(RpcError::busy("the device has not given back operations beyond the new end"));
            }
        }
        Ok(())
    }

    fn lu_changed(&self, lu: u32, info: &BdevInfo) -> Result<(), RpcError> {
        let info = info.clone();
        self.on_all(move |core| core.engine.lu_changed(LuId(lu), info.clone(), None)).map(drop)
    }

    fn set_luns(&self, map: u32, luns: &LunMap) -> Result<(), RpcError> {
        let luns: Arc<Vec<(u32, LuId, bool)>> =
            Arc::new(luns.iter().map(|&(n, lu, ro)| (n, LuId(lu), ro)).collect());
        self.on_all(move |core| core.engine.set_lun_map(map, &luns)).map(drop)
    }

    fn listen(&self, group: u16, portal: &Portal) -> Result<u16, RpcError> {
        let at = address(portal)?;
        let open = self.on_core(self.accepting(), move |core| core.iscsi.open_portal(group, at))?;
        open.map(|bound| bound.port()).map_err(RpcError::internal)
    }

    fn unlisten(&self, group: u16, portal: &Portal) {
        if let Ok(at) = address(portal) {
            let _ = self.on_core(self.accepting(), move |core| core.iscsi.close_portal(group, at));
        }
    }

    fn apply_access(&self, model: &Model) -> Result<(), RpcError> {
        let config = {
            let mut epoch = self.epoch.lock().expect("nothing panics while it counts");
            *epoch += 1;
            Arc::new(access(model, *epoch, &self.limits)?)
        };
        self.on_all(move |core| core.iscsi.apply(config.clone())).map(drop)
    }

    fn reactors(&self) -> Value {
        let now = HardwareClock.now();
        let rows: Vec<Value> = self
            .cores
            .iter()
            .map(|core| {
                let l = core.stats.load(now);
                json!({
                    "lcore": core.cpu, "core": core.id.0, "busy": l.busy_ns, "idle": l.idle_ns, "asleep": l.asleep_ns,
                    "turns": l.turns, "busy_turns": l.busy_turns, "sleeps": l.sleeps, "wakes": l.wakes,
                    "messages": l.messages, "events": l.events,
                })
            })
            .collect();
        json!({ "tick_rate": 1_000_000_000u64, "reactors": rows })
    }

    fn connections(&self) -> Value {
        let sessions = self.on_all(|core| core.iscsi.sessions()).unwrap_or_default();
        let rows: Vec<Value> = sessions.into_iter().flatten().flat_map(|s| session_rows(&s)).collect();
        json!(rows)
    }

    fn move_session(&self, tsih: u16, core: u8) -> Result<(), RpcError> {
        self.move_to(tsih, core)
    }

    fn lu_stats(&self, lu: u32) -> Value {
        let sum = self.sum_stats(lu);
        let copied = self.on_all(move |core| core.engine.lu_copied_bytes(LuId(lu))).unwrap_or_default();
        let copied: Option<u64> = copied.into_iter().sum();
        let commands = (sum.reads + sum.writes).max(1);
        json!({
            "num_read_ops": sum.reads, "num_write_ops": sum.writes, "num_other_ops": sum.others,
            "bytes_read": sum.read_bytes, "bytes_written": sum.write_bytes, "errors": sum.errors,
            "blocked": sum.blocked, "copied_bytes": copied,
            "copied_bytes_per_command": copied.map(|bytes| bytes as f64 / commands as f64),
        })
    }

    fn memory(&self) -> Value {
        let report = self.arena.report();
        let pools = self
            .on_all(|core| {
                let stats = core.engine.pool_mut().stats();
                let copied = core.iscsi.net().copied_bytes();
                let classes: Vec<Value> = stats
                    .classes
                    .iter()
                    .map(|c| json!({ "bytes": c.bytes, "total": c.total, "free": c.free, "low": c.low, "refused": c.refused }))
                    .collect();
                json!({ "core": core.id.0, "classes": classes, "lost": stats.lost, "copied_bytes": stats.copied_bytes,
                        "staged_copied_bytes": copied })
            })
            .unwrap_or_default();
        let units: Vec<u32> = { self.channels().of_unit.keys().copied().collect() };
        let open: u64 = units.into_iter().map(|lu| self.sum_stats(lu)).map(|s| s.reads + s.writes).sum();
        let commands = open + self.commands_of_closed.load(Ordering::Relaxed);
        let sum = |name: &str| pools.iter().filter_map(|p| p[name].as_u64()).sum::<u64>();
        // What was staged is counted with the vector it went to, too.
        let copied = sum("copied_bytes");
        json!({
            "copies": { "bytes": copied, "commands": commands,
                        "bytes_per_command": copied as f64 / commands.max(1) as f64 },
            "arena": { "bytes": report.bytes, "free": report.bytes_free, "limit": self.arena.limit_bytes(),
                       "kind": format!("{:?}", report.kind) },
            "pools": pools,
        })
    }

    fn tasks(&self) -> Value {
        let all = self.on_all(|core| core.engine.list_tasks()).unwrap_or_default();
        let rows: Vec<Value> = all
            .into_iter()
            .flatten()
            .map(|t| {
                json!({
                    "nexus": t.nexus.to_string(), "tag": t.tag.0, "state": format!("{:?}", t.state), "aborted": t.aborted,
                    "command": t.name, "lba": t.lba, "blocks": t.blocks, "age_ms": t.age_ms,
                })
            })
            .collect();
        json!(rows)
    }
}

fn channel_pair() -> (Sender<CoreId>, Receiver<CoreId>) {
    channel()
}

fn session_rows(s: &spindle_iscsi::info::SessionInfo) -> Vec<Value> {
    s.connections
        .iter()
        .map(|c| {
            json!({
                "cid": c.cid, "tsih": s.tsih, "isid": s.isid.iter().map(|b| format!("{b:02x}")).collect::<String>(),
                "lcore_id": s.core.0, "initiator_name": s.initiator_name, "target_node_name": s.target_name,
                "initiator_addr": c.peer.to_string(), "target_addr": c.local.to_string(), "state": c.state,
                "portal_group": s.portal_group, "header_digest": c.digests.0, "data_digest": c.digests.1,
                "authenticated": s.authenticated, "window": s.window, "in_flight": s.in_flight,
                "queued_bytes": c.queued_bytes,
            })
        })
        .collect()
}

fn address(portal: &Portal) -> Result<SocketAddr, RpcError> {
    let host: IpAddr = parse_host(&portal.host).map_err(|why| RpcError::field("host", why))?;
    Ok(SocketAddr::new(host, portal.port))
}

/// A null device as its method describes it.
pub(crate) fn null(
    arena: &Arc<Arena>,
    name: &str,
    uuid: [u8; 16],
    s: &specs::NullCreate,
) -> Result<NullBdev, RpcError> {
    let config = NullConfig {
        name: name.into(),
        uuid,
        block_bytes: s.block_size,
        blocks: s.num_blocks,
        physical_exponent: physical_exponent(s.block_size, s.physical_block_size)?,
    };
    NullBdev::new(arena, config).map_err(open_failed)
}

fn open_failed(error: OpenError) -> RpcError {
    match error {
        OpenError::Invalid { field, why } => RpcError::field(field, why),
        OpenError::InUse { .. } => RpcError::busy(error),
        OpenError::NoRoom { .. } | OpenError::Os { .. } => RpcError::internal(error),
    }
}

fn physical_exponent(block: u32, physical: Option<u32>) -> Result<u8, RpcError> {
    if block != 512 && block != 4096 {
        return Err(RpcError::field("block_size", format!("{block}: 512 or 4096")));
    }
    let physical = physical.unwrap_or(block);
    if !physical.is_power_of_two() || physical < block || physical > 1 << 20 {
        return Err(RpcError::field("physical_block_size", "a power of two from block_size to 1 MiB"));
    }
    Ok((physical / block).trailing_zeros() as u8)
}

/// Who may log in to what, in the transport's words.
pub fn access(model: &Model, epoch: u64, limits: &Limits) -> Result<iscsi::IscsiConfig, RpcError> {
    let portal_groups = model.portal_groups.values().map(|g| {
        let portals = g.portals.iter().map(address).collect::<Result<Vec<_>, _>>()?;
        Ok(iscsi::PortalGroup { tag: g.tag, portals, private: g.private })
    });
    let initiator_groups = model.initiator_groups.values().map(|g| {
        let names = g.initiators.iter().map(|n| n.parse().map_err(|e| RpcError::field("initiators", e)));
        let netmasks = g.netmasks.iter().map(|n| n.parse().map_err(|e| RpcError::field("netmasks", e)));
        Ok(iscsi::InitiatorGroup {
            tag: g.tag,
            names: names.collect::<Result<_, RpcError>>()?,
            netmasks: netmasks.collect::<Result<_, RpcError>>()?,
        })
    });
    let targets = model.targets.values().map(|t| {
        let digest = |required| {
            if required { iscsi::DigestPolicy::Require } else { iscsi::DigestPolicy::AsOffered }
        };
        let access = |m: &specs::PgIgMap| iscsi::AccessMap {
            portal_group: m.pg_tag,
            initiator_group: m.ig_tag,
            lun_map: t.id,
        };
        iscsi::TargetNode {
            id: t.id,
            name: t.spec.name.clone(),
            alias: Some(t.spec.alias_name.clone()).filter(|a| !a.is_empty()),
            maps: t.spec.pg_ig_maps.iter().map(access).collect(),
            auth: auth(t.spec.chap_group, t.spec.disable_chap, t.spec.require_chap, t.spec.mutual_chap),
            header_digest: digest(t.spec.header_digest),
            data_digest: digest(t.spec.data_digest),
            queue_depth: t.spec.queue_depth,
        }
    });
    let secret = |(name, bytes): &(String, Vec<u8>)| (name.clone(), iscsi::Secret(bytes.clone()));
    let chap_groups = model.auth_groups.values().map(|g| iscsi::ChapGroup {
        tag: g.spec.tag,
        secrets: g
            .secrets
            .iter()
            .map(|s| {
                let (user, bytes) = secret(&s.user);
                iscsi::ChapSecret { user, secret: bytes, mutual: s.mutual.as_ref().map(secret) }
            })
            .collect(),
    });
    let discovery = &model.discovery_auth;
    Ok(iscsi::IscsiConfig {
        epoch,
        portal_groups: portal_groups.collect::<Result<_, RpcError>>()?,
        initiator_groups: initiator_groups.collect::<Result<_, RpcError>>()?,
        targets: targets.collect(),
        chap_groups: chap_groups.collect(),
        discovery_auth: auth(
            discovery.chap_group,
            discovery.disable_chap,
            discovery.require_chap,
            discovery.mutual_chap,
        ),
        limits: limits.iscsi(),
    })
}

/// How initiators prove themselves, out of what was configured.
fn auth(group: u32, disable: bool, require: bool, mutual: bool) -> iscsi::AuthPolicy {
    let chap = match (disable, require) {
        (true, _) => iscsi::ChapRule::Disabled,
        (_, true) => iscsi::ChapRule::Required,
        // Without secrets there is nothing to prove oneself with.
        _ if group == 0 => iscsi::ChapRule::Disabled,
        _ => iscsi::ChapRule::Optional,
    };
    iscsi::AuthPolicy { chap, mutual, chap_group: Some(group).filter(|g| *g != 0) }
}
