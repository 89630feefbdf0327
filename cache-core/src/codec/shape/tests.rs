//! Changes of a type that the probe sees, and changes that it does not see.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::CString,
    net::{IpAddr, SocketAddr},
    num::NonZeroU8,
    time::{Duration, SystemTime},
};

use serde::de::DeserializeOwned;
use serde_derive::{Deserialize, Serialize};

use super::{describe, shape_of};
use crate::{
    Codec, ErrorKind,
    backend::{Binding, Envelope, Life, Opened},
    codec::{Bincode, Json, MessagePack, Postcard},
};

/// Declares a type in a module of its own, so that several may have the same name.
macro_rules! types {
    ($($module:ident { $($item:item)* })*) => {$(
        #[allow(dead_code, reason = "only its shape matters")]
        mod $module {
            #[allow(unused_imports, reason = "not every type needs them")]
            use std::collections::BTreeMap;
            use serde_derive::{Deserialize, Serialize};
            $(#[derive(Serialize, Deserialize)] $item)*
        }
    )*};
}

types! {
    before { pub(super) struct User { pub(super) first: String, pub(super) last: String, age: u8 } }
    moved { pub(super) struct User { first: String, last: String, age: u8 } }
    swapped { pub(super) struct User { pub(super) last: String, pub(super) first: String, age: u8 } }
    renamed { pub(super) struct User { first: String, name: String, age: u8 } }
    retyped { pub(super) struct User { first: String, last: String, age: i8 } }
    widened { pub(super) struct User { first: String, last: String, age: u16 } }
    optional { pub(super) struct User { first: String, last: String, age: Option<u8> } }
    added { pub(super) struct User { first: String, last: String, age: u8, more: () } }
    nested_before { pub(super) struct Team { members: Vec<super::before::User> } }
    nested_after { pub(super) struct Team { members: Vec<super::swapped::User> } }
    map_before { pub(super) struct Team { members: BTreeMap<u32, super::before::User> } }
    map_key { pub(super) struct Team { members: BTreeMap<u64, super::before::User> } }
    map_value { pub(super) struct Team { members: BTreeMap<u32, super::swapped::User> } }
    role { pub(super) enum Role { Guest, Member(u16), Admin { level: u8 } } }
    role_order { pub(super) enum Role { Member(u16), Guest, Admin { level: u8 } } }
    role_last { pub(super) enum Role { Guest, Member(u16), Admin { level: u16 } } }
    role_name { pub(super) enum Role { Guest, Member(u16), Admin { rank: u8 } } }
    role_more { pub(super) enum Role { Guest, Member(u16), Admin { level: u8 }, Owner } }
    role_unit { pub(super) enum Role { Guest, Member, Admin { level: u8 } } }
    meters { pub(super) struct Distance(f64); }
    feet { pub(super) struct Feet(f64); }
}

#[test]
fn each_change_of_a_struct_is_another_shape() {
    let before = shape_of::<before::User>();
    assert_eq!(shape_of::<moved::User>(), before, "the module is no part of the shape");
    let others = [
        shape_of::<swapped::User>(),
        shape_of::<renamed::User>(),
        shape_of::<retyped::User>(),
        shape_of::<widened::User>(),
        shape_of::<optional::User>(),
        shape_of::<added::User>(),
        before,
    ];
    assert_eq!(BTreeSet::from(others).len(), others.len());
    assert_ne!(shape_of::<meters::Distance>(), shape_of::<feet::Feet>());
}

#[test]
fn each_change_of_an_enum_is_another_shape() {
    let shapes = [
        shape_of::<role::Role>(),
        shape_of::<role_order::Role>(),
        shape_of::<role_last::Role>(),
        shape_of::<role_name::Role>(),
        shape_of::<role_more::Role>(),
        shape_of::<role_unit::Role>(),
    ];
    assert_eq!(BTreeSet::from(shapes).len(), shapes.len());
    // In whatever surrounds it.
    assert_ne!(shape_of::<Vec<Option<role::Role>>>(), shape_of::<Vec<Option<role_last::Role>>>());
}

#[test]
fn changes_are_seen_below_collections() {
    let shapes = [
        shape_of::<nested_before::Team>(),
        shape_of::<nested_after::Team>(),
        shape_of::<map_before::Team>(),
        shape_of::<map_key::Team>(),
        shape_of::<map_value::Team>(),
    ];
    assert_eq!(BTreeSet::from(shapes).len(), shapes.len());
    assert_ne!(shape_of::<(u8, u16)>(), shape_of::<(u16, u8)>());
    assert_ne!(shape_of::<[u8; 3]>(), shape_of::<[u8; 4]>());
    assert_ne!(shape_of::<Option<u8>>(), shape_of::<u8>());
    assert_ne!(shape_of::<Vec<u8>>(), shape_of::<Vec<Vec<u8>>>());
}

#[derive(Serialize, Deserialize)]
enum Outer {
    Plain(Inner),
    Other { inner: Inner, list: Vec<Inner> },
    Last,
}

#[derive(Serialize, Deserialize)]
enum Inner {
    A,
    B(u8),
    C { deep: Deep },
}

#[derive(Serialize, Deserialize)]
enum Deep {
    X(char),
    Y(i64),
    Z(f32),
}

#[test]
fn every_variant_is_seen_wherever_it_is() {
    let description = describe::<Outer>();
    for seen in ["0(", "1(", "2(", "u8 ", "char ", "i64 ", "f32 "] {
        assert!(description.contains(seen), "{description} lacks {seen:?}");
    }
    assert!(!description.contains("any"));
}

#[test]
fn the_description_is_part_of_the_format() {
    assert_eq!(describe::<before::User>(), "/\"User\" \"first\" \"last\" \"age\" struct 3(str str u8 )");
    assert_eq!(
        describe::<(Option<role::Role>,)>(),
        "/tuple 1(option enum \"Role\" \"Guest\" \"Member\" \"Admin\" 0(unit))\
         /tuple 1(option enum \"Role\" \"Guest\" \"Member\" \"Admin\" 1(u16 ))\
         /tuple 1(option enum \"Role\" \"Guest\" \"Member\" \"Admin\" 2(\"level\" struct 1(u8 )))"
    );
    assert_eq!(describe::<BTreeMap<String, Vec<bool>>>(), "/map 1(str :seq 1(bool ))");
    assert_eq!(shape_of::<before::User>(), crc32fast::hash(describe::<before::User>().as_bytes()));
}

#[derive(Serialize, Deserialize)]
struct Page {
    title: String,
    parent: Option<Box<Page>>,
    children: Vec<Page>,
    by_name: HashMap<String, Page>,
    tail: u128,
}

#[derive(Serialize, Deserialize)]
enum Expression {
    Sum(Box<Expression>, Box<Expression>),
    Call { name: String, arguments: Vec<Expression> },
    Negative(Box<Expression>),
    Literal(f64),
}

#[derive(Serialize, Deserialize)]
enum List {
    Cons(u8, Box<List>),
    Nil,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Forest(Vec<Forest>);

#[test]
fn recursive_types_come_to_an_end() {
    let page = describe::<Page>();
    assert!(page.ends_with("u128 )") && page.len() < 1000, "{page}");
    let expression = describe::<Expression>();
    assert!(expression.contains("f64") && expression.contains("str") && expression.len() < 4000, "{expression}");
    assert!(describe::<List>().len() < 200);
    assert_eq!(describe::<Forest>(), "/seq 1(seq 0())");
    let all = describe::<(List, Expression, Page, List)>();
    assert!(all.contains("f64") && all.ends_with("unit))))"), "{all}");
}

#[derive(Serialize, Deserialize)]
struct Particular {
    nonzero: NonZeroU8,
    address: IpAddr,
    socket: SocketAddr,
    raw: CString,
    since: SystemTime,
    for_long: Duration,
    even: Even,
    date: Date,
    tail: i128,
}

#[derive(Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
#[derive(Clone)]
struct Even(u32);

impl TryFrom<u32> for Even {
    type Error = &'static str;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        if number.is_multiple_of(2) { Ok(Self(number)) } else { Err("odd") }
    }
}

impl From<Even> for u32 {
    fn from(even: Even) -> Self {
        even.0
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Date(String);

impl TryFrom<String> for Date {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.split('-').count() == 3 { Ok(Self(text)) } else { Err("no date") }
    }
}

impl From<Date> for String {
    fn from(date: Date) -> Self {
        date.0
    }
}

#[test]
fn types_that_are_particular_about_values_are_seen_to_the_end() {
    let description = describe::<Particular>();
    assert!(description.ends_with("i128 )"), "{description}");
}

#[derive(Debug, Serialize)]
struct Never;

impl<'de> serde::Deserialize<'de> for Never {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        assert_ne!(text, "1", "a panic in the application");
        Err(serde::de::Error::custom(text))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    A(u8),
    B(String),
}

#[derive(Serialize, Deserialize)]
struct Flat {
    id: u8,
    #[serde(flatten)]
    rest: Duration,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "t")]
enum Tagged {
    A { a: u8 },
    B { b: u16 },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    A(u8),
    B { b: u16 },
}

fn fails<V: serde::Serialize + DeserializeOwned>(value: &V) {
    let mut bytes = Vec::new();
    let encoded = Bincode.encode(value, &mut bytes);
    assert!(encoded.is_err() || Codec::<V>::decode(&Bincode, &bytes).is_err());
}

/// The changes that the READMEs list as undetected.
#[test]
fn what_accepts_no_dummy_has_a_partial_shape() {
    // What comes before is seen, and so are the names after it.
    assert_eq!(describe::<(u8, Never, u16)>(), describe::<(u8, Never, u32)>());
    assert_ne!(describe::<(u8, Never)>(), describe::<(u16, Never)>());
    assert_eq!(describe::<Untagged>(), "/any");
    assert!(describe::<Flat>().ends_with("any"));
    assert!(describe::<Tagged>().ends_with("any"));
    assert!(describe::<Adjacent>().ends_with("identifier "));
    // These four need a format that is self-describing.
    fails(&Untagged::A(1));
    fails(&Flat { id: 1, rest: Duration::ZERO });
    fails(&Tagged::A { a: 1 });
    fails(&Adjacent::A(1));
}

#[test]
fn large_types_are_probed_for_a_bounded_time() {
    let array = describe::<[[[[(); 32]; 32]; 32]; 32]>();
    assert!((1 << 18..=1 << 20).contains(&array.len()), "{}", array.len());
}

#[test]
fn formats_that_name_the_fields_have_no_shape() {
    fn shape<V, C: Codec<V>>(codec: &C) -> Option<u32> {
        codec.shape()
    }
    assert_eq!(shape::<before::User, _>(&Json), None);
    assert_eq!(shape::<before::User, _>(&MessagePack), None);
    assert_eq!(shape::<before::User, _>(&Bincode), Some(shape_of::<before::User>()));
    assert_eq!(shape::<before::User, _>(&Postcard), Some(shape_of::<before::User>()));
    assert_eq!(Envelope::shaped_tag(7, None), 7);
    assert_eq!(Envelope::shaped_tag(7, Some(8)), 0xAA53_FE9F);
}

/// Seals a user, and opens the record as a user with swapped fields, both with the tag that `tag`
/// makes.
fn swap<C>(codec: C, tag: impl Fn(Option<u32>) -> u32) -> crate::Result<Opened<swapped::User>>
where
    C: Codec<before::User> + Codec<swapped::User> + Copy,
{
    let user: before::User = serde_json::from_str(r#"{"first":"Ada","last":"Lovelace","age":36}"#).unwrap();
    let (binding, life) = (Binding::new(b"k", 0), Life::new(1, None));
    let sealing = Envelope::new(codec, tag(Codec::<before::User>::shape(&codec)));
    let record = sealing.seal(binding, &user, life, 1).unwrap();
    Envelope::new(codec, tag(Codec::<swapped::User>::shape(&codec))).open(b"k", &record)
}

#[test]
fn a_record_of_swapped_fields_does_not_open() {
    let name = Envelope::schema_tag("user");
    let Ok(Opened::Record(garbage)) = swap(Bincode, |_| name) else { panic!("it does not open without a shape") };
    let garbage = garbage.value.unwrap();
    assert_eq!((&*garbage.first, &*garbage.last), ("Lovelace", "Ada"));
    for refused in [
        swap(Bincode, |shape| Envelope::shaped_tag(name, shape)),
        swap(Postcard, |shape| Envelope::shaped_tag(name, shape)),
    ] {
        assert_eq!(refused.map(|_| ()).unwrap_err().kind(), ErrorKind::Codec);
    }
    // Names tell the fields apart.
    for opened in [
        swap(Json, |shape| Envelope::shaped_tag(name, shape)),
        swap(MessagePack, |shape| Envelope::shaped_tag(name, shape)),
    ] {
        let Ok(Opened::Record(record)) = opened else { panic!("it does not open") };
        let user = record.value.unwrap();
        assert_eq!((&*user.first, &*user.last), ("Ada", "Lovelace"));
    }
}

/// Every type that is encoded in other tests can be probed.
#[test]
fn the_same_type_has_the_same_shape_each_time() {
    fn check<T: DeserializeOwned>() {
        assert_eq!(describe::<T>(), describe::<T>());
    }
    check::<Outer>();
    check::<Particular>();
    check::<HashMap<String, Expression>>();
    check::<Result<(), Box<str>>>();
}
