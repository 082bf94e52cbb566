//! Which package, on which backend, and its self-test: what the engine thread runs to load.
//!
//! Invariant: an engine that is configured or imported is the only one ever loaded. The embedded
//! demonstration engine is taken only where none is, and on an address that others can reach only
//! when that was asked for.

use super::selftest::{self, Passed, SelfTestError};
use crate::domain::key::Sum;
use crate::engine::cpu::CpuBackend;
use crate::engine::package::manifest::Format;
use crate::engine::package::search::Found;
use crate::engine::package::{Package, Role, folder_revision, search};
use crate::engine::worker::{LoadError, Loaded, LoadedInfo};
use crate::engine::{Backend, Options};
use std::sync::Arc;

/// Called with every passed self-test, on the engine thread: prints it, writes the picture.
pub type OnPassed = Box<dyn Fn(&Package, &Passed) + Send>;

/// Says what is said of a demonstration model with every answer.
const DEMONSTRATION: &str =
    "demonstration model: its masks show how the service works and are not to be relied on";

/// What decides about the engine beside its options.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// True when only this machine can reach the service.
    pub loopback_only: bool,
}

/// What the engine thread runs to load; see [`crate::engine::worker::Hooks`].
pub fn loader(
    options: Options,
    reach: Reach,
    on_passed: OnPassed,
) -> impl FnMut() -> Result<Loaded, LoadError> + Send + 'static {
    move || {
        let package = Arc::new(package(&options, reach)?);
        let mut backend = backend(&package, &options)?;
        let passed = selftest::run(&package, backend.as_mut()).map_err(load_error)?;
        on_passed(&package, &passed);
        Ok(Loaded {
            backend,
            package,
            self_test: passed.report,
            probe_embedding: passed.embedding,
            probe_prompts: passed.batch,
        })
    }
}

/// A number that changes when the folder of the package that is meant does.
#[must_use]
pub fn revision(options: &Options) -> u64 {
    match search::find(options.path.as_deref(), &search::ENGINE_FOLDERS) {
        Ok(Found::Folder(folder)) => folder_revision(&folder),
        Ok(Found::Embedded) => 0,
        // Until one of several is named, any change of any of them is reason to look again.
        Err(several) => {
            several.packages.iter().fold(1, |sum, folder| sum ^ folder_revision(folder))
        }
    }
}

/// The package that is meant, checked.
///
/// # Errors
/// `NotConfigured` when it is not said which, or when the embedded one must not serve; those of the
/// package itself.
pub fn package(options: &Options, reach: Reach) -> Result<Package, LoadError> {
    let found = search::find(options.path.as_deref(), &search::ENGINE_FOLDERS)
        .map_err(|several| LoadError::NotConfigured(several.to_string()))?;
    let package = match found {
        Found::Folder(folder) => Package::load(&folder)?,
        Found::Embedded if reach.loopback_only || options.allow_demonstration => {
            Package::embedded()?
        }
        Found::Embedded => {
            let text = "no engine is configured, and the embedded demonstration engine serves \
                        others than this machine only with engine.allow_demonstration = true";
            return Err(LoadError::NotConfigured(text.to_owned()));
        }
    };
    let pin = match options.sha256.as_deref().map(Sum::from_hex) {
        Some(None) => {
            let text = "engine.sha256 is not a SHA-256 sum in hex".to_owned();
            return Err(LoadError::NotConfigured(text));
        }
        Some(pin) => pin,
        None => None,
    };
    Ok(package.pinned(pin)?)
}

/// The backend for a package's files.
///
/// # Errors
/// When it can't be loaded here.
pub fn backend(package: &Package, options: &Options) -> Result<Box<dyn Backend>, LoadError> {
    match package.file(Role::Encoder).format {
        Format::Onnx => Ok(Box::new(CpuBackend::load(package, options.cpu_threads)?)),
        Format::Plan => {
            Err(LoadError::Backend("TensorRT plans can't be run by this version".to_owned()))
        }
    }
}

/// What is said with every answer of an engine.
#[must_use]
pub fn warnings(engine: &LoadedInfo) -> Vec<String> {
    let demonstration = engine.package.manifest().intended_use == "demonstration";
    demonstration.then(|| DEMONSTRATION.to_owned()).into_iter().collect()
}

fn load_error(error: SelfTestError) -> LoadError {
    match error {
        SelfTestError::Package { .. } => LoadError::GoldenFiles(error.to_string()),
        SelfTestError::Engine(error) => LoadError::Inference(error),
        SelfTestError::Golden(error) => LoadError::SelfTest(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_engine_serves_others_only_when_that_was_asked_for() {
        let (here, open) = (Reach { loopback_only: true }, Reach { loopback_only: false });
        let folder = tempfile::tempdir().unwrap();
        // Named and not there: what is configured is never replaced by another.
        let missing = Options { path: Some(folder.path().join("none")), ..Options::default() };
        assert!(package(&missing, here).is_err());
        let refused = package(&Options::default(), open).unwrap_err().to_string();
        assert!(refused.contains("engine.allow_demonstration"), "{refused}");
        let allowed = Options { allow_demonstration: true, ..Options::default() };
        for (options, reach) in [(Options::default(), here), (allowed, open)] {
            let package = package(&options, reach).unwrap();
            assert_eq!(package.manifest().intended_use, "demonstration");
        }
    }
}
