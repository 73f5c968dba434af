//! Nodes as threads of this process: one of a cluster (`mako serve`), or all of them (`mako dev`, benches).
//!
//! It assembles and takes apart. What a core does is the reactor's; where transactions come from is the
//! driver's, one of which is made for each core on the core's own thread.
//!
//! Invariants:
//!   1. Every socket is bound and every log open before any thread runs: a start that fails has served
//!      nobody and has changed nothing that another process sees.
//!   2. A core that ends, however it ends, ends its node; the other nodes go on.
//!   3. No thread outlives its `Cluster`.
#![forbid(unsafe_code)]

mod error;
mod node;
#[cfg(test)]
mod tests;

pub use error::{StartError, StopError};

use crate::bounds::MS;
use crate::config::Config;
use crate::partition::Driver;
use crate::reactor::Tally;
use crate::types::{CoreId, NodeId};
use node::{Node, Reserved};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

/// Nodes that run in this process.
pub struct Cluster<D> {
    nodes: Vec<Node<D>>,
    watch: Watch,
    notices: Vec<String>,
}

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
        let config = Arc::new(config);
        ids.iter().try_for_each(|id| node::check_machine(&config, *id))?;
        let sockets = ids.iter().map(|id| node::bind(&config, *id)).collect::<Result<Vec<_>, _>>()?;
        let spin = node::spin_ns(&config, ids);
        let mut reserved = Vec::new();
        for (id, sockets) in ids.iter().zip(sockets) {
            reserved.push(Reserved::new(&config, *id, sockets, spin)?);
        }

        let make = Arc::new(make);
        let mut cluster = Cluster { nodes: Vec::new(), watch, notices: Vec::new() };
        let cores: usize = ids.iter().map(|id| config.cores(*id)).sum();
        for one in reserved {
            cluster.notices.extend(one.notices());
            cluster.nodes.push(one.start(&config, &make, &cluster.watch.tell)?);
        }
        cluster.wait_until_running(cores)
    }

    fn wait_until_running(self, cores: usize) -> Result<Cluster<D>, StartError> {
        let (mut running, mut interrupted) = (0, false);
        while running < cores {
            match self.wait() {
                News::Running => running += 1,
                News::Interrupted => interrupted = true,
                News::Ended => match self.stop() {
                    Err(why) => return Err(StartError::Core(why)),
                    Ok(_) => unreachable!("nobody has stopped it, so a core has failed"),
                },
            }
        }
        if interrupted {
            // For the wait that is to come.
            self.watch.interrupter().interrupt();
        }
        Ok(self)
    }

    /// Ends every core after its turn, and returns what they leave behind: by node, then by core. When a
    /// core has failed: the failure, the first of them.
    pub fn stop(mut self) -> Result<Vec<CoreReport<D>>, StopError> {
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
            match self.watch.news.recv_timeout(OPEN_LOOK) {
                Ok(news) => return Err(news),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("we hold a sender ourselves"),
            }
        }
        Ok(())
    }

    /// Waits for news.
    pub fn wait(&self) -> News {
        self.watch.news.recv().expect("we hold a sender ourselves")
    }

    /// What works, but slower than it could: for the operator, once.
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
