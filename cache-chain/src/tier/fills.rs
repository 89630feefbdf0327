//! The fills of loaded entries that are under way in a tier.
//!
//! A load ends before its entry has been filled into the tiers that are not in this process. A call
//! that asks such a tier for the key meanwhile waits for the fill; otherwise it would not find what
//! the load has returned.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_core::Key;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::util::{deadline::after, key_map::KeyMap, sync::lock};

/// The fills that are under way, by their keys.
#[derive(Default)]
pub(crate) struct Fills {
    under_way: Mutex<KeyMap<UnderWay>>,
    /// The number of keys. Most calls find none, and take no lock.
    keys: AtomicUsize,
}

#[derive(Default)]
struct UnderWay {
    fills: usize,
    /// Dropped when the last of the fills has ended.
    waiters: Vec<oneshot::Sender<()>>,
}

/// A fill that is under way, until this is dropped.
pub(crate) struct Filling {
    fills: Arc<Fills>,
    key: Key,
}

impl Fills {
    /// Begins a fill of the key.
    pub(crate) fn begin(self: &Arc<Self>, key: &Key) -> Filling {
        let mut under_way = lock(&self.under_way);
        under_way.entry(key.clone()).or_default().fills += 1;
        self.keys.store(under_way.len(), SeqCst);
        drop(under_way);
        Filling { fills: Arc::clone(self), key: key.clone() }
    }

    /// Waits for the fills of these keys that have begun, at most for half of `limit`. Returns the
    /// rest of the time.
    pub(super) async fn ended(&self, keys: &[Key], limit: Duration) -> Duration {
        if self.keys.load(SeqCst) == 0 {
            return limit;
        }
        let until = after(limit / 2);
        let begun = Instant::now();
        for key in keys {
            let ended = lock(&self.under_way).get_mut(key).map(|under_way| {
                let (waiter, ended) = oneshot::channel();
                under_way.waiters.push(waiter);
                ended
            });
            if let Some(ended) = ended
                && timeout_at(until, ended).await.is_err()
            {
                break;
            }
        }
        limit.saturating_sub(begun.elapsed())
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let mut under_way = lock(&self.fills.under_way);
        let Some(of_key) = under_way.get_mut(&self.key) else { return };
        of_key.fills -= 1;
        let ended = if of_key.fills == 0 { under_way.remove(&self.key) } else { None };
        self.fills.keys.store(under_way.len(), SeqCst);
        drop(under_way);
        // Wakes the waiters outside of the lock.
        drop(ended);
    }
}
