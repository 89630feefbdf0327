//! Waits for a condition, or polls once.

use std::{
    future::poll_fn,
    pin::Pin,
    task::Poll,
    time::{Duration, Instant},
};

/// Waits until `condition` returns something, and returns it.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{what} did not come about within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls the future once. Returns its output if it is ready.
pub async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}
