//! What is asked of a target: direction, size, depth, order, rate.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mix {
    /// How many of a hundred commands are writes.
    pub write_percent: u8,
}

impl Mix {
    /// Only reads.
    pub const READ: Self = Self { write_percent: 0 };
    /// Only writes.
    pub const WRITE: Self = Self { write_percent: 100 };

    /// `read`, `write`, or the percentage of reads as `70` or `mixed70`.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "read" => Self::READ,
            "write" => Self::WRITE,
            other => {
                let digits = other.strip_prefix("mixed").unwrap_or(other);
                let reads: u8 =
                    digits.parse().with_context(|| format!("{text:?} is not read, write or mixedN"))?;
                ensure!(reads <= 100, "{reads} % is more than all");
                Self { write_percent: 100 - reads }
            }
        })
    }

    /// Its name in tables.
    pub fn name(self) -> String {
        match self.write_percent {
            0 => "read".to_owned(),
            100 => "write".to_owned(),
            w => format!("{}/{w} mix", 100 - w),
        }
    }
}

/// Which blocks, in which order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Anywhere.
    Random,
    /// Each connection walks through its own part.
    Sequential,
}

/// How writes bring their data (RFC 7143 §13.10, §13.11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteOffers {
    /// InitialR2T=Yes is insisted on.
    pub initial_r2t: bool,
    /// ImmediateData=Yes is offered.
    pub immediate: bool,
    /// Unsolicited Data-Out PDUs follow a command up to FirstBurstLength.
    pub unsolicited: bool,
}

/// Pace of an open loop.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rate {
    /// Commands a second, over all connections.
    pub per_second: f64,
    /// Random gaps (exponential), as of many independent users, in place of even ones.
    pub poisson: bool,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Reads and writes.
    pub mix: Mix,
    /// Bytes of a command.
    pub bs: u32,
    /// Commands outstanding per connection.
    pub depth: u16,
    /// Sessions.
    pub sessions: u32,
    /// Connections of each session.
    pub connections: u16,
    /// Sessions that log in and then only answer pings.
    pub idle_sessions: u32,
    /// Order of blocks.
    pub order: Order,
    /// Bytes of the logical unit that are used; all if `None`.
    pub span_bytes: Option<u64>,
    /// Data carries its address and generation, and is looked at when it comes back.
    pub verify: bool,
    /// HeaderDigest=CRC32C.
    pub header_digest: bool,
    /// DataDigest=CRC32C.
    pub data_digest: bool,
    /// Ways of writing.
    pub offers: WriteOffers,
    /// Open loop; closed if `None`.
    pub rate: Option<Rate>,
    /// Time before figures count.
    pub warmup: Duration,
    /// Time in which they count.
    pub time: Duration,
    /// Ends earlier, after so many commands.
    pub ops: Option<u64>,
    /// One generator thread for each, pinned; a single free one if empty.
    pub cpus: Vec<u32>,
    /// Bytes taken from a socket at once.
    pub receive_bytes: u32,
    /// Makes everything random repeatable.
    pub seed: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            mix: Mix::READ,
            bs: 4096,
            depth: 32,
            sessions: 1,
            connections: 1,
            idle_sessions: 0,
            order: Order::Random,
            span_bytes: None,
            verify: false,
            header_digest: false,
            data_digest: false,
            offers: WriteOffers { initial_r2t: false, immediate: true, unsolicited: false },
            rate: None,
            warmup: Duration::from_millis(300),
            time: Duration::from_secs(3),
            ops: None,
            cpus: Vec::new(),
            receive_bytes: 256 * 1024,
            seed: 1,
        }
    }
}

impl Workload {
    /// Refuses what cannot be run.
    pub fn check(&self) -> Result<()> {
        ensure!(self.bs >= 512 && self.bs.is_multiple_of(512), "the block size is a multiple of 512");
        ensure!(self.bs <= 16 << 20, "a command carries at most 16 MiB");
        ensure!((1..=4096).contains(&self.depth), "the depth is 1 to 4,096");
        ensure!((1..=16_384).contains(&self.sessions), "there are 1 to 16,384 sessions");
        ensure!((1..=8).contains(&self.connections), "a session has 1 to 8 connections");
        ensure!(self.idle_sessions <= 60_000, "there are at most 60,000 idle sessions");
        ensure!(self.receive_bytes >= 4096, "less than 4 KiB at once cannot hold a header and its AHS");
        ensure!(self.time <= Duration::from_secs(24 * 3600), "a run ends within a day");
        if let Some(rate) = self.rate
            && !(rate.per_second >= 0.1 && rate.per_second <= 1e8)
        {
            bail!("the rate is 0.1 to 100 million a second");
        }
        if self.connections > 1 && self.cpus.len() > 1 {
            bail!("the connections of a session share one command window: one generator core only");
        }
        Ok(())
    }

    /// A line for tables: `4 KiB read, depth 32`.
    pub fn name(&self) -> String {
        let mut name =
            format!("{} {}, depth {}", crate::units::size_text(self.bs.into()), self.mix.name(), self.depth);
        if self.sessions > 1 {
            name += &format!(", {} sessions", self.sessions);
        }
        if self.connections > 1 {
            name += &format!(", {} connections each", self.connections);
        }
        if self.idle_sessions > 0 {
            name += &format!(", {} idle beside", self.idle_sessions);
        }
        match (self.header_digest, self.data_digest) {
            (true, true) => name += ", both digests",
            (true, false) => name += ", header digest",
            (false, true) => name += ", data digest",
            (false, false) => {}
        }
        if self.mix.write_percent > 0 && !self.offers.immediate {
            name += if self.offers.unsolicited { ", unsolicited" } else { ", solicited" };
        }
        if let Some(rate) = self.rate {
            name += &format!(", open loop at {}/s", crate::units::thousands(rate.per_second));
        }
        if self.order == Order::Sequential {
            name += ", sequential";
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_read_as_the_share_of_reads() {
        assert_eq!(Mix::parse("read").unwrap(), Mix::READ);
        assert_eq!(Mix::parse("write").unwrap(), Mix::WRITE);
        assert_eq!(Mix::parse("mixed70").unwrap().write_percent, 30);
        assert_eq!(Mix::parse("70").unwrap().name(), "70/30 mix");
        assert!(Mix::parse("101").is_err());
        assert!(Mix::parse("both").is_err());
    }

    #[test]
    fn a_workload_that_cannot_run_is_refused() {
        Workload::default().check().unwrap();
        let refused = |change: fn(&mut Workload)| {
            let mut w = Workload::default();
            change(&mut w);
            assert!(w.check().is_err(), "{w:?}");
        };
        refused(|w| w.bs = 1000);
        refused(|w| w.depth = 0);
        refused(|w| w.connections = 9);
        refused(|w| w.rate = Some(Rate { per_second: f64::NAN, poisson: false }));
        refused(|w| (w.connections, w.cpus) = (2, vec![0, 1]));
    }
}
