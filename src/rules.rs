//! The rules of the protocol that a mutation run may drop, to see that a checker notices.
//!
//! In every build but that of feature `mutation` a rule is the constant `true`, so that asking costs
//! nothing and no release can be talked out of one. Names are those of `commit_protocol.py --list` and
//! `sealing.py --list`, for the rules that those know.
#![forbid(unsafe_code)]

/// One rule; DESIGN §3–5 says why each is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A stream's promise stays below the proposal of every prepared transaction.
    PendingBound,
    /// A transaction depends on every participant shard, read-only ones included.
    AllParticipants,
    /// A transaction inherits the dependencies of the unstable versions it read.
    ReadDependencies,
    /// A snapshot read first learns the closed epochs its token was computed from.
    EpochInSnapshot,
    /// A prepare from a coordinator whose epoch is closed is refused.
    RefuseClosedEpoch,
    /// A prepare addressed to another epoch of the participant is refused.
    RefuseWrongEpoch,
    /// A commit that depends on a lost transaction installs nothing.
    DoomedAtCommit,
    /// A participant refuses a prepare whose read versions changed.
    ValidateReads,
    /// A participant refuses a prepare whose scanned ranges changed.
    ValidateScans,
    /// A transaction stands above every version it read, which may be ahead of the clock.
    ReadFloor,
    /// A write stands above the version it replaces, which may be ahead of the clock.
    WriteFloor,
    /// A write stands above every committed read of its key, which may be ahead of the clock.
    ReadMarks,
    /// What Paxos brings back behind the end of an epoch's unbroken run is void.
    UnbrokenRun,
    /// The final watermark is computed only when the seal of every stream is chosen.
    SealEveryStream,
    /// An epoch opens, and what it closes is announced, only when the fact is chosen.
    FactBeforeOpening,
    /// A leader deposes itself in its own eyes: reads without a lease wait for a watermark.
    LeaderLease,
    /// A follower replays an entry only once its dependencies are stable.
    SafetyCheck,
    /// A replica that forgot what it accepted votes again only once it holds the log of a leader at or above
    /// its promise.
    RecoverFirst,
    /// A promise is on disk before it is spoken, in every durability mode.
    PromiseOnDisk,
    /// How far a leader has got counts for a restart only if it was asked after that restart.
    RejoinNonce,
    /// Who acknowledged a leader's heartbeat lets no other candidate through for one timeout.
    Lease,
    /// A promised ballot is known again after a restart.
    KeepVotes,
    /// Where disks count, an acceptance is on disk before it is spoken.
    AcceptOnDisk,
    /// Where the leader's disk counts, nothing is called durable before it is there.
    DiskTimestamp,
    /// What a replica has said it knows to be chosen, it knows again after a restart.
    KeepChosen,
    /// A log with a hole in it is refused, and not cut there.
    StopAtDamage,
    /// The log is cut only below what a committed checkpoint replaces.
    CutBehindCheckpoint,
    /// And it is cut there as soon as that is committed: no disk is large enough for all of it.
    CutLog,
    /// The newest checkpoint counts, not the one before.
    CutToNewest,
    /// A checkpoint's stream is replayed from the first slot that held anything unsettled.
    ReplayUnsettled,
    /// Every two majorities share a replica.
    Majority,
    /// A candidate takes over the value that was accepted at the highest ballot.
    HighestBallot,
    /// A leader claims the promise of its contiguous chosen prefix only.
    ContiguousClaim,
    /// An epoch is the ballot of its reign, so no two reigns share one.
    UniqueEpoch,
    /// A commit addressed to another epoch of the participant is refused, and so is whatever else is asked.
    ServeInEpoch,
    /// A replica whose log and checkpoints hold less than they once did does not start.
    WholeLog,
    /// A node that was known by another disk does not vote before it is told that it has forgotten.
    DiskIdentity,
    /// Every start of a node has an incarnation of its own: what was meant for an earlier one is not heard.
    Fence,
    /// Who hands a shard over gives up its lease before it says so.
    GiveUpLease,
}

/// Every rule, with the name the mutation runner gives it.
pub const RULES: [(Rule, &str); 39] = [
    (Rule::PendingBound, "pending-bound"),
    (Rule::AllParticipants, "all-participants"),
    (Rule::ReadDependencies, "read-dependencies"),
    (Rule::EpochInSnapshot, "epoch-in-snapshot"),
    (Rule::RefuseClosedEpoch, "refuse-closed-epoch"),
    (Rule::RefuseWrongEpoch, "refuse-wrong-epoch"),
    (Rule::DoomedAtCommit, "doomed-at-commit"),
    (Rule::ValidateReads, "validate-reads"),
    (Rule::ValidateScans, "validate-scans"),
    (Rule::ReadFloor, "read-floor"),
    (Rule::WriteFloor, "write-floor"),
    (Rule::ReadMarks, "read-marks"),
    (Rule::UnbrokenRun, "unbroken-run"),
    (Rule::SealEveryStream, "seal-every-stream"),
    (Rule::FactBeforeOpening, "fact-before-opening"),
    (Rule::LeaderLease, "leader-lease"),
    (Rule::SafetyCheck, "safety-check"),
    (Rule::RecoverFirst, "recover-first"),
    (Rule::PromiseOnDisk, "promise-on-disk"),
    (Rule::RejoinNonce, "rejoin-nonce"),
    (Rule::Lease, "lease"),
    (Rule::KeepVotes, "keep-votes"),
    (Rule::AcceptOnDisk, "accept-on-disk"),
    (Rule::DiskTimestamp, "disk-timestamp"),
    (Rule::KeepChosen, "keep-chosen"),
    (Rule::StopAtDamage, "stop-at-damage"),
    (Rule::CutBehindCheckpoint, "cut-behind-checkpoint"),
    (Rule::CutLog, "cut-log"),
    (Rule::CutToNewest, "cut-to-newest"),
    (Rule::ReplayUnsettled, "replay-unsettled"),
    (Rule::Majority, "majority"),
    (Rule::HighestBallot, "highest-ballot"),
    (Rule::ContiguousClaim, "contiguous-claim"),
    (Rule::UniqueEpoch, "unique-epoch"),
    (Rule::ServeInEpoch, "serve-in-epoch"),
    (Rule::WholeLog, "whole-log"),
    (Rule::DiskIdentity, "disk-identity"),
    (Rule::Fence, "fence"),
    (Rule::GiveUpLease, "give-up-lease"),
];

/// Rules that matter only when replicas restart and leaders change. The schedules of `paxos` drop them as well.
pub const FAILURE_RULES: [(Rule, &str); 4] = [
    (Rule::RecoverFirst, "recover-first"),
    (Rule::PromiseOnDisk, "promise-on-disk"),
    (Rule::RejoinNonce, "rejoin-nonce"),
    (Rule::Lease, "lease"),
];

#[cfg(not(feature = "mutation"))]
#[inline(always)]
pub const fn on(_rule: Rule) -> bool {
    true
}

#[cfg(feature = "mutation")]
pub use switch::{on, without};

#[cfg(feature = "mutation")]
mod switch {
    use super::Rule;
    use std::cell::Cell;

    thread_local! {
        static DROPPED: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    pub fn on(rule: Rule) -> bool {
        DROPPED.get() != Some(rule)
    }

    /// Runs `body` on this thread with `rule` left out.
    pub fn without<T>(rule: Rule, body: impl FnOnce() -> T) -> T {
        DROPPED.set(Some(rule));
        let result = body();
        DROPPED.set(None);
        result
    }
}
