//! How the steering thread and the cores of one process agree on what to do: the phase, the measured window, who
//! is done.
//!
//! Atomics only, written rarely: a core reads the phase once a turn and everything else when it changes.
//! It decides nothing; `runner` moves the phases on, `driver` obeys them. Of a run of several processes each has its
//! own, and `steered` carries between them what one cannot know of the others.
//!
//! Invariants:
//!   1. Phases only move forward.
//!   2. The window is written before the phase that uses it, so a core in `Run` sees the final window.
//!   3. One core claims the load of a partition, however often leadership moves: in a run of several processes, one
//!      of the process it is granted to.
#![forbid(unsafe_code)]

use mako::types::{PartitionId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub struct Control {
    phase: AtomicU8,
    window_from: AtomicU64,
    window_until: AtomicU64,
    /// The newest timestamp at which anything was committed durably. Monotone.
    latest_commit: AtomicU64,
    /// Load steps that are durable. Monotone.
    steps_loaded: AtomicU64,
    partitions_loaded: AtomicUsize,
    /// By partition: who may load it.
    claims: Box<[AtomicU8]>,
    /// By phase: cores that have nothing left to do in it.
    arrived: [AtomicUsize; PHASES.len()],
    generators: AtomicU32,
    failure: Mutex<Option<String>>,
}

/// What the cores are doing.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Fill the tables.
    Load,
    /// Wait until snapshots show what was loaded.
    Settle,
    /// Warm up, then measure: the window tells which.
    Run,
    /// Wait for what is in flight.
    Drain,
    /// Inspect every replica.
    Check,
    Done,
}

/// Transactions that complete from `from` on and before `until` are measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    pub from: Timestamp,
    pub until: Timestamp,
}

impl Window {
    pub fn contains(&self, at: Timestamp) -> bool {
        self.from <= at && at < self.until
    }

    pub fn ns(&self) -> u64 {
        self.until.since(self.from)
    }
}

impl Control {
    /// Of a run whose cores are all in this process.
    pub fn new(partitions: usize) -> Control {
        Control::with_claims(partitions, GRANTED, 0)
    }

    /// Of one process of several: what it may load, it is told. `generators` is a number below all of its own.
    pub fn of_one_process(partitions: usize, generators: u32) -> Control {
        Control::with_claims(partitions, FREE, generators)
    }

    fn with_claims(partitions: usize, claim: u8, generators: u32) -> Control {
        Control {
            phase: AtomicU8::new(0),
            window_from: AtomicU64::new(0),
            window_until: AtomicU64::new(0),
            latest_commit: AtomicU64::new(0),
            steps_loaded: AtomicU64::new(0),
            partitions_loaded: AtomicUsize::new(0),
            claims: (0..partitions).map(|_| AtomicU8::new(claim)).collect(),
            arrived: std::array::from_fn(|_| AtomicUsize::new(0)),
            generators: AtomicU32::new(generators),
            failure: Mutex::new(None),
        }
    }

    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Ordering::Acquire))]
    }

    pub fn enter(&self, phase: Phase) {
        assert!(phase > self.phase(), "phase {phase:?} after {:?}", self.phase());
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub fn set_window(&self, window: Window) {
        self.window_from.store(window.from.0, Ordering::Relaxed);
        self.window_until.store(window.until.0, Ordering::Relaxed);
    }

    pub fn window(&self) -> Window {
        let from = Timestamp(self.window_from.load(Ordering::Relaxed));
        Window { from, until: Timestamp(self.window_until.load(Ordering::Relaxed)) }
    }

    /// A number no other core of this run has, for keys that must be unique. Counts from 1: 0 is the loader.
    pub fn register_generator(&self) -> u32 {
        self.generators.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether the caller is the one to load this partition (invariant 3). In a run of several processes it may
    /// have to ask again.
    pub fn claim(&self, partition: PartitionId) -> bool {
        let claim = &self.claims[usize::from(partition.0)];
        let move_on =
            |from, to| claim.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        move_on(FREE, WISHED);
        move_on(GRANTED, TAKEN)
    }

    /// Partitions that a core here would load, if it were granted.
    pub fn wishes(&self) -> impl Iterator<Item = PartitionId> {
        let claims = (0..).map(PartitionId).zip(&self.claims);
        claims.filter(|(_, claim)| claim.load(Ordering::Relaxed) == WISHED).map(|(partition, _)| partition)
    }

    /// A core here may load it, and no other process will.
    pub fn grant(&self, partition: PartitionId) {
        if let Some(claim) = self.claims.get(usize::from(partition.0)) {
            let _ = claim.compare_exchange(WISHED, GRANTED, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub fn add_step_loaded(&self) {
        self.steps_loaded.fetch_add(1, Ordering::Relaxed);
    }

    pub fn steps_loaded(&self) -> u64 {
        self.steps_loaded.load(Ordering::Relaxed)
    }

    pub fn add_partition_loaded(&self) {
        self.partitions_loaded.fetch_add(1, Ordering::Release);
    }

    pub fn partitions_loaded(&self) -> usize {
        self.partitions_loaded.load(Ordering::Acquire)
    }

    pub fn raise_latest_commit(&self, timestamp: Timestamp) {
        self.latest_commit.fetch_max(timestamp.0, Ordering::Release);
    }

    pub fn latest_commit(&self) -> Timestamp {
        Timestamp(self.latest_commit.load(Ordering::Acquire))
    }

    /// Called once per core and phase.
    pub fn arrive(&self, phase: Phase) {
        self.arrived[phase as usize].fetch_add(1, Ordering::Release);
    }

    pub fn arrived(&self, phase: Phase) -> usize {
        self.arrived[phase as usize].load(Ordering::Acquire)
    }

    /// The run cannot go on. The first reason stays.
    pub fn fail(&self, why: String) {
        let mut failure = self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        failure.get_or_insert(why);
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

/// What has become of the load of a partition: a core would like to do it, it may, one does.
const FREE: u8 = 0;
const WISHED: u8 = 1;
const GRANTED: u8 = 2;
const TAKEN: u8 = 3;

const PHASES: [Phase; 6] = [Phase::Load, Phase::Settle, Phase::Run, Phase::Drain, Phase::Check, Phase::Done];
const _: () = {
    let mut i = 0;
    while i < PHASES.len() {
        assert!(PHASES[i] as usize == i);
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Two cores that load one partition would double every history row, and the checks would blame the engine.
    #[test]
    fn a_partition_is_claimed_once() {
        let control = Control::new(2);
        assert!(control.claim(PartitionId(1)));
        assert!(!control.claim(PartitionId(1)));
        assert!(control.claim(PartitionId(0)));
    }

    /// The same, where another process may have claimed it already.
    #[test]
    fn one_process_of_several_loads_what_it_was_granted() {
        let control = Control::of_one_process(3, 100);
        assert!(!control.claim(PartitionId(1)));
        assert!(control.wishes().eq([PartitionId(1)]));
        for granted in [1, 2, 9] {
            control.grant(PartitionId(granted));
        }
        assert_eq!(control.wishes().count(), 0);
        assert!(control.claim(PartitionId(1)) && !control.claim(PartitionId(1)));
        assert!(!control.claim(PartitionId(2)), "nobody here had asked for it");
        assert_eq!(control.register_generator(), 101);
    }

    #[test]
    #[should_panic(expected = "phase Load after Drain")]
    fn phases_do_not_move_back() {
        let control = Control::new(1);
        control.enter(Phase::Drain);
        control.enter(Phase::Load);
    }

    #[test]
    fn a_window_holds_its_start_and_not_its_end() {
        let window = Window { from: Timestamp(10), until: Timestamp(20) };
        let inside = [9, 10, 19, 20].map(|at| window.contains(Timestamp(at)));
        assert_eq!((inside, window.ns()), ([false, true, true, false], 10));
    }
}
