//! Reads and writes of users: the order of the database and the cache.

use std::{fmt, time::Duration};

use cache_chain::{ChainCache, ErrorKind};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::{
    problem::Problem,
    users::{Put, User, Users},
};

/// How long a write of the database may take.
const WRITE: Duration = Duration::from_secs(5);

/// How long the cache may take to end.
const END: Duration = Duration::from_secs(5);

/// The users: the table, and the cache in front of it.
#[derive(Clone)]
pub(crate) struct Service {
    users: Users,
    cache: ChainCache<User>,
    writes: TaskTracker,
}

impl Service {
    pub(crate) fn new(users: Users, cache: ChainCache<User>) -> Self {
        Self { users, cache, writes: TaskTracker::new() }
    }

    /// Reads a user: from the first tier that has it, else from the database, which all callers of
    /// one user ask together.
    pub(crate) async fn find(&self, id: i64) -> Result<User, Problem> {
        let users = self.users.clone();
        let found = self.cache.get_or_load(id, move || async move { users.find(id).await }).await;
        found.map_err(|error| cannot_read(&error))?.ok_or_else(|| Problem::no_such_user(id))
    }

    pub(crate) async fn put(&self, user: User) -> Result<Put, Problem> {
        let users = self.users.clone();
        self.write(user.id, async move { users.put(user).await }).await
    }

    pub(crate) async fn delete(&self, id: i64) -> Result<(), Problem> {
        let users = self.users.clone();
        let was_there = self.write(id, async move { users.delete(id).await }).await?;
        if was_there { Ok(()) } else { Err(Problem::no_such_user(id)) }
    }

    /// Writes the database first, and then deletes the user from the cache: the next read loads it.
    ///
    /// It does not `set` the new value, because two concurrent writes may reach the cache in another
    /// order than the database.
    async fn write<T: Send + 'static>(
        &self,
        id: i64,
        change: impl Future<Output = sqlx::Result<T>> + Send + 'static,
    ) -> Result<T, Problem> {
        let cache = self.cache.clone();
        // In a task: the server drops the future of a client that goes away, be it between both steps.
        let write = self.writes.spawn(async move {
            let changed = timeout(WRITE, change).await;
            // After an error as well: the database may have made the change nevertheless.
            let deleted = cache.del(id).await;
            let changed = changed.map_err(|_| cannot_write(&"the database did not answer in time"))?;
            let changed = changed.map_err(|error| cannot_write(&error))?;
            match deleted {
                // Redis is down. The chain does not read the user from there until it has been deleted.
                Err(error) if error.will_be_repaired() => tracing::debug!("{error}; it is being repaired"),
                Err(error) => return Err(cannot_invalidate(&error)),
                Ok(()) => {}
            }
            Ok(changed)
        });
        write.await.unwrap_or_else(|error| Err(cannot_write(&error)))
    }

    /// Ends: completes the writes whose clients have left, then what the cache has queued.
    pub(crate) async fn close(&self) {
        self.writes.close();
        self.writes.wait().await;
        if let Err(error) = self.cache.shutdown(END).await {
            tracing::warn!("the cache did not end in order: {error:#}");
        }
        for tier in self.cache.stats().tiers.iter().filter(|tier| tier.pending_deletes > 0) {
            let (name, users) = (&tier.name, tier.pending_deletes);
            tracing::warn!("users that have changed and remain in {name} until their TTL ends: {users}");
        }
        self.users.close().await;
    }
}

/// The user could not be read.
fn cannot_read(error: &cache_chain::Error) -> Problem {
    tracing::warn!("cannot read a user: {error:#}");
    match error.kind() {
        ErrorKind::Loader | ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Closed => {
            Problem::unavailable("the user cannot be read at present")
        }
        _ => Problem::internal(),
    }
}

/// The database could not be written, or it is unknown whether it was.
fn cannot_write(error: &dyn fmt::Display) -> Problem {
    tracing::warn!("cannot write a user: {error}");
    Problem::unavailable("it is unknown whether the change was made; please repeat it")
}

/// The database was written, and the cache may have the old value.
fn cannot_invalidate(error: &cache_chain::Error) -> Problem {
    tracing::warn!("cannot delete a user from the cache: {error:#}");
    Problem::unavailable("the change was made, but reads may return the old user for a while; please repeat it")
}

#[cfg(test)]
mod tests {
    use integration_tests::poll_once;

    use super::*;
    use crate::{
        cache,
        settings::{Database, Product},
    };

    /// A service with memory alone, on a database in this directory.
    async fn service(directory: &tempfile::TempDir) -> Service {
        let url = format!("sqlite://{}?mode=rwc", directory.path().join("users.db").display());
        let users = Users::open(&Database { product: Product::Sqlite, url }).await.unwrap();
        Service::new(users, cache::build(None).await.unwrap())
    }

    fn user(name: &str) -> User {
        User { id: 1, name: name.to_owned(), email: "ada@example.com".to_owned() }
    }

    #[tokio::test]
    async fn a_write_is_completed_if_its_client_goes_away() {
        let directory = tempfile::tempdir().unwrap();
        let service = service(&directory).await;
        assert_eq!(service.put(user("Ada")).await.unwrap(), Put::Created);
        assert_eq!(service.find(1).await.unwrap(), user("Ada"));

        let mut put = Box::pin(service.put(user("Ada Lovelace")));
        assert!(poll_once(put.as_mut()).await.is_none());
        drop(put);
        service.writes.close();
        service.writes.wait().await;
        // Neither the old value, nor one that only the cache has.
        assert_eq!(service.find(1).await.unwrap(), user("Ada Lovelace"));
        assert_eq!(service.users.find(1).await.unwrap(), Some(user("Ada Lovelace")));
        service.close().await;
    }

    #[tokio::test]
    async fn a_write_that_fails_is_a_problem_and_leaves_nothing_old_in_the_cache() {
        let directory = tempfile::tempdir().unwrap();
        let service = service(&directory).await;
        service.put(user("Ada")).await.unwrap();
        assert_eq!(service.find(1).await.unwrap(), user("Ada"));

        service.users.close().await;
        let problem = service.put(user("Ada Lovelace")).await.unwrap_err();
        assert_eq!(problem.to_string(), "503: it is unknown whether the change was made; please repeat it");
        let problem = service.find(1).await.unwrap_err();
        assert_eq!(problem.to_string(), "503: the user cannot be read at present");
    }
}
