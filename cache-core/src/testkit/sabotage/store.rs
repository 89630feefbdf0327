//! The operations of a broken store.

use std::time::Duration;

use super::{Broken, LEASE_TTL, with_expiry};
use crate::{
    Claim, Clock as _, Entry, Error, ErrorKind, Expiry, Key, Lifetime, Moment, Profile, Result, Revalidated, Store,
    Ticket, Write,
    backend::ETag,
    testkit::{Clause, yield_now},
};

impl Store for Broken {
    type Value = String;

    fn profile(&self) -> Profile {
        Store::profile(&self.map).claims(true)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<String>>> {
        self.enter().await?;
        let key = &self.key(key);
        let found = self.found(key);
        let state = self.state();
        if state.corrupt.contains(key) {
            let error = Error::new(ErrorKind::Codec, "the stored bytes are no value");
            return if self.breaks(Clause::S10) { Ok(None) } else { Err(error) };
        }
        if self.breaks(Clause::S1) && !state.written.contains(key) {
            return Err(Error::new(ErrorKind::Backend, "no such key"));
        }
        let now = self.clock.now();
        match (found, state.last.get(key)) {
            (None, Some((last, _))) if self.breaks(Clause::S2) && last.is_expired(now) => Ok(Some(last.clone())),
            (Some(found), Some((_, ttl))) if self.breaks(Clause::S3) => {
                Ok(Some(with_expiry(found, Expiry::after(now, *ttl))))
            }
            // Breaks S25, with `revalidate_many`: each entry of a key has the same version.
            (found, _) if self.breaks(Clause::S25) => {
                Ok(found.map(|entry| entry.with_etag(Some(ETag::new(key.as_bytes(), false)))))
            }
            (found, _) => Ok(found),
        }
    }

    async fn revalidate_many(&self, keys: &[(Key, Option<ETag>)]) -> Vec<Result<Revalidated<String>>> {
        let mut answers = Vec::with_capacity(keys.len());
        for (key, etag) in keys {
            answers.push(self.get(key).await.map(|entry| match entry {
                Some(entry) if etag.is_some() && entry.etag() == *etag => Revalidated::NotModified,
                entry => Revalidated::Modified(entry),
            }));
        }
        answers
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        self.enter().await?;
        self.map.lease(&self.key(key)).await
    }

    async fn claim(&self, key: &Key) -> Result<Claim> {
        self.claim_within(key, LEASE_TTL).await
    }

    async fn claim_within(&self, key: &Key, life: Duration) -> Result<Claim> {
        let ticket = self.lease(key).await?;
        let (key, now) = (self.key(key), self.clock.now());
        let mut state = self.state();
        let is_free = state.claimed.get(&key).is_none_or(|(_, end)| *end <= now);
        // Breaks S19: every claim is granted.
        if is_free || self.breaks(Clause::S19) {
            state.claimed.insert(key, (ticket, now.plus(life.min(LEASE_TTL))));
            return Ok(Claim::granted(ticket));
        }
        Ok(Claim::refused(ticket))
    }

    async fn renew_claims(&self, claims: &[(Key, Ticket)], life: Duration) -> Result<()> {
        let now = self.clock.now();
        for (key, ticket) in claims {
            let key = self.key(key);
            if let Some((held, end)) = self.state().claimed.get_mut(&key)
                && held == ticket
                && *end > now
            {
                *end = now.plus(life.min(LEASE_TTL));
            }
        }
        Ok(())
    }

    async fn release_leases(&self, leases: &[(Key, Ticket)]) -> Result<()> {
        for (key, _) in leases {
            // Breaks S21: the entry is removed as if it were the lease.
            if self.breaks(Clause::S21) {
                self.map.del(&self.key(key)).await?;
            }
        }
        Ok(())
    }

    async fn release(&self, key: &Key, _ticket: Ticket) -> Result<()> {
        self.state().claimed.remove(&self.key(key));
        Ok(())
    }

    async fn fill(&self, write: Write<String>) -> Result<bool> {
        self.enter().await?;
        let ticket = if self.breaks(Clause::S17) { Ticket::unconditional() } else { write.ticket };
        let key = self.key(&write.key);
        self.state().written.insert(key.clone());
        let filled = self.map.fill(Write { key: key.clone(), ticket, ..write }).await?;
        if filled {
            self.state().claimed.remove(&key);
        }
        Ok(filled)
    }

    async fn set(&self, write: Write<String>) -> Result<()> {
        self.install(write).await
    }

    async fn del(&self, key: &Key) -> Result<()> {
        self.enter().await?;
        let key = self.key(key);
        if let Some(entry) = self.found(&key) {
            let ticket = Ticket::unconditional();
            self.state().removed.push(Write::new(key.clone(), entry, ticket));
        }
        self.state().corrupt.remove(&key);
        self.state().claimed.remove(&key);
        self.map.del(&key).await
    }

    async fn take(&self, key: &Key) -> Result<Option<Entry<String>>> {
        self.enter().await?;
        let key = self.key(key);
        self.state().claimed.remove(&key);
        let is_corrupt = self.state().corrupt.remove(&key);
        // Breaks S23: the entry is read and then deleted.
        let taken = if self.breaks(Clause::S23) {
            let found = self.found(&key);
            yield_now().await;
            self.map.del(&key).await?;
            found
        } else {
            self.map.take(&key).await?
        };
        if is_corrupt { Err(Error::new(ErrorKind::Codec, "the stored bytes are no value")) } else { Ok(taken) }
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool> {
        self.enter().await?;
        let key = self.key(key);
        // Breaks S24: the entry is read and then written, even if it was replaced meanwhile.
        if self.breaks(Clause::S24)
            && let Some(entry) = self.found(&key).filter(|entry| !entry.is_absent() && !entry.is_stale(now))
            && !lifetime.expiry.is_past(now)
        {
            yield_now().await;
            let entry = entry.with_lifetime(lifetime);
            return self.map.fill(Write::new(key, entry, Ticket::unconditional())).await;
        }
        let touched = self.map.touch(&key, lifetime, now).await?;
        if touched && let Some((entry, ttl)) = self.state().last.get_mut(&key) {
            *entry = entry.clone().with_lifetime(lifetime);
            *ttl = lifetime.expiry.remaining(now);
        }
        Ok(touched)
    }

    async fn clear(&self) -> Result<()> {
        self.enter().await?;
        self.state().claimed.clear();
        self.state().corrupt.clear();
        Store::clear(&self.map).await
    }

    async fn wait(&self) -> Result<()> {
        self.enter().await?;
        let removed = std::mem::take(&mut self.state().removed);
        for write in removed {
            // Breaks S8: the write was buffered and is applied after the removal.
            if self.breaks(Clause::S8) && self.found(&write.key).is_none() {
                self.map.set(write).await?;
            }
        }
        Ok(())
    }

    async fn set_many(&self, writes: Vec<Write<String>>) -> Vec<Result<()>> {
        if let Err(error) = self.enter().await {
            return writes.iter().map(|_| Err(error.clone())).collect();
        }
        let writes = writes.into_iter().map(|write| self.prepare(write)).collect();
        self.map.set_many(writes).await
    }

    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<String>>>> {
        if self.breaks(Clause::S11) {
            assert!(!keys.is_empty(), "no keys");
        }
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(self.get(key).await);
        }
        found
    }
}
