//! The hostile world: a whole cluster in one thread under a seed, and the checkers that judge it.
//!
//! | file | is |
//! |---|---|
//! | `run` | one seed from start to verdict: load, heal, demand progress, check |
//! | `world` | cores, network, logs and clocks under one queue of events |
//! | `faults` | what goes wrong, and how much of it in one seed |
//! | `mishaps` | the doing of those that are neither a cut link nor a crash |
//! | `handing` | orders of hand-overs, and what becomes of them |
//! | `lives` | how nodes die and come back, and what their disks hold then |
//! | `emptied` | disks that are emptied, and what a node is known by |
//! | `deaths` | crashes that wait for a bad moment |
//! | `clocks` | walls that are set, and processes that count |
//! | `attic` | frames of long ago |
//! | `disk` | a core's log and checkpoints on a drive that crashes and lies |
//! | `ghost` | deposed leaders that go on |
//! | `clients` | what is submitted, and what is written down of the answers |
//! | `bounded` | what no core may ever hold more of |
//! | `truth` | what an onlooker who sees every replica knows |
//! | `history`, `check` and below | what clients saw, judged from outside |
//! | `recorded` | the same of real processes, from a file of theirs |
//!
//! The checkers of a history know nothing of the cluster: they are given what its clients saw
//! ([`history::History`]) and the state it came to rest in, and say what is wrong ([`check::check`]).
#![forbid(unsafe_code)]

mod attic;
mod board;
mod bounded;
pub mod check;
mod clients;
mod clocks;
mod deaths;
pub mod disk;
mod emptied;
mod faults;
mod ghost;
mod graph;
mod handing;
pub mod history;
mod lives;
mod mishaps;
mod observed;
pub mod recorded;
mod run;
mod serializability;
mod snapshots;
mod truth;
mod versions;
pub mod violation;
mod world;

pub use deaths::{Deaths, MOMENTS, Moment};
pub use faults::{FAULTS, Fault, Faults, Struck};
pub use handing::Moves;
pub use run::{Failure, Options, Passed, run_seed};
