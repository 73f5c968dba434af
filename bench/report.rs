//! The result of a run as JSON. Its shape is a published interface: fields are added, never renamed.
//!
//! It computes percentiles and rates, nothing else; what was measured comes from `measure`, what was checked from
//! the workload.
#![forbid(unsafe_code)]

use crate::machine::Machine;
use crate::measure::{Aborted, Measures, Series};
use crate::workload::Verdicts;
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

#[derive(Serialize)]
pub struct Report {
    pub bench: &'static str,
    pub version: u32,
    pub config: Map<String, Value>,
    pub machine: Machine,
    pub generated_on: &'static str,
    pub seconds: f64,
    pub committed: u64,
    pub aborted: AbortedReport,
    pub rolled_back: u64,
    pub throughput_per_s: f64,
    pub latency_us: Latencies,
    pub by_type: BTreeMap<&'static str, ByReach>,
    pub cpu: Cpu,
    pub memory_bytes: u64,
    pub checks: BTreeMap<String, String>,
    #[serde(flatten)]
    pub figures: Map<String, Value>,
}

#[derive(Serialize)]
pub struct AbortedReport {
    pub conflict: u64,
    pub user: u64,
    pub busy: u64,
    pub other: u64,
}

#[derive(Serialize)]
pub struct ByReach {
    pub local: OneReach,
    pub distributed: OneReach,
}

#[derive(Serialize)]
pub struct OneReach {
    pub committed: u64,
    pub latency_us: Latencies,
}

#[derive(Serialize)]
pub struct Latencies {
    pub speculative: Percentiles,
    pub durable: Percentiles,
}

#[derive(Serialize, Clone, Copy)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

#[derive(Serialize, Clone, Copy)]
pub struct Cpu {
    /// The share of the time the leader cores did something, on average; 1 is all of it.
    pub leader_core_busy: f64,
    /// CPU time of all threads while measuring.
    pub process_seconds: f64,
}

/// What a run leaves behind.
pub struct Outcome {
    pub measures: Measures,
    pub seconds: f64,
    pub cpu: Cpu,
    pub memory_bytes: u64,
    pub verdicts: Verdicts,
    pub figures: Map<String, Value>,
}

impl Report {
    pub fn new(
        bench: &'static str,
        kinds: &[&'static str],
        config: Map<String, Value>,
        outcome: &Outcome,
    ) -> Report {
        let measures = &outcome.measures;
        let total = measures.total();
        let by_type = kinds.iter().enumerate().map(|(kind, name)| {
            let reach = |distributed| OneReach::of(measures.series(kind, distributed));
            (*name, ByReach { local: reach(false), distributed: reach(true) })
        });
        let checks = outcome.verdicts.iter().map(|(name, why_not)| {
            let verdict = why_not.clone().unwrap_or_else(|| OK.to_string());
            (name.clone(), verdict)
        });
        let Aborted { conflict, user, busy, other } = measures.aborted;
        Report {
            bench,
            version: 1,
            config,
            machine: Machine::read(),
            generated_on: "leader cores",
            seconds: outcome.seconds,
            committed: total.committed,
            aborted: AbortedReport { conflict, user, busy, other },
            rolled_back: measures.rolled_back,
            throughput_per_s: rounded(total.committed as f64 / outcome.seconds.max(f64::MIN_POSITIVE)),
            latency_us: Latencies::of(&total),
            by_type: by_type.collect(),
            cpu: Cpu {
                leader_core_busy: rounded(outcome.cpu.leader_core_busy),
                process_seconds: rounded(outcome.cpu.process_seconds),
            },
            memory_bytes: outcome.memory_bytes,
            checks: checks.collect(),
            figures: outcome.figures.clone(),
        }
    }

    pub fn all_checks_hold(&self) -> bool {
        self.checks.values().all(|verdict| verdict == OK)
    }
}

impl OneReach {
    fn of(series: &Series) -> OneReach {
        OneReach { committed: series.committed, latency_us: Latencies::of(series) }
    }
}

impl Latencies {
    fn of(series: &Series) -> Latencies {
        Latencies {
            speculative: Percentiles::of(&series.speculative),
            durable: Percentiles::of(&series.durable),
        }
    }
}

impl Percentiles {
    pub fn of(histogram: &Histogram<u64>) -> Percentiles {
        let us = |ns: u64| rounded(ns as f64 / 1e3);
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: us(histogram.max()) }
    }

    pub fn columns(&self) -> [f64; 5] {
        [self.p50, self.p90, self.p99, self.p999, self.max]
    }
}

/// Three decimals: more would only be noise, and read as precision.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// How the interface spells a check that holds.
const OK: &str = "ok";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outcome(why_not: Option<&str>) -> Outcome {
        let mut measures = Measures::new(2);
        for n in 1..=1_000 {
            measures.on_durable(0, false, n * 1_000, n * 1_000_000);
        }
        measures.on_durable(1, true, 5_000, 6_000_000);
        measures.aborted.user = 3;
        let verdicts = [("sound".to_string(), None), ("total".to_string(), why_not.map(str::to_string))];
        Outcome {
            measures,
            seconds: 2.0,
            cpu: Cpu { leader_core_busy: 0.5, process_seconds: 3.25 },
            memory_bytes: 4_096,
            verdicts: verdicts.into(),
            figures: Map::from_iter([("audits".to_string(), json!({ "leader": 7 }))]),
        }
    }

    fn keys(value: &Value) -> Vec<&str> {
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    /// Dashboards and comparisons read these names; a field renamed is a plot that silently ends.
    #[test]
    fn the_json_has_the_published_shape() {
        let config = Map::from_iter([("seed".to_string(), json!(1))]);
        let report = Report::new("micro", &["read", "update"], config, &outcome(None));
        let json = serde_json::to_value(&report).unwrap();
        let published = [
            "aborted",
            "bench",
            "by_type",
            "checks",
            "committed",
            "config",
            "cpu",
            "latency_us",
            "machine",
            "memory_bytes",
            "seconds",
            "throughput_per_s",
            "version",
        ];
        assert!(published.iter().all(|key| json.get(key).is_some()), "{:?}", keys(&json));
        assert_eq!(json["bench"], "micro");
        assert_eq!(json["version"], 1);
        assert_eq!(json["committed"], 1_001);
        assert_eq!(json["throughput_per_s"], 500.5);
        assert_eq!(keys(&json["aborted"]), ["busy", "conflict", "other", "user"]);
        assert_eq!(keys(&json["latency_us"]), ["durable", "speculative"]);
        assert_eq!(keys(&json["latency_us"]["durable"]), ["max", "p50", "p90", "p99", "p999"]);
        assert_eq!(keys(&json["cpu"]), ["leader_core_busy", "process_seconds"]);
        assert_eq!(json["by_type"]["update"]["distributed"]["committed"], 1);
        assert_eq!(json["by_type"]["update"]["local"]["committed"], 0);
        assert_eq!(json["checks"], json!({ "sound": "ok", "total": "ok" }));
        assert_eq!(json["audits"]["leader"], 7);
        assert!(report.all_checks_hold());

        let p99 = json["latency_us"]["durable"]["p99"].as_f64().unwrap();
        assert!((989_000.0..=992_000.0).contains(&p99), "{p99}");
    }

    #[test]
    fn a_check_that_fails_says_why_and_fails_the_run() {
        let report = Report::new("bank", &["read", "update"], Map::new(), &outcome(Some("1 coin too many")));
        assert_eq!(report.checks["total"], "1 coin too many");
        assert!(!report.all_checks_hold());
    }
}
