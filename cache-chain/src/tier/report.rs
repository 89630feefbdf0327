//! Reports, as events of `tracing`, of failures that no caller hears of.

use std::sync::Arc;

use cache_core::Error;
use tokio::runtime::Handle;

use super::Tier;
use crate::util::throttle::Throttle;

/// Limits the reports of one tier, each kind by itself.
#[derive(Debug, Default)]
pub(super) struct Reports {
    fill: Throttle,
    repair: Throttle,
    undecodable: Throttle,
    gap: Throttle,
}

impl<V> Tier<V> {
    pub(crate) fn report_failed_fill(&self, error: &Error) {
        if let Some(suppressed) = self.reports.fill.pass() {
            tracing::warn!(tier = %self.name, %error, suppressed, "entries could not be copied into a tier");
        }
    }

    pub(crate) fn report_failed_repair(&self, error: &Error) {
        if let Some(suppressed) = self.reports.repair.pass() {
            let keys = self.pending.len();
            tracing::warn!(
                tier = %self.name, %error, keys, suppressed,
                "keys could not be deleted from a tier after a failed write; it is not read for them, and this is retried"
            );
        }
    }

    pub(crate) fn report_gap(&self) {
        if let Some(suppressed) = self.reports.gap.pass() {
            let tier = Arc::clone(&self.name);
            // No warning: of pub/sub, a heartbeat that overtakes an announcement looks like a gap.
            let report = move || {
                tracing::info!(
                    %tier, suppressed,
                    "the invalidation stream of a tier may have lost events; each entry that is in memory is checked once"
                );
            };
            // In a task, because the stream may hold a lock, and a subscriber may block.
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(async move { report() })),
                Err(_) => report(),
            }
        }
    }

    pub(super) fn report_undecodable(&self, error: &Error) {
        if let Some(suppressed) = self.reports.undecodable.pass() {
            tracing::warn!(
                tier = %self.name, %error, suppressed,
                "a tier holds records that do not decode, which are misses; another version of the application may have \
                 written them"
            );
        }
    }
}
