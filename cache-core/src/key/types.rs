//! Implementations of `CacheKey`.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    rc::Rc,
    sync::Arc,
};

use super::{CacheKey, Key, KeyWriter};

impl CacheKey for Key {
    fn write_key(&self, out: &mut KeyWriter) {
        out.push(&self.bytes);
    }
}

impl CacheKey for str {
    #[inline]
    fn write_key(&self, out: &mut KeyWriter) {
        out.push(self.as_bytes());
    }
}

impl CacheKey for String {
    #[inline]
    fn write_key(&self, out: &mut KeyWriter) {
        out.push(self.as_bytes());
    }
}

impl CacheKey for [u8] {
    fn write_key(&self, out: &mut KeyWriter) {
        out.push(self);
    }
}

impl<const N: usize> CacheKey for [u8; N] {
    fn write_key(&self, out: &mut KeyWriter) {
        out.push(self);
    }
}

impl CacheKey for Vec<u8> {
    fn write_key(&self, out: &mut KeyWriter) {
        out.push(self);
    }
}

impl CacheKey for char {
    fn write_key(&self, out: &mut KeyWriter) {
        out.push(self.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

impl CacheKey for bool {
    fn write_key(&self, out: &mut KeyWriter) {
        out.push(if *self { b"true" } else { b"false" });
    }
}

impl CacheKey for fmt::Arguments<'_> {
    fn write_key(&self, out: &mut KeyWriter) {
        // The writer never fails; a failing `Display` leaves a shorter key.
        let _ = out.write_fmt(*self);
    }
}

macro_rules! integers {
    ($($integer:ty)*) => {$(
        impl CacheKey for $integer {
            #[inline]
            fn write_key(&self, out: &mut KeyWriter) {
                out.push(itoa::Buffer::new().format(*self).as_bytes());
            }
        }
    )*};
}
integers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);

macro_rules! pointers {
    ($($pointer:ty)*) => {$(
        impl<T: CacheKey + ?Sized> CacheKey for $pointer {
            fn write_key(&self, out: &mut KeyWriter) {
                (**self).write_key(out);
            }
        }
    )*};
}
pointers!(&T &mut T Box<T> Rc<T> Arc<T>);

impl<T: CacheKey + ToOwned + ?Sized> CacheKey for Cow<'_, T> {
    fn write_key(&self, out: &mut KeyWriter) {
        (**self).write_key(out);
    }
}

macro_rules! tuples {
    ($(($($name:ident)+))*) => {$(
        impl<$($name: CacheKey),+> CacheKey for ($($name,)+) {
            fn write_key(&self, out: &mut KeyWriter) {
                #[allow(non_snake_case, reason = "the type's name serves as the field's")]
                let ($($name,)+) = self;
                $(out.field($name);)+
            }
        }
    )*};
}
tuples!((A)(A B)(A B C)(A B C D)(A B C D E)(A B C D E F)(A B C D E F G)(A B C D E F G H));

#[cfg(feature = "uuid")]
impl CacheKey for uuid::Uuid {
    /// Writes the hyphenated text in lower case.
    fn write_key(&self, out: &mut KeyWriter) {
        out.push(self.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()).as_bytes());
    }
}

/// A wrapper that makes a key of the text of a value, for types of other crates that implement
/// [`Display`](fmt::Display) but not [`CacheKey`].
///
/// Two values with the same text are the same key. Wrap only types whose text identifies the value:
/// an address or a version, but not a float that is displayed with two decimals. The text is
/// written unchanged and without an allocation.
///
/// # Examples
///
/// ```
/// use std::net::IpAddr;
///
/// use cache_core::{DelegateCache, DisplayKey};
/// use store_stretto::StrettoStore;
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> cache_core::Result<()> {
///     let hosts = DelegateCache::new(StrettoStore::new(10_000)?);
///     let address = IpAddr::from([192, 0, 2, 1]);
///     hosts.set(("host", DisplayKey(address)), "example.com".to_owned()).await?;
///     assert_eq!(hosts.get("host:192.0.2.1").await?.as_deref(), Some("example.com"));
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DisplayKey<T>(pub T);

impl<T: fmt::Display> CacheKey for DisplayKey<T> {
    fn write_key(&self, out: &mut KeyWriter) {
        format_args!("{}", self.0).write_key(out);
    }
}
