//! The shipped configuration is the manual: every key is in it, with its default.

use sam2d::config::Config;
use std::collections::BTreeSet;
use std::path::Path;

fn shipped() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sam2d.toml");
    std::fs::read_to_string(file).unwrap()
}

/// The file with every `#key = value` switched on; those that are unset by default stay off.
fn switched_on() -> String {
    let key = |line: &str| {
        let rest = line.strip_prefix('#')?;
        let is_key = rest.starts_with(|c: char| c.is_ascii_lowercase());
        (is_key && !rest.ends_with("# unset by default")).then(|| rest.to_owned())
    };
    shipped().lines().map(|line| key(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

fn keys(table: &toml::Table, prefix: &str, into: &mut BTreeSet<String>) {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) => keys(inner, &format!("{name}."), into),
            _ => drop(into.insert(name)),
        }
    }
}

#[test]
fn the_shipped_file_changes_nothing() {
    assert_eq!(Config::parse(&shipped()), Ok(Config::default()));
}

#[test]
fn every_key_is_shipped_with_its_default() {
    let text = switched_on();
    assert_eq!(Config::parse(&text), Ok(Config::default()), "{text}");
    let (mut shipped, mut known) = (BTreeSet::new(), BTreeSet::new());
    keys(&text.parse().unwrap(), "", &mut shipped);
    let defaults = toml::to_string(&Config::default()).unwrap();
    keys(&defaults.parse().unwrap(), "", &mut known);
    assert!(known.len() > 40, "only {} keys", known.len());
    assert_eq!(shipped, known);
}

#[test]
fn the_keys_that_are_unset_by_default_are_real_keys() {
    let text: String = shipped()
        .lines()
        .map(|line| match line.strip_suffix("   # unset by default") {
            Some(key) => key.trim_start_matches('#').to_owned() + "\n",
            None => line.to_owned() + "\n",
        })
        .collect();
    let config = Config::parse(&text).unwrap();
    assert!(config.engine.path.is_some() && config.inbox.path.is_some());
}
