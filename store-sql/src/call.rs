//! One call: its transaction, its deadline, and when it is tried again.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use cache_core::{Result, backend::write_id};

use crate::{
    database::Database,
    error::{self, Fault},
    key_locks::KeyLocks,
    pool::Session,
    runtime,
};

/// How a piece of work is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// It reads.
    Read,
    /// It is one statement that writes, and harmless if it takes effect late: after the caller has gone.
    Single,
    /// It is a transaction.
    ///
    /// Be it of one statement, it is one for a reason: a caller who goes away before COMMIT leaves nothing that takes effect
    /// later, and one who goes away after it leaves locks that later writes of the same keys wait for. So no write
    /// overtakes a later one.
    Transaction,
}

/// What a call does with its connection. It may be run several times.
pub(crate) trait Work: Sync {
    type Output: Send;

    fn mode(&self) -> Mode;

    /// What it may insert and remove, if it is a transaction.
    fn locks(&self) -> KeyLocks {
        KeyLocks::default()
    }

    fn run(&self, session: &mut Session) -> impl Future<Output = sqlx::Result<Self::Output>> + Send;
}

/// How often a transaction that stood in the way of another is run again.
const CONFLICTS: u32 = 10;

/// Why an attempt failed, and whether another could do harm.
struct Failed {
    error: sqlx::Error,
    /// Whether a lost connection is no reason to try again: the work may be done, or no connection came about at all.
    lost_for_good: bool,
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self { error, lost_for_good: false }
    }
}

impl Database {
    /// Does the work before the deadline.
    pub(crate) async fn run<W: Work>(&self, deadline: Duration, work: &W) -> Result<W::Output> {
        runtime::check()?;
        let waiting = AtomicBool::new(true);
        // Boxed, so that the type of an application's future does not hold that of a driver's.
        let attempts: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(self.attempts(work, deadline, &waiting));
        match tokio::time::timeout(deadline, attempts).await {
            Ok(result) => result.map_err(|error| error::failed(self.dialect, self.file.as_deref(), &error)),
            Err(_) => Err(error::late(self.dialect, deadline, waiting.into_inner())),
        }
    }

    async fn attempts<W: Work>(&self, work: &W, deadline: Duration, waiting: &AtomicBool) -> sqlx::Result<W::Output> {
        let (mut conflicts, mut losses) = (0, 0);
        loop {
            let Failed { error, lost_for_good } = match self.attempt(work, deadline, waiting).await {
                Ok(output) => return Ok(output),
                Err(failed) => failed,
            };
            match Fault::of(self.dialect, &error) {
                // It was rolled back, at COMMIT as well.
                Fault::Conflict if conflicts < CONFLICTS => {
                    conflicts += 1;
                    // Of two that met, one goes first next time.
                    let most = 1 << conflicts.min(6);
                    tokio::time::sleep(Duration::from_micros(500 * (1 + write_id::next() % most))).await;
                }
                // The database may have been restarted; every connection of the pool can be such a one.
                Fault::Lost if !lost_for_good && losses <= self.pool.max_connections() => losses += 1,
                _ => return Err(error),
            }
        }
    }

    async fn attempt<W: Work>(&self, work: &W, deadline: Duration, waiting: &AtomicBool) -> Result<W::Output, Failed> {
        waiting.store(true, Ordering::Relaxed);
        let _writing = if work.mode() == Mode::Read { None } else { self.writing().await };
        let mut session = self.session().await.map_err(|error| Failed { error, lost_for_good: true })?;
        waiting.store(false, Ordering::Relaxed);
        if work.mode() != Mode::Transaction {
            let done = work.run(&mut session).await;
            return self.settle(session, done).map_err(Failed::from);
        }
        let begun = session.run(&self.dialect.begin(&|| work.locks(), deadline)).await;
        let done = match begun {
            Ok(()) => work.run(&mut session).await,
            Err(error) => Err(error),
        };
        let output = match done {
            Ok(output) => output,
            Err(error) => {
                let rolled_back = !self.is_lost(&error) && session.run("ROLLBACK").await.is_ok();
                if rolled_back {
                    self.answered();
                    session.release();
                }
                return Err(error.into());
            }
        };
        match session.run("COMMIT").await {
            Ok(()) => self.settle(session, Ok(output)).map_err(Failed::from),
            Err(error) => {
                let lost_for_good = self.is_lost(&error);
                if !lost_for_good && session.run("ROLLBACK").await.is_ok() {
                    session.release();
                }
                Err(Failed { error, lost_for_good })
            }
        }
    }

    /// Gives the connection back, unless it is broken.
    fn settle<T>(&self, session: Session, done: sqlx::Result<T>) -> sqlx::Result<T> {
        if !done.as_ref().is_err_and(|error| self.is_lost(error)) {
            self.answered();
            session.release();
        }
        done
    }

    fn is_lost(&self, error: &sqlx::Error) -> bool {
        Fault::of(self.dialect, error) == Fault::Lost
    }
}
