//! The bytes of derived keys. No two values of a derived type have the same bytes.

use std::borrow::Cow;

use cache_core::{CacheKey, Key};
use proptest::prelude::*;

fn bytes(key: &(impl CacheKey + ?Sized)) -> Vec<u8> {
    Key::new(key).unwrap().as_bytes().to_vec()
}

#[derive(CacheKey, Clone, PartialEq, Debug)]
struct Pair {
    left: String,
    right: Vec<u8>,
}

#[derive(CacheKey, Clone, PartialEq, Debug)]
struct Newtype(String);

#[derive(CacheKey, Clone, PartialEq, Debug)]
struct One {
    only: String,
}

#[derive(CacheKey, Clone, PartialEq, Debug)]
enum Choice {
    Unit,
    New(String),
    Newtype(String),
    Tuple(String, Pair),
    Struct {
        field0: String,
        out: Newtype,
    },
    #[allow(non_camel_case_types, reason = "a keyword as the name of a variant")]
    r#type,
}

#[derive(CacheKey, Clone, PartialEq, Debug)]
struct Nested(Pair, Choice, (String, Newtype), One);

#[derive(CacheKey, Clone, PartialEq, Debug)]
struct Generic<'a, T: ?Sized + ToOwned, const N: usize>
where
    T::Owned: Clone,
{
    text: &'a str,
    digest: [u8; N],
    other: &'a T,
}

#[derive(CacheKey)]
enum Never {}

#[derive(CacheKey)]
struct Slice<T: ?Sized> {
    id: u8,
    rest: T,
}

#[test]
fn structs_write_their_fields_and_newtypes_their_field() {
    assert_eq!(bytes(&Pair { left: "a:b".into(), right: b"c".to_vec() }), b"a\\:b:c");
    assert_eq!(bytes(&Newtype("a:b".into())), b"a:b");
    assert_eq!(bytes(&One { only: "a:b".into() }), bytes(&("a:b",)));
    let generic = Generic { text: "t", digest: *b"0:", other: "o" };
    assert_eq!(bytes(&generic), b"t:0\\::o");
    let slice: &Slice<[u8]> = &Slice { id: 7, rest: *b"abc" };
    assert_eq!(bytes(slice), b"7:abc");
    let _: fn(&Never) -> Cow<'_, str> = |never| match *never {};
}

#[test]
fn enums_write_the_variant_first() {
    let pair = Pair { left: "l".into(), right: b"r".to_vec() };
    assert_eq!(bytes(&Choice::Unit), b"Unit");
    assert_eq!(bytes(&Choice::r#type), b"type");
    assert_eq!(bytes(&Choice::Newtype("a:b".into())), b"Newtype:a\\:b");
    assert_eq!(bytes(&Choice::Tuple("t".into(), pair)), b"Tuple:t:l\\:r");
    assert_eq!(bytes(&Choice::Struct { field0: "s".into(), out: Newtype("n".into()) }), b"Struct:s:n");
}

/// Few characters, most of them separators and escapes, and what one name of a variant has more
/// than another.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[:\\\\a]{0,4}", Just("Unit".to_owned()), Just("type".to_owned()), Just(String::new())]
}

fn pair() -> impl Strategy<Value = Pair> {
    (text(), text()).prop_map(|(left, right)| Pair { left, right: right.into_bytes() })
}

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![
        Just(Choice::Unit),
        text().prop_map(Choice::New),
        Just(Choice::r#type),
        text().prop_map(Choice::Newtype),
        (text(), pair()).prop_map(|(text, pair)| Choice::Tuple(text, pair)),
        (text(), text()).prop_map(|(field0, out)| Choice::Struct { field0, out: Newtype(out) }),
    ]
}

fn nested() -> impl Strategy<Value = Nested> {
    (pair(), choice(), text(), text(), text())
        .prop_map(|(pair, choice, a, b, only)| Nested(pair, choice, (a, Newtype(b)), One { only }))
}

/// Two values that differ in a few places at most.
fn close() -> impl Strategy<Value = (Nested, Nested)> {
    (nested(), nested(), any::<[bool; 4]>()).prop_map(|(a, b, keep)| {
        let mut mixed = b;
        if keep[0] {
            mixed.0 = a.0.clone();
        }
        if keep[1] {
            mixed.1 = a.1.clone();
        }
        if keep[2] {
            mixed.2 = a.2.clone();
        }
        if keep[3] {
            mixed.3 = a.3.clone();
        }
        (a, mixed)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn enums_are_injective(a in choice(), b in choice()) {
        prop_assert_eq!(a == b, bytes(&a) == bytes(&b));
    }

    #[test]
    fn nested_keys_are_injective((a, b) in close()) {
        prop_assert_eq!(a == b, bytes(&a) == bytes(&b));
    }

    #[test]
    fn a_struct_writes_what_the_tuple_of_its_fields_writes(nested in nested()) {
        let Nested(pair, choice, tuple, one) = &nested;
        prop_assert_eq!(bytes(&nested), bytes(&(pair, choice, tuple, one)));
        let written = bytes(&(&pair.left, &pair.right));
        prop_assert_eq!(bytes(&(pair, 1)), bytes(&((&pair.left, &pair.right), 1)));
        prop_assert_eq!(bytes(&(pair.clone(),)), bytes(&((&pair.left, &pair.right),)));
        if !written.is_empty() {
            prop_assert_eq!(bytes(pair), written);
        }
    }
}
