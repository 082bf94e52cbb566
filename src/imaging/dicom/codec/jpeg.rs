//! JPEG in DICOM: which colour transform, and does the codestream fit the data set?
//!
//! What the codestream says of its colour counts before what the data set says, as in pydicom:
//! component ids "RGB", a JFIF marker (always YCbCr), an Adobe marker; only without any of them the
//! photometric interpretation.

use super::{Claim, broken, check, stored};
use crate::imaging::decode::DecodeError;
use crate::imaging::dicom::header::{Header, Photometric};
use crate::imaging::jpeg::{self, Samples, Transform};

const CODEC: &str = "JPEG";

/// Bytes of all samples, colour by pixel, RGB for colour; and the bits of one: 8, or 16 little endian.
///
/// # Errors
/// A damaged codestream, one that contradicts the data set, or a process that isn't decoded.
pub(in crate::imaging::dicom) fn decode(
    data: &[u8],
    header: &Header,
) -> Result<(Vec<u8>, u32), DecodeError> {
    let frame = jpeg::header(data).map_err(|error| broken(CODEC, error))?;
    let claim = Claim {
        width: frame.width,
        height: frame.height,
        components: frame.components.len(),
        precision: frame.precision.into(),
    };
    check(CODEC, &claim, header)?;
    let ybr = matches!(header.photometric, Photometric::YbrFull | Photometric::YbrFull422);
    let (_, samples) =
        jpeg::decode(data, |frame| transform(frame, ybr)).map_err(|error| broken(CODEC, error))?;
    Ok(match samples {
        Samples::Narrow(bytes) if header.allocated == 8 => (bytes, 8),
        Samples::Narrow(bytes) => stored(bytes.into_iter().map(u16::from), header),
        Samples::Wide(words) => stored(words.into_iter(), header),
    })
}

fn transform(frame: &jpeg::Header, ybr: bool) -> Transform {
    let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
    let ybr = match (ids.as_slice(), frame.adobe_transform) {
        (b"RGB" | b"rgb", _) => false,
        ([_, _, _], _) if frame.jfif => true,
        ([_, _, _], Some(transform)) => transform == 1,
        ([_, _, _], None) => ybr,
        _ => false,
    };
    if ybr { Transform::YcbcrToRgb } else { Transform::None }
}
