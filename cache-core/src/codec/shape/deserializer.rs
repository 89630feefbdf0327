//! A deserializer that notes what a type asks for, and gives it dummy values.

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::state::{Refused, State};

/// One value of a type that is being probed.
pub(super) struct Probe<'a>(pub(super) &'a mut State);

/// Texts that types which parse them may accept.
const TEXTS: [&str; 9] = [
    "a",
    "1",
    "2000-01-01T00:00:00Z",
    "2000-01-01",
    "2000-01-01T00:00:00",
    "127.0.0.1",
    "http://a.example/",
    "00000000-0000-4000-8000-000000000001",
    "",
];

/// Bytes that types which parse them may accept, such as addresses and UUIDs.
const BYTES: [&[u8]; 4] = [&[1; 16], &[1; 4], &[1; 32], &[]];

impl Probe<'_> {
    /// Writes `head` and gives the elements of a value that is open already.
    pub(super) fn elements<'de, V: Visitor<'de>>(
        self,
        head: &str,
        elements: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.0.write(&format!("{head}{elements}("));
        let value = visitor.visit_seq(Elements { state: self.0, left: elements })?;
        self.0.write(")");
        Ok(value)
    }

    /// Gives a value of a type that may contain itself.
    fn open<T>(self, give: impl FnOnce(Probe<'_>, bool) -> Result<T, Refused>) -> Result<T, Refused> {
        self.0.step()?;
        let recursive = self.0.enter::<T>();
        let value = give(Probe(self.0), recursive);
        self.0.leave(recursive);
        value
    }

    /// Returns the number of elements of a collection.
    fn some(&self) -> usize {
        usize::from(!self.0.must_end())
    }
}

macro_rules! leaves {
    ($($method:ident $visit:ident $kind:literal $values:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            self.0.step()?;
            self.0.write(concat!($kind, " "));
            let values = $values;
            visitor.$visit(values[self.0.choose_value::<V::Value>(values.len())])
        }
    )*};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Refused;

    leaves! {
        deserialize_bool visit_bool "bool" [false, true];
        deserialize_i8 visit_i8 "i8" [1, 0];
        deserialize_i16 visit_i16 "i16" [1, 0];
        deserialize_i32 visit_i32 "i32" [1, 0];
        deserialize_i64 visit_i64 "i64" [1, 0];
        deserialize_i128 visit_i128 "i128" [1, 0];
        deserialize_u8 visit_u8 "u8" [1, 0];
        deserialize_u16 visit_u16 "u16" [1, 0];
        deserialize_u32 visit_u32 "u32" [1, 0];
        deserialize_u64 visit_u64 "u64" [1, 0];
        deserialize_u128 visit_u128 "u128" [1, 0];
        deserialize_f32 visit_f32 "f32" [1.0, 0.0];
        deserialize_f64 visit_f64 "f64" [1.0, 0.0];
        deserialize_char visit_char "char" ['a', '0'];
        deserialize_str visit_str "str" TEXTS;
        // The same bytes are written for both.
        deserialize_string visit_str "str" TEXTS;
        deserialize_identifier visit_str "identifier" TEXTS;
        deserialize_bytes visit_bytes "bytes" BYTES;
        deserialize_byte_buf visit_bytes "bytes" BYTES;
    }

    /// A type that depends on the format for the next type has no shape of its own.
    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Refused> {
        self.0.write("any");
        self.0.give_up()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Refused> {
        self.0.write("ignored");
        self.0.give_up()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.0.write("option ");
        self.open::<V::Value>(
            |probe, _| if probe.0.must_end() { visitor.visit_none() } else { visitor.visit_some(probe) },
        )
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.0.step()?;
        self.0.write("unit ");
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refused> {
        self.0.write_names(&[name]);
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refused> {
        self.0.write("newtype ");
        self.0.write_names(&[name]);
        self.open::<V::Value>(|probe, _| visitor.visit_newtype_struct(probe))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.open::<V::Value>(|probe, _| {
            let some = probe.some();
            probe.elements("seq ", some, visitor)
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Refused> {
        self.open::<V::Value>(|probe, _| probe.elements("tuple ", len, visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.0.write_names(&[name]);
        self.open::<V::Value>(|probe, _| probe.elements("tuple ", len, visitor))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.0.write("map ");
        self.open::<V::Value>(|probe, _| {
            let left = probe.some();
            probe.0.write(&format!("{left}("));
            let value = visitor.visit_map(Elements { state: &mut *probe.0, left })?;
            probe.0.write(")");
            Ok(value)
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.0.write_names(&[name]);
        self.0.write_names(fields);
        self.open::<V::Value>(|probe, _| probe.elements("struct ", fields.len(), visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.0.write("enum ");
        self.0.write_names(&[name]);
        self.0.write_names(variants);
        if variants.is_empty() {
            return self.0.give_up();
        }
        self.open::<V::Value>(|probe, recursive| {
            let variant = probe.0.choose_variant::<V::Value>(variants.len(), recursive);
            probe.0.write(&format!("{variant}("));
            let index = u32::try_from(variant).unwrap_or(u32::MAX);
            let value = visitor.visit_enum(Variant { state: &mut *probe.0, index })?;
            probe.0.write(")");
            probe.0.complete_variant::<V::Value>(variant);
            Ok(value)
        })
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// So many elements, or entries.
struct Elements<'a> {
    state: &'a mut State,
    left: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(Probe(self.state)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for Elements<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refused> {
        self.state.write(":");
        seed.deserialize(Probe(self.state))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// One variant.
struct Variant<'a> {
    state: &'a mut State,
    index: u32,
}

impl<'a, 'de> EnumAccess<'de> for Variant<'a> {
    type Error = Refused;
    type Variant = Probe<'a>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Probe<'a>), Refused> {
        let index = seed.deserialize(IntoDeserializer::<Refused>::into_deserializer(self.index))?;
        Ok((index, Probe(self.state)))
    }
}

impl<'de> VariantAccess<'de> for Probe<'_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        self.0.write("unit");
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refused> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Refused> {
        self.elements("tuple ", len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Refused> {
        self.0.write_names(fields);
        self.elements("struct ", fields.len(), visitor)
    }
}
