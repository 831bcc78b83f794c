//! The world of one seed: cores, wires, disks and initiators under one clock that jumps from event to event.

use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use fastrand::Rng;
use spindle::message::ShardMsg;
use spindle::shard::Core;
use spindle_iscsi::config::IscsiLimits;
use spindle_reactor::{CoreId, Mailbox, Shard, Tick, Timers, Turn, WakeSet, Work};
use spindle_scsi::LuId;

use crate::actor::{Actor, Phase};
use crate::counters::Counters;
use crate::disk::{self, SimDisk};
use crate::judge::{SharedJudge, Unit};
use crate::net::{self, Fabric, SharedFabric, SimNet, lock};
use crate::oracle::blocks::Blocks;
use crate::oracle::reserve::Model;
use crate::plan::Plan;
use crate::trace;

mod boot;
mod closing;

type Msg = ShardMsg<SimNet>;

/// Simulated time after which the script must be over or the faults end anyway.
const ACTIVE_MAX: Duration = Duration::from_secs(400);
/// With the faults over, everything is quiet after this time.
const CALM_MAX: Duration = Duration::from_secs(400);
/// Steps of one stage.
const STEPS_MAX: u64 = 3_000_000;
/// Steps without time moving on.
const STILL_MAX: u32 = 20_000;
const MAP: u32 = 1;

/// A core and how it rests.
struct Seat {
    core: Core<SimNet>,
    mail: Mailbox<Msg>,
    timers: Timers,
    /// Its next turn; `None`: asleep.
    turn_at: Option<Tick>,
    /// Asleep until then at the latest.
    deadline: Option<Tick>,
    /// When what lies in the mailbox is taken out.
    mail_at: Option<Tick>,
    net_named: bool,
    disk_named: bool,
}

/// A unit that is being closed, to be opened again.
struct Reopening {
    unit: usize,
    told: Receiver<CoreId>,
    missing: usize,
}

/// A unit that is to have fewer blocks, as soon as nothing reaches beyond them.
struct Shrinking {
    unit: usize,
    blocks: u64,
    told: Receiver<CoreId>,
    missing: usize,
}

/// Everything of one seed.
pub struct World {
    plan: Arc<Plan>,
    now: Tick,
    rng: Rng,
    fabric: SharedFabric,
    disks: Vec<SimDisk>,
    judge: SharedJudge,
    cores: Vec<Seat>,
    actors: Vec<Actor>,
    counters: Counters,
    portal: SocketAddr,
    control_at: Option<Tick>,
    /// When the next session is to move to another core, and the luck of that alone: other luck stays as it was.
    move_at: Option<Tick>,
    move_rng: Rng,
    moves: u32,
    hidden: Option<usize>,
    reopening: Option<Reopening>,
    shrinking: Option<Shrinking>,
    still: u32,
    limits: IscsiLimits,
    steps: u64,
}

/// Runs a seed to its end. The error is the first complaint.
pub fn run(seed: u64, counters: &mut Counters) -> Result<(), String> {
    // After a complaint, or a panic, memory is in any state: taking it apart would only hide the first behind another.
    let mut world = ManuallyDrop::new(World::new(seed));
    let judged = world.live();
    counters.add(&world.harvest());
    match judged {
        Ok(()) => drop(ManuallyDrop::into_inner(world)),
        Err(_) => trace!("in the end: {}", world.who_waits(|_| true)),
    }
    judged
}

/// The same, and an assertion of the target that fails is a complaint as good as any.
pub fn judge(seed: u64, counters: &mut Counters) -> Result<(), String> {
    let judged = catch_unwind(AssertUnwindSafe(|| run(seed, counters)));
    judged.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(format!("panic: {}", text.unwrap_or_else(|| "without words".to_owned())))
    })
}

impl World {
    fn new(seed: u64) -> World {
        let plan = Arc::new(Plan::of(seed));
        let mut rng = Rng::with_seed(seed);
        trace!("{plan:?}");
        let disks: Vec<SimDisk> = plan
            .disks
            .iter()
            .enumerate()
            .map(|(n, profile)| SimDisk::new(&format!("disk{n}"), profile.clone(), rng.fork()))
            .collect();
        let units = plan.disks.iter().enumerate().map(|(n, d)| Unit {
            blocks: Blocks::new(d.blocks, d.block_bytes, d.write_cache, 1 + n as u64 * 1_000_000_000),
            reserve: Model::of(plan.reserving),
            sweeps: Vec::new(),
            flush_owed: 0,
            flush_begun: 0,
            unsettled: false,
            mapped: 0,
        });
        let judge = SharedJudge::new(units.collect());
        for (n, disk) in disks.iter().enumerate() {
            let (writes, flushes) = (judge.clone(), judge.clone());
            disk.lock().watch(
                Box::new(move |_, lba, bytes| writes.lock().units[n].blocks.stored(lba, bytes)),
                Box::new(move || {
                    let mut judge = flushes.lock();
                    judge.units[n].flush_begun = judge.tick();
                }),
            );
        }
        let fabric = Fabric::shared(plan.cores, plan.net.clone(), rng.fork());
        let portal: SocketAddr = "10.0.0.100:3260".parse().expect("an address");
        let actors = (0..plan.initiators)
            .map(|port| Actor::new(port, plan.clone(), judge.clone(), fabric.clone(), portal, rng.fork()))
            .collect();
        let limits = boot::limits(&mut rng, plan.streams);
        let control_at = plan.reconfigures.then(|| Tick(rng.u64(1..200_000_000)));
        let mut move_rng = Rng::with_seed(seed ^ 0x30FE);
        let move_at = plan.moves.then(|| Tick(move_rng.u64(1..50_000_000)));
        let mut world = World {
            plan,
            now: Tick(1),
            rng,
            fabric,
            disks,
            judge,
            cores: Vec::new(),
            actors,
            counters: Counters::default(),
            portal,
            control_at,
            move_at,
            move_rng,
            moves: 0,
            hidden: None,
            reopening: None,
            shrinking: None,
            still: 0,
            limits,
            steps: 0,
        };
        world.boot();
        world
    }

    // ---- the course of a life

    fn live(&mut self) -> Result<(), String> {
        let all: u32 = self.actors.len() as u32 * self.plan.commands;
        for cut in 0..self.plan.power_cuts {
            let left = all - all * (cut + 1) / (self.plan.power_cuts + 1);
            let until = self.now + ACTIVE_MAX;
            self.run_until(until, |w| w.actors.iter().map(Actor::to_do).sum::<u32>() <= left)?;
            self.power_cut();
        }
        let until = self.now + ACTIVE_MAX;
        self.run_until(until, |w| w.actors.iter().all(Actor::is_idle))?;
        trace!("calm");
        self.calm();
        let until = self.now + CALM_MAX;
        let idle =
            |w: &World| w.actors.iter().all(Actor::is_idle) && w.reopening.is_none() && w.shrinking.is_none();
        if !self.run_until(until, idle)? {
            return Err(format!("not everything is answered: {}", self.who_waits(|a| !a.is_idle())));
        }
        self.restore_sizes();
        self.actors[0].verify_all(self.now);
        let until = self.now + CALM_MAX;
        if !self.run_until(until, |w| w.actors[0].is_idle())? {
            return Err(format!("the last look does not end: {}", self.who_waits(|a| !a.is_idle())));
        }
        for actor in &mut self.actors {
            actor.finish(self.now);
        }
        // An actor that had just asked must be stepped once to send it.
        self.actors.iter_mut().for_each(|a| a.step(self.now));
        let until = self.now + CALM_MAX;
        if !self.run_until(until, |w| w.actors.iter().all(|a| a.phase() == Phase::Finished))? {
            return Err(format!(
                "not everybody is logged out: {}",
                self.who_waits(|a| a.phase() != Phase::Finished)
            ));
        }
        // What was kept for stragglers has a time.
        let until = self.now + Duration::from_secs(40);
        self.run_until(until, |_| false)?;
        self.is_quiet()
    }

    fn who_waits(&self, waits: impl Fn(&Actor) -> bool) -> String {
        let mut out = String::new();
        for actor in self.actors.iter().filter(|a| waits(a)) {
            out += &format!("port {}: {}; ", actor.port, actor.waits_for());
        }
        for core in &self.cores {
            for task in core.core.engine.list_tasks() {
                out += &format!("\n  {} {task:?}", core.core.id);
            }
            for s in core.core.iscsi.sessions() {
                let conns: Vec<_> = s.connections.iter().map(|c| c.state).collect();
                out += &format!("\n  {} session {} of {} {conns:?}", core.core.id, s.tsih, s.initiator_name);
            }
            for unit in 0..self.disks.len() {
                out += &format!(
                    "\n  {} unit {unit} gate {:?}",
                    core.core.id,
                    core.core.engine.gate_of(LuId(unit as u32))
                );
            }
            out += &format!(
                "\n  {} turn {:?} deadline {:?} mail {:?} tmfs {} hungry {}",
                core.core.id,
                core.turn_at,
                core.deadline,
                core.mail_at,
                core.core.engine.tmfs_pending(),
                core.core.engine.stats().waited_for_memory,
            );
        }
        out
    }

    fn calm(&mut self) {
        lock(&self.fabric).calm();
        for disk in &self.disks {
            disk.lock().calm();
        }
        for actor in &mut self.actors {
            actor.calm(self.now);
        }
        self.control_at = None;
        self.move_at = None;
        if let Some(unit) = self.hidden.take() {
            self.appear(unit);
        }
    }

    fn power_cut(&mut self) {
        trace!("power cut");
        self.harvest_engines();
        for core in std::mem::take(&mut self.cores) {
            // What lies in memory is gone with it.
            std::mem::forget(core);
        }
        for disk in &self.disks {
            disk.lock().power_cut();
        }
        lock(&self.fabric).power_cut();
        let mut judge = self.judge.lock();
        let moment = judge.tick();
        for n in 0..judge.units.len() {
            let unit = &mut judge.units[n];
            unit.blocks.power_cut(moment);
            unit.reserve = Model::of(self.plan.reserving);
            unit.sweeps.clear();
            unit.flush_owed = 0;
            unit.mapped = unit.mapped.next_multiple_of(2);
        }
        judge.count("power cuts");
        drop(judge);
        for actor in &mut self.actors {
            actor.power_cut(self.now);
        }
        self.hidden = None;
        self.reopening = None;
        self.shrinking = None;
        self.boot();
    }

    /// Runs until `done` (true) or the time is up (false).
    fn run_until(&mut self, until: Tick, done: impl Fn(&World) -> bool) -> Result<bool, String> {
        for _ in 0..STEPS_MAX {
            if let Some(why) = self.judge.lock().complaint() {
                return Err(why.to_owned());
            }
            if done(self) {
                return Ok(true);
            }
            let next = self.next();
            match next {
                Some(at) if at <= until => self.step(at)?,
                _ => {
                    self.now = until;
                    return Ok(false);
                }
            }
        }
        Err(format!("{STEPS_MAX} steps, and no end: {}", self.who_waits(|_| true)))
    }

    fn next(&self) -> Option<Tick> {
        let core = |c: &Seat| match c.turn_at {
            Some(at) => [Some(at), None],
            None => [c.mail_at, c.deadline],
        };
        let cores = self.cores.iter().flat_map(core);
        let others = [lock(&self.fabric).next(), self.control_at, self.move_at];
        let disks = self.disks.iter().map(|d| d.lock().next());
        let actors = self.actors.iter().map(Actor::next);
        cores.chain(others).chain(disks).chain(actors).flatten().min().map(|at| at.max(self.now))
    }

    fn step(&mut self, at: Tick) -> Result<(), String> {
        self.still = if at > self.now { 0 } else { self.still + 1 };
        if self.still > STILL_MAX {
            return Err(format!("time stands still: {}", self.who_waits(|_| true)));
        }
        self.now = at;
        self.steps += 1;
        trace::at(at);
        lock(&self.fabric).advance(at);
        for disk in &self.disks {
            let mut disk = disk.lock();
            disk.advance(at);
            if let Some(why) = disk.complaint() {
                return Err(why);
            }
        }
        if self.control_at.is_some_and(|t| t <= at) {
            self.control();
        }
        if self.move_at.is_some_and(|t| t <= at) {
            self.move_somebody();
        }
        self.finish_reopening();
        self.finish_shrinking();
        self.rouse();
        let first = self.rng.usize(0..self.cores.len());
        for n in 0..self.cores.len() {
            let n = (first + n) % self.cores.len();
            if self.cores[n].turn_at.is_some_and(|t| t <= at) {
                self.turn(n);
            }
        }
        for actor in &mut self.actors {
            let woken = actor.pipe().is_some_and(|pipe| lock(&self.fabric).initiator_woken(pipe));
            if woken || actor.next().is_some_and(|t| t <= at) {
                actor.step(at);
            }
        }
        // What the turns and the initiators have set going.
        self.rouse();
        Ok(())
    }

    /// Wakes the cores for which something has come that they named.
    fn rouse(&mut self) {
        for n in 0..self.cores.len() {
            let delay = Duration::from_nanos(self.rng.u64(0..self.plan.turn_us * 1_000));
            let core = &mut self.cores[n];
            if core.mail.begin() && core.mail_at.is_none() {
                let wait =
                    if self.plan.mail_us == 0 { 0 } else { self.rng.u64(0..self.plan.mail_us * 1_000) };
                core.mail_at = Some(Tick(self.now.0 + wait));
            }
            if core.mail_at.is_some_and(|at| at <= self.now) {
                core.turn_at.get_or_insert(self.now);
            }
            if core.turn_at.is_some() {
                continue;
            }
            let net = core.net_named && lock(&self.fabric).is_marked(n);
            let disk = core.disk_named && self.disks.iter().any(|d| d.lock().has_news(n));
            if net || disk {
                core.turn_at = Some(self.now + delay);
            } else if core.deadline.is_some_and(|at| at <= self.now) {
                core.turn_at = Some(self.now);
            }
        }
    }

    fn turn(&mut self, n: usize) {
        let now = self.now;
        let budget = if self.plan.mail_us == 0 { 64 } else { self.rng.u32(1..16) };
        let Seat { core, mail, timers, mail_at, .. } = &mut self.cores[n];
        if mail_at.is_some_and(|at| at <= now) {
            *mail_at = None;
            if mail.begin() {
                for _ in 0..budget {
                    let Some((from, message)) = mail.take() else { break };
                    let id = core.id;
                    Shard::on_message(core, from, message, &mut Turn { now, core: id, mail, timers });
                }
                mail.finish();
            }
        }
        let id = core.id;
        let work = Shard::turn(core, &mut Turn { now, core: id, mail, timers });
        mail.flush();
        let pause = Duration::from_nanos(self.rng.u64(100..=self.plan.turn_us * 1_000));
        let me = &mut self.cores[n];
        me.turn_at = Some(now + pause);
        if let Work::Idle { next } | Work::Owed { next, .. } = work {
            let mut wake = WakeSet::new();
            if me.core.arm(&mut wake) {
                me.turn_at = None;
                me.net_named = wake.fds().contains(&net::wake_fd(n));
                me.disk_named = wake.fds().contains(&disk::wake_fd(n));
                me.deadline = [next, wake.deadline(), me.timers.next()].into_iter().flatten().min();
            }
        }
        self.look_at_gates(n);
    }
}
