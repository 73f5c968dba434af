//! The verdict on a recorded history: strict serializability, timestamp order, snapshots, answers.
//!
//! Pure and fast: linear in the operations but for sorting, so that it can be asked after every seed. It
//! stops at the first offence, in the order of [`Kind`](super::violation::Kind): a dirty read would show
//! up as a dozen other things further down.
#![forbid(unsafe_code)]

use super::history::History;
use super::observed::observe;
pub use super::versions::FinalRow;
use super::versions::{Fate, Versions};
use super::violation::Violation;
use super::{serializability, snapshots};

/// What a history without offence consisted of: a run that checked nothing should not look like one
/// that found nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Transactions at leaders that took effect, read-only ones included.
    pub committed: usize,
    /// Aborted or rolled back.
    pub undone: usize,
    /// Contact was lost and nobody saw a trace of it.
    pub unsettled: usize,
    pub snapshots: usize,
    /// Edges between committed transactions, relays of time included.
    pub edges: usize,
    /// Reads by writers, each compared with the state below its timestamp.
    pub writer_reads: usize,
    /// Reads by snapshots, each compared with the state at its timestamp.
    pub snapshot_reads: usize,
    /// Reads that could not be compared, as a transaction of unknown timestamp is involved.
    pub unverified: usize,
}

/// `final_state` is the whole state the cluster came to rest in, of one replica or of all in turn.
pub fn check(history: &History, final_state: &[FinalRow]) -> Result<Summary, Violation> {
    judge(history, Some(final_state))
}

/// Of a cluster that nobody can look into: what came to rest is what its last snapshots show.
pub fn check_seen(history: &History) -> Result<Summary, Violation> {
    judge(history, None)
}

fn judge(history: &History, final_state: Option<&[FinalRow]>) -> Result<Summary, Violation> {
    if let Some(fault) = history.first_fault() {
        return Err(fault.clone());
    }
    let versions = Versions::new(history, final_state.unwrap_or_default())?;
    let observed = observe(&versions)?;
    let edges = serializability::check(&versions, &observed)?;
    let compared = snapshots::check(&versions, &observed)?;
    if let Some(rows) = final_state {
        snapshots::check_final_state(&versions, rows)?;
    }
    Ok(Summary {
        committed: versions.count(Fate::Committed),
        undone: versions.count(Fate::Undone),
        unsettled: versions.count(Fate::Unsettled),
        snapshots: versions.count(Fate::Snapshot),
        edges,
        writer_reads: compared.writer_reads,
        snapshot_reads: compared.snapshot_reads,
        unverified: compared.unverified,
    })
}

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
