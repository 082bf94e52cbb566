//! What a data set says of a frame's values: rescale, padding, its own window, spacing.

use super::dataset::DataSet;
use super::header::{Header, Scope};
use super::lut;
use super::stored::Modality;
use crate::domain::slice::{Voi, Window, WindowFunction};
use crate::imaging::decode::DecodeError;
use crate::imaging::window;
use dicom_core::Tag;

const MODALITY: Tag = Tag(0x0008, 0x0060);
const IMAGER_PIXEL_SPACING: Tag = Tag(0x0018, 0x1164);
const NOMINAL_SCANNED_PIXEL_SPACING: Tag = Tag(0x0018, 0x2010);
const PIXEL_SPACING: Tag = Tag(0x0028, 0x0030);
const PIXEL_PADDING_VALUE: Tag = Tag(0x0028, 0x0120);
const PIXEL_PADDING_RANGE_LIMIT: Tag = Tag(0x0028, 0x0121);
const WINDOW_CENTER: Tag = Tag(0x0028, 0x1050);
const WINDOW_WIDTH: Tag = Tag(0x0028, 0x1051);
const RESCALE_INTERCEPT: Tag = Tag(0x0028, 0x1052);
const RESCALE_SLOPE: Tag = Tag(0x0028, 0x1053);
const RESCALE_TYPE: Tag = Tag(0x0028, 0x1054);
const VOI_LUT_FUNCTION: Tag = Tag(0x0028, 0x1056);
const MODALITY_LUT: Tag = Tag(0x0028, 0x3000);
const VOI_LUT: Tag = Tag(0x0028, 0x3010);
/// Sequences of functional groups; PS3.3 C.7.6.16.2.
const PIXEL_MEASURES: Tag = Tag(0x0028, 0x9110);
const FRAME_VOI_LUT: Tag = Tag(0x0028, 0x9132);
const PIXEL_VALUE_TRANSFORMATION: Tag = Tag(0x0028, 0x9145);

/// The way from stored to modality values.
///
/// # Errors
/// A damaged modality LUT; a slope of 0 (it would make one value of all).
pub(super) fn modality(scope: &Scope<'_, '_>, header: &Header) -> Result<Modality, DecodeError> {
    if let Some(item) = scope.top().items(MODALITY_LUT).first() {
        return Ok(Modality::Table(lut::of_item(item, header.signed)?));
    }
    let set = scope.group(PIXEL_VALUE_TRANSFORMATION);
    let (slope, intercept) = (first(set, RESCALE_SLOPE), first(set, RESCALE_INTERCEPT));
    let slope = slope.unwrap_or(1.0);
    let intercept = intercept.unwrap_or(0.0);
    if !(slope.is_finite() && intercept.is_finite()) || slope == 0.0 {
        return Err(DecodeError::unreadable(
            "its rescale slope or intercept is not a usable number",
        ));
    }
    Ok(Modality::Linear { slope, intercept })
}

/// Are these Hounsfield units? CT whose file says how to get at them, and doesn't call them else.
pub(super) fn is_ct(scope: &Scope<'_, '_>, modality: &Modality) -> bool {
    let set = scope.group(PIXEL_VALUE_TRANSFORMATION);
    let rescaled = set.bytes(RESCALE_INTERCEPT).is_some() || set.bytes(RESCALE_SLOPE).is_some();
    let unit = set.text(RESCALE_TYPE);
    scope.top().text(MODALITY) == Some("CT")
        && matches!(modality, Modality::Linear { .. })
        && rescaled
        && unit.is_none_or(|unit| matches!(unit, "HU" | "US"))
}

/// Stored values that mean nothing: one, or a range. PS3.3 C.7.5.1.1.2.
pub(super) fn padding(scope: &Scope<'_, '_>, header: &Header) -> Option<(f64, f64)> {
    let set = scope.top();
    let value = |tag| {
        let word = set.unsigned(tag)?;
        Some(if header.signed { f64::from(word.cast_signed()) } else { f64::from(word) })
    };
    let value_of_padding = value(PIXEL_PADDING_VALUE)?;
    let limit = value(PIXEL_PADDING_RANGE_LIMIT).unwrap_or(value_of_padding);
    Some((value_of_padding.min(limit), value_of_padding.max(limit)))
}

/// The file's own display proposal: its first window, else its VOI LUT.
///
/// # Errors
/// A damaged VOI LUT.
pub(super) fn voi(
    scope: &Scope<'_, '_>,
    header: &Header,
    modality: &Modality,
) -> Result<Voi, DecodeError> {
    let set = scope.group(FRAME_VOI_LUT);
    let function = match set.text(VOI_LUT_FUNCTION) {
        Some("LINEAR_EXACT") => WindowFunction::LinearExact,
        Some("SIGMOID") => WindowFunction::Sigmoid,
        _ => WindowFunction::Linear,
    };
    if let (Some(center), Some(width)) = (first(set, WINDOW_CENTER), first(set, WINDOW_WIDTH)) {
        let window = Window { center, width, function };
        if window::is_valid(&window) {
            return Ok(Voi::Window(window));
        }
    }
    let Some(item) = scope.top().items(VOI_LUT).first() else { return Ok(Voi::None) };
    let signed = match modality {
        Modality::Linear { intercept, .. } => header.signed || *intercept < 0.0,
        Modality::Table(_) => false,
    };
    Ok(lut::of_item(item, signed)?.into_voi().map_or(Voi::None, Voi::Lut))
}

/// Between rows, between columns, in mm.
pub(super) fn spacing(scope: &Scope<'_, '_>) -> Option<(f64, f64)> {
    let usable = |set: &DataSet<'_>, tag| match set.reals(tag).as_slice() {
        [rows, columns, ..] if [rows, columns].iter().all(|&&mm| mm.is_finite() && mm > 0.0) => {
            Some((*rows, *columns))
        }
        _ => None,
    };
    usable(scope.group(PIXEL_MEASURES), PIXEL_SPACING)
        .or_else(|| usable(scope.top(), IMAGER_PIXEL_SPACING))
        .or_else(|| usable(scope.top(), NOMINAL_SCANNED_PIXEL_SPACING))
}

fn first(set: &DataSet<'_>, tag: Tag) -> Option<f64> {
    set.reals(tag).first().copied()
}
