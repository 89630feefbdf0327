//! Clears a namespace.

use cache_core::{Result, backend::only};
use redis::{Value, cmd};

use crate::{
    connection::{error::unexpected, reply},
    keyspace::Keyspace,
    record::scripts,
};

/// Unlinks the keys of the namespace, one page of the scan at a time.
///
/// A scan finds every key that exists from its beginning to its end. A marker that is added
/// meanwhile belongs to a reader that started after the tiers below were cleared.
pub(crate) async fn clear(keyspace: &Keyspace) -> Result<()> {
    // Commands that were sent before on other links must be applied before the scan.
    for link in 1..keyspace.connection.shared().links() {
        keyspace.call().ask(link, cmd("PING")).await?;
    }
    let mut cursor = b"0".to_vec();
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(keyspace.namespace.pattern()).arg("COUNT").arg(1000);
        let [next, page] = reply::array(keyspace.call().ask(0, scan).await?)?;
        cursor = reply::bytes(next)?.ok_or_else(unexpected)?;
        let Value::Array(keys) = page else { return Err(unexpected()) };
        let keys: Vec<Vec<u8>> =
            keys.into_iter().map(|key| reply::bytes(key)?.ok_or_else(unexpected)).collect::<Result<_>>()?;
        let is_last = cursor == b"0";
        unlink(keyspace, &keys, is_last).await?;
        if is_last {
            return Ok(());
        }
    }
}

/// Removes the keys, and announces that all may have changed. The counter of the announcements may
/// be among the keys: its numbers start again. The last page is announced even if it is empty.
async fn unlink(keyspace: &Keyspace, keys: &[Vec<u8>], is_last: bool) -> Result<()> {
    let publication = &keyspace.publication;
    let writing = publication.writing();
    if keys.is_empty() && !(is_last && writing.is_announced) {
        return Ok(());
    }
    let unlink = if writing.is_announced {
        publication.clear(keys)
    } else {
        let mut unlink = cmd("UNLINK");
        unlink.arg(keys);
        unlink
    };
    let scripts = [&scripts::CLEAR];
    let scripts = if writing.is_announced { &scripts[..] } else { &[] };
    only(keyspace.call().send_all(scripts, None, vec![(0, unlink)]).await).map(drop)
}
