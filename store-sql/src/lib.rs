#![doc = include_str!("../README.md")]
// Without a database there is nothing to store in.
#![cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]

mod builder;
mod call;
mod clear;
mod clock;
mod database;
mod dialect;
mod error;
mod identity;
#[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "the other databases need none"))]
mod key_locks;
mod lease;
#[cfg(feature = "mysql")]
mod mysql;
mod names;
mod pool;
#[cfg(feature = "postgres")]
mod postgres;
mod read;
mod rows;
mod runtime;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statement;
mod store;
mod sweep;
mod table;
mod unreached;
mod write;

pub use crate::{
    builder::{DefaultCodec, SqlStoreBuilder},
    store::SqlStore,
};
