//! Writes a checkpoint: rows in, pieces of the file out, in steps as small as the caller likes.
//!
//! One buffer, reused: what a call lends is gone with the next. Not here: which rows, and when.
#![forbid(unsafe_code)]

use super::{
    CHUNK_BYTES_MAX, CheckpointHeader, CheckpointRow, FOOTER_BYTES, PART_HEADER_BYTES, PartHeader, PartKind,
    ROW_FIXED_BYTES, TOMBSTONE,
};
use crate::bounds::{CHECKPOINT_CHUNK_BYTES, KEY_BYTES_MAX, VALUE_BYTES_MAX};

pub struct CheckpointBuilder {
    bytes: Vec<u8>,
    /// Where the open chunk begins in `bytes`.
    chunk: usize,
    chunk_rows: u32,
    /// Chunks closed.
    chunks: u64,
    rows: u64,
    /// Bytes lent out.
    taken: u64,
    /// What `bytes` holds was lent, and is to be forgotten.
    lent: bool,
    chain: u32,
}

impl CheckpointBuilder {
    /// The header leaves with the first piece.
    pub fn new(header: &CheckpointHeader) -> CheckpointBuilder {
        let mut bytes = Vec::with_capacity(2 * CHECKPOINT_CHUNK_BYTES);
        let chain = header.encode(&mut bytes);
        let chunk = bytes.len();
        bytes.resize(chunk + PART_HEADER_BYTES, 0);
        CheckpointBuilder { bytes, chunk, chunk_rows: 0, chunks: 0, rows: 0, taken: 0, lent: false, chain }
    }

    /// Adds a row. `take_chunk` comes after every row, or at least before the next once it lends something.
    pub fn push_row(&mut self, row: &CheckpointRow<'_>) {
        let CheckpointRow { table, key, timestamp, value } = row;
        assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
        assert!(value.is_none_or(|value| value.len() <= VALUE_BYTES_MAX), "a value too long");
        self.forget_lent();
        assert!(!self.is_full(), "a full chunk was not taken");
        let key_bytes = u16::try_from(key.len()).expect("checked above");
        let value_bytes = value.map_or(TOMBSTONE, |value| u32::try_from(value.len()).expect("checked above"));
        self.bytes.extend_from_slice(&table.0.to_le_bytes());
        self.bytes.extend_from_slice(&key_bytes.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(&timestamp.0.to_le_bytes());
        self.bytes.extend_from_slice(&value_bytes.to_le_bytes());
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.chunk_rows += 1;
        self.rows += 1;
    }

    /// The next piece of the file, once a chunk is full.
    pub fn take_chunk(&mut self) -> Option<&[u8]> {
        self.forget_lent();
        if !self.is_full() {
            return None;
        }
        self.close_chunk();
        Some(self.lend())
    }

    /// The last piece of the file. Nothing may follow.
    pub fn finish(mut self) -> Vec<u8> {
        self.forget_lent();
        if self.chunk_rows > 0 {
            self.close_chunk();
        } else {
            self.bytes.truncate(self.chunk);
        }
        let begin = self.bytes.len();
        let before = self.taken + begin as u64;
        self.bytes.resize(begin + PART_HEADER_BYTES, 0);
        self.bytes.extend_from_slice(&self.rows.to_le_bytes());
        self.bytes.extend_from_slice(&before.to_le_bytes());
        let header = PartHeader { kind: PartKind::Footer, bytes: FOOTER_BYTES, rows: 0, number: self.chunks };
        header.seal(&mut self.bytes[begin..], self.chain);
        self.bytes
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn is_full(&self) -> bool {
        self.bytes.len() - self.chunk - PART_HEADER_BYTES >= CHECKPOINT_CHUNK_BYTES
    }

    fn close_chunk(&mut self) {
        let part = &mut self.bytes[self.chunk..];
        let bytes = part.len() - PART_HEADER_BYTES;
        assert!(bytes <= CHUNK_BYTES_MAX, "a chunk of {bytes} B");
        let bytes = u32::try_from(bytes).expect("checked above");
        let header = PartHeader { kind: PartKind::Chunk, bytes, rows: self.chunk_rows, number: self.chunks };
        self.chain = header.seal(part, self.chain);
        self.chunks += 1;
        self.chunk_rows = 0;
    }

    fn lend(&mut self) -> &[u8] {
        self.taken += self.bytes.len() as u64;
        self.lent = true;
        &self.bytes
    }

    fn forget_lent(&mut self) {
        if self.lent {
            self.lent = false;
            self.chunk = 0;
            self.bytes.clear();
            self.bytes.resize(PART_HEADER_BYTES, 0);
        }
    }
}

// A row of nothing is not nothing: a chunk's count of rows is bounded by its bytes.
const _: () = assert!(ROW_FIXED_BYTES > 0);
