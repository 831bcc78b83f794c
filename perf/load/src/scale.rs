//! What a second core brings, on a machine that has no cores to spare.
//!
//! Target and generator share the same two processors, so commands a second say little: what the target may use is what
//! the generator leaves. What can be judged is the *cost* of a command: the time the target's cores were busy, by
//! commands. They count the time of turns that found something to do apart from those that found nothing (spinning,
//! giving the processor to the generator); a busy turn takes some ten microseconds, so that it is rarely interrupted. Both
//! are measured under the same load, with the target on one processor and on both, in turns. If a command costs `a` on one core and `b` on two, two cores of their own would do `2 × a / b` times
//! the work of one: 2 if nothing is shared, less if cores hinder each other.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::compare::{ContenderSpec, Item, Kind, Running, Spread, start_target};
use crate::load;
use crate::units::thousands;
use crate::workload::Workload;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The target: a Spindle, as only that tells busy from idle.
    pub contender: ContenderSpec,
    /// Rows; each with as many sessions as it says, on each of the processors.
    pub items: Vec<Item>,
    /// Rounds.
    pub rounds: u32,
    /// Seconds counted in each sample.
    pub time: Duration,
    /// Both processors.
    pub cpus: (u32, u32),
}

/// One sample.
#[derive(Clone, Copy, Debug)]
struct Cost {
    per_second: f64,
    /// Time the target's cores were busy for a command.
    busy_ns: f64,
}

/// Measures, and prints a table.
pub fn run(plan: &Plan, mut say: impl FnMut(&str)) -> Result<String> {
    let cpus = [plan.cpus.0, plan.cpus.1];
    let targets = [start_target(&plan.contender, &cpus[..1])?.0, start_target(&plan.contender, &cpus)?.0];
    targets.iter().try_for_each(Running::pause)?;
    let mut out = String::from(
        "| work | one core, ns each | two cores, ns each | two cores do the work of | commands a second, generator beside |\n\
         |---|---:|---:|---:|---:|\n",
    );
    for item in &plan.items {
        let Kind::Load { work, open_percent: None } = &item.kind else { continue };
        let work = Workload {
            sessions: work.sessions * 2,
            cpus: cpus.to_vec(),
            time: plan.time,
            // All that is asked is counted, since all of it costs.
            warmup: Duration::ZERO,
            ..work.clone()
        };
        let mut rounds = Vec::new();
        for round in 0..plan.rounds {
            let mut costs = [None; 2];
            // Each is first in every other round.
            for turn in 0..2 {
                let n = (turn + round as usize) % 2;
                targets[n].resume()?;
                let cost = sample(&targets[n], &work);
                targets[n].pause()?;
                costs[n] = Some(cost.with_context(|| work.name())?);
            }
            let [Some(one), Some(two)] = costs else { continue };
            say(&format!("{}: {:.0} and {:.0} ns", work.name(), one.busy_ns, two.busy_ns));
            rounds.push((one, two));
        }
        let spread = |of: fn(&(Cost, Cost)) -> f64| {
            Spread::of(rounds.iter().map(of).collect()).context("no round was measured")
        };
        let (one, two) = (spread(|r| r.0.busy_ns)?, spread(|r| r.1.busy_ns)?);
        let times = spread(|r| 2.0 * r.0.busy_ns / r.1.busy_ns)?;
        let (slow, fast) = (spread(|r| r.0.per_second)?, spread(|r| r.1.per_second)?);
        let _ = writeln!(
            out,
            "| {} | {:.0} | {:.0} | **{:.2}** ({:.2}–{:.2}) | {}; {} |",
            work.name(),
            one.median,
            two.median,
            times.median,
            times.min,
            times.max,
            thousands(slow.median),
            thousands(fast.median)
        );
    }
    Ok(out)
}

fn sample(running: &Running, work: &Workload) -> Result<Cost> {
    let busy = running.busy_ns()?;
    let report = load::run(running.url(), work)?;
    let busy_ns = (running.busy_ns()? - busy) as f64 / report.latency.count as f64;
    Ok(Cost { per_second: report.ops_per_second, busy_ns })
}
