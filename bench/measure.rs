//! What one core measured: counters and latency histograms, by type of transaction and by its reach.
//!
//! Written by the driver, merged by `report`. It reads no clock: latencies come in as nanoseconds.
//!
//! Invariant: a transaction is in both histograms of its series or in neither, so that the speculative and the
//! durable table describe the same transactions.
#![forbid(unsafe_code)]

use hdrhistogram::Histogram;
use mako::bounds::SECOND;
use mako::txn::Abort;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub struct Measures {
    /// By type: `[local, distributed]`.
    series: Vec<[Series; 2]>,
    pub aborted: Aborted,
    /// Speculative replies that a failure took back.
    pub rolled_back: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Series {
    pub committed: u64,
    #[serde(with = "counts")]
    pub speculative: Histogram<u64>,
    #[serde(with = "counts")]
    pub durable: Histogram<u64>,
}

/// Ends that are no commits, and attempts that came to nothing.
#[derive(Serialize, Deserialize, Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Aborted {
    /// Attempts, those that were repeated with success included.
    pub conflict: u64,
    /// Transactions that decided to roll back.
    pub user: u64,
    /// Transactions the engine had no room for.
    pub busy: u64,
    pub other: u64,
}

impl Measures {
    pub fn new(kinds: usize) -> Measures {
        let series = (0..kinds).map(|_| [Series::new(), Series::new()]).collect();
        Measures { series, aborted: Aborted::default(), rolled_back: 0 }
    }

    pub fn on_durable(&mut self, kind: usize, distributed: bool, speculative_ns: u64, durable_ns: u64) {
        let series = &mut self.series[kind][usize::from(distributed)];
        series.committed += 1;
        series.speculative.saturating_record(speculative_ns);
        series.durable.saturating_record(durable_ns);
    }

    /// `attempts` counts the one that ended so.
    pub fn on_aborted(&mut self, abort: &Abort, attempts: u32) {
        let attempts = u64::from(attempts.max(1));
        match abort {
            Abort::Conflict { .. } => {
                self.aborted.conflict += attempts;
                return;
            }
            Abort::User => self.aborted.user += 1,
            Abort::Busy(_) => self.on_busy(),
            _ => self.aborted.other += 1,
        }
        self.aborted.conflict += attempts - 1;
    }

    /// The engine had no room for a transaction.
    pub fn on_busy(&mut self) {
        self.aborted.busy += 1;
    }

    /// A transaction that committed after this many attempts.
    pub fn on_retried(&mut self, attempts: u32) {
        self.aborted.conflict += u64::from(attempts.saturating_sub(1));
    }

    pub fn series(&self, kind: usize, distributed: bool) -> &Series {
        &self.series[kind][usize::from(distributed)]
    }

    pub fn add(&mut self, other: &Measures) {
        for (mine, theirs) in self.series.iter_mut().flatten().zip(other.series.iter().flatten()) {
            mine.add(theirs);
        }
        self.aborted.conflict += other.aborted.conflict;
        self.aborted.user += other.aborted.user;
        self.aborted.busy += other.aborted.busy;
        self.aborted.other += other.aborted.other;
        self.rolled_back += other.rolled_back;
    }

    /// All types and both reaches together.
    pub fn total(&self) -> Series {
        let mut total = Series::new();
        for series in self.series.iter().flatten() {
            total.add(series);
        }
        total
    }
}

impl Series {
    pub fn new() -> Series {
        Series { committed: 0, speculative: histogram(), durable: histogram() }
    }

    fn add(&mut self, other: &Series) {
        self.committed += other.committed;
        self.speculative.add(&other.speculative).expect("same bounds");
        self.durable.add(&other.durable).expect("same bounds");
    }
}

/// A histogram as the values it has seen and how often: between processes, which have the same bounds.
mod counts {
    use super::{Histogram, histogram};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(histogram: &Histogram<u64>, to: S) -> Result<S::Ok, S::Error> {
        // The least that counts as the same: a zero is to arrive as one.
        let least = |value: u64| histogram.lowest_equivalent(value);
        let seen = histogram.iter_recorded();
        to.collect_seq(seen.map(|value| (least(value.value_iterated_to()), value.count_at_value())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Histogram<u64>, D::Error> {
        let mut whole = histogram();
        for (value, count) in Vec::<(u64, u64)>::deserialize(from)? {
            whole.saturating_record_n(value, count);
        }
        Ok(whole)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, LATENCY_DIGITS).expect("constant bounds")
}

/// Below this the clock is the measurement; above, something is broken and the digits do not matter.
const LATENCY_NS_MIN: u64 = 64;
const LATENCY_NS_MAX: u64 = 200 * SECOND;
/// Percentiles are exact to one part in a thousand.
const LATENCY_DIGITS: u8 = 3;
const _: () = assert!(LATENCY_NS_MAX >= 2 * LATENCY_NS_MIN);

#[cfg(test)]
mod tests {
    use super::*;
    use mako::txn::BusyWith;

    #[test]
    fn retried_attempts_count_as_conflicts_whatever_the_end() {
        let mut measures = Measures::new(1);
        measures.on_retried(3);
        measures.on_aborted(&Abort::User, 2);
        measures.on_aborted(&Abort::Conflict { attempts: 4 }, 4);
        measures.on_aborted(&Abort::Busy(BusyWith::Window), 1);
        measures.on_aborted(&Abort::Unavailable, 1);
        assert_eq!(measures.aborted, Aborted { conflict: 2 + 1 + 4, user: 1, busy: 1, other: 1 });
    }

    #[test]
    fn cores_add_up() {
        let mut one = Measures::new(2);
        let mut two = Measures::new(2);
        one.on_durable(0, false, 1_000, 2_000_000);
        two.on_durable(1, true, 3_000, 4_000_000);
        two.rolled_back = 1;
        one.add(&two);
        let total = one.total();
        assert_eq!((total.committed, total.durable.len(), one.rolled_back), (2, 2, 1));
        assert_eq!(one.series(1, true).committed, 1);
        assert!(total.durable.max() >= 4_000_000 && total.speculative.max() < 4_000);
    }

    /// All that is ever asked of one.
    fn seen(histogram: &Histogram<u64>) -> (u64, u64, u64, Vec<(u64, u64)>) {
        let recorded = histogram.iter_recorded();
        let counts = recorded.map(|value| (value.value_iterated_to(), value.count_at_value())).collect();
        (histogram.len(), histogram.min(), histogram.max(), counts)
    }

    /// What another process has measured must come to the same percentiles as if it had been measured here.
    #[test]
    fn measures_are_the_same_after_a_journey() {
        let mut measures = Measures::new(2);
        (1..10_000u64).for_each(|n| measures.on_durable(1, n % 3 == 0, n * 77, n * n * 1_001));
        measures.on_durable(0, false, 0, u64::MAX);
        measures.on_aborted(&Abort::User, 3);
        measures.rolled_back = 5;
        let json = serde_json::to_string(&measures).unwrap();
        let back: Measures = serde_json::from_str(&json).unwrap();
        for (kind, distributed) in [(0, false), (0, true), (1, false), (1, true)] {
            let (there, here) = (back.series(kind, distributed), measures.series(kind, distributed));
            assert_eq!(there.committed, here.committed);
            assert_eq!(seen(&there.durable), seen(&here.durable));
            assert_eq!(seen(&there.speculative), seen(&here.speculative));
        }
        assert_eq!((back.aborted, back.rolled_back), (measures.aborted, 5));
        assert_eq!(back.total().durable.max(), measures.total().durable.max());
    }

    /// A stall of minutes must show as the highest latency there is, not vanish or panic.
    #[test]
    fn latencies_beyond_the_bounds_are_kept_at_the_bound() {
        let mut measures = Measures::new(1);
        measures.on_durable(0, false, 0, u64::MAX);
        assert_eq!(measures.total().durable.len(), 1);
        assert!(measures.total().durable.max() >= LATENCY_NS_MAX);
    }
}
