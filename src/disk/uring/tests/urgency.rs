//! How urgent the threads beside a core are.

use rustix::process::{nice, setpriority_process};

use super::*;
use crate::disk::checkpoints::FileCheckpoints;

/// How many threads of this process there are.
fn threads_as_nice_as(niceness: i32) -> usize {
    let stats = fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
        // It may have ended meanwhile.
        fs::read_to_string(task.ok()?.path().join("stat")).ok()
    });
    // The nineteenth field of all; the second is a name, and may hold anything (proc(5)).
    let niceness_of = |stat: String| stat.rsplit(") ").next()?.split(' ').nth(16)?.parse().ok();
    stats.filter_map(niceness_of).filter(|found: &i32| *found == niceness).count()
}

/// A log is opened in the background. A core that waits for a thread which stays there waits for whoever fills the CPUs.
#[test]
fn threads_of_a_log_leave_the_background_in_which_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let place = options(dir.path(), 32 * KIB);
    // On a thread of its own, because it does not come back.
    let opener = std::thread::spawn(move || {
        let may_raise = nice(-1).is_ok();
        setpriority_process(None, OPENER).unwrap();
        assert_eq!(threads_as_nice_as(OPENER), 1);
        let (disk, _) = open(&place).unwrap();
        let _checkpoints = FileCheckpoints::open(&disk.directory).unwrap();
        // Who may not raise a thread does not open logs in the background.
        let expected = if may_raise { 1 } else { 3 };
        for _ in 0..LOOKS_MAX {
            if threads_as_nice_as(OPENER) == expected {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(threads_as_nice_as(OPENER), expected);
    });
    opener.join().unwrap();
}

/// Nobody else in this process is as nice as that.
const OPENER: i32 = 7;
const LOOKS_MAX: usize = 100_000;
