//! The wal against a fake disk: every torn image of the last writes, every flipped byte, hostile bytes.
//!
//! The fake disk is a map of segments to bytes; a test decides which blocks of which writes arrive.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::bounds::{BATCH_BYTES_MAX, WAL_BLOCK_BYTES, WAL_SEGMENT_BYTES, WAL_WRITE_BYTES_MAX};
use crate::types::{Ballot, CoreId, Lsn, NodeId, PartitionId, Slot};

const SEGMENT: usize = 16 * WAL_BLOCK_BYTES;

fn identity() -> LogIdentity {
    LogIdentity::new("demo", NodeId(2), CoreId(1))
}

/// What the drive holds.
#[derive(Clone, Default)]
struct Image {
    segments: BTreeMap<u64, Vec<u8>>,
}

/// A write on its way to the drive.
#[derive(Clone)]
struct Flight {
    segment: u64,
    offset: usize,
    bytes: Vec<u8>,
    durable: Lsn,
}

impl Flight {
    fn blocks(&self) -> usize {
        self.bytes.len() / WAL_BLOCK_BYTES
    }
}

impl Image {
    fn prepare(&mut self, number: u64) {
        let header = SegmentHeader { identity: identity(), number, segment_bytes: SEGMENT as u64 };
        let segment = self.segments.entry(number).or_insert_with(|| vec![0; SEGMENT]);
        segment[..WAL_BLOCK_BYTES].copy_from_slice(&header.encode());
    }

    fn apply_block(&mut self, flight: &Flight, block: usize) {
        if !self.segments.contains_key(&flight.segment) {
            self.prepare(flight.segment);
        }
        let bytes = &flight.bytes[block * WAL_BLOCK_BYTES..][..WAL_BLOCK_BYTES];
        let at = flight.offset + block * WAL_BLOCK_BYTES;
        self.segments.get_mut(&flight.segment).unwrap()[at..at + WAL_BLOCK_BYTES].copy_from_slice(bytes);
    }

    fn apply(&mut self, flight: &Flight) {
        for block in 0..flight.blocks() {
            self.apply_block(flight, block);
        }
    }

    fn replay(&self) -> Result<(Vec<OwnedRecord>, End), Damage> {
        let mut replay = Replay::new(identity(), SEGMENT);
        for (number, bytes) in &self.segments {
            replay.on_head(*number, &bytes[..Replay::HEAD_BYTES.min(bytes.len())]);
        }
        let mut records = Vec::new();
        for (number, bytes) in &self.segments {
            replay.on_segment(*number, bytes, &mut |view| records.push(OwnedRecord::from(view)))?;
        }
        Ok((records, replay.finish()))
    }

    fn flip(&mut self, segment: u64, at: usize) {
        self.segments.get_mut(&segment).unwrap()[at] ^= 0x41;
    }
}

fn append(wal: &mut Wal, slot: u64, bytes: usize) -> OwnedRecord {
    let payload: Vec<u8> = (0..bytes).map(|at| (at as u64 * 31 + slot + 1).to_le_bytes()[0]).collect();
    let ballot = Ballot { round: 3, node: NodeId(1) };
    let kind = if slot.is_multiple_of(5) { RecordKind::Vote } else { RecordKind::Accept };
    let record = Record { kind, partition: PartitionId(4), ballot, slot: Slot(slot), payload: &payload };
    let lsn = wal.append(record);
    RecordView { lsn, record }.into()
}

/// Everything pending as writes of at most `limit` bytes.
fn writes(wal: &mut Wal, limit: usize) -> Vec<Flight> {
    let mut flights = Vec::new();
    while let Some(write) = wal.next_write(limit) {
        let offset = usize::try_from(write.offset).unwrap();
        let (segment, durable) = (write.segment, write.durable);
        flights.push(Flight { segment, offset, bytes: write.bytes.to_vec(), durable });
    }
    flights
}

/// A log of groups of records of the given sizes, each group on disk before the next is closed, and
/// what it holds: for each group its writes and its records.
struct Log {
    wal: Wal,
    groups: Vec<(Vec<Flight>, Vec<OwnedRecord>)>,
    slot: u64,
}

impl Log {
    fn new() -> Log {
        Log { wal: Wal::new(identity(), SEGMENT, 0, start_of(0, SEGMENT)), groups: Vec::new(), slot: 0 }
    }

    fn group(&mut self, sizes: &[usize]) {
        let records = sizes.iter().map(|bytes| {
            self.slot += 1;
            append(&mut self.wal, self.slot, *bytes)
        });
        let records = records.collect();
        self.groups.push((writes(&mut self.wal, WAL_WRITE_BYTES_MAX), records));
    }

    fn settle(&mut self) {
        let last = self.groups.last().unwrap().0.last().unwrap();
        self.wal.on_durable(last.durable);
    }

    fn settled(groups: &[&[usize]]) -> Log {
        let mut log = Log::new();
        for sizes in groups {
            log.group(sizes);
            log.settle();
        }
        log
    }

    /// The drive once every write of the first `groups` groups has arrived.
    fn image(&self, groups: usize) -> Image {
        let mut image = Image::default();
        image.prepare(0);
        for flight in self.groups[..groups].iter().flat_map(|(flights, _)| flights) {
            image.apply(flight);
        }
        image
    }

    fn records(&self, groups: usize) -> Vec<OwnedRecord> {
        self.groups[..groups].iter().flat_map(|(_, records)| records.clone()).collect()
    }
}

/// Power fails during the last group commit. Whatever blocks of it arrived, in whatever order, the
/// groups that were acknowledged must be back, and nothing half.
#[test]
fn every_torn_image_of_the_last_write_recovers_the_groups_before_it_or_all() {
    for last in [&[100_usize][..], &[30_000], &[3_000, 5_000, 9_000, 60], &[4_096, 4_016, 8_000]] {
        let log = Log::settled(&[&[10, 20], &[5_000], &[900], last]);
        let (flights, _) = &log.groups[3];
        let [flight] = &flights[..] else { panic!("one group, one write") };
        for arrived in 0..1_u32 << flight.blocks() {
            let mut image = log.image(3);
            for block in (0..flight.blocks()).filter(|block| arrived >> block & 1 == 1) {
                image.apply_block(flight, block);
            }
            let (records, end) = image.replay().unwrap();
            let whole = arrived + 1 == 1 << flight.blocks();
            let groups = if whole { 4 } else { 3 };
            assert_eq!(records, log.records(groups), "blocks {arrived:b}");
            assert_eq!(end.end, log.groups[groups - 1].0[0].durable);
        }
    }
}

/// The drive writes sectors, not blocks: a block of the last write may be half there.
#[test]
fn every_cut_of_the_last_write_at_a_sector_recovers_the_groups_before_it() {
    let log = Log::settled(&[&[10, 20], &[700, 700, 700, 6_000]]);
    let flight = &log.groups[1].0[0];
    for sector in 1..=flight.bytes.len() / 512 {
        let (cut, end) = (flight.offset + (sector - 1) * 512, flight.offset + sector * 512);
        let mut image = log.image(2);
        image.segments.get_mut(&0).unwrap()[cut..end].fill(0);
        let untouched = image.segments[&0] == log.image(2).segments[&0];
        let (records, _) = image.replay().unwrap();
        assert_eq!(records, log.records(if untouched { 2 } else { 1 }), "sector {sector}");
    }
}

/// A corrupt record that was acknowledged, taken for a torn tail, takes back a promise.
#[test]
fn a_flipped_byte_anywhere_before_the_tail_is_damage_at_its_offset() {
    // The fourth group does not fit behind the third: a segment is changed as well.
    let log = Log::settled(&[&[10, 20], &[5_000, 64], &[20_000], &[40_000], &[300], &[1]]);
    let whole = log.image(6);
    assert_eq!(whole.segments.len(), 2);
    assert_eq!(whole.replay().unwrap().0, log.records(6));
    for (flights, _) in &log.groups[..5] {
        for flight in flights {
            for at in flight.offset..flight.offset + flight.bytes.len() {
                let mut image = whole.clone();
                image.flip(flight.segment, at);
                let damage = image.replay().expect_err(&format!("byte {at} of segment {}", flight.segment));
                let found = usize::try_from(damage.offset).unwrap();
                assert_eq!(damage.segment, flight.segment, "byte {at}");
                // A fault in a record is told by the record's offset, in a header by the run's.
                assert!(found <= at && found >= flight.offset, "byte {at} told as {found}");
            }
        }
    }
    for (segment, bytes) in &whole.segments {
        for at in (0..WAL_BLOCK_BYTES.min(bytes.len())).step_by(97) {
            let mut image = whole.clone();
            image.flip(*segment, at);
            let damage = image.replay().expect_err("a header is never torn");
            assert_eq!((damage.segment, damage.why), (*segment, Why::SegmentHeader));
        }
    }
}

/// A drive that lost an acknowledged write leaves a hole that looks like the end of the log.
#[test]
fn a_lost_write_before_the_tail_is_damage() {
    let log = Log::settled(&[&[10, 20], &[5_000, 64], &[300], &[1]]);
    for lost in 0..3 {
        let mut image = log.image(4);
        let flight = &log.groups[lost].0[0];
        let end = flight.offset + flight.bytes.len();
        image.segments.get_mut(&0).unwrap()[flight.offset..end].fill(0);
        let damage = Damage { segment: 0, offset: flight.offset as u64, why: Why::Missing };
        assert_eq!(image.replay().unwrap_err(), damage);
    }
}

/// Somebody deleted a file in the middle.
#[test]
fn a_missing_segment_is_damage() {
    let log = Log::settled(&[&[10], &[50_000], &[50_000], &[50_000], &[50_000]]);
    let mut image = log.image(5);
    assert_eq!(image.segments.len(), 4);
    image.segments.remove(&1);
    let damage = image.replay().unwrap_err();
    assert_eq!((damage.segment, damage.why), (2, Why::Gap));
}

/// Truncation deletes from the front: what is left must stand on its own.
#[test]
fn a_log_without_its_oldest_segments_replays_from_where_it_begins() {
    let log = Log::settled(&[&[10], &[50_000], &[50_000], &[50_000]]);
    let mut image = log.image(4);
    image.segments.remove(&0);
    let (records, end) = image.replay().unwrap();
    assert_eq!(records, log.records(4)[2..]);
    assert_eq!(end.start, start_of(1, SEGMENT));
}

/// A disk put into the wrong machine, or the wrong directory configured.
#[test]
fn the_log_of_another_core_is_refused_by_name() {
    let image = Log::settled(&[&[10]]).image(1);
    let other = LogIdentity { core: CoreId(2), ..identity() };
    let mut replay = Replay::new(other, SEGMENT);
    let damage = replay.on_segment(0, &image.segments[&0], &mut |_| {}).unwrap_err();
    assert_eq!(damage.why, Why::Foreign { found: identity() });
    let mut replay = Replay::new(identity(), SEGMENT);
    let damage = replay.on_segment(3, &image.segments[&0], &mut |_| {}).unwrap_err();
    assert_eq!(damage.why, Why::Number { found: 0 });
    let mut replay = Replay::new(identity(), SEGMENT);
    let damage = replay.on_segment(0, &image.segments[&0][..SEGMENT - 1], &mut |_| {}).unwrap_err();
    assert!(matches!(damage.why, Why::Length { .. }));
    let mut replay = Replay::new(identity(), 2 * SEGMENT);
    let damage = replay.on_segment(0, &image.segments[&0], &mut |_| {}).unwrap_err();
    assert!(matches!(damage.why, Why::SegmentBytes { .. }));
}

/// The process died, its last write was still under way, and arrived after the log had been read and
/// gone on elsewhere. Nobody was told of that write: it must not come back to life at the next restart,
/// nor make the log look damaged.
#[test]
fn a_tail_that_arrives_after_a_recovery_stays_dead() {
    let mut log = Log::settled(&[&[10, 20], &[300]]);
    log.group(&[77]);
    let mut image = log.image(2);
    let (_, end) = image.replay().unwrap();

    let mut second = Wal::new(identity(), SEGMENT, 1, end.end);
    let mut expected = log.records(2);
    expected.push(append(&mut second, 99, 50));
    for flight in writes(&mut second, WAL_WRITE_BYTES_MAX) {
        image.apply(&flight);
    }
    assert_eq!(image.replay().unwrap().0, expected);
    image.apply(&log.groups[2].0[0]);
    assert_eq!(image.replay().unwrap().0, expected);
}

/// Zero-filling a recycled segment would double the writes; what it held must not count instead.
#[test]
fn what_a_recycled_segment_held_before_is_never_taken_for_records() {
    let mut log = Log::settled(&[&[10], &[50_000], &[3_000], &[100], &[7], &[20_000]]);
    let mut image = log.image(6);
    let recycled = image.segments.remove(&0).unwrap();
    image.segments.insert(2, recycled);
    image.prepare(2);
    log.group(&[50_000]);
    log.group(&[60]);
    for (flights, _) in &log.groups[6..] {
        assert_eq!(flights[0].segment, 2);
        image.apply(&flights[0]);
    }
    let (records, _) = image.replay().unwrap();
    assert_eq!(records, log.records(8)[3..]);
}

/// A record in several writes is durable with the last of them: half of it is worth nothing.
#[test]
fn a_record_of_several_writes_is_durable_only_with_the_last() {
    let mut wal = Wal::new(identity(), WAL_SEGMENT_BYTES, 0, start_of(0, WAL_SEGMENT_BYTES));
    append(&mut wal, 1, 100);
    let large = append(&mut wal, 2, BATCH_BYTES_MAX);
    let small = append(&mut wal, 3, 100);
    let flights = writes(&mut wal, WAL_WRITE_BYTES_MAX);
    assert_eq!(flights.len(), 1 + BATCH_BYTES_MAX.div_ceil(WAL_WRITE_BYTES_MAX) + 1);
    let mut next = WAL_BLOCK_BYTES;
    for flight in &flights {
        assert_eq!((flight.segment, flight.offset), (0, next));
        assert!(flight.bytes.len().is_multiple_of(WAL_BLOCK_BYTES));
        next += flight.bytes.len();
    }
    let parts = &flights[1..flights.len() - 1];
    let (last, others) = parts.split_last().unwrap();
    assert!(others.iter().all(|part| part.durable < large.lsn));
    assert!(last.durable >= large.lsn && last.durable < small.lsn);
    assert_eq!(wal.appended(), small.lsn);
}

/// The first part of a large record is known to be on disk when the next run is closed. Were that told as
/// progress, the run would bear witness to a record that never became whole, and a torn tail would
/// look like damage.
#[test]
fn a_large_record_torn_between_its_writes_is_a_torn_tail() {
    let mut log = Log::settled(&[&[10]]);
    let mut image = log.image(1);
    append(&mut log.wal, 2, 20_000);
    let parts = writes(&mut log.wal, WAL_BLOCK_BYTES);
    let (first, last) = (&parts[0], &parts[parts.len() - 1]);
    assert!(parts.len() > 2 && last.durable > first.durable);
    image.apply(first);
    log.wal.on_durable(first.durable);
    log.group(&[30]);
    image.apply(&log.groups[1].0[0]);
    assert_eq!(image.replay().unwrap().0, log.records(1));
    for part in &parts {
        image.apply(part);
    }
    assert_eq!(image.replay().unwrap().0.len(), 3);
}

/// The same where the large record begins a segment. The log ended in the segment before, so "all below this
/// record's start" is the end of that segment: told as it stands, it too would bear witness to more than there is.
#[test]
fn a_large_record_torn_at_the_start_of_a_segment_is_a_torn_tail() {
    let mut log = Log::settled(&[&[10], &[9_000]]);
    let mut image = log.image(2);
    append(&mut log.wal, 3, SEGMENT - 3 * WAL_BLOCK_BYTES);
    let parts = writes(&mut log.wal, WAL_BLOCK_BYTES);
    assert_eq!((parts[0].segment, parts[0].offset), (1, WAL_BLOCK_BYTES));
    image.apply(&parts[0]);
    log.wal.on_durable(parts[0].durable);
    log.group(&[30]);
    image.apply(&log.groups[2].0[0]);
    assert_eq!(image.replay().unwrap().0, log.records(2));
}

/// Power fails again during the first writes after a restart. They lie in a fresh segment, with a gap behind
/// the end of the log that holds nothing: taken for a loss, it would keep a healthy node from starting.
#[test]
fn the_first_writes_after_a_restart_may_be_torn_like_any_other() {
    let log = Log::settled(&[&[10, 20], &[300]]);
    let image = log.image(2);
    let (_, end) = image.replay().unwrap();
    let mut second = Wal::new(identity(), SEGMENT, 1, end.end);
    second.on_durable(start_of(1, SEGMENT));
    let mut flights = Vec::new();
    for bytes in [9_000, 50] {
        append(&mut second, 9, bytes);
        flights.extend(writes(&mut second, WAL_WRITE_BYTES_MAX));
    }
    let blocks: Vec<(&Flight, usize)> =
        flights.iter().flat_map(|flight| (0..flight.blocks()).map(move |block| (flight, block))).collect();
    assert_eq!(blocks.len(), 4);
    for arrived in 0..1_u32 << blocks.len() {
        let mut image = image.clone();
        image.prepare(1);
        for (at, (flight, block)) in blocks.iter().enumerate() {
            if arrived >> at & 1 == 1 {
                image.apply_block(flight, *block);
            }
        }
        let (records, _) = image.replay().unwrap_or_else(|damage| panic!("blocks {arrived:b}: {damage}"));
        assert_eq!(records[..3], log.records(2));
        let expected = if arrived & 0b111 != 0b111 { 0 } else { 1 + (arrived >> 3) as usize };
        assert_eq!(records.len(), 3 + expected, "blocks {arrived:b}");
    }
}

/// A full backlog must show, or memory grows while the drive stalls; an emptied one must show as well.
#[test]
fn room_shrinks_with_what_is_pending_and_comes_back_with_the_writes() {
    let mut wal = Wal::new(identity(), SEGMENT, 0, start_of(0, SEGMENT));
    let empty = wal.room();
    append(&mut wal, 1, 10_000);
    assert!(wal.room() <= empty - 10_000);
    let flights = writes(&mut wal, WAL_BLOCK_BYTES);
    assert_eq!((flights.len(), wal.room()), (3, empty));
}

fn sizes() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let bytes = prop_oneof![4 => 0..200_usize, 2 => 200..6_000_usize, 1 => 6_000..40_000_usize];
    prop::collection::vec(prop::collection::vec(bytes, 1..8), 1..12)
}

proptest! {
    /// Several writes are under way when power fails, and the drive takes blocks as it likes: what comes
    /// back is a prefix, and has at least what was durable. Then the log goes on, and so a second time.
    #[test]
    fn torn_writes_in_flight_leave_a_prefix_that_can_be_continued(
        before in sizes(), flight_sizes in sizes(), after in sizes(), seed in any::<u64>(),
    ) {
        let mut prng = fastrand::Rng::with_seed(seed);
        let mut log = Log::new();
        for group in &before {
            log.group(group);
            log.settle();
        }
        for group in &flight_sizes {
            log.group(group);
        }
        let mut image = log.image(before.len());
        for (flights, _) in &log.groups[before.len()..] {
            let whole = prng.u8(..4) > 0;
            for flight in flights {
                for block in 0..flight.blocks() {
                    if whole || prng.bool() {
                        image.apply_block(flight, block);
                    }
                }
            }
        }
        let (mut recovered, end) = image.replay().unwrap();
        let all = log.records(log.groups.len());
        prop_assert!(recovered.len() >= log.records(before.len()).len());
        prop_assert!(recovered == all[..recovered.len()], "not a prefix");

        // Segments are made before they are written to, so this one is beyond all of the first process's.
        let next = log.groups.iter().flat_map(|(flights, _)| flights).map(|flight| flight.segment).max().unwrap() + 1;
        image.segments.retain(|number, _| *number <= end.segment.unwrap());
        let mut second = Wal::new(identity(), SEGMENT, next, end.end);
        for group in &after {
            recovered.extend(group.iter().map(|bytes| append(&mut second, 7, *bytes)));
            let flights = writes(&mut second, WAL_WRITE_BYTES_MAX);
            flights.iter().for_each(|flight| image.apply(flight));
            second.on_durable(flights.last().unwrap().durable);
        }
        let (again, _) = image.replay().unwrap();
        prop_assert!(again == recovered, "{} records, not {}", again.len(), recovered.len());

        // And what was under way when the first process died may arrive only now.
        for flight in log.groups[before.len()..].iter().flat_map(|(flights, _)| flights) {
            if flight.segment <= end.segment.unwrap() {
                image.apply(flight);
            }
        }
        let (again, _) = image.replay().unwrap();
        prop_assert!(again == recovered, "{} records, not {}", again.len(), recovered.len());
    }

    /// Bit rot, another program's file, a file cut short: an answer, never a panic.
    #[test]
    fn hostile_bytes_are_read_without_panic(
        groups in sizes(),
        scribbles in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<[u8; 8]>()), 1..20),
        noise in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut log = Log::new();
        for group in &groups {
            log.group(group);
            log.settle();
        }
        let mut image = log.image(groups.len());
        let all = log.records(groups.len());
        let mut noisy = image.clone();
        for (place, kind, bytes) in scribbles {
            let number = place.index(image.segments.len()) as u64;
            let segment = image.segments.get_mut(&number).unwrap();
            // Runs begin at blocks, so their headers are the most rewarding places.
            let block = place.index(SEGMENT / WAL_BLOCK_BYTES) * WAL_BLOCK_BYTES;
            let at = block + usize::from(kind) * 8;
            segment[at..at + 8].copy_from_slice(&bytes);
        }
        if let Ok((records, _)) = image.replay() {
            prop_assert!(records == all[..records.len()], "not a prefix");
        }
        let first = noisy.segments.get_mut(&0).unwrap();
        first[WAL_BLOCK_BYTES..WAL_BLOCK_BYTES + noise.len()].copy_from_slice(&noise);
        drop(noisy.replay());
        let mut replay = Replay::new(identity(), SEGMENT);
        replay.on_head(0, &noise);
        let refused = replay.on_segment(0, &noise, &mut |_| {}).is_err();
        prop_assert!(refused);
    }
}

/// Checksums that happen to hold over nonsense: lengths and counts at their limits must not overflow.
#[test]
fn headers_with_true_checksums_and_false_lengths_are_read_without_panic() {
    let seed = identity().seed();
    let first = start_of(0, SEGMENT);
    let numbers = [0, 1, 39, 40, 41, 4_096, 61_440, 61_441, 1 << 31, u32::MAX];
    for bytes in numbers {
        for records in [0, 1, u32::MAX] {
            for settled in [Lsn(0), Lsn(u64::MAX)] {
                let header = run::RunHeader { bytes, records, position: first, previous: first, settled };
                let mut image = Image::default();
                image.prepare(0);
                let place = &mut image.segments.get_mut(&0).unwrap()[WAL_BLOCK_BYTES..];
                place[..run::RUN_HEADER_BYTES].copy_from_slice(&header.encode(seed));
                let delivered = image.replay().map(|(records, _)| records.len());
                assert!(matches!(delivered, Ok(0) | Err(_)));
            }
        }
    }
}
