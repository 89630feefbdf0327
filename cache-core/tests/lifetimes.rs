//! Stores that break the clauses about claims, `take` and `touch` in less obvious ways. The suite
//! must find each of them, by its clause.
#![cfg(feature = "testkit")]

use std::{marker::PhantomData, sync::Arc, time::Duration};

use cache_core::{
    Claim, Entry, Expiry, InvalidationStream, Key, Lifetime, Moment, Profile, Result, Revalidated, SharedClock, Store,
    Ticket, Write,
    backend::{ETag, Inspection, ServerTime},
    testkit::{Broken, BrokenHarness, Clause, Harness, block_on, yield_now},
};

/// The deviations of a store; the defaults keep the contract.
trait Does: Clone + std::fmt::Debug + Send + Sync + 'static {
    fn profile(profile: Profile) -> Profile {
        profile
    }
    fn life(life: Duration) -> Duration {
        life
    }
    fn renew(store: &Broken, claims: &[(Key, Ticket)], life: Duration) -> impl Future<Output = Result<()>> + Send {
        store.renew_claims(claims, life)
    }
    fn take(store: &Broken, key: &Key) -> impl Future<Output = Result<Option<Entry<String>>>> + Send {
        store.take(key)
    }
    fn touch(store: &Broken, key: &Key, lifetime: Lifetime, now: Moment) -> impl Future<Output = Result<bool>> + Send {
        store.touch(key, lifetime, now)
    }
}

/// A store that keeps the contract, but for what `D` does. It breaks S22 alone, which is tested of
/// local stores only.
#[derive(Clone, Debug)]
struct But<D>(Broken, PhantomData<fn() -> D>);

struct H<D>(BrokenHarness, PhantomData<fn() -> D>);

impl<D: Does> Harness for H<D> {
    type Store = But<D>;
    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        block_on(test)
    }
    fn clock(&self) -> SharedClock {
        self.0.clock()
    }
    async fn store(&self) -> But<D> {
        But(self.0.store().await, PhantomData)
    }
    async fn pass(&self, time: Duration) {
        self.0.pass(time).await;
    }
    async fn corrupt(&self, store: &But<D>, key: &Key) -> bool {
        self.0.corrupt(&store.0, key).await
    }
}

fn found_out<D: Does>() -> Vec<Clause> {
    let harness = || H::<D>(BrokenHarness::new(Clause::S22), PhantomData);
    Clause::ALL.iter().copied().filter(|clause| clause.check(harness()).is_err()).collect()
}

#[deny(clippy::missing_trait_methods)]
impl<D: Does> Store for But<D> {
    type Value = String;
    fn profile(&self) -> Profile {
        D::profile(self.0.profile())
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry<String>>> {
        self.0.get(key).await
    }
    async fn revalidate_many(&self, keys: &[(Key, Option<ETag>)]) -> Vec<Result<Revalidated<String>>> {
        self.0.revalidate_many(keys).await
    }
    async fn server_time(&self) -> Result<Option<ServerTime>> {
        self.0.server_time().await
    }
    async fn inspect(&self, key: &Key) -> Result<Option<Inspection>> {
        self.0.inspect(key).await
    }
    fn invalidations(&self) -> Option<Arc<dyn InvalidationStream>> {
        self.0.invalidations()
    }
    async fn lease(&self, key: &Key) -> Result<Ticket> {
        self.0.lease(key).await
    }
    async fn lease_within(&self, key: &Key, life: Duration) -> Result<Ticket> {
        self.0.lease_within(key, life).await
    }
    async fn release_leases(&self, leases: &[(Key, Ticket)]) -> Result<()> {
        self.0.release_leases(leases).await
    }
    async fn claim(&self, key: &Key) -> Result<Claim> {
        self.0.claim(key).await
    }
    async fn claim_within(&self, key: &Key, life: Duration) -> Result<Claim> {
        self.0.claim_within(key, D::life(life)).await
    }
    async fn renew_claims(&self, claims: &[(Key, Ticket)], life: Duration) -> Result<()> {
        D::renew(&self.0, claims, life).await
    }
    async fn release(&self, key: &Key, ticket: Ticket) -> Result<()> {
        self.0.release(key, ticket).await
    }
    async fn fill(&self, write: Write<String>) -> Result<bool> {
        self.0.fill(write).await
    }
    async fn set(&self, write: Write<String>) -> Result<()> {
        self.0.set(write).await
    }
    async fn del(&self, key: &Key) -> Result<()> {
        self.0.del(key).await
    }
    async fn take(&self, key: &Key) -> Result<Option<Entry<String>>> {
        D::take(&self.0, key).await
    }
    async fn touch(&self, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool> {
        D::touch(&self.0, key, lifetime, now).await
    }
    async fn clear(&self) -> Result<()> {
        self.0.clear().await
    }
    async fn wait(&self) -> Result<()> {
        self.0.wait().await
    }
    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<String>>>> {
        self.0.get_many(keys).await
    }
    async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        self.0.lease_many(keys).await
    }
    async fn lease_many_within(&self, keys: &[Key], life: Duration) -> Vec<Result<Ticket>> {
        self.0.lease_many_within(keys, life).await
    }
    async fn claim_many_within(&self, keys: &[Key], life: Duration) -> Vec<Result<Claim>> {
        self.0.claim_many_within(keys, D::life(life)).await
    }
    async fn fill_many(&self, writes: Vec<Write<String>>) -> Vec<Result<bool>> {
        self.0.fill_many(writes).await
    }
    async fn set_many(&self, writes: Vec<Write<String>>) -> Vec<Result<()>> {
        self.0.set_many(writes).await
    }
    async fn del_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        self.0.del_many(keys).await
    }
    fn local(&self) -> Option<&dyn cache_core::LocalStore<Value = String>> {
        self.0.local()
    }
}

fn write(key: &Key, entry: Entry<String>) -> Write<String> {
    Write::new(key.clone(), entry, Ticket::unconditional())
}

macro_rules! does {
    ($name:ident, $clauses:expr, { $($instead:item)* }) => {
        #[test]
        #[allow(non_snake_case, reason = "the name of the store")]
        fn $name() {
            #[derive(Clone, Debug)]
            struct $name;
            impl Does for $name {
                $($instead)*
            }
            assert_eq!(found_out::<$name>(), $clauses);
        }
    };
}

const NONE: [Clause; 0] = [];

does!(NothingElse, NONE, {});

does!(NeverRenews, [Clause::S19], {
    async fn renew(_: &Broken, _: &[(Key, Ticket)], _: Duration) -> Result<()> {
        Ok(())
    }
});

does!(RenewsTheFirstOnly, [Clause::S19], {
    async fn renew(store: &Broken, claims: &[(Key, Ticket)], life: Duration) -> Result<()> {
        store.renew_claims(&claims[..claims.len().min(1)], life).await
    }
});

does!(ClaimsForItsOwnTime, [Clause::S19], {
    fn life(_: Duration) -> Duration {
        Duration::MAX
    }
});

does!(RenewalsLastForTheLongest, [Clause::S19], {
    fn renew(store: &Broken, claims: &[(Key, Ticket)], _: Duration) -> impl Future<Output = Result<()>> + Send {
        store.renew_claims(claims, Duration::MAX)
    }
});

does!(RenewalsRemoveWhatWasFilled, [Clause::S19], {
    async fn renew(store: &Broken, claims: &[(Key, Ticket)], life: Duration) -> Result<()> {
        if life < Duration::from_secs(1) {
            for (key, _) in claims {
                store.del(key).await?;
            }
        }
        store.renew_claims(claims, life).await
    }
});

does!(RenewalsClaimAgain, [Clause::S19], {
    async fn renew(store: &Broken, claims: &[(Key, Ticket)], life: Duration) -> Result<()> {
        store.renew_claims(claims, life).await?;
        for (key, _) in claims {
            if store.get(key).await.is_ok_and(|found| found.is_none()) {
                store.claim_within(key, life).await?;
            }
        }
        Ok(())
    }
});

does!(TakesAndLeaves, [Clause::S10, Clause::S23], {
    fn take(store: &Broken, key: &Key) -> impl Future<Output = Result<Option<Entry<String>>>> + Send {
        store.get(key)
    }
});

does!(TakesNothing, [Clause::S10, Clause::S23], {
    async fn take(store: &Broken, key: &Key) -> Result<Option<Entry<String>>> {
        store.del(key).await.map(|()| None)
    }
});

// Stale entries stay.
does!(TakesTheFreshOnly, [Clause::S23], {
    async fn take(store: &Broken, key: &Key) -> Result<Option<Entry<String>>> {
        let taken = store.take(key).await?;
        Ok(taken.filter(|entry| !entry.turns_stale()))
    }
});

// The tickets stay good.
does!(TakeVoidsNothing, [Clause::S10, Clause::S23], {
    async fn take(store: &Broken, key: &Key) -> Result<Option<Entry<String>>> {
        // An expired entry counts as removed.
        let taken = store.get(key).await;
        let gone = Entry::new(String::new(), Expiry::At(Moment::from_nanos(0)));
        store.fill(write(key, gone)).await?;
        store.release(key, Ticket::unconditional()).await?;
        taken
    }
});

does!(TakesTwice, [Clause::S23], {
    async fn take(store: &Broken, key: &Key) -> Result<Option<Entry<String>>> {
        let taken = store.get(key).await;
        yield_now().await;
        store.del(key).await?;
        taken
    }
});

// The same, and the profile says so.
does!(TakesTwiceAndSaysSo, NONE, {
    fn profile(profile: Profile) -> Profile {
        profile.takes_once(false)
    }
    async fn take(store: &Broken, key: &Key) -> Result<Option<Entry<String>>> {
        let taken = store.get(key).await;
        yield_now().await;
        store.del(key).await?;
        taken
    }
});

does!(TouchesNothing, [Clause::S24], {
    async fn touch(_: &Broken, _: &Key, _: Lifetime, _: Moment) -> Result<bool> {
        Ok(false)
    }
});

does!(SaysThatItTouches, [Clause::S24], {
    async fn touch(_: &Broken, _: &Key, _: Lifetime, _: Moment) -> Result<bool> {
        Ok(true)
    }
});

// A touched entry looks new.
does!(TouchMakesItYoung, [Clause::S24], {
    async fn touch(store: &Broken, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool> {
        let Some(entry) = store.get(key).await? else { return Ok(false) };
        if entry.is_absent() || entry.is_stale(now) || lifetime.expiry.is_past(now) {
            return Ok(false);
        }
        let ticket = store.lease(key).await?;
        let later = now.plus(Duration::from_secs(1));
        store.fill(write(key, entry.with_lifetime(lifetime).created_at(later)).with_ticket(ticket)).await
    }
});

// The lifetimes of the suite have not ended by its clock.
does!(TouchesByAnEarlierMoment, [Clause::S24], {
    fn touch(store: &Broken, key: &Key, lifetime: Lifetime, now: Moment) -> impl Future<Output = Result<bool>> + Send {
        store.touch(key, lifetime, now.minus(Duration::from_secs(1500)).unwrap_or(now))
    }
});

does!(TouchLosesTheSoftDeadline, [Clause::S24], {
    fn touch(store: &Broken, key: &Key, lifetime: Lifetime, now: Moment) -> impl Future<Output = Result<bool>> + Send {
        store.touch(key, Lifetime::new(lifetime.expiry), now)
    }
});

does!(TouchOnlyLengthens, [Clause::S24], {
    async fn touch(store: &Broken, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool> {
        let Some(entry) = store.get(key).await? else { return Ok(false) };
        if entry.expiry() > lifetime.expiry && !lifetime.expiry.is_past(now) {
            return Ok(!entry.is_absent() && !entry.is_stale(now));
        }
        store.touch(key, lifetime, now).await
    }
});

// Whatever is there, stale or absent.
does!(TouchFreshens, [Clause::S24], {
    async fn touch(store: &Broken, key: &Key, lifetime: Lifetime, _: Moment) -> Result<bool> {
        let ticket = store.lease(key).await?;
        let Some(entry) = store.get(key).await? else { return Ok(false) };
        store.fill(write(key, entry.with_lifetime(lifetime)).with_ticket(ticket)).await
    }
});

does!(TouchVoids, [Clause::S24], {
    async fn touch(store: &Broken, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool> {
        let touched = store.touch(key, lifetime, now).await?;
        if let Some(entry) = store.get(key).await?.filter(|_| touched) {
            store.set(write(key, entry)).await?;
        }
        Ok(touched)
    }
});
