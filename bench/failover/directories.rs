//! How large the data directories of the nodes are, looked at once a second while a run goes on.
//!
//! It adds up files by their names' endings. What they hold, and when a log is cut, is the engine's affair.
#![forbid(unsafe_code)]

use mako::bounds::{MIB, SECOND};
use mako::config::{Config, Durability};
use mako::types::{NodeId, Timestamp};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

pub struct Directories {
    /// By node.
    paths: Vec<PathBuf>,
    cores: Vec<usize>,
    /// Of one core.
    log_bytes: u64,
    start: Timestamp,
    due: Timestamp,
    /// By second and node.
    samples: Vec<(Timestamp, Vec<Size>)>,
}

/// Of one node's directory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Size {
    pub logs: u64,
    pub checkpoints: u64,
    pub others: u64,
}

impl Size {
    pub fn total(&self) -> u64 {
        self.logs + self.checkpoints + self.others
    }

    /// Of everything below `path`. What goes while it is looked at is not there.
    pub fn of(path: &Path) -> Size {
        let mut size = Size::default();
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                let Size { logs, checkpoints, others } = Size::of(&entry.path());
                size.logs += logs;
                size.checkpoints += checkpoints;
                size.others += others;
                continue;
            }
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.contains(".checkpoint") {
                size.checkpoints += metadata.len();
            } else if name.starts_with(|first: char| first.is_ascii_digit()) {
                size.logs += metadata.len();
            } else {
                size.others += metadata.len();
            }
        }
        size
    }
}

impl Directories {
    pub fn new(config: &Config, start: Timestamp) -> Directories {
        let nodes = (0..).map(NodeId).take(config.nodes.len());
        let forgets = config.durability == Durability::Memory;
        Directories {
            paths: config.nodes.iter().map(|node| node.data.clone()).collect(),
            cores: nodes.map(|node| config.cores(node)).collect(),
            log_bytes: if forgets { MIB as u64 } else { config.log_bytes },
            start,
            due: start,
            samples: Vec::new(),
        }
    }

    /// Looks, if it is time.
    pub fn look(&mut self, now: Timestamp) {
        if now >= self.due {
            self.due = now.plus_ns(LOOK_NS);
            self.samples.push((now, self.paths.iter().map(|path| Size::of(path)).collect()));
        }
    }

    /// What a node may take beside its checkpoints: twice the bound of its logs, because as much again may be
    /// appended until the checkpoint that is due is done.
    fn logs_max(&self, node: usize) -> u64 {
        2 * self.log_bytes * self.cores[node] as u64
    }

    /// `None` when every directory was within its checkpoints and twice the bound of its logs throughout.
    pub fn verdict(&self) -> Option<String> {
        let all =
            self.samples.iter().flat_map(|(at, sizes)| sizes.iter().enumerate().map(move |of| (at, of)));
        let mut over = all.filter(|(_, (node, size))| size.logs + size.others > self.logs_max(*node));
        over.next().map(|(at, (node, size))| {
            format!(
                "n{node} had {} beside its checkpoints after {} s; its logs may take {}",
                mebibytes(size.logs + size.others),
                at.since(self.start) / SECOND,
                mebibytes(self.logs_max(node))
            )
        })
    }

    pub fn json(&self) -> Value {
        let sample = |(at, sizes): &(Timestamp, Vec<Size>)| {
            let size = |size: &Size| json!({ "logs": size.logs, "checkpoints": size.checkpoints, "others": size.others });
            json!({ "second": at.since(self.start) as f64 / SECOND as f64, "nodes": sizes.iter().map(size).collect::<Vec<_>>() })
        };
        json!({
            "log_bytes_max": (0..self.paths.len()).map(|node| self.logs_max(node)).collect::<Vec<_>>(),
            "samples": self.samples.iter().map(sample).collect::<Vec<_>>(),
        })
    }

    /// For a person at a terminal: the largest and the last of each.
    pub fn page(&self) -> String {
        let mut page = String::new();
        let Some((_, last)) = self.samples.last() else { return page };
        for (node, Size { logs, checkpoints, .. }) in last.iter().enumerate() {
            let largest = self.samples.iter().map(|(_, sizes)| sizes[node].total()).max().unwrap_or(0);
            let _ = writeln!(
                page,
                "directory of n{node}: at most {}; now logs {} (may be {}) and checkpoints {}",
                mebibytes(largest),
                mebibytes(*logs),
                mebibytes(self.logs_max(node)),
                mebibytes(*checkpoints)
            );
        }
        page
    }
}

pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}

const LOOK_NS: u64 = SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use mako::bounds::LOG_BYTES_MIN;

    /// A bound that no directory could break would hold of a log that is never cut.
    #[test]
    fn a_directory_beyond_its_checkpoints_and_twice_its_logs_is_told() {
        let mut config = fixture::config(1, 3, 1, crate::failover::tables());
        (config.durability, config.log_bytes) = (Durability::QuorumDisk, LOG_BYTES_MIN);
        let root = tempfile::tempdir().unwrap();
        config.nodes.iter_mut().for_each(|node| node.data = root.path().join(&node.name));
        let core = config.nodes[1].data.join("core-0");
        fs::create_dir_all(&core).unwrap();
        let file = |name: &str, bytes: u64| {
            fs::File::create(core.join(name)).unwrap().set_len(bytes).unwrap();
        };
        let mut directories = Directories::new(&config, Timestamp(0));
        let cores = config.cores(NodeId(1)) as u64;
        let most = directories.logs_max(1);
        assert_eq!(most, cores * 2 * LOG_BYTES_MIN);
        file("00000.checkpoint", 99 * LOG_BYTES_MIN);
        file("0000000000000000.wal", most);
        directories.look(Timestamp(0));
        file("0000000000000001.wal", 1);
        directories.look(Timestamp(LOOK_NS - 1));
        assert_eq!(directories.verdict(), None);
        directories.look(Timestamp(LOOK_NS));
        let size = Size { logs: most + 1, checkpoints: 99 * LOG_BYTES_MIN, others: 0 };
        assert_eq!(directories.samples[1].1[1], size);
        let why = directories.verdict().unwrap();
        assert!(why.starts_with("n1 had ") && why.ends_with(&mebibytes(most)), "{why}");
        let largest = format!("directory of n1: at most {}", mebibytes(size.total()));
        assert!(directories.page().contains(&largest), "{}", directories.page());
    }
}
