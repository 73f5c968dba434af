//! The disk of durability "memory": records are counted and dropped, and durable at once.
//!
//! It remembers nothing over a restart; that the protocol allows for it is `paxos`'s concern.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use super::{Disk, DiskError, LogState};
use crate::bounds::WAL_BACKLOG_BYTES_MAX;
use crate::types::{Lsn, Timestamp};
use crate::wal::Record;

#[derive(Default, Debug)]
pub struct RamDisk {
    appended: Lsn,
    records: u64,
}

impl RamDisk {
    pub fn new() -> RamDisk {
        RamDisk::default()
    }

    /// Records dropped so far.
    pub fn records(&self) -> u64 {
        self.records
    }
}

impl Disk for RamDisk {
    fn append(&mut self, record: Record<'_>) -> Lsn {
        self.records += 1;
        // One more than the payload, so that an empty record has a position of its own.
        self.appended = Lsn(self.appended.0 + 1 + record.payload.len() as u64);
        self.appended
    }

    fn submit(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn reap(&mut self, _: Timestamp) -> Result<Lsn, DiskError> {
        Ok(self.appended)
    }

    fn appended(&self) -> Lsn {
        self.appended
    }

    fn room(&self) -> usize {
        WAL_BACKLOG_BYTES_MAX
    }

    fn truncate(&mut self, _: Lsn) {}

    fn state(&self) -> LogState {
        LogState::default()
    }

    fn wake_fd(&self) -> Option<RawFd> {
        None
    }

    fn deadline(&self) -> Option<Timestamp> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Ballot, PartitionId, Slot};
    use crate::wal::RecordKind;

    /// Replies wait for the position of their record; were it shared or late, they would wait for ever
    /// or not at all.
    #[test]
    fn every_record_is_durable_at_once_and_has_its_own_position() {
        let mut disk = RamDisk::new();
        let record = Record {
            kind: RecordKind::Vote,
            partition: PartitionId(0),
            ballot: Ballot::default(),
            slot: Slot(0),
            payload: b"",
        };
        let first = disk.append(record);
        let second = disk.append(record);
        assert!(first < second);
        assert_eq!(disk.reap(Timestamp(0)).unwrap(), second);
        assert_eq!((disk.appended(), disk.records()), (second, 2));
    }
}
