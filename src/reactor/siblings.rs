//! What the cores of one node share, and one core's ends of the rings to and from the others.
//!
//! A message between two cores is a [`Parcel`] in the ring from the one to the other; which messages
//! those are is the partition's.
//!
//! Invariants:
//!   1. There is one ring for each ordered pair of cores, so each has one producer and one consumer.
//!   2. Parcels of one core for another arrive in the order in which they were sent: one that finds the
//!      ring full goes back to the front of its queue.
//!   3. Whoever hands something over wakes the receiver afterwards.
#![forbid(unsafe_code)]

use super::board::Board;
use super::ring::{Consumer, Producer, Waker, ring};
use crate::bounds::{PARCELS_PER_TURN, RING_PARCELS};
use crate::config::Config;
use crate::partition::{Core, Parcel};
use crate::txn::Procedure;
use crate::types::{CoreId, NodeId};
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One node's board, its cores' wakers, what they tell of their peers, how many of them vote, and whether it is to stop.
pub struct Shared {
    pub board: Board,
    wakers: Box<[Waker]>,
    /// Cores whose replicas all vote. Monotone.
    voting: AtomicUsize,
    /// By core: peers that were not heard yet and are needed. Seldom changed, and never on the way of a transaction.
    awaited: Box<[Mutex<Vec<Awaited>>]>,
    /// By core, then by node: frames in its name that did not open. Monotone, each written by its core alone.
    refused: Box<[Box<[AtomicU64]>]>,
    stopped: AtomicBool,
    killed: AtomicBool,
}

impl Shared {
    pub fn new(config: &Config, cores: usize) -> io::Result<Shared> {
        let wakers: io::Result<Vec<Waker>> = (0..cores).map(|_| Waker::new()).collect();
        let board = Board::new(config.partition_count(), config.shards.len());
        Ok(Shared {
            board,
            wakers: wakers?.into(),
            voting: AtomicUsize::new(0),
            awaited: (0..cores).map(|_| Mutex::default()).collect(),
            refused: (0..cores).map(|_| config.nodes.iter().map(|_| AtomicU64::new(0)).collect()).collect(),
            stopped: AtomicBool::new(false),
            killed: AtomicBool::new(false),
        })
    }

    /// Every core of the node ends after its turn.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wakers.iter().for_each(Waker::wake);
    }

    /// As `stop`, but peers are not told, as if the process had died.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        self.stop();
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// Once per core: all of its replicas vote.
    pub(super) fn note_voting(&self) {
        self.voting.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether no replica of the node has anything to learn before it may vote.
    pub fn is_voting(&self) -> bool {
        self.voting.load(Ordering::SeqCst) == self.wakers.len()
    }

    pub(super) fn note_awaited(&self, core: CoreId, peers: Vec<Awaited>) {
        *self.awaited[usize::from(core.0)].lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    /// Peers without whom not every replica of the node may vote, ascending.
    pub fn awaited(&self) -> Vec<Awaited> {
        let of = |peers: &Mutex<Vec<Awaited>>| peers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.awaited.iter().flat_map(of).collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(super) fn note_refused(&self, core: CoreId, frames: impl Iterator<Item = (NodeId, u64)>) {
        let counts = &self.refused[usize::from(core.0)];
        frames.for_each(|(node, frames)| counts[usize::from(node.0)].store(frames, Ordering::Relaxed));
    }

    /// Frames that came in the name of a node and did not open, at any core; of no node that had none.
    pub fn refused(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        let of = |node: NodeId| {
            self.refused.iter().map(|counts| counts[usize::from(node.0)].load(Ordering::Relaxed)).sum()
        };
        let nodes = self.refused.first().map_or(0, |counts| counts.len());
        (0..).map(NodeId).take(nodes).map(move |node| (node, of(node))).filter(|(_, frames)| *frames > 0)
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub fn waker(&self, core: CoreId) -> &Waker {
        &self.wakers[usize::from(core.0)]
    }
}

/// A peer that was not heard yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Awaited {
    pub node: NodeId,
    /// Frames came that said to be from it, and did not open.
    pub refused: bool,
}

/// One core's place among the cores of its node.
pub struct Siblings {
    me: CoreId,
    shared: Arc<Shared>,
    others: Vec<Sibling>,
}

struct Sibling {
    core: CoreId,
    to: Producer<Parcel>,
    from: Consumer<Parcel>,
}

impl Siblings {
    /// The places of all cores of a node, with a ring from each to each.
    pub fn of_node(shared: &Arc<Shared>) -> Vec<Siblings> {
        let cores = shared.wakers.len();
        // By receiver, then by sender: the ends are dealt out below in the same order.
        let mut froms: Vec<Vec<Option<Consumer<Parcel>>>> = (0..cores).map(|_| Vec::new()).collect();
        let mut tos: Vec<Vec<Option<Producer<Parcel>>>> = Vec::new();
        for sender in 0..cores {
            let mut row = Vec::new();
            for (receiver, ends) in froms.iter_mut().enumerate() {
                let (to, from) = (sender != receiver).then(|| ring(RING_PARCELS)).unzip();
                row.push(to);
                ends.push(from);
            }
            tos.push(row);
        }
        let numbered = (0..).map(CoreId).zip(tos.into_iter().zip(froms));
        let place = |(me, (tos, froms)): (CoreId, (Vec<_>, Vec<_>))| {
            let pairs = (0..).map(CoreId).zip(tos.into_iter().zip(froms));
            let others = pairs.filter_map(|(core, (to, from))| Some(Sibling { core, to: to?, from: from? }));
            Siblings { me, shared: Arc::clone(shared), others: others.collect() }
        };
        numbered.map(place).collect()
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn waker(&self) -> &Waker {
        self.shared.waker(self.me)
    }

    /// Hands `sink` what the other cores have sent, a bounded number from each; how many those were.
    pub fn receive(&mut self, mut sink: impl FnMut(Parcel)) -> usize {
        let mut received = 0;
        for sibling in &mut self.others {
            let mut left = PARCELS_PER_TURN;
            while left > 0
                && let Some(parcel) = sibling.from.pop()
            {
                sink(parcel);
                left -= 1;
            }
            received += PARCELS_PER_TURN - left;
        }
        received
    }

    /// Sends what `core` has for the others, and wakes those that may have something to do. How many
    /// parcels there were; what found its ring full is among them, and is tried again next turn.
    pub fn send<P: Procedure>(&mut self, core: &mut Core<P>) -> usize {
        let wakes_all = core.take_wakes_siblings();
        let mut parcels = 0;
        for sibling in &mut self.others {
            let before = parcels;
            while let Some(parcel) = core.take_parcel(sibling.core) {
                parcels += 1;
                if let Err(parcel) = sibling.to.push(parcel) {
                    core.put_parcel_back(sibling.core, parcel);
                    break;
                }
            }
            if wakes_all || parcels > before {
                self.shared.waker(sibling.core).wake();
            }
        }
        parcels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LocalCluster;
    use crate::partition::Cargo;

    fn parcel(from: &Siblings, number: u8) -> Parcel {
        Parcel { from: from.me, cargo: Cargo::Request(vec![number]) }
    }

    /// One core's count must not hide another's.
    #[test]
    fn frames_refused_are_those_of_all_cores() {
        let config = Config::local(&LocalCluster::default()).unwrap();
        let shared = Shared::new(&config, 2).unwrap();
        assert_eq!(shared.refused().count(), 0);
        shared.note_refused(CoreId(0), [(NodeId(2), 5)].into_iter());
        shared.note_refused(CoreId(1), [(NodeId(0), 1), (NodeId(2), 3)].into_iter());
        shared.note_refused(CoreId(1), [(NodeId(0), 2), (NodeId(2), 3)].into_iter());
        assert_eq!(shared.refused().collect::<Vec<_>>(), [(NodeId(0), 2), (NodeId(2), 8)]);
    }

    /// Two rings exchanged by mistake would deliver a core's messages to its neighbour, which would
    /// find none of its partitions in them.
    #[test]
    fn every_pair_of_cores_has_a_ring_in_each_direction() {
        let config = Config::local(&LocalCluster::default()).unwrap();
        let shared = Arc::new(Shared::new(&config, 4).unwrap());
        let mut places = Siblings::of_node(&shared);
        for (number, place) in (0..).zip(&mut places) {
            assert_eq!((place.me, place.others.len()), (CoreId(number), 3));
            for at in 0..3 {
                let to = place.others[at].core;
                assert!(place.me != to);
                let parcel = parcel(place, to.0 as u8);
                place.others[at].to.push(parcel).unwrap();
            }
        }
        for (core, place) in (0..).zip(&mut places) {
            let mut senders = Vec::new();
            let received = place.receive(|parcel| {
                assert_eq!(parcel.bytes(), [core]);
                senders.push(parcel.from.0 as u8);
            });
            senders.push(core);
            senders.sort_unstable();
            assert_eq!((received, senders), (3, vec![0, 1, 2, 3]));
        }
    }

    /// One busy neighbour must not keep a core from the rest of its turn.
    #[test]
    fn a_turn_takes_a_bounded_number_of_parcels_in_their_order() {
        let config = Config::local(&LocalCluster::default()).unwrap();
        let mut places = Siblings::of_node(&Arc::new(Shared::new(&config, 2).unwrap()));
        let [left, right] = places.as_mut_slice() else { panic!("two cores") };
        for number in 0..=PARCELS_PER_TURN {
            let parcel = parcel(left, number as u8);
            left.others[0].to.push(parcel).unwrap();
        }
        let mut numbers = Vec::new();
        assert_eq!(right.receive(|parcel| numbers.push(parcel.bytes()[0])), PARCELS_PER_TURN);
        assert_eq!(right.receive(|parcel| numbers.push(parcel.bytes()[0])), 1);
        assert!(numbers.into_iter().eq((0..=PARCELS_PER_TURN).map(|number| number as u8)));
    }
}
