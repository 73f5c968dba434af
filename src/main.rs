//! `mako`: parses the command line and hands it to `mako::cli`.
#![forbid(unsafe_code)]

use clap::Parser;
use mako::cli::{self, Cli};
use std::process::ExitCode;

/// Values and versions come and go by the million a second: the system allocator takes an eighth of a
/// busy core for them, this one a third of that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli::run(&cli),
        Err(error) => refuse(&error),
    }
}

/// Help and version are no mistakes: clap prints them, and they succeed.
fn refuse(error: &clap::Error) -> ExitCode {
    match cli::usage_error(error) {
        Some(complaint) => eprintln!("{complaint}"),
        // Whoever closed standard output does not want to read it.
        None => drop(error.print()),
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}
