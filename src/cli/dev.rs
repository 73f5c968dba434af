//! `mako dev`: a whole cluster in this process, from a handful of flags.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;

use crate::cli::running::{How, run_nodes, say};
use crate::cli::{DevArgs, FAILED, MISUSED, complain};
use crate::config::Config;
use crate::server::make_keys;
use crate::types::NodeId;

pub(super) fn run(args: &DevArgs) -> ExitCode {
    let cpus = available_parallelism().map_or(1, usize::from);
    if let Some(file) = &args.write_config {
        // A file outlives a temporary directory, so it names one that stays.
        return match Config::local(&args.local(PathBuf::from("data"), cpus)) {
            Ok(config) => write_config(&config, file),
            Err(mistakes) => complain(&mistakes, MISUSED),
        };
    }
    // Before the directory is made: nothing is left behind by a slip.
    if let Err(mistakes) = Config::local(&args.local(PathBuf::from("data"), cpus)) {
        return complain(&mistakes, MISUSED);
    }
    let temporary = match args.cluster.data {
        Some(_) => None,
        None => match tempfile::Builder::new().prefix("mako-dev-").tempdir() {
            Ok(directory) => Some(directory),
            Err(error) => {
                let what = format!("no temporary directory (this machine): {error}; name one with --data");
                return complain(&what, FAILED);
            }
        },
    };
    let data = temporary.as_ref().map_or(PathBuf::new(), |directory| directory.path().to_owned());
    match Config::local(&args.local(data, cpus)) {
        Ok(mut config) => {
            let key_file = directory_of(&config).join("cluster.key");
            if let Err(error) = make_keys(&key_file) {
                let what = "no key for the cluster";
                return complain(
                    &format!("{what} ({}): {error}; name another --data", key_file.display()),
                    FAILED,
                );
            }
            config.key_file = Some(key_file);
            let all: Vec<NodeId> = (0..).map(NodeId).take(config.nodes.len()).collect();
            run_nodes(config, &all, How::All)
        }
        Err(mistakes) => complain(&mistakes, MISUSED),
    }
    // Here the temporary directory goes, after the logs in it are closed.
}

/// Of all nodes: each has one of its own in it.
fn directory_of(config: &Config) -> PathBuf {
    config.nodes[0].data.parent().map(Path::to_owned).unwrap_or_default()
}

fn write_config(config: &Config, file: &Path) -> ExitCode {
    match fs::write(file, config.to_toml()) {
        Ok(()) => {
            say(&format!("written: {}", file.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            let what = "the cluster file cannot be written";
            complain(&format!("{what} ({}): {error}; name another file", file.display()), FAILED)
        }
    }
}
