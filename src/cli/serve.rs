//! `mako serve`: one node of the cluster that a file describes.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use crate::cli::running::{How, run_nodes};
use crate::cli::{MISUSED, ServeArgs, complain, load};

pub(super) fn run(args: &ServeArgs) -> ExitCode {
    let config = match load(&args.config) {
        Ok(config) => config,
        Err(mistakes) => return complain(&mistakes, MISUSED),
    };
    let Some(id) = config.node(&args.node) else {
        let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
        let (node, file) = (&args.node, args.config.display());
        let why = format!("there is no such node in {file}");
        return complain(
            &format!("--node {node} (command line): {why}; name one of {}", names.join(", ")),
            MISUSED,
        );
    };
    run_nodes(config, &[id], if args.rebuild { How::Rebuild } else { How::One })
}
