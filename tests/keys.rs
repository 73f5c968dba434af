//! The key of a cluster, as real nodes read it from a file: who has another one is named, and not heard.
#![forbid(unsafe_code)]

mod nodes;

use nodes::{NODES, Nodes, Process};
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
    // Each counts the other, and nobody else.
    let refused = |node: usize| nodes.status(node)["refused_frames"].as_object().unwrap().clone();
    for (node, peer) in [(0, "n2"), (2, "n0")] {
        let refused = refused(node);
        assert!(refused.len() == 1 && refused[peer].as_u64() > Some(0), "n{node}: {refused:?}");
    }
    drop((other, right));
    nodes.add_all(&[]);
    nodes.wait_for_all_work();
    assert!((0..NODES).all(|node| nodes.status(node)["refused_frames"] == serde_json::json!({})));
    nodes.verify();
}

/// Frames of a node in the open must not pass for those of one that has the key, nor be dropped without a word.
#[test]
fn a_node_in_the_open_and_one_with_a_key_name_each_other() {
    let nodes = Nodes::described("");
    let sealed = nodes.serve(0);
    wait_for(&sealed, "note: waiting to hear of n1, n2");
    nodes.unseal();
    let open = nodes.serve(1);
    wait_for(&open, "note: waiting to hear of n0 (what comes in its name does not open");
    wait_for(&sealed, "note: waiting to hear of n1 (what comes in its name does not open");
    assert!(nodes.status(0)["refused_frames"]["n1"].as_u64() > Some(0));
    assert!(nodes.status(1)["refused_frames"]["n0"].as_u64() > Some(0));
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
