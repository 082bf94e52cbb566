//! The imaging room's own parts by hand, for tests/python to hold against Python's:
//!
//! ```text
//! tensor PICTURE.png SIDE OUT.f32                     the encoder's input
//! mask LOGITS.f32 SIDE WIDTH HEIGHT OUT [X,Y,LABEL]…  OUT.raw.png, OUT.auto.png, OUT.l3.png; outlines on
//!                                                     standard output, as JSON
//! segmentation IN.dcm FRAME|- OUT.dcm MASK.png [empty]  a DICOM Segmentation of a made-up mask
//! ```

use anyhow::{Context as _, bail};
use sam2d::domain::mask::{ImageType, Mask, Target, Vertex};
use sam2d::domain::prompt::{Click, ClickLabel, Prompt};
use sam2d::domain::slice::Size;
use sam2d::imaging::decode::{Limits, segmentation_source};
use sam2d::imaging::postprocess::{self, Clean};
use sam2d::imaging::{Levels, outline, png, preprocess, seg};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tensor", picture, side, output] => tensor(picture, side.parse()?, output),
        ["mask", logits, side, width, height, output, clicks @ ..] => {
            let size = Size { width: width.parse()?, height: height.parse()? };
            mask(logits, side.parse()?, size, output, clicks)
        }
        ["segmentation", input, frame, output, picture, rest @ ..] => {
            let frame = if *frame == "-" { None } else { Some(frame.parse()?) };
            segmentation(input, frame, output, picture, rest.contains(&"empty"))
        }
        _ => bail!("tensor, mask or segmentation; see the head of this file"),
    }
}

fn tensor(picture: &str, side: usize, output: &str) -> anyhow::Result<()> {
    let picture = image::open(picture)?;
    let size = Size { width: picture.width(), height: picture.height() };
    let levels = match picture {
        image::DynamicImage::ImageLuma8(grey) => Levels::Grey(grey.into_raw()),
        colour => Levels::Rgb(colour.into_rgb8().into_raw()),
    };
    let tensor = preprocess::tensor(&levels, size, side).context("no tensor of that size")?;
    let bytes: Vec<u8> = tensor.data().iter().flat_map(|value| value.to_le_bytes()).collect();
    Ok(std::fs::write(output, bytes)?)
}

fn mask(
    logits: &str,
    side: usize,
    size: Size,
    output: &str,
    clicks: &[&str],
) -> anyhow::Result<()> {
    let bytes = std::fs::read(logits)?;
    let logits: Vec<f32> =
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let clicks = clicks.iter().map(|text| click(text)).collect::<Option<Vec<_>>>();
    let prompt = Prompt::new(size, clicks.context("X,Y,LABEL")?, None, None, usize::MAX)?;
    let raw = postprocess::threshold(&logits, side, size).context("logits are not SIDE × SIDE")?;
    std::fs::write(format!("{output}.raw.png"), png::encode_mask(&raw))?;
    let cleaned = |image_type| {
        let how = Clean::for_prompt(image_type, &prompt, postprocess::Options::default());
        postprocess::clean(raw.clone(), &how)
    };
    let (auto, l3) = (cleaned(ImageType::Auto), cleaned(ImageType::L3));
    std::fs::write(format!("{output}.auto.png"), png::encode_mask(&auto))?;
    std::fs::write(format!("{output}.l3.png"), png::encode_mask(&l3))?;
    let rings = outline::rings(&auto);
    let points = |corners: &[Vertex]| corners.iter().map(|c| [c.x, c.y]).collect::<Vec<_>>();
    println!(
        "{}",
        serde_json::json!({
            "holes_px": postprocess::holes_px(&auto),
            "areas": rings.iter().map(|ring| ring.area_px).collect::<Vec<_>>(),
            "rings": rings.iter().map(|ring| points(&ring.corners)).collect::<Vec<_>>(),
            "polygons": outline::polygons(&auto).iter().map(|p| points(p)).collect::<Vec<_>>(),
        })
    );
    Ok(())
}

fn click(text: &str) -> Option<Click> {
    let mut parts = text.split(',');
    let (x, y) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let label = match parts.next()? {
        "1" => ClickLabel::Inside,
        "0" => ClickLabel::Outside,
        _ => return None,
    };
    Some(Click { x, y, label })
}

fn segmentation(
    input: &str,
    frame: Option<u32>,
    output: &str,
    picture: &str,
    empty: bool,
) -> anyhow::Result<()> {
    let source = segmentation_source(&std::fs::read(input)?, frame, &Limits::default())?
        .context("not a DICOM file")?;
    let size = source.size();
    // Rows of growing length: no symmetry that a wrong bit order or a transposition could hide in.
    let rows = (size.height / 4..size.height - size.height / 8)
        .map(|y| (y, size.width / 3, (size.width / 3 + y / 2 + 1).min(size.width)));
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
