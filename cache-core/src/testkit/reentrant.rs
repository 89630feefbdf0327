//! Values that call their store when they are dropped.

use std::sync::{Arc, Weak};

use super::block_on;
use crate::{
    Displaced, Entry, Expiry, Fence, Key, Lifetime, LocalStore, Moment, Profile, Result, Store, Ticket, Usage, Write,
};

/// A value that calls the store which holds it when it is dropped: it reads its key, and writes,
/// fills and removes another key that the same stripe of the fence guards. If the store drops it
/// while it holds a lock, that is a deadlock.
#[derive(Debug)]
pub struct Reentrant(Option<Calls>);

/// A clone calls nothing, because the value itself reads a clone of what the store holds.
impl Clone for Reentrant {
    fn clone(&self) -> Self {
        Self(None)
    }
}

/// The handle is weak, so that a value does not keep its own store alive.
struct Calls {
    store: Weak<dyn LocalStore<Value = Reentrant>>,
    own: Key,
    other: Key,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl Drop for Reentrant {
    fn drop(&mut self) {
        let Some(Calls { store, own, other }) = self.0.take() else { return };
        let Some(store) = store.upgrade().map(Shared) else { return };
        let write = || Write::new(other.clone(), Entry::new(Self(None), Expiry::Never), Ticket::unconditional());
        drop(LocalStore::get(&store, &own));
        // Their results do not matter, only that they return.
        let _ = block_on(store.set(write()));
        let _ = block_on(store.fill(write()));
        let _ = block_on(store.del(&other));
    }
}

/// A store behind a pointer, which is a [`Store`] as well.
struct Shared(Arc<dyn LocalStore<Value = Reentrant>>);

#[deny(clippy::missing_trait_methods)]
impl LocalStore for Shared {
    type Value = Reentrant;

    fn profile(&self) -> Profile {
        self.0.profile()
    }

    fn fence(&self) -> &Fence {
        self.0.fence()
    }

    fn usage(&self) -> Option<Usage> {
        self.0.usage()
    }

    fn get(&self, key: &Key) -> Option<Entry<Reentrant>> {
        self.0.get(key)
    }

    fn holds(&self, key: &Key) -> bool {
        self.0.holds(key)
    }

    fn weigh(&self, key: &Key, entry: &Entry<Reentrant>) -> u64 {
        self.0.weigh(key, entry)
    }

    fn insert(&self, key: &Key, entry: Entry<Reentrant>, weight: u64) -> Result<Displaced> {
        self.0.insert(key, entry, weight)
    }

    fn remove(&self, key: &Key) -> Result<Displaced> {
        self.0.remove(key)
    }

    fn clear(&self) -> Result<()> {
        self.0.clear()
    }

    fn wait(&self) -> Result<()> {
        self.0.wait()
    }
}

/// Replaces and removes values that call the store, in each way there is. Ends unless the store
/// holds a lock meanwhile.
///
/// # Errors
///
/// Fails as the store does.
pub(super) fn replace_in_each_way(store: Arc<dyn LocalStore<Value = Reentrant>>) -> Result<()> {
    let own = Key::new("k")?;
    let stripe = store.fence().stripe_of(&own);
    // Also that of two keys which a batch writes together.
    let mut neighbours = (0_u32..)
        .filter_map(|at| Key::new(&("neighbour", at)).ok())
        .filter(|key| store.fence().stripe_of(key) == stripe);
    let [other, twin] = [(); 2].map(|()| neighbours.next());
    let (Some(other), Some(twin)) = (other, twin) else { return Ok(()) };
    drop(neighbours);

    let calls = |own: &Key| Some(Calls { store: Arc::downgrade(&store), own: own.clone(), other: other.clone() });
    let write = |key: &Key, ticket| Write::new(key.clone(), Entry::new(Reentrant(calls(key)), Expiry::Never), ticket);
    let (always, void) = (Ticket::unconditional(), Ticket::at(u64::MAX));
    let shared = Shared(Arc::clone(&store));
    let all = |results: Vec<Result<()>>| results.into_iter().collect::<Result<()>>();
    block_on(async {
        for _ in 0..2 {
            shared.set(write(&own, always)).await?;
            shared.fill(write(&own, always)).await?;
            shared.fill(write(&own, void)).await?;
            drop(Store::get(&shared, &own).await?);
            shared.set(write(&own, void)).await?;
            shared.set(write(&own, always)).await?;
            shared.touch(&own, Lifetime::new(Expiry::Never), Moment::from_nanos(0)).await?;
            drop(shared.take(&own).await?);
            shared.set(write(&own, always)).await?;
            shared.del(&own).await?;
            all(shared.set_many(vec![write(&own, always), write(&twin, always)]).await)?;
            all(shared.set_many(vec![write(&own, void), write(&twin, always)]).await)?;
            all(shared.del_many(&[own.clone(), twin.clone()]).await)?;
            shared.set(write(&own, always)).await?;
            Store::clear(&shared).await?;
            Store::wait(&shared).await?;
        }
        shared.set(write(&own, always)).await
    })?;
    drop((shared, store));
    Ok(())
}
