//! The live page: `/cache`, fed by the server-sent events of `/cache/events`.

mod durations;
mod sample;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    response::{
        Html, Sse,
        sse::{Event, KeepAlive},
    },
    routing::get,
};
use cache_chain::ChainCache;
use futures_util::stream::{Stream, unfold};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use self::{
    durations::Durations,
    sample::{Sample, Snapshot},
};
use crate::users::User;

/// The time between two events, and the time in which a page connects again.
const INTERVAL: Duration = Duration::from_secs(1);

/// Takes a sample each second, one for all pages, until the service ends.
pub(crate) fn sample(
    cache: ChainCache<User>,
    metrics: PrometheusHandle,
    ending: CancellationToken,
) -> watch::Receiver<Arc<str>> {
    let snapshot =
        move || Snapshot { at: Instant::now(), stats: cache.stats(), durations: Durations::read(&metrics.render()) };
    let mut before = snapshot();
    let mut next = move || {
        let after = snapshot();
        let sample = Sample::between(&before, &after);
        before = after;
        Arc::<str>::from(serde_json::to_string(&sample).unwrap_or_default())
    };
    let (samples, receiver) = watch::channel(next());
    tokio::spawn(ending.run_until_cancelled_owned(async move {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is immediate.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            samples.send_replace(next());
        }
    }));
    receiver
}

pub(crate) fn router(samples: watch::Receiver<Arc<str>>) -> Router {
    Router::new()
        .route("/cache", get(async || Html(include_str!("page.html"))))
        .route("/cache/events", get(async move || Sse::new(events(samples)).keep_alive(KeepAlive::default())))
}

/// The last sample, and each further one. The stream ends with the sampling, so that an open page
/// does not hold up the end of the service.
fn events(mut samples: watch::Receiver<Arc<str>>) -> impl Stream<Item = Result<Event, Infallible>> {
    samples.mark_changed();
    unfold(samples, async |mut samples| {
        samples.changed().await.ok()?;
        let event = Event::default().retry(INTERVAL).data(&*samples.borrow_and_update());
        Some((Ok(event), samples))
    })
}
