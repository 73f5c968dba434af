//! One behaviour of the simulated disk at a time, on short stories.
#![forbid(unsafe_code)]

use super::*;

const PARTITION: PartitionId = PartitionId(2);

/// A disk, its time and its chance.
struct Story {
    disk: SimDisk,
    now: Timestamp,
    prng: Prng,
}

impl Story {
    fn new(seed: u64, faults: DiskFaults) -> Story {
        Story::on(Medium::new(SEGMENT), seed, faults).0
    }

    fn on(medium: Medium, seed: u64, faults: DiskFaults) -> (Story, VoteTable, usize) {
        let mut records = 0;
        let opened = SimDisk::open(medium, options(faults), &mut |_| records += 1);
        let Opened { disk, votes, .. } = opened.expect("nothing was lied about");
        (Story { disk, now: Timestamp(SECOND), prng: Prng::with_seed(seed) }, votes, records)
    }

    fn append(&mut self, kind: RecordKind, round: u32, bytes: usize) -> Lsn {
        let ballot = Ballot { round, node: NodeId(0) };
        let payload = vec![7; bytes];
        let slot = Slot(u64::from(round));
        self.disk.append(&Record { kind, partition: PARTITION, ballot, slot, payload: &payload })
    }

    /// Goes to the next moment at which something is due, as a host does.
    fn step(&mut self) -> Option<Result<Lsn, DiskFailure>> {
        self.disk.submit(self.now, &mut self.prng);
        self.now = self.disk.next_due()?.max(self.now);
        let done = self.disk.complete(self.now);
        self.disk.submit(self.now, &mut self.prng);
        Some(done)
    }

    /// How far everything is durable once nothing is under way.
    fn settle(&mut self) -> Lsn {
        let mut durable = Lsn(0);
        while let Some(done) = self.step() {
            let done = done.expect("no write fails");
            assert!(done >= durable, "{done:?} after {durable:?}");
            durable = done;
        }
        durable
    }

    fn crash(mut self, crash: Crash) -> Medium {
        self.disk.crash(self.now, &mut self.prng, crash)
    }
}

fn ballot(round: u32) -> Option<Ballot> {
    Some(Ballot { round, node: NodeId(0) })
}

/// The log is damaged at the very moment at which a peer has been promised something.
#[test]
fn a_vote_is_durable_only_once_a_slot_holds_it() {
    let mut waited = false;
    for seed in 0..200 {
        let mut story = Story::new(seed, DiskFaults::NONE);
        let vote = story.append(RecordKind::Vote, 4, 0);
        let mut steps = 0;
        while story.step().expect("it is not durable yet").unwrap() < vote {
            steps += 1;
        }
        waited |= steps > 0;
        let mut medium = story.crash(Crash::PowerCut);
        medium.wipe_log();
        assert_eq!(medium.votes().unwrap().get(&PARTITION).copied(), ballot(4), "seed {seed}");
    }
    assert!(waited, "the log was never first");
}

/// The log lets go of a vote, and then one slot rots: there must have been two.
#[test]
fn a_vote_leaves_the_log_only_when_both_slots_hold_it() {
    let mut readable = 0;
    for (seed, rotten) in (0..200).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let mut story = Story::new(seed, DiskFaults::NONE);
        story.append(RecordKind::Vote, 1, 0);
        story.settle();
        let vote = story.append(RecordKind::Vote, 9, 0);
        for _ in 0..20 {
            story.append(RecordKind::Accept, 9, 4_000);
        }
        while story.step().unwrap().unwrap() < vote {}
        for _ in 0..story.prng.usize(..20) {
            story.step();
        }
        story.disk.truncate(Lsn(u64::MAX));
        for _ in 0..story.prng.usize(..4) {
            story.step();
        }
        let mut medium = story.crash(Crash::ProcessKill);
        medium.slots[rotten][100] ^= 1;
        // The crash has torn the other one: that is two faults, and told as such.
        if medium.votes().is_none() {
            continue;
        }
        readable += 1;
        let (_, votes, _) = Story::on(medium, seed, DiskFaults::NONE);
        assert_eq!(votes.get(&PARTITION).copied(), ballot(9), "seed {seed}, slot {rotten}");
    }
    assert!(readable > 300, "{readable}");
}

/// What is behind the checkpoint must go, or the log grows for ever.
#[test]
fn truncation_frees_the_segments_below_and_they_are_used_again() {
    let mut story = Story::new(1, DiskFaults::NONE);
    let mut most = 0;
    for round in 0..200 {
        story.append(RecordKind::Accept, round, 5_000);
        let durable = story.settle();
        story.disk.truncate(durable);
        most = most.max(story.disk.log_bytes());
    }
    assert!(story.disk.appended().0 > 200 * 5_000 && most <= 3 * SEGMENT as u64, "{most} B");
    let medium = story.crash(Crash::ProcessKill);
    assert!(medium.segment_count() <= 3, "{medium:?}");
    assert!(Story::on(medium, 1, DiskFaults::NONE).2 <= 6);
}

/// A full disk is an answer to new work, and what is held back goes out when there is space.
#[test]
fn a_full_disk_takes_nothing_in_and_goes_on_when_there_is_space() {
    let mut story = Story::new(1, DiskFaults::NONE);
    let until = story.now.plus_ns(SECOND);
    story.disk.fill_up(until);
    assert_eq!(story.disk.room(), 0);
    let records: Vec<Lsn> = (0..20).map(|round| story.append(RecordKind::Accept, round, 8_000)).collect();
    let mut durable = Lsn(0);
    while story.now < until {
        assert!(durable < records[19], "written where there is no space");
        durable = story.step().unwrap().unwrap();
    }
    assert!(durable >= records[2], "the segments that were ready were not used");
    assert!(story.disk.room() > 0);
    assert!(story.settle() >= records[19]);
    assert_eq!(Story::on(story.crash(Crash::PowerCut), 1, DiskFaults::NONE).2, 20);
}

/// A write that failed and is tried again may seem to succeed, and has not.
#[test]
fn after_a_failed_write_nothing_is_durable_again() {
    let hardships = Hardships { failed: 1.0, ..Hardships::default() };
    let mut story = Story::new(1, DiskFaults { hardships, ..DiskFaults::NONE });
    story.append(RecordKind::Accept, 1, 10);
    assert_eq!(story.step(), Some(Err(DiskFailure::WriteFailed)));
    assert_eq!(story.step(), None);
    assert_eq!(story.disk.complete(story.now), Err(DiskFailure::Stopped));
    assert_eq!(story.disk.complete(story.now.plus_ns(100 * SECOND)), Err(DiskFailure::Stopped));
    assert_eq!(story.crash(Crash::PowerCut).owed(), Owed::Everything);
}

/// A drive that hangs does not say so: without a bound a leader would wait with it, and never give way.
#[test]
fn a_stuck_write_stops_the_disk_in_bounded_time() {
    let hardships = Hardships { stuck: 1.0, ..Hardships::default() };
    let mut story = Story::new(1, DiskFaults { hardships, ..DiskFaults::NONE });
    let lsn = story.append(RecordKind::Accept, 1, 10);
    story.disk.submit(story.now, &mut story.prng);
    let almost = story.now.plus_ns(STUCK_NS - 1);
    assert!(story.disk.complete(almost).unwrap() < lsn);
    assert_eq!(story.step(), Some(Err(DiskFailure::Stuck)));
    assert_eq!(story.now, almost.next());
}

/// Group commit: what waited for the end of the turn dies with the process, what was begun may live.
#[test]
fn what_was_not_submitted_is_gone_and_what_was_may_be_there() {
    let mut seen = [0; 2];
    for seed in 0..100 {
        let mut story = Story::new(seed, DiskFaults::NONE);
        story.append(RecordKind::Accept, 1, 10);
        story.settle();
        story.append(RecordKind::Accept, 2, 10);
        story.disk.submit(story.now, &mut story.prng);
        story.append(RecordKind::Accept, 3, 10);
        let (_, _, records) = Story::on(story.crash(Crash::ProcessKill), seed, DiskFaults::NONE);
        assert!((1..=2).contains(&records), "seed {seed}: {records}");
        seen[records - 1] += 1;
    }
    assert!(seen.iter().all(|times| *times > 10), "{seen:?}");
}

/// A seed that found a bug must find it again.
#[test]
fn one_seed_is_one_medium() {
    let run = |seed| {
        let lies = Lies { lost: 0.1, misdirected: 0.1, rot: 0.5 };
        let hardships = Hardships { slow: 0.2, slow_ns: MS, full: 0.2, full_ns: MS, ..Hardships::default() };
        let mut story = Story::new(seed, DiskFaults { hardships, lies, ..DiskFaults::NONE });
        for round in 0..50 {
            let kind = if round % 7 == 0 { RecordKind::Vote } else { RecordKind::Accept };
            let bytes = story.prng.usize(..9_000);
            story.append(kind, round, bytes);
            story.step();
        }
        story.crash(Crash::PowerCut)
    };
    assert!((0..20).all(|seed| run(seed) == run(seed)));
    assert!(run(1) != run(2));
}

/// A lie that nobody finds, and that nobody is told of, would be a replica that forgets what it has voted for. Each is
/// found, unless it was the last word; and the drive that is held to that has everything it said it had.
#[test]
fn a_lie_is_found_by_what_was_written_later_or_owned_up_to() {
    let (mut found, mut owned_up) = (0, 0);
    for seed in 0..400 {
        let mut story = Story::new(seed, DiskFaults::NONE);
        let lie = if seed % 2 == 0 { Lie::Lost } else { Lie::Misdirected };
        let before = story.prng.u32(1..5);
        let after = story.prng.u32(0..3);
        for round in 0..before + 1 + after {
            if round == before {
                assert!(!story.disk.has_lied());
                story.disk.lie_once(lie);
            }
            let bytes = story.prng.usize(1..9_000);
            story.append(RecordKind::Accept, round + 1, bytes);
            story.settle();
        }
        assert!(story.disk.has_lied());
        let mut medium = story.crash(Crash::PowerCut);
        assert!(medium.has_lied());
        match medium.owed() {
            Owed::Damage => {
                assert!(
                    SimDisk::open(medium, options(DiskFaults::NONE), &mut |_| {}).is_err(),
                    "seed {seed}"
                );
                found += 1;
                continue;
            }
            Owed::EndOrDamage(_) => owned_up += 1,
            Owed::Everything => {}
        }
        medium.own_up();
        assert_eq!(medium.owed(), Owed::Everything, "seed {seed}");
        let (story, _, records) = Story::on(medium, seed, DiskFaults::NONE);
        assert_eq!(records as u32, before + 1 + after, "seed {seed}");
        assert!(!story.disk.has_lied());
    }
    assert!(found > 50 && owned_up > 50, "{found} found, {owned_up} owned up");
}
