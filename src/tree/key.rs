//! The form in which the tree holds keys: 16 bytes as one integer, the length, and the rest boxed.
//!
//! Comparing two keys is comparing two integers, unless both are longer than [`PREFIX_BYTES`] and
//! begin alike. Nothing here knows about nodes or records.
//!
//! Invariants:
//!   1. `prefix` is the first 16 bytes, big-endian, padded with zeros on the right.
//!   2. `tail` is what follows them, and is empty for a key of at most 16 bytes.
//!   3. The order of `(prefix, length up to 17, tail)` is the order of the bytes. Where padded
//!      prefixes are equal and one key is short, the missing bytes of the shorter one are zeros in
//!      the longer one, so the shorter is a prefix of the longer and comes first.
#![forbid(unsafe_code)]

use std::cmp::Ordering;

use crate::bounds::KEY_BYTES_MAX;

/// A key somebody else owns: the caller's argument, or a place in a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyRef<'a> {
    prefix: u128,
    length: usize,
    tail: &'a [u8],
}

/// A key of its own: a separator on its way up, a tombstone waiting to be freed.
#[derive(Debug)]
pub(super) struct Key {
    prefix: u128,
    /// As in [`KeyRef::from_parts`].
    length: u8,
    tail: Tail,
}

/// A key that fits into the prefix, remembered without its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShortKey {
    prefix: u128,
    length: u8,
}

/// Bytes beyond the prefix. Keys of tables are rarely that long, so they cost an allocation.
pub(super) type Tail = Option<Box<[u8]>>;

/// Where a scan puts a key together again: one buffer for all its rows.
pub(super) struct KeyBuffer([u8; KEY_BYTES_MAX]);

impl<'a> KeyRef<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> KeyRef<'a> {
        let tail = bytes.get(PREFIX_BYTES..).unwrap_or_default();
        KeyRef { prefix: pack(bytes), length: bytes.len(), tail }
    }

    /// The length counts up to one byte behind the prefix: of a key with a tail, the tail knows.
    pub(super) fn from_parts(prefix: u128, length_up_to_tail: u8, tail: &'a Tail) -> KeyRef<'a> {
        let tail = tail.as_deref().unwrap_or_default();
        let length = if tail.is_empty() { usize::from(length_up_to_tail) } else { PREFIX_BYTES + tail.len() };
        KeyRef { prefix, length, tail }
    }

    pub(super) fn prefix(&self) -> u128 {
        self.prefix
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Of a key the tree may hold; what is only searched for may be longer.
    pub(super) fn length_up_to_tail(&self) -> u8 {
        assert!(self.length <= KEY_BYTES_MAX, "a key of {} bytes in the tree", self.length);
        self.length.min(PREFIX_BYTES + 1) as u8
    }

    pub(super) fn to_tail(self) -> Tail {
        if self.tail.is_empty() { None } else { Some(self.tail.into()) }
    }

    pub(super) fn to_key(self) -> Key {
        Key { prefix: self.prefix, length: self.length_up_to_tail(), tail: self.to_tail() }
    }

    /// Memory a node spends on this key outside itself: the tail, the pointer to it, its allocation.
    pub(super) fn tail_bytes(&self) -> usize {
        if self.tail.is_empty() { 0 } else { self.tail.len() + 2 * size_of::<Tail>() }
    }

    /// The shortest key above `left` and not above `self`. Separators made this way seldom have a
    /// tail, however long the keys are.
    pub(super) fn separator_from(&self, left: &KeyRef<'_>) -> Key {
        let (mut low, mut high) = (KeyBuffer::new(), KeyBuffer::new());
        let (low, high) = (low.fill(left), high.fill(self));
        let common = low.iter().zip(high).take_while(|(a, b)| a == b).count();
        assert!(common < high.len(), "a separator between keys that are not ascending");
        KeyRef::new(&high[..=common]).to_key()
    }
}

impl ShortKey {
    /// `None` for a key that is too long.
    #[inline]
    pub fn new(bytes: &[u8]) -> Option<ShortKey> {
        (bytes.len() <= PREFIX_BYTES).then(|| ShortKey { prefix: pack(bytes), length: bytes.len() as u8 })
    }

    /// Spreads keys over places; it decides nothing.
    #[inline]
    pub fn spread(self) -> u64 {
        let folded = (self.prefix >> 64) as u64 ^ (self.prefix as u64).rotate_left(32);
        folded.wrapping_mul(SPREAD)
    }

    #[inline]
    pub(super) fn borrow(&self) -> KeyRef<'_> {
        KeyRef { prefix: self.prefix, length: usize::from(self.length), tail: &[] }
    }
}

impl Ord for KeyRef<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |key: &Self| key.length.min(PREFIX_BYTES + 1);
        (self.prefix.cmp(&other.prefix))
            .then_with(|| rank(self).cmp(&rank(other)))
            .then_with(|| self.tail.cmp(other.tail))
    }
}

impl PartialOrd for KeyRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for KeyRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.prefix == other.prefix && self.length == other.length && self.tail == other.tail
    }
}

impl Eq for KeyRef<'_> {}

impl Key {
    pub(super) fn borrow(&self) -> KeyRef<'_> {
        KeyRef::from_parts(self.prefix, self.length, &self.tail)
    }
}

impl KeyBuffer {
    pub(super) fn new() -> KeyBuffer {
        KeyBuffer([0; KEY_BYTES_MAX])
    }

    /// The bytes of `key`, in one piece, until the next call.
    pub(super) fn fill(&mut self, key: &KeyRef<'_>) -> &[u8] {
        self.0[..PREFIX_BYTES].copy_from_slice(&key.prefix.to_be_bytes());
        if !key.tail.is_empty() {
            self.0[PREFIX_BYTES..key.length].copy_from_slice(key.tail);
        }
        &self.0[..key.length]
    }
}

/// The prefix of a key. Two loads that may overlap instead of a copy of unknown length: every
/// operation of the tree begins here.
fn pack(bytes: &[u8]) -> u128 {
    if let Some(whole) = bytes.first_chunk::<PREFIX_BYTES>() {
        return u128::from_be_bytes(*whole);
    }
    let padding = 8 * (PREFIX_BYTES - bytes.len());
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return u128::from(u64::from_be_bytes(*first)) << 64
            | u128::from(u64::from_be_bytes(*last)) << padding;
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return u128::from(u32::from_be_bytes(*first)) << 96
            | u128::from(u32::from_be_bytes(*last)) << padding;
    }
    bytes.iter().zip([120, 112, 104]).fold(0, |prefix, (byte, shift)| prefix | u128::from(*byte) << shift)
}

/// Bytes of a key that are compared as one integer. Composite keys of three or four 32-bit columns
/// fit; so does all of a generated key that tells it from its neighbours.
pub(super) const PREFIX_BYTES: usize = 16;

/// An odd number of random bits: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize && PREFIX_BYTES < KEY_BYTES_MAX);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few different bytes and lengths about the prefix, so that ties, zeros and prefixes abound.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let run = (0..34usize, prop::sample::select(vec![0u8, 1, 255]));
        let end = prop::collection::vec(prop::sample::select(vec![0u8, 1, 97, 255]), 0..4);
        (run, end).prop_map(|((length, byte), end)| [vec![byte; length], end].concat())
    }

    proptest! {
        /// Zero padding makes "a" and "a\0" one integer; told apart wrongly, one would overwrite the other.
        #[test]
        fn keys_are_ordered_and_equal_as_their_bytes_are(a in bytes(), b in bytes()) {
            prop_assert_eq!(KeyRef::new(&a).cmp(&KeyRef::new(&b)), a.cmp(&b));
            prop_assert_eq!(KeyRef::new(&a) == KeyRef::new(&b), a == b);
        }

        #[test]
        fn a_key_gives_back_its_bytes(a in bytes()) {
            let key = KeyRef::new(&a).to_key();
            let mut buffer = KeyBuffer::new();
            prop_assert_eq!(buffer.fill(&key.borrow()), &a[..]);
        }

        /// A separator above the right node's first key would hide that key for ever.
        #[test]
        fn a_separator_lies_above_the_left_key_and_not_above_the_right(a in bytes(), b in bytes()) {
            prop_assume!(a != b);
            let (a, b) = (KeyRef::new(&a), KeyRef::new(&b));
            let (left, right) = if a < b { (a, b) } else { (b, a) };
            let separator = right.separator_from(&left);
            prop_assert!(left < separator.borrow() && separator.borrow() <= right);
        }
    }
}
