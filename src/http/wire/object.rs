//! JSON objects read strictly: every member known and none twice.
//!
//! serde_json keeps the last of two equal members silently and a derived `deny_unknown_fields` puts
//! the sender's values into its messages; here a duplicate is an error and messages name members
//! only. Members stay unparsed ([`RawValue`]), so that nothing is allocated for what is refused.

use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Why a text is not the object expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectError {
    /// Not JSON at all.
    NotJson,
    /// JSON, but no object.
    NotAnObject,
    /// A member that nobody knows, and the known one it most resembles.
    Unknown {
        /// As sent, shortened.
        name: String,
        /// Perhaps meant.
        suggestion: Option<&'static str>,
    },
    /// A member came twice.
    Duplicate(&'static str),
}

impl ObjectError {
    /// In words, for the member at `path` (empty for the whole body).
    #[must_use]
    pub fn describe(&self, path: &str) -> String {
        let place = if path.is_empty() { "the body" } else { path };
        match self {
            Self::NotJson => format!("{place} is not valid JSON"),
            Self::NotAnObject => format!("{place} must be a JSON object"),
            Self::Unknown { name, suggestion } => unknown(
                &if path.is_empty() { name.clone() } else { format!("{path}.{name}") },
                *suggestion,
            ),
            Self::Duplicate(name) if path.is_empty() => format!("{name} was sent twice"),
            Self::Duplicate(name) => format!("{path}.{name} was sent twice"),
        }
    }
}

/// "unknown field …; did you mean …?"
#[must_use]
pub fn unknown(name: &str, suggestion: Option<&str>) -> String {
    match suggestion {
        Some(known) => format!("unknown field {name}; did you mean {known}?"),
        None => format!("unknown field {name}"),
    }
}

/// The known name that an unknown one most resembles, if any does.
#[must_use]
pub fn suggestion(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let folded = |text: &str| text.to_lowercase().replace(['_', '-', ' '], "");
    let name = folded(name);
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&name, &folded(candidate)), *candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A name from outside, fit to be shown: at most 64 characters, none of them a control character.
#[must_use]
pub fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// The members of the object in `text`, in the order of `names`; `null` counts as absent.
///
/// # Errors
/// The first [`ObjectError`] met.
pub fn members<'a, const N: usize>(
    text: &'a str,
    names: &[&'static str; N],
) -> Result<[Option<&'a RawValue>; N], ObjectError> {
    let mut fault = None;
    let seed = Members { names, fault: &mut fault };
    let mut json = serde_json::Deserializer::from_str(text);
    let found = seed.deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    match (found, fault) {
        (Ok(found), None) => Ok(found.map(|value| value.filter(|value| value.get() != "null"))),
        (_, Some(fault)) => Err(fault),
        // Neither JSON nor an object: another look tells which.
        (Err(_), None) => match serde_json::from_str::<&RawValue>(text) {
            Ok(_) => Err(ObjectError::NotAnObject),
            Err(_) => Err(ObjectError::NotJson),
        },
    }
}

struct Members<'f, const N: usize> {
    names: &'f [&'static str; N],
    fault: &'f mut Option<ObjectError>,
}

impl<'de, const N: usize> DeserializeSeed<'de> for Members<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let known = self.names.iter().zip(found.iter_mut()).find(|(known, _)| **known == name);
            let fault = match known {
                Some((_, slot)) if slot.is_none() => {
                    *slot = Some(map.next_value()?);
                    continue;
                }
                Some((known, _)) => ObjectError::Duplicate(known),
                None => ObjectError::Unknown {
                    name: shown(&name),
                    suggestion: suggestion(&name, self.names),
                },
            };
            *self.fault = Some(fault);
            return Err(A::Error::custom("refused"));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["click_points", "box", "window"];

    fn error(text: &str) -> String {
        members(text, &NAMES).unwrap_err().describe("")
    }

    #[test]
    fn members_come_in_the_order_asked_and_null_is_absent() {
        let [clicks, bounds, window] =
            members(r#" {"window": {"a":1}, "box": null, "click\u005fpoints": [1, 2]} "#, &NAMES)
                .unwrap();
        assert_eq!(clicks.unwrap().get(), "[1, 2]");
        assert!(bounds.is_none());
        assert_eq!(window.unwrap().get(), r#"{"a":1}"#);
    }

    #[test]
    fn what_is_no_strict_object_is_told_in_words() {
        assert_eq!(error(r#"{"box":1,"box":2}"#), "box was sent twice");
        assert_eq!(error(r#"{"box":null,"box":2}"#), "box was sent twice");
        assert_eq!(
            error(r#"{"clickPoints":[]}"#),
            "unknown field clickPoints; did you mean click_points?"
        );
        assert_eq!(error(r#"{"zzz":[]}"#), "unknown field zzz");
        assert_eq!(error("[1]"), "the body must be a JSON object");
        assert_eq!(error(r#"{"box":1"#), "the body is not valid JSON");
        assert_eq!(error(r#"{"box":1} x"#), "the body is not valid JSON");
        assert_eq!(error(""), "the body is not valid JSON");
        assert_eq!(
            ObjectError::Duplicate("x").describe("click_points[2]"),
            "click_points[2].x was sent twice"
        );
    }

    #[test]
    fn deep_nesting_is_refused_and_not_a_stack_overflow() {
        let deep = format!(r#"{{"box":{}"#, "[".repeat(1_000_000));
        assert_eq!(error(&deep), "the body is not valid JSON");
    }
}
