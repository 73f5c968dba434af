//! The loop that runs a core's partitions over its network and its disk, and what cores share.
//!
//! | file | is |
//! |---|---|
//! | here | the turn, and what an idle core does |
//! | `siblings` | the cores of one node: rings between them, and whether they are to stop |
//! | `ring`, `board` | the two things cores share: one producer to one consumer, and atomics |
//! | `orders` | what other threads may ask of a core |
//! | `ports` | disk and board as the partition asks for them |
//! | `affinity`, `wait` | what is asked of the kernel: a CPU, and sleep |
//!
//! It decides nothing about transactions. That nothing is spoken before it is on disk is the core's
//! doing: it holds each message until `on_durable` has passed what the message rests on.
//!
//! Invariants:
//!   1. A turn never blocks. A core blocks without an end in one place, [`Reactor::sleep`], and only after
//!      a whole turn that began with its waker armed found nothing to do: so nothing handed over meanwhile
//!      is missed. A pause ([`Reactor::pause`]) has an end.
//!   2. After a failure of the disk no turn is begun and no frame leaves.
#![deny(unsafe_code)]

pub mod affinity;
pub mod board;
mod orders;
mod ports;
pub mod ring;
mod siblings;
#[cfg(test)]
mod tests;
mod wait;

pub use orders::{Answer, HandOver, NoOrder, OrderSender, Orders, orders};
pub use siblings::{Awaited, Shared, Siblings};

use crate::bounds::{
    BACKGROUND_NS_MAX, CAUGHT_UP_NS, FRAME_BYTES, PAUSE_NS_MAX, PAUSE_NS_MIN, PAUSE_SHARE, RX_BURST,
    SESSIONS_MAX, TX_BURST,
};
use crate::clock::Clock;
use crate::config::Config;
use crate::disk::{Disk, DiskError, FileCheckpoints};
use crate::nic::{Nic, NicStats, Wake};
use crate::partition::{Core, CoreStats, Driver, Log, Ports, Recovery};
use crate::rpc::{Keyring, RpcStats};
use crate::txn::Procedure;
use crate::types::{Ballot, Endpoint, Lsn, Timestamp};
use ports::{CoreCheckpoints, CoreLog};
use std::rc::Rc;
use std::sync::Arc;

/// One core at work. Lives on its own thread from `new` on.
pub struct Reactor<D: Driver, N, K, C> {
    core: Core<D::Procedure>,
    driver: D,
    outbox: Outbox<N>,
    log: CoreLog<K>,
    checkpoints: CoreCheckpoints,
    clock: C,
    siblings: Siblings,
    orders: Orders,
    shared: Arc<Shared>,
    sleep_after_ns: Option<u64>,
    /// What was last reported to the core. Monotone.
    durable: Lsn,
    /// Every replica here votes, and the node knows it. Stays so.
    votes: bool,
    /// Told to the node.
    awaited: Vec<Awaited>,
    refused: u64,
    pace: Pace,
}

/// What a core is given by whoever starts it. May be made on one thread and used on another.
pub struct Seat<N, K> {
    pub me: Endpoint,
    pub nic: N,
    pub disk: K,
    pub siblings: Siblings,
    pub orders: Orders,
    /// How long a core that finds nothing to do goes on looking before it sleeps; `None`: for ever.
    pub sleep_after_ns: Option<u64>,
    /// Grows with every start of the node.
    pub incarnation: u64,
    pub seed: u64,
    /// Frames are sealed under these, and counted from there; `None`: they go in the open.
    pub keys: Option<(Keyring, u64)>,
}

impl<N> Seat<N, ()> {
    /// A disk is opened where it is used.
    pub fn with_disk<K>(self, disk: K) -> Seat<N, K> {
        let Seat { me, nic, disk: (), siblings, orders, sleep_after_ns, incarnation, seed, keys } = self;
        Seat { me, nic, disk, siblings, orders, sleep_after_ns, incarnation, seed, keys }
    }
}

impl<D: Driver, N: Nic, K: Disk, C: Clock> Reactor<D, N, K, C> {
    /// `recovery` is what the disk held.
    pub fn new(
        seat: Seat<N, K>,
        recovery: Recovery,
        config: &Rc<Config>,
        clock: C,
        driver: D,
    ) -> Reactor<D, N, K, C> {
        let Seat { me, nic, disk, siblings, orders, sleep_after_ns, incarnation, seed, keys } = seat;
        let mut core = Core::restored(config, me, incarnation, seed, recovery);
        core.set_paced(sleep_after_ns.is_none());
        if let Some((keys, first)) = keys {
            core.set_keys(keys, first);
        }
        Reactor {
            core,
            driver,
            outbox: Outbox { nic, frame: Vec::with_capacity(FRAME_BYTES), unsent: None },
            log: CoreLog(disk),
            checkpoints: CoreCheckpoints::default(),
            pace: Pace::new(clock.now()),
            clock,
            shared: Arc::clone(siblings.shared()),
            siblings,
            orders,
            sleep_after_ns,
            durable: Lsn::default(),
            votes: false,
            awaited: Vec::new(),
            refused: 0,
        }
    }

    /// Keeps the checkpoints of the core's partitions there.
    pub fn with_checkpoints(mut self, files: FileCheckpoints) -> Reactor<D, N, K, C> {
        self.checkpoints = CoreCheckpoints::new(files);
        self
    }

    /// Turn after turn, until the node is told to stop, or is turned away by a peer. Then its peers are told, unless it
    /// was killed.
    pub fn run(&mut self) -> Result<(), DiskError> {
        self.turns_until(|_, _| false)?;
        if self.shared.is_killed() {
            return Ok(());
        }
        let now = self.clock.now();
        self.core.leave();
        for _ in 0..SESSIONS_MAX.div_ceil(TX_BURST) {
            if self.outbox.transmit(now, &mut self.core) == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Turn after turn, as long as nobody needs this core but itself: until it has applied all but the newest of what
    /// there is, or hears of a reign that is new to it (a shard with a leader less needs its replicas), or leads; or
    /// until it has taken `BACKGROUND_NS_MAX`.
    pub fn catch_up(&mut self) -> Result<(), DiskError> {
        let over = self.clock.now().plus_ns(BACKGROUND_NS_MAX);
        let known: Vec<Ballot> = self.core.reigns().collect();
        self.turns_until(|core, now| {
            let is_needed = !core.reigns().eq(known.iter().copied()) || !core.led().is_empty();
            is_needed || now.since(core.applied()) < CAUGHT_UP_NS || now >= over
        })
    }

    /// As long as the node is to run.
    fn turns_until(
        &mut self,
        is_over: impl Fn(&Core<D::Procedure>, Timestamp) -> bool,
    ) -> Result<(), DiskError> {
        wait::ask_for_exact_timers();
        while !self.shared.is_stopped()
            && self.core.refused_by().is_none()
            && !is_over(&self.core, self.pace.turned_at)
        {
            self.turn()?;
            self.note_refused();
            self.note_votes();
            if self.sleep_after_ns.is_some_and(|limit_ns| self.pace.idle_ns() >= limit_ns) {
                self.pause();
                self.sleep()?;
            }
        }
        Ok(())
    }

    /// One turn; whether it found anything to do. The order is the design: time is read next to the
    /// frames it stamps; completions come before new work, so that one write frees many replies; the log
    /// is submitted and frames leave once, at the end, so that one turn is one write and one burst.
    pub fn turn(&mut self) -> Result<bool, DiskError> {
        let now = self.clock.now();
        self.pace.begin_turn(now);
        let Reactor { core, driver, outbox, log, checkpoints, siblings, orders, durable, .. } = self;

        let mut work = outbox.nic.rx_burst(RX_BURST, &mut |frame| core.on_frame(now, frame));
        work += reap(now, log, durable, core)?;
        let mut ports = Ports { log, checkpoints, board: &self.shared.board };
        work += siblings.receive(|parcel| core.on_parcel(now, parcel, &mut ports));
        work += orders.give(now, core);
        core.begin_turn(now, &mut ports);
        driver.turn(now, &mut core.desk(now, Log::room(ports.log)));
        // Read again: what was read in this turn is true only if the lease still holds at its end.
        core.end_turn(self.clock.now(), &mut ports);
        while let Some((token, reply, procedure)) = core.poll_reply() {
            driver.on_reply(now, token, reply, procedure);
            work += 1;
        }
        work += orders.answer(core);
        checkpoints.check()?;
        log.0.submit()?;
        // A disk that only remembers has finished already: what waited for it leaves in this burst.
        work += reap(now, log, durable, core)?;
        work += outbox.transmit(now, core);
        work += siblings.send(core);

        self.pace.end_turn(work > 0);
        Ok(work > 0)
    }

    /// Where cores share CPUs, one that has worked just now lets what comes next gather: neither a frame nor
    /// a sibling interrupts, and the turn after it finds a burst. A timer does.
    fn pause(&mut self) {
        if self.sleep_after_ns != Some(0) {
            return;
        }
        let over = self.pace.worked_at.plus_ns(pause_ns(self.core.rpc().rtt_ns_min()));
        let until = self.deadline().map_or(over, |due| due.min(over));
        let now = self.clock.now();
        if now < until {
            self.pace.end_work(now);
            wait::wait([None; 4], Some(until.since(now)));
        }
    }

    /// Ends with whatever comes first: a frame, a completion, a sibling, a time somebody named. Once the
    /// waker is armed everything is looked at again, by a whole turn (invariant 1).
    fn sleep(&mut self) -> Result<(), DiskError> {
        self.siblings.waker().begin_sleep();
        if !self.turn()? && !self.shared.is_stopped() {
            let Wake { fd, blind_ns_max, .. } = self.outbox.nic.wake();
            let due_ns = self.deadline().map(|due| due.since(self.clock.now()));
            let left_ns = due_ns.into_iter().chain(blind_ns_max).min();
            self.pace.sleeps += 1;
            let siblings = Some(self.siblings.waker().fd());
            wait::wait([fd, self.log.0.wake_fd(), self.checkpoints.wake_fd(), siblings], left_ns);
        }
        self.siblings.waker().end_sleep();
        Ok(())
    }

    /// When the next turn has something to do though nothing comes.
    fn deadline(&self) -> Option<Timestamp> {
        let nic = self.outbox.nic.wake().deadline;
        let deadlines = [self.core.deadline(), self.driver.deadline(), self.log.0.deadline(), nic];
        deadlines.into_iter().flatten().min()
    }

    /// Tells the node whose frames did not open.
    fn note_refused(&mut self) {
        let stats = self.core.rpc().stats();
        if stats.refused_total() > self.refused {
            self.refused = stats.refused_total();
            self.shared.note_refused(self.core.endpoint().core, stats.refused());
        }
    }

    /// Tells the node once every replica here votes.
    fn note_votes(&mut self) {
        if self.votes {
            return;
        }
        let is_refused = |node| self.core.rpc().stats().refused().any(|(refused, _)| refused == node);
        let awaited = self.core.awaited().map(|node| Awaited { node, refused: is_refused(node) });
        let awaited: Vec<Awaited> = awaited.collect();
        if awaited != self.awaited {
            self.shared.note_awaited(self.core.endpoint().core, awaited.clone());
            self.awaited = awaited;
        }
        if !self.core.is_forgetful() {
            self.votes = true;
            self.shared.note_voting();
        }
    }

    pub fn core(&self) -> &Core<D::Procedure> {
        &self.core
    }

    /// The driver, and what the core has done.
    pub fn finish(self) -> (D, Tally) {
        let tally = Tally {
            busy: self.pace.busy(),
            turns: self.pace.turns,
            sleeps: self.pace.sleeps,
            core: self.core.stats(),
            rpc: self.core.rpc().stats().clone(),
            nic: self.outbox.nic.stats(),
        };
        (self.driver, tally)
    }
}

/// Tells the core how far its log is durable, if that is news. 1 if it is.
fn reap<P: Procedure, K: Disk>(
    now: Timestamp,
    log: &mut CoreLog<K>,
    durable: &mut Lsn,
    core: &mut Core<P>,
) -> Result<usize, DiskError> {
    let reached = log.0.reap(now)?;
    if reached <= *durable {
        return Ok(0);
    }
    *durable = reached;
    core.on_durable(now, reached);
    Ok(1)
}

/// How long a core pauses after a turn, when its nearest peer is that far away.
fn pause_ns(rtt_ns: Option<u64>) -> u64 {
    let share_ns = rtt_ns.unwrap_or_default() / PAUSE_SHARE;
    if share_ns < PAUSE_NS_MIN { 0 } else { share_ns.min(PAUSE_NS_MAX) }
}

/// The NIC, and the one frame it may have had no room for.
struct Outbox<N> {
    nic: N,
    frame: Vec<u8>,
    /// Whom `frame` is for, if it is still to be sent.
    unsent: Option<Endpoint>,
}

impl<N: Nic> Outbox<N> {
    /// Sends what the core has to say, a bounded number of frames. How many went or still wait: while
    /// any do, the core comes back.
    fn transmit<P: Procedure>(&mut self, now: Timestamp, core: &mut Core<P>) -> usize {
        let mut pushed = 0;
        while pushed < TX_BURST {
            let Some(to) = self.unsent.take().or_else(|| core.poll_tx(now, &mut self.frame)) else { break };
            if !self.nic.tx_push(now, to, &self.frame) {
                self.unsent = Some(to);
                break;
            }
            pushed += 1;
        }
        let left = self.nic.tx_flush(now);
        pushed + left + usize::from(self.unsent.is_some())
    }
}

/// What a core has done, to be read when it has stopped.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The part of its time in turns that found something to do, 0 to 1.
    pub busy: f64,
    pub turns: u64,
    pub sleeps: u64,
    pub core: CoreStats,
    pub rpc: RpcStats,
    pub nic: NicStats,
}

/// When a core worked and when it did not. Reads no clock: a turn ends where the next one begins, unless
/// a pause comes between.
struct Pace {
    started: Timestamp,
    /// When the last turn began, and whether it did anything.
    turned_at: Timestamp,
    worked: bool,
    worked_at: Timestamp,
    busy_ns: u64,
    turns: u64,
    sleeps: u64,
}

impl Pace {
    fn new(now: Timestamp) -> Pace {
        Pace { started: now, turned_at: now, worked: false, worked_at: now, busy_ns: 0, turns: 0, sleeps: 0 }
    }

    fn begin_turn(&mut self, now: Timestamp) {
        self.end_work(now);
        self.turned_at = now;
        self.turns += 1;
    }

    fn end_work(&mut self, now: Timestamp) {
        if std::mem::take(&mut self.worked) {
            self.busy_ns += now.since(self.turned_at);
        }
    }

    fn end_turn(&mut self, worked: bool) {
        self.worked = worked;
        if worked {
            self.worked_at = self.turned_at;
        }
    }

    fn idle_ns(&self) -> u64 {
        self.turned_at.since(self.worked_at)
    }

    fn busy(&self) -> f64 {
        self.busy_ns as f64 / self.turned_at.since(self.started).max(1) as f64
    }
}
