//! `spindle-perf`: see the crate's page.

#![forbid(unsafe_code)]

mod args;

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use clap::Parser;
use spindle_ffi_os::cpu;
use spindle_perf::respond::{self, Disk};
use spindle_perf::{compare, distance, hop, load, profile, scale, wire};

use crate::args::{Args, Command, CompareArgs, RespondArgs, WireArgs};

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Load(args) => args.workload().and_then(|work| {
            let report = load::run(&args.url, &work)?;
            print(args.json, &report, || report.text())
        }),
        Command::Wire(args) => run_wire(&args),
        Command::Respond(args) => run_respond(&args),
        Command::Compare(args) => run_compare(&args),
        Command::Profile(args) => args
            .plan()
            .and_then(|plan| profile::run(&plan, |row| eprintln!("{row}")))
            .map(|text| print!("{text}")),
        Command::Scale(args) => {
            args.plan().and_then(|plan| scale::run(&plan, |line| eprintln!("{line}"))).map(|text| print!("{text}"))
        }
        Command::Hop { cpus, json } => args::pair(&cpus).and_then(|(a, b)| {
            let (line, hop) = (distance::measure(a, b)?, hop::measure(a, b)?);
            let value = serde_json::json!({ "one_way_ns": line, "hop": hop });
            print(json, &value, || {
                format!(
                    "processors {a} and {b}: a cache line {line:.0} ns one way; a message there and back {:.0} ns, \
                     {:.0} ns each where 32 go together\n",
                    hop.alone_ns, hop.batched_ns
                )
            })
        }),
        Command::Goals { folder, start_ms } => run_goals(&folder, start_ms),
        Command::Distance { cpus, json } => args::pair(&cpus).and_then(|(a, b)| {
            let ns = distance::measure(a, b)?;
            let class = distance::Class::of(ns);
            let value = serde_json::json!({ "one_way_ns": ns, "class": class });
            print(json, &value, || {
                format!("{ns:.0} ns one way between processors {a} and {b}: {}\n", class.name())
            })
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spindle-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(json: bool, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        print!("{}", text());
    }
    Ok(())
}

fn run_wire(args: &WireArgs) -> Result<()> {
    let mut all = Vec::new();
    for shape in args.shapes()? {
        let batches = if args.batch.is_empty() { wire::batches(shape.bs) } else { &args.batch };
        let (samples, best) = wire::limit(&shape, batches, wire::ways())?;
        if !args.json {
            print!("{}", wire::text(&shape, &samples, best));
        }
        all.push(serde_json::json!({
            "name": shape.name(), "cold": shape.cold, "samples": samples, "limit": samples[best],
        }));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

fn run_compare(args: &CompareArgs) -> Result<()> {
    let outcome = compare::run(&args.plan()?, |line| eprintln!("{line}"))?;
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&outcome)?)
            .with_context(|| format!("{}", path.display()))?;
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, compare::svg(&outcome)).with_context(|| format!("{}", path.display()))?;
    }
    print!("{}", compare::markdown(&outcome));
    anyhow::ensure!(outcome.failures.is_empty(), "{} rows failed", outcome.failures.len());
    Ok(())
}

fn run_goals(folder: &Path, start_ms: Option<f64>) -> Result<()> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "json")
            && let Some(name) = path.file_stem()
        {
            let outcome = serde_json::from_str(&std::fs::read_to_string(&path)?);
            let outcome = outcome.with_context(|| format!("{} is not a comparison", path.display()))?;
            found.push((name.to_string_lossy().into_owned(), outcome));
        }
    }
    print!("{}", compare::goals(&found, start_ms));
    Ok(())
}

fn run_respond(args: &RespondArgs) -> Result<()> {
    if let Some(cpu) = args.cpu {
        cpu::pin_to(&[cpu]).with_context(|| format!("processor {cpu}"))?;
    }
    let listener = TcpListener::bind(("127.0.0.1", args.port)).context("no such port on loopback")?;
    println!("iscsi://{}/{}/0", listener.local_addr()?, respond::TARGET);
    let disk = args.size.map_or_else(Disk::null, |bytes| Disk::ram(bytes as usize));
    respond::serve(&listener, disk, &AtomicBool::new(false))
}
