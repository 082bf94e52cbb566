//! TensorRT's shared libraries: where they are looked for, which are found, and which of them this
//! program can speak to.
//!
//! Search: the configured folder, the loader's own path, the places of JetPack, Debian and NVIDIA's
//! archives, then `tensorrt_libs` and its sisters in a Python environment.
//!
//! Invariants:
//! 1. A [`Library`] exists only for a flavour and version whose table layout is known. TensorRT 8
//!    (JetPack 5), TensorRT-RTX before 1.5 and every major to come are refused by name.
//! 2. A library is never unloaded: TensorRT keeps threads and thread-local data in it.
//! 3. It asks a library for its version and for nothing else. Its factory must not be called before
//!    CUDA runs: `runtime` sees to that.
#![expect(unsafe_code, reason = "loads shared libraries and calls what they export")]

use super::sys::{CreateRuntime, Layout};
use libloading::os::unix::{Library as Loaded, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, c_int};
use std::fmt;
use std::path::{Path, PathBuf};

/// Which of NVIDIA's libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `libnvinfer`: what JetPack and the Debian packages bring.
    Full,
    /// `libnvinfer_lean`: runs plans that were built to be version compatible.
    Lean,
    /// `libtensorrt_rtx`: for GeForce RTX and workstation cards.
    Rtx,
}

impl Flavour {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "TensorRT",
            Self::Lean => "TensorRT lean runtime",
            Self::Rtx => "TensorRT-RTX",
        }
    }

    /// The library's file name for a major version.
    pub(super) fn file(self, major: u32) -> String {
        match self {
            Self::Full => format!("libnvinfer.so.{major}"),
            Self::Lean => format!("libnvinfer_lean.so.{major}"),
            Self::Rtx => format!("libtensorrt_rtx.so.{major}"),
        }
    }
}

/// A library's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 10 or 11; 1 for TensorRT-RTX.
    pub major: u32,
    /// Minor.
    pub minor: u32,
    /// Patch.
    pub patch: u32,
    /// Build; 0 where the library doesn't tell.
    pub build: u32,
}

impl Version {
    /// From `getInferLibVersion()`: major · 10000 + minor · 100 + patch, and major · 1000 before 10.
    fn decoded(number: u32) -> Self {
        let (major, rest) = if number >= 10_000 {
            (number / 10_000, number % 10_000)
        } else {
            (number / 1000, number % 1000)
        };
        Self { major, minor: rest / 100, patch: rest % 100, build: 0 }
    }

    /// As a plan's header has it, where each part is a byte.
    pub(super) fn in_a_header(self) -> Self {
        let byte = |part: u32| part % 256;
        let Self { major, minor, patch, build } = self;
        Self { major: byte(major), minor: byte(minor), patch: byte(patch), build: byte(build) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.major, self.minor, self.patch, self.build)
    }
}

/// A library that can be spoken to.
#[derive(Clone, Debug)]
pub struct Library {
    /// Which.
    pub flavour: Flavour,
    /// Of the library itself.
    pub version: Version,
    /// The file that the loader took.
    pub path: PathBuf,
    pub(super) layout: Layout,
    pub(super) create: CreateRuntime,
}

impl Library {
    /// Name and version, as in the fingerprint and for people.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}", self.flavour.name(), self.version)
    }
}

/// A library that is there and can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The file, or its name where the loader did not say more.
    pub path: PathBuf,
    /// Why not, in words that say what to do.
    pub why: String,
}

/// What looking in one place gave.
#[derive(Clone, Debug)]
pub enum Found {
    /// It can be used.
    Usable(Library),
    /// It is there, but.
    Unusable(Unusable),
}

/// Majors whose tables are known, newest first.
const MAJORS: [u32; 2] = [11, 10];
/// Others that may lie on a box, so that they can be refused by name.
const OTHER_MAJORS: [u32; 3] = [12, 9, 8];
/// TensorRT-RTX's tables before this minor version are neither of the two layouts (its headers).
const FIRST_RTX_MINOR: u32 = 5;

/// Looks for all libraries of `flavour` and `major`, in the order of the search path.
pub(super) fn find(flavour: Flavour, major: u32, configured: Option<&Path>) -> Vec<Found> {
    let file = flavour.file(major);
    let mut found: Vec<Found> = Vec::new();
    let candidates = candidates(&file, configured);
    for candidate in candidates {
        let Some(next) = open(flavour, &candidate) else { continue };
        // One file has several names: a link, the loader's and its own.
        let known = found.iter().any(|earlier| same_file(path_of(earlier), path_of(&next)));
        if !known {
            found.push(next);
        }
    }
    found
}

/// Every library of TensorRT on this box, usable or not.
pub(super) fn survey(configured: Option<&Path>) -> Vec<Found> {
    let mut found = Vec::new();
    for major in MAJORS {
        found.extend(find(Flavour::Full, major, configured));
    }
    for major in MAJORS {
        found.extend(find(Flavour::Lean, major, configured));
    }
    found.extend(find(Flavour::Rtx, 1, configured));
    for major in OTHER_MAJORS {
        found.extend(find(Flavour::Full, major, configured));
    }
    found
}

fn path_of(found: &Found) -> &Path {
    match found {
        Found::Usable(library) => &library.path,
        Found::Unusable(unusable) => &unusable.path,
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(a) == real(b)
}

/// The names to try for a file, in order: full paths that exist, and the bare name for the loader.
fn candidates(file: &str, configured: Option<&Path>) -> Vec<PathBuf> {
    let within = |folders: Vec<PathBuf>| {
        folders.into_iter().map(|folder| folder.join(file)).filter(|path| path.exists())
    };
    let mut names = Vec::new();
    if let Some(folder) = configured {
        names.extend(within(vec![folder.to_owned()]));
        names.extend(within(python_folders(folder)));
    }
    names.push(PathBuf::from(file));
    let arch = std::env::consts::ARCH;
    let system = [
        format!("/usr/lib/{arch}-linux-gnu"),
        format!("/usr/lib/{arch}-linux-gnu/nvidia"),
        format!("/usr/lib/{arch}-linux-gnu/tegra"),
        "/usr/lib64".to_owned(),
        "/usr/local/tensorrt/lib".to_owned(),
        "/usr/local/TensorRT/lib".to_owned(),
        "/opt/tensorrt/lib".to_owned(),
    ];
    names.extend(within(system.map(PathBuf::from).to_vec()));
    let environment = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    for base in environment.into_iter().chain(["/usr/local".into(), "/usr".into()]) {
        names.extend(within(python_folders(&base)));
    }
    names
}

/// Folders of NVIDIA's Python packages in an environment, or right in `base`.
fn python_folders(base: &Path) -> Vec<PathBuf> {
    const PACKAGES: [&str; 3] = ["tensorrt_libs", "tensorrt_lean_libs", "tensorrt_rtx_libs"];
    let mut sites = vec![base.to_owned()];
    if let Ok(entries) = std::fs::read_dir(base.join("lib")) {
        let mut pythons: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        pythons.sort();
        let is_python = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"))
        };
        for python in pythons.into_iter().filter(is_python) {
            sites.push(python.join("site-packages"));
            sites.push(python.join("dist-packages"));
        }
    }
    sites.iter().flat_map(|site| PACKAGES.map(|package| site.join(package))).collect()
}

/// Opens one; `None` when nothing of that name is there.
fn open(flavour: Flavour, name: &Path) -> Option<Found> {
    // SAFETY: runs the library's initialisers. Its name is one of NVIDIA's, in folders that only the
    // administrator writes; there is no way to tell more of a library before it is loaded.
    let loaded = unsafe { Loaded::open(Some(name), RTLD_NOW | RTLD_LOCAL) };
    let unusable = |path: &Path, why| Some(Found::Unusable(Unusable { path: path.into(), why }));
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let words = words(&error);
            return if is_absent(name, &words) { None } else { unusable(name, words) };
        }
    };
    // SAFETY: the symbol is a function int32_t() in every TensorRT since 5.
    let version = unsafe { loaded.get::<unsafe extern "C" fn() -> c_int>("getInferLibVersion") };
    // SAFETY: as above, since 8.
    let build = unsafe { loaded.get::<unsafe extern "C" fn() -> c_int>("getInferLibBuildVersion") };
    // SAFETY: the symbol is a function void*(void*, int32_t) in every TensorRT since 7.
    let create = unsafe { loaded.get::<CreateRuntime>("createInferRuntime_INTERNAL") };
    let (Ok(version), Ok(create)) = (version, create) else {
        return unusable(name, "it is no TensorRT: it exports no runtime".to_owned());
    };
    // SAFETY: a plain function without arguments.
    let number = u32::try_from(unsafe { version() }).unwrap_or(0);
    // SAFETY: as above.
    let build = build.map_or(0, |build| u32::try_from(unsafe { build() }).unwrap_or(0));
    let version = Version { build, ..Version::decoded(number) };
    let create = *create;
    let path = origin(create).unwrap_or_else(|| name.to_owned());
    std::mem::forget(loaded);
    match layout(flavour, version) {
        Ok(layout) => Some(Found::Usable(Library { flavour, version, path, layout, create })),
        Err(why) => unusable(&path, why),
    }
}

/// The table layout of a library, or why it is refused.
fn layout(flavour: Flavour, version: Version) -> Result<Layout, String> {
    let Version { major, minor, .. } = version;
    let name = flavour.name();
    match (flavour, major) {
        (Flavour::Full | Flavour::Lean, 10) => Ok(Layout::Ten),
        (Flavour::Full | Flavour::Lean, 11) => Ok(Layout::Eleven),
        (Flavour::Rtx, 1) if minor >= FIRST_RTX_MINOR => Ok(Layout::Eleven),
        (Flavour::Rtx, 1) => Err(format!(
            "{name} {major}.{minor} is too old: 1.{FIRST_RTX_MINOR} or newer is needed"
        )),
        (Flavour::Full | Flavour::Lean, 8) => Err(format!(
            "{name} {major}.{minor} (JetPack 5) is too old: TensorRT 10 (JetPack 6) or 11 (JetPack 7) is needed"
        )),
        (Flavour::Full | Flavour::Lean, 0..=9) => {
            Err(format!("{name} {major}.{minor} is too old: 10 or 11 is needed"))
        }
        _ => Err(format!("{name} {major}.{minor} is newer than this version of sam2d knows")),
    }
}

/// The loader's words, without libloading's.
fn words(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

/// The loader tells "not there" by its words alone. They begin with the file that is missing: when
/// that is another one, the library is there and lacks something.
fn is_absent(name: &Path, words: &str) -> bool {
    let missing = words.contains("No such file");
    missing && words.contains(&format!("{}: cannot open", name.display()))
}

/// Which file a function came from.
fn origin(function: CreateRuntime) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: any address may be asked for; `info` is ours.
    let known = unsafe { libc::dladdr(function as *const libc::c_void, &raw mut info) };
    if known == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: a C string that lives as long as the library, which is never unloaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_number_is_read_as_its_time_wrote_it() {
        for (number, expected) in
            [(101_601, (10, 16, 1)), (110_400, (11, 4, 0)), (10_701, (1, 7, 1)), (8502, (8, 5, 2))]
        {
            let Version { major, minor, patch, .. } = Version::decoded(number);
            assert_eq!((major, minor, patch), expected);
        }
    }

    #[test]
    fn only_known_layouts_are_spoken_to_and_the_others_are_refused_by_name() {
        let version = |major, minor| Version { major, minor, patch: 0, build: 0 };
        for (flavour, major, minor, expected) in [
            (Flavour::Full, 10, 3, Layout::Ten),
            (Flavour::Lean, 10, 16, Layout::Ten),
            (Flavour::Full, 11, 4, Layout::Eleven),
            (Flavour::Rtx, 1, 5, Layout::Eleven),
        ] {
            assert_eq!(layout(flavour, version(major, minor)), Ok(expected));
        }
        for (flavour, major, minor, words) in [
            (Flavour::Full, 8, 5, "TensorRT 8.5 (JetPack 5) is too old"),
            (Flavour::Full, 9, 3, "TensorRT 9.3 is too old"),
            (Flavour::Full, 12, 0, "TensorRT 12.0 is newer than this version of sam2d knows"),
            (Flavour::Rtx, 1, 4, "TensorRT-RTX 1.4 is too old: 1.5 or newer is needed"),
            (Flavour::Rtx, 2, 0, "TensorRT-RTX 2.0 is newer than this version of sam2d knows"),
        ] {
            let error = layout(flavour, version(major, minor)).unwrap_err();
            assert!(error.starts_with(words), "{error}");
        }
    }

    #[test]
    fn a_missing_library_is_absent_and_a_broken_one_is_told() {
        assert!(open(Flavour::Full, Path::new("libnvinfer.so.10077")).is_none());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libnvinfer.so.10");
        std::fs::write(&path, b"not a library").unwrap();
        let Some(Found::Unusable(unusable)) = open(Flavour::Full, &path) else {
            panic!("a text file is a library");
        };
        assert!(unusable.path == path && !unusable.why.is_empty(), "{unusable:?}");
        // Found in the configured folder, and in a Python environment that is configured.
        assert_eq!(candidates("libnvinfer.so.10", Some(folder.path())).first(), Some(&path));
        let site = folder.path().join("lib/python3.12/site-packages/tensorrt_libs");
        std::fs::create_dir_all(&site).unwrap();
        std::fs::write(site.join("libnvinfer.so.11"), b"").unwrap();
        let found = candidates("libnvinfer.so.11", Some(folder.path()));
        assert_eq!(found.first(), Some(&site.join("libnvinfer.so.11")));
    }

    #[test]
    fn a_library_of_another_maker_is_refused() {
        let Some(Found::Unusable(unusable)) = open(Flavour::Full, Path::new("libc.so.6")) else {
            panic!("libc is no TensorRT");
        };
        assert!(unusable.why.contains("exports no runtime"), "{}", unusable.why);
    }
}
