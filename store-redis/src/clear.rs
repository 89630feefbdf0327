//! Clears a namespace.

use cache_core::Result;
use redis::{Pipeline, Value};

use crate::{
    connection::{error::unexpected, reply},
    keyspace::Keyspace,
};

/// Unlinks the keys of the namespace, one page of the scan at a time.
///
/// A scan finds every key that exists from its beginning to its end. A marker that is added
/// meanwhile belongs to a reader that started after the tiers below were cleared.
pub(crate) async fn clear(keyspace: &Keyspace) -> Result<()> {
    // Commands that were sent before on other links must be applied before the scan.
    for link in 1..keyspace.connection.shared().links() {
        let mut ping = Pipeline::with_capacity(1);
        ping.cmd("PING");
        keyspace.call().ask(link, &ping).await?;
    }
    let mut cursor = b"0".to_vec();
    loop {
        let mut scan = Pipeline::with_capacity(1);
        scan.cmd("SCAN").arg(&cursor).arg("MATCH").arg(keyspace.namespace.pattern()).arg("COUNT").arg(1000);
        let [next, page] = reply::array(keyspace.call().ask(0, &scan).await?)?;
        cursor = reply::bytes(next)?.ok_or_else(unexpected)?;
        let Value::Array(keys) = page else { return Err(unexpected()) };
        if !keys.is_empty() {
            let mut unlink = Pipeline::with_capacity(1);
            unlink.cmd("UNLINK");
            for key in keys {
                unlink.arg(reply::bytes(key)?.ok_or_else(unexpected)?);
            }
            keyspace.call().ask(0, &unlink).await?;
        }
        if cursor == b"0" {
            return Ok(());
        }
    }
}
