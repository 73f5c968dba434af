//! The result of a run for a person at a terminal: rates, latency tables, a small plot of each, the checks.
//!
//! The JSON is for programs; nothing may rely on this text.
#![forbid(unsafe_code)]

use crate::report::{Percentiles, Report};
use hdrhistogram::Histogram;
use std::fmt::Write;

/// The whole page.
pub fn render(report: &Report, speculative: &Histogram<u64>, durable: &Histogram<u64>) -> String {
    let mut page = String::new();
    rates(&mut page, report);
    if let Some(figures) = report.figures.get("flood") {
        page += &crate::flood::render(figures);
    }
    latencies(&mut page, report);
    plot(&mut page, "speculative", speculative);
    plot(&mut page, "durable", durable);
    for (name, verdict) in &report.checks {
        let _ = writeln!(page, "check {name}: {verdict}");
    }
    page
}

fn rates(page: &mut String, report: &Report) {
    let committed = grouped(report.committed);
    let per_second = grouped(report.throughput_per_s.round() as u64);
    let _ = writeln!(page, "{}: transactions generated on the {}", report.bench, report.generated_on);
    let _ = writeln!(page, "  {committed} committed in {} s: {per_second} per second", report.seconds);
    let aborted = &report.aborted;
    let ends = [
        ("conflict", aborted.conflict),
        ("user", aborted.user),
        ("busy", aborted.busy),
        ("other", aborted.other),
        ("rolled back", report.rolled_back),
    ];
    let attempts = report.committed + ends.iter().map(|(_, count)| count).sum::<u64>();
    let shares = ends.map(|(name, count)| {
        let pct = 100.0 * count as f64 / attempts.max(1) as f64;
        format!("{name} {} ({pct:.2} %)", grouped(count))
    });
    let _ = writeln!(page, "  aborted attempts: {}", shares.join(", "));
    let busy = 100.0 * report.cpu.leader_core_busy;
    let memory = report.memory_bytes as f64 / (1u64 << 20) as f64;
    let cpu = report.cpu.process_seconds;
    let _ = writeln!(page, "  leader cores {busy:.0} % busy, {cpu:.1} s of CPU, {memory:.0} MiB of memory\n");
}

fn latencies(page: &mut String, report: &Report) {
    for (title, of) in [("speculative", speculative as fn(&_) -> _), ("durable", durable as fn(&_) -> _)] {
        let head = ["p50", "p90", "p99", "p99.9", "max"].map(|name| format!("{name:>9}")).concat();
        let _ = writeln!(page, "{title:<28}{:>11}{head}", "committed");
        line(page, "all", report.committed, of(&report.latency_us));
        for (name, by_reach) in &report.by_type {
            for (reach, one) in [("local", &by_reach.local), ("distributed", &by_reach.distributed)] {
                if one.committed > 0 {
                    line(page, &format!("{name}, {reach}"), one.committed, of(&one.latency_us));
                }
            }
        }
        page.push('\n');
    }
}

fn speculative(latencies: &crate::report::Latencies) -> Percentiles {
    latencies.speculative
}

fn durable(latencies: &crate::report::Latencies) -> Percentiles {
    latencies.durable
}

fn line(page: &mut String, name: &str, committed: u64, percentiles: Percentiles) {
    let columns = percentiles.columns().map(|us| format!("{:>9}", latency(us))).concat();
    let _ = writeln!(page, "  {name:<26}{:>11}{columns}", grouped(committed));
}

/// A bar for each doubling of the latency.
fn plot(page: &mut String, title: &str, histogram: &Histogram<u64>) {
    let mut counts = [0u64; 64];
    for step in histogram.iter_recorded() {
        let doubling = step.value_iterated_to().max(1).ilog2();
        counts[doubling as usize] += step.count_at_value();
    }
    let Some(first) = counts.iter().position(|count| *count > 0) else { return };
    let last = counts.iter().rposition(|count| *count > 0).expect("one is there");
    let most = counts.iter().max().copied().unwrap_or(1).max(1);
    let _ = writeln!(page, "{title} latency, by doublings");
    for (doubling, count) in counts.iter().enumerate().take(last + 1).skip(first) {
        let upto = latency(2f64.powi(doubling as i32 + 1) / 1e3);
        let pct = 100.0 * *count as f64 / histogram.len().max(1) as f64;
        // Something is drawn wherever something is, or the tail would seem to end early.
        let width = (count * BAR_COLUMNS).div_ceil(most) as usize;
        let _ = writeln!(page, "  below {upto:>7} {pct:6.2} % {}", "█".repeat(width));
    }
    page.push('\n');
}

/// Microseconds in the unit in which they have at most four digits before the point.
fn latency(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.1}us"),
        us if us < 1e6 => format!("{:.1}ms", us / 1e3),
        us => format!("{:.1}s", us / 1e6),
    }
}

/// 1234567 → 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const BAR_COLUMNS: u64 = 50;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measures;
    use crate::report::{Cpu, Outcome};
    use serde_json::Map;

    #[test]
    fn numbers_are_readable() {
        let numbers = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
        let latencies = [0.5, 999.0, 1_500.0, 2_500_000.0].map(latency);
        assert_eq!(latencies, ["0.5us", "999.0us", "1.5ms", "2.5s"]);
    }

    #[test]
    fn the_page_shows_rates_latencies_plots_and_checks() {
        let mut measures = Measures::new(1);
        for _ in 0..999 {
            measures.on_durable(0, false, 3_000, 3_000_000);
        }
        measures.on_durable(0, true, 3_000, 900_000_000);
        let total = measures.total();
        let verdicts = [("total".to_string(), Some("off by one".to_string()))];
        let outcome = Outcome {
            measures,
            seconds: 2.0,
            cpu: Cpu { leader_core_busy: 0.25, process_seconds: 1.0 },
            memory_bytes: 1 << 30,
            verdicts: verdicts.into(),
            figures: Map::new(),
        };
        let report = Report::new("bank", &["transfer"], Map::new(), &outcome);
        let page = render(&report, &total.speculative, &total.durable);
        let expected = [
            "generated on the leader cores",
            "1,000 committed in 2 s: 500 per second",
            "leader cores 25 % busy",
            "transfer, distributed",
            "check total: off by one",
            // One in a thousand still has a bar.
            "0.10 % █\n",
        ];
        for text in expected {
            assert!(page.contains(text), "{text:?} is missing in\n{page}");
        }
    }
}
