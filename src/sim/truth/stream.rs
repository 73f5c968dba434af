//! What an onlooker knows of one stream: every vote, hence what is chosen, hence how far each epoch got.
//!
//! Independent of the code it judges: it counts votes by ballot and walks runs in its own way.
//!
//! Invariants it checks:
//!   1. One value per slot; nothing is learned that a majority has not accepted under one ballot.
//!   2. No promise is taken back, and none is counted before it is on disk.
//!   3. What a replica knows for good to be chosen it knows again after a restart; and one that has forgotten what it
//!      accepted votes again only once it has got back all it accepted from
//!      the leader it follows.
//!   4. Within the unbroken run of an epoch, no entry stands at or below an earlier promise, and promises
//!      never fall.
#![forbid(unsafe_code)]

use crate::config::Durability;
use crate::partition::Replica;
use crate::paxos::Role;
use crate::txn::Procedure;
use crate::types::{Ballot, Epoch, PartitionId, Slot, Timestamp, Watermark};
use crate::wire::{BatchKind, BatchView, EntryView};
use std::collections::BTreeMap;
use std::rc::Rc;

pub struct StreamTruth {
    partition: PartitionId,
    replicas: usize,
    durability: Durability,
    slots: Vec<SlotTruth>,
    /// Every slot below is chosen and was looked at.
    pub chosen_end: usize,
    /// By replica: every slot below has been compared.
    compared: Vec<u64>,
    /// By replica: its own log held every slot below at some time.
    logged: Vec<u64>,
    /// By replica: the highest promise that its log ever held. Monotone.
    promised: Vec<Ballot>,
    /// By replica: the highest ballot under which it accepted anything, and one above the highest slot of that.
    accepted: Vec<(Ballot, u64)>,
    /// By replica: every slot below it knew for good to be chosen.
    known: Vec<Slot>,
    /// By replica: it did not vote when it was last looked at.
    forgetful: Vec<bool>,
    /// By replica: it knew all that it had promised when it was last looked at.
    informed: Vec<bool>,
    /// The highest ballot that was seen to lead. Monotone.
    led: Ballot,
    /// Whose run the last slot looked at belongs to.
    current: Option<Epoch>,
    /// Of each epoch's run: the slots and their promises, ascending.
    runs: BTreeMap<Epoch, Vec<(usize, Timestamp)>>,
    /// Final watermarks that the stream tells.
    pub facts: BTreeMap<Epoch, Timestamp>,
    /// Epochs whose facts it tells, in the order in which it does.
    pub opened: Vec<Epoch>,
}

#[derive(Default)]
struct SlotTruth {
    /// Who accepted it, a bit each, by ballot.
    votes: Vec<(Ballot, u8, Rc<[u8]>)>,
    chosen: Option<Rc<[u8]>>,
}

impl StreamTruth {
    pub fn new(partition: PartitionId, replicas: usize, durability: Durability) -> StreamTruth {
        StreamTruth {
            partition,
            replicas,
            durability,
            slots: Vec::new(),
            chosen_end: 0,
            compared: vec![0; replicas],
            logged: vec![0; replicas],
            promised: vec![Ballot::default(); replicas],
            accepted: vec![Default::default(); replicas],
            known: vec![Slot(0); replicas],
            forgetful: vec![false; replicas],
            informed: vec![true; replicas],
            led: Ballot::default(),
            current: None,
            runs: BTreeMap::new(),
            facts: BTreeMap::new(),
            opened: Vec::new(),
        }
    }

    /// The replica has restarted: what it learns it may learn again.
    pub fn forget(&mut self, me: usize) {
        self.compared[me] = 0;
    }

    pub fn observe<P: Procedure>(&mut self, me: usize, seen: &Replica<P>) -> Result<(), String> {
        self.logged[me] = self.logged[me].max(seen.stream.persisted_end().0);
        self.check_promises(me, seen).map_err(|why| format!("{:?}: {why}", self.partition))?;
        self.check_return(me, seen).map_err(|why| format!("{:?}: {why}", self.partition))?;
        self.count_votes(me, seen)?;
        self.compare(me, seen)?;
        while self.slots.get(self.chosen_end).is_some_and(|slot| slot.chosen.is_some()) {
            self.look_at_next(seen)?;
        }
        Ok(())
    }

    /// How far an epoch has really got here. Where a leader's own log counts, it may be that of a later
    /// leader, who has recovered what is claimed.
    pub fn reached(&self, epoch: Epoch) -> Timestamp {
        let Some(run) = self.runs.get(&epoch) else { return Timestamp::default() };
        let end = match self.durability {
            Durability::LeaderDisk => self.logged.iter().max().map_or(0, |end| *end as usize),
            Durability::Memory | Durability::QuorumDisk => usize::MAX,
        };
        let within = run.partition_point(|(slot, _)| *slot < end);
        run[..within].last().map(|(_, promise)| *promise).unwrap_or_default()
    }

    /// The seal of the epoch is chosen, and in its place.
    pub fn is_sealed_by(&self, epoch: Epoch) -> bool {
        self.runs.contains_key(&epoch)
    }

    pub fn epochs(&self) -> impl Iterator<Item = Epoch> + '_ {
        self.runs.keys().copied()
    }

    fn check_promises<P: Procedure>(&mut self, me: usize, seen: &Replica<P>) -> Result<(), String> {
        let (now, before) = (seen.stream.promised(), self.promised[me]);
        // One that has lost its disk is told what it promised to others. Of an attempt of its own that nobody has
        // heard of nobody need know.
        let forgot = !std::mem::replace(&mut self.informed[me], seen.knows_its_promise());
        if !self.informed[me] {
            return Ok(());
        }
        let unheard = forgot && before.node == seen.node();
        if now < before && !unheard {
            return Err(format!("replica {me} has promised {before:?} on disk, and knows of {now:?} only"));
        }
        self.promised[me] = (if unheard { now } else { before }).max(seen.stream.promised_durably());
        let ballot = seen.stream.leader();
        if seen.stream.role() == Role::Leader && ballot > self.led {
            self.led = ballot;
            let votes = self.promised.iter().filter(|promised| **promised >= ballot).count();
            if 2 * votes <= self.replicas {
                return Err(format!("{ballot:?} leads on {votes} promises that are on disk"));
            }
        }
        Ok(())
    }

    fn check_return<P: Procedure>(&mut self, me: usize, seen: &Replica<P>) -> Result<(), String> {
        let stream = &seen.stream;
        let (known, end) = (self.known[me], stream.chosen_end());
        let counts = self.durability == Durability::QuorumDisk && !seen.is_forgetful();
        if counts && end < known {
            return Err(format!(
                "replica {me} knew slots to be chosen up to {known:?}, and now up to {end:?}"
            ));
        }
        // One that has lost its disk holds again, when it votes, all that its leader had proposed; which of that is
        // chosen it has yet to be told.
        self.known[me] = if seen.is_forgetful() { Slot(0) } else { known.max(stream.known_for_good()) };
        let was_forgetful = std::mem::replace(&mut self.forgetful[me], seen.is_forgetful());
        let (ballot, end) = self.accepted[me];
        if was_forgetful && !seen.is_forgetful() && stream.leader() == ballot {
            let held = |slot: &u64| stream.accepted(Slot(*slot)).is_some_and(|(under, _)| under == ballot);
            if let Some(lost) = (stream.chosen_end().0..end).find(|slot| !held(slot)) {
                return Err(format!(
                    "replica {me} votes again, and has accepted slot {lost} under {ballot:?}"
                ));
            }
        }
        Ok(())
    }

    fn count_votes<P: Procedure>(&mut self, me: usize, seen: &Replica<P>) -> Result<(), String> {
        if seen.is_forgetful() {
            return Ok(());
        }
        let end = seen.stream.next_slot().0 as usize;
        if self.slots.len() < end {
            self.slots.resize_with(end, SlotTruth::default);
        }
        for at in self.chosen_end..end {
            let slot = Slot(at as u64);
            let counts = self.durability != Durability::QuorumDisk || seen.stream.is_persisted(slot);
            let Some((ballot, batch)) = seen.stream.accepted(slot).filter(|_| counts) else { continue };
            let last = &mut self.accepted[me];
            *last = (*last).max((ballot, slot.0 + 1));
            self.slots[at]
                .vote(me, ballot, batch, self.replicas / 2 + 1)
                .map_err(|why| format!("{:?} slot {at}: {why}", self.partition))?;
        }
        Ok(())
    }

    /// What a replica has learned must be what is chosen.
    fn compare<P: Procedure>(&mut self, me: usize, seen: &Replica<P>) -> Result<(), String> {
        let stream = &seen.stream;
        self.compared[me] = self.compared[me].max(stream.floor().0.min(stream.chosen_end().0));
        while self.compared[me] < stream.chosen_end().0 {
            let at = self.compared[me];
            self.compared[me] += 1;
            let Some((_, batch)) = stream.accepted(Slot(at)) else { continue };
            let known = self.slots.get(at as usize).and_then(|slot| slot.chosen.as_ref());
            let partition = self.partition;
            match known {
                Some(known) if known == batch => {}
                Some(_) => return Err(format!("{partition:?} slot {at}: two values were chosen")),
                None => return Err(format!("{partition:?} slot {at} was learned before a majority had it")),
            }
        }
        // A shard of one replica drops a slot in the turn that learns it, before anybody can look.
        if self.replicas == 1 {
            let applied = seen.applied();
            while self.chosen_end < stream.floor().0 as usize {
                let slot = self.chosen_end;
                self.slots.resize_with(self.slots.len().max(slot + 1), SlotTruth::default);
                if self.slots[slot].chosen.is_some() {
                    break;
                }
                self.chosen_end += 1;
                self.current = Some(applied.epoch);
                self.runs.entry(applied.epoch).or_default().push((slot, applied.timestamp));
            }
        }
        Ok(())
    }

    fn look_at_next<P: Procedure>(&mut self, _: &Replica<P>) -> Result<(), String> {
        let (partition, slot) = (self.partition, self.chosen_end);
        let batch = self.slots[slot].chosen.clone().expect("the caller has looked");
        self.slots[slot].votes = Vec::new();
        self.chosen_end += 1;
        let view = BatchView::parse(&batch).map_err(|error| format!("{partition:?} slot {slot}: {error}"))?;
        let promised = Watermark { epoch: view.epoch(), timestamp: view.promise() };
        if view.kind() == BatchKind::Facts {
            self.opened.push(view.epoch());
        }
        for (epoch, end) in view.facts() {
            if *self.facts.entry(epoch).or_insert(end) != end {
                return Err(format!("{partition:?} slot {slot}: {epoch:?} closed at two timestamps"));
            }
        }
        if view.kind() != BatchKind::Seal && self.current != Some(promised.epoch) {
            self.current = None;
            return Ok(());
        }
        self.current = Some(promised.epoch);
        let run = self.runs.entry(promised.epoch).or_default();
        let before = run.last().map(|(_, promise)| *promise).unwrap_or_default();
        if promised.timestamp < before {
            return Err(format!(
                "{partition:?} slot {slot}: the promise fell from {before:?} to {promised:?}"
            ));
        }
        let broken = |entry: &EntryView<'_>| entry.timestamp <= before;
        if let Some(entry) = view.entries().find(broken) {
            let at = entry.timestamp;
            return Err(format!(
                "{partition:?} slot {slot}: an entry at {at:?} after the promise of {before:?}"
            ));
        }
        run.push((slot, promised.timestamp));
        Ok(())
    }
}

impl SlotTruth {
    fn vote(
        &mut self,
        me: usize,
        ballot: Ballot,
        batch: &Rc<[u8]>,
        majority: usize,
    ) -> Result<(), &'static str> {
        let at = match self.votes.iter().position(|(known, ..)| *known == ballot) {
            Some(at) => at,
            None => {
                self.votes.push((ballot, 0, batch.clone()));
                self.votes.len() - 1
            }
        };
        let (_, voters, value) = &mut self.votes[at];
        if value != batch {
            return Err("two values under one ballot");
        }
        *voters |= 1 << me;
        if voters.count_ones() as usize >= majority {
            let value = value.clone();
            if self.chosen.get_or_insert(value.clone()) != &value {
                return Err("two values were chosen");
            }
        }
        Ok(())
    }
}
