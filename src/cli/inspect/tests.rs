//! What `mako inspect` prints of a log and of checkpoints, sound and damaged.
#![forbid(unsafe_code)]

use super::*;
use crate::bounds::LOG_BYTES;
use crate::disk::{CoreDirectory, Disk, DiskOptions, UringDisk};
use crate::types::{
    Ballot, CoreId, Epoch, NodeId, PartitionId, ShardId, Slot, Stamp, TableId, Timestamp, Watermark,
};
use crate::wal::checkpoint::{CheckpointBuilder, CheckpointRow};
use crate::wal::{LogIdentity, Record};

/// What is printed, and how it ends: the text of the error.
fn inspect(what: Inspected, path: &Path) -> (String, Option<String>) {
    let mut out = Vec::new();
    let result = match what {
        Inspected::Wal => inspect_wal(path, &mut out),
        Inspected::Checkpoint => inspect_checkpoints(path, &mut out),
    };
    (String::from_utf8(out).unwrap(), result.err().map(|refused| refused.to_string()))
}

/// The directory of a core that has promised and accepted.
fn core_directory(dir: &Path) -> PathBuf {
    let path = dir.join("core-0");
    let identity = LogIdentity::new("demo", NodeId(2), CoreId(0));
    let options =
        DiskOptions { segment_bytes: 16 * WAL_BLOCK_BYTES, ..DiskOptions::new(identity, LOG_BYTES) };
    let directory = CoreDirectory::lock(&path).unwrap();
    let mut disk = UringDisk::open(&directory, &options, &mut |_| {}).unwrap().disk;
    let ballot = Ballot { round: 3, node: NodeId(1) };
    let partition = PartitionId(4);
    for (kind, slot) in [(RecordKind::Vote, 0), (RecordKind::Accept, 17), (RecordKind::Accept, 18)] {
        let payload = &[7; 100][..if kind == RecordKind::Vote { 0 } else { 100 }];
        disk.append(Record { kind, partition, ballot, slot: Slot(slot), payload });
        // A run of its own for each: without the one before on disk, a break would be a torn tail.
        while disk.reap(Timestamp(1)).unwrap() < disk.appended() {
            disk.submit().unwrap();
        }
    }
    path
}

fn checkpoint(path: &Path) -> Vec<u8> {
    let closed = vec![(Stamp { shard: ShardId(1), epoch: Epoch(65_538) }, Timestamp(55))];
    let header = CheckpointHeader {
        cluster: 0xabc,
        partition: PartitionId(4),
        slot: Slot(991),
        applied: Watermark { epoch: Epoch(131_073), timestamp: Timestamp(77) },
        closed,
        extra: b"xyz".to_vec(),
    };
    let mut builder = CheckpointBuilder::new(&header);
    for value in [Some(b"v".as_slice()), None] {
        builder.push_row(&CheckpointRow { table: TableId(0), key: b"k", timestamp: Timestamp(1), value });
    }
    let bytes = builder.finish();
    fs::write(path, &bytes).unwrap();
    bytes
}

/// The operator's only view of a log: each record must be there, with what the protocol knows it by.
#[test]
fn a_log_is_printed_record_by_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = core_directory(dir.path());
    let (text, refused) = inspect(Inspected::Wal, &path);
    assert_eq!(refused, None);
    let expected = [
        "log of node 2, core 0, cluster ",
        "votes, copy 0: generation 2",
        "votes, copy 1: generation 2",
        "  partition 4 has promised ballot 3.1",
        "segment 0: ",
        "  run at 4096: 1 records, 80 B, settled lsn 4096",
        "    to 4176: vote partition 4 ballot 3.1 slot 0, 0 B",
        "  run at 8192: 1 records, 180 B, settled lsn 8192",
        "    to 8372: accept partition 4 ballot 3.1 slot 17, 100 B",
        "  run at 12288: 1 records, 180 B, settled lsn 12288",
        "    to 12468: accept partition 4 ballot 3.1 slot 18, 100 B",
        "segment 1: ",
        "end: lsn 16384; no damage",
    ];
    assert_eq!(text.lines().count(), expected.len(), "{text}");
    for (line, expected) in text.lines().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
    // One segment alone, under any name.
    let alone = dir.path().join("alone");
    fs::copy(path.join("0000000000000000.wal"), &alone).unwrap();
    let (alone, refused) = inspect(Inspected::Wal, &alone);
    assert_eq!((alone.lines().filter(|line| line.contains(" slot ")).count(), refused), (3, None));
}

/// Damage must be told with its place, behind what is still sound; a torn tail is no damage.
#[test]
fn damage_in_a_log_is_told_with_its_offset_and_a_torn_tail_is_not_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = core_directory(dir.path());
    let segment = path.join("0000000000000000.wal");
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    damaged[8_192 + 90] ^= 1;
    fs::write(&segment, &damaged).unwrap();
    let (text, refused) = inspect(Inspected::Wal, &path);
    assert!(text.contains("to 4176: vote") && !text.contains("slot 17"), "{text}");
    let place = format!("damaged ({}, offset 8232): a record is corrupt; ", segment.display());
    assert!(refused.as_ref().is_some_and(|refused| refused.starts_with(&place)), "{refused:?}");

    let mut torn = whole.clone();
    torn[12_288 + 90] ^= 1;
    fs::write(&segment, &torn).unwrap();
    let (text, refused) = inspect(Inspected::Wal, &path);
    let tail = format!("a torn tail: {}, offset 12328: a record is corrupt", segment.display());
    assert!(text.contains(&tail) && refused.is_none(), "{text}{refused:?}");

    // As an earlier use of the file may leave it.
    let mut other = whole.clone();
    other[12_288] ^= 1;
    fs::write(&segment, &other).unwrap();
    let (text, refused) = inspect(Inspected::Wal, &path);
    let tail = format!("an old run, or a torn tail: {}, offset 12288: ", segment.display());
    assert!(text.contains(&tail) && refused.is_none(), "{text}{refused:?}");

    fs::write(&segment, &whole[..100]).unwrap();
    let (_, refused) = inspect(Inspected::Wal, &path);
    assert!(refused.is_some_and(|refused| refused.contains("offset 0")));
}

/// One rotten copy of the votes is told; two are damage.
#[test]
fn damaged_votes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = core_directory(dir.path());
    let votes = path.join(VOTES_NAME);
    let mut bytes = fs::read(&votes).unwrap();
    bytes[20] ^= 1;
    fs::write(&votes, &bytes).unwrap();
    let (text, refused) = inspect(Inspected::Wal, &path);
    assert!(text.contains("copy 0: the votes are corrupt"), "{text}");
    assert!(text.contains("partition 4 has promised ballot 3.1") && refused.is_none(), "{text}");
    let second = bytes.len() / 2 + 20;
    bytes[second] ^= 1;
    fs::write(&votes, &bytes).unwrap();
    assert!(inspect(Inspected::Wal, &path).1.is_some_and(|refused| refused.starts_with("damaged (")));
}

#[test]
fn a_checkpoint_is_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("00004.checkpoint");
    let bytes = checkpoint(&path);
    let expected = format!(
        "checkpoint: {}\n  partition 4, cluster 0000000000000abc\n  replay from slot 991; epoch 2.1, promise 77\n  \
         shard 1, epoch 1.2 closed at 55\n  1 closed epochs, 3 B of extra\n  \
         2 rows, 1 of them deletes, in 1 chunks, {} B; no damage\n",
        path.display(),
        bytes.len()
    );
    assert_eq!(inspect(Inspected::Checkpoint, &path), (expected.clone(), None));
    // One that is not committed is not one of the directory's.
    fs::write(dir.path().join("00005.checkpoint-own"), b"begun").unwrap();
    assert_eq!(inspect(Inspected::Checkpoint, dir.path()), (expected, None));
}

#[test]
fn damage_in_a_checkpoint_is_told_with_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("00004.checkpoint");
    let mut bytes = checkpoint(&path);
    let chunk = 64 + 18 + 3;
    bytes[chunk + 30] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (text, refused) = inspect(Inspected::Checkpoint, &path);
    assert!(text.contains("replay from slot 991") && !text.contains("no damage"), "{text}");
    let place = format!("damaged ({}, offset {chunk}): a chunk is corrupt; ", path.display());
    assert!(refused.as_ref().is_some_and(|refused| refused.starts_with(&place)), "{refused:?}");
}

/// A slip in the path is told as such, and not as damage.
#[test]
fn a_path_that_holds_nothing_is_told_apart_from_damage() {
    let dir = tempfile::tempdir().unwrap();
    for what in [Inspected::Wal, Inspected::Checkpoint] {
        let (_, refused) = inspect(what, dir.path());
        assert!(refused.is_some_and(|refused| refused.starts_with("there is nothing to inspect (")));
        let (_, refused) = inspect(what, &dir.path().join("missing"));
        assert!(refused.is_some_and(|refused| refused.starts_with("it cannot be read (")));
    }
}
