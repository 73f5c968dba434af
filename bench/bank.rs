//! Transfers between accounts all over the cluster, while audits on leaders and followers add up every balance.
//!
//! Money is neither made nor lost, so each snapshot of each replica must show the same total: one half of a
//! transfer seen without the other, a write lost or a write kept after a rollback, and the total is off.
#![forbid(unsafe_code)]

use crate::layout::Layout;
use crate::workload::{Drawn, Inspection, Role, Stage, Verdicts, Workload};
use mako::config::Table;
use mako::txn::{Abort, Procedure, Txn};
use mako::types::{PartitionId, Prng, TableId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::sync::Arc;

/// What all cores agree on.
pub struct Plan {
    seed: u64,
    accounts: u32,
    layout: Layout,
    /// By partition, what the keys of its accounts begin with.
    prefixes: Vec<u32>,
}

impl Plan {
    pub fn new(seed: u64, accounts: u32, layout: Layout) -> Plan {
        let prefixes = layout.partitions().map(|partition| layout.prefix(partition)).collect();
        Plan { seed, accounts, layout, prefixes }
    }

    pub fn tables() -> Vec<Table> {
        vec![Layout::by_integer("account")]
    }

    /// Accounts are dealt to partitions in turn.
    fn key(&self, account: u32) -> Key {
        let partition = account as usize % self.prefixes.len();
        key(self.prefixes[partition], account)
    }

    /// How many of them are in `partition`.
    fn accounts_of(&self, partition: PartitionId) -> u32 {
        let partitions = u32::try_from(self.prefixes.len()).expect("partitions are few");
        (self.accounts + partitions - 1 - u32::from(partition.0)) / partitions
    }

    fn total(&self) -> i64 {
        i64::from(self.accounts) * FIRST_BALANCE
    }
}

type Key = [u8; 8];

fn key(prefix: u32, account: u32) -> Key {
    (u64::from(prefix) << 32 | u64::from(account)).to_be_bytes()
}

/// The bank on one core.
pub struct Bank {
    plan: Arc<Plan>,
    rng: Prng,
    found: Found,
}

/// What the audits of a core saw.
#[derive(Serialize, Deserialize, Clone, Default)]
pub struct Found {
    leader: Audits,
    follower: Audits,
    /// Of the looks at each replica after the run.
    last: Audits,
}

/// Audits of one role.
#[derive(Serialize, Deserialize, Clone, Default)]
struct Audits {
    done: u64,
    /// The first that was wrong.
    wrong: Option<String>,
}

impl Audits {
    fn add(&mut self, plan: &Plan, inspection: Inspection, seen: Seen) {
        self.done += 1;
        let expected = (plan.total(), u64::from(plan.accounts));
        if (seen.sum, seen.accounts) != expected && self.wrong.is_none() {
            let Inspection { node, home, role, .. } = inspection;
            self.wrong = Some(format!(
                "{role:?} of partition {} on node {}: {} in {} accounts, not {} in {}",
                home.0, node.0, seen.sum, seen.accounts, expected.0, expected.1
            ));
        }
    }

    fn total<'a>(audits: impl Iterator<Item = &'a Audits>) -> Audits {
        audits.fold(Audits::default(), |mut total, audits| {
            total.done += audits.done;
            total.wrong = total.wrong.or_else(|| audits.wrong.clone());
            total
        })
    }

    fn verdict(self) -> Option<String> {
        self.wrong.or_else(|| (self.done == 0).then(|| "no audit was made".to_string()))
    }
}

impl Bank {
    pub fn new(plan: Arc<Plan>, generator: u32) -> Bank {
        // Neighbouring seeds and generators must not share a stream.
        let seed = plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(generator));
        Bank { plan, rng: Prng::with_seed(seed), found: Found::default() }
    }
}

impl Workload for Bank {
    type Procedure = Step;
    type Findings = Found;
    const KINDS: &'static [&'static str] = &["transfer"];

    fn load_steps(&self, partition: PartitionId) -> u32 {
        self.plan.accounts_of(partition).div_ceil(ACCOUNTS_PER_STEP)
    }

    fn load(&self, partition: PartitionId, step: u32) -> Step {
        let (plan, stride) = (self.plan.clone(), ACCOUNTS_PER_STEP);
        let to = ((step + 1) * stride).min(plan.accounts_of(partition));
        Step::Open { plan, partition, from: step * stride, to }
    }

    /// From one account to another, wherever they are: home is only where the transaction is coordinated.
    fn draw(&mut self, _home: PartitionId) -> Drawn<Step> {
        let (plan, rng) = (&self.plan, &mut self.rng);
        let from = rng.u32(..plan.accounts);
        let to = (from + rng.u32(1..plan.accounts)) % plan.accounts;
        let transfer = Transfer { from: plan.key(from), to: plan.key(to), amount: rng.i64(1..=AMOUNT_MAX) };
        Drawn { kind: 0, procedure: Step::Transfer(transfer) }
    }

    fn audit(&mut self, _inspection: Inspection) -> Option<Step> {
        Some(Step::Audit(Audit { plan: self.plan.clone(), seen: Cell::default() }))
    }

    fn check(&mut self, inspection: Inspection, index: u32) -> Option<Step> {
        if index == 0 { self.audit(inspection) } else { None }
    }

    fn on_inspected(&mut self, inspection: Inspection, procedure: Step) -> Option<Step> {
        let Step::Audit(audit) = procedure else { unreachable!("only audits inspect") };
        let audits = match (inspection.stage, inspection.role) {
            (Stage::Check, _) => &mut self.found.last,
            (Stage::Audit, Role::Leader) => &mut self.found.leader,
            (Stage::Audit, Role::Follower) => &mut self.found.follower,
        };
        audits.add(&self.plan, inspection, audit.seen.get());
        None
    }

    fn findings(&self) -> Found {
        self.found.clone()
    }

    fn verdicts(&self, found: &[Found]) -> Verdicts {
        let verdict = |of: fn(&Found) -> &Audits| Audits::total(found.iter().map(of)).verdict();
        let mut verdicts = Verdicts::from([
            ("total".to_string(), verdict(|core| &core.last)),
            ("audits_leader".to_string(), verdict(|core| &core.leader)),
        ]);
        if self.plan.layout.has_followers() {
            verdicts.insert("audits_follower".to_string(), verdict(|core| &core.follower));
        }
        verdicts
    }

    fn figures(found: &[Found]) -> Map<String, Value> {
        let done = |of: fn(&Found) -> &Audits| found.iter().map(|found| of(found).done).sum::<u64>();
        let audits = json!({ "leader": done(|core| &core.leader), "follower": done(|core| &core.follower) });
        Map::from_iter([("audits".to_string(), audits)])
    }
}

/// Every procedure of this workload.
pub enum Step {
    /// Opens the `from`-th up to the `to`-th account of a partition.
    Open {
        plan: Arc<Plan>,
        partition: PartitionId,
        from: u32,
        to: u32,
    },
    Transfer(Transfer),
    Audit(Audit),
}

pub struct Transfer {
    from: Key,
    to: Key,
    amount: i64,
}

/// Adds up all accounts of all partitions at one snapshot.
pub struct Audit {
    plan: Arc<Plan>,
    seen: Cell<Seen>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    sum: i64,
    accounts: u64,
}

impl Procedure for Step {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        match self {
            Step::Open { plan, partition, from, to } => {
                let partitions = u32::try_from(plan.prefixes.len()).expect("partitions are few");
                let mut accounts = (*from..*to).map(|i| i * partitions + u32::from(partition.0));
                accounts
                    .try_for_each(|account| txn.put(TABLE, &plan.key(account), &FIRST_BALANCE.to_le_bytes()))
            }
            Step::Transfer(transfer) => transfer.run(txn).await,
            Step::Audit(audit) => Box::pin(audit.run(txn)).await,
        }
    }
}

impl Transfer {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        txn.prefetch(TABLE, &self.from);
        txn.prefetch(TABLE, &self.to);
        let from = balance(&txn.get(TABLE, &self.from).await?.ok_or(TORN)?);
        let to = balance(&txn.get(TABLE, &self.to).await?.ok_or(TORN)?);
        // An account is never overdrawn: what is left is sent.
        let amount = self.amount.min(from);
        txn.put(TABLE, &self.from, &(from - amount).to_le_bytes())?;
        txn.put(TABLE, &self.to, &(to + amount).to_le_bytes())
    }
}

impl Audit {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let mut seen = Seen::default();
        for prefix in &self.plan.prefixes {
            let to = (prefix + 1).to_be_bytes();
            let mut next = Some(0);
            while let Some(account) = next {
                let rows = txn.scan(TABLE, &key(*prefix, account), Some(&to), ROWS_PER_PAGE).await?;
                seen.sum += rows.iter().map(|(_, value)| balance(value)).sum::<i64>();
                seen.accounts += rows.len() as u64;
                let last = rows.iter().last().filter(|_| rows.len() == ROWS_PER_PAGE);
                next = last.map(|(key, _)| u32::from_be_bytes(key[4..].try_into().expect("eight bytes")) + 1);
            }
        }
        self.seen.set(seen);
        Ok(())
    }
}

fn balance(value: &[u8]) -> i64 {
    i64::from_le_bytes(value.try_into().expect("a balance has eight bytes"))
}

pub const TABLE: TableId = TableId(0);
/// An account is missing only in a state that never was, read before validation; or it is lost, and audits see it.
const TORN: Abort = Abort::Conflict { attempts: 1 };
const FIRST_BALANCE: i64 = 1_000;
const AMOUNT_MAX: i64 = 100;
const ACCOUNTS_PER_STEP: u32 = 500;
/// Accounts one page of an audit reads.
const ROWS_PER_PAGE: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Engine};
    use mako::types::NodeId;
    use std::collections::BTreeSet;

    fn bank(accounts: u32, replicas: usize) -> Bank {
        let config = fixture::config(1, replicas, 1, Plan::tables());
        Bank::new(Arc::new(Plan::new(1, accounts, Layout::new(&config, TABLE))), 1)
    }

    fn inspection(stage: Stage, role: Role) -> Inspection {
        Inspection { stage, node: NodeId(0), home: PartitionId(0), role }
    }

    fn open(bank: &Bank) -> Engine<Step> {
        let engine = Engine::start(Plan::tables());
        for step in 0..bank.load_steps(PartitionId(0)) {
            assert_eq!(engine.run(bank.load(PartitionId(0), step)).1, Ok(()));
        }
        engine
    }

    fn audit(bank: &mut Bank, engine: &Engine<Step>, stage: Stage, role: Role) {
        let inspection = inspection(stage, role);
        let step = engine.inspect(bank.audit(inspection).unwrap());
        assert!(bank.on_inspected(inspection, step).is_none());
    }

    #[test]
    fn the_total_stays_whatever_is_transferred() {
        let mut bank = bank(2_500, 1);
        let engine = open(&bank);
        for _ in 0..300 {
            let Drawn { procedure, .. } = bank.draw(PartitionId(0));
            assert_eq!(engine.run(procedure).1, Ok(()));
        }
        audit(&mut bank, &engine, Stage::Audit, Role::Leader);
        audit(&mut bank, &engine, Stage::Check, Role::Leader);
        let verdicts = bank.verdicts(&[bank.findings()]);
        assert!(verdicts.values().all(Option::is_none), "{verdicts:?}");
        assert_eq!(Bank::figures(&[bank.findings()])["audits"], json!({ "leader": 1, "follower": 0 }));
    }

    /// An audit that cannot fail would bless every engine.
    #[test]
    fn an_audit_notices_one_coin_too_many_and_one_account_too_few() {
        let mut bank = bank(1_200, 1);
        let engine = open(&bank);
        let key = bank.plan.key(7);
        engine.put(TABLE, &key, &(FIRST_BALANCE + 1).to_le_bytes());
        audit(&mut bank, &engine, Stage::Audit, Role::Leader);
        assert!(
            bank.verdicts(&[bank.findings()])["audits_leader"]
                .as_ref()
                .is_some_and(|why| why.contains("1200001 in 1200"))
        );

        // The money of a closed account is moved on, so that only the count tells.
        engine.put(TABLE, &key, &(2 * FIRST_BALANCE).to_le_bytes());
        engine.delete(TABLE, &bank.plan.key(8));
        audit(&mut bank, &engine, Stage::Check, Role::Leader);
        assert!(
            bank.verdicts(&[bank.findings()])["total"]
                .as_ref()
                .is_some_and(|why| why.contains("1200000 in 1199"))
        );
    }

    #[test]
    fn a_role_that_was_never_audited_fails() {
        let mut bank = bank(10, 3);
        let engine = open(&bank);
        audit(&mut bank, &engine, Stage::Audit, Role::Leader);
        audit(&mut bank, &engine, Stage::Check, Role::Leader);
        let failed: Vec<_> =
            bank.verdicts(&[bank.findings()]).into_iter().filter(|(_, why)| why.is_some()).collect();
        assert_eq!(failed, [("audits_follower".to_string(), Some("no audit was made".to_string()))]);
    }

    /// Accounts that two partitions open, or none, would be found by no audit of a single partition.
    #[test]
    fn partitions_open_every_account_once() {
        let config = fixture::config(3, 1, 1, Plan::tables());
        let plan = Plan::new(1, 1_000, Layout::new(&config, TABLE));
        let counts: u32 = plan.layout.partitions().map(|partition| plan.accounts_of(partition)).sum();
        let keys: BTreeSet<Key> = (0..1_000).map(|account| plan.key(account)).collect();
        assert_eq!((counts, keys.len()), (1_000, 1_000));
        for partition in plan.layout.partitions() {
            let prefix = plan.layout.prefix(partition).to_be_bytes();
            let here = keys.iter().filter(|key| key[..4] == prefix).count();
            assert_eq!(here, plan.accounts_of(partition) as usize);
        }
    }

    #[test]
    fn a_transfer_is_between_two_accounts() {
        let mut bank = bank(2, 1);
        for _ in 0..100 {
            let Step::Transfer(transfer) = bank.draw(PartitionId(0)).procedure else { panic!("a transfer") };
            assert_ne!(transfer.from, transfer.to);
        }
    }
}
