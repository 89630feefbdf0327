//! Diagnosis of one key.

use std::sync::Arc;

use cache_core::{CacheKey, Key, Result};

use super::ChainCache;
use crate::explain::{Explanation, explain};

impl<V: Clone + Send + Sync + 'static> ChainCache<V> {
    /// Explains what each tier holds of the key, and what [`get`](Self::get) and
    /// [`get_or_load`](Self::get_or_load) would do now, and why.
    ///
    /// It asks every tier once or twice, also one whose breaker is open, within the tier's read
    /// timeout. It changes nothing: it fills no tier, takes no lease, repairs nothing, and counts in
    /// no statistics; at most, a store in memory notes that the entry was used, and one in SQL
    /// removes a row from the future, as each of its reads does. The tiers are asked
    /// one after the other, so a concurrent write may show in only some of them.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if the key cannot be used, and of kind `Closed` if the
    /// runtime of the chain has ended. A tier that fails is a part of the explanation.
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_chain::{Action, ChainCache, Held, stretto::StrettoStore};
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let users: ChainCache<String> = ChainCache::builder()
    ///         .tier(StrettoStore::new(1_000)?)
    ///         .tier(StrettoStore::new(100_000)?)
    ///         .build()?;
    ///     users.set(42, "Ada".to_owned()).await?;
    ///
    ///     let explanation = users.explain(42).await?;
    ///     assert!(matches!(explanation.tiers[0].held, Held::Value));
    ///     assert_eq!(explanation.get.action, Action::Serve { tier: "L1 stretto".to_owned() });
    ///     // L1 stretto: a value, age 0ns, does not expire
    ///     // L2 stretto: a value, age 0ns, does not expire
    ///     // get: returns what L1 stretto holds: its value is fresh
    ///     // get_or_load: returns what L1 stretto holds: its value is fresh
    ///     println!("{explanation}");
    ///     Ok(())
    /// }
    /// ```
    pub async fn explain(&self, key: impl CacheKey) -> Result<Explanation> {
        let key = Key::new(&key)?;
        let (reader, loader) = (Arc::clone(&self.reader), Arc::clone(&self.loader));
        self.reader.runtime.run(async move { explain(&reader, &loader, &key).await }).await
    }
}
