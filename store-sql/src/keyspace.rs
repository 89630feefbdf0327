//! The keys of one namespace, and the database that holds them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cache_core::{
    Moment, Result, SharedClock, Write,
    backend::{ServerClock, lock},
};

use crate::{
    database::{Database, Mode, Session, Work},
    table::rows::Rows,
};

pub(crate) struct Keyspace {
    pub(crate) database: Database,
    pub(crate) rows: Arc<Rows>,
    pub(crate) clock: SharedClock,
    pub(crate) timeout: Duration,
    server_clock: Mutex<Option<ServerClock>>,
}

/// One moment by two clocks.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub(crate) local: Moment,
    /// The earliest possible time by the database's clock, in Unix *micro*seconds.
    pub(crate) database: u64,
}

struct ReadClock<'a>(&'a Rows);

impl Work for ReadClock<'_> {
    type Output = i64;

    fn mode(&self) -> Mode {
        Mode::Read
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<i64> {
        session.number(&self.0.read_clock()).await
    }
}

impl Keyspace {
    pub(crate) fn new(database: Database, rows: Arc<Rows>, clock: SharedClock, timeout: Duration) -> Self {
        Self { database, rows, clock, timeout, server_clock: Mutex::new(None) }
    }

    pub(crate) async fn run<W: Work>(&self, work: &W) -> Result<W::Output> {
        let done = self.database.run(self.timeout, work).await;
        if done.is_err() {
            // The next connection may lead to a database with another clock.
            *lock(&self.server_clock) = None;
        }
        done
    }

    /// As [`read_now`](Self::read_now), but does not read the database's clock if there are no
    /// writes.
    pub(crate) async fn now<V>(&self, writes: &[Write<V>]) -> Result<Now> {
        if writes.is_empty() {
            return Ok(Now { local: self.clock.now(), database: 0 });
        }
        self.read_now().await
    }

    /// Returns the present moment, from which the lives of new entries are counted. Counted from
    /// when the statement runs, they would grow by the time until then. Reads the database's clock
    /// at most once a minute.
    pub(crate) async fn read_now(&self) -> Result<Now> {
        let local = self.clock.now();
        let reading = *lock(&self.server_clock);
        if let Some(clock) = reading.filter(|clock| clock.is_fresh(local)) {
            return Ok(Now { local, database: clock.earliest_micros(local) });
        }
        let millis = self.run(&ReadClock(&self.rows)).await?;
        let received = self.clock.now();
        let stamp = u64::try_from(millis).unwrap_or(0).saturating_mul(1000);
        *lock(&self.server_clock) = Some(ServerClock::new(stamp, local, received));
        Ok(Now { local: received, database: stamp })
    }
}
