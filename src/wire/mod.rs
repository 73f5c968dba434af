//! Every message between partitions and the bytes of a batch: layout, encode, decode.
//!
//! What the messages mean is decided elsewhere (`txn`, `paxos`, `watermark`); how they travel is `rpc`'s.
//! Here bytes become values and back, and nothing else.
//!
//! Invariants:
//!   1. Decoding is total: any bytes give a value or a [`Malformed`], never a panic.
//!   2. No claimed length or count is trusted: memory is reserved for at most what the remaining bytes
//!      could hold, and only after the limit in `bounds` was checked. So a message of n bytes costs a
//!      small multiple of n.
//!   3. What decodes obeys `bounds`: keys, values, counts and identifiers are in range, so that the
//!      layers above may index with them. Encoding asserts the same, so what we send always decodes.
//!   4. One value has one encoding, and a decoded message has no bytes left over.
//!
//! Every integer is little-endian and of fixed width: u16 for identifiers and key lengths, u32 for value
//! lengths and counts, u64 for time, ballots and slots.
#![forbid(unsafe_code)]
#![deny(clippy::cast_possible_truncation)]

pub mod batch;
pub mod cursor;
pub mod deps;
pub mod election;
mod identifiers;
pub mod malformed;
pub mod message;
pub mod stream;
pub mod txn;

#[cfg(test)]
mod tests;

pub use batch::{BatchBuilder, BatchKind, BatchView, Entries, EntryView, Writes};
pub use deps::{Deps, DepsFull};
pub use election::ElectionMessage;
pub use malformed::Malformed;
pub use message::{Kind, Message, encoded, peek};
pub use stream::{Batch, StreamMessage};
pub use txn::{Participants, ReadCheck, Refusal, Row, ScanCheck, ScanRange, Token, Verdict, WriteRef};
