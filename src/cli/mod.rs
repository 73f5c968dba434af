//! The command line of `mako`: what can be typed, and what it means as values.
//!
//! Here and in `cluster` and `sim` are types only, which clap fills in; each command is carried out in the
//! file of its name. A command that does not work yet is not listed. Everything that can be judged without
//! opening a file is judged while parsing, so that a slip ends with exit code 2 before anything has started.
#![forbid(unsafe_code)]

mod check;
mod cluster;
mod dev;
mod doctor;
mod inspect;
mod move_leader;
mod running;
mod serve;
mod sim;
mod simulate;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Mistakes};

pub use cluster::{ClusterFlags, DevArgs};
pub use doctor::DoctorArgs;
pub use inspect::{InspectArgs, Inspected};
pub use move_leader::MoveLeaderArgs;
pub use sim::{Seeds, SimArgs};

/// A geo-replicated, sharded, serializable transactional key-value server.
#[derive(Parser, Clone, PartialEq, Debug)]
#[command(name = "mako", version, after_help = "Example:\n  mako dev --rtt 20ms")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Clone, PartialEq, Debug)]
pub enum Command {
    Dev(DevArgs),
    Serve(ServeArgs),
    Check(CheckArgs),
    Doctor(DoctorArgs),
    Inspect(InspectArgs),
    MoveLeader(MoveLeaderArgs),
    Sim(SimArgs),
}

/// One node of a cluster.
///
/// Prints `ready: …` once it can vote, and runs until it is told to stop (SIGINT or SIGTERM).
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[command(after_help = "Example:\n  mako serve --config cluster.toml --node n1")]
pub struct ServeArgs {
    /// The cluster file; the same on every node.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which of its nodes to be.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Forget the log, after damage, and learn everything from the other replicas. The node votes again, and is
    /// ready, when it has; until then it counts as one that is down.
    #[arg(long)]
    pub rebuild: bool,
}

/// Every mistake in a cluster file at once; then what each node would pin and listen on.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[command(after_help = "Example:\n  mako check --config cluster.toml")]
pub struct CheckArgs {
    /// The cluster file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Carries a command out; what the process is to end with.
pub fn run(cli: &Cli) -> ExitCode {
    match &cli.command {
        Command::Dev(args) => dev::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Check(args) => check::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::MoveLeader(args) => move_leader::run(args),
        Command::Sim(args) => simulate::run(args),
    }
}

/// Prints one error, or several of one a line each.
fn complain(error: &dyn Display, code: u8) -> ExitCode {
    let text = error.to_string();
    let begun = text.starts_with("error: ");
    eprintln!("{}{text}", if begun { "" } else { "error: " });
    ExitCode::from(code)
}

/// A line on standard output. Whoever closed it does not want to read it: the exit code counts all the same.
fn say(line: &dyn Display) {
    drop(writeln!(io::stdout().lock(), "{line}"));
}

fn load(path: &Path) -> Result<Config, Mistakes> {
    Config::load(path, available_parallelism().map_or(1, usize::from))
}

/// It was asked for correctly and did not work out.
const FAILED: u8 = 1;
/// Bad usage or configuration.
pub const MISUSED: u8 = 2;

/// What a parser of ours could not use, in the form of every other error: one line that says what,
/// where, why and what to do. `None` when it is no mistake: help or the version was asked for.
pub fn usage_error(error: &clap::Error) -> Option<String> {
    let asked_for = [
        ErrorKind::DisplayHelp,
        ErrorKind::DisplayVersion,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    if asked_for.contains(&error.kind()) {
        return None;
    }
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let source = std::error::Error::source(error).map(ToString::to_string);
    if let (ErrorKind::ValueValidation, Some(source)) = (error.kind(), source) {
        let flag = context(ContextKind::InvalidArg).unwrap_or_default();
        let flag = flag.split(' ').next().unwrap_or_default();
        let value = context(ContextKind::InvalidValue).unwrap_or_default();
        // Parsers of ours give reason and remedy; those of numbers give the reason only.
        let remedy = if source.contains("; ") { "" } else { "; choose another value" };
        return Some(format!("error: {flag} {value} (command line): {source}{remedy}"));
    }
    let rendered = error.to_string();
    let paragraphs = rendered.strip_prefix("error: ").unwrap_or(&rendered).split("\n\n");
    let what: Vec<&str> = paragraphs.take(1).flat_map(str::lines).map(str::trim).collect();
    let usage = rendered.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or("mako <COMMAND>");
    let near = context(ContextKind::SuggestedArg).or_else(|| context(ContextKind::SuggestedSubcommand));
    let remedy = match near {
        Some(near) => format!("did you mean {near}?"),
        None => "--help shows every flag, with an example".to_string(),
    };
    Some(format!("error: {} (command line): the usage is {usage}; {remedy}", what.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn complaint(words: &str) -> String {
        let error = Cli::try_parse_from(words.split_whitespace()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{words}");
        usage_error(&error).unwrap_or_else(|| panic!("no mistake: {words}"))
    }

    #[test]
    fn every_flag_is_declared_consistently() {
        Cli::command().debug_assert();
    }

    /// The interface promises an example with every `--help`.
    #[test]
    fn every_command_shows_an_example_that_parses() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            let (_, example) = help.split_once("Example:\n").unwrap_or_else(|| panic!("no example: {help}"));
            for line in example.lines().map(str::trim).filter(|line| line.starts_with("mako")) {
                assert!(Cli::try_parse_from(line.split_whitespace()).is_ok(), "{line}");
            }
        }
    }

    /// Scripts split an error at its brackets and its semicolon.
    #[test]
    fn bad_usage_says_what_where_why_and_what_to_do() {
        let table = [
            ("mako dev --rtt 50", "error: --rtt 50 (command line): a duration is "),
            ("mako dev --durability disk", "error: --durability disk (command line): durability says "),
            ("mako dev --resp 6380", "error: --resp 6380 (command line): "),
            ("mako dev --shard 3", "error: unexpected argument '--shard' found (command line): "),
            (
                "mako serve --node n1",
                "error: the following required arguments were not provided: --config <FILE> ",
            ),
            ("mako sim --faults rain", "error: --faults rain (command line): "),
            ("mako sim --seeds 9..3", "error: --seeds 9..3 (command line): "),
            ("mako sim --seed 1 --seeds 1..3", "error: the argument '--seed <N>' cannot be used with "),
            ("mako inspect log x", "error: invalid value 'log' for '<wal|checkpoint>' "),
            ("mako dve", "error: unrecognized subcommand 'dve' (command line): "),
        ];
        for (words, expected) in table {
            let complaint = complaint(words);
            assert!(complaint.starts_with(expected), "{complaint}");
            assert!(complaint.contains("; ") && complaint.lines().count() == 1, "{complaint}");
        }
    }

    #[test]
    fn asking_for_help_is_no_mistake() {
        for words in ["mako --help", "mako dev -h", "mako --version"] {
            let error = Cli::try_parse_from(words.split_whitespace()).unwrap_err();
            assert_eq!((error.exit_code(), usage_error(&error)), (0, None));
        }
    }
}
