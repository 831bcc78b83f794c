//! Where a target's time goes, by looking at it some thousand times a second.
//!
//! `perf record -e cpu-clock` needs no hardware counters, so it works within a virtual machine: a timer fires, and what
//! the target is doing at that moment is written down with all its callers. The shares of these moments are those of
//! time, within a percent or so. Spinning is time, too: it is counted where the target waits.

mod place;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::compare::{ContenderSpec, Item, Kind, fill, start_target};
use crate::load;
use crate::units::thousands;
use crate::workload::Workload;

pub use self::place::Place;

/// Times a second the target is looked at: no multiple of any tick.
const FREQUENCY: &str = "3989";
/// A figure of fewer moments says nothing.
const MOMENTS_MIN: usize = 200;

/// What to look at.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The target.
    pub contender: ContenderSpec,
    /// Rows, each with the load it puts on.
    pub items: Vec<Item>,
    /// How long each is looked at.
    pub time: Duration,
    /// Processor of the target.
    pub target_cpu: u32,
    /// Processor of the generator.
    pub generator_cpu: u32,
    /// Functions printed below each row.
    pub functions: usize,
}

/// Whether this machine has what is needed.
pub fn available() -> Result<()> {
    let found = Command::new("perf").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ensure!(found.is_ok_and(|status| status.success()), "there is no `perf` here (Debian: linux-perf)");
    Ok(())
}

/// Looks at all rows and prints a table.
pub fn run(plan: &Plan, mut say: impl FnMut(&str)) -> Result<String> {
    available()?;
    let (running, _) = start_target(&plan.contender, &[plan.target_cpu])?;
    // Reads of what was never written are answered out of one page of zeroes.
    fill(&running, &plan.contender, plan.generator_cpu).context("filling it")?;
    let pid = running.pid().context("only a target that was started here can be looked at")?;
    let mut out = String::from("| work | a second | ns each |");
    for place in Place::ALL {
        let _ = write!(out, " {} |", place.name());
    }
    let _ = write!(out, "\n|---|---:|---:|{}\n", "---:|".repeat(Place::ALL.len()));
    let mut below = String::new();
    for item in &plan.items {
        let Kind::Load { work, open_percent: None } = &item.kind else {
            bail!("{} puts on no load", item.key)
        };
        say(&item.name());
        let before = Duration::from_millis(400);
        // Somewhat longer than it is looked at: perf takes a moment to begin and to end.
        let work = Workload {
            warmup: before,
            time: plan.time + Duration::from_millis(800),
            cpus: vec![plan.generator_cpu],
            ..work.clone()
        };
        let (report, recorded, busy) = std::thread::scope(|scope| -> Result<_> {
            let loading = scope.spawn(|| load::run(running.url(), &work));
            std::thread::sleep(before);
            let (used, clock) = (running.cpu_seconds(), Instant::now());
            let mut busy = None;
            let recorded = record(pid, plan.time, || {
                let share = |(from, to)| (to - from) / clock.elapsed().as_secs_f64();
                busy = used.zip(running.cpu_seconds()).map(share);
            });
            let report = loading.join().expect("the generator does not panic")?;
            Ok((report, recorded?, busy.context("its processor time")?))
        })?;
        let profile = Profile::parse(&recorded);
        ensure!(
            profile.moments > 0,
            "nothing was seen: perf needs root, or kernel.perf_event_paranoid at 1 or less"
        );
        let rate = report.ops_per_second;
        let _ = write!(out, "| {} | {} | {:.0} |", item.name(), thousands(rate), busy * 1e9 / rate);
        for place in Place::ALL {
            // A target that sleeps is not seen.
            let _ = match profile.moments {
                ..MOMENTS_MIN => write!(out, " – |"),
                _ => write!(out, " {:.0} % |", profile.share(place) * 100.0),
            };
        }
        out.push('\n');
        if plan.functions > 0 && profile.moments >= MOMENTS_MIN {
            let top: Vec<String> = profile
                .functions(plan.functions)
                .into_iter()
                .map(|(name, share)| format!("`{name}` {:.1} %", share * 100.0))
                .collect();
            let _ = writeln!(below, "- {}: {}.", item.name(), top.join(", "));
        }
    }
    if !below.is_empty() {
        let _ = write!(out, "\n{below}");
    }
    Ok(out)
}

/// What perf saw of a process, as text: callers below each function, an empty line between moments.
/// `recorded` is called when it has been seen and is still to be printed, which takes longer than the load lasts.
fn record(pid: u32, time: Duration, recorded: impl FnOnce()) -> Result<String> {
    let file = std::env::temp_dir().join(format!("spindle-perf-{}.profile", std::process::id()));
    let result = record_to(&file, pid, time, recorded);
    let _ = std::fs::remove_file(&file);
    result
}

fn record_to(file: &Path, pid: u32, time: Duration, recorded: impl FnOnce()) -> Result<String> {
    let seconds = format!("{:.3}", time.as_secs_f64());
    let mut record = Command::new("perf");
    record.args(["record", "-q", "-e", "cpu-clock", "-F", FREQUENCY, "-g", "-p", &pid.to_string(), "-o"]);
    record.arg(file).args(["--", "sleep", &seconds]).stdin(Stdio::null());
    let output = record.output().context("perf record")?;
    recorded();
    ensure!(output.status.success(), "perf record: {}", String::from_utf8_lossy(&output.stderr).trim());
    let mut script = Command::new("perf");
    script.args(["script", "-F", "ip,sym,dso", "-i"]).arg(file).stdin(Stdio::null());
    let output = script.output().context("perf script")?;
    ensure!(output.status.success(), "perf script: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Moments, counted by place and by function.
#[derive(Default)]
struct Profile {
    moments: usize,
    places: BTreeMap<Place, usize>,
    functions: BTreeMap<String, usize>,
}

impl Profile {
    fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for moment in text.split("\n\n") {
            let stack: Vec<place::Frame<'_>> = moment.lines().filter_map(place::Frame::parse).collect();
            let Some(leaf) = stack.first() else { continue };
            all.moments += 1;
            *all.places.entry(Place::of(&stack)).or_default() += 1;
            *all.functions.entry(leaf.short_name()).or_default() += 1;
        }
        all
    }

    fn share(&self, place: Place) -> f64 {
        self.places.get(&place).copied().unwrap_or(0) as f64 / self.moments.max(1) as f64
    }

    /// Those in which most time is spent, without what they call.
    fn functions(&self, most: usize) -> Vec<(&str, f64)> {
        let mut all: Vec<_> = self.functions.iter().map(|(name, &n)| (name.as_str(), n)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        all.truncate(most);
        all.into_iter().map(|(name, n)| (name, n as f64 / self.moments.max(1) as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: &str = "\
\tffffffff81b6a534 _copy_from_iter ([kernel.kallsyms])
\tffffffff8200e603 tcp_sendmsg_locked ([kernel.kallsyms])
\tffffffff81e2fcfb __sys_sendmsg ([kernel.kallsyms])
\t          4c1e72 spindle_net::epoll::send::<impl spindle_net::epoll::EpollNet>::send_some (/x/spindle)


\tffffffff816917f5 kfree ([kernel.kallsyms])
\tffffffff8201ca27 tcp_ack ([kernel.kallsyms])
\tffffffff81e60000 net_rx_action ([kernel.kallsyms])
\tffffffff81e2fcfb __sys_sendmsg ([kernel.kallsyms])

\t          3045a2 <spindle_iscsi::transport::IscsiTransport<N> as spindle_scsi_port::mid::Transport>::perform (/x/spindle)
\t    7f6444225ea0 [unknown] ([unknown])
";

    #[test]
    fn moments_are_counted_where_they_were_seen() {
        let profile = Profile::parse(SEEN);
        assert_eq!(profile.moments, 3);
        for place in [Place::Copy, Place::Input, Place::Iscsi] {
            assert!((profile.share(place) - 1.0 / 3.0).abs() < 1e-9, "{place:?}");
        }
        assert_eq!(profile.share(Place::Send), 0.0);
        assert_eq!(profile.functions(1), [("_copy_from_iter", 1.0 / 3.0)]);
    }

    #[test]
    fn nothing_seen_is_no_share_of_anything() {
        let profile = Profile::parse("\n\n");
        assert_eq!((profile.moments, profile.share(Place::Copy)), (0, 0.0));
        assert!(profile.functions(5).is_empty());
    }
}
