//! Which load steps of which partitions are this core's to do, under way, or to be done again.
//!
//! Steps are numbers: the workload makes the same rows of the same number every time, so a step that failed is
//! simply asked for again. It submits nothing; `driver` does.
//!
//! Invariants:
//!   1. A step is under way at most once.
//!   2. A partition counts as loaded when each of its steps is durable.
#![forbid(unsafe_code)]

use crate::control::Control;
use crate::workload::Workload;
use mako::bounds::MS;
use mako::types::{PartitionId, Timestamp};

pub struct Loading {
    partitions: Vec<PartitionLoad>,
    rest_until: Timestamp,
}

/// One transaction of the load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub partition: PartitionId,
    pub number: u32,
}

struct PartitionLoad {
    partition: PartitionId,
    steps: u32,
    next: u32,
    done: u32,
    under_way: u32,
    again: Vec<u32>,
}

impl Loading {
    pub fn new() -> Loading {
        Loading { partitions: Vec::new(), rest_until: Timestamp(0) }
    }

    /// Takes on the partitions led here that no core has taken on before.
    pub fn claim<W: Workload>(&mut self, workload: &W, control: &Control, led: &[PartitionId]) {
        for partition in led.iter().copied().filter(|partition| control.claim(*partition)) {
            let steps = workload.load_steps(partition);
            if steps == 0 {
                control.add_partition_loaded();
                continue;
            }
            let again = Vec::with_capacity(UNDER_WAY_MAX as usize);
            self.partitions.push(PartitionLoad { partition, steps, next: 0, done: 0, under_way: 0, again });
        }
    }

    /// A step to submit now and the partition to submit it at.
    pub fn next<W: Workload>(
        &mut self,
        now: Timestamp,
        workload: &W,
        led: &[PartitionId],
    ) -> Option<(PartitionId, Step, W::Procedure)> {
        if now < self.rest_until {
            return None;
        }
        let load = self.partitions.iter_mut().find(|load| load.has_next())?;
        // Should leadership have moved on, any partition led here can coordinate the writes.
        let home = led.iter().find(|home| **home == load.partition).or(led.first())?;
        let number = load.again.pop().unwrap_or_else(|| {
            load.next += 1;
            load.next - 1
        });
        load.under_way += 1;
        let step = Step { partition: load.partition, number };
        Some((*home, step, workload.load(step.partition, step.number)))
    }

    pub fn on_loaded(&mut self, step: Step, control: &Control) {
        let load = self.load(step.partition);
        load.under_way -= 1;
        load.done += 1;
        control.add_step_loaded();
        if load.done == load.steps {
            control.add_partition_loaded();
        }
    }

    /// The step came to nothing, for now.
    pub fn on_returned(&mut self, now: Timestamp, step: Step) {
        let load = self.load(step.partition);
        load.under_way -= 1;
        load.again.push(step.number);
        self.rest_until = now.plus_ns(PAUSE_NS);
    }

    fn load(&mut self, partition: PartitionId) -> &mut PartitionLoad {
        let load = self.partitions.iter_mut().find(|load| load.partition == partition);
        load.expect("a step belongs to a partition that was claimed")
    }
}

impl PartitionLoad {
    fn has_next(&self) -> bool {
        self.under_way < UNDER_WAY_MAX && (!self.again.is_empty() || self.next < self.steps)
    }
}

/// Steps of one partition in flight: enough to cover a round trip, few enough that heartbeats pass between.
const UNDER_WAY_MAX: u32 = 8;
/// Pause after a refusal.
const PAUSE_NS: u64 = 2 * MS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Counting;

    const HOME: PartitionId = PartitionId(0);
    const NOW: Timestamp = Timestamp(MS);
    const LATER: Timestamp = Timestamp(100 * MS);

    /// A step lost after a refusal leaves a hole in the data that shows only as a failed check, an hour later.
    #[test]
    fn a_step_that_came_to_nothing_is_done_again() {
        let (workload, control) = (Counting::new(3), Control::new(1));
        let mut loading = Loading::new();
        loading.claim(&workload, &control, &[HOME]);
        let mut numbers = Vec::new();
        while let Some((_, step, _)) = loading.next(NOW, &workload, &[HOME]) {
            numbers.push(step.number);
        }
        assert_eq!(numbers, [0, 1, 2]);

        let step = |number| Step { partition: HOME, number };
        loading.on_loaded(step(0), &control);
        loading.on_returned(NOW, step(1));
        loading.on_loaded(step(2), &control);
        assert!(loading.next(NOW, &workload, &[HOME]).is_none(), "it pauses first");
        assert_eq!(control.partitions_loaded(), 0);
        let (_, again, _) = loading.next(LATER, &workload, &[HOME]).unwrap();
        assert_eq!(again, step(1));
        loading.on_loaded(step(1), &control);
        assert_eq!((control.partitions_loaded(), control.steps_loaded()), (1, 3));
    }

    #[test]
    fn a_core_that_lost_the_partition_goes_on_from_another_it_leads() {
        let (workload, control) = (Counting::new(1), Control::new(2));
        let mut loading = Loading::new();
        loading.claim(&workload, &control, &[HOME]);
        assert!(loading.next(NOW, &workload, &[]).is_none());
        let (home, step, _) = loading.next(NOW, &workload, &[PartitionId(1)]).unwrap();
        assert_eq!((home, step.partition), (PartitionId(1), HOME));
    }

    #[test]
    fn only_so_many_steps_are_under_way() {
        let (workload, control) = (Counting::new(100), Control::new(1));
        let mut loading = Loading::new();
        loading.claim(&workload, &control, &[HOME]);
        let begun = (0..100).filter(|_| loading.next(NOW, &workload, &[HOME]).is_some()).count();
        assert_eq!(begun, UNDER_WAY_MAX as usize);
    }
}
