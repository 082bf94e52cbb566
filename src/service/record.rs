//! What is remembered of images and answers when their pixels are gone, as bytes for the cache.
//!
//! Invariants:
//! 1. Nothing here names a patient, a study or a file.
//! 2. A record that can't be read is a miss, never an error: the format may have changed.

use super::oneclick::BodyGrid;
use super::request::WindowSource;
use crate::domain::key::{ContentKey, Sum};
use crate::domain::mask::{Annotation, BoundingBox, Vertex};
use crate::domain::slice::{Format, Size, SliceInfo, Voi, VoiLut, Window, WindowFunction};
use serde::{Deserialize, Serialize};

/// By alias: what parsing these bytes gave, but for the pixels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SliceRecord {
    pub(super) content: ContentKey,
    pub(super) info: SliceInfo,
}

/// By image key: an image that an `image:` reference can name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ImageRecord {
    pub(super) format: Format,
    pub(super) size: Size,
    pub(super) frame: u32,
    pub(super) frames: u32,
    pub(super) window: Option<Window>,
    pub(super) window_source: WindowSource,
    pub(super) spacing_mm: Option<(f64, f64)>,
    pub(super) body: BodyGrid,
}

/// By answer key: all of an answer but its PNG and logits.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(super) struct AnswerRecord {
    pub(super) size: [u32; 2],
    pub(super) confidence: f64,
    pub(super) bounding_box: Option<[u32; 4]>,
    pub(super) rectangle: Option<[u32; 4]>,
    pub(super) polygons: Option<Vec<Vec<[u32; 2]>>>,
    pub(super) warnings: Vec<String>,
}

impl SliceRecord {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let info = &self.info;
        encode(&SliceWire {
            content: self.content.0.to_hex(),
            size: [info.size.width, info.size.height],
            format: format_name(info.format).to_owned(),
            frame: info.frame,
            frames: info.frames,
            is_ct: info.is_ct,
            inverted: info.inverted,
            window: match &info.voi {
                Voi::Window(window) => Some(window_wire(*window)),
                Voi::None | Voi::Lut(_) => None,
            },
            lut: match &info.voi {
                Voi::Lut(lut) => Some((lut.first, lut.bits, lut.levels.clone())),
                Voi::None | Voi::Window(_) => None,
            },
            range: info.range,
            spacing_mm: info.spacing_mm,
        })
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let wire: SliceWire = serde_json::from_slice(bytes).ok()?;
        let lut = wire.lut.map(|(first, bits, levels)| VoiLut { first, bits, levels });
        let window = match wire.window {
            Some(window) => Some(window_of(window)?),
            None => None,
        };
        Some(Self {
            content: ContentKey(Sum::from_hex(&wire.content)?),
            info: SliceInfo {
                size: Size { width: wire.size[0], height: wire.size[1] },
                format: format_of(&wire.format)?,
                frame: wire.frame,
                frames: wire.frames,
                is_ct: wire.is_ct,
                inverted: wire.inverted,
                voi: window.map(Voi::Window).or(lut.map(Voi::Lut)).unwrap_or_default(),
                range: wire.range,
                spacing_mm: wire.spacing_mm,
            },
        })
    }
}

#[derive(Deserialize, Serialize)]
struct SliceWire {
    content: String,
    size: [u32; 2],
    format: String,
    frame: u32,
    frames: u32,
    is_ct: bool,
    inverted: bool,
    window: Option<(f64, f64, u8)>,
    lut: Option<(i32, u8, Vec<u16>)>,
    range: Option<(f32, f32)>,
    spacing_mm: Option<(f64, f64)>,
}

impl ImageRecord {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        encode(&ImageWire {
            format: format_name(self.format).to_owned(),
            size: [self.size.width, self.size.height],
            frame: self.frame,
            frames: self.frames,
            window: self.window.map(window_wire),
            window_source: self.window_source.name().to_owned(),
            spacing_mm: self.spacing_mm,
            body: self.body.cells().iter().map(|&body| if body { '1' } else { '0' }).collect(),
        })
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let wire: ImageWire = serde_json::from_slice(bytes).ok()?;
        let window = match wire.window {
            Some(window) => Some(window_of(window)?),
            None => None,
        };
        Some(Self {
            format: format_of(&wire.format)?,
            size: Size { width: wire.size[0], height: wire.size[1] },
            frame: wire.frame,
            frames: wire.frames,
            window,
            window_source: source_of(&wire.window_source)?,
            spacing_mm: wire.spacing_mm,
            body: BodyGrid::new(wire.body.bytes().map(|cell| cell == b'1').collect())?,
        })
    }
}

#[derive(Deserialize, Serialize)]
struct ImageWire {
    format: String,
    size: [u32; 2],
    frame: u32,
    frames: u32,
    window: Option<(f64, f64, u8)>,
    window_source: String,
    spacing_mm: Option<(f64, f64)>,
    body: String,
}

impl AnswerRecord {
    pub(super) fn new(
        size: Size,
        confidence: f64,
        bounding_box: Option<BoundingBox>,
        annotation: Option<&Annotation>,
        warnings: &[String],
    ) -> Self {
        let sides = |b: &BoundingBox| [b.x, b.y, b.width, b.height];
        let (rectangle, polygons) = match annotation {
            None => (None, None),
            Some(Annotation::Rectangle(rectangle)) => (Some(sides(rectangle)), None),
            Some(Annotation::Polygons(rings)) => {
                let ring = |ring: &Vec<Vertex>| ring.iter().map(|v| [v.x, v.y]).collect();
                (None, Some(rings.iter().map(ring).collect()))
            }
        };
        Self {
            size: [size.width, size.height],
            confidence,
            bounding_box: bounding_box.as_ref().map(sides),
            rectangle,
            polygons,
            warnings: warnings.to_vec(),
        }
    }

    pub(super) fn size(&self) -> Size {
        Size { width: self.size[0], height: self.size[1] }
    }

    pub(super) fn bounding_box(&self) -> Option<BoundingBox> {
        self.bounding_box.map(rectangle_of)
    }

    pub(super) fn annotation(&self) -> Option<Annotation> {
        let ring = |ring: &Vec<[u32; 2]>| ring.iter().map(|&[x, y]| Vertex { x, y }).collect();
        let polygons = self.polygons.as_ref();
        let polygons = polygons.map(|rings| Annotation::Polygons(rings.iter().map(ring).collect()));
        self.rectangle.map(rectangle_of).map(Annotation::Rectangle).or(polygons)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Plain data of this file's own types always becomes JSON; an empty record would read as a miss.
fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}

fn rectangle_of([x, y, width, height]: [u32; 4]) -> BoundingBox {
    BoundingBox { x, y, width, height }
}

fn window_wire(window: Window) -> (f64, f64, u8) {
    let function = match window.function {
        WindowFunction::Linear => 0,
        WindowFunction::LinearExact => 1,
        WindowFunction::Sigmoid => 2,
    };
    (window.center, window.width, function)
}

fn window_of((center, width, function): (f64, f64, u8)) -> Option<Window> {
    let function = match function {
        0 => WindowFunction::Linear,
        1 => WindowFunction::LinearExact,
        2 => WindowFunction::Sigmoid,
        _ => return None,
    };
    Some(Window { center, width, function })
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Png => "png",
        Format::Jpeg => "jpeg",
        Format::Dicom => "dicom",
    }
}

fn format_of(name: &str) -> Option<Format> {
    [Format::Png, Format::Jpeg, Format::Dicom].into_iter().find(|&f| format_name(f) == name)
}

fn source_of(name: &str) -> Option<WindowSource> {
    WindowSource::ALL.into_iter().find(|source| source.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(voi: Voi) -> SliceInfo {
        SliceInfo {
            size: Size { width: 3, height: 2 },
            format: Format::Dicom,
            frame: 1,
            frames: 4,
            is_ct: true,
            inverted: true,
            voi,
            range: Some((-1024.0, 3071.5)),
            spacing_mm: Some((0.7, 0.5)),
        }
    }

    #[test]
    fn slice_records_survive_the_way_to_disk_and_back() {
        let window = Window { center: 40.25, width: 400.0, function: WindowFunction::Sigmoid };
        let lut = VoiLut { first: -5, bits: 12, levels: vec![0, 7, 4095] };
        for voi in [Voi::None, Voi::Window(window), Voi::Lut(lut)] {
            let record = SliceRecord { content: ContentKey(Sum::of(b"x")), info: info(voi) };
            assert_eq!(SliceRecord::from_bytes(&record.to_bytes()), Some(record));
        }
        assert_eq!(SliceRecord::from_bytes(b"{}"), None);
    }

    #[test]
    fn image_records_survive_the_way_to_disk_and_back() {
        let cells = (0..BodyGrid::SIDE * BodyGrid::SIDE).map(|i| i % 3 == 0).collect();
        let record = ImageRecord {
            format: Format::Png,
            size: Size { width: 512, height: 300 },
            frame: 0,
            frames: 1,
            window: None,
            window_source: WindowSource::None,
            spacing_mm: None,
            body: BodyGrid::new(cells).unwrap(),
        };
        assert_eq!(ImageRecord::from_bytes(&record.to_bytes()), Some(record));
    }

    #[test]
    fn annotations_survive_the_way_to_disk_and_back() {
        let size = Size { width: 9, height: 9 };
        let rectangle = BoundingBox { x: 1, y: 2, width: 3, height: 4 };
        let ring = vec![Vertex { x: 0, y: 0 }, Vertex { x: 2, y: 0 }, Vertex { x: 2, y: 2 }];
        for annotation in [Annotation::Rectangle(rectangle), Annotation::Polygons(vec![ring])] {
            let record = AnswerRecord::new(size, 0.5, Some(rectangle), Some(&annotation), &[]);
            let back = AnswerRecord::from_bytes(&record.to_bytes()).unwrap();
            assert_eq!(back.annotation(), Some(annotation));
            assert_eq!(back.bounding_box(), Some(rectangle));
        }
    }
}
