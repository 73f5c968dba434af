//! Leaders of earlier reigns, deposed and not yet known to be: they prepare and commit transactions at
//! other shards as if nothing had happened.
//!
//! Every reign a ghost speaks for ended before the run began, at a final watermark below everything it
//! does now: whatever it makes is lost and must leave no trace. The fact is told to one node at some
//! point, and spreads from there. A ghost hears no answer; what it was voted it reads from the
//! participant's state. It commits only where the fact is known: a node that believes the new reign has
//! learned how the old one ended, so an unstable version of an old one cannot outlive the news.
#![forbid(unsafe_code)]

use super::clients::{TABLE, key_bytes, keys};
use super::history::{KeyId, WriteId};
use super::world::World;
use crate::bounds::PREPARE_TIMEOUT_NS;
use crate::config::{Config, Route};
use crate::txn::{Known, too_far_ahead};
use crate::types::{Ballot, Epoch, NodeId, PartitionId, ShardId, Stamp, Timestamp, TxnId};
use crate::wire::{Deps, Message, Token, WriteRef};
use smallvec::SmallVec;

pub struct Ghosts {
    /// By shard: its reigns that ended before the run.
    reigns: Vec<Vec<Reign>>,
    next_number: u64,
    /// Prepared at these partitions, and to be committed there.
    pending: Vec<Haunting>,
}

struct Reign {
    stamp: Stamp,
    /// The fact has been told to somebody.
    told: bool,
}

struct Haunting {
    txn: TxnId,
    stamp: Stamp,
    partition: PartitionId,
    core: usize,
}

impl Ghosts {
    pub fn new(config: &Config) -> Ghosts {
        let shards = (0..config.shards.len() as u16).map(ShardId);
        let reign = |shard, node| {
            let epoch = Ballot { round: 0, node: NodeId(node) }.epoch();
            Reign { stamp: Stamp { shard, epoch }, told: false }
        };
        Ghosts {
            reigns: shards.map(|shard| (1..=REIGNS).map(|node| reign(shard, node)).collect()).collect(),
            next_number: 1,
            pending: Vec::new(),
        }
    }
}

/// One doing of a ghost.
pub fn haunt(world: &mut World) -> Result<(), String> {
    match world.prng.u32(..10) {
        0 => {
            let shard = world.prng.usize(..world.ghosts.reigns.len());
            tell(world, shard);
        }
        1..4 => commit_one(world),
        4 => misaddress_one(world)?,
        5 => foretell(world)?,
        _ => prepare(world)?,
    }
    Ok(())
}

/// Lets the nodes hear how every reign ended that they have not heard of yet.
pub fn tell_all(world: &mut World) {
    for shard in 0..world.ghosts.reigns.len() {
        while tell(world, shard) {}
    }
}

/// Lets one node hear how a reign of a shard ended; false when all of them have been told.
fn tell(world: &mut World, shard: usize) -> bool {
    let Some(reign) = world.ghosts.reigns[shard].iter_mut().find(|reign| !reign.told) else { return false };
    reign.told = true;
    let stamp = reign.stamp;
    let closed = SmallVec::from_slice(&[(stamp, LAST_WORDS)]);
    let mut message = Vec::new();
    Message::Exchange { vector: SmallVec::new(), wanted: SmallVec::new(), closed }.encode_into(&mut message);
    let node = world.prng.usize(..world.nodes.len());
    let speaker =
        world.cores.iter().position(|core| usize::from(core.me.node.0) == node && core.me.core.0 == 0);
    if let Some(core) = speaker {
        world.inject(core, message);
        commit_behind(world, core, stamp);
    }
    true
}

/// The news and a commit that its ghost had sent before may arrive in one breath: then the commit finds
/// its transaction still prepared, and must install nothing.
fn commit_behind(world: &mut World, core: usize, stamp: Stamp) {
    let doomed = world.ghosts.pending.extract_if(.., |one| one.core == core && one.stamp == stamp);
    let doomed: Vec<Haunting> = doomed.collect();
    for haunting in doomed {
        commit(world, &haunting);
    }
}

fn prepare(world: &mut World) -> Result<(), String> {
    let home_shard = world.prng.usize(..world.ghosts.reigns.len());
    let reign = world.prng.usize(..world.ghosts.reigns[home_shard].len());
    let stamp = world.ghosts.reigns[home_shard][reign].stamp;
    let key = KeyId(world.prng.u32(..keys(world.config.partition_count() as u32)));
    let Route::One(partition) = world.config.route(TABLE, &key_bytes(key)) else { return Ok(()) };
    let shard = world.config.shard_of(partition);
    if shard == stamp.shard {
        return Ok(());
    }
    let leader = world.config.leader_of(partition);
    let Some(core) = world.cores.iter().position(|core| {
        core.me.node == leader
            && core.is_up()
            && core.core.replicas().iter().any(|replica| replica.id == partition && replica.open)
    }) else {
        return Ok(());
    };
    let state = &world.cores[core].core;
    let replica =
        state.replicas().iter().find(|replica| replica.id == partition).expect("it was found above");
    let ours = replica.epoch();
    // Sometimes it does not even know that the participant's reign has changed.
    let epoch = if world.prng.u32(..4) == 0 { Ballot { round: 0, node: NodeId(1) }.epoch() } else { ours };
    let closed = state.knowledge().is_closed(stamp);
    let home = world.config.partitions_of(stamp.shard).next().expect("a shard has a partition");
    world.ghosts.next_number += 1;
    let txn = TxnId { home, epoch: stamp.epoch, number: GHOST_NUMBERS + world.ghosts.next_number };
    let id = world.recorder.borrow_mut().write_id();
    let value = id.0.to_le_bytes();
    let key_of = key_bytes(key);
    let mut message = Vec::new();
    Message::Prepare {
        partition,
        epoch,
        txn,
        hold_ns: world.prng.u64(..1_000_000),
        deps: Deps::new(),
        reads: Vec::new(),
        scans: Vec::new(),
        writes: vec![WriteRef { table: TABLE, key: &key_of, value: Some(&value) }],
    }
    .encode_into(&mut message);
    record(world, key, id);
    world.inject(core, message);
    world.ghosts.pending.push(Haunting { txn, stamp, partition, core });
    check_refusals(world, core, txn, epoch != ours, closed)
}

/// The write is one nobody may ever see in a transaction that stands.
fn record(world: &mut World, key: KeyId, id: WriteId) {
    let at = world.now;
    let mut recorder = world.recorder.borrow_mut();
    let index = recorder.history.begin(at, u32::MAX);
    recorder.truth.begin(index, Vec::new(), false);
    recorder.history.write(index, key, id, false);
    recorder.history.rolled_back(index, at);
}

/// Runs the participant's turn, and sees that it has refused what it must.
fn check_refusals(
    world: &mut World,
    core: usize,
    txn: TxnId,
    wrong_epoch: bool,
    closed: bool,
) -> Result<(), String> {
    world.turn_now(core)?;
    let prepared = |replica: &crate::partition::Replica<_>| replica.store.borrow().prepared().contains(txn);
    let voted = world.cores[core].core.replicas().iter().any(prepared);
    if voted && wrong_epoch {
        return Err(format!("{txn:?} was prepared though addressed to another epoch of the participant"));
    }
    if voted && closed {
        return Err(format!("{txn:?} was prepared though its coordinator's epoch was known to be closed"));
    }
    Ok(())
}

/// Commits one of the transactions that were voted for, resting on the ghost's own reign.
fn commit_one(world: &mut World) {
    if world.ghosts.pending.is_empty() {
        return;
    }
    let at = world.prng.usize(..world.ghosts.pending.len());
    let haunting = world.ghosts.pending.swap_remove(at);
    if world.cores[haunting.core].core.knowledge().is_closed(haunting.stamp) {
        commit(world, &haunting);
    } else {
        world.ghosts.pending.push(haunting);
    }
}

/// Commits one of them to a reign of the participant that is over: what is prepared is to stay so. Only while
/// nothing else can settle it in the same turn.
fn misaddress_one(world: &mut World) -> Result<(), String> {
    if world.ghosts.pending.is_empty() {
        return Ok(());
    }
    let at = world.prng.usize(..world.ghosts.pending.len());
    let Haunting { txn, partition, core, .. } = world.ghosts.pending[at];
    let prepared_in = |world: &World| {
        let replicas = world.cores[core].core.replicas();
        let replica = replicas.iter().find(|replica| replica.id == partition && replica.open)?;
        let store = replica.store.borrow();
        Some((store.epoch, store.prepared().proposal(txn)?))
    };
    let now = world.local_time(world.cores[core].me.node);
    // One that is undecided for long may ask its coordinator, and be answered, in the turn.
    let is_young = |(_, proposal): &(Epoch, Timestamp)| now.since(*proposal) < PREPARE_TIMEOUT_NS / 2;
    let Some((ours, timestamp)) = prepared_in(world).filter(is_young) else { return Ok(()) };
    if !world.cores[core].is_quiet() {
        return Ok(());
    }
    let epoch = Ballot { round: 0, node: NodeId(1) }.epoch();
    let (deps, participants) = (Deps::new(), SmallVec::from_slice(&[txn.home, partition]));
    let mut message = Vec::new();
    Message::Commit { partition, epoch, txn, timestamp, deps, participants }.encode_into(&mut message);
    world.inject(core, message);
    world.turn_now(core)?;
    let leads = |replica: &crate::partition::Replica<_>| replica.id == partition && replica.open;
    let leads_on =
        world.cores[core].core.replicas().iter().any(|replica| leads(replica) && replica.epoch() == ours);
    if leads_on && prepared_in(world).is_none() {
        return Err(format!("{txn:?} was committed though addressed to another epoch of the participant"));
    }
    Ok(())
}

/// Reads a snapshot in the name of a reign that nobody here has heard of: how the one before it ended cannot be
/// known, so whoever is asked must wait, though it has applied all that the snapshot needs.
fn foretell(world: &mut World) -> Result<(), String> {
    let core = world.prng.usize(..world.cores.len());
    if !world.cores[core].is_up() {
        return Ok(());
    }
    let state = &world.cores[core].core;
    let replica = &state.replicas()[world.prng.usize(..state.replicas().len())];
    let (partition, timestamp) = (replica.id, replica.applied().timestamp);
    let shard = ShardId(world.prng.u16(..world.config.shards.len() as u16));
    let Some(known) = Ballot::unpack(state.knowledge().vector().get(shard).epoch.0) else { return Ok(()) };
    let now = world.local_time(world.cores[core].me.node);
    if too_far_ahead(now, timestamp) {
        return Ok(());
    }
    let epoch = Ballot { round: known.round + ROUNDS_AHEAD, ..known }.epoch();
    world.ghosts.next_number += 1;
    let number = GHOST_NUMBERS + world.ghosts.next_number;
    let txn = TxnId { home: partition, epoch: replica.epoch(), number };
    let token = Token { timestamp, epochs: SmallVec::from_slice(&[(shard, epoch)]) };
    let mut message = Vec::new();
    let key = &key_bytes(KeyId(0));
    Message::SnapshotRead { partition, txn, token, table: TABLE, key }.encode_into(&mut message);
    world.inject(core, message.clone());
    world.turn_now(core)?;
    let replicas = world.cores[core].core.replicas();
    let waits = replicas.iter().any(|replica| replica.waiting.iter().any(|(_, _, bytes)| *bytes == message));
    match waits || !world.cores[core].is_up() {
        true => Ok(()),
        false => Err(format!(
            "{partition:?} serves a snapshot of {epoch:?} of {shard:?}, of which it has not heard"
        )),
    }
}

fn commit(world: &mut World, haunting: &Haunting) {
    let Haunting { txn, stamp, partition, core } = *haunting;
    let replicas = world.cores[core].core.replicas();
    let Some(replica) = replicas.iter().find(|replica| replica.id == partition) else { return };
    let store = replica.store.borrow();
    let Some(proposal) = store.prepared().proposal(txn) else { return };
    let epoch: Epoch = store.epoch;
    let shard = store.shard;
    drop(store);
    let timestamp = proposal.plus_ns(world.prng.u64(..1_000));
    let mut deps = Deps::new();
    for stamp in [stamp, Stamp { shard, epoch }] {
        deps.add(stamp, timestamp).expect("two dependencies fit");
    }
    let participants = SmallVec::from_slice(&[txn.home, partition]);
    let mut message = Vec::new();
    Message::Commit { partition, epoch, txn, timestamp, deps, participants }.encode_into(&mut message);
    world.inject(core, message);
}

/// Where every reign of a ghost ended: before anything it does in the run.
const LAST_WORDS: Timestamp = Timestamp(1);
/// Earlier reigns of each shard.
const REIGNS: u16 = 3;
/// No run changes leaders so often.
const ROUNDS_AHEAD: u32 = 1_000_000;
/// No coordinator counts this far.
const GHOST_NUMBERS: u64 = 1 << 40;
