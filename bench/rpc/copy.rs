//! Long messages, one after the other, from one core to the other: how fast, and whether they arrive as they left.
//!
//! The answer to a message is its checksum, made of what has arrived.
#![forbid(unsafe_code)]

use super::load::{ANSWERER, Side, asker, born, nodes};
use super::wire::Wire;
use super::{Cpus, Slice};
use crossbeam_utils::CachePadded;
use mako::bounds::{MS, RX_BURST, US};
use mako::clock;
use mako::nic::Nic;
use mako::nic::wan::{Link, Wan};
use mako::rpc::{Event, Rpc};
use mako::types::{Prng, Timestamp};
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Default)]
pub struct Copied {
    pub messages: u64,
    pub bytes: u64,
    pub ns: u64,
    /// Messages that arrived otherwise than they left, or not at all.
    pub wrong: u64,
    /// Frames that the emulated link lost.
    pub lost: u64,
    pub packets_resent: u64,
}

impl Copied {
    pub fn per_s(&self) -> f64 {
        self.bytes as f64 * 1e9 / self.ns.max(1) as f64
    }
}

pub fn run(
    cpus: Cpus,
    wire: &mut impl Wire,
    bytes: usize,
    slice: Slice<'_>,
    copied: &mut Copied,
) -> anyhow::Result<()> {
    exchange(cpus, wire.ends(1, true)?, bytes, slice, copied);
    Ok(())
}

/// Over a link that loses one frame in a hundred, and on which frames overtake each other.
pub fn run_lossy(
    cpus: Cpus,
    wire: &mut impl Wire,
    bytes: usize,
    slice: Slice<'_>,
    copied: &mut Copied,
) -> anyhow::Result<()> {
    let mut seed = slice.seed;
    let bad = |nic| {
        seed += 1;
        Wan::new(nic, vec![LOSSY; nodes(1)], Prng::with_seed(seed))
    };
    exchange(cpus, wire.ends(1, true)?.map(bad), bytes, slice, copied);
    Ok(())
}

fn exchange<N: Nic + Send>(
    cpus: Cpus,
    [near, far]: [N; 2],
    bytes: usize,
    slice: Slice<'_>,
    copied: &mut Copied,
) {
    let stop = CachePadded::new(AtomicBool::new(false));
    let ask = || {
        let mut sender = Sender { side: Side::new(near), rpc: born(asker(0), 1), answer: None };
        let mut prng = Prng::with_seed(slice.seed);
        let messages: Vec<Vec<u8>> = (0..MESSAGES).map(|_| random(&mut prng, bytes)).collect();
        let sums: Vec<u32> = messages.iter().map(|message| crc32c::crc32c(message)).collect();
        // The first finds windows small and memory untouched.
        sender.send(&messages[0]);
        let begun = clock::now();
        for (message, sum) in messages.iter().zip(&sums).cycle() {
            let intact = sender.send(message) == Some(*sum);
            copied.messages += 1;
            copied.bytes += bytes as u64;
            copied.wrong += u64::from(!intact);
            if slice.is_over(begun, clock::now(), slice.ns) || !intact {
                break;
            }
        }
        copied.ns += clock::now().since(begun);
        copied.lost += sender.side.nic.stats().lost;
        copied.packets_resent += sender.rpc.stats().packets_resent;
    };
    cpus.run(&stop, ask, || answer(far, &stop));
}

struct Sender<N> {
    side: Side<N>,
    rpc: Rpc,
    answer: Option<Vec<u8>>,
}

impl<N: Nic> Sender<N> {
    /// The checksum that came back; `None` when nothing did.
    fn send(&mut self, message: &[u8]) -> Option<u32> {
        self.rpc.call(clock::now(), ANSWERER, 0, message).expect("one message fits the backlog");
        self.answer = None;
        loop {
            turn(&mut self.side, &mut self.rpc, |_, _, event| match event {
                Event::Response { message, .. } => self.answer = Some(message),
                _ => self.answer = Some(Vec::new()),
            });
            if let Some(answer) = self.answer.take() {
                return answer.as_slice().try_into().ok().map(u32::from_le_bytes);
            }
        }
    }
}

fn answer<N: Nic>(nic: N, stop: &AtomicBool) {
    let mut side = Side::new(nic);
    let mut rpc = born(ANSWERER, 1);
    while !stop.load(Ordering::Relaxed) {
        turn(&mut side, &mut rpc, |now, rpc, event| {
            if let Event::Request { id, message, .. } = event {
                rpc.respond(now, id, &crc32c::crc32c(&message).to_le_bytes());
                rpc.recycle(message);
            }
        });
    }
}

fn turn<N: Nic>(side: &mut Side<N>, rpc: &mut Rpc, mut on_event: impl FnMut(Timestamp, &mut Rpc, Event)) {
    let now = clock::now();
    side.nic.rx_burst(RX_BURST, &mut |frame| {
        let _ = rpc.on_frame(now, frame);
    });
    rpc.on_tick(now);
    while let Some(event) = rpc.poll_event() {
        on_event(now, rpc, event);
    }
    side.transmit(now, rpc);
    side.nic.tx_flush(now);
}

fn random(prng: &mut Prng, bytes: usize) -> Vec<u8> {
    let mut message = vec![0; bytes];
    prng.fill(&mut message);
    message
}

/// Different ones, so that none can be taken for the one before it.
const MESSAGES: usize = 2;
const LOSSY: Link = Link { delay_ns: 500 * US, jitter_ns: 400 * US, loss: 0.01 };
const _: () = assert!(LOSSY.delay_ns < MS);
