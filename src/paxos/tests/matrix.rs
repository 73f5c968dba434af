//! A follower under every message, past, present and future: ballots down, slots across.
#![forbid(unsafe_code)]

use super::*;
use crate::paxos::{Accept, Chosen, Fetch, Fetched, Ignored, Prepare, Rejected};

/// A message's ballot and slot; then the outcome and the effects, in words.
type Case<'a> = (Ballot, u64, Result<(), Ignored>, &'a [&'a str]);

const OLD: Ballot = ballot_of(1, 2);
const NOW: Ballot = ballot_of(2, 0);
const NEW: Ballot = ballot_of(3, 2);

const fn ballot_of(round: u32, node: u16) -> Ballot {
    Ballot { round, node: NodeId(node) }
}

fn accept(ballot: Ballot, slot: u64, chosen_end: u64) -> Accept {
    let (slot, chosen_end) = (Slot(slot), Slot(chosen_end));
    Accept { ballot, slot, batch: batch(&format!("v{}", slot.0)), chosen_end, voted_end: chosen_end }
}

fn chosen(ballot: Ballot, next_slot: u64, chosen_end: u64) -> Chosen {
    let (next_slot, chosen_end) = (Slot(next_slot), Slot(chosen_end));
    Chosen { ballot, next_slot, chosen_end, voted_end: chosen_end, known_end: Slot(0) }
}

/// Replica 1 of three, following 2.0: slots 0 and 1 dropped, 2 and 3 chosen, 4 and 5 accepted, 6 not
/// there, 7 accepted. The ring has eight places.
fn follower() -> Stream {
    let mut stream = stream(1, 3, true, LIMITS);
    let mut out = Vec::new();
    for slot in [0, 1, 2, 3, 4, 5, 7] {
        assert_eq!(stream.on_accept(NOW.node, accept(NOW, slot, 4.min(slot)), &mut out), Ok(()));
    }
    persist_all(&mut stream, &out);
    stream.on_vote_persisted(NOW, &mut out);
    let news = Chosen { known_end: Slot(2), ..chosen(NOW, 8, 4) };
    assert_eq!(stream.on_chosen(NOW.node, news, &mut out), Ok(()));
    assert_eq!(drain_chosen(&mut stream).len(), 4);
    stream.retain();
    assert_eq!((stream.floor(), stream.chosen_end()), (Slot(2), Slot(4)));
    stream.assert_invariants();
    stream
}

/// The rows are what an acceptor may and may not do: a mistake in any cell is a lost or doubled slot.
#[test]
fn an_accept_is_answered_by_its_ballot_and_its_slot() {
    use Ignored::{BelowFloor, BeyondWindow, Duplicate, OldBallot};
    let rejected = "to 2: rejected by 2.0, after the vote";
    let vote = "log vote 3.2";
    #[rustfmt::skip]
    let cases: &[Case] = &[
        (OLD,  0, Err(OldBallot),    &[rejected]),
        (OLD,  3, Err(OldBallot),    &[rejected]),
        (OLD,  5, Err(OldBallot),    &[rejected]),
        (OLD,  6, Err(OldBallot),    &[rejected]),
        (OLD, 12, Err(OldBallot),    &[rejected]),
        (NOW,  0, Err(BelowFloor),   &["to 0: accepted 0 through 6, chosen 4, after 7"]),
        (NOW,  3, Err(Duplicate),    &["to 0: accepted 3 through 6, chosen 4, after 7"]),
        (NOW,  5, Err(Duplicate),    &["to 0: accepted 5 through 6, chosen 4, after 7"]),
        (NOW,  6, Ok(()),            &["log 6@2.0", "to 0: accepted 6 through 8, chosen 4, after 6"]),
        (NOW,  9, Ok(()),            &["log 9@2.0", "to 0: accepted 9 through 6, chosen 4, after 9"]),
        (NOW, 12, Err(BeyondWindow), &[]),
        (NOW, u64::MAX, Err(BeyondWindow), &[]),
        (NEW,  0, Err(BelowFloor),   &[vote, "to 2: accepted 0 through 4, chosen 4, after the vote"]),
        (NEW,  3, Err(Duplicate),    &[vote, "to 2: accepted 3 through 4, chosen 4, after the vote"]),
        (NEW,  4, Ok(()),            &[vote, "log 4@3.2", "to 2: accepted 4 through 5, chosen 4, after 4"]),
        (NEW,  5, Ok(()),            &[vote, "log 5@3.2", "to 2: accepted 5 through 4, chosen 4, after 5"]),
        (NEW,  6, Ok(()),            &[vote, "log 6@3.2", "to 2: accepted 6 through 4, chosen 4, after 6"]),
        (NEW, 12, Err(BeyondWindow), &[vote]),
    ];
    for &(ballot, slot, outcome, effects) in cases {
        let (mut stream, mut out) = (follower(), Vec::new());
        let got = stream.on_accept(ballot.node, accept(ballot, slot, 0), &mut out);
        assert_eq!(
            (got, told(&mut out)),
            (outcome, effects.iter().map(|&e| e.to_owned()).collect()),
            "{slot}@{ballot:?}"
        );
        stream.assert_invariants();
    }
}

/// Long promises come in parts of three slots; what was dropped is admitted, never passed over.
#[test]
fn a_prepare_is_answered_by_its_ballot_and_its_first_slot() {
    let rejected = "to 2: rejected by 2.0, after the vote";
    #[rustfmt::skip]
    let cases: &[Case] = &[
        (OLD, 4, Err(Ignored::OldBallot), &[rejected]),
        (NOW, 7, Ok(()), &["to 0: promise 2.0 7..8 [7] last, after the vote"]),
        (NEW, 0, Ok(()), &["log vote 3.2", "to 2: promise 3.2 2..5 [2, 3, 4], after the vote", "to 2: promise 3.2 5..8 [5, 7] last, after the vote"]),
        (NEW, 3, Ok(()), &["log vote 3.2", "to 2: promise 3.2 3..6 [3, 4, 5], after the vote", "to 2: promise 3.2 6..8 [7] last, after the vote"]),
        (NEW, 9, Ok(()), &["log vote 3.2", "to 2: promise 3.2 9..9 [] last, after the vote"]),
    ];
    for &(ballot, from_slot, outcome, effects) in cases {
        let (mut stream, mut out) = (follower(), Vec::new());
        let prepare = Prepare { ballot, from_slot: Slot(from_slot) };
        let got = stream.on_prepare(ballot.node, prepare, &mut out);
        assert_eq!(
            (got, told(&mut out)),
            (outcome, effects.iter().map(|&e| e.to_owned()).collect()),
            "{prepare:?}"
        );
        stream.assert_invariants();
    }
}

/// A promise must bind against accepts too, or the candidate recovers less than was accepted.
#[test]
fn after_a_promise_the_leader_before_is_rejected_in_all_it_says() {
    let (mut stream, mut out) = (follower(), Vec::new());
    assert_eq!(stream.on_prepare(NEW.node, Prepare { ballot: NEW, from_slot: Slot(4) }, &mut out), Ok(()));
    out.clear();
    let old = Err(Ignored::OldBallot);
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 6, 4), &mut out), old);
    assert_eq!(stream.on_chosen(NOW.node, chosen(NOW, 8, 8), &mut out), old);
    let entries = vec![(Slot(6), batch("v6"))];
    let (floor, chosen_end, voted_end) = (Slot(0), Slot(8), Slot(8));
    let fetched = Fetched { ballot: NOW, entries, floor, chosen_end, voted_end };
    assert_eq!(stream.on_fetched(NOW.node, fetched, &mut out), old);
    assert_eq!(told(&mut out), ["to 0: rejected by 3.2, after the vote"; 3]);
    assert_eq!(stream.chosen_end(), Slot(4));
}

/// The slot is missing although something is held there: it was accepted from a leader that is gone,
/// and what the new one calls chosen may be another value.
#[test]
fn a_value_held_from_an_older_ballot_is_fetched_before_it_counts_as_chosen() {
    let (mut stream, mut out) = (follower(), Vec::new());
    assert_eq!(stream.on_chosen(NEW.node, chosen(NEW, 6, 6), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["log vote 3.2", "to 2: fetch 4..6"]);
    assert_eq!(stream.chosen_end(), Slot(4));

    let entries = vec![(Slot(4), batch("other")), (Slot(5), batch("v5"))];
    let (floor, chosen_end, voted_end) = (Slot(0), Slot(6), Slot(6));
    let fetched = Fetched { ballot: NEW, entries, floor, chosen_end, voted_end };
    assert_eq!(stream.on_fetched(NEW.node, fetched, &mut out), Ok(()));
    assert_eq!(told(&mut out), ["log 4@3.2", "log 5@3.2", "to 2: accepted 5 through 6, chosen 6, after 5"]);
    assert_eq!(drain_chosen(&mut stream), [(4, batch("other")), (5, batch("v5"))]);
}

/// One fetch at a time, and again only when a timer says that it is overdue: each brings a page.
#[test]
fn a_gap_is_asked_for_once_and_again_when_overdue() {
    let (mut stream, mut out) = (follower(), Vec::new());
    assert_eq!(stream.on_chosen(NOW.node, chosen(NOW, 8, 8), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["to 0: fetch 6..7"]);
    assert_eq!(stream.chosen_end(), Slot(6));
    assert_eq!(stream.on_chosen(NOW.node, chosen(NOW, 8, 8), &mut out), Ok(()));
    assert_eq!(told(&mut out), [""; 0]);
    stream.resend(&mut out);
    assert_eq!(told(&mut out), ["to 0: fetch 6..7"]);
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 6, 8), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["log 6@2.0", "to 0: accepted 6 through 8, chosen 8, after 6"]);
    assert_eq!(stream.chosen_end(), Slot(8));
    stream.resend(&mut out);
    assert_eq!(told(&mut out), [""; 0]);
}

/// A gap nobody calls chosen is the leader's to fill, until a timer says that it should be there.
#[test]
fn a_slot_not_chosen_yet_is_not_missed_before_its_time() {
    let (mut stream, mut out) = (follower(), Vec::new());
    assert_eq!(stream.on_chosen(NOW.node, chosen(NOW, 8, 4), &mut out), Ok(()));
    assert_eq!(told(&mut out), [""; 0]);
    stream.resend(&mut out);
    assert_eq!(told(&mut out), ["to 0: fetch 6..7"]);
}

/// With three replicas the follower's vote and the leader's are a majority; but a vote that is not on
/// disk is no vote, on either side.
#[test]
fn a_follower_counts_itself_and_the_leader_once_both_are_durable() {
    let (mut stream, mut out) = (stream(1, 3, true, LIMITS), Vec::new());
    let at = |slot, voted_end| Accept { voted_end: Slot(voted_end), ..accept(NOW, slot, 0) };
    assert_eq!(stream.on_accept(NOW.node, at(0, 0), &mut out), Ok(()));
    assert_eq!(stream.on_accept(NOW.node, at(1, 1), &mut out), Ok(()));
    assert_eq!(stream.chosen_end(), Slot(0), "our own votes are on their way to disk");
    stream.on_persisted(Slot(0), NOW);
    stream.on_persisted(Slot(1), NOW);
    assert_eq!(stream.chosen_end(), Slot(1), "the leader's vote for slot 1 is not");
    let news = Chosen { voted_end: Slot(2), ..chosen(NOW, 2, 0) };
    assert_eq!(stream.on_chosen(NOW.node, news, &mut out), Ok(()));
    assert_eq!(stream.chosen_end(), Slot(2));
}

/// The record that became durable is that of another ballot, perhaps of another value.
#[test]
fn a_record_that_was_overtaken_is_no_vote_for_what_overtook_it() {
    let (mut stream, mut out) = (stream(1, 3, true, LIMITS), Vec::new());
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 0, 0), &mut out), Ok(()));
    let newer = Accept { batch: batch("other"), voted_end: Slot(1), ..accept(NEW, 0, 0) };
    assert_eq!(stream.on_accept(NEW.node, newer, &mut out), Ok(()));
    stream.on_persisted(Slot(0), NOW);
    assert_eq!((stream.chosen_end(), stream.persisted_end()), (Slot(0), Slot(0)));
    stream.on_persisted(Slot(0), NEW);
    assert_eq!((stream.chosen_end(), stream.persisted_end()), (Slot(1), Slot(1)));
}

/// With five, two votes are not enough, however durable.
#[test]
fn among_five_a_follower_waits_to_be_told() {
    let (mut stream, mut out) = (stream(1, 5, true, LIMITS), Vec::new());
    let accept = Accept { voted_end: Slot(1), ..accept(NOW, 0, 0) };
    assert_eq!(stream.on_accept(NOW.node, accept, &mut out), Ok(()));
    stream.on_persisted(Slot(0), NOW);
    assert_eq!(stream.chosen_end(), Slot(0));
    assert_eq!(stream.on_chosen(NOW.node, chosen(NOW, 1, 1), &mut out), Ok(()));
    assert_eq!(stream.chosen_end(), Slot(1));
}

/// The repeat of an accept is answered with all we hold, so it must wait for all we hold: the slot
/// that is repeated may be durable when a later one, below `through`, is not.
#[test]
fn a_cumulative_reply_waits_for_the_last_acceptance_it_covers() {
    let (mut stream, mut out) = (stream(1, 3, true, LIMITS), Vec::new());
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 0, 0), &mut out), Ok(()));
    stream.on_persisted(Slot(0), NOW);
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 1, 0), &mut out), Ok(()));
    out.clear();
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 0, 0), &mut out), Err(Ignored::Duplicate));
    assert_eq!(told(&mut out), ["to 0: accepted 0 through 2, chosen 0, after 1"]);
}

/// A full memory must not lock out the one slot that would let it empty.
#[test]
fn the_first_missing_slot_is_taken_however_full_we_are() {
    let limits = Limits { retained_bytes: 4, ..LIMITS };
    let (mut stream, mut out) = (stream(1, 3, true, limits), Vec::new());
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 1, 0), &mut out), Ok(()));
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 2, 0), &mut out), Ok(()));
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 3, 0), &mut out), Err(Ignored::BeyondWindow));
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 0, 0), &mut out), Ok(()));
    assert_eq!(stream.retained_bytes(), 6);
    stream.assert_invariants();
}

/// Whoever is not a replica, or speaks for another's ballot, is not listened to at all.
#[test]
fn strangers_and_impostors_change_nothing() {
    let (mut stream, mut out) = (follower(), Vec::new());
    let stranger = NodeId(9);
    let from_stranger = Accept { ballot: ballot(9, 9), ..accept(NEW, 6, 8) };
    assert_eq!(stream.on_accept(stranger, from_stranger, &mut out), Err(Ignored::UnknownReplica));
    assert_eq!(stream.on_accept(NodeId(0), accept(NEW, 6, 8), &mut out), Err(Ignored::NotItsBallot));
    assert_eq!(stream.on_chosen(NodeId(1), chosen(NEW, 8, 8), &mut out), Err(Ignored::UnknownReplica));
    let rejected = Rejected { promised: NEW };
    assert_eq!(stream.on_rejected(NodeId(2), rejected, &mut out), Err(Ignored::StaleReply));
    let fetch = Fetch { ballot: NOW, from_slot: Slot(4), end_slot: Slot(6) };
    assert_eq!(stream.on_fetch(NodeId(2), fetch, &mut out), Err(Ignored::StaleReply));
    assert_eq!(told(&mut out), [""; 0]);
    assert_eq!((stream.promised(), stream.chosen_end()), (NOW, Slot(4)));
}

/// What the leader no longer has cannot be fetched; the host is told to get a checkpoint.
#[test]
fn slots_the_leader_has_dropped_are_reported_not_awaited() {
    let (mut stream, mut out) = (follower(), Vec::new());
    assert_eq!(stream.on_chosen(NOW.node, chosen(NOW, 90, 90), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["to 0: fetch 6..7"]);
    let (floor, chosen_end, voted_end) = (Slot(80), Slot(90), Slot(90));
    let fetched = Fetched { ballot: NOW, entries: Vec::new(), floor, chosen_end, voted_end };
    assert_eq!(stream.on_fetched(NOW.node, fetched, &mut out), Err(Ignored::Truncated));
    assert_eq!(told(&mut out), ["behind 80 at 0"]);
}
