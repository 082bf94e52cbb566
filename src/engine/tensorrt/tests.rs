//! What can be told without any library of NVIDIA's; the rest is `tests/tensorrt`.

use super::*;

fn plan() -> Plan {
    Plan {
        tensorrt: "10.3.0".into(),
        compute_capability: "8.7".into(),
        device: "Orin".into(),
        jetpack: Some("6.2".into()),
    }
}

fn device() -> Device {
    Device {
        ordinal: 0,
        name: "Orin".into(),
        compute_capability: "8.7".into(),
        memory_bytes: 8 << 30,
        driver: "12.6".into(),
        driver_library: "libcuda.so.1".into(),
    }
}

#[test]
fn a_plan_runs_on_the_device_it_was_built_for_only() {
    assert!(check_device(&plan(), &device()).is_ok());
    let thor = Device { name: "Thor".into(), compute_capability: "11.0".into(), ..device() };
    let error = check_device(&plan(), &thor).unwrap_err();
    assert_eq!(error.public(), "the engine was built for another device");
    let words = error.to_string();
    assert!(words.contains("Orin (compute capability 8.7)") && words.contains("Thor"), "{words}");
    let sister = Device { name: "Orin Nano".into(), ..device() };
    assert!(check_device(&plan(), &sister).is_err());
}

#[test]
fn manifest_and_header_must_name_one_version() {
    let header = |build| Header {
        rtx: false,
        version: Some(Version { major: 10, minor: 3, patch: 0, build }),
    };
    assert!(check_version(Role::Encoder, &plan(), header(30)).is_ok());
    let exact = Plan { tensorrt: "10.3.0.26".into(), ..plan() };
    let error = check_version(Role::Decoder, &exact, header(30)).unwrap_err().to_string();
    assert!(
        error.contains("10.3.0.26") && error.contains("decoder") && error.contains("10.3.0.30"),
        "{error}"
    );
    assert!(check_version(Role::Encoder, &plan(), Header { rtx: true, version: None }).is_ok());
}

#[test]
fn a_lost_device_is_known_whichever_call_found_it() {
    let lost = CudaError { call: "cuCtxSetCurrent", code: 719, name: String::new() };
    let passing = CudaError { code: 2, ..lost.clone() };
    assert!(TensorRtError::Device(NoDevice::Cuda(lost.clone())).is_device_lost());
    assert!(TensorRtError::Cuda { role: Role::Encoder, source: lost }.is_device_lost());
    assert!(!TensorRtError::Cuda { role: Role::Encoder, source: passing }.is_device_lost());
    assert!(!TensorRtError::NotPlans.is_device_lost());
}
