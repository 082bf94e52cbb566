//! Our tables against what a C++ compiler makes of NVIDIA's headers.

use super::standins;
use sam2d::engine::tensorrt::Layout;
use std::collections::BTreeMap;

/// Slots by method, of every set of headers at hand.
fn compiled() -> BTreeMap<String, Vec<(String, usize)>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(standins().join("slots")).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let slots = text.lines().map(|line| {
            let (name, slot) = line.split_once(' ').unwrap();
            (name.to_owned(), slot.parse().unwrap())
        });
        all.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), slots.collect());
    }
    all
}

fn ours(layout: Layout) -> Vec<(String, usize)> {
    layout.named_slots().into_iter().map(|(name, slot)| (name.to_owned(), slot)).collect()
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn every_slot_is_where_a_compiler_of_the_headers_puts_it() {
    let compiled = compiled();
    let mut seen = Vec::new();
    for (headers, slots) in &compiled {
        let layout = match headers.as_str() {
            "TRT-Enterprise-10.16" => Layout::Ten,
            "TRT-Enterprise-11.0"
            | "TRT-Enterprise-11.1"
            | "TRT-Enterprise-11.4"
            | "TRT-RTX-1.5"
            | "TRT-RTX-1.6"
            | "TRT-RTX-1.7" => Layout::Eleven,
            _ => continue,
        };
        assert_eq!(slots.len(), 19, "{headers}");
        assert_eq!(*slots, ours(layout), "{headers}");
        seen.push(headers.as_str());
    }
    assert_eq!(seen.len(), 7, "{seen:?}");
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn tensorrt_rtx_before_1_5_has_neither_layout_and_that_is_why_it_is_refused() {
    let compiled = compiled();
    for headers in ["TRT-RTX-1.3", "TRT-RTX-1.4"] {
        for layout in [Layout::Ten, Layout::Eleven] {
            assert_ne!(compiled[headers], ours(layout), "{headers}");
        }
    }
}
