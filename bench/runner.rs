//! One run from start to end: the cluster, its phases, and what the cores bring back.
//!
//! This is the steering thread: it waits, moves the phase on and reads the process's own counters. The cores do
//! the work (`driver`).
//!
//! Invariant: whatever goes wrong, the cluster is stopped before an error is returned. A drain or check that does
//! not end is a check that failed, not an error: what was measured is still reported.
#![forbid(unsafe_code)]

use crate::arrivals::Load;
use crate::control::{Control, Phase, Window};
use crate::driver::BenchDriver;
use crate::layout::Layout;
use crate::machine;
use crate::measure::Measures;
use crate::options::RunOptions;
use crate::report::{Cpu, Outcome};
use crate::workload::{Verdicts, Workload};
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use mako::bounds::{MS, SECOND};
use mako::clock;
use mako::config::Config;
use mako::server::{Cluster, CoreReport};
use mako::types::{CoreId, NodeId, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Runs a workload; `make` builds it for a core, from a number no other core has.
pub fn run<W: Workload>(
    options: &RunOptions,
    config: Config,
    layout: &Layout,
    interrupted: &AtomicBool,
    make: impl Fn(u32) -> W + Send + Sync + 'static,
) -> anyhow::Result<Outcome> {
    let control = Arc::new(Control::new(layout.partition_count()));
    let probe = make(0);
    let steps = layout.partitions().map(|partition| u64::from(probe.load_steps(partition))).sum();
    let served = layout.partitions().filter(|partition| probe.serves(*partition)).count();
    let load = match options.rate {
        None => Load::Closed { clients: options.clients },
        Some(per_second) => Load::Open { per_second, partitions: served as u64 },
    };
    let on_cores = control.clone();
    let make_driver = move |node: NodeId, _: CoreId| {
        let workload = make(on_cores.register_generator());
        BenchDriver::new(workload, on_cores.clone(), load, node, clock::now)
    };
    let (partitions, cores) = (layout.partition_count(), layout.cores());
    let steering = Steering { control: control.clone(), interrupted, partitions, cores };
    let cluster = Cluster::start(config, make_driver)?;
    for notice in cluster.notices() {
        eprintln!("note: {notice}");
    }
    let measured = steering.steer(options, steps);
    control.enter(Phase::Done);
    let cores = cluster.stop()?;
    let (window, process_seconds, memory_bytes, unfinished) = measured?;
    Ok(outcome(&cores, window, process_seconds, memory_bytes, unfinished))
}

fn outcome<W: Workload>(
    cores: &[CoreReport<BenchDriver<W>>],
    window: Window,
    process_seconds: f64,
    memory_bytes: u64,
    unfinished: Verdicts,
) -> Outcome {
    let mut measures = Measures::new(W::KINDS.len());
    for core in cores {
        measures.add(core.driver.measures());
    }
    let leaders: Vec<f64> =
        cores.iter().filter(|core| core.driver.has_led()).map(|core| core.tally.busy).collect();
    let leader_core_busy = leaders.iter().sum::<f64>() / leaders.len().max(1) as f64;
    let workloads: Vec<&W> = cores.iter().map(|core| core.driver.workload()).collect();
    let mut verdicts = W::verdicts(&workloads);
    verdicts.extend(unfinished);
    Outcome {
        measures,
        seconds: window.ns() as f64 / SECOND as f64,
        cpu: Cpu { leader_core_busy, process_seconds },
        memory_bytes,
        verdicts,
        figures: W::figures(&workloads),
    }
}

/// A flag that an interrupt raises: `run`, called from this thread, then stops the cluster and fails.
pub fn catch_interrupts() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let (flag, steering) = (interrupted.clone(), thread::current());
    ctrlc::set_handler(move || {
        flag.store(true, Ordering::Relaxed);
        steering.unpark();
    })
    .context("no handler for interrupts")?;
    Ok(interrupted)
}

struct Steering<'a> {
    control: Arc<Control>,
    interrupted: &'a AtomicBool,
    partitions: usize,
    cores: usize,
}

/// The window, CPU seconds spent in it, memory at its end, and phases that did not end.
type Measured = (Window, f64, u64, Verdicts);

impl Steering<'_> {
    fn steer(&self, options: &RunOptions, steps: u64) -> anyhow::Result<Measured> {
        self.load(steps)?;
        self.control.enter(Phase::Settle);
        if let Some(why) = self.wait_for_cores(Phase::Settle)? {
            bail!("the load does not show on snapshots (settle): {why}");
        }
        let (window, process_seconds) = self.measure(options)?;
        let memory_bytes = machine::resident_bytes();
        let mut unfinished = Verdicts::new();
        for (name, phase) in [("drain", Phase::Drain), ("inspection", Phase::Check)] {
            self.control.enter(phase);
            if let Some(why) = self.wait_for_cores(phase)? {
                unfinished.insert(name.to_string(), Some(why));
            }
        }
        Ok((window, process_seconds, memory_bytes, unfinished))
    }

    fn load(&self, steps: u64) -> anyhow::Result<()> {
        let bar = progress("load", steps);
        let (mut seen, mut since) = (0, clock::now());
        while self.control.partitions_loaded() < self.partitions {
            let loaded = self.control.steps_loaded();
            if loaded != seen {
                (seen, since) = (loaded, clock::now());
            }
            if clock::now().since(since) > PATIENCE_NS {
                let seconds = PATIENCE_NS / SECOND;
                bail!(
                    "the load stands still (step {loaded} of {steps}): no step became durable in {seconds} s"
                );
            }
            bar.set_position(loaded);
            self.pause(POLL_NS)?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn measure(&self, options: &RunOptions) -> anyhow::Result<(Window, f64)> {
        let from = clock::now().plus_ns(options.warmup_ns);
        let window = Window { from, until: from.plus_ns(options.duration_ns) };
        self.control.set_window(window);
        self.control.enter(Phase::Run);
        self.wait_until("warm up", window.from)?;
        let before = machine::process_seconds();
        self.wait_until("measure", window.until)?;
        Ok((window, machine::process_seconds() - before))
    }

    fn wait_until(&self, name: &'static str, until: Timestamp) -> anyhow::Result<()> {
        let start = clock::now();
        let bar = progress(name, until.since(start) / MS);
        loop {
            let now = clock::now();
            if now >= until {
                bar.finish_and_clear();
                return Ok(());
            }
            bar.set_position(now.since(start) / MS);
            self.pause(until.since(now).min(POLL_NS))?;
        }
    }

    /// `None` when every core is done with the phase; else how many are not, after a while.
    fn wait_for_cores(&self, phase: Phase) -> anyhow::Result<Option<String>> {
        let start = clock::now();
        let bar = progress("finish", self.cores as u64);
        loop {
            let arrived = self.control.arrived(phase);
            if arrived >= self.cores {
                bar.finish_and_clear();
                return Ok(None);
            }
            if clock::now().since(start) > PATIENCE_NS {
                let seconds = PATIENCE_NS / SECOND;
                return Ok(Some(format!("{arrived} of {} cores were done after {seconds} s", self.cores)));
            }
            bar.set_position(arrived as u64);
            self.pause(POLL_NS)?;
        }
    }

    fn pause(&self, ns: u64) -> anyhow::Result<()> {
        thread::park_timeout(Duration::from_nanos(ns));
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("the run was interrupted (signal): nothing is reported");
        }
        match self.control.failure() {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }
}

/// Drawn on standard error, and only when that is a terminal.
pub fn progress(name: &'static str, length: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix:>8} {wide_bar} {percent:>3} %").expect("a constant template");
    ProgressBar::new(length).with_style(style).with_prefix(name)
}

const POLL_NS: u64 = 20 * MS;
/// How long nothing may happen: several elections and the catch-up after them.
const PATIENCE_NS: u64 = 60 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bank::{self, Bank};
    use crate::fixture::{self, Place};
    use crate::micro::{self, Micro};
    use crate::options::{Bench, Options};
    use clap::Parser;

    fn options(line: &str) -> Options {
        let common = "--duration 200ms --warmup 50ms --clients 8";
        Options::parse_from(["mako-bench"].into_iter().chain(line.split(' ')).chain(common.split(' ')))
    }

    /// All phases over a cluster of several nodes: two shards, three replicas, every core with its driver.
    #[test]
    fn a_run_of_the_bank_ends_with_every_check_held() {
        let Bench::Bank(options) = options("bank --accounts 300").bench else { panic!("bank") };
        let Place { config, data: _data } = fixture::place(2, 3, 1, bank::Plan::tables());
        let layout = Layout::new(&config, bank::TABLE);
        let plan = Arc::new(bank::Plan::new(1, options.accounts, layout.clone()));
        let make = move |generator| Bank::new(plan.clone(), generator);
        let outcome = run(&options.run, config, &layout, &AtomicBool::new(false), make).unwrap();
        assert!(outcome.measures.total().committed > 0);
        let names: Vec<&str> = outcome.verdicts.keys().map(String::as_str).collect();
        assert_eq!(names, ["audits_follower", "audits_leader", "total"]);
        assert!(outcome.verdicts.values().all(Option::is_none), "{:?}", outcome.verdicts);
    }

    #[test]
    fn a_run_of_the_microbenchmark_loses_no_update() {
        let Bench::Micro(options) = options("micro --keys 2000 --cross-shard-pct 50").bench else {
            panic!("micro")
        };
        let Place { config, data: _data } = fixture::place(2, 1, 2, micro::Plan::tables());
        let layout = Layout::new(&config, micro::TABLE);
        let plan = Arc::new(micro::Plan::new(1, &options, layout.clone()));
        let make = move |generator| Micro::new(plan.clone(), generator);
        let outcome = run(&options.run, config, &layout, &AtomicBool::new(false), make).unwrap();
        assert!(outcome.measures.total().committed > 0);
        assert!(outcome.verdicts.values().all(Option::is_none), "{:?}", outcome.verdicts);
    }

    /// An interrupt must not leave a cluster behind, nor a report that looks like a whole run.
    #[test]
    fn an_interrupted_run_is_an_error() {
        let Bench::Bank(options) = options("bank --accounts 300").bench else { panic!("bank") };
        let Place { config, data: _data } = fixture::place(1, 1, 1, bank::Plan::tables());
        let layout = Layout::new(&config, bank::TABLE);
        let plan = Arc::new(bank::Plan::new(1, options.accounts, layout.clone()));
        let make = move |generator| Bank::new(plan.clone(), generator);
        let result = run(&options.run, config, &layout, &AtomicBool::new(true), make);
        assert!(result.is_err_and(|error| error.to_string().contains("interrupted")));
    }
}
