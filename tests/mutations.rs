//! The mutation runner: each rule of the protocol dropped in turn, and a checker that must notice.
//!
//! `cargo test --release --features mutation --test mutations`. Without the feature the rules cannot be
//! dropped, in this or any other binary, and there is nothing here.
#![cfg(feature = "mutation")]
#![forbid(unsafe_code)]

use mako::rules::{RULES, Rule, without};
use mako::sim::{Faults, Options, run_seed};

/// Seeds within which each dropped rule must be caught.
const SEEDS: u64 = 2_000;

fn caught(rule: Rule) -> Option<(u64, String)> {
    let options = Options { shards: 2, replicas: 3, partitions: 2, ops: 600, faults: Faults::ALL };
    let fails = |seed| without(rule, || run_seed(&options, seed)).err().map(|failure| (seed, failure.why));
    (0..SEEDS).find_map(fails)
}

/// Rules that only an epoch that ends during the run can tell from no rule; such runs come with
/// elections.
const NEEDS_ELECTIONS: [Rule; 2] = [Rule::EpochInSnapshot, Rule::SafetyCheck];

#[test]
fn every_dropped_rule_is_caught_within_its_seeds() {
    let mut survived = Vec::new();
    for (rule, name) in RULES.into_iter().filter(|(rule, _)| !NEEDS_ELECTIONS.contains(rule)) {
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
