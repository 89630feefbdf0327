//! The failures of an operation on all tiers.

use cache_core::{Error, Failure, Result};

use crate::tier::Tier;

/// The tiers that failed, each with its first error.
#[derive(Default)]
pub(crate) struct Failures {
    failures: Vec<Failure>,
    /// `true` if a tier failed that is not repaired.
    is_final: bool,
}

impl Failures {
    /// Returns the value, or `None` after noting the error.
    pub(crate) fn note<V, T>(&mut self, tier: &Tier<V>, result: Result<T>) -> Option<T>
    where
        V: Clone + Send + Sync + 'static,
    {
        result
            .map_err(|error| {
                self.is_final |= !tier.is_repairable();
                // No two tiers of a chain have one name.
                if self.failures.iter().all(|failure| failure.name() != &**tier.title()) {
                    self.failures.push(Failure::new(&**tier.title(), error));
                }
            })
            .ok()
    }

    /// Returns the result of a write. Its keys are deleted from the tiers that failed when these
    /// answer again.
    pub(crate) fn of_write(self, operation: &str) -> Result<()> {
        let will_be_repaired = !self.is_final;
        self.result(operation).map_err(|error| error.repaired_later(will_be_repaired))
    }

    pub(crate) fn result(self, operation: &str) -> Result<()> {
        if self.failures.is_empty() { Ok(()) } else { Err(Error::from_failures(operation, self.failures)) }
    }
}
