//! The disk on real files: everything comes back, in every way a process can end and a file can rot.
//!
//! Nothing here sleeps: a test waits in poll(2) on the disk's descriptor, and fails if that is in vain.
#![allow(unsafe_code, reason = "poll(2) has no safe wrapper among our crates")]

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::bounds::{KIB, LOG_BYTES, MIB, WAL_BLOCK_BYTES};
use crate::types::{Ballot, CoreId, NodeId, PartitionId, Slot};
use crate::wal::{OwnedRecord, RecordKind, Why};

const NOW: Timestamp = Timestamp(1_000_000_000_000);

mod failing;
mod recycling;
mod urgency;
mod voting;

/// Where a log lies, and whose it is.
#[derive(Clone)]
struct Place {
    dir: PathBuf,
    identity: LogIdentity,
    segment_bytes: usize,
    log_bytes_max: u64,
    begins_anew: bool,
    has_opened: bool,
}

impl Place {
    fn open(&self, visit: &mut dyn FnMut(RecordView<'_>)) -> Result<Opened, DiskError> {
        let options = DiskOptions {
            segment_bytes: self.segment_bytes,
            begins_anew: self.begins_anew,
            has_opened: self.has_opened,
            ..DiskOptions::new(self.identity, self.log_bytes_max)
        };
        UringDisk::open(&CoreDirectory::lock(&self.dir)?, &options, visit)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn options(dir: &Path, segment_bytes: usize) -> Place {
    let identity = LogIdentity::new("demo", NodeId(2), CoreId(1));
    let (log_bytes_max, begins_anew, has_opened) = (LOG_BYTES, false, false);
    Place { dir: dir.join("log"), identity, segment_bytes, log_bytes_max, begins_anew, has_opened }
}

fn open(place: &Place) -> Result<(UringDisk, Vec<OwnedRecord>), DiskError> {
    let mut records = Vec::new();
    let opened = place.open(&mut |view| records.push(view.into()))?;
    Ok((opened.disk, records))
}

fn append(disk: &mut UringDisk, slot: u64, bytes: usize) -> OwnedRecord {
    let payload: Vec<u8> = (0..bytes).map(|at| (at as u64 * 7 + slot) as u8).collect();
    let ballot = Ballot { round: 3, node: NodeId(1) };
    let kind = RecordKind::Accept;
    let record = Record { kind, partition: PartitionId(4), ballot, slot: Slot(slot), payload: &payload };
    let lsn = disk.append(record);
    RecordView { lsn, record }.into()
}

fn wait_readable(disk: &UringDisk) {
    let mut poll = libc::pollfd { fd: disk.wake_fd().unwrap(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, ours for the length of the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 20_000) };
    assert_eq!(ready, 1, "nothing was completed");
}

/// Turns until everything appended is durable.
fn settle(disk: &mut UringDisk) {
    loop {
        disk.submit().unwrap();
        if disk.reap(NOW).unwrap() >= disk.appended() {
            return;
        }
        // What `reap` freed may let more be written, of which nothing is under way yet.
        disk.submit().unwrap();
        wait_readable(disk);
    }
}

/// Truncates, for the first time, and turns until something went.
fn cut(disk: &mut UringDisk, below: Lsn) {
    disk.truncate(below);
    // Both copies of the votes are to know of it first; what wakes us may be a segment that is ready.
    while disk.votes.truncated() == 0 {
        disk.submit().unwrap();
        wait_readable(disk);
        disk.reap(NOW).unwrap();
    }
}

/// The file that holds a position, and where in it.
fn file_of(options: &Place, lsn: Lsn) -> (PathBuf, usize) {
    let number = segment_of(lsn, options.segment_bytes);
    let offset = lsn.0 % options.segment_bytes as u64;
    (options.dir.join(format!("{number:016}.wal")), offset as usize)
}

/// Restart after restart, each going on in a fresh segment.
#[test]
fn everything_made_durable_comes_back_over_many_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 64 * KIB);
    let mut expected = Vec::new();
    for round in 0..4 {
        let (mut disk, records) = open(&options).unwrap();
        assert_eq!(records, expected, "round {round}");
        for slot in 0..10 * round {
            expected.push(append(&mut disk, slot, 100 * slot as usize));
            settle(&mut disk);
        }
    }
    // Twice: opening alone changes nothing either.
    assert_eq!(open(&options).unwrap().1, expected);
    assert_eq!(open(&options).unwrap().1, expected);
}

/// The whole depth of the queue, over many small segments that the helper can hardly prepare in time.
#[test]
fn many_appends_in_flight_become_durable_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&options).unwrap();
    let mut expected = Vec::new();
    let mut durable = disk.reap(NOW).unwrap();
    for slot in 0..600 {
        expected.push(append(&mut disk, slot, (slot % 50) as usize * 40));
        disk.submit().unwrap();
        let now = disk.reap(NOW).unwrap();
        assert!(now >= durable);
        durable = now;
    }
    settle(&mut disk);
    assert!(disk.appended().0 > 10 * options.segment_bytes as u64);
    drop(disk);
    assert_eq!(open(&options).unwrap().1, expected);
}

/// The largest batch is several times a buffer; records before and behind it must not suffer.
#[test]
fn a_record_larger_than_a_buffer_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 16 * MIB);
    let (mut disk, _) = open(&options).unwrap();
    let mut expected = Vec::new();
    for (slot, bytes) in [10, 4_500_000, 20, 2 * MIB, 9 * MIB, 30].into_iter().enumerate() {
        expected.push(append(&mut disk, slot as u64, bytes));
    }
    settle(&mut disk);
    drop(disk);
    assert_eq!(open(&options).unwrap().1, expected);
}

/// Two processes on one directory would overwrite each other's promises.
#[test]
fn a_second_open_of_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 64 * KIB);
    let (disk, _) = open(&options).unwrap();
    let refused = open(&options).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, DiskError::InUse { path } if *path == options.dir), "{refused}");
    drop(disk);
    open(&options).unwrap();
}

/// The disk of another node, mounted here: its log must neither be used nor called damaged.
#[test]
fn the_log_of_another_node_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 64 * KIB);
    let (mut disk, _) = open(&options).unwrap();
    let record = append(&mut disk, 1, 100);
    settle(&mut disk);
    drop(disk);
    let mut other = options.clone();
    other.identity.node = NodeId(7);
    let refused = open(&other).map(|_| ()).unwrap_err();
    assert!(matches!(refused, DiskError::Unsuitable { why: Why::Foreign { .. }, .. }), "{refused}");
    assert_eq!(open(&options).unwrap().1, [record]);
}

/// The power failed in the last write: what was acknowledged before it is there, and the log goes on.
#[test]
fn a_torn_tail_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 256 * KIB);
    let (mut disk, _) = open(&options).unwrap();
    let mut expected = Vec::new();
    for slot in 0..5 {
        expected.push(append(&mut disk, slot, 10_000));
        settle(&mut disk);
    }
    drop(disk);
    let torn = expected.pop().unwrap();
    let (path, end) = file_of(&options, torn.lsn);
    let mut bytes = fs::read(&path).unwrap();
    bytes[end - WAL_BLOCK_BYTES..end].fill(0);
    fs::write(&path, bytes).unwrap();

    let (mut disk, records) = open(&options).unwrap();
    assert_eq!(records, expected);
    expected.push(append(&mut disk, 9, 77));
    settle(&mut disk);
    drop(disk);
    assert_eq!(open(&options).unwrap().1, expected);
}

/// Bit rot in what was acknowledged: the operator must hear where, and the evidence must stay.
#[test]
fn damage_before_the_tail_is_told_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 256 * KIB);
    let (mut disk, _) = open(&options).unwrap();
    let first = append(&mut disk, 1, 10_000);
    settle(&mut disk);
    append(&mut disk, 2, 10_000);
    settle(&mut disk);
    drop(disk);
    let (path, end) = file_of(&options, first.lsn);
    let mut bytes = fs::read(&path).unwrap();
    bytes[end - 100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let before = options.names();

    let refused = open(&options).map(|_| ()).unwrap_err();
    let DiskError::Damaged { path: told, damage } = &refused else { panic!("{refused}") };
    assert_eq!((told, damage.segment, damage.why), (&path, 0, Why::Record));
    assert_eq!((options.names(), fs::read(&path).unwrap()), (before, bytes));
}

/// A checkpoint lets old segments go, and their files serve again: both while the log goes on.
#[test]
fn truncation_lets_whole_segments_go_and_the_rest_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&options).unwrap();
    let mut expected = Vec::new();
    for slot in 0..40 {
        expected.push(append(&mut disk, slot, 5_000));
        settle(&mut disk);
        if slot % 8 == 7 {
            let below = expected[slot as usize - 4].lsn;
            disk.truncate(below);
            assert!(disk.state().bytes <= 6 * options.segment_bytes as u64);
        }
    }
    let below = expected[35].lsn;
    drop(disk);
    let (disk, records) = open(&options).unwrap();
    assert!(records.len() < 20, "{} records are left", records.len());
    assert_eq!(records, expected[expected.len() - records.len()..]);
    assert!(records[0].lsn < below, "a segment with a record at or above went as well");
    drop(disk);
    assert_eq!(open(&options).unwrap().1, records);
}

/// A caller with a checkpoint from the future must not cost what is not on disk yet.
#[test]
fn truncation_never_reaches_the_segment_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&options).unwrap();
    let record = append(&mut disk, 1, 5_000);
    settle(&mut disk);
    disk.truncate(Lsn(u64::MAX));
    drop(disk);
    assert_eq!(open(&options).unwrap().1, [record]);
}

/// After a failed write nothing may be called durable again, even if later writes succeed.
#[test]
fn a_failed_write_stops_the_disk_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 64 * KIB);
    let (mut disk, _) = open(&options).unwrap();
    // A file that cannot be written to, in place of the segment.
    let (path, _) = file_of(&options, disk.appended());
    let unwritable = fs::File::open(path).unwrap();
    disk.ring.detach(place_of(0)).unwrap();
    disk.ring.attach(place_of(0), &unwritable).unwrap();
    let before = disk.reap(NOW).unwrap();
    append(&mut disk, 1, 100);
    disk.submit().unwrap();
    wait_readable(&disk);
    let failed = disk.reap(NOW).unwrap_err();
    assert!(matches!(failed, DiskError::WriteFailed { segment: 0, .. }), "{failed}");
    assert!(disk.durable == before);
    assert!(matches!(disk.submit(), Err(DiskError::Stopped)));
    assert!(matches!(disk.reap(NOW), Err(DiskError::Stopped)));
}

/// A drive that fails in making a segment is told when the segment is needed, not before: until then the log
/// works.
#[test]
fn a_segment_that_cannot_be_prepared_fails_the_write_that_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&options).unwrap();
    // Where the third segment would be made there is a directory.
    fs::create_dir(options.dir.join(format!("{:016}.new", 2))).unwrap();
    let mut durable = 0;
    let failed = loop {
        append(&mut disk, durable, 10_000);
        let result = loop {
            if let Err(failed) = disk.submit() {
                break Err(failed);
            }
            if disk.reap(NOW).unwrap() >= disk.appended() {
                break Ok(());
            }
            if let Err(failed) = disk.submit() {
                break Err(failed);
            }
            wait_readable(&disk);
        };
        match result {
            Ok(()) => durable += 1,
            Err(failed) => break failed,
        }
    };
    assert!(matches!(failed, DiskError::Io { .. }), "{failed}");
    assert_eq!(durable, 4, "two segments of two records each");
}
