//! The real binary as a daemon of its own, on a free port and in a folder of its own.

use super::wire::{Answer, answers, form, request};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A running `sam2d`; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Where it speaks TLS, if it does.
    pub(crate) secured: Option<SocketAddr>,
}

/// `sam2d` with an environment that says nothing of folders; state and cache below `home`.
pub(crate) fn sam2d(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sam2d"));
    for name in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "CACHE_DIRECTORY", "STATE_DIRECTORY"] {
        command.env_remove(name);
    }
    command.env("HOME", home).env("SAM2D_STATE__PATH", state(home));
    command.env("SAM2D_CACHE__DIR", cache(home)).env("SAM2D_CACHE__MIN_FREE_BYTES", "0");
    command
}

/// `sam2d …` to its end.
pub(crate) fn done(home: &Path, arguments: &[&str]) -> Output {
    sam2d(home).args(arguments).output().unwrap()
}

pub(crate) fn state(home: &Path) -> PathBuf {
    home.join("state")
}

pub(crate) fn cache(home: &Path) -> PathBuf {
    home.join("cache")
}

impl Daemon {
    /// Started and ready, with the tiny seeded engine.
    pub(crate) fn start(home: &Path) -> Self {
        Self::start_as(sam2d(home).stderr(Stdio::null()))
    }

    /// As the command says; its log goes to a file.
    pub(crate) fn start_logging(command: &mut Command, log: &Path) -> Self {
        Self::start_as(command.stderr(std::fs::File::create(log).unwrap()))
    }

    fn start_as(command: &mut Command) -> Self {
        let engine = super::seeded();
        Self::start_configured(command.args(["--engine", engine.to_str().unwrap()]))
    }

    /// With the engine that its configuration names.
    pub(crate) fn start_configured(command: &mut Command) -> Self {
        let daemon = Self::listening(command);
        let until = Instant::now() + Duration::from_secs(60);
        while daemon.get("/readyz").status != 200 {
            assert!(Instant::now() < until, "not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    /// The same, ready or not.
    pub(crate) fn listening(command: &mut Command) -> Self {
        command.args(["--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut address, mut secured) = (None, None);
        loop {
            let line = lines.next().expect("the daemon ended at its start").unwrap();
            if let Some(listening) = line.strip_prefix("listening on https://") {
                secured = Some(listening.parse().unwrap());
            } else if let Some(listening) = line.strip_prefix("listening on http://") {
                address = Some(listening.parse().unwrap());
            } else if line.starts_with("try: ") {
                break;
            }
        }
        // Whatever else it prints must find a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.unwrap(), secured }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask(&request("GET", path, &[], None))
    }

    /// A form to the segmentation route.
    pub(crate) fn segment(&self, parts: &[(&str, &[u8])]) -> Answer {
        let body = form(parts);
        let headers = [("Content-Type", super::wire::FORM)];
        let mut bytes = request("POST", "/api/segmentation/sam2", &headers, Some(body.len()));
        bytes.extend_from_slice(&body);
        self.ask(&bytes)
    }

    /// One request with `Connection: close`.
    pub(crate) fn ask(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(bytes).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        answers(&all).remove(0)
    }

    /// The value of a metric, `name{labels}`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    /// Waits until a metric is at least that.
    pub(crate) fn wait_for(&self, name: &str, least: u64) {
        let until = Instant::now() + Duration::from_secs(30);
        while self.metric(name) < least {
            assert!(Instant::now() < until, "{name} stays below {least}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGTERM, and its exit code.
    pub(crate) fn stop(self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.ended()
    }

    /// Its exit code, once it ends by itself.
    pub(crate) fn ended(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
