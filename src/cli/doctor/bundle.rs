//! `sam2d doctor --bundle FILE`: what whoever helps from afar needs to see, in one archive (tar.gz).
//!
//! Invariants:
//! 1. No secret and nothing of a patient: the log has none by its own rule, tokens and keys are never
//!    read, cache and inbox are not looked into, the environment is not copied.
//! 2. What can't be had (no journal, no systemd) is said in the file that would hold it.

use super::Diagnosis;
use crate::config::Config;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

/// Lines of the journal: about a day of a busy box.
const LOG_LINES: &str = "20000";
/// tar's unit.
const BLOCK: usize = 512;

/// Writes it.
///
/// # Errors
/// When the file can't be written.
pub(super) fn write(path: &Path, diagnosis: &Diagnosis, config: Option<&Config>) -> io::Result<()> {
    let file = GzEncoder::new(std::fs::File::create(path)?, Compression::default());
    let mut archive = Archive(file);
    archive.add("doctor.txt", &diagnosis.text())?;
    archive.add("doctor.json", &diagnosis.json())?;
    let config =
        config.map(|config| toml::to_string_pretty(config).unwrap_or_else(|e| e.to_string()));
    archive.add("configuration.toml", &config.unwrap_or_default())?;
    archive.add("versions.txt", &versions())?;
    let unit = output("systemctl", &["show", "sam2d.service", "--no-pager"]);
    archive.add("unit.txt", &without_environment(&unit))?;
    let log = ["-u", "sam2d.service", "-n", LOG_LINES, "--no-pager", "-o", "short-iso"];
    archive.add("log.txt", &output("journalctl", &log))?;
    archive.finish()
}

/// systemd shows the environment that it gives, and some sites put secrets there.
fn without_environment(unit: &str) -> String {
    let shown = |line: &&str| !line.starts_with("Environment");
    unit.lines().filter(shown).map(|line| format!("{line}\n")).collect()
}

fn versions() -> String {
    let read =
        |path: &str| std::fs::read_to_string(path).unwrap_or_else(|e| format!("{path}: {e}\n"));
    format!(
        "sam2d {} ({})\n{}{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        read("/proc/version"),
        read("/etc/os-release"),
    )
}

fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(done) => {
            let (out, err) = (done.stdout, done.stderr);
            String::from_utf8_lossy(&out).into_owned() + &String::from_utf8_lossy(&err)
        }
        Err(error) => format!("{program}: {error}\n"),
    }
}

/// A tar archive of small text files (POSIX ustar).
struct Archive<W: Write>(W);

impl Archive<GzEncoder<std::fs::File>> {
    fn finish(mut self) -> io::Result<()> {
        self.0.write_all(&[0; 2 * BLOCK])?;
        self.0.finish()?.sync_all()
    }
}

impl<W: Write> Archive<W> {
    fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        self.0.write_all(&head(name, text.len()))?;
        self.0.write_all(text.as_bytes())?;
        self.0.write_all(&vec![0; text.len().next_multiple_of(BLOCK) - text.len()])
    }
}

fn head(name: &str, length: usize) -> [u8; BLOCK] {
    let mut head = [0; BLOCK];
    let mut put = |at: usize, text: &str| {
        for (place, byte) in head.iter_mut().skip(at).zip(text.bytes()) {
            *place = byte;
        }
    };
    put(0, "sam2d/");
    put(6, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{length:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    for (place, byte) in head.iter_mut().skip(148).zip(sum.bytes()) {
        *place = byte;
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_that_systemd_gives_is_left_out() {
        let shown = "Type=notify\nEnvironment=PASSWORD=x\nEnvironmentFiles=/etc/x (ignore_errors=yes)\nNRestarts=0\n";
        assert_eq!(without_environment(shown), "Type=notify\nNRestarts=0\n");
    }

    #[test]
    fn tar_itself_reads_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bundle.tar.gz");
        let diagnosis = Diagnosis::default();
        write(&file, &diagnosis, Some(&Config::default())).unwrap();
        let done = Command::new("tar").arg("-xzf").arg(&file).current_dir(folder.path()).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let read =
            |name: &str| std::fs::read_to_string(folder.path().join("sam2d").join(name)).unwrap();
        assert_eq!(read("doctor.txt"), diagnosis.text());
        assert!(read("configuration.toml").contains("request_timeout_s = 30"));
        assert!(read("versions.txt").starts_with(concat!("sam2d ", env!("CARGO_PKG_VERSION"))));
        assert!(!read("log.txt").is_empty());
    }
}
