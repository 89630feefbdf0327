#![doc = include_str!("../README.md")]

// From the bottom up: each module uses only those above it.
mod bin;

mod store;

mod builder;

pub use crate::{builder::MokaBuilder, store::MokaStore};
