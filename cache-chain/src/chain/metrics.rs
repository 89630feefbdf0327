//! Publishes the statistics of a chain as metrics.

use std::sync::Arc;

use super::Parts;
use crate::{
    metrics::{INTERVAL, Publisher},
    util::panics::caught,
};

#[cfg(feature = "metrics")]
impl<V: Clone + Send + Sync + 'static> super::ChainCache<V> {
    /// Publishes the statistics as metrics now, for instance before they are scraped. Does nothing
    /// for a chain without [`ChainBuilder::metrics`](crate::ChainBuilder::metrics).
    pub fn publish_metrics(&self) {
        if let Some(publisher) = &self.publisher {
            publisher.publish(&self.stats());
        }
    }
}

/// Publishes the statistics once a second, until the chain ends.
pub(super) fn publish_regularly<V: Clone + Send + Sync + 'static>(
    publisher: Publisher,
    parts: &Parts<'_, V>,
) -> impl Future<Output = ()> + Send + use<V> {
    // The task does not keep the stores alive.
    let (reader, loader, writer) =
        (Arc::downgrade(parts.reader), Arc::downgrade(parts.loader), Arc::downgrade(parts.writer));
    async move {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let (Some(reader), Some(loader), Some(writer)) = (reader.upgrade(), loader.upgrade(), writer.upgrade())
            else {
                return;
            };
            let parts = Parts { reader: &reader, loader: &loader, writer: &writer };
            // A recorder or a store that panics must not end this.
            let _ = caught(async { publisher.publish(&parts.stats()) }).await;
        }
    }
}
