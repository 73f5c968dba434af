//! Durations and sizes as people write them: `500us`, `50ms`, `2s`; `64KiB`, `1GiB`.
//!
//! A whole number and a unit, nothing between. No fractions: `1500ms` says `1.5s` without asking how a
//! fraction rounds. Used by the cluster file and the command line alike.
//!
//! Invariant: what `format_*` writes, `parse_*` reads back to the same number.
#![forbid(unsafe_code)]

use super::mistake::Refusal;
use crate::bounds::{MS, SECOND, US};

/// Nanoseconds of a duration such as `500us`.
pub fn parse_duration_ns(text: &str) -> Result<u64, Refusal> {
    parse(text, &DURATIONS, "a duration is a whole number and ns, us, ms, s or min", "write it like 50ms")
}

/// Bytes of a size such as `64KiB`.
pub fn parse_size_bytes(text: &str) -> Result<u64, Refusal> {
    parse(text, &SIZES, "a size is a whole number and B, KiB, MiB, GiB or TiB", "write it like 64KiB")
}

/// The shortest way to write a duration exactly.
pub fn format_duration_ns(ns: u64) -> String {
    // Minutes are read but not written: `90s` tells more at a glance than a mix of the two.
    format(ns, &DURATIONS[1..], "0s")
}

/// The shortest way to write a size exactly.
pub fn format_size_bytes(bytes: u64) -> String {
    format(bytes, &SIZES, "0B")
}

fn parse(text: &str, units: &[(&str, u64)], shape: &str, remedy: &str) -> Result<u64, Refusal> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let found = units.iter().find(|(name, _)| *name == unit);
    let (Some((_, scale)), false) = (found, number.is_empty()) else {
        return Err(Refusal::new(shape, remedy));
    };
    let value = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*scale));
    value.ok_or_else(|| Refusal::new("the number does not fit in 64 bits", remedy))
}

fn format(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    let unit = units.iter().find(|(_, scale)| value != 0 && value.is_multiple_of(*scale));
    unit.map_or(zero.to_string(), |(name, scale)| format!("{}{name}", value / scale))
}

/// Largest first, so that `format` meets the shortest spelling first.
const DURATIONS: [(&str, u64); 5] = [("min", 60 * SECOND), ("s", SECOND), ("ms", MS), ("us", US), ("ns", 1)];
const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_mean_what_they_say() {
        let durations =
            [("0ms", 0), ("7ns", 7), ("500us", 500_000), ("50ms", 50_000_000), ("2min", 120 * SECOND)];
        for (text, ns) in durations {
            assert_eq!(parse_duration_ns(text), Ok(ns), "{text}");
        }
        for (text, bytes) in [("0B", 0), ("64KiB", 65_536), ("1GiB", 1 << 30)] {
            assert_eq!(parse_size_bytes(text), Ok(bytes), "{text}");
        }
    }

    /// A unit guessed wrong is a thousandfold error that nobody notices before production.
    #[test]
    fn what_is_not_exactly_a_number_and_a_unit_is_refused() {
        for text in ["", "5", "ms", "1.5s", "-1s", "1 s", " 1s", "1S", "1e3ms", "99999999999999s", "１s"] {
            assert!(parse_duration_ns(text).is_err(), "{text}");
        }
        for text in ["64", "64KB", "64kib", "64k", "99999999TiB"] {
            assert!(parse_size_bytes(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// `--write-config` must not round what it writes.
        #[test]
        fn what_is_written_is_read_back(value: u64) {
            prop_assert_eq!(parse_duration_ns(&format_duration_ns(value)), Ok(value));
            prop_assert_eq!(parse_size_bytes(&format_size_bytes(value)), Ok(value));
        }

        #[test]
        fn hostile_text_is_refused_without_a_panic(text in ".*") {
            let _ = parse_duration_ns(&text);
            let _ = parse_size_bytes(&text);
        }
    }
}
