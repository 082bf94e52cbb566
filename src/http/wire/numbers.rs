//! Windows, boxes and clicks: small objects of numbers, as JSON members or as JSON in a form's text.

use super::object;
use super::problem::Problem;
use crate::domain::prompt::{Click, ClickLabel, PromptBox};
use crate::domain::slice::{Window, WindowFunction};
use serde_json::value::RawValue;

/// Most clicks that are read; with a box they are the 66 prompt rows that engines are built for.
pub const MAX_CLICKS: usize = 64;

/// `{center, width}`, linear.
///
/// # Errors
/// 400 naming the member.
pub fn window(text: &str) -> Result<Window, Problem> {
    let [center, width] = numbers(text, "window", &["center", "width"])?;
    // DICOM PS3.3 C.11.2.1.2: the width of a linear window is at least 1.
    if width < 1.0 {
        return Err(Problem::invalid("window.width must be at least 1"));
    }
    Ok(Window { center, width, function: WindowFunction::Linear })
}

/// `{x, y, width, height}`, not yet checked against the image.
///
/// # Errors
/// 400 naming the member.
pub fn bounds(text: &str) -> Result<PromptBox, Problem> {
    let [x, y, width, height] = numbers(text, "box", &["x", "y", "width", "height"])?;
    Ok(PromptBox { x, y, width, height })
}

/// An array of `{x, y, label}`, not yet checked against the image.
///
/// # Errors
/// 400 naming the click and its member.
pub fn clicks(text: &str) -> Result<Vec<Click>, Problem> {
    let raw: Clicks<'_> = serde_json::from_str(text).map_err(|_| {
        Problem::invalid(format!(
            "click_points must be an array of {{x, y, label}}, at most {MAX_CLICKS}"
        ))
    })?;
    raw.0.into_iter().enumerate().map(|(index, raw)| click(raw.get(), index)).collect()
}

fn click(text: &str, index: usize) -> Result<Click, Problem> {
    let path = format!("click_points[{index}]");
    let [x, y, label] = numbers(text, &path, &["x", "y", "label"])?;
    let label = match label {
        1.0 => ClickLabel::Inside,
        0.0 => ClickLabel::Outside,
        _ => return Err(Problem::invalid(format!("{path}.label must be 1 (in) or 0 (out)"))),
    };
    Ok(Click { x, y, label })
}

/// An object of numbers, all of them needed.
fn numbers<const N: usize>(
    text: &str,
    path: &str,
    names: &[&'static str; N],
) -> Result<[f64; N], Problem> {
    let members =
        object::members(text, names).map_err(|error| Problem::invalid(error.describe(path)))?;
    let mut values = [0.0; N];
    for ((value, member), name) in values.iter_mut().zip(members).zip(names) {
        let number = member.and_then(|raw| serde_json::from_str::<f64>(raw.get()).ok());
        *value = number.filter(|number| number.is_finite()).ok_or_else(|| match member {
            Some(_) => Problem::invalid(format!("{path}.{name} must be a number")),
            None => Problem::invalid(format!("{path}.{name} is missing")),
        })?;
    }
    Ok(values)
}

/// An array of at most [`MAX_CLICKS`] values: a longer one is refused before it is read whole.
struct Clicks<'a>(Vec<&'a RawValue>);

impl<'de> serde::Deserialize<'de> for Clicks<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Clicks<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<Clicks<'de>, A::Error> {
                let mut clicks = Vec::new();
                while let Some(click) = seq.next_element()? {
                    if clicks.len() == MAX_CLICKS {
                        return Err(serde::de::Error::custom("too many"));
                    }
                    clicks.push(click);
                }
                Ok(Clicks(clicks))
            }
        }
        json.deserialize_seq(Visitor)
    }
}
