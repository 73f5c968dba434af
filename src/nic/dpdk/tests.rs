//! Ports over a veth pair between two network namespaces.
//!
//! They need root, and a kernel with veth and AF_XDP. Where either is missing they fail and say so.
#![forbid(unsafe_code)]

use super::veth::{INTERFACE, Side, Veth};
use super::*;
use crate::nic::suite::{self, LEFT, RIGHT};
use crate::types::CoreId;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU32, Ordering};

const PORT: u16 = 7400;
const CORES: u16 = 3;

fn ip(side: Side) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, if side == Side::Left { 1 } else { 2 })
}

/// The cores of one side. Goes where it came from: what is undone for an interface is undone in its namespace.
struct Node<'a> {
    cores: Vec<Dpdk>,
    veth: &'a Veth,
    side: Side,
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        let Node { cores, veth, side } = self;
        veth.within(*side, || cores.clear());
    }
}

/// Of a name that no other port of this process has.
fn device(driver: &str) -> String {
    static NAMED: AtomicU32 = AtomicU32::new(0);
    format!("net_{driver}{},iface={INTERFACE}", NAMED.fetch_add(1, Ordering::Relaxed))
}

/// A node that knows the other side, and `far`.
fn open<'a>(
    veth: &'a Veth,
    driver: &str,
    side: Side,
    cores: u16,
    far: &[(Endpoint, SocketAddr)],
) -> Node<'a> {
    open_and_say(veth, driver, side, cores, far).1
}

fn open_and_say<'a>(
    veth: &'a Veth,
    driver: &str,
    side: Side,
    cores: u16,
    far: &[(Endpoint, SocketAddr)],
) -> (Vec<String>, Node<'a>) {
    let device = device(driver);
    let (node, other) = if side == Side::Left { (RIGHT.node, Side::Right) } else { (LEFT.node, Side::Left) };
    let peer = |core: u16| {
        let address = SocketAddrV4::new(ip(other), PORT + core);
        (Endpoint { node, core: CoreId(core) }, SocketAddr::V4(address))
    };
    let peers: Vec<_> = (0..CORES).map(peer).chain(far.iter().copied()).collect();
    let site = Site {
        device: &device,
        listen: SocketAddrV4::new(ip(side), PORT),
        cores,
        subnet: "10.77.0.0/24".parse().unwrap(),
        gateway: Some(ip(other)),
        peers: &peers,
    };
    let (nics, notices) = veth.within(side, || Dpdk::open(&site)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(nics.len(), usize::from(cores));
    (notices, Node { cores: nics, veth, side })
}

/// What comes of opening a port of the left side that knows nobody.
fn open_alone(veth: &Veth, device: &str, cores: u16) -> Result<(), String> {
    let (listen, subnet) = (SocketAddrV4::new(ip(Side::Left), PORT), "10.77.0.0/24".parse().unwrap());
    let site = Site { device, listen, cores, subnet, gateway: None, peers: &[] };
    veth.within(Side::Left, || Dpdk::open(&site).map(drop).map_err(|error| error.to_string()))
}

/// A node of one core on either side.
fn pair<'a>(veth: &'a Veth, driver: &str) -> (Node<'a>, Node<'a>) {
    (open(veth, driver, Side::Left, 1, &[]), open(veth, driver, Side::Right, 1, &[]))
}

/// The first core of the right side.
const NEAR: Endpoint = Endpoint { core: CoreId(0), ..RIGHT };

/// Has the last core of a node send one frame, and receives it.
fn send_one(left: &mut Node<'_>, right: &mut Node<'_>, now: &mut Timestamp, frame: &[u8]) {
    assert!(left.tx_push(*now, NEAR, frame));
    for _ in 0..ROUNDS_MAX {
        left.rx_burst(RX_BURST, &mut |_| panic!("nothing was sent back"));
        left.tx_flush(*now);
        let came = right.rx_burst(RX_BURST, &mut |came| assert_eq!(came, frame));
        if came == 1 {
            return;
        }
        *now = now.plus_ns(MS);
        std::thread::yield_now();
    }
    panic!("a frame did not come: {:?}, {:?}", left.stats(), right.stats());
}

/// A node of several cores on the right side, which share one queue pair where `queues` is one.
fn passes_the_suite(driver: &str, queues: u16) {
    let veth = Veth::new(queues).unwrap();
    suite::assert_passes(|| {
        let left = open(&veth, driver, Side::Left, 1, &[]);
        // `RIGHT` is its last core: what comes in at the others is handed over to it.
        (left, open(&veth, driver, Side::Right, CORES, &[]))
    });
}

/// All cores take turns; the last is looked at.
impl Nic for Node<'_> {
    fn rx_burst(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let (last, others) = self.cores.split_last_mut().unwrap();
        for other in others {
            other.rx_burst(RX_BURST, &mut |_| panic!("it is not for this core"));
        }
        last.rx_burst(max, sink)
    }

    fn tx_push(&mut self, now: Timestamp, to: Endpoint, frame: &[u8]) -> bool {
        self.cores.last_mut().unwrap().tx_push(now, to, frame)
    }

    /// The last first: others may send for it.
    fn tx_flush(&mut self, now: Timestamp) -> usize {
        self.cores.iter_mut().rev().map(|nic| nic.tx_flush(now)).sum()
    }

    fn wake(&self) -> Wake {
        self.cores.last().unwrap().wake()
    }

    fn stats(&self) -> NicStats {
        self.cores.last().unwrap().stats()
    }
}

#[test]
fn af_packet_passes_the_suite() {
    passes_the_suite("af_packet", CORES);
}

#[test]
fn af_xdp_passes_the_suite() {
    passes_the_suite("af_xdp", 1);
}

/// The kernel would keep what comes to the other queue: a node that starts all the same hears some peers, and not
/// others.
#[test]
fn af_xdp_refuses_an_interface_of_which_it_would_miss_frames() {
    let veth = Veth::new(2).unwrap();
    let refused = "mako0 has 2 receive queues and its port uses 1: what comes to the others would be lost; \
                   ethtool -L mako0 rx 1";
    assert_eq!(open_alone(&veth, &device("af_xdp"), 2), Err(refused.to_string()));
    // Who says where it starts leaves the others to somebody else.
    assert_eq!(open_alone(&veth, &(device("af_xdp") + ",start_queue=0"), 2), Ok(()));
}

/// Every buffer of both sides goes to the device many times over, one frame at a time: one that the kernel
/// never gives back is missed in the end, and a hundred of them stop the link.
fn no_buffer_is_lost(driver: &str) {
    let veth = Veth::new(1).unwrap();
    let (mut left, mut right) = pair(&veth, driver);
    let mut now = Timestamp(SECOND);
    send_one(&mut left, &mut right, &mut now, b"first");
    let at_rest = |node: &Node<'_>| node.cores[0].queue.available();
    let before = [at_rest(&left), at_rest(&right)];
    for _ in 0..50_000 {
        send_one(&mut left, &mut right, &mut now, b"frame");
    }
    // What was sent last is given back when something is sent the next time, a ring's length at most.
    let after = [at_rest(&left), at_rest(&right)];
    for (before, after) in before.into_iter().zip(after) {
        assert!(after + 2_048 >= before, "{before} mbufs were free, {after} are");
    }
}

#[test]
fn af_packet_loses_no_buffer() {
    no_buffer_is_lost("af_packet");
}

#[test]
fn af_xdp_loses_no_buffer() {
    no_buffer_is_lost("af_xdp");
}

/// A limit that is measured with frames other than one thinks is that of something else; and a port that was
/// measured is used on.
fn bare_frames_come_back(driver: &str) {
    let veth = Veth::new(1).unwrap();
    let (mut left, mut right) = pair(&veth, driver);
    let mut now = Timestamp(SECOND);
    send_one(&mut left, &mut right, &mut now, b"before");
    let [foreign, answered] = [&right, &left].map(|node| node.stats().foreign);
    let payloads: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 32 + usize::from(n)]).collect();
    let (to_right, to_left) = (right.cores[0].mac(), left.cores[0].mac());
    for _ in 0..50 {
        let mut near = left.cores[0].bare(to_right);
        let mut far = right.cores[0].bare(to_left);
        assert!(payloads.iter().all(|payload| near.push(payload)));
        let mut came = Vec::new();
        for _ in 0..ROUNDS_MAX {
            near.flush();
            far.receive(RX_BURST);
            far.turn_back();
            far.flush();
            let count = near.receive(RX_BURST);
            came.extend((0..count).map(|place| near.payload(place).to_vec()));
            if came.len() == payloads.len() {
                break;
            }
            std::thread::yield_now();
        }
        assert!(came == payloads, "{} of {} came back", came.len(), payloads.len());
    }
    send_one(&mut left, &mut right, &mut now, b"after");
    assert_eq!([&right, &left].map(|node| node.stats().foreign), [foreign, answered]);
}

#[test]
fn bare_frames_of_af_packet_come_back() {
    bare_frames_come_back("af_packet");
}

#[test]
fn bare_frames_of_af_xdp_come_back() {
    bare_frames_come_back("af_xdp");
}

fn survives_a_lost_link(driver: &str) {
    let veth = Veth::new(1).unwrap();
    let (mut left, mut right) = pair(&veth, driver);
    let mut now = Timestamp(SECOND);
    send_one(&mut left, &mut right, &mut now, b"before");
    veth.set_link(Side::Right, "down").unwrap();
    for _ in 0..3_000 {
        left.tx_push(now, NEAR, b"lost");
        left.tx_flush(now);
        now = now.plus_ns(MS);
    }
    // A core that waited for the link would not sleep, and would not send to others.
    for _ in 0..2 * STUCK_NS / MS {
        now = now.plus_ns(MS);
        left.tx_flush(now);
    }
    assert_eq!(left.cores[0].queue.leaving(), 0);
    veth.set_link(Side::Right, "up").unwrap();
    let mut came = 0;
    for _ in 0..ROUNDS_MAX {
        now = now.plus_ns(MS);
        left.tx_push(now, NEAR, b"after");
        left.rx_burst(RX_BURST, &mut |_| panic!("nothing was sent back"));
        left.tx_flush(now);
        right.rx_burst(RX_BURST, &mut |frame| came += usize::from(frame == b"after"));
        if came > 1_000 {
            return;
        }
        std::thread::yield_now();
    }
    panic!("the link is up again and {came} frames came: {:?}, {:?}", left.stats(), right.stats());
}

#[test]
fn af_packet_survives_a_lost_link() {
    survives_a_lost_link("af_packet");
}

#[test]
fn af_xdp_survives_a_lost_link() {
    survives_a_lost_link("af_xdp");
}

/// All cores have to let go of the port before it is reset, and none may wait for another in a turn.
#[test]
fn a_port_is_reset_when_all_its_cores_have_come_by() {
    let veth = Veth::new(CORES).unwrap();
    let mut left = open(&veth, "af_packet", Side::Left, 2, &[]);
    let mut right = open(&veth, "af_packet", Side::Right, 1, &[]);
    let mut now = Timestamp(SECOND);
    send_one(&mut left, &mut right, &mut now, b"before");
    let [first, second] = left.cores.as_mut_slice() else { unreachable!("two cores") };
    assert!(first.tx_push(now, NEAR, b"lost"));
    first.queue.port().ask_reset();
    let before = first.stats().undeliverable;
    assert_eq!(first.tx_flush(now), 0);
    assert_eq!(first.stats().undeliverable, before + 1);
    // It waits for the other, and refuses meanwhile.
    assert!(!first.tx_push(now, NEAR, b"refused") && !first.is_up());
    assert_eq!(first.rx_burst(RX_BURST, &mut |_| ()), 0);
    second.tx_flush(now);
    assert!(first.is_up() && second.is_up());
    send_one(&mut left, &mut right, &mut now, b"after");
    left.cores.swap(0, 1);
    send_one(&mut left, &mut right, &mut now, b"after");
}

fn mac_of_right(left: &Node<'_>) -> Option<Mac> {
    let nic = &left.cores[0];
    nic.neighbours.mac(nic.ways[0].hop)
}

#[test]
fn peers_outside_the_subnet_are_reached_through_the_gateway() {
    let veth = Veth::new(1).unwrap();
    let far = Endpoint { node: crate::types::NodeId(5), core: CoreId(0) };
    let address = SocketAddr::from((Ipv4Addr::new(10, 99, 0, 1), PORT));
    let mut left = open(&veth, "af_packet", Side::Left, 1, &[(far, address)]);
    let mut right = open(&veth, "af_packet", Side::Right, 1, &[]);
    let mut now = Timestamp(SECOND);
    send_one(&mut left, &mut right, &mut now, b"near");
    let before = right.stats().foreign;
    for _ in 0..20 {
        assert!(left.tx_push(now, far, b"far"));
    }
    send_one(&mut left, &mut right, &mut now, b"near");
    // The gateway of this test is no router: what is not for itself is foreign.
    assert!(right.stats().foreign >= before + 20);
}

/// Whoever takes over an address tells so, and frames follow; a core that waits for an address asks for it
/// again, and gives up a frame that has waited long.
#[test]
fn a_silent_neighbour_is_asked_again_and_not_for_ever() {
    let veth = Veth::new(1).unwrap();
    let mut left = open(&veth, "af_packet", Side::Left, 1, &[]);
    let mut now = Timestamp(SECOND);
    for _ in 0..WAITING_MAX + 5 {
        assert!(left.tx_push(now, NEAR, b"nobody is there"));
    }
    assert_eq!((left.stats().overflowed, left.tx_flush(now)), (5, 0));
    assert_eq!(left.wake().deadline, Some(now.plus_ns(ASK_NS)));
    now = now.plus_ns(WAIT_NS_MAX);
    left.tx_flush(now);
    assert_eq!((left.stats().undeliverable, left.wake().deadline), (WAITING_MAX as u64, None));

    let mut right = open(&veth, "af_packet", Side::Right, 1, &[]);
    send_one(&mut left, &mut right, &mut now, b"it came");
    // Another machine takes over the address: it says so before it is asked.
    let known = mac_of_right(&left);
    drop(right);
    left.cores[0].neighbours.learn(ip(Side::Right), Mac([2, 0, 0, 0, 0, 99]));
    let mut right = open(&veth, "af_packet", Side::Right, 1, &[]);
    right.tx_flush(now);
    for _ in 0..ROUNDS_MAX {
        left.rx_burst(RX_BURST, &mut |_| ());
        std::thread::yield_now();
        if mac_of_right(&left) == known {
            return;
        }
    }
    panic!("the new owner of the address was not heard");
}

/// The kernel is the judge of our headers, and asks and answers ARP as others do.
fn speaks_with_the_kernel(driver: &str) {
    let veth = Veth::new(1).unwrap();
    veth.add_address(Side::Right, "10.77.0.2/24").unwrap();
    let socket = veth.within(Side::Right, || UdpSocket::bind((ip(Side::Right), PORT))).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let mut left = open(&veth, driver, Side::Left, 1, &[]);
    let mut now = Timestamp(SECOND);
    for bytes in [0, 1, 100, FRAME_BYTES] {
        let frame = vec![bytes as u8; bytes];
        assert!(left.tx_push(now, NEAR, &frame));
        for _ in 0..ROUNDS_MAX {
            left.rx_burst(RX_BURST, &mut |_| panic!("nothing was sent back"));
            left.tx_flush(now);
            if left.cores[0].waiting.is_empty() && left.cores[0].queue.leaving() == 0 {
                break;
            }
            now = now.plus_ns(MS);
            std::thread::yield_now();
        }
        let mut room = [0; 2 * FRAME_BYTES];
        let (came, from) = socket.recv_from(&mut room).unwrap();
        assert_eq!((&room[..came], from), (&frame[..], SocketAddr::from((ip(Side::Left), PORT))));
    }
    // It leaves checksums to the device that veth is not: its frames are known for what they are.
    socket.send_to(b"from the kernel", (ip(Side::Left), PORT)).unwrap();
    for _ in 0..ROUNDS_MAX {
        let came = left.rx_burst(RX_BURST, &mut |frame| assert_eq!(frame, b"from the kernel"));
        if came + left.stats().corrupt as usize == 1 {
            return;
        }
        std::thread::yield_now();
    }
    panic!("nothing came from the kernel: {:?}", left.stats());
}

#[test]
fn af_packet_speaks_with_the_kernel() {
    speaks_with_the_kernel("af_packet");
}

#[test]
fn af_xdp_speaks_with_the_kernel() {
    speaks_with_the_kernel("af_xdp");
}

/// The longer nothing comes the longer a core sleeps, and no longer than a frame may be late.
#[test]
fn an_idle_core_that_nothing_wakes_sleeps_longer_and_longer() {
    let veth = Veth::new(CORES).unwrap();
    let mut left = open(&veth, "af_packet", Side::Left, 2, &[]);
    let mut right = open(&veth, "af_packet", Side::Right, 1, &[]);
    let mut now = Timestamp(SECOND);
    send_one(&mut left, &mut right, &mut now, b"frame");
    let nic = &mut left.cores[1];
    let mut slept = Vec::new();
    for idle_ns in [0, MS, 3 * MS, SECOND] {
        nic.tx_flush(nic.active_at.plus_ns(idle_ns));
        slept.push(nic.wake().blind_ns_max.unwrap());
    }
    assert_eq!(slept, [BLIND_NS_MIN, MS / 8, 3 * MS / 8, BLIND_NS_MAX]);
}

/// A core alone sleeps until a frame comes, as over UDP; without the file this would wait for ever.
fn a_frame_wakes_a_sleeper(driver: &str) {
    let veth = Veth::new(1).unwrap();
    let (mut left, mut right) = pair(&veth, driver);
    let mut now = Timestamp(SECOND);
    for _ in 0..100 {
        send_one(&mut left, &mut right, &mut now, b"frame");
        assert_eq!(right.wake().blind_ns_max, None);
        assert!(left.tx_push(now, NEAR, b"wake") && left.tx_flush(now) == 0);
        let fd = right.wake().fd.unwrap();
        while right.rx_burst(1, &mut |frame| assert_eq!(frame, b"wake")) == 0 {
            crate::nic::udp::wait_readable(fd, 60_000);
        }
    }
}

#[test]
fn a_frame_of_af_packet_wakes_a_sleeper() {
    a_frame_wakes_a_sleeper("af_packet");
}

#[test]
fn a_frame_of_af_xdp_wakes_a_sleeper() {
    a_frame_wakes_a_sleeper("af_xdp");
}

/// A node that was killed leaves its program behind, and must find its way past it.
#[test]
fn a_program_left_on_an_interface_is_taken_off_and_said_so() {
    let veth = Veth::new(1).unwrap();
    for _ in 0..2 {
        veth.within(Side::Left, || interface::leave_program(INTERFACE));
        let (notices, left) = open_and_say(&veth, "af_xdp", Side::Left, 1, &[]);
        assert!(notices.iter().any(|notice| notice.contains("is taken off")), "{notices:?}");
        let (mut left, mut right) = (left, open(&veth, "af_xdp", Side::Right, 1, &[]));
        send_one(&mut left, &mut right, &mut Timestamp(SECOND), b"frame");
        drop(left);
        let (notices, _left) = open_and_say(&veth, "af_xdp", Side::Left, 1, &[]);
        assert!(!notices.iter().any(|notice| notice.contains("is taken off")), "{notices:?}");
    }
}

/// A node that is started twice must not take the port from the one that runs.
fn a_port_that_is_used_is_left_alone(driver: &str) {
    let veth = Veth::new(1).unwrap();
    let (mut left, mut right) = pair(&veth, driver);
    let mut now = Timestamp(SECOND);
    send_one(&mut left, &mut right, &mut now, b"before");
    let error = open_alone(&veth, &device(driver), 1).unwrap_err();
    assert!(error.contains("could not be claimed: mako0 is a port of another process"), "{error}");
    send_one(&mut left, &mut right, &mut now, b"after");
}

#[test]
fn a_port_of_af_packet_that_is_used_is_left_alone() {
    a_port_that_is_used_is_left_alone("af_packet");
}

#[test]
fn a_port_of_af_xdp_that_is_used_is_left_alone() {
    a_port_that_is_used_is_left_alone("af_xdp");
}

/// Short frames would pass and long ones vanish: calls that hang, and no hint why.
#[test]
fn an_interface_too_narrow_for_a_frame_is_refused() {
    let veth = Veth::new(1).unwrap();
    for driver in ["af_xdp", "af_packet"] {
        let open = || open_alone(&veth, &device(driver), 1);
        veth.set_link(Side::Left, "mtu 1499").unwrap();
        let refused = "mako0 carries packets of 1499 bytes and a frame takes up to 1500: ip link set dev mako0 mtu 1500";
        assert_eq!(open(), Err(refused.to_string()));
        veth.set_link(Side::Left, "mtu 1500").unwrap();
        assert_eq!(open(), Ok(()));
    }
}

/// It would be taken from whoever uses it.
#[test]
fn a_name_that_a_port_of_this_process_has_is_refused() {
    let [here, there] = [Veth::new(1).unwrap(), Veth::new(1).unwrap()];
    let mut left = open(&here, "af_packet", Side::Left, 1, &[]);
    let mut right = open(&here, "af_packet", Side::Right, 1, &[]);
    let name = left.cores[0].queue.port().name();
    let refused = open_alone(&there, &format!("{name},iface={INTERFACE}"), 1).unwrap_err();
    assert!(refused.contains("another port of this process has that name"), "{refused}");
    send_one(&mut left, &mut right, &mut Timestamp(SECOND), b"after");
}

#[test]
fn what_is_not_there_is_named() {
    let site = |device| Site {
        device,
        listen: SocketAddrV4::new(ip(Side::Left), PORT),
        cores: 1,
        subnet: "10.77.0.0/24".parse().unwrap(),
        gateway: None,
        peers: &[],
    };
    for device in ["net_af_packet_gone,iface=absent", "02:00:00:00:00:fe"] {
        let error = Dpdk::open(&site(device)).err().map(|error| error.to_string()).unwrap();
        let name = device.split(',').next().unwrap();
        assert!(error.starts_with(&format!("there is no port {name}: ")), "{error}");
    }
    let far = [(RIGHT, SocketAddr::from(([10, 78, 0, 1], PORT)))];
    let error = Dpdk::open(&Site { peers: &far, ..site("net_af_packet_gone,iface=absent") }).err();
    assert!(matches!(error, Some(DpdkError::NoWay { .. })));
}

const ROUNDS_MAX: usize = 20_000;
