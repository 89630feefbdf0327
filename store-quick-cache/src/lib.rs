#![doc = include_str!("../README.md")]

// From the bottom up: each module uses only those above it.
mod policy;

mod store;

mod builder;

pub use crate::{builder::QuickCacheBuilder, store::QuickCacheStore};
