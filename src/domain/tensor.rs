//! What goes into the engine and what comes out of it.
//!
//! Names, shapes and ranges are those of the SAM2 ONNX contract (samexporter's names): `S` is the
//! input side, `B` prompts in a batch, `N` point rows per prompt, `M` masks per prompt.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Encoder input `image` [1, 3, S, S], f32, planes R, G, B, `(level/255 − mean)/std` with mean
/// (.485 .456 .406) and std (.229 .224 .225). Source: sam2/utils/transforms.py.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageTensor {
    side: usize,
    data: Vec<f32>,
}

impl ImageTensor {
    /// `data` in C order; `None` unless it holds exactly `3 × side × side` values.
    #[must_use]
    pub fn new(side: usize, data: Vec<f32>) -> Option<Self> {
        (side > 0 && data.len() == 3 * side * side).then_some(Self { side, data })
    }

    /// S.
    #[must_use]
    pub fn side(&self) -> usize {
        self.side
    }

    /// The values, [3, S, S] in C order.
    #[must_use]
    pub fn data(&self) -> &[f32] {
        &self.data
    }
}

/// What the image encoder made of one image: a handle, not a copied array. Whose it is, only the
/// backend that made it knows (host tensors, or buffers that stay on the device).
#[derive(Clone)]
pub struct Embedding {
    storage: Arc<dyn Any + Send + Sync>,
    bytes: usize,
}

impl Embedding {
    /// Wraps a backend's own storage; `bytes` is what it occupies (host or device), for budgets.
    #[must_use]
    pub fn new<T: Any + Send + Sync>(storage: T, bytes: usize) -> Self {
        Self { storage: Arc::new(storage), bytes }
    }

    /// The storage, if it is a `T`: a backend asks for its own type and refuses any other.
    #[must_use]
    pub fn downcast_ref<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.storage.downcast_ref()
    }

    /// Bytes it occupies.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedding").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// An embedding in host memory, f32, C order: what the disk keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct HostEmbedding {
    /// `high_res_feats_0` [1, C/8, S/4, S/4].
    pub high_res_feats_0: Vec<f32>,
    /// `high_res_feats_1` [1, C/4, S/8, S/8].
    pub high_res_feats_1: Vec<f32>,
    /// `image_embed` [1, C, S/16, S/16].
    pub image_embed: Vec<f32>,
}

/// What a row of a prompt means to the prompt encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PointLabel {
    /// −1: no prompt at all; never used to pad (in SAM2 extra rows are not neutral).
    Padding,
    /// 0: click outside the object.
    Outside,
    /// 1: click inside the object.
    Inside,
    /// 2: top-left corner of a box.
    BoxStart,
    /// 3: bottom-right corner of a box.
    BoxEnd,
}

impl PointLabel {
    /// The value of `point_labels`.
    #[must_use]
    pub fn value(self) -> f32 {
        match self {
            Self::Padding => -1.0,
            Self::Outside => 0.0,
            Self::Inside => 1.0,
            Self::BoxStart => 2.0,
            Self::BoxEnd => 3.0,
        }
    }
}

/// One row: `point_coords` in engine pixels (0..S, before the +0.5 that the graph adds) and label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PointRow {
    /// Right.
    pub x: f32,
    /// Down.
    pub y: f32,
    /// Meaning.
    pub label: PointLabel,
}

/// `mask_input` [1, S/4, S/4] of one prompt: logits of an earlier mask, clamped to ±32.
pub type MaskInput = Arc<[f32]>;

/// `B` prompts of `N` rows each, decoded in one call. Box corners come before clicks.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptBatch {
    points_per_prompt: usize,
    rows: Vec<PointRow>,
    mask_input: Option<MaskInput>,
}

impl PromptBatch {
    /// The prompt of nothing: one row (0, 0, −1).
    #[must_use]
    pub fn empty_prompt(mask_input: Option<MaskInput>) -> Self {
        let row = PointRow { x: 0.0, y: 0.0, label: PointLabel::Padding };
        Self { points_per_prompt: 1, rows: vec![row], mask_input }
    }

    /// One prompt of several rows, optionally refining `mask_input`. No rows is the empty prompt.
    #[must_use]
    pub fn one(rows: Vec<PointRow>, mask_input: Option<MaskInput>) -> Self {
        if rows.is_empty() {
            return Self::empty_prompt(mask_input);
        }
        Self { points_per_prompt: rows.len(), rows, mask_input }
    }

    /// One single-click prompt a point, without mask input; `None` when there is none.
    #[must_use]
    pub fn single_clicks(points: &[(f32, f32)]) -> Option<Self> {
        let rows: Vec<_> =
            points.iter().map(|&(x, y)| PointRow { x, y, label: PointLabel::Inside }).collect();
        (!rows.is_empty()).then_some(Self { points_per_prompt: 1, rows, mask_input: None })
    }

    /// B.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.rows.len() / self.points_per_prompt
    }

    /// N.
    #[must_use]
    pub fn points_per_prompt(&self) -> usize {
        self.points_per_prompt
    }

    /// All rows, [B, N] in C order.
    #[must_use]
    pub fn rows(&self) -> &[PointRow] {
        &self.rows
    }

    /// Logits to refine; only with B = 1.
    #[must_use]
    pub fn mask_input(&self) -> Option<&MaskInput> {
        self.mask_input.as_ref()
    }
}

/// What the mask decoder says of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskLogits {
    /// B.
    pub batch: usize,
    /// M: 1, 3 or 4.
    pub masks: usize,
    /// S/4.
    pub side: usize,
    /// `masks` [B, M, S/4, S/4], C order, finite; > 0 is inside.
    pub logits: Vec<f32>,
    /// `iou_predictions` [B, M], each within 0..1 after the backend's check.
    pub iou_predictions: Vec<f32>,
    /// `object_score_logits` [B, 1], where the engine has them.
    pub object_score_logits: Option<Vec<f32>>,
}

impl MaskLogits {
    /// Logits [S/4, S/4] of one mask; `None` out of range.
    #[must_use]
    pub fn mask(&self, prompt: usize, mask: usize) -> Option<&[f32]> {
        if prompt >= self.batch || mask >= self.masks {
            return None;
        }
        let plane = self.side * self.side;
        let start = (prompt * self.masks + mask) * plane;
        self.logits.get(start..start + plane)
    }

    /// Predicted IoU of one mask; `None` out of range.
    #[must_use]
    pub fn iou(&self, prompt: usize, mask: usize) -> Option<f32> {
        (mask < self.masks).then_some(())?;
        self.iou_predictions.get(prompt * self.masks + mask).copied()
    }
}
