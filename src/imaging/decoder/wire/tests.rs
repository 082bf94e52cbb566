//! What a child may say, and what nobody believes.

use super::*;

fn modality() -> Samples {
    Samples::Modality(crate::imaging::raster::modality_bytes(vec![-1000.0, 0.0, 40.0, 3000.0]))
}

/// As an honest child describes a CT slice.
fn honest() -> SliceInfo {
    SliceInfo {
        size: Size { width: 2, height: 2 },
        format: Format::Dicom,
        frame: 2,
        frames: 3,
        is_ct: true,
        inverted: false,
        voi: Voi::Window(Window { center: 40.0, width: 400.0, function: WindowFunction::Sigmoid }),
        range: Some((-1000.0, 3000.0)),
        spacing_mm: Some((0.7, 0.6)),
    }
}

fn received(info: &SliceInfo) -> Option<SliceInfo> {
    info_from_bytes(&info_to_bytes(info, &modality()), modality().bytes().clone())
        .map(|(info, _)| info)
}

#[test]
fn an_honest_description_arrives_whole() {
    let lut = VoiLut { first: -5, bits: 12, levels: vec![0, 7, 4095] };
    let others = [
        honest(),
        SliceInfo { voi: Voi::None, spacing_mm: None, ..honest() },
        SliceInfo { voi: Voi::Lut(lut), inverted: true, is_ct: false, ..honest() },
    ];
    for info in others {
        assert_eq!(received(&info), Some(info));
    }
}

#[test]
fn a_description_that_can_not_be_is_refused() {
    let window =
        |center, width| Voi::Window(Window { center, width, function: WindowFunction::Linear });
    let lies = [
        SliceInfo { range: Some((f32::NAN, 1.0)), ..honest() },
        SliceInfo { range: Some((0.0, f32::INFINITY)), ..honest() },
        SliceInfo { range: Some((2.0, 1.0)), ..honest() },
        SliceInfo { range: None, ..honest() },
        SliceInfo { frame: 3, ..honest() },
        SliceInfo { spacing_mm: Some((0.0, 1.0)), ..honest() },
        SliceInfo { spacing_mm: Some((1.0, f64::NAN)), ..honest() },
        SliceInfo { voi: window(f64::NAN, 400.0), ..honest() },
        SliceInfo { voi: window(40.0, 0.5), ..honest() },
        SliceInfo { voi: Voi::Lut(VoiLut { first: 0, bits: 7, levels: vec![1] }), ..honest() },
        SliceInfo { voi: Voi::Lut(VoiLut { first: 0, bits: 8, levels: vec![] }), ..honest() },
    ];
    for lie in lies {
        assert_eq!(received(&lie), None, "{lie:?}");
    }
    let bytes = info_to_bytes(&honest(), &modality());
    for length in 0..bytes.len() {
        let samples = modality().bytes().clone();
        assert!(info_from_bytes(&bytes[..length], samples).is_none(), "{length} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(info_from_bytes(&longer, modality().bytes().clone()).is_none(), "a byte too many");
}

#[test]
fn words_of_a_child_are_cut_to_what_may_be_shown() {
    let reason = format!("a\n\u{1b}[31m é × {}", "x".repeat(1000));
    let mut message = vec![3, 1];
    message.extend(u32::try_from(500).unwrap().to_le_bytes());
    message.extend(&reason.as_bytes()[..500]);
    match Reply::from_bytes(&message) {
        Some(Reply::Error(DecodeError::Unreadable(reason))) => {
            assert!(reason.starts_with("a??[31m ? × xxx"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let sent = Reply::Error(DecodeError::Unreadable(reason)).to_bytes();
    assert!(sent.len() < PACKET_BYTES, "a reason fits a packet");
    match Reply::from_bytes(&sent) {
        Some(Reply::Error(DecodeError::Unreadable(reason))) => {
            assert!(reason.starts_with("a??[31m ? × xxx"), "{reason}");
            assert_eq!(reason.chars().count(), REASON_BYTES);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_of_any_other_length_are_none() {
    let setup = Setup {
        bounds: Bounds { memory_bytes: 1, cpu_s: 2, answer_bytes: 3 },
        limits: Limits::default(),
        sandboxed: true,
    };
    assert_eq!(Setup::from_bytes(&setup.to_bytes()), Some(setup));
    let request = Request { length: 9, frame: Some(4), identity: true };
    assert_eq!(Request::from_bytes(&request.to_bytes()), Some(request));
    let reply = Reply::Slice { samples: 1, info: 2, identity: 3 }.to_bytes();
    for cut in 0..reply.len() {
        assert!(Reply::from_bytes(&reply[..cut]).is_none(), "{cut} bytes");
    }
    assert!(Reply::from_bytes(&[&reply[..], &[0]].concat()).is_none());
    assert!(Reply::from_bytes(&[9]).is_none());
}

#[test]
fn refusals_that_can_not_be_are_no_answer() {
    let sent = |error| Reply::from_bytes(&Reply::Error(error).to_bytes());
    assert!(sent(DecodeError::FrameRequired { frames: 2 }).is_some());
    assert!(sent(DecodeError::FrameRequired { frames: 1 }).is_none());
    assert!(sent(DecodeError::FrameOutOfRange { frame: 2, frames: 2 }).is_some());
    assert!(sent(DecodeError::FrameOutOfRange { frame: 1, frames: 2 }).is_none());
}

#[test]
fn an_identity_holds_each_attribute_once_and_only_acceptable_ones() {
    let of = |values: &[((u16, u16), &[u8])]| {
        let mut out = Out::default();
        for ((group, element), value) in values {
            out.0.extend_from_slice(&group.to_le_bytes());
            out.0.extend_from_slice(&element.to_le_bytes());
            out.u32(u32::try_from(value.len()).unwrap());
            out.0.extend_from_slice(value);
        }
        source_from_bytes(&out.0, &honest())
    };
    let (name, uid) = ((0x0010, 0x0010), (0x0008, 0x0018));
    let source = of(&[(name, b"A^B"), (uid, b"1.2")]).unwrap();
    assert_eq!((source.value(name), source.value(uid)), (Some(&b"A^B"[..]), Some(&b"1.2"[..])));
    assert!(of(&[(name, b"A"), (name, b"B")]).is_none(), "twice");
    assert!(of(&[(uid, b"1..2")]).is_none(), "no UID");
    assert!(of(&[(name, b"A ")]).is_none(), "padded");
    assert!(of(&[((0x0010, 0x2160), b"A")]).is_none(), "not in the table");
}
