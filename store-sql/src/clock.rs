//! The database's clock, as far as it is known here.

use cache_core::{Moment, Result, Write, backend::ServerClock};

use crate::{
    call::{Mode, Work},
    pool::Session,
    rows::Rows,
    store::Inner,
};

/// One moment by two clocks.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub(crate) here: Moment,
    /// The earliest that it can be by the database's clock, in Unix *micro*seconds.
    pub(crate) database: u64,
}

struct Ask<'a>(&'a Rows);

impl Work for Ask<'_> {
    type Output = i64;

    fn mode(&self) -> Mode {
        Mode::Read
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<i64> {
        session.number(&self.0.clock()).await
    }
}

impl<V, C> Inner<V, C> {
    /// The present moment, for the lives of what is to be written: they are counted from here, not from when the statement
    /// comes to be run, or they would grow by its way. The database is asked once a minute.
    pub(crate) async fn now(&self, writes: &[Write<V>]) -> Result<Now> {
        let here = self.clock.now();
        let known = self.server_clock();
        if writes.is_empty() {
            return Ok(Now { here, database: 0 });
        }
        if let Some(clock) = known.filter(|clock| clock.is_fresh(here)) {
            return Ok(Now { here, database: clock.earliest_micros(here) });
        }
        let millis = self.run(&Ask(&self.rows)).await?;
        let received = self.clock.now();
        let stamp = u64::try_from(millis).unwrap_or(0).saturating_mul(1000);
        self.set_server_clock(Some(ServerClock { stamp, sent: here, received }));
        Ok(Now { here: received, database: stamp })
    }
}
