//! The access to a backend that the suites `facets`, `leases` and `claims` need.

use std::time::Duration;

use cache_core::{Store, backend::Envelope};
use store_redis::RedisStore;
use store_sql::SqlStore;

use crate::{RedisServer, SqlPlace};

/// A backend on a server or in a file. Several stores share it, as several processes do.
///
/// All methods but those that connect access the entry of the key `k`, without a store, as an
/// operator would.
pub trait Backend {
    /// The type of the stores.
    type Store: Store<Value = u32> + Clone;

    /// Connects a store. All stores of a backend share their entries.
    fn connect(&self) -> impl Future<Output = Self::Store>;

    /// Connects a store with this lease TTL.
    fn connect_with_lease_ttl(&self, ttl: Duration) -> impl Future<Output = Self::Store>;

    /// Returns the number of entries of all keys, including markers and expired entries.
    fn entries(&self) -> impl Future<Output = u64>;

    /// Returns a text that differs after each write of the entry.
    fn stored(&self) -> impl Future<Output = String>;

    /// Returns the id of the write that stored the entry or marker.
    fn write_id(&self) -> impl Future<Output = Option<u64>>;

    /// Returns the milliseconds until the entry expires, rounded down. Returns `None` if there is
    /// no entry, it has expired or it does not expire.
    fn remaining_millis(&self) -> impl Future<Output = Option<u64>>;

    /// Removes the entry.
    fn delete(&self) -> impl Future<Output = ()>;

    /// Replaces the entry by another one, which need not be readable.
    fn overwrite(&self) -> impl Future<Output = ()>;

    /// Sets the time when the entry expires to a moment in the past.
    fn expire(&self) -> impl Future<Output = ()>;

    /// Lets the entry, which expires, expire earlier.
    fn shorten(&self, by: Duration) -> impl Future<Output = ()>;
}

impl Backend for RedisServer {
    type Store = RedisStore<u32>;

    async fn connect(&self) -> RedisStore<u32> {
        RedisStore::builder(self.url()).namespace("n").connect().await.expect("a store")
    }

    async fn connect_with_lease_ttl(&self, ttl: Duration) -> RedisStore<u32> {
        RedisStore::builder(self.url()).namespace("n").lease_ttl(ttl).connect().await.expect("a store")
    }

    async fn entries(&self) -> u64 {
        self.cli(&["DBSIZE"]).parse().expect("a number")
    }

    async fn stored(&self) -> String {
        self.raw(&[b"GET", b"n:k"]).escape_ascii().to_string()
    }

    async fn write_id(&self) -> Option<u64> {
        let record = self.raw(&[b"GET", b"n:k"]);
        Some(u64::from_le_bytes(record.get(Envelope::WRITE_ID)?.try_into().ok()?))
    }

    async fn remaining_millis(&self) -> Option<u64> {
        // It is negative if there is no such key, or if the key does not expire.
        self.cli(&["PTTL", "n:k"]).parse().ok()
    }

    async fn delete(&self) {
        assert_eq!(self.cli(&["DEL", "n:k"]), "1");
    }

    async fn overwrite(&self) {
        assert_eq!(self.cli(&["SET", "n:k", "foreign"]), "OK");
    }

    async fn expire(&self) {
        assert_eq!(self.cli(&["PEXPIREAT", "n:k", "1"]), "1");
    }

    async fn shorten(&self, by: Duration) {
        let left = Duration::from_millis(self.remaining_millis().await.expect("a key that expires"));
        let left = left.checked_sub(by).expect("a key that expires later");
        assert_eq!(self.cli(&["PEXPIRE", "n:k", &left.as_millis().to_string()]), "1");
    }
}

impl Backend for SqlPlace {
    type Store = SqlStore<u32>;

    async fn connect(&self) -> SqlStore<u32> {
        self.store().await
    }

    async fn connect_with_lease_ttl(&self, ttl: Duration) -> SqlStore<u32> {
        self.builder().lease_ttl(ttl).connect().await.expect("a store")
    }

    async fn entries(&self) -> u64 {
        self.rows().await.try_into().expect("a number of rows")
    }

    async fn stored(&self) -> String {
        format!("{:?} {:?}", self.number_of_row("write_id").await, self.number_of_row("expires_at").await)
    }

    async fn write_id(&self) -> Option<u64> {
        self.number_of_row("write_id").await.map(i64::cast_unsigned)
    }

    async fn remaining_millis(&self) -> Option<u64> {
        // The store and `{now}` may round the clock differently, by one millisecond.
        let left = self.number_of_row("expires_at - {now}").await? - 1;
        left.try_into().ok()
    }

    async fn delete(&self) {
        self.execute(&format!("DELETE FROM {{t}} {}", self.row())).await;
    }

    async fn overwrite(&self) {
        self.execute(&format!("UPDATE {{t}} SET write_id = write_id + 1 {}", self.row())).await;
    }

    async fn expire(&self) {
        self.execute(&format!("UPDATE {{t}} SET expires_at = 1 {}", self.row())).await;
    }

    async fn shorten(&self, by: Duration) {
        let by = by.as_millis();
        self.execute(&format!("UPDATE {{t}} SET expires_at = expires_at - {by} {}", self.row())).await;
    }
}

impl SqlPlace {
    /// The condition of the row of the key `k`.
    fn row(&self) -> String {
        format!("WHERE id = {}", self.bytes(b"k"))
    }

    /// Returns the number that an expression gives for the row, `None` if there is no such row.
    async fn number_of_row(&self, expression: &str) -> Option<i64> {
        // The maximum of no rows is NULL.
        self.number(&format!("SELECT MAX({expression}) FROM {{t}} {}", self.row())).await
    }
}

/// Makes a test of each function, with its own Redis: `fn(RedisServer)`.
#[macro_export]
macro_rules! on_redis {
    ($($name:ident),* $(,)?) => {
        mod redis {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::RedisServer::start().await).await;
                }
            )*
        }
    };
}

/// Makes a test of each case of a suite, which is a module of this crate, and of the backend's own
/// cases. The macros of the suites call it.
#[doc(hidden)]
#[macro_export]
macro_rules! suite {
    ($on_backend:ident, $suite:ident: $($case:ident),*; $($own:ident)*) => {
        use $crate::$suite::{$($case),*};
        $crate::$on_backend!($($case,)* $($own,)*);
    };
}
