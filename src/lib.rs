//! Mako: a geo-replicated, sharded, serializable transactional key-value server.
//!
//! The modules are listed in dependency order: each may use only those above it (README, Map).
#![deny(unsafe_code)]

pub mod bounds;
pub mod rules;
pub mod types;

pub mod config;
pub mod wire;

pub mod paxos;
pub mod rpc;
pub mod tree;
pub mod txn;
pub mod wal;
pub mod watermark;

pub mod partition;

pub mod clock;
pub mod disk;
pub mod nic;

pub mod reactor;
pub mod sim;

pub mod cli;
pub mod fuzz;
pub mod http;
pub mod server;
