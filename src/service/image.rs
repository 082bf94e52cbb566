//! From what a request names to an image with a key: decode it, or remember that it was decoded.
//!
//! Repeated bytes skip parsing: an alias record says what parsing them gave. Only the pixels are
//! gone then, and they are decoded again only if the encoder must run.

use super::Inner;
use super::error::ServiceError;
use super::keys;
use super::oneclick::BodyGrid;
use super::record::{ImageRecord, SliceRecord};
use super::request::{ImageDescription, ImageRequest, ImageSource, Timings, WindowSource};
use super::store::{Era, Reach};
use crate::domain::identity::SegmentationSource;
use crate::domain::key::{AliasKey, ImageKey};
use crate::domain::mask::Mask;
use crate::domain::slice::{Slice, Window, WindowFunction};
use crate::imaging::decode::DecodeError;
use crate::imaging::window::{self, Rendering};
use crate::imaging::{Levels, body};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Bytes up to this are summed on the caller's own thread, in a quarter of a millisecond: a slice of
/// 512 × 512 in 16 bits, with its header.
const SUMMED_AT_ONCE_BYTES: usize = 544 << 10;

/// An image that has a key, and whatever is left of its pixels.
pub(super) struct Resolved {
    pub(super) key: ImageKey,
    pub(super) record: Arc<ImageRecord>,
    pub(super) pixels: Pixels,
    /// Since when it has been worked on.
    pub(super) era: Era,
}

/// What there is to encode from.
#[derive(Clone)]
pub(super) enum Pixels {
    /// Decoded and rendered for this request.
    Levels(Arc<Levels>),
    /// The bytes, which were decoded before.
    Bytes(Bytes, Option<u32>, Rendering),
    /// Nothing: the request named an image by its id.
    Gone,
}

impl Resolved {
    pub(super) fn describe(&self) -> ImageDescription {
        let record = &self.record;
        ImageDescription {
            key: self.key,
            format: record.format,
            size: record.size,
            frame: record.frame,
            frames: record.frames,
            window: record.window,
            window_source: record.window_source,
            spacing_mm: record.spacing_mm,
        }
    }
}

impl Inner {
    /// Finds out which image is meant, decoding it if it was never seen.
    pub(super) async fn resolve(
        self: &Arc<Self>,
        request: ImageRequest,
        timings: &mut Timings,
    ) -> Result<Resolved, ServiceError> {
        let started = Instant::now();
        let resolved = match self.at_hand(&request)? {
            Some(resolved) => Ok(resolved),
            None => {
                let inner = Arc::clone(self);
                blocking(move || inner.resolve_blocking(&request)).await?
            }
        };
        timings.decode = Some(started.elapsed());
        resolved
    }

    /// The same for a DICOM file sent in this request, and what a Segmentation takes over from it:
    /// read from these bytes whatever was seen before, since equal pixels may be another person's.
    pub(super) async fn resolve_with_source(
        self: &Arc<Self>,
        request: ImageRequest,
        timings: &mut Timings,
    ) -> Result<(Resolved, SegmentationSource), ServiceError> {
        let started = Instant::now();
        let inner = Arc::clone(self);
        let resolved = blocking(move || {
            let ImageSource::Bytes(bytes) = &request.source else {
                return Err(ServiceError::NotDicom);
            };
            let era = inner.store.era();
            let decoded = inner.decoder.decode_with_source(bytes, request.frame);
            let (slice, source) = decoded.map_err(decode_error)?;
            let source = source.ok_or(ServiceError::NotDicom)?;
            let alias = keys::alias(bytes, request.frame);
            Ok((inner.decoded(era, &slice, alias, &request)?, source))
        })
        .await?;
        timings.decode = Some(started.elapsed());
        resolved
    }

    /// What memory knows of the image, on the caller's own thread: changing to another and back costs
    /// more than all the rest of a hit.
    fn at_hand(&self, request: &ImageRequest) -> Result<Option<Resolved>, ServiceError> {
        match &request.source {
            ImageSource::Known(key) => self.known(*key, request, Reach::Memory),
            ImageSource::Bytes(bytes) if bytes.len() <= SUMMED_AT_ONCE_BYTES => {
                let alias = keys::alias(bytes, request.frame);
                self.seen(bytes, alias, request, Reach::Memory)
            }
            ImageSource::Bytes(_) | ImageSource::Inbox(_) => Ok(None),
        }
    }

    fn resolve_blocking(&self, request: &ImageRequest) -> Result<Resolved, ServiceError> {
        let era = self.store.era();
        let bytes = match &request.source {
            ImageSource::Known(key) => {
                let known = self.known(*key, request, Reach::Disk)?;
                return known.ok_or(ServiceError::UnknownImage);
            }
            ImageSource::Inbox(name) => Bytes::from(self.inbox.read(name)?),
            ImageSource::Bytes(bytes) => bytes.clone(),
        };
        let alias = keys::alias(&bytes, request.frame);
        if let Some(seen) = self.seen(&bytes, alias, request, Reach::Disk)? {
            return Ok(seen);
        }
        let slice = self.decode(&bytes, request.frame)?;
        self.decoded(era, &slice, alias, request)
    }

    /// Bytes that were decoded before.
    fn seen(
        &self,
        bytes: &Bytes,
        alias: AliasKey,
        request: &ImageRequest,
        reach: Reach,
    ) -> Result<Option<Resolved>, ServiceError> {
        let era = self.store.era();
        let Some(SliceRecord { content, info }) = self.store.slice(alias, reach) else {
            return Ok(None);
        };
        let (rendering, source) = window::resolve(&info, request.window, request.image_type)
            .map_err(|error| ServiceError::Invalid(error.to_string()))?;
        let key = keys::image(content, &info, &rendering);
        Ok(self.store.image(key, reach).map(|known| Resolved {
            key,
            record: Arc::new(ImageRecord { window_source: source_of(source), ..known }),
            pixels: Pixels::Bytes(bytes.clone(), request.frame, rendering),
            era,
        }))
    }

    /// A slice just decoded: rendered, described, remembered.
    fn decoded(
        &self,
        era: Era,
        slice: &Slice,
        alias: AliasKey,
        request: &ImageRequest,
    ) -> Result<Resolved, ServiceError> {
        let info = slice.info().clone();
        let (rendering, source) = window::resolve(&info, request.window, request.image_type)
            .map_err(|error| ServiceError::Invalid(error.to_string()))?;
        let content = keys::content(slice);
        let key = keys::image(content, &info, &rendering);
        let levels = window::render(slice, &rendering);
        let record = ImageRecord {
            format: info.format,
            size: info.size,
            frame: info.frame,
            frames: info.frames,
            window: window_of(&rendering),
            window_source: source_of(source),
            spacing_mm: info.spacing_mm,
            body: body::body_mask(&levels, info.size)
                .map_or_else(BodyGrid::nothing, |body| body_grid(&body)),
        };
        self.store.put_slice(era, alias, SliceRecord { content, info });
        self.store.put_image(era, key, record.clone());
        Ok(Resolved {
            key,
            record: Arc::new(record),
            pixels: Pixels::Levels(Arc::new(levels)),
            era,
        })
    }

    /// An `image:` reference: it names frame and window already, so neither may differ.
    fn known(
        &self,
        key: ImageKey,
        request: &ImageRequest,
        reach: Reach,
    ) -> Result<Option<Resolved>, ServiceError> {
        let era = self.store.era();
        let Some(record) = self.store.image(key, reach) else { return Ok(None) };
        if request.frame.is_some() {
            let text = "frame: an image: reference names its frame already; leave frame out";
            return Err(ServiceError::Invalid(text.into()));
        }
        let differs = |asked: Window| {
            record.window.is_none_or(|own| own.center != asked.center || own.width != asked.width)
        };
        if request.window.is_some_and(differs) {
            let text = "window: an image: reference names its window already; send the image once \
                        more to see it under another";
            return Err(ServiceError::Invalid(text.into()));
        }
        Ok(Some(Resolved { key, record: Arc::new(record), pixels: Pixels::Gone, era }))
    }

    /// Decodes in a child process; blocking.
    pub(super) fn decode(&self, bytes: &[u8], frame: Option<u32>) -> Result<Slice, ServiceError> {
        self.decoder.decode(bytes, frame).map_err(decode_error)
    }

    /// Grey levels to encode from; blocking. `UnknownImage` when the pixels are gone.
    pub(super) fn levels(&self, pixels: Pixels) -> Result<Arc<Levels>, ServiceError> {
        match pixels {
            Pixels::Levels(levels) => Ok(levels),
            Pixels::Bytes(bytes, frame, rendering) => {
                let slice = self.decode(&bytes, frame)?;
                Ok(Arc::new(window::render(&slice, &rendering)))
            }
            Pixels::Gone => Err(ServiceError::UnknownImage),
        }
    }
}

/// Runs blocking work off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServiceError> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| ServiceError::Internal(Arc::new(error)))
}

fn source_of(source: window::Source) -> WindowSource {
    match source {
        window::Source::Request => WindowSource::Request,
        window::Source::Context => WindowSource::Context,
        window::Source::File => WindowSource::File,
        window::Source::FileLut => WindowSource::FileLut,
        window::Source::MinMax => WindowSource::MinMax,
        window::Source::AsIs => WindowSource::None,
    }
}

/// The window that the answer names; a LUT has none, and minimum to maximum is one.
fn window_of(rendering: &Rendering) -> Option<Window> {
    match rendering {
        Rendering::Window(window) => Some(*window),
        Rendering::MinMax { min, max } => {
            let (min, max) = (f64::from(*min), f64::from(*max));
            let function = WindowFunction::LinearExact;
            Some(Window { center: f64::midpoint(min, max), width: max - min, function })
        }
        Rendering::AsIs | Rendering::Lut(_) => None,
    }
}

fn decode_error(error: DecodeError) -> ServiceError {
    match error {
        DecodeError::UnsupportedFormat => ServiceError::UnsupportedFormat,
        DecodeError::Unreadable(what) => ServiceError::Unreadable(what),
        DecodeError::UnsupportedTransferSyntax { uid, name } => {
            ServiceError::UnsupportedTransferSyntax { uid, name }
        }
        DecodeError::FrameRequired { frames } => ServiceError::FrameRequired { frames },
        DecodeError::FrameOutOfRange { frame, frames } => {
            ServiceError::FrameOutOfRange { frame, frames }
        }
        DecodeError::TooLarge(what) => ServiceError::TooLarge(what),
        error @ DecodeError::Unavailable(_) => ServiceError::DecoderUnavailable(Arc::new(error)),
    }
}

/// Cells in which at least half of the pixels are body (a cell of a tiny image is one pixel).
fn body_grid(body: &Mask) -> BodyGrid {
    let (size, pixels) = (body.size(), body.pixels());
    let (width, height) = (size.width as usize, size.height as usize);
    // Cell `index` of an axis covers these pixels; at least one, also where cells are finer.
    let span = |index: usize, extent: usize| {
        let low = index * extent / BodyGrid::SIDE;
        low..((index + 1) * extent).div_ceil(BodyGrid::SIDE).max(low + 1)
    };
    let marked = |rows: Range<usize>, columns: &Range<usize>| -> usize {
        rows.filter_map(|y| pixels.get(y * width..)?.get(columns.clone()))
            .map(|row| row.iter().filter(|pixel| **pixel != 0).count())
            .sum()
    };
    let mut cells = Vec::with_capacity(BodyGrid::SIDE * BodyGrid::SIDE);
    for row in 0..BodyGrid::SIDE {
        for column in 0..BodyGrid::SIDE {
            let (rows, columns) = (span(row, height), span(column, width));
            let half = (rows.len() * columns.len()).div_ceil(2);
            cells.push(marked(rows, &columns) >= half);
        }
    }
    BodyGrid::new(cells).unwrap_or_else(BodyGrid::nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::slice::Size;

    #[test]
    fn a_cell_is_body_from_half_of_its_pixels_on() {
        let size = Size { width: 512, height: 512 };
        for (columns, expected) in [(3, false), (4, true), (5, true)] {
            let strip = |i: usize| if i % 512 < columns { 255 } else { 0 };
            let mask = Mask::new(size, (0..size.pixels()).map(strip).collect()).unwrap();
            let grid = body_grid(&mask);
            assert_eq!(grid.cells()[0], expected, "{columns} of 8 columns");
            assert!(!grid.cells()[1]);
        }
    }

    #[test]
    fn the_body_grid_is_right_for_large_small_and_odd_images() {
        for (width, height) in [(512, 512), (1, 200), (33, 65), (700, 3)] {
            let size = Size { width, height };
            let left = |i: usize| if i % (width as usize) < width as usize / 2 { 255 } else { 0 };
            let mask = Mask::new(size, (0..size.pixels()).map(left).collect()).unwrap();
            let grid = body_grid(&mask);
            let share =
                grid.cells().iter().filter(|c| **c).count() as f64 / grid.cells().len() as f64;
            let expected = f64::from(width / 2) / f64::from(width);
            assert!((share - expected).abs() < 0.05, "{width}×{height}: {share}");
        }
    }
}
