//! `mako check`: what is wrong with a cluster file, or else what it amounts to.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use crate::cli::running::say;
use crate::cli::{CheckArgs, MISUSED, complain, load};
use crate::config::describe;

pub(super) fn run(args: &CheckArgs) -> ExitCode {
    match load(&args.config) {
        Ok(config) => {
            say(describe(&config).trim_end());
            ExitCode::SUCCESS
        }
        Err(mistakes) => complain(&mistakes, MISUSED),
    }
}
