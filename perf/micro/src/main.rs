//! How many instructions of ours a command costs.
//!
//! A whole core of the target ([`spindle::shard::Core`]) runs in one thread over a network that only moves pointers
//! ([`quiet_net`]): PDUs go in, PDUs come out, and what lies between is iSCSI, the SCSI mid-level, the pool and the
//! device. `valgrind --tool=callgrind` counts while `world::measured_turn` runs and at no other time, so that neither
//! set-up nor the making of PDUs is counted, and what the stand-in for a network does is taken out; instructions do not depend on the machine's mood as nanoseconds do.
//!
//! * `spindle-micro run SCENARIO COUNT` drives commands: what valgrind runs.
//! * `spindle-micro check` runs all scenarios under valgrind, prints instructions per command and where they are spent
//!   (by source folder, code in line counted where it was written), and fails if one exceeds `budget.toml`.

#![forbid(unsafe_code)]

mod alone;
mod budget;
mod callgrind;
mod device;
mod parts;
mod quiet_net;
mod scenario;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::budget::Budget;
use crate::scenario::Scenario;

/// Counts instructions per command.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drive one scenario; counted when run under callgrind
    Run {
        /// Which
        scenario: Scenario,
        /// Commands
        count: u32,
    },
    /// Count all scenarios under valgrind and hold them against the budget
    Check {
        /// Only these
        scenarios: Vec<Scenario>,
        /// The budget
        #[arg(long, default_value = "perf/micro/budget.toml")]
        budget: PathBuf,
        /// Print the folders and files in which the instructions are spent
        #[arg(long)]
        where_spent: bool,
        /// Print the functions that spend them, without what they call
        #[arg(long)]
        functions: bool,
        /// Keep callgrind's files in this folder, for callgrind_annotate
        #[arg(long)]
        keep: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run { scenario, count } => scenario.run(count),
        Command::Check { scenarios, budget, where_spent, functions, keep } => {
            check(&scenarios, &budget, (where_spent, functions), keep.as_deref())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spindle-micro: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Idle sessions and units may not be noticed; what is left are the odd longer search and the table that grew.
const TWIN_RATIO_MAX: f64 = 1.01;

fn check(
    only: &[Scenario],
    budget: &Path,
    (where_spent, functions): (bool, bool),
    keep: Option<&Path>,
) -> Result<()> {
    let budget = Budget::read(budget)?;
    let all = Scenario::all();
    let scenarios = if only.is_empty() { &all[..] } else { only };
    let mut over = Vec::new();
    println!("| scenario | instructions each | at most | goal |");
    println!("|---|---:|---:|---:|");
    for &scenario in scenarios {
        let profile = callgrind::profile(scenario, keep)?;
        let each = profile.per_command();
        let limit = budget.of(scenario.name());
        let show = |figure: Option<u32>| figure.map_or("–".to_owned(), |figure| figure.to_string());
        let (most, goal) = (limit.map(|l| l.most), limit.and_then(|l| l.goal));
        println!("| {} | {each:.0} | {} | {} |", scenario.name(), show(most), show(goal));
        if where_spent {
            for (place, cost) in profile.by_place() {
                println!("|   {place} | {cost:.0} | | |");
            }
        }
        if functions {
            for (function, cost) in profile.by_function() {
                println!("|   {function} | {cost:.0} | | |");
            }
        }
        if most.is_some_and(|most| each > f64::from(most)) {
            over.push(format!("{} takes {each:.0}", scenario.name()));
        }
        if let Some(twin) = scenario.twin() {
            let alone = callgrind::profile(twin, None)?.per_command();
            if each > alone * TWIN_RATIO_MAX {
                over.push(format!("{} takes {each:.0}, and {} {alone:.0}", scenario.name(), twin.name()));
            }
        }
    }
    ensure!(over.is_empty(), "over budget: {}", over.join(", "));
    println!("RESULT: {} scenarios within their budget of instructions", scenarios.len());
    Ok(())
}
