//! What is shipped beside the program: units, configuration files, alerts, cross build. And a daemon that
//! nobody listens to.

use crate::support::daemon::sam2d;
use crate::support::seeded;
use sam2d::config::Config;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn shipped(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `Name=value` lines of a unit, continuation lines not used.
fn directives(unit: &str) -> Vec<(String, String)> {
    let text = shipped(unit);
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty());
    let pair = |line: &str| {
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{unit}: {line}"));
        (name.to_owned(), value.to_owned())
    };
    lines.map(pair).collect()
}

/// The version of systemd that each directive came with (its NEWS file); JetPack 6 has 249.
const KNOWN: &[(&str, u32)] = &[
    ("After", 1),
    ("AmbientCapabilities", 229),
    ("Backlog", 1),
    ("CacheDirectory", 235),
    ("CacheDirectoryMode", 235),
    ("CapabilityBoundingSet", 1),
    ("ConfigurationDirectory", 235),
    ("Description", 1),
    ("DeviceAllow", 208),
    ("DevicePolicy", 208),
    ("Documentation", 1),
    ("EnvironmentFile", 1),
    ("ExecReload", 1),
    ("ExecStart", 1),
    ("ExecStartPre", 1),
    ("Group", 1),
    ("KeyringMode", 235),
    ("LimitCORE", 1),
    ("LimitMEMLOCK", 1),
    ("LimitNOFILE", 1),
    ("ListenStream", 1),
    ("LockPersonality", 235),
    ("MemoryDenyWriteExecute", 231),
    ("MemoryHigh", 231),
    ("MemoryMax", 231),
    ("NoNewPrivileges", 187),
    ("NotifyAccess", 1),
    ("PrivateDevices", 209),
    ("PrivateMounts", 239),
    ("PrivateTmp", 1),
    ("PrivateUsers", 232),
    ("ProtectClock", 245),
    ("ProtectControlGroups", 232),
    ("ProtectHome", 214),
    ("ProtectHostname", 242),
    ("ProtectKernelLogs", 244),
    ("ProtectKernelModules", 232),
    ("ProtectKernelTunables", 232),
    ("ProtectProc", 247),
    ("ProtectSystem", 214),
    ("RemoveIPC", 232),
    ("Restart", 1),
    ("RestartPreventExitStatus", 189),
    ("RestartSec", 1),
    ("RestrictAddressFamilies", 211),
    ("RestrictNamespaces", 233),
    ("RestrictRealtime", 231),
    ("RestrictSUIDSGID", 242),
    ("RuntimeDirectory", 211),
    ("RuntimeDirectoryMode", 211),
    ("RuntimeDirectoryPreserve", 235),
    ("StartLimitIntervalSec", 230),
    ("StateDirectory", 235),
    ("StateDirectoryMode", 235),
    ("SupplementaryGroups", 1),
    ("SystemCallArchitectures", 209),
    ("SystemCallErrorNumber", 209),
    ("SystemCallFilter", 187),
    ("TasksMax", 227),
    ("TimeoutAbortSec", 243),
    ("TimeoutStartSec", 188),
    ("TimeoutStopSec", 188),
    ("Type", 1),
    ("UMask", 1),
    ("User", 1),
    ("WantedBy", 1),
    ("Wants", 1),
    ("WatchdogSec", 183),
];

#[test]
fn units_use_no_directive_that_jetpack_does_not_know() {
    let known: BTreeMap<_, _> = KNOWN.iter().copied().collect();
    for unit in ["systemd/sam2d.service", "systemd/sam2d.socket", "systemd/gpu.conf"] {
        for (name, _) in directives(unit) {
            let since = known.get(name.as_str());
            let since = since.unwrap_or_else(|| panic!("{unit}: since when is there {name}?"));
            assert!(*since <= 249, "{unit}: {name} came with systemd {since}");
        }
    }
}

#[test]
fn every_line_of_a_unit_stands_below_its_reason() {
    for unit in ["systemd/sam2d.service", "systemd/sam2d.socket", "systemd/gpu.conf"] {
        let text = shipped(unit);
        let reasons = text.lines().filter(|line| line.starts_with('#')).count();
        let lines = directives(unit).len();
        assert!(reasons * 3 >= lines, "{unit}: {reasons} lines of reasons for {lines} directives");
    }
}

#[test]
fn the_unit_fits_the_daemons_own_times() {
    let unit: BTreeMap<_, _> = directives("systemd/sam2d.service").into_iter().collect();
    let seconds = |name: &str| unit[name].parse::<u64>().unwrap();
    let config = Config::default();
    assert!(seconds("TimeoutStopSec") >= config.http.request_timeout_s + 5);
    // …and than the drain with the engine's last call after it.
    assert!(seconds("TimeoutStopSec") > config.http.drain_timeout_s + 10);
    assert_eq!(unit["LimitCORE"], "0");
    assert!(unit["LimitNOFILE"].parse::<usize>().unwrap() > 2 * config.http.max_connections);
    assert_eq!(
        (unit["Type"].as_str(), unit["RestartPreventExitStatus"].as_str()),
        ("notify", "78")
    );
    assert_eq!(unit["RuntimeDirectoryPreserve"], "restart");
    assert!(seconds("WatchdogSec") > 0 && seconds("RestartSec") < 10);
}

#[test]
fn the_socket_unit_holds_the_default_address() {
    let socket = directives("systemd/sam2d.socket");
    let listen: Vec<_> = socket.iter().filter(|(name, _)| name == "ListenStream").collect();
    let default = Config::default().http.listen;
    assert_eq!(listen.len(), default.len());
    assert_eq!(listen[0].1, default[0].to_string());
}

#[test]
fn the_jetsons_configuration_is_one() {
    let config = Config::parse(&shipped("config/orin.toml")).unwrap();
    config.check().unwrap();
    assert_ne!(config, Config::default());
    assert!(!config.http.allow_anonymous, "a shipped file must not let everybody in");
}

#[test]
fn the_environment_file_names_keys_that_exist_with_their_defaults() {
    let text = shipped("config/sam2d.env");
    let mut seen = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("#SAM2D_")) {
        let (name, value) = line.split_once('=').unwrap();
        let pair = (format!("SAM2D_{name}"), value.to_owned());
        let config = Config::load(None, [pair]).unwrap_or_else(|error| panic!("{name}: {error}"));
        if name != "ENGINE__PATH" {
            assert_eq!(config, Config::default(), "{name} is not shipped with its default");
        }
        seen += 1;
    }
    assert_eq!(seen, 4);
    for old in [
        "SAM2_MODEL_PATH",
        "SAM2_DEVICE",
        "SAM2_BATCH_SIZE",
        "SAM2_CONFIDENCE_THRESHOLD",
        "SAM2_REQUEST_TIMEOUT",
        "SAM2_CACHE_EXPIRE_HOURS",
    ] {
        assert!(text.contains(&format!("{old} ")), "{old} is not in the table");
    }
}

/// Words that start with `sam2d_`.
fn metrics_named(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !word(c)).filter(|word| word.starts_with("sam2d_"));
    words.map(str::to_owned).collect()
}

#[test]
fn alerts_and_board_ask_for_metrics_that_the_program_writes() {
    // Names as the source has them; promtool and a running daemon are asked in the systemd stage.
    let source = shipped("src/http/metrics.rs") + &shipped("src/ops/machine.rs");
    for file in ["config/prometheus/sam2d-alerts.yml", "config/grafana/sam2d.json"] {
        let named = metrics_named(&shipped(file));
        assert!(named.len() >= 6, "{file}: {named:?}");
        for name in named {
            let name = name.trim_start_matches("sam2d_");
            let name = name.trim_end_matches("_bucket").trim_end_matches("_total");
            let bare = name.trim_end_matches("_seconds");
            let known = [name, bare].iter().any(|name| source.contains(&format!("\"{name}\"")));
            assert!(known, "{file}: no metric {name}");
        }
    }
}

#[test]
fn the_cross_build_is_the_same_in_a_container_and_without() {
    let cross: toml::Table = shipped("Cross.toml").parse().unwrap();
    let targets = cross["target"].as_table().unwrap();
    let [(target, settings)] = targets.iter().collect::<Vec<_>>()[..] else {
        panic!("one target: {targets:?}")
    };
    let script = shipped("packaging/cross.sh");
    assert!(script.contains(&format!("target={target}\n")), "the target is another one");
    let variable = |name: &str| {
        let line = script.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        let value = line.unwrap_or_else(|| panic!("cross.sh sets no {name}"));
        let words = value.trim_matches(['(', ')', '"']).split_whitespace();
        words.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let install = settings["pre-build"].as_array().unwrap()[0].as_str().unwrap();
    let (_, packages) = install.split_once("--no-install-recommends ").unwrap();
    let packages: BTreeSet<_> = packages.split_whitespace().map(str::to_owned).collect();
    assert_eq!(variable("packages"), packages);
    let passed = settings["env"]["passthrough"].as_array().unwrap();
    let passed: BTreeSet<_> = passed.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    let set: BTreeSet<_> = script
        .lines()
        .filter_map(|line| {
            line.strip_prefix("export ")?.split_once('=').map(|(name, _)| name.to_owned())
        })
        .collect();
    assert_eq!(set, passed, "environment");
}

#[test]
fn nobody_reading_what_the_daemon_prints_stops_neither_it_nor_its_engine() {
    let home = tempfile::tempdir().unwrap();
    // It can't say which port it got.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = || Stdio::from(std::io::pipe().unwrap().1);
    let mut command = sam2d(home.path());
    command.args(["serve", "--listen", &address.to_string()]);
    command.args(["--engine", seeded().to_str().unwrap()]);
    let mut child = command.stdout(nobody()).stderr(nobody()).spawn().unwrap();
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let until = Instant::now() + Duration::from_secs(60);
    let ready = loop {
        let answer = asked().unwrap_or_default();
        let ended = child.try_wait().unwrap();
        if answer.starts_with("HTTP/1.1 200") || ended.is_some() || Instant::now() > until {
            break answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(child.try_wait().unwrap(), None, "what it printed ended it");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = child.wait().unwrap();
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert_eq!(ended.code(), Some(0));
}
