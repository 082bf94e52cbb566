//! How earlier runs ended: three that did not end by themselves within ten minutes, and the next one
//! starts without trying the engine.
//!
//! An engine that hangs or loses its device ends the process, and systemd starts another. If that
//! repeats, systemd would either go on for ever or give up and leave the box dark. So each run leaves a
//! mark in the runtime folder, which systemd keeps over restarts and the kernel forgets at boot, and
//! takes it away only when it ends by itself. A crash, the watchdog's signal, exit 70 and the kernel's
//! memory killer all leave it.
//!
//! Invariants:
//! 1. Without a runtime folder, or with one that can't be written, nothing is ever held back.
//! 2. A hold ends by itself, by reload, or by a change of the engine's folder.

use rustix::time::{ClockId, clock_gettime};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Ends within this count together.
const WINDOW: Duration = Duration::from_secs(600);
/// So many are too many.
const MANY: usize = 3;
/// There while a daemon runs.
const RUNNING: &str = "running";
/// A line for every run that did not end by itself: seconds since boot.
const EXITS: &str = "exits";

/// This run's mark.
#[derive(Debug)]
pub struct Run {
    folder: Option<PathBuf>,
    broken_off: usize,
}

impl Run {
    /// In systemd's `$RUNTIME_DIRECTORY`, now.
    #[must_use]
    pub fn begin_here() -> Self {
        let folder = std::env::var_os("RUNTIME_DIRECTORY");
        let folder = folder.and_then(|list| std::env::split_paths(&list).next());
        // Since boot, as the folder is.
        let up = clock_gettime(ClockId::Boottime);
        Self::begin(folder.as_deref(), u64::try_from(up.tv_sec).unwrap_or(0))
    }

    /// Looks at what earlier runs left, and leaves this one's mark; `now` in seconds since boot.
    #[must_use]
    pub fn begin(folder: Option<&Path>, now: u64) -> Self {
        let Some(folder) = folder else { return Self { folder: None, broken_off: 0 } };
        let (running, exits) = (folder.join(RUNNING), folder.join(EXITS));
        let text = std::fs::read_to_string(&exits).unwrap_or_default();
        let lately = |at: &u64| *at <= now && now - at < WINDOW.as_secs();
        let mut ends: Vec<u64> =
            text.lines().filter_map(|line| line.parse().ok()).filter(lately).collect();
        if running.exists() {
            ends.push(now);
        }
        let lines: String = ends.iter().map(|at| format!("{at}\n")).collect();
        let written = std::fs::write(&exits, lines)
            .and_then(|()| std::fs::write(&running, std::process::id().to_string()));
        if let Err(error) = written {
            let folder = folder.display();
            tracing::warn!(
                "no mark of this run in {folder}, repeated crashes go unnoticed: {error}"
            );
        }
        Self { folder: Some(folder.to_owned()), broken_off: ends.len() }
    }

    /// Runs of the last ten minutes that did not end by themselves.
    #[must_use]
    pub fn broken_off(&self) -> usize {
        self.broken_off
    }

    /// Must the engine be left alone for now?
    #[must_use]
    pub fn hold(&self, revision: u64) -> Hold {
        let many = self.broken_off >= MANY;
        Hold {
            count: self.broken_off,
            until: many.then(|| Instant::now() + WINDOW),
            revision,
            released: AtomicBool::new(false),
        }
    }

    /// This run ends by itself.
    pub fn end(self) {
        if let Some(folder) = self.folder {
            let _ = std::fs::remove_file(folder.join(RUNNING));
        }
    }
}

/// Keeps the engine from being tried for a while.
#[derive(Debug)]
pub struct Hold {
    count: usize,
    until: Option<Instant>,
    revision: u64,
    released: AtomicBool,
}

impl Hold {
    /// Holds nothing back.
    #[must_use]
    pub fn none() -> Self {
        Self { count: 0, until: None, revision: 0, released: AtomicBool::new(false) }
    }

    /// Why the engine is not tried; none when it may be. `revision` is that of its folder.
    #[must_use]
    pub fn why(&self, revision: u64) -> Option<String> {
        let until = self.until?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || revision != self.revision || self.released.load(Ordering::Relaxed) {
            return None;
        }
        Some(format!(
            "{} runs within {} minutes did not end by themselves; the engine is tried again in at \
             most {} minutes, after a reload, or when its folder changes",
            self.count,
            WINDOW.as_secs() / 60,
            left.as_secs() / 60 + 1,
        ))
    }

    /// An operator wants it tried.
    pub fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_runs_that_were_broken_off_within_ten_minutes_hold_the_engine_back() {
        let folder = tempfile::tempdir().unwrap();
        let begin = |now| Run::begin(Some(folder.path()), now);
        for (now, expected) in [(1000, 0), (1100, 1), (1200, 2)] {
            let run = begin(now);
            assert_eq!(run.broken_off(), expected);
            assert_eq!(run.hold(0).why(0), None);
        }
        let hold = begin(1300).hold(7);
        assert!(hold.why(7).is_some_and(|why| why.contains("3 runs")));
        assert_eq!(hold.why(8), None, "the folder changed");
        hold.release();
        assert_eq!(hold.why(7), None, "released");
        let over = Hold { until: Some(Instant::now()), ..begin(1400).hold(7) };
        assert_eq!(over.why(7), None, "it ends by itself");
    }

    #[test]
    fn marks_that_make_no_sense_hold_nothing_back() {
        let folder = tempfile::tempdir().unwrap();
        // Times that are still to come, and no times.
        std::fs::write(folder.path().join(EXITS), "900\n901\n902\n-1\nnoon\n").unwrap();
        assert_eq!(Run::begin(Some(folder.path()), 800).broken_off(), 0);
    }

    #[test]
    fn runs_that_ended_by_themselves_or_long_ago_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let begin = |now| Run::begin(Some(folder.path()), now);
        for now in [10, 20, 30] {
            begin(now).end();
        }
        assert_eq!(begin(40).broken_off(), 0);
        assert_eq!(begin(50).broken_off(), 1);
        assert_eq!(begin(50 + WINDOW.as_secs()).broken_off(), 1, "only the run just before");
        assert_eq!(Run::begin(None, 50).broken_off(), 0);
    }
}
