//! An initiator: one session at a time, a script out of the seed, and an eye on every answer.
//!
//! What it sends stands in the judge's memory before it goes out; what comes back is held against it. When a
//! connection is lost, its commands are orphans: they may still happen until the next login of the session is
//! granted, for the target ends the old nexus before.

mod script;
mod verdict;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use spindle_initiator::{Config, Event, InitiatorConn, Offers, State};
use spindle_iscsi_wire::keys::name;
use spindle_iscsi_wire::{Isid, LogoutReason, RejectReason, TaskAttribute, TmfFunction};
use spindle_reactor::Tick;

use crate::judge::{Judge, SharedJudge};
use crate::net::{Got, PipeId, SharedFabric, Way, lock};
use crate::oracle::Moment;
use crate::oracle::blocks::End;
use crate::oracle::reserve::{Access, Answer, Change, Stamp};
use crate::pattern::Value;
use crate::plan::{Plan, Reserving};
use crate::trace;

/// The target's name.
pub const TARGET: &str = "iqn.2026-01.org.example:target";
/// An answer that takes longer is asked for with ABORT TASK.
const PATIENCE: Duration = Duration::from_secs(60);
/// With all faults over, everything is answered after this time.
const CALM_PATIENCE: Duration = Duration::from_secs(30);

/// What each write of a stream writes.
const STREAM_BYTES: u32 = 4_096;

/// Where an initiator stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Comes (back) at a time.
    Away(Tick),
    /// Logging in since.
    Login(Tick),
    /// In full feature phase.
    Up,
    /// Has asked to log out.
    Leaving(Tick),
    /// Came for the last time.
    Finished,
}

/// A command on its way.
struct Pending {
    kind: Kind,
    unit: usize,
    invoked: Moment,
    sent: Tick,
    attr: TaskAttribute,
    immediate: bool,
    stamp: Stamp,
    aborting: bool,
}

enum Kind {
    Read {
        lba: u64,
        blocks: u64,
        bytes: u32,
    },
    Write {
        id: u64,
    },
    Swap {
        id: u64,
        lba: u64,
        found: Value,
    },
    Sync {
        lba: u64,
        blocks: u64,
    },
    /// SYNCHRONIZE CACHE with IMMED: GOOD promises nothing of what is cached.
    FlushLater,
    Change(Change),
    /// A command that nobody knows, with data.
    Unknown,
    Other,
}

struct PendingTmf {
    function: TmfFunction,
    unit: usize,
    referenced: Option<u32>,
    sent: Tick,
    sweeps: Vec<(usize, usize)>,
    /// What it does to the reservation of the first unit.
    change: Option<Change>,
    /// How that one was mapped then.
    mapped: u32,
}

impl PendingTmf {
    /// Whether it ends commands of ours on this unit, besides one that it names.
    fn ends(&self, unit: usize) -> bool {
        match self.function {
            TmfFunction::AbortTaskSet | TmfFunction::ClearTaskSet | TmfFunction::LogicalUnitReset => {
                self.unit == unit
            }
            TmfFunction::TargetWarmReset | TmfFunction::TargetColdReset | TmfFunction::ItNexusReset => true,
            _ => false,
        }
    }
}

enum Orphan {
    Write(usize, u64),
    Change(usize, Change),
    Lost(usize),
    Sweep(usize, usize),
}

/// One initiator.
pub struct Actor {
    /// Its number; names its initiator port.
    pub port: usize,
    rng: Rng,
    plan: Arc<Plan>,
    judge: SharedJudge,
    fabric: SharedFabric,
    portal: SocketAddr,
    engine: Option<Box<InitiatorConn>>,
    pipe: Option<PipeId>,
    phase: Phase,
    pending: BTreeMap<u32, Pending>,
    tmfs: BTreeMap<u32, PendingTmf>,
    pings: BTreeSet<u32>,
    orphans: Vec<Orphan>,
    to_do: u32,
    next_act: Option<Tick>,
    calm_since: Option<Tick>,
    /// Reads that verify everything at the end.
    verify: VecDeque<(usize, u64, u64)>,
    verify_tries: u32,
    last: bool,
    registered: bool,
    /// How many flushes of each unit may still fail behind a GOOD of this session, and be told by a deferred error.
    flushes_later: BTreeMap<usize, u32>,
    /// Writes left of a stream, and its unit.
    stream: (u32, usize),
    /// All data of the next command goes with it.
    whole: bool,
    input: Vec<u8>,
    digests: bool,
}

impl Actor {
    /// An initiator that comes soon.
    pub fn new(
        port: usize,
        plan: Arc<Plan>,
        judge: SharedJudge,
        fabric: SharedFabric,
        portal: SocketAddr,
        mut rng: Rng,
    ) -> Actor {
        let digests = rng.u32(0..3) == 0;
        Actor {
            port,
            to_do: plan.commands,
            phase: Phase::Away(Tick(rng.u64(0..3_000_000))),
            rng,
            plan,
            judge,
            fabric,
            portal,
            engine: None,
            pipe: None,
            pending: BTreeMap::new(),
            tmfs: BTreeMap::new(),
            pings: BTreeSet::new(),
            orphans: Vec::new(),
            next_act: None,
            calm_since: None,
            verify: VecDeque::new(),
            verify_tries: 0,
            last: false,
            registered: false,
            flushes_later: BTreeMap::new(),
            stream: (0, 0),
            whole: false,
            input: Vec::new(),
            digests,
        }
    }

    /// Its connection.
    pub fn pipe(&self) -> Option<PipeId> {
        self.pipe
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Its script is over and everything is answered.
    pub fn is_idle(&self) -> bool {
        let at_rest = matches!(self.phase, Phase::Up | Phase::Finished);
        at_rest
            && self.to_do == 0
            && self.pending.is_empty()
            && self.tmfs.is_empty()
            && self.pings.is_empty()
            && self.verify.is_empty()
    }

    /// Commands left in its script.
    pub fn to_do(&self) -> u32 {
        self.to_do
    }

    /// What it still waits for, for complaints.
    pub fn waits_for(&self) -> String {
        let list: Vec<String> = self
            .pending
            .iter()
            .map(|(itt, p)| format!("{itt:#x} {} unit {}", p.kind.name(), p.unit))
            .collect();
        let tmfs: Vec<String> = self.tmfs.values().map(|t| format!("{:?}", t.function)).collect();
        format!(
            "{:?}, {} to do, pending {list:?} {tmfs:?}, verifying {}",
            self.phase,
            self.to_do,
            self.verify.len()
        )
    }

    /// When it wants to be called.
    pub fn next(&self) -> Option<Tick> {
        match self.phase {
            Phase::Away(until) => Some(until),
            Phase::Login(since) | Phase::Leaving(since) => Some(since + PATIENCE),
            Phase::Finished => None,
            Phase::Up => {
                let patience = if self.calm_since.is_some() { CALM_PATIENCE } else { PATIENCE };
                let from = |sent: Tick| sent.max(self.calm_since.unwrap_or_default()) + patience;
                let commands = self.pending.values().filter(|p| !p.aborting).map(|p| from(p.sent)).min();
                let tmfs = self.tmfs.values().map(|t| from(t.sent)).min();
                [self.next_act, commands, tmfs].into_iter().flatten().min()
            }
        }
    }

    /// The faults are over: no new commands, and everything is to be answered.
    pub fn calm(&mut self, now: Tick) {
        self.to_do = 0;
        self.calm_since = Some(now);
        self.next_act = None;
        if let Phase::Away(until) = &mut self.phase {
            *until = (*until).min(now.plus_ms(10));
        }
    }

    /// Read everything back.
    pub fn verify_all(&mut self, now: Tick) {
        let judge = self.judge.lock();
        for (unit, u) in judge.units.iter().enumerate() {
            let step = (u64::from(self.plan.transfer_bytes_max) / u.blocks.block_bytes() as u64).min(16);
            for lba in (0..u.blocks.len()).step_by(step as usize) {
                self.verify.push_back((unit, lba, step.min(u.blocks.len() - lba)));
            }
        }
        drop(judge);
        self.verify_tries = 0;
        self.next_act = Some(now);
    }

    /// Log out and do not come back.
    pub fn finish(&mut self, now: Tick) {
        self.last = true;
        let asked =
            self.engine.as_mut().is_some_and(|e| e.logout(ns(now), LogoutReason::CloseSession, 1).is_ok());
        if asked {
            self.phase = Phase::Leaving(now);
        } else {
            self.drop_connection();
            self.phase = Phase::Finished;
        }
    }

    /// The target has lost its power; everything under way is over.
    pub fn power_cut(&mut self, now: Tick) {
        self.engine = None;
        self.pipe = None;
        self.pending.clear();
        self.tmfs.clear();
        self.pings.clear();
        self.orphans.clear();
        self.registered = false;
        self.phase = Phase::Away(now.plus_ms(self.rng.u64(1..500)));
    }

    /// Does what is to be done now.
    pub fn step(&mut self, now: Tick) {
        self.take_in(now);
        if let Phase::Away(until) = self.phase
            && now >= until
        {
            self.connect(now);
        }
        if let Phase::Login(since) | Phase::Leaving(since) = self.phase
            && now >= since + PATIENCE
        {
            trace!("port {}: no answer to {:?}", self.port, self.phase);
            if self.calm_since.is_some_and(|calm| now >= calm + PATIENCE * 3) {
                self.complain(format!("port {}: {:?} is not answered", self.port, self.phase));
            }
            self.lost(now);
        }
        self.watch(now);
        if self.phase == Phase::Up && self.next_act.is_some_and(|at| now >= at) {
            self.next_act = None;
            self.act(now);
        }
        self.put_out();
    }

    // ---- the connection

    fn connect(&mut self, now: Tick) {
        let peer = SocketAddr::from(([10, 0, 0, self.port as u8 + 1], 1024 + self.rng.u16(0..1000)));
        let pipe = lock(&self.fabric).connect(self.portal, peer);
        let Some(pipe) = pipe else {
            self.phase = Phase::Away(now.plus_ms(20));
            return;
        };
        let mut config = Config::normal(&format!("iqn.2026-01.org.example:port{}", self.port), TARGET);
        config.isid = Isid([0x80, 0, 0, 0, 0, self.port as u8]);
        config.offers = self.offers();
        config.cmd_sn.0 = if self.rng.u32(0..4) == 0 { u32::MAX - 5 } else { self.rng.u32(..) };
        config.itt = self.rng.u32(0..0xF000_0000);
        if self.rng.bool() {
            config.login_text_max = self.rng.usize(40..400);
        }
        if self.rng.bool() {
            config.data_out_max = Some(self.rng.u32(100..9_000));
        }
        if self.calm_since.is_none() && self.rng.u32(0..20) == 0 {
            let (way, opcode) = *self.rng.choice(&[(Way::Up, 0x03), (Way::Down, 0x23)]).expect("not empty");
            lock(&self.fabric).cut(pipe, way, Some(opcode));
        }
        trace!("port {}: connects, pipe {}", self.port, pipe.0);
        self.engine = Some(Box::new(InitiatorConn::new(config, ns(now))));
        self.pipe = Some(pipe);
        self.phase = Phase::Login(now);
    }

    fn offers(&mut self) -> Offers {
        let streams = self.plan.streams;
        let rng = &mut self.rng;
        let mut yes = || if rng.bool() { "Yes" } else { "No" };
        let (initial_r2t, immediate) = (yes(), yes());
        // In a stream each write brings its page with it.
        let (immediate, least) = if streams { ("Yes", STREAM_BYTES) } else { (immediate, 0) };
        let burst = [512u32, 4_096, 16_384, 262_144][rng.usize(0..4)].max(least);
        let first = [512u32, 2_048, 65_536][rng.usize(0..3)].max(least).min(burst);
        let recv = [512u32, 1_024, 8_192, 65_536][rng.usize(0..4)];
        let digest = |on: bool| if on { "CRC32C,None" } else { "None" };
        let (header, data) = (self.digests && rng.bool(), self.digests && rng.bool());
        Offers::default()
            .with(name::INITIAL_R2T, initial_r2t)
            .with(name::IMMEDIATE_DATA, immediate)
            .with(name::MAX_BURST_LENGTH, &burst.to_string())
            .with(name::FIRST_BURST_LENGTH, &first.to_string())
            .with(name::MAX_RECV_DATA_SEGMENT_LENGTH, &recv.to_string())
            .with(name::MAX_OUTSTANDING_R2T, &rng.u32(1..=8).to_string())
            .with(name::ISCSI_PROTOCOL_LEVEL, if rng.bool() { "2" } else { "1" })
            .with(name::HEADER_DIGEST, digest(header))
            .with(name::DATA_DIGEST, digest(data))
    }

    fn take_in(&mut self, now: Tick) {
        let Some(pipe) = self.pipe else { return };
        loop {
            self.input.clear();
            let got = lock(&self.fabric).take_all(pipe, &mut self.input);
            match got {
                Got::Bytes(_) => {
                    let Some(engine) = &mut self.engine else { return };
                    engine.on_bytes(ns(now), &self.input);
                    self.on_events(now);
                    if self.pipe != Some(pipe) {
                        return;
                    }
                }
                Got::Nothing => return,
                Got::End | Got::Reset => {
                    trace!("port {}: pipe {} {got:?}", self.port, pipe.0);
                    return self.lost(now);
                }
            }
        }
    }

    fn put_out(&mut self) {
        let (Some(pipe), Some(engine)) = (self.pipe, &mut self.engine) else { return };
        let sent = lock(&self.fabric).write(pipe, Way::Up, engine.output());
        engine.consume(sent);
    }

    fn drop_connection(&mut self) {
        self.engine = None;
        if let Some(pipe) = self.pipe.take() {
            lock(&self.fabric).reset(pipe);
        }
    }

    /// The connection is gone: what was under way may still happen until the next login is granted.
    fn lost(&mut self, now: Tick) {
        self.drop_connection();
        self.orphan();
        if self.last {
            self.phase = Phase::Finished;
            return;
        }
        let wait_ms = if self.calm_since.is_some() { 5 } else { self.rng.u64(0..60) };
        self.phase = Phase::Away(now.plus_ms(wait_ms));
    }

    fn orphan(&mut self) {
        let mut judge = self.judge.lock();
        for (_, pending) in std::mem::take(&mut self.pending) {
            match pending.kind {
                Kind::Write { id } | Kind::Swap { id, .. } => {
                    self.orphans.push(Orphan::Write(pending.unit, id))
                }
                Kind::Change(change) => self.orphans.push(Orphan::Change(pending.unit, change)),
                Kind::Read { .. } | Kind::Sync { .. } | Kind::FlushLater | Kind::Unknown | Kind::Other => {}
            }
        }
        for (_, tmf) in std::mem::take(&mut self.tmfs) {
            self.orphans.extend(tmf.change.map(|change| Orphan::Change(0, change)));
            self.orphans.extend(tmf.sweeps.into_iter().map(|(unit, n)| Orphan::Sweep(unit, n)));
        }
        self.pings.clear();
        let away = matches!(self.phase, Phase::Up | Phase::Leaving(_));
        if away && self.plan.reserving == Reserving::Old {
            judge.units[0].reserve.begin();
            self.orphans.push(Orphan::Lost(0));
        }
    }

    /// The login is granted: of the old session nothing happens any more.
    fn bury(&mut self) {
        let mut judge = self.judge.lock();
        let now = judge.tick();
        for orphan in std::mem::take(&mut self.orphans) {
            let judged = match orphan {
                Orphan::Write(unit, id) => judge.units[unit].blocks.end(now, id, End::Unsure),
                Orphan::Change(unit, change) => {
                    judge.units[unit].reserve.end(self.port, change, Answer::Unknown)
                }
                Orphan::Lost(unit) => {
                    judge.units[unit].reserve.end(self.port, Change::NexusLost, Answer::Good)
                }
                Orphan::Sweep(unit, n) => {
                    // It stands in line at the home and may still come: a reset by somebody who is gone.
                    judge.units[unit].sweeps[n].by = usize::MAX;
                    Ok(())
                }
            };
            judge.hear(judged);
        }
    }

    // ---- what comes back

    fn on_events(&mut self, now: Tick) {
        while let Some(event) = self.engine.as_mut().and_then(|e| e.next_event()) {
            match event {
                Event::LoggedIn { tsih } => {
                    trace!("port {}: logged in, TSIH {tsih}", self.port);
                    self.bury();
                    self.flushes_later.clear();
                    self.phase = Phase::Up;
                    self.next_act = Some(now);
                    let params =
                        self.engine.as_ref().map(|e| (e.params().header_digest, e.params().data_digest));
                    if let (Some((header, data)), Some(pipe)) = (params, self.pipe) {
                        lock(&self.fabric).set_digests(pipe, header, data);
                    }
                    self.count("logins");
                }
                Event::LoginFailed { status, .. } => {
                    trace!("port {}: login refused: {status:?}", self.port);
                    self.count("logins refused");
                    return self.lost(now);
                }
                Event::Done(done) => self.done(now, done),
                Event::TmfDone { itt, result, ended } => {
                    let ended: Vec<u32> = ended.into_iter().map(|itt| itt.0).collect();
                    self.tmf_done(now, itt.0, result, &ended);
                }
                Event::Pong { itt, .. } => {
                    self.pings.remove(&itt.0);
                }
                Event::Rejected { reason, itt, .. } => self.rejected(reason, itt.map(|itt| itt.0)),
                Event::LoggedOut(_) => {
                    trace!("port {}: logged out", self.port);
                    return self.lost(now);
                }
                Event::Violation(violation) => {
                    self.complain(format!("port {}: protocol: {violation}", self.port));
                }
                Event::Async(message, _) => trace!("port {}: {message:?}", self.port),
                Event::Ping | Event::Text { .. } | Event::R2t(_) | Event::Silent { .. } => {}
                Event::Broken => return self.lost(now),
            }
            if self.engine.as_ref().is_some_and(|e| e.state() == State::Broken) {
                return self.lost(now);
            }
        }
    }

    fn rejected(&mut self, reason: RejectReason, itt: Option<u32>) {
        let task_management = itt.is_some_and(|itt| self.tmfs.contains_key(&itt));
        let allowed = match reason {
            RejectReason::TooManyImmediate => true,
            RejectReason::OutOfResources => task_management,
            // Data-Out that was asked for before the logout came.
            RejectReason::WaitingForLogout => matches!(self.phase, Phase::Leaving(_)),
            _ => false,
        };
        if !allowed {
            return self.complain(format!("port {}: Reject {reason:?} of {itt:x?}", self.port));
        }
        let Some(itt) = itt else { return };
        self.count("rejects");
        self.pings.remove(&itt);
        if let Some(tmf) = self.tmfs.remove(&itt) {
            self.close_sweeps(&tmf.sweeps, tmf.change, Answer::Nothing);
        }
        if let Some(pending) = self.pending.remove(&itt) {
            self.conclude(&pending, End::Refused, Answer::Nothing);
        }
    }

    // ---- patience

    fn watch(&mut self, now: Tick) {
        if self.phase != Phase::Up {
            return;
        }
        let patience = if self.calm_since.is_some() { CALM_PATIENCE } else { PATIENCE };
        let calm = self.calm_since;
        let late = |sent: Tick| now >= sent.max(calm.unwrap_or_default()) + patience;
        if self.tmfs.values().any(|t| late(t.sent)) {
            if calm.is_some() {
                let list: Vec<_> = self.tmfs.values().map(|t| t.function).collect();
                self.complain(format!("port {}: task management is not answered: {list:?}", self.port));
            }
            return self.lost(now);
        }
        let late: Vec<u32> =
            self.pending.iter().filter(|(_, p)| !p.aborting && late(p.sent)).map(|(itt, _)| *itt).collect();
        for itt in late {
            let pending = self.pending.get_mut(&itt).expect("listed just above");
            pending.aborting = true;
            let (unit, invoked, what) = (pending.unit, pending.invoked, pending.kind.name());
            if calm.is_some() && !self.judge.lock().may_be_swept(unit, self.port, invoked) {
                self.complain(format!(
                    "port {}: {what} {itt:#x} on unit {unit} is never answered",
                    self.port
                ));
            }
            self.count("commands without an answer");
            self.send_tmf(now, TmfFunction::AbortTask, unit, Some(itt), true);
        }
    }

    // ---- words

    fn complain(&self, why: String) {
        self.judge.lock().complain(why);
    }

    fn count(&self, what: &str) {
        self.judge.lock().count(what);
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Kind::Read { .. } => "read",
            Kind::Write { .. } => "write",
            Kind::Swap { .. } => "compare and write",
            Kind::Sync { .. } => "synchronize cache",
            Kind::FlushLater => "synchronize cache with IMMED",
            Kind::Change(_) => "reservation",
            Kind::Unknown => "unknown command",
            Kind::Other => "command",
        }
    }
}

fn ns(now: Tick) -> Duration {
    Duration::from_nanos(now.0)
}

fn closes(judge: &mut Judge, sweeps: &[(usize, usize)]) {
    let now = judge.tick();
    for &(unit, n) in sweeps {
        judge.units[unit].sweeps[n].answered = Some(now);
    }
}
