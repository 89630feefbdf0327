//! Checks the settings, and opens the store.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use cache_core::{
    Codec, Error, ErrorKind, Result,
    backend::{Envelope, check_namespace, lease_millis},
};

use super::{SqlStoreBuilder, target::Target};
#[cfg(feature = "postgres")]
use crate::listen;
use crate::{
    database::{Database, runtime},
    keyspace::Keyspace,
    store::{Inner, SqlStore},
    sweep::Sweeper,
    table::{check::prepare, name::check_name, rows::Rows},
};

impl<V, C> SqlStoreBuilder<V, C> {
    /// Connects, and checks the table. Creates it first if [`create_table`](Self::create_table) was
    /// called and it is missing.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if a setting is invalid or the database cannot
    /// [announce changes](Self::announce_changes), one of kind `Backend` if the table is missing, has
    /// another schema or does not announce its changes, one of kind `Closed` outside a Tokio runtime,
    /// or an error of the database.
    ///
    /// # Cancel safety
    ///
    /// If dropped, it leaves no connection, but may leave the table.
    pub async fn connect(self) -> Result<SqlStore<V, C>>
    where
        C: Codec<V>,
    {
        let create = self.create_table;
        let inner = self.finish()?;
        let Keyspace { database, timeout, rows, .. } = &inner.keyspace;
        prepare(database, *timeout, rows, create).await?;
        #[cfg(feature = "postgres")]
        if inner.announces {
            listen::trigger::prepare(database, *timeout, rows, create).await?;
        }
        Ok(SqlStore::new(inner))
    }

    /// Connects at the first call, so that an application can start while the database is down. The
    /// table is not checked.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if a setting is invalid or
    /// [`create_table`](Self::create_table) was called, which needs a connection, and one of kind
    /// `Closed` outside a Tokio runtime.
    pub fn connect_lazy(self) -> Result<SqlStore<V, C>>
    where
        C: Codec<V>,
    {
        if self.create_table {
            return Err(invalid("connect_lazy() cannot create the table; use connect()"));
        }
        self.finish().map(SqlStore::new)
    }

    fn finish(self) -> Result<Inner<V, C>>
    where
        C: Codec<V>,
    {
        runtime::check()?;
        check_namespace(&self.namespace)?;
        let lease_millis = lease_millis(self.lease_ttl)?;
        if self.timeout.is_zero() || !(1..=1024).contains(&self.connections) {
            return Err(invalid("a SQL store needs a timeout above zero and 1 to 1024 connections"));
        }
        let day = Duration::from_hours(24);
        if self.sweep_every.is_some_and(|interval| !(Duration::from_millis(1)..=day).contains(&interval)) {
            return Err(invalid("sweep_every must be between 1 ms and 24 h, or None"));
        }
        let database = match self.target {
            Target::Url(url) => Database::at(&url, self.connections, self.timeout)?,
            Target::Database(database) => database,
        };
        check_name(&self.table, database.dialect.max_name_len())?;
        if self.announce_changes
            && let Some(why) = database.dialect.why_no_announcements()
        {
            return Err(invalid(why));
        }
        let schema = self.schema.unwrap_or_else(|| Envelope::schema_tag(std::any::type_name::<V>()));
        let schema = Envelope::shaped_tag(schema, self.codec.shape());
        // The column of the key does not hold the namespace.
        let envelope = Envelope::new(self.codec, schema).in_namespace(&self.namespace);
        let rows = Arc::new(Rows::new(database.dialect, self.table, self.namespace));
        let sweeper = self
            .sweep_every
            .map(|interval| Sweeper::start(database.clone(), self.timeout, Arc::clone(&rows), interval));
        Ok(Inner {
            keyspace: Keyspace::new(database, rows, self.clock, self.timeout),
            envelope,
            lease_millis,
            #[cfg(feature = "postgres")]
            announces: self.announce_changes,
            _sweeper: sweeper,
            values: PhantomData,
        })
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}
