//! The layouts of the words every layer shares: integers, identifiers, ballots, stamps.
//!
//! Invariant: an identifier that decodes is below its limit in `bounds`, so tables sized by that limit
//! may be indexed with it. Whether the cluster at hand has such a node or table is not known here.
#![forbid(unsafe_code)]

use super::cursor::{Layout, Reader, Writer};
use super::malformed::Malformed;
use crate::bounds::{NODES_MAX, PARTITIONS_MAX, SHARDS_MAX, TABLES_MAX};
use crate::types::{
    Ballot, DiskId, Epoch, NodeId, PartitionId, ShardId, Slot, Stamp, TableId, Timestamp, TxnId, Watermark,
};

impl<'a> Layout<'a> for u8 {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Writer<'_>) {
        out.bytes(&[*self]);
    }

    fn take(from: &mut Reader<'a>) -> Result<u8, Malformed> {
        from.array().map(u8::from_le_bytes)
    }
}

impl<'a> Layout<'a> for u16 {
    const BYTES_MIN: usize = 2;

    fn put(&self, out: &mut Writer<'_>) {
        out.bytes(&self.to_le_bytes());
    }

    fn take(from: &mut Reader<'a>) -> Result<u16, Malformed> {
        from.array().map(u16::from_le_bytes)
    }
}

impl<'a> Layout<'a> for u32 {
    const BYTES_MIN: usize = 4;

    fn put(&self, out: &mut Writer<'_>) {
        out.bytes(&self.to_le_bytes());
    }

    fn take(from: &mut Reader<'a>) -> Result<u32, Malformed> {
        from.array().map(u32::from_le_bytes)
    }
}

impl<'a> Layout<'a> for u64 {
    const BYTES_MIN: usize = 8;

    fn put(&self, out: &mut Writer<'_>) {
        out.bytes(&self.to_le_bytes());
    }

    fn take(from: &mut Reader<'a>) -> Result<u64, Malformed> {
        from.array().map(u64::from_le_bytes)
    }
}

/// Only 0 and 1: one value, one encoding.
impl<'a> Layout<'a> for bool {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&u8::from(*self));
    }

    fn take(from: &mut Reader<'a>) -> Result<bool, Malformed> {
        match from.take::<u8>()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::UnknownTag),
        }
    }
}

impl<'a, A: Layout<'a>, B: Layout<'a>> Layout<'a> for (A, B) {
    const BYTES_MIN: usize = A::BYTES_MIN + B::BYTES_MIN;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.0).put(&self.1);
    }

    fn take(from: &mut Reader<'a>) -> Result<(A, B), Malformed> {
        Ok((from.take()?, from.take()?))
    }
}

impl<'a> Layout<'a> for NodeId {
    const BYTES_MIN: usize = 2;

    fn put(&self, out: &mut Writer<'_>) {
        put_id(out, self.0, NODES_MAX);
    }

    fn take(from: &mut Reader<'a>) -> Result<NodeId, Malformed> {
        take_id(from, NODES_MAX).map(NodeId)
    }
}

impl<'a> Layout<'a> for ShardId {
    const BYTES_MIN: usize = 2;

    fn put(&self, out: &mut Writer<'_>) {
        put_id(out, self.0, SHARDS_MAX);
    }

    fn take(from: &mut Reader<'a>) -> Result<ShardId, Malformed> {
        take_id(from, SHARDS_MAX).map(ShardId)
    }
}

impl<'a> Layout<'a> for PartitionId {
    const BYTES_MIN: usize = 2;

    fn put(&self, out: &mut Writer<'_>) {
        put_id(out, self.0, PARTITIONS_MAX);
    }

    fn take(from: &mut Reader<'a>) -> Result<PartitionId, Malformed> {
        take_id(from, PARTITIONS_MAX).map(PartitionId)
    }
}

impl<'a> Layout<'a> for TableId {
    const BYTES_MIN: usize = 2;

    fn put(&self, out: &mut Writer<'_>) {
        put_id(out, self.0, TABLES_MAX);
    }

    fn take(from: &mut Reader<'a>) -> Result<TableId, Malformed> {
        take_id(from, TABLES_MAX).map(TableId)
    }
}

impl<'a> Layout<'a> for Timestamp {
    const BYTES_MIN: usize = 8;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.0);
    }

    fn take(from: &mut Reader<'a>) -> Result<Timestamp, Malformed> {
        from.take().map(Timestamp)
    }
}

impl<'a> Layout<'a> for DiskId {
    const BYTES_MIN: usize = 8;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.0);
    }

    fn take(from: &mut Reader<'a>) -> Result<DiskId, Malformed> {
        from.take().map(DiskId)
    }
}

impl<'a> Layout<'a> for Slot {
    const BYTES_MIN: usize = 8;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.0);
    }

    fn take(from: &mut Reader<'a>) -> Result<Slot, Malformed> {
        from.take().map(Slot)
    }
}

impl<'a> Layout<'a> for Ballot {
    const BYTES_MIN: usize = 8;

    fn put(&self, out: &mut Writer<'_>) {
        assert!(usize::from(self.node.0) < NODES_MAX, "a ballot of node {}", self.node.0);
        out.put(&self.pack());
    }

    fn take(from: &mut Reader<'a>) -> Result<Ballot, Malformed> {
        let ballot = Ballot::unpack(from.take()?).ok_or(Malformed::NotABallot)?;
        if usize::from(ballot.node.0) < NODES_MAX { Ok(ballot) } else { Err(Malformed::IdOutOfRange) }
    }
}

/// An epoch is compared and never taken apart, so its node is not looked at; but it is a packed ballot,
/// and one above every ballot could never be superseded.
impl<'a> Layout<'a> for Epoch {
    const BYTES_MIN: usize = 8;

    fn put(&self, out: &mut Writer<'_>) {
        assert!(Ballot::unpack(self.0).is_some(), "an epoch that is no ballot: {:#x}", self.0);
        out.put(&self.0);
    }

    fn take(from: &mut Reader<'a>) -> Result<Epoch, Malformed> {
        let bits = from.take()?;
        Ballot::unpack(bits).map(|_| Epoch(bits)).ok_or(Malformed::NotABallot)
    }
}

impl<'a> Layout<'a> for Stamp {
    const BYTES_MIN: usize = 10;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.shard).put(&self.epoch);
    }

    fn take(from: &mut Reader<'a>) -> Result<Stamp, Malformed> {
        Ok(Stamp { shard: from.take()?, epoch: from.take()? })
    }
}

impl<'a> Layout<'a> for Watermark {
    const BYTES_MIN: usize = 16;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.epoch).put(&self.timestamp);
    }

    fn take(from: &mut Reader<'a>) -> Result<Watermark, Malformed> {
        Ok(Watermark { epoch: from.take()?, timestamp: from.take()? })
    }
}

impl<'a> Layout<'a> for TxnId {
    const BYTES_MIN: usize = 18;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.home).put(&self.epoch).put(&self.number);
    }

    fn take(from: &mut Reader<'a>) -> Result<TxnId, Malformed> {
        Ok(TxnId { home: from.take()?, epoch: from.take()?, number: from.take()? })
    }
}

fn put_id(out: &mut Writer<'_>, id: u16, limit: usize) {
    assert!(usize::from(id) < limit, "identifier {id} where {limit} are allowed");
    out.put(&id);
}

fn take_id(from: &mut Reader<'_>, limit: usize) -> Result<u16, Malformed> {
    let id = from.take::<u16>()?;
    if usize::from(id) < limit { Ok(id) } else { Err(Malformed::IdOutOfRange) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables are indexed by identifiers that came over the wire: one beyond the limit would panic a core.
    #[test]
    fn an_identifier_at_its_limit_is_refused() {
        let at = |limit: usize| u16::try_from(limit).unwrap().to_le_bytes();
        assert_eq!(Reader::new(&at(NODES_MAX)).take::<NodeId>(), Err(Malformed::IdOutOfRange));
        assert_eq!(Reader::new(&at(SHARDS_MAX)).take::<ShardId>(), Err(Malformed::IdOutOfRange));
        assert_eq!(Reader::new(&at(PARTITIONS_MAX)).take::<PartitionId>(), Err(Malformed::IdOutOfRange));
        assert_eq!(Reader::new(&at(TABLES_MAX)).take::<TableId>(), Err(Malformed::IdOutOfRange));
        assert_eq!(Reader::new(&at(SHARDS_MAX - 1)).take::<ShardId>().map(|s| usize::from(s.0)), Ok(63));
    }

    /// An epoch above every possible ballot would close a shard for good: no election could outrank it.
    #[test]
    fn an_epoch_or_ballot_no_election_could_have_won_is_refused() {
        let beyond = (1_u64 << 48).to_le_bytes();
        assert_eq!(Reader::new(&beyond).take::<Epoch>(), Err(Malformed::NotABallot));
        assert_eq!(Reader::new(&beyond).take::<Ballot>(), Err(Malformed::NotABallot));
        let foreign = (7_u64 << 16 | 0xffff).to_le_bytes();
        assert_eq!(Reader::new(&foreign).take::<Ballot>(), Err(Malformed::IdOutOfRange));
    }

    #[test]
    fn a_flag_is_0_or_1() {
        assert_eq!(Reader::new(&[1]).take(), Ok(true));
        assert_eq!(Reader::new(&[2]).take::<bool>(), Err(Malformed::UnknownTag));
    }
}
