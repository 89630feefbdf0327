//! The default codec.

/// The codec of a store whose builder sets none: bincode with the feature `bincode`. Without the
/// feature there is no default, and [`codec`](crate::RedisStoreBuilder::codec) must set one.
#[cfg(feature = "bincode")]
pub type DefaultCodec = cache_core::codec::Bincode;
/// The codec of a store whose builder sets none: bincode with the feature `bincode`. Without the
/// feature there is no default, and [`codec`](crate::RedisStoreBuilder::codec) must set one.
#[cfg(not(feature = "bincode"))]
pub type DefaultCodec = ();
