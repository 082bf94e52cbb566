//! The file of tokens: TOML, readable by the daemon's user alone, hashes only.
//!
//! Invariants:
//! 1. It is replaced whole (written beside, synced, renamed), so that a reader sees the old list or
//!    the new one; writers wait for each other at a lock file.
//! 2. It belongs to the owner of its folder, whoever runs the command: root must be able to create a
//!    token for the daemon's user.
//! 3. An unknown member is an error: a rule that this version does not know must not be ignored.

use super::Scope;
use super::token::{NoRandomness, Token};
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Name of the file in the state folder.
pub const NAME: &str = "tokens.toml";
const VERSION: u32 = 1;
/// The daemon reads the file when it changes; a thousand lines are 300 kB.
const MAX_TOKENS: usize = 1000;
/// Nobody's list is longer; a wrong path must not be read into memory.
const MAX_BYTES: u64 = 4 << 20;
const MAX_NAME_BYTES: usize = 100;
const HEAD: &str = "# Tokens of sam2d: only hashes, no token can be had from them. `sam2d token` writes this\n# file; the running daemon reads it again by itself.\n";

/// The list can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system's word.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a token file of this version.
    #[error("{}: not a token file of this version: {text}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// No such token.
    #[error("no token has the id or name \"{0}\"; `sam2d token list` shows them")]
    Unknown(String),
    /// A name is needed, once.
    #[error("a token named \"{0}\" exists; revoke it first, or take another name")]
    NameTaken(String),
    /// A name has to be shown in one line.
    #[error("the name must be 1 to {MAX_NAME_BYTES} bytes without control characters")]
    BadName,
    /// Too many.
    #[error("there are {MAX_TOKENS} tokens already; revoke some")]
    Full,
    /// No randomness.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// Hashing failed.
    #[error("the token can't be hashed: {0}")]
    Hash(String),
}

/// One token as the file knows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The public half.
    pub id: String,
    /// What the operator calls it; whom or what it is for.
    pub name: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// When it was made, in UTC.
    pub created: String,
    /// When it ends, in UTC; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// argon2id, in the PHC format.
    pub hash: String,
}

impl Record {
    /// Does the token still hold at that time? A date that can't be read does not.
    #[must_use]
    pub fn holds_at(&self, now: DateTime<Utc>) -> bool {
        self.expires.as_deref().is_none_or(|text| {
            DateTime::parse_from_rfc3339(text).is_ok_and(|end| now < end.with_timezone(&Utc))
        })
    }

    /// Is it this token? Runs argon2: tens of milliseconds and 19 MiB.
    #[must_use]
    pub(super) fn is_of(&self, token: &Token) -> bool {
        Argon2::default().verify_password(token.secret(), self.hash.as_str()).is_ok()
    }
}

/// What a new token should be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its scopes.
    pub scopes: Vec<Scope>,
    /// Days until it ends; never without.
    pub days: Option<u32>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u32,
    #[serde(default)]
    token: Vec<Record>,
}

/// Reads the list; `None` when there is no file.
///
/// # Errors
/// When it can't be read or is not such a file.
pub fn read(path: &Path) -> Result<Option<Vec<Record>>, FileError> {
    let failed = |source| FileError::Io { path: path.to_owned(), source };
    let text = match File::open(path) {
        Ok(file) if file.metadata().map_err(failed)?.len() > MAX_BYTES => {
            return Err(failed(io::Error::other("too large for a list of tokens")));
        }
        Ok(file) => io::read_to_string(file).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let malformed = |text: String| FileError::Malformed { path: path.to_owned(), text };
    // SECURITY: the parser's own message would quote the line, and a hash with it.
    let wire: Wire = toml::from_str(&text)
        .map_err(|error: toml::de::Error| malformed(error.message().to_owned()))?;
    if wire.version != VERSION {
        return Err(malformed(format!("version {} is not {VERSION}", wire.version)));
    }
    if wire.token.len() > MAX_TOKENS {
        return Err(malformed(format!("more than {MAX_TOKENS} tokens")));
    }
    Ok(Some(wire.token))
}

/// Adds a token and gives it back in clear, for once.
///
/// # Errors
/// Any [`FileError`].
pub fn create(path: &Path, wanted: Wanted, now: DateTime<Utc>) -> Result<Token, FileError> {
    let control = wanted.name.chars().any(char::is_control);
    if wanted.name.is_empty() || wanted.name.len() > MAX_NAME_BYTES || control {
        return Err(FileError::BadName);
    }
    let _lock = lock(path)?;
    let mut records = read(path)?.unwrap_or_default();
    if records.iter().any(|record| record.name == wanted.name) {
        return Err(FileError::NameTaken(wanted.name));
    }
    if records.len() >= MAX_TOKENS {
        return Err(FileError::Full);
    }
    let token = loop {
        let token = Token::generate()?;
        if records.iter().all(|record| record.id != token.id()) {
            break token;
        }
    };
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(NoRandomness::from)?;
    let hash = Argon2::default()
        .hash_password_with_salt(token.secret(), &salt)
        .map_err(|error| FileError::Hash(error.to_string()))?;
    let stamp = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let end = wanted.days.and_then(|days| now.checked_add_signed(TimeDelta::days(days.into())));
    records.push(Record {
        id: token.id().to_owned(),
        name: wanted.name,
        scopes: wanted.scopes,
        created: stamp(now),
        expires: end.map(stamp),
        hash: hash.to_string(),
    });
    write(path, records)?;
    Ok(token)
}

/// Takes the token of this id or name away.
///
/// # Errors
/// Any [`FileError`].
pub fn revoke(path: &Path, which: &str) -> Result<Record, FileError> {
    let _lock = lock(path)?;
    let mut records = read(path)?.unwrap_or_default();
    let place = records.iter().position(|record| record.id == which || record.name == which);
    let place = place.ok_or_else(|| FileError::Unknown(which.to_owned()))?;
    let revoked = records.remove(place);
    write(path, records)?;
    Ok(revoked)
}

/// Writers one after the other. The lock is a file of its own, since the list is replaced.
fn lock(path: &Path) -> Result<File, FileError> {
    let beside = path.with_extension("lock");
    let failed = |source| FileError::Io { path: beside.clone(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone();
    let file = options.open(&beside).map_err(failed)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    Ok(file)
}

fn write(path: &Path, token: Vec<Record>) -> Result<(), FileError> {
    let failed = |source| FileError::Io { path: path.to_owned(), source };
    let text = toml::to_string(&Wire { version: VERSION, token })
        .map_err(|error| failed(io::Error::other(error)))?;
    let beside = path.with_extension("new");
    let put = || -> io::Result<()> {
        // A leftover of a crash may have other rights.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(HEAD.as_bytes())?;
        file.write_all(text.as_bytes())?;
        if let Some(folder) = path.parent() {
            let owner = std::fs::metadata(folder)?;
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            }
        }
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    put().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn wanted(name: &str) -> Wanted {
        Wanted { name: name.to_owned(), scopes: vec![Scope::Segment], days: None }
    }

    #[test]
    fn a_token_is_kept_as_a_hash_in_a_file_of_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/tokens.toml");
        assert_eq!(read(&path).unwrap(), None);
        let token = create(&path, wanted("ward 7"), Utc::now()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let secret = token.reveal().rsplit('_').next().unwrap().to_owned();
        assert!(text.contains("$argon2id$") && !text.contains(&secret), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let [record] = read(&path).unwrap().unwrap().try_into().unwrap();
        assert!(record.is_of(&token) && record.holds_at(Utc::now()));
        assert!(!record.is_of(&Token::generate().unwrap()));
        let other = create(&path, wanted("other"), Utc::now()).unwrap();
        assert_eq!(revoke(&path, "ward 7").unwrap().id, token.id());
        assert_eq!(revoke(&path, other.id()).unwrap().name, "other");
        assert_eq!(read(&path).unwrap(), Some(Vec::new()), "an empty list is not no list");
        assert!(matches!(revoke(&path, "ward 7"), Err(FileError::Unknown(_))));
    }

    #[test]
    fn a_token_ends_when_its_days_are_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let now = Utc::now();
        create(&path, Wanted { days: Some(30), ..wanted("short") }, now).unwrap();
        let [mut record] = read(&path).unwrap().unwrap().try_into().unwrap();
        assert!(record.holds_at(now + TimeDelta::days(29)));
        assert!(!record.holds_at(now + TimeDelta::days(30)));
        record.expires = Some("soon".to_owned());
        assert!(!record.holds_at(now), "a date that nobody can read is over");
    }

    #[test]
    fn what_is_no_token_file_is_refused_without_quoting_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        for text in [
            "version = 2\n",
            "version = 1\nsecret = \"$argon2id$quoted\"\n",
            "version = 1\n[[token]]\nid = \"$argon2id$quoted\"\n",
            "version = 1\n[[token]\n$argon2id$quoted",
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("not a token file") && !error.contains("quoted"), "{error}");
        }
        let names = ["", "a\nb", &"x".repeat(101)];
        for name in names {
            let refused = create(&folder.path().join("new"), wanted(name), Utc::now());
            assert!(matches!(refused, Err(FileError::BadName)), "{name:?}");
        }
    }

    #[test]
    fn names_are_unique_and_concurrent_writers_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        std::thread::scope(|scope| {
            for n in 0..4 {
                let path = &path;
                scope.spawn(move || create(path, wanted(&format!("t{n}")), Utc::now()).unwrap());
            }
        });
        assert_eq!(read(&path).unwrap().unwrap().len(), 4);
        let twice = create(&path, wanted("t1"), Utc::now());
        assert!(matches!(twice, Err(FileError::NameTaken(_))));
    }
}
