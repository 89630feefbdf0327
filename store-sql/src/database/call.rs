//! One call: its transaction, its timeout and its retries.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use cache_core::{Result, backend::write_id};

use super::{
    Database, error,
    pool::Session,
    runtime,
    work::{Mode, Work},
};
use crate::dialect::fault::Fault;

/// The largest number of retries after conflicts with other transactions.
const MAX_CONFLICTS: u32 = 10;

/// A failed attempt.
struct Failed {
    error: sqlx::Error,
    /// `true` if a lost connection must not be retried: the work may be done, or there was no
    /// connection at all.
    is_final_if_lost: bool,
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self { error, is_final_if_lost: false }
    }
}

impl Database {
    /// Runs the work within the timeout.
    pub(crate) async fn run<W: Work>(&self, timeout: Duration, work: &W) -> Result<W::Output> {
        runtime::check()?;
        let waiting = AtomicBool::new(true);
        // Boxed, so that the types of applications' futures do not contain those of the driver.
        let attempts: Pin<Box<dyn Future<Output = _> + Send + '_>> =
            Box::pin(self.run_with_retries(work, timeout, &waiting));
        match tokio::time::timeout(timeout, attempts).await {
            Ok(result) => result.map_err(|error| error::failed(self.dialect, self.file.as_deref(), &error)),
            Err(_) => Err(error::timed_out(self.dialect, timeout, waiting.into_inner())),
        }
    }

    async fn run_with_retries<W: Work>(
        &self,
        work: &W,
        timeout: Duration,
        waiting: &AtomicBool,
    ) -> sqlx::Result<W::Output> {
        let (mut conflicts, mut losses) = (0, 0);
        loop {
            let Failed { error, is_final_if_lost } = match self.attempt(work, timeout, waiting).await {
                Ok(output) => return Ok(output),
                Err(failed) => failed,
            };
            match self.dialect.classify(&error) {
                // The transaction was rolled back, also if COMMIT failed.
                Fault::Conflict if conflicts < MAX_CONFLICTS => {
                    conflicts += 1;
                    // A random pause, so that two transactions do not conflict again.
                    let most = 1 << conflicts.min(6);
                    tokio::time::sleep(Duration::from_micros(500 * (1 + write_id::next() % most))).await;
                }
                // The database may have been restarted; then every connection of the pool is lost.
                Fault::Lost if !is_final_if_lost && losses <= self.pool.max_connections() => losses += 1,
                _ => return Err(error),
            }
        }
    }

    async fn attempt<W: Work>(&self, work: &W, timeout: Duration, waiting: &AtomicBool) -> Result<W::Output, Failed> {
        waiting.store(true, Ordering::Relaxed);
        let _permit = if work.mode() == Mode::Read { None } else { self.acquire_write_permit().await };
        let mut session = self.acquire_session().await.map_err(|error| Failed { error, is_final_if_lost: true })?;
        waiting.store(false, Ordering::Relaxed);
        if work.mode() != Mode::Transaction {
            let done = work.run(&mut session).await;
            return self.settle(session, done).map_err(Failed::from);
        }
        let begun = session.run(&self.dialect.begin(&|| work.locks(), timeout)).await;
        let done = match begun {
            Ok(()) => work.run(&mut session).await,
            Err(error) => Err(error),
        };
        let output = match done {
            Ok(output) => output,
            Err(error) => {
                let rolled_back = !self.is_lost(&error) && session.run("ROLLBACK").await.is_ok();
                if rolled_back {
                    self.note_response();
                    self.release(session);
                }
                return Err(error.into());
            }
        };
        match session.run("COMMIT").await {
            Ok(()) => self.settle(session, Ok(output)).map_err(Failed::from),
            Err(error) => {
                let is_final_if_lost = self.is_lost(&error);
                if !is_final_if_lost && session.run("ROLLBACK").await.is_ok() {
                    self.release(session);
                }
                Err(Failed { error, is_final_if_lost })
            }
        }
    }

    /// Returns the connection to the pool, unless it is lost.
    fn settle<T>(&self, session: Session, done: sqlx::Result<T>) -> sqlx::Result<T> {
        if !done.as_ref().is_err_and(|error| self.is_lost(error)) {
            self.note_response();
            self.release(session);
        }
        done
    }

    /// Returns the connection to the pool, or closes it if a new epoch has started.
    pub(super) fn release(&self, session: Session) {
        if self.is_current(&session) {
            session.release();
        }
    }

    fn is_lost(&self, error: &sqlx::Error) -> bool {
        self.dialect.classify(error) == Fault::Lost
    }
}
