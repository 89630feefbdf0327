use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use crate::{
    Claim, Entry, Error, ErrorKind, InvalidationStream, Key, Lifetime, Moment, Profile, Result, Revalidated, Store,
    Ticket, Write,
    backend::{ETag, Inspection, ServerTime},
};

/// A store around another that records every call, fails and stalls as it is told, and never
/// answers as a local one.
///
/// A batch is one call. A clone follows the same script.
#[derive(Clone, Debug)]
pub struct ScriptedStore<S> {
    store: S,
    script: Arc<Script>,
    /// The leases that the profile reports, and those that the store keeps.
    leases: (bool, bool),
    /// Its own, as every scripted store holds data of its own.
    domain: u64,
}

/// The operations of a [`Store`]; a batch counts as what it is a batch of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the methods of `Store` say what each is")]
pub enum Operation {
    Get,
    Lease,
    Claim,
    Release,
    Fill,
    Set,
    Del,
    Clear,
    Wait,
}

/// A call that a [`ScriptedStore`] took.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Call {
    /// The operation.
    pub operation: Operation,
    /// The keys.
    pub keys: Vec<Key>,
}

/// The position of a step in a call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Before its effect.
    Before,
    /// After it, before the caller hears of it.
    After,
}

type Step = Arc<dyn Fn(Operation, Phase) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

#[derive(Default)]
struct Script {
    calls: Mutex<Vec<Call>>,
    failing: Mutex<Vec<(Operation, ErrorKind)>>,
    gates: Mutex<Vec<(Operation, Gate)>>,
    step: Mutex<Option<Step>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("calls", &lock(&self.calls).len()).finish_non_exhaustive()
    }
}

impl<S: Store> ScriptedStore<S> {
    /// A scripted store around `store`.
    pub fn new(store: S) -> Self {
        static DOMAINS: AtomicU64 = AtomicU64::new(1);
        let leases = store.profile().leases;
        let domain = DOMAINS.fetch_add(1, Ordering::Relaxed);
        Self { store, script: Arc::default(), leases: (leases, leases), domain }
    }

    /// Behaves as a store without leases, and says so: tickets are never void.
    pub fn without_leases(mut self) -> Self {
        self.leases = (false, false);
        self
    }

    /// Breaks the contract: says that it keeps leases and does not. A test of G1 must find it out.
    pub fn ignoring_tickets(mut self) -> Self {
        self.leases = (true, false);
        self
    }

    /// The store within.
    pub fn inner(&self) -> &S {
        &self.store
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.script.calls).clone()
    }

    /// Every call of this operation so far.
    pub fn calls_of(&self, operation: Operation) -> usize {
        lock(&self.script.calls).iter().filter(|call| call.operation == operation).count()
    }

    /// Fails every call of this operation from now on, without doing it.
    pub fn fail(&self, operation: Operation, kind: ErrorKind) {
        lock(&self.script.failing).push((operation, kind));
    }

    /// Ends all failing and opens all gates.
    pub fn heal(&self) {
        lock(&self.script.failing).clear();
        for (_, gate) in lock(&self.script.gates).drain(..) {
            gate.open();
        }
    }

    /// Stalls every call of this operation from now on, before it does anything, until the gate is
    /// opened.
    pub fn stall(&self, operation: Operation) -> Gate {
        let gate = Gate::default();
        lock(&self.script.gates).push((operation, gate.clone()));
        gate
    }

    /// Awaits this before and after the effect of every call.
    pub fn at_every_step<F>(&self, step: impl Fn(Operation, Phase) -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        *lock(&self.script.step) = Some(Arc::new(move |operation, phase| Box::pin(step(operation, phase))));
    }

    async fn call<T>(&self, operation: Operation, keys: Vec<Key>, effect: impl Future<Output = T>) -> Result<T> {
        lock(&self.script.calls).push(Call { operation, keys });
        let step = lock(&self.script.step).clone();
        if let Some(step) = &step {
            step(operation, Phase::Before).await;
        }
        let gates: Vec<Gate> = lock(&self.script.gates)
            .iter()
            .filter(|(stalled, _)| *stalled == operation)
            .map(|(_, gate)| gate.clone())
            .collect();
        for gate in gates {
            gate.passed().await;
        }
        let failure = lock(&self.script.failing).iter().find(|(failing, _)| *failing == operation).copied();
        if let Some((_, kind)) = failure {
            return Err(Error::new(kind, "the script says so"));
        }
        let output = effect.await;
        if let Some(step) = &step {
            step(operation, Phase::After).await;
        }
        Ok(output)
    }

    async fn batch<T>(
        &self,
        operation: Operation,
        keys: Vec<Key>,
        effect: impl Future<Output = Vec<Result<T>>>,
    ) -> Vec<Result<T>> {
        let count = keys.len();
        match self.call(operation, keys, effect).await {
            Ok(results) => results,
            Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
        }
    }

    fn unguarded(&self, mut write: Write<S::Value>) -> Write<S::Value> {
        if !self.leases.1 {
            write.ticket = Ticket::unconditional();
        }
        write
    }
}

fn keys_of<V>(writes: &[Write<V>]) -> Vec<Key> {
    writes.iter().map(|write| write.key.clone()).collect()
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for ScriptedStore<S> {
    type Value = S::Value;

    fn profile(&self) -> Profile {
        self.store.profile().leases(self.leases.0).domain(self.domain)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<S::Value>>> {
        self.call(Operation::Get, vec![key.clone()], self.store.get(key)).await?
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        self.call(Operation::Lease, vec![key.clone()], self.store.lease(key)).await?
    }

    async fn lease_within(&self, key: &Key, life: Duration) -> Result<Ticket> {
        self.call(Operation::Lease, vec![key.clone()], self.store.lease_within(key, life)).await?
    }

    async fn release_leases(&self, leases: &[(Key, Ticket)]) -> Result<()> {
        let keys = leases.iter().map(|(key, _)| key.clone()).collect();
        self.call(Operation::Release, keys, self.store.release_leases(leases)).await?
    }

    async fn claim(&self, key: &Key) -> Result<Claim> {
        self.call(Operation::Claim, vec![key.clone()], self.store.claim(key)).await?
    }

    async fn claim_within(&self, key: &Key, life: Duration) -> Result<Claim> {
        self.call(Operation::Claim, vec![key.clone()], self.store.claim_within(key, life)).await?
    }

    async fn claim_many_within(&self, keys: &[Key], life: Duration) -> Vec<Result<Claim>> {
        self.batch(Operation::Claim, keys.to_vec(), self.store.claim_many_within(keys, life)).await
    }

    async fn renew_claims(&self, claims: &[(Key, Ticket)], life: Duration) -> Result<()> {
        let keys = claims.iter().map(|(key, _)| key.clone()).collect();
        self.call(Operation::Claim, keys, self.store.renew_claims(claims, life)).await?
    }

    async fn release(&self, key: &Key, ticket: Ticket) -> Result<()> {
        self.call(Operation::Release, vec![key.clone()], self.store.release(key, ticket)).await?
    }

    async fn fill(&self, write: Write<S::Value>) -> Result<bool> {
        let write = self.unguarded(write);
        self.call(Operation::Fill, vec![write.key.clone()], self.store.fill(write)).await?
    }

    async fn set(&self, write: Write<S::Value>) -> Result<()> {
        let write = self.unguarded(write);
        self.call(Operation::Set, vec![write.key.clone()], self.store.set(write)).await?
    }

    async fn del(&self, key: &Key) -> Result<()> {
        self.call(Operation::Del, vec![key.clone()], self.store.del(key)).await?
    }

    async fn take(&self, key: &Key) -> Result<Option<Entry<S::Value>>> {
        self.call(Operation::Del, vec![key.clone()], self.store.take(key)).await?
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool> {
        self.call(Operation::Fill, vec![key.clone()], self.store.touch(key, lifetime, now)).await?
    }

    async fn clear(&self) -> Result<()> {
        self.call(Operation::Clear, Vec::new(), self.store.clear()).await?
    }

    async fn wait(&self) -> Result<()> {
        self.call(Operation::Wait, Vec::new(), self.store.wait()).await?
    }

    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<S::Value>>>> {
        self.batch(Operation::Get, keys.to_vec(), self.store.get_many(keys)).await
    }

    async fn revalidate_many(&self, keys: &[(Key, Option<ETag>)]) -> Vec<Result<Revalidated<S::Value>>> {
        let asked = keys.iter().map(|(key, _)| key.clone()).collect();
        self.batch(Operation::Get, asked, self.store.revalidate_many(keys)).await
    }

    async fn server_time(&self) -> Result<Option<ServerTime>> {
        self.store.server_time().await
    }

    async fn inspect(&self, key: &Key) -> Result<Option<Inspection>> {
        self.store.inspect(key).await
    }

    fn invalidations(&self) -> Option<Arc<dyn InvalidationStream>> {
        self.store.invalidations()
    }

    async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        self.batch(Operation::Lease, keys.to_vec(), self.store.lease_many(keys)).await
    }

    async fn lease_many_within(&self, keys: &[Key], life: Duration) -> Vec<Result<Ticket>> {
        self.batch(Operation::Lease, keys.to_vec(), self.store.lease_many_within(keys, life)).await
    }

    async fn fill_many(&self, writes: Vec<Write<S::Value>>) -> Vec<Result<bool>> {
        let writes: Vec<_> = writes.into_iter().map(|write| self.unguarded(write)).collect();
        self.batch(Operation::Fill, keys_of(&writes), self.store.fill_many(writes)).await
    }

    async fn set_many(&self, writes: Vec<Write<S::Value>>) -> Vec<Result<()>> {
        let writes: Vec<_> = writes.into_iter().map(|write| self.unguarded(write)).collect();
        self.batch(Operation::Set, keys_of(&writes), self.store.set_many(writes)).await
    }

    async fn del_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        self.batch(Operation::Del, keys.to_vec(), self.store.del_many(keys)).await
    }

    /// It never answers as a local one.
    fn local(&self) -> Option<&dyn crate::LocalStore<Value = S::Value>> {
        None
    }
}

/// A gate that calls wait at until it is opened; it stays open then. A clone is the same gate.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<GateState>>);

#[derive(Default)]
struct GateState {
    open: bool,
    waiting: Vec<Waker>,
}

impl Gate {
    /// Lets everybody pass.
    pub fn open(&self) {
        let mut state = lock(&self.0);
        state.open = true;
        for waker in state.waiting.drain(..) {
            waker.wake();
        }
    }

    /// Returns once the gate is open.
    pub fn passed(&self) -> impl Future<Output = ()> + Send + use<> {
        let gate = self.clone();
        std::future::poll_fn(move |context| {
            let mut state = lock(&gate.0);
            if state.open {
                return Poll::Ready(());
            }
            state.waiting.push(context.waker().clone());
            Poll::Pending
        })
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("open", &lock(&self.0).open).finish_non_exhaustive()
    }
}
