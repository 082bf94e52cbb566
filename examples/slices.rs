//! Decodes files in child processes, as the daemon does, and writes what came of them for other
//! programs to compare: `slices OUT FILE[#FRAME]…`.
//!
//! A line of JSON a file on standard output; samples in `OUT/<n>.raw` (f32 or u8, native order) and
//! levels as the file itself proposes in `OUT/<n>.levels`. With `--in-process` first, no child.

use anyhow::Context as _;
use sam2d::domain::mask::ImageType;
use sam2d::domain::slice::{Samples, Slice};
use sam2d::imaging::decode::{DecodeError, Limits, decode};
use sam2d::imaging::decoder::{Decoder, Options};
use sam2d::imaging::{Levels, window};
use std::path::{Path, PathBuf};

fn main() -> anyhow::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let in_process = arguments.first().is_some_and(|argument| argument == "--in-process");
    if in_process {
        arguments.remove(0);
    }
    let (out, files) = arguments.split_first().context("usage: slices OUT FILE[#FRAME]…")?;
    let decoder = Decoder::start(Options { executable: Some(binary()?), ..Options::default() })?;
    for (index, file) in files.iter().enumerate() {
        let (path, frame) = match file.rsplit_once('#') {
            Some((path, frame)) if frame.parse::<u32>().is_ok() => (path, frame.parse().ok()),
            _ => (file.as_str(), None),
        };
        let bytes = std::fs::read(path).with_context(|| path.to_owned())?;
        let result = if in_process {
            decode(&bytes, frame, &Limits::default())
        } else {
            decoder.decode(&bytes, frame)
        };
        let line = match &result {
            Ok(slice) => describe(slice, &Path::new(out).join(index.to_string()))?,
            Err(error) => serde_json::json!({"code": code(error), "error": error.to_string()}),
        };
        println!("{line}");
    }
    Ok(())
}

/// The daemon's binary, beside the folder that examples lie in.
fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("no target folder")?;
    Ok(folder.join("sam2d"))
}

fn describe(slice: &Slice, base: &Path) -> anyhow::Result<serde_json::Value> {
    let info = slice.info();
    let (rendering, source) = window::resolve(info, None, ImageType::Auto)?;
    let levels = match window::render(slice, &rendering) {
        Levels::Grey(levels) | Levels::Rgb(levels) => levels,
    };
    std::fs::write(base.with_extension("raw"), slice.samples().bytes())?;
    std::fs::write(base.with_extension("levels"), levels)?;
    Ok(serde_json::json!({
        "code": "ok",
        "width": info.size.width,
        "height": info.size.height,
        "frame": info.frame,
        "frames": info.frames,
        "kind": match slice.samples() {
            Samples::Grey8(_) => "grey8",
            Samples::Rgb8(_) => "rgb8",
            Samples::Modality(_) => "modality",
        },
        "is_ct": info.is_ct,
        "inverted": info.inverted,
        "range": info.range,
        "spacing_mm": info.spacing_mm,
        "window_source": format!("{source:?}"),
    }))
}

fn code(error: &DecodeError) -> &'static str {
    match error {
        DecodeError::UnsupportedFormat => "unsupported_format",
        DecodeError::Unreadable(_) => "unreadable_image",
        DecodeError::UnsupportedTransferSyntax { .. } => "unsupported_transfer_syntax",
        DecodeError::FrameRequired { .. } => "frame_required",
        DecodeError::FrameOutOfRange { .. } => "frame_out_of_range",
        DecodeError::TooLarge(_) => "too_large",
        DecodeError::Unavailable(_) => "decoder_unavailable",
    }
}
