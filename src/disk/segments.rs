//! The segments of one core's log as files, and the thread that prepares them.
//!
//! Knows names, sizes and headers; what is in a segment is `wal`'s, writing to it `uring`'s.
//!
//! Invariants:
//!   1. A file named `NUMBER.wal` has its full size and its header, both synced before it got the name.
//!   2. A retired segment loses its name, durably, before its header is overwritten.
//!   3. What could not be prepared leaves no file behind: on a full disk it would keep the last space from
//!      the checkpoint that is to free some.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fs::{self, File, Metadata};
use std::io::{self, PipeWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use memmap2::MmapMut;

use super::directory::{CoreDirectory, io_error, open_direct, open_to_read};
use super::{DiskError, urgency};
use crate::bounds::{KIB, WAL_BACKGROUND_KIB_PER_SECOND, WAL_BLOCK_BYTES};
use crate::wal::{LogIdentity, SegmentHeader};

/// The segments of one log.
pub(super) struct Segments {
    directory: CoreDirectory,
    identity: LogIdentity,
    segment_bytes: usize,
    making: Arc<Making>,
}

/// What whoever makes segments and whoever waits for one tell each other.
struct Making {
    /// Somebody waits for the segment that is being made: no rests. Until there is a thread for it, that is who makes it.
    hurry: AtomicBool,
    /// How often the drive has answered: a slow one is not a stuck one.
    steps: AtomicU64,
}

impl Making {
    fn is_hurried(&self) -> bool {
        self.hurry.load(Ordering::Relaxed)
    }

    fn on_step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// A segment nothing was written to yet.
pub(super) struct Fresh {
    pub(super) number: u64,
    pub(super) file: File,
    /// Past the page cache; otherwise the file system refused that.
    pub(super) direct: bool,
}

impl Segments {
    pub(super) fn new(directory: &CoreDirectory, identity: LogIdentity, segment_bytes: usize) -> Segments {
        Segments {
            directory: directory.clone(),
            identity,
            segment_bytes,
            making: Arc::new(Making { hurry: AtomicBool::new(true), steps: AtomicU64::new(0) }),
        }
    }

    pub(super) fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        path_of(&self.directory, number)
    }

    /// The first bytes of a segment, or all of it when it is shorter.
    pub(super) fn read_head(&self, number: u64, limit: usize, bytes: &mut Vec<u8>) -> Result<(), DiskError> {
        let path = self.path(number);
        bytes.clear();
        let file = File::open(&path).map_err(|source| io_error("opening", &path, source))?;
        file.take(limit as u64).read_to_end(bytes).map_err(|source| io_error("reading", &path, source))?;
        Ok(())
    }

    /// Fills whole pages with as much of a segment as there is; how many bytes that is.
    pub(super) fn read(&self, number: u64, pages: &mut MmapMut) -> Result<usize, DiskError> {
        let path = self.path(number);
        let file = open_to_read(&path).map_err(|source| io_error("opening", &path, source))?;
        let mut read = 0;
        while read < pages.len() {
            let end = pages.len().min(read + READ_BYTES);
            match file.read_at(&mut pages[read..end], read as u64) {
                Ok(0) => break,
                // Less than was asked for is the end of the file, of which the last block may not be whole.
                Ok(bytes) if !bytes.is_multiple_of(WAL_BLOCK_BYTES) => return Ok(read + bytes),
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(io_error("reading", &path, source)),
            }
        }
        Ok(read)
    }

    /// Makes durable what a recovery has read and is going to rely on: a dying process may have left
    /// it in the drive's cache only.
    pub(super) fn sync(&self, number: u64) -> Result<(), DiskError> {
        let path = self.path(number);
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|source| io_error("syncing", &path, source))
    }

    /// Removes what a dead process was preparing. What it had retired, and what of that is fit for a number from
    /// `first` on: it need not be filled again.
    pub(super) fn take_leftovers(&self, first: u64) -> Result<VecDeque<PathBuf>, DiskError> {
        self.directory.remove_ending(&[PREPARING])?;
        let mut spares = VecDeque::new();
        for name in self.directory.names()? {
            let Some(number) = name.strip_suffix(RETIRED) else { continue };
            let path = self.directory.file(&name);
            if self.is_spare(number, &path, first) {
                spares.push_back(path);
            } else {
                fs::remove_file(&path).map_err(|source| io_error("removing", &path, source))?;
            }
        }
        Ok(spares)
    }

    /// Runs of its old life must not be taken for those of its next one, so its number must be another.
    fn is_spare(&self, number: &str, path: &Path, first: u64) -> bool {
        let is_older = number.parse().is_ok_and(|number: u64| number < first);
        let is_whole = |file: Metadata| file.is_file() && file.len() == self.segment_bytes as u64;
        is_older && fs::symlink_metadata(path).is_ok_and(is_whole)
    }

    /// A segment ready to be written to: of full size, every block already allocated and written, so
    /// that a write to it is one write to the drive and changes no metadata. What is retired has that already;
    /// without it this takes a while, because the drive is left to the log's own writes most of the time, unless those
    /// wait for it.
    pub(super) fn prepare(&self, number: u64, retired: Option<PathBuf>) -> Result<Fresh, DiskError> {
        let path = self.directory.file(&format!("{number:016}{PREPARING}"));
        let recycled = retired.is_some();
        if let Some(retired) = retired {
            fs::rename(&retired, &path).map_err(|source| io_error("renaming", &retired, source))?;
            self.directory.sync_names()?;
            self.making.on_step();
        }
        let (file, direct) = open_direct(&path).map_err(|source| io_error("opening", &path, source))?;
        if let Err(source) = self.fill(&file, number, recycled) {
            // Invariant 3. Whether it can be removed matters less than why it could not be made.
            drop(fs::remove_file(&path));
            return Err(io_error("preparing", &path, source));
        }
        let name = self.path(number);
        fs::rename(&path, &name).map_err(|source| io_error("renaming", &path, source))?;
        self.directory.sync_names()?;
        Ok(Fresh { number, file, direct })
    }

    /// A recycled segment keeps its old runs: they name other positions, so nobody takes them for new.
    fn fill(&self, file: &File, number: u64, recycled: bool) -> io::Result<()> {
        // A mapping, because O_DIRECT wants whole pages.
        let mut chunk = MmapMut::map_anon(FILL_BYTES_HURRIED.min(self.segment_bytes))?;
        if !recycled {
            let mut at = 0;
            while at < self.segment_bytes {
                let step = if self.making.is_hurried() { FILL_BYTES_HURRIED } else { FILL_BYTES };
                let bytes = step.min(self.segment_bytes - at);
                file.write_all_at(&chunk[..bytes], at as u64)?;
                at += bytes;
                self.making.on_step();
                if !self.making.is_hurried() {
                    thread::park_timeout(due(bytes));
                }
            }
        }
        let header =
            SegmentHeader { identity: self.identity, number, segment_bytes: self.segment_bytes as u64 };
        chunk[..WAL_BLOCK_BYTES].copy_from_slice(&header.encode());
        file.write_all_at(&chunk[..WAL_BLOCK_BYTES], 0)?;
        file.sync_all()?;
        self.making.on_step();
        Ok(())
    }

    /// Takes a segment's name away (invariant 2) and returns what it is called now.
    pub(super) fn retire(&self, number: u64) -> Result<PathBuf, DiskError> {
        let path = self.path(number);
        let retired = self.directory.file(&format!("{number:016}{RETIRED}"));
        fs::rename(&path, &retired).map_err(|source| io_error("renaming", &path, source))?;
        Ok(retired)
    }
}

/// A thread that prepares segments and does away with retired ones, so that the core never waits for
/// either. It ends when this is dropped.
pub(super) struct Preparer {
    /// `None` only while dropping: the thread ends when its orders do.
    orders: Option<Sender<Order>>,
    making: Arc<Making>,
    prepared: Receiver<Prepared>,
    thread: Option<JoinHandle<()>>,
}

/// What became of an order to prepare a segment.
pub(super) enum Prepared {
    Fresh(Fresh),
    /// There is no space for this segment. It is forgotten until it is ordered again.
    Full(u64),
    /// The thread has ended.
    Failed(DiskError),
}

impl Preparer {
    /// Writes a byte to `bell` whenever there is something to take. Segments that were retired before are given to it.
    pub(super) fn start(
        segments: Segments,
        spares: VecDeque<PathBuf>,
        bell: PipeWriter,
    ) -> Result<Preparer, DiskError> {
        let (orders, inbox) = mpsc::channel();
        let (outbox, prepared) = mpsc::channel();
        let (path, making) = (segments.directory.path().to_owned(), segments.making.clone());
        making.hurry.store(false, Ordering::Relaxed);
        let retired = Retired { spares, doomed: VecDeque::new(), rest: due(segments.segment_bytes) };
        let work = move || prepare_segments(&segments, retired, &inbox, &outbox, bell);
        let thread = thread::Builder::new().name("mako-segments".to_owned()).spawn(work);
        let thread = thread.map_err(|source| io_error("starting a thread", &path, source))?;
        Ok(Preparer { orders: Some(orders), making, prepared, thread: Some(thread) })
    }

    pub(super) fn prepare(&self, number: u64) {
        self.order(Order::Prepare(number));
    }

    /// Whether the log waits for the next segment.
    pub(super) fn hurry(&self, waits: bool) {
        if self.making.hurry.swap(waits, Ordering::Relaxed) != waits
            && let Some(thread) = self.thread.as_ref().filter(|_| waits)
        {
            thread.thread().unpark();
        }
    }

    /// How often the drive has answered the thread. While it grows the next segment will come.
    pub(super) fn steps(&self) -> u64 {
        self.making.steps.load(Ordering::Relaxed)
    }

    /// Segments are retired in the order of their numbers, so that what is left has no hole. They are used again, or
    /// not.
    pub(super) fn retire(&self, number: u64, and_then: Afterlife) {
        self.order(Order::Retire(number, and_then));
    }

    /// What became of an order, if that is known. `Stopped` once the thread is gone.
    pub(super) fn take(&self) -> Option<Prepared> {
        match self.prepared.try_recv() {
            Ok(prepared) => Some(prepared),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Prepared::Failed(DiskError::Stopped)),
        }
    }

    /// Leaves the thread to itself: it hangs on a drive that does not answer.
    pub(super) fn abandon(&mut self) {
        self.thread = None;
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

/// What becomes of a segment that was retired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Afterlife {
    Spare,
    Removed,
}

enum Order {
    Prepare(u64),
    Retire(u64, Afterlife),
}

/// The thread: one order after the other, until one fails or there are no more.
fn prepare_segments(
    segments: &Segments,
    mut retired: Retired,
    inbox: &Receiver<Order>,
    outbox: &Sender<Prepared>,
    mut bell: PipeWriter,
) {
    urgency::restore();
    loop {
        let prepared = match retired.next_order(inbox) {
            Next::Order(Order::Prepare(number)) => match segments.prepare(number, retired.take()) {
                Ok(fresh) => Prepared::Fresh(fresh),
                Err(failure) if failure.is_full() => Prepared::Full(number),
                Err(failure) => Prepared::Failed(failure),
            },
            Next::Order(Order::Retire(number, and_then)) => match segments.retire(number) {
                Ok(path) => {
                    retired.add(path, and_then);
                    segments.making.on_step();
                    continue;
                }
                Err(failure) => Prepared::Failed(failure),
            },
            Next::Remove => match retired.remove_one() {
                Ok(()) => {
                    segments.making.on_step();
                    continue;
                }
                Err(failure) => Prepared::Failed(failure),
            },
            Next::End => return,
        };
        let failed = matches!(prepared, Prepared::Failed(_));
        // The core may have gone meanwhile; then nobody is left to tell, and the last orders are carried out.
        drop(outbox.send(prepared));
        drop(bell.write_all(&[1]));
        if failed {
            return;
        }
    }
}

/// Files of retired segments: those that are written to again, and those that go. Giving the blocks of many back at
/// once keeps a drive from the log's own writes, so there is a rest before each removal.
struct Retired {
    spares: VecDeque<PathBuf>,
    doomed: VecDeque<PathBuf>,
    rest: Duration,
}

enum Next {
    Order(Order),
    Remove,
    End,
}

impl Retired {
    fn add(&mut self, path: PathBuf, and_then: Afterlife) {
        match and_then {
            Afterlife::Spare => self.spares.push_back(path),
            Afterlife::Removed => self.doomed.push_back(path),
        }
    }

    fn take(&mut self) -> Option<PathBuf> {
        self.spares.pop_front().or_else(|| self.doomed.pop_front())
    }

    /// Orders come first; at their end nobody writes any more, and there is no rest.
    fn next_order(&self, inbox: &Receiver<Order>) -> Next {
        if self.doomed.is_empty() {
            return inbox.recv().map_or(Next::End, Next::Order);
        }
        match inbox.recv_timeout(self.rest) {
            Ok(order) => Next::Order(order),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Next::Remove,
        }
    }

    fn remove_one(&mut self) -> Result<(), DiskError> {
        let Some(path) = self.doomed.pop_front() else { return Ok(()) };
        fs::remove_file(&path).map_err(|source| io_error("removing", &path, source))
    }
}

/// What is due to a drive after so many bytes that nobody waits for.
fn due(bytes: usize) -> Duration {
    Duration::from_secs(1) * (bytes / KIB) as u32 / WAL_BACKGROUND_KIB_PER_SECOND
}

/// The numbers of the segments in a directory, ascending.
pub(super) fn numbers(directory: &CoreDirectory) -> Result<Vec<u64>, DiskError> {
    let names = directory.names()?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The number of the segment of this name.
pub fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".wal")?.parse().ok()
}

/// Of the log there is, if there is one: what the first sound header says.
pub(super) fn size_of(directory: &CoreDirectory, numbers: &[u64]) -> Result<Option<usize>, DiskError> {
    let mut block = Vec::new();
    for number in numbers {
        let path = path_of(directory, *number);
        block.clear();
        let read =
            File::open(&path).and_then(|file| file.take(WAL_BLOCK_BYTES as u64).read_to_end(&mut block));
        read.map_err(|source| io_error("reading", &path, source))?;
        let header = SegmentHeader::decode(&block).ok();
        if let Some(bytes) = header.and_then(|header| usize::try_from(header.segment_bytes).ok()) {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn path_of(directory: &CoreDirectory, number: u64) -> PathBuf {
    directory.file(&format!("{number:016}.wal"))
}

const PREPARING: &str = ".new";
const RETIRED: &str = ".old";
/// Small, because the log of another process on the drive waits for each.
const READ_BYTES: usize = 128 * KIB;
/// Small likewise; but a log that waits for the whole segment waits for the drive's answer to every piece.
const FILL_BYTES: usize = 64 * KIB;
const FILL_BYTES_HURRIED: usize = 16 * FILL_BYTES;
