//! Progressive DCT scans: coefficients are gathered first, transformed at the end. ISO 10918-1 G.

use super::bits::Bits;
use super::dct::{Event, Part, next_dc, no_table, parts, steps, walk};
use super::frame::{Frame, Grid};
use super::huffman::Huffman;
use super::idct::{self, Sample};
use super::markers::{Quantisation, Reader, Scan, Segment, ZIGZAG};
use super::{JpegError, Result};

/// Coefficients of a component, block by block, row-major within a block.
struct Plane {
    coefficients: Vec<[i16; 64]>,
    /// In force when its first scan began.
    steps: Option<Quantisation>,
}

/// Planes of all components, whole MCUs each.
pub(super) fn decode<S: Sample>(reader: &mut Reader<'_>, frame: &Frame) -> Result<Vec<Vec<S>>> {
    let mut planes: Vec<Plane> = frame
        .grids
        .iter()
        .map(|grid| Plane { coefficients: vec![[0; 64]; grid.units()], steps: None })
        .collect();
    loop {
        let scan = match reader.next() {
            Ok(Segment::Scan(scan)) => scan,
            Ok(Segment::Other) => continue,
            Ok(Segment::Frame(_)) => return Err(JpegError::new("it has a second frame header")),
            Ok(Segment::End) => break,
            Err(error) => return Err(error),
        };
        let mut bits = Bits::new(reader.rest());
        let parts = parts(reader, frame, &scan)?;
        for part in &parts {
            if let Some(plane) = planes.get_mut(part.index)
                && plane.steps.is_none()
            {
                plane.steps = Some(steps(reader, part.grid.table)?);
            }
        }
        read_scan(frame, &scan, &parts, &mut planes, reader.restart_interval, &mut bits)?;
        let end = bits.end();
        reader.skip(end);
    }
    frame.grids.iter().zip(&planes).map(|(grid, plane)| transformed(*grid, plane)).collect()
}

fn read_scan(
    frame: &Frame,
    scan: &Scan,
    parts: &[Part<'_>],
    planes: &mut [Plane],
    restart_interval: usize,
    bits: &mut Bits<'_>,
) -> Result<()> {
    let of_dc = scan.start == 0;
    let valid = scan.start <= scan.end
        && scan.end < 64
        && (!of_dc || scan.end == 0)
        && (of_dc || parts.len() == 1)
        && scan.low <= 13
        && (scan.high == 0 || scan.high == scan.low + 1);
    if !valid {
        return Err(JpegError::new("a scan's progression is invalid"));
    }
    let mut predictions = [0i32; 4];
    let mut skip = 0;
    walk(frame, parts, restart_interval, bits, |bits, event| {
        let Event::Unit { part, x, y } = event else {
            predictions = [0; 4];
            skip = 0;
            return Ok(());
        };
        let (Some(own), Some(prediction)) = (parts.get(part), predictions.get_mut(part)) else {
            return Ok(());
        };
        let plane = planes.get_mut(own.index);
        let block = plane.and_then(|p| p.coefficients.get_mut(y * own.grid.stored_across + x));
        let Some(block) = block else { return Ok(()) };
        match (of_dc, scan.high) {
            (true, 0) => {
                *prediction = next_dc(own.dc.ok_or_else(no_table)?, bits, *prediction)?;
                block[0] = narrow(prediction.wrapping_shl(scan.low));
                Ok(())
            }
            (true, _) => {
                if bits.flag() {
                    block[0] |= 1 << scan.low;
                }
                Ok(())
            }
            (false, 0) => first_ac(own.ac.ok_or_else(no_table)?, bits, scan, block, &mut skip),
            (false, _) => refine_ac(own.ac.ok_or_else(no_table)?, bits, scan, block, &mut skip),
        }
    })
}

/// G.1.2.2: `skip` blocks hold nothing more in this band.
fn first_ac(
    table: &Huffman,
    bits: &mut Bits<'_>,
    scan: &Scan,
    block: &mut [i16; 64],
    skip: &mut u32,
) -> Result<()> {
    if *skip > 0 {
        *skip -= 1;
        return Ok(());
    }
    let mut at = scan.start;
    while at <= scan.end {
        let code = table.decode(bits)?;
        let (run, size) = (usize::from(code >> 4), u32::from(code & 15));
        if size == 0 {
            if run < 15 {
                *skip = end_of_band_run(bits, code) - 1;
                return Ok(());
            }
            at += 16;
            continue;
        }
        at += run;
        if at > scan.end {
            return Err(JpegError::new("a block has too many coefficients"));
        }
        let value = narrow(bits.extended(size).wrapping_shl(scan.low));
        if let Some(coefficient) = at_zigzag(block, at) {
            *coefficient = value;
        }
        at += 1;
    }
    Ok(())
}

/// G.1.2.3: one more bit of what is there, and what is new.
fn refine_ac(
    table: &Huffman,
    bits: &mut Bits<'_>,
    scan: &Scan,
    block: &mut [i16; 64],
    skip: &mut u32,
) -> Result<()> {
    let bit = 1i16 << scan.low;
    let mut at = scan.start;
    if *skip == 0 {
        while at <= scan.end {
            let code = table.decode(bits)?;
            let (mut run, size) = (usize::from(code >> 4), code & 15);
            let mut new = 0;
            match size {
                0 if run < 15 => {
                    *skip = end_of_band_run(bits, code);
                    break;
                }
                0 => {}
                1 => new = if bits.flag() { bit } else { -bit },
                _ => return Err(JpegError::new("a refinement is of more than one bit")),
            }
            while at <= scan.end {
                let Some(coefficient) = at_zigzag(block, at) else { break };
                if *coefficient != 0 {
                    refine(bits, coefficient, bit);
                } else if run == 0 {
                    *coefficient = new;
                    at += 1;
                    break;
                } else {
                    run -= 1;
                }
                at += 1;
            }
        }
    }
    if *skip > 0 {
        while at <= scan.end {
            if let Some(coefficient) = at_zigzag(block, at)
                && *coefficient != 0
            {
                refine(bits, coefficient, bit);
            }
            at += 1;
        }
        *skip -= 1;
    }
    Ok(())
}

fn refine(bits: &mut Bits<'_>, coefficient: &mut i16, bit: i16) {
    if bits.flag() && *coefficient & bit == 0 {
        let step = if *coefficient > 0 { bit } else { -bit };
        *coefficient = coefficient.saturating_add(step);
    }
}

/// Blocks, this one included, that end here.
fn end_of_band_run(bits: &mut Bits<'_>, code: u8) -> u32 {
    let size = u32::from(code >> 4);
    (1 << size) + if size > 0 { bits.take(size) } else { 0 }
}

fn at_zigzag(block: &mut [i16; 64], at: usize) -> Option<&mut i16> {
    let place = ZIGZAG.get(at).copied()?;
    block.get_mut(usize::from(place))
}

fn narrow(value: i32) -> i16 {
    i16::try_from(value).unwrap_or(if value < 0 { i16::MIN } else { i16::MAX })
}

fn transformed<S: Sample>(grid: Grid, plane: &Plane) -> Result<Vec<S>> {
    let steps = plane.steps.ok_or_else(|| JpegError::new("a component is missing"))?;
    let stride = grid.stride();
    let mut samples = vec![S::default(); grid.units() * 64];
    for (index, block) in plane.coefficients.iter().enumerate() {
        let (x, y) = (index % grid.stored_across, index / grid.stored_across);
        let mut coefficients = [0i32; 64];
        for ((value, &stored), &step) in coefficients.iter_mut().zip(block).zip(&steps) {
            *value = i32::from(stored) * i32::from(step);
        }
        let rows = samples.get_mut(y * 8 * stride + x * 8..).unwrap_or_default();
        if !idct::block(&coefficients, rows, stride) {
            return Err(JpegError::new("a block is out of range"));
        }
    }
    Ok(samples)
}
