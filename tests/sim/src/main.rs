//! Runs seeds: `cargo run -p spindle-sim -- --seeds 0..200`, or one of them with `--seed N --trace`.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use spindle_sim::counters::Counters;
use spindle_sim::{trace, world};

/// Simulates the target: several cores, sessions and faults, all out of a seed.
#[derive(Parser)]
struct Args {
    /// The seeds to run, as `FIRST..END`.
    #[arg(long, default_value = "0..200", value_parser = range)]
    seeds: Range<u64>,
    /// Run the seeds this file names, too: one at the beginning of each line, then why it is remembered.
    #[arg(long, value_name = "FILE")]
    named: Option<PathBuf>,
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Lines of the trace that are shown of a seed that failed.
    #[arg(long, default_value_t = 60)]
    lines: usize,
    /// Fail if the seeds together have not reached every cell of the table but those listed in this file.
    #[arg(long, value_name = "FILE")]
    excused: Option<PathBuf>,
    /// Go on after a seed that failed.
    #[arg(long)]
    keep_going: bool,
    /// Print the time of each seed.
    #[arg(long)]
    times: bool,
    /// Make this mistake on purpose and run seeds until it is found; `all` makes one after the other.
    #[cfg(feature = "planted")]
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
    /// With `--plant all`: but these.
    #[cfg(feature = "planted")]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    but: Vec<String>,
}

/// Every mistake planted must be found.
#[cfg(feature = "planted")]
fn planted(name: &str, but: &[String], seeds: &Range<u64>) -> ExitCode {
    use spindle_sim::planted;

    // Complaints are what we want: without a page for each.
    std::panic::set_hook(Box::new(|_| {}));
    let wanted = planted::names().filter(|n| name == "all" || name == *n);
    let wanted: Vec<_> = wanted.filter(|n| but.iter().all(|other| other != n)).collect();
    let mut missed = Vec::new();
    for bug in &wanted {
        trace::begin(false);
        match planted::find(bug, seeds.clone()) {
            Some((seed, why)) => {
                let why: String = why.lines().next().unwrap_or_default().chars().take(160).collect();
                println!("{bug}: found, seed {seed}: {why}");
            }
            None => {
                println!("{bug}: NOT FOUND");
                missed.push(bug);
            }
        }
    }
    println!("RESULT: {} of {} planted mistakes found", wanted.len() - missed.len(), wanted.len());
    if missed.is_empty() && !wanted.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("two numbers with .. between them, please")?;
    let number = |s: &str| s.parse::<u64>().map_err(|e| format!("{s:?}: {e}"));
    Ok(number(first)?..number(end)?)
}

/// Seeds worth remembering.
fn named(path: &Path) -> Result<Vec<u64>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    let seed = |line: &str| {
        let word = line.split_whitespace().next().unwrap_or_default();
        word.parse().map_err(|e| format!("{}: {line:?} begins with no seed: {e}", path.display()))
    };
    lines.map(seed).collect()
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = args.seed.map_or(args.seeds.clone(), |n| n..n + 1);
    #[cfg(feature = "planted")]
    if let Some(name) = &args.plant {
        return planted(name, &args.but, &seeds);
    }
    let remembered = match args.named.as_deref().map(named).transpose() {
        Ok(found) => found.unwrap_or_default(),
        Err(why) => {
            println!("RESULT: {why}");
            return ExitCode::FAILURE;
        }
    };
    let seeds: Vec<u64> = seeds.chain(remembered).collect();
    let (begun, total) = (Instant::now(), seeds.len());
    let mut counters = Counters::default();
    let mut failed = Vec::new();
    for seed in seeds {
        trace::begin(args.trace);
        let start = Instant::now();
        let judged = world::judge(seed, &mut counters);
        if args.times {
            println!("seed {seed}: {:?}", start.elapsed());
        }
        let Err(why) = judged else { continue };
        if !args.trace {
            trace::last(args.lines).iter().for_each(|line| println!("{line}"));
        }
        println!("\nseed {seed} fails: {why}");
        println!("repeat with: cargo run -p spindle-sim -- --seed {seed} --trace\n");
        failed.push(seed);
        if !args.keep_going {
            break;
        }
    }
    println!("{}", counters.show());
    if !failed.is_empty() {
        println!("RESULT: {} of {total} seeds failed: {failed:?}", failed.len());
        return ExitCode::FAILURE;
    }
    if let Some(path) = &args.excused {
        let excused = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) => {
                println!("RESULT: {}: {e}", path.display());
                return ExitCode::FAILURE;
            }
        };
        let missing = counters.missing(&excused);
        if !missing.is_empty() {
            missing.iter().for_each(|line| println!("not reached: {line}"));
            println!("RESULT: {} places were not reached", missing.len());
            return ExitCode::FAILURE;
        }
    }
    println!("RESULT: {total} seeds passed in {:.1} s", begun.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}
