//! Sequential DCT scans: each block is transformed as soon as it is read. ISO 10918-1 F.2.

use super::bits::Bits;
use super::frame::{Frame, Grid};
use super::huffman::Huffman;
use super::idct::{self, Sample};
use super::markers::{Quantisation, Reader, Scan, Segment, ZIGZAG};
use super::{JpegError, Result};

/// One component of a scan and what decodes it.
pub(super) struct Part<'r> {
    /// Its index in the frame.
    pub(super) index: usize,
    pub(super) grid: Grid,
    pub(super) dc: Option<&'r Huffman>,
    pub(super) ac: Option<&'r Huffman>,
}

/// Planes of all components, whole MCUs each.
pub(super) fn decode<S: Sample>(reader: &mut Reader<'_>, frame: &Frame) -> Result<Vec<Vec<S>>> {
    let mut planes: Vec<Vec<S>> =
        frame.grids.iter().map(|grid| vec![S::default(); grid.units() * 64]).collect();
    let mut missing: Vec<usize> = (0..frame.grids.len()).collect();
    while !missing.is_empty() {
        let scan = match reader.next()? {
            Segment::Scan(scan) => scan,
            Segment::Other => continue,
            Segment::Frame(_) => return Err(JpegError::new("it has a second frame header")),
            Segment::End => return Err(JpegError::new("a component is missing")),
        };
        let mut bits = Bits::new(reader.rest());
        let parts = parts(reader, frame, &scan)?;
        let mut decoders = Vec::new();
        for part in &parts {
            missing.retain(|&index| index != part.index);
            decoders.push(BlockDecoder {
                dc: part.dc.ok_or_else(no_table)?,
                ac: part.ac.ok_or_else(no_table)?,
                steps: steps(reader, part.grid.table)?,
                prediction: 0,
            });
        }
        let mut coefficients = [0; 64];
        walk(frame, &parts, reader.restart_interval, &mut bits, |bits, event| match event {
            Event::Restart => {
                decoders.iter_mut().for_each(|decoder| decoder.prediction = 0);
                Ok(())
            }
            Event::Unit { part, x, y } => {
                let (Some(decoder), Some(own)) = (decoders.get_mut(part), parts.get(part)) else {
                    return Ok(());
                };
                decoder.block(bits, &mut coefficients)?;
                let stride = own.grid.stride();
                let plane =
                    planes.get_mut(own.index).and_then(|p| p.get_mut(y * 8 * stride + x * 8..));
                if !idct::block(&coefficients, plane.unwrap_or_default(), stride) {
                    return Err(JpegError::new("a block is out of range"));
                }
                Ok(())
            }
        })?;
        let end = bits.end();
        reader.skip(end);
    }
    Ok(planes)
}

pub(super) fn no_table() -> JpegError {
    JpegError::new("a table is missing")
}

/// The quantisation table in force, as numbers to multiply with.
pub(super) fn steps(reader: &Reader<'_>, table: usize) -> Result<Quantisation> {
    reader.quantisation.get(table).copied().flatten().ok_or_else(no_table)
}

/// A scan's components, found in the frame.
pub(super) fn parts<'r>(
    reader: &'r Reader<'_>,
    frame: &Frame,
    scan: &Scan,
) -> Result<Vec<Part<'r>>> {
    let mut parts: Vec<Part<'r>> = Vec::new();
    for &(id, dc, ac) in &scan.components {
        let index = frame.ids.iter().position(|&own| own == id);
        let (Some(index), Some(grid)) = (index, index.and_then(|index| frame.grids.get(index)))
        else {
            return Err(JpegError::new("a scan names a component that the frame has not"));
        };
        if parts.iter().any(|part| part.index == index) {
            return Err(JpegError::new("a scan names a component twice"));
        }
        parts.push(Part {
            index,
            grid: *grid,
            dc: reader.dc.get(dc).and_then(Option::as_ref),
            ac: reader.ac.get(ac).and_then(Option::as_ref),
        });
    }
    Ok(parts)
}

/// What comes next in a scan.
pub(super) enum Event {
    /// A unit of a part (a block, or a lossless sample), at a place in its grid.
    Unit { part: usize, x: usize, y: usize },
    /// Predictions and runs begin anew.
    Restart,
}

/// Goes through a scan's units in order, with restarts, and stops where the data does.
pub(super) fn walk<'d>(
    frame: &Frame,
    parts: &[Part<'_>],
    restart_interval: usize,
    bits: &mut Bits<'d>,
    mut visit: impl FnMut(&mut Bits<'d>, Event) -> Result<()>,
) -> Result<()> {
    // A.2.2: a component alone goes unit by unit; several go by MCUs.
    let alone = match parts {
        [part] => Some(part.grid),
        _ => None,
    };
    let (across, down) = alone
        .map_or((frame.mcus_across, frame.mcus_down), |grid| (grid.units_across, grid.units_down));
    let mut until_restart = restart_interval;
    let mut restarts = 0;
    for row in 0..down {
        for column in 0..across {
            if restart_interval > 0 && until_restart == 0 {
                bits.restart(restarts)?;
                restarts += 1;
                until_restart = restart_interval;
                visit(bits, Event::Restart)?;
            }
            until_restart = until_restart.saturating_sub(1);
            if alone.is_some() {
                visit(bits, Event::Unit { part: 0, x: column, y: row })?;
            } else {
                for (part, own) in parts.iter().enumerate() {
                    for v in 0..own.grid.v {
                        for h in 0..own.grid.h {
                            let (x, y) = (column * own.grid.h + h, row * own.grid.v + v);
                            visit(bits, Event::Unit { part, x, y })?;
                        }
                    }
                }
            }
            if bits.overran() {
                return Err(JpegError::cut_off());
            }
        }
    }
    Ok(())
}

/// Reads the blocks of one component.
struct BlockDecoder<'r> {
    dc: &'r Huffman,
    ac: &'r Huffman,
    steps: Quantisation,
    prediction: i32,
}

impl BlockDecoder<'_> {
    /// Dequantised coefficients, row-major.
    fn block(&mut self, bits: &mut Bits<'_>, coefficients: &mut [i32; 64]) -> Result<()> {
        *coefficients = [0; 64];
        self.prediction = next_dc(self.dc, bits, self.prediction)?;
        let step = |place: usize| i32::from(self.steps.get(place).copied().unwrap_or(0));
        if let Some(dc) = coefficients.first_mut() {
            *dc = self.prediction.saturating_mul(step(0));
        }
        let mut at = 1;
        while at < 64 {
            let code = self.ac.decode(bits)?;
            let (run, size) = (usize::from(code >> 4), u32::from(code & 15));
            if size == 0 {
                if run != 15 {
                    break;
                }
                at += 16;
                continue;
            }
            at += run;
            let Some(&place) = ZIGZAG.get(at) else {
                return Err(JpegError::new("a block has too many coefficients"));
            };
            let place = usize::from(place);
            if let Some(coefficient) = coefficients.get_mut(place) {
                *coefficient = bits.extended(size) * step(place);
            }
            at += 1;
        }
        Ok(())
    }
}

/// The next DC coefficient, before dequantisation.
pub(super) fn next_dc(table: &Huffman, bits: &mut Bits<'_>, prediction: i32) -> Result<i32> {
    let size = u32::from(table.decode(bits)?);
    if size > 15 {
        return Err(JpegError::new("a difference is too large"));
    }
    Ok(prediction.wrapping_add(bits.extended(size)))
}
