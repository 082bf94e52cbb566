//! What a data set says of its pixels, checked and refused by name where it can't be shown rightly.
//! PS3.3 C.7.6.3 (image pixel) and C.7.6.16 (functional groups of enhanced multi-frame).

use super::dataset::DataSet;
use crate::imaging::decode::{DecodeError, Limits};
use dicom_core::Tag;

/// How samples mean colour; PS3.3 C.7.6.3.1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::imaging) enum Photometric {
    Monochrome1,
    Monochrome2,
    Palette,
    Rgb,
    YbrFull,
    YbrFull422,
    /// JPEG 2000's own transforms: the codec undoes them and gives RGB.
    YbrCodec,
}

/// Every interpretation that is shown: as in the file, as here, and how many samples it has.
pub(in crate::imaging) const PHOTOMETRIC: [(&str, Photometric, u32); 8] = [
    ("MONOCHROME1", Photometric::Monochrome1, 1),
    ("MONOCHROME2", Photometric::Monochrome2, 1),
    ("PALETTE COLOR", Photometric::Palette, 1),
    ("RGB", Photometric::Rgb, 3),
    ("YBR_FULL", Photometric::YbrFull, 3),
    ("YBR_FULL_422", Photometric::YbrFull422, 3),
    ("YBR_ICT", Photometric::YbrCodec, 3),
    ("YBR_RCT", Photometric::YbrCodec, 3),
];

/// Geometry and layout of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) columns: u32,
    pub(super) rows: u32,
    pub(super) frames: u32,
    /// 1 or 3.
    pub(super) samples: u32,
    /// Native colour is stored plane by plane.
    pub(super) planar: bool,
    pub(super) photometric: Photometric,
    /// 1, 8, 16, 32 (integers), 32 or 64 (floats).
    pub(super) allocated: u32,
    /// 1..=allocated; the lowest bits of what is allocated.
    pub(super) stored: u32,
    pub(super) signed: bool,
}

impl Header {
    pub(super) fn pixels(&self) -> usize {
        self.columns as usize * self.rows as usize
    }

    /// # Errors
    /// Missing or contradictory attributes, kinds that aren't decoded, sizes past the limits.
    pub(super) fn read(set: &DataSet<'_>, limits: &Limits) -> Result<Self, DecodeError> {
        let need = |group, element, name: &str| {
            set.unsigned(Tag(group, element))
                .map(u32::from)
                .ok_or_else(|| DecodeError::unreadable(format!("the DICOM file has no {name}")))
        };
        let rows = need(0x0028, 0x0010, "Rows")?;
        let columns = need(0x0028, 0x0011, "Columns")?;
        limits.check(u64::from(columns), u64::from(rows))?;
        let allocated = need(0x0028, 0x0100, "Bits Allocated")?;
        let or = |element, default| set.unsigned(Tag(0x0028, element)).map_or(default, u32::from);
        let samples = or(0x0002, 1);
        let stored = or(0x0101, allocated);
        let photometric = photometric(set.text(Tag(0x0028, 0x0004)), samples)?;
        if !matches!(allocated, 1 | 8 | 16 | 32 | 64) || stored == 0 || stored > allocated {
            return Err(DecodeError::unreadable(format!(
                "{stored} bits stored in {allocated} allocated are not supported"
            )));
        }
        let high_bit = or(0x0102, stored - 1);
        if high_bit != stored - 1 {
            return Err(DecodeError::unreadable(format!(
                "its high bit is {high_bit} where {stored} bits are stored; only {} is supported",
                stored - 1
            )));
        }
        Ok(Self {
            columns,
            rows,
            frames: frames(set, limits)?,
            samples,
            planar: samples == 3 && or(0x0006, 0) == 1,
            photometric,
            allocated,
            stored,
            signed: or(0x0103, 0) == 1,
        })
    }
}

fn photometric(name: Option<&str>, samples: u32) -> Result<Photometric, DecodeError> {
    let name = name.unwrap_or("");
    match PHOTOMETRIC.iter().find(|(known, ..)| *known == name) {
        Some((_, photometric, expected)) if *expected == samples => Ok(*photometric),
        Some(_) => Err(DecodeError::unreadable(format!(
            "{samples} samples per pixel contradict photometric interpretation {name}"
        ))),
        None => Err(DecodeError::unreadable(match name {
            // The names of PS3.3; anything else is not echoed.
            "YBR_PARTIAL_422" | "YBR_PARTIAL_420" | "HSV" | "ARGB" | "CMYK" => {
                format!("photometric interpretation {name} is not supported")
            }
            "" => "the DICOM file has no Photometric Interpretation".to_owned(),
            _ => "its photometric interpretation is not supported".to_owned(),
        })),
    }
}

fn frames(set: &DataSet<'_>, limits: &Limits) -> Result<u32, DecodeError> {
    let Some(text) = set.text(Tag(0x0028, 0x0008)) else { return Ok(1) };
    let frames: i64 = text
        .parse()
        .map_err(|_| DecodeError::unreadable("its Number of Frames is not a number"))?;
    match u32::try_from(frames) {
        // Seen in the wild for a single frame.
        Ok(0) => Ok(1),
        Ok(frames) if frames <= limits.max_frames => Ok(frames),
        Ok(_) => Err(DecodeError::TooLarge(format!(
            "the file has {frames} frames; at most {} are taken",
            limits.max_frames
        ))),
        Err(_) => Err(DecodeError::unreadable("its Number of Frames is negative or absurd")),
    }
}

/// Where an attribute of one frame may stand: its own functional groups, those shared by all, and
/// the top level.
pub(super) struct Scope<'s, 'a> {
    top: &'s DataSet<'a>,
    own: Option<&'s DataSet<'a>>,
    shared: Option<&'s DataSet<'a>>,
}

impl<'s, 'a> Scope<'s, 'a> {
    pub(super) fn of(top: &'s DataSet<'a>, frame: u32) -> Self {
        Self {
            top,
            own: top.items(Tag(0x5200, 0x9230)).get(frame as usize),
            shared: top.items(Tag(0x5200, 0x9229)).first(),
        }
    }

    pub(super) fn top(&self) -> &'s DataSet<'a> {
        self.top
    }

    /// The data set that holds a group's attributes: the functional group's item, else the top.
    pub(super) fn group(&self, sequence: Tag) -> &'s DataSet<'a> {
        let item = |groups: Option<&'s DataSet<'a>>| groups?.items(sequence).first();
        item(self.own).or_else(|| item(self.shared)).unwrap_or(self.top)
    }
}
