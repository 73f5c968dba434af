//! Why bytes are not a message or a batch.
//!
//! Not an error of ours: whoever receives it drops the bytes and counts the drop by name. A frame that
//! got this far was authenticated, so each of these means a peer of another version, or a bug.
#![forbid(unsafe_code)]

use thiserror::Error;

/// Small and `Copy`: the drop path neither allocates nor formats.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
#[repr(u8)]
pub enum Malformed {
    #[error("the bytes end inside a field")]
    Truncated,
    #[error("bytes are left over after the last field")]
    Trailing,
    #[error("the layout is of another version")]
    WrongVersion,
    #[error("the kind is unknown")]
    UnknownKind,
    #[error("the tag of a choice is unknown")]
    UnknownTag,
    #[error("the whole is longer than any message or batch may be")]
    TooLong,
    #[error("a count is above its limit")]
    TooMany,
    #[error("a key is longer than any key may be")]
    KeyTooLong,
    #[error("a value is longer than any value may be")]
    ValueTooLong,
    #[error("the writes of one transaction are larger than they may be together")]
    TransactionTooBig,
    #[error("a node, shard, partition or table has a number no cluster uses")]
    IdOutOfRange,
    #[error("a ballot or an epoch has bits no ballot has")]
    NotABallot,
    #[error("dependencies are not in strictly ascending order")]
    Unordered,
    #[error("a batch that is not of entries holds entries")]
    UnexpectedEntries,
}

impl Malformed {
    /// In the order of the declaration: `ALL[m.index()] == m`, so a core counts in a plain array.
    pub const ALL: [Malformed; 14] = [
        Malformed::Truncated,
        Malformed::Trailing,
        Malformed::WrongVersion,
        Malformed::UnknownKind,
        Malformed::UnknownTag,
        Malformed::TooLong,
        Malformed::TooMany,
        Malformed::KeyTooLong,
        Malformed::ValueTooLong,
        Malformed::TransactionTooBig,
        Malformed::IdOutOfRange,
        Malformed::NotABallot,
        Malformed::Unordered,
        Malformed::UnexpectedEntries,
    ];

    pub fn index(self) -> usize {
        usize::from(self as u8)
    }

    /// The name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Malformed::Truncated => "truncated",
            Malformed::Trailing => "trailing",
            Malformed::WrongVersion => "wrong_version",
            Malformed::UnknownKind => "unknown_kind",
            Malformed::UnknownTag => "unknown_tag",
            Malformed::TooLong => "too_long",
            Malformed::TooMany => "too_many",
            Malformed::KeyTooLong => "key_too_long",
            Malformed::ValueTooLong => "value_too_long",
            Malformed::TransactionTooBig => "transaction_too_big",
            Malformed::IdOutOfRange => "id_out_of_range",
            Malformed::NotABallot => "not_a_ballot",
            Malformed::Unordered => "unordered",
            Malformed::UnexpectedEntries => "unexpected_entries",
        }
    }
}

const _: () = assert!(size_of::<Result<u64, Malformed>>() <= 16);

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters live in an array by index; two reasons in one cell would hide one of them.
    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        for (index, reason) in Malformed::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            let same_name = Malformed::ALL.iter().filter(|other| other.name() == reason.name());
            assert_eq!(same_name.count(), 1);
        }
    }
}
