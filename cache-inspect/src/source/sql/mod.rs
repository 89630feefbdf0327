//! MySQL, MariaDB, PostgreSQL and SQLite.

mod connection;
mod error;
mod glob;
mod identity;
mod statements;

use std::time::Duration;

use cache_core::Ttl;

#[cfg(feature = "mysql")]
pub(super) use self::statements::MYSQL;
#[cfg(feature = "postgres")]
pub(super) use self::statements::POSTGRES;
#[cfg(feature = "sqlite")]
pub(super) use self::statements::SQLITE;
use self::{
    connection::{Connection, Row},
    statements::{Dialect, Statements},
};
use super::{Body, Found, Listed, Page, Reply, Run, Source};
use crate::{
    arguments::Place,
    error::{Error, Result},
};

/// The rows of a namespace in a table.
pub(super) struct SqlSource {
    connection: Connection,
    dialect: &'static Dialect,
    statements: Statements,
    namespace: String,
    pattern: Option<Vec<u8>>,
    /// The id after which the next page begins, `None` after the last page.
    after: Option<Vec<u8>>,
    timeout: Duration,
}

impl SqlSource {
    pub(super) async fn connect(
        dialect: &'static Dialect,
        url: &str,
        place: &Place,
        pattern: Option<&str>,
    ) -> Result<Self> {
        if place.plain {
            return Err(Error::usage("--plain is for Redis; a table has records only"));
        }
        if place.ca_file.is_some() {
            return Err(Error::usage("--ca-file is for Redis; in SQL, the URL names the file (ssl-ca, sslrootcert)"));
        }
        let statements = Statements::new(dialect, &place.table)?;
        let connection = Connection::open(dialect, url, place.timeout).await?;
        let (namespace, timeout) = (place.namespace.clone(), place.timeout);
        let pattern = pattern.map(|pattern| pattern.as_bytes().to_vec());
        Ok(Self { connection, dialect, statements, namespace, pattern, after: Some(Vec::new()), timeout })
    }

    /// Runs a query on these ids in a transaction that only reads.
    async fn rows(&mut self, query: &str, ids: &[&[u8]]) -> Result<Vec<Row>> {
        let begin = self.dialect.begin(self.timeout);
        let rows = self.connection.read(&begin, query, &self.namespace, ids);
        match tokio::time::timeout(self.timeout, rows).await {
            Ok(rows) => rows.map_err(|error| error::failed(self.dialect, &error)),
            Err(_) => Err(Error::failed(format!(
                "{} did not answer within {:?}; check its load, or raise --timeout",
                self.dialect.title, self.timeout
            ))),
        }
    }

    async fn page(&mut self) -> Result<Option<Page>> {
        let Some(after) = self.after.take() else { return Ok(None) };
        let query = self.statements.page();
        let rows = self.rows(&query, &[&after]).await?;
        let visited = rows.len() as u64;
        if visited == statements::PAGE {
            self.after = rows.last().map(|row| row.id.clone());
        }
        let is_wanted = |key: &Listed| self.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, &key.key));
        let keys = rows.into_iter().map(Listed::from).filter(is_wanted).collect();
        Ok(Some(Page { keys, visited }))
    }

    async fn find_one(&mut self, key: &[u8]) -> Result<Option<Listed>> {
        let id = identity::id_of(key);
        let query = self.statements.sizes(1);
        let rows = self.rows(&query, &[&id]).await?;
        Ok(rows.into_iter().map(Listed::from).find(|listed| listed.key == key))
    }

    async fn fetch_all(&mut self, listed: &[Listed]) -> Result<Vec<Found>> {
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        // Filled up by repeating the last id, so that few different texts are prepared.
        let count = listed.len().next_power_of_two();
        let ids: Vec<&[u8]> =
            (0..count).filter_map(|at| listed.get(at).or(listed.last())).map(|key| &key.id[..]).collect();
        let query = self.statements.values(count);
        Ok(self.rows(&query, &ids).await?.into_iter().map(Found::from).collect())
    }
}

impl Source for SqlSource {
    fn title(&self) -> &'static str {
        self.dialect.title
    }

    fn run(&self) -> Run {
        Run::Irrelevant
    }

    fn next_page(&mut self) -> Reply<'_, Option<Page>> {
        Box::pin(self.page())
    }

    fn find<'a>(&'a mut self, key: &'a [u8]) -> Reply<'a, Option<Listed>> {
        Box::pin(self.find_one(key))
    }

    fn fetch<'a>(&'a mut self, listed: &'a [Listed]) -> Reply<'a, Vec<Found>> {
        Box::pin(self.fetch_all(listed))
    }
}

impl From<Row> for Listed {
    fn from(row: Row) -> Self {
        let key = row.full_key.unwrap_or_else(|| row.id.clone());
        Self { key, id: row.id, size: Some(unsigned(row.size.unwrap_or(0))) }
    }
}

impl From<Row> for Found {
    fn from(row: Row) -> Self {
        let key = row.full_key.unwrap_or(row.id);
        let body = match (row.size, row.value) {
            (None, _) => Body::Marker(row.write_id.cast_unsigned()),
            (Some(_), Some(bytes)) => Body::Bytes(bytes),
            (Some(_), None) => Body::TooLarge,
        };
        let left = |at: i64| Ttl::After(Duration::from_millis(unsigned(at.saturating_sub(row.now))));
        Self {
            bound_to: key.clone(),
            key,
            body,
            size: unsigned(row.size.unwrap_or(0)),
            ttl: row.expires_at.map_or(Ttl::Never, left),
            now: unsigned(row.now),
            written_at: unsigned(row.written_at),
        }
    }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
