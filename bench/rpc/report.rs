//! What a run of the transport came to: judged, as JSON, and as a page. The names in the JSON are a published interface.
#![forbid(unsafe_code)]

use super::load::Answered;
use super::{OfSize, OfWindow, Results};
use crate::failover::{Told, Verdicts, checks_json, checks_page};
use crate::machine::Machine;
use crate::options::{Medium, RpcOptions};
use crate::report::Percentiles;
use mako::bounds::{SECOND, US};
use mako::config::{format_duration_ns, format_size_bytes};
use serde_json::{Value, json};
use std::fmt::Write;

pub fn tell(options: &RpcOptions, results: &Results) -> Told {
    let verdicts = judge(options, results);
    let first = results.sizes.first().and_then(|of_size| of_size.windows.first().map(|w| (of_size, w)));
    let json = json!({
        "bench": "rpc",
        "version": 1,
        "config": {
            "nic": options.nic.to_string(),
            "size": options.sizes,
            "window": options.windows,
            "sessions": options.sessions,
            "message": options.message_bytes,
            "duration": format_duration_ns(options.duration_ns),
            "warmup": format_duration_ns(options.warmup_ns),
            "seed": options.seed,
        },
        "machine": Machine::read(),
        "throughput_per_s": first.map(|(_, window)| window.all.per_s().round()),
        "latency_us": { "round_trip": first.map(|(of_size, _)| Percentiles::of(&of_size.ping.round_trips)) },
        "sizes": results.sizes.iter().map(size_json).collect::<Vec<_>>(),
        "long_message": long_json(results),
        "checks": checks_json(&verdicts),
    });
    let holds = verdicts.values().all(Option::is_none);
    let page = page(options, results) + &checks_page(&verdicts);
    Told { json, page, holds }
}

fn judge(options: &RpcOptions, results: &Results) -> Verdicts {
    let mut verdicts = Verdicts::new();
    // Of packet sockets no speed is promised.
    let is_fast = options.nic != Medium::AfPacket;
    for of_size in &results.sizes {
        let mut findings = of_size.whole();
        if is_fast {
            findings.extend(of_size.fast(options));
        }
        for (name, broken, why) in findings {
            let verdict = verdicts.entry(name).or_insert(None);
            if broken && verdict.is_none() {
                *verdict = Some(format!("{} bytes: {why}", of_size.size));
            }
        }
    }
    if is_fast && options.message_bytes >= LONG_BYTES {
        let ratio = results.copied.per_s() / results.raw_copy_per_s;
        let slow = format!("{ratio:.2} of a plain copy, below {COPY_MIN}");
        verdicts.insert("long_message", is_below(ratio, COPY_MIN).then_some(slow));
    }
    for (name, copied) in
        [("long_message_intact", &results.copied), ("lossy_message_intact", &results.copied_lossy)]
    {
        let why = format!("{} of {} arrived changed, or not at all", copied.wrong, copied.messages);
        verdicts.insert(name, (copied.wrong > 0).then_some(why));
    }
    verdicts
}

/// What is promised, whether the promise is broken, and how.
type Finding = (&'static str, bool, String);

impl OfSize {
    /// What has to be so over every medium.
    fn whole(&self) -> Vec<Finding> {
        let wrong = self.answers().map(|answered| answered.wrong).sum::<u64>();
        let gap_ns = self.answers().map(|answered| answered.gap_ns_max).max().unwrap_or(0);
        let waited = format!("no answer for {}", format_duration_ns(gap_ns));
        vec![
            ("answers", wrong > 0, format!("{wrong} were not what was asked")),
            ("no_stall", gap_ns > GAP_NS_MAX, waited),
        ]
    }

    fn fast(&self, options: &RpcOptions) -> Vec<Finding> {
        let (round_trip, apart) = (self.round_trip_ratio(), self.apart_ratio());
        let mut findings = vec![
            (
                "round_trip",
                round_trip.is_nan() || round_trip > ROUND_TRIP_MAX,
                format!("{round_trip:.2} of the raw one, above {ROUND_TRIP_MAX}"),
            ),
            ("apart", is_below(apart, APART_MIN), format!("{apart:.2} of the raw echo, below {APART_MIN}")),
        ];
        if self.size > COALESCED_BYTES {
            return findings;
        }
        let least = |least, ratio| if is_below(ratio, least) { ratio } else { least };
        let sealed = self.windows.iter().map(OfWindow::sealed_ratio).fold(f64::INFINITY, least);
        let why = format!("{sealed:.2} of the requests in the open, below {SEALED_MIN}");
        findings.push(("authentication", is_below(sealed, SEALED_MIN), why));
        if options.sessions >= MANY_SESSIONS {
            let (most, burst) = (self.most_per_s(), self.burst_ratio());
            let why = format!("{burst:.2} of the frames of a raw burst, below {BURST_MIN}");
            findings.push(("burst", is_below(burst, BURST_MIN), why));
            let why = format!("{most:.0} per second, below {COALESCED_MIN:.0}");
            // Where the kernel passes on many frames at once.
            findings.extend((options.nic == Medium::Udp).then_some(("coalesced", most < COALESCED_MIN, why)));
        }
        findings
    }

    /// Requests of all sessions, with the window that is best for them.
    fn most_per_s(&self) -> f64 {
        self.windows.iter().map(|window| window.all.per_s()).fold(0.0, f64::max)
    }

    fn burst_ratio(&self) -> f64 {
        self.most_per_s() / self.raw_burst_per_s
    }

    fn round_trip_ratio(&self) -> f64 {
        let p50 = |histogram: &hdrhistogram::Histogram<u64>| histogram.value_at_quantile(0.5) as f64;
        p50(&self.ping.round_trips) / p50(&self.raw_ping)
    }

    fn apart_ratio(&self) -> f64 {
        self.apart.per_s() / self.raw_echo_per_s
    }

    fn answers(&self) -> impl Iterator<Item = &Answered> {
        let of_windows = self.windows.iter().flat_map(|window| [&window.one, &window.all, &window.sealed]);
        of_windows.chain([&self.ping, &self.apart])
    }
}

impl OfWindow {
    fn sealed_ratio(&self) -> f64 {
        self.sealed.per_s() / self.all.per_s()
    }
}

fn size_json(of_size: &OfSize) -> Value {
    json!({
        "size": of_size.size,
        "round_trip_us": {
            "raw": Percentiles::of(&of_size.raw_ping),
            "rpc": Percentiles::of(&of_size.ping.round_trips),
            "p50_ratio": of_size.round_trip_ratio(),
            "longest_gap": gap_us(&of_size.ping),
        },
        "apart_per_s": {
            "raw": of_size.raw_echo_per_s.round(),
            "rpc": of_size.apart.per_s().round(),
            "ratio": of_size.apart_ratio(),
            "longest_gap_us": gap_us(&of_size.apart),
        },
        "burst_per_s": {
            "raw": of_size.raw_burst_per_s.round(),
            "rpc": of_size.most_per_s().round(),
            "ratio": of_size.burst_ratio(),
        },
        "windows": of_size.windows.iter().map(window_json).collect::<Vec<_>>(),
    })
}

fn window_json(of_window: &OfWindow) -> Value {
    let one = |answered: &Answered| {
        json!({
            "per_s": answered.per_s().round(),
            "round_trip_us": Percentiles::of(&answered.round_trips),
            "longest_gap_us": gap_us(answered),
        })
    };
    json!({
        "window": of_window.window,
        "one_session": one(&of_window.one),
        "all_sessions": one(&of_window.all),
        "all_sessions_sealed": one(&of_window.sealed),
        "sealed_ratio": of_window.sealed_ratio(),
    })
}

fn gap_us(answered: &Answered) -> f64 {
    answered.gap_ns_max as f64 / US as f64
}

fn long_json(results: &Results) -> Value {
    let (copied, lossy) = (&results.copied, &results.copied_lossy);
    json!({
        "raw_bytes_per_s": results.raw_copy_per_s.round(),
        "rpc_bytes_per_s": copied.per_s().round(),
        "ratio": copied.per_s() / results.raw_copy_per_s,
        "messages": copied.messages,
        "lossy": {
            "bytes_per_s": lossy.per_s().round(),
            "messages": lossy.messages,
            "frames_lost": lossy.lost,
            "packets_resent": lossy.packets_resent,
        },
    })
}

fn page(options: &RpcOptions, results: &Results) -> String {
    let mut page = format!("rpc over {}, one core each side, {} sessions\n", options.nic, options.sessions);
    for of_size in &results.sizes {
        let _ = writeln!(page, "\n{} bytes", of_size.size);
        let (raw, rpc) = (Percentiles::of(&of_size.raw_ping), Percentiles::of(&of_size.ping.round_trips));
        line(&mut page, "raw ping-pong", None, &raw);
        line(&mut page, "one request at a time", Some(of_size.round_trip_ratio()), &rpc);
        rate(&mut page, "raw burst, one way", of_size.raw_burst_per_s, None, None);
        rate(&mut page, "raw echo", of_size.raw_echo_per_s, None, None);
        let apart = &of_size.apart;
        rate(&mut page, "a frame each", apart.per_s(), Some(of_size.apart_ratio()), Some(apart));
        for OfWindow { window, one, all, sealed } in &of_size.windows {
            let raw = of_size.raw_echo_per_s;
            for (name, answered) in [("one session", one), ("all sessions", all), ("all sealed", sealed)] {
                let name = format!("{name}, window {window}");
                rate(&mut page, &name, answered.per_s(), Some(answered.per_s() / raw), Some(answered));
            }
        }
        let best = (of_size.most_per_s(), of_size.burst_ratio());
        let _ =
            writeln!(page, "  {:<28}{:>10.0} per second, {:.2} of a raw burst", "at most", best.0, best.1);
        let gap = of_size.answers().map(gap_us).fold(0.0, f64::max) / 1e3;
        let _ = writeln!(page, "  {:<28}{gap:>10.1} ms", "longest without an answer");
    }
    let (copied, lossy) = (&results.copied, &results.copied_lossy);
    let raw = results.raw_copy_per_s;
    let _ = writeln!(page, "\nmessages of {}", format_size_bytes(options.message_bytes));
    let _ = writeln!(page, "  {:<28}{:>8.0} MB/s", "raw copy", raw / 1e6);
    let (ours, ratio) = (copied.per_s() / 1e6, copied.per_s() / raw);
    let _ = writeln!(page, "  {:<28}{ours:>8.0} MB/s, {ratio:.2} of raw", "a request each");
    let bad = format!("{} frames lost, {} packets resent", lossy.lost, lossy.packets_resent);
    let lossy = lossy.per_s() / 1e6;
    let _ = writeln!(page, "  {:<28}{lossy:>8.0} MB/s, {bad}\n", "1 % lost, and reordered");
    page
}

fn line(page: &mut String, name: &str, ratio: Option<f64>, round_trips: &Percentiles) {
    let [p50, p90, p99, p999, max] = round_trips.columns();
    let ratio = ratio.map(|ratio| format!(", p50 {ratio:.2} of raw")).unwrap_or_default();
    let _ = writeln!(
        page,
        "  {name:<28}p50 {p50:.1} us, p90 {p90:.1}, p99 {p99:.1}, p99.9 {p999:.1}, max {max:.0}{ratio}"
    );
}

fn rate(page: &mut String, name: &str, per_s: f64, ratio: Option<f64>, answered: Option<&Answered>) {
    let ratio = ratio.map(|ratio| format!(", {ratio:.2} of raw")).unwrap_or_default();
    let p50 = answered.map(|answered| {
        let round_trips = Percentiles::of(&answered.round_trips);
        format!("; p50 {:.1} us, p99 {:.1}", round_trips.p50, round_trips.p99)
    });
    let _ = writeln!(page, "  {name:<28}{per_s:>10.0} per second{ratio}{}", p50.unwrap_or_default());
}

/// Of nothing measured against nothing too.
fn is_below(ratio: f64, least: f64) -> bool {
    ratio.is_nan() || ratio < least
}

/// What is promised, against the raw figures of the same run.
const ROUND_TRIP_MAX: f64 = 1.3;
const APART_MIN: f64 = 0.7;
const BURST_MIN: f64 = 0.7;
const COPY_MIN: f64 = 0.7;
/// Between two answers, whatever else the machine does: what has stalled does not go on by itself.
const GAP_NS_MAX: u64 = SECOND;
/// Of the requests per second that go in the open.
const SEALED_MIN: f64 = 0.75;
/// A message takes so long that the round trip behind it does not count.
const LONG_BYTES: u64 = 1 << 20;
/// Requests per second of one core, of many sessions whose packets share what the kernel is called for.
const COALESCED_MIN: f64 = 1e6;
const COALESCED_BYTES: usize = 32;
const MANY_SESSIONS: u32 = 32;
