//! Message buffers that go round between a core's sessions and its caller.
//!
//! Small buffers are kept by number, larger ones by their bytes, so that a short message never sits
//! in the memory of a long one. A buffer the pool has no room for is freed.
#![forbid(unsafe_code)]

use crate::bounds::{BUFFER_BYTES_SMALL, BUFFERS_LARGE_BYTES_MAX, BUFFERS_SMALL_MAX};

#[derive(Default)]
pub struct Buffers {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    large_bytes: usize,
}

impl Buffers {
    /// An empty buffer for a message that may grow to `length`. Only a small one has its room
    /// already: the length of a large message is a claim until its packets arrive.
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        if length <= BUFFER_BYTES_SMALL {
            return self.small.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES_SMALL));
        }
        let buffer = self.large.pop().unwrap_or_default();
        self.large_bytes -= buffer.capacity();
        buffer
    }

    pub fn copy(&mut self, message: &[u8]) -> Vec<u8> {
        let mut buffer = self.take(message.len());
        buffer.extend_from_slice(message);
        buffer
    }

    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        let capacity = buffer.capacity();
        if capacity < BUFFER_BYTES_SMALL {
            return;
        }
        if capacity == BUFFER_BYTES_SMALL {
            if self.small.len() < BUFFERS_SMALL_MAX {
                self.small.push(buffer);
            }
        } else if self.large_bytes + capacity <= BUFFERS_LARGE_BYTES_MAX {
            self.large_bytes += capacity;
            self.large.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_buffer_comes_back_empty() {
        let mut buffers = Buffers::default();
        for length in [10, BUFFER_BYTES_SMALL, 100_000] {
            let mut buffer = buffers.copy(&vec![1; length]);
            buffer.truncate(length / 2);
            let place = buffer.as_ptr();
            buffers.recycle(buffer);
            let again = buffers.take(length);
            assert!(again.is_empty() && again.as_ptr() == place);
        }
    }

    /// A burst of huge messages must not leave its memory behind for ever.
    #[test]
    fn the_pool_keeps_a_bounded_number_of_bytes() {
        let mut buffers = Buffers::default();
        (0..100).for_each(|_| buffers.recycle(Vec::with_capacity(BUFFERS_LARGE_BYTES_MAX / 10)));
        assert!(buffers.large_bytes <= BUFFERS_LARGE_BYTES_MAX);
        assert!(buffers.large.iter().map(Vec::capacity).sum::<usize>() == buffers.large_bytes);
    }
}
