//! What is in the folder: its tree, and how one entry gets in, is read, and goes.
//!
//! ```text
//! <folder>/            0700, ours: everything in v1 that is no entry is removed at start
//!   CACHEDIR.TAG       says so to us and to backup tools (bford.info/cachedir)
//!   lock               flock(2)ed exclusively while a daemon uses the folder; holds its pid
//!   clock              the time last believed, for a start with a wrong clock
//!   v1/tmp/<16 hex>    half-made; emptied at start
//!   v1/<kind>/<2 hex>/<64 hex>
//! ```
//!
//! Invariants:
//! 1. A file under its final name is never written again: it is made in `tmp`, written, synced
//!    (answers and slices), renamed, and its folder synced. It ends by unlink or by another rename
//!    over it. So a mapping of it never changes and never shrinks while anyone holds it.
//! 2. Nothing outside the folder is touched: paths are relative to open directories, links are not
//!    followed.
//!
//! Whose folder it is, and its lock: [`super::folder`].
//!
//! What remains with a mapping: a block that can't be read again after memory pressure dropped it
//! ends the process with SIGBUS. Small entries are therefore read, not mapped ([`Access`]).

use super::entry::Aligned;
use super::folder::{self, LOCK, open_folder, sub_folder};
use super::{Kind, OpenError};
use crate::domain::key::Sum;
use bytes::Bytes;
use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(test)]
pub(super) use super::tests::faults::before;

pub(super) const FOLDER: Mode = Mode::RWXU;
pub(super) const FILE: Mode = Mode::from_raw_mode(0o600);
const TREE: &str = "v1";
const TMP: &str = "tmp";
const CLOCK: &str = "clock";

/// An open, locked cache folder.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    root: Arc<OwnedFd>,
    lock: Arc<File>,
    tmp: OwnedFd,
    kinds: [OwnedFd; Kind::ALL.len()],
}

/// How an entry gets from the disk into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Copied to the heap: a disk error is an error here and now, and never a signal.
    Read,
    /// Mapped: nothing is copied, the page cache is the memory.
    Map,
}

/// A file as it was found under an entry's name.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) image: Bytes,
    pub(super) id: FileId,
}

/// Which file it was, to remove that one and not what has replaced it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// One change to the disk (or a read), as failpoints and the power-cut recorder see it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "read by the tests' failpoints alone"))]
pub(super) enum Op<'a> {
    Create { tmp: &'a str },
    Write { tmp: &'a str, bytes: &'a [u8] },
    SetTimes,
    SyncFile { tmp: &'a str },
    MakeShard { kind: Kind, shard: &'a str },
    SyncKind { kind: Kind },
    Rename { tmp: &'a str, kind: Kind, name: &'a str },
    SyncShard { kind: Kind, shard: &'a str },
    Unlink { kind: Kind, name: &'a str },
    UnlinkTmp { tmp: &'a str },
    Read,
    WriteTag,
    SyncTag,
    SyncRoot,
    SyncTree,
    MakeFolder,
}

/// Failpoints: in the shipped binary there are none.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "the tests' version fails when told to")]
pub(super) fn before(_: Op<'_>) -> io::Result<()> {
    Ok(())
}

impl Store {
    /// Makes or opens the folder, takes its lock, and throws away what a crash left half-made.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let at = |source: Errno| OpenError::Io { path: path.into(), source: source.into() };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|source| OpenError::Io { path: parent.into(), source })?;
        }
        folder::make_folder(fs::CWD, path).map_err(at)?;
        let root = open_folder(fs::CWD, path).map_err(at)?;
        folder::own(&root, path)?;
        let lock = folder::lock(&root, path)?;
        folder::claim(&root, path)?;
        let store = Self::build(path, Arc::new(root), Arc::new(lock))
            .map_err(|source| OpenError::Io { path: path.into(), source })?;
        store.empty_tmp();
        Ok(store)
    }

    /// The same folder, with what is missing of its tree made anew: somebody deleted part of it.
    pub(super) fn renewed(&self) -> io::Result<Self> {
        Self::build(&self.path, Arc::clone(&self.root), Arc::clone(&self.lock))
    }

    fn build(path: &Path, root: Arc<OwnedFd>, lock: Arc<File>) -> io::Result<Self> {
        let tree = sub_folder(&root, TREE)?;
        let tmp = sub_folder(&tree, TMP)?;
        let [answer, embedding, slice] = Kind::ALL;
        let kinds = [
            sub_folder(&tree, answer.name())?,
            sub_folder(&tree, embedding.name())?,
            sub_folder(&tree, slice.name())?,
        ];
        synced(Op::SyncTree, &tree)?;
        synced(Op::SyncRoot, &root)?;
        Ok(Self { path: path.into(), root, lock, tmp, kinds })
    }

    /// Opens a folder that is there already, for `sam2d cache …` without a daemon: makes nothing,
    /// so that root can look into the daemon's folder without leaving files of its own. `None` when
    /// there is no cache.
    pub(super) fn open_existing(path: &Path) -> Result<Option<Self>, OpenError> {
        let at = |source: Errno| OpenError::Io { path: path.into(), source: source.into() };
        let part = |at: &OwnedFd, name: &str| open_folder(at.as_fd(), name);
        let root = match open_folder(fs::CWD, path) {
            Ok(root) => root,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(at(error)),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = match fs::openat(&root, LOCK, flags, Mode::empty()) {
            Ok(lock) => File::from(lock),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(at(error)),
        };
        folder::hold(&lock, path)?;
        let tree = match part(&root, TREE) {
            Ok(tree) => tree,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(at(error)),
        };
        let [answer, embedding, slice] = Kind::ALL;
        let kinds = [
            part(&tree, answer.name()).map_err(at)?,
            part(&tree, embedding.name()).map_err(at)?,
            part(&tree, slice.name()).map_err(at)?,
        ];
        let tmp = part(&tree, TMP).map_err(at)?;
        let (root, lock) = (Arc::new(root), Arc::new(lock));
        Ok(Some(Self { path: path.into(), root, lock, tmp, kinds }))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of one kind, to scan it.
    pub(super) fn kind(&self, kind: Kind) -> BorrowedFd<'_> {
        let [answer, embedding, slice] = &self.kinds;
        match kind {
            Kind::Answer => answer.as_fd(),
            Kind::Embedding => embedding.as_fd(),
            Kind::Slice => slice.as_fd(),
        }
    }

    /// True while the lock we hold is still the one that others would find: false once the folder
    /// was deleted or replaced under us.
    pub(super) fn is_in_place(&self) -> bool {
        let held = fs::fstat(&self.lock).map(|stat| FileId::of(&stat));
        let found = fs::statat(fs::CWD, self.path.join(LOCK), AtFlags::SYMLINK_NOFOLLOW);
        matches!((held, found), (Ok(held), Ok(found)) if held == FileId::of(&found))
    }

    /// The whole file of an entry; `None` when there is none. Longer than `limit` is an error of
    /// kind `InvalidData`, without reading it.
    pub(super) fn read(
        &self,
        kind: Kind,
        key: &Sum,
        access: Access,
        limit: u64,
    ) -> io::Result<Option<Found>> {
        let name = name(key);
        before(Op::Read)?;
        let file = match open_entry(self.kind(kind), &name) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) => return Err(error.into()),
        };
        let stat = fs::fstat(&file)?;
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        if !fs::FileType::from_raw_mode(stat.st_mode).is_file() || length > limit {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?;
        let image = match access {
            Access::Map if length > 0 => map(&file, length)?,
            Access::Map | Access::Read => read_whole(file, length)?,
        };
        Ok(Some(Found { image, id: FileId::of(&stat) }))
    }

    /// Puts a finished image under its name: in full or not at all, whatever interrupts it.
    pub(super) fn write(
        &self,
        kind: Kind,
        key: &Sum,
        image: &[u8],
        created_ms: u64,
    ) -> io::Result<()> {
        let (tmp, name) = (tmp_name()?, name(key));
        let made = self.make(kind, &tmp, image, created_ms);
        let placed = made.and_then(|()| self.place(kind, &tmp, &name));
        if placed.is_err() {
            let _ = before(Op::UnlinkTmp { tmp: &tmp });
            let _ = fs::unlinkat(&self.tmp, &tmp, AtFlags::empty());
        }
        placed
    }

    /// Removes an entry; with `only`, only if it is still that file. True when it was there.
    pub(super) fn remove(&self, kind: Kind, key: &Sum, only: Option<FileId>) -> io::Result<bool> {
        let name = name(key);
        if let Some(id) = only {
            match fs::statat(self.kind(kind), &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileId::of(&stat) == id => {}
                Ok(_) | Err(Errno::NOENT) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        before(Op::Unlink { kind, name: &name })?;
        let mut removed = fs::unlinkat(self.kind(kind), &name, AtFlags::empty());
        if removed == Err(Errno::ISDIR) {
            // Not ours. Empty, it goes; with something in it, it stays and is trouble.
            removed = fs::unlinkat(self.kind(kind), &name, AtFlags::REMOVEDIR);
        }
        match removed {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Something is there under the name.
    pub(super) fn exists(&self, kind: Kind, key: &Sum) -> bool {
        fs::statat(self.kind(kind), name(key), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Notes when an entry was last used, so that the next run knows too.
    pub(super) fn note_use(&self, kind: Kind, key: &Sum, used_ms: u64) -> io::Result<()> {
        let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: timespec(used_ms), last_modification: keep };
        match fs::utimensat(self.kind(kind), name(key), &times, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes that the disk still has for us.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let disk = fs::fstatvfs(&self.tmp)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// The time an earlier run believed, 0 when it isn't known.
    pub(super) fn noted_time_ms(&self) -> u64 {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut text = String::new();
        fs::openat(&self.root, CLOCK, flags, Mode::empty())
            .ok()
            .and_then(|file| File::from(file).take(32).read_to_string(&mut text).ok())
            .and_then(|_| text.strip_suffix('\n')?.parse().ok())
            .unwrap_or(0)
    }

    /// For the next run. Not synced, not vital: a lost or torn one is no time at all.
    pub(super) fn note_time(&self, ms: u64) -> io::Result<()> {
        let tmp = tmp_name()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat(&self.tmp, &tmp, flags, FILE)?);
        let written = writeln!(file, "{ms}");
        let placed = written.and_then(|()| Ok(fs::renameat(&self.tmp, &tmp, &self.root, CLOCK)?));
        if placed.is_err() {
            let _ = fs::unlinkat(&self.tmp, &tmp, AtFlags::empty());
        }
        placed
    }

    fn make(&self, kind: Kind, tmp: &str, image: &[u8], created_ms: u64) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        before(Op::Create { tmp })?;
        let mut file = File::from(fs::openat(&self.tmp, tmp, flags, FILE)?);
        before(Op::Write { tmp, bytes: image })?;
        file.write_all(image)?;
        // The scan takes creation (mtime) and last use (atime) from here, without opening the file.
        before(Op::SetTimes)?;
        let created = timespec(created_ms);
        fs::futimens(&file, &Timestamps { last_access: created, last_modification: created })?;
        if kind.is_synced() {
            synced(Op::SyncFile { tmp }, &file)?;
        }
        Ok(())
    }

    fn place(&self, kind: Kind, tmp: &str, name: &str) -> io::Result<()> {
        let folder = self.kind(kind);
        before(Op::Rename { tmp, kind, name })?;
        let mut renamed = fs::renameat(&self.tmp, tmp, folder, name);
        let shard = name.get(..2).unwrap_or_default();
        if renamed == Err(Errno::NOENT) {
            before(Op::MakeShard { kind, shard })?;
            match fs::mkdirat(folder, shard, FOLDER) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            synced(Op::SyncKind { kind }, folder)?;
            before(Op::Rename { tmp, kind, name })?;
            renamed = fs::renameat(&self.tmp, tmp, folder, name);
        }
        renamed?;
        if kind.is_synced() {
            synced(Op::SyncShard { kind, shard }, open_folder(folder, shard)?)?;
        }
        Ok(())
    }

    /// What can't be removed stays: it harms nothing but the space it takes.
    fn empty_tmp(&self) {
        let Ok(list) = fs::Dir::read_from(&self.tmp) else { return };
        for item in list.flatten() {
            if !matches!(item.file_name().to_bytes(), b"." | b"..") {
                let _ = fs::unlinkat(&self.tmp, item.file_name(), AtFlags::empty());
            }
        }
    }
}

/// Every sync there is goes through here, so that what the recorder sees is what the disk is asked.
pub(super) fn synced(op: Op<'_>, what: impl AsFd) -> io::Result<()> {
    before(op)?;
    fs::fsync(what)?;
    Ok(())
}

impl FileId {
    fn of(stat: &fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// Without changing its time of last use, which means something here.
fn open_entry(folder: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match fs::openat(folder, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner may ask for that.
        Err(Errno::PERM) => fs::openat(folder, name, flags, Mode::empty()),
        opened => opened,
    }
}

/// `ab/ab…` below the kind's folder. 256 folders keep each short with a million entries.
fn name(key: &Sum) -> String {
    let hex = key.to_hex();
    format!("{}/{hex}", hex.get(..2).unwrap_or_default())
}

/// Random: two processes that wrongly share a folder still don't write into one file.
fn tmp_name() -> io::Result<String> {
    let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    Ok(format!("{number:016x}"))
}

fn timespec(ms: u64) -> Timespec {
    let whole = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let rest = i64::try_from(ms % 1000).unwrap_or(0) * 1_000_000;
    Timespec { tv_sec: whole, tv_nsec: rest }
}

fn read_whole(mut file: File, length: usize) -> io::Result<Bytes> {
    let mut memory = Aligned::zeroed(length);
    let bytes = memory.bytes_mut().get_mut(..length).ok_or(io::ErrorKind::InvalidData)?;
    file.read_exact(bytes)?;
    Ok(Bytes::from_owner(memory).slice(..length))
}

#[expect(unsafe_code, reason = "a mapping is only as constant as its file; see the module's head")]
fn map(file: &File, length: usize) -> io::Result<Bytes> {
    // SAFETY: `map` requires that the file is not changed or truncated while mapped, by anyone.
    // Upheld by invariant 1 (a named file is never written again, only unlinked) for this program,
    // by the lock for other daemons, and by mode 0700 for other users. The daemon's own user or
    // root truncating a file by hand is outside of what this can hold off.
    let mapping = unsafe { memmap2::MmapOptions::new().len(length).map(file) }?;
    Ok(Bytes::from_owner(mapping))
}
