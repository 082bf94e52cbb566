//! Engine packages whose plans are the stand-ins'.

use super::model::{Model, seeded};
use sam2d::domain::key::Sum;
use sam2d::engine::package::Package;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What a package's plans are, and what is wrong with them.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) magic: [u8; 4],
    /// Bytes 24 to 27 of both plans.
    pub(crate) written_by: [u8; 4],
    /// `plan.tensorrt` of the manifest.
    pub(crate) tensorrt: &'static str,
    pub(crate) device: &'static str,
    pub(crate) capability: &'static str,
    pub(crate) half: bool,
    /// Lines after `point_coords` profiles: index, least and most of B, least and most of N.
    pub(crate) profiles: Vec<(u32, [u32; 2], [u32; 2])>,
    /// Goes over the text of a plan: role and text.
    pub(crate) edit: fn(&str, String) -> String,
    /// Bytes of a plan that are left.
    pub(crate) cut: Option<usize>,
    /// Does it bring the ONNX files, too?
    pub(crate) fallback: bool,
    pub(crate) max_points: u32,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            magic: *b"ftrt",
            written_by: [10, 16, 0, 72],
            tensorrt: "10.16.0",
            device: "Stand-in",
            capability: "8.7",
            half: false,
            profiles: vec![(0, [1, 64], [1, 66])],
            edit: |_, text| text,
            cut: None,
            fallback: false,
            max_points: 66,
        }
    }
}

impl Spec {
    pub(crate) fn eleven() -> Self {
        Self { written_by: [11, 4, 0, 106], tensorrt: "11.4.0", ..Self::default() }
    }

    pub(crate) fn rtx() -> Self {
        Self { magic: *b"vtrt", written_by: [0; 4], tensorrt: "rtx 1.7", ..Self::default() }
    }
}

/// Writes the package, whose numbers come from `model`.
pub(crate) fn write(folder: &Path, model: &Model, spec: &Spec) -> PathBuf {
    let package = folder.join("package");
    let _ = std::fs::remove_dir_all(&package);
    std::fs::create_dir(&package).unwrap();
    for name in ["golden.png", "golden_mask.png", "encoder.onnx", "decoder.onnx"] {
        std::fs::copy(seeded().join(name), package.join(name)).unwrap();
    }
    let mut manifest = std::fs::read_to_string(seeded().join("engine.toml")).unwrap();
    let mut fallback = String::new();
    for role in ["encoder", "decoder"] {
        let onnx = std::fs::read(seeded().join(format!("{role}.onnx"))).unwrap();
        let onnx_sum = Sum::of(&onnx).to_hex();
        let _ = write!(
            fallback,
            "[fallback.{role}]\npath = \"{role}.onnx\"\nformat = \"onnx\"\nsha256 = \"{onnx_sum}\"\n\n"
        );
        let bytes = plan(role, model, spec);
        std::fs::write(package.join(format!("{role}.plan")), &bytes).unwrap();
        manifest = manifest
            .replace(&format!("path = \"{role}.onnx\""), &format!("path = \"{role}.plan\""))
            .replace(&onnx_sum, &Sum::of(&bytes).to_hex());
    }
    let Spec { tensorrt, device, capability, .. } = spec;
    let mut tables = format!(
        "[plan]\ntensorrt = \"{tensorrt}\"\ncompute_capability = \"{capability}\"\ndevice = \"{device}\"\n\n"
    );
    if spec.fallback {
        tables += &fallback;
    }
    let manifest = manifest
        .replace("format = \"onnx\"", "format = \"plan\"")
        .replace("max_points = 66", &format!("max_points = {}", spec.max_points))
        .replace("[golden]", &(tables + "[golden]"));
    std::fs::write(package.join("engine.toml"), manifest).unwrap();
    package
}

/// The same, loaded.
pub(crate) fn made(folder: &Path, model: &Model, spec: &Spec) -> Package {
    Package::load(&write(folder, model, spec)).unwrap()
}

/// S = 128, C = 32, M = 4.
fn plan(role: &str, model: &Model, spec: &Spec) -> Vec<u8> {
    let kind = u8::from(spec.half);
    let features = [
        ("high_res_feats_0", "1 4 32 32"),
        ("high_res_feats_1", "1 8 16 16"),
        ("image_embed", "1 32 8 8"),
    ];
    let mut text = format!("model {}\nmemory 1000000\n", model.socket.display());
    let mut line = |words: String| text.extend([words.as_str(), "\n"]);
    if role == "encoder" {
        line(format!("in image {kind} 1 3 128 128"));
        features.iter().for_each(|(name, shape)| line(format!("out {name} {kind} {shape}")));
    } else {
        features.iter().for_each(|(name, shape)| line(format!("in {name} {kind} {shape}")));
        line("in point_coords 0 -1 -1 2".to_owned());
        line("in point_labels 0 -1 -1".to_owned());
        line("in mask_input 0 -1 1 32 32".to_owned());
        line("in has_mask_input 0 -1".to_owned());
        line(format!("out masks {kind} -1 4 32 32"));
        line("out iou_predictions 0 -1 4".to_owned());
        line("out object_score_logits 0 -1 1".to_owned());
        for (index, [b, bs], [n, ns]) in &spec.profiles {
            line(format!("profile {index} point_coords {b} {n} 2 ; {bs} {ns} 2"));
            line(format!("profile {index} point_labels {b} {n} ; {bs} {ns}"));
            line(format!("profile {index} mask_input {b} 1 32 32 ; {bs} 1 32 32"));
            line(format!("profile {index} has_mask_input {b} ; {bs}"));
        }
    }
    let mut bytes = spec.magic.to_vec();
    bytes.resize(24, 0);
    bytes.extend(spec.written_by);
    bytes.extend((spec.edit)(role, text).bytes());
    bytes.truncate(spec.cut.unwrap_or(usize::MAX));
    bytes
}
