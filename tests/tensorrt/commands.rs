//! `sam2d engine` and `sam2d doctor` with plans, on the stand-ins: the program's own words, exit codes and
//! what is in the engine folder afterwards.

use super::loading::library_folder;
use super::model::{Model, Order};
use super::package::{Spec, write};
use super::{can_hide_the_driver, has_tensorrt, no_driver, standins};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A box of its own: its configuration, its engine folder, what its driver pretends.
struct Place {
    folder: tempfile::TempDir,
    model: Model,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = Model::start(folder.path());
        let path = library_folder("ten");
        let keys = format!("[engine]\ntensorrt_path = \"{path}\"\n[log]\nlevel = \"error\"\n");
        std::fs::write(folder.path().join("sam2d.toml"), keys).unwrap();
        Self { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn package(&self, spec: &Spec) -> PathBuf {
        write(self.folder.path(), &self.model, spec)
    }

    /// Runs the program; the driver pretends that, or there is none.
    fn sam2d(&self, driver: Option<&str>, words: &[&str]) -> Output {
        self.command(driver, words).output().unwrap()
    }

    fn command(&self, driver: Option<&str>, words: &[&str]) -> Command {
        let cuda = match driver {
            Some(_) => standins().join("cuda"),
            None => no_driver(self.folder.path()),
        };
        std::fs::write(self.path("driver"), driver.unwrap_or_default()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sam2d"));
        command.args(words).arg("--config").arg(self.path("sam2d.toml"));
        command.env("STANDIN_CUDA", self.path("driver")).env("LD_LIBRARY_PATH", cuda);
        command
    }

    fn installed(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("engines")) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn plans_are_verified_taken_in_and_timed_and_a_wrong_one_leaves_the_folder_as_it_was() {
    let here = Place::new();
    let engines = here.path("engines");
    let import = |driver, package: &Path, more: &[&str]| {
        let words = ["engine", "import", text(package), "--into", text(&engines)];
        here.sam2d(driver, &[&words, more].concat())
    };
    let package = here.package(&Spec::default());
    let done = here.sam2d(Some(""), &["engine", "verify", text(&package)]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let device = "on tensorrt (Stand-in, compute capability 8.7, TensorRT 10.16.0.72)";
    assert!(said(&done).contains(device), "{}", said(&done));

    for (name, spec, driver, words) in [
        (
            "another card",
            Spec { device: "Orin", ..Spec::default() },
            "",
            "the plan was built for Orin (compute capability 8.7), this device is Stand-in",
        ),
        ("no device", Spec::default(), "none", "is a card fitted"),
        (
            "another build",
            Spec { written_by: [10, 16, 0, 26], ..Spec::default() },
            "",
            "build it anew on this box",
        ),
    ] {
        let package = here.package(&spec);
        for command in ["verify", "import"] {
            let done = match command {
                "verify" => here.sam2d(Some(driver), &["engine", "verify", text(&package)]),
                _ => import(Some(driver), &package, &[]),
            };
            assert_eq!(done.status.code(), Some(1), "{command}, {name}: {}", said(&done));
            assert!(said(&done).contains(words), "{command}, {name}: {}", said(&done));
        }
        assert_eq!(here.installed(), Vec::<String>::new(), "{name}");
    }
    // Loads, and gives a wrong picture.
    let package = here.package(&Spec::default());
    here.model.orders.decoder(Order::Nan);
    let done = import(Some(""), &package, &[]);
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
    assert!(said(&done).contains("not taken in"), "{}", said(&done));
    assert_eq!(here.installed(), Vec::<String>::new());
    here.model.orders.decoder(Order::Answer);

    let done = import(Some(""), &package, &[]);
    assert!(done.status.success() && said(&done).contains("taken in"), "{}", said(&done));
    assert_eq!(here.installed(), ["seeded-m4"]);
    let again = import(Some(""), &package, &[]);
    assert!(said(&again).contains("it was there already"), "{}", said(&again));
    let installed = engines.join("seeded-m4");
    let runs = ["engine", "bench", text(&installed), "--runs", "2", "--json"];
    let done = here.sam2d(Some(""), &runs);
    let told: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&told["backend"], &told["runs"]), (&"tensorrt".into(), &2.into()), "{told}");
    for stage in ["encoder_ms", "prompt_ms", "batch_ms", "download_ms"] {
        assert!(told[stage]["median"].as_f64().unwrap() > 0.0, "{told}");
    }
    let done = here.sam2d(Some("none"), &runs);
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn doctor_names_driver_device_libraries_and_each_plans_mismatch_with_a_remedy() {
    let here = Place::new();
    let doctor = |driver, spec: &Spec| {
        let package = here.package(spec);
        let done = here.sam2d(driver, &["doctor", "--json", "--engine", text(&package)]);
        let told: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        let mut findings: Vec<[String; 3]> = Vec::new();
        for finding in told["findings"].as_array().unwrap() {
            if finding["section"] == "device" {
                let word = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
                findings.push([word("level"), word("what"), word("remedy")]);
            }
        }
        findings
    };
    let has = |findings: &[[String; 3]], level: &str, what: &str, remedy: &str| {
        let is = |[l, w, r]: &[String; 3]| l == level && w.contains(what) && r.contains(remedy);
        assert!(findings.iter().any(is), "{level} {what:?} {remedy:?}: {findings:#?}");
    };
    let fine = doctor(Some(""), &Spec::default());
    has(
        &fine,
        "fine",
        "device 0: Stand-in, compute capability 8.7, 8.6 GB; driver for CUDA 12.6 (libcuda.so.1)",
        "",
    );
    has(&fine, "fine", "TensorRT 10.16.0.72: ", "");
    has(&fine, "fine", "the encoder plan fits TensorRT 10.16.0.72", "");
    has(&fine, "fine", "the decoder plan fits TensorRT 10.16.0.72", "");
    let readme = "engines/README.md";
    for (driver, spec, what) in [
        (
            "",
            Spec { magic: *b"ONNX", ..Spec::default() },
            "plan can't be used: the encoder is no plan",
        ),
        (
            "",
            Spec { device: "Orin", ..Spec::default() },
            "plan can't be used: the plan was built for Orin",
        ),
        (
            "",
            Spec { written_by: [10, 16, 0, 26], ..Spec::default() },
            "plan can't be used: the plan was written by TensorRT 10.16.0.26; this box has TensorRT 10.16.0.72",
        ),
        (
            "",
            Spec { tensorrt: "10.3.0", ..Spec::default() },
            "plan can't be used: engine.toml says TensorRT 10.3.0",
        ),
        ("none", Spec::default(), "plan can't be used: the NVIDIA driver finds no device"),
    ] {
        has(&doctor(Some(driver), &spec), "fault", what, readme);
    }
    has(&doctor(Some("none"), &Spec::default()), "fault", "finds no device", "nvidia-smi");
    has(&doctor(Some("old"), &Spec::default()), "fault", "speaks CUDA 11.4", "update the driver");
    if can_hide_the_driver() {
        let none = doctor(None, &Spec::default());
        has(&none, "fault", "libcuda.so.1 can't be loaded", "install NVIDIA's driver");
        has(&none, "fine", "TensorRT 10.16.0.72: ", "");
    }
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn a_library_is_found_on_the_loaders_path_and_in_a_python_environment() {
    let here = Place::new();
    std::fs::write(here.path("sam2d.toml"), "").unwrap();
    let package = here.package(&Spec::eleven());
    let library = standins().join("eleven");
    let words = ["engine", "verify", text(&package)];
    if !has_tensorrt() {
        let done = here.sam2d(Some(""), &words);
        assert_eq!(done.status.code(), Some(1), "{}", said(&done));
        assert!(said(&done).contains("no libnvinfer.so.11"), "{}", said(&done));
    }
    let path = format!("{}:{}", text(&standins().join("cuda")), text(&library));
    let on_the_path = here.command(Some(""), &words).env("LD_LIBRARY_PATH", path).output();
    let site = here.path("venv/lib/python3.12/site-packages/tensorrt_libs");
    std::fs::create_dir_all(&site).unwrap();
    std::os::unix::fs::symlink(library.join("libnvinfer.so.11"), site.join("libnvinfer.so.11"))
        .unwrap();
    let environment = here.command(Some(""), &words).env("VIRTUAL_ENV", here.path("venv")).output();
    let configured = format!("[engine]\ntensorrt_path = \"{}\"\n", text(&here.path("venv")));
    std::fs::write(here.path("sam2d.toml"), configured).unwrap();
    let configured = here.command(Some(""), &words).output();
    for done in [on_the_path, environment, configured] {
        let done = done.unwrap();
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        assert!(said(&done).contains("TensorRT 11.4.0.106"), "{}", said(&done));
    }
}
