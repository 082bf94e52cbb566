//! Lossless frames: differences to one of seven predictions. ISO 10918-1 annex H.

use super::bits::Bits;
use super::dct::{Event, Part, no_table, parts, walk};
use super::frame::Frame;
use super::idct::Sample;
use super::markers::{Reader, Scan, Segment};
use super::{JpegError, Result};

/// Planes of all components, whole MCUs each.
pub(super) fn decode<S: Sample>(
    reader: &mut Reader<'_>,
    frame: &Frame,
    precision: u8,
) -> Result<Vec<Vec<S>>> {
    let mut planes: Vec<Vec<S>> = vec![Vec::new(); frame.grids.len()];
    while planes.iter().any(Vec::is_empty) {
        let scan = match reader.next()? {
            Segment::Scan(scan) => scan,
            Segment::Other => continue,
            Segment::Frame(_) => return Err(JpegError::new("it has a second frame header")),
            Segment::End => return Err(JpegError::new("a component is missing")),
        };
        let mut bits = Bits::new(reader.rest());
        let parts = parts(reader, frame, &scan)?;
        let values =
            read_scan(frame, &scan, &parts, precision, reader.restart_interval, &mut bits)?;
        for (part, values) in parts.iter().zip(values) {
            let samples = values.into_iter().map(|value| S::exact(value << scan.low));
            let samples: Option<Vec<S>> = samples.collect();
            if let Some(plane) = planes.get_mut(part.index) {
                *plane = samples.ok_or_else(|| JpegError::new("a sample is out of range"))?;
            }
        }
        let end = bits.end();
        reader.skip(end);
    }
    Ok(planes)
}

/// Values of a scan's components, before the point transform is undone.
fn read_scan(
    frame: &Frame,
    scan: &Scan,
    parts: &[Part<'_>],
    precision: u8,
    restart_interval: usize,
    bits: &mut Bits<'_>,
) -> Result<Vec<Vec<u16>>> {
    let (predictor, precision) = (scan.start, u32::from(precision));
    if !(1..=7).contains(&predictor) || scan.low >= precision {
        return Err(JpegError::new("a scan's predictor or point transform is invalid"));
    }
    let origin = 1i32 << (precision - scan.low - 1);
    let mut values: Vec<Vec<u16>> = parts.iter().map(|part| vec![0; part.grid.units()]).collect();
    // H.1.2.1: the line after a restart is predicted as the first of all.
    let mut first_rows: Vec<Option<usize>> = vec![None; parts.len()];
    walk(frame, parts, restart_interval, bits, |bits, event| {
        let Event::Unit { part, x, y } = event else {
            first_rows.fill(None);
            return Ok(());
        };
        let (Some(own), Some(plane), Some(first_row)) =
            (parts.get(part), values.get_mut(part), first_rows.get_mut(part))
        else {
            return Ok(());
        };
        if first_row.is_none() && x != 0 {
            return Err(JpegError::new("a restart within a line is not supported"));
        }
        let first_row = *first_row.get_or_insert(y);
        let stride = own.grid.stored_across;
        let at = y * stride + x;
        let value = |at: usize| plane.get(at).copied().map_or(0, i32::from);
        let prediction = match (x > 0, y > first_row) {
            (false, false) => origin,
            (true, false) => value(at - 1),
            (false, true) => value(at - stride),
            (true, true) => {
                predict(predictor, value(at - 1), value(at - stride), value(at - stride - 1))
            }
        };
        let size = u32::from(own.dc.ok_or_else(no_table)?.decode(bits)?);
        let difference = match size {
            0..=15 => bits.extended(size),
            16 => 32_768,
            _ => return Err(JpegError::new("a difference is too large")),
        };
        let value = u16::try_from((prediction + difference) & 0xFFFF).unwrap_or(0);
        if u32::from(value) >> (precision - scan.low) != 0 {
            return Err(JpegError::new("a sample is out of range"));
        }
        if let Some(place) = plane.get_mut(at) {
            *place = value;
        }
        Ok(())
    })?;
    Ok(values)
}

/// Table H.1: left, above, above left.
fn predict(predictor: usize, a: i32, b: i32, c: i32) -> i32 {
    match predictor {
        1 => a,
        2 => b,
        3 => c,
        4 => a + b - c,
        5 => a + ((b - c) >> 1),
        6 => b + ((a - c) >> 1),
        _ => (a + b) >> 1,
    }
}
