//! One node: what it needs of the machine and of its disks, claimed before it runs; and its threads.
#![forbid(unsafe_code)]

use super::background::Background;
use super::directory::{NodeDirectory, Rebuild, Start, of_core};
use super::{CoreReport, Make, News, StartError, StopError};
use crate::bounds::WAL_SEGMENT_BYTES_VOTES;
use crate::clock::SystemClock;
use crate::config::{Config, CoreLayout, Durability, NicKind, Poll};
use crate::disk::{CoreDirectory, DiskError, DiskOptions, FileCheckpoints, UringDisk, forget_log};
use crate::nic::any::AnyNic;
use crate::nic::wan::{Link, Wan};
use crate::partition::{Driver, Recovery};
use crate::reactor::{Awaited, OrderSender, Reactor, Seat, Shared, Siblings, affinity, orders};
use crate::rpc::Keyring;
use crate::types::{CoreId, DiskId, Endpoint, Epoch, NodeId, Prng, ShardId};
use crate::wal::checkpoint::Piece;
use crate::wal::{LogIdentity, RecordView};
use std::any::Any;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

/// A node with its NICs open and its directory claimed, and no thread yet.
pub(super) struct Reserved {
    id: NodeId,
    shared: Arc<Shared>,
    /// By core.
    orders: Vec<OrderSender>,
    /// Without disks: a log is opened on the core's own thread.
    seats: Vec<Seat<Wan<AnyNic>, ()>>,
    directory: NodeDirectory,
}

/// A node that runs.
pub(super) struct Node<D> {
    pub id: NodeId,
    directory: NodeDirectory,
    pub shared: Arc<Shared>,
    /// By core.
    pub orders: Vec<OrderSender>,
    shards: usize,
    threads: Vec<(String, JoinHandle<Option<CoreOutcome<D>>>)>,
}

/// What all cores of one start share.
pub(super) struct Common<D> {
    pub config: Arc<Config>,
    pub make: Make<D>,
    pub tell: Sender<News>,
    /// Whether to take turns or to end, once that is known.
    pub go: Arc<OnceLock<bool>>,
}

impl<D> Clone for Common<D> {
    fn clone(&self) -> Common<D> {
        let Common { config, make, tell, go } = self;
        let (config, make, go) = (Arc::clone(config), Arc::clone(make), Arc::clone(go));
        Common { config, make, tell: tell.clone(), go }
    }
}

/// What a core says of its log: notices for the operator, or why there is none.
pub(super) type Opened = Result<Vec<String>, StartError>;
type CoreOutcome<D> = Result<CoreReport<D>, StopError>;

/// What only this machine can know: whether it has what the node is to use.
pub(super) fn check_machine(config: &Config, id: NodeId) -> Result<(), StartError> {
    let node = &config.nodes[usize::from(id.0)];
    let name = || node.name.clone();
    if let NicKind::Dpdk(_) = node.nic
        && cfg!(not(feature = "dpdk"))
    {
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

/// What a node forgets it must be able to learn from somebody else.
pub(super) fn check_peers(config: &Config, id: NodeId) -> Result<(), StartError> {
    let alone = (0..).zip(&config.shards).find(|(_, shard)| shard.replicas == [id]);
    match alone {
        Some((shard, _)) => {
            Err(StartError::Alone { node: config.nodes[usize::from(id.0)].name.clone(), shard })
        }
        None => Ok(()),
    }
}

/// What the nodes of a process have in common beside the cluster file.
pub(super) struct Means {
    /// `None`: frames go in the open.
    pub keys: Option<Keyring>,
    pub spin_ns: u64,
}

/// How long an idle core of these nodes spins. Not at all where cores share CPUs: it would spin on the
/// time of the one it waits for.
pub(super) fn spin_ns(config: &Config, ids: &[NodeId]) -> u64 {
    let cores: usize = ids.iter().map(|id| config.cores(*id)).sum();
    let fits = cores <= affinity::usable_cpus().len();
    if fits { config.spin_ns } else { 0 }
}

impl Reserved {
    /// Makes the data directory this node's, and what was asked for forgotten.
    pub fn new(
        config: &Config,
        id: NodeId,
        start: Start,
        nics: Vec<AnyNic>,
        means: &Means,
    ) -> Result<Reserved, StartError> {
        let node = &config.nodes[usize::from(id.0)];
        let shared = Shared::new(config, nics.len()).map_err(|source| StartError::Resource {
            node: node.name.clone(),
            what: "eventfd",
            source,
        })?;
        let shared = Arc::new(shared);
        let mut directory = NodeDirectory::open(config, id, start)?;
        if directory.rebuild() == Some(Rebuild::Forget) {
            cores_of(config, id).try_for_each(|me| forget(config, me))?;
            directory.set_rebuild(Some(Rebuild::Learn)).map_err(|source| StartError::Log {
                node: node.name.clone(),
                dir: node.data.clone(),
                source,
            })?;
        }
        let incarnation = directory.incarnation();
        let (mut seats, mut senders) = (Vec::new(), Vec::new());
        for ((me, nic), siblings) in cores_of(config, id).zip(nics).zip(Siblings::of_node(&shared)) {
            // Nothing else tells the cores of a node apart, and nobody is to guess their backoffs alike.
            let seed = incarnation.wrapping_add(u64::from(me.core.0));
            let (sender, orders) = orders();
            senders.push(sender);
            seats.push(Seat {
                me,
                nic: Wan::new(nic, links(config, id), Prng::with_seed(!seed)),
                disk: (),
                siblings,
                orders,
                sleep_after_ns: (node.poll == Poll::Adaptive).then_some(means.spin_ns),
                incarnation,
                seed,
                keys: means.keys.clone().map(|keys| (keys, random())),
            });
        }
        Ok(Reserved { id, shared, orders: senders, seats, directory })
    }

    /// Starts the threads: each opens its log, says so, and waits for the word to take its first turn.
    pub fn start<D: Driver + Send + 'static>(
        self,
        common: &Common<D>,
        opened: &Sender<Opened>,
    ) -> Result<Node<D>, StartError> {
        let Reserved { id, shared, orders, seats, directory } = self;
        let config = &common.config;
        let described = &config.nodes[usize::from(id.0)];
        let past = Past {
            rebuilds: directory.rebuild().is_some(),
            has_opened: directory.has_opened(),
            disk: directory.disk(),
        };
        let shards = config.shards.len();
        let mut node = Node { id, directory, shared, orders, shards, threads: Vec::new() };
        for seat in seats {
            let core = seat.me.core;
            let cpu = match &described.cores {
                CoreLayout::Pinned(cpus) => Some(cpus[usize::from(core.0)]),
                CoreLayout::Threads(_) => None,
            };
            let at = format!("node {}, core {}", described.name, core.0);
            let (common, named, opened) = (common.clone(), at.clone(), opened.clone());
            let shared = Arc::clone(&node.shared);
            let work = move || {
                let recovered = recover(&common.config, seat.me, past, opened)?;
                if !*common.go.wait() {
                    return None;
                }
                let departure = Departure { shared, tell: common.tell.clone() };
                Some(run(seat, recovered, cpu, named, &common, &departure))
            };
            let thread = thread::Builder::new().name(format!("{}.{}", described.name, core.0));
            match thread.spawn(work) {
                Ok(thread) => node.threads.push((at, thread)),
                Err(source) => {
                    let node = described.name.clone();
                    return Err(StartError::Resource { node, what: "thread", source });
                }
            }
        }
        Ok(node)
    }
}

impl<D> Node<D> {
    /// Every core has its log, and none has taken a turn.
    pub fn note_opened(&mut self, config: &Config) -> Result<(), StartError> {
        let node = &config.nodes[usize::from(self.id.0)];
        self.directory.note_opened().map_err(|source| StartError::Log {
            node: node.name.clone(),
            dir: node.data.clone(),
            source,
        })
    }

    pub fn ask_to_stop(&self) {
        self.shared.stop();
    }

    pub fn kill(&self) {
        self.shared.kill();
    }

    /// What became of each core that was to take turns, in order; once.
    pub fn join(&mut self) -> impl Iterator<Item = CoreOutcome<D>> {
        self.threads.drain(..).filter_map(|(at, thread)| {
            let outcome = thread.join();
            outcome.unwrap_or_else(|panic| Some(Err(StopError::Panicked { at, message: words_of(&*panic) })))
        })
    }

    /// Whether every replica of the node votes. Then a rebuild, if one was under way, is over, and noted so.
    pub fn has_joined(&mut self) -> Result<bool, DiskError> {
        if !self.shared.is_voting() {
            return Ok(false);
        }
        self.directory.set_rebuild(None)?;
        Ok(true)
    }

    /// Peers that were not heard yet, without whom no replica here votes.
    pub fn is_whole(&self) -> bool {
        self.threads.iter().all(|(_, thread)| !thread.is_finished())
    }

    pub fn awaited(&self) -> Vec<Awaited> {
        self.shared.awaited()
    }

    pub fn sees_all_shards_open(&self) -> bool {
        let mut shards = (0..).map(ShardId).take(self.shards);
        shards.all(|shard| self.shared.board.shard(shard).epoch > Epoch(0))
    }
}

/// Ends the node when its thread ends, by whichever way; which is news when nobody has asked for it.
struct Departure {
    shared: Arc<Shared>,
    tell: Sender<News>,
}

impl Drop for Departure {
    fn drop(&mut self) {
        let was_asked = self.shared.is_stopped();
        self.shared.stop();
        if !was_asked {
            // Nobody may be left to hear it.
            let _ = self.tell.send(News::Ended);
        }
    }
}

/// A core's thread, once it may begin.
fn run<D: Driver>(
    seat: Seat<Wan<AnyNic>, ()>,
    recovered: Recovered,
    cpu: Option<usize>,
    at: String,
    common: &Common<D>,
    departure: &Departure,
) -> CoreOutcome<D> {
    if let Some(cpu) = cpu.filter(|cpu| !affinity::pin(*cpu)) {
        return Err(StopError::NotPinned { at, cpu });
    }
    let Recovered { disk, files, recovery, background } = recovered;
    let (Endpoint { node, core }, seat) = (seat.me, seat.with_disk(disk));
    let driver = (common.make)(node, core);
    let config = Rc::new(Config::clone(&common.config));
    let reactor = Reactor::new(seat, recovery, &config, SystemClock::of_process(), driver);
    let mut reactor = reactor.with_checkpoints(files);
    let _ = departure.tell.send(News::Running);
    let caught_up = reactor.catch_up();
    drop(background);
    caught_up.and_then(|()| reactor.run()).map_err(|source| StopError::Disk { at, source })?;
    if let Some(by) = reactor.core().refused_by() {
        let name = |id: NodeId| config.nodes[usize::from(id.0)].name.clone();
        let dir = config.nodes[usize::from(node.0)].data.clone();
        return Err(StopError::Emptied { node: name(node), dir, by: name(by) });
    }
    let (driver, tally) = reactor.finish();
    Ok(CoreReport { node, core, driver, tally })
}

/// A core's log and checkpoints, and what they held.
struct Recovered {
    disk: UringDisk,
    files: FileCheckpoints,
    recovery: Recovery,
    /// Until the core has made of it what it held, and has what the others did meanwhile.
    background: Background,
}

/// What a node's directory says of its cores' own.
#[derive(Clone, Copy)]
struct Past {
    rebuilds: bool,
    has_opened: bool,
    disk: DiskId,
}

/// Opens the log of a core and tells whether that went well; `None` when not. On the core's own thread,
/// because what it held is the core's; and before that is pinned, because the log has a thread of its own,
/// which would be pinned with it.
fn recover(config: &Config, me: Endpoint, past: Past, opened: Sender<Opened>) -> Option<Recovered> {
    let (said, recovered) = match open_log(config, me, past) {
        Ok((recovered, notices)) => (Ok(notices), Some(recovered)),
        Err(source) => (Err(failure(config, me, source)), None),
    };
    // Who starts us listens until every core has said something.
    let _ = opened.send(said);
    recovered
}

fn open_log(config: &Config, me: Endpoint, past: Past) -> Result<(Recovered, Vec<String>), DiskError> {
    let background = Background::begin();
    let Past { rebuilds, has_opened, disk } = past;
    let identity = identity(config, me);
    let mut options = DiskOptions::new(identity, config.log_bytes);
    if config.durability == Durability::Memory {
        options.segment_bytes = WAL_SEGMENT_BYTES_VOTES;
    }
    let mut recovery = if rebuilds { Recovery::rebuilding() } else { Recovery::nothing() };
    recovery.on_disk(disk);
    let mut records = 0_u64;
    let directory = CoreDirectory::lock(&directory_of(config, me))?;
    // First of all: records of what a checkpoint covers are passed over.
    let mut checkpoints = 0;
    for partition in config.hosted(me.node, me.core) {
        let mut visit = |piece: Piece<'_>| recovery.on_checkpoint(config, piece);
        let loaded = FileCheckpoints::load(&directory, options.identity.cluster, partition, &mut visit)?;
        checkpoints += usize::from(loaded.is_some());
    }
    options.checkpoints = recovery.checkpoints();
    (options.begins_anew, options.has_opened) = (rebuilds, has_opened);
    let mut visit = |view: RecordView<'_>| {
        records += 1;
        recovery.on_record(&view);
    };
    let opened = UringDisk::open(&directory, &options, &mut visit)?;
    for (partition, ballot) in opened.votes.iter() {
        recovery.on_vote(partition, ballot);
    }
    opened.votes.peers().for_each(|(node, disk)| recovery.on_peer(node, disk));
    let mut notices: Vec<String> = opened.disk.notices().iter().map(ToString::to_string).collect();
    if !recovery.is_empty() {
        let node = &config.nodes[usize::from(me.node.0)].name;
        let state = if rebuilds { "rebuilding from its peers; recovered" } else { "recovered" };
        let votes = opened.votes.iter().count();
        let torn = opened.end.torn.map(|torn| format!("; {} was cut at {torn}", torn.why.as_tail()));
        let torn = torn.unwrap_or_default();
        let found = format!("{checkpoints} checkpoints, {records} records, {votes} votes{torn}");
        notices.push(format!("node {node}, core {}: {state} {found}", me.core.0));
    }
    let files = FileCheckpoints::open(&directory)?;
    Ok((Recovered { disk: opened.disk, files, recovery, background }, notices))
}

fn forget(config: &Config, me: Endpoint) -> Result<(), StartError> {
    let directory = CoreDirectory::lock(&directory_of(config, me));
    let forgotten = directory.and_then(|directory| forget_log(&directory, identity(config, me)));
    forgotten.map(drop).map_err(|source| failure(config, me, source))
}

/// Not to be guessed, and another one in every life, even of a directory that was copied.
fn random() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the kernel has random bytes for whoever asks");
    u64::from_le_bytes(bytes)
}

fn failure(config: &Config, me: Endpoint, source: DiskError) -> StartError {
    let node = config.nodes[usize::from(me.node.0)].name.clone();
    StartError::Log { node, dir: directory_of(config, me), source }
}

fn directory_of(config: &Config, me: Endpoint) -> PathBuf {
    of_core(&config.nodes[usize::from(me.node.0)].data, me.core)
}

fn identity(config: &Config, me: Endpoint) -> LogIdentity {
    LogIdentity::new(&config.name, me.node, me.core)
}

/// By destination node; none where no link is emulated.
fn links(config: &Config, from: NodeId) -> Vec<Link> {
    let nodes = if config.links.is_empty() { 0 } else { config.nodes.len() };
    let specs = (0..).map(NodeId).take(nodes).map(|to| config.link(from, to));
    specs.map(|spec| Link { delay_ns: spec.delay_ns, jitter_ns: spec.jitter_ns, loss: spec.loss }).collect()
}

pub(super) fn cores_of(config: &Config, node: NodeId) -> impl Iterator<Item = Endpoint> + use<> {
    (0..).map(CoreId).take(config.cores(node)).map(move |core| Endpoint { node, core })
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it gave no reason").to_owned()
}
