//! Transactions: procedures, what they read and write, who coordinates them, who takes part, what is
//! speculative and for how long, and what a follower replays (DESIGN §3–5, §8).
//!
//! Pure: time, randomness, messages and knowledge of watermarks are arguments; what is to be sent is
//! appended as [`Effect`]s. The only neighbour it knows is the tree.
#![forbid(unsafe_code)]

mod ahead;
mod attempt;
mod clock;
mod context;
mod coordinator;
mod decisions;
mod handle;
mod local;
mod located;
mod locks;
mod participant;
mod procedure;
mod replay;
mod store;
#[cfg(test)]
mod told;
mod vote_times;
mod watch;
mod window;
mod writes;

pub use clock::too_far_ahead;
pub use context::Context;
pub use coordinator::{Coordinator, Decides, Effect, Env, Ticket};
pub use handle::Txn;
pub use local::{LocalCommit, LocalEnd, LocalRead, commit_local, conclude_read, run_local, take_read};
pub use participant::{Commit, Known, PrepareRequest, PreparedSet};
pub use procedure::{Abort, BusyWith, KeyBytes, Procedure, Reply, Rows};
pub use replay::Replay;
pub use store::{Install, Seen, Span, Store, Visited};
pub use window::{Settled, Speculative, Standings, Window};
pub use writes::hash_key;
