//! The cores of a cluster under test as `runner` steers them, wherever they are; and those of this process.
//!
//! Those of other processes are `children`'s. What they are told and what they tell is the same, and small enough
//! to be a line of JSON.
//!
//! Invariant: a value that is dropped, finished or abandoned leaves no core behind.
#![forbid(unsafe_code)]

use crate::arrivals::Load;
use crate::control::{Control, Phase, Window};
use crate::driver::BenchDriver;
use crate::machine;
use crate::measure::Measures;
use crate::workload::Workload;
use anyhow::bail;
use mako::clock;
use mako::config::Config;
use mako::server::{Cluster, CoreReport, StartError, Watch};
use mako::types::{CoreId, NodeId, PartitionId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub trait Cores<F> {
    /// How far they are; an error when the run cannot go on.
    fn look(&mut self) -> anyhow::Result<Progress>;

    /// Has them go on to the next phase.
    fn enter(&mut self, step: Step) -> anyhow::Result<()>;

    /// Ends them, and takes what they bring back.
    fn finish(self) -> anyhow::Result<Harvest<F>>;

    /// Ends them after a failure; why the run failed, which a core may know better.
    fn abandon(self, why: anyhow::Error) -> anyhow::Error;
}

/// How far some cores are.
#[derive(Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
pub struct Progress {
    pub steps_loaded: u64,
    pub partitions_loaded: usize,
    /// Cores that have nothing left to do in the present phase.
    pub arrived: usize,
    /// The newest timestamp at which they have committed anything durably.
    pub latest_commit: u64,
    /// CPU time of their processes so far, and memory that these have now.
    pub process_seconds: f64,
    pub memory_bytes: u64,
}

impl Progress {
    pub fn add(&mut self, other: &Progress) {
        self.steps_loaded += other.steps_loaded;
        self.partitions_loaded += other.partitions_loaded;
        self.arrived += other.arrived;
        self.latest_commit = self.latest_commit.max(other.latest_commit);
        self.process_seconds += other.process_seconds;
        self.memory_bytes += other.memory_bytes;
    }
}

/// A phase to go on to, and what must be known in it.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub phase: Phase,
    /// What is measured begins here, and ends there.
    pub from: u64,
    pub until: u64,
    /// The newest timestamp at which any core of the cluster has committed anything durably.
    pub latest_commit: u64,
}

/// What some cores bring back.
#[derive(Serialize, Deserialize)]
pub struct Harvest<F> {
    pub measures: Measures,
    /// Of each core that led: the share of its time in which it did something.
    pub leaders_busy: Vec<f64>,
    pub frames: Frames,
    pub found: Vec<F>,
}

/// What became of the frames of some cores.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Frames {
    pub sent: u64,
    pub received: u64,
    /// Had no room somewhere, or no way to go.
    pub dropped: u64,
    pub corrupt: u64,
    /// Somebody else's.
    pub foreign: u64,
    pub packets_resent: u64,
}

impl Frames {
    fn add(&mut self, other: &Frames) {
        self.sent += other.sent;
        self.received += other.received;
        self.dropped += other.dropped;
        self.corrupt += other.corrupt;
        self.foreign += other.foreign;
        self.packets_resent += other.packets_resent;
    }
}

impl<F> Harvest<F> {
    pub fn new(kinds: usize) -> Harvest<F> {
        let (leaders_busy, found) = (Vec::new(), Vec::new());
        Harvest { measures: Measures::new(kinds), leaders_busy, frames: Frames::default(), found }
    }

    pub fn add(&mut self, other: Harvest<F>) {
        self.measures.add(&other.measures);
        self.leaders_busy.extend(other.leaders_busy);
        self.frames.add(&other.frames);
        self.found.extend(other.found);
    }

    fn of<W: Workload<Findings = F>>(cores: &[CoreReport<BenchDriver<W>>]) -> Harvest<F> {
        let mut harvest = Harvest::new(W::KINDS.len());
        for CoreReport { driver, tally, .. } in cores {
            harvest.measures.add(driver.measures());
            if driver.has_led() {
                harvest.leaders_busy.push(tally.busy);
            }
            let nic = &tally.nic;
            harvest.frames.add(&Frames {
                sent: nic.frames_sent,
                received: nic.frames_received,
                dropped: nic.undeliverable + nic.overflowed + nic.truncated + nic.refused,
                corrupt: nic.corrupt,
                foreign: nic.foreign,
                packets_resent: tally.rpc.packets_resent,
            });
            harvest.found.push(driver.workload().findings());
        }
        harvest
    }
}

/// Cores that are threads of this process.
pub struct Threads<W: Workload> {
    cluster: Cluster<BenchDriver<W>>,
    control: Arc<Control>,
}

impl<W: Workload> Threads<W> {
    /// Of some nodes of `config`. `make` makes the workload of a core, from a number no other core has.
    pub fn start(
        config: Config,
        nodes: &[NodeId],
        watch: Watch,
        (control, load): (Arc<Control>, Load),
        make: impl Fn(u32) -> W + Send + Sync + 'static,
    ) -> Result<Threads<W>, StartError> {
        let on_cores = control.clone();
        let make_driver = move |node: NodeId, _: CoreId| {
            let workload = make(on_cores.register_generator());
            BenchDriver::new(workload, on_cores.clone(), load, node, clock::now)
        };
        let cluster = Cluster::start_nodes(config, nodes, watch, make_driver)?;
        for notice in cluster.notices() {
            eprintln!("note: {notice}");
        }
        Ok(Threads { cluster, control })
    }

    /// Partitions that a core here would load, where other processes may do it too.
    pub fn wishes(&self) -> Vec<u16> {
        self.control.wishes().map(|partition| partition.0).collect()
    }

    pub fn grant(&self, partition: u16) {
        self.control.grant(PartitionId(partition));
    }
}

impl<W: Workload> Cores<W::Findings> for Threads<W> {
    fn look(&mut self) -> anyhow::Result<Progress> {
        if let Some(why) = self.control.failure() {
            bail!("{why}");
        }
        let control = &self.control;
        Ok(Progress {
            steps_loaded: control.steps_loaded(),
            partitions_loaded: control.partitions_loaded(),
            arrived: control.arrived(control.phase()),
            latest_commit: control.latest_commit().0,
            process_seconds: machine::process_seconds(),
            memory_bytes: machine::resident_bytes(),
        })
    }

    fn enter(&mut self, step: Step) -> anyhow::Result<()> {
        let Step { phase, from, until, latest_commit } = step;
        self.control.set_window(Window { from: Timestamp(from), until: Timestamp(until) });
        self.control.raise_latest_commit(Timestamp(latest_commit));
        self.control.enter(phase);
        Ok(())
    }

    fn finish(self) -> anyhow::Result<Harvest<W::Findings>> {
        self.control.enter(Phase::Done);
        Ok(Harvest::of(&self.cluster.stop()?))
    }

    fn abandon(self, why: anyhow::Error) -> anyhow::Error {
        self.control.enter(Phase::Done);
        self.cluster.stop().map_or_else(anyhow::Error::from, |_| why)
    }
}
