//! One node of a run that another process steers: a hidden command, told by lines on standard input what to do.
//!
//! It answers each request on standard output, where nothing else may be printed. What the phases mean is
//! `runner`'s, in the other process; the lines are `talk`'s.
//!
//! Invariant: the process ends when its input does, whatever it is doing then. So it never outlives who steers it.
#![forbid(unsafe_code)]

use crate::cores::{Cores, Threads};
use crate::talk::{Answer, Job, Request};
use crate::workload::Workload;
use anyhow::{Context, bail};
use mako::bounds::SECOND;
use mako::server::{Interrupter, StartError, StopError, Watch};
use serde::Serialize;
use std::io::{self, BufRead, Write};
use std::process;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// The other end of the lines.
pub struct Steerer {
    requests: Receiver<String>,
    /// Interrupted when the input ends, so that a start does not go on for nobody.
    watch: Watch,
}

impl Steerer {
    /// And the first thing it says.
    pub fn meet() -> anyhow::Result<(Steerer, Job)> {
        let watch = Watch::default();
        let (tell, requests) = mpsc::channel();
        let interrupter = watch.interrupter();
        thread::spawn(move || read(tell, &interrupter));
        let steerer = Steerer { requests, watch };
        match steerer.next()? {
            Some(Request::Start(job)) => Ok((steerer, job)),
            _ => bail!("it is not told what to do (standard input): the first line is not a job"),
        }
    }

    fn next(&self) -> anyhow::Result<Option<Request>> {
        let Ok(line) = self.requests.recv() else { return Ok(None) };
        serde_json::from_str(&line).context("a line that is no request (standard input)").map(Some)
    }

    /// Does what it is told until it is told to finish, or the input ends.
    pub fn obey<W: Workload>(
        self,
        start: impl FnOnce(Watch) -> anyhow::Result<Threads<W>>,
    ) -> anyhow::Result<()> {
        let Steerer { requests, watch } = self;
        let steerer = Steerer { requests, watch: Watch::default() };
        let mut threads = start(watch)?;
        answer(&Answer::<W::Findings>::Progress(threads.look()?, Vec::new()))?;
        while let Some(request) = steerer.next()? {
            let done = match request {
                Request::Start(_) => bail!("a second job (standard input)"),
                Request::Finish => return answer(&Answer::Harvest(Box::new(threads.finish()?))),
                Request::Look { granted } => {
                    granted.into_iter().for_each(|partition| threads.grant(partition));
                    Ok(())
                }
                Request::Enter(step) => threads.enter(step),
            };
            match done.and_then(|()| threads.look()) {
                Ok(progress) => answer(&Answer::<W::Findings>::Progress(progress, threads.wishes()))?,
                Err(why) => return Err(threads.abandon(why)),
            }
        }
        Ok(())
    }
}

/// Tells why the run cannot go on.
pub fn fail(why: &anyhow::Error) -> anyhow::Result<()> {
    // The engine's errors name their causes themselves.
    let is_engines = why.is::<StartError>() || why.is::<StopError>();
    answer(&Answer::<()>::Failed(if is_engines { format!("{why}") } else { format!("{why:#}") }))
}

fn answer(answer: &impl Serialize) -> anyhow::Result<()> {
    let line = serde_json::to_string(answer).context("an answer (JSON)")?;
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).context("standard output")?;
    out.flush().context("standard output")
}

/// Passes on what is said. Ends the process in the end, if nobody else does.
fn read(tell: mpsc::Sender<String>, interrupter: &Interrupter) {
    // Ends early when nobody listens any more.
    let _ = io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| tell.send(line));
    drop(tell);
    interrupter.interrupt();
    thread::park_timeout(GRACE);
    process::exit(1);
}

/// Cores that do not end must not keep the process.
const GRACE: Duration = Duration::from_nanos(10 * SECOND);
