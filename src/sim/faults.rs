//! What the simulated world does to a cluster, and how much of it one seed does.
#![forbid(unsafe_code)]

use super::disk::{DiskFaults, Hardships, Lies};
use crate::bounds::{MS, SECOND, US};
use crate::config::{Durability, Refusal};
use crate::types::Prng;
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Frames are lost.
    Loss,
    /// Frames are held back, now and then for long.
    Delay,
    /// Frames arrive more than once.
    Duplicate,
    /// Frames overtake each other.
    Reorder,
    /// Two nodes cannot reach each other for a while, perhaps in one direction only.
    Partition,
    /// Clocks differ, and run at different speeds.
    Skew,
    /// Log writes take long to complete.
    Disk,
    /// A core is slow, or pauses.
    Slow,
    /// A node can reach nobody, and nobody it, for a while.
    Isolate,
    /// A whole node stands still for longer than its lease, and goes on as if nothing had happened.
    Stall,
    /// A node dies in the middle of anything, loses what it had not written, and starts again.
    Crash,
    /// All nodes lose power at once.
    Power,
    /// A log write fails, or never ends: the node leaves, and comes back with another disk controller.
    Eio,
    /// A disk has no room for the next segment of the log for a while.
    Full,
    /// A bit of a log or checkpoint flips while its node is down: that is found and named, and the replica is
    /// rebuilt from its peers.
    Rot,
    /// A leader of an earlier reign, deposed but not yet known to be, goes on.
    Ghost,
    /// A write of the log lands elsewhere in the log, on what was there. Found when the node next starts.
    Misdirect,
    /// A write of the log is called complete and never lands. Found when the node next starts.
    Lost,
    /// Somebody sets the wall clock of a node; it is looked at when the process next starts.
    Jump,
    /// One core is slow for a while, and its siblings are not.
    Core,
    /// Frames of long ago, of earlier reigns and earlier lives of nodes, arrive again.
    Replay,
    /// Whoever leads one shard is cut off, again and again, for about an election timeout.
    Flap,
    /// While its node is down a disk loses a checkpoint, or the oldest part of its log; or all disks of the node lose
    /// everything, and its peers turn it away. Starting is refused, and the replica is rebuilt from its peers.
    Wipe,
    /// Somebody orders a leader to hand its shard over to another node.
    HandOver,
}

/// Every fault with the name it has on the command line.
pub const FAULTS: [(&str, Fault); 24] = [
    ("loss", Fault::Loss),
    ("delay", Fault::Delay),
    ("duplicate", Fault::Duplicate),
    ("reorder", Fault::Reorder),
    ("partition", Fault::Partition),
    ("skew", Fault::Skew),
    ("disk", Fault::Disk),
    ("slow", Fault::Slow),
    ("isolate", Fault::Isolate),
    ("stall", Fault::Stall),
    ("crash", Fault::Crash),
    ("power", Fault::Power),
    ("eio", Fault::Eio),
    ("full", Fault::Full),
    ("rot", Fault::Rot),
    ("ghost", Fault::Ghost),
    ("misdirect", Fault::Misdirect),
    ("lost", Fault::Lost),
    ("jump", Fault::Jump),
    ("core", Fault::Core),
    ("replay", Fault::Replay),
    ("flap", Fault::Flap),
    ("wipe", Fault::Wipe),
    ("handover", Fault::HandOver),
];

/// A set of faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faults(u32);

impl Faults {
    pub const NONE: Faults = Faults(0);
    pub const ALL: Faults = Faults(u32::MAX >> (u32::BITS as usize - FAULTS.len()));

    pub fn contains(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u16) != 0
    }

    pub fn with(self, fault: Fault) -> Faults {
        Faults(self.0 | 1 << fault as u16)
    }
}

/// How often each fault has struck.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Struck([u32; FAULTS.len()]);

impl Struck {
    pub fn strike(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    pub fn times(&self, fault: Fault) -> u32 {
        self.0[fault as usize]
    }
}

impl FromStr for Faults {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Faults, Refusal> {
        match text {
            "all" => return Ok(Faults::ALL),
            "none" => return Ok(Faults::NONE),
            _ => {}
        }
        text.split(',').try_fold(Faults::NONE, |faults, word| {
            let known = FAULTS.iter().find(|(name, _)| *name == word);
            let fault = known.map(|(_, fault)| *fault).ok_or_else(|| {
                let names: Vec<&str> = FAULTS.iter().map(|(name, _)| *name).collect();
                let why = format!("{word:?} is no fault; there are {}", names.join(", "));
                Refusal::new(why, "write all, none, or names with commas between")
            })?;
            Ok(faults.with(fault))
        })
    }
}

/// As it is typed: the command that replays a failing seed says the faults it ran with.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = FAULTS.iter().filter(|(_, fault)| self.contains(*fault)).map(|(name, _)| *name);
        match *self {
            Faults::ALL => f.write_str("all"),
            Faults::NONE => f.write_str("none"),
            _ => f.write_str(&names.collect::<Vec<_>>().join(",")),
        }
    }
}

/// The world of one seed: drawn once, so that seeds differ in kind and not only in detail.
#[derive(Clone, Debug)]
pub struct Profile {
    pub durability: Durability,
    /// Cores of every node.
    pub cores: usize,
    /// The share of transactions that only read.
    pub reading: f64,
    /// One-way delay between two nodes, before anything goes wrong.
    pub delay_ns: u64,
    /// Added to it, evenly drawn; 0 keeps frames of a pair in order.
    pub jitter_ns: u64,
    /// Chances per frame.
    pub loss: f64,
    pub duplicate: f64,
    /// Chance that a frame is held back, and for how long at most.
    pub spike: f64,
    pub spike_ns: u64,
    /// Mean time between two outages of a link; 0 is never.
    pub outage_every_ns: u64,
    pub outage_ns: u64,
    /// Mean time between two isolations of a node, or stalls; 0 is never.
    pub isolation_every_ns: u64,
    pub stall_every_ns: u64,
    /// Mean time between two crashes of a node, and two of all of them at once; 0 is never.
    pub crash_every_ns: u64,
    pub power_every_ns: u64,
    /// How long each lasts at most.
    pub absence_ns: u64,
    pub election_timeout_ns: u64,
    /// Clocks are off by at most this when their process starts, and drift apart from there.
    pub skew_ns: u64,
    /// Of a log write, least and most.
    pub disk_ns: (u64, u64),
    pub disk_spike: f64,
    /// Chance that a write fails, and that there is no room when a segment is made.
    pub disk_fails: f64,
    pub disk_full: f64,
    /// Chance per restart of a node that a bit of one of its disks has flipped.
    pub rot: f64,
    /// Chance that a turn is followed by a pause, and how long at most.
    pub pause: f64,
    pub pause_ns: u64,
    /// Mean time between the doings of ghosts; 0 is never.
    pub ghost_every_ns: u64,
    /// Mean time between two lies of a disk, of either kind; 0 is never.
    pub misdirect_every_ns: u64,
    pub lost_every_ns: u64,
    /// Mean time between two settings of a wall clock, and what one is off by at most; 0 is never.
    pub jump_every_ns: u64,
    pub jump_ns: u64,
    /// Mean time between two cores that are slow, and what each of their turns takes longer at most; 0 is never.
    pub core_every_ns: u64,
    pub core_ns: u64,
    /// Mean time between two returns of old frames; 0 is never.
    pub replay_every_ns: u64,
    /// Mean time between two bouts in which the leaders of a shard are cut off; 0 is never.
    pub flap_every_ns: u64,
    /// The share of crashes that wait for a moment that is a bad one.
    pub aimed: f64,
    /// Chance per restart of a node that one of its disks has lost what nobody may do without.
    pub wipe: f64,
    /// Mean time between two orders of a hand-over; 0 is never.
    pub handover_every_ns: u64,
    /// Frames are sealed: of those that come late or again some are refused before anybody looks into them.
    pub sealed: bool,
    /// Sessions are slowed by the delays they see, as between cores that never sleep.
    pub paced: bool,
}

impl Profile {
    pub fn draw(prng: &mut Prng, faults: Faults) -> Profile {
        let mut some = |fault: Fault, chance: f64| faults.contains(fault) && prng.f64() < chance;
        let (loss, duplicate, spike) =
            (some(Fault::Loss, 0.7), some(Fault::Duplicate, 0.6), some(Fault::Delay, 0.6));
        let (reorder, outage) = (some(Fault::Reorder, 0.8), some(Fault::Partition, 0.3));
        let (skew, slow_disk) = (some(Fault::Skew, 0.7), some(Fault::Disk, 0.5));
        let (slow, ghost) = (some(Fault::Slow, 0.4), some(Fault::Ghost, 0.6));
        let (isolate, stall) = (some(Fault::Isolate, 0.4), some(Fault::Stall, 0.4));
        let (crash, power) = (some(Fault::Crash, 0.5), some(Fault::Power, 0.2));
        let (eio, full) = (some(Fault::Eio, 0.2), some(Fault::Full, 0.2));
        let rot = some(Fault::Rot, 0.3);
        let (misdirect, lost) = (some(Fault::Misdirect, 0.2), some(Fault::Lost, 0.2));
        let (jump, core) = (some(Fault::Jump, 0.3), some(Fault::Core, 0.3));
        let (replay, flap) = (some(Fault::Replay, 0.4), some(Fault::Flap, 0.2));
        let delay_ns = *pick(prng, &[20 * US, 100 * US, 100 * US, MS, 25 * MS]);
        let durabilities =
            [Durability::QuorumDisk, Durability::QuorumDisk, Durability::Memory, Durability::LeaderDisk];
        Profile {
            durability: *pick(prng, &durabilities),
            cores: prng.usize(1..=2),
            reading: *pick(prng, &[0.2, 0.2, 0.9]),
            delay_ns,
            jitter_ns: if reorder { prng.u64(1..=delay_ns * 2) } else { 0 },
            loss: if loss { *pick(prng, &[0.001, 0.01, 0.05]) } else { 0.0 },
            duplicate: if duplicate { *pick(prng, &[0.001, 0.02, 0.1]) } else { 0.0 },
            spike: if spike { *pick(prng, &[0.0005, 0.005]) } else { 0.0 },
            spike_ns: *pick(prng, &[2 * MS, 100 * MS]),
            outage_every_ns: if outage { prng.u64(SECOND..=10 * SECOND) } else { 0 },
            outage_ns: prng.u64(10 * MS..=2 * SECOND),
            isolation_every_ns: if isolate { prng.u64(SECOND..=6 * SECOND) } else { 0 },
            stall_every_ns: if stall { prng.u64(SECOND..=6 * SECOND) } else { 0 },
            crash_every_ns: if crash { prng.u64(500 * MS..=6 * SECOND) } else { 0 },
            power_every_ns: if power { prng.u64(2 * SECOND..=10 * SECOND) } else { 0 },
            absence_ns: prng.u64(100 * MS..=4 * SECOND),
            election_timeout_ns: *pick(prng, &[150 * MS, 300 * MS, SECOND]),
            skew_ns: if skew { *pick(prng, &[50 * US, 5 * MS, 120 * MS]) } else { 0 },
            disk_ns: if slow_disk { (100 * US, 20 * MS) } else { (50 * US, 300 * US) },
            disk_spike: if slow_disk { 0.01 } else { 0.0 },
            disk_fails: if eio { *pick(prng, &[0.0001, 0.001]) } else { 0.0 },
            disk_full: if full { 0.2 } else { 0.0 },
            rot: if rot { *pick(prng, &[0.1, 0.5]) } else { 0.0 },
            pause: if slow { 0.0005 } else { 0.0 },
            pause_ns: *pick(prng, &[MS, 30 * MS, 400 * MS]),
            ghost_every_ns: if ghost { prng.u64(200 * MS..=2 * SECOND) } else { 0 },
            misdirect_every_ns: if misdirect { prng.u64(300 * MS..=2 * SECOND) } else { 0 },
            lost_every_ns: if lost { prng.u64(300 * MS..=2 * SECOND) } else { 0 },
            jump_every_ns: if jump { prng.u64(500 * MS..=3 * SECOND) } else { 0 },
            jump_ns: *pick(prng, &[200 * MS, SECOND]),
            core_every_ns: if core { prng.u64(500 * MS..=3 * SECOND) } else { 0 },
            core_ns: *pick(prng, &[MS, 20 * MS, 100 * MS]),
            replay_every_ns: if replay { prng.u64(50 * MS..=SECOND) } else { 0 },
            flap_every_ns: if flap { prng.u64(SECOND..=4 * SECOND) } else { 0 },
            aimed: *pick(prng, &[0.0, 0.5, 0.9]),
            wipe: if faults.contains(Fault::Wipe) { *pick(prng, &[0.0, 0.0, 0.2, 0.5]) } else { 0.0 },
            handover_every_ns: if faults.contains(Fault::HandOver) {
                *pick(prng, &[0, 300 * MS, SECOND, 4 * SECOND])
            } else {
                0
            },
            sealed: false,
            paced: false,
        }
    }

    /// How the disks of this world behave.
    pub fn disk_faults(&self) -> DiskFaults {
        // Elsewhere a node that leaves takes with it what only it remembers.
        let fails = if self.durability == Durability::QuorumDisk { self.disk_fails } else { 0.0 };
        let hardships = Hardships {
            slow: self.disk_spike,
            slow_ns: 500 * MS,
            stuck: fails / 10.0,
            failed: fails,
            full: self.disk_full,
            full_ns: 3 * SECOND,
        };
        DiskFaults { write_ns: self.disk_ns, hardships, lies: Lies::default() }
    }

    /// The same world without anything that goes wrong: what a run ends in.
    pub fn heal(&mut self) {
        (self.loss, self.duplicate, self.spike, self.pause) = (0.0, 0.0, 0.0, 0.0);
        (self.outage_every_ns, self.ghost_every_ns) = (0, 0);
        (self.isolation_every_ns, self.stall_every_ns) = (0, 0);
        (self.crash_every_ns, self.power_every_ns) = (0, 0);
        (self.misdirect_every_ns, self.lost_every_ns, self.jump_every_ns) = (0, 0, 0);
        (self.core_every_ns, self.replay_every_ns, self.flap_every_ns) = (0, 0, 0);
        (self.disk_spike, self.disk_fails, self.disk_full) = (0.0, 0.0, 0.0);
        (self.rot, self.wipe, self.handover_every_ns) = (0.0, 0.0, 0);
    }
}

pub fn pick<'a, T>(prng: &mut Prng, of: &'a [T]) -> &'a T {
    &of[prng.usize(..of.len())]
}
