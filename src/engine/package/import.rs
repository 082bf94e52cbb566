//! Taking a package in: checked, copied beside the others under a hidden name, checked again,
//! tried, and only then renamed into place.
//!
//! Invariants:
//! 1. Under its name there is at every moment a whole package or none, whatever fails or loses
//!    power: the name appears, or changes hands, by one rename of a synced folder.
//! 2. What takes the name is what was tried: the copy itself runs the self-test, not the original.
//! 3. Only files that belong are copied: what the manifest names, and texts (licence, provenance)
//!    that must travel with the weights.
//!
//! It does not run the engine; the caller's `verify` does. It tells no daemon: a working engine is
//! replaced by reload or restart only.

use super::{MANIFEST_FILE, Package, PackageError, Role};
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use std::error::Error;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Folders of imports in progress; hidden, so that nobody takes one for an engine.
const STAGING: &str = ".importing-";
/// One import at a time.
const LOCK_FILE: &str = ".import.lock";
/// Texts above this are no licence.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;

/// What to do when the name is taken by another package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Keep,
    /// Put the new one in its place; the old one is deleted.
    Replace,
}

/// A package in place.
#[derive(Debug)]
pub struct Imported<T> {
    /// Where it lies now.
    pub folder: PathBuf,
    /// What `verify` gave.
    pub verified: T,
    /// False when this very package was there already.
    pub changed: bool,
}

/// Why a package was not taken in. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is no package, or damaged.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Another one has the name.
    #[error(
        "{} is another package of this name (sha256 {}…); say that it is to be replaced",
        folder.display(),
        digest.get(..8).unwrap_or_default()
    )]
    NameTaken {
        /// Where.
        folder: PathBuf,
        /// Of the package that is there.
        digest: String,
    },
    /// It does not do what it promises.
    #[error("the package was not taken in: {0}")]
    Verify(#[source] Box<dyn Error + Send + Sync>),
    /// Another import runs.
    #[error("another import into {} is running", engines.display())]
    Busy {
        /// The engine folder.
        engines: PathBuf,
    },
    /// The disk.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was written.
        path: PathBuf,
        /// Why it could not be.
        #[source]
        source: io::Error,
    },
}

/// Takes the package in `source` into the folder `engines`, under the name in its manifest.
/// `verify` loads the copy and runs its self-test.
///
/// # Errors
/// Any [`ImportError`]; the engine folder is then as before.
pub fn import<T>(
    source: &Path,
    engines: &Path,
    existing: Existing,
    verify: impl FnOnce(&Package) -> Result<T, Box<dyn Error + Send + Sync>>,
) -> Result<Imported<T>, ImportError> {
    let package = Package::load(source)?;
    fs::create_dir_all(engines).map_err(io_at(engines))?;
    let _lock = lock(engines)?;
    remove_leftovers(engines)?;

    let name = &package.manifest().name;
    let folder = engines.join(name);
    let taken = match Package::load(&folder) {
        _ if !folder.exists() => None,
        Ok(there) => Some(Some(there.digest())),
        // Something broken has the name: it is replaced only on demand, too.
        Err(_) => Some(None),
    };
    let same = taken == Some(Some(package.digest()));
    if !same && let Some(there) = taken.filter(|_| existing == Existing::Keep) {
        let digest = there.map(|sum| sum.to_hex()).unwrap_or_default();
        return Err(ImportError::NameTaken { folder, digest });
    }

    let staging = Staging::new(engines.join(format!("{STAGING}{name}")))?;
    copy(&package, source, &staging.0)?;
    let copied = Package::load(&staging.0)?.pinned(Some(package.digest()))?;
    let verified = verify(&copied).map_err(ImportError::Verify)?;
    if !same {
        sync_folder(&staging.0)?;
        let how = if taken.is_some() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        renameat_with(CWD, &staging.0, CWD, &folder, how)
            .map_err(|error| io_at(&folder)(error.into()))?;
        sync_folder(engines)?;
    }
    Ok(Imported { folder, verified, changed: !same })
}

/// A folder that is gone when this is: a failed copy, or the package that was exchanged.
struct Staging(PathBuf);

impl Staging {
    fn new(folder: PathBuf) -> Result<Self, ImportError> {
        fs::create_dir(&folder).map_err(io_at(&folder))?;
        let staging = Self(folder);
        mode(&staging.0, 0o755)?;
        Ok(staging)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a plain rename it is not there any more. What can't be removed goes next time.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(package: &Package, source: &Path, target: &Path) -> Result<(), ImportError> {
    let manifest = package.manifest();
    let text = fs::read(source.join(MANIFEST_FILE)).map_err(io_at(source))?;
    write(&target.join(MANIFEST_FILE), &text)?;
    write(&target.join(&manifest.golden.image), package.golden_image())?;
    write(&target.join(&manifest.golden.mask), package.golden_mask())?;
    for package in std::iter::once(package).chain(&package.fallback()) {
        for role in [Role::Encoder, Role::Decoder] {
            write(&target.join(&package.file(role).path), &package.read(role)?)?;
        }
    }
    for entry in fs::read_dir(source).map_err(io_at(source))?.flatten() {
        let path = entry.path();
        let (text, small) = (is_text(&path), |meta: fs::Metadata| meta.len() <= MAX_TEXT_BYTES);
        if text && entry.metadata().is_ok_and(|meta| meta.is_file() && small(meta)) {
            let bytes = fs::read(&path).map_err(io_at(&path))?;
            write(&target.join(entry.file_name()), &bytes)?;
        }
    }
    Ok(())
}

/// Licence, notice, provenance, model card.
fn is_text(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_uppercase());
    let name = name.unwrap_or_default();
    let plain = ["LICENSE", "LICENCE", "NOTICE"].iter().any(|start| name.starts_with(start));
    plain || name.ends_with(".MD") || name.ends_with(".TXT")
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ImportError> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(io_at(path))?;
    mode(path, 0o644)
}

/// The daemon runs as another user: readable by all whatever the importer's umask, writable by none.
fn mode(path: &Path, bits: u32) -> Result<(), ImportError> {
    fs::set_permissions(path, Permissions::from_mode(bits)).map_err(io_at(path))
}

fn lock(engines: &Path) -> Result<File, ImportError> {
    let path = engines.join(LOCK_FILE);
    let file = File::create(&path).map_err(io_at(&path))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| ImportError::Busy { engines: engines.into() })?;
    Ok(file)
}

/// Of an import that lost power; this one holds the lock.
fn remove_leftovers(engines: &Path) -> Result<(), ImportError> {
    for entry in fs::read_dir(engines).map_err(io_at(engines))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            fs::remove_dir_all(entry.path()).map_err(io_at(&entry.path()))?;
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> Result<(), ImportError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_at(folder))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> ImportError {
    let path = path.to_owned();
    |source| ImportError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::super::search::installed;
    use super::*;

    fn embedded() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/sam2-nano")
    }

    /// The embedded package with another notice, so another digest.
    fn another() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(embedded()).unwrap().flatten() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let path = folder.path().join(MANIFEST_FILE);
        let version = Package::embedded().unwrap().manifest().version.clone();
        let text = fs::read_to_string(&path).unwrap().replace(&version, "99.1.0");
        fs::write(path, text).unwrap();
        folder
    }

    fn take(
        source: &Path,
        engines: &Path,
        existing: Existing,
    ) -> Result<Imported<()>, ImportError> {
        import(source, engines, existing, |_| Ok(()))
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_package_lies_under_its_name_with_its_texts_and_nothing_else() {
        let engines = tempfile::tempdir().unwrap();
        let source = another();
        for foreign in ["encoder.onnx.bak", "notes.sh"] {
            fs::write(source.path().join(foreign), "").unwrap();
        }
        fs::set_permissions(source.path().join("encoder.onnx"), Permissions::from_mode(0o600))
            .unwrap();
        let imported = take(source.path(), engines.path(), Existing::Keep).unwrap();
        assert!(imported.changed);
        assert_eq!(imported.folder, engines.path().join("sam2-nano"));
        assert_eq!(
            names(&imported.folder),
            [
                "PROVENANCE.md",
                "REPORT.md",
                "decoder.onnx",
                "encoder.onnx",
                "engine.toml",
                "golden.png",
                "golden_mask.png"
            ]
        );
        let mode = |name| fs::metadata(imported.folder.join(name)).unwrap().permissions().mode();
        assert_eq!((mode("encoder.onnx") & 0o777, mode(".") & 0o777), (0o644, 0o755));
        assert_eq!(installed(&[engines.path()]), [imported.folder]);
    }

    #[test]
    fn what_fails_leaves_the_folder_as_it_was() {
        let engines = tempfile::tempdir().unwrap();
        let old = take(&embedded(), engines.path(), Existing::Keep).unwrap();
        let digest = Package::load(&old.folder).unwrap().digest();
        let before = names(engines.path());

        let source = another();
        let wrong = import(source.path(), engines.path(), Existing::Replace, |copy| {
            assert_eq!(copy.manifest().version, "99.1.0");
            // While it is tried, it is no engine yet.
            assert_eq!(installed(&[engines.path()]).len(), 1);
            Err::<(), _>("the mask is wrong".into())
        });
        assert_eq!(
            wrong.unwrap_err().to_string(),
            "the package was not taken in: the mask is wrong"
        );
        let taken = take(source.path(), engines.path(), Existing::Keep);
        assert!(matches!(taken, Err(ImportError::NameTaken { .. })));
        fs::write(source.path().join("decoder.onnx"), "damaged").unwrap();
        let damaged = take(source.path(), engines.path(), Existing::Replace);
        assert!(matches!(damaged, Err(ImportError::Package(PackageError::WrongSum { .. }))));

        assert_eq!(names(engines.path()), before);
        assert_eq!(Package::load(&old.folder).unwrap().digest(), digest);
    }

    #[test]
    fn a_name_changes_hands_on_demand_only_and_the_same_package_twice_is_once() {
        let engines = tempfile::tempdir().unwrap();
        take(&embedded(), engines.path(), Existing::Keep).unwrap();
        assert!(!take(&embedded(), engines.path(), Existing::Keep).unwrap().changed);
        let newer = take(another().path(), engines.path(), Existing::Replace).unwrap();
        assert!(newer.changed);
        assert_eq!(Package::load(&newer.folder).unwrap().manifest().version, "99.1.0");
        assert_eq!(names(engines.path()), [".import.lock", "sam2-nano"]);
    }

    #[test]
    fn leftovers_of_a_power_cut_are_removed_and_never_listed() {
        let engines = tempfile::tempdir().unwrap();
        let half = engines.path().join(".importing-sam2-nano");
        fs::create_dir(&half).unwrap();
        fs::copy(embedded().join(MANIFEST_FILE), half.join(MANIFEST_FILE)).unwrap();
        assert_eq!(installed(&[engines.path()]), [] as [PathBuf; 0]);
        take(&embedded(), engines.path(), Existing::Keep).unwrap();
        assert_eq!(names(engines.path()), [".import.lock", "sam2-nano"]);
    }

    #[test]
    fn two_imports_at_once_are_one_and_a_refusal() {
        let engines = tempfile::tempdir().unwrap();
        let inner = import(&embedded(), engines.path(), Existing::Keep, |_| {
            Ok(take(another().path(), engines.path(), Existing::Keep))
        });
        assert!(matches!(inner.unwrap().verified, Err(ImportError::Busy { .. })));
    }
}
