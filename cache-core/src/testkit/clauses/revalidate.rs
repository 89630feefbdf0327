//! Clause S25: `revalidate_many`.

use std::time::Duration;

use super::{Harness, Test, Verdict, fault, key};
use crate::{
    Entry, Expiry, Revalidated, Store as _, Ticket, Ttl, Write,
    backend::{ETag, only},
};

impl<H: Harness> Test<'_, H> {
    pub(super) async fn revalidates(&self) -> Verdict {
        // Records of both kinds: those that are transferred at once, and those that are checked
        // before.
        for size in [1, 4096] {
            let [old, new] = ["a", "b"].map(|letter| letter.repeat(size));
            let name = &format!("of {size}");
            let unknown = self.written(name, &old, Ticket::unconditional(), Ttl::Never).await?;
            self.revalidated(name, unknown, true, Some(&old)).await?;
            // Fills of one lease share its write id.
            let shared = &format!("shared {size}");
            let lease = self.lease(shared).await?;
            let mut versions = Vec::new();
            for value in [&old, &new] {
                let entry = Entry::new(value.clone(), Expiry::Never);
                self.store.fill(Write::new(key(shared), entry, lease)).await.map_err(fault("fill"))?;
                versions.push(self.version(shared).await?);
            }
            if let [first, _] = versions[..] {
                self.revalidated(shared, first, false, Some(&new)).await?;
            }
            let replaced = self.written(name, &new, Ticket::unconditional(), Ttl::Never).await?;
            self.revalidated(name, unknown, false, Some(&new)).await?;
            self.store.del(&key(name)).await.map_err(fault("del"))?;
            self.revalidated(name, replaced, false, None).await?;
            let short = Duration::from_millis(300);
            let expiring = self.written(name, &old, Ticket::unconditional(), short.into()).await?;
            self.harness.pass(short * 2).await;
            self.revalidated(name, expiring, false, None).await?;
        }
        let none = self.store.revalidate_many(&[]).await.len();
        ensure!(none == 0, "{none} answers for no keys");
        Ok(())
    }

    /// Sets the value, and returns its version.
    async fn written(&self, name: &str, value: &str, ticket: Ticket, ttl: Ttl) -> Verdict<Option<ETag>> {
        self.store.set(self.write(name, value, ttl, ticket)).await.map_err(fault("set"))?;
        self.version(name).await
    }

    async fn version(&self, name: &str) -> Verdict<Option<ETag>> {
        self.store.wait().await.map_err(fault("wait"))?;
        let entry = self.store.get(&key(name)).await.map_err(fault("get"))?;
        Ok(entry.and_then(|entry| entry.etag()))
    }

    /// Asks for a key, alone and in a batch, whose version was `known`.
    async fn revalidated(&self, name: &str, known: Option<ETag>, is_current: bool, value: Option<&String>) -> Verdict {
        let asked = (key(name), known);
        let alone = only(self.store.revalidate_many(std::slice::from_ref(&asked)).await);
        let batch = [(key("not there"), None), asked, (key("nor here"), known)];
        let mut answers = self.store.revalidate_many(&batch).await;
        ensure!(answers.len() == 3, "{} answers for 3 keys", answers.len());
        for answer in [alone, answers.swap_remove(1)] {
            match answer {
                Ok(Revalidated::NotModified) => {
                    ensure!(is_current && known.is_some(), "{name}: an entry that was replaced is confirmed");
                }
                Ok(Revalidated::Modified(Some(entry))) if value.is_some() => {
                    ensure!(entry.value() == value, "{name}: {:.9?} instead of {value:.9?}", entry.value());
                }
                // Other clauses are about misses.
                _ => {}
            }
        }
        let is_confirmed = |answer: &crate::Result<Revalidated<String>>| matches!(answer, Ok(Revalidated::NotModified));
        ensure!(!answers.iter().any(is_confirmed), "an entry that is not there is confirmed");
        Ok(())
    }
}
