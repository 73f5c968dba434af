//! `mako sim`: seeds over all CPUs, one thread each; a line per failing seed with the command that
//! replays it.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::bounds::SECOND;
use crate::cli::{FAILED, MISUSED, SimArgs, complain, say};
use crate::clock;
use crate::config::{Config, LocalCluster};
use crate::sim::{Failure, Options, Passed, run_seed};
use crate::types::Timestamp;

/// What all seeds together came to.
#[derive(Default)]
struct Tally {
    seeds: usize,
    failed: Vec<Failure>,
    committed: usize,
    snapshots: usize,
    slots: u64,
    frames: u64,
    frames_lost: u64,
    reigns: u64,
    rolled_back: u64,
    moves_ordered: u64,
    moves_done: u64,
    virtual_ns: u64,
    /// When it was last said how far it is.
    told_at: Timestamp,
}

pub(super) fn run(args: &SimArgs) -> ExitCode {
    let options = Options {
        shards: args.shards,
        replicas: args.replicas,
        partitions: args.partitions,
        ops: args.ops,
        faults: args.faults,
    };
    // A cluster that cannot be is a slip, and not a seed that failed.
    let (shards, replicas, partitions) = (args.shards, args.replicas, args.partitions);
    let shape = LocalCluster { shards, replicas, partitions, ..LocalCluster::default() };
    if let Err(mistakes) = Config::local(&shape) {
        return complain(&mistakes, MISUSED);
    }
    let seeds: Vec<u64> = args.seeds().collect();
    let started = clock::now();
    let tally = simulate(args, &options, &seeds);
    let wall_ns = clock::now().since(started).max(1);
    let (virtual_s, wall_s) = (tally.virtual_ns as f64 / 1e9, wall_ns as f64 / 1e9);
    say(&format_args!(
        "{} transactions ({} rolled back) and {} snapshots under {} reigns, over {virtual_s:.0} s of virtual time in {wall_s:.1} s",
        tally.committed, tally.rolled_back, tally.snapshots, tally.reigns
    ));
    if tally.moves_ordered > 0 {
        let (done, ordered) = (tally.moves_done, tally.moves_ordered);
        say(&format_args!("{done} of {ordered} hand-overs that leaders were asked for were done"));
    }
    say(&format_args!("{} seeds, {} failed", tally.seeds, tally.failed.len()));
    if let Some(file) = &args.json {
        let failed: Vec<_> = tally.failed.iter().map(|f| json!({ "seed": f.seed, "why": f.why })).collect();
        let report = json!({
            "sim": "mako", "version": 1, "seeds": tally.seeds, "failed": failed,
            "virtual_seconds": virtual_s, "wall_seconds": wall_s, "committed": tally.committed,
            "snapshots": tally.snapshots, "slots": tally.slots, "frames": tally.frames,
            "frames_lost": tally.frames_lost, "reigns": tally.reigns, "rolled_back": tally.rolled_back,
            "hand_overs_ordered": tally.moves_ordered, "hand_overs_done": tally.moves_done,
        });
        if let Err(error) = std::fs::write(file, format!("{report:#}\n")) {
            let what =
                format!("the result cannot be written ({}): {error}; name another file", file.display());
            return complain(&what, FAILED);
        }
    }
    if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

fn simulate(args: &SimArgs, options: &Options, seeds: &[u64]) -> Tally {
    let progress = progress(seeds.len() as u64);
    let tally = Mutex::new(Tally { told_at: clock::now(), ..Tally::default() });
    let next = AtomicUsize::new(0);
    let threads = available_parallelism().map_or(1, usize::from).min(seeds.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run_seed(options, *seed);
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Err(failure) = &result {
                        let replay = replay(args, *seed);
                        progress.suspend(|| say(&format_args!("{failure}\n  replay: {replay}")));
                    }
                    tally.add(result);
                    progress.inc(1);
                    tally.tell(&progress, seeds.len());
                }
            });
        }
    });
    progress.finish_and_clear();
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn replay(args: &SimArgs, seed: u64) -> String {
    let SimArgs { shards, replicas, partitions, ops, faults, .. } = args;
    format!(
        "mako sim --seed {seed} --shards {shards} --replicas {replicas} --partitions {partitions} --ops {ops} --faults {faults}"
    )
}

fn progress(seeds: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(seeds), target);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Tally {
    /// Where no bar can be drawn, a line now and then: who stops a run of an hour knows how far it was.
    fn tell(&mut self, progress: &ProgressBar, seeds: usize) {
        let now = clock::now();
        if !progress.is_hidden() || now.since(self.told_at) < TELL_NS {
            return;
        }
        self.told_at = now;
        let left = HumanDuration(progress.eta());
        eprintln!("{} of {seeds} seeds, {} failed; {left} left", self.seeds, self.failed.len());
    }

    fn add(&mut self, result: Result<Passed, Failure>) {
        self.seeds += 1;
        match result {
            Ok(passed) => {
                self.committed += passed.summary.committed;
                self.snapshots += passed.summary.snapshots;
                self.slots += passed.slots;
                self.frames += passed.world.frames;
                self.frames_lost += passed.world.frames_lost;
                self.reigns += passed.reigns;
                self.rolled_back += passed.rolled_back;
                self.moves_ordered += passed.world.moves.ordered;
                self.moves_done += passed.world.moves.done;
                self.virtual_ns += passed.virtual_ns;
            }
            Err(failure) => {
                self.virtual_ns += failure.at_ns;
                self.failed.push(failure);
            }
        }
    }
}

const TELL_NS: u64 = 60 * SECOND;
