//! DICOM files made in code: a CT slice of whatever is wanted, with a made-up identity.

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

/// What is in the file.
#[derive(Clone)]
pub(crate) struct Ct {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
    pub(crate) frames: u16,
    pub(crate) photometric: &'static str,
    pub(crate) slope: &'static str,
    pub(crate) intercept: &'static str,
    pub(crate) window: Option<(&'static str, &'static str)>,
    pub(crate) modality: &'static str,
    pub(crate) patient: &'static str,
    pub(crate) uid: &'static str,
    /// One value everywhere, in every frame: pixels that say nothing of shape or place.
    pub(crate) flat: bool,
}

impl Default for Ct {
    fn default() -> Self {
        Self {
            rows: 80,
            columns: 96,
            frames: 1,
            photometric: "MONOCHROME2",
            slope: "1",
            intercept: "-1024",
            window: Some(("40", "400")),
            modality: "CT",
            patient: "TEST^ONE",
            uid: "1.2.826.0.1.3680043.10.1",
            flat: false,
        }
    }
}

impl Ct {
    /// Signed 16-bit values of a soft disc in air, frame after frame a little brighter.
    fn pixels(&self) -> Vec<u16> {
        if self.flat {
            return vec![1010; usize::from(self.rows * self.columns * self.frames)];
        }
        let (w, h) = (f64::from(self.columns), f64::from(self.rows));
        let mut pixels = Vec::new();
        for frame in 0..self.frames {
            for y in 0..self.rows {
                for x in 0..self.columns {
                    let r = (f64::from(x) - w / 2.0).hypot(f64::from(y) - h / 2.0);
                    let tissue = if r < h / 5.0 {
                        1124
                    } else if r < h / 2.2 {
                        1010
                    } else {
                        20
                    };
                    pixels.push(tissue + (x + 2 * y) % 7 + frame);
                }
            }
        }
        pixels
    }

    /// The bytes of a Part 10 file, explicit little endian.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let text = |tag, vr, value: &str| DataElement::new(tag, vr, value);
        let number = |tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
        let mut object = InMemDicomObject::from_element_iter([
            text(tags::SOP_CLASS_UID, VR::UI, "1.2.840.10008.5.1.4.1.1.2"),
            text(tags::SOP_INSTANCE_UID, VR::UI, self.uid),
            text(tags::STUDY_INSTANCE_UID, VR::UI, &format!("{}.2", self.uid)),
            text(tags::SERIES_INSTANCE_UID, VR::UI, &format!("{}.3", self.uid)),
            text(tags::MODALITY, VR::CS, self.modality),
            text(tags::PATIENT_NAME, VR::PN, self.patient),
            text(tags::PATIENT_ID, VR::LO, self.patient),
            text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, self.photometric),
            text(tags::RESCALE_SLOPE, VR::DS, self.slope),
            text(tags::RESCALE_INTERCEPT, VR::DS, self.intercept),
            text(tags::NUMBER_OF_FRAMES, VR::IS, &self.frames.to_string()),
            text(tags::PIXEL_SPACING, VR::DS, "0.8\\0.8"),
            number(tags::ROWS, self.rows),
            number(tags::COLUMNS, self.columns),
            number(tags::SAMPLES_PER_PIXEL, 1),
            number(tags::BITS_ALLOCATED, 16),
            number(tags::BITS_STORED, 12),
            number(tags::HIGH_BIT, 11),
            number(tags::PIXEL_REPRESENTATION, 0),
        ]);
        if let Some((center, width)) = self.window {
            object.put(text(tags::WINDOW_CENTER, VR::DS, center));
            object.put(text(tags::WINDOW_WIDTH, VR::DS, width));
        }
        let pixels = PrimitiveValue::U16(self.pixels().into());
        object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, pixels));
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax("1.2.840.10008.1.2.1")
            .media_storage_sop_class_uid("1.2.840.10008.5.1.4.1.1.2")
            .media_storage_sop_instance_uid(self.uid);
        let mut bytes = Vec::new();
        object.with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
        bytes
    }
}
