//! A cluster in one thread: its cores, the network between them, their logs and their clocks, driven
//! by one queue of events in virtual time.
//!
//! The code under test is `partition::Core`, unchanged. Everything random is drawn from the seed, and
//! two events of one instant happen in the order in which they were scheduled, so a seed is one run.
#![forbid(unsafe_code)]

use super::board::SimBoard;
use super::clients::{Clients, Recorder, Work};
use super::faults::Profile;
use super::ghost::Ghosts;
use crate::bounds::US;
use crate::config::Config;
use crate::partition::{Core, Driver, Log, Parcel, Ports};
use crate::types::{CoreId, Endpoint, Lsn, NodeId, Prng, Timestamp};
use crate::wal::Record;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;

pub struct World {
    pub config: Rc<Config>,
    pub profile: Profile,
    pub prng: Prng,
    /// Virtual time since the start, in nanoseconds.
    pub now: u64,
    pub nodes: Vec<SimNode>,
    pub cores: Vec<SimCore>,
    pub recorder: Rc<RefCell<Recorder>>,
    pub ghosts: Ghosts,
    queue: BinaryHeap<Reverse<Event>>,
    scheduled: u64,
    /// Links that are down, by (from, to), and until when.
    outages: Vec<((NodeId, NodeId), u64)>,
    pub stats: WorldStats,
    frame: Vec<u8>,
}

pub struct SimNode {
    board: SimBoard,
    /// How far its clock is off.
    skew_ns: i64,
}

pub struct SimCore {
    pub me: Endpoint,
    pub core: Core<Work>,
    pub clients: Clients,
    log: SimLog,
    inbox: Vec<Vec<u8>>,
    parcels: VecDeque<Parcel>,
    durable: Lsn,
    /// When it next takes a turn; events for other times are left over.
    wake_at: u64,
    /// It is in a turn, or paused, until then.
    busy_until: u64,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct WorldStats {
    pub events: u64,
    pub turns: u64,
    pub frames: u64,
    pub frames_lost: u64,
    pub ghosts: u64,
}

/// A log that remembers nothing but how far it has got.
#[derive(Default)]
struct SimLog {
    appended: Lsn,
    submitted: Lsn,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: u64,
    order: u64,
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Frame { core: usize, frame: Vec<u8> },
    Durable { core: usize, lsn: Lsn },
    Wake { core: usize },
    Outage,
    Ghost,
}

impl Log for SimLog {
    fn append(&mut self, record: &Record<'_>) -> Lsn {
        self.appended = Lsn(self.appended.0 + 40 + record.payload.len() as u64);
        self.appended
    }

    fn room(&self) -> usize {
        usize::MAX
    }
}

impl World {
    pub fn new(
        config: &Rc<Config>,
        profile: Profile,
        recorder: Rc<RefCell<Recorder>>,
        mut prng: Prng,
    ) -> World {
        let node_count = config.nodes.len();
        let skew = |prng: &mut Prng| prng.i64(-(profile.skew_ns as i64)..=profile.skew_ns as i64);
        let board = || SimBoard::new(config.partition_count(), config.shards.len());
        let nodes: Vec<SimNode> =
            (0..node_count).map(|_| SimNode { board: board(), skew_ns: skew(&mut prng) }).collect();
        let mut cores = Vec::new();
        for node in (0..node_count as u16).map(NodeId) {
            for core in (0..config.cores(node) as u16).map(CoreId) {
                let me = Endpoint { node, core };
                let skew_ns = nodes[usize::from(node.0)].skew_ns;
                let first = cores.len() as u32 * 100;
                cores.push(SimCore {
                    me,
                    core: Core::new(config, me, 1, prng.u64(..)),
                    clients: Clients::new(recorder.clone(), config.clone(), first, prng.fork(), skew_ns),
                    log: SimLog::default(),
                    inbox: Vec::new(),
                    parcels: VecDeque::new(),
                    durable: Lsn::default(),
                    wake_at: u64::MAX,
                    busy_until: 0,
                });
            }
        }
        let mut world = World {
            config: config.clone(),
            profile,
            now: 0,
            nodes,
            cores,
            recorder,
            ghosts: Ghosts::new(config),
            queue: BinaryHeap::new(),
            scheduled: 0,
            outages: Vec::new(),
            stats: WorldStats::default(),
            frame: Vec::new(),
            prng,
        };
        for core in 0..world.cores.len() {
            let at = world.prng.u64(..1_000 * US);
            world.wake(core, at);
        }
        world.schedule_faults();
        world
    }

    /// Takes the next event; false when there is none, which means that everybody waits for ever.
    pub fn step(&mut self) -> Result<bool, String> {
        let Some(Reverse(event)) = self.queue.pop() else { return Ok(false) };
        assert!(event.at >= self.now, "time goes forward");
        self.now = event.at;
        self.stats.events += 1;
        match event.what {
            What::Frame { core, frame } => {
                self.cores[core].inbox.push(frame);
                self.wake_soon(core);
            }
            What::Durable { core, lsn } => {
                self.cores[core].durable = self.cores[core].durable.max(lsn);
                self.wake_soon(core);
            }
            What::Wake { core } if self.cores[core].wake_at == event.at => self.turn(core)?,
            What::Wake { .. } => {}
            What::Outage => self.begin_outage(),
            What::Ghost => self.haunt()?,
        }
        Ok(true)
    }

    /// From here on nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.profile.heal();
        self.outages.clear();
        super::ghost::tell_all(self);
    }

    /// What a node's clock shows.
    pub fn local_time(&self, node: NodeId) -> Timestamp {
        Timestamp((EPOCH_NS + self.now).saturating_add_signed(self.nodes[usize::from(node.0)].skew_ns))
    }

    /// Hands a core a message as if it came from an endpoint nobody will answer.
    pub fn inject(&mut self, core: usize, message: Vec<u8>) {
        self.cores[core].parcels.push_back(Parcel { from: CoreId(0), is_request: false, message });
        self.wake_soon(core);
    }

    /// A turn that no event asked for.
    pub fn turn_now(&mut self, core: usize) -> Result<(), String> {
        self.turn(core)
    }

    /// One turn of one core, as the reactor does it.
    fn turn(&mut self, at: usize) -> Result<(), String> {
        self.stats.turns += 1;
        let me = self.cores[at].me;
        let now = self.local_time(me.node);
        let SimCore { core, clients, log, inbox, parcels, durable, wake_at, .. } = &mut self.cores[at];
        *wake_at = u64::MAX;
        let board = &self.nodes[usize::from(me.node.0)].board;
        inbox.drain(..).for_each(|frame| core.on_frame(now, &frame));
        core.on_durable(now, *durable);
        let room = log.room();
        let mut ports = Ports { log, board };
        parcels.drain(..).for_each(|parcel| core.on_parcel(now, parcel, &mut ports));
        core.begin_turn(now, &mut ports);
        clients.turn(now, &mut core.desk(now, room));
        core.end_turn(now, &mut ports);
        self.recorder.borrow_mut().truth.observe(me.node, me.core.0, core)?;
        while let Some((token, reply, procedure)) = core.poll_reply() {
            clients.on_reply(now, token, reply, procedure);
        }
        if let Some(fault) = self.recorder.borrow_mut().fault.take() {
            return Err(fault);
        }
        self.submit_log(at);
        self.send_frames(at, now);
        self.pass_parcels(at);
        self.schedule_next_turn(at, now);
        Ok(())
    }

    fn submit_log(&mut self, at: usize) {
        let log = &mut self.cores[at].log;
        if log.appended > log.submitted {
            log.submitted = log.appended;
            let lsn = log.appended;
            let (least, most) = self.profile.disk_ns;
            let mut takes = self.prng.u64(least..=most);
            if self.prng.f64() < self.profile.disk_spike {
                takes += self.prng.u64(..500_000 * US);
            }
            self.schedule(self.now + takes, What::Durable { core: at, lsn });
        }
    }

    fn send_frames(&mut self, at: usize, now: Timestamp) {
        let from = self.cores[at].me.node;
        let mut frame = std::mem::take(&mut self.frame);
        while let Some(to) = self.cores[at].core.poll_tx(now, &mut frame) {
            self.stats.frames += 1;
            let cut = self.outages.iter().any(|(link, until)| *link == (from, to.node) && *until > self.now);
            if cut || self.prng.f64() < self.profile.loss {
                self.stats.frames_lost += 1;
                continue;
            }
            let Some(core) = self.core_at(to) else { continue };
            let copies = if self.prng.f64() < self.profile.duplicate { 2 } else { 1 };
            for _ in 0..copies {
                let arrives = self.now + self.travel_ns();
                self.schedule(arrives, What::Frame { core, frame: frame.clone() });
            }
        }
        self.frame = frame;
    }

    fn travel_ns(&mut self) -> u64 {
        let Profile { delay_ns, jitter_ns, spike, spike_ns, .. } = self.profile;
        let jitter = if jitter_ns > 0 { self.prng.u64(..jitter_ns) } else { 0 };
        let spike = if spike > 0.0 && self.prng.f64() < spike { self.prng.u64(..spike_ns) } else { 0 };
        delay_ns + jitter + spike
    }

    fn pass_parcels(&mut self, at: usize) {
        let me = self.cores[at].me;
        let wakes = self.cores[at].core.take_wakes_siblings();
        for core in (0..self.config.cores(me.node) as u16).map(CoreId).filter(|core| *core != me.core) {
            let Some(sibling) = self.core_at(Endpoint { node: me.node, core }) else { continue };
            let mut any = wakes;
            while let Some(parcel) = self.cores[at].core.take_parcel(core) {
                self.cores[sibling].parcels.push_back(parcel);
                any = true;
            }
            if any {
                self.wake_soon(sibling);
            }
        }
    }

    fn schedule_next_turn(&mut self, at: usize, now: Timestamp) {
        let pause = self.profile.pause > 0.0 && self.prng.f64() < self.profile.pause;
        let paused = if pause { self.prng.u64(..self.profile.pause_ns) } else { 0 };
        let core = &mut self.cores[at];
        core.busy_until = self.now + TURN_NS + paused;
        let deadline = core.core.deadline().into_iter().chain(core.clients.deadline()).min();
        if let Some(deadline) = deadline {
            let wait = deadline.since(now).min(WAIT_NS_MAX);
            let at_least = core.busy_until;
            self.wake(at, (self.now + wait).max(at_least));
        }
    }

    fn core_at(&self, endpoint: Endpoint) -> Option<usize> {
        self.cores.iter().position(|core| core.me == endpoint)
    }

    fn wake_soon(&mut self, core: usize) {
        let at = self.now.max(self.cores[core].busy_until) + self.prng.u64(..WAKE_NS);
        self.wake(core, at);
    }

    fn wake(&mut self, core: usize, at: u64) {
        if at < self.cores[core].wake_at {
            self.cores[core].wake_at = at;
            self.schedule(at, What::Wake { core });
        }
    }

    fn schedule(&mut self, at: u64, what: What) {
        self.scheduled += 1;
        self.queue.push(Reverse(Event { at, order: self.scheduled, what }));
    }

    fn schedule_faults(&mut self) {
        for (every, what) in
            [(self.profile.outage_every_ns, What::Outage), (self.profile.ghost_every_ns, What::Ghost)]
        {
            if every > 0 {
                let at = self.now + self.prng.u64(every / 2..=every * 2);
                self.schedule(at, what);
            }
        }
    }

    /// Cuts one direction of one link, or both, for a while.
    fn begin_outage(&mut self) {
        if self.profile.outage_every_ns == 0 || self.nodes.len() < 2 {
            return;
        }
        let from = NodeId(self.prng.u16(..self.nodes.len() as u16));
        let to = NodeId(self.prng.u16(..self.nodes.len() as u16));
        let until = self.now + self.prng.u64(..self.profile.outage_ns);
        self.outages.retain(|(_, until)| *until > self.now);
        self.outages.push(((from, to), until));
        if self.prng.bool() {
            self.outages.push(((to, from), until));
        }
        let next = self.now + self.prng.u64(..self.profile.outage_every_ns * 2);
        self.schedule(next, What::Outage);
    }

    fn haunt(&mut self) -> Result<(), String> {
        if self.profile.ghost_every_ns == 0 {
            return Ok(());
        }
        let next = self.now + self.prng.u64(..self.profile.ghost_every_ns * 2);
        self.schedule(next, What::Ghost);
        self.stats.ghosts += 1;
        super::ghost::haunt(self)
    }
}

/// Virtual time 0 on every clock, before skew: far enough from 0 for clocks to be behind it.
pub const EPOCH_NS: u64 = 1_000_000_000_000;
/// What a turn takes.
const TURN_NS: u64 = 2 * US;
/// How long an idle core takes to notice that something has arrived, at most.
const WAKE_NS: u64 = 20 * US;
/// No core sleeps longer.
const WAIT_NS_MAX: u64 = crate::bounds::SECOND;
