//! `mako check`: what is wrong with a cluster file, or else what it amounts to.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use crate::cli::running::{say, warn};
use crate::cli::{CheckArgs, MISUSED, complain, load};
use crate::config::describe;
use crate::server::check_keys;

pub(super) fn run(args: &CheckArgs) -> ExitCode {
    let config = match load(&args.config) {
        Ok(config) => config,
        Err(mistakes) => return complain(&mistakes, MISUSED),
    };
    match check_keys(&config) {
        Ok(warnings) => {
            say(describe(&config).trim_end());
            warn(&warnings);
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error, MISUSED),
    }
}
