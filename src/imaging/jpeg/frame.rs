//! A frame's header and the geometry that follows from it. ISO 10918-1 A.1, A.2, B.2.2.

use super::{JpegError, Result};

/// How samples are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::imaging) enum Process {
    /// SOF0, SOF1.
    Sequential,
    /// SOF2.
    Progressive,
    /// SOF3.
    Lossless,
}

/// One component as its frame header has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::imaging) struct Component {
    pub(in crate::imaging) id: u8,
    /// Horizontal and vertical sampling factors, 1..=4.
    pub(super) h: usize,
    pub(super) v: usize,
    /// Quantisation table, 0..=3.
    pub(super) table: usize,
}

/// What a codestream says of itself before its first scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::imaging) struct Header {
    pub(in crate::imaging) process: Process,
    /// Bits of a sample.
    pub(in crate::imaging) precision: u8,
    pub(in crate::imaging) width: usize,
    pub(in crate::imaging) height: usize,
    /// 1 to 4.
    pub(in crate::imaging) components: Vec<Component>,
    pub(in crate::imaging) jfif: bool,
    /// The transform that an Adobe marker names: 0 none, 1 YCbCr, 2 YCCK.
    pub(in crate::imaging) adobe_transform: Option<u8>,
    /// The TIFF structure of an EXIF marker.
    pub(in crate::imaging) exif: Option<Vec<u8>>,
}

impl Header {
    /// From the body of a SOF segment.
    pub(super) fn read(marker: u8, body: &[u8]) -> Result<Self> {
        let process = match marker {
            0xC0 | 0xC1 => Process::Sequential,
            0xC2 => Process::Progressive,
            0xC3 => Process::Lossless,
            0xC9..=0xCB | 0xCD..=0xCF => {
                return Err(JpegError::new("arithmetic coding is not supported"));
            }
            _ => return Err(JpegError::new("hierarchical frames are not supported")),
        };
        let [precision, y1, y0, x1, x0, count, fields @ ..] = body else {
            return Err(JpegError::cut_off());
        };
        let (fields, rest) = fields.as_chunks::<3>();
        if fields.len() != usize::from(*count) || !rest.is_empty() || !(1..=4).contains(count) {
            return Err(JpegError::new("its number of components is not supported"));
        }
        let components = fields.iter().map(|&[id, sampling, table]| {
            let (h, v) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            let valid = (1..=4).contains(&h) && (1..=4).contains(&v) && table < 4;
            valid.then_some(Component { id, h, v, table: usize::from(table) })
        });
        let components: Option<Vec<Component>> = components.collect();
        let width = usize::from(u16::from_be_bytes([*x1, *x0]));
        let height = usize::from(u16::from_be_bytes([*y1, *y0]));
        if width == 0 || height == 0 {
            return Err(JpegError::new("its size is 0 or comes after its pixels"));
        }
        Ok(Self {
            process,
            precision: *precision,
            width,
            height,
            components: components.ok_or_else(|| JpegError::new("its sampling is invalid"))?,
            jfif: false,
            adobe_transform: None,
            exif: None,
        })
    }
}

/// A component's place in a frame. A unit is a block of 8 × 8 samples, or in lossless frames one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// Samples of a unit's side.
    pub(super) side: usize,
    pub(super) h: usize,
    pub(super) v: usize,
    pub(super) table: usize,
    /// Samples that mean something.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Units that a scan of its own has.
    pub(super) units_across: usize,
    pub(super) units_down: usize,
    /// Units stored: whole MCUs.
    pub(super) stored_across: usize,
    pub(super) stored_down: usize,
}

impl Grid {
    /// Samples of one stored row.
    pub(super) fn stride(&self) -> usize {
        self.stored_across * self.side
    }

    /// Units stored.
    pub(super) fn units(&self) -> usize {
        self.stored_across * self.stored_down
    }
}

/// A frame's geometry.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) ids: Vec<u8>,
    pub(super) grids: Vec<Grid>,
    pub(super) h_max: usize,
    pub(super) v_max: usize,
    pub(super) mcus_across: usize,
    pub(super) mcus_down: usize,
}

impl Frame {
    pub(super) fn new(header: &Header) -> Result<Self> {
        let (width, height) = (header.width, header.height);
        let most = |factor: fn(&Component) -> usize| header.components.iter().map(factor).max();
        let (Some(h_max), Some(v_max)) = (most(|c| c.h), most(|c| c.v)) else {
            return Err(JpegError::new("it has no components"));
        };
        let side = if header.process == Process::Lossless { 1 } else { 8 };
        let mcus_across = width.div_ceil(side * h_max);
        let mcus_down = height.div_ceil(side * v_max);
        let grids = header.components.iter().map(|component| {
            let own_width = (width * component.h).div_ceil(h_max);
            let own_height = (height * component.v).div_ceil(v_max);
            Grid {
                side,
                h: component.h,
                v: component.v,
                table: component.table,
                width: own_width,
                height: own_height,
                units_across: own_width.div_ceil(side),
                units_down: own_height.div_ceil(side),
                stored_across: mcus_across * component.h,
                stored_down: mcus_down * component.v,
            }
        });
        Ok(Self {
            width,
            height,
            ids: header.components.iter().map(|component| component.id).collect(),
            grids: grids.collect(),
            h_max,
            v_max,
            mcus_across,
            mcus_down,
        })
    }
}
