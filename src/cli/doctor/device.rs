//! Driver, CUDA and TensorRT, as far as the package needs them.

use super::finding::{Finding, Section};
use crate::engine::Options;
use crate::engine::package::Package;
use crate::engine::tensorrt::{Device, Fit, Found, NoDevice, Survey, survey};

/// Why each is or isn't used. Where the package has plans, what is missing is a fault; where it
/// runs on the CPU, it is merely said.
pub(super) fn device(options: &Options, package: Option<&Package>, findings: &mut Vec<Finding>) {
    let needed = package.is_some_and(|package| package.manifest().plan.is_some());
    findings.extend(told(&survey(options, package), needed));
}

fn told(survey: &Survey, needed: bool) -> Vec<Finding> {
    let section = Section::Device;
    let mut findings = vec![match &survey.device {
        Ok(device) => Finding::fine(section, described(device)),
        Err(error) if needed => Finding::fault(section, error.to_string(), remedy(error)),
        Err(error) => Finding::fine(section, format!("{error}; this engine runs on the CPU")),
    }];
    for found in &survey.libraries {
        findings.push(match found {
            Found::Usable(library) => {
                Finding::fine(section, format!("{}: {}", library.title(), library.path.display()))
            }
            Found::Unusable(unusable) => {
                let what = format!("{}: not used: {}", unusable.path.display(), unusable.why);
                if needed {
                    let remedy = "no harm while another library fits the plans";
                    Finding::warning(section, what, remedy)
                } else {
                    Finding::fine(section, what)
                }
            }
        });
    }
    if survey.libraries.is_empty() && !needed {
        findings.push(Finding::fine(section, "no TensorRT; this engine runs on the CPU"));
    }
    for plan in &survey.plans {
        let role = plan.role.name();
        findings.push(match &plan.fit {
            Fit::Yes(library) => {
                Finding::fine(section, format!("the {role} plan fits {}", library.title()))
            }
            Fit::No(why) => Finding::fault(
                section,
                format!("the {role} plan can't be used: {why}"),
                "engines/README.md has the steps for this box; `sam2d engine verify` then runs the golden picture",
            ),
        });
    }
    findings
}

fn described(device: &Device) -> String {
    let Device { ordinal, name, compute_capability, memory_bytes, driver, driver_library } = device;
    format!(
        "device {ordinal}: {name}, compute capability {compute_capability}, {:.1} GB; driver for CUDA {driver} ({})",
        *memory_bytes as f64 / 1e9,
        driver_library.display()
    )
}

fn remedy(error: &NoDevice) -> &'static str {
    match error {
        NoDevice::NoDriver(_) => {
            "install NVIDIA's driver (on a Jetson it comes with JetPack; in a container the NVIDIA container toolkit brings it in)"
        }
        NoDevice::OldDriver { .. } => "update the driver (on a Jetson: JetPack 6 or 7)",
        NoDevice::None(_) => {
            "`nvidia-smi` names the cards; the daemon's user must be able to open /dev/nvidia*, on a Jetson be in the groups video and render"
        }
        NoDevice::NoSuchDevice { .. } => "set engine.device to one that is there",
        NoDevice::Cuda(_) => {
            "`dmesg` has the driver's words; a restart of the machine usually helps"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::engine::package::Role;
    use crate::engine::tensorrt::{NoDriver, PlanReport, Unusable};

    fn bare() -> Survey {
        let missing = NoDriver::Missing("no such file".into());
        let unusable = Unusable { path: "/lib/libnvinfer.so.8".into(), why: "too old".into() };
        Survey {
            device: Err(missing.into()),
            libraries: vec![Found::Unusable(unusable)],
            plans: vec![PlanReport { role: Role::Encoder, fit: Fit::No("no library".into()) }],
        }
    }

    #[test]
    fn what_a_plan_lacks_is_a_fault_and_what_the_cpu_engine_lacks_is_only_said() {
        let needed = told(&bare(), true);
        let levels: Vec<_> = needed.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Fault, Level::Warning, Level::Fault]);
        assert!(needed.iter().all(|finding| finding.remedy.is_some()));
        let unneeded = Survey { plans: Vec::new(), ..bare() };
        assert!(told(&unneeded, false).iter().all(|finding| finding.level == Level::Fine));
    }
}
