//! Mako: a geo-replicated, sharded, serializable transactional key-value server.
//!
//! The modules are listed in dependency order: each may use only those above it (README, Map).
#![deny(unsafe_code)]

pub mod bounds;
pub mod types;
