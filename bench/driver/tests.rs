//! The driver against a core that only listens and a clock that stands still until told.
#![forbid(unsafe_code)]

use super::*;
use crate::fixture::{Core, Counting, Nothing, Submitted};
use mako::bounds::SECOND;
use std::cell::Cell;

thread_local! {
    static NOW: Cell<Timestamp> = const { Cell::new(Timestamp(0)) };
}

fn clock() -> Timestamp {
    NOW.get()
}

const HOME: PartitionId = PartitionId(0);
const WINDOW: Window = Window { from: Timestamp(10 * SECOND), until: Timestamp(20 * SECOND) };

struct Bench {
    driver: BenchDriver<Counting>,
    control: Arc<Control>,
    core: Core,
}

impl Bench {
    fn in_phase(phase: Phase, load: Load) -> Bench {
        let control = Arc::new(Control::new(1));
        control.set_window(WINDOW);
        if phase != Phase::Load {
            control.enter(phase);
        }
        let driver = BenchDriver::new(Counting::new(3), control.clone(), load, NodeId(0), clock);
        Bench { driver, control, core: Core::new(&[0], &[0]) }
    }

    fn turn(&mut self, at: Timestamp) -> Vec<Submitted> {
        NOW.set(at);
        self.driver.turn(at, &mut self.core);
        std::mem::take(&mut self.core.submitted)
    }

    /// Client transactions alone, without the audits of the counting workload.
    fn clients(&mut self, at: Timestamp) -> Vec<Submitted> {
        let mut submitted = self.turn(at);
        submitted.retain(|submitted| submitted.mode == Mode::ReadWrite);
        submitted
    }

    fn reply(&mut self, at: Timestamp, token: u64, reply: Reply) {
        NOW.set(at);
        let gives_back = !matches!(reply, Reply::Durable { .. } | Reply::RolledBack);
        self.driver.on_reply(at, token, reply, gives_back.then_some(Nothing));
    }

    fn speculative(&mut self, at: Timestamp, token: u64) {
        self.reply(at, token, Reply::Speculative { timestamp: at, distributed: true, attempts: 2 });
    }

    fn durable(&mut self, at: Timestamp, token: u64) {
        self.reply(at, token, Reply::Durable { timestamp: at });
    }
}

fn at_ms(ms: u64) -> Timestamp {
    Timestamp(ms * MS)
}

const CLOSED: Load = Load::Closed { clients: 20 };

#[test]
fn a_turn_starts_at_most_its_share_and_clients_wait_for_their_durable_reply() {
    let mut bench = Bench::in_phase(Phase::Run, CLOSED);
    let first = bench.clients(at_ms(1));
    assert_eq!(first.len(), SUBMISSIONS_PER_TURN);
    assert!(bench.driver.deadline().is_some_and(|at| at <= at_ms(1)), "the rest must not wait for an event");
    assert_eq!(bench.clients(at_ms(1)).len(), 20 - SUBMISSIONS_PER_TURN);
    assert!(bench.clients(at_ms(2)).is_empty());

    bench.speculative(at_ms(3), first[0].token);
    assert!(bench.clients(at_ms(3)).is_empty(), "speculative is not the end");
    bench.durable(at_ms(4), first[0].token);
    assert!(bench.driver.deadline().is_some_and(|at| at <= at_ms(4)));
    assert_eq!(bench.clients(at_ms(4)).len(), 1);
}

/// Invariant 3. Counting what began in the window would drop the slowest of all.
#[test]
fn what_completes_in_the_window_is_measured_wherever_it_began() {
    let mut bench = Bench::in_phase(Phase::Run, CLOSED);
    let first = bench.clients(at_ms(9_900));
    let second = Timestamp(WINDOW.until.0 - 1);
    for (token, at) in [(0, at_ms(9_999)), (1, at_ms(10_100)), (2, second), (3, WINDOW.until)] {
        bench.speculative(at_ms(9_950), first[token].token);
        bench.durable(at, first[token].token);
    }
    let series = bench.driver.measures().series(0, true);
    assert_eq!((series.committed, series.durable.len(), series.speculative.len()), (2, 2, 2));
    // Speculative at 9.95 s, durable at 10.1 s and at the end of the window.
    assert!((50 * MS..51 * MS).contains(&series.speculative.max()), "{}", series.speculative.max());
    assert!((200 * MS - MS..201 * MS).contains(&series.durable.min()), "{}", series.durable.min());
    assert_eq!(bench.driver.workload().durable, 4, "the workload hears of all");
}

#[test]
fn nothing_is_started_after_the_window() {
    let mut bench = Bench::in_phase(Phase::Run, CLOSED);
    assert!(bench.turn(WINDOW.until).is_empty());
}

#[test]
fn a_rollback_and_an_abort_free_the_client_and_are_counted() {
    let mut bench = Bench::in_phase(Phase::Run, CLOSED);
    let first = bench.clients(WINDOW.from);
    bench.clients(WINDOW.from);
    bench.speculative(WINDOW.from, first[0].token);
    bench.reply(WINDOW.from, first[0].token, Reply::RolledBack);
    bench.reply(WINDOW.from, first[1].token, Reply::Aborted { abort: Abort::User, attempts: 1 });
    let measures = bench.driver.measures();
    assert_eq!((measures.rolled_back, measures.aborted.user, measures.aborted.conflict), (1, 1, 1));
    assert_eq!(bench.clients(WINDOW.from).len(), 2);
}

/// A partition that answers `Busy` and is asked again at once never gets the time to empty its window.
#[test]
fn a_busy_partition_is_left_alone_for_a_moment() {
    let mut bench = Bench::in_phase(Phase::Run, CLOSED);
    bench.core.is_busy = true;
    assert!(bench.clients(WINDOW.from).is_empty());
    assert_eq!(bench.driver.measures().aborted.busy, 1);
    bench.core.is_busy = false;
    assert!(bench.clients(WINDOW.from).is_empty(), "it rests");
    assert!(bench.driver.deadline().is_some_and(|at| at > WINDOW.from));
    assert_eq!(bench.clients(WINDOW.from.plus_ns(2 * MS)).len(), SUBMISSIONS_PER_TURN);
}

/// The wait before an overloaded engine took the transaction is part of what its user waits.
#[test]
fn in_an_open_loop_latency_counts_from_the_intended_start() {
    let mut bench = Bench::in_phase(Phase::Run, Load::Open { per_second: 100, partitions: 1 });
    let first = bench.clients(WINDOW.from);
    assert_eq!(first.len(), 1);
    // The core was away for 35 ms: three more starts, at 10, 20 and 30 ms, are due.
    let back = WINDOW.from.plus_ns(35 * MS);
    let late = bench.clients(back);
    assert_eq!(late.len(), 3);
    bench.durable(back, late[0].token);
    let max = bench.driver.measures().total().durable.max();
    assert!((25 * MS..26 * MS).contains(&max), "{max}");
}

#[test]
fn an_open_loop_loses_what_a_busy_engine_refuses() {
    let mut bench = Bench::in_phase(Phase::Run, Load::Open { per_second: 100, partitions: 1 });
    bench.core.is_busy = true;
    bench.turn(WINDOW.from);
    bench.turn(WINDOW.from.plus_ns(10 * MS));
    bench.core.is_busy = false;
    assert!(bench.clients(WINDOW.from.plus_ns(19 * MS)).is_empty());
    assert_eq!(bench.driver.measures().aborted.busy, 2);
}

#[test]
fn clients_follow_leadership() {
    let mut bench = Bench::in_phase(Phase::Run, CLOSED);
    let first = bench.clients(at_ms(1));
    bench.core.led.clear();
    bench.reply(at_ms(2), first[0].token, Reply::Aborted { abort: Abort::Unavailable, attempts: 1 });
    assert!(bench.clients(at_ms(2)).is_empty());
    bench.core.led.push(HOME);
    assert_eq!(bench.clients(at_ms(3)).len(), SUBMISSIONS_PER_TURN);
    assert!(bench.driver.has_led());
}

#[test]
fn a_load_ends_when_its_last_step_is_durable() {
    let mut bench = Bench::in_phase(Phase::Load, CLOSED);
    let steps = bench.turn(at_ms(1));
    assert_eq!(steps.len(), 3);
    bench.speculative(at_ms(2), steps[0].token);
    bench.durable(at_ms(3), steps[0].token);
    bench.durable(at_ms(5), steps[1].token);
    bench.speculative(at_ms(5), steps[2].token);
    bench.reply(at_ms(6), steps[2].token, Reply::RolledBack);
    assert_eq!(bench.control.partitions_loaded(), 0);
    let again = bench.turn(at_ms(20));
    bench.durable(at_ms(21), again[0].token);
    assert_eq!((bench.control.partitions_loaded(), bench.control.latest_commit()), (1, at_ms(21)));
}

/// A load that can never succeed must say so, not try for ever.
#[test]
fn a_load_step_the_engine_cannot_take_fails_the_run() {
    let mut bench = Bench::in_phase(Phase::Load, CLOSED);
    let steps = bench.turn(at_ms(1));
    bench.reply(
        at_ms(2),
        steps[0].token,
        Reply::Aborted { abort: Abort::Conflict { attempts: 64 }, attempts: 64 },
    );
    assert_eq!(bench.control.failure(), None);
    bench.reply(at_ms(2), steps[1].token, Reply::Aborted { abort: Abort::UnknownTable(0), attempts: 1 });
    assert!(bench.control.failure().is_some_and(|why| why.contains("partition 0, step 1")));
}

/// Checks on a snapshot before the last commit would see a transfer half done on one partition: not a fault of
/// the engine, but of the bench.
#[test]
fn checks_wait_for_the_drain_and_for_a_snapshot_of_everything() {
    let mut bench = Bench::in_phase(Phase::Run, Load::Closed { clients: 1 });
    let first = bench.turn(at_ms(1));
    let client = first.iter().find(|submitted| submitted.mode == Mode::ReadWrite).unwrap().token;
    let audit = first.iter().find(|submitted| submitted.mode == Mode::Snapshot).unwrap().token;
    bench.control.enter(Phase::Drain);
    bench.turn(at_ms(2));
    bench.durable(at_ms(3), client);
    bench.turn(at_ms(3));
    assert_eq!(bench.control.arrived(Phase::Drain), 0, "an audit is under way");
    bench.speculative(at_ms(3), audit);
    bench.durable(at_ms(3), audit);
    bench.turn(at_ms(4));
    assert_eq!(bench.control.arrived(Phase::Drain), 1);

    bench.control.enter(Phase::Check);
    bench.core.snapshot = at_ms(3).prev();
    assert!(bench.turn(at_ms(5)).is_empty());
    bench.core.snapshot = at_ms(3);
    for look in 0..2 {
        assert_eq!(bench.control.arrived(Phase::Check), 0);
        let check = bench.turn(at_ms(20 + look));
        assert_eq!((check.len(), check[0].mode), (1, Mode::Snapshot));
        bench.speculative(at_ms(20 + look), check[0].token);
        bench.durable(at_ms(20 + look), check[0].token);
    }
    assert!(bench.turn(at_ms(30)).is_empty());
    assert_eq!((bench.control.arrived(Phase::Check), bench.driver.workload().checks), (1, 2));
}
