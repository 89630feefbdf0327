//! Clauses S1, S4 to S6, S8, S9 and S14: values, keys and clones.

use std::time::Duration;

use super::{Harness, Test, Verdict, fault, key};
use crate::{Entry, Expiry, Key, Store as _, Ticket, Ttl, Write};

impl<H: Harness> Test<'_, H> {
    pub(super) async fn miss(&self) -> Verdict {
        self.expect("absent", None, "for a key never written").await?;
        for found in self.store.get_many(&[key("absent"), key("absent too")]).await {
            ensure!(matches!(found, Ok(None)), "get_many of keys never written gave {found:?}");
        }
        Ok(())
    }

    pub(super) async fn replaces(&self) -> Verdict {
        self.set("k", "a", Duration::from_secs(10).into()).await?;
        self.put("k", "b").await?;
        let found = self.entry("k").await?;
        ensure!(found == Some(("b".into(), Ttl::Never)), "after a set without a TTL: {found:?}");
        self.set("k", "c", Duration::from_secs(100).into()).await?;
        match self.entry("k").await? {
            Some((value, Ttl::After(left))) => ensure!(
                value == "c" && left > Duration::from_secs(10) && left <= Duration::from_secs(100),
                "after a set with a TTL of 100 s: {value:?}, {left:?}"
            ),
            other => return Err(format!("after a set with a TTL: {other:?}")),
        }
        Ok(())
    }

    pub(super) async fn never_older(&self) -> Verdict {
        self.put("k", "a").await?;
        self.put("k", "b").await?;
        self.expect("k", Some("b"), "after a second set").await?;
        self.put("k", "c").await?;
        let at_once = self.value("k").await?;
        ensure!(at_once.as_deref() == Some("c"), "right after a set, get gave {at_once:?}");
        if let Some(oversized) = self.harness.oversized() {
            // The store may return an error or not; the old value must be gone.
            let _ = self.put("k", &oversized).await;
            self.expect("k", None, "after an overwrite that the store has no room for").await?;
        }
        Ok(())
    }

    pub(super) async fn retains(&self) -> Verdict {
        let names: Vec<String> = (0..300).map(|at| format!("k{at}")).collect();
        for name in &names {
            self.put(name, name).await?;
        }
        self.store.wait().await.map_err(fault("wait"))?;
        for name in &names {
            let found = self.value(name).await?;
            ensure!(found.is_none() || found.as_ref() == Some(name), "{name} gave {found:?}");
            ensure!(found.is_some() || !self.store.profile().retains, "{name} was not retained");
        }
        Ok(())
    }

    pub(super) async fn del(&self) -> Verdict {
        for _ in 0..2 {
            self.store.del(&key("absent")).await.map_err(fault("del of an absent key"))?;
        }
        self.put("k", "a").await?;
        self.put("k", "b").await?;
        self.store.del(&key("k")).await.map_err(fault("del"))?;
        let at_once = self.value("k").await?;
        ensure!(at_once.is_none(), "right after a del, get gave {at_once:?}");
        self.store.del(&key("k")).await.map_err(fault("a second del"))?;
        self.expect("k", None, "after a del").await
    }

    pub(super) async fn distinct_keys(&self) -> Verdict {
        let long = vec![b'k'; Key::MAX_LEN];
        let mut other_long = long.clone();
        other_long[Key::MAX_LEN - 1] = b'l';
        let bytes: [&[u8]; 14] = [
            b"a",
            b"A",
            b"a ",
            b" a",
            b"a\0",
            b"\0",
            b"\xff",
            b"\xff\xfe",
            b"a*",
            b"a:b",
            b"a%3Ab",
            "\u{e4}".as_bytes(),
            &long,
            &other_long,
        ];
        let keys = Key::many(bytes).map_err(fault("making a key"))?;
        let writes = keys.iter().enumerate().map(|(at, key)| {
            Write::new(key.clone(), Entry::new(at.to_string(), Expiry::Never), Ticket::unconditional())
        });
        let set = self.store.set_many(writes.collect()).await;
        ensure!(set.len() == keys.len(), "set_many gave {} results for {} keys", set.len(), keys.len());
        set.into_iter().try_for_each(|set| set.map_err(fault("set_many")))?;
        let leased = self.store.lease_many(&keys).await;
        ensure!(leased.len() == keys.len(), "lease_many gave {} results for {} keys", leased.len(), keys.len());
        self.store.wait().await.map_err(fault("wait"))?;
        let found = self.store.get_many(&keys).await;
        ensure!(found.len() == keys.len(), "get_many gave {} results for {} keys", found.len(), keys.len());
        for (at, (found, key)) in found.into_iter().zip(&keys).enumerate() {
            let found = found.map_err(fault("get_many"))?.and_then(Entry::into_value);
            ensure!(found == Some(at.to_string()), "key {at} gave {found:?} from get_many");
            let single = self.store.get(key).await.map_err(fault("get"))?.and_then(Entry::into_value);
            ensure!(single == found, "key {at} gave {single:?} from get");
        }
        let (gone, kept) = keys.split_at(7);
        let deleted = self.store.del_many(gone).await;
        ensure!(deleted.len() == gone.len(), "del_many gave {} results for {} keys", deleted.len(), gone.len());
        deleted.into_iter().try_for_each(|deleted| deleted.map_err(fault("del_many")))?;
        for (key, there) in gone.iter().map(|key| (key, false)).chain(kept.iter().map(|key| (key, true))) {
            let found = self.store.get(key).await.map_err(fault("get"))?;
            ensure!(found.is_some() == there, "after del_many of others, a key is there: {}", found.is_some());
        }
        Ok(())
    }

    pub(super) async fn clones(&self) -> Verdict {
        let clone = self.store.clone();
        self.put("k", "v").await?;
        let found = clone.get(&key("k")).await.map_err(fault("get"))?.and_then(Entry::into_value);
        ensure!(found.as_deref() == Some("v"), "the clone of a store gave {found:?}");
        clone.del(&key("k")).await.map_err(fault("del"))?;
        let found = self.value("k").await?;
        ensure!(found.is_none(), "after a del through a clone, get gave {found:?}");
        Ok(())
    }
}
