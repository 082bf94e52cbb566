//! Every arrow of the state diagram and every rule of the queue, with a backend that does what the
//! script says.

use super::*;
use crate::domain::mask::{BoundingBox, Mask};
use crate::domain::slice::Size;
use crate::domain::tensor::{PointLabel, PointRow};
use crate::engine::EngineInfo;
use crate::engine::package::golden::{Observed, Report};
use crate::engine::package::{Package, PackageError};
use std::collections::VecDeque;
use std::sync::mpsc;

const LONG: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_millis(20);
/// No test waits longer than this for something that must happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// The golden click's x: how the script knows a probe.
const PROBE: f32 = 77.0;

/// What a call of the scripted backend does.
enum Step {
    Fail,
    BadInput,
    Lost,
    Panic,
    Sleep(Duration),
    /// Reports that it began, then waits until the other end is dropped.
    Hold(mpsc::Sender<()>, mpsc::Receiver<()>),
    /// Marks another area than last time.
    Wrong,
}

#[derive(Default)]
struct Script {
    /// For `encode` and `decode`; when empty, calls work.
    calls: Mutex<VecDeque<Step>>,
    probes: Mutex<VecDeque<Step>>,
    /// For `load`: `Some` is the error.
    loads: Mutex<VecDeque<Option<LoadError>>>,
    log: Mutex<Vec<(String, Instant)>>,
    /// What the self-test says the encoder took.
    encode: Mutex<Duration>,
    revision: std::sync::atomic::AtomicU64,
    fatal: Mutex<Vec<Fatal>>,
}

impl Script {
    fn note(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push((what.into(), Instant::now()));
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().map(|(what, _)| what.clone()).collect()
    }

    fn times(&self, of: &str) -> Vec<Instant> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|(what, _)| what == of).map(|(_, when)| *when).collect()
    }

    fn then(&self, step: Step) {
        self.calls.lock().unwrap().push_back(step);
    }

    /// The next call blocks until `release` is dropped; `began` says when it has begun.
    fn hold(&self) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
        let ((begin, began), (release, wait)) = (mpsc::channel(), mpsc::channel());
        self.then(Step::Hold(begin, wait));
        (began, release)
    }

    /// Returns whether the mask is the wrong one.
    fn play(steps: &Mutex<VecDeque<Step>>) -> Result<bool, BackendError> {
        let step = steps.lock().unwrap().pop_front();
        match step {
            None => {}
            Some(Step::Fail) => {
                let what = "scripted".into();
                return Err(BackendError::Failed { stage: "decoder", what });
            }
            Some(Step::BadInput) => return Err(BackendError::BadInput("scripted".into())),
            Some(Step::Lost) => return Err(BackendError::DeviceLost("error 719".into())),
            Some(Step::Panic) => panic!("scripted panic"),
            Some(Step::Sleep(time)) => std::thread::sleep(time),
            Some(Step::Hold(begin, wait)) => {
                drop(begin);
                let _ = wait.recv();
            }
            Some(Step::Wrong) => return Ok(true),
        }
        Ok(false)
    }
}

struct Scripted {
    info: EngineInfo,
    script: Arc<Script>,
}

impl Backend for Scripted {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn encode(&mut self, image: &ImageTensor) -> Result<Embedding, BackendError> {
        self.script.note(format!("encode {}", image.data()[0]));
        Script::play(&self.script.calls)?;
        Ok(Embedding::new(image.data()[0], 4))
    }

    fn decode(&mut self, _: &Embedding, prompts: &PromptBatch) -> Result<MaskLogits, BackendError> {
        let x = prompts.rows()[0].x;
        let steps = if x == PROBE {
            &self.script.probes
        } else {
            self.script.note(format!("decode {x}"));
            &self.script.calls
        };
        let wrong = Script::play(steps)?;
        let logits = if wrong { vec![-1.0; 4] } else { vec![1.0, 1.0, -1.0, -1.0] };
        let (batch, iou_predictions) = (prompts.batch(), vec![0.5]);
        Ok(MaskLogits {
            batch,
            masks: 1,
            side: 2,
            logits,
            iou_predictions,
            object_score_logits: None,
        })
    }

    fn download(&mut self, _: &Embedding) -> Result<HostEmbedding, BackendError> {
        self.script.note("download");
        Ok(HostEmbedding {
            high_res_feats_0: vec![],
            high_res_feats_1: vec![],
            image_embed: vec![],
        })
    }

    fn upload(&mut self, _: &HostEmbedding) -> Result<Embedding, BackendError> {
        self.script.note("upload");
        Ok(Embedding::new(0.0_f32, 4))
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.script.note("dropped");
    }
}

fn loaded(script: &Arc<Script>) -> Loaded {
    let size = Size { width: 2, height: 1 };
    let mask = Mask::new(size, vec![255, 0]).unwrap();
    let millisecond = Duration::from_millis(1);
    let encode = *script.encode.lock().unwrap();
    let observed = Observed { mask, iou: 0.9, encode, decode: millisecond };
    Loaded {
        backend: Box::new(Scripted {
            info: EngineInfo {
                name: "scripted 1".into(),
                backend: "cpu",
                device: "none".into(),
                input_size: 1,
                embed_channels: 8,
                masks: 1,
                max_prompts: 64,
                max_points: 66,
                fingerprint: String::new(),
            },
            script: Arc::clone(script),
        }),
        package: Arc::new(Package::embedded().unwrap()),
        self_test: Report {
            observed,
            area_px: 1,
            bounding_box: BoundingBox { x: 0, y: 0, width: 1, height: 1 },
            mask_iou: 1.0,
        },
        probe_embedding: Embedding::new(0.0_f32, 4),
        probe_prompts: click(PROBE),
    }
}

fn options() -> Options {
    Options {
        hang: LONG,
        load_hang: LONG,
        max_failures: 3,
        retry_first: LONG,
        retry_max: LONG,
        watch_every: Duration::from_millis(5),
        max_queue: 64,
    }
}

fn start(script: &Arc<Script>, options: Options) -> Engine {
    let (load, revision, fatal) = (Arc::clone(script), Arc::clone(script), Arc::clone(script));
    let load = move || {
        load.note("load");
        let step = load.loads.lock().unwrap().pop_front();
        step.flatten().map_or_else(|| Ok(loaded(&load)), Err)
    };
    let hooks = Hooks::new(load)
        .watching(move || revision.revision.load(std::sync::atomic::Ordering::Relaxed))
        .on_fatal(move |cause| fatal.fatal.lock().unwrap().push(cause));
    Engine::start(options, hooks).unwrap()
}

fn broken_package() -> Option<LoadError> {
    Some(LoadError::GoldenFiles("the package is broken".into()))
}

fn click(x: f32) -> PromptBatch {
    PromptBatch::one(vec![PointRow { x, y: 0.0, label: PointLabel::Inside }], None)
}

fn image(id: f32) -> ImageTensor {
    ImageTensor::new(1, vec![id; 3]).unwrap()
}

fn later() -> Instant {
    Instant::now() + PATIENCE
}

async fn decode(engine: &Engine, id: f32) -> Result<Decoded, EngineError> {
    engine.decode(Embedding::new(0.0_f32, 4), click(id), Class::Warm, later()).await
}

async fn becomes(engine: &Engine, wanted: &str, is: impl Fn(&State) -> bool) {
    let mut states = engine.watch();
    let waited = tokio::time::timeout(PATIENCE, states.wait_for(|state| is(state))).await;
    assert!(matches!(waited, Ok(Ok(_))), "not {wanted} but {:?}", engine.state());
}

async fn ready(engine: &Engine) {
    becomes(engine, "ready", |state| matches!(state, State::Ready(_))).await;
}

async fn manual_only(engine: &Engine) {
    becomes(engine, "manual-only", |state| matches!(state, State::ManualOnly { .. })).await;
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn loading_becomes_ready_when_the_self_test_passed() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    let State::Ready(info) = engine.settled().await else { panic!("{engine:?}") };
    assert_eq!(info.engine.name, "scripted 1");
    assert_eq!(info.self_test.area_px, 1);
    let encoded = engine.encode(image(1.0), Class::Cold, later()).await.unwrap();
    assert_eq!(encoded.embedding.downcast_ref::<f32>(), Some(&1.0));
    assert!(decode(&engine, 2.0).await.is_ok());
    let vitals = engine.vitals();
    assert_eq!((vitals.loads, vitals.encodes, vitals.decodes, vitals.prompts), (1, 1, 1, 1));
    assert!(engine.stop(PATIENCE));
    assert_eq!(script.log(), ["load", "encode 1", "decode 2", "dropped"]);
}

#[tokio::test]
async fn nothing_is_accepted_while_loading() {
    let script = Arc::new(Script::default());
    let (began, release) = script.hold();
    script.probes.lock().unwrap().append(&mut script.calls.lock().unwrap());
    let engine = start(&script, options());
    assert!(began.recv().is_err());
    let refused = decode(&engine, 1.0).await.unwrap_err();
    assert_eq!(refused, EngineError::Unavailable { reason: "the engine is loading" });
    assert!(matches!(engine.probe(later()).await, Err(EngineError::Unavailable { .. })));
    drop(release);
    ready(&engine).await;
}

#[tokio::test]
async fn a_failed_load_is_manual_only_and_the_reason_has_no_path() {
    let script = Arc::new(Script::default());
    let folder = std::path::PathBuf::from("/srv/secret/engine");
    let error = LoadError::Package(PackageError::NotAPackage { folder });
    script.loads.lock().unwrap().push_back(Some(error));
    let engine = start(&script, options());
    let State::ManualOnly { reason, detail } = engine.settled().await else { panic!() };
    assert!(detail.contains("/srv/secret/engine") && !reason.contains('/'), "{reason}");
    assert_eq!(decode(&engine, 1.0).await.unwrap_err(), EngineError::Unavailable { reason });
    assert_eq!(script.log(), ["load"]);
}

#[tokio::test]
async fn a_panic_while_loading_is_manual_only() {
    let engine = Engine::start(options(), Hooks::new(|| panic!("in the loader"))).unwrap();
    let State::ManualOnly { detail, .. } = engine.settled().await else { panic!() };
    assert!(detail.contains("in the loader"), "{detail}");
}

#[tokio::test]
async fn a_probe_that_fails_at_once_is_manual_only() {
    let script = Arc::new(Script::default());
    script.probes.lock().unwrap().push_back(Step::Fail);
    let engine = start(&script, options());
    assert!(matches!(engine.settled().await, State::ManualOnly { .. }));
    assert_eq!(script.log(), ["load", "dropped"]);
}

#[tokio::test]
async fn manual_only_is_left_by_the_timer_and_waits_double_each_time() {
    let script = Arc::new(Script::default());
    script.loads.lock().unwrap().extend([broken_package(), broken_package(), broken_package()]);
    let first = Duration::from_millis(40);
    let engine = start(&script, Options { retry_first: first, ..options() });
    ready(&engine).await;
    let loads = script.times("load");
    let waits: Vec<_> = loads.iter().zip(&loads[1..]).map(|(a, b)| *b - *a).collect();
    assert_eq!(waits.len(), 3);
    assert!((0..3).zip(&waits).all(|(n, wait)| *wait >= first * 2_u32.pow(n)), "{waits:?}");
}

#[tokio::test]
async fn only_a_working_inference_resets_the_wait() {
    let script = Arc::new(Script::default());
    let mut options = options();
    (options.retry_first, options.max_failures) = (SOON, 1);
    let engine = start(&script, options);
    // From the end of the broken engine to the next attempt.
    let flap = async || {
        ready(&engine).await;
        script.then(Step::Fail);
        let loads = engine.vitals().loads;
        assert!(decode(&engine, 1.0).await.is_err());
        until("the next attempt", || engine.vitals().loads > loads).await;
        *script.times("load").last().unwrap() - *script.times("dropped").last().unwrap()
    };
    // It loads, and then fails its first request, over and over: 20, 40, 80, 160, 320 ms.
    for doublings in 0..5 {
        let wait = flap().await;
        assert!(wait >= SOON * 2_u32.pow(doublings), "{doublings}: {wait:?}");
    }
    ready(&engine).await;
    assert!(decode(&engine, 1.0).await.is_ok());
    let wait = flap().await;
    assert!(wait < SOON * 2_u32.pow(5), "{wait:?}");
}

#[tokio::test]
async fn manual_only_is_left_when_the_folder_changes() {
    let script = Arc::new(Script::default());
    script.loads.lock().unwrap().push_back(broken_package());
    let engine = start(&script, options());
    manual_only(&engine).await;
    tokio::time::sleep(SOON * 2).await;
    assert_eq!(script.log(), ["load"]);
    script.revision.store(1, std::sync::atomic::Ordering::Relaxed);
    ready(&engine).await;
}

#[tokio::test]
async fn no_engine_by_decision_is_not_retried_by_the_timer() {
    let script = Arc::new(Script::default());
    let decision = LoadError::NotConfigured("no engine here".into());
    script.loads.lock().unwrap().push_back(Some(decision));
    let engine = start(&script, Options { retry_first: SOON, ..options() });
    manual_only(&engine).await;
    tokio::time::sleep(SOON * 5).await;
    assert_eq!(script.log(), ["load"]);
    script.revision.store(1, std::sync::atomic::Ordering::Relaxed);
    ready(&engine).await;
}

#[tokio::test]
async fn a_working_engine_does_not_mind_a_changed_folder() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    ready(&engine).await;
    script.revision.store(1, std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(SOON * 2).await;
    assert!(decode(&engine, 1.0).await.is_ok());
    assert_eq!(engine.vitals().loads, 1);
}

#[tokio::test]
async fn manual_only_is_left_by_reload() {
    let script = Arc::new(Script::default());
    script.loads.lock().unwrap().extend([broken_package(), broken_package()]);
    let engine = start(&script, options());
    manual_only(&engine).await;
    assert!(matches!(engine.reload().await, Err(EngineError::Unavailable { .. })));
    assert_eq!(engine.reload().await.unwrap().engine.name, "scripted 1");
    ready(&engine).await;
}

#[tokio::test]
async fn reload_drops_the_old_engine_first_and_keeps_the_queue() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    ready(&engine).await;
    let (began, release) = script.hold();
    let running = tokio::spawn({
        let engine = engine.clone();
        async move { decode(&engine, 1.0).await }
    });
    until("the first call", || began.try_recv() == Err(mpsc::TryRecvError::Disconnected)).await;
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { decode(&engine, 2.0).await }
    });
    until("queueing", || engine.vitals().queued[0] == 1).await;
    let reload = tokio::spawn({
        let engine = engine.clone();
        async move { engine.reload().await }
    });
    tokio::time::sleep(SOON).await;
    drop(release);
    assert!(running.await.unwrap().is_ok());
    assert!(reload.await.unwrap().is_ok());
    assert!(waiting.await.unwrap().is_ok());
    assert_eq!(script.log(), ["load", "decode 1", "dropped", "load", "decode 2"]);
}

#[tokio::test]
async fn a_reload_that_fails_never_leaves_the_old_engine_serving() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    ready(&engine).await;
    script.loads.lock().unwrap().push_back(broken_package());
    assert!(engine.reload().await.is_err());
    manual_only(&engine).await;
    assert!(matches!(decode(&engine, 1.0).await, Err(EngineError::Unavailable { .. })));
    assert_eq!(script.log(), ["load", "dropped", "load"]);
}

#[tokio::test]
async fn three_failures_in_a_row_are_manual_only_and_two_are_not() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    ready(&engine).await;
    for _ in 0..2 {
        script.then(Step::Fail);
        assert!(matches!(decode(&engine, 1.0).await, Err(EngineError::Failed(_))));
    }
    assert_eq!(engine.vitals().failures_in_a_row, 2);
    assert!(decode(&engine, 1.0).await.is_ok());
    assert_eq!(engine.vitals().failures_in_a_row, 0);
    for _ in 0..3 {
        script.then(Step::Fail);
        assert!(matches!(decode(&engine, 1.0).await, Err(EngineError::Failed(_))));
    }
    assert!(matches!(decode(&engine, 1.0).await, Err(EngineError::Unavailable { .. })));
    manual_only(&engine).await;
    let vitals = engine.vitals();
    assert_eq!((vitals.failures, vitals.breakdowns), (5, 1));
    assert_eq!(script.log().last().unwrap(), "dropped");
}

#[tokio::test]
async fn breaking_down_answers_everyone_in_the_queue() {
    let script = Arc::new(Script::default());
    let engine = start(&script, Options { max_failures: 1, ..options() });
    ready(&engine).await;
    script.then(Step::Fail);
    let (first, second) = tokio::join!(decode(&engine, 1.0), decode(&engine, 2.0));
    assert!(matches!(first, Err(EngineError::Failed(_))));
    assert!(matches!(second, Err(EngineError::Unavailable { .. })));
    assert!(!script.log().contains(&"decode 2".into()));
}

#[tokio::test]
async fn a_panic_is_a_failed_call_and_the_thread_lives_on() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    ready(&engine).await;
    script.then(Step::Panic);
    let Err(EngineError::Failed(error)) = decode(&engine, 1.0).await else { panic!() };
    assert!(error.to_string().contains("scripted panic"), "{error}");
    assert_eq!(engine.vitals().failures_in_a_row, 1);
    assert!(decode(&engine, 2.0).await.is_ok());
}

#[tokio::test]
async fn a_callers_bad_input_never_breaks_the_engine() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    ready(&engine).await;
    for _ in 0..4 {
        script.then(Step::BadInput);
        let refused = decode(&engine, 1.0).await;
        assert!(matches!(refused, Err(EngineError::Failed(BackendError::BadInput(_)))));
    }
    assert_eq!(engine.vitals().failures, 0);
    assert!(decode(&engine, 1.0).await.is_ok());
}

#[tokio::test]
async fn a_probe_decodes_the_golden_embedding_and_its_success_forgives_nothing() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    ready(&engine).await;
    for _ in 0..2 {
        script.then(Step::Fail);
        assert!(decode(&engine, 1.0).await.is_err());
        engine.probe(later()).await.unwrap();
    }
    assert_eq!(engine.vitals().failures_in_a_row, 2);
    script.probes.lock().unwrap().push_back(Step::Wrong);
    let Err(EngineError::Failed(error)) = engine.probe(later()).await else { panic!() };
    assert!(error.to_string().contains("marks 0 instead of 2"), "{error}");
    manual_only(&engine).await;
    assert_eq!(engine.vitals().probes, 3);
}

#[tokio::test]
async fn a_lost_device_ends_the_process() {
    let script = Arc::new(Script::default());
    let engine = start(&script, Options { retry_first: SOON, ..options() });
    ready(&engine).await;
    script.then(Step::Lost);
    assert!(matches!(
        decode(&engine, 1.0).await,
        Err(EngineError::Failed(BackendError::DeviceLost(_)))
    ));
    assert!(matches!(decode(&engine, 2.0).await, Err(EngineError::Unavailable { .. })));
    until("on_fatal", || !script.fatal.lock().unwrap().is_empty()).await;
    tokio::time::sleep(SOON * 3).await;
    assert_eq!(*script.fatal.lock().unwrap(), [Fatal::DeviceLost("error 719".into())]);
    assert_eq!(engine.vitals().loads, 1);
    manual_only(&engine).await;
}

#[tokio::test]
async fn a_hanging_call_ends_the_process_and_answers_who_waits() {
    let script = Arc::new(Script::default());
    let engine = start(&script, Options { hang: Duration::from_millis(60), ..options() });
    ready(&engine).await;
    // Shorter than a hang: nothing happens.
    script.then(Step::Sleep(Duration::from_millis(10)));
    assert!(decode(&engine, 1.0).await.is_ok());
    let (_began, release) = script.hold();
    let (embedding, hanging) = (Embedding::new(0.0_f32, 4), click(2.0));
    let first = engine.decode(embedding, hanging, Class::Warm, later());
    let hung = tokio::time::timeout(PATIENCE / 2, async {
        tokio::select! {
            _ = first => panic!("the call came back"),
            // The first is polled first, so this one queues behind it.
            second = async { tokio::task::yield_now().await; decode(&engine, 3.0).await } => second,
        }
    });
    assert!(matches!(hung.await.unwrap(), Err(EngineError::Unavailable { .. })));
    until("on_fatal", || !script.fatal.lock().unwrap().is_empty()).await;
    let fatal = script.fatal.lock().unwrap().clone();
    assert!(
        matches!(&fatal[..], [Fatal::Hang { stage: Stage::Decode, after }] if *after < PATIENCE),
        "{fatal:?}"
    );
    // It comes back after all: too late, this process has been given up.
    drop(release);
    assert!(engine.stop(PATIENCE));
    assert!(!script.log().contains(&"decode 3".into()));
}

#[tokio::test]
async fn loading_has_a_hang_limit_of_its_own() {
    let script = Arc::new(Script::default());
    script.probes.lock().unwrap().push_back(Step::Sleep(Duration::from_millis(200)));
    let mut limits = options();
    (limits.hang, limits.load_hang) = (Duration::from_millis(30), LONG);
    let engine = start(&script, limits);
    ready(&engine).await;
    assert!(script.fatal.lock().unwrap().is_empty());

    let script = Arc::new(Script::default());
    let (_began, _release) = script.hold();
    script.probes.lock().unwrap().append(&mut script.calls.lock().unwrap());
    let engine = start(&script, Options { load_hang: Duration::from_millis(30), ..options() });
    manual_only(&engine).await;
    until("on_fatal", || !script.fatal.lock().unwrap().is_empty()).await;
    let fatal = script.fatal.lock().unwrap().clone();
    assert!(matches!(fatal[..], [Fatal::Hang { stage: Stage::Load, .. }]), "{fatal:?}");
}

#[tokio::test]
async fn warm_goes_before_cold_before_promptless_and_first_come_first_served() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    ready(&engine).await;
    let (began, release) = script.hold();
    let held = decode(&engine, 0.0);
    let embedding = || Embedding::new(0.0_f32, 4);
    let work = async {
        until("the first call", || began.try_recv() == Err(mpsc::TryRecvError::Disconnected)).await;
        let jobs = async {
            // Polled, so queued, in this order.
            tokio::join!(
                engine.download(embedding(), later()),
                engine.decode(embedding(), click(31.0), Class::Promptless, later()),
                engine.encode(image(21.0), Class::Cold, later()),
                engine.decode(embedding(), click(11.0), Class::Warm, later()),
                engine.decode(embedding(), click(32.0), Class::Promptless, later()),
                engine.encode(image(22.0), Class::Cold, later()),
                engine.decode(embedding(), click(12.0), Class::Warm, later()),
            )
        };
        let counted = async {
            until("queueing", || engine.vitals().queued == [2, 2, 2]).await;
            drop(release);
        };
        tokio::join!(jobs, counted)
    };
    let (held, _) = tokio::join!(held, work);
    assert!(held.is_ok());
    assert_eq!(
        script.log()[2..],
        ["decode 11", "decode 12", "encode 21", "encode 22", "decode 31", "decode 32", "download"]
    );
}

#[tokio::test]
async fn expired_and_abandoned_jobs_never_run_and_an_extended_one_does() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    ready(&engine).await;
    let (began, release) = script.hold();
    let held = decode(&engine, 0.0);
    let work = async {
        until("the first call", || began.try_recv() == Err(mpsc::TryRecvError::Disconnected)).await;
        let soon = Instant::now() + SOON * 2;
        let extended = Deadline::from(soon);
        let jobs = async {
            tokio::join!(
                engine.encode(image(1.0), Class::Cold, soon),
                engine.encode(image(2.0), Class::Cold, extended.clone()),
                tokio::time::timeout(SOON / 2, engine.encode(image(3.0), Class::Cold, later())),
                engine.encode(image(4.0), Class::Cold, Instant::now()),
            )
        };
        let joiner = async {
            extended.extend(later());
            tokio::time::sleep(SOON * 4).await;
            drop(release);
        };
        tokio::join!(jobs, joiner).0
    };
    let (_, (expired, extended, abandoned, past)) = tokio::join!(held, work);
    assert_eq!(expired.unwrap_err(), EngineError::Expired);
    assert!(extended.is_ok());
    assert!(abandoned.is_err());
    assert_eq!(past.unwrap_err(), EngineError::Expired);
    assert_eq!(script.log()[2..], ["encode 2"]);
    let vitals = engine.vitals();
    assert_eq!((vitals.expired, vitals.abandoned), (1, 1));
}

#[tokio::test]
async fn what_cannot_be_done_in_time_is_refused_at_once_with_the_estimate() {
    let script = Arc::new(Script::default());
    // A decoder call takes 300 ms, as the load's own probe finds.
    let slow = Step::Sleep(Duration::from_millis(300));
    script.probes.lock().unwrap().push_back(slow);
    let engine = start(&script, options());
    ready(&engine).await;
    let (began, release) = script.hold();
    let held = decode(&engine, 0.0);
    let work = async {
        until("the first call", || began.try_recv() == Err(mpsc::TryRecvError::Disconnected)).await;
        let embedding = || Embedding::new(0.0_f32, 4);
        let queued = engine.decode(embedding(), click(1.0), Class::Warm, later());
        let asked = async {
            until("queueing", || engine.vitals().queued[0] == 1).await;
            let tight = Instant::now() + Duration::from_millis(450);
            let refused = engine.decode(embedding(), click(2.0), Class::Warm, tight).await;
            let Err(EngineError::Overloaded { estimate }) = refused else { panic!("{refused:?}") };
            assert!(estimate > Duration::from_millis(590), "{estimate:?}");
            assert!(Instant::now() < tight, "the refusal was a wait");
            let cost = Cost { encodes: 0, prompts: 1 };
            assert!(engine.admit(Class::Cold, cost, tight).is_err());
            assert!(engine.admit(Class::Cold, cost, later()).is_ok());
            let cost = Cost { encodes: 0, prompts: 64 };
            assert!(engine.admit(Class::Promptless, cost, later()).is_err());
            drop(release);
        };
        tokio::join!(queued, asked).0
    };
    let (_, queued) = tokio::join!(held, work);
    assert!(queued.is_ok());
    assert_eq!(engine.vitals().refused, 3);
    assert!(!script.log().contains(&"decode 2".into()));
}

#[tokio::test]
async fn work_of_a_lower_class_does_not_count_as_ahead() {
    let script = Arc::new(Script::default());
    *script.encode.lock().unwrap() = Duration::from_secs(2);
    let engine = start(&script, options());
    ready(&engine).await;
    let (began, release) = script.hold();
    let held = decode(&engine, 0.0);
    let work = async {
        until("the first call", || began.try_recv() == Err(mpsc::TryRecvError::Disconnected)).await;
        let cold = async {
            tokio::join!(
                engine.encode(image(1.0), Class::Cold, later()),
                engine.encode(image(2.0), Class::Cold, later()),
            )
        };
        let asked = async {
            until("queueing", || engine.vitals().queued[1] == 2).await;
            let tight = Instant::now() + Duration::from_secs(3);
            let cost = Cost { encodes: 0, prompts: 1 };
            assert!(engine.admit(Class::Warm, cost, tight).is_ok());
            assert!(engine.admit(Class::Cold, cost, tight).is_err());
            drop(release);
        };
        tokio::join!(cold, asked)
    };
    tokio::join!(held, work).0.unwrap();
}

#[tokio::test]
async fn a_full_queue_refuses_whatever_the_deadline() {
    let script = Arc::new(Script::default());
    let engine = start(&script, Options { max_queue: 2, ..options() });
    ready(&engine).await;
    let (began, release) = script.hold();
    let held = decode(&engine, 0.0);
    let work = async {
        until("the first call", || began.try_recv() == Err(mpsc::TryRecvError::Disconnected)).await;
        let asked = async {
            until("queueing", || engine.vitals().queued[0] == 2).await;
            let refused = decode(&engine, 3.0).await;
            drop(release);
            refused
        };
        tokio::join!(decode(&engine, 1.0), decode(&engine, 2.0), asked)
    };
    let (_, (first, second, third)) = tokio::join!(held, work);
    assert!(first.is_ok() && second.is_ok());
    assert!(matches!(third, Err(EngineError::Overloaded { .. })));
}

#[tokio::test]
async fn stopping_answers_who_waits_and_drops_the_backend() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    ready(&engine).await;
    let (began, release) = script.hold();
    let stopper = engine.clone();
    let stopped = async {
        until("the first call", || began.try_recv() == Err(mpsc::TryRecvError::Disconnected)).await;
        until("queueing", || stopper.vitals().queued[0] == 1).await;
        assert!(!stopper.stop(SOON), "it can't have stopped in the middle of a call");
        drop(release);
    };
    let (running, waiting, ()) = tokio::join!(decode(&engine, 1.0), decode(&engine, 2.0), stopped);
    assert!(running.is_ok());
    assert!(matches!(waiting, Err(EngineError::Unavailable { .. })));
    assert!(engine.stop(PATIENCE));
    assert_eq!(script.log().last().unwrap(), "dropped");
    assert!(engine.reload().await.is_err());
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_threads() {
    let script = Arc::new(Script::default());
    let engine = start(&script, options());
    ready(&engine).await;
    drop(engine);
    until("the end", || script.log().last().unwrap() == "dropped").await;
}

/// What the threads log, as lines of JSON.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn with(&self, words: &[&str]) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }
}

#[tokio::test]
async fn a_failed_inference_is_logged_once_in_the_callers_span_and_the_mode_change_warned_once() {
    use tracing::Instrument;
    let lines = Lines::default();
    let written = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || written.clone()).finish();
    // With one subscriber alive, tracing asks the *current thread's* whether a callsite matters, and
    // another test's thread, which has none, would switch it off for all. With two it asks both.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let script = Arc::new(Script::default());
    let mut limits = options();
    (limits.retry_first, limits.retry_max) = (SOON / 4, SOON / 4);
    let engine = start(&script, limits);
    ready(&engine).await;
    for request in ["r-one", "r-two", "r-three"] {
        script.then(Step::Fail);
        let span = tracing::info_span!("segment", request_id = request);
        assert!(decode(&engine, 1.0).instrument(span).await.is_err());
        if request == "r-one" {
            // It stays broken: five more attempts to load fail.
            script.loads.lock().unwrap().extend((0..5).map(|_| broken_package()));
        }
    }
    until("retries", || engine.vitals().loads >= 7).await;
    ready(&engine).await;
    for request in ["r-one", "r-two", "r-three"] {
        let words = ["ERROR", "inference failed", request, "\"stage\":\"decoder\"", "scripted"];
        assert_eq!(lines.with(&words), 1, "{request}");
        assert_eq!(lines.with(&[request]), 1, "{request}");
    }
    assert_eq!(lines.with(&["WARN", "manual-only mode"]), 1);
    assert_eq!(lines.with(&["engine ready"]), 2);
}
