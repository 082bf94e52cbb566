//! Memory that two processes share and neither can change: sealed memfds.
//!
//! Invariants:
//! 1. [`map`] maps only what bears all four seals and has exactly the size expected: a size that
//!    shrank would be SIGBUS here, bytes that change would be a race in every reader.
//! 2. Seals are asked of the kernel, never taken from the other side's word.

use bytes::Bytes;
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create,
};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// An empty memfd that can be sealed. The name is the same for all: it shows in `/proc`.
pub(super) fn create() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(memfd_create(c"sam2d", flags)?.into())
}

/// A memfd whose first `bytes` exist already: making pages is most of the time that writing takes, and
/// can be done before anyone waits.
pub(super) fn prepare(bytes: u64) -> io::Result<File> {
    let file = create()?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    Ok(file)
}

/// Makes all parts, one after the other, the whole content of a memfd and seals it.
pub(super) fn fill(mut file: File, parts: &[&[u8]]) -> io::Result<OwnedFd> {
    file.set_len(parts.iter().map(|part| part.len() as u64).sum())?;
    for part in parts {
        file.write_all(part)?;
    }
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// Maps a sealed memfd of exactly `length` bytes, all of it at once: every byte will be read, and
/// hundreds of page faults cost more than one call.
///
/// # Errors
/// When a seal is missing, the size is another, or mapping fails.
pub(super) fn map(file: OwnedFd, length: usize) -> io::Result<Bytes> {
    let refuse = |reason| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    if !fcntl_get_seals(&file)?.contains(SEALS) {
        return refuse("shared memory without its seals");
    }
    if u64::try_from(fstat(&file)?.st_size).ok() != Some(length as u64) {
        return refuse("shared memory of another size than declared");
    }
    if length == 0 {
        return Ok(Bytes::new());
    }
    map_sealed(&File::from(file), length)
}

#[expect(unsafe_code, reason = "mapping a file is unsafe because files change; this one can't")]
fn map_sealed(file: &File, length: usize) -> io::Result<Bytes> {
    // SAFETY: `memmap2` asks that nobody changes or truncates the file while it is mapped. `map`
    // asked the kernel: the file is sealed against writing, shrinking and growing, and sealed
    // against losing those seals.
    let map = unsafe { memmap2::MmapOptions::new().len(length).populate().map(file)? };
    Ok(Bytes::from_owner(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_memory_maps_and_can_not_be_written() {
        let file = create().unwrap();
        let mut writer = file.try_clone().unwrap();
        let sealed = fill(file, &[b"abc", b"def"]).unwrap();
        assert!(writer.write_all(b"x").is_err());
        assert!(writer.set_len(1).is_err());
        assert_eq!(&map(sealed, 6).unwrap()[..], b"abcdef");
    }

    #[test]
    fn memory_without_every_seal_is_refused() {
        for missing in [SealFlags::SEAL, SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE] {
            let mut file = create().unwrap();
            file.write_all(b"abc").unwrap();
            fcntl_add_seals(&file, SEALS.difference(missing)).unwrap();
            assert!(map(file.into(), 3).is_err(), "{missing:?}");
        }
    }

    #[test]
    fn another_size_than_declared_is_refused() {
        for length in [2, 4] {
            let sealed = fill(create().unwrap(), &[b"abc"]).unwrap();
            assert!(map(sealed, length).is_err());
        }
    }
}
