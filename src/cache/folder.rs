//! Whose folder it is: made, closed to others, locked, and told from one that isn't a cache.
//!
//! Invariants:
//! 1. A folder that isn't ours (something in it, and no tag of ours) is refused, not cleaned.
//! 2. One daemon at a time: the lock is held as long as anything here is used.
//! 3. The tag is durable before the first entry's folder exists, so that a power cut never leaves our
//!    own entries in a folder we would then refuse.

use super::OpenError;
use super::store::{FILE, FOLDER, Op, before, synced};
use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Holds the pid of whoever has it, for the message to others.
pub(super) const LOCK: &str = "lock";
const TAG: &str = "CACHEDIR.TAG";
/// What [`TAG_TEXT`] begins with, whatever its wording becomes.
const TAG_START: &[u8] =
    b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a sam2d cache";
/// Says so to us and to backup tools (bford.info/cachedir).
const TAG_TEXT: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n\
# This folder is a sam2d cache: anything in it can be deleted, and what is not the cache's will be.\n";

/// Makes it, unless it is there.
pub(super) fn make_folder(at: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
    match fs::mkdirat(at, path, FOLDER) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a folder that is one itself, and no link to one.
pub(super) fn open_folder(
    at: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(at, path, flags, Mode::empty())
}

/// Makes or opens a part of the tree.
pub(super) fn sub_folder(at: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    before(Op::MakeFolder)?;
    make_folder(at.as_fd(), Path::new(name))?;
    Ok(open_folder(at.as_fd(), name)?)
}

/// Ours and closed to others, or refused: the entries are made of patients' pixels.
pub(super) fn own(root: &OwnedFd, path: &Path) -> Result<(), OpenError> {
    let at = |source: Errno| OpenError::Io { path: path.into(), source: source.into() };
    let stat = fs::fstat(root).map_err(at)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(OpenError::NotOwned { path: path.into(), owner: stat.st_uid });
    }
    if stat.st_mode & 0o077 != 0 {
        fs::fchmod(root, FOLDER).map_err(at)?;
    }
    Ok(())
}

/// Opened for reading only: an operator can then remount the disk read-only while we run.
pub(super) fn lock(root: &OwnedFd, path: &Path) -> Result<File, OpenError> {
    let at = |source: Errno| OpenError::Io { path: path.join(LOCK), source: source.into() };
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match fs::openat(root, LOCK, flags | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::NOENT) => fs::openat(root, LOCK, flags | OFlags::CREATE, FILE),
        opened => opened,
    };
    let file = File::from(opened.map_err(at)?);
    hold(&file, path)?;
    // Only for the message to others; a failure to write it harms nothing.
    if let Ok(pid) = fs::openat(root, LOCK, flags | OFlags::WRONLY | OFlags::TRUNC, FILE) {
        let _ = writeln!(File::from(pid), "{}", std::process::id());
    }
    Ok(file)
}

/// Takes the lock. A process that is just ending, or a child between its fork and its exec, may hold
/// it for a moment more: a restart waits for that.
pub(super) fn hold(file: &File, path: &Path) -> Result<(), OpenError> {
    let mut tries = 25;
    loop {
        match fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = file.take(20).read_to_string(&mut holder);
                let pid = holder.trim().parse().ok();
                return Err(OpenError::Locked { path: path.into(), pid });
            }
            Err(error) => {
                return Err(OpenError::Io { path: path.join(LOCK), source: error.into() });
            }
        }
    }
}

/// Writes the tag into a new folder; refuses one that holds something and has no tag of ours.
pub(super) fn claim(root: &OwnedFd, path: &Path) -> Result<(), OpenError> {
    let at = |source: Errno| OpenError::Io { path: path.join(TAG), source: source.into() };
    for item in fs::Dir::read_from(root).map_err(at)? {
        let item = item.map_err(at)?;
        let name = item.file_name();
        if matches!(
            name.to_bytes(),
            b"." | b".." | b"lock" | b"clock" | b"lost+found" | b"CACHEDIR.TAG"
        ) {
            continue;
        }
        let mut text = vec![];
        let ours = fs::openat(root, TAG, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())
            .is_ok_and(|tag| File::from(tag).take(4096).read_to_end(&mut text).is_ok())
            && text.starts_with(TAG_START);
        if !ours {
            let found = name.to_string_lossy().into_owned();
            return Err(OpenError::NotOurs { path: path.into(), found });
        }
        return Ok(());
    }
    write_tag(root).map_err(|source| OpenError::Io { path: path.join(TAG), source })
}

fn write_tag(root: &OwnedFd) -> io::Result<()> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    before(Op::WriteTag)?;
    let mut tag = File::from(fs::openat(root, TAG, flags, FILE)?);
    tag.write_all(TAG_TEXT)?;
    synced(Op::SyncTag, &tag)?;
    synced(Op::SyncRoot, root)
}
