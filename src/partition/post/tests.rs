//! What leaves when, and what becomes of the notes of calls.
#![forbid(unsafe_code)]

use super::*;
use crate::bounds::{BACKLOG_CALLS_MAX, REQUEST_SLOTS};
use crate::types::NodeId;

const NOW: Timestamp = Timestamp(1_000_000_000);

fn endpoint(node: u16, core: u16) -> Endpoint {
    Endpoint { node: NodeId(node), core: CoreId(core) }
}

fn post() -> Post {
    let me = endpoint(0, 0);
    Post::new(me, 2, Rpc::new(me, 1, 1, 2))
}

fn cast(to: Endpoint, byte: u8) -> Outgoing {
    Outgoing::Cast { to, message: vec![byte] }
}

fn sent(post: &mut Post) -> bool {
    post.rpc.poll_tx(NOW, &mut Vec::new()).is_some()
}

/// The one rule of durability (HOUSE §1.4, rule 3): a promise heard by anyone before it is on disk can be
/// taken back by a crash. By whichever way the message leaves.
#[test]
fn nothing_leaves_before_the_log_is_durable_through_what_it_rests_on() {
    for to in [endpoint(0, 0), endpoint(0, 1), endpoint(1, 0)] {
        let mut post = post();
        post.send(NOW, Lsn(5), cast(to, 1));
        post.send(NOW, Lsn(7), Outgoing::Call { to, note: None, message: vec![2] });
        let left = |post: &mut Post| match to {
            Endpoint { node: NodeId(0), core: CoreId(0) } => post.take_here().is_some(),
            Endpoint { node: NodeId(0), core } => post.take_parcel(core).is_some(),
            _ => sent(post),
        };
        assert!(!left(&mut post) && !post.is_idle());
        post.on_durable(NOW, Lsn(4));
        assert!(!left(&mut post));
        post.on_durable(NOW, Lsn(6));
        assert!(left(&mut post) && !left(&mut post));
        post.on_durable(NOW, Lsn(3));
        assert!(!left(&mut post), "the log does not get shorter");
        post.on_durable(NOW, Lsn(7));
        assert_eq!(post.rpc.stats().calls, u64::from(to.node.0));
        assert!(post.held.is_empty());
    }
}

/// Answers of one replica to another speak of later and later slots; one that overtook would rest on less
/// than it says.
#[test]
fn held_messages_leave_in_the_order_they_came_and_others_pass_them() {
    let mut post = post();
    let sibling = endpoint(0, 1);
    for (after, byte) in [(3, 1), (9, 2), (4, 3), (9, 4)] {
        post.send(NOW, Lsn(after), cast(sibling, byte));
    }
    post.send(NOW, Lsn::default(), cast(sibling, 0));
    let taken = |post: &mut Post| -> Vec<u8> {
        std::iter::from_fn(|| post.take_parcel(CoreId(1))).map(|parcel| parcel.bytes()[0]).collect()
    };
    assert_eq!(taken(&mut post), [0]);
    post.on_durable(NOW, Lsn(8));
    assert_eq!(taken(&mut post), [1]);
    post.on_durable(NOW, Lsn(9));
    assert_eq!(taken(&mut post), [2, 3, 4]);
}

/// A note taken twice would end two transactions for one failure; one lost would leave a transaction waiting.
#[test]
fn a_note_is_given_back_once_and_its_number_not_before() {
    let mut post = post();
    let note = |number| Note { home: PartitionId(0), to: PartitionId(1), ticket: Ticket::Run { number } };
    let call = |number| {
        let (to, note) = (endpoint(1, 0), Some(note(number)));
        Outgoing::Call { to, note, message: vec![0] }
    };
    let ticket = |note: Option<Note>| note.map(|note| note.ticket);
    (1..=3).for_each(|number| post.send(NOW, Lsn::default(), call(number)));
    assert_eq!(ticket(post.take_note(2)), Some(Ticket::Run { number: 2 }));
    assert_eq!(ticket(post.take_note(2)), None);
    post.send(NOW, Lsn::default(), call(4));
    let tickets = [1, 2, 3, 4].map(|tag| ticket(post.take_note(tag)));
    assert_eq!(
        tickets,
        [1, 4, 3]
            .map(|number| Some(Ticket::Run { number }))
            .iter()
            .copied()
            .chain([None])
            .collect::<Vec<_>>()[..]
    );
    assert_eq!(ticket(post.take_note(0)), None, "calls that nobody waits for have no note");
    assert_eq!(ticket(post.take_note(u64::MAX)), None, "a peer may answer with any tag");
}

/// A session that is full has sent nothing: whoever waits must hear of it as of any other failure.
#[test]
fn a_call_that_a_full_session_refuses_comes_back_as_a_note() {
    let mut post = post();
    let room = (BACKLOG_CALLS_MAX + REQUEST_SLOTS) as u64;
    for number in 0..room + 2 {
        let note = Some(Note { home: PartitionId(0), to: PartitionId(1), ticket: Ticket::Commit { number } });
        post.send(NOW, Lsn::default(), Outgoing::Call { to: endpoint(1, 0), note, message: vec![0] });
    }
    let refused = post.refused_count();
    assert_eq!(post.rpc.stats().calls_refused, refused as u64);
    let numbers: Vec<u64> = std::iter::from_fn(|| post.take_refused())
        .map(|note| match note.ticket {
            Ticket::Commit { number } => number,
            other => panic!("{other:?} was not sent"),
        })
        .collect();
    assert!(refused >= 2 && numbers.is_sorted() && numbers.last() == Some(&(room + 1)));
    assert_eq!((numbers.len(), post.refused_count()), (refused, 0));
}
