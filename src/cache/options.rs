//! `[cache]`: what an operator can set, and what the cache says when it can't do its work.

use super::Kind;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// `[cache]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Off: nothing is kept on disk.
    pub enabled: bool,
    /// The folder. Unset: `$CACHE_DIRECTORY` (systemd sets it), else `~/.cache/sam2d`.
    pub dir: Option<PathBuf>,
    /// How long an answer is one. The requirement says a day.
    pub lifetime_hours: u32,
    /// Disk for masks: about 20 kB each, so 2 GiB hold 100,000.
    pub answers_bytes: u64,
    /// Keep embeddings on disk: the first click after a restart then doesn't wait for the encoder.
    /// They are made of the patient's pixels; turn it off where the disk isn't encrypted and that
    /// matters more.
    pub embeddings: bool,
    /// Disk for embeddings: 8 to 16 MB each, so 16 GiB hold a working day of 1,000 to 2,000 slices.
    pub embeddings_bytes: u64,
    /// Disk for slice records: 4 kB each, so 256 MiB hold 65,000.
    pub slices_bytes: u64,
    /// Memory for answers and slice records that are in use: a hit on them opens no file.
    pub open_bytes: u64,
    /// Memory for entries on their way to the disk. When it is full, a new one isn't written.
    pub queue_bytes: u64,
    /// Space the cache leaves to others on its disk: it gives its own entries up before it takes
    /// that. The journal, the audit log and updates live there too.
    pub min_free_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            enabled: true,
            dir: None,
            lifetime_hours: 24,
            answers_bytes: 2 << 30,
            embeddings: true,
            embeddings_bytes: 16 << 30,
            slices_bytes: 256 << 20,
            open_bytes: 64 << 20,
            queue_bytes: 128 << 20,
            min_free_bytes: 1 << 30,
        }
    }
}

impl Options {
    /// The folder to use: as set, or `$CACHE_DIRECTORY` (its first, systemd allows several), or
    /// below the home folder. `None` when none of these is known.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        let from_systemd = || {
            let list = std::env::var_os("CACHE_DIRECTORY")?;
            std::env::split_paths(&list).next().filter(|path| path.is_absolute())
        };
        let from_home = || Some(std::env::home_dir()?.join(".cache/sam2d"));
        self.dir.clone().or_else(from_systemd).or_else(from_home)
    }

    pub(super) fn budget_bytes(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Answer => self.answers_bytes,
            Kind::Embedding if self.embeddings => self.embeddings_bytes,
            Kind::Embedding => 0,
            Kind::Slice => self.slices_bytes,
        }
    }
}

/// Why a folder can't be used. All but `Io` are for the operator to settle; [`super::Cache::open`] returns
/// only those.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon uses it.
    #[error(
        "the cache folder {} is in use by {}; stop it or choose another folder (cache.dir)",
        path.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    /// It holds something else.
    #[error(
        "the folder {} holds {found:?} and is not a sam2d cache; files in a cache are deleted, so choose an empty folder (cache.dir)",
        path.display()
    )]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// It belongs to another user.
    #[error(
        "the cache folder {} belongs to user {owner}, not to the one sam2d runs as; entries are made of patients' pixels and are kept where no one else reads",
        path.display()
    )]
    NotOwned {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// No folder is set and there is no home.
    #[error("no cache folder: set cache.dir, $CACHE_DIRECTORY or $HOME")]
    Nowhere,
    /// The disk said no.
    #[error("the cache folder can't be used: {}: {source}", path.display())]
    Io {
        /// What was tried.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// Why nothing was kept. The answer is none the worse.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Larger than the budget of its kind or than the format holds.
    #[error("{bytes} bytes don't fit the cache of {kind:?}s")]
    TooLarge {
        /// The kind.
        kind: Kind,
        /// Its size.
        bytes: u64,
    },
    /// There is no folder to write to.
    #[error("the cache has no folder")]
    NoFolder,
    /// Too much waits to be written.
    #[error("{waiting_bytes} bytes wait to be written to the cache already")]
    Behind {
        /// Bytes in the queue.
        waiting_bytes: u64,
    },
    /// The cache was purged while this was on its way.
    #[error("the cache was purged meanwhile")]
    Purged,
    /// The disk said no.
    #[error("the cache can't write: {0}")]
    Io(#[source] io::Error),
}
