//! The scripts of `hugepages/`, over a copy of the kernel's files of two NUMA nodes.
//!
//! Files stand in for the kernel: what is written to `nr_hugepages` stays there, and `free_hugepages` is what the test says.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

struct Kernel {
    sys: TempDir,
}

impl Kernel {
    /// Each node with so many pages, and so many of them free; and 1 GiB of memory, half of it free.
    fn new(nodes: &[(u64, u64)]) -> Kernel {
        let kernel = Kernel { sys: tempfile::tempdir().unwrap() };
        for (node, (pages, free)) in nodes.iter().enumerate() {
            fs::create_dir_all(kernel.pool(node)).unwrap();
            kernel.set(node, *pages, *free);
            let meminfo = format!(
                "Node {node} MemTotal:        1048576 kB\nNode {node} MemFree:          409600 kB\n\
                 Node {node} MemUsed:          524288 kB\nNode {node} Active(file):      65536 kB\n\
                 Node {node} Inactive(file):    49152 kB\n"
            );
            fs::write(kernel.node(node).join("meminfo"), meminfo).unwrap();
        }
        kernel
    }

    fn node(&self, node: usize) -> PathBuf {
        self.sys.path().join(format!("devices/system/node/node{node}"))
    }

    fn pool(&self, node: usize) -> PathBuf {
        self.node(node).join("hugepages/hugepages-2048kB")
    }

    fn set(&self, node: usize, pages: u64, free: u64) {
        fs::write(self.pool(node).join("nr_hugepages"), format!("{pages}\n")).unwrap();
        fs::write(self.pool(node).join("free_hugepages"), format!("{free}\n")).unwrap();
    }

    fn pages(&self, node: usize) -> u64 {
        fs::read_to_string(self.pool(node).join("nr_hugepages")).unwrap().trim().parse().unwrap()
    }

    /// Exit code, and what was said: on both outputs, together.
    fn run(&self, line: &str) -> (i32, String) {
        let mut words = line.split(' ');
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hugepages").join(words.next().unwrap());
        let mut command = Command::new("bash");
        let output = command.arg(script).args(words).env("MAKO_SYSFS", self.sys.path()).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), said)
    }
}

#[test]
fn pages_are_reserved_on_every_node_only_when_asked_to_and_only_once() {
    let kernel = Kernel::new(&[(0, 0), (100, 40)]);
    let (code, said) = kernel.run("reserve.sh --pages 64");
    assert_eq!((code, kernel.pages(0)), (0, 0));
    assert!(said.contains("node0: has 0 pages of 2M, would reserve 64"), "{said}");
    assert!(said.contains("node1: has 100 pages of 2M, 64 wanted: nothing to do"), "{said}");
    for _ in 0..2 {
        assert_eq!(kernel.run("reserve.sh --pages 64 --apply").0, 0);
        assert_eq!((kernel.pages(0), kernel.pages(1)), (64, 100));
    }
    assert_eq!(kernel.run("reserve.sh --pages 070 --node 0 --apply").0, 0);
    assert_eq!((kernel.pages(0), kernel.pages(1)), (70, 100));
}

/// Pages that were there before may be another program's.
#[test]
fn what_was_reserved_is_undone_by_the_command_that_was_printed() {
    let kernel = Kernel::new(&[(8, 8), (0, 0)]);
    let (_, said) = kernel.run("reserve.sh --pages 64 --apply");
    kernel.set(0, 64, 64);
    kernel.set(1, 64, 64);
    let undo: Vec<&str> = said.lines().filter_map(|line| line.split("undo: ").nth(1)).collect();
    assert_eq!(undo.len(), 2, "{said}");
    for line in undo {
        assert_eq!(kernel.run(line).0, 0, "{line}");
    }
    assert_eq!((kernel.pages(0), kernel.pages(1)), (8, 0));
}

#[test]
fn pages_in_use_are_not_released() {
    let kernel = Kernel::new(&[(64, 60), (64, 0)]);
    let (code, said) = kernel.run("release.sh");
    assert!(code == 0 && said.contains("node0: has 64 pages of 2M, 4 in use, would release 60"), "{said}");
    assert_eq!((kernel.pages(0), kernel.pages(1)), (64, 64));
    for _ in 0..2 {
        assert_eq!(kernel.run("release.sh --apply").0, 0);
        assert_eq!((kernel.pages(0), kernel.pages(1)), (4, 64));
        kernel.set(0, 4, 0);
    }
}

/// The kernel would take all there is, and the machine would stand still.
#[test]
fn more_than_the_memory_of_a_node_is_refused() {
    let kernel = Kernel::new(&[(10, 10)]);
    // 512 MiB are free or could be; a sixteenth of 1 GiB is left alone.
    let (code, said) = kernel.run("reserve.sh --pages 235 --apply");
    assert_eq!((code, kernel.pages(0)), (2, 10), "{said}");
    assert!(
        said.starts_with("error: --pages 235 (node0): ") && said.contains("choose at most 234,"),
        "{said}"
    );
    assert_eq!((kernel.run("reserve.sh --pages 234 --apply").0, kernel.pages(0)), (0, 234));
}

#[test]
fn a_node_that_is_short_of_pages_is_named() {
    let kernel = Kernel::new(&[(64, 64), (64, 10)]);
    assert_eq!(kernel.run("check.sh").0, 0);
    assert_eq!(kernel.run("check.sh --pages 10").0, 0);
    let (code, said) = kernel.run("check.sh --pages 11");
    assert!(code == 1 && said.contains("error: too few huge pages (node1): "), "{said}");
}

/// Many a small machine.
#[test]
fn a_kernel_without_numa_has_one_pool() {
    let kernel = Kernel::new(&[]);
    let pool = kernel.sys.path().join("kernel/mm/hugepages/hugepages-2048kB");
    fs::create_dir_all(&pool).unwrap();
    fs::write(pool.join("nr_hugepages"), "0\n").unwrap();
    fs::write(pool.join("free_hugepages"), "0\n").unwrap();
    let (code, said) = kernel.run("reserve.sh --pages 4 --apply");
    assert!(code == 0 && said.contains("undo: release.sh --size 2M --keep 0 --apply"), "{said}");
    assert_eq!(fs::read_to_string(pool.join("nr_hugepages")).unwrap(), "4\n");
    assert_eq!((kernel.run("check.sh").0, kernel.run("release.sh").0), (0, 0));
    assert_eq!(kernel.run("reserve.sh --node 0").0, 1);
}

#[test]
fn a_slip_of_the_pen_changes_nothing_and_is_told() {
    let kernel = Kernel::new(&[(0, 0)]);
    for line in [
        "reserve.sh --pages many --apply",
        "reserve.sh --pages",
        "reserve.sh --size 4M --apply",
        "reserve.sh --node x --apply",
        "reserve.sh --nodes 1",
        "release.sh --keep -1 --apply",
        "check.sh --pages 1e3",
    ] {
        let (code, said) = kernel.run(line);
        assert_eq!((code, kernel.pages(0)), (2, 0), "{line}");
        assert!(
            said.starts_with("error: ") && said.contains("(command line): ") && said.lines().count() == 1,
            "{said}"
        );
    }
    let (code, said) = kernel.run("reserve.sh --size 1G");
    assert!(code == 1 && said.starts_with("error: 1G pages (node *): "), "{said}");
}
