//! What the tests of several crates share: real servers, and a network that fails on demand.
#![allow(clippy::missing_panics_doc, reason = "a harness panics wherever a test is to fail")]

mod certificates;
pub mod claims;
mod cut_proxy;
mod entries;
mod mariadb;
mod postgres;
mod redis_acl;
mod redis_server;
mod server_process;
mod shown;
mod skew;
mod sql_place;
pub mod takes;
mod workload;

pub use crate::{
    certificates::Certificates,
    cut_proxy::CutProxy,
    entries::{all, eventually, key, living, never, remaining, void},
    mariadb::MariaDb,
    postgres::Postgres,
    redis_acl::documented_permissions,
    redis_server::{RedisServer, command_of},
    server_process::free_port,
    shown::shown,
    skew::skewed,
    sql_place::{SqlKind, SqlPlace},
    workload::{Report, Workload},
};

/// The code in CONTRIBUTING compiles.
#[cfg(doctest)]
#[doc = include_str!("../../CONTRIBUTING.md")]
struct Contributing;

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
