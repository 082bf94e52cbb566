//! The page of threats names tests; each of them is there.

use std::path::Path;

/// The text of all Rust and Python below a folder.
pub(crate) fn sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("node_modules") {
                sources(&path, into);
            }
        } else if path.extension().is_some_and(|kind| kind == "rs" || kind == "py") {
            into.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_page_of_threats_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/THREATS.md")).unwrap();
    let mut all = String::new();
    for folder in ["src", "tests"] {
        sources(&root.join(folder), &mut all);
    }
    let names = page.split('`').skip(1).step_by(2);
    let is_test = |name: &&str| name.matches('_').count() >= 4 && !name.contains(['/', '.', ' ']);
    let tests: Vec<_> = names.filter(is_test).collect();
    assert!(tests.len() > 20, "{tests:?}");
    for name in tests {
        let there = [format!("fn {name}("), format!("def {name}(")].iter().any(|f| all.contains(f));
        assert!(there, "{name}");
    }
}
