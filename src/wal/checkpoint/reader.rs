//! Reads a checkpoint from bytes that come in pieces of any size, from a file or from a peer.
//!
//! Total: hostile bytes give a [`CheckpointDamage`], never a panic and never more memory than one part.
//! After a damage the reader is spent, and what it has delivered must be thrown away.
#![forbid(unsafe_code)]

use super::header::FIXED_BYTES;
use super::{
    CheckpointDamage, CheckpointHeader, CheckpointRow, CheckpointWhy, PART_CRC_FROM, PART_HEADER_BYTES,
    PartHeader, PartKind, ROW_FIXED_BYTES, TOMBSTONE,
};
use crate::bounds::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::types::{PartitionId, TableId, Timestamp};
use crate::wal::bytes::{u16_at, u32_at, u64_at};

pub struct CheckpointReader {
    /// Whose it must be; `None` takes anyone's.
    expected: Option<(u64, PartitionId)>,
    /// The part being gathered: it is whole at `wanted` bytes.
    part: Vec<u8>,
    wanted: usize,
    gathering: Gathering,
    /// Where the part begins.
    offset: u64,
    chain: u32,
    chunks: u64,
    rows: u64,
    tombstones: u64,
}

/// What a reader delivers, in the order of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// Once, before any row.
    Header(&'a CheckpointHeader),
    Row(CheckpointRow<'a>),
}

/// What a whole checkpoint came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointSummary {
    pub chunks: u64,
    pub rows: u64,
    /// Rows that are deletes.
    pub tombstones: u64,
    pub bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gathering {
    /// The part of the header that tells its length.
    HeaderBegin,
    Header,
    PartHeader,
    Part,
    /// The footer was read.
    Nothing,
}

impl CheckpointReader {
    /// Of the checkpoint of this partition, and of no other.
    pub fn new(cluster: u64, partition: PartitionId) -> CheckpointReader {
        CheckpointReader { expected: Some((cluster, partition)), ..CheckpointReader::of_anyone() }
    }

    /// Of any checkpoint, to look at it.
    pub fn of_anyone() -> CheckpointReader {
        CheckpointReader {
            expected: None,
            part: Vec::new(),
            wanted: FIXED_BYTES,
            gathering: Gathering::HeaderBegin,
            offset: 0,
            chain: 0,
            chunks: 0,
            rows: 0,
            tombstones: 0,
        }
    }

    /// The next bytes of the file. What they complete goes to `visit`.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        visit: &mut dyn FnMut(Piece<'_>),
    ) -> Result<(), CheckpointDamage> {
        while !bytes.is_empty() {
            if self.gathering == Gathering::Nothing {
                return Err(self.damage(CheckpointWhy::Trailing));
            }
            let (taken, rest) = bytes.split_at(bytes.len().min(self.wanted - self.part.len()));
            self.part.extend_from_slice(taken);
            bytes = rest;
            if self.part.len() == self.wanted {
                self.on_gathered(visit).map_err(|why| self.damage(why))?;
            }
        }
        Ok(())
    }

    /// There are no more bytes.
    pub fn finish(self) -> Result<CheckpointSummary, CheckpointDamage> {
        if self.gathering != Gathering::Nothing {
            return Err(self.damage(CheckpointWhy::Truncated));
        }
        let CheckpointReader { chunks, rows, tombstones, offset, .. } = self;
        Ok(CheckpointSummary { chunks, rows, tombstones, bytes: offset })
    }

    /// The footer was read: nothing may follow.
    pub fn is_complete(&self) -> bool {
        self.gathering == Gathering::Nothing
    }

    /// Bytes in memory: of the part that is not whole yet.
    pub fn held_bytes(&self) -> usize {
        self.part.len()
    }

    fn damage(&self, why: CheckpointWhy) -> CheckpointDamage {
        CheckpointDamage { offset: self.offset, why }
    }

    fn on_gathered(&mut self, visit: &mut dyn FnMut(Piece<'_>)) -> Result<(), CheckpointWhy> {
        match self.gathering {
            Gathering::HeaderBegin => {
                self.wanted = CheckpointHeader::length(&self.part)?;
                self.gathering = Gathering::Header;
                // A header of nothing else is whole already.
                if self.wanted == self.part.len() { self.on_header(visit) } else { Ok(()) }
            }
            Gathering::Header => self.on_header(visit),
            Gathering::PartHeader => {
                let header = PartHeader::decode(&self.part).ok_or(CheckpointWhy::Chunk)?;
                let bytes = usize::try_from(header.bytes).map_err(|_| CheckpointWhy::Chunk)?;
                self.wanted = PART_HEADER_BYTES + bytes;
                self.gathering = Gathering::Part;
                if bytes == 0 { self.on_part(visit) } else { Ok(()) }
            }
            Gathering::Part => self.on_part(visit),
            Gathering::Nothing => unreachable!("nothing is gathered behind the footer"),
        }
    }

    fn on_header(&mut self, visit: &mut dyn FnMut(Piece<'_>)) -> Result<(), CheckpointWhy> {
        let (header, crc) = CheckpointHeader::decode(&self.part)?;
        let found = (header.cluster, header.partition);
        if self.expected.is_some_and(|expected| expected != found) {
            return Err(CheckpointWhy::Foreign { cluster: found.0, partition: found.1 });
        }
        self.chain = crc;
        visit(Piece::Header(&header));
        self.next_part(Gathering::PartHeader);
        Ok(())
    }

    fn on_part(&mut self, visit: &mut dyn FnMut(Piece<'_>)) -> Result<(), CheckpointWhy> {
        let header = PartHeader::decode(&self.part).expect("it was decoded when it began");
        if header.number != self.chunks {
            return Err(CheckpointWhy::Order { found: header.number, expected: self.chunks });
        }
        let crc = crc32c::crc32c_append(self.chain, &self.part[PART_CRC_FROM..]);
        if crc != u32_at(&self.part, 4) {
            return Err(match header.kind {
                PartKind::Chunk => CheckpointWhy::Chunk,
                PartKind::Footer => CheckpointWhy::Footer,
            });
        }
        self.chain = crc;
        let content = &self.part[PART_HEADER_BYTES..];
        match header.kind {
            PartKind::Chunk => {
                // All of it first, so that no row of a chunk that is not sound is delivered.
                let mut tombstones = 0;
                walk_rows(content, header.rows, &mut |row| tombstones += u64::from(row.value.is_none()))?;
                walk_rows(content, header.rows, &mut |row| visit(Piece::Row(row)))?;
                self.chunks += 1;
                self.rows += u64::from(header.rows);
                self.tombstones += tombstones;
                self.next_part(Gathering::PartHeader);
            }
            PartKind::Footer => {
                if u64_at(content, 0) != self.rows || u64_at(content, 8) != self.offset {
                    return Err(CheckpointWhy::Footer);
                }
                self.next_part(Gathering::Nothing);
            }
        }
        Ok(())
    }

    fn next_part(&mut self, gathering: Gathering) {
        self.offset += self.part.len() as u64;
        self.part.clear();
        self.gathering = gathering;
        self.wanted = if gathering == Gathering::PartHeader { PART_HEADER_BYTES } else { 0 };
    }
}

fn walk_rows<'a>(
    mut bytes: &'a [u8],
    rows: u32,
    visit: &mut dyn FnMut(CheckpointRow<'a>),
) -> Result<(), CheckpointWhy> {
    for _ in 0..rows {
        let (row, rest) = take_row(bytes).ok_or(CheckpointWhy::Row)?;
        visit(row);
        bytes = rest;
    }
    if bytes.is_empty() { Ok(()) } else { Err(CheckpointWhy::Row) }
}

/// The row that `bytes` begins with, and what follows it.
fn take_row(bytes: &[u8]) -> Option<(CheckpointRow<'_>, &[u8])> {
    let (fixed, rest) = bytes.split_at_checked(4)?;
    let table = TableId(u16_at(fixed, 0));
    let (key, rest) = rest.split_at_checked(usize::from(u16_at(fixed, 2)))?;
    let (fixed, rest) = rest.split_at_checked(ROW_FIXED_BYTES - 4)?;
    let timestamp = Timestamp(u64_at(fixed, 0));
    let length = u32_at(fixed, 8);
    let (value, rest) = if length == TOMBSTONE {
        (None, rest)
    } else {
        let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        (Some(value), rest)
    };
    let bounded = key.len() <= KEY_BYTES_MAX && value.is_none_or(|value| value.len() <= VALUE_BYTES_MAX);
    bounded.then_some((CheckpointRow { table, key, timestamp, value }, rest))
}
