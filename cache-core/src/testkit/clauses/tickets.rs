//! Clauses S17, S18 and S21: tickets and leases.

use super::{Harness, Test, Verdict, fault, key};
use crate::{Entry, Key, Store as _, Ticket, Ttl};

impl<H: Harness> Test<'_, H> {
    /// Voids the tickets of "k" in each way there is.
    async fn void(&self, way: usize) -> Verdict<&'static str> {
        let done = match way {
            0 => (self.put("k", "other").await, "set"),
            1 => (self.store.del(&key("k")).await.map_err(fault("del")), "del"),
            2 => (self.store.clear().await.map_err(fault("clear")), "clear"),
            3 => {
                let writes = vec![self.write("k", "other", Ttl::Never, Ticket::unconditional())];
                (self.store.set_many(writes).await.remove(0).map_err(fault("set_many")), "set_many")
            }
            _ => (self.store.del_many(&[key("k")]).await.remove(0).map_err(fault("del_many")), "del_many"),
        };
        done.0.map(|()| done.1)
    }

    pub(super) async fn void_fill(&self) -> Verdict {
        // Backfills are leased where the key is absent.
        for (way, present) in (0..5).flat_map(|way| [(way, true), (way, false)]) {
            self.put("k", "old").await?;
            if !present {
                self.store.del(&key("k")).await.map_err(fault("del"))?;
            }
            let ticket = self.lease("k").await?;
            let batch = self.store.lease_many(&[key("k")]).await.remove(0).map_err(fault("lease_many"))?;
            let by = self.void(way).await?;
            let stale = |ticket| self.write("k", "stale", Ttl::Never, ticket);
            let single = self.store.fill(stale(ticket)).await.map_err(fault("fill"))?;
            let many = self.store.fill_many(vec![stale(batch)]).await.remove(0).map_err(fault("fill_many"))?;
            if !self.store.profile().leases {
                continue; // It says so, and a chain guards it.
            }
            ensure!(!single && !many, "a fill with a ticket from before a {by} was installed");
            let found = self.value("k").await?;
            ensure!(found.as_deref() != Some("stale"), "a fill refused after a {by} is there all the same");
        }
        self.store.del(&key("k")).await.map_err(fault("del"))?;
        let ticket = self.lease("k").await?;
        let filled = self.store.fill(self.write("k", "fresh", Ttl::Never, ticket)).await.map_err(fault("fill"))?;
        ensure!(filled, "a fill with a good ticket was refused");
        self.expect("k", Some("fresh"), "after a fill").await?;
        if self.store.profile().leases {
            self.mixed_fills().await?;
            self.fill_disturbs_nobody().await?;
        }
        Ok(())
    }

    /// In a batch, each fill depends on its own ticket.
    async fn mixed_fills(&self) -> Verdict {
        let names = ["k", "l", "m"];
        for name in names {
            self.put(name, "old").await?;
        }
        let mut fills = Vec::new();
        for name in names {
            fills.push(self.write(name, "fill", Ttl::Never, self.lease(name).await?));
        }
        self.store.del(&key("l")).await.map_err(fault("del"))?;
        // Keys that share a stripe of a fence share their tickets' fate.
        let filled = self.store.fill_many(fills).await;
        ensure!(filled.len() == 3, "fill_many gave {} results for 3 entries", filled.len());
        ensure!(matches!(filled[1], Ok(false)), "of a batch, a fill with a void ticket gave {:?}", filled[1]);
        let found = self.value("l").await?;
        ensure!(found.is_none(), "of a batch, a fill with a void ticket is there: {found:?}");
        Ok(())
    }

    async fn fill_disturbs_nobody(&self) -> Verdict {
        self.store.del(&key("k")).await.map_err(fault("del"))?;
        let (reader, writer) = (self.lease("k").await?, self.lease("k").await?);
        let fill = self.write("k", "fill", Ttl::Never, reader);
        ensure!(self.store.fill(fill).await.map_err(fault("fill"))?, "a fill with a good ticket was refused");
        self.store.set(self.write("k", "set", Ttl::Never, writer)).await.map_err(fault("set"))?;
        self.expect("k", Some("set"), "after a set whose ticket was as old as that of a fill before it").await
    }

    pub(super) async fn void_set(&self) -> Verdict {
        for way in 0..5 {
            self.put("k", "old").await?;
            let ticket = self.lease("k").await?;
            let by = self.void(way).await?;
            let stale = || self.write("k", "stale", Ttl::Never, ticket);
            if way % 2 == 0 {
                self.store.set(stale()).await.map_err(fault("set"))?;
            } else {
                self.store.set_many(vec![stale()]).await.remove(0).map_err(fault("set_many"))?;
            }
            if !self.store.profile().leases {
                continue; // It says so, and a chain guards it.
            }
            let found = self.value("k").await?;
            ensure!(found.is_none(), "after a set with a ticket from before a {by}, get gave {found:?}");
        }
        let ticket = self.lease("k").await?;
        self.store.set(self.write("k", "fresh", Ttl::Never, ticket)).await.map_err(fault("set"))?;
        self.expect("k", Some("fresh"), "after a set with a good ticket").await?;

        // The writes of one batch do not void each other's tickets.
        let names: Vec<String> = (0..500).map(|at| format!("k{at}")).collect();
        let keys = Key::many(&names).map_err(fault("making a key"))?;
        let mut writes = Vec::new();
        for (name, ticket) in names.iter().zip(self.store.lease_many(&keys).await) {
            writes.push(self.write(name, name, Ttl::Never, ticket.map_err(fault("lease_many"))?));
        }
        let set = self.store.set_many(writes).await;
        set.into_iter().try_for_each(|set| set.map_err(fault("set_many")))?;
        self.store.wait().await.map_err(fault("wait"))?;
        for (name, found) in names.iter().zip(self.store.get_many(&keys).await) {
            let found = found.map_err(fault("get_many"))?.and_then(Entry::into_value);
            ensure!(found.as_ref() == Some(name), "after a set_many with good tickets, {name} is {found:?}");
        }
        Ok(())
    }

    pub(super) async fn released(&self) -> Verdict {
        let release = async |ticket| {
            let leases = [(key("k"), ticket), (key("other"), ticket)];
            self.store.release_leases(&leases).await.map_err(fault("release_leases"))
        };
        // The key can be leased and filled as before.
        release(self.lease("k").await?).await?;
        let ticket = self.lease("k").await?;
        let filled = self.store.fill(self.write("k", "filled", Ttl::Never, ticket)).await.map_err(fault("fill"))?;
        ensure!(filled, "a fill was refused after another lease was given back");

        // The release removes neither an entry that was filled with the ticket nor a later one.
        release(ticket).await?;
        self.expect("k", Some("filled"), "after a lease was given back that has filled the key").await?;
        self.put("k", "written").await?;
        release(ticket).await?;
        self.expect("k", Some("written"), "after a lease from before a write was given back").await?;
        release(self.lease("k").await?).await?;
        self.expect("k", Some("written"), "after a lease of a key with a value was given back").await?;

        // Only its holder releases a claim, even if a lease has the same ticket.
        self.store.del(&key("k")).await.map_err(fault("del"))?;
        let claim = self.claim("k").await?;
        release(claim.ticket).await?;
        release(self.lease("k").await?).await?;
        let fill = self.write("k", "claimed", Ttl::Never, claim.ticket);
        let filled = self.store.fill(fill).await.map_err(fault("fill"))?;
        ensure!(filled || !self.store.profile().claims, "a claim was given back together with the leases");
        Ok(())
    }
}
