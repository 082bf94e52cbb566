//! `sam2d serve` as a process of its own, and what it says.

use super::{no_driver, standins};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Daemon {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
    control: PathBuf,
}

/// How it differs from a well-equipped one.
pub(crate) struct Setup<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) engine: &'a Path,
    /// Folder of TensorRT's library.
    pub(crate) library: String,
    /// Is there a libcuda?
    pub(crate) driver: bool,
    /// What it pretends.
    pub(crate) pretends: &'a str,
    /// More lines under `[engine]`.
    pub(crate) keys: &'a str,
}

impl Daemon {
    pub(crate) fn start(setup: &Setup<'_>) -> Self {
        let Setup { folder, engine, library, driver, pretends, keys } = setup;
        let control = folder.join("driver");
        std::fs::write(&control, pretends).unwrap();
        let config = folder.join("sam2d.toml");
        std::fs::write(
            &config,
            format!(
                "[http]\nlisten = [\"127.0.0.1:0\"]\n[engine]\npath = \"{}\"\ntensorrt_path = \"{library}\"\nretry_first_s = 300\n{keys}\n[cache]\nenabled = false\n[log]\nformat = \"text\"\n",
                engine.display()
            ),
        )
        .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sam2d"));
        command.arg("--config").arg(&config).arg("--state-dir").arg(folder.join("state"));
        let cuda = if *driver { standins().join("cuda") } else { no_driver(folder) };
        command.env("STANDIN_CUDA", &control).env("LD_LIBRARY_PATH", cuda);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::<Mutex<String>>::default();
        let address = follow(&log, child.stdout.take().unwrap());
        let _ = follow(&log, child.stderr.take().unwrap());
        let address = match address.recv_timeout(PATIENCE) {
            Ok(address) => address,
            // A device that is lost as soon as it loads can end it before it has said so.
            Err(RecvTimeoutError::Disconnected) => String::new(),
            Err(RecvTimeoutError::Timeout) => panic!("it never said where it listens"),
        };
        Self { child, address, log, control }
    }

    /// What the driver pretends from now on.
    pub(crate) fn pretend(&self, words: &str) {
        std::fs::write(&self.control, words).unwrap();
    }

    /// Health, once it is no longer loading.
    pub(crate) fn health(&self) -> serde_json::Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let (_, body) = self.ask("GET", "/api/segmentation/sam2/health", "");
            let health: serde_json::Value = serde_json::from_str(&body).unwrap();
            if health["reason"] != "the engine is being loaded" {
                return health;
            }
            assert!(Instant::now() < until, "still loading: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// One click on a picture.
    pub(crate) fn segment(&self, picture: &[u8], x: u32) -> (u16, serde_json::Value) {
        let image = base64_simd::STANDARD.encode_to_string(picture);
        let body = serde_json::json!({
            "image_data": image,
            "image_type": "auto",
            "click_points": [{ "x": x, "y": 24, "label": 1 }],
        });
        self.post(&body.to_string())
    }

    pub(crate) fn post(&self, body: &str) -> (u16, serde_json::Value) {
        let (status, body) = self.ask("POST", "/api/segmentation/sam2", body);
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { return (0, String::new()) };
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Everything it wrote so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it wrote that.
    pub(crate) fn says(&self, words: &str) {
        self.says_after(0, words);
    }

    /// Waits until it wrote that after the first so many bytes of its log; the line.
    pub(crate) fn says_after(&self, before: usize, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            if let Some(line) = log[before..].lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            assert!(Instant::now() < until, "it never said {words:?}: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end by itself.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects lines; sends the address when it comes by.
fn follow(
    log: &Arc<Mutex<String>>,
    from: impl Read + Send + 'static,
) -> std::sync::mpsc::Receiver<String> {
    let (tell, told) = std::sync::mpsc::channel();
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if let Some(address) = line.strip_prefix("listening on http://") {
                let _ = tell.send(address.to_owned());
            }
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
    told
}
