//! Changes the lifetime of an entry by writing it again.

use crate::{Key, Lifetime, Moment, Result, Store, Write};

/// The number of attempts. A ticket may be void although the key was not written, for example
/// because another key of its stripe was.
const ATTEMPTS: u32 = 3;

/// The default of [`Store::touch`]: reads the entry and fills it with the new lifetime.
///
/// It is for stores that can change the lifetimes of some entries in place and not of others.
///
/// # Errors
///
/// Fails as the store does. If the entry was read and the fill fails, the outcome is unknown.
pub async fn touch_by_filling<S>(store: &S, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool>
where
    S: Store + ?Sized,
{
    if lifetime.expiry.is_past(now) {
        return Ok(false);
    }
    for _ in 0..ATTEMPTS {
        let ticket = store.lease(key).await?;
        let entry = match store.get(key).await {
            Ok(Some(entry)) if !entry.is_absent() && !entry.is_stale(now) => entry.with_lifetime(lifetime),
            untouched => {
                // The lease is not needed. If it cannot be given back, it runs out by itself.
                let _ = store.release_leases(&[(key.clone(), ticket)]).await;
                return untouched.map(|_| false);
            }
        };
        if store.fill(Write::new(key.clone(), entry, ticket)).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
