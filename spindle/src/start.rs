//! Start and stop, in order: memory, cores, control plane; and back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use spindle_bdev::Bdev;
use spindle_conf::jsonrpc::Methods;
use spindle_ffi_os::limit;
use spindle_iscsi::IscsiTransport;
use spindle_iscsi::config::IscsiConfig;
use spindle_mem::{Arena, ArenaConfig, HugePolicy, MemoryKind, PoolMemory, SgvPool};
use spindle_net::EpollNet;
use spindle_reactor::{
    CoreId, CoreSet, CoreStats, HardwareClock, Mailbox, Mesh, Pace, PollMode, Poster, Reactor, Topology,
};
use spindle_scsi::Engine;

use crate::args::Serve;
use crate::control::{Control, methods};
use crate::limits::{LANE_DEPTH, Limits, memory_available, show};
use crate::live::{CoreHandle, Live};
use crate::message::ShardMsg;
use crate::shard::{Core, StoreOrder};
use crate::store::Store;
use crate::wake::Hold;

/// A target that runs.
pub struct Running {
    /// Its control plane.
    pub control: Arc<Control>,
    /// Its methods.
    pub methods: Arc<Methods<Control>>,
    live: Arc<Live>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
    storing: Option<JoinHandle<()>>,
    populating: JoinHandle<()>,
    _wake: Hold,
}

/// How long initiators may take to log out when the target stops.
const LOGOUT_MAX: Duration = Duration::from_secs(3);

impl Running {
    /// Starts the cores and an empty control plane. Says on the log what it runs on and what would hurt.
    pub fn start(serve: &Serve) -> Result<Running> {
        let topology = Topology::of_this_machine().context("reading the machine's processors")?;
        let cpus = match &serve.cores {
            Some(set) => set.clone(),
            None => topology.suggest(1),
        };
        if cpus.is_empty() || cpus.len() > 128 {
            bail!("--cores: 1 to 128 processors");
        }
        for warning in topology.warnings(&cpus) {
            tracing::warn!("{warning}");
        }
        if let Some(missing) = cpus.cpus().iter().find(|c| !topology.usable().contains(**c)) {
            bail!(
                "--cores {cpus}: processor {missing} is not there or not allowed; usable: {}",
                topology.usable()
            );
        }
        let cores = cpus.len() as u8;
        let available = memory_available();
        let limits = Limits::new(cores, serve.pool, serve.memory, available).map_err(|e| anyhow!(e))?;
        raise_limits(&limits);
        let regions = ArenaConfig::default();
        let arena = Arena::new(ArenaConfig {
            // Regions are made of 2 MiB pages.
            first_bytes: regions.first_bytes.min(limits.arena_bytes_max >> 21 << 21),
            bytes_max: limits.arena_bytes_max,
            policy: HugePolicy::Prefer2M,
        })
        .context("getting memory for I/O")?;
        report(&topology, &cpus, &limits, &arena, available);
        let wake = hold_wake_latency(serve);
        let (store, orders, inbox) = open_store(serve.state.clone());
        let mut starting = Vec::new();
        for (mail, &cpu) in Mesh::try_new(cpus.len(), LANE_DEPTH)
            .context("connecting the cores")?
            .into_iter()
            .zip(cpus.cpus())
        {
            starting.push(start_core(mail, cpu, serve.poll, &limits, &arena)?);
        }
        let (mut handles, mut threads, mut pools) = (Vec::new(), Vec::new(), Vec::new());
        for (core, thread) in starting {
            let (handle, pool) = core.wait()?;
            handles.push(handle);
            threads.push(thread);
            pools.push(pool);
        }
        for warning in &arena.report().warnings {
            tracing::warn!("{warning}");
        }
        let populating = populate(pools)?;
        let live = Arc::new(Live::new(handles, arena, limits, store.clone(), orders));
        live.spread_by_load(!serve.no_moves);
        let storing = match (store, inbox) {
            (Some(store), Some(inbox)) => Some(start_storing(store, inbox, live.clone())?),
            _ => None,
        };
        let control = Arc::new(Control::new(live.clone()));
        Ok(Running { control, methods: Arc::new(methods()), live, threads, storing, populating, _wake: wake })
    }

    /// Stops in order: no new logins, initiators are asked to log out, tasks drain, devices are flushed, cores end.
    pub fn stop(self) -> Result<()> {
        let groups: Vec<_> = self.control.model().portal_groups.values().cloned().collect();
        for group in &groups {
            for portal in &group.portals {
                use crate::control::Backplane;
                self.live.unlisten(group.tag, portal);
            }
        }
        let _ = self.live.on_all(|core| core.iscsi.shut_down());
        let limit = Instant::now() + LOGOUT_MAX;
        loop {
            let sessions: usize =
                self.live.on_all(|core| core.iscsi.session_count()).unwrap_or_default().iter().sum();
            if sessions == 0 {
                break;
            }
            if Instant::now() > limit {
                tracing::warn!(sessions, "sessions did not log out in {LOGOUT_MAX:?}: dropped");
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut failed = Vec::new();
        let devices: Vec<(Option<u32>, Arc<dyn Bdev>)> =
            self.control.model().bdevs.values().map(|e| (e.lu, e.bdev.clone())).collect();
        for (lu, bdev) in devices {
            use crate::control::Backplane;
            if let Some(lu) = lu
                && let Err(e) = self.live.close_lu(lu)
            {
                failed.push(format!("{}: {}", bdev.info().name, e.message));
            }
            if let Err(e) = bdev.flush() {
                failed.push(format!("{}: flushing: {e}", bdev.info().name));
            }
        }
        for core in self.live.cores() {
            let mut message = ShardMsg::Stop;
            while let Err(back) = core.poster.post(message) {
                message = back;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(e)) => failed.push(format!("a core ended with: {e}")),
                Err(_) => failed.push("a core panicked".into()),
            }
        }
        if self.populating.join().is_err() {
            failed.push("the thread that gets memory panicked".into());
        }
        drop((self.control, self.live));
        drop(self.storing);
        if failed.is_empty() { Ok(()) } else { bail!("not everything ended in order: {}", failed.join("; ")) }
    }
}

/// Lifts what the process may lift by itself: descriptors (one for each connection) and locked memory.
fn raise_limits(limits: &Limits) {
    let _ = limit::raise_locked_bytes();
    let files = limit::raise_open_files().unwrap_or_else(|_| limit::open_files().soft);
    let wanted = u64::from(limits.sessions_max) * u64::from(limits.cores);
    if let Some(files) = files.filter(|n| *n < wanted) {
        tracing::warn!(
            "{files} open files are allowed, so fewer connections than {wanted}: raise `ulimit -Hn`"
        );
    }
}

/// A wish that the system does not take is worth a warning only if somebody made it.
fn hold_wake_latency(serve: &Serve) -> Hold {
    let hold = Hold::take(Path::new("/"), serve.wake_latency.unwrap_or_default());
    let line = hold.tell(serve.poll == PollMode::Adaptive);
    if hold.refused() && serve.wake_latency.is_some() {
        tracing::warn!("{line}");
    } else {
        tracing::info!("{line}");
    }
    hold
}

/// A core that is being made.
struct Starting {
    id: CoreId,
    cpu: u32,
    poster: Poster<ShardMsg<EpollNet>>,
    ready: Receiver<Result<(Arc<CoreStats>, PoolMemory)>>,
}

impl Starting {
    fn wait(self) -> Result<(CoreHandle, PoolMemory)> {
        let Starting { id, cpu, poster, ready } = self;
        let (stats, pool) = ready.recv().context("a core ended before it began")??;
        Ok((CoreHandle { id, cpu, poster, stats }, pool))
    }
}

/// Has the system give the pools' memory, while the configuration is read and the first initiators log in.
fn populate(pools: Vec<PoolMemory>) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("memory".into())
        .spawn(move || {
            for warning in pools.iter().filter_map(|pool| pool.populate().err()) {
                tracing::warn!("{warning}");
            }
        })
        .context("starting the thread that gets memory")
}

fn start_core(
    mail: Mailbox<ShardMsg<EpollNet>>,
    cpu: u32,
    poll: PollMode,
    limits: &Limits,
    arena: &Arc<Arena>,
) -> Result<(Starting, JoinHandle<std::io::Result<()>>)> {
    let id = mail.core();
    let poster = mail.poster();
    let (tell, ready) = channel();
    let (limits, arena) = (limits.clone(), arena.clone());
    let thread = std::thread::Builder::new()
        .name(format!("reactor-{}", id.0))
        .spawn(move || {
            // Made on the thread that runs it: what a core owns need not be able to move.
            let mut core = match make_core(id, &limits, arena) {
                Ok(core) => core,
                Err(e) => {
                    let _ = tell.send(Err(e));
                    return Ok(());
                }
            };
            let memory = core.engine.pool_mut().memory();
            let pace = Pace { mode: poll, ..Pace::default() };
            let mut reactor = Reactor::new(id, Some(cpu), core, mail, HardwareClock, pace);
            let _ = tell.send(Ok((reactor.stats(), memory)));
            let ended = reactor.run();
            reactor.into_shard().end();
            ended
        })
        .with_context(|| format!("starting a thread for {id}"))?;
    Ok((Starting { id, cpu, poster, ready }, thread))
}

fn make_core(id: CoreId, limits: &Limits, arena: Arc<Arena>) -> Result<Core<EpollNet>> {
    let pool = SgvPool::new(id, arena, &limits.pool()).with_context(|| format!("the I/O pool of {id}"))?;
    let engine = Engine::new(limits.engine(id), pool);
    let net = EpollNet::new(limits.tcp())?;
    let config = IscsiConfig { limits: limits.iscsi(), ..IscsiConfig::default() };
    let iscsi = IscsiTransport::new(net, id, limits.cores, Arc::new(config));
    let mut core = Core::new(id, limits.cores, engine, iscsi);
    core.note_for_all();
    Ok(core)
}

fn report(topology: &Topology, cpus: &CoreSet, limits: &Limits, arena: &Arena, available: u64) {
    let mut nodes: Vec<u32> = cpus.cpus().iter().filter_map(|c| topology.cpu(*c)).map(|c| c.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let memory = arena.report();
    let kind = match memory.kind {
        MemoryKind::Huge1G => "1 GiB pages",
        MemoryKind::Huge2M => "2 MiB pages",
        MemoryKind::Thp => "transparent huge pages, locked",
        MemoryKind::Locked => "ordinary pages, locked",
        MemoryKind::Unlocked => "ordinary pages, not locked",
    };
    tracing::info!("processors {cpus} (NUMA nodes {nodes:?}); memory for I/O: {kind}");
    let terms = limits.terms();
    let sum: u64 = terms.iter().map(|t| t.bytes).sum();
    let list: Vec<String> = terms.iter().map(|t| format!("{} {}", t.what, show(t.bytes))).collect();
    tracing::info!("limits: {} at most ({})", show(sum), list.join(", "));
    if sum > available {
        tracing::warn!("the limits allow {} and the machine has {} available", show(sum), show(available));
    }
}

type Orders = (Option<Arc<Store>>, Option<std::sync::mpsc::Sender<StoreOrder>>, Option<Receiver<StoreOrder>>);

fn open_store(folder: Option<PathBuf>) -> Orders {
    let folder = folder.unwrap_or_else(default_state);
    match Store::open(&folder) {
        Ok(store) => {
            let (tell, orders) = channel();
            (Some(Arc::new(store)), Some(tell), Some(orders))
        }
        Err(error) => {
            let folder = folder.display();
            tracing::warn!(
                "{folder}: {error}; reservations (APTPL) and saved mode pages are refused, see --state"
            );
            (None, None, None)
        }
    }
}

fn start_storing(store: Arc<Store>, inbox: Receiver<StoreOrder>, live: Arc<Live>) -> Result<JoinHandle<()>> {
    let live = Arc::downgrade(&live);
    std::thread::Builder::new()
        .name("store".into())
        .spawn(move || {
            for order in inbox {
                let StoreOrder { core, lu, ticket, what, bytes } = order;
                let stored = store.save(lu, what, &bytes);
                if let Err(error) = &stored {
                    tracing::error!(lu = lu.0, ?what, %error, "state could not be stored");
                }
                let ok = stored.is_ok();
                let Some(live) = live.upgrade() else { return };
                let _ = live.send(&live.cores()[core.index()], move |c| c.engine.stored(lu, ticket, ok));
            }
        })
        .context("starting the thread that stores reservations")
}

/// Where the RPC socket is if nobody says.
pub fn default_socket() -> PathBuf {
    if is_root() {
        return "/run/spindle.sock".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) => PathBuf::from(folder).join("spindle.sock"),
        None => std::env::temp_dir().join(format!("spindle-{}.sock", user())),
    }
}

fn default_state() -> PathBuf {
    if is_root() {
        return "/var/lib/spindle".into();
    }
    if let Some(folder) = std::env::var_os("XDG_STATE_HOME") {
        return PathBuf::from(folder).join("spindle");
    }
    match std::env::var_os("HOME") {
        Some(home) => PathBuf::from(home).join(".local/state/spindle"),
        None => std::env::temp_dir().join(format!("spindle-{}", user())),
    }
}

fn is_root() -> bool {
    user() == 0
}

fn user() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").map_or(u32::MAX, |m| m.uid())
}
