//! The two ends of every layout: a [`Reader`] that trusts nothing, a [`Writer`] that appends.
//!
//! Neither knows a message: a [`Layout`] is one field or a group of fields, and says how it is read and
//! written. Keys, values and batches are read in place, without a copy.
//!
//! Invariants:
//!   1. A reader only moves forward, and never past the end of its bytes.
//!   2. A count is accepted only when the remaining bytes could hold that many of the smallest item.
//!   3. A writer asserts every limit that a reader checks.
#![forbid(unsafe_code)]

use smallvec::{Array, SmallVec};

use super::malformed::Malformed;
use crate::bounds::{BATCH_BYTES_MAX, KEY_BYTES_MAX, RANGE_BOUND_BYTES_MAX, VALUE_BYTES_MAX};

/// A field, or a group of fields that always stand together.
pub trait Layout<'a>: Sized {
    /// Bytes of the smallest encoding; above 0, or a count of them would bound nothing.
    const BYTES_MIN: usize;

    fn put(&self, out: &mut Writer<'_>);

    fn take(from: &mut Reader<'a>) -> Result<Self, Malformed>;
}

/// The bytes not yet read.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn take<T: Layout<'a>>(&mut self) -> Result<T, Malformed> {
        T::take(self)
    }

    /// Ends a layout: whatever is left was not ours to ignore.
    pub fn finish(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*array)
    }

    pub fn key(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::from(self.take::<u16>()?);
        if len > KEY_BYTES_MAX {
            return Err(Malformed::KeyTooLong);
        }
        self.bytes(len)
    }

    /// The end of a range that is always there; see [`Reader::bound_or_end`].
    pub fn bound(&mut self) -> Result<&'a [u8], Malformed> {
        self.bound_or_end()?.ok_or(Malformed::KeyTooLong)
    }

    /// The end of a range: a key, the first position behind a key, or (`None`) the end of the table.
    pub fn bound_or_end(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let len = self.take::<u16>()?;
        if len == NO_BOUND {
            return Ok(None);
        }
        if usize::from(len) > RANGE_BOUND_BYTES_MAX {
            return Err(Malformed::KeyTooLong);
        }
        self.bytes(usize::from(len)).map(Some)
    }

    pub fn value(&mut self) -> Result<&'a [u8], Malformed> {
        self.value_or_none()?.ok_or(Malformed::ValueTooLong)
    }

    /// A value, or that there is none: a key absent, a delete.
    pub fn value_or_none(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let len = self.take::<u32>()?;
        if len == NO_VALUE {
            return Ok(None);
        }
        let len = usize::try_from(len).map_err(|_| Malformed::ValueTooLong)?;
        if len > VALUE_BYTES_MAX {
            return Err(Malformed::ValueTooLong);
        }
        self.bytes(len).map(Some)
    }

    /// The bytes of a batch, unparsed: `BatchView::parse` looks inside.
    pub fn batch(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.take::<u32>()?).map_err(|_| Malformed::TooLong)?;
        if len > BATCH_BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        self.bytes(len)
    }

    /// How many items follow, each of at least `item_bytes_min` bytes (invariant 2): safe to reserve for.
    pub fn count(&mut self, count_max: usize, item_bytes_min: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.take::<u32>()?).map_err(|_| Malformed::TooMany)?;
        if count > count_max {
            return Err(Malformed::TooMany);
        }
        if count > self.rest.len() / item_bytes_min {
            return Err(Malformed::Truncated);
        }
        Ok(count)
    }

    pub fn list<T: Layout<'a>>(&mut self, count_max: usize) -> Result<Vec<T>, Malformed> {
        let count = self.count(count_max, T::BYTES_MIN)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.take()?);
        }
        Ok(items)
    }

    /// As [`Reader::list`], for lists that are short as a rule.
    pub fn short_list<A>(&mut self, count_max: usize) -> Result<SmallVec<A>, Malformed>
    where
        A: Array,
        A::Item: Layout<'a>,
    {
        let count = self.count(count_max, A::Item::BYTES_MIN)?;
        let mut items = SmallVec::with_capacity(count);
        for _ in 0..count {
            items.push(self.take()?);
        }
        Ok(items)
    }
}

/// Appends to a buffer of the caller. The methods chain, so that a layout reads as a line.
pub struct Writer<'w> {
    out: &'w mut Vec<u8>,
}

impl<'w> Writer<'w> {
    pub fn new(out: &'w mut Vec<u8>) -> Writer<'w> {
        Writer { out }
    }

    pub fn put<'a, T: Layout<'a>>(&mut self, item: &T) -> &mut Self {
        item.put(self);
        self
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub fn key(&mut self, key: &[u8]) -> &mut Self {
        assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
        self.key_len(key.len()).bytes(key)
    }

    pub fn bound(&mut self, bound: &[u8]) -> &mut Self {
        assert!(bound.len() <= RANGE_BOUND_BYTES_MAX, "a range bound of {} bytes", bound.len());
        self.key_len(bound.len()).bytes(bound)
    }

    pub fn bound_or_end(&mut self, bound: Option<&[u8]>) -> &mut Self {
        match bound {
            Some(bound) => self.bound(bound),
            None => self.put(&NO_BOUND),
        }
    }

    pub fn value(&mut self, value: &[u8]) -> &mut Self {
        assert!(value.len() <= VALUE_BYTES_MAX, "a value of {} bytes", value.len());
        self.len(value.len()).bytes(value)
    }

    pub fn value_or_none(&mut self, value: Option<&[u8]>) -> &mut Self {
        match value {
            Some(value) => self.value(value),
            None => self.put(&NO_VALUE),
        }
    }

    pub fn batch(&mut self, batch: &[u8]) -> &mut Self {
        assert!(batch.len() <= BATCH_BYTES_MAX, "a batch of {} bytes", batch.len());
        self.len(batch.len()).bytes(batch)
    }

    pub fn count(&mut self, count: usize, count_max: usize) -> &mut Self {
        assert!(count <= count_max, "{count} items where {count_max} fit");
        self.len(count)
    }

    pub fn list<'a, T: Layout<'a>>(&mut self, items: &[T], count_max: usize) -> &mut Self {
        self.count(items.len(), count_max);
        for item in items {
            item.put(self);
        }
        self
    }

    fn len(&mut self, len: usize) -> &mut Self {
        self.put(&u32::try_from(len).expect("a length or count within its limit fits 32 bits"))
    }

    fn key_len(&mut self, len: usize) -> &mut Self {
        self.put(&u16::try_from(len).expect("the length of a key within its limit fits 16 bits"))
    }
}

/// In place of the length of a range's end: no end.
const NO_BOUND: u16 = u16::MAX;
/// In place of a value's length: no value.
const NO_VALUE: u32 = u32::MAX;

// A length must never be read as "none", and must fit the field that carries it.
const _: () = assert!(RANGE_BOUND_BYTES_MAX < 0xffff && KEY_BYTES_MAX <= RANGE_BOUND_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX < 0xffff_ffff && BATCH_BYTES_MAX < 0xffff_ffff);

#[cfg(test)]
mod tests {
    use super::*;

    /// A claim of four billion items in a message of a few bytes would reserve all memory of the node.
    #[test]
    fn a_count_beyond_the_remaining_bytes_is_refused() {
        let bytes = [3, 0, 0, 0, 1, 2, 3, 4, 5, 6];
        assert_eq!(Reader::new(&bytes).count(10, 2), Ok(3));
        assert_eq!(Reader::new(&bytes).count(10, 3), Err(Malformed::Truncated));
        assert_eq!(Reader::new(&bytes).count(2, 2), Err(Malformed::TooMany));
        assert_eq!(Reader::new(&[0xff; 8]).count(usize::MAX, 1), Err(Malformed::Truncated));
    }

    /// A list that fails half-way must not have reserved more than its bytes could fill.
    #[test]
    fn a_list_reserves_exactly_what_it_holds() {
        let bytes = [2, 0, 0, 0, 7, 0, 8, 0];
        let list = Reader::new(&bytes).list::<u16>(2).unwrap();
        assert_eq!((list.as_slice(), list.capacity()), ([7, 8].as_slice(), 2));
    }

    /// An empty value and no value are different things to a reader: "" against nil.
    #[test]
    fn nothing_is_not_empty() {
        for value in [None, Some([].as_slice()), Some(b"v".as_slice())] {
            let mut bytes = Vec::new();
            Writer::new(&mut bytes).value_or_none(value).bound_or_end(value);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.value_or_none(), Ok(value));
            assert_eq!(reader.bound_or_end(), Ok(value));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    /// Off by one at a limit either refuses what a client may store or lets in what a page cannot hold.
    #[test]
    fn the_longest_key_value_and_bound_pass_and_one_more_byte_does_not() {
        let bytes = vec![0x5a; VALUE_BYTES_MAX + 1];
        let mut out = Vec::new();
        Writer::new(&mut out).key(&bytes[..KEY_BYTES_MAX]).value(&bytes[..VALUE_BYTES_MAX]);
        let mut reader = Reader::new(&out);
        assert_eq!(reader.key().map(<[u8]>::len), Ok(KEY_BYTES_MAX));
        assert_eq!(reader.value().map(<[u8]>::len), Ok(VALUE_BYTES_MAX));

        let mut long = u16::try_from(KEY_BYTES_MAX + 1).unwrap().to_le_bytes().to_vec();
        long.extend_from_slice(&bytes);
        assert_eq!(Reader::new(&long).key(), Err(Malformed::KeyTooLong));
        assert_eq!(Reader::new(&long).bound().map(<[u8]>::len), Ok(RANGE_BOUND_BYTES_MAX));
        let mut long = u16::try_from(RANGE_BOUND_BYTES_MAX + 1).unwrap().to_le_bytes().to_vec();
        long.extend_from_slice(&bytes);
        assert_eq!(Reader::new(&long).bound(), Err(Malformed::KeyTooLong));
        let mut long = u32::try_from(VALUE_BYTES_MAX + 1).unwrap().to_le_bytes().to_vec();
        long.extend_from_slice(&bytes);
        assert_eq!(Reader::new(&long).value(), Err(Malformed::ValueTooLong));
    }

    /// Invariant 3: what we would send must decode, or the peer drops it for ever and nobody knows why.
    #[test]
    #[should_panic(expected = "a key of 1025 bytes")]
    fn a_key_beyond_the_limit_is_never_written() {
        Writer::new(&mut Vec::new()).key(&[0; KEY_BYTES_MAX + 1]);
    }
}
