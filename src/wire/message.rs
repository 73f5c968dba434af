//! Every message between partitions: its fields, its kind, and its bytes.
//!
//! ```text
//! message = version u8, kind u8, partition u16, the other fields in the order of their declaration
//! ```
//! `Exchange` is addressed to a node and has no partition; `Election` to a shard, which stands in its place.
//! A decoded message borrows its keys, values and rows from the bytes.
//!
//! In a request, `partition` is the one addressed and `epoch` that of its shard as the sender knows it. In a
//! reply they are those of the partition that answers; whose call it answers, `rpc` knows by its tag.
//!
//! Invariants:
//!   1. `partition` stands at a fixed place, so that a router can [`peek`] without decoding.
//!   2. No message is longer than `MESSAGE_BYTES_MAX`, whatever its limits allow it to hold (asserted below).
#![forbid(unsafe_code)]

use smallvec::SmallVec;

use super::cursor::{Layout, Reader, Writer};
use super::deps::Deps;
use super::election::ElectionMessage;
use super::malformed::Malformed;
use super::stream::StreamMessage;
use super::txn::{Participants, ReadCheck, Refusal, Row, ScanCheck, ScanRange, Token, Verdict, WriteRef};
use crate::bounds::{
    CHECKPOINT_READ_BYTES_MAX, CLOSED_EPOCHS_MAX, DEPS_MAX, KEY_BYTES_MAX, MESSAGE_BYTES_MAX, PARTITIONS_MAX,
    PREPARE_READ_BYTES_MAX, RANGE_BOUND_BYTES_MAX, SCAN_BYTES_MAX, SCAN_ROWS_MAX, SHARDS_MAX, TXN_BYTES_MAX,
    TXN_READS_MAX, TXN_SCANS_MAX, TXN_WRITES_MAX, VALUE_BYTES_MAX,
};
use crate::types::{
    DiskId, Epoch, NodeId, PartitionId, ShardId, Stamp, TableId, Timestamp, TxnId, Watermark,
};

#[derive(Clone, PartialEq, Debug)]
#[expect(clippy::large_enum_variant, reason = "a message is decoded, matched and gone; none is ever stored")]
pub enum Message<'a> {
    // Requests of a coordinator, of a reader, or of a participant left waiting.
    Read {
        partition: PartitionId,
        epoch: Epoch,
        txn: TxnId,
        table: TableId,
        key: &'a [u8],
    },
    Scan {
        partition: PartitionId,
        epoch: Epoch,
        txn: TxnId,
        range: ScanRange<'a>,
    },
    SnapshotRead {
        partition: PartitionId,
        txn: TxnId,
        token: Token,
        table: TableId,
        key: &'a [u8],
    },
    SnapshotScan {
        partition: PartitionId,
        txn: TxnId,
        token: Token,
        range: ScanRange<'a>,
    },
    Prepare {
        partition: PartitionId,
        epoch: Epoch,
        txn: TxnId,
        /// How far above its clock to propose, for the time the decision takes to come back. A wish: the
        /// participant lowers it to `HOLD_NS_MAX`.
        hold_ns: u64,
        deps: Deps,
        reads: Vec<ReadCheck<'a>>,
        scans: Vec<ScanCheck<'a>>,
        writes: Vec<WriteRef<'a>>,
    },
    Commit {
        partition: PartitionId,
        epoch: Epoch,
        txn: TxnId,
        timestamp: Timestamp,
        deps: Deps,
        participants: Participants,
    },
    Abort {
        partition: PartitionId,
        epoch: Epoch,
        txn: TxnId,
    },
    /// A participant asks the coordinator of a transaction left prepared.
    Inquire {
        partition: PartitionId,
        epoch: Epoch,
        txn: TxnId,
    },

    // Replies.
    ReadReply {
        partition: PartitionId,
        epoch: Epoch,
        txn: TxnId,
        /// 0 when the key was absent without a record.
        version: Timestamp,
        deps: Deps,
        value: Option<&'a [u8]>,
        table: TableId,
        key: &'a [u8],
    },
    ScanReply {
        partition: PartitionId,
        epoch: Epoch,
        txn: TxnId,
        digest: u64,
        deps: Deps,
        rows: Vec<Row<'a>>,
        /// False when a bound on rows or bytes cut the range short.
        complete: bool,
        request: u32,
    },
    Vote {
        partition: PartitionId,
        epoch: Epoch,
        txn: TxnId,
        proposal: Timestamp,
    },
    Refused {
        partition: PartitionId,
        epoch: Epoch,
        txn: TxnId,
        reason: Refusal,
    },
    Done {
        partition: PartitionId,
        epoch: Epoch,
        txn: TxnId,
    },
    /// The answer to `Inquire`.
    Decision {
        partition: PartitionId,
        txn: TxnId,
        verdict: Verdict,
    },

    // Casts: lost ones are not missed.
    /// All a node knows of all shards. Whoever sends it keeps it within one frame.
    Exchange {
        vector: SmallVec<[(ShardId, Watermark); 8]>,
        wanted: SmallVec<[(ShardId, Timestamp); 8]>,
        closed: SmallVec<[(Stamp, Timestamp); 4]>,
    },
    Stream {
        partition: PartitionId,
        from: NodeId,
        message: StreamMessage,
    },
    Election {
        shard: ShardId,
        from: NodeId,
        message: ElectionMessage,
    },

    // Checkpoints between replicas, a piece at a time.
    /// A replica that is too far behind asks for the bytes from `offset` on.
    CheckpointFetch {
        partition: PartitionId,
        from: NodeId,
        /// Which one; 0 for whichever there is.
        checkpoint: u32,
        offset: u64,
    },
    /// The answer, perhaps of another checkpoint than the one asked for.
    CheckpointPart {
        partition: PartitionId,
        from: NodeId,
        checkpoint: u32,
        offset: u64,
        /// Bytes of the whole.
        total: u64,
        bytes: &'a [u8],
    },
    /// The other answer: there is none that would help, or too much to do. Ask again.
    CheckpointPending {
        partition: PartitionId,
        from: NodeId,
    },

    // Between replicas that may not know each other yet. Casts.
    /// A replica that does not take part yet says who it is.
    Greet {
        partition: PartitionId,
        from: NodeId,
        disk: DiskId,
        /// It knows that it has forgotten what it promised.
        rebuilds: bool,
    },
    /// The answer: who the other is, and whether it knows the one who greeted by that disk and no other.
    Greeted {
        partition: PartitionId,
        from: NodeId,
        disk: DiskId,
        rebuilds: bool,
        /// The one that was greeted with.
        to: DiskId,
        welcome: bool,
    },
}

impl<'a> Message<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Message<'a>, Malformed> {
        let mut reader = Reader::new(bytes);
        let kind = take_envelope(&mut reader)?;
        let message = match kind {
            Kind::Exchange => take_exchange(&mut reader)?,
            Kind::Election => {
                Message::Election { shard: reader.take()?, from: reader.take()?, message: reader.take()? }
            }
            _ => take_addressed(kind, &mut reader)?,
        };
        reader.finish()?;
        Ok(message)
    }

    /// Appends the message to `out`, which keeps what it held.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let mut writer = Writer::new(out);
        writer.put(&WIRE_VERSION).put(&self.kind());
        if let Some(partition) = self.partition() {
            writer.put(&partition);
        }
        self.put_fields(&mut writer);
        let len = out.len() - start;
        assert!(len <= MESSAGE_BYTES_MAX, "a {:?} of {len} bytes", self.kind());
    }

    /// `None` for what is addressed to a node or to a shard.
    pub fn partition(&self) -> Option<PartitionId> {
        match self {
            Message::Exchange { .. } | Message::Election { .. } => None,
            Message::Read { partition, .. }
            | Message::Scan { partition, .. }
            | Message::SnapshotRead { partition, .. }
            | Message::SnapshotScan { partition, .. }
            | Message::Prepare { partition, .. }
            | Message::Commit { partition, .. }
            | Message::Abort { partition, .. }
            | Message::Inquire { partition, .. }
            | Message::ReadReply { partition, .. }
            | Message::ScanReply { partition, .. }
            | Message::Vote { partition, .. }
            | Message::Refused { partition, .. }
            | Message::Done { partition, .. }
            | Message::Decision { partition, .. }
            | Message::Stream { partition, .. }
            | Message::CheckpointFetch { partition, .. }
            | Message::CheckpointPart { partition, .. }
            | Message::CheckpointPending { partition, .. }
            | Message::Greet { partition, .. }
            | Message::Greeted { partition, .. } => Some(*partition),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Message::Read { .. } => Kind::Read,
            Message::Scan { .. } => Kind::Scan,
            Message::SnapshotRead { .. } => Kind::SnapshotRead,
            Message::SnapshotScan { .. } => Kind::SnapshotScan,
            Message::Prepare { .. } => Kind::Prepare,
            Message::Commit { .. } => Kind::Commit,
            Message::Abort { .. } => Kind::Abort,
            Message::Inquire { .. } => Kind::Inquire,
            Message::ReadReply { .. } => Kind::ReadReply,
            Message::ScanReply { .. } => Kind::ScanReply,
            Message::Vote { .. } => Kind::Vote,
            Message::Refused { .. } => Kind::Refused,
            Message::Done { .. } => Kind::Done,
            Message::Decision { .. } => Kind::Decision,
            Message::Exchange { .. } => Kind::Exchange,
            Message::Stream { .. } => Kind::Stream,
            Message::Election { .. } => Kind::Election,
            Message::CheckpointFetch { .. } => Kind::CheckpointFetch,
            Message::CheckpointPart { .. } => Kind::CheckpointPart,
            Message::CheckpointPending { .. } => Kind::CheckpointPending,
            Message::Greet { .. } => Kind::Greet,
            Message::Greeted { .. } => Kind::Greeted,
        }
    }

    /// Everything behind the envelope and the partition.
    fn put_fields(&self, out: &mut Writer<'_>) {
        match self {
            Message::Read { epoch, txn, table, key, .. } => out.put(epoch).put(txn).put(table).key(key),
            Message::Scan { epoch, txn, range, .. } => out.put(epoch).put(txn).put(range),
            Message::SnapshotRead { txn, token, table, key, .. } => {
                out.put(txn).put(token).put(table).key(key)
            }
            Message::SnapshotScan { txn, token, range, .. } => out.put(txn).put(token).put(range),
            Message::Prepare { epoch, txn, hold_ns, deps, reads, scans, writes, .. } => {
                assert_eq!(ReadCheck::check_all(reads), Ok(()));
                assert_eq!(WriteRef::check_all(writes), Ok(()));
                out.put(epoch).put(txn).put(hold_ns).put(deps);
                out.list(reads, TXN_READS_MAX).list(scans, TXN_SCANS_MAX).list(writes, TXN_WRITES_MAX)
            }
            Message::Commit { epoch, txn, timestamp, deps, participants, .. } => {
                out.put(epoch).put(txn).put(timestamp).put(deps).list(participants, PARTITIONS_MAX)
            }
            Message::Abort { epoch, txn, .. }
            | Message::Inquire { epoch, txn, .. }
            | Message::Done { epoch, txn, .. } => out.put(epoch).put(txn),
            Message::ReadReply { epoch, txn, version, deps, value, table, key, .. } => {
                out.put(epoch).put(txn).put(version).put(deps).value_or_none(*value).put(table).key(key)
            }
            Message::ScanReply { epoch, txn, digest, deps, rows, complete, request, .. } => {
                out.put(epoch).put(txn).put(digest).put(deps).list(rows, SCAN_ROWS_MAX);
                out.put(complete).put(request)
            }
            Message::Vote { epoch, txn, proposal, .. } => out.put(epoch).put(txn).put(proposal),
            Message::Refused { epoch, txn, reason, .. } => out.put(epoch).put(txn).put(reason),
            Message::Decision { txn, verdict, .. } => out.put(txn).put(verdict),
            Message::Exchange { vector, wanted, closed } => {
                out.list(vector, SHARDS_MAX).list(wanted, SHARDS_MAX).list(closed, CLOSED_EPOCHS_MAX)
            }
            Message::Stream { from, message, .. } => out.put(from).put(message),
            Message::Election { shard, from, message } => out.put(shard).put(from).put(message),
            Message::CheckpointFetch { from, checkpoint, offset, .. } => {
                out.put(from).put(checkpoint).put(offset)
            }
            Message::CheckpointPart { from, checkpoint, offset, total, bytes, .. } => {
                out.put(from).put(checkpoint).put(offset).put(total).value(bytes)
            }
            Message::CheckpointPending { from, .. } => out.put(from),
            Message::Greet { from, disk, rebuilds, .. } => out.put(from).put(disk).put(rebuilds),
            Message::Greeted { from, disk, rebuilds, to, welcome, .. } => {
                out.put(from).put(disk).put(rebuilds).put(to).put(welcome)
            }
        };
    }
}

/// What a router needs: the kind, and the partition if one is addressed. The rest may still be malformed.
pub fn peek(bytes: &[u8]) -> Result<(Kind, Option<PartitionId>), Malformed> {
    let mut reader = Reader::new(bytes);
    match take_envelope(&mut reader)? {
        kind @ (Kind::Exchange | Kind::Election) => Ok((kind, None)),
        kind => Ok((kind, Some(reader.take()?))),
    }
}

/// The bytes of one message, in a buffer of their own.
pub fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode_into(&mut bytes);
    bytes
}

/// A kind's tag on the wire is its place in this list: append, and never reorder.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    Read,
    Scan,
    SnapshotRead,
    SnapshotScan,
    Prepare,
    Commit,
    Abort,
    Inquire,
    ReadReply,
    ScanReply,
    Vote,
    Refused,
    Done,
    Decision,
    Exchange,
    Stream,
    Election,
    CheckpointFetch,
    CheckpointPart,
    CheckpointPending,
    Greet,
    Greeted,
}

impl Kind {
    pub const ALL: [Kind; 22] = [
        Kind::Read,
        Kind::Scan,
        Kind::SnapshotRead,
        Kind::SnapshotScan,
        Kind::Prepare,
        Kind::Commit,
        Kind::Abort,
        Kind::Inquire,
        Kind::ReadReply,
        Kind::ScanReply,
        Kind::Vote,
        Kind::Refused,
        Kind::Done,
        Kind::Decision,
        Kind::Exchange,
        Kind::Stream,
        Kind::Election,
        Kind::CheckpointFetch,
        Kind::CheckpointPart,
        Kind::CheckpointPending,
        Kind::Greet,
        Kind::Greeted,
    ];

    /// Kinds that name one attempt of a transaction at one epoch: both follow the partition at once.
    fn names_attempt(self) -> bool {
        !matches!(
            self,
            Kind::SnapshotRead
                | Kind::SnapshotScan
                | Kind::Decision
                | Kind::Exchange
                | Kind::Stream
                | Kind::Election
                | Kind::CheckpointFetch
                | Kind::CheckpointPart
                | Kind::CheckpointPending
                | Kind::Greet
                | Kind::Greeted
        )
    }
}

impl<'a> Layout<'a> for Kind {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&(*self as u8));
    }

    fn take(from: &mut Reader<'a>) -> Result<Kind, Malformed> {
        let tag = usize::from(from.take::<u8>()?);
        Kind::ALL.get(tag).copied().ok_or(Malformed::UnknownKind)
    }
}

fn take_envelope(from: &mut Reader<'_>) -> Result<Kind, Malformed> {
    if from.rest().len() > MESSAGE_BYTES_MAX {
        return Err(Malformed::TooLong);
    }
    if from.take::<u8>()? != WIRE_VERSION {
        return Err(Malformed::WrongVersion);
    }
    from.take()
}

fn take_exchange<'a>(from: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    Ok(Message::Exchange {
        vector: from.short_list(SHARDS_MAX)?,
        wanted: from.short_list(SHARDS_MAX)?,
        closed: from.short_list(CLOSED_EPOCHS_MAX)?,
    })
}

fn take_addressed<'a>(kind: Kind, from: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    let partition: PartitionId = from.take()?;
    let (epoch, txn) = if kind.names_attempt() { from.take()? } else { Default::default() };
    Ok(match kind {
        Kind::Read => Message::Read { partition, epoch, txn, table: from.take()?, key: from.key()? },
        Kind::Scan => Message::Scan { partition, epoch, txn, range: from.take()? },
        Kind::SnapshotRead => Message::SnapshotRead {
            partition,
            txn: from.take()?,
            token: from.take()?,
            table: from.take()?,
            key: from.key()?,
        },
        Kind::SnapshotScan => {
            Message::SnapshotScan { partition, txn: from.take()?, token: from.take()?, range: from.take()? }
        }
        Kind::Prepare => take_prepare(partition, epoch, txn, from)?,
        Kind::Commit => Message::Commit {
            partition,
            epoch,
            txn,
            timestamp: from.take()?,
            deps: from.take()?,
            participants: from.short_list(PARTITIONS_MAX)?,
        },
        Kind::Abort => Message::Abort { partition, epoch, txn },
        Kind::Inquire => Message::Inquire { partition, epoch, txn },
        Kind::ReadReply => Message::ReadReply {
            partition,
            epoch,
            txn,
            version: from.take()?,
            deps: from.take()?,
            value: from.value_or_none()?,
            table: from.take()?,
            key: from.key()?,
        },
        Kind::ScanReply => Message::ScanReply {
            partition,
            epoch,
            txn,
            digest: from.take()?,
            deps: from.take()?,
            rows: from.list(SCAN_ROWS_MAX)?,
            complete: from.take()?,
            request: from.take()?,
        },
        Kind::Vote => Message::Vote { partition, epoch, txn, proposal: from.take()? },
        Kind::Refused => Message::Refused { partition, epoch, txn, reason: from.take()? },
        Kind::Done => Message::Done { partition, epoch, txn },
        Kind::Decision => Message::Decision { partition, txn: from.take()?, verdict: from.take()? },
        Kind::Exchange | Kind::Election => unreachable!("{kind:?} addresses no partition"),
        Kind::Stream => Message::Stream { partition, from: from.take()?, message: from.take()? },
        Kind::CheckpointFetch
        | Kind::CheckpointPart
        | Kind::CheckpointPending
        | Kind::Greet
        | Kind::Greeted => take_of_replica(kind, partition, from)?,
    })
}

/// What replicas tell each other of checkpoints and of themselves.
fn take_of_replica<'a>(
    kind: Kind,
    partition: PartitionId,
    from: &mut Reader<'a>,
) -> Result<Message<'a>, Malformed> {
    Ok(match kind {
        Kind::CheckpointFetch => {
            let (sender, (checkpoint, offset)) = from.take()?;
            Message::CheckpointFetch { partition, from: sender, checkpoint, offset }
        }
        Kind::CheckpointPart => {
            let ((sender, checkpoint), (offset, total)) = from.take()?;
            Message::CheckpointPart {
                partition,
                from: sender,
                checkpoint,
                offset,
                total,
                bytes: from.value()?,
            }
        }
        Kind::CheckpointPending => Message::CheckpointPending { partition, from: from.take()? },
        Kind::Greet => {
            let (sender, (disk, rebuilds)) = from.take()?;
            Message::Greet { partition, from: sender, disk, rebuilds }
        }
        Kind::Greeted => {
            let (sender, (disk, rebuilds)) = from.take()?;
            Message::Greeted {
                partition,
                from: sender,
                disk,
                rebuilds,
                to: from.take()?,
                welcome: from.take()?,
            }
        }
        _ => unreachable!("{kind:?} is taken elsewhere"),
    })
}

fn take_prepare<'a>(
    partition: PartitionId,
    epoch: Epoch,
    txn: TxnId,
    from: &mut Reader<'a>,
) -> Result<Message<'a>, Malformed> {
    let (hold_ns, deps) = from.take()?;
    let reads = from.list(TXN_READS_MAX)?;
    ReadCheck::check_all(&reads)?;
    let scans = from.list(TXN_SCANS_MAX)?;
    let writes = from.list(TXN_WRITES_MAX)?;
    WriteRef::check_all(&writes)?;
    Ok(Message::Prepare { partition, epoch, txn, hold_ns, deps, reads, scans, writes })
}

/// Raised with every change of a layout; nodes of two versions drop each other's messages, counted.
const WIRE_VERSION: u8 = 1;

/// Version, kind, partition, epoch, transaction, dependencies, three counts, and room for a few integers.
const FIXED_BYTES_MAX: usize = 128 + DEPS_MAX * <(Stamp, Timestamp)>::BYTES_MIN;

// Invariant 2 for the two messages that lists make large; `bounds` asserts it for batches.
const _: () = assert!(
    FIXED_BYTES_MAX
        + TXN_READS_MAX * ReadCheck::BYTES_MIN
        + PREPARE_READ_BYTES_MAX
        + TXN_SCANS_MAX * (ScanCheck::BYTES_MIN + 2 * RANGE_BOUND_BYTES_MAX)
        + TXN_WRITES_MAX * WriteRef::BYTES_MIN
        + TXN_BYTES_MAX
        <= MESSAGE_BYTES_MAX
);
// A scan may overshoot its bytes by the row that reached them.
const _: () = assert!(
    FIXED_BYTES_MAX + SCAN_ROWS_MAX * Row::BYTES_MIN + SCAN_BYTES_MAX + KEY_BYTES_MAX + VALUE_BYTES_MAX
        <= MESSAGE_BYTES_MAX
);
// A piece of a checkpoint travels as a value does.
const _: () = assert!(CHECKPOINT_READ_BYTES_MAX <= VALUE_BYTES_MAX);
