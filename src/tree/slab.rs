//! Slots of one type addressed by a number, taken and given back; growing never moves a slot.
//!
//! It does not know whether a slot still belongs to anyone: who releases a slot twice, or uses one
//! after releasing it, breaks the tree (`assert_invariants` of the tree counts the slots).
//! Memory of released slots is kept for the next to be acquired, not returned.
#![forbid(unsafe_code)]

use std::ops::{Index, IndexMut};

#[derive(Debug)]
pub(super) struct Slab<T> {
    /// All full but the last. One vector would have to be copied whenever it doubles: at a million
    /// records that is a pause every client of the core would see.
    chunks: Vec<Vec<T>>,
    free: Vec<u32>,
    slots: u32,
}

impl<T: Default> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), free: Vec::new(), slots: 0 }
    }

    /// A slot holding whatever was left in it at release, or the default.
    pub(super) fn acquire(&mut self) -> u32 {
        if let Some(id) = self.free.pop() {
            return id;
        }
        let id = self.slots;
        assert!(id < NONE, "a slab of {id} slots is full");
        let (chunk, place) = Self::locate(id);
        if place == 0 {
            // Most tables of a partition are small: only the second chunk is sized at once.
            let capacity = if chunk == 0 { 0 } else { 1 << Self::CHUNK_BITS };
            self.chunks.push(Vec::with_capacity(capacity));
        }
        self.chunks[chunk].push(T::default());
        self.slots += 1;
        id
    }

    /// The slot may be acquired again, with what the owner leaves in it.
    pub(super) fn release(&mut self, id: u32) {
        assert!(id < self.slots);
        self.free.push(id);
    }
}

impl<T> Slab<T> {
    const CHUNK_BITS: u32 = (CHUNK_BYTES / size_of::<T>()).ilog2();

    /// Slots acquired and not released.
    pub(super) fn live(&self) -> usize {
        self.slots as usize - self.free.len()
    }

    fn locate(id: u32) -> (usize, usize) {
        ((id >> Self::CHUNK_BITS) as usize, (id & ((1 << Self::CHUNK_BITS) - 1)) as usize)
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        let (chunk, place) = Self::locate(id);
        &self.chunks[chunk][place]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        let (chunk, place) = Self::locate(id);
        &mut self.chunks[chunk][place]
    }
}

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// Large enough that the table of chunks stays in the first cache; untouched pages cost nothing.
const CHUNK_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue acquires and releases for ever; slots that were not reused would be a leak.
    #[test]
    fn released_slots_are_acquired_before_new_ones() {
        let mut slab: Slab<[u64; 32]> = Slab::new();
        let ids: Vec<u32> = (0..5_000).map(|_| slab.acquire()).collect();
        for id in &ids {
            slab[*id][0] = u64::from(*id);
        }
        assert!(ids.iter().all(|id| slab[*id][0] == u64::from(*id)));
        assert_eq!(slab.live(), 5_000);
        slab.release(ids[17]);
        slab.release(ids[4_000]);
        assert_eq!(slab.live(), 4_998);
        assert_eq!([slab.acquire(), slab.acquire()], [ids[4_000], ids[17]]);
        assert_eq!(slab.acquire(), 5_000);
    }
}
