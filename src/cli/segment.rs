//! `sam2d segment`: the same pipeline without a server, for one file or many.

use super::CommonArgs;
use crate::domain::mask::{Annotation, ImageType, Target};
use crate::domain::prompt::{Click, ClickLabel, Prompt, PromptBox};
use crate::domain::slice::{Window, WindowFunction};
use crate::imaging::{overlay, png};
use crate::service::Service;
use crate::service::request::{ImageRequest, ImageSource, SegmentRequest, Segmented};
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A slow CPU and a grid of prompts: generous, since nobody waits at an editor.
const PER_IMAGE: Duration = Duration::from_secs(300);

/// Flags.
#[derive(Debug, Args)]
pub struct SegmentArgs {
    /// PNG, JPEG or DICOM files
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Click: pixels from the top left; 1 = in the object (default), 0 = outside
    #[arg(long = "point", value_name = "X,Y[,0|1]", value_parser = parse_point, allow_hyphen_values = true)]
    pub points: Vec<PointArg>,
    /// Box: top left corner and size in pixels
    #[arg(long = "box", value_name = "X,Y,W,H", value_parser = parse_box, allow_hyphen_values = true)]
    pub bounds: Option<BoxArg>,
    /// Annotation context
    #[arg(long = "type", value_name = "TYPE", default_value = "auto")]
    pub image_type: TypeArg,
    /// What one click looks for in a `middle` slice
    #[arg(long, value_name = "TARGET", default_value = "muscle")]
    pub target: TargetArg,
    /// Window centre and width, in HU for CT
    #[arg(long, value_name = "C,W", value_parser = parse_window, allow_hyphen_values = true)]
    pub window: Option<WindowArg>,
    /// Frame of a multi-frame DICOM, from 0
    #[arg(long, value_name = "N")]
    pub frame: Option<u32>,
    /// Where masks go: a folder, or a file for a single image [default: beside each image]
    #[arg(long, value_name = "DIR|FILE")]
    pub out: Option<PathBuf>,
    /// Also write the image with the mask drawn over it
    #[arg(long)]
    pub overlay: bool,
    /// Also write a DICOM Segmentation of the DICOM image
    #[arg(long)]
    pub seg: bool,
    /// Print one JSON object a line for each image
    #[arg(long)]
    pub json: bool,
    /// Read and write the daemon's disk cache
    #[arg(long)]
    pub cache: bool,
    /// Shared flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `--point`.
#[derive(Clone, Copy, Debug)]
pub struct PointArg(Click);
/// `--box`.
#[derive(Clone, Copy, Debug)]
pub struct BoxArg(PromptBox);
/// `--window`.
#[derive(Clone, Copy, Debug)]
pub struct WindowArg(Window);

/// `--type`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TypeArg {
    /// Mid-sagittal picture on which L3 is marked with a rectangle.
    #[value(name = "L3")]
    L3,
    /// Axial slice through L3, outlined with polygons.
    Middle,
    /// Anything else.
    Auto,
}

/// `--target`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TargetArg {
    /// Psoas, left and right.
    Psoas,
    /// All muscle.
    Muscle,
}

/// What was segmented and what was not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Images with an answer.
    pub done: usize,
    /// Images without.
    pub failed: usize,
}

/// Files that an image brought about.
#[derive(Debug)]
struct Written {
    mask: PathBuf,
    overlay: Option<PathBuf>,
    segmentation: Option<PathBuf>,
}

/// Segments every image; goes on when one fails.
///
/// # Errors
/// What keeps all of them from being done: contradictory flags, a folder that can't be made.
pub async fn run(args: SegmentArgs, service: &Service) -> anyhow::Result<Outcome> {
    let single = args.out.as_ref().is_some_and(|out| out.extension().is_some() && !out.is_dir());
    if single && args.images.len() > 1 {
        bail!("--out names one file, but there are {} images; name a folder", args.images.len());
    }
    if let Some(folder) = args.out.as_ref().filter(|_| !single) {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("can't make {}", folder.display()))?;
    }
    let progress = bar(args.images.len());
    let mut outcome = Outcome::default();
    for image in &args.images {
        progress.set_message(image.display().to_string());
        match segment(image, &args, service).await {
            Ok((segmented, written)) => {
                outcome.done += 1;
                let line = if args.json {
                    json_line(image, &written, &segmented)
                } else {
                    text_line(image, &written, &segmented)
                };
                progress.suspend(|| println!("{line}"));
            }
            Err(error) => {
                outcome.failed += 1;
                progress.suspend(|| eprintln!("{}: {error:#}", image.display()));
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(outcome)
}

async fn segment(
    path: &Path,
    args: &SegmentArgs,
    service: &Service,
) -> anyhow::Result<(Segmented, Written)> {
    let bytes = Bytes::from(std::fs::read(path).context("can't be read")?);
    let image = ImageRequest {
        source: ImageSource::Bytes(bytes),
        frame: args.frame,
        window: args.window.map(|WindowArg(window)| window),
        image_type: match args.image_type {
            TypeArg::L3 => ImageType::L3,
            TypeArg::Middle => ImageType::Middle,
            TypeArg::Auto => ImageType::Auto,
        },
    };
    let deadline = Instant::now() + PER_IMAGE;
    let clicks: Vec<Click> = args.points.iter().map(|PointArg(click)| *click).collect();
    let bounds = args.bounds.map(|BoxArg(bounds)| bounds);
    let request = SegmentRequest {
        image: image.clone(),
        clicks: clicks.clone(),
        bounds,
        target: match args.target {
            TargetArg::Psoas => Target::Psoas,
            TargetArg::Muscle => Target::Muscle,
        },
        mask_input: None,
        prompt_from: None,
        deadline,
    };
    let (segmented, file) = if args.seg {
        let (segmented, file) = service.segmentation(request).await?;
        (segmented, Some(file))
    } else {
        (service.segment(request).await?, None)
    };
    let mask = place(path, args.out.as_deref(), "mask");
    std::fs::write(&mask, &segmented.answer.png)
        .with_context(|| format!("can't write {}", mask.display()))?;
    let mut written = Written { mask, overlay: None, segmentation: None };
    if let Some(file) = file {
        let seg = place(path, args.out.as_deref(), "seg");
        ensure!(seg != written.mask, "mask and Segmentation would be the same file; name a folder");
        std::fs::write(&seg, file).with_context(|| format!("can't write {}", seg.display()))?;
        written.segmentation = Some(seg);
    }
    if args.overlay {
        let (described, levels) = service.view(image, deadline).await?;
        let drawn = png::decode_mask(&segmented.answer.png, described.size)?;
        let prompt = Prompt::new(described.size, clicks, bounds, None, usize::MAX)?;
        let picture = overlay::encode(&levels, &drawn, &prompt).context("no overlay")?;
        let overlay = place(path, args.out.as_deref(), "overlay");
        ensure!(overlay != written.mask, "mask and overlay would be the same file; name a folder");
        std::fs::write(&overlay, picture)
            .with_context(|| format!("can't write {}", overlay.display()))?;
        written.overlay = Some(overlay);
    }
    Ok((segmented, written))
}

/// `--out FILE` for the mask itself; otherwise `NAME.mask.png` in the folder or beside the image.
fn place(image: &Path, out: Option<&Path>, what: &str) -> PathBuf {
    let stem = image.file_stem().unwrap_or_default().to_string_lossy();
    let ending = format!("{what}.{}", if what == "seg" { "dcm" } else { "png" });
    let name = format!("{stem}.{ending}");
    match out {
        None => image.with_file_name(name),
        Some(out) if out.is_dir() => out.join(name),
        Some(out) if what == "mask" => out.to_owned(),
        Some(out) => out.with_extension(ending),
    }
}

fn bar(images: usize) -> ProgressBar {
    if images < 2 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} {wide_msg}");
    ProgressBar::new(images as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn text_line(image: &Path, written: &Written, segmented: &Segmented) -> String {
    let answer = &segmented.answer;
    let place = answer.bounding_box.map_or_else(
        || "empty mask".to_owned(),
        |b| format!("{}×{} px at ({}, {})", b.width, b.height, b.x, b.y),
    );
    let mut line = format!(
        "{}: {place}, confidence {:.2} → {}",
        image.display(),
        answer.confidence,
        written.mask.display()
    );
    for also in written.segmentation.iter().chain(&written.overlay) {
        line.push_str(", ");
        line.push_str(&also.display().to_string());
    }
    for warning in segmented.warnings.iter().chain(&answer.warnings) {
        line.push_str("\n  note: ");
        line.push_str(warning);
    }
    line
}

fn json_line(image: &Path, written: &Written, segmented: &Segmented) -> String {
    let answer = &segmented.answer;
    let ms = |d: Option<Duration>| d.map(|d| (d.as_secs_f64() * 1e5).round() / 100.0);
    let rectangle = |b: crate::domain::mask::BoundingBox| json!({"x": b.x, "y": b.y, "width": b.width, "height": b.height});
    let annotation = answer.annotation.as_ref().map(|annotation| match annotation {
        Annotation::Rectangle(b) => {
            json!({"type": "rectangle", "x": b.x, "y": b.y, "width": b.width, "height": b.height})
        }
        Annotation::Polygons(rings) => {
            let rings: Vec<Vec<_>> = rings
                .iter()
                .map(|ring| ring.iter().map(|v| json!({"x": v.x, "y": v.y})).collect())
                .collect();
            json!({"type": "polygon", "polygons": rings})
        }
    });
    let warnings: Vec<&String> = segmented.warnings.iter().chain(&answer.warnings).collect();
    let path = |path: &PathBuf| path.display().to_string();
    let (described, model, timings) = (&segmented.image, &segmented.model, &segmented.timings);
    json!({
        "image": image.display().to_string(),
        "mask": path(&written.mask),
        "segmentation": written.segmentation.as_ref().map(path),
        "overlay": written.overlay.as_ref().map(path),
        "width": described.size.width,
        "height": described.size.height,
        "frame": described.frame,
        "frames": described.frames,
        "window_source": described.window_source.name(),
        "confidence_score": answer.confidence,
        "bounding_box": answer.bounding_box.map(rectangle),
        "annotation": annotation,
        "cached": segmented.cached,
        "embedding_cached": segmented.embedding_cached,
        "model": {
            "name": model.engine.name,
            "backend": model.engine.backend,
            "fingerprint": model.engine.fingerprint,
            "intended_use": model.intended_use,
        },
        "timings_ms": {
            "decode": ms(timings.decode),
            "queue": ms(timings.queue),
            "encode": ms(timings.encode),
            "prompt": ms(timings.prompt),
            "render": ms(timings.render),
            "prompts": timings.prompts,
        },
        "warnings": warnings,
        "notice": "Not for diagnostic use.",
    })
    .to_string()
}

fn numbers(text: &str) -> Result<Vec<f64>, String> {
    let number = |part: &str| {
        let value: f64 = part.trim().parse().map_err(|_| format!("“{part}” is not a number"))?;
        if value.is_finite() {
            Ok(value)
        } else {
            Err(format!("“{part}” is not a finite number"))
        }
    };
    text.split(',').map(number).collect()
}

fn parse_point(text: &str) -> Result<PointArg, String> {
    let inside = |x, y| PointArg(Click { x, y, label: ClickLabel::Inside });
    match numbers(text)?.as_slice() {
        &[x, y] | &[x, y, 1.0] => Ok(inside(x, y)),
        &[x, y, 0.0] => Ok(PointArg(Click { x, y, label: ClickLabel::Outside })),
        _ => Err("X,Y or X,Y,0 (outside) or X,Y,1 (inside)".to_owned()),
    }
}

fn parse_box(text: &str) -> Result<BoxArg, String> {
    match numbers(text)?.as_slice() {
        &[x, y, width, height] => Ok(BoxArg(PromptBox { x, y, width, height })),
        _ => Err("X,Y,W,H".to_owned()),
    }
}

fn parse_window(text: &str) -> Result<WindowArg, String> {
    match numbers(text)?.as_slice() {
        &[center, width] if width >= 1.0 => {
            Ok(WindowArg(Window { center, width, function: WindowFunction::Linear }))
        }
        _ => Err("C,W with a width of at least 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_on_the_command_line_are_checked() {
        assert_eq!(parse_point("3,4,0").unwrap().0.label, ClickLabel::Outside);
        assert_eq!(parse_point("-3, 4").unwrap().0.x, -3.0);
        for wrong in ["3", "3,4,2", "3,x", "nan,1", ""] {
            assert!(parse_point(wrong).is_err(), "{wrong}");
        }
        assert!(parse_box("1,2,3").is_err());
        assert!(parse_window("40,0").is_err());
    }

    #[test]
    fn masks_lie_beside_their_image_or_where_they_are_sent() {
        let image = Path::new("/a/b.dcm");
        assert_eq!(place(image, None, "mask"), Path::new("/a/b.mask.png"));
        let folder = tempfile::tempdir().unwrap();
        let within = place(image, Some(folder.path()), "overlay");
        assert_eq!(within, folder.path().join("b.overlay.png"));
        let file = Path::new("/x/out.png");
        assert_eq!(place(image, Some(file), "mask"), file);
        assert_eq!(place(image, Some(file), "overlay"), Path::new("/x/out.overlay.png"));
        assert_eq!(place(image, Some(file), "seg"), Path::new("/x/out.seg.dcm"));
        assert_eq!(place(image, None, "seg"), Path::new("/a/b.seg.dcm"));
    }
}
