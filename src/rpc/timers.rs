//! When each session of a core is next to be looked at: a heap with one entry of each session at most.
//!
//! Most timers of a session never come true: an acknowledgement arrives first, and the next frame sets another. So an
//! entry is moved only when its session wants to be looked at earlier. One that turns out to be too early is set again
//! by the caller. Whether anything is due is the session's to say.
//!
//! Invariants:
//!   1. No entry is later than what its session was last scheduled for.
//!   2. `places[s]` is where in `heap` the entry of session `s` is, or `NOWHERE`.
//!   3. No entry is before its parent, by time and then by session: the order of sessions that are due together
//!      depends on nothing else.
#![forbid(unsafe_code)]

use crate::types::Timestamp;

#[derive(Default)]
pub struct Timers {
    heap: Vec<Entry>,
    places: Vec<u16>,
}

type Entry = (Timestamp, u16);

impl Timers {
    /// Makes room for one session more, so that setting a timer allocates nothing.
    pub fn add_session(&mut self) {
        self.places.push(NOWHERE);
        self.heap.reserve(self.places.len() - self.heap.len());
    }

    /// The session is to be looked at by then.
    pub fn schedule(&mut self, session: u16, due: Timestamp) {
        let at = match self.places[usize::from(session)] {
            NOWHERE => {
                self.heap.push((due, session));
                self.heap.len() - 1
            }
            at if due < self.heap[usize::from(at)].0 => {
                self.heap[usize::from(at)].0 = due;
                usize::from(at)
            }
            _ => return,
        };
        self.rise(at);
    }

    /// When the first session is to be looked at.
    pub fn first(&self) -> Option<Timestamp> {
        self.heap.first().map(|(due, _)| *due)
    }

    /// The next session that is to be looked at now. It has no entry then.
    pub fn take_due(&mut self, now: Timestamp) -> Option<u16> {
        let (_, session) = self.heap.first().copied().filter(|(due, _)| *due <= now)?;
        self.heap.swap_remove(0);
        self.places[usize::from(session)] = NOWHERE;
        if !self.heap.is_empty() {
            self.sink(0);
        }
        Some(session)
    }

    fn rise(&mut self, mut at: usize) {
        let entry = self.heap[at];
        while at > 0 && entry < self.heap[(at - 1) / 2] {
            self.put(at, self.heap[(at - 1) / 2]);
            at = (at - 1) / 2;
        }
        self.put(at, entry);
    }

    fn sink(&mut self, mut at: usize) {
        let entry = self.heap[at];
        loop {
            let left = 2 * at + 1;
            let Some(mut child) = self.heap.get(left).map(|_| left) else { break };
            if self.heap.get(left + 1).is_some_and(|right| *right < self.heap[left]) {
                child = left + 1;
            }
            if entry <= self.heap[child] {
                break;
            }
            self.put(at, self.heap[child]);
            at = child;
        }
        self.put(at, entry);
    }

    fn put(&mut self, at: usize, entry: Entry) {
        self.heap[at] = entry;
        self.places[usize::from(entry.1)] = u16::try_from(at).expect("sessions are few");
    }
}

const NOWHERE: u16 = u16::MAX;
const _: () = assert!(crate::bounds::SESSIONS_MAX < NOWHERE as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Prng;
    use std::collections::BTreeMap;

    /// Every session comes out once, in the order of what was asked for it first of all.
    #[test]
    fn sessions_come_out_in_the_order_of_their_timers() {
        let mut prng = Prng::with_seed(4);
        for round in 0..50 {
            let (mut timers, mut model) = (Timers::default(), BTreeMap::new());
            (0..200).for_each(|_| timers.add_session());
            let mut now = 0;
            for _ in 0..2_000 {
                if prng.bool() {
                    let (session, due) = (prng.u16(..200), now + prng.u64(..1 + 10 * round));
                    timers.schedule(session, Timestamp(due));
                    let entry: &mut u64 = model.entry(session).or_insert(due);
                    *entry = due.min(*entry);
                } else {
                    now += prng.u64(..20);
                    let first = model.iter().map(|(session, due)| (*due, *session)).min();
                    assert_eq!(timers.first(), first.map(|(due, _)| Timestamp(due)));
                    let due = first.filter(|(due, _)| *due <= now).map(|(_, session)| session);
                    assert_eq!(timers.take_due(Timestamp(now)), due);
                    if let Some(session) = due {
                        model.remove(&session);
                    }
                }
            }
        }
    }

    #[test]
    fn setting_timers_allocates_nothing_once_their_sessions_are_there() {
        let mut timers = Timers::default();
        (0..100).for_each(|_| timers.add_session());
        let room = timers.heap.capacity();
        for round in 0..10 {
            (0..100).for_each(|session| timers.schedule(session, Timestamp(round)));
            while timers.take_due(Timestamp(round)).is_some() {}
        }
        assert_eq!(timers.heap.capacity(), room);
    }
}
