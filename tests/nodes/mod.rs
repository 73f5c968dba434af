//! Real nodes as processes, over loopback and real files, that are killed, and what must hold afterwards.
//!
//! A node makes numbered payments on whatever it leads and appends a line to a file once one is durable. After
//! the violence all nodes are killed and started again, and each must show, on a snapshot of its own: every
//! payment of the file under its number, no number twice, none missing, and the right total.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// Three nodes, two shards of one partition each; every node by its number.
pub struct Nodes {
    directory: TempDir,
    running: BTreeMap<usize, Node>,
}

struct Node {
    child: Child,
    lines: Receiver<String>,
}

impl Nodes {
    /// All of them, at work.
    pub fn start() -> Nodes {
        let mut nodes = Nodes::described("");
        nodes.add_all(&[]);
        nodes
    }

    /// None of them yet. `keys` are more of the whole cluster's.
    pub fn described(keys: &str) -> Nodes {
        let directory = tempfile::tempdir().unwrap();
        let mut text = format!(
            "[cluster]\nname = \"crashes\"\nelection_timeout = \"400ms\"\n{keys}\n[[table]]\nname = \"ledger\"\nrouting = \"int:4\"\n"
        );
        let first = free_ports();
        for node in 0..NODES {
            let data = directory.path().join(format!("n{node}"));
            let (port, data) = (first + u16::try_from(node).unwrap(), data.display());
            text += &format!(
                "\n[[node]]\nname = \"n{node}\"\nzone = \"z{node}\"\nlisten = \"127.0.0.1:{port}\"\ndata = \"{data}\"\ncores = 1\n"
            );
        }
        text += "\n[[shard]]\nreplicas = [\"n0\", \"n1\", \"n2\"]\n\n[[shard]]\nreplicas = [\"n1\", \"n2\", \"n0\"]\n";
        fs::write(directory.path().join("cluster.toml"), text).unwrap();
        Nodes { directory, running: BTreeMap::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Of one node.
    pub fn data(&self, node: usize) -> PathBuf {
        self.path(&format!("n{node}"))
    }

    /// Has `mako serve` start one, which must refuse: what it complains of.
    pub fn refused(&self, node: usize) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mako"));
        command.args(["serve", "--node", &format!("n{node}"), "--config"]).arg(self.path("cluster.toml"));
        let Output { status, stdout, stderr } = command.output().unwrap();
        let [said, complaint] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(status.code() == Some(2) && said.is_empty(), "{status}: {said}{complaint}");
        complaint.lines().filter(|line| line.starts_with("error: ")).collect()
    }

    /// `mako serve`, which makes no payments, and what it complains of.
    pub fn serve(&self, node: usize) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mako"));
        command.args(["serve", "--node", &format!("n{node}"), "--config"]).arg(self.path("cluster.toml"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let complaints = BufReader::new(child.stderr.take().unwrap());
        Server { child, complaints: lines_of(complaints) }
    }

    /// Starts all: the first time none votes before it has heard of the others.
    pub fn add_all(&mut self, flags: &[&str]) {
        (0..NODES).for_each(|node| self.spawn(node, flags));
        (0..NODES).for_each(|node| drop(self.wait_for(node, "ready")));
    }

    /// Starts one, and waits until it votes.
    pub fn add(&mut self, node: usize, flags: &[&str]) {
        self.spawn(node, flags);
        self.wait_for(node, "ready");
    }

    pub fn spawn(&mut self, node: usize, flags: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mako-bench"));
        command.args(["node", "--node", &format!("n{node}")]).args(flags);
        command.arg("--config").arg(self.path("cluster.toml")).arg("--acks").arg(self.path("acks"));
        let complaints = OpenOptions::new().create(true).append(true).open(self.path("stderr")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(complaints).spawn().unwrap();
        let lines = lines_of(BufReader::new(child.stdout.take().unwrap()));
        assert!(self.running.insert(node, Node { child, lines }).is_none());
    }

    pub fn kill(&mut self, node: usize) {
        let mut node = self.running.remove(&node).unwrap();
        node.child.kill().unwrap();
        node.child.wait().unwrap();
    }

    pub fn signal(&self, node: usize, signal: &str) {
        let command = format!("kill -{signal} {}", self.running[&node].child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
    }

    /// Waits for a line that begins so.
    pub fn wait_for(&self, node: usize, beginning: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            match self.running[&node].lines.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with(beginning) => return before,
                Ok(line) => before.push(line),
                Err(why) => {
                    let complaints = fs::read_to_string(self.path("stderr")).unwrap();
                    panic!("n{node} never says {beginning:?} ({why}); it said {before:?}\n{complaints}")
                }
            }
        }
    }

    /// Drops what was said so far, and waits until each of these has had some payments acknowledged.
    pub fn wait_for_payments(&self, nodes: &[usize]) {
        for node in nodes {
            self.running[node].lines.try_iter().for_each(drop);
            self.wait_for(*node, "acked ");
        }
    }

    /// The one that says it leads this shard, of those that do not lead it yet. The others are not listened to
    /// meanwhile.
    pub fn wait_for_leader(&self, shard: usize, candidates: &[usize]) -> usize {
        let line = format!("leads {shard}");
        for _ in 0..LOOKS_MAX {
            for node in candidates {
                match self.running[node].lines.recv_timeout(LOOK) {
                    Ok(said) if said == line => return *node,
                    Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => panic!("n{node} has ended"),
                }
            }
        }
        panic!("nobody leads shard {shard}");
    }

    fn acks(&self) -> Vec<Ack> {
        fs::read_to_string(self.path("acks")).unwrap().lines().map(Ack::read).collect()
    }

    /// Kills all, starts them again without load, and compares what each shows with what was acknowledged.
    pub fn verify(mut self) {
        (0..NODES)
            .filter(|node| self.running.contains_key(node))
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|node| self.kill(node));
        let acks = self.acks();
        let from = acks.iter().map(|ack| ack.timestamp).max().expect("nothing was acknowledged").to_string();
        // None is ready before the others are there, if it has to learn first.
        (0..NODES).for_each(|node| self.spawn(node, &["--audit", &from]));
        for node in 0..NODES {
            check(node, &acks, &self.wait_for(node, "audited"));
        }
    }
}

/// Of a process, as they come.
fn lines_of(out: impl BufRead + Send + 'static) -> Receiver<String> {
    let (tell, lines) = mpsc::channel();
    // Ends with the output, which ends with the process.
    thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    lines
}

/// A node that only serves.
pub struct Server {
    child: Child,
    complaints: Receiver<String>,
}

impl Server {
    /// Waits until it complains of this.
    pub fn wait_for(&mut self, complaint: &str) {
        while self.complaints.recv_timeout(PATIENCE).expect("it never says so") != complaint {}
    }

    pub fn end(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in self.running.values_mut() {
            let _ = node.child.kill();
            let _ = node.child.wait();
        }
    }
}

/// A line about a durable payment.
struct Ack {
    partition: u64,
    number: u64,
    id: u64,
    timestamp: u64,
}

impl Ack {
    fn read(line: &str) -> Ack {
        let [partition, number, id, timestamp] = words(line)[..] else { panic!("{line}") };
        Ack { partition, number, id, timestamp }
    }
}

fn words(line: &str) -> Vec<u64> {
    line.split(' ').filter_map(|word| word.parse().ok()).collect()
}

/// What one node has shown against what all have promised.
fn check(node: usize, acks: &[Ack], shown: &[String]) {
    let said = |beginning: &'static str| {
        shown.iter().filter(move |line| line.starts_with(beginning)).map(|line| words(line))
    };
    let total: Vec<u64> = said("total ").flatten().collect();
    assert!(total.len() == 2 && total[0] == total[1], "n{node}: total {total:?}");
    let receipts: BTreeMap<(u64, u64), u64> = said("receipt ").map(|at| ((at[0], at[1]), at[2])).collect();
    for Ack { partition, number, id, .. } in acks {
        let held = receipts.get(&(*partition, *number));
        assert_eq!(held, Some(id), "n{node}: payment {number} of partition {partition} was acknowledged");
    }
    let counters: Vec<Vec<u64>> = said("counter ").collect();
    assert_eq!(counters.len(), 2, "n{node}");
    for counter in counters {
        let numbers =
            receipts.keys().filter(|(partition, _)| *partition == counter[0]).map(|(_, number)| *number);
        assert!(numbers.eq(1..=counter[1]), "n{node}: numbers of partition {} have holes", counter[0]);
    }
}

/// The first of a few in a row that nobody has. Each test process has a range of its own, and each test a part.
fn free_ports() -> u16 {
    static TESTS: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 300).unwrap();
    let first = 35_000 + process * 64 + TESTS.fetch_add(16, Ordering::Relaxed);
    let free = |port: &u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut starts = (first..first + 16 - 3).step_by(3);
    starts.find(|start| (*start..start + 3).all(|port| free(&port))).expect("some ports are free")
}

pub const NODES: usize = 3;
/// Ends a test that would hang; no claim about speed.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);
const LOOKS_MAX: usize = 6_000;
