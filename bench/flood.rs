//! A flood of garbage at the nodes' ports while a load runs: in slices, one without and one with it in turn.
//!
//! A thread of its own sends; what it sends is `garbage`'s, what the kernel says of CPU time and lost datagrams `usage`'s.
//! What dropping a datagram costs is measured before the run, on a core that does nothing else. So the report can say what
//! part of the CPU the nodes spent on dropping, and whether that explains what the load has lost.
//!
//! Invariant: the slices with the flood and those without are as many and as long, and alternate.
#![forbid(unsafe_code)]

mod garbage;
mod usage;

use anyhow::Context;
use garbage::Garbage;
use mako::bounds::{MS, SECOND};
use mako::clock;
use mako::config::Config;
use mako::server::make_keys;
use mako::types::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use usage::Usage;

/// Gives a cluster a key, kept where its nodes keep their logs: in the open, a forged frame is a frame.
pub fn seal(config: &mut Config) -> anyhow::Result<()> {
    let path = config.nodes[0].data.with_file_name("flood.key");
    make_keys(&path).with_context(|| format!("no key ({})", path.display()))?;
    config.key_file = Some(path);
    Ok(())
}

/// When to flood, and how much.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Datagrams per second.
    pub rate: u64,
    pub warmup_ns: u64,
    pub duration_ns: u64,
}

/// A flood under way.
pub struct Flood {
    thread: JoinHandle<anyhow::Result<Told>>,
    over: Arc<AtomicBool>,
}

/// What there is to report.
pub struct Told {
    pub figures: Value,
    /// `None` when the CPU spent on dropping explains what was lost; else why not.
    pub verdict: Option<String>,
}

impl Flood {
    /// Begins with the first transaction that `commits` counts.
    pub fn start(plan: Plan, config: Config, commits: Arc<AtomicU64>) -> anyhow::Result<Flood> {
        let garbage = Garbage::new(&config).context("nothing to flood with")?;
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let work = move || Flooding { plan, config, garbage, commits, is_over }.run();
        let thread = thread::Builder::new()
            .name("flood".to_string())
            .spawn(work)
            .context("no thread for the flood")?;
        Ok(Flood { thread, over })
    }

    pub fn finish(self) -> anyhow::Result<Told> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the flood does not panic")
    }
}

struct Flooding {
    plan: Plan,
    config: Config,
    garbage: Garbage,
    commits: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

/// What happened in all slices of a kind.
#[derive(Clone, Copy, Default)]
struct Slices {
    count: u64,
    ns: u64,
    commits: u64,
    sent: u64,
    /// By the kernel, for want of room.
    lost: u64,
    /// CPU time of the nodes' cores, and of the flood itself.
    cores_ns: u64,
    flood_ns: u64,
}

impl Flooding {
    fn run(mut self) -> anyhow::Result<Told> {
        let drop_ns = self.garbage.cost_of_dropping_ns()?;
        while self.commits.load(Ordering::Relaxed) == 0 && !self.is_over.load(Ordering::Relaxed) {
            thread::park_timeout(Duration::from_nanos(MS));
        }
        self.idle_until(clock::now().plus_ns(self.plan.warmup_ns));
        let until = clock::now().plus_ns(self.plan.duration_ns);
        let mut kinds = [Slices::default(); 2];
        while clock::now().plus_ns(2 * SLICE_NS) <= until && !self.is_over.load(Ordering::Relaxed) {
            self.garbage.listen();
            for (kind, slices) in kinds.iter_mut().enumerate() {
                self.slice(kind == 1, slices);
                // What waits in sockets is not the next slice's.
                self.idle_until(clock::now().plus_ns(REST_NS));
            }
        }
        Ok(self.tell(&kinds, drop_ns))
    }

    fn slice(&mut self, floods: bool, slices: &mut Slices) {
        let (began, before) = (clock::now(), Usage::read(&self.config));
        let commits = self.commits.load(Ordering::Relaxed);
        let end = began.plus_ns(SLICE_NS);
        let sent = if floods { self.send_until(began, end) } else { 0 };
        self.idle_until(end);
        let after = Usage::read(&self.config);
        slices.count += 1;
        slices.ns += clock::now().since(began);
        slices.commits += self.commits.load(Ordering::Relaxed) - commits;
        slices.sent += sent;
        slices.lost += after.lost - before.lost;
        slices.cores_ns += after.cores_ns - before.cores_ns;
        slices.flood_ns += after.flood_ns - before.flood_ns;
    }

    /// At the rate that was asked for, or as fast as it goes; how many datagrams.
    fn send_until(&mut self, began: Timestamp, end: Timestamp) -> u64 {
        let mut sent = 0;
        loop {
            let now = clock::now();
            if now >= end {
                return sent;
            }
            let meant =
                u64::try_from(u128::from(self.plan.rate) * u128::from(now.since(began)) / u128::from(SECOND));
            let due = meant.unwrap_or(u64::MAX).saturating_sub(sent).min(AT_ONCE);
            if due == 0 {
                thread::park_timeout(Duration::from_nanos(MS / 4));
            }
            for _ in 0..due {
                self.garbage.send();
                sent += 1;
            }
        }
    }

    fn idle_until(&self, end: Timestamp) {
        while clock::now() < end && !self.is_over.load(Ordering::Relaxed) {
            thread::park_timeout(Duration::from_nanos(end.since(clock::now())));
        }
    }

    fn tell(&self, kinds: &[Slices; 2], drop_ns: f64) -> Told {
        let [without, with] = kinds;
        let dropped = with.sent.saturating_sub(with.lost);
        let drop_share = dropped as f64 * drop_ns / with.cores_ns.max(1) as f64;
        let ratio = with.per_second() / without.per_second().max(f64::MIN_POSITIVE);
        let explained = explained(without, with, dropped as f64 * drop_ns);
        let figures = json!({
            "rate": self.plan.rate,
            "replays": self.garbage.captured(),
            "drop_ns": drop_ns.round(),
            "without": without.figures(),
            "with": with.figures(),
            "dropped_per_s": per_second(dropped, with.ns).round(),
            "cores_cpu_on_dropping": drop_share,
            "throughput_ratio": ratio,
            "throughput_ratio_explained": explained,
        });
        Told { figures, verdict: judge(without.count, ratio, explained) }
    }
}

/// What part of its throughput the load should have kept: as much as the nodes had CPU time left for it, by what a
/// transaction takes of it without the flood.
fn explained(without: &Slices, with: &Slices, dropping_ns: f64) -> f64 {
    let left_ns = (with.cores_ns as f64 - dropping_ns).max(0.0) / with.ns.max(1) as f64;
    let had_ns = without.cores_ns as f64 / without.ns.max(1) as f64;
    left_ns / had_ns.max(f64::MIN_POSITIVE)
}

fn judge(slices: u64, ratio: f64, explained: f64) -> Option<String> {
    if slices == 0 {
        return Some("the run was too short for a slice of each kind".to_string());
    }
    // Half an election that a slice of the machine's noise may bring about.
    let least = (1.0 - NOISE) * explained.min(1.0);
    (ratio < least).then(|| {
        format!("the load kept {ratio:.2} of its throughput, and CPU time for {explained:.2} of it was left")
    })
}

impl Slices {
    fn per_second(&self) -> f64 {
        per_second(self.commits, self.ns)
    }

    fn figures(&self) -> Value {
        json!({
            "slices": self.count,
            "throughput_per_s": self.per_second().round(),
            "sent_per_s": per_second(self.sent, self.ns).round(),
            "lost_per_s": per_second(self.lost, self.ns).round(),
            "cores_cpu": self.cores_ns as f64 / self.ns.max(1) as f64,
            "flood_cpu": self.flood_ns as f64 / self.ns.max(1) as f64,
        })
    }
}

/// The figures for a person at a terminal.
pub fn render(figures: &Value) -> String {
    let number = |path: &str| figures.pointer(path).and_then(Value::as_f64).unwrap_or_default();
    let mut page = String::new();
    for kind in ["without", "with"] {
        let [throughput, sent, lost, cores, flood] =
            ["throughput_per_s", "sent_per_s", "lost_per_s", "cores_cpu", "flood_cpu"]
                .map(|name| number(&format!("/{kind}/{name}")));
        page += &format!(
            "  {kind:<8}flood: {throughput:.0} per second; {sent:.0} datagrams per second sent, {lost:.0} lost; \
             CPUs: cores {cores:.2}, flood {flood:.2}\n"
        );
    }
    let [drop_ns, share, ratio, explained] =
        ["/drop_ns", "/cores_cpu_on_dropping", "/throughput_ratio", "/throughput_ratio_explained"]
            .map(number);
    page += &format!(
        "  dropping one takes {drop_ns:.0} ns, in all {:.1} % of the cores' CPU time; throughput kept {ratio:.2}, \
         CPU time left for {explained:.2}\n\n",
        100.0 * share
    );
    page
}

fn per_second(count: u64, ns: u64) -> f64 {
    count as f64 * SECOND as f64 / ns.max(1) as f64
}

/// Long enough for a hundred round trips, short enough that what else the machine does falls on both kinds.
const SLICE_NS: u64 = 400 * MS;
const REST_NS: u64 = 100 * MS;
/// Datagrams between two looks at the clock.
const AT_ONCE: u64 = 32;
/// By how much the throughput of two slices differs here for no reason.
const NOISE: f64 = 0.15;

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(commits: u64, cores_ms: u64) -> Slices {
        Slices { count: 1, ns: SECOND, commits, cores_ns: cores_ms * MS, ..Slices::default() }
    }

    /// A flood that stops the load by other ways than its cost must not pass for one that costs CPU.
    #[test]
    fn a_loss_beyond_the_cpu_spent_on_dropping_is_told() {
        let without = slices(1_000, 2_000);
        // A quarter of the CPU went to dropping, and a quarter of the throughput.
        let explained_loss = explained(&without, &slices(750, 2_000), 0.5e9);
        assert!((explained_loss - 0.75).abs() < 1e-9, "{explained_loss}");
        assert_eq!(judge(1, 0.75, explained_loss), None);
        assert!(judge(1, 0.5, explained_loss).is_some());
        // The sender took CPU from the cores.
        let starved = explained(&without, &slices(500, 1_000), 0.0);
        assert_eq!((judge(1, 0.5, starved), judge(1, 0.3, starved).is_some()), (None, true));
        assert!(judge(0, 1.0, 1.0).is_some());
    }
}
