//! From stored to modality values and on to levels: rescale, tables, windows, padding, spacing.

use super::*;
use crate::domain::slice::{Voi, Window, WindowFunction};

#[test]
fn a_modality_lut_maps_stored_values_and_clamps_at_its_ends() {
    let lut: Elements = vec![
        (0x0028, 0x3002, "SS", words(&[3, (-1i16).cast_unsigned(), 16])),
        (0x0028, 0x3006, "OW", words(&[100, 200, 300])),
    ];
    let base = bits(grey(&[0xFF00, 0xFFFF, 0, 1, 7]), 16, 16, 1);
    let elements = with(base, vec![(0x0028, 0x3000, "SQ", Value::Items(vec![lut]))]);
    assert_eq!(values(&elements), [100., 100., 200., 300., 300.]);
}

#[test]
fn the_files_voi_lut_is_used_where_there_is_no_window() {
    let lut: Elements = vec![
        (0x0028, 0x3002, "US", words(&[4, 10, 10])),
        (0x0028, 0x3006, "OW", words(&[0, 100, 1000, 1023])),
    ];
    let sequence = (0x0028, 0x3010, "SQ", Value::Items(vec![lut]));
    let elements = with(grey(&[0, 10, 11, 12, 13, 99]), vec![sequence.clone()]);
    let slice = slice_of(&file(&elements));
    assert!(matches!(slice.info().voi, Voi::Lut(_)));
    assert_eq!(levels(&slice), [0, 0, 25, 249, 255, 255]);
    let window = vec![(0x0028, 0x1050, "DS", text("12")), (0x0028, 0x1051, "DS", text("3"))];
    let both = slice_of(&file(&with(elements, window)));
    assert!(matches!(both.info().voi, Voi::Window(_)), "a window comes first");
}

#[test]
fn the_three_window_functions_follow_the_standard() {
    // PS3.3 C.11.2.1.2.1 and .3, for c = 10, w = 5, at 7 to 13.
    let expected: [(&str, WindowFunction, [f64; 7]); 3] = [
        ("LINEAR", WindowFunction::Linear, [0., 0.125, 0.375, 0.625, 0.875, 1., 1.]),
        ("LINEAR_EXACT", WindowFunction::LinearExact, [0., 0.1, 0.3, 0.5, 0.7, 0.9, 1.]),
        (
            "SIGMOID",
            WindowFunction::Sigmoid,
            [0.083_173, 0.167_982, 0.310_026, 0.5, 0.689_974, 0.832_018, 0.916_827],
        ),
    ];
    for (name, function, shares) in expected {
        let elements = with(
            grey(&[7, 8, 9, 10, 11, 12, 13]),
            vec![
                (0x0028, 0x1050, "DS", text("10")),
                (0x0028, 0x1051, "DS", text("5")),
                (0x0028, 0x1056, "CS", text(name)),
            ],
        );
        let slice = slice_of(&file(&elements));
        match &slice.info().voi {
            Voi::Window(window) => assert_eq!(window.function, function),
            other => panic!("{other:?}"),
        }
        for (level, share) in levels(&slice).iter().zip(shares) {
            assert!((f64::from(*level) - share * 255.0).abs() <= 0.5001, "{name} {level} {share}");
        }
    }
}

#[test]
fn a_window_of_width_1_is_a_step_and_one_of_0_is_none() {
    let window = |width: &str| {
        let elements = with(
            grey(&[9, 10, 11]),
            vec![(0x0028, 0x1050, "DS", text("10")), (0x0028, 0x1051, "DS", text(width))],
        );
        slice_of(&file(&elements))
    };
    assert_eq!(levels(&window("1")), [0, 255, 255]);
    assert_eq!(window("0").info().voi, Voi::None);
    assert_eq!(window("-5").info().voi, Voi::None);
    let asked = Window { center: 10.0, width: 0.5, function: WindowFunction::Linear };
    let refused = window::resolve(window("1").info(), Some(asked), ImageType::Auto);
    assert_eq!(refused, Err(window::WindowError::Invalid));
}

#[test]
fn functional_groups_of_the_frame_come_before_shared_ones_before_the_top_level() {
    let rescale = |slope: &str, intercept: &str| -> (u16, u16, &'static str, Value) {
        let item: Elements = vec![
            (0x0028, 0x1052, "DS", text(intercept)),
            (0x0028, 0x1053, "DS", text(slope)),
            (0x0028, 0x1054, "LO", text("HU")),
        ];
        (0x0028, 0x9145, "SQ", Value::Items(vec![item]))
    };
    let spacing: Elements = vec![(0x0028, 0x0030, "DS", text("0.7\\0.6"))];
    let voi: Elements = vec![(0x0028, 0x1050, "DS", text("5")), (0x0028, 0x1051, "DS", text("11"))];
    let shared: Elements =
        vec![(0x0028, 0x9110, "SQ", Value::Items(vec![spacing])), rescale("2", "1")];
    let own: Elements = vec![(0x0028, 0x9132, "SQ", Value::Items(vec![voi])), rescale("10", "-1")];
    let elements = with(
        grey(&[1, 2, 3]),
        vec![
            (0x0028, 0x0008, "IS", text("2")),
            (0x0028, 0x0030, "DS", text("9\\9")),
            (0x7FE0, 0x0010, "OW", words(&[1, 2, 3, 1, 2, 3])),
            (0x5200, 0x9229, "SQ", Value::Items(vec![shared])),
            (0x5200, 0x9230, "SQ", Value::Items(vec![vec![], own])),
        ],
    );
    let frame = |frame| decode(&file(&elements), Some(frame), &Limits::default()).unwrap();
    let (first, second) = (frame(0), frame(1));
    assert_eq!(first.samples().modality().unwrap(), [3., 5., 7.]);
    assert_eq!(second.samples().modality().unwrap(), [9., 19., 29.]);
    assert_eq!(first.info().voi, Voi::None);
    assert!(matches!(second.info().voi, Voi::Window(_)));
    for slice in [first, second] {
        assert_eq!(slice.info().spacing_mm, Some((0.7, 0.6)));
        assert!(slice.info().is_ct);
        assert_eq!(slice.info().frames, 2);
    }
}

#[test]
fn a_segmentation_of_one_frame_of_several_lies_where_that_frame_lies_or_nowhere() {
    const POSITION: (u16, u16) = (0x0020, 0x0032);
    let at = |place: &str| (0x0020, 0x0032, "DS", text(place));
    let own = vec![(0x0020, 0x9113, "SQ", Value::Items(vec![vec![at("4\\5\\6")]]))];
    let of = |frames: &str, groups: Vec<Elements>| {
        let elements = vec![
            at("1\\2\\3"),
            (0x0028, 0x0008, "IS", text(frames)),
            (0x7FE0, 0x0010, "OW", words(&[1, 2, 3, 1, 2, 3])),
            (0x5200, 0x9230, "SQ", Value::Items(groups)),
        ];
        let file = file(&with(grey(&[1, 2, 3]), elements));
        move |frame| {
            let source = segmentation_source(&file, Some(frame), &Limits::default()).unwrap();
            source.value(POSITION).map(|value| String::from_utf8(value.to_vec()).unwrap())
        }
    };
    let several = of("2", vec![vec![], own]);
    // What the top level says holds for no frame of several.
    assert_eq!(several(0), None);
    assert_eq!(several(1).as_deref(), Some("4\\5\\6"));
    let single = of("1", vec![]);
    assert_eq!(single(0).as_deref(), Some("1\\2\\3"));
}

#[test]
fn padding_is_left_out_of_the_range() {
    let padded = |values: &[u16], value: i16, limit: Option<i16>| {
        let mut changes = vec![(0x0028, 0x0120, "SS", words(&[value.cast_unsigned()]))];
        changes.extend(limit.map(|limit| (0x0028, 0x0121, "SS", words(&[limit.cast_unsigned()]))));
        let base = bits(grey(values), 16, 16, 1);
        slice_of(&file(&with(base, changes))).info().range
    };
    let values = [(-2000i16).cast_unsigned(), (-1999i16).cast_unsigned(), 5, 70];
    assert_eq!(padded(&values, -2000, None), Some((-1999., 70.)));
    assert_eq!(padded(&values, -2000, Some(-1990)), Some((5., 70.)));
    assert_eq!(padded(&values, -1990, Some(-2000)), Some((5., 70.)), "either order");
    assert_eq!(padded(&[7, 7], 7, None), Some((7., 7.)));
    assert_eq!(padded(&[7, 9], 7, Some(10)), Some((7., 7.)), "nothing but padding");
}

#[test]
fn a_slice_of_nothing_but_padding_is_black() {
    for photometric in ["MONOCHROME1", "MONOCHROME2"] {
        let changes = vec![
            (0x0028, 0x0004, "CS", text(photometric)),
            (0x0028, 0x0120, "SS", words(&[7])),
            (0x0028, 0x0121, "SS", words(&[10])),
        ];
        let slice = slice_of(&file(&with(bits(grey(&[7, 8, 9, 10]), 16, 16, 1), changes)));
        let (rendering, source) = window::resolve(slice.info(), None, ImageType::Auto).unwrap();
        assert_eq!(source, window::Source::MinMax, "{photometric}");
        assert_eq!(window::render(&slice, &rendering), Levels::Grey(vec![0; 4]), "{photometric}");
    }
}

#[test]
fn only_ct_in_hounsfield_units_gets_the_contexts_window() {
    let rescale: Elements =
        vec![(0x0028, 0x1052, "DS", text("-1024")), (0x0028, 0x1053, "DS", text("1"))];
    let is_ct = |changes: Elements| slice_of(&file(&with(grey(&[1, 2]), changes))).info().is_ct;
    assert!(is_ct(rescale.clone()));
    assert!(!is_ct(vec![]), "no rescale: nobody knows the unit");
    assert!(!is_ct(with(rescale.clone(), vec![(0x0008, 0x0060, "CS", text("MR"))])));
    assert!(!is_ct(with(rescale, vec![(0x0028, 0x1054, "LO", text("OD"))])));
}

#[test]
fn spacing_is_the_pixels_own_else_the_detectors_else_the_pictures_and_never_nonsense() {
    let spacing =
        |changes: Elements| slice_of(&file(&with(grey(&[1, 2]), changes))).info().spacing_mm;
    let pixel = |value| (0x0028, 0x0030, "DS", text(value));
    let imager = (0x0018, 0x1164, "DS", text("0.2\\0.1"));
    let nominal = (0x0018, 0x2010, "DS", text("0.4\\0.3"));
    let all = |value| vec![pixel(value), imager.clone(), nominal.clone()];
    assert_eq!(spacing(all("0.6\\0.5")), Some((0.6, 0.5)), "rows, then columns");
    for useless in ["0\\0.5", "-1\\1", "0.5"] {
        assert_eq!(spacing(all(useless)), Some((0.2, 0.1)), "{useless}");
    }
    assert_eq!(spacing(vec![nominal.clone()]), Some((0.4, 0.3)));
    assert_eq!(spacing(vec![]), None);
}

#[test]
fn the_first_of_several_windows_counts() {
    let windows =
        vec![(0x0028, 0x1050, "DS", text("40\\600")), (0x0028, 0x1051, "DS", text("400\\1600"))];
    match slice_of(&file(&with(grey(&[1, 2]), windows))).info().voi {
        Voi::Window(window) => assert_eq!((window.center, window.width), (40.0, 400.0)),
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn values_between_whole_numbers_keep_to_the_standards_bounds() {
    let half = |changes: Elements| {
        let elements = with(grey(&[18, 19, 20]), vec![(0x0028, 0x1053, "DS", text("0.5"))]);
        levels(&slice_of(&file(&with(elements, changes))))
    };
    // C.11.2.1.2.1: up to and with c − 0.5 − (w − 1)/2 is black.
    let step = vec![(0x0028, 0x1050, "DS", text("10")), (0x0028, 0x1051, "DS", text("1"))];
    assert_eq!(half(step), [0, 0, 255]);
    // A table's entry is the nearest: 9, 9.5 → 10, 10.
    let lut: Elements =
        vec![(0x0028, 0x3002, "US", words(&[2, 9, 8])), (0x0028, 0x3006, "OW", words(&[7, 200]))];
    assert_eq!(half(vec![(0x0028, 0x3010, "SQ", Value::Items(vec![lut]))]), [7, 200, 200]);
}

#[test]
fn a_table_of_modality_values_is_no_hounsfield_unit() {
    let lut: Elements =
        vec![(0x0028, 0x3002, "US", words(&[2, 0, 16])), (0x0028, 0x3006, "OW", words(&[10, 20]))];
    let changes = vec![
        (0x0028, 0x1052, "DS", text("-1024")),
        (0x0028, 0x1053, "DS", text("1")),
        (0x0028, 0x3000, "SQ", Value::Items(vec![lut])),
    ];
    let slice = slice_of(&file(&with(grey(&[0, 1]), changes)));
    assert_eq!(slice.samples().modality().unwrap(), [10., 20.], "the table comes before the slope");
    assert!(!slice.info().is_ct);
}

#[test]
fn a_tables_first_value_has_the_sign_of_its_own_vr() {
    let of = |vr, first: u16, stored: &[u16], signed| {
        let lut: Elements = vec![
            (0x0028, 0x3002, vr, words(&[2, first, 16])),
            (0x0028, 0x3006, "OW", words(&[10, 20])),
        ];
        let base = bits(grey(stored), 16, 16, signed);
        values(&with(base, vec![(0x0028, 0x3000, "SQ", Value::Items(vec![lut]))]))
    };
    assert_eq!(of("SS", 0xFFFF, &[0, 1], 0), [20., 20.], "−1, in a file of unsigned values");
    assert_eq!(of("US", 0xFFFE, &[0, 0x7FFF], 1), [10., 10.], "65,534, in one of signed values");
    // Without a VR the stored values' own sign says it.
    let lut: Elements = vec![
        (0x0028, 0x3002, "US", words(&[2, 0xFFFF, 16])),
        (0x0028, 0x3006, "OW", words(&[10, 20])),
    ];
    let base = bits(grey(&[0xFFFF, 0]), 16, 16, 1);
    let implicit = with(base, vec![(0x0028, 0x3000, "SQ", Value::Items(vec![lut]))]);
    let slice = slice_of(&wrapped("1.2.840.10008.1.2", &written(&implicit, true, false)));
    assert_eq!(slice.samples().modality().unwrap(), [10., 20.]);
}

#[test]
fn the_range_is_found_wherever_its_ends_lie() {
    for length in [1, 15, 16, 17, 40] {
        for at in 0..length {
            let mut stored = vec![500u16; length];
            stored[at] = 3;
            stored[length - 1 - at] = 900;
            let ends = (stored.iter().min().copied(), stored.iter().max().copied());
            let range = slice_of(&file(&grey(&stored))).info().range.unwrap();
            assert_eq!(
                (range.0, range.1),
                (f32::from(ends.0.unwrap()), f32::from(ends.1.unwrap()))
            );
        }
    }
}

#[test]
fn halves_between_two_levels_go_up() {
    let slice = slice_of(&file(&grey(&[0, 1, 3, 5, 507, 509, 510])));
    assert_eq!(levels(&slice), [0, 1, 2, 3, 254, 255, 255]);
    let rising: Vec<u16> = (0..=510).collect();
    let expected: Vec<u8> =
        (0..=510u16).map(|value| u8::try_from(value.div_ceil(2)).unwrap()).collect();
    assert_eq!(levels(&slice_of(&file(&grey(&rising)))), expected);
}
