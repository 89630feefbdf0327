//! Detached writes: those that go on after their callers have left, in one queue per key.
//!
//! A caller leaves a write when its future is dropped or its timeout passes. A later write of the
//! same key must wait for the detached one, or the older value could overwrite the newer. Each key
//! has a queue of detached writes. A write waits only for the last one in the queue, and a detached
//! write leaves the queue only after its predecessors, so the cost of a write does not grow with
//! the length of the queue.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use cache_core::{Error, ErrorKind, Key, Result};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::util::{
    key_map::KeyMap,
    pending::{Pending, PendingGuard},
    sync::lock,
};

/// The largest number of detached writes of one key; further writes of the key are refused. A tier
/// that answers completes as many in well under a second.
const MAX_PER_KEY: usize = 128;

/// The largest number of detached writes of all keys; further writes are refused. Each holds its
/// keys and values in memory.
const MAX_TOTAL: usize = 16_384;

/// The largest number of bytes of the keys and values of all detached writes; further writes are
/// refused.
const MAX_BYTES: usize = 64 << 20;

/// The time for which a write waits for its predecessors: longer than the default timeouts of
/// several tiers together.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(30);

/// The time for which later writes wait for a detached `clear`. A `clear` can take minutes, and a
/// write before its end loses its value at worst.
const CLEAR_GRACE: Duration = Duration::from_secs(1);

/// The detached writes of a chain.
#[derive(Debug, Default)]
pub(super) struct DetachedWrites {
    state: Mutex<State>,
    pending: Arc<Pending>,
}

#[derive(Debug, Default)]
struct State {
    queues: KeyMap<Queue>,
    /// The bytes of their keys and values.
    bytes: usize,
    /// The latest detached `clear`, and until when it is waited for.
    clear: Option<(Done, Instant)>,
}

/// The detached writes that a write must wait for before it begins.
#[derive(Debug, Default)]
pub(super) struct Predecessors {
    writes: Vec<Done>,
    clear: Option<(Done, Instant)>,
}

impl Predecessors {
    /// Returns `true` if there is nothing to wait for.
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.clear.is_none()
    }
}

/// The detached writes of one key.
#[derive(Debug)]
struct Queue {
    last: Done,
    writes: usize,
    /// `true` if a later write was refused, so that the values of the queue are outdated.
    refused_later: bool,
}

/// Completes when a detached write and all of its predecessors have ended.
#[derive(Clone, Debug)]
pub(super) struct Done(watch::Receiver<()>);

impl Done {
    async fn wait(mut self) {
        // Nothing is ever sent; the channel closes when the write ends.
        while self.0.changed().await.is_ok() {}
    }

    fn is_over(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

impl DetachedWrites {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns the detached writes that a write of these keys must wait for.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Unavailable` if too many detached writes are going on.
    pub(super) fn predecessors(&self, keys: &[Key]) -> Result<Predecessors> {
        let mut state = self.state();
        if state.clear.as_ref().is_some_and(|(done, until)| done.is_over() || *until <= Instant::now()) {
            state.clear = None;
        }
        let clear = state.clear.clone();
        let count = self.pending.count();
        if count == 0 {
            return Ok(Predecessors { writes: Vec::new(), clear });
        }
        if count >= MAX_TOTAL {
            return Err(refused(&format!("{MAX_TOTAL} earlier writes")));
        }
        if state.bytes >= MAX_BYTES {
            return Err(refused(&format!("earlier writes of {} MiB", MAX_BYTES >> 20)));
        }
        if keys.iter().any(|key| state.queues.get(key).is_some_and(|queue| queue.writes >= MAX_PER_KEY)) {
            state.refuse(keys);
            return Err(refused(&format!("{MAX_PER_KEY} earlier writes of one key")));
        }
        let writes = keys.iter().filter_map(|key| state.queues.get(key)).map(|queue| queue.last.clone()).collect();
        Ok(Predecessors { writes, clear })
    }

    /// Waits for the predecessors of a write of these keys.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Timeout` if they have not ended within [`MAX_WAIT`].
    pub(super) async fn wait_for(&self, keys: &[Key], predecessors: Predecessors) -> Result<()> {
        let Predecessors { writes, clear } = predecessors;
        if let Some((done, until)) = clear {
            let _ = timeout_at(until, done.wait()).await;
        }
        let until = Instant::now() + MAX_WAIT;
        for done in writes {
            if timeout_at(until, done.wait()).await.is_err() {
                self.state().refuse(keys);
                let message = format!(
                    "earlier writes of the key, whose callers have left, did not end within {MAX_WAIT:?}; nothing was \
                     written, write again when the tier answers"
                );
                return Err(Error::new(ErrorKind::Timeout, message));
            }
        }
        Ok(())
    }

    /// Waits for all writes that are detached now.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Timeout` if they have not ended within [`MAX_WAIT`].
    pub(super) async fn wait_for_all(&self) -> Result<()> {
        if timeout_at(Instant::now() + MAX_WAIT, self.pending.wait()).await.is_ok() {
            return Ok(());
        }
        let message = format!("writes whose callers have left did not end within {MAX_WAIT:?}; wait again");
        Err(Error::new(ErrorKind::Timeout, message))
    }

    /// Registers a `clear` whose caller has left. Neither [`wait_for_all`](Self::wait_for_all) nor
    /// another `clear` waits for it.
    pub(super) fn enter_clear(self: &Arc<Self>) -> Detached {
        let (ended, done) = watch::channel(());
        self.state().clear = Some((Done(done), Instant::now() + CLEAR_GRACE));
        let (keys, predecessors) = (Arc::default(), Vec::new());
        Detached { writes: Arc::clone(self), pending: None, keys, bytes: 0, predecessors, _ended: ended }
    }

    /// Appends a write of these keys to their queues. `bytes` is the memory of its keys and values.
    pub(super) fn enter(self: &Arc<Self>, keys: Arc<[Key]>, bytes: usize) -> Detached {
        let (ended, done) = watch::channel(());
        // A weigher may return the largest number.
        let bytes = bytes.min(MAX_BYTES);
        let mut state = self.state();
        let pending = Some(self.pending.begin());
        state.bytes += bytes;
        let mut predecessors = Vec::new();
        for key in &*keys {
            let queue = state.queues.entry(key.clone()).or_insert_with(|| Queue {
                last: Done(done.clone()),
                writes: 0,
                refused_later: false,
            });
            if queue.writes > 0 {
                predecessors.push(std::mem::replace(&mut queue.last, Done(done.clone())));
            }
            queue.writes += 1;
        }
        drop(state);
        Detached { writes: Arc::clone(self), pending, keys, bytes, predecessors, _ended: ended }
    }
}

impl State {
    fn refuse(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(queue) = self.queues.get_mut(key) {
                queue.refused_later = true;
            }
        }
    }

    fn leave(&mut self, keys: &[Key], bytes: usize) {
        self.bytes -= bytes;
        for key in keys {
            if let Some(queue) = self.queues.get_mut(key) {
                queue.writes -= 1;
                if queue.writes == 0 {
                    self.queues.remove(key);
                }
            }
        }
    }
}

fn refused(writes: &str) -> Error {
    let message = format!(
        "{writes} are still going on after their callers have left; nothing was written, write again when the tier answers"
    );
    Error::new(ErrorKind::Unavailable, message)
}

/// A detached write. It leaves the queues of its keys when dropped.
#[derive(Debug)]
pub(super) struct Detached {
    writes: Arc<DetachedWrites>,
    /// Its place among the pending writes; `None` for a `clear`.
    pending: Option<PendingGuard>,
    keys: Arc<[Key]>,
    bytes: usize,
    predecessors: Vec<Done>,
    /// Closes the channel of [`Done`].
    _ended: watch::Sender<()>,
}

impl Detached {
    /// Waits for the predecessors; to be called when the write itself has ended. Returns the keys
    /// that are to be deleted before this leaves the queue: the last write of their queue was
    /// refused, so no value of the queue is current.
    pub(super) async fn outdated_keys(&mut self) -> Vec<Key> {
        for done in self.predecessors.drain(..) {
            done.wait().await;
        }
        let state = self.writes.state();
        let is_outdated =
            |key: &&Key| state.queues.get(key).is_some_and(|queue| queue.refused_later && queue.writes == 1);
        self.keys.iter().filter(is_outdated).cloned().collect()
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.writes.state().leave(&self.keys, self.bytes);
            drop(pending);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn keys(names: &[&str]) -> Arc<[Key]> {
        names.iter().map(|name| Key::new(name).unwrap()).collect()
    }

    async fn is_pending(future: impl Future) -> bool {
        let mut future = pin!(future);
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_waits_for_the_last_of_its_queue_which_waits_for_the_others() {
        let writes = Arc::new(DetachedWrites::default());
        let (k, both) = (keys(&["k"]), keys(&["k", "l"]));
        let first = writes.enter(Arc::clone(&k), 1);
        let mut second = writes.enter(Arc::clone(&both), 1);
        let waits = async |keys: &[Key]| is_pending(writes.wait_for(keys, writes.predecessors(keys).unwrap())).await;
        assert_eq!(writes.predecessors(&k).unwrap().writes.len(), 1, "the last only");
        assert!(waits(&k).await && waits(&both).await && !waits(&keys(&["m"])).await);
        assert!(is_pending(second.outdated_keys()).await, "its predecessor has not ended");
        drop(first);
        assert_eq!(second.outdated_keys().await, []);
        assert!(waits(&k).await && waits(&keys(&["l"])).await);
        drop(second);
        assert!(!waits(&both).await);
        assert!(writes.state().queues.is_empty() && writes.pending.count() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_detached_later_is_not_waited_for() {
        let writes = Arc::new(DetachedWrites::default());
        let first = writes.enter(keys(&["k"]), 1);
        let second = writes.enter(keys(&["l"]), 1);
        let mut all = pin!(writes.wait_for_all());
        assert!(is_pending(all.as_mut()).await);
        let third = writes.enter(keys(&["k"]), 1);
        drop(second);
        assert!(is_pending(all.as_mut()).await);
        drop(first);
        all.await.unwrap();
        let error = writes.wait_for_all().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "the paused clock advances when everything waits");
        drop(third);
        writes.wait_for_all().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_and_deletes_what_it_leaves_behind() {
        let writes = Arc::new(DetachedWrites::default());
        let k = keys(&["k"]);
        let mut queue: Vec<Detached> = (0..MAX_PER_KEY).map(|_| writes.enter(Arc::clone(&k), 1)).collect();
        assert_eq!(writes.predecessors(&k).unwrap_err().kind(), ErrorKind::Unavailable);
        writes.predecessors(&keys(&["l"])).unwrap();
        let mut last = queue.pop().unwrap();
        for mut write in queue {
            assert_eq!(write.outdated_keys().await, []);
        }
        assert_eq!(last.outdated_keys().await, &*k);
        drop(last);
        writes.predecessors(&k).unwrap();
        assert_eq!(writes.enter(Arc::clone(&k), 1).outdated_keys().await, [], "a new queue begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_waited_in_vain_leaves_nothing_current_behind() {
        let writes = Arc::new(DetachedWrites::default());
        let k = keys(&["k"]);
        let mut first = writes.enter(Arc::clone(&k), 1);
        let waited = writes.wait_for(&k, writes.predecessors(&k).unwrap()).await;
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(first.outdated_keys().await, &*k);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clear_is_waited_for_until_its_grace_is_over() {
        let writes = Arc::new(DetachedWrites::default());
        let k = keys(&["k"]);
        let wait = async || writes.wait_for(&k, writes.predecessors(&k).unwrap()).await.unwrap();
        let clear = writes.enter_clear();
        assert!(is_pending(wait()).await);
        writes.wait_for_all().await.unwrap();
        let started = Instant::now();
        wait().await;
        assert_eq!(started.elapsed(), CLEAR_GRACE);
        assert!(!is_pending(wait()).await, "later writes do not wait");
        drop(clear);
        drop(writes.enter_clear());
        assert!(!is_pending(wait()).await, "it has ended");
    }

    #[test]
    fn the_bytes_of_all_queues_are_bounded() {
        let writes = Arc::new(DetachedWrites::default());
        let (one, other) = (writes.enter(keys(&["a"]), MAX_BYTES - 1), writes.enter(keys(&["b"]), 1));
        assert_eq!(writes.predecessors(&keys(&["k"])).unwrap_err().kind(), ErrorKind::Unavailable);
        drop(one);
        assert_eq!(writes.predecessors(&keys(&["k"])).unwrap().writes.len(), 0);
        drop(other);
        assert_eq!(writes.state().bytes, 0);
        let largest = writes.enter(keys(&["a"]), usize::MAX);
        drop((writes.enter(keys(&["b"]), 1), largest));
        assert_eq!(writes.state().bytes, 0);
    }

    #[test]
    fn all_queues_together_are_bounded() {
        let writes = Arc::new(DetachedWrites::default());
        let all: Vec<Detached> = (0..MAX_TOTAL).map(|n| writes.enter(keys(&[&n.to_string()]), 1)).collect();
        assert_eq!(writes.predecessors(&keys(&["k"])).unwrap_err().kind(), ErrorKind::Unavailable);
        drop(all);
        assert_eq!(writes.predecessors(&keys(&["k"])).unwrap().writes.len(), 0);
    }
}
