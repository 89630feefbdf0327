//! The fenced store under shuttle: readers that fill what they have read below, and writers, on two
//! keys that a batch covers both of. Every call of the store takes effect some time after it began
//! and some time before it ends.
//!
//! In every execution all calls end, and afterwards the store holds for each key what the source
//! below holds, or nothing.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

use cache_core::{Expiry, testkit::MapStore};
use shuttle::{future as executor, thread};

use super::*;
use crate::util::{
    fault::{Fault, INJECTED},
    sync::lock,
};

/// A store without leases whose calls yield before and after their effects.
#[derive(Clone)]
struct Slow(MapStore<u32>);

impl Store for Slow {
    type Value = u32;

    fn profile(&self) -> Profile {
        Profile::new("slow").leases(false)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<u32>>> {
        self.0.get(key).await
    }

    async fn lease(&self, _key: &Key) -> Result<Ticket> {
        Ok(Ticket::unconditional())
    }

    async fn fill(&self, write: Write<u32>) -> Result<bool> {
        executor::yield_now().await;
        let filled = self.0.fill(write).await;
        executor::yield_now().await;
        filled
    }

    async fn set(&self, write: Write<u32>) -> Result<()> {
        executor::yield_now().await;
        let set = self.0.set(write).await;
        executor::yield_now().await;
        set
    }

    async fn del(&self, key: &Key) -> Result<()> {
        executor::yield_now().await;
        let deleted = self.0.del(key).await;
        executor::yield_now().await;
        deleted
    }

    async fn clear(&self) -> Result<()> {
        executor::yield_now().await;
        self.0.clear().await
    }

    async fn wait(&self) -> Result<()> {
        Ok(())
    }
}

/// The work of a task. Keys are `0` and `1`.
#[derive(Clone, Copy, Debug)]
enum Do {
    Fill(usize),
    FillBoth,
    Set(usize, u32),
    SetBoth(u32),
    Del(usize),
    DelBoth,
    Clear,
}

struct Execution {
    store: Fenced<Slow>,
    below: Mutex<HashMap<Key, u32>>,
    keys: [Key; 2],
}

impl Execution {
    fn read_below(&self, key: &Key) -> Option<u32> {
        lock(&self.below).get(key).copied()
    }

    async fn run(&self, what: Do) {
        match what {
            Do::Fill(key) => self.fill(&self.keys[key..=key]).await,
            Do::FillBoth => self.fill(&self.keys).await,
            Do::Set(key, value) => self.set(&self.keys[key..=key], value).await,
            Do::SetBoth(value) => self.set(&self.keys, value).await,
            Do::Del(key) => self.del(&self.keys[key..=key]).await,
            Do::DelBoth => self.del(&self.keys).await,
            Do::Clear => {
                lock(&self.below).clear();
                self.store.clear().await.expect("a clear");
            }
        }
    }

    async fn tickets(&self, keys: &[Key]) -> Vec<Ticket> {
        self.store.lease_many(keys).await.into_iter().map(|ticket| ticket.expect("a lease")).collect()
    }

    async fn fill(&self, keys: &[Key]) {
        let tickets = self.tickets(keys).await;
        executor::yield_now().await;
        let found = keys.iter().zip(tickets).filter_map(|(key, ticket)| Some((key, self.read_below(key)?, ticket)));
        let writes: Vec<_> = found.map(|(key, value, ticket)| write(key, value, ticket)).collect();
        executor::yield_now().await;
        match <[_; 1]>::try_from(writes) {
            Ok([write]) => drop(self.store.fill(write).await.expect("a fill")),
            Err(writes) => drop(self.store.fill_many(writes).await),
        }
    }

    async fn set(&self, keys: &[Key], value: u32) {
        let tickets = self.tickets(keys).await;
        lock(&self.below).extend(keys.iter().map(|key| (key.clone(), value)));
        executor::yield_now().await;
        let writes: Vec<_> = keys.iter().zip(tickets).map(|(key, ticket)| write(key, value, ticket)).collect();
        match <[_; 1]>::try_from(writes) {
            Ok([write]) => self.store.set(write).await.expect("a set"),
            Err(writes) => drop(self.store.set_many(writes).await),
        }
    }

    async fn del(&self, keys: &[Key]) {
        lock(&self.below).retain(|key, _| !keys.contains(key));
        executor::yield_now().await;
        match keys {
            [key] => self.store.del(key).await.expect("a del"),
            _ => drop(self.store.del_many(keys).await),
        }
    }
}

fn write(key: &Key, value: u32, ticket: Ticket) -> Write<u32> {
    Write::new(key.clone(), Entry::new(value, Expiry::Never), ticket)
}

fn run(tasks: &'static [Do]) {
    let keys = ["0", "1"].map(|name| Key::new(name).expect("a key"));
    let store = Slow(MapStore::new());
    // A fence of its own: the executions of a test are independent.
    let store = Fenced { store, fence: Arc::default() };
    let below = Mutex::new(keys.iter().map(|key| (key.clone(), 0)).collect());
    let execution = Arc::new(Execution { store, below, keys });
    let threads: Vec<_> = tasks
        .iter()
        .map(|&what| {
            let execution = Arc::clone(&execution);
            thread::spawn(move || executor::block_on(async move { execution.run(what).await }))
        })
        .collect();
    for thread in threads {
        thread.join().expect("a task");
    }
    for key in &execution.keys {
        let held = executor::block_on(execution.store.get(key)).expect("a read").and_then(Entry::into_value);
        assert!(held.is_none() || held == execution.read_below(key), "{tasks:?}: {held:?}");
    }
    assert_eq!(execution.store.fence.locks.len(), 0, "a lock is left");
}

const TASKS: &[&[Do]] = &[
    &[Do::Fill(0), Do::Set(0, 1)],
    &[Do::Fill(0), Do::Del(0)],
    &[Do::Fill(0), Do::Clear],
    &[Do::Fill(0), Do::Set(0, 1), Do::Del(0)],
    &[Do::Set(0, 1), Do::Set(0, 2)],
    &[Do::FillBoth, Do::SetBoth(1)],
    &[Do::FillBoth, Do::Set(1, 1), Do::Del(0)],
    &[Do::FillBoth, Do::DelBoth, Do::Fill(1)],
    &[Do::FillBoth, Do::Clear, Do::Set(0, 1)],
    &[Do::SetBoth(1), Do::SetBoth(2), Do::DelBoth],
];

#[test]
fn no_execution_brings_back_what_was_written_over() {
    for tasks in TASKS {
        shuttle::check_random(|| run(tasks), 1000);
        shuttle::check_pct(|| run(tasks), 300, 3);
    }
}

#[test]
fn every_fault_is_found() {
    // Shuttle prints its findings; only the assertion below matters.
    std::panic::set_hook(Box::new(|_| {}));
    let missed: Vec<Fault> = [Fault::UnsharedLocks, Fault::HastyClear]
        .into_iter()
        .filter(|&fault| {
            let found = catch_unwind(AssertUnwindSafe(|| {
                for tasks in TASKS {
                    let with_fault = move || {
                        INJECTED.set(Some(fault));
                        run(tasks);
                    };
                    shuttle::check_random(with_fault, 2000);
                }
            }));
            INJECTED.set(None);
            found.is_ok()
        })
        .collect();
    let _ = std::panic::take_hook();
    assert_eq!(missed, [], "the model does not find them");
}
