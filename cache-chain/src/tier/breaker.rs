//! The circuit breaker, which skips a tier that does not answer.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cache_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::{
    stats::BreakerState,
    util::{deadline::after, sync::lock},
};

/// The settings of a circuit breaker, which skips a tier that does not answer; see
/// [`Tier::breaker`](crate::Tier::breaker).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_chain::{Breaker, ChainCache, Key, Origin, Tier, stretto::StrettoStore};
///
/// async fn find_user(key: Key) -> std::io::Result<Option<String>> {
///     Ok((key.as_str() == Some("42")).then(|| "Ada".to_owned())) // your query
/// }
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     // After three failures in a row, the service is asked twice a second until it answers.
///     let breaker = Breaker::new().failures(3).probe_interval(Duration::from_millis(500));
///     let users: ChainCache<String> = ChainCache::builder()
///         .tier(Tier::new(StrettoStore::new(10_000)?).default_ttl(Duration::from_secs(60)))
///         .tier(Tier::new(Origin::new(find_user)).breaker(breaker))
///         .build()?;
///     assert_eq!(users.get(42).await?.as_deref(), Some("Ada"));
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Breaker {
    pub(super) failures: u32,
    pub(super) probe_interval: Duration,
}

impl Breaker {
    /// Creates the default settings: the breaker opens after 5 consecutive failures and probes
    /// every second.
    pub fn new() -> Self {
        Self { failures: 5, probe_interval: Duration::from_secs(1) }
    }

    /// Sets the number of consecutive failures after which the breaker opens. Default: 5. One lost
    /// connection does not open it; a tier that hangs costs its timeout five times.
    pub fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Sets the interval at which an open breaker lets one call through as a probe. Default: 1 s.
    pub fn probe_interval(mut self, interval: Duration) -> Self {
        self.probe_interval = interval;
        self
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

/// The state of a breaker. Closed, it lets all calls through. It opens after a number of
/// consecutive failures, and calls fail at once. After the probe interval it is half open: one call
/// goes through as a probe, and closes or opens it again. A probe that has not reported when it
/// should have ended counts as lost, and the next call becomes the probe.
#[derive(Debug)]
pub(super) struct Circuit {
    pub(super) settings: Breaker,
    state: Mutex<State>,
    probes: AtomicU64,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, error: Error },
    HalfOpen { error: Error, probe: Probe, until: Instant },
}

/// The number of a probe. A lost probe may report after the next one has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Probe(u64);

/// A call that the breaker lets through. Dropped without a report, it tells the breaker nothing.
#[must_use = "report the result"]
pub(super) struct Pass<'a> {
    breaker: &'a Circuit,
    probe: Option<Probe>,
    reported: bool,
}

impl Circuit {
    pub(super) fn new(settings: Breaker) -> Self {
        Self { settings, state: Mutex::new(State::Closed { failures: 0 }), probes: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Lets one call through that ends within `limit`.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Unavailable` if the breaker is open, or half open with a probe in
    /// flight.
    pub(super) fn enter(&self, limit: Duration) -> Result<Pass<'_>> {
        let state = self.state();
        match &*state {
            State::Closed { .. } => Ok(Pass { breaker: self, probe: None, reported: false }),
            State::Open { until, error } | State::HalfOpen { error, until, .. } if *until <= Instant::now() => {
                let (error, probe) = (error.clone(), Probe(self.probes.fetch_add(1, Ordering::Relaxed)));
                // A probe that ends in time reports before this.
                let until = after(limit.saturating_add(self.settings.probe_interval));
                Self::transition(state, State::HalfOpen { error, probe, until });
                Ok(Pass { breaker: self, probe: Some(probe), reported: false })
            }
            State::Open { error, .. } | State::HalfOpen { error, .. } => Err(error.clone()),
        }
    }

    /// Returns the error with which [`enter`](Self::enter) would refuse a call now, `None` if it
    /// would let it through. Changes nothing.
    pub(super) fn refusal(&self) -> Option<Error> {
        match &*self.state() {
            State::Open { until, error } | State::HalfOpen { error, until, .. } if *until > Instant::now() => {
                Some(error.clone())
            }
            _ => None,
        }
    }

    pub(super) fn observed(&self) -> BreakerState {
        match *self.state() {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Drops the old state after the lock: its error may have a source from the application.
    fn transition(mut state: MutexGuard<'_, State>, next: State) {
        let before = std::mem::replace(&mut *state, next);
        drop(state);
        drop(before);
    }

    fn failed(&self, error: &Error, name: &str, probe: Option<Probe>) {
        let state = self.state();
        let failures = match &*state {
            State::Closed { failures } => failures.saturating_add(1),
            state if state.is_probed_by(probe) => self.settings.failures,
            // A call that began before the breaker opened changes nothing.
            _ => return,
        };
        let opens = failures >= self.settings.failures;
        let was_closed = matches!(&*state, State::Closed { .. });
        let next = if opens {
            State::Open { until: after(self.settings.probe_interval), error: self.skipped(error, name) }
        } else {
            State::Closed { failures }
        };
        Self::transition(state, next);
        if opens && was_closed {
            tracing::warn!(tier = %name, %error, failures, "a circuit breaker has opened: the tier is skipped");
        }
    }

    /// Made once, when the breaker opens: skipping a tier must be cheap.
    fn skipped(&self, error: &Error, name: &str) -> Error {
        let Breaker { failures, probe_interval } = self.settings;
        let message = format!(
            "circuit breaker open for tier {name} after {failures} consecutive failures; next probe within \
             {probe_interval:?}"
        );
        Error::with_source(ErrorKind::Unavailable, message, error.clone())
    }

    fn answered(&self, name: &str, probe: Option<Probe>) {
        let state = self.state();
        let closes = state.is_probed_by(probe);
        if closes || matches!(*state, State::Closed { .. }) {
            Self::transition(state, State::Closed { failures: 0 });
        }
        if closes {
            tracing::info!(tier = %name, "a circuit breaker has closed: the tier answers again");
        }
    }
}

impl State {
    fn is_probed_by(&self, call: Option<Probe>) -> bool {
        matches!(self, Self::HalfOpen { probe, .. } if call == Some(*probe))
    }
}

impl Pass<'_> {
    pub(super) fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Reports the result. Only timeouts and unavailability count as failures: any other error is
    /// an answer.
    pub(super) fn report<T>(mut self, result: &Result<T>, name: &str) {
        self.reported = true;
        match result {
            Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) => {
                self.breaker.failed(error, name, self.probe);
            }
            _ => self.breaker.answered(name, self.probe),
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.reported || self.probe.is_none() {
            return;
        }
        // The caller was dropped, or the store was not asked: the next call becomes the probe.
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

    fn fail(breaker: &Circuit) -> Result<()> {
        let error: Result<()> = Err(Error::new(ErrorKind::Timeout, "late"));
        breaker.enter(LIMIT)?.report(&error, "L2");
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_probes_once_and_closes() {
        let pause = Duration::from_secs(1);
        let breaker = Circuit::new(Breaker { failures: 3, probe_interval: pause });
        for _ in 0..2 {
            fail(&breaker).unwrap();
        }
        breaker.enter(LIMIT).unwrap().report(&Ok(()), "L2");
        for _ in 0..3 {
            assert!(breaker.observed() == BreakerState::Closed, "a success in between counts from zero");
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
        assert!(breaker.observed() == BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_never_reports_is_replaced() {
        let pause = Duration::from_secs(1);
        let breaker = Circuit::new(Breaker { failures: 1, probe_interval: pause });
        fail(&breaker).unwrap();
        tokio::time::advance(pause).await;
        let kept = breaker.enter(LIMIT).unwrap();
        tokio::time::advance(LIMIT).await;
        assert!(breaker.enter(LIMIT).is_err(), "it may still end in time");
        tokio::time::advance(pause).await;
        let second = breaker.enter(LIMIT).unwrap();
        assert!(second.is_probe());
        kept.report(&Ok(()), "L2");
        assert!(breaker.observed() != BreakerState::Closed, "a lost probe decides nothing");
        second.report(&Ok(()), "L2");
        assert!(breaker.observed() == BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_are_errors_are_answers() {
        let breaker = Circuit::new(Breaker { failures: 1, probe_interval: Duration::from_secs(1) });
        for kind in [ErrorKind::Codec, ErrorKind::Full, ErrorKind::ReadOnly, ErrorKind::Denied, ErrorKind::Backend] {
            breaker.enter(LIMIT).unwrap().report(&Err::<(), _>(Error::new(kind, "no")), "L2");
        }
        assert!(breaker.observed() == BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_began_before_it_opened_does_not_close_it() {
        let breaker = Circuit::new(Breaker { failures: 1, probe_interval: Duration::from_secs(1) });
        let early = breaker.enter(LIMIT).unwrap();
        fail(&breaker).unwrap();
        early.report(&Ok(()), "L2");
        assert!(breaker.observed() != BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_began_before_it_opened_does_not_prolong_the_pause() {
        let pause = Duration::from_secs(1);
        let breaker = Circuit::new(Breaker { failures: 1, probe_interval: pause });
        let early = breaker.enter(LIMIT).unwrap();
        fail(&breaker).unwrap();
        tokio::time::advance(pause / 2).await;
        early.report(&Err::<(), _>(Error::new(ErrorKind::Timeout, "late")), "L2");
        tokio::time::advance(pause / 2).await;
        assert!(breaker.enter(LIMIT).is_ok());
    }

    /// An error whose source asks the breaker when it is dropped.
    #[derive(Debug)]
    struct Asking(std::sync::Arc<Circuit>);

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
        let breaker = std::sync::Arc::new(Circuit::new(Breaker { failures: 1, probe_interval: pause }));
        let asking = Asking(std::sync::Arc::clone(&breaker));
        let failed: Result<()> = Err(Error::with_source(ErrorKind::Unavailable, "gone", asking));
        breaker.enter(LIMIT).unwrap().report(&failed, "L2");
        drop(failed);
        tokio::time::advance(pause).await;
        breaker.enter(LIMIT).unwrap().report(&Ok(()), "L2");
        assert!(breaker.observed() == BreakerState::Closed);
    }
}
