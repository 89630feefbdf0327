#![doc = include_str!("../README.md")]

pub mod backend;
mod cache;
pub mod codec;
mod delegate;
mod entry;
mod envelope;
mod error;
mod fence;
mod hash;
mod invalidation;
mod key;
mod life;
mod local;
mod origin;
mod record;
mod store;
mod sync;
#[cfg(feature = "testkit")]
pub mod testkit;
mod time;

#[cfg(feature = "derive")]
pub use cache_derive::CacheKey;

pub use crate::{
    cache::Cache,
    codec::Codec,
    delegate::DelegateCache,
    entry::Entry,
    error::{Error, ErrorKind, Failure, Result},
    fence::{Fence, Ticket},
    invalidation::{Invalidation, InvalidationSink, InvalidationStream},
    key::{CacheKey, DisplayKey, Key, KeyWriter},
    local::{Displaced, LocalStore, Usage},
    origin::Origin,
    store::{Claim, Lifetime, Profile, Revalidated, Store, Write},
    time::{Clock, Expiry, MAX_TTL, ManualClock, Moment, SharedClock, SystemClock, Ttl},
};

/// The trait without the derive macro of the same name, for a crate that re-exports it with a macro
/// of its own.
#[doc(hidden)]
pub mod without_derive {
    pub use crate::key::CacheKey;
}
