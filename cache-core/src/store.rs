//! The contract of a backend.

use std::{sync::Arc, time::Duration};

use crate::{
    Entry, Expiry, InvalidationStream, Key, LocalStore, Moment, Result, Ticket,
    backend::{ETag, Inspection, ServerTime, touch_by_filling},
};

/// A backend that keeps entries, such as a Redis server or a map in memory.
///
/// This trait is for authors of backends and of caches; applications use [`Cache`](crate::Cache). A
/// store that answers without waiting implements [`LocalStore`] instead, which provides this trait.
///
/// # Contract
///
/// Each clause is a test of the suite in `testkit`.
///
/// - **S1** A miss is `Ok(None)`.
/// - **S2** An expired entry is a miss.
/// - **S3** `get` returns the remaining TTL within [`Profile::ttl_resolution`], and "never" only
///   for an entry that does not expire.
/// - **S4** `set` replaces value and TTL together.
/// - **S5** After `set` returned `Ok`, the same handle reads that entry, a newer one or a miss,
///   never an older one. If an overwrite is refused, the old entry is removed.
/// - **S6** `Ok` promises retention only if [`Profile::retains`] says so.
/// - **S7** A positive TTL never becomes "never", zero or an error.
/// - **S8** `del` is idempotent, and no `set` that was buffered before takes effect after it.
/// - **S9** Distinct keys never alias.
/// - **S10** An error of a write means that its outcome is unknown. A value that does not decode is
///   an error of kind [`Codec`](crate::ErrorKind::Codec).
/// - **S11** No call panics, whatever the backend does.
/// - **S12** Cancel safety: a dropped `get` has no effect. A dropped write leaves the old entry,
///   the new one or none, has no effect after a later write of that key returned `Ok`, and leaves
///   no lock, permit or waiter behind.
/// - **S13** Calls may be concurrent.
/// - **S14** A clone shares state.
/// - **S15** No background work unless documented; `Drop` does not block a runtime's thread for
///   long.
/// - **S16** `Debug` and errors show neither values nor credentials.
/// - **S17** A `fill` with a void ticket is refused.
/// - **S18** A `set` with a void ticket leaves the key absent.
/// - **S19** If [`Profile::claims`] is `true`, one of several concurrent claims of an absent key is
///   granted, until it is released, the key is written, or the claim expires. A plain lease is no
///   claim. A renewal lets a claim that is still held live longer, and changes nothing else.
/// - **S20** The metadata of an entry is returned with it, or the entry is not returned: the
///   absence of a value, the time at which it turns stale, the load time, the creation time and the
///   validator. A store may drop only the last three. A local store returns the stamp and the
///   [version](Entry::etag), too. A store that keeps bytes should keep the validator, as an
///   [`Envelope`](crate::backend::Envelope) does.
/// - **S21** The release of a lease removes no entry and releases no claim, and the key can be
///   leased and filled as before.
/// - **S22** A value is dropped while no lock is held, so that its `Drop` may call the store. The
///   suite tests this for stores that keep the values themselves, which are local.
/// - **S23** `take` removes the entry as `del` does and returns it. If [`Profile::takes_once`] is
///   `true`, exactly one of several concurrent calls for one entry returns it.
/// - **S24** `touch` changes when an entry turns stale and when it expires, but neither its value
///   nor its age. It changes nothing if the entry is absent or stale, voids no ticket, and does not
///   restore an entry that was removed meanwhile.
/// - **S25** `revalidate_many` confirms an entry only if it is what `get` would return.
///
/// # Tickets
///
/// A caller takes a [`lease`](Self::lease) before it reads or writes the tiers below.
/// [`fill`](Self::fill) installs an entry that a reader found below, and voids no ticket.
/// [`set`](Self::set) installs an entry that a writer has written below. If its ticket is void, another
/// writer has written meanwhile. It is then unknown which of the two entries the tier below holds,
/// so the key is left absent. A store that cannot do this sets [`Profile::leases`] to `false`; a
/// chain then guards it with a fence of its own.
pub trait Store: Send + Sync + 'static {
    /// The type of the values.
    type Value: Clone + Send + Sync + 'static;

    /// Returns the kind of the store and its guarantees.
    fn profile(&self) -> Profile;

    /// Returns the entry of `key`, `None` if there is none or it has expired.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Codec` if the stored bytes are not a value of this type. Otherwise
    /// fails as the backend does.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Entry<Self::Value>>>> + Send;

    /// Takes a lease of `key` and returns its ticket.
    ///
    /// # Errors
    ///
    /// Fails as the backend does.
    fn lease(&self, key: &Key) -> impl Future<Output = Result<Ticket>> + Send;

    /// As [`lease`](Self::lease), for a caller that needs the ticket for at most `life`. A marker
    /// that the lease leaves in the backend should expire after that time, or after the store's own
    /// maximum if that is shorter; the ticket is void then. By default, `life` is ignored.
    ///
    /// # Errors
    ///
    /// Fails as the backend does.
    fn lease_within(&self, key: &Key, life: Duration) -> impl Future<Output = Result<Ticket>> + Send {
        let _ = life;
        self.lease(key)
    }

    /// Releases leases that are no longer needed, and removes their markers. Their tickets may be
    /// void then, also for another caller that has the same ticket: its fill is refused, which
    /// costs one more read of the tier below. Removes no entry and releases no claim;
    /// [`release`](Self::release) releases a claim.
    ///
    /// A chain calls this if [`Profile::markers`] is `true`. By default, it does nothing.
    ///
    /// # Errors
    ///
    /// Fails as the backend does; the leases then run out by themselves.
    fn release_leases(&self, leases: &[(Key, Ticket)]) -> impl Future<Output = Result<()>> + Send {
        let _ = leases;
        async { Ok(()) }
    }

    /// Claims `key` for a caller that is about to load it from the origin. Returns a ticket, and
    /// whether the claim was granted: no other caller holds a claim of the key.
    ///
    /// The caller has found the key absent in this store. By default, every claim is granted. A
    /// store that several processes share should grant one claim at a time ([`Profile::claims`]),
    /// and let claims expire, because the holder may have died. A caller whose claim is refused
    /// waits for the entry or claims again. After some time it may load nevertheless: its ticket is
    /// valid.
    ///
    /// # Errors
    ///
    /// Fails as the backend does.
    fn claim(&self, key: &Key) -> impl Future<Output = Result<Claim>> + Send {
        async { Ok(Claim::granted(self.lease(key).await?)) }
    }

    /// As [`claim`](Self::claim), for at most `life`, or for the store's own maximum if that is
    /// shorter. After that time, another claim is granted, and the ticket is void. A caller that
    /// needs the claim for longer [renews](Self::renew_claims) it, so that a caller that dies
    /// blocks others only for a short time. By default the life makes no difference.
    ///
    /// # Errors
    ///
    /// Fails as the backend does.
    fn claim_within(&self, key: &Key, life: Duration) -> impl Future<Output = Result<Claim>> + Send {
        let _ = life;
        self.claim(key)
    }

    /// Lets claims that are still held live for `life` from now on, or for the store's own maximum
    /// if that is shorter. Has no effect on a claim that has run out or was released, on one whose
    /// key was written since, and on a plain lease: a renewal never brings a claim back. It does
    /// not tell which claims are still held. Pass only claims that were granted, because a claim
    /// that was refused may have the ticket of the one that is held. By default it does nothing.
    ///
    /// # Errors
    ///
    /// Fails as the backend does; the claims then run out by themselves.
    fn renew_claims(&self, claims: &[(Key, Ticket)], life: Duration) -> impl Future<Output = Result<()>> + Send {
        let _ = (claims, life);
        async { Ok(()) }
    }

    /// Releases a claim after a load that has stored nothing, so that the next claim is granted.
    /// The ticket may be void then. Does nothing if the key was written since.
    ///
    /// # Errors
    ///
    /// Fails as the backend does; the claim then runs out by itself.
    fn release(&self, key: &Key, ticket: Ticket) -> impl Future<Output = Result<()>> + Send {
        let _ = (key, ticket);
        async { Ok(()) }
    }

    /// Installs the entry and returns `true`, unless the ticket is void; then returns `false`.
    /// Voids no other ticket.
    ///
    /// # Errors
    ///
    /// Fails as the backend does; the outcome is unknown then.
    fn fill(&self, write: Write<Self::Value>) -> impl Future<Output = Result<bool>> + Send;

    /// Voids all tickets of the key and installs the entry. If the ticket was already void, leaves
    /// the key absent.
    ///
    /// # Errors
    ///
    /// Fails as the backend does; the outcome is unknown then.
    fn set(&self, write: Write<Self::Value>) -> impl Future<Output = Result<()>> + Send;

    /// Voids all tickets of `key` and removes its entry, if there is one.
    ///
    /// # Errors
    ///
    /// Fails as the backend does; the outcome is unknown then.
    fn del(&self, key: &Key) -> impl Future<Output = Result<()>> + Send;

    /// Voids all tickets of `key` and removes its entry, as [`del`](Self::del), and returns the
    /// entry that it has removed, fresh or stale; `None` if there is none or it has expired. Of
    /// concurrent calls for one entry, exactly one returns it, if
    /// [`takes_once`](Profile::takes_once) is `true`.
    ///
    /// By default, the entry is read and then deleted. Concurrent calls may return the same entry,
    /// and an entry that is written in between may be lost. This default cannot be atomic, because
    /// no other method both depends on a ticket and voids it. A store that keeps the default sets
    /// `Profile::takes_once(false)`. Entries that must be returned only once, such as one-time
    /// tokens, need a store that takes once.
    ///
    /// # Errors
    ///
    /// Fails as the backend does; the outcome is unknown then: the entry may be gone although no
    /// call has returned it. If the stored bytes are not a value of this type, removes them and
    /// returns an error of kind `Codec`.
    fn take(&self, key: &Key) -> impl Future<Output = Result<Option<Entry<Self::Value>>>> + Send {
        async {
            let entry = self.get(key).await;
            self.del(key).await?;
            entry
        }
    }

    /// Gives the entry of `key` a new lifetime, longer or shorter, and returns `true`. Returns
    /// `false`, and changes nothing, if there is no entry, if it is absent or stale at `now`, or if
    /// the lifetime has ended at `now`. May return `false` as well if the key is written meanwhile.
    /// Voids no ticket. `now` is a moment of the clock that the store and the chain share.
    ///
    /// The remaining time is rounded down as for a [`fill`](Self::fill), so an entry does not
    /// outlive its lifetime. The value, the age and the load time do not change.
    ///
    /// By default, the entry is read and filled again with a ticket. If the store keeps leases, an
    /// entry that was removed meanwhile is not restored. An entry that was filled meanwhile may be
    /// replaced by the one that was read, because a fill voids no ticket. A store that can change
    /// the lifetime without transferring the value should do so; the value need not decode then.
    ///
    /// # Errors
    ///
    /// Fails as the backend does; the outcome is unknown then: the entry has the old lifetime or
    /// the new one.
    fn touch(&self, key: &Key, lifetime: Lifetime, now: Moment) -> impl Future<Output = Result<bool>> + Send {
        touch_by_filling(self, key, lifetime, now)
    }

    /// Voids all tickets and removes every entry of this store's namespace, and nothing else.
    ///
    /// # Errors
    ///
    /// Fails as the backend does; some entries may be left then.
    fn clear(&self) -> impl Future<Output = Result<()>> + Send;

    /// Waits until the writes that are buffered now have been applied.
    ///
    /// # Errors
    ///
    /// Fails as the backend does.
    fn wait(&self) -> impl Future<Output = Result<()>> + Send;

    /// [`get`](Self::get) for several keys, one result each in their order; one round trip where
    /// the backend can.
    fn get_many(&self, keys: &[Key]) -> impl Future<Output = Vec<Result<Option<Entry<Self::Value>>>>> + Send {
        each(keys.iter(), |key| self.get(key))
    }

    /// [`get`](Self::get) for a caller that has entries of some of these keys: the version of each,
    /// `None` for a key without one. One result each in their order; one round trip where the
    /// backend can, or two for entries that have changed.
    ///
    /// Returns [`NotModified`](Revalidated::NotModified) only if the entry of this version is what
    /// [`get`](Self::get) would return. By default, all entries are read.
    fn revalidate_many(
        &self,
        keys: &[(Key, Option<ETag>)],
    ) -> impl Future<Output = Vec<Result<Revalidated<Self::Value>>>> + Send {
        let keys: Vec<Key> = keys.iter().map(|(key, _)| key.clone()).collect();
        async move { self.get_many(&keys).await.into_iter().map(|entry| entry.map(Revalidated::Modified)).collect() }
    }

    /// [`lease`](Self::lease) for several keys, one result each in their order; one round trip
    /// where the backend can.
    fn lease_many(&self, keys: &[Key]) -> impl Future<Output = Vec<Result<Ticket>>> + Send {
        each(keys.iter(), |key| self.lease(key))
    }

    /// [`lease_within`](Self::lease_within) for several keys, one result each in their order; one
    /// round trip where the backend can.
    fn lease_many_within(&self, keys: &[Key], life: Duration) -> impl Future<Output = Vec<Result<Ticket>>> + Send {
        let _ = life;
        self.lease_many(keys)
    }

    /// [`claim_within`](Self::claim_within) for several keys, one result each in their order; one
    /// round trip where the backend can. If a batch has two claims of one key, the second is
    /// refused, like that of another caller.
    fn claim_many_within(&self, keys: &[Key], life: Duration) -> impl Future<Output = Vec<Result<Claim>>> + Send {
        each(keys.iter(), move |key| self.claim_within(key, life))
    }

    /// [`fill`](Self::fill) for several entries, one result each in their order; one round trip
    /// where the backend can.
    fn fill_many(&self, writes: Vec<Write<Self::Value>>) -> impl Future<Output = Vec<Result<bool>>> + Send {
        each(writes.into_iter(), |write| self.fill(write))
    }

    /// [`set`](Self::set) for several entries, one result each in their order; one round trip where
    /// the backend can.
    fn set_many(&self, writes: Vec<Write<Self::Value>>) -> impl Future<Output = Vec<Result<()>>> + Send {
        each(writes.into_iter(), |write| self.set(write))
    }

    /// [`del`](Self::del) for several keys, one result each in their order; one round trip where
    /// the backend can.
    fn del_many(&self, keys: &[Key]) -> impl Future<Output = Vec<Result<()>>> + Send {
        each(keys.iter(), |key| self.del(key))
    }

    /// Returns the time by the clock of the backend, `None` if all processes that share the store do
    /// not share a clock there, or if a restart or a failover cannot be told. It is estimated from an earlier reading where that is recent.
    ///
    /// # Errors
    ///
    /// Fails as the backend does.
    fn server_time(&self) -> impl Future<Output = Result<Option<ServerTime>>> + Send {
        async { Ok(None) }
    }

    /// Returns what is stored under the key, whether it is valid or not, `None` if nothing is that has
    /// not expired. For
    /// diagnosis; it changes nothing. Default: `None`, as for a store that cannot tell.
    ///
    /// # Errors
    ///
    /// Fails as the backend does.
    fn inspect(&self, key: &Key) -> impl Future<Output = Result<Option<Inspection>>> + Send {
        let _ = key;
        async { Ok(None) }
    }

    /// Returns the stream of changes of this store, `None` if it has none. Each call returns a new
    /// stream, which does nothing until it runs.
    fn invalidations(&self) -> Option<Arc<dyn InvalidationStream>> {
        None
    }

    /// Returns this store as a local one if it answers without waiting, else `None`. A chain may
    /// then use the methods of [`LocalStore`] in place of those of this trait.
    fn local(&self) -> Option<&dyn LocalStore<Value = Self::Value>> {
        None
    }
}

/// Makes one call after the other.
async fn each<I, F: Future>(items: impl Iterator<Item = I>, call: impl Fn(I) -> F) -> Vec<F::Output> {
    let mut results = Vec::with_capacity(items.size_hint().0);
    for item in items {
        results.push(call(item).await);
    }
    results
}

/// An entry to be written, with its key and the ticket of the writer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Write<V> {
    /// The key.
    pub key: Key,
    /// The entry.
    pub entry: Entry<V>,
    /// The ticket, which was taken before the tiers below were read or written.
    pub ticket: Ticket,
}

impl<V> Write<V> {
    /// Creates the write of an entry.
    pub const fn new(key: Key, entry: Entry<V>, ticket: Ticket) -> Self {
        Self { key, entry, ticket }
    }

    /// Returns the write with this ticket in place of its own.
    pub fn with_ticket(self, ticket: Ticket) -> Self {
        Self { ticket, ..self }
    }
}

/// The answer of a store to a caller that has an entry already; see [`Store::revalidate_many`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Revalidated<V> {
    /// The entry of the caller is the current one.
    NotModified,
    /// The current entry, `None` if there is none or it has expired.
    Modified(Option<Entry<V>>),
}

/// When an entry turns stale and when it expires; see [`Store::touch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Lifetime {
    /// When the entry expires. It is not served after that.
    pub expiry: Expiry,
    /// When the entry turns stale; `Never` if it is fresh until it expires.
    pub fresh_until: Expiry,
}

impl Lifetime {
    /// Creates the lifetime of an entry that is fresh until it expires.
    pub const fn new(expiry: Expiry) -> Self {
        Self { expiry, fresh_until: Expiry::Never }
    }

    /// Sets when the entry turns stale.
    pub const fn fresh_until(mut self, moment: Expiry) -> Self {
        self.fresh_until = moment;
        self
    }
}

/// The answer of a store to a caller that is about to load a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The lease. It is valid for a `fill` in either case.
    pub ticket: Ticket,
    /// `true` if no other caller holds a claim of the key.
    pub granted: bool,
    /// `true` if the store knows that the key had no entry, so that it need not be read again
    /// before the load.
    pub vacant: bool,
}

impl Claim {
    /// Creates the answer to a claim that was granted. The store does not know that the key is
    /// vacant.
    pub const fn granted(ticket: Ticket) -> Self {
        Self { ticket, granted: true, vacant: false }
    }

    /// Creates the answer to a claim that was refused, because another caller holds one.
    pub const fn refused(ticket: Ticket) -> Self {
        Self { ticket, granted: false, vacant: false }
    }

    /// Sets whether the store knows that the key had no entry.
    pub const fn vacant(mut self, vacant: bool) -> Self {
        self.vacant = vacant;
        self
    }
}

/// The kind of a store and its guarantees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[allow(clippy::struct_excessive_bools, reason = "each is a promise of its own")]
pub struct Profile {
    /// The kind of store, for errors and statistics: "stretto", "redis".
    pub name: &'static str,
    /// `true` if the store keeps leases (clauses S17 and S18).
    pub leases: bool,
    /// `true` if an entry stays after a successful `set` until it expires or is removed. A store
    /// that evicts does not retain.
    pub retains: bool,
    /// `true` if a claim of one process excludes those of other processes (clause S19).
    pub claims: bool,
    /// `true` if exactly one of several concurrent calls of [`Store::take`] for one entry returns
    /// it (clause S23). The default of that method does not guarantee this.
    pub takes_once: bool,
    /// `true` if the store holds the data itself and not a copy. A chain deletes from such a store
    /// only if the application does.
    pub origin: bool,
    /// `true` if a lease leaves something behind in the backend, such as a marker in a database. A
    /// chain then releases the leases that it does not need ([`Store::release_leases`]).
    pub markers: bool,
    /// `true` if the backend has several parts that fail one by one, and the store keeps calls off a
    /// part that does not answer. A chain then has no circuit breaker for the store as a whole, unless
    /// it is set: the failures of one part would open it for all.
    pub sharded: bool,
    /// The identity of the data of a store without leases. Stores of one type with the same domain
    /// count as the same data, and share the fence that a chain puts around them. If different data
    /// has the same domain, some fills are refused, and writes of equal keys wait for each other.
    pub domain: u64,
    /// The precision of a TTL.
    pub ttl_resolution: Duration,
    /// About how many entries the store holds at most, 0 if that is not known. A chain sizes the
    /// table of changes by it.
    pub entries: u64,
}

impl Profile {
    /// Creates the profile of a store that keeps leases, takes each entry once, may evict, and
    /// keeps TTLs to the millisecond.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            leases: true,
            retains: false,
            claims: false,
            takes_once: true,
            origin: false,
            markers: false,
            sharded: false,
            domain: 0,
            ttl_resolution: Duration::from_millis(1),
            entries: 0,
        }
    }

    /// Sets whether the store keeps leases.
    pub const fn leases(mut self, leases: bool) -> Self {
        self.leases = leases;
        self
    }

    /// Sets whether the store retains its entries.
    pub const fn retains(mut self, retains: bool) -> Self {
        self.retains = retains;
        self
    }

    /// Sets whether a claim of one process excludes those of other processes.
    pub const fn claims(mut self, claims: bool) -> Self {
        self.claims = claims;
        self
    }

    /// Sets whether exactly one of several concurrent takes of one entry returns it.
    pub const fn takes_once(mut self, takes_once: bool) -> Self {
        self.takes_once = takes_once;
        self
    }

    /// Sets whether the store holds the data itself and not a copy.
    pub const fn origin(mut self, origin: bool) -> Self {
        self.origin = origin;
        self
    }

    /// Sets whether a lease leaves something behind in the backend.
    pub const fn markers(mut self, markers: bool) -> Self {
        self.markers = markers;
        self
    }

    /// Sets whether the backend has several parts that fail one by one.
    pub const fn sharded(mut self, sharded: bool) -> Self {
        self.sharded = sharded;
        self
    }

    /// Sets the identity of the data of a store without leases: the same number for every handle of
    /// the same data, another number for other data. A hash of the address and the namespace is
    /// usual. Default: 0, by which all stores of the type count as the same data.
    pub const fn domain(mut self, domain: u64) -> Self {
        self.domain = domain;
        self
    }

    /// Sets the precision of a TTL.
    pub const fn ttl_resolution(mut self, resolution: Duration) -> Self {
        self.ttl_resolution = resolution;
        self
    }

    /// Sets about how many entries the store holds at most.
    pub const fn entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }
}
