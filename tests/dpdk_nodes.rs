//! Nodes over DPDK, each in a network namespace of its own: one is killed again and again, and comes back each time
//! to peers that never restart, to all that was promised, and to as many free huge pages as before.
//!
//! Needs root, veth and AF_XDP. `MAKO_KILLS` says how often; a few times without.
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../bench/namespaces.rs"]
mod namespaces;
mod nodes;

use mako::bounds::{MS, SECOND};
use mako::clock;
use namespaces::{INTERFACE, Namespaces, SUBNET, address};
use nodes::{NODES, Nodes};
use std::fs;
use std::sync::{Mutex, PoisonError};

/// Pages for these tests, beside those the machine had reserved.
struct HugePages {
    before: u64,
}

impl HugePages {
    fn reserve(pages: u64) -> HugePages {
        let before = number(RESERVED);
        fs::write(RESERVED, (before + pages).to_string()).unwrap();
        let huge = HugePages { before };
        assert_eq!(number(RESERVED), before + pages, "the machine has no memory in pieces of 2 MiB");
        huge
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Whoever looks at the machine afterwards sees it.
        let _ = fs::write(RESERVED, self.before.to_string());
    }
}

fn number(path: &str) -> u64 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// The kernel takes a socket of AF_XDP apart, and its memory with it, some time after its owner has ended.
fn wait_for_free(pages: u64) {
    let start = clock::now();
    while number(FREE) != pages {
        let free = number(FREE);
        assert!(clock::now().since(start) < PATIENCE_NS, "{free} huge pages are free, not {pages}");
        std::thread::yield_now();
    }
}

/// Puts nodes that are described on loopback on ports of DPDK.
fn move_to(driver: &str, nodes: &Nodes) {
    let file = nodes.path("cluster.toml");
    let text = fs::read_to_string(&file).unwrap();
    let mut number = 0;
    let lines = text.lines().map(|line| {
        if !line.starts_with("listen = ") {
            return line.replace("election_timeout = \"400ms\"", "election_timeout = \"1s\"\nspin = \"0ms\"");
        }
        let ip = address(number);
        number += 1;
        format!(
            "listen = \"{ip}:7400\"\nsubnet = \"{SUBNET}\"\nnic = \"dpdk:net_{driver}0,iface={INTERFACE}\"\n"
        )
    });
    fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
    assert_eq!(number, NODES);
}

fn survives_kills(driver: &str) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let kills: u64 = std::env::var("MAKO_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let _pages = HugePages::reserve(PAGES);
    let before = number(FREE);
    let _namespaces = Namespaces::make(&["n0", "n1", "n2"], 1, false).unwrap();
    // Each life of a node begins a segment of its log, which the next one reads: the hundredth a hundred of them.
    let mut nodes = Nodes::described("log = \"64MiB\"");
    move_to(driver, &nodes);
    nodes.launch = Namespaces::launch();
    nodes.add_all(&[]);
    let each = (before - number(FREE)) / NODES as u64;
    assert!(each > 0 && number(FREE) == before - each * NODES as u64, "{} of {before}", number(FREE));
    let (start, mut longest_ns) = (clock::now(), 0);
    for _ in 0..kills {
        nodes.kill(VICTIM);
        wait_for_free(before - each * (NODES as u64 - 1));
        let killed = clock::now();
        nodes.add(VICTIM, &[]);
        longest_ns = longest_ns.max(clock::now().since(killed));
        assert_eq!(number(FREE), before - each * NODES as u64);
        nodes.wait_for_all_work();
    }
    let seconds = clock::now().since(start) / SECOND;
    nodes.verify();
    wait_for_free(before);
    println!(
        "{driver}: {kills} kills in {seconds} s, back after {} ms at most; huge pages: {each} of each node, \
         {before} free before and after",
        longest_ns / MS
    );
}

#[test]
fn a_killed_node_over_af_xdp_comes_back_and_leaves_no_huge_page_behind() {
    survives_kills("af_xdp");
}

#[test]
fn a_killed_node_over_af_packet_comes_back_and_leaves_no_huge_page_behind() {
    survives_kills("af_packet");
}

const RESERVED: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
/// More than three nodes of one core need.
const PAGES: u64 = 192;
const KILLS: u64 = 3;
const VICTIM: usize = 1;
/// Ends a test that would hang; no claim about speed.
const PATIENCE_NS: u64 = 60 * SECOND;
