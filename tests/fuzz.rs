//! Every decoder (`mako::fuzz`) over a kept corpus and mutations of it: bounded and the same in each run, on any compiler.
//!
//! `testdata/fuzz/TARGET/` holds inputs that decode, and any that once found a fault. After a change of a format run with
//! `UPDATE_TESTDATA=1`.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use mako::fuzz::{TARGETS, Target};
use mako::types::Prng;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn directory(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fuzz").join(target.name)
}

/// By the names of the files, so that every run is the same.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// A length that is believed before it is checked takes memory for what never comes.
fn run(target: &Target, input: &[u8]) -> bool {
    let mut meant = false;
    let taken = allocation_counter::measure(|| meant = (target.run)(input)).bytes_max;
    let most = (target.memory_bytes + BYTES_PER_BYTE * input.len()) as u64;
    assert!(taken <= most, "{}: {} bytes took {taken} of memory, at most {most}", target.name, input.len());
    meant
}

#[test]
fn what_is_kept_still_means_something() {
    for target in TARGETS {
        if env::var_os("UPDATE_TESTDATA").is_some() {
            fs::create_dir_all(directory(target)).unwrap();
            for (number, seed) in (target.seeds)().iter().enumerate() {
                fs::write(directory(target).join(format!("seed-{number}")), seed).unwrap();
            }
        }
        let corpus = corpus(target);
        let kept = (target.seeds)();
        assert!(corpus.iter().filter(|input| run(target, input)).count() >= kept.len(), "{}", target.name);
        for (number, seed) in kept.iter().enumerate() {
            assert!(corpus.contains(seed), "{}: seed-{number} is of an older format", target.name);
        }
    }
}

#[test]
fn mutations_of_what_is_kept_are_decoded_or_refused() {
    for target in TARGETS {
        let corpus = corpus(target);
        let mut prng = Prng::with_seed(SEED);
        let (mut meant, mut meant_nothing) = (0, 0);
        for number in 0..MUTATIONS {
            let input = mutated(&mut prng, &corpus);
            let outcome = std::panic::catch_unwind(|| run(target, &input));
            match outcome {
                Ok(true) => meant += 1,
                Ok(false) => meant_nothing += 1,
                Err(_) => {
                    let found = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
                    fs::write(&found, &input).unwrap();
                    panic!(
                        "{}: mutation {number} is in {}; keep it in testdata/fuzz",
                        target.name,
                        found.display()
                    );
                }
            }
        }
        println!("{:<12} {meant} of {MUTATIONS} mutations mean something", target.name);
        // One that takes everything, or nothing, tests nothing.
        assert!(meant > 0, "{}", target.name);
        assert!(meant_nothing > 0 || target.name == "sealed", "{}", target.name);
    }
}

/// One of the corpus, changed in a few places.
fn mutated(prng: &mut Prng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[prng.usize(..corpus.len())].clone();
    for _ in 0..prng.usize(1..=4) {
        let at = prng.usize(..=bytes.len());
        match prng.u8(..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << prng.u8(..8),
            1 if at < bytes.len() => bytes[at] = prng.u8(..),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, prng.u8(..)),
            4 => drop(bytes.drain(at..(at + prng.usize(..16)).min(bytes.len()))),
            5 => {
                // Where lengths and counts are, these are the ones that hurt.
                let width = [1, 2, 4, 8][prng.usize(..4)];
                let value =
                    [0, 1, u64::MAX, u64::MAX - 1, 1 << 31, 0x7fff_ffff, bytes.len() as u64][prng.usize(..7)];
                let until = (at + width).min(bytes.len());
                bytes[at..until].copy_from_slice(&value.to_le_bytes()[..until - at]);
            }
            6 => {
                let other = &corpus[prng.usize(..corpus.len())];
                let from = prng.usize(..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            _ => {
                let until = (at + prng.usize(..64)).min(bytes.len());
                let repeated = bytes[at..until].to_vec();
                bytes.splice(at..at, repeated);
            }
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

const SEED: u64 = 4;
const MUTATIONS: usize = 10_000;
const INPUT_BYTES_MAX: usize = 64 << 10;
/// What decoding may take for each byte of its input, beyond what it always takes.
const BYTES_PER_BYTE: usize = 64;
