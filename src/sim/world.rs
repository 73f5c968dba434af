//! A cluster in one thread: its cores, the network between them, their logs and their clocks, driven
//! by one queue of events in virtual time.
//!
//! The code under test is `partition::Core`, unchanged. Everything random is drawn from the seed, and
//! two events of one instant happen in the order in which they were scheduled, so a seed is one run.
#![forbid(unsafe_code)]

use super::attic::Attic;
use super::board::SimBoard;
use super::bounded::{self, LogWatch};
use super::clients::{Clients, Recorder, Work};
use super::clocks::NodeClock;
use super::deaths::{Aim, Deaths};
use super::disk::{CheckpointFaults, CheckpointPort, Crash, Lie, Medium, SimCheckpoints, SimDisk};
use super::emptied::SimIdentity;
use super::faults::{Fault, Profile, Struck, pick};
use super::ghost::Ghosts;
use super::handing::{Moves, Orders};
use super::mishaps::Bout;
use crate::bounds::{CHECKPOINT_READ_PAUSE_NS, KIB, MS, US};
use crate::config::Config;
use crate::partition::{Cargo, Core, Driver, Log, Marks, Parcel, Ports};
use crate::rpc::{Keyring, SECRET_BYTES};
use crate::types::{CoreId, Endpoint, Lsn, NodeId, Prng, Timestamp};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;

pub struct World {
    pub config: Rc<Config>,
    pub profile: Profile,
    /// Frames are sealed.
    pub(super) keys: Option<Keyring>,
    pub prng: Prng,
    /// Virtual time since the start, in nanoseconds.
    pub now: u64,
    pub nodes: Vec<SimNode>,
    pub cores: Vec<SimCore>,
    pub recorder: Rc<RefCell<Recorder>>,
    pub ghosts: Ghosts,
    pub(super) attic: Attic,
    pub(super) bout: Bout,
    pub(super) orders: Orders,
    /// Deaths that wait for their moment.
    pub(super) aims: Vec<Aim>,
    queue: BinaryHeap<Reverse<Event>>,
    scheduled: u64,
    /// Links that are down, by (from, to), and until when.
    pub(super) outages: Vec<((NodeId, NodeId), u64)>,
    pub stats: WorldStats,
    is_healed: bool,
    frame: Vec<u8>,
}

pub struct SimNode {
    board: SimBoard,
    pub(super) clock: NodeClock,
    pub(super) incarnation: u64,
    pub(super) identity: SimIdentity,
    /// Turns of its cores since its process started.
    pub(super) turns: u64,
    /// When it has died it starts again at once.
    pub(super) hasty: bool,
    /// It dies in its next turn, so.
    pub(super) dying: Option<Death>,
}

pub struct SimCore {
    pub me: Endpoint,
    pub core: Core<Work>,
    pub clients: Clients,
    /// `None` while the node is down; then `medium` is what its disk holds.
    pub(super) disk: Option<SimDisk>,
    pub(super) medium: Option<Medium>,
    pub(super) checkpoints: SimCheckpoints,
    /// It has lost its log, and has not got back yet what it had accepted.
    pub(super) mends: bool,
    /// When the disk next has something to do.
    disk_at: u64,
    inbox: Vec<Vec<u8>>,
    parcels: VecDeque<Parcel>,
    durable: Lsn,
    /// When it next takes a turn; events for other times are left over.
    wake_at: u64,
    /// It is in a turn, or paused, until then.
    busy_until: u64,
    /// Until then its turns take long.
    pub(super) slow_until: u64,
    turns: u64,
    log_watch: LogWatch,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct WorldStats {
    pub events: u64,
    pub turns: u64,
    pub frames: u64,
    pub frames_lost: u64,
    pub ghosts: u64,
    pub isolations: u64,
    pub stalls: u64,
    pub crashes: u64,
    pub rots: u64,
    /// Nodes whose disks were emptied, and those that peers have turned away for it.
    pub emptied: u64,
    pub refusals: u64,
    /// Logs given up for what a disk had lied about.
    pub lies_found: u64,
    /// Old frames that came when who sent them, or who was to receive them, had restarted.
    pub outlived: u64,
    pub struck: Struck,
    pub deaths: Deaths,
    pub moves: Moves,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: u64,
    order: u64,
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Frame { core: usize, frame: Vec<u8> },
    Disk { core: usize },
    Wake { core: usize },
    Outage,
    Isolation,
    Stall,
    Crash,
    Power,
    Restart { node: NodeId },
    Ghost,
    Drift,
    Jump,
    SetRight,
    SlowCore,
    Replay,
    Flap,
    Misdirect,
    Lose,
    HandOver,
    Doom { node: NodeId },
}

/// Where in its turn a node dies, and what that does to its disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    stage: Stage,
    crash: Crash,
}

impl Death {
    pub(super) fn draw(prng: &mut Prng) -> Death {
        let stage = *pick(prng, &[Stage::Executed, Stage::Submitted, Stage::Sending]);
        Death { stage, crash: *pick(prng, &[Crash::PowerCut, Crash::ProcessKill]) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    /// Nothing of what the turn brought is on its way to the disk.
    Executed,
    /// Nothing of it has been sent.
    Submitted,
    /// Some of it has.
    Sending,
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
        let nodes: Vec<SimNode> = (0..node_count)
            .map(|_| {
                let clock = NodeClock::new(skew(&mut prng));
                SimNode::new(board(), clock, SimIdentity::new(prng.u64(..)))
            })
            .collect();
        let mut cores = Vec::new();
        for node in (0..node_count as u16).map(NodeId) {
            for core in (0..config.cores(node) as u16).map(CoreId) {
                let me = Endpoint { node, core };
                let first = cores.len() as u32 * 100;
                cores.push(SimCore {
                    me,
                    core: Core::new(config, me, 1, prng.u64(..)),
                    clients: Clients::new(
                        recorder.clone(),
                        config.clone(),
                        first,
                        prng.fork(),
                        profile.reading,
                    ),
                    disk: None,
                    medium: Some(Medium::new(SEGMENT_BYTES)),
                    checkpoints: SimCheckpoints::new(CheckpointFaults::NONE),
                    mends: false,
                    disk_at: u64::MAX,
                    inbox: Vec::new(),
                    parcels: VecDeque::new(),
                    durable: Lsn::default(),
                    wake_at: u64::MAX,
                    busy_until: 0,
                    slow_until: 0,
                    turns: 0,
                    log_watch: LogWatch::default(),
                });
            }
        }
        let keys = profile.sealed.then(|| Keyring::new(&[[1; SECRET_BYTES]]).expect("one key is a ring"));
        let mut world = World {
            config: config.clone(),
            profile,
            keys,
            now: 0,
            nodes,
            cores,
            recorder,
            ghosts: Ghosts::new(config),
            attic: Attic::default(),
            bout: Bout::default(),
            orders: Orders::default(),
            aims: Vec::new(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            outages: Vec::new(),
            stats: WorldStats::default(),
            is_healed: false,
            frame: Vec::new(),
            prng,
        };
        for core in 0..world.cores.len() {
            world.open_disk(core).expect("a new disk opens");
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
                if self.cores[core].is_up() {
                    self.cores[core].inbox.push(frame);
                    self.wake_soon(core);
                }
            }
            What::Disk { core } if self.cores[core].disk_at == event.at => self.work_disk(core),
            What::Disk { .. } => {}
            What::Wake { core } if self.cores[core].wake_at == event.at => self.turn(core)?,
            What::Wake { .. } => {}
            What::Outage => self.begin_outage(),
            What::Isolation => self.isolate(),
            What::Stall => self.stall(),
            What::Crash => self.doom_one(),
            What::Power => self.cut_power(),
            What::Restart { node } => self.restart(node)?,
            What::Ghost => self.haunt()?,
            What::Drift => self.drift(),
            What::Jump => self.jump(),
            What::SetRight => self.set_clocks_right(),
            What::SlowCore => self.slow_core(),
            What::Replay => self.replay_frames(),
            What::Flap => self.flap(),
            What::Misdirect => self.tell_lie(Lie::Misdirected),
            What::Lose => self.tell_lie(Lie::Lost),
            What::HandOver => self.order_move(),
            What::Doom { node } if !self.is_healed => self.doom(node),
            What::Doom { .. } => {}
        }
        Ok(true)
    }

    /// From here on nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.is_healed = true;
        self.profile.heal();
        self.outages.clear();
        self.aims.clear();
        self.heal_clocks();
        for core in &mut self.cores {
            if let Some(disk) = &mut core.disk {
                disk.set_faults(self.profile.disk_faults());
            }
        }
        super::ghost::tell_all(self);
    }

    /// What a node's clock shows.
    pub fn local_time(&self, node: NodeId) -> Timestamp {
        self.nodes[usize::from(node.0)].clock.local_time(self.now)
    }

    /// Hands a core a message as if it came from an endpoint nobody will answer.
    pub fn inject(&mut self, core: usize, message: Vec<u8>) {
        self.cores[core].parcels.push_back(Parcel { from: CoreId(0), cargo: Cargo::Message(message) });
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
        let local = Timestamp(self.now);
        let World { cores, nodes, prng, .. } = self;
        cores[at].wake_at = u64::MAX;
        let SimCore { core, clients, disk, checkpoints, inbox, parcels, durable, .. } = &mut cores[at];
        let Some(log) = disk else { return Ok(()) };
        let board = &nodes[usize::from(me.node.0)].board;
        inbox.drain(..).for_each(|frame| core.on_frame(now, &frame));
        core.on_durable(now, *durable);
        let room = Log::room(log);
        let checkpoints = &mut CheckpointPort { checkpoints, now: local, prng };
        let mut ports = Ports { log, checkpoints, board };
        parcels.drain(..).for_each(|parcel| core.on_parcel(now, parcel, &mut ports));
        core.begin_turn(now, &mut ports);
        clients.set_time(local.0);
        clients.turn(now, &mut core.desk(now, room));
        core.end_turn(now, &mut ports);
        if self.is_refused(at)? {
            return Ok(());
        }
        self.look_at(at)?;
        self.check_opening(at)?;
        self.deliver_replies(at, now)?;
        self.take_moved(at)?;
        self.keep_answers(at);
        self.nodes[usize::from(me.node.0)].turns += 1;
        self.meet_aims(at);
        self.end_turn(at, now);
        Ok(())
    }

    /// What an onlooker checks of a core after its turn.
    fn look_at(&mut self, at: usize) -> Result<(), String> {
        let now = self.local_time(self.cores[at].me.node);
        let SimCore { me, core, disk, checkpoints, turns, slow_until, log_watch, .. } = &mut self.cores[at];
        self.recorder.borrow_mut().truth.observe(me.node, me.core.0, core)?;
        bounded::check(*me, core)?;
        *turns += 1;
        let Some(log) = disk.as_ref().filter(|_| turns.is_multiple_of(LOG_LOOKED_AT_EVERY)) else {
            return Ok(());
        };
        let read_ns = checkpoints.read_at().map(|read_at| Timestamp(self.now).since(read_at));
        let is_read = read_ns.is_some_and(|since| since < CHECKPOINT_READ_PAUSE_NS);
        let is_calm = self.now >= *slow_until && bounded::is_calm(now, core, log, is_read);
        let kept_below = |lsn| log.bytes_begun_below(lsn);
        let watched = log_watch.on_turn(self.now, is_calm, log.appended(), kept_below, log.log_bytes_due());
        watched.map_err(|why| format!("{me:?}: {why}"))
    }

    /// A reign that has just opened here: nobody before it holds the lease of its shard, by whatever clock. One after it
    /// may: then ours is over, and we have been too slow to hear of it.
    fn check_opening(&self, at: usize) -> Result<(), String> {
        let SimCore { me, core, clients, .. } = &self.cores[at];
        for replica in core.replicas().iter().filter(|replica| replica.open) {
            let stamp = replica.store.borrow().stamp();
            if clients.knows_reign(replica.id, stamp) {
                continue;
            }
            self.recorder.borrow().truth.check_opening(stamp)?;
            for (other, node) in (0u16..).map(NodeId).zip(&self.nodes).filter(|(other, _)| *other != me.node)
            {
                let until = node.board.lease(replica.shard);
                let holds = self.is_up(other) && until > self.local_time(other);
                let cores = self.cores.iter().filter(|core| core.me.node == other);
                let leads = cores.filter_map(|core| core.core.leads_under(replica.shard)).next();
                if holds && leads.is_none_or(|ballot| ballot.epoch() < stamp.epoch) {
                    let shard = replica.shard;
                    return Err(format!(
                        "{other:?} holds the lease of {shard:?}, and {:?} opens {stamp:?}",
                        me.node
                    ));
                }
            }
        }
        Ok(())
    }

    fn deliver_replies(&mut self, at: usize, now: Timestamp) -> Result<(), String> {
        let SimCore { core, clients, .. } = &mut self.cores[at];
        let led = core.replicas().iter().filter(|replica| replica.open);
        clients.set_reigns(led.map(|replica| (replica.id, replica.store.borrow().stamp())));
        while let Some((token, reply, procedure)) = core.poll_reply() {
            clients.on_reply(now, token, reply, procedure);
        }
        self.recorder.borrow_mut().fault.take().map_or(Ok(()), Err)
    }

    /// To the disk, then to the network and the siblings, unless the node dies on the way.
    fn end_turn(&mut self, at: usize, now: Timestamp) {
        let node = self.cores[at].me.node;
        let dying = self.nodes[usize::from(node.0)].dying.take();
        let dies_at = |stage| dying.filter(|death| death.stage == stage).map(|death| death.crash);
        if let Some(crash) = dies_at(Stage::Executed) {
            return self.crash(node, crash);
        }
        self.work_disk(at);
        if let Some(crash) = dies_at(Stage::Submitted) {
            return self.crash(node, crash);
        }
        let most = if dying.is_some() { self.prng.usize(..8) } else { usize::MAX };
        self.send_frames(at, now, most);
        if let Some(crash) = dies_at(Stage::Sending) {
            return self.crash(node, crash);
        }
        self.pass_parcels(at);
        self.schedule_next_turn(at, now);
    }

    /// Takes what the disk has done, and gives it what there is to do.
    fn work_disk(&mut self, at: usize) {
        let now = Timestamp(self.now);
        let World { cores, prng, .. } = self;
        let core = &mut cores[at];
        let Some(disk) = &mut core.disk else { return };
        let node = core.me.node;
        match disk.complete(now) {
            Ok(durable) if durable > core.durable => {
                core.durable = durable;
                disk.submit(now, prng);
                self.wake_soon(at);
            }
            Ok(_) => disk.submit(now, prng),
            // A failed write is never believed: the node leaves.
            Err(_) => {
                self.stats.struck.strike(Fault::Eio);
                return self.crash(node, Crash::ProcessKill);
            }
        }
        if self.cores[at].disk.as_ref().is_some_and(SimDisk::is_full) {
            self.stats.struck.strike(Fault::Full);
        }
        let due = self.cores[at].disk.as_ref().and_then(SimDisk::next_due).map_or(u64::MAX, |due| due.0);
        self.cores[at].disk_at = due;
        if due < u64::MAX {
            if due > self.now + MS {
                self.stats.struck.strike(Fault::Disk);
            }
            self.cores[at].disk_at = due.max(self.now);
            self.schedule(due.max(self.now), What::Disk { core: at });
        }
    }

    fn send_frames(&mut self, at: usize, now: Timestamp, most: usize) {
        let from = self.cores[at].me.node;
        let mut frame = std::mem::take(&mut self.frame);
        for _ in 0..most {
            let Some(to) = self.cores[at].core.poll_tx(now, &mut frame) else { break };
            self.stats.frames += 1;
            let cut = self.outages.iter().any(|(link, until)| *link == (from, to.node) && *until > self.now);
            let lost = self.prng.f64() < self.profile.loss;
            if lost {
                self.stats.struck.strike(Fault::Loss);
            }
            if cut || lost {
                self.stats.frames_lost += 1;
                continue;
            }
            let Some(core) = self.core_at(to) else { continue };
            self.keep_frame(from, core, &frame);
            let copies = if self.prng.f64() < self.profile.duplicate { 2 } else { 1 };
            if copies > 1 {
                self.stats.struck.strike(Fault::Duplicate);
            }
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
        if jitter > 0 {
            self.stats.struck.strike(Fault::Reorder);
        }
        if spike > 0 {
            self.stats.struck.strike(Fault::Delay);
        }
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
        let mut paused = if pause { self.prng.u64(..self.profile.pause_ns) } else { 0 };
        if pause {
            self.stats.struck.strike(Fault::Slow);
        }
        if self.cores[at].slow_until > self.now {
            paused += self.prng.u64(..self.profile.core_ns);
        }
        let core = &mut self.cores[at];
        core.busy_until = self.now + TURN_NS + paused;
        let deadline = core.core.deadline().map(|deadline| self.now + deadline.since(now));
        let deadline = deadline.into_iter().chain(core.clients.due()).min();
        let checkpointed = core.checkpoints.next_due().map(|due| due.0.max(core.busy_until));
        if let Some(due) = checkpointed {
            self.wake(at, due);
        }
        if let Some(deadline) = deadline {
            let (soonest, latest) = (self.cores[at].busy_until, self.now + WAIT_NS_MAX);
            self.wake(at, deadline.min(latest).max(soonest));
        }
    }

    pub(super) fn core_at(&self, endpoint: Endpoint) -> Option<usize> {
        self.cores.iter().position(|core| core.me == endpoint)
    }

    pub(super) fn wake_soon(&mut self, core: usize) {
        let at = self.now.max(self.cores[core].busy_until) + self.prng.u64(..WAKE_NS);
        self.wake(core, at);
    }

    fn wake(&mut self, core: usize, at: u64) {
        if at < self.cores[core].wake_at {
            self.cores[core].wake_at = at;
            self.schedule(at, What::Wake { core });
        }
    }

    pub(super) fn schedule(&mut self, at: u64, what: What) {
        self.scheduled += 1;
        self.queue.push(Reverse(Event { at, order: self.scheduled, what }));
    }

    fn schedule_faults(&mut self) {
        let Profile { outage_every_ns, isolation_every_ns, stall_every_ns, ghost_every_ns, .. } =
            self.profile;
        let Profile { crash_every_ns, power_every_ns, .. } = self.profile;
        for (every, what) in [
            (outage_every_ns, What::Outage),
            (isolation_every_ns, What::Isolation),
            (stall_every_ns, What::Stall),
            (crash_every_ns, What::Crash),
            (power_every_ns, What::Power),
            (ghost_every_ns, What::Ghost),
            (if self.profile.skew_ns > 0 { DRIFT_EVERY_NS } else { 0 }, What::Drift),
            (self.profile.jump_every_ns, What::Jump),
            (self.profile.core_every_ns, What::SlowCore),
            (self.profile.replay_every_ns, What::Replay),
            (self.profile.flap_every_ns, What::Flap),
            (self.profile.misdirect_every_ns, What::Misdirect),
            (self.profile.lost_every_ns, What::Lose),
            (self.profile.handover_every_ns, What::HandOver),
        ] {
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
        self.stats.struck.strike(Fault::Partition);
        self.outages.retain(|(_, until)| *until > self.now);
        self.outages.push(((from, to), until));
        if self.prng.bool() {
            self.outages.push(((to, from), until));
        }
        let next = self.now + self.prng.u64(..self.profile.outage_every_ns * 2);
        self.schedule(next, What::Outage);
    }

    /// Cuts every link of a node, both ways, for a while.
    fn isolate(&mut self) {
        if self.profile.isolation_every_ns == 0 || self.nodes.len() < 2 {
            return;
        }
        let alone = NodeId(self.prng.u16(..self.nodes.len() as u16));
        let until = self.now + self.prng.u64(..self.profile.absence_ns);
        self.cut_off(alone, until);
        self.stats.isolations += 1;
        self.stats.struck.strike(Fault::Isolate);
        let next = self.now + self.prng.u64(..self.profile.isolation_every_ns * 2);
        self.schedule(next, What::Isolation);
    }

    pub(super) fn cut_off(&mut self, alone: NodeId, until: u64) {
        for other in (0..self.nodes.len() as u16).map(NodeId).filter(|other| *other != alone) {
            self.outages.push(((alone, other), until));
            self.outages.push(((other, alone), until));
        }
    }

    /// Stops every core of a node; what arrives meanwhile waits.
    fn stall(&mut self) {
        if self.profile.stall_every_ns == 0 {
            return;
        }
        let node = NodeId(self.prng.u16(..self.nodes.len() as u16));
        let until = self.now + self.prng.u64(..self.profile.absence_ns);
        for at in 0..self.cores.len() {
            if self.cores[at].me.node == node && self.cores[at].is_up() {
                self.cores[at].busy_until = self.cores[at].busy_until.max(until);
                self.cores[at].wake_at = u64::MAX;
                self.wake(at, until);
            }
        }
        self.stats.stalls += 1;
        self.stats.struck.strike(Fault::Stall);
        let next = self.now + self.prng.u64(..self.profile.stall_every_ns * 2);
        self.schedule(next, What::Stall);
    }

    /// A node dies in its next turn.
    fn doom_one(&mut self) {
        if self.profile.crash_every_ns == 0 {
            return;
        }
        let next = self.now + self.prng.u64(..self.profile.crash_every_ns * 2);
        self.schedule(next, What::Crash);
        if self.prng.f64() < self.profile.aimed {
            return self.aim();
        }
        let node = NodeId(self.prng.u16(..self.nodes.len() as u16));
        self.doom(node);
    }

    /// The node dies in its next turn, if that is to be borne.
    pub(super) fn doom(&mut self, node: NodeId) {
        let death = Death::draw(&mut self.prng);
        if self.is_up(node) && self.may_die(false) {
            self.nodes[usize::from(node.0)].dying = Some(death);
            self.stats.struck.strike(Fault::Crash);
        }
    }

    fn cut_power(&mut self) {
        if self.profile.power_every_ns == 0 {
            return;
        }
        let next = self.now + self.prng.u64(..self.profile.power_every_ns * 2);
        self.schedule(next, What::Power);
        for node in (0..self.nodes.len() as u16).map(NodeId) {
            if self.is_up(node) && self.may_die(true) {
                self.stats.struck.strike(Fault::Power);
                self.crash(node, Crash::PowerCut);
            }
        }
    }

    fn haunt(&mut self) -> Result<(), String> {
        if self.profile.ghost_every_ns == 0 {
            return Ok(());
        }
        let next = self.now + self.prng.u64(..self.profile.ghost_every_ns * 2);
        self.schedule(next, What::Ghost);
        self.stats.ghosts += 1;
        self.stats.struck.strike(Fault::Ghost);
        super::ghost::haunt(self)
    }
}

impl SimNode {
    fn new(board: SimBoard, clock: NodeClock, identity: SimIdentity) -> SimNode {
        SimNode { board, clock, incarnation: 1, identity, turns: 0, hasty: false, dying: None }
    }

    /// Another process, which remembers nothing.
    pub(super) fn begin_life(&mut self, board: SimBoard) {
        self.incarnation += 1;
        self.turns = 0;
        self.board = board;
    }
}

impl SimCore {
    pub fn is_up(&self) -> bool {
        self.disk.is_some()
    }

    /// Nothing has arrived that its next turn would take in.
    pub fn is_quiet(&self) -> bool {
        self.inbox.is_empty() && self.parcels.is_empty()
    }

    /// What was made of its disk.
    pub(super) fn begin_life(&mut self, now: u64, disk: SimDisk, core: Core<Work>) {
        self.disk = Some(disk);
        self.core = core;
        self.busy_until = now;
    }

    /// Its process is gone: nothing reaches it any more, and nothing of it is due.
    pub(super) fn end_life(&mut self) {
        self.log_watch = LogWatch::default();
        self.inbox.clear();
        self.parcels.clear();
        self.durable = Lsn::default();
        (self.wake_at, self.disk_at) = (u64::MAX, u64::MAX);
    }
}

/// Small, so that a run crosses many segments; large enough for the largest batch a client makes.
pub(super) const SEGMENT_BYTES: usize = 128 * KIB;
/// Turns from one look at a log to the next.
const LOG_LOOKED_AT_EVERY: u64 = 64;
/// The speed of a clock changes this often.
const DRIFT_EVERY_NS: u64 = 500 * MS;
/// What a turn takes.
const TURN_NS: u64 = 2 * US;
/// How long an idle core takes to notice that something has arrived, at most.
const WAKE_NS: u64 = 20 * US;
/// No core sleeps longer.
const WAIT_NS_MAX: u64 = crate::bounds::SECOND;
