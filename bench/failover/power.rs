//! Nodes as processes that make payments and are killed: all at once, as by a power cut, or one of them, of whose
//! files one bit is flipped before it starts again. Each time every payment ever acknowledged is looked up.
//!
//! Invariant: what is looked up was acknowledged before the kill, on every node that was killed, and on a
//! snapshot of its own that is newer.
#![forbid(unsafe_code)]

use super::Told;
use super::book::{Ack, Shown};
use super::processes::{Process, Processes};
use super::report::{Verdicts, checks_json, checks_page, ms};
use crate::machine::Machine;
use crate::options::{FailoverOptions, Victim};
use crate::runner::progress;
use anyhow::{Context, bail};
use mako::bounds::{KIB, MS};
use mako::clock;
use mako::config::Config;
use mako::types::{NodeId, Prng};
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub fn run(
    options: &FailoverOptions,
    config: Config,
    settings: Value,
    interrupted: &AtomicBool,
) -> anyhow::Result<Told> {
    let directory =
        tempfile::Builder::new().prefix("mako-bench-").tempdir().context("a directory for the run")?;
    let processes = Processes::new(&config, directory.path(), interrupted)?;
    let mut rounds = Rounds {
        flags: vec!["--clients".to_string(), options.clients.to_string()],
        prng: Prng::with_seed(options.seed),
        partitions: config.partition_count(),
        config,
        processes,
        acks: Vec::new(),
        acks_read: 0,
        verdicts: Verdicts::new(),
        done: Vec::new(),
    };
    let start = clock::now();
    rounds.go(options)?;
    let Rounds { done, verdicts, acks, .. } = rounds;
    let holds = verdicts.values().all(Option::is_none);
    let rounds: Vec<Value> = done.iter().map(Round::json).collect();
    let json = json!({
        "bench": "failover",
        "version": 1,
        "config": settings,
        "machine": Machine::read(),
        "seconds": clock::now().since(start) as f64 / mako::bounds::SECOND as f64,
        "acknowledged": acks.len(),
        "rounds": rounds,
        "checks": checks_json(&verdicts),
    });
    let lines: Vec<String> = (1..).zip(&done).map(|(number, round)| round.line(number)).collect();
    let page = format!("{}\n\n{}", lines.join("\n"), checks_page(&verdicts));
    Ok(Told { json, page, holds })
}

struct Rounds<'a> {
    config: Config,
    partitions: usize,
    processes: Processes<'a>,
    /// Of every start.
    flags: Vec<String>,
    prng: Prng,
    /// Everything acknowledged so far, and how far their file was read.
    acks: Vec<Ack>,
    acks_read: usize,
    verdicts: Verdicts,
    done: Vec<Round>,
}

/// One kill, and what was there afterwards.
struct Round {
    /// Since the kill before this one, and how many of them every node that was killed shows.
    acknowledged: usize,
    found: usize,
    /// From the start of the processes: until all of them vote, and until one of them acknowledged something.
    ready_ns: u64,
    first_ns: Option<u64>,
    flip: Option<Flip>,
}

/// A bit that was flipped, and what became of it.
struct Flip {
    file: String,
    offset: u64,
    bit: u8,
    /// What the node said to it: nothing when it started.
    complaint: Option<String>,
    /// What it had taken for the open end of its log, if it started and cut that.
    cut: bool,
    /// What had to be done: "nothing", "rebuild", …
    remedy: &'static str,
}

impl Rounds<'_> {
    fn go(&mut self, options: &FailoverOptions) -> anyhow::Result<()> {
        let (times, node) = match options.kill {
            Victim::All => (options.times, None),
            // The last: from the second round on it leads nothing.
            _ => (options.flip, self.processes.nodes().last()),
        };
        let all: Vec<NodeId> = self.processes.nodes().collect();
        let flags = self.flags.clone();
        all.iter().try_for_each(|node| self.processes.start(*node, &flags))?;
        if !self.processes.wait_until(&all, is_ready)? || !self.processes.wait_until_some(1, &all, pays)? {
            bail!("no load (start): not every node was ready, or nobody acknowledged anything");
        }
        for name in ["acknowledged_is_found", "comes_back"] {
            self.verdicts.insert(name, None);
        }
        if node.is_some() {
            self.verdicts.insert("rebuild_helps", None);
        }
        let bar = progress("failover", u64::from(times));
        self.processes.pause(options.warmup_ns)?;
        for done in 0..times {
            bar.set_position(u64::from(done));
            let round = self.round(node.map_or_else(|| all.clone(), |node| vec![node]), node.is_some())?;
            self.done.push(round);
            if self.verdicts.values().any(Option::is_some) {
                break;
            }
            self.processes.pause(options.pause_ns)?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Kills these, starts them again, and looks everything up on each.
    fn round(&mut self, nodes: Vec<NodeId>, flips: bool) -> anyhow::Result<Round> {
        self.processes.kill(nodes.iter().copied())?;
        let before = self.acks.len();
        self.read_acks()?;
        let from = self.acks.iter().map(|ack| ack.timestamp).max().unwrap_or(0);
        let acks = self.acks.len();
        let mut flags = vec!["--pays".to_string(), "--audit".to_string(), from.to_string()];
        flags.extend(self.flags.iter().cloned());
        let mut flip = if flips { Some(self.flip(nodes[0])?) } else { None };
        let start = clock::now();
        nodes.iter().try_for_each(|node| self.processes.start(*node, &flags))?;
        if let Some(flip) = &mut flip {
            self.bring_back(nodes[0], flip, &flags)?;
        }
        let in_time = self.processes.wait_until(&nodes, |process| process.said_at("audited").is_some())?;
        // A follower alone acknowledges nothing.
        if !flips && !self.processes.wait_until_some(1, &nodes, pays)? {
            let why = format!("round {}: nobody acknowledged anything", self.done.len() + 1);
            self.verdicts.insert("comes_back", Some(why));
        }
        if !in_time {
            let silent =
                nodes.iter().filter(|node| self.processes.process(**node).said_at("audited").is_none());
            let names: Vec<String> = silent.map(|node| format!("n{}", node.0)).collect();
            let why =
                format!("round {}: {} did not show what they hold", self.done.len() + 1, names.join(", "));
            self.verdicts.insert("comes_back", Some(why));
        }
        let mut found = acks - before;
        for node in &nodes {
            let mut shown = Shown::default();
            self.processes.process(*node).said.iter().for_each(|(_, line)| shown.on_line(line));
            found = found.min(shown.found(&self.acks[before..acks]));
            let why = shown.judge(&self.acks[..acks], self.partitions).filter(|_| in_time);
            if let Some(why) = why {
                let why = format!("round {}, n{}: {why}", self.done.len() + 1, node.0);
                self.verdicts.insert("acknowledged_is_found", Some(why));
            }
        }
        let at = |beginning: &str| {
            let times = nodes.iter().map(|node| self.processes.process(*node).said_at(beginning));
            times.map(|at| at.map(|at| at.since(start))).collect::<Vec<_>>()
        };
        let ready_ns = at("ready").into_iter().flatten().max().unwrap_or(0);
        let first_ns = at("first").into_iter().flatten().min();
        Ok(Round { acknowledged: acks - before, found, ready_ns, first_ns, flip })
    }

    /// A node whose files have one bit that is wrong: it starts, or it says a sentence, and starts once what that
    /// says is done.
    fn bring_back(&mut self, node: NodeId, flip: &mut Flip, flags: &[String]) -> anyhow::Result<()> {
        let over = |process: &Process| is_ready(process) || process.has_ended().is_some();
        for attempt in 0..2 {
            if !self.processes.wait_until(&[node], over)? {
                self.broken(flip, "it neither starts nor ends");
                return Ok(());
            }
            if is_ready(self.processes.process(node)) {
                flip.cut = self.processes.notes(node).contains("a torn tail was cut");
                return Ok(());
            }
            let status = self.processes.process(node).has_ended().and_then(|status| status.code());
            let complaint = self.processes.complaint(node);
            let is_sentence = complaint.starts_with("error: ") && complaint.contains("; ");
            if !is_sentence || status.is_none() {
                self.broken(
                    flip,
                    &format!("it ends without a sentence: exit code {status:?}, {complaint:?}"),
                );
            }
            self.processes.bury(node);
            let mut flags = flags.to_vec();
            if attempt == 0 {
                flip.remedy = "rebuild";
                flags.push("--rebuild".to_string());
            } else {
                let why =
                    format!("round {}, {}: refused even so: {complaint}", self.done.len() + 1, flip.file);
                self.verdicts.insert("rebuild_helps", Some(why));
                flip.remedy = "the bit was put right";
                flip_bit(&self.data(node).join(&flip.file), flip.offset, flip.bit)?;
            }
            flip.complaint.get_or_insert(complaint);
            self.processes.start(node, &flags)?;
        }
        if !self.processes.wait_until(&[node], is_ready)? {
            self.broken(flip, "it does not start even so");
        }
        Ok(())
    }

    fn broken(&mut self, flip: &Flip, why: &str) {
        let Flip { file, offset, bit, .. } = flip;
        let why =
            format!("round {}: bit {bit} of byte {offset} of {file} flipped: {why}", self.done.len() + 1);
        self.verdicts.insert("comes_back", Some(why));
    }

    fn data(&self, node: NodeId) -> PathBuf {
        self.config.nodes[usize::from(node.0)].data.clone()
    }

    /// Flips a bit of any file of a node, more often than not where something is written.
    fn flip(&mut self, node: NodeId) -> anyhow::Result<Flip> {
        let data = self.data(node);
        let mut files = Vec::new();
        list(&data, &mut files)?;
        files.sort();
        let path = files[self.prng.usize(..files.len())].clone();
        let offset = self.place(&path)?;
        let bit = self.prng.u8(..8);
        flip_bit(&path, offset, bit)?;
        let file = path.strip_prefix(&data).unwrap_or(&path).display().to_string();
        Ok(Flip { file, offset, bit, complaint: None, cut: false, remedy: "nothing" })
    }

    fn place(&mut self, path: &Path) -> anyhow::Result<u64> {
        let mut file = fs::File::open(path).context("a file of a node")?;
        let bytes = file.metadata().context("a file of a node")?.len();
        let mut block = [0; 4 * KIB];
        for _ in 0..PLACES_MAX {
            let offset = self.prng.u64(..bytes);
            let first = offset - offset % block.len() as u64;
            file.seek(SeekFrom::Start(first)).context("a file of a node")?;
            let read = file.read(&mut block).context("a file of a node")?;
            if block[..read].iter().any(|byte| *byte != 0) {
                return Ok(offset);
            }
        }
        // Mostly empty: where whatever is there begins, or anywhere.
        Ok(if self.prng.bool() {
            self.prng.u64(..bytes.min(64 * KIB as u64))
        } else {
            self.prng.u64(..bytes)
        })
    }

    /// Those written since the last time. Nobody writes while it is read, but for a half line at its end.
    fn read_acks(&mut self) -> anyhow::Result<()> {
        let text = fs::read_to_string(self.processes.acks()).context("the file of acknowledgements")?;
        let whole = text.rfind('\n').map_or(0, |last| last + 1);
        for line in text[self.acks_read..whole].lines() {
            self.acks.push(Ack::read(line)?);
        }
        self.acks_read = whole;
        Ok(())
    }
}

fn is_ready(process: &Process) -> bool {
    process.said_at("ready").is_some()
}

/// It has acknowledged something.
fn pays(process: &Process) -> bool {
    process.said_at("first").is_some()
}

fn flip_bit(path: &Path, offset: u64, bit: u8) -> anyhow::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path).context("a file of a node")?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).context("a file of a node")?;
    file.write_all_at(&[byte[0] ^ 1 << bit], offset).context("a file of a node")
}

/// Every file below `path` that has a byte and is not thrown away at the next start.
fn list(path: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(path).context("the directory of a node")? {
        let entry = entry.context("the directory of a node")?;
        let metadata = entry.metadata().context("a file of a node")?;
        if metadata.is_dir() {
            list(&entry.path(), files)?;
        } else if metadata.len() > 0 && !is_leftover(&entry.file_name().to_string_lossy()) {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// A segment that was let go of, or a checkpoint that is not whole.
fn is_leftover(name: &str) -> bool {
    name.ends_with(".old") || name.ends_with(".new") || name.contains(".checkpoint-")
}

impl Round {
    fn json(&self) -> Value {
        let in_ms = |ns: u64| ns as f64 / MS as f64;
        let flip = self.flip.as_ref().map(|flip| {
            let Flip { file, offset, bit, complaint, cut, remedy } = flip;
            json!({
                "file": file,
                "offset": offset,
                "bit": bit,
                "complaint": complaint,
                "cut_as_torn": cut,
                "remedy": remedy,
            })
        });
        json!({
            "acknowledged": self.acknowledged,
            "found": self.found,
            "ready_ms": in_ms(self.ready_ns),
            "first_durable_ms": self.first_ns.map(in_ms),
            "flip": flip,
        })
    }

    fn line(&self, number: usize) -> String {
        let Round { acknowledged, found, ready_ns, first_ns, flip } = self;
        let first = first_ns.map_or(String::new(), |ns| format!(", first durable after {}", ms(ns)));
        let line = format!(
            "round {number}: {found} found of {acknowledged} acknowledged; ready after {}{first}",
            ms(*ready_ns)
        );
        let Some(Flip { file, offset, bit, complaint, cut, remedy }) = flip else { return line };
        let started = if *cut { "it started, and cut a torn tail" } else { "it started" };
        let said = complaint.as_deref().unwrap_or(started);
        format!("{line}\n  bit {bit} of byte {offset} of {file}: {said}\n  done: {remedy}")
    }
}

/// Looks for a block that is not empty; a segment is empty behind its open end.
const PLACES_MAX: usize = 8;
