//! One checkpoint being received for a partition here that is too far behind: asked for piece by piece, at a
//! bounded rate, checked and loaded as it comes, and written to this replica's own disk.
//!
//! A pure state machine: its host asks it what to do next ([`Receiving::poll`]) and hands it what comes.
//!
//! Invariants:
//!   1. One piece is outstanding, and pieces are taken in order: a repeated answer changes nothing.
//!   2. What is committed was read from end to end and is sound.
//!   3. When the peer's checkpoint is another than the one begun, everything begins again.
#![forbid(unsafe_code)]

use super::loading::{Loaded, Loading, cluster_of};
use crate::bounds::{
    CHECKPOINT_ASK_AGAIN_NS, CHECKPOINT_BYTES_PER_SECOND, CHECKPOINT_PATIENCE_NS,
    CHECKPOINT_PIECE_TIMEOUT_NS, CHECKPOINT_READ_BYTES_MAX, CHECKPOINT_WAIT_NS, SECOND,
};
use crate::config::Config;
use crate::partition::ports::{Checkpoints, Origin};
use crate::txn::too_far_ahead;
use crate::types::{NodeId, PartitionId, Slot, Timestamp};
use crate::wal::checkpoint::{CheckpointReader, Piece};

pub(super) struct Receiving {
    /// Which of the core's replicas.
    pub at: usize,
    pub partition: PartitionId,
    pub peer: NodeId,
    /// One that begins below is of no use.
    floor: Slot,
    stage: Stage,
    /// Which one it is; 0 before the first piece.
    checkpoint: u32,
    offset: u64,
    reader: CheckpointReader,
    loading: Option<Loading>,
    cluster: u64,
    /// When there is something to do next.
    due: Timestamp,
    progress_at: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The disk has not begun one yet.
    Beginning,
    /// A piece may be asked for when it is due.
    Ready,
    /// A piece was asked for.
    Asked,
    /// All of it is here.
    Whole,
    Committing,
}

/// What to do next.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Next {
    Nothing,
    Ask {
        checkpoint: u32,
        offset: u64,
    },
    /// To be committed, when nothing else of the partition is.
    Commit,
    GiveUp,
}

/// A piece, as it came.
pub(super) struct Part<'a> {
    pub checkpoint: u32,
    pub offset: u64,
    pub total: u64,
    pub bytes: &'a [u8],
}

impl Receiving {
    pub fn new(
        config: &Config,
        at: usize,
        partition: PartitionId,
        (floor, peer): (Slot, NodeId),
        now: Timestamp,
    ) -> Receiving {
        let cluster = cluster_of(config);
        Receiving {
            at,
            partition,
            peer,
            floor,
            stage: Stage::Beginning,
            checkpoint: 0,
            offset: 0,
            reader: CheckpointReader::new(cluster, partition),
            loading: None,
            cluster,
            due: now,
            progress_at: now,
        }
    }

    pub fn deadline(&self) -> Timestamp {
        self.due
    }

    /// Where its stream goes on, once that is known.
    pub fn slot(&self) -> Option<Slot> {
        self.loading.as_ref().map(Loading::slot)
    }

    pub fn is_committing(&self) -> bool {
        self.stage == Stage::Committing
    }

    pub fn poll(&mut self, now: Timestamp, port: &mut dyn Checkpoints) -> Next {
        if self.is_committing() || now < self.due {
            return Next::Nothing;
        }
        if now.since(self.progress_at) >= CHECKPOINT_PATIENCE_NS {
            return Next::GiveUp;
        }
        if self.stage == Stage::Whole {
            self.due = now.plus_ns(CHECKPOINT_WAIT_NS);
            return Next::Commit;
        }
        if self.stage == Stage::Beginning && port.begin(Origin::Peer, self.partition) {
            self.stage = Stage::Ready;
        }
        if self.stage == Stage::Beginning || port.room(Origin::Peer) < CHECKPOINT_READ_BYTES_MAX {
            self.due = now.plus_ns(CHECKPOINT_WAIT_NS);
            return Next::Nothing;
        }
        self.stage = Stage::Asked;
        self.due = now.plus_ns(CHECKPOINT_PIECE_TIMEOUT_NS);
        Next::Ask { checkpoint: self.checkpoint, offset: self.offset }
    }

    /// The peer has none yet.
    pub fn on_pending(&mut self, now: Timestamp) {
        if self.stage == Stage::Asked {
            self.stage = Stage::Ready;
            self.due = now.plus_ns(CHECKPOINT_ASK_AGAIN_NS);
        }
    }

    /// The next piece. `false` when nothing can come of it.
    pub fn on_part(
        &mut self,
        now: Timestamp,
        config: &Config,
        part: &Part<'_>,
        port: &mut dyn Checkpoints,
    ) -> bool {
        if self.stage != Stage::Asked {
            return true;
        }
        if self.checkpoint != 0 && part.checkpoint != self.checkpoint {
            self.begin_again(now, port);
            return true;
        }
        let asked = part.offset == self.offset && part.bytes.len() <= CHECKPOINT_READ_BYTES_MAX;
        let end = part.offset.saturating_add(part.bytes.len() as u64);
        if !asked || part.bytes.is_empty() || end > part.total {
            return true;
        }
        // It was looked at before the piece was asked for, and nobody else writes there.
        if port.room(Origin::Peer) < part.bytes.len() || !self.read(config, part.bytes) {
            return false;
        }
        port.write(Origin::Peer, part.bytes);
        self.checkpoint = part.checkpoint;
        self.offset = end;
        self.progress_at = now;
        // The next one leaves when this one has had its time on the link.
        self.due = now.plus_ns(part.bytes.len() as u64 * SECOND / CHECKPOINT_BYTES_PER_SECOND);
        self.stage = Stage::Ready;
        if self.offset == part.total {
            let sound = self.reader.is_complete() && self.loading.is_some();
            self.stage = Stage::Whole;
            return sound
                && self.loading.as_ref().is_some_and(|loading| !too_far_ahead(now, loading.highest()));
        }
        true
    }

    pub fn commit(&mut self, port: &mut dyn Checkpoints) {
        assert!(self.stage == Stage::Whole, "commits a checkpoint when {:?}", self.stage);
        port.commit(Origin::Peer);
        self.stage = Stage::Committing;
    }

    /// It was committed.
    pub fn finish(self) -> Option<Loaded> {
        self.loading.map(Loading::finish)
    }

    /// Leaves the disk as it was.
    pub fn abandon(&self, port: &mut dyn Checkpoints) {
        if self.stage != Stage::Beginning {
            port.abandon(Origin::Peer);
        }
    }

    fn begin_again(&mut self, now: Timestamp, port: &mut dyn Checkpoints) {
        self.abandon(port);
        self.stage = Stage::Beginning;
        (self.checkpoint, self.offset, self.loading) = (0, 0, None);
        self.reader = CheckpointReader::new(self.cluster, self.partition);
        self.due = now;
    }

    /// `false` for what is not sound, or of no use.
    fn read(&mut self, config: &Config, bytes: &[u8]) -> bool {
        let Receiving { reader, loading, floor, .. } = self;
        let mut useful = true;
        let fed = reader.feed(bytes, &mut |piece| match piece {
            Piece::Header(header) => {
                *loading = Loading::new(config, header).filter(|_| header.slot >= *floor);
                useful = loading.is_some();
            }
            Piece::Row(row) => {
                if let Some(loading) = loading {
                    loading.on_row(&row);
                }
            }
        });
        useful && fed.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Durability;
    use crate::partition::stage::{NOW, PaperCheckpoints, T, config};
    use crate::types::Watermark;
    use crate::wal::checkpoint::{CheckpointBuilder, CheckpointHeader, CheckpointRow};
    use crate::watermark::{Knowledge, Runs};
    use std::rc::Rc;

    const PARTITION: PartitionId = PartitionId(0);
    const PEER: NodeId = NodeId(1);
    const FLOOR: Slot = Slot(50);
    const PIECE: usize = 1_000;

    struct Transfer {
        config: Rc<Config>,
        receiving: Receiving,
        port: PaperCheckpoints,
        now: Timestamp,
        /// Pieces asked for.
        asked: usize,
    }

    impl Transfer {
        fn new() -> Transfer {
            let config = config(1, 3, Durability::Memory);
            let receiving = Receiving::new(&config, 0, PARTITION, (FLOOR, PEER), NOW);
            Transfer { config, receiving, port: PaperCheckpoints::default(), now: NOW, asked: 0 }
        }

        fn poll(&mut self) -> Next {
            self.receiving.poll(self.now, &mut self.port)
        }

        /// Lets time pass until something is to be done.
        fn next(&mut self) -> Next {
            self.now = self.now.max(self.receiving.deadline());
            self.poll()
        }

        fn on_part(&mut self, checkpoint: u32, offset: usize, whole: &[u8]) -> bool {
            let bytes = &whole[offset..whole.len().min(offset + PIECE)];
            let part = Part { checkpoint, offset: offset as u64, total: whole.len() as u64, bytes };
            self.receiving.on_part(self.now, &self.config, &part, &mut self.port)
        }

        /// A peer that answers everything from these bytes; how it ends.
        fn serve(&mut self, checkpoint: u32, whole: &[u8]) -> Next {
            loop {
                match self.next() {
                    Next::Ask { offset, .. } => {
                        self.asked += 1;
                        if !self.on_part(checkpoint, offset as usize, whole) {
                            return Next::GiveUp;
                        }
                    }
                    Next::Nothing => {}
                    end => return end,
                }
            }
        }
    }

    /// A checkpoint with so many rows, whose stream goes on at `slot`.
    fn whole(slot: u64, rows: u16) -> Vec<u8> {
        let config = config(1, 3, Durability::Memory);
        let applied = Watermark { timestamp: NOW, ..Watermark::default() };
        let place = super::super::Place { slot: Slot(slot), runs: Runs::default(), applied };
        let known = Knowledge::new(1);
        let header: CheckpointHeader =
            super::super::loading::header(&config, PARTITION, &place, &known, NOW).unwrap();
        let mut builder = CheckpointBuilder::new(&header);
        for row in 0..rows {
            let (key, value) = (&row.to_be_bytes()[..], Some(&[7; 50][..]));
            builder.push_row(&CheckpointRow { table: T, key, timestamp: NOW, value });
            assert!(builder.take_chunk().is_none());
        }
        builder.finish()
    }

    #[test]
    fn pieces_are_asked_for_in_order_until_the_whole_is_there() {
        let (mut transfer, whole) = (Transfer::new(), whole(60, 100));
        assert_eq!(transfer.poll(), Next::Ask { checkpoint: 0, offset: 0 });
        assert_eq!(transfer.poll(), Next::Nothing, "one is outstanding");
        assert!(transfer.on_part(9, 0, &whole));
        // The same again, late, and one from the middle of nowhere.
        assert!(transfer.on_part(9, 0, &whole) && transfer.on_part(9, 3 * PIECE, &whole));
        let began = transfer.now;
        assert_eq!(transfer.next(), Next::Ask { checkpoint: 9, offset: PIECE as u64 });
        let rate = PIECE as u64 * SECOND / transfer.now.since(began);
        assert!(rate <= CHECKPOINT_BYTES_PER_SECOND + CHECKPOINT_BYTES_PER_SECOND / 100, "{rate} B/s");
        assert!(transfer.on_part(9, PIECE, &whole));
        assert_eq!(transfer.serve(9, &whole), Next::Commit);
        transfer.receiving.commit(&mut transfer.port);
        assert_eq!(transfer.port.committed[&PARTITION], whole);
        let loaded = transfer.receiving.finish().unwrap();
        assert_eq!((loaded.header.slot, loaded.store.tables()[0].len()), (Slot(60), 100));
    }

    /// Parts of two do not fit together, and the peer has only the newer one any more.
    #[test]
    fn another_checkpoint_at_the_peer_begins_the_transfer_again() {
        let (mut transfer, first, second) = (Transfer::new(), whole(60, 100), whole(70, 90));
        for at in 0..3 {
            assert!(matches!(transfer.next(), Next::Ask { .. }));
            assert!(transfer.on_part(9, at * PIECE, &first));
        }
        assert!(matches!(transfer.next(), Next::Ask { checkpoint: 9, .. }));
        assert!(transfer.on_part(8, 3 * PIECE, &second));
        assert_eq!(transfer.next(), Next::Ask { checkpoint: 0, offset: 0 });
        assert!(transfer.on_part(8, 0, &second));
        assert_eq!(transfer.serve(8, &second), Next::Commit);
        transfer.receiving.commit(&mut transfer.port);
        assert_eq!(transfer.port.committed[&PARTITION], second);
    }

    /// What is not sound, or begins below what the peers still keep, must not take the place of anything.
    #[test]
    fn what_is_damaged_short_or_too_old_is_given_up() {
        let good = whole(60, 100);
        for at in (0..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(Transfer::new().serve(9, &bad), Next::GiveUp, "byte {at}");
        }
        assert_eq!(Transfer::new().serve(9, &good[..good.len() - 1]), Next::GiveUp);
        assert_eq!(Transfer::new().serve(9, &whole(FLOOR.0 - 1, 100)), Next::GiveUp);
        assert_eq!(Transfer::new().serve(9, &whole(FLOOR.0, 100)), Next::Commit);
    }

    /// A peer that dies in the middle must not be waited for while others have what is needed.
    #[test]
    fn what_is_not_answered_is_asked_again_and_given_up_in_the_end() {
        let (mut transfer, whole) = (Transfer::new(), whole(60, 100));
        assert!(matches!(transfer.next(), Next::Ask { .. }));
        transfer.receiving.on_pending(transfer.now);
        let before = transfer.now;
        assert_eq!(transfer.next(), Next::Ask { checkpoint: 0, offset: 0 });
        assert_eq!(transfer.now.since(before), CHECKPOINT_ASK_AGAIN_NS);
        assert!(transfer.on_part(9, 0, &whole));
        let before = transfer.now;
        let mut asked = 0;
        while transfer.next() != Next::GiveUp {
            asked += 1;
        }
        assert!(asked >= 10 && transfer.now.since(before) >= CHECKPOINT_PATIENCE_NS, "asked {asked} times");
    }
}
