//! Checkpoints on real files: committed as a whole or not at all, on a full disk as well.
//!
//! Nothing here sleeps: a test waits for the thread's next answer, and `/dev/full` stands for a full disk.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::bounds::KIB;
use crate::types::{Slot, TableId, Timestamp, Watermark};
use crate::wal::checkpoint::{CheckpointBuilder, CheckpointHeader, CheckpointRow};

const CLUSTER: u64 = 77;
const PARTITION: PartitionId = PartitionId(4);
const PATIENCE: Duration = Duration::from_secs(20);

struct Stage {
    dir: tempfile::TempDir,
    directory: CoreDirectory,
    checkpoints: FileCheckpoints,
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let directory = CoreDirectory::lock(dir.path()).unwrap();
        let checkpoints = FileCheckpoints::open(&directory).unwrap();
        Stage { dir, directory, checkpoints }
    }

    /// The process dies, and another one opens what it has left.
    fn crash(self) -> Stage {
        let Stage { dir, directory, mut checkpoints } = self;
        // Its thread ends where it stands: what it holds open is not removed.
        checkpoints.orders = None;
        checkpoints.thread.take().unwrap().join().unwrap();
        drop((checkpoints, directory));
        let directory = CoreDirectory::lock(dir.path()).unwrap();
        let checkpoints = FileCheckpoints::open(&directory).unwrap();
        Stage { dir, directory, checkpoints }
    }

    /// Until the thread has answered once more.
    fn answer(&mut self) -> Option<CheckpointEvent> {
        let answer = self.checkpoints.answers.recv_timeout(PATIENCE).expect("nothing is answered");
        self.checkpoints.on_answer(answer)
    }

    fn wait(&mut self) -> CheckpointEvent {
        loop {
            if let Some(event) = self.answer() {
                return event;
            }
        }
    }

    /// Until the thread has carried out everything.
    fn drain(&mut self) {
        assert!(self.checkpoints.read(PartitionId(999), 0, 1, 0));
        let event = self.wait();
        assert!(matches!(event, CheckpointEvent::Read { part: None, .. }), "{event:?}");
    }

    fn write(&mut self, origin: Origin, pieces: &[Vec<u8>]) {
        assert!(self.checkpoints.begin(origin, PARTITION));
        for piece in pieces {
            while self.checkpoints.room(origin) < piece.len() {
                assert!(self.answer().is_none());
            }
            self.checkpoints.write(origin, piece);
        }
    }

    fn make(&mut self, origin: Origin, slot: u64) {
        self.write(origin, &pieces(slot));
        self.checkpoints.commit(origin);
        let event = self.wait();
        let CheckpointEvent::Committed { origin: told, partition } = event else { panic!("{event:?}") };
        assert_eq!((told, partition), (origin, PARTITION));
    }

    /// The slot of the newest committed checkpoint, all of which is read.
    fn load(&self) -> Result<Option<u64>, DiskError> {
        let (mut slot, mut rows) = (None, 0);
        let summary = FileCheckpoints::load(&self.directory, CLUSTER, PARTITION, &mut |piece| match piece {
            Piece::Header(header) => slot = Some(header.slot.0),
            Piece::Row(_) => rows += 1,
        })?;
        assert_eq!(rows, summary.map_or(0, |summary| summary.rows));
        Ok(slot)
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.directory.names().unwrap();
        names.retain(|name| name != "lock");
        names
    }

    fn path(&self) -> PathBuf {
        path_of(&self.directory, PARTITION)
    }
}

/// A checkpoint that begins at `slot`, of several chunks.
fn pieces(slot: u64) -> Vec<Vec<u8>> {
    let header = CheckpointHeader {
        cluster: CLUSTER,
        partition: PARTITION,
        slot: Slot(slot),
        applied: Watermark::default(),
        closed: Vec::new(),
        extra: Vec::new(),
    };
    let mut builder = CheckpointBuilder::new(&header);
    let mut pieces = Vec::new();
    let value = vec![slot.to_le_bytes()[0]; KIB];
    for number in 0..2_000_u64 {
        let (key, timestamp) = (number.to_be_bytes(), Timestamp(number));
        builder.push_row(&CheckpointRow { table: TableId(0), key: &key, timestamp, value: Some(&value) });
        pieces.extend(builder.take_chunk().map(<[u8]>::to_vec));
    }
    pieces.push(builder.finish());
    assert!(pieces.len() > CHECKPOINT_WRITES_MAX);
    pieces
}

/// The one before it is all there is until the new one is whole; then the new one is all there is.
#[test]
fn a_checkpoint_is_there_once_it_is_committed_and_replaces_the_one_before() {
    let mut stage = Stage::new();
    assert_eq!(stage.load().unwrap(), None);
    stage.make(Origin::Own, 10);
    assert_eq!(stage.load().unwrap(), Some(10));
    stage.write(Origin::Own, &pieces(20));
    stage.drain();
    assert_eq!(stage.load().unwrap(), Some(10));
    stage.checkpoints.commit(Origin::Own);
    assert!(matches!(stage.wait(), CheckpointEvent::Committed { .. }));
    assert_eq!(stage.load().unwrap(), Some(20));
    stage.make(Origin::Peer, 30);
    assert_eq!((stage.load().unwrap(), stage.names().len()), (Some(30), 1));
}

/// A crash in the midst of one must leave the one before it, and no space occupied.
#[test]
fn what_was_not_committed_is_gone_after_a_crash() {
    let mut stage = Stage::new();
    stage.make(Origin::Own, 10);
    stage.write(Origin::Own, &pieces(20));
    stage.write(Origin::Peer, &pieces(30)[..2]);
    stage.drain();
    assert_eq!(stage.names().len(), 3);
    let mut stage = stage.crash();
    assert_eq!((stage.load().unwrap(), stage.names().len()), (Some(10), 1));
    stage.make(Origin::Own, 20);
    assert_eq!(stage.crash().load().unwrap(), Some(20));
}

/// A replica receives one while it makes one: they must not write into each other.
#[test]
fn one_being_made_and_one_being_received_do_not_meet() {
    let mut stage = Stage::new();
    let (own, peer) = (pieces(10), pieces(20));
    assert!(stage.checkpoints.begin(Origin::Own, PARTITION));
    assert!(stage.checkpoints.begin(Origin::Peer, PARTITION));
    assert!(!stage.checkpoints.begin(Origin::Peer, PartitionId(5)), "one of each");
    for (own, peer) in own.iter().zip(&peer) {
        for (origin, piece) in [(Origin::Own, own), (Origin::Peer, peer)] {
            while stage.checkpoints.room(origin) == 0 {
                assert!(stage.answer().is_none());
            }
            stage.checkpoints.write(origin, piece);
        }
    }
    for (origin, slot) in [(Origin::Own, 10), (Origin::Peer, 20)] {
        stage.checkpoints.commit(origin);
        assert!(matches!(stage.wait(), CheckpointEvent::Committed { .. }));
        assert_eq!(stage.load().unwrap(), Some(slot));
    }
}

/// The peer went away half-way: its checkpoint must not stay, and nothing of it be told later.
#[test]
fn one_that_is_abandoned_leaves_nothing_and_is_not_told_of() {
    let mut stage = Stage::new();
    for committed in [false, true] {
        stage.write(Origin::Peer, &pieces(10));
        if committed {
            stage.checkpoints.commit(Origin::Peer);
        }
        stage.checkpoints.abandon(Origin::Peer);
        assert_eq!(stage.checkpoints.room(Origin::Peer), 0);
        assert!(!stage.checkpoints.begin(Origin::Peer, PARTITION), "the thread has not said that it knows");
        stage.drain();
        assert_eq!(stage.load().unwrap(), committed.then_some(10));
        assert_eq!(stage.names().len(), usize::from(committed));
    }
    stage.checkpoints.abandon(Origin::Peer);
    stage.make(Origin::Peer, 20);
}

/// No more than a few writes wait for a slow drive: past that the core holds its rows back, and not in memory.
#[test]
fn room_is_bounded_by_what_is_on_its_way() {
    let mut stage = Stage::new();
    assert_eq!(stage.checkpoints.room(Origin::Own), 0, "nothing was begun");
    assert!(stage.checkpoints.begin(Origin::Own, PARTITION));
    for _ in 0..CHECKPOINT_WRITES_MAX {
        assert_eq!(stage.checkpoints.room(Origin::Own), CHECKPOINT_WRITE_BYTES_MAX);
        stage.checkpoints.write(Origin::Own, b"x");
    }
    // Without `poll` nothing comes back, however fast the drive.
    assert_eq!(stage.checkpoints.room(Origin::Own), 0);
    stage.drain();
    assert_eq!(stage.checkpoints.room(Origin::Own), CHECKPOINT_WRITE_BYTES_MAX);
    for ticket in 0..CHECKPOINT_READS_MAX as u64 {
        assert!(stage.checkpoints.read(PARTITION, 0, 1, ticket));
    }
    assert!(!stage.checkpoints.read(PARTITION, 0, 1, 99));
    for ticket in 0..CHECKPOINT_READS_MAX as u64 {
        let event = stage.wait();
        assert!(matches!(event, CheckpointEvent::Read { ticket: told, .. } if told == ticket), "{event:?}");
    }
    assert!(stage.checkpoints.read(PARTITION, 0, 1, 99));
}

/// A full disk gives the checkpoint up, tells so, and keeps no space; the one before it stays.
#[test]
fn a_checkpoint_that_finds_no_space_fails_alone() {
    let mut stage = Stage::new();
    stage.make(Origin::Own, 10);
    let begun = stage.directory.file(&format!("{:05}.checkpoint-own", PARTITION.0));
    symlink("/dev/full", begun).unwrap();
    assert!(stage.checkpoints.begin(Origin::Own, PARTITION));
    let pieces = pieces(20);
    stage.checkpoints.write(Origin::Own, &pieces[0]);
    stage.checkpoints.write(Origin::Own, &pieces[1]);
    stage.checkpoints.commit(Origin::Own);
    let event = stage.wait();
    let CheckpointEvent::Failed { origin: Origin::Own, partition: PARTITION, error } = event else {
        panic!("{event:?}")
    };
    assert!(error.is_full(), "{error}");
    stage.drain();
    assert_eq!((stage.load().unwrap(), stage.names().len()), (Some(10), 1));
    stage.make(Origin::Own, 20);
}

/// A drive that fails otherwise must stop the core, as a failed write of the log does.
#[test]
fn a_checkpoint_that_fails_otherwise_is_told_apart_from_a_full_disk() {
    let mut stage = Stage::new();
    fs::create_dir(stage.path()).unwrap();
    stage.write(Origin::Own, &pieces(10));
    stage.checkpoints.commit(Origin::Own);
    let event = stage.wait();
    let CheckpointEvent::Failed { error, .. } = event else { panic!("{event:?}") };
    assert!(!error.is_full(), "{error}");
    fs::remove_dir(stage.path()).unwrap();
    assert!(stage.names().is_empty());
}

/// What a peer is sent must be the file, all of it, and one file only.
#[test]
fn parts_read_for_a_peer_make_the_checkpoint_whole() {
    let mut stage = Stage::new();
    stage.make(Origin::Own, 10);
    let whole = fs::read(stage.path()).unwrap();
    let (mut received, mut ticket, mut ids) = (Vec::new(), 0, Vec::new());
    loop {
        ticket += 1;
        let offset = received.len() as u64;
        assert!(stage.checkpoints.read(PARTITION, offset, 300_001, ticket));
        let event = stage.wait();
        let CheckpointEvent::Read { ticket: told, part: Some(part) } = event else { panic!("{event:?}") };
        assert_eq!((told, part.offset, part.total), (ticket, offset, whole.len() as u64));
        ids.push(part.checkpoint);
        if part.bytes.is_empty() {
            break;
        }
        received.extend_from_slice(&part.bytes);
    }
    assert!(received == whole);
    assert!(ids.iter().all(|id| *id == ids[0]));
    stage.make(Origin::Own, 11);
    assert!(stage.checkpoints.read(PARTITION, u64::MAX, 1, 0));
    let event = stage.wait();
    let CheckpointEvent::Read { part: Some(part), .. } = event else { panic!("{event:?}") };
    assert!(part.checkpoint != ids[0] && part.bytes.is_empty(), "{part:?}");
}

/// The operator must hear which file, and where in it; the evidence stays.
#[test]
fn a_damaged_checkpoint_is_told_by_file_and_offset_and_nothing_is_changed() {
    let mut stage = Stage::new();
    stage.make(Origin::Own, 10);
    let whole = fs::read(stage.path()).unwrap();
    let mut damaged = whole.clone();
    damaged[pieces(10)[0].len() + 100] ^= 1;
    for (bytes, offset) in [(&damaged[..], pieces(10)[0].len()), (&whole[..100], 64)] {
        fs::write(stage.path(), bytes).unwrap();
        let refused = stage.load().unwrap_err();
        let DiskError::CheckpointDamaged { path, damage } = &refused else { panic!("{refused}") };
        assert_eq!((path, damage.offset), (&stage.path(), offset as u64), "{refused}");
        assert_eq!(fs::read(stage.path()).unwrap(), bytes);
    }
    fs::write(path_of(&stage.directory, PartitionId(5)), &whole).unwrap();
    let other = FileCheckpoints::load(&stage.directory, CLUSTER, PartitionId(5), &mut |_| {});
    assert!(matches!(other, Err(DiskError::CheckpointUnsuitable { .. })), "{other:?}");
}
