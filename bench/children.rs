//! The nodes of a cluster as processes of this program, one each, steered by lines on their standard input.
//!
//! It starts them, asks and adds up what they answer. What they do then is `steered`'s, what it means `runner`'s.
//!
//! Invariants:
//!   1. No process outlives this value, nor this process: each ends when its standard input does, and is killed by
//!      its number when it does not.
//!   2. A partition is granted to one process (invariant 3 of `control`).
#![forbid(unsafe_code)]

use crate::cores::{Cores, Harvest, Progress, Step};
use crate::talk::{Answer, Job, Request};
use anyhow::{Context, bail};
use mako::bounds::{MS, SECOND};
use mako::clock;
use mako::config::Config;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::marker::PhantomData;
use std::os::unix::process::CommandExt;
use std::process::{self, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Cores that are threads of other processes. `kinds` are those of the workload's transactions.
pub struct Children<'a, F> {
    children: Vec<Child>,
    kinds: usize,
    granted: BTreeSet<u16>,
    interrupted: &'a AtomicBool,
    found: PhantomData<F>,
}

struct Child {
    node: String,
    process: process::Child,
    /// `None` when it is to end.
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
    /// What it has been granted since it was asked last.
    granted: Vec<u16>,
}

impl<'a, F: DeserializeOwned> Children<'a, F> {
    /// Each node of `config`. `words` are what was typed behind `mako-bench`; `launch` comes before the command of
    /// each, with the name of its node for `{node}`.
    pub fn start(
        config: &Config,
        words: &[String],
        launch: &[String],
        kinds: usize,
        interrupted: &'a AtomicBool,
    ) -> anyhow::Result<Children<'a, F>> {
        let (cluster, granted) = (config.to_toml(), BTreeSet::new());
        let mut all = Children { children: Vec::new(), kinds, granted, interrupted, found: PhantomData };
        for node in &config.nodes {
            all.children.push(Child::start(&node.name, launch)?);
        }
        let answers = all.ask(|child| {
            let (words, cluster, node) = (words.to_vec(), cluster.clone(), child.node.clone());
            Request::Start(Job { words, cluster, node })
        })?;
        all.add_up(answers)?;
        Ok(all)
    }

    /// Asks all of them, and waits for their answers.
    fn ask(&mut self, request: impl Fn(&mut Child) -> Request) -> anyhow::Result<Vec<Answer<F>>> {
        for child in &mut self.children {
            let request = request(child);
            child.ask(&request)?;
        }
        self.children.iter_mut().map(|child| child.answer(self.interrupted)).collect()
    }

    /// Grants what was wished for, whoever comes first.
    fn add_up(&mut self, answers: Vec<Answer<F>>) -> anyhow::Result<Progress> {
        let mut all = Progress::default();
        for (child, answer) in self.children.iter_mut().zip(answers) {
            let Answer::Progress(progress, wishes) = answer else { return Err(child.misunderstood()) };
            all.add(&progress);
            child.granted.extend(wishes.into_iter().filter(|partition| self.granted.insert(*partition)));
        }
        Ok(all)
    }
}

impl<F: DeserializeOwned> Cores<F> for Children<'_, F> {
    fn look(&mut self) -> anyhow::Result<Progress> {
        let answers = self.ask(|child| Request::Look { granted: std::mem::take(&mut child.granted) })?;
        self.add_up(answers)
    }

    fn enter(&mut self, step: Step) -> anyhow::Result<()> {
        let answers = self.ask(|_| Request::Enter(step))?;
        self.add_up(answers).map(drop)
    }

    fn finish(mut self) -> anyhow::Result<Harvest<F>> {
        let answers = self.ask(|_| Request::Finish)?;
        let mut harvest = Harvest::new(self.kinds);
        for (child, answer) in self.children.iter().zip(answers) {
            let Answer::Harvest(one) = answer else { return Err(child.misunderstood()) };
            harvest.add(*one);
        }
        Ok(harvest)
    }

    fn abandon(self, why: anyhow::Error) -> anyhow::Error {
        why
    }
}

impl Child {
    fn start(node: &str, launch: &[String]) -> anyhow::Result<Child> {
        let program = env::current_exe().context("this program cannot be found")?;
        let mut words = launch.iter().map(|word| word.replace("{node}", node));
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("steered").stdin(Stdio::piped()).stdout(Stdio::piped());
        // An interrupt at the terminal is for us: they end when we let them.
        command.process_group(0);
        let mut process = command.spawn().with_context(|| {
            format!("node {node} cannot be started as a process ({})", command.get_program().display())
        })?;
        let (tell, answers) = mpsc::channel();
        let out = BufReader::new(process.stdout.take().expect("it was asked for"));
        // Ends with the output, which ends with the process.
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let requests = process.stdin.take();
        Ok(Child { node: node.to_string(), process, requests, answers, granted: Vec::new() })
    }

    fn ask(&mut self, request: &Request) -> anyhow::Result<()> {
        let line = serde_json::to_string(request).context("a request (JSON)")? + "\n";
        let requests = self.requests.as_mut().expect("it is asked before it is to end");
        // One that has ended says so by having no answer.
        let _ = requests.write_all(line.as_bytes());
        Ok(())
    }

    fn answer<F: DeserializeOwned>(&mut self, interrupted: &AtomicBool) -> anyhow::Result<Answer<F>> {
        let (start, node) = (clock::now(), self.node.clone());
        let line = loop {
            match self.answers.recv_timeout(LOOK) {
                Ok(line) => break line,
                Err(RecvTimeoutError::Timeout) if interrupted.load(Ordering::Relaxed) => {
                    bail!("the run was interrupted (signal): nothing is reported")
                }
                Err(RecvTimeoutError::Timeout) if clock::now().since(start) < PATIENCE_NS => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("node {node} does not answer (its process): nothing in {} s", PATIENCE_NS / SECOND)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("node {node} has ended in the middle of the run (its process): {}", self.end())
                }
            }
        };
        match serde_json::from_str(&line) {
            Ok(Answer::Failed(why)) => bail!("node {node}: {why}"),
            Ok(answer) => Ok(answer),
            Err(why) => {
                let said: String = line.chars().take(SAID_MAX).collect();
                bail!("node {node} says what nobody understands (its standard output, {said:?}): {why}")
            }
        }
    }

    fn misunderstood(&self) -> anyhow::Error {
        anyhow::anyhow!("node {} answers another question (its standard output)", self.node)
    }

    /// Lets it end, and sees to it that it does.
    fn end(&mut self) -> String {
        self.requests = None;
        let start = clock::now();
        while clock::now().since(start) < GRACE_NS {
            match self.process.try_wait() {
                Ok(None) => thread::park_timeout(LOOK),
                ended => return ended.ok().flatten().map_or_else(String::new, |status| words(&status)),
            }
        }
        // It may have ended by now.
        let _ = self.process.kill();
        self.process
            .wait()
            .map_or_else(|why| why.to_string(), |_| "killed because it did not end".to_string())
    }
}

fn words(status: &ExitStatus) -> String {
    format!("{status}")
}

impl<F> Drop for Children<'_, F> {
    fn drop(&mut self) {
        // All at once: each has its cores to stop.
        self.children.iter_mut().for_each(|child| child.requests = None);
        self.children.iter_mut().for_each(|child| drop(child.end()));
    }
}

const LOOK: Duration = Duration::from_nanos(5 * MS);
/// For an answer: the first one comes when the logs are open.
const PATIENCE_NS: u64 = 60 * SECOND;
/// For the end of a process whose input has ended. It gives up by itself before.
const GRACE_NS: u64 = 12 * SECOND;
/// Of a line that is no answer.
const SAID_MAX: usize = 80;
