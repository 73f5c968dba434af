//! What a core's sessions have counted, and the names of everything they drop.
//!
//! Counters only grow. Nothing here decides anything.
#![forbid(unsafe_code)]

use crate::types::{Endpoint, NodeId};

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
    /// We have said goodbye to everybody.
    Leaving,
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
    /// In the open, where keys are asked for; or cut.
    NotSealed,
    /// Sealed under a key that is not the cluster's, as far as this node knows.
    UnknownKey,
    /// It does not open: made or changed by somebody who does not have the key.
    NotAuthentic,
    /// Opened before, or so old that nobody remembers whether it was.
    ReplayedFrame,
    /// Of a life that is not known, of which there were too many within a millisecond.
    HellosFull,
}

impl Ignored {
    /// The frame still counts as received: sending these packets again would change nothing either.
    pub(super) fn is_settled(self) -> bool {
        matches!(self, Ignored::PastPacket | Ignored::CastsFull)
    }
}

/// The way to one peer, as its session sees it now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStats {
    pub peer: Endpoint,
    /// The smoothed round trip; `None` before the first sample.
    pub rtt_ns: Option<u64>,
    /// Bytes a second; `None` while the session sends as fast as it can.
    pub rate: Option<u64>,
    /// Frames that may be unacknowledged, and that are.
    pub window_frames: usize,
    pub outstanding_frames: usize,
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
    /// Frames given up, because later ones arrived or because of a timeout.
    pub frames_lost: u64,
    /// Bursts that waited because their session had been slowed.
    pub bursts_paced: u64,
    /// Sessions slowed by congestion, and those that sent as fast as they could again.
    pub slowed: u64,
    pub freed: u64,
    /// Sessions looked at because of a timer, whether or not it had come true.
    pub timers: u64,
    pub peer_restarts: u64,
    /// Peers that have said goodbye, and those that gave no sign of life for too long.
    pub peers_left: u64,
    pub peers_silent: u64,
    ignored: [u64; IGNORED_COUNT],
    /// Frames that did not open, by the node they said to be from.
    refused: Vec<u64>,
    refused_total: u64,
}

impl RpcStats {
    pub fn ignored(&self, reason: Ignored) -> u64 {
        self.ignored[reason as usize]
    }

    pub fn ignored_total(&self) -> u64 {
        self.ignored.iter().sum()
    }

    /// Frames that said to be from a node and did not open: one of the two has another key, or none, or somebody poses as
    /// that node.
    pub fn refused(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        (0..).map(NodeId).zip(self.refused.iter().copied()).filter(|(_, frames)| *frames > 0)
    }

    /// From whomever. Cheaper to look at than who they were.
    pub fn refused_total(&self) -> u64 {
        self.refused_total
    }

    pub(super) fn on_refused(&mut self, from: NodeId) {
        self.refused_total += 1;
        let place = usize::from(from.0);
        if self.refused.len() <= place {
            self.refused.resize(place + 1, 0);
        }
        self.refused[place] += 1;
    }

    pub(super) fn on_ignored(&mut self, reason: Ignored) {
        self.ignored[reason as usize] += 1;
    }
}

const IGNORED_COUNT: usize = Ignored::HellosFull as usize + 1;
