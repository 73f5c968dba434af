//! The mutation runner: each rule of the protocol dropped in turn, and a checker that must notice.
//!
//! `cargo test --release --features mutation --test mutations`. Without the feature the rules cannot be
//! dropped, in this or any other binary, and there is nothing here.
#![cfg(feature = "mutation")]
#![forbid(unsafe_code)]

use mako::rules::{RULES, Rule, without};
use mako::sim::{Faults, Options, run_seed};
use std::panic::catch_unwind;

/// Seeds within which each dropped rule must be caught.
const SEEDS: u64 = 2_000;

fn caught(rule: Rule) -> Option<(u64, String)> {
    let options = Options { shards: 2, replicas: 3, partitions: 2, ops: 600, faults: Faults::ALL };
    // An assert of the code under test is a checker, too.
    let run = |seed| catch_unwind(|| without(rule, || run_seed(&options, seed)));
    let fails = |seed| match run(seed) {
        Ok(outcome) => outcome.err().map(|failure| (seed, failure.why)),
        Err(panic) => {
            let why = panic.downcast::<String>().map_or_else(|_| "an assert".to_string(), |words| *words);
            Some((seed, why))
        }
    };
    (0..SEEDS).find_map(fails)
}

#[test]
fn every_dropped_rule_is_caught_within_its_seeds() {
    let mut survived = Vec::new();
    for (rule, name) in RULES {
        match caught(rule) {
            Some((seed, why)) => {
                let first = why.lines().next().unwrap_or_default();
                println!("{name:20} caught by seed {seed}: {first}");
            }
            None => survived.push(name),
        }
    }
    assert!(survived.is_empty(), "{SEEDS} seeds noticed nothing without {survived:?}");
}

/// The runner itself must not be what fails.
#[test]
fn with_every_rule_in_force_the_same_seeds_pass() {
    let options = Options { shards: 2, replicas: 3, partitions: 2, ops: 600, faults: Faults::ALL };
    for seed in 0..50 {
        if let Err(failure) = run_seed(&options, seed) {
            panic!("{failure}");
        }
    }
}
