//! How entries are read.

use std::time::Duration;

use cache_core::{
    Codec, Entry, Expiry, Key, Moment, Result, Ttl,
    backend::{Envelope, Opened},
};
use redis::{Pipeline, Value};

use crate::{
    call::{AHEAD_MILLIS, Call},
    error,
    store::Inner,
};

impl<V, C: Codec<V>> Inner<V, C> {
    pub(crate) async fn read(&self, envelope: &Envelope<C>, keys: &[Key]) -> Result<Vec<Result<Option<Entry<V>>>>> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let (call, link) = (self.connection.shared().call(), self.link_of(first));
        let mut read = Pipeline::with_capacity(1);
        read.cmd(if keys.len() == 1 { "GET" } else { "MGET" });
        let names: Vec<Vec<u8>> = keys.iter().map(|key| self.namespace.key(key)).collect();
        read.arg(&names);
        let asked = self.now();
        let replies = match call.ask(link, &read).await? {
            reply if keys.len() == 1 => vec![reply],
            Value::Array(replies) if replies.len() == keys.len() => replies,
            _ => return Err(error::unexpected()),
        };
        let mut results = Vec::with_capacity(keys.len());
        for (name, reply) in names.iter().zip(replies) {
            results.push(self.entry(&call, link, envelope, (name, reply), asked).await);
        }
        Ok(results)
    }

    async fn entry(
        &self,
        call: &Call<'_>,
        link: usize,
        envelope: &Envelope<C>,
        (name, reply): (&[u8], Value),
        asked: Moment,
    ) -> Result<Option<Entry<V>>> {
        let Some(bytes) = error::bytes(reply)? else { return Ok(None) };
        let (value, life) = match envelope.open(name, &bytes)? {
            Opened::Value(value, life) => (Some(value), life),
            Opened::Absent(life) => (None, life),
            Opened::Lease => return Ok(None),
        };
        let known = call.known(link).await?;
        let latest = known.latest(asked);
        // The age of a record from the future is unknown, so a life with an end counts as over.
        let ends = life.expires.is_some() || life.stale.is_some();
        let future = ends && life.created > latest.saturating_add(AHEAD_MILLIS);
        if future || !known.validity.admits(Envelope::epoch(&bytes), life.created) {
            return Ok(None);
        }
        // Counted from before the asking: on the way back the life went on.
        let entry = life.entry(value, asked, latest);
        Ok((!entry.is_expired(self.now())).then_some(entry))
    }

    /// A value of others carries no deadline; it is read together with what remains of its key, or the two might not
    /// belong together.
    pub(crate) async fn read_plain(&self, codec: &C, keys: &[Key]) -> Result<Vec<Result<Option<Entry<V>>>>> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let mut read = Pipeline::with_capacity(2 * keys.len());
        read.atomic();
        for key in keys {
            let key = self.namespace.key(key);
            read.cmd("GET").arg(&key).cmd("PTTL").arg(&key);
        }
        let asked = self.now();
        let Value::Array(replies) = self.connection.shared().call().ask(self.link_of(first), &read).await? else {
            return Err(error::unexpected());
        };
        if replies.len() != 2 * keys.len() {
            return Err(error::unexpected());
        }
        let mut replies = replies.into_iter();
        let mut results = Vec::with_capacity(keys.len());
        while let (Some(value), Some(remaining)) = (replies.next(), replies.next()) {
            results.push(self.plain_entry(codec, value, remaining, asked));
        }
        Ok(results)
    }

    fn plain_entry(&self, codec: &C, value: Value, remaining: Value, asked: Moment) -> Result<Option<Entry<V>>> {
        let Some(bytes) = error::bytes(value)? else { return Ok(None) };
        let ttl = match error::integer(remaining)? {
            -1 => Ttl::Never,
            millis => Ttl::After(Duration::from_millis(u64::try_from(millis).unwrap_or(0))),
        };
        let expiry = Expiry::after(asked, ttl);
        if expiry.is_past(self.now()) {
            return Ok(None);
        }
        Ok(Some(Entry::new(codec.decode(&bytes)?, expiry)))
    }
}
