//! Tests of a whole stream: one replica under every kind of message, and clusters under random schedules.
#![forbid(unsafe_code)]

mod leading;
mod matrix;
mod restart;
mod schedule;

use super::{Batch, Effect, Forgot, Limits, PaxosMessage, Persist, Restored, RestsOn, Stream, StreamConfig};
use crate::types::{Ballot, NodeId, Slot};

fn ballot(round: u32, node: u16) -> Ballot {
    Ballot { round, node: NodeId(node) }
}

fn batch(text: &str) -> Batch {
    Batch::from(text.as_bytes())
}

fn stream(me: u16, replicas: u16, own_vote_needs_disk: bool, limits: Limits) -> Stream {
    Stream::new(config(me, replicas, own_vote_needs_disk, limits))
}

fn config(me: u16, replicas: u16, own_vote_needs_disk: bool, limits: Limits) -> StreamConfig {
    let replicas = (0..replicas).map(NodeId).collect();
    StreamConfig { me: NodeId(me), replicas, own_vote_needs_disk, limits }
}

/// Effects in words, so that a test can state them with their order.
fn told(out: &mut Vec<Effect>) -> Vec<String> {
    out.drain(..).map(|effect| tell(&effect)).collect()
}

fn tell(effect: &Effect) -> String {
    match effect {
        Effect::Persist(Persist::Vote { ballot }) => format!("log vote {ballot:?}"),
        Effect::Persist(Persist::Accept { slot, ballot, .. }) => format!("log {}@{ballot:?}", slot.0),
        Effect::Send { to, message, rests_on } => {
            let after = match rests_on {
                RestsOn::Nothing => String::new(),
                RestsOn::Vote => ", after the vote".to_owned(),
                RestsOn::Acceptance(slot) => format!(", after {}", slot.0),
            };
            format!("to {}: {}{after}", to.0, tell_message(message))
        }
        Effect::Led { next } => format!("led, next {}", next.0),
        Effect::Deposed { by } => format!("deposed by {by:?}"),
        Effect::Behind { floor, at } => format!("behind {} at {}", floor.0, at.0),
    }
}

fn tell_message(message: &PaxosMessage) -> String {
    match message {
        PaxosMessage::Prepare(m) => format!("prepare {:?} from {}", m.ballot, m.from_slot.0),
        PaxosMessage::Promise(m) => {
            let entries: Vec<u64> = m.entries.iter().map(|entry| entry.slot.0).collect();
            let last = if m.last { " last" } else { "" };
            format!("promise {:?} {}..{} {entries:?}{last}", m.ballot, m.from_slot.0, m.end_slot.0)
        }
        PaxosMessage::Rejected(m) => format!("rejected by {:?}", m.promised),
        PaxosMessage::Accept(m) => format!("accept {}@{:?}", m.slot.0, m.ballot),
        PaxosMessage::Accepted(m) => {
            format!("accepted {} through {}, chosen {}", m.slot.0, m.through.0, m.chosen_end.0)
        }
        PaxosMessage::Chosen(m) => {
            let (next, chosen, voted) = (m.next_slot.0, m.chosen_end.0, m.voted_end.0);
            format!("next {next} chosen {chosen} voted {voted} known {}", m.known_end.0)
        }
        PaxosMessage::Fetch(m) => format!("fetch {}..{}", m.from_slot.0, m.end_slot.0),
        PaxosMessage::Fetched(m) => {
            let slots: Vec<u64> = m.entries.iter().map(|(slot, _)| slot.0).collect();
            format!("fetched {slots:?} chosen {}", m.chosen_end.0)
        }
        PaxosMessage::Rejoin(m) => format!("rejoin {}", m.nonce),
        PaxosMessage::Rejoined(m) => match m.leading {
            Some((ballot, next)) => format!("rejoined {}, leads {ballot:?}, next {}", m.nonce, next.0),
            None => format!("rejoined {}, promised {:?}", m.nonce, m.promised),
        },
    }
}

fn drain_chosen(stream: &mut Stream) -> Vec<(u64, Batch)> {
    std::iter::from_fn(|| stream.poll_chosen()).map(|(slot, _, batch)| (slot.0, batch)).collect()
}

fn persist_all(stream: &mut Stream, out: &[Effect]) {
    for effect in out {
        if let Effect::Persist(Persist::Accept { slot, ballot, .. }) = effect {
            stream.on_persisted(*slot, *ballot);
        }
    }
}

const LIMITS: Limits =
    Limits { pipeline_slots: 4, retained_slots: 8, retained_bytes: 1_000, page_slots: 3, page_bytes: 1_000 };
