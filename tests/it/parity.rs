//! The CPU engine against PyTorch: picture in, logits, predicted IoU, chosen mask out.
//!
//! Reference numbers are committed (`tests/fixtures/README.md` describes them), so neither Python
//! nor a network is needed. `SAM2D_PARITY_DIR` names further folders of the same form, for example
//! with a real SAM2.1 that is too large to commit.

use sam2d::domain::slice::Size;
use sam2d::domain::tensor::{ImageTensor, MaskInput, PointLabel, PointRow, PromptBatch};
use sam2d::engine::Backend;
use sam2d::engine::cpu::CpuBackend;
use sam2d::engine::package::Package;
use sam2d::engine::package::manifest::Selection;
use sam2d::engine::select::{PromptKind, choose};
use sam2d::imaging::{decode, png, postprocess, preprocess, window};
use sam2d::service::selftest;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Largest difference of a logit, as a share of the largest logit.
const LOGITS_TOLERANCE: f32 = 1e-3;
/// Largest difference of a predicted IoU.
const IOU_TOLERANCE: f32 = 1e-3;
/// Largest difference of a confidence: stability counts pixels, and one of a few hundred may fall
/// on the other side.
const CONFIDENCE_TOLERANCE: f64 = 4e-3;

/// What every reference must contain, or the test would prove less than it says.
const CASES: [&str; 6] =
    ["point", "two_points", "box", "box_and_points", "no_prompt", "mask_input"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    schema: u32,
    package: PathBuf,
    #[expect(dead_code, reason = "for people")]
    torch: String,
    selection: Selection,
    input_size: usize,
    image: Image,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    path: PathBuf,
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    points: Vec<(f64, f64, u8)>,
    #[serde(rename = "box")]
    bounds: Option<[f64; 4]>,
    mask_input: Option<Array>,
    rows: Vec<(f32, f32, f32)>,
    logits: Array,
    iou_predictions: Vec<f32>,
    object_score: Option<f32>,
    chosen: usize,
    mask: MaskFile,
    nearest_to_threshold: f32,
    confidence: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Array {
    path: PathBuf,
    shape: Vec<usize>,
}

impl Array {
    fn read(&self, folder: &Path) -> Vec<f32> {
        let bytes = fs::read(folder.join(&self.path)).unwrap();
        let values: Vec<_> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(values.len(), self.shape.iter().product::<usize>(), "{}", self.path.display());
        values
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MaskFile {
    path: PathBuf,
    area_px: usize,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")
}

#[test]
fn the_embedded_package_answers_as_pytorch_does() {
    let folder = fixtures().join("sam2-nano");
    let reference = read(&folder);
    let package = Package::load(&folder.join(&reference.package)).unwrap();
    assert_eq!(package.digest(), Package::embedded().unwrap().digest());
    compare(&folder);
}

#[test]
fn one_three_and_four_masks_answer_as_pytorch_does() {
    for (name, masks) in [("seeded-m1", 1), ("seeded-m3", 3), ("seeded-m4", 4)] {
        let folder = fixtures().join(name);
        assert_eq!(read(&folder).cases[0].logits.shape[0], masks, "{name}");
        compare(&folder);
    }
}

#[test]
fn further_packages_answer_as_pytorch_does() {
    let Some(root) = std::env::var_os("SAM2D_PARITY_DIR") else {
        println!("skipped: further packages against PyTorch (SAM2D_PARITY_DIR is not set)");
        return;
    };
    let folders = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<_> = folders.filter(|path| path.join("reference.json").exists()).collect();
    assert!(!folders.is_empty(), "{} holds no */reference.json", root.display());
    folders.iter().for_each(|folder| compare(folder));
}

fn read(folder: &Path) -> Reference {
    let text = fs::read_to_string(folder.join("reference.json")).unwrap();
    let reference: Reference = serde_json::from_str(&text).unwrap();
    assert_eq!(reference.schema, 1);
    reference
}

fn compare(folder: &Path) {
    let reference = read(folder);
    let package = Package::load(&folder.join(&reference.package)).unwrap();
    let manifest = package.manifest();
    assert_eq!(manifest.selection, reference.selection);
    assert_eq!(manifest.input_size, reference.input_size);
    let names: Vec<_> = reference.cases.iter().map(|case| case.name.as_str()).collect();
    assert!(CASES.iter().all(|name| names.contains(name)), "{names:?}");

    let mut backend = CpuBackend::load(&package, 0).unwrap();
    let passed = selftest::run(&package, &mut backend).unwrap();
    assert!(passed.report.mask_iou > 0.99, "{}", passed.report.mask_iou);
    let size = Size { width: reference.image.width, height: reference.image.height };
    let picture = picture(&folder.join(&reference.image.path), size, reference.input_size);
    let embedding = backend.encode(&picture).unwrap();
    let mut worst = 0.0_f32;
    for case in &reference.cases {
        let name = format!("{}, {}", manifest.name, case.name);
        assert_eq!(case.rows.len(), prompt_rows(case), "{name}");
        let mask_input = case.mask_input.as_ref().map(|array| MaskInput::from(array.read(folder)));
        let rows = case.rows.iter().map(|&(x, y, label)| PointRow { x, y, label: named(label) });
        let prompts = PromptBatch::one(rows.collect(), mask_input);
        let answer = backend.decode(&embedding, &prompts).unwrap();

        let expected = case.logits.read(folder);
        assert_eq!([answer.masks, answer.side, answer.side], case.logits.shape[..], "{name}");
        let difference = relative(&answer.logits, &expected);
        assert!(difference <= LOGITS_TOLERANCE, "{name}: logits differ by {difference}");
        worst = worst.max(difference);
        let pairs = answer.iou_predictions.iter().zip(&case.iou_predictions);
        assert_eq!(answer.iou_predictions.len(), case.iou_predictions.len());
        for (found, expected) in pairs {
            assert!((found - expected).abs() <= IOU_TOLERANCE, "{name}: IoU {found}, {expected}");
        }
        let scores = (answer.object_score_logits.as_deref(), case.object_score);
        match scores {
            (Some([found]), Some(expected)) => {
                let tolerance = 1e-3 * expected.abs().max(1.0);
                assert!((found - expected).abs() <= tolerance, "{name}: {found}, {expected}");
            }
            (None, None) => {}
            _ => panic!("{name}: object score {scores:?}"),
        }

        let chosen = choose(&answer, 0, reference.selection, PromptKind::of(&prompts)).unwrap();
        assert_eq!(chosen.mask, case.chosen, "{name}");
        assert!(case.nearest_to_threshold > 0.0, "{name}");
        let logits = answer.mask(0, chosen.mask).unwrap();
        let kind = PromptKind::of(&prompts);
        let sure = manifest.calibration.confidence(kind, chosen.iou, logits);
        let off = (sure - case.confidence).abs();
        assert!(off <= CONFIDENCE_TOLERANCE, "{name}: confidence {sure}, {}", case.confidence);
        let mask = postprocess::threshold(logits, answer.side, size).unwrap();
        let bytes = fs::read(folder.join(&case.mask.path)).unwrap();
        let expected = png::decode_mask(&bytes, size).unwrap();
        assert!(mask == expected, "{name}: {} px differ", differing(&mask, &expected));
        assert_eq!(mask.area(), case.mask.area_px, "{name}");
        assert!(mask.area() > 0 && mask.area() < size.pixels(), "{name}: empty or full");
    }
    println!("{}: logits differ by at most {worst:.1e} of the largest", manifest.name);
}

/// The picture as the daemon would prepare it.
fn picture(path: &Path, size: Size, side: usize) -> ImageTensor {
    let bytes = fs::read(path).unwrap();
    let slice = decode::decode(&bytes, None, &decode::Limits::default()).unwrap();
    assert_eq!(slice.size(), size);
    let auto = sam2d::domain::mask::ImageType::Auto;
    let (rendering, _) = window::resolve(slice.info(), None, auto).unwrap();
    preprocess::tensor(&window::render(&slice, &rendering), size, side).unwrap()
}

fn prompt_rows(case: &Case) -> usize {
    (case.points.len() + if case.bounds.is_some() { 2 } else { 0 }).max(1)
}

fn named(label: f32) -> PointLabel {
    use PointLabel::{BoxEnd, BoxStart, Inside, Outside, Padding};
    let labels = [Padding, Outside, Inside, BoxStart, BoxEnd];
    labels.into_iter().find(|known| known.value() == label).unwrap()
}

/// max|Δ| / max|expected|.
fn relative(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let off = found.iter().zip(expected).fold(0.0_f32, |off, (a, b)| off.max((a - b).abs()));
    off / largest
}

fn differing(a: &sam2d::domain::mask::Mask, b: &sam2d::domain::mask::Mask) -> usize {
    a.pixels().iter().zip(b.pixels()).filter(|(a, b)| a != b).count()
}
