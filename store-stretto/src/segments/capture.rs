//! Catches the rows that leave the store while a caller inserts or removes.

use std::{any::Any, cell::RefCell, mem::take, sync::Arc};

use cache_core::Displaced;

use super::row::Row;

/// Catches the rows that leave the store on this thread while the slot is open: the rows that an
/// insertion or a removal displaces. The caller drops them after the fence's lock, without the
/// reaper.
///
/// The weight of these rows stays charged. An insertion exchanges it for the weight of its own row,
/// so a writer that has made room cannot lose the room to another writer.
pub(crate) struct CaptureSlot(());

type AnyRow = Arc<dyn Any + Send + Sync>;

#[derive(Default)]
struct Captured {
    first: Option<AnyRow>,
    more: Vec<AnyRow>,
    /// The weight that is still charged for these rows.
    credit: u64,
}

thread_local! {
    /// `None` unless a slot is open. A thread that is ending has no slot, hence `try_with`.
    static SLOT: RefCell<Option<Captured>> = const { RefCell::new(None) };
}

#[allow(clippy::unused_self, reason = "only the caller that opened the slot may look into it")]
impl CaptureSlot {
    /// Opens the slot of this thread.
    pub(crate) fn open() -> Self {
        let _ = SLOT.try_with(|slot| slot.replace(Some(Captured::default())));
        Self(())
    }

    /// Closes the slot and returns the captured rows and `new`. The rows are of one store, because
    /// no other store is called while the slot is open.
    pub(crate) fn close<V: Send + Sync + 'static>(self, new: Option<Arc<Row<V>>>) -> Displaced {
        let captured = SLOT.try_with(RefCell::take).ok().flatten();
        let captured = captured.into_iter().flat_map(|captured| captured.first.into_iter().chain(captured.more));
        captured.chain(new.map(|row| row as AnyRow)).collect()
    }

    /// Returns the number of captured rows.
    pub(super) fn len(&self) -> usize {
        let count = |captured: &Captured| usize::from(captured.first.is_some()) + captured.more.len();
        SLOT.try_with(|slot| slot.borrow().as_ref().map_or(0, count)).unwrap_or(0)
    }

    /// Returns the weight that is still charged for the captured rows.
    pub(super) fn credit(&self) -> u64 {
        SLOT.try_with(|slot| slot.borrow().as_ref().map_or(0, |captured| captured.credit)).unwrap_or(0)
    }

    /// Takes the credit out of the slot. The caller must release it or have exchanged it.
    pub(super) fn take_credit(&self) -> u64 {
        let credit = |captured: &mut Captured| take(&mut captured.credit);
        SLOT.try_with(|slot| slot.borrow_mut().as_mut().map_or(0, credit)).unwrap_or(0)
    }
}

/// Puts the row and the weight that is charged for it into the open slot. Returns the row if no
/// slot is open.
pub(super) fn capture<V: Send + Sync + 'static>(row: Arc<Row<V>>, charged: u64) -> Option<Arc<Row<V>>> {
    let mut row = Some(row);
    let _ = SLOT.try_with(|slot| {
        if let Some(Captured { first, more, credit }) = &mut *slot.borrow_mut()
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
