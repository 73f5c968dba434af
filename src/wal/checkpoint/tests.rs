//! Checkpoints there and back: every flipped bit, every cut, parts that belong elsewhere, hostile bytes.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::*;
use crate::bounds::KIB;
use crate::types::{Epoch, ShardId, Slot, Stamp, Watermark};

type Row = (u16, Vec<u8>, u64, Option<Vec<u8>>);

const CLUSTER: u64 = 0x1234_5678_9abc_def0;
const PARTITION: PartitionId = PartitionId(7);

fn header(extra: usize) -> CheckpointHeader {
    let stamp = |shard, epoch| Stamp { shard: ShardId(shard), epoch: Epoch(epoch) };
    CheckpointHeader {
        cluster: CLUSTER,
        partition: PARTITION,
        slot: Slot(991),
        applied: Watermark { epoch: Epoch(65_537), timestamp: Timestamp(1_000_001) },
        closed: vec![(stamp(0, 65_536), Timestamp(5)), (stamp(3, 131_073), Timestamp(u64::MAX))],
        extra: (0..extra).map(|at| at.to_le_bytes()[0]).collect(),
    }
}

fn rows(count: u64, value_bytes: usize) -> Vec<Row> {
    let row = |number: u64| {
        let value = vec![number.to_le_bytes()[0]; value_bytes];
        let value = (!number.is_multiple_of(3)).then_some(value);
        (number.to_le_bytes()[0].into(), format!("key-{number}").into_bytes(), number << 20, value)
    };
    (0..count).map(row).collect()
}

/// The pieces the builder yields.
fn build(header: &CheckpointHeader, rows: &[Row]) -> Vec<Vec<u8>> {
    let mut builder = CheckpointBuilder::new(header);
    let mut pieces = Vec::new();
    for (table, key, timestamp, value) in rows {
        let (table, timestamp) = (TableId(*table), Timestamp(*timestamp));
        builder.push_row(&CheckpointRow { table, key, timestamp, value: value.as_deref() });
        pieces.extend(builder.take_chunk().map(<[u8]>::to_vec));
    }
    pieces.push(builder.finish());
    pieces
}

/// What a reader makes of bytes that come in pieces of `step`.
fn read(
    bytes: &[u8],
    step: usize,
) -> Result<(CheckpointHeader, Vec<Row>, CheckpointSummary), CheckpointDamage> {
    let mut reader = CheckpointReader::new(CLUSTER, PARTITION);
    let (mut header, mut rows) = (None, Vec::new());
    for piece in bytes.chunks(step) {
        reader.feed(piece, &mut |piece| match piece {
            Piece::Header(found) => header = Some(found.clone()),
            Piece::Row(CheckpointRow { table, key, timestamp, value }) => {
                rows.push((table.0, key.to_vec(), timestamp.0, value.map(<[u8]>::to_vec)));
            }
        })?;
        assert!(reader.held_bytes() <= CHECKPOINT_WRITE_BYTES_MAX);
    }
    let summary = reader.finish()?;
    Ok((header.expect("a whole checkpoint has a header"), rows, summary))
}

/// A partition that comes back with a row less, or a tombstone as an empty value, is not the same.
#[test]
fn a_checkpoint_comes_back_whole_in_pieces_of_any_size() {
    let largest = vec![0xaa; VALUE_BYTES_MAX];
    let mut all = rows(3_000, 200);
    all.push((9, Vec::new(), 0, Some(Vec::new())));
    all.push((9, vec![1; KEY_BYTES_MAX], u64::MAX, Some(largest)));
    let header = header(CHECKPOINT_EXTRA_BYTES_MAX);
    let pieces = build(&header, &all);
    assert!(pieces.len() > 2 && pieces.iter().all(|piece| piece.len() <= CHECKPOINT_WRITE_BYTES_MAX));
    let bytes = pieces.concat();
    for step in [1_000, 4_096, 100_003, bytes.len()] {
        let (found, rows, summary) = read(&bytes, step).unwrap();
        assert!(found == header && rows == all, "in pieces of {step}");
        assert_eq!((summary.rows, summary.bytes), (all.len() as u64, bytes.len() as u64));
        assert_eq!(summary.tombstones, 1_000);
        assert!(summary.chunks >= 2, "one chunk proves nothing");
    }
}

/// A partition may be empty, and is then still worth a checkpoint: its promise and its slot count.
#[test]
fn a_checkpoint_without_rows_comes_back() {
    let bytes = build(&header(0), &[]).concat();
    let (found, rows, _) = read(&bytes, 1).unwrap();
    assert_eq!((found, rows), (header(0), Vec::new()));
}

/// What rots on the drive is loaded into a replica that then serves it.
#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = build(&header(10), &rows(20, 9)).concat();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let damage = read(&flipped, bytes.len()).expect_err(&format!("bit {bit}"));
        assert!(damage.offset <= bit as u64 / 8, "bit {bit} told as {damage}");
        assert!(!damage.why.is_unsuitable(), "bit {bit} told as {damage}");
    }
}

/// A file cut short at the very end of a chunk looks like a smaller partition.
#[test]
fn every_truncation_is_noticed_and_so_is_a_tail() {
    let bytes = build(&header(10), &rows(20, 9)).concat();
    for cut in 0..bytes.len() {
        assert!(read(&bytes[..cut], 64).is_err(), "cut at {cut}");
    }
    let mut long = bytes.clone();
    long.push(0);
    let damage = CheckpointDamage { offset: bytes.len() as u64, why: CheckpointWhy::Trailing };
    assert_eq!(read(&long, 64), Err(damage));
}

/// Pieces fetched from a peer may be repeated, left out, or of the checkpoint before this one: rows of two
/// moments make a state that never was.
#[test]
fn chunks_left_out_repeated_or_of_another_checkpoint_are_noticed() {
    let all = rows(8_000, 250);
    let pieces = build(&header(10), &all);
    assert!(pieces.len() >= 4, "{} pieces", pieces.len());
    let without = [&pieces[..1], &pieces[2..]].concat();
    let order = CheckpointWhy::Order { found: 2, expected: 1 };
    let at = pieces[0].len() as u64;
    assert_eq!(read(&without.concat(), 4_096).unwrap_err(), CheckpointDamage { offset: at, why: order });
    let repeated = [&pieces[..2], &pieces[1..]].concat();
    assert!(matches!(read(&repeated.concat(), 4_096).unwrap_err().why, CheckpointWhy::Order { .. }));

    // The same rows under another header, and another row in a chunk before.
    let later = build(&CheckpointHeader { slot: Slot(992), ..header(10) }, &all);
    let mut changed = all.clone();
    changed[0].2 += 1;
    let changed = build(&header(10), &changed);
    for other in [later, changed] {
        let mixed = [&pieces[..1], &other[1..2], &pieces[2..]].concat();
        let damage = read(&mixed.concat(), 4_096).unwrap_err();
        assert_eq!(damage, CheckpointDamage { offset: at, why: CheckpointWhy::Chunk });
    }
}

/// A checkpoint put under another partition's name would be served as its data.
#[test]
fn the_checkpoint_of_another_partition_or_cluster_is_refused_by_name() {
    let bytes = build(&header(0), &rows(1, 1)).concat();
    for (cluster, partition) in [(CLUSTER, PartitionId(8)), (CLUSTER + 1, PARTITION)] {
        let mut reader = CheckpointReader::new(cluster, partition);
        let refused = reader.feed(&bytes, &mut |_| panic!("nothing of it may be delivered")).unwrap_err();
        assert_eq!(refused.why, CheckpointWhy::Foreign { cluster: CLUSTER, partition: PARTITION });
        assert!(refused.why.is_unsuitable());
    }
    CheckpointReader::of_anyone().feed(&bytes, &mut |_| {}).unwrap();
}

/// A newer program's checkpoint is not damage: the operator must hear which version it has.
#[test]
fn another_version_is_refused_by_its_number() {
    let mut bytes = build(&header(0), &[]).concat();
    let length = CheckpointHeader::length(&bytes).unwrap();
    put(&mut bytes, 12, &2_u32.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[12..length]);
    put(&mut bytes, 8, &crc.to_le_bytes());
    assert_eq!(read(&bytes, 64).unwrap_err().why, CheckpointWhy::Version { found: 2 });
}

/// Checksums that happen to hold over nonsense: counts and lengths at their limits must not overflow, and
/// no row of a chunk that is not sound may be delivered.
#[test]
fn parts_with_true_checksums_and_false_counts_are_refused() {
    let mut start = Vec::new();
    let chain = header(0).encode(&mut start);
    let row = build(&header(0), &rows(2, 40)).concat();
    let row = &row[start.len() + PART_HEADER_BYTES..row.len() - PART_HEADER_BYTES - 16];
    for rows in [0, 1, 3, u32::MAX] {
        let mut part = vec![0; PART_HEADER_BYTES];
        part.extend_from_slice(row);
        let bytes = u32::try_from(row.len()).unwrap();
        PartHeader { kind: PartKind::Chunk, bytes, rows, number: 0 }.seal(&mut part, chain);
        let mut reader = CheckpointReader::new(CLUSTER, PARTITION);
        reader.feed(&start, &mut |_| {}).unwrap();
        let refused = reader.feed(&part, &mut |_| panic!("delivered")).unwrap_err();
        assert_eq!(refused.why, CheckpointWhy::Row, "{rows} rows");
    }
    for footer in [[0_u64, 0], [1, start.len() as u64], [u64::MAX, u64::MAX]] {
        let mut part = vec![0; PART_HEADER_BYTES];
        footer.iter().for_each(|word| part.extend_from_slice(&word.to_le_bytes()));
        PartHeader { kind: PartKind::Footer, bytes: 16, rows: 0, number: 0 }.seal(&mut part, chain);
        let bytes = [start.clone(), part].concat();
        assert_eq!(read(&bytes, 64).unwrap_err().why, CheckpointWhy::Footer, "{footer:?}");
    }
}

/// A core writes a chunk between two turns; a builder that lets it grow holds the core up.
#[test]
fn a_chunk_is_lent_as_soon_as_it_is_full_and_not_before() {
    let mut builder = CheckpointBuilder::new(&header(0));
    let (key, value) = ([1_u8; 8], vec![2_u8; KIB]);
    let row = CheckpointRow { table: TableId(1), key: &key, timestamp: Timestamp(1), value: Some(&value) };
    let per_chunk = CHECKPOINT_CHUNK_BYTES.div_ceil(ROW_FIXED_BYTES + key.len() + value.len());
    for number in 1..3 * per_chunk {
        builder.push_row(&row);
        assert_eq!(builder.take_chunk().is_some(), number.is_multiple_of(per_chunk), "row {number}");
    }
    assert_eq!(builder.rows(), 3 * per_chunk as u64 - 1);
}

proptest! {
    /// A peer, or a rotten file, may send anything.
    #[test]
    fn hostile_bytes_are_read_without_panic(
        scribbles in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 4]>()), 0..6),
        noise in prop::collection::vec(any::<u8>(), 0..400),
        step in 1..200_usize,
    ) {
        prop_assert!(read(&noise, step).is_err());
        let whole = build(&header(3), &rows(30, 20)).concat();
        let mut bytes = whole.clone();
        for (place, scribble) in scribbles {
            let at = place.index(bytes.len() - 4);
            bytes[at..at + 4].copy_from_slice(&scribble);
        }
        prop_assert_eq!(read(&bytes, step).is_ok(), bytes == whole);
        // A true beginning, so that parts are reached.
        let length = CheckpointHeader::length(&whole).unwrap();
        let mut noisy = whole[..length].to_vec();
        noisy.extend_from_slice(b"mchk");
        noisy.extend_from_slice(&noise);
        prop_assert!(read(&noisy, step).is_err());
    }
}
