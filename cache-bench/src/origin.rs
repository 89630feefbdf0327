//! What is cached: a database of one row, loads of it, and what holds a load half-way.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cache_core::testkit::Gate;

/// The value at first.
pub(crate) const OLD: &str = "old";
/// The value that replaces it.
pub(crate) const NEW: &str = "new";
/// What a load finds once the row is deleted: a value as well, since not every peer can load
/// "nothing".
pub(crate) const GONE: &str = "gone";

/// The row that everything here is about. A clone is the same row.
#[derive(Clone)]
pub(crate) struct Database(Arc<Mutex<&'static str>>);

impl Database {
    pub(crate) fn with(value: &'static str) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    pub(crate) fn read(&self) -> &'static str {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self, value: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

/// How a load ends.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Value,
    Error,
    Panic,
}

/// The loader that a cache is given for one get.
pub(crate) struct Load(pub(crate) Database, pub(crate) Stop, pub(crate) End);

impl Load {
    /// Reads the row, may be held, and ends.
    pub(crate) async fn run(self) -> io::Result<String> {
        let Self(database, stop, end) = self;
        let value = database.read();
        stop.pass().await;
        match end {
            End::Value => Ok(value.to_owned()),
            End::Error => Err(io::Error::other("the origin fails")),
            End::Panic => panic!("the origin panics"),
        }
    }
}

/// A place where, once armed, the next who comes is held until released. A clone is the same place.
#[derive(Clone, Default)]
pub(crate) struct Stop {
    armed: Arc<AtomicBool>,
    reached: Gate,
    released: Gate,
}

impl Stop {
    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    pub(crate) async fn pass(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.reached.open();
            self.released.passed().await;
        }
    }

    /// Returns once somebody is held.
    pub(crate) async fn reached(&self) {
        self.reached.passed().await;
    }

    pub(crate) fn release(&self) {
        self.released.open();
    }
}
