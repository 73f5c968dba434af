//! `mako doctor`: what of this machine costs a node correctness or speed, and what mends it.
//!
//! Each part of the machine has a file, which reads what the kernel says of it through a [`Machine`] and judges it.
//! Nothing is changed. What is looked at is the machine and the user of this process; what a cluster file says is `check`'s.
#![forbid(unsafe_code)]

mod bypass;
mod clocks;
mod cpus;
mod finding;
mod interfaces;
mod limits;
mod machine;
mod pages;
mod rings;

use clap::Args;
use std::process::ExitCode;
use std::thread::available_parallelism;

use crate::cli::{FAILED, MISUSED, complain, say};
use finding::Report;
use machine::Machine;
use rings::Ring;

/// What of this machine is missing, what that costs, and the command that mends it.
///
/// Each finding is `broken` (a node does not start or is not reached), `slow` (much speed is lost) or a `hint` (some speed,
/// or only with a setting that is not the default). Exit code 1 when anything is broken or slow.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[command(after_help = "Example:\n  mako doctor --nic eth0")]
pub struct DoctorArgs {
    /// The interface that nodes are to listen on; without it, every one that stands for a device.
    #[arg(long, value_name = "IFACE")]
    pub nic: Option<String>,
    /// Print it as JSON.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &DoctorArgs) -> ExitCode {
    let cpus = available_parallelism().map_or(1, usize::from);
    let nic = args.nic.as_deref();
    match look(&Machine::at("/"), nic, cpus, &rings::probe()) {
        Ok(report) => {
            if args.json {
                say(&format!("{:#}", report.to_json()));
            } else {
                say(&report.to_string().trim_end());
            }
            if report.is_well() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
        }
        Err(names) => {
            let (nic, names) = (nic.unwrap_or_default(), names.join(", "));
            let what = format!("--nic {nic} (command line): there is no such interface; name one of {names}");
            complain(&what, MISUSED)
        }
    }
}

/// `Err` with the names of the interfaces, when the one asked for is not there.
fn look(machine: &Machine, nic: Option<&str>, cpus: usize, ring: &Ring) -> Result<Report, Vec<String>> {
    let has_dpdk = cfg!(feature = "dpdk");
    Ok(Report(vec![
        rings::look(machine, ring),
        interfaces::look(machine, nic, cpus)?,
        limits::look(machine, cpus),
        clocks::look(machine),
        cpus::look(machine),
        pages::look(machine, has_dpdk),
        bypass::look(machine, has_dpdk, nic),
    ]))
}

#[cfg(test)]
mod tests {
    use super::machine::made_of;
    use super::*;

    /// A container hides most of the machine: what is not known is no fault.
    #[test]
    fn a_machine_that_says_nothing_is_not_ill() {
        let (machine, _directory) = made_of(&[]);
        let report = look(&machine, None, 2, &Ring::Made { lacks: vec![] }).unwrap();
        assert!(report.is_well() && report.0.len() == 7, "{report}");
        assert!(!look(&machine, None, 2, &Ring::Made { lacks: vec!["x"] }).unwrap().is_well());
        assert_eq!(look(&machine, Some("eth0"), 2, &Ring::Made { lacks: vec![] }).err(), Some(vec![]));
    }

    /// Every finding says something in each of its parts.
    #[test]
    fn this_machine_is_looked_at_without_a_fault() {
        let report = look(&Machine::at("/"), None, 2, &rings::probe()).unwrap();
        for finding in report.0.iter().flat_map(|section| &section.findings) {
            assert!(
                !finding.what.is_empty() && !finding.costs.is_empty() && !finding.mend.is_empty(),
                "{finding:?}"
            );
        }
    }
}
