//! JPEG-LS, ISO/IEC 14495-1 (ITU-T T.87): lossless and near-lossless, 2 to 16 bits, all interleavings.
//!
//! Ours, in safe Rust: CharLS needs cmake and C++ and was seen to loop for ever on truncated data; no
//! pure-Rust crate of age exists. Checked against CharLS by way of pydicom's decoders.
//!
//! Refused by name: mapping tables, point transforms, restart intervals, sizes past 65,535, and HP's
//! colour transforms (an extension of one encoder).

mod bits;
mod scan;

use self::scan::{Coding, Interleave};

/// Why a codestream can't be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct JpegLsError(&'static str);

type Result<T> = std::result::Result<T, JpegLsError>;

const CUT_OFF: JpegLsError = JpegLsError("it is cut off");

/// A frame's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Bits of a sample.
    pub(super) precision: u8,
    /// Component ids.
    pub(super) components: Vec<u8>,
}

/// Thresholds and the like, where the codestream brings its own. Zero means the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Preset {
    max_value: i32,
    thresholds: [i32; 3],
    reset: i32,
}

/// The frame header alone.
///
/// # Errors
/// When there is none.
pub(super) fn header(data: &[u8]) -> Result<Header> {
    Reader::new(data)?.frame()
}

/// All samples, pixel by pixel.
///
/// # Errors
/// A damaged codestream, or one of a kind that is refused.
pub(super) fn decode(data: &[u8]) -> Result<(Header, Vec<u16>)> {
    let mut reader = Reader::new(data)?;
    let header = reader.frame()?;
    let count = header.components.len();
    let mut samples = vec![0u16; header.width * header.height * count];
    let mut done = vec![false; count];
    while done.contains(&false) {
        let scan = reader.scan()?;
        let mut places = Vec::with_capacity(scan.components.len());
        for id in &scan.components {
            let place = header.components.iter().position(|own| own == id);
            match place.and_then(|place| Some((place, done.get_mut(place)?))) {
                Some((place, done @ false)) => {
                    *done = true;
                    places.push(place);
                }
                _ => return Err(JpegLsError("a scan's components are unknown or come twice")),
            }
        }
        let coding = Coding::new(header.precision, scan.near, reader.preset)?;
        let rest = data.get(reader.position..).unwrap_or_default();
        let used = scan::read(
            coding,
            scan.interleave,
            rest,
            header.width,
            &mut |y, x, part, value| {
                let Some(&place) = places.get(part) else { return };
                if let Some(sample) = samples.get_mut((y * header.width + x) * count + place) {
                    *sample = value;
                }
            },
            (places.len(), header.height),
        )?;
        reader.position += used;
    }
    Ok((header, samples))
}

struct ScanHeader {
    components: Vec<u8>,
    near: i32,
    interleave: Interleave,
}

struct Reader<'a> {
    data: &'a [u8],
    position: usize,
    preset: Preset,
}

impl<'a> Reader<'a> {
    fn new(data: &'a [u8]) -> Result<Self> {
        if !data.starts_with(&[0xFF, 0xD8]) {
            return Err(JpegLsError("it does not begin with a codestream"));
        }
        Ok(Self { data, position: 2, preset: Preset::default() })
    }

    fn frame(&mut self) -> Result<Header> {
        loop {
            let (marker, body) = self.segment()?;
            match marker {
                0xF7 => return frame(body),
                0xC0..=0xCF => return Err(JpegLsError("it is JPEG, not JPEG-LS")),
                0xDA => return Err(JpegLsError("it has no frame header")),
                _ => self.other(marker, body)?,
            }
        }
    }

    fn scan(&mut self) -> Result<ScanHeader> {
        loop {
            let (marker, body) = self.segment()?;
            match marker {
                0xDA => return scan(body),
                0xF7 => return Err(JpegLsError("it has a second frame header")),
                _ => self.other(marker, body)?,
            }
        }
    }

    fn other(&mut self, marker: u8, body: &[u8]) -> Result<()> {
        match (marker, body) {
            (0xF8, [1, rest @ ..]) => {
                let (words, _) = rest.as_chunks::<2>();
                let mut words = words.iter().map(|&word| i32::from(u16::from_be_bytes(word)));
                let mut next = || words.next().ok_or(CUT_OFF);
                self.preset = Preset {
                    max_value: next()?,
                    thresholds: [next()?, next()?, next()?],
                    reset: next()?,
                };
                Ok(())
            }
            (0xF8, _) => Err(JpegLsError("mapping tables and oversize are not supported")),
            (0xDD, interval) if interval.iter().any(|&byte| byte != 0) => {
                Err(JpegLsError("restart intervals are not supported"))
            }
            (0xE8, [b'm', b'r', b'f', b'x', transform, ..]) if *transform != 0 => {
                Err(JpegLsError("HP's colour transforms are not supported"))
            }
            (0xD9, _) => Err(JpegLsError("a component is missing")),
            _ => Ok(()),
        }
    }

    /// The next marker and its body.
    fn segment(&mut self) -> Result<(u8, &'a [u8])> {
        let rest = self.data.get(self.position..).unwrap_or_default();
        let start = rest.windows(2).position(|pair| matches!(pair, [0xFF, 0x80..=0xFE]));
        let start = start.ok_or(CUT_OFF)?;
        let marker = rest.get(start + 1).copied().ok_or(CUT_OFF)?;
        self.position += start + 2;
        if matches!(marker, 0xD0..=0xD9) {
            return Ok((marker, &[]));
        }
        let rest = self.data.get(self.position..).unwrap_or_default();
        let (length, _) = rest.split_first_chunk::<2>().ok_or(CUT_OFF)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let body = rest.get(2..length).ok_or(CUT_OFF)?;
        self.position += length;
        Ok((marker, body))
    }
}

fn frame(body: &[u8]) -> Result<Header> {
    let [precision, y1, y0, x1, x0, count, fields @ ..] = body else { return Err(CUT_OFF) };
    let (fields, rest) = fields.as_chunks::<3>();
    if fields.len() != usize::from(*count) || !rest.is_empty() || !(1..=4).contains(count) {
        return Err(JpegLsError("its number of components is not supported"));
    }
    if fields.iter().any(|&[_, sampling, _]| sampling != 0x11) {
        return Err(JpegLsError("subsampled components are not supported"));
    }
    let width = usize::from(u16::from_be_bytes([*x1, *x0]));
    let height = usize::from(u16::from_be_bytes([*y1, *y0]));
    if width == 0 || height == 0 || !(2..=16).contains(precision) {
        return Err(JpegLsError("its size or precision is not supported"));
    }
    let components = fields.iter().map(|&[id, _, _]| id).collect();
    Ok(Header { width, height, precision: *precision, components })
}

fn scan(body: &[u8]) -> Result<ScanHeader> {
    let invalid = JpegLsError("a scan header is invalid");
    let [count, rest @ ..] = body else { return Err(invalid) };
    let Some((fields, [near, interleave, transform])) =
        rest.split_at_checked(2 * usize::from(*count))
    else {
        return Err(invalid);
    };
    let (fields, _) = fields.as_chunks::<2>();
    if fields.iter().any(|&[_, table]| table != 0) || transform & 15 != 0 {
        return Err(JpegLsError("mapping tables and point transforms are not supported"));
    }
    let interleave = match (interleave, fields.len()) {
        (_, 1) | (0, _) => Interleave::None,
        (1, _) => Interleave::Line,
        (2, _) => Interleave::Sample,
        _ => return Err(invalid),
    };
    if fields.is_empty() || interleave == Interleave::None && fields.len() != 1 {
        return Err(invalid);
    }
    let components = fields.iter().map(|&[id, _]| id).collect();
    Ok(ScanHeader { components, near: i32::from(*near), interleave })
}
