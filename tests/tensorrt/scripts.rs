//! `engines/build_plan.py` and `benches/gpu/run` on the stand-ins: that they do what they say, not
//! that a real builder builds.

use super::calls::options;
use super::loading::library_folder;
use super::model::{Model, cpu, seeded};
use super::{alone, standins};
use sam2d::domain::tensor::{ImageTensor, PromptBatch};
use sam2d::engine::Backend;
use sam2d::engine::package::Package;
use sam2d::engine::tensorrt::TensorRtBackend;
use std::path::Path;
use std::process::{Command, Output};

fn python(script: &str, model: &Model) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("python3");
    command.arg(root.join(script));
    command.env("PYTHONPATH", root.join("tests/tensorrt/python"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("STANDIN_MODEL", &model.socket);
    command.env("LD_LIBRARY_PATH", standins().join("cuda"));
    command
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn the_plan_builder_writes_a_package_that_loads_and_answers() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let model = Model::start(folder.path());
    let plans = folder.path().join("plans");
    let done = python("engines/build_plan.py", &model).arg(seeded()).arg(&plans).output().unwrap();
    assert!(done.status.success(), "{}", text(&done));
    let package = Package::load(&plans).unwrap();
    let manifest = package.manifest();
    assert_eq!(manifest.title(), "seeded-m4 1.0.0+trt10.16.0.72");
    let plan = manifest.plan.clone().unwrap();
    assert_eq!((&*plan.tensorrt, &*plan.device), ("10.16.0.72", "Stand-in"));
    assert_eq!(plan.compute_capability, "8.7");
    assert!(package.fallback().is_some());
    let mut backend = TensorRtBackend::load(&package, &options("ten")).unwrap();
    assert_eq!((backend.info().max_prompts, backend.info().max_points), (64, 66));
    let picture = ImageTensor::new(128, vec![0.25; 3 * 128 * 128]).unwrap();
    let prompt = PromptBatch::single_clicks(&[(40.0, 50.0)]).unwrap();
    let (mut cpu, embedding) = (cpu(), backend.encode(&picture).unwrap());
    let theirs = cpu.encode(&picture).unwrap();
    let expected = cpu.decode(&theirs, &prompt).unwrap();
    assert_eq!(backend.decode(&embedding, &prompt).unwrap().logits, expected.logits);
    // A package that is there is not overwritten.
    let again = python("engines/build_plan.py", &model).arg(seeded()).arg(&plans).output().unwrap();
    assert!(!again.status.success());
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn trtexec_builds_the_same_package_as_the_python_module() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let model = Model::start(folder.path());
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tensorrt/python/trtexec");
    let build = |name: &str, told: Option<&str>, more: &[&str]| {
        let mut command = python("engines/build_plan.py", &model);
        command.arg(seeded()).arg(folder.path().join(name)).args(more);
        if let Some(told) = told {
            command.arg("--trtexec").arg(&tool).env("STANDIN_TRTEXEC", told);
        }
        command.output().unwrap()
    };
    let cache = folder.path().join("timings");
    for (name, told, more) in [
        ("module", None, vec![]),
        ("ten", Some("10"), vec!["--timing-cache", cache.to_str().unwrap()]),
        ("eleven", Some("11"), vec![]),
    ] {
        let done = build(name, told, &more);
        assert!(done.status.success(), "{name}: {}", text(&done));
    }
    assert!(cache.exists());
    for file in ["encoder.plan", "decoder.plan", "engine.toml"] {
        let read = |name: &str| std::fs::read(folder.path().join(name).join(file)).unwrap();
        assert_eq!(read("ten"), read("module"), "{file}");
        assert_eq!(read("eleven"), read("module"), "{file}");
    }
    let package = Package::load(&folder.path().join("ten")).unwrap();
    let mut backend = TensorRtBackend::load(&package, &options("ten")).unwrap();
    assert_eq!((backend.info().max_prompts, backend.info().max_points), (64, 66));
    let picture = ImageTensor::new(128, vec![0.25; 3 * 128 * 128]).unwrap();
    backend.encode(&picture).unwrap();
    let broken = build("broken", Some("broken"), &[]);
    assert!(!broken.status.success() && text(&broken).contains("trtexec built no plan (exit 1)"));
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn the_gpu_verification_runs_from_end_to_end_and_reports_what_it_saw() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let model = Model::start(folder.path());
    let (out, config) = (folder.path().join("report"), folder.path().join("sam2d.toml"));
    let keys = format!(
        "[engine]\ntensorrt_path = \"{}\"\n[log]\nlevel = \"error\"\n",
        library_folder("ten")
    );
    std::fs::write(&config, keys).unwrap();
    let done = python("benches/gpu/run", &model)
        .args(["--bin", env!("CARGO_BIN_EXE_sam2d"), "--runs", "3"])
        .arg("--package")
        .arg(seeded())
        .arg("--config")
        .arg(&config)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    let report = std::fs::read_to_string(out.join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(done.status.success(), "{}{report:#}", text(&done));
    let steps = report["steps"].as_array().unwrap();
    let named = |words: &str| {
        steps.iter().filter(|step| step["step"].as_str().unwrap().contains(words)).count()
    };
    assert_eq!((named("refused without a crash"), named("milliseconds")), (14, 2));
    for step in
        ["plans built", "doctor", "golden picture", "masks against the CPU", "memory of a daemon"]
    {
        assert_eq!(named(step), 1, "{step}: {report:#}");
    }
    assert!(std::fs::read_to_string(out.join("report.md")).unwrap().contains("| doctor | right |"));
}
