//! `engine.toml`: what a package says of itself. `engines/README.md` explains it key by key.
//!
//! Invariants, checked by [`Manifest::parse`]:
//! 1. Every key is known; `schema` is the one this program was written for.
//! 2. Sizes are such that SAM2's strides divide them, and small enough that no product of them
//!    overflows or asks for absurd memory.
//! 3. A file's path is a bare name: a package never reaches outside its folder.
//!
//! It opens no file and does not know whether the hashes are true; [`super::Package`] does.

use super::calibration::Calibration;
use crate::domain::key::Sum;
use serde::Deserialize;
use std::path::{Component, Path};

/// The only schema there is.
pub const SCHEMA: u32 = 1;

/// Largest input side: four times SAM2.1's pixels; beyond, a typing error is likelier than a model.
const MAX_INPUT_SIZE: usize = 2048;
/// Largest number of embedding channels; SAM2.1 has 256.
const MAX_CHANNELS: usize = 1024;
/// Most prompts a call: 64 at S = 1024 are 268 MB of logits.
const MAX_PROMPTS: usize = 256;
/// Most rows a prompt: the contract needs 66 (64 clicks and the two corners of a box).
const MAX_POINTS: usize = 256;

/// An engine package's manifest.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// For people and answers, for example `sam2-nano`.
    pub name: String,
    /// The package's version.
    pub version: String,
    /// The family whose ONNX contract the files follow: `sam2`.
    pub architecture: String,
    /// S.
    pub input_size: usize,
    /// C of `image_embed`.
    pub embed_channels: usize,
    /// M: 1, 3 or 4.
    pub masks: usize,
    /// `fp32`, `fp16-weights`, `fp16`… for people, and part of the fingerprint.
    pub precision: String,
    /// Which of the M masks is the answer.
    pub selection: Selection,
    /// `demonstration`, `research`, `test`… Every answer says it.
    pub intended_use: String,
    /// A sentence for people that goes with every use.
    pub notice: String,
    /// SPDX expression.
    pub licence: String,
    /// Where the weights come from.
    pub checkpoint: String,
    /// What one decoder call takes.
    pub limits: Limits,
    /// Predicted IoU and stability → confidence.
    pub calibration: Calibration,
    /// The model files by role.
    pub files: Files,
    /// What a TensorRT plan was built for; only with plans.
    pub plan: Option<Plan>,
    /// The same weights as ONNX files, for `engine.cpu_fallback`; only with plans.
    pub fallback: Option<Files>,
    /// The self-test.
    pub golden: Golden,
}

/// Which of a prompt's M masks is the answer; `engine::select` holds the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// SAM2's own rule.
    Sam2,
    /// Always mask 0; the others are alternatives.
    Mask0First,
}

/// What one decoder call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// B.
    pub max_prompts: usize,
    /// N.
    pub max_points: usize,
}

/// The model files.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Image encoder.
    pub encoder: FileEntry,
    /// Mask decoder.
    pub decoder: FileEntry,
}

/// One model file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// A bare file name beside the manifest.
    pub path: String,
    /// What reads it.
    pub format: Format,
    /// Of its bytes.
    #[serde(deserialize_with = "hex_sum")]
    pub sha256: Sum,
}

/// What reads a model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// ONNX: the CPU engine.
    Onnx,
    /// A TensorRT plan.
    Plan,
}

/// What a TensorRT plan was built for. A plan runs only there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// For example `10.3.0`.
    pub tensorrt: String,
    /// For example `8.7`.
    pub compute_capability: String,
    /// For example `Orin`.
    pub device: String,
    /// For example `6.2`; none on a PC.
    pub jetpack: Option<String>,
}

/// The golden picture, its prompt and what must come out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// A bare file name: an 8-bit PNG.
    pub image: String,
    /// Of the picture's bytes.
    #[serde(deserialize_with = "hex_sum")]
    pub sha256: Sum,
    /// Clicks in pixels of the picture: x, y, 1 in or 0 out.
    #[serde(default)]
    pub points: Vec<(f64, f64, u8)>,
    /// x, y, width, height in pixels of the picture.
    #[serde(rename = "box")]
    pub bounds: Option<[f64; 4]>,
    /// Marked pixels of the mask.
    pub area_px: u64,
    /// How far the area may be off, as a share of `area_px`.
    pub area_tolerance: f64,
    /// Of the mask: x, y, width, height.
    pub bounding_box: [u32; 4],
    /// Predicted IoU.
    pub iou: f64,
    /// How far the predicted IoU may be off.
    pub iou_tolerance: f64,
    /// A bare file name: 8-bit grey PNG of 0 and 255, as large as the picture.
    pub mask: String,
    /// Of the mask file's bytes.
    #[serde(deserialize_with = "hex_sum")]
    pub mask_sha256: Sum,
    /// Least IoU of the mask that comes out with the one in the file.
    pub mask_iou_min: f64,
}

/// Why a manifest is no manifest. The text names the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(String);

impl ManifestError {
    /// For bytes that aren't even text.
    pub(super) fn from_text(problem: String) -> Self {
        Self(problem)
    }
}

impl Manifest {
    /// Reads and checks the text of `engine.toml`.
    ///
    /// # Errors
    /// [`ManifestError`] names the first key that is wrong, missing or unknown.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        // The schema first: a newer manifest should be told by its number, not by a key that this
        // version doesn't know.
        #[derive(Deserialize)]
        struct Head {
            schema: Option<u32>,
        }
        let broken = |error: toml::de::Error| ManifestError(error.to_string().trim_end().into());
        let head: Head = toml::from_str(text).map_err(broken)?;
        match head.schema {
            Some(SCHEMA) => {}
            Some(other) => {
                let text = format!("schema = {other}: this version reads schema {SCHEMA}");
                return Err(ManifestError(text));
            }
            None => return Err(ManifestError("schema is missing".into())),
        }
        let manifest: Self = toml::from_str(text).map_err(broken)?;
        manifest.problem().map_or(Ok(manifest), |problem| Err(ManifestError(problem)))
    }

    /// Name and version, as answers show it.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    fn problem(&self) -> Option<String> {
        let golden = &self.golden;
        let mut names = vec![
            ("files.encoder.path", &self.files.encoder.path),
            ("files.decoder.path", &self.files.decoder.path),
            ("golden.image", &golden.image),
            ("golden.mask", &golden.mask),
        ];
        if let Some(fallback) = &self.fallback {
            names.push(("fallback.encoder.path", &fallback.encoder.path));
            names.push(("fallback.decoder.path", &fallback.decoder.path));
        }
        if let Some((key, name)) = names.into_iter().find(|(_, name)| !is_bare_name(name)) {
            return Some(format!("{key} = {name:?} is not a bare file name"));
        }
        let words = [("name", &self.name), ("version", &self.version)];
        if let Some((key, word)) = words.into_iter().find(|(_, word)| !is_word(word)) {
            return Some(format!(
                "{key} = {word:?}: letters, digits, '.', '-', '_', '+', at most 64"
            ));
        }
        if self.architecture != "sam2" {
            return Some(format!("architecture = {:?}: only sam2 is known", self.architecture));
        }
        if let Some(problem) = self.format_problem() {
            return Some(problem.to_owned());
        }
        let ranges = [
            ("input_size", self.input_size, 32, MAX_INPUT_SIZE, 32),
            ("embed_channels", self.embed_channels, 8, MAX_CHANNELS, 8),
            ("limits.max_prompts", self.limits.max_prompts, 1, MAX_PROMPTS, 1),
            ("limits.max_points", self.limits.max_points, 1, MAX_POINTS, 1),
        ];
        for (key, value, low, high, step) in ranges {
            if value < low || value > high || value % step != 0 {
                return Some(format!("{key} = {value}: {low} to {high}, a multiple of {step}"));
            }
        }
        if ![1, 3, 4].contains(&self.masks) {
            return Some(format!("masks = {}: 1, 3 or 4", self.masks));
        }
        if let Some(problem) = self.calibration.problem() {
            return Some(format!("calibration: {problem}"));
        }
        golden.problem().map(|problem| format!("golden.{problem}"))
    }

    fn format_problem(&self) -> Option<&'static str> {
        let is_plan = |file: &FileEntry| file.format == Format::Plan;
        let plans = [&self.files.encoder, &self.files.decoder].map(is_plan);
        if plans != [self.plan.is_some(); 2] {
            return Some("a [plan] table belongs to two files of format \"plan\", and to no other");
        }
        let Some(fallback) = &self.fallback else { return None };
        if self.plan.is_none() {
            return Some("a [fallback] belongs to plans: ONNX files run on the CPU anyway");
        }
        [&fallback.encoder, &fallback.decoder]
            .into_iter()
            .any(is_plan)
            .then_some("[fallback] takes files of format \"onnx\": they are for the CPU")
    }
}

impl Golden {
    fn problem(&self) -> Option<String> {
        let shares = [
            ("area_tolerance", self.area_tolerance),
            ("iou_tolerance", self.iou_tolerance),
            ("iou", self.iou),
            ("mask_iou_min", self.mask_iou_min),
        ];
        if let Some((key, value)) = shares.into_iter().find(|(_, v)| !(0.0..=1.0).contains(v)) {
            return Some(format!("{key} = {value}: 0 to 1"));
        }
        if self.points.iter().any(|(x, y, label)| !x.is_finite() || !y.is_finite() || *label > 1) {
            return Some("points: x, y and a label that is 0 or 1".into());
        }
        if self.points.is_empty() && self.bounds.is_none() {
            return Some("points: a click or a box is needed".into());
        }
        if self.area_px == 0 || self.area_tolerance >= 1.0 {
            return Some("area_px: an empty mask would prove nothing".into());
        }
        None
    }
}

/// One path component that is not `.`, `..` or hidden.
fn is_bare_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let plain = matches!(components.next(), Some(Component::Normal(_)));
    plain && components.next().is_none() && !name.starts_with('.') && !name.contains('/')
}

/// Names end in answers, logs and folder names.
fn is_word(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= 64
        && !word.starts_with('.')
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte))
}

fn hex_sum<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Sum, D::Error> {
    let text = String::deserialize(deserializer)?;
    Sum::from_hex(&text)
        .ok_or_else(|| serde::de::Error::custom("a SHA-256 sum has 64 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = include_str!("../../../engines/sam2-nano/engine.toml");

    fn with(from: &str, to: &str) -> Result<Manifest, ManifestError> {
        assert!(TEXT.contains(from), "{from} is not in the manifest");
        Manifest::parse(&TEXT.replacen(from, to, 1))
    }

    #[test]
    fn the_embedded_manifest_is_read() {
        let manifest = Manifest::parse(TEXT).unwrap();
        assert_eq!(manifest.title(), "sam2-nano 2.1.0");
        assert_eq!((manifest.input_size, manifest.embed_channels, manifest.masks), (256, 128, 4));
        assert_eq!(manifest.selection, Selection::Mask0First);
        assert_eq!(manifest.intended_use, "demonstration");
    }

    #[test]
    fn a_fallback_is_two_onnx_files_beside_two_plans() {
        let text = include_str!("../../../engines/sam2-nano/engine.toml");
        let sum = "0".repeat(64);
        let file = |name: &str, format: &str| {
            format!(
                "[fallback.{name}]\npath = \"{name}\"\nformat = \"{format}\"\nsha256 = \"{sum}\"\n"
            )
        };
        let with = |format: &str, text: &str| {
            Manifest::parse(
                &format!("{text}\n{}{}", file("a", format), file("b", format))
                    .replace("fallback.a", "fallback.encoder")
                    .replace("fallback.b", "fallback.decoder"),
            )
        };
        let error = with("onnx", text).unwrap_err().to_string();
        assert!(error.contains("a [fallback] belongs to plans"), "{error}");
        let plan =
            "[plan]\ntensorrt = \"10.3.0\"\ncompute_capability = \"8.7\"\ndevice = \"Orin\"\n";
        let plans = text.replace("format = \"onnx\"", "format = \"plan\"") + plan;
        assert!(with("onnx", &plans).unwrap().fallback.is_some());
        let error = with("plan", &plans).unwrap_err().to_string();
        assert!(error.contains("takes files of format \"onnx\""), "{error}");
        let half = text.replacen("format = \"onnx\"", "format = \"plan\"", 1) + plan;
        let error = Manifest::parse(&half).unwrap_err().to_string();
        assert!(error.contains("two files of format"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        struct Case(&'static str, &'static str, &'static str);
        let cases = [
            Case("schema = 1", "schema = 2", "schema = 2: this version reads schema 1"),
            Case("schema = 1", "", "schema is missing"),
            Case("masks = 4", "masks = 2", "masks = 2"),
            Case("masks = 4", "masks = 4\nextra = 1", "unknown field `extra`"),
            Case("input_size = 256", "input_size = 250", "input_size = 250"),
            Case("input_size = 256", "input_size = 4096", "input_size = 4096"),
            Case("embed_channels = 128", "embed_channels = 100", "embed_channels = 100"),
            Case("max_prompts = 64", "max_prompts = 0", "limits.max_prompts = 0"),
            Case("\"encoder.onnx\"", "\"../encoder.onnx\"", "files.encoder.path"),
            Case("\"decoder.onnx\"", "\"/etc/passwd\"", "files.decoder.path"),
            Case("\"golden_mask.png\"", "\"a/b.png\"", "golden.mask"),
            Case("\"golden.png\"", "\"..\"", "golden.image"),
            Case("name = \"sam2-nano\"", "name = \"a/../b\"", "name = \"a/../b\""),
            Case("\"sam2\"", "\"yolo\"", "architecture = \"yolo\""),
            Case("format = \"onnx\"", "format = \"plan\"", "[plan] table"),
            Case("\nx = [0.0,", "\nx = [2.0,", "calibration: x must rise"),
            Case("\ny = [0.0,", "\ny = [1.5,", "calibration: y must rise"),
            Case("\ny = [0.0,", "\ny = [", "the same number of knots"),
            Case("click = { x = [0.0,", "click = { x = [2.0,", "calibration: click: x must rise"),
            Case("stability_delta = 0.25", "stability_delta = -1", "calibration: stability_delta"),
            Case("iou_tolerance = 0.02", "iou_tolerance = nan", "golden.iou_tolerance"),
            Case("area_tolerance = 0.02", "area_tolerance = 7", "golden.area_tolerance"),
            Case("points = [[84.0, 120.0, 1]]", "points = [[84.0, 120.0, 2]]", "golden.points"),
            Case("points = [[84.0, 120.0, 1]]", "points = []", "a click or a box is needed"),
            Case("sha256 = \"", "sha256 = \"zz", "64 hexadecimal digits"),
        ];
        for Case(from, to, expected) in cases {
            let error = with(from, to).expect_err(to).to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
