//! What the tests of several crates share: real servers, and a network that fails on demand.
#![allow(clippy::missing_panics_doc, reason = "a harness panics wherever a test is to fail")]

mod backend;
mod certificates;
pub mod claims;
mod cut_proxy;
mod database_server;
mod entries;
pub mod facets;
pub mod leases;
mod logs;
mod mariadb;
mod memory;
mod message_proxy;
pub mod operations;
mod postgres;
mod prometheus_server;
mod redis_acl;
mod redis_cluster;
mod redis_sentinels;
mod redis_server;
mod redis_wire;
mod server_process;
mod shown;
mod skew;
mod sql;
mod sql_place;
pub mod takes;
mod waiting;
mod workload;

pub use crate::{
    backend::Backend,
    certificates::Certificates,
    cut_proxy::CutProxy,
    database_server::{DatabaseServer, Product},
    entries::{all, key, living, never, remaining, value, void},
    logs::Logs,
    mariadb::{MariaDb, MariaDbProduct},
    memory::{Bound, Memory, Moka, QuickCache, Stretto},
    message_proxy::MessageProxy,
    postgres::{Postgres, PostgresProduct},
    prometheus_server::{PrometheusServer, promtool},
    redis_acl::{
        documented_cluster_permissions, documented_permissions, documented_sentinel_permissions,
        documented_stream_permissions, documented_wait_permissions,
    },
    redis_cluster::RedisCluster,
    redis_sentinels::{RedisSentinels, SentinelSettings},
    redis_server::{RedisServer, command_of},
    server_process::free_port,
    shown::shown,
    skew::skewed,
    sql_place::{SqlKind, SqlPlace},
    waiting::{eventually, poll_once},
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
