//! Plans that must not be loaded: what is said, in whose words, and that nothing is left behind.

use super::calls::options;
use super::model::Model;
use super::package::{Spec, made};
use super::standin::{Alive, alive};
use super::{alone, has_tensorrt, pretend, standins};
use sam2d::engine::tensorrt::{Fit, Found, TensorRtBackend, survey};
use sam2d::engine::{Backend, Options};
use std::path::Path;

/// One way in which a package, a box or a driver is wrong.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) spec: Spec,
    /// What the driver pretends.
    pub(crate) driver: &'static str,
    /// Folder of the library under the stand-ins.
    pub(crate) library: &'static str,
    /// `engine.device`.
    pub(crate) device: u32,
    /// Does it need a box that has no TensorRT of its own?
    pub(crate) bare: bool,
    /// What anyone may read.
    pub(crate) reason: &'static str,
    /// Part of what the operator reads.
    pub(crate) words: &'static str,
}

/// Adds a line to one plan's text.
fn line(role: &str, text: String, which: &str, line: &str) -> String {
    if role == which { format!("{text}{line}\n") } else { text }
}

fn case(name: &'static str, reason: &'static str, words: &'static str, spec: Spec) -> Case {
    Case { name, spec, driver: "", library: "ten", device: 0, bare: false, reason, words }
}

pub(crate) fn cases() -> Vec<Case> {
    let spec = Spec::default;
    let wrong_version = "the engine was built by another version of TensorRT";
    let wrong_ports = "the engine has other inputs or outputs than its package says";
    let no_room = "too little device memory for the engine";
    vec![
        Case {
            driver: "none",
            ..case(
                "no device",
                "no usable NVIDIA device on this box",
                "CUDA_ERROR_NO_DEVICE",
                spec(),
            )
        },
        Case {
            driver: "old",
            ..case("old driver", "the NVIDIA driver is too old", "speaks CUDA 11.4", spec())
        },
        Case {
            device: 1,
            ..case(
                "a device that is not there",
                "no usable NVIDIA device on this box",
                "engine.device = 1, but this box has 1 CUDA devices",
                spec(),
            )
        },
        Case {
            library: "none",
            bare: true,
            ..case(
                "no library",
                "TensorRT is not installed, or not a version that can be used",
                "no libnvinfer.so.10 or libnvinfer_lean.so.10 was found",
                spec(),
            )
        },
        case(
            "bad magic",
            "the engine's file is no TensorRT plan",
            "the encoder is no plan: it starts with",
            Spec { magic: *b"ONNX", ..spec() },
        ),
        case(
            "cut off in the header",
            "the engine's file is no TensorRT plan",
            "it has 20 bytes",
            Spec { cut: Some(20), ..spec() },
        ),
        case(
            "another build",
            wrong_version,
            "written by TensorRT 10.16.0.26; this box has TensorRT 10.16.0.72",
            Spec { written_by: [10, 16, 0, 26], ..spec() },
        ),
        case(
            "manifest and plan contradict",
            wrong_version,
            "engine.toml says TensorRT 10.3.0, but the encoder plan was written by 10.16.0.72",
            Spec { tensorrt: "10.3.0", ..spec() },
        ),
        case(
            "another model of card",
            "the engine was built for another device",
            "built for Orin (compute capability 8.7), this device is Stand-in",
            Spec { device: "Orin", ..spec() },
        ),
        case(
            "another compute capability",
            "the engine was built for another device",
            "compute capability 8.6",
            Spec { capability: "8.6", ..spec() },
        ),
        case(
            "a tensor is missing",
            wrong_ports,
            "encoder image_embed is missing",
            Spec {
                edit: |_, text| text.replace("out image_embed", "out image_embedding"),
                ..spec()
            },
        ),
        case(
            "an input where an output belongs",
            wrong_ports,
            "decoder masks is not an output",
            Spec { edit: |_, text| text.replace("out masks", "in masks"), ..spec() },
        ),
        case(
            "a type that is no float",
            wrong_ports,
            "encoder image has TensorRT's data type 2",
            Spec { edit: |_, text| text.replace("in image 0", "in image 2"), ..spec() },
        ),
        case(
            "tensors in host memory",
            wrong_ports,
            "encoder image is not in linear device memory",
            Spec { edit: |role, text| line(role, text, "encoder", "fail location"), ..spec() },
        ),
        case(
            "tensors that are no plain rows",
            wrong_ports,
            "decoder high_res_feats_0 is not in linear device memory",
            Spec { edit: |role, text| line(role, text, "decoder", "fail format"), ..spec() },
        ),
        case(
            "another input size",
            wrong_ports,
            "encoder image is [1, 3, 256, 256], expected [1, 3, 128, 128]",
            Spec { edit: |_, text| text.replace("3 128 128", "3 256 256"), ..spec() },
        ),
        case(
            "an output of another shape",
            wrong_ports,
            "high_res_feats_0 is [1, 4, 32, 33], expected [1, 4, 32, 32]",
            Spec { edit: |role, text| line(role, text, "encoder", "fail shape"), ..spec() },
        ),
        case(
            "features of two precisions",
            wrong_ports,
            "different precisions",
            Spec {
                edit: |role, text| match role {
                    "decoder" => text.replace("in image_embed 0", "in image_embed 1"),
                    _ => text,
                },
                ..spec()
            },
        ),
        case(
            "no profile for one click",
            wrong_ports,
            "no optimisation profile of the decoder takes one prompt of one point",
            Spec { profiles: vec![(0, [2, 8], [1, 4])], ..spec() },
        ),
        case(
            "refused by the library",
            "TensorRT refuses the engine",
            "TensorRT refuses the encoder plan: deserializeCudaEngine: stand-in: told not to read this plan",
            Spec { edit: |role, text| line(role, text, "encoder", "fail deserialize"), ..spec() },
        ),
        case(
            "the encoder asks for more memory than is free",
            no_room,
            "the encoder plan does not fit: 9000 MB of device memory are needed, 4294 MB are free",
            Spec { edit: |role, text| line(role, text, "encoder", "memory 9000000000"), ..spec() },
        ),
        case(
            "no memory for a context",
            no_room,
            "stand-in: no memory for a context",
            Spec { edit: |role, text| line(role, text, "decoder", "fail context"), ..spec() },
        ),
        case(
            "the decoder asks for more memory than is free",
            no_room,
            "the decoder plan does not fit: 9000 MB of device memory are needed, 4294 MB are free",
            Spec { edit: |role, text| line(role, text, "decoder", "memory 9000000000"), ..spec() },
        ),
        Case {
            driver: "oom",
            ..case("allocations fail", no_room, "CUDA_ERROR_OUT_OF_MEMORY", spec())
        },
        Case { driver: "free 0", ..case("nothing is free", no_room, "0 are free", spec()) },
        Case {
            library: "eight",
            bare: true,
            ..case(
                "JetPack 5",
                "TensorRT is not installed, or not a version that can be used",
                "no libnvinfer.so.10",
                spec(),
            )
        },
        Case {
            library: "eleven",
            bare: true,
            ..case(
                "a plan of 10 where 11 is installed",
                "TensorRT is not installed, or not a version that can be used",
                "the plan needs TensorRT 10.16.0.72",
                spec(),
            )
        },
    ]
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn what_can_t_be_loaded_is_said_with_its_remedy_and_leaves_nothing_behind() {
    let _alone = alone();
    let has_tensorrt = has_tensorrt();
    for Case { name, spec, driver, library, device, bare, reason, words } in cases() {
        if bare && has_tensorrt {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let model = Model::start(folder.path());
        let package = made(folder.path(), &model, &spec);
        pretend(driver);
        let error = TensorRtBackend::load(&package, &Options { device, ..options(library) }).err();
        let error = error.unwrap_or_else(|| panic!("{name}: it was loaded"));
        assert_eq!(alive(), Alive::default(), "{name}");
        assert_eq!(error.public(), reason, "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert!(!error.is_device_lost(), "{name}");
        // The very next package loads: nothing of the failure stayed.
        pretend("");
        let good = made(folder.path(), &model, &Spec::default());
        drop(TensorRtBackend::load(&good, &options("ten")).unwrap());
        assert_eq!(alive(), Alive::default(), "{name}");
    }
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn a_device_that_is_lost_while_it_loads_is_told_from_one_that_is_busy() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let model = Model::start(folder.path());
    let refused = |role: &'static str| {
        let edit: fn(&str, String) -> String = match role {
            "encoder" => |role, text| line(role, text, "encoder", "fail deserialize"),
            _ => |role, text| line(role, text, "decoder", "fail context"),
        };
        Spec { edit, ..Spec::default() }
    };
    for role in ["encoder", "decoder"] {
        let package = made(folder.path(), &model, &refused(role));
        for (driver, lost) in [("", false), ("unknown", false), ("sticky", true)] {
            pretend(driver);
            let error = TensorRtBackend::load(&package, &options("ten")).err().unwrap();
            assert_eq!(error.is_device_lost(), lost, "{role}, {driver}: {error}");
            if lost {
                let words = "CUDA_ERROR_LAUNCH_FAILED (719)";
                assert!(error.to_string().contains(words), "{role}: {error}");
                // And it stays so, whatever is asked of it.
                pretend("");
                let again = TensorRtBackend::load(&package, &options("ten")).err().unwrap();
                assert!(again.is_device_lost(), "{role}: {again}");
                super::standin::forget();
            }
        }
    }
    assert_eq!(alive(), Alive::default());
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn the_full_library_is_taken_before_the_lean_one_and_its_exact_version_before_others() {
    let _alone = alone();
    let (folder, both) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = Model::start(folder.path());
    let name = |library: &str| match library {
        "lean" => "libnvinfer_lean.so.10",
        _ => "libnvinfer.so.10",
    };
    for library in ["ten", "lean"] {
        let file = standins().join(library).join(name(library));
        std::os::unix::fs::symlink(file, both.path().join(name(library))).unwrap();
    }
    let options = Options { tensorrt_path: Some(both.path().into()), ..Options::default() };
    let device = |spec: &Spec| {
        let package = made(folder.path(), &model, spec);
        TensorRtBackend::load(&package, &options).map(|backend| backend.info().device.clone())
    };
    assert!(device(&Spec::default()).unwrap().ends_with("TensorRT 10.16.0.72"));
    // Another runtime is another engine: none answers with the other's results.
    let package = made(folder.path(), &model, &Spec::default());
    let fingerprint = |library: &str| {
        let backend = TensorRtBackend::load(&package, &super::calls::options(library)).unwrap();
        backend.info().fingerprint.clone()
    };
    assert_ne!(fingerprint("ten"), fingerprint("lean"));
    assert_eq!(fingerprint("ten"), fingerprint("ten"));
    // An older one, which was built to be version compatible, is the lean runtime's.
    let older = Spec { written_by: [10, 3, 0, 26], tensorrt: "10.3.0", ..Spec::default() };
    assert!(device(&older).unwrap().ends_with("TensorRT lean runtime 10.16.0.72"));
    let newer = Spec { written_by: [10, 17, 0, 1], tensorrt: "10.17.0", ..Spec::default() };
    let refused = device(&newer).unwrap_err().to_string();
    let words = "the plan was written by TensorRT 10.17.0.1; this box has TensorRT 10.16.0.72";
    assert!(refused.starts_with(words) && refused.contains("lean"), "{refused}");
}

#[test]
#[ignore = "./test tensorrt builds what it needs"]
fn a_survey_tells_device_libraries_and_why_a_plan_does_not_fit() {
    let _alone = alone();
    if has_tensorrt() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let model = Model::start(folder.path());
    let package = made(folder.path(), &model, &Spec::default());
    let found = survey(&options("ten"), Some(&package));
    let device = found.device.unwrap();
    assert_eq!(
        (&*device.name, &*device.compute_capability, &*device.driver),
        ("Stand-in", "8.7", "12.6")
    );
    let usable = |found: &[Found]| {
        let titles = found.iter().filter_map(|found| match found {
            Found::Usable(library) => Some(library.title()),
            Found::Unusable(_) => None,
        });
        titles.collect::<Vec<_>>()
    };
    assert_eq!(usable(&found.libraries), ["TensorRT 10.16.0.72"]);
    assert_eq!(found.plans.len(), 2);
    assert!(found.plans.iter().all(|plan| matches!(plan.fit, Fit::Yes(_))), "{:?}", found.plans);

    let old = survey(&options("eight"), Some(&package));
    let Some(Found::Unusable(unusable)) = old.libraries.first() else { panic!("{old:?}") };
    assert!(unusable.why.starts_with("TensorRT 8.5 (JetPack 5) is too old"), "{unusable:?}");
    let Fit::No(why) = &old.plans[0].fit else { panic!("{old:?}") };
    assert!(why.contains("install it, or name its folder in engine.tensorrt_path"), "{why}");

    pretend("none");
    let no_device = survey(&options("ten"), Some(&package));
    let Fit::No(why) = &no_device.plans[0].fit else { panic!("{no_device:?}") };
    assert!(why.contains("is a card fitted"), "{why}");
    let nothing =
        survey(&Options { tensorrt_path: Some("/nowhere".into()), ..Options::default() }, None);
    assert!(nothing.plans.is_empty());
}

/// For `http`: the folder that stands for a library of a case.
pub(crate) fn library_folder(library: &str) -> String {
    Path::new(&standins()).join(library).display().to_string()
}
