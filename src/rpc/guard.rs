//! What keeps a session's frames from being read, changed, made or repeated by those who do not have the cluster's key.
//!
//! Each frame is sealed (AEGIS-128L, draft-irtf-cfrg-aegis-aead, which takes half as long for a short frame as AES-GCM)
//! under a key of its sender's and its receiver's lives: the header is open and authenticated, the packets are hidden as
//! well. The nonce is a count that starts somewhere else in every life, so that even a life that is led twice, from a
//! copied disk, seals nothing twice under one nonce.
//!
//! Invariants:
//!   1. Nothing of a frame is believed before it is opened; what does not open changes nothing here.
//!   2. A frame that names our life is opened once. Which lives a peer had before is the session's affair.
//!   3. What a stranger can cost is bounded: keys are derived for it as often as [`Hellos`] allows.
#![forbid(unsafe_code)]

use super::frame::{self, HEADER_BYTES, Header, TAG_BYTES};
use super::keys::{FrameKey, Keyring};
use super::stats::Ignored;
use crate::bounds::{FRAMES_REMEMBERED, HELLOS_PER_MS, MS};
use crate::types::Timestamp;
use aegis::aegis128l::{Aegis128L, Nonce};

/// Of one session.
#[derive(Default)]
pub struct Guard {
    /// For frames to this life of the peer.
    sealer: Option<(u64, FrameKey)>,
    /// Frames sealed.
    count: u64,
    /// For frames that name our life.
    bound: Option<Box<Opener>>,
    /// For the last that did not: their sender knows another life of ours, or none. Gone once it knows us: a session
    /// would hold a key for nothing.
    stray: Option<Box<Opener>>,
}

/// Of the frames of one life of the peer to one of ours.
struct Opener {
    /// Key and lives.
    of: (u8, u64, u64),
    key: FrameKey,
    seen: Seen,
}

/// What a core needs to know to guard its sessions.
pub struct Watch {
    pub keys: Keyring,
    /// Where the counts of this life begin.
    pub first_count: u64,
    pub hellos: Hellos,
}

impl Guard {
    /// Hides the packets behind the header, and signs both.
    pub fn seal(&mut self, watch: &Watch, frame: &mut Vec<u8>, header: &Header) {
        let sealed =
            Header { key: watch.keys.id(), count: watch.first_count.wrapping_add(self.count), ..*header };
        self.count += 1;
        frame::set_seal(frame, sealed.key, sealed.count);
        if self.sealer.as_ref().is_none_or(|sealer| sealer.0 != header.to_incarnation) {
            let key = watch.keys.derive(&sealed).expect("a ring has the key of its own id");
            self.sealer = Some((header.to_incarnation, key));
        }
        let (_, key) = self.sealer.as_ref().expect("it was just made");
        let (open, hidden) = frame.split_at_mut(HEADER_BYTES);
        let tag = cipher(key, sealed.count).encrypt_in_place(hidden, open);
        frame.extend_from_slice(&tag);
    }

    /// The packets of a frame, into `packets`; how many bytes they are. `me` is our life.
    pub fn open(
        &mut self,
        now: Timestamp,
        watch: &mut Watch,
        (header, me): (&Header, u64),
        frame: &[u8],
        packets: &mut [u8],
    ) -> Result<usize, Ignored> {
        if header.key == 0 {
            return Err(Ignored::NotSealed);
        }
        let is_bound = header.to_incarnation == me;
        let place = if is_bound { &mut self.bound } else { &mut self.stray };
        let of = (header.key, header.from_incarnation, header.to_incarnation);
        if let Some(opener) = place.as_mut().filter(|opener| opener.of == of) {
            if is_bound && opener.seen.has(header.count) {
                return Err(Ignored::ReplayedFrame);
            }
            let bytes = open(&opener.key, header.count, frame, packets)?;
            opener.seen.add(header.count);
            return Ok(bytes);
        }
        if !watch.hellos.take(now) {
            return Err(Ignored::HellosFull);
        }
        let key = watch.keys.derive(header).ok_or(Ignored::UnknownKey)?;
        let bytes = open(&key, header.count, frame, packets)?;
        let mut opener = Opener { of, key, seen: Seen::default() };
        opener.seen.add(header.count);
        *place = Some(Box::new(opener));
        if is_bound {
            self.stray = None;
        }
        Ok(bytes)
    }
}

fn open(key: &FrameKey, count: u64, frame: &[u8], packets: &mut [u8]) -> Result<usize, Ignored> {
    let (header, hidden) = frame.split_at_checked(HEADER_BYTES).ok_or(Ignored::BadFrame)?;
    let (hidden, tag) = hidden.split_last_chunk().ok_or(Ignored::NotSealed)?;
    let packets = packets.get_mut(..hidden.len()).ok_or(Ignored::BadFrame)?;
    packets.copy_from_slice(hidden);
    let opened = cipher(key, count).decrypt_in_place(packets, tag, header);
    opened.map(|()| hidden.len()).map_err(|_| Ignored::NotAuthentic)
}

fn cipher(key: &FrameKey, count: u64) -> Aegis128L<TAG_BYTES> {
    let mut nonce = Nonce::default();
    nonce[..8].copy_from_slice(&count.to_le_bytes());
    Aegis128L::new(&key.0, &nonce)
}

/// Counts of frames opened: the newest, and those of the `FRAMES_REMEMBERED` before it. What is older counts as opened.
#[derive(Default)]
struct Seen {
    /// The newest, and one.
    end: u64,
    /// A ring: the bit of `count` is at `count % FRAMES_REMEMBERED`.
    bits: [u64; FRAMES_REMEMBERED / 64],
}

impl Seen {
    fn has(&self, count: u64) -> bool {
        let (word, bit) = place_of(count);
        match self.end.checked_sub(count) {
            None | Some(0) => false,
            Some(age) => age > FRAMES_REMEMBERED as u64 || self.bits[word] >> bit & 1 == 1,
        }
    }

    fn add(&mut self, count: u64) {
        if count >= self.end {
            let fresh = (count - self.end).min(FRAMES_REMEMBERED as u64 - 1);
            for passed in count - fresh..=count {
                let (word, bit) = place_of(passed);
                self.bits[word] &= !(1 << bit);
            }
            self.end = count.saturating_add(1);
        }
        let (word, bit) = place_of(count);
        self.bits[word] |= 1 << bit;
    }
}

fn place_of(count: u64) -> (usize, u64) {
    let place = count % FRAMES_REMEMBERED as u64;
    ((place / 64) as usize, place % 64)
}

/// How often keys may be derived for frames of lives that are not known: anybody can make such frames.
#[derive(Default)]
pub struct Hellos {
    since: Timestamp,
    taken: u32,
}

impl Hellos {
    fn take(&mut self, now: Timestamp) -> bool {
        if now.since(self.since) >= MS {
            (self.since, self.taken) = (now, 0);
        }
        self.taken += 1;
        self.taken <= HELLOS_PER_MS
    }
}
