//! Backends as sources of what they store. A source only reads.

#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod sql;

use std::pin::Pin;

use cache_core::{
    Ttl,
    backend::{Envelope, check_namespace},
};

use crate::{
    arguments::Place,
    backends,
    error::{Error, Result},
    url::Target,
};

/// The result of a request, in the future.
pub(crate) type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The keys of a namespace in a backend.
pub(crate) trait Source: Send {
    /// Returns the name of the backend.
    fn title(&self) -> &'static str;

    /// Returns the run of the server.
    fn run(&self) -> Run;

    /// Lists the next keys, `None` after the last. A key may be listed more than once.
    fn next_page(&mut self) -> Reply<'_, Option<Page>>;

    /// Finds one key, without the namespace.
    fn find<'a>(&'a mut self, key: &'a [u8]) -> Reply<'a, Option<Listed>>;

    /// Reads what is stored under these keys now. Keys that are gone are left out.
    fn fetch<'a>(&'a mut self, listed: &'a [Listed]) -> Reply<'a, Vec<Found>>;
}

/// Some keys of a namespace.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) keys: Vec<Listed>,
    /// About how many keys the backend has looked at for the page.
    pub(crate) visited: u64,
}

/// A key of the namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Listed {
    /// The key, without the namespace.
    pub(crate) key: Vec<u8>,
    /// What the backend finds it by: the whole key in Redis, the column `id` in SQL.
    pub(crate) id: Vec<u8>,
    /// The bytes that are stored, `None` if they are of a type that has none.
    pub(crate) size: Option<u64>,
}

/// What a backend holds under a key.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The key, without the namespace.
    pub(crate) key: Vec<u8>,
    /// The key as the checksum of the record covers it.
    pub(crate) bound_to: Vec<u8>,
    pub(crate) body: Body,
    /// The bytes that are stored.
    pub(crate) size: u64,
    /// The time until the backend removes or ignores them. Zero if it ignores them already.
    pub(crate) ttl: Ttl,
    /// The time by the clock of the backend, in Unix milliseconds.
    pub(crate) now: u64,
    /// The time that the times in the record count from, in Unix milliseconds.
    pub(crate) written_at: u64,
}

/// The bytes under a key.
#[cfg_attr(
    not(all(feature = "redis", any(feature = "mysql", feature = "postgres", feature = "sqlite"))),
    allow(dead_code, reason = "some are of Redis alone, and markers without records are of SQL")
)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Body {
    /// Bytes of a value or a record.
    Bytes(Vec<u8>),
    /// More bytes than any record has. They were not read.
    TooLarge,
    /// The marker of a lease or a claim with this write id, which is no record.
    Marker(u64),
    /// The number of the last announcement by pub/sub.
    Counter,
    /// A list, a hash or another type that is no value.
    OtherType,
}

/// The run of the server.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "only Redis has runs"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Run {
    /// Records of runs with another epoch do not count.
    Epoch(u32),
    /// The backend has no runs.
    #[cfg_attr(
        not(any(feature = "mysql", feature = "postgres", feature = "sqlite")),
        allow(dead_code, reason = "only SQL has none")
    )]
    Irrelevant,
    /// The user may not ask for it.
    Denied,
    /// The server is a replica, whose records are those of its primary.
    Replica,
}

/// The largest number of bytes of a record.
pub(crate) const MAX_RECORD: u64 = (Envelope::MAX_PAYLOAD + Envelope::MAX_HEAD + 2 + 1024) as u64;

/// Connects to the backend of a URL.
///
/// # Errors
///
/// Returns an error of usage if an argument is wrong, else the error of the backend.
pub(crate) async fn connect(target: &Target, place: &Place, pattern: Option<&str>) -> Result<Box<dyn Source>> {
    check_namespace(&place.namespace)?;
    match target.kind {
        #[cfg(feature = "redis")]
        crate::url::Kind::Redis => Ok(Box::new(redis::RedisSource::connect(&target.url, place, pattern).await?)),
        #[cfg(feature = "mysql")]
        crate::url::Kind::MySql => {
            Ok(Box::new(sql::SqlSource::connect(sql::MYSQL, &target.url, place, pattern).await?))
        }
        #[cfg(feature = "postgres")]
        crate::url::Kind::Postgres => {
            Ok(Box::new(sql::SqlSource::connect(sql::POSTGRES, &target.url, place, pattern).await?))
        }
        #[cfg(feature = "sqlite")]
        crate::url::Kind::Sqlite => {
            Ok(Box::new(sql::SqlSource::connect(sql::SQLITE, &target.url, place, pattern).await?))
        }
        #[allow(unreachable_patterns, reason = "a build may have all backends")]
        _ => {
            let _ = pattern;
            let message = format!("this build cannot read the backend of the URL; it was built with: {}", backends());
            Err(Error::usage(message))
        }
    }
}

impl Found {
    /// Returns the number of bytes that were read.
    pub(crate) fn read(&self) -> u64 {
        match &self.body {
            Body::Bytes(_) | Body::Counter => self.size,
            _ => 0,
        }
    }
}
