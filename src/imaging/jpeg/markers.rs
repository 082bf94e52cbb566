//! Marker segments: tables, frame and scan headers. ISO 10918-1 annex B.

use super::frame::Header;
use super::huffman::Huffman;
use super::{JpegError, Result};

/// Refinements make a progressive picture of some 10 scans; a codestream of thousands is an attack.
const MAX_SCANS: usize = 500;

/// Zig-zag index to row-major index.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Quantisation steps, row-major.
pub(super) type Quantisation = [u16; 64];

/// A scan's header.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    /// Component id, DC table, AC table.
    pub(super) components: Vec<(u8, usize, usize)>,
    /// Spectral selection; in lossless frames the first is the predictor.
    pub(super) start: usize,
    pub(super) end: usize,
    /// Successive approximation; in lossless frames the second is the point transform.
    pub(super) high: u32,
    pub(super) low: u32,
}

/// What a marker brought that concerns the caller; tables stay in the reader.
pub(super) enum Segment {
    Frame(Header),
    Scan(Scan),
    End,
    Other,
}

/// Reads segments and keeps the tables that are in force.
pub(super) struct Reader<'a> {
    data: &'a [u8],
    position: usize,
    jfif: bool,
    adobe_transform: Option<u8>,
    exif: Option<&'a [u8]>,
    scans: usize,
    pub(super) quantisation: [Option<Quantisation>; 4],
    pub(super) dc: [Option<Huffman>; 4],
    pub(super) ac: [Option<Huffman>; 4],
    pub(super) restart_interval: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(data: &'a [u8]) -> Result<Self> {
        if !data.starts_with(&[0xFF, 0xD8]) {
            return Err(JpegError::new("it does not begin with a codestream"));
        }
        Ok(Self {
            data,
            position: 2,
            jfif: false,
            adobe_transform: None,
            exif: None,
            scans: 0,
            quantisation: [None; 4],
            dc: [const { None }; 4],
            ac: [const { None }; 4],
            restart_interval: 0,
        })
    }

    /// Entropy-coded bytes after a scan's header.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.data.get(self.position..).unwrap_or_default()
    }

    /// Goes on after entropy-coded bytes.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.position += bytes;
    }

    /// The next marker segment.
    pub(super) fn next(&mut self) -> Result<Segment> {
        let marker = self.marker()?;
        if marker == 0xD9 {
            return Ok(Segment::End);
        }
        if matches!(marker, 0x01 | 0xD0..=0xD8) {
            return Ok(Segment::Other);
        }
        let body = self.body()?;
        match marker {
            0xC4 => self.huffman_tables(body)?,
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                let header = Header::read(marker, body)?;
                let (jfif, adobe_transform) = (self.jfif, self.adobe_transform);
                let exif = self.exif.map(<[u8]>::to_vec);
                return Ok(Segment::Frame(Header { jfif, adobe_transform, exif, ..header }));
            }
            0xDA => {
                self.scans += 1;
                if self.scans > MAX_SCANS {
                    return Err(JpegError::new("it has too many scans"));
                }
                return scan(body).map(Segment::Scan);
            }
            0xDB => self.quantisation_tables(body)?,
            0xDC => return Err(JpegError::new("a height after its pixels is not supported")),
            0xDD => {
                let interval = body.try_into().map_err(|_| JpegError::cut_off())?;
                self.restart_interval = usize::from(u16::from_be_bytes(interval));
            }
            0xE0 if body.starts_with(b"JFIF\0") => self.jfif = true,
            0xE1 if self.exif.is_none() => self.exif = body.strip_prefix(b"Exif\0\0"),
            0xEE if body.starts_with(b"Adobe") => self.adobe_transform = body.get(11).copied(),
            _ => {}
        }
        Ok(Segment::Other)
    }

    /// The next marker's code, past padding.
    fn marker(&mut self) -> Result<u8> {
        let rest = self.rest();
        let Some(start) = rest.windows(2).position(|pair| matches!(pair, [0xFF, 0x01..=0xFE]))
        else {
            return Err(JpegError::cut_off());
        };
        let code = rest.get(start + 1).copied().ok_or_else(JpegError::cut_off)?;
        self.position += start + 2;
        Ok(code)
    }

    fn body(&mut self) -> Result<&'a [u8]> {
        let rest = self.rest();
        let (length, _) = rest.split_first_chunk::<2>().ok_or_else(JpegError::cut_off)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let body = rest.get(2..length).ok_or_else(JpegError::cut_off)?;
        self.position += length;
        Ok(body)
    }

    fn quantisation_tables(&mut self, mut body: &[u8]) -> Result<()> {
        while let [kind, rest @ ..] = body {
            let mut table = [0; 64];
            let bytes = if kind >> 4 == 0 { 1 } else { 2 };
            let (steps, after) =
                rest.split_at_checked(64 * bytes).ok_or_else(JpegError::cut_off)?;
            for (step, &place) in steps.chunks_exact(bytes).zip(&ZIGZAG) {
                let step = step.iter().fold(0, |step, &byte| step << 8 | u16::from(byte));
                if let Some(entry) = table.get_mut(usize::from(place)) {
                    *entry = step;
                }
            }
            *self
                .quantisation
                .get_mut(usize::from(kind & 15))
                .ok_or_else(|| JpegError::new("a quantisation table has no place"))? = Some(table);
            body = after;
        }
        Ok(())
    }

    fn huffman_tables(&mut self, mut body: &[u8]) -> Result<()> {
        while let [kind, rest @ ..] = body {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or_else(JpegError::cut_off)?;
            let total: usize = counts.iter().copied().map(usize::from).sum();
            let (values, after) = rest.split_at_checked(total).ok_or_else(JpegError::cut_off)?;
            let tables = if kind >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *tables
                .get_mut(usize::from(kind & 15))
                .ok_or_else(|| JpegError::new("a Huffman table has no place"))? =
                Some(Huffman::new(counts, values)?);
            body = after;
        }
        Ok(())
    }
}

fn scan(body: &[u8]) -> Result<Scan> {
    let invalid = || JpegError::new("a scan header is invalid");
    let [count, rest @ ..] = body else { return Err(invalid()) };
    let (fields, tail) = rest.split_at_checked(2 * usize::from(*count)).ok_or_else(invalid)?;
    let [start, end, approximation] = tail else { return Err(invalid()) };
    let (fields, _) = fields.as_chunks::<2>();
    let components: Vec<(u8, usize, usize)> = fields
        .iter()
        .map(|&[id, tables]| (id, usize::from(tables >> 4), usize::from(tables & 15)))
        .collect();
    if components.is_empty() || components.len() > 4 {
        return Err(invalid());
    }
    Ok(Scan {
        components,
        start: usize::from(*start),
        end: usize::from(*end),
        high: u32::from(approximation >> 4),
        low: u32::from(approximation & 15),
    })
}
