use proptest::prelude::*;

use super::*;

fn bytes(key: impl CacheKey) -> Vec<u8> {
    Key::new(&key).unwrap().as_bytes().to_vec()
}

#[test]
fn keys_stay_readable() {
    assert_eq!(bytes("users"), b"users");
    assert_eq!(bytes(42), b"42");
    assert_eq!(bytes(i64::MIN), b"-9223372036854775808");
    assert_eq!(bytes(("acme", 42)), b"acme:42");
    assert_eq!(bytes(("a:b", "c")), b"a\\:b:c");
    assert_eq!(bytes((("a", "b"), "c")), b"a\\:b:c");
    assert_eq!(bytes(format_args!("user/{}", 7)), b"user/7");
}

#[test]
fn fields_do_not_run_into_each_other() {
    assert_ne!(bytes(("a:b", "c")), bytes(("a", "b:c")));
    assert_ne!(bytes(("a\\", "b")), bytes(("a", "\\b")));
    assert_ne!(bytes(("", "a")), bytes(("a", "")));
    assert_ne!(bytes((("a", "b"), "c")), bytes(("a", "b", "c")));
}

#[test]
fn sizes_from_one_byte_to_the_maximum() {
    assert_eq!(bytes([0_u8]), [0]);
    assert_eq!(bytes(vec![0xff_u8; Key::MAX_LEN]), vec![0xff; Key::MAX_LEN]);
    let empty = Key::new("").unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::InvalidInput);
    let long = Key::new(&vec![b'a'; Key::MAX_LEN + 1]).unwrap_err();
    assert_eq!(long.kind(), ErrorKind::InvalidInput);
    assert!(long.to_string().contains("65536"), "{long}");
    // Escaping is bounded as well: a field of backslashes inside a tuple.
    let nested = Key::new(&(("\\".repeat(Key::MAX_LEN), 1), 2)).unwrap_err();
    assert_eq!(nested.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_key_is_one_cache_line_and_does_not_allocate_when_short() {
    assert_eq!(size_of::<Key>(), 64);
    assert_eq!(Key::new(&"x".repeat(INLINE)).unwrap().memory(), 64);
    assert!(Key::new(&"x".repeat(INLINE + 1)).unwrap().memory() > 64);
}

#[test]
fn a_wrapped_value_is_what_it_displays() {
    let address = DisplayKey(std::net::Ipv4Addr::LOCALHOST);
    assert_eq!(bytes(address), b"127.0.0.1");
    // A field like any other.
    assert_eq!(bytes((DisplayKey(std::net::Ipv6Addr::LOCALHOST), 1)), b"\\:\\:1:1");
    assert_eq!(bytes(DisplayKey(format_args!("user/{}", 7))), b"user/7");
    let digits: &dyn fmt::Display = &42;
    assert_eq!(bytes(DisplayKey(digits)), b"42");
}

#[cfg(feature = "uuid")]
#[test]
fn a_uuid_is_its_hyphenated_text_and_does_not_allocate() {
    let id = uuid::Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8);
    assert_eq!(bytes(id), b"67e55044-10b1-426f-9247-bb680e5fe0c8");
    assert_eq!(bytes(("user", id)), b"user:67e55044-10b1-426f-9247-bb680e5fe0c8");
    let (key, allocated) = (Key::new(&id), allocation_counter::measure(|| drop(Key::new(&id))));
    assert_eq!((key.unwrap().memory(), allocated.count_total), (64, 0));
}

#[test]
fn debug_shows_the_text() {
    assert_eq!(format!("{:?}", Key::new(&b"a\xff\"".to_vec()).unwrap()), "Key(\"a\\xff\\\"\")");
}

type Fields = (Vec<u8>, (String, Vec<u8>), i64);

proptest! {
    #[test]
    fn tuples_are_injective(a in any::<Fields>(), b in any::<Fields>()) {
        prop_assert_eq!(a == b, bytes(&a) == bytes(&b));
    }

    /// The interesting cases are made of separators and escapes.
    #[test]
    fn tuples_of_separators_are_injective(
        a in ("[:\\\\a]{0,4}", ("[:\\\\a]{0,4}", "[:\\\\a]{0,4}")),
        b in ("[:\\\\a]{0,4}", ("[:\\\\a]{0,4}", "[:\\\\a]{0,4}")),
    ) {
        prop_assert_eq!(a == b, bytes(&a) == bytes(&b));
    }

    #[test]
    fn equal_bytes_have_equal_fingerprints(a in prop::collection::vec(any::<u8>(), 1..200)) {
        prop_assert_eq!(Key::new(&a).unwrap(), Key::new(&a.clone()).unwrap());
    }
}
