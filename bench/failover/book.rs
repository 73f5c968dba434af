//! What nodes that pay have acknowledged, against what one of them shows on a snapshot of its own.
//!
//! Text in, a judgement out; the lines are those of `node`. It starts nothing and waits for nothing.
#![forbid(unsafe_code)]

use anyhow::Context;
use std::collections::{BTreeMap, HashMap};

/// A payment that was said to be durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    partition: u64,
    number: u64,
    id: u64,
    pub timestamp: u64,
}

impl Ack {
    pub fn read(line: &str) -> anyhow::Result<Ack> {
        let words = numbers(line);
        let [partition, number, id, timestamp] = words[..] else {
            return Err(anyhow::anyhow!("{line:?}")).context("no line of an acknowledgement");
        };
        Ok(Ack { partition, number, id, timestamp })
    }
}

/// All a node has shown.
#[derive(Default)]
pub struct Shown {
    /// By partition and number: the payment's id.
    receipts: HashMap<(u64, u64), u64>,
    /// By partition.
    counters: BTreeMap<u64, u64>,
    /// What all accounts hold together, and what they should.
    total: Option<(u64, u64)>,
}

impl Shown {
    /// A line of an audit; others say nothing of it.
    pub fn on_line(&mut self, line: &str) {
        let numbers = numbers(line);
        match (line.split(' ').next(), &numbers[..]) {
            (Some("receipt"), [partition, number, id]) => {
                self.receipts.insert((*partition, *number), *id);
            }
            (Some("counter"), [partition, counter]) => {
                self.counters.insert(*partition, *counter);
            }
            (Some("total"), [sum, expected]) => self.total = Some((*sum, *expected)),
            _ => {}
        }
    }

    /// How many of these are there.
    pub fn found(&self, acks: &[Ack]) -> usize {
        let held = |ack: &&Ack| self.receipts.get(&(ack.partition, ack.number)) == Some(&ack.id);
        acks.iter().filter(held).count()
    }

    /// Everything acknowledged is there, under its number and no other's; no number is missing; and no payment
    /// was made by halves. `None`, or what is wrong.
    pub fn judge(&self, acks: &[Ack], partitions: usize) -> Option<String> {
        if self.total.is_none_or(|(sum, expected)| sum != expected) {
            return Some(format!(
                "the accounts hold {:?}, first what they do and then what they should",
                self.total
            ));
        }
        if self.counters.len() != partitions {
            return Some(format!("counters of {} of {partitions} partitions", self.counters.len()));
        }
        let lost = acks.iter().find(|ack| self.found(std::slice::from_ref(ack)) == 0);
        if let Some(Ack { partition, number, id, .. }) = lost {
            let held = self.receipts.get(&(*partition, *number));
            let missing = acks.len() - self.found(acks);
            return Some(format!(
                "{missing} of {} acknowledged are lost; the first is payment {id}, number {number} of partition \
                 {partition}, where {held:?} is",
                acks.len()
            ));
        }
        let hole = |(partition, counter): (&u64, &u64)| {
            let number = (1..=*counter).find(|number| !self.receipts.contains_key(&(*partition, *number)))?;
            Some(format!("number {number} of partition {partition} has no receipt, of {counter}"))
        };
        self.counters.iter().find_map(hole)
    }
}

fn numbers(line: &str) -> Vec<u64> {
    line.split(' ').filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: &[&str]) -> Shown {
        let mut shown = Shown::default();
        lines.iter().for_each(|line| shown.on_line(line));
        shown
    }

    /// The look at what is left is all that stands between a loss and a page that says all is well.
    #[test]
    fn each_kind_of_loss_is_told() {
        let acks = ["0 1 11 500", "0 2 22 501", "1 1 33 502"].map(|line| Ack::read(line).unwrap());
        let sound = [
            "first",
            "total 60 of 60",
            "receipt 0 1 11",
            "receipt 0 2 22",
            "counter 0 2",
            "acked 0 50",
            "receipt 1 1 33",
            "counter 1 1",
        ];
        assert_eq!(shown(&sound).judge(&acks, 2), None);
        assert_eq!(shown(&sound).found(&acks), 3);
        for (at, instead, complaint) in [
            (1, "total 59 of 60", "the accounts hold Some((59, 60))"),
            (1, "", "the accounts hold None"),
            (
                3,
                "",
                "1 of 3 acknowledged are lost; the first is payment 22, number 2 of partition 0, where None is",
            ),
            (3, "receipt 0 2 23", "1 of 3 acknowledged are lost"),
            (4, "counter 0 3", "number 3 of partition 0 has no receipt, of 3"),
            (7, "", "counters of 1 of 2 partitions"),
        ] {
            let mut lines = sound;
            lines[at] = instead;
            let why = shown(&lines).judge(&acks, 2).unwrap_or_default();
            assert!(why.starts_with(complaint), "{instead}: {why}");
        }
        assert!(Ack::read("0 1 11").is_err());
    }
}
