//! The circuit breaker: a tier that is dead is not asked again and again.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cache_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::budget::after;

/// Closed, a tier is used. After so many failures in a row it is open: calls fail at once. After a pause it is half open: one
/// call goes through, as a probe, and closes or opens it again. A probe that has not reported when it should have ended counts
/// as lost, and the next call is the probe.
#[derive(Debug)]
pub(crate) struct Breaker {
    pub(crate) settings: Settings,
    state: Mutex<State>,
    probes: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    /// Zero: it never opens.
    pub(crate) failures: u32,
    pub(crate) pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { failures: 5, pause: Duration::from_secs(1) }
    }
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, error: Error },
    HalfOpen { error: Error, probe: Probe, until: Instant },
}

/// The number of a probe: a lost probe may still report, when another has taken its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Probe(u64);

/// A call's leave to go through. Dropped without a report, it was no proof of anything.
#[must_use = "report how it went"]
pub(crate) struct Pass<'a> {
    breaker: &'a Breaker,
    probe: Option<Probe>,
    reported: bool,
}

impl Breaker {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, state: Mutex::new(State::Closed { failures: 0 }), probes: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one call through, which is to end within `limit`.
    ///
    /// # Errors
    ///
    /// Of kind `Unavailable` if the breaker is open, or a probe is on its way.
    pub(crate) fn enter(&self, limit: Duration) -> Result<Pass<'_>> {
        let state = self.state();
        match &*state {
            State::Closed { .. } => Ok(Pass { breaker: self, probe: None, reported: false }),
            State::Open { until, error } | State::HalfOpen { error, until, .. } if *until <= Instant::now() => {
                let (error, probe) = (error.clone(), Probe(self.probes.fetch_add(1, Ordering::Relaxed)));
                // A probe that ends in time reports before this.
                let until = after(limit.saturating_add(self.settings.pause));
                Self::become_in(state, State::HalfOpen { error, probe, until });
                Ok(Pass { breaker: self, probe: Some(probe), reported: false })
            }
            State::Open { error, .. } | State::HalfOpen { error, .. } => Err(error.clone()),
        }
    }

    #[cfg(test)]
    fn is_closed(&self) -> bool {
        matches!(*self.state(), State::Closed { .. })
    }

    /// What it was is dropped after the lock: an error may have a source of the application's.
    fn become_in(mut state: MutexGuard<'_, State>, next: State) {
        let before = std::mem::replace(&mut *state, next);
        drop(state);
        drop(before);
    }

    fn failed(&self, error: &Error, name: &str, probe: Option<Probe>) {
        let state = self.state();
        let failures = match &*state {
            State::Closed { failures } => failures.saturating_add(1),
            state if state.is_probed_by(probe) => self.settings.failures,
            // Only the probe may speak for what has opened meanwhile.
            _ => return,
        };
        let next = if self.settings.failures > 0 && failures >= self.settings.failures {
            State::Open { until: after(self.settings.pause), error: self.skipped(error, name) }
        } else {
            State::Closed { failures }
        };
        Self::become_in(state, next);
    }

    /// Made once, when it opens: to skip a tier must cost nothing.
    fn skipped(&self, error: &Error, name: &str) -> Error {
        let Settings { failures, pause } = self.settings;
        let message =
            format!("tier {name} is passed over, as it failed {failures} times in a row; it is tried every {pause:?}");
        Error::with_source(ErrorKind::Unavailable, message, error.clone())
    }

    fn answered(&self, probe: Option<Probe>) {
        let state = self.state();
        if state.is_probed_by(probe) || matches!(*state, State::Closed { .. }) {
            Self::become_in(state, State::Closed { failures: 0 });
        }
    }
}

impl State {
    fn is_probed_by(&self, call: Option<Probe>) -> bool {
        matches!(self, Self::HalfOpen { probe, .. } if call == Some(*probe))
    }
}

impl Pass<'_> {
    pub(crate) fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Reports how the call went: only what a dead backend does counts against it.
    pub(crate) fn report<T>(mut self, result: &Result<T>, name: &str) {
        self.reported = true;
        match result {
            Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) => {
                self.breaker.failed(error, name, self.probe);
            }
            _ => self.breaker.answered(self.probe),
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.reported || self.probe.is_none() {
            return;
        }
        // Its caller went away, or the store was not asked: the next call is the probe.
        let mut state = self.breaker.state();
        if state.is_probed_by(self.probe)
            && let State::HalfOpen { until, .. } = &mut *state
        {
            *until = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    fn fail(breaker: &Breaker) -> Result<()> {
        let error: Result<()> = Err(Error::new(ErrorKind::Timeout, "late"));
        breaker.enter(LIMIT)?.report(&error, "L2");
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_probes_once_and_closes() {
        let pause = Duration::from_secs(1);
        let breaker = Breaker::new(Settings { failures: 3, pause });
        for _ in 0..2 {
            fail(&breaker).unwrap();
        }
        breaker.enter(LIMIT).unwrap().report(&Ok(()), "L2");
        for _ in 0..3 {
            assert!(breaker.is_closed(), "a success in between counts from zero");
            fail(&breaker).unwrap();
        }
        let error = breaker.enter(LIMIT).err().expect("open");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("L2") && error.to_string().contains("1s"), "{error}");

        tokio::time::advance(pause).await;
        let probe = breaker.enter(LIMIT).unwrap();
        assert!(probe.is_probe() && breaker.enter(LIMIT).is_err(), "one probe at a time");
        drop(probe);
        fail(&breaker).expect("a probe that was dropped makes room for the next");
        assert!(breaker.enter(LIMIT).is_err(), "a probe that failed opens it again");

        tokio::time::advance(pause).await;
        breaker.enter(LIMIT).unwrap().report(&Ok(()), "L2");
        assert!(breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_never_reports_is_replaced() {
        let pause = Duration::from_secs(1);
        let breaker = Breaker::new(Settings { failures: 1, pause });
        fail(&breaker).unwrap();
        tokio::time::advance(pause).await;
        let kept = breaker.enter(LIMIT).unwrap();
        tokio::time::advance(LIMIT).await;
        assert!(breaker.enter(LIMIT).is_err(), "it may still end in time");
        tokio::time::advance(pause).await;
        let second = breaker.enter(LIMIT).unwrap();
        assert!(second.is_probe());
        kept.report(&Ok(()), "L2");
        assert!(!breaker.is_closed(), "a lost probe decides nothing");
        second.report(&Ok(()), "L2");
        assert!(breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_are_errors_are_answers() {
        let breaker = Breaker::new(Settings { failures: 1, pause: Duration::from_secs(1) });
        for kind in [ErrorKind::Codec, ErrorKind::Full, ErrorKind::ReadOnly, ErrorKind::Denied, ErrorKind::Backend] {
            breaker.enter(LIMIT).unwrap().report(&Err::<(), _>(Error::new(kind, "no")), "L2");
        }
        assert!(breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_began_before_it_opened_does_not_close_it() {
        let breaker = Breaker::new(Settings { failures: 1, pause: Duration::from_secs(1) });
        let early = breaker.enter(LIMIT).unwrap();
        fail(&breaker).unwrap();
        early.report(&Ok(()), "L2");
        assert!(!breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_began_before_it_opened_does_not_prolong_the_pause() {
        let pause = Duration::from_secs(1);
        let breaker = Breaker::new(Settings { failures: 1, pause });
        let early = breaker.enter(LIMIT).unwrap();
        fail(&breaker).unwrap();
        tokio::time::advance(pause / 2).await;
        early.report(&Err::<(), _>(Error::new(ErrorKind::Timeout, "late")), "L2");
        tokio::time::advance(pause / 2).await;
        assert!(breaker.enter(LIMIT).is_ok());
    }

    #[tokio::test]
    async fn without_a_threshold_it_never_opens() {
        let breaker = Breaker::new(Settings { failures: 0, pause: Duration::from_secs(1) });
        for _ in 0..100 {
            fail(&breaker).unwrap();
        }
        assert!(breaker.is_closed());
    }

    /// An error whose source asks the breaker when it is dropped.
    #[derive(Debug)]
    struct Asking(std::sync::Arc<Breaker>);

    impl std::fmt::Display for Asking {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("asking")
        }
    }

    impl std::error::Error for Asking {}

    impl Drop for Asking {
        fn drop(&mut self) {
            let _ = self.0.enter(LIMIT).map(drop);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn its_error_is_dropped_outside_the_lock() {
        let pause = Duration::from_secs(1);
        let breaker = std::sync::Arc::new(Breaker::new(Settings { failures: 1, pause }));
        let asking = Asking(std::sync::Arc::clone(&breaker));
        let failed: Result<()> = Err(Error::with_source(ErrorKind::Unavailable, "gone", asking));
        breaker.enter(LIMIT).unwrap().report(&failed, "L2");
        drop(failed);
        tokio::time::advance(pause).await;
        breaker.enter(LIMIT).unwrap().report(&Ok(()), "L2");
        assert!(breaker.is_closed());
    }
}
