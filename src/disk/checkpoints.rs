//! The checkpoints of a core's partitions: one being made, one being received, and the committed ones.
//!
//! Bytes only: what a checkpoint holds is `wal`'s, when one is made and whether a received one is sound is the
//! host's. On files a thread of its own does the work (`files`), so that the core never waits.
//!
//! Invariants:
//!   1. A checkpoint is there as a whole or not at all; the one before it is there until then.
//!   2. What is on its way to the thread is bounded: `CHECKPOINT_WRITES_MAX` writes of each origin,
//!      `CHECKPOINT_READS_MAX` reads.
//!   3. Events of a checkpoint that was given up are not told.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};

use super::DiskError;
use super::directory::{CoreDirectory, io_error};
use crate::bounds::{
    CHECKPOINT_READ_BYTES_MAX, CHECKPOINT_READS_MAX, CHECKPOINT_WRITE_BYTES_MAX, CHECKPOINT_WRITES_MAX,
};
use crate::types::PartitionId;
use crate::wal::checkpoint::{CheckpointSummary, Piece};

mod files;
#[cfg(test)]
mod tests;

pub use files::is_checkpoint;

/// What a core asks of its checkpoints. Nothing here blocks.
pub trait Checkpoints {
    /// Begins a checkpoint, which nobody sees before it is committed. `false` while the last one of this origin is
    /// not over: ask again after `poll`.
    fn begin(&mut self, origin: Origin, partition: PartitionId) -> bool;

    /// The bytes that the next `write` may have; 0 while too many are on their way.
    fn room(&self, origin: Origin) -> usize;

    /// The next bytes of the checkpoint that was begun.
    fn write(&mut self, origin: Origin, bytes: &[u8]);

    /// Makes it durable, and the newest of its partition. `Committed` or `Failed` follows.
    fn commit(&mut self, origin: Origin);

    /// Gives it up. Nothing follows; if it was being committed, it may be committed all the same.
    fn abandon(&mut self, origin: Origin);

    /// Reads from the newest committed checkpoint of a partition. `Read` or `ReadFailed` follows, with this
    /// ticket; `false` when too many are under way.
    fn read(&mut self, partition: PartitionId, offset: u64, bytes: usize, ticket: u64) -> bool;

    /// The next thing that has happened. Call it until there is none: it also makes room.
    fn poll(&mut self) -> Option<CheckpointEvent>;

    /// Readable while `poll` has something to do. Poll it; never read from it.
    fn wake_fd(&self) -> Option<RawFd>;
}

/// Where a checkpoint comes from. One of each may be under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// Made of what this replica holds.
    Own = 0,
    /// Received from a peer.
    Peer = 1,
}

#[derive(Debug)]
pub enum CheckpointEvent {
    /// It survives a crash from here on; what it covers may be truncated.
    Committed { origin: Origin, partition: PartitionId },
    /// It is over, and nothing is left of it. Unless `error.is_full()`, the core is to stop.
    Failed { origin: Origin, partition: PartitionId, error: DiskError },
    /// `None`: the partition has no checkpoint.
    Read { ticket: u64, part: Option<CheckpointPart> },
    /// The core is to stop.
    ReadFailed { ticket: u64, error: DiskError },
}

/// Bytes of a committed checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointPart {
    /// Which one: parts of different ones do not fit together, and the checksums of the whole would tell so only
    /// in the end.
    pub checkpoint: u32,
    /// Bytes of the whole.
    pub total: u64,
    pub offset: u64,
    /// Fewer than asked for at the end of the file.
    pub bytes: Vec<u8>,
}

/// Checkpoints as files of the core's directory.
pub struct FileCheckpoints {
    lanes: [Lane; 2],
    reads: usize,
    answers: Receiver<Answer>,
    /// Holds one byte for every answer that was not taken.
    bell: PipeReader,
    /// `None` only while dropping: the thread ends when its orders do.
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl FileCheckpoints {
    /// Removes what a dead process had begun. Blocks, and starts a thread that inherits the CPUs this one
    /// may run on: call it before pinning.
    pub fn open(directory: &CoreDirectory) -> Result<FileCheckpoints, DiskError> {
        files::remove_leftovers(directory)?;
        let path = directory.path();
        let (bell, ring) = io::pipe().map_err(|source| io_error("making a pipe for", path, source))?;
        let (orders, inbox) = mpsc::sync_channel(ORDERS_MAX);
        let (outbox, answers) = mpsc::sync_channel(ANSWERS_MAX);
        let files = files::Files::new(directory);
        let work = move || files::work(files, &inbox, &outbox, ring);
        let thread = thread::Builder::new().name("mako-checkpoints".to_owned()).spawn(work);
        let thread = thread.map_err(|source| io_error("starting a thread for", path, source))?;
        let lanes = [Lane::default(), Lane::default()];
        Ok(FileCheckpoints { lanes, reads: 0, answers, bell, orders: Some(orders), thread: Some(thread) })
    }

    /// Shows `visit` the newest committed checkpoint of a partition; `None` when it has none. On an error forget
    /// what was visited. Blocks: for the start, before the log is replayed.
    pub fn load(
        directory: &CoreDirectory,
        cluster: u64,
        partition: PartitionId,
        visit: &mut dyn FnMut(Piece<'_>),
    ) -> Result<Option<CheckpointSummary>, DiskError> {
        files::load(directory, cluster, partition, visit)
    }

    /// Leaves the thread to itself: it may hang on a drive that does not answer, and drop would wait for it.
    pub fn abandon_thread(&mut self) {
        self.thread = None;
    }

    fn order(&self, order: Order) {
        let orders = self.orders.as_ref().expect("orders are there until drop");
        match orders.try_send(order) {
            Ok(()) => {}
            // Invariant 2 is what the length of the channel was made for.
            Err(TrySendError::Full(_)) => panic!("more than {ORDERS_MAX} orders on their way"),
            Err(TrySendError::Disconnected(_)) => panic!("the thread of the checkpoints has ended"),
        }
    }

    fn on_answer(&mut self, answer: Answer) -> Option<CheckpointEvent> {
        // Its byte was written before it was sent: this does not block.
        let mut byte = [0; 1];
        let heard = self.bell.read(&mut byte);
        assert!(matches!(heard, Ok(1)), "an answer without its byte: {heard:?}");
        match answer {
            Answer::Wrote { origin, buffer } => {
                self.lanes[origin as usize].on_wrote(buffer);
                None
            }
            Answer::Over { origin, attempt, failure } => {
                let lane = &mut self.lanes[origin as usize];
                let partition = lane.on_over(attempt)?;
                Some(match failure {
                    None => CheckpointEvent::Committed { origin, partition },
                    Some(error) => CheckpointEvent::Failed { origin, partition, error },
                })
            }
            Answer::Abandoned { origin, attempt } => {
                self.lanes[origin as usize].on_abandoned(attempt);
                None
            }
            Answer::Read { ticket, result } => {
                self.reads -= 1;
                Some(match result {
                    Ok(part) => CheckpointEvent::Read { ticket, part },
                    Err(error) => CheckpointEvent::ReadFailed { ticket, error },
                })
            }
        }
    }
}

impl Checkpoints for FileCheckpoints {
    fn begin(&mut self, origin: Origin, partition: PartitionId) -> bool {
        let Some(attempt) = self.lanes[origin as usize].begin(partition) else { return false };
        self.order(Order::Begin { origin, attempt, partition });
        true
    }

    fn room(&self, origin: Origin) -> usize {
        self.lanes[origin as usize].room()
    }

    fn write(&mut self, origin: Origin, bytes: &[u8]) {
        let (attempt, buffer) = self.lanes[origin as usize].write(bytes);
        self.order(Order::Write { origin, attempt, buffer });
    }

    fn commit(&mut self, origin: Origin) {
        let attempt = self.lanes[origin as usize].commit();
        self.order(Order::Commit { origin, attempt });
    }

    fn abandon(&mut self, origin: Origin) {
        if let Some(attempt) = self.lanes[origin as usize].abandon() {
            self.order(Order::Abandon { origin, attempt });
        }
    }

    fn read(&mut self, partition: PartitionId, offset: u64, bytes: usize, ticket: u64) -> bool {
        assert!(bytes <= CHECKPOINT_READ_BYTES_MAX, "a read of {bytes} B");
        if self.reads == CHECKPOINT_READS_MAX {
            return false;
        }
        self.reads += 1;
        self.order(Order::Read { partition, offset, bytes, ticket });
        true
    }

    fn poll(&mut self) -> Option<CheckpointEvent> {
        while let Ok(answer) = self.answers.try_recv() {
            let event = self.on_answer(answer);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn wake_fd(&self) -> Option<RawFd> {
        Some(self.bell.as_raw_fd())
    }
}

impl Drop for FileCheckpoints {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has ended the process already.
            drop(thread.join());
        }
    }
}

/// One origin, as the core sees it.
#[derive(Default)]
struct Lane {
    state: LaneState,
    /// Of the checkpoint begun last.
    attempt: u64,
    /// Writes the thread has not answered, of this attempt or of one before.
    on_the_way: usize,
    /// Buffers to be used again.
    spare: VecDeque<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum LaneState {
    #[default]
    Idle,
    Writing(PartitionId),
    Committing(PartitionId),
    /// Given up, and the thread has not said yet that it knows.
    Abandoned,
}

impl Lane {
    fn begin(&mut self, partition: PartitionId) -> Option<u64> {
        if self.state != LaneState::Idle || self.on_the_way > 0 {
            return None;
        }
        self.attempt += 1;
        self.state = LaneState::Writing(partition);
        Some(self.attempt)
    }

    fn room(&self) -> usize {
        let writing = matches!(self.state, LaneState::Writing(_));
        let free = writing && self.on_the_way < CHECKPOINT_WRITES_MAX;
        if free { CHECKPOINT_WRITE_BYTES_MAX } else { 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> (u64, Vec<u8>) {
        assert!(bytes.len() <= self.room(), "{} B with room for {}", bytes.len(), self.room());
        let mut buffer = self.spare.pop_front().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        self.on_the_way += 1;
        (self.attempt, buffer)
    }

    fn commit(&mut self) -> u64 {
        let LaneState::Writing(partition) = self.state else { panic!("commits when {:?}", self.state) };
        self.state = LaneState::Committing(partition);
        self.attempt
    }

    fn abandon(&mut self) -> Option<u64> {
        let under_way = matches!(self.state, LaneState::Writing(_) | LaneState::Committing(_));
        under_way.then(|| {
            self.state = LaneState::Abandoned;
            self.attempt
        })
    }

    fn on_wrote(&mut self, buffer: Vec<u8>) {
        self.on_the_way -= 1;
        self.spare.push_back(buffer);
        if self.on_the_way == 0 && self.state == LaneState::Idle {
            // Checkpoints are far apart: until the next one the memory is better elsewhere.
            self.spare.clear();
        }
    }

    /// The attempt was committed, or has failed; of which partition, if anybody is to hear of it.
    fn on_over(&mut self, attempt: u64) -> Option<PartitionId> {
        let (LaneState::Writing(partition) | LaneState::Committing(partition)) = self.state else {
            return None;
        };
        assert_eq!(attempt, self.attempt, "an attempt is over that is not under way");
        self.state = LaneState::Idle;
        self.spare.clear();
        Some(partition)
    }

    fn on_abandoned(&mut self, attempt: u64) {
        assert_eq!((attempt, self.state), (self.attempt, LaneState::Abandoned));
        self.state = LaneState::Idle;
        self.spare.clear();
    }
}

/// What the thread is to do.
enum Order {
    Begin { origin: Origin, attempt: u64, partition: PartitionId },
    Write { origin: Origin, attempt: u64, buffer: Vec<u8> },
    Commit { origin: Origin, attempt: u64 },
    Abandon { origin: Origin, attempt: u64 },
    Read { partition: PartitionId, offset: u64, bytes: usize, ticket: u64 },
}

/// What it has done.
enum Answer {
    /// Or not, when the attempt has failed before.
    Wrote {
        origin: Origin,
        buffer: Vec<u8>,
    },
    /// Committed, or failed.
    Over {
        origin: Origin,
        attempt: u64,
        failure: Option<DiskError>,
    },
    Abandoned {
        origin: Origin,
        attempt: u64,
    },
    Read {
        ticket: u64,
        result: Result<Option<CheckpointPart>, DiskError>,
    },
}

/// Of each origin: a begin, the writes, a commit, an abandon; and a commit that an earlier failure overtook.
const ORDERS_MAX: usize = 2 * (CHECKPOINT_WRITES_MAX + 4) + CHECKPOINT_READS_MAX;
/// Each order has at most one, and a write that fails has two.
const ANSWERS_MAX: usize = 2 * ORDERS_MAX;

/// The path of a partition's committed checkpoint.
pub(super) fn path_of(directory: &CoreDirectory, partition: PartitionId) -> PathBuf {
    directory.file(&format!("{:05}.{COMMITTED}", partition.0))
}

const COMMITTED: &str = "checkpoint";
