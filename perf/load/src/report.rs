//! What a run found: counts, latencies, and how they are printed.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::units::thousands;

/// Latencies up to a minute, three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

/// Counts and latencies of one thread, later of all.
pub struct Stats {
    /// Latencies of reads in nanoseconds.
    pub read: Histogram<u64>,
    /// Latencies of writes.
    pub write: Histogram<u64>,
    /// Data moved by counted commands.
    pub bytes: u64,
    /// Commands answered BUSY or TASK SET FULL, and sent again.
    pub busy: u64,
    /// Commands that were due but waited for the target's command window.
    pub window_closed: u64,
    /// The most commands outstanding at once, over all connections of a thread.
    pub outstanding_max: u32,
    /// R2Ts answered.
    pub r2ts: u64,
    /// Reads whose data was looked at.
    pub verified: u64,
    /// System calls that moved data.
    pub receives: u64,
    /// The same for sending.
    pub sends: u64,
    /// Commands of an open loop that were due or under way while the generator did not run: their latency is not known.
    pub blurred: u64,
    /// Whether latencies count at present.
    pub counting: bool,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            read: histogram(),
            write: histogram(),
            bytes: 0,
            busy: 0,
            window_closed: 0,
            outstanding_max: 0,
            r2ts: 0,
            verified: 0,
            receives: 0,
            sends: 0,
            blurred: 0,
            counting: false,
        }
    }
}

impl Stats {
    /// Nothing yet, with its memory there: to begin to count must not take a moment of what is counted. (Page faults of
    /// two histograms take 0.3 ms, in which an open loop falls behind by a hundred commands.)
    pub fn touched() -> Self {
        let mut stats = Self { counting: true, ..Self::default() };
        stats.read.reset();
        stats.write.reset();
        stats
    }

    /// Takes over another thread's.
    pub fn add(&mut self, other: &Self) {
        self.read.add(&other.read).expect("all histograms have the same bounds");
        self.write.add(&other.write).expect("all histograms have the same bounds");
        self.bytes += other.bytes;
        self.busy += other.busy;
        self.window_closed += other.window_closed;
        self.outstanding_max += other.outstanding_max;
        self.r2ts += other.r2ts;
        self.verified += other.verified;
        self.receives += other.receives;
        self.sends += other.sends;
        self.blurred += other.blurred;
    }
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many commands.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// 999 of 1,000 are below.
    pub p999: f64,
    /// The worst.
    pub max: f64,
}

impl Latency {
    /// Reads them off.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let us = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: us(0.5),
            p99: us(0.99),
            p999: us(0.999),
            max: histogram.max() as f64 / 1e3,
        }
    }
}

/// Result of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What was asked.
    pub name: String,
    /// Seconds in which commands were counted.
    pub seconds: f64,
    /// Commands a second.
    pub ops_per_second: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// All commands.
    pub latency: Latency,
    /// Reads.
    pub read: Latency,
    /// Writes.
    pub write: Latency,
    /// Commands answered BUSY or TASK SET FULL.
    pub busy: u64,
    /// Commands that waited for the target's window.
    pub window_closed: u64,
    /// The most commands outstanding.
    pub outstanding_max: u32,
    /// R2Ts answered.
    pub r2ts: u64,
    /// Reads whose data was compared.
    pub verified: u64,
    /// Commands for each receiving system call.
    pub ops_per_receive: f64,
    /// Commands for each sending system call.
    pub ops_per_send: f64,
    /// Commands of an open loop that were due and never sent: the target did not keep up.
    pub unsent: u64,
    /// Commands of an open loop that are left out, as the generator did not run when they were due or under way.
    #[serde(default)]
    pub blurred: u64,
    /// How often the scheduler took the core away from the generator: figures with many are worthless.
    pub preempted: u64,
}

impl Report {
    /// Sums up.
    pub fn of(name: String, stats: &Stats, seconds: f64, preempted: u64) -> Self {
        let mut all = stats.read.clone();
        all.add(&stats.write).expect("all histograms have the same bounds");
        let per = |n: u64| if n == 0 { 0.0 } else { all.len() as f64 / n as f64 };
        Self {
            name,
            seconds,
            ops_per_second: (all.len() + stats.blurred) as f64 / seconds,
            bytes_per_second: stats.bytes as f64 / seconds,
            latency: Latency::of(&all),
            read: Latency::of(&stats.read),
            write: Latency::of(&stats.write),
            busy: stats.busy,
            window_closed: stats.window_closed,
            outstanding_max: stats.outstanding_max,
            r2ts: stats.r2ts,
            verified: stats.verified,
            ops_per_receive: per(stats.receives),
            ops_per_send: per(stats.sends),
            unsent: 0,
            blurred: stats.blurred,
            preempted,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{}: {}/s, {:.1} MB/s over {:.2} s, {:.1} commands a receive, {:.1} a send, {} outstanding at most",
            self.name,
            thousands(self.ops_per_second),
            self.bytes_per_second / 1e6,
            self.seconds,
            self.ops_per_receive,
            self.ops_per_send,
            self.outstanding_max
        );
        for (name, l) in [("read", self.read), ("write", self.write)] {
            if l.count > 0 {
                let _ = writeln!(
                    out,
                    "  {name:5} {:>10} commands   mean {:.1}  p50 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1} µs",
                    l.count, l.mean, l.p50, l.p99, l.p999, l.max
                );
            }
        }
        for (n, what) in [
            (self.busy, "commands were answered BUSY or TASK SET FULL"),
            (self.window_closed, "times the target's command window was closed"),
            (self.verified, "reads were compared with what was written"),
            (self.r2ts, "R2Ts were answered"),
            (self.unsent, "commands were due and never sent: the target does not keep up with the rate"),
            (
                self.blurred,
                "commands were due or under way while the generator did not run, and are left out",
            ),
            (self.preempted, "times the generator lost its core"),
        ] {
            if n > 0 {
                let _ = writeln!(out, "  {n} {what}");
            }
        }
        out
    }
}

/// How often the calling thread was preempted so far.
pub fn preemptions() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_read_off_in_microseconds() {
        let mut h = histogram();
        for n in 1..=1000u64 {
            h.record(n * 1000).unwrap();
        }
        let l = Latency::of(&h);
        assert_eq!(l.count, 1000);
        assert!((l.p50 - 500.0).abs() < 1.0 && (l.p99 - 990.0).abs() < 1.0 && (l.p999 - 999.0).abs() < 1.0);
        assert!((l.max - 1000.0).abs() < 1.0);
        assert_eq!(Latency::of(&histogram()), Latency::default());
    }

    #[test]
    fn reads_and_writes_are_summed() {
        let mut stats = Stats { bytes: 8192, receives: 1, sends: 2, ..Stats::default() };
        stats.read.record(1000).unwrap();
        stats.write.record(3000).unwrap();
        let report = Report::of("x".to_owned(), &stats, 2.0, 0);
        assert_eq!((report.ops_per_second, report.bytes_per_second), (1.0, 4096.0));
        assert_eq!((report.latency.count, report.read.count, report.write.count), (2, 1, 1));
        assert_eq!((report.ops_per_receive, report.ops_per_send), (2.0, 1.0));
        assert!(report.text().contains("read"));
    }
}
