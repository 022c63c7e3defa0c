//! Reads a message from a path and a JSON body or a query string, in one pass.
//!
//! Members of the path win over members of the same name. Members that the message does not have are ignored.

use std::{
    cell::{Cell, RefCell},
    fmt,
    marker::PhantomData,
};

use platform::Refused;
use serde::{
    de::{
        self, DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, IntoDeserializer, MapAccess,
        Visitor,
        value::{MapDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};

use crate::problem::Problem;

/// How deep a body may nest.
const DEPTH: usize = 64;

/// What the route says, and what nobody else may.
pub(crate) struct Given<'a> {
    /// Names and values from the path.
    pub(crate) path: Vec<(&'a str, &'a str)>,
    /// Names that are not taken from the body or the query string.
    pub(crate) without: &'static [&'static str],
}

/// Reads a message from a JSON object. Who sends nothing says nothing: that is an object without members.
pub(crate) fn json<M: DeserializeOwned>(given: &Given<'_>, body: &[u8]) -> Result<M, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    if is_deep(body) {
        return Err(Problem::malformed(format!("the body nests deeper than {DEPTH} levels")));
    }
    if has_nul(body) {
        return Err(Problem::malformed(NUL));
    }
    let place = Place::default();
    let mut reader = serde_json::Deserializer::from_slice(body);
    M::deserialize(Merged { rest: &mut reader, given, place: &place })
        .and_then(|message| reader.end().map(|()| message))
        .map_err(|error| match error.classify() {
            serde_json::error::Category::Data => place.explain(&error.to_string()),
            _ => Problem::malformed(format!("malformed JSON: {error}")),
        })
}

/// Reads a message from a query string.
pub(crate) fn query<M: DeserializeOwned>(given: &Given<'_>, query: &str) -> Result<M, Problem> {
    let place = Place::default();
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let reader =
        MapDeserializer::<_, de::value::Error>::new(pairs.map(|(name, value)| (name, Text::new(value))));
    M::deserialize(Merged { rest: reader, given, place: &place })
        .map_err(|error| place.explain(&error.to_string()))
}

/// Postgres stores no such character, so that no function could do anything with it but break.
const NUL: &str = "a text holds the character U+0000, which cannot be stored";

/// Whether a string of this JSON has a NUL, which can only stand there as an escape.
fn has_nul(body: &[u8]) -> bool {
    let is_escape = |at: usize| body[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0;
    body.windows(6).enumerate().any(|(at, part)| part == b"\\u0000" && is_escape(at))
}

/// A pass over the bytes: brackets outside of strings.
fn is_deep(body: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH {
            return true;
        }
    }
    false
}

/// Where in the message the reader is: what an error is about.
#[derive(Default)]
struct Place {
    member: RefCell<Option<String>>,
    in_path: Cell<bool>,
}

impl Place {
    fn enter(&self, member: Option<String>, in_path: bool) {
        self.member.replace(member);
        self.in_path.set(in_path);
    }

    fn explain(&self, error: &str) -> Problem {
        // An id that cannot be one: there is no such thing.
        if self.in_path.get() {
            return Problem::not_found();
        }
        let missing = error.strip_prefix("missing field `").and_then(|rest| rest.split_once('`'));
        let (member, message) = match (missing, self.member.take()) {
            (Some((name, _)), _) => (name.to_owned(), "is missing".to_owned()),
            // Some members name themselves already, because they may be read as a part of a flattened one.
            (None, Some(member)) => {
                let said = in_words(error);
                let said = said.strip_prefix(&format!("{member}: ")).map(str::to_owned).unwrap_or(said);
                (member, said)
            }
            // A flattened part is read when all members have been passed: it names its member itself.
            (None, None) => match error.split_once(": ") {
                Some((name, error)) if is_name(name) => (name.to_owned(), in_words(error)),
                _ => return Problem::malformed(in_words(error)),
            },
        };
        Refused::invalid_member(member, message).into()
    }
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// What serde says, without the value (it may be a password), the position and the names of our types.
fn in_words(error: &str) -> String {
    let error = error.rsplit_once(" at line ").map_or(error, |(error, _)| error);
    let Some((_, expected)) = error.rsplit_once(", expected ") else {
        let ours = error.contains("untagged enum") || error.contains("struct ");
        return if ours { "has a form that is not understood".into() } else { error.into() };
    };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "i8" | "i16" | "i32" | "i64" | "usize" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        other if other.contains("struct ") || other == "a map" => "an object",
        other if other.starts_with("enum ") => "one of the known words",
        other => other,
    };
    format!("expected {expected}")
}

/// The members of the path, then those of `rest`.
struct Merged<'a, D> {
    rest: D,
    given: &'a Given<'a>,
    place: &'a Place,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Merged<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.rest.deserialize_map(Whole { visitor, given: self.given, place: self.place })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Whole<'a, V> {
    visitor: V,
    given: &'a Given<'a>,
    place: &'a Place,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Whole<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, rest: A) -> Result<V::Value, A::Error> {
        let path = self.given.path.iter().copied();
        self.visitor.visit_map(Members { path, value: None, rest, given: self.given, place: self.place })
    }
}

struct Members<'a, I, A> {
    path: I,
    /// Of the member whose name was read last, when it is one of the path.
    value: Option<&'a str>,
    rest: A,
    given: &'a Given<'a>,
    place: &'a Place,
}

impl<'a, 'de, I, A> MapAccess<'de> for Members<'a, I, A>
where
    I: Iterator<Item = (&'a str, &'a str)>,
    A: MapAccess<'de>,
{
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        if let Some((name, value)) = self.path.next() {
            self.value = Some(value);
            self.place.enter(None, true);
            return seed.deserialize(StrDeserializer::new(name)).map(Some);
        }
        self.place.enter(None, false);
        while let Some(name) = self.rest.next_key::<String>()? {
            if self.given.hides(&name) {
                self.rest.next_value::<IgnoredAny>()?;
                continue;
            }
            let key = seed.deserialize(StrDeserializer::new(&name))?;
            self.place.enter(Some(name), false);
            return Ok(Some(key));
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        match self.value.take() {
            Some(value) => seed.deserialize(Text::new(value)),
            None => self.rest.next_value_seed(seed),
        }
    }
}

impl Given<'_> {
    /// Whether a member of the body has no say, in either spelling: `item_id`, `itemId`.
    fn hides(&self, member: &str) -> bool {
        let mut names = self.path.iter().map(|(name, _)| *name).chain(self.without.iter().copied());
        names.any(|name| letters(name).eq(letters(member)))
    }
}

fn letters(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_lowercase())
}

/// A value written as text where JSON would have a number, a truth or a string.
struct Text<T, E> {
    text: T,
    error: PhantomData<E>,
}

impl<T: AsRef<str>, E: de::Error> Text<T, E> {
    fn new(text: T) -> Self {
        Self { text, error: PhantomData }
    }

    fn parse<V: std::str::FromStr>(&self, expected: &str) -> Result<V, E> {
        self.text.as_ref().parse().map_err(|_| E::custom(format_args!("expected {expected}")))
    }
}

impl<T: AsRef<str>, E: de::Error> IntoDeserializer<'_, E> for Text<T, E> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident $expected:literal)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
            visitor.$visit(self.parse($expected)?)
        })*
    };
}

impl<'de, T: AsRef<str>, E: de::Error> Deserializer<'de> for Text<T, E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_str(self.text.as_ref())
    }

    parsed! {
        deserialize_bool visit_bool "true or false"
        deserialize_u8 visit_u8 "a whole number"
        deserialize_u16 visit_u16 "a whole number"
        deserialize_u32 visit_u32 "a whole number"
        deserialize_u64 visit_u64 "a whole number"
        deserialize_i8 visit_i8 "a whole number"
        deserialize_i16 visit_i16 "a whole number"
        deserialize_i32 visit_i32 "a whole number"
        deserialize_i64 visit_i64 "a whole number"
        deserialize_f32 visit_f32 "a number"
        deserialize_f64 visit_f64 "a number"
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, E> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_enum(StrDeserializer::new(self.text.as_ref()))
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Asked {
        item_id: u64,
        #[serde(default, alias = "userId")]
        user_id: Option<String>,
        #[serde(default)]
        sort: Option<Sort>,
        #[serde(default)]
        mine: bool,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Sort {
        EndingSoon,
    }

    const GIVEN: &[(&str, &str)] = &[("item_id", "7")];

    fn given(without: &'static [&'static str]) -> Given<'static> {
        Given { path: GIVEN.to_vec(), without }
    }

    #[test]
    fn a_body_may_be_left_out_where_the_path_says_it_all() {
        let asked: Asked = json(&given(&[]), b"").unwrap();
        assert_eq!(asked, Asked { item_id: 7, user_id: None, sort: None, mine: false });

        let nowhere = Given { path: Vec::new(), without: &[] };
        assert!(json::<Asked>(&nowhere, b"").is_err());
        assert!(json::<Asked>(&given(&[]), b" ").is_err(), "what is sent is JSON");
    }

    #[test]
    fn the_path_wins_in_every_spelling_and_strangers_are_ignored() {
        for body in [
            r#"{"item_id":8,"user_id":"ann","role":"admin"}"#,
            r#"{"itemId":{"any":["thing"]},"userId":"ann"}"#,
            r#"{"user_id":"ann","ITEM_ID":null}"#,
        ] {
            let asked: Asked = json(&given(&[]), body.as_bytes()).unwrap();

            let expected = Asked { item_id: 7, user_id: Some("ann".into()), sort: None, mine: false };
            assert_eq!(asked, expected, "{body}");
        }
    }

    #[test]
    fn what_is_not_taken_from_the_caller_is_missing() {
        let asked: Asked = json(&given(&["user_id"]), br#"{"userId":"bob"}"#).unwrap();

        assert_eq!(asked.user_id, None);
    }

    #[test]
    fn a_query_string_is_read_into_the_types_of_the_message() {
        let asked: Asked = query(&given(&[]), "userId=a%26b+c&sort=ending_soon&mine=true&item_id=9").unwrap();

        let expected =
            Asked { item_id: 7, user_id: Some("a&b c".into()), sort: Some(Sort::EndingSoon), mine: true };
        assert_eq!(asked, expected);
        for wrong in ["mine=perhaps", "sort=random", "mine=true&mine=true"] {
            assert!(query::<Asked>(&given(&[]), wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_value_and_without_our_types() {
        for (serde, ours) in [
            (
                "invalid type: string \"s3cret, expected x\", expected u32 at line 1 column 2",
                "expected a whole number",
            ),
            ("invalid type: map, expected struct Address at line 1 column 2", "expected an object"),
            (
                "unknown variant `s3cret`, expected one of `a`, `b` at line 1 column 2",
                "expected one of `a`, `b`",
            ),
            ("data did not match any variant of untagged enum Either", "has a form that is not understood"),
        ] {
            assert_eq!(in_words(serde), ours);
        }
    }
}
