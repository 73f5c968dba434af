//! What a core's sessions have counted, and the names of everything they drop.
//!
//! Counters only grow. Nothing here decides anything.
#![forbid(unsafe_code)]

/// Why a frame or packet changed nothing. Not an error: networks repeat, reorder and mix up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ignored {
    /// Too short, too long, or not ours at all.
    BadFrame,
    OtherVersion,
    OtherCluster,
    /// For another core or node: somebody's address table is wrong.
    OtherEndpoint,
    /// From a node or core no cluster file could name.
    UnknownPeer,
    /// From a life of the peer that has ended.
    OldIncarnation,
    /// For a life of ours that has ended, so it may have been carried out then. Its casts are taken.
    OtherIncarnation,
    /// Of calls the peer has given up.
    OldGeneration,
    /// A frame received before.
    RepeatedFrame,
    /// A frame so late that nobody remembers whether it was received.
    ForgottenFrame,
    /// Bytes that are no packet; what stood before them was taken.
    BadPacket,
    /// Of a use of its slot that is over, or of a message already complete.
    PastPacket,
    /// Answers, or acknowledges, what was never sent.
    NeverSent,
    /// Its message began with another length.
    OtherLength,
    /// Too far ahead of what has arrived of its message.
    TooFarAhead,
    /// The session holds as many bytes of incomplete messages as it may.
    PartialsFull,
    /// The caller has not taken the casts received before.
    CastsFull,
}

impl Ignored {
    /// The frame still counts as received: sending these packets again would change nothing either.
    pub(super) fn is_settled(self) -> bool {
        matches!(self, Ignored::PastPacket | Ignored::CastsFull)
    }
}

#[derive(Clone, Default, Debug)]
pub struct RpcStats {
    pub frames_received: u64,
    pub frames_sent: u64,
    pub calls: u64,
    pub calls_refused: u64,
    pub calls_failed: u64,
    pub requests: u64,
    pub responses: u64,
    /// Answers to requests nobody waits for any more.
    pub responses_dropped: u64,
    /// Casts for which the session had no room.
    pub casts_dropped: u64,
    pub packets_resent: u64,
    pub timeouts: u64,
    pub peer_restarts: u64,
    ignored: [u64; IGNORED_COUNT],
}

impl RpcStats {
    pub fn ignored(&self, reason: Ignored) -> u64 {
        self.ignored[reason as usize]
    }

    pub fn ignored_total(&self) -> u64 {
        self.ignored.iter().sum()
    }

    pub(super) fn on_ignored(&mut self, reason: Ignored) {
        self.ignored[reason as usize] += 1;
    }
}

const IGNORED_COUNT: usize = Ignored::CastsFull as usize + 1;
