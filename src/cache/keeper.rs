//! The thread `cache`: reads the folder's listing once at start, then removes what is too old.
//!
//! The scan opens no entry: key from the name, creation from mtime, last use from atime, size from
//! the listing (the store writes all of them). It removes what is foreign, misplaced or too old, and
//! runs beside requests: hits are looked up on the disk itself.

use super::index::Known;
use super::{Cause, Inner, Kind};
use crate::domain::key::Sum;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Entries are refused by age when asked for; this is about giving the space back.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Entries put into the index under one lock, so that no request waits for the scan.
const BATCH: usize = 1024;

/// Stops and joins the thread when dropped.
#[derive(Debug)]
pub(super) struct Handle {
    stop: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    pub(super) fn start(inner: Arc<Inner>) -> Self {
        let (stop, stopped) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("cache".into())
            .spawn(move || run(&inner, &stopped))
            .inspect_err(|error| tracing::error!("the cache's thread can't be started: {error}"))
            .ok();
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(inner: &Inner, stopped: &mpsc::Receiver<()>) {
    let gone = || matches!(stopped.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    for kind in Kind::ALL {
        if let Err(error) = scan(inner, kind, &gone) {
            inner.fault(&format!("the {} folder can't be listed: {error}", kind.name()));
        }
        inner.make_room(kind, 0);
    }
    inner.scanned.store(true, Ordering::Release);
    while stopped.recv_timeout(SWEEP_EVERY) == Err(RecvTimeoutError::Timeout) {
        sweep(inner);
    }
}

/// Removes what is older than its lifetime.
fn sweep(inner: &Inner) {
    let until_ms = inner.clock.now_ms().saturating_sub(inner.lifetime_ms());
    let until_s = u32::try_from(until_ms / 1000).unwrap_or(u32::MAX);
    for kind in Kind::ALL {
        let old = inner.index(kind).created_until(until_s);
        for key in old {
            inner.discard(kind, &key, None, Cause::Expired);
        }
    }
}

fn scan(inner: &Inner, kind: Kind, gone: &impl Fn() -> bool) -> Result<(), Errno> {
    let Some(store) = inner.store() else { return Ok(()) };
    let folder = store.kind(kind);
    let until_ms = inner.clock.now_ms().saturating_sub(inner.lifetime_ms());
    let until_s = u32::try_from(until_ms / 1000).unwrap_or(u32::MAX);
    let mut found: Vec<(i64, Known)> = vec![];
    for shard in fs::Dir::read_from(folder)? {
        let shard = shard?;
        let name = shard.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if gone() {
            return Ok(());
        }
        match open_shard(folder, name) {
            Some(shard) => scan_shard(&shard, name, until_s, &mut found)?,
            None => remove_foreign(folder, name),
        }
    }
    found.sort_unstable_by_key(|(used, _)| std::cmp::Reverse(*used));
    for batch in found.chunks(BATCH) {
        let mut index = inner.index(kind);
        batch.iter().for_each(|(_, known)| index.insert_oldest(known));
    }
    Ok(())
}

fn open_shard(folder: BorrowedFd<'_>, name: &[u8]) -> Option<OwnedFd> {
    let is_shard = name.len() == 2 && name.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    is_shard.then(|| fs::openat(folder, name, flags, Mode::empty()).ok()).flatten()
}

fn scan_shard(
    folder: &OwnedFd,
    shard: &[u8],
    until_s: u32,
    found: &mut Vec<(i64, Known)>,
) -> Result<(), Errno> {
    for item in fs::Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let Some(key) = key_of(name).filter(|_| name.starts_with(shard)) else {
            remove_foreign(folder.as_fd(), name);
            continue;
        };
        let stat = match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        let created_s = u32::try_from(stat.st_mtime).unwrap_or(u32::MAX);
        if !FileType::from_raw_mode(stat.st_mode).is_file() || created_s <= until_s {
            remove_foreign(folder.as_fd(), name);
            continue;
        }
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        found.push((stat.st_atime, Known { key, created_s, bytes }));
    }
    Ok(())
}

fn key_of(name: &[u8]) -> Option<Sum> {
    let text = std::str::from_utf8(name).ok().filter(|text| !text.contains(char::is_uppercase))?;
    Sum::from_hex(text)
}

/// A file, a link or an empty folder that has no business here.
fn remove_foreign(folder: BorrowedFd<'_>, name: &[u8]) {
    if fs::unlinkat(folder, name, AtFlags::empty()) == Err(Errno::ISDIR) {
        let _ = fs::unlinkat(folder, name, AtFlags::REMOVEDIR);
    }
}
