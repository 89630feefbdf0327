//! Checks of the settings that all backends have.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// Checks a namespace: 1 to 64 characters of `A-Z a-z 0-9 _ . - /`, the same for all backends.
///
/// # Errors
///
/// Returns an error of kind `InvalidInput` if the namespace is invalid.
pub fn check_namespace(name: &str) -> Result<()> {
    if name.is_empty() {
        let message = "the store has no namespace; name one, such as .namespace(\"users\")";
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte);
    if name.len() > 64 || !name.bytes().all(allowed) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "the namespace {name:?} is invalid: it must be 1 to 64 characters of A-Z a-z 0-9 _ . - /. A ':' ends \
                 the namespace in the keys of some stores, so one inside would let namespaces overlap; '*', '?', '[' \
                 and '\\' are patterns there"
            ),
        ));
    }
    Ok(())
}

/// Checks a time to idle: above zero, or none.
///
/// # Errors
///
/// Returns an error of kind `InvalidInput` if the time is zero.
pub fn check_time_to_idle(time: Option<Duration>) -> Result<()> {
    if time.is_some_and(|time| time.is_zero()) {
        let message = "the time_to_idle is zero, so every read would miss; leave it out for no idle expiry";
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(())
}

/// Returns the lease's TTL in milliseconds: at least 1 ms and at most one day.
///
/// A day is far longer than any load, and an abandoned lease takes up room for that long.
///
/// # Errors
///
/// Returns an error of kind `InvalidInput` if the TTL is out of range.
pub fn lease_millis(ttl: Duration) -> Result<u64> {
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    if (1..=86_400_000).contains(&millis) {
        return Ok(millis);
    }
    let message = "the lease_ttl must be between 1 ms and 24 h; use a few times the duration of a load";
    Err(Error::new(ErrorKind::InvalidInput, message))
}

/// Returns the life of a marker in milliseconds: at least 1 ms, and at most `lease_millis`.
pub fn marker_millis(life: Duration, lease_millis: u64) -> u64 {
    u64::try_from(life.as_millis()).unwrap_or(u64::MAX).clamp(1, lease_millis)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_overlap_or_match_others_are_refused() {
        for name in ["", "a:b", "a*", "a?", "[a]", "a\\b", "a b", "ü", &"a".repeat(65)] {
            assert_eq!(check_namespace(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
        check_namespace(&"a".repeat(64)).unwrap();
        check_namespace("a/b.c-D_9").unwrap();
    }

    #[test]
    fn a_time_to_idle_of_zero_is_refused() {
        assert_eq!(check_time_to_idle(Some(Duration::ZERO)).unwrap_err().kind(), ErrorKind::InvalidInput);
        for time in [None, Some(Duration::from_nanos(1)), Some(Duration::MAX)] {
            check_time_to_idle(time).unwrap();
        }
    }

    #[test]
    fn a_lease_lives_for_a_millisecond_at_least_and_a_day_at_most() {
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(lease_millis(Duration::from_millis(1)).unwrap(), 1);
        assert_eq!(lease_millis(day).unwrap(), 86_400_000);
        for ttl in [Duration::ZERO, Duration::from_micros(999), day + Duration::from_millis(1), Duration::MAX] {
            assert_eq!(lease_millis(ttl).unwrap_err().kind(), ErrorKind::InvalidInput, "{ttl:?}");
        }
    }

    #[test]
    fn a_marker_lives_no_longer_than_a_lease() {
        let lives = [Duration::ZERO, Duration::from_millis(7), Duration::MAX];
        assert_eq!(lives.map(|life| marker_millis(life, 10)), [1, 7, 10]);
    }
}
