//! What a core knows of every shard, as transactions ask for it.
#![forbid(unsafe_code)]

use crate::txn::{Known, Standings};
use crate::types::{Epoch, ShardId, Stamp, Standing, Timestamp};
use crate::watermark::Knowledge;

impl Standings for Knowledge {
    #[inline]
    fn standing(&self, stamp: Stamp, timestamp: Timestamp) -> Standing {
        Knowledge::standing(self, stamp, timestamp)
    }
}

impl Known for Knowledge {
    fn is_closed(&self, stamp: Stamp) -> bool {
        self.closed().get(stamp).is_some()
    }

    fn epoch(&self, shard: ShardId) -> Epoch {
        self.vector().get(shard).epoch
    }
}
