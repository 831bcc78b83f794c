//! What is asked, beside what was reached: the table a report begins with.
//!
//! A goal is a ratio to a peer, a ratio to the wire, or both. That to the peer counts where the cores are near each
//! other or one core's threads, and where the wire allows it: where the wire's goal asks for less, that alone counts. What rests
//! on fewer pairs of samples than [`PAIRS_MIN`] is shown and not judged.

use std::fmt::Write as _;

use super::table::Spread;
use super::{Metric, Outcome};
use crate::distance::Class;

/// A row of the table.
struct Goal {
    /// File the comparison is kept in, without its ending.
    file: &'static str,
    /// Row, as it is written on the command line.
    row: &'static str,
    metric: Metric,
    asked: Asked,
}

#[derive(Clone, Copy)]
enum Asked {
    /// Ratios to SPDK and to the wire: as much or more, but less or equal for latencies.
    Ratios { peer: Option<f64>, wire: Option<f64> },
    /// The subject's own figure, at most.
    AtMost(f64),
    /// The subject's own figure, at least.
    AtLeast(f64),
}

const fn ratios(
    file: &'static str,
    row: &'static str,
    metric: Metric,
    peer: Option<f64>,
    wire: Option<f64>,
) -> Goal {
    Goal { file, row, metric, asked: Asked::Ratios { peer, wire } }
}

const fn rate(file: &'static str, row: &'static str, peer: f64, wire: f64) -> Goal {
    ratios(file, row, Metric::Rate, Some(peer), Some(wire))
}

const fn peer_only(file: &'static str, row: &'static str, metric: Metric, peer: f64) -> Goal {
    ratios(file, row, metric, Some(peer), None)
}

const GOALS: &[Goal] = &[
    rate("ram-depths", "read:4k:32", 1.2, 0.90),
    rate("ram-depths", "read:4k:32:s4", 1.2, 0.90),
    rate("ram-depths", "read:4k:128", 1.35, 0.90),
    rate("ram-depths", "read:4k:128:s4", 1.35, 0.90),
    rate("null-depths", "read:4k:32", 1.2, 0.90),
    rate("null-depths", "read:4k:32:s4", 1.2, 0.90),
    rate("null-depths", "read:4k:128", 1.4, 0.90),
    rate("null-depths", "read:4k:128:s4", 1.4, 0.90),
    rate("ram-depths", "write:4k:32", 1.6, 0.87),
    rate("ram-depths", "write:4k:32:s4", 1.6, 0.87),
    rate("ram-depths", "write:4k:128", 2.0, 0.87),
    rate("ram-depths", "write:4k:128:s4", 2.0, 0.87),
    rate("null-depths", "write:4k:32", 1.05, 0.90),
    rate("null-depths", "write:4k:32:s4", 1.05, 0.90),
    rate("null-depths", "write:4k:128", 1.4, 0.90),
    rate("null-depths", "write:4k:128:s4", 1.4, 0.90),
    ratios("ram-depths", "read:4k:1", Metric::P50, Some(0.92), Some(1.08)),
    ratios("ram-depths", "read:4k:1", Metric::P99, Some(0.88), Some(1.08)),
    ratios("ram-depths", "write:4k:1", Metric::P50, Some(0.92), Some(1.08)),
    ratios("ram-depths", "write:4k:1", Metric::P99, Some(0.88), Some(1.08)),
    ratios("null-depths", "read:4k:1", Metric::P50, Some(0.92), Some(1.08)),
    ratios("null-depths", "read:4k:1", Metric::P99, Some(0.88), Some(1.08)),
    ratios("null-depths", "write:4k:1", Metric::P50, Some(0.92), Some(1.08)),
    ratios("null-depths", "write:4k:1", Metric::P99, Some(0.88), Some(1.08)),
    rate("ram-large", "read:128k:32", 1.05, 0.90),
    rate("ram-large", "write:128k:32", 1.15, 0.90),
    rate("null-large", "read:128k:32", 1.05, 0.90),
    rate("null-large", "write:128k:32", 1.15, 0.90),
    peer_only("ram-open", "mixed70:4k:128:open70", Metric::P99, 0.7),
    peer_only("ram-open", "mixed70:4k:128:open70", Metric::P999, 0.7),
    peer_only("null-open", "mixed70:4k:128:open70", Metric::P99, 0.7),
    peer_only("null-open", "mixed70:4k:128:open70", Metric::P999, 0.7),
    peer_only("ram-digests", "read:4k:32:hd:dd", Metric::Rate, 1.3),
    peer_only("ram-digests", "write:4k:32:hd:dd", Metric::Rate, 1.6),
    peer_only("ram-digests", "read:128k:32:hd:dd", Metric::Rate, 1.05),
    peer_only("ram-digests", "write:128k:32:hd:dd", Metric::Rate, 1.15),
    peer_only("null-digests", "read:4k:32:hd:dd", Metric::Rate, 1.3),
    peer_only("null-digests", "write:4k:32:hd:dd", Metric::Rate, 1.6),
    peer_only("null-digests", "read:128k:32:hd:dd", Metric::Rate, 1.05),
    peer_only("null-digests", "write:128k:32:hd:dd", Metric::Rate, 1.15),
    peer_only("direct-file", "read:4k:32", Metric::Rate, 1.2),
    peer_only("direct-file", "write:4k:32", Metric::Rate, 1.2),
    peer_only("cached-file", "read:4k:32", Metric::Rate, 1.2),
    peer_only("cached-file", "write:4k:32", Metric::Rate, 1.2),
    peer_only("loop-file", "read:4k:32", Metric::Rate, 1.2),
    peer_only("loop-file", "write:4k:32", Metric::Rate, 1.2),
    Goal { file: "null-idle", row: "read:4k:32:idle1000", metric: Metric::Kept, asked: Asked::AtLeast(0.98) },
    Goal { file: "null-idle", row: "idle:1", metric: Metric::Cpu, asked: Asked::AtMost(1.0) },
    Goal { file: "null-idle", row: "idle:1000", metric: Metric::Cpu, asked: Asked::AtMost(1.0) },
];

/// Pairs of samples of which a ratio is judged: one or two say what the machine did just then.
const PAIRS_MIN: usize = 3;

/// Most milliseconds from the start of a target with a thousand units to its first login answered.
const START_MS: f64 = 100.0;

/// What became of a goal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Met,
    Missed,
    /// It does not count here: no peer, or cores that are far from each other and no limit.
    Open,
}

impl Verdict {
    /// Of ratios that all count: what one of them leaves open is not met.
    fn all(parts: impl IntoIterator<Item = Verdict>) -> Self {
        let worst = |all: Self, part| match (all, part) {
            (Self::Missed, _) | (_, Self::Missed) => Self::Missed,
            (Self::Open, _) | (_, Self::Open) => Self::Open,
            _ => Self::Met,
        };
        parts.into_iter().reduce(worst).unwrap_or(Self::Open)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Met => "yes",
            Self::Missed => "**no**",
            Self::Open => "–",
        }
    }
}

/// A ratio that was asked for and reached.
struct Ratio {
    asked: f64,
    reached: Option<Spread>,
    counts: bool,
}

impl Ratio {
    fn verdict(&self, metric: Metric) -> Verdict {
        match self.reached {
            Some(s) if s.count < PAIRS_MIN => Verdict::Open,
            Some(s) if less_is_better(metric) == (s.median < self.asked) => Verdict::Met,
            Some(s) if s.median == self.asked => Verdict::Met,
            Some(_) => Verdict::Missed,
            None => Verdict::Open,
        }
    }

    fn text(this: Option<&Self>) -> String {
        match this {
            None => " – | –".to_owned(),
            Some(Self { asked, reached: None, .. }) => format!(" {asked:.2} | –"),
            Some(Self { asked, reached: Some(s), counts }) => {
                let aside = if *counts { "" } else { " (does not count)" };
                format!(" {asked:.2} | {:.2} ({:.2}–{:.2}){aside}", s.median, s.min, s.max)
            }
        }
    }
}

fn less_is_better(metric: Metric) -> bool {
    matches!(metric, Metric::P50 | Metric::P99 | Metric::P999 | Metric::Cpu)
}

/// The table, from comparisons by the name of their file. `start_ms` is the time to the first login with a thousand units.
pub fn goals(found: &[(String, Outcome)], start_ms: Option<f64>) -> String {
    let mut out = String::from(
        "| work | figure | cores | asked to SPDK | reached | asked to the wire | reached | met |\n\
         |---|---|---|---:|---:|---:|---:|---|\n",
    );
    let (mut met, mut judged, mut absent) = (0, 0, 0);
    let mut count = |verdict: Verdict| {
        met += u32::from(verdict == Verdict::Met);
        judged += u32::from(verdict != Verdict::Open);
        verdict.text()
    };
    for goal in GOALS {
        let outcome = found.iter().find(|(file, _)| file == goal.file).map(|(_, outcome)| outcome);
        let here = outcome.and_then(|outcome| Some((outcome, outcome.row(goal.row)?)));
        let mut lines = 0;
        for class in Class::ALL {
            let Some((outcome, row)) = here else { continue };
            let Some(mine) = outcome.figure(class, row, 0, goal.metric) else { continue };
            lines += 1;
            let _ = write!(
                out,
                "| {}: {} | {} | {} |",
                outcome.contenders[0],
                outcome.rows[row].name,
                goal.metric.name(),
                class.name()
            );
            let _ = match goal.asked {
                Asked::Ratios { peer, wire } => {
                    let (peer, wire) = judge(outcome, class, row, goal.metric, peer, wire);
                    let counting = [&peer, &wire].into_iter().flatten().filter(|r| r.counts);
                    let verdict = Verdict::all(counting.map(|r| r.verdict(goal.metric)));
                    let (peer, wire) = (Ratio::text(peer.as_ref()), Ratio::text(wire.as_ref()));
                    writeln!(out, "{peer} |{wire} | {} |", count(verdict))
                }
                Asked::AtMost(most) => {
                    let verdict = if mine.median <= most { Verdict::Met } else { Verdict::Missed };
                    own(&mut out, goal.metric, "at most", most, mine, count(verdict))
                }
                Asked::AtLeast(least) => {
                    let verdict = if mine.median >= least { Verdict::Met } else { Verdict::Missed };
                    own(&mut out, goal.metric, "at least", least, mine, count(verdict))
                }
            };
        }
        if lines == 0 {
            absent += 1;
            let _ = writeln!(
                out,
                "| `{}` of {} | {} | | | | | | not measured |",
                goal.row,
                goal.file,
                goal.metric.name()
            );
        }
    }
    match start_ms {
        Some(ms) => {
            let verdict = if ms < START_MS { Verdict::Met } else { Verdict::Missed };
            let verdict = count(verdict);
            let _ = writeln!(
                out,
                "| start with 1,000 LUNs | to the first login | | | | under {START_MS:.0} ms | {ms:.0} ms | {verdict} |"
            );
        }
        None => absent += 1,
    }
    let _ = write!(out, "\n{met} of {judged} goals that can be judged here are met");
    let _ = writeln!(
        out,
        "{}.",
        if absent > 0 { format!("; {absent} were not measured") } else { String::new() }
    );
    out
}

fn own(
    out: &mut String,
    metric: Metric,
    how: &str,
    asked: f64,
    reached: Spread,
    verdict: &str,
) -> std::fmt::Result {
    let (least, most) = (metric.text(reached.min), metric.text(reached.max));
    writeln!(
        out,
        " | | {how} {} | {} ({least}–{most}) | {verdict} |",
        metric.text(asked),
        metric.text(reached.median)
    )
}

/// The two ratios of a row, and which of them count.
fn judge(
    outcome: &Outcome,
    class: Class,
    row: usize,
    metric: Metric,
    peer: Option<f64>,
    wire: Option<f64>,
) -> (Option<Ratio>, Option<Ratio>) {
    let ratio = |other: Option<usize>| outcome.ratio(class, row, other?, metric);
    // Of several of a kind, such as two ways of using a file, the best.
    let number = |kind: &str| {
        let all = (1..outcome.kinds.len()).filter(|&n| outcome.kinds[n] == kind);
        let unknown = if less_is_better(metric) { f64::NEG_INFINITY } else { f64::INFINITY };
        let reached = |n: &usize| ratio(Some(*n)).map_or(unknown, |s| s.median);
        if less_is_better(metric) {
            all.max_by(|a, b| reached(a).total_cmp(&reached(b)))
        } else {
            all.min_by(|a, b| reached(a).total_cmp(&reached(b)))
        }
    };
    let (spdk, limit) = (number("spdk"), number("wire"));
    let wire = wire.map(|asked| Ratio { asked, reached: ratio(limit), counts: true });
    let peer = peer.map(|asked| {
        let figure = |other: Option<usize>| outcome.figure(class, row, other?, metric);
        // What both goals come to in this row's own figures.
        let wire_allows = match (figure(spdk), figure(limit), &wire) {
            (Some(spdk), Some(limit), Some(wire)) => {
                let (by_peer, by_wire) = (asked * spdk.median, wire.asked * limit.median);
                if less_is_better(metric) { by_wire <= by_peer } else { by_wire >= by_peer }
            }
            _ => true,
        };
        Ratio { asked, reached: ratio(spdk), counts: class != Class::Far && wire_allows }
    });
    (peer, wire)
}

#[cfg(test)]
mod tests {
    use super::super::{Row, Sample, parse_items, preset};
    use super::*;
    use crate::report::{Report, Stats};

    /// As many rounds as are judged, all alike.
    fn samples(contenders: &[(Class, f64)]) -> Vec<Sample> {
        let of = |round: u32| {
            let one = move |(who, &(class, rate))| Sample { round, ..sample(who, class, rate) };
            contenders.iter().enumerate().map(one)
        };
        (0..PAIRS_MIN as u32).flat_map(of).collect()
    }

    fn sample(contender: usize, class: Class, rate: f64) -> Sample {
        let mut report = Report::of(String::new(), &Stats::default(), 1.0, 0);
        report.ops_per_second = rate;
        Sample {
            round: 0,
            item: 0,
            contender,
            distance_ns: (100.0, 100.0),
            class: Some(class),
            report,
            target_cpu_percent: None,
            session_bytes: None,
            alone: None,
            discarded: None,
        }
    }

    /// `null-depths` with one row: rates of Spindle, SPDK and the wire.
    fn table(key: &str, class: Class, [mine, spdk, wire]: [f64; 3]) -> String {
        let outcome = Outcome {
            contenders: vec!["S".into(), "P".into(), "wire".into()],
            kinds: vec!["spindle".into(), "spdk".into(), "wire".into()],
            started: vec![None, None, None],
            rows: vec![Row { key: key.into(), name: key.into(), metrics: vec![Metric::Rate] }],
            rates: Vec::new(),
            samples: samples(&[(class, mine), (class, spdk), (class, wire)]),
            failures: Vec::new(),
        };
        let text = goals(&[("null-depths".into(), outcome)], None);
        text.lines().find(|line| line.starts_with(&format!("| S: {key} "))).unwrap().to_owned()
    }

    #[test]
    fn both_ratios_count_where_the_cores_are_near_and_the_wire_allows_it() {
        // 1.2 of SPDK is 960, 0.9 of the wire 990.
        assert!(table("read:4k:32", Class::Near, [1000.0, 800.0, 1100.0]).ends_with("| yes |"));
        assert!(table("read:4k:32", Class::Near, [980.0, 800.0, 1100.0]).ends_with("| **no** |"));
        assert!(table("read:4k:32", Class::OneCore, [950.0, 800.0, 1070.0]).ends_with("| **no** |"));
        // Between the two: the wire is reached, SPDK's is not.
        let line = table("read:4k:32", Class::Near, [950.0, 800.0, 1070.0]);
        assert!(line.ends_with("| **no** |") && line.contains("1.19"), "{line}");
    }

    #[test]
    fn the_wire_alone_counts_where_it_asks_for_less_and_where_the_cores_are_far() {
        // 1.2 of SPDK is more than 0.9 of the wire.
        let line = table("read:4k:32", Class::Near, [950.0, 900.0, 1000.0]);
        assert!(line.contains("does not count") && line.ends_with("| yes |"), "{line}");
        let line = table("read:4k:32", Class::Far, [950.0, 900.0, 1000.0]);
        assert!(line.contains("does not count") && line.ends_with("| yes |"), "{line}");
        assert!(table("read:4k:32", Class::Far, [800.0, 100.0, 1000.0]).ends_with("| **no** |"));
    }

    #[test]
    fn a_ratio_that_counts_and_is_missing_leaves_the_goal_open() {
        let line = table("read:4k:32", Class::Near, [1000.0, f64::NAN, 1000.0]);
        assert!(line.ends_with("| – |"), "{line}");
        let line = table("read:4k:32", Class::Near, [1000.0, 2000.0, f64::NAN]);
        assert!(line.ends_with("| **no** |"), "{line}");
    }

    #[test]
    fn one_or_two_pairs_are_shown_and_not_judged() {
        let two = |mine: f64| {
            let mut outcome = of_two_peers([mine, 100.0, 100.0]);
            outcome.samples.retain(|sample| sample.round < 2);
            goals(&[("loop-file".into(), outcome)], None)
        };
        for mine in [10.0, 500.0] {
            let text = two(mine);
            assert!(
                text.contains(&format!("{:.2} (", mine / 100.0)) && text.contains("0 of 0 goals"),
                "{text}"
            );
        }
    }

    fn of_two_peers(rates: [f64; 3]) -> Outcome {
        Outcome {
            contenders: vec!["S".into(), "aio".into(), "uring".into()],
            kinds: vec!["spindle".into(), "spdk".into(), "spdk".into()],
            started: vec![None, None, None],
            rows: vec![Row { key: "read:4k:32".into(), name: "r".into(), metrics: vec![Metric::Rate] }],
            rates: Vec::new(),
            samples: samples(&rates.map(|rate| (Class::Near, rate))),
            failures: Vec::new(),
        }
    }

    #[test]
    fn of_two_peers_the_better_one_counts() {
        let outcome = of_two_peers([130.0, 100.0, 130.0]);
        let text = goals(&[("loop-file".into(), outcome)], None);
        assert!(text.contains("| 1.20 | 1.00 (1.00–1.00) | – | – | **no** |"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_said() {
        let text = goals(&[], Some(87.0));
        assert_eq!(text.matches("not measured |").count(), GOALS.len());
        assert!(text.contains("87 ms | yes |") && text.contains("1 of 1 goals"), "{text}");
        assert!(goals(&[], Some(440.0)).contains("**no**"));
    }

    #[test]
    fn every_goal_names_a_row_of_the_set_in_its_files_name() {
        for goal in GOALS {
            let (_, set) = goal.file.split_once('-').unwrap();
            let rows = parse_items(preset(set).unwrap()).unwrap();
            let row = rows.iter().find(|item| item.key == goal.row);
            let row = row.unwrap_or_else(|| panic!("{} is not in {set}", goal.row));
            assert!(row.metrics().contains(&goal.metric), "{}", goal.row);
        }
    }
}
