#![doc = include_str!("../README.md")]

// From the bottom up: each module uses only those above it.
mod reaper;
mod segments;

mod flusher;
mod store;

mod builder;

pub use crate::{builder::StrettoBuilder, store::StrettoStore};
