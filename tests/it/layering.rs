//! Imports flow one way: `main → app → {cli, http, ops} → service → {engine, cache, imaging} →
//! domain`; siblings don't know each other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What each room may use beside itself.
const MAY_USE: [(&str, &[&str]); 13] = [
    ("domain", &[]),
    ("access", &["domain"]),
    ("audit", &["domain"]),
    ("engine", &["domain"]),
    ("cache", &["domain"]),
    ("imaging", &["domain"]),
    ("service", &["engine", "cache", "imaging", "domain"]),
    ("control", &["cache", "domain"]),
    (
        "config",
        &[
            "access", "audit", "http", "ops", "control", "service", "engine", "cache", "imaging",
            "domain",
        ],
    ),
    (
        "cli",
        &[
            "access", "audit", "config", "control", "service", "engine", "cache", "imaging",
            "domain",
        ],
    ),
    ("http", &["access", "audit", "service", "engine", "cache", "imaging", "domain"]),
    ("ops", &["control", "service", "engine", "cache", "imaging", "domain"]),
    (
        "app",
        &[
            "access", "audit", "config", "cli", "http", "ops", "control", "service", "engine",
            "cache", "imaging", "domain",
        ],
    ),
];

#[test]
fn imports_flow_one_way() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in rust_files(Path::new("src")) {
        let room = room_of(&file);
        if room == "main" || room == "lib" {
            continue;
        }
        seen.insert(room.clone());
        let (_, may_use) = MAY_USE
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("{}: a room that no rule knows", file.display()));
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for used in rooms_named(line) {
                if used != room && !may_use.contains(&used.as_str()) {
                    wrong.push(format!("{}:{number}: {room} must not use {used}", file.display()));
                }
            }
        }
    }
    assert!(seen.len() >= 8, "only {seen:?} were read: the test looks in the wrong place");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `crate::ROOM` and `use crate::{ROOM, …}` on one line.
fn rooms_named(line: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for after in line.split("crate::").skip(1) {
        let names: Vec<&str> = match after.strip_prefix('{') {
            Some(list) => list.split(['}', ';']).next().unwrap_or("").split(',').collect(),
            None => vec![after],
        };
        for name in names {
            let name: String =
                name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                rooms.push(name);
            }
        }
    }
    rooms
}

fn room_of(file: &Path) -> String {
    let below = file.strip_prefix("src").unwrap();
    let first = below.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}
