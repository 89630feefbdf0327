//! What stretto keeps: rows, and their weight.

use std::{
    any::Any,
    cell::RefCell,
    mem::needs_drop,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cache_core::{Entry, Key};

use crate::reaper::Reaper;

/// A key and its entry. Stretto keeps no keys, so the row does.
pub(crate) struct Row<V> {
    pub(crate) key: Key,
    pub(crate) entry: Entry<V>,
}

/// How much stretto holds, whether it has been admitted yet or not, and where it goes when it leaves.
pub(crate) struct Holdings {
    weight: AtomicU64,
    rows: AtomicU64,
    reaper: Reaper,
}

impl Holdings {
    pub(crate) fn new(reaper: Reaper) -> Self {
        Self { weight: AtomicU64::new(0), rows: AtomicU64::new(0), reaper }
    }

    pub(crate) fn weight(&self) -> u64 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub(crate) fn reaper(&self) -> &Reaper {
        &self.reaper
    }
}

/// The value that stretto holds: a row, or a tombstone where one was removed.
///
/// Stretto drops it on whatever thread a row happens to leave, now and then under its own lock. So this `Drop` runs no
/// code of the application: it puts the row on the caller's [`Tray`] if one is held out, else hands it to the [`Reaper`].
pub(crate) struct Held<V: Send + Sync + 'static> {
    row: Option<Arc<Row<V>>>,
    weight: u64,
    holdings: Arc<Holdings>,
}

impl<V: Send + Sync + 'static> Held<V> {
    pub(crate) fn row(row: Arc<Row<V>>, weight: u64, holdings: &Arc<Holdings>) -> Self {
        holdings.rows.fetch_add(1, Ordering::Relaxed);
        Self::new(Some(row), weight, holdings)
    }

    pub(crate) fn tombstone(holdings: &Arc<Holdings>) -> Self {
        Self::new(None, 1, holdings)
    }

    fn new(row: Option<Arc<Row<V>>>, weight: u64, holdings: &Arc<Holdings>) -> Self {
        holdings.weight.fetch_add(weight, Ordering::Relaxed);
        Self { row, weight, holdings: Arc::clone(holdings) }
    }

    pub(crate) fn get(&self) -> Option<&Arc<Row<V>>> {
        self.row.as_ref()
    }
}

impl<V: Send + Sync + 'static> Drop for Held<V> {
    fn drop(&mut self) {
        self.holdings.weight.fetch_sub(self.weight, Ordering::Relaxed);
        let Some(row) = self.row.take() else { return };
        self.holdings.rows.fetch_sub(1, Ordering::Relaxed);
        let Some(row) = Tray::offer(row, self.weight) else { return };
        // Whoever else holds the row drops it later, where that does no harm.
        if let Some(row) = Arc::into_inner(row)
            && needs_drop::<V>()
        {
            self.holdings.reaper.bury(row);
        }
    }
}

/// Catches the first row that leaves the store on this thread while the tray is held out: the one that an insertion or a
/// removal replaces, which its caller then drops after the fence's lock and without the detour by the reaper.
pub(crate) struct Tray(());

/// A row and its weight.
type Caught = Option<(Arc<dyn Any + Send + Sync>, u64)>;

thread_local! {
    /// `None` unless a tray is held out. A thread that is ending has none, hence `try_with`.
    static TRAY: RefCell<Option<Caught>> = const { RefCell::new(None) };
}

impl Tray {
    pub(crate) fn hold_out() -> Self {
        let _ = TRAY.try_with(|tray| tray.replace(Some(None)));
        Self(())
    }

    /// The row on the tray. It is of this store, as no other one is called while the tray is held out.
    #[allow(clippy::unused_self, reason = "only who held the tray out takes what is on it")]
    pub(crate) fn take<V: Send + Sync + 'static>(self) -> Option<Arc<Row<V>>> {
        TRAY.try_with(RefCell::take).ok()??.and_then(|(row, _)| row.downcast().ok())
    }

    /// What the row on the tray weighed.
    #[allow(clippy::unused_self, reason = "only who held the tray out looks at what is on it")]
    pub(crate) fn weight(&self) -> u64 {
        TRAY.try_with(|tray| tray.borrow().as_ref()?.as_ref().map(|(_, weight)| *weight)).ok().flatten().unwrap_or(0)
    }

    /// Puts the row on the tray, or gives it back.
    fn offer<V: Send + Sync + 'static>(row: Arc<Row<V>>, weight: u64) -> Option<Arc<Row<V>>> {
        let mut row = Some(row);
        let _ = TRAY.try_with(|tray| {
            if let Some(tray @ None) = &mut *tray.borrow_mut() {
                *tray = row.take().map(|row| (row as _, weight));
            }
        });
        row
    }
}
