//! The decoders under libFuzzer: which one, the variable `MAKO_FUZZ` says. Built with feature `fuzz` only.
#![no_main]

use mako::fuzz::{TARGETS, Target};
use std::sync::OnceLock;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    let target = CHOSEN.get_or_init(|| {
        let name = std::env::var("MAKO_FUZZ").unwrap_or_default();
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        let found = TARGETS.iter().find(|target| target.name == name).copied();
        found.unwrap_or_else(|| panic!("MAKO_FUZZ={name:?} names no target; there are {}", names.join(", ")))
    });
    (target.run)(bytes);
});
