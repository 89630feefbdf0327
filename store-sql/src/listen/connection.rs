//! The connection that listens.

use std::{future::poll_fn, pin::pin, task::Poll};

use cache_core::backend::write_id;
use sqlx::{
    AssertSqlSafe, PgPool, Row as _,
    postgres::{PgListener, PgNotification, PgPoolOptions},
};
use tokio::runtime::Handle;

/// A connection that listens on a channel, and on a channel of its own for heartbeats.
///
/// It is not one of the application's pool, which it would occupy for ever. It is set up as those
/// are.
pub(super) struct Connection {
    /// `None` only while it is dropped.
    listener: Option<PgListener>,
    /// The pool of this one connection.
    pool: PgPool,
    runtime: Handle,
    /// The channel of the heartbeats. Nothing else is sent there, so that the heartbeats of one
    /// process are not delivered to all.
    heartbeats: String,
}

/// The server's identity and role, as it reports them.
pub(super) struct State {
    /// `true` if it is a standby, which announces nothing.
    pub(super) in_recovery: bool,
    /// When it was started, in Unix microseconds. No two servers share it.
    pub(super) started: i64,
    /// The triggers by which the table announces its changes. `None` if one is missing.
    pub(super) announcers: Option<String>,
    /// `true` if it does not check the encoding of text.
    pub(super) is_unchecked: bool,
}

/// A notification, or the output of the work during which none has come.
enum Event<T> {
    Notification(Option<PgNotification>),
    Done(T),
}

impl Connection {
    /// Connects, and listens on the channel. All changes that are committed after it has returned
    /// are announced here.
    pub(super) async fn open(pool: &PgPool, channel: &str) -> sqlx::Result<Self> {
        // The hooks of the application's pool are kept: one may set the role or the search path.
        let pool = alone(pool.options().clone()).connect_lazy_with((*pool.connect_options()).clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        // The end of the connection is the end of the stream: what was announced meanwhile is lost.
        listener.eager_reconnect(false);
        let heartbeats = format!("cache_heartbeat_{}", write_id::next());
        let mut connection = Self { listener: Some(listener), pool, runtime: Handle::current(), heartbeats };
        let Self { listener: Some(listener), heartbeats, .. } = &mut connection else { return Err(lost()) };
        listener.listen_all([channel, &**heartbeats]).await?;
        Ok(connection)
    }

    fn listener(&mut self) -> sqlx::Result<&mut PgListener> {
        self.listener.as_mut().ok_or_else(lost)
    }

    /// Asks the server for its state. `announcers` is an expression for the triggers.
    pub(super) async fn state(&mut self, announcers: &str) -> sqlx::Result<State> {
        self.ask(announcers, "").await
    }

    /// As [`state`](Self::state), and sends a heartbeat. Hands over all notifications until it
    /// arrives.
    pub(super) async fn beat(&mut self, announcers: &str, on: &mut impl FnMut(&str)) -> sqlx::Result<State> {
        let nonce = write_id::next().to_string();
        let notify = format!("FROM pg_notify('{}', '{nonce}')", self.heartbeats);
        let state = self.ask(announcers, &notify).await?;
        loop {
            let notification = self.listener()?.try_recv().await?.ok_or_else(lost)?;
            if notification.channel() != self.heartbeats {
                on(notification.payload());
            } else if notification.payload() == nonce {
                return Ok(state);
            }
        }
    }

    async fn ask(&mut self, announcers: &str, from: &str) -> sqlx::Result<State> {
        let query = format!(
            "SELECT pg_is_in_recovery(), {STARTED}, {announcers}::text, \
             current_setting('server_encoding') = 'SQL_ASCII' {from}"
        );
        // Not prepared: the text differs from one heartbeat to the next.
        let query = sqlx::query(AssertSqlSafe(query)).persistent(false);
        let row = query.fetch_one(self.listener()?).await?;
        Ok(State {
            in_recovery: row.try_get(0)?,
            started: row.try_get(1)?,
            announcers: row.try_get(2)?,
            is_unchecked: row.try_get(3)?,
        })
    }

    /// Hands over all notifications until `work` has ended.
    pub(super) async fn receive_while<T>(
        &mut self,
        work: impl Future<Output = T>,
        on: &mut impl FnMut(&str),
    ) -> sqlx::Result<T> {
        let mut work = pin!(work);
        loop {
            let event = {
                let mut next = pin!(self.listener()?.try_recv());
                poll_fn(|context| match work.as_mut().poll(context) {
                    Poll::Ready(output) => Poll::Ready(Ok(Event::Done(output))),
                    Poll::Pending => next.as_mut().poll(context).map_ok(Event::Notification),
                })
                .await?
            };
            match event {
                Event::Done(output) => return Ok(output),
                Event::Notification(Some(notification)) if notification.channel() == self.heartbeats => {}
                Event::Notification(notification) => on(notification.ok_or_else(lost)?.payload()),
            }
        }
    }
}

/// The expression for when the server was started.
pub(super) const STARTED: &str = "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";

/// Returns options for a pool of one connection that is never closed.
fn alone(options: PgPoolOptions) -> PgPoolOptions {
    options.max_connections(1).min_connections(0).test_before_acquire(false).max_lifetime(None).idle_timeout(None)
}

/// The driver reports some losses of the connection as "no notification", others as errors:
/// <https://github.com/launchbadge/sqlx/issues/3585>.
fn lost() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into())
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The driver spawns tasks that close the connection, and the future that held it may be
        // dropped outside the runtime.
        let _entered = self.runtime.enter();
        // From now on the pool closes what is returned to it. The future only waits for that.
        drop(self.pool.close());
        drop(self.listener.take());
    }
}
