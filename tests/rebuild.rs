//! Real nodes that have lost some or all of their files: refused until told to rebuild, and then whole again.
//!
//! Each time two others go on and hold what was acknowledged; at the end all show it, the rebuilt one included.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "tests")]

mod nodes;

use nodes::Nodes;
use std::fs;
use std::path::{Path, PathBuf};

/// Two lead; the third follows, and is the one to lose its files.
const LEADERS: [usize; 2] = [0, 1];
const LOSER: usize = 2;

fn files_in(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect()
}

/// The node does not start, for a reason that names `place`; with `--rebuild` it does, more than once.
fn refused_then_rebuilt(mut nodes: Nodes, place: &str, flags: &[&str]) {
    for _ in 0..2 {
        let complaint = nodes.refused(LOSER);
        assert!(complaint.contains(place) && complaint.contains("`mako serve --rebuild`"), "{complaint}");
        nodes.wait_for_payments(&LEADERS);
    }
    nodes.add(LOSER, &[&["--rebuild"], flags].concat());
    nodes.wait_for_payments(&LEADERS);
    // What it has learned is its own now: nobody has to tell it again.
    nodes.kill(LOSER);
    nodes.add(LOSER, flags);
    nodes.wait_for_payments(&LEADERS);
    nodes.verify();
}

/// The log below it is gone: without it the replica would start with less than it had said it held.
#[test]
fn a_node_whose_checkpoint_was_deleted_is_rebuilt() {
    let mut nodes = Nodes::described("log = \"16MiB\"\n");
    let flags = ["--clients", "16"];
    nodes.add_all(&flags);
    let core = nodes.data(LOSER).join("core-0");
    let checkpoint = loop {
        nodes.wait_for_payments(&LEADERS);
        let is_whole = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "checkpoint");
        if let Some(checkpoint) = files_in(&core).into_iter().find(is_whole) {
            break checkpoint;
        }
    };
    nodes.wait_for_payments(&LEADERS);
    nodes.kill(LOSER);
    fs::remove_file(&checkpoint).unwrap();
    refused_then_rebuilt(nodes, checkpoint.to_str().unwrap(), &flags);
}

/// With its votes gone as well nothing but `node.toml` tells it from a core that never ran.
#[test]
fn a_node_with_an_emptied_core_is_rebuilt() {
    let mut nodes = Nodes::start();
    nodes.wait_for_payments(&LEADERS);
    nodes.kill(LOSER);
    let core = nodes.data(LOSER).join("core-0");
    fs::remove_dir_all(&core).unwrap();
    refused_then_rebuilt(nodes, core.to_str().unwrap(), &[]);
}

/// Nothing is left to tell it from a node that never ran, but that its peers know it.
#[test]
fn a_node_whose_data_directory_was_emptied_is_rebuilt() {
    let mut nodes = Nodes::start();
    nodes.wait_for_payments(&LEADERS);
    nodes.kill(LOSER);
    let data = nodes.data(LOSER);
    fs::remove_dir_all(&data).unwrap();
    refused_then_rebuilt(nodes, data.to_str().unwrap(), &[]);
}

/// A leader is no different; and one peer that remembers is enough.
#[test]
fn a_leader_whose_data_directory_was_emptied_is_turned_away_by_whoever_is_left() {
    let mut nodes = Nodes::start();
    nodes.wait_for_payments(&LEADERS);
    nodes.kill(0);
    let next = nodes.wait_for_work(0);
    let other = 3 - next;
    nodes.kill(other);
    fs::remove_dir_all(nodes.data(0)).unwrap();
    let complaint = nodes.refused(0);
    assert!(
        complaint.contains(&format!("n{next} knows this node")) && complaint.contains("--rebuild"),
        "{complaint}"
    );
    nodes.add(other, &[]);
    nodes.add(0, &["--rebuild"]);
    nodes.verify();
}

/// Until all have met once nobody votes, and whoever waits says for whom.
#[test]
fn a_new_cluster_says_whom_it_waits_for() {
    let mut nodes = Nodes::described("");
    let waiting = nodes.serve(0);
    nodes.spawn(1, &[]);
    while waiting.line().expect("it waits") != "note: waiting to hear of n2" {}
    nodes.spawn(LOSER, &[]);
    nodes.wait_for(1, "ready");
    nodes.wait_for(LOSER, "ready");
    drop(waiting);
    nodes.add(0, &[]);
    nodes.wait_for_all_work();
    nodes.wait_for(1, "total ");
    nodes.verify();
}
