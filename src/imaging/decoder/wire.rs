//! What parent and child say to each other: one message a packet, over a socket pair, little endian.
//!
//! ```text
//! parent → child   Setup                      limits
//! child  → parent  Ready | Refused            after the sandbox stands
//! parent → child   Request + sealed memfd     the file's bytes
//! child  → parent  Slice + sealed memfd       samples, the slice's description, and, where asked
//!                                             for, what a DICOM Segmentation takes over
//!                | Error                      why not
//! ```
//!
//! The parent believes nothing: every field of what the child says is checked here or in
//! [`super::worker`]. Words from the child are cut to printable ASCII before anyone sees them.

use super::sandbox::Bounds;
use crate::domain::identity::SegmentationSource;
use crate::domain::slice::{Format, Samples, Size, SliceInfo, Voi, VoiLut, Window, WindowFunction};
use crate::imaging::decode::{DecodeError, Limits};
use crate::imaging::{seg, window};
use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longer than any message here.
const PACKET_BYTES: usize = 1024;
/// Longest reason a child may give.
const REASON_BYTES: usize = 300;

/// Sends one message, with a file or without.
pub(super) fn send(
    socket: impl AsFd,
    message: &[u8],
    file: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("no room for a file descriptor"));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message and the file that came with it. An end of the other side is
/// [`io::ErrorKind::UnexpectedEof`].
pub(super) fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut buffer = vec![0; PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        match recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.truncate(received.bytes);
    let mut files = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => files.collect(),
        _ => Vec::new(),
    });
    Ok((buffer, files.next()))
}

/// The first message: how far the child may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) bounds: Bounds,
    pub(super) limits: Limits,
    pub(super) sandboxed: bool,
}

impl Setup {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = Out::default();
        out.u64(self.bounds.memory_bytes);
        out.u64(self.bounds.cpu_s);
        out.u64(self.bounds.answer_bytes);
        out.u64(self.limits.max_pixels);
        out.u64(self.limits.max_inflated_bytes);
        out.u32(self.limits.max_frames);
        out.u8(u8::from(self.sandboxed));
        out.0
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = In(bytes);
        let bounds =
            Bounds { memory_bytes: input.u64()?, cpu_s: input.u64()?, answer_bytes: input.u64()? };
        let max_pixels = input.u64()?;
        let max_inflated_bytes = input.u64()?;
        let max_frames = input.u32()?;
        let sandboxed = input.u8()? == 1;
        input.end()?;
        let limits = Limits { max_pixels, max_frames, max_inflated_bytes };
        Some(Self { bounds, limits, sandboxed })
    }
}

/// Which frame of how many bytes, and whether a Segmentation is wanted; the bytes come in a memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) length: u64,
    pub(super) frame: Option<u32>,
    pub(super) identity: bool,
}

impl Request {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = Out::default();
        out.u64(self.length);
        out.option(self.frame, Out::u32);
        out.u8(u8::from(self.identity));
        out.0
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = In(bytes);
        let length = input.u64()?;
        let frame = input.option(In::u32)?;
        let identity = input.flag()?;
        input.end()?;
        Some(Self { length, frame, identity })
    }
}

/// What the child says.
#[derive(Debug)]
pub(super) enum Reply {
    /// The sandbox stands (or none was asked for).
    Ready,
    /// The sandbox can't be had here.
    Refused(String),
    /// Samples, description and identity (0 bytes where there is none) are in the memfd, one after
    /// the other.
    Slice { samples: u64, info: u64, identity: u64 },
    /// The image can't be decoded.
    Error(DecodeError),
}

impl Reply {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Out::default();
        match self {
            Self::Ready => out.u8(0),
            Self::Refused(reason) => {
                out.u8(1);
                out.text(reason);
            }
            Self::Slice { samples, info, identity } => {
                out.u8(2);
                out.u64(*samples);
                out.u64(*info);
                out.u64(*identity);
            }
            Self::Error(error) => {
                out.u8(3);
                error_to(&mut out, error);
            }
        }
        out.0
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = In(bytes);
        let reply = match input.u8()? {
            0 => Self::Ready,
            1 => Self::Refused(input.text()?),
            2 => {
                let (samples, info, identity) = (input.u64()?, input.u64()?, input.u64()?);
                Self::Slice { samples, info, identity }
            }
            3 => Self::Error(error_from(&mut input)?),
            _ => return None,
        };
        input.end()?;
        Some(reply)
    }
}

fn error_to(out: &mut Out, error: &DecodeError) {
    match error {
        DecodeError::UnsupportedFormat => out.u8(0),
        DecodeError::Unreadable(reason) => {
            out.u8(1);
            out.text(reason);
        }
        DecodeError::UnsupportedTransferSyntax { uid, name } => {
            out.u8(2);
            out.text(uid);
            out.text(name);
        }
        DecodeError::FrameRequired { frames } => {
            out.u8(3);
            out.u32(*frames);
        }
        DecodeError::FrameOutOfRange { frame, frames } => {
            out.u8(4);
            out.u32(*frame);
            out.u32(*frames);
        }
        DecodeError::TooLarge(reason) => {
            out.u8(5);
            out.text(reason);
        }
        DecodeError::Unavailable(reason) => {
            out.u8(6);
            out.text(reason);
        }
    }
}

fn error_from(input: &mut In<'_>) -> Option<DecodeError> {
    Some(match input.u8()? {
        0 => DecodeError::UnsupportedFormat,
        1 => DecodeError::Unreadable(input.text()?),
        2 => DecodeError::UnsupportedTransferSyntax { uid: input.text()?, name: input.text()? },
        3 => DecodeError::FrameRequired { frames: input.u32().filter(|&frames| frames > 1)? },
        4 => {
            let (frame, frames) = (input.u32()?, input.u32()?);
            (frame >= frames && frames > 0).then_some(())?;
            DecodeError::FrameOutOfRange { frame, frames }
        }
        5 => DecodeError::TooLarge(input.text()?),
        6 => DecodeError::Unavailable(input.text()?),
        _ => return None,
    })
}

/// What a Segmentation takes over.
pub(super) fn source_to_bytes(source: &SegmentationSource) -> Vec<u8> {
    let mut out = Out::default();
    for (tag, value) in source.values() {
        out.0.extend_from_slice(&tag.0.to_le_bytes());
        out.0.extend_from_slice(&tag.1.to_le_bytes());
        out.u32(u32::try_from(value.len()).unwrap_or(0));
        out.0.extend_from_slice(value);
    }
    out.0
}

/// The same from a child that may lie: geometry is the slice's, and every value one that a
/// Segmentation may hold.
pub(super) fn source_from_bytes(bytes: &[u8], slice: &SliceInfo) -> Option<SegmentationSource> {
    let mut input = In(bytes);
    let mut values = Vec::new();
    while input.end().is_none() {
        let tag = (u16::from_le_bytes(input.array()?), u16::from_le_bytes(input.array()?));
        let length = input.u32()? as usize;
        let (value, rest) = input.0.split_at_checked(length)?;
        input.0 = rest;
        let known = values.iter().any(|(other, _)| *other == tag);
        let acceptable = seg::source::acceptable(seg::source::taken(tag)?, value)?;
        (!known && acceptable == value).then_some(())?;
        values.push((tag, acceptable));
    }
    Some(SegmentationSource::new(slice.size, slice.frame, slice.frames, values))
}

/// A slice's description and the type of its samples.
pub(super) fn info_to_bytes(info: &SliceInfo, samples: &Samples) -> Vec<u8> {
    let mut out = Out::default();
    out.u8(match samples {
        Samples::Grey8(_) => 0,
        Samples::Rgb8(_) => 1,
        Samples::Modality(_) => 2,
    });
    out.u32(info.size.width);
    out.u32(info.size.height);
    out.u8(match info.format {
        Format::Png => 0,
        Format::Jpeg => 1,
        Format::Dicom => 2,
    });
    out.u32(info.frame);
    out.u32(info.frames);
    out.u8(u8::from(info.is_ct));
    out.u8(u8::from(info.inverted));
    out.option(info.range, |out, (low, high)| {
        out.u32(low.to_bits());
        out.u32(high.to_bits());
    });
    out.option(info.spacing_mm, |out, (rows, columns)| {
        out.f64(rows);
        out.f64(columns);
    });
    match &info.voi {
        Voi::None => out.u8(0),
        Voi::Window(window) => {
            out.u8(1);
            out.f64(window.center);
            out.f64(window.width);
            out.u8(match window.function {
                WindowFunction::Linear => 0,
                WindowFunction::LinearExact => 1,
                WindowFunction::Sigmoid => 2,
            });
        }
        Voi::Lut(lut) => {
            out.u8(2);
            out.u32(lut.first.cast_unsigned());
            out.u8(lut.bits);
            out.u32(u32::try_from(lut.levels.len()).unwrap_or(0));
            lut.levels.iter().for_each(|level| out.0.extend_from_slice(&level.to_le_bytes()));
        }
    }
    out.0
}

/// The description and samples of a child that may lie: `None` for anything that can't be.
pub(super) fn info_from_bytes(bytes: &[u8], samples: Bytes) -> Option<(SliceInfo, Samples)> {
    let mut input = In(bytes);
    let samples = match input.u8()? {
        0 => Samples::Grey8(samples),
        1 => Samples::Rgb8(samples),
        2 => Samples::Modality(samples),
        _ => return None,
    };
    let size = Size { width: input.u32()?, height: input.u32()? };
    let format = match input.u8()? {
        0 => Format::Png,
        1 => Format::Jpeg,
        2 => Format::Dicom,
        _ => return None,
    };
    let (frame, frames) = (input.u32()?, input.u32()?);
    let (is_ct, inverted) = (input.flag()?, input.flag()?);
    let range = input.option(|input| {
        let (low, high) = (f32::from_bits(input.u32()?), f32::from_bits(input.u32()?));
        (low.is_finite() && high.is_finite() && low <= high).then_some((low, high))
    })?;
    let spacing_mm = input.option(|input| {
        let (rows, columns) = (input.f64()?, input.f64()?);
        let usable = |mm: f64| mm.is_finite() && mm > 0.0;
        (usable(rows) && usable(columns)).then_some((rows, columns))
    })?;
    let voi = match input.u8()? {
        0 => Voi::None,
        1 => {
            let (center, width) = (input.f64()?, input.f64()?);
            let function = match input.u8()? {
                0 => WindowFunction::Linear,
                1 => WindowFunction::LinearExact,
                2 => WindowFunction::Sigmoid,
                _ => return None,
            };
            let window = Window { center, width, function };
            Voi::Window(window::is_valid(&window).then_some(window)?)
        }
        2 => {
            let first = input.u32()?.cast_signed();
            let bits = input.u8().filter(|bits| (8..=16).contains(bits))?;
            let count = input.u32().filter(|count| (1..=65_536).contains(count))?;
            let levels = (0..count).map(|_| input.array().map(u16::from_le_bytes));
            Voi::Lut(VoiLut { first, bits, levels: levels.collect::<Option<_>>()? })
        }
        _ => return None,
    };
    input.end()?;
    let modality = matches!(samples, Samples::Modality(_));
    if frame >= frames || range.is_some() != modality {
        return None;
    }
    let info = SliceInfo { size, format, frame, frames, is_ct, inverted, voi, range, spacing_mm };
    Some((info, samples))
}

/// Writes fields one after the other.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn text(&mut self, text: &str) {
        let text: String = text.chars().take(REASON_BYTES).map(printable).collect();
        self.u32(u32::try_from(text.len()).unwrap_or(0));
        self.0.extend_from_slice(text.as_bytes());
    }
}

/// Reads fields one after the other; `None` when there is nothing left.
struct In<'a>(&'a [u8]);

impl In<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        self.u8().filter(|&flag| flag <= 1).map(|flag| flag == 1)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn f64(&mut self) -> Option<f64> {
        self.u64().map(f64::from_bits)
    }

    /// `None` for a broken field, `Some(None)` for an absent one.
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Some(None) }
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32().map(|length| length as usize).filter(|&l| l <= 2 * REASON_BYTES)?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(str::from_utf8(text).ok()?.chars().map(printable).collect())
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Reasons are ours, in ASCII and `×`; whatever else a child says becomes `?`.
fn printable(c: char) -> char {
    if c == '×' || c == ' ' || c.is_ascii_graphic() { c } else { '?' }
}

#[cfg(test)]
mod tests;
