//! What one run of a procedure has read, written and asked for.
//!
//! A run starts *local*: it reads the home partition's newest state directly, records nothing, and
//! must finish without waiting. The first key that lives elsewhere interrupts it, and the engine runs
//! the procedure again as *distributed*: reads are recorded for validation, remote ones become
//! requests that the coordinator sends. A *snapshot* run reads at one timestamp, anywhere.
//!
//! Invariants:
//!   1. Once interrupted, a run does nothing more: every further call fails.
//!   2. `deps` holds the dependencies of everything read so far.
#![forbid(unsafe_code)]

use super::located::Located;
use super::locks::KeyRange;
use super::procedure::{Abort, BusyWith, KeyBytes, Rows};
use super::store::{Span, Store};
use super::writes::{Place, WriteSet, hash_key, within};
use crate::bounds::{
    PREPARE_READ_BYTES_MAX, RANGE_BOUND_BYTES_MAX, SCAN_ROWS_MAX, TXN_READS_MAX, TXN_SCANS_MAX,
};
use crate::config::{Config, Route};
use crate::rules::{self, Rule};
use crate::tree::ShortKey;
use crate::types::{PartitionId, TableId, Timestamp, TxnId, Value};
use crate::wire::{Deps, DepsFull, ReadCheck, ScanCheck, ScanRange, WriteRef};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::rc::Rc;

pub struct Context {
    pub(super) home: PartitionId,
    pub(super) config: Rc<Config>,
    pub(super) store: Rc<RefCell<Store>>,
    pub(super) run: RefCell<Run>,
}

/// The state of one run; cleared and used again by the next.
#[derive(Default)]
pub struct Run {
    pub mode: RunMode,
    pub halt: Option<Halt>,
    pub writes: WriteSet,
    pub located: Located,
    pub deps: Deps,
    pub reads: Vec<ReadRecord>,
    /// Bytes of their keys: one prepare must be able to carry them.
    pub read_bytes: usize,
    pub scans: Vec<ScanRecord>,
    /// The highest version read at home.
    highest: Timestamp,
    /// What a local run read, while something stands ahead of the clock and it may come to stand there too.
    pub tracked: Tracked,
    pub remote: Vec<Remote>,
    /// Places in `remote` that have not been sent yet.
    pub unsent: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RunMode {
    #[default]
    Local,
    Distributed,
    Snapshot,
}

/// Why the engine stopped a run that could have gone on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Halt {
    /// It needs another partition: run it again as distributed.
    Remote,
    /// A prepared transaction holds a key it needs.
    Locked(TxnId),
    /// A participant refused, or could not be reached.
    Refused(Abort),
}

/// Reads, as `Ahead` remembers them.
#[derive(Default)]
pub struct Tracked {
    on: bool,
    keys: Vec<u64>,
    ranges: Vec<KeyRange>,
}

pub struct ReadRecord {
    pub partition: PartitionId,
    pub table: TableId,
    pub key: KeyBytes,
    pub version: Timestamp,
    pub absent: bool,
}

pub struct ScanRecord {
    pub partition: PartitionId,
    pub range: OwnedRange,
    pub digest: u64,
}

#[derive(Clone)]
pub struct OwnedRange {
    pub table: TableId,
    pub from: KeyBytes,
    pub to: Option<KeyBytes>,
    pub limit: u32,
    pub reverse: bool,
}

/// A read or scan at another partition, from the question to the answer.
pub struct Remote {
    pub partition: PartitionId,
    pub question: Question,
    pub answer: Option<Answer>,
}

pub enum Question {
    Read { table: TableId, key: KeyBytes },
    Scan(OwnedRange),
}

pub struct Answer {
    /// What the versions read rest on, inherited by every run that uses the answer.
    deps: Deps,
    found: Found,
}

enum Found {
    Read { version: Timestamp, value: Option<Value> },
    Scan { digest: u64, rows: Rows, complete: bool },
}

/// A read that may have to wait.
pub(super) enum Fetched<T> {
    Now(T),
    Later(SmallVec<[u32; 4]>),
}

impl Run {
    pub fn reset(&mut self, mode: RunMode) {
        self.mode = mode;
        self.halt = None;
        self.start_over();
        self.remote.clear();
        self.unsent.clear();
    }

    /// Clears everything but the remote answers: the same run again, on what is true at home now.
    pub fn start_over(&mut self) {
        self.writes.clear();
        self.located.clear();
        self.deps = Deps::default();
        self.reads.clear();
        self.read_bytes = 0;
        self.scans.clear();
        self.highest = Timestamp::default();
        self.tracked.on = false;
        self.tracked.keys.clear();
        self.tracked.ranges.clear();
    }

    /// Starts over after a wait behind a lock. Answers that have come are kept, questions still open
    /// belong to the attempt that is over.
    pub fn resume(&mut self) {
        self.halt = None;
        self.unsent.clear();
        self.remote.retain(|remote| remote.answer.is_some());
        self.start_over();
    }

    /// A local run begins: whoever reads what stands ahead of the clock will stand there itself, and must
    /// then be able to say what it read.
    pub fn track(&mut self, stands_ahead: bool) {
        self.tracked.on = stands_ahead;
    }

    /// What this run must stand above because of what it read at home.
    pub fn read_floor(&self) -> Timestamp {
        if rules::on(Rule::ReadFloor) { self.highest } else { Timestamp::default() }
    }

    fn halt(&mut self, halt: Halt) -> Abort {
        self.halt.get_or_insert(halt);
        Abort::Interrupted
    }

    fn check_running(&self) -> Result<(), Abort> {
        if self.halt.is_none() { Ok(()) } else { Err(Abort::Interrupted) }
    }

    fn record_read(&mut self, record: ReadRecord) -> Result<(), Abort> {
        within("number of reads", self.reads.len() + 1, TXN_READS_MAX)?;
        within("keys of reads", self.read_bytes + record.key.len(), PREPARE_READ_BYTES_MAX)?;
        self.read_bytes += record.key.len();
        self.reads.push(record);
        Ok(())
    }

    fn record_scan(&mut self, record: ScanRecord) -> Result<(), Abort> {
        within("number of scans", self.scans.len() + 1, TXN_SCANS_MAX)?;
        self.scans.push(record);
        Ok(())
    }

    /// The place of a remote question, asked once however often it is needed.
    fn ask(&mut self, partition: PartitionId, question: Question) -> u32 {
        let at = self.remote.len() as u32;
        self.remote.push(Remote { partition, question, answer: None });
        self.unsent.push(at);
        at
    }

    fn asked(&self, wanted: TableId, wanted_key: &[u8]) -> Option<u32> {
        let same = |remote: &Remote| match &remote.question {
            Question::Read { table, key } => *table == wanted && key[..] == *wanted_key,
            Question::Scan(_) => false,
        };
        self.remote.iter().position(same).map(|at| at as u32)
    }

    /// The place of a scan of one partition, asked once however often it is needed.
    fn ask_scan(&mut self, partition: PartitionId, span: Span<'_>) -> u32 {
        let same = |remote: &Remote| match &remote.question {
            Question::Scan(range) => remote.partition == partition && range.is(span),
            Question::Read { .. } => false,
        };
        match self.remote.iter().position(same) {
            Some(at) => at as u32,
            None => self.ask(partition, Question::Scan(OwnedRange::new(span))),
        }
    }

    /// Takes the answer to a remote read in. Answers to questions of another run are ignored.
    pub fn on_read(
        &mut self,
        table: TableId,
        key: &[u8],
        version: Timestamp,
        value: Option<Value>,
        deps: &Deps,
    ) {
        if let Some(at) = self.asked(table, key) {
            let (deps, found) = (deps.clone(), Found::Read { version, value });
            self.remote[at as usize].answer.get_or_insert(Answer { deps, found });
        }
    }

    /// As `on_read`, for the scan that was question `request` of this run.
    pub fn on_scan(&mut self, request: u32, digest: u64, rows: Rows, complete: bool, deps: &Deps) {
        if let Some(Remote { question: Question::Scan(_), answer, .. }) =
            self.remote.get_mut(request as usize)
        {
            let (deps, found) = (deps.clone(), Found::Scan { digest, rows, complete });
            answer.get_or_insert(Answer { deps, found });
        }
    }

    fn inherit(&mut self, deps: &Deps) -> Result<(), Abort> {
        if rules::on(Rule::ReadDependencies) {
            self.deps.merge(deps).map_err(|DepsFull| Abort::Busy(BusyWith::Window))?;
        }
        Ok(())
    }

    /// Whether a question to one of these partitions is open.
    pub fn waits_for(&self, of: impl Fn(&PartitionId) -> bool) -> bool {
        self.remote.iter().any(|remote| remote.answer.is_none() && of(&remote.partition))
    }

    pub fn answered(&self, wanted: &[u32]) -> bool {
        wanted.iter().all(|at| self.remote[*at as usize].answer.is_some())
    }

    /// Every partition this run read or wrote at, home first, in order of first use.
    pub fn participants(&self, home: PartitionId, partitions: u16) -> SmallVec<[PartitionId; 4]> {
        let mut found: SmallVec<[PartitionId; 4]> = SmallVec::from_slice(&[home]);
        let mut add = |partition| {
            if !found.contains(&partition) {
                found.push(partition);
            }
        };
        self.reads.iter().for_each(|read| add(read.partition));
        self.scans.iter().for_each(|scan| add(scan.partition));
        for (place, ..) in self.writes.iter() {
            match place {
                Place::One(partition) => add(partition),
                Place::Everywhere => (0..partitions).map(PartitionId).for_each(&mut add),
            }
        }
        found
    }

    /// The highest table this run has touched: tables are numbered from 0 without gaps, so where one of
    /// them is unknown, this one is.
    pub fn last_table(&self) -> TableId {
        let asked = self.remote.iter().map(|remote| match &remote.question {
            Question::Read { table, .. } => *table,
            Question::Scan(range) => range.table,
        });
        let reads = self.reads.iter().map(|read| read.table);
        let scans = self.scans.iter().map(|scan| scan.range.table);
        let writes = self.writes.iter().map(|(_, table, ..)| table);
        asked.chain(reads).chain(scans).chain(writes).max().unwrap_or_default()
    }

    /// What one participant is asked to check and to write.
    pub fn part_of(&self, partition: PartitionId) -> Part<'_> {
        let reads = self.reads.iter().filter(|read| read.partition == partition);
        let reads = reads.map(|read| ReadCheck {
            table: read.table,
            key: &read.key,
            version: read.version,
            absent: read.absent,
        });
        let scans = self.scans.iter().filter(|scan| scan.partition == partition);
        let scans = scans.map(|scan| ScanCheck { range: scan.range.as_wire(0), digest: scan.digest });
        let writes = self.writes.at(partition);
        let writes = writes.map(|(table, key, value)| WriteRef { table, key, value: value.map(|v| &v[..]) });
        Part { reads: reads.collect(), scans: scans.collect(), writes: writes.collect() }
    }
}

impl Tracked {
    pub fn keys(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.keys.iter().copied()
    }

    pub fn ranges(&self) -> impl ExactSizeIterator<Item = KeyRange> + '_ {
        self.ranges.iter().cloned()
    }
}

pub struct Part<'a> {
    pub reads: Vec<ReadCheck<'a>>,
    pub scans: Vec<ScanCheck<'a>>,
    pub writes: Vec<WriteRef<'a>>,
}

impl OwnedRange {
    fn new(span: Span<'_>) -> OwnedRange {
        OwnedRange {
            table: span.table,
            from: KeyBytes::from_slice(span.from),
            to: span.to.map(KeyBytes::from_slice),
            limit: span.limit as u32,
            reverse: span.reverse,
        }
    }

    fn is(&self, span: Span<'_>) -> bool {
        let ends = self.from[..] == *span.from && self.to.as_deref() == span.to;
        ends && self.table == span.table && self.limit as usize == span.limit && self.reverse == span.reverse
    }

    pub fn as_wire(&self, request: u32) -> ScanRange<'_> {
        ScanRange {
            table: self.table,
            from: &self.from,
            to: self.to.as_deref(),
            limit: self.limit,
            reverse: self.reverse,
            request,
        }
    }
}

impl<'a> From<&ScanRange<'a>> for Span<'a> {
    fn from(range: &ScanRange<'a>) -> Span<'a> {
        Span {
            table: range.table,
            from: range.from,
            to: range.to,
            limit: range.limit as usize,
            reverse: range.reverse,
        }
    }
}

impl Context {
    pub fn new(home: PartitionId, config: Rc<Config>, store: Rc<RefCell<Store>>) -> Rc<Context> {
        Rc::new(Context { home, config, store, run: RefCell::default() })
    }

    /// Where a key is read: reference data is at home, wherever that is.
    fn place_to_read(&self, table: TableId, key: &[u8]) -> PartitionId {
        match self.config.route(table, key) {
            Route::One(partition) => partition,
            Route::Everywhere => self.home,
        }
    }

    pub(super) fn get(&self, table: TableId, key: &[u8]) -> Result<Fetched<Option<Value>>, Abort> {
        let run = &mut *self.run.borrow_mut();
        run.check_running()?;
        let store = self.store.borrow();
        store.check_key(table, key)?;
        if let Some(own) = run.writes.get(table, key) {
            return Ok(Fetched::Now(own.cloned()));
        }
        let partition = self.place_to_read(table, key);
        if run.mode == RunMode::Snapshot || partition != self.home {
            return self.ask_read(run, partition, table, key);
        }
        let located = &mut run.located;
        let seen =
            store.read_located(table, key, located).map_err(|holder| run.halt(Halt::Locked(holder)))?;
        store.inherit(seen.writer, &mut run.deps)?;
        run.highest = run.highest.max(seen.version);
        if run.tracked.on {
            run.tracked.keys.push(hash_key(table, key));
        }
        if run.mode == RunMode::Distributed {
            let (version, absent, key) = (seen.version, seen.value.is_none(), KeyBytes::from_slice(key));
            run.record_read(ReadRecord { partition, table, key, version, absent })?;
        }
        Ok(Fetched::Now(seen.value))
    }

    fn ask_read<T>(
        &self,
        run: &mut Run,
        partition: PartitionId,
        table: TableId,
        key: &[u8],
    ) -> Result<Fetched<T>, Abort> {
        if run.mode == RunMode::Local {
            return Err(run.halt(Halt::Remote));
        }
        within("number of reads", run.remote.len() + 1, TXN_READS_MAX)?;
        let question = || Question::Read { table, key: KeyBytes::from_slice(key) };
        let at = run.asked(table, key).unwrap_or_else(|| run.ask(partition, question()));
        Ok(Fetched::Later(SmallVec::from_slice(&[at])))
    }

    /// What a remote read brought, recorded for validation.
    pub(super) fn take_read(&self, at: u32) -> Result<Option<Value>, Abort> {
        let run = &mut *self.run.borrow_mut();
        run.check_running()?;
        let Remote { partition, question: Question::Read { table, key }, answer: Some(answer) } =
            &run.remote[at as usize]
        else {
            unreachable!("a read was awaited before it was answered");
        };
        let Found::Read { version, value } = &answer.found else {
            unreachable!("a read was answered as a scan")
        };
        let (value, deps) = (value.clone(), answer.deps.clone());
        let (partition, table, key) = (*partition, *table, key.clone());
        let record = ReadRecord { partition, table, key, version: *version, absent: value.is_none() };
        if run.mode == RunMode::Distributed {
            run.record_read(record)?;
        }
        run.inherit(&deps)?;
        Ok(value)
    }

    pub(super) fn prefetch(&self, table: TableId, key: &[u8]) {
        let run = &mut *self.run.borrow_mut();
        let store = self.store.borrow();
        if run.halt.is_some() || store.check_key(table, key).is_err() {
            return;
        }
        let partition = self.place_to_read(table, key);
        if run.mode == RunMode::Snapshot || partition != self.home {
            // Over a bound or interrupted: the read itself will say so.
            let _ = self.ask_read::<()>(run, partition, table, key);
        } else {
            run.located.announce(table, key, &store.tables);
        }
    }

    pub(super) fn write(&self, table: TableId, key: &[u8], value: Option<&[u8]>) -> Result<(), Abort> {
        let run = &mut *self.run.borrow_mut();
        run.check_running()?;
        if run.mode == RunMode::Snapshot {
            return Err(Abort::ReadOnly);
        }
        let store = self.store.borrow();
        store.check_key(table, key)?;
        let place = match self.config.route(table, key) {
            Route::One(partition) => Place::One(partition),
            Route::Everywhere if self.config.partition_count() == 1 => Place::One(self.home),
            Route::Everywhere => Place::Everywhere,
        };
        if run.mode == RunMode::Local {
            if place != Place::One(self.home) {
                return Err(run.halt(Halt::Remote));
            }
            if let Some(holder) = store.holder(table, key) {
                return Err(run.halt(Halt::Locked(holder)));
            }
        }
        let found = ShortKey::new(key).and_then(|key| run.located.find(table, &key));
        run.writes.put(place, table, key, value, found)
    }

    /// Rows of the span with this transaction's own writes laid over them, or what to wait for.
    pub(super) fn scan(&self, span: Span<'_>) -> Result<Fetched<Rows>, Abort> {
        let run = &mut *self.run.borrow_mut();
        run.check_running()?;
        let store = self.store.borrow();
        store.check_table(span.table)?;
        within("bound of a range", span.from.len(), RANGE_BOUND_BYTES_MAX)?;
        within("bound of a range", span.to.map_or(0, <[u8]>::len), RANGE_BOUND_BYTES_MAX)?;
        within("rows of a scan", span.limit, SCAN_ROWS_MAX)?;
        let base = Span { limit: span.limit + own_deletes(&run.writes, span), ..span };
        let places = self.places_to_scan(span);
        if run.mode == RunMode::Snapshot || places[..] != [self.home] {
            if run.mode == RunMode::Local {
                return Err(run.halt(Halt::Remote));
            }
            within("number of scans", run.remote.len() + places.len(), TXN_READS_MAX)?;
            let asked = places.iter().map(|place| run.ask_scan(*place, base));
            return Ok(Fetched::Later(asked.collect()));
        }
        let mut rows = Rows::default();
        let row = &mut |key: &[u8], _: Timestamp, value: &Value| rows.push(key, value.clone());
        let visited = store
            .scan(base, run.mode == RunMode::Distributed, &mut run.deps, row)
            .map_err(|holder| run.halt(Halt::Locked(holder)))??;
        run.highest = run.highest.max(visited.highest);
        if run.tracked.on {
            run.tracked.ranges.push(KeyRange::new(base.table, base.from, base.to));
        }
        if run.mode == RunMode::Distributed {
            let (range, digest) = (OwnedRange::new(base), visited.digest);
            run.record_scan(ScanRecord { partition: self.home, range, digest })?;
        }
        Ok(Fetched::Now(overlay(rows, visited.complete, span, &run.writes)))
    }

    fn places_to_scan(&self, span: Span<'_>) -> SmallVec<[PartitionId; 4]> {
        match self.config.route_range(span.table, span.from, span.to) {
            Some(Route::One(partition)) => SmallVec::from_slice(&[partition]),
            Some(Route::Everywhere) => SmallVec::from_slice(&[self.home]),
            None => (0..self.config.partition_count() as u16).map(PartitionId).collect(),
        }
    }

    /// What remote scans brought, merged in key order and recorded for validation.
    pub(super) fn take_scan(&self, places: &[u32], span: Span<'_>) -> Result<Rows, Abort> {
        let run = &mut *self.run.borrow_mut();
        run.check_running()?;
        let mut parts = Vec::with_capacity(places.len());
        let mut all_complete = true;
        for at in places {
            let Remote { partition, question: Question::Scan(range), answer: Some(answer) } =
                &run.remote[*at as usize]
            else {
                unreachable!("a scan was awaited before it was answered");
            };
            let Found::Scan { digest, rows, complete } = &answer.found else {
                unreachable!("a scan was answered as a read")
            };
            all_complete &= complete;
            parts.push(rows.clone());
            let (range, deps) = (range.clone(), answer.deps.clone());
            let record = ScanRecord { partition: *partition, range, digest: *digest };
            if run.mode == RunMode::Distributed {
                run.record_scan(record)?;
            }
            run.inherit(&deps)?;
        }
        let base_limit = span.limit + own_deletes(&run.writes, span);
        let merged = merge(parts, base_limit, span.reverse);
        let complete = all_complete && merged.len() < base_limit;
        Ok(overlay(merged, complete, span, &run.writes))
    }
}

/// How many more rows the base must give so that the limit is still reached.
fn own_deletes(writes: &WriteSet, span: Span<'_>) -> usize {
    if writes.is_empty() {
        return 0;
    }
    writes.iter().filter(|(_, table, key, value)| value.is_none() && within_span(*table, key, span)).count()
}

fn within_span(table: TableId, key: &[u8], span: Span<'_>) -> bool {
    table == span.table && key >= span.from && span.to.is_none_or(|to| key < to)
}

/// Rows of several partitions in one order. Each part holds its first `limit` rows, so the first
/// `limit` of all are among them.
fn merge(mut parts: Vec<Rows>, limit: usize, reverse: bool) -> Rows {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let mut all: Vec<_> = parts.iter().flat_map(Rows::iter).collect();
    all.sort_unstable_by(|a, b| if reverse { b.0.cmp(a.0) } else { a.0.cmp(b.0) });
    let mut merged = Rows::default();
    for (key, value) in all.into_iter().take(limit) {
        merged.push(key, value.clone());
    }
    merged
}

/// Lays the transaction's own writes over what was stored. When the base stopped at its limit, what
/// lies behind its last row is unknown, and own writes there are left out.
fn overlay(base: Rows, complete: bool, span: Span<'_>, writes: &WriteSet) -> Rows {
    let own = writes.iter().filter(|(_, table, key, _)| within_span(*table, key, span));
    let mut own: Vec<_> = own.map(|(_, _, key, value)| (key, value)).collect();
    if own.is_empty() && base.len() <= span.limit {
        return base;
    }
    let order = |a: &[u8], b: &[u8]| if span.reverse { b.cmp(a) } else { a.cmp(b) };
    own.sort_unstable_by(|a, b| order(a.0, b.0));
    let known_to =
        if complete { None } else { base.iter().next_back().map(|(key, _)| KeyBytes::from_slice(key)) };
    let mut own = own
        .into_iter()
        .filter(|(key, _)| known_to.as_ref().is_none_or(|to| order(key, to).is_le()))
        .peekable();
    let mut rows = Rows::default();
    let mut push = |key: &[u8], value: Option<&Value>| {
        if let Some(value) = value
            && rows.len() < span.limit
        {
            rows.push(key, value.clone());
        }
    };
    for (key, value) in base.iter() {
        while let Some((own_key, own_value)) = own.next_if(|(own_key, _)| order(own_key, key).is_lt()) {
            push(own_key, own_value);
        }
        match own.next_if(|(own_key, _)| *own_key == key) {
            Some((own_key, own_value)) => push(own_key, own_value),
            None => push(key, Some(value)),
        }
    }
    own.for_each(|(key, value)| push(key, value));
    rows
}

#[cfg(test)]
mod tests;
