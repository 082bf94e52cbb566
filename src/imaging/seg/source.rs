//! Which attributes of a source file its Segmentation repeats, and which values are acceptable.
//!
//! One table serves the child that reads the file, the parent that doesn't believe the child, the
//! writer, and the conformance statement.
//!
//! Invariants:
//! 1. An acceptable value can stand in a DICOM file of its VR unchanged; what can't is left out, and
//!    where the standard wants it (a UID) there is no Segmentation.
//! 2. Text is never decoded: it goes out as it came in, beside the file's own character set.

use crate::domain::identity::AttributeTag;

/// Bytes of one text value at most: a person name of three groups in the widest character set.
const TEXT_BYTES: usize = 1024;

/// Where in a file an attribute stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the top level.
    Top,
    /// In the frame's item of this functional group; in a single-frame file at the top level.
    Group(AttributeTag),
}

/// One attribute taken over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) tag: AttributeTag,
    pub(crate) vr: [u8; 2],
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) need: Need,
}

/// What happens where the source has no acceptable value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// No Segmentation.
    Required,
    /// It is written empty.
    Empty,
    /// It is left out.
    Optional,
}

const fn top(tag: AttributeTag, vr: [u8; 2], name: &'static str, need: Need) -> Taken {
    Taken { tag, vr, name, place: Place::Top, need }
}

const fn grouped(group: AttributeTag, tag: AttributeTag, name: &'static str) -> Taken {
    Taken { tag, vr: *b"DS", name, place: Place::Group(group), need: Need::Optional }
}

pub(crate) const CHARACTER_SET: AttributeTag = (0x0008, 0x0005);
pub(crate) const CLASS_UID: AttributeTag = (0x0008, 0x0016);
pub(crate) const INSTANCE_UID: AttributeTag = (0x0008, 0x0018);
pub(crate) const TIMEZONE: AttributeTag = (0x0008, 0x0201);
pub(crate) const SERIES_UID: AttributeTag = (0x0020, 0x000E);
pub(crate) const PATIENT_ORIENTATION: AttributeTag = (0x0020, 0x0020);
pub(crate) const FRAME_OF_REFERENCE_UID: AttributeTag = (0x0020, 0x0052);
pub(crate) const POSITION_REFERENCE: AttributeTag = (0x0020, 0x1040);
pub(crate) const LOSSY: AttributeTag = (0x0028, 0x2110);

pub(crate) const PIXEL_MEASURES: AttributeTag = (0x0028, 0x9110);
pub(crate) const PLANE_POSITION: AttributeTag = (0x0020, 0x9113);
pub(crate) const PLANE_ORIENTATION: AttributeTag = (0x0020, 0x9116);
pub(crate) const PIXEL_SPACING: AttributeTag = (0x0028, 0x0030);
pub(crate) const SLICE_THICKNESS: AttributeTag = (0x0018, 0x0050);
pub(crate) const POSITION: AttributeTag = (0x0020, 0x0032);
pub(crate) const ORIENTATION: AttributeTag = (0x0020, 0x0037);

/// All of them. Names as in PS3.6.
pub(crate) const TAKEN: [Taken; 27] = [
    top(CHARACTER_SET, *b"CS", "Specific Character Set", Need::Optional),
    top(CLASS_UID, *b"UI", "SOP Class UID", Need::Required),
    top(INSTANCE_UID, *b"UI", "SOP Instance UID", Need::Required),
    top((0x0008, 0x0020), *b"DA", "Study Date", Need::Empty),
    top((0x0008, 0x0030), *b"TM", "Study Time", Need::Empty),
    top((0x0008, 0x0050), *b"SH", "Accession Number", Need::Empty),
    top((0x0008, 0x0090), *b"PN", "Referring Physician's Name", Need::Empty),
    top(TIMEZONE, *b"SH", "Timezone Offset From UTC", Need::Optional),
    top((0x0010, 0x0010), *b"PN", "Patient's Name", Need::Empty),
    top((0x0010, 0x0020), *b"LO", "Patient ID", Need::Empty),
    top((0x0010, 0x0030), *b"DA", "Patient's Birth Date", Need::Empty),
    top((0x0010, 0x0040), *b"CS", "Patient's Sex", Need::Empty),
    top((0x0020, 0x000D), *b"UI", "Study Instance UID", Need::Required),
    top(SERIES_UID, *b"UI", "Series Instance UID", Need::Required),
    top((0x0020, 0x0010), *b"SH", "Study ID", Need::Empty),
    top(PATIENT_ORIENTATION, *b"CS", "Patient Orientation", Need::Optional),
    top(FRAME_OF_REFERENCE_UID, *b"UI", "Frame of Reference UID", Need::Optional),
    top(POSITION_REFERENCE, *b"LO", "Position Reference Indicator", Need::Optional),
    top(LOSSY, *b"CS", "Lossy Image Compression", Need::Optional),
    top((0x0028, 0x2112), *b"DS", "Lossy Image Compression Ratio", Need::Optional),
    top((0x0028, 0x2114), *b"CS", "Lossy Image Compression Method", Need::Optional),
    grouped(PIXEL_MEASURES, PIXEL_SPACING, "Pixel Spacing"),
    grouped(PIXEL_MEASURES, SLICE_THICKNESS, "Slice Thickness"),
    grouped(PIXEL_MEASURES, (0x0018, 0x0088), "Spacing Between Slices"),
    grouped(PLANE_POSITION, POSITION, "Image Position (Patient)"),
    grouped(PLANE_ORIENTATION, ORIENTATION, "Image Orientation (Patient)"),
    top((0x0010, 0x1010), *b"AS", "Patient's Age", Need::Optional),
];

/// The table's row of a tag.
pub(crate) fn taken(tag: AttributeTag) -> Option<&'static Taken> {
    TAKEN.iter().find(|taken| taken.tag == tag)
}

/// The value as it may be repeated: without padding, or `None` where it breaks its VR.
pub(crate) fn acceptable(taken: &Taken, value: &[u8]) -> Option<Vec<u8>> {
    let end = value.iter().rposition(|&byte| byte != 0 && byte != b' ')? + 1;
    let value = value.get(..end)?;
    let parts = || value.split(|&byte| byte == b'\\');
    let good = match &taken.vr {
        b"UI" => is_uid(value),
        b"DA" => value.len() == 8 && value.iter().all(u8::is_ascii_digit),
        b"TM" => is_time(value),
        b"AS" => is_age(value),
        b"CS" => parts().all(|part| part.len() <= 16 && part.iter().all(|&b| is_code(b))),
        b"DS" => return decimals(taken.tag, value),
        // PS3.5 6.1.3: of the control characters only ESC, which switches ISO 2022 sets.
        _ => {
            value.len() <= TEXT_BYTES
                && value.iter().all(|&byte| byte == 0x1B || !byte.is_ascii_control())
        }
    };
    (good && (taken.tag != TIMEZONE || offset_minutes(value).is_some())).then(|| value.to_vec())
}

/// `+HHMM` or `-HHMM` in minutes.
pub(crate) fn offset_minutes(value: &[u8]) -> Option<i32> {
    let text = str::from_utf8(value).ok().filter(|text| text.len() == 5 && text.is_ascii())?;
    let (sign, digits) = text.split_at(1);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = digits.split_at(2);
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let total = (hours <= 14 && minutes < 60).then_some(hours * 60 + minutes)?;
    match sign {
        "+" => Some(total),
        "-" => Some(-total),
        _ => None,
    }
}

/// PS3.5 9.1.
fn is_uid(value: &[u8]) -> bool {
    let component = |part: &[u8]| {
        !part.is_empty()
            && part.iter().all(u8::is_ascii_digit)
            && (part.len() == 1 || !part.starts_with(b"0"))
    };
    value.len() <= 64 && value.split(|&byte| byte == b'.').all(component)
}

fn is_time(value: &[u8]) -> bool {
    let (whole, fraction) = match value.iter().position(|&byte| byte == b'.') {
        Some(dot) => (value.get(..dot), value.get(dot + 1..)),
        None => (Some(value), None),
    };
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    let whole = whole.unwrap_or_default();
    let fraction_fits =
        fraction.is_none_or(|f| whole.len() == 6 && (1..=6).contains(&f.len()) && digits(f));
    matches!(whole.len(), 2 | 4 | 6) && digits(whole) && fraction_fits
}

fn is_age(value: &[u8]) -> bool {
    value.len() == 4
        && value.iter().take(3).all(u8::is_ascii_digit)
        && value.last().is_some_and(|unit| b"DWMY".contains(unit))
}

/// The default repertoire of CS, and lower case, which files have although they must not.
fn is_code(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b' ' || byte == b'-'
}

/// Finite numbers, as many as the attribute has, each within the 16 characters of a DS.
fn decimals(tag: AttributeTag, value: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(value).ok()?;
    let parts: Vec<&str> = text.split('\\').map(str::trim).collect();
    let numbers: Vec<f64> =
        parts.iter().map(|part| part.parse().ok()).collect::<Option<Vec<f64>>>()?;
    let positive = |numbers: &[f64]| numbers.iter().all(|&number| number > 0.0);
    let fits = match tag {
        PIXEL_SPACING => numbers.len() == 2 && positive(&numbers),
        SLICE_THICKNESS => numbers.len() == 1 && positive(&numbers),
        POSITION => numbers.len() == 3,
        ORIENTATION => numbers.len() == 6,
        _ => numbers.len() <= 16,
    };
    if !fits || !numbers.iter().all(|number| number.is_finite()) {
        return None;
    }
    let shown = |(part, number): (&&str, f64)| {
        if part.len() <= 16 { Some((*part).to_owned()) } else { short(number) }
    };
    let shown: Option<Vec<String>> = parts.iter().zip(numbers).map(shown).collect();
    Some(shown?.join("\\").into_bytes())
}

/// As many digits as 16 characters hold.
fn short(number: f64) -> Option<String> {
    let plain = (0..=14).rev().map(|digits| format!("{number:.digits$}"));
    let powers = (0..=12).rev().map(|digits| format!("{number:.digits$e}"));
    let small = number != 0.0 && number.abs() < 1e-4;
    let fits = |text: &String| text.len() <= 16;
    if small { powers.chain(plain).find(fits) } else { plain.chain(powers).find(fits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(tag: AttributeTag, value: &[u8]) -> Option<String> {
        let value = acceptable(taken(tag).unwrap(), value)?;
        Some(String::from_utf8(value).unwrap())
    }

    #[test]
    fn values_that_break_their_vr_are_left_out() {
        let name = (0x0010, 0x0010);
        for (tag, value, expected) in [
            (INSTANCE_UID, &b"1.2.840.10008\0"[..], Some("1.2.840.10008")),
            (INSTANCE_UID, b"1.2..3", None),
            (INSTANCE_UID, b"1.02.3", None),
            (INSTANCE_UID, b"1.2.A", None),
            (INSTANCE_UID, b"", None),
            ((0x0008, 0x0020), b"20240229", Some("20240229")),
            ((0x0008, 0x0020), b"2024.02.29", None),
            ((0x0008, 0x0030), b"235959.123456", Some("235959.123456")),
            ((0x0008, 0x0030), b"2359", Some("2359")),
            ((0x0008, 0x0030), b"23:59:59", None),
            ((0x0008, 0x0030), b"2359.5", None),
            ((0x0010, 0x1010), b"063Y", Some("063Y")),
            ((0x0010, 0x1010), b"63", None),
            ((0x0010, 0x0040), b"F ", Some("F")),
            ((0x0010, 0x0040), b"F\r\n", None),
            (name, b"A^B=\x1b$)C\x1b(B ", Some("A^B=\x1b$)C\x1b(B")),
            (name, b"A\nB", None),
            (TIMEZONE, b"+0800", Some("+0800")),
            (TIMEZONE, b"+2500", None),
            (TIMEZONE, b"UTC", None),
            (PIXEL_SPACING, b"0.7\\0.7 ", Some("0.7\\0.7")),
            (PIXEL_SPACING, b"0.7", None),
            (PIXEL_SPACING, b"0\\0.7", None),
            (POSITION, b"-1e3\\2\\NaN", None),
            (POSITION, b"1\\2", None),
            (ORIENTATION, b"1\\0\\0", None),
            (POSITION, b"1\\2\\-3.00000000000000001", Some("1\\2\\-3.0000000000000")),
            (
                ORIENTATION,
                b"1\\0\\0\\0\\1\\-1.23456789012345e-17",
                Some("1\\0\\0\\0\\1\\-1.234567890e-17"),
            ),
        ] {
            assert_eq!(accepted(tag, value).as_deref(), expected, "{tag:x?} {value:?}");
        }
        assert!(accepted(name, &[b'x'; 1025]).is_none());
        assert!(accepted(INSTANCE_UID, &[b'1'; 64]).is_some());
        assert!(accepted(INSTANCE_UID, &[b'1'; 65]).is_none());
    }

    #[test]
    fn no_attribute_is_in_the_table_twice() {
        for (index, row) in TAKEN.iter().enumerate() {
            assert!(TAKEN.iter().skip(index + 1).all(|other| other.tag != row.tag), "{}", row.name);
        }
    }
}
