//! One node: what it needs of the machine, claimed before it runs; and its threads.
#![forbid(unsafe_code)]

use super::{CoreReport, News, StartError, StopError};
use crate::bounds::WAL_SEGMENT_BYTES_VOTES;
use crate::clock::{self, SystemClock};
use crate::config::{Config, CoreLayout, Durability, NicKind, Poll};
use crate::disk::{DiskOptions, UringDisk};
use crate::nic::udp::Udp;
use crate::nic::wan::{Link, Wan};
use crate::partition::Driver;
use crate::reactor::{Reactor, Seat, Shared, Siblings, affinity};
use crate::types::{CoreId, Endpoint, Epoch, NodeId, Prng, ShardId};
use crate::wal::LogIdentity;
use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};

/// A node with its sockets bound and its logs open, and no thread yet.
pub(super) struct Reserved {
    id: NodeId,
    shared: Arc<Shared>,
    seats: Vec<CoreSeat>,
}

/// A node that runs.
pub(super) struct Node<D> {
    shared: Arc<Shared>,
    shards: usize,
    threads: Vec<(String, JoinHandle<CoreOutcome<D>>)>,
}

type CoreSeat = Seat<Wan<Udp>, UringDisk>;
type CoreOutcome<D> = Result<CoreReport<D>, StopError>;

/// What only this machine can know: whether it has what the node is to use.
pub(super) fn check_machine(config: &Config, id: NodeId) -> Result<(), StartError> {
    let node = &config.nodes[usize::from(id.0)];
    let name = || node.name.clone();
    if let NicKind::Dpdk(_) = node.nic {
        return Err(StartError::NoSuchNic { node: name(), nic: node.nic.to_string() });
    }
    if let CoreLayout::Pinned(cpus) = &node.cores {
        let usable = affinity::usable_cpus();
        if let Some(cpu) = cpus.iter().copied().find(|cpu| !usable.contains(cpu)) {
            return Err(StartError::NoSuchCpu { node: name(), cpu, usable });
        }
    }
    Ok(())
}

/// The sockets of all cores of a node, in order.
pub(super) fn bind(config: &Config, id: NodeId) -> Result<Vec<Udp>, StartError> {
    let others = (0..).map(NodeId).take(config.nodes.len()).filter(|other| *other != id);
    let endpoints = others.flat_map(|node| cores_of(config, node));
    let peers: Vec<_> = endpoints.map(|peer| (peer, config.address(peer))).collect();
    let bind = |me: Endpoint| {
        let address = config.address(me);
        Udp::bind(address, &peers).map_err(|source| {
            let node = config.nodes[usize::from(id.0)].name.clone();
            StartError::Listen { node, address, source }
        })
    };
    cores_of(config, id).map(bind).collect()
}

/// How long an idle core of these nodes spins. Not at all where cores share CPUs: it would spin on the
/// time of the one it waits for.
pub(super) fn spin_ns(config: &Config, ids: &[NodeId]) -> u64 {
    let cores: usize = ids.iter().map(|id| config.cores(*id)).sum();
    let fits = cores <= affinity::usable_cpus().len();
    if fits { config.spin_ns } else { 0 }
}

impl Reserved {
    /// Opens the logs, and joins them with the sockets.
    pub fn new(config: &Config, id: NodeId, sockets: Vec<Udp>, spin_ns: u64) -> Result<Reserved, StartError> {
        let node = &config.nodes[usize::from(id.0)];
        let shared = Shared::new(config, sockets.len()).map_err(|source| StartError::Resource {
            node: node.name.clone(),
            what: "eventfd",
            source,
        })?;
        let shared = Arc::new(shared);
        let incarnation = clock::now().0;
        let mut seats = Vec::new();
        for ((me, socket), siblings) in cores_of(config, id).zip(sockets).zip(Siblings::of_node(&shared)) {
            // Nothing else tells the cores of a node apart, and nobody is to guess their backoffs alike.
            let seed = incarnation.wrapping_add(u64::from(me.core.0));
            seats.push(Seat {
                me,
                nic: Wan::new(socket, links(config, id), Prng::with_seed(!seed)),
                disk: open_log(config, me)?,
                siblings,
                sleep_after_ns: (node.poll == Poll::Adaptive).then_some(spin_ns),
                incarnation,
                seed,
            });
        }
        Ok(Reserved { id, shared, seats })
    }

    pub fn notices(&self) -> Vec<String> {
        let notices = self.seats.iter().flat_map(|seat| seat.disk.notices());
        let mut notices: Vec<String> = notices.map(ToString::to_string).collect();
        notices.dedup();
        notices
    }

    pub fn start<D: Driver + Send + 'static>(
        self,
        config: &Arc<Config>,
        make: &Arc<impl Fn(NodeId, CoreId) -> D + Send + Sync + 'static>,
        tell: &Sender<News>,
    ) -> Result<Node<D>, StartError> {
        let Reserved { id, shared, seats } = self;
        let described = &config.nodes[usize::from(id.0)];
        let mut node = Node { shared, shards: config.shards.len(), threads: Vec::new() };
        for seat in seats {
            let core = seat.me.core;
            let cpu = match &described.cores {
                CoreLayout::Pinned(cpus) => Some(cpus[usize::from(core.0)]),
                CoreLayout::Threads(_) => None,
            };
            let at = format!("node {}, core {}", described.name, core.0);
            let departure = Departure { shared: Arc::clone(&node.shared), tell: tell.clone() };
            let (config, make, named) = (Arc::clone(config), Arc::clone(make), at.clone());
            let work = move || run(seat, cpu, named, &config, &*make, &departure);
            let thread = thread::Builder::new().name(format!("{}.{}", described.name, core.0));
            match thread.spawn(work) {
                Ok(thread) => node.threads.push((at, thread)),
                Err(source) => {
                    node.ask_to_stop();
                    node.join().for_each(drop);
                    let node = described.name.clone();
                    return Err(StartError::Resource { node, what: "thread", source });
                }
            }
        }
        Ok(node)
    }
}

impl<D> Node<D> {
    pub fn ask_to_stop(&self) {
        self.shared.stop();
    }

    /// What became of each core, in order; once.
    pub fn join(&mut self) -> impl Iterator<Item = CoreOutcome<D>> {
        self.threads.drain(..).map(|(at, thread)| {
            let outcome = thread.join();
            outcome.unwrap_or_else(|panic| Err(StopError::Panicked { at, message: words_of(&*panic) }))
        })
    }

    pub fn sees_all_shards_open(&self) -> bool {
        let mut shards = (0..).map(ShardId).take(self.shards);
        shards.all(|shard| self.shared.board.shard(shard).epoch > Epoch(0))
    }
}

/// Ends the node when its thread ends, by whichever way.
struct Departure {
    shared: Arc<Shared>,
    tell: Sender<News>,
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.shared.stop();
        // Nobody may be left to hear it.
        let _ = self.tell.send(News::Ended);
    }
}

/// A core's thread.
fn run<D: Driver>(
    seat: CoreSeat,
    cpu: Option<usize>,
    at: String,
    config: &Config,
    make: &(impl Fn(NodeId, CoreId) -> D + ?Sized),
    departure: &Departure,
) -> CoreOutcome<D> {
    if let Some(cpu) = cpu.filter(|cpu| !affinity::pin(*cpu)) {
        return Err(StopError::NotPinned { at, cpu });
    }
    let Endpoint { node, core } = seat.me;
    let driver = make(node, core);
    let mut reactor = Reactor::new(seat, &Rc::new(config.clone()), SystemClock::of_process(), driver);
    let _ = departure.tell.send(News::Running);
    reactor.run().map_err(|source| StopError::Disk { at, source })?;
    let (driver, tally) = reactor.finish();
    Ok(CoreReport { node, core, driver, tally })
}

/// The log is opened here, before the core's thread is pinned: it has a thread of its own, which would
/// be pinned with it.
fn open_log(config: &Config, me: Endpoint) -> Result<UringDisk, StartError> {
    let node = &config.nodes[usize::from(me.node.0)];
    let dir = node.data.join(format!("core-{}", me.core.0));
    let mut options = DiskOptions::new(dir, LogIdentity::new(&config.name, me.node, me.core));
    if config.durability == Durability::Memory {
        options.segment_bytes = WAL_SEGMENT_BYTES_VOTES;
    }
    let mut records = 0_u64;
    let opened = UringDisk::open(&options, &mut |_| records += 1);
    let (node, dir) = (node.name.clone(), options.dir);
    match opened {
        Ok(_) if records > 0 => Err(StartError::HoldsLog { node, dir }),
        Ok(disk) => Ok(disk),
        Err(source) => Err(StartError::Log { node, dir, source }),
    }
}

/// By destination node; none where no link is emulated.
fn links(config: &Config, from: NodeId) -> Vec<Link> {
    let nodes = if config.links.is_empty() { 0 } else { config.nodes.len() };
    let specs = (0..).map(NodeId).take(nodes).map(|to| config.link(from, to));
    specs.map(|spec| Link { delay_ns: spec.delay_ns, jitter_ns: spec.jitter_ns, loss: spec.loss }).collect()
}

fn cores_of(config: &Config, node: NodeId) -> impl Iterator<Item = Endpoint> + use<> {
    (0..).map(CoreId).take(config.cores(node)).map(move |core| Endpoint { node, core })
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it gave no reason").to_owned()
}
