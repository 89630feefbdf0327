//! What replaces the publisher without the feature: no chain has one.
#![allow(dead_code, clippy::unused_self, reason = "nothing is created here")]

use std::{sync::Arc, time::Duration};

use crate::stats::Stats;

#[derive(Clone, Debug)]
pub(crate) struct Publisher;

impl Publisher {
    pub(crate) fn is_named(&self) -> bool {
        true
    }

    pub(crate) fn tier_calls(&self, _: &Arc<str>, _: &'static str) -> super::Durations {
        super::Durations::default()
    }

    pub(crate) fn loads(&self) -> super::Durations {
        super::Durations::default()
    }

    pub(crate) fn publish(&self, _: &Stats) {}
}

#[derive(Debug)]
pub(super) struct Histograms;

impl Histograms {
    pub(super) fn record(&self, _: Duration, _: bool) {}
}
