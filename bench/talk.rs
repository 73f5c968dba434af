//! What a bench and the processes it has started say to each other: requests and answers, a line of JSON each.
//!
//! The bench asks, and each process answers every request with one line, in turn. A process whose input ends ends.
#![forbid(unsafe_code)]

use crate::cores::{Harvest, Progress, Step};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The first.
    Start(Job),
    /// Tells which partitions the process may load, and asks how far it is.
    Look {
        granted: Vec<u16>,
    },
    Enter(Step),
    /// The last.
    Finish,
}

/// What a process is to be.
#[derive(Serialize, Deserialize, Debug)]
pub struct Job {
    /// What was typed behind `mako-bench`: each process works the workload out by itself, and to the same end.
    pub words: Vec<String>,
    /// The text of the cluster file.
    pub cluster: String,
    /// Which of its nodes.
    pub node: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<F> {
    /// The partitions are those it would load.
    Progress(Progress, Vec<u16>),
    Harvest(Box<Harvest<F>>),
    /// The run cannot go on.
    Failed(String),
}
