//! A replica that campaigns, leads and is deposed.
#![forbid(unsafe_code)]

use super::*;
use crate::paxos::{Accepted, Entry, Fetch, Ignored, Prepare, Promise, Rejected, Role};

const MINE: Ballot = Ballot { round: 2, node: NodeId(0) };
const OLD: Ballot = Ballot { round: 1, node: NodeId(1) };

fn promise(entries: &[(u64, &str)], chosen_end: u64) -> Promise {
    let entry = |&(slot, text): &(u64, &str)| Entry { slot: Slot(slot), ballot: OLD, batch: batch(text) };
    let end_slot = Slot(entries.last().map_or(0, |(slot, _)| slot + 1));
    let (entries, chosen_end) = (entries.iter().map(entry).collect(), Slot(chosen_end));
    Promise { ballot: MINE, from_slot: Slot(0), end_slot, entries, last: true, floor: Slot(0), chosen_end }
}

fn accepted(slot: u64, through: u64, chosen_end: u64) -> Accepted {
    let (slot, through, chosen_end) = (Slot(slot), Slot(through), Slot(chosen_end));
    Accepted { ballot: MINE, slot, through, chosen_end }
}

fn campaigning(replicas: u16) -> Stream {
    let (mut stream, mut out) = (stream(0, replicas, true, LIMITS), Vec::new());
    stream.campaign(MINE, batch("filler"), &mut out);
    stream.on_vote_persisted(MINE, &mut out);
    stream
}

fn leading() -> Stream {
    let mut stream = campaigning(3);
    assert_eq!(stream.on_promise(NodeId(1), promise(&[], 0), &mut Vec::new()), Ok(()));
    assert_eq!(stream.role(), Role::Leader);
    stream
}

/// A candidate that restarts must not ask twice under one ballot: so the question waits for the disk.
#[test]
fn a_candidate_promises_itself_first_and_asks_after_that_is_durable() {
    let (mut stream, mut out) = (stream(0, 3, true, LIMITS), Vec::new());
    stream.campaign(MINE, batch("filler"), &mut out);
    let asks = [1, 2].map(|to| format!("to {to}: prepare 2.0 from 0, after the vote"));
    assert_eq!(told(&mut out), ["log vote 2.0", &asks[0], &asks[1]]);
    assert_eq!(stream.on_promise(NodeId(1), promise(&[], 0), &mut out), Ok(()));
    assert_eq!((stream.role(), told(&mut out).len()), (Role::Candidate, 0));
    stream.on_vote_persisted(MINE, &mut out);
    assert_eq!(told(&mut out), ["led, next 0"]);
}

/// The tail of the leader before: what was accepted is proposed again, holes are filled, and what
/// someone knows to be chosen needs no more votes.
#[test]
fn the_recovered_tail_is_proposed_again_above_what_is_known_chosen() {
    let (mut stream, mut out) = (campaigning(3), Vec::new());
    let promise = promise(&[(0, "a"), (1, "b"), (3, "d")], 1);
    assert_eq!(stream.on_promise(NodeId(2), promise, &mut out), Ok(()));
    let sends = |slot: u64| [1, 2].map(|to| format!("to {to}: accept {slot}@2.0"));
    let mut expected: Vec<String> = (0..4).map(|slot| format!("log {slot}@2.0")).collect();
    expected.extend((1..4).flat_map(sends));
    expected.push("led, next 4".to_owned());
    assert_eq!(told(&mut out), expected);
    assert_eq!(drain_chosen(&mut stream), [(0, batch("a"))]);
    assert_eq!(stream.accepted(Slot(2)), Some((MINE, &batch("filler"))));
    assert_eq!(stream.in_flight(), 3);
    stream.assert_invariants();
}

/// The pipeline is filled without waiting, its end is an answer, and votes come in any order.
#[test]
fn slots_are_proposed_while_others_are_in_flight_and_delivered_in_order() {
    let (mut stream, mut out) = (leading(), Vec::new());
    for slot in 0..4 {
        assert!(stream.can_propose());
        assert_eq!(stream.propose(batch(&format!("v{slot}")), &mut out), Slot(slot));
    }
    assert!(!stream.can_propose(), "four are in flight");
    persist_all(&mut stream, &out);
    assert_eq!(stream.chosen_end(), Slot(0));
    assert_eq!(stream.on_accepted(NodeId(1), accepted(3, 0, 0)), Ok(()));
    assert_eq!(stream.on_accepted(NodeId(2), accepted(1, 0, 0)), Ok(()));
    assert_eq!(stream.chosen_end(), Slot(0), "1 and 3 are chosen, 0 is not");
    assert_eq!(stream.on_accepted(NodeId(1), accepted(2, 1, 0)), Ok(()));
    assert_eq!(stream.chosen_end(), Slot(4));
    let slots: Vec<u64> = drain_chosen(&mut stream).iter().map(|(slot, _)| *slot).collect();
    assert_eq!(slots, [0, 1, 2, 3]);
    assert_eq!((stream.behind(NodeId(1)), stream.behind(NodeId(2))), (Some(3), Some(4)));
}

/// The leader's disk may be the slowest: two followers are a majority without it, one is not.
#[test]
fn the_leaders_own_vote_counts_when_it_is_durable_and_not_before() {
    let (mut stream, mut out) = (leading(), Vec::new());
    stream.propose(batch("v0"), &mut out);
    stream.propose(batch("v1"), &mut out);
    assert_eq!(stream.on_accepted(NodeId(1), accepted(1, 2, 0)), Ok(()));
    assert_eq!(stream.chosen_end(), Slot(0));
    stream.on_persisted(Slot(0), MINE);
    assert_eq!((stream.chosen_end(), stream.persisted_end()), (Slot(1), Slot(1)));
    assert_eq!(stream.on_accepted(NodeId(2), accepted(1, 2, 1)), Ok(()));
    assert_eq!((stream.chosen_end(), stream.persisted_end()), (Slot(2), Slot(1)));
}

/// `leader-disk` and `memory`: the vote counts at once, and how far our disk is, is known apart.
#[test]
fn where_votes_need_no_disk_chosen_runs_ahead_of_persisted() {
    let (mut stream, mut out) = (stream(0, 3, false, LIMITS), Vec::new());
    stream.campaign(MINE, batch("filler"), &mut out);
    stream.on_vote_persisted(MINE, &mut out);
    assert_eq!(stream.on_promise(NodeId(1), promise(&[], 0), &mut out), Ok(()));
    stream.propose(batch("v0"), &mut out);
    assert_eq!(stream.on_accepted(NodeId(1), accepted(0, 1, 0)), Ok(()));
    assert_eq!((stream.chosen_end(), stream.persisted_end()), (Slot(1), Slot(0)));
    assert_eq!(drain_chosen(&mut stream).len(), 1);
    stream.retain();
    assert_eq!(stream.floor(), Slot(0), "not in our log yet");
}

#[test]
fn a_single_replica_is_its_own_majority_once_its_disk_is() {
    let (mut stream, mut out) = (stream(0, 1, true, LIMITS), Vec::new());
    stream.campaign(MINE, batch("filler"), &mut out);
    assert_eq!(stream.role(), Role::Candidate);
    stream.on_vote_persisted(MINE, &mut out);
    assert_eq!(told(&mut out), ["log vote 2.0", "led, next 0"]);
    stream.propose(batch("v0"), &mut out);
    assert_eq!(stream.chosen_end(), Slot(0));
    stream.on_persisted(Slot(0), MINE);
    assert_eq!(drain_chosen(&mut stream), [(0, batch("v0"))]);
}

/// Resending must mend what was lost and no more.
#[test]
fn only_those_who_have_not_voted_are_sent_a_slot_again() {
    let (mut stream, mut out) = (leading(), Vec::new());
    for _ in 0..4 {
        stream.propose(batch("v"), &mut out);
    }
    assert_eq!(stream.on_accepted(NodeId(1), accepted(2, 1, 0)), Ok(()));
    out.clear();
    stream.resend(&mut out);
    let expected = ["to 2: accept 0@2.0", "to 1: accept 1@2.0", "to 2: accept 1@2.0", "to 2: accept 2@2.0"];
    assert_eq!(told(&mut out), expected, "a page is three slots");
}

/// An idle stream's last slots are not left for the next heartbeat; and silence costs nothing.
#[test]
fn news_is_announced_once() {
    let (mut stream, mut out) = (leading(), Vec::new());
    stream.propose(batch("v0"), &mut out);
    out.clear();
    stream.announce(&mut out);
    assert_eq!(told(&mut out), [""; 0], "the proposal has just said it all");
    stream.on_persisted(Slot(0), MINE);
    stream.announce(&mut out);
    assert_eq!(told(&mut out), [1, 2].map(|to| format!("to {to}: next 1 chosen 0 voted 1 known 0")));
    assert_eq!(stream.on_accepted(NodeId(1), accepted(0, 1, 1)), Ok(()));
    stream.announce(&mut out);
    assert_eq!(told(&mut out), [1, 2].map(|to| format!("to {to}: next 1 chosen 1 voted 1 known 0")));
    stream.announce(&mut out);
    assert_eq!(told(&mut out), [""; 0]);
}

/// A slot held by all, but not known by all to be chosen, may still have to be fetched by one of them
/// under the next leader: it must not be gone by then.
#[test]
fn a_slot_is_kept_until_every_replica_knows_it_is_chosen() {
    let (mut stream, mut out) = (leading(), Vec::new());
    stream.propose(batch("v0"), &mut out);
    stream.on_persisted(Slot(0), MINE);
    assert_eq!(stream.on_accepted(NodeId(1), accepted(0, 1, 1)), Ok(()));
    assert_eq!(stream.on_accepted(NodeId(2), accepted(0, 1, 0)), Ok(()));
    assert_eq!(drain_chosen(&mut stream).len(), 1);
    stream.retain();
    assert_eq!(stream.floor(), Slot(0));
    assert_eq!(stream.on_accepted(NodeId(2), accepted(0, 1, 1)), Ok(()));
    stream.retain();
    assert_eq!(stream.floor(), Slot(0), "our own log must know it first: after a restart we ask the others");
    stream.on_chosen_persisted(Slot(1));
    stream.retain();
    assert_eq!(stream.floor(), Slot(1));
    stream.assert_invariants();
}

/// Otherwise one follower that is down would stop the stream when memory is full.
#[test]
fn a_follower_that_lags_cannot_hold_slots_for_ever() {
    let (mut stream, mut out) = (leading(), Vec::new());
    for slot in 0..20 {
        assert!(stream.can_propose());
        stream.propose(batch("v"), &mut out);
        stream.on_persisted(Slot(slot), MINE);
        assert_eq!(stream.on_accepted(NodeId(1), accepted(slot, slot + 1, slot)), Ok(()));
        assert_eq!(drain_chosen(&mut stream).len(), 1);
        stream.assert_invariants();
    }
    assert_eq!(stream.floor(), Slot(12), "the ring has eight places");
    out.clear();
    let fetch = Fetch { ballot: MINE, from_slot: Slot(0), end_slot: Slot(3) };
    assert_eq!(stream.on_fetch(NodeId(2), fetch, &mut out), Ok(()));
    assert_eq!(told(&mut out), ["to 2: fetched [] chosen 20"]);
}

#[test]
fn a_higher_ballot_deposes_however_it_is_heard_of() {
    let new = ballot(3, 1);
    let mut out = Vec::new();

    let mut stream = leading();
    assert_eq!(stream.on_rejected(NodeId(2), Rejected { promised: new }, &mut out), Ok(()));
    assert_eq!(told(&mut out), ["deposed by 3.1"]);
    assert_eq!((stream.role(), stream.can_propose()), (Role::Follower, false));

    let mut stream = leading();
    let prepare = Prepare { ballot: new, from_slot: Slot(0) };
    assert_eq!(stream.on_prepare(NodeId(1), prepare, &mut out), Ok(()));
    let promise = "to 1: promise 3.1 0..0 [] last, after the vote";
    assert_eq!(told(&mut out), ["deposed by 3.1", "log vote 3.1", promise]);
    assert_eq!(stream.on_accepted(NodeId(1), accepted(0, 0, 0)), Err(Ignored::StaleReply));
    stream.assert_invariants();
}

/// Votes for slots that do not exist would be counted when they do.
#[test]
fn votes_for_what_was_not_proposed_are_malformed() {
    let mut stream = leading();
    stream.propose(batch("v0"), &mut Vec::new());
    assert_eq!(stream.on_accepted(NodeId(1), accepted(1, 0, 0)), Err(Ignored::Malformed));
    assert_eq!(stream.on_accepted(NodeId(1), accepted(0, 2, 0)), Err(Ignored::Malformed));
    assert_eq!(stream.on_accepted(NodeId(1), accepted(0, 0, 1)), Err(Ignored::Malformed));
}

/// Lost questions and lost answers both: only those who have not told all are asked, for the rest.
#[test]
fn a_candidate_asks_again_for_what_it_has_not_heard() {
    let (mut stream, mut out) = (campaigning(5), Vec::new());
    assert_eq!(stream.on_promise(NodeId(1), promise(&[(0, "a")], 0), &mut out), Ok(()));
    let part = Promise { last: false, ..promise(&[(0, "a"), (2, "c")], 0) };
    assert_eq!(stream.on_promise(NodeId(3), part, &mut out), Ok(()));
    stream.resend(&mut out);
    let ask = |to: u16, from: u64| format!("to {to}: prepare 2.0 from {from}, after the vote");
    assert_eq!(told(&mut out), [ask(2, 0), ask(3, 3), ask(4, 0)]);
    let rest = Promise { from_slot: Slot(3), end_slot: Slot(3), ..promise(&[], 0) };
    assert_eq!(stream.on_promise(NodeId(3), rest, &mut out), Ok(()));
    assert_eq!(stream.role(), Role::Leader);
    assert_eq!(stream.next_slot(), Slot(3));
}

/// Its answer would carry slots of one ballot under the name of another: two values under one ballot.
#[test]
fn a_fetch_from_an_earlier_reign_of_ours_is_not_answered() {
    let (mut stream, mut out) = (leading(), Vec::new());
    stream.propose(batch("v0"), &mut out);
    out.clear();
    let fetch = Fetch { ballot: ballot(1, 0), from_slot: Slot(0), end_slot: Slot(1) };
    assert_eq!(stream.on_fetch(NodeId(1), fetch, &mut out), Err(Ignored::StaleReply));
    assert_eq!(told(&mut out), [""; 0]);
}

/// A vote is for a slot under a ballot. Under the next ballot of the same leader it is asked for anew.
#[test]
fn votes_of_an_earlier_reign_of_ours_do_not_count() {
    let (mut stream, mut out) = (campaigning(5), Vec::new());
    for peer in [1, 2] {
        assert_eq!(stream.on_promise(NodeId(peer), promise(&[], 0), &mut out), Ok(()));
    }
    stream.propose(batch("v0"), &mut out);
    persist_all(&mut stream, &out);
    assert_eq!(stream.on_accepted(NodeId(1), accepted(0, 0, 0)), Ok(()));
    assert_eq!(stream.on_rejected(NodeId(2), Rejected { promised: ballot(3, 3) }, &mut out), Ok(()));

    let again = ballot(4, 0);
    out.clear();
    stream.campaign(again, batch("filler"), &mut out);
    stream.on_vote_persisted(again, &mut out);
    for peer in [2, 3] {
        let promise = Promise { ballot: again, ..promise(&[], 0) };
        assert_eq!(stream.on_promise(NodeId(peer), promise, &mut out), Ok(()));
    }
    persist_all(&mut stream, &out);
    let vote = Accepted { ballot: again, ..accepted(0, 0, 0) };
    assert_eq!(stream.on_accepted(NodeId(2), vote), Ok(()));
    assert_eq!(stream.on_accepted(NodeId(1), accepted(0, 1, 0)), Err(Ignored::StaleReply));
    assert_eq!(stream.chosen_end(), Slot(0), "ours and one more, of five");
    assert_eq!(stream.on_accepted(NodeId(1), vote), Ok(()));
    assert_eq!(stream.chosen_end(), Slot(1));
}

/// The host must hear that memory is full before it makes a batch, and that it is not, once it has taken some.
#[test]
fn a_full_memory_is_an_answer_and_not_a_growth() {
    let limits = Limits { retained_bytes: 6, ..LIMITS };
    let (mut stream, mut out) = (stream(0, 1, true, limits), Vec::new());
    stream.campaign(MINE, batch("filler"), &mut out);
    stream.on_vote_persisted(MINE, &mut out);
    for slot in 0..3 {
        assert!(stream.can_propose());
        assert_eq!(stream.propose(batch("v2"), &mut out), Slot(slot));
    }
    assert!(!stream.can_propose());
    persist_all(&mut stream, &out);
    assert!(!stream.can_propose(), "chosen, but not delivered");
    assert_eq!(drain_chosen(&mut stream).len(), 3);
    assert!(stream.can_propose());
    stream.propose(batch("v2"), &mut out);
    assert_eq!((stream.floor(), stream.retained_bytes()), (Slot(1), 6));
}
