//! A monotonic clock that is cheap and coarse.

use std::{sync::OnceLock, time::Duration};

/// Returns the nanoseconds since an origin of this process. They may lag behind the time by the
/// [resolution](resolution), and never run ahead.
#[cfg(target_os = "linux")]
#[inline]
pub fn now() -> u64 {
    nanos(rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse))
}

/// Returns how far the clock may lag behind.
#[cfg(target_os = "linux")]
pub fn resolution() -> Duration {
    static RESOLUTION: OnceLock<Duration> = OnceLock::new();
    *RESOLUTION.get_or_init(|| {
        let resolution = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
        Duration::from_nanos(nanos(resolution))
    })
}

#[cfg(target_os = "linux")]
#[inline]
fn nanos(time: rustix::time::Timespec) -> u64 {
    time.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec.cast_unsigned())
}

#[cfg(not(target_os = "linux"))]
#[inline]
pub fn now() -> u64 {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(std::time::Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(not(target_os = "linux"))]
pub fn resolution() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn it_follows_the_precise_clock_and_never_runs_ahead() {
        assert!(resolution() <= Duration::from_millis(10), "{:?}", resolution());
        let (coarse, precise) = (now(), Instant::now());
        while precise.elapsed() < Duration::from_millis(30) {
            let passed = Duration::from_nanos(now() - coarse);
            // Read afterwards, and the first reading may have been late.
            assert!(passed <= precise.elapsed() + resolution());
        }
        assert!(now() - coarse >= 10_000_000);
    }
}
