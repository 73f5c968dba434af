//! How a core's directory is emptied, so that the replica can be rebuilt from its peers.
//!
//! The votes stay when they can be read: whoever remembers its promises has less to ask. That the node has
//! forgotten is not noted here: whoever calls this has written it down before.
//!
//! Invariant: stopped anywhere and done again, the end is the same.
#![forbid(unsafe_code)]

use std::fs;

use super::directory::{CoreDirectory, io_error};
use super::votes::{VOTES_NAME, read_votes};
use super::{DiskError, is_checkpoint, segments};
use crate::wal::LogIdentity;

/// Removes the log, the checkpoints, and the votes if both copies of them are damaged. Whether they stay.
pub fn forget_log(directory: &CoreDirectory, identity: LogIdentity) -> Result<bool, DiskError> {
    let kept = match read_votes(directory, identity) {
        Ok(_) => true,
        Err(DiskError::VotesLost { .. }) => false,
        // Of another node, or of a version to come: not ours to delete.
        Err(other) => return Err(other),
    };
    let goes = |name: &str| {
        segments::number_of(name).is_some() || is_checkpoint(name) || (name == VOTES_NAME && !kept)
    };
    for name in directory.names()?.iter().filter(|name| goes(name)) {
        let path = directory.file(name);
        fs::remove_file(&path).map_err(|source| io_error("removing", &path, source))?;
    }
    directory.sync_names()?;
    Ok(kept)
}
