//! docs/dicom-support.md is what the decoder does, written down by this test: `SAM2D_BLESS=1` writes it,
//! otherwise it must be equal.

use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use sam2d::imaging::decode::{DecodeError, Limits, decode};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const HEAD: &str = "\
# DICOM: what is read, and what is refused

Written by a test (`tests/it/dicom_support.rs`) from what the decoder does. *Right* means: every sample equals what
independent decoders (dcmtk, CharLS, OpenJPEG, OpenJPH, Pillow, pydicom) make of the drawn files in
`tests/fixtures/decode`. [Real files by class](dicom-files.md) are held against pydicom. What is refused is
refused by UID and name; nothing is shown on best effort. Not for diagnostic use.

";

/// Of group 0028: element, VR, value.
type Element<'v> = (u16, &'v [u8; 2], &'v [u8]);

/// A syntax nobody has a file for is tried with this: does the answer name it?
fn file_of(uid: &str, change: Option<Element<'_>>) -> Vec<u8> {
    let mut file = vec![0; 128];
    file.extend_from_slice(b"DICM");
    let mut put = |group: u16, element: u16, vr: &[u8; 2], value: &[u8]| {
        file.extend_from_slice(&group.to_le_bytes());
        file.extend_from_slice(&element.to_le_bytes());
        file.extend_from_slice(vr);
        let padded = [value, if value.len() % 2 == 1 { b" " } else { b"" }].concat();
        file.extend_from_slice(&u16::try_from(padded.len()).unwrap().to_le_bytes());
        file.extend_from_slice(&padded);
    };
    put(2, 0x10, b"UI", uid.as_bytes());
    let elements: [Element<'_>; 8] = [
        (0x0002, b"US", &[1, 0]),
        (0x0004, b"CS", b"MONOCHROME2"),
        (0x0010, b"US", &[1, 0]),
        (0x0011, b"US", &[1, 0]),
        (0x0100, b"US", &[16, 0]),
        (0x0101, b"US", &[16, 0]),
        (0x0102, b"US", &[15, 0]),
        (0x0103, b"US", &[0, 0]),
    ];
    for (element, vr, value) in elements {
        let changed = change.filter(|change| change.0 == element);
        put(0x28, element, vr, changed.map_or(value, |change| change.2));
    }
    put(0x7FE0, 0x10, b"US", &[1, 0]);
    file
}

/// Classes of file by syntax, all of whose fixtures are right.
fn right_classes() -> BTreeMap<String, BTreeSet<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decode");
    let cases = std::fs::read(folder.join("cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
    let mut classes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for case in cases.iter().filter(|case| case["syntax"].is_string()) {
        let file = std::fs::read(folder.join(case["file"].as_str().unwrap())).unwrap();
        let frame = case["frame"].as_u64().map(|frame| u32::try_from(frame).unwrap());
        let expected = std::fs::read(folder.join(case["expected"].as_str().unwrap())).unwrap();
        let slice = decode(&file, frame, &Limits::default()).unwrap();
        assert_eq!(slice.samples().bytes()[..], expected[..], "{}", case["file"]);
        let syntax = classes.entry(case["syntax"].as_str().unwrap().to_owned()).or_default();
        syntax.insert(case["class"].as_str().unwrap().to_owned());
    }
    classes
}

fn syntaxes() -> String {
    let classes = right_classes();
    let mut names: BTreeMap<&str, &str> =
        TransferSyntaxRegistry.iter().map(|syntax| (syntax.uid(), syntax.name())).collect();
    names.insert("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression");
    let mut rows = BTreeMap::new();
    for (uid, name) in names {
        let word = match (classes.get(uid), decode(&file_of(uid, None), None, &Limits::default())) {
            (Some(classes), _) => {
                format!("right: {}", classes.iter().cloned().collect::<Vec<_>>().join("; "))
            }
            (None, Err(DecodeError::UnsupportedTransferSyntax { uid: named, .. })) => {
                assert_eq!(named, uid);
                "refused by name".to_owned()
            }
            (None, _) => "decoded; no file of it among the fixtures".to_owned(),
        };
        let order: Vec<u32> = uid.split('.').map(|part| part.parse().unwrap()).collect();
        rows.insert(order, format!("| {uid} | {name} | {word} |\n"));
    }
    let rows: String = rows.into_values().collect();
    format!("## Transfer syntaxes\n\n| UID | name | files |\n|---|---|---|\n{rows}")
}

fn refusals() -> String {
    let native = "1.2.840.10008.1.2.1";
    let cases: [(&str, Element<'_>); 8] = [
        ("Photometric Interpretation YBR_PARTIAL_422", (0x0004, b"CS", b"YBR_PARTIAL_422")),
        ("Photometric Interpretation HSV", (0x0004, b"CS", b"HSV")),
        ("Photometric Interpretation CMYK", (0x0004, b"CS", b"CMYK")),
        ("Photometric Interpretation ARGB", (0x0004, b"CS", b"ARGB")),
        ("RGB of one sample per pixel", (0x0004, b"CS", b"RGB")),
        ("High Bit that is not Bits Stored less one", (0x0102, b"US", &[11, 0])),
        ("Bits Allocated 12", (0x0100, b"US", &[12, 0])),
        ("Integers of 64 bits", (0x0100, b"US", &[64, 0])),
    ];
    let mut text = "## Refused whatever the syntax\n\n| file | answer |\n|---|---|\n".to_owned();
    for (name, change) in cases {
        let error = decode(&file_of(native, Some(change)), None, &Limits::default()).unwrap_err();
        assert!(matches!(error, DecodeError::Unreadable(_)), "{name}: {error}");
        writeln!(text, "| {name} | {error} |").unwrap();
    }
    text
}

#[test]
fn the_table_in_the_docs_is_what_the_decoder_does() {
    let text = format!("{HEAD}{}\n{}", syntaxes(), refusals());
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/dicom-support.md");
    if std::env::var_os("SAM2D_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/dicom-support.md is not what the decoder does; SAM2D_BLESS=1 writes it"
    );
}
