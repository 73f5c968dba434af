//! The measured round trip of a session, and the timeouts that follow from it (RFC 6298).
//!
//! A frame is never sent twice under one number, so every sample is unambiguous (what Karn's rule is
//! for). A sample includes the time an acknowledgement waited at the peer.
#![forbid(unsafe_code)]

use crate::bounds::{ACK_DELAY_NS, RTO_NS_INITIAL, RTO_NS_MAX, RTO_NS_MIN};

pub struct Rtt {
    /// 0 before the first sample.
    smoothed_ns: u64,
    variation_ns: u64,
    /// How often the timeout has been doubled since the last sample.
    backoff: u32,
}

impl Rtt {
    pub fn new() -> Rtt {
        Rtt { smoothed_ns: 0, variation_ns: 0, backoff: 0 }
    }

    pub fn on_sample(&mut self, rtt_ns: u64) {
        // Clocks may stand still between two turns; beyond the cap a sample says "the peer slept".
        let rtt_ns = rtt_ns.clamp(1, SAMPLE_NS_MAX);
        self.backoff = 0;
        if self.smoothed_ns == 0 {
            self.smoothed_ns = rtt_ns;
            self.variation_ns = rtt_ns / 2;
            return;
        }
        let deviation = self.smoothed_ns.abs_diff(rtt_ns);
        self.variation_ns = (3 * self.variation_ns + deviation) / 4;
        self.smoothed_ns = (7 * self.smoothed_ns + rtt_ns) / 8;
    }

    pub fn on_timeout(&mut self) {
        self.backoff = (self.backoff + 1).min(BACKOFF_MAX);
    }

    /// The smoothed round trip, in nanoseconds; `None` before the first sample.
    pub fn smoothed_ns(&self) -> Option<u64> {
        (self.smoothed_ns > 0).then_some(self.smoothed_ns)
    }

    /// How long a frame may stay unacknowledged while nothing sent after it is acknowledged either.
    pub fn rto_ns(&self) -> u64 {
        let base = match self.smoothed_ns {
            0 => RTO_NS_INITIAL,
            smoothed => {
                let margin = (4 * self.variation_ns + ACK_DELAY_NS).max(smoothed / 2);
                (smoothed + margin).max(RTO_NS_MIN)
            }
        };
        (base << self.backoff).min(RTO_NS_MAX.max(base))
    }

    /// How long a frame may stay unacknowledged when one sent after it has been: that one overtook
    /// it, or it is lost.
    pub fn overtaken_ns(&self) -> u64 {
        self.smoothed_ns + (self.smoothed_ns / 4).max(2 * self.variation_ns).max(ACK_DELAY_NS)
    }
}

const SAMPLE_NS_MAX: u64 = 4 * RTO_NS_MAX;
/// Doublings that take the least timeout to the most.
const BACKOFF_MAX: u32 = (RTO_NS_MAX / RTO_NS_MIN).ilog2() + 1;
const _: () = assert!(RTO_NS_MIN << BACKOFF_MAX >= RTO_NS_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::MS;

    /// Without the doubling a path slower than the timeout would never be measured.
    #[test]
    fn timeout_doubles_up_to_the_limit_and_falls_back_with_a_sample() {
        let mut rtt = Rtt::new();
        let mut seen = vec![rtt.rto_ns()];
        for _ in 0..4 {
            rtt.on_timeout();
            seen.push(rtt.rto_ns());
        }
        assert_eq!(seen, [100 * MS, 200 * MS, 400 * MS, 500 * MS, 500 * MS]);
        rtt.on_sample(MS / 10);
        assert_eq!(rtt.rto_ns(), RTO_NS_MIN);
    }

    /// A timeout below the round trip sends everything twice, for ever.
    #[test]
    fn timeout_exceeds_the_round_trip_however_long() {
        for rtt_ns in [MS / 100, MS, 50 * MS, 600 * MS] {
            let mut rtt = Rtt::new();
            (0..64).for_each(|_| rtt.on_sample(rtt_ns));
            assert!(rtt.rto_ns() > rtt_ns && rtt.overtaken_ns() > rtt_ns);
            assert!(rtt.rto_ns() <= RTO_NS_MIN.max(2 * rtt_ns));
        }
    }
}
