use cache_chain::ChainCache;
use cache_core::testkit::{MapStore, Operation, Phase, ScriptedStore};
use store_stretto::StrettoStore;

use crate::subject::{Answer, KEY, Load, Stop, Subject, Write};

#[derive(Clone)]
pub(crate) struct Ours(ChainCache<String>);

impl Subject for Ours {
    const NAME: &'static str = "ours";
    const TIERED: bool = true;

    fn caches<const N: usize>(reads: &Stop) -> [Self; N] {
        let (lower, reads) = (ScriptedStore::new(MapStore::new()), reads.clone());
        lower.at_every_step(move |operation, phase| {
            let reads = reads.clone();
            async move {
                if (operation, phase) == (Operation::Get, Phase::After) {
                    reads.pass().await;
                }
            }
        });
        [(); N].map(|()| {
            let memory = StrettoStore::new(1000).expect("the capacity is valid");
            Self(ChainCache::builder().tier(memory).tier(lower.clone()).build().expect("two tiers are valid"))
        })
    }

    async fn load(&self, load: Load) -> Answer {
        self.0.get_or_load(KEY, || load.run()).await.map_err(|error| error.to_string())
    }

    async fn write(&self, write: Write) -> Result<(), String> {
        let written = match write {
            Write::Set(value) => self.0.set(KEY, value.to_owned()).await,
            Write::Del => self.0.del(KEY).await,
            Write::Clear => self.0.clear().await,
        };
        written.map_err(|error| error.to_string())
    }

    async fn settled(&self) -> Result<(), String> {
        self.0.wait().await.map_err(|error| error.to_string())
    }
}
