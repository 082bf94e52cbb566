//! The CPU engine against doctored copies of the embedded package. Numbers against PyTorch are the
//! business of `tests/it/parity.rs`.

use super::*;
use crate::domain::key::Sum;
use crate::domain::tensor::{PointLabel, PointRow};
use crate::engine::package::MANIFEST_FILE;
use rten_onnx::onnx::{DataType, ModelProto, NodeProto};
use std::path::Path;

fn backend() -> CpuBackend {
    CpuBackend::load(&Package::embedded().unwrap(), 1).unwrap()
}

/// A gradient with a bright block: any picture will do, but not a flat one.
fn picture(side: usize) -> ImageTensor {
    let level = |index: usize| {
        let (x, y) = (index % side, index / side % side);
        let block = (side / 4..side / 2).contains(&x) && (side / 3..side / 2).contains(&y);
        x as f32 / side as f32 + if block { 1.5 } else { -0.5 }
    };
    ImageTensor::new(side, (0..3 * side * side).map(level).collect()).unwrap()
}

fn click(x: f32, y: f32) -> PromptBatch {
    PromptBatch::one(vec![PointRow { x, y, label: PointLabel::Inside }], None)
}

/// The embedded package as a folder whose manifest text and model files went through `edit`; the
/// sums are made right again.
fn doctored(
    text: impl Fn(String) -> String,
    edit: impl Fn(Role, &mut ModelProto),
) -> (tempfile::TempDir, Package) {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/sam2-nano");
    let mut manifest = text(std::fs::read_to_string(source.join(MANIFEST_FILE)).unwrap());
    for name in ["golden.png", "golden_mask.png"] {
        std::fs::copy(source.join(name), folder.path().join(name)).unwrap();
    }
    for role in [Role::Encoder, Role::Decoder] {
        let name = format!("{}.onnx", role.name());
        let bytes = std::fs::read(source.join(&name)).unwrap();
        let mut model = ModelProto::parse_buf(&bytes).unwrap();
        edit(role, &mut model);
        let edited = model.write_buf().unwrap();
        let (before, after) = (Sum::of(&bytes).to_hex(), Sum::of(&edited).to_hex());
        manifest = manifest.replace(&before, &after);
        std::fs::write(folder.path().join(name), edited).unwrap();
    }
    std::fs::write(folder.path().join(MANIFEST_FILE), manifest).unwrap();
    let package = Package::load(folder.path()).unwrap();
    (folder, package)
}

fn refusal(edit: impl Fn(Role, &mut ModelProto)) -> String {
    let (_folder, package) = doctored(|text| text, edit);
    CpuBackend::load(&package, 1).err().expect("the package should be refused").to_string()
}

fn set_cubic(node: &mut NodeProto) {
    let mode = node.attribute.iter_mut().find(|a| a.name.as_deref() == Some("mode")).unwrap();
    mode.s = Some("cubic".into());
}

#[test]
fn a_cubic_resize_is_refused_by_the_nodes_name() {
    let text = refusal(|role, model| {
        if role == Role::Encoder {
            let nodes = &mut model.graph.as_mut().unwrap().node;
            set_cubic(nodes.iter_mut().find(|n| n.op_type.as_deref() == Some("Resize")).unwrap());
        }
    });
    assert!(text.contains("/e/Resize") && text.contains("cubic"), "{text}");
}

#[test]
fn a_rewritten_but_unchanged_package_is_loaded() {
    let (_folder, package) = doctored(|text| text, |_, _| {});
    CpuBackend::load(&package, 1).unwrap();
}

#[test]
fn what_contradicts_contract_or_manifest_is_named() {
    type Edit = fn(Role, &mut ModelProto);
    let cases: [(Edit, &str); 4] = [
        (
            |role, model| {
                if role == Role::Encoder {
                    let outputs = &mut model.graph.as_mut().unwrap().output;
                    outputs.retain(|value| value.name.as_deref() != Some("image_embed"));
                }
            },
            "encoder: no input or output is named image_embed",
        ),
        (
            |role, model| {
                if role == Role::Encoder {
                    let input = &mut model.graph.as_mut().unwrap().input[0];
                    let kind = input.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
                    kind.elem_type = Some(DataType::FLOAT16);
                }
            },
            "encoder: image is not f32, expected f32",
        ),
        (
            |role, model| {
                if role == Role::Decoder {
                    for input in &mut model.graph.as_mut().unwrap().input {
                        let kind = input.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
                        if input.name.as_deref() == Some("point_coords") {
                            kind.shape.as_mut().unwrap().dim[1].dim_value = Some(5);
                        }
                    }
                }
            },
            "decoder: point_coords is [?, 5, 2], expected [?, ?, 2]",
        ),
        (|_, model| model.graph = None, "encoder: not a readable ONNX model: it has no graph"),
    ];
    for (edit, expected) in cases {
        assert_eq!(refusal(edit), expected);
    }
    for (from, to, expected) in [
        (
            "input_size = 256",
            "input_size = 512",
            "encoder: image is [1, 3, 256, 256], expected [1, 3, 512, 512]",
        ),
        (
            "embed_channels = 128",
            "embed_channels = 256",
            "encoder: high_res_feats_0 is [1, 16, 64, 64], expected [1, 32, 64, 64]",
        ),
        ("masks = 4", "masks = 3", "decoder: masks is [?, 4, 64, 64], expected [?, 3, 64, 64]"),
    ] {
        let (_folder, package) = doctored(|text| text.replace(from, to), |_, _| {});
        assert_eq!(CpuBackend::load(&package, 1).err().unwrap().to_string(), expected);
    }
}

#[test]
fn a_plan_is_not_for_the_cpu() {
    let plan = "[plan]\ntensorrt = \"10.3.0\"\ncompute_capability = \"8.7\"\ndevice = \"Orin\"\n\n[files.encoder]";
    let text = |text: String| {
        text.replace("format = \"onnx\"", "format = \"plan\"").replace("[files.encoder]", plan)
    };
    let (_folder, package) = doctored(text, |_, _| {});
    let error = CpuBackend::load(&package, 1).err().unwrap();
    assert!(matches!(error, CpuError::NotOnnx { role: "encoder" }), "{error}");
}

#[test]
fn an_embedding_survives_the_way_to_the_host_and_back() {
    let mut backend = backend();
    let embedding = backend.encode(&picture(256)).unwrap();
    let host = backend.download(&embedding).unwrap();
    assert_eq!(
        embedding.bytes(),
        4 * (host.high_res_feats_0.len() + host.high_res_feats_1.len() + host.image_embed.len())
    );
    let back = backend.upload(&host).unwrap();
    assert_eq!(backend.download(&back).unwrap(), host);
    let prompt = click(100.0, 100.0);
    let (first, second) = (backend.decode(&embedding, &prompt), backend.decode(&back, &prompt));
    assert_eq!(first.unwrap(), second.unwrap());
    let mut short = host;
    short.image_embed.pop();
    assert!(matches!(backend.upload(&short), Err(BackendError::BadInput(_))));
}

#[test]
fn prompts_in_one_batch_answer_as_if_alone() {
    let mut backend = backend();
    let embedding = backend.encode(&picture(256)).unwrap();
    let points = [(100.0, 100.0), (20.0, 200.0), (128.0, 64.0)];
    let all = backend.decode(&embedding, &PromptBatch::single_clicks(&points).unwrap()).unwrap();
    assert_eq!((all.batch, all.masks, all.side), (3, 4, 64));
    for (index, (x, y)) in points.into_iter().enumerate() {
        let alone = backend.decode(&embedding, &click(x, y)).unwrap();
        for mask in 0..4 {
            let pairs = alone.mask(0, mask).unwrap().iter().zip(all.mask(index, mask).unwrap());
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-3, "prompt {index}, mask {mask}: {worst}");
        }
    }
}

#[test]
fn what_is_no_input_is_refused_before_the_runtime_sees_it() {
    let mut backend = backend();
    assert!(matches!(backend.encode(&picture(128)), Err(BackendError::BadInput(_))));
    let embedding = backend.encode(&picture(256)).unwrap();
    let foreign = Embedding::new(7_u32, 4);
    assert!(matches!(backend.decode(&foreign, &click(1.0, 1.0)), Err(BackendError::BadInput(_))));
    let refine = |len| Some(Arc::from(vec![0.0_f32; len]));
    let rows = vec![PointRow { x: 1.0, y: 1.0, label: PointLabel::Inside }];
    let crowd: Vec<_> = (0..65_u8).map(|x| (f32::from(x), 1.0)).collect();
    for prompts in [
        click(f32::NAN, 1.0),
        PromptBatch::one(rows.clone(), refine(63 * 64)),
        PromptBatch::single_clicks(&crowd).unwrap(),
        PromptBatch::one(vec![rows[0]; 67], None),
    ] {
        let refused = backend.decode(&embedding, &prompts);
        assert!(matches!(refused, Err(BackendError::BadInput(_))), "{refused:?}");
    }
    assert!(backend.decode(&embedding, &PromptBatch::one(rows, refine(64 * 64))).is_ok());
}

#[test]
fn a_picture_with_nan_is_refused_because_the_runtime_would_hide_it() {
    let mut backend = backend();
    let mut data = picture(256).data().to_vec();
    data[1000] = f32::NAN;
    let refused = backend.encode(&ImageTensor::new(256, data).unwrap());
    assert!(matches!(refused, Err(BackendError::BadInput(_))), "{refused:?}");
}

#[test]
fn an_overflow_inside_gives_an_error_and_no_result() {
    // The bias of each network's last layers, made infinite: what FP16 does to a value too large.
    let overflow = |broken: Role, bias: &'static str| {
        move |role: Role, model: &mut ModelProto| {
            if role == broken {
                let weights = &model.graph.as_ref().unwrap().initializer;
                let found = weights.iter().find(|w| w.name.as_deref() == Some(bias)).unwrap();
                assert_eq!(found.data_type, Some(DataType::FLOAT));
                let mut raw = found.raw_data.as_ref().unwrap().borrow_mut();
                raw.as_chunks_mut::<4>().0.fill(f32::INFINITY.to_le_bytes());
            }
        }
    };
    let (_folder, package) = doctored(|text| text, overflow(Role::Encoder, "e.lat0.bias"));
    let refused = CpuBackend::load(&package, 1).unwrap().encode(&picture(256));
    let Err(BackendError::BadOutput { stage: "encoder", what }) = refused else {
        panic!("{refused:?}");
    };
    assert!(what.contains("high_res_feats_0 holds NaN"), "{what}");

    let (_folder, package) = doctored(|text| text, overflow(Role::Decoder, "d.obj.4.bias"));
    let mut backend = CpuBackend::load(&package, 1).unwrap();
    let embedding = backend.encode(&picture(256)).unwrap();
    let refused = backend.decode(&embedding, &click(100.0, 100.0));
    assert!(
        matches!(refused, Err(BackendError::BadOutput { stage: "decoder", .. })),
        "{refused:?}"
    );
}

#[test]
fn a_predicted_iou_outside_0_to_1_is_no_answer_and_rounding_is_clamped() {
    assert_eq!(within_unit(vec![-0.05, 0.5, 1.05]).unwrap(), [0.0, 0.5, 1.0]);
    assert!(within_unit(vec![0.5, 1.11]).is_err());
    assert!(within_unit(vec![-0.11]).is_err());
}

#[test]
fn the_fingerprint_names_the_runtime_that_is_linked() {
    let lock = include_str!("../../../Cargo.lock");
    let (name, version) = RUNTIME.split_once(' ').unwrap();
    let entry = format!("name = \"{name}\"\nversion = \"{version}\"");
    assert!(lock.contains(&entry), "Cargo.lock has no {RUNTIME}");
}
