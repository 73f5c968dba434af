//! What one core hands to another: a bounded ring of one producer and one consumer, and a waker.
//!
//! A full ring refuses and gives the item back; nothing here blocks or allocates after `ring`. Which
//! ring leads where, and when a core sleeps, is the reactor's.
#![allow(unsafe_code, reason = "an unsafe room: slots of the ring are handed between two threads")]

use std::cell::UnsafeCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crossbeam_utils::CachePadded;

/// A ring for `capacity` items, a power of two.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two(), "a ring of {capacity}: not a power of two");
    let slots = (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared = Arc::new(Shared {
        slots,
        pushed: CachePadded::new(AtomicUsize::new(0)),
        popped: CachePadded::new(AtomicUsize::new(0)),
    });
    let producer = Producer { shared: Arc::clone(&shared), pushed: 0, popped_seen: 0 };
    (producer, Consumer { shared, popped: 0, pushed_seen: 0 })
}

/// The ring's slots and the two counts that say whose they are.
///
/// Invariants, which the `unsafe` below rests on:
///   1. There is one `Producer` and one `Consumer`; each is used through `&mut self` only. Only the
///      producer stores `pushed`, only the consumer `popped`.
///   2. Both count up, wrapping; `popped ≤ pushed ≤ popped + capacity` at every moment. Item `n` lives
///      in slot `n mod capacity`.
///   3. Slots of the items `popped..pushed` are initialised and the consumer's; the others are the
///      producer's, and hold nothing that needs dropping.
///   4. A slot changes hands by a release store of a count and an acquire load of the same: all that
///      was done to it before is seen after.
struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    pushed: CachePadded<AtomicUsize>,
    popped: CachePadded<AtomicUsize>,
}

// SAFETY: a slot is touched by one side at a time, with an ordered hand-over (3, 4); the items move
// between threads, so they must be `Send`.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn slot(&self, count: usize) -> *mut MaybeUninit<T> {
        self.slots[count & (self.slots.len() - 1)].get()
    }
}

/// The end that pushes.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// What `Shared::pushed` holds, without looking: only we store it.
    pushed: usize,
    /// A past value of `Shared::popped`: the ring has at least as much room as it says.
    popped_seen: usize,
}

impl<T: Send> Producer<T> {
    /// Gives the item back when the ring is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if !self.has_room() {
            return Err(item);
        }
        let slot = self.shared.slot(self.pushed);
        // SAFETY: there is room, so the slot is ours and empty (2, 3), and we are alone on this side (1).
        let slot = unsafe { &mut *slot };
        slot.write(item);
        self.pushed = self.pushed.wrapping_add(1);
        self.shared.pushed.store(self.pushed, Ordering::Release);
        Ok(())
    }

    /// Whether a push would succeed.
    pub fn has_room(&mut self) -> bool {
        let capacity = self.shared.slots.len();
        if self.pushed.wrapping_sub(self.popped_seen) < capacity {
            return true;
        }
        self.popped_seen = self.shared.popped.load(Ordering::Acquire);
        self.pushed.wrapping_sub(self.popped_seen) < capacity
    }
}

/// The end that pops.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    /// What `Shared::popped` holds, without looking: only we store it.
    popped: usize,
    /// A past value of `Shared::pushed`: at least the items before it are there.
    pushed_seen: usize,
}

impl<T: Send> Consumer<T> {
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let slot = self.shared.slot(self.popped);
        // SAFETY: the slot is one of `popped..pushed`, so it is ours (3), and we are alone on this side (1).
        let slot = unsafe { &mut *slot };
        // SAFETY: initialised by the push we have seen (3, 4), and not read again: `popped` moves past it.
        let item = unsafe { slot.assume_init_read() };
        self.popped = self.popped.wrapping_add(1);
        self.shared.popped.store(self.popped, Ordering::Release);
        Some(item)
    }

    /// Whether a pop would find nothing. A core asks this before it sleeps; see [`Waker`].
    pub fn is_empty(&mut self) -> bool {
        if self.popped == self.pushed_seen {
            self.pushed_seen = self.shared.pushed.load(Ordering::Acquire);
        }
        self.popped == self.pushed_seen
    }
}

impl<T> Drop for Shared<T> {
    /// Both ends are gone: what is left has no other owner.
    fn drop(&mut self) {
        let pushed = *self.pushed.get_mut();
        let mut next = *self.popped.get_mut();
        while next != pushed {
            let slot = self.slot(next);
            // SAFETY: nobody else is left (1), and we hold `&mut self`.
            let slot = unsafe { &mut *slot };
            // SAFETY: one of `popped..pushed`: initialised (3), and visited once.
            unsafe { slot.assume_init_drop() };
            next = next.wrapping_add(1);
        }
    }
}

/// Ends the sleep of one core, from any other. Shared through an `Arc`.
///
/// The sleeper: `begin_sleep`; look at every input once more; poll `fd`, but only if they were all
/// empty; `end_sleep`. The others: hand something over, then `wake`. Either the sleeper's second look
/// sees what was handed over, or `wake` sees the sleeper: both put a full fence between their store
/// and their load, and of two such fences one comes first.
pub struct Waker {
    /// An eventfd. Readable: somebody woke us since it was last drained.
    event: File,
    sleeping: CachePadded<AtomicBool>,
}

impl Waker {
    pub fn new() -> io::Result<Waker> {
        // SAFETY: takes two integers and touches no memory of ours.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just opened it, and nobody else knows it.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Waker { event: File::from(owned), sleeping: CachePadded::new(AtomicBool::new(false)) })
    }

    /// After something was handed over. A system call only if the core sleeps, or is about to, and
    /// nobody else has woken it.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.ring();
        }
    }

    /// Before the last look at the inputs.
    pub fn begin_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// After the poll, or instead of it when the last look found something.
    pub fn end_sleep(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
        self.drain();
    }

    /// Readable once woken, until drained.
    pub fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Forgets that somebody woke us.
    pub fn drain(&self) {
        let mut count = [0; 8];
        match (&self.event).read(&mut count) {
            Ok(_) => {}
            Err(empty) if empty.kind() == io::ErrorKind::WouldBlock => {}
            Err(failed) => panic!("reading an eventfd of ours: {failed}"),
        }
    }

    fn ring(&self) {
        // Any count but 0 makes it readable, in whichever order of bytes.
        match (&self.event).write(&1_u64.to_le_bytes()) {
            Ok(_) => {}
            // The count is full: readable already.
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => {}
            Err(failed) => panic!("writing an eventfd of ours: {failed}"),
        }
    }
}

#[cfg(test)]
mod tests;
