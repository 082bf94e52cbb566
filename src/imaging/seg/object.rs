//! A DICOM data set under construction: values are bytes, as they will stand in the file.

use crate::domain::identity::{AttributeTag, SegmentationSource};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::uids::EXPLICIT_VR_LITTLE_ENDIAN;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

/// Ours, of a random UUID; PS3.7 D.3.3.2.
const IMPLEMENTATION: &str = "2.25.152075983865977051389998197582538347784";

/// A data set or an item of a sequence.
pub(super) struct Object(InMemDicomObject);

impl Default for Object {
    fn default() -> Self {
        Self(InMemDicomObject::new_empty())
    }
}

/// A coded concept. PS3.3 table 8.8-1.
pub(super) fn code(value: &str, scheme: &str, meaning: &str) -> Object {
    let mut item = Object::default();
    item.text((0x0008, 0x0100), *b"SH", value);
    item.text((0x0008, 0x0102), *b"SH", scheme);
    item.text((0x0008, 0x0104), *b"LO", meaning);
    item
}

impl Object {
    /// Bytes as they are, padded to an even length as their VR wants it.
    pub(super) fn put(&mut self, tag: AttributeTag, vr: [u8; 2], value: &[u8]) {
        let mut value = value.to_vec();
        if value.len() % 2 == 1 {
            value.push(if &vr == b"UI" { 0 } else { b' ' });
        }
        // dicom-object writes bytes under a VR of text as they are, but for the two VRs of numbers,
        // where it takes them for the numbers themselves; those are ASCII.
        let value = match (&vr, str::from_utf8(&value)) {
            (b"DS" | b"IS", Ok(text)) => PrimitiveValue::from(text),
            _ => PrimitiveValue::U8(value.into()),
        };
        self.value(tag, vr, value);
    }

    /// Our own words.
    pub(super) fn text(&mut self, tag: AttributeTag, vr: [u8; 2], value: &str) {
        self.put(tag, vr, value.as_bytes());
    }

    /// Words of someone else's: what is not printable ASCII becomes `?`, and a backslash, which would
    /// make two values of one, `/`.
    pub(super) fn words_of(&mut self, tag: AttributeTag, vr: [u8; 2], value: &str, limit: usize) {
        let plain = value.chars().take(limit).map(|c| match c {
            '\\' => '/',
            ' ' => ' ',
            c if c.is_ascii_graphic() => c,
            _ => '?',
        });
        self.text(tag, vr, &plain.collect::<String>());
    }

    /// The source's value under another tag, or the same.
    pub(super) fn copy(
        &mut self,
        source: &SegmentationSource,
        from: AttributeTag,
        to: AttributeTag,
        vr: [u8; 2],
    ) {
        if let Some(value) = source.value(from) {
            self.put(to, vr, value);
        }
    }

    pub(super) fn short(&mut self, tag: AttributeTag, value: u16) {
        self.shorts(tag, &[value]);
    }

    pub(super) fn shorts(&mut self, tag: AttributeTag, values: &[u16]) {
        self.value(tag, *b"US", PrimitiveValue::U16(values.into()));
    }

    pub(super) fn longs(&mut self, tag: AttributeTag, values: &[u32]) {
        self.value(tag, *b"UL", PrimitiveValue::U32(values.into()));
    }

    /// A tag as a value.
    pub(super) fn pointer(&mut self, tag: AttributeTag, to: AttributeTag) {
        let to = Tag(to.0, to.1);
        self.value(tag, *b"AT", PrimitiveValue::Tags([to].as_slice().into()));
    }

    /// Pixel data of single bits.
    pub(super) fn words(&mut self, tag: AttributeTag, bytes: Vec<u8>) {
        self.value(tag, *b"OB", PrimitiveValue::U8(bytes.into()));
    }

    pub(super) fn sequence(&mut self, tag: AttributeTag, items: Vec<Self>) {
        let items: Vec<_> = items.into_iter().map(|item| item.0).collect();
        self.0.put(DataElement::new(Tag(tag.0, tag.1), VR::SQ, DataSetSequence::from(items)));
    }

    fn value(&mut self, tag: AttributeTag, vr: [u8; 2], value: PrimitiveValue) {
        let vr = VR::from_binary(vr).unwrap_or(VR::UN);
        self.0.put(DataElement::new(Tag(tag.0, tag.1), vr, value));
    }

    /// The whole Part 10 file.
    pub(super) fn into_file(self, class_uid: &str, instance_uid: &str) -> Result<Vec<u8>, String> {
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax(EXPLICIT_VR_LITTLE_ENDIAN)
            .media_storage_sop_class_uid(class_uid)
            .media_storage_sop_instance_uid(instance_uid)
            .implementation_class_uid(IMPLEMENTATION)
            .implementation_version_name("SAM2D")
            .build()
            .map_err(|error| error.to_string())?;
        let mut file = Vec::new();
        self.0.with_exact_meta(meta).write_all(&mut file).map_err(|error| error.to_string())?;
        Ok(file)
    }
}
