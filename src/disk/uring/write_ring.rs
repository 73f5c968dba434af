//! Buffers, files, and an io_uring that writes one to the other: the unsafe room of the log.
//!
//! Bytes are copied in, written at an offset of a file, and their buffer comes back with the
//! completion. Which bytes, and what a failure means, is the caller's.
#![allow(unsafe_code, reason = "an unsafe room: entries handed to the kernel point into our buffers")]

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::mem;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};
use memmap2::MmapMut;

use super::super::DiskError;
use crate::bounds::{WAL_WRITE_BYTES_MAX, WAL_WRITES_MAX};

/// Owns the buffers that are lent to the kernel; the only one to push entries.
///
/// Invariants, which the `unsafe` below rests on:
///   1. Buffer `i` is lent exactly while `lent[i]`: set before its entry is pushed, cleared only by
///      the completion that names `i`.
///   2. A lent buffer is neither written to nor moved nor unmapped. A buffer is a mapping of its own,
///      so to write to one makes no reference to another.
///   3. An entry names a file by its place in the ring's table, or the bell, which we own: the
///      kernel keeps both open for as long as the entry lives.
///   4. Drop waits until nothing is lent; if it cannot, or is told not to, it leaks the buffers.
///   5. `ring` is declared, and so dropped, before `buffers` and `bell`.
pub(super) struct WriteRing {
    ring: IoUring,
    buffers: Vec<MmapMut>,
    lent: Vec<bool>,
    /// Entries may name a buffer by its index.
    registered: bool,
    /// Rung by another thread when the core should look around.
    bell: PipeReader,
    /// The drive does not answer: drop does not wait for it.
    abandoned: bool,
}

pub(super) enum Completion {
    /// Bytes written, or why not. The buffer is free again.
    Wrote {
        buffer: usize,
        result: io::Result<usize>,
    },
    Bell,
}

impl WriteRing {
    pub(super) fn new(bell: PipeReader) -> Result<WriteRing, DiskError> {
        let ring = IoUring::new(ENTRIES).map_err(|source| ring_error("setup", source))?;
        let places = u32::try_from(FILES).expect("there are few files");
        let table = ring.submitter().register_files_sparse(places);
        table.map_err(|source| ring_error("registering files", source))?;
        let buffers: io::Result<Vec<MmapMut>> =
            (0..BUFFERS).map(|_| MmapMut::map_anon(WAL_WRITE_BYTES_MAX)).collect();
        let buffers = buffers.map_err(|source| ring_error("mapping buffers", source))?;
        let lent = vec![false; BUFFERS];
        let mut ring = WriteRing { ring, buffers, lent, registered: false, bell, abandoned: false };
        ring.register_buffers()?;
        ring.hear_bell()?;
        Ok(ring)
    }

    /// Entries name buffers by index: otherwise the memlock limit was too low to register them.
    pub(super) fn is_registered(&self) -> bool {
        self.registered
    }

    /// Readable while completions wait.
    pub(super) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Puts a file into the ring's table, which keeps it open.
    pub(super) fn attach(&mut self, place: usize, file: &File) -> Result<(), DiskError> {
        self.set_file(place, file.as_raw_fd())
    }

    /// Takes a file out. No entry that names it may be waiting for `submit`; those submitted keep it.
    pub(super) fn detach(&mut self, place: usize) -> Result<(), DiskError> {
        self.set_file(place, NO_FILE)
    }

    /// Copies `bytes` and prepares their write; `submit` starts it. Returns the buffer they went to. The
    /// caller has no more than `WAL_WRITES_MAX` writes of the log under way, and one of votes.
    pub(super) fn write(&mut self, place: usize, offset: u64, bytes: &[u8]) -> usize {
        let free = self.lent.iter().position(|lent| !lent).expect("fewer writes than buffers");
        assert!(place < FILES && bytes.len() <= WAL_WRITE_BYTES_MAX);
        self.buffers[free][..bytes.len()].copy_from_slice(bytes);
        self.lent[free] = true;
        let buffer = self.buffers[free].as_ptr();
        let length = u32::try_from(bytes.len()).expect("checked above");
        let target = types::Fixed(u32::try_from(place).expect("checked above"));
        let index = u16::try_from(free).expect("there are few buffers");
        let entry = if self.registered {
            opcode::WriteFixed::new(target, buffer, length, index).offset(offset).build()
        } else {
            opcode::Write::new(target, buffer, length).offset(offset).build()
        };
        self.push(&entry.user_data(u64::from(index)));
        free
    }

    /// Starts what was prepared. Does not wait.
    pub(super) fn submit(&mut self) -> Result<(), DiskError> {
        loop {
            match self.ring.submit() {
                Ok(_) => return Ok(()),
                Err(interrupted) if interrupted.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ring_error("submitting", source)),
            }
        }
    }

    /// What has been completed, one at a time; no system call but for the bell.
    pub(super) fn next_completion(&mut self) -> Result<Option<Completion>, DiskError> {
        let Some(entry) = self.ring.completion().next() else { return Ok(None) };
        let code = entry.result();
        let result = usize::try_from(code).map_err(|_| io::Error::from_raw_os_error(-code));
        if entry.user_data() != BELL {
            let buffer = usize::try_from(entry.user_data()).expect("we gave it an index");
            assert!(self.lent[buffer], "buffer {buffer} came back twice");
            self.lent[buffer] = false;
            return Ok(Some(Completion::Wrote { buffer, result }));
        }
        result.map_err(|source| ring_error("polling", source))?;
        // It polled readable, and nobody else reads: this does not block. 0: nobody is left to ring.
        let mut rings = [0; 64];
        let heard = self.bell.read(&mut rings).map_err(|source| ring_error("reading the bell", source))?;
        if heard > 0 {
            self.hear_bell()?;
        }
        Ok(Some(Completion::Bell))
    }

    /// Drop is not to wait for what is under way.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
    }

    fn hear_bell(&mut self) -> Result<(), DiskError> {
        let readable = u32::try_from(libc::POLLIN).expect("a small constant");
        let entry = opcode::PollAdd::new(types::Fd(self.bell.as_raw_fd()), readable).build();
        self.push(&entry.user_data(BELL));
        self.submit()
    }

    fn push(&mut self, entry: &Entry) {
        // SAFETY: the buffer is lent from here to its completion (1), so its bytes stay where they are
        // and as they are (2), through our own end as well (4, 5); the file stays open (3).
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("the ring has more entries than there are buffers and bells");
    }

    fn register_buffers(&mut self) -> Result<(), DiskError> {
        let slices: Vec<libc::iovec> = self
            .buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
            .collect();
        // SAFETY: the buffers are mapped until the ring is gone, or for ever (4, 5).
        let registered = unsafe { self.ring.submitter().register_buffers(&slices) };
        match registered {
            Ok(()) => self.registered = true,
            // Over the memlock limit: the log works without, and the operator is told.
            Err(refused) if refused.raw_os_error() == Some(libc::ENOMEM) => {}
            Err(source) => return Err(ring_error("registering buffers", source)),
        }
        Ok(())
    }

    fn set_file(&mut self, place: usize, fd: RawFd) -> Result<(), DiskError> {
        let place = u32::try_from(place).expect("there are few files");
        let updated = self.ring.submitter().register_files_update(place, &[fd]);
        updated.map_err(|source| ring_error("registering a file", source))?;
        Ok(())
    }

    /// Waits for every write under way; `false` if the ring does not let us.
    fn settle(&mut self) -> bool {
        loop {
            for entry in self.ring.completion() {
                if let Some(lent) = usize::try_from(entry.user_data()).ok().and_then(|i| self.lent.get_mut(i))
                {
                    *lent = false;
                }
            }
            if !self.lent.contains(&true) {
                return true;
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(interrupted) if interrupted.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

impl Drop for WriteRing {
    fn drop(&mut self) {
        if self.abandoned || !self.settle() {
            mem::forget(mem::take(&mut self.buffers));
        }
    }
}

fn ring_error(what: &'static str, source: io::Error) -> DiskError {
    DiskError::Ring { what, source }
}

/// Places of segments in the ring's table. Those being written, at most one per write, and those ready.
pub(super) const SEGMENT_PLACES: usize = 2 * WAL_WRITES_MAX;
/// The place of the votes.
pub(super) const VOTES_PLACE: usize = SEGMENT_PLACES;
const FILES: usize = SEGMENT_PLACES + 1;
/// One for each write of the log, and one for the votes.
const BUFFERS: usize = WAL_WRITES_MAX + 1;

const ENTRIES: u32 = 16;
const _: () = assert!(BUFFERS < ENTRIES as usize);
/// The user data of the bell's entry; that of a write is the index of its buffer.
const BELL: u64 = u64::MAX;
/// What the kernel takes for an empty place in the table.
const NO_FILE: RawFd = -1;
