//! What an onlooker who sees every replica knows: which slots a majority holds, how far every shard has
//! really got, and so which transactions are really safe.
//!
//! Checked as it happens, beside what `stream` checks of each stream:
//!   1. No watermark falls, and none is believed above what is really replicated, or above where its epoch
//!      ended.
//!   2. No durable reply before the transaction and all it read from are really durable everywhere.
//!   3. How the epochs before ended is chosen only when the seals of every stream are, and an epoch opens only when that
//!      is chosen.
//!   4. Of the epochs of a shard that are not closed, one at most acknowledges transactions; and none beyond where
//!      it ended.
#![forbid(unsafe_code)]

mod stream;

use super::history::{TxnIndex, WriteId};
use crate::config::Config;
use crate::partition::{Core, Replica};
use crate::txn::Procedure;
use crate::types::{Epoch, NodeId, PartitionId, ShardId, Stamp, Timestamp, Watermark};
use hashbrown::HashMap;
use std::rc::Rc;
use stream::StreamTruth;

pub struct Truth {
    config: Rc<Config>,
    streams: Vec<StreamTruth>,
    txns: Vec<TxnTruth>,
    writers: HashMap<WriteId, TxnIndex, foldhash::fast::FixedState>,
    /// By core: the vector last seen there.
    vectors: HashMap<(NodeId, u16), Vec<Watermark>, foldhash::fast::FixedState>,
    /// By shard: the highest epoch in which a transaction of its partitions was acknowledged. Monotone.
    acknowledging: Vec<Epoch>,
    /// Timestamps of slots checked: for the report.
    pub slots: u64,
}

struct TxnTruth {
    timestamp: Timestamp,
    /// The reign of its home partition that executed it, if it did more than read.
    executed_in: Option<Stamp>,
    shards: Vec<ShardId>,
    reads_from: Vec<WriteId>,
    wrote: bool,
    snapshot: bool,
    proven: bool,
}

impl Truth {
    pub fn new(config: &Rc<Config>) -> Truth {
        let stream = |partition| {
            let replicas = config.replicas_of(PartitionId(partition)).len();
            StreamTruth::new(PartitionId(partition), replicas, config.durability)
        };
        Truth {
            streams: (0..config.partition_count() as u16).map(stream).collect(),
            config: config.clone(),
            txns: Vec::new(),
            writers: HashMap::default(),
            vectors: HashMap::default(),
            acknowledging: vec![Epoch::default(); config.shards.len()],
            slots: 0,
        }
    }

    pub fn begin(&mut self, index: TxnIndex, shards: Vec<ShardId>, snapshot: bool) {
        assert_eq!(index.0 as usize, self.txns.len(), "transactions begin in order");
        let timestamp = Timestamp::default();
        self.txns.push(TxnTruth {
            timestamp,
            executed_in: None,
            shards,
            reads_from: Vec::new(),
            wrote: false,
            snapshot,
            proven: false,
        });
    }

    pub fn is_snapshot(&self, index: TxnIndex) -> bool {
        self.txns[index.0 as usize].snapshot
    }

    pub fn speculative(
        &mut self,
        index: TxnIndex,
        timestamp: Timestamp,
        executed_in: Option<Stamp>,
        reads_from: Vec<WriteId>,
        written: &[WriteId],
    ) {
        let txn = &mut self.txns[index.0 as usize];
        txn.executed_in = executed_in.filter(|_| !written.is_empty());
        (txn.timestamp, txn.reads_from, txn.wrote) = (timestamp, reads_from, !written.is_empty());
        self.writers.extend(written.iter().map(|id| (*id, index)));
    }

    /// Invariant 3: of an epoch in which transactions are taken from now on.
    pub fn check_opening(&self, stamp: Stamp) -> Result<(), String> {
        // A replica that is alone drops slots before anybody can look.
        let alone = self.config.shards[usize::from(stamp.shard.0)].replicas.len() == 1;
        match alone || self.first_stream(stamp.shard).opened.contains(&stamp.epoch) {
            true => Ok(()),
            false => Err(format!("{stamp:?} opens before its facts are chosen")),
        }
    }

    /// Invariants 2 and 4: of a transaction that its client was just told is durable.
    pub fn check_durable(&mut self, index: TxnIndex) -> Result<(), String> {
        self.check_reign(index)?;
        let mut pending = vec![index];
        while let Some(at) = pending.pop() {
            let txn = &self.txns[at.0 as usize];
            if txn.proven {
                continue;
            }
            for shard in txn.shards.iter().filter(|_| txn.wrote) {
                let really = self.farthest(*shard);
                if txn.timestamp > really {
                    return Err(format!(
                        "{index} was called durable, but {at} at {:?} rests on {shard:?}, which a majority holds up to {really:?} only",
                        txn.timestamp
                    ));
                }
            }
            pending.extend(txn.reads_from.iter().filter_map(|id| self.writers.get(id)));
            self.txns[at.0 as usize].proven = true;
        }
        Ok(())
    }

    fn check_reign(&mut self, index: TxnIndex) -> Result<(), String> {
        let TxnTruth { timestamp, executed_in, .. } = self.txns[index.0 as usize];
        let Some(Stamp { shard, epoch }) = executed_in else { return Ok(()) };
        let closed = self.first_stream(shard).facts.get(&epoch).copied();
        let newest = &mut self.acknowledging[usize::from(shard.0)];
        let what = format!("{index} at {timestamp:?} was called durable in {epoch:?} of {shard:?}");
        match closed {
            Some(end) if timestamp > end => Err(format!("{what}, which closed at {end:?}")),
            None if *newest > epoch => {
                Err(format!("{what}, and {newest:?} has acknowledged before it closed"))
            }
            _ => {
                *newest = epoch.max(*newest);
                Ok(())
            }
        }
    }

    /// How far an epoch of a shard has really got.
    fn reached(&self, shard: ShardId, epoch: Epoch) -> Timestamp {
        let streams =
            self.config.partitions_of(shard).map(|partition| &self.streams[usize::from(partition.0)]);
        streams.map(|stream| stream.reached(epoch)).min().unwrap_or_default()
    }

    /// The highest timestamp that any epoch of a shard has really got to.
    fn farthest(&self, shard: ShardId) -> Timestamp {
        let first = self.first_stream(shard);
        let reached = first.epochs().map(|epoch| self.reached(shard, epoch));
        // What a change of leader found replicated is safe, whatever the disk of the old leader held.
        reached.chain(first.facts.values().copied()).max().unwrap_or_default()
    }

    /// The one that holds the facts.
    fn first_stream(&self, shard: ShardId) -> &StreamTruth {
        let first = self.config.partitions_of(shard).next().expect("a shard has a partition");
        &self.streams[usize::from(first.0)]
    }

    /// Epochs that opened, all shards together.
    pub fn reigns(&self) -> u64 {
        self.streams.iter().map(|stream| stream.opened.len() as u64).sum()
    }

    /// The node has restarted and knows nothing of what it knew.
    pub fn forget(&mut self, node: NodeId) {
        self.vectors.retain(|(known, _), _| *known != node);
        for partition in (0..self.config.partition_count() as u16).map(PartitionId) {
            let replicas = self.config.replicas_of(partition);
            if let Some(me) = replicas.iter().position(|replica| *replica == node) {
                self.streams[usize::from(partition.0)].forget(me);
            }
        }
    }

    /// Looks at a core after one of its turns.
    pub fn observe<P: Procedure>(&mut self, node: NodeId, core: u16, state: &Core<P>) -> Result<(), String> {
        for replica in state.replicas() {
            self.observe_stream(node, replica)?;
        }
        let known = state.knowledge().vector();
        let shards = self.config.shards.len() as u16;
        let seen: Vec<Watermark> = (0..shards).map(|shard| known.get(ShardId(shard))).collect();
        let before =
            self.vectors.entry((node, core)).or_insert_with(|| vec![Watermark::default(); seen.len()]);
        if *before == seen {
            return Ok(());
        }
        if let Some((old, new)) = before.iter().zip(&seen).find(|(old, new)| new < old) {
            return Err(format!("{node:?} took a watermark back, from {old:?} to {new:?}"));
        }
        before.clone_from(&seen);
        for (shard, believed) in (0..shards).map(ShardId).zip(&seen) {
            let really = self.reached(shard, believed.epoch);
            if believed.timestamp > really {
                return Err(format!(
                    "{node:?} believes {shard:?} to be at {believed:?}, but a majority holds it up to {really:?} only"
                ));
            }
            if let Some(end) = self.first_stream(shard).facts.get(&believed.epoch)
                && believed.timestamp > *end
            {
                return Err(format!(
                    "{node:?} believes {shard:?} to be at {believed:?}, which closed at {end:?}"
                ));
            }
        }
        Ok(())
    }

    fn observe_stream<P: Procedure>(&mut self, node: NodeId, replica: &Replica<P>) -> Result<(), String> {
        let replicas = self.config.replicas_of(replica.id);
        let Some(me) = replicas.iter().position(|replica| *replica == node) else { return Ok(()) };
        let stream = &mut self.streams[usize::from(replica.id.0)];
        let (before, opened) = (stream.chosen_end, stream.opened.len());
        stream.observe(me, replica)?;
        self.slots += (stream.chosen_end - before) as u64;
        let stream = &self.streams[usize::from(replica.id.0)];
        for epoch in stream.opened[opened..].iter().filter(|_| replicas.len() > 1) {
            let mut shard = self.config.partitions_of(replica.shard);
            if let Some(open) = shard.find(|other| !self.streams[usize::from(other.0)].is_sealed_by(*epoch)) {
                return Err(format!("the facts of {epoch:?} are chosen, and its seal of {open:?} is not"));
            }
        }
        Ok(())
    }
}
