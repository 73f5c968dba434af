//! A replica that restarts: what it still knows, what it says before it votes again, and what stands in for slots
//! that nobody keeps.
#![forbid(unsafe_code)]

use super::*;
use crate::paxos::{
    Accept, Accepted, Chosen, Entry, Fetch, Fetched, Ignored, Prepare, Promise, Rejoin, Rejoined, Role,
};

const NOW: Ballot = Ballot { round: 2, node: NodeId(0) };
const NEW: Ballot = Ballot { round: 3, node: NodeId(2) };
const NONCE: u64 = 7;

fn entry(slot: u64, ballot: Ballot) -> Entry {
    Entry { slot: Slot(slot), ballot, batch: batch(&format!("v{slot}")) }
}

/// Replica `me` of three with a checkpoint through slot 1.
fn restored(me: u16, disk: bool, promised: Ballot, accepted: Vec<Entry>, forgot: Forgot) -> Stream {
    let restored = Restored { promised, floor: Slot(2), accepted, chosen_end: Slot(2), forgot, nonce: NONCE };
    let stream = Stream::restored(config(me, 3, disk, LIMITS), restored);
    stream.assert_invariants();
    stream
}

fn accept(ballot: Ballot, slot: u64) -> Accept {
    let (slot, batch) = (Slot(slot), batch(&format!("v{slot}")));
    Accept { ballot, slot, batch, chosen_end: Slot(0), voted_end: Slot(0) }
}

fn chosen(ballot: Ballot, next_slot: u64, chosen_end: u64) -> Chosen {
    let (next_slot, chosen_end) = (Slot(next_slot), Slot(chosen_end));
    Chosen { ballot, next_slot, chosen_end, voted_end: chosen_end, known_end: Slot(0) }
}

fn fetched(ballot: Ballot, slots: std::ops::Range<u64>, floor: u64) -> Fetched {
    let entries = slots.map(|slot| (Slot(slot), batch(&format!("v{slot}")))).collect();
    Fetched { ballot, entries, floor: Slot(floor), chosen_end: Slot(0), voted_end: Slot(0) }
}

fn rejoined(nonce: u64, promised: Ballot, leading: Option<(Ballot, u64)>) -> Rejoined {
    Rejoined { nonce, promised, leading: leading.map(|(ballot, next)| (ballot, Slot(next))) }
}

/// The leader of three under `NOW`: slots 0 to 2 proposed and on its own disk.
fn leading() -> Stream {
    let (mut stream, mut out) = (stream(0, 3, true, LIMITS), Vec::new());
    stream.campaign(NOW, batch("filler"), &mut out);
    stream.on_vote_persisted(NOW, &mut out);
    let (from_slot, floor) = (Slot(0), Slot(0));
    let promise = Promise {
        ballot: NOW,
        from_slot,
        end_slot: from_slot,
        entries: Vec::new(),
        last: true,
        floor,
        chosen_end: floor,
    };
    assert_eq!(stream.on_promise(NodeId(1), promise, &mut out), Ok(()));
    for slot in 0..3 {
        stream.propose(batch(&format!("v{slot}")), &mut out);
        stream.on_persisted(Slot(slot), NOW);
    }
    stream
}

fn accepted_by_follower(slot: u64, through: u64, chosen_end: u64) -> Accepted {
    let (slot, through, chosen_end) = (Slot(slot), Slot(through), Slot(chosen_end));
    Accepted { ballot: NOW, slot, through, chosen_end }
}

/// Phase 1 must report from the disk what was told before the restart: it may be what was chosen.
#[test]
fn what_the_log_held_is_promised_to_a_candidate() {
    let log = vec![entry(0, NOW), entry(2, NOW), entry(3, NOW), entry(3, ballot(1, 1)), entry(5, NOW)];
    let (mut stream, mut out) = (restored(1, true, NOW, log, Forgot::Nothing), Vec::new());
    assert_eq!((stream.floor(), stream.chosen_end(), stream.persisted_end()), (Slot(2), Slot(2), Slot(4)));
    assert_eq!(stream.accepted(Slot(3)), Some((NOW, &batch("v3"))), "the highest ballot counts");
    assert_eq!((stream.leader(), stream.is_forgetful()), (NOW, false));
    assert_eq!(stream.on_prepare(NEW.node, Prepare { ballot: NEW, from_slot: Slot(0) }, &mut out), Ok(()));
    assert_eq!(told(&mut out), ["log vote 3.2", "to 2: promise 3.2 2..6 [2, 3, 5] last, after the vote"]);
}

/// The same ballot again would be two attempts under one name.
#[test]
fn a_restarted_replica_campaigns_from_its_checkpoint_above_its_own_promise() {
    let (mut stream, mut out) = (restored(0, true, NOW, vec![entry(2, NOW)], Forgot::Nothing), Vec::new());
    let again = ballot(3, 0);
    stream.campaign(again, batch("filler"), &mut out);
    let asks = [1, 2].map(|to| format!("to {to}: prepare 3.0 from 2, after the vote"));
    assert_eq!(told(&mut out), ["log vote 3.0", &asks[0], &asks[1]]);
    stream.on_vote_persisted(again, &mut out);
    let end = Slot(2);
    let promise = Promise {
        ballot: again,
        from_slot: end,
        end_slot: end,
        entries: Vec::new(),
        last: true,
        floor: end,
        chosen_end: end,
    };
    assert_eq!(stream.on_promise(NodeId(2), promise, &mut out), Ok(()));
    assert_eq!((stream.role(), stream.next_slot()), (Role::Leader, Slot(3)));
    assert_eq!(stream.accepted(Slot(2)), Some((again, &batch("v2"))));
    stream.assert_invariants();
}

/// A checkpoint may lie further back than memory did: the tail of the log is then longer than the ring. What was
/// accepted must be promised all the same.
#[test]
fn a_tail_longer_than_the_ring_is_held_all_of_it() {
    let log: Vec<Entry> = (2..13).map(|slot| entry(slot, NOW)).collect();
    let mut stream = restored(1, true, NOW, log, Forgot::Nothing);
    const { assert!(LIMITS.retained_slots < 11) };
    assert!((2..13).all(|slot| stream.accepted(Slot(slot)).is_some()));
    assert_eq!(stream.on_chosen(NOW.node, chosen(NOW, 13, 13), &mut Vec::new()), Ok(()));
    assert_eq!(drain_chosen(&mut stream).len(), 11);
    stream.assert_invariants();
}

/// Rule "recover-first": its promise would hide what its forgotten votes chose.
#[test]
fn one_that_forgot_acceptances_promises_and_accepts_nothing_before_it_has_a_leaders_whole_log() {
    let (mut stream, mut out) = (restored(1, false, NOW, Vec::new(), Forgot::Acceptances), Vec::new());
    assert!(stream.is_forgetful() && !stream.can_campaign());
    stream.resend(&mut out);
    assert_eq!(told(&mut out), ["to 0: rejoin 7", "to 2: rejoin 7"]);
    let prepare = Prepare { ballot: NEW, from_slot: Slot(2) };
    assert_eq!(stream.on_prepare(NEW.node, prepare, &mut out), Err(Ignored::Forgetful));
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 2), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["to 0: rejoin 7", "to 2: rejoin 7", "log 2@2.0"], "taken in, and not told");
    stream.on_persisted(Slot(2), NOW);
    let voted = Chosen { voted_end: Slot(3), ..chosen(NOW, 3, 2) };
    assert_eq!(stream.on_chosen(NOW.node, voted, &mut out), Ok(()));
    assert_eq!(stream.chosen_end(), Slot(2), "with the leader's vote alone");

    assert_eq!(stream.on_rejoined(NodeId(0), rejoined(NONCE, NOW, Some((NOW, 5))), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["to 0: fetch 3..5"]);
    stream.announce(&mut out);
    assert_eq!((told(&mut out).len(), stream.is_forgetful()), (0, true), "3 and 4 are missing");
    assert_eq!(stream.on_fetched(NOW.node, fetched(NOW, 3..5, 0), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["log 3@2.0", "log 4@2.0"]);
    stream.announce(&mut out);
    assert_eq!(told(&mut out), ["to 0: accepted 4 through 5, chosen 3, after 4"]);
    assert!(!stream.is_forgetful());
    assert_eq!(stream.on_prepare(NEW.node, prepare, &mut out), Ok(()));
}

/// What was accepted after that answer and then forgotten would be missing from "the whole".
#[test]
fn an_answer_to_an_earlier_restart_does_not_count() {
    let (mut stream, mut out) = (restored(1, false, NOW, Vec::new(), Forgot::Acceptances), Vec::new());
    let stale = rejoined(NONCE - 1, NOW, Some((NOW, 2)));
    assert_eq!(stream.on_rejoined(NodeId(0), stale, &mut out), Err(Ignored::StaleReply));
    stream.announce(&mut out);
    assert!(stream.is_forgetful());
}

/// A leader below our promise may lack what we accepted from the one above it.
#[test]
fn the_log_of_a_leader_below_our_promise_makes_nobody_whole() {
    let (mut stream, mut out) = (restored(1, false, NEW, Vec::new(), Forgot::Acceptances), Vec::new());
    let low = rejoined(NONCE, NOW, Some((NOW, 2)));
    assert_eq!(stream.on_rejoined(NodeId(0), low, &mut out), Err(Ignored::OldBallot));
    assert_eq!(told(&mut out), ["to 0: rejected by 3.2, after the vote"]);
    stream.announce(&mut out);
    assert!(stream.is_forgetful());
}

/// The end that one leader told says nothing of another's log.
#[test]
fn when_the_leader_changes_the_question_is_asked_again() {
    let (mut stream, mut out) = (restored(1, false, NOW, Vec::new(), Forgot::Acceptances), Vec::new());
    assert_eq!(stream.on_rejoined(NodeId(0), rejoined(NONCE, NOW, Some((NOW, 3))), &mut out), Ok(()));
    out.clear();
    assert_eq!(stream.on_accept(NEW.node, accept(NEW, 2), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["log vote 3.2", "to 0: rejoin 7", "to 2: rejoin 7", "log 2@3.2"]);
    stream.on_vote_persisted(NEW, &mut out);
    stream.announce(&mut out);
    assert!(stream.is_forgetful(), "through 3 under another");
    assert_eq!(stream.on_rejoined(NodeId(2), rejoined(NONCE, NEW, Some((NEW, 3))), &mut out), Ok(()));
    stream.announce(&mut out);
    assert!(!stream.is_forgetful());
}

/// A promise it made may have made a leader; any of the others may be that leader.
#[test]
fn one_that_forgot_its_promises_asks_everyone_and_takes_the_highest() {
    let (mut stream, mut out) = (restored(1, true, Ballot::default(), Vec::new(), Forgot::Votes), Vec::new());
    assert_eq!(stream.on_rejoin(NodeId(0), Rejoin { nonce: 1 }, &mut out), Err(Ignored::Forgetful));
    assert_eq!(stream.on_rejoined(NodeId(0), rejoined(NONCE, NOW, Some((NOW, 2))), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["log vote 2.0", "to 2: rejoin 7"]);
    stream.on_vote_persisted(NOW, &mut out);
    stream.resend(&mut out);
    assert_eq!(told(&mut out), ["to 2: rejoin 7"], "replica 2 has not answered");
    assert!(stream.is_forgetful());
    assert_eq!(stream.on_rejoined(NodeId(2), rejoined(NONCE, NEW, None), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["log vote 3.2"]);
    stream.on_vote_persisted(NEW, &mut out);
    assert_eq!((stream.promised(), stream.is_forgetful()), (NEW, true), "a leader's log is still to come");
    let old = Err(Ignored::OldBallot);
    assert_eq!(stream.on_rejoined(NodeId(0), rejoined(NONCE, NOW, Some((NOW, 2))), &mut out), old);
    assert_eq!(stream.on_rejoined(NodeId(2), rejoined(NONCE, NEW, Some((NEW, 2))), &mut out), Ok(()));
    stream.announce(&mut out);
    assert!(!stream.is_forgetful());
}

/// From then on its next restart may be one that forgot nothing: so nothing may still be on its way to disk.
#[test]
fn a_rebuilt_disk_counts_as_whole_only_when_it_holds_promise_and_log() {
    let (mut stream, mut out) = (restored(1, true, Ballot::default(), Vec::new(), Forgot::Votes), Vec::new());
    for (from, leading) in [(2, None), (0, Some((NOW, 3)))] {
        let answer = rejoined(NONCE, NOW, leading);
        assert_eq!(stream.on_rejoined(NodeId(from), answer, &mut out), Ok(()));
    }
    assert_eq!(stream.on_accept(NOW.node, accept(NOW, 2), &mut out), Ok(()));
    stream.announce(&mut out);
    assert!(stream.is_forgetful());
    stream.on_persisted(Slot(2), NOW);
    stream.announce(&mut out);
    assert!(stream.is_forgetful(), "the promise is not on disk");
    stream.on_vote_persisted(NOW, &mut out);
    stream.announce(&mut out);
    assert!(!stream.is_forgetful());
}

/// Durable means two copies of three. A copy that is gone must not be one of them, even if it was counted; nor
/// may the answer that is still on its way be.
#[test]
fn a_leader_takes_back_the_votes_of_one_that_forgot_them() {
    let (mut stream, mut out) = (leading(), Vec::new());
    assert_eq!(stream.on_accepted(NodeId(1), accepted_by_follower(0, 1, 0)), Ok(()));
    assert_eq!(stream.chosen_end(), Slot(1));
    assert_eq!(stream.on_accepted(NodeId(1), accepted_by_follower(2, 1, 0)), Ok(()));
    out.clear();
    assert_eq!(stream.on_rejoin(NodeId(1), Rejoin { nonce: 1 }, &mut out), Ok(()));
    assert_eq!(told(&mut out), ["to 1: rejoined 1, leads 2.0, next 3, after the vote"]);
    let late = accepted_by_follower(1, 2, 0);
    assert_eq!(stream.on_accepted(NodeId(1), late), Err(Ignored::StaleReply));
    assert_eq!((stream.chosen_end(), stream.behind(NodeId(1))), (Slot(1), Some(3)), "chosen stays chosen");
    stream.resend(&mut out);
    let sends = [1, 2].map(|slot| [1, 2].map(|to| format!("to {to}: accept {slot}@2.0")));
    assert_eq!(told(&mut out), sends.concat(), "slot 2 as well");
    assert_eq!(stream.on_accepted(NodeId(1), accepted_by_follower(2, 3, 1)), Ok(()));
    assert_eq!(stream.chosen_end(), Slot(3));
    assert_eq!(stream.on_rejoin(NodeId(1), Rejoin { nonce: 1 }, &mut out), Ok(()));
    assert_eq!(stream.behind(NodeId(1)), Some(0), "the question came twice, the restart was one");
}

/// Dropped slots cannot be fetched: only a checkpoint would help the one that came back with less.
#[test]
fn slots_are_kept_for_a_replica_that_came_back_with_less() {
    let (mut stream, mut out) = (leading(), Vec::new());
    for follower in [1, 2] {
        assert_eq!(stream.on_accepted(NodeId(follower), accepted_by_follower(2, 3, 2)), Ok(()));
    }
    assert_eq!(drain_chosen(&mut stream).len(), 3);
    stream.on_chosen_persisted(Slot(3));
    let fetch = Fetch { ballot: NOW, from_slot: Slot(1), end_slot: Slot(3) };
    assert_eq!(stream.on_fetch(NodeId(1), fetch, &mut out), Ok(()));
    stream.retain();
    assert_eq!(stream.floor(), Slot(1), "what it fetches next is still here");
    assert_eq!(stream.on_rejoin(NodeId(2), Rejoin { nonce: 1 }, &mut out), Ok(()));
    assert_eq!(stream.on_accepted(NodeId(1), accepted_by_follower(2, 3, 3)), Ok(()));
    stream.retain();
    assert_eq!(stream.floor(), Slot(1), "the other has told nothing since its restart");
    out.clear();
    stream.heartbeat(&mut out);
    assert_eq!(told(&mut out), [1, 2].map(|to| format!("to {to}: next 3 chosen 3 voted 3 known 0")));
}

/// A transfer of a checkpoint is long; one message that says so must start one, and the next must not.
#[test]
fn the_host_hears_once_per_floor_and_peer_that_it_is_too_far_behind() {
    let (mut stream, mut out) = (restored(1, true, NOW, Vec::new(), Forgot::Nothing), Vec::new());
    let truncated = Err(Ignored::Truncated);
    for (from, floor, expected) in [
        (NOW, 80, Some("behind 80 at 0")),
        (NOW, 80, None),
        (NOW, 70, None),
        (NOW, 81, Some("behind 81 at 0")),
    ] {
        assert_eq!(stream.on_fetched(from.node, fetched(from, 0..0, floor), &mut out), truncated);
        assert_eq!(told(&mut out), expected.into_iter().collect::<Vec<_>>(), "{floor}");
    }
    assert_eq!(stream.on_fetched(NEW.node, fetched(NEW, 0..0, 81), &mut out), truncated);
    assert_eq!(told(&mut out), ["log vote 3.2", "behind 81 at 2"], "another peer");
    stream.jump(Slot(10));
    assert_eq!(stream.on_fetched(NEW.node, fetched(NEW, 0..0, 81), &mut out), truncated);
    assert_eq!(told(&mut out), ["behind 81 at 2"], "that checkpoint was not enough");
    assert_eq!(stream.on_fetched(NEW.node, fetched(NEW, 10..11, 0), &mut out), Ok(()));
    assert_eq!(stream.on_chosen(NEW.node, chosen(NEW, 90, 11), &mut out), Ok(()));
    out.clear();
    assert_eq!(stream.on_fetched(NEW.node, fetched(NEW, 0..0, 81), &mut out), truncated);
    assert_eq!(told(&mut out), ["behind 81 at 2"], "progress");
}

/// The checkpoint stands for all below it; what is held above stays, and is learned as if nothing had been missing.
#[test]
fn a_jump_moves_every_end_up_and_none_down() {
    let log = vec![entry(2, NOW), entry(5, NOW), entry(6, NOW)];
    let (mut stream, mut out) = (restored(1, true, NOW, log, Forgot::Nothing), Vec::new());
    assert_eq!(stream.on_chosen(NOW.node, chosen(NOW, 8, 7), &mut out), Ok(()));
    assert_eq!(told(&mut out), ["to 0: fetch 3..5"]);
    stream.jump(Slot(5));
    stream.assert_invariants();
    assert_eq!((stream.floor(), stream.persisted_end()), (Slot(5), Slot(7)));
    assert_eq!((stream.chosen_end(), stream.retained_bytes()), (Slot(7), 4), "the leader said so before");
    assert_eq!(drain_chosen(&mut stream), [(5, batch("v5")), (6, batch("v6"))]);
    stream.jump(Slot(6));
    assert_eq!((stream.floor(), stream.chosen_end()), (Slot(5), Slot(7)), "it holds more than that");
    stream.jump(Slot(40));
    assert_eq!((stream.floor(), stream.chosen_end(), stream.next_slot()), (Slot(40), Slot(40), Slot(40)));
    assert_eq!((stream.persisted_end(), stream.retained_bytes()), (Slot(40), 0));
    assert_eq!(drain_chosen(&mut stream), []);
    stream.assert_invariants();
}

/// A candidate that lacks what the others have dropped cannot lead; with their checkpoint it can.
#[test]
fn a_candidate_that_is_behind_says_so_and_goes_on_from_the_checkpoint() {
    let (mut stream, mut out) = (restored(0, true, NOW, Vec::new(), Forgot::Nothing), Vec::new());
    let mine = ballot(4, 0);
    stream.campaign(mine, batch("filler"), &mut out);
    stream.on_vote_persisted(mine, &mut out);
    out.clear();
    let promise = || Promise {
        ballot: mine,
        from_slot: Slot(6),
        end_slot: Slot(8),
        entries: vec![entry(6, NOW), entry(7, NOW)],
        last: true,
        floor: Slot(6),
        chosen_end: Slot(6),
    };
    assert_eq!(stream.on_promise(NodeId(2), promise(), &mut out), Err(Ignored::Truncated));
    assert_eq!(stream.on_promise(NodeId(2), promise(), &mut out), Err(Ignored::Truncated));
    assert_eq!(told(&mut out), ["behind 6 at 2"]);
    stream.jump(Slot(6));
    stream.resend(&mut out);
    let asks = [1, 2].map(|to| format!("to {to}: prepare 4.0 from 6, after the vote"));
    assert_eq!(told(&mut out), asks);
    assert_eq!(stream.on_promise(NodeId(2), promise(), &mut out), Ok(()));
    assert_eq!((stream.role(), stream.next_slot(), stream.chosen_end()), (Role::Leader, Slot(8), Slot(6)));
    stream.assert_invariants();
}

/// A deposed leader that nobody has told may be given the checkpoint of its successor. What it proposes then must
/// not be in slots whose values it does not know.
#[test]
fn a_leader_that_jumps_proposes_above_the_checkpoint() {
    let (mut stream, mut out) = (leading(), Vec::new());
    stream.jump(Slot(20));
    assert_eq!((stream.role(), stream.in_flight()), (Role::Leader, 0));
    assert_eq!(stream.propose(batch("v"), &mut out), Slot(20));
    stream.assert_invariants();
}

/// One stream of the shard lost is all of them lost.
#[test]
fn stepping_down_ends_an_attempt_once() {
    let (mut stream, mut out) = (leading(), Vec::new());
    stream.step_down(NEW, &mut out);
    stream.step_down(NEW, &mut out);
    assert_eq!(told(&mut out), ["deposed by 3.2"]);
    assert_eq!((stream.role(), stream.promised()), (Role::Follower, NOW));
    stream.assert_invariants();
}
