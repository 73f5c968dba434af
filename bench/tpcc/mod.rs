//! TPC-C, revision 5.11, as a workload: nine tables, five transactions in the standard mix, twelve conditions.
//!
//! Clauses are cited where they are met. Not TPC-C proper: no terminals, think times or keying times (clients of
//! a partition draw one transaction after another, for any warehouse of that partition), and a delivery is one
//! transaction like the others, not queued.
//!
//! Invariant: a transaction's parameters are drawn before it is submitted, so that it can run again unchanged.
#![forbid(unsafe_code)]

mod checks;
mod customer;
mod delivery;
mod findings;
mod load;
mod new_order;
mod order_status;
mod payment;
mod random;
mod rows;
mod schema;
mod stock_level;

use crate::layout::Layout;
use crate::workload::{Drawn, Inspection, Verdicts, Workload};
use checks::{DistrictCheck, WarehouseCheck};
use delivery::Delivery;
use findings::Findings;
use load::{Load, Rows};
use mako::config::Table;
use mako::txn::{Abort, Procedure, Txn};
use mako::types::{PartitionId, Prng, TableId};
use new_order::NewOrder;
use order_status::OrderStatus;
use payment::Payment;
use random::{NuRand, stream};
use schema::{DISTRICTS, Scale};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use stock_level::StockLevel;

/// What all cores agree on.
#[derive(Debug)]
pub struct Plan {
    seed: u64,
    scale: Scale,
    warehouses: u32,
    remote_item_pct: u32,
    remote_payment_pct: u32,
    /// By partition.
    warehouses_of: Vec<Vec<u32>>,
    /// By warehouse, from 1: how many replicas hold it.
    replicas_of: Vec<usize>,
    nurand_load: NuRand,
    nurand: NuRand,
    /// Counts transactions that became durable, if anybody wants to know while the run lasts.
    commits: Option<Arc<AtomicU64>>,
}

/// The percentages of remote lines and payments.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    pub item_pct: u32,
    pub payment_pct: u32,
}

impl Plan {
    pub fn new(seed: u64, warehouses: Option<u32>, remote: Remote, layout: &Layout) -> Plan {
        let one_each = u32::try_from(layout.partition_count()).expect("partitions are few");
        Plan::of_scale(Scale::FULL, seed, warehouses.unwrap_or(one_each), remote, layout)
    }

    fn of_scale(scale: Scale, seed: u64, warehouses: u32, remote: Remote, layout: &Layout) -> Plan {
        let mut warehouses_of = vec![Vec::new(); layout.partition_count()];
        let mut replicas_of = vec![0];
        for w in 1..=warehouses {
            let partition = layout.place(w);
            warehouses_of[usize::from(partition.0)].push(w);
            replicas_of.push(layout.replicas(partition));
        }
        let rng = &mut stream(seed, [CONSTANTS, 0, 0, 0]);
        let nurand_load = NuRand::for_load(rng);
        Plan {
            seed,
            scale,
            warehouses,
            remote_item_pct: remote.item_pct,
            remote_payment_pct: remote.payment_pct,
            warehouses_of,
            replicas_of,
            nurand_load,
            nurand: nurand_load.for_run(rng),
            commits: None,
        }
    }

    /// From now on.
    pub fn count_commits(&mut self) -> Arc<AtomicU64> {
        Arc::clone(self.commits.get_or_insert_default())
    }

    pub fn tables() -> Vec<Table> {
        schema::tables()
    }

    /// A table whose rows are placed by their warehouse.
    pub fn table() -> TableId {
        schema::WAREHOUSE
    }

    pub fn warehouses(&self) -> u32 {
        self.warehouses
    }

    fn warehouses_of(&self, partition: PartitionId) -> &[u32] {
        &self.warehouses_of[usize::from(partition.0)]
    }

    /// Any warehouse but this one; this one when it is alone.
    fn other_warehouse(&self, rng: &mut Prng, w: u32) -> u32 {
        if self.warehouses == 1 {
            return w;
        }
        let other = rng.u32(1..self.warehouses);
        if other < w { other } else { other + 1 }
    }

    /// The items are loaded along with the first partition.
    fn item_steps(&self, partition: PartitionId) -> u32 {
        if partition == PartitionId(0) { Rows::item_steps(self.scale) } else { 0 }
    }
}

/// TPC-C on one core.
pub struct Tpcc {
    plan: Arc<Plan>,
    terminal: Terminal,
    deck: [u8; 100],
    dealt: usize,
    findings: Findings,
}

/// Where the parameters of transactions come from.
pub struct Terminal {
    plan: Arc<Plan>,
    rng: Prng,
    /// The date of the transaction being drawn.
    date: u64,
    generator: u32,
    history_number: u64,
}

impl Terminal {
    fn new(plan: Arc<Plan>, generator: u32) -> Terminal {
        let rng = stream(plan.seed, [TRANSACTIONS, generator, 0, 0]);
        Terminal { plan, rng, date: 1, generator, history_number: 0 }
    }

    fn next_history_number(&mut self) -> u64 {
        self.history_number += 1;
        self.history_number
    }
}

impl Tpcc {
    pub fn new(plan: Arc<Plan>, generator: u32) -> Tpcc {
        let terminal = Terminal::new(plan.clone(), generator);
        Tpcc { plan, terminal, deck: deck(), dealt: 0, findings: Findings::default() }
    }

    /// Clause 5.2.4.2: cards dealt from a shuffled deck, so that the mix is exact and not only likely.
    fn deal(&mut self) -> usize {
        if self.dealt == 0 {
            self.terminal.rng.shuffle(&mut self.deck);
        }
        let kind = self.deck[self.dealt];
        self.dealt = (self.dealt + 1) % self.deck.len();
        usize::from(kind)
    }
}

impl Workload for Tpcc {
    type Procedure = Step;
    type Findings = Findings;
    const KINDS: &'static [&'static str] =
        &["new_order", "payment", "order_status", "delivery", "stock_level"];

    fn load_steps(&self, partition: PartitionId) -> u32 {
        let warehouses = u32::try_from(self.plan.warehouses_of(partition).len()).expect("at most 16,384");
        self.plan.item_steps(partition) + warehouses * Rows::warehouse_steps(self.plan.scale)
    }

    fn load(&self, partition: PartitionId, step: u32) -> Step {
        let scale = self.plan.scale;
        let rows = match step.checked_sub(self.plan.item_steps(partition)) {
            None => Rows::item_step(scale, step),
            Some(step) => {
                let each = Rows::warehouse_steps(scale);
                let w = self.plan.warehouses_of(partition)[(step / each) as usize];
                Rows::warehouse_step(scale, w, step % each)
            }
        };
        Step::Load(Load { seed: self.plan.seed, scale, nurand: self.plan.nurand_load, rows })
    }

    fn serves(&self, home: PartitionId) -> bool {
        !self.plan.warehouses_of(home).is_empty()
    }

    fn on_durable(&mut self, _kind: usize) {
        if let Some(commits) = &self.plan.commits {
            commits.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn draw(&mut self, home: PartitionId) -> Drawn<Step> {
        let kind = self.deal();
        let warehouses = self.plan.warehouses_of(home);
        let w = warehouses[self.terminal.rng.usize(..warehouses.len())];
        self.terminal.date = mako::clock::now().0;
        let terminal = &mut self.terminal;
        let procedure = match kind {
            0 => Step::NewOrder(NewOrder::draw(terminal, w)),
            1 => Step::Payment(Payment::draw(terminal, w)),
            2 => Step::OrderStatus(OrderStatus::draw(terminal, w)),
            3 => Step::Delivery(Delivery::draw(terminal, w)),
            _ => Step::StockLevel(StockLevel::draw(terminal, w)),
        };
        Drawn { kind, procedure }
    }

    /// Of each warehouse, the districts and then the warehouse itself.
    fn check(&mut self, inspection: Inspection, index: u32) -> Option<Step> {
        let each = DISTRICTS + 1;
        let w = *self.plan.warehouses_of(inspection.home).get((index / each) as usize)?;
        let scale = self.plan.scale;
        Some(match index % each {
            DISTRICTS => Step::CheckWarehouse(Box::new(WarehouseCheck::new(w))),
            district => Step::CheckDistrict(Box::new(DistrictCheck::new(w, district + 1, scale))),
        })
    }

    fn on_inspected(&mut self, inspection: Inspection, procedure: Step) -> Option<Step> {
        match procedure {
            Step::CheckDistrict(mut check) => {
                if check.go_on() {
                    return Some(Step::CheckDistrict(check));
                }
                self.findings.add_district(inspection, *check);
            }
            Step::CheckWarehouse(mut check) => {
                if check.go_on() {
                    return Some(Step::CheckWarehouse(check));
                }
                self.findings.add_warehouse(inspection, *check);
            }
            _ => unreachable!("only checks inspect"),
        }
        None
    }

    fn findings(&self) -> Findings {
        self.findings.clone()
    }

    fn verdicts(&self, found: &[Findings]) -> Verdicts {
        Findings::verdicts(&self.plan, found)
    }
}

/// Every procedure of this workload.
pub enum Step {
    NewOrder(NewOrder),
    Payment(Payment),
    OrderStatus(OrderStatus),
    Delivery(Delivery),
    StockLevel(StockLevel),
    Load(Load),
    CheckDistrict(Box<DistrictCheck>),
    CheckWarehouse(Box<WarehouseCheck>),
}

impl Procedure for Step {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        match self {
            Step::NewOrder(procedure) => procedure.run(txn).await,
            Step::Payment(procedure) => procedure.run(txn).await,
            Step::OrderStatus(procedure) => procedure.run(txn).await,
            Step::Delivery(procedure) => procedure.run(txn).await,
            Step::StockLevel(procedure) => procedure.run(txn).await,
            // Boxed, so that the rare ones do not make the state of every transaction as large as theirs.
            Step::Load(procedure) => Box::pin(procedure.run(txn)).await,
            Step::CheckDistrict(procedure) => Box::pin(procedure.run(txn)).await,
            Step::CheckWarehouse(procedure) => Box::pin(procedure.run(txn)).await,
        }
    }
}

fn deck() -> [u8; 100] {
    let mut deck = [0; 100];
    let cards = (0..).zip(MIX).flat_map(|(kind, cards)| std::iter::repeat_n(kind, cards));
    for (card, kind) in deck.iter_mut().zip(cards) {
        *card = kind;
    }
    deck
}

/// Clause 5.2.3: at least 43 % payments, 4 % of each of the last three; the rest are new orders.
const MIX: [usize; 5] = [45, 43, 4, 4, 4];
const _: () = assert!(MIX[0] + MIX[1] + MIX[2] + MIX[3] + MIX[4] == 100);

/// First words of the random streams; those below 16 are the loader's.
const CONSTANTS: u32 = 16;
const TRANSACTIONS: u32 = 17;

#[cfg(test)]
mod tests;
