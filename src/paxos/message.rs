//! What the replicas of a stream say to each other: defined, with its bytes, in `wire`.
#![forbid(unsafe_code)]

pub use crate::wire::stream::{
    Accept, Accepted, Batch, Chosen, Entry, Fetch, Fetched, Prepare, Promise, Rejected,
    StreamMessage as PaxosMessage,
};
