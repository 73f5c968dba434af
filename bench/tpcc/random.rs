//! The random values TPC-C asks for: non-uniform numbers, last names, strings (clauses 2.1.6 and 4.3.2).
//!
//! Everything comes from the generator handed in, so a seed repeats a load and a run.
#![forbid(unsafe_code)]

use mako::types::Prng;

/// A string of at most `N` bytes, without an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    pub fn new(bytes: &[u8]) -> Self {
        let mut text = Text { bytes: [0; N], len: bytes.len() };
        text.bytes[..bytes.len()].copy_from_slice(bytes);
        text
    }

    /// An a-string of `min` to `N` characters.
    pub fn random(rng: &mut Prng, min: usize) -> Self {
        let mut text = Text { bytes: [0; N], len: rng.usize(min..=N) };
        fill(rng, &mut text.bytes[..text.len]);
        text
    }

    /// Data of which one row in ten says `ORIGINAL` somewhere (clause 4.3.3.1: I_DATA, S_DATA).
    pub fn random_data(rng: &mut Prng, min: usize) -> Self {
        let mut text = Text::random(rng, min);
        if rng.u32(0..10) == 0 {
            let at = rng.usize(0..=text.len - ORIGINAL.len());
            text.bytes[at..at + ORIGINAL.len()].copy_from_slice(ORIGINAL);
        }
        text
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Clause 2.4.2.2: a line is "brand" when item and stock both say so.
pub fn is_original(data: &[u8]) -> bool {
    data.windows(ORIGINAL.len()).any(|window| window == ORIGINAL)
}

fn fill(rng: &mut Prng, bytes: &mut [u8]) {
    for byte in bytes {
        *byte = LETTERS[rng.usize(..LETTERS.len())];
    }
}

/// An a-string of exactly `N` characters.
pub fn letters<const N: usize>(rng: &mut Prng) -> [u8; N] {
    let mut bytes = [0; N];
    fill(rng, &mut bytes);
    bytes
}

/// An n-string of exactly `N` digits.
pub fn digits<const N: usize>(rng: &mut Prng) -> [u8; N] {
    std::array::from_fn(|_| rng.u8(b'0'..=b'9'))
}

/// Clause 4.3.2.7: four digits and `11111`.
pub fn zip(rng: &mut Prng) -> [u8; 9] {
    let [a, b, c, d] = digits(rng);
    [a, b, c, d, b'1', b'1', b'1', b'1', b'1']
}

/// Clause 4.3.2.3: three syllables, one for each digit of a number below 1,000.
pub fn last_name(number: u32) -> Text<16> {
    assert!(number < 1_000, "last name {number}");
    let mut name = Text { bytes: [0; 16], len: 0 };
    for digit in [number / 100, number / 10 % 10, number % 10] {
        let syllable = SYLLABLES[digit as usize].as_bytes();
        name.bytes[name.len..name.len + syllable.len()].copy_from_slice(syllable);
        name.len += syllable.len();
    }
    name
}

/// The constants C of NURand, one draw for a whole run (clause 2.1.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NuRand {
    last_name: u32,
    customer: u32,
    item: u32,
}

impl NuRand {
    /// The constants while loading.
    pub fn for_load(rng: &mut Prng) -> NuRand {
        NuRand { last_name: rng.u32(0..=255), customer: rng.u32(0..=1_023), item: rng.u32(0..=8_191) }
    }

    /// The constants while running: that of last names must differ from the loader's by 65 to 119, but not by
    /// 96 or 112 (clause 2.1.6.1), so that the run does not ask for the names the load made most of.
    pub fn for_run(self, rng: &mut Prng) -> NuRand {
        let last_name = loop {
            let drawn = rng.u32(0..=255);
            let delta = drawn.abs_diff(self.last_name);
            if (65..=119).contains(&delta) && delta != 96 && delta != 112 {
                break drawn;
            }
        };
        NuRand { last_name, ..NuRand::for_load(rng) }
    }

    /// A number below `names`, to be made a last name.
    pub fn last_name(&self, rng: &mut Prng, names: u32) -> u32 {
        non_uniform(rng, 255, self.last_name, 0, names - 1)
    }

    /// A customer in 1..=`customers`.
    pub fn customer(&self, rng: &mut Prng, customers: u32) -> u32 {
        non_uniform(rng, 1_023, self.customer, 1, customers)
    }

    /// An item in 1..=`items`.
    pub fn item(&self, rng: &mut Prng, items: u32) -> u32 {
        non_uniform(rng, 8_191, self.item, 1, items)
    }
}

/// NURand(A, x, y) of clause 2.1.6.
fn non_uniform(rng: &mut Prng, a: u32, c: u32, low: u32, high: u32) -> u32 {
    (((rng.u32(0..=a) | rng.u32(low..=high)) + c) % (high - low + 1)) + low
}

/// A generator for one purpose: of the same words, always the same; of others, unrelated.
pub fn stream(seed: u64, words: [u32; 4]) -> Prng {
    // SplitMix64's finaliser over the words in turn.
    let mix = |state: u64| {
        let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ (state >> 31)
    };
    let start = mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let fold = |state: u64, word: &u32| mix(state.wrapping_mul(31).wrapping_add(u64::from(*word) + 1));
    Prng::with_seed(words.iter().fold(start, fold))
}

const ORIGINAL: &[u8] = b"ORIGINAL";
const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const SYLLABLES: [&str; 10] =
    ["BAR", "OUGHT", "ABLE", "PRI", "PRES", "ESE", "ANTI", "CALLY", "ATION", "EING"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_names_are_those_of_the_standard() {
        assert_eq!(last_name(371).as_bytes(), b"PRICALLYOUGHT");
        assert_eq!(last_name(40).as_bytes(), b"BARPRESBAR");
        assert_eq!(last_name(0).as_bytes(), b"BARBARBAR");
        assert!((0..1_000).all(|number| last_name(number).as_bytes().len() <= 15));
    }

    /// A uniform draw would halve the conflicts and make every figure of the bench too good.
    #[test]
    fn nurand_stays_in_range_and_is_far_from_uniform() {
        let mut rng = Prng::with_seed(7);
        let nurand = NuRand::for_load(&mut rng).for_run(&mut rng);
        let mut counts = vec![0u32; 3_001];
        for _ in 0..300_000 {
            counts[nurand.customer(&mut rng, 3_000) as usize] += 1;
            assert!((1..=100_000).contains(&nurand.item(&mut rng, 100_000)));
            assert!(nurand.last_name(&mut rng, 1_000) < 1_000);
        }
        assert_eq!(counts[0], 0);
        assert!(
            counts[1..].iter().filter(|count| **count > 0).count() > 2_900,
            "every customer has a chance"
        );
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let top_tenth: u32 = counts[..300].iter().sum();
        assert!(
            top_tenth > 90_000,
            "the busiest tenth has {top_tenth} of 300,000; uniform would have 30,000"
        );
    }

    #[test]
    fn the_constants_of_run_and_load_differ_as_the_standard_demands() {
        for seed in 0..500 {
            let mut rng = Prng::with_seed(seed);
            let load = NuRand::for_load(&mut rng);
            let run = load.for_run(&mut rng);
            let delta = run.last_name.abs_diff(load.last_name);
            assert!((65..=119).contains(&delta) && delta != 96 && delta != 112, "{delta}");
        }
    }

    #[test]
    fn a_tenth_of_the_data_is_original() {
        let mut rng = Prng::with_seed(1);
        let mut originals = 0;
        for _ in 0..10_000 {
            let data = Text::<50>::random_data(&mut rng, 26);
            assert!((26..=50).contains(&data.as_bytes().len()));
            originals += u32::from(is_original(data.as_bytes()));
        }
        assert!((800..1_200).contains(&originals), "{originals}");
    }

    /// The load is dealt to cores: a row must not depend on which core makes it, or after how many others.
    #[test]
    fn streams_depend_on_their_words_alone() {
        let first = |seed, words| stream(seed, words).u64(..);
        assert_eq!(first(1, [1, 2, 3, 4]), first(1, [1, 2, 3, 4]));
        let others = [first(2, [1, 2, 3, 4]), first(1, [2, 1, 3, 4]), first(1, [1, 2, 3, 5])];
        assert!(others.iter().all(|other| *other != first(1, [1, 2, 3, 4])));
    }
}
