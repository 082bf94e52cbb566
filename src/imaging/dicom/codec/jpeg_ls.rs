//! JPEG-LS in DICOM: does the codestream fit the data set?

use super::{Claim, broken, check, stored};
use crate::imaging::decode::DecodeError;
use crate::imaging::dicom::header::Header;
use crate::imaging::jpeg_ls;

const CODEC: &str = "JPEG-LS";

/// Bytes of all samples, colour by pixel as the data set means it; and the bits of one.
///
/// # Errors
/// A damaged codestream, or one that contradicts the data set.
pub(in crate::imaging::dicom) fn decode(
    data: &[u8],
    header: &Header,
) -> Result<(Vec<u8>, u32), DecodeError> {
    let frame = jpeg_ls::header(data).map_err(|error| broken(CODEC, error))?;
    let claim = Claim {
        width: frame.width,
        height: frame.height,
        components: frame.components.len(),
        precision: frame.precision.into(),
    };
    check(CODEC, &claim, header)?;
    let (_, words) = jpeg_ls::decode(data).map_err(|error| broken(CODEC, error))?;
    Ok(stored(words.into_iter(), header))
}
