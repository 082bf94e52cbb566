//! The record of the crates that parse what strangers send is of the versions that are linked.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn record() -> toml::Table {
    let text = std::fs::read_to_string(root().join("supply-chain/parsers.toml")).unwrap();
    text.parse().unwrap()
}

/// Where Cargo keeps the sources that this very program is made of.
fn sources(name: &str, version: &str) -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = home.join("registry/src").read_dir().ok()?;
    let mut found = registries.map(|entry| entry.unwrap().path().join(format!("{name}-{version}")));
    found.find(|path| path.is_dir())
}

/// Lines of code with `unsafe` in them, and whether the crate forbids it.
fn unsafe_lines(folder: &Path) -> (i64, bool) {
    let (mut count, mut forbidden) = (0, false);
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let (more, also) = unsafe_lines(&path);
            count += more;
            forbidden |= also;
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
                count += i64::from(line.contains("unsafe ") || line.contains("unsafe{"));
                forbidden |= line.contains("forbid(unsafe_code");
            }
        }
    }
    (count, forbidden)
}

#[test]
fn every_recorded_parser_is_the_version_that_is_linked() {
    let lock: toml::Table =
        std::fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    for (name, entry) in record() {
        let (name, version) = (name.as_str(), entry["version"].as_str().unwrap());
        let linked: Vec<_> = packages
            .iter()
            .filter(|package| package["name"].as_str() == Some(name))
            .filter_map(|package| package["version"].as_str())
            .collect();
        assert!(linked.contains(&version), "{name} {version}: Cargo.lock has {linked:?}");
        for key in ["in", "parses", "review"] {
            assert!(entry[key].as_str().is_some_and(|text| text.len() > 4), "{name}: {key}");
        }
    }
}

#[test]
fn every_recorded_count_is_the_source_s() {
    let mut counted = 0;
    for (name, entry) in record() {
        let Some(folder) = sources(&name, entry["version"].as_str().unwrap()) else { continue };
        let (lines, forbidden) = unsafe_lines(&folder.join("src"));
        match entry["unsafe"].as_integer() {
            Some(recorded) => assert_eq!(recorded, lines, "{name}"),
            None => assert!(forbidden, "{name} does not forbid it"),
        }
        counted += 1;
    }
    if counted == 0 {
        crate::support::skip("supply", "the crates' sources are not where Cargo keeps them");
    }
}

#[test]
fn what_is_said_to_hold_a_parser_exists() {
    let mut tests = String::new();
    for folder in ["src", "tests"] {
        crate::threats::sources(&root().join(folder), &mut tests);
    }
    for (name, entry) in record() {
        let held = entry["held"].as_array().unwrap();
        assert!(!held.is_empty(), "{name}");
        for by in held.iter().filter_map(toml::Value::as_str) {
            let there = root().join("fuzz/fuzz_targets").join(format!("{by}.rs")).exists()
                || root().join("tests/python").join(by).exists()
                || [format!("fn {by}("), format!("def {by}(")].iter().any(|f| tests.contains(f));
            assert!(there, "{name}: {by}");
        }
    }
}

#[test]
fn the_crates_that_are_used_to_parse_are_recorded() {
    let record = record();
    let manifest: toml::Table =
        std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let ours = manifest["dependencies"].as_table().unwrap();
    for name in [
        "multer",
        "serde_json",
        "base64-simd",
        "png",
        "flate2",
        "jpeg2k",
        "hyper",
        "http",
        "rustls",
    ] {
        assert!(ours.contains_key(name) && record.contains_key(name), "{name}");
    }
}
