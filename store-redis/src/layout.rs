//! How a value lies in Redis.

use cache_core::{Codec, Entry, Envelope, Life, Moment, Result, Ttl};

use crate::write_id;

/// How a value lies in Redis.
pub(crate) enum Layout<C> {
    /// As a record: leases, exact lives, and no value taken for another.
    Record(Envelope<C>),
    /// As the codec's bytes alone, for programs that know nothing of this cache.
    Plain(C),
}

/// For how long an entry is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lifetime {
    /// So many milliseconds, `None` if it does not expire.
    Millis(Option<u64>),
    /// It has expired.
    Over,
}

impl Lifetime {
    /// What remains of the entry in whole milliseconds, rounded down and at least `least`.
    pub(crate) fn of<V>(entry: &Entry<V>, now: Moment, least: u64) -> Self {
        match entry.remaining(now) {
            Ttl::Never => Self::Millis(None),
            Ttl::After(ttl) if ttl.is_zero() => Self::Over,
            Ttl::After(ttl) => match u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(least) {
                0 => Self::Over,
                millis => Self::Millis(Some(millis)),
            },
        }
    }
}

impl<C> Layout<C> {
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// The bytes of a value that is written at `server_now` to live for `millis`, under this id or a new one.
    pub(crate) fn seal<V>(&self, value: &V, millis: Option<u64>, id: Option<u64>, server_now: u64) -> Result<Vec<u8>>
    where
        C: Codec<V>,
    {
        match self {
            Self::Record(envelope) => {
                let expires = millis.map(|millis| server_now.saturating_add(millis));
                let life = Life::new(server_now, expires);
                envelope.seal(value, life, id.unwrap_or_else(write_id::next))
            }
            Self::Plain(codec) => {
                let mut bytes = Vec::new();
                codec.encode(value, &mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cache_core::{Expiry, MAX_TTL};

    use super::*;

    #[test]
    fn lives_are_cut_to_milliseconds_and_never_to_none() {
        let now = Moment::from_nanos(7);
        let of = |ttl, least| Lifetime::of(&Entry::new((), Expiry::after(now, ttl)), now, least);
        let millis = |millis| Lifetime::Millis(Some(millis));
        assert_eq!(of(Ttl::Never, 1), Lifetime::Millis(None));
        assert_eq!(of(Ttl::After(Duration::from_micros(1_999)), 1), millis(1));
        assert_eq!(of(Ttl::After(Duration::MAX), 1), millis(u64::try_from(MAX_TTL.as_millis()).unwrap()));
        // Below a millisecond a write lives for one, and a fill not at all: it must not lengthen a life.
        assert_eq!(of(Ttl::After(Duration::from_nanos(1)), 1), millis(1));
        assert_eq!(of(Ttl::After(Duration::from_nanos(1)), 0), Lifetime::Over);
        assert_eq!(of(Ttl::After(Duration::ZERO), 1), Lifetime::Over);
    }
}
