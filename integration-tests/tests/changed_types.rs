//! Records of a type that has changed under the same schema name, in the stores that keep bytes.

use cache_core::{Codec, Entry, ErrorKind, Store, Ticket};
use integration_tests::{RedisServer, SqlKind, SqlPlace, key, never};
use serde_derive::{Deserialize, Serialize};
use store_redis::{DefaultCodec, RedisStore};

mod before {
    use super::{Deserialize, Serialize};

    #[derive(Clone, Serialize, Deserialize)]
    pub(crate) struct User {
        pub(crate) first: String,
        pub(crate) last: String,
    }
}

mod after {
    use super::{Deserialize, Serialize};

    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(crate) struct User {
        pub(crate) last: String,
        pub(crate) first: String,
    }
}

/// With a codec that writes no names, the swapped type does not read what the other wrote, until it
/// has written itself.
async fn changed(old: impl Store<Value = before::User>, new: impl Store<Value = after::User>) {
    let (key, ticket) = (key("k"), Ticket::unconditional());
    let (first, last) = ("Ada".to_owned(), "Lovelace".to_owned());
    old.set(never(&key, before::User { first: first.clone(), last: last.clone() }, ticket)).await.unwrap();
    assert!(old.get(&key).await.unwrap().is_some());
    assert_eq!(new.get(&key).await.unwrap_err().kind(), ErrorKind::Codec);
    new.set(never(&key, after::User { last, first }, ticket)).await.unwrap();
    let user = new.get(&key).await.unwrap().and_then(Entry::into_value).unwrap();
    assert_eq!((&*user.first, &*user.last), ("Ada", "Lovelace"));
}

async fn redis<V>(server: &RedisServer) -> RedisStore<V>
where
    DefaultCodec: Codec<V>,
{
    RedisStore::builder(server.url()).namespace("users").schema("user").connect().await.unwrap()
}

#[tokio::test]
async fn swapped_fields_are_not_decoded_from_redis() {
    let server = RedisServer::start().await;
    changed(redis(&server).await, redis(&server).await).await;
}

#[tokio::test]
async fn swapped_fields_are_not_decoded_from_sql() {
    let place = SqlPlace::of(SqlKind::Sqlite).await;
    let old = place.builder().schema("user").connect().await.unwrap();
    let new = place.builder().schema("user").connect().await.unwrap();
    changed(old, new).await;
}
