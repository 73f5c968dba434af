//! What this process may ask of the kernel: memory that is locked, and buffers of sockets.
#![forbid(unsafe_code)]

use super::finding::{Section, Weight};
use super::machine::Machine;
use crate::bounds::{MIB, SOCKET_BUFFER_BYTES, WAL_WRITE_BYTES_MAX, WAL_WRITES_MAX};
use crate::config::format_size_bytes;

pub fn look(machine: &Machine, cpus: usize) -> Section {
    let mut section = Section::new("limits of this user");
    let status = machine.text("proc/self/status").unwrap_or_default();
    let may = |capability: u32| privileges(&status) >> capability & 1 == 1;
    look_at_memlock(machine, cpus, may(CAP_IPC_LOCK), &mut section);
    look_at_buffers(machine, may(CAP_NET_ADMIN), &mut section);
    section
}

fn look_at_memlock(machine: &Machine, cpus: usize, is_free: bool, section: &mut Section) {
    if is_free {
        return section.fact("memlock: may lock as much as it likes (CAP_IPC_LOCK)");
    }
    let limits = machine.text("proc/self/limits").unwrap_or_default();
    let wanted = (cpus * LOG_BUFFER_BYTES) as u64;
    match memlock_bytes(&limits) {
        Some(bytes) if bytes >= wanted => section.fact(format!("memlock: {}", size(bytes))),
        None => section.fact("memlock: not known"),
        Some(bytes) => section.miss(
            Weight::Hint,
            format!("memlock: {}, and {cpus} cores want {} for their logs", size(bytes), size(wanted)),
            "buffers of the log are not registered, and the kernel pins them anew for each write",
            "LimitMEMLOCK=infinity in the unit of systemd, --ulimit memlock=-1 for a container; in a shell of root's: \
             ulimit -l unlimited",
        ),
    }
}

fn look_at_buffers(machine: &Machine, is_free: bool, section: &mut Section) {
    if is_free {
        return section.fact("socket buffers: as long as it likes (CAP_NET_ADMIN)");
    }
    let received = "what comes while a core is at work for a millisecond finds no room, and is sent again after a timeout";
    for (name, costs) in [
        ("rmem_max", received),
        ("wmem_max", "a burst does not leave at once: its rest waits for a later turn"),
    ] {
        match machine.number(&format!("proc/sys/net/core/{name}")) {
            Some(bytes) if bytes >= SOCKET_BUFFER_BYTES as u64 => {
                section.fact(format!("socket buffers: net.core.{name} = {bytes}"));
            }
            None => section.fact(format!("socket buffers: net.core.{name} is not known")),
            Some(bytes) => section.miss(
                Weight::Slow,
                format!("socket buffers: net.core.{name} = {bytes}, below {SOCKET_BUFFER_BYTES}"),
                costs,
                format!(
                    "echo net.core.{name}={SOCKET_BUFFER_BYTES} >> /etc/sysctl.d/60-mako.conf && sysctl --system"
                ),
            ),
        }
    }
}

/// The capabilities in effect, as bits.
fn privileges(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or_default()
}

/// The soft limit; `u64::MAX` where there is none.
fn memlock_bytes(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        bytes => bytes.parse().ok(),
    }
}

fn size(bytes: u64) -> String {
    if bytes == u64::MAX { "unlimited".to_string() } else { format_size_bytes(bytes) }
}

/// What the log of a core registers: its writes, and one of the votes.
const LOG_BUFFER_BYTES: usize = (WAL_WRITES_MAX + 1) * WAL_WRITE_BYTES_MAX;
const _: () = assert!(LOG_BUFFER_BYTES < 64 * MIB);
/// Numbers of the kernel's.
const CAP_NET_ADMIN: u32 = 12;
const CAP_IPC_LOCK: u32 = 14;

#[cfg(test)]
mod tests {
    use super::super::machine::made_of;
    use super::*;

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
        Max open files            1024                 524288               files     \n\
        Max locked memory         8388608              8388608              bytes     \n";

    #[test]
    fn limits_bind_those_without_privileges() {
        let mut files = vec![
            ("proc/self/status", "Name:\tmako\nCapInh:\t0000000000000000\nCapEff:\t0000000000000000\n"),
            ("proc/self/limits", LIMITS),
            ("proc/sys/net/core/rmem_max", "212992\n"),
            ("proc/sys/net/core/wmem_max", "8388608\n"),
        ];
        let (machine, _directory) = made_of(&files);
        let section = look(&machine, 2);
        let expected = [
            (Weight::Hint, "memlock: 8MiB, and 2 cores want 18MiB for their logs"),
            (Weight::Slow, "socket buffers: net.core.rmem_max = 212992, below 8388608"),
        ];
        assert_eq!(section.whats(), expected);
        assert_eq!(section.facts, ["socket buffers: net.core.wmem_max = 8388608"]);
        files[0].1 = "CapEff:\t0000000000005000\n";
        let (machine, _directory) = made_of(&files);
        assert_eq!((look(&machine, 2).findings.len(), look(&machine, 2).facts.len()), (0, 2));
        files[0].1 = "CapEff:\t0000000000004000\n";
        let (machine, _directory) = made_of(&files);
        assert_eq!(look(&machine, 2).whats(), expected[1..]);
    }

    #[test]
    fn no_limit_is_the_highest_one() {
        let unlimited = LIMITS.replace("8388608 ", "unlimited ");
        assert_eq!((memlock_bytes(LIMITS), memlock_bytes(&unlimited)), (Some(8 << 20), Some(u64::MAX)));
        assert_eq!((memlock_bytes(""), privileges("CapEff:\tmany")), (None, 0));
    }
}
