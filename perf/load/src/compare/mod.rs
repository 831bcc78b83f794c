//! A against B, in turns, in one run.
//!
//! All targets are started once and stand still (SIGSTOP) except the one being measured, so that a target that spins
//! takes nothing from its neighbours and a sample costs no start. In each round every workload goes through all
//! contenders, in an order that rotates from round to round; the distance of the two cores is measured before and after
//! each sample, and a sample during which it changed class is thrown away. Ratios are formed within a round and a class
//! only, and reported with their spread.

mod plot;
mod process;
mod spec;
mod table;
mod target;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use spindle_ffi_os::cpu;

pub use self::plot::svg;
pub use self::spec::{ContenderSpec, Item, Kind, parse_items, preset};
pub use self::table::markdown;
pub use self::target::Running;
use crate::distance::{self, Class};
use crate::report::Report;
use crate::wire::{self, Calls, Direction, Shape};
use crate::workload::{Mix, Rate, Workload};
use crate::{load, units};

/// What to compare.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The first is the subject: ratios are its figure by the others'.
    pub contenders: Vec<ContenderSpec>,
    /// Rows.
    pub items: Vec<Item>,
    /// Rounds.
    pub rounds: u32,
    /// Seconds counted in each sample.
    pub time: Duration,
    /// Seconds before.
    pub warmup: Duration,
    /// Processor of the targets.
    pub target_cpu: u32,
    /// Processor of the generator.
    pub generator_cpu: u32,
    /// Samples during which the generator lost its core more often than this each second are thrown away.
    pub preempted_max: Option<u64>,
}

/// One figure of one row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Commands a second.
    Rate,
    /// Median latency.
    P50,
    /// 99 of 100.
    P99,
    /// 999 of 1,000.
    P999,
    /// Share of a core the target used.
    Cpu,
    /// Resident bytes a session added.
    SessionBytes,
}

impl Metric {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "per second",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Cpu => "CPU",
            Self::SessionBytes => "memory of a session",
        }
    }

    /// A value as text.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Rate => units::thousands(value),
            Self::P50 | Self::P99 | Self::P999 => format!("{value:.1} µs"),
            Self::Cpu => format!("{value:.1} %"),
            Self::SessionBytes => format!("{:.1} KiB", value / 1024.0),
        }
    }
}

/// One sample.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Round.
    pub round: u32,
    /// Row.
    pub item: usize,
    /// Contender.
    pub contender: usize,
    /// One way before, after.
    pub distance_ns: (f64, f64),
    /// Their class; `None` if it changed.
    pub class: Option<Class>,
    /// What was measured.
    pub report: Report,
    /// Percent of a core the target used meanwhile; `None` for the wire.
    pub target_cpu_percent: Option<f64>,
    /// Resident bytes each idle session added.
    pub session_bytes: Option<f64>,
    /// Why the sample does not count.
    pub discarded: Option<String>,
}

impl Sample {
    /// A figure of it.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        let latency = self.report.latency;
        match metric {
            Metric::Rate => Some(self.report.ops_per_second),
            Metric::P50 => Some(latency.p50),
            Metric::P99 => Some(latency.p99),
            Metric::P999 => Some(latency.p999),
            Metric::Cpu => self.target_cpu_percent,
            Metric::SessionBytes => self.session_bytes,
        }
    }
}

/// What is known of a target besides its samples.
#[derive(Clone, Debug, Serialize)]
pub struct Started {
    /// From its start to the first login answered.
    pub start_ms: f64,
    /// Resident bytes once it had started.
    pub resident_bytes: u64,
}

/// A finished comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Names of the contenders.
    pub contenders: Vec<String>,
    /// What each needed to start; `None` for what was running already, and for the wire.
    pub started: Vec<Option<Started>>,
    /// Rows: name and figures.
    pub items: Vec<(String, Vec<Metric>)>,
    /// All samples.
    pub samples: Vec<Sample>,
    /// Rows a contender could not do, and why.
    pub failures: Vec<(usize, usize, String)>,
}

enum Contender {
    Target(Running),
    /// The wire, with the best batch found for each row.
    Wire {
        cold: bool,
        best: Vec<Option<usize>>,
    },
}

/// Carries a plan out. `say` hears of each sample.
pub fn run(plan: &Plan, mut say: impl FnMut(&str)) -> Result<Outcome> {
    ensure!(!plan.contenders.is_empty() && !plan.items.is_empty() && plan.rounds > 0, "nothing to compare");
    let mut contenders = Vec::new();
    let mut started = Vec::new();
    for spec in &plan.contenders {
        if let ContenderSpec::Wire { cold, .. } = spec {
            contenders.push(Contender::Wire { cold: *cold, best: vec![None; plan.items.len()] });
            started.push(None);
            continue;
        }
        say(&format!("starting {}", spec.name()));
        let (running, facts) =
            target::start(spec, plan.target_cpu).with_context(|| format!("start of {}", spec.name()))?;
        running.pause()?;
        contenders.push(Contender::Target(running));
        started.push(facts);
    }
    let mut outcome = Outcome {
        contenders: plan.contenders.iter().map(ContenderSpec::name).collect(),
        started,
        items: plan.items.iter().map(|item| (item.name(), item.metrics())).collect(),
        samples: Vec::new(),
        failures: Vec::new(),
    };
    cpu::pin_to(&[plan.generator_cpu]).with_context(|| format!("processor {}", plan.generator_cpu))?;
    let mut items = plan.items.clone();
    for round in 0..plan.rounds {
        for (n, item) in items.iter_mut().enumerate() {
            if round == 0
                && let Err(error) = settle_rate(plan, item, &mut contenders, &mut say)
            {
                outcome.failures.extend((0..contenders.len()).map(|c| (n, c, format!("{error:#}"))));
            }
            for turn in 0..contenders.len() {
                let who = (turn + round as usize) % contenders.len();
                if outcome.failures.iter().any(|&(i, c, _)| (i, c) == (n, who)) {
                    continue;
                }
                match sample(plan, item, n, round, who, &mut contenders[who]) {
                    Ok(Some(sample)) => {
                        say(&describe(&sample, &outcome));
                        outcome.samples.push(sample);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let text = format!("{error:#}");
                        say(&format!("{}: {}: {text}", outcome.items[n].0, outcome.contenders[who]));
                        outcome.failures.push((n, who, text));
                    }
                }
            }
        }
    }
    outcome.items = items.iter().map(|item| (item.name(), item.metrics())).collect();
    Ok(outcome)
}

fn describe(sample: &Sample, outcome: &Outcome) -> String {
    let (item, metrics) = &outcome.items[sample.item];
    let figures: Vec<String> = metrics
        .iter()
        .filter_map(|&metric| Some(format!("{} {}", metric.name(), metric.text(sample.value(metric)?))))
        .collect();
    let (before, after) = sample.distance_ns;
    let discarded = sample.discarded.as_ref().map_or(String::new(), |why| format!("  DISCARDED: {why}"));
    format!(
        "round {} | {item} | {:<12} | {} | {before:.0} -> {after:.0} ns{discarded}",
        sample.round + 1,
        outcome.contenders[sample.contender],
        figures.join(", ")
    )
}

/// An open loop runs at a share of what the slowest target saturates at: found once, for all the same.
fn settle_rate(
    plan: &Plan,
    item: &mut Item,
    contenders: &mut [Contender],
    say: &mut impl FnMut(&str),
) -> Result<()> {
    let Kind::Load { work, open_percent: Some(percent) } = &mut item.kind else { return Ok(()) };
    if work.rate.is_some() {
        return Ok(());
    }
    let mut slowest = f64::INFINITY;
    for contender in contenders {
        if let Contender::Target(running) = contender {
            let report = with_running(running, || load::run(running.url(), &timed(plan, work)))?;
            slowest = slowest.min(report.ops_per_second);
        }
    }
    ensure!(slowest.is_finite() && slowest > 0.0, "no target to find the rate with");
    let per_second = slowest * f64::from(*percent) / 100.0;
    say(&format!("{}: the slowest saturates at {}/s", work.name(), units::thousands(slowest)));
    work.rate = Some(Rate { per_second, poisson: true });
    Ok(())
}

fn timed(plan: &Plan, work: &Workload) -> Workload {
    Workload { time: plan.time, warmup: plan.warmup, cpus: vec![plan.generator_cpu], ..work.clone() }
}

fn with_running<T>(running: &Running, body: impl FnOnce() -> Result<T>) -> Result<T> {
    running.resume()?;
    let result = body();
    running.pause()?;
    result
}

fn sample(
    plan: &Plan,
    item: &Item,
    n: usize,
    round: u32,
    who: usize,
    contender: &mut Contender,
) -> Result<Option<Sample>> {
    let before = distance::measure(plan.target_cpu, plan.generator_cpu)?;
    let (report, cpu, session_bytes) = match (contender, &item.kind) {
        (Contender::Target(running), Kind::Load { work, .. }) => with_running(running, || {
            let used = running.cpu_seconds();
            let clock = Instant::now();
            let report = load::run(running.url(), &timed(plan, work))?;
            let cpu = busy_percent(used, running.cpu_seconds(), clock);
            Ok((report, cpu, None))
        })?,
        (Contender::Target(running), Kind::Idle { sessions }) => {
            with_running(running, || idle(plan, running, *sessions))?
        }
        (Contender::Wire { cold, best }, Kind::Load { work, .. }) => {
            match wire_sample(plan, work, *cold, &mut best[n])? {
                Some(report) => (report, None, None),
                None => return Ok(None),
            }
        }
        (Contender::Wire { .. }, Kind::Idle { .. }) => return Ok(None),
    };
    let after = distance::measure(plan.target_cpu, plan.generator_cpu)?;
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
        item: n,
        contender: who,
        distance_ns: (before, after),
        class,
        report,
        target_cpu_percent: cpu,
        // What a session needed stays with the target when it ends: only the first time tells.
        session_bytes: session_bytes.filter(|_| round == 0),
        discarded,
    }))
}

fn busy_percent(before: Option<f64>, after: Option<f64>, clock: Instant) -> Option<f64> {
    Some((after? - before?) / clock.elapsed().as_secs_f64() * 100.0)
}

/// Some sessions logged in, and nothing asked of them: what they cost in time and memory.
fn idle(plan: &Plan, running: &Running, sessions: u32) -> Result<(Report, Option<f64>, Option<f64>)> {
    let _ = spindle_ffi_os::limit::raise_open_files();
    let work = Workload { cpus: vec![plan.generator_cpu], ..Workload::default() };
    let resident = running.resident_bytes();
    let open: Result<Vec<_>> = (0..sessions)
        .map(|n| crate::session::login(running.url(), &work, crate::session::Place::first_of(n)))
        .collect();
    let open = open?;
    std::thread::sleep(plan.warmup.max(Duration::from_millis(500)));
    let (used, clock) = (running.cpu_seconds(), Instant::now());
    std::thread::sleep(plan.time.max(Duration::from_secs(1)));
    let cpu = busy_percent(used, running.cpu_seconds(), clock);
    let added = running.resident_bytes().zip(resident).map(|(after, before)| after.saturating_sub(before));
    drop(open);
    let report =
        Report::of(format!("idle with {sessions} sessions"), &crate::report::Stats::default(), 1.0, 0);
    // Of a few sessions the pages they share would say more than they do.
    let each = added.filter(|_| sessions >= 100).map(|bytes| bytes as f64 / f64::from(sessions));
    Ok((report, cpu, each))
}

/// The wire in the shape of a workload. All batches are tried once; later rounds take the best.
fn wire_sample(plan: &Plan, work: &Workload, cold: bool, best: &mut Option<usize>) -> Result<Option<Report>> {
    let direction = match work.mix {
        Mix::READ => Direction::Read,
        Mix::WRITE => Direction::Write,
        _ => return Ok(None),
    };
    if work.rate.is_some() || work.header_digest || work.data_digest || work.idle_sessions > 0 {
        return Ok(None);
    }
    let mut shape = Shape {
        direction,
        bs: work.bs as usize,
        depth: work.depth.into(),
        connections: work.sessions as usize * usize::from(work.connections),
        batch: 0,
        cold,
        calls: Calls::Sockets,
        warmup: plan.warmup,
        time: plan.time,
        responder_cpu: plan.target_cpu,
        generator_cpu: plan.generator_cpu,
    };
    if best.is_none() {
        let batches = wire::batches(shape.bs);
        shape.batch = batches[0];
        let (samples, fastest) = wire::limit(&shape, batches, &[Calls::Sockets])?;
        *best = Some(samples[fastest].batch);
    }
    let Some(batch) = *best else { bail!("no batch was tried") };
    wire::run(&Shape { batch, ..shape }).map(Some)
}
