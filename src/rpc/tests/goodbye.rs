//! Peers that leave in good order, and what the owner of a session hears of the lives of its peers.
#![forbid(unsafe_code)]

use super::*;

impl World {
    /// Says goodbye, and leads another life at once.
    pub fn depart(&mut self, peer: usize) {
        self.rpcs[peer].leave();
        let mut frame = Vec::new();
        while let Some(to) = self.rpcs[peer].poll_tx(self.now, &mut frame) {
            self.send(peer, usize::from(to.node.0), &frame);
        }
        self.restart(peer);
    }

    fn news(&self, at: usize) -> Vec<News> {
        self.news.iter().filter(|(heard_by, _)| *heard_by == at).map(|(_, news)| *news).collect()
    }
}

/// Else everybody waits ten seconds for a node that was stopped.
#[test]
fn calls_to_a_peer_that_leaves_fail_at_once_and_the_next_life_is_found() {
    for seed in 0..2 {
        let link = Link { delay_ns: MS, execute_ns_max: 3_000 * SECOND, ..Link::default() };
        let mut world = World::new(seed, link);
        // More than there are slots: what waits in the backlog fails as well.
        (0..400).for_each(|tag| world.call(0, tag, 2_000).unwrap());
        let begun = world.now.plus_ns(100 * MS);
        world.run_until(begun);
        world.depart(1);
        world.run_until(begun.plus_ns(2 * MS));
        assert_eq!(world.ended(End::Failed), 400, "seed {seed}");
        assert_eq!(world.news(0), [News::Left]);
        assert_eq!(world.rpcs[0].stats().peers_left, 1);
        assert_nothing_held(&world.rpcs[0]);

        world.link.execute_ns_max = 0;
        (1_000..1_400).for_each(|tag| world.call(0, tag, 2_000).unwrap());
        world.run_until_ended();
        assert!((1_000..1_400).all(|tag| world.ended[&(0, tag)] == End::Answered));
        assert_eq!(world.news(0), [News::Left, News::Restarted]);
        assert!(world.now < begun.plus_ns(SECOND));
    }
}

#[test]
fn calls_to_a_peer_that_left_for_good_fail_after_the_timeout() {
    let mut world = World::new(1, Link { delay_ns: MS, ..Link::default() });
    world.call(0, 0, 10).unwrap();
    world.run_until_ended();
    world.depart(1);
    world.link.cut = vec![(1, 0)];
    let next = world.now.plus_ns(5 * MS);
    world.link.cut.clear();
    world.run_until(next);
    world.link.cut = vec![(0, 1), (1, 0)];
    world.call(0, 1, 10).unwrap();
    world.run_until(next.plus_ns(CALL_TIMEOUT_NS - 1));
    assert_eq!(world.ended(End::Failed), 0);
    world.run_until(next.plus_ns(CALL_TIMEOUT_NS + 1));
    assert_eq!(world.ended(End::Failed), 1);
    assert_eq!(world.news(0), [News::Left, News::Silent]);
}

/// The owner may do something about all calls at once, so it hears of the peer first.
#[test]
fn news_of_a_peer_come_before_the_calls_that_end_with_it() {
    let mut rpc = new_rpc(0, 5);
    let mut frame = Vec::new();
    hear(&mut rpc, 9, 5, frame::encode_ping).unwrap();
    (0..3).for_each(|tag| rpc.call(Timestamp(SECOND), endpoint(1), tag, b"question").unwrap());
    while rpc.poll_tx(Timestamp(SECOND), &mut frame).is_some() {}
    hear(&mut rpc, 9, 5, frame::encode_bye).unwrap();
    let peer = endpoint(1);
    assert_eq!(rpc.poll_event(), Some(Event::Peer { peer, news: News::Left }));
    (0..3).for_each(|tag| assert_eq!(rpc.poll_event(), Some(Event::Failed { tag, peer })));
    assert_eq!(rpc.poll_event(), None);
}

/// What is left of the life that said it must not be believed, nor a goodbye to or of another life.
#[test]
fn a_goodbye_ends_one_life_only() {
    let mut rpc = new_rpc(0, 5);
    hear(&mut rpc, 9, 5, frame::encode_ping).unwrap();
    assert_eq!(hear(&mut rpc, 9, 4, frame::encode_bye), Err(Ignored::OtherIncarnation));
    assert_eq!(hear(&mut rpc, 8, 5, frame::encode_bye), Err(Ignored::OldIncarnation));
    assert_eq!(rpc.stats().peers_left, 0);
    hear(&mut rpc, 9, 5, frame::encode_bye).unwrap();
    assert_eq!(rpc.stats().peers_left, 1);
    for late in [frame::encode_ping, frame::encode_bye] {
        assert_eq!(hear(&mut rpc, 9, 5, late), Err(Ignored::OldIncarnation));
    }
    hear(&mut rpc, 10, 5, frame::encode_ping).unwrap();
    assert_eq!(hear(&mut rpc, 9, 5, frame::encode_bye), Err(Ignored::OldIncarnation));
    assert_eq!((rpc.stats().peers_left, rpc.stats().peer_restarts), (1, 1));
}

/// The owner of a transport that has left may still be at work.
#[test]
fn who_has_left_takes_nothing_and_says_nothing_else() {
    let mut rpc = new_rpc(0, 5);
    let (now, peer, mut frame) = (Timestamp(SECOND), endpoint(1), Vec::new());
    hear(&mut rpc, 9, 5, |frame| frame::encode_cast(frame, b"beat")).unwrap();
    rpc.call(now, peer, 1, b"question").unwrap();
    rpc.cast(now, peer, b"beat");
    rpc.leave();
    assert_eq!(rpc.call(now, peer, 2, b"question"), Err(Busy));
    rpc.cast(now, peer, b"beat");
    assert_eq!(hear(&mut rpc, 9, 5, frame::encode_ping), Err(Ignored::Leaving));
    assert!(matches!(rpc.poll_event(), Some(Event::Cast { .. })));
    assert_eq!(rpc.poll_event(), Some(Event::Failed { tag: 1, peer }));
    assert_eq!(rpc.poll_tx(now, &mut frame), Some(peer));
    let (header, mut rest) = Header::decode(&frame).unwrap();
    assert_eq!((header.from_incarnation, header.to_incarnation, header.number), (5, 9, 0));
    assert_eq!((frame::Packet::decode(&mut rest), rest), (Ok(frame::Packet::Bye), &[][..]));
    assert_eq!(rpc.poll_tx(now, &mut frame), None);
    // A peer that was never heard is not told.
    let mut rpc = new_rpc(0, 5);
    rpc.call(now, peer, 1, b"question").unwrap();
    rpc.leave();
    assert_eq!(rpc.poll_tx(now, &mut frame), None);
}

fn hear(
    rpc: &mut Rpc,
    from_incarnation: u64,
    to_incarnation: u64,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Result<(), Ignored> {
    let mut frame = Vec::new();
    Header { from_incarnation, to_incarnation, ..hostile::header() }.encode(&mut frame);
    encode(&mut frame);
    rpc.on_frame(Timestamp(SECOND), &frame)
}
