//! What the tests of several crates share: real servers, and a network that fails on demand.

mod cut_proxy;
mod entries;
mod redis_server;

pub use crate::{
    cut_proxy::CutProxy,
    entries::{eventually, key, living, never, remaining, void},
    redis_server::RedisServer,
};
