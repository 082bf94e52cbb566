//! Engine packages: a folder with `engine.toml` beside encoder, decoder and the golden picture, or
//! the same files compiled in.
//!
//! Invariants:
//! 1. A [`Package`] exists only if every file it names was there and had the sum the manifest says.
//! 2. Bytes that are handed to a backend are the ones that were hashed: [`Package::read`] hashes
//!    what it read, not what lay there a moment ago.
//! 3. Model files are not kept in memory; a package is small to hold while the engine runs.
//!
//! It runs nothing. Whether the files say what they should is the self-test's question
//! ([`golden`]); who may put a package where is the operator's.

pub mod calibration;
pub mod golden;
pub mod import;
pub mod manifest;
pub mod search;

use crate::domain::key::Sum;
use bytes::Bytes;
use manifest::{FileEntry, Manifest, ManifestError};
use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the manifest in a package's folder.
pub const MANIFEST_FILE: &str = "engine.toml";

/// Larger manifests are none: the embedded one has 1.2 kB.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024;
/// Larger golden files are none: the embedded picture has 40 kB.
const MAX_GOLDEN_BYTES: u64 = 16 * 1024 * 1024;

/// A checked engine package.
#[derive(Clone, Debug)]
pub struct Package {
    manifest: Manifest,
    digest: Sum,
    origin: Origin,
    golden_image: Bytes,
    golden_mask: Bytes,
}

/// Where a package lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Compiled into the program.
    Embedded,
    /// A folder.
    Folder(PathBuf),
}

/// Which model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Image encoder.
    Encoder,
    /// Mask decoder.
    Decoder,
}

impl Role {
    /// `encoder` or `decoder`, as in logs and errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
        }
    }
}

/// Why a folder is no package. The texts name the folder: they are for the operator, not the wire.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// There is no manifest: no package here.
    #[error("{} has no engine.toml: not an engine package", folder.display())]
    NotAPackage {
        /// What was looked at.
        folder: PathBuf,
    },
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// `engine.toml` is wrong.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The key and what is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// A file is not the one the manifest means: damaged, half copied, or exchanged.
    #[error(
        "{}: sha256 is {found}, engine.toml says {expected}: the file is damaged or not this package's",
        path.display()
    )]
    WrongSum {
        /// The file.
        path: PathBuf,
        /// From the manifest.
        expected: String,
        /// Of the bytes.
        found: String,
    },
    /// The package is not the pinned one.
    #[error(
        "{}: sha256 is {found}, the configuration pins engine.sha256 = {expected}",
        path.display()
    )]
    NotPinned {
        /// The manifest.
        path: PathBuf,
        /// `engine.sha256`.
        expected: String,
        /// Of the manifest.
        found: String,
    },
}

impl Package {
    /// Reads and checks a folder: manifest, then the sums of all files.
    ///
    /// # Errors
    /// Any [`PackageError`].
    pub fn load(folder: &Path) -> Result<Self, PackageError> {
        if !folder.join(MANIFEST_FILE).exists() {
            return Err(PackageError::NotAPackage { folder: folder.into() });
        }
        Self::open(Origin::Folder(folder.into()))
    }

    /// The package that is compiled in: a demonstration model.
    ///
    /// # Errors
    /// Only if the build took files that don't belong together, which the tests rule out.
    pub fn embedded() -> Result<Self, PackageError> {
        Self::open(Origin::Embedded)
    }

    fn open(origin: Origin) -> Result<Self, PackageError> {
        let text = origin.read(MANIFEST_FILE, MAX_MANIFEST_BYTES)?;
        let manifest = std::str::from_utf8(&text)
            .map_err(|error| ManifestError::from_text(error.to_string()))
            .and_then(Manifest::parse)
            .map_err(|source| PackageError::Manifest {
                path: origin.path(MANIFEST_FILE),
                source,
            })?;
        let golden = &manifest.golden;
        let golden_image = origin.read(&golden.image, MAX_GOLDEN_BYTES)?;
        origin.check(&golden.image, &golden_image, golden.sha256)?;
        let golden_mask = origin.read(&golden.mask, MAX_GOLDEN_BYTES)?;
        origin.check(&golden.mask, &golden_mask, golden.mask_sha256)?;
        let package = Self {
            digest: Sum::of(&text),
            golden_image: Bytes::from_owner(golden_image),
            golden_mask: Bytes::from_owner(golden_mask),
            manifest,
            origin,
        };
        for checked in std::iter::once(&package).chain(&package.fallback()) {
            checked.read(Role::Encoder)?;
            checked.read(Role::Decoder)?;
        }
        Ok(package)
    }

    /// The same weights for the CPU, where the package brings them: a package of the same digest,
    /// whose files are ONNX.
    #[must_use]
    pub fn fallback(&self) -> Option<Self> {
        let files = self.manifest.fallback.clone()?;
        let manifest = Manifest { files, plan: None, fallback: None, ..self.manifest.clone() };
        Some(Self { manifest, ..self.clone() })
    }

    /// What the package says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the manifest's text: with the sums inside, it stands for the whole package.
    #[must_use]
    pub fn digest(&self) -> Sum {
        self.digest
    }

    /// Where it lies.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The golden picture: an 8-bit PNG.
    #[must_use]
    pub fn golden_image(&self) -> &Bytes {
        &self.golden_image
    }

    /// The golden mask: an 8-bit grey PNG of 0 and 255.
    #[must_use]
    pub fn golden_mask(&self) -> &Bytes {
        &self.golden_mask
    }

    /// The entry of a model file.
    #[must_use]
    pub fn file(&self, role: Role) -> &FileEntry {
        match role {
            Role::Encoder => &self.manifest.files.encoder,
            Role::Decoder => &self.manifest.files.decoder,
        }
    }

    /// A model file's bytes, hashed after reading.
    ///
    /// # Errors
    /// `Io`, or `WrongSum` if they changed since the package was loaded.
    pub fn read(&self, role: Role) -> Result<Cow<'static, [u8]>, PackageError> {
        let entry = self.file(role);
        let bytes = self.origin.read(&entry.path, u64::MAX)?;
        self.origin.check(&entry.path, &bytes, entry.sha256)?;
        Ok(bytes)
    }

    /// Is this the package that `engine.sha256` pins?
    ///
    /// # Errors
    /// `NotPinned` when it is another.
    pub fn pinned(self, expected: Option<Sum>) -> Result<Self, PackageError> {
        match expected {
            Some(expected) if expected != self.digest => Err(PackageError::NotPinned {
                path: self.origin.path(MANIFEST_FILE),
                expected: expected.to_hex(),
                found: self.digest.to_hex(),
            }),
            _ => Ok(self),
        }
    }
}

/// Changes whenever a file of the folder is added, removed, replaced or written; 0 when there is no
/// folder. Reads no content, so it is cheap enough to ask every few seconds.
#[must_use]
pub fn folder_revision(folder: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.flatten().fold(1, |revision, entry| {
        let mut hasher = DefaultHasher::new();
        entry.file_name().hash(&mut hasher);
        if let Ok(meta) = fs::metadata(entry.path()) {
            (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()).hash(&mut hasher);
        }
        // Addition, because read_dir gives no order.
        hasher.finish().wrapping_add(revision)
    })
}

impl Origin {
    fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Embedded => Path::new("embedded").join(name),
            Self::Folder(folder) => folder.join(name),
        }
    }

    fn read(&self, name: &str, limit: u64) -> Result<Cow<'static, [u8]>, PackageError> {
        let read = match self {
            Self::Embedded => embedded_file(name).map(Cow::Borrowed),
            Self::Folder(folder) => bounded(&folder.join(name), limit).map(Cow::Owned),
        };
        read.map_err(|source| PackageError::Io { path: self.path(name), source })
    }

    fn check(&self, name: &str, bytes: &[u8], expected: Sum) -> Result<(), PackageError> {
        let found = Sum::of(bytes);
        if found == expected {
            return Ok(());
        }
        let (expected, found) = (expected.to_hex(), found.to_hex());
        Err(PackageError::WrongSum { path: self.path(name), expected, found })
    }
}

fn bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if found.len() > limit {
        return Err(io::Error::other(format!("{} bytes are more than {limit}", found.len())));
    }
    fs::read(path)
}

macro_rules! embedded {
    ($($name:literal),+) => {
        fn embedded_file(name: &str) -> io::Result<&'static [u8]> {
            match name {
                $($name => Ok(include_bytes!(concat!("../../../engines/sam2-nano/", $name))),)+
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
    };
}
embedded!("engine.toml", "encoder.onnx", "decoder.onnx", "golden.png", "golden_mask.png");

#[cfg(test)]
mod tests {
    use super::*;

    /// The embedded package as a folder of its own.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/sam2-nano");
        for name in [MANIFEST_FILE, "encoder.onnx", "decoder.onnx", "golden.png", "golden_mask.png"]
        {
            fs::copy(source.join(name), folder.path().join(name)).unwrap();
        }
        folder
    }

    #[test]
    fn the_embedded_package_and_its_folder_are_the_same() {
        let embedded = Package::embedded().unwrap();
        let folder = folder();
        let loaded = Package::load(folder.path()).unwrap();
        assert_eq!(embedded.digest(), loaded.digest());
        assert_eq!(embedded.manifest(), loaded.manifest());
        for role in [Role::Encoder, Role::Decoder] {
            assert_eq!(embedded.read(role).unwrap(), loaded.read(role).unwrap());
        }
    }

    #[test]
    fn one_changed_byte_in_any_hashed_file_refuses_the_package() {
        for name in ["encoder.onnx", "decoder.onnx", "golden.png", "golden_mask.png"] {
            let folder = folder();
            let path = folder.path().join(name);
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
            let error = Package::load(folder.path()).unwrap_err();
            assert!(matches!(&error, PackageError::WrongSum { path, .. } if path.ends_with(name)));
        }
    }

    #[test]
    fn a_file_exchanged_after_loading_is_not_handed_out() {
        let folder = folder();
        let package = Package::load(folder.path()).unwrap();
        fs::write(folder.path().join("decoder.onnx"), b"another").unwrap();
        assert!(package.read(Role::Encoder).is_ok());
        assert!(matches!(package.read(Role::Decoder), Err(PackageError::WrongSum { .. })));
    }

    #[test]
    fn missing_files_and_folders_are_named() {
        let folder = folder();
        fs::remove_file(folder.path().join("golden_mask.png")).unwrap();
        let error = Package::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("golden_mask.png"), "{error}");
        fs::remove_file(folder.path().join(MANIFEST_FILE)).unwrap();
        let error = Package::load(folder.path()).unwrap_err();
        assert!(matches!(error, PackageError::NotAPackage { .. }), "{error}");
        fs::create_dir(folder.path().join(MANIFEST_FILE)).unwrap();
        let error = Package::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn a_pin_admits_one_manifest_only() {
        let package = Package::embedded().unwrap();
        let digest = package.digest();
        assert!(package.clone().pinned(None).is_ok());
        assert!(package.clone().pinned(Some(digest)).is_ok());
        let error = package.pinned(Some(Sum::of(b"another"))).unwrap_err().to_string();
        assert!(error.contains("engine.sha256"), "{error}");
    }

    #[test]
    fn every_kind_of_change_in_a_folder_changes_its_revision() {
        let folder = folder();
        let mut seen = vec![folder_revision(folder.path()), folder_revision(Path::new("/nowhere"))];
        assert_eq!(seen[0], folder_revision(folder.path()));
        let changes: [&dyn Fn(); 3] = [
            &|| fs::write(folder.path().join("added"), b"").unwrap(),
            &|| fs::write(folder.path().join("encoder.onnx"), b"shorter").unwrap(),
            &|| fs::remove_file(folder.path().join("decoder.onnx")).unwrap(),
        ];
        for change in changes {
            change();
            let revision = folder_revision(folder.path());
            assert!(!seen.contains(&revision));
            seen.push(revision);
        }
    }
}
