//! Nodes as threads of this process: one of a cluster (`mako serve`), or all of them (`mako dev`, benches).
//!
//! It assembles and takes apart. What a core does is the reactor's; where transactions come from is the
//! driver's, one of which is made for each core on the core's own thread.
//!
//! Invariants:
//!   1. Every NIC is open and every log open before any core takes a turn: a start that fails has served
//!      nobody.
//!   2. A core that ends, however it ends, ends its node; the other nodes go on.
//!   3. No thread outlives its `Cluster`.
//!   4. A node that is killed does nothing on its way out that a dead process could not do.
#![forbid(unsafe_code)]

mod background;
mod control;
mod directory;
mod error;
mod keys;
mod nics;
mod node;
#[cfg(test)]
mod tests;

pub use control::Control;
pub use error::{StartError, StopError};
pub(crate) use keys::parse_keys;
pub use keys::{check_keys, make_keys};

use crate::bounds::MS;
use crate::config::Config;
use crate::disk::DiskError;
use crate::partition::Driver;
use crate::reactor::{Awaited, Tally};
use crate::types::{CoreId, NodeId};
use directory::Start;
use keys::read_keys;
use node::{Common, Means, Node, Reserved};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

/// Nodes that run in this process.
pub struct Cluster<D> {
    /// Those that were not killed.
    nodes: Vec<Node<D>>,
    watch: Watch,
    notices: Vec<String>,
    config: Arc<Config>,
    make: Make<D>,
    means: Means,
}

/// Makes the driver of a core, on the core's own thread.
type Make<D> = Arc<dyn Fn(NodeId, CoreId) -> D + Send + Sync>;

/// What a core leaves behind.
#[derive(Debug)]
pub struct CoreReport<D> {
    pub node: NodeId,
    pub core: CoreId,
    pub driver: D,
    pub tally: Tally,
}

/// Why a wait has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// A core is there and takes its first turn.
    Running,
    /// A core has ended, and its node with it; `stop` tells why.
    Ended,
    /// Somebody asked for it through an [`Interrupter`], perhaps before the start.
    Interrupted,
}

/// Where news of a cluster comes in. Made before it, so that who interrupts may be there before it starts.
pub struct Watch {
    tell: Sender<News>,
    news: Receiver<News>,
}

/// Ends a wait of the cluster that has its watch, from any thread.
#[derive(Clone)]
pub struct Interrupter(Sender<News>);

impl<D: Driver + Send + 'static> Cluster<D> {
    /// Starts every node of `config`.
    pub fn start(
        config: Config,
        make: impl Fn(NodeId, CoreId) -> D + Send + Sync + 'static,
    ) -> Result<Cluster<D>, StartError> {
        let all: Vec<NodeId> = (0..).map(NodeId).take(config.nodes.len()).collect();
        Cluster::start_nodes(config, &all, Watch::default(), make)
    }

    /// Starts some nodes of `config`; the others are elsewhere. Returns once every core is running.
    pub fn start_nodes(
        config: Config,
        ids: &[NodeId],
        watch: Watch,
        make: impl Fn(NodeId, CoreId) -> D + Send + Sync + 'static,
    ) -> Result<Cluster<D>, StartError> {
        Cluster::begin(config, ids, Start::FromDisk, watch, Arc::new(make))
    }

    /// As `start_nodes`, of nodes that forget what their logs hold and learn it from their peers: what is to
    /// be done after damage. Until then they do not vote.
    pub fn rebuild_nodes(
        config: Config,
        ids: &[NodeId],
        watch: Watch,
        make: impl Fn(NodeId, CoreId) -> D + Send + Sync + 'static,
    ) -> Result<Cluster<D>, StartError> {
        Cluster::begin(config, ids, Start::Rebuild, watch, Arc::new(make))
    }

    fn begin(
        config: Config,
        ids: &[NodeId],
        start: Start,
        watch: Watch,
        make: Make<D>,
    ) -> Result<Cluster<D>, StartError> {
        let (config, notices) = (Arc::new(config), Vec::new());
        let keys = config.key_file.as_deref().map(read_keys).transpose()?;
        let means = Means { keys, spin_ns: node::spin_ns(&config, ids) };
        let mut cluster = Cluster { nodes: Vec::new(), watch, notices, config, make, means };
        let interrupted = cluster.add(ids, start)?;
        if interrupted {
            // For the wait that is to come.
            cluster.watch.interrupter().interrupt();
        }
        Ok(cluster)
    }

    /// Starts nodes that are not there, and waits until they run. Whether somebody interrupted meanwhile.
    fn add(&mut self, ids: &[NodeId], start: Start) -> Result<bool, StartError> {
        let config = &self.config;
        ids.iter().try_for_each(|id| node::check_machine(config, *id))?;
        if start == Start::Rebuild {
            ids.iter().try_for_each(|id| node::check_peers(config, *id))?;
        }
        let nics = ids.iter().map(|id| nics::open(config, *id)).collect::<Result<Vec<_>, _>>()?;
        let (mut reserved, mut notices) = (Vec::new(), Vec::new());
        for (id, (nics, said)) in ids.iter().zip(nics) {
            reserved.push(Reserved::new(config, *id, start, nics, &self.means)?);
            notices.extend(said);
        }
        self.open(reserved, notices)?;
        let cores: usize = ids.iter().map(|id| self.config.cores(*id)).sum();
        let (mut running, mut interrupted) = (0, false);
        while running < cores {
            match self.wait() {
                News::Running => running += 1,
                News::Interrupted => interrupted = true,
                News::Ended => match self.end() {
                    Err(why) => return Err(StartError::Core(why)),
                    Ok(_) => unreachable!("nobody has stopped it, so a core has failed"),
                },
            }
        }
        Ok(interrupted)
    }

    /// Has every core of some nodes open its log; when all have, lets them go, else none of them.
    fn open(&mut self, reserved: Vec<Reserved>, mut notices: Vec<String>) -> Result<(), StartError> {
        let (config, make) = (Arc::clone(&self.config), Arc::clone(&self.make));
        let common = Common { config, make, tell: self.watch.tell.clone(), go: Arc::default() };
        let (tell, opened) = mpsc::channel();
        let (mut started, mut failure) = (Vec::new(), None);
        for one in reserved {
            match one.start(&common, &tell) {
                Ok(node) => started.push(node),
                Err(why) => failure = failure.or(Some(why)),
            }
        }
        drop(tell);
        let cores: usize = started.iter().map(|node| self.config.cores(node.id)).sum();
        let mut open = 0;
        // Ends when each core has spoken, or broken off before.
        for said in opened {
            match said {
                Ok(words) => {
                    notices.extend(words);
                    open += 1;
                }
                Err(why) => failure = failure.or(Some(why)),
            }
        }
        if failure.is_none() && open == cores {
            failure = started.iter_mut().find_map(|node| node.note_opened(&self.config).err());
        }
        let go = failure.is_none() && open == cores;
        common.go.set(go).expect("nobody else sets it");
        if !go {
            let ends: Vec<_> = started.iter_mut().flat_map(Node::join).collect();
            let broken = ends.into_iter().find_map(Result::err).map(StartError::Core);
            return Err(failure.or(broken).expect("a core that has not opened its log has a reason"));
        }
        notices.sort();
        notices.dedup();
        self.notices = notices;
        self.nodes.extend(started);
        self.nodes.sort_by_key(|node| node.id);
        Ok(())
    }

    /// Ends a node as if its process had died: its cores stop where they are, what waited for the disk or the
    /// network is dropped, its sockets close. What its drivers leave behind.
    pub fn kill(&mut self, id: NodeId) -> Result<Vec<CoreReport<D>>, StopError> {
        let at = self.nodes.iter().position(|node| node.id == id).expect("a node that runs here");
        let mut node = self.nodes.remove(at);
        node.kill();
        node.join().collect()
    }

    /// Starts a node that was killed, from what it has on disk. Returns once its cores are running.
    pub fn restart(&mut self, id: NodeId) -> Result<(), StartError> {
        assert!(self.nodes.iter().all(|node| node.id != id), "{id:?} runs");
        if self.add(&[id], Start::FromDisk)? {
            self.watch.interrupter().interrupt();
        }
        Ok(())
    }

    /// Ends every core after its turn, and returns what they leave behind: by node, then by core. When a
    /// core has failed: the failure, the first of them.
    pub fn stop(mut self) -> Result<Vec<CoreReport<D>>, StopError> {
        self.end()
    }

    fn end(&mut self) -> Result<Vec<CoreReport<D>>, StopError> {
        self.nodes.iter().for_each(Node::ask_to_stop);
        let mut reports = Ok(Vec::new());
        for node in &mut self.nodes {
            for outcome in node.join() {
                match (&mut reports, outcome) {
                    (Ok(reports), Ok(report)) => reports.push(report),
                    (Ok(_), Err(failure)) => reports = Err(failure),
                    (Err(_), _) => {}
                }
            }
        }
        reports
    }
}

impl<D> Cluster<D> {
    /// Whether every shard of the cluster has a leader, and every node here has heard of it.
    pub fn is_open(&self) -> bool {
        self.nodes.iter().all(Node::sees_all_shards_open)
    }

    /// Waits until [`Cluster::is_open`], or for news.
    pub fn wait_until_open(&self) -> Result<(), News> {
        while !self.is_open() {
            self.look_again()?;
        }
        Ok(())
    }

    /// Waits until every replica here votes, or for news; the end of a rebuild is noted here. One that has
    /// forgotten what it accepted learns it first, and for that needs a leader; one that is new needs every peer.
    pub fn wait_until_voting(&mut self) -> Result<Result<(), News>, DiskError> {
        self.wait_until_voting_and_say(&mut |_| {})
    }

    /// The same, and says whom it waits for, once that has taken a while.
    pub fn wait_until_voting_and_say(
        &mut self,
        say: &mut dyn FnMut(&str),
    ) -> Result<Result<(), News>, DiskError> {
        let (mut looks, mut said) = (0, Vec::new());
        for at in 0..self.nodes.len() {
            while !self.nodes[at].has_joined()? {
                if let Err(news) = self.look_again() {
                    return Ok(Err(news));
                }
                looks += 1;
                let awaited = self.nodes[at].awaited();
                if looks >= LOOKS_IN_SILENCE && !awaited.is_empty() && awaited != said {
                    let names = awaited.iter().map(|peer| self.tell_awaited(*peer));
                    say(&format!("waiting to hear of {}", names.collect::<Vec<_>>().join(", ")));
                    said = awaited;
                }
            }
        }
        Ok(Ok(()))
    }

    fn tell_awaited(&self, Awaited { node, refused }: Awaited) -> String {
        let name = &self.config.nodes[usize::from(node.0)].name;
        let why =
            if refused { " (what comes in its name does not open: it has another key, or none)" } else { "" };
        format!("{name}{why}")
    }

    fn look_again(&self) -> Result<(), News> {
        match self.watch.news.recv_timeout(OPEN_LOOK) {
            Ok(news) => Err(news),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => unreachable!("we hold a sender ourselves"),
        }
    }

    /// Waits for news.
    pub fn wait(&self) -> News {
        self.watch.news.recv().expect("we hold a sender ourselves")
    }

    /// Whether no core of the nodes that run here has ended; `stop` tells why one has.
    pub fn is_whole(&self) -> bool {
        self.nodes.iter().all(Node::is_whole)
    }

    /// Of every node that runs here now.
    pub fn controls(&self) -> Vec<Control> {
        let control = |node: &Node<D>| Control {
            node: node.id,
            config: Arc::clone(&self.config),
            shared: Arc::clone(&node.shared),
            orders: node.orders.clone(),
        };
        self.nodes.iter().map(control).collect()
    }

    /// For the operator, of the last start: what was recovered, and what works but slower than it could.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }
}

impl<D> Drop for Cluster<D> {
    fn drop(&mut self) {
        self.nodes.iter().for_each(Node::ask_to_stop);
        for node in &mut self.nodes {
            // Whoever wanted to know how it ended has called `stop`.
            node.join().for_each(drop);
        }
    }
}

impl Watch {
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(self.tell.clone())
    }
}

impl Default for Watch {
    fn default() -> Watch {
        let (tell, news) = mpsc::channel();
        Watch { tell, news }
    }
}

impl Interrupter {
    pub fn interrupt(&self) {
        // A cluster that is gone waits for nothing.
        let _ = self.0.send(News::Interrupted);
    }
}

/// How often a cluster that is starting is looked at.
const OPEN_LOOK: Duration = Duration::from_nanos(2 * MS);
/// Before it is said what is waited for.
const LOOKS_IN_SILENCE: u32 = 1_000;
