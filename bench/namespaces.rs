//! A network namespace for each node of a run, joined by a bridge in one more: as many machines in one network.
//!
//! Made with `ip`, which needs root. Whether the kernel has an address there or a DPDK port takes the interface for
//! itself is for whoever makes them to say.
//!
//! Invariant: namespaces, and the interfaces in them, are gone when this value is; those of a process that was
//! killed are deleted by the next one that makes some.
#![forbid(unsafe_code)]

use anyhow::{Context, bail};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{self, Command};

pub struct Namespaces {
    made: Vec<String>,
}

/// The interface of each node.
pub const INTERFACE: &str = "mako0";
/// Of the network all nodes are in.
pub const SUBNET: &str = "10.77.0.0/24";

/// Of the node of that number.
pub fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(node + 1).expect("nodes are few"))
}

impl Namespaces {
    /// For nodes of these names, whose interfaces have so many queue pairs. `addressed`: the kernel has their
    /// addresses.
    pub fn make(nodes: &[&str], queues: usize, addressed: bool) -> anyhow::Result<Namespaces> {
        delete_left();
        let mut all = Namespaces { made: Vec::new() };
        let hub = all.add("hub")?;
        ip(&format!("-n {hub} link add bridge up type bridge forward_delay 0"))?;
        for (number, node) in nodes.iter().enumerate() {
            let inside = all.add(node)?;
            let channels = format!("numrxqueues {queues} numtxqueues {queues}");
            ip(&format!(
                "-n {hub} link add {node} {channels} type veth peer name {INTERFACE} {channels} netns {inside}"
            ))?;
            // The kernel is not to speak of itself there.
            ip(&format!("-n {inside} link set {INTERFACE} addrgenmode none"))?;
            ip(&format!("-n {hub} link set {node} addrgenmode none master bridge up"))?;
            if addressed {
                ip(&format!("-n {inside} address add {}/24 dev {INTERFACE}", address(number)))?;
            }
            ip(&format!("-n {inside} link set lo up"))?;
            ip(&format!("-n {inside} link set {INTERFACE} up"))?;
        }
        Ok(all)
    }

    /// Words that start a command in the namespace of a node, whose name goes where `{node}` stands.
    pub fn launch() -> Vec<String> {
        let words = ["ip", "netns", "exec"].map(str::to_string);
        words.into_iter().chain([name("{node}")]).collect()
    }

    fn add(&mut self, what: &str) -> anyhow::Result<String> {
        let name = name(what);
        ip(&format!("netns add {name}"))?;
        self.made.push(name.clone());
        Ok(name)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.made {
            if let Err(why) = ip(&format!("netns delete {name}")) {
                eprintln!("note: {why:#}");
            }
        }
    }
}

fn name(what: &str) -> String {
    format!("{PREFIX}{}-{what}", process::id())
}

/// Those of processes that are no more.
fn delete_left() {
    let listed = Command::new("ip").args(["netns", "list"]).output();
    let listed =
        listed.map(|listed| String::from_utf8_lossy(&listed.stdout).into_owned()).unwrap_or_default();
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let owner = owner.and_then(|owner| owner.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists()) {
            // Another process may be at it too.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let made = Command::new("ip").args(arguments.split_whitespace()).output();
    let made = made.context("network namespaces need iproute2 (ip): apt-get install iproute2")?;
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr);
        bail!(
            "the network of the nodes (ip {arguments}): {}; it needs root, and a kernel with veth",
            why.trim()
        );
    }
    Ok(())
}

/// Of the names of all namespaces made here; the number of the process follows.
const PREFIX: &str = "mako-bench-";
