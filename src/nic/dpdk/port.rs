//! A port of DPDK: made, configured for the queues of a node's cores, started, reset, and closed.
//!
//! Invariants of [`Port`]:
//!   1. `id` is a configured port until drop, and no other `Port` has it.
//!   2. Pools and rings live as long as the `Port`, and go after the port is closed. Whoever holds an mbuf
//!      (a [`Queue`](super::queue::Queue)) holds the `Port` too: no mbuf outlives its pool.
//!   3. There is one `Queue` for each core below `cores`, made by `open`. Core c < `queues` has queue pair c of
//!      the device and is the one consumer of `outgoing[c]`; each core is the one consumer of its `incoming`.
//!   4. The port is taken down and up only by the queue that parks last, while all are parked.
#![allow(unsafe_code, reason = "an unsafe room: a port of C, and the memory its device writes to")]

use super::device::Device;
use super::eal::{LET_GO_LOOKS, Started, words};
use super::headers::Mac;
use super::interface::Interface;
use super::patience::patiently;
use super::queue::Queue;
use super::{DpdkError, eal, sockets, sys};
use std::ffi::{CString, c_int, c_void};
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub struct Port {
    id: u16,
    device: Device,
    cores: u16,
    /// Queue pairs of the device, at most one for each core.
    queues: u16,
    first_udp_port: u16,
    mac: Mac,
    offloads_tx: bool,
    offloads_all: bool,
    /// By core.
    pools: Vec<NonNull<c_void>>,
    /// Frames that other cores have received for this one, by core.
    incoming: Vec<NonNull<c_void>>,
    /// Frames of cores without a queue pair, by queue.
    outgoing: Vec<NonNull<c_void>>,
    /// Of a virtual device, by queue.
    sockets: Vec<RawFd>,
    /// Of a virtual device, from when it was opened.
    interface: Option<Interface>,
    /// How often the device has asked to be reset.
    resets: &'static AtomicU32,
    /// Queues that wait for a reset, and how many resets are done.
    parked: AtomicUsize,
    resets_done: AtomicU32,
}

// SAFETY: pools and rings are made for many threads (`ring_mp_mc`, a ring of many producers), each ring's
// one consumer is its queue (3); the rest is integers.
unsafe impl Send for Port {}
// SAFETY: as above.
unsafe impl Sync for Port {}

/// What was opened, and what the operator should know of it.
pub struct Opened {
    pub queues: Vec<Queue>,
    pub notices: Vec<String>,
}

impl Port {
    /// The port of `device`, with a queue for each of `cores` cores, of which core i has UDP port
    /// `first_udp_port` + i. Interfaces are looked for in the network namespace of the calling thread.
    pub fn open(device: &str, cores: u16, first_udp_port: u16) -> Result<Opened, DpdkError> {
        let device = Device::parse(device);
        let bytes = u64::from(cores) * POOL_BYTES + ENVIRONMENT_BYTES;
        let Started { mut notices, claim: _claim } = eal::start(&device, bytes)?;
        let (interface, left) = Interface::take(&device)?;
        notices.extend(left);
        let (mut port, unsteered) = Port::make_once_free(&device, cores, first_udp_port)?;
        if let Some(interface) = &interface {
            interface.check_queues(port.queues)?;
        }
        let (name, queues) = (&port.device, port.queues);
        if !port.offloads_all {
            notices.push(format!("{name}: it does not do all checksums itself: the cores do the others"));
        }
        if queues < cores {
            notices.push(format!(
                "{name}: {cores} cores share {queues} queue pairs: the first cores send and receive for the others"
            ));
        }
        if let Some(error) = unsteered {
            let why = words(error);
            notices.push(format!("{name}: it does not steer by UDP port ({why}): cores hand frames over"));
        }
        port.interface = interface;
        let port = Arc::new(port);
        let queues = (0..cores).map(|core| Queue::new(Arc::clone(&port), core)).collect();
        Ok(Opened { queues, notices })
    }

    /// As `make` does, when whoever had the device before has let it go.
    fn make_once_free(
        device: &Device,
        cores: u16,
        first_udp_port: u16,
    ) -> Result<(Port, Option<c_int>), DpdkError> {
        let looks = if device.is_let_go_late() { LET_GO_LOOKS } else { 0 };
        let is_busy = |error: &DpdkError| matches!(error, DpdkError::Port { .. });
        patiently(looks, is_busy, || Port::make(device, cores, first_udp_port))
    }

    /// A port that is started; and why it does not steer, if it should and does not.
    fn make(device: &Device, cores: u16, first_udp_port: u16) -> Result<(Port, Option<c_int>), DpdkError> {
        // Declared before: one that fails half-way is dropped after the lock, which its `drop` takes.
        let mut port;
        let _alone = alone();
        let others = sockets::open_now();
        let (id, device) = match find(device.clone().with_queues(cores)) {
            // Its driver may refuse instead of saying how many there are.
            Err(_) if cores > 1 => find(device.clone().with_queues(1))?,
            outcome => outcome?,
        };
        // SAFETY: takes an integer.
        let most = unsafe { sys::mako_port_queues(id) };
        port = Port {
            id,
            device,
            cores,
            queues: u16::try_from(most).unwrap_or(1).clamp(1, cores),
            first_udp_port,
            mac: mac_of(id)?,
            offloads_tx: false,
            offloads_all: false,
            pools: Vec::new(),
            incoming: Vec::new(),
            outgoing: Vec::new(),
            sockets: Vec::new(),
            interface: None,
            resets: resets(id),
            parked: AtomicUsize::new(0),
            resets_done: AtomicU32::new(resets(id).load(Ordering::Acquire)),
        };
        port.make_pools()?;
        port.make_rings()?;
        let outcome = port.bring_up();
        port.sockets = sockets::open_now().into_iter().filter(|fd| !others.contains(fd)).collect();
        let (offloads, unsteered) = outcome?;
        port.offloads_tx = offloads & sys::MAKO_OFFLOAD_TX != 0;
        port.offloads_all = offloads == sys::MAKO_OFFLOAD_TX | sys::MAKO_OFFLOAD_RX;
        Ok((port, unsteered))
    }

    fn make_pools(&mut self) -> Result<(), DpdkError> {
        let one_piece = c_int::from(self.device.needs_one_piece());
        for core in 0..self.cores {
            let (name, mut error) = (self.name_of("pool", core), 0);
            let (name, socket) = (name.as_ptr(), self.socket());
            // SAFETY: the name is copied, `error` is a local.
            let pool = unsafe { sys::mako_pool_new(name, POOL_MBUFS, socket, one_piece, &raw mut error) };
            self.pools.push(NonNull::new(pool).ok_or_else(|| DpdkError::Memory { why: words(error) })?);
        }
        Ok(())
    }

    fn make_rings(&mut self) -> Result<(), DpdkError> {
        let make = |kind: &str, number: u16| {
            let (name, mut error) = (self.name_of(kind, number), 0);
            // SAFETY: the name is copied, `error` is a local.
            let ring =
                unsafe { sys::mako_ring_new(name.as_ptr(), RING_MBUFS, self.socket(), &raw mut error) };
            NonNull::new(ring).ok_or_else(|| DpdkError::Memory { why: words(error) })
        };
        let incoming: Vec<_> = (0..self.cores).map(|core| make("in", core)).collect();
        let outgoing: Vec<_> = (0..self.queues).map(|queue| make("out", queue)).collect();
        // Those that were made are freed by `drop`, whatever became of the others.
        for (rings, made) in [(&mut self.incoming, incoming), (&mut self.outgoing, outgoing)] {
            for ring in made {
                rings.push(ring?);
            }
        }
        Ok(())
    }

    fn name_of(&self, kind: &str, number: u16) -> CString {
        CString::new(format!("mako_{kind}_{}_{number}", self.id)).expect("a name without zeros")
    }

    fn socket(&self) -> c_int {
        // SAFETY: takes an integer.
        unsafe { sys::mako_port_socket(self.id) }
    }

    /// Configures and starts the port. What the device does itself, and why it does not steer if it should
    /// and does not.
    fn bring_up(&self) -> Result<(u32, Option<c_int>), DpdkError> {
        let refuse = |step: &'static str| {
            move |error: c_int| DpdkError::Port { step, device: self.device.to_string(), why: words(error) }
        };
        let mut offloads = 0;
        // SAFETY: `offloads` is a local.
        let outcome = unsafe { sys::mako_port_configure(self.id, self.queues, &raw mut offloads) };
        checked(outcome).map_err(refuse("configured"))?;
        for (queue, pool) in (0..self.queues).zip(&self.pools) {
            // SAFETY: the pool lives longer than the port is open (2).
            let outcome = unsafe { sys::mako_port_queue(self.id, queue, pool.as_ptr()) };
            if outcome < 0 && self.device.keeps_what_it_freed() {
                // SAFETY: configured, and not started; the pool it is tried with is not kept.
                unsafe { sys::mako_port_queue_forget(self.id, queue) };
            }
            checked(outcome).map_err(refuse("given its queues"))?;
        }
        // SAFETY: configured just now.
        checked(unsafe { sys::mako_port_start(self.id) }).map_err(refuse("started"))?;
        let mut unsteered = None;
        for core in (0..self.cores).filter(|_| self.queues > 1) {
            let (queue, udp_port) = (core % self.queues, self.first_udp_port + core);
            // SAFETY: takes integers.
            let outcome = unsafe { sys::mako_port_steer(self.id, queue, udp_port) };
            unsteered = unsteered.or(checked(outcome).err());
        }
        Ok((offloads, unsteered))
    }

    pub fn id(&self) -> u16 {
        self.id
    }

    pub fn cores(&self) -> u16 {
        self.cores
    }

    /// The queue pair of the device that a core uses, if it has one to itself; else whose it uses.
    pub fn queue_of(&self, core: u16) -> Result<u16, u16> {
        if core < self.queues { Ok(core) } else { Err(core % self.queues) }
    }

    /// Becomes readable when a frame has come for that core's queue pair, if it has one and the device a socket.
    pub fn socket_of(&self, core: u16) -> Option<RawFd> {
        self.sockets.get(usize::from(core)).copied().filter(|_| core < self.queues)
    }

    /// Whether cores send through others.
    pub fn is_shared(&self) -> bool {
        self.queues < self.cores
    }

    /// As it is called.
    #[cfg(test)]
    pub fn name(&self) -> String {
        self.device.to_string()
    }

    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Whether the device fills in checksums.
    pub fn offloads_tx(&self) -> bool {
        self.offloads_tx
    }

    pub fn pool(&self, core: u16) -> NonNull<c_void> {
        self.pools[usize::from(core)]
    }

    pub fn incoming(&self, core: u16) -> NonNull<c_void> {
        self.incoming[usize::from(core)]
    }

    pub fn outgoing(&self, queue: u16) -> NonNull<c_void> {
        self.outgoing[usize::from(queue)]
    }

    /// How often the device has asked to be reset, and how many of those resets are done.
    pub fn resets(&self) -> (u32, u32) {
        (self.resets.load(Ordering::Acquire), self.resets_done.load(Ordering::Acquire))
    }

    /// Told by a queue that does nothing until `asked` resets are done. The last one does it.
    pub fn park(&self, asked: u32) {
        let parked = self.parked.fetch_add(1, Ordering::AcqRel) + 1;
        if parked < usize::from(self.cores) {
            return;
        }
        // SAFETY: no queue is in use: all are parked (4).
        let outcome = unsafe { sys::mako_port_reset(self.id) };
        if outcome != -libc::ENOTSUP {
            // One that does not come up loses every frame, as one without a link does; its next reset may help.
            let _ = self.bring_up();
        }
        self.parked.store(0, Ordering::Relaxed);
        self.resets_done.store(asked, Ordering::Release);
    }

    #[cfg(test)]
    pub fn ask_reset(&self) {
        // SAFETY: takes an integer.
        unsafe { sys::mako_port_ask_reset(self.id) };
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let _alone = alone();
        // SAFETY: no queue is left (2), so nobody uses it.
        unsafe { sys::mako_port_close(self.id) };
        if let Some((bus, name, _)) = self.device.plug() {
            // SAFETY: both are strings that outlive the call. What remains of it if it fails is not used.
            unsafe { sys::mako_port_unplug(bus.as_ptr(), name.as_ptr()) };
        }
        sockets::close_left(&self.sockets);
        for ring in self.incoming.iter().chain(&self.outgoing) {
            // SAFETY: closed, and no queue is left (2).
            unsafe { sys::mako_ring_free(ring.as_ptr()) };
        }
        for pool in &self.pools {
            // SAFETY: closed, and no queue is left that could hold an mbuf (2).
            unsafe { sys::mako_pool_free(pool.as_ptr()) };
        }
    }
}

/// One port is made or taken apart at a time: names and numbers are given again, and buses are not made for many.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The id of the port of `device`, which is plugged in if it is not there.
fn find(device: Device) -> Result<(u16, Device), DpdkError> {
    let outcome = match (&device, device.plug()) {
        (Device::Mac(mac), _) => {
            // SAFETY: six bytes.
            unsafe { sys::mako_port_of_mac(mac.0.as_ptr()) }
        }
        (_, Some((bus, name, arguments))) => {
            // SAFETY: a string that outlives the call.
            let there = unsafe { sys::mako_port_of_device(name.as_ptr()) };
            if there >= 0 {
                // One that nobody has plugged in was not there: it is in use.
                if let Device::Virtual { .. } = device {
                    let why = "another port of this process has that name".to_string();
                    return Err(DpdkError::NoDevice { device: device.to_string(), why });
                }
                there
            } else {
                // SAFETY: strings that outlive the call.
                let plugged = unsafe { sys::mako_port_plug(bus.as_ptr(), name.as_ptr(), arguments.as_ptr()) };
                let why = |error| DpdkError::NoDevice { device: device.to_string(), why: words(error) };
                checked(plugged).map_err(why)?;
                // SAFETY: a string that outlives the call.
                unsafe { sys::mako_port_of_device(name.as_ptr()) }
            }
        }
        (_, None) => -libc::ENODEV,
    };
    let none = || DpdkError::NoDevice { device: device.to_string(), why: words(outcome) };
    let id = u16::try_from(outcome).map_err(|_| none())?;
    Ok((id, device))
}

fn mac_of(id: u16) -> Result<Mac, DpdkError> {
    let mut mac = [0; 6];
    // SAFETY: six bytes of ours.
    let outcome = unsafe { sys::mako_port_mac(id, mac.as_mut_ptr()) };
    checked(outcome)
        .map_err(|error| DpdkError::NoDevice { device: format!("port {id}"), why: words(error) })?;
    Ok(Mac(mac))
}

fn resets(id: u16) -> &'static AtomicU32 {
    // SAFETY: takes the number of a port that exists.
    let count = unsafe { sys::mako_port_resets(id) };
    // SAFETY: an aligned number that lives as long as the process and is written as an atomic only.
    unsafe { AtomicU32::from_ptr(count) }
}

fn checked(outcome: c_int) -> Result<(), c_int> {
    if outcome < 0 { Err(outcome) } else { Ok(()) }
}

/// What a queue needs at most: 2,048 buffers that `net_af_xdp` lends the kernel to receive into, 1,024 received,
/// 1,024 being sent, 512 waiting to be, 512 on their way to another core, and what threads keep in their caches.
const POOL_MBUFS: u32 = 8_191;
/// Of buffers with their headers, and the list of those that are free.
const POOL_BYTES: u64 = 24 << 20;
const ENVIRONMENT_BYTES: u64 = 64 << 20;
/// One is always empty.
const RING_MBUFS: u32 = 512;

#[cfg(test)]
mod tests {
    use super::super::veth::{INTERFACE, Side, Veth};
    use super::*;

    /// The driver frees what it had made for the queue, and its close would write there: into what is another's.
    #[test]
    fn a_queue_that_is_refused_leaves_nothing_that_closing_would_touch() {
        let veth = Veth::new(1).unwrap();
        let device = |name: &str| Device::parse(&format!("net_af_xdp_{name},iface={INTERFACE}"));
        let make = |name: &str| Port::make_once_free(&device(name), 1, PORT).unwrap();
        veth.within(Side::Left, || {
            eal::start(&device("holder"), POOL_BYTES).unwrap();
            let holder = make("holder");
            for _ in 0..REFUSED {
                let refused = Port::make(&device("refused"), 1, PORT).err();
                assert!(
                    matches!(refused, Some(DpdkError::Port { step: "given its queues", .. })),
                    "{refused:?}"
                );
                // SAFETY: the environment is there.
                let is_zero = unsafe { sys::mako_heap_is_zero(2 * POOL_BYTES as usize) };
                assert_eq!(is_zero, 1, "something was written to what was free");
            }
            drop(holder);
            make("refused");
        });
    }

    const PORT: u16 = 7_400;
    const REFUSED: u32 = 5;
}
