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
mod cores;
mod device;
mod lines;
mod parts;
mod quiet_net;
mod scenario;
mod seat;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::budget::Budget;
use crate::device::Disk;
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
    /// Measure one core alone, beside a stranger, and beside one that serves the same unit
    Cores {
        /// The two processors; the first two that may be used if left out
        #[arg(long, value_delimiter = ',')]
        cpus: Vec<u32>,
        /// Rounds
        #[arg(long, default_value_t = 9)]
        rounds: u32,
        /// Seconds of each sample
        #[arg(long, default_value_t = 0.2)]
        time: f64,
        /// Fail if a partner costs a core more than this share of its rate, such as 0.05
        #[arg(long)]
        most: Option<f64>,
    },
    /// Look at every access of two cores that serve one unit, under valgrind, and fail if they share a line
    Lines {
        /// Only this disk
        disk: Option<Disk>,
        /// Let both cores count in one place, which must be found
        #[arg(long)]
        planted: bool,
    },
    /// What `lines` traces
    #[command(hide = true)]
    LinesOf {
        /// Which
        disk: Disk,
        /// With a counter that both cores write
        #[arg(long)]
        planted: bool,
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
        Command::Cores { cpus, rounds, time, most } => {
            two(&cpus).and_then(|cpus| cores::run(cpus, rounds, Duration::try_from_secs_f64(time)?, most))
        }
        Command::Lines { disk, planted } => share_no_line(disk, planted),
        Command::LinesOf { disk, planted } => lines::traced(disk, planted),
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

fn share_no_line(disk: Option<Disk>, planted: bool) -> Result<()> {
    println!("| disk | lines stored by one core | by the other | shared |");
    println!("|---|---:|---:|---:|");
    disk.map_or(vec![Disk::Null, Disk::Ram], |disk| vec![disk])
        .into_iter()
        .try_for_each(|disk| lines::check(disk, planted))?;
    println!("RESULT: two cores serving one unit share no line that either stores to");
    Ok(())
}

/// Two processors: those given, or the first two of this process.
fn two(given: &[u32]) -> Result<(u32, u32)> {
    let cpus = if given.is_empty() { spindle_ffi_os::cpu::allowed()? } else { given.to_vec() };
    ensure!(cpus.len() >= 2, "two processors are needed");
    Ok((cpus[0], cpus[1]))
}

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
