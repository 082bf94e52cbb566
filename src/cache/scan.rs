//! Walks the folder's listing: the start-up scan, and what the command line's tools go through.
//!
//! No entry is opened: key from the name, creation from mtime, last use from atime, size from the
//! listing; the store writes all of them. Whoever asks for an entry checks it then.

use super::Kind;
use super::index::Known;
use super::shared::Shared;
use super::store::Store;
use crate::domain::key::Sum;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::cmp::Reverse;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// Entries put into the index under one lock, so that no request waits for the scan.
const BATCH: usize = 1024;

/// Something in a kind's folder.
#[derive(Debug)]
pub(super) enum Item<'a> {
    /// An entry, by its name at least.
    Entry(Found),
    /// Anything else.
    Foreign { folder: BorrowedFd<'a>, name: &'a [u8] },
}

/// An entry as the listing shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) key: Sum,
    pub(super) bytes: u64,
    pub(super) created_s: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) used: (i64, i64),
}

/// Fills the index with what is on the disk and removes what has no business there. `gone` ends it.
pub(super) fn scan(shared: &Shared, kind: Kind, gone: &impl Fn() -> bool) -> Result<(), Errno> {
    let Some(store) = shared.store() else { return Ok(()) };
    let mut found = vec![];
    shared.index(kind).scanning(true);
    let listed = list(shared, &store, kind, gone, &mut found);
    // Also where the disk didn't tell all.
    for batch in found.chunks(BATCH) {
        let mut index = shared.index(kind);
        if !shared.is_current(Some(&store)) {
            break;
        }
        for entry in batch {
            let Found { key, bytes, created_s, .. } = *entry;
            index.insert_oldest(&Known { key, created_s, bytes });
        }
    }
    shared.index(kind).scanning(false);
    listed
}

/// What of the folder stays, most recently used first.
fn list(
    shared: &Shared,
    store: &Store,
    kind: Kind,
    gone: &impl Fn() -> bool,
    found: &mut Vec<Found>,
) -> Result<(), Errno> {
    let now = shared.clock.now();
    let mut newest_s = 0;
    let walked = walk(store, kind, &mut |item| {
        match item {
            Item::Foreign { folder, name } => remove_foreign(folder, name),
            Item::Entry(entry) => {
                if now.settled && shared.is_past(entry.created_s, now) {
                    shared.expire(kind, &entry.key, now);
                } else {
                    newest_s = newest_s.max(entry.created_s);
                    found.push(entry);
                }
            }
        }
        if gone() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    shared.clock.at_least(u64::from(newest_s) * 1000);
    found.sort_unstable_by_key(|entry| Reverse(entry.used));
    walked
}

/// Shows everything in a kind's folder to `visit`.
pub(super) fn walk(
    store: &Store,
    kind: Kind,
    visit: &mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
) -> Result<(), Errno> {
    let folder = store.kind(kind);
    for item in fs::Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let flow = match open_shard(folder, name) {
            Some(shard) => walk_shard(&shard, name, visit)?,
            None => visit(Item::Foreign { folder, name }),
        };
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

fn open_shard(folder: BorrowedFd<'_>, name: &[u8]) -> Option<OwnedFd> {
    let is_shard = name.len() == 2 && name.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    is_shard.then(|| fs::openat(folder, name, flags, Mode::empty()).ok()).flatten()
}

fn walk_shard(
    folder: &OwnedFd,
    shard: &[u8],
    visit: &mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Errno> {
    let mut listed: Vec<(u64, Sum)> = vec![];
    for item in fs::Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        match key_of(name).filter(|_| name.starts_with(shard)) {
            Some(key) => listed.push((item.ino(), key)),
            None if matches!(name, b"." | b"..") => {}
            None => {
                if visit(Item::Foreign { folder: folder.as_fd(), name }).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }
    // In the order of inodes: on a cold disk their tables are then read once, front to back.
    listed.sort_unstable_by_key(|(inode, _)| *inode);
    for (_, key) in listed {
        let name = key.to_hex();
        let stat = match fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        let item = if FileType::from_raw_mode(stat.st_mode).is_file() {
            Item::Entry(Found {
                key,
                bytes: u64::try_from(stat.st_size).unwrap_or(0),
                created_s: u32::try_from(stat.st_mtime).unwrap_or(u32::MAX),
                used: (stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0)),
            })
        } else {
            Item::Foreign { folder: folder.as_fd(), name: name.as_bytes() }
        };
        if visit(item).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn key_of(name: &[u8]) -> Option<Sum> {
    let text = std::str::from_utf8(name).ok().filter(|text| !text.contains(char::is_uppercase))?;
    Sum::from_hex(text)
}

/// Removes a file, a link or an empty folder.
pub(super) fn remove_foreign(folder: BorrowedFd<'_>, name: &[u8]) {
    if fs::unlinkat(folder, name, AtFlags::empty()) == Err(Errno::ISDIR) {
        let _ = fs::unlinkat(folder, name, AtFlags::REMOVEDIR);
    }
}
