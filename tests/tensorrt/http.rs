//! The daemon itself on the stand-ins: status, health and log line of everything that can go wrong.

use super::calls::{Cause, failures};
use super::daemon::{Daemon, Setup};
use super::loading::{Case, cases, library_folder};
use super::model::{Model, Order, seeded};
use super::package::{Spec, write};
use super::{can_hide_the_driver, has_tensorrt};
use sam2d::domain::slice::Size;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A grey disc.
fn picture() -> Vec<u8> {
    picture_of(0)
}

/// The same in another grey.
fn picture_of(seed: u8) -> Vec<u8> {
    let size = Size { width: 64, height: 48 };
    let level = |x: u32, y: u32| {
        let inside = (f64::from(x) - 32.0).hypot(f64::from(y) - 24.0) < 12.0;
        if inside { 200 + seed } else { 30 + u8::try_from((x + y) % 16).unwrap() }
    };
    let levels: Vec<u8> =
        (0..size.height).flat_map(|y| (0..size.width).map(move |x| level(x, y))).collect();
    sam2d::imaging::png::encode_grey(&levels, size)
}

struct Made {
    folder: tempfile::TempDir,
    model: Model,
    engine: PathBuf,
}

fn made(spec: &Spec) -> Made {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::start(folder.path());
    let engine = write(folder.path(), &model, spec);
    Made { folder, model, engine }
}

fn setup<'a>(folder: &'a Path, engine: &'a Path) -> Setup<'a> {
    Setup { folder, engine, library: library_folder("ten"), driver: true, pretends: "", keys: "" }
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn the_daemon_answers_with_the_cpu_engines_mask() {
    let Made { folder, engine, .. } = made(&Spec::default());
    let daemon = Daemon::start(&setup(folder.path(), &engine));
    let health = daemon.health();
    assert_eq!((&health["mode"], &health["available"]), (&"sam2".into(), &true.into()), "{health}");
    let (status, answer) = daemon.segment(&picture(), 32);
    assert_eq!((status, &answer["model"]["backend"]), (200, &"tensorrt".into()), "{answer}");
    let other = tempfile::tempdir().unwrap();
    let cpu = Daemon::start(&setup(other.path(), &seeded()));
    cpu.health();
    let (_, expected) = cpu.segment(&picture(), 32);
    assert_eq!(expected["model"]["backend"], "cpu");
    assert!(answer["bounding_box"].is_object(), "{answer}");
    for key in ["mask_data", "bounding_box", "annotation"] {
        assert_eq!(answer[key], expected[key], "{key}");
    }
    assert_ne!(answer["model"]["fingerprint"], expected["model"]["fingerprint"]);
    daemon.says("TensorRT engine loaded");
    // One click, in batches of prompts.
    let image = base64_simd::STANDARD.encode_to_string(picture());
    let body = format!("{{\"image_data\": \"{image}\", \"image_type\": \"auto\"}}");
    let (status, answer) = daemon.post(&body);
    assert_eq!(status, 200, "{answer}");
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn what_can_t_be_loaded_is_manual_only_with_its_reason_and_the_daemon_lives() {
    let has_tensorrt = has_tensorrt();
    for Case { name, spec, driver, library, device, bare, reason, words } in cases() {
        if bare && has_tensorrt {
            continue;
        }
        let Made { folder, engine, .. } = made(&spec);
        let setup = Setup {
            library: library_folder(library),
            pretends: driver,
            keys: &format!("device = {device}"),
            ..setup(folder.path(), &engine)
        };
        manual_only(name, &setup, reason, words);
    }
    if !can_hide_the_driver() {
        return;
    }
    let Made { folder, engine, .. } = made(&Spec::default());
    let setup = Setup { driver: false, ..setup(folder.path(), &engine) };
    manual_only("no driver", &setup, "no NVIDIA driver on this box", "install NVIDIA's driver");
}

fn manual_only(name: &str, setup: &Setup<'_>, reason: &str, words: &str) {
    let mut daemon = Daemon::start(setup);
    let health = daemon.health();
    let (mode, why) = (&health["mode"], &health["reason"]);
    assert_eq!((mode, why), (&"manual-only".into(), &reason.into()), "{name}: {}", daemon.log());
    let (status, answer) = daemon.segment(&picture(), 32);
    assert_eq!((status, &answer["code"]), (503, &"engine_unavailable".into()), "{name}");
    let detail = answer["detail"].as_str().unwrap();
    assert!(!detail.contains('/'), "{name}: a path in {detail}");
    daemon.says("manual-only mode: no automatic segmentation");
    assert!(daemon.log().contains(words), "{name}: {}", daemon.log());
    assert!(daemon.is_running(), "{name}");
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn a_failed_inference_is_503_and_the_next_request_works() {
    let Made { folder, engine, model } = made(&Spec::default());
    // A recorded encoder asks nobody before it runs.
    let setup = Setup { keys: "cuda_graphs = false", ..setup(folder.path(), &engine) };
    let daemon = Daemon::start(&setup);
    daemon.health();
    let cause = |cause, on: bool, stage: &str| match cause {
        Cause::Model(order) => {
            let order = if on { order } else { Order::Answer };
            let orders = &model.orders;
            if stage == "encoder" { orders.encoder(order) } else { orders.decoder(order) }
        }
        Cause::Driver(words) => daemon.pretend(if on { words } else { "" }),
    };
    let mut seed = 0;
    for failure in failures() {
        for (stage, words) in [("encoder", failure.encoder), ("decoder", failure.decoder)] {
            let Some(words) = words else { continue };
            // Another picture each time, which is encoded; for the decoder it was before.
            seed += 1;
            let picture = picture_of(seed);
            if stage == "decoder" {
                assert_eq!(daemon.segment(&picture, 31).0, 200);
            }
            let before = daemon.log().len();
            cause(failure.cause, true, stage);
            let (status, answer) = daemon.segment(&picture, 30);
            cause(failure.cause, false, stage);
            let name = format!("{:?} in the {stage}", failure.cause);
            assert_eq!((status, &answer["code"]), (503, &"inference_failed".into()), "{name}");
            let line = daemon.says_after(before, words);
            assert!(line.contains("ERROR") && line.contains("inference failed"), "{name}: {line}");
            // Words for the log: who asked learns the code.
            assert!(!answer["detail"].to_string().contains("stand-in"), "{name}: {answer}");
            let health = daemon.health();
            assert_eq!(
                (&health["mode"], &health["available"]),
                (&"sam2".into(), &true.into()),
                "{name}"
            );
            let (status, answer) = daemon.segment(&picture, 32);
            assert_eq!(status, 200, "after {name}: {answer}");
        }
    }
    // Three in a row, and it is the engine.
    model.orders.decoder(Order::Fail);
    for x in 40..43 {
        assert_eq!(daemon.segment(&picture(), x).0, 503);
    }
    daemon.says("the engine failed several times in a row");
    // The word comes a moment before the state.
    let until = Instant::now() + Duration::from_secs(60);
    while daemon.health()["mode"] != "manual-only" {
        assert!(Instant::now() < until, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (status, answer) = daemon.segment(&picture(), 44);
    assert_eq!((status, &answer["code"]), (503, &"engine_unavailable".into()));
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn a_lost_device_ends_the_process_with_70_and_a_last_word() {
    let Made { folder, engine, .. } = made(&Spec::default());
    let mut daemon = Daemon::start(&setup(folder.path(), &engine));
    daemon.health();
    daemon.pretend("sticky");
    daemon.segment(&picture(), 32);
    assert_eq!(daemon.exit_code(), Some(70), "{}", daemon.log());
    let words = "the device is lost: cuStreamSynchronize: CUDA_ERROR_LAUNCH_FAILED (719)";
    daemon.says(words);

    // The same in the self-test, and while the plan is read: no retry can help in this process, and
    // a new one may have the device back, so the CPU is no way out either.
    let refused: fn(&str, String) -> String = |_, text| format!("{text}fail deserialize\n");
    for edit in [Spec::default().edit, refused] {
        let Made { folder, engine, .. } = made(&Spec { edit, fallback: true, ..Spec::default() });
        let setup = Setup {
            pretends: "sticky",
            keys: "cpu_fallback = true",
            ..setup(folder.path(), &engine)
        };
        let mut daemon = Daemon::start(&setup);
        assert_eq!(daemon.exit_code(), Some(70), "{}", daemon.log());
        daemon.says("CUDA_ERROR_LAUNCH_FAILED");
    }
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn a_call_that_hangs_ends_the_process_with_70() {
    let Made { folder, engine, model } = made(&Spec::default());
    let setup = Setup { keys: "hang_s = 2", ..setup(folder.path(), &engine) };
    let mut daemon = Daemon::start(&setup);
    daemon.health();
    model.orders.encoder(Order::Hang);
    daemon.segment(&picture(), 32);
    assert_eq!(daemon.exit_code(), Some(70), "{}", daemon.log());
    daemon.says("encoder has been running for");
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn the_same_weights_run_on_the_cpu_only_where_that_is_asked_for_and_are_said_to() {
    if !can_hide_the_driver() {
        return;
    }
    let spec = Spec { fallback: true, ..Spec::default() };
    for (keys, driver, order, mode, backend) in [
        ("cpu_fallback = true", false, Order::Answer, "sam2", "cpu"),
        ("cpu_fallback = true", true, Order::Answer, "sam2", "tensorrt"),
        // Plans that load and give a wrong picture are as good as none.
        ("cpu_fallback = true", true, Order::Nan, "sam2", "cpu"),
        ("", false, Order::Answer, "manual-only", ""),
        ("", true, Order::Nan, "manual-only", ""),
    ] {
        let Made { folder, engine, model } = made(&spec);
        model.orders.decoder(order);
        let setup = Setup { driver, keys, ..setup(folder.path(), &engine) };
        let daemon = Daemon::start(&setup);
        let health = daemon.health();
        assert_eq!(health["mode"], mode, "{keys} {driver} {order:?}: {}", daemon.log());
        let (status, answer) = daemon.segment(&picture(), 32);
        if mode == "manual-only" {
            assert_eq!(status, 503);
            continue;
        }
        assert_eq!((status, &answer["model"]["backend"]), (200, &backend.into()));
        let said = answer["warnings"].to_string().contains("the same weights run on the CPU");
        assert_eq!(said, backend == "cpu", "{answer}");
        assert_eq!(health["warnings"].to_string().contains("on the CPU"), backend == "cpu");
        if backend == "cpu" {
            daemon.says("its weights run on the CPU, as engine.cpu_fallback asks");
        }
    }
    let Made { folder, engine, .. } = made(&Spec::default());
    let setup =
        Setup { driver: false, keys: "cpu_fallback = true", ..setup(folder.path(), &engine) };
    let daemon = Daemon::start(&setup);
    assert_eq!(daemon.health()["reason"], "no NVIDIA driver on this box");
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn a_packages_smaller_maximum_is_named_in_the_400() {
    let spec = Spec { profiles: vec![(0, [1, 8], [1, 3])], ..Spec::default() };
    let Made { folder, engine, .. } = made(&spec);
    let daemon = Daemon::start(&setup(folder.path(), &engine));
    daemon.health();
    let image = base64_simd::STANDARD.encode_to_string(picture());
    let ask = |clicks: &str| {
        daemon.post(&format!(
            "{{\"image_data\": \"{image}\", \"image_type\": \"auto\", \"click_points\": [{clicks}], \"box\": {{\"x\": 5, \"y\": 5, \"width\": 30, \"height\": 30}}}}"
        ))
    };
    let click = |x: u32| format!("{{\"x\": {x}, \"y\": 20, \"label\": 1}}");
    assert_eq!(ask(&click(20)).0, 200);
    let (status, answer) = ask(&format!("{}, {}", click(20), click(25)));
    assert_eq!((status, &answer["code"]), (400, &"invalid_request".into()), "{answer}");
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains("at most 3 points") && detail.contains("4 were sent"), "{detail}");
}
