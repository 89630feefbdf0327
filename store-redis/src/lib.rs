#![doc = include_str!("../README.md")]

mod builder;
mod call;
mod clear;
mod connection;
mod error;
mod layout;
mod lease;
mod namespace;
mod read;
mod scripts;
mod store;
mod write;

pub use crate::{
    builder::{DefaultCodec, RedisStoreBuilder},
    connection::{RedisConnection, RedisConnectionBuilder},
    store::RedisStore,
};
