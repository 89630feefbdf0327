#![doc = include_str!("../README.md")]

mod builder;
mod call;
mod clear;
mod connection;
mod error;
mod layout;
mod namespace;
mod read;
mod scripts;
mod server_clock;
mod store;
mod write;
mod write_id;

pub use crate::{
    builder::{DefaultCodec, RedisStoreBuilder},
    connection::{RedisConnection, RedisConnectionBuilder},
    store::RedisStore,
};
