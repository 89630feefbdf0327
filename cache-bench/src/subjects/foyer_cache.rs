use foyer::{Cache, CacheBuilder};

use crate::subject::{Answer, KEY, Load, Stop, Subject, Write};

#[derive(Clone)]
pub(crate) struct Foyer(Cache<String, String>);

impl Subject for Foyer {
    const NAME: &'static str = "foyer";
    const TIERED: bool = false;

    fn caches<const N: usize>(_reads: &Stop) -> [Self; N] {
        [(); N].map(|()| Self(CacheBuilder::new(1000).build()))
    }

    async fn load(&self, load: Load) -> Answer {
        let entry = self.0.get_or_fetch(KEY, || load.run()).await;
        entry.map(|entry| entry.value().clone()).map_err(|error| error.to_string())
    }

    async fn write(&self, write: Write) -> Result<(), String> {
        match write {
            Write::Set(value) => drop(self.0.insert(KEY.to_owned(), value.to_owned())),
            Write::Del => drop(self.0.remove(KEY)),
            Write::Clear => self.0.clear(),
        }
        Ok(())
    }
}
