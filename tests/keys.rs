//! The key of a cluster, as real nodes read it from a file: who has another one is named, and not heard.
#![forbid(unsafe_code)]

mod nodes;

use nodes::{Nodes, Process};
use std::fs;

/// Passes over what it says until a line begins so.
fn wait_for(process: &Process, beginning: &str) {
    let mut said = Vec::new();
    while let Some(line) = process.line() {
        if line.starts_with(beginning) {
            return;
        }
        said.push(line);
    }
    panic!("it has not said {beginning:?}, but {said:?}");
}

#[test]
fn a_node_with_another_key_is_named_and_let_in_when_it_has_the_right_one() {
    let mut nodes = Nodes::described("");
    nodes.write_key('2');
    let other = nodes.serve(2);
    wait_for(&other, "note: waiting to hear of n0, n1");
    nodes.write_key('5');
    let right = nodes.serve(0);
    wait_for(&right, "note: waiting to hear of n1, n2 (what comes in its name does not open");
    wait_for(&other, "note: waiting to hear of n0 (what comes in its name does not open");
    drop((other, right));
    nodes.add_all(&[]);
    nodes.wait_for_all_work();
    nodes.verify();
}

/// Without it the node would be open to everybody.
#[test]
fn a_node_whose_key_is_missing_or_no_key_does_not_start() {
    let nodes = Nodes::described("");
    let path = nodes.path("cluster.key");
    fs::write(&path, "12345\n").unwrap();
    let complaint = nodes.refused(0);
    assert!(complaint.contains("line 1 is no key") && complaint.contains("cluster.key"), "{complaint}");
    fs::remove_file(&path).unwrap();
    let complaint = nodes.refused(0);
    assert!(complaint.contains("no key") && complaint.contains("openssl rand -hex 32"), "{complaint}");
}
