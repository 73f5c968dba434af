//! One run from start to end: the cluster, its phases, and what the cores bring back.
//!
//! This is the steering thread: it waits, looks how far the cores are, and moves the phase on. The cores do the work
//! (`driver`), in this process or in others (`cores`).
//!
//! Invariant: whatever goes wrong, the cluster is stopped before an error is returned. A drain or check that does
//! not end is a check that failed, not an error: what was measured is still reported.
#![forbid(unsafe_code)]

use crate::arrivals::Load;
use crate::control::{Control, Phase, Window};
use crate::cores::{Cores, Harvest, Progress, Step, Threads};
use crate::layout::Layout;
use crate::options::RunOptions;
use crate::report::{Cpu, Outcome};
use crate::workload::{Verdicts, Workload};
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use mako::bounds::{MS, SECOND};
use mako::clock;
use mako::config::Config;
use mako::server::Watch;
use mako::types::{NodeId, Timestamp};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Runs a workload on a cluster inside this process; `make` builds it for a core, from a number no other core has.
pub fn run<W: Workload>(
    options: &RunOptions,
    config: Config,
    layout: &Layout,
    interrupted: &AtomicBool,
    make: impl Fn(u32) -> W + Send + Sync + 'static,
) -> anyhow::Result<Outcome> {
    let control = Arc::new(Control::new(layout.partition_count()));
    let probe = make(0);
    let load = load(options, layout, &probe);
    let nodes: Vec<NodeId> = (0..).map(NodeId).take(config.nodes.len()).collect();
    let threads = Threads::start(config, &nodes, Watch::default(), (control, load), make)?;
    steer(options, layout, interrupted, &probe, threads)
}

/// What is asked of the cluster as a whole.
pub fn load<W: Workload>(options: &RunOptions, layout: &Layout, probe: &W) -> Load {
    let served = layout.partitions().filter(|partition| probe.serves(*partition)).count();
    match options.rate {
        None => Load::Closed { clients: options.clients },
        Some(per_second) => Load::Open { per_second, partitions: served as u64 },
    }
}

/// Runs a workload on cores that have started.
pub fn steer<W: Workload>(
    options: &RunOptions,
    layout: &Layout,
    interrupted: &AtomicBool,
    probe: &W,
    cores: impl Cores<W::Findings>,
) -> anyhow::Result<Outcome> {
    let steps = layout.partitions().map(|partition| u64::from(probe.load_steps(partition))).sum();
    let counts = (layout.partition_count(), layout.cores());
    let mut steering = Steering { cores, interrupted, counts, found: PhantomData };
    let measured = steering.steer(options, steps);
    let Measured { window, process_seconds, memory_bytes, unfinished } = match measured {
        Ok(measured) => measured,
        Err(why) => return Err(steering.cores.abandon(why)),
    };
    let Harvest { measures, leaders_busy, frames, found } = steering.cores.finish()?;
    let leader_core_busy = leaders_busy.iter().sum::<f64>() / leaders_busy.len().max(1) as f64;
    let mut verdicts = probe.verdicts(&found);
    verdicts.extend(unfinished);
    let mut figures = W::figures(&found);
    figures.insert("frames".to_string(), serde_json::to_value(frames).context("the frames (JSON)")?);
    Ok(Outcome {
        measures,
        seconds: window.ns() as f64 / SECOND as f64,
        cpu: Cpu { leader_core_busy, process_seconds },
        memory_bytes,
        verdicts,
        figures,
    })
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

struct Steering<'a, F, C> {
    cores: C,
    interrupted: &'a AtomicBool,
    /// Of partitions, and of cores.
    counts: (usize, usize),
    found: PhantomData<F>,
}

struct Measured {
    window: Window,
    /// CPU time spent in it, and memory at its end.
    process_seconds: f64,
    memory_bytes: u64,
    /// Phases that did not end.
    unfinished: Verdicts,
}

impl<F, C: Cores<F>> Steering<'_, F, C> {
    fn steer(&mut self, options: &RunOptions, steps: u64) -> anyhow::Result<Measured> {
        self.load(steps)?;
        let nothing = Window { from: Timestamp(0), until: Timestamp(0) };
        self.enter(Phase::Settle, nothing)?;
        if let Some(why) = self.wait_for_cores()? {
            bail!("the load does not show on snapshots (settle): {why}");
        }
        let from = clock::now().plus_ns(options.warmup_ns);
        let window = Window { from, until: from.plus_ns(options.duration_ns) };
        self.enter(Phase::Run, window)?;
        let before = self.wait_until("warm up", window.from)?;
        let after = self.wait_until("measure", window.until)?;
        let mut unfinished = Verdicts::new();
        for (name, phase) in [("drain", Phase::Drain), ("inspection", Phase::Check)] {
            self.enter(phase, window)?;
            if let Some(why) = self.wait_for_cores()? {
                unfinished.insert(name.to_string(), Some(why));
            }
        }
        let process_seconds = after.process_seconds - before.process_seconds;
        Ok(Measured { window, process_seconds, memory_bytes: after.memory_bytes, unfinished })
    }

    /// Everything that was committed so far is to show in the next phase.
    fn enter(&mut self, phase: Phase, window: Window) -> anyhow::Result<()> {
        let Progress { latest_commit, .. } = self.cores.look()?;
        self.cores.enter(Step { phase, from: window.from.0, until: window.until.0, latest_commit })
    }

    fn load(&mut self, steps: u64) -> anyhow::Result<()> {
        let bar = progress("load", steps);
        let (mut seen, mut since) = (0, clock::now());
        loop {
            let Progress { steps_loaded: loaded, partitions_loaded, .. } = self.look()?;
            if partitions_loaded >= self.counts.0 {
                bar.finish_and_clear();
                return Ok(());
            }
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
            pause(POLL_NS);
        }
    }

    /// How far the cores are then.
    fn wait_until(&mut self, name: &'static str, until: Timestamp) -> anyhow::Result<Progress> {
        let start = clock::now();
        let bar = progress(name, until.since(start) / MS);
        loop {
            let now = clock::now();
            let progress = self.look()?;
            if now >= until {
                bar.finish_and_clear();
                return Ok(progress);
            }
            bar.set_position(now.since(start) / MS);
            pause(until.since(now).min(POLL_NS));
        }
    }

    /// `None` when every core is done with the phase; else how many are not, after a while.
    fn wait_for_cores(&mut self) -> anyhow::Result<Option<String>> {
        let (start, cores) = (clock::now(), self.counts.1);
        let bar = progress("finish", cores as u64);
        loop {
            let Progress { arrived, .. } = self.look()?;
            if arrived >= cores {
                bar.finish_and_clear();
                return Ok(None);
            }
            if clock::now().since(start) > PATIENCE_NS {
                let seconds = PATIENCE_NS / SECOND;
                return Ok(Some(format!("{arrived} of {cores} cores were done after {seconds} s")));
            }
            bar.set_position(arrived as u64);
            pause(POLL_NS);
        }
    }

    fn look(&mut self) -> anyhow::Result<Progress> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("the run was interrupted (signal): nothing is reported");
        }
        self.cores.look()
    }
}

/// Ends early when the run is interrupted.
fn pause(ns: u64) {
    thread::park_timeout(Duration::from_nanos(ns));
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
