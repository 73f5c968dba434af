//! What `mako dev` and `mako serve` have in common: nodes that run in the foreground until a signal.
//!
//! Not here: which nodes (`dev`, `serve`), and how they are started and stopped (`server`).
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use crate::cli::{FAILED, MISUSED, complain};
use crate::config::{Config, Node};
use crate::http::Listeners;
use crate::partition::Idle;
use crate::server::{Cluster, News, Watch, check_keys};
use crate::types::NodeId;

/// Which nodes are run, and so when they are ready.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// A whole cluster: ready when every shard has a leader.
    All,
    /// Part of one: ready when it can vote.
    One,
    /// The same, and it forgets its log first.
    Rebuild,
}

/// Starts these nodes, prints `ready: …`, and runs until SIGINT or SIGTERM, or until a node fails.
pub(super) fn run_nodes(config: Config, ids: &[NodeId], how: How) -> ExitCode {
    // The first line of a node: what all the others are to be read by.
    eprintln!("{config:?}");
    match check_keys(&config) {
        Ok(warnings) => warn(&warnings),
        Err(error) => return complain(&error, MISUSED),
    }
    // Before anything starts: whoever cannot listen has changed nothing.
    let listeners = match Listeners::bind(&config, ids) {
        Ok(listeners) => listeners,
        Err(error) => return complain(&error, MISUSED),
    };
    let addresses = addresses(&config, ids, &listeners);
    // First of all, so that a signal that comes early still lets the node clean up behind itself.
    let watch = Watch::default();
    let interrupter = watch.interrupter();
    if let Err(error) = ctrlc::set_handler(move || interrupter.interrupt()) {
        let what =
            format!("no signal handler (this process): {error}; start it where signals may be handled");
        return complain(&what, FAILED);
    }
    let described = config.clone();
    let started = match how {
        How::All | How::One => Cluster::start_nodes(config, ids, watch, |_, _| Idle),
        How::Rebuild => Cluster::rebuild_nodes(config, ids, watch, |_, _| Idle),
    };
    let mut cluster = match started {
        Ok(cluster) => cluster,
        Err(error) => return complain(&error, MISUSED),
    };
    let gateway = match listeners.serve(&described, cluster.controls()) {
        Ok(gateway) => gateway,
        Err(error) => return complain(&error, FAILED),
    };
    for notice in cluster.notices() {
        eprintln!("note: {notice}");
    }
    let ready = match how {
        How::All => Ok(cluster.wait_until_open()),
        How::One | How::Rebuild => cluster.wait_until_voting_and_say(&mut |words| eprintln!("note: {words}")),
    };
    let ready = match ready {
        Ok(ready) => ready,
        Err(error) => {
            return complain(&format!("the data directory ({addresses}): {error}; mend that"), FAILED);
        }
    };
    if ready.is_ok() {
        say(&format!("ready: {addresses}"));
        while cluster.wait() == News::Running {}
    }
    drop(gateway);
    match cluster.stop() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => complain(&error, if error.is_refusal() { MISUSED } else { FAILED }),
    }
}

/// Each node with the addresses of its cores and of its gateway: `n0 127.0.0.1:7400-7401 http://127.0.0.1:9180`.
fn addresses(config: &Config, ids: &[NodeId], listeners: &Listeners) -> String {
    let address = |id: &NodeId| {
        let Node { name, listen, .. } = &config.nodes[usize::from(id.0)];
        let http = listeners.address(*id).map(|http| format!(" http://{http}")).unwrap_or_default();
        match config.cores(*id) {
            1 => format!("{name} {listen}{http}"),
            cores => format!("{name} {listen}-{}{http}", usize::from(listen.port()) + cores - 1),
        }
    };
    ids.iter().map(address).collect::<Vec<_>>().join(", ")
}

/// To standard output, at once. Whoever has closed it does not want to hear it.
pub(super) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// What works, and is not as it should be.
pub(super) fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LocalCluster;
    use std::net::{Ipv4Addr, SocketAddr};

    /// Scripts take the addresses out of this line.
    #[test]
    fn the_ready_line_names_every_node_and_every_port() {
        let one = Config::local(&LocalCluster { shards: 1, ..LocalCluster::default() }).unwrap();
        let ids = [NodeId(0), NodeId(2)];
        let silent = Listeners::bind(&one, &ids).unwrap();
        assert_eq!(addresses(&one, &ids, &silent), "n0 127.0.0.1:7400, n2 127.0.0.1:7402");
        let http = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let two = Config::local(&LocalCluster { cpus: 2, http, ..LocalCluster::default() }).unwrap();
        let bound = Listeners::bind(&two, &ids).unwrap();
        let [first, last] = ids.map(|id| bound.address(id).unwrap().port());
        let expected = format!(
            "n0 127.0.0.1:7400-7401 http://127.0.0.1:{first}, n2 127.0.0.1:7404-7405 http://127.0.0.1:{last}"
        );
        assert_eq!(addresses(&two, &ids, &bound), expected);
    }
}
