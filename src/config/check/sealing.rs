//! Whether frames are sealed, and if not, whether they may go in the open.
//!
//! Between processes of one machine they may without being asked: whoever can send to a loopback address runs programs
//! on that machine already, and a first cluster is to start without ceremony. Beyond a machine the file has to say so.
#![forbid(unsafe_code)]

use super::Report;
use crate::config::file::{At, File};
use crate::config::is_loopback;

pub(super) fn check_sealing(file: &File, report: &mut Report<'_>) {
    // One that is misspelt was reported, and whether it was meant is not known.
    if ["cluster.key_file", "cluster.plaintext"].into_iter().any(|key| report.has(key)) {
        return;
    }
    match (&file.cluster.key_file, &file.cluster.plaintext) {
        (Some(_), Some(At { value: true, line })) => {
            let why = "frames are sealed with the key of key_file, or go in the open, but not both";
            report.add("cluster.plaintext = true", *line, why, "remove one of the two");
        }
        (None, Some(At { value: false, line })) => {
            let why = "frames are to be sealed, and there is no key";
            report.add("cluster.key_file is missing", *line, why, MAKE_KEY);
        }
        (None, None) => {
            let listens = || file.nodes.iter().filter_map(|node| node.listen.as_ref());
            let Some(far) = listens().find(|at| !is_loopback(at.value)) else { return };
            let why = format!(
                "frames would go in the open, and whoever reaches {} could pose as another node",
                far.value
            );
            report.add(
                "cluster.key_file is missing",
                file.cluster.line,
                why,
                format!("{MAKE_KEY}, or plaintext = true"),
            );
        }
        (Some(_), _) | (None, Some(_)) => {}
    }
}

/// Nobody may read the key even while it is written.
const MAKE_KEY: &str = "make a key with `(umask 077; openssl rand -hex 32 > cluster.key)`, give it to every node, and add key_file = \"cluster.key\"";
