//! `mako move-leader`: asks a cluster to hand the leadership of a shard to another of its nodes.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use crate::bounds::NAME_BYTES_MAX;
use crate::cli::running::say;
use crate::cli::{FAILED, MISUSED, complain};
use crate::config::Refusal;
use crate::http::{self, CallError};

/// Hands the leadership of a shard to another of its nodes, while the cluster works.
///
/// Any node may be asked: it sends the request on to the leader. The new leader is brought up to date first; then
/// transactions stand still for a few round trips, and none is lost.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[command(after_help = "Example:\n  mako move-leader --shard 0 --to n2 --http http://127.0.0.1:9180")]
pub struct MoveLeaderArgs {
    /// The shard, by its number.
    #[arg(long, value_name = "S")]
    pub shard: u16,
    /// The node that is to lead it, by its name.
    #[arg(long, value_name = "NODE", value_parser = parse_name)]
    pub to: String,
    /// The HTTP address of any node.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9180")]
    pub http: String,
}

/// So that it is also a part of a URL.
fn parse_name(text: &str) -> Result<String, Refusal> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(text.to_string());
    }
    Err(Refusal::new("a node's name has letters, digits, _ - and .", "write it as the cluster file does"))
}

pub(super) fn run(args: &MoveLeaderArgs) -> ExitCode {
    let MoveLeaderArgs { shard, to, http } = args;
    match http::post(http, &format!("/move-leader?shard={shard}&to={to}")) {
        Ok(asked) if asked.status == OK => {
            let value: Value = serde_json::from_str(&asked.text).unwrap_or_default();
            let (leader, epoch) = (value["leader"].as_str().unwrap_or(to), value["epoch"].as_str());
            say(&format!("moved: shard {shard} is led by {leader} in epoch {}", epoch.unwrap_or("?")));
            ExitCode::SUCCESS
        }
        // The request was meant wrongly, and the flags with it.
        Ok(asked) => {
            let code = if asked.status == BAD_REQUEST { MISUSED } else { FAILED };
            match asked.text.lines().next().filter(|line| line.starts_with("error: ")) {
                Some(line) => complain(&line, code),
                None => {
                    let status = asked.status;
                    let why = format!("the answer is an HTTP {status} that no mako gives");
                    complain(&format!("no answer ({http}): {why}; name the HTTP address of a node"), code)
                }
            }
        }
        Err(error @ CallError::Url { .. }) => complain(&error, MISUSED),
        Err(error) => complain(&error, FAILED),
    }
}

const OK: u16 = 200;
const BAD_REQUEST: u16 = 400;
