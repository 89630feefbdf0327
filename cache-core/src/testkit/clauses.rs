//! The clauses of the contract, one function each.

use super::{Clause, Harness};
use crate::{Entry, Expiry, Key, SharedClock, Store as _, Ticket, Ttl, Write};

type Verdict<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

// They use the macro above.
mod claims;
mod facets;
mod hardening;
mod lifetimes;
mod revalidate;
mod take;
mod tickets;
mod touch;
mod values;

pub(super) async fn check<H: Harness>(clause: Clause, harness: &H) -> Verdict {
    let test = Test { harness, store: harness.store().await, clock: harness.clock() };
    match clause {
        Clause::S1 => test.miss().await,
        Clause::S2 => test.expired().await,
        Clause::S3 => test.remaining().await,
        Clause::S4 => test.replaces().await,
        Clause::S5 => test.never_older().await,
        Clause::S6 => test.retains().await,
        Clause::S7 => test.positive_ttl().await,
        Clause::S8 => test.del().await,
        Clause::S9 => test.distinct_keys().await,
        Clause::S10 => test.undecodable().await,
        Clause::S11 => test.no_panic().await,
        Clause::S12 => test.cancel_safety().await,
        Clause::S13 => test.concurrent().await,
        Clause::S14 => test.clones().await,
        Clause::S15 => test.dropping().await,
        Clause::S16 => test.secrets().await,
        Clause::S17 => test.void_fill().await,
        Clause::S18 => test.void_set().await,
        Clause::S19 => test.claims().await,
        Clause::S20 => test.facets().await,
        Clause::S21 => test.released().await,
        Clause::S22 => test.values_that_call(),
        Clause::S23 => test.takes().await,
        Clause::S24 => test.touches().await,
        Clause::S25 => test.revalidates().await,
    }
}

struct Test<'a, H: Harness> {
    harness: &'a H,
    store: H::Store,
    clock: SharedClock,
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a good key")
}

fn fault(doing: &str) -> impl Fn(crate::Error) -> String + use<'_> {
    move |error| format!("{doing} failed: {error:?}")
}

impl<H: Harness> Test<'_, H> {
    fn write(&self, name: &str, value: &str, ttl: Ttl, ticket: Ticket) -> Write<String> {
        let entry = Entry::new(value.to_owned(), Expiry::after(self.clock.now(), ttl));
        Write::new(key(name), entry, ticket)
    }

    async fn set(&self, name: &str, value: &str, ttl: Ttl) -> Verdict {
        let write = self.write(name, value, ttl, Ticket::unconditional());
        self.store.set(write).await.map_err(fault("set"))
    }

    async fn put(&self, name: &str, value: &str) -> Verdict {
        self.set(name, value, Ttl::Never).await
    }

    async fn entry(&self, name: &str) -> Verdict<Option<(String, Ttl)>> {
        let entry = self.store.get(&key(name)).await.map_err(fault("get"))?;
        Ok(entry.and_then(|entry| {
            let remaining = entry.remaining(self.clock.now());
            Some((entry.into_value()?, remaining))
        }))
    }

    async fn value(&self, name: &str) -> Verdict<Option<String>> {
        Ok(self.entry(name).await?.map(|(value, _)| value))
    }

    async fn lease(&self, name: &str) -> Verdict<Ticket> {
        self.store.lease(&key(name)).await.map_err(fault("lease"))
    }

    async fn expect(&self, name: &str, expected: Option<&str>, when: &str) -> Verdict {
        self.store.wait().await.map_err(fault("wait"))?;
        let found = self.value(name).await?;
        ensure!(found.as_deref() == expected, "{when}, get gave {found:?} instead of {expected:?}");
        Ok(())
    }
}
