//! Real nodes that are told to hand a shard over while payments go on, and to go back.
#![forbid(unsafe_code)]

mod nodes;

use nodes::Nodes;

/// A shard is moved for maintenance: nobody dies, nobody is elected against its will, and the shard comes back.
/// Whoever is asked knows the way to the leader.
#[test]
fn a_shard_is_handed_over_and_back_under_load_with_all_that_was_acknowledged() {
    let nodes = Nodes::start();
    nodes.wait_for_payments(&[0, 1]);
    for (to, asked) in [(2, 1), (0, 0), (1, 0), (0, 2)] {
        let (code, said) = nodes.move_leader(&format!("n{to}"), asked);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.starts_with(&format!("moved: shard 0 is led by n{to} in epoch ")), "{said}");
        assert_eq!(nodes.wait_for_work(0), to);
    }
    let (code, said) = nodes.move_leader("n0", 1);
    assert!(code == Some(0) && said.contains("led by n0"), "it leads already: {said}");
    println!("{} ms between two payments of shard 0 at most", nodes.longest_gap_ns(0) as f64 / 1e6);
    nodes.verify();
}

/// What cannot be done is said, with the reason, and the leader goes on as if nobody had asked.
#[test]
fn a_hand_over_to_a_dead_or_unknown_node_is_refused_and_changes_nothing() {
    let mut nodes = Nodes::start();
    nodes.wait_for_payments(&[0, 1]);
    nodes.kill(2);
    // At first the leader may not know; then it does. Each time it stays.
    for asked in [0, 1] {
        let (code, said) = nodes.move_leader("n2", asked);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.starts_with("error: shard 0 stays where it is (n0): the target "), "{said}");
        assert!(said.contains("; ") && said.lines().count() == 1, "{said}");
        nodes.wait_for_payments(&[0]);
        assert_eq!(nodes.leader(0), Some("n0".to_string()));
    }
    let (code, said) = nodes.move_leader("n9", 1);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("n9") && said.contains("name one of n0, n1, n2"), "{said}");
    let (code, said) = nodes.move_leader("n1", 2);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("error: no answer (http://127.0.0.1:"), "nobody is there: {said}");
    nodes.add(2, &[]);
    nodes.wait_for_payments(&[0, 1]);
    nodes.verify();
}
