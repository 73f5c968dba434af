//! One seed, from start to verdict.
//!
//! Phase one: clients work while things go wrong. Phase two: everything heals, and every transaction
//! must be answered, every window empty, every replica equal. Then the history is judged.
#![forbid(unsafe_code)]

use super::bounded;
use super::check::{self, Summary};
use super::clients::{Recorder, TABLE, key_id, write_id};
use super::faults::{Faults, Profile};
use super::history::{KeyId, WriteId};
use super::truth::Truth;
use super::world::{SimCore, World, WorldStats};
use crate::bounds::SECOND;
use crate::config::{Config, LocalCluster, Routing, Table};
use crate::partition::Replica;
use crate::txn::Procedure;
use crate::types::{PartitionId, Prng, Timestamp};
use std::cell::RefCell;
use std::fmt;
use std::ops::ControlFlow;
use std::rc::Rc;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Options {
    pub shards: usize,
    pub replicas: usize,
    /// Of each shard.
    pub partitions: usize,
    /// Transactions submitted.
    pub ops: usize,
    pub faults: Faults,
}

/// A seed that passed.
#[derive(Clone, Debug)]
pub struct Passed {
    pub summary: Summary,
    pub world: WorldStats,
    pub slots: u64,
    /// Epochs that opened.
    pub reigns: u64,
    pub rolled_back: u64,
    /// How long the cluster believes it ran.
    pub virtual_ns: u64,
}

/// A seed that did not.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    /// Virtual time at which it was noticed.
    pub at_ns: u64,
    pub why: String,
    pub profile: String,
}

type FinalRow = (KeyId, Timestamp, Option<WriteId>);

/// Runs one seed.
pub fn run_seed(options: &Options, seed: u64) -> Result<Passed, Failure> {
    let mut prng = Prng::with_seed(seed);
    let drawn = Profile::draw(&mut prng, options.faults);
    let profile = Profile { sealed: seed % 2 == 1, paced: seed.is_multiple_of(3), ..drawn };
    let tables = vec![Table { name: "sim".to_string(), routing: Routing::Int(1) }];
    let cluster = LocalCluster {
        shards: options.shards,
        replicas: options.replicas,
        partitions: options.partitions,
        durability: profile.durability,
        election_timeout_ns: Some(profile.election_timeout_ns),
        tables,
        cpus: profile.cores,
        ..LocalCluster::default()
    };
    let described = format!("{profile:?}");
    let failure = |at_ns, why| Failure { seed, at_ns, why, profile: described.clone() };
    let config = match Config::local(&cluster) {
        Ok(config) => Rc::new(config),
        Err(mistakes) => return Err(failure(0, mistakes.to_string())),
    };
    let recorder = Rc::new(RefCell::new(Recorder::new(Truth::new(&config), options.ops)));
    let mut world = World::new(&config, profile, recorder, prng);
    match drive(&mut world) {
        Ok(summary) => {
            let recorder = world.recorder.borrow();
            let (slots, reigns, rolled_back) =
                (recorder.truth.slots, recorder.truth.reigns(), recorder.rolled_back);
            drop(recorder);
            Ok(Passed { summary, world: world.stats, slots, reigns, rolled_back, virtual_ns: world.now })
        }
        Err(why) => Err(failure(world.now, why)),
    }
}

fn drive(world: &mut World) -> Result<Summary, String> {
    while world.recorder.borrow().left > 0 {
        advance(world)?;
        if world.now > WORK_NS_MAX {
            let left = world.recorder.borrow().left;
            return Err(format!("no progress: {left} transactions were not even taken"));
        }
    }
    world.heal();
    let healed = world.now;
    while !is_at_rest(world) {
        advance(world)?;
        if world.now > healed + REST_NS_MAX {
            return Err(format!("no rest: {}", unrest(world)));
        }
    }
    // A drive that lied before the world healed may yet kill its node.
    while let Some(unsettled) = unsettled(world) {
        for _ in 0..SETTLE_STEPS {
            advance(world)?;
        }
        if world.now > healed + 2 * REST_NS_MAX {
            return Err(unsettled);
        }
    }
    let rows = final_state(world).map_err(|why| format!("{why}; {}", places(world)))?;
    check::check(&world.recorder.borrow().history, &rows).map_err(|violation| violation.to_string())
}

fn advance(world: &mut World) -> Result<(), String> {
    match world.step()? {
        true => Ok(()),
        false => Err("everybody waits for ever".to_string()),
    }
}

/// Everything answered, released, replayed and decided.
fn is_at_rest(world: &World) -> bool {
    world.recorder.borrow().open == 0
        && world.cores.iter().all(SimCore::is_up)
        && world.clocks_are_right()
        && world
            .cores
            .iter()
            .filter(|core| core.is_up())
            .flat_map(|core| core.core.replicas())
            .all(|replica| unrest_of(replica).is_none())
        && same_ends(world)
}

/// What anybody at rest still holds and should have let go of, or has not heard and should have; or that it is at
/// rest no more.
fn unsettled(world: &World) -> Option<String> {
    if !is_at_rest(world) {
        return Some(format!("no rest: {}", unrest(world)));
    }
    let ignorant = |core: &SimCore| {
        let told = world.cores.iter().find(|other| other.me.node == core.me.node).expect("it is one itself");
        let facts = |of: &SimCore| of.core.knowledge().closed().len();
        let (known, others) = (facts(core), facts(told));
        (known != others).then(|| format!("{:?} knows {known} closed epochs, its sibling {others}", core.me))
    };
    let settled = world.cores.iter().find_map(|core| bounded::untrimmed(core).or_else(|| ignorant(core)));
    settled.or_else(|| world.unanswered_order())
}

/// Every partition is led, and each of its replicas has learned as much as the others.
fn same_ends(world: &World) -> bool {
    (0..world.config.partition_count() as u16).map(PartitionId).all(|partition| {
        // A stream that nobody leads has yet to learn what it holds.
        if !replicas_of(world, partition).any(|replica| replica.open) {
            return false;
        }
        let mut ends = replicas_of(world, partition).map(|replica| replica.stream.chosen_end());
        let first = ends.next();
        ends.all(|end| Some(end) == first)
    })
}

fn replicas_of(
    world: &World,
    partition: PartitionId,
) -> impl Iterator<Item = &Replica<super::clients::Work>> {
    world
        .cores
        .iter()
        .filter(|core| core.is_up())
        .flat_map(|core| core.core.replicas())
        .filter(move |replica| replica.id == partition)
}

fn unrest_of<P: Procedure>(replica: &Replica<P>) -> Option<String> {
    let store = replica.store.borrow();
    let count = |what: &str, n: usize| (n > 0).then(|| format!("{:?}: {n} {what}", replica.id));
    count("in the window", store.window.len())
        .or_else(|| count("prepared", store.prepared().len()))
        .or_else(|| count("waiting to be replayed", replica.replay.len()))
        .or_else(|| count("parked", replica.parked.len()))
        .or_else(|| count("snapshot reads waiting", replica.waiting.len()))
        .or_else(|| count("being coordinated", usize::from(!replica.coordinator.is_idle())))
        .or_else(|| count("paused for a hand-over", usize::from(replica.is_paused())))
}

fn unrest(world: &World) -> String {
    let open = world.recorder.borrow().open;
    let mut parts = vec![format!("{open} transactions without their last answer")];
    parts.extend(
        world
            .cores
            .iter()
            .filter(|core| core.is_up())
            .flat_map(|core| core.core.replicas())
            .filter_map(unrest_of),
    );
    parts.push(knowledge(world));
    if !same_ends(world) {
        parts.push("not led, or learned to different ends".to_string());
        parts.push(places(world));
    }
    parts.join("; ")
}

/// What every core knows of the shards, and what its own streams say.
fn knowledge(world: &World) -> String {
    let mut parts: Vec<String> = Vec::new();
    for core in world.cores.iter().filter(|core| core.is_up()) {
        let known = core.core.knowledge();
        let vector: Vec<_> = known.vector().iter().collect();
        let closed: Vec<_> = known.closed().iter().collect();
        let marks: Vec<_> = core
            .core
            .replicas()
            .iter()
            .map(|replica| (replica.id, replica.mark(), replica.applied()))
            .collect();
        parts.push(format!("{:?} knows {vector:?}, closed {closed:?}, marks {marks:?}", core.me));
    }
    parts.join("; ")
}

/// Where every stream stands, for whoever reads of a failure.
fn places(world: &World) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(world.cores.iter().flat_map(|core| {
        core.core.replicas().iter().map(move |replica| {
            let (node, id, stream) = (core.me.node, replica.id, &replica.stream);
            format!(
                "{node:?} {id:?} {:?} of {:?}, promised {:?}, open {}: slots {}..{} of {}",
                stream.role(),
                stream.leader(),
                stream.promised(),
                replica.open,
                stream.floor().0,
                stream.chosen_end().0,
                stream.next_slot().0
            )
        })
    }));
    parts.join("; ")
}

/// The newest version of every key, which must be the same on every replica.
fn final_state(world: &World) -> Result<Vec<FinalRow>, String> {
    let mut all = Vec::new();
    for partition in (0..world.config.partition_count() as u16).map(PartitionId) {
        let mut copies = replicas_of(world, partition).map(|replica| (replica, rows_of(replica)));
        let Some((_, first)) = copies.next() else { continue };
        for (_, copy) in copies {
            if let Some((a, b)) = first.iter().zip(&copy).find(|(a, b)| a != b) {
                return Err(format!("replicas of {partition:?} differ: {a:?} and {b:?}"));
            }
            if first.len() != copy.len() {
                let (a, b) = (first.len(), copy.len());
                return Err(format!("replicas of {partition:?} differ: {a} keys and {b}"));
            }
        }
        all.extend(first);
    }
    all.sort();
    Ok(all)
}

/// Live keys only: a replica may have pruned a tombstone that another still keeps.
fn rows_of<P: Procedure>(replica: &Replica<P>) -> Vec<FinalRow> {
    let store = replica.store.borrow();
    let mut rows = Vec::new();
    store.tables()[usize::from(TABLE.0)].scan(&[], None, |key, version| {
        if let Some(value) = &version.value {
            rows.push((key_id(key), version.timestamp, Some(write_id(value))));
        }
        ControlFlow::Continue(())
    });
    rows
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, at_ns, why, profile } = self;
        write!(f, "seed {seed} failed at {:.6} s: {why}\n  world: {profile}", *at_ns as f64 / SECOND as f64)
    }
}

/// Virtual time in which all transactions must have been submitted, and in which a healed cluster must
/// come to rest: ten call timeouts.
const WORK_NS_MAX: u64 = 20_000 * SECOND;
const REST_NS_MAX: u64 = 100 * SECOND;
/// Events from one look at what is kept to the next.
const SETTLE_STEPS: usize = 1_000;
