//! Runs seeds: `cargo run -p spindle-sim -- --seeds 0..200`, or one of them with `--seed N --trace`.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
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
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("two numbers with .. between them, please")?;
    let number = |s: &str| s.parse::<u64>().map_err(|e| format!("{s:?}: {e}"));
    Ok(number(first)?..number(end)?)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = args.seed.map_or(args.seeds.clone(), |n| n..n + 1);
    let (begun, total) = (Instant::now(), seeds.end.saturating_sub(seeds.start));
    let mut counters = Counters::default();
    let mut failed = Vec::new();
    for seed in seeds {
        trace::begin(args.trace);
        let start = Instant::now();
        // A failed assertion of the target is a finding as good as any.
        let judged = catch_unwind(AssertUnwindSafe(|| world::run(seed, &mut counters)));
        let judged = judged.unwrap_or_else(|panic| Err(format!("panic: {}", words(&*panic))));
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

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".to_owned())
}
