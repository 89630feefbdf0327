//! An estimate of the server's clock.

use std::time::Duration;

use crate::Moment;

/// A reading of the server's clock, with the local times before and after the request.
///
/// The server read its clock at some moment between the two, so its time is known within one round
/// trip. Writers count from the earliest possible time and readers from the latest, so no entry
/// lives longer than it was meant to.
#[derive(Clone, Copy, Debug)]
pub struct ServerClock {
    stamp: u64,
    sent: Moment,
    received: Moment,
}

impl ServerClock {
    /// A reading is used for this long: the clocks of two machines drift apart, and a server's
    /// clock may be set.
    const FRESH: Duration = Duration::from_secs(60);

    /// Creates a reading: the time by the server's clock, in Unix *micro*seconds, and the local times
    /// before the request was sent and after the reply was received.
    pub const fn new(stamp: u64, sent: Moment, received: Moment) -> Self {
        Self { stamp, sent, received }
    }

    /// Returns `true` if the reading is recent enough to be used.
    pub fn is_fresh(&self, now: Moment) -> bool {
        self.age(now) < Self::FRESH
    }

    /// Returns the time since the reading.
    pub fn age(&self, now: Moment) -> Duration {
        now.since(self.received)
    }

    /// Returns the earliest possible time by the server's clock, in Unix *micro*seconds.
    pub fn earliest_micros(&self, now: Moment) -> u64 {
        self.after(now.since(self.received))
    }

    /// Returns the latest possible time by the server's clock, in Unix milliseconds.
    pub fn latest(&self, now: Moment) -> u64 {
        self.after(now.since(self.sent)).saturating_add(1).div_ceil(1000)
    }

    fn after(&self, elapsed: Duration) -> u64 {
        self.stamp.saturating_add(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_known_within_the_round_trip_of_the_measurement() {
        let at = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        let clock = ServerClock::new(5_000_300, at(100), at(140));
        assert_eq!(clock.earliest_micros(at(140)), 5_000_300);
        assert_eq!(clock.latest(at(140)), 5041);
        assert_eq!(clock.earliest_micros(at(1140)), 6_000_300);
        assert_eq!(clock.latest(at(1140)), 6041);
        assert!(clock.is_fresh(at(60_139)));
        assert!(!clock.is_fresh(at(60_140)));
        // Nothing overflows, whatever the server says.
        let absurd = ServerClock { stamp: u64::MAX, ..clock };
        assert_eq!(absurd.latest(at(u64::MAX / 1_000_000)), u64::MAX / 1000 + 1);
    }
}
