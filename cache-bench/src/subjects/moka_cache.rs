use moka::future::Cache;

use crate::subject::{Answer, KEY, Load, Stop, Subject, Write};

#[derive(Clone)]
pub(crate) struct Moka(Cache<String, String>);

impl Subject for Moka {
    const NAME: &'static str = "moka";
    const TIERED: bool = false;

    fn caches<const N: usize>(_reads: &Stop) -> [Self; N] {
        [(); N].map(|()| Self(Cache::new(1000)))
    }

    async fn load(&self, load: Load) -> Answer {
        self.0.try_get_with(KEY.to_owned(), load.run()).await.map_err(|error| error.to_string())
    }

    async fn write(&self, write: Write) -> Result<(), String> {
        match write {
            Write::Set(value) => self.0.insert(KEY.to_owned(), value.to_owned()).await,
            Write::Del => self.0.invalidate(KEY).await,
            Write::Clear => self.0.invalidate_all(),
        }
        Ok(())
    }
}
