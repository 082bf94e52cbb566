//! What `sam2d doctor` tells of this box: driver, device, libraries, and whether a package's plans
//! would be taken. Plain data; it loads no plan and asks nothing of a device but what it is.

use super::cuda::{Device, NoDevice, describe};
use super::library::{self, Found, Library};
use super::plan::Header;
use super::{check_device, check_version, choose};
use crate::engine::Options;
use crate::engine::package::manifest::Format;
use crate::engine::package::{Package, Role};

/// All of it.
#[derive(Debug)]
pub struct Survey {
    /// The device that `engine.device` names, or why there is none.
    pub device: Result<Device, NoDevice>,
    /// Every TensorRT library found, usable or not, in the order of the search.
    pub libraries: Vec<Found>,
    /// The package's plans; empty for a package of ONNX files.
    pub plans: Vec<PlanReport>,
}

/// One plan of the package.
#[derive(Debug)]
pub struct PlanReport {
    /// Which.
    pub role: Role,
    /// Would it be taken?
    pub fit: Fit,
}

/// Does a plan fit this box?
#[derive(Debug)]
pub enum Fit {
    /// As far as can be told without loading it; with this library.
    Yes(Box<Library>),
    /// No; the sentence names the remedy.
    No(String),
}

/// Looks at this box, and at a package if there is one.
#[must_use]
pub fn survey(options: &Options, package: Option<&Package>) -> Survey {
    let device = describe(options.device);
    let plans = package.map_or_else(Vec::new, |package| {
        let is_plan = |role: &Role| package.file(*role).format == Format::Plan;
        let roles = [Role::Encoder, Role::Decoder].into_iter().filter(is_plan);
        roles.map(|role| report(package, role, &device, options)).collect()
    });
    Survey { device, libraries: library::survey(options.tensorrt_path.as_deref()), plans }
}

fn report(
    package: &Package,
    role: Role,
    device: &Result<Device, NoDevice>,
    options: &Options,
) -> PlanReport {
    let fit = match fit(package, role, device, options) {
        Ok(library) => Fit::Yes(Box::new(library)),
        Err(error) => Fit::No(error.to_string()),
    };
    PlanReport { role, fit }
}

fn fit(
    package: &Package,
    role: Role,
    device: &Result<Device, NoDevice>,
    options: &Options,
) -> Result<Library, super::TensorRtError> {
    let Some(plan) = &package.manifest().plan else { return Err(super::TensorRtError::NotPlans) };
    let bytes = package.read(role)?;
    let header =
        Header::read(&bytes).map_err(|source| super::TensorRtError::NotAPlan { role, source })?;
    check_version(role, plan, header)?;
    let library = choose(header, options.tensorrt_path.as_deref())?;
    match device {
        Ok(device) => check_device(plan, device)?,
        Err(error) => return Err(super::TensorRtError::Device(error.clone())),
    }
    Ok(library)
}
