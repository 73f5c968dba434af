//! What the kernel says of the CPU time of threads and of the datagrams it had no room for.
//!
//! What cannot be read counts as 0.
#![forbid(unsafe_code)]

use mako::bounds::SECOND;
use mako::config::Config;
use mako::types::{CoreId, Endpoint, NodeId};
use rustix::time::{ClockId, clock_gettime};
use std::fs::{read_dir, read_to_string};

/// So far.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// Of all cores of all nodes of this process.
    pub cores_ns: u64,
    pub flood_ns: u64,
    /// Datagrams that found the sockets of the cores full.
    pub lost: u64,
}

impl Usage {
    pub fn read(config: &Config) -> Usage {
        let mut usage = Usage::default();
        let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
        for task in read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let read = |name: &str| read_to_string(task.path().join(name)).unwrap_or_default();
            let (comm, ns) = (read("comm"), cpu_ns(&read("schedstat")));
            match comm.trim() {
                "flood" => usage.flood_ns += ns,
                name if is_core(name, &names) => usage.cores_ns += ns,
                _ => {}
            }
        }
        let table = read_to_string("/proc/self/net/udp").unwrap_or_default();
        for node in (0..).map(NodeId).take(config.nodes.len()) {
            let ports = (0..)
                .map(CoreId)
                .take(config.cores(node))
                .map(|core| config.address(Endpoint { node, core }).port());
            usage.lost += ports.map(|port| lost(&table, port)).sum::<u64>();
        }
        usage
    }
}

/// CPU time of this thread, to the nanosecond: what the kernel keeps in files is as old as its last tick.
pub fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * SECOND as i64 + time.tv_nsec).unwrap_or_default()
}

/// The first of three numbers.
fn cpu_ns(schedstat: &str) -> u64 {
    schedstat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or_default()
}

/// The thread of a core is named for its node and its number.
fn is_core(name: &str, nodes: &[&str]) -> bool {
    name.rsplit_once('.').is_some_and(|(node, core)| nodes.contains(&node) && core.parse::<u16>().is_ok())
}

/// The last column, of the socket of this port.
fn lost(table: &str, port: u16) -> u64 {
    let end = format!(":{port:04X}");
    let line =
        table.lines().find(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&end)));
    line.and_then(|line| line.split_whitespace().last()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n \
        5791: 0100007F:1CEC 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 66882 2 000000000ad26d6f 12\n \
        5792: 0100007F:1CED 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 66883 2 00000000b9bb51cc 0\n";

    #[test]
    fn columns_are_found() {
        assert_eq!([0x1cec, 0x1ced, 0x1cee].map(|port| lost(TABLE, port)), [12, 0, 0]);
        assert_eq!((cpu_ns("123 45 6\n"), cpu_ns("")), (123, 0));
        assert!(is_core("n0.1", &["n0"]) && !is_core("n0.w", &["n0"]) && !is_core("flood", &["n0"]));
    }

    #[test]
    fn this_thread_takes_time() {
        let before = thread_ns();
        let sum: u64 = (0..3_000_000_u64).map(|number| number ^ before).fold(0, u64::wrapping_add);
        assert!(thread_ns() > before, "{sum}");
    }
}
