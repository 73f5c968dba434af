//! The real `mako`, as a process: what it prints, what it listens on, what it exits with; and whole clusters of
//! processes that are killed and stopped under load, and keep what they promised.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod nodes;

use nodes::{NODES, Nodes, Process};
use std::io::Read;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn mako(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mako"));
    command.args(arguments);
    command
}

/// Its exit code and its complaints.
fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = mako(arguments).output().unwrap();
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// A `mako dev` that has become ready, its address and its `ready: …`. Temporary files go to `temporary`.
fn dev(arguments: &[&str], temporary: &Path) -> (Process, String, String) {
    for _ in 0..100 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        let listen = format!("127.0.0.1:{port}");
        let common = ["dev", "--listen", &listen, "--http", "127.0.0.1:0", "--durability", "memory"];
        let mut command = mako(&[&common, arguments].concat());
        let mako = Process::start(command.env("TMPDIR", temporary), Stdio::null());
        // One of the ports above may be somebody else's: then on others.
        if let Some(line) = mako.line() {
            return (mako, listen, line);
        }
    }
    panic!("no free ports");
}

/// Scripts wait for this line, and for nothing else.
#[test]
fn dev_becomes_ready_and_exits_0_when_it_is_told_to_stop() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let data = tempfile::tempdir().unwrap();
        let directory = data.path().join("kept");
        let (mako, listen, line) =
            dev(&["--data", directory.to_str().unwrap(), "--shards", "1"], data.path());
        assert!(line.starts_with(&format!("ready: n0 {listen} http://127.0.0.1:")), "{line}");
        assert!(line.contains(", n1 127.0.0.1:") && line.contains(", n2 127.0.0.1:"), "{line}");
        assert_eq!(mako.end(signal).code(), Some(0));
        assert!(directory.join("n2").join("core-0").is_dir(), "a directory that was named stays");
    }
}

/// The log of a real node, as an operator looks at it; and scripts tell damage by the exit code.
#[test]
fn inspect_prints_the_log_of_a_node_and_exits_1_when_it_is_damaged() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("kept");
    let (mako_dev, ..) = dev(&["--data", directory.to_str().unwrap(), "--shards", "1"], data.path());
    assert_eq!(mako_dev.end(libc::SIGTERM).code(), Some(0));
    let core = directory.join("n0").join("core-0");
    let core = core.to_str().unwrap();
    let Output { status, stdout, stderr } = mako(&["inspect", "wal", core]).output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    assert_eq!((status.code(), String::from_utf8(stderr).unwrap()), (Some(0), String::new()));
    assert!(text.contains(": vote partition 0 ") && text.ends_with("; no damage\n"), "{text}");

    let segment = format!("{core}/0000000000000000.wal");
    std::fs::write(&segment, b"nothing of a log").unwrap();
    let (code, complaint) = refusal(&["inspect", "wal", &segment]);
    assert_eq!(code, Some(1), "{complaint}");
    let place = format!("error: damaged ({segment}, offset 0): ");
    assert!(complaint.starts_with(&place) && complaint.contains("; "), "{complaint}");
}

/// A second cluster on a developer's machine is the commonest slip of all.
#[test]
fn a_second_dev_at_the_same_addresses_exits_2_and_names_the_address() {
    let temporary = tempfile::tempdir().unwrap();
    let (first, listen, line) = dev(&[], temporary.path());
    let (code, complaint) = refusal(&["dev", "--listen", &listen, "--http", "127.0.0.1:0"]);
    let error = complaint.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains(&format!("({listen}): ")) && error.contains("; stop that one"), "{error}");
    let http = line.split(' ').find_map(|word| word.strip_prefix("http://")).unwrap().trim_end_matches(',');
    let (code, complaint) = refusal(&["dev", "--http", http]);
    let error = complaint.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains(&format!("cannot serve HTTP ({http}): ")), "{error}");
    assert_eq!(first.end(libc::SIGTERM).code(), Some(0), "the first one does not mind");
}

/// Without `--data` nothing of a cluster outlives it.
#[test]
fn a_temporary_directory_is_removed_at_exit() {
    let home = tempfile::tempdir().unwrap();
    let count = || std::fs::read_dir(home.path()).unwrap().count();
    let (mako_dev, listen, _) = dev(&[], home.path());
    assert_eq!(count(), 1, "its data is in no other place");
    let taken = mako(&["dev", "--listen", &listen, "--http", "127.0.0.1:0"])
        .env("TMPDIR", home.path())
        .output()
        .unwrap();
    assert_eq!((taken.status.code(), count()), (Some(2), 1), "nor that of one that fails to start");
    assert_eq!(mako_dev.end(libc::SIGTERM).code(), Some(0));
    assert_eq!(count(), 0);
}

/// One mistake a run makes a cluster file of ten mistakes ten runs.
#[test]
fn every_mistake_of_a_cluster_file_is_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.toml");
    std::fs::write(&file, "[cluster]\nname = \"x\"\ncolour = 1\n\n[[shard]]\nreplicas = [\"n1\"]\n").unwrap();
    let file = file.to_str().unwrap();
    for arguments in [&["check", "--config", file][..], &["serve", "--config", file, "--node", "n1"]] {
        let (code, complaint) = refusal(arguments);
        assert_eq!(code, Some(2), "{complaint}");
        assert!(complaint.lines().count() >= 3, "{complaint}");
        for line in complaint.lines() {
            assert!(line.starts_with("error: ") && line.contains("; "), "{line}");
        }
        assert!(complaint.contains("colour") && complaint.contains("node"), "{complaint}");
    }
}

/// What `--write-config` writes is what `check` and `serve` read.
#[test]
fn a_written_cluster_file_is_described_and_served() {
    let directory = tempfile::tempdir().unwrap();
    let (file, listen) = alone(directory.path());
    let file = file.as_str();

    let described = mako(&["check", "--config", file]).output().unwrap();
    let text = String::from_utf8(described.stdout).unwrap();
    assert!(described.status.success() && text.contains("n0") && text.contains(&listen), "{text}");

    let node = Process::start(&mut mako(&["serve", "--config", file, "--node", "n0"]), Stdio::null());
    assert!(node.line().unwrap().starts_with(&format!("ready: n0 {listen} http://127.0.0.1:")));
    assert_eq!(node.end(libc::SIGTERM).code(), Some(0));

    let (code, complaint) = refusal(&["serve", "--config", file, "--node", "n7"]);
    assert_eq!((code, complaint.lines().count()), (Some(2), 1), "{complaint}");
    assert!(complaint.contains("--node n7") && complaint.contains("name one of n0"), "{complaint}");
}

/// A one-node cluster file, and where it listens.
fn alone(directory: &Path) -> (String, String) {
    let file = directory.join("cluster.toml").to_str().unwrap().to_string();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listen = socket.local_addr().unwrap().to_string();
    drop(socket);
    let data = directory.to_str().unwrap();
    let gateways = ["--http", "127.0.0.1:0"];
    let flags = ["--replicas", "1", "--shards", "1", "--listen", &listen, "--data", data];
    let flags = [&flags[..], &gateways].concat();
    let written = mako(&[&["dev", "--write-config", &file], &flags[..]].concat()).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    (file, listen)
}

/// What a node has promised it must find again; what it cannot read it must not guess; and where nobody
/// else knows it, it must not throw it away.
#[test]
fn a_node_starts_again_from_its_log_and_refuses_a_damaged_one() {
    let directory = tempfile::tempdir().unwrap();
    let (file, listen) = alone(directory.path());
    let serve = ["serve", "--config", &file, "--node", "n0"];
    let log = directory.path().join("stderr");
    for start in 0..2 {
        let stderr = std::fs::File::create(&log).unwrap();
        let node = Process::start(&mut mako(&serve), stderr.into());
        assert!(node.line().unwrap().starts_with(&format!("ready: n0 {listen} http://127.0.0.1:")));
        assert_eq!(node.end(libc::SIGKILL).code(), None);
        let said = std::fs::read_to_string(&log).unwrap();
        assert_eq!(said.contains("note: node n0, core 0: recovered "), start > 0, "{said}");
    }
    let segment = directory.path().join("n0/core-0/0000000000000000.wal");
    let bytes = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &bytes[..bytes.len() - 1]).unwrap();
    let (code, complaint) = refusal(&serve);
    let error = complaint.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("0.wal: ") && error.contains("offset ") && error.contains("--rebuild"), "{error}");
    let (code, complaint) = refusal(&[&serve[..], &["--rebuild"]].concat());
    assert_eq!(code, Some(2), "{complaint}");
    assert!(complaint.contains("error: --rebuild (node n0): shard 0 has no other replica"), "{complaint}");
}

/// Bad usage is told from a failure by scripts that look at nothing but the code.
#[test]
fn bad_usage_exits_2_with_one_line() {
    for arguments in [&[][..], &["dve"], &["dev", "--replicas", "2"], &["dev", "--rtt", "50"]] {
        let (code, complaint) = refusal(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {complaint}");
        assert!(arguments.is_empty() || complaint.lines().count() == 1, "{complaint}");
    }
    let mut help = mako(&["--help"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    help.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(help.wait().unwrap().success() && text.contains("Example:"), "{text}");
}

/// The leader of a shard dies with work under way, and comes back; then its successor does.
#[test]
fn what_a_leader_answered_before_it_was_killed_is_kept() {
    let mut nodes = Nodes::start();
    let [leader, _] = nodes.wait_for_all_work();
    nodes.kill(leader);
    let [next, _] = nodes.wait_for_all_work();
    nodes.add(leader, &[]);
    nodes.kill(next);
    nodes.wait_for_all_work();
    nodes.verify();
}

/// A follower may die and come back as it likes: the leaders do not wait for it.
#[test]
fn what_was_answered_while_a_follower_was_killed_is_kept() {
    let mut nodes = Nodes::start();
    for _ in 0..3 {
        let leaders = nodes.wait_for_all_work();
        let follower = (0..NODES).find(|node| !leaders.contains(node)).unwrap();
        nodes.kill(follower);
        nodes.wait_for_all_work();
        nodes.add(follower, &[]);
    }
    nodes.wait_for_all_work();
    nodes.verify();
}

/// A power cut: nobody is left who remembers, but for the disks.
#[test]
fn what_was_answered_before_all_were_killed_at_once_is_kept() {
    let mut nodes = Nodes::start();
    for _ in 0..3 {
        nodes.wait_for_all_work();
        nodes.kill_all();
        (0..NODES).for_each(|node| nodes.spawn(node, &[]));
        (0..NODES).for_each(|node| drop(nodes.wait_for(node, "ready")));
    }
    nodes.verify();
}

/// A leader that sleeps past its lease wakes up in a world that has gone on without it, and believes for a
/// moment that it leads.
#[test]
fn a_leader_that_was_stopped_past_its_lease_answers_nothing_that_is_not_kept() {
    let mut nodes = Nodes::start();
    for _ in 0..4 {
        let [leader, _] = nodes.wait_for_all_work();
        nodes.stop(leader);
        nodes.wait_for_work(0);
        nodes.go_on(leader);
        nodes.wait_for_all_work();
    }
    nodes.verify();
}
