//! Limits reports of what may happen thousands of times a second.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use super::sync::lock;

/// The time between two reports.
const PAUSE: Duration = Duration::from_secs(60);

/// Lets one report through a minute.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    /// Returns the number of reports that were suppressed since the last one, or `None` if this one
    /// is to be suppressed as well.
    pub(crate) fn pass(&self) -> Option<u64> {
        let mut state = lock(&self.0);
        let now = Instant::now();
        if state.last.is_some_and(|last| now.duration_since(last) < PAUSE) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_report_a_minute_passes_and_counts_the_others() {
        let throttle = Throttle::default();
        assert_eq!([throttle.pass(), throttle.pass(), throttle.pass()], [Some(0), None, None]);
        tokio::time::advance(PAUSE).await;
        assert_eq!([throttle.pass(), throttle.pass()], [Some(2), None]);
    }
}
