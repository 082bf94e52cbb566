//! `sam2d cache stat|list|verify|purge`: asks the daemon that has the cache, or works on the folder
//! when none has it.
//!
//! Either way the same lines come out: a daemon sends them, a folder makes them here.

use super::CommonArgs;
use crate::cache::tools::Folder;
use crate::cache::{Kind, KindStats, OpenError};
use crate::config::{Config, ConfigError};
use crate::control::client::{AskError, Daemon};
use crate::control::{CacheEntry, CacheStat, Hello, Reply, Request, wire};
use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Where systemd keeps the service's cache: root asks for that one when there is no daemon.
const OF_THE_SERVICE: &str = "/var/cache/sam2d";

/// Flags.
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// What to do
    #[command(subcommand)]
    pub command: CacheCommand,
    /// Configuration file [default: /etc/sam2d/sam2d.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The cache folder, if it isn't the configured one
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long, global = true)]
    pub json: bool,
}

/// Verbs.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum CacheCommand {
    /// Numbers: entries, bytes, hits, faults
    Stat,
    /// Every entry: kind, key, bytes, creation, last use
    List,
    /// Read every entry and delete what is damaged; exit code 1 when something was
    Verify,
    /// Forget all results: on disk, and in a running daemon's memory and device too
    Purge,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// No configuration, so no folder.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A daemon has it and can't be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The folder can't be used.
    #[error("{source}{}", hint(source))]
    Open {
        /// Why.
        #[from]
        source: OpenError,
    },
    /// There is nothing there.
    #[error("there is no cache in {}", .0.display())]
    None(PathBuf),
    /// The disk, or whoever reads what is printed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn hint(error: &OpenError) -> &'static str {
    match error {
        OpenError::Locked { .. } => {
            " (it does not answer on its control socket: is control.socket the same for both?)"
        }
        _ => "",
    }
}

/// Does it and prints what came of it; false when something was found damaged.
///
/// # Errors
/// Any [`CacheError`].
pub fn run(args: &CacheArgs) -> Result<bool, CacheError> {
    let common = CommonArgs { config: args.config.clone(), engine: None };
    let config = common.load()?;
    let out = io::stdout().lock();
    let mut page = Page { out: io::BufWriter::new(out), json: args.json, sound: true, error: None };
    let paths = config.control.known_paths(&config.state_dir());
    let daemon = Daemon::find(&paths)?;
    let wanted = args.cache_dir.as_ref().or(config.cache.dir.as_ref());
    match daemon.filter(|daemon| wanted.is_none_or(|folder| daemon.has_cache(folder))) {
        Some(daemon) => {
            let hello = daemon.hello().clone();
            daemon.ask(request(args.command), &mut |reply| page.show(Some(&hello), reply))?;
        }
        None => alone(args.command, &folder(args, &config)?, &mut page)?,
    }
    if let Some(error) = page.error {
        // A reader that has seen enough (head) is no failure.
        return if error.kind() == io::ErrorKind::BrokenPipe {
            Ok(true)
        } else {
            Err(error.into())
        };
    }
    page.out.flush()?;
    Ok(page.sound)
}

fn request(command: CacheCommand) -> Request {
    match command {
        CacheCommand::Stat => Request::CacheStat,
        CacheCommand::List => Request::CacheList,
        CacheCommand::Verify => Request::CacheVerify,
        CacheCommand::Purge => Request::CachePurge,
    }
}

fn folder(args: &CacheArgs, config: &Config) -> Result<PathBuf, CacheError> {
    if let Some(folder) = &args.cache_dir {
        return Ok(folder.clone());
    }
    let own = config.cache.folder().ok_or(OpenError::Nowhere)?;
    let of_the_service = Path::new(OF_THE_SERVICE);
    let is_default = config.cache.dir.is_none();
    Ok(if is_default && !own.exists() && of_the_service.exists() {
        of_the_service.to_owned()
    } else {
        own
    })
}

/// Without a daemon.
fn alone<W: Write>(
    command: CacheCommand,
    path: &Path,
    page: &mut Page<W>,
) -> Result<(), CacheError> {
    let folder = Folder::open(path)?.ok_or_else(|| CacheError::None(path.to_owned()))?;
    match command {
        CacheCommand::Stat => {
            let mut held = [KindStats::default(), KindStats::default(), KindStats::default()];
            folder.list(&mut |listed| {
                let kinds = Kind::ALL.iter().zip(&mut held);
                for (_, kind) in kinds.filter(|(kind, _)| **kind == listed.kind) {
                    kind.entries += 1;
                    kind.bytes += listed.bytes.next_multiple_of(4096);
                }
                ControlFlow::Continue(())
            })?;
            page.held(path, &held);
        }
        CacheCommand::List => folder.list(&mut |listed| {
            page.show(None, Reply::CacheEntry((&listed).into()));
            page.go_on()
        })?,
        CacheCommand::Verify => {
            let verified = folder.verify(&|| ControlFlow::Continue(()))?;
            wire::verified(&verified).for_each(|reply| page.show(None, reply));
        }
        CacheCommand::Purge => {
            let files = folder.purge()?;
            page.show(None, Reply::CachePurged { files });
        }
    }
    Ok(())
}

/// What is printed.
struct Page<W: Write> {
    out: W,
    json: bool,
    /// Nothing damaged was seen.
    sound: bool,
    /// The first failure to print.
    error: Option<io::Error>,
}

impl<W: Write> Page<W> {
    fn go_on(&self) -> ControlFlow<()> {
        if self.error.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn line(&mut self, text: &str) {
        if self.error.is_none() {
            self.error = writeln!(self.out, "{text}").err();
        }
    }

    fn show(&mut self, daemon: Option<&Hello>, reply: Reply) {
        self.sound &= !matches!(reply, Reply::CacheBad { .. });
        match reply {
            Reply::CacheStat(stat) => self.stat(daemon, &stat),
            other if self.json => {
                let text = serde_json::to_string(&other).unwrap_or_default();
                self.line(&text);
            }
            Reply::CacheEntry(entry) => self.line(&entry_line(&entry)),
            Reply::CacheBad { entry, what } => self.line(&format!("{entry} {what}")),
            Reply::CacheSound { entries, bytes } => {
                self.line(&format!("{entries} entries are sound, {}", size(bytes)));
            }
            Reply::CachePurged { files } => {
                let also = if daemon.is_some() { "; memory and device are empty too" } else { "" };
                self.line(&format!("{files} entries deleted{also}"));
            }
            Reply::End | Reply::Failed { .. } => {}
        }
    }

    /// A folder without a daemon: nobody has counted hits.
    fn held(&mut self, path: &Path, kinds: &[KindStats; 3]) {
        if self.json {
            let held = |kind: &KindStats| json!({ "entries": kind.entries, "bytes": kind.bytes });
            let kinds = by_name(kinds, held);
            let stat = json!({ "cache_dir": path, "daemon": null, "kinds": kinds });
            return self.line(&stat.to_string());
        }
        self.line(&format!("{} (no daemon uses it)", path.display()));
        self.line(&format!("{:<10} {:>9} {:>10}", "", "entries", "size"));
        for (kind, held) in Kind::ALL.iter().zip(kinds) {
            let (name, entries, bytes) = (kind.name(), held.entries, size(held.bytes));
            self.line(&format!("{name:<10} {entries:>9} {bytes:>10}"));
        }
    }

    fn stat(&mut self, daemon: Option<&Hello>, stat: &CacheStat) {
        let folder = daemon.and_then(|daemon| daemon.cache_dir.as_deref());
        if self.json {
            let kinds = stat.disk.as_ref().map(|disk| by_name(&disk.kinds, |kind| json!(kind)));
            let disk = stat.disk.as_ref().map(|disk| {
                json!({
                    "scanned": disk.scanned,
                    "trouble": disk.trouble,
                    "faults": disk.faults,
                    "clock_settled": disk.clock_settled,
                })
            });
            let memory = json!({
                "embeddings_bytes": stat.embeddings_bytes,
                "answers_bytes": stat.answers_bytes,
                "open_bytes": stat.disk.as_ref().map(|disk| disk.open_bytes),
                "queue_bytes": stat.disk.as_ref().map(|disk| disk.queue_bytes),
                "index_bytes": stat.disk.as_ref().map(|disk| disk.index_bytes),
            });
            let daemon = daemon.map(|daemon| json!({ "version": daemon.sam2d, "pid": daemon.pid }));
            let all = json!({
                "cache_dir": folder, "daemon": daemon, "kinds": kinds, "disk": disk, "memory": memory,
            });
            return self.line(&all.to_string());
        }
        let place =
            folder.map_or("nothing is kept on disk".to_owned(), |f| f.display().to_string());
        let by = daemon.map(|daemon| format!(" (sam2d {}, process {})", daemon.sam2d, daemon.pid));
        self.line(&format!("{place}{}", by.unwrap_or_default()));
        if let Some(disk) = &stat.disk {
            self.line(&format!(
                "{:<10} {:>9} {:>10} {:>10} {:>8} {:>8} {:>8} {:>7} {:>8} {:>8} {:>5}",
                "",
                "entries",
                "size",
                "at most",
                "hits",
                "misses",
                "written",
                "failed",
                "evicted",
                "expired",
                "bad"
            ));
            for (kind, k) in Kind::ALL.iter().zip(&disk.kinds) {
                self.line(&format!(
                    "{:<10} {:>9} {:>10} {:>10} {:>8} {:>8} {:>8} {:>7} {:>8} {:>8} {:>5}",
                    kind.name(),
                    k.entries,
                    size(k.bytes),
                    size(k.budget_bytes),
                    k.hits,
                    k.misses,
                    k.puts,
                    k.put_failures,
                    k.evicted,
                    k.expired,
                    k.bad
                ));
            }
            let scan = if disk.scanned { "complete" } else { "the start-up scan is still running" };
            let clock = if disk.clock_settled { "settled" } else { "not settled yet" };
            self.line(&format!("index: {scan}, {}; clock: {clock}", size(disk.index_bytes)));
            let trouble = disk.trouble.as_deref().unwrap_or("none now");
            self.line(&format!("trouble with the disk: {trouble}; {} times so far", disk.faults));
            let (open, queue) = (size(disk.open_bytes), size(disk.queue_bytes));
            self.line(&format!("memory: {open} of entries in use, {queue} to be written"));
        }
        let (answers, embeddings) = (size(stat.answers_bytes), size(stat.embeddings_bytes));
        self.line(&format!("memory: {answers} of answers, {embeddings} of embeddings"));
    }
}

fn by_name(
    kinds: &[KindStats; 3],
    value: impl Fn(&KindStats) -> serde_json::Value,
) -> serde_json::Map<String, serde_json::Value> {
    Kind::ALL.iter().zip(kinds).map(|(kind, held)| (kind.name().to_owned(), value(held))).collect()
}

fn entry_line(entry: &CacheEntry) -> String {
    let at = |seconds: u64| {
        let time = i64::try_from(seconds).ok().and_then(|s| DateTime::from_timestamp(s, 0));
        time.map_or("?".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
    };
    let CacheEntry { kind, key, bytes, created_s, used_s } = entry;
    format!("{kind:<9} {key} {bytes:>9} {} {}", at(*created_s), at(*used_s))
}

/// 1536 → 1.5 KiB.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B");
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_by_people() {
        let texts = [0, 1023, 1024, 1536, 5 << 20, 3 << 40].map(size);
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 TiB"]);
    }

    #[test]
    fn an_entry_is_a_line_with_its_times() {
        let entry = CacheEntry {
            kind: "slice".to_owned(),
            key: "ab".repeat(32),
            bytes: 4160,
            created_s: 1_767_225_600,
            used_s: 1_767_225_661,
        };
        let line = entry_line(&entry);
        assert!(line.ends_with("     4160 2026-01-01T00:00:00Z 2026-01-01T00:01:01Z"), "{line}");
    }
}
