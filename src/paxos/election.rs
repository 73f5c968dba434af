//! Who should lead a shard: failure detector, pre-vote, leader's lease, planned hand-over. One per shard and
//! replica, beside the shard's streams.
//!
//! A pure state machine that decides *when* to campaign and at which ballot. Ballots decide who leads, and
//! safety of the streams rests on them alone; safety of the **lease** rests on what is promised here: who
//! acknowledges a leader's heartbeat lets no ballot of another through for one timeout. A leader whose newest
//! acknowledged heartbeats are those of a majority knows, until the oldest of them is one timeout old, that
//! no other ballot has a majority. Clocks are monotonic, never compared, and drift less than
//! `CLOCK_DRIFT_PART` allows.
//!
//! The host carries out effects; asks `may_promise` before a `Prepare` reaches a stream; reports what the
//! streams hear and win. Not here: the streams, their log, seals and epochs.
//!
//! Invariants (1 to 3 in [`Election::assert_invariants`]):
//!   1. A candidate's or leader's ballot is its own, and the highest that was promised here.
//!   2. No lease is acknowledged for a ballot other than the one promised.
//!   3. A lease needs a majority of acknowledgements of one reign.
//!   4. After a restart nothing is granted for one timeout: an acknowledgement may have been forgotten.
//!   5. An acknowledgement rests on the vote, so no replica that gave one comes back as a fresh one.
#![forbid(unsafe_code)]

mod lease;
#[cfg(test)]
mod tests;

use super::message::ElectionMessage;
use super::quorum::{Quorum, VoteSet};
use super::{Ignored, RestsOn};
use crate::bounds::ELECTION_JITTER_PART;
use crate::rules::{Rule, on};
use crate::types::{Ballot, NodeId, Prng, Timestamp};
use lease::Reign;

pub struct Election {
    quorum: Quorum,
    timeout_ns: u64,
    heartbeat_ns: u64,
    role: Role,
    /// The streams here are fit to campaign and to vote.
    eligible: bool,
    /// The highest ballot the streams here have promised, or are about to. Monotone.
    promised: Ballot,
    /// The highest round anyone promised. Monotone.
    round_seen: u32,
    /// We restarted, and may be bound by what we forgot.
    quiet_until: Timestamp,
    /// The leader we follow, or ourselves.
    led_by: Option<Ballot>,
    /// When a leader was heard last.
    heard_at: Option<Timestamp>,
    /// We acknowledged this leader, and are bound until then.
    bound: Option<(Ballot, Timestamp)>,
    /// No leader at or below it wants to be waited for. Monotone.
    released: Ballot,
    /// While we do not lead: what we wait for is overdue then.
    wake_at: Timestamp,
    jitter_ns: u64,
}

pub struct ElectionConfig {
    pub me: NodeId,
    /// The same list, in the same order, at every replica.
    pub replicas: Vec<NodeId>,
    pub timeout_ns: u64,
    pub heartbeat_ns: u64,
    /// The highest ballot that the log says any stream of the shard promised here.
    pub promised: Ballot,
    /// The shard is new: nothing was ever promised or accepted here, so nothing can have been forgotten. The
    /// first replica of the list then need not wait to campaign, nor the others to grant.
    pub fresh: bool,
}

enum Role {
    Follower,
    /// A pre-vote is under way.
    Asking {
        ballot: Ballot,
        granted: VoteSet,
    },
    Candidate {
        ballot: Ballot,
    },
    Leader(Reign),
}

/// What the host must do next, in the order appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionEffect {
    /// Send, but not before what it rests on is durable: the last vote of the shard's first stream.
    Send { to: NodeId, message: ElectionMessage, rests_on: RestsOn },
    /// Campaign on every stream of the shard. Report `on_won` or `on_deposed`.
    Campaign { ballot: Ballot },
    /// We led, and have heard from no majority for long: others may lead by now. Take no more
    /// transactions.
    Lost,
}

type Outcome = Result<(), Ignored>;

impl Election {
    pub fn new(config: ElectionConfig, now: Timestamp, prng: &mut Prng) -> Election {
        let ElectionConfig { me, replicas, timeout_ns, heartbeat_ns, promised, fresh } = config;
        assert!(2 * heartbeat_ns < timeout_ns, "heartbeats every {heartbeat_ns} ns of {timeout_ns}");
        assert!(!fresh || promised == Ballot::default(), "a fresh shard in which {promised:?} was promised");
        let quorum = Quorum::new(me, replicas);
        let at_once = fresh && quorum.me() == 0;
        let mut election = Election {
            quorum,
            timeout_ns,
            heartbeat_ns,
            role: Role::Follower,
            eligible: true,
            promised,
            round_seen: promised.round,
            quiet_until: if fresh { now } else { now.plus_ns(timeout_ns) },
            led_by: None,
            heard_at: None,
            bound: None,
            released: Ballot::default(),
            wake_at: now,
            jitter_ns: 0,
        };
        election.draw_jitter(prng);
        if !at_once {
            election.wait(now);
        }
        election
    }

    // What the host wants.

    /// Whether the streams here may campaign and vote: not while one of them has forgotten what it accepted.
    pub fn set_eligible(&mut self, eligible: bool) {
        self.eligible = eligible;
    }

    /// Gives up the lease for good, and asks `to` to campaign at once. We lead the streams until it has won.
    pub fn hand_over(&mut self, now: Timestamp, to: NodeId, out: &mut Vec<ElectionEffect>) -> Outcome {
        self.peer(to)?;
        let Role::Leader(reign) = &self.role else { return Err(Ignored::StaleReply) };
        let ballot = reign.ballot;
        if on(Rule::GiveUpLease) {
            self.role = Role::Follower;
            self.release(now, ballot);
        }
        for (_, peer) in self.quorum.peers() {
            self.send(peer, ElectionMessage::Release { ballot }, out);
        }
        self.send(to, ElectionMessage::HandOver { ballot }, out);
        Ok(())
    }

    /// Asks `to` again to take over what was given up under `ballot`: the first word may be lost.
    pub fn remind(&mut self, to: NodeId, ballot: Ballot, out: &mut Vec<ElectionEffect>) {
        let follows = matches!(self.role, Role::Follower);
        if follows && self.promised == ballot && self.released == ballot {
            self.send(to, ElectionMessage::HandOver { ballot }, out);
        }
    }

    /// We campaign, and cannot win: `to`, which has promised us its vote, is ahead of us by more than it keeps.
    /// It need not wait for us to fail. Its promise means that it is bound to nobody but us, so that what
    /// this releases is our candidacy and no leader's lease.
    pub fn give_way(&mut self, now: Timestamp, to: NodeId, out: &mut Vec<ElectionEffect>) -> Outcome {
        self.peer(to)?;
        let Role::Candidate { ballot } = self.role else { return Err(Ignored::StaleReply) };
        self.role = Role::Follower;
        self.wait(now);
        self.send(to, ElectionMessage::HandOver { ballot }, out);
        Ok(())
    }

    /// Whether a `Prepare` of this ballot may reach the streams. If so, it counts as promised from here on. One
    /// at or below what we promised passes: the streams know what to answer.
    pub fn may_promise(&mut self, now: Timestamp, ballot: Ballot) -> bool {
        if ballot > self.promised {
            if !self.lets_through(now, ballot) {
                return false;
            }
            self.promise(ballot);
            self.wait(now);
        }
        true
    }

    // What happened.

    /// Does what is due. Call it at `deadline`, or at any time.
    pub fn on_timer(&mut self, now: Timestamp, prng: &mut Prng, out: &mut Vec<ElectionEffect>) {
        match &self.role {
            Role::Leader(_) => self.on_leader_timer(now, prng, out),
            _ if now < self.wake_at => {}
            Role::Follower | Role::Asking { .. } => self.ask(now, prng, out),
            // Two that campaign at once must not meet again: each waits a time of its own.
            Role::Candidate { .. } => {
                self.role = Role::Follower;
                self.wake_at = now.plus_ns(prng.u64(0..=self.timeout_ns / 2));
            }
        }
    }

    /// A stream heard from one that leads it under this ballot, and so has promised it.
    pub fn on_leader_heard(&mut self, now: Timestamp, ballot: Ballot) {
        if ballot < self.promised || ballot.node == self.quorum.node() {
            return;
        }
        self.promise(ballot);
        self.hear(now, ballot);
    }

    /// Our streams lead under this ballot.
    pub fn on_won(&mut self, now: Timestamp, ballot: Ballot, out: &mut Vec<ElectionEffect>) -> Outcome {
        assert!(ballot.node == self.quorum.node(), "{ballot:?} is not ours");
        if ballot < self.promised {
            return Err(Ignored::OldBallot);
        }
        self.promise(ballot);
        self.role = Role::Leader(Reign::new(ballot, now, self.quorum.len()));
        self.led_by = Some(ballot);
        self.heard_at = None;
        self.bound = None;
        self.send_heartbeats(now, out);
        Ok(())
    }

    /// A stream of ours was a candidate or the leader, and a higher ballot exists.
    pub fn on_deposed(&mut self, now: Timestamp, by: Ballot) {
        self.observe(by);
        if !matches!(self.role, Role::Follower) {
            self.role = Role::Follower;
            self.led_by = None;
            self.wait(now);
        }
    }

    pub fn on_message(
        &mut self,
        now: Timestamp,
        from: NodeId,
        message: ElectionMessage,
        out: &mut Vec<ElectionEffect>,
    ) -> Outcome {
        let index = self.peer(from)?;
        let ballot = message.ballot();
        let speaker = match message {
            ElectionMessage::PreVoted { .. } | ElectionMessage::Heartbeaten { .. } => self.quorum.node(),
            _ => from,
        };
        if ballot.node != speaker {
            return Err(Ignored::NotItsBallot);
        }
        match message {
            ElectionMessage::PreVote { ballot } => {
                let granted = self.grants(now, ballot);
                let promised = self.promised;
                self.send(from, ElectionMessage::PreVoted { ballot, granted, promised }, out);
                Ok(())
            }
            ElectionMessage::PreVoted { ballot, granted, promised } => {
                self.observe(promised);
                self.on_pre_voted(now, index, ballot, granted, out)
            }
            ElectionMessage::Heartbeat { ballot, sent } => self.on_heartbeat(now, ballot, sent, out),
            ElectionMessage::Heartbeaten { ballot, sent } => match &mut self.role {
                Role::Leader(reign) if reign.ballot == ballot => reign.on_heartbeaten(index, sent),
                _ => Err(Ignored::StaleReply),
            },
            ElectionMessage::HandOver { ballot } => self.on_hand_over(now, ballot, out),
            ElectionMessage::Release { ballot } => {
                self.release(now, ballot);
                Ok(())
            }
        }
    }

    // What there is to know.

    /// When `on_timer` next has something to do though nothing happens.
    pub fn deadline(&self) -> Option<Timestamp> {
        match &self.role {
            Role::Leader(_) if self.quorum.len() == 1 => None,
            Role::Leader(reign) => Some(reign.heartbeat_at(self.heartbeat_ns).min(self.lost_at(reign))),
            _ => Some(self.wake_at),
        }
    }

    /// Who leads, as far as we have heard lately.
    pub fn leader(&self) -> Option<Ballot> {
        self.led_by
    }

    /// While we lead: until then, by our clock, no other ballot can have a majority. 0 without a lease.
    pub fn lease_until(&self) -> Timestamp {
        match &self.role {
            Role::Leader(reign) => reign.lease_until(&self.quorum, self.timeout_ns),
            _ => Timestamp::default(),
        }
    }

    /// While we lead: whether `node` has acknowledged a heartbeat within a timeout, or has had no time to yet.
    pub fn hears(&self, now: Timestamp, node: NodeId) -> Option<bool> {
        let (Role::Leader(reign), Ok(index)) = (&self.role, self.peer(node)) else { return None };
        Some(now < reign.acked(index).max(reign.won_at).plus_ns(self.timeout_ns))
    }

    pub fn holds_lease(&self, now: Timestamp) -> bool {
        now < self.lease_until()
    }

    pub fn assert_invariants(&self) {
        let (promised, me) = (self.promised, self.quorum.node());
        match &self.role {
            Role::Follower => {}
            Role::Asking { ballot, granted } => {
                assert!(ballot.node == me && granted.contains(self.quorum.me()));
            }
            Role::Candidate { ballot } | Role::Leader(Reign { ballot, .. }) => {
                assert!(ballot.node == me && *ballot == promised, "{ballot:?}, promised {promised:?}"); // 1
            }
        }
        assert!(self.bound.is_none_or(|(ballot, _)| ballot <= promised && ballot > self.released)); // 2
        if let Role::Leader(reign) = &self.role {
            reign.assert_invariants(&self.quorum, self.timeout_ns); // 3
        }
        assert!(self.round_seen >= promised.round);
    }

    // Followers and candidates.

    fn on_heartbeat(
        &mut self,
        now: Timestamp,
        ballot: Ballot,
        sent: Timestamp,
        out: &mut Vec<ElectionEffect>,
    ) -> Outcome {
        if ballot < self.promised {
            return Err(Ignored::OldBallot);
        }
        if ballot <= self.released {
            return Err(Ignored::StaleReply);
        }
        self.hear(now, ballot);
        // Its heartbeat has overtaken its streams: until they have promised it, nothing of ours would
        // survive a restart to bind us.
        if ballot == self.promised {
            self.bound = Some((ballot, now.plus_ns(self.timeout_ns)));
            self.send(ballot.node, ElectionMessage::Heartbeaten { ballot, sent }, out);
        }
        Ok(())
    }

    fn on_pre_voted(
        &mut self,
        now: Timestamp,
        from: usize,
        ballot: Ballot,
        granted: bool,
        out: &mut Vec<ElectionEffect>,
    ) -> Outcome {
        match &mut self.role {
            Role::Asking { ballot: asked, granted: votes } if *asked == ballot => {
                if granted {
                    votes.insert(from);
                    if self.quorum.is_majority(*votes) {
                        self.campaign(now, ballot, out);
                    }
                }
                Ok(())
            }
            _ => Err(Ignored::StaleReply),
        }
    }

    /// The leader wants us to follow it. Nobody need be asked: it gave up its lease.
    fn on_hand_over(&mut self, now: Timestamp, ballot: Ballot, out: &mut Vec<ElectionEffect>) -> Outcome {
        if ballot < self.promised {
            return Err(Ignored::OldBallot);
        }
        self.release(now, ballot);
        if !self.eligible || now < self.quiet_until {
            return Err(Ignored::Forgetful);
        }
        self.observe(ballot);
        if let Some(ballot) = self.next_ballot() {
            self.campaign(now, ballot, out);
        }
        Ok(())
    }

    /// Asks whether a campaign would be welcome. It costs the others nothing, so a replica that is cut off may
    /// go on asking, and disturbs nobody when it is back.
    fn ask(&mut self, now: Timestamp, prng: &mut Prng, out: &mut Vec<ElectionEffect>) {
        self.draw_jitter(prng);
        self.role = Role::Follower;
        self.led_by = None;
        let again_ns = self.timeout_ns / 4;
        self.wake_at = now.plus_ns(again_ns + prng.u64(0..=again_ns)).max(self.quiet_until);
        let Some(ballot) = self.next_ballot().filter(|&ballot| self.grants(now, ballot)) else { return };
        let mut granted = VoteSet::default();
        granted.insert(self.quorum.me());
        if self.quorum.is_majority(granted) {
            return self.campaign(now, ballot, out);
        }
        self.role = Role::Asking { ballot, granted };
        // Our streams lead on after a hand-over that came to nothing. Who never heard that we gave up
        // the lease hears them, and would deny everyone for ever.
        let gave_up = self.released > Ballot::default()
            && self.released == self.promised
            && self.released.node == self.quorum.node();
        for (_, to) in self.quorum.peers() {
            if gave_up {
                self.send(to, ElectionMessage::Release { ballot: self.released }, out);
            }
            self.send(to, ElectionMessage::PreVote { ballot }, out);
        }
    }

    fn campaign(&mut self, now: Timestamp, ballot: Ballot, out: &mut Vec<ElectionEffect>) {
        // A rival was promised while we asked: it has the first chance.
        if ballot <= self.promised {
            self.role = Role::Follower;
            return self.wait(now);
        }
        self.promise(ballot);
        self.role = Role::Candidate { ballot };
        self.led_by = None;
        self.wake_at = now.plus_ns(self.timeout_ns);
        out.push(ElectionEffect::Campaign { ballot });
    }

    /// Would we promise this ballot, and is there need for it?
    fn grants(&self, now: Timestamp, ballot: Ballot) -> bool {
        let led = self.heard_at.is_some_and(|heard| now.since(heard) < self.timeout_ns);
        let leads = matches!(self.role, Role::Leader(_));
        self.eligible && !led && !leads && ballot > self.promised && self.lets_through(now, ballot)
    }

    /// Nothing we acknowledged, or may have acknowledged before a restart, forbids this ballot.
    fn lets_through(&self, now: Timestamp, ballot: Ballot) -> bool {
        let free = |(leader, until): (Ballot, Timestamp)| now >= until || ballot.node == leader.node;
        let lawful = now >= self.quiet_until && self.bound.is_none_or(free) && !self.holds_lease(now);
        lawful || !on(Rule::Lease)
    }

    /// A ballot of ours above all we know of; none when rounds have run out.
    fn next_ballot(&self) -> Option<Ballot> {
        let round = self.round_seen.checked_add(1)?;
        Some(Ballot { round, node: self.quorum.node() })
    }

    fn observe(&mut self, ballot: Ballot) {
        self.round_seen = self.round_seen.max(ballot.round);
    }

    /// A stream promises it: whatever we attempted below it is over (1).
    fn promise(&mut self, ballot: Ballot) {
        self.observe(ballot);
        if ballot > self.promised {
            self.promised = ballot;
            self.role = Role::Follower;
            self.led_by = None;
        }
    }

    fn hear(&mut self, now: Timestamp, ballot: Ballot) {
        if ballot <= self.released {
            return;
        }
        self.observe(ballot);
        self.role = Role::Follower;
        self.led_by = Some(ballot);
        self.heard_at = Some(now);
        self.wait(now);
    }

    /// Leaders up to this one need not be waited for. What binds us to a later one stays.
    fn release(&mut self, now: Timestamp, ballot: Ballot) {
        self.released = self.released.max(ballot);
        self.bound = self.bound.filter(|(leader, _)| *leader > ballot);
        if self.led_by.is_none_or(|leader| leader <= ballot) {
            self.heard_at = None;
            self.wait(now);
        }
    }

    /// Gives whoever acts now a full timeout.
    fn wait(&mut self, now: Timestamp) {
        self.wake_at = now.plus_ns(self.timeout_ns + self.jitter_ns);
    }

    fn draw_jitter(&mut self, prng: &mut Prng) {
        self.jitter_ns = prng.u64(0..self.timeout_ns / ELECTION_JITTER_PART);
    }

    // Leaders.

    fn on_leader_timer(&mut self, now: Timestamp, prng: &mut Prng, out: &mut Vec<ElectionEffect>) {
        let Role::Leader(reign) = &self.role else { return };
        if self.quorum.len() == 1 {
            return;
        }
        if now >= self.lost_at(reign) {
            self.role = Role::Follower;
            self.led_by = None;
            self.draw_jitter(prng);
            self.wait(now);
            out.push(ElectionEffect::Lost);
        } else if now >= reign.heartbeat_at(self.heartbeat_ns) {
            self.send_heartbeats(now, out);
        }
    }

    /// One timeout after the lease, or after the reign began if it never had one.
    fn lost_at(&self, reign: &Reign) -> Timestamp {
        reign.lease_until(&self.quorum, self.timeout_ns).max(reign.won_at).plus_ns(self.timeout_ns)
    }

    fn send_heartbeats(&mut self, now: Timestamp, out: &mut Vec<ElectionEffect>) {
        let Role::Leader(reign) = &mut self.role else { return };
        reign.sent = now;
        let message = ElectionMessage::Heartbeat { ballot: reign.ballot, sent: now };
        for (_, to) in self.quorum.peers() {
            self.send(to, message, out);
        }
    }

    /// Whatever speaks of a promise of ours rests on the vote: the answers do, and a heartbeat's ballot was
    /// durable before it was won.
    fn send(&self, to: NodeId, message: ElectionMessage, out: &mut Vec<ElectionEffect>) {
        let rests_on = match message {
            ElectionMessage::PreVoted { .. } | ElectionMessage::Heartbeaten { .. } => RestsOn::Vote,
            ElectionMessage::PreVote { .. }
            | ElectionMessage::Heartbeat { .. }
            | ElectionMessage::HandOver { .. }
            | ElectionMessage::Release { .. } => RestsOn::Nothing,
        };
        out.push(ElectionEffect::Send { to, message, rests_on });
    }

    /// The place of another replica.
    fn peer(&self, node: NodeId) -> Result<usize, Ignored> {
        self.quorum.index_of(node).filter(|&index| index != self.quorum.me()).ok_or(Ignored::UnknownReplica)
    }
}
