//! Strict serializability: the committed transactions and what orders them, and a cycle if there is one.
//!
//! Four kinds of edge (Adya): `ww`, one overwrote what the other wrote; `wr`, one saw what the other
//! wrote; `rw`, one missed what the other wrote; `rt`, one was answered before the other began. Without a
//! cycle the edges extend to an order of all, which is an execution one by one in real time.
//!
//! Real time would need an edge for every pair. Instead it is a chain of relay nodes: an answer leads to
//! the next relay, a relay to the next and to the transactions that begin after it.
//!
//! A read of absence does not say which of several absences it saw: before the first write, or after one
//! of the deletions. Where timestamps do not tell (read-only transactions), only what holds for every
//! absence it may have seen is demanded, so that no offence is invented.
#![forbid(unsafe_code)]

use super::graph::{Edge, Graph};
use super::history::{KeyId, Moment, TxnIndex};
use super::observed::{Observed, Seen};
use super::versions::{Fate, Versions};
use super::violation::{Kind, Violation};

/// Checks what `observed` leaves open; returns the number of edges.
pub(super) fn check(versions: &Versions, observed: &[Observed]) -> Result<usize, Violation> {
    let mut order = Order {
        versions,
        observed,
        edges: Vec::with_capacity(2 * observed.len() + 4 * versions.history.len()),
        reasons: Vec::new(),
        nodes: versions.history.len() as u32,
    };
    order.add_overwrites();
    order.add_reads();
    let timeless = order.edges.len();
    order.add_real_time();
    let Some(cycle) = order.shortest_cycle(order.edges.len()) else { return Ok(order.edges.len()) };
    // A cycle that needs no clock says more, even when it is longer.
    let cycle = order.shortest_cycle(timeless).unwrap_or(cycle);
    Err(order.explain(&cycle))
}

struct Order<'a> {
    versions: &'a Versions<'a>,
    observed: &'a [Observed],
    /// Node `n` is transaction `n`; those beyond are relays of the chain of time.
    edges: Vec<Edge>,
    reasons: Vec<Reason>,
    nodes: u32,
}

/// Why there is an edge. `version` is a place in the version order, `read` one among the observed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Overwrote { version: u32 },
    Saw { read: u32 },
    Missed { read: u32, version: u32 },
    Time,
}

impl Order<'_> {
    fn shortest_cycle(&self, edges: usize) -> Option<Vec<u32>> {
        let transactions = self.versions.history.len() as u32;
        Graph::new(self.nodes, transactions, &self.edges[..edges]).shortest_cycle()
    }

    fn add(&mut self, from: TxnIndex, to: TxnIndex, reason: Reason) {
        if from != to {
            self.edges.push(Edge { from: from.0, to: to.0 });
            self.reasons.push(reason);
        }
    }

    fn add_time(&mut self, from: u32, to: u32) {
        self.edges.push(Edge { from, to });
        self.reasons.push(Reason::Time);
    }

    fn add_overwrites(&mut self) {
        for version in self.versions.all() {
            if let Some(next) = self.versions.next(version) {
                let (older, newer) = (self.versions.get(version).txn, self.versions.get(next).txn);
                self.add(older, newer, Reason::Overwrote { version: next });
            }
        }
    }

    fn add_reads(&mut self) {
        for (read, Observed { txn, key, seen }) in self.observed.iter().enumerate() {
            if self.versions.fate(*txn) != Fate::Committed {
                continue;
            }
            let read = read as u32;
            let (after, before) = match *seen {
                Seen::Unplaced(writer) => {
                    self.add(writer, *txn, Reason::Saw { read });
                    continue;
                }
                Seen::Version(version) => (Some(version), self.versions.next(version)),
                Seen::Absent => self.absence(*txn, *key),
            };
            if let Some(version) = after {
                self.add(self.versions.get(version).txn, *txn, Reason::Saw { read });
            }
            if let Some(version) = before {
                self.add(*txn, self.versions.get(version).txn, Reason::Missed { read, version });
            }
        }
    }

    /// The versions a reader that found `key` absent must come after and before.
    fn absence(&self, reader: TxnIndex, key: KeyId) -> (Option<u32>, Option<u32>) {
        if self.versions.is_doubtful(key) {
            return (None, None);
        }
        // A writer's timestamp tells which absence it saw; when it tells of none, the edges will, or
        // failing that `snapshots`.
        if self.versions.history.is_writer(reader)
            && let Some(timestamp) = self.versions.timestamp(reader)
        {
            let below = self.versions.below(key, timestamp);
            if below.is_none_or(|version| self.versions.get(version).deleted) {
                return self.absence_around(key, below);
            }
        }
        let mut absences =
            self.absences(key).filter(|(after, before)| self.is_timely(reader, *after, *before));
        match absences.next() {
            Some(first) => (first.0, absences.last().map_or(first.1, |last| last.1)),
            // It missed something it could not have missed: the last it may have seen shows it.
            None => self
                .absences(key)
                .filter(|(after, _)| self.is_timely(reader, *after, None))
                .last()
                .unwrap_or((None, None)),
        }
    }

    /// The absence that the deletion `below`, or nothing at all, is part of. Deletions one after the
    /// other are one absence: a reader cannot tell them apart.
    fn absence_around(&self, key: KeyId, below: Option<u32>) -> (Option<u32>, Option<u32>) {
        let of = self.versions.of(key);
        let live = |version: &u32| !self.versions.get(*version).deleted;
        let behind = below.map_or(of.start, |version| version + 1);
        let before = (behind..of.end).find(live);
        let after = (of.start..behind).rev().find(live).map(|version| version + 1);
        (after, before)
    }

    /// Every absence of `key`, oldest first: the deletion that began it and the write that ended it.
    fn absences(&self, key: KeyId) -> impl Iterator<Item = (Option<u32>, Option<u32>)> {
        let of = self.versions.of(key);
        let begins = of.clone().filter(move |version| {
            self.versions.get(*version).deleted
                && *version > of.start
                && !self.versions.get(*version - 1).deleted
        });
        let deletions = begins.map(Some);
        std::iter::once(None).chain(deletions).map(move |below| self.absence_around(key, below))
    }

    /// Whether real time lets `reader` come after the one version and before the other.
    fn is_timely(&self, reader: TxnIndex, after: Option<u32>, before: Option<u32>) -> bool {
        let history = self.versions.history;
        let precedes = |a: TxnIndex, b: TxnIndex| {
            history.txn(a).replied.is_some_and(|replied| replied < history.txn(b).begun)
        };
        !after.is_some_and(|version| precedes(reader, self.versions.get(version).txn))
            && !before.is_some_and(|version| precedes(self.versions.get(version).txn, reader))
    }

    fn add_real_time(&mut self) {
        let history = self.versions.history;
        let committed = |txn: &TxnIndex| self.versions.fate(*txn) == Fate::Committed;
        let mut begun: Vec<(Moment, TxnIndex)> =
            history.txns().filter(committed).map(|txn| (history.txn(txn).begun, txn)).collect();
        let mut replied: Vec<(Moment, TxnIndex)> =
            begun.iter().filter_map(|(_, txn)| Some((history.txn(*txn).replied?, *txn))).collect();
        begun.sort_unstable();
        replied.sort_unstable();

        let mut relay = None;
        let mut replied = replied.into_iter().peekable();
        for (begin, txn) in begun {
            if replied.peek().is_some_and(|(reply, _)| *reply < begin) {
                let next = self.nodes;
                self.nodes += 1;
                if let Some(last) = relay {
                    self.add_time(last, next);
                }
                while let Some((_, earlier)) = replied.next_if(|(reply, _)| *reply < begin) {
                    self.add_time(earlier.0, next);
                }
                relay = Some(next);
            }
            if let Some(relay) = relay {
                self.add_time(relay, txn.0);
            }
        }
    }

    fn explain(&self, cycle: &[u32]) -> Violation {
        let transactions = self.versions.history.len() as u32;
        let mut steps: Vec<Step> = Vec::new();
        for edge in cycle {
            let Edge { from, to } = self.edges[*edge as usize];
            match steps.last_mut() {
                // On from a relay: still the edge of real time that led to it.
                Some(step) if from >= transactions => step.to = TxnIndex(to),
                _ => {
                    let reason = self.reasons[*edge as usize];
                    steps.push(Step { from: TxnIndex(from), to: TxnIndex(to), reason });
                }
            }
        }
        let txns: Vec<TxnIndex> = steps.iter().map(|step| step.from).collect();
        let mut account =
            format!("{} transactions each come before the next, and the last before the first", txns.len());
        for step in &steps {
            account.push_str("\n  ");
            account.push_str(&self.explain_step(step));
        }
        Violation::new(self.versions.history, self.kind(&steps), &txns, account)
    }

    fn explain_step(&self, Step { from, to, reason }: &Step) -> String {
        let saw = |read: u32| match self.observed[read as usize].seen {
            Seen::Version(version) => self.versions.get(version).id.to_string(),
            Seen::Absent => "absent".into(),
            Seen::Unplaced(writer) => format!("written by {writer}"),
        };
        let wrote = |version: u32| {
            let version = self.versions.get(version);
            let deed = if version.deleted { "deleted it" } else { "wrote it" };
            format!("{deed} at {:?} ({})", version.timestamp, version.id)
        };
        match *reason {
            Reason::Overwrote { version } => {
                let key = self.versions.get(version).key;
                format!(
                    "{from} --ww {key}--> {to}: {from} {}, {to} next {}",
                    wrote(version - 1),
                    wrote(version)
                )
            }
            Reason::Saw { read } => {
                let key = self.observed[read as usize].key;
                format!("{from} --wr {key}--> {to}: {to} read it as {} after {from} had written", saw(read))
            }
            Reason::Missed { read, version } => {
                let key = self.observed[read as usize].key;
                format!("{from} --rw {key}--> {to}: {from} read it as {}, {to} {}", saw(read), wrote(version))
            }
            Reason::Time => {
                let (from_txn, to_txn) = (self.versions.history.txn(*from), self.versions.history.txn(*to));
                let answered = from_txn.replied.map_or(0, |moment| moment.at);
                let begun = to_txn.begun.at;
                format!("{from} --rt--> {to}: {from} was answered at {answered}, {to} began at {begun}")
            }
        }
    }

    fn kind(&self, steps: &[Step]) -> Kind {
        let missed = steps.iter().filter(|step| matches!(step.reason, Reason::Missed { .. })).count();
        let timed = steps.iter().any(|step| step.reason == Reason::Time);
        let key = |step: &Step| match step.reason {
            Reason::Overwrote { version } => Some(self.versions.get(version).key),
            Reason::Missed { version, .. } => Some(self.versions.get(version).key),
            Reason::Saw { .. } | Reason::Time => None,
        };
        let one_key = key(&steps[0]).is_some() && steps.iter().all(|step| key(step) == key(&steps[0]));
        match (timed, missed) {
            (true, 0) => Kind::AgainstTime,
            (true, _) => Kind::StaleRead,
            (false, 0) => Kind::CircularFlow,
            (false, 1) if one_key => Kind::LostUpdate,
            (false, 1) => Kind::ReadSkew,
            (false, _) => Kind::WriteSkew,
        }
    }
}

struct Step {
    from: TxnIndex,
    to: TxnIndex,
    reason: Reason,
}
