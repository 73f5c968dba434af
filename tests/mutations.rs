//! The mutation runner: each rule of the protocol dropped in turn, and a checker that must notice.
//!
//! `cargo test --release --features mutation --test mutations`. Without the feature the rules cannot be
//! dropped, in this or any other binary, and there is nothing here.
#![cfg(feature = "mutation")]
#![forbid(unsafe_code)]

use mako::rules::{RULES, Rule, without};
use mako::sim::{Faults, Options, run_seed};
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

/// Seeds within which each dropped rule must be caught.
const SEEDS: u64 = 2_000;

/// Where a rule is looked for that few of the seeds below [`SEEDS`] catch under all faults: under which, and from
/// which seed on. It makes the runner quick, and no rule easier to catch.
const ELSEWHERE: [(Rule, &str, u64); 3] = [
    (Rule::LeaderLease, "isolate,flap,stall,partition", 10),
    (Rule::Lease, "flap,crash", 160),
    (Rule::UnbrokenRun, "all", 110),
];

fn options(rule: Rule) -> (Options, u64) {
    let elsewhere = ELSEWHERE.iter().find(|(known, ..)| *known == rule);
    let (faults, first) = elsewhere.map_or(("all", 0), |(_, faults, first)| (*faults, *first));
    let faults: Faults = faults.parse().unwrap_or_else(|refusal| panic!("{faults}: {refusal}"));
    (Options { shards: 2, replicas: 3, partitions: 2, ops: 600, faults }, first)
}

/// What a seed comes to: `None` is well. An assert of the code under test is a checker, too.
fn offence(options: &Options, seed: u64) -> Option<String> {
    match catch_unwind(|| run_seed(options, seed)) {
        Ok(outcome) => outcome.err().map(|failure| failure.why),
        Err(panic) => match panic.downcast::<String>() {
            Ok(words) => Some(*words),
            Err(panic) => {
                Some(panic.downcast::<&str>().map_or("an assert".to_string(), |words| words.to_string()))
            }
        },
    }
}

/// The seed that notices, and what it says.
fn caught(rule: Rule) -> Option<(u64, String)> {
    let (options, first) = options(rule);
    (first..first + SEEDS).find_map(|seed| Some((seed, without(rule, || offence(&options, seed))?)))
}

/// And with every rule in force the same seed says nothing: the runner itself must not be what fails.
#[test]
fn every_dropped_rule_is_caught_within_its_seeds_and_no_rule_in_force_is() {
    let next = AtomicUsize::new(0);
    let survived = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((rule, name)) = RULES.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some((seed, why)) = caught(*rule) else {
                        survived.lock().unwrap().push(*name);
                        continue;
                    };
                    let first = why.lines().next().unwrap_or_default();
                    println!("{name:24} caught by seed {seed}: {first}");
                    let sound = offence(&options(*rule).0, seed);
                    assert_eq!(sound, None, "seed {seed} fails without a mutation");
                }
            });
        }
    });
    let survived = survived.into_inner().unwrap();
    assert!(survived.is_empty(), "{SEEDS} seeds noticed nothing without {survived:?}");
}
