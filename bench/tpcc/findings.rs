//! What one core found on its replicas, and what all cores' findings together say of clause 3.3.2.
//!
//! Invariant: a condition holds only when the leader's replica of every warehouse was seen to the end; what
//! nobody looked at is reported as such, never as "ok".
#![forbid(unsafe_code)]

use super::Plan;
use super::checks::{CustomerName, DistrictCheck, Faults, Tally, WarehouseCheck, WarehouseTally};
use super::schema::DISTRICTS;
use crate::workload::{Inspection, Role, Verdicts};
use mako::types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// By node and warehouse.
#[derive(Serialize, Deserialize, Clone, Default)]
#[serde(from = "Vec<(u16, u32, Replica)>", into = "Vec<(u16, u32, Replica)>")]
pub struct Findings {
    replicas: BTreeMap<(NodeId, u32), Replica>,
}

/// One replica of one warehouse.
#[derive(Serialize, Deserialize, Clone)]
struct Replica {
    role: Role,
    faults: Faults,
    digest: u64,
    districts: u32,
    is_complete: bool,
    districts_ytd_cents: i64,
    history_cents: i64,
    open_cents: Vec<(CustomerName, i64)>,
    supplied: BTreeMap<u32, u64>,
    stock_ytd: u64,
}

impl Replica {
    fn new(role: Role) -> Replica {
        Replica {
            role,
            faults: Faults::new(),
            digest: 0,
            districts: 0,
            is_complete: false,
            districts_ytd_cents: 0,
            history_cents: 0,
            open_cents: Vec::new(),
            supplied: BTreeMap::new(),
            stock_ytd: 0,
        }
    }

    fn add_district(&mut self, d: u32, tally: Tally) {
        self.districts += 1;
        self.digest = self.digest.rotate_left(5) ^ tally.digest;
        self.districts_ytd_cents += tally.ytd_cents;
        self.history_cents += tally.history_cents;
        self.open_cents.extend(tally.open_cents);
        for (condition, fault) in tally.faults {
            self.faults.entry(condition).or_insert(format!("district {d}: {fault}"));
        }
        for (w, quantity) in tally.supplied {
            *self.supplied.entry(w).or_default() += quantity;
        }
    }

    /// Conditions 1 and 8, of the warehouse as a whole.
    fn add_warehouse(&mut self, tally: WarehouseTally) {
        let WarehouseTally { ytd_cents, districts_ytd_cents, .. } = tally;
        self.is_complete = self.districts == DISTRICTS;
        self.digest = self.digest.rotate_left(5) ^ tally.digest;
        self.stock_ytd = tally.stock_ytd;
        if ytd_cents != districts_ytd_cents || ytd_cents != self.districts_ytd_cents {
            self.faults.insert(1, format!("W_YTD {ytd_cents}, sum(D_YTD) {districts_ytd_cents} cents"));
        }
        if ytd_cents != self.history_cents {
            self.faults.insert(8, format!("W_YTD {ytd_cents}, sum(H_AMOUNT) {} cents", self.history_cents));
        }
    }
}

impl Findings {
    pub fn add_district(&mut self, inspection: Inspection, check: DistrictCheck) {
        let d = check.d;
        self.replica(inspection, check.w).add_district(d, check.into_tally());
    }

    pub fn add_warehouse(&mut self, inspection: Inspection, check: WarehouseCheck) {
        self.replica(inspection, check.w).add_warehouse(check.tally());
    }

    fn replica(&mut self, inspection: Inspection, w: u32) -> &mut Replica {
        self.replicas.entry((inspection.node, w)).or_insert_with(|| Replica::new(inspection.role))
    }

    pub fn verdicts(plan: &Plan, cores: &[Findings]) -> Verdicts {
        let all: Vec<(NodeId, u32, &Replica)> = cores
            .iter()
            .flat_map(|core| &core.replicas)
            .map(|((node, w), replica)| (*node, *w, replica))
            .collect();
        let unseen = unseen_leaders(plan, &all);
        let mut verdicts = Verdicts::new();
        for condition in 1..=CONDITIONS {
            let fault = all.iter().find_map(|(node, w, replica)| {
                let what = replica.faults.get(&condition)?;
                Some(format!("warehouse {w} on node {} ({:?}): {what}", node.0, replica.role))
            });
            let fault = fault.or_else(|| (condition == 10).then(|| open_payment(&all)).flatten());
            verdicts.insert(format!("consistency_{condition}"), fault.or_else(|| unseen.clone()));
        }
        verdicts.insert("replicas_agree".to_string(), disagreement(plan, &all).or_else(|| unseen.clone()));
        verdicts.insert("stock_ytd".to_string(), lost_supply(&all).or(unseen));
        verdicts
    }
}

/// JSON has no keys of two parts.
impl From<Vec<(u16, u32, Replica)>> for Findings {
    fn from(replicas: Vec<(u16, u32, Replica)>) -> Findings {
        let replicas = replicas.into_iter().map(|(node, w, replica)| ((NodeId(node), w), replica));
        Findings { replicas: replicas.collect() }
    }
}

impl From<Findings> for Vec<(u16, u32, Replica)> {
    fn from(findings: Findings) -> Vec<(u16, u32, Replica)> {
        findings.replicas.into_iter().map(|((node, w), replica)| (node.0, w, replica)).collect()
    }
}

fn leaders<'a>(all: &'a [(NodeId, u32, &Replica)]) -> impl Iterator<Item = (u32, &'a Replica)> {
    let leaders = all.iter().filter(|(_, _, replica)| replica.role == Role::Leader);
    leaders.map(|(_, w, replica)| (*w, *replica))
}

fn unseen_leaders(plan: &Plan, all: &[(NodeId, u32, &Replica)]) -> Option<String> {
    let complete = leaders(all).filter(|(_, replica)| replica.is_complete);
    let seen: BTreeSet<u32> = complete.map(|(w, _)| w).collect();
    let missing = (1..=plan.warehouses).find(|w| !seen.contains(w))?;
    Some(format!("not checked: the leader's replica of warehouse {missing} was not read to the end"))
}

/// Clause 3.3.2.10 for customers who paid at several warehouses.
fn open_payment(all: &[(NodeId, u32, &Replica)]) -> Option<String> {
    let mut open = BTreeMap::<CustomerName, i64>::new();
    for (name, cents) in leaders(all).flat_map(|(_, replica)| &replica.open_cents) {
        *open.entry(*name).or_default() += cents;
    }
    let ((w, d, c), cents) = open.into_iter().find(|(_, cents)| *cents != 0)?;
    Some(format!("customer {c} of district {d} of warehouse {w}: C_BALANCE is off by {cents} cents"))
}

/// Beyond the standard: every line took its goods from the stock of the warehouse that supplied it, in whatever
/// shard that is. A New-Order that took effect in one shard and not in the other shows here.
fn lost_supply(all: &[(NodeId, u32, &Replica)]) -> Option<String> {
    let mut ordered = BTreeMap::<u32, u64>::new();
    for (w, quantity) in leaders(all).flat_map(|(_, replica)| &replica.supplied) {
        *ordered.entry(*w).or_default() += quantity;
    }
    leaders(all).find_map(|(w, replica)| {
        let ordered = ordered.get(&w).copied().unwrap_or(0);
        let stock_ytd = replica.stock_ytd;
        (ordered != stock_ytd).then(|| format!("warehouse {w}: sum(S_YTD) {stock_ytd}, ordered {ordered}"))
    })
}

fn disagreement(plan: &Plan, all: &[(NodeId, u32, &Replica)]) -> Option<String> {
    (1..=plan.warehouses).find_map(|w| {
        let seen = all.iter().filter(|(_, of, replica)| *of == w && replica.is_complete);
        let digests: Vec<(NodeId, u64)> = seen.map(|(node, _, replica)| (*node, replica.digest)).collect();
        let expected = plan.replicas_of[w as usize];
        if digests.len() != expected {
            return Some(format!(
                "warehouse {w}: {} of {expected} replicas were read to the end",
                digests.len()
            ));
        }
        let (first, digest) = digests[0];
        let (other, _) = digests.iter().find(|(_, other)| *other != digest)?;
        Some(format!("warehouse {w}: nodes {} and {} hold different rows", first.0, other.0))
    })
}

/// Clauses 3.3.2.1 to 3.3.2.12.
const CONDITIONS: u32 = 12;
