//! Real time: nanoseconds since the Unix epoch that never go back while the process lives.
//!
//! The wall is looked at once, when the process first asks; from there on the monotonic clock counts, so
//! that a wall set back by an operator or a leap second moves no timestamp. All clocks of a process
//! agree. Nothing in the layers below asks for the time: it is handed to them.
//!
//! Invariant: `now` of one process never decreases, on any of its threads.
#![forbid(unsafe_code)]

use crate::types::Timestamp;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where a reactor takes its time from: once a turn, next to the frames it stamps.
pub trait Clock {
    fn now(&self) -> Timestamp;
}

/// The clock of this process. A copy is as good as the original.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
    /// What the wall said at `start`.
    wall: Timestamp,
}

impl SystemClock {
    pub fn of_process() -> SystemClock {
        static CLOCK: OnceLock<SystemClock> = OnceLock::new();
        *CLOCK.get_or_init(SystemClock::start)
    }

    #[expect(clippy::disallowed_methods, reason = "here is where time comes in")]
    fn start() -> SystemClock {
        // A wall before 1970 is as wrong as one at 1970; peers count our messages as skewed either way.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        SystemClock { start: Instant::now(), wall: Timestamp(0).plus_ns(nanoseconds(wall)) }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.wall.plus_ns(nanoseconds(self.start.elapsed()))
    }
}

/// The time, for drivers that measure and threads that have no turn.
pub fn now() -> Timestamp {
    SystemClock::of_process().now()
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Timestamps of different cores meet in one transaction: were each core's clock its own, one of
    /// them would lag behind by what passed between their starts.
    #[test]
    fn clocks_of_all_threads_agree_and_never_go_back() {
        let mut last = now();
        for _ in 0..100 {
            let elsewhere = std::thread::spawn(now).join().unwrap();
            let here = now();
            assert!(last <= elsewhere && elsewhere <= here, "{last:?}, {elsewhere:?}, {here:?}");
            last = here;
        }
    }

    /// Timestamps of different nodes are compared: they must count from the same moment.
    #[test]
    fn time_is_that_of_the_wall() {
        let wall = nanoseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        assert!(now().0.abs_diff(wall) < 3_600 * crate::bounds::SECOND, "{:?} at {wall}", now());
    }
}
