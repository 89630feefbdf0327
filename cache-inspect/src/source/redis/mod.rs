//! Redis.

mod connect;
mod error;
mod reply;

use std::time::Duration;

use cache_core::Ttl;
use redis::{Pipeline, Value, aio::MultiplexedConnection};

use self::reply::{array, bytes, integer, unexpected};
use super::{Body, Found, Listed, MAX_RECORD, Page, Reply, Run, Source};
use crate::{arguments::Place, error::Result};

/// How many keys SCAN looks at for a page.
const COUNT: u64 = 500;

/// The keys of a namespace in Redis.
pub(super) struct RedisSource {
    connection: MultiplexedConnection,
    run: Run,
    /// `users:`.
    prefix: Vec<u8>,
    pattern: Vec<u8>,
    /// `None` after the last page.
    cursor: Option<Vec<u8>>,
    is_plain: bool,
    timeout: Duration,
}

impl RedisSource {
    pub(super) async fn connect(url: &str, place: &Place, pattern: Option<&str>) -> Result<Self> {
        let mut connection = connect::connect(url, place).await?;
        let run = connect::run(&mut connection, place.timeout).await?;
        let prefix = format!("{}:", place.namespace).into_bytes();
        let pattern = [&prefix, pattern.unwrap_or("*").as_bytes()].concat();
        let cursor = Some(b"0".to_vec());
        Ok(Self { connection, run, prefix, pattern, cursor, is_plain: place.plain, timeout: place.timeout })
    }

    async fn ask(&mut self, commands: &Pipeline) -> Result<Vec<Value>> {
        ask(&mut self.connection, commands, self.timeout).await
    }

    /// Returns the keys of these names that exist, with their sizes.
    async fn sizes(&mut self, names: Vec<Vec<u8>>) -> Result<Vec<Listed>> {
        let mut commands = Pipeline::with_capacity(names.len());
        for name in &names {
            commands.cmd("STRLEN").arg(name);
        }
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let replies = self.ask(&commands).await?;
        names.into_iter().zip(replies).map(|(name, reply)| self.listed(name, reply)).collect()
    }

    fn listed(&self, name: Vec<u8>, size: Value) -> Result<Listed> {
        let size = match size {
            size if reply::is_wrong_type(&size) => None,
            size => Some(u64::try_from(integer(size)?).unwrap_or(0)),
        };
        let key = name.strip_prefix(&self.prefix[..]).unwrap_or_default().to_vec();
        Ok(Listed { key, id: name, size })
    }

    async fn page(&mut self) -> Result<Option<Page>> {
        let Some(cursor) = self.cursor.take() else { return Ok(None) };
        let mut scan = Pipeline::with_capacity(1);
        scan.cmd("SCAN").arg(cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(COUNT);
        let [page] = self.ask(&scan).await?.try_into().map_err(|_| unexpected())?;
        let [next, names] = array(page)?;
        let next = bytes(next)?.ok_or_else(unexpected)?;
        self.cursor = (next != b"0").then_some(next);
        let Value::Array(names) = names else { return Err(unexpected()) };
        let names: Result<Vec<_>> = names.into_iter().map(|name| bytes(name)?.ok_or_else(unexpected)).collect();
        Ok(Some(Page { keys: self.sizes(names?).await?, visited: COUNT }))
    }

    /// Returns the key if it exists.
    async fn find_one(&mut self, key: &[u8]) -> Result<Option<Listed>> {
        let name = [&self.prefix, key].concat();
        // STRLEN of a key that does not exist is 0, as that of an empty value.
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("PTTL").arg(&name).cmd("STRLEN").arg(&name);
        let [ttl, size] = self.ask(&commands).await?.try_into().map_err(|_| unexpected())?;
        if remaining(integer(ttl)?).is_none() { Ok(None) } else { self.listed(name, size).map(Some) }
    }

    async fn fetch_all(&mut self, listed: &[Listed]) -> Result<Vec<Found>> {
        let is_read = |key: &Listed| key.size.is_some_and(|size| size <= MAX_RECORD);
        let mut commands = Pipeline::with_capacity(1 + 2 * listed.len());
        commands.cmd("TIME");
        for key in listed {
            commands.cmd("PTTL").arg(&key.id);
            if is_read(key) {
                commands.cmd("GET").arg(&key.id);
            }
        }
        let mut replies = self.ask(&commands).await?.into_iter();
        let mut next = || replies.next().ok_or_else(unexpected);
        let now = reply::unix_millis(next()?)?;
        let mut found = Vec::with_capacity(listed.len());
        for key in listed {
            let ttl = remaining(integer(next()?)?);
            let body = if is_read(key) {
                match next()? {
                    Value::Nil => None,
                    value if reply::is_wrong_type(&value) => Some(Body::OtherType),
                    value => bytes(value)?.map(Body::Bytes),
                }
            } else {
                Some(if key.size.is_some() { Body::TooLarge } else { Body::OtherType })
            };
            let (Some(ttl), Some(body)) = (ttl, body) else { continue };
            let size = match &body {
                Body::Bytes(bytes) => bytes.len() as u64,
                _ => key.size.unwrap_or(0),
            };
            // A key is never empty, so this is the number of the announcements.
            let body = if key.key.is_empty() && !self.is_plain { Body::Counter } else { body };
            let bound_to = key.id.clone();
            found.push(Found { key: key.key.clone(), bound_to, body, size, ttl, now, written_at: 0 });
        }
        Ok(found)
    }
}

impl Source for RedisSource {
    fn title(&self) -> &'static str {
        "Redis"
    }

    fn run(&self) -> Run {
        self.run
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

/// Sends commands, and returns their replies, which may be errors.
async fn ask(connection: &mut MultiplexedConnection, commands: &Pipeline, timeout: Duration) -> Result<Vec<Value>> {
    let replies = connection.send_packed_commands(commands, 0, commands.len());
    match tokio::time::timeout(timeout, replies).await {
        Ok(replies) => replies.map_err(|error| error::failed(&error)),
        Err(_) => Err(error::timed_out(timeout)),
    }
}

/// Converts the reply to PTTL, `None` if the key does not exist.
fn remaining(millis: i64) -> Option<Ttl> {
    match millis {
        -2 => None,
        -1 => Some(Ttl::Never),
        millis => Some(Ttl::After(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))),
    }
}
