#![doc = include_str!("../README.md")]
// Without the feature of a database, the crate is empty.
#![cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]

// From the bottom up: each module uses only those above it.
mod codec;
mod dialect;

mod database;

mod table;

mod keyspace;

mod clear;
mod inspect;
mod lease;
mod read;
mod revalidate;
mod take;
mod touch;
mod write;

mod sweep;

#[cfg(feature = "postgres")]
mod listen;

mod store;

mod builder;

/// The driver, in the version that [`SqlStore`] takes a pool of.
pub use sqlx;

#[cfg(feature = "postgres")]
pub use crate::listen::PostgresChanges;
pub use crate::{builder::SqlStoreBuilder, codec::DefaultCodec, store::SqlStore};
