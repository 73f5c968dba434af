//! Requests and responses of many sessions between two cores, as fast as the cores can.
//!
//! Both cores run what a reactor runs of a turn (receive, timers, events, send) and nothing else. The caller has
//! `sessions` endpoints of its own behind one socket; each has `window` requests under way.
#![forbid(unsafe_code)]

use super::wire::Wire;
use super::{Cpus, Slice, histogram};
use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;
use mako::bounds::{CORES_MAX, FRAME_BYTES, RX_BURST, TX_BURST};
use mako::clock;
use mako::nic::{Nic, NicStats};
use mako::rpc::{Event, Keyring, Rpc, RpcStats, SECRET_BYTES, frame_is_for};
use mako::types::{CoreId, Endpoint, NodeId, Timestamp};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is asked of the transport.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub size: usize,
    pub window: usize,
    pub sessions: usize,
    /// Frames may leave and arrive many at once (GSO and GRO).
    pub coalesced: bool,
    /// And are sealed.
    pub sealed: bool,
}

impl Load {
    fn rpc(self, me: Endpoint) -> Rpc {
        let mut rpc = born(me, self.sessions);
        if self.sealed {
            let keys = Keyring::new(&[[1; SECRET_BYTES]]).expect("one key is a ring");
            // The key is known to everybody, and so may be where the counts begin.
            rpc.set_keys(keys, 1);
        }
        rpc
    }
}

/// What a run, or several of the same load, came to.
pub struct Answered {
    pub responses: u64,
    pub ns: u64,
    pub round_trips: Histogram<u64>,
    /// The longest time without an answer.
    pub gap_ns_max: u64,
    /// Answers that were not what was asked, and calls that failed.
    pub wrong: u64,
    pub caller: RpcStats,
    pub nic: NicStats,
}

impl Answered {
    pub fn nothing() -> Answered {
        Answered {
            responses: 0,
            ns: 0,
            round_trips: histogram(),
            gap_ns_max: 0,
            wrong: 0,
            caller: RpcStats::default(),
            nic: NicStats::default(),
        }
    }

    pub fn per_s(&self) -> f64 {
        self.responses as f64 * 1e9 / self.ns.max(1) as f64
    }
}

/// Runs the load for a slice of time, and adds what it came to.
pub fn run(
    cpus: Cpus,
    wire: &mut impl Wire,
    load: Load,
    slice: Slice<'_>,
    answered: &mut Answered,
) -> anyhow::Result<()> {
    let [near, far] = wire.ends(load.sessions, load.coalesced)?;
    let stop = CachePadded::new(AtomicBool::new(false));
    let ask = || {
        // Made here: what one core writes must not lie beside what the other reads.
        let mut caller = Caller::new(near, load);
        let begun = clock::now();
        caller.begin(begun);
        caller.turned = begun;
        while !slice.is_over(begun, caller.turned, slice.warmup_ns) {
            caller.turn();
        }
        caller.measure(answered, slice);
    };
    cpus.run(&stop, ask, || answer(far, load, &stop));
    Ok(())
}

/// Answers every request with itself.
pub fn answer<N: Nic>(nic: N, load: Load, stop: &AtomicBool) {
    let mut rpc = load.rpc(ANSWERER);
    let mut side = Side::new(nic);
    while !stop.load(Ordering::Relaxed) {
        let now = clock::now();
        side.nic.rx_burst(RX_BURST, &mut |frame| {
            let _ = rpc.on_frame(now, frame);
        });
        rpc.on_tick(now);
        while let Some(event) = rpc.poll_event() {
            if let Event::Request { id, message, .. } = event {
                rpc.respond(now, id, &message);
                rpc.recycle(message);
            }
        }
        side.transmit(now, &mut rpc);
        side.nic.tx_flush(now);
    }
}

struct Caller<N> {
    side: Side<N>,
    rpcs: Vec<Rpc>,
    load: Load,
    /// By tag: what the request under way carries first, and when it was queued.
    under_way: Vec<(u64, Timestamp)>,
    request: Vec<u8>,
    asked: u64,
    responses: u64,
    wrong: u64,
    turned: Timestamp,
    round_trips: Histogram<u64>,
    /// Sessions that have something to send, or may have.
    touched: Vec<bool>,
    /// When each session has something to do by itself: a turn does not ask all of them.
    due: Vec<Timestamp>,
    /// The sessions of this turn.
    turned_to: Vec<usize>,
}

impl<N: Nic> Caller<N> {
    fn new(nic: N, load: Load) -> Caller<N> {
        let rpc = |session| load.rpc(asker(session));
        Caller {
            side: Side::new(nic),
            rpcs: (0..load.sessions).map(rpc).collect(),
            load,
            under_way: vec![(0, Timestamp(0)); load.sessions * load.window],
            request: vec![7; load.size],
            asked: 0,
            responses: 0,
            wrong: 0,
            turned: Timestamp(0),
            round_trips: histogram(),
            touched: vec![true; load.sessions],
            due: vec![NEVER; load.sessions],
            turned_to: Vec::with_capacity(load.sessions),
        }
    }

    fn begin(&mut self, now: Timestamp) {
        for tag in 0..self.under_way.len() {
            self.ask(now, tag);
        }
    }

    fn ask(&mut self, now: Timestamp, tag: usize) {
        self.asked += 1;
        self.under_way[tag] = (self.asked, now);
        self.request[..8].copy_from_slice(&self.asked.to_le_bytes());
        let rpc = &mut self.rpcs[tag / self.load.window];
        rpc.call(now, ANSWERER, tag as u64, &self.request).expect("a window fits the backlog");
    }

    fn measure(mut self, answered: &mut Answered, slice: Slice<'_>) {
        let (begun, before) = (self.turned, self.responses);
        let (mut answered_at, mut responses) = (begun, before);
        self.round_trips.reset();
        while !slice.is_over(begun, self.turned, slice.ns) {
            self.turn();
            answered.gap_ns_max = answered.gap_ns_max.max(self.turned.since(answered_at));
            if self.responses > responses {
                (answered_at, responses) = (self.turned, self.responses);
            }
        }
        answered.ns += self.turned.since(begun);
        answered.responses += self.responses - before;
        answered.round_trips.add(&self.round_trips).expect("of the same bounds");
        answered.wrong += self.wrong;
        answered.nic = self.side.nic.stats();
        answered.caller = self.rpcs[0].stats().clone();
    }

    fn turn(&mut self) {
        let now = clock::now();
        self.turned = now;
        let Caller { side, rpcs, touched, .. } = self;
        let came = side.nic.rx_burst(RX_BURST, &mut |frame| {
            let session = frame_is_for(frame).and_then(session_of);
            if let Some(session) = session.filter(|session| *session < rpcs.len()) {
                let _ = rpcs[session].on_frame(now, frame);
                touched[session] = true;
            }
        });
        // Round trips are from one arrival to the next: with a window of one, nothing is left out.
        let arrived = if came > 0 { clock::now() } else { now };
        for session in 0..self.rpcs.len() {
            if !std::mem::take(&mut self.touched[session]) && now < self.due[session] {
                continue;
            }
            self.rpcs[session].on_tick(now);
            while let Some(event) = self.rpcs[session].poll_event() {
                self.on_event(arrived, session, event);
            }
            self.touched[session] = !self.side.transmit(now, &mut self.rpcs[session]);
            self.turned_to.push(session);
        }
        self.side.nic.tx_flush(now);
        for session in self.turned_to.drain(..) {
            self.due[session] = self.rpcs[session].deadline().unwrap_or(NEVER);
        }
    }

    fn on_event(&mut self, now: Timestamp, session: usize, event: Event) {
        match event {
            Event::Response { tag, message, .. } => {
                let tag = usize::try_from(tag).expect("tags are places");
                let (asked, at) = self.under_way[tag];
                self.request[..8].copy_from_slice(&asked.to_le_bytes());
                self.wrong += u64::from(message != self.request);
                self.responses += 1;
                self.round_trips.saturating_record(now.since(at));
                self.rpcs[session].recycle(message);
                self.ask(now, tag);
            }
            Event::Failed { .. } | Event::Request { .. } | Event::Cast { .. } | Event::Peer { .. } => {
                self.wrong += 1
            }
        }
    }
}

/// A NIC, and the one frame it may have had no room for.
pub struct Side<N> {
    pub nic: N,
    frame: Vec<u8>,
    unsent: Option<Endpoint>,
}

impl<N: Nic> Side<N> {
    pub fn new(nic: N) -> Side<N> {
        Side { nic, frame: Vec::with_capacity(FRAME_BYTES), unsent: None }
    }

    /// Queues what a turn may send of these sessions, and flushes when the queue is full. Whether that was all.
    pub fn transmit(&mut self, now: Timestamp, rpc: &mut Rpc) -> bool {
        for _ in 0..TX_BURST {
            let Some(to) = self.unsent.take().or_else(|| rpc.poll_tx(now, &mut self.frame)) else {
                return true;
            };
            if !self.nic.tx_push(now, to, &self.frame) {
                self.unsent = Some(to);
                self.nic.tx_flush(now);
            }
        }
        false
    }
}

/// An endpoint of a measurement, in a life of its own: what is still under way from an earlier one is not for it.
pub fn born(me: Endpoint, sessions: usize) -> Rpc {
    static LIVES: AtomicU64 = AtomicU64::new(1);
    let mut rpc = Rpc::new(me, CLUSTER, LIVES.fetch_add(1, Ordering::Relaxed), nodes(sessions));
    // As in a node that may sleep, which is the default.
    rpc.set_paced(false);
    rpc
}

pub fn asker(session: usize) -> Endpoint {
    let (node, core) = (1 + session / CORES_MAX, session % CORES_MAX);
    let number = |n: usize| u16::try_from(n).expect("sessions are bounded by endpoints");
    Endpoint { node: NodeId(number(node)), core: CoreId(number(core)) }
}

fn session_of(asker: Endpoint) -> Option<usize> {
    let node = usize::from(asker.node.0).checked_sub(1)?;
    Some(node * CORES_MAX + usize::from(asker.core.0))
}

pub fn nodes(sessions: usize) -> usize {
    1 + sessions.div_ceil(CORES_MAX)
}

const NEVER: Timestamp = Timestamp(u64::MAX);
pub const ANSWERER: Endpoint = Endpoint { node: NodeId(0), core: CoreId(0) };
const CLUSTER: u64 = 0x6d61_6b6f;
