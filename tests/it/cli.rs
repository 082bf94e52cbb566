//! The command line as people use it: the real binary, its words and exit codes.

use crate::support::disc_png;
use dicom_dictionary_std::tags;
use std::path::Path;
use std::process::{Command, Output};

fn sam2d(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sam2d"));
    command.args(arguments).env_remove("SAM2D_ENGINE__PATH").output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn sample() -> String {
    format!("{}/samples/phantom-axial.dcm", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn segment_writes_mask_and_overlay_and_says_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let done =
        sam2d(&["segment", &sample(), "--point", "160,167", "--out", out, "--overlay", "--json"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let line: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&line["width"], &line["height"]), (&320.into(), &260.into()));
    assert_eq!(line["notice"], "Not for diagnostic use.");
    assert_eq!(line["model"]["intended_use"], "demonstration");
    let bounds = &line["bounding_box"];
    let at = |key: &str| bounds[key].as_u64().unwrap();
    assert!(at("x") <= 160 && 160 < at("x") + at("width"), "{bounds}");
    assert!(at("y") <= 167 && 167 < at("y") + at("height"), "{bounds}");
    for (key, name) in
        [("mask", "phantom-axial.mask.png"), ("overlay", "phantom-axial.overlay.png")]
    {
        let path = folder.path().join(name);
        assert_eq!(line[key], path.to_str().unwrap());
        assert!(std::fs::read(path).unwrap().starts_with(b"\x89PNG"), "{name}");
    }
    assert_eq!(line["segmentation"], serde_json::Value::Null);
}

#[test]
fn segment_writes_a_dicom_segmentation_of_a_dicom_and_of_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let png = folder.path().join("disc.png");
    std::fs::write(&png, disc_png(96, 80)).unwrap();
    let (out, png) = (folder.path().to_str().unwrap(), png.to_str().unwrap());
    let done =
        sam2d(&["segment", &sample(), png, "--point", "60,60", "--out", out, "--seg", "--json"]);
    assert_eq!(done.status.code(), Some(1));
    let line: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(line["segmentation"], format!("{out}/phantom-axial.seg.dcm"));
    assert!(text(&done.stderr).contains("DICOM Segmentation"), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("1 of 2 failed"));
    let written = std::fs::read(folder.path().join("phantom-axial.seg.dcm")).unwrap();
    let own = std::fs::read(sample()).unwrap();
    let text_of = |file: &[u8], tag| {
        let object = dicom_object::from_reader(file).unwrap();
        object.element(tag).unwrap().to_str().unwrap().into_owned()
    };
    for tag in [tags::PATIENT_NAME, tags::STUDY_INSTANCE_UID, tags::FRAME_OF_REFERENCE_UID] {
        assert_eq!(text_of(&written, tag), text_of(&own, tag));
    }
    assert_eq!(text_of(&written, tags::MODALITY), "SEG");
    assert!(!folder.path().join("disc.seg.dcm").exists());
}

#[test]
fn segment_goes_on_after_a_bad_file_and_exits_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let (bad, good) = (folder.path().join("bad.png"), folder.path().join("good.png"));
    std::fs::write(&bad, b"nothing").unwrap();
    std::fs::write(&good, disc_png(96, 80)).unwrap();
    let names = [bad.to_str().unwrap(), good.to_str().unwrap()];
    let done = sam2d(&["segment", names[0], names[1], "--box", "20,20,40,40"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("not a PNG, JPEG or DICOM"), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("1 of 2 failed"));
    assert!(folder.path().join("good.mask.png").exists());
}

#[test]
fn usage_is_two_configuration_is_78_and_no_engine_is_69() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.toml");
    std::fs::write(&wrong, "[http]\nlisten = [\"127.0.0.1:0\"]\nmax_bodybytes = 1\n").unwrap();
    let wrong = wrong.to_str().unwrap();
    assert_eq!(sam2d(&["--no-such-flag"]).status.code(), Some(2));
    for arguments in [["check-config", wrong].as_slice(), &["--config", wrong]] {
        let done = sam2d(arguments);
        assert_eq!(done.status.code(), Some(78));
        let words = text(&done.stderr);
        assert!(words.contains("line 3") && words.contains("`max_body_bytes`"), "{words}");
    }
    let nowhere = folder.path().join("no-engine");
    let done = sam2d(&["segment", &sample(), "--engine", nowhere.to_str().unwrap()]);
    assert_eq!(done.status.code(), Some(69), "{}", text(&done.stderr));
}

#[test]
fn a_wrong_configuration_is_78_in_every_command_that_reads_one_and_its_reason_is_said_once() {
    for command in [
        vec!["cache", "stat"],
        vec!["token", "list"],
        vec!["audit", "verify"],
        vec!["check-config"],
        vec!["cert", "init"],
    ] {
        let file = ["/nonexistent/sam2d.toml"];
        let flag: &[&str] = if command == ["check-config"] { &[] } else { &["--config"] };
        let done = sam2d(&[&command, flag, &file].concat());
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(78), "{command:?}: {said}");
        assert_eq!(said.matches("No such file").count(), 1, "{command:?}: {said}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sam2d"))
        .arg("openapi")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(text(&done.stderr), "");
}

#[test]
fn an_open_address_needs_a_rule_for_who_may_ask() {
    let done = sam2d(&["--listen", "0.0.0.0:0"]);
    assert_eq!(done.status.code(), Some(78));
    assert!(text(&done.stderr).contains("allow_anonymous"), "{}", text(&done.stderr));
}

#[test]
fn a_busy_port_is_named_with_its_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let done = sam2d(&["--listen", &address]);
    assert_eq!(done.status.code(), Some(1));
    let words = text(&done.stderr);
    assert!(words.contains(&address) && words.contains("--listen"), "{words}");
}

#[test]
fn engines_are_listed_described_and_verified() {
    let listed = sam2d(&["engine", "list"]);
    assert!(text(&listed.stdout).contains("embedded"), "{}", text(&listed.stdout));
    let package = format!("{}/tests/fixtures/engines/seeded-m3", env!("CARGO_MANIFEST_DIR"));
    let described = sam2d(&["engine", "inspect", &package]);
    assert!(text(&described.stdout).contains("seeded-m3"));
    let verified = sam2d(&["engine", "verify", &package]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    assert!(text(&verified.stdout).contains("golden image right"));
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(Path::new(&package)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let decoder = copy.path().join("decoder.onnx");
    let mut bytes = std::fs::read(&decoder).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&decoder, bytes).unwrap();
    let broken = sam2d(&["engine", "verify", copy.path().to_str().unwrap()]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(text(&broken.stderr).contains("decoder.onnx"), "{}", text(&broken.stderr));
}

#[test]
fn a_package_is_taken_in_once_kept_from_others_of_its_name_and_timed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let fixture =
        |name: &str| format!("{}/tests/fixtures/engines/{name}", env!("CARGO_MANIFEST_DIR"));
    let engines = path("engines");
    let import = |package: &str, more: &[&str]| {
        let done = sam2d(&[&["engine", "import", package, "--into", &engines], more].concat());
        (done.status.code(), format!("{}{}", text(&done.stdout), text(&done.stderr)))
    };
    let (code, words) = import(&fixture("seeded-m3"), &[]);
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("taken in, golden image right"), "{words}");
    let (code, words) = import(&fixture("seeded-m3"), &[]);
    assert!(code == Some(0) && words.contains("it was there already"), "{words}");

    // Another package of that name: only when it is said that it takes the place.
    let other = path("other");
    std::fs::create_dir(&other).unwrap();
    for file in std::fs::read_dir(fixture("seeded-m3")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), Path::new(&other).join(file.file_name())).unwrap();
    }
    let manifest =
        |folder: &str| std::fs::read_to_string(Path::new(folder).join("engine.toml")).unwrap();
    let changed = manifest(&other).replace("version = \"1.0.0\"", "version = \"1.0.1\"");
    assert_ne!(changed, manifest(&other));
    std::fs::write(Path::new(&other).join("engine.toml"), &changed).unwrap();
    let installed = format!("{engines}/seeded-m3");
    let (code, words) = import(&other, &[]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("is another package of this name"), "{words}");
    assert_eq!(manifest(&installed), manifest(&fixture("seeded-m3")));
    let (code, words) = import(&other, &["--replace"]);
    assert_eq!((code, manifest(&installed)), (Some(0), changed.clone()), "{words}");

    // One whose golden picture comes out otherwise than it says is not taken in.
    let wrong = changed.replace("area_px = ", "area_px = 1");
    std::fs::write(Path::new(&other).join("engine.toml"), &wrong).unwrap();
    let (code, words) = import(&other, &["--replace"]);
    assert_eq!((code, manifest(&installed)), (Some(1), changed), "{words}");
    assert!(words.contains("not taken in"), "{words}");

    let timed = sam2d(&["engine", "bench", &installed, "--runs", "2", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&timed.stdout).unwrap();
    assert_eq!((&told["backend"], &told["runs"]), (&"cpu".into(), &2.into()), "{told}");
    assert_eq!(told["engine"], "seeded-m3 1.0.1");
    for stage in ["encoder_ms", "prompt_ms", "batch_ms", "download_ms"] {
        let at = |key: &str| told[stage][key].as_f64().unwrap();
        assert!(
            at("median") > 0.0 && at("median") <= at("p95") && at("p95") <= at("worst"),
            "{told}"
        );
    }
    let timed = sam2d(&["engine", "bench", &installed, "--runs", "1"]);
    let words = text(&timed.stdout);
    for row in ["1 runs", "encoder", "prompt", "8 prompts", "download", "median"] {
        assert!(words.contains(row), "{row}: {words}");
    }
    assert_eq!(sam2d(&["engine", "bench", &installed, "--runs", "0"]).status.code(), Some(2));
}

#[test]
fn health_says_down_when_nobody_listens() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let done = sam2d(&["health", "--url", &format!("http://{free}")]);
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stdout).starts_with("CRITICAL"), "{}", text(&done.stdout));
}

#[test]
fn doctor_names_what_is_wrong_with_a_remedy_and_exits_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let cache = path("cache");
    std::fs::create_dir(&cache).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(path(name), text).unwrap();
        path(name)
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let good = write(
        "good.toml",
        &format!(
            "[http]\nlisten = [\"127.0.0.1:0\"]\n[cache]\ndir = \"{cache}\"\nmin_free_bytes = 1\n"
        ),
    );
    let wrong = write(
        "wrong.toml",
        &format!(
            "[http]\nlisten = [\"127.0.0.1:{port}\"]\n[engine]\npath = \"/nowhere\"\n[decoder]\nmemory_bytes = 4096\n"
        ),
    );
    let broken = write("broken.toml", "[http]\nlistn = 1\n");
    let doctor = |file: &str| {
        let done = sam2d(&["doctor", "--json", "--config", file]);
        let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        (done.status.code(), json)
    };
    let (code, json) = doctor(&good);
    assert_eq!(code, Some(0), "{json:#}");
    let found = |json: &serde_json::Value, section: &str, level: &str| {
        let all = json["findings"].as_array().unwrap();
        all.iter().filter(|f| f["section"] == section && f["level"] == level).count()
    };
    for section in ["configuration", "folders", "decoder", "ports", "engine"] {
        assert!(found(&json, section, "fine") >= 1, "{section}: {json:#}");
    }
    assert_eq!(found(&json, "engine", "warning"), 1, "the demonstration engine: {json:#}");
    let (code, json) = doctor(&wrong);
    assert_eq!((code, &json["worst"]), (Some(1), &"fault".into()));
    for section in ["decoder", "ports", "engine"] {
        assert_eq!(found(&json, section, "fault"), 1, "{section}: {json:#}");
    }
    for finding in json["findings"].as_array().unwrap() {
        assert!(finding["level"] == "fine" || finding["remedy"].is_string(), "{finding}");
    }
    let (code, json) = doctor(&broken);
    assert_eq!(code, Some(1));
    assert!(json["findings"][0]["what"].as_str().unwrap().contains("did you mean `listen`?"));
}
