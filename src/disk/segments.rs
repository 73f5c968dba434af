//! The files of one core's log: the locked directory, its segments, and the thread that prepares them.
//!
//! Knows names, sizes and headers; what is in a segment is `wal`'s, writing to it `uring`'s.
//!
//! Invariants:
//!   1. A file named `NUMBER.wal` has its full size and its header, both synced before it got the name.
//!   2. A segment is never written to by two processes: the lock is held as long as the directory.
//!   3. A retired segment loses its name, durably, before its header is overwritten.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, PipeWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};

use memmap2::MmapMut;

use super::DiskError;
use crate::bounds::{MIB, WAL_BLOCK_BYTES};
use crate::wal::{LogIdentity, SegmentHeader};

/// The directory of one log, locked against other processes.
pub(super) struct Directory {
    path: PathBuf,
    identity: LogIdentity,
    segment_bytes: usize,
    /// Holds the lock until it is closed.
    _lock: File,
}

/// A segment nothing was written to yet.
pub(super) struct Fresh {
    pub(super) number: u64,
    pub(super) file: File,
    /// Past the page cache; otherwise the file system refused that.
    pub(super) direct: bool,
}

impl Directory {
    pub(super) fn open(
        path: &Path,
        identity: LogIdentity,
        segment_bytes: usize,
    ) -> Result<Directory, DiskError> {
        fs::create_dir_all(path).map_err(|source| io_error("creating the directory", path, source))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|source| io_error("opening the lock", &lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Directory { path: path.to_owned(), identity, segment_bytes, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DiskError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io_error("locking", &lock_path, source)),
        }
    }

    /// The numbers of the segments there are, ascending.
    pub(super) fn numbers(&self) -> Result<Vec<u64>, DiskError> {
        let names = self.names()?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(super) fn segment_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:016}.wal"))
    }

    /// Fills `bytes` with the beginning of a segment, or with all of it. A shorter file leaves it shorter.
    pub(super) fn read(&self, number: u64, limit: usize, bytes: &mut Vec<u8>) -> Result<(), DiskError> {
        let path = self.segment_path(number);
        bytes.clear();
        bytes.reserve(limit);
        let file = File::open(&path).map_err(|source| io_error("opening", &path, source))?;
        file.take(limit as u64).read_to_end(bytes).map_err(|source| io_error("reading", &path, source))?;
        Ok(())
    }

    /// Makes durable what a recovery has read and is going to rely on: a dying process may have left
    /// it in the drive's cache only.
    pub(super) fn sync(&self, number: u64) -> Result<(), DiskError> {
        let path = self.segment_path(number);
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|source| io_error("syncing", &path, source))
    }

    pub(super) fn remove(&self, number: u64) -> Result<(), DiskError> {
        let path = self.segment_path(number);
        fs::remove_file(&path).map_err(|source| io_error("removing", &path, source))
    }

    /// Removes what a dead process was preparing or had retired.
    pub(super) fn remove_leftovers(&self) -> Result<(), DiskError> {
        for name in self.names()? {
            if name.ends_with(PREPARING) || name.ends_with(RETIRED) {
                let path = self.path.join(name);
                fs::remove_file(&path).map_err(|source| io_error("removing", &path, source))?;
            }
        }
        self.sync_names()
    }

    /// A segment ready to be written to: of full size, every block already allocated and written, so
    /// that a write to it is one write to the drive and changes no metadata.
    pub(super) fn prepare(&self, number: u64, retired: Option<PathBuf>) -> Result<Fresh, DiskError> {
        let path = self.path.join(format!("{number:016}{PREPARING}"));
        let recycled = retired.is_some();
        if let Some(retired) = retired {
            fs::rename(&retired, &path).map_err(|source| io_error("renaming", &retired, source))?;
            self.sync_names()?;
        }
        let (file, direct) = open_direct(&path).map_err(|source| io_error("opening", &path, source))?;
        self.fill(&file, number, recycled).map_err(|source| io_error("preparing", &path, source))?;
        let name = self.segment_path(number);
        fs::rename(&path, &name).map_err(|source| io_error("renaming", &path, source))?;
        self.sync_names()?;
        Ok(Fresh { number, file, direct })
    }

    /// A recycled segment keeps its old runs: they name other positions, so nobody takes them for new.
    fn fill(&self, file: &File, number: u64, recycled: bool) -> io::Result<()> {
        // A mapping, because O_DIRECT wants whole pages.
        let mut chunk = MmapMut::map_anon(FILL_BYTES.min(self.segment_bytes))?;
        if !recycled {
            let mut at = 0;
            while at < self.segment_bytes {
                let bytes = chunk.len().min(self.segment_bytes - at);
                file.write_all_at(&chunk[..bytes], at as u64)?;
                at += bytes;
            }
        }
        let header =
            SegmentHeader { identity: self.identity, number, segment_bytes: self.segment_bytes as u64 };
        chunk[..WAL_BLOCK_BYTES].copy_from_slice(&header.encode());
        file.write_all_at(&chunk[..WAL_BLOCK_BYTES], 0)?;
        file.sync_all()
    }

    /// Takes a segment's name away (invariant 3) and returns what it is called now.
    fn retire(&self, number: u64) -> Result<PathBuf, DiskError> {
        let path = self.segment_path(number);
        let retired = self.path.join(format!("{number:016}{RETIRED}"));
        fs::rename(&path, &retired).map_err(|source| io_error("renaming", &path, source))?;
        Ok(retired)
    }

    fn sync_names(&self) -> Result<(), DiskError> {
        let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
        synced.map_err(|source| io_error("syncing the directory", &self.path, source))
    }

    fn names(&self) -> Result<Vec<String>, DiskError> {
        let list =
            || fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
        let names = list().map_err(|source| io_error("listing", &self.path, source))?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }
}

/// A thread that prepares segments and does away with retired ones, so that the core never waits for
/// either. It ends when this is dropped.
pub(super) struct Preparer {
    /// `None` only while dropping: the thread ends when its orders do.
    orders: Option<Sender<Order>>,
    fresh: Receiver<Result<Fresh, DiskError>>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    /// Writes a byte to `bell` whenever there is something to take.
    pub(super) fn start(directory: Arc<Directory>, bell: PipeWriter) -> Result<Preparer, DiskError> {
        let (orders, inbox) = mpsc::channel();
        let (outbox, fresh) = mpsc::channel();
        let path = directory.path.clone();
        let work = move || prepare_segments(&directory, &inbox, &outbox, bell);
        let thread = thread::Builder::new().name("mako-segments".to_owned()).spawn(work);
        let thread = thread.map_err(|source| io_error("starting a thread", &path, source))?;
        Ok(Preparer { orders: Some(orders), fresh, thread: Some(thread) })
    }

    pub(super) fn prepare(&self, number: u64) {
        self.order(Order::Prepare(number));
    }

    /// Segments are retired in the order of their numbers, so that what is left has no hole.
    pub(super) fn retire(&self, number: u64) {
        self.order(Order::Retire(number));
    }

    /// A segment, or the failure to make one, if it is there. `Stopped` once the thread is gone.
    pub(super) fn take(&self) -> Option<Result<Fresh, DiskError>> {
        match self.fresh.try_recv() {
            Ok(fresh) => Some(fresh),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(DiskError::Stopped)),
        }
    }

    /// A thread that failed has said so through `take`, and hears no more orders.
    fn order(&self, order: Order) {
        let orders = self.orders.as_ref().expect("orders are there until drop");
        drop(orders.send(order));
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has ended the process already.
            drop(thread.join());
        }
    }
}

enum Order {
    Prepare(u64),
    Retire(u64),
}

/// The thread: one order after the other, until one fails or there are no more.
fn prepare_segments(
    directory: &Directory,
    inbox: &Receiver<Order>,
    outbox: &Sender<Result<Fresh, DiskError>>,
    mut bell: PipeWriter,
) {
    let mut spare = None;
    for order in inbox {
        let result = match order {
            Order::Prepare(number) => directory.prepare(number, spare.take()).map(Some),
            Order::Retire(number) => dispose(directory, number, &mut spare).map(|()| None),
        };
        let Some(result) = result.transpose() else { continue };
        let failed = result.is_err();
        // The core may have gone meanwhile; then nobody is left to tell.
        if outbox.send(result).is_err() || bell.write_all(&[1]).is_err() || failed {
            return;
        }
    }
}

/// Keeps one retired segment to be recycled, and removes the others.
fn dispose(directory: &Directory, number: u64, spare: &mut Option<PathBuf>) -> Result<(), DiskError> {
    let retired = directory.retire(number)?;
    if spare.is_none() {
        *spare = Some(retired);
        return Ok(());
    }
    fs::remove_file(&retired).map_err(|source| io_error("removing", &retired, source))
}

/// Every write durable when it is done. Some file systems refuse O_DIRECT: then through the page cache.
fn open_direct(path: &Path) -> io::Result<(File, bool)> {
    let open = |flags| {
        OpenOptions::new().create(true).truncate(false).read(true).write(true).custom_flags(flags).open(path)
    };
    match open(libc::O_DSYNC | libc::O_DIRECT) {
        Err(refused) if refused.raw_os_error() == Some(libc::EINVAL) => Ok((open(libc::O_DSYNC)?, false)),
        opened => Ok((opened?, true)),
    }
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".wal")?.parse().ok()
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> DiskError {
    DiskError::Io { what, path: path.to_owned(), source }
}

const PREPARING: &str = ".new";
const RETIRED: &str = ".old";
const FILL_BYTES: usize = MIB;
