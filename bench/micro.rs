//! The microbenchmark: a few keys a transaction, half of them read-only, half read-modify-write, some across shards.
//!
//! Every value begins with a counter that each update of its key raises by one, so that after the run the sum of
//! the counters says whether an update was lost or made twice.
#![forbid(unsafe_code)]

use crate::layout::Layout;
use crate::options::{MICRO_KEYS_PER_TXN_MAX, MICRO_VALUE_BYTES_MAX};
use crate::workload::{Drawn, Inspection, Role, Verdicts, Workload};
use mako::bounds::SCAN_ROWS_MAX;
use mako::config::Table;
use mako::txn::{Abort, Procedure, Txn};
use mako::types::{PartitionId, Prng, TableId};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::sync::Arc;

/// What all cores agree on.
pub struct Plan {
    seed: u64,
    keys_per_partition: u32,
    keys_per_txn: usize,
    cross_shard_pct: u32,
    value_bytes: usize,
    /// By partition: the partitions of other shards.
    others: Vec<Vec<PartitionId>>,
    layout: Layout,
}

impl Plan {
    pub fn new(seed: u64, options: &crate::options::MicroOptions, layout: Layout) -> Plan {
        let partitions = u32::try_from(layout.partition_count()).expect("partitions are few");
        let is_other = |home, other| layout.shard(home) != layout.shard(other);
        let others =
            layout.partitions().map(|home| layout.partitions().filter(|p| is_other(home, *p)).collect());
        Plan {
            seed,
            keys_per_partition: options.keys.div_ceil(partitions),
            keys_per_txn: options.keys_per_txn as usize,
            cross_shard_pct: options.cross_shard_pct,
            value_bytes: options.value_size as usize,
            others: others.collect(),
            layout,
        }
    }

    pub fn tables() -> Vec<Table> {
        vec![Layout::by_integer("micro")]
    }

    fn key(&self, partition: PartitionId, index: u32) -> Key {
        key(self.layout.prefix(partition), index)
    }
}

/// The partition's prefix, which routes the key, then the number of the key there.
type Key = [u8; 8];

fn key(prefix: u32, index: u32) -> Key {
    (u64::from(prefix) << 32 | u64::from(index)).to_be_bytes()
}

/// The microbenchmark on one core.
pub struct Micro {
    plan: Arc<Plan>,
    rng: Prng,
    counts: Counts,
}

#[derive(Serialize, Deserialize, Clone, Copy, Default)]
pub struct Counts {
    /// Counters raised by durable updates of this core.
    raised: u64,
    /// Counters found after the run, of the partitions led here.
    found: u64,
    rows_found: u64,
}

impl Micro {
    pub fn new(plan: Arc<Plan>, generator: u32) -> Micro {
        // Neighbouring seeds and generators must not share a stream.
        let seed = plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(generator));
        Micro { plan, rng: Prng::with_seed(seed), counts: Counts::default() }
    }
}

impl Workload for Micro {
    type Procedure = Step;
    type Findings = Counts;
    const KINDS: &'static [&'static str] = &["read", "update"];

    fn load_steps(&self, _partition: PartitionId) -> u32 {
        self.plan.keys_per_partition.div_ceil(ROWS_PER_STEP)
    }

    fn load(&self, partition: PartitionId, step: u32) -> Step {
        let from = step * ROWS_PER_STEP;
        let to = (from + ROWS_PER_STEP).min(self.plan.keys_per_partition);
        let prefix = self.plan.layout.prefix(partition);
        Step::Load { prefix, from, to, value_bytes: self.plan.value_bytes }
    }

    fn draw(&mut self, home: PartitionId) -> Drawn<Step> {
        let (plan, rng) = (&self.plan, &mut self.rng);
        let mut keys = [Key::default(); MICRO_KEYS_PER_TXN_MAX as usize];
        for key in &mut keys[..plan.keys_per_txn] {
            *key = plan.key(home, rng.u32(..plan.keys_per_partition));
        }
        let others = &plan.others[usize::from(home.0)];
        if !others.is_empty() && rng.u32(0..100) < plan.cross_shard_pct {
            let other = others[rng.usize(..others.len())];
            keys[rng.usize(..plan.keys_per_txn)] = plan.key(other, rng.u32(..plan.keys_per_partition));
        }
        let kind = rng.usize(0..2);
        let access = Access { keys, count: plan.keys_per_txn };
        let procedure = if kind == READ { Step::Read(access) } else { Step::Update(access) };
        Drawn { kind, procedure }
    }

    fn on_durable(&mut self, kind: usize) {
        if kind == UPDATE {
            self.counts.raised += self.plan.keys_per_txn as u64;
        }
    }

    fn check(&mut self, inspection: Inspection, index: u32) -> Option<Step> {
        if inspection.role == Role::Follower || index > 0 {
            return None;
        }
        Some(Step::Sum(Sum::of(self.plan.layout.prefix(inspection.home))))
    }

    fn on_inspected(&mut self, _inspection: Inspection, procedure: Step) -> Option<Step> {
        let Step::Sum(sum) = procedure else { unreachable!("only sums inspect") };
        let (raised, rows, next) = sum.seen.get();
        self.counts.found += raised;
        self.counts.rows_found += rows;
        next.map(|from| Step::Sum(Sum { from, ..sum }))
    }

    fn findings(&self) -> Counts {
        self.counts
    }

    fn verdicts(&self, counts: &[Counts]) -> Verdicts {
        let plan = &self.plan;
        let total = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
        let (raised, found) = (total(|core| core.raised), total(|core| core.found));
        let rows = u64::from(plan.keys_per_partition) * plan.layout.partition_count() as u64;
        let rows_found = total(|core| core.rows_found);
        let lost = (raised != found).then(|| format!("durable updates {raised}, counters add up to {found}"));
        let missing = (rows != rows_found).then(|| format!("{rows_found} keys of {rows} were found"));
        Verdicts::from([("updates".to_string(), lost), ("keys".to_string(), missing)])
    }
}

/// Every procedure of this workload.
pub enum Step {
    Load { prefix: u32, from: u32, to: u32, value_bytes: usize },
    Read(Access),
    Update(Access),
    Sum(Sum),
}

/// The keys of one transaction.
pub struct Access {
    keys: [Key; MICRO_KEYS_PER_TXN_MAX as usize],
    count: usize,
}

impl Access {
    fn keys(&self) -> &[Key] {
        &self.keys[..self.count]
    }

    /// So that remote reads overlap.
    fn prefetch(&self, txn: &Txn) {
        for key in self.keys() {
            txn.prefetch(TABLE, key);
        }
    }
}

/// Adds up the counters of one partition, a few thousand a look.
pub struct Sum {
    prefix: u32,
    from: u32,
    /// Their sum, how many, and where to go on.
    seen: Cell<(u64, u64, Option<u32>)>,
}

impl Sum {
    fn of(prefix: u32) -> Sum {
        Sum { prefix, from: 0, seen: Cell::new((0, 0, None)) }
    }

    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let to = (self.prefix + 1).to_be_bytes();
        let rows = txn.scan(TABLE, &key(self.prefix, self.from), Some(&to), SCAN_ROWS_MAX).await?;
        let sum = rows.iter().map(|(_, value)| counter(value)).sum();
        let last = rows.iter().last().filter(|_| rows.len() == SCAN_ROWS_MAX);
        let next = last.map(|(key, _)| u32::from_be_bytes(key[4..].try_into().expect("eight bytes")) + 1);
        self.seen.set((sum, rows.len() as u64, next));
        Ok(())
    }
}

impl Procedure for Step {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        match self {
            Step::Load { prefix, from, to, value_bytes } => {
                let value = [0; MICRO_VALUE_BYTES_MAX as usize];
                (*from..*to)
                    .try_for_each(|index| txn.put(TABLE, &key(*prefix, index), &value[..*value_bytes]))
            }
            Step::Read(access) => {
                access.prefetch(txn);
                for key in access.keys() {
                    txn.get(TABLE, key).await?;
                }
                Ok(())
            }
            Step::Update(access) => {
                access.prefetch(txn);
                for key in access.keys() {
                    // Absent only in a state that never was, which validation refuses; or lost, which the check sees.
                    let old = txn.get(TABLE, key).await?.ok_or(Abort::Conflict { attempts: 1 })?;
                    let mut value = [0; MICRO_VALUE_BYTES_MAX as usize];
                    value[..old.len()].copy_from_slice(&old);
                    value[..8].copy_from_slice(&(counter(&old) + 1).to_le_bytes());
                    txn.put(TABLE, key, &value[..old.len()])?;
                }
                Ok(())
            }
            Step::Sum(sum) => Box::pin(sum.run(txn)).await,
        }
    }
}

fn counter(value: &[u8]) -> u64 {
    u64::from_le_bytes(value[..8].try_into().expect("at least eight bytes"))
}

pub const TABLE: TableId = TableId(0);
const READ: usize = 0;
const UPDATE: usize = 1;
const ROWS_PER_STEP: u32 = 500;
const _: () = assert!(READ == 0 && UPDATE == 1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Engine};
    use crate::options::{Bench, Options};
    use crate::workload::Stage;
    use clap::Parser;
    use mako::types::NodeId;

    fn plan(line: &str, shards: usize) -> Arc<Plan> {
        let words = ["mako-bench", "micro"].into_iter().chain(line.split_whitespace());
        let Bench::Micro(options) = Options::parse_from(words).bench else { panic!("micro") };
        let config = fixture::config(shards, 1, 2 / shards, Plan::tables());
        Arc::new(Plan::new(1, &options, Layout::new(&config, TABLE)))
    }

    fn keys_of(step: &Step) -> &[Key] {
        match step {
            Step::Read(access) | Step::Update(access) => access.keys(),
            _ => panic!("no transaction"),
        }
    }

    #[test]
    fn a_cross_shard_transaction_has_a_key_elsewhere_and_the_others_none() {
        let home = PartitionId(1);
        for (pct, low, high) in [(0, 0, 0), (30, 2_700, 3_300), (100, 10_000, 10_000)] {
            let mut micro = Micro::new(plan(&format!("--cross-shard-pct {pct} --keys 1000"), 2), 1);
            let prefix = micro.plan.layout.prefix(home).to_be_bytes();
            let mut cross = 0;
            for _ in 0..10_000 {
                let drawn = micro.draw(home);
                assert_eq!(keys_of(&drawn.procedure).len(), 4);
                cross += u32::from(keys_of(&drawn.procedure).iter().any(|key| key[..4] != prefix));
            }
            assert!((low..=high).contains(&cross), "{pct} %: {cross}");
        }
    }

    /// Two partitions of one shard: nothing is across shards, whatever the flag says.
    #[test]
    fn one_shard_has_no_cross_shard_transactions() {
        let mut micro = Micro::new(plan("--cross-shard-pct 100", 1), 1);
        let prefix = micro.plan.layout.prefix(PartitionId(0)).to_be_bytes();
        assert!(
            (0..100)
                .all(|_| keys_of(&micro.draw(PartitionId(0)).procedure).iter().all(|key| key[..4] == prefix))
        );
    }

    #[test]
    fn half_the_transactions_read_only() {
        let mut micro = Micro::new(plan("--keys-per-txn 1", 2), 1);
        let reads = (0..10_000).filter(|_| micro.draw(PartitionId(0)).kind == READ).count();
        assert!((4_700..5_300).contains(&reads), "{reads}");
    }

    fn verdicts(micro: &mut Micro, engine: &Engine<Step>) -> Verdicts {
        let (node, stage, role) = (NodeId(0), Stage::Check, Role::Leader);
        let home = PartitionId(0);
        let inspection = Inspection { stage, node, home, role };
        (micro.counts.found, micro.counts.rows_found) = (0, 0);
        let mut next = micro.check(inspection, 0);
        while let Some(step) = next {
            next = micro.on_inspected(inspection, engine.inspect(step));
        }
        micro.verdicts(&[micro.findings()])
    }

    /// The bench's own proof that no update is lost: it must hold after a run and fail after a loss.
    #[test]
    fn the_counters_tell_whether_an_update_was_lost() {
        let words = "mako-bench micro --keys 12000 --value-size 20";
        let Bench::Micro(options) = Options::parse_from(words.split(' ')).bench else { panic!("micro") };
        let config = fixture::config(1, 1, 1, Plan::tables());
        let plan = Arc::new(Plan::new(1, &options, Layout::new(&config, TABLE)));
        let engine = Engine::start(Plan::tables());
        let mut micro = Micro::new(plan, 1);
        let home = PartitionId(0);
        for step in 0..micro.load_steps(home) {
            assert_eq!(engine.run(micro.load(home, step)).1, Ok(()));
        }
        let mut last = None;
        for _ in 0..100 {
            let Drawn { kind, procedure } = micro.draw(home);
            let (procedure, result) = engine.run(procedure);
            assert_eq!(result, Ok(()));
            micro.on_durable(kind);
            last = Some(keys_of(&procedure)[0]);
        }
        let sound = verdicts(&mut micro, &engine);
        assert!(sound.values().all(Option::is_none), "{sound:?}");

        let key = last.unwrap();
        let value = engine.get(TABLE, &key).unwrap();
        assert_eq!(value.len(), 20);
        let raised = counter(&value) + 1;
        engine.put(TABLE, &key, &[&raised.to_le_bytes(), &value[8..]].concat());
        assert!(verdicts(&mut micro, &engine)["updates"].is_some());
        engine.delete(TABLE, &key);
        assert!(verdicts(&mut micro, &engine)["keys"].is_some());
    }
}
