//! The state of one partition that transactions read and change: its tables, locks, window and clock.
//!
//! Everything here happens at once, on the partition's core: nothing waits, nothing is sent. What a
//! transaction is made of is in `context`, who decides in `coordinator`.
//!
//! Invariants:
//!   1. A version with a writer in the window is unstable; whoever reads it inherits its dependencies.
//!   2. Every installed write is in the open batch or in a proposed one.
//!   3. A promise is below the proposal of every prepared transaction.
#![forbid(unsafe_code)]

use super::ahead::Ahead;
use super::clock::HybridClock;
use super::located::Located;
use super::locks::{KeyRange, Locks};
use super::participant::{Known, PreparedSet};
use super::procedure::{Abort, BusyWith};
use super::window::{Settled, Speculative, Standings, Window, Writer};
use super::writes::within;
use crate::bounds::{KEY_BYTES_MAX, SCAN_BYTES_MAX, SCAN_ROWS_MAX, SNAPSHOT_KEEP_NS};
use crate::rules::{self, Rule};
use crate::tree::{RecordRef, ShortKey, Tree, Version};
use crate::types::{Epoch, PartitionId, ShardId, Stamp, TableId, Timestamp, TxnId, Value};
use crate::wire::{BatchBuilder, Deps, DepsFull, EntryView, Verdict, WriteRef};
use foldhash::fast::{FixedState, FoldHasher};
use smallvec::SmallVec;
use std::hash::{BuildHasher, Hasher};
use std::ops::ControlFlow;

pub struct Store {
    pub(crate) shard: ShardId,
    /// Of the reign this replica leads in or follows; 0 before the first is known.
    pub(crate) epoch: Epoch,
    pub(super) tables: Vec<Tree>,
    /// Of a checkpoint: what was superseded below it is not there, so reads below it are refused.
    loaded: Timestamp,
    pub(super) locks: Locks,
    pub(crate) window: Window,
    pub(crate) clock: HybridClock,
    pub(super) ahead: Ahead,
    pub(super) prepared: PreparedSet,
    /// Entries committed and not yet proposed.
    pub(crate) batch: BatchBuilder,
    /// Commit time of the oldest entry in `batch`.
    pub(crate) batch_since: Timestamp,
}

/// What a read found.
pub struct Seen {
    /// Of the newest version; 0 when the key has no record at all.
    pub version: Timestamp,
    /// `None` when the key is absent.
    pub value: Option<Value>,
    pub writer: Writer,
}

/// A range of one table, and how much of it to visit.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    pub table: TableId,
    pub from: &'a [u8],
    /// Exclusive; `None` is the end of the table.
    pub to: Option<&'a [u8]>,
    /// Rows at most.
    pub limit: usize,
    pub reverse: bool,
}

/// How a visit of a span ended.
pub struct Visited {
    /// Over the keys and versions seen, tombstones included: what validation compares.
    pub digest: u64,
    /// The end of the range was reached before the limit.
    pub complete: bool,
    /// The highest version seen, tombstones included.
    pub highest: Timestamp,
}

/// A write about to be installed; `None` deletes. The record, if it is known already.
pub type Write<'a> = (TableId, &'a [u8], Option<&'a Value>, Option<RecordRef>);

/// An entry as it is installed and logged.
pub struct Install<'a> {
    pub txn: TxnId,
    pub timestamp: Timestamp,
    pub deps: &'a Deps,
    pub participants: &'a [PartitionId],
    pub token: Option<u64>,
}

impl Seen {
    #[inline]
    fn of(newest: Option<&Version>) -> Seen {
        match newest {
            Some(newest) => {
                Seen { version: newest.timestamp, value: newest.value.clone(), writer: newest.writer }
            }
            None => Seen { version: Timestamp::default(), value: None, writer: 0 },
        }
    }
}

impl Store {
    pub fn new(shard: ShardId, tables: usize) -> Store {
        Store {
            shard,
            epoch: Epoch::default(),
            tables: (0..tables).map(|_| Tree::new()).collect(),
            loaded: Timestamp::default(),
            locks: Locks::default(),
            window: Window::new(),
            clock: HybridClock::default(),
            ahead: Ahead::default(),
            prepared: PreparedSet::default(),
            batch: BatchBuilder::default(),
            batch_since: Timestamp::default(),
        }
    }

    pub fn stamp(&self) -> Stamp {
        Stamp { shard: self.shard, epoch: self.epoch }
    }

    /// Refuses what no table could hold.
    pub fn check_key(&self, table: TableId, key: &[u8]) -> Result<(), Abort> {
        self.check_table(table)?;
        within("key", key.len(), KEY_BYTES_MAX)
    }

    pub fn check_table(&self, table: TableId) -> Result<(), Abort> {
        if usize::from(table.0) < self.tables.len() { Ok(()) } else { Err(Abort::UnknownTable(table.0)) }
    }

    /// The newest version, or who has locked the key.
    #[inline]
    pub fn read(&self, table: TableId, key: &[u8]) -> Result<Seen, TxnId> {
        if let Some(holder) = self.locks.writer(table, key) {
            return Err(holder);
        }
        Ok(Seen::of(self.tables[usize::from(table.0)].get(key)))
    }

    /// As `read`, of a key that the run may have found already, or finds now together with others.
    #[inline]
    pub fn read_located(&self, table: TableId, key: &[u8], located: &mut Located) -> Result<Seen, TxnId> {
        let Some(short) = ShortKey::new(key) else { return self.read(table, key) };
        if let Some(holder) = self.locks.writer(table, key) {
            return Err(holder);
        }
        if located.has_announced() {
            located.search(&self.tables);
        }
        let tree = &self.tables[usize::from(table.0)];
        if let Some(newest) = located.find(table, &short).and_then(|found| tree.newest(found)) {
            return Ok(Seen::of(Some(newest)));
        }
        let found = tree.find(key);
        if let Some((record, _)) = found {
            located.add(table, short, record);
        }
        Ok(Seen::of(found.map(|(_, newest)| newest)))
    }

    /// Who keeps a transaction that is not prepared from writing the key.
    #[inline]
    pub fn holder(&self, table: TableId, key: &[u8]) -> Option<TxnId> {
        self.locks.holder(table, key)
    }

    /// The newest rows of a span, tombstones left out; or who has locked something in it. A digest costs
    /// as much as the scan: one that nobody will compare is left at 0.
    pub fn scan(
        &self,
        span: Span<'_>,
        digested: bool,
        deps: &mut Deps,
        row: &mut dyn FnMut(&[u8], Timestamp, &Value),
    ) -> Result<Result<Visited, Abort>, TxnId> {
        match self.locks.writer_within(span.table, span.from, span.to) {
            Some(holder) => Err(holder),
            None => Ok(self.visit(span, digested, deps, row)),
        }
    }

    /// As `scan`, whoever holds locks.
    pub fn visit(
        &self,
        span: Span<'_>,
        digested: bool,
        deps: &mut Deps,
        row: &mut dyn FnMut(&[u8], Timestamp, &Value),
    ) -> Result<Visited, Abort> {
        let mut digest = SpanDigest::new();
        let mut inherited = Ok(());
        let mut tally = Tally::new(span.limit);
        let mut highest = Timestamp::default();
        let visit = |key: &[u8], version: &Version| {
            if tally.full() {
                return ControlFlow::Break(());
            }
            highest = highest.max(version.timestamp);
            if digested {
                digest.add(key, version.timestamp);
            }
            inherited = inherited.and(self.inherit(version.writer, deps));
            if let Some(value) = &version.value {
                tally.add(key, value);
                row(key, version.timestamp, value);
            }
            ControlFlow::Continue(())
        };
        let table = &self.tables[usize::from(span.table.0)];
        match span.reverse {
            false => table.scan(span.from, span.to, visit),
            true => table.rscan(span.from, span.to, visit),
        }
        inherited?;
        tally.check()?;
        Ok(Visited { digest: digest.finish(), complete: !tally.full(), highest })
    }

    /// The version at or below a snapshot's timestamp. The caller knows that it is applied here.
    pub fn read_at(&self, table: TableId, key: &[u8], at: Timestamp) -> Result<Option<Version>, Abort> {
        self.check_loaded(at)?;
        let too_old = |old: crate::tree::SnapshotTooOld| Abort::SnapshotTooOld { floor: old.floor };
        Ok(self.tables[usize::from(table.0)].get_at(key, at).map_err(too_old)?.cloned())
    }

    /// The rows of a span as they were at `at`.
    pub fn scan_at(
        &self,
        span: Span<'_>,
        at: Timestamp,
        row: &mut dyn FnMut(&[u8], Timestamp, &Value),
    ) -> Result<Visited, Abort> {
        self.check_loaded(at)?;
        let mut tally = Tally::new(span.limit);
        let visit = |key: &[u8], version: &Version| {
            if tally.full() {
                return ControlFlow::Break(());
            }
            if let Some(value) = &version.value {
                tally.add(key, value);
                row(key, version.timestamp, value);
            }
            ControlFlow::Continue(())
        };
        let table = &self.tables[usize::from(span.table.0)];
        let found = match span.reverse {
            false => table.scan_at(span.from, span.to, at, visit),
            true => table.rscan_at(span.from, span.to, at, visit),
        };
        found.map_err(|old| Abort::SnapshotTooOld { floor: old.floor })?;
        tally.check()?;
        Ok(Visited { digest: 0, complete: !tally.full(), highest: at })
    }

    /// Adds what the writer of a version rests on, while it is unstable.
    #[inline]
    pub fn inherit(&self, writer: Writer, deps: &mut Deps) -> Result<(), Abort> {
        if writer != 0
            && rules::on(Rule::ReadDependencies)
            && let Some(theirs) = self.window.unstable(writer)
        {
            deps.merge(theirs).map_err(|DepsFull| Abort::Busy(BusyWith::Window))?;
        }
        Ok(())
    }

    /// Installs a committed transaction's part here, appends its entry, and holds it in the window
    /// until it is stable. Whether it waits there: `false` means that it was stable at once.
    pub fn install<'a>(
        &mut self,
        entry: &Install<'_>,
        now: Timestamp,
        known: &impl Standings,
        writes: impl ExactSizeIterator<Item = (TableId, &'a [u8], Option<&'a Value>)> + Clone,
    ) -> bool {
        self.install_located(entry, now, known, writes.map(|(table, key, value)| (table, key, value, None)))
    }

    /// As `install`, with the records that the transaction has found on its way.
    pub fn install_located<'a>(
        &mut self,
        entry: &Install<'_>,
        now: Timestamp,
        known: &impl Standings,
        writes: impl ExactSizeIterator<Item = Write<'a>> + Clone,
    ) -> bool {
        if self.batch.is_empty() {
            self.batch_since = now;
        }
        let logged = writes.clone().map(|(table, key, value, _)| (table, key, value.map(|v| &v[..])));
        let before = self.batch.len_bytes();
        self.batch.push_entry(entry.timestamp, entry.txn, entry.deps, entry.participants, logged);
        let bytes = self.batch.len_bytes() - before;
        let keys = writes.clone().map(|(table, key, ..)| (table, key));
        let held = self.hold(entry, bytes, known, keys);
        for (table, key, value, found) in writes {
            let version =
                Version { timestamp: entry.timestamp, writer: held.unwrap_or(0), value: value.cloned() };
            let tree = &mut self.tables[usize::from(table.0)];
            match found {
                Some(found) => tree.put_found(found, key, version),
                None => tree.put(key, version),
            };
        }
        held.is_some()
    }

    /// Holds a transaction in the window without installing anything.
    pub fn hold<'a>(
        &mut self,
        entry: &Install<'_>,
        bytes: usize,
        known: &impl Standings,
        keys: impl Iterator<Item = (TableId, &'a [u8])>,
    ) -> Option<Writer> {
        let Install { txn, timestamp, deps, participants, token } = *entry;
        self.window.push(Speculative { txn, timestamp, deps, participants, token, bytes }, known, keys)
    }

    /// Installs an entry that an earlier reign left in the log, as speculative: it is logged already.
    pub fn recover(&mut self, entry: &EntryView<'_>, known: &impl Standings) {
        self.clock.observe(entry.timestamp);
        let (timestamp, txn, deps) = (entry.timestamp, entry.txn, &entry.deps);
        let participants: SmallVec<[PartitionId; 4]> = entry.participants().collect();
        let install = Install { txn, timestamp, deps, participants: &participants, token: None };
        let keys = || entry.writes().map(|write| (write.table, write.key));
        let bytes = entry.writes().map(|write| write.payload_bytes()).sum();
        let writer = self.hold(&install, bytes, known, keys()).unwrap_or(0);
        for WriteRef { table, key, value } in entry.writes() {
            if let Some(tree) = self.tables.get_mut(usize::from(table.0)) {
                tree.put(key, Version { timestamp, writer, value: value.map(Value::new) });
            }
        }
    }

    /// A decision of an earlier reign of this shard, for a participant that was left waiting: what is not
    /// here was never replicated, or is lost. Whose reign is no matter: it may have been recovered by one that is
    /// over as well, or be our own.
    pub fn recovered(&self, txn: TxnId, known: &impl Known) -> Option<Verdict> {
        let (timestamp, deps, participants) = self.window.find(txn)?;
        let (deps, participants) = (deps.clone(), SmallVec::from_slice(participants));
        (!known.any_lost(&deps)).then_some(Verdict::Committed { timestamp, deps, participants })
    }

    /// We do not lead any more: nobody will decide what is prepared here, and what was not proposed never
    /// will be. Returns who held locks.
    pub fn demote(&mut self) -> Vec<TxnId> {
        self.batch.clear();
        let prepared = self.prepared.all();
        prepared.iter().for_each(|txn| _ = self.abort(*txn));
        prepared
    }

    /// Replays an entry at a follower: its dependencies are stable, so nothing holds it.
    pub fn replay<'a>(
        &mut self,
        timestamp: Timestamp,
        writes: impl Iterator<Item = (TableId, &'a [u8], Option<&'a [u8]>)>,
    ) {
        self.clock.observe(timestamp);
        for (table, key, value) in writes {
            if let Some(tree) = self.tables.get_mut(usize::from(table.0)) {
                tree.put(key, Version { timestamp, writer: 0, value: value.map(Value::new) });
            }
        }
    }

    /// Takes over the tables that a checkpoint was loaded into, and stands above all of it. What is held in
    /// the window stays there: its writers want to hear how it ends.
    pub fn take_over(&mut self, loaded: Store) {
        self.tables = loaded.tables;
        self.loaded = loaded.loaded;
        self.epoch = self.epoch.max(loaded.epoch);
        self.clock.observe(loaded.clock.last());
    }

    /// Reads below `floor` are refused. Other than the floor of a tree it lets go of nothing: versions below
    /// it may yet turn out to be lost.
    pub fn refuse_below(&mut self, floor: Timestamp) {
        self.loaded = self.loaded.max(floor);
    }

    fn check_loaded(&self, at: Timestamp) -> Result<(), Abort> {
        if at < self.loaded { Err(Abort::SnapshotTooOld { floor: self.loaded }) } else { Ok(()) }
    }

    /// The newest stable version of every key of a table from a key on, tombstones included. `false` when
    /// `visit` ended it.
    pub fn visit_stable(
        &self,
        table: TableId,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &Version) -> ControlFlow<()>,
    ) -> bool {
        let mut whole = true;
        let stable =
            |version: &Version| version.writer == 0 || self.window.unstable(version.writer).is_none();
        self.tables[usize::from(table.0)].scan_admitted(from, None, stable, |key, version| {
            let flow = visit(key, version);
            whole &= flow.is_continue();
            flow
        });
        whole
    }

    /// Reads below it are refused, of some tables at least.
    pub fn floor(&self) -> Timestamp {
        self.tables.iter().map(Tree::floor).max().unwrap_or_default().max(self.loaded)
    }

    /// Unlinks what a lost transaction had installed.
    pub fn roll_back(&mut self, settled: &Settled) {
        if let Settled::Lost { timestamp, writes, .. } = settled {
            for (table, key) in writes {
                self.tables[usize::from(table.0)].unlink(key, *timestamp);
            }
        }
    }

    /// Nothing here, committed or read, stands above it.
    pub fn reached(&mut self, now: Timestamp) -> Timestamp {
        self.clock.read(now).max(self.ahead.until())
    }

    /// Whether something committed here stands above the clock.
    #[inline]
    pub fn stands_ahead(&self) -> bool {
        self.ahead.until() > self.clock.last()
    }

    /// What a write of the key must stand above: the version it replaces, and committed reads of it.
    pub(super) fn write_floor(&self, table: TableId, key: &[u8]) -> Timestamp {
        let newest = self.tables[usize::from(table.0)].get(key).map(|newest| newest.timestamp);
        let replaced = newest.filter(|_| rules::on(Rule::WriteFloor)).unwrap_or_default();
        let read = Some(self.ahead.read_of(table, key)).filter(|_| rules::on(Rule::ReadMarks));
        replaced.max(read.unwrap_or_default())
    }

    /// Takes note of where a committed transaction stands and of what it read: the clock follows if that is
    /// near enough, and what lies further ahead is remembered until the clock gets there by itself.
    pub(super) fn stand(
        &mut self,
        now: Timestamp,
        timestamp: Timestamp,
        reads: impl ExactSizeIterator<Item = u64>,
        ranges: impl ExactSizeIterator<Item = KeyRange>,
    ) {
        let apart = !self.clock.follows(now, timestamp)
            && self.ahead.mark(self.clock.last(), timestamp, reads, ranges);
        if !apart {
            self.clock.observe(timestamp);
        }
    }

    /// What may be promised now: the clock, or as far as prepared transactions let it.
    pub fn promise(&mut self, now: Timestamp) -> Timestamp {
        let clock = self.clock.read(now);
        match self.prepared.lowest_proposal() {
            Some(lowest) if rules::on(Rule::PendingBound) => clock.min(lowest.prev()),
            _ => clock,
        }
    }

    /// Frees versions that no snapshot at or above `snapshot` less the keep time can need.
    pub fn prune(&mut self, snapshot: Timestamp) {
        let floor = Timestamp(snapshot.0.saturating_sub(SNAPSHOT_KEEP_NS));
        for table in &mut self.tables {
            table.prune(floor, PRUNE_STEPS_PER_ROUND);
        }
    }

    pub fn bytes(&self) -> usize {
        self.tables.iter().map(Tree::bytes).sum()
    }

    pub fn tables(&self) -> &[Tree] {
        &self.tables
    }
}

/// The digest of what a scan saw.
struct SpanDigest(FoldHasher<'static>);

impl SpanDigest {
    fn new() -> SpanDigest {
        SpanDigest(FixedState::with_seed(0).build_hasher())
    }

    fn add(&mut self, key: &[u8], version: Timestamp) {
        self.0.write(key);
        self.0.write_u64(version.0);
    }

    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// Rows and bytes of a scan against their bounds.
struct Tally {
    limit: usize,
    rows: usize,
    bytes: usize,
}

impl Tally {
    fn new(limit: usize) -> Tally {
        Tally { limit, rows: 0, bytes: 0 }
    }

    fn full(&self) -> bool {
        self.rows >= self.limit || self.rows > SCAN_ROWS_MAX || self.bytes > SCAN_BYTES_MAX
    }

    fn add(&mut self, key: &[u8], value: &Value) {
        self.rows += 1;
        self.bytes += key.len() + value.len();
    }

    /// A scan cut short by anything but its own limit would be a wrong answer.
    fn check(&self) -> Result<(), Abort> {
        within("rows of a scan", self.rows, SCAN_ROWS_MAX)?;
        within("bytes of a scan", self.bytes, SCAN_BYTES_MAX)
    }
}

/// Bounds one round of pruning, of one table: what waits at the end of a busy millisecond, and some.
const PRUNE_STEPS_PER_ROUND: usize = 2_048;
