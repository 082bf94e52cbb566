//! `file:NAME`: images that something else put into the configured inbox folder.
//!
//! SECURITY: a name is resolved inside the folder by the kernel (`openat2` with
//! `RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS`), so neither `..`, an absolute path, a link nor a race
//! between check and use leads out of it. File names may be patients'
//! names: they are never logged and never in an error.

use super::error::ServiceError;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};
use std::sync::Arc;

/// The open folder, or none configured.
pub(super) struct Inbox {
    folder: Option<OwnedFd>,
    max_bytes: u64,
}

impl Inbox {
    /// `max_bytes` is the limit that uploads have too.
    ///
    /// # Errors
    /// When a folder is configured and can't be opened.
    pub(super) fn open(folder: Option<&Path>, max_bytes: u64) -> std::io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let folder = folder.map(|path| open(path, flags, Mode::empty())).transpose()?;
        Ok(Self { folder, max_bytes })
    }

    /// Reads a file; blocking.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, ServiceError> {
        let missing =
            || ServiceError::Invalid("image_data: there is no such file in the inbox".into());
        let Some(folder) = &self.folder else {
            let text = "image_data: file references need an inbox, and none is configured";
            return Err(ServiceError::Invalid(text.into()));
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        if Path::new(name).components().any(|part| part == Component::ParentDir) {
            return Err(missing());
        }
        // NONBLOCK: a named pipe put there must not hold a thread.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = openat2(folder, name, flags, Mode::empty(), resolve).map_err(|_| missing())?;
        let stat = fstat(&file).map_err(|_| missing())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(missing());
        }
        let mut bytes = Vec::new();
        let read = File::from(file).take(self.max_bytes + 1).read_to_end(&mut bytes);
        read.map_err(|error| ServiceError::Internal(Arc::new(error)))?;
        if bytes.len() as u64 > self.max_bytes {
            let text = format!("the file in the inbox is larger than {} bytes", self.max_bytes);
            return Err(ServiceError::TooLarge(text));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leads_out_of_the_inbox() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret.png"), b"secret").unwrap();
        let folder = outside.path().join("inbox");
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(folder.join("a.png"), b"image").unwrap();
        std::fs::write(folder.join("sub/b.png"), b"other").unwrap();
        std::os::unix::fs::symlink("../secret.png", folder.join("link.png")).unwrap();
        std::os::unix::fs::symlink("a.png", folder.join("inner.png")).unwrap();
        let inbox = Inbox::open(Some(&folder), 5).unwrap();
        assert_eq!(inbox.read("a.png").unwrap(), b"image");
        assert_eq!(inbox.read("inner.png").unwrap(), b"image");
        assert_eq!(inbox.read("sub/b.png").unwrap(), b"other");
        let absolute = outside.path().join("secret.png");
        for name in ["../secret.png", "link.png", "sub", "", "sub/../a.png"] {
            assert!(matches!(inbox.read(name), Err(ServiceError::Invalid(_))), "{name}");
        }
        assert!(inbox.read(absolute.to_str().unwrap()).is_err());
    }

    #[test]
    fn a_file_over_the_limit_is_too_large_and_no_inbox_is_said() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("big"), [0; 9]).unwrap();
        let inbox = Inbox::open(Some(folder.path()), 8).unwrap();
        assert!(matches!(inbox.read("big"), Err(ServiceError::TooLarge(_))));
        let none = Inbox::open(None, 8).unwrap();
        assert!(none.read("big").unwrap_err().to_string().contains("none is configured"));
    }
}
