//! `Store` as an object. Its futures are boxed here and nowhere else.

use std::{pin::Pin, time::Duration};

use cache_core::{
    Claim, Entry, Key, Lifetime, LocalStore, Moment, Profile, Result, Revalidated, Store, Ticket, Write,
    backend::{ETag, Inspection, ServerTime},
};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub(super) trait ErasedStore<V>: Send + Sync {
    fn profile(&self) -> Profile;
    fn local(&self) -> Option<&dyn LocalStore<Value = V>>;
    fn get<'a>(&'a self, key: &'a Key) -> Boxed<'a, Result<Option<Entry<V>>>>;
    fn get_many<'a>(&'a self, keys: &'a [Key]) -> Boxed<'a, Vec<Result<Option<Entry<V>>>>>;
    fn revalidate_many<'a>(&'a self, keys: &'a [(Key, Option<ETag>)]) -> Boxed<'a, Vec<Result<Revalidated<V>>>>;
    fn server_time(&self) -> Boxed<'_, Result<Option<ServerTime>>>;
    fn inspect<'a>(&'a self, key: &'a Key) -> Boxed<'a, Result<Option<Inspection>>>;
    fn lease_within<'a>(&'a self, key: &'a Key, life: Duration) -> Boxed<'a, Result<Ticket>>;
    fn lease_many_within<'a>(&'a self, keys: &'a [Key], life: Duration) -> Boxed<'a, Vec<Result<Ticket>>>;
    fn release_leases<'a>(&'a self, leases: &'a [(Key, Ticket)]) -> Boxed<'a, Result<()>>;
    fn claim_within<'a>(&'a self, key: &'a Key, life: Duration) -> Boxed<'a, Result<Claim>>;
    fn claim_many_within<'a>(&'a self, keys: &'a [Key], life: Duration) -> Boxed<'a, Vec<Result<Claim>>>;
    fn renew_claims<'a>(&'a self, claims: &'a [(Key, Ticket)], life: Duration) -> Boxed<'a, Result<()>>;
    fn release<'a>(&'a self, key: &'a Key, ticket: Ticket) -> Boxed<'a, Result<()>>;
    fn fill(&self, write: Write<V>) -> Boxed<'_, Result<bool>>;
    fn fill_many(&self, writes: Vec<Write<V>>) -> Boxed<'_, Vec<Result<bool>>>;
    fn set(&self, write: Write<V>) -> Boxed<'_, Result<()>>;
    fn set_many(&self, writes: Vec<Write<V>>) -> Boxed<'_, Vec<Result<()>>>;
    fn del<'a>(&'a self, key: &'a Key) -> Boxed<'a, Result<()>>;
    fn del_many<'a>(&'a self, keys: &'a [Key]) -> Boxed<'a, Vec<Result<()>>>;
    fn take<'a>(&'a self, key: &'a Key) -> Boxed<'a, Result<Option<Entry<V>>>>;
    fn touch<'a>(&'a self, key: &'a Key, lifetime: Lifetime, now: Moment) -> Boxed<'a, Result<bool>>;
    fn clear(&self) -> Boxed<'_, Result<()>>;
    fn wait(&self) -> Boxed<'_, Result<()>>;
}

impl<S: Store> ErasedStore<S::Value> for S {
    fn profile(&self) -> Profile {
        Store::profile(self)
    }

    fn local(&self) -> Option<&dyn LocalStore<Value = S::Value>> {
        Store::local(self)
    }

    fn get<'a>(&'a self, key: &'a Key) -> Boxed<'a, Result<Option<Entry<S::Value>>>> {
        Box::pin(Store::get(self, key))
    }

    fn get_many<'a>(&'a self, keys: &'a [Key]) -> Boxed<'a, Vec<Result<Option<Entry<S::Value>>>>> {
        Box::pin(Store::get_many(self, keys))
    }

    fn revalidate_many<'a>(&'a self, keys: &'a [(Key, Option<ETag>)]) -> Boxed<'a, Vec<Result<Revalidated<S::Value>>>> {
        Box::pin(Store::revalidate_many(self, keys))
    }

    fn server_time(&self) -> Boxed<'_, Result<Option<ServerTime>>> {
        Box::pin(Store::server_time(self))
    }

    fn inspect<'a>(&'a self, key: &'a Key) -> Boxed<'a, Result<Option<Inspection>>> {
        Box::pin(Store::inspect(self, key))
    }

    fn lease_within<'a>(&'a self, key: &'a Key, life: Duration) -> Boxed<'a, Result<Ticket>> {
        Box::pin(Store::lease_within(self, key, life))
    }

    fn lease_many_within<'a>(&'a self, keys: &'a [Key], life: Duration) -> Boxed<'a, Vec<Result<Ticket>>> {
        Box::pin(Store::lease_many_within(self, keys, life))
    }

    fn release_leases<'a>(&'a self, leases: &'a [(Key, Ticket)]) -> Boxed<'a, Result<()>> {
        Box::pin(Store::release_leases(self, leases))
    }

    fn claim_within<'a>(&'a self, key: &'a Key, life: Duration) -> Boxed<'a, Result<Claim>> {
        Box::pin(Store::claim_within(self, key, life))
    }

    fn claim_many_within<'a>(&'a self, keys: &'a [Key], life: Duration) -> Boxed<'a, Vec<Result<Claim>>> {
        Box::pin(Store::claim_many_within(self, keys, life))
    }

    fn renew_claims<'a>(&'a self, claims: &'a [(Key, Ticket)], life: Duration) -> Boxed<'a, Result<()>> {
        Box::pin(Store::renew_claims(self, claims, life))
    }

    fn release<'a>(&'a self, key: &'a Key, ticket: Ticket) -> Boxed<'a, Result<()>> {
        Box::pin(Store::release(self, key, ticket))
    }

    fn fill(&self, write: Write<S::Value>) -> Boxed<'_, Result<bool>> {
        Box::pin(Store::fill(self, write))
    }

    fn fill_many(&self, writes: Vec<Write<S::Value>>) -> Boxed<'_, Vec<Result<bool>>> {
        Box::pin(Store::fill_many(self, writes))
    }

    fn set(&self, write: Write<S::Value>) -> Boxed<'_, Result<()>> {
        Box::pin(Store::set(self, write))
    }

    fn set_many(&self, writes: Vec<Write<S::Value>>) -> Boxed<'_, Vec<Result<()>>> {
        Box::pin(Store::set_many(self, writes))
    }

    fn del<'a>(&'a self, key: &'a Key) -> Boxed<'a, Result<()>> {
        Box::pin(Store::del(self, key))
    }

    fn del_many<'a>(&'a self, keys: &'a [Key]) -> Boxed<'a, Vec<Result<()>>> {
        Box::pin(Store::del_many(self, keys))
    }

    fn take<'a>(&'a self, key: &'a Key) -> Boxed<'a, Result<Option<Entry<S::Value>>>> {
        Box::pin(Store::take(self, key))
    }

    fn touch<'a>(&'a self, key: &'a Key, lifetime: Lifetime, now: Moment) -> Boxed<'a, Result<bool>> {
        Box::pin(Store::touch(self, key, lifetime, now))
    }

    fn clear(&self) -> Boxed<'_, Result<()>> {
        Box::pin(Store::clear(self))
    }

    fn wait(&self) -> Boxed<'_, Result<()>> {
        Box::pin(Store::wait(self))
    }
}
