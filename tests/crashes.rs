//! Real nodes as processes, over loopback and real files, killed under load or told to hand their shards over: what
//! was acknowledged is there.
//!
//! A node makes numbered payments on whatever it leads and appends a line to a file once one is durable. After
//! the violence all nodes are killed and started again, and each must show, on a snapshot of its own: every
//! payment of the file under its number, no number twice, none missing, and the right total.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// Three nodes, two shards of one partition each; every node by its number.
struct Nodes {
    directory: TempDir,
    /// The ports of their gateways.
    http: Vec<u16>,
    running: BTreeMap<usize, Node>,
}

struct Node {
    child: Child,
    lines: Receiver<String>,
}

impl Nodes {
    /// All of them, at work.
    fn start() -> Nodes {
        let directory = tempfile::tempdir().unwrap();
        let mut text =
            "[cluster]\nname = \"crashes\"\nelection_timeout = \"400ms\"\n\n[[table]]\nname = \"ledger\"\nrouting = \"int:4\"\n"
                .to_string();
        let first = free_ports();
        let http = (0..NODES).map(|node| first + u16::try_from(NODES + node).unwrap()).collect();
        for node in 0..NODES {
            let data = directory.path().join(format!("n{node}"));
            let (port, data) = (first + u16::try_from(node).unwrap(), data.display());
            text += &format!(
                "\n[[node]]\nname = \"n{node}\"\nzone = \"z{node}\"\nlisten = \"127.0.0.1:{port}\"\ndata = \"{data}\"\ncores = 1\n"
            );
            text += &format!("http = \"127.0.0.1:{}\"\n", port + u16::try_from(NODES).unwrap());
        }
        text += "\n[[shard]]\nreplicas = [\"n0\", \"n1\", \"n2\"]\n\n[[shard]]\nreplicas = [\"n1\", \"n2\", \"n0\"]\n";
        fs::write(directory.path().join("cluster.toml"), text).unwrap();
        let mut nodes = Nodes { directory, http, running: BTreeMap::new() };
        (0..NODES).for_each(|node| nodes.add(node, &[]));
        nodes
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts one, and waits until it votes.
    fn add(&mut self, node: usize, flags: &[&str]) {
        self.spawn(node, flags);
        self.wait_for(node, "ready");
    }

    fn spawn(&mut self, node: usize, flags: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mako-bench"));
        command.args(["node", "--node", &format!("n{node}")]).args(flags);
        command.arg("--config").arg(self.path("cluster.toml")).arg("--acks").arg(self.path("acks"));
        let complaints = OpenOptions::new().create(true).append(true).open(self.path("stderr")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(complaints).spawn().unwrap();
        let (tell, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        // Ends with the output, which ends with the process.
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        assert!(self.running.insert(node, Node { child, lines }).is_none());
    }

    fn kill(&mut self, node: usize) {
        let mut node = self.running.remove(&node).unwrap();
        node.child.kill().unwrap();
        node.child.wait().unwrap();
    }

    fn signal(&self, node: usize, signal: &str) {
        let command = format!("kill -{signal} {}", self.running[&node].child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
    }

    /// Waits for a line that begins so.
    fn wait_for(&self, node: usize, beginning: &str) -> Vec<String> {
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
    fn wait_for_payments(&self, nodes: &[usize]) {
        for node in nodes {
            self.running[node].lines.try_iter().for_each(drop);
            self.wait_for(*node, "acked ");
        }
    }

    /// The one that says it leads this shard, of those that do not lead it yet. The others are not listened to
    /// meanwhile.
    fn wait_for_leader(&self, shard: usize, candidates: &[usize]) -> usize {
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

    /// `mako move-leader` for shard 0, asked of `asked`: its exit code, and what it says.
    fn move_leader(&self, to: &str, asked: usize) -> (Option<i32>, String) {
        let url = format!("http://127.0.0.1:{}", self.http[asked]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mako"));
        command.args(["move-leader", "--shard", "0", "--to", to, "--http", &url]);
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }

    /// Who leads shard 0, if the one that is asked knows.
    fn leader(&self, asked: usize) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.http[asked])).unwrap();
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: n\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let status: serde_json::Value = serde_json::from_str(body).unwrap();
        Some(status["shards"][0]["leader"].as_str()?.to_string())
    }

    fn acks(&self) -> Vec<Ack> {
        fs::read_to_string(self.path("acks")).unwrap().lines().map(Ack::read).collect()
    }

    /// The longest time between two payments of a partition that were acknowledged, as they stand in time.
    fn longest_gap_ns(&self, partition: u64) -> u64 {
        let acks = self.acks().into_iter().filter(|ack| ack.partition == partition);
        let mut times: Vec<u64> = acks.map(|ack| ack.timestamp).collect();
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Kills all, starts them again without load, and compares what each shows with what was acknowledged.
    fn verify(mut self) {
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
    let free = |port: &u16| {
        let place = (Ipv4Addr::LOCALHOST, *port);
        UdpSocket::bind(place).is_ok() && TcpListener::bind(place).is_ok()
    };
    let mut starts = (first..=first + 16 - 6).step_by(5);
    starts.find(|start| (*start..start + 6).all(|port| free(&port))).expect("some ports are free")
}

const NODES: usize = 3;
/// Ends a test that would hang; no claim about speed.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);
const LOOKS_MAX: usize = 6_000;

/// The leader of a shard dies with payments under way, and comes back; then its successor does.
#[test]
fn what_a_leader_acknowledged_before_it_was_killed_is_kept() {
    let mut nodes = Nodes::start();
    nodes.wait_for_payments(&[0, 1]);
    nodes.kill(0);
    let next = nodes.wait_for_leader(0, &[1, 2]);
    nodes.wait_for_payments(&[next]);
    nodes.add(0, &[]);
    nodes.wait_for_payments(&[next]);
    nodes.kill(next);
    let others: Vec<usize> = (0..NODES).filter(|node| *node != next).collect();
    let last = nodes.wait_for_leader(0, &others);
    nodes.wait_for_payments(&[last]);
    nodes.verify();
}

/// A follower may die and come back as it likes: the leaders do not wait for it.
#[test]
fn what_was_acknowledged_while_a_follower_was_killed_is_kept() {
    let mut nodes = Nodes::start();
    for _ in 0..3 {
        nodes.wait_for_payments(&[0, 1]);
        nodes.kill(2);
        nodes.wait_for_payments(&[0, 1]);
        nodes.add(2, &[]);
    }
    nodes.wait_for_payments(&[0, 1]);
    nodes.verify();
}

/// A power cut: nobody is left who remembers, but for the disks.
#[test]
fn what_was_acknowledged_before_all_were_killed_at_once_is_kept() {
    let mut nodes = Nodes::start();
    for _ in 0..3 {
        let leader = nodes.wait_for_leader(0, &[0, 1, 2]);
        nodes.wait_for_payments(&[leader]);
        (0..NODES).for_each(|node| nodes.kill(node));
        (0..NODES).for_each(|node| nodes.spawn(node, &[]));
        (0..NODES).for_each(|node| drop(nodes.wait_for(node, "ready")));
    }
    nodes.verify();
}

/// A leader that sleeps past its lease wakes up in a world that has gone on without it, and believes for a
/// moment that it leads.
#[test]
fn a_leader_that_was_stopped_past_its_lease_acknowledges_nothing_that_is_not_kept() {
    let nodes = Nodes::start();
    nodes.wait_for_payments(&[0, 1]);
    let mut leader = 0;
    for _ in 0..2 {
        nodes.signal(leader, "STOP");
        let others: Vec<usize> = (0..NODES).filter(|node| *node != leader).collect();
        let next = nodes.wait_for_leader(0, &others);
        nodes.wait_for_payments(&[next]);
        nodes.signal(leader, "CONT");
        nodes.wait_for_payments(&[next]);
        leader = next;
    }
    nodes.verify();
}

/// A shard is moved for maintenance while payments go on: nobody dies, nobody is elected against its will, and the
/// shard comes back. Whoever is asked knows the way to the leader.
#[test]
fn a_shard_is_handed_over_and_back_under_load_with_all_that_was_acknowledged() {
    let nodes = Nodes::start();
    nodes.wait_for_payments(&[0, 1]);
    for (to, asked) in [(2, 1), (0, 0), (1, 0), (0, 2)] {
        let (code, said) = nodes.move_leader(&format!("n{to}"), asked);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.starts_with(&format!("moved: shard 0 is led by n{to} in epoch ")), "{said}");
        assert_eq!(nodes.wait_for_leader(0, &[to]), to);
        nodes.wait_for_payments(&[to]);
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
