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
use crate::engine::tensorrt::TensorRtBackend;
use crate::engine::worker::{LoadError, Loaded, LoadedInfo};
use crate::engine::{Backend, Options};
use std::sync::Arc;

/// Called with every passed self-test, on the engine thread: prints it, writes the picture.
pub type OnPassed = Box<dyn Fn(&Package, &Passed) + Send>;

/// Says what is said of a demonstration model with every answer.
const DEMONSTRATION: &str =
    "demonstration model: its masks show how the service works and are not to be relied on";

/// Says what is said where a package of plans runs on the CPU.
const FALLBACK: &str = "the NVIDIA device can't be used: the same weights run on the CPU, slowly";

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
        let (backend, passed) = tested(&package, &options)?;
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

/// A backend whose golden picture came out right. Plans that fail on it are as good as plans that
/// can't be loaded.
fn tested(package: &Package, options: &Options) -> Result<(Box<dyn Backend>, Passed), LoadError> {
    let mut backend = backend(package, options)?;
    #[cfg(feature = "faults")]
    {
        backend = crate::engine::faults::Faulty::around(backend);
    }
    let error = match selftest::run(package, backend.as_mut()) {
        Ok(passed) => return Ok((backend, passed)),
        Err(error) => load_error(error),
    };
    if backend.info().backend == "cpu" {
        return Err(error);
    }
    // It goes first: two engines don't fit on a small device.
    drop(backend);
    let mut backend = fall_back(package, options, error)?;
    let passed = selftest::run(package, backend.as_mut()).map_err(load_error)?;
    Ok((backend, passed))
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

/// The backend for a package's files: plans on the device, ONNX files on the CPU. Plans that can't
/// be loaded here are replaced by the same package's ONNX files only where that was asked for.
///
/// # Errors
/// When it can't be loaded here.
pub fn backend(package: &Package, options: &Options) -> Result<Box<dyn Backend>, LoadError> {
    if package.file(Role::Encoder).format == Format::Onnx {
        return Ok(Box::new(CpuBackend::load(package, options.cpu_threads)?));
    }
    let error = match TensorRtBackend::load(package, options) {
        Ok(backend) => return Ok(Box::new(backend)),
        Err(error) => error,
    };
    fall_back(package, options, error.into())
}

/// The same weights on the CPU, if that was asked for and the package has them; else `device`, why
/// the device can't. A device that is lost ends the process instead: a new one may have it back.
fn fall_back(
    package: &Package,
    options: &Options,
    device: LoadError,
) -> Result<Box<dyn Backend>, LoadError> {
    let fallback = package.fallback().filter(|_| options.cpu_fallback);
    let (Some(fallback), None) = (fallback, device.device_lost()) else { return Err(device) };
    match CpuBackend::load(&fallback, options.cpu_threads) {
        Ok(backend) => {
            tracing::warn!(error = %device, "the device can't run the engine: its weights run on the CPU, as engine.cpu_fallback asks");
            Ok(Box::new(backend))
        }
        Err(cpu) => Err(LoadError::Fallback { device: Box::new(device), cpu }),
    }
}

/// What is said with every answer of an engine.
#[must_use]
pub fn warnings(engine: &LoadedInfo) -> Vec<String> {
    let manifest = engine.package.manifest();
    let mut warnings = Vec::new();
    if manifest.intended_use == "demonstration" {
        warnings.push(DEMONSTRATION.to_owned());
    }
    if manifest.plan.is_some() && engine.engine.backend == "cpu" {
        warnings.push(FALLBACK.to_owned());
    }
    warnings
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
