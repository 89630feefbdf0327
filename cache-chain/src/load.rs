//! Loads: one flight per key, which reads what lies below everything, the application's own data.

use std::{sync::Arc, time::Duration};

use cache_core::{Entry, Error, ErrorKind, Expiry, Key, Moment, Result};
use tokio::time::Instant;

use crate::{
    budget::{Budget, after},
    chain::Inner,
    claim::Turn,
    flight::Waiter,
    leases::Leases,
    loaded::Loader,
    nesting,
    outcome::{Outcome, Source},
    panics::caught,
    random,
    read::Looked,
    runtime::closed,
};

/// What a flight of a load brought.
#[derive(Clone)]
pub(crate) struct Landed<V> {
    pub(crate) entry: Entry<V>,
    pub(crate) source: Source,
}

pub(crate) type Landing<V> = Result<Landed<V>>;

/// Why a key is loaded.
enum Why<V> {
    /// No tier has it, or none has it fresh.
    Missed(Arc<Looked<V>>),
    /// The first tier has it, but stale; one below may have it fresh.
    Stale,
    /// It is there and fresh, and will not be for long.
    Soon,
}

impl<V: Clone + Send + Sync + 'static> Inner<V> {
    pub(crate) fn outcome(&self, Landed { entry, source }: Landed<V>) -> Outcome<V> {
        let now = self.clock.now();
        Outcome {
            source,
            stale: source != Source::Loaded && entry.is_stale(now),
            age: entry.created().map(|created| now.since(created)),
            ttl: entry.remaining(now),
            value: entry.into_value(),
        }
    }

    /// Whether the entry is never due, so that it takes no clock to serve it.
    #[inline]
    fn is_plain(&self, entry: &Entry<V>) -> bool {
        let may_be_early = self.read_through.early_refresh > 0.0 && !entry.load_time().is_zero();
        !entry.turns_stale() && !may_be_early
    }

    /// Whether the entry is to be loaded anew: it is stale, or will be soon and chance will have it so.
    #[inline]
    pub(crate) fn is_due(&self, entry: &Entry<V>) -> bool {
        !self.is_plain(entry) && self.is_due_at(entry, self.clock.now())
    }

    fn is_due_at(&self, entry: &Entry<V>, now: Moment) -> bool {
        // `XFetch`: a gap that grows with the time of a load, and with a random number that is seldom large.
        let gap = entry.load_time().as_secs_f64() * self.read_through.early_refresh * -random::unit().ln();
        let gap = Duration::try_from_secs_f64(gap).unwrap_or_default();
        entry.stale_at() != Expiry::Never && entry.is_stale(now.plus(gap))
    }

    /// The value of the key: what the first tier has of it, which is due, what another has or, if none does, what the loader
    /// brings.
    pub(crate) async fn through(
        self: &Arc<Self>,
        key: Key,
        due: Option<Entry<V>>,
        loader: Loader<V>,
    ) -> Result<Outcome<V>> {
        if let Some(entry) = due {
            return Ok(self.refresh(&key, (0, entry), None, loader));
        }
        let budget = Budget::new(self.deadline);
        let looked = budget.bound(&self.ground.runtime, self.look(&key, budget, true)).await?;
        // What is stale is served at once, and not filled into the tiers above.
        let found = looked.hit.clone().or_else(|| looked.stale.clone());
        // It may have expired since: while a tier below was asked, or because nobody has polled this.
        if let Some((at, entry)) = found.filter(|(_, entry)| !self.has_expired(entry)) {
            if self.is_due(&entry) {
                return Ok(self.refresh(&key, (at, entry), Some(looked), loader));
            }
            return Ok(self.served(Landed { entry, source: Source::Tier(at) }));
        }
        let (waiter, began) = self.begin(&key, Why::Missed(looked), loader);
        if !began {
            self.load_counters.joined.one();
        }
        self.wait_for(waiter, budget).await.map(|landed| self.outcome(landed))
    }

    /// What is there, though it is due; it is loaded anew in the background.
    fn refresh(
        self: &Arc<Self>,
        key: &Key,
        (at, entry): (usize, Entry<V>),
        looked: Option<Arc<Looked<V>>>,
        loader: Loader<V>,
    ) -> Outcome<V> {
        let now = self.clock.now();
        if !self.pauses.hold(key, now) {
            let why = match looked {
                _ if !entry.is_stale(now) => Why::Soon,
                Some(looked) => Why::Missed(looked),
                None => Why::Stale,
            };
            let (waiter, began) = self.begin(key, why, loader);
            self.refreshing(waiter, began);
        }
        self.served(Landed { entry, source: Source::Tier(at) })
    }

    /// Has a refresh go on in the background.
    pub(crate) fn refreshing(&self, waiter: Waiter<Landing<V>>, began: bool) {
        if began {
            self.load_counters.refreshes.one();
        }
        // What it brings has been stored, what it fails with been counted.
        waiter.leave_in_background();
    }

    pub(crate) fn served(&self, landed: Landed<V>) -> Outcome<V> {
        let outcome = self.outcome(landed);
        if outcome.stale {
            self.load_counters.stale.one();
        }
        outcome
    }

    /// Joins the load of the key, or begins it.
    fn begin(self: &Arc<Self>, key: &Key, why: Why<V>, loader: Loader<V>) -> (Waiter<Landing<V>>, bool) {
        self.loads.join(key, || {
            let (inner, key) = (Arc::clone(self), key.clone());
            Box::pin(async move { inner.fly(&key, why, loader).await })
        })
    }

    /// Waits for a load as long as a caller does; then it goes on without.
    pub(crate) async fn wait_for(&self, mut waiter: Waiter<Landing<V>>, budget: Budget) -> Landing<V> {
        waiter.begin_wait()?;
        let patience = budget.share(1, self.read_through.soft_timeout);
        let until = after(patience);
        if let Some(landing) = self.ground.runtime.timeout_at(until, &mut waiter).await {
            return Landing::clone(&*landing?);
        }
        Err(self.late(waiter, patience, until))
    }

    /// The error for a caller that does not wait for a load any longer.
    pub(crate) fn late(&self, waiter: Waiter<Landing<V>>, patience: Duration, until: Instant) -> Error {
        if Instant::now() < until {
            // The timer was dropped with the runtime.
            return closed();
        }
        self.load_counters.abandoned.one();
        waiter.leave_in_background();
        let message = format!("loading took longer than {patience:?}; it goes on in the background");
        Error::new(ErrorKind::Timeout, message)
    }

    /// A load from its beginning to its end.
    async fn fly(self: &Arc<Self>, key: &Key, why: Why<V>, loader: Loader<V>) -> Landing<V> {
        let looked = match why {
            Why::Soon => None,
            Why::Stale => Some(self.look(key, Budget::new(self.deadline), true).await?),
            Why::Missed(looked) => {
                // Between that look and this flight another may have landed.
                if let Some(landed) = self.locally(key) {
                    return Ok(landed);
                }
                // What it has stored is in a local tier, if there is one. What that look has found may be gone by now.
                let is_stored_locally = self.tiers.iter().any(|tier| tier.local().is_some());
                Some(if is_stored_locally && looked.hit.is_none() {
                    looked
                } else {
                    self.look(key, Budget::new(self.deadline), true).await?
                })
            }
        };
        if let Some((at, entry)) = looked.as_ref().and_then(|looked| looked.hit.clone()) {
            return Ok(Landed { entry, source: Source::Tier(at) });
        }
        // Given back when they go out of scope, unless they were used.
        let mut tickets = match &looked {
            Some(looked) => looked.tickets.share(),
            None => Leases::new(self.releases.as_ref(), key),
        };
        let turn = match &looked {
            Some(looked) if looked.stale.is_none() => self.turn(key, looked, &mut tickets).await,
            // The claims of a store are for what is absent.
            _ => Turn::Ours(None),
        };
        let claim = match turn {
            Turn::Ours(claim) => claim,
            Turn::Theirs(at, entry) => {
                self.load_counters.elsewhere.one();
                let mut tickets = tickets.take();
                tickets.retain(|(place, _)| *place < at);
                if !tickets.is_empty() {
                    self.queue.push(self.job(key.clone(), entry.clone(), tickets, at));
                }
                return Ok(Landed { entry, source: Source::Tier(at) });
            }
        };
        // Unless a lookup says otherwise, there is something to be refreshed.
        let replaces = looked.as_ref().is_none_or(|looked| looked.stale.is_some());
        let failed: Vec<usize> = looked.iter().flat_map(|looked| looked.failed.iter().map(|(at, _)| *at)).collect();
        self.lease_rest(key, &failed, &mut tickets).await;
        let (brought, load_time) = self.load(async { loader().await }).await;
        let (entry, is_stored) = self.keep(key, brought, load_time, tickets, replaces).await?;
        if let (Some(claim), true) = (claim, is_stored) {
            claim.fulfilled();
        }
        Ok(Landed { entry, source: Source::Loaded })
    }

    /// The fresh entry of the first local tier that has one.
    fn locally(&self, key: &Key) -> Option<Landed<V>> {
        self.tiers.iter().enumerate().find_map(|(at, tier)| {
            let entry = tier.local()?.get(key).filter(|entry| tier.is_fresh(entry))?;
            Some(Landed { entry, source: Source::Tier(at) })
        })
    }

    /// Takes the leases that are still missing, but for tiers that have just failed. A tier that gives none cannot be filled.
    async fn lease_rest(&self, key: &Key, failed: &[usize], tickets: &mut Leases) {
        let life = self.life_of_lease(self.tiers.len(), Duration::ZERO, Budget::new(None), true);
        for (at, tier) in self.tiers.iter().enumerate() {
            if failed.contains(&at) || tickets.iter().any(|(place, _)| *place == at) {
                continue;
            }
            for ticket in tier.lease_many(std::slice::from_ref(key), tier.read_timeout, life).await {
                match ticket {
                    Ok(ticket) => tickets.push(at, ticket),
                    Err(_) => self.queue.counters().failed.one(),
                }
            }
        }
    }

    /// Runs a loader when its turn has come; what it brought, and how long that took.
    pub(crate) async fn load<T>(&self, work: impl Future<Output = Result<T>>) -> (Result<T>, Duration) {
        self.load_counters.begun.one();
        let limit = self.read_through.hard_timeout;
        let turn = async {
            let _permit = nesting::admission(&self.permits).await;
            let started = self.clock.now();
            let loaded = caught(work).await;
            (loaded, self.clock.now().since(started))
        };
        let (loaded, time) = match tokio::time::timeout(limit, turn).await {
            Ok((Some(loaded), time)) => (loaded, time),
            Ok((None, time)) => (Err(Error::new(ErrorKind::Panicked, "the loader panicked")), time),
            Err(_) => {
                let message = format!("loading took longer than {limit:?} and was given up");
                (Err(Error::new(ErrorKind::Timeout, message)), limit)
            }
        };
        if loaded.is_ok() {
            self.load_counters.loaded.one();
        } else {
            self.load_counters.failed.one();
        }
        (loaded, time)
    }
}
