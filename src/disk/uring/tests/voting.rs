//! Votes are kept twice: neither truncation, nor a damaged log, nor one rotten copy forgets a promise.
#![forbid(unsafe_code)]

use std::os::unix::fs::FileExt;

use super::*;
use crate::bounds::VOTES_COPY_BYTES;
use crate::disk::read_votes;

pub(super) fn vote(disk: &mut UringDisk, partition: u16, round: u32) -> Lsn {
    let (kind, ballot) = (RecordKind::Vote, ballot(round));
    disk.append(Record { kind, partition: PartitionId(partition), ballot, slot: Slot(0), payload: b"" })
}

fn ballot(round: u32) -> Ballot {
    Ballot { round, node: NodeId(1) }
}

fn voted(votes: &Votes) -> Vec<(u16, u32)> {
    votes.iter().map(|(partition, ballot)| (partition.0, ballot.round)).collect()
}

/// The votes of the file alone.
fn read(place: &Place) -> Result<Votes, DiskError> {
    read_votes(&CoreDirectory::lock(&place.dir)?, place.identity)
}

fn votes_path(place: &Place) -> PathBuf {
    place.dir.join(VOTES_NAME)
}

fn rot(place: &Place, copy: usize) {
    let file = fs::File::options().write(true).open(votes_path(place)).unwrap();
    file.write_all_at(&[0xff; 8], (copy * VOTES_COPY_BYTES) as u64 + 32).unwrap();
}

/// The log is cut where a checkpoint reaches; a promise made before that still binds.
#[test]
fn votes_survive_the_truncation_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    vote(&mut disk, 4, 7);
    vote(&mut disk, 9, 2);
    let mut last = Lsn(0);
    for slot in 0..12 {
        last = append(&mut disk, slot, 10_000).lsn;
        settle(&mut disk);
    }
    cut(&mut disk, last);
    drop(disk);
    let mut records = Vec::<OwnedRecord>::new();
    let opened = place.open(&mut |view| records.push(view.into())).unwrap();
    assert!(records.iter().all(|record| record.kind == RecordKind::Accept), "nothing was truncated");
    assert_eq!(voted(&opened.votes), [(4, 7), (9, 2)]);
    assert!(opened.end.start > start_of(0, place.segment_bytes));
}

/// A replica that is rebuilt because its log is damaged must not forget what it promised, even if a copy of the
/// votes went with the log.
#[test]
fn votes_are_readable_when_the_log_and_one_copy_are_damaged() {
    for copy in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let place = options(dir.path(), 64 * KIB);
        let (mut disk, _) = open(&place).unwrap();
        for round in 1..4 {
            vote(&mut disk, 4, round);
            settle(&mut disk);
        }
        drop(disk);
        rot(&place, copy);
        let segment = place.dir.join(format!("{:016}.wal", 0));
        let file = fs::File::options().write(true).open(segment).unwrap();
        file.write_all_at(&[0xff; 64], WAL_BLOCK_BYTES as u64).unwrap();
        let before = fs::read(votes_path(&place)).unwrap();

        assert!(matches!(open(&place), Err(DiskError::Damaged { .. })));
        assert_eq!(voted(&read(&place).unwrap()), [(4, 3)], "copy {copy} is damaged");
        assert_eq!(fs::read(votes_path(&place)).unwrap(), before, "the evidence was changed");

        // The rebuilt log is a new one beside the old votes.
        let names = place.names();
        names.iter().filter(|name| name.ends_with(".wal")).for_each(|name| {
            fs::remove_file(place.dir.join(name)).unwrap();
        });
        assert!(
            matches!(open(&place), Err(DiskError::SegmentsLost { .. })),
            "nobody said that it is rebuilt"
        );
        let place = Place { begins_anew: true, ..place };
        let opened = place.open(&mut |_| panic!("the log is empty")).unwrap();
        assert_eq!(voted(&opened.votes), [(4, 3)]);
    }
}

/// Started without it, a replica acts as if it had never accepted what the checkpoint stood for.
#[test]
fn a_checkpoint_that_was_told_of_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 64 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    let ballot = Ballot { round: 3, node: NodeId(1) };
    let (kind, partition) = (RecordKind::Vote, PartitionId(4));
    disk.append(Record { kind, partition, ballot, slot: Slot(50), payload: &[] });
    settle(&mut disk);
    drop(disk);
    let before = fs::read(votes_path(&place)).unwrap();
    for _ in 0..2 {
        let error = open(&place).map(drop).unwrap_err();
        assert!(matches!(&error, DiskError::CheckpointLost { slot: Slot(50), .. }), "{error}");
    }
    assert_eq!(fs::read(votes_path(&place)).unwrap(), before, "the evidence was changed");
    assert!(Place { begins_anew: true, ..place }.open(&mut |_| {}).is_ok());
}

/// A copy that rots is mended while the other stands, or the next one to rot takes the votes with it.
#[test]
fn a_damaged_copy_is_written_again_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 64 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    vote(&mut disk, 4, 3);
    settle(&mut disk);
    drop(disk);
    for copy in [0, 1, 0] {
        rot(&place, copy);
        assert_eq!(voted(&place.open(&mut |_| {}).unwrap().votes), [(4, 3)]);
    }
}

/// Both copies gone, or the file: what was promised is not known here, and a new promise may break it.
#[test]
fn lost_votes_are_told_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 64 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    vote(&mut disk, 4, 3);
    settle(&mut disk);
    drop(disk);
    rot(&place, 0);
    rot(&place, 1);
    let before = place.names();
    assert!(matches!(open(&place), Err(DiskError::VotesLost { .. })));
    assert!(matches!(read(&place), Err(DiskError::VotesLost { .. })));
    assert_eq!(place.names(), before);
    fs::remove_file(votes_path(&place)).unwrap();
    assert!(matches!(open(&place), Err(DiskError::VotesLost { .. })));
    assert!(!votes_path(&place).exists());
}

/// An emptied directory is no new one: what was promised in it binds.
#[test]
fn a_directory_that_was_used_and_is_empty_has_lost_its_votes() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place { has_opened: true, ..options(dir.path(), 64 * KIB) };
    let error = open(&place).map(drop).unwrap_err().to_string();
    assert!(error.contains(VOTES_NAME) && error.contains("; rebuild"), "{error}");
    assert_eq!(place.names(), ["lock"], "nothing is made in its place");
    assert!(Place { begins_anew: true, ..place.clone() }.open(&mut |_| {}).is_ok());
    assert!(open(&place).is_ok(), "they are there again");
}

/// A directory of another node, after its log was deleted: its promises are not ours.
#[test]
fn the_votes_of_another_node_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 64 * KIB);
    drop(open(&place).unwrap());
    let mut other = place.clone();
    other.identity.node = NodeId(7);
    for name in place.names().iter().filter(|name| name.ends_with(".wal")) {
        fs::remove_file(place.dir.join(name)).unwrap();
    }
    let refused = open(&other).map(|_| ()).unwrap_err();
    assert!(matches!(refused, DiskError::Unsuitable { why: Why::Foreign { .. }, .. }), "{refused}");
}

/// A promise spoken when the log has it and the file has not is forgotten with the log.
#[test]
fn a_vote_is_durable_only_when_both_copies_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 64 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    let first = append(&mut disk, 1, 100).lsn;
    settle(&mut disk);
    let lsn = vote(&mut disk, 4, 3);
    append(&mut disk, 2, 100);
    disk.submit().unwrap();
    let both = |place: &Place| {
        let bytes = fs::read(votes_path(place)).unwrap();
        let copy = |at: usize| Votes::decode(&bytes[at..at + VOTES_COPY_BYTES], place.identity);
        [copy(0), copy(VOTES_COPY_BYTES)]
            .iter()
            .all(|copy| copy.as_ref().is_ok_and(|(_, votes)| votes.get(PartitionId(4)) == Some(ballot(3))))
    };
    loop {
        let durable = disk.reap(NOW).unwrap();
        if durable >= lsn {
            break;
        }
        assert!(durable >= first, "what came before the vote does not wait for it");
        wait_readable(&disk);
    }
    assert!(both(&place));
}

/// The write of a vote that fails must stop the core as any other, or the vote is spoken on the next turn.
#[test]
fn a_failed_write_of_votes_stops_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 64 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    let unwritable = fs::File::open(votes_path(&place)).unwrap();
    disk.ring.detach(VOTES_PLACE).unwrap();
    disk.ring.attach(VOTES_PLACE, &unwritable).unwrap();
    let lsn = vote(&mut disk, 4, 3);
    disk.submit().unwrap();
    let failed = loop {
        wait_readable(&disk);
        match disk.reap(NOW) {
            Ok(durable) => assert!(durable < lsn),
            Err(failed) => break failed,
        }
    };
    assert!(matches!(&failed, DiskError::Io { path, .. } if *path == votes_path(&place)), "{failed}");
    assert!(matches!(disk.reap(NOW), Err(DiskError::Stopped)));
}

/// The votes of a vote record that reached the log only: nobody was told of it, but whoever reads the log now
/// will tell.
#[test]
fn a_vote_of_the_log_alone_is_in_both_homes_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 64 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    let before = fs::read(votes_path(&place)).unwrap();
    vote(&mut disk, 4, 3);
    settle(&mut disk);
    drop(disk);
    fs::write(votes_path(&place), before).unwrap();
    assert_eq!(voted(&read(&place).unwrap()), []);
    assert_eq!(voted(&place.open(&mut |_| {}).unwrap().votes), [(4, 3)]);
    assert_eq!(voted(&read(&place).unwrap()), [(4, 3)]);
}
