//! The thread that owns the trail, and the handle that everybody else has.
//!
//! Records are written in the order in which they came, many at a time where many come, and are on
//! the disk before anybody who waits for them hears so.

use super::log::Log;
use super::record::{Event, Kind};
use super::syslog::Sender;
use super::{Options, WhenFull, dicom};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;

/// Records that may wait for the disk; each has under 1 kB.
const QUEUE: usize = 1024;
/// How long a record that nobody waits for lets others join it: a sync costs more than many records.
const GATHER: Duration = Duration::from_millis(20);
/// A disk that takes longer than this for one record is a disk that doesn't take it.
const PATIENCE: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);
/// How often old files are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// The record is not on the disk, and the work must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit trail can't be written")]
pub struct NotWritten;

/// Records what happens. Cheap to clone.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    queue: SyncSender<Job>,
    when_full: WhenFull,
    vitals: Arc<Vitals>,
    syslog: Option<Arc<AtomicBool>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Figures of the trail.
#[derive(Debug, Default)]
pub struct Vitals {
    /// Records on the disk.
    pub written: AtomicU64,
    /// Records that could not be written.
    pub lost: AtomicU64,
    /// Records that the collector did not get.
    pub unsent: AtomicU64,
    failing: AtomicBool,
}

enum Job {
    Write(Box<Event>, Option<oneshot::Sender<bool>>),
    Stop,
}

impl Audit {
    /// Opens the trail in this folder and starts its thread.
    ///
    /// # Errors
    /// When the trail or the collector's authority can't be opened: a box that should record and
    /// can't is not started.
    pub fn start(options: &Options, folder: &Path) -> io::Result<Self> {
        let (log, found) = Log::open(folder, options)?;
        let vitals = Arc::new(Vitals::default());
        let sender = match (&options.syslog, &options.syslog_ca) {
            (Some(address), Some(authority)) => Some(Sender::start(address, authority)?),
            _ => None,
        };
        let syslog = sender.as_ref().map(Sender::reached);
        let (queue, jobs) = sync_channel(QUEUE);
        let mut keeper = Keeper {
            log,
            sender,
            vitals: Arc::clone(&vitals),
            max_refusals: options.max_refusals_per_minute,
            minute: Instant::now(),
            refusals: 0,
            lost: 0,
            pruned: None,
        };
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            for event in &found {
                tracing::error!(found = event.detail, "the audit trail is not as it was left");
            }
            keeper.batch(found.into_iter().map(|event| (Box::new(event), None)).collect());
            keeper.run(&jobs);
        })?;
        Ok(Self(Arc::new(Inner {
            queue,
            when_full: options.when_full,
            vitals,
            syslog,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Its figures.
    #[must_use]
    pub fn vitals(&self) -> &Vitals {
        &self.0.vitals
    }

    /// May work begin that must be recorded?
    ///
    /// # Errors
    /// When the last record could not be written and `audit.when_full` is `stop`.
    pub fn may_work(&self) -> Result<(), NotWritten> {
        let failing = self.0.vitals.failing.load(Ordering::Relaxed);
        if failing && self.0.when_full == WhenFull::Stop { Err(NotWritten) } else { Ok(()) }
    }

    /// What the operator should hear.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.0.vitals.failing.load(Ordering::Relaxed) {
            let lost = self.0.vitals.lost.load(Ordering::Relaxed);
            warnings.push(format!(
                "the audit trail can't be written ({lost} records lost); see the log"
            ));
        }
        if self.0.syslog.as_ref().is_some_and(|reached| !reached.load(Ordering::Relaxed)) {
            warnings.push(
                "the audit collector (audit.syslog) can't be reached; see the log".to_owned(),
            );
        }
        warnings
    }

    /// Records something. With `audit.when_full = "stop"` it waits until that is on the disk.
    ///
    /// # Errors
    /// Only with `stop`: when it could not be written.
    pub async fn record(&self, event: Event) -> Result<(), NotWritten> {
        let (done, written) = oneshot::channel();
        let waits = self.0.when_full == WhenFull::Stop;
        let job = Job::Write(Box::new(event), waits.then_some(done));
        match self.0.queue.try_send(job) {
            Ok(()) if !waits => return Ok(()),
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.0.vitals.lost.fetch_add(1, Ordering::Relaxed);
                if !self.0.vitals.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!("the audit trail's disk is too slow: records are lost");
                }
                return if waits { Err(NotWritten) } else { Ok(()) };
            }
        }
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(true)) => Ok(()),
            _ => Err(NotWritten),
        }
    }

    /// Records something that nobody waits for.
    pub fn note(&self, event: Event) {
        if self.0.queue.try_send(Job::Write(Box::new(event), None)).is_err() {
            self.0.vitals.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!("the audit trail's disk is too slow: records are lost");
        }
    }

    /// Writes what still waits, and ends. Blocking.
    pub fn finish(&self) {
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = self.0.queue.send(Job::Stop);
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("vitals", &self.0.vitals).finish_non_exhaustive()
    }
}

/// What the thread has.
struct Keeper {
    log: Log,
    sender: Option<Sender>,
    vitals: Arc<Vitals>,
    max_refusals: u32,
    minute: Instant,
    refusals: u32,
    /// Lost since writing last worked.
    lost: u64,
    pruned: Option<Instant>,
}

type Waiting = (Box<Event>, Option<oneshot::Sender<bool>>);

impl Keeper {
    fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            let mut batch: Vec<Waiting> = Vec::new();
            let mut stop = false;
            match jobs.recv_timeout(MINUTE) {
                Ok(Job::Write(event, done)) => {
                    if done.is_none() {
                        std::thread::sleep(GATHER);
                    }
                    batch.push((event, done));
                }
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => stop = true,
                Err(RecvTimeoutError::Timeout) => {}
            }
            while !stop && batch.len() < QUEUE {
                match jobs.try_recv() {
                    Ok(Job::Write(event, done)) => batch.push((event, done)),
                    Ok(Job::Stop) => stop = true,
                    Err(_) => break,
                }
            }
            self.housekeeping(&mut batch);
            self.batch(batch);
            if stop {
                if let Some(sender) = self.sender.take() {
                    sender.finish();
                }
                return;
            }
        }
    }

    /// Adds the trail's own records.
    fn housekeeping(&mut self, batch: &mut Vec<Waiting>) {
        if self.minute.elapsed() >= MINUTE {
            let more = self.refusals.saturating_sub(self.max_refusals);
            if more > 0 {
                let text = format!("{more} more refusals within a minute");
                batch.insert(0, (Box::new(Event::own(Kind::Trail, text)), None));
            }
            (self.minute, self.refusals) = (Instant::now(), 0);
        }
        if self.pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
            self.pruned = Some(Instant::now());
            match self.log.prune(SystemTime::now()) {
                Ok(None) => {}
                Ok(Some(event)) => batch.push((Box::new(event), None)),
                Err(error) => tracing::warn!(%error, "old audit files can't be removed"),
            }
        }
    }

    /// Writes a batch, syncs it, and says so to those who wait.
    fn batch(&mut self, batch: Vec<Waiting>) {
        let mut waiting = Vec::new();
        let mut failed = None;
        for (event, done) in batch {
            let refusal = matches!(event.kind, Kind::Refusal | Kind::LoginFailure);
            if refusal {
                self.refusals = self.refusals.saturating_add(1);
            }
            let written = if refusal && self.refusals > self.max_refusals {
                Ok(())
            } else {
                self.write(&event)
            };
            match written {
                Ok(()) => waiting.extend(done),
                Err(error) => {
                    failed = Some(error);
                    self.lost += 1;
                    self.vitals.lost.fetch_add(1, Ordering::Relaxed);
                    if let Some(done) = done {
                        let _ = done.send(false);
                    }
                }
            }
        }
        if let Err(error) = self.log.sync() {
            failed = Some(error);
        }
        let good = failed.is_none();
        let before = self.vitals.failing.swap(!good, Ordering::Relaxed);
        match failed {
            Some(error) if !before => tracing::error!(%error, "the audit trail can't be written"),
            None if before => tracing::warn!("the audit trail is written again"),
            _ => {}
        }
        for done in waiting {
            let _ = done.send(good);
        }
    }

    /// Writes one record; before it, that others were lost.
    fn write(&mut self, event: &Event) -> io::Result<()> {
        if self.lost > 0 {
            let text = format!("{} records could not be written", self.lost);
            let gap = Event { outcome: "lost".to_owned(), ..Event::own(Kind::Trail, text) };
            self.put(&gap)?;
            self.lost = 0;
        }
        self.put(event)
    }

    fn put(&mut self, event: &Event) -> io::Result<()> {
        let record = self.log.append(event)?;
        self.vitals.written.fetch_add(1, Ordering::Relaxed);
        if self.sender.as_ref().is_some_and(|sender| !sender.send(dicom::message(&record))) {
            self.vitals.unsent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::path;
    use super::super::verify::verify;
    use super::*;

    fn event(n: u32) -> Event {
        Event::own(Kind::Segment, format!("{n}"))
    }

    fn options(when_full: WhenFull) -> Options {
        Options { when_full, ..Options::default() }
    }

    /// A trail whose disk is full: the first file is a link to the device that always is.
    fn full(folder: &Path) {
        std::os::unix::fs::symlink("/dev/full", path(folder, 1)).unwrap();
    }

    #[tokio::test]
    async fn what_was_recorded_is_on_the_disk_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::start(&options(WhenFull::Stop), folder.path()).unwrap();
        for n in 0..300 {
            audit.record(event(n)).await.unwrap();
        }
        let report = verify(folder.path()).unwrap();
        assert_eq!((report.records, &*report.faults), (300, &[][..]));
        assert_eq!(audit.warnings(), Vec::<String>::new());
        let second = Audit::start(&options(WhenFull::Stop), folder.path());
        assert!(second.is_err(), "two writers would break the chain");
        audit.finish();
    }

    #[tokio::test]
    async fn a_full_disk_stops_the_work_or_lets_it_go_on_and_is_said_either_way() {
        for (when_full, stops) in [(WhenFull::Stop, true), (WhenFull::Go, false)] {
            let folder = tempfile::tempdir().unwrap();
            full(folder.path());
            let audit = Audit::start(&options(when_full), folder.path()).unwrap();
            assert_eq!(audit.record(event(1)).await.is_err(), stops);
            let began = Instant::now();
            while audit.warnings().is_empty() && began.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(audit.warnings()[0].contains("can't be written"), "{:?}", audit.warnings());
            assert_eq!(audit.may_work().is_err(), stops);
            assert_eq!(audit.vitals().lost.load(Ordering::Relaxed), 1);
            // Somebody made room.
            std::fs::remove_file(path(folder.path(), 1)).unwrap();
            audit.record(event(2)).await.unwrap();
            audit.finish();
            assert_eq!(audit.warnings(), Vec::<String>::new());
            assert!(audit.may_work().is_ok());
            let report = verify(folder.path()).unwrap();
            assert_eq!(report.notes, ["1 records could not be written"]);
            assert_eq!((report.records, &*report.faults), (2, &[][..]));
        }
    }

    #[tokio::test]
    async fn a_head_that_can_t_be_written_is_a_trail_that_can_t() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::start(&options(WhenFull::Stop), folder.path()).unwrap();
        audit.record(event(1)).await.unwrap();
        // In the way of the file that is to become the head.
        std::fs::create_dir(folder.path().join("head.new")).unwrap();
        assert_eq!(audit.record(event(2)).await, Err(NotWritten));
        assert!(audit.may_work().is_err());
        std::fs::remove_dir(folder.path().join("head.new")).unwrap();
        audit.record(event(3)).await.unwrap();
        assert!(audit.may_work().is_ok());
        audit.finish();
        let report = verify(folder.path()).unwrap();
        assert_eq!((report.records, &*report.faults), (3, &[][..]));
    }

    #[tokio::test]
    async fn a_flood_of_refusals_is_counted_and_not_written_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { max_refusals_per_minute: 10, ..options(WhenFull::Stop) };
        let audit = Audit::start(&options, folder.path()).unwrap();
        for _ in 0..50 {
            let refusal = Event { kind: Kind::Refusal, ..event(0) };
            audit.record(refusal).await.unwrap();
        }
        audit.record(event(1)).await.unwrap();
        audit.finish();
        assert_eq!(verify(folder.path()).unwrap().records, 11);
    }
}
