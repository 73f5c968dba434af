//! A running cluster among peers that lie: garbage, damaged and foreign frames, and messages that decode but
//! are not true. All of it is dropped and counted, nothing crashes, and transactions go on and stay right.
//!
//! Two nodes of four run. The other two are this test, on their sockets and with sessions of their own: one
//! is a replica of the shard that runs, the other is not, and is all there is of another shard. What they
//! damage are their own sessions. That frames are not forged in another's name is the cluster key's affair.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use mako::bounds::{FRAME_BYTES, MAX_CLOCK_SKEW_NS, MESSAGE_BYTES_MAX, MS, SECOND};
use mako::clock;
use mako::config::{Config, Route};
use mako::partition::{Driver, Mode, Submit, cluster_hash};
use mako::rpc::{Event, Ignored, Rpc};
use mako::server::{Cluster, CoreReport, Watch};
use mako::txn::{Abort, Procedure, Reply, Txn};
use mako::types::{
    Ballot, CoreId, DiskId, Endpoint, Epoch, NodeId, PartitionId, ShardId, Slot, Stamp, TableId, Timestamp,
    TxnId, Watermark,
};
use mako::wire::stream::{Accept, Entry, Promise};
use mako::wire::{
    BatchBuilder, BatchKind, Deps, Kind, Message, Refusal, ScanRange, StreamMessage, Token, Verdict,
    WriteRef, encoded,
};
use smallvec::SmallVec;
use std::cell::Cell;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

/// Adds one to a counter.
struct Count(Cell<u64>);

impl Procedure for Count {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let before =
            txn.get(T, COUNTER).await?.map_or(0, |value| u64::from_le_bytes(value[..].try_into().unwrap()));
        self.0.set(before + 1);
        txn.put(T, COUNTER, &(before + 1).to_le_bytes())
    }
}

/// Counts as often as it is asked to, and tells how far it has got once that is durable.
struct Counter {
    wishes: Receiver<()>,
    counted: Sender<u64>,
    running: Option<u64>,
    looked: Timestamp,
}

impl Driver for Counter {
    type Procedure = Count;

    fn turn(&mut self, now: Timestamp, core: &mut dyn Submit<Count>) {
        self.looked = now;
        if core.led().contains(&OURS) && self.running.is_none() && self.wishes.try_recv().is_ok() {
            let submitted = core.submit(OURS, Mode::ReadWrite, 1, Count(Cell::new(0)));
            assert!(submitted.is_ok(), "one transaction at a time is never too many");
            self.running = Some(0);
        }
    }

    fn on_reply(&mut self, _: Timestamp, _: u64, reply: Reply, procedure: Option<Count>) {
        if let Some(Count(count)) = procedure {
            self.running = Some(count.get());
        }
        match reply {
            Reply::Speculative { .. } => {}
            Reply::Durable { .. } => self.counted.send(self.running.take().unwrap()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        Some(self.looked.plus_ns(MS))
    }
}

/// The nodes that run.
struct Honest {
    cluster: Cluster<Counter>,
    config: Config,
    wishes: Sender<()>,
    counted: Receiver<u64>,
    count: u64,
    _data: tempfile::TempDir,
}

impl Honest {
    fn start() -> (Honest, [Liar; 3]) {
        let data = tempfile::tempdir().unwrap();
        for _ in 0..100 {
            let config = config(data.path());
            let Some(liars) = liars(&config) else { continue };
            let (wishes, wished) = mpsc::channel();
            let (counted, count) = mpsc::channel();
            let wished = std::sync::Mutex::new(Some(wished));
            let make = move |node, core| {
                // The one core that leads the counter's partition is to hear the wishes.
                let leads = (node, core) == (VICTIM.node, VICTIM.core);
                let wishes = leads.then(|| wished.lock().unwrap().take().unwrap());
                let wishes = wishes.unwrap_or_else(|| mpsc::channel().1);
                Counter { wishes, counted: counted.clone(), running: None, looked: Timestamp::default() }
            };
            let nodes = [NodeId(0), NodeId(1)];
            if let Ok(cluster) = Cluster::start_nodes(config.clone(), &nodes, Watch::default(), make) {
                let mut liars = liars;
                let mut honest = Honest { cluster, config, wishes, counted: count, count: 0, _data: data };
                honest.begin(&mut liars);
                return (honest, liars);
            }
        }
        panic!("no free ports");
    }

    /// The first transaction. A shard begins when all who hold it have met: as far as that goes, everybody is honest.
    fn begin(&mut self, liars: &mut [Liar; 3]) {
        self.wishes.send(()).unwrap();
        self.count += 1;
        let until = clock::now().plus_ns(60 * SECOND);
        while clock::now() < until {
            liars.iter_mut().for_each(|liar| drop(liar.step()));
            if let Ok(counted) = self.counted.try_recv() {
                return assert_eq!(counted, self.count);
            }
        }
        panic!("transactions do not begin");
    }

    /// One more transaction, which must be durable and right.
    fn count(&mut self) {
        self.wishes.send(()).unwrap();
        self.count += 1;
        let counted = self.counted.recv_timeout(PATIENCE).expect("transactions do not go on");
        assert_eq!(counted, self.count);
    }

    /// The core that was lied to.
    fn stop(mut self) -> CoreReport<Counter> {
        self.count();
        let mut reports = self.cluster.stop().unwrap();
        reports.swap_remove(0)
    }
}

/// A peer on a socket of its own.
struct Liar {
    rpc: Rpc,
    socket: UdpSocket,
    config: Config,
    next_tag: u64,
    /// Requests it was sent, by kind.
    requests: Vec<Kind>,
}

impl Liar {
    fn rpc_endpoint(&self) -> Endpoint {
        let port = self.socket.local_addr().unwrap().port();
        let places = (0..4)
            .flat_map(|node| (0..2).map(move |core| Endpoint { node: NodeId(node), core: CoreId(core) }));
        places.into_iter().find(|place| self.config.address(*place).port() == port).unwrap()
    }

    fn send_raw(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.config.address(VICTIM)).unwrap();
    }

    /// Sends and receives what there is; the answers among it.
    fn step(&mut self) -> Vec<(u64, Vec<u8>)> {
        let now = clock::now();
        self.rpc.on_tick(now);
        let mut frame = Vec::new();
        while let Some(to) = self.rpc.poll_tx(now, &mut frame) {
            self.socket.send_to(&frame, self.config.address(to)).unwrap();
        }
        let mut buffer = [0; 2 * FRAME_BYTES];
        if let Ok(bytes) = self.socket.recv(&mut buffer) {
            // Whatever it is: its own sessions are damaged on purpose.
            let _ = self.rpc.on_frame(clock::now(), &buffer[..bytes]);
        }
        let mut answers = Vec::new();
        while let Some(event) = self.rpc.poll_event() {
            match event {
                Event::Request { id, message, .. } => {
                    self.requests.extend(Message::decode(&message).ok().map(|message| message.kind()));
                    self.rpc.respond(clock::now(), id, &[]);
                }
                Event::Response { tag, message, .. } => answers.push((tag, message)),
                Event::Cast { from, message } => self.introduce(from, &message),
                Event::Failed { tag, .. } => panic!("call {tag} was not answered"),
                Event::Peer { .. } => {}
            }
        }
        answers
    }

    /// Answers a greeting.
    fn introduce(&mut self, to: Endpoint, message: &[u8]) {
        let Ok(Message::Greet { partition, disk, .. }) = Message::decode(message) else { return };
        let from = self.rpc_endpoint().node;
        let ours = DiskId(u64::from(from.0) + 1);
        let greeted =
            Message::Greeted { partition, from, disk: ours, rebuilds: false, to: disk, welcome: true };
        self.rpc.cast(clock::now(), to, &encoded(&greeted));
    }

    /// Calls the victim, and waits for its answer: every request has one.
    fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        self.next_tag += 1;
        self.rpc.call(clock::now(), VICTIM, self.next_tag, message).unwrap();
        let until = clock::now().plus_ns(60 * SECOND);
        while clock::now() < until {
            if let Some((_, answer)) = self.step().into_iter().find(|(tag, _)| *tag == self.next_tag) {
                return answer;
            }
        }
        panic!("a request got no answer: {message:?}");
    }

    fn say(&mut self, message: &Message<'_>) -> Vec<u8> {
        self.ask(&encoded(message))
    }

    fn refusal(&mut self, message: &Message<'_>) -> Option<Refusal> {
        match Message::decode(&self.say(message)) {
            Ok(Message::Refused { reason, .. }) => Some(reason),
            _ => None,
        }
    }

    /// When this has returned, the victim has seen all that this socket sent before.
    fn barrier(&mut self) {
        let txn = TxnId { home: OURS, epoch: Epoch(0), number: 1 };
        let answer = self.say(&Message::Inquire { partition: OURS, epoch: Epoch(0), txn });
        assert!(matches!(Message::decode(&answer), Ok(Message::Decision { verdict: Verdict::Aborted, .. })));
    }

    fn wait_for(&mut self, kind: Kind) {
        let until = clock::now().plus_ns(60 * SECOND);
        while !self.requests.contains(&kind) {
            assert!(clock::now() < until, "no {kind:?} came");
            self.step();
        }
    }
}

/// Few enough at a time for any socket's buffer.
fn in_handfuls(liar: &Liar, barrier: &mut Liar, frames: &[Vec<u8>]) {
    for handful in frames.chunks(32) {
        handful.iter().for_each(|frame| liar.send_raw(frame));
        barrier.barrier();
    }
}

fn config(data: &std::path::Path) -> Config {
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let port = free.min(65_000) + 1;
    let mut text = String::from("[cluster]\nname = \"truth\"\ndurability = \"memory\"\n");
    for node in 0..4 {
        let (port, data) = (port + 2 * node, data.join(format!("n{node}")));
        text += &format!(
            "[[node]]\nname = \"n{node}\"\nzone = \"z\"\nlisten = \"127.0.0.1:{port}\"\ndata = {:?}\n",
            data.display().to_string(),
        );
    }
    text += "[[shard]]\nreplicas = [\"n0\", \"n1\", \"n2\"]\npartitions = 2\n";
    text += "[[shard]]\nreplicas = [\"n3\"]\npartitions = 1\n";
    text += "[[table]]\nname = \"t\"\nrouting = \"int:1\"\n";
    Config::parse(&text, "a test", 2).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// The replica, the socket of its second core, and the stranger; `None` when a port is taken.
fn liars(config: &Config) -> Option<[Liar; 3]> {
    let liar = |node, core| {
        let me = Endpoint { node: NodeId(node), core: CoreId(core) };
        let socket = UdpSocket::bind(config.address(me)).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let rpc = Rpc::new(me, cluster_hash("truth"), clock::now().0, config.nodes.len());
        Some(Liar { rpc, socket, config: config.clone(), next_tag: 0, requests: Vec::new() })
    };
    Some([liar(2, 0)?, liar(2, 1)?, liar(3, 0)?])
}

/// Frames that another session would send the victim for these messages, one each.
fn frames_of(rpc: &mut Rpc, to: Endpoint, messages: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for tag in 0..messages as u64 {
        let txn = TxnId { home: OURS, epoch: Epoch(1 << 16), number: tag };
        let read = Message::Read { partition: OURS, epoch: txn.epoch, txn, table: T, key: b"\0key" };
        rpc.call(clock::now(), to, tag, &encoded(&read)).unwrap();
        let mut frame = Vec::new();
        frames.extend(rpc.poll_tx(clock::now(), &mut frame).map(|_| frame));
    }
    frames
}

/// Nothing here gets as far as a session.
#[test]
fn datagrams_that_are_no_frames_of_this_cluster_are_counted_by_reason() {
    let (mut honest, [mut replica, _, _]) = Honest::start();
    honest.count();
    let peer = replica.rpc_endpoint();
    let nodes = honest.config.nodes.len();
    let foreign = |name: &str, from: Endpoint, to: Endpoint, nodes| {
        frames_of(&mut Rpc::new(from, cluster_hash(name), 1, nodes), to, 1).remove(0)
    };
    let good = foreign("truth", Endpoint { core: CoreId(9), ..peer }, VICTIM, nodes);
    let elsewhere = Endpoint { core: CoreId(1), ..VICTIM };
    let unheard_of = Endpoint { node: NodeId(7), core: CoreId(0) };
    let mut version = good.clone();
    version[2] += 1;
    let sent: Vec<(Option<Ignored>, Vec<Vec<u8>>)> = vec![
        (None, vec![vec![7; FRAME_BYTES + 1], good.repeat(40)]),
        (Some(Ignored::BadFrame), (0..HEADER_BYTES).map(|cut| good[..cut].to_vec()).collect()),
        (
            Some(Ignored::BadFrame),
            vec![b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 600], vec![0xff; FRAME_BYTES]],
        ),
        (Some(Ignored::OtherVersion), vec![version]),
        (Some(Ignored::OtherCluster), vec![foreign("lies", peer, VICTIM, nodes); 3]),
        (Some(Ignored::OtherEndpoint), vec![foreign("truth", peer, elsewhere, nodes); 3]),
        (Some(Ignored::UnknownPeer), vec![foreign("truth", unheard_of, VICTIM, 8); 3]),
    ];
    for (_, frames) in &sent {
        for handful in frames.chunks(32) {
            handful.iter().for_each(|frame| replica.send_raw(frame));
            replica.barrier();
        }
        honest.count();
    }
    let tally = honest.stop().tally;
    assert_eq!(tally.nic.truncated, 2);
    let reasons = [
        Ignored::BadFrame,
        Ignored::OtherVersion,
        Ignored::OtherCluster,
        Ignored::OtherEndpoint,
        Ignored::UnknownPeer,
    ];
    for reason in reasons {
        let expected: usize =
            sent.iter().filter(|(why, _)| *why == Some(reason)).map(|(_, frames)| frames.len()).sum();
        assert_eq!(tally.rpc.ignored(reason), expected as u64, "{reason:?}");
    }
    assert_eq!((tally.core.malformed, tally.core.ahead), (0, 0));
}

/// Real frames of a session that the victim knows, each with one bit turned, or cut, or with a length that
/// no message has. Only that session may suffer.
#[test]
fn damaged_frames_of_a_session_harm_nobody_else() {
    let (mut honest, [mut replica, mut second, _]) = Honest::start();
    honest.count();
    second.barrier();
    let mut frames = frames_of(&mut second.rpc, VICTIM, 120);
    assert_eq!(frames.len(), 120, "the window takes that many at once");
    let length_at = HEADER_BYTES + 1 + 2 + 8;
    for (n, frame) in frames.iter_mut().enumerate() {
        match n {
            0..8 => frame.truncate(HEADER_BYTES + n),
            8 => frame[length_at..length_at + 4].copy_from_slice(&u32::MAX.to_le_bytes()),
            9 => frame[length_at..length_at + 4].copy_from_slice(&(MESSAGE_BYTES_MAX as u32).to_le_bytes()),
            10 => frame[length_at..length_at + 4].copy_from_slice(&0_u32.to_le_bytes()),
            _ => {
                let at = (n - 11) % frame.len();
                frame[at] ^= 1 << (n % 8);
            }
        }
    }
    in_handfuls(&second, &mut replica, &frames);
    honest.count();
    replica.barrier();
    let tally = honest.stop().tally;
    // Those cut behind the first byte of their packet, and those of a wrong length.
    assert!(tally.rpc.ignored(Ignored::BadPacket) >= 10, "{:?}", tally.rpc);
    assert!(tally.rpc.ignored(Ignored::BadFrame) >= 1, "{:?}", tally.rpc);
}

fn epoch(round: u32, node: u16) -> Epoch {
    Ballot { round, node: NodeId(node) }.epoch()
}

/// Of the stranger's shard.
fn theirs(number: u64) -> TxnId {
    TxnId { home: THEIRS, epoch: epoch(1, 3), number }
}

fn deps(shard: u16, timestamp: Timestamp) -> Deps {
    let mut deps = Deps::new();
    deps.add(Stamp { shard: ShardId(shard), epoch: epoch(1, 0) }, timestamp).unwrap();
    deps
}

fn accept(from: u16, partition: PartitionId, batch: &[u8]) -> Message<'static> {
    let ballot = Ballot { round: 5, node: NodeId(from) };
    let batch = batch.into();
    let accept = Accept { ballot, slot: Slot(3), batch, chosen_end: Slot(9), voted_end: Slot(9) };
    Message::Stream { partition, from: NodeId(from), message: StreamMessage::Accept(accept) }
}

fn prepare<'a>(txn: TxnId, deps: Deps, keys: &[&'a [u8]]) -> Message<'a> {
    let writes = keys.iter().map(|key| WriteRef { table: T, key, value: Some(b"lie") }).collect();
    let (partition, epoch) = (OURS, epoch(1, 0));
    Message::Prepare { partition, epoch, txn, hold_ns: u64::MAX, deps, reads: vec![], scans: vec![], writes }
}

fn commit(txn: TxnId, timestamp: Timestamp, participants: &[PartitionId]) -> Message<'static> {
    let participants = SmallVec::from_slice(participants);
    Message::Commit {
        partition: OURS,
        epoch: epoch(1, 0),
        txn,
        timestamp,
        deps: deps(0, timestamp),
        participants,
    }
}

/// Named by who may not send them, or naming what does not exist: none of these is even looked at.
#[test]
fn messages_from_who_may_not_send_them_or_of_what_is_not_are_malformed() {
    let (mut honest, [mut replica, _, mut stranger]) = Honest::start();
    honest.count();
    let (now, nowhere) = (clock::now(), PartitionId(700));
    let batch = BatchBuilder::new().finish(epoch(5, 2), now, BatchKind::Noop);
    let ballot = Ballot { round: 5, node: NodeId(2) };
    let entries = vec![Entry { slot: Slot(0), ballot, batch: b"no batch"[..].into() }];
    let (from_slot, end_slot, floor, chosen_end) = (Slot(0), Slot(1), Slot(0), Slot(0));
    let promise = Promise { ballot, from_slot, end_slot, entries, last: true, floor, chosen_end };
    let promise = StreamMessage::Promise(promise);
    let home = TxnId { home: OURS, epoch: epoch(1, 0), number: 2 };
    let lost = TxnId { home: nowhere, ..home };
    let (partition, request) = (OURS, epoch(1, 0));
    let of_replica = [
        accept(2, OURS, b"no batch"),
        accept(1, OURS, &batch),
        accept(2, THEIRS, &batch),
        accept(2, nowhere, &batch),
        Message::Stream { partition, from: NodeId(2), message: promise },
        prepare(home, Deps::new(), &[b"\0key"]),
        prepare(lost, Deps::new(), &[b"\0key"]),
        prepare(theirs(1), Deps::new(), &[b"\0key"]),
        Message::Abort { partition, epoch: request, txn: home },
        commit(home, now, &[OURS]),
        Message::Read { partition, epoch: request, txn: theirs(1), table: T, key: b"\0key" },
        Message::Read { partition, epoch: request, txn: lost, table: T, key: b"\0key" },
        Message::Vote { partition: nowhere, epoch: request, txn: home, proposal: now },
        Message::Vote { partition: THEIRS, epoch: request, txn: home, proposal: now },
        Message::Done { partition: OURS, epoch: request, txn: lost },
        Message::Inquire { partition, epoch: request, txn: theirs(1) },
        Message::Decision { partition, txn: theirs(1), verdict: Verdict::Aborted },
    ];
    let of_stranger = [
        prepare(theirs(2), deps(40, now), &[b"\0key"]),
        prepare(theirs(2), Deps::new(), &[b"\0key", b"\0other", b"\0key"]),
        commit(theirs(2), now, &[nowhere]),
        Message::Vote { partition: OURS, epoch: request, txn: home, proposal: now },
        Message::SnapshotRead {
            partition,
            txn: theirs(2),
            token: Token { timestamp: now, epochs: SmallVec::from_slice(&[(ShardId(40), request)]) },
            table: T,
            key: b"\0key",
        },
    ];
    let mut lies = 2;
    assert_eq!((replica.ask(&[]).len(), replica.ask(&[9; 100]).len()), (0, 0));
    for message in &of_replica {
        assert!(replica.say(message).is_empty(), "{message:?}");
        lies += 1;
    }
    honest.count();
    for message in &of_stranger {
        assert!(stranger.say(message).is_empty(), "{message:?}");
        lies += 1;
    }
    let tally = honest.stop().tally;
    assert_eq!((tally.core.malformed, tally.core.ahead), (lies, 0));
}

fn done(answer: &[u8]) -> bool {
    matches!(Message::decode(answer), Ok(Message::Done { .. }))
}

/// From who may send them, of what there is, and false all the same.
#[test]
fn messages_that_are_not_true_change_nothing() {
    let (mut honest, [_, _, mut stranger]) = Honest::start();
    honest.count();
    let now = clock::now();
    let absurd = now.plus_ns(3_600 * SECOND);
    assert!(absurd.since(now) > MAX_CLOCK_SKEW_NS);
    let (partition, ours) = (OURS, epoch(1, 0));

    // A replica's message from who is none.
    let batch = BatchBuilder::new().finish(epoch(5, 3), now, BatchKind::Noop);
    assert!(stranger.say(&accept(3, OURS, &batch)).is_empty());
    // Decided, aborted, voted for and answered: transactions that nobody has heard of.
    assert!(done(&stranger.say(&commit(theirs(1), now, &[OURS]))));
    assert!(done(&stranger.say(&Message::Abort { partition, epoch: ours, txn: theirs(1) })));
    let home = TxnId { home: OURS, epoch: ours, number: 1 << 50 };
    stranger.say(&Message::Vote { partition: THEIRS, epoch: epoch(1, 3), txn: home, proposal: absurd });
    stranger.wait_for(Kind::Abort);
    let value = Some(&b"lie"[..]);
    for number in 0..3 {
        let (txn, deps) = (TxnId { number, ..home }, deps(0, absurd));
        stranger.say(&Message::ReadReply {
            partition: THEIRS,
            epoch: ours,
            txn,
            version: absurd,
            deps,
            value,
            table: T,
            key: COUNTER,
        });
        stranger.say(&Message::Done { partition: THEIRS, epoch: ours, txn });
        stranger.say(&Message::Refused { partition: THEIRS, epoch: ours, txn, reason: Refusal::Locked });
    }
    honest.count();

    // Reigns that do not exist.
    let other = TxnId { home: THEIRS, epoch: epoch(9, 3), number: 1 };
    let read = |epoch, txn| Message::Read { partition, epoch, txn, table: T, key: COUNTER };
    assert_eq!(stranger.refusal(&read(epoch(9, 0), other)), Some(Refusal::WrongEpoch));
    let vector =
        |shard, epoch, timestamp| SmallVec::from_slice(&[(ShardId(shard), Watermark { epoch, timestamp })]);
    let exchange = |vector| Message::Exchange { vector, wanted: SmallVec::new(), closed: SmallVec::new() };
    stranger.say(&exchange(vector(0, epoch(9, 3), now)));
    stranger.say(&exchange(vector(1, epoch(9, 0), now)));
    // Times that no clock shows.
    stranger.say(&exchange(vector(0, ours, absurd)));
    let wanted = SmallVec::from_slice(&[(ShardId(0), absurd)]);
    let closed = SmallVec::from_slice(&[(Stamp { shard: ShardId(0), epoch: ours }, absurd)]);
    stranger.say(&Message::Exchange { vector: SmallVec::new(), wanted, closed });
    let token = Token { timestamp: absurd, epochs: SmallVec::new() };
    let snapshot = Message::SnapshotRead { partition, txn: theirs(1), token, table: T, key: COUNTER };
    assert_eq!(stranger.refusal(&snapshot), Some(Refusal::Busy));
    honest.count();

    let tally = honest.stop().tally;
    // A watermark for each of two reigns; and a watermark, a wish, a fact and a snapshot above any clock.
    assert_eq!((tally.core.malformed, tally.core.ahead), (2, 4));
    assert!(tally.core.stream_ignored >= 1);
}

/// A coordinator that asks for what is not there, and one that decides what does not follow from the votes.
#[test]
fn requests_that_make_no_sense_are_refused_and_lock_nothing() {
    let (mut honest, [mut replica, _, mut stranger]) = Honest::start();
    honest.count();
    let (partition, ours, txn) = (OURS, epoch(1, 0), theirs(2));
    let absurd = clock::now().plus_ns(3_600 * SECOND);

    // Tables and ranges that are not there.
    let table = TableId(200);
    assert_eq!(
        stranger.refusal(&Message::Read { partition, epoch: ours, txn, table, key: COUNTER }),
        Some(Refusal::UnknownTable)
    );
    let range = |table| ScanRange {
        table,
        from: b"\xff",
        to: Some(b"\0"),
        limit: u32::MAX,
        reverse: true,
        request: 9,
    };
    assert_eq!(
        stranger.refusal(&Message::Scan { partition, epoch: ours, txn, range: range(table) }),
        Some(Refusal::UnknownTable)
    );
    let rows = stranger.say(&Message::Scan { partition, epoch: ours, txn, range: range(T) });
    assert!(matches!(Message::decode(&rows), Ok(Message::ScanReply { rows, .. }) if rows.is_empty()));
    let replica_reads = TxnId { home: PartitionId(1), epoch: ours, number: 1 };
    let read = Message::Read { partition, epoch: ours, txn: replica_reads, table: T, key: COUNTER };
    let read = replica.say(&read);
    assert!(matches!(Message::decode(&read), Ok(Message::ReadReply { value: Some(_), .. })));

    // A real vote, and decisions that do not follow from it.
    let vote = stranger.say(&prepare(txn, Deps::new(), &[b"\0key"]));
    let Ok(Message::Vote { proposal, .. }) = Message::decode(&vote) else { panic!("{vote:?}") };
    assert!(proposal.since(clock::now()) < MAX_CLOCK_SKEW_NS);
    for timestamp in [Timestamp(1), proposal.prev(), absurd, Timestamp(u64::MAX)] {
        assert_eq!(stranger.refusal(&commit(txn, timestamp, &[OURS, THEIRS])), Some(Refusal::Busy));
    }
    assert!(done(&stranger.say(&Message::Abort { partition, epoch: ours, txn })));
    let key = Message::Read { partition, epoch: ours, txn, table: T, key: b"\0key" };
    let key = stranger.say(&key);
    assert!(matches!(Message::decode(&key), Ok(Message::ReadReply { value: None, .. })));

    assert_eq!(honest.config.route(T, COUNTER), Route::One(OURS));
    let tally = honest.stop().tally;
    // Two timestamps below the proposal, two above any clock.
    assert_eq!((tally.core.malformed, tally.core.ahead), (2, 2));
}

const T: TableId = TableId(0);
const COUNTER: &[u8] = b"\0counter";
const OURS: PartitionId = PartitionId(0);
/// Of the shard that the test itself is.
const THEIRS: PartitionId = PartitionId(2);
/// Leads the counter's partition.
const VICTIM: Endpoint = Endpoint { node: NodeId(0), core: CoreId(0) };
/// Of a frame, before its first packet.
const HEADER_BYTES: usize = 56;
/// Far beyond what anything here takes, on a machine however busy.
const PATIENCE: Duration = Duration::from_secs(60);
