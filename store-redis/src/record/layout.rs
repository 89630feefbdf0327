//! The bytes of a value in Redis.

use cache_core::{
    Codec, Entry, Result,
    backend::{Binding, Envelope, Life, write_id},
};

/// The format of the values of a store.
pub(crate) enum Layout<C> {
    /// Records of an envelope: with leases, exact lifetimes and checks against foreign values.
    Record(Envelope<C>),
    /// The codec's bytes alone, for programs that do not know this cache.
    Plain(C),
}

impl<C> Layout<C> {
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Returns the bytes of an entry with this life, under `id` or a new id. Returns `None` if the
    /// entry has no value or is stale and the layout cannot represent that.
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
            (Self::Record(envelope), _) => {
                envelope.seal_entry(binding, entry, life, id.unwrap_or_else(write_id::next)).map(Some)
            }
            (Self::Plain(codec), Some(value)) if life.stale != Some(life.created) => {
                let mut bytes = Vec::new();
                codec.encode_for(binding.key, value, &mut bytes)?;
                Ok(Some(bytes))
            }
            (Self::Plain(_), _) => Ok(None),
        }
    }
}
