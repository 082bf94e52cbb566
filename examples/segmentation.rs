//! Writes a DICOM Segmentation of a made-up mask for a DICOM file, and the mask as PNG: what
//! tests/python/check_seg.py reads back with pydicom, highdicom and dciodvfy.
//!
//! `segmentation IN.dcm FRAME|- OUT.dcm MASK.png [empty]`

use sam2d::domain::mask::{ImageType, Mask, Target};
use sam2d::imaging::decode::{Limits, segmentation_source};
use sam2d::imaging::{png, seg};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, frame, output, picture, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("segmentation IN.dcm FRAME|- OUT.dcm MASK.png [empty]");
    };
    let frame = if frame == "-" { None } else { Some(frame.parse()?) };
    let source = segmentation_source(&std::fs::read(input)?, frame, &Limits::default())?
        .ok_or_else(|| anyhow::anyhow!("not a DICOM file"))?;
    let size = source.size();
    // Rows of growing length: no symmetry that a wrong bit order or a transposition could hide in.
    let rows = (size.height / 4..size.height - size.height / 8)
        .map(|y| (y, size.width / 3, (size.width / 3 + y / 2 + 1).min(size.width)));
    let empty = rest.first().is_some_and(|word| word == "empty");
    let mask = Mask::empty(size).painted(rows.filter(|_| !empty), true);
    let algorithm = seg::Algorithm {
        name: "made-up mask 1.0".into(),
        fingerprint: "0123456789abcdef".repeat(4),
        remarks: "backend none; test".into(),
    };
    let content = seg::Content {
        source: &source,
        mask: &mask,
        image_type: if empty { ImageType::Auto } else { ImageType::L3 },
        target: Target::Muscle,
        prompted: !empty,
        algorithm: &algorithm,
    };
    std::fs::write(output, seg::encode(&content)?)?;
    std::fs::write(picture, png::encode_mask(&mask))?;
    Ok(())
}
