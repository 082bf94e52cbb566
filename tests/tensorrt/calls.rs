//! Plans that load: their numbers against the CPU engine's, and what happens when a call fails.

use super::model::{Model, Order, cpu};
use super::package::{Spec, made};
use super::{alone, pretend, standins};
use sam2d::domain::tensor::{ImageTensor, MaskLogits, PointLabel, PointRow, PromptBatch};
use sam2d::engine::tensorrt::TensorRtBackend;
use sam2d::engine::{Backend, BackendError, Options};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) fn options(library: &str) -> Options {
    Options { tensorrt_path: Some(standins().join(library)), ..Options::default() }
}

struct Loaded {
    backend: TensorRtBackend,
    model: Model,
    _folder: tempfile::TempDir,
}

fn load(spec: &Spec, options: &Options) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::start(folder.path());
    let package = made(folder.path(), &model, spec);
    let backend = TensorRtBackend::load(&package, options).unwrap();
    Loaded { backend, model, _folder: folder }
}

fn picture(seed: usize) -> ImageTensor {
    let level = |index: usize| {
        let (x, y) = (index % 128, index / 128 % 128);
        let block = (32 + seed..64 + seed).contains(&x) && (40..80).contains(&y);
        x as f32 / 128.0 + if block { 1.5 } else { -0.5 }
    };
    ImageTensor::new(128, (0..3 * 128 * 128).map(level).collect()).unwrap()
}

fn row(x: f32, y: f32, label: PointLabel) -> PointRow {
    PointRow { x, y, label }
}

fn click() -> PromptBatch {
    PromptBatch::one(vec![row(50.0, 60.0, PointLabel::Inside)], None)
}

/// A click, a box with clicks, a mask to refine, nothing, and a batch.
fn prompts() -> Vec<PromptBatch> {
    let boxed = vec![
        row(20.0, 20.0, PointLabel::BoxStart),
        row(90.0, 90.0, PointLabel::BoxEnd),
        row(50.0, 60.0, PointLabel::Inside),
        row(10.0, 10.0, PointLabel::Outside),
    ];
    let mask: Arc<[f32]> = (0..32 * 32).map(|i| if i % 32 < 16 { 4.0 } else { -4.0 }).collect();
    let places: Vec<_> = (0..8).map(|i| (10.0 + 12.0 * i as f32, 64.0)).collect();
    vec![
        click(),
        PromptBatch::one(boxed, None),
        PromptBatch::one(vec![row(50.0, 60.0, PointLabel::Inside)], Some(mask)),
        PromptBatch::empty_prompt(None),
        PromptBatch::single_clicks(&places).unwrap(),
        // After a mask was fed: its memory must not linger.
        click(),
    ]
}

fn farthest(a: &MaskLogits, b: &MaskLogits) -> f32 {
    assert_eq!((a.batch, a.masks, a.side), (b.batch, b.masks, b.side));
    let pairs =
        a.logits.iter().zip(&b.logits).chain(a.iou_predictions.iter().zip(&b.iou_predictions));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn masks_of_every_library_are_the_cpu_engines() {
    let _alone = alone();
    let cases = [
        ("ten", Spec::default(), "TensorRT 10.16.0.72"),
        ("eleven", Spec::eleven(), "TensorRT 11.4.0.106"),
        ("lean", Spec::default(), "TensorRT lean runtime 10.16.0.72"),
        ("rtx", Spec::rtx(), "TensorRT-RTX 1.7.1.116"),
    ];
    let mut cpu = cpu();
    for (library, spec, title) in cases {
        let Loaded { mut backend, model: _model, _folder } = load(&spec, &options(library));
        let info = backend.info().clone();
        assert_eq!(info.device, format!("Stand-in, compute capability 8.7, {title}"));
        assert_eq!((info.backend, info.max_prompts, info.max_points), ("tensorrt", 64, 66));
        let (ours, theirs) =
            (backend.encode(&picture(0)).unwrap(), cpu.encode(&picture(0)).unwrap());
        assert_eq!(backend.download(&ours).unwrap(), cpu.download(&theirs).unwrap(), "{library}");
        for (index, prompts) in prompts().into_iter().enumerate() {
            let answer = backend.decode(&ours, &prompts).unwrap();
            let expected = cpu.decode(&theirs, &prompts).unwrap();
            // One by one there, in a batch here: sums in another order.
            assert!(farthest(&answer, &expected) < 1e-3, "{library}, prompt {index}");
            assert!(answer.object_score_logits.is_some());
        }
    }
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn half_precision_in_and_out_is_half_precision_and_no_more() {
    let _alone = alone();
    let Loaded { mut backend, model: _model, _folder } =
        load(&Spec { half: true, ..Spec::default() }, &options("ten"));
    let mut cpu = cpu();
    let (ours, theirs) = (backend.encode(&picture(0)).unwrap(), cpu.encode(&picture(0)).unwrap());
    assert_eq!(ours.bytes() * 2, theirs.bytes());
    for prompts in prompts() {
        let expected = cpu.decode(&theirs, &prompts).unwrap();
        let scale = expected.logits.iter().fold(1.0_f32, |most, logit| most.max(logit.abs()));
        let off = farthest(&backend.decode(&ours, &prompts).unwrap(), &expected);
        assert!(off > 0.0 && off < 0.02 * scale, "{off} of {scale}");
    }
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn the_encoder_is_recorded_after_its_first_calls_and_answers_the_same() {
    let _alone = alone();
    for (graphs, driver, recorded) in
        [(true, "", true), (false, "", false), (true, "capture", false)]
    {
        let options = Options { cuda_graphs: graphs, ..options("ten") };
        let Loaded { mut backend, model, _folder } = load(&Spec::default(), &options);
        pretend(driver);
        let first = backend.encode(&picture(0)).unwrap();
        let first = backend.download(&first).unwrap();
        for seed in 1..5 {
            let other = backend.encode(&picture(seed)).unwrap();
            assert_ne!(backend.download(&other).unwrap(), first);
        }
        let again = backend.encode(&picture(0)).unwrap();
        assert_eq!(backend.download(&again).unwrap(), first);
        assert_eq!(backend.residence().1, recorded, "{graphs} {driver:?}");
        assert_eq!(model.orders.inferences.load(Ordering::SeqCst), 6);
    }
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn embeddings_beyond_the_budget_go_to_the_host_and_come_back() {
    let _alone = alone();
    // 4·32·32 + 8·16·16 + 32·8·8 values of four bytes: room for two.
    let each = 4 * (4 * 32 * 32 + 8 * 16 * 16 + 32 * 8 * 8);
    let options = Options { device_embeddings_bytes: 2 * each, ..options("ten") };
    let Loaded { mut backend, model: _model, _folder } = load(&Spec::default(), &options);
    let kept: Vec<_> = (0..4).map(|seed| backend.encode(&picture(seed)).unwrap()).collect();
    assert_eq!(backend.residence().0, 2);
    let mut cpu = cpu();
    for (seed, embedding) in kept.iter().enumerate() {
        let theirs = cpu.encode(&picture(seed)).unwrap();
        let expected = cpu.decode(&theirs, &click()).unwrap();
        let answer = backend.decode(embedding, &click()).unwrap();
        assert!(farthest(&answer, &expected) < 1e-3, "{seed}");
        assert_eq!(backend.download(embedding).unwrap(), cpu.download(&theirs).unwrap());
        assert!(backend.residence().0 <= 2);
    }
    drop(kept);
    assert_eq!(backend.residence().0, 0);
    let uploaded = cpu.encode(&picture(9)).unwrap();
    let host = cpu.download(&uploaded).unwrap();
    let back = backend.upload(&host).unwrap();
    assert_eq!(backend.download(&back).unwrap(), host);
    // Whoever frees last, on whatever thread, needs no context of its own.
    let handle = std::thread::spawn(move || drop(back));
    handle.join().unwrap();
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn separate_profiles_bound_prompts_times_points() {
    let _alone = alone();
    let profiles = vec![(0, [1, 64], [1, 2]), (1, [1, 1], [1, 66])];
    let Loaded { mut backend, model: _model, _folder } =
        load(&Spec { profiles, ..Spec::eleven() }, &options("eleven"));
    assert_eq!((backend.info().max_prompts, backend.info().max_points), (64, 66));
    let embedding = backend.encode(&picture(0)).unwrap();
    let many = |count: usize| vec![row(40.0, 40.0, PointLabel::Inside); count];
    let wide: Vec<_> = (0..64_u8).map(|x| (f32::from(x), 64.0)).collect();
    for _ in 0..2 {
        // Back and forth between the profiles.
        let wide = PromptBatch::single_clicks(&wide).unwrap();
        assert_eq!(backend.decode(&embedding, &wide).unwrap().batch, 64);
        backend.decode(&embedding, &PromptBatch::one(many(66), None)).unwrap();
    }
    let few = Spec { profiles: vec![(0, [1, 4], [1, 8])], max_points: 66, ..Spec::default() };
    let Loaded { mut backend, model: _model, _folder } = load(&few, &options("ten"));
    assert_eq!((backend.info().max_prompts, backend.info().max_points), (4, 8));
    let embedding = backend.encode(&picture(0)).unwrap();
    let refused = backend.decode(&embedding, &PromptBatch::one(many(9), None));
    assert!(matches!(refused, Err(BackendError::BadInput(_))), "{refused:?}");
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn a_failed_call_is_told_by_what_can_be_done_and_the_next_one_works() {
    let _alone = alone();
    // A recorded encoder asks nobody before it runs.
    let plain = Options { cuda_graphs: false, ..options("ten") };
    let Loaded { mut backend, model, _folder } = load(&Spec::default(), &plain);
    let embedding = backend.encode(&picture(0)).unwrap();
    let expected = backend.decode(&embedding, &click()).unwrap();
    for (order, words) in [
        (Order::Fail, "failed: enqueueV3: stand-in: told to fail"),
        (Order::OutOfMemory, "out of memory in"),
        (Order::Nan, "holds NaN or infinity"),
    ] {
        model.orders.encoder(order);
        model.orders.decoder(order);
        for refused in [
            backend.encode(&picture(0)).map(drop).unwrap_err(),
            backend.decode(&embedding, &click()).map(drop).unwrap_err(),
        ] {
            assert!(refused.to_string().contains(words), "{order:?}: {refused}");
        }
        model.orders.encoder(Order::Answer);
        model.orders.decoder(Order::Answer);
        backend.encode(&picture(1)).unwrap();
        assert_eq!(backend.decode(&embedding, &click()).unwrap(), expected, "{order:?}");
    }
    model.orders.decoder(Order::Iou);
    let refused = backend.decode(&embedding, &click()).unwrap_err();
    assert!(refused.to_string().contains("iou_predictions holds 7, outside 0..1"), "{refused}");
    model.orders.decoder(Order::Answer);

    pretend("oom");
    let kept: Vec<_> = (0..8).map(|_| backend.encode(&picture(2))).collect();
    let refused = kept.iter().find_map(|encoded| encoded.as_ref().err());
    // What was on the device went to the host before anything was refused.
    assert!(
        refused.is_none_or(|error| matches!(error, BackendError::OutOfMemory { .. })),
        "{refused:?}"
    );
    pretend("unknown");
    let refused = backend.encode(&picture(2)).map(drop).unwrap_err();
    let words = "an error that the driver has no name for (4242)";
    assert!(refused.to_string().contains(words), "{refused}");
    pretend("");
    backend.encode(&picture(2)).unwrap();
    assert_eq!(backend.decode(&embedding, &click()).unwrap(), expected);
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn an_allocation_that_fails_is_out_of_memory_and_passes() {
    let _alone = alone();
    let Loaded { mut backend, model: _model, _folder } = load(&Spec::default(), &options("ten"));
    pretend("oom");
    let refused = backend.encode(&picture(0)).map(drop).unwrap_err();
    assert!(matches!(refused, BackendError::OutOfMemory { stage: "transfer", .. }), "{refused}");
    pretend("");
    let embedding = backend.encode(&picture(0)).unwrap();
    pretend("oom");
    let refused = backend.decode(&embedding, &click()).map(drop).unwrap_err();
    assert!(matches!(refused, BackendError::OutOfMemory { stage: "decoder", .. }), "{refused}");
    pretend("");
    backend.decode(&embedding, &click()).unwrap();
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn an_output_of_another_shape_is_no_answer() {
    let _alone = alone();
    let edit = |role: &str, text: String| {
        if role == "decoder" { format!("fail shape\n{text}") } else { text }
    };
    let Loaded { mut backend, model: _model, _folder } =
        load(&Spec { edit, ..Spec::default() }, &options("ten"));
    let embedding = backend.encode(&picture(0)).unwrap();
    let refused = backend.decode(&embedding, &click()).map(drop).unwrap_err().to_string();
    assert!(
        refused.contains("masks has shape [1, 4, 32, 33] instead of [1, 4, 32, 32]"),
        "{refused}"
    );
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn another_engines_embedding_is_refused_and_a_reloaded_ones_is_taken() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let model = Model::start(folder.path());
    let package = made(folder.path(), &model, &Spec::default());
    let mut first = TensorRtBackend::load(&package, &options("ten")).unwrap();
    let embedding = first.encode(&picture(0)).unwrap();
    let expected = first.decode(&embedding, &click()).unwrap();
    drop(first);
    let mut second = TensorRtBackend::load(&package, &options("ten")).unwrap();
    assert_eq!(second.decode(&embedding, &click()).unwrap(), expected);
    let mut cpu = cpu();
    let foreign = cpu.encode(&picture(0)).unwrap();
    assert!(matches!(second.decode(&foreign, &click()), Err(BackendError::BadInput(_))));
    drop(second);
    drop(embedding);
}
