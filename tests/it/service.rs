//! The use cases on a real engine (the tiny seeded one), real decoder children and a real cache.

use crate::support::dicom::Ct;
use crate::support::engine::{Orders, load_embedded, load_obedient, load_seeded};
use crate::support::{Setup, click, disc_png, image, obedient, one_click, service, unsettled};
use sam2d::domain::key::{AnswerKey, ImageKey, Sum};
use sam2d::domain::mask::{ImageType, Target};
use sam2d::domain::prompt::{ClickLabel, PromptBox};
use sam2d::domain::slice::{Size, Window, WindowFunction};
use sam2d::engine::package::Package;
use sam2d::engine::worker::{Engine, Hooks, State};
use sam2d::service::Service;
use sam2d::service::error::ServiceError;
use sam2d::service::options::Options;
use sam2d::service::request::{ImageSource, MaskSource, SegmentRequest, WindowSource};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Encoder and decoder calls so far.
fn calls(service: &Service) -> (u64, u64) {
    let vitals = service.engine().vitals();
    (vitals.encodes, vitals.decodes)
}

async fn usual() -> Service {
    service(Setup::default(), load_seeded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_again_is_a_hit_and_leaves_the_engine_alone() {
    let service = usual().await;
    let png = disc_png(96, 80);
    let first = service.segment(one_click(&png, 48.0, 40.0)).await.unwrap();
    assert!(!first.cached && !first.embedding_cached);
    assert!(first.answer.bounding_box.is_some(), "the seeded engine marks something here");
    let before = calls(&service);
    let again = service.segment(one_click(&png, 48.0, 40.0)).await.unwrap();
    assert!(again.cached && again.embedding_cached);
    assert_eq!(calls(&service), before);
    assert_eq!(again.answer.png, first.answer.png);
    assert_eq!(again.answer.annotation, first.answer.annotation);
}

/// Nothing of a hit waits for the threads where images are decoded and disks are read.
#[test]
fn a_hit_from_memory_needs_no_other_thread() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let service = usual().await;
        let png = disc_png(96, 80);
        let first = service.segment(one_click(&png, 48.0, 40.0)).await.unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || held.recv().is_err());
        let mut known = one_click(&png, 48.0, 40.0);
        known.image.source = ImageSource::Known(first.image.key);
        let patience = Duration::from_secs(10);
        for request in [one_click(&png, 48.0, 40.0), known] {
            let hit = tokio::time::timeout(patience, service.segment(request)).await;
            assert!(hit.expect("it must wait for nobody").unwrap().cached);
        }
        let mask = tokio::time::timeout(patience, service.mask(first.answer.key)).await;
        assert_eq!(mask.expect("nor must this").unwrap().png, first.answer.png);
        drop(release);
        assert!(busy.await.unwrap());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_click_uses_the_embedding_of_the_first() {
    let service = usual().await;
    let png = disc_png(96, 80);
    service.segment(one_click(&png, 48.0, 40.0)).await.unwrap();
    let (encodes, decodes) = calls(&service);
    let second = service.segment(one_click(&png, 20.0, 20.0)).await.unwrap();
    assert!(!second.cached && second.embedding_cached);
    assert_eq!(calls(&service), (encodes, decodes + 1));
    assert_eq!(second.timings.encode, None);
}

/// Everything that must not be answered with what another request got.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_the_result_is_a_miss() {
    let service = usual().await;
    let ct = Ct::default();
    let asked = |ct: &Ct| one_click(&ct.bytes(), 48.0, 40.0);
    service.segment(asked(&ct)).await.unwrap();
    let window = Some(Window { center: 40.0, width: 401.0, function: WindowFunction::Linear });
    let image_type = |image_type| {
        let mut request = asked(&ct);
        request.image.image_type = image_type;
        request
    };
    let flat = Ct { flat: true, ..ct.clone() };
    let frame = |ct: &Ct, frame| {
        let mut request = asked(&Ct { frames: 2, ..ct.clone() });
        request.image.frame = Some(frame);
        request
    };
    let mut cases: Vec<(&str, SegmentRequest)> = vec![
        ("flat", asked(&flat)),
        ("the same bytes in another shape", asked(&Ct { rows: 96, columns: 80, ..flat.clone() })),
        ("MONOCHROME1", asked(&Ct { photometric: "MONOCHROME1", ..ct.clone() })),
        ("slope", asked(&Ct { slope: "2", ..ct.clone() })),
        ("intercept", asked(&Ct { intercept: "-1000", ..ct.clone() })),
        ("frames", frame(&ct, 0)),
        ("frame", frame(&ct, 1)),
        ("a frame of equal ones", frame(&flat, 0)),
        ("the other of equal ones", frame(&flat, 1)),
        ("context", image_type(ImageType::L3)),
        ("other context", image_type(ImageType::Middle)),
        ("prompt", one_click(&ct.bytes(), 48.0, 41.0)),
    ];
    let mut windowed = asked(&ct);
    windowed.image.window = window;
    cases.push(("window", windowed));
    let mut target = image_type(ImageType::Middle);
    target.target = Target::Psoas;
    cases.push(("target", target));
    for (what, request) in cases {
        let segmented = service.segment(request.clone()).await.unwrap();
        assert!(!segmented.cached, "{what} must be a miss");
        let again = Instant::now() + Duration::from_secs(30);
        let hit = service.segment(SegmentRequest { deadline: again, ..request }).await.unwrap();
        assert!(hit.cached, "{what} must be a hit the second time");
    }
}

/// The disk is shared here, so that only the keys keep the answers apart.
#[tokio::test(flavor = "multi_thread")]
async fn another_backend_or_profile_is_a_miss() {
    let folder = tempfile::tempdir().unwrap();
    let png = disc_png(96, 80);
    let mut other = Options::default();
    other.profiles.auto.min_iou = 0.01;
    let renamed = Orders { fingerprint: Some("another"), ..Orders::default() };
    let plain = Arc::new(Orders::default());
    let runs = [
        (Options::default(), Arc::clone(&plain), false),
        (Options::default(), Arc::clone(&plain), true),
        (other, plain, false),
        (Options::default(), Arc::new(renamed), false),
    ];
    for (number, (options, orders, expected)) in runs.into_iter().enumerate() {
        let setup = Setup { options, cache: Some(folder.path()), inbox: None };
        let service = service(setup, move || load_obedient(&orders)).await;
        let mut request = one_click(&png, 48.0, 40.0);
        request.clicks.clear();
        let segmented = service.segment(request).await.unwrap();
        assert_eq!(segmented.cached, expected, "run {number}");
        tokio::task::spawn_blocking(move || service.finish()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_answers_and_embeddings_come_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let png = disc_png(96, 80);
    let setup = || Setup { cache: Some(folder.path()), ..Setup::default() };
    let first = service(setup(), load_seeded).await;
    let answer = first.segment(one_click(&png, 48.0, 40.0)).await.unwrap().answer;
    let until = Instant::now() + Duration::from_secs(10);
    let embedding_kind = 1;
    while first.cache().unwrap().stats().kinds[embedding_kind].puts == 0 {
        assert!(Instant::now() < until, "the embedding is not on disk");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::task::spawn_blocking(move || first.finish()).await.unwrap();
    let second = service(setup(), load_seeded).await;
    let (encodes, _) = calls(&second);
    let hit = second.segment(one_click(&png, 48.0, 40.0)).await.unwrap();
    assert!(hit.cached);
    assert_eq!(hit.answer.png, answer.png);
    let warm = second.segment(one_click(&png, 30.0, 30.0)).await.unwrap();
    assert!(!warm.cached && warm.embedding_cached);
    assert_eq!(calls(&second).0, encodes, "the encoder must not run after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_at_once_an_image_is_encoded_once() {
    let (service, orders) = obedient().await;
    orders.encode_ms.store(100, Ordering::SeqCst);
    let before = calls(&service).0;
    let png = disc_png(96, 80);
    let tasks: Vec<_> = (0..12)
        .map(|i| {
            let (service, request) = (service.clone(), one_click(&png, 40.0 + f64::from(i), 40.0));
            tokio::spawn(async move { service.segment(request).await })
        })
        .collect();
    let mut encoded = 0;
    for task in tasks {
        encoded += usize::from(!task.await.unwrap().unwrap().embedding_cached);
    }
    assert_eq!((calls(&service).0 - before, encoded), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encode_goes_on_when_its_caller_leaves() {
    let (service, orders) = obedient().await;
    orders.encode_ms.store(200, Ordering::SeqCst);
    let before = calls(&service).0;
    let png = disc_png(96, 80);
    let left = service.segment(one_click(&png, 48.0, 40.0));
    // Long enough for the decoder child, not for the encoder.
    assert!(tokio::time::timeout(Duration::from_millis(120), left).await.is_err());
    tokio::time::sleep(Duration::from_millis(600)).await;
    let second = service.segment(one_click(&png, 48.0, 40.0)).await.unwrap();
    assert!(second.embedding_cached && !second.cached);
    assert_eq!(calls(&service).0 - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_id_names_frame_and_window_and_is_unknown_when_all_is_gone() {
    let service = usual().await;
    let ct = Ct::default();
    let first = service.segment(one_click(&ct.bytes(), 48.0, 40.0)).await.unwrap();
    let by_id = |key: ImageKey, x: f64| SegmentRequest {
        image: image(ImageSource::Known(key)),
        ..one_click(&[], x, 40.0)
    };
    let key = first.image.key;
    let hit = service.segment(by_id(key, 48.0)).await.unwrap();
    assert!(hit.cached);
    assert_eq!((&hit.answer.png, hit.image.clone()), (&first.answer.png, first.image));
    assert!(service.segment(by_id(key, 20.0)).await.unwrap().embedding_cached);
    let mut framed = by_id(key, 48.0);
    framed.image.frame = Some(0);
    assert!(matches!(service.segment(framed).await, Err(ServiceError::Invalid(_))));
    let mut windowed = by_id(key, 48.0);
    windowed.image.window =
        Some(Window { center: 1.0, width: 2.0, function: WindowFunction::Linear });
    assert!(matches!(service.segment(windowed).await, Err(ServiceError::Invalid(_))));
    let unknown = by_id(ImageKey(Sum::of(b"nothing")), 48.0);
    assert!(matches!(service.segment(unknown).await, Err(ServiceError::UnknownImage)));
    assert_eq!(service.purge(), 0, "there is no disk here");
    assert!(matches!(service.segment(by_id(key, 48.0)).await, Err(ServiceError::UnknownImage)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_is_refined_by_its_id_or_as_a_png() {
    let service = usual().await;
    let png = disc_png(96, 80);
    let first = service.segment(one_click(&png, 48.0, 40.0)).await.unwrap();
    let refine =
        |source| SegmentRequest { mask_input: Some(source), ..one_click(&png, 30.0, 30.0) };
    let by_id = service.segment(refine(MaskSource::Answer(first.answer.key))).await.unwrap();
    let by_png = service.segment(refine(MaskSource::Png(first.answer.png.clone()))).await.unwrap();
    let without = service.segment(one_click(&png, 30.0, 30.0)).await.unwrap();
    assert!(!by_id.cached && !by_png.cached && !without.cached);
    assert_ne!(by_id.answer.png, without.answer.png, "the mask that was refined must matter");
    assert_ne!(by_png.answer.png, without.answer.png, "as a PNG too");
    let unknown = AnswerKey(Sum::of(b"nothing"));
    let answer = service.segment(refine(MaskSource::Answer(unknown))).await;
    assert!(matches!(answer, Err(ServiceError::UnknownMask)));
    let small = MaskSource::Png(disc_png(9, 9).into());
    assert!(matches!(service.segment(refine(small)).await, Err(ServiceError::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbouring_answer_seeds_the_prompt() {
    let service = usual().await;
    let first = service.segment(one_click(&disc_png(96, 80), 48.0, 40.0)).await.unwrap();
    let mut next = one_click(&Ct::default().bytes(), 0.0, 0.0);
    next.clicks.clear();
    next.prompt_from = Some(first.answer.key);
    let decodes = calls(&service).1;
    let seeded = service.segment(next.clone()).await.unwrap();
    assert_eq!(calls(&service).1 - decodes, 1, "one click, not a grid");
    assert!(!seeded.cached);
    // What somebody says of this slice counts alone: the same prompt as without the neighbour.
    let own_click = one_click(&Ct::default().bytes(), 30.0, 30.0);
    let own_box = PromptBox { x: 20.0, y: 20.0, width: 30.0, height: 30.0 };
    let boxed = SegmentRequest { clicks: Vec::new(), bounds: Some(own_box), ..own_click.clone() };
    for own in [own_click.clone(), boxed] {
        service.segment(own.clone()).await.unwrap();
        let both = SegmentRequest { prompt_from: next.prompt_from, ..own };
        assert!(service.segment(both).await.unwrap().cached);
    }
    // A click outside says nothing of what is inside: the neighbour still does.
    let mut outside = SegmentRequest { prompt_from: next.prompt_from, ..own_click };
    outside.clicks[0].label = ClickLabel::Outside;
    assert!(!service.segment(outside).await.unwrap().cached);
    next.prompt_from = Some(AnswerKey(Sum::of(b"nothing")));
    assert!(matches!(service.segment(next).await, Err(ServiceError::UnknownMask)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_an_engine_of_another_size_is_unknown_to_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let setup = || Setup { cache: Some(folder.path()), ..Setup::default() };
    let before = service(setup(), load_seeded).await;
    let first = before.segment(one_click(&disc_png(96, 80), 48.0, 40.0)).await.unwrap();
    tokio::task::spawn_blocking(move || before.finish()).await.unwrap();
    let service = service(setup(), || load_embedded(1)).await;
    // It is still there to be looked at.
    assert_eq!(service.mask(first.answer.key).await.unwrap().png, first.answer.png);
    let key = Some(first.answer.key);
    let next = one_click(&disc_png(96, 80), 30.0, 30.0);
    let refined = SegmentRequest { mask_input: key.map(MaskSource::Answer), ..next.clone() };
    let seeded = SegmentRequest { prompt_from: key, clicks: Vec::new(), ..next };
    for request in [refined, seeded] {
        assert!(matches!(service.segment(request).await, Err(ServiceError::UnknownMask)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_prompt_a_grid_is_asked_or_an_honest_nothing_is_said() {
    let mut options = Options::default();
    options.profiles.auto.min_iou = 1.0;
    options.profiles.auto.prompts = 20;
    let service = service(Setup { options, ..Setup::default() }, load_seeded).await;
    let mut request = one_click(&disc_png(96, 80), 0.0, 0.0);
    request.clicks.clear();
    let segmented = service.segment(request).await.unwrap();
    let prompts = segmented.timings.prompts.unwrap();
    assert!((1..=20).contains(&prompts), "{prompts} prompts");
    assert_eq!(segmented.answer.confidence, 0.0);
    assert_eq!((segmented.answer.bounding_box, &segmented.answer.annotation), (None, &None));
    assert!(segmented.answer.warnings[0].contains("click"), "{:?}", segmented.answer.warnings);
}

/// Three bright ovals in a grey body, drawn: there is something to find.
fn drawn_png(side: u32) -> Vec<u8> {
    let within = |x: u32, y: u32, (cx, cy): (f64, f64), (rx, ry): (f64, f64)| {
        let share = |v: u32| (f64::from(v) + 0.5) / f64::from(side);
        ((share(x) - cx) / rx).hypot((share(y) - cy) / ry) < 1.0
    };
    let level = |x: u32, y: u32| -> u8 {
        let organ = [(0.33, 0.45), (0.67, 0.45), (0.5, 0.72)]
            .into_iter()
            .any(|place| within(x, y, place, (0.11, 0.09)));
        let noise = u8::try_from((x * 7 + y * 13) % 11).unwrap();
        match (organ, within(x, y, (0.5, 0.52), (0.42, 0.36))) {
            (true, _) => 190 + noise,
            (false, true) => 95 + noise,
            _ => noise,
        }
    };
    let levels: Vec<u8> = (0..side).flat_map(|y| (0..side).map(move |x| level(x, y))).collect();
    sam2d::imaging::png::encode_grey(&levels, Size { width: side, height: side })
}

fn unprompted(png: &[u8], image_type: ImageType, target: Target) -> SegmentRequest {
    let mut request = one_click(png, 0.0, 0.0);
    request.clicks.clear();
    request.image.image_type = image_type;
    SegmentRequest { target, ..request }
}

/// Fresh services without a disk, so that nothing is remembered.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_without_a_prompt_is_the_same_to_the_byte_again_and_on_more_threads() {
    let png = drawn_png(200);
    let mut found = 0;
    for (image_type, target) in [
        (ImageType::Auto, Target::Muscle),
        (ImageType::L3, Target::Muscle),
        (ImageType::Middle, Target::Psoas),
        (ImageType::Middle, Target::Muscle),
    ] {
        let mut answers = Vec::new();
        for threads in [1, 1, 2] {
            let service = service(Setup::default(), move || load_embedded(threads)).await;
            let request = unprompted(&png, image_type, target);
            let segmented = service.segment(request).await.unwrap();
            assert!(!segmented.cached && segmented.timings.prompts.is_some_and(|n| n <= 64));
            let answer = segmented.answer;
            let sure = answer.confidence.to_bits();
            answers.push((answer.png, sure, answer.bounding_box, answer.annotation));
        }
        assert!(answers.iter().all(|answer| answer == &answers[0]), "{image_type:?} {target:?}");
        found += usize::from(answers[0].2.is_some());
    }
    assert!(found > 0, "a test of nothing but empty masks");
}

/// Each context and target looks with a profile of its own: told apart by how often it may ask.
#[tokio::test(flavor = "multi_thread")]
async fn each_context_and_target_looks_by_its_own_profile() {
    let mut options = Options::default();
    let profiles = &mut options.profiles;
    for (profile, prompts) in [
        (&mut profiles.auto, 1),
        (&mut profiles.l3, 4),
        (&mut profiles.psoas, 9),
        (&mut profiles.muscle, 16),
    ] {
        (profile.prompts, profile.region) = (prompts, [0.0, 0.0, 1.0, 1.0]);
    }
    let service = service(Setup { options, ..Setup::default() }, load_seeded).await;
    // All of it is body, so that every prompt of the grid lies in it.
    let side = 64_u32;
    let inside = |i: u32| (4..60).contains(&(i % side)) && (4..60).contains(&(i / side));
    let levels: Vec<u8> = (0..side * side).map(|i| if inside(i) { 180 } else { 0 }).collect();
    let png = sam2d::imaging::png::encode_grey(&levels, Size { width: side, height: side });
    for (image_type, target, prompts) in [
        (ImageType::Auto, Target::Psoas, 1),
        (ImageType::Auto, Target::Muscle, 1),
        (ImageType::L3, Target::Psoas, 4),
        (ImageType::L3, Target::Muscle, 4),
        (ImageType::Middle, Target::Psoas, 9),
        (ImageType::Middle, Target::Muscle, 16),
    ] {
        let segmented = service.segment(unprompted(&png, image_type, target)).await.unwrap();
        assert_eq!(segmented.timings.prompts, Some(prompts), "{image_type:?} {target:?}");
    }
}

/// Air is white on pictures of existing L3 editors; a picture of one level has no body to look in.
#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_body_nothing_is_asked_and_a_click_is_asked_for() {
    let service = usual().await;
    let size = Size { width: 64, height: 64 };
    for level in [0, 255] {
        let png = sam2d::imaging::png::encode_grey(&vec![level; size.pixels()], size);
        let request = unprompted(&png, ImageType::L3, Target::Muscle);
        let segmented = service.segment(request).await.unwrap();
        assert_eq!(segmented.timings.prompts, Some(0), "level {level}");
        assert_eq!((segmented.answer.confidence, segmented.answer.bounding_box), (0.0, None));
        assert!(segmented.answer.warnings[0].contains("click"));
        let mask = sam2d::imaging::png::decode_mask(&segmented.answer.png, size).unwrap();
        assert_eq!(mask.area(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_configured_confidence_an_answer_asks_for_care() {
    for (low_confidence, warned) in [(1.0, true), (0.0, false)] {
        let options = Options { low_confidence, ..Options::default() };
        let service = service(Setup { options, ..Setup::default() }, load_seeded).await;
        let segmented = service.segment(one_click(&disc_png(96, 80), 48.0, 40.0)).await.unwrap();
        assert!(segmented.answer.bounding_box.is_some());
        let said = segmented.warnings.iter().any(|text| text.starts_with("low confidence"));
        assert_eq!(said, warned, "{:?}", segmented.warnings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_takes_too_long_is_a_timeout_and_not_a_wait() {
    let (service, orders) = obedient().await;
    orders.encode_ms.store(3000, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_millis(400);
    let late = service
        .segment(SegmentRequest { deadline, ..one_click(&disc_png(96, 80), 48.0, 40.0) })
        .await;
    assert!(matches!(late, Err(ServiceError::Timeout)), "{late:?}");
    assert!(Instant::now() < deadline + Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_first_engine_is_being_loaded_a_request_waits_for_it_but_not_for_ever() {
    for (loading_wait_s, served) in [(20, true), (0, false)] {
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let load = move || {
            let _ = wait.recv();
            load_seeded()
        };
        let options = Options { loading_wait_s, ..Options::default() };
        let service = unsettled(Setup { options, ..Setup::default() }, load);
        let (asked, png) = (service.clone(), disc_png(96, 80));
        let asked = tokio::spawn(async move { asked.segment(one_click(&png, 48.0, 40.0)).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(asked.is_finished(), !served);
        release.send(()).unwrap();
        match (asked.await.unwrap(), served) {
            (Ok(segmented), true) => assert!(!segmented.cached),
            (Err(ServiceError::EngineUnavailable { reason }), false) => {
                assert_eq!(reason, "the engine is being loaded");
            }
            (other, _) => panic!("{other:?}"),
        }
        service.engine().settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_an_engine_no_longer_than_it_has_time_itself() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let load = move || {
        let _ = wait.recv();
        load_seeded()
    };
    let options = Options { loading_wait_s: 60, ..Options::default() };
    let service = unsettled(Setup { options, ..Setup::default() }, load);
    let deadline = Instant::now() + Duration::from_millis(300);
    let request = SegmentRequest { deadline, ..one_click(&disc_png(96, 80), 48.0, 40.0) };
    let asked = tokio::time::timeout(Duration::from_secs(20), service.segment(request)).await;
    assert!(asked.is_ok_and(|answer| answer.is_err()), "it still waits");
    release.send(()).unwrap();
    service.engine().settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_keeps_the_engine_that_it_began_with_and_an_exchanged_engine_ends_with_its_last_one()
 {
    let orders =
        |fingerprint| Arc::new(Orders { fingerprint: Some(fingerprint), ..Orders::default() });
    let (old, new) = (orders("old"), orders("new"));
    let told = Arc::clone(&old);
    let service = service(Setup::default(), move || load_obedient(&told)).await;
    let mut watching = service.watch();
    assert!(matches!(watching.state(), State::Ready(info) if info.engine.fingerprint == "old"));
    old.encode_ms.store(600, Ordering::SeqCst);
    let png = disc_png(96, 80);
    let (asked, picture) = (service.clone(), png.clone());
    let asked = tokio::spawn(async move { asked.segment(one_click(&picture, 48.0, 40.0)).await });
    while service.engine().vitals().busy.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let told = Arc::clone(&new);
    let options = sam2d::engine::Options::default();
    let engine =
        Engine::start((&options).into(), Hooks::new(move || load_obedient(&told))).unwrap();
    engine.settled().await;
    service.exchange_engine(engine);
    let next = service.segment(one_click(&png, 40.0, 40.0)).await.unwrap();
    assert_eq!((next.model.engine.fingerprint.as_str(), next.embedding_cached), ("new", false));
    assert!(!asked.is_finished(), "the old engine was not busy any more: nothing was shown");
    let before = asked.await.unwrap().unwrap();
    assert_eq!(before.model.engine.fingerprint, "old");
    assert!(watching.changed().await);
    assert!(matches!(watching.state(), State::Ready(info) if info.engine.fingerprint == "new"));
    // What the new one answered is kept as verified, should it break.
    new.fail.store(true, Ordering::SeqCst);
    for x in 1..=3 {
        assert!(service.segment(one_click(&png, f64::from(x), 1.0)).await.is_err());
    }
    assert!(watching.changed().await);
    assert!(matches!(watching.state(), State::ManualOnly { .. }));
    let hit = service.segment(one_click(&png, 40.0, 40.0)).await.unwrap();
    assert_eq!((hit.model.engine.fingerprint.as_str(), hit.cached), ("new", true));
    // Its thread held the orders, too.
    let until = Instant::now() + Duration::from_secs(10);
    while Arc::strong_count(&old) > 1 {
        assert!(Instant::now() < until, "the old engine lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_engine_is_never_a_mask_and_after_three_failures_manual_only() {
    let (service, orders) = obedient().await;
    let png = disc_png(96, 80);
    let before = service.segment(one_click(&png, 48.0, 40.0)).await.unwrap();
    orders.fail.store(true, Ordering::SeqCst);
    for x in 1..=3 {
        let failed = service.segment(one_click(&png, f64::from(x), 1.0)).await;
        assert!(matches!(failed, Err(ServiceError::InferenceFailed(_))), "{failed:?}");
    }
    let until = Instant::now() + Duration::from_secs(5);
    while !matches!(service.engine().state(), State::ManualOnly { .. }) {
        assert!(Instant::now() < until, "{:?}", service.engine().state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = service.segment(one_click(&png, 9.0, 9.0)).await;
    assert!(matches!(refused, Err(ServiceError::EngineUnavailable { .. })), "{refused:?}");
    let health = service.health();
    assert_eq!((health.available, health.mode), (false, "manual-only"));
    assert!(health.reason.is_some());
    // The engine was verified in this run: what it answered before is still right.
    let hit = service.segment(one_click(&png, 48.0, 40.0)).await.unwrap();
    assert!(hit.cached);
    assert_eq!(hit.answer.png, before.answer.png);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configured_package_is_unavailable_and_not_replaced_by_another() {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(crate::support::seeded()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let encoder = folder.path().join("encoder.onnx");
    let mut bytes = std::fs::read(&encoder).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&encoder, bytes).unwrap();
    let options =
        sam2d::engine::Options { path: Some(folder.path().to_owned()), ..Default::default() };
    let reach = sam2d::service::loader::Reach { loopback_only: true };
    let load = sam2d::service::loader::loader(options, reach, Box::new(|_: &Package, _| ()));
    let service = service(Setup::default(), load).await;
    let refused = service.segment(one_click(&disc_png(96, 80), 48.0, 40.0)).await;
    assert!(matches!(refused, Err(ServiceError::EngineUnavailable { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_is_the_requests_then_the_contexts_then_the_files() {
    let service = usual().await;
    let ct = Ct::default();
    let source = |image_type, window| {
        let (service, ct) = (service.clone(), ct.clone());
        async move {
            let mut request = one_click(&ct.bytes(), 48.0, 40.0);
            request.image.image_type = image_type;
            request.image.window = window;
            service.segment(request).await.unwrap().image
        }
    };
    let window = Window { center: 10.0, width: 100.0, function: WindowFunction::Linear };
    let image = source(ImageType::L3, Some(window)).await;
    assert_eq!((image.window_source, image.window), (WindowSource::Request, Some(window)));
    let image = source(ImageType::L3, None).await;
    assert_eq!(image.window_source, WindowSource::Context);
    assert_eq!(image.window.map(|w| (w.center, w.width)), Some((50.0, 300.0)));
    let image = source(ImageType::Auto, None).await;
    assert_eq!(image.window_source, WindowSource::File);
    assert_eq!(image.spacing_mm, Some((0.8, 0.8)));
    let bare = Ct { window: None, ..ct.clone() };
    let image = service.segment(one_click(&bare.bytes(), 48.0, 40.0)).await.unwrap().image;
    assert_eq!(image.window_source, WindowSource::MinMax);
    let mut eight_bit = one_click(&disc_png(96, 80), 48.0, 40.0);
    eight_bit.image.window = Some(window);
    assert!(matches!(service.segment(eight_bit).await, Err(ServiceError::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_must_be_named_and_exist() {
    let service = usual().await;
    let ct = Ct { frames: 3, ..Ct::default() };
    let ask = |frame| {
        let mut request = one_click(&ct.bytes(), 48.0, 40.0);
        request.image.frame = frame;
        service.segment(request)
    };
    assert!(matches!(ask(None).await, Err(ServiceError::FrameRequired { frames: 3 })));
    let beyond = ask(Some(3)).await;
    assert!(matches!(beyond, Err(ServiceError::FrameOutOfRange { frame: 3, frames: 3 })));
    assert_eq!(ask(Some(2)).await.unwrap().image.frame, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_is_read_by_name() {
    let inbox = tempfile::tempdir().unwrap();
    std::fs::write(inbox.path().join("a.png"), disc_png(96, 80)).unwrap();
    let setup = Setup { inbox: Some(inbox.path()), ..Setup::default() };
    let service = service(setup, load_seeded).await;
    let named = |name: &str| SegmentRequest {
        image: image(ImageSource::Inbox(name.to_owned())),
        clicks: vec![click(48.0, 40.0)],
        ..one_click(&[], 0.0, 0.0)
    };
    assert_eq!(service.segment(named("a.png")).await.unwrap().image.size.width, 96);
    assert!(matches!(service.segment(named("../a.png")).await, Err(ServiceError::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_while_the_encoder_runs_leaves_the_answer_to_its_caller_and_to_no_one_else() {
    let folder = tempfile::tempdir().unwrap();
    let orders = Arc::new(Orders::default());
    let told = Arc::clone(&orders);
    let setup = Setup { cache: Some(folder.path()), ..Setup::default() };
    let service = service(setup, move || load_obedient(&told)).await;
    orders.encode_ms.store(400, Ordering::SeqCst);
    let png = disc_png(96, 80);
    let (asking, request) = (service.clone(), one_click(&png, 48.0, 40.0));
    let under_way = tokio::spawn(async move { asking.segment(request).await });
    let until = Instant::now() + Duration::from_secs(10);
    while service.engine().vitals().busy.is_none() {
        assert!(Instant::now() < until, "the encoder does not start");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let purging = service.clone();
    tokio::task::spawn_blocking(move || purging.purge()).await.unwrap();
    let answered = under_way.await.unwrap().unwrap();
    assert!(answered.answer.bounding_box.is_some());
    assert_eq!(service.embeddings_bytes() + service.answers_bytes(), 0);
    let again = service.segment(one_click(&png, 48.0, 40.0)).await.unwrap();
    assert!(!again.cached && !again.embedding_cached);
    let kinds = service.cache().unwrap().stats().kinds;
    assert_eq!(kinds[0].bad + kinds[0].evicted, 0);
}
