//! Request and response sessions between endpoints, over frames that may be lost, repeated or reordered.
//!
//! A pure state machine, one per core: it is handed frames and the time, and yields events and frames.
//! After eRPC: a fixed number of request slots per session, messages cut into packets, each request
//! carried out at most once. Sending frames is the NIC's, the meaning of messages the partition's, and
//! *exactly* once nobody's: a failed call may have been carried out.
//!
//! Every request handed up must be answered some time: its slot is taken until then.
//!
//! Invariants:
//!   1. A call ends in exactly one `Response` or `Failed`, and fails only if its peer restarted, said goodbye, or gave
//!      no sign of life for `CALL_TIMEOUT_NS`; or if we say goodbye ourselves.
//!   2. Of each use of a slot of each incarnation of a caller, one `Request` at most is handed up, and
//!      only by the incarnation of the answerer that the caller meant.
//!   3. The memory of a session is bounded, whatever its peer sends.
//!   4. With keys, a frame that does not open makes no session and changes none.
//!   5. A tick looks at the sessions that are due and at one more, however many there are.
#![forbid(unsafe_code)]

mod buffers;
mod calls;
mod flight;
mod frame;
pub(crate) mod fuzzing;
mod guard;
mod history;
mod keys;
mod message;
mod pace;
mod path;
mod rtt;
mod served;
mod session;
mod stats;
#[cfg(test)]
mod tests;
mod timers;
mod window;

pub use frame::is_for as frame_is_for;
pub use keys::{BadKeyring, Keyring, SECRET_BYTES};
pub use stats::{Ignored, PeerStats, RpcStats};

use crate::bounds::{CAST_BYTES_MAX, CORES_MAX, FRAME_BYTES, FRAMES_IN_ROW, MESSAGE_BYTES_MAX, SESSIONS_MAX};
use crate::types::{Endpoint, Timestamp};
use buffers::Buffers;
use flight::PacketRef;
use frame::Header;
use guard::{Guard, Hellos, Watch};
use session::Session;
use std::collections::VecDeque;
use timers::Timers;

/// All sessions of one core.
pub struct Rpc {
    shared: Shared,
    /// The session with core `c` of node `n`, at `n * CORES_MAX + c`. Reaches as far as the sessions do.
    index: Vec<Option<u16>>,
    /// How far it may reach.
    places: usize,
    /// Each in a place of its own: with thousands of them, growth must not move them all.
    #[expect(
        clippy::vec_box,
        reason = "a session is large, and moving thousands of them takes a millisecond"
    )]
    sessions: Vec<Box<Session>>,
    /// Sessions that may have a frame to send, served in turn.
    ready: VecDeque<u16>,
    /// Frames that the session served last has sent one after the other.
    in_row: u32,
    /// Whether sessions are slowed by the delays they see.
    is_paced: bool,
    timers: Timers,
    /// Sessions to which something has happened since their timers were set: much happens to one in a turn.
    changed: Vec<u16>,
    /// The session with the shortest round trip, as far as the ones looked at since it changed go.
    nearest: Option<u16>,
    /// The session whose round trip is looked at next.
    looked_at: usize,
    /// Scratch: the packets of a frame that was opened.
    opened: Box<[u8; FRAME_BYTES]>,
}

/// What the sessions of a core have in common.
struct Shared {
    local: Endpoint,
    cluster: u64,
    incarnation: u64,
    buffers: Buffers,
    events: VecDeque<Event>,
    casts_received: usize,
    /// Goodbye has been said: nothing else leaves any more, and nothing is taken.
    has_left: bool,
    stats: RpcStats,
    /// `None`: frames go in the open.
    watch: Option<Watch>,
    /// Scratch: the packets one acknowledgement ends.
    acked: Vec<PacketRef>,
}

/// Something for the caller. Give `message` back with [`Rpc::recycle`].
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Request {
        id: RequestId,
        from: Endpoint,
        message: Vec<u8>,
    },
    Response {
        tag: u64,
        from: Endpoint,
        message: Vec<u8>,
    },
    Cast {
        from: Endpoint,
        message: Vec<u8>,
    },
    Failed {
        tag: u64,
        peer: Endpoint,
    },
    /// Something has ended for this peer. Before the `Failed` of the calls that end with it.
    Peer {
        peer: Endpoint,
        news: News,
    },
}

/// What has become of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// It leads another life. Whatever its life before was asked may have been carried out or not.
    Restarted,
    /// It has said goodbye, and answers nothing until it leads another life.
    Left,
    /// It has been silent for `CALL_TIMEOUT_NS` though there was something to answer.
    Silent,
}

/// One request of one incarnation of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId {
    peer: Endpoint,
    incarnation: u64,
    slot: u16,
    seq: u64,
}

/// The session's backlog is full: nothing was queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too many calls wait for this peer")]
pub struct Busy;

impl Rpc {
    /// `cluster` is a hash of the cluster's name: frames of others are dropped. `incarnation` must grow
    /// with every start of this node, or its peers take it for its own past and do not listen.
    /// `nodes` is the number of nodes in the cluster.
    pub fn new(local: Endpoint, cluster: u64, incarnation: u64, nodes: usize) -> Rpc {
        assert!(incarnation != 0, "incarnation 0 means that it is not known");
        assert!(usize::from(local.node.0) < nodes, "node {} of {nodes}", local.node.0);
        assert!(nodes * CORES_MAX <= SESSIONS_MAX, "{nodes} nodes");
        Rpc {
            shared: Shared {
                local,
                cluster,
                incarnation,
                buffers: Buffers::default(),
                events: VecDeque::new(),
                casts_received: 0,
                has_left: false,
                stats: RpcStats::default(),
                watch: None,
                acked: Vec::new(),
            },
            index: Vec::new(),
            places: nodes * CORES_MAX,
            sessions: Vec::new(),
            ready: VecDeque::new(),
            in_row: 0,
            is_paced: true,
            timers: Timers::default(),
            changed: Vec::new(),
            nearest: None,
            looked_at: 0,
            opened: Box::new([0; FRAME_BYTES]),
        }
    }

    /// Whether sessions are slowed when their round trips tell of a queue; they do, unless cores sleep. Before the first
    /// frame.
    pub fn set_paced(&mut self, is_paced: bool) {
        self.is_paced = is_paced;
    }

    /// Seals every frame, and takes none that was not sealed under one of the keys. Before the first frame. `seed` is to
    /// be another one in every life.
    pub fn set_keys(&mut self, keys: Keyring, seed: u64) {
        // Half of the counts are ahead, wherever they begin.
        self.shared.watch = Some(Watch { keys, first_count: seed >> 1, hellos: Hellos::default() });
    }

    /// Queues a request. `tag` comes back with its `Response` or `Failed`.
    pub fn call(&mut self, now: Timestamp, peer: Endpoint, tag: u64, message: &[u8]) -> Result<(), Busy> {
        assert!(message.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes", message.len());
        if self.shared.has_left {
            return Err(Busy);
        }
        let index = self.session_with(peer);
        let outcome = self.sessions[usize::from(index)].call(now, tag, message, &mut self.shared);
        match outcome {
            Ok(()) => self.shared.stats.calls += 1,
            Err(Busy) => self.shared.stats.calls_refused += 1,
        }
        self.schedule(index);
        outcome
    }

    /// Answers a request, once. Dropped when its caller restarted or gave up meanwhile.
    pub fn respond(&mut self, now: Timestamp, to: RequestId, message: &[u8]) {
        assert!(message.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes", message.len());
        if self.shared.has_left {
            return;
        }
        let index = self.session_with(to.peer);
        if !self.sessions[usize::from(index)].respond(now, to, message, &mut self.shared) {
            self.shared.stats.responses_dropped += 1;
        }
        self.schedule(index);
    }

    /// Sends one datagram that may be lost, repeated or overtaken.
    pub fn cast(&mut self, _now: Timestamp, peer: Endpoint, message: &[u8]) {
        assert!(message.len() <= CAST_BYTES_MAX, "a cast of {} bytes", message.len());
        if self.shared.has_left {
            return;
        }
        let index = self.session_with(peer);
        self.sessions[usize::from(index)].cast(message, &mut self.shared);
        self.schedule(index);
    }

    /// Says goodbye to all peers, so that nobody waits for what will not come: calls fail, theirs and ours. From now on
    /// nothing is taken in, and the goodbyes are all that leaves. One that gets lost costs its peer the wait for a sign
    /// of life.
    pub fn leave(&mut self) {
        self.shared.has_left = true;
        for index in 0..self.sessions.len() {
            self.sessions[index].leave(&mut self.shared);
            self.schedule(u16::try_from(index).expect("sessions are few"));
        }
    }

    /// Takes in one frame. What it completes comes out of [`Rpc::poll_event`].
    pub fn on_frame(&mut self, now: Timestamp, frame: &[u8]) -> Result<(), Ignored> {
        self.shared.stats.frames_received += 1;
        let outcome = self.on_any_frame(now, frame);
        if let Err(ignored) = outcome {
            self.shared.stats.on_ignored(ignored);
        }
        outcome
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.shared.events.pop_front();
        if let Some(Event::Cast { .. }) = event {
            self.shared.casts_received -= 1;
        }
        event
    }

    /// Gives the buffer of an event back, to be used again.
    pub fn recycle(&mut self, message: Vec<u8>) {
        self.shared.buffers.recycle(message);
    }

    pub fn on_tick(&mut self, now: Timestamp) {
        while let Some(index) = self.changed.pop() {
            let session = &mut self.sessions[usize::from(index)];
            session.is_changed = false;
            if let Some(due) = session.deadline() {
                self.timers.schedule(index, due);
            }
        }
        while let Some(index) = self.timers.take_due(now) {
            self.shared.stats.timers += 1;
            let session = &mut self.sessions[usize::from(index)];
            let mut due = session.deadline();
            if due.is_some_and(|due| due <= now) {
                session.on_tick(now, &mut self.shared);
                due = session.deadline();
                self.make_ready(index);
            }
            if let Some(due) = due {
                self.timers.schedule(index, due.max(now.next()));
            }
        }
        self.look_for_nearer();
    }

    /// No call of `on_tick` before this does anything. It may turn out that nothing was due then.
    pub fn deadline(&self) -> Option<Timestamp> {
        let changed = self.changed.iter().filter_map(|index| self.sessions[usize::from(*index)].deadline());
        changed.chain(self.timers.first()).min()
    }

    /// Fills `frame` with the next frame to send and says to whom. Packets for one peer share frames,
    /// so this is best called when the turn has nothing more to add.
    pub fn poll_tx(&mut self, now: Timestamp, frame: &mut Vec<u8>) -> Option<Endpoint> {
        while let Some(index) = self.ready.pop_front() {
            let session = &mut self.sessions[usize::from(index)];
            session.is_ready = false;
            let peer = session.peer();
            if session.fill_frame(now, frame, &mut self.shared) {
                self.shared.stats.frames_sent += 1;
                self.schedule(index);
                self.go_on_with(index);
                return Some(peer);
            }
            self.in_row = 0;
            self.note_changed(index);
        }
        None
    }

    /// Frames for one peer leave in a row, of which a NIC makes one of what it does; but not for ever.
    fn go_on_with(&mut self, index: u16) {
        self.in_row += 1;
        if self.ready.back() == Some(&index) && self.in_row < FRAMES_IN_ROW {
            self.ready.rotate_right(1);
        } else {
            self.in_row = 0;
        }
    }

    /// The round trip to the nearest peer, in nanoseconds; `None` while none is measured. A peer that comes nearer is
    /// found at once; when the nearest goes further away, the next one is found after a tick for every session.
    pub fn rtt_ns_min(&self) -> Option<u64> {
        self.nearest.and_then(|index| self.sessions[usize::from(index)].rtt_ns())
    }

    /// What is known of the way to each peer.
    pub fn peers(&self) -> impl Iterator<Item = PeerStats> + '_ {
        self.sessions.iter().map(|session| session.stats())
    }

    pub fn stats(&self) -> &RpcStats {
        &self.shared.stats
    }

    fn on_any_frame(&mut self, now: Timestamp, frame: &[u8]) -> Result<(), Ignored> {
        if self.shared.has_left {
            return Err(Ignored::Leaving);
        }
        let (header, packets) = Header::decode(frame)?;
        if header.cluster != self.shared.cluster {
            return Err(Ignored::OtherCluster);
        }
        if header.to != self.shared.local {
            return Err(Ignored::OtherEndpoint);
        }
        if place_of(header.from).is_none_or(|place| place >= self.places) {
            return Err(Ignored::UnknownPeer);
        }
        let is_sealed = self.shared.watch.is_some();
        if header.key != 0 && !is_sealed {
            self.shared.stats.on_refused(header.from.node);
            return Err(Ignored::UnknownKey);
        }
        let bytes = if is_sealed { self.open(now, &header, frame)? } else { packets.len() };
        let index = self.session_with(header.from);
        let session = &mut self.sessions[usize::from(index)];
        let packets = if is_sealed { &self.opened[..bytes] } else { packets };
        let outcome = session.on_frame(now, &header, packets, &mut self.shared);
        self.compare_with_nearest(index);
        self.schedule(index);
        outcome
    }

    /// Opens a frame into the scratch. What a stranger sends must not make a session, so the first frame of a peer meets
    /// a guard that has none yet.
    fn open(&mut self, now: Timestamp, header: &Header, frame: &[u8]) -> Result<usize, Ignored> {
        let known = place_of(header.from).and_then(|place| self.index.get(place).copied().flatten());
        let Shared { watch: Some(watch), incarnation, .. } = &mut self.shared else {
            return Err(Ignored::UnknownKey);
        };
        let mut fresh = Guard::default();
        let guard = match known {
            Some(index) => {
                let session = &mut self.sessions[usize::from(index)];
                if let Some(ignored) = session.ignore_frame(header) {
                    return Err(ignored);
                }
                &mut session.guard
            }
            None => &mut fresh,
        };
        let opened = guard.open(now, watch, (header, *incarnation), frame, &mut self.opened[..]);
        match opened {
            Err(Ignored::NotSealed | Ignored::UnknownKey | Ignored::NotAuthentic) => {
                self.shared.stats.on_refused(header.from.node);
            }
            Ok(_) if known.is_none() => {
                let index = self.session_with(header.from);
                self.sessions[usize::from(index)].guard = fresh;
            }
            _ => {}
        }
        opened
    }

    fn session_with(&mut self, peer: Endpoint) -> u16 {
        let place = place_of(peer).filter(|place| *place < self.places);
        let place = place.unwrap_or_else(|| panic!("{peer:?} is not in this cluster"));
        if self.index.len() <= place {
            self.index.resize(place + 1, None);
        }
        *self.index[place].get_or_insert_with(|| {
            self.sessions.push(Box::new(Session::new(peer, self.is_paced)));
            self.timers.add_session();
            // So that nothing is allocated later, when all of them have something to do.
            self.changed.reserve(self.sessions.len() - self.changed.len());
            self.ready.reserve(self.sessions.len() - self.ready.len());
            u16::try_from(self.sessions.len() - 1).expect("sessions are few")
        })
    }

    fn look_for_nearer(&mut self) {
        self.looked_at += 1;
        if self.looked_at >= self.sessions.len() {
            self.looked_at = 0;
        }
        if !self.sessions.is_empty() {
            self.compare_with_nearest(u16::try_from(self.looked_at).expect("sessions are few"));
        }
    }

    fn compare_with_nearest(&mut self, index: u16) {
        let rtt_ns = self.sessions[usize::from(index)].rtt_ns();
        if rtt_ns.is_some_and(|rtt_ns| self.rtt_ns_min().is_none_or(|least_ns| rtt_ns <= least_ns)) {
            self.nearest = Some(index);
        }
    }

    /// After anything that happened to a session.
    fn schedule(&mut self, index: u16) {
        self.note_changed(index);
        self.make_ready(index);
    }

    fn note_changed(&mut self, index: u16) {
        let session = &mut self.sessions[usize::from(index)];
        if !std::mem::replace(&mut session.is_changed, true) {
            self.changed.push(index);
        }
    }

    fn make_ready(&mut self, index: u16) {
        let session = &mut self.sessions[usize::from(index)];
        if !session.is_ready && session.wants_frame() {
            session.is_ready = true;
            self.ready.push_back(index);
        }
    }
}

impl RequestId {
    pub fn from(&self) -> Endpoint {
        self.peer
    }
}

fn place_of(endpoint: Endpoint) -> Option<usize> {
    let core = usize::from(endpoint.core.0);
    (core < CORES_MAX).then(|| usize::from(endpoint.node.0) * CORES_MAX + core)
}
