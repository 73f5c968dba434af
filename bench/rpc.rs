//! The transport alone: what two cores can say to each other, and what the bare medium can do in the same run.
//!
//! Every figure of ours has one of the medium's beside it, measured in turn with it in short slices, because a
//! figure of a busy machine alone says nothing. Here it is decided what is measured and what is promised.
#![deny(unsafe_code)]

mod copy;
mod limits;
mod load;
#[cfg(feature = "dpdk")]
mod ports;
mod raw;
mod report;
mod wire;

use crate::failover::Told;
use crate::hgrm;
use crate::options::{Medium, RpcOptions};
use crate::runner::progress;
use anyhow::bail;
use copy::Copied;
use hdrhistogram::Histogram;
use load::{Answered, Load};
use mako::bounds::SECOND;
use mako::reactor::affinity;
use mako::types::Timestamp;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use wire::{Loopback, Wire};

pub fn run(options: &RpcOptions, interrupted: &AtomicBool) -> anyhow::Result<Told> {
    let results = match options.nic {
        Medium::Udp => measure(options, &mut Loopback, interrupted)?,
        #[cfg(feature = "dpdk")]
        Medium::AfXdp | Medium::AfPacket => {
            let driver = if options.nic == Medium::AfXdp { "net_af_xdp" } else { "net_af_packet" };
            let mut ports = ports::Ports::open(driver, options.sessions as usize)?;
            ports.notices.iter().for_each(|notice| eprintln!("{notice}"));
            measure(options, &mut ports, interrupted)?
        }
        #[cfg(not(feature = "dpdk"))]
        Medium::AfXdp | Medium::AfPacket => unreachable!("refused on the command line"),
    };
    if let (Some(path), Some(of_size)) = (&options.hdr, results.sizes.first()) {
        crate::write(path, hgrm::render(&of_size.ping.round_trips))?;
    }
    Ok(report::tell(options, &results))
}

fn measure(options: &RpcOptions, wire: &mut impl Wire, interrupted: &AtomicBool) -> anyhow::Result<Results> {
    let cpus = Cpus::choose();
    let mut results = Results {
        sizes: options.sizes.iter().map(|size| OfSize::new(*size as usize, &options.windows)).collect(),
        raw_copy_per_s: 0.0,
        copied: Copied::default(),
        copied_lossy: Copied::default(),
    };
    let (warmup_ns, ns) = (options.warmup_ns, options.duration_ns / ROUNDS);
    let sessions = options.sessions as usize;
    let bytes = usize::try_from(options.message_bytes)?;
    let steps = ROUNDS * (options.sizes.len() * (5 + 3 * options.windows.len()) + 3) as u64;
    let bar = progress("rpc", steps);
    let step = || -> anyhow::Result<()> {
        bar.inc(1);
        if interrupted.load(Ordering::Relaxed) {
            bail!("the run was interrupted (signal): nothing is reported");
        }
        Ok(())
    };
    for round in 0..ROUNDS {
        let slice = Slice { warmup_ns, ns, seed: options.seed + 2 * round, interrupted };
        for of_size in &mut results.sizes {
            of_size.measure(cpus, wire, sessions, slice, &step)?;
        }
        results.raw_copy_per_s += limits::copy(cpus, wire, bytes, slice)? / ROUNDS as f64;
        step()?;
        copy::run(cpus, wire, bytes, slice, &mut results.copied)?;
        step()?;
        copy::run_lossy(cpus, wire, bytes, slice, &mut results.copied_lossy)?;
        step()?;
    }
    bar.finish_and_clear();
    Ok(results)
}

pub struct Results {
    pub sizes: Vec<OfSize>,
    pub raw_copy_per_s: f64,
    pub copied: Copied,
    pub copied_lossy: Copied,
}

/// What was measured with requests and responses of one size.
pub struct OfSize {
    pub size: usize,
    /// One frame at a time, one request at a time.
    pub raw_ping: Histogram<u64>,
    pub ping: Answered,
    /// Frames in one direction.
    pub raw_burst_per_s: f64,
    /// As many frames under way as there are sessions; and one request of each session, each in a frame of its own.
    pub raw_echo_per_s: f64,
    pub apart: Answered,
    /// By window: one session, and all of them.
    pub windows: Vec<OfWindow>,
}

pub struct OfWindow {
    pub window: usize,
    pub one: Answered,
    pub all: Answered,
    /// All of them, whose frames are sealed.
    pub sealed: Answered,
}

impl OfSize {
    fn new(size: usize, windows: &[u32]) -> OfSize {
        let of_window = |window: &u32| OfWindow {
            window: *window as usize,
            one: Answered::nothing(),
            all: Answered::nothing(),
            sealed: Answered::nothing(),
        };
        OfSize {
            size,
            raw_ping: histogram(),
            ping: Answered::nothing(),
            raw_burst_per_s: 0.0,
            raw_echo_per_s: 0.0,
            apart: Answered::nothing(),
            windows: windows.iter().map(of_window).collect(),
        }
    }

    fn measure(
        &mut self,
        cpus: Cpus,
        wire: &mut impl Wire,
        sessions: usize,
        slice: Slice<'_>,
        step: &dyn Fn() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let size = self.size;
        self.raw_ping.add(limits::ping_pong(cpus, wire, size, slice)?)?;
        step()?;
        let load = Load { size, window: 1, sessions: 1, coalesced: true, sealed: false };
        load::run(cpus, wire, load, slice, &mut self.ping)?;
        step()?;
        self.raw_burst_per_s += limits::burst(cpus, wire, size, slice)? / ROUNDS as f64;
        step()?;
        self.raw_echo_per_s += limits::echo(cpus, wire, size, sessions, slice)? / ROUNDS as f64;
        step()?;
        load::run(cpus, wire, Load { sessions, coalesced: false, ..load }, slice, &mut self.apart)?;
        step()?;
        for OfWindow { window, one, all, sealed } in &mut self.windows {
            let load = Load { window: *window, ..load };
            load::run(cpus, wire, load, slice, one)?;
            step()?;
            load::run(cpus, wire, Load { sessions, ..load }, slice, all)?;
            step()?;
            load::run(cpus, wire, Load { sessions, sealed: true, ..load }, slice, sealed)?;
            step()?;
        }
        Ok(())
    }
}

/// How long one measurement goes on before it is another's turn.
#[derive(Clone, Copy)]
pub struct Slice<'a> {
    pub warmup_ns: u64,
    pub ns: u64,
    pub seed: u64,
    pub interrupted: &'a AtomicBool,
}

impl Slice<'_> {
    /// Whether what has `begun` and is to take `ns` is over, or nobody wants it any more.
    pub fn is_over(self, begun: Timestamp, now: Timestamp, ns: u64) -> bool {
        now.since(begun) >= ns || self.interrupted.load(Ordering::Relaxed)
    }
}

/// The CPUs of the two cores, where there are two.
#[derive(Clone, Copy)]
pub struct Cpus(Option<[usize; 2]>);

impl Cpus {
    fn choose() -> Cpus {
        Cpus(affinity::usable_cpus().first_chunk().copied())
    }

    /// Runs both, each on its CPU. When `ask` has ended, `stop` is set, at which `answer` must end.
    pub fn run<T: Send>(
        self,
        stop: &AtomicBool,
        ask: impl FnOnce() -> T + Send,
        answer: impl FnOnce() + Send,
    ) -> T {
        let pin = |place: usize| self.0.map(|cpus| affinity::pin(cpus[place]));
        thread::scope(|scope| {
            scope.spawn(|| {
                pin(1);
                answer();
            });
            let asking = scope.spawn(|| {
                pin(0);
                let outcome = ask();
                stop.store(true, Ordering::Relaxed);
                outcome
            });
            asking.join().expect("a panic aborts")
        })
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10 * SECOND, 3).expect("constant bounds")
}

/// Each measurement is taken in so many slices, in turn with the others.
const ROUNDS: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Bench, Options};

    fn measured(nic: &str) -> serde_json::Value {
        let line =
            format!("mako-bench rpc --nic {nic} --duration 40ms --warmup 1ms --window 1,4 --message 300KiB");
        let Bench::Rpc(options) = Options::read(line.split(' ')).unwrap().bench else { panic!("rpc") };
        run(&options, &AtomicBool::new(false)).unwrap().json
    }

    /// A bench that nobody runs rots. What it measured on a machine that does other things is not judged.
    fn every_figure_has_the_medium_beside_it_and_every_answer_is_right(nic: &str) {
        let json = measured(nic);
        assert_eq!(json["config"]["nic"], nic);
        for name in ["answers", "long_message_intact", "lossy_message_intact"] {
            assert_eq!(json["checks"][name], "ok", "{}", json["checks"]);
        }
        let size = &json["sizes"][0];
        for of_size in [
            &size["round_trip_us"]["p50_ratio"],
            &size["apart_per_s"]["ratio"],
            &size["burst_per_s"]["ratio"],
        ] {
            assert!(of_size.as_f64().is_some_and(|ratio| ratio > 0.0 && ratio.is_finite()), "{size}");
        }
        let windows = size["windows"].as_array().unwrap();
        assert_eq!(
            windows.iter().map(|window| window["window"].as_u64()).collect::<Vec<_>>(),
            [Some(1), Some(4)]
        );
        let names = ["one_session", "all_sessions", "all_sessions_sealed"];
        let rates = windows.iter().flat_map(|window| names.map(|name| &window[name]));
        for rate in rates {
            let [per_s, gap] = ["per_s", "longest_gap_us"].map(|name| rate[name].as_f64());
            assert!(per_s > Some(0.0) && gap > Some(0.0), "{size}");
        }
        assert!(json["long_message"]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{json}");
        assert!(json["checks"].get("long_message").is_none(), "a short message is mostly round trip");
        let is_judged = |name: &str| json["checks"].get(name).is_some();
        assert!(is_judged("no_stall"));
        assert_eq!(
            is_judged("apart") && is_judged("round_trip") && is_judged("burst"),
            !nic.contains("packet")
        );
    }

    #[test]
    fn loopback_is_measured() {
        every_figure_has_the_medium_beside_it_and_every_answer_is_right("udp");
    }

    /// As root, as the tests of `nic::dpdk`.
    #[cfg(feature = "dpdk")]
    #[test]
    fn ports_over_packet_sockets_are_measured() {
        every_figure_has_the_medium_beside_it_and_every_answer_is_right("dpdk:net_af_packet");
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn ports_over_af_xdp_are_measured() {
        every_figure_has_the_medium_beside_it_and_every_answer_is_right("dpdk:net_af_xdp");
    }

    /// Who interrupts a run of minutes does not wait for the end of a slice.
    #[test]
    fn an_interrupted_slice_is_over() {
        let interrupted = AtomicBool::new(false);
        let slice = Slice { warmup_ns: 0, ns: SECOND, seed: 1, interrupted: &interrupted };
        let begun = Timestamp(SECOND);
        let is_over = |ns| slice.is_over(begun, begun.plus_ns(ns), SECOND);
        assert_eq!([is_over(SECOND - 1), is_over(SECOND)], [false, true]);
        interrupted.store(true, Ordering::Relaxed);
        assert!(is_over(0));
    }
}
