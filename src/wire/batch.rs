//! A batch: what one slot of a stream holds, and what the wal keeps of it.
//!
//! [`BatchBuilder`] collects the entries of committed transactions in one reused buffer; [`BatchView`]
//! reads them in place, at a follower or at recovery. There is no checksum: frames and wal records have
//! theirs. When to finish a batch is the stream's decision, what its promise may be the partition's.
//!
//! ```text
//! batch  = version u8, kind u8, epoch u64, promise u64, count u32, entry*
//! facts  = the same, with (epoch u64, final watermark u64)* for the entries
//! entry  = bytes u32 (of what follows), timestamp u64, txn, deps, participants, writes
//! ```
//!
//! Invariants:
//!   1. A builder's buffer starts with room for the header, followed by `count` whole entries.
//!   2. Only a batch of kind `Entries` holds entries, and only one of kind `Facts` holds facts.
//!   3. A view has walked every byte once, in `parse`; its iterators walk the same bytes and cannot fail.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::cursor::{Layout, Reader, Writer};
use super::deps::Deps;
use super::malformed::Malformed;
use super::txn::WriteRef;
use crate::bounds::{
    BATCH_BYTES, BATCH_BYTES_MAX, CLOSED_EPOCHS_MAX, DEPS_MAX, PARTITIONS_MAX, TXN_BYTES_MAX, TXN_WRITES_MAX,
};
use crate::types::{Epoch, PartitionId, Stamp, TableId, Timestamp, TxnId};

/// Collects entries. A caller who finishes as soon as [`BatchBuilder::len_bytes`] reaches `BATCH_BYTES`
/// can always push one more transaction of any legal size.
#[derive(Debug)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    count: usize,
    /// The header is only known at the end; it is laid out here and then copied into its place.
    header: Vec<u8>,
}

impl BatchBuilder {
    pub fn new() -> BatchBuilder {
        let mut bytes = Vec::with_capacity(2 * BATCH_BYTES);
        bytes.resize(HEADER_BYTES, 0);
        BatchBuilder { bytes, count: 0, header: Vec::with_capacity(HEADER_BYTES) }
    }

    /// Appends one transaction's part in this partition: its writes here, perhaps none.
    pub fn push_entry<'w>(
        &mut self,
        timestamp: Timestamp,
        txn: TxnId,
        deps: &Deps,
        participants: &[PartitionId],
        writes: impl ExactSizeIterator<Item = (TableId, &'w [u8], Option<&'w [u8]>)>,
    ) {
        let start = self.bytes.len();
        let writes_count = writes.len();
        let mut out = Writer::new(&mut self.bytes);
        out.put(&0_u32).put(&timestamp).put(&txn).put(deps).list(participants, PARTITIONS_MAX);
        out.count(writes_count, TXN_WRITES_MAX);
        let (mut written, mut payload_bytes) = (0, 0);
        for (table, key, value) in writes {
            let write = WriteRef { table, key, value };
            out.put(&write);
            written += 1;
            payload_bytes += write.payload_bytes();
        }
        assert_eq!(written, writes_count, "the iterator miscounted its writes");
        assert!(payload_bytes <= TXN_BYTES_MAX, "a transaction of {payload_bytes} bytes");
        assert!(self.bytes.len() <= BATCH_BYTES_MAX, "a batch of {} bytes", self.bytes.len());

        let entry_bytes = u32::try_from(self.bytes.len() - start - 4).expect("a batch fits 32 bits");
        self.bytes[start..start + 4].copy_from_slice(&entry_bytes.to_le_bytes());
        self.count += 1;
    }

    /// The batch as bytes to propose; the builder is empty again and keeps its capacity.
    pub fn finish(&mut self, epoch: Epoch, promise: Timestamp, kind: BatchKind) -> Rc<[u8]> {
        assert!(kind == BatchKind::Entries || self.count == 0, "{} entries in a {kind:?}", self.count);
        self.header.clear();
        let mut out = Writer::new(&mut self.header);
        out.put(&BATCH_VERSION).put(&kind).put(&epoch).put(&promise).count(self.count, ENTRIES_MAX);
        self.bytes[..HEADER_BYTES].copy_from_slice(&self.header);
        let batch = Rc::from(self.bytes.as_slice());
        self.bytes.truncate(HEADER_BYTES);
        self.count = 0;
        batch
    }

    /// A batch of facts: the final watermarks of epochs of this shard (DESIGN §5.3).
    pub fn facts(epoch: Epoch, promise: Timestamp, facts: &[(Epoch, Timestamp)]) -> Rc<[u8]> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.put(&BATCH_VERSION).put(&BatchKind::Facts).put(&epoch).put(&promise);
        out.list(facts, CLOSED_EPOCHS_MAX);
        Rc::from(bytes)
    }

    /// Drops the entries pushed so far.
    pub fn clear(&mut self) {
        self.bytes.truncate(HEADER_BYTES);
        self.count = 0;
    }

    /// Bytes of the batch if it were finished now.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Default for BatchBuilder {
    fn default() -> BatchBuilder {
        BatchBuilder::new()
    }
}

/// A batch that has been checked from end to end.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    epoch: Epoch,
    promise: Timestamp,
    kind: BatchKind,
    count: usize,
    highest: Timestamp,
    entries: Reader<'a>,
}

impl<'a> BatchView<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<BatchView<'a>, Malformed> {
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        let mut reader = Reader::new(bytes);
        if reader.take::<u8>()? != BATCH_VERSION {
            return Err(Malformed::WrongVersion);
        }
        let kind: BatchKind = reader.take()?;
        let epoch = reader.take()?;
        let promise = reader.take()?;
        if kind == BatchKind::Facts {
            return BatchView::parse_facts(epoch, promise, reader);
        }
        let count = reader.count(ENTRIES_MAX, ENTRY_BYTES_MIN)?;
        if kind != BatchKind::Entries && count > 0 {
            return Err(Malformed::UnexpectedEntries);
        }
        let entries = reader;
        let mut highest = Timestamp::default();
        for _ in 0..count {
            let entry = EntryView::take(&mut reader)?;
            entry.check_rest()?;
            highest = highest.max(entry.timestamp);
        }
        reader.finish()?;
        Ok(BatchView { epoch, promise, kind, count, highest, entries })
    }

    fn parse_facts(
        epoch: Epoch,
        promise: Timestamp,
        mut reader: Reader<'a>,
    ) -> Result<BatchView<'a>, Malformed> {
        let count = reader.count(CLOSED_EPOCHS_MAX, <(Epoch, Timestamp)>::BYTES_MIN)?;
        let entries = reader;
        for _ in 0..count {
            reader.take::<(Epoch, Timestamp)>()?;
        }
        reader.finish()?;
        let (kind, highest) = (BatchKind::Facts, Timestamp::default());
        Ok(BatchView { epoch, promise, kind, count, highest, entries })
    }

    /// The epoch under which the batch was built. A later leader proposes it again unchanged.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// No later entry of this stream, in this epoch, has a timestamp at or below it.
    pub fn promise(&self) -> Timestamp {
        self.promise
    }

    pub fn kind(&self) -> BatchKind {
        self.kind
    }

    /// Entries, or facts.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The highest timestamp of its entries; 0 without any.
    pub fn highest(&self) -> Timestamp {
        self.highest
    }

    pub fn entries(&self) -> Entries<'a> {
        let left = if self.kind == BatchKind::Facts { 0 } else { self.count };
        Entries { reader: self.entries, left }
    }

    /// The final watermarks that the batch tells.
    pub fn facts(&self) -> impl Iterator<Item = (Epoch, Timestamp)> + use<'a> {
        let mut reader = self.entries;
        let count = if self.kind == BatchKind::Facts { self.count } else { 0 };
        (0..count).map(move |_| reader.take().expect("invariant 3: parse has walked this fact"))
    }
}

/// What a batch is for. The tags 5 and above are free.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum BatchKind {
    /// Transactions.
    Entries = 0,
    /// Nothing but its promise: moves the watermark of an idle stream.
    Noop = 1,
    /// Fixes where the epochs before this one ended in this stream.
    Seal = 2,
    /// Fills a hole that recovery found; promises nothing.
    Filler = 3,
    /// Where the epochs before this one ended in the whole shard: in its first stream, before it opens.
    Facts = 4,
}

impl<'a> Layout<'a> for BatchKind {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&(*self as u8));
    }

    fn take(from: &mut Reader<'a>) -> Result<BatchKind, Malformed> {
        match from.take::<u8>()? {
            0 => Ok(BatchKind::Entries),
            1 => Ok(BatchKind::Noop),
            2 => Ok(BatchKind::Seal),
            3 => Ok(BatchKind::Filler),
            4 => Ok(BatchKind::Facts),
            _ => Err(Malformed::UnknownKind),
        }
    }
}

/// One transaction's part in a batch, read in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryView<'a> {
    pub timestamp: Timestamp,
    pub txn: TxnId,
    pub deps: Deps,
    participants: &'a [u8],
    writes_count: usize,
    writes: &'a [u8],
}

impl<'a> EntryView<'a> {
    pub fn participants(&self) -> impl ExactSizeIterator<Item = PartitionId> + Clone + use<'a> {
        let ids = self.participants.chunks_exact(PartitionId::BYTES_MIN);
        ids.map(|id| PartitionId(u16::from_le_bytes([id[0], id[1]])))
    }

    pub fn writes(&self) -> Writes<'a> {
        Writes { reader: Reader::new(self.writes), left: self.writes_count }
    }

    /// Stops before the participants and the writes: whoever wants them walks them.
    fn take(from: &mut Reader<'a>) -> Result<EntryView<'a>, Malformed> {
        let entry_bytes = usize::try_from(from.take::<u32>()?).map_err(|_| Malformed::TooLong)?;
        let mut entry = Reader::new(from.bytes(entry_bytes)?);
        let timestamp = entry.take()?;
        let txn = entry.take()?;
        let deps = entry.take()?;
        let participants_count = entry.count(PARTITIONS_MAX, PartitionId::BYTES_MIN)?;
        let participants = entry.bytes(participants_count * PartitionId::BYTES_MIN)?;
        let writes_count = entry.count(TXN_WRITES_MAX, WriteRef::BYTES_MIN)?;
        Ok(EntryView { timestamp, txn, deps, participants, writes_count, writes: entry.rest() })
    }

    /// What `take` left out, checked once so that the iterators need not (invariant 3).
    fn check_rest(&self) -> Result<(), Malformed> {
        let mut reader = Reader::new(self.writes);
        let mut payload_bytes = 0;
        for _ in 0..self.writes_count {
            payload_bytes += reader.take::<WriteRef<'a>>()?.payload_bytes();
        }
        reader.finish()?;
        let mut participants = Reader::new(self.participants);
        while !participants.rest().is_empty() {
            participants.take::<PartitionId>()?;
        }
        if payload_bytes <= TXN_BYTES_MAX { Ok(()) } else { Err(Malformed::TransactionTooBig) }
    }
}

/// The entries of a checked batch, in the order of their commit.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = EntryView<'a>;

    fn next(&mut self) -> Option<EntryView<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(EntryView::take(&mut self.reader).expect("invariant 3: parse has walked this entry"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Entries<'_> {}

/// The writes of a checked entry, in the order they were pushed.
#[derive(Clone, Debug)]
pub struct Writes<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Iterator for Writes<'a> {
    type Item = WriteRef<'a>;

    fn next(&mut self) -> Option<WriteRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(self.reader.take().expect("invariant 3: parse has walked this write"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Writes<'_> {}

/// Of its own, apart from the version of messages: batches rest on disk, where older ones are found.
const BATCH_VERSION: u8 = 1;
/// Version, kind, epoch, promise, count.
const HEADER_BYTES: usize = 1 + BatchKind::BYTES_MIN + Epoch::BYTES_MIN + Timestamp::BYTES_MIN + 4;
/// Its own length, timestamp, transaction, and three empty lists.
const ENTRY_BYTES_MIN: usize = 4 + Timestamp::BYTES_MIN + TxnId::BYTES_MIN + Deps::BYTES_MIN + 4 + 4;
/// What the limits allow one transaction to take: every list full, payload at its bound.
const ENTRY_BYTES_MAX: usize = ENTRY_BYTES_MIN
    + DEPS_MAX * <(Stamp, Timestamp)>::BYTES_MIN
    + PARTITIONS_MAX * PartitionId::BYTES_MIN
    + TXN_WRITES_MAX * WriteRef::BYTES_MIN
    + TXN_BYTES_MAX;
const ENTRIES_MAX: usize = BATCH_BYTES_MAX / ENTRY_BYTES_MIN;

// The promise made on `BatchBuilder`: below BATCH_BYTES, any legal transaction still fits.
const _: () = assert!(HEADER_BYTES + BATCH_BYTES + ENTRY_BYTES_MAX <= BATCH_BYTES_MAX);

#[cfg(test)]
mod tests;
