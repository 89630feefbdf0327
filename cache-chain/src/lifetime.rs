//! Lifetimes of entries: the default TTL, jitter, the stale window and the limits of a tier.

use std::time::Duration;

use cache_core::{Error, ErrorKind, Expiry, Lifetime, MAX_TTL, Moment, Result, Ttl};

/// Computes when an entry that is written now turns stale and when it expires.
#[derive(Clone, Debug)]
pub(crate) struct Lifetimes {
    pub(crate) default_ttl: Ttl,
    /// The largest fraction of a TTL that is taken off at random.
    pub(crate) jitter: f64,
    /// The time for which a stale entry may be served.
    pub(crate) stale_for: Option<Duration>,
    /// The TTL of a negative entry, `None` if the absence of a value is not cached.
    pub(crate) negative_ttl: Option<Duration>,
}

impl Lifetimes {
    /// Returns the lifetime of a value with this TTL. Each call draws its own jitter.
    pub(crate) fn of_value(&self, ttl: Ttl, now: Moment) -> Lifetime {
        let ttl = if ttl == Ttl::Never { self.default_ttl } else { ttl };
        let Ttl::After(ttl) = ttl else { return Lifetime::new(Expiry::Never) };
        let ttl = self.jittered(ttl);
        match self.stale_for {
            None => Lifetime::new(Expiry::after(now, ttl.into())),
            Some(stale_for) => Lifetime::new(Expiry::after(now, ttl.saturating_add(stale_for).into()))
                .fresh_until(Expiry::after(now, ttl.into())),
        }
    }

    /// Returns the expiry of a negative entry, which is not served stale. Returns `None` if the
    /// absence is not cached. `ttl` is that of the loader, `Never` if it sets none.
    pub(crate) fn of_absence(&self, ttl: Ttl, now: Moment) -> Option<Expiry> {
        let ttl = match (ttl, self.negative_ttl) {
            (Ttl::Never, None) => return None,
            (Ttl::Never, Some(negative)) => self.default_ttl.min(Ttl::After(negative)),
            (given, _) => given,
        };
        Some(match ttl {
            Ttl::Never => Expiry::Never,
            Ttl::After(ttl) => Expiry::after(now, self.jittered(ttl).into()),
        })
    }

    fn jittered(&self, ttl: Duration) -> Duration {
        if self.jitter <= 0.0 {
            return ttl;
        }
        // Subtracted, because a product could be longer than the TTL by rounding.
        let cut = ttl.min(MAX_TTL).mul_f64(self.jitter * fastrand::f64());
        ttl.saturating_sub(cut).max(Duration::from_nanos(1))
    }

    pub(crate) fn checked(self) -> Result<Self> {
        let invalid = |message: &'static str| Err(Error::new(ErrorKind::InvalidInput, message));
        if self.default_ttl == Ttl::After(Duration::ZERO) {
            return invalid("the default TTL of the chain is zero; leave it out for entries that do not expire");
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return invalid("the jitter must be a fraction from 0 to 1");
        }
        Ok(self)
    }
}

/// The limits of one tier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TierLifetimes {
    pub(crate) default_ttl: Ttl,
    pub(crate) max_ttl: Ttl,
}

impl TierLifetimes {
    /// Returns when an entry with this expiry expires in the tier.
    pub(crate) fn limit(self, expiry: Expiry, now: Moment) -> Expiry {
        let own = if expiry == Expiry::Never { self.default_ttl } else { Ttl::Never };
        expiry.min(Expiry::after(now, own.min(self.max_ttl)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn lifetimes() -> Lifetimes {
        Lifetimes { default_ttl: Ttl::Never, jitter: 0.0, stale_for: None, negative_ttl: Some(MINUTE) }
    }

    #[test]
    fn jitter_shortens_evenly_and_never_lengthens() {
        let now = Moment::from_nanos(0);
        let lifetimes = Lifetimes { jitter: 0.1, ..lifetimes() };
        let mut tenths = [0; 10];
        for _ in 0..100_000 {
            let expiry = lifetimes.of_value(MINUTE.into(), now).expiry;
            let left = expiry.remaining(now).as_duration().unwrap();
            assert!(left <= MINUTE && left >= MINUTE.mul_f64(0.9), "{left:?}");
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below ten")]
            let tenth = (((60.0 - left.as_secs_f64()) / 0.6) as usize).min(9);
            tenths[tenth] += 1;
        }
        // Ten standard deviations.
        assert!(tenths.iter().all(|count| (9_000..11_000).contains(count)), "{tenths:?}");
        let shortest = Lifetimes { jitter: 1.0, ..lifetimes }.of_value(Duration::from_nanos(1).into(), now);
        assert_eq!(shortest.expiry, Expiry::after(now, Duration::from_nanos(1).into()));
    }

    #[test]
    fn the_stale_window_follows_the_ttl() {
        let now = Moment::from_nanos(0);
        let lifetimes = Lifetimes { stale_for: Some(MINUTE), ..lifetimes() };
        let Lifetime { fresh_until, expiry, .. } = lifetimes.of_value(MINUTE.into(), now);
        assert_eq!(fresh_until, Expiry::after(now, MINUTE.into()));
        assert_eq!(expiry, Expiry::after(now, (2 * MINUTE).into()));
        let forever = lifetimes.of_value(Ttl::Never, now);
        assert_eq!((forever.fresh_until, forever.expiry), (Expiry::Never, Expiry::Never));
    }

    #[test]
    fn the_shorter_of_default_and_negative_ttl_holds_for_absence() {
        let now = Moment::from_nanos(0);
        let second = Duration::from_secs(1);
        let expires = |lifetimes: &Lifetimes, ttl| lifetimes.of_absence(ttl, now);
        assert_eq!(expires(&lifetimes(), Ttl::Never), Some(Expiry::after(now, MINUTE.into())));
        let short = Lifetimes { default_ttl: second.into(), ..lifetimes() };
        assert_eq!(expires(&short, Ttl::Never), Some(Expiry::after(now, second.into())));
        let off = Lifetimes { negative_ttl: None, ..short };
        assert_eq!(expires(&off, Ttl::Never), None);
        assert_eq!(expires(&off, MINUTE.into()), Some(Expiry::after(now, MINUTE.into())), "the loader asks for it");
    }
}
