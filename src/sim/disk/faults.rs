//! What goes wrong with a simulated disk, sorted by what recovery owes each fault.
//!
//! A *hardship* is slow or refuses, but what the drive has said stays true: recovery survives it in silence,
//! cutting at most a tail that nobody was told of. A *lie* takes back what the drive has said: recovery must
//! find it and name it, or, where nothing written later bears witness, cannot
//! ([`Owed`](super::Owed) tells which, for one medium).
//!
//! Not here: what a fault does to the blocks (`medium`), or to the writes under way (`mod`).
#![forbid(unsafe_code)]

use thiserror::Error;

use crate::bounds::{MS, SECOND, US};
use crate::types::{Prng, Timestamp};

/// How one disk behaves. Chances are per write unless said otherwise.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DiskFaults {
    /// Least and most a write takes.
    pub write_ns: (u64, u64),
    pub hardships: Hardships,
    pub lies: Lies,
}

/// Survived in silence. The torn tail belongs here as well, but has no switch: every crash tears.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Hardships {
    /// Takes up to `slow_ns` longer.
    pub slow: f64,
    pub slow_ns: u64,
    /// Never completes. The disk fails when it has waited for [`STUCK_NS`].
    pub stuck: f64,
    /// Completes with an error; the blocks are there or not.
    pub failed: f64,
    /// Chance, whenever a segment is to be made, that there is no space, and for how long at most.
    pub full: f64,
    pub full_ns: u64,
}

/// Detected, where anything bears witness.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Lies {
    /// Completes, and nothing landed.
    pub lost: f64,
    /// Completes, and landed elsewhere in the log, on what was there.
    pub misdirected: f64,
    /// Chance per crash that one bit of the medium flips before the next open.
    pub rot: f64,
}

impl DiskFaults {
    /// A good drive: nothing goes wrong but the crashes themselves.
    pub const NONE: DiskFaults = DiskFaults {
        write_ns: (50 * US, 300 * US),
        hardships: Hardships { slow: 0.0, slow_ns: 0, stuck: 0.0, failed: 0.0, full: 0.0, full_ns: 0 },
        lies: Lies { lost: 0.0, misdirected: 0.0, rot: 0.0 },
    };

    /// When a write begun now completes, and what has happened then.
    pub(super) fn draw(&self, now: Timestamp, prng: &mut Prng) -> (Timestamp, Fate) {
        let (least, most) = self.write_ns;
        let mut takes_ns = prng.u64(least..=most);
        if happens(prng, self.hardships.slow) {
            takes_ns += prng.u64(..=self.hardships.slow_ns);
        }
        if happens(prng, self.hardships.stuck) {
            return (now.plus_ns(STUCK_NS), Fate::Stuck);
        }
        let fates = [
            (self.hardships.failed, Fate::Failed),
            (self.lies.lost, Fate::Lost),
            (self.lies.misdirected, Fate::Misdirected),
        ];
        let drawn = fates.into_iter().find(|(chance, _)| happens(prng, *chance));
        (now.plus_ns(takes_ns), drawn.map_or(Fate::Lands, |(_, fate)| fate))
    }
}

/// A fault that is switched off draws nothing, so that it does not move those that are on.
pub(super) fn happens(prng: &mut Prng, chance: f64) -> bool {
    chance > 0.0 && prng.f64() < chance
}

/// Told about one write, on demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    Lost,
    Misdirected,
}

/// What becomes of one write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Lands,
    Stuck,
    Failed,
    Lost,
    Misdirected,
}

impl Fate {
    /// Nothing lands where it was meant to.
    pub(super) fn is_lie(self) -> bool {
        matches!(self, Fate::Lost | Fate::Misdirected)
    }
}

/// How a core ends without being asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// Writes under way land, do not, or are torn, block by block.
    PowerCut,
    /// The drive goes on: writes under way all land, or block by block, some as late as during the next life.
    ProcessKill,
}

/// Why nothing durable is promised again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DiskFailure {
    #[error("a write failed; this core stops")]
    WriteFailed,
    #[error("a write has been under way for too long; this core stops")]
    Stuck,
    /// Answered for ever after one of the above.
    #[error("the disk of this core has failed before")]
    Stopped,
}

/// A write that is not done by then is taken for one that never will be.
pub const STUCK_NS: u64 = 30 * SECOND;
const _: () = assert!(STUCK_NS > 100 * MS);
