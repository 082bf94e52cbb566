//! NVIDIA's real runtime libraries, on a box without a driver: they load, tell their versions, and
//! nothing crashes. `./test tensorrt --real` fetches them. No plan is read and nothing is inferred:
//! that takes a GPU.

use super::daemon::{Daemon, Setup};
use super::model::Model;
use super::package::{Spec, write};
use super::{can_hide_the_driver, no_driver};
use std::path::PathBuf;
use std::process::Command;

struct Real {
    folder: &'static str,
    title: &'static str,
    spec: Spec,
}

fn libraries() -> [Real; 3] {
    let ten = Spec { written_by: [10, 16, 1, 11], tensorrt: "10.16.1.11", ..Spec::default() };
    let eleven = Spec { written_by: [11, 4, 0, 106], tensorrt: "11.4.0.106", ..Spec::default() };
    [
        Real {
            folder: "tensorrt-lean-cu12-libs==10.16.1.11",
            title: "TensorRT lean runtime 10.16.1.11",
            spec: ten,
        },
        Real {
            folder: "tensorrt-lean-cu13-libs==11.4.0.106",
            title: "TensorRT lean runtime 11.4.0.106",
            spec: eleven,
        },
        Real {
            folder: "tensorrt-rtx-cu13-libs==1.7.1.116",
            title: "TensorRT-RTX 1.7.1.116",
            spec: Spec::rtx(),
        },
    ]
}

#[test]
#[ignore = "./test tensorrt --real fetches what it needs"]
fn nvidias_own_libraries_without_a_driver_give_clear_words_and_no_crash() {
    if !can_hide_the_driver() {
        return;
    }
    let real = PathBuf::from(std::env::var_os("TENSORRT_REAL").unwrap());
    for Real { folder: name, title, spec } in libraries() {
        let folder = tempfile::tempdir().unwrap();
        let model = Model::start(folder.path());
        let engine = write(folder.path(), &model, &spec);
        let library = real.join(name).display().to_string();
        let setup = Setup {
            folder: folder.path(),
            engine: &engine,
            library,
            driver: false,
            pretends: "",
            keys: "",
        };
        let mut daemon = Daemon::start(&setup);
        let health = daemon.health();
        assert_eq!(health["mode"], "manual-only", "{title}");
        assert_eq!(health["reason"], "no NVIDIA driver on this box", "{title}");
        assert!(daemon.is_running());
        let doctor = Command::new(env!("CARGO_BIN_EXE_sam2d"))
            .args(["doctor", "--json", "--config"])
            .arg(folder.path().join("sam2d.toml"))
            .env("LD_LIBRARY_PATH", no_driver(folder.path()))
            .output()
            .unwrap();
        assert_eq!(doctor.status.code(), Some(1), "{title}");
        let told: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
        let device: Vec<_> = told["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["section"] == "device")
            .map(|finding| (finding["level"].as_str().unwrap(), finding["what"].as_str().unwrap()))
            .collect();
        let has = |level, words: &str| {
            device.iter().any(|(found, what)| *found == level && what.contains(words))
        };
        assert!(has("fault", "libcuda.so.1 can't be loaded"), "{title}: {device:?}");
        assert!(has("fine", title), "{title}: {device:?}");
        assert!(has("fault", "the encoder plan can't be used"), "{title}: {device:?}");
        println!("{title}: {device:#?}");
    }
}
