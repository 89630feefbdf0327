//! The operations of a store, as metrics name them.

use crate::metrics::Durations;

/// What a chain asks a store for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Get,
    Lease,
    Claim,
    RenewClaims,
    Release,
    Fill,
    Set,
    Del,
    Take,
    Touch,
    Expire,
    Clear,
    Repair,
    Time,
}

/// The durations of the calls of each operation.
#[derive(Default)]
pub(super) struct CallDurations([Durations; Operation::NAMES.len()]);

impl Operation {
    const NAMES: [&'static str; 14] = [
        "get",
        "lease",
        "claim",
        "renew_claims",
        "release",
        "fill",
        "set",
        "del",
        "take",
        "touch",
        "expire",
        "clear",
        "repair",
        "time",
    ];
}

impl Operation {
    pub(super) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl CallDurations {
    pub(super) fn new(of: impl Fn(&'static str) -> Durations) -> Self {
        Self(Operation::NAMES.map(of))
    }

    pub(super) fn of(&self, operation: Operation) -> &Durations {
        &self.0[operation as usize]
    }
}
