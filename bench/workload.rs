//! What a workload is to the driver: rows to load, transactions to draw, and replicas to inspect.
//!
//! One value of it lives on each core; what the cores found is judged together when the cluster has stopped. It submits nothing and measures nothing: `driver` does.
#![forbid(unsafe_code)]

use mako::txn::Procedure;
use mako::types::{NodeId, PartitionId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub trait Workload: Send + Sized + 'static {
    type Procedure: Procedure + Send;
    /// What a core tells of what it has inspected; the core may be in another process.
    type Findings: Serialize + DeserializeOwned + Send;

    /// Names of the transaction types; `Drawn::kind` is an index into it.
    const KINDS: &'static [&'static str];

    /// How many transactions fill `partition`.
    fn load_steps(&self, partition: PartitionId) -> u32;

    /// One of them. The same step is the same rows, whoever asks and however often.
    fn load(&self, partition: PartitionId, step: u32) -> Self::Procedure;

    /// Whether a partition holds anything to work on.
    fn serves(&self, _home: PartitionId) -> bool {
        true
    }

    /// The next transaction of a client at `home`, a partition that is served.
    fn draw(&mut self, home: PartitionId) -> Drawn<Self::Procedure>;

    /// A transaction of this kind became durable, measured or not.
    fn on_durable(&mut self, _kind: usize) {}

    /// A look at the snapshot while transactions run. `None`: this workload has no such thing.
    fn audit(&mut self, _inspection: Inspection) -> Option<Self::Procedure> {
        None
    }

    /// The `index`-th look at a replica after the run; `None` when there is no further one.
    fn check(&mut self, inspection: Inspection, index: u32) -> Option<Self::Procedure>;

    /// What an audit or a check saw. When it has more to read, it is given back, to be run again.
    fn on_inspected(&mut self, inspection: Inspection, procedure: Self::Procedure)
    -> Option<Self::Procedure>;

    /// What this core found, to be judged with what the others have.
    fn findings(&self) -> Self::Findings;

    /// Judges what all cores found. Asked of any value of the same plan.
    fn verdicts(&self, found: &[Self::Findings]) -> Verdicts;

    /// Figures of this workload alone, for the report.
    fn figures(_found: &[Self::Findings]) -> Map<String, Value> {
        Map::new()
    }
}

/// A transaction with all its parameters.
pub struct Drawn<P> {
    pub kind: usize,
    pub procedure: P,
}

/// Which replica is looked at, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inspection {
    pub stage: Stage,
    pub node: NodeId,
    pub home: PartitionId,
    pub role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// While transactions run.
    Audit,
    /// After the last of them.
    Check,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    Leader,
    Follower,
}

/// Name of a check → `None` when it holds, else why not.
pub type Verdicts = BTreeMap<String, Option<String>>;
