//! Which package is meant: the order in which engines are looked for.
//!
//! 1. `engine.path`: a folder, or a name under the engine folders. Then only that one.
//! 2. The engine folders, `/etc/sam2d/engines` before `/var/lib/sam2d/engines`: the one package in
//!    them. With several, one must be named: which one serves is never left to chance.
//! 3. None at all: the embedded package.
//!
//! It opens no package: whether one can be used is [`super::Package::load`]'s word.

use super::MANIFEST_FILE;
use std::path::{Path, PathBuf};

/// Where packages are installed; the second is where `sam2d engine import` puts them.
pub const ENGINE_FOLDERS: [&str; 2] = ["/etc/sam2d/engines", "/var/lib/sam2d/engines"];

/// What is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The package in this folder, whether or not it is there yet.
    Folder(PathBuf),
    /// Nothing is configured or installed: the embedded one.
    Embedded,
}

/// Several packages are installed and none is named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} engine packages are installed ({}); set engine.path to the one that serves",
    packages.len(),
    packages.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
)]
pub struct Ambiguous {
    /// Their folders.
    pub packages: Vec<PathBuf>,
}

/// Finds what `engine.path` means; `folders` is usually [`ENGINE_FOLDERS`].
///
/// # Errors
/// [`Ambiguous`] when nothing is named and several packages are installed.
pub fn find(named: Option<&Path>, folders: &[impl AsRef<Path>]) -> Result<Found, Ambiguous> {
    if let Some(named) = named {
        return Ok(Found::Folder(resolve(named, folders)));
    }
    let mut packages = installed(folders);
    match packages.len() {
        0 => Ok(Found::Embedded),
        1 => Ok(Found::Folder(packages.remove(0))),
        _ => Err(Ambiguous { packages }),
    }
}

/// Folders of the installed packages, in order.
#[must_use]
pub fn installed(folders: &[impl AsRef<Path>]) -> Vec<PathBuf> {
    let mut packages = Vec::new();
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let mut here: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| !is_hidden(path) && path.join(MANIFEST_FILE).is_file())
            .collect();
        here.sort();
        packages.extend(here);
    }
    packages
}

/// An import in progress lies under a hidden name: it is no engine yet.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// A bare name is looked up under the engine folders; anything else is a path.
fn resolve(named: &Path, folders: &[impl AsRef<Path>]) -> PathBuf {
    let bare = named.components().count() == 1 && !named.join(MANIFEST_FILE).is_file();
    let installed = folders.iter().map(|folder| folder.as_ref().join(named));
    let found = bare.then(|| installed.into_iter().find(|path| path.join(MANIFEST_FILE).is_file()));
    found.flatten().unwrap_or_else(|| named.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join(MANIFEST_FILE), "").unwrap();
        }
        folder
    }

    #[test]
    fn nothing_installed_means_the_embedded_one_and_one_installed_means_that() {
        let (none, one) = (folder_with(&[]), folder_with(&["large"]));
        assert_eq!(find(None, &[none.path()]), Ok(Found::Embedded));
        let found = find(None, &[none.path(), one.path()]);
        assert_eq!(found, Ok(Found::Folder(one.path().join("large"))));
    }

    #[test]
    fn of_several_one_must_be_named() {
        let two = folder_with(&["large", "tiny"]);
        let error = find(None, &[two.path()]).unwrap_err();
        assert_eq!(error.packages.len(), 2);
        let found = find(Some(Path::new("tiny")), &[two.path()]);
        assert_eq!(found, Ok(Found::Folder(two.path().join("tiny"))));
    }

    #[test]
    fn what_is_named_is_meant_even_while_it_is_not_there() {
        let one = folder_with(&["large"]);
        let found = find(Some(Path::new("/opt/engine")), &[one.path()]);
        assert_eq!(found, Ok(Found::Folder("/opt/engine".into())));
        let found = find(Some(Path::new("tiny")), &[one.path()]);
        assert_eq!(found, Ok(Found::Folder("tiny".into())));
    }
}
