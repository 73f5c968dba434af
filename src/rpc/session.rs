//! One session: everything between this core and one peer, both as caller and as answerer.
//!
//! It routes packets to the slots, decides what the next frame holds, and keeps the timers. The slots
//! are in `calls` and `served`, frames on the wire in `flight`, frames received in `history`.
//!
//! Invariants:
//!   1. Requests, responses and acknowledgements count only in a frame that names our incarnation:
//!      what was meant for an earlier life may have been carried out then.
//!   2. A frame is acknowledged only if each of its packets was taken in or can never matter again.
//!   3. `in_transit_bytes` is the sum of the messages started and not closed, `partial_bytes` that of
//!      the bytes of messages received in part. Messages half received here are in transit there.
//!   4. While calls wait for a peer, some timer is set.
//!   5. A session at rest holds no more than `SESSION_BYTES_AT_REST` (sealed: `SESSION_BYTES_AT_REST_SEALED`) and 8 bytes
//!      for each slot the peer has used, and sets no timer. It rests when it has had nothing to do for `REST_NS`.
#![forbid(unsafe_code)]

use super::calls::Calls;
use super::flight::{Flight, MessageRef, PacketRef, Way};
use super::frame::{self, Header, Packet, Part};
use super::guard::Guard;
use super::history::{AckWords, History};
use super::message::{Held, Outgoing};
use super::pace::Change;
use super::path::Path;
use super::served::Served;
use super::stats::{Ignored, PeerStats, RpcStats};
use super::{Busy, Event, News, RequestId, Shared};
use crate::bounds::{
    CALL_TIMEOUT_NS, CASTS_QUEUED_MAX, CASTS_RECEIVED_MAX, FRAME_BYTES, HELLO_INTERVAL_NS_MIN,
    PING_INTERVAL_NS, REST_NS,
};
use crate::types::{Endpoint, Timestamp};
use std::collections::VecDeque;

pub struct Session {
    peer: Endpoint,
    /// 0 before its first frame. Grows with each restart of the peer.
    peer_incarnation: u64,
    /// That life is over, by its own word. The next one is looked for like a first one.
    has_left: bool,
    peer_generation: u32,
    /// How often we have given up all calls. Grows.
    generation: u32,

    calls: Calls,
    served: Served,
    casts: VecDeque<Vec<u8>>,
    /// Messages with packets never sent, served in turn so that a long one does not hold up the rest.
    sending: VecDeque<MessageRef>,
    held: Held,

    flight: Flight,
    history: History,
    path: Path,
    /// Unused where frames go in the open.
    pub guard: Guard,

    last_heard: Timestamp,
    /// When the last frame came or went.
    last_busy: Timestamp,
    /// Since when there has been something to wait for.
    waiting_since: Timestamp,
    last_probe: Timestamp,
    hello_wait_ns: u64,
    /// Send a frame even if it is empty: it tells the peer who we are, or asks who it is.
    owes_hello: bool,
    owes_ping: bool,
    /// Say goodbye, and nothing else.
    owes_bye: bool,
    /// The peer has been silent for so long that only a sign of life makes us send again.
    is_dormant: bool,
    is_resting: bool,
    /// Set while the session is in the core's list of sessions with something to send.
    pub is_ready: bool,
    /// Set while the session is in the core's list of sessions whose deadline is to be reckoned.
    pub is_changed: bool,
}

impl Session {
    pub fn new(peer: Endpoint, is_paced: bool) -> Session {
        Session {
            peer,
            peer_incarnation: 0,
            has_left: false,
            peer_generation: 0,
            generation: 0,
            calls: Calls::default(),
            served: Served::default(),
            casts: VecDeque::new(),
            sending: VecDeque::new(),
            held: Held::default(),
            flight: Flight::new(),
            history: History::new(),
            path: Path::new(is_paced),
            guard: Guard::default(),
            last_heard: Timestamp(0),
            last_busy: Timestamp(0),
            waiting_since: Timestamp(0),
            last_probe: Timestamp(0),
            hello_wait_ns: HELLO_INTERVAL_NS_MIN,
            owes_hello: false,
            owes_ping: false,
            owes_bye: false,
            is_dormant: false,
            is_resting: true,
            is_ready: false,
            is_changed: false,
        }
    }

    pub fn call(
        &mut self,
        now: Timestamp,
        tag: u64,
        message: &[u8],
        shared: &mut Shared,
    ) -> Result<(), Busy> {
        self.on_wanted(now);
        self.calls.push(tag, message, &mut shared.buffers)?;
        // A call after a long silence is a reason to try again.
        if std::mem::take(&mut self.is_dormant) {
            self.waiting_since = now;
        }
        if !self.knows_peer() && self.calls.count() == 1 {
            self.probe(now, HELLO_INTERVAL_NS_MIN);
        }
        self.start_messages();
        Ok(())
    }

    /// Whether anybody still waits for the response.
    pub fn respond(&mut self, now: Timestamp, id: RequestId, message: &[u8], shared: &mut Shared) -> bool {
        self.on_wanted(now);
        let wanted = id.incarnation == self.peer_incarnation
            && self.served.respond(id.slot, id.seq, message, &mut shared.buffers);
        self.start_messages();
        wanted
    }

    pub fn cast(&mut self, message: &[u8], shared: &mut Shared) {
        if self.casts.len() >= CASTS_QUEUED_MAX {
            shared.stats.casts_dropped += 1;
            return;
        }
        self.is_resting = false;
        self.casts.push_back(shared.buffers.copy(message));
    }

    pub fn on_frame(
        &mut self,
        now: Timestamp,
        header: &Header,
        packets: &[u8],
        shared: &mut Shared,
    ) -> Result<(), Ignored> {
        if let Some(ignored) = self.ignore_frame(header) {
            return Err(ignored);
        }
        self.adopt(header, shared);
        self.last_heard = now;
        self.last_busy = now;
        self.is_resting = false;
        self.is_dormant = false;
        if header.to_incarnation != shared.incarnation {
            return self.on_stray_frame(header, packets, shared);
        }
        // A repeated frame is looked for only now: a restarted peer numbers its frames anew.
        if header.number != 0
            && let Some(ignored) = self.history.ignore_frame(header.number)
        {
            return Err(ignored);
        }
        let mut settled = Ok(());
        let mut rest = packets;
        // Behind a goodbye nothing counts.
        while !rest.is_empty() && !self.has_left {
            match self.on_packet(now, Packet::decode(&mut rest)?, shared) {
                Ok(()) => {}
                Err(ignored) if ignored.is_settled() => settled = Err(ignored),
                Err(ignored) => return Err(ignored),
            }
        }
        if header.number != 0 && !self.has_left {
            self.history.record(now, header.number);
        }
        settled
    }

    /// Ends everything, and owes the peer a goodbye if it knows us.
    pub fn leave(&mut self, shared: &mut Shared) {
        self.end_all(shared);
        self.casts.drain(..).for_each(|message| shared.buffers.recycle(message));
        self.owes_bye = self.knows_peer();
        (self.owes_hello, self.owes_ping) = (false, false);
        self.has_left = true;
    }

    pub fn on_tick(&mut self, now: Timestamp, shared: &mut Shared) {
        self.history.on_tick(now);
        self.path.pace.on_tick(now);
        if self.silence_deadline().is_some_and(|due| due <= now) {
            self.give_up(shared);
        }
        if self.probe_deadline().is_some_and(|due| due <= now) {
            self.probe(now, (self.hello_wait_ns * 2).min(PING_INTERVAL_NS));
        }
        self.on_flight_tick(now, shared);
        if self.rest_deadline().is_some_and(|due| due <= now) {
            self.rest();
        }
    }

    /// When `on_tick` next has something to do.
    pub fn deadline(&self) -> Option<Timestamp> {
        let first = sooner(self.history.deadline(), self.flight.deadline(&self.path.rtt));
        let first = sooner(first, sooner(self.silence_deadline(), self.probe_deadline()));
        sooner(first, sooner(self.path.pace.deadline(), self.rest_deadline()))
    }

    pub fn wants_frame(&self) -> bool {
        self.owes_hello
            || self.owes_bye
            || self.history.is_overdue()
            || !self.casts.is_empty()
            || (self.has_packets() && self.may_send_packets())
    }

    /// Fills `frame`; false when there turned out to be nothing to say.
    pub fn fill_frame(&mut self, now: Timestamp, frame: &mut Vec<u8>, shared: &mut Shared) -> bool {
        self.last_busy = now;
        frame.clear();
        let header = Header {
            cluster: shared.cluster,
            from: shared.local,
            to: self.peer,
            from_incarnation: shared.incarnation,
            // What answers to another life would not be taken.
            to_incarnation: if self.knows_peer() || self.owes_bye { self.peer_incarnation } else { 0 },
            generation: self.generation,
            number: 0,
            key: 0,
            count: 0,
        };
        header.encode(frame);
        // First of all, so that it is not crowded out by what the peer waits for less.
        if std::mem::take(&mut self.owes_bye) {
            frame::encode_bye(frame);
        }
        if self.history.is_owed() && self.knows_peer() {
            let mut words: AckWords = [0; _];
            let (largest, count) = self.history.take_ack(&mut words);
            frame::encode_ack(frame, largest, self.history.held_ns(now), &words[..count]);
        }
        self.fill_casts(frame, shared);
        if self.may_send_packets() && self.has_packets() {
            self.fill_paced(now, frame, shared);
        }
        let says = std::mem::take(&mut self.owes_hello) || frame.len() > frame::HEADER_BYTES;
        if says && let Some(watch) = &shared.watch {
            self.guard.seal(watch, frame, &header);
        }
        says
    }

    pub fn peer(&self) -> Endpoint {
        self.peer
    }

    /// Of frames and their acknowledgements; `None` before the first.
    pub fn rtt_ns(&self) -> Option<u64> {
        self.path.rtt.smoothed_ns()
    }

    pub fn stats(&self) -> PeerStats {
        PeerStats {
            peer: self.peer,
            rtt_ns: self.rtt_ns(),
            rate: self.path.pace.rate(),
            window_frames: self.path.window.frames(),
            outstanding_frames: self.flight.outstanding(),
        }
    }

    /// Invariant 3, as the tests may check it.
    #[cfg(test)]
    pub fn held_bytes(&self) -> (usize, usize) {
        (self.held.in_transit_bytes, self.held.partial_bytes)
    }

    #[cfg(test)]
    pub fn set_controlled(&mut self, is_controlled: bool) {
        self.path.pace.is_on = is_controlled;
    }

    /// Why a frame need not be looked at, whoever made it.
    pub fn ignore_frame(&self, header: &Header) -> Option<Ignored> {
        if header.from_incarnation == 0 {
            return Some(Ignored::BadFrame);
        }
        if header.from_incarnation < self.peer_incarnation {
            return Some(Ignored::OldIncarnation);
        }
        let same_life = header.from_incarnation == self.peer_incarnation;
        if same_life && self.has_left {
            return Some(Ignored::OldIncarnation);
        }
        (same_life && header.generation < self.peer_generation).then_some(Ignored::OldGeneration)
    }

    /// Learns of a new life of the peer, or that it has given up its calls.
    fn adopt(&mut self, header: &Header, shared: &mut Shared) {
        if header.from_incarnation > self.peer_incarnation {
            self.adopt_life(header, shared);
        } else if header.generation > self.peer_generation {
            self.peer_generation = header.generation;
            self.served.abandon(&mut self.held, &mut shared.buffers);
            self.start_messages();
        }
    }

    #[cold]
    fn adopt_life(&mut self, header: &Header, shared: &mut Shared) {
        if self.peer_incarnation != 0 {
            shared.stats.peer_restarts += 1;
            shared.events.push_back(Event::Peer { peer: self.peer, news: News::Restarted });
            // The life that ended may have carried them out.
            let on_failed = fail_into(self.peer, &mut shared.events, &mut shared.stats.calls_failed);
            self.calls.fail(true, &mut self.held, &mut shared.buffers, on_failed);
            self.served.reset(&mut self.held, &mut shared.buffers);
            self.flight.clear();
            // The new life uses the slots from their first use on: an old reference would match again.
            self.sending.retain(|message| message.way == Way::Request);
            self.history = History::new();
        }
        self.peer_incarnation = header.from_incarnation;
        self.has_left = false;
        self.peer_generation = header.generation;
        self.hello_wait_ns = HELLO_INTERVAL_NS_MIN;
        self.start_messages();
    }

    /// Invariant 1: of a frame that does not name our incarnation only the casts are taken.
    #[cold]
    fn on_stray_frame(
        &mut self,
        header: &Header,
        packets: &[u8],
        shared: &mut Shared,
    ) -> Result<(), Ignored> {
        self.owes_hello = true;
        let mut rest = packets;
        while !rest.is_empty() {
            if let Packet::Cast(message) = Packet::decode(&mut rest)? {
                self.on_cast(message, shared)?;
            }
        }
        if header.to_incarnation == 0 { Ok(()) } else { Err(Ignored::OtherIncarnation) }
    }

    fn on_packet(&mut self, now: Timestamp, packet: Packet, shared: &mut Shared) -> Result<(), Ignored> {
        match packet {
            Packet::Request(part) => self.on_request(&part, shared),
            Packet::Response(part) => self.on_response(&part, shared),
            Packet::Cast(message) => self.on_cast(message, shared),
            Packet::Ack(ack) => self.on_ack(now, &ack, shared),
            Packet::Ping => Ok(()),
            Packet::Bye => self.on_bye(shared),
        }
    }

    /// Nothing that was meant for this life of the peer will be answered, and nothing more comes of it.
    #[cold]
    fn on_bye(&mut self, shared: &mut Shared) -> Result<(), Ignored> {
        if !std::mem::replace(&mut self.has_left, true) {
            shared.stats.peers_left += 1;
            shared.events.push_back(Event::Peer { peer: self.peer, news: News::Left });
            self.end_all(shared);
        }
        Ok(())
    }

    /// Fails our calls, and forgets the peer's: nobody waits for them.
    fn end_all(&mut self, shared: &mut Shared) {
        let on_failed = fail_into(self.peer, &mut shared.events, &mut shared.stats.calls_failed);
        self.calls.fail(false, &mut self.held, &mut shared.buffers, on_failed);
        self.served.abandon(&mut self.held, &mut shared.buffers);
        self.flight.clear();
        self.sending.clear();
        self.history = History::new();
        self.hello_wait_ns = HELLO_INTERVAL_NS_MIN;
        self.owes_ping = false;
    }

    fn on_request(&mut self, part: &Part, shared: &mut Shared) -> Result<(), Ignored> {
        if let Some(message) = self.served.on_request(part, &mut self.held, &mut shared.buffers)? {
            let incarnation = self.peer_incarnation;
            let id = RequestId { peer: self.peer, incarnation, slot: part.slot, seq: part.seq };
            shared.stats.requests += 1;
            shared.events.push_back(Event::Request { id, from: self.peer, message });
        }
        Ok(())
    }

    fn on_response(&mut self, part: &Part, shared: &mut Shared) -> Result<(), Ignored> {
        if let Some((tag, message)) = self.calls.on_response(part, &mut self.held, &mut shared.buffers)? {
            shared.stats.responses += 1;
            shared.events.push_back(Event::Response { tag, from: self.peer, message });
            self.start_messages();
        }
        Ok(())
    }

    fn on_cast(&mut self, message: &[u8], shared: &mut Shared) -> Result<(), Ignored> {
        if shared.casts_received >= CASTS_RECEIVED_MAX {
            return Err(Ignored::CastsFull);
        }
        shared.casts_received += 1;
        let message = shared.buffers.copy(message);
        shared.events.push_back(Event::Cast { from: self.peer, message });
        Ok(())
    }

    fn on_ack(&mut self, now: Timestamp, ack: &frame::Ack, shared: &mut Shared) -> Result<(), Ignored> {
        shared.acked.clear();
        let change = self.flight.on_ack(now, ack, &mut self.path, &mut shared.acked)?;
        count_change(change, &mut shared.stats);
        for PacketRef { message, .. } in &shared.acked {
            // A packet of a message that has ended since is acknowledged in vain.
            let Some(outgoing) = outgoing(&mut self.calls, &mut self.served, *message) else { continue };
            if !outgoing.on_acked() {
                continue;
            }
            match message.way {
                Way::Request => outgoing.close(&mut self.held.in_transit_bytes, &mut shared.buffers),
                Way::Response => {
                    self.served.on_delivered(message.slot, &mut self.held, &mut shared.buffers);
                }
            }
        }
        self.on_flight_tick(now, shared);
        self.start_messages();
        Ok(())
    }

    fn on_flight_tick(&mut self, now: Timestamp, shared: &mut Shared) {
        let losses = self.flight.on_tick(now, &mut self.path);
        shared.stats.frames_lost += losses.frames;
        shared.stats.timeouts += u64::from(losses.timed_out);
        count_change(losses.change, &mut shared.stats);
    }

    /// The peer is dead, or as good as. Its own calls are its own affair: our responses wait for it.
    #[cold]
    fn give_up(&mut self, shared: &mut Shared) {
        shared.stats.peers_silent += 1;
        shared.events.push_back(Event::Peer { peer: self.peer, news: News::Silent });
        if self.calls.count() > 0 {
            let on_failed = fail_into(self.peer, &mut shared.events, &mut shared.stats.calls_failed);
            self.calls.fail(false, &mut self.held, &mut shared.buffers, on_failed);
            self.generation += 1;
        }
        self.flight.lose_all();
        self.is_dormant = true;
        self.owes_ping = false;
    }

    fn probe(&mut self, now: Timestamp, hello_wait_ns: u64) {
        self.last_probe = now;
        if !self.knows_peer() {
            self.hello_wait_ns = hello_wait_ns;
            self.owes_hello = true;
        } else {
            self.owes_ping = true;
        }
    }

    fn silence_deadline(&self) -> Option<Timestamp> {
        let waits = self.is_waiting() && !self.is_dormant;
        waits.then(|| self.last_heard.max(self.waiting_since).plus_ns(CALL_TIMEOUT_NS))
    }

    fn probe_deadline(&self) -> Option<Timestamp> {
        let wait_ns = if self.knows_peer() { PING_INTERVAL_NS } else { self.hello_wait_ns };
        let waits = self.calls.count() > 0 && !self.is_dormant;
        waits.then(|| self.last_heard.max(self.last_probe).max(self.waiting_since).plus_ns(wait_ns))
    }

    fn rest_deadline(&self) -> Option<Timestamp> {
        let is_busy = self.is_resting
            || self.calls.count() > 0
            || self.served.is_open()
            || !self.casts.is_empty()
            || !self.flight.is_empty()
            || self.history.is_owed();
        (!is_busy).then(|| self.last_busy.plus_ns(REST_NS))
    }

    /// Invariant 5. What was to be sent belongs to messages that have ended.
    #[cold]
    fn rest(&mut self) {
        self.calls.rest();
        self.served.rest();
        self.flight.rest();
        self.casts = VecDeque::new();
        self.sending = VecDeque::new();
        self.is_resting = true;
    }

    fn is_waiting(&self) -> bool {
        self.calls.count() > 0 || self.served.responses() > 0
    }

    /// The silence that counts begins when there is something to wait for.
    fn on_wanted(&mut self, now: Timestamp) {
        self.is_resting = false;
        if !self.is_waiting() {
            self.waiting_since = now;
        }
    }

    fn may_send_packets(&self) -> bool {
        self.knows_peer()
            && !self.is_dormant
            && !self.path.pace.is_held()
            && self.flight.has_room(&self.path.window)
    }

    /// Its life goes on, as far as we know.
    fn knows_peer(&self) -> bool {
        self.peer_incarnation != 0 && !self.has_left
    }

    fn has_packets(&self) -> bool {
        self.owes_ping || !self.flight.lost.is_empty() || !self.sending.is_empty()
    }

    /// Responses first: they end something, calls begin something.
    fn start_messages(&mut self) {
        while let Some(message) = self.served.start(&mut self.held) {
            self.sending.push_back(message);
        }
        while let Some(message) = self.calls.start(&mut self.held) {
            self.sending.push_back(message);
        }
    }

    fn fill_casts(&mut self, frame: &mut Vec<u8>, shared: &mut Shared) {
        while let Some(message) = self.casts.front()
            && frame.len() + frame::CAST_HEADER_BYTES + message.len() <= FRAME_ROOM
        {
            frame::encode_cast(frame, message);
            if let Some(message) = self.casts.pop_front() {
                shared.buffers.recycle(message);
            }
        }
    }

    /// Packets, unless they are to wait for their turn.
    fn fill_paced(&mut self, now: Timestamp, frame: &mut Vec<u8>, shared: &mut Shared) {
        if !self.path.pace.may_send(now) {
            self.path.pace.hold();
            shared.stats.bursts_paced += 1;
        } else if self.fill_packets(frame, shared) {
            let number = self.flight.on_sent(now, frame.len());
            frame::set_number(frame, number);
            self.path.pace.on_sent(now, frame.len() as u64);
        }
    }

    /// Packets that were lost, then packets never sent. Whether the frame wants an acknowledgement.
    fn fill_packets(&mut self, frame: &mut Vec<u8>, shared: &mut Shared) -> bool {
        let begin = frame.len();
        if std::mem::take(&mut self.owes_ping) {
            frame::encode_ping(frame);
        }
        while let Some(PacketRef { message, packet }) = self.flight.lost.front().copied() {
            if let Some(outgoing) = outgoing(&mut self.calls, &mut self.served, message) {
                if !fill_part(frame, message, outgoing, packet) {
                    return frame.len() > begin;
                }
                self.flight.push(PacketRef { message, packet });
                shared.stats.packets_resent += 1;
            }
            self.flight.lost.pop_front();
        }
        while let Some(message) = self.sending.front().copied() {
            if let Some(outgoing) = outgoing(&mut self.calls, &mut self.served, message) {
                let packet = outgoing.unsent();
                if !fill_part(frame, message, outgoing, packet) {
                    break;
                }
                outgoing.on_sent();
                if !outgoing.is_sent() {
                    self.sending.push_back(message);
                }
                self.flight.push(PacketRef { message, packet });
            }
            self.sending.pop_front();
        }
        frame.len() > begin
    }
}

fn outgoing<'a>(
    calls: &'a mut Calls,
    served: &'a mut Served,
    message: MessageRef,
) -> Option<&'a mut Outgoing> {
    match message.way {
        Way::Request => calls.outgoing(message.slot, message.seq),
        Way::Response => served.outgoing(message.slot, message.seq),
    }
}

/// The first of two times, as far as there are any.
fn sooner(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}

/// False when the frame has no room for the packet.
fn fill_part(frame: &mut Vec<u8>, message: MessageRef, outgoing: &Outgoing, packet: u16) -> bool {
    let part = outgoing.part(message.slot, message.seq, packet);
    if frame.len() + frame::PART_HEADER_BYTES + part.payload.len() > FRAME_ROOM {
        return false;
    }
    match message.way {
        Way::Request => frame::encode_request(frame, &part),
        Way::Response => frame::encode_response(frame, &part),
    }
    true
}

fn count_change(change: Option<Change>, stats: &mut RpcStats) {
    match change {
        Some(Change::Slowed) => stats.slowed += 1,
        Some(Change::Freed) => stats.freed += 1,
        None => {}
    }
}

fn fail_into<'a>(
    peer: Endpoint,
    events: &'a mut VecDeque<Event>,
    count: &'a mut u64,
) -> impl FnMut(u64) + 'a {
    move |tag| {
        *count += 1;
        events.push_back(Event::Failed { tag, peer });
    }
}

const FRAME_ROOM: usize = FRAME_BYTES - frame::TAG_BYTES;
