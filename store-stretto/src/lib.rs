#![doc = include_str!("../README.md")]

mod builder;
mod flusher;
mod index;
mod ledger;
mod reaper;
mod row;
mod segments;
mod store;

pub use crate::{builder::StrettoBuilder, store::StrettoStore};
