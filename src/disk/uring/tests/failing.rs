//! A drive without space, and one that does not answer.
//!
//! `/dev/full` stands for the one: every write to it fails as on a full disk. A pipe that nobody reads stands
//! for the other: the write to it never ends.
#![allow(unsafe_code, reason = "poll(2) has no safe wrapper among our crates")]

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;

use super::*;
use crate::bounds::WAL_BACKLOG_BYTES_MAX;

/// Where segment `number` would be made there is no space.
fn fill_up(place: &Place, number: u64) {
    symlink("/dev/full", place.dir.join(format!("{number:016}.new"))).unwrap();
}

/// Turns at `now` until `done`, or nothing more can happen by itself.
fn turn_until(disk: &mut UringDisk, now: Timestamp, mut done: impl FnMut(&mut UringDisk, Lsn) -> bool) {
    loop {
        disk.submit().unwrap();
        let durable = disk.reap(now).unwrap();
        if done(disk, durable) {
            return;
        }
        disk.submit().unwrap();
        wait_readable(disk);
    }
}

/// A full disk is no failure: the node serves what it has, refuses new work, and goes on when there is space. What
/// had been appended by then must be neither lost nor called durable.
#[test]
fn on_a_full_disk_nothing_is_taken_in_until_there_is_space_again() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    fill_up(&place, 2);
    let mut expected = Vec::new();
    for slot in 0..4 {
        expected.push(append(&mut disk, slot, 10_000));
    }
    turn_until(&mut disk, NOW, |disk, _| disk.state().full);
    assert_eq!((disk.room(), disk.state().checkpoint_due()), (0, true));
    assert!(!place.names().iter().any(|name| name.ends_with(".new")), "the rest of the space was kept");
    let waiting = append(&mut disk, 4, 10_000);
    turn_until(&mut disk, NOW, |_, durable| durable >= expected[3].lsn);
    disk.submit().unwrap();
    assert!(disk.reap(NOW).unwrap() < waiting.lsn);

    let retry_at = NOW.plus_ns(WAL_FULL_RETRY_NS);
    assert_eq!(disk.deadline(), Some(retry_at));
    turn_until(&mut disk, retry_at, |_, durable| durable >= waiting.lsn);
    assert!(!disk.state().full && disk.room() > 0);
    expected.push(waiting);
    drop(disk);
    assert_eq!(open(&place).unwrap().1, expected);
}

/// A disk that is full for long is tried again, and not for the length of a stuck write only.
#[test]
fn a_disk_that_stays_full_is_tried_again_and_never_called_stuck() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    fill_up(&place, 2);
    let lsn = (0..4).map(|slot| append(&mut disk, slot, 10_000).lsn).last().unwrap();
    turn_until(&mut disk, NOW, |disk, durable| disk.state().full && durable >= lsn);
    let lsn = append(&mut disk, 4, 10_000).lsn;
    let mut now = NOW;
    for _ in 0..3 {
        turn_until(&mut disk, now, |disk, _| disk.state().full && !disk.space.refused.is_empty());
        fill_up(&place, 2);
        now = now.plus_ns(2 * WAL_STUCK_NS);
        disk.reap(now).unwrap();
        assert!(disk.state().full, "space was claimed before any was found");
    }
    turn_until(&mut disk, now, |disk, _| disk.state().full && !disk.space.refused.is_empty());
    turn_until(&mut disk, now.plus_ns(WAL_FULL_RETRY_NS), |_, durable| durable >= lsn);
}

/// A checkpoint lets segments go; what they occupied is what the next one is made of, at once.
#[test]
fn truncation_on_a_full_disk_makes_the_space_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    fill_up(&place, 2);
    let last = (0..4).map(|slot| append(&mut disk, slot, 10_000)).last().unwrap();
    turn_until(&mut disk, NOW, |disk, durable| disk.state().full && durable >= last.lsn);
    let after = append(&mut disk, 4, 10_000);
    disk.truncate(last.lsn);
    turn_until(&mut disk, NOW, |_, durable| durable >= after.lsn);
    assert!(disk.room() > WAL_BACKLOG_BYTES_MAX / 2);
    assert!(disk.state().bytes <= 4 * place.segment_bytes as u64);
    drop(disk);
    assert_eq!(open(&place).unwrap().1.last(), Some(&after));
}

/// A pipe with no space left: whoever writes to it waits.
fn stuck_file() -> (io::PipeReader, fs::File) {
    let (reader, mut writer) = io::pipe().unwrap();
    // SAFETY: changes a flag of a file of ours.
    assert_eq!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }, 0);
    while writer.write(&[0; 4_096]).is_ok() {}
    // SAFETY: as above.
    assert_eq!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, 0) }, 0);
    (reader, OwnedFd::from(writer).into())
}

/// A drive that neither writes nor fails would hold the core, its partitions and its lease for ever.
#[test]
fn a_write_that_never_ends_stops_the_disk_when_its_time_is_over() {
    for place_stuck in [place_of(0), VOTES_PLACE] {
        let dir = tempfile::tempdir().unwrap();
        let place = options(dir.path(), 64 * KIB);
        let (mut disk, _) = open(&place).unwrap();
        let (reader, stuck) = stuck_file();
        disk.ring.detach(place_stuck).unwrap();
        disk.ring.attach(place_stuck, &stuck).unwrap();
        let before = disk.reap(NOW).unwrap();
        assert_eq!(disk.deadline(), None);
        voting::vote(&mut disk, 4, 1);
        disk.submit().unwrap();
        let over = NOW.plus_ns(WAL_STUCK_NS);
        assert_eq!(disk.deadline(), Some(over));
        assert_eq!(disk.reap(Timestamp(over.0 - 1)).unwrap(), before);
        let failed = disk.reap(over).unwrap_err();
        assert!(matches!(failed, DiskError::Stuck { .. }), "{failed}");
        assert!(matches!(disk.submit(), Err(DiskError::Stopped)));
        // Whoever stops the core must get it back, and nobody may use the log while writes may still arrive.
        drop(disk);
        assert!(matches!(CoreDirectory::lock(&place.dir), Err(DiskError::InUse { .. })));
        drop(reader);
    }
}

/// A segment that nobody prepares holds up the log as a stuck write does.
#[test]
fn a_segment_that_never_comes_stops_the_disk_when_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    // The thread is told of no segment, as if it hung in the one before.
    disk.ordered = 100;
    for slot in 0..5 {
        append(&mut disk, slot, 10_000);
    }
    turn_until(&mut disk, NOW, |disk, _| disk.waiting.is_some() && disk.flights.is_empty());
    assert_eq!(disk.deadline(), Some(NOW.plus_ns(WAL_STUCK_NS)));
    disk.reap(Timestamp(NOW.0 + WAL_STUCK_NS - 1)).unwrap();
    let failed = disk.reap(NOW.plus_ns(WAL_STUCK_NS)).unwrap_err();
    assert!(matches!(failed, DiskError::Stuck { .. }), "{failed}");
}

/// Other work on the drive makes the next segment take its time. A node that left for that would leave whenever it
/// is busiest.
#[test]
fn a_segment_that_is_long_in_the_making_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    // The thread has other segments to make first.
    let (next, other) = (disk.ordered + 1, 100);
    disk.ordered = other;
    for slot in 0..5 {
        append(&mut disk, slot, 10_000);
    }
    turn_until(&mut disk, NOW, |disk, _| disk.waiting.is_some() && disk.flights.is_empty());
    disk.preparer.prepare(other);
    let over = NOW.plus_ns(WAL_STUCK_NS);
    turn_until(&mut disk, Timestamp(over.0 - 1), |disk, _| disk.attached.contains(&other));
    assert_eq!(disk.reap(over).map_err(|failed| failed.to_string()), Ok(disk.durable));
    assert!(disk.deadline() > Some(over));
    disk.preparer.prepare(next);
    turn_until(&mut disk, over, |disk, _| disk.waiting.is_none());
}
