//! RLE Lossless, PS3.5 annex G: up to 15 segments, each one byte of every sample, most significant
//! first, PackBits-coded. Ours because dicom-rs panics on a truncated one.

use super::broken;
use crate::imaging::decode::DecodeError;

const HEADER: usize = 64;

/// Bytes of all samples, little endian, colour by pixel.
///
/// `plane` is the bytes of one segment; `samples × bytes` segments are expected.
///
/// # Errors
/// Segments that are missing, overlap the end, or decode to fewer bytes than the frame has.
pub(in crate::imaging::dicom) fn decode(
    data: &[u8],
    plane: usize,
    samples: usize,
    bytes: usize,
) -> Result<Vec<u8>, DecodeError> {
    let field = |index: usize| -> Option<usize> {
        let field = data.get(index * 4..index * 4 + 4)?;
        usize::try_from(u32::from_le_bytes(field.try_into().ok()?)).ok()
    };
    let count = field(0).ok_or_else(|| broken("RLE", "it has no header"))?;
    if count != samples * bytes || count > 15 {
        return Err(broken("RLE", format!("{count} segments, expected {}", samples * bytes)));
    }
    let stride = samples * bytes;
    let mut pixels = vec![0; plane * stride];
    for segment in 0..count {
        let cut_off = || broken("RLE", format!("segment {segment} is cut off"));
        let start = field(1 + segment).filter(|&start| start >= HEADER).ok_or_else(cut_off)?;
        let end = if segment + 1 < count { field(2 + segment) } else { None };
        let coded = data.get(start..end.unwrap_or(data.len())).ok_or_else(cut_off)?;
        let (sample, significance) = (segment / bytes, bytes - 1 - segment % bytes);
        let offset = sample * bytes + significance;
        unpack(coded, pixels.iter_mut().skip(offset).step_by(stride)).ok_or_else(cut_off)?;
    }
    Ok(pixels)
}

/// PackBits into exactly the places given; `None` when the input ends before they are full.
fn unpack<'p>(coded: &[u8], mut places: impl ExactSizeIterator<Item = &'p mut u8>) -> Option<()> {
    let mut coded = coded.iter();
    while places.len() > 0 {
        let control = *coded.next()?;
        match control {
            0..=127 => {
                for place in places.by_ref().take(usize::from(control) + 1) {
                    *place = *coded.next()?;
                }
            }
            128 => {}
            129..=255 => {
                let value = *coded.next()?;
                for place in places.by_ref().take(257 - usize::from(control)) {
                    *place = value;
                }
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(segments: &[&[u8]]) -> Vec<u8> {
        let mut header = vec![u32::try_from(segments.len()).unwrap()];
        let mut at = 64;
        for segment in segments {
            header.push(at);
            at += u32::try_from(segment.len()).unwrap();
        }
        header.resize(16, 0);
        let mut bytes: Vec<u8> = header.iter().flat_map(|n| n.to_le_bytes()).collect();
        segments.iter().for_each(|segment| bytes.extend_from_slice(segment));
        bytes
    }

    #[test]
    fn runs_and_literals_become_little_endian_words() {
        let high = [0xFD, 0x01]; // four times 1
        let low = [0x03, 10, 20, 30, 40];
        let pixels = decode(&frame(&[&high, &low]), 4, 1, 2).unwrap();
        assert_eq!(pixels, [10, 1, 20, 1, 30, 1, 40, 1]);
    }

    #[test]
    fn a_truncated_segment_is_an_error_not_a_panic() {
        let whole = frame(&[&[0xFD, 0x01], &[0x03, 10, 20, 30, 40]]);
        for length in 0..whole.len() {
            assert!(decode(&whole[..length], 4, 1, 2).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_wrong_number_of_segments_is_refused() {
        assert!(decode(&frame(&[&[0xFD, 1]]), 4, 1, 2).is_err());
    }
}
