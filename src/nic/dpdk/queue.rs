//! A core's queue pair: frames come in bursts, are looked at in place, and go out in bursts.
//!
//! What a frame means is not known here.
//!
//! Invariants of [`Queue`]:
//!   1. `burst.mbufs[..count]` are mbufs we own, or null when handed over; beside each, its frame and length,
//!      which stay until it is freed or handed over.
//!   2. `leaving` are mbufs we own, filled in and not yet taken by the device.
//!   3. Their pools live as long as `port`, which we hold; nobody else uses the queue pair of `core`, if it
//!      has one, or takes from its rings.
//!   4. A queue that is parked makes no call on the port.
#![allow(unsafe_code, reason = "an unsafe room: buffers that a device reads and writes")]

use super::headers::Checksums;
use super::port::Port;
use super::{eal, sys};
use crate::bounds::RX_BURST;
use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

pub struct Queue {
    port: Arc<Port>,
    core: u16,
    burst: Box<Burst>,
    count: usize,
    leaving: Vec<*mut c_void>,
    /// How many resets of the port this queue has seen done; whether it waits for one.
    resets_seen: u32,
    parked: bool,
}

/// The frames received last. By itself, so that no two cores write to the same cache line.
#[repr(align(128))]
struct Burst {
    mbufs: [*mut c_void; RX_BURST],
    frames: [*mut u8; RX_BURST],
    lengths: [u32; RX_BURST],
}

// SAFETY: the mbufs are ours alone (1, 2), and DPDK does not mind which thread uses a queue, if it is one at
// a time.
unsafe impl Send for Queue {}

impl Queue {
    pub(super) fn new(port: Arc<Port>, core: u16) -> Queue {
        let resets_seen = port.resets().1;
        Queue {
            port,
            core,
            burst: Box::new(Burst {
                mbufs: [ptr::null_mut(); RX_BURST],
                frames: [ptr::null_mut(); RX_BURST],
                lengths: [0; RX_BURST],
            }),
            count: 0,
            leaving: Vec::with_capacity(LEAVING_MAX),
            resets_seen,
            parked: false,
        }
    }

    pub fn port(&self) -> &Port {
        &self.port
    }

    pub fn core(&self) -> u16 {
        self.core
    }

    /// Whether the port can be used; not while it is reset, for which each queue has to come by here. To be
    /// asked before each round of what follows.
    pub fn is_up(&mut self) -> bool {
        let (asked, done) = self.port.resets();
        if asked == self.resets_seen {
            return true;
        }
        if !self.parked {
            self.parked = true;
            self.release();
            self.drop_leaving();
            self.port.park(asked);
            return false;
        }
        if done == self.resets_seen {
            return false;
        }
        self.parked = false;
        self.resets_seen = done;
        asked == done
    }

    /// Takes in frames from the device, instead of those of the last burst; how many.
    pub fn receive(&mut self, most: usize) -> usize {
        assert!(!self.parked, "a parked queue is not used");
        self.release();
        let Ok(queue) = self.port.queue_of(self.core) else { return 0 };
        let most = most.min(RX_BURST) as u16;
        let [mbufs, frames, lengths] = self.places();
        // SAFETY: a started port, and our queue of it (3, 4); the arrays have room for `RX_BURST` each.
        let count = unsafe {
            sys::mako_receive(self.port.id(), queue, mbufs.cast(), frames.cast(), lengths.cast(), most)
        };
        if count > 0 {
            // Not sooner: most bursts of a core that spins are empty. And each time: a queue may change threads.
            eal::register_thread();
        }
        self.count = usize::from(count);
        self.count
    }

    /// Takes in frames that other cores have handed over, instead of those of the last burst; how many.
    pub fn receive_handed_over(&mut self, most: usize) -> usize {
        self.take_in(self.port.incoming(self.core), most)
    }

    /// From a ring whose one consumer we are.
    fn take_in(&mut self, ring: NonNull<c_void>, most: usize) -> usize {
        self.release();
        let most = most.min(RX_BURST) as u16;
        let [mbufs, frames, lengths] = self.places();
        // SAFETY: the ring lives (3) and is ours to take from (3); the arrays have room for `RX_BURST` each.
        let count =
            unsafe { sys::mako_ring_pop(ring.as_ptr(), mbufs.cast(), frames.cast(), lengths.cast(), most) };
        self.count = usize::from(count);
        self.count
    }

    fn places(&mut self) -> [*mut c_void; 3] {
        let Burst { mbufs, frames, lengths } = &mut *self.burst;
        [mbufs.as_mut_ptr().cast(), frames.as_mut_ptr().cast(), lengths.as_mut_ptr().cast()]
    }

    /// A frame of the last burst, and what the device knows of its checksums.
    pub fn frame(&self, place: usize) -> (&[u8], Checksums) {
        let Burst { mbufs, frames, lengths } = &*self.burst;
        assert!(place < self.count && !mbufs[place].is_null(), "frame {place} of {}", self.count);
        let described = lengths[place];
        let bytes = (described & sys::MAKO_LENGTH_MASK) as usize;
        // SAFETY: the frame of an mbuf we own (1); its memory came zeroed from the kernel, and the device or
        // the kernel has written the frame. Nobody writes while we are borrowed.
        let frame = unsafe { slice::from_raw_parts(frames[place], bytes) };
        let checksums = if described & sys::MAKO_CHECKSUM_BAD != 0 {
            Checksums::Bad
        } else if described & sys::MAKO_CHECKSUM_GOOD != 0 {
            Checksums::Good
        } else {
            Checksums::Unknown
        };
        (frame, checksums)
    }

    /// Gives a frame of the last burst to another core. False when that has no room for it.
    pub fn hand_over(&mut self, place: usize, core: u16) -> bool {
        let mbuf = &mut self.burst.mbufs[place];
        assert!(place < self.count && !mbuf.is_null(), "frame {place} of {}", self.count);
        // SAFETY: the ring lives (3), and an mbuf we own (1) goes into it.
        let outcome = unsafe { sys::mako_ring_push(self.port.incoming(core).as_ptr(), *mbuf) };
        if outcome == 0 {
            *mbuf = ptr::null_mut();
        }
        outcome == 0
    }

    /// Puts the frames of the last burst behind those that leave, with sender and receiver exchanged, and ends it;
    /// those for which there is no room are lost.
    pub fn turn_back(&mut self) {
        let room = LEAVING_MAX - self.leaving.len();
        let is_whole = |length: &u32| length & sys::MAKO_LENGTH_MASK >= 2 * MAC_BYTES as u32;
        let Queue { burst, leaving, count, .. } = self;
        let Burst { mbufs, frames, lengths } = &mut **burst;
        let burst = mbufs[..*count].iter_mut().zip(&frames[..*count]).zip(&lengths[..*count]);
        for ((mbuf, frame), _) in
            burst.filter(|((mbuf, _), length)| !mbuf.is_null() && is_whole(length)).take(room)
        {
            // SAFETY: the frame of an mbuf we own (1), which begins with two addresses; nobody else is looking.
            let addresses = unsafe { slice::from_raw_parts_mut(*frame, 2 * MAC_BYTES) };
            let (to, from) = addresses.split_at_mut(MAC_BYTES);
            to.swap_with_slice(from);
            leaving.push(std::mem::replace(mbuf, ptr::null_mut()));
        }
        self.release();
    }

    /// Ends the last burst.
    pub fn release(&mut self) {
        let count = std::mem::take(&mut self.count) as u16;
        if count == 0 {
            return;
        }
        // SAFETY: mbufs we own, or null (1), and never look at again.
        unsafe { sys::mako_mbufs_free(self.burst.mbufs.as_mut_ptr(), count) };
    }

    /// Puts a frame of `bytes` behind those that leave, written by `write`. False when there is no room.
    pub fn push(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) -> bool {
        if self.parked || self.leaving.len() == LEAVING_MAX {
            return false;
        }
        let Some(mbuf) = self.fill(bytes, self.port.offloads_tx(), write) else { return false };
        self.leaving.push(mbuf.as_ptr());
        true
    }

    /// Sends a frame at once, before those that leave; loses it if the device has no room. Its checksums,
    /// if it has any, are written.
    pub fn send_now(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) {
        if self.parked {
            return;
        }
        let Some(mbuf) = self.fill(bytes, false, write) else { return };
        let mut mbufs = [mbuf.as_ptr()];
        if self.give(&mut mbufs) == 0 {
            // SAFETY: ours still.
            unsafe { sys::mako_mbufs_free(mbufs.as_mut_ptr(), 1) };
        }
    }

    /// Gives mbufs of ours to the device, or to the core that sends for us: those taken, the first ones, are
    /// not ours any more. How many.
    fn give(&self, mbufs: &mut [*mut c_void]) -> usize {
        match self.port.queue_of(self.core) {
            Ok(queue) => {
                // SAFETY: a started port, and our queue of it (3, 4); mbufs of ours.
                let taken =
                    unsafe { sys::mako_send(self.port.id(), queue, mbufs.as_mut_ptr(), mbufs.len() as u16) };
                usize::from(taken)
            }
            Err(queue) => {
                let ring = self.port.outgoing(queue);
                // SAFETY: the ring lives (3); mbufs of ours.
                let took =
                    |mbuf: &&mut *mut c_void| unsafe { sys::mako_ring_push(ring.as_ptr(), **mbuf) } == 0;
                mbufs.iter_mut().take_while(took).count()
            }
        }
    }

    fn fill(
        &mut self,
        bytes: usize,
        offload: bool,
        write: impl FnOnce(&mut [u8]),
    ) -> Option<NonNull<c_void>> {
        assert!(bytes <= ROOM_BYTES, "a frame of {bytes} bytes");
        let (pool, mut room) = (self.port.pool(self.core).as_ptr(), ptr::null_mut());
        let (length, offload) = (bytes as u16, c_int::from(offload));
        // SAFETY: the pool lives (3), `room` is a local.
        let mbuf = unsafe { sys::mako_mbuf_new(pool, length, offload, &raw mut room) };
        let mbuf = NonNull::new(mbuf)?;
        // SAFETY: the room of an mbuf is `ROOM_BYTES` of memory that came zeroed from the kernel, and this
        // one is ours alone since just now.
        write(unsafe { slice::from_raw_parts_mut(room, bytes) });
        Some(mbuf)
    }

    /// Gives the device as many of the leaving frames as it takes; how many. Then as many of the cores that
    /// have no queue pair; what it does not take of these is lost.
    pub fn flush(&mut self) -> usize {
        assert!(!self.parked, "a parked queue is not used");
        let sent = if self.leaving.is_empty() { 0 } else { self.give_leaving() };
        if self.port.is_shared() {
            self.send_for_others();
        }
        sent
    }

    fn give_leaving(&mut self) -> usize {
        eal::register_thread();
        let mut sent = 0;
        let mut leaving = std::mem::take(&mut self.leaving);
        while sent < leaving.len() {
            let taken = self.give(&mut leaving[sent..]);
            if taken == 0 {
                break;
            }
            sent += taken;
        }
        leaving.drain(..sent);
        self.leaving = leaving;
        sent
    }

    fn send_for_others(&mut self) {
        let Ok(queue) = self.port.queue_of(self.core) else { return };
        let ring = self.port.outgoing(queue);
        for _ in 0..BURSTS_FOR_OTHERS {
            let count = self.take_in(ring, RX_BURST);
            let mut mbufs = self.burst.mbufs;
            let taken = self.give(&mut mbufs[..count]);
            self.burst.mbufs[..taken].fill(ptr::null_mut());
            self.release();
            if count < RX_BURST {
                return;
            }
        }
    }

    /// Frames that the device has not taken yet.
    pub fn leaving(&self) -> usize {
        self.leaving.len()
    }

    /// Gives them up; how many those were.
    pub fn drop_leaving(&mut self) -> usize {
        let count = self.leaving.len();
        // SAFETY: mbufs we own (2), and forget right after.
        unsafe { sys::mako_mbufs_free(self.leaving.as_mut_ptr(), count as u16) };
        self.leaving.clear();
        count
    }

    /// Mbufs of its pool that nobody uses.
    #[cfg(test)]
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives (3).
        unsafe { sys::mako_pool_available(self.port.pool(self.core).as_ptr()) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.release();
        self.drop_leaving();
    }
}

const MAC_BYTES: usize = 6;
/// What a core sends for others in one turn, in bursts.
const BURSTS_FOR_OTHERS: usize = 4;
/// Frames that wait for the device, at most: two bursts.
pub const LEAVING_MAX: usize = 2 * crate::bounds::TX_BURST;
/// What an mbuf of DPDK's usual size holds.
const ROOM_BYTES: usize = 2_048;
const _: () = assert!(RX_BURST.is_power_of_two() && RX_BURST < LEAVING_MAX && LEAVING_MAX < 1 << 16);
const _: () = assert!(super::headers::HEADERS_BYTES + crate::bounds::FRAME_BYTES <= ROOM_BYTES);
