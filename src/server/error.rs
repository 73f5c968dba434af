//! Why a node did not start, and why it stopped: for an operator, each with place, reason and remedy.
#![forbid(unsafe_code)]

use super::keys::BadKeyFile;
use crate::disk::DiskError;
use crate::nic::udp::NicError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Printed as `WHAT (WHERE): WHY; REMEDY`.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("node {node} cannot listen ({address}): {source}; {}", remedy_of(source))]
    Listen { node: String, address: SocketAddr, source: NicError },
    #[error(
        "NIC {nic} (node {node}): this build reaches its peers over kernel UDP only; \
         build it with --features dpdk, or write nic = \"udp\""
    )]
    NoSuchNic { node: String, nic: String },
    #[cfg(feature = "dpdk")]
    #[error("the NIC does not start (node {node}): {source}")]
    Dpdk { node: String, source: crate::nic::dpdk::DpdkError },
    #[error(
        "CPU {cpu} (node {node}, cores): it is not among those this process may use, {usable:?}; \
         name some of these, or leave cores out"
    )]
    NoSuchCpu { node: String, cpu: usize, usable: Vec<usize> },
    #[error(
        "the data directory is another's (node {node}, {}): {why}; \
         undo that change, or name another directory",
        dir.display()
    )]
    Foreign { node: String, dir: PathBuf, why: String },
    #[error("the data directory is not whole (node {node}, {}): {why}; {REBUILD}", dir.display())]
    Lost { node: String, dir: PathBuf, why: String },
    #[error("no log (node {node}, {}): {source}; {}", dir.display(), way_on(source))]
    Log { node: String, dir: PathBuf, source: DiskError },
    #[error(
        "--rebuild (node {node}): shard {shard} has no other replica to learn from, so what is forgotten is gone; \
         restore the data directory from a copy"
    )]
    Alone { node: String, shard: u16 },
    #[error(
        "no key (cluster.key_file, {}): {source}; make one with `(umask 077; openssl rand -hex 32 > {})`, and give it \
         to every node",
        path.display(),
        path.display()
    )]
    Keys { path: PathBuf, source: BadKeyFile },
    #[error("no {what} (node {node}): {source}; raise the limit of this process, or close something else")]
    Resource { node: String, what: &'static str, source: io::Error },
    #[error(transparent)]
    Core(#[from] StopError),
}

/// Printed as `WHAT (WHERE): WHY; REMEDY`.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    #[error("the log has failed ({at}): {source}; see to the drive, then start the node again")]
    Disk { at: String, source: DiskError },
    #[error(
        "the data directory was emptied, or is not the one it was (node {node}, {}): {by} knows this node by another, \
         and what it promised there is forgotten; {REBUILD}",
        dir.display()
    )]
    Emptied { node: String, dir: PathBuf, by: String },
    #[error("a core was not pinned ({at}): the kernel refuses CPU {cpu}; name another, or leave cores out")]
    NotPinned { at: String, cpu: usize },
    #[error("a core broke off ({at}): {message}; this is a fault of ours, please report it")]
    Panicked { at: String, message: String },
}

impl StopError {
    /// It is no failure: the node is not to run like this.
    pub fn is_refusal(&self) -> bool {
        matches!(self, StopError::Emptied { .. })
    }
}

/// After damage nothing but the peers can help.
fn way_on(error: &DiskError) -> &'static str {
    match error {
        DiskError::Damaged { .. }
        | DiskError::VotesLost { .. }
        | DiskError::SegmentsLost { .. }
        | DiskError::CheckpointDamaged { .. }
        | DiskError::CheckpointLost { .. } => REBUILD,
        _ => "mend that, or name another directory",
    }
}

const REBUILD: &str =
    "start it once with `mako serve --rebuild`: it forgets its log and learns from its peers";

fn remedy_of(error: &NicError) -> &'static str {
    match error {
        NicError::AddressInUse { .. } => "stop that one, or choose other ports with --listen or listen = …",
        NicError::AddressNotLocal { .. } => "name an address of this machine",
        NicError::OtherFamily { .. } => "use one family for all nodes",
        NicError::Socket { .. } => "choose another address with --listen or listen = …",
    }
}
