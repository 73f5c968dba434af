//! What a fuzzer hands the reader of checkpoints. Checksums are made right first, or nothing would get past the header.
#![forbid(unsafe_code)]

use super::header::FIXED_BYTES;
use super::{
    CheckpointBuilder, CheckpointHeader, CheckpointReader, CheckpointRow, PART_CRC_FROM, PART_HEADER_BYTES,
    PartHeader, Piece, put,
};
use crate::types::{Epoch, PartitionId, ShardId, Slot, Stamp, TableId, Timestamp, Watermark};

/// A row that was kept.
type Row = (TableId, Vec<u8>, Timestamp, Option<Vec<u8>>);

/// Of a checkpoint that reads to its end, one is built that reads the same. In pieces of any size.
pub(crate) fn checkpoint(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    sum_parts(&mut bytes);
    let step = bytes.first().map_or(1, |byte| usize::from(*byte) + 1);
    let Some((header, rows)) = read(&bytes, step) else { return false };
    let mut builder = CheckpointBuilder::new(&header);
    let mut again = Vec::new();
    for (table, key, timestamp, value) in &rows {
        let row = CheckpointRow { table: *table, key, timestamp: *timestamp, value: value.as_deref() };
        builder.push_row(&row);
        again.extend(builder.take_chunk().into_iter().flatten());
    }
    again.extend(builder.finish());
    assert_eq!(read(&again, again.len()), Some((header, rows)));
    true
}

fn read(bytes: &[u8], step: usize) -> Option<(CheckpointHeader, Vec<Row>)> {
    let mut reader = CheckpointReader::of_anyone();
    let (mut header, mut rows) = (None, Vec::new());
    for piece in bytes.chunks(step) {
        let fed = reader.feed(piece, &mut |piece| match piece {
            Piece::Header(found) => header = Some(found.clone()),
            Piece::Row(CheckpointRow { table, key, timestamp, value }) => {
                rows.push((table, key.to_vec(), timestamp, value.map(<[u8]>::to_vec)));
            }
        });
        fed.ok()?;
        assert!(reader.held_bytes() <= bytes.len());
    }
    reader.finish().ok()?;
    Some((header.expect("it was read to its end"), rows))
}

/// As far as the lengths of the parts lead.
fn sum_parts(bytes: &mut [u8]) {
    let Some(fixed) = bytes.get(..FIXED_BYTES) else { return };
    let Ok(length) = CheckpointHeader::length(fixed) else { return };
    let Some(head) = bytes.get_mut(..length) else { return };
    let mut chain = crc32c::crc32c(&head[12..]);
    put(head, 8, &chain.to_le_bytes());
    let mut at = length;
    while let Some(begin) = bytes.get(at..at + PART_HEADER_BYTES) {
        let Some(header) = PartHeader::decode(begin) else { return };
        let Some(part) = bytes.get_mut(at..at + PART_HEADER_BYTES + header.bytes as usize) else { return };
        chain = crc32c::crc32c_append(chain, &part[PART_CRC_FROM..]);
        put(part, 4, &chain.to_le_bytes());
        at += part.len();
    }
}

pub(crate) fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let header = CheckpointHeader {
        cluster: 7,
        partition: PartitionId(1),
        slot: Slot(5),
        applied: Watermark { epoch: Epoch(65_537), timestamp: Timestamp(9) },
        closed: vec![(Stamp { shard: ShardId(1), epoch: Epoch(65_536) }, Timestamp(3))],
        extra: b"extra".to_vec(),
    };
    let row = |key, value| CheckpointRow { table: TableId(2), key, timestamp: Timestamp(4), value };
    let mut builder = CheckpointBuilder::new(&header);
    builder.push_row(&row(&b"a"[..], Some(&b"value"[..])));
    builder.push_row(&row(&b"b"[..], None));
    vec![builder.finish(), CheckpointBuilder::new(&header).finish()]
}
