//! DPDK's environment: one of each process, started with the first port and there until the process ends.
//!
//! It pins the thread that starts it and calls that one its main thread: so it gets a thread of its own,
//! which does nothing else. Huge pages are used where enough are free, and are given back by the kernel
//! however the process ends, because no file names them.
#![allow(unsafe_code, reason = "an unsafe room: C is called with pointers to arguments")]

use super::device::Device;
use super::patience::patiently;
use super::{DpdkError, sys};
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};
use std::{fs, process, ptr, thread};

/// What came of a start.
pub struct Started {
    /// What the operator should know, if the environment was started just now.
    pub notices: Vec<String>,
    /// Until it is dropped no other process counts on the huge pages that are free: of those that start together
    /// each would find enough, and all but the first would go without. To be kept until the memory is taken.
    pub claim: Option<File>,
}

/// Whether the environment is there.
pub fn start(device: &Device, memory_bytes: u64) -> Result<Started, DpdkError> {
    static STARTED: OnceLock<Result<(), c_int>> = OnceLock::new();
    let (mut notices, mut claim) = (Vec::new(), None);
    let outcome = STARTED.get_or_init(|| {
        claim = claim_huge_pages();
        let pools = Path::new("/sys/kernel/mm/hugepages");
        let looks = if device.is_let_go_late() { LET_GO_LOOKS } else { 0 };
        let free = await_huge_bytes(memory_bytes, looks, |name| huge_bytes(pools, name));
        if free < memory_bytes {
            let missing = (memory_bytes - free).div_ceil(HUGE_PAGE_BYTES);
            notices.push(format!(
                "DPDK uses ordinary pages: huge pages of {} MiB are free and {} MiB are needed; \
                 hugepages/reserve.sh --pages {missing} --apply",
                free >> 20,
                memory_bytes >> 20,
            ));
        }
        initialise(arguments(device, free >= memory_bytes, memory_bytes))
    });
    match outcome {
        Ok(()) => Ok(Started { notices, claim }),
        Err(error) => Err(DpdkError::Environment { why: words(*error) }),
    }
}

/// All processes of a machine agree by a lock on a file that each machine has. Where it cannot be had they go on
/// without, as if each were alone.
fn claim_huge_pages() -> Option<File> {
    let file = File::open("/proc/sys/vm/nr_hugepages").ok()?;
    file.lock().ok().map(|()| file)
}

/// The huge pages that are free. Those of whoever had the device before, however it ended, come back with its
/// sockets, some time later: they are waited for where they would be enough.
fn await_huge_bytes(wanted: u64, looks: u32, bytes_of: impl Fn(&str) -> u64) -> u64 {
    let look = || {
        let free = bytes_of("free_hugepages");
        if free >= wanted || bytes_of("nr_hugepages") < wanted { Ok(free) } else { Err(free) }
    };
    patiently(looks, |_| true, look).unwrap_or_else(|free| free)
}

fn arguments(device: &Device, huge: bool, memory_bytes: u64) -> Vec<String> {
    let cpus: Vec<String> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|cpu| cpu.id.to_string()).collect();
    let mut arguments = vec!["mako".to_string(), format!("--lcores=0@({})", cpus.join(","))];
    arguments.extend(["--no-telemetry", "--log-level=error"].map(str::to_string));
    match device {
        Device::Virtual { .. } => arguments.push("--no-pci".to_string()),
        // No other device of the machine is touched.
        Device::Pci { address, arguments: more } => {
            let comma = if more.is_empty() { "" } else { "," };
            arguments.push(format!("--allow={address}{comma}{more}"));
        }
        // Each has to be looked at.
        Device::Mac(_) => {}
    }
    if huge {
        arguments.push("--in-memory".to_string());
    } else {
        // Two processes must not meet in one directory, even for the moment it is there.
        let prefix = format!("--file-prefix=mako-{}", process::id());
        // Of one process and all its ports, once and for all; but only what is used is taken.
        let megabytes = (2 * memory_bytes.div_ceil(1 << 20)).max(ORDINARY_MIB_MIN).to_string();
        arguments.extend(["--no-huge", "--no-shconf", "-m", &megabytes, &prefix].map(str::to_string));
        if let Device::Virtual { .. } = device {
            arguments.push("--iova-mode=va".to_string());
        }
    }
    arguments
}

/// On a thread that stays.
fn initialise(arguments: Vec<String>) -> Result<(), c_int> {
    let (tell, told) = mpsc::channel();
    let work = move || {
        // It keeps pointers into its arguments.
        let arguments: Vec<CString> =
            arguments.into_iter().map(|word| CString::new(word).expect("no argument holds a zero")).collect();
        let mut pointers: Vec<*mut c_char> = arguments.iter().map(|word| word.as_ptr().cast_mut()).collect();
        pointers.push(ptr::null_mut());
        let count = arguments.len() as c_int;
        // SAFETY: `count` strings and a null, which this thread, that never ends, keeps.
        let outcome = unsafe { sys::mako_eal_init(count, pointers.as_mut_ptr()) };
        // Who started us waits for it.
        let _ = tell.send(if outcome < 0 { Err(outcome) } else { Ok(()) });
        loop {
            thread::park();
        }
    };
    thread::Builder::new().name("mako.eal".to_string()).spawn(work).map_err(|_| -libc::EAGAIN)?;
    told.recv().unwrap_or(Err(-libc::ECHILD))?;
    remove_directory();
    Ok(())
}

/// The environment makes a directory, and with the memory we ask for puts nothing there.
fn remove_directory() {
    // SAFETY: the environment is there; it gives a string that stays, or null.
    let name = unsafe { sys::mako_eal_directory() };
    if name.is_null() {
        return;
    }
    // SAFETY: not null, and ends with a zero.
    let name = unsafe { CStr::from_ptr(name) };
    let directory = PathBuf::from(name.to_string_lossy().into_owned());
    // Only an empty one goes; another process may still have things in it.
    let _ = fs::remove_dir(directory);
}

/// The huge pages of all sizes of which the kernel keeps a count of this name.
fn huge_bytes(pools: &Path, count: &str) -> u64 {
    let pools = fs::read_dir(pools).into_iter().flatten().flatten();
    let bytes = pools.filter_map(|pool| {
        let name = pool.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: u64 = fs::read_to_string(pool.path().join(count)).ok()?.trim().parse().ok()?;
        Some(kib * pages * 1_024)
    });
    bytes.sum()
}

/// What DPDK calls an error.
pub fn words(error: c_int) -> String {
    // SAFETY: takes an integer, and gives a string that the calling thread may read until its next call.
    let text = unsafe { sys::mako_error_words(error) };
    // SAFETY: never null, and ends with a zero.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Gives the calling thread caches of mbufs, if it has none; where there are too many threads already,
/// it works without.
pub fn register_thread() {
    struct Registration(bool);
    impl Drop for Registration {
        fn drop(&mut self) {
            if self.0 {
                // SAFETY: this thread is registered, and holds nothing that depends on it.
                unsafe { sys::mako_thread_unregister() };
            }
        }
    }
    thread_local! {
        static REGISTRATION: Cell<Option<Registration>> = const { Cell::new(None) };
    }
    REGISTRATION.with(|registration| {
        let known = registration.take().unwrap_or_else(|| {
            // SAFETY: takes nothing, and notes this thread in tables of its own.
            Registration(unsafe { sys::mako_thread_register() } == 0)
        });
        registration.set(Some(known));
    });
}

/// How often to look whether what belonged to whoever had the device before is free.
pub const LET_GO_LOOKS: u32 = 200;
const HUGE_PAGE_BYTES: u64 = 2 << 20;
const ORDINARY_MIB_MIN: u64 = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_huge_pages_of_all_sizes_are_added_up() {
        let directory = tempfile::tempdir().unwrap();
        let free_huge_bytes = |pools: &Path| huge_bytes(pools, "free_hugepages");
        assert_eq!(free_huge_bytes(directory.path()), 0);
        for (size, free) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "1\n"), ("other", "9")] {
            fs::create_dir(directory.path().join(size)).unwrap();
            fs::write(directory.path().join(size).join("free_hugepages"), free).unwrap();
        }
        assert_eq!(free_huge_bytes(directory.path()), (6 << 20) + (1 << 30));
        assert_eq!(free_huge_bytes(&directory.path().join("absent")), 0);
    }

    /// A node that starts right after it was killed would find its own pages not yet free, and go without for as
    /// long as it lives.
    #[test]
    fn pages_that_come_back_are_waited_for_and_others_are_not() {
        let looks = Cell::new(0);
        let bytes_of = |reserved: u64| {
            let looks = &looks;
            move |name: &str| match name {
                "nr_hugepages" => reserved,
                _ => {
                    looks.set(looks.get() + 1);
                    10 * looks.get()
                }
            }
        };
        assert_eq!((await_huge_bytes(30, 5, bytes_of(100)), looks.take()), (30, 3));
        assert_eq!((await_huge_bytes(30, 5, bytes_of(20)), looks.take()), (10, 1));
        assert_eq!((await_huge_bytes(100, 2, bytes_of(100)), looks.take()), (30, 3));
        assert_eq!((await_huge_bytes(100, 0, bytes_of(100)), looks.take()), (10, 1));
    }

    #[test]
    fn one_process_at_a_time_counts_on_what_is_free() {
        let first = claim_huge_pages().expect("each machine has the file");
        let second = File::open("/proc/sys/vm/nr_hugepages").unwrap();
        assert!(second.try_lock().is_err());
        drop(first);
        assert!(second.try_lock().is_ok());
    }
}
