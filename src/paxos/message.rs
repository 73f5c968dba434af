//! What the replicas of a stream and of a shard say to each other: defined, with its bytes, in `wire`.
#![forbid(unsafe_code)]

pub use crate::wire::election::ElectionMessage;
pub use crate::wire::stream::{
    Accept, Accepted, Batch, Chosen, Entry, Fetch, Fetched, Prepare, Promise, Rejected, Rejoin, Rejoined,
    StreamMessage as PaxosMessage,
};
