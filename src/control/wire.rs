//! What goes over the socket, one JSON object a line.

use crate::cache::tools::{Listed, Verified};
use crate::cache::{Kind, Stats};
use crate::domain::key::Sum;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::SystemTime;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The cache's numbers.
    CacheStat,
    /// A [`Reply::CacheEntry`] for each entry on the disk.
    CacheList,
    /// Read every entry, delete what is damaged; a [`Reply::CacheBad`] for each such.
    CacheVerify,
    /// Forget everything: disk, memory and device.
    CachePurge,
}

/// The line that asks. A field that this version doesn't know makes it another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// What.
    #[serde(rename = "do")]
    pub request: Request,
}

/// Who answers; the first line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Hello {
    /// Its version.
    pub sam2d: String,
    /// Its process.
    pub pid: u32,
    /// Its cache folder, if it has one.
    pub cache_dir: Option<PathBuf>,
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// The numbers.
    CacheStat(Box<CacheStat>),
    /// One entry.
    CacheEntry(CacheEntry),
    /// An entry that was damaged, and what it had.
    CacheBad {
        /// Which.
        entry: String,
        /// What was wrong, and what became of it.
        what: String,
    },
    /// What is sound.
    CacheSound {
        /// Entries.
        entries: u64,
        /// Bytes of them.
        bytes: u64,
    },
    /// How much was forgotten.
    CachePurged {
        /// Files.
        files: u64,
    },
    /// The last line: all of it was sent.
    End,
    /// The last line: it could not be done (in full).
    Failed {
        /// Why.
        what: String,
    },
}

/// Numbers of a running daemon's cache, disk and memory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CacheStat {
    /// The disk cache; `None` where there is none.
    pub disk: Option<Stats>,
    /// Bytes of embeddings in memory, host or device.
    pub embeddings_bytes: u64,
    /// Bytes of recent answers in memory.
    pub answers_bytes: u64,
}

/// An entry, by its name and times.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CacheEntry {
    /// answer, embedding or slice.
    pub kind: String,
    /// 64 hex digits.
    pub key: String,
    /// Length of the file.
    pub bytes: u64,
    /// Creation, seconds since 1970.
    pub created_s: u64,
    /// Last use as far as it was noted, seconds since 1970.
    pub used_s: u64,
}

impl From<&Listed> for CacheEntry {
    fn from(listed: &Listed) -> Self {
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
        };
        Self {
            kind: listed.kind.name().to_owned(),
            key: listed.key.to_hex(),
            bytes: listed.bytes,
            created_s: seconds(listed.created),
            used_s: seconds(listed.last_used),
        }
    }
}

/// What reading every entry showed: first what is wrong, then what is sound.
pub fn verified(verified: &Verified) -> impl Iterator<Item = Reply> {
    let line = |kind: Kind, key: &Sum, what: String| {
        let entry = format!("{} {}", kind.name(), key.to_hex());
        Reply::CacheBad { entry, what }
    };
    let bad = verified.bad.iter();
    let bad = bad.map(move |(kind, key, bad)| line(*kind, key, format!("{bad}; deleted")));
    let unreadable = verified.unreadable.iter();
    let unreadable = unreadable.map(move |(kind, key, why)| line(*kind, key, why.clone()));
    let sound = Reply::CacheSound { entries: verified.sound, bytes: verified.bytes };
    bad.chain(unreadable).chain([sound])
}
