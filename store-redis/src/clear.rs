//! How a namespace is cleared.

use cache_core::Result;
use redis::{Pipeline, Value};

use crate::{error, store::Inner};

impl<V, C> Inner<V, C> {
    /// Unlinks the keys of the namespace, a page of the scan at a time.
    ///
    /// Every key that is there from the beginning to the end of a scan is found by it. A marker that comes meanwhile belongs
    /// to a reader who began after the tiers below were cleared.
    pub(crate) async fn clear(&self) -> Result<()> {
        let shared = self.connection.shared();
        // What was sent before on other links is to be applied before.
        for link in 1..shared.links() {
            let mut ping = Pipeline::with_capacity(1);
            ping.cmd("PING");
            shared.call().ask(link, &ping).await?;
        }
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = Pipeline::with_capacity(1);
            scan.cmd("SCAN").arg(&cursor).arg("MATCH").arg(self.namespace.pattern()).arg("COUNT").arg(1000);
            let [next, page] = error::array(shared.call().ask(0, &scan).await?)?;
            cursor = error::bytes(next)?.ok_or_else(error::unexpected)?;
            let Value::Array(keys) = page else { return Err(error::unexpected()) };
            if !keys.is_empty() {
                let mut unlink = Pipeline::with_capacity(1);
                unlink.cmd("UNLINK");
                for key in keys {
                    unlink.arg(error::bytes(key)?.ok_or_else(error::unexpected)?);
                }
                shared.call().ask(0, &unlink).await?;
            }
            if cursor == b"0" {
                return Ok(());
            }
        }
    }
}
