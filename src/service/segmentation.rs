//! An answer as a DICOM Segmentation of the DICOM file that asked for it.
//!
//! Invariants:
//! 1. Whose it is comes from the bytes of this very request, decoded for this request; the mask alone
//!    may be a cached one. A reference brings no bytes, so there is no Segmentation of it.
//! 2. Nothing of the person, and not the Segmentation itself, is kept.
//! 3. A file that no Segmentation can refer to is refused before the engine is asked.

use super::answer::Question;
use super::error::ServiceError;
use super::image::blocking;
use super::request::{ModelDescription, SegmentRequest, Segmented, Timings};
use super::{Inner, add};
use crate::imaging::png;
use crate::imaging::seg::{self, Algorithm, Content, SegError};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

impl Inner {
    pub(super) async fn segmentation(
        self: &Arc<Self>,
        request: SegmentRequest,
    ) -> Result<(Segmented, Bytes), ServiceError> {
        let engine = self.serving(request.deadline).await?;
        let (image, question) = Question::of(request);
        let mut timings = Timings::default();
        let (resolved, source) = self.resolve_with_source(image, &mut timings).await?;
        seg::check(&source)?;
        let (image_type, target) = (question.image_type, question.target);
        let prompted = question.is_prompted();
        let mut segmented = self.answered(question, resolved, engine, timings).await?;
        let started = Instant::now();
        let (png, algorithm) = (segmented.answer.png.clone(), algorithm(&segmented.model));
        let file = blocking(move || {
            let mask = png::decode_mask(&png, source.size())
                .map_err(|error| ServiceError::Internal(Arc::new(error)))?;
            let content = Content {
                source: &source,
                mask: &mask,
                image_type,
                target,
                prompted,
                algorithm: &algorithm,
            };
            Ok::<_, ServiceError>(seg::encode(&content)?)
        })
        .await??;
        add(&mut segmented.timings.render, started.elapsed());
        Ok((segmented, file.into()))
    }
}

impl From<SegError> for ServiceError {
    fn from(error: SegError) -> Self {
        match error {
            SegError::Missing(_) => Self::Invalid(error.to_string()),
            SegError::OtherSize | SegError::Failed(_) => Self::Internal(Arc::new(error)),
        }
    }
}

/// Who made the mask, as a Segmentation names it.
fn algorithm(model: &ModelDescription) -> Algorithm {
    let ModelDescription { engine, intended_use } = model;
    Algorithm {
        name: engine.name.clone(),
        fingerprint: engine.fingerprint.clone(),
        remarks: format!("backend {}; intended use {intended_use}", engine.backend),
    }
}
