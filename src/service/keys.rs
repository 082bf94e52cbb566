//! How keys are derived: what makes two images, embeddings or answers the same.
//!
//! Invariants:
//! 1. Everything that changes the result is a field here, and nothing that names a patient is.
//! 2. Two uploads of equal pixels under one window share their embedding and answers, whoever sent
//!    them; identity is echoed from the request, never stored.

use super::options::Profile;
use crate::domain::key::{
    AliasKey, AnswerKey, ContentKey, EmbeddingKey, ImageKey, KeyBuilder, Sum,
};
use crate::domain::mask::{ImageType, Target};
use crate::domain::prompt::{ClickLabel, Prompt};
use crate::domain::slice::{Format, Samples, Slice, SliceInfo, Window, WindowFunction};
use crate::imaging::postprocess;
use crate::imaging::window::Rendering;
use std::fmt::Debug;

/// Uploaded bytes and the frame asked for.
pub(super) fn alias(bytes: &[u8], frame: Option<u32>) -> AliasKey {
    let frame = frame.map_or(0, |frame| u64::from(frame) + 1);
    AliasKey(KeyBuilder::new("alias").number(frame).bytes(bytes).finish())
}

/// Decoded pixels: shape, type, values, MONOCHROME1 and frame.
pub(super) fn content(slice: &Slice) -> ContentKey {
    let info = slice.info();
    let samples = match slice.samples() {
        Samples::Grey8(_) => 1,
        Samples::Rgb8(_) => 2,
        Samples::Modality(_) => 3,
    };
    let key = KeyBuilder::new("content")
        .number(u64::from(info.size.width))
        .number(u64::from(info.size.height))
        .number(samples)
        .number(u64::from(info.inverted))
        .number(u64::from(info.frame))
        .bytes(slice.samples().bytes());
    ContentKey(key.finish())
}

/// Decoded pixels under one resolved window, and what an answer says of the file that they came in
/// (frames, spacing): a reference must not tell another file's millimetres.
pub(super) fn image(content: ContentKey, info: &SliceInfo, rendering: &Rendering) -> ImageKey {
    let (rows, columns) = info.spacing_mm.unwrap_or_default();
    let key = KeyBuilder::new("image")
        .bytes(&content.0.0)
        .number(u64::from(info.frames))
        .number(match info.format {
            Format::Png => 1,
            Format::Jpeg => 2,
            Format::Dicom => 3,
        })
        .real(rows)
        .real(columns);
    let key = match rendering {
        Rendering::AsIs => key.number(0),
        Rendering::Window(window) => windowed(key.number(1), window),
        Rendering::MinMax { min, max } => key.number(2).real(f64::from(*min)).real(f64::from(*max)),
        Rendering::Lut(lut) => lut.levels.iter().fold(
            key.number(3).number(u64::from(lut.first.cast_unsigned())).number(u64::from(lut.bits)),
            |key, level| key.number(u64::from(*level)),
        ),
    };
    ImageKey(key.finish())
}

fn windowed(key: KeyBuilder, window: &Window) -> KeyBuilder {
    let function = match window.function {
        WindowFunction::Linear => 0,
        WindowFunction::LinearExact => 1,
        WindowFunction::Sigmoid => 2,
    };
    key.number(function).real(window.center).real(window.width)
}

/// What one engine's encoder makes of an image.
pub(super) fn embedding(image: ImageKey, fingerprint: &str) -> EmbeddingKey {
    let key = KeyBuilder::new("embedding").bytes(&image.0.0).bytes(fingerprint.as_bytes());
    EmbeddingKey(key.finish())
}

/// What turns an embedding into an answer.
pub(super) struct AnswerFields<'a> {
    pub(super) embedding: EmbeddingKey,
    pub(super) prompt: &'a Prompt,
    pub(super) image_type: ImageType,
    pub(super) target: Target,
    /// See [`settings`].
    pub(super) settings: Sum,
}

/// What of the options turns an embedding into an answer: the profile that would choose when the
/// prompt is empty, and the clean-up.
pub(super) fn settings(profile: &Profile, clean: &postprocess::Options) -> Sum {
    let print = |key: KeyBuilder, options: &dyn Debug| key.bytes(format!("{options:?}").as_bytes());
    print(print(KeyBuilder::new("settings"), profile), clean).finish()
}

/// The whole answer.
pub(super) fn answer(fields: &AnswerFields<'_>) -> AnswerKey {
    let mut key = KeyBuilder::new("answer")
        .bytes(&fields.embedding.0.0)
        .number(match fields.image_type {
            ImageType::L3 => 1,
            ImageType::Middle => 2,
            ImageType::Auto => 3,
        })
        .number(match fields.target {
            Target::Psoas => 1,
            Target::Muscle => 2,
        })
        .bytes(&fields.settings.0);
    let prompt = fields.prompt;
    key = key.number(prompt.clicks().len() as u64);
    for click in prompt.clicks() {
        key = key.real(click.x).real(click.y).number(u64::from(click.label == ClickLabel::Inside));
    }
    key = match prompt.bounds() {
        None => key.number(0),
        Some(b) => key.number(1).real(b.x).real(b.y).real(b.width).real(b.height),
    };
    key = match prompt.mask() {
        None => key.number(0),
        Some(logits) => key.number(1).bytes(&Sum::of(bytemuck::cast_slice(logits)).0),
    };
    AnswerKey(key.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::prompt::{Click, PromptBox};
    use crate::domain::slice::{Size, Voi};
    use std::collections::BTreeSet;

    fn info() -> SliceInfo {
        SliceInfo {
            size: Size { width: 4, height: 4 },
            format: Format::Dicom,
            frame: 0,
            frames: 1,
            is_ct: true,
            inverted: false,
            voi: Voi::None,
            range: Some((0.0, 1.0)),
            spacing_mm: Some((0.8, 0.7)),
        }
    }

    #[test]
    fn one_image_never_stands_for_another() {
        let content = ContentKey(Sum::of(b"pixels"));
        let plain = Rendering::MinMax { min: 0.0, max: 1.0 };
        let of = |info: SliceInfo, rendering: &Rendering| image(content, &info, rendering);
        let keys = [
            of(info(), &plain),
            of(info(), &Rendering::AsIs),
            of(info(), &Rendering::MinMax { min: 0.0, max: 2.0 }),
            of(SliceInfo { format: Format::Png, ..info() }, &plain),
            of(SliceInfo { frames: 2, ..info() }, &plain),
            of(SliceInfo { spacing_mm: None, ..info() }, &plain),
            of(SliceInfo { spacing_mm: Some((0.9, 0.7)), ..info() }, &plain),
            of(SliceInfo { spacing_mm: Some((0.8, 0.9)), ..info() }, &plain),
        ];
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
    }

    /// One profile for all, so that each part of a request has to tell itself apart.
    #[test]
    fn every_part_of_a_request_changes_the_answers_key() {
        let click = |x, y, label| Click { x, y, label };
        let bounds = |x, y, width, height| Some(PromptBox { x, y, width, height });
        let inside = click(1.0, 2.0, ClickLabel::Inside);
        let prompt = |clicks: &[Click], bounds, mask: Option<&[f32]>| {
            let mask = mask.map(Into::into);
            Prompt::new(Size { width: 9, height: 9 }, clicks.to_vec(), bounds, mask, 64).unwrap()
        };
        let plain = prompt(&[inside], None, None);
        let prompts = [
            plain.clone(),
            Prompt::default(),
            prompt(&[click(1.5, 2.0, ClickLabel::Inside)], None, None),
            prompt(&[click(1.0, 2.5, ClickLabel::Inside)], None, None),
            prompt(&[inside, click(5.0, 5.0, ClickLabel::Inside)], None, None),
            prompt(&[inside, click(5.0, 5.0, ClickLabel::Outside)], None, None),
            prompt(&[inside], bounds(1.0, 1.0, 3.0, 3.0), None),
            prompt(&[inside], bounds(0.0, 1.0, 3.0, 3.0), None),
            prompt(&[inside], bounds(1.0, 0.0, 3.0, 3.0), None),
            prompt(&[inside], bounds(1.0, 1.0, 4.0, 3.0), None),
            prompt(&[inside], bounds(1.0, 1.0, 3.0, 4.0), None),
            prompt(&[inside], None, Some(&[1.0, 2.0])),
            prompt(&[inside], None, Some(&[1.0, 3.0])),
        ];
        let (profile, clean) = (Profile::default(), postprocess::Options::default());
        let usual = || AnswerFields {
            embedding: EmbeddingKey(Sum::of(b"embedding")),
            prompt: &plain,
            image_type: ImageType::Middle,
            target: Target::Muscle,
            settings: settings(&profile, &clean),
        };
        let mut keys: Vec<_> =
            prompts.iter().map(|prompt| answer(&AnswerFields { prompt, ..usual() })).collect();
        let other_profile = Profile { prompts: 63, ..Profile::default() };
        let other_clean = postprocess::Options { min_component_px: 17, ..Default::default() };
        keys.extend([
            answer(&AnswerFields { embedding: EmbeddingKey(Sum::of(b"other")), ..usual() }),
            answer(&AnswerFields { image_type: ImageType::L3, ..usual() }),
            answer(&AnswerFields { image_type: ImageType::Auto, ..usual() }),
            answer(&AnswerFields { target: Target::Psoas, ..usual() }),
            answer(&AnswerFields { settings: settings(&other_profile, &clean), ..usual() }),
            answer(&AnswerFields { settings: settings(&profile, &other_clean), ..usual() }),
        ]);
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
    }
}
