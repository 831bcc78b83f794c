//! A comparison as Markdown.

use std::fmt::Write as _;

use super::{Metric, Outcome, Row, Sample};
use crate::distance::Class;
use crate::units::{size_text, thousands};

/// Median, least and most of some values.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Most.
    pub max: f64,
    /// How many.
    pub count: usize,
}

impl Spread {
    /// Of values that are numbers.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let median = match count {
            0 => return None,
            n if n % 2 == 1 => values[n / 2],
            n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
        };
        Some(Self { median, min: values[0], max: values[count - 1], count })
    }
}

impl Outcome {
    fn counted(&self, class: Class, item: usize, contender: usize) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |s| {
            s.discarded.is_none() && s.class == Some(class) && (s.item, s.contender) == (item, contender)
        })
    }

    /// A contender's figure over the rounds of a class.
    pub fn figure(&self, class: Class, item: usize, contender: usize, metric: Metric) -> Option<Spread> {
        Spread::of(self.counted(class, item, contender).filter_map(|s| s.value(metric)).collect())
    }

    /// The subject's figure by another's, formed in each round in which both have one of the same class.
    pub fn ratio(&self, class: Class, item: usize, other: usize, metric: Metric) -> Option<Spread> {
        let ratios = self.counted(class, item, 0).filter_map(|mine| {
            let theirs = self.counted(class, item, other).find(|s| s.round == mine.round)?;
            Some(mine.value(metric)? / theirs.value(metric)?)
        });
        Spread::of(ratios.collect())
    }

    /// The number of a row, by how it was written.
    pub fn row(&self, key: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.key == key)
    }
}

/// The whole comparison: one table for each class of distance.
pub fn markdown(outcome: &Outcome) -> String {
    let mut out = String::new();
    for class in Class::ALL {
        let samples: Vec<&Sample> =
            outcome.samples.iter().filter(|s| s.class == Some(class) && s.discarded.is_none()).collect();
        if samples.is_empty() {
            continue;
        }
        let ways = samples.iter().flat_map(|s| [s.distance_ns.0, s.distance_ns.1]).collect();
        let ways = Spread::of(ways).expect("there are samples");
        let _ = writeln!(
            out,
            "### {} (one way {:.0} ns, {:.0} to {:.0})\n",
            match class {
                Class::OneCore => "Two threads of one core",
                Class::Near => "Cores near each other",
                Class::Far => "Cores far from each other",
            },
            ways.median,
            ways.min,
            ways.max
        );
        table(&mut out, outcome, class);
        out.push('\n');
    }
    let discarded = outcome.samples.iter().filter(|s| s.discarded.is_some()).count();
    let _ = writeln!(out, "{} samples, {discarded} of them discarded.", outcome.samples.len());
    let facts: Vec<String> = outcome
        .contenders
        .iter()
        .zip(&outcome.started)
        .filter_map(|(name, facts)| {
            let facts = facts.as_ref()?;
            Some(format!("{name} {:.0} ms, {}", facts.start_ms, size_text(facts.resident_bytes >> 20 << 20)))
        })
        .collect();
    if !facts.is_empty() {
        let _ = writeln!(out, "Start to first login answered, and resident size then: {}.", facts.join("; "));
    }
    for &(row, class, rate) in &outcome.rates {
        let _ = writeln!(out, "- {}: {}/s ({}).", outcome.rows[row].name, thousands(rate), class.name());
    }
    for (row, contender, why) in &outcome.failures {
        let _ =
            writeln!(out, "- {}: {} failed: {why}", outcome.rows[*row].name, outcome.contenders[*contender]);
    }
    out
}

fn table(out: &mut String, outcome: &Outcome, class: Class) {
    let _ = write!(out, "| work | figure |");
    for name in &outcome.contenders {
        let _ = write!(out, " {name} |");
    }
    for name in &outcome.contenders[1..] {
        let _ = write!(out, " {} / {name} |", outcome.contenders[0]);
    }
    let _ = write!(out, "\n|---|---|");
    out.push_str(&"---:|".repeat(2 * outcome.contenders.len() - 1));
    out.push('\n');
    for (n, Row { name, metrics, .. }) in outcome.rows.iter().enumerate() {
        for &metric in metrics {
            let _ = write!(out, "| {name} | {} |", metric.name());
            for contender in 0..outcome.contenders.len() {
                match outcome.figure(class, n, contender, metric) {
                    Some(s) => {
                        let spread = (s.max - s.min) / 2.0 / s.median * 100.0;
                        let _ = write!(out, " {}", metric.text(s.median));
                        if s.count > 1 && s.median > 0.0 {
                            let _ = write!(out, " ±{spread:.0} %");
                        }
                        out.push_str(" |");
                    }
                    None => out.push_str(" – |"),
                }
            }
            for other in 1..outcome.contenders.len() {
                match outcome.ratio(class, n, other, metric) {
                    Some(s) => {
                        let _ = write!(out, " **{:.2}** ({:.2}–{:.2}) |", s.median, s.min, s.max);
                    }
                    None => out.push_str(" – |"),
                }
            }
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Report, Stats};

    fn sample(round: u32, contender: usize, rate: f64, class: Option<Class>) -> Sample {
        let mut report = Report::of(String::new(), &Stats::default(), 1.0, 0);
        report.ops_per_second = rate;
        let distance_ns = (100.0, 100.0);
        let discarded = class.is_none().then(|| "moved".to_owned());
        Sample {
            round,
            item: 0,
            contender,
            distance_ns,
            class,
            report,
            target_cpu_percent: None,
            session_bytes: None,
            alone: None,
            discarded,
        }
    }

    #[test]
    fn ratios_are_formed_within_a_round_and_a_class_only() {
        let near = Some(Class::Near);
        let outcome = Outcome {
            contenders: vec!["A".into(), "B".into()],
            kinds: vec!["spindle".into(), "spdk".into()],
            started: vec![None, None],
            rows: vec![Row {
                key: "read:4k:32".into(),
                name: "4 KiB read".into(),
                metrics: vec![Metric::Rate],
            }],
            rates: vec![(0, Class::Far, 70_000.0)],
            samples: vec![
                sample(0, 0, 300.0, near),
                sample(0, 1, 200.0, near),
                // Twice as slow a machine: the ratio stays.
                sample(1, 0, 150.0, near),
                sample(1, 1, 100.0, near),
                // No partner of the same class in its round.
                sample(2, 0, 150.0, Some(Class::Far)),
                sample(2, 1, 10_000.0, near),
                sample(3, 0, 1.0, None),
                sample(3, 1, 1.0, near),
            ],
            failures: Vec::new(),
        };
        let ratio = outcome.ratio(Class::Near, 0, 1, Metric::Rate).unwrap();
        assert_eq!(ratio, Spread { median: 1.5, min: 1.5, max: 1.5, count: 2 });
        assert_eq!(outcome.ratio(Class::Far, 0, 1, Metric::Rate), None);
        let text = markdown(&outcome);
        assert!(text.contains("**1.50** (1.50–1.50)") && text.contains("1 of them discarded"), "{text}");
        assert!(text.contains("Cores near") && text.contains("Cores far"));
        assert!(text.contains("70.0 k/s (far)"), "{text}");
    }

    #[test]
    fn what_a_busy_session_keeps_is_its_rate_by_that_without_idle_ones() {
        let beside = |rate, alone| Sample { alone, ..sample(0, 0, rate, Some(Class::Near)) };
        assert_eq!(beside(99.0, Some(100.0)).value(Metric::Kept), Some(0.99));
        assert_eq!(beside(99.0, None).value(Metric::Kept), None);
    }

    #[test]
    fn spread_knows_median_and_ends() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Spread::of(vec![4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of(vec![f64::NAN]), None);
    }
}
