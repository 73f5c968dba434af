//! `mako-bench … --processes`: a run whose nodes are processes checks what one inside a process checks, and leaves no
//! process behind, whoever dies.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use mako::clock;
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// A bench on ports of its own: three nodes of one core or two.
fn bench(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mako-bench"));
    command.args(words.split(' ')).args(["--processes", "--durability", "memory", "--warmup", "50ms"]);
    command.args(["--clients", "8", "--listen", &format!("127.0.0.1:{}", free_ports())]);
    command
}

fn free_ports() -> u16 {
    static TESTS: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 200).unwrap();
    let first = 45_000 + process * 64 + TESTS.fetch_add(16, Ordering::Relaxed);
    let free = |port: &u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut starts = (first..=first + 16 - 6).step_by(5);
    starts.find(|start| (*start..start + 6).all(|port| free(&port))).expect("some ports are free")
}

/// The processes a process has started and not yet waited for.
fn children_of(parent: u32) -> Vec<u32> {
    let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    tasks
        .flat_map(|task| {
            children(task).split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect()
}

fn runs(pid: &u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Who nobody waits for stays a zombie.
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = clock::now();
    while !is_so() {
        assert!(clock::now().since(start) < PATIENCE_NS, "{what}");
        std::thread::yield_now();
    }
}

/// A long run whose nodes are there.
fn begin(words: &str) -> (Child, Vec<u32>) {
    let bench = bench(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut nodes = Vec::new();
    wait_until("three nodes start", || {
        nodes = children_of(bench.id());
        nodes.len() == 3
    });
    (bench, nodes)
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.starts_with("error: ")).collect()
}

/// The checks see every replica, wherever it is; and what was measured adds up.
fn holds(words: &str, checks: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("report.json");
    let output = bench(words).args(["--duration", "300ms", "--json"]).arg(&json).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}: {said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    for check in checks {
        assert_eq!(report["checks"][check], "ok", "{report}");
    }
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&report["committed"]) > 0.0, "{report}");
    assert!(number(&report["cpu"]["leader_core_busy"]) > 0.0, "{report}");
    assert!(number(&report["latency_us"]["durable"]["p50"]) > 0.0, "{report}");
    assert!(number(&report["frames"]["received"]) > 0.0, "{report}");
    assert_eq!(report["config"]["processes"], true);
}

#[test]
fn a_bank_of_processes_keeps_its_total() {
    holds("bank --accounts 300", &["total", "audits_leader", "audits_follower"]);
}

#[test]
fn no_update_is_lost_between_processes() {
    holds("micro --keys 2000 --cross-shard-pct 50", &["updates", "keys"]);
}

#[test]
fn tpcc_is_consistent_over_processes() {
    holds("tpcc --warehouses 2", &["consistency_1", "consistency_10", "replicas_agree", "stock_ytd"]);
}

/// A node that dies is named, and nobody waits for it; the others end.
#[test]
fn a_node_that_dies_ends_the_run_and_the_other_nodes() {
    let (bench, nodes) = begin("bank --duration 60s");
    let victim = nodes[1].to_string();
    assert!(Command::new("kill").args(["-9", &victim]).status().unwrap().success());
    let output = bench.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = complaint(&output);
    assert!(complaint.contains("node n") && complaint.contains("signal: 9"), "{complaint}");
    wait_until("all nodes end", || !nodes.iter().any(runs));
}

/// An interrupt, the death of whoever steers: nodes left behind would hold their ports and a CPU each.
#[test]
fn nodes_end_with_whoever_steers_them() {
    for signal in ["-INT", "-KILL"] {
        let (bench, nodes) = begin("bank --duration 60s");
        assert!(Command::new("kill").args([signal, &bench.id().to_string()]).status().unwrap().success());
        let output = bench.wait_with_output().unwrap();
        assert!(!output.status.success());
        wait_until("all nodes end", || !nodes.iter().any(runs));
    }
}

/// What stands between us and a node may print as well, or may not be there.
#[test]
fn nonsense_and_failures_of_a_node_are_told_with_its_name() {
    let told = |launch: &str| {
        let output = bench("bank --duration 60s").args(["--launch", launch]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        complaint(&output)
    };
    let nonsense = told("echo hello {node}");
    assert!(
        nonsense.contains("node n0 says what nobody understands") && nonsense.contains("hello n0"),
        "{nonsense}"
    );
    let absent = told("absent-{node}");
    assert!(absent.contains("node n0 cannot be started as a process (absent-n0)"), "{absent}");
    let ended = told("false");
    assert!(ended.contains("node n0 has ended in the middle of the run"), "{ended}");

    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mako-bench"));
    command.args(["bank", "--processes", "--replicas", "1", "--listen", &listen]);
    let output = command.output().unwrap();
    let complaint = complaint(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint.contains("node n0: ") && complaint.contains(&listen), "{complaint}");
}

/// Nobody types it; but whoever does is told.
#[test]
fn a_steered_node_without_a_job_says_so_and_ends() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mako-bench"));
    let output = command.arg("steered").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("standard input"), "{}", complaint(&output));
}

/// Ends a test that would hang; no claim about speed.
const PATIENCE_NS: u64 = 60 * mako::bounds::SECOND;
