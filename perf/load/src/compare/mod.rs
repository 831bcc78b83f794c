//! A against B, in turns, in one run.
//!
//! All targets are started once and stand still (SIGSTOP) except the one being measured, so that a target that spins
//! takes nothing from its neighbours and a sample costs no start. In each round every workload goes through all
//! contenders, in an order that rotates from round to round; the distance of the two cores is measured before and after
//! each sample, and a sample during which it changed class is thrown away. Ratios are formed within a round and a class
//! only, and reported with their spread. What is found out before sampling is found out for each class: the best batch
//! of the wire once, the rate of an open loop in each round.

mod goals;
mod plot;
mod process;
mod result;
mod sample;
mod spec;
mod table;
mod target;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use spindle_ffi_os::cpu;

pub use self::goals::goals;
pub use self::plot::svg;
pub use self::result::{Metric, Outcome, Row, Sample, Started};
use self::sample::{Contender, Sampler};
use self::spec::Lun;
pub use self::spec::{ContenderSpec, Item, Kind, parse_items, preset};
pub use self::table::{Spread, markdown};
pub use self::target::{Running, start as start_target};
use crate::load;
use crate::workload::{Mix, Order, Workload};

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
    /// Seconds for which processor time is counted where nothing is asked.
    pub idle_time: Duration,
    /// Samples during which the generator lost its core more often than this each second are thrown away.
    pub preempted_max: Option<u64>,
}

/// Carries a plan out. `say` hears of each sample.
pub fn run(plan: &Plan, mut say: impl FnMut(&str)) -> Result<Outcome> {
    ensure!(!plan.contenders.is_empty() && !plan.items.is_empty() && plan.rounds > 0, "nothing to compare");
    let mut contenders = Vec::new();
    let mut started = Vec::new();
    for spec in &plan.contenders {
        if let ContenderSpec::Wire { cold, .. } = spec {
            contenders.push(Contender::wire(*cold, plan.items.len()));
            started.push(None);
            continue;
        }
        say(&format!("starting {}", spec.name()));
        let (running, facts) =
            target::start(spec, &[plan.target_cpu]).with_context(|| format!("start of {}", spec.name()))?;
        fill(&running, spec, plan.generator_cpu).with_context(|| format!("filling {}", spec.name()))?;
        running.pause()?;
        contenders.push(Contender::Target(running));
        started.push(facts);
    }
    let row = |item: &Item| Row { key: item.key.clone(), name: item.name(), metrics: item.metrics() };
    let mut outcome = Outcome {
        contenders: plan.contenders.iter().map(ContenderSpec::name).collect(),
        kinds: plan.contenders.iter().map(|spec| spec.kind().to_owned()).collect(),
        started,
        rows: plan.items.iter().map(row).collect(),
        rates: Vec::new(),
        samples: Vec::new(),
        failures: Vec::new(),
    };
    cpu::pin_to(&[plan.generator_cpu]).with_context(|| format!("processor {}", plan.generator_cpu))?;
    let mut sampler = Sampler::new(plan, contenders);
    for round in 0..plan.rounds {
        for (n, item) in plan.items.iter().enumerate() {
            for turn in 0..plan.contenders.len() {
                let who = (turn + round as usize) % plan.contenders.len();
                if outcome.failures.iter().any(|&(i, c, _)| (i, c) == (n, who)) {
                    continue;
                }
                match sampler.sample(item, n, round, who, &mut say) {
                    Ok(Some(sample)) => {
                        say(&describe(&sample, &outcome));
                        outcome.samples.push(sample);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let text = format!("{error:#}");
                        say(&format!("{}: {}: {text}", outcome.rows[n].name, outcome.contenders[who]));
                        outcome.failures.push((n, who, text));
                    }
                }
            }
        }
    }
    outcome.rates = sampler.rates();
    Ok(outcome)
}

fn describe(sample: &Sample, outcome: &Outcome) -> String {
    let row = &outcome.rows[sample.item];
    let figures: Vec<String> = row
        .metrics
        .iter()
        .filter_map(|&metric| Some(format!("{} {}", metric.name(), metric.text(sample.value(metric)?))))
        .collect();
    let (before, after) = sample.distance_ns;
    let discarded = sample.discarded.as_ref().map_or(String::new(), |why| format!("  DISCARDED: {why}"));
    format!(
        "round {} | {} | {:<12} | {} | {before:.0} -> {after:.0} ns{discarded}",
        sample.round + 1,
        row.name,
        outcome.contenders[sample.contender],
        figures.join(", ")
    )
}

/// Writes every page of a disk in memory once: what a first write pays the system for a page is not what is compared.
pub(crate) fn fill(running: &Running, spec: &ContenderSpec, cpu: u32) -> Result<()> {
    let (ContenderSpec::Spindle(program) | ContenderSpec::Spdk(program)) = spec else { return Ok(()) };
    if program.lun != Lun::Ram {
        return Ok(());
    }
    let bs = 128 << 10;
    let work = Workload {
        mix: Mix::WRITE,
        bs,
        order: Order::Sequential,
        span_bytes: Some(program.size),
        ops: Some(program.size / u64::from(bs)),
        warmup: Duration::ZERO,
        time: Duration::from_secs(60),
        cpus: vec![cpu],
        ..Workload::default()
    };
    load::run(running.url(), &work).map(drop)
}
