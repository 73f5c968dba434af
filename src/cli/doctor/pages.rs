//! Huge pages: reserved ones, in which DPDK keeps its frames, and transparent ones, for everything else.
#![forbid(unsafe_code)]

use super::finding::{Section, Weight};
use super::machine::Machine;

/// The pool of one NUMA node, or of a machine that has no such nodes.
struct Pool {
    /// As the scripts call it, if they can.
    node: Option<String>,
    pages: u64,
    free: u64,
}

pub fn look(machine: &Machine, with_dpdk: bool) -> Section {
    let mut section = Section::new("huge pages");
    let pools = pools(machine);
    if pools.is_empty() {
        section.miss(
            Weight::Hint,
            "this kernel has no huge pages of 2 MiB",
            DPDK_COSTS,
            "boot a kernel with CONFIG_HUGETLBFS",
        );
    }
    for Pool { node, pages, free } in &pools {
        let name = node.as_ref().map_or("the machine".to_string(), |node| format!("NUMA node {node}"));
        let what = format!("{name}: {pages} pages of 2 MiB, {free} free");
        if *free >= PAGES_WANTED {
            section.fact(what);
        } else {
            // Those in use are somebody's: that many are wanted beside them.
            let wanted = pages - free.min(pages) + PAGES_WANTED;
            let node = node.as_ref().map_or(String::new(), |node| format!(" --node {node}"));
            let weight = if with_dpdk { Weight::Slow } else { Weight::Hint };
            section.miss(
                weight,
                what,
                DPDK_COSTS,
                format!("hugepages/reserve.sh{node} --pages {wanted} --apply"),
            );
        }
    }
    look_at_transparent(machine, &mut section);
    section
}

fn pools(machine: &Machine) -> Vec<Pool> {
    let pool = |directory: &str, node: Option<String>| {
        let pages = machine.number(&format!("{directory}/hugepages-2048kB/nr_hugepages"))?;
        let free = machine.number(&format!("{directory}/hugepages-2048kB/free_hugepages"))?;
        Some(Pool { node, pages, free })
    };
    let nodes = machine.numbered("sys/devices/system/node", "node").into_iter();
    let number = |node: &str| node.trim_start_matches("node").to_string();
    let of_nodes = nodes
        .filter_map(|node| pool(&format!("sys/devices/system/node/{node}/hugepages"), Some(number(&node))));
    let pools: Vec<Pool> = of_nodes.collect();
    if pools.is_empty() { pool("sys/kernel/mm/hugepages", None).into_iter().collect() } else { pools }
}

fn look_at_transparent(machine: &Machine, section: &mut Section) {
    let costs =
        "the rows of a large partition are spread over pages of 4 KiB, and most accesses miss the TLB";
    let Some(modes) = machine.text(TRANSPARENT) else {
        let mend = "boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE";
        return section.miss(Weight::Hint, "this kernel has no transparent huge pages", costs, mend);
    };
    match chosen(&modes) {
        Some("always") => section.fact("transparent: always"),
        mode => {
            let what = format!("transparent: {}", mode.unwrap_or("not known"));
            section.miss(Weight::Hint, what, costs, format!("echo always > /{TRANSPARENT}"));
        }
    }
}

/// Of words of which one is in brackets, that one.
fn chosen(modes: &str) -> Option<&str> {
    modes.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

const TRANSPARENT: &str = "sys/kernel/mm/transparent_hugepage/enabled";
/// 24 MiB for the frames of each of eight cores, and 64 MiB for DPDK itself.
const PAGES_WANTED: u64 = 128;
const DPDK_COSTS: &str = "with nic = \"dpdk:…\" frames are on ordinary pages, where drivers of real NICs may not reach them and \
                          accesses miss the TLB; nothing with nic = \"udp\"";

#[cfg(test)]
mod tests {
    use super::super::machine::made_of;
    use super::*;

    const NODE0: &str = "sys/devices/system/node/node0/hugepages/hugepages-2048kB";
    const NODE1: &str = "sys/devices/system/node/node1/hugepages/hugepages-2048kB";

    #[test]
    fn each_numa_node_needs_pages_of_its_own() {
        let at = |node: &str, file: &str| format!("{node}/{file}");
        let files = [
            (at(NODE0, "nr_hugepages"), "200\n"),
            (at(NODE0, "free_hugepages"), "128\n"),
            (at(NODE1, "nr_hugepages"), "70\n"),
            (at(NODE1, "free_hugepages"), "10\n"),
            (TRANSPARENT.to_string(), "always [madvise] never\n"),
        ];
        let files = files.each_ref().map(|(path, text)| (path.as_str(), *text));
        let (machine, _directory) = made_of(&files);
        let section = look(&machine, true);
        assert_eq!(section.facts, ["NUMA node 0: 200 pages of 2 MiB, 128 free"]);
        let expected = [
            (Weight::Slow, "NUMA node 1: 70 pages of 2 MiB, 10 free"),
            (Weight::Hint, "transparent: madvise"),
        ];
        assert_eq!(section.whats(), expected);
        assert_eq!(section.findings[0].mend, "hugepages/reserve.sh --node 1 --pages 188 --apply");
        assert_eq!(section.findings[1].mend, "echo always > /sys/kernel/mm/transparent_hugepage/enabled");
        assert_eq!(look(&machine, false).findings[0].weight, Weight::Hint);
    }

    #[test]
    fn a_kernel_without_numa_has_one_pool_and_one_without_any_is_told_of() {
        let pool = "sys/kernel/mm/hugepages/hugepages-2048kB";
        let (nr, free) = (format!("{pool}/nr_hugepages"), format!("{pool}/free_hugepages"));
        let (machine, _directory) =
            made_of(&[(&nr, "0"), (&free, "0"), (TRANSPARENT, "[always] madvise never")]);
        let section = look(&machine, false);
        assert_eq!(section.facts, ["transparent: always"]);
        assert_eq!(section.findings[0].mend, "hugepages/reserve.sh --pages 128 --apply");
        let (bare, _directory) = made_of(&[]);
        assert_eq!(look(&bare, false).findings.len(), 2);
    }
}
