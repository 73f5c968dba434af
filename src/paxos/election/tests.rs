//! Elections one by one, and whole shards of them in a hostile network (`network`).
#![forbid(unsafe_code)]

mod network;

use super::*;
use ElectionMessage::{HandOver, Heartbeat, Heartbeaten, PreVote, PreVoted, Release};

const TIMEOUT: u64 = 1_000_000;
const HEARTBEAT: u64 = 100_000;
const FIRST: Ballot = Ballot { round: 1, node: NodeId(0) };
const RIVAL: Ballot = Ballot { round: 2, node: NodeId(2) };
const NONE: [&str; 0] = [];

fn ballot(round: u32, node: u16) -> Ballot {
    Ballot { round, node: NodeId(node) }
}

fn config(me: u16, replicas: u16, promised: Ballot, fresh: bool) -> ElectionConfig {
    let replicas = (0..replicas).map(NodeId).collect();
    ElectionConfig { me: NodeId(me), replicas, timeout_ns: TIMEOUT, heartbeat_ns: HEARTBEAT, promised, fresh }
}

/// Long after the clock's zero, as clocks are.
fn at(ns: u64) -> Timestamp {
    Timestamp(77_000_000 + ns)
}

fn tell(effect: &ElectionEffect) -> String {
    match effect {
        ElectionEffect::Campaign { ballot } => format!("campaign {ballot:?}"),
        ElectionEffect::Lost => "lost".to_owned(),
        ElectionEffect::Send { to, message, rests_on } => {
            let after = if *rests_on == RestsOn::Vote { ", after the vote" } else { "" };
            let message = match message {
                PreVote { ballot } => format!("pre-vote {ballot:?}"),
                PreVoted { ballot, granted: true, .. } => format!("grants {ballot:?}"),
                PreVoted { ballot, promised, .. } => format!("denies {ballot:?}, promised {promised:?}"),
                Heartbeat { ballot, .. } => format!("heartbeat {ballot:?}"),
                Heartbeaten { ballot, .. } => format!("heard {ballot:?}"),
                HandOver { ballot } => format!("hand-over {ballot:?}"),
                Release { ballot } => format!("release {ballot:?}"),
            };
            format!("to {}: {message}{after}", to.0)
        }
    }
}

/// One election, and what it asks for in words.
struct One {
    election: Election,
    prng: Prng,
    out: Vec<ElectionEffect>,
}

impl One {
    fn new(me: u16, replicas: u16, promised: Ballot, fresh: bool) -> One {
        let mut prng = Prng::with_seed(u64::from(me));
        let election = Election::new(config(me, replicas, promised, fresh), at(0), &mut prng);
        One { election, prng, out: Vec::new() }
    }

    fn told(&mut self) -> Vec<String> {
        self.election.assert_invariants();
        self.out.drain(..).map(|effect| tell(&effect)).collect()
    }

    fn timer(&mut self, now: u64) -> Vec<String> {
        self.election.on_timer(at(now), &mut self.prng, &mut self.out);
        self.told()
    }

    fn hear(&mut self, now: u64, from: u16, message: ElectionMessage) -> Result<Vec<String>, Ignored> {
        self.election.on_message(at(now), NodeId(from), message, &mut self.out)?;
        Ok(self.told())
    }

    /// A follower of three, bound to the first leader since time 0.
    fn bound() -> One {
        let mut one = One::new(1, 3, Ballot::default(), true);
        assert!(one.election.may_promise(at(0), FIRST));
        let heard = one.hear(0, 0, Heartbeat { ballot: FIRST, sent: at(0) });
        assert_eq!(heard.unwrap(), ["to 0: heard 1.0, after the vote"]);
        one
    }

    /// The leader of three since time 0, not yet acknowledged by anyone.
    fn leading() -> One {
        let mut one = One::new(0, 3, Ballot::default(), true);
        assert_eq!(one.timer(0), ["to 1: pre-vote 1.0", "to 2: pre-vote 1.0"]);
        let granted = PreVoted { ballot: FIRST, granted: true, promised: Ballot::default() };
        assert_eq!(one.hear(0, 1, granted).unwrap(), ["campaign 1.0"]);
        assert_eq!(one.election.on_won(at(0), FIRST, &mut one.out), Ok(()));
        assert_eq!(one.told(), ["to 1: heartbeat 1.0", "to 2: heartbeat 1.0"]);
        one
    }
}

/// A shard that starts for the first time should not wait for a leader nobody ever saw.
#[test]
fn in_a_fresh_shard_the_first_replica_asks_at_once_and_is_granted_at_once() {
    let mut first = One::new(0, 3, Ballot::default(), true);
    assert_eq!(first.election.deadline(), Some(at(0)));
    assert_eq!(first.timer(0).len(), 2);
    let mut second = One::new(1, 3, Ballot::default(), true);
    assert!(second.election.deadline() > Some(at(TIMEOUT)));
    assert_eq!(second.hear(0, 0, PreVote { ballot: FIRST }).unwrap(), ["to 0: grants 1.0, after the vote"]);
}

/// It may have acknowledged a heartbeat a moment before it stopped, and no longer knows.
#[test]
fn a_restarted_replica_lets_nothing_through_for_one_timeout() {
    let mut one = One::new(0, 3, FIRST, false);
    assert_eq!(one.timer(TIMEOUT - 1), NONE);
    assert!(!one.election.may_promise(at(TIMEOUT - 1), RIVAL));
    let denied = ["to 2: denies 2.2, promised 1.0, after the vote"];
    assert_eq!(one.hear(TIMEOUT - 1, 2, PreVote { ballot: RIVAL }).unwrap(), denied);
    let late = one.hear(TIMEOUT - 1, 1, HandOver { ballot: ballot(2, 1) });
    assert_eq!(late, Err(Ignored::Forgetful));
    assert!(one.election.may_promise(at(TIMEOUT), RIVAL));
}

/// What a lease rests on: no other ballot passes before the timeout of the last acknowledgement, whatever
/// else happens; the leader's own does.
#[test]
fn who_acknowledged_a_heartbeat_lets_no_rival_through_before_its_timeout() {
    let mut one = One::bound();
    let denied = ["to 2: denies 2.2, promised 1.0, after the vote"];
    assert_eq!(one.hear(TIMEOUT - 1, 2, PreVote { ballot: RIVAL }).unwrap(), denied);
    assert!(!one.election.may_promise(at(TIMEOUT - 1), RIVAL));
    assert!(one.election.may_promise(at(TIMEOUT - 1), ballot(2, 0)), "the leader itself");
    assert!(one.election.may_promise(at(TIMEOUT - 1), FIRST), "promised already");

    let mut one = One::bound();
    assert!(one.election.may_promise(at(TIMEOUT), RIVAL));
    let heartbeat = Heartbeat { ballot: FIRST, sent: at(1) };
    assert_eq!(one.hear(TIMEOUT, 0, heartbeat), Err(Ignored::OldBallot), "promised against");
}

/// The streams have not promised this leader here. If we restarted, nothing on our disk would tell that we
/// once bound ourselves to it.
#[test]
fn a_heartbeat_that_overtakes_its_streams_is_heard_and_not_acknowledged() {
    let mut one = One::new(1, 3, Ballot::default(), true);
    let heartbeat = Heartbeat { ballot: FIRST, sent: at(0) };
    assert_eq!(one.hear(5, 0, heartbeat).unwrap(), NONE);
    assert_eq!(one.election.leader(), Some(FIRST));
    assert!(one.election.deadline() >= Some(at(5 + TIMEOUT)));
    one.election.on_leader_heard(at(6), FIRST);
    assert_eq!(one.hear(7, 0, heartbeat).unwrap(), ["to 0: heard 1.0, after the vote"]);
}

/// Whatever a leader says is a sign of life: a busy stream must not lose its leader to a lost heartbeat.
#[test]
fn a_follower_asks_for_votes_only_when_its_leader_has_been_silent_for_a_timeout() {
    let mut one = One::bound();
    one.election.on_leader_heard(at(TIMEOUT / 2), FIRST);
    let silent = one.election.deadline().unwrap();
    let latest = TIMEOUT / 2 + TIMEOUT + TIMEOUT / ELECTION_JITTER_PART;
    assert!((at(TIMEOUT / 2 + TIMEOUT)..at(latest)).contains(&silent), "{silent:?}");
    assert_eq!(one.timer(TIMEOUT / 2 + TIMEOUT - 1), NONE);
    assert_eq!(one.election.leader(), Some(FIRST));
    assert_eq!(one.timer(latest), ["to 0: pre-vote 2.1", "to 2: pre-vote 2.1"]);
    assert_eq!(one.election.leader(), None);
    one.election.on_leader_heard(at(latest + 1), FIRST);
    let granted = PreVoted { ballot: ballot(2, 1), granted: true, promised: FIRST };
    assert_eq!(one.hear(latest + 2, 2, granted), Err(Ignored::StaleReply), "the leader is back");
}

/// The lease is as old as the question, not as the answer: the answer may have been long under way.
#[test]
fn a_lease_counts_from_when_the_acknowledged_heartbeat_was_sent() {
    let mut one = One::leading();
    assert!(!one.election.holds_lease(at(0)));
    assert_eq!(one.timer(HEARTBEAT).len(), 2);
    let heard = one.hear(3 * HEARTBEAT, 1, Heartbeaten { ballot: FIRST, sent: at(HEARTBEAT) });
    assert_eq!(heard.unwrap(), NONE);
    let until = one.election.lease_until();
    assert_eq!(until, at(HEARTBEAT + TIMEOUT - TIMEOUT / 64));
    assert!(one.election.holds_lease(at(3 * HEARTBEAT)) && !one.election.holds_lease(until));
    let reordered = one.hear(3 * HEARTBEAT, 1, Heartbeaten { ballot: FIRST, sent: at(0) });
    assert_eq!((reordered.unwrap().len(), one.election.lease_until()), (0, until));
    assert!(!one.election.may_promise(at(3 * HEARTBEAT), RIVAL), "we are bound ourselves");
    for sent in [at(HEARTBEAT + 1), Timestamp(u64::MAX), Timestamp(1)] {
        let forged = one.hear(3 * HEARTBEAT, 2, Heartbeaten { ballot: FIRST, sent });
        assert_eq!(forged, Err(Ignored::Malformed), "no heartbeat was sent at {sent:?}");
    }
}

/// Of five, the leader and two more are a majority; so the second newest of four answers counts.
#[test]
fn a_lease_is_as_old_as_the_answer_that_completes_a_majority() {
    let mut one = One::new(0, 5, Ballot::default(), true);
    assert_eq!(one.timer(0).len(), 4);
    assert_eq!(one.election.on_won(at(0), FIRST, &mut one.out), Ok(()));
    one.out.clear();
    for beat in 1..=3 {
        assert_eq!(one.timer(beat * HEARTBEAT).len(), 4);
    }
    let until = |sent: u64| at(sent * HEARTBEAT + TIMEOUT - TIMEOUT / 64);
    for (from, sent, expected) in [(1, 3, Timestamp(0)), (2, 1, until(1)), (3, 2, until(2)), (4, 1, until(2))]
    {
        let heard = Heartbeaten { ballot: FIRST, sent: at(sent * HEARTBEAT) };
        assert_eq!(one.hear(4 * HEARTBEAT, from, heard).unwrap(), NONE);
        assert_eq!(one.election.lease_until(), expected, "after {from}");
    }
}

#[test]
fn a_replica_alone_leads_with_a_lease_that_does_not_end() {
    let mut one = One::new(0, 1, FIRST, false);
    let due = one.election.deadline().unwrap();
    one.election.on_timer(due, &mut one.prng, &mut one.out);
    assert_eq!(one.told(), ["campaign 2.0"]);
    assert_eq!(one.election.on_won(due, ballot(2, 0), &mut one.out), Ok(()));
    assert!(one.election.holds_lease(at(1_000 * TIMEOUT)));
    assert_eq!((one.timer(1_000 * TIMEOUT).len(), one.election.deadline()), (0, None));
}

/// On the minority side clients must hear `Unavailable` and not wait; but one round that was lost is no reason.
#[test]
fn a_leader_is_lost_one_timeout_after_its_lease_and_not_before() {
    let mut one = One::leading();
    assert!(one.hear(1, 1, Heartbeaten { ballot: FIRST, sent: at(0) }).unwrap().is_empty());
    let lost_at = 2 * TIMEOUT - TIMEOUT / 64;
    assert_eq!(one.timer(lost_at - 1).len(), 2, "heartbeats go on");
    assert!(one.election.deadline().unwrap() <= at(lost_at));
    let denied = ["to 2: denies 2.2, promised 1.0, after the vote"];
    assert_eq!(one.hear(lost_at - 1, 2, PreVote { ballot: RIVAL }).unwrap(), denied);
    assert_eq!(one.timer(lost_at), ["lost"]);
    assert_eq!((one.timer(lost_at).len(), one.election.leader()), (0, None));
    let granted = ["to 2: grants 2.2, after the vote"];
    assert_eq!(one.hear(lost_at, 2, PreVote { ballot: RIVAL }).unwrap(), granted);
}

/// A leader that handed over and still believed in its lease would read beside its successor.
#[test]
fn a_hand_over_ends_the_lease_for_good_and_frees_everyone() {
    let mut one = One::leading();
    assert!(one.hear(1, 1, Heartbeaten { ballot: FIRST, sent: at(0) }).unwrap().is_empty());
    assert!(one.election.holds_lease(at(2)));
    assert_eq!(one.election.hand_over(at(2), NodeId(1), &mut one.out), Ok(()));
    assert_eq!(one.told(), ["to 1: release 1.0", "to 2: release 1.0", "to 1: hand-over 1.0"]);
    assert!(!one.election.holds_lease(at(2)));
    let late = one.hear(3, 2, Heartbeaten { ballot: FIRST, sent: at(0) });
    assert_eq!((late, one.election.holds_lease(at(3))), (Err(Ignored::StaleReply), false));
    assert!(one.election.may_promise(at(3), ballot(2, 1)));

    let mut successor = One::bound();
    assert_eq!(successor.hear(2, 0, HandOver { ballot: FIRST }).unwrap(), ["campaign 2.1"]);
    assert_eq!(successor.hear(2, 0, HandOver { ballot: FIRST }), Err(Ignored::OldBallot), "once");

    let mut other = One::bound();
    assert_eq!(other.hear(2, 0, Release { ballot: FIRST }).unwrap(), NONE);
    let late = other.hear(3, 0, Heartbeat { ballot: FIRST, sent: at(1) });
    assert_eq!(late, Err(Ignored::StaleReply), "it must not bind again");
    assert!(other.election.may_promise(at(3), ballot(2, 1)));
}

/// A restarted replica that lacks what nobody keeps for it wins the vote and not the streams: the shard is not
/// to wait a second timeout for it to notice. And once only, or the two would campaign in turns for ever.
#[test]
fn a_candidate_that_cannot_win_gives_way_at_once_to_one_that_can() {
    let mut one = One::new(0, 3, Ballot::default(), true);
    assert_eq!(one.election.give_way(at(0), NodeId(1), &mut one.out), Err(Ignored::StaleReply));
    assert_eq!(one.timer(0).len(), 2);
    let granted = PreVoted { ballot: FIRST, granted: true, promised: Ballot::default() };
    assert_eq!(one.hear(0, 1, granted).unwrap(), ["campaign 1.0"]);
    assert_eq!(one.election.give_way(at(1), NodeId(1), &mut one.out), Ok(()));
    assert_eq!(one.told(), ["to 1: hand-over 1.0"]);
    assert_eq!(one.election.give_way(at(1), NodeId(1), &mut one.out), Err(Ignored::StaleReply));
    assert_eq!(one.timer(TIMEOUT), NONE, "it has its chance");

    let mut other = One::new(1, 3, Ballot::default(), true);
    assert!(other.election.may_promise(at(0), FIRST));
    assert_eq!(other.hear(1, 0, HandOver { ballot: FIRST }).unwrap(), ["campaign 2.1"]);
}

/// The reign before the last gave up its lease; the last did not.
#[test]
fn an_old_release_does_not_free_us_of_a_later_leader() {
    let mut one = One::bound();
    assert!(one.election.may_promise(at(TIMEOUT), RIVAL));
    let heartbeat = Heartbeat { ballot: RIVAL, sent: at(0) };
    assert_eq!(one.hear(TIMEOUT, 2, heartbeat).unwrap().len(), 1);
    assert_eq!(one.hear(TIMEOUT, 0, Release { ballot: FIRST }).unwrap(), NONE);
    assert!(!one.election.may_promise(at(TIMEOUT), ballot(3, 0)));
}

/// The word that asks a successor to campaign may be lost; one that comes when the hand-over is history must not
/// be said.
#[test]
fn a_successor_is_reminded_until_a_later_ballot_is_promised() {
    let mut one = One::leading();
    one.election.remind(NodeId(1), FIRST, &mut one.out);
    assert_eq!(one.told(), NONE, "the lease is not given up");
    assert_eq!(one.election.hand_over(at(0), NodeId(1), &mut one.out), Ok(()));
    one.out.clear();
    one.election.remind(NodeId(1), FIRST, &mut one.out);
    assert_eq!(one.told(), ["to 1: hand-over 1.0"]);
    assert!(one.election.may_promise(at(1), RIVAL));
    one.out.clear();
    one.election.remind(NodeId(1), FIRST, &mut one.out);
    assert_eq!(one.told(), NONE);
}

/// A shard is not handed to the silent; but a young reign has heard nobody, and need not wait for that.
#[test]
fn a_leader_hears_whoever_acknowledged_a_heartbeat_within_a_timeout_or_could_not_yet() {
    let mut one = One::leading();
    let hears = |one: &One, ns, node| one.election.hears(at(ns), NodeId(node));
    assert_eq!([1, 2].map(|node| hears(&one, TIMEOUT - 1, node)), [Some(true); 2]);
    one.timer(HEARTBEAT);
    assert!(
        one.hear(HEARTBEAT + 1, 1, Heartbeaten { ballot: FIRST, sent: at(HEARTBEAT) }).unwrap().is_empty()
    );
    assert_eq!([1, 2].map(|node| hears(&one, TIMEOUT, node)), [Some(true), Some(false)]);
    assert_eq!(hears(&one, TIMEOUT + HEARTBEAT, 1), Some(false));
    assert_eq!(hears(&one, 1, 0), None, "itself");
    assert_eq!(one.election.hand_over(at(2), NodeId(1), &mut one.out), Ok(()));
    assert_eq!(hears(&one, 3, 1), None);
}

/// Its streams lead on. Who missed the release hears them, waits for no end of that reign, and denies its vote to
/// everyone, the old leader included.
#[test]
fn after_a_hand_over_that_came_to_nothing_the_lease_is_released_again_and_anyone_may_campaign() {
    let mut one = One::leading();
    assert_eq!(one.election.hand_over(at(0), NodeId(1), &mut one.out), Ok(()));
    one.out.clear();
    assert_eq!(one.timer(TIMEOUT - 1), NONE);
    let due = TIMEOUT + TIMEOUT / ELECTION_JITTER_PART;
    let asks = [1, 2].map(|to| [format!("to {to}: release 1.0"), format!("to {to}: pre-vote 2.0")]);
    assert_eq!(one.timer(due), asks.concat());

    let mut other = One::bound();
    other.election.on_leader_heard(at(due), FIRST);
    assert_eq!(other.hear(due, 0, Release { ballot: FIRST }).unwrap(), NONE);
    other.election.on_leader_heard(at(due), FIRST);
    let granted = ["to 0: grants 2.0, after the vote"];
    assert_eq!(other.hear(due, 0, PreVote { ballot: ballot(2, 0) }).unwrap(), granted);
}

/// Its promise would count nowhere, and it could not recover what it voted for.
#[test]
fn a_replica_whose_streams_forgot_neither_asks_nor_grants() {
    let mut one = One::new(1, 3, Ballot::default(), true);
    one.election.set_eligible(false);
    assert_eq!(one.timer(9 * TIMEOUT), NONE);
    let denied = ["to 0: denies 1.0, promised 0.0, after the vote"];
    assert_eq!(one.hear(9 * TIMEOUT, 0, PreVote { ballot: FIRST }).unwrap(), denied);
    one.election.set_eligible(true);
    assert_eq!(one.timer(18 * TIMEOUT), ["to 0: pre-vote 1.1", "to 2: pre-vote 1.1"]);
}

/// A ballot of another, or from outside, must not end a reign or bind us.
#[test]
fn strangers_and_impostors_change_nothing() {
    let mut one = One::bound();
    let heartbeat = |ballot| Heartbeat { ballot, sent: at(0) };
    assert_eq!(one.hear(1, 9, heartbeat(ballot(5, 9))), Err(Ignored::UnknownReplica));
    assert_eq!(one.hear(1, 1, heartbeat(ballot(5, 1))), Err(Ignored::UnknownReplica), "ourselves");
    assert_eq!(one.hear(1, 2, heartbeat(FIRST)), Err(Ignored::NotItsBallot));
    assert_eq!(one.hear(1, 2, Release { ballot: FIRST }), Err(Ignored::NotItsBallot));
    assert_eq!(one.hear(1, 2, HandOver { ballot: FIRST }), Err(Ignored::NotItsBallot));
    let granted = PreVoted { ballot: FIRST, granted: true, promised: FIRST };
    assert_eq!(one.hear(1, 2, granted), Err(Ignored::NotItsBallot));
    assert!(!one.election.may_promise(at(1), RIVAL));
    assert_eq!(one.election.leader(), Some(FIRST));
}

/// Two rounds may be asked for at once; but once a rival is promised, the lower of them is not campaigned for.
#[test]
fn a_pre_vote_won_too_late_is_not_used() {
    let mut one = One::new(1, 3, Ballot::default(), true);
    assert_eq!(one.timer(2 * TIMEOUT).len(), 2);
    assert!(one.election.may_promise(at(2 * TIMEOUT), RIVAL));
    let granted = PreVoted { ballot: ballot(1, 1), granted: true, promised: Ballot::default() };
    assert_eq!(one.hear(2 * TIMEOUT, 0, granted), Err(Ignored::StaleReply));
}
