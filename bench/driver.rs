//! The clients of one core: they load, transact and inspect in the phases the steering thread sets.
//!
//! It runs inside the core's turn and never blocks. What a transaction does is the workload's affair, when one
//! starts is `arrivals`'s; what the phases mean for the whole run is `runner`'s.
//!
//! Invariants:
//!   1. At most `SUBMISSIONS_PER_TURN` transactions are submitted in a turn.
//!   2. A token names one flight from its submission to its last reply, which is the only thing that ends it.
//!   3. A transaction is measured when its durable reply falls into the window, wherever it began.
#![forbid(unsafe_code)]

use crate::arrivals::{Arrivals, Load};
use crate::control::{Control, Phase, Window};
use crate::inspections::Inspections;
use crate::loading::{Loading, Step};
use crate::measure::Measures;
use crate::workload::{Drawn, Inspection, Workload};
use mako::bounds::MS;
use mako::partition::{Driver, Mode, Submit};
use mako::txn::{Abort, Reply};
use mako::types::{NodeId, PartitionId, Timestamp};
use std::sync::Arc;

pub struct BenchDriver<W: Workload> {
    workload: W,
    control: Arc<Control>,
    clock: fn() -> Timestamp,
    load: Load,
    phase: Phase,
    window: Window,
    loading: Loading,
    arrivals: Vec<Arrivals<W::Procedure>>,
    inspections: Inspections<W>,
    flights: Flights<W::Procedure>,
    measures: Measures,
    latest_commit: Timestamp,
    /// Whether this core ever led a partition it could work on.
    has_led: bool,
    /// Whether this core has said that it is done with the phase.
    arrived: bool,
    wake: Timestamp,
}

impl<W: Workload> BenchDriver<W> {
    pub fn new(
        workload: W,
        control: Arc<Control>,
        load: Load,
        node: NodeId,
        clock: fn() -> Timestamp,
    ) -> Self {
        BenchDriver {
            window: control.window(),
            phase: control.phase(),
            workload,
            control,
            clock,
            load,
            loading: Loading::new(),
            arrivals: Vec::new(),
            inspections: Inspections::new(node),
            flights: Flights::new(),
            measures: Measures::new(W::KINDS.len()),
            latest_commit: Timestamp(0),
            has_led: false,
            arrived: false,
            wake: Timestamp(0),
        }
    }

    pub fn workload(&self) -> &W {
        &self.workload
    }

    pub fn measures(&self) -> &Measures {
        &self.measures
    }

    pub fn has_led(&self) -> bool {
        self.has_led
    }

    fn follow_phase(&mut self) {
        let phase = self.control.phase();
        if phase != self.phase {
            self.phase = phase;
            self.window = self.control.window();
            self.arrived = false;
        }
    }

    fn arrive_when(&mut self, done: bool) {
        if done && !self.arrived {
            self.arrived = true;
            self.control.raise_latest_commit(self.latest_commit);
            self.control.arrive(self.phase);
        }
    }

    fn turn_load(&mut self, now: Timestamp, core: &mut dyn Submit<W::Procedure>) {
        self.loading.claim(&self.workload, &self.control, core.led());
        for _ in 0..SUBMISSIONS_PER_TURN {
            let Some((home, step, procedure)) = self.loading.next(now, &self.workload, core.led()) else {
                return;
            };
            let flight = Flight::new(Purpose::Load(step), home, now);
            if self.submit(core, Mode::ReadWrite, flight, procedure).is_err() {
                self.loading.on_returned(now, step);
                return;
            }
        }
        self.wake = now;
    }

    fn turn_run(&mut self, now: Timestamp, core: &mut dyn Submit<W::Procedure>) {
        if now >= self.window.until {
            return;
        }
        self.follow_leadership(now, core.led());
        if let Some((inspection, procedure)) = self.inspections.next_audit(now, &mut self.workload, core) {
            self.inspect(now, core, inspection, procedure);
        }
        let mut budget = SUBMISSIONS_PER_TURN;
        for at in 0..self.arrivals.len() {
            // What one partition leaves, the next may use; the first to ask changes every turn.
            let share = budget.div_ceil(self.arrivals.len() - at);
            budget -= self.start_clients(at, share, now, core);
        }
        if !self.arrivals.is_empty() {
            self.arrivals.rotate_left(1);
        }
        let due = self.arrivals.iter().filter_map(Arrivals::due).min();
        self.wake = due.map_or(self.wake, |due| self.wake.min(due.max(now)));
    }

    /// Partitions come and go with elections; clients exist where there is a leader and something to work on.
    fn follow_leadership(&mut self, now: Timestamp, led: &[PartitionId]) {
        self.arrivals.retain(|arrivals| led.contains(&arrivals.home));
        for home in led {
            let is_new = self.arrivals.iter().all(|arrivals| arrivals.home != *home);
            if is_new && self.workload.serves(*home) {
                self.arrivals.push(Arrivals::new(self.load, *home, now));
                self.has_led = true;
            }
        }
    }

    /// Starts at most `share` transactions of one partition; returns how many.
    fn start_clients(
        &mut self,
        at: usize,
        share: usize,
        now: Timestamp,
        core: &mut dyn Submit<W::Procedure>,
    ) -> usize {
        for started in 0..share {
            let arrivals = &mut self.arrivals[at];
            if arrivals.due().is_none_or(|due| due > now) {
                return started;
            }
            let home = arrivals.home;
            let held = arrivals.take_held();
            let Drawn { kind, procedure } = held.unwrap_or_else(|| self.workload.draw(home));
            // A local transaction runs inside `submit`: each one's start is read, not the turn's.
            let meant = self.arrivals[at].start(now);
            let start = meant.unwrap_or_else(self.clock);
            let flight = Flight::new(Purpose::Client { kind }, home, start);
            if let Err(procedure) = self.submit(core, Mode::ReadWrite, flight, procedure) {
                if self.window.contains(now) {
                    self.measures.on_busy();
                }
                self.arrivals[at].on_busy(now, Drawn { kind, procedure });
                return started + 1;
            }
        }
        share
    }

    fn turn_check(&mut self, now: Timestamp, core: &mut dyn Submit<W::Procedure>) {
        // An older snapshot would miss the last transactions on some partitions and not on others.
        if core.snapshot() < self.control.latest_commit() {
            return;
        }
        if let Some((inspection, procedure)) = self.inspections.next_check(now, &mut self.workload, core) {
            self.inspect(now, core, inspection, procedure);
        }
        self.arrive_when(self.inspections.is_complete(core.hosted()));
    }

    fn inspect(
        &mut self,
        now: Timestamp,
        core: &mut dyn Submit<W::Procedure>,
        inspection: Inspection,
        procedure: W::Procedure,
    ) {
        let flight = Flight::new(Purpose::Inspect(inspection), inspection.home, now);
        if let Err(procedure) = self.submit(core, Mode::Snapshot, flight, procedure) {
            self.inspections.on_failed(now, inspection, procedure);
        }
    }

    fn submit(
        &mut self,
        core: &mut dyn Submit<W::Procedure>,
        mode: Mode,
        flight: Flight<W::Procedure>,
        procedure: W::Procedure,
    ) -> Result<(), W::Procedure> {
        let home = flight.home;
        let token = self.flights.insert(flight);
        core.submit(home, mode, token, procedure).inspect_err(|_| {
            self.flights.remove(token);
        })
    }

    fn on_speculative(&mut self, token: u64, reply: (bool, u32), procedure: Option<W::Procedure>) {
        let at = (self.clock)();
        let flight = self.flights.get(token);
        let (distributed, attempts) = reply;
        flight.distributed = distributed;
        flight.speculative_ns = Some(at.since(flight.start));
        match flight.purpose {
            Purpose::Client { .. } if self.window.contains(at) => self.measures.on_retried(attempts),
            Purpose::Inspect(_) => flight.procedure = procedure,
            Purpose::Client { .. } | Purpose::Load(_) => {}
        }
    }

    fn on_durable(&mut self, token: u64, timestamp: Timestamp, procedure: Option<W::Procedure>) {
        let at = (self.clock)();
        let flight = self.flights.remove(token);
        match flight.purpose {
            Purpose::Load(step) => {
                self.latest_commit = self.latest_commit.max(timestamp);
                // Raised before the partition counts as loaded: `Settle` waits for it.
                self.control.raise_latest_commit(timestamp);
                self.loading.on_loaded(step, &self.control);
            }
            Purpose::Client { kind } => {
                self.latest_commit = self.latest_commit.max(timestamp);
                self.workload.on_durable(kind);
                if self.window.contains(at) {
                    let durable_ns = at.since(flight.start);
                    let speculative_ns = flight.speculative_ns.unwrap_or(durable_ns);
                    self.measures.on_durable(kind, flight.distributed, speculative_ns, durable_ns);
                }
                self.complete(flight.home);
            }
            Purpose::Inspect(inspection) => {
                let procedure = procedure.or(flight.procedure).expect("a reply gave the procedure back");
                let again = self.workload.on_inspected(inspection, procedure);
                self.inspections.on_inspected(at, inspection, again);
            }
        }
    }

    /// Aborted, or rolled back after a speculative reply (`None`).
    fn on_not_committed(
        &mut self,
        token: u64,
        aborted: Option<(Abort, u32)>,
        procedure: Option<W::Procedure>,
    ) {
        let at = (self.clock)();
        let flight = self.flights.remove(token);
        match flight.purpose {
            Purpose::Load(step) => {
                if let Some((abort, _)) = aborted.as_ref().filter(|(abort, _)| !is_passing(abort)) {
                    self.control.fail(format!(
                        "the load failed (partition {}, step {}): {abort}",
                        step.partition.0, step.number
                    ));
                }
                self.loading.on_returned(at, step);
            }
            Purpose::Client { .. } => {
                let busy = aborted.as_ref().is_some_and(|(abort, _)| matches!(abort, Abort::Busy(_)));
                if self.window.contains(at) {
                    match aborted {
                        Some((abort, attempts)) => self.measures.on_aborted(&abort, attempts),
                        None => self.measures.rolled_back += 1,
                    }
                }
                if busy && let Some(arrivals) = self.arrivals.iter_mut().find(|a| a.home == flight.home) {
                    arrivals.rest(at);
                }
                self.complete(flight.home);
            }
            Purpose::Inspect(inspection) => {
                let procedure = procedure.or(flight.procedure).expect("a reply gave the procedure back");
                self.inspections.on_failed(at, inspection, procedure);
            }
        }
    }

    fn complete(&mut self, home: PartitionId) {
        // The partition may have lost its leader, and with it its clients, since.
        if let Some(arrivals) = self.arrivals.iter_mut().find(|arrivals| arrivals.home == home) {
            arrivals.on_completed();
            self.wake = self.wake.min(arrivals.due().unwrap_or(self.wake));
        }
    }
}

impl<W: Workload> Driver for BenchDriver<W> {
    type Procedure = W::Procedure;

    fn turn(&mut self, now: Timestamp, core: &mut dyn Submit<W::Procedure>) {
        self.follow_phase();
        self.wake = now.plus_ns(IDLE_POLL_NS);
        match self.phase {
            Phase::Load => self.turn_load(now, core),
            // A follower that still catches up would take its share of every link from what is measured.
            Phase::Settle => {
                let loaded = self.control.latest_commit();
                self.arrive_when(core.snapshot() >= loaded && core.applied() >= loaded);
            }
            Phase::Run => self.turn_run(now, core),
            Phase::Drain => self.arrive_when(self.flights.is_empty()),
            Phase::Check => self.turn_check(now, core),
            Phase::Done => {}
        }
    }

    fn on_reply(&mut self, now: Timestamp, token: u64, reply: Reply, procedure: Option<W::Procedure>) {
        match reply {
            Reply::Speculative { distributed, attempts, .. } => {
                self.on_speculative(token, (distributed, attempts), procedure);
                return;
            }
            Reply::Durable { timestamp, .. } => self.on_durable(token, timestamp, procedure),
            Reply::RolledBack => self.on_not_committed(token, None, procedure),
            Reply::Aborted { abort, attempts } => {
                self.on_not_committed(token, Some((abort, attempts)), procedure);
            }
        }
        if self.phase != Phase::Run {
            self.wake = now;
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        (self.phase != Phase::Done).then_some(self.wake)
    }
}

/// Whether the same transaction may well succeed a moment later.
fn is_passing(abort: &Abort) -> bool {
    matches!(abort, Abort::Conflict { .. } | Abort::Busy(_) | Abort::Unavailable)
}

/// A transaction between its submission and its last reply.
struct Flight<P> {
    purpose: Purpose,
    home: PartitionId,
    /// When it was submitted; in an open loop, when it was meant to be.
    start: Timestamp,
    speculative_ns: Option<u64>,
    distributed: bool,
    procedure: Option<P>,
}

#[derive(Clone, Copy)]
enum Purpose {
    Load(Step),
    Client { kind: usize },
    Inspect(Inspection),
}

impl<P> Flight<P> {
    fn new(purpose: Purpose, home: PartitionId, start: Timestamp) -> Flight<P> {
        Flight { purpose, home, start, speculative_ns: None, distributed: false, procedure: None }
    }
}

/// Flights by token: places are used again, so that a long run does not grow.
struct Flights<P> {
    places: Vec<Option<Flight<P>>>,
    free: Vec<u32>,
}

impl<P> Flights<P> {
    fn new() -> Flights<P> {
        Flights { places: Vec::new(), free: Vec::new() }
    }

    fn insert(&mut self, flight: Flight<P>) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).expect("the engine bounds what is in flight")
        });
        self.places[place as usize] = Some(flight);
        u64::from(place)
    }

    fn get(&mut self, token: u64) -> &mut Flight<P> {
        let place = usize::try_from(token).expect("a token of ours");
        self.places[place].as_mut().expect("a reply belongs to a flight")
    }

    fn remove(&mut self, token: u64) -> Flight<P> {
        let place = u32::try_from(token).expect("a token of ours");
        let flight = self.places[place as usize].take().expect("a flight ends once");
        self.free.push(place);
        flight
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }
}

/// A core's turn also serves the network and the disk: clients may not keep it for long.
const SUBMISSIONS_PER_TURN: usize = 16;
/// How soon an idle core notices a new phase.
const IDLE_POLL_NS: u64 = 5 * MS;

#[cfg(test)]
mod tests;
