//! What a comparison found, as it is kept in a file and printed.

use serde::{Deserialize, Serialize};

use crate::distance::Class;
use crate::report::Report;
use crate::units;

/// One figure of one row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Commands a second.
    Rate,
    /// Median latency.
    P50,
    /// 99 of 100.
    P99,
    /// 999 of 1,000.
    P999,
    /// Share of a core the target used.
    Cpu,
    /// Resident bytes a session added.
    SessionBytes,
    /// Share of its rate that a busy session keeps when others stand idle beside it.
    Kept,
}

impl Metric {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "per second",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Cpu => "CPU",
            Self::SessionBytes => "memory of a session",
            Self::Kept => "share kept",
        }
    }

    /// A value as text.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Rate => units::thousands(value),
            Self::P50 | Self::P99 | Self::P999 => format!("{value:.1} µs"),
            Self::Cpu => format!("{value:.2} %"),
            Self::Kept => format!("{:.1} %", value * 100.0),
            Self::SessionBytes => format!("{:.1} KiB", value / 1024.0),
        }
    }
}

/// One sample.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Round.
    pub round: u32,
    /// Row.
    pub item: usize,
    /// Contender.
    pub contender: usize,
    /// One way before, after.
    pub distance_ns: (f64, f64),
    /// Their class; `None` if it changed.
    pub class: Option<Class>,
    /// What was measured.
    pub report: Report,
    /// Percent of a core the target used meanwhile; `None` for the wire.
    pub target_cpu_percent: Option<f64>,
    /// Resident bytes each idle session added.
    pub session_bytes: Option<f64>,
    /// Commands a second of the busy session before and after others stood idle beside it.
    #[serde(default)]
    pub alone: Option<f64>,
    /// Why the sample does not count.
    pub discarded: Option<String>,
}

impl Sample {
    /// A figure of it.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        let latency = self.report.latency;
        match metric {
            Metric::Rate => Some(self.report.ops_per_second),
            Metric::P50 => Some(latency.p50),
            Metric::P99 => Some(latency.p99),
            Metric::P999 => Some(latency.p999),
            Metric::Cpu => self.target_cpu_percent,
            Metric::SessionBytes => self.session_bytes,
            Metric::Kept => Some(self.report.ops_per_second / self.alone?),
        }
    }
}

/// What is known of a target besides its samples.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// From its start to the first login answered.
    pub start_ms: f64,
    /// Resident bytes once it had started.
    pub resident_bytes: u64,
}

/// A row of the tables.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// As it is written on the command line.
    pub key: String,
    /// As it is printed.
    pub name: String,
    /// What is looked at.
    pub metrics: Vec<Metric>,
}

/// A finished comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Names of the contenders.
    pub contenders: Vec<String>,
    /// What each needed to start; `None` for what was running already, and for the wire.
    pub started: Vec<Option<Started>>,
    /// What each is: the word it begins with on the command line.
    pub kinds: Vec<String>,
    /// Rows.
    pub rows: Vec<Row>,
    /// Rates of open loops: row, class of distance, commands a second in the median of the rounds.
    pub rates: Vec<(usize, Class, f64)>,
    /// All samples.
    pub samples: Vec<Sample>,
    /// Rows a contender could not do, and why.
    pub failures: Vec<(usize, usize, String)>,
}
