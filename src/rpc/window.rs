//! How many frames a session may have unacknowledged. How fast they leave is the affair of `pace`.
//!
//! Slow start to a threshold, then a few frames more per round trip; a quarter less after a loss and half
//! after a timeout, at most once per window. The bounds keep kernel socket buffers from overflowing at one end and a
//! lossy link from stalling at the other.
#![forbid(unsafe_code)]

use crate::bounds::{WINDOW_FRAMES_INITIAL, WINDOW_FRAMES_MAX, WINDOW_FRAMES_MIN};

pub struct Window {
    frames: u32,
    threshold: u32,
    /// Frames acknowledged since the last growth by one.
    acked: u32,
    /// The last frame sent before the window shrank: older losses are of the same cause.
    shrunk_at: u64,
}

impl Window {
    pub fn new() -> Window {
        Window { frames: WINDOW_FRAMES_INITIAL, threshold: WINDOW_FRAMES_MAX, acked: 0, shrunk_at: 0 }
    }

    pub fn frames(&self) -> usize {
        self.frames as usize
    }

    /// `outstanding` is what was unacknowledged before: a window half used has proved nothing.
    pub fn on_acked(&mut self, count: u32, outstanding: usize) {
        if outstanding * 2 < self.frames() {
            return;
        }
        if self.frames < self.threshold {
            self.frames += count;
        } else {
            self.acked += count;
            let step = self.frames / GROWTH_PER_ROUND_TRIP;
            while self.acked >= step {
                self.acked -= step;
                self.frames += 1;
            }
        }
        self.frames = self.frames.min(WINDOW_FRAMES_MAX);
    }

    /// `number` is the latest frame lost, `last` the latest sent.
    pub fn on_loss(&mut self, number: u64, last: u64) {
        if number > self.shrunk_at {
            self.frames = (self.frames / 4 * 3).max(WINDOW_FRAMES_MIN);
            self.threshold = self.frames;
            self.shrunk_at = last;
        }
    }

    /// Nothing has come back for a whole timeout.
    pub fn on_timeout(&mut self, last: u64) {
        self.frames = (self.frames / 2).max(WINDOW_FRAMES_MIN);
        self.threshold = self.frames;
        self.shrunk_at = last;
    }
}

/// Frames the window grows by in a round trip once it has met its threshold: at 50 ms, ten seconds from
/// the least window to the greatest with one frame, and half a second with these.
const GROWTH_PER_ROUND_TRIP: u32 = 16;
const _: () = assert!(GROWTH_PER_ROUND_TRIP <= WINDOW_FRAMES_MIN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_stays_within_its_bounds() {
        let mut window = Window::new();
        (0..10_000).for_each(|_| window.on_acked(64, WINDOW_FRAMES_MAX as usize));
        assert_eq!(window.frames(), WINDOW_FRAMES_MAX as usize);
        (1..100).for_each(|number| window.on_loss(number, number));
        assert_eq!(window.frames(), WINDOW_FRAMES_MIN as usize);
    }

    /// One overflow of a buffer loses many frames; shrinking for each would end at the minimum.
    #[test]
    fn losses_of_one_window_shrink_it_once() {
        let mut window = Window::new();
        window.on_loss(10, 200);
        let after_first = window.frames();
        (11..=200).for_each(|number| window.on_loss(number, 220));
        assert_eq!(window.frames(), after_first);
        window.on_loss(201, 300);
        assert!(window.frames() < after_first);
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut window = Window::new();
        (0..1_000).for_each(|_| window.on_acked(1, 1));
        assert_eq!(window.frames(), WINDOW_FRAMES_INITIAL as usize);
    }
}
