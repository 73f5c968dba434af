//! One core's world: its replicas and everything they share, stepped by events and driven by turns.
//!
//! | file | is |
//! |---|---|
//! | `core` | the turn: what arrives, what is due, what waits; in that order |
//! | `route` | what each message does, and its answer |
//! | `exchange` | how knowledge of watermarks moves |
//! | `replica` | one partition: its state, its stream, its mark |
//! | `post` | everything sent, held until what it rests on is durable |
//! | `parked` | what waits behind locks |
//! | `driver` | where transactions come from |
//! | `ports` | what must be brought from outside: a log and a board |
//!
//! Pure: no clock, file, socket, thread or lock. The modules of the layer below meet here and nowhere
//! else; a rule that decides anything lives with them.
#![forbid(unsafe_code)]

mod core;
mod driver;
mod exchange;
mod known;
mod parked;
mod ports;
mod post;
mod replica;
mod route;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod tests;

pub use core::{Core, CoreStats, Desk, cluster_hash};
pub use driver::{Driver, Idle, Mode, NoProcedure, Submit};
pub use ports::{Log, Marks, Ports};
pub use post::Parcel;
pub use replica::Replica;
