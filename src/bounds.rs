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
/// A message further ahead of the local clock than this is refused and counted.
pub const MAX_CLOCK_SKEW_NS: u64 = 500 * MS;

// ---- Versions -------------------------------------------------------------------------------
/// Versions are kept this long below the snapshot timestamp, for snapshots already under way:
/// twice the longest one-way delay we expect between datacenters, and room for a queue.
pub const SNAPSHOT_KEEP_NS: u64 = 500 * MS;
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
/// An idle stream proposes a no-op, and a leader makes itself heard, this often.
pub const HEARTBEAT_INTERVAL_NS: u64 = 100 * MS;
/// The vector watermark is exchanged this often while anything waits for it.
pub const EXCHANGE_INTERVAL_NS: u64 = 200 * US;
/// … and this often when nothing does.
pub const EXCHANGE_IDLE_NS: u64 = 200 * MS;

const _: () = assert!(BATCH_BYTES_MAX + FETCH_BYTES_MAX + 64 * KIB <= MESSAGE_BYTES_MAX);
const _: () = assert!(SCAN_BYTES_MAX + VALUE_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(BACKOFF_NS_MIN < BACKOFF_NS_MAX);
const _: () = assert!(HOLD_NS_MAX < MAX_CLOCK_SKEW_NS);
const _: () = assert!(EXCHANGE_INTERVAL_NS < EXCHANGE_IDLE_NS);
