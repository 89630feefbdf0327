#![doc = include_str!("../README.md")]

mod builder;
mod call;
mod clear;
mod connection;
mod connection_builder;
mod error;
mod layout;
mod lease;
mod link;
mod namespace;
mod permissions;
mod read;
mod runtime;
mod scripts;
mod server;
mod store;
mod unreached;
mod write;

pub use crate::{
    builder::{DefaultCodec, RedisStoreBuilder},
    connection::RedisConnection,
    connection_builder::RedisConnectionBuilder,
    store::RedisStore,
};
