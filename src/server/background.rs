//! A thread's work in the background: with the time that others on its CPU leave.
//!
//! A node that starts reads its log beside nodes that serve, if they share a machine. Nothing waits for it that the
//! others do not do meanwhile; and where nobody else has work, it is as fast as ever.
#![forbid(unsafe_code)]

use rustix::process::nice;

/// From its making until it is dropped, on the thread that made it. Nothing where the process may not take back what
/// it gives up (`LimitNICE=-1` allows it).
pub(super) struct Background {
    lowered: bool,
}

impl Background {
    pub fn begin() -> Background {
        // More than we need, to know that we may.
        let may = nice(-1).is_ok();
        let lowered = may && nice(1 + NICENESS).is_ok();
        Background { lowered }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.lowered {
            // The way back was tried out in the beginning.
            let _ = nice(-NICENESS);
        }
    }
}

/// A tenth of the time of a CPU that somebody else fills.
const NICENESS: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// A core that stayed there would starve beside any other process.
    #[test]
    fn afterwards_a_thread_is_where_it_was() {
        let before = nice(0).unwrap();
        let background = Background::begin();
        assert_eq!(nice(0).unwrap(), before + if background.lowered { NICENESS } else { 0 });
        drop(background);
        assert_eq!(nice(0).unwrap(), before);
    }
}
