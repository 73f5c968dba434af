//! Which numbered frames of a peer have been received, and when to say so.
//!
//! Invariants:
//!   1. `largest` only grows; a frame is recorded at most once.
//!   2. Each recorded frame is in at least one acknowledgement, which leaves in time (`ACK_DELAY_NS`)
//!      or with the next frame to the peer.
#![forbid(unsafe_code)]

use super::stats::Ignored;
use crate::bounds::{ACK_DELAY_NS, ACK_FRAMES, FRAMES_REMEMBERED};
use crate::types::Timestamp;

pub struct History {
    largest: u64,
    /// When that came.
    largest_at: Timestamp,
    /// A ring: the bit of frame `n` is at `place_of(n)`, for the last `FRAMES_REMEMBERED` up to `largest`.
    received: [u64; WORDS],
    /// Frames recorded since the last acknowledgement, the lowest of them, and when the first came.
    owed: u32,
    owed_lowest: u64,
    owed_since: Timestamp,
    /// Do not wait for a frame to ride in.
    overdue: bool,
}

impl History {
    pub fn new() -> History {
        History {
            largest: 0,
            largest_at: Timestamp(0),
            received: [0; WORDS],
            owed: 0,
            owed_lowest: 0,
            owed_since: Timestamp(0),
            overdue: false,
        }
    }

    /// Why frame `number` need not be looked at.
    pub fn ignore_frame(&self, number: u64) -> Option<Ignored> {
        if number > self.largest {
            return None;
        }
        if self.largest - number >= FRAMES_REMEMBERED as u64 {
            return Some(Ignored::ForgottenFrame);
        }
        let (word, bit) = place_of(number);
        (self.received[word] >> bit & 1 == 1).then_some(Ignored::RepeatedFrame)
    }

    pub fn record(&mut self, now: Timestamp, number: u64) {
        assert!(self.ignore_frame(number).is_none(), "frame {number} recorded twice");
        if number > self.largest {
            self.forget_until(number);
            self.largest = number;
            self.largest_at = now;
        }
        let (word, bit) = place_of(number);
        self.received[word] |= 1 << bit;
        if self.owed == 0 {
            self.owed_since = now;
            self.owed_lowest = number;
        }
        self.owed += 1;
        self.owed_lowest = self.owed_lowest.min(number);
        self.overdue |= self.owed >= ACK_FRAMES;
    }

    pub fn on_tick(&mut self, now: Timestamp) {
        self.overdue |= self.deadline().is_some_and(|due| due <= now);
    }

    /// When an acknowledgement stops waiting; `None` when none is owed or it no longer waits.
    pub fn deadline(&self) -> Option<Timestamp> {
        (self.owed > 0 && !self.overdue).then(|| self.owed_since.plus_ns(ACK_DELAY_NS))
    }

    pub fn is_owed(&self) -> bool {
        self.owed > 0
    }

    pub fn is_overdue(&self) -> bool {
        self.overdue
    }

    /// The largest frame, and how many `words` cover all that is owed, and one before them: it repeats what the last
    /// acknowledgement said, should that be lost. Bit `b` of word `w` stands for frame `largest - 64 * w - b`.
    pub fn take_ack(&mut self, words: &mut AckWords) -> (u64, usize) {
        let span = self.largest - self.owed_lowest;
        let count = usize::try_from(span / 64).map_or(WORDS, |word| (word + 2).min(WORDS));
        self.owed = 0;
        self.overdue = false;
        let mut number = self.largest;
        for word in &mut words[..count] {
            *word = self.ending_at(number);
            number = number.wrapping_sub(64);
        }
        (self.largest, count)
    }

    /// How long ago the largest frame came: the acknowledgement says it, so that its way is not taken for longer than it is.
    pub fn held_ns(&self, now: Timestamp) -> u64 {
        now.since(self.largest_at)
    }

    /// Makes room for the frames beyond `largest` up to `number`.
    fn forget_until(&mut self, number: u64) {
        if number - self.largest >= FRAMES_REMEMBERED as u64 {
            self.received = [0; WORDS];
            return;
        }
        for number in self.largest + 1..=number {
            let (word, bit) = place_of(number);
            self.received[word] &= !(1 << bit);
        }
    }

    /// Bit `b` stands for frame `number - b`. Frames before the first one were not received.
    fn ending_at(&self, number: u64) -> u64 {
        let (word, bit) = place_of(number);
        let high = self.received[word] << (63 - bit);
        let low = self.received[(word + WORDS - 1) % WORDS];
        (high | low.checked_shr(bit + 1).unwrap_or(0)).reverse_bits()
    }
}

/// Word and bit of a frame. Counting backwards past 0 ends in places of frames that have not come.
fn place_of(number: u64) -> (usize, u32) {
    ((number / 64) as usize % WORDS, (number % 64) as u32)
}

/// What an acknowledgement can say.
pub type AckWords = [u64; WORDS];

const WORDS: usize = FRAMES_REMEMBERED / 64;
const _: () = assert!(WORDS * 64 == FRAMES_REMEMBERED);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Prng;
    use std::collections::BTreeSet;

    fn acknowledged(history: &mut History) -> BTreeSet<u64> {
        let mut words = [0; WORDS];
        let (largest, count) = history.take_ack(&mut words);
        let bits = words[..count].iter().enumerate().flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word as u64 * 64 + bit)
        });
        bits.map(|age| largest - age).collect()
    }

    /// A frame acknowledged that never came is never sent again: its packets are gone.
    #[test]
    fn acknowledgements_name_exactly_the_frames_received() {
        let mut prng = Prng::with_seed(7);
        let (mut history, mut model, mut owed) = (History::new(), BTreeSet::new(), BTreeSet::new());
        let mut front = 100;
        for _ in 0..20_000 {
            front += if prng.u32(..1_000) == 0 { prng.u64(..5_000) } else { prng.u64(..3) };
            let number = front - prng.u64(..90);
            match history.ignore_frame(number) {
                Some(Ignored::RepeatedFrame) => assert!(model.contains(&number)),
                Some(ignored) => {
                    assert_eq!(ignored, Ignored::ForgottenFrame);
                    assert!(number + FRAMES_REMEMBERED as u64 <= *model.last().unwrap());
                }
                None => {
                    assert!(model.insert(number));
                    owed.insert(number);
                    history.record(Timestamp(0), number);
                }
            }
            if prng.u32(..40) == 0 {
                let named = acknowledged(&mut history);
                let largest = model.last().copied().unwrap_or(0);
                assert!(named.is_subset(&model));
                assert!(owed.iter().all(|n| named.contains(n) || n + FRAMES_REMEMBERED as u64 <= largest));
                owed.clear();
            }
        }
    }

    /// Invariant 2.
    #[test]
    fn an_acknowledgement_waits_for_company_but_not_long() {
        let mut history = History::new();
        assert_eq!((history.is_owed(), history.deadline()), (false, None));
        history.record(Timestamp(5), 1);
        history.record(Timestamp(9), 2);
        let due = Timestamp(5 + ACK_DELAY_NS);
        assert_eq!((history.is_overdue(), history.deadline()), (false, Some(due)));
        history.on_tick(due.prev());
        assert!(!history.is_overdue());
        history.on_tick(due);
        assert!(history.is_overdue());
        history.take_ack(&mut [0; WORDS]);
        assert_eq!((history.is_owed(), history.is_overdue(), history.deadline()), (false, false, None));
        (3..3 + u64::from(ACK_FRAMES)).for_each(|number| history.record(due, number));
        assert!(history.is_overdue());
    }
}
