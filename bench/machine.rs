//! What the kernel says of this machine and this process: `/proc` as text, and the few numbers in it we report.
//!
//! What cannot be read is reported as 0 or `unknown`: a bench is not stopped by a strange `/proc`.
#![forbid(unsafe_code)]

use serde::Serialize;
use std::fs::read_to_string;

#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    pub arch: &'static str,
}

impl Machine {
    pub fn read() -> Machine {
        let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = read_to_string("/proc/meminfo").unwrap_or_default();
        let release = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let system = read_to_string("/proc/sys/kernel/ostype").unwrap_or_default();
        Machine {
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_string(),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_bytes: kib_field(&meminfo, "MemTotal"),
            kernel: format!("{} {}", system.trim(), release.trim()).trim().to_string(),
            arch: std::env::consts::ARCH,
        }
    }
}

/// Memory of this process that is resident now.
pub fn resident_bytes() -> u64 {
    kib_field(&read_to_string("/proc/self/status").unwrap_or_default(), "VmRSS")
}

/// CPU time of all threads of this process so far, in user space and in the kernel.
pub fn process_seconds() -> f64 {
    process_ticks(&read_to_string("/proc/self/stat").unwrap_or_default()) as f64 / TICKS_PER_SECOND
}

/// The value of the first `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

fn kib_field(text: &str, name: &str) -> u64 {
    let kib = field(text, name).and_then(|value| value.strip_suffix("kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// Fields 14 and 15. The second field is the name of the program in parentheses, which may hold anything, so
/// fields are counted from the last parenthesis.
fn process_ticks(stat: &str) -> u64 {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest.split_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<u64>().unwrap_or(0)).sum()
}

/// `USER_HZ`, which Linux shows to every program as 100 whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// A program may be named `a) R 1 (b`: counted from the left, its name would be taken for its CPU time.
    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "42 (a) R 1 (b) S 1 42 42 0 -1 4194304 100 0 0 0 730 270 5 6 20 0 9 0";
        assert_eq!(process_ticks(stat), 1_000);
        assert_eq!(process_ticks(""), 0);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 17\nmodel name\t: Some CPU: fast\nVmRSS:\t    2048 kB\nVmRSSx: 7 kB\n";
        assert_eq!(field(text, "model name"), Some("Some CPU: fast"));
        assert_eq!((kib_field(text, "VmRSS"), kib_field(text, "VmHWM")), (2_097_152, 0));
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read();
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty());
        assert!(resident_bytes() > 0);
    }
}
