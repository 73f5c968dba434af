//! The `.hgrm` file: a latency histogram as the percentile table that HdrHistogram's tools plot.
//!
//! Values are in milliseconds, as those tools expect; histograms are in nanoseconds.
#![forbid(unsafe_code)]

use hdrhistogram::Histogram;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The table of one histogram.
pub fn render(histogram: &Histogram<u64>) -> String {
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in histogram.iter_quantiles(STEPS_PER_HALVING) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (milliseconds(step.value_iterated_to()), step.quantile_iterated_to());
        let _ = write!(text, "{value:12.3} {quantile:2.12} {total:10}");
        // The last line is of the maximum: one part in infinity is above it.
        let _ =
            if quantile < 1.0 { writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(text) };
    }
    let (mean, deviation) = (histogram.mean() / NS_PER_MS, histogram.stdev() / NS_PER_MS);
    let max = milliseconds(histogram.max());
    let _ = writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let _ = writeln!(text, "#[Max     = {max:12.3}, Total count    = {:12}]", histogram.len());
    let _ = writeln!(text, "#[Buckets = {:12}, SubBuckets     = {:12}]", histogram.buckets(), SUB_BUCKETS);
    text
}

/// Where the speculative latencies go when the durable ones go to `durable`: `run.hgrm` → `run.speculative.hgrm`.
pub fn beside(durable: &Path) -> PathBuf {
    match durable.extension() {
        Some(extension) => durable.with_extension(format!("speculative.{}", extension.to_string_lossy())),
        None => durable.with_extension("speculative"),
    }
}

fn milliseconds(ns: u64) -> f64 {
    ns as f64 / NS_PER_MS
}

const NS_PER_MS: f64 = 1e6;
/// Lines per halving of the distance to 100 %, as HdrHistogram's own writers choose.
const STEPS_PER_HALVING: u32 = 5;
/// Of a histogram of three digits.
const SUB_BUCKETS: u32 = 2_048;

#[cfg(test)]
mod tests {
    use super::*;

    /// The plotting tools read columns and stop at what they cannot parse: a plot that ends early looks like a
    /// system without a tail.
    #[test]
    fn the_table_ends_at_the_maximum_and_counts_everything() {
        let mut histogram = Histogram::<u64>::new_with_bounds(64, 1_000_000_000, 3).unwrap();
        for ns in 1..=1_000u64 {
            histogram.record(ns * 10_000).unwrap();
        }
        let text = render(&histogram);
        let mut lines = text.lines();
        let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(head, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        assert_eq!(lines.next(), Some(""));

        let table: Vec<Vec<f64>> = lines
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|number| number.parse().unwrap()).collect())
            .collect();
        assert!(table.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]));
        let (last, rest) = table.split_last().unwrap();
        assert_eq!((last.len(), last[1], last[2]), (3, 1.0, 1_000.0));
        assert!((last[0] - 10.0).abs() < 0.01, "{last:?}");
        assert!(rest.iter().all(|line| line.len() == 4 && (line[3] * (1.0 - line[1]) - 1.0).abs() < 0.01));
        assert!(text.contains("Total count    =         1000]"));
    }

    #[test]
    fn a_histogram_of_nothing_is_still_a_file() {
        let histogram = Histogram::<u64>::new_with_bounds(64, 1_000_000_000, 3).unwrap();
        assert!(render(&histogram).contains("Total count    =            0]"));
    }

    #[test]
    fn the_speculative_file_stands_beside_the_durable_one() {
        assert_eq!(beside(Path::new("a/run.hgrm")), Path::new("a/run.speculative.hgrm"));
        assert_eq!(beside(Path::new("run")), Path::new("run.speculative"));
    }
}
