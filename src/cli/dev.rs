//! `mako dev`: a whole cluster in this process, from a handful of flags.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;

use crate::cli::running::{How, run_nodes, say};
use crate::cli::{DevArgs, FAILED, MISUSED, complain};
use crate::config::{Config, LocalCluster};
use crate::server::make_keys;
use crate::types::NodeId;

pub(super) fn run(args: &DevArgs) -> ExitCode {
    let cpus = available_parallelism().map_or(1, usize::from);
    if let Some(file) = &args.write_config {
        // A file outlives a temporary directory, so it names one that stays.
        let local =
            LocalCluster { key_file: Some(key_beside(file)), ..args.local(PathBuf::from("data"), cpus) };
        return match Config::local(&local) {
            Ok(config) => write_config(&config, file),
            Err(mistakes) => complain(&mistakes, MISUSED),
        };
    }
    // Before the directory is made: nothing is left behind by a slip.
    if let Err(mistakes) = Config::local(&sealed(args.local(PathBuf::from("data"), cpus))) {
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
    match Config::local(&sealed(args.local(data, cpus))) {
        Ok(config) => {
            if let Err(error) = make_key_of(&config) {
                return complain(&format!("{error}; name another --data"), FAILED);
            }
            let all: Vec<NodeId> = (0..).map(NodeId).take(config.nodes.len()).collect();
            run_nodes(config, &all, How::All)
        }
        Err(mistakes) => complain(&mistakes, MISUSED),
    }
    // Here the temporary directory goes, after the logs in it are closed.
}

/// Under a key that is kept where the nodes keep their logs.
fn sealed(local: LocalCluster) -> LocalCluster {
    LocalCluster { key_file: Some(local.data.join("cluster.key")), ..local }
}

/// Where the key of a cluster file goes: beside it, or, when that is no file, here.
fn key_beside(file: &Path) -> PathBuf {
    if file.exists() && !file.is_file() {
        return PathBuf::from("cluster.key");
    }
    let key = file.with_extension("key");
    if key == file { file.with_extension("key.key") } else { key }
}

/// Unless it is there already.
fn make_key_of(config: &Config) -> Result<(), String> {
    let Some(path) = &config.key_file else { return Ok(()) };
    make_keys(path).map_err(|error| format!("no key for the cluster ({}): {error}", path.display()))
}

fn write_config(config: &Config, file: &Path) -> ExitCode {
    // First: a file that names a key which is not there is of no use.
    if let Err(error) = make_key_of(config) {
        return complain(&format!("{error}; name another file"), FAILED);
    }
    match fs::write(file, config.to_toml()) {
        Ok(()) => {
            let key = config.key_file.as_ref().map_or(String::new(), |key| format!(", {}", key.display()));
            say(&format!("written: {}{key}", file.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            let what = "the cluster file cannot be written";
            complain(&format!("{what} ({}): {error}; name another file", file.display()), FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clusters described in one directory must not end up with one key, nor a key in place of its file.
    #[test]
    fn the_key_of_a_cluster_file_is_beside_it_and_has_its_name() {
        let beside = |file: &str| key_beside(Path::new(file)).display().to_string();
        assert_eq!(beside("no/such/demo.toml"), "no/such/demo.key");
        assert_eq!(beside("demo"), "demo.key");
        assert_eq!(beside("demo.key"), "demo.key.key");
        assert_eq!(beside("/dev/null"), "cluster.key");
    }
}
