//! Clause S25: `revalidate_many`.

use std::time::Duration;

use super::{Harness, Test, Verdict, fault, key};
use crate::{
    Entry, Expiry, Revalidated, Store as _, Write,
    backend::{ETag, only},
};

/// An entry that a caller has: its version and its value.
type Held = (Option<ETag>, Option<String>);

impl<H: Harness> Test<'_, H> {
    pub(super) async fn revalidates(&self) -> Verdict {
        // Records of both kinds: those that are transferred at once, and those that are checked
        // before.
        for size in [1, 4096] {
            let [old, new] = ["a", "b"].map(|letter| letter.repeat(size));
            let name = &format!("of {size}");
            self.put(name, &old).await?;
            let first = self.held(name).await?;
            self.revalidated(name, &first).await?;
            self.put(name, &new).await?;
            self.revalidated(name, &first).await?;
            let second = self.held(name).await?;
            self.store.del(&key(name)).await.map_err(fault("del"))?;
            self.revalidated(name, &second).await?;
            let short = Duration::from_millis(300);
            self.set(name, &old, short.into()).await?;
            let expiring = self.held(name).await?;
            self.harness.pass(short * 2).await;
            self.revalidated(name, &expiring).await?;
            // Fills of one lease share its write id.
            let name = &format!("filled {size}");
            let lease = self.lease(name).await?;
            let mut filled = (None, None);
            for value in [old, new] {
                let entry = Entry::new(value, Expiry::Never);
                self.store.fill(Write::new(key(name), entry, lease)).await.map_err(fault("fill"))?;
                self.revalidated(name, &filled).await?;
                filled = self.held(name).await?;
            }
        }
        let none = self.store.revalidate_many(&[]).await.len();
        ensure!(none == 0, "{none} answers for no keys");
        Ok(())
    }

    async fn held(&self, name: &str) -> Verdict<Held> {
        self.store.wait().await.map_err(fault("wait"))?;
        // Other clauses are about reads that fail.
        let entry = self.store.get(&key(name)).await.ok().flatten();
        Ok(entry.map_or((None, None), |entry| (entry.etag(), entry.into_value())))
    }

    /// Asks for a key, alone and in a batch, of which the caller has an entry.
    async fn revalidated(&self, name: &str, (known, held): &Held) -> Verdict {
        let (_, current) = self.held(name).await?;
        let asked = (key(name), *known);
        let alone = only(self.store.revalidate_many(std::slice::from_ref(&asked)).await);
        let batch = [(key("not there"), None), asked, (key("nor here"), *known)];
        let mut answers = self.store.revalidate_many(&batch).await;
        ensure!(answers.len() == 3, "{} answers for 3 keys", answers.len());
        for answer in [alone, answers.swap_remove(1)] {
            match answer {
                Ok(Revalidated::NotModified) => {
                    ensure!(known.is_some() && *held == current, "{name}: an entry that was replaced is confirmed");
                }
                Ok(Revalidated::Modified(Some(entry))) if current.is_some() => {
                    let found = entry.into_value();
                    ensure!(found == current, "{name}: {found:.9?} instead of {current:.9?}");
                }
                _ => {}
            }
        }
        let is_confirmed = |answer: &crate::Result<Revalidated<String>>| matches!(answer, Ok(Revalidated::NotModified));
        ensure!(!answers.iter().any(is_confirmed), "an entry that is not there is confirmed");
        Ok(())
    }
}
