//! One core's world: its replicas and everything they share, stepped by events and driven by turns.
//!
//! | file | is |
//! |---|---|
//! | `core` | the turn: what arrives, what is due, what waits; in that order |
//! | `route` | what each message does, and its answer |
//! | `admission` | by which disks nodes know each other, and when a replica may take part |
//! | `exchange` | how knowledge of watermarks moves |
//! | `checkpoint` | checkpoints: taken, given, received; what of the log they let go |
//! | `recovery` | what the disk gave back when the node started |
//! | `reign` | how a shard changes its leader; the elections |
//! | `moving` | the planned hand-over of a shard to another node |
//! | `duty` | what the cores of a node tell each other about that |
//! | `replica` | one partition: its state, its stream, its mark |
//! | `post` | everything sent, held until what it rests on is durable |
//! | `parked` | what waits behind locks |
//! | `driver` | where transactions come from |
//! | `ports` | what must be brought from outside: a log, a board, a place for checkpoints |
//!
//! Pure: no clock, file, socket, thread or lock. The modules of the layer below meet here and nowhere
//! else; a rule that decides anything lives with them.
#![forbid(unsafe_code)]

mod admission;
mod checkpoint;
mod core;
mod desk;
mod driver;
mod duty;
mod exchange;
mod known;
mod moving;
mod parked;
mod ports;
mod post;
mod recovery;
mod reign;
mod replica;
mod route;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod tests;

pub use checkpoint::Archive;
pub use core::{Core, CoreStats, cluster_hash};
pub use desk::Desk;
pub use driver::{Driver, Idle, Mode, NoProcedure, Submit};
pub use duty::Duty;
pub use moving::{MoveOrder, MoveRefusal, Moved};
pub use ports::{CheckpointEvent, CheckpointPart, Checkpoints, Log, Marks, NoCheckpoints, Origin, Ports};
pub use post::{Cargo, Parcel};
pub use recovery::Recovery;
pub use reign::Chair;
pub use replica::Replica;
