//! Reads a DICOM data set without believing it: every declared length is held against the bytes
//! that are there before anything is made of it, and values are slices of the input, never copies.
//!
//! Why not dicom-object: it allocates and zero-fills a declared length before it reads (a 4 kB file
//! asks for 4 GB and the process aborts), so each file would need this walk first anyway; and two
//! readers that may disagree about one file are a hole of their own.
//!
//! Invariants:
//! 1. Nothing is allocated by a declared length; memory is bounded by the number of elements.
//! 2. Nesting ends at [`MAX_DEPTH`], elements at [`MAX_ELEMENTS`].
//! 3. Reading stops at the top level's pixel data: what follows can't change the picture.
//! 4. Of nested sequences only those in [`KEPT_SEQUENCES`] are kept; the others are walked past.
//!
//! It does not know what attributes mean; [`super::header`] does.

use crate::imaging::decode::DecodeError;
use dicom_core::Tag;

const MAX_DEPTH: usize = 16;
/// An enhanced multi-frame of 10,000 frames has some 50 elements a frame.
const MAX_ELEMENTS: usize = 1_000_000;
const UNDEFINED: u32 = u32::MAX;
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_DELIMITER: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_DELIMITER: Tag = Tag(0xFFFE, 0xE0DD);
pub(super) const PIXEL_DATA: Tag = Tag(0x7FE0, 0x0010);
const FLOAT_PIXEL_DATA: Tag = Tag(0x7FE0, 0x0008);
const DOUBLE_FLOAT_PIXEL_DATA: Tag = Tag(0x7FE0, 0x0009);

/// Sequences whose items matter to a picture, or to where it lies.
const KEPT_SEQUENCES: [Tag; 9] = [
    Tag(0x0020, 0x9113), // Plane Position
    Tag(0x0020, 0x9116), // Plane Orientation
    Tag(0x0028, 0x3000), // Modality LUT
    Tag(0x0028, 0x3010), // VOI LUT
    Tag(0x0028, 0x9110), // Pixel Measures
    Tag(0x0028, 0x9132), // Frame VOI LUT
    Tag(0x0028, 0x9145), // Pixel Value Transformation
    Tag(0x5200, 0x9229), // Shared Functional Groups
    Tag(0x5200, 0x9230), // Per-Frame Functional Groups
];

/// How the bytes of a data set are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    pub(super) implicit_vr: bool,
    pub(super) big_endian: bool,
}

const META: Encoding = Encoding { implicit_vr: false, big_endian: false };
/// PS3.5 6.2.2: a sequence of unknown VR is always coded so.
const UNKNOWN_VR: Encoding = Encoding { implicit_vr: true, big_endian: false };

/// Elements in the order of the file.
#[derive(Debug)]
pub(super) struct DataSet<'a> {
    elements: Vec<Element<'a>>,
    encoding: Encoding,
}

#[derive(Debug)]
pub(super) struct Element<'a> {
    tag: Tag,
    /// As in the file; two spaces where VR is implicit.
    vr: [u8; 2],
    value: Value<'a>,
}

#[derive(Debug)]
enum Value<'a> {
    Bytes(&'a [u8]),
    Items(Vec<DataSet<'a>>),
    Fragments(Vec<&'a [u8]>),
}

/// The pixels as the file has them.
#[derive(Debug)]
pub(super) enum PixelData<'a> {
    /// Integers, one value for all frames.
    Native(&'a [u8]),
    /// f32, one value for all frames.
    Float(&'a [u8]),
    /// f64, one value for all frames.
    Double(&'a [u8]),
    /// Offset table and fragments.
    Fragments { offsets: &'a [u8], fragments: &'a [&'a [u8]] },
}

/// The file meta information: its transfer syntax and where the data set begins.
pub(super) fn read_meta(file: &[u8]) -> Result<(String, usize), DecodeError> {
    const START: usize = 132;
    let mut walker = Walker { bytes: file, elements: 0 };
    let mut position = START;
    let mut syntax = None;
    // Group length is not believed: the group ends where another one begins.
    while walker.u16(position, META).is_ok_and(|group| group == 2) {
        let head = walker.head(position, META)?;
        let value = walker.value(&head, file.len())?;
        if head.tag == Tag(0x0002, 0x0010) {
            syntax = Some(text_of(value).to_owned());
        }
        position = head.start + value.len();
    }
    match syntax {
        Some(uid) if !uid.is_empty() => Ok((uid, position)),
        _ => Err(DecodeError::unreadable("the DICOM file names no transfer syntax")),
    }
}

impl<'a> DataSet<'a> {
    /// Reads up to and with the pixel data.
    pub(super) fn read(bytes: &'a [u8], encoding: Encoding) -> Result<Self, DecodeError> {
        let encoding = actual(bytes, encoding);
        let mut walker = Walker { bytes, elements: 0 };
        let extent = Extent { end: bytes.len(), delimited: false };
        let (set, _) = walker.set(0, extent, encoding, 0, true)?;
        Ok(set)
    }

    /// The last element of that tag: as pydicom, a repetition overwrites.
    fn element(&self, tag: Tag) -> Option<&Element<'a>> {
        self.elements.iter().rev().find(|element| element.tag == tag)
    }

    /// The value's bytes, unless it is empty.
    pub(super) fn bytes(&self, tag: Tag) -> Option<&'a [u8]> {
        match self.element(tag)?.value {
            Value::Bytes(bytes) if !bytes.is_empty() => Some(bytes),
            _ => None,
        }
    }

    /// The value's representation, where the file says so.
    pub(super) fn vr(&self, tag: Tag) -> Option<[u8; 2]> {
        self.element(tag).map(|element| element.vr).filter(|vr| vr != b"  ")
    }

    /// Items of a kept sequence.
    pub(super) fn items(&self, tag: Tag) -> &[DataSet<'a>] {
        match self.element(tag).map(|element| &element.value) {
            Some(Value::Items(items)) => items,
            _ => &[],
        }
    }

    /// The first value as text, trimmed.
    pub(super) fn text(&self, tag: Tag) -> Option<&'a str> {
        let text = text_of(self.bytes(tag)?);
        let first = text.split('\\').next().unwrap_or_default().trim();
        (!first.is_empty()).then_some(first)
    }

    /// Decimal or integer strings, up to the first that is neither.
    pub(super) fn reals(&self, tag: Tag) -> Vec<f64> {
        let text = self.bytes(tag).map(text_of).unwrap_or_default();
        text.split('\\').map_while(|part| part.trim().parse().ok()).collect()
    }

    /// The first value of an unsigned short.
    pub(super) fn unsigned(&self, tag: Tag) -> Option<u16> {
        self.unsigned_all(tag).next()
    }

    /// All values of an unsigned short.
    pub(super) fn unsigned_all(&self, tag: Tag) -> impl Iterator<Item = u16> + use<'a> {
        let big_endian = self.encoding.big_endian;
        let bytes = self.bytes(tag).unwrap_or_default();
        let (pairs, _) = bytes.as_chunks::<2>();
        pairs.iter().map(move |&pair| {
            if big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
        })
    }

    /// Are the pixels words in big-endian order, whatever a sample's size? PS3.5 8.1.1.
    pub(super) fn has_swapped_words(&self) -> bool {
        self.encoding.big_endian && self.vr(PIXEL_DATA) == Some(*b"OW")
    }

    /// The pixels; `None` when the data set has none.
    pub(super) fn pixel_data(&self) -> Option<PixelData<'_>> {
        let element = self.elements.last()?;
        match (element.tag, &element.value) {
            (PIXEL_DATA, Value::Bytes(bytes)) => Some(PixelData::Native(bytes)),
            (FLOAT_PIXEL_DATA, Value::Bytes(bytes)) => Some(PixelData::Float(bytes)),
            (DOUBLE_FLOAT_PIXEL_DATA, Value::Bytes(bytes)) => Some(PixelData::Double(bytes)),
            (PIXEL_DATA, Value::Fragments(parts)) => {
                let (offsets, fragments) = parts.split_first()?;
                Some(PixelData::Fragments { offsets, fragments })
            }
            _ => None,
        }
    }
}

/// Some writers say explicit VR and write implicit, or the other way round. The first element tells:
/// two capitals stand where a VR would, or they don't (a length of 16,705 bytes and more would look
/// like one, and no data set begins with such an element). pydicom does the same.
fn actual(bytes: &[u8], encoding: Encoding) -> Encoding {
    let has_vr = bytes.get(4..6).is_none_or(|vr| vr.iter().all(u8::is_ascii_uppercase));
    Encoding { implicit_vr: !has_vr, ..encoding }
}

/// Text without the padding that makes its length even; empty where it is not ASCII.
fn text_of(bytes: &[u8]) -> &str {
    let text = str::from_utf8(bytes).ok().filter(|text| text.is_ascii()).unwrap_or_default();
    text.trim_matches(['\0', ' '])
}

/// One element's header.
struct Head {
    tag: Tag,
    vr: [u8; 2],
    length: u32,
    /// Where the value begins.
    start: usize,
}

/// How far a run of elements or items reaches.
#[derive(Clone, Copy)]
struct Extent {
    end: usize,
    /// It ends at a delimiter, not at `end`.
    delimited: bool,
}

struct Walker<'a> {
    bytes: &'a [u8],
    elements: usize,
}

impl<'a> Walker<'a> {
    /// A run of elements; where it ended. `top`: stop at pixel data, forgive a torn last header.
    fn set(
        &mut self,
        mut position: usize,
        extent: Extent,
        encoding: Encoding,
        depth: usize,
        top: bool,
    ) -> Result<(DataSet<'a>, usize), DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::unreadable("its sequences are nested too deeply"));
        }
        let mut elements = Vec::new();
        while position < extent.end {
            if top && extent.end - position < 8 {
                break;
            }
            let head = self.head(position, encoding)?;
            if head.tag == ITEM_DELIMITER {
                if !extent.delimited {
                    return Err(DecodeError::unreadable("a stray item delimiter"));
                }
                return Ok((DataSet { elements, encoding }, head.start));
            }
            let (value, after) = self.element_value(&head, extent.end, encoding, depth)?;
            position = after;
            let is_pixels =
                matches!(head.tag, PIXEL_DATA | FLOAT_PIXEL_DATA | DOUBLE_FLOAT_PIXEL_DATA);
            if let Some(value) = value {
                elements.push(Element { tag: head.tag, vr: head.vr, value });
            }
            if top && is_pixels {
                return Ok((DataSet { elements, encoding }, position));
            }
        }
        if extent.delimited {
            return Err(DecodeError::unreadable("an item that never ends"));
        }
        Ok((DataSet { elements, encoding }, position))
    }

    /// A value and where it ends; no value for a sequence that isn't kept.
    fn element_value(
        &mut self,
        head: &Head,
        end: usize,
        encoding: Encoding,
        depth: usize,
    ) -> Result<(Option<Value<'a>>, usize), DecodeError> {
        let kept = KEPT_SEQUENCES.contains(&head.tag);
        let inner = if &head.vr == b"UN" { UNKNOWN_VR } else { encoding };
        if head.length == UNDEFINED {
            let extent = Extent { end, delimited: true };
            if head.tag == PIXEL_DATA {
                let (fragments, after) = self.fragments(head.start, end)?;
                return Ok((Some(Value::Fragments(fragments)), after));
            }
            if !matches!(&head.vr, b"SQ" | b"UN" | b"  ") {
                return Err(DecodeError::unreadable(format!(
                    "element {} has no length",
                    shown(head.tag)
                )));
            }
            let (items, after) = self.items(head.start, extent, inner, depth + 1, kept)?;
            return Ok((kept.then_some(Value::Items(items)), after));
        }
        let value = self.value(head, end)?;
        let after = head.start + value.len();
        if kept {
            let extent = Extent { end: after, delimited: false };
            let (items, _) = self.items(head.start, extent, inner, depth + 1, true)?;
            return Ok((Some(Value::Items(items)), after));
        }
        Ok(((&head.vr != b"SQ").then_some(Value::Bytes(value)), after))
    }

    fn items(
        &mut self,
        mut position: usize,
        extent: Extent,
        encoding: Encoding,
        depth: usize,
        kept: bool,
    ) -> Result<(Vec<DataSet<'a>>, usize), DecodeError> {
        let mut items = Vec::new();
        while position < extent.end {
            let (tag, length) = self.item_head(position, encoding)?;
            let start = position + 8;
            if tag == SEQUENCE_DELIMITER && extent.delimited {
                return Ok((items, start));
            }
            if tag != ITEM {
                return Err(DecodeError::unreadable(format!("{} is no item", shown(tag))));
            }
            let item = if length == UNDEFINED {
                Extent { end: extent.end, delimited: true }
            } else {
                Extent { end: self.reach(tag, start, length, extent.end)?, delimited: false }
            };
            if kept || item.delimited {
                let (set, after) = self.set(start, item, encoding, depth, false)?;
                position = after;
                if kept {
                    items.push(set);
                }
            } else {
                position = item.end;
            }
        }
        if extent.delimited {
            return Err(DecodeError::unreadable("a sequence that never ends"));
        }
        Ok((items, position))
    }

    /// Fragments of encapsulated pixel data, the offset table first.
    fn fragments(
        &mut self,
        mut position: usize,
        end: usize,
    ) -> Result<(Vec<&'a [u8]>, usize), DecodeError> {
        let mut fragments = Vec::new();
        while position < end {
            let (tag, length) = self.item_head(position, META)?;
            let start = position + 8;
            if tag == SEQUENCE_DELIMITER {
                return Ok((fragments, start));
            }
            if tag != ITEM || length == UNDEFINED {
                return Err(DecodeError::unreadable(format!("{} is no fragment", shown(tag))));
            }
            position = self.reach(tag, start, length, end)?;
            fragments.push(self.bytes.get(start..position).unwrap_or_default());
        }
        Err(DecodeError::unreadable("its pixel data never ends: the file is cut off"))
    }

    fn head(&mut self, position: usize, encoding: Encoding) -> Result<Head, DecodeError> {
        self.count()?;
        let tag = self.tag(position, encoding)?;
        if tag.0 == 0xFFFE || encoding.implicit_vr {
            let length = self.u32(position + 4, encoding)?;
            return Ok(Head { tag, vr: *b"  ", length, start: position + 8 });
        }
        let vr: [u8; 2] = self.array(position + 4)?;
        match &vr {
            b"AE" | b"AS" | b"AT" | b"CS" | b"DA" | b"DS" | b"DT" | b"FL" | b"FD" | b"IS"
            | b"LO" | b"LT" | b"PN" | b"SH" | b"SL" | b"SS" | b"ST" | b"TM" | b"UI" | b"UL"
            | b"US" => {
                let length = u32::from(self.u16(position + 6, encoding)?);
                Ok(Head { tag, vr, length, start: position + 8 })
            }
            _ if vr.iter().all(u8::is_ascii_uppercase) => {
                let length = self.u32(position + 8, encoding)?;
                Ok(Head { tag, vr, length, start: position + 12 })
            }
            _ => Err(DecodeError::unreadable(format!("element {} has no valid VR", shown(tag)))),
        }
    }

    fn item_head(
        &mut self,
        position: usize,
        encoding: Encoding,
    ) -> Result<(Tag, u32), DecodeError> {
        self.count()?;
        Ok((self.tag(position, encoding)?, self.u32(position + 4, encoding)?))
    }

    fn count(&mut self) -> Result<(), DecodeError> {
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(DecodeError::unreadable("it has too many elements"));
        }
        Ok(())
    }

    /// A value of defined length, if it is all there.
    fn value(&self, head: &Head, end: usize) -> Result<&'a [u8], DecodeError> {
        let after = self.reach(head.tag, head.start, head.length, end)?;
        Ok(self.bytes.get(head.start..after).unwrap_or_default())
    }

    /// Where a value ends, unless that is past its parent's end.
    fn reach(&self, tag: Tag, start: usize, length: u32, end: usize) -> Result<usize, DecodeError> {
        let left = end.saturating_sub(start);
        match usize::try_from(length) {
            Ok(length) if length <= left => Ok(start + length),
            _ => Err(DecodeError::unreadable(format!(
                "element {} declares {length} bytes where {left} are left: the file is cut off or damaged",
                shown(tag)
            ))),
        }
    }

    fn tag(&self, position: usize, encoding: Encoding) -> Result<Tag, DecodeError> {
        Ok(Tag(self.u16(position, encoding)?, self.u16(position + 2, encoding)?))
    }

    fn u16(&self, position: usize, encoding: Encoding) -> Result<u16, DecodeError> {
        let bytes = self.array(position)?;
        Ok(if encoding.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&self, position: usize, encoding: Encoding) -> Result<u32, DecodeError> {
        let bytes = self.array(position)?;
        Ok(if encoding.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn array<const N: usize>(&self, position: usize) -> Result<[u8; N], DecodeError> {
        let bytes = self.bytes.get(position..position.saturating_add(N));
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| DecodeError::unreadable("the file is cut off"))
    }
}

fn shown(tag: Tag) -> String {
    format!("({:04X},{:04X})", tag.0, tag.1)
}
