//! How urgent the threads of a log are: as urgent as the process.
//!
//! A thread inherits the niceness of whoever starts it, and a node opens its log in the background. What the core waits
//! for later must not stay there: beside a process that fills the CPUs a segment would take half a minute to make.
#![forbid(unsafe_code)]

use rustix::process::{getpid, getpriority_process, setpriority_process};

/// For the calling thread. Nothing where the process may not raise it; then it was not lowered either.
pub(super) fn restore() {
    let (own, process) = (getpriority_process(None), getpriority_process(Some(getpid())));
    if let (Ok(own), Ok(process)) = (own, process)
        && own != process
    {
        let _ = setpriority_process(None, process);
    }
}
