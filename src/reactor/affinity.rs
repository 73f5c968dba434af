//! Which CPUs there are, and how a thread is tied to one.
//!
//! Pinning is for latency, never for correctness: a partition is safe on whatever CPU its thread runs.
#![forbid(unsafe_code)]

use core_affinity::CoreId;

/// The CPUs this process may use, ascending. Fewer than the machine has where a container or `taskset`
/// says so.
pub fn usable_cpus() -> Vec<usize> {
    let mut cpus: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|cpu| cpu.id).collect();
    cpus.sort_unstable();
    cpus
}

/// Ties the calling thread to `cpu`. False when the kernel will not have it.
pub fn pin(cpu: usize) -> bool {
    core_affinity::set_for_current(CoreId { id: cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that only believes itself pinned shares its CPU with the next one.
    #[test]
    fn a_pinned_thread_may_use_its_cpu_and_no_other() {
        let last = *usable_cpus().last().unwrap();
        let inside = std::thread::spawn(move || (pin(last), usable_cpus())).join().unwrap();
        assert_eq!(inside, (true, vec![last]));
        assert!(!std::thread::spawn(|| pin(crate::bounds::CPUS_MAX - 1)).join().unwrap() || last > 1_000);
    }
}
