#![doc = include_str!("../README.md")]

mod expand;

use proc_macro::TokenStream;

/// Derives the trait `CacheKey`. Each field must implement `CacheKey`, and so must each type
/// parameter.
///
/// - A struct writes its fields in order, as a tuple does: joined by `:`, with `:` and `\` escaped.
/// - A newtype, that is a tuple struct with one field, writes what its field writes.
/// - An enum writes the name of the variant and then the fields of the variant, joined in the same
///   way.
///
/// Two values of the type write the same bytes only if their fields do. The name of the struct or
/// the enum is not written: two types whose fields write the same bytes have the same keys.
/// Renaming a variant, or reordering fields, changes the keys.
///
/// Unions, and structs without fields, are refused.
///
/// # Examples
///
/// ```
/// use cache_core::{CacheKey, Key};
///
/// #[derive(CacheKey)]
/// struct UserId(u64);
///
/// #[derive(CacheKey)]
/// enum Page {
///     Home,
///     Profile(UserId),
///     Search { text: String, page: u32 },
/// }
///
/// fn main() -> cache_core::Result<()> {
///     assert_eq!(Key::new(&Page::Home)?.as_bytes(), b"Home");
///     assert_eq!(Key::new(&Page::Profile(UserId(42)))?.as_bytes(), b"Profile:42");
///     assert_eq!(Key::new(&Page::Search { text: "a:b".into(), page: 2 })?.as_bytes(), b"Search:a\\:b:2");
///     Ok(())
/// }
/// ```
#[proc_macro_derive(CacheKey)]
pub fn cache_key(input: TokenStream) -> TokenStream {
    expand::derive(input.into(), &quote::quote!(::cache_core)).into()
}

/// Derives the trait for applications that depend on cache-chain and not on cache-core.
#[doc(hidden)]
#[proc_macro_derive(CacheKeyOfCacheChain)]
pub fn cache_key_of_cache_chain(input: TokenStream) -> TokenStream {
    expand::derive(input.into(), &quote::quote!(::cache_chain)).into()
}
