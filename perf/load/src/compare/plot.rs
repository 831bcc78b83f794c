//! Rates as bars with their spread, in SVG: one group a row, one bar a contender.

use std::fmt::Write as _;

use super::table::Spread;
use super::{Metric, Outcome, Row};
use crate::distance::Class;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 300.0;
const BAR: f64 = 14.0;
const GAP: f64 = 12.0;
/// Distinguishable in print and for most kinds of colour blindness.
const COLORS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#999999"];

/// All rows that have a rate or a latency. Bars of a group are relative to its longest, since rows differ by
/// orders of magnitude; the figure stands beside each bar.
pub fn svg(outcome: &Outcome) -> String {
    let mut body = String::new();
    let mut y = 20.0;
    for (n, name) in outcome.contenders.iter().enumerate() {
        let x = 20.0 + 150.0 * n as f64;
        let color = COLORS[n % COLORS.len()];
        let _ = writeln!(body, r#"<rect x="{x}" y="{}" width="12" height="12" fill="{color}"/>"#, y - 10.0);
        let _ = writeln!(body, r#"<text x="{}" y="{y}">{}</text>"#, x + 18.0, escaped(name));
    }
    y += 30.0;
    for class in Class::ALL {
        for (n, Row { name, metrics, .. }) in outcome.rows.iter().enumerate() {
            for &metric in metrics {
                let figures: Vec<Option<Spread>> =
                    (0..outcome.contenders.len()).map(|c| outcome.figure(class, n, c, metric)).collect();
                let longest = figures.iter().flatten().map(|s| s.max).fold(0.0, f64::max);
                if longest > 0.0 {
                    group(
                        &mut body,
                        &mut y,
                        &format!("{name}: {} ({})", metric.name(), class.name()),
                        metric,
                        &figures,
                        longest,
                    );
                }
            }
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn group(
    body: &mut String,
    y: &mut f64,
    title: &str,
    metric: Metric,
    figures: &[Option<Spread>],
    longest: f64,
) {
    let height = BAR * figures.iter().flatten().count() as f64;
    let middle = *y + height / 2.0 + 4.0;
    let _ = writeln!(
        body,
        r#"<text x="{}" y="{middle}" text-anchor="end">{}</text>"#,
        LEFT - 8.0,
        escaped(title)
    );
    let scale = (WIDTH - LEFT - 110.0) / longest;
    for (contender, spread) in figures.iter().enumerate() {
        let Some(s) = spread else { continue };
        let color = COLORS[contender % COLORS.len()];
        let (width, line) = (s.median * scale, *y + BAR / 2.0);
        let _ = writeln!(
            body,
            r#"<rect x="{LEFT}" y="{y}" width="{width:.1}" height="{}" fill="{color}"/>"#,
            BAR - 2.0
        );
        let (from, to) = (LEFT + s.min * scale, LEFT + s.max * scale);
        let _ = writeln!(body, r#"<path d="M{from:.1} {line:.1} H{to:.1}" stroke="black"/>"#);
        let _ = writeln!(
            body,
            r#"<text x="{:.1}" y="{:.1}">{}</text>"#,
            to + 6.0,
            line + 4.0,
            metric.text(s.median)
        );
        *y += BAR;
    }
    *y += GAP;
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Sample;
    use crate::report::{Report, Stats};

    #[test]
    fn every_contender_has_its_bar_and_names_are_escaped() {
        let sample = |contender: usize, rate: f64| {
            let mut report = Report::of(String::new(), &Stats::default(), 1.0, 0);
            report.ops_per_second = rate;
            let class = Some(Class::Near);
            let distance_ns = (1.0, 1.0);
            Sample {
                round: 0,
                item: 0,
                contender,
                distance_ns,
                class,
                report,
                target_cpu_percent: None,
                session_bytes: None,
                alone: None,
                discarded: None,
            }
        };
        let outcome = Outcome {
            contenders: vec!["A<B".into(), "C".into()],
            kinds: vec!["cmd".into(), "cmd".into()],
            started: vec![None, None],
            rows: vec![Row { key: "row".into(), name: "row".into(), metrics: vec![Metric::Rate] }],
            rates: Vec::new(),
            samples: vec![sample(0, 1000.0), sample(1, 500.0)],
            failures: Vec::new(),
        };
        let svg = svg(&outcome);
        assert!(svg.contains("A&lt;B") && svg.contains("1.00 k") && svg.contains(">500<"), "{svg}");
        assert_eq!(svg.matches("<path").count(), 2);
    }
}
