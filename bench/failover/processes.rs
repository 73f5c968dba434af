//! Nodes of a cluster file as processes of this program, each with what it says: to be killed as by a power cut.
//!
//! It starts, kills and listens. What they are told to do is `node`'s, what it means is whoever listens'.
//!
//! Invariants:
//!   1. No process outlives this value.
//!   2. A node that ends by itself is told from one that was killed, with what it said last.
#![forbid(unsafe_code)]

use anyhow::{Context, bail};
use mako::bounds::{MS, SECOND};
use mako::clock;
use mako::config::Config;
use mako::types::{NodeId, Timestamp};
use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::Duration;

pub struct Processes<'a> {
    program: PathBuf,
    /// Holds the cluster file, the acknowledgements, and what each node complains of.
    directory: PathBuf,
    names: Vec<String>,
    running: BTreeMap<NodeId, Process>,
    interrupted: &'a AtomicBool,
}

pub struct Process {
    child: Child,
    lines: Receiver<(Timestamp, String)>,
    /// What it has said so far, and when.
    pub said: Vec<(Timestamp, String)>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// When it first said something that begins so.
    pub fn said_at(&self, beginning: &str) -> Option<Timestamp> {
        self.said.iter().find(|(_, line)| line.starts_with(beginning)).map(|(at, _)| *at)
    }

    pub fn has_ended(&self) -> Option<ExitStatus> {
        self.ended
    }

    fn listen(&mut self) -> anyhow::Result<()> {
        loop {
            match self.lines.try_recv() {
                Ok(line) => self.said.push(line),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    // It has closed its output: it ends, or has.
                    let ended = self.child.wait().context("a process cannot be waited for")?;
                    self.ended.get_or_insert(ended);
                    return Ok(());
                }
            }
        }
    }
}

impl<'a> Processes<'a> {
    /// Of the nodes of `config`, none of them started yet.
    pub fn new(
        config: &Config,
        directory: &Path,
        interrupted: &'a AtomicBool,
    ) -> anyhow::Result<Processes<'a>> {
        let program = env::current_exe().context("this program cannot be found")?;
        let names = config.nodes.iter().map(|node| node.name.clone()).collect();
        let directory = directory.to_owned();
        fs::write(directory.join(CONFIG), config.to_toml()).context("the cluster file")?;
        Ok(Processes { program, directory, names, running: BTreeMap::new(), interrupted })
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..).map(NodeId).take(self.names.len())
    }

    pub fn start(&mut self, node: NodeId, flags: &[String]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["node", "--node", &self.names[usize::from(node.0)]]).args(flags);
        command.arg("--config").arg(self.directory.join(CONFIG));
        command.arg("--acks").arg(self.acks());
        let complaints = File::create(self.complaints(node)).context("a file of complaints")?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints);
        let mut child = command.spawn().context("a node cannot be started as a process")?;
        let (tell, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().expect("it was asked for"));
        // Ends with the output, which ends with the process.
        thread::spawn(move || {
            let lines = out.lines().map_while(Result::ok);
            lines.map(|line| (clock::now(), line)).try_for_each(|line| tell.send(line))
        });
        let process = Process { child, lines, said: Vec::new(), ended: None };
        assert!(self.running.insert(node, process).is_none(), "{node:?} runs");
        Ok(())
    }

    /// As the power does: SIGKILL to each, before any is waited for.
    pub fn kill(&mut self, nodes: impl Iterator<Item = NodeId>) -> anyhow::Result<()> {
        let mut killed: Vec<Process> = nodes.filter_map(|node| self.running.remove(&node)).collect();
        for process in &mut killed {
            process.child.kill().context("a process cannot be killed")?;
        }
        for process in &mut killed {
            process.child.wait().context("a process cannot be waited for")?;
        }
        Ok(())
    }

    /// Waits until each of these is so, and whether it came to be in time. An end of a node that nobody asked for
    /// is an error, unless it is waited for here.
    pub fn wait_until(&mut self, nodes: &[NodeId], is_so: impl Fn(&Process) -> bool) -> anyhow::Result<bool> {
        self.wait_until_some(nodes.len(), nodes, is_so)
    }

    /// As `wait_until`, for so many of these.
    pub fn wait_until_some(
        &mut self,
        count: usize,
        nodes: &[NodeId],
        is_so: impl Fn(&Process) -> bool,
    ) -> anyhow::Result<bool> {
        let start = clock::now();
        loop {
            self.listen()?;
            let enough = nodes.iter().filter(|node| is_so(&self.running[node])).count() >= count;
            if enough || clock::now().since(start) > PATIENCE_NS {
                return Ok(enough);
            }
            let fallen = self.running.iter().find(|(_, process)| process.ended.is_some() && !is_so(process));
            if let Some((node, process)) = fallen {
                let (name, complaint) = (&self.names[usize::from(node.0)], self.complaint(*node));
                let status = process.ended.expect("it has ended");
                bail!("a node ended by itself ({name}): {status}; it complained {complaint:?}");
            }
            thread::park_timeout(Duration::from_nanos(LOOK_NS));
        }
    }

    pub fn pause(&mut self, ns: u64) -> anyhow::Result<()> {
        let until = clock::now().plus_ns(ns);
        while clock::now() < until {
            self.wait_until(&[], |process| process.ended.is_none())?;
            thread::park_timeout(Duration::from_nanos(LOOK_NS));
        }
        Ok(())
    }

    fn listen(&mut self) -> anyhow::Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("the run was interrupted (signal): nothing is reported");
        }
        self.running.values_mut().try_for_each(Process::listen)
    }

    pub fn process(&self, node: NodeId) -> &Process {
        &self.running[&node]
    }

    /// Forgets one that has ended.
    pub fn bury(&mut self, node: NodeId) {
        self.running.remove(&node);
    }

    /// Where nodes write down what they acknowledge.
    pub fn acks(&self) -> PathBuf {
        self.directory.join("acks")
    }

    /// What a node has complained of since its last start, on standard error.
    pub fn complaint(&self, node: NodeId) -> String {
        self.stderr(node, false)
    }

    /// What it has noted there.
    pub fn notes(&self, node: NodeId) -> String {
        self.stderr(node, true)
    }

    fn stderr(&self, node: NodeId, notes: bool) -> String {
        let text = fs::read_to_string(self.complaints(node)).unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with("note: ") == notes);
        lines.collect::<Vec<_>>().join("; ")
    }

    fn complaints(&self, node: NodeId) -> PathBuf {
        self.directory.join(format!("{}.stderr", self.names[usize::from(node.0)]))
    }
}

impl Drop for Processes<'_> {
    fn drop(&mut self) {
        for process in self.running.values_mut() {
            // It may have ended by itself.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

const CONFIG: &str = "cluster.toml";
const LOOK_NS: u64 = MS;
/// How long nothing may happen: a start, several elections, and an audit.
const PATIENCE_NS: u64 = 60 * SECOND;
