//! Every limit of the system, with its unit, its reason, and the asserts that relate them.
//!
//! A limit that an operator may set has its default here; a limit that is law has only this line.
#![forbid(unsafe_code)]

/// One microsecond, one millisecond, one second: in nanoseconds, the unit of every duration here.
pub const US: u64 = 1_000;
pub const MS: u64 = 1_000 * US;
pub const SECOND: u64 = 1_000 * MS;

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

// ---- Keys, values, transactions -------------------------------------------------------------
/// Longest key, in bytes (DESIGN §9).
pub const KEY_BYTES_MAX: usize = 1_024;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = MIB;
/// Writes of one transaction. TPC-C's delivery writes about 160, its loader 500.
pub const TXN_WRITES_MAX: usize = 4_096;
/// Reads a distributed transaction may validate.
pub const TXN_READS_MAX: usize = 16_384;
/// Scans a distributed transaction may validate.
pub const TXN_SCANS_MAX: usize = 256;
/// Keys and values written by one transaction: four of the largest values and their keys.
pub const TXN_BYTES_MAX: usize = 4 * MIB + 64 * KIB;
/// Rows one scan returns.
pub const SCAN_ROWS_MAX: usize = 10_000;
/// Bytes of rows one scan returns.
pub const SCAN_BYTES_MAX: usize = 4 * MIB;

// ---- The cluster ----------------------------------------------------------------------------
pub const NODES_MAX: usize = 256;
pub const SHARDS_MAX: usize = 64;
pub const REPLICAS_MAX: usize = 7;
pub const PARTITIONS_MAX: usize = 1_024;
pub const CORES_MAX: usize = 64;
pub const TABLES_MAX: usize = 256;
/// Routing keys fall into this many slots, which are dealt to partitions in turn.
pub const ROUTING_SLOTS: u16 = 16_384;
/// Facts about closed epochs a node keeps.
pub const CLOSED_EPOCHS_MAX: usize = 4_096;

// ---- Messages -------------------------------------------------------------------------------
/// Longest message: the largest batch or scan and its header.
pub const MESSAGE_BYTES_MAX: usize = 8 * MIB;
/// Payload of one UDP datagram on a 1,500-byte Ethernet (IPv4, no options).
pub const FRAME_BYTES: usize = 1_472;
/// Frames taken from the NIC in one turn.
pub const RX_BURST: usize = 128;
/// Frames given to the NIC in one turn.
pub const TX_BURST: usize = 256;

// ---- Transactions in flight -----------------------------------------------------------------
/// Unstable transactions a partition holds (entries, bytes of writes, and lag are all bounded).
pub const WINDOW_ENTRIES_MAX: usize = 65_536;
pub const WINDOW_BYTES_MAX: usize = 256 * MIB;
/// How far the oldest unstable transaction may lag behind the clock before new ones get `Busy`.
pub const MAX_SPECULATION_NS: u64 = 10 * SECOND;
/// Distributed transactions a home partition coordinates at once.
pub const COORDINATED_MAX: usize = 8_192;
/// Transactions a participant keeps prepared at once.
pub const PREPARED_MAX: usize = 8_192;
/// Transactions and reads parked behind a lock, per partition.
pub const PARKED_MAX: usize = 16_384;
/// How long anything stays parked behind a lock before it is answered `Conflict`.
pub const PARK_NS_MAX: u64 = 2 * SECOND;
/// Attempts of one transaction before it is answered `Conflict`.
pub const ATTEMPTS_MAX: u32 = 64;
/// First backoff after a conflict, doubled up to the second, jittered.
pub const BACKOFF_NS_MIN: u64 = 20 * US;
pub const BACKOFF_NS_MAX: u64 = 10 * MS;
/// A prepared transaction undecided for this long asks its coordinator.
pub const PREPARE_TIMEOUT_NS: u64 = SECOND;
/// The most a participant adds to its clock for the time a decision takes to come back.
pub const HOLD_NS_MAX: u64 = 200 * MS;
/// A partition's clock follows what was decided or is asked of it this far ahead of physical time: about the
/// skew of well-kept clocks, which nobody is to wait for. What stands further ahead stands there alone.
pub const CLOCK_LEAD_NS: u64 = MS;
/// Committed reads that stand ahead of the clock, and scanned ranges, remembered in each of two generations.
pub const AHEAD_READS_MAX: usize = 65_536;
pub const AHEAD_RANGES_MAX: usize = 256;
/// A message further ahead of the local clock than this is refused and counted.
pub const MAX_CLOCK_SKEW_NS: u64 = 500 * MS;

// ---- Versions -------------------------------------------------------------------------------
/// Versions are kept this long below the snapshot timestamp, for snapshots already under way:
/// twice the longest one-way delay we expect between datacenters, and room for a queue.
pub const SNAPSHOT_KEEP_NS: u64 = 100 * MS;
/// Versions of one key before those in between are pruned.
pub const CHAIN_VERSIONS_MAX: usize = 65_536;
/// A snapshot read waits this long for its timestamp to be applied here.
pub const SNAPSHOT_WAIT_NS_MAX: u64 = 5 * SECOND;

// ---- Streams --------------------------------------------------------------------------------
/// A batch is proposed when it holds this much, or is this old, or nothing is in flight.
pub const BATCH_BYTES: usize = 64 * KIB;
pub const BATCH_DELAY_NS: u64 = MS;
/// Largest batch: one that the largest transaction, with its framing, has just overfilled.
pub const BATCH_BYTES_MAX: usize = BATCH_BYTES + TXN_BYTES_MAX + 512 * KIB;
/// Slots in flight per stream. 4,096 slots of 1 ms cover four seconds of round trip.
pub const PIPELINE_SLOTS: usize = 4_096;
/// Slots a replica keeps in memory for peers that lag, and the bytes they may take.
pub const RETAINED_SLOTS_MAX: usize = 65_536;
pub const RETAINED_BYTES_MAX: usize = 512 * MIB;
/// Slots one catch-up reply carries, and its bytes.
pub const FETCH_SLOTS_MAX: usize = 64;
pub const FETCH_BYTES_MAX: usize = MIB;
/// Slots that a replica far behind fetches for each that its busy leader chooses meanwhile.
pub const CATCH_UP_SHARE: u64 = 2;
/// But so many that it takes no longer than this.
pub const CATCH_UP_SECONDS_MAX: u64 = 60;
/// So long a node that comes back leaves the CPU to others. Where they fill every CPU it would not be back for minutes if
/// it went on like that, and nobody's replica may be missing for so long.
pub const BACKGROUND_NS_MAX: u64 = 5 * SECOND;
/// A replica that has applied all but this much has caught up: it lags so far behind a busy leader that is far away.
pub const CAUGHT_UP_NS: u64 = 500 * MS;
/// A leader that chooses fewer per second is not held up by a replica that fetches as fast as it can: twice what no-ops
/// alone come to.
pub const CATCH_UP_SLOTS_IDLE: u64 = 2 * SECOND / HEARTBEAT_INTERVAL_NS;
pub const CATCH_UP_WINDOW_NS: u64 = 100 * MS;
/// An idle stream proposes a no-op, and a leader makes itself heard, this often.
pub const HEARTBEAT_INTERVAL_NS: u64 = 100 * MS;
/// A candidate without promises, a leader without votes and a follower with a gap ask again this
/// often: well above any round trip, because sessions repeat what is lost and this only covers what they gave up.
pub const RESEND_INTERVAL_NS: u64 = 500 * MS;
/// Who does not know its peers yet greets them this often.
pub const GREET_INTERVAL_NS: u64 = 100 * MS;
/// The vector watermark is exchanged this often while anything waits for it.
pub const EXCHANGE_INTERVAL_NS: u64 = 200 * US;
/// … and this often when nothing does.
pub const EXCHANGE_IDLE_NS: u64 = 200 * MS;

const _: () = assert!(BATCH_BYTES_MAX + FETCH_BYTES_MAX + 64 * KIB <= MESSAGE_BYTES_MAX);
const _: () = assert!(SCAN_BYTES_MAX + VALUE_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(BACKOFF_NS_MIN < BACKOFF_NS_MAX);
const _: () = assert!(CLOCK_LEAD_NS < HOLD_NS_MAX && HOLD_NS_MAX < MAX_CLOCK_SKEW_NS);
const _: () = assert!(TXN_READS_MAX <= AHEAD_READS_MAX && TXN_SCANS_MAX <= AHEAD_RANGES_MAX);
const _: () = assert!(EXCHANGE_INTERVAL_NS < EXCHANGE_IDLE_NS);

// ---- Wire -----------------------------------------------------------------------------------
/// Longest end of a range: the first position behind the longest key is that key and a zero byte.
pub const RANGE_BOUND_BYTES_MAX: usize = KEY_BYTES_MAX + 1;
/// Reigns one transaction rests on: of each shard the one that is open and the one not yet known closed.
pub const DEPS_MAX: usize = 2 * SHARDS_MAX;
/// Keys of the reads that one prepare validates, in bytes. The largest prepare must fit a message
/// (asserted in `wire`), and 16,384 of the longest keys would not.
pub const PREPARE_READ_BYTES_MAX: usize = 2 * MIB;

// ---- Configuration --------------------------------------------------------------------------
/// Followers wait this long for a leader's heartbeat: ten heartbeats, and two cross-ocean round trips to spare.
pub const ELECTION_TIMEOUT_NS: u64 = SECOND;
pub const ELECTION_TIMEOUT_NS_MIN: u64 = 10 * MS;
pub const ELECTION_TIMEOUT_NS_MAX: u64 = 60 * SECOND;
/// Ranges an operator may set the tunables to; the defaults stand with the subsystems above.
pub const HEARTBEAT_INTERVAL_NS_MIN: u64 = MS;
pub const HEARTBEAT_INTERVAL_NS_MAX: u64 = 10 * SECOND;
pub const EXCHANGE_INTERVAL_NS_MIN: u64 = 10 * US;
pub const BATCH_DELAY_NS_MAX: u64 = SECOND;
pub const MAX_SPECULATION_NS_MIN: u64 = MS;
pub const MAX_SPECULATION_NS_MAX: u64 = 60 * SECOND;
/// An idle adaptive core polls this long before it sleeps: about what waking from a sleep costs, so that
/// spinning never costs more than twice the better choice.
pub const SPIN_NS: u64 = 50 * US;
pub const SPIN_NS_MAX: u64 = SECOND;
/// A core that shares its CPU pauses between turns for this part of the round trip to its nearest peer:
/// both ways together cost a thirty-second of it, and what comes meanwhile costs one turn instead of many.
pub const PAUSE_SHARE: u64 = 64;
/// A shorter pause saves no turn worth the call that makes it.
pub const PAUSE_NS_MIN: u64 = 20 * US;
/// Longer ones gain little: by then a turn has a burst to work on.
pub const PAUSE_NS_MAX: u64 = 500 * US;
/// Longest emulated one-way delay; a round trip stays under half of the default `max_speculation`.
pub const LINK_DELAY_NS_MAX: u64 = 2 * SECOND;
/// Longest name of a cluster, node, zone or table: they become metric labels and directories.
pub const NAME_BYTES_MAX: usize = 64;
/// CPUs are numbered below this: the width of the kernel's affinity mask.
pub const CPUS_MAX: usize = 1_024;
/// Longest leading integer a table may be routed by.
pub const ROUTING_INT_BYTES_MAX: usize = 8;
/// Largest cluster file that is read: ten times that of the largest cluster.
pub const CLUSTER_FILE_BYTES_MAX: usize = MIB;
/// Largest file of keys that is read: two lines, and room for a long comment.
pub const KEY_FILE_BYTES_MAX: usize = 64 * KIB;

const _: () = assert!(PAUSE_NS_MIN < PAUSE_NS_MAX && PAUSE_NS_MAX < HEARTBEAT_INTERVAL_NS_MIN);
const _: () = assert!(2 * HEARTBEAT_INTERVAL_NS < ELECTION_TIMEOUT_NS);
const _: () = assert!(ELECTION_TIMEOUT_NS_MIN <= ELECTION_TIMEOUT_NS);
const _: () = assert!(ELECTION_TIMEOUT_NS <= ELECTION_TIMEOUT_NS_MAX);
const _: () = assert!(HEARTBEAT_INTERVAL_NS_MIN <= HEARTBEAT_INTERVAL_NS);
const _: () = assert!(HEARTBEAT_INTERVAL_NS <= HEARTBEAT_INTERVAL_NS_MAX);
const _: () = assert!(EXCHANGE_INTERVAL_NS_MIN <= EXCHANGE_INTERVAL_NS);
const _: () = assert!(BATCH_DELAY_NS <= BATCH_DELAY_NS_MAX);
const _: () = assert!(MAX_SPECULATION_NS_MIN <= MAX_SPECULATION_NS);
const _: () = assert!(MAX_SPECULATION_NS <= MAX_SPECULATION_NS_MAX);
const _: () = assert!(SPIN_NS <= SPIN_NS_MAX);
const _: () = assert!(4 * LINK_DELAY_NS_MAX < MAX_SPECULATION_NS);
const _: () = assert!(PARTITIONS_MAX <= ROUTING_SLOTS as usize);

// ---- Sessions (rpc) -------------------------------------------------------------------------
/// Sessions of one core: one with every core of 320 nodes. That is more than a cluster may have; the transport is
/// held to it by its tests.
pub const SESSIONS_MAX: usize = 20_480;
/// What a session at rest takes, in the open and sealed, beside 8 bytes for each request slot that its peer ever used.
/// So 20,000 of them take less than 24 or 31 MB.
pub const SESSION_BYTES_AT_REST: usize = 1_152;
pub const SESSION_BYTES_AT_REST_SEALED: usize = 1_536;
/// A session that has nothing to do for so long gives its queues back.
pub const REST_NS: u64 = SECOND;
/// Calls a session has under way at once; more wait in its backlog.
pub const REQUEST_SLOTS: usize = 256;
/// Calls that wait for a request slot, per session, and their bytes; then callers get `Busy`.
pub const BACKLOG_CALLS_MAX: usize = 65_536;
pub const BACKLOG_BYTES_MAX: usize = 64 * MIB;
/// Bytes of messages one side of a session has begun to send and not seen acknowledged. The other
/// side grants itself the same for messages it holds in part, so an honest sender is never refused.
pub const IN_TRANSIT_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;
/// Payload of every packet of a message but the last. A frame of 1,472 bytes leaves room beside it
/// for the frame's header, an acknowledgement and an authentication tag.
pub const CHUNK_BYTES: usize = 1_344;
/// Longest cast: one that shares its frame with the header and a tag only.
pub const CAST_BYTES_MAX: usize = 1_392;
/// Casts of one session that wait for a frame, and casts received that wait for the caller.
pub const CASTS_QUEUED_MAX: usize = 256;
pub const CASTS_RECEIVED_MAX: usize = 4_096;
/// Frames of a session sent and not acknowledged. The first value fits the socket buffer an
/// unprivileged process gets (about 180 full frames); 1,024 move 29 MB/s at a round trip of 50 ms.
pub const WINDOW_FRAMES_MIN: u32 = 128;
pub const WINDOW_FRAMES_INITIAL: u32 = 256;
pub const WINDOW_FRAMES_MAX: u32 = 1_024;
/// Frames to one peer before it is another's turn: as many as a full datagram of the kernel holds (GSO), and few
/// enough that each of several peers has its part of a burst.
pub const FRAMES_IN_ROW: u32 = 44;
/// Keys derived within a millisecond for frames of lives that are not known: about a tenth of a core's time, and all
/// sessions of a large cluster within a second.
pub const HELLOS_PER_MS: u32 = 64;
/// A queue on the way of a session. A longer one than the least, of the frames of three round trips, slows it; from
/// there on it is kept between the two. The turns of a busy core at either end come to about a millisecond. Where the
/// least round trip is longer than the second, neither is looked at.
pub const QUEUE_NS_LOW: u64 = 2 * MS;
pub const QUEUE_NS_HIGH: u64 = 10 * MS;
/// At which rate a session that was slowed sends, in bytes a second: at least a frame in 10 ms or so, and no faster
/// than a core manages anyway.
pub const RATE_BYTES_MIN: u64 = 128 * KIB as u64;
pub const RATE_BYTES_MAX: u64 = 1 << 30;
/// What may leave at once is what is due within so long: a core need not wake more often, and it makes no queue.
pub const PACE_BURST_NS: u64 = 500 * US;
/// Rates are set anew after a round trip, but no more often: a round should have some frames in it.
pub const ROUND_NS_MIN: u64 = MS;
/// Frame numbers a session remembers, sent (acknowledged out of order) and received (duplicates).
pub const FRAMES_REMEMBERED: usize = 2_048;
/// How far, in packets, a message may run ahead of what has arrived of it. It limits the memory one
/// forged packet can claim.
pub const AHEAD_PACKETS_MAX: usize = FRAMES_REMEMBERED;
/// An acknowledgement waits this long for a frame to ride in, or for so many frames to acknowledge.
pub const ACK_DELAY_NS: u64 = MS;
pub const ACK_FRAMES: u32 = 8;
/// Retransmission timeout: least (a peer whose CPU is taken from it for a few milliseconds is not a loss), before the first measurement, and the most backoff makes of it.
/// Before measurement it must exceed the round trip of a usual WAN link (2 × 25 ms), or each first
/// request crosses it twice.
pub const RTO_NS_MIN: u64 = 20 * MS;
pub const RTO_NS_INITIAL: u64 = 100 * MS;
pub const RTO_NS_MAX: u64 = 500 * MS;
/// A caller that has heard nothing of its peer for this long asks whether it lives.
pub const PING_INTERVAL_NS: u64 = 500 * MS;
/// First wait for the answer of a peer never heard of, doubled up to `PING_INTERVAL_NS`.
pub const HELLO_INTERVAL_NS_MIN: u64 = 20 * MS;
/// Calls fail when their peer has given no sign of life for this long.
pub const CALL_TIMEOUT_NS: u64 = 10 * SECOND;
/// Message buffers kept for reuse: small ones by number, larger ones by their bytes.
pub const BUFFER_BYTES_SMALL: usize = 2 * KIB;
pub const BUFFERS_SMALL_MAX: usize = 16_384;
pub const BUFFERS_LARGE_BYTES_MAX: usize = 32 * MIB;

const _: () = assert!(MESSAGE_BYTES_MAX.div_ceil(CHUNK_BYTES) <= u16::MAX as usize);
const _: () = assert!(REQUEST_SLOTS <= u16::MAX as usize);
const _: () = assert!(NODES_MAX * CORES_MAX <= SESSIONS_MAX && SESSIONS_MAX < u16::MAX as usize);
const _: () = assert!(MESSAGE_BYTES_MAX <= BACKLOG_BYTES_MAX);
const _: () = assert!(BUFFER_BYTES_SMALL >= CAST_BYTES_MAX && BUFFER_BYTES_SMALL >= CHUNK_BYTES);
// A burst is acknowledged in one go: every frame of it must still be remembered.
const _: () = assert!(RX_BURST <= FRAMES_REMEMBERED && FRAMES_REMEMBERED.is_multiple_of(64));
const _: () = assert!(WINDOW_FRAMES_MAX as usize * 2 <= FRAMES_REMEMBERED);
const _: () = assert!(FRAMES_IN_ROW as usize * 4 <= TX_BURST);
const _: () = assert!(ACK_FRAMES < WINDOW_FRAMES_MIN && WINDOW_FRAMES_MIN <= WINDOW_FRAMES_INITIAL);
const _: () = assert!(2 * ACK_DELAY_NS <= RTO_NS_MIN && RTO_NS_MIN < RTO_NS_INITIAL);
const _: () =
    assert!(PACE_BURST_NS < QUEUE_NS_LOW && QUEUE_NS_LOW < QUEUE_NS_HIGH && QUEUE_NS_HIGH < RTO_NS_MIN);
const _: () = assert!(RTO_NS_MAX * 4 <= CALL_TIMEOUT_NS && PING_INTERVAL_NS * 4 <= CALL_TIMEOUT_NS);

// ---- NIC ------------------------------------------------------------------------------------
/// Asked of the kernel for each direction of a socket; an unprivileged process gets what it may.
pub const SOCKET_BUFFER_BYTES: usize = 8 * MIB;
/// Frames on their way over emulated links; a frame more is lost, as in a router.
pub const WAN_FRAMES_MAX: usize = 65_536;

// ---- Wal and disk ---------------------------------------------------------------------------
/// Every write to the log is a multiple of this and begins at one: what O_DIRECT asks of us.
pub const WAL_BLOCK_BYTES: usize = 4 * KIB;
/// One preallocated file of the log, at most. Filling it with zeros ahead of use takes a quarter of a second.
pub const WAL_SEGMENT_BYTES: usize = 64 * MIB;
/// And at least: the largest record takes little more than half of it.
pub const WAL_SEGMENT_BYTES_MIN: usize = 8 * MIB;
/// A log is made of at least so many segments, where they are large enough: three of them are there whatever it
/// holds (the one being written, the next, and one to be used again).
pub const WAL_SEGMENTS_PER_LOG: u64 = 8;
/// The most one write carries; one registered buffer. Larger records take several writes.
pub const WAL_WRITE_BYTES_MAX: usize = MIB;
/// Writes in flight per core: where the throughput of one log levels off on the drives we measured.
pub const WAL_WRITES_MAX: usize = 8;
/// Segments that nobody waits for are filled or removed at this rate, or less: a tenth of what a drive was seen to
/// manage, because while it does, writes of the log wait; and more than a core was seen to log.
pub const WAL_BACKGROUND_KIB_PER_SECOND: u32 = 256 * 1_024;
/// Appended and not yet handed to the kernel. Past it a core takes in nothing that needs the log.
pub const WAL_BACKLOG_BYTES_MAX: usize = 64 * MIB;
/// Files of one core's log before a checkpoint is due that lets the oldest go: some minutes at full load, and
/// replayed in as many seconds. As much again may be appended until it is done.
pub const LOG_BYTES: u64 = 4 << 30;
/// What an operator may set that to. At the least, checkpoints follow each other as fast as they may: for tests.
pub const LOG_BYTES_MIN: u64 = 2 * WAL_SEGMENT_BYTES_MIN as u64;
pub const LOG_BYTES_MAX: u64 = 1 << 40;

const _: () = assert!(WAL_SEGMENT_BYTES.is_multiple_of(WAL_BLOCK_BYTES));
const _: () = assert!(WAL_WRITE_BYTES_MAX.is_multiple_of(WAL_BLOCK_BYTES));
// The segment's own block, and one for the headers of the run and the record.
const _: () = assert!(BATCH_BYTES_MAX + 2 * WAL_BLOCK_BYTES <= WAL_SEGMENT_BYTES_MIN);
const _: () = assert!(WAL_SEGMENT_BYTES_MIN.is_multiple_of(WAL_BLOCK_BYTES));
const _: () = assert!(BATCH_BYTES_MAX <= WAL_BACKLOG_BYTES_MAX);
const _: () =
    assert!(WAL_WRITE_BYTES_MAX <= WAL_SEGMENT_BYTES_MIN && WAL_SEGMENT_BYTES_MIN <= WAL_SEGMENT_BYTES);
const _: () = assert!(LOG_BYTES_MIN <= LOG_BYTES && LOG_BYTES <= LOG_BYTES_MAX);

// ---- Cores of one node ----------------------------------------------------------------------
/// Parcels on their way from one core to another; more wait at the sender.
pub const RING_PARCELS: usize = 1_024;
/// Parcels taken from each sibling in one turn: about a burst of frames.
pub const PARCELS_PER_TURN: usize = 128;
/// A segment of the log in durability "memory", which holds the ballots a node has promised and nothing else.
pub const WAL_SEGMENT_BYTES_VOTES: usize = 256 * KIB;

const _: () = assert!(RING_PARCELS.is_power_of_two() && PARCELS_PER_TURN <= RING_PARCELS);
const _: () = assert!(WAL_SEGMENT_BYTES_VOTES.is_multiple_of(WAL_BLOCK_BYTES));
const _: () = assert!(WAL_SEGMENT_BYTES_VOTES >= 2 * WAL_BLOCK_BYTES);

// ---- Elections ------------------------------------------------------------------------------
/// Two monotonic clocks differ over any interval by less than this part of it, or a lease may outlive the
/// promises it rests on. 1/64 is 300 times what a quartz is off by.
pub const CLOCK_DRIFT_PART: u64 = 64;
/// Heartbeats of a leader in one election timeout, at least.
pub const ELECTION_HEARTBEATS: u64 = 4;
/// A follower waits up to this part of its timeout longer than it must, so that two seldom wake at once.
pub const ELECTION_JITTER_PART: u64 = 8;
/// A hand-over stops new transactions once its target lacks no more slots of any stream than this: what a
/// pipeline holds, a few round trips.
pub const HAND_OVER_NEAR_SLOTS: u64 = 64;
/// They stop for at most this part of the election timeout; half of that is left to what others have prepared.
pub const HAND_OVER_PAUSE_PART: u64 = 2;
pub const HAND_OVER_PREPARED_PART: u64 = 4;
/// How often the target is told to campaign in one timeout.
pub const HAND_OVER_REMINDERS: u64 = 8;
/// Orders of hand-overs that a core has not taken yet.
pub const HAND_OVER_ORDERS: usize = 8;

const _: () = assert!(HAND_OVER_PREPARED_PART > HAND_OVER_PAUSE_PART);
const _: () = assert!(CLOCK_DRIFT_PART < ELECTION_TIMEOUT_NS_MIN);
/// A hand-over is over in so many election timeouts: one until the target is near, half a one of pause, one until it has
/// taken over, and something for turns that come late.
pub const HAND_OVER_TIMEOUTS_MAX: u64 = 3;

// ---- HTTP -----------------------------------------------------------------------------------
/// Connections of the gateway of a process: probes, a scraper, some operators.
pub const HTTP_CONNECTIONS_MAX: usize = 64;
/// A request up to its body; twice the least that hyper allows.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * KIB;
pub const HTTP_HEADERS_MAX: usize = 64;
pub const HTTP_BODY_BYTES_MAX: usize = 4 * KIB;
/// A request must have come, and its answer gone, within this.
pub const HTTP_IO_NS_MAX: u64 = 5 * SECOND;
/// The client follows a request from node to node so many times, and reads so much of an answer.
pub const HTTP_HOPS_MAX: usize = 4;
pub const HTTP_ANSWER_BYTES_MAX: usize = MIB;

// ---- Checkpoints and votes on disk ----------------------------------------------------------
/// A chunk of a checkpoint is closed when it holds this much: about a thousand rows, or one.
pub const CHECKPOINT_CHUNK_BYTES: usize = 256 * KIB;
/// What the host may add to a checkpoint's header.
pub const CHECKPOINT_EXTRA_BYTES_MAX: usize = 64 * KIB;
/// The most that is handed to a checkpoint's file at once: a header, the largest chunk and a footer.
pub const CHECKPOINT_WRITE_BYTES_MAX: usize = 2 * MIB;
/// Such writes on their way to one checkpoint's file; past it there is no room.
pub const CHECKPOINT_WRITES_MAX: usize = 4;
/// The most one read of a checkpoint for a peer returns, and how many may be under way.
pub const CHECKPOINT_READ_BYTES_MAX: usize = MIB;
pub const CHECKPOINT_READS_MAX: usize = 16;
/// A write to the log that takes longer will not come back: drives give up on a command after 30 s.
pub const WAL_STUCK_NS: u64 = 30 * SECOND;
/// On a full disk the next segment is tried again this often.
pub const WAL_FULL_RETRY_NS: u64 = SECOND;
/// One copy of the votes of a core: a header, 24 bytes for every partition there may be, 16 for every node.
pub const VOTES_COPY_BYTES: usize = 8 * WAL_BLOCK_BYTES;

const _: () = assert!(CHECKPOINT_CHUNK_BYTES + VALUE_BYTES_MAX < CHECKPOINT_WRITE_BYTES_MAX);
const _: () = assert!(CHECKPOINT_READ_BYTES_MAX + 64 * KIB <= MESSAGE_BYTES_MAX);
const _: () = assert!(VOTES_COPY_BYTES.is_multiple_of(WAL_BLOCK_BYTES));
const _: () = assert!(VOTES_COPY_BYTES <= WAL_WRITE_BYTES_MAX);
const _: () = assert!(24 * PARTITIONS_MAX + 16 * NODES_MAX + 64 <= VOTES_COPY_BYTES);

// ---- Checkpoints of partitions --------------------------------------------------------------
/// Rows visited in one step, and how far apart steps are: an eighth of a core, at about 0.2 µs a row.
pub const CHECKPOINT_ROWS_PER_STEP: usize = 64;
/// Steps at once while the log grows faster than the checkpoint that is to let it go: 0.8 ms or so, and as much less
/// time for what makes it grow.
pub const CHECKPOINT_HASTE: u64 = 64;
/// All rows are visited when the log has grown by so many hundredths of what it may; then they are to be committed.
pub const CHECKPOINT_DONE_PERCENT: u64 = 50;
pub const CHECKPOINT_STEP_NS: u64 = 100 * US;
/// While there is no room, or a commit is under way, it is looked at this often.
pub const CHECKPOINT_WAIT_NS: u64 = 10 * MS;
/// Between two of the same partition, and after one that failed: a full disk stays full for a while.
pub const CHECKPOINT_RETRY_NS: u64 = SECOND;
/// Stretches of delivered slots that a replica tells apart. More make the slot from which a checkpoint's
/// stream is replayed more exact.
pub const CHECKPOINT_STRETCHES_MAX: usize = 1_024;
/// Records of the log that begin this close together are needed or not as one: far less than a segment, and 16
/// bytes of memory for each.
pub const CHECKPOINT_LOG_STEP_BYTES: u64 = 256 * KIB as u64;
/// A replica far behind asks for no more than this in a second: half of a gigabit link.
pub const CHECKPOINT_BYTES_PER_SECOND: u64 = 64 * MIB as u64;
/// A piece not answered by then is asked for again, and a peer that has none yet is asked again.
pub const CHECKPOINT_PIECE_TIMEOUT_NS: u64 = 2 * SECOND;
pub const CHECKPOINT_ASK_AGAIN_NS: u64 = 100 * MS;
/// Without a new piece for so long a transfer is given up. Above the timeout of calls, so that a peer that is
/// only restarting is not left.
pub const CHECKPOINT_PATIENCE_NS: u64 = 30 * SECOND;
/// After one that was unsound, or that found no space, none is received for so long: it would only be a load.
pub const CHECKPOINT_FAILED_NS: u64 = 10 * SECOND;
/// A checkpoint that a peer is reading is not replaced by a newer one until it has read nothing for so long;
/// but a slow reader does not hold up the log for ever.
pub const CHECKPOINT_READ_PAUSE_NS: u64 = 5 * SECOND;
pub const CHECKPOINT_READ_NS_MAX: u64 = 600 * SECOND;

const _: () =
    assert!(CHECKPOINT_LOG_STEP_BYTES < WAL_SEGMENT_BYTES_MIN as u64 && CHECKPOINT_STRETCHES_MAX >= 4);
const _: () = assert!(CHECKPOINT_STEP_NS < CHECKPOINT_WAIT_NS && CHECKPOINT_PATIENCE_NS > CALL_TIMEOUT_NS);
const _: () = assert!(CHECKPOINT_PIECE_TIMEOUT_NS < CHECKPOINT_READ_PAUSE_NS);
