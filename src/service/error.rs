//! Every way a request can fail, with the stable code and the words the user sees.
//!
//! Invariants:
//! 1. A [`ServiceError`]'s text never holds a path, an identifier or anything of the image but its
//!    geometry; what only the operator may see is the `#[source]`.
//! 2. A fault of the request is never told as ours, nor ours as the request's.

use crate::domain::prompt::PromptError;
use crate::engine::BackendError;
use crate::engine::worker::EngineError;
use std::sync::Arc;
use std::time::Duration;

/// A cause shared by all who waited for the same work.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServiceError {
    /// 400 `invalid_request`: names the field.
    #[error("{0}")]
    Invalid(String),
    /// 400 `unsupported_format`.
    #[error(
        "the image is not a PNG, JPEG or DICOM Part 10 file (told by its content); these three are supported"
    )]
    UnsupportedFormat,
    /// 400 `unreadable_image`.
    #[error("the image can't be read: {0}")]
    Unreadable(String),
    /// 400 `unsupported_transfer_syntax`: UID and name.
    #[error("DICOM transfer syntax {uid} ({name}) is not supported")]
    UnsupportedTransferSyntax {
        /// As in the file meta information.
        uid: String,
        /// From the standard's registry, or `unknown`.
        name: String,
    },
    /// 400 `prompt_out_of_bounds` or `invalid_request`.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// 400 `frame_required`.
    #[error("the file has {frames} frames; frame (0 to {}) says which", frames - 1)]
    FrameRequired {
        /// Frames in the file.
        frames: u32,
    },
    /// 400 `frame_out_of_range`.
    #[error("frame {frame} does not exist: the file has {frames} (0 to {})", frames - 1)]
    FrameOutOfRange {
        /// Asked for.
        frame: u32,
        /// Frames in the file.
        frames: u32,
    },
    /// 406: a DICOM Segmentation of something else than a DICOM file sent in this request.
    #[error(
        "a DICOM Segmentation can only be made of a DICOM file that is sent in the same request: not of a reference, a PNG or a JPEG"
    )]
    NotDicom,
    /// 413: pixels or declared sizes.
    #[error("{0}")]
    TooLarge(String),
    /// 404 `unknown_image`.
    #[error("this image is not known here (any more); send it once more")]
    UnknownImage,
    /// 404 `unknown_mask`.
    #[error("this mask is not known here (any more); segment the image once more")]
    UnknownMask,
    /// 503 `overloaded` with Retry-After.
    #[error("the box is busy: this could not be done before its deadline; try again in {} s", retry_after.as_secs().max(1))]
    Overloaded {
        /// Estimated wait.
        retry_after: Duration,
    },
    /// 503 `engine_unavailable`.
    #[error("automatic segmentation is not available (manual-only mode): {reason}")]
    EngineUnavailable {
        /// For people.
        reason: String,
    },
    /// 503 `inference_failed`.
    #[error("the engine failed on this request; try again, or segment by hand")]
    InferenceFailed(#[source] Arc<BackendError>),
    /// 503 `decoder_unavailable`.
    #[error("the image decoder is not available; this is a fault of the box, not of the image")]
    DecoderUnavailable(#[source] Cause),
    /// 504 `timeout`.
    #[error("no answer within the deadline")]
    Timeout,
    /// 500 `internal`: a bug.
    #[error("internal error")]
    Internal(#[source] Cause),
}

/// What can't happen unless this program is wrong.
pub(super) fn internal(what: &'static str) -> ServiceError {
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Bug(&'static str);
    ServiceError::Internal(Arc::new(Bug(what)))
}

impl From<EngineError> for ServiceError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded { estimate } => Self::Overloaded { retry_after: estimate },
            EngineError::Unavailable { reason } => {
                Self::EngineUnavailable { reason: reason.to_owned() }
            }
            EngineError::Expired => Self::Timeout,
            EngineError::Failed(error) => Self::InferenceFailed(Arc::new(error)),
        }
    }
}
