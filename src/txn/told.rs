//! What a test tells a partition of the other shards: watermarks, and how reigns ended.
#![forbid(unsafe_code)]

use super::participant::Known;
use super::window::Standings;
use crate::types::{Epoch, ShardId, Stamp, Standing, Timestamp, Watermark};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Told {
    marks: BTreeMap<ShardId, Watermark>,
    ends: BTreeMap<Stamp, Timestamp>,
}

impl Told {
    pub fn mark(&mut self, stamp: Stamp, timestamp: u64) {
        let mark = Watermark { epoch: stamp.epoch, timestamp: Timestamp(timestamp) };
        self.marks.insert(stamp.shard, mark);
    }

    /// A reign is over, and this is its final watermark.
    pub fn closed(&mut self, stamp: Stamp, end: u64) {
        self.ends.insert(stamp, Timestamp(end));
    }
}

impl Standings for Told {
    fn standing(&self, stamp: Stamp, timestamp: Timestamp) -> Standing {
        let mark = self.marks.get(&stamp.shard).copied().unwrap_or_default();
        match self.ends.get(&stamp) {
            Some(end) if timestamp <= *end => Standing::Stable,
            Some(_) => Standing::Lost,
            None if mark.epoch == stamp.epoch && timestamp <= mark.timestamp => Standing::Stable,
            None => Standing::Unknown,
        }
    }
}

impl Known for Told {
    fn is_closed(&self, stamp: Stamp) -> bool {
        self.ends.contains_key(&stamp)
    }

    fn epoch(&self, shard: ShardId) -> Epoch {
        self.marks.get(&shard).copied().unwrap_or_default().epoch
    }
}
