//! Restarts of the schedule's replicas, and the checkpoints that stand in for what nobody keeps.
//!
//! A restart loses what was not durable, and what the replica had not sent yet; what is under way arrives at
//! its successor. At most a minority has forgotten at any time, and at most one of them its promises.
#![forbid(unsafe_code)]

use super::*;
use crate::paxos::Entry;

impl World {
    pub(super) fn restart(&mut self, at: usize) {
        let Some(forgot) = self.draw_forgot(at) else { return };
        self.restarts += 1;
        let replica = &mut self.replicas[at];
        replica.log.truncate(replica.durable);
        match forgot {
            Forgot::Nothing => {}
            // What such a log holds of acceptances is right, and not all.
            Forgot::Acceptances if self.rng.bool() => {}
            Forgot::Acceptances => replica.log.retain(|record| matches!(record, Persist::Vote { .. })),
            Forgot::Votes => {
                replica.log.clear();
                replica.checkpoint = 0;
            }
        }
        replica.durable = replica.log.len();
        let end_of = |is: fn(&Persist) -> bool| replica.log.iter().rposition(is).map_or(0, |last| last + 1);
        replica.votes_end = end_of(|record| matches!(record, Persist::Vote { .. }));
        replica.accepts_end = end_of(|record| matches!(record, Persist::Accept { .. }));
        replica.vote_durable = match replica.log[..replica.votes_end].last() {
            Some(Persist::Vote { ballot }) => *ballot,
            _ => Ballot::default(),
        };
        replica.outbox.clear();
        replica.delivered = replica.checkpoint;
        replica.is_behind = false;
        replica.forgot = forgot;
        let restored = Restored {
            promised: replica.vote_durable,
            floor: Slot(replica.checkpoint),
            accepted: accepted(&replica.log),
            chosen_end: Slot(0),
            forgot,
            nonce: self.restarts,
        };
        let config = config(at as u16, self.replicas.len() as u16, self.needs_disk, self.limits);
        self.replicas[at].stream = Stream::restored(config, restored);
        self.seen.restarts += usize::from(forgot == Forgot::Nothing);
        self.seen.forgot_acceptances += usize::from(forgot == Forgot::Acceptances);
        self.seen.forgot_votes += usize::from(forgot == Forgot::Votes);
        self.with(at, |stream, out| stream.resend(out));
    }

    /// How the replica may forget, if it may restart at all now.
    fn draw_forgot(&mut self, at: usize) -> Option<Forgot> {
        let mode = if self.needs_disk { Forgot::Nothing } else { Forgot::Acceptances };
        let forgot = match self.replicas[at].forgot {
            // Its disk is still being rebuilt: what it holds is not all.
            Forgot::Votes => Forgot::Votes,
            _ if self.rng.u32(..4) == 0 => Forgot::Votes,
            _ => mode,
        };
        let others = || self.replicas.iter().enumerate().filter(|(other, _)| *other != at);
        let forgetful = others().filter(|(_, replica)| replica.forgot != Forgot::Nothing).count();
        let is_minority = forgetful < self.replicas.len().div_ceil(2) - 1;
        let is_alone = others().all(|(_, replica)| replica.forgot != Forgot::Votes);
        let lawful = match forgot {
            Forgot::Nothing => true,
            Forgot::Acceptances => is_minority,
            Forgot::Votes => is_minority && is_alone,
        };
        lawful.then_some(forgot)
    }

    /// The votes it has from now on are those for what it was taught.
    pub(super) fn note_whether_it_votes_again(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        if replica.forgot == Forgot::Nothing || replica.stream.is_forgetful() {
            return;
        }
        replica.forgot = Forgot::Nothing;
        self.seen.votes_again += 1;
        let stream = &self.replicas[at].stream;
        let mut held = Vec::new();
        for slot in (stream.floor().0..stream.next_slot().0).map(Slot) {
            let counts = !self.needs_disk || stream.is_persisted(slot);
            if let Some((ballot, batch)) = stream.accepted(slot).filter(|_| counts)
                && ballot == stream.leader()
            {
                held.push((slot, ballot, Batch::clone(batch)));
            }
        }
        for (slot, ballot, batch) in held {
            self.vote(at, slot, ballot, &batch);
        }
    }

    pub(super) fn vote_unless_forgetful(&mut self, at: usize, slot: Slot, ballot: Ballot, batch: &Batch) {
        if !self.replicas[at].stream.is_forgetful() {
            self.vote(at, slot, ballot, batch);
        }
    }

    pub(super) fn jump_if_behind(&mut self, at: usize) {
        if self.replicas[at].is_behind {
            self.jump(at);
        }
    }

    /// Installs a checkpoint of another replica, which may cover less than is known here.
    pub(super) fn jump(&mut self, at: usize) {
        let from = self.rng.usize(..self.replicas.len());
        let to = self.replicas[from].delivered;
        let replica = &mut self.replicas[at];
        replica.stream.jump(Slot(to));
        if to > replica.delivered {
            (replica.delivered, replica.checkpoint, replica.is_behind) = (to, to, false);
            self.seen.jumps += 1;
        }
        self.carry_out(at);
    }
}

/// Of each slot, the acceptance of the highest ballot. Those below the checkpoint are in it: a log is truncated by
/// whole segments.
fn accepted(log: &[Persist]) -> Vec<Entry> {
    let mut highest = BTreeMap::new();
    for record in log {
        if let Persist::Accept { slot, ballot, batch } = record {
            highest.insert(*slot, (*ballot, Batch::clone(batch)));
        }
    }
    let entry = |(slot, (ballot, batch))| Entry { slot, ballot, batch };
    highest.into_iter().map(entry).collect()
}
