//! Taking one sample of one contender.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::spec::{Item, Kind};
use super::{Plan, Running, Sample, Spread};
use crate::distance::{self, Class};
use crate::load::{self, Quiet};
use crate::report::{Report, Stats};
use crate::units;
use crate::wire::{self, Calls, Direction, Shape};
use crate::workload::{Mix, Rate, Workload};

/// Rounds in which targets are looked at with nothing to do: that takes long and varies little.
const IDLE_ROUNDS: u32 = 2;
/// Pause between looks at sessions that stand idle.
const IDLE_LOOK: Duration = Duration::from_millis(20);
/// Until the target has noticed that a thousand sessions are gone.
const IDLE_GONE: Duration = Duration::from_millis(200);

/// What a sample came to.
struct Found {
    report: Report,
    /// Percent of a core the target used.
    cpu: Option<f64>,
    session_bytes: Option<f64>,
    /// The rate with nobody idle beside it.
    alone: Option<f64>,
}

impl Found {
    fn of(report: Report) -> Self {
        Self { report, cpu: None, session_bytes: None, alone: None }
    }
}

/// One side.
pub enum Contender {
    /// A target.
    Target(Running),
    /// The wire, with the best way found for each row and class of distance.
    Wire {
        /// Data in 256 MiB.
        cold: bool,
        /// Batch and way of calling.
        best: Vec<[Option<(usize, Calls)>; Class::ALL.len()]>,
    },
}

impl Contender {
    /// The wire, nothing known of it yet.
    pub fn wire(cold: bool, rows: usize) -> Self {
        Self::Wire { cold, best: vec![Default::default(); rows] }
    }
}

/// Takes samples, and keeps what it learned for them.
pub struct Sampler<'a> {
    plan: &'a Plan,
    contenders: Vec<Contender>,
    /// Rates of open loops by row and class: of each round in which one was found.
    rates: Vec<[Vec<(u32, f64)>; Class::ALL.len()]>,
}

impl<'a> Sampler<'a> {
    /// Of these.
    pub fn new(plan: &'a Plan, contenders: Vec<Contender>) -> Self {
        Self { plan, contenders, rates: vec![Default::default(); plan.items.len()] }
    }

    /// What open loops ran at: the median over rounds.
    pub fn rates(&self) -> Vec<(usize, Class, f64)> {
        let of = |row: usize, class: Class| {
            let found = self.rates[row][class as usize].iter().map(|&(_, rate)| rate).collect();
            Some((row, class, Spread::of(found)?.median))
        };
        (0..self.rates.len()).flat_map(|row| Class::ALL.map(|class| of(row, class))).flatten().collect()
    }

    /// One sample; `None` where a row says nothing about a contender.
    pub fn sample(
        &mut self,
        item: &Item,
        row: usize,
        round: u32,
        who: usize,
        say: &mut impl FnMut(&str),
    ) -> Result<Option<Sample>> {
        let plan = self.plan;
        let measure = || distance::measure(plan.target_cpu, plan.generator_cpu);
        let mut before = measure()?;
        let found = match (&self.contenders[who], &item.kind) {
            (Contender::Target(running), Kind::Load { work, .. }) if work.idle_sessions > 0 => {
                let work = timed(plan, work);
                Some(with_running(running, |running| beside_idle(running, &work))?)
            }
            (Contender::Target(_), Kind::Load { work, open_percent }) => {
                let mut work = timed(plan, work);
                if let Some(percent) = open_percent {
                    work.rate = Some(self.rate(&work, (row, round), Class::of(before), *percent, say)?);
                    before = measure()?;
                }
                Some(with_running(self.target(who), |running| {
                    let used = running.cpu_seconds();
                    let clock = Instant::now();
                    let report = load::run(running.url(), &work)?;
                    let cpu = busy_percent(used, running.cpu_seconds(), clock);
                    Ok(Found { cpu, ..Found::of(report) })
                })?)
            }
            (Contender::Target(_), Kind::Idle { .. }) if round >= IDLE_ROUNDS => None,
            (Contender::Target(running), Kind::Idle { sessions }) => {
                Some(with_running(running, |running| idle(plan, running, *sessions))?)
            }
            (Contender::Wire { .. }, Kind::Load { work, open_percent: None }) => {
                let shape = self.shape(work, row, who, Class::of(before))?;
                if shape.is_some() {
                    before = measure()?;
                }
                shape.map(|shape| anyhow::Ok(Found::of(wire::run(&shape)?))).transpose()?
            }
            (Contender::Wire { .. }, _) => None,
        };
        let Some(Found { report, cpu, session_bytes, alone }) = found else { return Ok(None) };
        let after = measure()?;
        let (from, to) = (Class::of(before), Class::of(after));
        let class = (from == to).then_some(from);
        let discarded = if class.is_none() {
            Some(format!("the cores moved from {} to {}", from.name(), to.name()))
        } else {
            plan.preempted_max
                .filter(|&max| report.preempted as f64 > max as f64 * report.seconds)
                .map(|_| format!("the generator lost its core {} times", report.preempted))
        };
        Ok(Some(Sample {
            round,
            item: row,
            contender: who,
            distance_ns: (before, after),
            class,
            report,
            target_cpu_percent: cpu,
            // What a session needed stays with the target when it ends: only the first time tells.
            session_bytes: session_bytes.filter(|_| round == 0),
            alone,
            discarded,
        }))
    }

    fn target(&self, who: usize) -> &Running {
        let Contender::Target(running) = &self.contenders[who] else { unreachable!("asked of a target") };
        running
    }

    /// An open loop runs at a share of what the slowest target saturates at: found in each round, as the machine's speed
    /// changes, and the same for all in it.
    fn rate(
        &mut self,
        work: &Workload,
        (row, round): (usize, u32),
        class: Class,
        percent: u8,
        say: &mut impl FnMut(&str),
    ) -> Result<Rate> {
        let found = self.rates[row][class as usize].last().filter(|(when, _)| *when == round);
        let per_second = match found {
            Some(&(_, rate)) => rate,
            None => {
                let mut slowest = f64::INFINITY;
                for contender in &self.contenders {
                    if let Contender::Target(running) = contender {
                        let report = with_running(running, |running| load::run(running.url(), work))?;
                        slowest = slowest.min(report.ops_per_second);
                    }
                }
                ensure!(slowest.is_finite() && slowest > 0.0, "no target to find the rate with");
                let saturated = units::thousands(slowest);
                say(&format!("{}: the slowest saturates at {saturated}/s, {}", work.name(), class.name()));
                let rate = slowest * f64::from(percent) / 100.0;
                self.rates[row][class as usize].push((round, rate));
                rate
            }
        };
        Ok(Rate { per_second, poisson: true })
    }

    /// The wire in the shape of a workload. All ways are tried once in each class; samples take the best.
    fn shape(&mut self, work: &Workload, row: usize, who: usize, class: Class) -> Result<Option<Shape>> {
        let plan = self.plan;
        let Contender::Wire { cold, best } = &mut self.contenders[who] else { return Ok(None) };
        let direction = match work.mix {
            Mix::READ => Direction::Read,
            Mix::WRITE => Direction::Write,
            _ => return Ok(None),
        };
        if work.header_digest || work.data_digest || work.idle_sessions > 0 {
            return Ok(None);
        }
        let shape = Shape {
            direction,
            bs: work.bs as usize,
            depth: work.depth.into(),
            connections: work.sessions as usize * usize::from(work.connections),
            batch: 0,
            cold: *cold,
            calls: Calls::Sockets,
            warmup: plan.warmup,
            time: plan.time,
            responder_cpu: plan.target_cpu,
            generator_cpu: plan.generator_cpu,
        };
        let known = &mut best[row][class as usize];
        let (batch, calls) = match *known {
            Some(way) => way,
            None => *known.insert(wire::best_way(&shape)?),
        };
        Ok(Some(Shape { batch, calls, ..shape }))
    }
}

fn timed(plan: &Plan, work: &Workload) -> Workload {
    Workload { time: plan.time, warmup: plan.warmup, cpus: vec![plan.generator_cpu], ..work.clone() }
}

fn with_running<T>(running: &Running, body: impl FnOnce(&Running) -> Result<T>) -> Result<T> {
    running.resume()?;
    let result = body(running);
    running.pause()?;
    result
}

fn busy_percent(before: Option<f64>, after: Option<f64>, clock: Instant) -> Option<f64> {
    Some((after? - before?) / clock.elapsed().as_secs_f64() * 100.0)
}

/// Some sessions logged in, and nothing asked of them but what a target asks by itself: what they cost in time and memory.
fn idle(plan: &Plan, running: &Running, sessions: u32) -> Result<Found> {
    let work = Workload { cpus: vec![plan.generator_cpu], ..Workload::default() };
    let resident = running.resident_bytes();
    let mut open = Quiet::log_in(running.url(), &work, 0..sessions).context("idle sessions")?;
    let hold = |open: &mut Quiet, time: Duration| -> Result<()> {
        let clock = Instant::now();
        while clock.elapsed() < time {
            open.answer_all()?;
            std::thread::sleep(IDLE_LOOK);
        }
        Ok(())
    };
    hold(&mut open, plan.warmup.max(Duration::from_millis(500)))?;
    let (used, clock) = (running.cpu_seconds(), Instant::now());
    hold(&mut open, plan.idle_time)?;
    let cpu = busy_percent(used, running.cpu_seconds(), clock);
    let added = running.resident_bytes().zip(resident).map(|(after, before)| after.saturating_sub(before));
    let report = Report::of(format!("idle with {sessions} sessions"), &Stats::default(), 1.0, 0);
    // Of a few sessions the pages they share would say more than they do.
    let session_bytes = added.filter(|_| sessions >= 100).map(|bytes| bytes as f64 / f64::from(sessions));
    Ok(Found { cpu, session_bytes, ..Found::of(report) })
}

/// The busy sessions alone, with the idle ones beside them, and alone again: three looks within a second or two, as the
/// machine's speed changes by more than idle sessions cost. Nobody asks the idle ones meanwhile: what is compared is the
/// target.
fn beside_idle(running: &Running, work: &Workload) -> Result<Found> {
    let busy = Workload { idle_sessions: 0, ..work.clone() };
    let before = load::run(running.url(), &busy)?;
    let numbers = work.sessions..work.sessions + work.idle_sessions;
    let mut idle = Quiet::log_in(running.url(), work, numbers).context("idle sessions")?;
    idle.answer_all()?;
    let report = load::run(running.url(), &busy)?;
    idle.answer_all()?;
    drop(idle);
    std::thread::sleep(IDLE_GONE);
    let after = load::run(running.url(), &busy)?;
    let alone = f64::midpoint(before.ops_per_second, after.ops_per_second);
    Ok(Found { alone: Some(alone), ..Found::of(report) })
}
