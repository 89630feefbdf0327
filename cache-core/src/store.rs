//! The contract of a backend.

use std::time::Duration;

use crate::{Entry, Expiry, Key, LocalStore, Moment, Result, Ticket, backend::touch_by_filling};

/// A backend: one place that keeps entries, such as a Redis or a map in memory.
///
/// This trait is for authors of backends and for those who compose them; applications use
/// [`Cache`](crate::Cache). A store that answers without waiting implements [`LocalStore`] instead
/// and gets this one for free.
///
/// # Contract
///
/// Each clause is a test of the suite in `testkit`.
///
/// - **S1** A miss is `Ok(None)`.
/// - **S2** An expired entry is a miss.
/// - **S3** `get` gives the remaining TTL within [`Profile::ttl_resolution`]; "never" is never
///   invented.
/// - **S4** `set` replaces value and TTL together.
/// - **S5** After `set` returned `Ok`, the same handle reads that entry, a newer one or a miss,
///   never an older one; a refused overwrite drops the old entry.
/// - **S6** `Ok` promises retention only if [`Profile::retains`] says so.
/// - **S7** A positive TTL never becomes "never", zero or an error.
/// - **S8** `del` is idempotent, and no earlier, buffered `set` reappears.
/// - **S9** Distinct keys never alias.
/// - **S10** `Err` on a write means that its outcome is unknown; a value that does not decode is an
///   error of kind [`Codec`](crate::ErrorKind::Codec).
/// - **S11** No panic, whatever the backend does.
/// - **S12** Cancel safety: a dropped `get` leaves no trace; a dropped write leaves the old entry,
///   the new one or none, has no effect after a later write of that key returned `Ok`, and leaves
///   no lock, permit or waiter behind.
/// - **S13** Concurrent calls are fine.
/// - **S14** A clone shares state.
/// - **S15** No background work unless documented; `Drop` does not block a runtime's thread for
///   long.
/// - **S16** `Debug` and errors show neither values nor credentials.
/// - **S17** A `fill` with a void ticket is refused.
/// - **S18** A `set` with a void ticket leaves the key absent.
/// - **S19** Of concurrent claims of an absent key one is granted, until it is released, the key is
///   written, or the claim runs out; only if [`Profile::claims`] says so. A plain lease is no
///   claim. A renewal lets a claim that is still held live longer, and changes nothing else.
/// - **S20** What an entry says besides its value (that there is none, when it turns stale, how
///   long it took to load, when it was made, its validator) comes back with it; or the entry does
///   not come back. Only the last three may be forgotten. A store that keeps bytes should keep the
///   validator, as an [`Envelope`](crate::backend::Envelope) does.
/// - **S21** Giving back a lease removes no entry and gives back no claim, and the key can be
///   leased and filled as before.
/// - **S22** A value is dropped while no lock is held, so that its `Drop` may call the store. This
///   is tested of stores that keep the values themselves, which are local.
/// - **S23** `take` removes the entry as `del` does and returns it. Of concurrent calls for one
///   entry, exactly one returns it; only if [`Profile::takes_once`] says so.
/// - **S24** `touch` changes when an entry turns stale and expires, and neither its value nor its
///   age. It does not touch what is absent or stale, voids no ticket, and brings back no entry that
///   was removed meanwhile.
///
/// # Tickets
///
/// [`lease`](Self::lease) is taken before anything below is read or written. [`fill`](Self::fill)
/// brings what a reader found below and disturbs nobody. [`set`](Self::set) brings what a writer
/// wrote below; if its ticket is void, another writer came between, nobody knows which of the two
/// the tier below holds, and the key is left absent. A store that cannot keep this says so in
/// [`Profile::leases`]; a chain then guards it with a fence of its own.
pub trait Store: Send + Sync + 'static {
    /// The type of the values.
    type Value: Clone + Send + Sync + 'static;

    /// The kind of the store and its promises.
    fn profile(&self) -> Profile;

    /// The entry of `key`, `None` if there is none or it has expired.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Codec` if what is stored is no such value; else as the backend
    /// fails.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Entry<Self::Value>>>> + Send;

    /// A ticket for `key`.
    ///
    /// # Errors
    ///
    /// As the backend fails.
    fn lease(&self, key: &Key) -> impl Future<Output = Result<Ticket>> + Send;

    /// As [`lease`](Self::lease), for a caller that needs the ticket for at most `life`. What the
    /// lease leaves in the backend should be gone after that time, or after the store's own maximum
    /// if that is shorter; the ticket is void then. By default the life makes no difference.
    ///
    /// # Errors
    ///
    /// As the backend fails.
    fn lease_within(&self, key: &Key, life: Duration) -> impl Future<Output = Result<Ticket>> + Send {
        let _ = life;
        self.lease(key)
    }

    /// Gives back leases that are not needed any more, so that they leave nothing behind. Their
    /// tickets may be void then, also for a caller that was given the same one: its fill is
    /// refused, which costs one more read of the tier below. Removes no entry, and gives back no
    /// claim; [`release`](Self::release) does that.
    ///
    /// A chain calls it if [`Profile::markers`] says that leases leave something behind. By default
    /// it does nothing.
    ///
    /// # Errors
    ///
    /// As the backend fails; the leases then run out by themselves.
    fn release_leases(&self, leases: &[(Key, Ticket)]) -> impl Future<Output = Result<()>> + Send {
        let _ = leases;
        async { Ok(()) }
    }

    /// A ticket for `key`, for who is about to load it from below all stores; and whether nobody
    /// else is about to.
    ///
    /// The key is absent here, as far as the caller knows. By default every claim is granted; a
    /// store that several processes share should grant one at a time ([`Profile::claims`]), and
    /// forget a claim after some time, as its holder may have died. Who is refused waits for the
    /// entry or claims again, and may load all the same when it loses patience: the ticket is good.
    ///
    /// # Errors
    ///
    /// As the backend fails.
    fn claim(&self, key: &Key) -> impl Future<Output = Result<Claim>> + Send {
        async { Ok(Claim::granted(self.lease(key).await?)) }
    }

    /// As [`claim`](Self::claim), for at most `life`, or for the store's own maximum if that is
    /// shorter. After that time another claim is granted, and the ticket is void. A caller that
    /// needs the claim for longer [renews](Self::renew_claims) it, so that a caller that dies
    /// blocks others only for a short time. By default the life makes no difference.
    ///
    /// # Errors
    ///
    /// As the backend fails.
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
    /// As the backend fails; the claims then run out by themselves.
    fn renew_claims(&self, claims: &[(Key, Ticket)], life: Duration) -> impl Future<Output = Result<()>> + Send {
        let _ = (claims, life);
        async { Ok(()) }
    }

    /// Gives a claim back whose load brought nothing to store, so that the next one is granted. Its
    /// ticket may be void then. Does nothing if the key was written since.
    ///
    /// # Errors
    ///
    /// As the backend fails; the claim then runs out by itself.
    fn release(&self, key: &Key, ticket: Ticket) -> impl Future<Output = Result<()>> + Send {
        let _ = (key, ticket);
        async { Ok(()) }
    }

    /// Installs the entry unless the ticket is void; whether it did. Voids no ticket of another.
    ///
    /// # Errors
    ///
    /// As the backend fails; the outcome is unknown then.
    fn fill(&self, write: Write<Self::Value>) -> impl Future<Output = Result<bool>> + Send;

    /// Voids all tickets of the key; installs the entry, or leaves the key absent if its ticket was
    /// void already.
    ///
    /// # Errors
    ///
    /// As the backend fails; the outcome is unknown then.
    fn set(&self, write: Write<Self::Value>) -> impl Future<Output = Result<()>> + Send;

    /// Voids all tickets of `key` and removes its entry, if there is one.
    ///
    /// # Errors
    ///
    /// As the backend fails; the outcome is unknown then.
    fn del(&self, key: &Key) -> impl Future<Output = Result<()>> + Send;

    /// Voids all tickets of `key` and removes its entry, as [`del`](Self::del), and returns the
    /// entry that it has removed, fresh or stale; `None` if there is none or it has expired. Of
    /// concurrent calls for one entry, exactly one returns it, if
    /// [`takes_once`](Profile::takes_once) says so.
    ///
    /// By default the entry is read and then deleted, so that concurrent calls may return the same
    /// entry, and an entry that is written in between may be lost. The other methods cannot make it
    /// atomic: none of them both depends on a ticket and voids it. A store that keeps the default
    /// says so by `Profile::takes_once(false)`. A caller that must have each entry once, such as a
    /// one-time token, needs a store that takes once.
    ///
    /// # Errors
    ///
    /// As the backend fails; the outcome is unknown then: the entry may be gone although no call
    /// has returned it. If what is stored is no such value, removes it and returns an error of kind
    /// `Codec`.
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
    /// The rest of the lifetime is rounded down as that of a [`fill`](Self::fill): an entry never
    /// lives longer than the lifetime says. The value, the age and the load time stay.
    ///
    /// By default the entry is read and filled again with a ticket, so an entry that was removed
    /// meanwhile does not come back if the store keeps leases. A store that can change the lifetime
    /// without transferring the value should do so; then the value need not decode.
    ///
    /// # Errors
    ///
    /// As the backend fails; the outcome is unknown then: the entry has the old lifetime or the
    /// new one.
    fn touch(&self, key: &Key, lifetime: Lifetime, now: Moment) -> impl Future<Output = Result<bool>> + Send {
        touch_by_filling(self, key, lifetime, now)
    }

    /// Voids all tickets and removes every entry of this store's namespace, and nothing else.
    ///
    /// # Errors
    ///
    /// As the backend fails; some entries may be left then.
    fn clear(&self) -> impl Future<Output = Result<()>> + Send;

    /// Returns when what was buffered before has been applied.
    ///
    /// # Errors
    ///
    /// As the backend fails.
    fn wait(&self) -> impl Future<Output = Result<()>> + Send;

    /// [`get`](Self::get) for several keys, one result each in their order; one round trip where
    /// the backend can.
    fn get_many(&self, keys: &[Key]) -> impl Future<Output = Vec<Result<Option<Entry<Self::Value>>>>> + Send {
        each(keys.iter(), |key| self.get(key))
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
    /// round trip where the backend can. Of two claims of one key in a batch, the second is refused
    /// as that of another caller is.
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

    /// This store as a local one, if it answers without waiting.
    fn local(&self) -> Option<&dyn LocalStore<Value = Self::Value>> {
        None
    }
}

/// One after the other.
async fn each<I, F: Future>(items: impl Iterator<Item = I>, call: impl Fn(I) -> F) -> Vec<F::Output> {
    let mut results = Vec::with_capacity(items.size_hint().0);
    for item in items {
        results.push(call(item).await);
    }
    results
}

/// An entry to be written under a key, with the ticket of who writes it.
#[derive(Clone, Debug)]
pub struct Write<V> {
    /// Under this key.
    pub key: Key,
    /// This entry.
    pub entry: Entry<V>,
    /// Drawn before anything below was read or written.
    pub ticket: Ticket,
}

/// When an entry turns stale and when it expires; see [`Store::touch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Lifetime {
    /// When the entry expires. Nothing is served after that.
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
    /// Whether no other caller holds a claim of the key.
    pub granted: bool,
    /// Whether the store knows that the key had no entry, so that it need not be read again before
    /// the load.
    pub vacant: bool,
}

impl Claim {
    /// No other caller holds a claim of the key. Whether the key is vacant is not known.
    pub const fn granted(ticket: Ticket) -> Self {
        Self { ticket, granted: true, vacant: false }
    }

    /// Another caller holds a claim of the key.
    pub const fn refused(ticket: Ticket) -> Self {
        Self { ticket, granted: false, vacant: false }
    }

    /// Sets whether the store knows that the key had no entry.
    pub const fn vacant(mut self, vacant: bool) -> Self {
        self.vacant = vacant;
        self
    }
}

/// The kind of a store and its promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[allow(clippy::struct_excessive_bools, reason = "each is a promise of its own")]
pub struct Profile {
    /// The kind of store, for errors and statistics: "stretto", "redis".
    pub name: &'static str,
    /// Whether it keeps leases (clauses S17 and S18).
    pub leases: bool,
    /// Whether what `set` reported as `Ok` stays until it expires or is removed. A store that
    /// evicts says no.
    pub retains: bool,
    /// Whether a claim of one process keeps those of others off (clause S19).
    pub claims: bool,
    /// Whether of concurrent calls of [`Store::take`] for one entry exactly one returns it (clause
    /// S23). A store that keeps the default of that method says no.
    pub takes_once: bool,
    /// Whether it holds the truth itself and not a copy of it. A chain never deletes from such a
    /// store on its own account.
    pub origin: bool,
    /// Whether a lease leaves something behind in the backend, such as a marker in a database. A
    /// chain then gives back the leases that it does not need ([`Store::release_leases`]).
    pub markers: bool,
    /// Which data a store without leases holds. Stores of one type with the same domain are taken
    /// for the same data, and share the guard that a chain puts around them. Different data in one
    /// domain costs some refused fills, and waits for writes of an equal key.
    pub domain: u64,
    /// How exact a TTL is kept.
    pub ttl_resolution: Duration,
}

impl Profile {
    /// A store that keeps leases, takes each entry once, may evict, and keeps TTLs to the
    /// millisecond.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            leases: true,
            retains: false,
            claims: false,
            takes_once: true,
            origin: false,
            markers: false,
            domain: 0,
            ttl_resolution: Duration::from_millis(1),
        }
    }

    /// Whether it keeps leases.
    pub const fn leases(mut self, leases: bool) -> Self {
        self.leases = leases;
        self
    }

    /// Whether it retains what it took.
    pub const fn retains(mut self, retains: bool) -> Self {
        self.retains = retains;
        self
    }

    /// Whether a claim of one process keeps those of others off.
    pub const fn claims(mut self, claims: bool) -> Self {
        self.claims = claims;
        self
    }

    /// Whether of concurrent takes of one entry exactly one returns it.
    pub const fn takes_once(mut self, takes_once: bool) -> Self {
        self.takes_once = takes_once;
        self
    }

    /// Whether it holds the truth itself.
    pub const fn origin(mut self, origin: bool) -> Self {
        self.origin = origin;
        self
    }

    /// Whether a lease leaves something behind in the backend.
    pub const fn markers(mut self, markers: bool) -> Self {
        self.markers = markers;
        self
    }

    /// Which data a store without leases holds: the same number for every handle of the same data,
    /// another for other data. A hash of the address and the namespace is usual. Default 0: all
    /// stores of the type hold the same data.
    pub const fn domain(mut self, domain: u64) -> Self {
        self.domain = domain;
        self
    }

    /// How exact a TTL is kept.
    pub const fn ttl_resolution(mut self, resolution: Duration) -> Self {
        self.ttl_resolution = resolution;
        self
    }
}
