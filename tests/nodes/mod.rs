//! Real nodes as processes, over loopback and real files: at work, killed, stopped; and what must be left of it.
//!
//! A node makes numbered payments on whatever it leads and appends a line to a file once one is durable. Beside them
//! it reads and writes registers, whose history all nodes append to another file, and it audits the total of all
//! accounts on snapshots of its own. After the violence all nodes are killed and started again, and it must hold:
//!   1. Each shows, on a snapshot of its own, every payment that was acknowledged under its number, no number twice,
//!      none missing, and the right total; and no audit before has seen another.
//!   2. The history is strictly serializable, its snapshots are states of it, and the last ones show what was
//!      durable and nothing that was undone (`mako::sim::recorded`).
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, reason = "a test file uses the part it needs")]

use mako::clock;
use mako::sim::recorded::{self, Summary};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// A process that runs in the foreground, and what it says. Killed when the test is done with it.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    pub fn start(command: &mut Command, stderr: Stdio) -> Process {
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        Process { child, lines }
    }

    /// One whose complaints are listened to, and nothing else.
    fn start_complaining(command: &mut Command) -> Process {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stderr.take().unwrap());
        Process { child, lines }
    }

    /// The next line of its output; `None` when it has ended instead.
    pub fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("it says nothing"),
        }
    }

    pub fn signal(&self, signal: i32) {
        let command = format!("kill -{signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
    }

    /// Asks it to end, and waits until it has.
    pub fn end(mut self, signal: i32) -> ExitStatus {
        self.signal(signal);
        assert_eq!(self.line(), None, "nothing is said after a signal");
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As they come.
fn lines_of(out: impl Read + Send + 'static) -> Receiver<String> {
    let (tell, lines) = mpsc::channel();
    // Ends with the output, which ends with the process.
    thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
    });
    lines
}

/// Three nodes, two shards of one partition each; every node by its number.
pub struct Nodes {
    directory: TempDir,
    /// The ports of their gateways.
    http: Vec<u16>,
    running: BTreeMap<usize, Process>,
    /// Those of them that were told to stop and not yet to go on.
    stopped: BTreeSet<usize>,
    kills: usize,
    /// Of the total, each of them right.
    audits: Cell<usize>,
    /// Words before the command of each node that starts from now on, with its name for `{node}`.
    pub launch: Vec<String>,
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
            "[cluster]\nname = \"crashes\"\nelection_timeout = \"400ms\"\nkey_file = \"{}\"\n{keys}\n[[table]]\nname = \"ledger\"\nrouting = \"int:4\"\n",
            directory.path().join(KEY).display()
        );
        let first = free_ports();
        let http: Vec<u16> = (0..NODES).map(|node| first + u16::try_from(NODES + node).unwrap()).collect();
        for (node, http) in http.iter().enumerate() {
            let data = directory.path().join(format!("n{node}"));
            let (port, data) = (first + u16::try_from(node).unwrap(), data.display());
            text += &format!(
                "\n[[node]]\nname = \"n{node}\"\nzone = \"z{node}\"\nlisten = \"127.0.0.1:{port}\"\ndata = \"{data}\"\ncores = 1\n"
            );
            text += &format!("http = \"127.0.0.1:{http}\"\n");
        }
        // So that there is something speculative at every moment at which a node may be killed.
        for [a, b] in [[0, 1], [0, 2], [1, 2]] {
            text +=
                &format!("\n[[link]]\nbetween = [\"z{a}\", \"z{b}\"]\ndelay = \"4ms\"\njitter = \"1ms\"\n");
        }
        text += "\n[[shard]]\nreplicas = [\"n0\", \"n1\", \"n2\"]\n\n[[shard]]\nreplicas = [\"n1\", \"n2\", \"n0\"]\n";
        fs::write(directory.path().join("cluster.toml"), text).unwrap();
        let (running, stopped, audits) = (BTreeMap::new(), BTreeSet::new(), Cell::new(0));
        let nodes = Nodes { directory, http, running, stopped, kills: 0, audits, launch: Vec::new() };
        nodes.write_key('5');
        nodes
    }

    /// Of the nodes that start from now on: so many of this digit.
    pub fn write_key(&self, digit: char) {
        fs::write(self.path(KEY), format!("{}  # of a test\n", digit.to_string().repeat(64))).unwrap();
    }

    /// The nodes that start from now on have no key.
    pub fn unseal(&self) {
        let text = fs::read_to_string(self.path("cluster.toml")).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("key_file")).collect();
        fs::write(self.path("cluster.toml"), kept.join("\n")).unwrap();
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
    pub fn serve(&self, node: usize) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mako"));
        command.args(["serve", "--node", &format!("n{node}"), "--config"]).arg(self.path("cluster.toml"));
        Process::start_complaining(&mut command)
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
        let name = format!("n{node}");
        let launch = self.launch.iter().map(|word| word.replace("{node}", &name));
        let mut words = launch.chain([env!("CARGO_BIN_EXE_mako-bench").to_string()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(["node", "--node", &name]).args(flags);
        command.arg("--config").arg(self.path("cluster.toml"));
        command.arg("--acks").arg(self.path(ACKS)).arg("--history").arg(self.path(HISTORY));
        let complaints = OpenOptions::new().create(true).append(true).open(self.path("stderr")).unwrap();
        let process = Process::start(&mut command, complaints.into());
        assert!(self.running.insert(node, process).is_none());
    }

    pub fn kill(&mut self, node: usize) {
        self.kill_each(&[node]);
    }

    /// As the power does: each is killed before any is waited for.
    pub fn kill_all(&mut self) {
        let running: Vec<usize> = self.running.keys().copied().collect();
        self.kill_each(&running);
    }

    fn kill_each(&mut self, nodes: &[usize]) {
        for node in nodes {
            let child = &mut self.running.get_mut(node).unwrap().child;
            let ended = child.try_wait().unwrap();
            child.kill().unwrap();
            assert!(ended.is_none(), "n{node} has ended by itself: {ended:?}\n{}", self.complaints());
        }
        for node in nodes {
            let mut process = self.running.remove(node).unwrap();
            self.stopped.remove(node);
            process.child.wait().unwrap();
            process.lines.iter().for_each(|line| self.hear(*node, &line));
        }
        self.kills += nodes.len();
    }

    /// It does nothing more, and does not know.
    pub fn stop(&mut self, node: usize) {
        self.running[&node].signal(libc::SIGSTOP);
        assert!(self.stopped.insert(node));
    }

    pub fn go_on(&mut self, node: usize) {
        assert!(self.stopped.remove(&node));
        self.running[&node].signal(libc::SIGCONT);
    }

    /// Every line of every node comes by here.
    fn hear(&self, node: usize, line: &str) {
        if line.starts_with("total ") {
            let total = words(line);
            assert!(total.len() == 2 && total[0] == total[1], "n{node}: an audit saw {line:?}");
            self.audits.set(self.audits.get() + 1);
        }
    }

    /// Listens to these until one of them has said what is waited for; which one.
    fn listen(&self, nodes: &[usize], what: &str, mut is_it: impl FnMut(usize, String) -> bool) -> usize {
        let until = clock::now().plus_ns(PATIENCE.as_nanos() as u64);
        while clock::now() < until {
            for node in nodes {
                match self.running[node].lines.recv_timeout(LOOK) {
                    Ok(line) => {
                        self.hear(*node, &line);
                        if is_it(*node, line) {
                            return *node;
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => panic!("n{node} has ended\n{}", self.complaints()),
                }
            }
        }
        panic!("none of {nodes:?} has said {what}\n{}", self.complaints());
    }

    /// Waits for a line that begins so; what it has said before.
    pub fn wait_for(&self, node: usize, beginning: &str) -> Vec<String> {
        let mut before = Vec::new();
        self.listen(&[node], beginning, |_, line| {
            let is_it = line.starts_with(beginning);
            before.push(line);
            is_it
        });
        before
    }

    /// Passes over what was said so far, and waits until a node has had payments and transactions of the history
    /// acknowledged that it coordinated for this shard: the one that leads it.
    pub fn wait_for_work(&self, shard: usize) -> usize {
        let awake: Vec<usize> =
            self.running.keys().copied().filter(|node| !self.stopped.contains(node)).collect();
        for node in &awake {
            self.running[node].lines.try_iter().for_each(|line| self.hear(*node, &line));
        }
        // Its only partition has the same number.
        let lines = ["acked", "recorded"].map(|verb| format!("{verb} {shard} "));
        let mut said = BTreeSet::new();
        self.listen(&awake, &format!("{lines:?}"), |node, line| {
            said.extend(lines.iter().position(|beginning| line.starts_with(beginning)).map(|at| (node, at)));
            (0..lines.len()).all(|at| said.contains(&(node, at)))
        })
    }

    /// Waits until each of these has had some more payments acknowledged.
    pub fn wait_for_payments(&self, nodes: &[usize]) {
        for node in nodes {
            self.running[node].lines.try_iter().for_each(|line| self.hear(*node, &line));
            self.wait_for(*node, "acked ");
        }
    }

    /// Of each shard; who leads them.
    pub fn wait_for_all_work(&self) -> [usize; SHARDS] {
        std::array::from_fn(|shard| self.wait_for_work(shard))
    }

    fn complaints(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap()
    }

    /// `mako move-leader` for shard 0, asked of `asked`: its exit code, and what it says.
    pub fn move_leader(&self, to: &str, asked: usize) -> (Option<i32>, String) {
        let url = format!("http://127.0.0.1:{}", self.http[asked]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mako"));
        command.args(["move-leader", "--shard", "0", "--to", to, "--http", &url]);
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }

    /// Who leads shard 0, if the one that is asked knows.
    pub fn leader(&self, asked: usize) -> Option<String> {
        Some(self.status(asked)["shards"][0]["leader"].as_str()?.to_string())
    }

    /// What a node answers at `/status`.
    pub fn status(&self, asked: usize) -> serde_json::Value {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.http[asked])).unwrap();
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: n\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        serde_json::from_str(body).unwrap()
    }

    /// The longest time between two payments of a partition that were acknowledged, as they stand in time.
    pub fn longest_gap_ns(&self, partition: u64) -> u64 {
        let acks = self.acks().into_iter().filter(|ack| ack.partition == partition);
        let mut times: Vec<u64> = acks.map(|ack| ack.timestamp).collect();
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    fn acks(&self) -> Vec<Ack> {
        fs::read_to_string(self.path(ACKS)).unwrap().lines().map(Ack::read).collect()
    }

    fn judge(&self) -> Summary {
        let summary = recorded::judge(&fs::read_to_string(self.path(HISTORY)).unwrap());
        let summary = summary.unwrap_or_else(|offence| panic!("{offence}"));
        assert!(summary.torn <= self.kills, "{} kills have torn {} lines", self.kills, summary.torn);
        summary
    }

    /// Kills all, starts them again without load, and compares what each shows with what clients were told.
    pub fn verify(mut self) {
        self.kill_all();
        let (acks, before, audits) = (self.acks(), self.judge(), self.audits.get());
        assert!(audits > 0, "nobody audited the total");
        assert!(before.checked.snapshot_reads > 0 && before.checked.writer_reads > 0, "{before:?}");
        let paid = acks.iter().map(|ack| ack.timestamp).max().expect("nothing was acknowledged");
        let from = paid.max(before.newest.0).to_string();
        // None is ready before the others are there, if it has to learn first.
        (0..NODES).for_each(|node| self.spawn(node, &["--audit", &from]));
        for node in 0..NODES {
            check(node, &acks, &self.wait_for(node, "audited"));
        }
        self.kill_all();
        let after = self.judge();
        assert!(after.looked.iter().copied().eq(0..NODES as u32), "{after:?}");
        println!("{} payments, {audits} audits; {after:?}", acks.len());
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if thread::panicking() {
            // For whoever wants to know more than the sentence says.
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("history-{}", std::process::id()));
            let _ = fs::copy(self.path(HISTORY), &kept);
            eprintln!("the history is in {}", kept.display());
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
    assert_eq!(said("total ").count(), 1, "n{node}: an audit of the total");
    let receipts: BTreeMap<(u64, u64), u64> = said("receipt ").map(|at| ((at[0], at[1]), at[2])).collect();
    for Ack { partition, number, id, .. } in acks {
        let held = receipts.get(&(*partition, *number));
        assert_eq!(held, Some(id), "n{node}: payment {number} of partition {partition} was acknowledged");
    }
    let counters: Vec<Vec<u64>> = said("counter ").collect();
    assert_eq!(counters.len(), SHARDS, "n{node}");
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

pub const NODES: usize = 3;
const SHARDS: usize = 2;
const KEY: &str = "cluster.key";
const ACKS: &str = "acks";
const HISTORY: &str = "history";
/// Ends a test that would hang; no claim about speed.
const PATIENCE: Duration = Duration::from_secs(300);
/// At one node, before the next is listened to.
const LOOK: Duration = Duration::from_millis(2);
