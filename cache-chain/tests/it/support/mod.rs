//! Helpers that the tests of the chain share.
#![allow(dead_code, unused_macros, reason = "each test file uses its part")]

/// Implements these methods of `Store` by those of a field.
macro_rules! forward {
    ($field:tt: $($method:ident)+) => {
        $(forward!(@$method $field);)+
    };
    (@profile $field:tt) => {
        fn profile(&self) -> cache_core::Profile {
            cache_core::Store::profile(&self.$field)
        }
    };
    (@get $field:tt) => {
        async fn get(&self, key: &cache_core::Key) -> cache_core::Result<Option<cache_core::Entry<Self::Value>>> {
            cache_core::Store::get(&self.$field, key).await
        }
    };
    (@lease $field:tt) => {
        async fn lease(&self, key: &cache_core::Key) -> cache_core::Result<cache_core::Ticket> {
            cache_core::Store::lease(&self.$field, key).await
        }
    };
    (@fill $field:tt) => {
        async fn fill(&self, write: cache_core::Write<Self::Value>) -> cache_core::Result<bool> {
            cache_core::Store::fill(&self.$field, write).await
        }
    };
    (@set $field:tt) => {
        async fn set(&self, write: cache_core::Write<Self::Value>) -> cache_core::Result<()> {
            cache_core::Store::set(&self.$field, write).await
        }
    };
    (@del $field:tt) => {
        async fn del(&self, key: &cache_core::Key) -> cache_core::Result<()> {
            cache_core::Store::del(&self.$field, key).await
        }
    };
    (@clear $field:tt) => {
        async fn clear(&self) -> cache_core::Result<()> {
            cache_core::Store::clear(&self.$field).await
        }
    };
    (@wait $field:tt) => {
        async fn wait(&self) -> cache_core::Result<()> {
            cache_core::Store::wait(&self.$field).await
        }
    };
}

// They use the macro above.
pub(crate) mod claiming;
pub(crate) mod origin;
pub(crate) mod remote_rig;
pub(crate) mod stale_value;

use std::{
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use cache_chain::{ChainBuilder, ChainCache, ReadThrough, ServeStale, Tier};
use cache_core::{
    Entry, Expiry, Key, LocalStore, ManualClock, Store, Ticket, Write,
    testkit::{Gate, MapStore, Operation, Phase, ScriptedStore, block_on},
};

pub(crate) type Scripted = ScriptedStore<MapStore<String>>;

/// A chain of scripted stores on a manual clock.
pub(crate) struct Rig {
    pub(crate) chain: ChainCache<String>,
    pub(crate) stores: Vec<Scripted>,
    pub(crate) clock: ManualClock,
}

impl Rig {
    pub(crate) fn new(tiers: usize) -> Self {
        Self::with(tiers, |_, tier| tier)
    }

    /// Builds a chain with settings per tier.
    pub(crate) fn with(tiers: usize, settings: impl Fn(usize, Tier<String>) -> Tier<String>) -> Self {
        Self::built(tiers, settings, |builder| builder)
    }

    /// Builds a chain with settings per tier and of the chain.
    pub(crate) fn built(
        tiers: usize,
        settings: impl Fn(usize, Tier<String>) -> Tier<String>,
        of_chain: impl FnOnce(ChainBuilder<String>) -> ChainBuilder<String>,
    ) -> Self {
        let clock = ManualClock::new();
        let stores: Vec<Scripted> =
            (0..tiers).map(|_| ScriptedStore::new(MapStore::with_clock(clock.shared()))).collect();
        let mut builder = ChainCache::builder().clock(clock.shared());
        for (at, store) in stores.iter().enumerate() {
            builder = builder.tier(settings(at, Tier::new(store.clone())));
        }
        Self { chain: of_chain(builder).build().unwrap(), stores, clock }
    }

    /// Returns the entry that a tier holds.
    pub(crate) fn held(&self, tier: usize, key: &str) -> Option<Entry<String>> {
        LocalStore::get(self.stores[tier].inner(), &Key::new(key).unwrap())
    }

    pub(crate) fn value(&self, tier: usize, key: &str) -> Option<String> {
        self.held(tier, key).and_then(Entry::into_value)
    }

    /// Puts a value into one tier only.
    pub(crate) fn put(&self, tier: usize, key: &str, value: &str, expiry: Expiry) {
        let entry = Entry::new(value.to_owned(), expiry);
        let write = Write::new(Key::new(key).unwrap(), entry, Ticket::unconditional());
        block_on(self.stores[tier].inner().set(write)).unwrap();
    }
}

/// Builds a chain of two tiers whose values stay for an hour after their TTL.
pub(crate) fn stale_rig() -> Rig {
    let hour = Duration::from_secs(60 * 60);
    let settings = ReadThrough::new().stale_for(hour).serve_stale(ServeStale::IfLoadFails);
    Rig::built(2, |_, tier| tier, |builder| builder.read_through(settings))
}

/// Builds a chain of memory over a scripted store.
pub(crate) fn memory_over_scripted(
    settings: ReadThrough,
) -> (ChainCache<String>, MapStore<String>, Scripted, ManualClock) {
    let clock = ManualClock::new();
    let (memory, below) =
        (MapStore::with_clock(clock.shared()), ScriptedStore::new(MapStore::with_clock(clock.shared())));
    let builder = ChainCache::builder().clock(clock.shared()).tier(memory.clone()).tier(below.clone());
    (builder.read_through(settings).build().unwrap(), memory, below, clock)
}

/// Loads a value.
pub(crate) fn load(value: &str) -> Ready<io::Result<String>> {
    ready(Ok(owned(value)))
}

/// Fails to load.
pub(crate) fn down() -> Ready<io::Result<String>> {
    ready(Err(io::Error::other("down")))
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// Lets every other task on this thread go on as far as it can.
pub(crate) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Polls the future once. Returns its output if it is ready.
pub(crate) async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        Poll::Ready(match Pin::new(&mut *future).poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

/// Polls the future once, with a waker that does nothing.
pub(crate) fn poll_unwoken<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Returns a gate that is open.
pub(crate) fn open_gate() -> Gate {
    let gate = Gate::default();
    gate.open();
    gate
}

pub(crate) fn owned(value: &str) -> String {
    value.to_owned()
}

/// The result of a loader of several keys.
type LoadedEach<V> = Ready<io::Result<Vec<(&'static str, V)>>>;

/// Returns a loader of several keys that loads this value for each.
pub(crate) fn each<V: Clone>(value: V) -> impl FnOnce(Vec<&'static str>) -> LoadedEach<V> + Clone {
    move |keys| ready(Ok(keys.into_iter().map(|key| (key, value.clone())).collect()))
}

/// Holds back the result of the `nth` `get` of the store, counted from 0, until the gate opens.
pub(crate) fn hold_back_get<S: Store>(store: &ScriptedStore<S>, nth: usize) -> Gate {
    let (gate, gets) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
    let held = gate.clone();
    store.at_every_step(move |operation, phase| {
        let is_held = operation == Operation::Get && phase == Phase::After && gets.fetch_add(1, SeqCst) == nth;
        let held = held.clone();
        async move {
            if is_held {
                held.passed().await;
            }
        }
    });
    gate
}
