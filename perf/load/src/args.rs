//! The command line.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use spindle_ffi_os::cpu;
use spindle_perf::compare::{self, ContenderSpec, Plan};
use spindle_perf::units::{size, size_u32};
use spindle_perf::url::Url;
use spindle_perf::wire::{self, Calls, Direction, Shape};
use spindle_perf::workload::{Mix, Order, Rate, Workload, WriteOffers};
use spindle_perf::{profile, scale};

/// Measures iSCSI targets, and what the machine allows them.
#[derive(Parser)]
#[command(version, about)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Put load on a logical unit and measure throughput and latency
    Load(Box<LoadArgs>),
    /// Measure the limit of kernel TCP in the shapes of reads and writes
    Wire(WireArgs),
    /// Be the least that passes for a target, to measure the generator itself
    Respond(RespondArgs),
    /// Compare targets in turns within one run, and print ratios
    Compare(CompareArgs),
    /// Say where a target's time goes, by sampling it with the clock
    Profile(ProfileArgs),
    /// Measure what a command costs a target on one core and on two, in turns
    Scale(ScaleArgs),
    /// Measure a message to another core and back
    Hop {
        /// The two processors; the first two that may be used if left out
        #[arg(long, value_delimiter = ',')]
        cpus: Vec<u32>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what is asked beside what was reached, from the comparisons kept in a folder
    Goals {
        /// Folder of the files that `compare --json` wrote
        folder: std::path::PathBuf,
        /// Milliseconds from the start of a target with 1,000 units to its first login
        #[arg(long)]
        start_ms: Option<f64>,
    },
    /// Measure how far two cores are from each other
    Distance {
        /// The two processors; the first two that may be used if left out
        #[arg(long, value_delimiter = ',')]
        cpus: Vec<u32>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Order of blocks.
#[derive(Clone, Copy, ValueEnum)]
pub enum OrderArg {
    /// Anywhere
    Random,
    /// One after the other
    Sequential,
}

#[derive(ClapArgs)]
pub struct LoadArgs {
    /// iscsi://ADDRESS[:PORT]/TARGET/LUN
    pub url: Url,
    /// read, write, or mixedN with N % reads
    #[arg(long, default_value = "read", value_parser = Mix::parse)]
    pub rw: Mix,
    /// Bytes of a command
    #[arg(long, default_value = "4k", value_parser = size_u32)]
    pub bs: u32,
    /// Commands outstanding per connection
    #[arg(long, default_value_t = 32)]
    pub depth: u16,
    /// Sessions
    #[arg(long, default_value_t = 1)]
    pub sessions: u32,
    /// Connections of each session
    #[arg(long, default_value_t = 1)]
    pub connections: u16,
    /// Sessions that only log in and answer pings
    #[arg(long, default_value_t = 0)]
    pub idle_sessions: u32,
    /// Order of blocks
    #[arg(long, value_enum, default_value = "random")]
    pub order: OrderArg,
    /// Use only the first so many bytes
    #[arg(long, value_parser = size)]
    pub span: Option<u64>,
    /// Stamp each block with address and generation, and compare what is read. A block that was not written yet is
    /// written before it is read
    #[arg(long)]
    pub verify: bool,
    /// HeaderDigest=CRC32C
    #[arg(long)]
    pub header_digest: bool,
    /// DataDigest=CRC32C
    #[arg(long)]
    pub data_digest: bool,
    /// Insist on InitialR2T=Yes
    #[arg(long)]
    pub initial_r2t: bool,
    /// Offer ImmediateData=No
    #[arg(long)]
    pub no_immediate: bool,
    /// Send unsolicited Data-Out up to FirstBurstLength
    #[arg(long)]
    pub unsolicited: bool,
    /// Open loop: so many commands a second in all, latencies from the moment each was due
    #[arg(long)]
    pub rate: Option<f64>,
    /// Random gaps between the commands of an open loop
    #[arg(long, requires = "rate")]
    pub poisson: bool,
    /// Seconds counted
    #[arg(long, default_value_t = 3.0)]
    pub time: f64,
    /// Seconds before
    #[arg(long, default_value_t = 0.3)]
    pub warmup: f64,
    /// End after so many commands
    #[arg(long)]
    pub ops: Option<u64>,
    /// Processors: a pinned thread each
    #[arg(long = "cpu", value_delimiter = ',')]
    pub cpus: Vec<u32>,
    /// Bytes taken from a socket at once
    #[arg(long, default_value = "256k", value_parser = size_u32)]
    pub receive_bytes: u32,
    /// Makes a run repeatable
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl LoadArgs {
    /// The workload it describes.
    pub fn workload(&self) -> Result<Workload> {
        let work = Workload {
            mix: self.rw,
            bs: self.bs,
            depth: self.depth,
            sessions: self.sessions,
            connections: self.connections,
            idle_sessions: self.idle_sessions,
            order: match self.order {
                OrderArg::Random => Order::Random,
                OrderArg::Sequential => Order::Sequential,
            },
            span_bytes: self.span,
            verify: self.verify,
            header_digest: self.header_digest,
            data_digest: self.data_digest,
            offers: WriteOffers {
                initial_r2t: self.initial_r2t,
                immediate: !self.no_immediate,
                unsolicited: self.unsolicited,
            },
            rate: self.rate.map(|per_second| Rate { per_second, poisson: self.poisson }),
            warmup: seconds(self.warmup)?,
            time: seconds(self.time)?,
            ops: self.ops,
            cpus: self.cpus.clone(),
            receive_bytes: self.receive_bytes,
            seed: self.seed,
        };
        work.check().map(|()| work)
    }
}

#[derive(ClapArgs)]
pub struct WireArgs {
    /// read, write or both
    #[arg(long, default_value = "both")]
    pub rw: String,
    /// Bytes of a request's data
    #[arg(long, default_value = "4k", value_parser = size_u32)]
    pub bs: u32,
    /// Requests outstanding per connection
    #[arg(long, default_value_t = 32)]
    pub depth: usize,
    /// Connections
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Batches to try: 1k,8k,32k,64k for small requests and 64k,256k,1M,4M for large ones if left out
    #[arg(long, value_delimiter = ',', value_parser = |text: &str| size_u32(text).map(|n| n as usize))]
    pub batch: Vec<usize>,
    /// hot, cold or both
    #[arg(long, default_value = "both")]
    pub memory: String,
    /// Seconds counted for each batch
    #[arg(long, default_value_t = 1.0)]
    pub time: f64,
    /// Seconds before
    #[arg(long, default_value_t = 0.2)]
    pub warmup: f64,
    /// Processors of responder and generator; the first two that may be used if left out
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl WireArgs {
    /// The shapes it asks for.
    pub fn shapes(&self) -> Result<Vec<Shape>> {
        let directions: &[Direction] = match self.rw.as_str() {
            "read" => &[Direction::Read],
            "write" => &[Direction::Write],
            "both" => &[Direction::Read, Direction::Write],
            other => anyhow::bail!("{other:?} is not read, write or both"),
        };
        let memories: &[bool] = match self.memory.as_str() {
            "hot" => &[false],
            "cold" => &[true],
            "both" => &[false, true],
            other => anyhow::bail!("{other:?} is not hot, cold or both"),
        };
        let (responder_cpu, generator_cpu) = pair(&self.cpus)?;
        let mut shapes = Vec::new();
        for &direction in directions {
            for &cold in memories {
                shapes.push(Shape {
                    direction,
                    bs: self.bs as usize,
                    depth: self.depth,
                    connections: self.connections,
                    batch: wire::batches(self.bs as usize)[0],
                    cold,
                    calls: Calls::Sockets,
                    warmup: seconds(self.warmup)?,
                    time: seconds(self.time)?,
                    responder_cpu,
                    generator_cpu,
                });
            }
        }
        Ok(shapes)
    }
}

#[derive(ClapArgs)]
pub struct RespondArgs {
    /// Port on loopback; any free one if 0
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Keep what is written, so many bytes for each connection
    #[arg(long, value_parser = size)]
    pub size: Option<u64>,
    /// Processor
    #[arg(long)]
    pub cpu: Option<u32>,
}

#[derive(ClapArgs)]
pub struct CompareArgs {
    /// KIND:key=value,…: spindle, tgt, spdk (path, lun=null|ram|FILE, size, direct, engine, args), respond, cmd (run), url (url),
    /// wire (memory=hot|cold); each with name. Ratios are those of the first to each other
    #[arg(required = true)]
    pub contenders: Vec<ContenderSpec>,
    /// Rows, such as read:4k:32,write:4k:128:s4,mixed70:4k:32:open70,idle:1
    #[arg(long)]
    pub work: Option<String>,
    /// Rows by name: quick, depths, large, sizes, digests, open, idle, file, all
    #[arg(long, default_value = "quick")]
    pub set: String,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds counted in each sample
    #[arg(long, default_value_t = 1.0)]
    pub time: f64,
    /// Seconds before
    #[arg(long, default_value_t = 0.2)]
    pub warmup: f64,
    /// Seconds for which processor time is counted where nothing is asked
    #[arg(long, default_value_t = 10.0)]
    pub idle_time: f64,
    /// Processors of target and generator; the first two that may be used if left out
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<u32>,
    /// Throw samples away during which the generator lost its core more often than this each second
    #[arg(long)]
    pub preempted_max: Option<u64>,
    /// Write all samples to this file as JSON
    #[arg(long)]
    pub json: Option<std::path::PathBuf>,
    /// Write a plot of the rates to this file as SVG
    #[arg(long)]
    pub svg: Option<std::path::PathBuf>,
}

impl CompareArgs {
    /// The plan it describes.
    pub fn plan(&self) -> Result<Plan> {
        let (target_cpu, generator_cpu) = pair(&self.cpus)?;
        let rows = match &self.work {
            Some(rows) => rows,
            None => compare::preset(&self.set)?,
        };
        Ok(Plan {
            contenders: self.contenders.clone(),
            items: compare::parse_items(rows)?,
            rounds: self.rounds,
            time: seconds(self.time)?,
            warmup: seconds(self.warmup)?,
            idle_time: seconds(self.idle_time)?,
            target_cpu,
            generator_cpu,
            preempted_max: self.preempted_max,
        })
    }
}

#[derive(ClapArgs)]
pub struct ProfileArgs {
    /// The target, as `compare` takes it
    pub contender: ContenderSpec,
    /// Rows
    #[arg(long, default_value = "read:4k:1,read:4k:32,write:4k:32,read:128k:32,write:128k:32")]
    pub work: String,
    /// Seconds each is looked at
    #[arg(long, default_value_t = 2.0)]
    pub time: f64,
    /// Print the functions in which most time is spent, so many for each row
    #[arg(long, default_value_t = 0)]
    pub functions: usize,
    /// Processors of target and generator; the first two that may be used if left out
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<u32>,
}

impl ProfileArgs {
    /// The plan it describes.
    pub fn plan(&self) -> Result<profile::Plan> {
        let (target_cpu, generator_cpu) = pair(&self.cpus)?;
        Ok(profile::Plan {
            contender: self.contender.clone(),
            items: compare::parse_items(&self.work)?,
            time: seconds(self.time)?,
            target_cpu,
            generator_cpu,
            functions: self.functions,
        })
    }
}

#[derive(ClapArgs)]
pub struct ScaleArgs {
    /// The target, as `compare` takes it: a spindle
    pub contender: ContenderSpec,
    /// Rows; their sessions are those on each processor
    #[arg(long, default_value = "read:4k:32:s4,write:4k:32:s4")]
    pub work: String,
    /// Rounds
    #[arg(long, default_value_t = 7)]
    pub rounds: u32,
    /// Seconds counted in each sample
    #[arg(long, default_value_t = 1.0)]
    pub time: f64,
    /// The processors, for target and generator alike; the first two that may be used if left out
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<u32>,
}

impl ScaleArgs {
    /// The plan it describes.
    pub fn plan(&self) -> Result<scale::Plan> {
        Ok(scale::Plan {
            contender: self.contender.clone(),
            items: compare::parse_items(&self.work)?,
            rounds: self.rounds,
            time: seconds(self.time)?,
            cpus: pair(&self.cpus)?,
        })
    }
}

/// Two processors: those given, or the first two of this process.
pub fn pair(cpus: &[u32]) -> Result<(u32, u32)> {
    let cpus =
        if cpus.is_empty() { cpu::allowed().context("which processors there are")? } else { cpus.to_vec() };
    ensure!(cpus.len() >= 2, "two processors are needed");
    Ok((cpus[0], cpus[1]))
}

fn seconds(s: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(s).with_context(|| format!("{s} is no number of seconds"))
}
