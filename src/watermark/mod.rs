//! From promises to what may be released: runs of an epoch, shard watermark, vector watermark, closed epochs, exchange.
//!
//! Pure: no clock, no messages, no knowledge of transactions. A partition feeds it what streams promise and
//! what other nodes say, and asks of a dependency: is it stable, is it lost, or is it too early to tell?
//!
//! Not here: what a stream may promise (`paxos`, `txn`), who is rolled back (`txn`), when a fact about a
//! closed epoch may be announced (`partition`).
#![forbid(unsafe_code)]

mod closed;
mod exchange;
mod knowledge;
mod runs;
mod vector;

pub use closed::ClosedEpochs;
pub use exchange::ExchangeSchedule;
pub use knowledge::Knowledge;
pub use runs::Runs;
pub use vector::{Vector, shard_watermark};

#[cfg(test)]
mod tests;
