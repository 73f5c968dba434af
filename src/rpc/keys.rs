//! The keys of a cluster, and what is derived from them: one key for the frames of each life of a core to each life of
//! another.
//!
//! HKDF (RFC 5869) over SHA-256, of a library. Secrets are never printed.
#![forbid(unsafe_code)]

use super::frame::Header;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use std::fmt;
use std::sync::Arc;

/// What all nodes of a cluster know and nobody else: one key, or two while one replaces the other. Clones share them.
#[derive(Clone)]
pub struct Keyring(Arc<[ClusterKey]>);

struct ClusterKey {
    /// Tells the keys of a ring apart on the wire. Not secret, and not 0.
    id: u8,
    secret: Prk,
}

/// A ring has one key or two, and they differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadKeyring {
    #[error("{0} keys, where one seals and one more may open")]
    Count(usize),
    #[error("the same key twice")]
    Repeated,
    #[error("two keys that are told apart by the same byte: make another one")]
    SameId,
}

impl Keyring {
    /// Frames are sealed with the first; those sealed with the second are opened as well.
    pub fn new(secrets: &[[u8; SECRET_BYTES]]) -> Result<Keyring, BadKeyring> {
        if secrets.is_empty() || secrets.len() > KEYS_MAX {
            return Err(BadKeyring::Count(secrets.len()));
        }
        let keys: Arc<[ClusterKey]> = secrets.iter().map(ClusterKey::new).collect();
        match &keys[..] {
            [_, _] if secrets[0] == secrets[1] => Err(BadKeyring::Repeated),
            [first, second] if first.id == second.id => Err(BadKeyring::SameId),
            _ => Ok(Keyring(keys)),
        }
    }

    /// That of the key by which frames are sealed.
    pub(super) fn id(&self) -> u8 {
        self.0[0].id
    }

    /// The key of the frames that have these in their headers; `None` when nobody here has a key of that id.
    pub(super) fn derive(&self, header: &Header) -> Option<FrameKey> {
        let key = self.0.iter().find(|key| key.id == header.key)?;
        let lives = header.lives();
        let info = [FRAMES, &lives];
        Some(FrameKey(key.filled(&info)))
    }
}

impl ClusterKey {
    fn new(secret: &[u8; SECRET_BYTES]) -> ClusterKey {
        let mut key = ClusterKey { id: 0, secret: Salt::new(HKDF_SHA256, SALT).extract(secret) };
        let id: [u8; ID_BYTES] = key.filled(&[ID]);
        key.id = id.into_iter().find(|id| *id != 0).unwrap_or(1);
        key
    }

    fn filled<const N: usize>(&self, info: &[&[u8]]) -> [u8; N] {
        let mut bytes = [0; N];
        let filled = self.secret.expand(info, Length::<N>).and_then(|okm| okm.fill(&mut bytes));
        filled.expect("a few bytes can be had");
        bytes
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring of {}", self.0.len())
    }
}

/// What the frames from one life to another are sealed under.
pub(super) struct FrameKey(pub [u8; FRAME_KEY_BYTES]);

struct Length<const N: usize>;

impl<const N: usize> KeyType for Length<N> {
    fn len(&self) -> usize {
        N
    }
}

pub const SECRET_BYTES: usize = 32;
const KEYS_MAX: usize = 2;
const SALT: &[u8] = b"mako frames 1";
const FRAMES: &[u8] = b"frames";
const ID: &[u8] = b"id";
const ID_BYTES: usize = 8;
const FRAME_KEY_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_one_key_or_two_that_differ() {
        assert_eq!(Keyring::new(&[]).unwrap_err(), BadKeyring::Count(0));
        assert_eq!(Keyring::new(&[[1; 32]; 3]).unwrap_err(), BadKeyring::Count(3));
        assert_eq!(Keyring::new(&[[1; 32]; 2]).unwrap_err(), BadKeyring::Repeated);
        let ids: Vec<u8> = (0..255).map(|byte| ClusterKey::new(&[byte; 32]).id).collect();
        assert!(ids.iter().all(|id| *id != 0), "0 is for frames without a key");
        let place = |at: usize| ids[..at].iter().position(|id| *id == ids[at]).map(|twin| [twin, at]);
        let twins = (0..255).find_map(place).expect("255 keys in as many places");
        let twins = twins.map(|at| [u8::try_from(at).unwrap(); 32]);
        assert_eq!(Keyring::new(&twins).unwrap_err(), BadKeyring::SameId);
    }

    /// What is printed ends in logs.
    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Keyring::new(&[[7; 32]]).unwrap()), "Keyring of 1");
    }
}
