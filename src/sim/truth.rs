//! What an onlooker who sees every replica knows: which slots a majority holds, how far every shard has
//! really got, and so which transactions are really safe.
//!
//! Checked as it happens:
//!   1. One value per slot, whoever learns it.
//!   2. No entry at or below an earlier promise of its stream and epoch, and promises never fall.
//!   3. No watermark is believed above what is really replicated.
//!   4. No durable reply before the transaction and all it read from are really durable everywhere.
#![forbid(unsafe_code)]

use super::history::{TxnIndex, WriteId};
use crate::config::{Config, Durability};
use crate::partition::{Core, Replica};
use crate::paxos::Stream;
use crate::txn::Procedure;
use crate::types::{Epoch, NodeId, PartitionId, ShardId, Slot, Timestamp, Watermark};
use crate::wire::BatchView;
use hashbrown::HashMap;
use std::rc::Rc;

pub struct Truth {
    config: Rc<Config>,
    streams: Vec<StreamTruth>,
    txns: Vec<TxnTruth>,
    writers: HashMap<WriteId, TxnIndex, foldhash::fast::FixedState>,
    /// By core: the vector last seen there.
    vectors: HashMap<(NodeId, u16), Vec<Watermark>, foldhash::fast::FixedState>,
    /// Timestamps of slots checked: for the report.
    pub slots: u64,
}

struct StreamTruth {
    /// The value of every slot anybody has learned.
    chosen: Vec<Rc<[u8]>>,
    /// Epoch and promise behind each slot of `chosen`.
    promises: Vec<Watermark>,
    /// By slot: which replicas hold it, as durably as the mode demands, one bit each.
    held: Vec<u8>,
    /// Every slot below is held so by a majority.
    majority_end: usize,
    /// By replica: every slot below has been compared.
    compared: Vec<u64>,
    /// By replica: its own log holds every slot below.
    logged: Vec<u64>,
}

struct TxnTruth {
    timestamp: Timestamp,
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
            StreamTruth {
                chosen: Vec::new(),
                promises: Vec::new(),
                held: Vec::new(),
                majority_end: 0,
                compared: vec![0; replicas],
                logged: vec![0; replicas],
            }
        };
        Truth {
            streams: (0..config.partition_count() as u16).map(stream).collect(),
            config: config.clone(),
            txns: Vec::new(),
            writers: HashMap::default(),
            vectors: HashMap::default(),
            slots: 0,
        }
    }

    pub fn begin(&mut self, index: TxnIndex, shards: Vec<ShardId>, snapshot: bool) {
        assert_eq!(index.0 as usize, self.txns.len(), "transactions begin in order");
        let timestamp = Timestamp::default();
        self.txns.push(TxnTruth {
            timestamp,
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
        reads_from: Vec<WriteId>,
        written: &[WriteId],
    ) {
        let txn = &mut self.txns[index.0 as usize];
        (txn.timestamp, txn.reads_from, txn.wrote) = (timestamp, reads_from, !written.is_empty());
        self.writers.extend(written.iter().map(|id| (*id, index)));
    }

    /// Invariant 4: of a transaction that its client was just told is durable.
    pub fn check_durable(&mut self, index: TxnIndex) -> Result<(), String> {
        let mut pending = vec![index];
        while let Some(at) = pending.pop() {
            let txn = &self.txns[at.0 as usize];
            if txn.proven {
                continue;
            }
            for shard in txn.shards.iter().filter(|_| txn.wrote) {
                let really = self.watermark(*shard);
                if txn.timestamp > really.timestamp {
                    return Err(format!(
                        "{index} was called durable, but {at} at {:?} rests on {shard:?}, which a majority holds up to {:?} only",
                        txn.timestamp, really.timestamp
                    ));
                }
            }
            pending.extend(txn.reads_from.iter().filter_map(|id| self.writers.get(id)));
            self.txns[at.0 as usize].proven = true;
        }
        Ok(())
    }

    /// How far a shard has really got.
    fn watermark(&self, shard: ShardId) -> Watermark {
        let marks = self.config.partitions_of(shard).map(|partition| {
            let stream = &self.streams[usize::from(partition.0)];
            let mut end = stream.majority_end;
            if self.config.durability == Durability::LeaderDisk {
                end = end.min(stream.logged[0] as usize);
            }
            let end = end.min(stream.promises.len());
            if end == 0 { Watermark::default() } else { stream.promises[end - 1] }
        });
        marks.min().unwrap_or_default()
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
            let really = self.watermark(shard);
            if believed.timestamp > really.timestamp {
                return Err(format!(
                    "{node:?} believes {shard:?} to be at {believed:?}, but a majority holds it up to {really:?} only"
                ));
            }
        }
        Ok(())
    }

    fn observe_stream<P: Procedure>(&mut self, node: NodeId, replica: &Replica<P>) -> Result<(), String> {
        let partition = replica.id;
        let stream = &mut self.streams[usize::from(partition.0)];
        let replicas = self.config.replicas_of(partition);
        let Some(me) = replicas.iter().position(|replica| *replica == node) else { return Ok(()) };
        let seen = &replica.stream;
        stream.logged[me] = seen.persisted_end().0;
        stream.count_votes(me, replicas.len(), self.config.durability, seen);
        while stream.compared[me] < seen.chosen_end().0 {
            let slot = stream.compared[me];
            stream.compared[me] += 1;
            let Some((_, batch)) = seen.accepted(Slot(slot)) else {
                // Dropped within the turn that learned it: a shard of one replica keeps nothing.
                if stream.chosen.len() == slot as usize {
                    stream.chosen.push(Rc::from([]));
                    stream.promises.push(replica.applied());
                }
                continue;
            };
            match stream.chosen.get(slot as usize) {
                Some(known) if known == batch => {}
                Some(_) => return Err(format!("{partition:?} slot {slot}: two values were chosen")),
                None if stream.chosen.len() == slot as usize => {
                    self.slots += 1;
                    stream.learn(partition, batch)?;
                }
                None => return Err(format!("{partition:?} slot {slot} was learned before those below it")),
            }
        }
        // What a majority holds is as good as chosen, though nobody has learned it yet.
        while let Some((_, batch)) = seen.accepted(Slot(stream.promises.len() as u64)) {
            stream.promise(partition, batch)?;
        }
        Ok(())
    }
}

impl StreamTruth {
    /// Notes what one replica holds above what a majority does.
    fn count_votes(&mut self, me: usize, replicas: usize, durability: Durability, seen: &Stream) {
        let end = seen.next_slot().0 as usize;
        if self.held.len() < end {
            self.held.resize(end, 0);
        }
        for slot in self.majority_end..end {
            let at = Slot(slot as u64);
            let holds = match durability {
                Durability::QuorumDisk => seen.is_persisted(at),
                Durability::Memory | Durability::LeaderDisk => seen.accepted(at).is_some(),
            };
            if holds || at < seen.floor() {
                self.held[slot] |= 1 << me;
            }
        }
        let majority = replicas / 2 + 1;
        while self.held.get(self.majority_end).is_some_and(|bits| bits.count_ones() as usize >= majority) {
            self.majority_end += 1;
        }
    }

    fn learn(&mut self, partition: PartitionId, batch: &Rc<[u8]>) -> Result<(), String> {
        if self.promises.len() == self.chosen.len() {
            self.promise(partition, batch)?;
        }
        self.chosen.push(batch.clone());
        Ok(())
    }

    /// Notes the promise of the next slot. Epochs do not change yet, so its first value is its last.
    fn promise(&mut self, partition: PartitionId, batch: &[u8]) -> Result<(), String> {
        let slot = self.promises.len();
        let view = BatchView::parse(batch).map_err(|error| format!("{partition:?} slot {slot}: {error}"))?;
        let promised = Watermark { epoch: view.epoch(), timestamp: view.promise() };
        let before = self.promises.last().copied().unwrap_or_default();
        if promised.epoch == before.epoch && promised < before {
            return Err(format!(
                "{partition:?} slot {slot}: the promise fell from {before:?} to {promised:?}"
            ));
        }
        let broken = |entry: &crate::wire::EntryView<'_>| {
            before.epoch == promised.epoch && before.epoch != Epoch(0) && entry.timestamp <= before.timestamp
        };
        if let Some(entry) = view.entries().find(broken) {
            return Err(format!(
                "{partition:?} slot {slot}: an entry at {:?} after the promise of {before:?}",
                entry.timestamp
            ));
        }
        self.promises.push(promised);
        Ok(())
    }
}
