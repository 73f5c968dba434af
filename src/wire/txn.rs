//! What the messages of a transaction are made of: ranges, checks, writes, rows, refusals, verdicts.
//!
//! All borrow the bytes they were decoded from. What they mean to a transaction is decided in `txn`;
//! the messages they travel in are in `message`.
#![forbid(unsafe_code)]

use smallvec::SmallVec;

use super::cursor::{Layout, Reader, Writer};
use super::deps::Deps;
use super::malformed::Malformed;
use crate::bounds::{PARTITIONS_MAX, PREPARE_READ_BYTES_MAX, SHARDS_MAX, TXN_BYTES_MAX};
use crate::types::{Epoch, PartitionId, ShardId, TableId, Timestamp};

/// The partitions a transaction touched, home included.
pub type Participants = SmallVec<[PartitionId; 4]>;

/// Keys from `from` up to and without `to`; all to the end of the table when `to` is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanRange<'a> {
    pub table: TableId,
    pub from: &'a [u8],
    pub to: Option<&'a [u8]>,
    /// Rows wanted, as asked for: the participant lowers it to `SCAN_ROWS_MAX`.
    pub limit: u32,
    pub reverse: bool,
    /// The coordinator's number of this scan within its transaction; comes back in the reply.
    pub request: u32,
}

impl<'a> Layout<'a> for ScanRange<'a> {
    const BYTES_MIN: usize = 2 + 2 + 2 + 4 + 1 + 4;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.table).bound(self.from).bound_or_end(self.to);
        out.put(&self.limit).put(&self.reverse).put(&self.request);
    }

    fn take(from: &mut Reader<'a>) -> Result<ScanRange<'a>, Malformed> {
        Ok(ScanRange {
            table: from.take()?,
            from: from.bound()?,
            to: from.bound_or_end()?,
            limit: from.take()?,
            reverse: from.take()?,
            request: from.take()?,
        })
    }
}

/// A key read, and the version seen: 0 when it was absent without a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadCheck<'a> {
    pub table: TableId,
    pub key: &'a [u8],
    pub version: Timestamp,
    /// The key was absent: `version` is that of a tombstone, or 0.
    pub absent: bool,
}

impl ReadCheck<'_> {
    /// Fails when one prepare could not carry all of these.
    pub fn check_all(reads: &[ReadCheck<'_>]) -> Result<(), Malformed> {
        let bytes: usize = reads.iter().map(|read| read.key.len()).sum();
        if bytes <= PREPARE_READ_BYTES_MAX { Ok(()) } else { Err(Malformed::TransactionTooBig) }
    }
}

impl<'a> Layout<'a> for ReadCheck<'a> {
    const BYTES_MIN: usize = 2 + 2 + 8 + 1;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.table).key(self.key).put(&self.version).put(&self.absent);
    }

    fn take(from: &mut Reader<'a>) -> Result<ReadCheck<'a>, Malformed> {
        Ok(ReadCheck { table: from.take()?, key: from.key()?, version: from.take()?, absent: from.take()? })
    }
}

/// A range scanned, and the digest of the versions seen in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanCheck<'a> {
    pub range: ScanRange<'a>,
    pub digest: u64,
}

impl<'a> Layout<'a> for ScanCheck<'a> {
    const BYTES_MIN: usize = ScanRange::BYTES_MIN + 8;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.range).put(&self.digest);
    }

    fn take(from: &mut Reader<'a>) -> Result<ScanCheck<'a>, Malformed> {
        Ok(ScanCheck { range: from.take()?, digest: from.take()? })
    }
}

/// A write; `None` deletes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteRef<'a> {
    pub table: TableId,
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

impl WriteRef<'_> {
    /// Bytes of key and value, as `TXN_BYTES_MAX` counts them.
    pub fn payload_bytes(&self) -> usize {
        self.key.len() + self.value.map_or(0, <[u8]>::len)
    }

    /// Fails when no transaction could have written all of these.
    pub fn check_all(writes: &[WriteRef<'_>]) -> Result<(), Malformed> {
        let bytes: usize = writes.iter().map(WriteRef::payload_bytes).sum();
        if bytes <= TXN_BYTES_MAX { Ok(()) } else { Err(Malformed::TransactionTooBig) }
    }

    /// Whether no key is written twice.
    pub fn are_distinct(writes: &[WriteRef<'_>]) -> bool {
        let mut keys: SmallVec<[(TableId, &[u8]); 16]> = writes.iter().map(|w| (w.table, w.key)).collect();
        keys.sort_unstable();
        keys.windows(2).all(|pair| pair[0] != pair[1])
    }
}

impl<'a> Layout<'a> for WriteRef<'a> {
    const BYTES_MIN: usize = 2 + 2 + 4;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.table).key(self.key).value_or_none(self.value);
    }

    fn take(from: &mut Reader<'a>) -> Result<WriteRef<'a>, Malformed> {
        Ok(WriteRef { table: from.take()?, key: from.key()?, value: from.value_or_none()? })
    }
}

/// One row of a scan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row<'a> {
    pub key: &'a [u8],
    pub version: Timestamp,
    pub value: &'a [u8],
}

impl<'a> Layout<'a> for Row<'a> {
    const BYTES_MIN: usize = 2 + 8 + 4;

    fn put(&self, out: &mut Writer<'_>) {
        out.key(self.key).put(&self.version).value(self.value);
    }

    fn take(from: &mut Reader<'a>) -> Result<Row<'a>, Malformed> {
        Ok(Row { key: from.key()?, version: from.take()?, value: from.value()? })
    }
}

/// A snapshot: its timestamp, and the epochs its reader must know to be open (DESIGN §3).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Token {
    pub timestamp: Timestamp,
    pub epochs: SmallVec<[(ShardId, Epoch); 4]>,
}

impl<'a> Layout<'a> for Token {
    const BYTES_MIN: usize = 8 + 4;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.timestamp).list(&self.epochs, SHARDS_MAX);
    }

    fn take(from: &mut Reader<'a>) -> Result<Token, Malformed> {
        Ok(Token { timestamp: from.take()?, epochs: from.short_list(SHARDS_MAX)? })
    }
}

/// Why a participant said no. The coordinator aborts, and decides by the reason whether to run again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Refusal {
    /// Addressed to another epoch than the participant's own.
    WrongEpoch,
    /// The coordinator's own epoch is over.
    ClosedEpoch,
    /// Rests on a transaction that was rolled back.
    LostDependency,
    /// A key or range is locked by a prepared transaction.
    Locked,
    /// A version or digest is not the one that was read.
    Changed,
    /// A bound is reached: later.
    Busy,
    NotLeader,
    UnknownTable,
    TooBig,
    /// Below the partition's snapshot floor.
    SnapshotTooOld,
}

impl Refusal {
    /// In the order of the declaration, which is the tag on the wire.
    pub const ALL: [Refusal; 10] = [
        Refusal::WrongEpoch,
        Refusal::ClosedEpoch,
        Refusal::LostDependency,
        Refusal::Locked,
        Refusal::Changed,
        Refusal::Busy,
        Refusal::NotLeader,
        Refusal::UnknownTable,
        Refusal::TooBig,
        Refusal::SnapshotTooOld,
    ];
}

impl<'a> Layout<'a> for Refusal {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&(*self as u8));
    }

    fn take(from: &mut Reader<'a>) -> Result<Refusal, Malformed> {
        let tag = usize::from(from.take::<u8>()?);
        Refusal::ALL.get(tag).copied().ok_or(Malformed::UnknownTag)
    }
}

/// What a coordinator knows of a transaction that was left prepared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Not decided yet: ask again.
    Pending,
    Aborted,
    Committed {
        timestamp: Timestamp,
        deps: Deps,
        participants: Participants,
    },
}

impl<'a> Layout<'a> for Verdict {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Writer<'_>) {
        match self {
            Verdict::Pending => out.put(&PENDING),
            Verdict::Aborted => out.put(&ABORTED),
            Verdict::Committed { timestamp, deps, participants } => {
                out.put(&COMMITTED).put(timestamp).put(deps).list(participants, PARTITIONS_MAX)
            }
        };
    }

    fn take(from: &mut Reader<'a>) -> Result<Verdict, Malformed> {
        match from.take::<u8>()? {
            PENDING => Ok(Verdict::Pending),
            ABORTED => Ok(Verdict::Aborted),
            COMMITTED => Ok(Verdict::Committed {
                timestamp: from.take()?,
                deps: from.take()?,
                participants: from.short_list(PARTITIONS_MAX)?,
            }),
            _ => Err(Malformed::UnknownTag),
        }
    }
}

const PENDING: u8 = 0;
const ABORTED: u8 = 1;
const COMMITTED: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

    #[test]
    fn a_key_written_twice_is_noticed_wherever_it_stands() {
        let write = |table, key| WriteRef { table: TableId(table), key, value: None };
        let writes: [WriteRef<'_>; 4] = [write(0, b"b"), write(1, b"a"), write(0, b""), write(0, b"a")];
        assert!(WriteRef::are_distinct(&writes));
        for again in writes {
            assert!(!WriteRef::are_distinct(&[&writes[..], &[again]].concat()));
        }
    }

    /// The tag is the position in `ALL`; a table out of step would turn "later" into "never".
    #[test]
    fn every_refusal_comes_back_as_itself() {
        for refusal in Refusal::ALL {
            let mut bytes = Vec::new();
            Writer::new(&mut bytes).put(&refusal);
            assert_eq!(Reader::new(&bytes).take(), Ok(refusal));
        }
        assert_eq!(Reader::new(&[10]).take::<Refusal>(), Err(Malformed::UnknownTag));
    }

    /// Each write may be legal and all of them together not fit a batch.
    #[test]
    fn writes_are_limited_together_as_well() {
        let value = vec![0; VALUE_BYTES_MAX];
        let write = WriteRef { table: TableId(0), key: b"k", value: Some(&value) };
        assert_eq!(WriteRef::check_all(&[write; 4]), Ok(()));
        assert_eq!(WriteRef::check_all(&[write; 5]), Err(Malformed::TransactionTooBig));
    }

    /// A prepare of 16,384 long keys would not fit a message: the limit is on their bytes too.
    #[test]
    fn reads_are_limited_together_as_well() {
        let key = [0; KEY_BYTES_MAX];
        let read = ReadCheck { table: TableId(0), key: &key, version: Timestamp(1), absent: false };
        assert_eq!(ReadCheck::check_all(&[read; 2_048]), Ok(()));
        assert_eq!(ReadCheck::check_all(&[read; 2_049]), Err(Malformed::TransactionTooBig));
    }
}
