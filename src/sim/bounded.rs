//! What no core may ever hold more of: its log, the versions of its keys, and every queue that has a name in `bounds`.
//!
//! Queues are looked at after every turn. The log and the versions shrink only as time passes, and not while what
//! they are kept for is unsettled: a log must have come below its bound after a calm spell ([`LogWatch`]), and
//! both must when a healed world has come to rest ([`untrimmed`]).
//!
//! What is appended while a checkpoint is being taken comes on top, for which the operator's bound is doubled. But of
//! what was there before a calm spell, less may be left than a log holds when a checkpoint is due: either it held
//! less at some moment of the spell, or one was due throughout. Then one was begun and committed of every
//! partition in turn, and what stays before the first record needed lies in the same step of
//! `CHECKPOINT_LOG_STEP_BYTES`, or in the same segment. At rest, the segment ahead and one to be used again are
//! there as well. All of that is less than is due.
#![forbid(unsafe_code)]

use super::disk::SimDisk;
use super::world::SimCore;
use crate::bounds::{
    BATCH_BYTES_MAX, CHECKPOINT_RETRY_NS, CLOSED_EPOCHS_MAX, PARKED_MAX, PREPARED_MAX, RETAINED_BYTES_MAX,
    TXN_BYTES_MAX, WINDOW_BYTES_MAX, WINDOW_ENTRIES_MAX,
};
use crate::partition::{Core, Replica};
use crate::tree::Version;
use crate::txn::Procedure;
use crate::types::{Endpoint, Lsn, Timestamp};
use std::cell::Cell;
use std::ops::ControlFlow;

/// Every queue of a core, after a turn of it.
pub fn check<P: Procedure>(me: Endpoint, core: &Core<P>) -> Result<(), String> {
    let closed = ("closed epochs", core.knowledge().closed().len(), CLOSED_EPOCHS_MAX);
    let held = core.replicas().iter().flat_map(queues).chain([closed]);
    for (what, held, most) in held {
        if held > most {
            return Err(format!("{me:?} holds {held} {what}, of at most {most}"));
        }
    }
    Ok(())
}

fn queues<P: Procedure>(replica: &Replica<P>) -> [(&'static str, usize, usize); 7] {
    let store = replica.store.borrow();
    [
        ("transactions in a window", store.window.len(), WINDOW_ENTRIES_MAX),
        ("bytes in a window", store.window.bytes(), WINDOW_BYTES_MAX + TXN_BYTES_MAX),
        ("prepared transactions", store.prepared().len(), PREPARED_MAX),
        ("entries to be replayed", replica.replay.len(), WINDOW_ENTRIES_MAX),
        ("parked", replica.parked.len(), PARKED_MAX),
        ("snapshot reads waiting", replica.waiting.len(), PARKED_MAX),
        ("bytes of slots", replica.stream.retained_bytes(), RETAINED_BYTES_MAX + BATCH_BYTES_MAX),
    ]
}

/// Watches one log for the calm spells after which nothing old may be left of it.
#[derive(Clone, Copy, Default)]
pub struct LogWatch {
    /// Since when nothing has kept a checkpoint from being taken, and how far the log had been appended then.
    calm: Option<(u64, Lsn)>,
    /// Calm spells that were long enough.
    pub spells: u64,
}

impl LogWatch {
    /// At `now` the log ends at `end`, and holds so many bytes in segments that begin below a position.
    pub fn on_turn(
        &mut self,
        now: u64,
        is_calm: bool,
        end: Lsn,
        kept_below: impl FnOnce(Lsn) -> u64,
        due: u64,
    ) -> Result<(), String> {
        let Some((since, appended)) = self.calm.filter(|_| is_calm) else {
            self.calm = is_calm.then_some((now, end));
            return Ok(());
        };
        if now - since < CALM_NS {
            return Ok(());
        }
        self.spells += 1;
        self.calm = Some((now, end));
        match kept_below(appended) {
            kept if kept >= due => Err(format!("{kept} bytes of log are kept, where {due} are due to go")),
            _ => Ok(()),
        }
    }
}

/// Whether nothing keeps this core from letting go of its log: what is unsettled was executed a moment ago, and no
/// peer may be in the midst of reading a checkpoint.
pub fn is_calm<P: Procedure>(now: Timestamp, core: &Core<P>, log: &SimDisk, is_read: bool) -> bool {
    let settles = |replica: &Replica<P>| {
        let recent = |at: Timestamp| now.since(at) < UNSETTLED_NS;
        let unsettled = replica.unsettled();
        // A stream that nobody leads, or that lags, has slots of which nobody knows yet whether they count. Nor are votes
        // let go that a leader cut off has cast for slots ahead, before others were chosen there.
        let ahead = replica.stream.next_slot().0 - replica.stream.chosen_end().0;
        let leads_or_follows = recent(replica.applied().timestamp) && !replica.stream.is_forgetful();
        unsettled.is_none_or(recent) && leads_or_follows && ahead <= AHEAD_SLOTS_MAX
    };
    !log.is_full() && !log.is_stuck() && !is_read && core.replicas().iter().all(settles)
}

/// What a core at rest still holds too much of, if anything.
pub fn untrimmed(core: &SimCore) -> Option<String> {
    let log = core.disk.as_ref()?;
    let (bytes, due) = (log.log_bytes(), log.log_bytes_due());
    if bytes >= due {
        return Some(format!("{:?} at rest keeps {bytes} bytes of log, where {due} are due to go", core.me));
    }
    core.core.replicas().iter().find_map(|replica| {
        let (keys, versions) = count_versions(replica);
        (versions > keys)
            .then(|| format!("{:?} at rest keeps {versions} versions of {keys} keys", replica.id))
    })
}

fn count_versions<P: Procedure>(replica: &Replica<P>) -> (usize, usize) {
    let store = replica.store.borrow();
    let versions = Cell::new(0);
    let count = |_: &Version| {
        versions.set(versions.get() + 1);
        false
    };
    for table in store.tables() {
        table.scan_admitted(&[], None, count, |_, _| ControlFlow::Continue(()));
    }
    (store.tables().iter().map(|table| table.len()).sum(), versions.get())
}

/// A core takes one checkpoint after the other, with a rest between two of the same partition, and after one that
/// would have begun where the last one did: of four partitions each has had a turn in this time.
const CALM_NS: u64 = 2 * 4 * CHECKPOINT_RETRY_NS;
/// More slots are not on their way to be chosen.
const AHEAD_SLOTS_MAX: u64 = 64;
/// Older, and it waits for something that has gone wrong.
const UNSETTLED_NS: u64 = CHECKPOINT_RETRY_NS / 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// A watch that never barks would let a log grow until the disk is full.
    #[test]
    fn a_log_that_keeps_what_is_old_is_noticed_after_a_calm_spell_and_not_before() {
        let mut watch = LogWatch::default();
        let mut turn = |now, is_calm, start, end| {
            watch.on_turn(now, is_calm, Lsn(end), |below: Lsn| below.0.saturating_sub(start), 500)?;
            Ok::<u64, String>(watch.spells)
        };
        assert_eq!(turn(0, true, 0, 900), Ok(0));
        assert_eq!(turn(CALM_NS - 1, true, 0, 2_000), Ok(0));
        assert!(turn(CALM_NS, true, 400, 2_000).is_err());
        // What came since may still be there, and so may anything when it was not calm.
        assert_eq!(turn(CALM_NS + 1, false, 400, 2_000), Ok(1));
        assert_eq!(turn(CALM_NS + 2, true, 400, 2_000), Ok(1));
        assert_eq!(turn(2 * CALM_NS + 2, true, 1_501, 9_000), Ok(2));
        assert_eq!(turn(2 * CALM_NS + 3, false, 1_501, 9_000), Ok(2));
        assert_eq!(turn(4 * CALM_NS, true, 1_501, 9_000), Ok(2));
    }
}
