//! How a value lies in Redis.

use cache_core::{
    Codec, Entry, Result,
    backend::{Binding, Envelope, Life, write_id},
};

/// How a value lies in Redis.
pub(crate) enum Layout<C> {
    /// As a record: leases, exact lives, and no value taken for another.
    Record(Envelope<C>),
    /// As the codec's bytes alone, for programs that know nothing of this cache.
    Plain(C),
}

impl<C> Layout<C> {
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// The bytes of an entry that is written to live like that, under this id or a new one; `None` if there is no value, or it
    /// is stale, and this layout cannot say so.
    pub(crate) fn seal<V>(
        &self,
        binding: Binding<'_>,
        entry: &Entry<V>,
        life: Life,
        id: Option<u64>,
    ) -> Result<Option<Vec<u8>>>
    where
        C: Codec<V>,
    {
        match (self, entry.value()) {
            (Self::Record(envelope), value) => {
                let id = id.unwrap_or_else(write_id::next);
                value
                    .map_or_else(
                        || Ok(envelope.seal_absent(binding, life, id)),
                        |value| envelope.seal(binding, value, life, id),
                    )
                    .map(Some)
            }
            (Self::Plain(codec), Some(value)) if life.stale != Some(life.created) => {
                let mut bytes = Vec::new();
                codec.encode(value, &mut bytes)?;
                Ok(Some(bytes))
            }
            (Self::Plain(_), _) => Ok(None),
        }
    }
}
