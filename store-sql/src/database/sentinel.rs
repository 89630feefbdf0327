//! Tasks that tell whether the runtimes of a pool's connections have ended.
//!
//! The socket of a connection belongs to the runtime that opened it, and the pool outlives that
//! runtime. Once the runtime has ended, a statement on the connection fails, but not always the
//! first one: Tokio remembers that the socket was readable, so a response that arrives early enough
//! is still read, and only a read that must wait fails. If `BEGIN` succeeds and `COMMIT` fails, the
//! outcome of the transaction is unknown, and the call cannot be retried. Therefore the connections
//! are closed before a call uses one.

use std::{
    future::pending,
    sync::{Arc, Mutex},
};

use cache_core::backend::lock;
use tokio::task::JoinHandle;

use super::pool::Pool;

/// The sentinels of a pool's connections. A sentinel is a task that ends only with its runtime.
///
/// Each new connection adds one, because Tokio does not tell whether two handles are of the same
/// runtime.
#[derive(Clone, Default)]
pub(super) struct Sentinels(Arc<Mutex<Tasks>>);

#[derive(Default)]
struct Tasks {
    epoch: u64,
    sentinels: Vec<JoinHandle<()>>,
}

/// The largest number of sentinels for each connection that the pool may have. Above it, all are
/// removed: a sentinel does not end with its connection.
const MAX_PER_CONNECTION: usize = 8;

impl Sentinels {
    /// Adds a sentinel for a connection that the current runtime has opened.
    pub(super) fn add(&self) {
        lock(&self.0).sentinels.push(tokio::spawn(pending()));
    }

    /// Returns the epoch of the pool. A connection that was acquired in an earlier epoch must be
    /// closed.
    ///
    /// If the runtime of a connection has ended, this closes all idle connections and starts a new
    /// epoch. It also does so when there are too many sentinels.
    pub(super) fn epoch(&self, pool: &Pool) -> u64 {
        let mut tasks = lock(&self.0);
        let most = MAX_PER_CONNECTION.saturating_mul(pool.max_connections() as usize);
        if tasks.sentinels.len() > most || tasks.sentinels.iter().any(JoinHandle::is_finished) {
            // Under the lock, so that no other call acquires one of them in the new epoch.
            pool.close_idle();
            tasks.remove_all();
            tasks.epoch += 1;
        }
        tasks.epoch
    }
}

impl Tasks {
    fn remove_all(&mut self) {
        self.sentinels.drain(..).for_each(|sentinel| sentinel.abort());
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.remove_all();
    }
}
