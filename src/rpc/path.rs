//! What a session has learned of the way to its peer: how long it takes, and how much it carries.
#![forbid(unsafe_code)]

use super::pace::{Change, Pace};
use super::rtt::Rtt;
use super::window::Window;
use crate::types::Timestamp;

pub struct Path {
    pub rtt: Rtt,
    pub window: Window,
    pub pace: Pace,
}

/// What one acknowledgement says of the way.
#[derive(Default)]
pub struct Arrived {
    pub frames: u32,
    pub bytes: u64,
    /// Frames unacknowledged before.
    pub outstanding: usize,
    /// When the latest of the frames left, if this is the first to acknowledge it.
    pub latest_sent: Option<Timestamp>,
    /// For how long the peer held the acknowledgement of the largest number back; `None` if `latest_sent` is not its.
    pub held_ns: Option<u64>,
    /// It acknowledges frames that a timeout had given up: they had only been waited for.
    pub is_late: bool,
}

impl Path {
    pub fn new(is_paced: bool) -> Path {
        Path { rtt: Rtt::new(), window: Window::new(), pace: Pace::new(is_paced) }
    }

    pub fn on_acked(&mut self, now: Timestamp, arrived: &Arrived) -> Option<Change> {
        if let Some(sent) = arrived.latest_sent {
            let rtt_ns = now.since(sent);
            self.rtt.on_sample(rtt_ns);
            if let Some(held_ns) = arrived.held_ns {
                self.pace.on_sample(now, rtt_ns.saturating_sub(held_ns).max(1));
            }
        }
        if arrived.is_late && self.pace.on_late() {
            return Some(Change::Freed);
        }
        self.window.on_acked(arrived.frames, arrived.outstanding);
        self.pace.on_acked(u64::from(arrived.frames), arrived.bytes, arrived.outstanding);
        self.pace.end_round(now, self.rtt.smoothed_ns().unwrap_or_default())
    }

    /// `frames` are lost; `number` is the latest of them, `last` the latest sent.
    #[cold]
    pub fn on_loss(&mut self, frames: u64, number: u64, last: u64) {
        self.window.on_loss(number, last);
        self.pace.on_lost(frames);
    }

    /// All that was outstanding is lost.
    #[cold]
    pub fn on_timeout(&mut self, now: Timestamp, frames: usize, bytes: u64, last: u64) -> Option<Change> {
        let change = self.pace.on_timeout(now, frames, bytes, self.rtt.rto_ns());
        self.rtt.on_timeout();
        self.window.on_timeout(last);
        change
    }
}
