//! Power cuts and rotten bits, on real processes and files: the bench that shows them, run small.
//!
//! What it looks for is in `bench/failover/power.rs`: a payment that was acknowledged and is gone, a wrong total, a
//! start that ends without a sentence. More rounds: `mako-bench failover --kill follower --flip 50`.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;

/// Runs the bench on ports that are free, and shows its page when one of these promises was broken.
fn run(flags: &str, ports: u16, promises: &[&str]) {
    let listen = format!("127.0.0.1:{}", free_ports(ports));
    let mut command = Command::new(env!("CARGO_BIN_EXE_mako-bench"));
    command.arg("failover").args(flags.split(' ')).args(["--listen", &listen]);
    let output = command.output().unwrap();
    let [page, complaints] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    for promise in promises {
        assert!(page.contains(&format!("check {promise}: ok")), "{flags}\n{page}\n{complaints}");
    }
}

/// The first of a few in a row that nobody has, from `first` on; each test process has a range of its own.
fn free_ports(first: u16) -> u16 {
    let process = u16::try_from(std::process::id() % 200).unwrap();
    let first = first + process * 32;
    let free = |port: &u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut starts = (first..first + 32 - PORTS).step_by(usize::from(PORTS));
    starts.find(|start| (*start..start + PORTS).all(|port| free(&port))).expect("some ports are free")
}

const PROMISES: [&str; 2] = ["acknowledged_is_found", "comes_back"];
/// After a flipped bit there is one more.
const PROMISES_OF_FLIP: [&str; 3] = ["acknowledged_is_found", "comes_back", "rebuild_helps"];
/// Three nodes of two cores.
const PORTS: u16 = 6;

/// A power cut: nobody is left who remembers, but for the disks. With few payments, so that it is quick.
#[test]
fn what_was_acknowledged_is_found_after_every_node_was_killed_at_once() {
    run("--kill all --times 2 --shards 2 --warmup 300ms --pause 300ms --clients 4", 56_000, &PROMISES);
}

/// One flipped bit of a stopped replica's files is passed over, or told in a sentence that helps; and never shown
/// as data. Checkpoints are as frequent as they may be, so that bits of theirs are flipped as well.
#[test]
fn a_bit_that_was_flipped_changes_no_answer() {
    let flags = "--kill follower --flip 8 --warmup 300ms --pause 100ms --clients 4 --log 16MiB";
    run(flags, 48_000, &PROMISES_OF_FLIP);
}
