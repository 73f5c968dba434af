//! Whether io_uring can be used: without it there is no log, and no node.
#![forbid(unsafe_code)]

use super::finding::{Section, Weight};
use super::machine::Machine;
use io_uring::{IoUring, Probe, opcode};
use std::io;

/// What came of making a ring as the log does.
pub enum Ring {
    /// The operations that the log uses and the kernel does not know.
    Made {
        lacks: Vec<&'static str>,
    },
    Refused(io::Error),
    /// A ring, but no table of files.
    Old(io::Error),
}

/// Asks this kernel.
pub fn probe() -> Ring {
    let ring = match IoUring::new(ENTRIES) {
        Ok(ring) => ring,
        Err(error) => return Ring::Refused(error),
    };
    if let Err(error) = ring.submitter().register_files_sparse(ENTRIES) {
        return Ring::Old(error);
    }
    let mut probe = Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        return Ring::Old(error);
    }
    let used = [
        ("IORING_OP_WRITE", opcode::Write::CODE),
        ("IORING_OP_WRITE_FIXED", opcode::WriteFixed::CODE),
        ("IORING_OP_POLL_ADD", opcode::PollAdd::CODE),
    ];
    Ring::Made {
        lacks: used.iter().filter(|(_, code)| !probe.is_supported(*code)).map(|(name, _)| *name).collect(),
    }
}

pub fn look(machine: &Machine, ring: &Ring) -> Section {
    let mut section = Section::new("io_uring");
    let kernel = machine.text("proc/sys/kernel/osrelease").unwrap_or("of unknown release".to_string());
    let costs = "no log can be opened: a node does not start";
    match ring {
        Ring::Made { lacks } if lacks.is_empty() => {
            section.fact(format!("all that the log uses (Linux {kernel})"))
        }
        Ring::Made { lacks } => {
            section.miss(Weight::Broken, format!("Linux {kernel} lacks {}", lacks.join(", ")), costs, NEWER);
        }
        Ring::Old(error) => {
            let what =
                format!("Linux {kernel} has no table of files, or does not tell what it has ({error})");
            section.miss(Weight::Broken, what, costs, NEWER);
        }
        Ring::Refused(error) => {
            let disabled = machine.number("proc/sys/kernel/io_uring_disabled").unwrap_or_default();
            let (why, mend) = match (disabled, error.raw_os_error()) {
                (1.., _) => (
                    format!(", kernel.io_uring_disabled = {disabled}"),
                    "echo kernel.io_uring_disabled=0 >> /etc/sysctl.d/60-mako.conf && sysctl --system",
                ),
                (0, Some(libc::ENOSYS)) => (String::new(), NEWER),
                _ => (
                    String::new(),
                    "for a container: --security-opt seccomp=unconfined, or a profile that allows io_uring_setup, \
                     io_uring_enter and io_uring_register",
                ),
            };
            section.miss(Weight::Broken, format!("it is refused ({error}{why})"), costs, mend);
        }
    }
    section
}

const NEWER: &str = "boot Linux 5.19 or later";
const ENTRIES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::super::machine::made_of;
    use super::*;

    /// Each refusal is another's fault, and mended elsewhere.
    #[test]
    fn a_ring_that_is_refused_is_told_of_with_who_refuses_it() {
        let refused = |errno: i32, disabled: &str| {
            let (machine, _directory) = made_of(&[
                ("proc/sys/kernel/io_uring_disabled", disabled),
                ("proc/sys/kernel/osrelease", "6.1.0\n"),
            ]);
            let section = look(&machine, &Ring::Refused(io::Error::from_raw_os_error(errno)));
            assert_eq!(section.findings[0].weight, Weight::Broken);
            section.findings[0].mend.clone()
        };
        assert!(refused(libc::EPERM, "2\n").contains("sysctl"));
        assert!(refused(libc::EPERM, "0\n").contains("seccomp"));
        assert!(refused(libc::ENOSYS, "").contains("5.19"));
    }

    #[test]
    fn a_kernel_that_lacks_an_operation_is_too_old() {
        let (machine, _directory) = made_of(&[("proc/sys/kernel/osrelease", "6.1.0\n")]);
        let whole = look(&machine, &Ring::Made { lacks: vec![] });
        assert_eq!(whole.facts, ["all that the log uses (Linux 6.1.0)"]);
        let lacks = look(&machine, &Ring::Made { lacks: vec!["IORING_OP_WRITE"] });
        assert_eq!(lacks.whats(), [(Weight::Broken, "Linux 6.1.0 lacks IORING_OP_WRITE")]);
        let old = look(&machine, &Ring::Old(io::Error::from_raw_os_error(libc::EINVAL)));
        assert_eq!(old.findings[0].mend, NEWER);
    }

    /// The suite itself needs it, so here it is there.
    #[test]
    fn this_kernel_has_what_the_log_uses() {
        assert!(matches!(probe(), Ring::Made { lacks } if lacks.is_empty()));
    }
}
