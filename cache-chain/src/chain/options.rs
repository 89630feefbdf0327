//! The options of a single call.

use std::{borrow::Cow, time::Duration};

use cache_core::{Error, ErrorKind, Result, Ttl};

use crate::{
    load::{LoadCall, ServeStale},
    read::{Purpose, Query},
    tier::{Places, Tier},
};

/// Options of a single call; see [`ChainCache::with`](crate::ChainCache::with).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_chain::{CallOptions, ChainCache, ReadThrough, ServeStale, stretto::StrettoStore};
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     let prices: ChainCache<u64> = ChainCache::builder()
///         .tier(StrettoStore::new(10_000)?)
///         .default_ttl(Duration::from_secs(60))
///         .read_through(ReadThrough::new().stale_for(Duration::from_secs(3600)))
///         .build()?;
///
///     // A checkout wants a price that is at most five seconds old.
///     let recent = CallOptions::new().max_age(Duration::from_secs(5));
///     let price = prices.with(&recent).get_or_load("apple", || async { Ok::<_, std::io::Error>(7) }).await?;
///     assert_eq!(price, 7);
///
///     // A list of products shows what there is.
///     let any = CallOptions::new().serve_stale(ServeStale::AtOnce);
///     assert_eq!(prices.with(&any).get("apple").await?, Some(7));
///     Ok(())
/// }
/// ```
#[derive(Clone, PartialEq, Debug, Default)]
#[must_use = "give it to `ChainCache::with`"]
pub struct CallOptions {
    ttl: Option<Duration>,
    stale: Stale,
    max_age: Option<Duration>,
    reload: bool,
    unread: Vec<Cow<'static, str>>,
    unwritten: Vec<Cow<'static, str>>,
}

/// The stale values that a call gets.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum Stale {
    /// As the chain is set.
    #[default]
    Default,
    Never,
    Mode(ServeStale),
}

impl CallOptions {
    /// No options: the call runs as one without them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the TTL of values that this call sets or loads. A TTL that the loader sets takes
    /// precedence. The TTL of the news that a key has no value is not changed. A call that joins the
    /// load of another caller gets what that load caches, with the TTL of that load. With a TTL of
    /// zero, the call fails with [`InvalidInput`](ErrorKind::InvalidInput).
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Lets the call get stale values: `get_or_load` in this mode, and plain reads in any mode if
    /// no tier has a fresh value. A value is stale from the end of its TTL on, for
    /// [`ReadThrough::stale_for`](crate::ReadThrough::stale_for).
    ///
    /// Default: `get_or_load` runs in the mode of the chain, and plain reads get no stale values.
    pub fn serve_stale(mut self, mode: ServeStale) -> Self {
        self.stale = Stale::Mode(mode);
        self
    }

    /// Serves no stale value, whatever the chain is set to.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use cache_chain::{CallOptions, ChainCache, ReadThrough, stretto::StrettoStore};
    ///
    /// async fn price_of(article: &'static str) -> std::io::Result<u64> {
    ///     Ok(article.len() as u64) // your query
    /// }
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let hour = Duration::from_secs(3600);
    ///     let prices: ChainCache<u64> = ChainCache::builder()
    ///         .tier(StrettoStore::new(10_000)?)
    ///         .read_through(ReadThrough::new().stale_for(hour))
    ///         .build()?;
    ///     prices.set_with_ttl("apple", 7, hour).await?;
    ///     prices.expire("apple").await?;
    ///
    ///     // A checkout waits for the price of today.
    ///     let current = CallOptions::new().no_stale();
    ///     assert_eq!(prices.with(&current).get_or_load("apple", || price_of("apple")).await?, 5);
    ///     Ok(())
    /// }
    /// ```
    pub fn no_stale(mut self) -> Self {
        self.stale = Stale::Never;
        self
    }

    /// Accepts no older value, fresh or stale: an older one is a miss, and `get_or_load` loads
    /// again. The age is the time since the value was loaded or set, in any process. A value of
    /// unknown age is too old. The value that replaces a fresh one is loaded and stored as that of a
    /// [`reload`](Self::reload), also with regard to other processes.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Lets `get_or_load` load the key anew, whatever the tiers have. The caller gets no value that
    /// another load began to load before the call. Concurrent calls share a load that begins after
    /// them. The new value replaces that of every tier as a `set` does. If the load fails, the
    /// tiers keep what they have. Plain reads and writes ignore this option.
    ///
    /// Processes do not coordinate these loads: each loads by itself. If the loads of two processes
    /// overlap, or the key is written meanwhile, it is unknown which value is newer, and the key may
    /// be absent afterwards. The next call loads it.
    pub fn reload(mut self) -> Self {
        self.reload = true;
        self
    }

    /// Does not read the tier of this name, such as "L1 stretto"; see
    /// [`Tier::name`]. The tier is still filled with what a tier below has. May be called several
    /// times.
    ///
    /// A `get_or_load` that joins the load of another caller gets its result, from whichever tier
    /// that is.
    pub fn skip_read(mut self, tier: impl Into<Cow<'static, str>>) -> Self {
        self.unread.push(tier.into());
        self
    }

    /// Does not write to the tier of this name. A value that is found below it or loaded is not
    /// filled in. A `set` deletes an older value from the tier, so that the tier does not serve it.
    /// May be called several times.
    ///
    /// Tiers in memory that follow a shared tier, such as Redis, serve only what that tier has
    /// ([`ChainBuilder::coherence`](crate::ChainBuilder::coherence)). So a call that does not write
    /// the shared tier caches nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_chain::{CallOptions, ChainCache, Source, Tier, stretto::StrettoStore};
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let reports: ChainCache<String> = ChainCache::builder()
    ///         .tier(Tier::new(StrettoStore::new(1_000)?).name("memory"))
    ///         // In production this is a store that processes share, such as Redis.
    ///         .tier(Tier::new(StrettoStore::new(100_000)?).name("shared"))
    ///         .build()?;
    ///
    ///     // A value that is needed once need not displace others from memory.
    ///     let below = CallOptions::new().skip_write("memory");
    ///     reports.with(&below).set("2024", "a report".to_owned()).await?;
    ///     let found = reports.with(&below).get_detailed("2024").await?;
    ///     assert_eq!(found.source, Source::Tier("shared".into()));
    ///     Ok(())
    /// }
    /// ```
    pub fn skip_write(mut self, tier: impl Into<Cow<'static, str>>) -> Self {
        self.unwritten.push(tier.into());
        self
    }

    /// Checks the options against the tiers of a chain.
    pub(super) fn resolve<V>(&self, tiers: &[Tier<V>], defaults: &LoadCall) -> Result<Resolved>
    where
        V: Clone + Send + Sync + 'static,
    {
        let ttl = self.ttl.map_or(Ok(Ttl::Never), Ttl::checked)?;
        if self.stale == Stale::Mode(ServeStale::After(Duration::ZERO)) {
            let message = "`serve_stale` is zero; use `ServeStale::AtOnce` or set it above zero";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let places = |names: &[Cow<'static, str>]| -> Result<Places> {
            names.iter().map(|name| place_of(tiers, name)).collect()
        };
        let (unread, unwritten) = (places(&self.unread)?, places(&self.unwritten)?);
        let query = Query { purpose: Purpose::Load, unread, unwritten, max_age: self.max_age, is_new: false };
        let serve_stale = match self.stale {
            Stale::Default => defaults.serve_stale,
            Stale::Never => None,
            Stale::Mode(mode) => Some(mode),
        };
        let allows_stale = matches!(self.stale, Stale::Mode(_));
        Ok(Resolved { load: LoadCall { query, ttl, serve_stale, reload: self.reload }, allows_stale })
    }
}

/// The options of a call to one chain.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) load: LoadCall,
    /// `true` if a plain read may return a stale value.
    pub(super) allows_stale: bool,
}

impl Resolved {
    /// The query of a plain read.
    pub(super) fn query(&self) -> Query {
        Query { purpose: Purpose::Get, ..self.load.query.clone() }
    }
}

fn place_of<V: Clone + Send + Sync + 'static>(tiers: &[Tier<V>], name: &str) -> Result<usize> {
    tiers.iter().position(|tier| &**tier.title() == name).ok_or_else(|| {
        let names: Vec<&str> = tiers.iter().map(|tier| &**tier.title()).collect();
        let message = format!("no tier of the chain is named {name:?}; the tiers are {names:?}");
        Error::new(ErrorKind::InvalidInput, message)
    })
}
