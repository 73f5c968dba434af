//! The HTTP gateway: what a node says of itself, and the one thing it can be asked to do.
//!
//! | file | is |
//! |---|---|
//! | `gateway` | listeners, connections and their bounds; a thread of its own, never a pinned core |
//! | `answers` | what each path answers |
//! | `client` | the other side: a request that follows its way to the leader |
//!
//! One request a connection, then it is closed: who asks is an operator or a probe. Errors are one line of text in the
//! form of all others, `error: WHAT (WHERE): WHY; REMEDY`. Not here: `/metrics` and the page.
#![forbid(unsafe_code)]

mod answers;
mod client;
mod gateway;
#[cfg(test)]
mod tests;

pub(crate) use client::read_answer;
pub use client::{Asked, CallError, post};
pub use gateway::{Gateway, HttpError, Listeners};
