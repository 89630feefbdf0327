#![doc = include_str!("../README.md")]

// From the bottom up: each module uses only those above it.
mod codec;
mod record;

mod connection;

mod route;

mod keyspace;

mod inspect;

mod clear;
mod lease;
mod permissions;
mod read;
mod take;
mod touch;
mod write;

mod revalidate;

mod store;

mod builder;

/// The driver, in the version that [`RedisTarget`] takes a client of.
pub use redis;

pub use crate::{
    builder::RedisStoreBuilder,
    codec::DefaultCodec,
    connection::{RedisConnection, builder::RedisConnectionBuilder, invalidations::Invalidations, target::RedisTarget},
    store::RedisStore,
};
