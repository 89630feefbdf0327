//! What a miss costs.

use std::{io, sync::Arc};

use crate::{
    keys,
    measure::{Contest, Options, nanos_in_task},
    peers::{self, Loader, Peer, Text, filled},
};

/// Measures misses with strings as keys: nanoseconds per call of `get`, and of `get_or_load` with a
/// loader that is ready.
#[derive(clap::Args)]
pub(crate) struct Miss {
    #[command(flatten)]
    options: Options,
    /// The calls of one round
    #[arg(long, default_value_t = 20_000)]
    calls: usize,
}

const PRESENT: usize = 1_000;

impl Miss {
    pub(crate) async fn run(self) -> io::Result<()> {
        self.get().await?;
        self.get_or_load().await
    }

    async fn get(&self) -> io::Result<()> {
        let present = keys::names(0..PRESENT);
        let absent: Arc<[String]> = keys::names(PRESENT..2 * PRESENT).into();
        let times = self.calls.div_ceil(PRESENT);
        let mut contest = Contest::new("A miss: get of an absent key", "ns");
        let recipes = [peers::plain(), peers::stores(), peers::chains_of_one(), peers::chains(), peers::layered()];
        for (name, recipe) in recipes.concat() {
            let cache = filled(recipe(100_000), &present, &Text::from("value")).await;
            let (cache, absent) = (Arc::<dyn Peer<String, Text>>::from(cache), Arc::clone(&absent));
            contest.add(name, move || {
                let (cache, absent) = (Arc::clone(&cache), Arc::clone(&absent));
                nanos_in_task(times * PRESENT, async move {
                    for _ in 0..times {
                        assert_eq!(cache.ask_each(&absent).await, 0, "the keys are absent");
                    }
                })
            });
        }
        contest.run(&self.options).await.map(drop)
    }

    async fn get_or_load(&self) -> io::Result<()> {
        let mut contest = Contest::new("A miss: get_or_load of a new key, the loader is ready", "ns");
        for (name, recipe) in peers::loaders() {
            let cache = Arc::<dyn Loader<String, Text>>::from(recipe(1_000_000));
            let mut next = 0;
            contest.add(name, move || {
                next += self.calls;
                let (cache, names) = (Arc::clone(&cache), keys::names(next - self.calls..next));
                nanos_in_task(self.calls, async move {
                    cache.load_each(&names, &Text::from("value")).await;
                    cache.settle().await;
                })
            });
        }
        contest.run(&self.options).await.map(drop)
    }
}
