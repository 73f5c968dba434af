//! The files of a core's checkpoints, and the thread that reads and writes them.
//!
//! A checkpoint is written under a name of its own and renamed when it is on disk. Through the page cache:
//! what is written here is not read again soon, and nobody waits for it.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender};

use super::{Answer, COMMITTED, CheckpointPart, Order, Origin, path_of};
use crate::bounds::{CHECKPOINT_CHUNK_BYTES, MIB};
use crate::disk::directory::{CoreDirectory, io_error};
use crate::disk::{DiskError, urgency};
use crate::types::PartitionId;
use crate::wal::checkpoint::{CheckpointDamage, CheckpointReader, CheckpointSummary, Piece};

/// What the thread works on.
pub(super) struct Files {
    directory: CoreDirectory,
    /// By origin.
    open: [Option<Open>; 2],
}

/// A checkpoint that is being written.
struct Open {
    attempt: u64,
    partition: PartitionId,
    path: PathBuf,
    file: File,
    /// Bytes written since the drive was last made to take them.
    unsynced: usize,
}

/// The thread: one order after the other, until there are no more. Every answer rings the bell first.
pub(super) fn work(
    mut files: Files,
    inbox: &Receiver<Order>,
    outbox: &SyncSender<Answer>,
    mut bell: PipeWriter,
) {
    urgency::restore();
    for order in inbox {
        for answer in files.carry_out(order).into_iter().flatten() {
            // The core may have gone meanwhile; then nobody is left to tell.
            if bell.write_all(&[1]).is_err() || outbox.send(answer).is_err() {
                return;
            }
        }
    }
}

impl Files {
    pub(super) fn new(directory: &CoreDirectory) -> Files {
        Files { directory: directory.clone(), open: [None, None] }
    }

    fn carry_out(&mut self, order: Order) -> [Option<Answer>; 2] {
        match order {
            Order::Begin { origin, attempt, partition } => {
                let failure = self.begin(origin, attempt, partition).err();
                [failure.map(|error| Answer::Over { origin, attempt, failure: Some(error) }), None]
            }
            Order::Write { origin, attempt, buffer } => {
                let failure = self.write(origin, attempt, &buffer).err();
                let failed = failure.map(|error| self.fail(origin, attempt, error));
                [Some(Answer::Wrote { origin, buffer }), failed]
            }
            Order::Commit { origin, attempt } => {
                // One that has failed was told so.
                let Some(open) = self.take(origin, attempt) else { return [None, None] };
                let failure = commit(&self.directory, &open).err();
                if failure.is_some() {
                    drop(fs::remove_file(&open.path));
                }
                [Some(Answer::Over { origin, attempt, failure }), None]
            }
            Order::Abandon { origin, attempt } => {
                if let Some(open) = self.take(origin, attempt) {
                    drop(fs::remove_file(&open.path));
                }
                [Some(Answer::Abandoned { origin, attempt }), None]
            }
            Order::Read { partition, offset, bytes, ticket } => {
                let result = read(&path_of(&self.directory, partition), offset, bytes);
                [Some(Answer::Read { ticket, result }), None]
            }
        }
    }

    fn begin(&mut self, origin: Origin, attempt: u64, partition: PartitionId) -> Result<(), DiskError> {
        let ending = match origin {
            Origin::Own => OWN,
            Origin::Peer => PEER,
        };
        let path = self.directory.file(&format!("{:05}{ending}", partition.0));
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path);
        let file = file.map_err(|source| io_error("creating", &path, source))?;
        self.open[origin as usize] = Some(Open { attempt, partition, path, file, unsynced: 0 });
        Ok(())
    }

    fn write(&mut self, origin: Origin, attempt: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let open = self.open[origin as usize].as_mut().filter(|open| open.attempt == attempt);
        // One that has failed was told so.
        let Some(open) = open else { return Ok(()) };
        let failed = |source| io_error("writing", &open.path, source);
        open.file.write_all(bytes).map_err(failed)?;
        open.unsynced += bytes.len();
        if open.unsynced >= UNSYNCED_BYTES_MAX {
            open.file.sync_data().map_err(failed)?;
            open.unsynced = 0;
        }
        Ok(())
    }

    /// Nothing is left of it: on a full disk its space is needed.
    fn fail(&mut self, origin: Origin, attempt: u64, error: DiskError) -> Answer {
        if let Some(open) = self.take(origin, attempt) {
            drop(fs::remove_file(&open.path));
        }
        Answer::Over { origin, attempt, failure: Some(error) }
    }

    fn take(&mut self, origin: Origin, attempt: u64) -> Option<Open> {
        self.open[origin as usize].take_if(|open| open.attempt == attempt)
    }
}

/// On disk as a whole, then in the place of the old one, then that on disk as well.
fn commit(directory: &CoreDirectory, open: &Open) -> Result<(), DiskError> {
    let Open { partition, path, file, .. } = open;
    file.sync_all().map_err(|source| io_error("syncing", path, source))?;
    fs::rename(path, path_of(directory, *partition)).map_err(|source| io_error("renaming", path, source))?;
    directory.sync_names()
}

fn read(path: &Path, offset: u64, bytes: usize) -> Result<Option<CheckpointPart>, DiskError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("opening", path, source)),
    };
    let part = || {
        let total = file.metadata()?.len();
        // The checksum of the header, which covers what tells one checkpoint from the next.
        let mut checkpoint = [0; 4];
        file.read_exact_at(&mut checkpoint, 8)?;
        let left = usize::try_from(total.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut part = vec![0; bytes.min(left)];
        file.read_exact_at(&mut part, offset)?;
        Ok(CheckpointPart { checkpoint: u32::from_le_bytes(checkpoint), total, offset, bytes: part })
    };
    part().map(Some).map_err(|source| io_error("reading", path, source))
}

pub(super) fn load(
    directory: &CoreDirectory,
    cluster: u64,
    partition: PartitionId,
    visit: &mut dyn FnMut(Piece<'_>),
) -> Result<Option<CheckpointSummary>, DiskError> {
    let path = path_of(directory, partition);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("opening", &path, source)),
    };
    let refuse = |damage: CheckpointDamage| {
        let (path, why) = (path.clone(), damage.why);
        if why.is_unsuitable() {
            DiskError::CheckpointUnsuitable { path, why }
        } else {
            DiskError::CheckpointDamaged { path, damage }
        }
    };
    let mut reader = CheckpointReader::new(cluster, partition);
    let mut bytes = vec![0; CHECKPOINT_CHUNK_BYTES];
    loop {
        let read = match file.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => read,
            Err(interrupted) if interrupted.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(io_error("reading", &path, source)),
        };
        reader.feed(&bytes[..read], visit).map_err(refuse)?;
    }
    reader.finish().map(Some).map_err(refuse)
}

/// Removes what was not committed.
pub(super) fn remove_leftovers(directory: &CoreDirectory) -> Result<(), DiskError> {
    directory.remove_ending(&[OWN, PEER])
}

/// Whether a file of this name is a committed checkpoint.
pub fn is_checkpoint(name: &str) -> bool {
    name.strip_suffix(COMMITTED).is_some_and(|stem| stem.ends_with('.'))
}

/// The endings of checkpoints that are not committed.
const OWN: &str = ".checkpoint-own";
const PEER: &str = ".checkpoint-peer";
/// What may wait in the page cache: all of a large checkpoint at once would hold up the log at the end.
const UNSYNCED_BYTES_MAX: usize = 8 * MIB;
