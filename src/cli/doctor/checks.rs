//! What doctor looks at, one function a section.

use super::super::CommonArgs;
use super::finding::{Finding, Section};
use crate::cache::wall_clock::{self, Keeper};
use crate::config::{Config, DEFAULT_FILE};
use crate::engine::Options as EngineOptions;
use crate::engine::package::{Origin, Package};
use crate::imaging::decoder::{Decoder, Sandbox};
use crate::service::loader::{self, Reach};
use rustix::fs::{Access, access, statvfs};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A daemon on this machine answers a health question in milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// What systemd makes of the unit's `CacheDirectory=`.
const INSTALLED_CACHE: &str = "/var/cache/sam2d";

/// File, environment and flags; none when they make no configuration.
pub(super) fn configuration(common: &CommonArgs, findings: &mut Vec<Finding>) -> Option<Config> {
    let section = Section::Configuration;
    let given = common.config.as_deref();
    let file = given.or_else(|| Some(Path::new(DEFAULT_FILE)).filter(|path| path.exists()));
    let config = match common.load() {
        Ok(config) => config,
        Err(error) => {
            let remedy = "correct it; `sam2d check-config` reads it again";
            findings.push(Finding::fault(section, error.to_string(), remedy));
            return None;
        }
    };
    findings.push(Finding::fine(
        section,
        match file {
            Some(file) => format!("{} is well formed", file.display()),
            None => format!("no {DEFAULT_FILE}: defaults and environment"),
        },
    ));
    if let Err(error) = config.check() {
        for fault in error.to_string().lines() {
            let remedy = "correct the key; its comment in sam2d.toml says what it takes";
            findings.push(Finding::fault(section, fault, remedy));
        }
    }
    Some(config)
}

/// State and cache folder: there, writable, ours alone, with space left.
pub(super) fn folders(config: &Config, findings: &mut Vec<Finding>) {
    folder("state", &config.state_dir(), 0, findings);
    if !config.cache.enabled {
        let what = "the disk cache is switched off (cache.enabled): results are kept in memory";
        findings.push(Finding::fine(Section::Folders, what));
        return;
    }
    match cache_folder(config, Path::new(INSTALLED_CACHE)) {
        Some(path) => folder("cache", &path, config.cache.min_free_bytes, findings),
        None => findings.push(Finding::fault(
            Section::Folders,
            "there is no cache folder",
            "set cache.dir, or run as a user with a home folder",
        )),
    }
}

/// The daemon's: the installed service's, where it is installed and nothing else is said. Whoever runs
/// doctor (root, mostly) has a home folder of their own, which is none of the daemon's.
fn cache_folder(config: &Config, installed: &Path) -> Option<PathBuf> {
    let said = config.cache.dir.is_some() || std::env::var_os("CACHE_DIRECTORY").is_some();
    if !said && installed.is_dir() {
        return Some(installed.to_owned());
    }
    config.cache.folder()
}

fn folder(name: &str, path: &Path, min_free: u64, findings: &mut Vec<Finding>) {
    let (section, shown) = (Section::Folders, path.display());
    let Ok(about) = std::fs::metadata(path) else {
        let what = format!("the {name} folder {shown} is not there yet; the daemon makes it");
        findings.push(Finding::fine(section, what));
        return;
    };
    if !about.is_dir() {
        let what = format!("the {name} folder {shown} is a file");
        findings.push(Finding::fault(section, what, "move the file away"));
        return;
    }
    if access(path, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let what = format!("the {name} folder {shown} can't be written by this user");
        let remedy = "run doctor as the daemon's user (sudo -u sam2d sam2d doctor); if it says so \
                      there too, mount the disk writable and give the folder to that user";
        findings.push(Finding::warning(section, what, remedy));
        return;
    }
    if about.mode() & 0o077 != 0 {
        let what = format!("the {name} folder {shown} can be entered by other users");
        findings.push(Finding::warning(section, what, format!("chmod 0700 {shown}")));
    }
    match statvfs(path) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let gib = free as f64 / f64::from(1 << 30);
            if free < min_free {
                let what = format!(
                    "the {name} folder {shown} has {gib:.1} GiB of free disk, less than \
                     cache.min_free_bytes: nothing new is kept"
                );
                let remedy = "free disk space (journalctl --vacuum-size=200M, apt-get clean), or \
                              put the cache elsewhere (cache.dir)";
                findings.push(Finding::warning(section, what, remedy));
            } else {
                let what = format!("the {name} folder {shown} is writable, {gib:.1} GiB free");
                findings.push(Finding::fine(section, what));
            }
        }
        Err(error) => {
            let what = format!("the disk of the {name} folder {shown} can't be asked: {error}");
            findings.push(Finding::warning(section, what, "look at dmesg for disk errors"));
        }
    }
}

/// Answers live for a day: a clock that is wrong makes them live longer or shorter.
pub(super) fn clock(findings: &mut Vec<Finding>) {
    let section = Section::Clock;
    if !wall_clock::is_plausible(SystemTime::now()) {
        let what = "the clock reads a time before this program was written";
        let remedy = "set it (timedatectl set-time), name a time server in \
                      /etc/systemd/timesyncd.conf, and see to the clock's battery";
        findings.push(Finding::fault(section, what, remedy));
        return;
    }
    findings.push(match wall_clock::keeper(Path::new("/")) {
        Keeper::Timesyncd => {
            Finding::fine(section, "the clock is plausible and was synchronised since the start")
        }
        Keeper::Chrony => Finding::fine(section, "the clock is plausible, and chronyd keeps it"),
        Keeper::Nobody => Finding::warning(
            section,
            "the clock is plausible, but no time service is known to have set it",
            "timedatectl set-ntp true, with the hospital's time server in \
             /etc/systemd/timesyncd.conf; unneeded in a container, whose host keeps the clock",
        ),
    });
}

/// Starts the children as the daemon would, and has them decode a picture.
pub(super) fn decoder(config: &Config, findings: &mut Vec<Finding>) {
    let section = Section::Decoder;
    if config.decoder.sandbox == Sandbox::Off {
        let what = "decoder.sandbox is off: children are held by limits only";
        findings.push(Finding::warning(section, what, "set decoder.sandbox = \"required\""));
    }
    let picture = match Package::embedded() {
        Ok(package) => package.golden_image().clone(),
        Err(error) => {
            let what = format!("the program's own picture is damaged: {error}");
            findings.push(Finding::fault(section, what, "install the package anew"));
            return;
        }
    };
    let began = Instant::now();
    let decoded = Decoder::start(config.decoder.clone())
        .map_err(|error| error.to_string())
        .and_then(|decoder| decoder.decode(&picture, None).map_err(|error| error.to_string()));
    findings.push(match decoded {
        Ok(_) => {
            let ms = began.elapsed().as_millis();
            let whose = match config.decoder.sandbox {
                Sandbox::Required => "a child in its sandbox",
                Sandbox::Off => "a child without a sandbox",
            };
            Finding::fine(section, format!("{whose} decoded a picture ({ms} ms)"))
        }
        Err(error) => Finding::fault(
            section,
            format!("no child can decode: {error}"),
            "seccomp and memfd must be allowed here: see the container's or unit's seccomp profile \
             and decoder.memory_bytes",
        ),
    });
}

/// Can the addresses be opened, or does our daemon hold them already?
pub(super) fn ports(config: &Config, open_address: Option<&str>, findings: &mut Vec<Finding>) {
    let section = Section::Ports;
    if let Some(why) = open_address {
        findings.push(Finding::fault(section, why, "set one of the named keys"));
    }
    for &address in &config.http.listen {
        findings.push(match TcpListener::bind(address) {
            Ok(_) => Finding::fine(section, format!("{address} is free")),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => taken(address),
            Err(error) => {
                let remedy = "choose an address of this machine in http.listen; ports below 1024 \
                              need a socket unit or CAP_NET_BIND_SERVICE";
                Finding::fault(section, format!("{address}: {error}"), remedy)
            }
        });
    }
}

/// Who holds the port?
fn taken(address: SocketAddr) -> Finding {
    let section = Section::Ports;
    match ask(address) {
        Ok(answer) if answer.contains("x-request-id") => {
            Finding::fine(section, format!("a sam2d answers on {address}"))
        }
        _ => Finding::fault(
            section,
            format!("{address} is taken by another program"),
            format!(
                "`ss -ltnp sport = :{}` names it; stop it or change http.listen",
                address.port()
            ),
        ),
    }
}

/// The head of an answer on `/livez`, in lower case.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).to_lowercase())
}

/// The package that would serve: there, whole, and meant for more than demonstrations?
pub(super) fn engine(
    config: &Config,
    may_listen: bool,
    findings: &mut Vec<Finding>,
) -> Option<Package> {
    let section = Section::Engine;
    let loopback_only = config.http.listen.iter().all(|address| address.ip().is_loopback());
    let reach = Reach { loopback_only: loopback_only || !may_listen };
    let package = match loader::package(&config.engine, reach) {
        Ok(package) => package,
        Err(error) => {
            let remedy = "`sam2d engine list` shows what is there; `sam2d engine import` takes a \
                          package in; engine.path names one";
            findings.push(Finding::fault(section, error.to_string(), remedy));
            return None;
        }
    };
    let manifest = package.manifest();
    let what = match package.origin() {
        Origin::Folder(folder) => {
            format!("{} in {}: its sums are right", manifest.title(), folder.display())
        }
        Origin::Embedded => format!("{} in the program: its sums are right", manifest.title()),
    };
    findings.push(Finding::fine(section, what));
    if manifest.intended_use == "demonstration" {
        let what = "it is a demonstration engine: its masks are not to be relied on";
        let remedy = "install a real SAM2.1 package; docs/deployment.md says how";
        findings.push(Finding::warning(section, what, remedy));
    }
    if let Some(writable) = writable_package(&package) {
        findings.push(writable);
    }
    threads(&config.engine, findings);
    Some(package)
}

/// An engine package is code: the daemon's user must not be able to change it.
fn writable_package(package: &Package) -> Option<Finding> {
    let Origin::Folder(folder) = package.origin() else { return None };
    let others = std::fs::metadata(folder).is_ok_and(|about| about.mode() & 0o022 != 0);
    others.then(|| {
        let what = format!("the engine's folder {} can be written by others", folder.display());
        let remedy = format!("chown -R root: {0} && chmod -R go-w {0}", folder.display());
        Finding::fault(Section::Engine, what, remedy)
    })
}

/// More threads than processors only get in each other's way.
fn threads(options: &EngineOptions, findings: &mut Vec<Finding>) {
    let there = std::thread::available_parallelism().map_or(1, usize::from);
    if options.cpu_threads > there {
        let what = format!("engine.cpu_threads is {}, of {there} processors", options.cpu_threads);
        findings.push(Finding::warning(Section::Engine, what, "set engine.cpu_threads = 0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installed_service_s_cache_is_looked_at_whoever_runs_doctor() {
        let folder = tempfile::tempdir().unwrap();
        let installed = folder.path().join("var-cache-sam2d");
        let mut config = Config::default();
        // Not installed here: the user's own.
        assert_eq!(cache_folder(&config, &installed), config.cache.folder());
        std::fs::create_dir(&installed).unwrap();
        assert_eq!(cache_folder(&config, &installed), Some(installed.clone()));
        config.cache.dir = Some("/srv/results".into());
        assert_eq!(cache_folder(&config, &installed), Some("/srv/results".into()));
    }
}
