//! Files of segments that were let go: which are used again, and that nothing of their old life is.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use super::*;

/// The files of segments, and those that were retired, by what they are whatever they are called.
fn files(place: &Place) -> BTreeSet<u64> {
    let is_segment = |name: &String| name.ends_with(".wal") || name.ends_with(".old");
    let names = place.names();
    names.iter().filter(|name| is_segment(name)).map(|name| inode(place, name)).collect()
}

fn inode(place: &Place, name: &str) -> u64 {
    fs::metadata(place.dir.join(name)).unwrap().ino()
}

/// So many records, of which two fill a segment.
fn fill(disk: &mut UringDisk, slots: std::ops::Range<u64>) -> Vec<OwnedRecord> {
    let records = slots.map(|slot| {
        let record = append(disk, slot, 10_000);
        settle(disk);
        record
    });
    records.collect()
}

/// As many files as the log may have are kept, and no more: giving them back and filling others is what a drive is slow
/// at.
#[test]
fn what_is_let_go_is_used_again_within_the_bound_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = options(dir.path(), 32 * KIB);
    place.log_bytes_max = 6 * 32 * KIB as u64;
    let (mut disk, _) = open(&place).unwrap();
    // Twice its bound, because no checkpoint came in time.
    let records = fill(&mut disk, 0..24);
    cut(&mut disk, records[22].lsn);
    drop(disk);
    let kept = files(&place);
    assert_eq!(kept.len(), 6, "{:?}", place.names());

    // Another life, in which the log goes on in them.
    let (mut disk, left) = open(&place).unwrap();
    assert_eq!(left, records[22..]);
    let more = fill(&mut disk, 24..28);
    drop(disk);
    assert_eq!(files(&place), kept, "other files were made: {:?}", place.names());
    let all: Vec<_> = left.into_iter().chain(more).collect();
    assert_eq!(open(&place).unwrap().1, all);
}

/// What a dying process had prepared and not used, or written to and told nobody of.
#[test]
fn what_lies_behind_the_end_of_the_log_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    let records = fill(&mut disk, 0..1);
    drop(disk);
    let ahead = inode(&place, "0000000000000001.wal");
    drop(open(&place).unwrap());
    assert_eq!(inode(&place, "0000000000000002.wal"), ahead, "{:?}", place.names());
    assert_eq!(open(&place).unwrap().1, records);
}

/// Its runs say that they are of segment 0: a log that begins anew there would take them for its own.
#[test]
fn a_retired_segment_never_gets_its_old_number_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    fill(&mut disk, 0..1);
    drop(disk);
    fs::rename(place.dir.join("0000000000000000.wal"), place.dir.join("0000000000000000.old")).unwrap();
    fs::remove_file(place.dir.join("0000000000000001.wal")).unwrap();
    place.begins_anew = true;
    drop(open(&place).unwrap());
    assert_eq!(open(&place).unwrap().1, []);
}

/// One that is not whole would be found too short by the next start.
#[test]
fn a_retired_segment_of_another_length_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 32 * KIB);
    let (mut disk, _) = open(&place).unwrap();
    let records = fill(&mut disk, 0..3);
    drop(disk);
    for (name, bytes) in [("a.old", 32 * KIB), ("0000000000000000.old", 31 * KIB)] {
        fs::write(place.dir.join(name), vec![7; bytes]).unwrap();
    }
    drop(open(&place).unwrap());
    assert!(!place.names().iter().any(|name| name.ends_with(".old")), "{:?}", place.names());
    assert_eq!(open(&place).unwrap().1, records);
}
