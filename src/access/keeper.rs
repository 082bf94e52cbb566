//! Tells a running daemon whose token it is shown.
//!
//! argon2 is slow on purpose, and a slice must not pay for it. So the first right use of a token
//! runs it once; from then on the keeper holds an HMAC-SHA256 of the secret under a key that this
//! process drew, and compares in constant time. One tag a token bounds the memory; a stolen core
//! has no token in it, and the tags are worth nothing to another process.
//!
//! Invariants:
//! 1. [`Keeper::recall`] never runs argon2; [`Keeper::prove`] does, until the token was right once.
//!    After that a wrong secret for the same id costs no argon2 either.
//! 2. After [`Keeper::refresh`] a token that is gone from the file, or changed in it, is worth
//!    nothing: its tag goes with its line.
//! 3. A file that can't be read keeps the last good list, loudly; a file that is gone lets nobody in.

use super::file::{self, FileError, Record};
use super::token::Token;
use super::{Grant, Options, Tokens};
use chrono::Utc;
use ring::hmac;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

/// Knows the tokens. Cheap to clone.
#[derive(Clone)]
pub struct Keeper(Arc<Inner>);

struct Inner {
    path: PathBuf,
    on: AtomicBool,
    when: Tokens,
    key: hmac::Key,
    book: RwLock<Book>,
    seen: Mutex<Option<Stamp>>,
}

#[derive(Default)]
struct Book {
    entries: HashMap<String, Arc<Entry>>,
}

struct Entry {
    record: Record,
    /// Of the secret, once that was proven.
    tag: OnceLock<Vec<u8>>,
}

/// What tells that the file is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified_ns: (i64, i64),
}

/// What is known at once of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recall {
    /// It is right.
    Right(Grant),
    /// It is not.
    Wrong,
    /// Only [`Keeper::prove`] can tell.
    Unproven(Token),
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Ids that are new.
    pub created: Vec<String>,
    /// Ids that are gone.
    pub revoked: Vec<String>,
}

impl Keeper {
    /// Reads the file. `default_path` is used where the options name none.
    ///
    /// # Errors
    /// When there is a file that can't be read, or the process has no randomness.
    pub fn open(options: &Options, default_path: &Path) -> Result<Self, FileError> {
        let path = options.tokens_path.clone().unwrap_or_else(|| default_path.to_owned());
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(super::token::NoRandomness::from)?;
        let keeper = Self(Arc::new(Inner {
            path,
            on: AtomicBool::new(options.tokens == Tokens::On),
            when: options.tokens,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            book: RwLock::default(),
            seen: Mutex::new(None),
        }));
        if options.tokens != Tokens::Off {
            keeper.reload()?;
        }
        Ok(keeper)
    }

    /// A keeper that asks nobody for a token.
    ///
    /// # Errors
    /// When the process has no randomness.
    pub fn off() -> Result<Self, FileError> {
        let off = Options { tokens: Tokens::Off, ..Options::default() };
        Self::open(&off, Path::new(""))
    }

    /// Are tokens asked for? Once they were, they are until the process ends.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.on.load(Ordering::Relaxed)
    }

    /// What is known of a token without effort.
    #[must_use]
    pub fn recall(&self, shown: &str) -> Recall {
        let Some(token) = Token::parse(shown) else { return Recall::Wrong };
        let Some(entry) = self.entry(&token) else { return Recall::Wrong };
        match entry.tag.get() {
            None => Recall::Unproven(token),
            // Constant time: ring compares tags so.
            Some(tag) if hmac::verify(&self.0.key, token.secret(), tag).is_ok() => {
                Recall::Right(entry.grant())
            }
            Some(_) => Recall::Wrong,
        }
    }

    /// Finds out with argon2. Blocking: tens of milliseconds.
    #[must_use]
    pub fn prove(&self, token: &Token) -> Option<Grant> {
        let entry = self.entry(token)?;
        if entry.tag.get().is_none() && entry.record.is_of(token) {
            let tag = hmac::sign(&self.0.key, token.secret());
            drop(entry.tag.set(tag.as_ref().to_vec()));
        }
        let right = hmac::verify(&self.0.key, token.secret(), entry.tag.get()?).is_ok();
        right.then(|| entry.grant())
    }

    /// Reads the file again if it is another one than before. Blocking.
    ///
    /// # Errors
    /// When it can't be read; the tokens stay as they were.
    pub fn refresh(&self) -> Result<Changed, FileError> {
        if self.0.when == Tokens::Off {
            return Ok(Changed::default());
        }
        let seen = *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen == stamp(&self.0.path) { Ok(Changed::default()) } else { self.reload() }
    }

    /// Reads the file. Blocking.
    ///
    /// # Errors
    /// When it can't be read; the tokens stay as they were.
    pub fn reload(&self) -> Result<Changed, FileError> {
        // Taken before reading: what is written in between shows at the next look.
        let now = stamp(&self.0.path);
        *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) = now;
        let records = file::read(&self.0.path)?;
        if records.is_some() && self.0.when != Tokens::Off {
            self.0.on.store(true, Ordering::Relaxed);
        }
        let mut book = self.0.book.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Changed::default();
        let mut entries = HashMap::new();
        for record in records.unwrap_or_default() {
            let id = record.id.clone();
            let kept = book.entries.remove(&id).filter(|known| known.record == record);
            if kept.is_none() {
                changed.created.push(id.clone());
            }
            let fresh = || Arc::new(Entry { record, tag: OnceLock::new() });
            entries.insert(id, kept.unwrap_or_else(fresh));
        }
        changed.revoked.extend(book.entries.drain().map(|(id, _)| id));
        book.entries = entries;
        Ok(changed)
    }

    /// Ids and scopes of all tokens, by id.
    #[must_use]
    pub fn grants(&self) -> Vec<Grant> {
        let book = self.0.book.read().unwrap_or_else(PoisonError::into_inner);
        let mut grants: Vec<_> = book.entries.values().map(|entry| entry.grant()).collect();
        grants.sort_by(|a, b| a.id.cmp(&b.id));
        grants
    }

    /// The line of a token's id, while it holds.
    fn entry(&self, token: &Token) -> Option<Arc<Entry>> {
        let book = self.0.book.read().unwrap_or_else(PoisonError::into_inner);
        book.entries.get(token.id()).filter(|entry| entry.record.holds_at(Utc::now())).cloned()
    }
}

impl Entry {
    fn grant(&self) -> Grant {
        Grant { id: self.record.id.clone(), scopes: self.record.scopes.clone() }
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("on", &self.is_on()).finish_non_exhaustive()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    let modified_ns = (meta.mtime(), meta.mtime_nsec());
    Some(Stamp { inode: meta.ino(), size: meta.size(), modified_ns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Scope;
    use crate::access::file::{Wanted, create, revoke};
    use std::time::Instant;

    fn wanted(name: &str, days: Option<u32>) -> Wanted {
        Wanted { name: name.to_owned(), scopes: vec![Scope::Segment, Scope::Metrics], days }
    }

    fn flipped(token: &Token) -> Token {
        let mut text = token.reveal();
        let last = if text.pop() == Some('0') { '1' } else { '0' };
        text.push(last);
        Token::parse(&text).unwrap()
    }

    #[test]
    fn argon2_runs_once_for_a_right_token_and_then_never_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let token = create(&path, wanted("a", None), Utc::now()).unwrap();
        let keeper = Keeper::open(&Options::default(), &path).unwrap();
        assert!(keeper.is_on());
        let shown = token.reveal();
        assert_eq!(keeper.recall(&shown), Recall::Unproven(token.clone()));
        let wrong = flipped(&token);
        assert_eq!(keeper.prove(&wrong), None);
        assert_eq!(keeper.recall(&shown), Recall::Unproven(token.clone()));
        let grant = keeper.prove(&token).unwrap();
        assert!(grant.allows(Scope::Metrics) && !grant.allows(Scope::Admin));
        assert_eq!(keeper.recall(&shown), Recall::Right(grant));
        assert_eq!(keeper.recall(&wrong.reveal()), Recall::Wrong, "known without argon2");
        assert_eq!(keeper.prove(&wrong), None);
        let began = Instant::now();
        for _ in 0..1000 {
            assert!(matches!(keeper.recall(&shown), Recall::Right(_)));
        }
        // A thousand argon2 runs take most of a minute.
        assert!(began.elapsed().as_secs() < 2, "{:?}", began.elapsed());
        assert_eq!(keeper.recall("Kanarienvogel"), Recall::Wrong);
        assert_eq!(keeper.recall(&Token::generate().unwrap().reveal()), Recall::Wrong);
    }

    #[test]
    fn a_token_whose_line_changed_is_what_the_line_says_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let token = create(&path, wanted("a", None), Utc::now()).unwrap();
        let keeper = Keeper::open(&Options::default(), &path).unwrap();
        assert!(keeper.prove(&token).unwrap().allows(Scope::Segment));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"segment\""), "{text}");
        std::fs::write(&path, text.replace("\"segment\"", "\"metrics\"")).unwrap();
        keeper.refresh().unwrap();
        assert_eq!(keeper.recall(&token.reveal()), Recall::Unproven(token.clone()));
        assert!(!keeper.prove(&token).unwrap().allows(Scope::Segment));
    }

    #[test]
    fn a_revoked_or_ended_token_is_worth_nothing_and_the_others_keep_their_proof() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let [kept, gone] =
            ["kept", "gone"].map(|name| create(&path, wanted(name, None), Utc::now()).unwrap());
        let past = Utc::now() - chrono::TimeDelta::days(2);
        let ended = create(&path, wanted("ended", Some(1)), past).unwrap();
        let keeper = Keeper::open(&Options::default(), &path).unwrap();
        assert!(keeper.prove(&kept).is_some() && keeper.prove(&gone).is_some());
        assert_eq!(keeper.prove(&ended), None);
        assert_eq!(keeper.refresh().unwrap(), Changed::default());
        revoke(&path, "gone").unwrap();
        let changed = keeper.refresh().unwrap();
        assert_eq!(changed.revoked, [gone.id()]);
        assert_eq!(keeper.recall(&gone.reveal()), Recall::Wrong);
        assert!(matches!(keeper.recall(&kept.reveal()), Recall::Right(_)));
    }

    #[test]
    fn a_broken_file_keeps_the_last_list_and_a_lost_one_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let token = create(&path, wanted("a", None), Utc::now()).unwrap();
        let keeper = Keeper::open(&Options::default(), &path).unwrap();
        assert!(keeper.prove(&token).is_some());
        std::fs::write(&path, "nonsense").unwrap();
        assert!(keeper.refresh().is_err());
        assert!(matches!(keeper.recall(&token.reveal()), Recall::Right(_)));
        assert!(Keeper::open(&Options::default(), &path).is_err(), "a start says so");
        std::fs::remove_file(&path).unwrap();
        keeper.refresh().unwrap();
        assert!(keeper.is_on(), "they stay on");
        assert_eq!(keeper.recall(&token.reveal()), Recall::Wrong);
    }

    #[test]
    fn tokens_are_on_with_the_first_of_them_or_when_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let auto = Keeper::open(&Options::default(), &path).unwrap();
        let open = |tokens| Keeper::open(&Options { tokens, ..Options::default() }, &path).unwrap();
        let (on, off) = (open(Tokens::On), open(Tokens::Off));
        assert_eq!([auto.is_on(), on.is_on(), off.is_on()], [false, true, false]);
        let token = create(&path, wanted("a", None), Utc::now()).unwrap();
        for keeper in [&auto, &on, &off] {
            keeper.refresh().unwrap();
        }
        assert_eq!([auto.is_on(), on.is_on(), off.is_on()], [true, true, false]);
        assert_eq!(auto.grants()[0].id, token.id());
    }
}
