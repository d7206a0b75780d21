//! serde over [`Node`]s. Own, because serde's errors through `toml::Value` know neither file nor line nor key, and
//! give the known keys as prose only.

use serde::Deserializer;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use toml::Value;

use super::fault::Fault;
use super::node::{Item, Node, Origin, Table};

/// A node and the keys that lead to it.
#[derive(Clone)]
pub(super) struct NodeDe<'n> {
    pub(super) node: &'n Node,
    pub(super) path: Vec<String>,
}

impl<'n> NodeDe<'n> {
    fn child(&self, key: &str, node: &'n Node) -> Self {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        Self { node, path }
    }

    /// The text behind `--set key=`, where it is no string by itself: `--set run.dir=2026` means a folder.
    fn typed_text(&self) -> Option<&'n str> {
        match (&self.node.origin, &self.node.item) {
            (_, Item::Leaf(Value::String(_))) => None,
            (Origin::Set(argument), Item::Leaf(_)) => argument.split_once('=').map(|(_, text)| text.trim()),
            _ => None,
        }
    }

    fn visit<V: Visitor<'n>>(&self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.item {
            Item::Leaf(Value::String(text)) => visitor.visit_str(text),
            Item::Leaf(Value::Integer(value)) => visitor.visit_i64(*value),
            Item::Leaf(Value::Float(value)) => visitor.visit_f64(*value),
            Item::Leaf(Value::Boolean(value)) => visitor.visit_bool(*value),
            Item::Leaf(other) => visitor.visit_string(other.to_string()),
            Item::Array(nodes) => visitor.visit_seq(Elements { of: self, nodes, next: 0 }),
            Item::Table(table) => visitor.visit_map(Entries { of: self, entries: table.iter(), value: None }),
        }
    }
}

impl<'n> Deserializer<'n> for NodeDe<'n> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit(visitor).map_err(|fault| fault.at(&self.path, &self.node.origin))
    }

    fn deserialize_str<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.typed_text() {
            Some(text) => {
                visitor.visit_str(text).map_err(|fault: Fault| fault.at(&self.path, &self.node.origin))
            }
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'n>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'n>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let (path, origin) = (self.path.clone(), &self.node.origin);
        let value = match &self.node.item {
            Item::Leaf(Value::String(word)) => {
                visitor.visit_enum(IntoDeserializer::<Fault>::into_deserializer(word.as_str()))
            }
            Item::Table(table) if table.len() == 1 => visitor.visit_enum(Variant { of: &self, table }),
            _ => return self.deserialize_any(visitor),
        };
        value.map_err(|fault: Fault| fault.at(&path, origin))
    }

    forward_to_deserialize_any! {
        <V: Visitor<'n>>
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct map
        struct identifier ignored_any
    }
}

struct Elements<'d, 'n> {
    of: &'d NodeDe<'n>,
    nodes: &'n [Node],
    next: usize,
}

impl<'n> SeqAccess<'n> for Elements<'_, 'n> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'n>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some(node) = self.nodes.get(self.next) else { return Ok(None) };
        let element = self.of.child(&self.next.to_string(), node);
        self.next += 1;
        let path = element.path.clone();
        seed.deserialize(element).map(Some).map_err(|fault| fault.at(&path, &node.origin))
    }
}

struct Entries<'d, 'n> {
    of: &'d NodeDe<'n>,
    entries: std::collections::btree_map::Iter<'n, String, Node>,
    value: Option<NodeDe<'n>>,
}

impl<'n> MapAccess<'n> for Entries<'_, 'n> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'n>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        let child = self.of.child(key, node);
        let name: StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        let name = seed.deserialize(name).map_err(|fault| fault.at(&child.path, &node.origin))?;
        self.value = Some(child);
        Ok(Some(name))
    }

    fn next_value_seed<S: DeserializeSeed<'n>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        match self.value.take() {
            Some(value) => {
                let (path, origin) = (value.path.clone(), &value.node.origin);
                // what serde finds wrong behind the value (untagged, try_from) belongs to it too
                seed.deserialize(value).map_err(|fault| fault.at(&path, origin))
            }
            None => Err(serde::de::Error::custom("a value was asked for before its key")),
        }
    }
}

/// `{ lines = 5 }`: a word with something behind it.
struct Variant<'d, 'n> {
    of: &'d NodeDe<'n>,
    table: &'n Table,
}

impl<'n> EnumAccess<'n> for Variant<'_, 'n> {
    type Error = Fault;
    type Variant = Payload<'n>;

    fn variant_seed<S: DeserializeSeed<'n>>(self, seed: S) -> Result<(S::Value, Payload<'n>), Fault> {
        let Some((key, node)) = self.table.iter().next() else {
            return Err(serde::de::Error::custom("the table is empty"));
        };
        let name: StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        Ok((seed.deserialize(name)?, Payload(self.of.child(key, node))))
    }
}

struct Payload<'n>(NodeDe<'n>);

impl<'n> VariantAccess<'n> for Payload<'n> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        let key = self.0.path.last().cloned().unwrap_or_default();
        let fault: Fault =
            serde::de::Error::custom(format!("write \"{key}\" by itself, with nothing behind it"));
        Err(fault.at(&self.0.path, &self.0.node.origin))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'n>>(self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(self.0)
    }

    fn tuple_variant<V: Visitor<'n>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.0.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'n>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.0.deserialize_any(visitor)
    }
}
