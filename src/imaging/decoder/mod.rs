//! Decodes what strangers send in child processes, so that no file can harm more than its own request.
//!
//! Codecs panic, loop, and allocate gigabytes on damaged input (seen, with mutated files). Each image
//! therefore gets a process of its own: the same binary run as `sam2d decode-child`, started ahead of
//! time, used once, with limits on memory, processor time and system calls, and a deadline here.
//!
//! ```text
//! decode() ─ takes a ready child ─ Request + sealed memfd ─▶ child: decode, seal the answer
//!     ◀─ maps it after checking seals, size, geometry ─ Slice + sealed memfd ─┘
//!     └─ the spent child goes to the `decoder-pool` thread, which reaps it and starts another
//! ```
//!
//! Invariants:
//! 1. A child sees one image in its life.
//! 2. A child's death, hang or lie is the image's fault only if a known good image still decodes;
//!    else it is ours ([`DecodeError::Unavailable`]).
//! 3. At most `workers` children decode at a time; no child outlives the [`Decoder`].
//! 4. Nothing about a request is in a child's arguments or environment.
//!
//! Blocking: call it from a thread that may block.

pub mod child;
mod pool;
mod sandbox;
mod sealed;
#[cfg(test)]
mod stand_in;
mod wire;
mod worker;

use self::pool::Pool;
use self::sandbox::Bounds;
use self::wire::Setup;
use self::worker::{Failure, Worker};
use super::decode::{DecodeError, Limits};
use crate::domain::identity::SegmentationSource;
use crate::domain::slice::Slice;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A known good image, drawn: 8 × 8 levels.
const PROBE: &[u8] = include_bytes!("probe.png");

/// Keys of `[decoder]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Images decoded at a time, each in a process of its own.
    pub workers: usize,
    /// Largest file taken.
    pub max_bytes: u64,
    /// Most pixels of one frame. 8192 × 8192 is twice the largest detector sold for radiography.
    pub max_pixels: u64,
    /// Most frames a file may declare.
    pub max_frames: u32,
    /// Address space of a child: five copies of the largest image as 32-bit numbers, and the binary.
    pub memory_bytes: u64,
    /// Processor seconds of a child. The slowest honest file seen (JPEG 2000, 8192 × 8192) needs a
    /// third of it on an Orin.
    pub cpu_s: u64,
    /// Time from an image's arrival at a child to its answer.
    pub deadline_ms: u64,
    /// Time from a child's start to its sandbox. It takes 5 ms, 30 on a busy box, and seconds where the
    /// binary must be read from an SD card again.
    pub start_ms: u64,
    /// Is a child that can't be locked in (seccomp) refused?
    pub sandbox: Sandbox,
    /// The program that is the child; the running one where absent.
    #[serde(skip)]
    pub executable: Option<PathBuf>,
    /// Its arguments, for stand-ins in tests.
    #[serde(skip)]
    #[doc(hidden)]
    pub arguments: Option<Vec<String>>,
}

/// What happens where seccomp can't be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// No decoder without it.
    #[default]
    Required,
    /// Limits on memory and time only; for platforms without seccomp, said aloud at start.
    Off,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 2,
            max_bytes: 256 << 20,
            max_pixels: 8192 * 8192,
            max_frames: 65_536,
            memory_bytes: 2 << 30,
            cpu_s: 20,
            deadline_ms: 20_000,
            start_ms: 10_000,
            sandbox: Sandbox::Required,
            executable: None,
            arguments: None,
        }
    }
}

impl Options {
    fn setup(&self) -> Setup {
        Setup {
            bounds: Bounds {
                memory_bytes: self.memory_bytes,
                cpu_s: self.cpu_s,
                // f32 samples, and a description that is a VOI LUT at most.
                answer_bytes: self.max_pixels.saturating_mul(4).saturating_add(1 << 20),
            },
            limits: Limits {
                max_pixels: self.max_pixels,
                max_frames: self.max_frames,
                // Half: the other half is for what is made of it.
                max_inflated_bytes: self.memory_bytes / 2,
            },
            sandboxed: self.sandbox == Sandbox::Required,
        }
    }

    fn program(&self) -> Program {
        Program {
            // Not `current_exe`: its path is gone, or another binary's, after an upgrade in place.
            path: self.executable.clone().unwrap_or_else(|| "/proc/self/exe".into()),
            arguments: self.arguments.clone().unwrap_or_else(|| vec!["decode-child".to_owned()]),
            start: Duration::from_millis(self.start_ms),
        }
    }
}

/// What is run as a child.
#[derive(Clone, Debug)]
struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    /// How long it may take until its sandbox stands.
    start: Duration,
}

/// What is asked of a child.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    frame: Option<u32>,
    /// Attributes for a DICOM Segmentation as well?
    identity: bool,
}

/// What a child gave.
#[derive(Debug)]
struct Decoded {
    slice: Slice,
    source: Option<SegmentationSource>,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Images that became slices.
    pub decoded: u64,
    /// Images refused with a reason.
    pub refused: u64,
    /// Children that died, hung or lied on an image.
    pub killed: u64,
    /// Times that decoding failed through our own fault.
    pub unavailable: u64,
    /// Children waiting for an image.
    pub ready: usize,
}

#[derive(Debug, Default)]
struct Counters {
    decoded: AtomicU64,
    refused: AtomicU64,
    killed: AtomicU64,
    unavailable: AtomicU64,
}

/// The pool of children.
#[derive(Debug)]
pub struct Decoder {
    options: Options,
    pool: Pool,
    counters: Counters,
}

impl Decoder {
    /// Starts the children and waits for the first.
    ///
    /// # Errors
    /// When no child can be started, or locked in where `sandbox` is required.
    pub fn start(options: Options) -> io::Result<Self> {
        let pool = Pool::start(options.program(), options.setup(), options.workers.max(1))?;
        Ok(Self { options, pool, counters: Counters::default() })
    }

    /// Decodes one frame in a child.
    ///
    /// # Errors
    /// Any [`DecodeError`]; [`DecodeError::Unavailable`] alone is our fault.
    pub fn decode(&self, bytes: &[u8], frame: Option<u32>) -> Result<Slice, DecodeError> {
        self.counted(bytes, Wanted { frame, identity: false }).map(|decoded| decoded.slice)
    }

    /// The same, and what a DICOM Segmentation takes over from the file (`None` for PNG and JPEG).
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn decode_with_source(
        &self,
        bytes: &[u8],
        frame: Option<u32>,
    ) -> Result<(Slice, Option<SegmentationSource>), DecodeError> {
        let decoded = self.counted(bytes, Wanted { frame, identity: true })?;
        Ok((decoded.slice, decoded.source))
    }

    fn counted(&self, bytes: &[u8], wanted: Wanted) -> Result<Decoded, DecodeError> {
        let result = self.decode_uncounted(bytes, wanted);
        let counter = match &result {
            Ok(_) => &self.counters.decoded,
            Err(DecodeError::Unavailable(_)) => &self.counters.unavailable,
            Err(_) => &self.counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Counters for metrics and health.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Vitals {
            decoded: read(&self.counters.decoded),
            refused: read(&self.counters.refused),
            killed: read(&self.counters.killed),
            unavailable: read(&self.counters.unavailable),
            ready: self.pool.ready(),
        }
    }

    fn decode_uncounted(&self, bytes: &[u8], wanted: Wanted) -> Result<Decoded, DecodeError> {
        if bytes.len() as u64 > self.options.max_bytes {
            return Err(DecodeError::TooLarge(format!(
                "the file has {} bytes; at most {} are taken",
                bytes.len(),
                self.options.max_bytes
            )));
        }
        let patience = Duration::from_millis(self.options.deadline_ms);
        let arrival = Instant::now();
        // Children that died before they read the image (the kernel short of memory) cost it nothing: the
        // last try is a child started after the others died.
        for _ in 0..=self.options.workers {
            let mut worker = self.pool.take(arrival + patience)?;
            let result = worker.decode(bytes, wanted, Instant::now() + patience);
            self.pool.spent(worker);
            match result {
                Ok(decoded) => return Ok(decoded),
                Err(Failure::Gone) => {}
                Err(failure) => return Err(self.blame(failure)),
            }
        }
        Err(DecodeError::Unavailable("the decoder's children die while they wait".to_owned()))
    }

    /// Whose fault was it?
    fn blame(&self, failure: Failure) -> DecodeError {
        let (reason, cause) = match failure {
            Failure::Refused(error) => return error,
            Failure::Ours(error) => return DecodeError::Unavailable(error.to_string()),
            Failure::Gone => ("the decoder ended", String::new()),
            Failure::Died(cause) => ("decoding it broke a limit, or the decoder", cause),
            Failure::TimedOut => ("decoding it took too long", "deadline".to_owned()),
            Failure::Lied(cause) => ("its data broke the decoder", cause.to_owned()),
        };
        self.counters.killed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(cause, "a decoder child was lost on an image");
        match self.probe() {
            Ok(()) => DecodeError::unreadable(reason),
            Err(cause) => DecodeError::Unavailable(cause),
        }
    }

    /// Does a known good image still decode? Two children in a row that fail on it say no.
    fn probe(&self) -> Result<(), String> {
        let mut cause = String::new();
        for _ in 0..2 {
            let deadline = Instant::now() + Duration::from_millis(self.options.deadline_ms);
            let started = Worker::start(&self.options.program(), self.options.setup());
            cause = match started {
                Err(error) => error.to_string(),
                Ok(mut worker) => match worker.decode(PROBE, Wanted::default(), deadline) {
                    // Refused is answered too: limits may be smaller than the known image.
                    Ok(_) | Err(Failure::Refused(_)) => return Ok(()),
                    Err(failure) => format!("{failure:?}"),
                },
            };
        }
        Err(cause)
    }
}
