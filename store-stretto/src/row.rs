//! What stretto keeps: rows, and their weight.

use std::{
    any::Any,
    cell::RefCell,
    mem::{needs_drop, take},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use cache_core::{Displaced, Entry, Key, backend::Fingerprint};

use crate::ledger::{Charge, Ledger};

/// A key and its entry. Stretto keeps no keys, so the row does.
///
/// A row may be dropped by a writer of another key. So a panic in the `Drop` of its value ends here; the panic hook has
/// reported it.
pub(crate) struct Row<V> {
    pub(crate) key: Key,
    /// Only `drop` takes it.
    entry: Option<Entry<V>>,
    read: AtomicBool,
}

impl<V> Row<V> {
    pub(crate) fn new(key: Key, entry: Entry<V>) -> Self {
        Self { key, entry: Some(entry), read: AtomicBool::new(false) }
    }

    pub(crate) fn entry(&self) -> &Entry<V> {
        self.entry.as_ref().expect("only `drop` takes the entry")
    }

    /// Notes that the row was read.
    pub(crate) fn note_read(&self) {
        if !self.was_read() {
            self.read.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn was_read(&self) -> bool {
        self.read.load(Ordering::Relaxed)
    }

    /// Whether the row was read since the last call.
    pub(crate) fn forget_read(&self) -> bool {
        self.was_read() && self.read.swap(false, Ordering::Relaxed)
    }
}

impl<V> Drop for Row<V> {
    fn drop(&mut self) {
        let entry = self.entry.take();
        if needs_drop::<V>() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(entry)));
        }
    }
}

/// The value that stretto holds: a row, or none if it was taken out and stretto's entry could not be removed yet.
///
/// Its weight is charged to the ledger until the row is dropped or a caller of the store has it. Stretto drops a `Held` on whatever thread a row happens to
/// leave, now and then under its own lock. So this `Drop` runs no code of the application: it hands the row to the caller's
/// [`Tray`] if one is held out, or else to the reaper.
pub(crate) struct Held<V: Send + Sync + 'static> {
    row: Option<Arc<Row<V>>>,
    pub(crate) weight: u64,
    slot: u32,
    ledger: Arc<Ledger<V>>,
}

impl<V: Send + Sync + 'static> Held<V> {
    /// A new row, whose weight has been charged to the ledger.
    pub(crate) fn new(row: Arc<Row<V>>, weight: u64, ledger: &Arc<Ledger<V>>) -> Self {
        let slot = ledger.enter(&row, weight);
        Self { row: Some(row), weight, slot, ledger: Arc::clone(ledger) }
    }

    pub(crate) fn get(&self) -> Option<&Arc<Row<V>>> {
        self.row.as_ref()
    }

    /// Puts a row of the same weight in place of this one, which goes to the tray.
    pub(crate) fn replace(&mut self, row: &Arc<Row<V>>) {
        let old = self.row.replace(Arc::clone(row));
        self.ledger.replace(self.slot, row, old.is_none());
        self.displace(old);
    }

    /// Takes the row out; it goes to the tray.
    pub(crate) fn hollow(&mut self, fingerprint: Fingerprint) {
        if let Some(row) = self.row.take() {
            self.ledger.hollow(self.slot, fingerprint);
            self.displace(Some(row));
        }
    }

    fn displace(&self, row: Option<Arc<Row<V>>>) {
        // The entry remains and so does what is charged for it.
        if let Some(row) = row.and_then(|row| Tray::offer(row, 0)) {
            self.ledger.reaper().bury(row);
        }
    }
}

impl<V: Send + Sync + 'static> Drop for Held<V> {
    fn drop(&mut self) {
        let row = self.row.take();
        self.ledger.leave(self.slot, self.weight, row.is_some());
        let Some(row) = row else { return self.ledger.release(self.weight) };
        let Some(row) = Tray::offer(row, self.weight) else { return };
        let charge = Charge { ledger: Arc::clone(&self.ledger), weight: self.weight };
        // Whoever else holds the row drops it later, where that does no harm.
        if let Some(row) = Arc::into_inner(row)
            && needs_drop::<V>()
        {
            // The weight stays charged until the row is dropped, so what awaits its drop is bounded as well.
            self.ledger.reaper().bury((row, charge));
        }
    }
}

/// Catches the rows that leave the store on this thread while the tray is held out: those that an insertion or a removal
/// pushes out, which its caller then drops after the fence's lock and without the detour by the reaper.
///
/// What those rows weigh is still charged. The insertion exchanges it for the weight of its own row, so that a writer
/// that has made room cannot lose it to another writer.
pub(crate) struct Tray(());

type AnyRow = Arc<dyn Any + Send + Sync>;

#[derive(Default)]
struct Caught {
    first: Option<AnyRow>,
    more: Vec<AnyRow>,
    /// What is still charged for these rows.
    credit: u64,
}

thread_local! {
    /// `None` unless a tray is held out. A thread that is ending has none, hence `try_with`.
    static TRAY: RefCell<Option<Caught>> = const { RefCell::new(None) };
}

impl Tray {
    pub(crate) fn hold_out() -> Self {
        let _ = TRAY.try_with(|tray| tray.replace(Some(Caught::default())));
        Self(())
    }

    /// The rows on the tray and `new`. They are of one store, as no other one is called while the tray is held out.
    #[allow(clippy::unused_self, reason = "only who held the tray out takes what is on it")]
    pub(crate) fn take<V: Send + Sync + 'static>(self, new: Option<Arc<Row<V>>>) -> Displaced {
        let caught = TRAY.try_with(RefCell::take).ok().flatten();
        let caught = caught.into_iter().flat_map(|caught| caught.first.into_iter().chain(caught.more));
        caught.chain(new.map(|row| row as AnyRow)).collect()
    }

    /// How many rows are on the tray.
    #[allow(clippy::unused_self, reason = "only who held the tray out looks at what is on it")]
    pub(crate) fn len(&self) -> usize {
        let count = |caught: &Caught| usize::from(caught.first.is_some()) + caught.more.len();
        TRAY.try_with(|tray| tray.borrow().as_ref().map_or(0, count)).unwrap_or(0)
    }

    /// What is still charged for the rows on the tray.
    #[allow(clippy::unused_self, reason = "only who held the tray out looks at what is on it")]
    pub(crate) fn credit(&self) -> u64 {
        TRAY.try_with(|tray| tray.borrow().as_ref().map_or(0, |caught| caught.credit)).unwrap_or(0)
    }

    /// Returns the credit, which is no longer on the tray then. The caller must release it or have exchanged it.
    #[allow(clippy::unused_self, reason = "only who held the tray out takes what is on it")]
    pub(crate) fn take_credit(&self) -> u64 {
        let credit = |caught: &mut Caught| take(&mut caught.credit);
        TRAY.try_with(|tray| tray.borrow_mut().as_mut().map_or(0, credit)).unwrap_or(0)
    }

    /// Puts the row and what is charged for it on the tray, or returns the row.
    fn offer<V: Send + Sync + 'static>(row: Arc<Row<V>>, charged: u64) -> Option<Arc<Row<V>>> {
        let mut row = Some(row);
        let _ = TRAY.try_with(|tray| {
            if let Some(Caught { first, more, credit }) = &mut *tray.borrow_mut()
                && let Some(row) = row.take()
            {
                *credit += charged;
                if first.is_none() {
                    *first = Some(row);
                } else {
                    more.push(row);
                }
            }
        });
        row
    }
}
