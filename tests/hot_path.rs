//! What a request costs beside its bytes: once everything has its size, nothing is allocated for it.
#![forbid(unsafe_code)]

use mako::bounds::{FRAME_BYTES, RX_BURST, SECOND};
use mako::nic::Nic;
use mako::nic::udp::Udp;
use mako::rpc::{Event, Keyring, Rpc, SECRET_BYTES};
use mako::types::{CoreId, Endpoint, NodeId, Timestamp};
use std::net::{Ipv4Addr, SocketAddr};

const CALLER: Endpoint = Endpoint { node: NodeId(0), core: CoreId(0) };
const ANSWERER: Endpoint = Endpoint { node: NodeId(1), core: CoreId(0) };

struct Core {
    rpc: Rpc,
    nic: Udp,
    frame: Vec<u8>,
}

impl Core {
    fn new(local: Endpoint, sealed: bool) -> Core {
        let mut rpc = Rpc::new(local, 7, 1, 2);
        if sealed {
            rpc.set_keys(Keyring::new(&[[1; SECRET_BYTES]]).expect("one key is a ring"), 1);
        }
        let nic = Udp::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &[]).expect("a socket");
        Core { rpc, nic, frame: Vec::with_capacity(FRAME_BYTES) }
    }

    /// One turn; how many responses came.
    fn turn(&mut self, now: Timestamp) -> usize {
        let Core { rpc, nic, frame } = self;
        nic.rx_burst(RX_BURST, &mut |frame| {
            let _ = rpc.on_frame(now, frame);
        });
        rpc.on_tick(now);
        let mut responses = 0;
        while let Some(event) = rpc.poll_event() {
            match event {
                Event::Request { id, message, .. } => {
                    rpc.respond(now, id, &message);
                    rpc.recycle(message);
                }
                Event::Response { message, .. } => {
                    responses += 1;
                    rpc.recycle(message);
                }
                Event::Cast { .. } | Event::Failed { .. } | Event::Peer { .. } => panic!("{event:?}"),
            }
        }
        while let Some(to) = rpc.poll_tx(now, frame) {
            assert!(nic.tx_push(now, to, frame), "a turn sends little here");
        }
        assert_eq!(nic.tx_flush(now), 0);
        responses
    }
}

/// Rounds of `window` calls, each answered before the next begins.
fn exchange(
    caller: &mut Core,
    answerer: &mut Core,
    now: &mut Timestamp,
    rounds: usize,
    window: u64,
    size: usize,
) {
    let message = [7; 4_096];
    for _ in 0..rounds {
        for tag in 0..window {
            caller.rpc.call(*now, ANSWERER, tag, &message[..size]).expect("the backlog is empty");
        }
        let mut responses = 0;
        while responses < window as usize {
            *now = now.plus_ns(1_000);
            responses += caller.turn(*now);
            answerer.turn(*now);
        }
    }
}

/// An allocation takes as long as the rest of a request, and now and then a thousand times as long.
#[test]
fn a_request_allocates_nothing() {
    [false, true].into_iter().for_each(count_allocations);
}

fn count_allocations(sealed: bool) {
    let (mut caller, mut answerer) = (Core::new(CALLER, sealed), Core::new(ANSWERER, sealed));
    let address = |core: &Core| core.nic.local_address().expect("a bound socket");
    caller.nic.set_peer(ANSWERER, address(&answerer)).expect("an address of our family");
    answerer.nic.set_peer(CALLER, address(&caller)).expect("an address of our family");
    let mut now = Timestamp(SECOND);
    for (window, size) in [(1, 32), (64, 32), (8, 1_000), (8, 4_000)] {
        exchange(&mut caller, &mut answerer, &mut now, 500, window, size);
        let info = allocation_counter::measure(|| {
            exchange(&mut caller, &mut answerer, &mut now, 2_000, window, size);
        });
        assert_eq!(info.count_total, 0, "sealed {sealed}, window {window}, {size} bytes: {info:?}");
    }
}

/// The counter sees what it is to see.
#[test]
fn an_allocation_is_counted() {
    let info = allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 100])));
    assert_eq!((info.count_total, info.bytes_total), (1, 100));
}
