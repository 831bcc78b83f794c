//! A run: sessions spread over generator threads, warm-up, counting, draining.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use spindle_ffi_os::cpu::{self, monotonic_ns};
use spindle_ffi_os::limit;
use spindle_initiator::Window;

use crate::conn::{Conn, Feed, Part};
use crate::report::{Report, Stats, preemptions};
use crate::session::{self, Geometry, Place};
use crate::url::Url;
use crate::workload::Workload;

/// A target that answers nothing for so long has failed.
const SILENCE_MAX_NS: u64 = 10_000_000_000;
/// Idle sessions are looked at one by one, all of them in so long: their pings are answered in time (a target waits for
/// seconds), and as each look meets a cold socket, it does not show in the figures of the busy ones.
const IDLE_ROUND_NS: u64 = 2_000_000_000;
/// Time for the last commands of an open loop.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// A pass of an open loop takes no longer, and so much more for each command that begins or ends in it and each four bytes
/// of its data, unless something else has the generator's processor: the system, or the host of a virtual machine, which no
/// counter tells of. Several times what is usual; what is taken for less than this is not noticed and counts.
const PASS_NS: u64 = 20_000;
const COMMAND_NS: u64 = 1_000;

/// Runs a workload against a logical unit.
pub fn run(url: &Url, work: &Workload) -> Result<Report> {
    work.check()?;
    let _ = limit::raise_open_files();
    let threads = work.cpus.len().max(1).min(work.sessions as usize);
    let barrier = Barrier::new(threads);
    let failed = AtomicBool::new(false);
    let results: Vec<Result<Share>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|n| {
                let (barrier, failed) = (&barrier, &failed);
                scope.spawn(move || {
                    let thread = Thread { url, work, number: n as u32, threads: threads as u32, failed };
                    thread.run(barrier).inspect_err(|_| failed.store(true, Ordering::Relaxed))
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("a generator thread does not panic")).collect()
    });
    let mut stats = Stats::default();
    let (mut seconds, mut preempted, mut unsent, mut skipped) = (0f64, 0, 0, 0);
    let mut first_error = None;
    for result in results {
        match result {
            Ok(share) => {
                stats.add(&share.stats);
                seconds = seconds.max(share.seconds);
                preempted += share.preempted;
                unsent += share.unsent;
                skipped += share.skipped;
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    if let Some(error) = first_error {
        return Err(error);
    }
    let mut report = Report::of(work.name(), &stats, seconds, preempted);
    report.unsent = unsent;
    report.blurred += skipped;
    Ok(report)
}

/// What one thread found.
struct Share {
    stats: Stats,
    seconds: f64,
    preempted: u64,
    unsent: u64,
    skipped: u64,
}

struct Thread<'a> {
    url: &'a Url,
    work: &'a Workload,
    number: u32,
    threads: u32,
    failed: &'a AtomicBool,
}

/// Connections with the window of the session each belongs to.
struct Connections {
    windows: Vec<Window>,
    conns: Vec<(usize, Conn)>,
    idle: Quiet,
}

/// Sessions that are logged in and only answer what a target asks by itself.
pub struct Quiet {
    sessions: Vec<(Window, Conn)>,
    next: usize,
}

impl Quiet {
    /// Logs in sessions of these numbers.
    pub fn log_in(url: &Url, work: &Workload, numbers: impl IntoIterator<Item = u32>) -> Result<Self> {
        let _ = limit::raise_open_files();
        let quiet = Workload { verify: false, ..work.clone() };
        let unit = Geometry { blocks: 1, block_len: 512 };
        let sessions = numbers.into_iter().map(|n| {
            let from = session::login(url, work, Place::first_of(n))?;
            let window = from.window;
            let part = Part { first_block: 0, chunks: 1 };
            Ok((window, Conn::new(from, &quiet, part, unit, url.lun, false, u64::from(n))?))
        });
        Ok(Self { sessions: sessions.collect::<Result<_>>()?, next: 0 })
    }

    /// Looks at one of them.
    fn answer_next(&mut self, now: u64) -> Result<()> {
        self.next = (self.next + 1) % self.sessions.len().max(1);
        match self.sessions.get_mut(self.next) {
            Some((window, conn)) => conn.turn(window, &mut Feed::closed(Some(0)), now).map(drop),
            None => Ok(()),
        }
        .context("an idle session")
    }

    /// Looks at all of them.
    pub fn answer_all(&mut self) -> Result<()> {
        let now = monotonic_ns();
        (0..self.sessions.len()).try_for_each(|_| self.answer_next(now))
    }
}

impl Thread<'_> {
    fn run(&self, barrier: &Barrier) -> Result<Share> {
        let pinned = match self.work.cpus.get(self.number as usize) {
            Some(&cpu) => cpu::pin_to(&[cpu]).with_context(|| format!("processor {cpu}")),
            None => Ok(()),
        };
        let connected = pinned.and_then(|()| self.connect());
        if connected.is_err() {
            // The others must not wait for us, nor run without us.
            self.failed.store(true, Ordering::Relaxed);
        }
        barrier.wait();
        let mut connections = connected?;
        if self.failed.load(Ordering::Relaxed) {
            bail!("another generator thread failed");
        }
        self.drive(&mut connections)
    }

    fn connect(&self) -> Result<Connections> {
        let mine = |n: &u32| n % self.threads == self.number;
        let (mut windows, mut conns) = (Vec::new(), Vec::new());
        let parts = u64::from(self.work.sessions) * u64::from(self.work.connections);
        for session in (0..self.work.sessions).filter(mine) {
            let (first, geometry) =
                session::login_and_measure(self.url, self.work, Place::first_of(session))?;
            let tsih = first.tsih;
            let mut logged_in = vec![first];
            for cid in 2..=self.work.connections {
                let cmd_sn = logged_in[0].window.cmd_sn;
                let place = Place { session, tsih, cid, cmd_sn };
                logged_in.push(session::login(self.url, self.work, place)?);
            }
            let mut window = logged_in[0].window;
            for (n, from) in logged_in.into_iter().enumerate() {
                if from.window.max_cmd_sn.gt(window.max_cmd_sn) {
                    window.max_cmd_sn = from.window.max_cmd_sn;
                }
                let number = u64::from(session) * u64::from(self.work.connections) + n as u64;
                let part = self.part(geometry, number, parts)?;
                let conn = Conn::new(from, self.work, part, geometry, self.url.lun, true, number)?;
                conns.push((windows.len(), conn));
            }
            windows.push(window);
        }
        let quiet = (0..self.work.idle_sessions).filter(mine).map(|n| self.work.sessions + n);
        Ok(Connections { windows, conns, idle: Quiet::log_in(self.url, self.work, quiet)? })
    }

    /// Without verification everybody works everywhere; with it, each connection keeps to itself.
    fn part(&self, geometry: Geometry, number: u64, of: u64) -> Result<Part> {
        let bs = u64::from(self.work.bs);
        ensure!(
            bs % u64::from(geometry.block_len) == 0,
            "commands are no multiple of {} bytes",
            geometry.block_len
        );
        let bytes = geometry.blocks.saturating_mul(geometry.block_len.into());
        let bytes = self.work.span_bytes.map_or(bytes, |span| span.min(bytes));
        let chunks = bytes / bs;
        let (first, chunks) =
            if self.work.verify { (number * (chunks / of), chunks / of) } else { (0, chunks) };
        ensure!(chunks > 0, "the logical unit is too small");
        Ok(Part { first_block: first * (bs / u64::from(geometry.block_len)), chunks })
    }

    fn feed(&self, start: u64) -> Feed {
        let share = f64::from(self.threads);
        let ops = self.work.ops.map(|ops| {
            let threads = u64::from(self.threads);
            ops / threads + u64::from(u64::from(self.number) < ops % threads)
        });
        match self.work.rate {
            None => Feed::closed(ops),
            Some(rate) => {
                let rng =
                    rate.poisson.then(|| fastrand::Rng::with_seed(self.work.seed ^ u64::from(self.number)));
                Feed::open(ops, start, rate.per_second / share, rng)
            }
        }
    }

    fn drive(&self, all: &mut Connections) -> Result<Share> {
        // Asked for before the first command, as the answer takes its time.
        let preempted_before = preemptions();
        let zero = monotonic_ns();
        let mut feed = self.feed(zero);
        let warmup = if self.work.ops.is_some() { 0 } else { self.work.warmup.as_nanos() as u64 };
        let begin = zero + warmup;
        let end = begin + self.work.time.as_nanos() as u64;
        let (mut phase, mut began, mut ended) = (Phase::WarmUp, begin, end);
        let (mut last_heard, mut last_idle) = (zero, zero);
        let (mut unsent, mut skipped, mut rotation) = (0, 0, 0usize);
        let mut settled = zero;
        let idle_gap = IDLE_ROUND_NS / all.idle.sessions.len().max(1) as u64;
        loop {
            let now = monotonic_ns();
            match phase {
                Phase::WarmUp if now >= begin => {
                    began = now;
                    all.conns.iter_mut().for_each(|(_, conn)| conn.count());
                    phase = Phase::Counting;
                }
                Phase::Counting if now >= end || feed.is_exhausted() => {
                    unsent = feed.stop(end.min(now));
                    ended = now;
                    // Commands of an open loop that were due in time count whenever they end.
                    if self.work.ops.is_none() && self.work.rate.is_none() {
                        all.conns.iter_mut().for_each(|(_, conn)| conn.stop_counting());
                    }
                    phase = Phase::Draining;
                }
                Phase::Draining => {
                    if all.conns.iter().all(|(_, conn)| conn.outstanding() == 0) {
                        break;
                    }
                    if self.work.ops.is_some() {
                        ended = now;
                    }
                    ensure!(
                        now < end.max(ended) + DRAIN_MAX.as_nanos() as u64,
                        "commands were never answered"
                    );
                }
                _ => {}
            }
            let mut heard = false;
            // Each pass begins with another connection, so that none is always served first.
            rotation = if rotation + 1 >= all.conns.len() { 0 } else { rotation + 1 };
            let (before, from) = all.conns.split_at_mut(rotation);
            for (session, conn) in from.iter_mut().chain(before) {
                heard |= conn.turn(&mut all.windows[*session], &mut feed, now)?;
            }
            if heard {
                last_heard = now;
            } else if now - last_heard > SILENCE_MAX_NS {
                let open: usize = all.conns.iter().map(|(_, conn)| conn.outstanding()).sum();
                ensure!(
                    open == 0,
                    "no answer for {} s with {open} commands outstanding",
                    SILENCE_MAX_NS / 1_000_000_000
                );
            }
            if now - last_idle >= idle_gap {
                last_idle = now;
                all.idle.answer_next(now)?;
            }
            if feed.is_open() {
                let now = monotonic_ns();
                let ran = now - settled <= self.pass_ns_max(all);
                if !ran {
                    let absent = feed.skip(settled..now);
                    skipped += if phase == Phase::Counting { absent } else { 0 };
                }
                all.conns.iter_mut().for_each(|(_, conn)| conn.settle(ran));
                settled = now;
            }
            if self.failed.load(Ordering::Relaxed) {
                bail!("another generator thread failed");
            }
        }
        let mut stats = Stats::default();
        all.conns.iter().for_each(|(_, conn)| stats.add(conn.stats()));
        let preempted = preemptions() - preempted_before;
        Ok(Share { stats, seconds: (ended - began) as f64 / 1e9, preempted, unsent, skipped })
    }

    /// What the pass that ends may have taken.
    fn pass_ns_max(&self, all: &mut Connections) -> u64 {
        let handled: u32 = all.conns.iter_mut().map(|(_, conn)| conn.take_handled()).sum();
        PASS_NS + u64::from(handled) * (COMMAND_NS + u64::from(self.work.bs) / 4)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Counting,
    Draining,
}
