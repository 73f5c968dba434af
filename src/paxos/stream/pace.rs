//! How fast a replica that is far behind asks for what it lacks: not at the cost of those who go on without it.
//!
//! Pages are small beside what a busy leader does, but each asks for the next: unpaced they take all the time that
//! leader and follower have, and a shard whose replica comes back stands still for it. So while the leader chooses slots
//! at a rate, what is missing is fetched at `CATCH_UP_SHARE` times that rate, or as `CATCH_UP_SECONDS_MAX` demands; and at once from one that is idle or
//! cannot choose without us, for there nobody is held up.
//!
//! A gap of less than a page is no matter for this: it is fetched at once.
#![forbid(unsafe_code)]

use crate::bounds::{CATCH_UP_SECONDS_MAX, CATCH_UP_SHARE, CATCH_UP_SLOTS_IDLE, CATCH_UP_WINDOW_NS, SECOND};
use crate::types::{Slot, Timestamp};

#[derive(Default)]
pub(super) struct Pace {
    /// Where the leader's chosen end stood, and when.
    seen: Option<(Timestamp, Slot)>,
    /// Slots the leader has chosen per second, of the last whole window.
    per_second: Option<u64>,
    /// Slots of a page that came, after which another is to be asked for.
    page_slots: Option<u64>,
    /// When.
    due: Option<Timestamp>,
}

impl Pace {
    /// A page has come, and another is to follow.
    pub fn hold_back(&mut self, page_slots: u64) {
        (self.page_slots, self.due) = (Some(page_slots), None);
    }

    pub fn holds_back(&self) -> bool {
        self.page_slots.is_some()
    }

    /// Another leader, or nothing more is lacking.
    pub fn let_go(&mut self) {
        (self.page_slots, self.due) = (None, None);
    }

    /// Time goes on; the leader has got to `chosen_end`, and we to `held_end`. True when the next page may be asked
    /// for, once.
    pub fn on_time(&mut self, now: Timestamp, chosen_end: Slot, held_end: Slot) -> bool {
        self.measure(now, chosen_end);
        let (Some(slots), Some(per_second)) = (self.page_slots, self.per_second) else { return false };
        let pause_ns = match per_second {
            0..CATCH_UP_SLOTS_IDLE => 0,
            busy => {
                let in_time = chosen_end.0.saturating_sub(held_end.0) / CATCH_UP_SECONDS_MAX;
                slots * SECOND / (busy * CATCH_UP_SHARE).max(in_time)
            }
        };
        let due = *self.due.get_or_insert(now.plus_ns(pause_ns));
        let go_on = now >= due || pause_ns == 0;
        if go_on {
            self.let_go();
        }
        go_on
    }

    /// When `on_time` next has something to say.
    pub fn deadline(&self) -> Option<Timestamp> {
        let measured = || self.seen.map(|(since, _)| since.plus_ns(CATCH_UP_WINDOW_NS));
        self.page_slots.and_then(|_| self.due.into_iter().chain(measured()).min())
    }

    fn measure(&mut self, now: Timestamp, chosen_end: Slot) {
        let (since, before) = *self.seen.get_or_insert((now, chosen_end));
        let elapsed_ns = now.since(since);
        if elapsed_ns >= CATCH_UP_WINDOW_NS {
            let slots = chosen_end.0.saturating_sub(before.0);
            self.per_second = Some((u128::from(slots) * u128::from(SECOND) / u128::from(elapsed_ns)) as u64);
            self.seen = Some((now, chosen_end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 64;

    /// How many pages are let through in two seconds, when so many slots are lacking and the leader chooses so many
    /// in each.
    fn pages(lacking: u64, chosen_per_second: u64) -> u64 {
        let mut pace = Pace::default();
        let mut pages = 0;
        for ms in 0..2_000 {
            let now = Timestamp(SECOND + ms * SECOND / 1_000);
            if !pace.holds_back() {
                pace.hold_back(PAGE);
            }
            let chosen_end = Slot(lacking + ms * chosen_per_second / 1_000);
            pages += u64::from(pace.on_time(now, chosen_end, Slot(pages * PAGE)));
        }
        pages
    }

    #[test]
    fn a_busy_leader_is_asked_for_a_share_of_what_it_chooses() {
        for per_second in [1_000, 4_000] {
            let (slots, share) = (pages(0, per_second) * PAGE, 2 * per_second * CATCH_UP_SHARE);
            assert!((share / 2..=share).contains(&slots), "{slots} of {share} slots at {per_second}/s");
        }
    }

    /// Nobody is held up: and it may be that it cannot choose without us.
    #[test]
    fn one_that_chooses_nothing_is_asked_at_once() {
        for idle in [0, CATCH_UP_SLOTS_IDLE - 10] {
            assert!(pages(0, idle) > 1_800, "{} pages", pages(0, idle));
        }
    }

    /// With one replica short of the log, the next failure may be one too many.
    #[test]
    fn it_never_takes_much_longer_than_it_may() {
        let lacking = 1_000_000;
        let slots = pages(lacking, 100) * PAGE;
        assert!(
            slots >= lacking / CATCH_UP_SECONDS_MAX,
            "{slots} of {lacking} in two seconds, the first tenth of a second to learn the rate"
        );
    }

    #[test]
    fn there_is_a_deadline_as_long_as_something_is_held_back() {
        let mut pace = Pace::default();
        assert!(!pace.on_time(Timestamp(SECOND), Slot(0), Slot(0)));
        assert_eq!(pace.deadline(), None);
        pace.hold_back(PAGE);
        let mut now = Timestamp(SECOND);
        for turns in 0.. {
            assert!(turns < 3, "asked again and again");
            now = now.max(pace.deadline().unwrap());
            if pace.on_time(now, Slot(1_000), Slot(0)) {
                break;
            }
        }
        assert_eq!(pace.deadline(), None);
    }
}
