//! What kernel TCP allows between two cores of this machine, whoever uses it.
//!
//! A generator sends the bytes of requests and a responder the bytes of answers, in the sizes iSCSI has: 48 bytes one
//! way and 48 plus the data the other. Neither side looks at them. What a target could do better or worse is how many
//! answers it sends in one call and whose memory it touches; both are parameters, and the best over all batches is
//! *the limit*; so is the way of calling the kernel, by recv and send or through io_uring. Hot memory is a few pages used again and again; cold memory is 256 MiB used at random, as a disk in
//! memory is.

mod generator;
mod responder;
mod uring;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use spindle_ffi_os::{cpu, socket};

use crate::report::{Latency, Report, Stats, preemptions};
use crate::units::{size_text, thousands};

/// Bytes of a header.
pub const HEADER: usize = 48;
/// Memory that does not fit a cache.
pub const COLD_BYTES: usize = 256 << 20;

/// Which way the data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the generator.
    Read,
    /// To the responder.
    Write,
}

/// How the responder calls the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Calls {
    /// recv and send.
    Sockets,
    /// io_uring: receives and sends queued for the whole turn, and one call that submits and collects them.
    Uring,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Way of the data.
    pub direction: Direction,
    /// Bytes of data of a request.
    pub bs: usize,
    /// Requests outstanding per connection.
    pub depth: usize,
    /// Connections.
    pub connections: usize,
    /// Bytes the responder gathers before it sends, and receives at once.
    pub batch: usize,
    /// Responder's data in 256 MiB.
    pub cold: bool,
    /// Responder's way of calling.
    pub calls: Calls,
    /// Time before counting.
    pub warmup: Duration,
    /// Time counted.
    pub time: Duration,
    /// Processor of the responder.
    pub responder_cpu: u32,
    /// Processor of the generator.
    pub generator_cpu: u32,
}

impl Shape {
    fn request_bytes(&self) -> usize {
        HEADER + if self.direction == Direction::Write { self.bs } else { 0 }
    }

    fn answer_bytes(&self) -> usize {
        HEADER + if self.direction == Direction::Read { self.bs } else { 0 }
    }

    fn check(&self) -> Result<()> {
        ensure!((512..=1 << 20).contains(&self.bs), "the size is 512 B to 1 MiB");
        ensure!((1..=4096).contains(&self.depth), "the depth is 1 to 4,096");
        ensure!((1..=1024).contains(&self.connections), "there are 1 to 1,024 connections");
        ensure!((512..=16 << 20).contains(&self.batch), "a batch is 512 B to 16 MiB");
        Ok(())
    }

    /// A line for tables.
    pub fn name(&self) -> String {
        format!(
            "{} {}, depth {}{}",
            size_text(self.bs as u64),
            if self.direction == Direction::Read { "read" } else { "write" },
            self.depth,
            if self.connections > 1 { format!(", {} connections", self.connections) } else { String::new() }
        )
    }
}

/// What a responder's connections have room for at first, as those of targets.
pub(crate) const RECEIVE_ROOM: u32 = 2 << 20;

/// The batches that are tried when none is given.
pub fn batches(bs: usize) -> &'static [usize] {
    if bs >= 32 << 10 {
        &[64 << 10, 256 << 10, 1 << 20, 4 << 20]
    } else {
        &[1 << 10, 8 << 10, 32 << 10, 64 << 10]
    }
}

/// Result of one batch size.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Bytes gathered before a send.
    pub batch: usize,
    /// How the kernel was called.
    pub calls: Calls,
    /// Requests a second.
    pub ops_per_second: f64,
    /// Latencies.
    pub latency: Latency,
    /// Times the generator lost its core.
    pub preempted: u64,
}

impl Sample {
    /// More is better: commands a second, at depth 1 a low median.
    fn merit(&self, shape: &Shape) -> f64 {
        if shape.depth * shape.connections == 1 { -self.latency.p50 } else { self.ops_per_second }
    }
}

/// Runs both ends, pinned, over loopback.
pub fn run(shape: &Shape) -> Result<Report> {
    shape.check()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port on loopback")?;
    // A limit that begins by waiting for the window is none.
    let _ = socket::set_receive_room(&listener, RECEIVE_ROOM);
    let address = listener.local_addr()?;
    let mut near = Vec::new();
    let mut far = Vec::new();
    for _ in 0..shape.connections {
        near.push(TcpStream::connect(address)?);
        far.push(listener.accept()?.0);
    }
    for stream in near.iter().chain(&far) {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
    }
    let (stop, gone) = (AtomicBool::new(false), AtomicBool::new(false));
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (stats, seconds, preempted) = std::thread::scope(|scope| -> Result<_> {
        let (stop, gone) = (&stop, &gone);
        let responder = scope.spawn(move || -> Result<()> {
            let pinned = cpu::pin_to(&[shape.responder_cpu]);
            let result = pinned.with_context(|| format!("processor {}", shape.responder_cpu));
            let result = result.and_then(|()| {
                // Nobody waits any more only if the generator has failed.
                let ready = move || {
                    let _ = ready.send(());
                };
                match shape.calls {
                    Calls::Sockets => responder::run(shape, far, stop, ready),
                    Calls::Uring => uring::run(shape, far, stop, ready),
                }
            });
            gone.store(true, Ordering::Relaxed);
            result
        });
        let generator = scope.spawn(move || -> Result<(Stats, f64, u64)> {
            cpu::pin_to(&[shape.generator_cpu])
                .with_context(|| format!("processor {}", shape.generator_cpu))?;
            // An error of the responder hangs up, and is reported as its own.
            let _ = is_ready.recv();
            let before = preemptions();
            let result = generator::run(shape, near, || gone.load(Ordering::Relaxed));
            result.map(|(stats, seconds)| (stats, seconds, preemptions() - before))
        });
        let result = generator.join().expect("the generator does not panic");
        stop.store(true, Ordering::Relaxed);
        responder.join().expect("the responder does not panic")?;
        result
    })?;
    let mut report = Report::of(shape.name(), &stats, seconds, preempted);
    report.outstanding_max = (shape.depth * shape.connections) as u32;
    Ok(report)
}

/// Tries all batches (or the one given) and all ways of calling; the limit is the fastest, at depth 1 the one
/// with the lowest median.
pub fn limit(shape: &Shape, batches: &[usize], calls: &[Calls]) -> Result<(Vec<Sample>, usize)> {
    let mut samples = Vec::new();
    for &calls in calls {
        for &batch in batches {
            let shape = Shape { batch, calls, ..shape.clone() };
            let report = run(&shape)?;
            samples.push(Sample {
                batch,
                calls,
                ops_per_second: report.ops_per_second,
                latency: report.latency,
                preempted: report.preempted,
            });
        }
    }
    let best = (0..samples.len())
        .filter(|&n| samples[n].latency.count > 0)
        .max_by(|&a, &b| samples[a].merit(shape).total_cmp(&samples[b].merit(shape)));
    let best = best.context("no batch was given, or none was answered")?;
    Ok((samples, best))
}

/// Both ways of calling, where the kernel lets us.
pub fn ways() -> &'static [Calls] {
    if spindle_ffi_uring::available() { &[Calls::Sockets, Calls::Uring] } else { &[Calls::Sockets] }
}

/// The way that is fastest for a shape: all are tried twice, briefly, and each is judged by its better time.
pub fn best_way(shape: &Shape) -> Result<(usize, Calls)> {
    let (batches, ways) = (batches(shape.bs), ways());
    let brief = Shape {
        batch: batches[0],
        warmup: shape.warmup.min(Duration::from_millis(50)),
        time: shape.time.min(Duration::from_millis(250)),
        ..shape.clone()
    };
    let (first, a) = limit(&brief, batches, ways)?;
    let (second, b) = limit(&brief, batches, ways)?;
    let best = [&first[a], &second[b]].into_iter().max_by(|x, y| x.merit(shape).total_cmp(&y.merit(shape)));
    Ok(best.map(|s| (s.batch, s.calls)).expect("there are two"))
}

/// For people.
pub fn text(shape: &Shape, samples: &[Sample], best: usize) -> String {
    let memory = if shape.cold { "cold" } else { "hot" };
    let mut out = format!("wire, {}, {memory} memory\n", shape.name());
    for (n, s) in samples.iter().enumerate() {
        out += &format!(
            "  {:>8} batch, {:7}  {:>9}/s  p50 {:.1}  p99 {:.1}  p99.9 {:.1} µs{}{}\n",
            size_text(s.batch as u64),
            if s.calls == Calls::Uring { "uring" } else { "sockets" },
            thousands(s.ops_per_second),
            s.latency.p50,
            s.latency.p99,
            s.latency.p999,
            if n == best { "   <- the limit" } else { "" },
            if s.preempted > 0 { format!("   (lost its core {} times)", s.preempted) } else { String::new() },
        );
    }
    out
}
