//! What `sam2d cache stat|list|verify|purge` work on: a daemon's cache, or a folder without one.
//!
//! A folder without a daemon is locked while a tool holds it, so that none starts meanwhile. Nothing
//! is made in it: root can look into the daemon's folder and leaves no file of its own.

use super::entry::{self, Bad};
use super::scan::{self, Found, Item};
use super::store::{Access, FileId, Store};
use super::{Cache, Kind, OpenError};
use crate::domain::key::Sum;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Is shown entries; breaks off when it has seen enough.
pub type Visit<'a> = &'a mut dyn FnMut(Listed) -> ControlFlow<()>;
/// Asked between two entries whether anyone still waits for the result.
pub type GoOn<'a> = &'a dyn Fn() -> ControlFlow<()>;

/// An entry as the folder's listing shows it; nothing of it has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What it is.
    pub kind: Kind,
    /// Its key.
    pub key: Sum,
    /// Length of the file.
    pub bytes: u64,
    /// When it was made.
    pub created: SystemTime,
    /// When it was last asked for, as far as that was noted.
    pub last_used: SystemTime,
}

/// What came of reading every entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Sound entries.
    pub sound: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Damaged entries, now deleted.
    pub bad: Vec<(Kind, Sum, Bad)>,
    /// Entries that the disk didn't give, with its words; left where they are.
    pub unreadable: Vec<(Kind, Sum, String)>,
}

/// A cache folder that no daemon uses, locked.
#[derive(Debug)]
pub struct Folder {
    store: Store,
}

impl Folder {
    /// `None` when there is no cache in that folder.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when a daemon has it: ask that one.
    pub fn open(path: &Path) -> Result<Option<Self>, OpenError> {
        Ok(Store::open_existing(path)?.map(|store| Self { store }))
    }

    /// Shows every entry to `visit`, until it breaks off.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn list(&self, visit: Visit<'_>) -> io::Result<()> {
        list(&self.store, visit)
    }

    /// Reads every entry, deletes what is damaged; ends early when `go_on` breaks off.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn verify(&self, go_on: GoOn<'_>) -> io::Result<Verified> {
        verify(&self.store, go_on, &mut |kind, key, id, _| {
            let _ = self.store.remove(kind, key, Some(id));
        })
    }

    /// Deletes every entry; returns how many there were.
    ///
    /// # Errors
    /// When the folder can't be listed or an entry can't be deleted; the others are deleted.
    pub fn purge(&self) -> io::Result<u64> {
        let (mut purged, mut refused) = (0, None);
        list(&self.store, &mut |listed| {
            match self.store.remove(listed.kind, &listed.key, None) {
                Ok(removed) => purged += u64::from(removed),
                Err(error) => refused = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        refused.map_or(Ok(purged), Err)
    }
}

impl Cache {
    /// Shows every entry on the disk to `visit`, until it breaks off.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn list(&self, visit: Visit<'_>) -> io::Result<()> {
        self.shared.store().map_or(Ok(()), |store| list(&store, visit))
    }

    /// Reads every entry on the disk, deletes what is damaged; ends early when `go_on` breaks off.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn verify(&self, go_on: GoOn<'_>) -> io::Result<Verified> {
        let Some(store) = self.shared.store() else { return Ok(Verified::default()) };
        verify(&store, go_on, &mut |kind, key, id, bad| self.shared.bad(kind, key, Some(id), bad))
    }
}

fn list(store: &Store, visit: Visit<'_>) -> io::Result<()> {
    let mut flow = ControlFlow::Continue(());
    for kind in Kind::ALL {
        scan::walk(store, kind, &mut |item| {
            if let Item::Entry(found) = item {
                flow = visit(listed(kind, found));
            }
            flow
        })?;
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

fn verify(
    store: &Store,
    go_on: GoOn<'_>,
    remove: &mut dyn FnMut(Kind, &Sum, FileId, Bad),
) -> io::Result<Verified> {
    let mut verified = Verified::default();
    let mut keys = vec![];
    list(store, &mut |listed| {
        keys.push((listed.kind, listed.key));
        go_on()
    })?;
    for (kind, key) in keys {
        if go_on().is_break() {
            break;
        }
        let found = match store.read(kind, &key, Access::Read, u64::MAX) {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(error) => {
                verified.unreadable.push((kind, key, error.to_string()));
                continue;
            }
        };
        match entry::check(found.image, kind, &key) {
            Ok(checked) => {
                verified.sound += 1;
                verified.bytes += checked.image.len() as u64;
            }
            Err(bad) => {
                remove(kind, &key, found.id, bad);
                verified.bad.push((kind, key, bad));
            }
        }
    }
    Ok(verified)
}

fn listed(kind: Kind, found: Found) -> Listed {
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Listed {
        kind,
        key: found.key,
        bytes: found.bytes,
        created: at(u64::from(found.created_s)),
        last_used: at(u64::try_from(found.used.0).unwrap_or(0)),
    }
}
