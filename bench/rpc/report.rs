//! What a run of the transport came to: judged, as JSON, and as a page. The names in the JSON are a published interface.
#![forbid(unsafe_code)]

use super::load::Answered;
use super::{OfSize, OfWindow, Results};
use crate::failover::{Told, Verdicts, checks_json, checks_page};
use crate::machine::Machine;
use crate::options::RpcOptions;
use crate::report::Percentiles;
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
            "nic": "udp",
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
    for of_size in &results.sizes {
        let size = of_size.size;
        let mut say = |name, broken: bool, why: String| {
            let verdict = verdicts.entry(name).or_insert(None);
            if broken && verdict.is_none() {
                *verdict = Some(format!("{size} bytes: {why}"));
            }
        };
        let ratio = of_size.round_trip_ratio();
        say(
            "round_trip",
            ratio > ROUND_TRIP_MAX,
            format!("{ratio:.2} of the raw one, above {ROUND_TRIP_MAX}"),
        );
        let ratio = of_size.apart_ratio();
        say("apart", ratio < APART_MIN, format!("{ratio:.2} of the raw echo, below {APART_MIN}"));
        if size <= COALESCED_BYTES && options.sessions >= MANY_SESSIONS {
            let most = of_size.windows.iter().map(|w| w.all.per_s()).fold(0.0, f64::max);
            let why = format!("{most:.0} per second, below {COALESCED_MIN:.0}");
            say("coalesced", most < COALESCED_MIN, why);
        }
        if size <= COALESCED_BYTES {
            let least = of_size.windows.iter().map(OfWindow::sealed_ratio).fold(f64::INFINITY, f64::min);
            let why = format!("{least:.2} of the requests in the open, below {SEALED_MIN}");
            say("authentication", least < SEALED_MIN, why);
        }
        let wrong = of_size.answers().map(|answered| answered.wrong).sum::<u64>();
        say("answers", wrong > 0, format!("{wrong} were not what was asked"));
    }
    let ratio = results.copied.per_s() / results.raw_copy_per_s;
    let slow = format!("{ratio:.2} of a plain copy, below {COPY_MIN}");
    if options.message_bytes >= LONG_BYTES {
        verdicts.insert("long_message", (ratio < COPY_MIN).then_some(slow));
    }
    for (name, copied) in
        [("long_message_intact", &results.copied), ("lossy_message_intact", &results.copied_lossy)]
    {
        let why = format!("{} of {} arrived changed, or not at all", copied.wrong, copied.messages);
        verdicts.insert(name, (copied.wrong > 0).then_some(why));
    }
    verdicts
}

impl OfSize {
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
        },
        "apart_per_s": {
            "raw": of_size.raw_echo_per_s.round(),
            "rpc": of_size.apart.per_s().round(),
            "ratio": of_size.apart_ratio(),
        },
        "windows": of_size.windows.iter().map(window_json).collect::<Vec<_>>(),
    })
}

fn window_json(of_window: &OfWindow) -> Value {
    let one = |answered: &Answered| json!({ "per_s": answered.per_s().round(), "round_trip_us": Percentiles::of(&answered.round_trips) });
    json!({
        "window": of_window.window,
        "one_session": one(&of_window.one),
        "all_sessions": one(&of_window.all),
        "all_sessions_sealed": one(&of_window.sealed),
        "sealed_ratio": of_window.sealed_ratio(),
    })
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
    let mut page = format!("rpc over udp, one core each side, {} sessions\n", options.sessions);
    for of_size in &results.sizes {
        let _ = writeln!(page, "\n{} bytes", of_size.size);
        let (raw, rpc) = (Percentiles::of(&of_size.raw_ping), Percentiles::of(&of_size.ping.round_trips));
        line(&mut page, "raw ping-pong", None, &raw);
        line(&mut page, "one request at a time", Some(of_size.round_trip_ratio()), &rpc);
        rate(&mut page, "raw echo", of_size.raw_echo_per_s, None, None);
        let apart = &of_size.apart;
        rate(&mut page, "a datagram each", apart.per_s(), Some(of_size.apart_ratio()), Some(apart));
        for OfWindow { window, one, all, sealed } in &of_size.windows {
            let raw = of_size.raw_echo_per_s;
            for (name, answered) in [("one session", one), ("all sessions", all), ("all sealed", sealed)] {
                let name = format!("{name}, window {window}");
                rate(&mut page, &name, answered.per_s(), Some(answered.per_s() / raw), Some(answered));
            }
        }
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

/// What is promised over loopback, against the raw figures of the same run.
const ROUND_TRIP_MAX: f64 = 1.3;
const APART_MIN: f64 = 0.7;
const COPY_MIN: f64 = 0.7;
/// Of the requests per second that go in the open.
const SEALED_MIN: f64 = 0.75;
/// A message takes so long that the round trip behind it does not count.
const LONG_BYTES: u64 = 1 << 20;
/// Requests per second of one core, of many sessions whose packets share what the kernel is called for.
const COALESCED_MIN: f64 = 1e6;
const COALESCED_BYTES: usize = 32;
const MANY_SESSIONS: u32 = 32;
