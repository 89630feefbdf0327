#![doc = include_str!("../README.md")]

pub mod backend;
mod cache;
pub mod codec;
mod delegate;
mod entry;
mod envelope;
mod error;
mod fence;
mod key;
mod life;
mod local;
mod origin;
mod store;
mod sync;
#[cfg(feature = "testkit")]
pub mod testkit;
mod time;

pub use crate::{
    cache::Cache,
    codec::Codec,
    delegate::DelegateCache,
    entry::Entry,
    error::{Error, ErrorKind, Failure, Result},
    fence::{Fence, Ticket},
    key::{CacheKey, Key, KeyWriter},
    local::{Displaced, LocalStore},
    origin::Origin,
    store::{Claim, Profile, Store, Write},
    time::{Clock, Expiry, MAX_TTL, ManualClock, Moment, SharedClock, SystemClock, Ttl},
};
