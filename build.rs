//! With feature `dpdk`, builds the shim in `ffi/` and links DPDK; otherwise does nothing.
//!
//! Never `-march=native`: a binary runs on other machines than the one that built it.
#![forbid(unsafe_code)]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=ffi");
    #[cfg(feature = "dpdk")]
    if let Err(why) = dpdk::build() {
        println!("cargo::error={why}");
    }
}

#[cfg(feature = "dpdk")]
mod dpdk {
    use std::path::PathBuf;
    use std::{env, panic, process::Command};

    /// Found by the names of devices, not by symbols: a linker would leave them out.
    const DRIVERS: &[&str] = &[
        "bus_pci",
        "bus_vdev",
        "bus_auxiliary",
        "mempool_ring",
        "net_af_packet",
        "net_af_xdp",
        "net_ring",
        "common_iavf",
        "common_mlx5",
        "net_e1000",
        "net_ena",
        "net_i40e",
        "net_iavf",
        "net_ice",
        "net_ixgbe",
        "net_mlx5",
        "net_virtio",
        "net_vmxnet3",
    ];
    const ARCHIVES: &[&str] = &[
        "security",
        "cryptodev",
        "ethdev",
        "hash",
        "rcu",
        "meter",
        "timer",
        "net",
        "pci",
        "mbuf",
        "mempool",
        "ring",
        "kvargs",
        "telemetry",
        "eal",
    ];
    const SHARED: &[&str] = &["xdp", "bpf", "elf", "numa", "bsd", "z", "mlx5", "ibverbs"];

    pub fn build() -> Result<(), String> {
        // All of it: the crate of that name drops the header DPDK wants included and the CPU it wants at least.
        let flags = pkg_config("--cflags")?;
        let directory = pkg_config("--variable=libdir")?.concat();
        let mut shim = cc::Build::new();
        for flag in &flags {
            shim.flag(flag);
        }
        shim.file("ffi/dpdk_shim.c").try_compile("mako_dpdk_shim").map_err(|why| why.to_string())?;
        println!("cargo::rustc-link-search=native={directory}");
        for driver in DRIVERS {
            println!("cargo::rustc-link-lib=static:+whole-archive=rte_{driver}");
        }
        ARCHIVES.iter().for_each(|name| println!("cargo::rustc-link-lib=static=rte_{name}"));
        SHARED.iter().for_each(|name| println!("cargo::rustc-link-lib=dylib={name}"));
        bind(&flags)
    }

    fn pkg_config(question: &str) -> Result<Vec<String>, String> {
        let answer = Command::new("pkg-config").args([question, "libdpdk"]).output();
        let answer = answer.ok().filter(|answer| answer.status.success());
        let answer = answer
            .ok_or("feature dpdk needs DPDK: apt-get install pkg-config libdpdk-dev, or build without it")?;
        Ok(String::from_utf8_lossy(&answer.stdout).split_whitespace().map(str::to_string).collect())
    }

    fn bind(flags: &[String]) -> Result<(), String> {
        let generate = || {
            let builder = bindgen::builder().header("ffi/dpdk_shim.h").clang_args(flags);
            builder.allowlist_item("(mako|MAKO)_.*").layout_tests(false).generate()
        };
        // It panics where there is no libclang.
        panic::set_hook(Box::new(|_| ()));
        let bindings = panic::catch_unwind(generate);
        let bindings = bindings.map_err(|_| "feature dpdk needs libclang: apt-get install libclang-dev")?;
        let path = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?).join("dpdk_shim.rs");
        bindings.map_err(|why| why.to_string())?.write_to_file(path).map_err(|why| why.to_string())
    }
}
