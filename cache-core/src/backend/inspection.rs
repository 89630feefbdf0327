//! What a store holds under a key, for diagnosis.

use super::Description;
use crate::{Result, Ttl};

/// What a store holds under a key, without the value. From [`Store::inspect`](crate::Store::inspect).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The bytes that are stored under the key.
    pub size: usize,
    /// The time until the store removes them, `None` if the store does not tell.
    pub ttl: Option<Ttl>,
    /// What the record says about itself, `None` if the store keeps values without records. An error
    /// of kind `Codec` if the bytes are not a record of the key.
    pub record: Option<Result<Description>>,
}

impl Inspection {
    /// Creates the description of `size` bytes that the store removes after `ttl`.
    pub const fn new(size: usize, ttl: Option<Ttl>, record: Option<Result<Description>>) -> Self {
        Self { size, ttl, record }
    }
}
