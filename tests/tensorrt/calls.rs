//! Plans that load: their numbers against the CPU engine's, and what happens when a call fails.

use super::model::{Model, Order, cpu};
use super::package::{Spec, made, write};
use super::standin::{Alive, alive, copies, device_bytes, forget};
use super::{alone, pretend, standins};
use sam2d::domain::tensor::{
    Embedding, HostEmbedding, ImageTensor, MaskLogits, PointLabel, PointRow, PromptBatch,
};
use sam2d::engine::package::Package;
use sam2d::engine::tensorrt::TensorRtBackend;
use sam2d::engine::worker::{Class, Engine, Fatal, Hooks, Stage};
use sam2d::engine::{Backend, BackendError, Options};
use sam2d::service::loader::{self, Reach};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

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
fn the_least_recently_used_embedding_is_the_one_that_goes() {
    let _alone = alone();
    let each = 4 * (4 * 32 * 32 + 8 * 16 * 16 + 32 * 8 * 8);
    let options = Options { device_embeddings_bytes: 2 * each, ..options("ten") };
    let Loaded { mut backend, model: _model, _folder } = load(&Spec::default(), &options);
    let copied = |backend: &mut TensorRtBackend, embedding: &Embedding| {
        let before = copies();
        backend.decode(embedding, &click()).unwrap();
        copies() - before
    };
    let (first, second) =
        (backend.encode(&picture(0)).unwrap(), backend.encode(&picture(1)).unwrap());
    // Coordinates, labels and a flag; an embedding that comes back is three copies more.
    assert_eq!(copied(&mut backend, &first), 3);
    let third = backend.encode(&picture(2)).unwrap();
    assert_eq!(copied(&mut backend, &first), 3, "used last, and gone");
    assert_eq!(copied(&mut backend, &third), 3);
    assert_eq!(copied(&mut backend, &second), 6, "used least, and still there");
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn what_many_embeddings_leave_behind_is_bounded_and_a_broken_one_is_not_taken_back() {
    let _alone = alone();
    let Loaded { mut backend, model: _model, _folder } = load(&Spec::default(), &options("ten"));
    let before = alive().device_memory;
    let many: Vec<_> = (0..9).map(|seed| backend.encode(&picture(seed)).unwrap()).collect();
    assert_eq!(alive().device_memory, before + 9 * 3);
    let host = backend.download(&many[0]).unwrap();
    drop(many);
    // Four are kept for the next.
    assert_eq!(alive().device_memory, before + 4 * 3);
    let refused = |host: &HostEmbedding, backend: &mut TensorRtBackend| {
        let error = backend.upload(host).map(drop).unwrap_err();
        assert!(matches!(error, BackendError::BadInput(_)), "{error}");
        error.to_string()
    };
    let mut broken = host.clone();
    broken.image_embed[7] = f32::NAN;
    assert!(refused(&broken, &mut backend).contains("NaN or infinity"));
    let mut short = host.clone();
    short.high_res_feats_1.pop();
    assert!(refused(&short, &mut backend).contains("other sizes"));
    backend.upload(&host).unwrap();
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

/// What makes a call fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The model, at the other end of the stand-in library.
    Model(Order),
    /// The driver.
    Driver(&'static str),
}

/// One way in which a call fails: the encoder's words, if it can, and the decoder's.
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) encoder: Option<&'static str>,
    pub(crate) decoder: Option<&'static str>,
}

/// Each is tried on the engine itself, and through the daemon.
pub(crate) fn failures() -> Vec<Failure> {
    let failure = |cause, encoder, decoder| Failure { cause, encoder, decoder };
    let both = |cause, words| failure(cause, Some(words), Some(words));
    vec![
        failure(
            Cause::Driver("oom"),
            Some("out of memory in transfer: cuMem"),
            // The memory of one prompt is there since the engine was loaded.
            None,
        ),
        failure(
            Cause::Model(Order::Fail),
            Some("encoder failed: enqueueV3: stand-in: told to fail"),
            Some("decoder failed: enqueueV3: stand-in: told to fail"),
        ),
        failure(
            Cause::Model(Order::OutOfMemory),
            Some("out of memory in encoder: enqueueV3: stand-in: told to lack memory"),
            Some("out of memory in decoder: enqueueV3: stand-in: told to lack memory"),
        ),
        failure(
            Cause::Model(Order::Nan),
            Some("the engine's encoder output is not usable: high_res_feats_0 holds NaN"),
            Some("the engine's decoder output is not usable: masks holds NaN"),
        ),
        failure(
            Cause::Model(Order::Infinity),
            Some(
                "the engine's encoder output is not usable: high_res_feats_0 holds NaN or infinity",
            ),
            Some("the engine's decoder output is not usable: masks holds NaN or infinity"),
        ),
        failure(Cause::Model(Order::Iou), None, Some("iou_predictions holds 7, outside 0..1")),
        failure(
            Cause::Model(Order::NegativeIou),
            None,
            Some("iou_predictions holds -0.2, outside 0..1"),
        ),
        failure(
            Cause::Driver("shape"),
            None,
            Some("masks has shape [1, 4, 32, 33] instead of [1, 4, 32, 32]"),
        ),
        both(Cause::Driver("unknown"), "an error that the driver has no name for (4242)"),
    ]
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
    for Failure { cause, encoder, decoder } in failures() {
        let trigger = |on: bool| match cause {
            Cause::Model(order) => {
                let order = if on { order } else { Order::Answer };
                model.orders.encoder(order);
                model.orders.decoder(order);
            }
            Cause::Driver(words) => pretend(if on { words } else { "" }),
        };
        trigger(true);
        if let Some(words) = encoder {
            let refused = backend.encode(&picture(0)).map(drop).unwrap_err().to_string();
            assert!(refused.contains(words), "{cause:?}: {refused}");
        }
        if let Some(words) = decoder {
            let refused = backend.decode(&embedding, &click()).map(drop).unwrap_err().to_string();
            assert!(refused.contains(words), "{cause:?}: {refused}");
        }
        trigger(false);
        drop(backend.encode(&picture(1)).unwrap());
        assert_eq!(backend.decode(&embedding, &click()).unwrap(), expected, "{cause:?}");
    }
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn a_lost_device_is_told_by_every_call_and_nothing_aborts_on_its_way_out() {
    let _alone = alone();
    for lost_in in ["encoder", "decoder", "transfer"] {
        let Loaded { mut backend, model: _model, _folder } =
            load(&Spec::default(), &options("ten"));
        let embedding = backend.encode(&picture(0)).unwrap();
        pretend("sticky");
        let error = match lost_in {
            "encoder" => backend.encode(&picture(1)).map(drop).unwrap_err(),
            "decoder" => backend.decode(&embedding, &click()).map(drop).unwrap_err(),
            _ => backend.download(&embedding).map(drop).unwrap_err(),
        };
        assert!(matches!(error, BackendError::DeviceLost(_)), "{lost_in}: {error}");
        assert!(error.to_string().contains(lost_in), "{lost_in}: {error}");
        pretend("");
        let again = backend.decode(&embedding, &click()).map(drop).unwrap_err();
        assert!(matches!(again, BackendError::DeviceLost(_)), "after the {lost_in}: {again}");
        drop((embedding, backend));
        forget();
    }
    assert_eq!(alive(), Alive::default());
}

#[tokio::test]
#[ignore = "./test tensorrt builds what it needs"]
#[expect(clippy::await_holding_lock, reason = "one test at a time is what the lock is for")]
async fn a_call_that_hangs_is_called_fatal_and_names_the_stage() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let model = Model::start(folder.path());
    let options = Options {
        path: Some(write(folder.path(), &model, &Spec::default())),
        hang_s: 1,
        cuda_graphs: false,
        ..options("ten")
    };
    let load = loader::loader(
        options.clone(),
        Reach { loopback_only: true },
        Box::new(|_: &Package, _| ()),
    );
    let (tell, told) = mpsc::channel();
    let hooks = Hooks::new(load).on_fatal(move |fatal| tell.send(fatal).unwrap());
    let engine = Engine::start((&options).into(), hooks).unwrap();
    engine.settled().await;
    model.orders.encoder(Order::Hang);
    let deadline = Instant::now() + Duration::from_secs(60);
    let (hanging, fatal) = tokio::join!(
        engine.encode(picture(0), Class::Cold, deadline),
        tokio::task::spawn_blocking(move || {
            let fatal = told.recv_timeout(Duration::from_secs(60)).unwrap();
            // It comes back after all: too late.
            model.orders.encoder(Order::Answer);
            fatal
        }),
    );
    drop(hanging);
    let fatal = fatal.unwrap();
    assert!(matches!(fatal, Fatal::Hang { stage: Stage::Encode, .. }), "{fatal:?}");
    assert!(fatal.to_string().starts_with("encoder has been running for"), "{fatal}");
    assert!(engine.stop(Duration::from_secs(60)));
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn a_backend_leaves_nothing_on_the_device_when_it_goes() {
    let _alone = alone();
    let Loaded { mut backend, model: _model, _folder } = load(&Spec::default(), &options("ten"));
    // Recorded, one embedding spilled, one in use, one dropped.
    for _ in 0..4 {
        drop(backend.encode(&picture(0)).unwrap());
    }
    let kept = backend.encode(&picture(1)).unwrap();
    backend.decode(&kept, &click()).unwrap();
    backend.download(&kept).unwrap();
    assert!(backend.residence().1);
    let now = alive();
    // One runtime, engine and context for each plan; the graph in use and not the one it came from.
    assert_eq!((now.contexts, now.streams, now.graphs, now.objects), (1, 1, 1, 6));
    assert!(now.device_memory > 0 && now.host_memory > 0);
    drop(backend);
    // What a handle still holds keeps its memory and the device's context, and nothing else.
    let now = alive();
    assert_eq!((now.contexts, now.graphs, now.objects, now.host_memory), (1, 0, 0, 0), "{now:?}");
    drop(kept);
    assert_eq!(alive(), Alive::default());
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn a_decoder_with_one_mask_flag_for_all_prompts_is_fed_one() {
    let _alone = alone();
    let edit = |role: &str, text: String| match role {
        "decoder" => text
            .replace("in has_mask_input 0 -1", "in has_mask_input 0 1")
            .replace("has_mask_input 1 ; 64", "has_mask_input 1 ; 1"),
        _ => text,
    };
    let Loaded { mut backend, model: _model, _folder } =
        load(&Spec { edit, ..Spec::default() }, &options("ten"));
    let mut cpu = cpu();
    let (ours, theirs) = (backend.encode(&picture(0)).unwrap(), cpu.encode(&picture(0)).unwrap());
    for prompts in prompts() {
        let answer = backend.decode(&ours, &prompts).unwrap();
        assert!(farthest(&answer, &cpu.decode(&theirs, &prompts).unwrap()) < 1e-3);
    }
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
fn a_buffer_that_grows_frees_the_old_one_first() {
    let _alone = alone();
    let wide: Vec<_> = (0..64_u8).map(|x| (f32::from(x), 64.0)).collect();
    let wide = PromptBatch::single_clicks(&wide).unwrap();
    let Loaded { mut backend, model: _model, _folder } = load(&Spec::default(), &options("ten"));
    let embedding = backend.encode(&picture(0)).unwrap();
    backend.decode(&embedding, &click()).unwrap();
    let least = device_bytes();
    backend.decode(&embedding, &wide).unwrap();
    let most = device_bytes();
    assert!(most > least + 4 * 63 * 4 * 32 * 32, "{least}, {most}");
    drop((backend, embedding));
    // Exactly what the grown buffers take: an old one beside its successor doesn't fit.
    let Loaded { mut backend, model: _model, _folder } = load(&Spec::default(), &options("ten"));
    let embedding = backend.encode(&picture(0)).unwrap();
    backend.decode(&embedding, &click()).unwrap();
    pretend(&format!("room {most}"));
    backend.decode(&embedding, &wide).unwrap();
    // It is the room that decides: a byte less is too little.
    drop((backend, embedding));
    pretend("");
    let Loaded { mut backend, model: _model, _folder } = load(&Spec::default(), &options("ten"));
    let embedding = backend.encode(&picture(0)).unwrap();
    pretend(&format!("room {}", most - 1));
    assert!(matches!(backend.decode(&embedding, &wide), Err(BackendError::OutOfMemory { .. })));
    pretend("");
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
    // Nor one of another TensorRT, though it lies on the same device.
    let package = made(folder.path(), &model, &Spec::eleven());
    let mut eleven = TensorRtBackend::load(&package, &options("eleven")).unwrap();
    let foreign = eleven.encode(&picture(0)).unwrap();
    assert!(matches!(second.decode(&foreign, &click()), Err(BackendError::BadInput(_))));
    drop(second);
    drop(embedding);
}
