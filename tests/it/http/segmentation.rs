//! `Accept: application/dicom`: a DICOM Segmentation of the file that this very request brings.

use super::{SEGMENT, body, one_click, served};
use crate::support::dicom::Ct;
use crate::support::disc_png;
use crate::support::engine::load_seeded;
use crate::support::wire::{Answer, FORM, Served, form};
use crate::support::{Setup, service};
use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;
use sam2d::http::Options;
use serde_json::json;
use std::path::Path;

const ENCODES: &str = "sam2d_engine_calls_total{kind=\"encode\"}";

/// One and the same picture of two people.
fn two() -> [Ct; 2] {
    let of = |patient, uid| Ct { patient, uid, ..Ct::default() };
    [
        of("KANARIENVOGEL^ANNA", "1.2.826.0.1.3680043.10.77001"),
        of("WELLENSITTICH^BEA", "1.2.826.0.1.3680043.10.77002"),
    ]
}

async fn ask(served: &Served, body: &str, accept: &str) -> Answer {
    let headers = [("Content-Type", "application/json"), ("Accept", accept)];
    served.ask("POST", SEGMENT, &headers, body.as_bytes()).await
}

async fn segmentation(served: &Served, ct: &Ct) -> Answer {
    let answer = ask(served, &body(&ct.bytes(), &one_click()), "application/dicom").await;
    assert_eq!(answer.status, 200, "{:?}", answer.headers);
    answer
}

fn read(answer: &Answer) -> DefaultDicomObject {
    assert_eq!(answer.header("content-type"), Some("application/dicom"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(&answer.body[128..132], b"DICM");
    dicom_object::from_reader(&*answer.body).unwrap()
}

fn text(object: &DefaultDicomObject, tag: dicom_core::Tag) -> String {
    object.element(tag).unwrap().to_str().unwrap().trim_end_matches([' ', '\0']).to_owned()
}

/// Whose and of which file it says it is.
fn identity(answer: &Answer) -> [String; 4] {
    let object = read(answer);
    let series = object.element(tags::REFERENCED_SERIES_SEQUENCE).unwrap().items().unwrap();
    let instances = series[0].element(tags::REFERENCED_INSTANCE_SEQUENCE).unwrap();
    let source = instances.items().unwrap()[0].element(tags::REFERENCED_SOP_INSTANCE_UID).unwrap();
    [
        text(&object, tags::PATIENT_NAME),
        text(&object, tags::PATIENT_ID),
        text(&object, tags::STUDY_INSTANCE_UID),
        source.to_str().unwrap().trim_end_matches([' ', '\0']).to_owned(),
    ]
}

fn own_identity(ct: &Ct) -> [String; 4] {
    [ct.patient.into(), ct.patient.into(), format!("{}.2", ct.uid), ct.uid.into()]
}

/// Single bits back into levels.
fn levels(object: &DefaultDicomObject, pixels: usize) -> Vec<u8> {
    let packed = object.element(tags::PIXEL_DATA).unwrap().to_bytes().unwrap();
    let bits = packed.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1));
    bits.take(pixels).map(|bit| bit * 255).collect()
}

/// Files below a folder that hold one of the words.
fn holding(folder: &Path, words: &[String], found: &mut Vec<String>) -> usize {
    let mut read = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read += holding(&path, words, found);
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        read += 1;
        let inside = |word: &String| bytes.windows(word.len()).any(|w| w == word.as_bytes());
        if words.iter().any(inside) {
            found.push(path.display().to_string());
        }
    }
    read
}

#[tokio::test]
async fn the_segmentation_is_the_mask_and_its_headers_carry_the_rest() {
    let served = served().await;
    let ct = Ct::default();
    let json = served.json(SEGMENT, &body(&ct.bytes(), &one_click())).await.value();
    let mask = base64_simd::STANDARD.decode_to_vec(json["mask_data"].as_str().unwrap()).unwrap();
    let mask = image::load_from_memory(&mask).unwrap().into_luma8();
    assert!(mask.pixels().any(|pixel| pixel.0 == [255]), "the seeded engine marks something here");

    let answer = segmentation(&served, &ct).await;
    let object = read(&answer);
    assert_eq!(levels(&object, 96 * 80), mask.into_raw());
    assert_eq!(identity(&answer), own_identity(&ct));
    assert_eq!(answer.header("x-mask-id"), json["mask_id"].as_str());
    assert_eq!(answer.header("x-cached"), Some("true"));
    assert_eq!(answer.header("vary"), Some("Origin, Accept"));
    let segment = &object.element(tags::SEGMENT_SEQUENCE).unwrap().items().unwrap()[0];
    let kind = segment.element(tags::SEGMENT_ALGORITHM_TYPE).unwrap().to_str().unwrap();
    assert_eq!(kind.trim(), "SEMIAUTOMATIC");
    let by = segment.element(tags::SEGMENTATION_ALGORITHM_IDENTIFICATION_SEQUENCE).unwrap();
    let version = by.items().unwrap()[0].element(tags::ALGORITHM_VERSION).unwrap();
    assert_eq!(Some(&*version.to_str().unwrap()), json["model"]["fingerprint"].as_str());

    // As a form, by the old service's route; and one click, which no person pointed.
    let ct = ct.bytes();
    let headers = [("Content-Type", FORM), ("Accept", "application/dicom")];
    let old = served.ask("POST", "/segment", &headers, &form(&[("file", &ct)])).await;
    let object = read(&old);
    let segment = &object.element(tags::SEGMENT_SEQUENCE).unwrap().items().unwrap()[0];
    let kind = segment.element(tags::SEGMENT_ALGORITHM_TYPE).unwrap().to_str().unwrap();
    assert_eq!(kind.trim(), "AUTOMATIC");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_pixels_of_two_people_keep_each_their_own_name_and_no_cache_holds_one() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup { cache: Some(folder.path()), ..Setup::default() };
    let service = service(setup, load_seeded).await;
    let served = Served::start(service.clone(), Options::default()).await;
    let [anna, bea] = &two();
    for _ in 0..3 {
        let together = tokio::join!(segmentation(&served, anna), segmentation(&served, bea));
        assert_eq!(identity(&together.0), own_identity(anna));
        assert_eq!(identity(&together.1), own_identity(bea));
        let instance = |answer| text(&read(answer), tags::SOP_INSTANCE_UID);
        assert_ne!(instance(&together.0), instance(&together.1));
    }
    for ct in [anna, bea, anna] {
        let answer = segmentation(&served, ct).await;
        assert_eq!(identity(&answer), own_identity(ct));
        // The mask is one that was kept; whose it is never was.
        assert_eq!(answer.header("x-cached"), Some("true"));
    }
    assert_eq!(served.metric(ENCODES).await, 1.0);
    served.stop().await;
    service.finish();
    let words: Vec<String> = two().iter().flat_map(own_identity).collect();
    let mut found = Vec::new();
    assert!(holding(folder.path(), &words, &mut found) > 0, "there is a cache to be searched");
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
async fn only_a_dicom_file_sent_in_the_same_request_has_one() {
    let served = served().await;
    let first = served.json(SEGMENT, &body(&Ct::default().bytes(), &one_click())).await.value();
    let id = first["image"]["id"].as_str().unwrap();
    let mut by_reference = one_click();
    by_reference["image_data"] = json!(format!("image:{id}"));
    by_reference["image_type"] = json!("auto");
    let bodies = [
        by_reference.to_string(),
        by_reference.to_string().replace(&format!("image:{id}"), "file:slice.dcm"),
        body(&disc_png(64, 48), &one_click()),
        body(b"\xff\xd8\xff\xe0 a JPEG, by its first bytes", &one_click()),
        body(b"no image", &one_click()),
    ];
    for body in &bodies {
        let refused = ask(&served, body, "application/dicom").await;
        assert_eq!((refused.status, &*refused.code()), (406, "not_acceptable"));
        let detail = refused.value()["detail"].to_string();
        assert!(detail.contains("sent in the same request"), "{detail}");
    }
    // A client that would rather have a Segmentation, and takes what there is.
    let accept = "application/dicom, application/json;q=0.5";
    let instead = ask(&served, &bodies[0], accept).await;
    assert_eq!((instead.status, instead.header("content-type")), (200, Some("application/json")));
    let wanted = ask(&served, &body(&Ct::default().bytes(), &one_click()), accept).await;
    assert_eq!(wanted.header("content-type"), Some("application/dicom"));
    // Nobody gets one who did not ask for it.
    let any = ask(&served, &body(&Ct::default().bytes(), &one_click()), "*/*").await;
    assert_eq!(any.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn a_file_that_nothing_can_refer_to_is_refused_before_the_engine_works() {
    let served = served().await;
    let nameless = Ct { uid: "none", ..Ct::default() };
    let refused = ask(&served, &body(&nameless.bytes(), &one_click()), "application/dicom").await;
    assert_eq!((refused.status, &*refused.code()), (400, "invalid_request"));
    assert_eq!(
        refused.value()["detail"],
        "the DICOM file has no valid SOP Instance UID, so no DICOM Segmentation can refer to it"
    );
    assert_eq!(served.metric(ENCODES).await, 0.0);
    // It is an image all the same, and several frames still want one to be named.
    let json = served.json(SEGMENT, &body(&nameless.bytes(), &one_click())).await;
    assert_eq!(json.status, 200);
    let cine = Ct { frames: 3, ..Ct::default() }.bytes();
    let refused = ask(&served, &body(&cine, &one_click()), "application/dicom").await;
    assert_eq!(refused.code(), "frame_required");
    let mut more = one_click();
    more["frame"] = json!(2);
    let one = ask(&served, &body(&cine, &more), "application/dicom").await;
    let object = read(&one);
    let groups = object.element(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE).unwrap();
    let derivation = groups.items().unwrap()[0].element(tags::DERIVATION_IMAGE_SEQUENCE).unwrap();
    let origin = derivation.items().unwrap()[0].element(tags::SOURCE_IMAGE_SEQUENCE).unwrap();
    let frame = origin.items().unwrap()[0].element(tags::REFERENCED_FRAME_NUMBER).unwrap();
    assert_eq!(frame.to_int::<u32>().unwrap(), 3);
}
